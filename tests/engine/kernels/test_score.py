"""Scores against hand-worked answers and against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.kernels.score import at_prevalence, auc, brier, calibration_error, rates

ROWS = st.lists(st.tuples(st.integers(0, 6), st.booleans(), st.integers(0, 5)), min_size=1, max_size=40)


def columns(rows):
    score, positive, weight = zip(*rows, strict=True)
    return np.array(score) / 6, np.array(positive, bool), np.array(weight, float)


def test_auc_of_a_weighted_ranking_by_hand():
    # Pairs (positive weight x negative weight): .9 beats .4 and .2: 2*(1+3) = 8; .3 beats only .2: 1*3 = 3.
    # 11 of all 3*4 = 12.
    score = np.array([0.9, 0.3, 0.4, 0.2])
    assert auc(score, np.array([1, 1, 0, 0], bool), np.array([2, 1, 1, 3])) == pytest.approx(11 / 12)


def test_auc_of_a_constant_is_one_half():
    assert auc(np.full(5, 0.3), np.array([1, 0, 1, 0, 0], bool), np.arange(1, 6)) == 0.5


def test_scores_without_both_classes_are_nan():
    one = np.ones(3, bool)
    assert math.isnan(auc(np.arange(3.0), one, np.ones(3)))
    assert math.isnan(rates(~one, ~one, np.ones(3)).precision)
    assert math.isnan(brier(np.empty(0), np.empty(0, bool), np.empty(0)))


def test_rates_by_hand():
    predicted = np.array([1, 1, 0, 0, 1], bool)
    positive = np.array([1, 0, 1, 0, 1], bool)
    weight = np.array([1, 2, 3, 4, 5])
    # hit 6, false alarm 2, missed 3, rejected 4
    assert rates(predicted, positive, weight) == pytest.approx((6 / 8, 6 / 9, 12 / 17, 2 / 6))


@settings(max_examples=80, deadline=None)
@given(ROWS)
def test_auc_equals_its_definition_over_pairs(rows):
    score, positive, weight = columns(rows)
    won = total = 0.0
    for p, w in zip(score[positive], weight[positive], strict=True):
        for q, v in zip(score[~positive], weight[~positive], strict=True):
            won += w * v * (1.0 if p > q else 0.5 if p == q else 0.0)
            total += w * v
    if total:
        assert auc(score, positive, weight) == pytest.approx(won / total)
    else:
        assert math.isnan(auc(score, positive, weight))


@settings(max_examples=80, deadline=None)
@given(ROWS)
def test_a_weight_of_two_is_the_row_twice(rows):
    score, positive, weight = columns(rows)
    times = weight.astype(int)
    many = np.repeat(score, times), np.repeat(positive, times), np.ones(times.sum())
    for figure in (auc, brier, calibration_error):
        assert figure(score, positive, weight) == pytest.approx(figure(*many), nan_ok=True)
    one = rates(score >= 0.5, positive, weight)
    assert one == pytest.approx(rates(many[0] >= 0.5, many[1], many[2]), nan_ok=True)


@settings(max_examples=80, deadline=None)
@given(ROWS)
def test_precision_at_the_samples_own_prevalence_is_the_samples_precision(rows):
    score, positive, weight = columns(rows)
    own = rates(score >= 0.5, positive, weight)
    if weight.sum() and not math.isnan(own.recall) and not math.isnan(own.false_positive_rate):
        precision, f1 = at_prevalence(own.recall, own.false_positive_rate, float(weight[positive].sum() / weight.sum()))
        assert precision == pytest.approx(own.precision, nan_ok=True)
        assert f1 == pytest.approx(own.f1, nan_ok=True)


def test_a_calibrated_probability_has_no_calibration_error():
    probability = np.repeat([0.25, 0.75], 4)
    positive = np.array([1, 0, 0, 0, 1, 1, 1, 0], bool)
    assert calibration_error(probability, positive, np.ones(8)) == pytest.approx(0)
    # Raising all probabilities by .1 raises the error by .1.
    assert calibration_error(probability + 0.1, positive, np.ones(8)) == pytest.approx(0.1)
