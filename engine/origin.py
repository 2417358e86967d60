"""Whether a request to a server of ours was made by a page of elsewhere, through the browser of whoever runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def foreign(scope: Mapping[str, Any], is_own: Callable[[str], bool]) -> str:
    """Return why a request is not answered, in words that follow the server's name; empty where it is.

    A page of elsewhere may make a browser call any address: under a name of its own that leads here (another Host), or
    by the true one (another Origin, a fetch that is not of the same origin). A link to the first page may stand
    anywhere, as in the terminal of a notebook server. Programs say neither origin nor site.

    Parameters
    ----------
    scope : mapping
        Of an ASGI request.
    is_own : callable
        Tells whether a Host, in lower case, names the server.

    Examples
    --------
    >>> scope = {"path": "/", "scheme": "http", "headers": [(b"host", b"localhost:80"), (b"origin", b"http://a.example")]}
    >>> foreign(scope, lambda host: host == "localhost:80")
    'is not asked by pages of other origins'
    >>> foreign(scope, lambda host: host == "127.0.0.1:80")
    'answers under its own address only'
    """
    given: dict[bytes, list[bytes]] = {}
    for name, value in scope["headers"]:
        given.setdefault(name.lower(), []).append(value.lower())
    hosts = given.get(b"host", [])
    if len(hosts) != 1 or not is_own(hosts[0].decode("latin-1")):
        return "answers under its own address only"
    own = scope["scheme"].encode() + b"://" + hosts[0]
    opened = scope["path"] == "/" and given.get(b"sec-fetch-dest") == [b"document"]
    sites = () if opened else given.get(b"sec-fetch-site", ())
    if any(origin != own for origin in given.get(b"origin", ())) or not {*sites} <= {b"same-origin", b"none"}:
        return "is not asked by pages of other origins"
    return ""
