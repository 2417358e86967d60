"""Areas across the antimeridian and across UTM zones: every pixel once, no hectare lost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
from pyproj import Geod, Transformer
from shapely.geometry import box

from engine.area import read_area, region_codes, wrap
from engine.catalog import periods_of
from engine.cube import composite_block
from engine.grid import Tile, lonlat_of, pixel_hectares, tiles_of, to_zone
from engine.landsat import BANDS
from engine.legend import MANGROVE, NOT_OBSERVED
from engine.params import AreaParams, CubeParams
from engine.plan import TileYear, make_plan
from engine.ranges import Access
from engine.sample import read_sample
from engine.scenes import Scene, read_scenes, write_scenes
from engine.simulate import WorldParams, write_archive
from engine.store import open_store
from engine.trust import Trust
from jobs.classify import map_path
from jobs.cube import cube_path
from jobs.run import run_all
from tests.integration.conftest import Opener, simulated_config
from tests.makers import utc, write_scene

FIJI = (179.8, -16.6, -179.8, -16.54)
"""Vanua Levu's eastern reefs and Taveuni: the Somosomo Strait lies on 180 degrees."""

ZONE_EDGE = (101.8, 2.9, 102.2, 2.96)
"""Between zones 47 and 48, on the Malay coast."""

YEARS = (2018, 2020)


def scenes_over(
    folder: Path, bounds: tuple[float, ...], zones: tuple[int, int], years: tuple[int, ...] = YEARS
) -> list[Scene]:
    """Write three scenes a year: one in each zone for its own side, one of the first zone over both sides."""
    west, south, east, north = bounds
    half = (east - west) % 360 / 2
    scenes = []
    for year in years:
        for number, (zone, first, last) in enumerate(
            [(zones[0], west, west + half), (zones[1], west + half, west + 2 * half), (zones[0], west, west + 2 * half)]
        ):
            x, y = to_zone(zone).transform([first, first, last, last], [south, north, south, north])
            top, left = int((15 - max(y)) // 30) - 5, int((min(x) - 15) // 30) - 9
            shape = (int((15 - min(y)) // 30) - top + 6, int((max(x) - 15) // 30) - left + 7)
            day = utc(year, 3 + 2 * number, 5)
            wrs = (75 - number, 72)
            scene = write_scene(folder, day=day, zone=zone, corner=(top, left), shape=shape, wrs=wrs, seed=number)
            scenes.append(replace(scene, geometry=wrap(scene.geometry)))
    return scenes


def geodesic_hectares(bounds: tuple[float, ...]) -> float:
    """Return the area of a box of parallels and meridians on WGS84."""
    west, south, east, north = bounds
    shape = box(west, south, west + (east - west) % 360, north).segmentize(0.001)
    return abs(Geod(ellps="WGS84").geometry_area_perimeter(shape)[0]) / 1e4


def check_every_place_once(area_bounds: tuple[float, ...], tiles: list[Tile]) -> None:
    """Draw points in the area; each lies in exactly one owned pixel, of the zone of its own longitude."""
    area = read_area(AreaParams(bbox=area_bounds), Trust())  # type: ignore[arg-type]
    codes = {tile: region_codes(area, tile) for tile in tiles}
    west, south, east, north = area_bounds
    rng = np.random.default_rng(5)
    span = (east - west) % 360
    # Half of them within 100 m of the seam.
    lon = np.concatenate([rng.uniform(west, west + span, 2000), west + span / 2 + rng.uniform(-1e-3, 1e-3, 2000)])
    lon = (lon + 180) % 360 - 180
    lat = rng.uniform(south + 5e-4, north - 5e-4, lon.size)
    owners = np.zeros(lon.size, int)
    for tile, code in codes.items():
        x, y = to_zone(tile.zone).transform(lon, lat)
        row = np.floor((15 - y) / 30).astype(int) - tile.window[0]
        col = np.floor((x - 15) / 30).astype(int) - tile.window[1]
        inside = (row >= 0) & (row < tile.shape[0]) & (col >= 0) & (col < tile.shape[1])
        owners[inside] += code[row[inside], col[inside]] > 0
    # A pixel is owned by its centre: only within a pixel of the seam may a place have none or two.
    seam = np.abs((lon - (west + span / 2) + 180) % 360 - 180) < 3.1e-4
    edge = np.abs((lon - west + 180) % 360 - 180) < 3.1e-4
    edge |= np.abs((lon - east + 180) % 360 - 180) < 3.1e-4
    assert (owners[~seam & ~edge] == 1).all()
    assert owners.max() <= 2
    for tile, code in codes.items():
        rows, cols = np.nonzero(code)
        lon, _ = lonlat_of(tile.zone, rows + tile.window[0], cols + tile.window[1])
        offset = (lon - (6 * tile.zone - 186) + 180) % 360 - 180
        assert offset.min() >= 0
        assert offset.max() < 6


@pytest.mark.parametrize(("bounds", "zones"), [(FIJI, (60, 1)), (ZONE_EDGE, (47, 48))])
def test_an_area_across_two_zones_loses_no_pixel(tmp_path: Path, bounds: tuple[float, ...], zones: Any) -> None:
    area = read_area(AreaParams(bbox=bounds), Trust())  # type: ignore[arg-type]
    tiles = tiles_of(area.geometry)
    assert {tile.zone for tile in tiles} == set(zones)
    check_every_place_once(bounds, tiles)
    hectares = sum(float(((region_codes(area, tile) > 0) * pixel_hectares(tile)).sum()) for tile in tiles)
    assert hectares == pytest.approx(geodesic_hectares(bounds), rel=1e-3)

    scenes = scenes_over(tmp_path, bounds, zones, years=(2018,))
    plan = make_plan(area, periods_of([2018]), scenes)
    for part in plan.tile_years:
        layers, _ = composite_block(part.scenes, part.tile.geobox, CubeParams(), Access(Trust().with_roots(tmp_path)))
        owned = region_codes(area, part.tile) > 0
        assert part.looks >= 2, "its own side's scene, the wide one, and where a crop pokes over the other side's"
        assert np.array_equal(layers["clear_count"][owned], plain_count(part)[owned])
        assert (layers["clear_count"][owned] > 0).mean() > 0.85


def plain_count(part: TileYear) -> np.ndarray:
    """Count the clear scenes of every pixel by looking each pixel centre up in each scene."""
    tile = part.tile
    rows, cols = np.mgrid[: tile.shape[0], : tile.shape[1]]
    x, y = tile.geobox.transform * (cols + 0.5, rows + 0.5)
    count = np.zeros(tile.shape, int)
    for scene in part.scenes:
        east, north = Transformer.from_crs(tile.epsg, scene.epsg, always_xy=True).transform(x, y)
        col, row = ((v // 1).astype(int) for v in ~rasterio.Affine(*scene.transform) * (east, north))
        inside = (row >= 0) & (row < scene.shape[0]) & (col >= 0) & (col < scene.shape[1])
        layers = {name: rasterio.open(path).read(1) for name, path in scene.assets.items()}
        clear = ((layers["qa_pixel"] & 31) == 0) & ((layers["qa_radsat"] & (126 | 2048)) == 0)
        clear &= np.all([layers[band] > 0 for band in BANDS], axis=0)
        count[inside] += clear[row[inside], col[inside]]
    return count


@pytest.mark.slow
def test_fiji_is_mapped_on_both_sides_of_the_antimeridian(tmp_path: Path, open_run: Opener) -> None:
    scenes = scenes_over(tmp_path, FIJI, (60, 1))
    write_scenes(scenes, tmp_path / "found.parquet")
    west, east = box(179.9, -16.58, 180, -16.55), box(-180, -16.58, -179.87, -16.55)
    for year in (2017, 2021):
        gpd.GeoDataFrame(geometry=[west, east], crs=4326).to_parquet(tmp_path / f"mask_{year}.parquet")
    sides = gpd.GeoDataFrame(
        {"side": ["west", "east"]}, geometry=[box(179, -17, 180, -16), box(-180, -17, -179, -16)], crs=4326
    )
    sides.to_file(tmp_path / "sides.geojson")
    config = {
        "area": {"bbox": list(FIJI), "name": "Fiji"},
        "years": list(YEARS),
        "search": {"catalogs": [str(tmp_path / "found.parquet")]},
        "labels": {"masks": [{"path": str(tmp_path / f"mask_{y}.parquet"), "year": y} for y in (2017, 2021)]},
        "sample": {"mangrove": 300, "other": 300},
        "train": {"rounds": 5},
        "change": {"zones": str(tmp_path / "sides.geojson"), "by": "side"},
    }
    with open_run(config) as run:
        run_all(run)
        plan = make_plan(run.area, run.periods, read_scenes(run.folder / "items.parquet"))
        zones = {tile.zone for tile in plan.tiles}
        assert zones == {1, 60}
        sample = read_sample(run.folder / "sample").compute()
        assert (sample[sample.zone == 60].lon > 0).all()
        assert (sample[sample.zone == 1].lon < 0).all()
        labelled = gpd.GeoSeries([west, east], crs=4326).union_all()
        assert ((sample.label == MANGROVE) == sample.within(labelled)).all()
        areas, changes = (pd.read_csv(run.folder / name) for name in ("areas.csv", "transitions.csv"))
        for year in YEARS:
            for zone in zones:
                assert (run.folder / f"maps/{year}/class_{year}_z{zone:02d}.vrt").is_file()
    expected = geodesic_hectares(FIJI)
    for _, rows in areas.groupby("year"):
        assert rows.hectares.sum() == pytest.approx(expected, rel=1e-3)
    changes = changes[changes["least_ha"] == 0]
    by_region, by_side = changes[changes["by"] == "region"], changes[changes["by"] == "zone"]
    assert by_region.hectares.sum() == pytest.approx(expected, rel=1e-3)
    assert by_side.hectares.sum() == pytest.approx(by_region.hectares.sum(), abs=1e-3)
    halves = by_side.groupby("where").hectares.sum()
    assert halves["west"] == pytest.approx(halves["east"], rel=2e-3)


@pytest.mark.long
def test_a_second_path_in_the_neighbouring_zone_maps_to_the_same_tiles(tmp_path: Path, open_run: Opener) -> None:
    world = WorldParams(
        regions=("Vietnam2", "India"), years=(2016,), size_px=128, scenes_per_year=6, mask_years=(2016,)
    )
    maps: dict[bool, dict[str, np.ndarray]] = {}
    for split in (False, True):
        archive = write_archive(replace(world, utm_split=split), tmp_path / f"archive-{split}")
        with open_run({"name": f"split-{split}", **simulated_config(archive)}) as run:
            run_all(run)
            scenes = read_scenes(run.folder / "items.parquet")
            plan = make_plan(run.area, run.periods, scenes)
            maps[split] = {}
            for part in plan.tile_years:
                assert {scene.epsg == part.tile.epsg for scene in part.scenes} == {True, not split}
                with open_store(map_path(run, part)) as data, open_store(cube_path(run, part)) as cube:
                    maps[split][part.key] = data["class"].values
                    maps[split][part.key + " looks"] = cube["clear_count"].values
    assert maps[True].keys() == maps[False].keys()
    for key, whole in maps[False].items():
        if "looks" in key:
            assert np.abs(whole - maps[True][key].astype(int)).mean() < 0.2
        else:
            assert np.array_equal(whole == NOT_OBSERVED, maps[True][key] == NOT_OBSERVED)
            assert (whole == maps[True][key]).mean() > 0.9
