"""Moments of weighted rows, and distances of two classes."""

from __future__ import annotations

import numpy as np
import pytest

from engine.kernels.separability import bhattacharyya, jeffries_matusita, matusita_of_densities, weighted_moments

ONE = np.eye(1)


def normal(points: np.ndarray, mean: float, deviation: float) -> np.ndarray:
    return np.exp(-0.5 * ((points - mean) / deviation) ** 2) / (deviation * np.sqrt(2 * np.pi))


def test_moments_are_those_of_rows_repeated_as_often_as_they_weigh():
    values, weight = np.random.default_rng(0).integers(0, 90, (3, 12)), np.arange(1, 13)
    mean, covariance = weighted_moments(values, weight)
    repeated = np.repeat(values, weight, axis=1)
    np.testing.assert_allclose(mean, repeated.mean(axis=1))
    np.testing.assert_allclose(covariance, np.cov(repeated, bias=True))


def test_means_two_deviations_apart_are_half_a_unit_of_bhattacharyya():
    assert bhattacharyya(np.zeros(1), ONE, np.array([2.0]), ONE) == 0.5  # 2**2 / 8
    assert jeffries_matusita(np.zeros(1), ONE, np.array([2.0]), ONE) == pytest.approx(2 * (1 - np.exp(-0.5)))


def test_equal_means_of_unequal_spread_are_told_apart():
    # ln((1 + 9) / 2 / sqrt(9)) / 2 = ln(5 / 3) / 2, so the distance is 2 (1 - sqrt(3 / 5))
    assert jeffries_matusita(np.zeros(1), ONE, np.zeros(1), 9 * ONE) == pytest.approx(2 * (1 - np.sqrt(0.6)))


def test_the_distance_is_0_of_the_same_and_2_of_those_far_apart_and_symmetric():
    a, b = np.array([1.0, 2.0]), np.array([[2.0, 0.5], [0.5, 1.0]])
    assert jeffries_matusita(a, b, a, b) == 0
    assert jeffries_matusita(a, b, a + 1e4, b) == 2
    there, back = jeffries_matusita(a, b, a + 1, 3 * b), jeffries_matusita(a + 1, 3 * b, a, b)
    assert there == pytest.approx(back)


def test_units_do_not_matter():
    a, b, scale = np.array([1.0, 2.0]), np.array([[2.0, 0.5], [0.5, 1.0]]), np.array([1e4, 3.0])
    mine = bhattacharyya(a, b, a + 1, 2 * b)
    scaled = bhattacharyya(a * scale, b * np.outer(scale, scale), (a + 1) * scale, 2 * b * np.outer(scale, scale))
    assert scaled == pytest.approx(mine)


def test_a_class_without_spread_is_refused():
    with pytest.raises(ValueError, match="positive definite"):
        bhattacharyya(np.zeros(2), np.zeros((2, 2)), np.ones(2), np.eye(2))


def test_densities_of_normal_classes_give_the_formula_of_normal_classes():
    points = np.linspace(-30, 30, 6001)
    found = matusita_of_densities(normal(points, 0, 1), normal(points, 1, 2), points)
    assert found == pytest.approx(jeffries_matusita(np.zeros(1), ONE, np.ones(1), 4 * ONE), abs=1e-6)


def test_densities_side_by_side_are_2_apart_though_their_means_agree():
    points = np.linspace(0, 9, 9001)
    middle = ((points > 4) & (points < 5)).astype(float)
    outside = ((points < 1) | (points > 8)).astype(float)
    assert matusita_of_densities(middle, outside, points) == pytest.approx(2)
    assert matusita_of_densities(middle, 3 * middle, points) == pytest.approx(0), "what a density sums to is left out"
