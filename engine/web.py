"""Small documents over HTTP from allowed hosts: bounded in size, time and redirects, retried when it may help."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

import requests

from engine.errors import CatalogError
from engine.trust import Trust, redact

BUDGET_S: Final = 60.0
"""Seconds in which one document must have arrived, retries included."""

MAX_BYTES: Final = 64 * 2**20
"""A page of 250 full Landsat items is 5 MB."""

_TRANSIENT: Final = (408, 425, 429, 500, 502, 503, 504)
_ATTEMPTS: Final = 6
_FIRST_WAIT_S: Final = 0.5
_REDIRECTS: Final = 5


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

    def json(self, url: str, *, what: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Any:
        """Return a decoded JSON document; with ``body`` it is asked for by POST.

        Raises
        ------
        CatalogError
            If it does not arrive, is too large, or is not JSON.
        TrustError
            If the address, or one it redirects to, is not allowed.
        """
        return self._get(url, what=what, body=body, headers=headers, max_bytes=MAX_BYTES, decode=_decode)

    def content(self, url: str, *, what: str, max_bytes: int = MAX_BYTES) -> bytes:
        """Return a file's bytes; raises as ``json``."""
        return self._get(url, what=what, max_bytes=max_bytes)

    def _get(
        self,
        url: str,
        *,
        what: str,
        max_bytes: int,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        decode: Any = bytes,
    ) -> Any:
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
                        if hops > _REDIRECTS or headers:  # headers may hold a key
                            raise CatalogError(f"{what}: too many redirects", fix="give the final address")
                        url = urljoin(url, answer.headers["location"])
                        body = body if answer.status_code in (307, 308) else None
                        continue
                    if answer.status_code < 400:
                        return decode(_read(answer, max_bytes, deadline, what))
                    fault = f"HTTP {answer.status_code}"
                    if answer.status_code not in _TRANSIENT:
                        raise _failed(what, address, fault)
                    pause = answer.headers.get("retry-after", "")
                    wait = max(wait, float(pause) if pause.isdigit() else 0.0)
            except requests.exceptions.SSLError:
                raise _failed(what, address, "certificate refused") from None
            except (requests.RequestException, ValueError) as error:
                # Not chained: the message may hold a signed address.
                fault = "answer is not JSON" if isinstance(error, _NotJson) else type(error).__name__
            attempt += 1
            if attempt >= _ATTEMPTS or time.monotonic() + wait > deadline:
                raise _failed(what, address, f"{fault}, tried {attempt} times") from None
            time.sleep(wait)
            wait *= 2


class _NotJson(ValueError):
    """An HTML page in place of an answer, once or for good."""


def _decode(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _NotJson from error


def _read(answer: requests.Response, max_bytes: int, deadline: float, what: str) -> bytes:
    parts, size = [], 0
    for part in answer.iter_content(2**16):
        parts.append(part)
        size += len(part)
        if size > max_bytes:
            raise CatalogError(f"{what}: answer is larger than {max_bytes >> 20} MB", fix="ask for a smaller part")
        if time.monotonic() > deadline:
            raise requests.Timeout
    return b"".join(parts)


def _failed(what: str, address: str, fault: str) -> CatalogError:
    host = urlsplit(address).netloc
    return CatalogError(f"{what}: no answer from {host} ({redact(fault)})", fix="check the address, or try later")
