"""What untrusted input may reach: schemes, hosts, folders; safe names; secrets kept out of text.

Catalogs, items, masks, models, tables and run configurations are untrusted. Only the command line,
``cluster.yaml`` and the user's own settings widen a ``Trust``.
"""

from __future__ import annotations

import os
import re
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from engine.errors import TrustError

HOSTS: Final = frozenset(
    {
        "planetarycomputer.microsoft.com",
        "landsateuwest.blob.core.windows.net",  # landsat-c2
        "ai4edataeuwest.blob.core.windows.net",  # esa-worldcover, jrc-gsw
        "elevationeuwest.blob.core.windows.net",  # cop-dem-glo-30
        "landsatlook.usgs.gov",
        "zenodo.org",  # Global Mangrove Watch
    }
)
"""Hosts reached by default, over https only."""

_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
_STANDARD_PORTS: Final = {"https": 443, "http": 80}
_SECRET: Final = re.compile(
    # A parameter of an address, also one percent-encoded inside another, or a bare token.
    r"(?i)((?:[?&]|%3F|%26)(?:sig|se|st|sp|sv|sr|skoid|sktid|skt|ske|sks|skv|x-amz-[a-z-]+)(?:=|%3D)"
    r"|(?<![a-z])(?:sig|(?:access_|sas_?)?token|subscription-key|(?:account|api[_-]?)key|password|secret)(?:=|%3D))"
    r"[^&\s'\"<>]+"
)
# A container is written where others write who they are: abfs://container@account.dfs.core.windows.net.
_USERINFO: Final = re.compile(r"(?<=://)(?!(?<=abfs://)[a-z0-9-]+@)[^/\s@'\"<>]+@")
_DRIVER_PREFIX: Final = re.compile(r"[A-Za-z][A-Za-z0-9_+.-]+:")
"""``file:``, ``GTIFF_DIR:``, ``HDF5:`` ...; a drive letter is a single one."""
_VECTOR_HEADS: Final = {
    ".parquet": b"PAR1",
    ".geoparquet": b"PAR1",
    ".gpkg": b"SQLite format 3\0",
    ".fgb": b"fgb\x03fgb",
    ".shp": b"\0\0\x27\x0a",
    ".geojson": b"{",
    ".json": b"{",
    ".kml": b"<",
}
_VECTOR_HEAD_BYTES: Final = 2**16  # GDAL looks for its marks in the first 1 to 6 KB
_POINTS_ELSEWHERE: Final = {b"{": (b"gdal_streamed_alg", b"<OGR"), b"<": (b"<OGR", b"opengis.net/gml")}
"""Marks of JSON that is a command line (GDALG), of virtual and WFS sources, of GML, which fetches its schema."""

_SCHEMA_SECONDS: Final = 5.0
_MOST_HELD: Final = 10_000
"""Tables, indexes and triggers of a GeoPackage."""

_NAME: Final = r"(?:\"(?:[^\"]|\"\")*\"|\w+)"
_TABLE: Final = re.compile(rf"CREATE (?:TABLE |VIRTUAL TABLE {_NAME} USING rtree ?\()")
_INDEX: Final = re.compile(r"CREATE (?:UNIQUE )?INDEX ")
_TRIGGER: Final = re.compile(r"CREATE TRIGGER [\"'\[]?(?:rtree_|trigger_(?:insert|delete)_feature_count_|gpkg_)")

_STORE: Final = re.compile(
    r"(?:s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"
    r"|abfs://[a-z0-9](?:-?[a-z0-9]){2,62}(?:@[a-z0-9]{3,24}\.dfs\.core\.windows\.net)?)"
    r"(?:/[A-Za-z0-9_][A-Za-z0-9._=+-]{0,127}){0,32}"
)
"""Bucket or container, then segments of a key that mean the same to every client; nothing to sign or log in with."""

_SAFE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")


@dataclass(frozen=True)
class Trust:
    """Hosts and folders that may be read, and the stores that may be written too.

    Examples
    --------
    >>> Trust().url("https://example.com/a.tif", what="asset red")
    Traceback (most recent call last):
    engine.errors.TrustError: asset red: host example.com is not allowed; if you trust it pass --allow-host example.com
    """

    hosts: frozenset[str] = HOSTS
    roots: tuple[Path, ...] = ()
    stores: tuple[str, ...] = ()
    """``s3://bucket/prefix``, ``abfs://container@account.dfs.core.windows.net/prefix``: what lies below is allowed."""

    def with_roots(self, *roots: Path | str) -> Trust:
        """Return a copy that also allows these folders, and stores by their address."""
        stores = [_plain_store(root, "--allow-root") for root in roots if _is_address(root)]
        folders = [Path(root).resolve() for root in roots if not _is_address(root)]
        return replace(self, roots=(*self.roots, *folders), stores=(*self.stores, *stores))

    def with_hosts(self, *hosts: str) -> Trust:
        """Return a copy that also allows these hosts (``name`` or ``name:port``); loopback also over http."""
        return replace(self, hosts=self.hosts | {host.lower() for host in hosts})

    def check(self, href: str, *, what: str) -> str:
        """Return ``href`` as what may be opened: an https URL or object that is allowed, or an allowed file's path."""
        if is_object(href):
            bucket = "/".join(href.split("/")[:3])  # of an archive one allows the bucket, not every file
            return self.store(href, what=what, allow=bucket)
        return self.url(href, what=what) if "://" in href else str(self.path(href, what=what))

    def url(self, href: str, *, what: str) -> str:
        """Return an https URL of an allowed host.

        Raises
        ------
        TrustError
            For another scheme or host, credentials in the URL, or characters that GDAL would read as more
            than a URL.
        """
        if len(href) > 4096 or "\\" in href or not href.isascii() or not href.isprintable() or " " in href:
            raise TrustError(f"{what}: malformed address", fix="repair the catalog")
        try:
            parts = urlsplit(href)
            host, port = (parts.hostname or "").lower(), parts.port
        except ValueError as error:
            raise TrustError(f"{what}: malformed address", fix="repair the catalog") from error
        if "@" in parts.netloc:
            raise TrustError(f"{what}: address carries credentials", fix="remove them from the catalog")
        loopback = host in _LOOPBACK or host.endswith(".localhost")  # RFC 6761, 6.3
        if parts.scheme != "https" and not (parts.scheme == "http" and loopback):
            raise TrustError(f"{what}: scheme {parts.scheme!r} is not allowed", fix="use https or a local file")
        named = f"[{host}]" if ":" in host else host
        if port is not None and port != _STANDARD_PORTS[parts.scheme]:
            named += f":{port}"
        if named not in self.hosts:
            raise TrustError(f"{what}: host {named} is not allowed", fix=f"if you trust it pass --allow-host {named}")
        return parts._replace(fragment="").geturl()  # the scheme in lower case, as GDAL wants it

    def path(self, href: str, *, what: str) -> Path:
        """Return the resolved path of a file within the allowed roots.

        Raises
        ------
        TrustError
            Outside the roots after following links, or a GDAL pseudo-path such as ``/vsicurl/``.
        """
        odd = "://" in href or _DRIVER_PREFIX.match(href) or href.lower().startswith(("//", "\\\\", "/vsi"))
        if odd or not href.isprintable() or not 0 < len(href) <= 4096:
            raise TrustError(f"{what}: {redact(href)[:80]!r} is not a plain file path", fix="give a file path")
        try:
            path = Path(href).expanduser().resolve()
        except (OSError, RuntimeError) as error:  # a loop of links, an unknown user, a name too long
            raise TrustError(f"{what}: {href[:80]!r} leads nowhere", fix="give a file path") from error
        if path.parts[1:2] and path.parts[1].lower().startswith("vsi"):
            raise TrustError(f"{what}: {redact(href)[:80]!r} is not a plain file path", fix="give a file path")
        if not any(path.is_relative_to(root) for root in self.roots):
            a_file = path.suffix and not os.path.isdir(path)  # noqa: PTH112 Path.is_dir raises where it may not look
            folder = path.parent if a_file and path.parent != Path(path.anchor) else path
            raise TrustError(
                f"{what}: {path} lies outside the allowed folders", fix=f"if you trust it pass --allow-root {folder}"
            )
        return path

    def store(self, address: str, *, what: str, allow: str = "") -> str:
        """Return the address of an allowed store, without a slash at its end.

        Raises
        ------
        TrustError
            If it is none, carries a query or credentials, or lies below none of the allowed.
        """
        plain = _plain_store(address, what)
        # By whole segments: s3://bucket/run does not open s3://bucket/run2.
        if not any(f"{plain}/".startswith(f"{allowed}/") for allowed in self.stores):
            fix = f"if you trust it pass --allow-root {allow or plain}"
            raise TrustError(f"{what}: {plain} is not allowed", fix=fix)
        return plain


def check_inside(folder: Path, trust: Trust) -> None:
    """Refuse a run in which a link leads out of it.

    Raises
    ------
    TrustError
        Naming the file.
    """
    for path in folder.rglob("*"):
        if path.is_symlink():
            trust.path(str(path), what="run")


def is_object(address: str) -> bool:
    """Tell whether an address is one of an object store, which has a client of its own: neither a URL nor a path."""
    return address.startswith(("s3://", "abfs://"))


def _is_address(root: Path | str) -> bool:
    return isinstance(root, str) and "://" in root


def _plain_store(address: Path | str, what: str) -> str:
    plain = str(address).removesuffix("/")
    if not _STORE.fullmatch(plain) or ".." in plain:
        raise TrustError(
            f"{what}: {redact(plain)[:80]!r} is not the plain address of a store",
            fix="give s3://bucket/prefix or abfs://container@account.dfs.core.windows.net/prefix",
        )
    return plain


def is_plain_vector(path: Path) -> bool:
    """Tell whether a vector file is what its name says, and so can be read without reaching any other file or host.

    GDAL goes by content under any name, and some contents only say where to read: a virtual source, a pipeline of
    commands in JSON, an archive of either. A GeoPackage may bring queries, which never need to end: see
    ``_holds_tables_alone``. pyogrio takes ``!`` and ``;`` in a path for marks of its own.

    Raises
    ------
    OSError
        If the file cannot be read.
    """
    suffix = path.suffix.lower()
    beginning = _VECTOR_HEADS.get(suffix)
    with path.open("rb") as file:
        head = file.read(_VECTOR_HEAD_BYTES)
    if beginning is None or set("!;") & set(str(path)):
        return False
    if len(beginning) > 1:
        return head.startswith(beginning) and (suffix != ".gpkg" or _holds_tables_alone(path))
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    plain = text.startswith(beginning) and not any(mark in text for mark in _POINTS_ELSEWHERE[beginning])
    return plain and (beginning == b"{" or b"<kml" in text)


def _holds_tables_alone(path: Path) -> bool:
    """Tell whether a GeoPackage is rows and nothing that is computed when they are read.

    A view is a query, and one that recurs never ends. Allowed are tables without computed columns, indexes, R-trees and
    the triggers that keep R-trees and counts, which only writing fires.

    References
    ----------
    OGC GeoPackage 1.3, annexes F.3 (R-tree) and D (triggers); SQLite, "Defense Against The Dark Arts".
    """
    waiting = path.with_name(f"{path.name}-wal")
    fixed = "" if waiting.exists() and waiting.stat().st_size else "&immutable=1"
    end = time.monotonic() + _SCHEMA_SECONDS
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro{fixed}", uri=True)) as database:
            database.set_progress_handler(lambda: time.monotonic() > end, 10_000)
            asked = "SELECT type, name, substr(sql, 1, 400) FROM sqlite_master LIMIT ?"
            held = database.execute(asked, (_MOST_HELD + 1,)).fetchall()
            if len(held) > _MOST_HELD or not all(_is_known(*one) for one in held):
                return False
            computed = "SELECT count(*) FROM pragma_table_xinfo(?) WHERE hidden > 1"
            tables = [name for kind, name, sql in held if kind == "table" and sql.startswith("CREATE TABLE ")]
            return not any(database.execute(computed, (name,)).fetchone()[0] for name in tables)
    except sqlite3.Error:
        return False


def _is_known(kind: object, name: object, sql: object) -> bool:
    # SQLite goes by the text alone, and writes its first words itself; an index that it made has none.
    if sql is None:
        return kind == "index"
    forms = {"table": _TABLE, "index": _INDEX, "trigger": _TRIGGER}
    form = forms.get(str(kind))
    return form is not None and isinstance(name, str) and isinstance(sql, str) and form.match(sql) is not None


def redact(text: str) -> str:
    """Return ``text`` with the values of signatures and tokens in URLs replaced by ``***``.

    Examples
    --------
    >>> redact("GET https://a/b.tif?se=2026&sig=abc%3D failed")
    'GET https://a/b.tif?se=***&sig=*** failed'
    """
    return _USERINFO.sub("***@", _SECRET.sub(r"\1***", text))


def unsigned(href: str) -> str:
    """Return an href without its query string, where signatures live, and fragment."""
    return href.split("?", 1)[0].split("#", 1)[0] if "://" in href else href


def safe_name(text: str, *, what: str) -> str:
    """Return ``text`` if it can be a file name, else raise.

    Raises
    ------
    TrustError
        For separators, leading dots, control characters or more than 128 characters.
    """
    if not _SAFE_NAME.fullmatch(text) or ".." in text:
        raise TrustError(f"{what} {text[:80]!r} is not a safe name", fix="letters, digits, '.', '_', '+', '-' only")
    return text
