"""Byte ranges of files, local, in buckets or over HTTP: signed when they are asked for, asked again where that helps.

Connections are kept and shared by all threads of a process. A redirect is a fault: it could lead anywhere, and so
an allowed host with an open redirect would allow them all (which is why object-store clients that follow them on
their own are not used to read what a catalog names).
"""

from __future__ import annotations

import math
import os
import re
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, Protocol
from urllib.parse import unquote, urlsplit

import certifi
import urllib3

from engine.errors import Fault
from engine.params import REQUESTS
from engine.places import ObjectPath
from engine.trust import Trust

READ_WAITS_S: Final = (1.0, 4.0, 16.0)
"""Before something remote is read again: storage that stays ill is told after about 30 s, a missing file at once."""

READ_BUDGET_S: Final = 80.0
"""No attempt begins later than this after the first."""

REQUEST_S: Final = 60.0
"""Of one request, however slowly it is answered."""

SILENCE_S: Final = 20.0
"""Without a byte, a request is given up."""

MAX_RANGE_BYTES: Final = 2 * 2**20
"""Neighbouring ranges are merged up to this; with the requests in flight it bounds what is held undecoded."""

MAX_GAP_BYTES: Final = 2**17
"""Bytes read for nothing where that saves a request: 50 ms at 20 Mbit/s."""

_CHUNK: Final = 2**18
_PERMANENT: Final = (400, 401, 404, 405, 410, 416, 451)
_FAULTS: Final = (
    (urllib3.exceptions.SSLError, "certificate refused"),
    (urllib3.exceptions.ProxyError, "the proxy does not answer"),
    (urllib3.exceptions.NameResolutionError, "no such host"),
    ((urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError), "no connection"),
    (urllib3.exceptions.TimeoutError, "silence"),
    (urllib3.exceptions.ProtocolError, "connection broke off"),
)
_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")


class Signs(Protocol):
    """Whatever can sign an href (``engine.sign.Signer``)."""

    def sign(self, href: str) -> str: ...
    def forget(self, href: str) -> None: ...


@dataclass(frozen=True)
class Access:
    """How assets are reached: what may be opened, and who signs. Holds no token, so it may travel in graphs."""

    trust: Trust
    signer: Signs | None = None

    requests: int = REQUESTS
    """Byte ranges a task asks for at once; with a longer way to the storage, more."""


class RangeError(Exception):
    """Bytes that cannot be had; the message holds no address, the kind what another read would bring."""

    def __init__(self, problem: str, kind: Fault = Fault.PERMANENT) -> None:
        super().__init__(problem, kind)
        self.kind = kind

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass
class Spent:
    """Seconds, summed over threads, and bytes that went into each stage of a task."""

    seconds: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @contextmanager
    def on(self, stage: str, size: int = 0) -> Iterator[None]:
        """Count the time of a block, and bytes known before."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self.seconds[stage] += time.perf_counter() - begin  # type: ignore[assignment]
                self.bytes[stage] += size

    def record(self) -> dict[str, dict[str, float]]:
        """Return ``{stage: {"seconds": ..., "bytes": ...}}`` for a completion marker."""
        return {stage: {"seconds": round(self.seconds[stage], 3), "bytes": self.bytes[stage]} for stage in self.seconds}


def read_range(address: str, start: int, stop: int, access: Access, spent: Spent) -> bytes | bytearray:
    """Return the bytes of a file between two places, fewer only where the file ends.

    Parameters
    ----------
    address : str
        Checked by ``Trust.check``: an unsigned http(s) URL, the address of an object, or a path.
    start, stop : int
        First byte, and first byte after.
    access : Access
    spent : Spent

    Raises
    ------
    RangeError
        If they do not arrive within ``READ_BUDGET_S``, or never will.
    """
    if not address.startswith(("https://", "http://")):
        with spent.on("fetch", stop - start):
            try:
                return _read_file(address, start, stop)
            except OSError as error:
                raise RangeError(error.strerror or type(error).__name__) from None
    deadline = time.monotonic() + READ_BUDGET_S
    for wait in (*READ_WAITS_S, math.inf):
        with spent.on("sign"):
            signed = access.signer.sign(address) if access.signer is not None else address
        with spent.on("fetch", stop - start):
            fault, passing = "", True
            try:
                return _ask(signed, start, stop)
            except _Answer as answer:
                fault, passing = answer.args[0], answer.passing
            except (urllib3.exceptions.HTTPError, OSError) as error:
                # Not chained or quoted: the message may hold a signed address.
                fault = next((said for kind, said in _FAULTS if isinstance(error, kind)), type(error).__name__)
        if not passing or time.monotonic() + wait > deadline:
            raise RangeError(fault)
        if access.signer is not None:
            access.signer.forget(signed)  # a read that broke off does not say whether its token was refused
        time.sleep(wait)
    raise AssertionError


def _read_file(address: str, start: int, stop: int) -> bytes:
    if "://" in address:
        return ObjectPath(address).read_range(start, stop)
    with open(address, "rb", buffering=0) as file:  # noqa: PTH123 three times the speed of Path.open
        return os.pread(file.fileno(), stop - start, start)


class _Answer(Exception):
    """An answer that does not hold the range; ``passing`` if another try may bring it."""

    def __init__(self, fault: str, *, passing: bool) -> None:
        super().__init__(fault)
        self.passing = passing


def _ask(url: str, start: int, stop: int) -> bytearray:
    """Ask once for a range over HTTP."""
    deadline = time.monotonic() + REQUEST_S
    parts = urlsplit(url)
    headers = {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
    if (parts.hostname or "").endswith(".localhost"):  # RFC 6761, 6.3, of which Python's resolver knows nothing
        headers["Host"] = parts.netloc
        parts = parts._replace(netloc=f"127.0.0.1:{parts.port or 80}")
    answer = _pool(parts.scheme, parts.hostname or "").request(
        "GET",
        parts.geturl(),
        headers=headers,
        redirect=False,
        retries=False,
        preload_content=False,
        timeout=urllib3.Timeout(connect=10.0, read=SILENCE_S),
    )
    whole = False
    try:
        if answer.status != 206:
            passing = answer.status not in _PERMANENT and not 300 <= answer.status < 400
            kind = " in place of a range" if answer.status == 200 else ""
            raise _Answer(f"HTTP response code: {answer.status}{kind}", passing=passing)
        given = _CONTENT_RANGE.fullmatch(answer.headers.get("content-range", ""))
        first, last = (int(given[1]), int(given[2]) + 1) if given else (-1, -1)
        ends = given is not None and given[3] == str(last)
        if first != start or not first < last <= stop or (last < stop and not ends):
            raise _Answer("another range than was asked for", passing=True)
        if answer.headers.get("content-encoding", "identity") != "identity":
            raise _Answer("compressed by the server", passing=True)
        data, size = bytearray(last - first), 0  # in place: pieces and their sum would be twice as much
        while size < len(data):
            part = answer.read1(min(_CHUNK, len(data) - size))
            if not part or time.monotonic() > deadline:
                raise _Answer("connection broke off" if not part else "too slow", passing=True)
            data[size : size + len(part)] = part
            size += len(part)
        whole = True
        return data
    finally:
        # What was not read to its end must not be the beginning of the next answer.
        answer.release_conn() if whole else answer.close()


@lru_cache(maxsize=64)
def _pool(scheme: str, host: str) -> urllib3.PoolManager:
    """Return the connections of this process to a host, through the proxy that the environment names for it."""
    settings: dict[str, Any] = {"maxsize": 256, "ca_certs": os.environ.get("SSL_CERT_FILE") or certifi.where()}
    proxy = None if urllib.request.proxy_bypass(host) else urllib.request.getproxies().get(scheme)
    if not proxy:
        return urllib3.PoolManager(**settings)
    parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    login = urllib3.make_headers(proxy_basic_auth=unquote(parts.netloc.rpartition("@")[0])) if parts.username else None
    return urllib3.ProxyManager(parts.geturl(), proxy_headers=login, **settings)


def merge_ranges(ranges: list[tuple[int, int]]) -> list[list[int]]:
    """Group the ranges of one file that are fetched together, by their places in the list.

    Parameters
    ----------
    ranges : list of (int, int)
        First byte and number of bytes of each.

    Returns
    -------
    list of list of int
        In order of place in the file: joined across at most ``MAX_GAP_BYTES``, up to ``MAX_RANGE_BYTES``.

    Examples
    --------
    >>> merge_ranges([(0, 10), (5_000_000, 10), (12, 8)])
    [[0, 2], [1]]
    """
    groups: list[list[int]] = []
    begin = end = 0
    for place in sorted(range(len(ranges)), key=lambda place: ranges[place]):
        start, size = ranges[place]
        if groups and start - end <= MAX_GAP_BYTES and max(end, start + size) - begin <= MAX_RANGE_BYTES:
            groups[-1].append(place)
            end = max(end, start + size)
        else:
            groups.append([place])
            begin, end = start, start + size
    return groups
