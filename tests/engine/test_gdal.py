"""Looking rasters up on our grid: exactly as rasterio samples points."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from pyproj import Transformer

from engine import ranges
from engine.errors import Fault, MaskError, PlanError, SceneError
from engine.gdal import open_raster, values_at
from engine.grid import grid_geobox
from engine.ranges import Access
from engine.trust import Trust

BOX = grid_geobox(48, (-32000, 17000, 30, 40))


def _write(path: Path, shape: tuple[int, int], transform: Affine, crs: str, dtype: str = "uint8", **options) -> Path:
    values = np.arange(shape[0] * shape[1]).reshape(shape).astype(dtype)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=1,
        height=shape[0],
        width=shape[1],
        dtype=dtype,
        transform=transform,
        crs=crs,
        **options,
    ) as target:
        target.write(values, 1)
    return path


def _look_up(path: Path, geobox=BOX):
    with open_raster(str(path), Access(Trust().with_roots(path.parent)), fault=MaskError, mask=2020) as dataset:
        return values_at(dataset, geobox)


def _sampled(path: Path, geobox=BOX) -> np.ndarray:
    corner = geobox.transform
    x, y = np.meshgrid(
        corner.c + 30 * (np.arange(geobox.shape.x) + 0.5), corner.f - 30 * (np.arange(geobox.shape.y) + 0.5)
    )
    with rasterio.open(path) as source:
        project = Transformer.from_crs(str(geobox.crs), source.crs.to_wkt(), always_xy=True)
        points = np.column_stack([a.ravel() for a in project.transform(x, y)])
        return np.array([value[0] for value in source.sample(points)]).reshape(geobox.shape)


@pytest.mark.parametrize("pixel", [10, 20, 25, 30, 7.3])
def test_centres_on_the_edge_of_a_raster_pixel_fall_where_rasterio_puts_them(tmp_path, pixel):
    # A 30 m grid centre is a multiple of 30 m: on an edge of every 10 m raster of the same zone.
    corner = BOX.transform
    left, top = corner.c - 15 - 300, corner.f + 15 + 300
    path = _write(tmp_path / "m.tif", (220, 220), Affine(pixel, 0, left, 0, -pixel, top), "EPSG:32648", "uint16")
    values, inside = _look_up(path)
    assert np.array_equal(values, _sampled(path))
    assert inside[:10, :10].all()


def test_a_rotated_raster_is_looked_up_as_rasterio_does(tmp_path):
    west, _, _, north = BOX.geographic_extent.boundingbox
    turned = Affine.translation(west - 0.01, north + 0.01) * Affine.rotation(-20) * Affine.scale(0.0003, -0.0003)
    path = _write(tmp_path / "m.tif", (150, 150), turned, "EPSG:4326", "uint16")
    values, inside = _look_up(path)
    assert inside.all()
    assert np.array_equal(values, _sampled(path))


def test_a_raster_of_another_place_is_not_read(tmp_path):
    path = _write(tmp_path / "m.tif", (10, 10), Affine(0.1, 0, -60, 0, -0.1, 9), "EPSG:4326")
    values, inside = _look_up(path)
    assert not inside.any()
    assert not values.any()


def test_a_raster_far_too_fine_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "fine.tif"
    corner, wide = BOX.transform, grid_geobox(48, (-32000, 17000, 256, 2000))
    profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "height": 20_000, "width": 60_000, "tiled": True}
    with rasterio.open(
        path, "w", transform=Affine(1, 0, corner.c, 0, -1, corner.f), crs="EPSG:32648", SPARSE_OK=True, **profile
    ):
        pass
    with pytest.raises(PlanError, match=r"fine\.tif is too fine for this grid: .*; resample it"):
        _look_up(path, wide)


def test_giant_blocks_many_bands_and_complex_values_are_refused(tmp_path):
    profile = {"driver": "GTiff", "count": 1, "crs": "EPSG:32648", "transform": BOX.transform}
    giant = tmp_path / "giant.tif"
    with rasterio.open(
        giant,
        "w",
        dtype="uint8",
        height=16,
        width=16,
        tiled=True,
        blockxsize=16384,
        blockysize=16384,
        compress="deflate",
        **profile,
    ) as target:
        target.write(np.ones((16, 16), "uint8"), 1)
    with pytest.raises(MaskError, match=r"holds 1 band\(s\) of uint8 in .* 16384 x 16384 px, which is refused"):
        _look_up(giant)
    many = {"count": 200, "interleave": "pixel", "tiled": True, "blockxsize": 1024, "blockysize": 1024}
    for name, dtype, options in [("many", "uint8", many), ("odd", "complex64", {}), ("odder", "complex_int16", {})]:
        path = tmp_path / f"{name}.tif"
        with rasterio.open(path, "w", dtype=dtype, height=4, width=4, SPARSE_OK=True, **profile | options):
            pass
        with pytest.raises(MaskError, match=rf"holds {options.get('count', 1)} band\(s\) of {dtype} in"):
            _look_up(path)


def test_a_virtual_raster_under_another_name_is_not_opened(tmp_path):
    secret = _write(tmp_path / "secret.tif", (30, 40), BOX.transform, "EPSG:32648")
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "mask.tif"
    path.write_text(
        f"<VRTDataset rasterXSize='40' rasterYSize='30'><VRTRasterBand dataType='Byte' band='1'><SimpleSource>"
        f"<SourceFilename>{secret}</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    with pytest.raises(MaskError, match=r"mask\.tif cannot be read as a GeoTIFF"):
        _look_up(path)


def test_storage_that_accepts_and_stays_silent_is_told_within_the_budget(monkeypatch):
    monkeypatch.setattr(ranges, "SILENCE_S", 0.2)
    monkeypatch.setattr(ranges, "READ_WAITS_S", (0.1,) * 9)
    monkeypatch.setattr(ranges, "READ_BUDGET_S", 0.5)
    begin = time.monotonic()
    with socket.create_server(("127.0.0.1", 0), backlog=20) as silent:
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        access = Access(Trust().with_hosts(host))
        opened = open_raster(f"http://{host}/a.tif", access)
        with pytest.raises(SceneError, match=r"a\.tif cannot be read as a GeoTIFF \(silence\)") as caught, opened:
            pass
    assert caught.value.kind is Fault.TRANSIENT
    assert time.monotonic() - begin < 4
