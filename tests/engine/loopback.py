"""A real HTTP server on loopback whose answers a test chooses."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from engine.trust import Trust


class Call(NamedTuple):
    """What a server was asked; ``number`` counts from 1."""

    number: int
    method: str
    path: str
    body: Any
    headers: dict[str, str]


class Reply(NamedTuple):
    """What it answers: bytes, pieces of them as they shall come, or anything else as JSON; status 0 hangs up."""

    status: int = 200
    body: Any = b""
    headers: dict[str, str] = {}  # noqa: RUF012


class Loopback(ThreadingHTTPServer):
    """Answers with ``answer(call)``; a body shorter than its Content-Length is a connection that breaks off."""

    def __init__(self, answer: Callable[[Call], Reply], *, keep_alive: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), _PatientHandler if keep_alive else _Handler)
        self.answer = answer
        self.calls: list[Call] = []
        self.connections = 0
        self.host = f"127.0.0.1:{self.server_port}"
        self.url = f"http://{self.host}"
        self.trust = Trust().with_hosts(self.host)

    def get_request(self) -> tuple[socket.socket, Any]:
        request = super().get_request()
        self.connections += 1
        return request

    def handle_error(self, *_: object) -> None:
        """Say nothing of a client that hung up."""

    @contextmanager
    def running(self) -> Iterator[Loopback]:
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield self
        finally:
            self.shutdown()
            self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Loopback
    disable_nagle_algorithm = True  # or each answer on a connection that stays waits 40 ms for an acknowledgement

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        headers = {name.lower(): value for name, value in self.headers.items()}
        call = Call(len(self.server.calls) + 1, self.command, self.path, body, headers)
        self.server.calls.append(call)
        reply = self.server.answer(call)
        if reply.status == 0:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
            return
        content = reply.body if isinstance(reply.body, bytes | Iterator) else json.dumps(reply.body).encode()
        pieces: Iterable[bytes] = [content] if isinstance(content, bytes) else content
        self.send_response(reply.status)
        known = {"Content-Length": str(len(content))} if isinstance(content, bytes) else {}
        for name, value in {**known, **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            for piece in pieces:
                self.wfile.write(piece)
                self.wfile.flush()
        except OSError:  # the client has had enough
            self.close_connection = True

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


class _PatientHandler(_Handler):
    protocol_version = "HTTP/1.1"
