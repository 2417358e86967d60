"""Answers that never end do not hold a thread."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from engine import connections, ranges
from engine.connections import retry_after
from engine.errors import CatalogError, Fault
from engine.ranges import Access, RangeError, Spent, read_range
from engine.trust import Trust
from engine.web import Web


@contextmanager
def dripping(text: bytes) -> Iterator[str]:
    """Serve an answer of one byte every 20 ms, over and over, to whoever connects."""
    ended = threading.Event()

    def drip(client: socket.socket) -> None:
        with client:
            for place in range(10_000):
                if ended.wait(0.02):
                    return
                try:
                    client.sendall(text[place % len(text) :][:1])
                except OSError:
                    return

    def accept(server: socket.socket) -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=drip, args=(client,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=accept, args=(server,), daemon=True).start()
        try:
            yield f"127.0.0.1:{server.getsockname()[1]}"
        finally:
            ended.set()
            server.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("text", [b"HTTP/1.1 100 Continue\r\n\r\n", b"x"], ids=["continue for ever", "no line end"])
def test_headers_that_drip_for_ever_are_given_up(monkeypatch: pytest.MonkeyPatch, text: bytes) -> None:
    monkeypatch.setattr(connections, "HEADERS_S", 0.3)
    monkeypatch.setattr(ranges, "READ_WAITS_S", (0.01,))
    begin = time.monotonic()
    with dripping(text) as host:
        with pytest.raises(RangeError) as caught:
            read_range(f"http://{host}/a.tif", 0, 10, Access(Trust()), Spent())
        assert caught.value.kind is Fault.TRANSIENT
        with pytest.raises(CatalogError, match="no answer"):
            Web(Trust().with_hosts(host), budget_s=0.5).json(f"http://{host}/", what="catalog")
    assert time.monotonic() - begin < 4


def test_a_wait_is_told_in_seconds_or_as_a_date() -> None:
    assert retry_after({"retry-after": "7"}) == 7
    assert retry_after({}) == retry_after({"retry-after": "-3"}) == retry_after({"retry-after": "9" * 20}) == 0
    assert retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    assert retry_after({"retry-after": "Wed, 21 Oct 2099 07:28:00 GMT"}) > 1e9
