"""Drawn polygons: what is refused, versions that stay, and the pixels they own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import shapely
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from shapely.geometry import LineString, Polygon, box

from engine.edits import (
    add_edits,
    burn_edits,
    check_edits,
    clip_edits,
    list_versions,
    of_year,
    read_edits,
    read_layer,
    undo_edits,
)
from engine.errors import ConfigError, StoreError
from engine.grid import Tile, lonlat_of, to_zone
from tests.makers import write_hostile_geopackage

TILE = Tile(48, 8, -16, (-32600, 16500, 40, 50))


def in_pixels(row: float, col: float, height: float, width: float) -> Polygon:
    """Return a rectangle in degrees whose edges are given in pixels of the tile."""
    rows = TILE.window[0] + np.array([row, row, row + height, row + height]) - 0.5
    cols = TILE.window[1] + np.array([col, col + width, col + width, col]) - 0.5
    return Polygon(np.column_stack(lonlat_of(TILE.zone, rows, cols)))


def drawn(*geometries: Any, crs: Any = 4326, **columns: Any) -> gpd.GeoDataFrame:
    index = range(len(geometries))
    return gpd.GeoDataFrame({"kind": "add", **columns}, index=index, geometry=list(geometries), crs=crs)


def burn(frame: gpd.GeoDataFrame, year: int = 2019) -> tuple[np.ndarray, np.ndarray]:
    pieces = clip_edits(check_edits(frame), [TILE]).get(TILE, ())
    return burn_edits(of_year(pieces, year), TILE)


SQUARE = in_pixels(10, 20, 5, 6)


@pytest.mark.parametrize(("suffix", "driver"), [(".gpkg", "GPKG"), (".geojson", "GeoJSON"), (".fgb", "FlatGeobuf")])
@pytest.mark.parametrize("crs", [4326, 32648, 3857])
def test_files_of_any_coordinate_system_give_the_same_polygon(tmp_path: Path, suffix: str, driver: str, crs: int):
    path = tmp_path / f"drawn{suffix}"
    frame = drawn(SQUARE, from_year=2015.0, note="a\nb").to_crs(crs)
    frame.to_file(path, driver=driver, **({"RFC7946": "NO"} if driver == "GeoJSON" and crs == 4326 else {}))
    found = read_edits(path)
    assert found.columns.tolist() == ["kind", "from_year", "to_year", "note", "author", "geometry"]
    assert found["from_year"].tolist() == [2015]
    assert found["to_year"].isna().all()
    assert "\n" not in found["note"].iloc[0]
    edits, _ = burn(found)
    assert np.argwhere(edits == 1).min(axis=0).tolist() == [10, 20]
    assert (edits == 1).sum() == 30


BOWTIE = Polygon([(104, 8), (105, 9), (105, 8), (104, 9)])


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (drawn(SQUARE, kind="maybe"), "edit 1: kind 'maybe' is none"),
        (drawn(SQUARE).drop(columns="kind"), "have no column kind"),
        (drawn(), "hold no polygon"),
        (drawn(LineString([(104, 8), (105, 9)])), "edit 1 is LineString"),
        (drawn(None), "edit 1 is no geometry"),
        (drawn(box(500_000, 900_000, 600_000, 950_000)), "beyond the Earth's UTM grid"),
        (drawn(box(0, 79, 1, 81)), "beyond the Earth's UTM grid"),
        (drawn(Polygon()), "beyond the Earth's UTM grid"),
        (drawn(Polygon([(104, 8), (105, 8), (104, 8)])), "encloses nothing"),
        (drawn(SQUARE, from_year="soon"), "from_year 'soon' is no year"),
        (drawn(SQUARE, to_year=20195), "to_year '20195' is no year"),
        (drawn(SQUARE, from_year=2019, to_year=2016), "from_year 2019 is after to_year 2016"),
    ],
)
def test_what_is_no_edit_is_told_in_one_line(frame: gpd.GeoDataFrame, expected: str):
    with pytest.raises(ConfigError, match=expected):
        check_edits(frame)


def test_a_polygon_that_crosses_itself_is_repaired_and_the_antimeridian_cut():
    found = check_edits(drawn(BOWTIE, box(179.9, -17, 180.1, -16.9)))
    assert found.geometry.is_valid.all()
    assert found.geometry.iloc[0].area == pytest.approx(0.5)
    assert found.geometry.iloc[1].bounds[::2] == (-180, 180)


@pytest.mark.timeout(20)
def test_hostile_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plain = tmp_path / "drawn.geojson"
    drawn(SQUARE).to_file(plain)
    (tmp_path / "a.vrt").write_text("<OGRVRTDataSource/>")
    (tmp_path / "b.geojson").write_text('{"type": "gdal_streamed_alg", "command_line": "x"}')
    (tmp_path / "c.gpkg").write_text("<OGRVRTDataSource/>")
    (tmp_path / "d.shp").write_bytes(b"\0\0\x27\x0a")
    write_hostile_geopackage(tmp_path / "e.gpkg", "layer that is a view")
    for name in ("a.vrt", "b.geojson", "c.gpkg", "d.shp", "e.gpkg", "none.gpkg"):
        with pytest.raises(ConfigError, match=r"not what its name says|cannot be read"):
            read_edits(tmp_path / name)
    for limit, message in (("BYTES", "larger than"), ("POLYGONS", "1 edits, more than 0"), ("VERTICES", "5 vertices")):
        with monkeypatch.context() as patch:
            patch.setattr(f"engine.edits.MOST_{limit}", 0)
            with pytest.raises(ConfigError, match=message):
                read_edits(plain)


def test_versions_grow_and_stay(tmp_path: Path):
    assert read_layer(tmp_path) is None
    first, added = add_edits(tmp_path, drawn(SQUARE), author="ana", source="one.gpkg")
    assert (first.version, added) == (1, 1)
    kept = {path: path.read_bytes() for path in (tmp_path / "edits").iterdir()}
    features = json.loads(drawn(SQUARE, in_pixels(0, 0, 3, 3), author=["", "bo"]).to_json())
    second, added = add_edits(tmp_path, features, author="ca")
    assert (second.version, added) == (2, 1)
    assert add_edits(tmp_path, drawn(SQUARE), author="ana")[0].version == 2
    found = read_layer(tmp_path)
    assert found is not None
    assert found.sha256 == second.sha256
    assert found.polygons[["author", "version"]].to_numpy().tolist() == [["ana", 1], ["bo", 2]]
    third = undo_edits(tmp_path, author="ana")
    assert third.polygons["version"].tolist() == [1]
    assert undo_edits(tmp_path, author="ana").polygons.empty
    with pytest.raises(ConfigError, match="no edits to take back"):
        undo_edits(tmp_path, author="ana")
    assert [(one["version"], one["action"]) for one in list_versions(tmp_path)] == [
        (1, "add"),
        (2, "add"),
        (3, "undo"),
        (4, "undo"),
    ]
    assert add_edits(tmp_path, drawn(SQUARE), author="ana")[0].version == 5
    assert all(path.read_bytes() == content for path, content in kept.items())


def test_an_earlier_edit_is_put_back_on_top_and_the_same_file_changes_nothing(tmp_path: Path):
    both = drawn(SQUARE, in_pixels(12, 22, 9, 9), kind=["add", "remove"])
    far = in_pixels(30, 40, 3, 3)
    add_edits(tmp_path, both, author="ana")
    assert add_edits(tmp_path, both, author="ana")[1] == 0
    assert add_edits(tmp_path, drawn(far, kind="unsure"), author="ana")[1] == 1
    layer, added = add_edits(tmp_path, drawn(SQUARE), author="bo")
    assert (layer.version, added) == (3, 1)
    edits, _ = burn_edits(of_year(clip_edits(layer.polygons, [TILE])[TILE], 2019), TILE)
    assert (edits[10:15, 20:26] == 1).all()
    assert add_edits(tmp_path, drawn(SQUARE), author="bo")[1] == 0
    assert add_edits(tmp_path, both, author="bo")[1] == 1  # the one of them that lies under the other now
    back = undo_edits(tmp_path, author="bo")
    assert back.polygons["kind"].tolist() == ["add", "remove", "unsure", "add"]
    beside = in_pixels(10, 26, 5, 5)  # shares an edge alone
    assert add_edits(tmp_path, drawn(beside, kind="remove"), author="bo")[1] == 1
    assert add_edits(tmp_path, drawn(SQUARE), author="bo")[1] == 0


def test_a_version_that_was_touched_or_cut_off_is_no_version(tmp_path: Path):
    add_edits(tmp_path, drawn(SQUARE), author="ana")
    (tmp_path / "edits" / "v0002.gpkg").write_bytes(b"cut off before its marker")
    third, _ = add_edits(tmp_path, drawn(in_pixels(0, 0, 3, 3)), author="ana")
    assert (third.version, len(third.polygons)) == (3, 2)
    path = tmp_path / "edits" / "v0003.gpkg"
    content = path.read_bytes()
    path.write_bytes(content + b"\0")
    with pytest.raises(StoreError, match=r"v0003.gpkg is not as it was written"):
        read_layer(tmp_path)
    path.write_bytes(content)
    marker = path.with_suffix(".json")
    marker.write_text(marker.read_text().replace("ana", "bob"))
    with pytest.raises(StoreError, match=r"v0003.json is not as it was written"):
        list_versions(tmp_path)


def test_of_overlaps_the_last_holds_in_its_years_and_conflicts_are_told():
    frame = drawn(
        in_pixels(0, 0, 10, 10),
        in_pixels(5, 5, 10, 10),
        in_pixels(5, 5, 2, 2),
        kind=["add", "remove", "remove"],
        from_year=[None, 2018, None],
        to_year=[None, 2019, 2010],
    )
    edits, conflicts = burn(frame, 2019)
    expected = np.zeros(TILE.shape, np.uint8)
    expected[:10, :10], expected[5:15, 5:15] = 1, 2
    assert np.array_equal(edits, expected)
    assert conflicts.sum() == 25
    edits, conflicts = burn(frame, 2017)
    assert (edits == 1).sum() == 100
    assert not conflicts.any()


@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(st.floats(-5, 45), st.floats(-5, 55)), min_size=3, max_size=7))
def test_a_pixel_is_edited_where_its_centre_lies_inside(points: list[tuple[float, float]]):
    ring = shapely.convex_hull(shapely.MultiPoint(points))
    assume(ring.area > 1e-3)
    rows, cols = shapely.get_coordinates(ring).T
    lon, lat = lonlat_of(TILE.zone, TILE.window[0] + rows - 0.5, TILE.window[1] + cols - 0.5)
    edits, _ = burn(drawn(Polygon(np.column_stack([lon, lat]))))
    outline = shapely.transform(
        Polygon(np.column_stack([lon, lat])), lambda xy: np.column_stack(to_zone(TILE.zone).transform(*xy.T))
    )
    xs, ys = (np.asarray(TILE.geobox.coordinates[axis].values) for axis in ("x", "y"))
    centres = shapely.points(*np.meshgrid(xs, ys))
    sure = shapely.distance(shapely.boundary(outline), centres) > 0.5
    assert np.array_equal((edits == 1)[sure], shapely.contains(outline, centres)[sure])


def test_a_tile_gets_no_polygon_but_its_own():
    far = Tile(48, 8, -16, (-32400, 16500, 40, 50))
    found = clip_edits(check_edits(drawn(SQUARE)), [TILE, far])
    assert list(found) == [TILE]


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
ANY = st.recursive(VALUES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner))
SHAPES = st.sampled_from(["Polygon", "MultiPolygon", "GeometryCollection", "Point", "x"])
FEATURES = st.fixed_dictionaries(
    {
        "type": st.just("Feature"),
        "geometry": ANY | st.fixed_dictionaries({"type": SHAPES, "coordinates": ANY, "geometries": ANY}),
        "properties": ANY
        | st.fixed_dictionaries(
            {
                name: ANY | st.sampled_from(["add", 2016])
                for name in ("kind", "from_year", "to_year", "note", "geometry")
            }
        ),
    }
)


@settings(max_examples=60, deadline=None)
@given(features=st.lists(FEATURES | ANY, min_size=1, max_size=3))
def test_what_is_no_feature_is_refused_whatever_it_is(tmp_path_factory, features):
    folder = tmp_path_factory.getbasetemp() / "whatever"
    with pytest.raises(ConfigError):
        add_edits(folder, {"type": "FeatureCollection", "features": features}, author="a")
