"""Azure's blob storage as azurite emulates it, with signatures that expire, behind a line that takes its time."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import hmac
import os
import secrets
import socket
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.cluster.services import free_ports, listens, own_folder, service
from tests.integration.loopback import ACCOUNT, CONTAINER, TokenServer
from tests.object_store import AZURITE, start_container

VERSION = "2021-08-06"
"""Of Azure's storage service: how signatures are made."""


@dataclass
class Blobs:
    """A container whose blobs are given to bearers of a signature alone."""

    key: str
    port: int
    """Of azurite itself; readers come through ``line``."""

    line: int
    log: Path

    @property
    def domain(self) -> str:
        return f".blob.localhost:{self.line}"

    @property
    def host(self) -> str:
        return f"{ACCOUNT}{self.domain}"

    def signature(self, permissions: str, expiry: dt.datetime) -> str:
        """Return the query that lets its bearer do something with the container until then (service SAS)."""
        end = f"{expiry:%Y-%m-%dT%H:%M:%SZ}"
        resource = f"/blob/{ACCOUNT}/{CONTAINER}"
        # Azure Storage REST, "Create a service SAS", versions from 2020-12-06: 16 fields.
        fields = [permissions, "", end, resource, "", "", "", VERSION, "c", *[""] * 7]
        digest = hmac.new(base64.b64decode(self.key), "\n".join(fields).encode(), hashlib.sha256).digest()
        said = {"se": end, "sp": permissions, "sv": VERSION, "sr": "c", "sig": base64.b64encode(digest).decode()}
        return "&".join(f"{name}={quote(value, safe='')}" for name, value in said.items())

    def put(self, folder: Path) -> None:
        """Upload all files of a folder."""
        query = self.signature("rcw", dt.datetime.now(dt.UTC) + dt.timedelta(hours=1))
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = f"{ACCOUNT}/{CONTAINER}/{path.relative_to(folder).as_posix()}"
            url = f"http://127.0.0.1:{self.port}/{name}?{query}"
            headers = {"x-ms-blob-type": "BlockBlob", "x-ms-version": VERSION}
            request = urllib.request.Request(url, data=path.read_bytes(), method="PUT", headers=headers)
            urllib.request.urlopen(request, timeout=30).close()

    def answers(self) -> Counter[int]:
        """Return how often azurite answered reads with each status."""
        lines = [line for line in self.log.read_text().splitlines() if '"GET ' in line or '"HEAD ' in line]
        return Counter(int(line.rpartition('" ')[2].split()[0]) for line in lines)


class AzureTokens(TokenServer):
    """Signs as the account would, for some seconds, and knows which process asked."""

    def __init__(self, blobs: Blobs, lifetime_s: float) -> None:
        super().__init__(lifetime_s)
        self.blobs = blobs

    def issue(self, path: str) -> dict[str, str]:
        with self.lock:
            self.calls.append(path)
        expiry = (dt.datetime.now(dt.UTC) + dt.timedelta(seconds=self.lifetime_s)).replace(microsecond=0)
        return {"msft:expiry": f"{expiry:%Y-%m-%dT%H:%M:%SZ}", "token": self.blobs.signature("rl", expiry)}


@contextmanager
def blob_storage(latency_s: float) -> Iterator[Blobs]:
    """Run azurite with one container, reached through a line that delays every request."""
    if AZURITE is None:
        pytest.skip("needs azurite-blob in PATH: make cluster-test installs it where npm is at hand")
    key = base64.b64encode(secrets.token_bytes(32)).decode()
    port, line = free_ports(2)
    with own_folder() as folder:
        options = ("--skipApiVersionCheck", "--inMemoryPersistence", "--disableTelemetry", "--blobHost", "127.0.0.1")
        env = {**os.environ, "AZURITE_ACCOUNTS": f"{ACCOUNT}:{key}"}
        command = (AZURITE, *options, "--blobPort", str(port))
        with service(*command, log=folder / "log", ready=listens(port), env=env):
            start_container(f"http://127.0.0.1:{port}/{ACCOUNT}", ACCOUNT, key, CONTAINER)
            with slow_line(line, port, latency_s):
                yield Blobs(key, port, line, folder / "log")


@contextmanager
def slow_line(port: int, to: int, latency_s: float) -> Iterator[None]:
    """Pass connections on, and every request a while later."""
    with socket.create_server(("127.0.0.1", port), backlog=256) as server:
        server.settimeout(0.2)
        over = threading.Event()

        def accept() -> None:
            while not over.is_set():
                with suppress(TimeoutError):
                    near, _ = server.accept()
                    near.settimeout(None)
                    far = socket.create_connection(("127.0.0.1", to))
                    for ends, delay in (((near, far), latency_s), ((far, near), 0.0)):
                        threading.Thread(target=pass_on, args=(*ends, delay), daemon=True).start()

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def pass_on(source: socket.socket, sink: socket.socket, delay_s: float) -> None:
    """Pass bytes of one direction on, each piece after a while."""
    with suppress(OSError):
        while data := source.recv(1 << 20):
            time.sleep(delay_s)
            sink.sendall(data)
    for end in (source, sink):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
