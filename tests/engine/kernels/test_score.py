"""Scores against hand-worked answers and against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from engine.kernels.score import (
    at_prevalence,
    auc,
    average_precision,
    best_threshold,
    block_draws,
    brier,
    calibration_error,
    count_scores,
    figures_of,
    interval,
    rates,
)

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


def test_average_precision_by_hand():
    # Down to .9: precision 2/2, recall 2/3; down to .4 (a tie of 1 and 3): precision 3/6, recall 1.
    score, positive = np.array([0.9, 0.4, 0.4, 0.2]), np.array([1, 1, 0, 0], bool)
    assert average_precision(score, positive, np.array([2, 1, 3, 1])) == pytest.approx(2 / 3 * 1 + 1 / 3 * 1 / 2)
    assert math.isnan(average_precision(score, np.zeros(4, bool), np.ones(4)))


@settings(max_examples=80, deadline=None)
@given(ROWS)
def test_ranking_figures_are_those_of_scikit_learn(rows):
    score, positive, weight = columns(rows)
    if weight[positive].sum() > 0:
        expected = average_precision_score(positive, score, sample_weight=weight)
        assert average_precision(score, positive, weight) == pytest.approx(expected)
        if weight[~positive].sum() > 0:
            kept = weight > 0
            expected = roc_auc_score(positive[kept], score[kept], sample_weight=weight[kept])
            assert auc(score, positive, weight) == pytest.approx(expected)


def test_the_best_threshold_by_hand():
    # From 6000: precision 2/3, recall 1, F1 .8; from 9000: 1, 1/2, .67; from 5000: 1/2, 1, .67.
    score = np.array([9000, 6000, 6000, 5000], np.uint16)
    assert best_threshold(score, np.array([1, 1, 0, 0], bool), np.ones(4)) == 6000
    # The false alarm at 6000 stands for much more land.
    assert best_threshold(score, np.array([1, 1, 0, 0], bool), np.array([1, 1, 9, 1])) == 9000
    with pytest.raises(ValueError, match="no row is positive"):
        best_threshold(score, np.zeros(4, bool), np.ones(4))


@settings(max_examples=80, deadline=None)
@given(ROWS)
def test_no_threshold_is_better_than_the_best(rows):
    score, positive, weight = columns(rows)
    score = (score * 6).astype(np.uint16)
    if weight[positive].sum() > 0:
        best = rates(score >= best_threshold(score, positive, weight), positive, weight).f1
        assert all(rates(score >= one, positive, weight).f1 <= best + 1e-12 for one in range(1, 7))


# --- many draws at once ----------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(ROWS, st.integers(1, 4), st.integers(0, 2**32))
def test_figures_of_a_draw_are_those_of_rows_weighted_so(rows, blocks, seed):
    score, positive, weight = columns(rows)
    rng = np.random.default_rng(seed)
    block = rng.integers(0, blocks, score.size)
    times = rng.integers(0, 3, (blocks, 2)).astype(float)
    counts = count_scores(score, positive, weight, block, blocks)
    called = rng.random(score.size) < score
    cells = np.zeros((2, 2, 2))
    np.add.at(cells, (positive.astype(int), called.astype(int)), weight[:, np.newaxis] * times[block])
    found = figures_of(counts.probability, counts.under(times), cells)
    for draw in range(2):
        mass = weight * times[block, draw]
        other, mangrove = rates(~called, ~positive, mass), rates(called, positive, mass)
        expected = {
            ("both", "auc"): auc(score, positive, mass),
            ("both", "brier"): brier(score, positive, mass),
            ("both", "calibration_error"): calibration_error(score, positive, mass),
            ("positive", "precision"): mangrove.precision,
            ("positive", "recall"): mangrove.recall,
            ("positive", "f1"): mangrove.f1,
            ("positive", "average_precision"): average_precision(score, positive, mass),
            ("positive", "precision_at_5%"): at_prevalence(mangrove.recall, mangrove.false_positive_rate, 0.05)[0],
            ("positive", "f1_at_31%"): at_prevalence(mangrove.recall, mangrove.false_positive_rate, 0.31)[1],
            ("negative", "precision"): other.precision,
            ("negative", "recall"): other.recall,
            ("negative", "f1"): other.f1,
            ("negative", "average_precision"): average_precision(-score, ~positive, mass),
        }
        for (kind, figure), value in expected.items():
            assert found[kind][figure][draw] == pytest.approx(value, nan_ok=True), figure


def test_blocks_are_drawn_within_their_stratum_and_stand_for_all_of_it():
    times = block_draws(np.array([0, 0, 0, 1, 1, 2]), 200, seed=1)
    assert times[:3].sum(axis=0) == pytest.approx(3)
    assert times[3:5].sum(axis=0) == pytest.approx(2)
    assert (times[5] == 1).all()
    # Of three blocks two are drawn, each counting 3/2 times.
    assert set(np.unique(times[:3])) == {0.0, 1.5, 3.0}
    assert np.array_equal(times, block_draws(np.array([0, 0, 0, 1, 1, 2]), 200, seed=1))


def test_the_bootstrap_of_a_mean_by_hand():
    # Two blocks of values 0 and 1: one is drawn and counts twice, so the mean is 0 or 1, each half the time; its
    # variance, 1/4, is that of a mean of two: s^2 / n = 1/2 / 2.
    times = block_draws(np.zeros(2, int), 4000, seed=0)
    means = (np.array([0.0, 1.0]) @ times) / 2
    assert set(np.unique(means)) == {0.0, 1.0}
    assert means.var() == pytest.approx(0.25, abs=0.01)
    assert interval(means) == (0.0, 1.0)


def test_an_interval_is_not_made_of_undefined_draws():
    assert np.isnan(interval(np.array([np.nan] * 6 + [0.5] * 94))).all()
    assert interval(np.array([np.nan] * 5 + [0.5] * 95)) == (0.5, 0.5)
    assert np.isnan(interval(np.empty(0))).all()


def test_intervals_of_like_blocks_cover_what_they_are_about():
    # 300 worlds of 12 blocks whose share of hits varies; the true recall is .7.
    rng = np.random.default_rng(5)
    covered = 0
    for world in range(300):
        share = rng.beta(7, 3, 12)
        hit, missed = 50 * share, 50 * (1 - share)
        times = block_draws(np.zeros(12, int), 200, seed=world)
        low, high = interval((hit @ times) / ((hit + missed) @ times))
        covered += low <= 0.7 <= high
    assert 0.88 <= covered / 300 <= 0.98
