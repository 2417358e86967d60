"""Pixels to label: doubt, a weighted draw, and points unlike each other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy as scipy_entropy

from engine.kernels.suggest import choose_diverse, draw_keys, entropy, ground_distance


def test_entropy_is_that_of_scipy() -> None:
    codes = np.array([0, 1, 2500, 5000, 9999, 10000], dtype=np.uint16)
    p = codes / 10_000
    assert entropy(codes) == pytest.approx(scipy_entropy([p, 1 - p], base=2), abs=1e-6)
    with pytest.raises(ValueError, match="up to 10000"):
        entropy(np.array([65535], dtype=np.uint16))


def test_the_draw_takes_pixels_as_often_as_they_weigh() -> None:
    hashes = np.random.default_rng(1).integers(0, 2**64, (20_000, 3), dtype=np.uint64)
    keys = draw_keys(hashes.ravel(), np.tile([1.0, 2.0, 5.0], 20_000)).reshape(-1, 3)
    shares = np.bincount(keys.argmax(axis=1), minlength=3) / 20_000
    assert shares == pytest.approx([1 / 8, 2 / 8, 5 / 8], abs=0.012)
    assert np.isneginf(draw_keys(np.array([2**64 - 1, 0], dtype=np.uint64), np.zeros(2))).all()


def test_points_by_hand() -> None:
    # On a line of one feature, labelled at 0. Weight x distance: 1, 3, 3.6, 2; then with 6 taken: 1, 3, -, 2x1.
    features = np.array([[1], [3], [6], [5]], dtype=np.float32)
    weight = np.array([1, 1, 0.6, 0.4], dtype=np.float32)
    places = np.array([[0.0, 0], [1, 0], [2, 0], [3, 0]])
    labelled = np.zeros((1, 1), np.float32)
    chosen, distance = choose_diverse(features, weight, places, labelled, count=3, spacing_m=0)
    assert chosen.tolist() == [2, 1, 0]
    assert distance.tolist() == [6, 3, 1]
    # The second lies within the spacing of the first.
    places[1] = places[2] + [0.001, 0]
    chosen, _ = choose_diverse(features, weight, places, labelled, count=3, spacing_m=300)
    assert chosen.tolist() == [2, 0, 3]


def test_with_nothing_labelled_the_most_doubtful_comes_first() -> None:
    features, weight = np.array([[0], [9], [1]], np.float32), np.array([0.5, 0.2, 1], np.float32)
    places = np.array([[0.0, 0], [1, 0], [2, 0]])
    none = np.empty((0, 1), np.float32)
    chosen, distance = choose_diverse(features, weight, places, none, count=2, spacing_m=1)
    assert chosen.tolist() == [2, 1]
    assert np.isinf(distance[0])
    nothing = np.empty((0, 1), np.float32), np.empty(0, np.float32), np.empty((0, 2))
    assert choose_diverse(*nothing, none, count=2, spacing_m=1)[0].size == 0


def test_what_is_labelled_already_or_sure_is_not_suggested() -> None:
    features = np.array([[0.5], [0.7]], np.float32)
    places = np.array([[0.0, 0], [1, 0]])
    for weight, labelled in (([1, 1], features), ([0, 0], np.zeros((1, 1), np.float32))):
        chosen, _ = choose_diverse(features, np.array(weight, np.float32), places, labelled, count=2, spacing_m=0)
        assert chosen.size == 0


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.sampled_from([0, 5_000, 40_000]))
def test_points_keep_their_distance_and_a_shorter_list_begins_a_longer_one(seed: int, count: int, spacing: int) -> None:
    rng = np.random.default_rng(seed)
    features, weight = rng.random((60, 3), np.float32), rng.random(60, np.float32)
    places = np.column_stack([179.9 + rng.random(60) * 0.3, rng.random(60) * 0.3])
    places[:, 0] = (places[:, 0] + 180) % 360 - 180
    labelled = rng.random((7, 3), np.float32)
    chosen, _ = choose_diverse(features, weight, places, labelled, count=count, spacing_m=spacing)
    longer, _ = choose_diverse(features, weight, places, labelled, count=count + 5, spacing_m=spacing)
    assert longer[: chosen.size].tolist() == chosen.tolist()
    assert len(set(chosen.tolist())) == chosen.size <= count
    for index, one in enumerate(chosen):
        others = places[chosen[:index]]
        assert (ground_distance(others, places[one]) >= spacing).all()


def test_the_ground_is_measured_across_the_antimeridian() -> None:
    metres = ground_distance(np.array([[-179.99, 0.0], [179.99, 1.0]]), np.array([179.99, 0.0]))
    assert metres == pytest.approx([0.02 * 111_195, 111_195], rel=1e-4)
