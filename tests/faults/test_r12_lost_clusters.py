"""A scheduler that dies, a worker that is out of memory, one of another version: an error with its fix in 30 s."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from engine import cluster, launch
from engine.cluster import check_software, open_cluster, run_bounded
from engine.errors import ClusterError
from tests.jobs.calls import mangroves
from tests.jobs.conftest import archive, job  # noqa: F401
from tests.jobs.test_workers import await_files, await_workers, free_port, over, scheduler, worker

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 30


@contextmanager
def within(seconds: float = SECONDS) -> Iterator[None]:
    """Fail what takes longer."""
    begun = time.monotonic()
    yield
    taken = time.monotonic() - begun
    assert taken < seconds, f"took {taken:.1f} s"


@contextmanager
def process(*command: str | Path, folder: Path = ROOT, path: str = "") -> Iterator[subprocess.Popen[bytes]]:
    """Run a command with a ``PYTHONPATH`` of its own before ours, and end it."""
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (path, str(ROOT))))}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    running = subprocess.Popen([str(part) for part in command], cwd=folder, env=variables, **quiet)
    try:
        yield running
    finally:
        running.kill()
        running.wait()


def another_engine(folder: Path, file: str, old: str, new: str) -> Path:
    """Return a folder with a copy of the engine that differs in one place."""
    shutil.copytree(ROOT / "engine", folder / "engine", ignore=shutil.ignore_patterns("__pycache__"))
    path = folder / "engine" / file
    assert old in path.read_text(encoding="utf-8")
    path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    return folder


def another_numpy(folder: Path) -> Path:
    """Return a folder whose metadata say another numpy is installed."""
    (folder / "numpy-1.0.1.dist-info").mkdir(parents=True)
    (folder / "numpy-1.0.1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 1.0.1\n")
    return folder


# Without processes


def test_a_scheduler_that_is_not_there_is_told(promise, tmp_path, monkeypatch):
    for module in (cluster, launch):
        monkeypatch.setattr(module, "REACH_SECONDS", 2)
    (tmp_path / "p.yaml").write_text(f"profiles: {{a: {{kind: address, address: 'tcp://127.0.0.1:{free_port()}'}}}}")
    with promise("R12", "no scheduler at the address"), within(5):
        expected = r"scheduler tcp://\S+ cannot be reached \(Connection refused\); see that the scheduler runs there"
        with pytest.raises(ClusterError, match=expected), open_cluster("a", tmp_path / "p.yaml"):
            pass


def test_a_task_on_other_software_is_refused(promise, monkeypatch):
    with open_cluster("threads") as client, promise("R12", "task on a worker of another numpy"), within(5):
        theirs = cluster.software() | {"numpy": "1.0.1"}
        monkeypatch.setattr(cluster, "software", lambda: theirs)
        submitted = client.submit(cluster._call, theirs | {"numpy": np.__version__}, abs, -1)
        with pytest.raises(ClusterError, match=r"of other software \(numpy 1\.0\.1, here \d.*install the same"):
            submitted.result()


# With real ones


@pytest.mark.faults
def test_a_scheduler_killed_in_the_middle_is_told_in_time(promise, job, tmp_path):  # noqa: F811
    for fault in ("killed", "killed with its worker"):
        shutil.rmtree(job.run, ignore_errors=True)
        with scheduler(tmp_path) as (address, profiles, running), process(*worker(address, tmp_path / "s")) as working:
            await_workers(address, 1)
            command = [sys.executable, "-m", "jobs", *over(job, profiles, "run")]
            with (
                subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as going,
                promise("R12", f"scheduler {fault} in the middle of a run"),
            ):
                await_files(job.run / "cube", 1)
                running.kill()
                if fault != "killed":
                    working.kill()
                with within():
                    _, said = going.communicate(timeout=120)
                assert going.returncode == 1, said
                assert "Traceback" not in said
                assert said.splitlines()[-1].startswith("error: the cluster of profile 'there' was lost"), said
                assert "; see to its scheduler and workers, then run the same command again" in said.splitlines()[-1]


@pytest.mark.faults
def test_a_scheduler_that_answers_nobody_is_told_in_time(promise, tmp_path):
    with scheduler(tmp_path) as (_, profiles, running):
        running.send_signal(signal.SIGSTOP)
        try:
            with (
                promise("R12", "scheduler stopped before the run"),
                within(),
                pytest.raises(ClusterError, match=r"cannot be reached \(it does not answer\); see to the scheduler"),
                open_cluster("there", profiles),
            ):
                pass
        finally:
            running.send_signal(signal.SIGCONT)


@pytest.mark.faults
def test_a_scheduler_without_workers_is_told_in_time(promise, tmp_path):
    with (
        scheduler(tmp_path) as (_, profiles, _),
        promise("R12", "scheduler without workers"),
        within(),
        pytest.raises(ClusterError, match=r"has no worker after 1\d s\); see to its workers"),
        open_cluster("there", profiles),
    ):
        pass


@pytest.mark.faults
def test_a_worker_out_of_memory_is_told_in_time(promise, tmp_path):
    (tmp_path / "small.yaml").write_text("profiles: {a: {kind: local, workers: 1, memory_limit: 500MB}}")
    with (
        promise("R12", "a task that needs more memory than its worker has"),
        pytest.raises(ClusterError, match=r"worker tcp://127.* died, .*out of memory: raise memory_limit"),
        open_cluster("a", tmp_path / "small.yaml") as client,
        within(),
    ):
        list(run_bounded(client, np.ones, [(2 * 10**8,)]))


@pytest.mark.faults
@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("engine", r"worker tcp://\S+ is of other software \(engine \w{12}, here \w{12}\)"),
        ("version", r"\(mangroves 0\.0\.9, here 0\.1\.0; engine"),
        ("numpy", r"is of other software \(numpy 1\.0\.1, here"),
        ("scheduler", r"the scheduler is of other software \(engine"),
    ],
)
def test_other_software_is_told_before_work(promise, job, tmp_path, fault, expected):  # noqa: F811
    if fault == "numpy":
        other = another_numpy(tmp_path / "other")
    elif fault == "version":
        other = another_engine(tmp_path / "other", "__init__.py", '__version__ = "0.1.0"', '__version__ = "0.0.9"')
    else:
        other = another_engine(tmp_path / "other", "landsat.py", "from __future__", "# Changed.\nfrom __future__")
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    (tmp_path / "p.yaml").write_text(f"profiles: {{there: {{kind: address, address: '{address}'}}}}")
    options = ("--host", "127.0.0.1", "--port", str(port), "--no-dashboard")
    there = (sys.executable, "-m", "distributed.cli.dask_scheduler", *options)
    of_scheduler, of_worker = (str(other), "") if fault == "scheduler" else ("", str(other))
    with (
        process(*there, folder=tmp_path, path=of_scheduler),
        process(*worker(address, tmp_path / "s"), folder=tmp_path, path=of_worker),
        promise("R12", f"other software: {fault}"),
    ):
        await_workers(address, 1)
        with within():
            line = mangroves(*over(job, tmp_path / "p.yaml")).error
        assert re.search(expected, line), line
        assert "; install the same mangroves" in line
        assert not list(job.run.rglob("*.zarr"))


@pytest.mark.faults
def test_a_worker_of_other_code_that_comes_late_is_told(promise, tmp_path):
    other = another_engine(tmp_path / "other", "landsat.py", "from __future__", "# Changed.\nfrom __future__")
    with (
        scheduler(tmp_path) as (address, profiles, _),
        process(*worker(address, tmp_path / "a")),
        open_cluster("there", profiles) as client,
        promise("R12", "other code on a worker that came late"),
    ):
        check_software(client)
        late = process(*worker(address, tmp_path / "b"), folder=tmp_path, path=str(other))
        with late, within(), pytest.raises(ClusterError, match=r"is of other software \(engine \w+, here"):
            list(run_bounded(client, time.sleep, [(0.2,)] * 300))
