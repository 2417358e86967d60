"""From scores to probabilities, from probabilities to a threshold, and both to land of another mangrove share.

Fitted on out-of-fold scores: a model is surer of rows it was fitted to than of any others. Scores come as they are
counted, x 10 000 with the land they stand for, so that outcomes of any number of rows fit.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from scipy.optimize import isotonic_regression

from engine.legend import PROBABILITY_SCALE

LEAST: Final = 1e-4
"""Smallest probability, and one minus the largest: what the maps resolve."""

CURVE_THRESHOLDS: Final = np.arange(1, 100) / 100
"""Where precision and recall are told."""

_PLATT_KNOTS: Final = np.linspace(-9.21, 9.21, 201)  # logit of LEAST to that of 1 - LEAST
_NEWTON_STEPS: Final = 50


class Calibration(NamedTuple):
    """A rising curve from score to probability, straight between its knots and level outside."""

    score: np.ndarray
    """float64 (knot,), rising, 0..1."""

    probability: np.ndarray
    """float64 (knot,), not falling, 0..1."""

    def __call__(self, score: np.ndarray) -> np.ndarray:
        """Return the probability of scores 0..1, float32 of the same shape."""
        return np.interp(score, self.score, self.probability).astype(np.float32)

    def at_prevalence(self, prevalence: float, new: float) -> Calibration:
        """Return the curve for land of which another share is mangrove."""
        # A straight line between two knots does not stay one: a knot for each score that maps can hold.
        score = np.arange(PROBABILITY_SCALE + 1) / PROBABILITY_SCALE
        return Calibration(score, shift_prevalence(self(score), prevalence, new))


def levels_of(calibration: Calibration | None) -> np.ndarray:
    """Return the probability that each score means, uint16 (10 001,) x 10 000; both as maps hold them."""
    score = np.arange(PROBABILITY_SCALE + 1) / PROBABILITY_SCALE
    probability = score if calibration is None else calibration(score)
    return np.rint(probability * PROBABILITY_SCALE).astype(np.uint16)


def shift_prevalence(probability: np.ndarray, prevalence: float, new: float) -> np.ndarray:
    """Return what probabilities become where another share of the land is positive.

    The classes look as they did, there is only more or less of them: the odds change as those of the shares do
    (Saerens, Latinne and Decaestecker 2002, Neural Computation 14, equation 2.4).

    Parameters
    ----------
    probability : ndarray of float
        At ``prevalence``.
    prevalence, new : float
        Shares of the positive class, between 0 and 1.

    Examples
    --------
    A toss-up where half is mangrove is one in ten where a tenth is:

    >>> shift_prevalence(np.array([0.0, 0.5, 1.0]), 0.5, 0.1)
    array([0. , 0.1, 1. ])
    """
    if not (0 < prevalence < 1 and 0 < new < 1):
        raise ValueError(f"prevalences must lie between 0 and 1, got {prevalence} and {new}")
    positive = np.asarray(probability, np.float64) * (new / prevalence)
    negative = (1 - np.asarray(probability, np.float64)) * ((1 - new) / (1 - prevalence))
    return positive / (positive + negative)


def fit_isotonic(score: np.ndarray, positive: np.ndarray, weight: np.ndarray) -> Calibration:
    """Fit the rising curve that is nearest to the outcomes.

    The steps of isotonic regression (pool adjacent violators; Zadrozny and Elkan 2002) become knots at their mean
    score, with straight lines between: scores that differ keep their order wherever a step has a neighbour.

    Parameters
    ----------
    score : ndarray of uint16, shape (row,)
        x 10 000; may repeat.
    positive : ndarray of bool, shape (row,)
    weight : ndarray of float, shape (row,)
        Land of a row.

    Examples
    --------
    >>> score, positive = np.array([1000, 3000, 5000, 9000], "uint16"), np.array([False, True, False, True])
    >>> curve = fit_isotonic(score, positive, np.ones(4))
    >>> curve.score, curve.probability
    (array([0.1, 0.4, 0.9]), array([1.000e-04, 5.000e-01, 9.999e-01]))
    """
    values, land, mangrove = _counted(score, positive, weight)
    steps = isotonic_regression(mangrove / land, weights=land)
    first = steps.blocks[:-1]
    mass = np.add.reduceat(land, first)
    return Calibration(
        np.add.reduceat(values * land, first) / mass,
        np.clip(np.add.reduceat(mangrove, first) / mass, LEAST, 1 - LEAST),
    )


def fit_platt(score: np.ndarray, positive: np.ndarray, weight: np.ndarray) -> Calibration:
    """Fit a logistic curve to the logit of the score (Platt 1999), by Newton's method.

    Two parameters, so for few rows; kept as a curve of 201 knots, even in the logit.

    Parameters
    ----------
    score, positive, weight
        As of ``fit_isotonic``.
    """
    values, land, mangrove = _counted(score, positive, weight)
    logit = _logit(np.clip(values, LEAST, 1 - LEAST))
    design = np.stack([logit, np.ones_like(logit)])
    scale = land.sum()
    share = min(max(mangrove.sum() / scale, LEAST), 1 - LEAST)
    slope = np.array([1.0, 0.0])
    slope[1] = _logit(np.array(share)) - _logit(np.clip(np.array((values * land).sum() / scale), LEAST, 1 - LEAST))
    for _ in range(_NEWTON_STEPS):
        fitted = 1 / (1 + np.exp(-slope @ design))
        gradient = design @ (land * fitted - mangrove) / scale
        # A hair of ridge: separable outcomes have no finite maximum.
        hessian = (design * (land * fitted * (1 - fitted) / scale)) @ design.T + 1e-9 * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        slope -= step / max(1.0, float(np.abs(step).max()))
        if np.abs(step).max() < 1e-10:
            break
    if slope[0] < 0:  # a curve may not fall: scores that say nothing leave the share
        slope = np.array([0.0, _logit(np.array(share))])
    probability = 1 / (1 + np.exp(-(slope[0] * _PLATT_KNOTS + slope[1])))
    return Calibration(1 / (1 + np.exp(-_PLATT_KNOTS)), np.clip(probability, LEAST, 1 - LEAST))


def _counted(score: np.ndarray, positive: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return distinct scores 0..1, rising, the land of each, and the mangrove in it."""
    if score.size == 0 or not 0 < np.asarray(positive).sum() < score.size:
        raise ValueError("scores of both classes are needed")
    values, index = np.unique(score, return_inverse=True)
    mass = np.asarray(weight, np.float64)
    return values / PROBABILITY_SCALE, np.bincount(index, mass), np.bincount(index, mass * positive)


def _logit(probability: np.ndarray) -> np.ndarray:
    return np.log(probability / (1 - probability))


class Curve(NamedTuple):
    """What each threshold gives, whatever the prevalence."""

    threshold: np.ndarray
    """float64 (threshold,), rising."""

    recall: np.ndarray
    """float64 (threshold,): share of the mangrove mapped as such."""

    false_positive_rate: np.ndarray
    """float64 (threshold,): share of the rest mapped as mangrove."""

    def precision(self, prevalence: float) -> np.ndarray:
        """Return the share of what is mapped that is mangrove; nan where nothing is mapped."""
        hit = prevalence * self.recall
        mapped = hit + (1 - prevalence) * self.false_positive_rate
        return np.divide(hit, mapped, out=np.full_like(hit, np.nan), where=mapped > 0)

    def f1(self, prevalence: float) -> np.ndarray:
        hit = prevalence * self.recall
        return 2 * hit / (hit + (1 - prevalence) * self.false_positive_rate + prevalence)

    def at_prevalence(self, prevalence: float, new: float) -> Curve:
        """Return the curve over the thresholds that part the same pixels where another share is mangrove."""
        return self._replace(threshold=shift_prevalence(self.threshold, prevalence, new))


def curve_of(probability: np.ndarray, positive: np.ndarray, weight: np.ndarray) -> Curve:
    """Count what each threshold of ``CURVE_THRESHOLDS`` gives.

    Parameters
    ----------
    probability : ndarray of uint16, shape (row,)
        x 10 000, as maps hold it.
    positive : ndarray of bool, shape (row,)
    weight : ndarray of float, shape (row,)
        Land of a row.
    """
    codes = np.asarray(probability, np.int64)
    shares = []
    for of in (positive, ~positive):
        land = np.bincount(codes[of], np.asarray(weight, np.float64)[of], minlength=PROBABILITY_SCALE + 1)
        above = np.cumsum(land[::-1])[::-1]
        shares.append(above[np.rint(CURVE_THRESHOLDS * PROBABILITY_SCALE).astype(np.int64)] / above[0])
    return Curve(CURVE_THRESHOLDS, *shares)


class Decision(NamedTuple):
    """A threshold and what it was chosen by."""

    threshold: float
    reached: bool
    """False where no threshold gives what was asked for, and this one comes nearest."""


def decide(curve: Curve, rule: str, target: float, prevalence: float) -> Decision:
    """Choose the threshold by a rule.

    Parameters
    ----------
    curve : Curve
    rule : {"f1", "precision", "recall", "area"}
        Largest F1; largest recall at a precision of at least ``target``; largest precision at a recall of at least
        ``target``; mapped area nearest to the true one.
    target : float
    prevalence : float
        Share of mangrove in the land to be mapped.
    """
    precision, recall = curve.precision(prevalence), curve.recall
    if rule == "f1":
        return Decision(float(curve.threshold[np.argmax(curve.f1(prevalence))]), True)
    if rule == "area":
        mapped = prevalence * recall + (1 - prevalence) * curve.false_positive_rate
        return Decision(float(curve.threshold[np.argmin(np.abs(mapped - prevalence))]), True)
    held, wanted = (precision, recall) if rule == "precision" else (recall, precision)
    held, wanted = np.nan_to_num(held, nan=-1.0), np.nan_to_num(wanted, nan=-1.0)
    enough = held >= target
    if not enough.any():
        return Decision(float(curve.threshold[np.argmax(held)]), False)
    return Decision(float(curve.threshold[np.argmax(np.where(enough, wanted, -1.0))]), True)
