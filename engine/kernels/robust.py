"""Where the bulk of a class lies, whatever wrong rows are among it, and how far a row is from there."""

from __future__ import annotations

import warnings
from typing import Final, NamedTuple

import numpy as np
from scipy.cluster.vq import kmeans2
from scipy.stats import chi2

from engine.kernels.density import weighted_quantiles
from engine.kernels.separability import weighted_moments

_TO_SIGMA: Final = 1.4826022185056018
"""Standard deviation over median absolute deviation of a normal distribution, 1 / Phi^-1(3/4)."""

_STARTS: Final = 5  # k-means ends in what is best near its start


class Bulk(NamedTuple):
    """Centre and covariance of the bulk of some rows."""

    mean: np.ndarray
    """float64 (feature,)."""

    covariance: np.ndarray
    """float64 (feature, feature)."""


def weighted_mad(values: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
    """Return the weighted median, and the median absolute deviation as an estimate of the standard deviation.

    Parameters
    ----------
    values : ndarray of float or int, shape (row,)
    weight : ndarray of float or int, shape (row,)

    Examples
    --------
    >>> [round(number, 4) for number in weighted_mad(np.array([1, 2, 3, 4, 900]), np.ones(5))]
    [3.0, 1.4826]
    """
    half = np.array([0.5])
    middle = weighted_quantiles(values, weight, half)[0]
    return float(middle), _TO_SIGMA * float(weighted_quantiles(np.abs(values - middle), weight, half)[0])


def fit_bulk(values: np.ndarray, weight: np.ndarray, *, unit: float = 1.0) -> Bulk:
    """Fit the bulk of weighted rows: orthogonalised Gnanadesikan-Kettenring estimate with one reweighting.

    Scales are median absolute deviations, so that nearly half of the weight may be wrong; covariances come from the
    scales of sums and differences, made positive definite on the axes of that estimate, twice. The rows within the 90 %
    ellipse give mean and covariance. Nothing is drawn at random, and weights count, which the minimum covariance
    determinant as scikit-learn has it does not offer.

    Parameters
    ----------
    values : ndarray of float or int, shape (feature, row)
    weight : ndarray of float or int, shape (row,)
        Not negative, not all 0.
    unit : float
        To which values are rounded; a feature is never taken to vary by less than that does, unit / sqrt(12).

    Returns
    -------
    Bulk

    References
    ----------
    Maronna and Zamar 2002, Robust estimates of location and dispersion for high-dimensional datasets,
    doi 10.1198/004017002188618509.

    Examples
    --------
    >>> rows = np.vstack([np.indices((9, 9)).reshape(2, -1).T, np.full((20, 2), 900)])  # a fifth is wrong
    >>> fit_bulk(rows.T, np.ones(101)).mean.round(1)
    array([4., 4.])
    """
    rows = np.asarray(values, dtype=np.float64)
    least = unit / np.sqrt(12)
    first, back = _orthogonalise(rows, weight, least)
    second, back_second = _orthogonalise(first, weight, 1e-6)
    back = back @ back_second
    middle, scale = np.array([weighted_mad(row, weight) for row in second]).T
    start = Bulk(back @ middle, back @ np.diag(np.maximum(scale, 1e-6) ** 2) @ back.T)
    distance = squared_distance(rows, start)
    features = len(rows)
    typical = weighted_quantiles(distance, weight, np.array([0.5]))[0] / chi2.ppf(0.5, features)
    kept = distance <= chi2.ppf(0.9, features) * max(typical, 1e-12)
    mean, covariance = weighted_moments(rows[:, kept], np.asarray(weight)[kept])
    return Bulk(mean, covariance + np.eye(features) * least**2)


def _orthogonalise(values: np.ndarray, weight: np.ndarray, least: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows on the axes of their pairwise robust correlations, and the matrix that leads back."""
    features = len(values)
    scale = np.array([max(weighted_mad(row, weight)[1], least) for row in values])
    scaled = values / scale[:, None]
    correlation = np.eye(features)
    for a in range(features):
        for b in range(a):
            apart = weighted_mad(scaled[a] + scaled[b], weight)[1] ** 2
            correlation[a, b] = correlation[b, a] = (apart - weighted_mad(scaled[a] - scaled[b], weight)[1] ** 2) / 4
    _, axes = np.linalg.eigh(correlation)
    return np.einsum("fa,fr->ar", axes, scaled), scale[:, None] * axes


def squared_distance(values: np.ndarray, bulk: Bulk) -> np.ndarray:
    """Return the squared Mahalanobis distance of rows from a bulk.

    Parameters
    ----------
    values : ndarray of float or int, shape (feature, row)
    bulk : Bulk

    Returns
    -------
    ndarray of float64, shape (row,)
        Without unit; of normal rows chi-square distributed with as many degrees of freedom as there are features.

    Examples
    --------
    >>> squared_distance(np.array([[2.0, 0.0], [0.0, 3.0]]), Bulk(np.zeros(2), np.diag([4.0, 1.0])))
    array([1., 9.])
    """
    away = values - bulk.mean[:, None]
    return np.einsum("fr,fr->r", away, np.linalg.solve(bulk.covariance, away))


def split_rows(values: np.ndarray, parts: int, *, seed: int) -> np.ndarray:
    """Split rows into parts of near ones by k-means over features brought to one scale.

    Parameters
    ----------
    values : ndarray of float or int, shape (feature, row)
    parts : int
        At most; fewer where rows are alike.
    seed : int
        Of the starts, of which the best result is taken.

    Returns
    -------
    ndarray of int32, shape (row,)
        Number of the part.

    References
    ----------
    Arthur and Vassilvitskii 2007, k-means++: the advantages of careful seeding.

    Examples
    --------
    >>> part = split_rows(np.array([[0.0, 0.1, 9.0, 9.1]]), 2, seed=0)
    >>> bool(part[0] == part[1] != part[2] == part[3])
    True
    """
    rows = np.asarray(values, dtype=np.float64)
    spread = rows.std(axis=1)
    scaled = (rows / np.where(spread > 0, spread, 1)[:, None]).T
    parts = min(parts, len(np.unique(scaled, axis=0)))
    if parts < 2:
        return np.zeros(len(scaled), dtype=np.int32)
    best, least = np.zeros(len(scaled), dtype=np.int32), np.inf
    for start in range(_STARTS):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a part may end without rows
            centres, part = kmeans2(scaled, parts, minit="++", rng=np.random.default_rng([seed, start]))
        cost = float(((scaled - centres[part]) ** 2).sum())
        if cost < least:
            best, least = part, cost
    return best
