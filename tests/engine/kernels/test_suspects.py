"""Suspects against an answer worked by hand, and against noise planted in a simulated mask."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.kernels.suspects import Thresholds, joint, noise_rates, suspects, thresholds

# Other, other, other, mangrove, mangrove, mangrove; the third and the last seem mislabelled, and the fourth is unsure.
PROBABILITY = np.array([0.0, 0.2, 0.7, 0.5, 0.9, 0.1])
MASK = np.array([False, False, False, True, True, True])
WEIGHT = np.array([4.0, 3.0, 1.0, 1.0, 2.0, 1.0])
COUNTS = (PROBABILITY * 10_000).round().astype("uint16")
EACH = pytest.mark.parametrize("probability", [PROBABILITY, COUNTS], ids=["shares", "counts"])


@EACH
def test_thresholds_suspects_joint_and_rates_by_hand(probability):
    limits = thresholds(probability, MASK, WEIGHT)
    # other: 1 - (3 x .2 + .7) / 8; mangrove: (.5 + 2 x .9 + .1) / 4
    assert limits == pytest.approx((1 - 1.3 / 8, 0.6))
    # third: .7 >= .6. fourth: sure of neither. last: .9 >= .8375.
    assert suspects(probability, MASK, limits).tolist() == [False, False, True, False, False, True]
    # Other: the first (weight 4) is confidently other, the second (.8 < .8375) nothing, the third (1) mangrove: 4 : 1
    # of 8. Mangrove: the fifth (2) is, the last (1) is not: 1 : 2 of 4. In all 12.
    estimate = joint(probability, MASK, WEIGHT, limits)
    assert estimate == pytest.approx(np.array([[6.4, 1.6], [4 / 3, 8 / 3]]) / 12)
    omission, commission = noise_rates(estimate)
    assert omission == pytest.approx(1.6 / (1.6 + 8 / 3))
    assert commission == pytest.approx(1 / 3)


def test_where_both_thresholds_are_reached_the_more_probable_class_counts_and_a_tie_leaves_the_label():
    limits = Thresholds(other=0.4, mangrove=0.3)
    probability = np.array([0.55, 0.35, 0.5, 0.5])
    mask = np.array([False, True, False, True])
    assert suspects(probability, mask, limits).tolist() == [True, True, False, False]
    assert joint(probability, mask, np.ones(4), limits).tolist() == [[0.25, 0.25], [0.25, 0.25]]


def test_a_rare_class_is_found_below_one_half_in_the_joint_but_no_row_of_it_is_a_suspect():
    # The model gives no pixel more than .4; those of .4 that are labelled other are as sure as mangrove ever gets.
    probability = np.array([0.01, 0.02, 0.4, 0.4])
    mask = np.array([False, False, False, True])
    limits = thresholds(probability, mask, np.ones(4))
    assert limits.mangrove == 0.4
    assert joint(probability, mask, np.ones(4), limits)[0, 1] > 0
    assert not suspects(probability, mask, limits).any()


def test_weights_are_rows_counted_more_than_once():
    times = WEIGHT.astype(int)
    rows = [np.repeat(values, times) for values in (PROBABILITY, MASK)]
    limits = thresholds(*rows, np.ones(times.sum()))
    assert limits == pytest.approx(thresholds(PROBABILITY, MASK, WEIGHT))
    assert joint(*rows, np.ones(times.sum()), limits) == pytest.approx(joint(PROBABILITY, MASK, WEIGHT, limits))


@settings(max_examples=50, deadline=None)
@given(st.permutations(range(6)), st.lists(st.integers(0, 2**30), min_size=6, max_size=6))
def test_the_order_of_rows_changes_no_bit(order, units):
    weight = np.array(units) / 2**12
    order = np.array(order)
    limits = thresholds(COUNTS, MASK, weight)
    again = thresholds(COUNTS[order], MASK[order], weight[order])
    assert np.array_equal(limits, again, equal_nan=True)
    one, two = joint(COUNTS, MASK, weight, limits), joint(COUNTS[order], MASK[order], weight[order], again)
    assert np.array_equal(one, two, equal_nan=True)


def test_without_one_class_no_row_is_a_suspect_and_what_is_unknown_is_nan():
    probability, mask = np.array([0.1, 0.95]), np.array([False, False])
    limits = thresholds(probability, mask, np.ones(2))
    assert math.isnan(limits.mangrove)
    assert not suspects(probability, mask, limits).any()
    estimate = joint(probability, mask, np.ones(2), limits)
    assert estimate.tolist() == [[1, 0], [0, 0]]
    assert all(math.isnan(rate) for rate in noise_rates(estimate))
    nothing = np.empty(0), np.empty(0, bool), np.empty(0)
    assert np.isnan(joint(*nothing, thresholds(*nothing))).all()


@pytest.mark.parametrize("value", [1.2, -0.1, math.nan])
def test_what_is_no_probability_is_refused(value):
    with pytest.raises(ValueError, match="probability must be within 0 and 1, got"):
        thresholds(np.array([0.5, value]), np.array([True, False]), np.ones(2))
    with pytest.raises(ValueError, match="probability must be within 0 and 10000, got 65535"):
        thresholds(np.array([65535], "uint16"), np.array([True]), np.ones(1))


@settings(max_examples=25, deadline=None, derandomize=True)  # an estimate: some draws are bound to miss
@given(
    omission=st.floats(0.0, 0.3),
    false_alarm=st.floats(0.0, 0.06),
    prevalence=st.floats(0.1, 0.4),
    seed=st.integers(0, 2**32 - 1),
)
def test_planted_noise_is_estimated_and_most_of_it_found(omission, false_alarm, prevalence, seed):
    # Two normal classes 4 deviations apart (Bayes error 2.3 % at most), a mask that misses a share of the mangrove and
    # calls a share of the rest mangrove; other is drawn at a fifth of its number and weighs five. The model is the
    # best there can be of these labels: it has learnt the noise as well.
    random = np.random.default_rng(seed)
    true = random.random(60_000) < prevalence
    value = random.normal(np.where(true, 4.0, 0.0))
    mask = np.where(true, random.random(true.size) >= omission, random.random(true.size) < false_alarm)
    odds = prevalence / (1 - prevalence) * np.exp(4 * value - 8)
    posterior = odds / (1 + odds)
    probability = posterior * (1 - omission) + (1 - posterior) * false_alarm
    drawn = mask | (random.random(true.size) < 0.2)
    counts = np.rint(probability[drawn] * 10_000).astype("uint16")
    weight = np.where(mask, 1.0, 5.0)[drawn]
    true, mask = true[drawn], mask[drawn]
    limits = thresholds(counts, mask, weight)
    rates = noise_rates(joint(counts, mask, weight, limits))
    planted = weight[true & ~mask].sum() / weight[true].sum()
    wrong = weight[mask & ~true].sum() / weight[mask].sum()
    assert rates.omission == pytest.approx(planted, abs=0.05)
    assert rates.commission == pytest.approx(wrong, abs=0.05)
    found = suspects(counts, mask, limits)
    noisy = mask != true
    if noisy.sum() > 500:
        assert noisy[found].mean() > 0.6
        assert found[noisy].mean() > 0.5
