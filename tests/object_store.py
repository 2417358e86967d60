"""A real S3 server on loopback, and a bucket of its own for every test."""

from __future__ import annotations

import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.places import ObjectPath, Place

KEY, SECRET = "AKIAEXAMPLEOFAKEY", "example/secret+of/a+key"
START_SECONDS = 30


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Run moto's S3 server; its ``host:port``."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    running = subprocess.Popen(command, **quiet)
    try:
        await_answer(f"http://127.0.0.1:{port}/", running)
        yield f"127.0.0.1:{port}"
    finally:
        running.kill()
        running.wait()


def await_answer(url: str, server: subprocess.Popen[bytes]) -> None:
    """Wait until a server answers, with whatever."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            assert server.poll() is None, f"the server of {url} ended"
            assert time.monotonic() < deadline, f"nothing answers at {url}"
            time.sleep(0.1)


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> ObjectPath:
    """An empty bucket that this process and those it starts may use, by their environment."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{s3_server}")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    name = f"bucket-{secrets.token_hex(6)}"  # clients are kept by name
    urllib.request.urlopen(urllib.request.Request(f"http://{s3_server}/{name}", method="PUT"), timeout=10).close()
    return ObjectPath(f"s3://{name}")


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Somewhere that nothing was written yet, in a folder and in a bucket."""
    where: Place = tmp_path if request.param == "folder" else request.getfixturevalue("bucket")
    return where / "run"
