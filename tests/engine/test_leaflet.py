"""Pictures land where they belong on a map, and nothing is asked of a server for it."""

from __future__ import annotations

import base64
import sys
from io import BytesIO

import geopandas as gpd
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from engine.errors import ConfigError
from engine.grid import grid_geobox, lonlat_of, zone_of
from engine.leaflet import add_codes, add_image, add_points, mercator_png, open_map
from engine.legend import CLASSES, MANGROVE

ZONE, CORNER = 48, (-32700, 16400)


def marked(shape: tuple[int, int], row: int, col: int, size: int = 1) -> np.ndarray:
    """Return a black picture with one white square."""
    image = np.zeros((*shape, 3), np.uint8)
    image[row : row + size, col : col + size] = 255
    return image


def white_at(png: bytes, bounds) -> tuple[float, float]:
    """Return longitude and latitude of the middle of what is white, read as Leaflet lays a picture."""
    pixels = np.asarray(Image.open(BytesIO(png)))
    y, x = (at.mean() + 0.5 for at in np.nonzero((pixels[..., 0] > 127) & (pixels[..., 3] > 0)))
    (south, west), (north, east) = bounds
    top, bottom = (np.arctanh(np.sin(np.radians(lat))) for lat in (north, south))
    return west + x / pixels.shape[1] * (east - west), np.degrees(
        np.arcsin(np.tanh(top + y / pixels.shape[0] * (bottom - top)))
    )


@settings(max_examples=30, deadline=None)
@given(
    zone=st.sampled_from([1, 17, 48, 60]),
    top=st.integers(-120_000, 120_000),
    left=st.integers(9_000, 23_000),
    row=st.integers(0, 90),
    col=st.integers(0, 90),
)
def test_a_pixel_lies_on_the_map_where_it_lies_on_earth(zone, top, left, row, col):
    png, bounds = mercator_png(marked((100, 100), row, col, size=9), grid_geobox(zone, (top, left, 100, 100)))
    lon, lat = white_at(png, bounds)
    true_lon, true_lat = (
        float(at[0]) for at in lonlat_of(zone, np.array([top + row + 4.0]), np.array([left + col + 4.0]))
    )
    # Less than one and a half pixels of 30 m; a zone's pictures are whole across the antimeridian.
    assert abs((lon - true_lon + 180) % 360 - 180) * np.cos(np.radians(true_lat)) < 45 / 111_000
    assert abs(lat - true_lat) < 45 / 111_000


def test_a_picture_across_the_antimeridian_is_one_picture():
    geobox = grid_geobox(60, (-60_000, 27_000, 400, 800))
    lon, _ = lonlat_of(60, np.array([-60_000, -60_000]), np.array([27_000, 27_800]))
    (_, west), (_, east) = mercator_png(np.zeros((40, 80, 3), np.uint8), geobox)[1]
    assert lon[0] > 0 > lon[1]
    assert any(west < edge < east for edge in (-180, 180))
    assert east - west < 1


def test_a_large_picture_is_made_smaller_and_keeps_its_place():
    geobox = grid_geobox(ZONE, (*CORNER, 2048, 2048))
    png, bounds = mercator_png(marked((2048, 2048), 1000, 500, size=20), geobox)
    assert max(Image.open(BytesIO(png)).size) == 1024
    lon, lat = white_at(png, bounds)
    true_lon, true_lat = lonlat_of(ZONE, np.array([CORNER[0] + 1009.5]), np.array([CORNER[1] + 509.5]))
    assert abs(lon - true_lon[0]) < 0.0006
    assert abs(lat - true_lat[0]) < 0.0006
    assert zone_of(lon) == ZONE


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((4, 4, 2), np.uint8)])
def test_what_is_no_picture_is_refused(image):
    with pytest.raises(ValueError, match="image must be uint8"):
        mercator_png(image, grid_geobox(ZONE, (*CORNER, 4, 4)))


def test_a_map_has_layers_in_order_and_asks_no_server():
    pytest.importorskip("ipyleaflet", reason="ipyleaflet comes with the extra notebooks")
    geobox = grid_geobox(ZONE, (*CORNER, 60, 60))
    view = open_map(geobox)
    codes = np.full((60, 60), 255, np.uint8)
    codes[:30] = MANGROVE
    codes[30:40] = 1
    lon, lat = lonlat_of(ZONE, np.array([CORNER[0] + 3]), np.array([CORNER[1] + 3]))
    points = gpd.GeoDataFrame({"secret": [7]}, geometry=gpd.points_from_xy(lon, lat), crs=4326)
    add_image(view, "picture", marked((60, 60), 3, 3), geobox, opacity=0.5)
    add_codes(view, "mask", codes, [entry for entry in CLASSES if entry.code == MANGROVE], geobox)
    add_points(view, "points", points, (0, 114, 90))
    assert [layer.name for layer in view.layers] == ["picture", "mask", "points"]
    picture, mask, dots = view.layers
    assert picture.opacity == 0.5
    assert picture.url.startswith("data:image/png;base64,")
    seen = np.asarray(Image.open(BytesIO(base64.b64decode(mask.url.partition(",")[2]))))[..., 3] > 0
    assert seen[5:25, 5:-5].all()
    assert not seen[35:].any()
    [place] = dots.data["features"]
    assert place["properties"].keys() <= {"style"}
    assert dots.point_style["fillColor"] == "#00725a"
    (south, west), (north, east) = picture.bounds
    assert south < view.center[0] < north
    assert west < view.center[1] < east


def test_without_ipyleaflet_one_line_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipyleaflet", None)
    with pytest.raises(ConfigError, match=r"a map needs ipyleaflet.*mangroves\[notebooks\]"):
        open_map(grid_geobox(ZONE, (*CORNER, 4, 4)))
