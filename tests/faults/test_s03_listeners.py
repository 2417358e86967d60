"""A default run listens on loopback only; what would listen elsewhere gives TLS or says so."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

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


def listeners(root: psutil.Process) -> set[tuple[str, str]]:
    """Return address and program of what a process and all below it listen on now."""
    found = set()
    try:
        family = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return found
    for process in family:
        try:
            for connection in process.net_connections(kind="inet"):
                if connection.status == psutil.CONN_LISTEN or (connection.type == 2 and connection.laddr):
                    found.add((connection.laddr.ip, process.name()))
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


def test_a_profile_that_listens_beyond_loopback_unasked_is_refused(promise, job, tmp_path):  # noqa: F811
    for name, body in REMOTE.items():
        (tmp_path / "p.yaml").write_text(f"profiles: {{there: {{{body}}}}}")
        with promise("S3", f"{name} without TLS or flag"):
            arguments = job.arguments("run", "--cluster-file", tmp_path / "p.yaml", cluster="there")
            assert "cluster file" in mangroves(*arguments).error
            assert not job.run.exists()


@pytest.mark.faults
@pytest.mark.parametrize("cluster", ["local", "threads"])
def test_a_default_run_opens_no_listener_beyond_loopback(promise, job, cluster):  # noqa: F811
    command = [sys.executable, "-m", "jobs", *job.arguments("run", cluster=cluster)]
    seen: set[tuple[str, str]] = set()
    with promise("S3", f"a run over {cluster}"):
        with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as going:
            while going.poll() is None:
                seen |= listeners(psutil.Process(going.pid))
                time.sleep(0.02)
            said = going.stderr.read()
        assert going.returncode == 0, said
        assert {address for address, _ in seen} <= {"127.0.0.1", "::1"}, seen
        assert seen or cluster == "threads", "it watches what it should"
