"""Documents and files over HTTP from allowed hosts: bounded in size, time and redirects, retried when it may help."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter

from engine.connections import ending, retry_after
from engine.errors import CatalogError, Fault
from engine.trust import Trust, redact

BUDGET_S: Final = 60.0
"""Seconds in which one document must have arrived, retries included."""

MAX_BYTES: Final = 64 * 2**20
"""A page of 250 full Landsat items is 5 MB."""

_TRANSIENT: Final = (408, 425, 429, 500, 502, 503, 504)
_ATTEMPTS: Final = 6
_FIRST_WAIT_S: Final = 0.5
_REDIRECTS: Final = 5
_CHUNK: Final = 2**16
_SLOWEST: Final = 2**14
"""Bytes a second below which a download is given up."""
_BROKEN: Final = (requests.RequestException, urllib3.exceptions.HTTPError, ValueError)
"""What a connection raises that breaks off, stands still, or brings what is not HTTP."""


class Web:
    """Get JSON and files from the hosts of a ``Trust``.

    Parameters
    ----------
    trust : Trust
        Every address, also of a redirect, must pass ``trust.url``.
    budget_s : float
        Seconds one document may take in all.
    """

    def __init__(self, trust: Trust, *, budget_s: float = BUDGET_S) -> None:
        self.trust = trust
        self.budget_s = budget_s
        self._session = requests.Session()
        self._session.headers["Accept-Encoding"] = "gzip"
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, _EndingAdapter())

    def json(self, url: str, *, what: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Any:
        """Return a decoded JSON document; with ``body`` it is asked for by POST.

        Raises
        ------
        CatalogError
            If it does not arrive, is too large, or is not JSON.
        TrustError
            If the address, or one it redirects to, is not allowed.
        """
        # Headers may hold a key: they do not follow a redirect.
        return self._get(
            url,
            lambda answer, deadline: _decode(_read(answer, MAX_BYTES, deadline, what), what),
            what=what,
            body=body,
            headers=headers,
            redirects=0 if headers else _REDIRECTS,
        )

    def content(self, url: str, *, what: str, max_bytes: int = MAX_BYTES) -> bytes:
        """Return a file's bytes; raises as ``json``."""
        return self._get(url, lambda answer, deadline: _read(answer, max_bytes, deadline, what), what=what)

    def download(self, url: str, path: Path, *, size: int, md5: str, what: str) -> None:
        """Fetch a large file, going on where an earlier attempt stopped; nothing is asked where it is there.

        Parameters
        ----------
        url : str
        path : Path
            The file has this name when it is whole, and until then ``.part`` behind it.
        size : int
            Bytes it must have.
        md5 : str
            Hexadecimal digest it must have.
        what : str
            Its name in errors.

        Raises
        ------
        CatalogError
            If it does not arrive, then what came is kept; or if it is not as announced, then it is removed.
        TrustError
            If the address, or one it redirects to, is not allowed.
        OSError
            If it cannot be written.
        """
        if _is_whole(path, size, md5):
            return
        part = path.with_name(f"{path.name}.part")
        deadline = time.monotonic() + self.budget_s + size / _SLOWEST
        most, idle = -1, 0
        while (start := part.stat().st_size if part.is_file() else 0) < size:
            most, idle = max(most, start), 0 if start > most else idle + 1
            if idle >= _ATTEMPTS or time.monotonic() > deadline:
                raise CatalogError(
                    f"{what} broke off at {start / 1e6:.1f} of {size / 1e6:.1f} MB", fix="run it again to go on"
                )
            time.sleep(_FIRST_WAIT_S * (2**idle - 1))
            # Identity: a range of a compressed answer is not one of the file.
            headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
            self._get(url, lambda answer, _: _append(answer, part, size, deadline), what=what, headers=headers)
        if not _is_whole(part, size, md5):
            part.unlink()
            raise CatalogError(f"{what} does not have the size and md5 announced", fix="run it again")
        part.replace(path)

    def _get[Result](
        self,
        url: str,
        take: Callable[[requests.Response, float], Result],
        *,
        what: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        redirects: int = _REDIRECTS,
    ) -> Result:
        """Return what ``take`` makes of the answer before a deadline; asked again where that may help."""
        deadline = time.monotonic() + self.budget_s
        wait, hops, attempt = _FIRST_WAIT_S, 0, 0
        while True:
            address = self.trust.url(url, what=what)
            method = "GET" if body is None else "POST"
            left = max(0.1, deadline - time.monotonic())
            try:
                with self._session.request(
                    method,
                    address,
                    json=body,
                    headers=headers,
                    timeout=(min(10, left), min(30, left)),
                    stream=True,
                    allow_redirects=False,
                ) as answer:
                    if answer.is_redirect:
                        hops += 1
                        if hops > redirects:
                            raise CatalogError(f"{what}: too many redirects", fix="give the final address")
                        url = urljoin(url, answer.headers["location"])
                        body = body if answer.status_code in (307, 308) else None
                        continue
                    if answer.status_code < 400:
                        return take(answer, deadline)
                    fault = f"HTTP {answer.status_code}"
                    if answer.status_code not in _TRANSIENT:
                        raise _failed(what, address, fault, Fault.PERMANENT)
                    wait = max(wait, retry_after(answer.headers))
            except requests.exceptions.SSLError:
                raise _failed(what, address, "certificate refused", Fault.HOSTILE) from None
            except _BROKEN as error:
                # Not chained: the message may hold a signed address.
                fault = "answer is not JSON" if isinstance(error, _NotJson) else type(error).__name__
            attempt += 1
            if attempt >= _ATTEMPTS or time.monotonic() + wait > deadline:
                raise _failed(what, address, f"{fault}, tried {attempt} times", Fault.TRANSIENT) from None
            time.sleep(wait)
            wait *= 2


class _EndingAdapter(HTTPAdapter):
    """An adapter whose connections end."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        ending(self.poolmanager)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        return ending(super().proxy_manager_for(*args, **kwargs))


class _NotJson(ValueError):
    """An HTML page in place of an answer, once or for good."""


def _decode(data: bytes, what: str) -> Any:
    try:
        return json.loads(data)
    except ValueError as error:
        raise _NotJson from error
    except RecursionError:
        raise CatalogError(f"{what}: answer is nested too deep", fix="report it", kind=Fault.HOSTILE) from None


def _read(answer: requests.Response, max_bytes: int, deadline: float, what: str) -> bytes:
    parts, size = [], 0
    for part in _chunks(answer, deadline):
        parts.append(part)
        size += len(part)
        if size > max_bytes:
            raise CatalogError(f"{what}: answer is larger than {max_bytes >> 20} MB", fix="ask for a smaller part")
    return b"".join(parts)


def _append(answer: requests.Response, path: Path, size: int, deadline: float) -> None:
    """Write what comes until it ends, breaks off or is too much, behind what is there unless the server starts over."""
    with path.open("ab" if answer.status_code == 206 else "wb") as file, suppress(*_BROKEN):
        for part in _chunks(answer, deadline):
            file.write(part)
            if file.tell() > size:
                return


def _chunks(answer: requests.Response, deadline: float) -> Iterator[bytes]:
    """Yield a body as it comes; ``iter_content`` would wait for a whole chunk, however slowly it trickles in."""
    while part := answer.raw.read1(_CHUNK, decode_content=True):
        if time.monotonic() > deadline:
            raise requests.Timeout
        yield part


def _is_whole(path: Path, size: int, md5: str) -> bool:
    if not path.is_file() or path.stat().st_size != size:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest() == md5


def _failed(what: str, address: str, fault: str, kind: Fault) -> CatalogError:
    problem = f"{what}: no answer from {urlsplit(address).netloc} ({redact(fault)})"
    return CatalogError(problem, fix="check the address, or try later", kind=kind)
