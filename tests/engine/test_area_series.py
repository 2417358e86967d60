"""The area of mangrove year by year: counted as plain numpy counts, and its rates worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import shapely

from engine.area import Area, Region
from engine.area_series import (
    ESTIMATED,
    MAPPED,
    WHOLE,
    annual_rate_pct,
    rates_table,
    series_table,
    tally_years,
)
from engine.grid import Tile, pixel_hectares
from engine.legend import MANGROVE, NOT_OBSERVED, OTHER, OUTSIDE_AREA

TILE = Tile(48, 8, -16, (-16 * 2048, 8 * 2048, 30, 40))
YEARS = [2000, 2005, 2010, 2012]
PLACES = [("region", "north"), ("region", "south"), ("zone", "park")]


def area_of(*names: str) -> Area:
    return Area(tuple(Region(name, shapely.MultiPolygon()) for name in names))


@pytest.fixture(scope="module")
def layers():
    """Classes of four years, which patches are large, and regions and a zone over them."""
    rng = np.random.default_rng(4)
    classes = rng.choice([OTHER, MANGROVE], (4, *TILE.shape)).astype("uint8")
    classes[:, rng.random(TILE.shape) < 0.1] = NOT_OBSERVED
    classes[:, -1] = OUTSIDE_AREA
    regions = np.repeat(np.array([1, 2], "uint16"), 15)[:, None].repeat(40, axis=1)
    return classes, rng.integers(0, 4, TILE.shape).astype("uint8"), regions, (rng.random(TILE.shape) < 0.3)


@pytest.fixture(scope="module")
def counted(layers) -> pd.DataFrame:
    classes, large, regions, park = layers
    zonings = [("region", regions, area_of("north", "south")), ("zone", park.astype("uint16"), area_of("park"))]
    return tally_years(YEARS, iter(classes), large, zonings, TILE)


def test_what_is_counted_is_what_numpy_counts(layers, counted):
    classes, large, regions, park = layers
    hectares = np.broadcast_to(pixel_hectares(TILE), TILE.shape)
    inside = {("region", "north"): regions == 1, ("region", "south"): regions == 2, ("zone", "park"): park}
    wanted = {}
    for (by, where), own in inside.items():
        for at, year in enumerate(YEARS):
            now, was = classes[at], classes[at - 1]
            flags = {"mangrove": now == MANGROVE, "not_observed": now == NOT_OBSERVED}
            if at:
                flags["loss"] = (was == MANGROVE) & (now == OTHER)
                flags["gain"] = (was == OTHER) & (now == MANGROVE)
                flags["loss_sieved"] = flags["loss"] & np.isin(large, [1, 3])
                flags["gain_sieved"] = flags["gain"] & np.isin(large, [2, 3])
            for name, flag in flags.items():
                wanted[by, where, year, name] = int((flag & own).sum()), hectares[flag & own].sum()
    found = {
        (row.by, row.where, row.year, row.counted): (row.pixels, row.hectares)
        for row in counted.itertuples(index=False)
    }
    assert found.keys() == wanted.keys()
    for key, (pixels, size) in wanted.items():
        assert found[key] == (pixels, pytest.approx(size))


def test_mangrove_then_plus_gain_minus_loss_is_mangrove_now(counted):
    table = series_table(counted, YEARS, PLACES, recovery_years=5)
    assert list(table["where"].unique()) == [WHOLE[1], "north", "south", "park"]
    for _, one in table.groupby(["by", "where"]):
        assert np.allclose(one["mangrove_ha"].diff().iloc[1:], one["net_ha"].iloc[1:])
        assert one["since"].tolist()[1:] == YEARS[:-1]
        assert one["provisional"].tolist() == [False, False, True, True]
        assert one[["loss_ha", "net_ha", "annual_rate_pct"]].iloc[0].isna().all()
    later = table[table["year"] > YEARS[0]]
    sums = later.groupby(["by", "year"])[["mangrove_ha", "not_observed_ha", "loss_ha", "gain_sieved_ha"]].sum()
    assert np.allclose(sums.loc["total"], sums.loc["region"])
    assert set(table["method"]) == {MAPPED}
    assert table[["estimated_ha", "low_ha", "high_ha"]].isna().all(axis=None)


def by_hand() -> pd.DataFrame:
    """Return a count of 100 ha in 2000 that are 90 in 2010 (20 lost, 10 gained) and none in 2015."""
    rows = [(2000, "mangrove", 100.0), (2010, "mangrove", 90.0), (2010, "loss", 20.0), (2010, "gain", 10.0)]
    rows += [(2010, "loss_sieved", 15.0), (2015, "loss", 90.0)]
    return pd.DataFrame(
        [("region", "north", *row, 1) for row in rows], columns=["by", "where", "year", "counted", "hectares", "pixels"]
    )


def test_rates_are_those_worked_by_hand():
    table = series_table(by_hand(), [2000, 2010, 2015], [("region", "north")], recovery_years=5)
    north = table[table["by"] == "region"].set_index("year")
    assert north.loc[2010, "annual_rate_pct"] == pytest.approx(100 * math.log(0.9) / 10)
    assert north.loc[2010, ["loss_pct_a_year", "gain_pct_a_year"]].tolist() == pytest.approx([2.0, 1.0])
    assert north.loc[2010, ["net_ha", "loss_sieved_ha", "gain_sieved_ha"]].tolist() == [-10, 15, 0]
    assert math.isnan(north.loc[2015, "annual_rate_pct"])  # of nothing there is no logarithm
    assert north.loc[2015, "loss_pct_a_year"] == pytest.approx(20.0)
    assert math.isnan(annual_rate_pct(0.0, 5.0, 3))


def test_the_headline_ends_before_what_is_provisional():
    table = rates_table(series_table(by_hand(), [2000, 2010, 2015], [("region", "north")], recovery_years=5))
    north = table[table["by"] == "region"]
    assert north[["first", "last", "provisional"]].to_numpy().tolist() == [[2000, 2010, False], [2000, 2015, True]]
    assert north["net_ha"].tolist() == [-10, -100]
    assert north["loss_ha"].tolist() == [20, 110]
    assert north["loss_pct_a_year"].tolist() == pytest.approx([2.0, 110 / 15])
    assert north["annual_rate_pct"].iloc[0] == pytest.approx(-1.0536, abs=1e-4)


def test_one_year_has_no_rates():
    table = series_table(by_hand().iloc[:1], [2000], [("region", "north")], recovery_years=5)
    assert table["provisional"].tolist() == [False, False]
    assert rates_table(table).empty


def test_estimates_stand_beside_what_is_mapped():
    rows = [
        ("total", WHOLE[1], 2010, 2010, "mangrove", 85.0, 80.0, 91.0),
        ("region", "north", 2010, 2010, "mangrove", 84.0, 79.0, 90.0),
        ("region", "north", 2010, 2010, "other", 7.0, 6.0, 8.0),
        ("region", "north", 2010, 2015, "stable mangrove", 1.0, 0.0, 2.0),
        ("region", "north", 2015, 2015, "mangrove", math.nan, math.nan, math.nan),
    ]
    columns = ["by", "where", "first", "last", "class", "estimated_ha", "low_ha", "high_ha"]
    estimates = pd.DataFrame(rows, columns=columns)
    table = series_table(by_hand(), [2000, 2010, 2015], [("region", "north")], recovery_years=5, estimates=estimates)
    assert table["high_ha"].dropna().tolist() == [91, 90]
    assert (table["method"] == ESTIMATED).tolist() == [False, True, False] * 2
    assert (table["method"] == MAPPED).sum() == 4
