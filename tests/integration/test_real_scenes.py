"""Real Landsat scenes and items: whole scenes on their own grid, the Brumadinho pair, southern geometry."""

from __future__ import annotations

import datetime as dt
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from scipy import ndimage
from shapely.geometry import box

from engine.area import read_area
from engine.catalog import periods_of, search_scenes
from engine.cube import composite_block, read_looks
from engine.errors import CatalogError, SceneError
from engine.gdal import values_at
from engine.grid import Tile, lonlat_of, tiles_of, zone_of
from engine.kernels.compare import transitions
from engine.kernels.composite import annual_layers
from engine.kernels.features import feature_stack
from engine.landsat import BANDS, QA_PIXEL, QA_RADSAT
from engine.legend import GAIN, LOSS, MANGROVE, NOT_OBSERVED, OTHER, STABLE_MANGROVE, STABLE_OTHER
from engine.params import AreaParams, CubeParams, SearchParams
from engine.plan import make_plan
from engine.ranges import Access
from engine.scenes import Grid, Scene, scene_from_item
from engine.stack import mask_clouds, stack_items, stack_looks
from engine.trust import Trust

WHOLE = "landsat-rasters/c2l2-wholescene-512"
ON_UTM = ("LC08_L2SP_008059_20191201_20200825_02_T1", "LC08_L2SP_005009_20150710_20200908_02_T2")
POLAR = "LC08_L2SR_099120_20191129_20201016_02_T2"
RADSAT_OLI = 0b1000_0111_1110
"""Saturation of bands 2 to 7, and terrain occlusion."""


def local_item(shared_data: Path, name: str) -> tuple[dict[str, Any], Path]:
    """Return a real item with its hrefs pointed at the files beside it."""
    folder = shared_data / WHOLE / name
    item = json.loads((folder / f"{name}_SR_stac.json").read_text())
    for asset in item["assets"].values():
        asset["href"] = asset["href"].rsplit("/", 1)[-1]
    return item, folder


def grid_of_file(href: str) -> Grid:
    with rasterio.open(href) as file:
        return file.crs.to_epsg(), file.shape, tuple(file.transform)[:6]


def geobox_of(scene: Scene) -> GeoBox:
    return GeoBox(scene.shape, rasterio.Affine(*scene.transform), f"EPSG:{scene.epsg}")


def real_scene(shared_data: Path, name: str) -> Scene:
    item, folder = local_item(shared_data, name)
    return scene_from_item(item, base=str(folder), grid_from_header=grid_of_file)


def plain(path: str) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read(1)


def plain_look(scene: Scene) -> np.ndarray:
    """Return the masked bands (band, y, x) of a scene, by rasterio and numpy alone."""
    bands = np.stack([plain(scene.assets[band]) for band in BANDS])
    clear = (plain(scene.assets[QA_PIXEL]) & 0b11111) == 0
    clear &= (plain(scene.assets[QA_RADSAT]) & RADSAT_OLI) == 0
    clear &= (bands > 0).all(axis=0)
    return bands * clear


@pytest.mark.parametrize("name", ON_UTM)
def test_a_cube_of_a_whole_real_scene_on_its_own_grid_is_exact(shared_data: Path, name: str) -> None:
    scene = real_scene(shared_data, name)
    geobox, access = geobox_of(scene), Access(Trust().with_roots(shared_data))
    look = plain_look(scene)
    layers, lost = composite_block([scene], geobox, CubeParams(), access)
    assert lost == []
    assert np.array_equal(layers["composite"], look)
    assert np.array_equal(layers["clear_count"], look[0] > 0)
    assert 0.05 < (look[0] > 0).mean() < 0.95, "cloud, fill and clear are all there"
    # One look is too few for any range.
    assert (layers["ndvi_p10"] == -32768).all()
    assert (layers["water_frequency"] == 65535).all()

    stack = stack_items([scene], geobox, access=access)
    for asset in stack.band.values:
        assert np.array_equal(stack.sel(band=asset)[0], plain(scene.assets[asset])), asset
    assert np.array_equal(mask_clouds(stack)[0], look)


@pytest.mark.slow
def test_a_year_of_real_words_reduces_to_the_plain_median(shared_data: Path) -> None:
    """One real scene read as five looks, each moved by whole pixels, so that a pixel sees five different words."""
    scene = real_scene(shared_data, ON_UTM[0])
    geobox, access = geobox_of(scene), Access(Trust().with_roots(shared_data))
    windows = [geobox[y : y + 400, x : x + 400] for x, y in [(0, 0), (7, 3), (40, 60), (99, 1), (13, 112)]]
    parts = [read_looks([scene], window, access) for window in windows]
    layers = annual_layers(
        np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts]), min_looks_range=8
    )
    look = plain_look(scene)
    moved = np.stack([look[:, y : y + 400, x : x + 400] for x, y in [(0, 0), (7, 3), (40, 60), (99, 1), (13, 112)]])
    values = np.where(moved == 0, np.nan, moved)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        median = np.nanmedian(values, axis=0)
    assert np.array_equal(layers["composite"], np.nan_to_num(np.floor(median + 0.5)).astype("uint16"))
    assert np.array_equal(layers["clear_count"], (moved[:, 0] > 0).sum(axis=0))
    assert set(np.unique(layers["clear_count"])) == set(range(6))


@pytest.mark.parametrize("crs", ["EPSG:3031", "EPSG:4326", "EPSG:32718"])
def test_a_real_scene_is_stacked_on_any_grid(shared_data: Path, crs: str) -> None:
    """Every pixel holds the value of the scene's pixel under its centre, computed point by point."""
    scene = real_scene(shared_data, ON_UTM[0])
    left, bottom, right, top = geobox_of(scene).to_crs(crs).boundingbox.bbox
    side = 97
    affine = rasterio.Affine((right - left) / side, 0, left, 0, (bottom - top) / side, top)
    geobox = GeoBox((side, side), affine, crs)
    stack = stack_items([scene], geobox, access=Access(Trust().with_roots(shared_data)), chunk_px=32)
    rows, cols = np.mgrid[:side, :side]
    x, y = affine * (cols + 0.5, rows + 0.5)
    x, y = Transformer.from_crs(crs, scene.epsg, always_xy=True).transform(x, y)
    there = [np.floor(v).astype(int) for v in ~rasterio.Affine(*scene.transform) * (x, y)]
    inside = np.logical_and.reduce([(v >= 0) & (v < 512) for v in there])
    assert inside.mean() > 0.2
    for asset, fill in (("red", 0), ("qa_pixel", 1)):
        expected = np.full((side, side), fill, "uint16")
        expected[inside] = plain(scene.assets[asset])[there[1][inside], there[0][inside]]
        assert np.array_equal(stack.sel(band=asset)[0], expected)


def test_the_30_m_job_refuses_the_old_items_by_name(shared_data: Path, tmp_path: Path) -> None:
    names = (*ON_UTM, POLAR)
    items = []
    for name in names:
        item, folder = local_item(shared_data, name)
        for asset in item["assets"].values():
            asset["href"] = str(folder / asset["href"])
        items.append(item)
    path = tmp_path / "items.json"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    params = SearchParams(catalogs=(str(path),), tiers=("T1", "T2"))
    area = read_area(AreaParams(bbox=(-75.5, 1.0, -75.0, 1.5)), Trust())
    with pytest.raises(CatalogError, match=r"3 refused, the first LC08_L2SP_005009.*item says no projection"):
        search_scenes(params, area, periods_of([2019]), trust=Trust().with_roots(shared_data, tmp_path))
    for name in names:
        item, folder = local_item(shared_data, name)
        with pytest.raises(SceneError, match=f"scene {name}.*: item says no projection, shape or transform; use a"):
            scene_from_item(item, base=str(folder))
    item, folder = local_item(shared_data, POLAR)
    with pytest.raises(SceneError, match="EPSG:3031 is not UTM; polar"):
        scene_from_item(item, base=str(folder), grid_from_header=grid_of_file)


# The Brumadinho pair: a tailings dam near 20.12 S 44.12 W broke on 25 January 2019.

DAYS = (dt.datetime(2019, 1, 14, 12, 56, tzinfo=dt.UTC), dt.datetime(2019, 1, 30, 12, 56, tzinfo=dt.UTC))
DAM = (-44.1205, -20.1195)


def brumadinho(shared_data: Path, folder: Path) -> list[Scene]:
    """Return the two crops as scenes; they come without QA, so it is made: clear where every band holds data."""
    scenes = []
    for day in DAYS:
        name = f"LC08_L2SP_218074_{day:%Y%m%d}_20200829_02_T1"
        crop = shared_data / "landsat-rasters/c2l2-30m-crops"
        assets = {band: str(crop / f"{name}_SR_B{n}.TIF") for n, band in enumerate(BANDS, start=2)}
        with rasterio.open(assets["red"]) as file:
            shape, affine, bounds = file.shape, file.transform, file.bounds
        grid = {"height": shape[0], "width": shape[1], "count": 1, "dtype": "uint16", "crs": 32623, "transform": affine}
        filled = np.all([plain(assets[band]) > 0 for band in BANDS], axis=0)
        quality = {QA_PIXEL: np.where(filled, 21824, 1), QA_RADSAT: np.zeros(shape)}
        for asset, words in quality.items():
            assets[asset] = str(folder / f"{name}_{asset}.TIF")
            with rasterio.open(assets[asset], "w", driver="GTiff", **grid) as file:
                file.write(words.astype("uint16"), 1)
        to_degrees = Transformer.from_crs(32623, 4326, always_xy=True).transform_bounds
        scenes.append(
            Scene(
                id=name,
                platform="landsat-8",
                datetime=day,
                wrs_path=218,
                wrs_row=74,
                tier="T1",
                epsg=32623,
                shape=shape,
                transform=tuple(affine)[:6],
                geometry=box(*to_degrees(*bounds)),
                assets=assets,
            )
        )
    return scenes


def plain_green(scene: Scene, tile: Tile) -> np.ndarray:
    """Return NDVI > 0.3 on a tile within the scene, by rasterio and numpy alone; 0 other, 1 green, 2 fill."""
    with rasterio.open(scene.assets["red"]) as file:
        window = file.window(*tile.geobox.boundingbox.bbox)
    top, left = round(window.row_off), round(window.col_off)
    there = (slice(top, top + tile.shape[0]), slice(left, left + tile.shape[1]))
    bands = np.stack([plain(scene.assets[band])[there] for band in BANDS])
    red, nir = (np.clip(2.75e-5 * bands[BANDS.index(band)] - 0.2, 1e-4, 1) for band in ("red", "nir08"))
    green = np.floor((nir - red) / (nir + red) * 1e4 + 0.5) > 3000
    return np.where((bands > 0).all(axis=0), green.astype(int), 2)


def largest_patch(codes: np.ndarray, code: int) -> np.ndarray:
    """Flag the largest patch of a code, neighbours by edge or corner."""
    patches, _ = ndimage.label(codes == code, np.ones((3, 3)))
    return patches == 1 + np.bincount(patches.ravel())[1:].argmax()


def test_the_dam_collapse_is_loss_through_stack_and_comparison(shared_data: Path, tmp_path: Path) -> None:
    scenes = brumadinho(shared_data, tmp_path)
    access = Access(Trust().with_roots(shared_data, tmp_path))
    area = read_area(AreaParams(point=DAM, size_km=4), Trust())
    (part,) = make_plan(area, periods_of([2019]), scenes).tile_years
    assert (part.tile.zone, part.looks) == (23, 2)
    assert part.tile.row > 0, "south of the equator"
    classes = []
    for scene in scenes:
        layers, _ = composite_block([scene], part.tile.geobox, CubeParams(), access)
        lazy = stack_looks([scene], part.tile.geobox, CubeParams(), access)[0]
        assert np.array_equal(lazy, layers["composite"])
        (ndvi,) = feature_stack(layers, ("ndvi",))
        green = np.where(ndvi > 3000, MANGROVE, OTHER)
        classes.append(np.where(layers["clear_count"] > 0, green, NOT_OBSERVED).astype("uint8"))
    codes = transitions(*classes)
    before, after = (plain_green(scene, part.tile) for scene in scenes)
    expected = {
        NOT_OBSERVED: (before == 2) | (after == 2),
        STABLE_OTHER: (before == 0) & (after == 0),
        STABLE_MANGROVE: (before == 1) & (after == 1),
        LOSS: (before == 1) & (after == 0),
        GAIN: (before == 0) & (after == 1),
    }
    assert {code: int((codes == code).sum()) for code in expected} == {c: int(v.sum()) for c, v in expected.items()}
    assert int((codes == NOT_OBSERVED).sum()) == 26, "pixels so dark in one band that the product calls them fill"

    mud, regrown = largest_patch(codes, LOSS), largest_patch(codes, GAIN)
    assert mud.sum() * 0.09 > 100, "hectares; about 270 were buried, down to the river outside the crop"
    assert mud.sum() > 3 * regrown.sum()
    rows, cols = np.nonzero(mud)
    lon, lat = lonlat_of(part.tile.zone, part.tile.window[0] + rows, part.tile.window[1] + cols)
    metres = 111_320 * np.hypot((lon - DAM[0]) * np.cos(np.radians(DAM[1])), lat - DAM[1])
    assert metres.min() < 100, "it begins at the dam"
    assert metres.max() > 1500


# Real items of the Planetary Computer: where they put tiles and pixels.


def real_items(shared_data: Path) -> list[Scene]:
    folder = shared_data / "stac-items"
    scenes = []
    for path in sorted(folder.glob("pc_*.json")) + sorted((folder / "stactools-landsat-examples").glob("L*.json")):
        document = json.loads(path.read_text())
        items = document if isinstance(document, list) else document.get("features", [document])
        scenes += [scene_from_item(item) for item in items]
    return scenes


def whole_pixels(scene: Scene) -> tuple[float, float]:
    """Return the (row, col) of a scene's corner on the project grid of its zone."""
    a, _, c, _, _, f = scene.transform
    return (15 - f) / a, (c - 15) / a


def test_every_real_item_lies_on_whole_pixels_of_the_grid(shared_data: Path) -> None:
    scenes = real_items(shared_data)
    assert len(scenes) > 100
    assert {scene.epsg for scene in scenes} >= {32655, 32656, 32613}
    for scene in scenes:
        assert all(float(index).is_integer() for index in whole_pixels(scene)), scene.id
    southern = [scene for scene in scenes if scene.transform[5] < 0]
    assert {scene.epsg for scene in southern} >= {32655, 32656}


def test_real_southern_items_are_planned_and_read_without_a_shift(shared_data: Path) -> None:
    """The pixel of a tile over New Guinea is the pixel of the scene at the same place, to the metre."""
    path = shared_data / "stac-items/pc_landsat-c2-l2_4items_LC09_path089_20240417.json"
    document = json.loads(path.read_text())
    items = document if isinstance(document, list) else document["features"]
    scenes = [scene_from_item(item) for item in items]
    assert {scene.epsg for scene in scenes} == {32655, 32656}
    assert all(scene.transform[5] < 0 for scene in scenes)
    for scene in scenes:
        centre = scene.geometry.centroid
        bounds = (centre.x - 0.1, centre.y - 0.1, centre.x + 0.1, centre.y + 0.1)
        area = read_area(AreaParams(bbox=bounds), Trust())
        plan = make_plan(area, periods_of([2024]), scenes)
        assert {part.tile for part in plan.tile_years} == set(tiles_of(area.geometry))
        assert all(scene in part.scenes for part in plan.tile_years)
        for tile in plan.tiles:
            assert tile.epsg == 32600 + zone_of(centre.x)
            assert tile.geobox.transform.f < 0
            lon, lat = lonlat_of(tile.zone, np.array([tile.window[0]]), np.array([tile.window[1]]))
            assert abs(lon[0] - centre.x) < 0.3
            assert abs(lat[0] - centre.y) < 0.3
            if tile.epsg == scene.epsg:
                check_same_pixels(scene, tile)
    owned = [scene.epsg == 32600 + zone_of(scene.geometry.centroid.x) for scene in scenes]
    assert any(owned)


def check_same_pixels(scene: Scene, tile: Tile) -> None:
    """Hold what the reader gives on a tile against a raster on the scene's grid that says where each pixel is."""
    height, width = scene.shape
    row, col = (round(index) for index in whole_pixels(scene))
    top, left = tile.window[0] - row, tile.window[1] - col
    profile = {"driver": "GTiff", "height": height, "width": width, "count": 1, "dtype": "uint32", "tiled": True}
    profile |= {"crs": f"EPSG:{scene.epsg}", "transform": rasterio.Affine(*scene.transform), "sparse_ok": True}
    with rasterio.MemoryFile() as memory:
        with memory.open(**profile) as file:
            window = rasterio.windows.Window(left, top, tile.shape[1], tile.shape[0])
            index = np.arange(tile.shape[0] * tile.shape[1], dtype="uint32").reshape(tile.shape)
            file.write(index, 1, window=window)
        with memory.open() as file:
            values, inside = values_at(file, tile.geobox)
    assert inside.all()
    assert np.array_equal(values, index)
