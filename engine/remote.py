"""A file of a host or a store as one that GDAL can open, every byte of it by our own reading of ranges.

GDAL's own client follows redirects, keeps what failed for as long as the process lives, and knows no budget.
"""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from rasterio.abc import MultiByteRangeResourceContainer

from engine.errors import EngineError, Fault
from engine.places import ObjectPath
from engine.ranges import MAX_RANGE_BYTES, Access, RangeError, Spent, merge_ranges, read_part
from engine.trust import is_object

BLOCK_BYTES: Final = 2**15
"""Headers, indexes and single tiles are asked for in multiples of this, and kept."""

_KEPT_BLOCKS: Final = 256  # 8 MB a file

_MAX_ASKED_BYTES: Final = 2**30
"""Of one call; GDAL's own checks let a hostile index ask for what a file claims to hold."""


class RemoteFile(MultiByteRangeResourceContainer):
    """The one file of a file system of its own, for ``rasterio.open(name, opener=...)``, in one thread.

    GDAL cannot be told why bytes are missing: it gets zeros or none, and whoever opened the file must raise ``fault``.

    Parameters
    ----------
    name : str
        Under which GDAL opens it.
    address : str
        Checked by ``Trust.check``.
    access : Access
    spent : Spent
    about : mapping
        What the file is, for ``Spent.of_range``.
    """

    def __init__(self, name: str, address: str, access: Access, spent: Spent, about: Mapping[str, Any]) -> None:
        self.name, self.address, self.access, self.spent, self.about = name, address, access, spent, about
        self.fault: RangeError | EngineError | None = None
        self.length = 0
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._begin()

    def _begin(self) -> None:
        """Read the first block, which tells the size."""
        total = ObjectPath(self.address).size() if is_object(self.address) else None
        data, told = read_part(self.address, 0, BLOCK_BYTES, self.access, self.spent.of_range(self.about))
        if total is None and told is None and len(data) == BLOCK_BYTES:
            raise RangeError("the server does not tell the file's size")
        self.length = next(size for size in (total, told, len(data)) if size is not None)
        self._blocks[0] = bytes(data)

    def bytes_at(self, start: int, size: int) -> bytes:
        """Return some bytes, fewer where the file ends; none after a fault."""
        stop = min(start + size, self.length)
        if self.fault is not None or start >= stop:
            return b""
        try:
            if stop - start > _MAX_ASKED_BYTES:
                raise RangeError("its index asks for more than 1 GB at once", Fault.HOSTILE)
            return self._kept(start, stop)
        except (RangeError, EngineError) as error:
            self.fault = error
            return b""

    def _kept(self, start: int, stop: int) -> bytes:
        first, last = start // BLOCK_BYTES, -(-stop // BLOCK_BYTES)
        if last - first > _KEPT_BLOCKS // 4:
            return self._fetch(start, stop)
        absent = [number for number in range(first, last) if number not in self._blocks]
        if absent:
            begin = absent[0] * BLOCK_BYTES
            data = self._fetch(begin, min((absent[-1] + 1) * BLOCK_BYTES, self.length))
            for number in range(absent[0], absent[-1] + 1):
                at = number * BLOCK_BYTES - begin
                self._blocks[number] = data[at : at + BLOCK_BYTES]
        joined = b"".join(self._blocks[number] for number in range(first, last))
        for number in range(first, last):
            self._blocks.move_to_end(number)
        while len(self._blocks) > _KEPT_BLOCKS:
            self._blocks.popitem(last=False)
        return joined[start - first * BLOCK_BYTES : stop - first * BLOCK_BYTES]

    def _fetch(self, start: int, stop: int) -> bytes:
        parts = []
        for begin in range(start, stop, MAX_RANGE_BYTES):
            end = min(begin + MAX_RANGE_BYTES, stop)
            data, _ = read_part(self.address, begin, end, self.access, self.spent.of_range(self.about))
            if len(data) != end - begin:
                raise RangeError("the file has become shorter", Fault.PERMANENT)
            parts.append(data)
        return b"".join(parts)

    def ranges_at(self, offsets: list[int], sizes: list[int]) -> list[bytes]:
        """Return many ranges, neighbours by one request and requests side by side; zeros after a fault."""
        try:
            # GDAL's buffers have these sizes, whatever the file holds.
            if sum(sizes) > _MAX_ASKED_BYTES:
                raise RangeError("its index asks for more than 1 GB at once", Fault.HOSTILE)
            if any(start + size > self.length for start, size in zip(offsets, sizes, strict=True)):
                raise RangeError("its index points beyond its end", Fault.PERMANENT)
            if self.fault is None:
                return self._many(list(zip(offsets, sizes, strict=True)))
        except (RangeError, EngineError) as error:
            self.fault = error
        return [bytes(size) for size in sizes]

    def _many(self, spans: list[tuple[int, int]]) -> list[bytes]:
        def fetch(group: list[int]) -> None:
            begin = spans[group[0]][0]
            data = self._fetch(begin, max(sum(spans[place]) for place in group))
            for place in group:
                start, size = spans[place]
                found[place] = data[start - begin : start - begin + size]

        found: list[bytes] = [b""] * len(spans)
        groups = merge_ranges(spans)
        if len(groups) == 1:
            fetch(groups[0])
            return found
        with ThreadPoolExecutor(min(len(groups), self.access.requests), thread_name_prefix="remote") as pool:
            list(pool.map(fetch, groups))
        return found

    def _must_be(self, path: str) -> None:
        if path != self.name:
            raise FileNotFoundError(path)

    def open(self, path: str, mode: str = "rb", **_: Any) -> _Handle:
        self._must_be(path)
        if "w" in mode or "a" in mode or "+" in mode:
            raise PermissionError(path)
        return _Handle(self)

    def isfile(self, path: str) -> bool:
        return path == self.name

    def isdir(self, path: str) -> bool:
        return False

    def ls(self, path: str) -> list[str]:
        return []

    def mtime(self, path: str) -> int:
        return 0

    def rm(self, path: str) -> None:
        raise PermissionError(path)

    def size(self, path: str) -> int:
        self._must_be(path)
        return self.length


class _Handle:
    """A place in the file; GDAL opens several."""

    def __init__(self, file: RemoteFile) -> None:
        self.file, self.at = file, 0

    def __enter__(self) -> _Handle:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is held."""

    def read(self, size: int = -1) -> bytes:
        data = self.file.bytes_at(self.at, self.file.length if size < 0 else size)
        self.at += len(data)
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.file.length}[whence]
        self.at = max(0, base + offset)
        return self.at

    def tell(self) -> int:
        return self.at

    def get_byte_ranges(self, offsets: list[int], sizes: list[int]) -> list[bytes]:
        return self.file.ranges_at(offsets, sizes)
