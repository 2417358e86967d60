"""Areas of pixels: equal to what formulas, geodesics and the scale of projections say, in whole units."""

from __future__ import annotations

import math

import numpy as np
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import Geod, Proj
from shapely.geometry import box

from engine.cells import NODES, Cells
from engine.errors import ConfigError
from engine.grid import grid_geobox, pixel_hectares, tiles_of, to_zone

GMW = Affine(0.000222222222222, 0, -82.0, 0, -0.000222222222222, 26.0)


def whole(geobox: GeoBox) -> tuple[Cells, np.ndarray]:
    cells = Cells.of(geobox)
    return cells, np.broadcast_to(cells.square_metres(slice(0, geobox.shape[0])), geobox.shape)


def band_area(south: float, north: float, degrees: float) -> float:
    """Square metres of WGS84 between two parallels: integral of M N cos(phi), by Simpson's rule."""
    a, e2 = 6378137.0, 0.0066943799901413165
    phi = np.radians(np.linspace(south, north, 2001))
    values = a * a * (1 - e2) * np.cos(phi) / (1 - e2 * np.sin(phi) ** 2) ** 2
    weights = np.ones(2001)
    weights[1:-1:2], weights[2:-1:2] = 4, 2
    return math.radians(degrees) * (values * weights).sum() * math.radians(north - south) / 2000 / 3


def test_a_grid_in_degrees_has_the_area_between_its_parallels_and_meridians() -> None:
    geobox = GeoBox((4500, 4500), GMW, "EPSG:4326")
    cells = Cells.of(geobox)
    rows = cells.square_metres(slice(0, 4500))
    assert rows.shape == (4500, 1)
    assert rows.sum() * 4500 == pytest.approx(band_area(25.000000000001, 26.0, 0.999999999999), rel=1e-11)
    assert rows[0, 0] == pytest.approx(band_area(26 - 0.000222222222222, 26, 0.000222222222222), rel=1e-9)
    assert rows[0, 0] < rows[-1, 0]  # nearer the pole the smaller


def test_the_corner_pixel_in_degrees_has_the_area_of_its_geodesic_polygon() -> None:
    step = GMW.a
    x, y = [-82, -82, -82 + step, -82 + step], [26, 26 - step, 26 - step, 26]
    area, _ = Geod(ellps="WGS84").polygon_area_perimeter(x, y)
    _, areas = whole(GeoBox((2, 2), GMW, "EPSG:4326"))
    assert areas[0, 0] == pytest.approx(area, rel=1e-6)


def test_a_tile_has_the_areas_that_its_tables_use_and_the_scale_of_the_projection_says() -> None:
    tile = tiles_of(box(104.7, 8.55, 105.0, 8.9))[0]
    _, areas = whole(tile.geobox)
    assert areas / 1e4 == pytest.approx(np.broadcast_to(pixel_hectares(tile), tile.shape), rel=2e-5)
    row, col = 7, 300
    x, y = tile.geobox.transform * (col + 0.5, row + 0.5)
    lon, lat = to_zone(tile.zone).transform(x, y, direction="INVERSE")
    assert areas[row, col] == pytest.approx(900 / Proj(f"EPSG:{tile.epsg}").get_factors(lon, lat).areal_scale, rel=1e-9)


def test_between_measured_pixels_areas_are_those_of_a_crop_that_measures_all() -> None:
    large = grid_geobox(17, (-95000, 8000, 20 * NODES, 20 * NODES))
    cells = Cells.of(large)
    assert len(cells.rows) == NODES + 1
    for row, col in ((0, 0), (3111, 4097), (20 * NODES - 2, 20 * NODES - 2)):
        _, here = whole(large[row : row + 2, col : col + 2])
        assert cells.square_metres(slice(row, row + 2))[:, col : col + 2] == pytest.approx(here, rel=1e-8)


@pytest.mark.parametrize(
    "geobox",
    [
        GeoBox((5, 7), Affine(0.5, 0, 179, 0, 0.5, -20), "EPSG:4326"),  # beyond the antimeridian, south up
        GeoBox((5, 7), Affine(10, 4, -8e6, 3, -10, 3e6), "EPSG:3857"),  # rotated
        grid_geobox(1, (66000, 4000, 40, 7)),
        GeoBox((5, 7), Affine(100, 0, 1e6, 0, -100, 6e5), "EPSG:2236"),  # Florida East, US survey feet
    ],
    ids=["antimeridian", "rotated", "fiji", "feet"],
)
def test_units_of_any_grid_are_those_areas_and_their_sum_fits(geobox):
    cells, areas = whole(geobox)
    rows = slice(0, geobox.shape[0])
    units = np.broadcast_to(cells.units(rows), geobox.shape)
    assert units * cells.unit == pytest.approx(areas, rel=1e-12)
    assert 2**60 < int(areas.max() / cells.unit) * areas.size < 2**62 + areas.size
    assert cells.hectares(units.sum()) == pytest.approx(areas.sum() / 1e4, rel=1e-12)
    assert (cells.smallest <= units.min(axis=1)).all()
    assert cells.smallest == pytest.approx(units.min(axis=1), rel=1e-11)
    edges = [geobox.transform * corner for corner in ((0, 0), (1, 0), (1, 1), (0, 1))]
    crs = geobox.crs
    assert crs is not None
    x, y = crs.transformer_to_crs(crs.proj.geodetic_crs)(*(np.array(side) for side in zip(*edges, strict=True)))
    area, _ = Geod(ellps="WGS84").polygon_area_perimeter(x, y)
    assert areas[0, 0] == pytest.approx(abs(area), rel=2e-3 if geobox.transform.a == 0.5 else 1e-6)


def test_pixels_that_add_up_to_an_area_reach_it() -> None:
    hectare = GeoBox((3, 3), Affine(50, 0, 0, 0, -50, 0), "EPSG:6933")  # equal area: .25 ha a pixel
    cells = Cells.of(hectare)
    units = cells.units(slice(0, 3))
    assert units[0, :2].sum() >= cells.units_of(0.5) > units[0, 0]


def test_the_poles_have_no_area_beyond_them() -> None:
    grid_registered = GeoBox((181, 360), Affine(1, 0, -180, 0, -1, 90.5), "EPSG:4326")
    _, areas = whole(grid_registered)
    assert areas.sum() / 1e6 == pytest.approx(510065621.7, rel=1e-9)


def test_a_grid_without_a_place_on_earth_is_refused() -> None:
    with pytest.raises(ConfigError, match="the grid reaches where WGS 84 / UTM zone 17N does not; crop or warp"):
        Cells.of(GeoBox((3, 3), Affine(1e9, 0, 0, 0, -1e9, 0), "EPSG:32617"))
