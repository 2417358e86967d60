"""The geometric median: answers worked by hand, then distance from a slow float64 reference on anything."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from engine.kernels.geomedian import LANES, TOLERANCE_DN, geomedian

ELSEWHERE = [5000, 5000, 5000, 5000]


def looks_of(plane: list[tuple[int, int]]) -> np.ndarray:
    """Return one pixel's looks that differ in two of six bands, so that tests compile the kernel of six alone."""
    return np.array([[*point, *ELSEWHERE] for point in plane], dtype="uint16").reshape(-1, 6, 1, 1)


def geomedian_of(plane: list[tuple[int, int]], dtype: type = np.float32) -> list[float]:
    return geomedian(looks_of(plane), np.ones((len(plane), 1, 1), dtype=bool), dtype)[:2, 0, 0].tolist()


def total_distance(points: np.ndarray, to: np.ndarray) -> float:
    return float(np.linalg.norm(points - to, axis=1).sum())


def converged(points: np.ndarray) -> np.ndarray:
    """Return the geometric median of points float64 (look, band): a look that is it, or what nothing improves."""
    for look in points:
        away = points[(points != look).any(axis=1)] - look
        pull = (away / np.linalg.norm(away, axis=1, keepdims=True)).sum(axis=0)
        if np.linalg.norm(pull) <= len(points) - len(away):
            return look
    best = points.mean(axis=0)
    for _ in range(500):
        away = points - best
        distance = np.maximum(np.linalg.norm(away, axis=1), 1e-9)
        pull, weight = (away / distance[:, None]).sum(axis=0), (1 / distance).sum()
        bend = weight * np.eye(points.shape[1]) - (away / distance[:, None] ** 3).T @ away
        steps = [pull / weight, np.linalg.lstsq(bend, pull, rcond=None)[0]]
        step = min(steps, key=lambda step: total_distance(points, best + step))
        best = best + step
        if np.linalg.norm(step) < 1e-9:
            break
    return best


def test_three_looks_at_equal_angles_meet_in_the_middle():
    x, y = geomedian_of([(1000, 1000), (3000, 1000), (2000, 60_000)])
    assert abs(x - 2000) <= TOLERANCE_DN
    assert abs(y - (1000 + 1000 / np.sqrt(3))) <= TOLERANCE_DN


def test_a_look_that_the_others_cannot_pull_away_is_the_answer():
    """At an angle of more than 120 degrees two unit vectors sum to less than one."""
    assert geomedian_of([(0, 0), (1000, 100), (2000, 0)]) == [1000, 100]
    assert geomedian_of([(0, 0), (65_535, 65_535), (40, 40), (40, 40), (40, 40)]) == [40, 40]


def test_the_middle_of_a_square_is_found_though_a_look_lies_next_to_it():
    assert geomedian_of([(0, 0), (0, 2000), (2000, 0), (2000, 2000)]) == pytest.approx([1000, 1000], abs=TOLERANCE_DN)
    off = geomedian_of([(0, 0), (0, 2000), (2000, 0), (2000, 2000), (1001, 1000)])
    assert off == [1001, 1000]


def test_a_look_that_is_almost_the_answer_does_not_hold_the_estimate():
    """A year of one real pixel: 31 DN from the first look, whose own pull is weaker than the others' by 0.004."""
    points = [
        [12576, 13408, 14880, 13712, 13840, 12864],
        [13488, 14560, 16512, 15456, 15616, 13488],
        [11616, 12240, 11232, 8416, 7792, 7728],
        [11728, 12096, 13312, 12128, 12480, 12000],
    ]
    bands = np.array(points, dtype="uint16").reshape(4, 6, 1, 1)
    found = geomedian(bands, np.ones((4, 1, 1), dtype=bool), np.float32).ravel()
    assert np.linalg.norm(found - converged(np.array(points, dtype=float))) <= TOLERANCE_DN
    assert np.linalg.norm(found - points[0]) == pytest.approx(31, abs=1)


def test_one_look_is_itself_and_two_give_their_mean():
    assert geomedian_of([(65_535, 0)], np.uint16) == [65_535, 0]
    assert geomedian_of([(10, 7), (13, 9)]) == [11.5, 8]
    assert geomedian_of([(10, 7), (13, 9)], np.uint16) == [12, 8]  # 11.5 rounded up
    assert geomedian_of([(65_535, 65_535)] * 9, np.uint16) == [65_535, 65_535]


def test_looks_on_one_line_give_what_lies_between_the_middle_two():
    assert geomedian_of([(100, 100), (900, 900), (400, 400)]) == [400, 400]
    x, y = geomedian_of([(100, 100), (200, 200), (300, 300), (60_000, 60_000)])
    assert x == y
    assert 200 <= x <= 300


def test_only_clear_looks_count_and_a_pixel_without_any_is_not_observed():
    bands = looks_of([(100, 100), (60_000, 1), (300, 500)]).repeat(2, axis=3)
    clear = np.array([[True, False], [False, False], [True, False]]).reshape(3, 1, 2)
    assert geomedian(bands, clear)[:2, 0].tolist() == [[200, 0], [300, 0]]
    assert np.isnan(geomedian(bands, clear, np.float32)[:, 0, 1]).all()


def realistic(looks: int, pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return looks of a dark surface, now and then under thin cloud, 45 % of them masked."""
    rng = np.random.default_rng(looks)
    surface = rng.normal([8500, 9300, 8700, 16_000, 12_500, 9800], 700, (pixels, 6))
    haze = rng.exponential(1500, (looks, pixels, 1)) * (rng.random((looks, pixels, 1)) < 0.3)
    bands = surface * rng.normal(1, 0.05, (looks, pixels, 1)) + rng.normal(0, 150, (looks, pixels, 6)) + haze
    return bands.transpose(0, 2, 1).astype("uint16").reshape(looks, 6, 1, -1), rng.random((looks, 1, pixels)) < 0.55


@pytest.mark.parametrize(("looks", "pixels"), [(6, 3 * LANES), (24, 2 * LANES + 7), (200, 9)])
def test_every_pixel_is_within_the_tolerance_of_the_converged_answer(looks, pixels):
    bands, clear = realistic(looks, pixels)
    found, rounded = geomedian(bands, clear, np.float32)[:, 0], geomedian(bands, clear)[:, 0]
    for pixel in range(pixels):
        points = bands[clear[:, 0, pixel], :, 0, pixel].astype(float)
        if len(points) > 2:
            assert np.linalg.norm(found[:, pixel] - converged(points)) <= TOLERANCE_DN
    assert (rounded == np.floor(np.nan_to_num(found) + np.float32(0.5))).all()


def test_neighbours_do_not_decide_a_value():
    """Blocks and threads put other pixels beside a pixel, which may need fewer or more steps, and other looks."""
    bands, clear = realistic(14, 5 * LANES)
    together = geomedian(bands, clear, np.float32)
    for first in (1, LANES - 3, 2 * LANES + 5):
        apart = geomedian(bands[..., first:], clear[..., first:], np.float32)
        assert np.array_equal(together[..., first:], apart, equal_nan=True)
    for pixel in range(0, 5 * LANES, 17):
        alone = geomedian(bands[..., pixel : pixel + 1], clear[..., pixel : pixel + 1], np.float32)
        assert np.array_equal(together[..., pixel : pixel + 1], alone, equal_nan=True)


@settings(max_examples=80, deadline=None)
@given(
    bands=hnp.arrays(
        "uint16",
        st.tuples(st.integers(1, 12), st.just(6), st.just(1), st.just(3)),
        elements=st.one_of(st.integers(0, 65_535), st.sampled_from([0, 7000, 7001, 9000, 65_535])),
    ),
    seed=st.integers(0, 2**16),
)
@example(bands=np.full((7, 6, 1, 3), 65_535, dtype="uint16"), seed=0)
def test_nothing_is_nearer_to_all_looks_on_anything(bands, seed):
    clear = np.random.default_rng(seed).random((bands.shape[0], 1, 3)) < 0.7
    found = geomedian(bands, clear, np.float32)[:, 0].astype(float)
    for pixel in range(3):
        points = bands[clear[:, 0, pixel], :, 0, pixel].astype(float)
        if len(points) == 0:
            assert np.isnan(found[:, pixel]).all()
            continue
        best = converged(points)
        # The total decides where several points are as good, and where the reference is what has not converged.
        near = np.linalg.norm(found[:, pixel] - best) <= TOLERANCE_DN
        assert near or total_distance(points, found[:, pixel]) <= total_distance(points, best) * (1 + 1e-9)


def test_reflectance_has_the_geometric_median_of_the_digital_numbers():
    points = realistic(12, 1)[0][:, :, 0, 0].astype(float)
    assert converged(points * 2.75e-5 - 0.2) == pytest.approx(converged(points) * 2.75e-5 - 0.2, abs=1e-6)


def test_wrong_types_are_refused():
    clear = np.zeros((1, 1, 1), dtype=bool)
    with pytest.raises(TypeError, match="uint16"):
        geomedian(np.zeros((1, 6, 1, 1)), clear)
    with pytest.raises(TypeError, match="shape"):
        geomedian(np.zeros((2, 6, 1, 1), "uint16"), clear)
    with pytest.raises(TypeError, match="float32, got"):
        geomedian(np.zeros((1, 6, 1, 1), "uint16"), clear, np.float64)
