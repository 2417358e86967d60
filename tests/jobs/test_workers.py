"""The command line with real worker processes: quiet when they fail, honest when they cannot see the output."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psutil
import pytest

from engine import cluster
from tests.jobs.calls import Job, mangroves

ROOT = Path(__file__).resolve().parents[2]
MAY_UNSHARE = (
    bool(shutil.which("unshare"))
    and not subprocess.run(
        ["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False
    ).returncode
)
needs_a_view_of_its_own = pytest.mark.skipif(not MAY_UNSHARE, reason="needs the right to mount in a namespace")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def process(*command: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command beside the test, and end it."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    running = subprocess.Popen([str(part) for part in command], cwd=ROOT, **quiet)
    try:
        yield running
    finally:
        running.kill()
        running.wait()


@contextmanager
def scheduler(folder: Path) -> Iterator[tuple[str, Path, subprocess.Popen[bytes]]]:
    """Start a scheduler on loopback; yield its address, a file with the profile ``there``, and its process."""
    address = f"tcp://127.0.0.1:{free_port()}"
    body = f"profiles: {{there: {{kind: address, address: '{address}'}}}}\n"
    (folder / "profiles.yaml").write_text(body)
    options = ("--host", "127.0.0.1", "--port", address.rsplit(":", 1)[1], "--no-dashboard")
    with process(sys.executable, "-m", "distributed.cli.dask_scheduler", *options) as running:
        await_port(address)
        yield address, folder / "profiles.yaml", running


def await_port(address: str) -> None:
    deadline = time.monotonic() + 90
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    while True:
        try:
            return socket.create_connection((host, int(port)), timeout=1).close()
        except OSError:
            assert time.monotonic() < deadline, f"no scheduler at {address}"
            time.sleep(0.05)


def worker(address: str, folder: Path) -> tuple[str | Path, ...]:
    """Return the command of a worker without a nanny."""
    options = ("--no-nanny", "--nthreads", "2", "--host", "127.0.0.1", "--no-dashboard", "--local-directory", folder)
    return (sys.executable, "-m", "distributed.cli.dask_worker", address, *options)


def over(job: Job, profiles: Path, command: str = "cube") -> list[str]:
    """Return the arguments of a command over the profile ``there``."""
    return job.arguments(command, "--cluster-file", profiles, cluster="there")


@pytest.mark.slow
def test_what_a_worker_process_raises_is_one_line_on_the_terminal(own_job):
    path = sorted(own_job.archive.items.parent.rglob("*_SR_B5.TIF"))[0]
    path.write_bytes(path.read_bytes()[:2000])
    command = [sys.executable, "-m", "jobs", *own_job.arguments("run", cluster="local")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert [line for line in done.stderr.splitlines() if not line.startswith(("run", "search", "cube"))] == [
        done.stderr.splitlines()[-1]
    ]
    assert done.stderr.splitlines()[-1].startswith(f"error: scene {path.parent.name}, asset nir08: ")
    assert done.stdout == ""


@pytest.mark.slow
@pytest.mark.parametrize("wait_for", ["workers", "work"])
def test_ctrl_c_in_a_terminal_ends_every_process_and_prints_one_line(job, wait_for):
    with in_session(job) as (going, pids):
        if wait_for == "workers":
            await_processes(pids, 4)  # the command, its resource tracker and two workers that are just starting
        else:
            await_files(job.run / "cube", 1)
        os.killpg(going.pid, signal.SIGINT)
        _, said = going.communicate(timeout=60)
        assert going.returncode == 130, said
        assert "Traceback" not in said
        assert said.splitlines()[-1] == "stopped; the same command goes on from what is finished"
        await_processes(pids, 0)


@pytest.mark.long
def test_workers_end_with_a_command_that_is_killed(job):
    with in_session(job) as (going, pids):
        await_files(job.run / "cube", 1)
        assert len(pids()) >= 4
        going.kill()
        going.wait()
        await_processes(pids, 0)


@contextmanager
def in_session(job: Job) -> Iterator[tuple[subprocess.Popen[str], Callable[[], list[int]]]]:
    """Run a job over two workers as a terminal would; yield it, and what tells the processes of its session."""
    (job.folder / "two.yaml").write_text("profiles: {there: {kind: local, workers: 2}}")
    command = [sys.executable, "-m", "jobs", *over(job, job.folder / "two.yaml", "run")]
    heeding = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell has its background jobs ignore it
    with subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=heeding
    ) as going:

        def pids() -> list[int]:
            return [pid for pid in psutil.pids() if is_of_session(pid, going.pid)]

        try:
            yield going, pids
        finally:
            for pid in pids():
                os.kill(pid, signal.SIGKILL)


def is_of_session(pid: int, session: int) -> bool:
    try:
        return os.getsid(pid) == session and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False


def await_processes(pids: Callable[[], list[int]], count: int) -> None:
    """Wait until a session has at least some processes, or none."""
    deadline = time.monotonic() + 90
    while len(pids()) < count or (count == 0 and pids()):
        assert time.monotonic() < deadline, f"{len(pids())} processes in place of {count}"
        time.sleep(0.05)


@pytest.mark.slow
@needs_a_view_of_its_own
def test_an_output_a_worker_cannot_see_is_refused_before_work(job, tmp_path):
    (tmp_path / "runs").mkdir()
    hidden = f'mount -t tmpfs none {tmp_path / "runs"} && exec "$@"'
    with scheduler(tmp_path) as (address, profiles, _):
        alone = ("unshare", "-m", "sh", "-c", hidden, "sh", *worker(address, tmp_path / "scratch"))
        with process(*worker(address, tmp_path / "scratch")), process(*alone):
            await_workers(address, 2)
            answer = mangroves(*over(job, profiles))
    assert f"output {job.run} is not visible from worker tcp://127.0.0.1:" in answer.error
    assert "use a shared mount" in answer.error
    assert not [path for path in job.run.rglob("*") if path.is_file()]


@pytest.mark.slow
def test_a_scheduler_without_workers_is_told(job, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "REACH_SECONDS", 3)
    with scheduler(tmp_path) as (_, profiles, _):
        answer = mangroves(*over(job, profiles))
    assert "its scheduler has no worker after" in answer.error


@pytest.mark.slow
def test_workers_without_this_software_are_told(job, tmp_path):
    with scheduler(tmp_path) as (address, profiles, _):
        # -I leaves the working folder, and -S the installed link to this checkout, out of what can be imported.
        libraries = next(path for path in sys.path if path.endswith("site-packages"))
        start = f"import sys; sys.path.append({libraries!r}); from distributed.cli.dask_worker import main; main()"
        bare = (sys.executable, "-I", "-S", "-c", start, *worker(address, tmp_path / "scratch")[3:])
        with process(*bare):
            await_workers(address, 1)
            answer = mangroves(*over(job, profiles))
    assert "cannot run this software (" in answer.error
    assert "install the same mangroves" in answer.error


@pytest.mark.long
def test_a_cluster_lost_in_the_middle_is_one_line_and_the_run_goes_on(job, tmp_path):
    with scheduler(tmp_path) as (address, profiles, running), process(*worker(address, tmp_path / "scratch")):
        await_workers(address, 1)
        command = [sys.executable, "-m", "jobs", *over(job, profiles, "run")]
        with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as going:
            await_files(job.run / "cube", 1)
            running.kill()
            _, said = going.communicate(timeout=120)
    assert going.returncode == 1, said
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith("error: ")
    assert job.call("cube").code == 0


@pytest.mark.long
def test_a_worker_that_dies_at_the_same_task_again_is_told(job, tmp_path, monkeypatch):
    profiles = tmp_path / "small.yaml"
    profiles.write_text("profiles: {there: {kind: local, workers: 1}}")
    monkeypatch.setattr("jobs.cube.cube_task", _die)
    answer = mangroves(*over(job, profiles))
    assert "died, as others did before it at the same task" in answer.error
    assert "memory_limit" in answer.error


def _die(*_arguments: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def await_workers(address: str, count: int) -> None:
    from distributed import Client

    with Client(address, timeout=30) as client:
        client.wait_for_workers(count, timeout=30)


def await_files(folder: Path, count: int) -> None:
    """Wait until a folder holds some completion markers."""
    deadline = time.monotonic() + 120
    while len(list(folder.rglob("*.json"))) - len(list(folder.rglob("zarr.json"))) < count:
        assert time.monotonic() < deadline, f"no {count} markers in {folder}"
        time.sleep(0.05)
