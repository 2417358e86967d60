"""The floor: what no program that makes a composite can be faster than."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import imagecodecs
import numpy as np
import rasterio
from numba import njit

from benchmarks.peers import FILLS, THREADS, window_of, write_zarr
from engine.plan import TileYear
from engine.scenes import ASSETS

TILE_PX = 256


class Floor:
    """Decode each COG tile that is needed exactly once, and write a composite: nothing is masked, placed or reduced.

    Needed are the QA tiles under the square, and of the bands' those in which a pixel of the square is clear. Where
    they lie in the files is found beforehand.

    Parameters
    ----------
    part : TileYear
        Of local COGs, uint16 in deflate with predictor 2.
    clear : ndarray of bool, shape (look, y, x)
        Looks worth keeping.
    composite : ndarray of uint16, shape (6, y, x)
        What to write.
    """

    def __init__(self, part: TileYear, clear: np.ndarray, composite: np.ndarray) -> None:
        self.composite = composite
        everything = np.ones_like(clear[0])
        self.files = [
            (scene.assets[name], _places(scene.assets[name], part, everything if name in FILLS else seen))
            for scene, seen in zip(part.scenes, clear, strict=True)
            for name in ASSETS
        ]

    @property
    def tiles(self) -> int:
        return sum(len(places) for _, places in self.files)

    @property
    def bytes(self) -> int:
        return sum(size for _, places in self.files for _, size in places)

    def __call__(self, store: Path) -> None:
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(lambda file: sum(1 for _ in decode_tiles(*file)), self.files))
        write_zarr(self.composite, store)


def _places(path: str, part: TileYear, wanted: np.ndarray) -> list[tuple[int, int]]:
    """Return offset and size in the file of each COG tile that holds a wanted pixel of the square."""
    found = []
    with rasterio.open(path) as file:
        rows, cols, target = window_of(file, part.tile.geobox)
        inside = np.zeros(file.shape, dtype=bool)
        inside[rows, cols] = wanted[target]
        for row in range(-(-file.height // TILE_PX)):
            for col in range(-(-file.width // TILE_PX)):
                if inside[row * TILE_PX : (row + 1) * TILE_PX, col * TILE_PX : (col + 1) * TILE_PX].any():
                    place = (f"BLOCK_{what}_{col}_{row}" for what in ("OFFSET", "SIZE"))
                    offset, size = (int(file.get_tag_item(name, "TIFF", bidx=1)) for name in place)
                    found.append((offset, size))
    return found


def decode_tiles(path: str, places: list[tuple[int, int]]) -> Iterator[np.ndarray]:
    """Yield the tiles at some places of a file, all in the same memory: fresh memory would double the time."""
    tile = np.empty((TILE_PX, TILE_PX), dtype="<u2")
    raw = tile.reshape(-1).view("uint8").data
    with Path(path).open("rb", buffering=0) as stream:
        for offset, size in places:
            stream.seek(offset)
            imagecodecs.deflate_decode(stream.read(size), raw=False, out=raw)  # libdeflate, the fastest here
            _undo_differences(tile)
            yield tile


@njit(cache=True, nogil=True)
def _undo_differences(tile):
    for row in range(tile.shape[0]):
        value = np.uint16(0)
        for col in range(tile.shape[1]):
            value += tile[row, col]
            tile[row, col] = value
