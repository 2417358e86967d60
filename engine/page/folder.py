"""The folder of a page where it is put: only what a page before it wrote there is replaced.

A list of files and their hashes, ``page-files.txt``, lies in the folder. What it does not name, or what has changed
since, is somebody else's.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from engine.errors import ConfigError, StoreError
from engine.files import cannot_write, content_sha256, hold, write_text
from engine.page import PAGE

LIST: Final = "page-files.txt"
"""Of the files of a page, by their ways from its folder, with their sha256."""

_FORMAT: Final = "mangroves page 1"
_MOST_LIST_BYTES: Final = 2**24


def owned_files(folder: Path) -> dict[str, str]:
    """Return the files that a page wrote into a folder, with their sha256; none of a folder that is empty or not there.

    Raises
    ------
    ConfigError
        If it is no folder, holds something and no page, or a page's file is no longer as it was written.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise ConfigError(f"{folder} is no folder", fix="choose another by --out")
    if not folder.is_dir() or not any(folder.iterdir()):
        return {}
    files = _read_list(folder / LIST)
    if files is None:
        raise ConfigError(
            f"{folder} holds something else than a page (it has no {LIST} of ours)",
            fix="choose another by --out, or empty it",
        )
    for name, sha256 in files.items():
        path = folder / name
        inside = [path, *list(path.parents)[: len(Path(name).parts) - 1]]
        link = any(one.is_symlink() for one in inside)
        if link or (path.exists() and not (path.is_file() and content_sha256(path) == sha256)):
            raise ConfigError(f"{path} is not what the page wrote", fix="choose another by --out, or move it away")
    return files


def _read_list(path: Path) -> dict[str, str] | None:
    """Return the files that a list names; None of what is no such list."""
    try:
        if path.is_symlink() or path.stat().st_size > _MOST_LIST_BYTES:
            return None
        told: Any = json.loads(path.read_text(encoding="utf-8"))
        files = told["files"] if told["format"] == _FORMAT else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    if not isinstance(files, dict) or not all(_is_below(name) for name in files):
        return None
    return {name: str(sha256) for name, sha256 in files.items()}


def _is_below(name: str) -> bool:
    parts = Path(name).parts
    return bool(parts) and not Path(name).is_absolute() and ".." not in parts and name != LIST


def put_folder(made: Path, folder: Path) -> None:
    """Move what was made into a folder, in the place of the page there; what is not of a page stays.

    The page itself comes last, so that it never opens without what it shows.

    Raises
    ------
    ConfigError
        As ``owned_files``, or if a file of the page would take the place of another.
    StoreError
        If the folder cannot be written, or another command writes it.
    """
    names = sorted(path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file())
    files = {name: content_sha256(made / name) for name in names}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            old = owned_files(folder)
            for name in names:
                _check_free(folder, name, old)
            for name in old:
                (folder / name).unlink(missing_ok=True)
            write_text(folder / LIST, json.dumps({"format": _FORMAT, "files": files}, indent=1) + "\n")
            for name in sorted(names, key=lambda one: one == PAGE):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (made / name).replace(folder / name)
            for left in sorted({(folder / name).parent for name in old} - {folder}, reverse=True):
                if left.is_dir() and not any(left.iterdir()):
                    left.rmdir()
    except OSError as error:
        raise cannot_write(folder, error) from error
    shutil.rmtree(made, ignore_errors=True)


def _check_free(folder: Path, name: str, old: Mapping[str, str]) -> None:
    path = folder / name
    above = [folder / one for one in list(Path(name).parents)[:-1]]
    taken = name not in old and os.path.lexists(path)
    if taken or any(one.is_symlink() or (one.exists() and not one.is_dir()) for one in above):
        raise ConfigError(f"{path} is not of a page, and would be replaced", fix="choose another by --out")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other commands from putting a page into a folder for the block."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        hold(handle, StoreError(f"another command puts a page into {folder}", fix="wait for it"))
        yield
    finally:
        os.close(handle)
