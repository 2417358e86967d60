"""R10: the same trees on any number of workers, and where training was killed and gone on with."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine import boost, checkpoints
from engine.simulate import WorldParams, write_archive
from tests.faults import training
from tests.jobs.calls import Job, trees

ROOT = Path(__file__).resolve().parents[2]

FIT = """
import sys
from pathlib import Path
from engine import checkpoints
checkpoints.SECONDS = 0.0
from tests.faults import training
training.fitted(checkpoints=Path(sys.argv[1]))
"""

COMMAND = """
import sys
from engine import checkpoints
checkpoints.SECONDS = 0.0
from jobs.cli import main
main(sys.argv[1:])
"""


@pytest.fixture(autouse=True)
def after_every_round(monkeypatch):
    monkeypatch.setattr(checkpoints, "SECONDS", 0.0)


@pytest.fixture(scope="module")
def expected():
    return training.fitted().tree_sha256()


def start(program, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "passive"}
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def kill_when(process, reached):
    """SIGKILL a process once a condition holds; return False if it ended before."""
    until = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < until:
        if reached():
            process.send_signal(signal.SIGKILL)
            process.wait()
            return True
        time.sleep(0.002)
    process.kill()
    process.wait()
    return False


@pytest.mark.slow
def test_a_fit_whose_process_was_killed_goes_on_to_the_same_trees(promise, expected, tmp_path, monkeypatch):
    with promise("R10", "the process killed at round 20"):
        assert kill_when(start(FIT, tmp_path), lambda: max(training.rounds_kept(tmp_path).values(), default=0) >= 20)
        (kept,) = training.rounds_kept(tmp_path).values()
        counted = []
        gradients = boost.logistic_gradients
        monkeypatch.setattr(boost, "logistic_gradients", lambda *args: counted.append(1) or gradients(*args))
        assert training.fitted(checkpoints=tmp_path).tree_sha256() == expected
        assert 20 <= kept < training.ROUNDS
        assert len(counted) == training.ROUNDS - kept  # the round that was in flight alone is grown twice


@pytest.mark.faults
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_any_number_of_workers_gives_the_same_trees_and_after_a_kill(count, promise, expected, tmp_path):
    with training.workers(count) as client:
        for distributed in ("no", "yes"):
            with promise("R10", f"{count} workers, {distributed=}"):
                assert training.fitted(client, distributed=distributed).tree_sha256() == expected
            for rounds in (1, 30):
                folder = tmp_path / f"{distributed}-{rounds}"
                with promise("R10", f"{count} workers, {distributed=}, one killed at round {rounds}"):
                    client.wait_for_workers(count, timeout=120)
                    killer = training.Killer(client, folder, rounds)
                    watch = training.when_grown(folder, rounds, killer)
                    found = training.fitted(client, distributed=distributed, checkpoints=folder).tree_sha256()
                    watch.join(60)
                    assert 0 <= killer.rounds < training.ROUNDS, f"killed at round {killer.rounds}: too late"
                    assert found == expected


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_a_killed_command_goes_on_and_fits_nothing_twice(promise, tmp_path):
    world = WorldParams(
        regions=("Vietnam2", "India"), years=(2016, 2017), size_px=128, scenes_per_year=4, mask_years=(2015, 2018)
    )
    archive = write_archive(world, tmp_path / "archive")
    undisturbed, killed = Job(tmp_path / "undisturbed", archive), Job(tmp_path / "killed", archive)
    for job in (undisturbed, killed):
        job.folder.mkdir()
        job.config["train"] |= {"rounds": 150, "folds": 3}
    assert undisturbed.call("train").code == 0
    assert killed.call("sample").code == 0
    folder = killed.run / "model" / "checkpoints"
    before: dict[Path, int] = {}
    for finished in (0, 1, 3):
        with promise("R10", f"the command killed in fit {finished + 1}"):

            def is_due(finished=finished):
                kept = sorted(training.rounds_kept(folder).values())
                return len(kept) > finished and min(kept) >= 40

            assert kill_when(start(COMMAND, *killed.arguments("train")), is_due), "it ended before it was killed"
            for path, written in before.items():
                assert path.stat().st_mtime_ns == written, "a finished fit was made again"
            kept = training.rounds_kept(folder)
            before = {path: path.stat().st_mtime_ns for path, rounds in kept.items() if rounds == 150}
            assert len(before) >= finished
    with promise("R10", "the command run to its end after three kills"):
        assert killed.call("train").code == 0
        assert trees(killed.run) == trees(undisturbed.run)
        bands = [(job.run / "model" / "bands" / "model.json").read_bytes() for job in (undisturbed, killed)]
        assert bands[0] == bands[1]
        assert not folder.exists()
