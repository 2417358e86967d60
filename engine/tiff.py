"""The one raster format that matters, read by ourselves: classic little-endian tiled TIFF of one band of integers.

That is what USGS and the Planetary Computer store Landsat as. Its index is a few kilobytes at the front of the
file; a tile is a run of bytes elsewhere. Anything else is ``ForeignTiff``, and left to GDAL.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import imagecodecs
import numpy as np

MAX_TILE_BYTES: Final = 2**27
"""A larger internal tile, of all bands, is refused before it is allocated: 1.8 MB of file can ask for 1.7 GB."""

_MAX_OWN_BYTES: Final = 2**19  # of 512 x 512 px; as many threads hold a tile as requests are in flight

_MAX_TILES: Final = 2**20
_MAX_ENTRIES: Final = 200
_MAX_GROWTH: Final = 1.1  # of what does not compress; no writer makes more of it
_SLACK_BYTES: Final = 1024

_NONE, _DEFLATE, _OLD_DEFLATE, _ZSTD = 1, 8, 32946, 50000
_LETTERS: Final = {1: "B", 2: "s", 3: "H", 4: "I", 12: "d"}  # of struct, for BYTE, ASCII, SHORT, LONG, DOUBLE
_TYPES: Final[dict[int, np.dtype]] = {8: np.dtype("uint8"), 16: np.dtype("<u2")}
_PIXEL_IS_POINT: Final = 2
_PROJECTED: Final = 1
_METRE: Final = 9001
_WGS84: Final = 4326
_UTM: Final = (*range(32601, 32661), *range(32701, 32761))
_NUMBER: Final = re.compile(r"[+-]?(?:\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|nan|inf)")

Affine6 = tuple[float, float, float, float, float, float]


class ForeignTiff(Exception):
    """Not of the format that is read here; GDAL may know it."""


class DamagedTile(Exception):
    """Bytes that are no tile."""


@dataclass(frozen=True)
class TiffIndex:
    """Where the pixels of a file's first image are, and on what grid."""

    shape: tuple[int, int]
    dtype: np.dtype
    tile_shape: tuple[int, int]
    compression: int
    differenced: bool
    """Predictor 2: values are differences along rows."""

    nodata: float | None
    offsets: np.ndarray
    """int64 (tile_row, tile_col): first byte of each tile; 0 where it is not stored, and all ``nodata``, or 0."""

    counts: np.ndarray
    """int64 (tile_row, tile_col): bytes of each tile."""

    transform: Affine6
    """Affine coefficients a-f, as GDAL gives them: pixel corners, also of a file whose tie points are centres."""

    epsg: int

    @property
    def tile_bytes(self) -> int:
        """Bytes of a tile, decompressed."""
        return math.prod(self.tile_shape) * self.dtype.itemsize

    def decode(self, data: bytes | memoryview, out: np.ndarray | None = None) -> np.ndarray:
        """Decompress one tile; its predictor is left to ``kernels.tiles.place``.

        Parameters
        ----------
        data : bytes-like
        out : ndarray of uint8, optional
            Memory to use, at least a tile's.

        Returns
        -------
        ndarray of ``dtype``, shape ``tile_shape``

        Raises
        ------
        DamagedTile
            If it does not decompress to exactly one tile.
        """
        size = self.tile_bytes
        if self.compression == _NONE:
            if len(data) < size:
                raise DamagedTile("too short")
            values = np.frombuffer(data, self.dtype, size // self.dtype.itemsize).reshape(self.tile_shape)
            return values.copy() if out is None else values  # to be held: not with all that was fetched around it
        out = np.empty(size, dtype=np.uint8) if out is None else out[:size]
        decode = imagecodecs.zstd_decode if self.compression == _ZSTD else imagecodecs.deflate_decode
        try:
            made = decode(data, out=memoryview(out))
        except RuntimeError as error:  # imagecodecs' own errors are its subclasses
            raise DamagedTile("not decompressible") from error
        if len(made) != size:
            raise DamagedTile("too short")
        return out.view(self.dtype).reshape(self.tile_shape)

    def unstored(self) -> np.ndarray:
        """Return a tile that the file leaves out (sparse), as ``decode`` would: not differenced."""
        most = np.iinfo(self.dtype).max
        value = 0 if self.nodata is None or math.isnan(self.nodata) else min(max(self.nodata, 0), most)
        return np.full(self.tile_shape, int(value + 0.5), dtype=self.dtype)


def read_index(read: Callable[[int, int], bytes | bytearray]) -> TiffIndex:
    """Read the index of a file's first image.

    Parameters
    ----------
    read : callable
        ``read(start, stop)`` returns the bytes of a file between two places, fewer where it ends.

    Raises
    ------
    ForeignTiff
        If it is another format, kind of TIFF, compression, type or georeference, or its index is not consistent.
    """
    try:
        return _read_index(read)
    except (struct.error, KeyError, IndexError, ValueError, OverflowError) as error:
        raise ForeignTiff(f"index is not readable ({type(error).__name__})") from error


def _read_index(read: Callable[[int, int], bytes | bytearray]) -> TiffIndex:
    order, magic, start = struct.unpack("<2sHI", read(0, 8))
    _require(order == b"II" and magic == 42, "no classic little-endian TIFF")
    (count,) = struct.unpack("<H", read(start, start + 2))
    _require(0 < count <= _MAX_ENTRIES, "directory is too long")
    entries = {}
    raw = read(start + 2, start + 2 + 12 * count)
    for place in range(0, 12 * count, 12):
        tag, kind, length, value = struct.unpack_from("<HHI4s", raw, place)
        entries[tag] = (_LETTERS.get(kind, "?"), length, value)
    _require(len(entries) == count, "a tag is there twice")

    def values(tag: int, default: Any = None, *, letters: str = "BHI", most: int = 16) -> Any:
        """Return a tag of one of these types: a tuple, beyond 16 values an array, of ASCII a string."""
        if tag not in entries:
            _require(default is not None, f"tag {tag} is missing")
            return default
        letter, length, value = entries[tag]
        _require(letter in letters and length <= most, f"tag {tag} is of another type, or too long")
        size = length * struct.calcsize(f"<{letter}")
        if size > 4:
            (place,) = struct.unpack("<I", value)
            value = read(place, place + size)
        if letter == "s":
            return value[:length].rstrip(b"\0").decode("ascii")
        if length > 16:
            return np.frombuffer(value, f"<{letter}", length)
        return struct.unpack_from(f"<{length}{letter}", value)

    (width,), (height,) = values(256), values(257)
    (tile_width,), (tile_height,) = values(322), values(323)
    bits, sample_format = values(258), values(339, (1,))
    (compression,), (predictor,) = values(259), values(317, (1,))
    _require(values(277, (1,)) == (1,) and bits in ((8,), (16,)) and sample_format == (1,), "not one band of integers")
    _require(values(262, (1,)) in ((1,), (3,)) and values(266, (1,)) == (1,), "unusual meaning of bits")
    _require(compression in (_NONE, _DEFLATE, _OLD_DEFLATE, _ZSTD) and predictor in (1, 2), "unusual compression")
    dtype = _TYPES[bits[0]]
    tile_bytes = tile_width * tile_height * dtype.itemsize
    _require(width > 0 and height > 0 and 0 < tile_bytes <= _MAX_OWN_BYTES, "tiles are too large")
    grid = (-(-height // tile_height), -(-width // tile_width))
    tiles = math.prod(grid)
    _require(tiles <= _MAX_TILES, "too many tiles")
    offsets, counts = (np.array(values(tag, most=_MAX_TILES), dtype=np.int64).reshape(grid) for tag in (324, 325))
    _require(counts.max() <= tile_bytes * _MAX_GROWTH + _SLACK_BYTES, "tiles are longer than their pixels")
    nodata = values(42113, "", letters="s", most=64).strip()
    _require(not nodata or _NUMBER.fullmatch(nodata) is not None, "nodata is no number")
    transform, epsg = _georeference(values, entries)
    return TiffIndex(
        shape=(height, width),
        dtype=dtype,
        tile_shape=(tile_height, tile_width),
        compression=compression,
        # Without compression GDAL writes no predictor and reads none.
        differenced=predictor == 2 and compression != _NONE,
        nodata=float(nodata) if nodata else None,
        offsets=offsets,
        counts=counts,
        transform=transform,
        epsg=epsg,
    )


def _georeference(values: Callable[..., Any], entries: dict[int, Any]) -> tuple[Affine6, int]:
    """Return transform and EPSG code as GDAL reads GeoTIFF's tags: 33922 ties, 33550 scales, 34735 keys."""
    _require(34264 not in entries, "general transformation")
    x_scale, y_scale, _ = values(33550, letters="d")
    col, row, _, x, y, _ = values(33922, letters="d")
    finite = all(map(math.isfinite, (x_scale, y_scale, col, row, x, y)))
    _require(finite and x_scale > 0 and y_scale > 0, "unusual scale")
    keys = [int(value) for value in values(34735, letters="H", most=400)]
    _require(keys[0] == 1 and len(keys) >= 4 + 4 * keys[3], "keys of another version, or too few")
    known = {
        keys[at]: keys[at + 3] for at in range(4, 4 + 4 * keys[3], 4) if keys[at + 1 : at + 3] == [0, 1]
    }  # those whose value is a number kept in place
    plain = known.get(2048, _WGS84) == _WGS84 and known.get(3076, _METRE) == _METRE
    _require(known.get(1024) == _PROJECTED and known.get(3072) in _UTM and plain, "coordinate system is not UTM")
    left, top = x - col * x_scale, y + row * y_scale
    if known.get(1025) == _PIXEL_IS_POINT:
        left, top = left - 0.5 * x_scale, top + 0.5 * y_scale
    return (x_scale, 0.0, left, 0.0, -y_scale, top), known[3072]


def _require(fits: bool, otherwise: str) -> None:
    if not fits:
        raise ForeignTiff(otherwise)
