"""The floor decodes what is needed, all of it, and nothing twice."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio

from benchmarks.archive import SCALES, make_archive
from benchmarks.floor import Floor, decode_tiles
from benchmarks.peers import read_zarr
from engine.scenes import ASSETS


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return make_archive(tmp_path_factory.mktemp("archive"), SCALES["tiny"])


def test_tiles_without_a_clear_pixel_are_needed_of_the_quality_words_alone(archive, tmp_path):
    part = archive.square
    clear = np.zeros((part.looks, *part.tile.shape), dtype=bool)
    composite = np.arange(6 * 128 * 128, dtype="uint16").reshape(6, 128, 128)
    quality = Floor(part, clear, composite)
    clear[0, 5, 5] = True
    one = Floor(part, clear, composite)
    everything = Floor(part, np.ones_like(clear), composite)
    # A square of 128 px at an odd offset lies under one COG tile or under two in each direction.
    assert 2 * part.looks <= quality.tiles <= 8 * part.looks
    assert one.tiles == quality.tiles + 6
    assert everything.tiles == quality.tiles // 2 * len(ASSETS)
    assert everything.bytes > one.bytes > quality.bytes
    one(tmp_path / "store")
    assert np.array_equal(read_zarr(tmp_path / "store"), composite)


def test_decoded_tiles_are_gdal_s(archive):
    path = archive.scenes[0].assets["red"]
    with rasterio.open(path) as file:
        expected = file.read(1)[:256, :256]
        place = tuple(int(file.get_tag_item(f"BLOCK_{what}_0_0", "TIFF", bidx=1)) for what in ("OFFSET", "SIZE"))
    [tile] = (tile.copy() for tile in decode_tiles(path, [place]))
    assert np.array_equal(tile[: expected.shape[0], : expected.shape[1]], expected)
