"""Tokens for the Planetary Computer's blob storage: one call per container and lifetime, fetched when reading.

Hrefs stay unsigned in lists, plans and graphs. The SDK's own cache asks again whenever less than 60 s are left,
so a short token would be fetched for every read, it waits without a limit, and it leaves an href alone that
carries an expired signature. So its settings, address rules and token model are used, and the cache is ours.
"""

from __future__ import annotations

import datetime as dt
import math
import re
import threading
import time
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import planetary_computer.sas as sdk
from planetary_computer.settings import Settings
from pydantic import ValidationError

from engine.errors import CatalogError
from engine.trust import Trust, unsigned
from engine.web import BUDGET_S, Web

PUBLIC: Final = "ai4edatasetspublicassets"
"""Storage account of thumbnails, which needs no signature."""

_ACCOUNT: Final = re.compile(r"[a-z0-9]{3,24}")
_CONTAINER: Final = re.compile(r"[a-z0-9$][a-z0-9-]{2,62}")
"""Azure's rules: nothing else becomes part of the token service's address."""

_MARGIN_S: Final = 60.0
_MARGIN_SHARE: Final = 0.25
_EXPIRED_WAIT_S: Final = 1.0


@dataclass(frozen=True)
class _Token:
    query: str
    refresh_at: float
    """``time.time()`` from which another is fetched."""


# Of the process, not of a Signer: every task unpickles its own Signer.
_tokens: dict[str, _Token] = {}
_locks: dict[str, threading.Lock] = {}
_guard = threading.Lock()


@dataclass(frozen=True)
class Signer:
    """Signs hrefs of Planetary Computer containers at the moment of reading; safe in threads and pickles.

    The token service is the SDK's (``PC_SDK_SAS_URL``, ``PC_SDK_SUBSCRIPTION_KEY``). Tokens live in this process
    only: a pickled Signer holds none.

    Examples
    --------
    >>> Signer(Trust()).sign("https://landsatlook.usgs.gov/data/a.tif")  # not a blob container: left alone
    'https://landsatlook.usgs.gov/data/a.tif'
    """

    trust: Trust
    """Must allow the token service's host."""

    budget_s: float = BUDGET_S
    """Seconds in which a token must have arrived, retries included."""

    def sign(self, href: str, budget_s: float = math.inf) -> str:
        """Return the href with a valid token, or as it is where none is needed.

        Parameters
        ----------
        href : str
        budget_s : float
            Seconds the caller can wait, where those are fewer than the signer's own.

        Raises
        ------
        CatalogError
            If no valid token arrives in time.
        TrustError
            If the token service's host is not allowed.
        """
        service = _service(href)
        if service is None:
            return href
        with _guard:
            lock = _locks.setdefault(service, threading.Lock())
        deadline = time.monotonic() + max(0.0, min(self.budget_s, budget_s))
        # One call, however many threads wait for it.
        if not lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise CatalogError(f"{_name(service)} did not arrive in time", fix="try again later")
        try:
            token = _tokens.get(service)
            if token is None or time.time() >= token.refresh_at:
                token = _tokens[service] = self._fetch(service, deadline)
        finally:
            lock.release()
        return f"{unsigned(href)}?{token.query}"

    def forget(self, href: str) -> None:
        """Drop the token of an href's container, after the storage refused it; the next ``sign`` fetches another.

        Of a signed href only the token it carries is dropped: when many readers meet one refusal, the first
        fetches a new token and the others use that.
        """
        service = _service(href) or ""
        token = _tokens.get(service)
        if token is not None and href.partition("?")[2] in ("", token.query):
            _tokens.pop(service, None)

    def _fetch(self, service: str, deadline: float) -> _Token:
        what = _name(service)
        key = Settings.get().subscription_key
        headers = {"Ocp-Apim-Subscription-Key": key} if key else None
        expired: CatalogError | None = None
        while True:
            web = Web(self.trust, budget_s=max(0.0, deadline - time.monotonic()))
            try:
                answer = web.json(service, what=what, headers=headers)
            except CatalogError:
                # The last ask has little time left: that it got no answer is not what is wrong.
                if expired is not None and time.monotonic() >= deadline:
                    raise expired from None
                raise
            try:
                token = sdk.SASToken(**answer)
            except (TypeError, ValidationError):
                token = None
            # Not chained or quoted: the answer may hold a token.
            if token is None or not token.token.isascii() or any(c.isspace() for c in token.token):
                raise CatalogError(f"{what}: the service's answer holds no token", fix="check PC_SDK_SAS_URL")
            expiry = token.expiry if token.expiry.tzinfo else token.expiry.replace(tzinfo=dt.UTC)
            now = time.time()
            left = expiry.timestamp() - now
            if left > 0:
                return _Token(token.token, now + left - min(_MARGIN_S, left * _MARGIN_SHARE))
            expired = CatalogError(f"{what}: only expired tokens arrive", fix="check this machine's clock")
            if time.monotonic() + _EXPIRED_WAIT_S > deadline:
                raise expired
            time.sleep(_EXPIRED_WAIT_S)


def _name(service: str) -> str:
    return f"token of {'/'.join(service.rsplit('/', 2)[1:])}"


def _service(href: str) -> str | None:
    """Return the address that gives the token for an href; None where none is needed."""
    parts = urlsplit(href)
    account, dot, domain = parts.netloc.lower().partition(".")
    container = parts.path.strip("/").partition("/")[0]
    if f"{dot}{domain}" != sdk.BLOB_STORAGE_DOMAIN or account == PUBLIC:
        return None
    if not (_ACCOUNT.fullmatch(account) and _CONTAINER.fullmatch(container)):
        return None
    return f"{Settings.get().sas_url}/{account}/{container}"
