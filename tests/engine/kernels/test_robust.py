"""The bulk of a class, and distances from it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chi2
from sklearn.covariance import MinCovDet

from engine.kernels.robust import Bulk, fit_bulk, split_rows, squared_distance, weighted_mad

MEAN, COVARIANCE = np.array([10.0, -5.0, 3.0]), np.array([[4.0, 1.5, 0.0], [1.5, 2.0, 0.3], [0.0, 0.3, 9.0]])


def rows(count: int, wrong: float, seed: int = 0) -> np.ndarray:
    """Return normal rows (feature, row), a share of them far off."""
    rng = np.random.default_rng(seed)
    drawn = rng.multivariate_normal(MEAN, COVARIANCE, count)
    drawn[: int(wrong * count)] = rng.normal([60, 60, -60], 1, (int(wrong * count), 3))
    return drawn.T


def test_the_median_absolute_deviation_counts_a_row_as_often_as_it_weighs():
    values, weight = np.array([1, 2, 4, 90]), np.array([2, 3, 1, 1])
    repeated = np.repeat(values, weight)  # 1 1 2 2 2 4 90: deviations from 2 are 1 1 0 0 0 2 88
    middle, spread = weighted_mad(values, weight)
    assert middle == np.median(repeated) == 2
    assert spread == pytest.approx(1.4826 * np.median(abs(repeated - 2)), rel=1e-5)


def test_a_quarter_of_errors_moves_neither_centre_nor_spread():
    bulk = fit_bulk(rows(4000, 0.25), np.ones(4000), unit=1e-3)
    np.testing.assert_allclose(bulk.mean, MEAN, atol=0.15)
    theirs = MinCovDet(random_state=0).fit(rows(1000, 0.25).T)
    np.testing.assert_allclose(fit_bulk(rows(1000, 0.25), np.ones(1000)).mean, theirs.location_, atol=0.2)
    correlation = bulk.covariance / np.sqrt(np.outer(np.diag(bulk.covariance), np.diag(bulk.covariance)))
    np.testing.assert_allclose(correlation[0, 1], 1.5 / np.sqrt(8), atol=0.1)
    # Only the inner 90 % are kept, so the covariance is somewhat small, of all features alike.
    ratio = np.diag(bulk.covariance) / np.diag(COVARIANCE)
    assert (ratio > 0.6).all()
    assert (ratio < 1.3).all()


def test_distances_of_right_rows_are_chi_square_and_of_wrong_rows_far_beyond():
    values = rows(4000, 0.2, seed=3)
    distance = squared_distance(values, fit_bulk(values, np.ones(4000), unit=1e-3))
    limit = chi2.ppf(0.975, 3)
    assert (distance[:800] > 100 * limit).all()
    assert (distance[800:] > limit).mean() < 0.08


def test_a_row_that_weighs_nothing_counts_for_nothing():
    values, weight = rows(2000, 0.6), np.ones(2000)
    weight[:1200] = 0
    np.testing.assert_allclose(fit_bulk(values, weight, unit=1e-3).mean, MEAN, atol=0.3)


def test_a_constant_feature_varies_by_what_it_is_rounded_to():
    values = np.stack([np.arange(50.0), np.full(50, 7.0)])
    bulk = fit_bulk(values, np.ones(50))
    assert bulk.mean[1] == pytest.approx(7)
    assert bulk.covariance[1, 1] == pytest.approx(1 / 12)
    assert squared_distance(np.array([[24.0], [107.0]]), bulk)[0] > 1000


def test_equal_rows_are_a_bulk_too():
    bulk = fit_bulk(np.full((2, 9), 5), np.ones(9))
    assert np.isfinite(squared_distance(np.array([[5.0], [6.0]]), bulk)).all()


def test_the_distance_is_mahalanobis():
    bulk = Bulk(MEAN, COVARIANCE)
    away = np.array([1.0, -2.0, 0.5])
    expected = away @ np.linalg.inv(COVARIANCE) @ away
    assert squared_distance((MEAN + away)[:, None], bulk)[0] == pytest.approx(expected)


def test_rows_are_split_where_they_lie_apart_whatever_the_unit_and_the_same_each_time():
    rng = np.random.default_rng(2)
    group = np.repeat([0, 1, 2], 50)
    values = np.stack([1000 * group + rng.normal(0, 30, 150), (group == 1) + rng.normal(0, 0.05, 150)])
    part = split_rows(values, 3, seed=5)
    assert [len(set(part[group == number])) for number in range(3)] == [1, 1, 1]
    assert len(set(part)) == 3
    np.testing.assert_array_equal(part, split_rows(values, 3, seed=5))


def test_there_are_no_more_parts_than_unlike_rows():
    assert set(split_rows(np.full((2, 8), 3.0), 4, seed=0)) == {0}
    assert len(set(split_rows(np.array([[1.0, 1.0, 9.0]]), 4, seed=0))) == 2
