"""Whoever is silent or slow holds no connection."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from distributed.security import Security

from jobs.server import make_server

pytest.importorskip("uvicorn")


@contextmanager
def served(app: Any, **options: Any) -> Iterator[tuple[str, int]]:
    """Serve an application in a thread; yield its address."""
    server = make_server(app, connections=8, grace_seconds=1, **options)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listener.getsockname()
        finally:
            server.should_exit = True
            thread.join(20)


async def plain(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def tls(tmp_path: Path) -> tuple[Path, Path]:
    made = Security.temporary()
    for name, content in (("c.pem", made.tls_scheduler_cert), ("k.pem", made.tls_scheduler_key)):
        (tmp_path / name).write_text(content)
    return tmp_path / "c.pem", tmp_path / "k.pem"


def test_a_handshake_that_does_not_come_is_not_waited_for(tls, monkeypatch):
    monkeypatch.setattr("jobs.server.HEAD_SECONDS", 0.2)
    with served(plain, tls=tls) as address, socket.create_connection(address, timeout=10) as silent:
        assert silent.recv(1) == b""


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HTTP/1.1\r\nHost: a",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n1",
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
    ids=["nothing", "half a head", "half a body that nobody reads", "no second request"],
)
def test_who_sends_nothing_more_is_not_waited_for(sent, monkeypatch):
    monkeypatch.setattr("jobs.server.HEAD_SECONDS", 0.2)
    with served(plain) as address, socket.create_connection(address, timeout=10) as slow:
        slow.sendall(sent)
        while slow.recv(4096):
            pass


def test_an_answer_that_is_not_taken_is_not_kept(monkeypatch):
    monkeypatch.setattr("jobs.server.HEAD_SECONDS", 0.1)
    monkeypatch.setattr("jobs.server.ANSWER_SECONDS", 0.4)
    ended = threading.Event()

    async def much(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(64):
                await send({"type": "http.response.body", "body": b"." * 2**20, "more_body": True})
            ended.set()

    with served(much) as address, socket.create_connection(address, timeout=10) as silent:
        silent.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert ended.wait(10)


def test_the_body_of_an_answer_does_not_wait_for_its_head_to_be_acknowledged():
    taken = []
    with served(plain) as address, socket.create_connection(address, timeout=10) as client:
        for _ in range(20):
            begin = time.monotonic()
            client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            answer = b""
            while not answer.endswith(b"ok"):
                answer += client.recv(4096)
            taken.append(time.monotonic() - begin)
    assert min(taken[1:]) < 0.03  # an acknowledgement is delayed by 40 ms
