"""A run is resumed with something else than it was begun with: refused in one line, and nothing is touched."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.faults.promises import Promises
from tests.faults.runs import ROOT, STAGES, Undisturbed, names, prepared
from tests.jobs.calls import Job

SETTINGS = {
    "seed": 7,
    "years": [2016],
    "cube.composite": "geomedian",
    "search.max_cloud": 50,
    "labels.erode_px": 2,
    "sample.mangrove": 31,
    "train.rounds": 5,
    "train.hold_out": ["sim-Vietnam2"],
    "classify.threshold": 0.4,
}


def unchanged(run: Path) -> dict[str, int]:
    return {name: (run / name).stat().st_mtime_ns for name in names(run)}


def refusal(job: Job, *more: str) -> str:
    """Return the one line in which a resume is refused, after checking that it changed nothing."""
    before = unchanged(job.run)
    line = job.call("run", *more).error
    assert unchanged(job.run) == before
    assert "--fresh" in line
    return line


def edit_record(job: Job, edit: Callable[[dict], object]) -> None:
    record = job.record
    edit(record)
    (job.run / "run.json").write_text(json.dumps(record))


def test_a_resume_with_another_configuration_is_refused(
    small_run: Undisturbed, tmp_path: Path, promise: Promises
) -> None:
    job = prepared(STAGES[-1], small_run, tmp_path)
    for key, value in SETTINGS.items():
        with promise("R9", f"{key} changed"):
            assert f"made with another configuration (differs in: {key})" in refusal(
                job, "--set", f"{key}={json.dumps(value)}"
            )


def test_a_resume_over_another_area_is_refused(small_run: Undisturbed, tmp_path: Path, promise: Promises) -> None:
    job = prepared(STAGES[-1], small_run, tmp_path)
    area = json.loads(job.archive.regions.read_text())
    area["features"] = area["features"][:1]
    (tmp_path / "area.geojson").write_text(json.dumps(area))
    job.config["area"]["file"] = str(tmp_path / "area.geojson")
    with promise("R9", "area changed"):
        assert "differs in: area.file, area.sha256" in refusal(job)


@pytest.mark.parametrize("change", ["a scene fewer", "a scene twice"])
def test_a_resume_with_other_items_is_refused(
    small_run: Undisturbed, tmp_path: Path, promise: Promises, change: str
) -> None:
    job = prepared(STAGES[-1], small_run, tmp_path)
    frozen = job.run / "items.parquet"
    table = pq.read_table(frozen)
    rows = range(1, len(table)) if change == "a scene fewer" else [0, *range(len(table))]
    frozen.unlink()  # it is a link to that of the undisturbed run
    pq.write_table(table.take(list(rows)), frozen)
    with promise("R9", change):
        assert f"{frozen} is not the item list this run froze" in refusal(job)


def test_a_resume_under_other_code_is_refused(small_run: Undisturbed, tmp_path: Path, promise: Promises) -> None:
    job = prepared(STAGES[-1], small_run, tmp_path)
    recorded = job.record["sessions"][-1]["versions"]["engine_sha256"]
    faults = {
        "another version": lambda versions: versions.update(mangroves="0.0.1"),
        "other source": lambda versions: versions.update(mangroves=mine, engine_sha256="0" * 64),
        "source not recorded": lambda versions: versions.pop("engine_sha256"),
    }
    mine = job.record["sessions"][-1]["versions"]["mangroves"]
    for fault, edit in faults.items():
        edit_record(job, lambda record, edit=edit: edit(record["sessions"][-1]["versions"]))
        with promise("R9", fault):
            line = refusal(job)
            assert ("made with mangroves 0.0.1" if fault == "another version" else "made by other code") in line
    edit_record(job, lambda record: record["sessions"][-1]["versions"].update(engine_sha256=recorded))
    assert job.call("cube").code == 0  # by the same code it goes on


@pytest.mark.faults
def test_a_resume_by_an_edited_engine_is_refused(small_run: Undisturbed, tmp_path: Path, promise: Promises) -> None:
    """One character in a kernel, which no version tells."""
    job = prepared(STAGES[-1], small_run, tmp_path)
    for package in ("engine", "jobs"):
        shutil.copytree(ROOT / package, tmp_path / "other" / package, ignore=shutil.ignore_patterns("__pycache__"))
    kernel = tmp_path / "other" / "engine" / "kernels" / "indices.py"
    kernel.write_text(kernel.read_text() + "#")
    before = unchanged(job.run)
    with promise("R9", "a kernel edited"):
        done = subprocess.run(
            [sys.executable, "-m", "jobs", *job.arguments("run")],
            cwd=tmp_path / "other",
            env={**os.environ, "PYTHONPATH": str(tmp_path / "other")},
            capture_output=True,
            text=True,
            check=False,
            timeout=250,
        )
        assert done.returncode == 1, done.stderr
        assert done.stderr.splitlines()[-1].startswith(f"error: run {job.run} was made by other code")
        assert "Traceback" not in done.stderr
        assert unchanged(job.run) == before
