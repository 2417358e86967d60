from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.kernels.segments import BREAK_COST, LEAST_NOISE, LEAST_STEP, NOISE_YEARS, logit_over, segment


def levels_of(values, weights, starts):
    ends = [*starts[1:], len(values)]
    parts = [slice(start, end) for start, end in zip(starts, ends, strict=True)]
    return [float(np.average(values[part], weights=weights[part])) for part in parts]


def by_definition(values, weights):
    """Try every choice of up to two breaks, then join what is no change."""
    values = np.array(values, np.float64)
    noise = max(LEAST_NOISE, np.median(np.diff(values) ** 2) / 0.91) if len(values) >= NOISE_YEARS else LEAST_NOISE

    def cost(starts):
        levels = np.repeat(levels_of(values, weights, starts), np.diff([*starts, len(values)]))
        residual = (weights * (values - levels) ** 2).sum()
        return residual / noise + BREAK_COST * (len(starts) - 1) * np.log(len(values))

    inner = range(1, len(values))
    best = min(([0, *some] for number in range(3) for some in combinations(inner, number)), key=cost)
    while True:
        levels = levels_of(values, weights, best)
        wrong = [
            (abs(b - a), number)
            for number, (a, b) in enumerate(pairwise(levels))
            if (a >= 0) == (b >= 0) or abs(b - a) < LEAST_STEP
        ]
        if not wrong:
            return np.repeat(levels, np.diff([*best, len(values)]))
        del best[min(wrong)[1] + 1]


@given(st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_stretches_are_those_of_the_least_cost_joined_where_nothing_changed(years, seed):
    rng = np.random.default_rng(seed)
    values = rng.choice([-3, 1, 3], years) + rng.normal(0, 1, years)  # no two choices cost the same
    weights = rng.choice([0.125, 0.5, 1], years).astype("float32")
    found = segment(np.array(values, np.float32)[:, np.newaxis], weights[:, np.newaxis])[:, 0]
    np.testing.assert_allclose(found, by_definition(np.float32(values), weights), atol=1e-4)


def test_a_doubtful_year_is_no_change_and_a_lasting_one_is_dated():
    series = np.full((12, 3), 3.0, np.float32)
    series[4, 0] = 0.5  # one year
    series[7:, 1] = -3
    series[5:, 2] = 0.8  # less sure, but mangrove
    found = segment(series)
    assert (found[:, 0] > 0).all()
    assert (found[:7, 1] == 3).all()
    assert (found[7:, 1] == -3).all()
    assert np.ptp(found[:, 2]) == 0


def test_a_year_of_little_weight_begins_no_stretch():
    series = np.full((10, 1), 3, np.float32)
    series[-1] = -1.5
    weight = np.ones_like(series)
    assert segment(series, weight)[-1, 0] == -1.5
    weight[-1] = 0.125
    assert segment(series, weight)[-1, 0] > 0
    with pytest.raises(ValueError, match="weight must be above 0"):
        segment(series, np.zeros_like(series))


def test_years_not_observed_take_the_level_before_them():
    series = np.array([np.nan, 3, 3, 3, np.nan, np.nan, -3, -3, -3, np.nan], np.float32)[:, np.newaxis]
    assert segment(series)[:, 0].tolist() == [3.0] * 6 + [-3.0] * 4
    assert np.isnan(segment(np.full((4, 1), np.nan, np.float32))).all()


def test_log_odds_are_from_the_threshold_and_no_surer_than_the_clip():
    over = logit_over(np.array([0, 3000, 5000, 10_000, 65_535], np.uint16), 0.3)
    assert over[[0, 1, 3]].tolist() == pytest.approx([-4.6, 0, 4.6], abs=1e-6)
    assert over[2] == pytest.approx(np.log(0.7 / 0.3))
    assert np.isnan(over[4])


def test_what_is_no_series_is_told():
    with pytest.raises(ValueError, match=r"series must be float32 \(year, pixel\), got float64 \(3,\)"):
        segment(np.zeros(3))
