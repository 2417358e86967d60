"""The project grid: true of every real item, whole pixels only, every place in one tile."""

from __future__ import annotations

import numpy as np
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from shapely.geometry import Point, Polygon, box

from engine.area import read_area
from engine.errors import PlanError
from engine.grid import (
    Tile,
    grid_geobox,
    is_tile_id,
    lonlat_of,
    pixel_hectares,
    tiles_of,
    to_zone,
    zone_of,
)
from engine.params import AreaParams
from engine.trust import Trust


def holds(tile: Tile, longitude: float, latitude: float) -> bool:
    """Tell whether a tile's window contains a place."""
    x, y = to_zone(tile.zone).transform(longitude, latitude)
    row, col, height, width = tile.window
    return col <= (x - 15) / 30 < col + width and row <= (15 - y) / 30 < row + height


def test_a_geobox_has_edges_at_15_metres_and_whole_30_metre_pixels() -> None:
    geobox = grid_geobox(48, (-32768, 16384, 512, 256))
    assert geobox == GeoBox((512, 256), Affine(30, 0, 491535, 0, -30, 983055), "EPSG:32648")
    assert geobox.crs is not None
    assert geobox.crs.epsg == 32648
    assert (geobox.transform.c % 30, geobox.transform.f % 30) == (15, 15)


def test_the_south_has_negative_northings_of_the_northern_code() -> None:
    (tile,) = tiles_of(box(178.0, -17.9, 178.05, -17.85))
    assert tile.epsg == 32660
    assert tile.row >= 0
    assert tile.geobox.transform.f < 0


def test_the_same_window_gives_the_same_geobox_through_any_tile_crop() -> None:
    crop = Tile(48, 8, -16, (-32700, 16500, 260, 300))
    part = Tile(48, 8, -16, (-32690, 16520, 100, 100))
    assert part.geobox == crop.geobox[10:110, 20:120]


@pytest.mark.parametrize("window", [(0, 0, 0, 5), (0, 0, 5, 2049), (-1, 0, 5, 5), (2040, 0, 20, 5), (0, 2040, 5, 20)])
def test_a_window_outside_its_tile_is_refused(window: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="window"):
        Tile(48, 0, 0, window)


def test_tile_names_are_safe_and_recognized() -> None:
    assert Tile(1, 8, -16, (-32700, 16500, 1, 1)).id == "z01_c08_r-016"
    assert is_tile_id("z48_c08_r-016")
    assert not any(map(is_tile_id, ["z48_c08_r-016/..", "z48_c8_r-016", "../z48_c08_r-016", "", "z48_c08_r-016\n"]))


def test_fiji_has_tiles_on_each_side_of_180() -> None:
    area = read_area(AreaParams(bbox=(179.9, -16.9, -179.9, -16.7)), Trust())
    tiles = tiles_of(area.geometry)
    assert {tile.zone for tile in tiles} == {1, 60}
    for tile in tiles:
        lon, lat = lonlat_of(tile.zone, *np.array(tile.window[:2])[:, None] + np.array(tile.shape)[:, None] // 2)
        assert (lon < 0) == (tile.zone == 1)
        assert -16.91 < lat < -16.69
        # Real pixels on the ground, not a box that spans the Earth.
        assert tile.shape[1] < 800


def test_the_zone_of_a_meridian() -> None:
    assert [zone_of(x) for x in (-180, -174.0001, -174, 0, 5.9999, 6, 179.9999, 180)] == [1, 1, 2, 31, 31, 32, 60, 1]


@settings(deadline=None, max_examples=60)
@given(st.floats(-179.9, 179.9), st.floats(-60, 60), st.floats(0.01, 1.5), st.floats(0.01, 1.5))
def test_tiles_cover_the_area(west: float, south: float, width: float, height: float) -> None:
    area = box(west, south, min(west + width, 180), south + height)
    tiles = tiles_of(area)
    assert len({tile.id for tile in tiles}) == len(tiles)
    for across, up in np.random.default_rng(1).random((20, 2)):
        x, y = west + (area.bounds[2] - west) * across, south + height * up
        owners = [tile for tile in tiles if tile.zone == zone_of(x) and holds(tile, x, y)]
        assert len(owners) == 1, Point(x, y)


def test_tiles_that_only_the_bounds_touch_are_left_out() -> None:
    # A coast that runs diagonally through its bounds.
    coast = Polygon([(105, 8), (105.05, 8), (107.05, 10), (107, 10)])
    tiles = tiles_of(coast)
    bounds = tiles_of(box(*coast.bounds))
    assert len(tiles) < 0.7 * len(bounds)
    assert sum(np.prod(tile.shape) for tile in tiles) < 0.25 * sum(np.prod(tile.shape) for tile in bounds)
    for t in np.linspace(0, 1, 200):
        x, y = 105.025 + 2 * t * 0.999 + 1e-4, 8 + 2 * t * 0.999 + 1e-4
        assert any(holds(tile, x, y) for tile in tiles)


def test_two_parts_in_one_tile_share_its_crop() -> None:
    two = box(105.0, 8.7, 105.01, 8.71).union(box(105.1, 8.75, 105.11, 8.76))
    (tile,) = tiles_of(two)
    assert holds(tile, 105.005, 8.705)
    assert holds(tile, 105.105, 8.755)


def test_polar_areas_are_refused() -> None:
    with pytest.raises(PlanError, match=r"latitude -81\.0, beyond the UTM grid; keep the area between 80 S"):
        tiles_of(box(0, -81, 1, -79))


def test_rows_and_columns_lead_back_to_the_place() -> None:
    x, y = to_zone(48).transform(104.976, 8.7674)
    row, col = (15 - y) / 30 - 0.5, (x - 15) / 30 - 0.5
    lon, lat = lonlat_of(48, np.array([row]), np.array([col]))
    assert (lon[0], lat[0]) == pytest.approx((104.976, 8.7674), abs=1e-9)


def test_a_pixel_is_smaller_on_the_ground_at_the_edge_of_its_zone() -> None:
    middle = pixel_hectares(Tile(48, 8, 0, (0, 16640, 10, 10)))
    edge = pixel_hectares(Tile(48, 13, 0, (0, 27770, 10, 10)))
    assert middle == pytest.approx(0.09 / 0.9996**2, rel=1e-5)  # the scale factor of UTM's central meridian
    assert edge.max() < 0.09 < middle.min()
