"""Pictures of rasters: where they lie, what they show, how large they are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from engine.errors import StoreError
from engine.grid import Tile, to_zone
from engine.legend import CLASSES, MANGROVE, OTHER, OUTSIDE_AREA
from engine.overview import Layer, Source, find_layers, group_tiles, palette, region_boxes, write_overviews
from engine.raster import read_overview, write_cog
from engine.store import grid_coords, write_store

SOUTH_OF_CA_MAU = Tile(48, 8, -16, (-32768, 16384, 256, 256))
EAST_OF_IT = Tile(48, 9, -16, (-32768, 18432, 256, 256))
FIJI_WEST, FIJI_EAST = Tile(60, 13, 29, (60000, 27600, 64, 64)), Tile(1, 2, 29, (60000, 5600, 64, 64))


def write_class(folder: Path, tile: Tile, codes: np.ndarray, year: int = 2020) -> Path:
    """Write the map of a tile as classify does, as far as pictures ask for it."""
    path = folder / "maps" / str(year) / f"class_{tile.id}_{year}.tif"
    write_cog(path, codes, tile.geobox, nodata=OUTSIDE_AREA, legend=CLASSES, overview="mode")
    data = xr.Dataset(
        {"class": (("y", "x"), codes), "region": (("y", "x"), (codes != OUTSIDE_AREA).astype("uint16"))},
        coords=grid_coords(tile.geobox),
        attrs={"regions": json.dumps(["Cà Mau"])},
    )
    write_store(folder / "maps" / str(year) / f"{tile.id}.zarr", data, {"fingerprint": "x"})
    return path


def classes(tile: Tile) -> np.ndarray:
    codes = np.full(tile.shape, OTHER, np.uint8)
    codes[:50, :80] = MANGROVE
    codes[-20:] = OUTSIDE_AREA
    return codes


def shown(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGBA"))


def only(layers: list[Layer], kind: str) -> list[Layer]:
    return [layer for layer in layers if layer.kind == kind]


def test_a_pixel_is_shown_where_it_lies(tmp_path):
    tile = SOUTH_OF_CA_MAU
    write_class(tmp_path, tile, classes(tile))
    layers = only(find_layers(tmp_path, [2020]), "class")
    groups = group_tiles(layers)
    [picture] = write_overviews(tmp_path / "images", layers, groups, most_bytes=10**6)
    image = shown(picture.path)
    (south, west), (north, east) = picture.box
    colours = {code: (*colour, 255) for code, colour in palette("class", [2020]).items()}
    mercator = np.arcsinh(np.tan(np.radians([south, north])))
    for row, col in [(10, 10), (49, 79), (60, 10), (10, 100), (250, 10)]:
        x, y = tile.geobox.transform * (col + 0.5, row + 0.5)
        lon, lat = to_zone(48).transform(x, y, direction="INVERSE")
        px = int((lon - west) / (east - west) * image.shape[1])
        py = int((mercator[1] - np.arcsinh(np.tan(np.radians(lat)))) / (mercator[1] - mercator[0]) * image.shape[0])
        expected = colours.get(int(classes(tile)[row, col]))
        near = {tuple(one) for one in image[max(0, py - 1) : py + 2, max(0, px - 1) : px + 2].reshape(-1, 4).tolist()}
        assert expected in near if expected else all(one[3] == 0 for one in near), (row, col)
    assert picture.pixel_m == pytest.approx(30, abs=0.1)


def test_maps_as_edited_are_offered_once_there_are_some(tmp_path):
    tiles = [Tile(48, 8, -16, (-32768, 18400, 64, 32)), Tile(48, 9, -16, (-32768, 18432, 64, 64))]
    for tile in tiles:
        for year in (2020, 2021):
            write_class(tmp_path, tile, np.full(tile.shape, MANGROVE, np.uint8), year=year)
    assert not only(find_layers(tmp_path, [2020, 2021]), "edited")
    plain = tmp_path / "maps" / "2021"
    shutil.copytree(plain, tmp_path / "maps_edited" / "2021", ignore=lambda _, names: [n for n in names if "c09" in n])
    found = only(find_layers(tmp_path, [2020, 2021]), "edited")
    assert [layer.id for layer in found] == ["edited-2020", "edited-2021"]
    own = [[source.place.parent.parent.name for source in layer.tiles.values()] for layer in found]
    assert own == [["maps", "maps"], ["maps_edited", "maps"]]
    assert palette("edited", [2020]) == palette("class", [2020])
    pictures = write_overviews(tmp_path / "images", found, group_tiles(found), most_bytes=10**6)
    assert len(pictures) == 2


def test_tiles_that_adjoin_share_a_picture_and_others_do_not(tmp_path):
    tiles = [Tile(48, 8, -16, (-32768, 18400, 64, 32)), Tile(48, 9, -16, (-32768, 18432, 64, 64))]
    far = Tile(48, 8, -16, (-31000, 16384, 64, 64))
    for tile in (*tiles,):
        write_class(tmp_path, tile, np.full(tile.shape, MANGROVE, np.uint8))
    write_class(tmp_path / "far", far, np.full(far.shape, MANGROVE, np.uint8))
    layers = only(find_layers(tmp_path, [2020]), "class")
    [group] = group_tiles(layers)
    assert set(group.tiles) == {tile.id for tile in tiles}
    [picture] = write_overviews(tmp_path / "images", layers, [group], most_bytes=10**6)
    image = shown(picture.path)[4:-4, 4:-4]
    assert (image[..., 3] == 255).all(), "no seam"


def test_a_run_across_the_antimeridian_stays_together(tmp_path):
    for tile in (FIJI_WEST, FIJI_EAST):
        write_class(tmp_path, tile, np.full(tile.shape, MANGROVE, np.uint8))
    groups = group_tiles(only(find_layers(tmp_path, [2020]), "class"))
    west, east = (group.longitude for group in (groups[0], groups[-1]))
    assert 0 <= east - west < 12
    boxes = region_boxes(tmp_path, [2020], groups)
    assert [one["name"] for one in boxes] == ["Cà Mau"]
    (_, left), (_, right) = boxes[0]["box"]
    assert right - left < 12


def test_a_region_of_canvases_on_both_sides_of_the_antimeridian_has_the_small_box(tmp_path):
    for tile in (FIJI_WEST, FIJI_EAST):
        write_class(tmp_path, tile, np.full(tile.shape, MANGROVE, np.uint8))
    layers = only(find_layers(tmp_path, [2020]), "class")
    apart = [Layer("class", 2020, {tile: source}) for tile, source in layers[0].tiles.items()]
    groups = [group for layer in apart for group in group_tiles([layer])]
    assert abs(groups[0].longitude - groups[1].longitude) > 350
    (_, left), (_, right) = region_boxes(tmp_path, [2020], groups)[0]["box"]
    assert right - left < 12


def test_a_region_of_one_pixel_has_a_box(tmp_path):
    codes = np.full(SOUTH_OF_CA_MAU.shape, OUTSIDE_AREA, np.uint8)
    codes[101, 67] = MANGROVE
    write_class(tmp_path, SOUTH_OF_CA_MAU, codes)
    groups = group_tiles(only(find_layers(tmp_path, [2020]), "class"))
    [[south, west], [north, east]] = region_boxes(tmp_path, [2020], groups)[0]["box"]
    assert north - south == pytest.approx(30 / 110_600, rel=0.1)
    assert east - west == pytest.approx(30 / 110_000, rel=0.1)


def test_pictures_get_coarser_until_they_fit(tmp_path):
    tile = SOUTH_OF_CA_MAU
    noise = np.random.default_rng(1).integers(1, 3, tile.shape, dtype=np.uint8)
    write_class(tmp_path, tile, noise)
    layers = only(find_layers(tmp_path, [2020]), "class")
    groups = group_tiles(layers)
    fine = write_overviews(tmp_path / "fine", layers, groups, most_bytes=10**6)
    coarse = write_overviews(tmp_path / "coarse", layers, groups, most_bytes=3000)
    assert sum(one.path.stat().st_size for one in coarse) <= 3000 < sum(one.path.stat().st_size for one in fine)
    assert coarse[0].pixel_m > fine[0].pixel_m
    with pytest.raises(StoreError, match="do not fit"):
        write_overviews(tmp_path / "none", layers, groups, most_bytes=10)


@given(every=st.integers(1, 300))
def test_an_overview_covers_what_the_raster_covers(tmp_path_factory, every):
    folder = tmp_path_factory.getbasetemp() / "overview"
    path = folder / "a.tif"
    tile = EAST_OF_IT
    if not path.is_file():
        write_cog(path, classes(tile), tile.geobox, nodata=OUTSIDE_AREA, legend=CLASSES, overview="mode")
    values, grid = read_overview(path, every)
    assert values.shape == tuple(-(-n // every) for n in tile.shape)
    assert grid.boundingbox == tile.geobox.boundingbox
    with pytest.raises(StoreError):
        read_overview(path, every, band=2)


def test_the_source_of_a_layer_may_be_missing_tiles(tmp_path):
    write_class(tmp_path, SOUTH_OF_CA_MAU, classes(SOUTH_OF_CA_MAU))
    layers = only(find_layers(tmp_path, [2020]), "class")
    other = Layer("class", 2021, {"z01_c01_r+001": Source(tmp_path / "none.tif")})
    pictures = write_overviews(tmp_path / "images", [*layers, other], group_tiles(layers), most_bytes=10**6)
    assert [one.layer.year for one in pictures] == [2020]
