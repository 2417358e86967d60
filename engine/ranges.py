"""Byte ranges of files, local, in buckets or over HTTP: signed when they are asked for, asked again where that helps.

Connections are kept and shared by all threads of a process. A redirect is a fault: it could lead anywhere, and so
an allowed host with an open redirect would allow them all (which is why object-store clients that follow them on
their own are not used to read what a catalog names).
"""

from __future__ import annotations

import math
import os
import random
import re
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, Protocol
from urllib.parse import unquote, urlsplit

import certifi
import urllib3

from engine.connections import ending, retry_after
from engine.errors import Fault
from engine.params import REQUESTS
from engine.places import ObjectPath
from engine.trust import Trust

READ_WAITS_S: Final = (1.0, 4.0, 16.0)
"""Before something remote is read again: storage that stays ill is told after about 30 s, a missing file at once."""

READ_BUDGET_S: Final = 80.0
"""Of all attempts, waits and signatures together: none begins later, or goes on for longer."""

REQUEST_S: Final = 60.0
"""Of one request, however slowly it is answered."""

SILENCE_S: Final = 20.0
"""Without a byte, a request is given up."""

MAX_RANGE_BYTES: Final = 2 * 2**20
"""Neighbouring ranges are merged up to this; with the requests in flight it bounds what is held undecoded."""

MAX_GAP_BYTES: Final = 2**17
"""Bytes read for nothing where that saves a request: 50 ms at 20 Mbit/s."""

_CHUNK: Final = 2**18
_JITTER: Final = (0.75, 1.25)
# A storage that gives too much to do says 403 too, to those who need not sign.
_PERMANENT: Final = (400, 401, 404, 405, 410, 416, 451)
_FAULTS: Final = (
    (urllib3.exceptions.SSLError, "connection broke off"),
    (urllib3.exceptions.ProxyError, "the proxy does not answer"),
    (urllib3.exceptions.NameResolutionError, "no such host"),
    ((urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError), "no connection"),
    (urllib3.exceptions.TimeoutError, "silence"),
    (urllib3.exceptions.ProtocolError, "connection broke off"),
)
_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")


class Signs(Protocol):
    """Whatever can sign an href (``engine.sign.Signer``)."""

    def sign(self, href: str, budget_s: float) -> str: ...
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

    def __init__(self, problem: str, kind: Fault = Fault.PERMANENT, wait_s: float = 0.0) -> None:
        super().__init__(problem, kind, wait_s)
        self.kind = kind
        self.wait_s = wait_s
        """What the server asks to wait before another request."""

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass
class Spent:
    """Seconds, summed over threads, and bytes that went into each stage of a task; requests, and faults by kind."""

    seconds: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    attempts: int = 0
    """Requests sent for ranges, those included that failed."""

    faults: Counter[Fault] = field(default_factory=Counter)
    """Requests that failed, also where a later one brought the range."""
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

    def count(self, fault: Fault | None) -> None:
        """Count one request, and its fault if it had one."""
        with self._lock:
            self.attempts += 1
            if fault is not None:
                self.faults[fault] += 1

    def record(self) -> dict[str, dict[str, float]]:
        """Return ``{stage: {"seconds": ..., "bytes": ...}}`` for a completion marker."""
        return {stage: {"seconds": round(self.seconds[stage], 3), "bytes": self.bytes[stage]} for stage in self.seconds}

    def of_range(self, about: Mapping[str, Any]) -> Spent:
        """Return where one range of a file is counted; ``about`` names its scene and asset."""
        return self


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
        At once for what is permanent or hostile; for what is transient once ``READ_WAITS_S`` or ``READ_BUDGET_S``
        are used up; for a signature that is refused once another one is refused too.
    """
    return read_part(address, start, stop, access, spent)[0]


def read_part(
    address: str, start: int, stop: int, access: Access, spent: Spent
) -> tuple[bytes | bytearray, int | None]:
    """Return what ``read_range`` does, and the size of the whole file where the answer tells it."""
    if not address.startswith(("https://", "http://")):
        with spent.on("fetch", stop - start):
            return _read_file(address, start, stop), None
    deadline = time.monotonic() + READ_BUDGET_S
    waits, refused = iter(READ_WAITS_S), False
    while True:
        with spent.on("sign"):
            left = deadline - time.monotonic()
            signed = access.signer.sign(address, left) if access.signer is not None else address
        with spent.on("fetch", stop - start):
            try:
                until = min(deadline, time.monotonic() + REQUEST_S)
                answer = _ask(signed, start, stop, expires=signed != address, deadline=until)
            except RangeError as error:
                fault = error
            except (urllib3.exceptions.HTTPError, OSError) as error:
                fault = _broken(error)
            else:
                spent.count(None)
                return answer
        spent.count(fault.kind)
        if fault.kind is Fault.EXPIRED and access.signer is not None:
            access.signer.forget(signed)
            if refused:
                raise RangeError(f"{fault}, also when signed again", Fault.PERMANENT)
            if time.monotonic() > deadline:
                raise fault
            refused = True
            continue
        refused = False
        # Not all at the same moment: what made a thousand readers wait would meet them all again.
        wait = max(next(waits, math.inf) * random.uniform(*_JITTER), fault.wait_s)
        if fault.kind is not Fault.TRANSIENT or time.monotonic() + wait > deadline:
            raise fault
        time.sleep(wait)


def _read_file(address: str, start: int, stop: int) -> bytes:
    try:
        if "://" in address:
            return ObjectPath(address).read_range(start, stop)
        with open(address, "rb", buffering=0) as file:  # noqa: PTH123 three times the speed of Path.open
            return os.pread(file.fileno(), stop - start, start)
    except OSError as error:
        lasting = "://" not in address or isinstance(error, FileNotFoundError | PermissionError)
        kind = Fault.PERMANENT if lasting else Fault.TRANSIENT  # a store's client has tried again by itself
        raise RangeError(error.strerror or type(error).__name__, kind) from None


def _broken(error: Exception) -> RangeError:
    """Return what a connection's error means: not chained or quoted, as its message may hold a signed address."""
    if isinstance(error, urllib3.exceptions.SSLError) and "certificate" in str(error).lower():
        return RangeError("certificate refused", Fault.HOSTILE)
    said = next((said for kind, said in _FAULTS if isinstance(error, kind)), type(error).__name__)
    return RangeError(said, Fault.TRANSIENT)


def _refusal(status: int, wait_s: float, *, expires: bool) -> RangeError:
    """Return what a status other than 206 means; ``expires`` where the request carried a signature."""
    if 300 <= status < 400:
        return RangeError(f"HTTP response code: {status}, a redirect", Fault.HOSTILE)
    if status == 403 and expires:
        return RangeError(f"HTTP response code: {status}", Fault.EXPIRED)
    where = " in place of a range" if status == 200 else ""
    kind = Fault.PERMANENT if status in _PERMANENT else Fault.TRANSIENT
    return RangeError(f"HTTP response code: {status}{where}", kind, wait_s)


def _ask(url: str, start: int, stop: int, *, expires: bool, deadline: float) -> tuple[bytearray, int | None]:
    """Ask once for a range over HTTP, until a moment of the monotonic clock."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise RangeError("too slow", Fault.TRANSIENT)
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
        timeout=urllib3.Timeout(connect=min(10.0, left), read=min(SILENCE_S, left)),
    )
    whole = False
    try:
        if answer.status != 206:
            raise _refusal(answer.status, retry_after(answer.headers), expires=expires)
        size, total = _given_range(answer, start, stop)
        data, at = bytearray(size), 0  # in place: pieces and their sum would be twice as much
        while at < size:
            if (sock := getattr(answer.connection, "sock", None)) is not None:
                sock.settimeout(max(0.01, min(SILENCE_S, deadline - time.monotonic())))
            part = answer.read1(min(_CHUNK, size - at))
            if not part or time.monotonic() > deadline:
                raise RangeError("connection broke off" if not part else "too slow", Fault.TRANSIENT)
            data[at : at + len(part)] = part
            at += len(part)
        whole = True
        return data, total
    finally:
        # What was not read to its end must not be the beginning of the next answer.
        answer.release_conn() if whole else answer.close()


def _given_range(answer: urllib3.BaseHTTPResponse, start: int, stop: int) -> tuple[int, int | None]:
    """Return how many bytes an answer brings of a range, all up to the file's end, and the file's size if told."""
    given = _CONTENT_RANGE.fullmatch(answer.headers.get("content-range", ""))
    first, last = (int(given[1]), int(given[2]) + 1) if given else (-1, -1)
    total = int(given[3]) if given and given[3] != "*" else None
    if first != start or not first < last <= stop or (last < stop and total != last):
        raise RangeError("another range than was asked for", Fault.TRANSIENT)
    if answer.headers.get("content-encoding", "identity") != "identity":
        raise RangeError("compressed by the server", Fault.TRANSIENT)
    return last - first, total


@lru_cache(maxsize=64)
def _pool(scheme: str, host: str) -> urllib3.PoolManager:
    """Return the connections of this process to a host, through the proxy that the environment names for it."""
    settings: dict[str, Any] = {"maxsize": 256, "ca_certs": os.environ.get("SSL_CERT_FILE") or certifi.where()}
    proxy = None if urllib.request.proxy_bypass(host) else urllib.request.getproxies().get(scheme)
    if not proxy:
        return ending(urllib3.PoolManager(**settings))
    parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    login = urllib3.make_headers(proxy_basic_auth=unquote(parts.netloc.rpartition("@")[0])) if parts.username else None
    return ending(urllib3.ProxyManager(parts.geturl(), proxy_headers=login, **settings))


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
