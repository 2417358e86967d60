"""Every real Landsat raster as it came, by GDAL, and written anew in our format, by ourselves: the same pixels."""

from __future__ import annotations

from itertools import cycle, islice, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from odc.geo.geobox import GeoBox

from engine.ranges import Access
from engine.reader import BlockReader, File
from engine.trust import Trust
from tests.makers import write_raster

FOLDER = "landsat-rasters"
NOTHING = 54_321
"""Where a file is not."""

FORMATS: list[dict[str, Any]] = [
    *(
        {"tiled": True, "blockxsize": side, "blockysize": side, "compress": compress, "predictor": predictor}
        for side, compress, predictor in product((16, 64, 256), ("deflate", "zstd", None), (1, 2))
    ),
    *({"driver": "COG", "blocksize": 128, "compress": compress, "predictor": 2} for compress in ("deflate", "zstd")),
]


@pytest.fixture(scope="module")
def rasters(shared_data: Path) -> list[Path]:
    """All rasters of 16-bit digital numbers and quality words."""
    found = []
    for path in sorted((shared_data / FOLDER).rglob("*.[tT][iI][fF]")):
        with rasterio.open(path) as file:
            if file.dtypes == ("uint16",):
                found.append(path)
    assert len(found) > 30
    return found


def check(path: Path, *, ours: bool) -> None:
    """Read windows within a file, over each of its edges, beyond them, and all of it, in one piece and in strips."""
    with rasterio.open(path) as file:
        values, transform, crs = file.read(1), file.transform, f"EPSG:{file.crs.to_epsg()}"
    height, width = values.shape
    around = np.pad(values, 99, constant_values=NOTHING)
    access, file = Access(Trust().with_roots(path.parent)), File(str(path), {"file": path.name})
    corners = {(-1, -1): (height + 2, width + 2), (40, 30): (90, 80), (-20, 50): (60, 60), (50, -20): (60, 60)}
    corners |= {(height - 30, 50): (60, 60), (50, width - 30): (60, 60), (height, 0): (9, 9), (3, width + 1): (9, 9)}
    for (top, left), shape in corners.items():
        out = np.full((1, *shape), NOTHING, dtype="uint16")
        with BlockReader(GeoBox(shape, transform * transform.translation(left, top), crs), access) as reader:
            for begin in range(0, shape[0], 150):
                rows = slice(begin, min(begin + 150, shape[0]))
                reader.read([file], rows, out[:, rows])
            assert (reader.indexes[file.href] is not None) == ours
        expected = around[99 + top : 99 + top + shape[0], 99 + left : 99 + left + shape[1]]
        assert np.array_equal(out[0], expected), (path.name, top, left)


@pytest.mark.slow
def test_real_files_are_striped_and_read_by_gdal(rasters: list[Path]) -> None:
    for path in rasters[::6]:
        check(path, ours=False)


@pytest.mark.slow
def test_real_pixels_in_our_format_are_read_by_ourselves(rasters: list[Path], tmp_path: Path) -> None:
    formats = islice(cycle(FORMATS), len(rasters))
    for number, (path, options) in enumerate(zip(rasters, formats, strict=True)):
        with rasterio.open(path) as file:
            values, profile = file.read(1), {"transform": file.transform, "nodata": file.nodata, "crs": file.crs}
        if not 32600 < (profile["crs"].to_epsg() or 0) < 32800:
            profile["crs"] = "EPSG:32648"  # polar scenes: their pixels will do
        check(write_raster(tmp_path / f"{number}.tif", values, **profile, **options), ours=True)
