"""Means over windows: by hand, and against scipy where some pixels are not observed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy.ndimage import convolve

from engine.kernels.context import focal_means, within_reach

HIGHEST = 65_535


def test_means_of_nine_pixels_by_hand():
    """Only the observed count, the window ends with the array, and halves are rounded up."""
    dn = np.array([[1, 2, 9], [4, 0, 8], [6, 5, 7]], "uint16")
    means = focal_means(dn[np.newaxis], 1)
    assert means.dtype == np.uint16
    # (1 + 2 + 4) / 3 = 2.33; (1 + 2 + 9 + 4 + 8) / 5 = 4.8; 19 / 3 = 6.33; 18 / 5 = 3.6; ...; 20 / 3 = 6.67
    assert means[0].tolist() == [[2, 5, 6], [4, 0, 6], [5, 6, 7]]
    assert focal_means(np.array([[[1, 2]]], "uint16"), 1).tolist() == [[[2, 2]]], "1.5"


def test_the_window_reaches_two_pixels():
    dn = np.full((1, 9, 9), 100, "uint16")
    dn[0, 4, 4] = 125
    assert np.array_equal(focal_means(dn)[0] == 101, np.pad(np.ones((5, 5), bool), 2))


def test_bands_do_not_mix_and_what_was_never_observed_stays_so():
    composite = np.zeros((2, 3, 3), "uint16")
    composite[1, 1, 1] = 7
    assert np.array_equal(focal_means(composite), composite)
    assert focal_means(np.zeros((6, 0, 4), "uint16")).shape == (6, 0, 4)


@settings(max_examples=60, deadline=None)
@given(
    npst.arrays(
        "uint16",
        st.tuples(st.integers(1, 2), st.integers(1, 12), st.integers(1, 12)),
        elements=st.just(0) | st.integers(1, 3) | st.integers(HIGHEST - 2, HIGHEST),
    ),
    st.integers(0, 6),
)
def test_means_agree_with_scipy_whatever_is_not_observed(composite, radius):
    window = np.ones((2 * radius + 1,) * 2, "int64")
    for dn, means in zip(composite, focal_means(composite, radius), strict=True):
        total = convolve(dn.astype("int64"), window, mode="constant")
        number = convolve((dn != 0).astype("int64"), window, mode="constant")
        expected = (2 * total + number) // np.maximum(2 * number, 1)
        assert np.array_equal(means, np.where(dn != 0, expected, 0))


def test_the_largest_window_of_the_largest_numbers_does_not_overflow():
    assert (focal_means(np.full((1, 255, 255), HIGHEST, "uint16"), 127) == HIGHEST).all()


@pytest.mark.parametrize("rows", [1, 3, 7])
def test_blocks_with_a_halo_give_the_means_of_the_whole(rows):
    composite = np.random.default_rng(3).integers(0, 4, (6, 20, 11)).astype("uint16")
    padded = np.pad(composite, ((0, 0), (2, 2), (2, 2)))
    blocks = [focal_means(padded[:, top : min(top + rows, 20) + 4])[:, 2:-2, 2:-2] for top in range(0, 20, rows)]
    assert np.array_equal(np.concatenate(blocks, axis=1), focal_means(composite))


def test_arrays_of_other_kinds_and_radii_out_of_range_are_refused():
    with pytest.raises(TypeError, match=r"composite must be uint16 \(band, y, x\), got int32"):
        focal_means(np.zeros((6, 2, 2), "int32"))
    with pytest.raises(TypeError, match=r"got uint16 \(2, 2\)"):
        focal_means(np.zeros((2, 2), "uint16"))
    for radius in (-1, 128):
        with pytest.raises(ValueError, match=f"radius must be 0 to 127 pixels, got {radius}"):
            focal_means(np.zeros((6, 2, 2), "uint16"), radius)


def test_all_pixels_of_the_windows_round_some_are_flagged():
    pixels = np.zeros((7, 8), bool)
    pixels[0, 0] = pixels[6, 5] = True
    expected = np.zeros((7, 8), bool)
    expected[:3, :3] = expected[4:, 3:] = True
    assert np.array_equal(within_reach(pixels), expected)
