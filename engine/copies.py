"""Files of the client that workers read though they share no folder: a copy in the store, and one where a task runs."""

from __future__ import annotations

import re
import tempfile
import threading
from functools import lru_cache
from pathlib import Path
from typing import Final

from engine.files import cannot_read, cannot_write, content_sha256
from engine.places import ObjectPath, Place, entries
from engine.trust import Trust, is_object

_SHAPEFILE: Final = (".shp", ".shx", ".dbf", ".prj", ".cpg")
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._+-]")
_downloading = threading.Lock()


def share(path: Path | str, outputs: Place) -> str:
    """Return where the workers of a run read a file: where it is, or its copy in the store, which is made once.

    Raises
    ------
    StoreError
        If the store cannot be reached.
    """
    if not isinstance(outputs, ObjectPath):
        return str(path)
    path, home = Path(path), outputs / "inputs" / content_sha256(path)
    parts = [path]
    if path.suffix.lower() == ".shp":
        parts = [near for near in path.parent.iterdir() if near.stem == path.stem and near.suffix.lower() in _SHAPEFILE]
    try:
        there = {copy.name for copy in entries(home)[1]}
        for part in parts:
            if _safe(part) not in there:
                (home / _safe(part)).write_bytes(part)
    except OSError as error:
        raise cannot_write(home, error) from error
    return str(home / _safe(path))


def reach(href: str, trust: Trust) -> tuple[str, Trust]:
    """Return an href as this process opens it, and the trust for that; what ``share`` put into a store is downloaded.

    Raises
    ------
    StoreError
        If the store cannot be reached.
    """
    if not is_object(href):
        return href, trust
    shared, folder = ObjectPath(href), Path(_copies().name).resolve()
    here = folder / f"{shared.parent.name}-{shared.name}"
    with _downloading:
        if not here.is_dir():
            half = Path(tempfile.mkdtemp(dir=folder))
            try:
                for part in entries(shared.parent)[1]:
                    part.download(half / part.name)
            except OSError as error:
                raise cannot_read(shared, error) from error
            half.rename(here)
    return str(here / shared.name), trust.with_roots(folder)


@lru_cache(maxsize=1)
def _copies() -> tempfile.TemporaryDirectory[str]:
    """Make the folder of this process's copies; it ends with the process."""
    return tempfile.TemporaryDirectory(prefix="mangroves-")


def _safe(path: Path) -> str:
    return _UNSAFE.sub("_", path.name)
