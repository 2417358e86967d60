"""Where outputs lie: a folder, or a prefix of a bucket (``s3://``) or container (``abfs://``), asked by the same names.

An ``ObjectPath`` holds its address alone, so it travels in graphs, records and errors as it is. The client behind it
is made once a process and takes its credentials from that process's environment (``AWS_*``, ``AZURE_*``). Faults are
told as ``OSError`` in words of our own, as a server's answer may repeat a key or a signature.
"""

from __future__ import annotations

import datetime as dt
import errno
import os
import posixpath
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Final, overload

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import AzureStore, ObjectStore, S3Store

type Place = Path | ObjectPath
"""Where an output lies."""

ASKED_AT_ONCE: Final = 32
"""Small questions on their way at a time."""

SENT_AT_ONCE: Final = 8
"""Files on their way at a time."""

_PART_BYTES: Final = 8 * 2**20  # a larger file goes in parts, two at a time: 128 MB in flight at most

RETRY_SECONDS: Final = 25
"""A store that stays ill is told after about this long; a request that failed in passing is sent again."""

_RETRY: Final[Any] = {
    "max_retries": 1000,  # the time decides
    "retry_timeout": dt.timedelta(seconds=RETRY_SECONDS),
    # A wait is drawn between the first and this many times the one before: with 2 they hardly grow.
    "backoff": {"init_backoff": dt.timedelta(seconds=0.1), "max_backoff": dt.timedelta(seconds=5), "base": 4},
}

_CODE: Final = re.compile(r"<Code>([A-Za-z]{1,60})</Code>")
_REASONS: Final = (
    # What an answer holds -> what is told; the first that fits. Codes are those of S3 and of Azure Blob Storage.
    (r"NoSuchBucket|ContainerNotFound|ResourceNotFound", errno.ENXIO, "there is no such bucket or container"),
    (r"AccessDenied|Authorization\w*Mismatch|AuthorizationFailure", errno.EACCES, "access denied"),
    (
        r"Invalid ?Access ?Key|SignatureDoesNotMatch|ExpiredToken|InvalidToken|AuthenticationFailed|NoAuthentication",
        errno.EACCES,
        "the credentials of the environment are not accepted",
    ),
    (r"169\.254\.169\.254|token request", errno.EACCES, "no credentials in the environment (AWS_*, AZURE_*)"),
    (r"Account must be specified", errno.EACCES, "AZURE_STORAGE_ACCOUNT_NAME is not set"),
    (r"redirect without LOCATION", errno.ENXIO, "the bucket is in another region than AWS_REGION says"),
    (r"builder error", errno.EIO, "its endpoint is no https address; for http set AWS_ALLOW_HTTP or AZURE_ALLOW_HTTP"),
    (r"error sending request|timed out", errno.EIO, "its server does not answer"),
)


@dataclass(frozen=True, order=True)
class ObjectPath:
    """An object, or all whose keys begin with this one's, named as pathlib names a file or folder.

    Examples
    --------
    >>> path = ObjectPath("s3://bucket/runs") / "coast" / "2019.zarr"
    >>> path, path.stem, path.with_suffix(".json").name
    (ObjectPath(address='s3://bucket/runs/coast/2019.zarr'), '2019', '2019.json')
    """

    address: str
    """Checked by ``Trust.store`` where it comes from outside; no slash at its end."""

    def __str__(self) -> str:
        return self.address

    def __truediv__(self, name: str) -> ObjectPath:
        return ObjectPath(f"{self.address}/{name}")

    @property
    def root(self) -> str:
        """Bucket or container: ``s3://bucket``."""
        return "/".join(self.address.split("/")[:3])

    @property
    def key(self) -> str:
        """What follows the bucket, ``""`` for all of it."""
        return self.address[len(self.root) + 1 :]

    @property
    def name(self) -> str:
        return PurePosixPath(self.key).name

    @property
    def stem(self) -> str:
        return PurePosixPath(self.key).stem

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.key).suffix

    @property
    def parent(self) -> ObjectPath:
        return ObjectPath(self.address.rpartition("/")[0]) if self.key else self

    def with_name(self, name: str) -> ObjectPath:
        return self.parent / name

    def with_suffix(self, suffix: str) -> ObjectPath:
        return self.with_name(self.stem + suffix)

    def is_file(self) -> bool:
        """Tell whether there is an object of exactly this key."""
        try:
            with told(self):
                obstore.head(_client(self.root), self.key)
        except FileNotFoundError:
            return False
        return True

    def size(self) -> int:
        """Return how many bytes an object has."""
        with told(self):
            return obstore.head(_client(self.root), self.key)["size"]

    def read_bytes(self, most: int | None = None) -> bytes:
        """Return an object's bytes, or its first ``most``."""
        with told(self):
            if most is None:
                return bytes(obstore.get(_client(self.root), self.key).bytes())
            return bytes(obstore.get_range(_client(self.root), self.key, start=0, length=most))

    def read_range(self, start: int, stop: int) -> bytes:
        """Return the bytes between two places, fewer where the object ends."""
        with told(self):
            return bytes(obstore.get_range(_client(self.root), self.key, start=start, end=stop))

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def download(self, file: Path) -> None:
        """Write an object's bytes to a file, however many."""
        with told(self), file.open("wb") as target:
            target.writelines(obstore.get(_client(self.root), self.key))

    def write_bytes(self, content: bytes | Path) -> None:
        """Put an object, or upload a file as one; nobody sees a half."""
        with told(self):
            _put(self.root, self.key, content)

    def unlink(self, missing_ok: bool = True) -> None:
        """Delete an object; a store does not tell one that was there from one that was not."""
        try:
            with told(self):
                obstore.delete(_client(self.root), self.key)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def below(self) -> list[str]:
        """Return the keys of all objects below this one, in order."""
        with told(self):
            return sorted(meta["path"] for meta in obstore.list(_client(self.root), self.key).collect())

    def open_prefix(self) -> ObjectStore:
        """Return a client whose keys begin here, for libraries that speak obstore; wrap its use in ``told``."""
        with told(self):
            return _connect(self.root, self.key)


@contextmanager
def told(place: Place) -> Iterator[None]:
    """Turn what a store answers into an ``OSError`` with a reason, and nothing of the answer itself."""
    try:
        yield
    except (BaseError, FileNotFoundError) as error:
        if isinstance(place, Path):
            raise
        raise _fault(error, place) from None


def _fault(error: Exception, place: ObjectPath) -> OSError:
    text = str(error)
    for pattern, number, reason in _REASONS:
        if re.search(pattern, text):
            return OSError(number, reason, str(place))
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(errno.ENOENT, "there is no such object", str(place))
    if isinstance(error, PermissionDeniedError | UnauthenticatedError):
        return OSError(errno.EACCES, "access denied", str(place))
    code = _CODE.search(text)
    return OSError(errno.EIO, f"its server answers {code[1] if code else type(error).__name__}", str(place))


def _connect(root: str, prefix: str) -> ObjectStore:
    scheme, _, rest = root.partition("://")
    # No client_options: any of them would take the place of all that the environment says of the client.
    common: dict[str, Any] = {"prefix": prefix or None, "retry_config": _RETRY}
    if scheme == "s3":
        return S3Store(rest, **common)
    container, _, host = rest.partition("@")
    if host:
        common["account_name"] = host.partition(".")[0]
    return AzureStore(container, **common)


@lru_cache(maxsize=16)
def _client(root: str) -> ObjectStore:
    """Return this process's client of a bucket: its connections are used again."""
    return _connect(root, "")


@overload
def entries(place: Path) -> tuple[Sequence[Path], Sequence[Path]]: ...
@overload
def entries(place: ObjectPath) -> tuple[Sequence[ObjectPath], Sequence[ObjectPath]]: ...
def entries(place: Place) -> tuple[Sequence[Place], Sequence[Place]]:
    """List what lies directly in a place: folders and files, sorted; none of either where there is no such place."""
    if isinstance(place, Path):
        found = sorted(place.iterdir()) if place.is_dir() else []
        return [path for path in found if path.is_dir()], [path for path in found if not path.is_dir()]
    with told(place):
        listed = obstore.list_with_delimiter(_client(place.root), place.key or None)
    home = ObjectPath(place.root)
    folders = sorted(home / prefix.rstrip("/") for prefix in listed["common_prefixes"])
    return folders, sorted(home / meta["path"] for meta in listed["objects"])


def each[T, R](function: Callable[[T], R], items: Iterable[T], *, within: Place) -> list[R]:
    """Apply a function that asks a place to many items, in their order; in threads where each answer takes its time."""
    if isinstance(within, Path):
        return [function(item) for item in items]
    with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
        return list(pool.map(function, items))


def remove(place: Place) -> None:
    """Delete a file, or a folder and all in it; no fault where there is none."""
    if isinstance(place, ObjectPath):
        if keys := place.below():
            with told(place):
                obstore.delete(_client(place.root), keys)
        else:
            place.unlink()
    elif place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


def upload(folder: Path, place: ObjectPath) -> None:
    """Put every file below a folder at its way from there below a place; each whole, but not all at once."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    keys = [f"{place.key}/{path.relative_to(folder).as_posix()}" for path in files]
    with told(place), ThreadPoolExecutor(SENT_AT_ONCE) as pool:
        list(pool.map(lambda key, path: _put(place.root, key, path), keys, files))


def _put(root: str, key: str, content: bytes | Path) -> None:
    obstore.put(_client(root), key, content, chunk_size=_PART_BYTES, max_concurrency=2)


def move(place: Place, target: Place) -> None:
    """Give a folder and all in it another name on the same disk or in the same store; there object by object.

    Nothing is deleted before all is copied, so a move that was cut off can be begun again.
    """
    if isinstance(place, Path) or isinstance(target, Path):
        Path(str(place)).rename(str(target))
        return
    client, keys = _client(place.root), place.below()
    renamed = [target.key + key.removeprefix(place.key) for key in keys]
    with told(place):
        each(lambda pair: obstore.copy(client, *pair), zip(keys, renamed, strict=True), within=place)
        obstore.delete(client, keys)


def read_start(place: Place, most: int) -> bytes:
    """Return the first ``most`` bytes of a file, fewer where it is shorter."""
    if isinstance(place, ObjectPath):
        return place.read_bytes(most)
    with place.open("rb") as file:
        return file.read(most)


def modified(place: Place) -> float:
    """Return when a file was last written, seconds since 1970; of an object by its server's clock."""
    if isinstance(place, Path):
        return place.stat().st_mtime
    with told(place):
        return obstore.head(_client(place.root), place.key)["last_modified"].timestamp()


def relative(place: Place, start: Place) -> str:
    """Return how to get from a folder to a place of the same kind: ``../maps/2019.vrt``."""
    if isinstance(place, ObjectPath) and isinstance(start, ObjectPath):
        return posixpath.relpath(f"/{place.key}", f"/{start.key}")
    return Path(os.path.relpath(str(place), str(start))).as_posix()
