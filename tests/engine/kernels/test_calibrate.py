"""Calibration, thresholds by rule, and other prevalences, against answers worked by hand and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from engine.kernels.calibrate import (
    CURVE_THRESHOLDS,
    Calibration,
    Curve,
    curve_of,
    decide,
    fit_isotonic,
    fit_platt,
    shift_prevalence,
)
from engine.kernels.score import calibration_error


def drawn(rows: int = 4000, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return scores, labels and weights; the true probability is the square of the score."""
    rng = np.random.default_rng(seed)
    score = rng.integers(0, 10_001, rows).astype(np.uint16)
    return score, rng.random(rows) < (score / 1e4) ** 2, rng.uniform(0.5, 2, rows)


def test_steps_become_knots_by_hand():
    # 2000 and 3000 fall, so they are pooled: score (2 x .2 + 1 x .3) / 3, one of three is mangrove.
    score = np.array([1000, 2000, 2000, 3000, 8000], np.uint16)
    positive = np.array([False, True, False, False, True])
    curve = fit_isotonic(score, positive, np.ones(5))
    np.testing.assert_allclose(curve.score, [0.1, 0.7 / 3, 0.8])
    np.testing.assert_allclose(curve.probability, [1e-4, 1 / 3, 1 - 1e-4])
    np.testing.assert_allclose(curve(np.array([0.0, 0.7 / 3, 1.0])), [1e-4, 1 / 3, 1 - 1e-4], rtol=1e-6)


def test_isotonic_steps_are_those_of_scikit_learn():
    score, positive, weight = drawn()
    curve = fit_isotonic(score, positive, weight)
    steps = IsotonicRegression().fit_transform(score, positive, sample_weight=weight)
    np.testing.assert_allclose(curve.probability, np.clip(np.unique(steps.round(12)), 1e-4, 1 - 1e-4), atol=1e-9)


def test_platt_is_the_logistic_regression_of_scikit_learn():
    score, positive, weight = drawn()
    curve = fit_platt(score, positive, weight)
    logit = lambda p: np.log(p / (1 - p))  # noqa: E731
    x = logit(np.clip(score / 1e4, 1e-4, 1 - 1e-4))[:, None]
    peer = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(x, positive, sample_weight=weight)
    where = np.linspace(0.01, 0.99, 99)
    np.testing.assert_allclose(curve(where), peer.predict_proba(logit(where)[:, None])[:, 1], atol=2e-3)


@pytest.mark.parametrize("fit", [fit_isotonic, fit_platt])
def test_new_rows_are_calibrated(fit):
    curve = fit(*drawn())
    score, positive, weight = drawn(seed=1)
    assert calibration_error(score / 1e4, positive, weight) > 0.1
    assert calibration_error(curve(score / 1e4), positive, weight) < 0.03


@pytest.mark.parametrize("fit", [fit_isotonic, fit_platt])
@given(st.lists(st.tuples(st.integers(0, 10_000), st.booleans(), st.integers(1, 9)), min_size=2, max_size=60))
def test_a_curve_never_falls_and_stays_within_what_maps_resolve(fit, rows):
    score, positive, weight = (np.array(column) for column in zip(*rows, strict=True))
    if positive.all() or not positive.any():
        with pytest.raises(ValueError, match="both classes"):
            fit(score, positive, weight)
        return
    found = fit(score, positive, weight)(np.linspace(0, 1, 500))
    assert (np.diff(found) >= -1e-7).all()
    assert found.min() >= 0.99e-4
    assert found.max() <= 1 - 0.99e-4


@given(st.floats(0.001, 0.999), st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_a_shift_of_prevalence_multiplies_the_odds_and_comes_back(probability, old, new):
    moved = shift_prevalence(np.array([probability]), old, new)
    odds = probability / (1 - probability) * (new / (1 - new)) / (old / (1 - old))
    np.testing.assert_allclose(moved / (1 - moved), odds, rtol=1e-9)
    np.testing.assert_allclose(shift_prevalence(moved, new, old), probability, rtol=1e-9)


def test_a_calibration_moves_to_another_prevalence_at_every_score():
    curve = Calibration(np.array([0.1, 0.9]), np.array([0.05, 0.8]))
    score = np.linspace(0, 1, 101)
    expected = shift_prevalence(curve(score), 0.3, 0.02)
    np.testing.assert_allclose(curve.at_prevalence(0.3, 0.02)(score), expected, atol=1e-6)


# Four pixels by hand: mangrove of .8 and .3 (land 1 and 3), other of .6 and .1 (land 2 and 4).
FOUR = (np.array([8000, 3000, 6000, 1000], np.uint16), np.array([True, True, False, False]), np.array([1.0, 3, 2, 4]))


def test_the_curve_by_hand():
    curve = curve_of(*FOUR)
    at = {round(t * 100): i for i, t in enumerate(CURVE_THRESHOLDS)}
    for threshold, recall, false_alarm in ((5, 1, 1), (10, 1, 1), (30, 1, 2 / 6), (31, 0.25, 2 / 6), (61, 0.25, 0)):
        assert curve.recall[at[threshold]] == pytest.approx(recall)
        assert curve.false_positive_rate[at[threshold]] == pytest.approx(false_alarm)
    assert curve.precision(0.4)[at[30]] == pytest.approx(4 / 6)
    assert curve.f1(0.4)[at[30]] == pytest.approx(2 * 4 / (2 * 4 + 2))
    assert np.isnan(curve.precision(0.4)[at[90]])


@pytest.mark.parametrize(
    ("rule", "target", "threshold", "reached"),
    [
        ("f1", 0.9, 0.11, True),  # all mangrove, one of two others: the lowest such threshold
        ("precision", 0.9, 0.61, True),  # the first without a false alarm
        ("precision", 0.6, 0.11, True),  # 4 of 6, at full recall
        ("recall", 0.9, 0.11, True),  # largest precision at full recall
        ("recall", 0.2, 0.61, True),
        ("area", 0.9, 0.31, True),  # 3 of 10 mapped, 6 of 10 or 1 of 10 are further from 4 of 10
    ],
)
def test_thresholds_by_rule(rule, target, threshold, reached):
    decision = decide(curve_of(*FOUR), rule, target, 0.4)
    assert decision.threshold == pytest.approx(threshold)
    assert decision.reached is reached


def test_what_cannot_be_reached_comes_as_near_as_it_can():
    curve = Curve(np.array([0.2, 0.5, 0.8]), np.array([0.9, 0.6, 0.3]), np.array([0.5, 0.2, 0.15]))
    decision = decide(curve, "precision", 0.99, 0.5)
    assert decision == (0.5, False)  # precisions .643, .75, .667
