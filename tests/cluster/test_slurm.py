"""The same map from workers that are SLURM jobs, some of them lost, and of a driver that is killed, or a job itself."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from jobs.driver import job_name
from tests.cluster.conftest import Deployed, made
from tests.cluster.services import await_true, slurm
from tests.jobs.calls import markers

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def node() -> Iterator[dict[str, str]]:
    with slurm() as env:
        yield env


@pytest.fixture
def submitted(deployed: Deployed, node: Mapping[str, str]) -> Iterator[Deployed]:
    """A run whose workers come and go as SLURM jobs, not begun; nothing of it stays in the queue."""
    deployed.env = {**deployed.env, "SLURM_CONF": node["SLURM_CONF"]}
    deployed.profile = {
        "kind": "slurm",
        "queue": "main",
        "walltime": "00:30:00",
        "memory_limit": "2GiB",
        "threads_per_worker": 1,
        "interface": "lo",
        "adapt": {"minimum": 1, "maximum": 2},
        "log_directory": str(deployed.job.folder / "jobs"),
    }
    yield deployed
    asked(deployed, "scancel", "--user=root")
    await_true(lambda: not jobs(deployed), "the queue is empty")


def asked(deployed: Deployed, *command: str) -> str:
    """Return what a command of SLURM prints."""
    done = subprocess.run(command, env=dict(deployed.env), capture_output=True, text=True, timeout=30, check=True)
    return done.stdout


def jobs(deployed: Deployed, state: str = "pending,running,completing", name: str = "dask-worker") -> list[str]:
    """Return the ids of jobs of a name."""
    return asked(deployed, "squeue", "--noheader", f"--states={state}", f"--name={name}", "--format=%A").split()


def cubes(deployed: Deployed) -> int:
    return len(list((deployed.job.run / "cube").rglob("*.zarr")))


def test_a_worker_s_job_is_cancelled_and_the_driver_killed(submitted: Deployed, reference: dict[str, str]) -> None:
    """One run: cancel a worker's job amid the cubes, then kill the driver, and resume."""
    with submitted.start("run") as driver:
        try:
            await_true(lambda: cubes(submitted) >= 1, "a cube is begun", 120)
            (victim, *_) = jobs(submitted, "running")
            asked(submitted, "scancel", victim)
            await_true(lambda: victim not in jobs(submitted, "running"), "the job has ended")
            await_true(lambda: (submitted.job.run / "sample").is_dir(), "the cubes are done without it", 200)
        finally:
            driver.kill()
            _, said = driver.communicate()
    assert "Traceback" not in said, said
    cubes_made = [submitted.job.run / name for name in markers(submitted.job.run)]
    finished = {path: path.stat().st_mtime_ns for path in cubes_made}
    assert len(finished) >= 4
    asked(submitted, "scancel", "--user=root")
    submitted.call("run")
    assert made(submitted.job.run) == reference
    assert {path: path.stat().st_mtime_ns for path in finished} == finished, "cubes were kept"


def test_a_driver_that_is_a_job_is_watched_cancelled_and_resumed(
    submitted: Deployed, reference: dict[str, str]
) -> None:
    submitted.call("run", "--detach")
    run = submitted.job.run
    assert json.loads((run / "driver.json").read_text())["kind"] == "slurm"
    await_true(lambda: cubes(submitted) >= 1, "a cube is begun", 200)
    assert "slurm job" in told(submitted, "status", run)
    told(submitted, "cancel", run)
    await_true(lambda: not jobs(submitted) and not jobs(submitted, name=job_name(run)), "all its jobs ended")
    assert not (run / "change").exists()
    told(submitted, "resume", run, "--cluster-file", submitted.job.folder / "cluster.yaml", "--cluster", "here")
    assert made(run) == reference


def told(deployed: Deployed, *words: str | Path) -> str:
    """Return what a command on a run's folder prints."""
    program = deployed.arguments("run")[:4]
    roots = ("--allow-root", str(deployed.job.archive.items.parent))
    more = roots if words[0] != "cancel" else ()
    command = [*program, *map(str, words), *more]
    going: dict[str, Any] = {"cwd": deployed.job.folder, "env": dict(deployed.env), "timeout": 280}
    done = subprocess.run(command, capture_output=True, text=True, check=False, **going)
    assert done.returncode == 0, done.stderr
    return done.stdout
