"""Blob storage and its token service on loopback, with one kind of passing fault at places that a seed chooses."""

from __future__ import annotations

import datetime as dt
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import planetary_computer.sas
import pytest
from planetary_computer.settings import Settings

from engine import ranges, sign, web
from tests.engine.loopback import Call, Loopback, Reply

FAULTS: Final = ("429", "500", "502", "503", "reset", "short body", "stall", "expiry", "signer 429", "page once")
SECRET: Final = "S3CRETsignature"
CONTAINER: Final = "landsat-c2"


class FaultServer(Loopback):
    """Serves the files of a folder to bearers of a living token; a share of the ranges fails the first time.

    Parameters
    ----------
    folder : Path
    fault : str
        One of ``FAULTS``; empty for none.
    seed : int
        Which ranges fail; no order of requests changes that.
    lasting : int
        A status that every range is answered with, 0 for none.
    """

    def __init__(self, folder: Path, fault: str = "", seed: int = 0, lasting: int = 0) -> None:
        super().__init__(self._reply, keep_alive=True)
        self.folder, self.fault, self.seed, self.lasting = folder, fault, seed, lasting
        self.injected = 0
        self._met: Counter[str] = Counter()
        self._alive: dict[str, float] = {}
        self._lock = threading.Lock()

    @property
    def domain(self) -> str:
        return f".blob.localhost:{self.server_port}"

    @property
    def blobs(self) -> str:
        """The host of the storage."""
        return f"landsateuwest{self.domain}"

    def href(self, name: str) -> str:
        """Return the unsigned address of a file, by its path in the folder."""
        return f"http://{self.blobs}/{CONTAINER}/{name}"

    def _first_time(self, key: str, share: float) -> bool:
        with self._lock:
            self._met[key] += 1
            hit = self._met[key] == 1 and random.Random(f"{self.seed} {key}").random() < share
            self.injected += hit
        return hit

    def _reply(self, call: Call) -> Reply:
        path, _, query = call.path.partition("?")
        return self._token(path) if path.startswith("/token/") else self._blob(call, path, query)

    def _token(self, path: str) -> Reply:
        if self.fault == "signer 429" and self._first_time(f"{path} {len(self._alive)}", 1.0):
            return Reply(429, b"", {"Retry-After": "0"})
        lifetime = 1.0 if self.fault in ("expiry", "signer 429") else 3600.0
        with self._lock:
            signature = f"{SECRET}{len(self._alive)}"
            self._alive[signature] = time.time() + lifetime
        expiry = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=lifetime)
        return Reply(200, {"msft:expiry": expiry.isoformat(), "token": f"sv=1&sig={signature}"})

    def _blob(self, call: Call, path: str, query: str) -> Reply:
        signature = query.rpartition("sig=")[2]
        asked = call.headers.get("range", "")
        hit = self.fault not in ("", "signer 429") and self._first_time(f"{path} {asked}", 0.2)
        if (hit and self.fault == "expiry") or time.time() >= self._alive.get(signature, 0.0):
            return Reply(403)
        file = self.folder / path.removeprefix(f"/{CONTAINER}/")
        if self.lasting or not file.is_file():
            return Reply(self.lasting or 404)
        data = file.read_bytes()
        first, _, last = asked.removeprefix("bytes=").partition("-")
        begin, end = int(first), min(int(last) + 1, len(data))
        right = Reply(206, data[begin:end], {"Content-Range": f"bytes {begin}-{end - 1}/{len(data)}"})
        return self._damaged(right) if hit else right

    def _damaged(self, right: Reply) -> Reply:
        length = {**right.headers, "Content-Length": str(len(right.body))}
        if self.fault == "reset":
            return Reply(0)
        if self.fault == "page once":
            return Reply(200, b"<html>busy, come back later</html>")
        if self.fault == "short body":
            return Reply(206, right.body[: len(right.body) // 2], {**length, "Connection": "close"})
        if self.fault == "stall":
            return Reply(206, self._stalled(right.body), {**length, "Connection": "close"})
        return Reply(int(self.fault), b"", {"Retry-After": "0"})

    def _stalled(self, body: bytes) -> Iterator[bytes]:
        yield body[: len(body) // 2]
        time.sleep(0.8)


@contextmanager
def storage(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    """Let this process sign for and read from a server, with waits that a test has time for."""
    monkeypatch.setenv("PC_SDK_SAS_URL", f"{server.url}/token")
    monkeypatch.setattr(planetary_computer.sas, "BLOB_STORAGE_DOMAIN", server.domain)
    monkeypatch.setattr(ranges, "READ_WAITS_S", (0.02, 0.05, 0.1))
    monkeypatch.setattr(ranges, "SILENCE_S", 0.4)
    monkeypatch.setattr(web, "_FIRST_WAIT_S", 0.02)
    forget()
    try:
        with server.running():
            yield server
    finally:
        forget()


def forget() -> None:
    """Drop what this process keeps of storage and tokens."""
    Settings.get.cache_clear()
    sign._tokens.clear()
    ranges._pool.cache_clear()


def move_items(items: Path, server: FaultServer) -> None:
    """Let the items of an archive, a copy, name the server instead of files."""
    content = json.loads(items.read_text(encoding="utf-8"))
    for asset in (asset for item in content["features"] for asset in item["assets"].values()):
        name = asset["href"].removeprefix("./")
        if (server.folder / name).is_file():
            asset["href"] = server.href(name)
    items.write_text(json.dumps(content), encoding="utf-8")
