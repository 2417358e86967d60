"""Real servers of S3 and of Azure's blobs on loopback, and a bucket or container of its own for every test."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from engine.places import ObjectPath, Place

KEY, SECRET = "AKIAEXAMPLEOFAKEY", "example/secret+of/a+key"
AZURITE = shutil.which("azurite-blob")
AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The key that every azurite has, as its documentation says."""

START_SECONDS = 30


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Run moto's S3 server; its ``host:port``."""
    with serving(sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p") as address:
        yield address


@pytest.fixture(scope="session")
def azure_server() -> Iterator[str]:
    """Run azurite, where it is installed; its ``host:port``."""
    if AZURITE is None:
        pytest.skip("needs azurite-blob (npm install azurite)")
    options = ("--silent", "--skipApiVersionCheck", "--inMemoryPersistence", "--blobHost", "127.0.0.1", "--blobPort")
    with serving(AZURITE, *options) as address:
        yield address


@contextmanager
def serving(*command: str) -> Iterator[str]:
    """Run a server whose last argument is its port, and end it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    with running(*command, address.rpartition(":")[2]) as server:
        await_answer(f"http://{address}/", server)
        yield address


@contextmanager
def running(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start a server, and end it."""
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield server
    finally:
        server.kill()
        server.wait()


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


@pytest.fixture
def container(azure_server: str, monkeypatch: pytest.MonkeyPatch) -> ObjectPath:
    """An empty container that this process and those it starts may use, by their environment."""
    account, key = "devstoreaccount1", AZURITE_KEY
    monkeypatch.setenv("AZURE_STORAGE_USE_EMULATOR", "true")
    monkeypatch.setenv("AZURITE_BLOB_STORAGE_URL", f"http://{azure_server}")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", account)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", key)
    name = f"container-{secrets.token_hex(6)}"
    start_container(f"http://{azure_server}/{account}", account, key, name)
    return ObjectPath(f"abfs://{name}@{account}.dfs.core.windows.net")


def start_container(url: str, account: str, key: str, name: str) -> None:
    """Make an empty container of an account whose address this is; obstore makes none.

    One request signed by hand (Azure Storage REST, "Authorize with Shared Key").
    """
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
    lines = ["PUT", *[""] * 11, *(f"{header}:{value}" for header, value in headers.items())]
    text = "\n".join([*lines, f"/{account}{urlsplit(url).path}/{name}", "restype:container"])
    digest = hmac.new(base64.b64decode(key), text.encode(), hashlib.sha256).digest()
    headers |= {"Authorization": f"SharedKey {account}:{base64.b64encode(digest).decode()}", "Content-Length": "0"}
    request = urllib.request.Request(f"{url}/{name}?restype=container", method="PUT", headers=headers)
    urllib.request.urlopen(request, timeout=10).close()


@pytest.fixture(params=["folder", "bucket", *(["container"] if AZURITE else [])])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Somewhere that nothing was written yet: in a folder, in a bucket, and where azurite is at hand in a container."""
    where: Place = tmp_path if request.param == "folder" else request.getfixturevalue(request.param)
    return where / "run"
