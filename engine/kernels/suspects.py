"""Rows whose label is probably wrong: confident learning on out-of-fold probabilities of two classes.

A row is compared with how sure the model is of rows of each class on the average, not with one half: a rare class is
given less probability, and a mask that misses mangrove lowers what the model gives to all mangrove. So thresholds
come from the rows themselves. The probability of a row must be from a model that was not fitted to it or its
neighbours: one that saw the label would repeat it.

References
----------
Northcutt, Jiang and Chuang (2021), Confident Learning: Estimating Uncertainty in Dataset Labels, JAIR 70,
doi 10.1613/jair.1.12125: thresholds, equation 2; confident joint, equation 1; its calibration, equation 3.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from engine.legend import PROBABILITY_SCALE


class Thresholds(NamedTuple):
    """How probable a class is to rows labelled so on the average, 0..1; nan where there is none."""

    other: float
    mangrove: float


class NoiseRates(NamedTuple):
    """How wrong labels are, as shares of area; nan where the class in question has none."""

    omission: float
    """Share of the true mangrove that is labelled other."""

    commission: float
    """Share of what is labelled mangrove that is truly other."""


def thresholds(probability: np.ndarray, positive: np.ndarray, weight: np.ndarray) -> Thresholds:
    """Return the weighted mean self-confidence of each class.

    Parameters
    ----------
    probability : ndarray of float or uint16, shape (row,)
        Out-of-fold probability of mangrove: 0..1, or, as integers, x 10 000. A row may stand for many, by its weight.
    positive : ndarray of bool, shape (row,)
        True where labelled mangrove.
    weight : ndarray of float or int, shape (row,)
        Pixels or rows a row stands for. With integers or multiples of 2**-12, and integer probabilities, the result
        does not depend on the order of rows.

    Returns
    -------
    Thresholds

    Raises
    ------
    ValueError
        If a probability is out of range.

    Examples
    --------
    >>> p, mask = np.array([0.1, 0.9, 0.8, 0.2]), np.array([False, False, True, True])
    >>> thresholds(p, mask, np.array([3.0, 1.0, 1.0, 1.0]))
    Thresholds(other=0.7, mangrove=0.5)
    """
    scale = _scale(probability)
    mass = np.asarray(weight, dtype=np.float64)
    other, mangrove = (
        _ratio(float((mass * probability)[labelled].sum()), float(mass[labelled].sum())) / scale
        for labelled in (~positive, positive)
    )
    return Thresholds(1 - other, mangrove)


def suspects(probability: np.ndarray, positive: np.ndarray, limits: Thresholds) -> np.ndarray:
    """Flag rows that the model is confident belong to the other class.

    Parameters
    ----------
    probability, positive
        As of ``thresholds``; not necessarily the same rows.
    limits : Thresholds

    Returns
    -------
    ndarray of bool, shape (row,)
        True where the class not labelled is at least as probable as it is to its own rows on the average, and more
        probable than the class labelled.

    Examples
    --------
    >>> p, mask = np.array([0.1, 0.9, 0.8, 0.2]), np.array([False, False, True, True])
    >>> suspects(p, mask, Thresholds(other=0.7, mangrove=0.5))
    array([False,  True, False,  True])
    """
    of_other, of_mangrove = _both(probability)
    to_mangrove = (of_mangrove >= limits.mangrove) & (of_mangrove > of_other)
    to_other = (of_other >= limits.other) & (of_other > of_mangrove)
    return np.where(positive, to_other, to_mangrove)


def joint(probability: np.ndarray, positive: np.ndarray, weight: np.ndarray, limits: Thresholds) -> np.ndarray:
    """Estimate the joint distribution of given and true labels.

    A row counts for the class whose threshold its probability reaches, the more probable where it reaches both (the
    label given where both are as probable), and not at all where it reaches none. Counts are scaled so that every
    label given keeps its share.

    Parameters
    ----------
    probability, positive, weight
        As of ``thresholds``.
    limits : Thresholds

    Returns
    -------
    ndarray of float64, shape (2, 2)
        Shares of the weight, sum 1: [given, true], each 0 other, 1 mangrove. Labels of which no row is confident are
        taken for true; without any weight nan.

    Examples
    --------
    >>> p, mask = np.array([0.1, 0.9, 0.8, 0.2]), np.array([False, False, True, True])
    >>> joint(p, mask, np.array([3.0, 1.0, 1.0, 1.0]), Thresholds(other=0.7, mangrove=0.5)).round(3).tolist()
    [[0.5, 0.167], [0.167, 0.167]]
    """
    mass = np.asarray(weight, dtype=np.float64)
    of_other, of_mangrove = _both(probability)
    as_other, as_mangrove = of_other >= limits.other, of_mangrove >= limits.mangrove
    truly = np.where(
        as_other & as_mangrove, (of_mangrove > of_other) | (positive & (of_mangrove == of_other)), as_mangrove
    )
    counted = as_other | as_mangrove
    estimate = np.empty((2, 2))
    for given, labelled in enumerate((~positive, positive)):
        confident = [float(mass[labelled & counted & (truly == true)].sum()) for true in (False, True)]
        if sum(confident) == 0:
            confident = [float(given == 0), float(given == 1)]
        estimate[given] = np.array(confident) / sum(confident) * float(mass[labelled].sum())
    total = estimate.sum()
    return estimate / total if total else np.full((2, 2), np.nan)


def noise_rates(estimate: np.ndarray) -> NoiseRates:
    """Return the errors of the labels given, from the joint distribution of given and true labels.

    Parameters
    ----------
    estimate : ndarray of float64, shape (2, 2)
        From ``joint``.

    Examples
    --------
    >>> noise_rates(np.array([[0.625, 0.125], [0.0625, 0.1875]]))
    NoiseRates(omission=0.4, commission=0.25)
    """
    (_, missed), (wrong, hit) = estimate.tolist()
    return NoiseRates(omission=_ratio(missed, missed + hit), commission=_ratio(wrong, wrong + hit))


def _scale(probability: np.ndarray) -> int:
    """Return what stands for certainty, after checking the range."""
    scale = PROBABILITY_SCALE if probability.dtype.kind in "iu" else 1
    if probability.size and not (probability.min() >= 0 and probability.max() <= scale):  # also nan
        raise ValueError(f"probability must be within 0 and {scale}, got {probability.min()} to {probability.max()}")
    return scale


def _both(probability: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the probability of other and of mangrove, float64 0..1."""
    of_mangrove = probability / np.float64(_scale(probability))
    return 1 - of_mangrove, of_mangrove


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
