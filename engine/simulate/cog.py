"""Write small single-band COGs fast: GDAL's driver spends most of its time copying and re-reading them.

A cloud-optimised GeoTIFF is an ordinary one whose directories come first, then the overview's tiles, then the
full resolution's. Only what the archive needs: one unsigned or signed integer band, 256-px tiles, one overview.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any, Final

import numpy as np
from numcodecs.zstd import compress as zstd_compress  # type: ignore[import-untyped]
from odc.geo.geobox import GeoBox

from engine.simulate.world import epsg_of

TILE_PX: Final = 256

# Field types of TIFF 6.0, and their struct letters.
_ASCII, _SHORT, _LONG, _DOUBLE = 2, 3, 4, 12
_LETTERS: Final = {_ASCII: "s", _SHORT: "H", _LONG: "I", _DOUBLE: "d"}
_COMPRESSION: Final = {"deflate": 8, "zstd": 50000}


def write_cog(
    path: Path, array: np.ndarray, geobox: GeoBox, *, nodata: float | None, notice: str, compression: str
) -> None:
    """Write an integer raster as a COG, marked SIMULATED.

    Parameters
    ----------
    path : Path
    array : ndarray of uint8, int16 or uint16, shape (y, x)
    geobox : GeoBox
        In a projected CRS with an EPSG code.
    nodata : float or None
    notice : str
        Value of the tag ``SIMULATED``, without markup.
    compression : {"zstd", "deflate"}
    """
    epsg, affine = epsg_of(geobox), geobox.transform
    metadata = f'<GDALMetadata><Item name="SIMULATED">{notice}</Item></GDALMetadata>'
    georeference = [
        (33550, _DOUBLE, (affine.a, -affine.e, 0.0)),  # pixel scale
        (33922, _DOUBLE, (0.0, 0.0, 0.0, affine.c, affine.f, 0.0)),  # tie point
        # GeoKeys: projected, pixel is area, EPSG code.
        (34735, _SHORT, (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, epsg)),
        (42112, _ASCII, metadata.encode() + b"\0"),
    ]
    images = [array, np.ascontiguousarray(array[::2, ::2])]
    tiles = [_tiles(image, compression) for image in images]
    directories: list[list[tuple[int, int, Any]]] = []
    for level, (image, parts) in enumerate(zip(images, tiles, strict=True)):
        tags: list[tuple[int, int, Any]] = [
            (254, _LONG, (level,)),  # 1: reduced resolution
            (256, _LONG, (image.shape[1],)),
            (257, _LONG, (image.shape[0],)),
            (258, _SHORT, (8 * array.itemsize,)),
            (259, _SHORT, (_COMPRESSION[compression],)),
            (262, _SHORT, (1,)),
            (277, _SHORT, (1,)),
            (284, _SHORT, (1,)),
            (317, _SHORT, (2,)),  # horizontal differencing
            (322, _SHORT, (TILE_PX,)),
            (323, _SHORT, (TILE_PX,)),
            (324, _LONG, (0,) * len(parts)),
            (325, _LONG, tuple(map(len, parts))),
            (339, _SHORT, (2 if array.dtype.kind == "i" else 1,)),
            *(georeference if level == 0 else []),
        ]
        if nodata is not None:
            tags.append((42113, _ASCII, f"{nodata:g}".encode() + b"\0"))
        directories.append(tags)
    # Sizes of directories do not depend on the offsets in them, so place first, then fill in.
    starts = [8]
    for tags in directories:
        starts.append(starts[-1] + len(_directory(tags, starts[-1], 0)))
    position = starts[-1]
    for level in (1, 0):
        offsets = position + np.cumsum([0, *map(len, tiles[level])])
        position = int(offsets[-1])
        directories[level] = [
            (324, _LONG, tuple(map(int, offsets[:-1]))) if tag[0] == 324 else tag for tag in directories[level]
        ]
    with Path(path).open("wb") as file:
        file.write(struct.pack("<2sHI", b"II", 42, starts[0]))
        file.write(_directory(directories[0], starts[0], starts[1]))
        file.write(_directory(directories[1], starts[1], 0))
        file.writelines(tiles[1] + tiles[0])


def _tiles(image: np.ndarray, compression: str) -> list[bytes]:
    """Cut an image into compressed tiles, row by row."""
    rows, cols = (-(-side // TILE_PX) for side in image.shape)
    padded = np.zeros((rows * TILE_PX, cols * TILE_PX), dtype=image.dtype)
    padded[: image.shape[0], : image.shape[1]] = image
    tiles = padded.reshape(rows, TILE_PX, cols, TILE_PX).swapaxes(1, 2).reshape(-1, TILE_PX, TILE_PX)
    differences = np.diff(tiles, axis=2, prepend=tiles.dtype.type(0))
    if compression == "zstd":
        return [zstd_compress(tile, 1) for tile in differences]
    return [zlib.compress(tile, 1) for tile in differences]


def _directory(tags: list[tuple[int, int, Any]], start: int, following: int) -> bytes:
    """Return an image file directory that begins at ``start``, long values behind it."""
    entries, values = b"", b""
    behind = start + 2 + 12 * len(tags) + 4
    for tag, kind, value in sorted(tags):
        if kind == _ASCII:
            count, raw = len(value), value
        else:
            count, raw = len(value), struct.pack(f"<{len(value)}{_LETTERS[kind]}", *value)
        if len(raw) > 4:
            values += b"\0" * (len(values) % 2)
            entries += struct.pack("<HHII", tag, kind, count, behind + len(values))
            values += raw
        else:
            entries += struct.pack("<HHI4s", tag, kind, count, raw)
    values += b"\0" * (len(values) % 2)
    return struct.pack("<H", len(tags)) + entries + struct.pack("<I", following) + values
