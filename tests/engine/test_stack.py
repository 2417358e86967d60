"""The lazy stack against plain rasterio and numpy, and its masks and looks by hand."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import Transformer

import engine
from engine.errors import PlanError
from engine.landsat import BANDS
from engine.params import CubeParams
from engine.ranges import Access
from engine.stack import fuse_observations, mask_clouds, stack_items, stack_looks
from engine.trust import Trust
from tests.engine.conftest import TILE
from tests.makers import ASSETS, item_of, utc, write_scene

ALIGNED = GeoBox((53, 71), Affine(30, 0, 15 + 30 * 16580, 0, -30, 15 + 30 * 32730), "EPSG:32648")
"""On the scenes' grid; over the upper edge of one scene and the left edge, with its fill, of another."""

ASKEW = GeoBox((37, 53), Affine(47, 0, 26 + 30 * 16580, 0, -41, 30 * 32730), "EPSG:32648")
"""About the same ground in pixels of 47 x 41 m that start anywhere."""


def at_centres(path: str, geobox: GeoBox, fill: int) -> np.ndarray:
    """Return the value of a file's pixel under the centre of every pixel of a grid, by rasterio and numpy alone."""
    with rasterio.open(path) as file:
        values, affine = file.read(1), file.transform
    rows, cols = np.mgrid[: geobox.shape[0], : geobox.shape[1]]
    col, row = (np.floor(v).astype(int) for v in ~affine * (geobox.transform * (cols + 0.5, rows + 0.5)))
    inside = (row >= 0) & (row < values.shape[0]) & (col >= 0) & (col < values.shape[1])
    found = np.full(geobox.shape, fill, "uint16")
    found[inside] = values[row[inside], col[inside]]
    return found


@pytest.mark.parametrize("geobox", [ALIGNED, ASKEW], ids=["aligned", "askew"])
@pytest.mark.parametrize("chunk_px", [32, 1024])
def test_every_pixel_holds_the_value_under_its_centre_or_fill(scenes, access, geobox, chunk_px):
    chosen = [scenes[7], scenes[0]]
    stack = stack_items(chosen, geobox, access=access, chunk_px=chunk_px)
    assert stack.chunks is not None, "nothing may be read before it is asked for"
    assert stack.dims == ("time", "band", "y", "x")
    assert stack.dtype == np.uint16
    values = stack.compute()
    for step, scene in enumerate([scenes[0], scenes[7]]):  # in order of time
        for asset in ASSETS:
            expected = at_centres(scene.assets[asset], geobox, 1 if asset == "qa_pixel" else 0)
            assert np.array_equal(values.sel(band=asset)[step], expected), (scene.id, asset)
    beyond = values.sel(band="qa_pixel")[0] == 1
    assert 0.2 < beyond.mean() < 0.8, "part of the grid lies beyond the first scene"
    assert not values.sel(band="red")[0].where(beyond, 0).any()


@pytest.mark.parametrize("crs", ["ESRI:54009", "+proj=laea +lat_0=9 +lon_0=105", "EPSG:4326"])
def test_a_grid_in_any_coordinate_system_holds_what_rasterio_samples(scenes, access, crs):
    geobox = ALIGNED.to_crs(crs)
    values = stack_items(scenes[:1], geobox, access=access, assets=["nir08", "qa_pixel"]).compute()
    points = np.stack(np.meshgrid(values.x, values.y), axis=-1).reshape(-1, 2)
    with rasterio.open(scenes[0].assets["nir08"]) as file:
        project = Transformer.from_crs(geobox.crs.to_wkt(), file.crs.to_wkt(), always_xy=True)
        sampled = [value[0] for value in file.sample(zip(*project.transform(*points.T), strict=True))]
    assert np.array_equal(values.sel(band="nir08").values.ravel(), sampled)
    assert values.any()
    assert "crs_wkt" in values.spatial_ref.attrs


def test_coordinates_are_pixel_centres_under_a_cf_grid_mapping(scenes, access):
    stack = stack_items(scenes[8:], ALIGNED, access=access, assets=["nir08", "qa_pixel", "red"])
    assert list(stack.band.values) == ["nir08", "qa_pixel", "red"]
    assert stack.x.values[[0, -1]].tolist() == [30 + 30 * 16580, 30 + 30 * 16650]
    assert stack.y.values[[0, -1]].tolist() == [30 * 32730, 30 * 32678]
    assert stack.attrs["grid_mapping"] == "spatial_ref"
    assert stack.spatial_ref.attrs["grid_mapping_name"] == "transverse_mercator"
    assert stack.spatial_ref.attrs["GeoTransform"] == "497415.0 30.0 0.0 981915.0 0.0 -30.0"
    assert list(stack.id.values) == [scene.id for scene in scenes[8:]]
    assert stack.time.values[1] - stack.time.values[0] == np.timedelta64(24, "s")
    assert set(stack.platform.values) == {"landsat-8"}
    assert len(set(stack.observation.values)) == 1


def test_items_are_as_good_as_scenes(scenes, access):
    items = [item_of(scene) for scene in scenes[:2]]
    expected = engine.stack_items(scenes[:2], ALIGNED, access=access, assets=["red"])
    assert engine.stack_items(items, ALIGNED, access=access, assets=["red"]).identical(expected)
    documents = [item.to_dict() for item in items]
    assert engine.stack_items(documents, ALIGNED, access=access, assets=["red"]).identical(expected)


def test_what_cannot_be_stacked_is_refused(scenes, access):
    with pytest.raises(PlanError, match="no scenes to stack; widen the years, platforms or tiers"):
        stack_items([], ALIGNED, access=access)
    rotated = GeoBox((9, 9), Affine.rotation(20) * Affine.scale(30), "EPSG:32648")
    for geobox in (rotated, ALIGNED.flipx(), ALIGNED.flipy()):
        with pytest.raises(PlanError, match="grid is rotated or flipped; give a north-up GeoBox"):
            stack_items(scenes[:1], geobox, access=access)
    endless = GeoBox((2**20, 2**20), ALIGNED.transform, "EPSG:32648")
    with pytest.raises(PlanError, match=r"a stack of 8\.8e\+12 elements is refused"):
        stack_items(scenes[:1], endless, access=access)


def test_a_scene_that_does_not_reach_the_grid_is_a_look_that_saw_nothing(tmp_path):
    row, col, _, _ = TILE.window
    here = write_scene(tmp_path, day=utc(2019, 1, 1), corner=(row, col), shape=(80, 80))
    aside = write_scene(tmp_path, day=utc(2019, 1, 2), corner=(row, col + 80), shape=(80, 80))
    access = Access(Trust().with_roots(tmp_path))
    for scenes in ([aside], [here, aside]):
        looks = stack_looks(scenes, TILE.geobox[:80, :80], CubeParams(), access)
        assert looks.sizes["time"] == len(scenes)
        assert [bool(look.any()) for look in looks.values] == [scene is here for scene in scenes]


# Masks and looks by hand: one row of pixels

CLEAR, CLOUD, SHADOW, SNOW, UNSURE = 21824, 22280, 23888, 21824 | 32, 21824 & ~(3 << 8) | (2 << 8)
SWIR1_OR_THERMAL = 1 << 5
"""QA_RADSAT bit 5: SWIR1 is saturated on OLI; on ETM+ it is a thermal band that nobody reads."""


def row_of_pixels(platforms, qa_pixel, qa_radsat, **bands) -> xr.DataArray:
    """Return a stack of one row; every platform sees the same words, and 9 in each band that is not given."""
    words = {band: bands.get(band, [9] * len(qa_pixel)) for band in BANDS}
    words |= {"qa_pixel": qa_pixel, "qa_radsat": qa_radsat}
    values = np.array([[[row] for row in words.values()]] * len(platforms), "uint16")
    coords = {"band": list(words), "platform": ("time", platforms)}
    return xr.DataArray(values, dims=("time", "band", "y", "x"), coords=coords, attrs={"grid_mapping": "spatial_ref"})


@pytest.mark.parametrize("chunks", [None, {"time": 1, "band": 3, "x": 2}], ids=["eager", "lazy"])
def test_clouds_fill_and_saturation_are_masked_in_every_band(chunks):
    stack = row_of_pixels(
        ["landsat-8", "landsat-7"],
        qa_pixel=[CLEAR, CLOUD, SHADOW, 1, SNOW, UNSURE, CLEAR, CLEAR],
        qa_radsat=[0, 0, 0, 0, 0, 0, SWIR1_OR_THERMAL, 0],
        blue=[5, 5, 5, 5, 5, 5, 5, 0],  # fill in one band only
    )
    stack = stack if chunks is None else stack.chunk(chunks)
    masked = mask_clouds(stack)
    assert (masked.chunks is None) == (chunks is None)
    assert masked.dtype == np.uint16
    assert masked.dims == ("time", "band", "y", "x")
    assert list(masked.band.values) == list(BANDS)
    assert masked.attrs == {"grid_mapping": "spatial_ref", "_FillValue": 0}
    for band, value in (("blue", 5), ("swir22", 9)):
        assert masked.sel(band=band, y=0).values.tolist() == [
            [value, 0, 0, 0, value, value, 0, 0],
            [value, 0, 0, 0, value, value, value, 0],
        ]
    strict = mask_clouds(stack, reject_cloud_confidence=True).sel(band="red", y=0)
    assert strict.values.tolist() == [[9, 0, 0, 0, 9, 0, 0, 0], [9, 0, 0, 0, 9, 0, 9, 0]]


@pytest.mark.parametrize("chunks", [None, {"time": 1, "x": 2}], ids=["eager", "lazy"])
def test_the_first_clear_scene_of_a_pass_wins(chunks):
    rows = [[[1, 0, 0]], [[2, 2, 0]], [[0, 3, 0]]]
    masked = xr.DataArray(
        np.array([[row, row] for row in rows], "uint16"),
        dims=("time", "band", "y", "x"),
        coords={
            "time": np.array(["2019-01-01T03:00:00", "2019-01-01T03:00:24", "2019-01-08"], "datetime64[ns]"),
            "band": ["red", "nir08"],
            "id": ("time", ["a", "b", "c"]),
            "observation": ("time", ["one", "one", "two"]),
        },
        attrs={"_FillValue": 0},
    )
    fused = fuse_observations(masked if chunks is None else masked.chunk(chunks))
    assert (fused.chunks is None) == (chunks is None)
    assert fused.dtype == np.uint16
    assert fused.sel(band="nir08", y=0).values.tolist() == [[1, 2, 0], [0, 3, 0]]
    assert list(fused.observation.values) == ["one", "two"]
    assert fused.time.values.tolist() == masked.time.values[[0, 2]].tolist()
    assert "id" not in fused.coords
    assert fused.attrs == {"_FillValue": 0}
