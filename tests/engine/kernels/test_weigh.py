"""Sums in whole units that no order changes; patches by area, the same in strips of any height."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import label

from engine.kernels.weigh import reach, sieve_by_area, weigh


def test_pixels_and_areas_are_counted_by_zone_and_code() -> None:
    codes = np.array([[3, 4, 3], [0, 3, 3]], dtype="uint8")
    zones = np.array([[0, 1, 2], [2, 2, 1]], dtype="uint16")
    areas = np.array([[1, 2, 4], [8, 16, 32]], dtype="int64")
    pixels, sums = weigh(codes, zones, areas, zone_count=3)
    assert pixels.shape == sums.shape == (4, 256)
    assert pixels[:, [0, 3, 4]].tolist() == [[0, 1, 0], [0, 1, 1], [1, 2, 0], [0, 0, 0]]
    assert sums[:, [0, 3, 4]].tolist() == [[0, 1, 0], [0, 32, 2], [8, 20, 0], [0, 0, 0]]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="codes must be uint8"):
        weigh(np.zeros((2, 2)), np.uint16([[0]]), np.int64([[1]]))
    with pytest.raises(ValueError, match="zones reach 2, beyond the 1"):
        weigh(np.zeros((2, 2), "uint8"), np.uint16([[2]]), np.int64([[1]]), zone_count=1)


def test_a_patch_counts_by_its_area_and_touches_at_corners() -> None:
    codes = np.array([[3, 0, 4, 4], [0, 3, 0, 0], [0, 0, 0, 3]], dtype="uint8")
    areas = np.array([[5], [6], [20]])
    expected = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]], dtype=bool)
    assert (sieve_by_area(codes, areas, 11) == expected).all()
    assert (sieve_by_area(codes, areas, 10) == (codes > 0)).all()
    assert (sieve_by_area(codes, areas, 0) == (codes > 0)).all()


def test_a_strip_reaches_as_far_as_small_pixels_make_it() -> None:
    smallest = np.array([1, 1, 1, 1, 4, 4, 4, 4])
    assert reach(smallest, slice(3, 5), 5) == slice(0, 6)  # rows 0-3 have 4: none beyond them; 4 and 5 have 8
    assert reach(smallest, slice(4, 5), 4) == slice(4, 5)  # one pixel is large already
    assert reach(smallest, slice(4, 5), 5) == slice(3, 6)
    assert reach(smallest, slice(4, 5), 0) == slice(4, 5)


def by_scipy(codes: np.ndarray, areas: np.ndarray, least: int) -> np.ndarray:
    large = np.zeros(codes.shape, bool)
    for code in (3, 4):
        labels, count = label(codes == code, structure=np.ones((3, 3)))
        for patch in range(1, count + 1):
            large |= (labels == patch) & (areas[labels == patch].sum() >= least)
    return large


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), least=st.integers(1, 80), height=st.integers(1, 25), share=st.floats(0.1, 0.6))
def test_strips_with_their_reach_sieve_as_the_whole_does(seed, least, height, share):
    rng = np.random.default_rng(seed)
    shape = (24, 17)
    codes = np.where(rng.random(shape) < share, rng.choice([3, 4], shape, p=[0.8, 0.2]), 0).astype("uint8")
    areas = rng.integers(0, 9, shape)
    whole = by_scipy(codes, areas, least)
    assert (sieve_by_area(codes, areas, least) == whole).all()
    for top in range(0, shape[0], height):
        strip = slice(top, min(top + height, shape[0]))
        seen = reach(areas.min(axis=1), strip, least)
        flags = sieve_by_area(codes[seen], areas[seen], least)[top - seen.start :][: strip.stop - top]
        assert (flags == whole[strip]).all()
