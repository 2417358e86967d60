"""Distributions of one weighted variable: quantiles, kernel density, and how far two lie apart.

Weights say how many pixels a row stands for, so a curve describes the land and not the draw.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit

_REACH: Final = 8.5
"""Bandwidths beyond which a Gaussian adds less than the last digit of a float64: exp(-8.5**2 / 2) = 2e-16."""


def weighted_quantiles(values: np.ndarray, weight: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return the least values below or at which given shares of the weight lie.

    Parameters
    ----------
    values : ndarray of float or int, shape (row,)
    weight : ndarray of float or int, shape (row,)
        Not negative, not all 0.
    shares : ndarray of float, shape (quantile,)
        0..1.

    Returns
    -------
    ndarray of float64, shape (quantile,)
        In the unit of ``values``; nan where there is no row.

    Examples
    --------
    >>> weighted_quantiles(np.array([30, 10, 20]), np.array([1, 2, 1]), np.array([0.25, 0.5, 0.75, 1]))
    array([10., 10., 20., 30.])
    """
    if len(values) == 0:
        return np.full(len(shares), np.nan)
    order = np.argsort(values, kind="stable")
    below = np.cumsum(np.asarray(weight, dtype=np.float64)[order])
    place = np.searchsorted(below, np.asarray(shares) * below[-1])
    return np.asarray(values, dtype=np.float64)[order][np.minimum(place, len(values) - 1)]


def silverman_bandwidth(values: np.ndarray, weight: np.ndarray) -> float:
    """Return the bandwidth of a Gaussian kernel by Silverman's rule, which heavy tails and skew do not widen.

    ``0.9 min(s, IQR / 1.34) n**-0.2`` with the weighted standard deviation s and the effective number of rows
    ``n = sum(w)**2 / sum(w**2)``; s alone where half of the rows are equal.

    Parameters
    ----------
    values : ndarray of float or int, shape (row,)
    weight : ndarray of float or int, shape (row,)
        Not negative, not all 0.

    Returns
    -------
    float
        In the unit of ``values``; 0 where all rows are equal.

    References
    ----------
    Silverman 1986, Density Estimation for Statistics and Data Analysis, eq. 3.31; effective number of rows: Kish 1965,
    Survey Sampling.

    Examples
    --------
    >>> round(silverman_bandwidth(np.array([-1.0, 1.0, -1.0, 1.0]), np.ones(4)), 4)  # s = 1 < IQR / 1.34
    0.6821
    """
    mass = np.asarray(weight, dtype=np.float64)
    spread = float(np.sqrt(np.average((values - np.average(values, weights=mass)) ** 2, weights=mass)))
    low, high = weighted_quantiles(values, mass, np.array([0.25, 0.75]))
    if high > low:
        spread = min(spread, (high - low) / 1.34)
    effective = mass.sum() ** 2 / (mass**2).sum()
    return 0.9 * spread * float(effective**-0.2)


def kernel_density(values: np.ndarray, weight: np.ndarray, points: np.ndarray, bandwidth: float) -> np.ndarray:
    """Estimate the density of a weighted variable by a Gaussian kernel.

    Parameters
    ----------
    values : ndarray of float or int, shape (row,)
    weight : ndarray of float or int, shape (row,)
        Not negative, not all 0.
    points : ndarray of float, shape (point,)
        Where to evaluate, rising.
    bandwidth : float
        Standard deviation of the kernel, in the unit of ``values``, above 0.

    Returns
    -------
    ndarray of float64, shape (point,)
        Per unit of ``values``; its integral over all numbers is 1.

    Raises
    ------
    ValueError
        If ``bandwidth`` is not above 0 or there is no row.

    Examples
    --------
    >>> kernel_density(np.array([0.0]), np.ones(1), np.array([0.0, 1.0]), 1.0).round(4)  # the normal density
    array([0.3989, 0.242 ])
    """
    if not bandwidth > 0 or len(values) == 0:
        raise ValueError(f"bandwidth must be above 0 and there must be a row, got {bandwidth} and {len(values)} rows")
    mass = np.asarray(weight, dtype=np.float64)
    density = np.zeros(len(points))
    _add_kernels(
        np.asarray(values, dtype=np.float64), mass, np.asarray(points, dtype=np.float64), float(bandwidth), density
    )
    return density / (mass.sum() * bandwidth * np.sqrt(2 * np.pi))


@njit(cache=True, nogil=True)
def _add_kernels(values, mass, points, bandwidth, density):
    for row in range(values.size):
        first = np.searchsorted(points, values[row] - _REACH * bandwidth)
        last = np.searchsorted(points, values[row] + _REACH * bandwidth)
        for point in range(first, last):
            away = (points[point] - values[row]) / bandwidth
            density[point] += mass[row] * np.exp(-0.5 * away * away)


def quantile_distance(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the Wasserstein-1 distance of distributions given by their quantiles at evenly spread shares.

    In one dimension it is the mean distance between equal quantiles: how far the weight of one must be carried
    to make the other. It is symmetric and obeys the triangle inequality.

    Parameters
    ----------
    first, second : ndarray of float, shape (..., quantile)
        Quantiles at the shares (i + .5) / n.

    Returns
    -------
    ndarray of float64, shape (...)
        In the unit of the quantiles.

    References
    ----------
    Vallender 1974, Calculation of the Wasserstein distance between probability distributions on the line,
    doi 10.1137/1118101.

    Examples
    --------
    >>> quantile_distance(np.array([0.0, 1.0, 2.0]), np.array([1.0, 2.0, 6.0]))
    np.float64(2.0)
    """
    return np.abs(np.asarray(first) - np.asarray(second)).mean(axis=-1)
