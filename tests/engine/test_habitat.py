from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from shapely.geometry import MultiPolygon, box

from engine.area import Area, Region
from engine.errors import MaskError, TrustError
from engine.grid import grid_geobox
from engine.habitat import _boxes, find_habitat_sources, habitat_tile
from engine.params import HabitatParams
from engine.trust import Trust

BOX = grid_geobox(48, (-32000, 17000, 60, 80))


def _write(path: Path, values: np.ndarray, geobox, nodata=None) -> Path:
    profile = {"driver": "GTiff", "count": 1, "height": values.shape[0], "width": values.shape[1]}
    profile |= {"transform": geobox.transform, "crs": str(geobox.crs), "nodata": nodata}
    with rasterio.open(path, "w", dtype=values.dtype, **profile) as target:
        target.write(values, 1)
    return path


def _area() -> Area:
    return Area((Region("a", MultiPolygon([box(105.15, 8.6, 105.2, 8.7)])),))


def _habitat(params: HabitatParams, root: Path, geobox=BOX):
    trust = Trust().with_roots(root)
    sources = find_habitat_sources(params, _area(), trust=trust)
    return habitat_tile(params, geobox, sources=sources, trust=trust)


def test_high_land_is_out_and_the_sea_without_elevation_is_in(tmp_path):
    elevation = np.tile(np.linspace(0, 79, 80, dtype="float32"), (60, 1))
    elevation[:, :5] = -9999
    params = HabitatParams(dem=str(_write(tmp_path / "dem.tif", elevation[:, :70], BOX, nodata=-9999)))
    allowed = _habitat(params.model_copy(update={"max_distance_to_tidal_water_km": None}), tmp_path)
    assert allowed[:, :41].all()
    assert not allowed[:, 41:70].any()
    assert allowed[:, 70:].all()  # beyond the raster


def test_land_far_from_water_is_out_and_tiles_do_not_seam(tmp_path):
    wide = BOX.pad(40)
    occurrence = np.random.default_rng(0).integers(0, 49, tuple(wide.shape)).astype("uint8")
    occurrence[5, 7] = 100  # water that only the halo sees
    occurrence[70, 60] = 50
    occurrence[90, 100] = 255  # nodata
    path = _write(tmp_path / "gsw.tif", occurrence, wide, nodata=255)
    params = HabitatParams(max_elevation_m=None, max_distance_to_tidal_water_km=1.2, water=str(path))
    whole = _habitat(params, tmp_path)
    y, x = np.mgrid[:60, :80] + 40
    expected = (np.hypot(y - 5, x - 7) <= 40) | (np.hypot(y - 70, x - 60) <= 40)
    assert np.array_equal(whole, expected)
    assert 0 < whole.mean() < 1
    for part in ((slice(0, 23), slice(0, 31)), (slice(23, 60), slice(31, 80))):
        assert np.array_equal(_habitat(params, tmp_path, BOX[part]), whole[part])


def test_a_folder_of_rasters_is_one_source_and_both_limits_hold_together(tmp_path):
    (tmp_path / "dem").mkdir()
    low, high = np.zeros((60, 40), "int16"), np.full((60, 40), 90, "int16")
    _write(tmp_path / "dem" / "a.tif", low, BOX[:, :40])
    _write(tmp_path / "dem" / "b.tif", high, BOX[:, 40:])
    water = _write(tmp_path / "water.tif", np.full((30, 80), 80, "uint8"), BOX[:30, :])
    params = HabitatParams(dem=str(tmp_path / "dem"), water=str(water), max_distance_to_tidal_water_km=0.3)
    allowed = _habitat(params, tmp_path)
    expected = np.zeros((60, 80), bool)
    expected[:40, :40] = True
    assert np.array_equal(allowed, expected)


def test_a_tile_without_any_water_data_and_missing_files_are_refused(tmp_path):
    far = grid_geobox(48, (-20000, 17000, 10, 10))
    water = _write(tmp_path / "water.tif", np.ones((10, 10), "uint8"), far)
    params = HabitatParams(max_elevation_m=None, water=str(water))
    with pytest.raises(MaskError, match="water covers nothing of a tile; give a raster"):
        _habitat(params, tmp_path)
    with pytest.raises(MaskError, match=r"habitat\.dem: .*gone\.tif holds no GeoTIFF"):
        _habitat(HabitatParams(dem=str(tmp_path / "gone.tif")), tmp_path)
    with pytest.raises(TrustError):
        _habitat(params, tmp_path / "elsewhere")


def test_the_boxes_searched_are_widened_and_cut_at_the_antimeridian():
    fiji = Area((Region("fiji", MultiPolygon([box(179.5, -17, 180, -16), box(-180, -17, -179.9, -16)])),))
    boxes = [[round(v, 2) for v in b] for b in _boxes(fiji, 5)]
    assert sorted(boxes) == [
        [-180.0, -17.04, -179.95, -15.96],
        [-180.0, -17.04, -179.85, -15.96],
        [179.45, -17.04, 180.0, -15.96],
        [179.95, -17.04, 180.0, -15.96],
    ]


def test_cloud_optimized_rasters_may_be_rotated_or_in_degrees(tmp_path):
    west, _, _, north = BOX.geographic_extent.boundingbox
    values = np.full((100, 100), 10, "uint8")
    turned = Affine.translation(west - 0.05, north + 0.05) * Affine.rotation(-20) * Affine.scale(0.002, -0.002)
    path = tmp_path / "turned.tif"
    profile = {"driver": "GTiff", "count": 1, "height": 100, "width": 100, "dtype": "uint8"}
    with rasterio.open(path, "w", transform=turned, crs="EPSG:4326", **profile) as target:
        target.write(values, 1)
    params = HabitatParams(dem=str(path), max_elevation_m=5, max_distance_to_tidal_water_km=None)
    assert not _habitat(params, tmp_path).any()
