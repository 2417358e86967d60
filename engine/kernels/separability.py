"""How well two classes can be told apart, by their means and covariances or by their densities."""

from __future__ import annotations

import numpy as np


def weighted_moments(values: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and covariance of weighted rows.

    Parameters
    ----------
    values : ndarray of float or int, shape (feature, row)
    weight : ndarray of float or int, shape (row,)
        Not negative, not all 0.

    Returns
    -------
    ndarray of float64, shape (feature,)
        Mean.
    ndarray of float64, shape (feature, feature)
        Covariance of the land that the rows stand for: divided by the sum of weights.

    Examples
    --------
    >>> mean, covariance = weighted_moments(np.array([[0, 4], [1, 1]]), np.array([3, 1]))
    >>> mean, covariance.tolist()
    (array([1., 1.]), [[3.0, 0.0], [0.0, 0.0]])
    """
    mass = np.asarray(weight, dtype=np.float64)
    mean = (values * mass).sum(axis=1) / mass.sum()
    away = values - mean[:, None]
    # Not a product of BLAS, whose last digits depend on the number of its threads.
    return mean, np.einsum("ir,jr->ij", away * mass, away) / mass.sum()


def bhattacharyya(mean_a: np.ndarray, cov_a: np.ndarray, mean_b: np.ndarray, cov_b: np.ndarray) -> float:
    """Return the Bhattacharyya distance of two normal distributions.

    ``(a - b)' S^-1 (a - b) / 8 + ln(|S| / sqrt(|A| |B|)) / 2`` with ``S = (A + B) / 2``.

    Parameters
    ----------
    mean_a, mean_b : ndarray of float, shape (feature,)
    cov_a, cov_b : ndarray of float, shape (feature, feature)
        Positive definite.

    Returns
    -------
    float
        0 for equal distributions, without upper limit.

    Raises
    ------
    ValueError
        If a covariance is not positive definite.

    References
    ----------
    Kailath 1967, The divergence and Bhattacharyya distance measures in signal selection, doi 10.1109/TCOM.1967.1089532.

    Examples
    --------
    >>> one = np.eye(1)
    >>> bhattacharyya(np.array([0.0]), one, np.array([2.0]), one)
    0.5
    """
    middle = (cov_a + cov_b) / 2
    signs, logs = np.linalg.slogdet(np.stack([middle, cov_a, cov_b]))
    if (signs <= 0).any() or not np.isfinite(logs).all():
        raise ValueError("covariances must be positive definite")
    away = mean_a - mean_b
    return float(away @ np.linalg.solve(middle, away) / 8 + (logs[0] - (logs[1] + logs[2]) / 2) / 2)


def jeffries_matusita(mean_a: np.ndarray, cov_a: np.ndarray, mean_b: np.ndarray, cov_b: np.ndarray) -> float:
    """Return the Jeffries-Matusita distance of two normal distributions, ``2 (1 - exp(-B))``.

    B is the distance of ``bhattacharyya``, whose arguments these are.

    Returns
    -------
    float
        0 (the same) to 2 (no overlap); above 1.9 is commonly called well separable.

    References
    ----------
    Swain and Davis 1978, Remote Sensing: The Quantitative Approach (there the root of this); Richards 2013, Remote
    Sensing Digital Image Analysis, 5th ed., chapter 10.

    Examples
    --------
    >>> one = np.eye(1)
    >>> round(jeffries_matusita(np.array([0.0]), one, np.array([2.0]), one), 4)  # 2 (1 - exp(-1/2))
    0.7869
    """
    return 2 * -float(np.expm1(-max(bhattacharyya(mean_a, cov_a, mean_b, cov_b), 0.0)))


def matusita_of_densities(first: np.ndarray, second: np.ndarray, points: np.ndarray) -> float:
    """Return the Jeffries-Matusita distance of two densities of any shape, ``2 (1 - integral sqrt(p q))``.

    Parameters
    ----------
    first, second : ndarray of float, shape (point,)
        Densities at ``points``; what lies outside is left out of both.
    points : ndarray of float, shape (point,)
        Rising.

    Returns
    -------
    float
        0 (the same) to 2 (no overlap).

    References
    ----------
    Matusita 1955, Decision rules, based on the distance, for problems of fit, doi 10.1214/aoms/1177728422.

    Examples
    --------
    >>> matusita_of_densities(np.array([1.0, 1.0]), np.array([1.0, 1.0]), np.array([0.0, 1.0]))
    0.0
    """
    overlap = np.trapezoid(np.sqrt(first * second), points)
    whole = np.sqrt(np.trapezoid(first, points) * np.trapezoid(second, points))
    return float(np.clip(2 - 2 * overlap / whole, 0, 2))
