"""A default run listens on loopback only; what would listen elsewhere gives TLS or says so."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.engine.test_cluster import listening
from tests.jobs.calls import mangroves
from tests.jobs.conftest import archive, job  # noqa: F401

ROOT = Path(__file__).resolve().parents[2]
REMOTE = {
    "address": "kind: address, address: 'tcp://10.0.0.5:8786'",
    "ssh": "kind: ssh, hosts: [node1]",
    "slurm": "kind: slurm, memory_limit: 4GiB",
    "pbs": "kind: pbs, memory_limit: 4GiB, interface: ib0",
    "kubernetes": "kind: kubernetes, image: 'a/b:1', memory_limit: 4GiB",
    "fargate": "kind: cloud, provider: fargate, memory_limit: 4GiB",
    "gateway": "kind: gateway, address: 'http://gateway.example.org'",
    "dashboard": "kind: local, dashboard: '0.0.0.0:8787'",
}


def listeners(root: psutil.Process) -> set[str]:
    """Return the addresses (hexadecimal, as the kernel lists them) a process and all below it listen on now."""
    found: set[str] = set()
    with suppress(psutil.NoSuchProcess, OSError):
        for process in [root, *root.children(recursive=True)]:
            with suppress(OSError):
                found |= listening(str(process.pid))
    return found


def test_a_profile_that_listens_beyond_loopback_unasked_is_refused(promise, job, tmp_path):  # noqa: F811
    for name, body in REMOTE.items():
        (tmp_path / "p.yaml").write_text(f"profiles: {{there: {{{body}}}}}")
        with promise("S3", f"{name} without TLS or flag"):
            arguments = job.arguments("run", "--cluster-file", tmp_path / "p.yaml", cluster="there")
            assert "cluster file" in mangroves(*arguments).error
            assert not job.run.exists()


@pytest.mark.faults
def test_a_default_run_opens_no_listener_beyond_loopback(promise, job):  # noqa: F811
    command = [sys.executable, "-m", "jobs", *job.arguments("run", cluster="local")]
    seen: set[str] = set()
    with promise("S3", "a default run"), (job.folder / "said").open("w+") as said:
        with subprocess.Popen(command, cwd=ROOT, stderr=said, stdout=subprocess.DEVNULL) as going:
            while going.poll() is None:
                seen |= listeners(psutil.Process(going.pid))
                time.sleep(0.1)
        assert going.returncode == 0, (job.folder / "said").read_text()
        assert seen, "it watches what it should"
        assert seen <= {"0100007F", "00000000000000000000000001000000"}, seen
