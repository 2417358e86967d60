"""One grid on another: shifts by whole pixels, and pixels under centres as PROJ puts them one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from engine.align import bounds_in, first_rows_under, overlap, pixels_under, whole_pixel_shift
from engine.grid import grid_geobox

BOX = grid_geobox(48, (-32000, 17000, 30, 40))
CORNER = BOX.transform


def moved(rows: float, cols: float) -> Affine:
    """Return the transform of a raster whose corner is this far above and left of the grid's."""
    return CORNER * Affine.translation(-cols, -rows)


@given(st.integers(-(10**6), 10**6), st.integers(-(10**6), 10**6))
def test_a_raster_moved_by_whole_pixels_is_read_by_a_window(rows, cols):
    assert whole_pixel_shift(moved(rows, cols), "EPSG:32648", BOX) == (rows, cols)


@pytest.mark.parametrize(
    ("transform", "crs"),
    [
        (moved(0.5, 0), "EPSG:32648"),
        (moved(0, 0.001), "EPSG:32648"),
        (moved(3, 4), "EPSG:32649"),
        (moved(3, 4), "EPSG:32748"),
        (moved(3, 4), ""),
        (CORNER * Affine.scale(1.001), "EPSG:32648"),
        (CORNER * Affine.scale(1, -1), "EPSG:32648"),
        (CORNER * Affine.rotation(1), "EPSG:32648"),
        ((30, 0, math.nan, 0, -30, 900_015), "EPSG:32648"),
        ((30, 0, math.inf, 0, -30, 900_015), "EPSG:32648"),
        ((math.nan, 0, 15, 0, -30, 900_015), "EPSG:32648"),
    ],
)
def test_any_other_raster_is_not(transform, crs):
    assert whole_pixel_shift(transform, crs, BOX) is None


def one_by_one(geobox: GeoBox, transform: Affine, crs: str) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and columns under every centre, also beyond the raster."""
    project = Transformer.from_crs(str(geobox.crs), crs, always_xy=True).transform
    rows, cols = (np.zeros(geobox.shape, dtype=int) for _ in range(2))
    for row, col in np.ndindex(*geobox.shape):
        x, y = ~transform * project(*(geobox.transform * (col + 0.5, row + 0.5)))
        rows[row, col], cols[row, col] = math.floor(y), math.floor(x)
    return rows, cols


@settings(max_examples=20, deadline=None)
@given(
    zone=st.sampled_from([47, 48, 49]),
    top=st.integers(-40, 40),
    left=st.integers(-40, 40),
    shape=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    pixel=st.sampled_from([10, 30, 31.7]),
)
def test_pixels_lie_under_centres_as_they_do_one_by_one(zone, top, left, shape, pixel):
    crs = f"EPSG:{32600 + zone}"
    x, y = Transformer.from_crs(32648, crs, always_xy=True).transform(CORNER.c, CORNER.f)
    transform = Affine(pixel, 0, round(x) - left * pixel + 0.1, 0, -pixel, round(y) + top * pixel + 0.1)
    rows, cols = one_by_one(BOX, transform, crs)
    inside = (rows >= 0) & (rows < shape[0]) & (cols >= 0) & (cols < shape[1])
    found = pixels_under(BOX, transform, shape, crs)
    assert np.array_equal(found[0], np.where(inside, rows, -1))
    assert np.array_equal(found[1], np.where(inside, cols, -1))
    assert first_rows_under(BOX, transform, crs) == (rows[0].min(), rows[-1].min())


def test_the_strips_of_a_tall_grid_fit_together():
    tall = grid_geobox(48, (-32000, 17000, 600, 3))
    transform = Affine(30, 0, tall.transform.c - 300_000, 0, -30, tall.transform.f + 9000)
    rows, _ = pixels_under(tall, transform, (9000, 20_000), "EPSG:32648")
    assert np.array_equal(rows[:, 0], np.arange(300, 900))
    assert first_rows_under(tall, transform, "EPSG:32648") == (300, 899)


def test_where_proj_gives_up_nothing_is_under_a_grid():
    beyond = GeoBox((4, 4), Affine(1, 0, 100, 0, -1, 200), "EPSG:4326")  # of the pole
    rows, _ = pixels_under(beyond, Affine(30, 0, 500_015, 0, -30, 15), (9, 9), "EPSG:32648")
    assert (rows == -1).all()
    assert first_rows_under(beyond, Affine(30, 0, 500_015, 0, -30, 15), "EPSG:32648") == (0, 0)


def test_bounds_lie_round_every_pixel():
    [box] = bounds_in(BOX, "EPSG:4326")
    west, south, east, north = BOX.geographic_extent.boundingbox
    assert box[0] < west
    assert box[1] < south
    assert box[2] > east
    assert box[3] > north
    assert box[2] - box[0] < 1.1 * (east - west)


def test_bounds_overlap_where_they_touch():
    assert overlap((0, 0, 1, 1), (1, 1, 2, 2))
    assert not overlap((0, 0, 1, 1), (1.1, 0, 2, 1))
    assert not overlap((0, 0, 1, 1), (0, 1.1, 1, 2))
