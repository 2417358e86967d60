"""A file server on loopback with the latency and the bandwidth of storage elsewhere, in its own process.

It answers GET and HEAD over HTTP/1.1 with keep-alive and single byte ranges. Every request waits for the latency, then
for its turn on a link that all connections share, and counts. The first part of a path is ignored: under another one
the same files are new to whatever a client keeps.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import mmap
import re
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SEND_BUFFER: Final = 4 * 2**20
"""Bytes the kernel takes at once: most answers are handed over by one call."""

_STATS: Final = "/-/stats"
_RANGE: Final = re.compile(rb"\r\nrange: *bytes=(\d+)-(\d*)\r\n", re.IGNORECASE)

_ALWAYS: Final = (
    b'Accept-Ranges: bytes\r\nContent-Type: image/tiff\r\nETag: "1"\r\nLast-Modified: Thu, 01 Jan 2015 00:00:00 GMT\r\n'
)


@dataclass(frozen=True)
class Traffic:
    """What a server answered."""

    requests: int
    bytes: int


@dataclass(frozen=True)
class RangeServer:
    """A running server."""

    host: str
    """``127.0.0.1:port``, as ``Trust.with_hosts`` takes it."""

    latency_seconds: float
    bytes_per_second: float

    def address(self, name: str) -> str:
        """Return the URL of the served folder under a name."""
        return f"http://{self.host}/{name}"

    def traffic(self) -> Traffic:
        """Return what was answered since the last time."""
        with urllib.request.urlopen(f"http://{self.host}{_STATS}", timeout=30) as answer:
            return Traffic(**json.load(answer))


@contextmanager
def serve(root: Path, *, latency_seconds: float, bytes_per_second: float) -> Iterator[RangeServer]:
    """Serve the files of a folder on a free port of 127.0.0.1 until the block ends."""
    command = [sys.executable, "-m", "benchmarks.range_server", str(root), str(latency_seconds), str(bytes_per_second)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield RangeServer(process.stdout.readline().strip(), latency_seconds, bytes_per_second)
        finally:
            process.stdin.close()  # the server ends when nobody holds the other end, however we ended


class _Link:
    """Files behind a latency and one bandwidth for all."""

    def __init__(self, root: Path, latency: float, bytes_per_second: float) -> None:
        self.root, self.latency, self.rate = root.resolve(), latency, bytes_per_second
        self.free_at = 0.0
        self.requests = self.bytes = 0
        self.files: dict[str, memoryview | None] = {}

    def file(self, path: str) -> memoryview | None:
        """Return the content of a file; None where there is none."""
        name = path.partition("?")[0].lstrip("/").partition("/")[2]
        if name not in self.files:
            place = (self.root / name).resolve()
            self.files[name] = None
            if place.is_relative_to(self.root) and place.is_file() and place.stat().st_size:
                with place.open("rb") as file:
                    self.files[name] = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        return self.files[name]

    def turn(self, now: float, size: int) -> float:
        """Return when the last of ``size`` bytes asked for now arrives; answers stay in the order of the requests."""
        self.requests += 1
        self.bytes += size
        self.free_at = max(self.free_at, now + self.latency) + size / self.rate
        return self.free_at

    def stats(self) -> bytes:
        body = json.dumps({"requests": self.requests, "bytes": self.bytes}).encode()
        self.requests = self.bytes = 0
        return body


class _Connection(asyncio.Protocol):
    """One connection; answers whole requests as they come."""

    def __init__(self, link: _Link) -> None:
        self.link = link
        self.received = b""
        self.loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)

    def data_received(self, data: bytes) -> None:
        self.received += data
        while (end := self.received.find(b"\r\n\r\n")) >= 0:
            head, self.received = self.received[: end + 2], self.received[end + 4 :]
            self.answer(head)

    def answer(self, head: bytes) -> None:
        method, path = head.split(b" ", 2)[:2]
        if path == _STATS.encode():
            told = self.link.stats()
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(told), told))
            self.transport.close()
            return
        body, status, more = self.link.file(path.decode()), b"200 OK", b""
        if body is None:
            body, status = memoryview(b""), b"404 Not Found"
        elif asked := _RANGE.search(head):
            size = len(body)
            first, last = int(asked[1]), min(int(asked[2] or size), size - 1)
            body, status = body[first : last + 1], b"206 Partial Content"
            more = b"Content-Range: bytes %d-%d/%d\r\n" % (first, last, size)
            if first > last:
                status, more = b"416 Range Not Satisfiable", b"Content-Range: bytes */%d\r\n" % size
        header = b"HTTP/1.1 %s\r\n%s%sContent-Length: %d\r\n\r\n" % (status, _ALWAYS, more, len(body))
        if method == b"HEAD":
            body = body[:0]
        self.loop.call_at(self.link.turn(self.loop.time(), len(body)), self.send, header, body)

    def send(self, header: bytes, body: memoryview) -> None:
        if not self.transport.is_closing():
            self.transport.writelines([header, body] if body else [header])


async def _run(link: _Link) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(link), "127.0.0.1", 0, backlog=512)
    host, port = server.sockets[0].getsockname()
    print(f"{host}:{port}", flush=True)
    closed = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), closed.set)
    await closed.wait()
    server.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("latency_seconds", type=float)
    parser.add_argument("bytes_per_second", type=float)
    options = parser.parse_args()
    asyncio.run(_run(_Link(options.root, options.latency_seconds, options.bytes_per_second)))
