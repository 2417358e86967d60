"""Finished or absent: files appear under their name only when they are whole."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from engine.errors import StoreError
from engine.places import ObjectPath, Place

_FIX_STORE = "see to its bucket, and to AWS_* or AZURE_* in the environment of client and workers"
_SHAPEFILE_PARTS = (".shp", ".dbf", ".prj", ".cpg")


def content_sha256(path: Path | str) -> str:
    """Return the sha256 of a file's bytes; of a shapefile those of all parts that decide what is read from it."""
    path = Path(path)
    parts = [path]
    if path.suffix.lower() == ".shp":
        near = (p for p in path.parent.iterdir() if p.stem == path.stem)
        parts = sorted(p for p in near if p.suffix.lower() in _SHAPEFILE_PARTS)
    digests = []
    for part in parts:
        with part.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return digests[0] if len(digests) == 1 else hashlib.sha256(" ".join(digests).encode()).hexdigest()


def bytes_sha256(path: Place) -> str:
    """Return the sha256 of a file's bytes as they are read back.

    Raises
    ------
    StoreError
        If it cannot be read.
    """
    try:
        if isinstance(path, ObjectPath):
            return hashlib.sha256(path.read_bytes()).hexdigest()
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise cannot_read(path, error) from error


@contextmanager
def replacing(path: Place | str) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that takes its name when the block ends without an error.

    A reader sees the old file or the new one, never a half. After an error nothing is left behind. An object is
    written as a file of this machine first, and uploaded.

    Raises
    ------
    StoreError
        If the folder, file or object cannot be written (missing rights, disk full).
    """
    path = Path(path) if isinstance(path, str) else path
    try:
        if isinstance(path, ObjectPath):
            with tempfile.TemporaryDirectory(prefix="mangroves-") as folder:
                temporary = Path(folder, path.name)
                yield temporary
                path.write_bytes(temporary)
        else:
            with _replacing_file(path) as temporary:
                yield temporary
    except OSError as error:
        raise cannot_write(path, error) from error


@contextmanager
def _replacing_file(path: Path) -> Iterator[Path]:
    # Not tempfile: it makes files that only their owner may read. Not the process id: workers of several
    # machines may write one shared folder.
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def open_log(path: Path) -> BinaryIO:
    """Open a file to append to, and no other: a link in a folder that somebody gave would lead out of it.

    Raises
    ------
    StoreError
        If it cannot be written, or is a link.
    """
    try:
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666), "ab")
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise StoreError(f"{path} is a link, and logs are not written through one", fix="remove it") from None
        raise cannot_write(path, error) from error


def cannot_write(path: Place, error: OSError) -> StoreError:
    """Return the one line that says why an output was not written, and what to do."""
    fix = _FIX_STORE if isinstance(path, ObjectPath) else "free space or choose another out"
    return StoreError(f"{path} cannot be written ({error.strerror or error})", fix=fix)


def cannot_read(path: Place, error: OSError) -> StoreError:
    """Return the one line that says why a place does not tell what it holds, and what to do."""
    fix = _FIX_STORE if isinstance(path, ObjectPath) else "see to the disk and the rights there"
    return StoreError(f"{path} cannot be read ({error.strerror or error})", fix=fix)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder for the block; ``.NAME.lock`` beside it is freed however the process ends.

    Raises
    ------
    StoreError
        If another process holds it, or the file cannot be made.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        file = folder.with_name(f".{folder.name}.lock").open("w")
    except OSError as error:
        raise cannot_write(folder, error) from error
    with file:
        hold(file.fileno(), StoreError(f"another command works on {folder}", fix="wait for it, or stop it"))
        yield


def hold(handle: int, busy: StoreError) -> None:
    """Keep other processes from holding an open file or folder until it is closed; raise ``busy`` if one does."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise busy from None
    except OSError:
        pass  # a file system without locks


def write_text(path: Place | str, text: str) -> None:
    """Write a UTF-8 text file, whole or not at all; one that reads so already keeps its time."""
    write_bytes(Path(path) if isinstance(path, str) else path, text.encode())


def write_bytes(path: Place, content: bytes) -> None:
    """Write a file, whole or not at all; one that holds the same already keeps its time."""
    with suppress(OSError):
        if path.read_bytes() == content:
            return
    with replacing(path) as temporary:
        temporary.write_bytes(content)
