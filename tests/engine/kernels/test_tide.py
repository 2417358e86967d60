"""Levels of wetness by year and cell, and the changes they make suspect."""

from __future__ import annotations

import numpy as np
import pytest

from engine.grid import TILE_PX
from engine.kernels.composite import RANGES, annual_layers
from engine.kernels.features import WATER_MISSING
from engine.kernels.indices import INDEX_MISSING
from engine.kernels.tide import CELL_PX, leave_out_wettest, tide_suspect, wetness_levels


def series(*pixels: list[int]) -> np.ndarray:
    """Return water frequencies of pixels in a row, given as years each, as (year, 1, pixel)."""
    return np.array(pixels, dtype=np.uint16).T[:, None, :]


def test_a_level_is_the_mean_over_intertidal_pixels_alone():
    frequency = series([2000, 6000], [4000, 8000], [0, 900], [10_000, 9_100])
    np.testing.assert_allclose(wetness_levels(frequency, 4, least_px=2).ravel(), [0.3, 0.7])
    assert np.isnan(wetness_levels(frequency, 4, least_px=3)).all()


def test_the_limits_of_the_intertidal_belong_to_it():
    assert wetness_levels(series([1000, 1000], [9000, 9000]), 2, least_px=2)[0, 0, 0] == 0.5
    assert np.isnan(wetness_levels(series([999, 1000], [9001, 9000]), 2, least_px=1)).all()


def test_land_lost_to_the_sea_does_not_raise_the_level():
    lost, flat = [0, 0, 10_000, 10_000, 10_000], [3000, 3000, 3000, 3000, 3000]
    np.testing.assert_allclose(wetness_levels(series(lost, flat), 2, least_px=1).ravel(), 0.3)


def test_a_year_that_knows_some_of_the_pixels_is_as_much_wetter_than_typical_as_those_were():
    missing = WATER_MISSING
    frequency = series([2000, missing, 2000], [4000, missing, 4000], [6000, 6000, 6000], [8000, missing, 8000])
    np.testing.assert_allclose(wetness_levels(frequency, 4, least_px=1).ravel(), [0.5, 0.5, 0.5])
    frequency[1, 0, 2] = 7000  # typical stays 6000
    np.testing.assert_allclose(wetness_levels(frequency, 4, least_px=1).ravel(), [0.5, 0.6, 0.5])
    np.testing.assert_allclose(wetness_levels(frequency, 4, least_px=2).ravel(), [0.5, np.nan, 0.5])


def test_cells_are_counted_apart_and_the_last_hold_what_is_left():
    frequency = np.zeros((1, 3, 5), dtype=np.uint16)
    frequency[0] = 1000 * np.arange(1, 6)[None, :] + 500 * np.arange(3)[:, None]
    # Columns 0-1, 2-3, 4 and rows 0-1, 2: means of what each holds.
    np.testing.assert_allclose(
        wetness_levels(frequency, 2, least_px=1)[0], [[0.175, 0.375, 0.525], [0.25, 0.45, 0.6]], rtol=1e-6
    )


def test_cells_are_those_of_the_grid_wherever_a_crop_begins():
    frequency = np.random.default_rng(4).integers(1000, 9001, (3, 9, 8)).astype(np.uint16)
    whole = wetness_levels(frequency, 4, corner=(-5, 6), least_px=1)
    assert whole.shape == (3, 3, 3)  # rows -8 to -5, -4 to -1, 0 to 3; columns 4 to 7, 8 to 11, 12 to 15
    inner = wetness_levels(frequency[:, 1:5, 2:6], 4, corner=(-4, 8), least_px=1)
    np.testing.assert_array_equal(inner[:, 0, 0], whole[:, 1, 1])
    changed = np.full((9, 8), 2001, np.uint16)
    levels = np.zeros((2, 3, 3), np.float32)
    levels[1, 1, 1] = 1
    always = np.ones((9, 8), bool)
    found = tide_suspect(levels, [2000, 2001], changed, changed - np.uint16(1), always, always, 4, corner=(-5, 6))
    expected = np.zeros((9, 8), bool)
    expected[1:5, 2:6] = True
    np.testing.assert_array_equal(found, expected)


def test_no_cell_is_of_two_tiles():
    assert TILE_PX % CELL_PX == 0


def test_what_no_year_knows_has_no_level():
    assert np.isnan(wetness_levels(np.full((2, 3, 3), WATER_MISSING, dtype=np.uint16), 3, least_px=1)).all()


def test_levels_equal_plain_numpy():
    rng = np.random.default_rng(3)
    frequency = rng.integers(0, 10_001, (5, 12, 9)).astype(np.uint16)
    frequency[rng.random(frequency.shape) < 0.2] = WATER_MISSING
    known = np.where(frequency == WATER_MISSING, np.nan, frequency.astype(float))
    typical = np.nanmedian(known, axis=0)
    typical = np.where((typical < 1000) | (typical > 9000), np.nan, typical)

    def level(year: np.ndarray, cell: tuple[slice, slice]) -> float:
        return float(np.nanmean(typical[cell]) + np.nanmean(year[cell] - typical[cell])) / 10_000

    cells = [np.s_[r : r + 6, c : c + 6] for r in (0, 6) for c in (0, 6)]
    expected = np.reshape([level(year, cell) for year in known for cell in cells], (5, 2, 2))
    np.testing.assert_allclose(wetness_levels(frequency, 6, least_px=1), expected, rtol=1e-6)


def test_rescaled_frequencies_are_refused():
    with pytest.raises(TypeError, match="frequency must be uint16"):
        wetness_levels(np.zeros((1, 2, 2), dtype=np.float32))


YEARS = [2000, 2001, 2002, 2003]
LEVELS = np.array([0.3, 0.5, 0.8, 0.6], dtype=np.float32).reshape(4, 1, 1)


def flagged(changes: list[tuple[int, int]], levels: np.ndarray = LEVELS) -> list[bool]:
    """Tell which changes are suspect, given as the year seen last before and that of the change."""
    before, changed = np.array(changes, dtype=np.uint16).T[:, None]
    always = np.ones(changed.shape, dtype=bool)
    return tide_suspect(levels, YEARS, changed, before, always, always)[0].tolist()


def test_a_change_is_suspect_where_its_year_was_seen_at_another_level_than_the_one_before():
    assert flagged([(0, 0), (2000, 2001), (2001, 2002), (2002, 2003)]) == [False, False, True, False]


def test_levels_are_of_the_years_between_which_the_pixel_changed_whatever_the_cell_saw_between():
    # 2001 to 2002 rose by .3, but 2000 was seen at half of that, and 2003 again.
    levels = np.array([0.5, 0.3, 0.6, 0.5], dtype=np.float32).reshape(4, 1, 1)
    assert flagged([(2000, 2002), (2001, 2002), (2000, 2003), (2001, 2003)], levels) == [False, True, False, False]
    levels = np.array([0.3, 0.5, 0.7, 0.7], dtype=np.float32).reshape(4, 1, 1)  # no step is above .25
    assert flagged([(2000, 2002), (2001, 2002), (2000, 2001)], levels) == [True, False, False]


def test_a_year_without_a_level_is_bridged_by_those_round_it():
    levels = np.array([0.3, np.nan, 0.6, np.nan], dtype=np.float32).reshape(4, 1, 1)
    assert flagged([(2000, 2001), (2001, 2002), (2002, 2003), (2000, 2003)], levels) == [True, True, False, False]


def test_only_sparse_canopy_beside_water_is_suspect_and_every_cell_by_its_own_level():
    changed = np.full((1, 4), 2001, dtype=np.uint16)
    before = changed - np.uint16(1)
    levels = np.array([[[0.2, 0.2]], [[0.6, 0.3]]], dtype=np.float32)
    beside, sparse = np.array([[True, True, True, True]]), np.array([[True, False, True, True]])
    assert tide_suspect(levels, YEARS[:2], changed, before, beside, sparse, 2).tolist() == [[True, False, False, False]]
    assert not tide_suspect(levels, YEARS[:2], changed, before, ~beside, sparse, 2).any()


def test_levels_of_other_cells_are_refused():
    with pytest.raises(ValueError, match=r"levels must have shape \(4, 1, 1\)"):
        tide_suspect(LEVELS[:2], YEARS, *[np.zeros((2, 2), dtype=np.uint16)] * 4)


def looks_of(greens: list[int], clear: list[bool] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return looks of one pixel that differ in green alone: the larger, the wetter."""
    bands = np.full((len(greens), 6, 1, 1), 10_000, dtype=np.uint16)
    bands[:, 1, 0, 0] = greens
    return bands, np.array(clear or [True] * len(greens)).reshape(-1, 1, 1)


def test_the_wettest_third_is_left_out_from_nine_looks_on():
    greens = [10_500, 9_000, 12_000, 9_500, 11_000, 9_600, 9_700, 9_800, 11_500]
    kept, count, water = leave_out_wettest(*looks_of(greens))
    assert kept.ravel().tolist() == [True, True, False, True, False, True, True, True, False]
    assert (int(count[0, 0]), int(water[0, 0])) == (9, 4444)  # 10 500, 11 000, 11 500 and 12 000 are wet
    kept, count, _ = leave_out_wettest(*looks_of(greens[:8]))
    assert kept.all()
    assert int(count[0, 0]) == 8


def test_looks_that_are_not_clear_are_not_among_the_nine_and_of_equal_ones_the_latest_goes():
    clear = [True] * 5 + [False] + [True] * 5
    kept, count, water = leave_out_wettest(*looks_of([12_000] * 11, clear))
    assert int(count[0, 0]) == 10
    assert kept.ravel().tolist() == [True] * 5 + [False] + [True] * 2 + [False] * 3
    assert int(water[0, 0]) == 10_000


@pytest.mark.parametrize("composite", ["median", "geomedian"])
def test_layers_of_low_tide_are_those_of_the_kept_looks_but_for_count_and_frequency(composite):
    rng = np.random.default_rng(5)
    bands = rng.integers(8_000, 20_000, (14, 6, 9, 7)).astype(np.uint16)
    clear = rng.random((14, 9, 7)) < 0.7
    low = annual_layers(bands, clear, composite=composite, tide="low")
    green, swir1 = (np.clip(bands[:, band] * 2.75e-5 - 0.2, 1e-4, 1) for band in (1, 4))
    mndwi = np.where(clear, (green - swir1) / (green + swir1), -np.inf)
    count = clear.sum(axis=0)
    rank = (-mndwi).argsort(axis=0, kind="stable").argsort(axis=0)
    kept = clear & (rank >= np.where(count >= 9, count // 3, 0))
    assert 0 < kept.sum() < clear.sum()
    of_kept = annual_layers(bands, kept, min_looks_range=1, composite=composite)
    of_all = annual_layers(bands, clear, composite=composite)
    for name, layer in low.items():
        expected = of_all if name in ("clear_count", "water_frequency") else of_kept
        if name in RANGES:
            expected = {name: np.where(count >= 8, of_kept[name], INDEX_MISSING)}
        assert np.array_equal(layer, expected[name]), name
    assert np.array_equal(low["clear_count"], count)


@pytest.mark.parametrize("min_looks_range", [3, 8, 10])
def test_ranges_are_missing_by_all_clear_looks_and_not_by_those_kept(min_looks_range):
    counts = np.arange(1, 15)
    bands = np.random.default_rng(7).integers(8_000, 20_000, (14, 6, 1, 14)).astype(np.uint16)
    clear = (np.arange(14)[:, np.newaxis] < counts)[:, np.newaxis]
    layers = annual_layers(bands, clear, min_looks_range=min_looks_range, tide="low")
    for name in RANGES:
        assert ((layers[name][0] != INDEX_MISSING) == (counts >= min_looks_range)).all(), name


def test_threads_change_nothing_of_what_is_left_out():
    rng = np.random.default_rng(6)
    bands = rng.integers(8_000, 20_000, (10, 6, 130, 300)).astype(np.uint16)
    clear = rng.random((10, 130, 300)) < 0.9
    for one, two in zip(leave_out_wettest(bands, clear), leave_out_wettest(bands, clear, threads=2), strict=True):
        assert np.array_equal(one, two)
