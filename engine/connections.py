"""Connections that end: a server that sends a byte of a header now and then holds no thread for ever.

urllib3 bounds the silence between two bytes, and its callers what they read of a body; neither bounds the status line
and the headers, of which a hostile server can send one byte a second for a week.
"""

from __future__ import annotations

import http.client
import io
import logging
import math
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Final

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

from engine.trust import redact

HEADERS_S: Final = 30.0
"""From the sent request until the last byte of the answer's headers."""


class _Redacting(logging.Filter):
    """urllib3 logs what it asks for, signature and all, where somebody turns debugging on."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redact(record.getMessage()), ()
        return True


logging.getLogger("urllib3.connectionpool").addFilter(_Redacting())


class _Incoming(io.RawIOBase):
    """What a socket receives, until a moment."""

    def __init__(self, sock: Any) -> None:
        self.sock, self.silence = sock, sock.gettimeout()
        self.received = sock.makefile("rb", buffering=0)
        self.until = time.monotonic() + HEADERS_S

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self.until - time.monotonic()
        if left <= 0:
            raise TimeoutError("the headers do not end")
        if left < (math.inf if self.silence is None else self.silence):
            self.sock.settimeout(left)
        return self.received.readinto(buffer)

    def headers_ended(self) -> None:
        self.until = math.inf
        if self.sock.gettimeout() != self.silence and self.sock.fileno() >= 0:
            self.sock.settimeout(self.silence)

    def close(self) -> None:
        self.received.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        self._incoming = _Incoming(sock)
        super().__init__(self._incoming, *args, **kwargs)  # type: ignore[arg-type] # which only makes a file of it

    def begin(self) -> None:
        super().begin()
        self._incoming.headers_ended()


class _Connection(HTTPConnection):
    response_class = _Response


class _SecureConnection(HTTPSConnection):
    response_class = _Response


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


def ending(manager: urllib3.PoolManager) -> urllib3.PoolManager:
    """Let the connections that a manager will open end; return it."""
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}
    return manager


def retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds an answer asks to wait, told as such or as a date; 0 where it does not.

    Examples
    --------
    >>> retry_after({"retry-after": "7"}), retry_after({"retry-after": "soon"})
    (7.0, 0.0)
    """
    text = headers.get("retry-after") or ""
    if re.fullmatch(r"\d{1,9}", text):
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0
