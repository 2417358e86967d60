"""Quantiles, kernel densities and distances of one weighted variable."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import gaussian_kde, wasserstein_distance

from engine.kernels.density import kernel_density, quantile_distance, silverman_bandwidth, weighted_quantiles

RNG = np.random.default_rng(4)
VALUES, WEIGHT = RNG.normal(3, 2, 400), RNG.uniform(0.5, 5, 400)


def test_quantiles_count_a_row_as_often_as_it_weighs():
    values, weight = np.array([4, 1, 3, 2]), np.array([1, 3, 2, 2])
    repeated = np.repeat(values, weight)
    shares = np.array([0.0, 0.1, 0.375, 0.4, 0.5, 0.9, 1.0])
    found = weighted_quantiles(values, weight, shares)
    assert found.tolist() == [1, 1, 1, 2, 2, 4, 4]
    assert found.tolist() == np.quantile(repeated, shares, method="inverted_cdf").tolist()


def test_quantiles_of_no_row_are_not_known():
    assert np.isnan(weighted_quantiles(np.array([]), np.array([]), np.array([0.5]))).all()


def test_the_bandwidth_is_silvermans_and_a_far_row_does_not_widen_it():
    values = np.arange(100.0)
    narrow = silverman_bandwidth(values, np.ones(100))
    assert narrow == pytest.approx(0.9 * min(values.std(), 50 / 1.34) * 100**-0.2)
    assert silverman_bandwidth(np.append(values, 1e6), np.ones(101)) == pytest.approx(narrow, rel=0.35)
    assert silverman_bandwidth(np.full(5, 7), np.ones(5)) == 0
    assert silverman_bandwidth(np.array([0, 0, 0, 0, 9]), np.ones(5)) > 0, "half of the rows are equal"


def test_rows_of_equal_weight_give_the_bandwidth_of_rows_that_weigh_one():
    assert silverman_bandwidth(VALUES, np.full(400, 7.0)) == pytest.approx(silverman_bandwidth(VALUES, np.ones(400)))


def test_a_density_is_that_of_scipy_at_the_same_bandwidth():
    points = np.linspace(-6, 12, 101)
    theirs = gaussian_kde(VALUES, weights=WEIGHT)
    bandwidth = float(np.sqrt(theirs.covariance[0, 0]))
    np.testing.assert_allclose(
        kernel_density(VALUES, WEIGHT, points, bandwidth), theirs(points), rtol=1e-12, atol=1e-15
    )


def test_a_density_has_the_integral_one_and_does_not_ask_for_an_order_of_rows():
    points = np.linspace(-20, 26, 2001)
    density = kernel_density(VALUES, WEIGHT, points, 0.4)
    assert np.trapezoid(density, points) == pytest.approx(1, abs=1e-9)
    np.testing.assert_allclose(kernel_density(VALUES[::-1], WEIGHT[::-1], points, 0.4), density, rtol=1e-12)


@pytest.mark.parametrize(("values", "bandwidth"), [([1.0], 0.0), ([1.0], np.nan), ([], 1.0)])
def test_no_density_without_rows_or_bandwidth(values, bandwidth):
    with pytest.raises(ValueError, match="bandwidth must be above 0 and there must be a row"):
        kernel_density(np.array(values), np.ones(len(values)), np.zeros(1), bandwidth)


def test_the_distance_of_quantiles_is_wassersteins():
    shares = (np.arange(2000) + 0.5) / 2000
    other = RNG.exponential(2, 300)
    found = quantile_distance(
        weighted_quantiles(VALUES, WEIGHT, shares), weighted_quantiles(other, np.ones(300), shares)
    )
    assert found == pytest.approx(wasserstein_distance(VALUES, other, WEIGHT), rel=0.01)
    moved = weighted_quantiles(VALUES + 1.5, WEIGHT, shares)
    assert quantile_distance(moved, weighted_quantiles(VALUES, WEIGHT, shares)) == pytest.approx(1.5)
