"""A run goes on where it stopped, skips what is finished, redoes what is not, and always ends in the same bytes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.simulate import WorldParams, write_archive
from tests.jobs.calls import Job, mangroves, markers, trees

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("cube", "sample", "train", "classify", "change")


def times(run: Path) -> dict[str, int]:
    """Return when every file of a run was last written, apart from what tells of the work."""
    telling = {"run.json", "driver.json", "progress.json", "metrics.prom", "run.log"}
    files = (path for path in run.rglob("*") if path.is_file() and path.name not in telling)
    return {path.relative_to(run).as_posix(): path.stat().st_mtime_ns for path in files}


def same(run: Path, other: Path) -> bool:
    """Tell whether two runs have the same maps and the same trees."""
    return len(markers(run)) == 12 and markers(run) == markers(other) and trees(run) == trees(other)


def test_a_second_run_skips_everything_says_so_and_rewrites_nothing(finished):
    before = times(finished.run)
    answer = finished.call("run", "--json")
    assert answer.code == 0
    for stage, said in {
        "search": "15 scenes, frozen by an earlier command",
        "cube": "4 of 4 tile-years finished earlier, skipped",
        "sample": "4 of 4 tile-years finished earlier, skipped",
        "train": "model finished earlier, skipped",
        "classify": "4 of 4 tile-years finished earlier, skipped",
        "change": "2 of 2 tile-years finished earlier, skipped",
    }.items():
        assert f"{stage:<9} {said}" in answer.err.splitlines()
    assert times(finished.run) == before
    assert [session["status"] for session in finished.record["sessions"]][-2:] == ["finished", "finished"]
    assert finished.record["stages"]["cube"]["counts"] == {"done": 0, "skipped": 4}


def test_what_is_missing_is_made_again_and_nothing_else(finished_copy, finished):
    run = finished_copy.run
    tile, other = sorted(path.name for path in (run / "cube").iterdir())
    (run / "cube" / tile / "2016.json").unlink()  # a store that was not finished
    (run / "maps" / "2017" / f"{other}.json").unlink()
    (run / "change" / "2016-2017" / f"change_{other}_2016-2017.tif").unlink()
    (run / "sample" / f"{other}_2016.parquet").unlink()
    # The record knows the folder of the run by its configuration, and a copy has another.
    answer = finished_copy.call("run")
    assert answer.code == 0, answer.err
    counts = {stage: finished_copy.record["stages"][stage]["counts"] for stage in ("cube", "classify", "change")}
    assert counts["cube"] == {"done": 1, "skipped": 3}
    assert counts["classify"] == {"done": 1, "skipped": 3}
    assert counts["change"] == {"done": 1, "skipped": 1}
    assert "sample    3 of 4 tile-years finished earlier" in answer.err
    assert "model finished earlier, skipped" in answer.err
    assert same(run, finished.run)


def test_a_flipped_bit_in_a_cube_is_one_line_that_says_what_to_do(finished_copy, finished):
    run = finished_copy.run
    (store,) = (run / "cube").glob("z45*/2017.zarr")
    shard = store / "composite" / "c" / "0" / "0" / "0"
    damaged = bytearray(shard.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    shard.write_bytes(damaged)
    for path in (run / "sample").glob("z45*_2017.json"):
        path.unlink()
    line = finished_copy.call("run").error
    assert f"{store} is damaged" in line
    assert "delete it and run the same command again" in line
    for path in sorted(store.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    store.rmdir()
    assert finished_copy.call("run").code == 0
    assert same(run, finished.run)


def test_parts_of_an_earlier_draw_are_not_trained_on(finished_copy):
    stray = finished_copy.run / "sample" / "z45_c99_r-040_2016.parquet"
    stray.write_bytes(next((finished_copy.run / "sample").glob("*.parquet")).read_bytes())
    assert finished_copy.call("train").code == 0
    assert not stray.exists()


def kill_after(job: Job, count: int) -> int:
    """Run a job in a process of its own and kill it, as hard as can be, once some completion markers stand."""
    command = [sys.executable, "-m", "jobs", *job.arguments("run")]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, cwd=ROOT, stdout=quiet, stderr=quiet, start_new_session=True) as going:
        while going.poll() is None and count_markers(job.run) < count:
            time.sleep(0.005)
        os.kill(going.pid, signal.SIGKILL)
    return going.returncode


def count_markers(run: Path) -> int:
    found = [p for kind in ("cube", "sample", "maps", "change") for p in (run / kind).glob("**/z*.json")]
    found += (run / "cube").glob("*/*.json")
    found += (run / "model").glob("meta.json")
    return sum(path.name != "zarr.json" and path.name[0] != "." for path in found)


@pytest.mark.long
def test_a_run_killed_again_and_again_ends_as_one_never_disturbed(job, finished):
    """A few times, between whole stages; R5 of tests/faults kills within each, on a cluster of processes."""
    killed = [kill_after(job, count) for count in (3, 9, 13)]
    assert killed.count(-signal.SIGKILL) >= 2
    assert job.record["status"] == "running"
    answer = job.call("run")
    assert answer.code == 0, answer.err
    assert "finished earlier, skipped" in answer.err
    assert same(job.run, finished.run)
    assert not [path for path in job.run.rglob("*") if ".part" in path.name and not path.name.startswith(".")]


@pytest.mark.timeout(1200)
@pytest.mark.long
def test_maps_and_trees_do_not_depend_on_cluster_workers_or_blocks(tmp_path):
    archive = write_archive(
        WorldParams(
            regions=("Vietnam2", "India"),
            years=(2016, 2017),
            size_px=272,
            scenes_per_year=4,
            mask_years=(2015, 2018),
        ),
        tmp_path / "archive",
    )
    profiles = tmp_path / "profiles.yaml"
    profiles.write_text(
        "profiles: {one: {kind: local, workers: 1}, two: {kind: local, workers: 2}, threads: {kind: threads}}"
    )
    found = {}
    for name, cluster, more in [
        ("threads", "threads", {}),
        ("one", "one", {}),
        ("blocks", "threads", {"cube": {"block_px": 256}}),
        ("spread", "two", {"train": {"distributed": "yes"}}),
    ]:
        (tmp_path / name).mkdir()
        job = Job(tmp_path / name, archive)
        for section, values in more.items():
            job.config[section] = {**job.config.get(section, {}), **values}
        answer = mangroves(
            *job.arguments("run", "--cluster-file", profiles, "--allow-plain-collective", cluster=cluster)
        )
        assert answer.code == 0, answer.err
        found[name] = json.dumps([markers(job.run), trees(job.run)])
    assert len(set(found.values())) == 1, found


def test_an_interrupted_run_says_how_to_go_on(job, monkeypatch):
    def stop(*_arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("jobs.steps.fit_model", stop)
    answer = job.call("run")
    assert answer.code == 130
    assert answer.err.splitlines()[-1] == "stopped; the same command goes on from what is finished"
    assert job.record["status"] == "interrupted"
