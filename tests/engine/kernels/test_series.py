from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.kernels.series import LEAST_RATE, Rates, count_changes, evidence, fit_rates, likeliest, smooth

ODDS = st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=6)
RATE = st.floats(1e-4, 0.4)


def courses(odds, rates, prior):
    """Return the probability of every course of the years, by the definition."""
    found = {}
    for course in product((False, True), repeat=len(odds)):
        weight = prior if course[0] else 1 - prior
        for before, after in pairwise(course):
            change = rates.loss if before else rates.gain
            weight *= change if before != after else 1 - change
        for state, odd in zip(course, odds, strict=True):
            weight *= np.exp(np.float64(odd)) if state else 1.0
        found[course] = weight
    return found


@given(ODDS, RATE, RATE, st.floats(0.01, 0.99))
def test_a_year_is_mangrove_in_the_share_of_all_courses_that_say_so(odds, loss, gain, prior):
    rates = Rates(loss, gain)
    every = courses(odds, rates, prior)
    total = sum(every.values())
    expected = [sum(w for course, w in every.items() if course[year]) / total for year in range(len(odds))]
    found = smooth(np.array(odds, np.float32)[:, np.newaxis], rates, prior)[:, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@given(ODDS, RATE, RATE, st.floats(0.01, 0.99))
def test_no_course_is_likelier_than_the_likeliest(odds, loss, gain, prior):
    rates = Rates(loss, gain)
    every = courses(odds, rates, prior)
    course = tuple(likeliest(np.array(odds, np.float32)[:, np.newaxis], rates, prior)[:, 0].tolist())
    assert every[course] >= max(every.values()) * (1 - 1e-9)


@given(st.lists(st.floats(-3, 3, width=32), min_size=2, max_size=6), RATE, RATE, st.floats(0.01, 0.99))
def test_expected_changes_are_those_of_all_courses(odds, loss, gain, prior):
    every = courses(odds, Rates(loss, gain), prior)
    total = sum(every.values())
    of_pairs = {
        (before, after): sum(
            weight * sum(pair == (before, after) for pair in pairwise(course)) for course, weight in every.items()
        )
        / total
        for before, after in product((False, True), repeat=2)
    }
    found = count_changes(np.array(odds, np.float32)[:, np.newaxis], Rates(loss, gain), prior)
    lost, gained = of_pairs[True, False], of_pairs[False, True]
    expected = (lost + of_pairs[True, True], lost, gained + of_pairs[False, False], gained)
    np.testing.assert_allclose(found[:4], expected, rtol=1e-4, atol=1e-6)
    first = sum(weight for course, weight in every.items() if course[0]) / total
    np.testing.assert_allclose(found[4:], (first, 1), rtol=1e-4, atol=1e-6)


def test_rates_are_found_again_in_a_land_that_was_made_with_them():
    rng = np.random.default_rng(3)
    state = rng.random(20_000) < 0.3
    years = [state]
    for _ in range(9):
        state = np.where(state, rng.random(state.size) >= 0.02, rng.random(state.size) < 0.005)
        years.append(state)
    odds = (np.where(years, 2.0, -2.0) + rng.normal(0, 2, (10, state.size))).astype("float32")
    # Normal distributions of variance 4 round +-2: their log-odds are the values themselves.
    rates, share = fit_rates(odds, Rates.balanced(0.005, 0.5), 0.5, rounds=200)
    assert rates == pytest.approx((0.02, 0.005), rel=0.15)
    assert share == pytest.approx(0.3, abs=0.01)


def test_a_land_that_never_changes_keeps_the_least_rate_and_no_land_keeps_what_was_given():
    odds = np.where(np.arange(50) < 20, np.float32(13), np.float32(-13)) * np.ones((12, 1), np.float32)
    assert fit_rates(odds, Rates(0.005, 0.005), 0.5)[0] == (LEAST_RATE, LEAST_RATE)
    assert fit_rates(odds[:, :0], Rates(0.005, 0.001), 0.2) == (Rates(0.005, 0.001), 0.2)


def test_a_doubtful_year_is_an_error_and_a_lasting_change_is_one():
    rates = Rates.balanced(0.005, 0.3)
    over = np.full((8, 3), 2, np.float32)
    over[3, 0] = -1  # one year says other
    over[4:, 1] = -2  # gone from the fifth year on
    over[2:6, 2] = np.nan
    odds = evidence(over)
    course = likeliest(odds, rates, 0.3)
    assert course[:, 0].all()
    assert course[:, 1].tolist() == [True] * 4 + [False] * 4
    assert course[:, 2].all()
    share = smooth(odds, rates, 0.3)
    assert share[3, 0] > 0.9
    assert (share[4:, 1] < 0.2).all()
    assert (share[2:6, 2] > 0.9).all()


def test_years_without_an_observation_alone_leave_the_share_of_the_land():
    odds = evidence(np.full((5, 1), np.nan, np.float32))
    np.testing.assert_allclose(smooth(odds, Rates.balanced(0.01, 0.2), 0.2), 0.2, rtol=1e-5)


def test_what_is_no_series_is_told():
    with pytest.raises(ValueError, match=r"odds must be float32 \(year, pixel\)"):
        smooth(np.zeros((3, 2)), Rates(0.1, 0.1), 0.2)
    with pytest.raises(ValueError, match="gain must lie between 0 and 1, got 0"):
        likeliest(np.zeros((3, 2), np.float32), Rates(0.1, 0), 0.2)
