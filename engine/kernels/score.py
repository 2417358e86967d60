"""How good a probability is: weighted AUC, precision, recall, F1, Brier score and calibration error.

Every function takes weights, as a figure means nothing without the population it is about: with
``weight = 1 / inclusion probability`` it is the area mapped, with ones it is the sample as drawn. A figure
that is not defined (no mangrove, nothing predicted) is nan, never 0.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

PREVALENCES: Final = (0.01, 0.05, 0.20, 0.31)
"""Mangrove shares at which precision is told; .31 is the published study's hold-out."""


class Rates(NamedTuple):
    """What a threshold gives."""

    precision: float
    recall: float
    f1: float
    false_positive_rate: float


def auc(probability: np.ndarray, positive: np.ndarray, weight: np.ndarray) -> float:
    """Return the chance that a positive outranks a negative, ties counting half.

    Parameters
    ----------
    probability : ndarray of float or int, shape (row,)
        Any score that rises with the positive class.
    positive : ndarray of bool, shape (row,)
        True for the positive class.
    weight : ndarray of float or int, shape (row,)
        Weight of a row, not negative.

    Returns
    -------
    float
        0..1; nan if a class has no weight.

    Examples
    --------
    >>> auc(np.array([0.9, 0.5, 0.5, 0.1]), np.array([True, True, False, False]), np.ones(4))
    0.875
    """
    _, rank = np.unique(probability, return_inverse=True)
    mass = np.asarray(weight, dtype=np.float64)
    yes = np.bincount(rank, mass * positive)
    no = np.bincount(rank, mass * ~positive, minlength=yes.size)
    below = np.cumsum(no) - no
    return _ratio(float((yes * (below + no / 2)).sum()), float(yes.sum() * no.sum()))


def rates(predicted: np.ndarray, positive: np.ndarray, weight: np.ndarray) -> Rates:
    """Return precision, recall, F1 and false positive rate of a weighted confusion matrix.

    Parameters
    ----------
    predicted, positive : ndarray of bool, shape (row,)
        The map's word and the reference's.
    weight : ndarray of float or int, shape (row,)
        Weight of a row.

    Examples
    --------
    >>> rates(np.array([True, True, False, False]), np.array([True, False, True, False]), np.array([3, 1, 1, 5]))
    Rates(precision=0.75, recall=0.75, f1=0.75, false_positive_rate=0.16666666666666666)
    """
    mass = np.asarray(weight, dtype=np.float64)
    hit = float(mass[predicted & positive].sum())
    false_alarm = float(mass[predicted & ~positive].sum())
    missed = float(mass[~predicted & positive].sum())
    rejected = float(mass[~predicted & ~positive].sum())
    return Rates(
        precision=_ratio(hit, hit + false_alarm),
        recall=_ratio(hit, hit + missed),
        f1=_ratio(2 * hit, 2 * hit + false_alarm + missed),
        false_positive_rate=_ratio(false_alarm, false_alarm + rejected),
    )


def at_prevalence(recall: float, false_positive_rate: float, prevalence: float) -> tuple[float, float]:
    """Return precision and F1 the same classifier has where another share of the land is positive.

    Parameters
    ----------
    recall, false_positive_rate : float
        Of the classifier, which do not depend on prevalence.
    prevalence : float
        Share of the positive class, 0..1.

    Examples
    --------
    The published study's P .75, R .98 at 31 %, elsewhere:

    >>> fpr = 0.98 * 0.31 / 0.69 * (1 / 0.75 - 1)
    >>> [round(at_prevalence(0.98, fpr, share)[0], 2) for share in (0.31, 0.10, 0.02)]
    [0.75, 0.43, 0.12]
    """
    hit = prevalence * recall
    false_alarm = (1 - prevalence) * false_positive_rate
    return _ratio(hit, hit + false_alarm), _ratio(2 * hit, hit + false_alarm + prevalence)


def brier(probability: np.ndarray, positive: np.ndarray, weight: np.ndarray) -> float:
    """Return the weighted mean squared difference of probability and outcome.

    Examples
    --------
    >>> brier(np.array([1.0, 0.5]), np.array([True, False]), np.array([3.0, 1.0]))
    0.0625
    """
    mass = np.asarray(weight, dtype=np.float64)
    return _ratio(float((mass * (probability - positive) ** 2).sum()), float(mass.sum()))


def calibration_error(probability: np.ndarray, positive: np.ndarray, weight: np.ndarray, bins: int = 20) -> float:
    """Return the expected calibration error over equal-width bins of probability.

    Parameters
    ----------
    probability : ndarray of float, shape (row,)
        0..1.
    positive : ndarray of bool, shape (row,)
        Outcome.
    weight : ndarray of float or int, shape (row,)
        Weight of a row.
    bins : int
        Number of bins of probability.

    Examples
    --------
    >>> calibration_error(np.array([0.2, 0.2, 0.9]), np.array([True, False, True]), np.array([1, 1, 2]))
    0.2
    """
    mass = np.asarray(weight, dtype=np.float64)
    which = np.minimum((np.asarray(probability) * bins).astype(np.int64), bins - 1)
    gap = np.bincount(which, mass * (probability - positive))
    return _ratio(float(np.abs(gap).sum()), float(mass.sum()))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
