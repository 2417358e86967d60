"""Levels of wetness by year and cell, and the changes they make suspect."""

from __future__ import annotations

import numpy as np
import pytest

from engine.kernels.features import WATER_MISSING
from engine.kernels.tide import tide_suspect, wetness_levels


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


def test_a_year_that_knows_fewer_than_half_of_the_intertidal_pixels_has_no_level():
    missing = WATER_MISSING
    frequency = series([2000, missing, 2000], [4000, missing, 4000], [6000, 6000, 6000], [8000, missing, 8000])
    np.testing.assert_allclose(wetness_levels(frequency, 4, least_px=1).ravel(), [0.5, np.nan, 0.5])
    frequency[1, 0, 0] = 2000
    np.testing.assert_allclose(wetness_levels(frequency, 4, least_px=1).ravel(), [0.5, 0.4, 0.5])


def test_cells_are_counted_apart_and_the_last_hold_what_is_left():
    frequency = np.zeros((1, 3, 5), dtype=np.uint16)
    frequency[0] = 1000 * np.arange(1, 6)[None, :] + 500 * np.arange(3)[:, None]
    # Columns 0-1, 2-3, 4 and rows 0-1, 2: means of what each holds.
    np.testing.assert_allclose(
        wetness_levels(frequency, 2, least_px=1)[0], [[0.175, 0.375, 0.525], [0.25, 0.45, 0.6]], rtol=1e-6
    )


def test_what_no_year_knows_has_no_level():
    assert np.isnan(wetness_levels(np.full((2, 3, 3), WATER_MISSING, dtype=np.uint16), 3, least_px=1)).all()


def test_levels_equal_plain_numpy():
    rng = np.random.default_rng(3)
    frequency = rng.integers(0, 10_001, (5, 12, 9)).astype(np.uint16)
    frequency[rng.random(frequency.shape) < 0.2] = WATER_MISSING
    known = np.where(frequency == WATER_MISSING, np.nan, frequency.astype(float))
    typical = np.nanmedian(known, axis=0)
    known[:, (typical < 1000) | (typical > 9000)] = np.nan
    expected = [[[np.nanmean(year[r : r + 6, c : c + 6]) / 10_000 for c in (0, 6)] for r in (0, 6)] for year in known]
    np.testing.assert_allclose(wetness_levels(frequency, 6, least_px=1), expected, rtol=1e-6)


def test_rescaled_frequencies_are_refused():
    with pytest.raises(TypeError, match="frequency must be uint16"):
        wetness_levels(np.zeros((1, 2, 2), dtype=np.float32))


YEARS = [2000, 2001, 2002, 2003]
LEVELS = np.array([0.3, 0.5, 0.8, 0.6], dtype=np.float32).reshape(4, 1, 1)


def flagged(changed: list[int], levels: np.ndarray = LEVELS) -> list[bool]:
    row = np.array([changed], dtype=np.uint16)
    always = np.ones(row.shape, dtype=bool)
    return tide_suspect(levels, YEARS, row, always, always)[0].tolist()


def test_a_change_is_suspect_where_its_year_was_seen_at_another_level_than_the_one_before():
    assert flagged([0, 2000, 2001, 2002, 2003]) == [False, False, False, True, False]


def test_a_year_without_a_level_is_bridged_by_those_round_it():
    levels = np.array([0.3, np.nan, 0.6, np.nan], dtype=np.float32).reshape(4, 1, 1)
    assert flagged([2001, 2002, 2003], levels) == [True, True, False]


def test_only_sparse_canopy_beside_water_is_suspect_and_every_cell_by_its_own_level():
    changed = np.full((1, 4), 2001, dtype=np.uint16)
    levels = np.array([[[0.2, 0.2]], [[0.6, 0.3]]], dtype=np.float32)
    beside, sparse = np.array([[True, True, True, True]]), np.array([[True, False, True, True]])
    assert tide_suspect(levels, YEARS[:2], changed, beside, sparse, 2).tolist() == [[True, False, False, False]]
    assert not tide_suspect(levels, YEARS[:2], changed, ~beside, sparse, 2).any()


def test_levels_of_other_cells_are_refused():
    with pytest.raises(ValueError, match=r"levels must have shape \(4, 1, 1\)"):
        tide_suspect(LEVELS[:2], YEARS, *[np.zeros((2, 2), dtype=np.uint16)] * 3)
