"""The same map from worker processes of this machine, and from a scheduler and workers that speak TLS alone."""

from __future__ import annotations

import sys
from contextlib import ExitStack

import pytest

from tests.certificates import Authority
from tests.cluster.conftest import Deployed, made
from tests.cluster.services import free_ports, listens, service

pytestmark = pytest.mark.cluster


def test_local_processes_make_the_same_map(deployed: Deployed, reference: dict[str, str]) -> None:
    deployed.call("run")
    assert made(deployed.job.run) == reference


def test_a_scheduler_and_workers_over_tls_make_the_same_map(deployed: Deployed, reference: dict[str, str]) -> None:
    folder = deployed.job.folder
    authority = Authority(folder / "authority")
    (port,) = free_ports(1)
    address = f"tls://127.0.0.1:{port}"
    with ExitStack() as stack:

        def start(name: str, *words: str) -> None:
            tls = authority.issue(name)
            options = ["--tls-ca-file", tls["ca_file"], "--tls-cert", tls["certificate"], "--tls-key", tls["key"]]
            command = [sys.executable, "-m", "distributed.cli.dask_" + name.partition("-")[0], *words, *options]
            quiet = ("--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0")
            log = folder / f"{name}.log"
            stack.enter_context(service(*command, *quiet, log=log, ready=listens(port), env=deployed.env))

        start("scheduler", "--port", str(port), "--protocol", "tls")
        for number in range(2):
            start(f"worker-{number}", address, "--nthreads", "1", "--local-directory", str(folder / "scratch"))
        deployed.profile = {"kind": "address", "address": address, "tls": authority.issue("client")}
        deployed.call("run")
    assert made(deployed.job.run) == reference
