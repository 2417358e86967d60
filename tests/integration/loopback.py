"""A Planetary Computer in small, on loopback: token service, and blob storage that asks for tokens."""

from __future__ import annotations

import datetime as dt
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import psutil

ACCOUNT, CONTAINER = "landsateuwest", "landsat-c2"
SECRET = "S3CRET"
"""Part of every signature given out."""


class _Quiet(BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status: int, data: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)


class _TokenHandler(_Quiet):
    server: TokenServer

    def do_GET(self) -> None:
        self.server.note_caller(self.client_address[1])
        self.answer(200, json.dumps(self.server.issue(self.path)).encode())


class TokenServer(ThreadingHTTPServer):
    """Gives tokens in the shape of the Planetary Computer's, and knows which of them live."""

    def __init__(self, lifetime_s: float = 3600) -> None:
        super().__init__(("127.0.0.1", 0), _TokenHandler)
        self.lifetime_s = lifetime_s
        self.calls: list[str] = []
        self.callers: dict[int, list[float]] = {}
        """When each process asked, ``time.monotonic()``."""
        self.alive: dict[str, float] = {}
        self.lock = threading.Lock()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    def note_caller(self, port: int) -> None:
        """Note which process of this machine asks through a port."""
        now = time.monotonic()
        pids = {each.pid for each in psutil.net_connections("tcp4") if each.laddr.port == port and each.pid}
        with self.lock:
            for pid in pids - {os.getpid()}:
                self.callers.setdefault(pid, []).append(now)

    def early_calls(self) -> list[tuple[int, float]]:
        """Return process and seconds of calls made while its last token had more than a quarter of its life left."""
        least = 0.75 * self.lifetime_s - 1  # expiry is given in whole seconds
        pairs = [(pid, then, now) for pid, times in self.callers.items() for then, now in pairwise(times)]
        return [(pid, now - then) for pid, then, now in pairs if now - then < least]

    def issue(self, path: str) -> dict[str, str]:
        with self.lock:
            self.calls.append(path)
            expiry = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=self.lifetime_s)
            signature = f"{SECRET}{len(self.calls)}%3D"
            self.alive[signature] = expiry.timestamp()
        day = f"{expiry:%Y-%m-%dT%H%%3A%M%%3A%SZ}"
        token = f"st=2026-01-01T00%3A00%3A00Z&se={day}&sp=rl&sv=2024-05-04&sr=c&skoid=1&sktid=2&sig={signature}"
        return {"msft:expiry": expiry.isoformat().replace("+00:00", "Z"), "token": token}

    def revoke(self) -> None:
        """Let every token given out so far be refused."""
        with self.lock:
            self.alive.clear()

    def accepts(self, query: str) -> bool:
        with self.lock:
            return time.time() < self.alive.get(query.rpartition("&sig=")[2], 0)


class _BlobHandler(_Quiet):
    server: BlobServer

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        status, data, headers = self.server.give(path, query, self.headers.get("Range"), self.command)
        if status == 0:
            self.connection.close()
            return
        self.answer(status, data, headers)

    do_HEAD = do_GET


class BlobServer(ThreadingHTTPServer):
    """Gives ranges of the files of a folder to bearers of a living token; may misbehave as told."""

    def __init__(self, folder: Path, tokens: TokenServer) -> None:
        super().__init__(("127.0.0.1", 0), _BlobHandler)
        self.folder, self.tokens = folder, tokens
        self.answers: Counter[int] = Counter()
        self.requests: Counter[str] = Counter()
        self.before: Callable[[str, int], int | None] = lambda path, number: None
        """Called with path and number of this request for it; a status to answer instead, 0 to hang up."""
        self.lock = threading.Lock()

    @property
    def host(self) -> str:
        return f"{ACCOUNT}{self.domain}"

    @property
    def domain(self) -> str:
        return f".blob.localhost:{self.server_port}"

    def give(self, path: str, query: str, asked: str | None, command: str) -> tuple[int, bytes, dict[str, str]]:
        with self.lock:
            self.requests[path] += 1
            fault = self.before(path, self.requests[path])
            file = self.folder / path.removeprefix(f"/{CONTAINER}/")
            status = fault if fault is not None else 200
            if status == 200 and not self.tokens.accepts(query):
                status = 403
            if status == 200 and not file.is_file():
                status = 404
            if status == 200 and asked:
                status = 206
            self.answers[status] += 1
        if status == 200:
            return 200, file.read_bytes(), {"Accept-Ranges": "bytes"}
        if status != 206:
            return status, b"", {}
        data = file.read_bytes()
        first, _, last = (asked or "").removeprefix("bytes=").partition("-")
        begin, end = int(first), min(int(last or len(data) - 1), len(data) - 1)
        return 206, data[begin : end + 1], {"Content-Range": f"bytes {begin}-{end}/{len(data)}"}


class Storage(Protocol):
    """Blobs of the account, wherever they are kept."""

    @property
    def domain(self) -> str: ...


@contextmanager
def serving(server: ThreadingHTTPServer) -> Iterator[None]:
    """Serve in a thread of this process until the block ends."""
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def environment(folder: Path, tokens: TokenServer, blobs: Storage) -> dict[str, str]:
    """Return the environment that points the planetary-computer SDK of a command and its workers at loopback.

    The token service is one of the SDK's settings; the storage domain is a constant of its module and no setting, so
    a ``sitecustomize`` sets it in every process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(
        f"import planetary_computer.sas\nplanetary_computer.sas.BLOB_STORAGE_DOMAIN = {blobs.domain!r}\n"
    )
    return {
        **os.environ,
        "PYTHONPATH": str(folder),
        "PC_SDK_SAS_URL": f"http://{tokens.address}/api/sas/v1/token",
    }


def write_items(items: Path, host: str, path: Path) -> Path:
    """Write the items of an archive with their assets in the blob storage of a host."""
    content = json.loads(items.read_text(encoding="utf-8"))
    for item in content["features"]:
        for asset in item["assets"].values():
            asset["href"] = f"http://{host}/{CONTAINER}/{asset['href'].removeprefix('./')}"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path
