"""Bands under any name, values in any of three scales: told apart, or refused with what was found."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import ConfigError
from engine.landsat import BANDS
from engine.naming import SCALES, ScaleTally, find_bands, sensor_of, to_dn

OLI = (2, 3, 4, 5, 6, 7)
TM = (1, 2, 3, 4, 5, 7)


def numbered(stem: str, numbers: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(f"{stem}{number}" for number in numbers)


# --- names -----------------------------------------------------------------------------------------------------

NAMINGS = [
    ("", ("blue", "green", "red", "nir08", "swir16", "swir22")),
    ("", ("blue", "green", "red", "nir", "swir1", "swir2")),
    *(("OLI", numbered(stem, OLI)) for stem in ("B", "SR_B", "band", "sr_band", "Band_", "B0")),
    *(("TM", numbered(stem, TM)) for stem in ("B", "SR_B", "band", "sr_band", "Band_", "B0")),
]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(NAMINGS), st.sampled_from([str, str.lower, str.upper]), st.randoms())
def test_bands_are_found_whatever_their_order_case_and_neighbours(naming, case, random):
    sensor, names = naming
    names = tuple(case(name) for name in names)
    columns = [*names, "id", "lon", "lat", "date", "QA_PIXEL", "ST_B10", "B10", "ndvi", "redness", "cloud_band"]
    random.shuffle(columns)
    found = find_bands(columns)
    assert found.by_sensor == {sensor: names}
    assert found.platform is None
    assert set(found.columns) == set(names)


def test_seven_bands_are_oli_unless_told_otherwise():
    columns = numbered("B", (1, 2, 3, 4, 5, 6, 7))
    found = find_bands(columns)
    assert found.by_sensor == {"OLI": numbered("B", OLI)}
    assert found.reason == "B2-B7 of OLI, as there is a B6"
    assert found.six_may_be_thermal
    for sensor in ("tm", "etm"):
        told = find_bands(columns, sensor=sensor)
        assert told.by_sensor == {"TM": numbered("B", TM)}
        assert "--sensor" in told.reason
    assert not find_bands(columns, sensor="oli").six_may_be_thermal


def test_a_column_of_platforms_decides_row_by_row():
    columns = ["SPACECRAFT_ID", *numbered("SR_B", (1, 2, 3, 4, 5, 6, 7))]
    found = find_bands(columns)
    assert found.by_sensor == {"OLI": numbered("SR_B", OLI), "TM": numbered("SR_B", TM)}
    assert found.platform == "SPACECRAFT_ID"
    assert sorted(found.columns) == sorted(columns)
    assert find_bands(columns, sensor="oli").platform is None
    # Names need no platform.
    assert find_bands(["platform", *BANDS]).platform is None


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["id", "x"], r"no column is a Landsat band; there are 'id', 'x'; name bands blue, green"),
        ([], r"no column is a Landsat band"),
        (["blue", "green", "red", "swir1", "swir2"], r"\(bands by name\) nir08 or nir is missing; found 'blue'"),
        (numbered("B", (2, 3, 4, 5, 7)), r"\(B \+ number of OLI\) B6 is missing; found 'B2'"),
        (numbered("sr_b", (1, 2, 3, 4, 5)), r"\(sr_b \+ number of TM\) sr_b7 is missing"),
        ([*BANDS, *numbered("SR_B", OLI)], r"more than one naming: .*'SR_B2'"),
        ([*BANDS, "nir"], r"more than one column could be the same band: 'nir08', 'nir'"),
        ([*BANDS, "RED"], r"the same band: 'red', 'RED'"),
        ([*numbered("B", OLI), "B8A", "B12"], r"Sentinel-2"),
    ],
)
def test_what_is_missing_or_ambiguous_is_told_with_what_was_found(columns, message):
    with pytest.raises(ConfigError, match=message) as caught:
        find_bands(columns)
    assert "\n" not in str(caught.value)


def test_a_sensor_that_is_told_must_have_its_bands():
    with pytest.raises(ConfigError, match=r"SR_B1 is missing"):
        find_bands(numbered("SR_B", OLI), sensor="tm")


@pytest.mark.parametrize(
    ("platform", "sensor"),
    [
        ("landsat-4", "TM"),
        ("LANDSAT_7", "TM"),
        ("Landsat 9", "OLI"),
        ("LC08_L2SP_001004_20140609_20200911_02_T1", "OLI"),
        ("LE07", "TM"),
        ("OLI_TIRS", "OLI"),
        ("ETM", "TM"),
        ("L5+L7", "TM"),
        ("L7+L8", None),
        ("LANDSAT_1", None),
        ("SENTINEL-2A", None),
        ("buoy", None),
        ("", None),
    ],
)
def test_a_platform_stands_for_a_sensor(platform, sensor):
    assert sensor_of(platform) == sensor


# --- scales ----------------------------------------------------------------------------------------------------


def land(rows: int, seed: int) -> np.ndarray:
    """Return reflectance (6, row) of dark water, some negative, to bright sand."""
    rng = np.random.default_rng(seed)
    level = rng.choice([0.03, 0.1, 0.3], rows)
    rho = level * rng.lognormal(0, 0.5, (6, rows)) - 0.02
    rho[0] = np.maximum(rho[0], 0.04)  # blue light of haze and sea
    return np.clip(rho, -0.05, 0.49)


def written(rho: np.ndarray, scale: str) -> np.ndarray:
    """Return reflectance as tables hold it, by the formulas of the product guides."""
    if scale == "dn":
        return np.rint((rho + 0.2) / 2.75e-5)
    return np.rint(rho * 10_000) if scale == "collection1" else rho


def decided(values: np.ndarray) -> str:
    tally = ScaleTally()
    tally.add(values)
    return tally.decide()[0]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(list(SCALES)), st.integers(1, 300), st.integers(0, 2**31))
def test_each_scale_is_told_from_its_values_and_read_back(scale, rows, seed):
    rho = land(rows, seed)
    values = written(rho, scale)
    assert decided(values) == scale
    expected = np.rint((rho + 0.2) / 2.75e-5)
    # One step of x 10 000 is 3.6 DN.
    np.testing.assert_allclose(to_dn(values, scale), expected, atol=2 if scale == "collection1" else 0)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(list(SCALES)), st.integers(2, 60), st.integers(1, 7), st.integers(0, 2**31))
def test_the_scale_does_not_depend_on_parts_and_order_of_rows(scale, rows, parts, seed):
    values = written(land(rows, seed), scale)
    values[:, ::5] = np.nan  # rows without bands say nothing
    if np.isnan(values).all():
        return
    one, other = ScaleTally(), ScaleTally()
    one.add(values)
    order = np.random.default_rng(seed).permutation(rows)
    for part in np.array_split(order, parts):
        other.add(values[:, part])
    assert one.decide() == other.decide()


def test_what_is_kept_for_quantiles_is_bounded_and_spread_over_all_rows():
    tally = ScaleTally(most=64)
    for first in range(0, 5000, 50):
        tally.add(np.tile(np.arange(first, first + 50) + 7000.0, (6, 1)))
    kept = np.concatenate(tally.kept, axis=1)[0]
    assert 32 <= kept.size <= 64
    assert (np.diff(kept) == tally.stride).all()
    assert kept[-1] > 7000 + 5000 - 2 * tally.stride
    assert tally.rows["dn"] == 5000


@pytest.mark.parametrize(
    "values",
    [
        np.hstack([written(land(50, 1), "dn"), written(land(50, 2), "collection1")]),
        np.hstack([written(land(50, 1), "dn"), written(land(50, 2), "reflectance")]),
        np.hstack([written(land(95, 1), "reflectance"), written(land(5, 2), "collection1")]),
        land(50, 1) * 100,  # per cent
        np.rint(land(50, 1) * 255),  # bytes
        np.full((6, 3), 1e9),
    ],
)
def test_mixed_and_unknown_scales_are_not_guessed(values):
    with pytest.raises(ConfigError, match=r"scale of the bands is not clear: band values .* of rows .*; give --scale"):
        decided(values)


def test_without_a_whole_row_there_is_nothing_to_tell_a_scale_from():
    for values in (np.full((6, 3), np.nan), np.zeros((6, 3)), np.full((6, 3), -9999.0), np.empty((6, 0))):
        with pytest.raises(ConfigError, match="no row has a value in all six bands"):
            decided(values)


@pytest.mark.parametrize(("factor", "scale"), [(10, "collection1"), (1, "reflectance")])
def test_a_temperature_in_band_6_is_not_taken_for_swir1(factor, scale):
    values = written(land(200, 3), scale)
    values[4] = np.random.default_rng(0).normal(297, 3, 200) * factor
    bands = find_bands(numbered("B", (1, 2, 3, 4, 5, 6, 7)))
    tally = ScaleTally()
    tally.add(values)
    with pytest.raises(ConfigError, match=r"band 6 looks like a temperature.*--sensor tm"):
        tally.check_band_6(bands)
    tally.check_band_6(find_bands(numbered("B", (1, 2, 3, 4, 5, 6, 7)), sensor="oli"))
    ScaleTally().check_band_6(bands)


def test_missing_values_of_each_scale():
    # Columns: sound, NaN, fill, infinite, below what can be, above it.
    row = {
        "dn": [9000, np.nan, 0, np.inf, -5, 1e9],
        "collection1": [475, np.nan, -9999, np.inf, -3000, 1e9],
        "reflectance": [0.0475, np.nan, -0.2, np.inf, -0.3, 1e300],
    }
    expected = {
        "dn": [9000, 0, 0, 0, 0, 65535],
        "collection1": [9000, 0, 0, 0, 1, 65535],
        "reflectance": [9000, 0, 0, 0, 1, 65535],
    }
    for scale, values in row.items():
        assert to_dn(np.array([values] * 6, float), scale)[0].tolist() == expected[scale]
    # One band of a row is enough for it to be missing; one 0 is a value of dark water but for DN.
    sound = np.full((6, 1), 0.05)
    sound[5] = 0
    assert (to_dn(sound, "reflectance")[:, 0] == [9091] * 5 + [7273]).all()
    assert (to_dn(np.rint(sound * 1e4), "collection1")[:, 0] == [9091] * 5 + [7273]).all()
    sound[5] = np.nan
    assert (to_dn(sound, "reflectance") == 0).all()
    assert (to_dn(np.zeros((6, 1)), "reflectance") == 0).all()
