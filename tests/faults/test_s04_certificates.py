"""Clients without the right certificate are refused; the right one works, and what it asks for is encrypted."""

from __future__ import annotations

import socket
import ssl
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from engine.cluster import check_software, open_cluster, run_bounded
from engine.errors import ClusterError, ConfigError
from tests.certificates import Authority
from tests.faults.test_r12_lost_clusters import process
from tests.jobs.test_workers import await_port, free_port, worker


@contextmanager
def secured(folder: Path, tls: dict[str, str]) -> Iterator[str]:
    """Start a scheduler and a worker with TLS on loopback; yield the address."""
    port = free_port()
    address = f"tls://127.0.0.1:{port}"
    files = ("--tls-ca-file", tls["ca_file"], "--tls-cert", tls["certificate"], "--tls-key", tls["key"])
    options = ("--host", "127.0.0.1", "--port", str(port), "--no-dashboard", "--protocol", "tls")
    with (
        process(sys.executable, "-m", "distributed.cli.dask_scheduler", *options, *files),
        process(*worker(address, folder / "scratch"), *files),
    ):
        await_port(address.replace("tls", "tcp"))
        yield address


def profiles(folder: Path, address: str, tls: dict[str, str] | None) -> Path:
    body = {"kind": "address", "address": address} | ({"tls": tls} if tls else {})
    (folder / "p.yaml").write_text(yaml.safe_dump({"profiles": {"there": body}}))
    return folder / "p.yaml"


def test_a_tls_address_without_certificates_is_refused_before_it_is_called(promise, tmp_path):
    with (
        promise("S4", "no certificate in the profile"),
        pytest.raises(ConfigError, match="a tls:// address needs tls"),
        open_cluster("there", profiles(tmp_path, "tls://127.0.0.1:8786", None)),
    ):
        pass


@pytest.mark.faults
def test_only_the_right_certificate_is_let_in(promise, tmp_path):
    ours, others = Authority(tmp_path / "ours"), Authority(tmp_path / "others")
    right = ours.issue("client")
    wrong = {
        "of another authority": others.issue("client") | {"ca_file": right["ca_file"]},
        "that ended": ours.issue("expired", days=-1),
        "of another authority, which it trusts": others.issue("client"),
    }
    with secured(tmp_path, ours.issue("server")) as address:
        with open_cluster("there", profiles(tmp_path, address, right)) as client:
            check_software(client)
            assert dict(run_bounded(client, abs, [(-1,), (-2,)])) == {(-1,): 1, (-2,): 2}
        for fault, tls in wrong.items():
            with promise("S4", f"a certificate {fault}"):
                begun = time.monotonic()
                with (
                    pytest.raises(ClusterError, match=r"cannot be reached \(certificate refused: .*valid certificates"),
                    open_cluster("there", profiles(tmp_path, address, tls)),
                ):
                    pass
                assert time.monotonic() - begun < 10
        with (
            promise("S4", "no certificate, unencrypted"),
            pytest.raises(ClusterError, match=r"cannot be reached \((?:it does not answer|it hangs up)\)"),
            open_cluster("there", profiles(tmp_path, address.replace("tls", "tcp"), None)),
        ):
            pass


@pytest.mark.faults
def test_a_client_that_only_trusts_the_authority_is_let_go(promise, tmp_path):
    """One with TLS but no certificate of its own, as a browser."""
    ours = Authority(tmp_path / "ours")
    with secured(tmp_path, ours.issue("server")) as address, promise("S4", "no certificate, encrypted"):
        context = ssl.create_default_context(cafile=str(ours.ca_file))
        context.check_hostname = False
        with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), timeout=10) as plain:
            connection = context.wrap_socket(plain)
            with connection, pytest.raises(OSError, match=r"certificate required|reset|handshake"):
                connection.recv(1)


@pytest.mark.faults
def test_a_server_of_another_authority_is_not_believed(promise, tmp_path):
    ours, others = Authority(tmp_path / "ours"), Authority(tmp_path / "others")
    with (
        secured(tmp_path, others.issue("server")) as address,
        promise("S4", "a scheduler of another authority"),
        pytest.raises(ClusterError, match="certificate refused"),
        open_cluster("there", profiles(tmp_path, address, ours.issue("client"))),
    ):
        pass


@pytest.mark.faults
def test_a_local_cluster_speaks_tls_with_the_certificates_of_its_profile(promise, tmp_path):
    tls = Authority(tmp_path / "ours").issue("all")
    (tmp_path / "p.yaml").write_text(yaml.safe_dump({"profiles": {"a": {"kind": "local", "workers": 1, "tls": tls}}}))
    with promise("S4", "a local cluster with TLS"), open_cluster("a", tmp_path / "p.yaml") as client:
        assert client.scheduler.address.startswith("tls://127.0.0.1")
        assert all(at.startswith("tls://127.0.0.1") for at in client.scheduler_info(n_workers=-1)["workers"])
        assert dict(run_bounded(client, abs, [(-1,)])) == {(-1,): 1}
