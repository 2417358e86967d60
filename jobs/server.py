"""An application on a socket until a signal comes; nobody holds a connection by being silent or slow."""

from __future__ import annotations

import asyncio
import gc
import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from engine.errors import ConfigError

if TYPE_CHECKING:
    import uvicorn

HEAD_SECONDS: Final = 5.0
"""A connection that has sent no whole head of a request for so long, or for twice as long, is closed; one that does not
shake hands for TLS, after so long."""

ANSWER_SECONDS: Final = 60.0
"""The same where an answer is not taken; how long the making of one may take is the application's affair."""


class Loop(asyncio.SelectorEventLoop):
    """A loop that waits for the handshake of TLS no longer than for the head of a request: not 60 s."""

    async def create_server(self, *args: Any, ssl: Any = None, **options: Any) -> asyncio.Server:
        if ssl is not None:
            options["ssl_handshake_timeout"] = HEAD_SECONDS
        return await super().create_server(*args, ssl=ssl, **options)


def serve_on(listener: socket.socket, server: uvicorn.Server) -> None:
    """Serve on a socket until a signal comes; requests under way are answered first."""
    # What was imported and loaded, some million objects, stays: each search for garbage would stop an answer over it.
    gc.collect()
    gc.freeze()
    with suppress(KeyboardInterrupt):  # uvicorn raises the signal once more when all is closed
        server.run(sockets=[listener])


def make_server(
    app: Any, *, connections: int, grace_seconds: int, tls: tuple[Path | None, Path | None] = (None, None)
) -> uvicorn.Server:
    """Return a server of an application.

    Parameters
    ----------
    app : ASGI application
    connections : int
        Beyond so many, requests are told 503.
    grace_seconds : int
        For the answers under way, when it is stopped.
    tls : tuple of Path
        Certificate and key, PEM; without a certificate it is plain HTTP.

    Raises
    ------
    ConfigError
        If certificate or key cannot be used.
    """
    import uvicorn

    certificate, key = tls
    config = uvicorn.Config(
        app,
        loop="jobs.server:Loop",
        http=_protocol(),
        ws="none",
        log_config=None,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=connections,
        timeout_graceful_shutdown=grace_seconds,
        h11_max_incomplete_event_size=16 * 1024,
        ssl_certfile=certificate,
        ssl_keyfile=key,
    )
    try:
        config.load()
    except OSError as error:  # of the TLS library too
        raise ConfigError(f"--certificate {certificate} cannot be used: {error}", fix="give PEM files") from None
    return uvicorn.Server(config)


def _protocol() -> type[asyncio.Protocol]:
    """Return uvicorn's protocol of HTTP, but one that does not wait for ever."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Impatient(H11Protocol):
        def __init__(self, config: uvicorn.Config, *args: Any, **kwargs: Any) -> None:
            super().__init__(config, *args, **kwargs)
            self.seen: Any = self
            self.untaken = 0.0

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            # asyncio does this where it made the listener, and not every system hands it down from one of ours: the
            # body of an answer would wait 40 ms for its head to be acknowledged.
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.loop.call_later(HEAD_SECONDS, self.look)

        def look(self) -> None:
            """Close the connection if it waits for the same request as when it was last looked at, or is not read."""
            waits = self.cycle is None or self.cycle.response_complete
            # Of an answer that is whole but not taken, too: it still is the server's to send.
            left = self.transport.get_write_buffer_size()
            self.untaken = self.untaken + HEAD_SECONDS if left else 0.0
            if self.untaken >= ANSWER_SECONDS:
                self.transport.abort()
            elif waits and not left and self.seen is self.cycle:
                self.transport.close()
            if not self.transport.is_closing():
                self.seen = self.cycle if waits else self
                self.loop.call_later(HEAD_SECONDS, self.look)

    return Impatient
