"""``mangroves serve``: a model as a service on this machine, or beyond it with a token."""

from __future__ import annotations

import importlib.util
import os
import re
import socket
import stat
import sys
from pathlib import Path
from typing import Final

import click

from engine.errors import ConfigError
from engine.profiles import is_loopback
from engine.threads import cores
from engine.trust import Trust
from jobs.config import JSON, allowed_place
from jobs.reporter import Reporter
from jobs.server import make_server, serve_on

TOKEN_VARIABLE: Final = "MANGROVES_TOKEN"
_TOKEN: Final = re.compile(r"[!-~]{16,1024}")
_CONNECTIONS: Final = 1000
_GRACE_SECONDS: Final = 10  # for the answers under way, when it is stopped


@click.command("serve")
@click.argument("model")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; beyond this machine only with a token.",
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8300, show_default=True, help="Port to listen on; 0 for any."
)
@click.option("--threads", type=click.IntRange(1, 256), help="Requests predicted at once; default one a core.")
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    help=f"File with the token that every request must bear; default what {TOKEN_VARIABLE} holds.",
)
@click.option("--certificate", type=click.Path(path_type=Path), help="Certificate to serve https with (PEM).")
@click.option("--key", type=click.Path(path_type=Path), help="Key of the certificate (PEM).")
@click.option("--plain", is_flag=True, help="Listen beyond this machine unencrypted, where the network is your own.")
@JSON
def command(
    model: str,
    host: str,
    port: int,
    threads: int | None,
    token_file: Path | None,
    certificate: Path | None,
    key: Path | None,
    plain: bool,
    as_json: bool,
) -> None:
    """Serve a model over HTTP: rows of Landsat pixels in, probability and class of mangrove out.

    MODEL is the folder that `mangroves train` wrote. Rows are sent to /predict as JSON or CSV; /openapi.json is the
    schema. The answers are those of `mangroves predict`.
    """
    for package in ("fastapi", "uvicorn"):
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f"serve needs {package}", fix="pip install 'mangroves[serve]'")
    from engine.service import Limits, create_app, load_served, notice_of

    reporter = Reporter(as_json=as_json)
    token = _token(token_file)
    _check_exposure(host, token=bool(token), tls=(certificate, key), plain=plain)
    # Named on the command line, so allowed.
    served = load_served(allowed_place(model, Trust().with_roots(model), what="MODEL"))
    with _listen(host, port) as listener:
        name = f"[{host}]" if ":" in host else host
        address = f"http{'s' if certificate else ''}://{name}:{listener.getsockname()[1]}"
        about = {"address": address, "models": served.hashes, "token": bool(token), "notice": notice_of(served.full)}
        for kind, sha256 in served.hashes.items():
            reporter.say(f"serve     model  {kind} {sha256}")
        if about["notice"]:
            reporter.say(f"serve     {about['notice']}")
        reporter.result(about, f"serving {address}; Ctrl-C ends it")
        sys.stdout.flush()
        app = create_app(served, limits=Limits(threads=threads or cores()), token=token, loopback=is_loopback(host))
        tls = certificate, key
        serve_on(listener, make_server(app, connections=_CONNECTIONS, grace_seconds=_GRACE_SECONDS, tls=tls))
    reporter.say("stopped; every request that was under way was answered")


def _token(path: Path | None) -> str:
    """Return the token of a file or of the environment; empty if there is none."""
    if path is None:
        token, where = os.environ.get(TOKEN_VARIABLE, ""), TOKEN_VARIABLE
    else:
        _check_private(path, "--token-file")
        with path.open("rb") as file:
            token, where = file.read(4096).decode("utf-8", "replace").strip(), f"token file {path}"
    if (path or token) and not _TOKEN.fullmatch(token):
        raise ConfigError(f"{where} holds no token", fix="give 16 to 1024 letters, digits or signs without spaces")
    return token


def _check_exposure(host: str, *, token: bool, tls: tuple[Path | None, Path | None], plain: bool) -> None:
    certificate, key = tls
    if (certificate is None) != (key is None):
        raise ConfigError("--certificate and --key belong together", fix="give both, or neither")
    if certificate is not None and key is not None:
        if not certificate.is_file():
            raise ConfigError(f"--certificate {certificate} is not a file", fix="check the path")
        _check_private(key, "--key")
    if is_loopback(host):
        return
    if not token:
        raise ConfigError(
            f"{host} would be reached from beyond this machine, by anybody",
            fix=f"give --token-file or {TOKEN_VARIABLE}",
        )
    if certificate is None and not plain:
        raise ConfigError(
            f"{host} would be reached from beyond this machine, unencrypted",
            fix="give --certificate and --key, or say --plain where the network is your own",
        )


def _check_private(path: Path, option: str) -> None:
    if not path.is_file():
        raise ConfigError(f"{option} {path} is not a file", fix="check the path")
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"{option} {path} can be read by others", fix=f"chmod 600 {path}")


def _listen(host: str, port: int) -> socket.socket:
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]  # create_server adds the address once more
        raise ConfigError(
            f"cannot listen on {host}, port {port}: {reason}", fix="give another --host or --port"
        ) from None
    return listener
