"""Hectares of change, by region and zone, counted once and only inside the area."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from shapely.geometry import box

from engine.area import Area, Region, region_codes, wrap
from engine.change import (
    AREA_METHOD,
    area_table,
    change_table,
    compare_tile,
    merge_tables,
    read_zones,
    write_table,
    year_pairs,
    zone_codes,
)
from engine.errors import ConfigError, TrustError
from engine.grid import Tile, lonlat_of, pixel_hectares
from engine.legend import CLASSES
from engine.trust import Trust

TILE = Tile(48, 8, -16, (-16 * 2048, 8 * 2048, 60, 80))
LON, LAT = lonlat_of(48, *np.meshgrid(np.arange(-32768, -32708), np.arange(16384, 16464), indexing="ij"))


def _box(rows: slice, cols: slice):
    """A lon/lat box through pixel edges, half a pixel around these pixels' centres."""
    lon, lat = LON[rows, cols], LAT[rows, cols]
    return box(lon.min() - 1.3e-4, lat.min() - 1.3e-4, lon.max() + 1.3e-4, lat.max() + 1.3e-4)


@pytest.fixture
def area() -> Area:
    west = Region("west", wrap(_box(slice(0, 50), slice(0, 40))))
    return Area((west, Region("east", wrap(_box(slice(0, 50), slice(40, 80))))))


@pytest.fixture
def zones_file(tmp_path):
    """Two polygons of 'park' (one a bow tie), one without a name, one reaching beyond the area."""
    west, south, east, north = _box(slice(0, 20), slice(0, 20)).bounds
    bow_tie = [[west, south], [east, north], [east, south], [west, north], [west, south]]
    shapes = {
        "bow": ("park", {"type": "Polygon", "coordinates": [bow_tie]}),
        "square": ("park", _box(slice(30, 40), slice(30, 50)).__geo_interface__),
        "nameless": (None, _box(slice(0, 5), slice(70, 80)).__geo_interface__),
        "south": ("south", _box(slice(45, 60), slice(0, 80)).__geo_interface__),
    }
    features = [
        {"type": "Feature", "properties": {"owner": owner}, "geometry": geometry} for owner, geometry in shapes.values()
    ]
    path = tmp_path / "zones.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def test_the_area_table_gives_ellipsoidal_hectares_per_region(area):
    regions = region_codes(area, TILE)
    codes = np.full(TILE.shape, 1, dtype="uint8")
    codes[:10, 30:50] = 3
    codes[50:] = 255
    table = area_table(codes, regions, TILE, area)
    assert list(table.columns) == ["where", "code", "name", "pixels", "hectares"]
    loss = table[table.name == "loss"].set_index("where")
    assert loss.pixels.to_dict() == {"west": 100, "east": 100}
    assert loss.hectares["west"] == pytest.approx(10 * pixel_hectares(TILE)[30:40].sum())
    assert 100 * 0.0899 < loss.hectares["west"] < 100 * 0.0901
    assert loss.hectares["west"] != 9.0  # not the area on the map
    assert table.pixels.sum() == (regions > 0).sum() == 50 * 80
    assert table[table.name == "gain"].hectares.tolist() == [0.0, 0.0]


def test_class_areas_use_the_same_table_with_the_legend_of_classes(area):
    regions = region_codes(area, TILE)
    classes = np.full(TILE.shape, 3, dtype="uint8")
    table = area_table(classes, regions, TILE, area, legend=CLASSES)
    assert table[table.pixels > 0].name.tolist() == ["outside the habitat limit"] * 2


def test_codes_of_another_legend_are_refused(area):
    with pytest.raises(ValueError, match=r"codes \[5\] are not in the legend"):
        area_table(np.full(TILE.shape, 5, "uint8"), region_codes(area, TILE), TILE, area, legend=CLASSES)


def test_zones_are_repaired_joined_by_name_and_counted_inside_the_area_only(area, zones_file):
    zones = read_zones(str(zones_file), "owner", Trust().with_roots(zones_file.parent))
    assert [zone.name for zone in zones.regions] == ["park", "south", "unnamed"]
    regions = region_codes(area, TILE)
    codes = zone_codes(zones, TILE, regions)
    table = area_table(np.full(TILE.shape, 4, "uint8"), codes, TILE, zones)
    gain = table[table.name == "gain"].set_index("where").pixels
    assert gain["south"] == 5 * 80  # 15 rows drawn, 5 of them in the area
    assert gain["unnamed"] == 5 * 10
    assert gain["park"] - 10 * 20 == pytest.approx(200, abs=25)  # the bow tie is half of its 20 x 20 box


def test_zones_outside_the_allowed_folders_or_without_the_column_are_refused(zones_file):
    with pytest.raises(TrustError, match=r"change\.zones: .* outside the allowed folders"):
        read_zones(str(zones_file), "owner", Trust())
    with pytest.raises(ConfigError, match=r"change\.zones: column 'name' is not in zones\.geojson; columns are owner"):
        read_zones(str(zones_file), "name", Trust().with_roots(zones_file.parent))


def test_a_zones_file_that_points_elsewhere_is_refused(tmp_path, zones_file):
    layer = f'<OGRVRTLayer name="zones"><SrcDataSource>{zones_file}</SrcDataSource></OGRVRTLayer>'
    (tmp_path / "x.geojson").write_text(f"<OGRVRTDataSource>{layer}</OGRVRTDataSource>")
    with pytest.raises(ConfigError, match=r"x\.geojson cannot be read as polygons: it is not what its name says"):
        read_zones(str(tmp_path / "x.geojson"), "owner", Trust().with_roots(tmp_path))


def test_tables_of_tiles_add_up_in_any_order():
    rng = np.random.default_rng(2)
    tables = [
        pd.DataFrame({"where": ["a", "b"], "code": [3, 3], "name": "loss", "pixels": [1, 2], "hectares": rng.random(2)})
        for _ in range(50)
    ]
    merged = merge_tables(tables)
    assert merged.pixels.tolist() == [50, 100]
    assert merged.equals(merge_tables(tables[::-1]))


def test_cutting_a_tile_in_two_counts_no_hectare_twice(area):
    codes = np.random.default_rng(3).choice([0, 1, 2, 3, 4], size=TILE.shape).astype("uint8")
    whole = area_table(codes, region_codes(area, TILE), TILE, area)
    row, col, height, width = TILE.window
    halves = []
    for left, right in ((0, 33), (33, width)):
        tile = Tile(TILE.zone, TILE.col, TILE.row, (row, col + left, height, right - left))
        halves.append(area_table(codes[:, left:right], region_codes(area, tile), tile, area))
    merged = merge_tables(halves)
    assert merged.pixels.tolist() == whole.pixels.tolist()
    np.testing.assert_allclose(merged.hectares, whole.hectares, rtol=1e-9)


def test_loss_gain_and_net_agree_with_mangrove_before_and_after(area):
    rng = np.random.default_rng(4)
    maps = {year: rng.choice([0, 1, 2], size=TILE.shape).astype("uint8") for year in (2000, 2010, 2020)}
    regions = region_codes(area, TILE)
    tables = [
        area_table(compare_tile(maps[a], maps[b]), regions, TILE, area).assign(first_year=a, last_year=b)
        for a, b in year_pairs([2000, 2010, 2020])
    ]
    table = change_table(merge_tables(tables))
    assert table[["first_year", "last_year"]].drop_duplicates().values.tolist() == [
        [2000, 2010],
        [2010, 2020],
        [2000, 2020],
    ]
    assert table["where"].tolist() == ["west", "east"] * 3
    np.testing.assert_allclose(table.after_ha - table.before_ha, table.net_ha)
    west = (regions == 1) & (maps[2000] == 2) & (maps[2010] == 1)
    assert table.loss_ha[0] == pytest.approx((west * pixel_hectares(TILE)).sum())


def test_asked_pairs_must_be_years_of_the_run():
    assert year_pairs([2000, 2010, 2020], [(2000, 2020)]) == [(2000, 2020)]
    for pair in ((2000, 2015), (2020, 2000)):
        with pytest.raises(ConfigError, match=r"change\.pairs: .* years are 2000, 2010, 2020"):
            year_pairs([2000, 2010, 2020], [pair])


def test_a_written_table_states_its_method_and_notice(tmp_path, area):
    table = area_table(np.ones(TILE.shape, "uint8"), region_codes(area, TILE), TILE, area)
    write_table(tmp_path / "areas.csv", table, notice="SIMULATED data")
    read = pd.read_csv(tmp_path / "areas.csv")
    assert set(read.method) == {AREA_METHOD}
    assert set(read.notice) == {"SIMULATED data"}
    np.testing.assert_allclose(read.hectares, table.hectares, atol=1e-4)
