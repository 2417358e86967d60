from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.kernels.draw import pixel_hash, smallest, with_probability


def _square(seed: int, zone: int, row: int, col: int, side: int) -> np.ndarray:
    return pixel_hash(seed, zone, np.arange(row, row + side)[:, None], np.arange(col, col + side))


def test_a_pixel_has_the_same_number_through_any_window():
    whole = _square(7, 48, -100, 200, 64)
    assert np.array_equal(whole[10:40, 20:50], _square(7, 48, -90, 220, 30)[:30, :30])


def test_no_two_pixels_share_a_number():
    numbers = np.concatenate([_square(3, zone, -256, -256, 512).ravel() for zone in (1, 17, 60)])
    assert np.unique(numbers).size == numbers.size


def test_seed_and_zone_change_every_number():
    base = _square(1, 48, 0, 0, 64)
    assert not np.any(base == _square(2, 48, 0, 0, 64))
    assert not np.any(base == _square(1, 49, 0, 0, 64))


def test_numbers_look_uniform_and_neighbours_unrelated():
    unit = _square(11, 48, -35000, 16000, 512) / 2.0**64
    counts, _ = np.histogram(unit, bins=64, range=(0, 1))
    expected = unit.size / 64
    chi2 = ((counts - expected) ** 2 / expected).sum()
    assert 30 < chi2 < 110  # 63 degrees of freedom: beyond either end less than once in a thousand
    for first, second in ((unit[:, 1:], unit[:, :-1]), (unit[1:], unit[:-1])):
        assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.01
    # Nor are two seeds: their smallest thousand hardly meet.
    other = _square(12, 48, -35000, 16000, 512)
    shared = np.intersect1d(smallest(unit.ravel(), 1000), smallest(other.ravel(), 1000))
    assert shared.size < 20


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**63 - 1),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    block=st.integers(1, 45),
    n=st.integers(0, 200),
    shuffle=st.randoms(use_true_random=False),
)
def test_blocks_drawn_and_merged_in_any_order_equal_the_whole(seed, height, width, block, n, shuffle):
    rows, cols = np.arange(-5, height - 5)[:, None], np.arange(3, width + 3)
    hashes = pixel_hash(seed, 60, rows, cols)
    whole = hashes.ravel()[smallest(hashes.ravel(), n)]
    parts = [
        hashes[top : top + block, left : left + block].ravel()
        for top in range(0, height, block)
        for left in range(0, width, block)
    ]
    shuffle.shuffle(parts)
    merged = np.empty(0, dtype="uint64")
    for part in parts:
        merged = np.concatenate([merged, part[smallest(part, n)]])
        merged = merged[smallest(merged, n)]
    assert np.array_equal(merged, whole)


def test_with_probability_takes_all_none_and_about_its_share():
    hashes = _square(5, 10, 0, 0, 300).ravel()
    assert with_probability(hashes, 1).all()
    assert not with_probability(hashes, 0).any()
    assert abs(with_probability(hashes, 0.1).mean() - 0.1) < 0.005


@pytest.mark.parametrize(("seed", "zone", "row"), [(-1, 48, 0), (2**63, 48, 0), (1, 0, 0), (1, 61, 0), (1, 5, 2**27)])
def test_numbers_out_of_range_are_refused(seed, zone, row):
    with pytest.raises(ValueError, match="must"):
        pixel_hash(seed, zone, np.array([row]), np.array([0]))


def test_negative_counts_and_odd_probabilities_are_refused():
    with pytest.raises(ValueError, match="got -1"):
        smallest(np.zeros(3, "uint64"), -1)
    with pytest.raises(ValueError, match=r"got 1\.5"):
        with_probability(np.zeros(3, "uint64"), 1.5)
