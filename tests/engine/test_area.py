"""Areas: formats, repair, the antimeridian, and which pixels they own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import shapely
from pyproj import Geod
from rasterio.features import rasterize
from shapely.geometry import MultiPolygon, Point, Polygon, box

from engine.area import STUDY_HOLD_OUT, Area, Region, read_area, read_degrees, region_codes, study_regions, wrap
from engine.errors import ConfigError, TrustError
from engine.grid import Tile, lonlat_of, pixel_hectares, tiles_of, to_zone
from engine.params import AreaParams
from engine.trust import Trust
from tests.makers import write_hostile_geopackage

GEOD = Geod(ellps="WGS84")
FIJI = (179.9, -16.9, -179.9, -16.7)
LONDON_BAY = box(104.95, 8.7, 105.05, 8.8)


def hectares(geometry: shapely.Geometry) -> float:
    """Return the geodesic area, by another library than the one under test."""
    return abs(GEOD.geometry_area_perimeter(geometry.segmentize(0.01))[0]) / 1e4


def mapped_hectares(area: Area) -> np.ndarray:
    """Return the area of each region as the pixels add it up."""
    total = np.zeros(len(area.regions) + 1)
    for tile in tiles_of(area.geometry):
        codes = region_codes(area, tile)
        weights = np.broadcast_to(pixel_hectares(tile), codes.shape)
        total += np.bincount(codes.ravel(), weights.ravel(), minlength=total.size)
    return total[1:]


def read(**given: Any) -> Area:
    return read_area(AreaParams(**given), Trust())


def test_a_box_across_the_antimeridian_is_cut_in_two() -> None:
    area = read(bbox=FIJI)
    assert shapely.get_parts(area.geometry).size == 2
    assert area.geometry.bounds == (-180, -16.9, 180, -16.7)
    assert area.geometry.area == pytest.approx(0.2 * 0.2)


def test_a_point_near_the_antimeridian_gives_a_square_on_both_sides() -> None:
    area = read(point=(-179.95, -16.8), size_km=30)
    assert hectares(area.geometry) == pytest.approx(90_000, rel=0.02)
    assert area.geometry.bounds[::2] == (-180, 180)


def test_a_box_wider_than_half_the_earth_keeps_its_side() -> None:
    assert read(bbox=(-180, -30, 180, 30)).geometry.area == pytest.approx(360 * 60)
    assert read(bbox=(-100, -5, 100, 5)).geometry.area == pytest.approx(200 * 10)


def test_a_ring_across_the_antimeridian_is_taken_the_short_way() -> None:
    ring = Polygon([(179, -17), (-179, -17), (-179, -16), (179, -16)])
    assert wrap(ring).area == pytest.approx(2)
    # One with many vertices on either side, as coastlines have.
    assert wrap(ring.buffer(0)).area == pytest.approx(2)


def test_a_wide_coastline_with_short_edges_stays_as_it_is() -> None:
    belt = box(-120, -5, 150, 5).segmentize(1)
    assert wrap(belt).area == pytest.approx(2700)


def test_longitudes_beyond_180_are_brought_back() -> None:
    # The Planetary Computer normalizes scenes that cross the antimeridian to longitudes beyond -180.
    assert wrap(box(-181, 0, -179, 1)).bounds == (-180, 0, 180, 1)
    assert wrap(box(190, 0, 191, 1)).bounds == (-170, 0, -169, 1)


def test_a_bow_tie_is_repaired() -> None:
    repaired = wrap(Polygon([(0, 0), (1, 1), (1, 0), (0, 1)]))
    assert repaired.is_valid
    assert repaired.area == pytest.approx(0.5)


def test_wrap_drops_what_is_no_surface() -> None:
    assert wrap(shapely.from_wkt("GEOMETRYCOLLECTION(POINT(1 1), LINESTRING(0 0, 1 1))")).is_empty


def test_the_study_has_25_regions_and_4_are_held_out() -> None:
    assert len(study_regions()) == 25
    assert set(STUDY_HOLD_OUT) <= set(study_regions())


def test_study_regions_become_squares_of_the_size_asked_for() -> None:
    area = read(regions=("Vietnam2", "Sao Luis Brazil 2"), size_km=20)
    assert [region.name for region in area.regions] == ["Vietnam2", "Sao-Luis-Brazil-2"]
    assert hectares(area.regions[0].geometry) == pytest.approx(40_000, rel=0.01)


def test_an_unknown_region_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="unknown region 'Atlantis'; known are Amapa Brazil, Belem"):
        read(regions=("Atlantis",))


@pytest.fixture
def frame() -> gpd.GeoDataFrame:
    return gpd.GeoDataFrame(
        {"site": ["Bay", "Cape", "Bay"]},
        geometry=[LONDON_BAY, box(105.2, 8.7, 105.3, 8.8), box(105.4, 8.7, 105.5, 8.8)],
        crs=4326,
    )


@pytest.mark.parametrize("name", ["a.geojson", "a.gpkg", "a.shp", "a.kml", "a.parquet"])
def test_every_vector_format_gives_the_same_area(tmp_path: Path, frame: gpd.GeoDataFrame, name: str) -> None:
    path = tmp_path / name
    if name.endswith("parquet"):
        frame.to_parquet(path)
    elif name.endswith("kml"):
        frame.rename(columns={"site": "Name"}).to_file(path, driver="KML")
    else:
        frame.to_crs(32648 if name.endswith("shp") else 4326).to_file(path)
    trust = Trust().with_roots(tmp_path)
    whole = read_area(AreaParams(file=str(path), name="delta"), trust)
    assert [region.name for region in whole.regions] == ["delta"]
    assert whole.geometry.symmetric_difference(frame.union_all()).area < 1e-9
    named = read_area(AreaParams(file=str(path), name_field="Name" if name.endswith("kml") else "site"), trust)
    assert [region.name for region in named.regions] == ["Bay", "Cape"]
    assert named.regions[0].geometry.area == pytest.approx(0.02)


def test_all_folders_of_a_kml_are_read(tmp_path: Path) -> None:
    ring = "<Placemark><name>{n}</name><Polygon><outerBoundaryIs><LinearRing><coordinates>{x},8 {y},8 {y},9 {x},9 {x},8"
    ring += "</coordinates></LinearRing></outerBoundaryIs></Polygon></Placemark>"
    folders = "".join(f"<Folder><name>f{x}</name>{ring.format(n=x, x=x, y=x + 1)}</Folder>" for x in (100, 102))
    path = tmp_path / "two.kml"
    path.write_text(f'<kml xmlns="http://www.opengis.net/kml/2.2"><Document>{folders}</Document></kml>')
    assert read_area(AreaParams(file=str(path)), Trust().with_roots(tmp_path)).geometry.area == pytest.approx(2)


def test_a_file_across_the_antimeridian_does_not_swallow_its_neighbours(tmp_path: Path) -> None:
    crossing = Polygon([(179, -17), (-179, -17), (-179, -16), (179, -16)])
    path = tmp_path / "pacific.geojson"
    gpd.GeoDataFrame(geometry=[crossing, box(140, -17, 141, -16)], crs=4326).to_file(path)
    assert read_area(AreaParams(file=str(path)), Trust().with_roots(tmp_path)).geometry.area == pytest.approx(3)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_bad_area_files_are_told_in_one_line(tmp_path: Path, frame: gpd.GeoDataFrame) -> None:
    trust = Trust().with_roots(tmp_path)
    points = tmp_path / "points.geojson"
    gpd.GeoDataFrame(geometry=frame.representative_point(), crs=4326).to_file(points)
    bare = tmp_path / "bare.gpkg"
    gpd.GeoDataFrame(geometry=list(frame.geometry)).to_file(bare)
    canary = write(tmp_path / "canary.csv", "a,b\n1,2\n")
    virtual = f"<OGRVRTDataSource><OGRVRTLayer name='canary'><SrcDataSource>{canary}</SrcDataSource>"
    virtual += "</OGRVRTLayer></OGRVRTDataSource>"
    command = json.dumps({"type": "gdal_streamed_alg", "command_line": f"gdal vector pipeline ! read {points}"})
    cases = {
        write(tmp_path / "roads.txt", "no polygons here"): "roads.txt cannot be read as polygons: .*GeoPackage",
        write(tmp_path / "empty.geojson", json.dumps({"type": "FeatureCollection", "features": []})): "empty.geojson",
        write(tmp_path / "sly.geojson", virtual): "sly.geojson cannot be read as polygons",
        write(tmp_path / "command.geojson", command): "command.geojson cannot be read as polygons",
        tmp_path / "absent.gpkg": "absent.gpkg does not exist",
        points: "points.geojson holds no polygon; give polygons",
        bare: "bare.gpkg has no coordinate system; add",
    }
    for path, message in cases.items():
        with pytest.raises(ConfigError, match=message) as caught:
            read_area(AreaParams(file=str(path)), trust)
        assert "\n" not in str(caught.value)
    good = tmp_path / "good.gpkg"
    frame.to_file(good)
    with pytest.raises(ConfigError, match=r"column 'nmae' is not in good\.gpkg; columns are site"):
        read_area(AreaParams(file=str(good), name_field="nmae"), trust)
    with pytest.raises(TrustError, match="outside the allowed folders"):
        read_area(AreaParams(file=str(good)), Trust())


@pytest.mark.timeout(20)
def test_a_geopackage_whose_layer_never_ends_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "endless.gpkg"
    write_hostile_geopackage(path, "layer that is a view")
    with pytest.raises(ConfigError, match="holds more than plain tables"):
        read_area(AreaParams(file=str(path)), Trust().with_roots(tmp_path))


@pytest.mark.parametrize("name", ["a.gpkg", "a.parquet"])
def test_only_so_many_features_and_the_column_asked_for_are_read(
    tmp_path: Path, frame: gpd.GeoDataFrame, name: str
) -> None:
    path = tmp_path / name
    wide = frame.assign(other="x")
    wide.to_parquet(path) if name.endswith("parquet") else wide.to_file(path)
    assert set(read_degrees(path, what="area.file", columns=["site", "none"])) == {"site", "geometry"}
    with pytest.raises(ConfigError, match=r"more than 2 features|cannot be read as polygons"):
        read_degrees(path, what="area.file", columns=[], most=2)


def named(path: Path, names: list[str]) -> Area:
    """Return what is read of a file with a square for every name."""
    squares = [box(2 * n, 1, 2 * n + 1, 2) for n in range(len(names))]
    gpd.GeoDataFrame({"n": names}, geometry=squares, crs=4326).to_file(path)
    return read_area(AreaParams(file=str(path), name_field="n"), Trust().with_roots(path.parent))


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("../../etc/passwd", "etc-passwd"),
        ("Côte  d'Ivoire", "Côte-d-Ivoire"),
        ("海南", "海南"),
        ("সুন্দরবন", "সুন্দরবন"),
        ("Ca\u0300 Mau", "C\u00e0-Mau"),  # the accent typed by itself
        ("=cmd|' /C calc'!A0", "cmd-C-calc-A0"),
        ("\x1b[31mred\u202e\tand more", "31mred-and-more"),
        ("?", "area"),
        ("x" * 200, "x" * 64),
    ],
)
def test_region_names_keep_the_letters_of_any_script_and_nothing_else(tmp_path: Path, name: str, kept: str) -> None:
    (region,) = named(tmp_path / "names.geojson", [name]).regions
    assert region.name == kept


def test_regions_of_another_script_are_different(tmp_path: Path) -> None:
    area = named(tmp_path / "names.geojson", ["海南", "广东"])
    assert {region.name for region in area.regions} == {"海南", "广东"}
    with pytest.raises(ConfigError, match="share a name: 'a b' and 'a/b' give 'a-b'; rename one"):
        named(tmp_path / "clash.geojson", ["a b", "a/b"])


def test_more_regions_than_their_codes_tell_apart_are_refused(tmp_path: Path) -> None:
    path, count = tmp_path / "many.parquet", 65_536
    west = np.arange(count) / 1000
    frame = gpd.GeoDataFrame({"n": np.arange(count)}, geometry=shapely.box(west, 0, west + 0.001, 1), crs=4326)
    frame.to_parquet(path)
    with pytest.raises(ConfigError, match=r"'n' of many\.parquet names 65536 parts, more than 65535; name a coarser"):
        read_area(AreaParams(file=str(path), name_field="n"), Trust().with_roots(tmp_path))


@pytest.mark.parametrize(
    "bounds",
    [
        (104.9, 8.6, 105.2, 8.9),  # within zone 48
        (107.9, 10.3, 108.1, 10.5),  # zones 48 and 49
        FIJI,  # zones 60 and 1, south
        (8.9, -0.1, 9.1, 0.1),  # a central meridian and the equator
        (-84.1, 24.9, -83.9, 25.1),  # zones 16 and 17
    ],
)
def test_pixel_areas_add_up_to_the_geodesic_area(bounds: tuple[float, float, float, float]) -> None:
    area = read(bbox=bounds)
    assert mapped_hectares(area).sum() == pytest.approx(hectares(area.geometry), rel=1e-3)


def test_no_place_is_counted_twice_where_zones_meet() -> None:
    area = read(bbox=(107.98, 10.3, 108.02, 10.34))
    tiles = tiles_of(area.geometry)
    assert {tile.zone for tile in tiles} == {48, 49}
    for tile in tiles:
        row, col, height, width = tile.window
        rows, cols = np.meshgrid(np.arange(row, row + height), np.arange(col, col + width), indexing="ij")
        lon, lat = lonlat_of(tile.zone, rows, cols)
        owned = region_codes(area, tile) == 1
        assert owned.any()
        expected = (lon >= 107.98) & (lon < 108.02) & (lat > 10.3) & (lat < 10.34)
        expected &= (lon < 108) if tile.zone == 48 else (lon >= 108)
        # The chord of a parallel may move one pixel in a row of a thousand.
        assert (owned != expected).sum() <= owned.size // 500
        assert not (owned & ((lon >= 108) if tile.zone == 48 else (lon < 108))).any()


def test_the_first_of_two_overlapping_regions_owns_the_pixel() -> None:
    both = Area(
        (
            Region("first", MultiPolygon([box(104.95, 8.7, 105.0, 8.75)])),
            Region("second", MultiPolygon([box(104.97, 8.7, 105.05, 8.75)])),
        )
    )
    (tile,) = tiles_of(both.geometry)
    codes = region_codes(both, tile)
    assert set(np.unique(codes)) == {0, 1, 2}
    # .02 degrees beside the first are the second's.
    assert mapped_hectares(both)[1] == pytest.approx(hectares(box(105.0, 8.7, 105.05, 8.75)), rel=5e-3)


def test_a_tile_without_the_area_has_no_owner() -> None:
    tile = tiles_of(LONDON_BAY)[0]
    elsewhere = Area((Region("far", MultiPolygon([box(107.0, 10.0, 107.1, 10.1)])),))
    assert not region_codes(elsewhere, tile).any()


def whole_codes(area: Area, tile: Tile) -> np.ndarray:
    """Burn every region whole, in the zone of a tile alone and before its longitudes are asked."""
    west = -180 + 6 * (tile.zone - 1)
    project = to_zone(tile.zone).transform
    strip = box(west - 0.5, -80, west + 6.5, 80)
    chords = [region.geometry.intersection(strip).segmentize(0.01) for region in area.regions]
    burnt = [shapely.transform(lines, lambda xy: np.column_stack(project(*xy.T))) for lines in chords]
    shapes = [(shape, index + 1) for index, shape in enumerate(burnt) if not shape.is_empty]
    return rasterize(shapes[::-1], tile.shape, transform=tile.geobox.transform, dtype="uint16")


def ragged(rng: np.random.Generator, lon: float, lat: float, radius: float) -> MultiPolygon:
    """Return a star of random edges with a hole, and an islet."""
    angle = np.sort(rng.random(60)) * 2 * np.pi
    reach = radius * rng.uniform(0.3, 1, 60)
    outline = np.column_stack([lon + reach * np.cos(angle), lat + reach * np.sin(angle)])
    hole = Polygon(outline).buffer(0).difference(Point(lon, lat).buffer(radius * 0.2))
    return wrap(hole.union(box(lon + radius, lat, lon + radius * 1.1, lat + radius * 0.1)))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("zone", "col", "row", "window"),
    [
        (48, 8, -16, (-32768, 16384, 256, 256)),  # Ca Mau
        (49, 2, -19, (-38000, 5660, 300, 200)),  # across the western edge of its zone
        (60, 13, 31, (63900, 27100, 300, 300)),  # Fiji, up to the antimeridian
        (1, 2, 31, (63900, 5800, 300, 300)),  # and beyond it
    ],
)
def test_a_tile_owns_the_pixels_it_would_own_if_all_regions_were_burnt_whole(seed, zone, col, row, window) -> None:
    tile = Tile(zone, col, row, window)
    rng = np.random.default_rng(seed)
    top, left, height, width = window
    (lon,), (lat,) = lonlat_of(zone, np.array([top + height // 2]), np.array([left + width // 2]))
    radii = [0.05] * 5 + [8]
    stars = [ragged(rng, lon + x, lat + y, r) for (x, y), r in zip(rng.normal(0, 0.05, (6, 2)), radii, strict=True)]
    area = Area(tuple(Region("", part) for part in (*stars, wrap(box(-170, -60, 170, 60)))))
    whole, codes = whole_codes(area, tile), region_codes(area, tile)
    owned = codes > 0
    assert owned.any()
    assert np.array_equal(codes[owned], whole[owned])
    lon, _ = lonlat_of(zone, *np.mgrid[top : top + height, left : left + width])
    assert not whole[~owned & (np.floor((lon + 180) / 6) + 1 == zone)].any()
