"""Landsat scenes onto one grid: many files at once, by our own reading of their format, and no tile twice."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from odc.geo.geobox import GeoBox
from rasterio.windows import Window

from engine.align import first_rows_under, pixels_under, whole_pixel_shift
from engine.errors import SceneError
from engine.gdal import check_fineness, open_raster, unreadable, values_at
from engine.kernels.tiles import gather, place, tiles_touched
from engine.landsat import FILL_DN, QA_FILL, QA_PIXEL
from engine.ranges import Access, RangeError, Spent, merge_ranges, read_range
from engine.scenes import Scene
from engine.threads import compute_slots
from engine.tiff import DamagedTile, ForeignTiff, TiffIndex, read_index

HEAD_BYTES: Final = 2**15
"""First bytes of a file asked for: the index of a whole scene takes 8 KB, with its overviews and metadata 16."""

GDAL_AT_ONCE: Final = 4
"""Files that GDAL reads side by side: it waits for storage where it decodes, and so must hold no computing slot."""


def fill_of(asset: str) -> int:
    """Return the value that means "no data" in an asset; QA_PIXEL is padded with 1, which reads as fill."""
    return QA_FILL if asset == QA_PIXEL else FILL_DN


@dataclass(frozen=True)
class File:
    """What is read: an href, what errors call it, and the scene whose grid it must have."""

    href: str
    about: dict[str, Any]
    scene: Scene | None = None


def files_of(scene: Scene, assets: Sequence[str]) -> list[File]:
    """Return the files of some assets of a scene."""
    return [File(scene.assets[asset], {"scene": scene.id, "asset": asset}, scene) for asset in assets]


class Stopped(Exception):
    """Not read, as another read has failed."""


class BlockReader:
    """Reads many files onto one grid, from its top row down, and no tile of a file twice.

    A file of our own format (``engine.tiff``) is read by its index: ranges of neighbouring tiles are asked for
    together and many at once, and each is decoded by the thread that brought it, so that what is held undecoded is
    bounded by the requests in flight. Anything else is left to GDAL. Safe in several threads that read files of
    their own; to be made in the thread that dask gave the task, and closed.

    Parameters
    ----------
    geobox : GeoBox
    access : Access
    spent : Spent, optional
        Where seconds and bytes are counted.
    """

    def __init__(self, geobox: GeoBox, access: Access, spent: Spent | None = None) -> None:
        self.geobox = geobox
        self.access = access
        self.spent = spent or Spent()
        self.slots = compute_slots()
        self.indexes: dict[str, TiffIndex | None] = {}
        """By href; None where GDAL must read."""
        self._sources: dict[tuple[str, ...], _Source] = {}
        self._pool = ThreadPoolExecutor(access.requests, thread_name_prefix="range")
        self._gdal = threading.BoundedSemaphore(GDAL_AT_ONCE)
        self._stopped = False

    def __enter__(self) -> BlockReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def stop(self) -> None:
        """Begin nothing more, after an error; reads that wait for it raise ``Stopped``."""
        self._stopped = True

    def read(self, files: Sequence[File], rows: slice, out: np.ndarray, keep: np.ndarray | None = None) -> None:
        """Read rows of the grid from files that share one grid of their own, such as the assets of a scene.

        Parameters
        ----------
        files : sequence of File
        rows : slice
            Of the grid; never above rows that were read of the same files before.
        out : ndarray of uint16, shape (file, y, x)
            On the files' own grid their values, otherwise the nearest pixel's; what lies outside is left as it is.
        keep : ndarray of bool, shape (y, x), optional
            Only written, and only fetched, where True.

        Raises
        ------
        SceneError
            If a file is missing, unreadable, or not what its item says.
        TrustError
            If an href may not be opened.
        """
        self._run([(self._find_index, file) for file in files])
        work: list[tuple[Any, ...]] = []
        sources = []
        under: _Under | None = None
        for file, target in zip(files, out, strict=True):
            index = self.indexes[file.href]
            if index is None:
                work.append((self._read_by_gdal, file, rows, target, keep))
                continue
            # Not by href alone: a catalog may name a file twice, and each has its own held tiles and window.
            key = (file.href, *map(str, file.about.values()))
            if key not in self._sources:
                _check_grid(file, index.shape, index.transform, index.epsg, [str(index.dtype)])
                self._sources[key] = _Source(self, file, index)
            source = self._sources[key]
            if source.corner is None and under is None:
                under = _look_under(self.geobox[rows, :], index, keep)
            work += source.work(rows, target, keep, under)
            sources.append((source, target))
        self._run(work)
        for source, target in sources:
            source.finish(target, under)

    def _run(self, work: Sequence[tuple[Any, ...]]) -> None:
        """Do all of it in the threads of this reader, and raise the first error once none is at work any more."""
        futures = [self._pool.submit(self._unless_stopped, *call) for call in work]
        wait(futures, return_when=FIRST_EXCEPTION)
        # What has not begun need not: storage that is ill would keep each of them waiting as long as the first.
        begun = [future for future in futures if not future.cancel()]
        wait(begun)
        for future in begun:
            future.result()

    def _unless_stopped(self, function: Callable[..., None], *arguments: Any) -> None:
        if self._stopped:
            raise Stopped
        function(*arguments)

    def _find_index(self, file: File) -> None:
        if file.href in self.indexes:
            return
        address = self.access.trust.check(file.href, what=" ".join(f"{k} {v}" for k, v in file.about.items()))
        head: bytes | bytearray | None = None

        def read(start: int, stop: int) -> bytes | bytearray:
            nonlocal head
            if head is None:
                head = read_range(address, 0, HEAD_BYTES, self.access, self.spent.of_range(file.about))
            if stop <= len(head) or len(head) < HEAD_BYTES:
                return head[start:stop]
            return read_range(address, start, stop, self.access, self.spent.of_range(file.about))

        try:
            self.indexes[file.href] = read_index(read)
        except ForeignTiff:
            self.indexes[file.href] = None
        except RangeError as error:
            raise unreadable(error, address, SceneError, file.about) from None

    def _read_by_gdal(self, file: File, rows: slice, out: np.ndarray, keep: np.ndarray | None) -> None:
        with (
            self._gdal,
            self.spent.on("gdal"),
            open_raster(file.href, self.access, spent=self.spent, **file.about) as dataset,
        ):
            epsg = dataset.crs and dataset.crs.to_epsg()
            _check_grid(file, dataset.shape, tuple(dataset.transform)[:6], epsg, dataset.dtypes)
            values, inside = values_at(dataset, self.geobox[rows, :])
            np.copyto(out, values, where=inside if keep is None else inside & keep)


@dataclass(frozen=True)
class _Under:
    """The window of a file that lies under a grid which is not its own."""

    top: int
    left: int
    shape: tuple[int, int]
    rows: np.ndarray
    cols: np.ndarray
    """int32 (y, x): pixel of the file under each of the grid's, rows negative where none is wanted."""

    first: int
    last: int
    """No row of the grid, and none further down, lies on a row of the file above ``first`` or ``last``."""


def _look_under(geobox: GeoBox, index: TiffIndex, keep: np.ndarray | None) -> _Under:
    rows, cols = pixels_under(geobox, index.transform, index.shape, f"EPSG:{index.epsg}")
    first, last = first_rows_under(geobox, index.transform, f"EPSG:{index.epsg}")
    if keep is not None:
        rows[~keep] = -1
    wanted = rows >= 0
    if not wanted.any():
        return _Under(0, 0, (0, 0), rows, cols, first, last)
    top, left = int(rows[wanted].min()), int(cols[wanted].min())
    shape = (int(rows.max()) - top + 1, int(cols[wanted].max()) - left + 1)
    return _Under(top, left, shape, rows, cols, first, last)


_Part = tuple[tuple[int, int], tuple[int, int], tuple[slice, slice]]
"""A tile of a file, the row and column in it that come first, and where they go."""


class _Source:
    """One file of our format on the grid of a reader."""

    def __init__(self, reader: BlockReader, file: File, index: TiffIndex) -> None:
        self.reader, self.file, self.index = reader, file, index
        self.address = reader.access.trust.check(file.href, what="file")
        self.corner = whole_pixel_shift(index.transform, f"EPSG:{index.epsg}", reader.geobox)
        self.held: dict[tuple[int, int], tuple[np.ndarray, bool]] = {}
        """Tiles that reach below the rows read so far, decompressed, and whether they are differenced."""
        self._window: np.ndarray | None = None

    def work(
        self, rows: slice, out: np.ndarray, keep: np.ndarray | None, under: _Under | None
    ) -> list[tuple[Any, ...]]:
        """Return the calls that bring these rows, one for each range of bytes."""
        more = rows.stop < self.reader.geobox.shape[0]
        if self.corner is not None:
            top, left = self.corner[0] + rows.start, self.corner[1]
            self._let_go(top)
            return self._calls(top, left, top + out.shape[0] if more else None, out, keep)
        # On another grid: first the window of the file that lies under ours, from which ``finish`` takes its pixels.
        assert under is not None
        check_fineness(self.address, under.shape, out.shape[0])
        self._window = np.zeros(under.shape, self.index.dtype)
        self._let_go(under.first)
        touched = tiles_touched(under.rows, under.cols, self.index.tile_shape, self.index.offsets.shape)
        return self._calls(under.top, under.left, under.last if more else None, self._window, None, touched)

    def finish(self, out: np.ndarray, under: _Under | None) -> None:
        """Take the pixels of another grid out of their window."""
        if self._window is not None and under is not None:
            gather(self._window, (under.top, under.left), under.rows, under.cols, out)
        self._window = None

    def _let_go(self, first: int) -> None:
        """Hold no longer what lies above a row."""
        tall = self.index.tile_shape[0]
        self.held = {tile: found for tile, found in self.held.items() if (tile[0] + 1) * tall > first}

    def _calls(
        self,
        top: int,
        left: int,
        last: int | None,
        out: np.ndarray,
        keep: np.ndarray | None,
        touched: np.ndarray | None = None,
    ) -> list[tuple[Any, ...]]:
        """Return the calls that bring a window of the file, or its tiles that are ``touched``.

        ``last`` is the row of which lower tiles are held.
        """
        at_hand, absent, spans = [], [], []
        for tile in self._tiles_under(top, left, out.shape):
            part = self._part(tile, top, left, out, keep) if touched is None or touched[tile] else None
            if part is None:
                continue
            if tile in self.held or self.index.counts[tile] == 0:
                at_hand.append(part)
            else:
                absent.append(part)
                spans.append((int(self.index.offsets[tile]), int(self.index.counts[tile])))
        calls = [([absent[i] for i in group], [spans[i] for i in group]) for group in merge_ranges(spans)]
        if at_hand:
            calls.append((at_hand, []))
        return [(self._bring, parts, ranges, out, keep, last) for parts, ranges in calls]

    def _tiles_under(self, top: int, left: int, shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
        (height, width), (tall, wide) = self.index.shape, self.index.tile_shape
        top, bottom = max(top, 0), min(top + shape[0], height)
        left, right = max(left, 0), min(left + shape[1], width)
        if top >= bottom or left >= right:  # a window beside the image may yet lie on the padding of its last tiles
            return
        for row in range(top // tall, -(-bottom // tall)):
            for col in range(left // wide, -(-right // wide)):
                yield row, col

    def _part(
        self, tile: tuple[int, int], top: int, left: int, out: np.ndarray, keep: np.ndarray | None
    ) -> _Part | None:
        """Return what of a tile goes where; None where nothing is kept."""
        (height, width), (tall, wide) = self.index.shape, self.index.tile_shape
        first_row, first_col = max(tile[0] * tall, top, 0), max(tile[1] * wide, left, 0)
        last_row = min((tile[0] + 1) * tall, top + out.shape[0], height)
        last_col = min((tile[1] + 1) * wide, left + out.shape[1], width)
        there = (slice(first_row - top, last_row - top), slice(first_col - left, last_col - left))
        if keep is not None and not keep[there].any():
            return None
        return tile, (first_row - tile[0] * tall, first_col - tile[1] * wide), there

    def _bring(
        self,
        parts: list[_Part],
        spans: list[tuple[int, int]],
        out: np.ndarray,
        keep: np.ndarray | None,
        last: int | None,
    ) -> None:
        """Fetch one range, decode its tiles and put them in place; hold those that reach below row ``last``."""
        reader = self.reader
        begin = min((start for start, _ in spans), default=0)
        end = max((start + size for start, size in spans), default=0)
        try:
            data = memoryview(self._fetch(begin, end) if spans else b"")
            with reader.slots, reader.spent.on("decode", sum(size for _, size in spans)):
                for number, (tile, corner, there) in enumerate(parts):
                    if spans:
                        start, size = spans[number]
                        hold = last is not None and (tile[0] + 1) * self.index.tile_shape[0] > last
                        found = self._decode(tile, data[start - begin : start - begin + size], size, hold)
                    else:
                        hold = False
                        found = self.held.get(tile) or (self.index.unstored(), False)
                    place(found[0], corner, out, there, differenced=found[1], keep=keep)
                    if hold:
                        self.held[tile] = found
        except (RangeError, DamagedTile) as error:
            raise unreadable(error, self.address, SceneError, self.file.about) from None

    def _fetch(self, begin: int, end: int) -> bytes | bytearray:
        reader = self.reader
        return read_range(self.address, begin, end, reader.access, reader.spent.of_range(self.file.about))

    def _decode(self, tile: tuple[int, int], data: memoryview, size: int, hold: bool) -> tuple[np.ndarray, bool]:
        try:
            if len(data) < size:
                raise DamagedTile("the file ends before")
            return self.index.decode(data, None if hold else _buffer(self.index.tile_bytes)), self.index.differenced
        except DamagedTile as error:
            raise DamagedTile(f"tile {tile[0]}, {tile[1]}: {error}") from None


_of_thread = threading.local()


def _buffer(size: int) -> np.ndarray:
    """Return memory of this thread, to be used until it is asked for again."""
    if getattr(_of_thread, "memory", np.empty(0)).size < size:
        _of_thread.memory = np.empty(size, dtype=np.uint8)
    return _of_thread.memory


def _check_grid(
    file: File, shape: Sequence[int], transform: Sequence[float], epsg: int | None, dtypes: Sequence[str]
) -> None:
    """Refuse a file that is not where, or what, its item says."""
    scene = file.scene
    problems = []
    if tuple(dtypes) != ("uint16",):
        problems.append(f"{len(dtypes)} band(s) of {dtypes[0]}, expected one of uint16")
    if scene is not None and tuple(shape) != tuple(scene.shape):
        problems.append(f"shape {tuple(shape)}, the item says {tuple(scene.shape)}")
    if scene is not None and not np.allclose(transform, scene.transform, rtol=0, atol=1e-6):
        problems.append(f"transform {tuple(transform)}, the item says {tuple(scene.transform)}")
    if scene is not None and epsg != scene.epsg:
        problems.append(f"coordinate system EPSG:{epsg}, the item says EPSG:{scene.epsg}")
    if problems:
        raise SceneError(
            f"file has {problems[0]}", fix="repair the item, or go on without it with --skip-bad", **file.about
        )


def read_asset(scene: Scene, asset: str, geobox: GeoBox, access: Access) -> np.ndarray:
    """Read one asset of a scene on a grid: uint16 (y, x), padded with ``fill_of(asset)``.

    Raises
    ------
    SceneError, TrustError
        As ``BlockReader.read``.
    """
    out = np.full((1, *geobox.shape), fill_of(asset), dtype=np.uint16)
    with BlockReader(geobox, access) as reader:
        reader.read(files_of(scene, (asset,)), slice(0, geobox.shape[0]), out)
    return out[0]


class StackReader:
    """stackstac's ``Reader`` protocol over ``BlockReader``: same bytes, same checks, same signing, same errors."""

    def __init__(self, *, url: str, geobox: GeoBox, access: Access, fill_value: Any, **_unused: Any) -> None:
        self.url, self.geobox, self.access, self.fill = url, geobox, access, int(fill_value)
        self._index: dict[str, TiffIndex | None] = {}

    def read(self, window: Window) -> np.ndarray:
        geobox = self.geobox[window.toslices()]
        out = np.full((1, *geobox.shape), self.fill, dtype=np.uint16)
        file = File(self.url, {"file": self.url.rsplit("/", 1)[-1]})
        with BlockReader(geobox, self.access) as reader:
            reader.indexes = self._index  # read once, however many chunks there are
            reader.read([file], slice(0, geobox.shape[0]), out)
        return out[0]

    def close(self) -> None:
        """Nothing stays open between reads."""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_index": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
