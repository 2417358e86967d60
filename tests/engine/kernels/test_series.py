from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.kernels.series import Rates, evidence, likeliest, smooth
from engine.legend import PROBABILITY_MISSING

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


def test_a_single_odd_year_is_an_error_and_a_lasting_change_is_one():
    rates = Rates.balanced(0.005, 0.3)
    maps = np.full((8, 3), 9500, np.uint16)
    maps[3, 0] = 100  # one year says other
    maps[4:, 1] = 100  # gone from the fifth year on
    maps[2:6, 2] = PROBABILITY_MISSING
    odds = evidence(maps, 0.3)
    course = likeliest(odds, rates, 0.3)
    assert course[:, 0].all()
    assert course[:, 1].tolist() == [True] * 4 + [False] * 4
    assert course[:, 2].all()
    share = smooth(odds, rates, 0.3)
    assert share[3, 0] > 0.9
    assert (share[4:, 1] < 0.2).all()
    assert (share[2:6, 2] > 0.9).all()


def test_years_without_an_observation_alone_leave_the_share_of_the_land():
    odds = evidence(np.full((5, 1), PROBABILITY_MISSING, np.uint16), 0.2)
    np.testing.assert_allclose(smooth(odds, Rates.balanced(0.01, 0.2), 0.2), 0.2, rtol=1e-5)


def test_what_is_no_series_is_told():
    with pytest.raises(ValueError, match=r"odds must be float32 \(year, pixel\)"):
        smooth(np.zeros((3, 2)), Rates(0.1, 0.1), 0.2)
    with pytest.raises(ValueError, match="gain must lie between 0 and 1, got 0"):
        likeliest(np.zeros((3, 2), np.float32), Rates(0.1, 0), 0.2)
