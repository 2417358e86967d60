"""Tiles put in place: worked by hand, and against numpy's cumulative sums and indices."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from engine.kernels.tiles import gather, place, tiles_touched

TILE = np.array([[1, 2, 3, 4], [65535, 1, 1, 65535], [0, 0, 5, 0], [7, 65535, 0, 0], [9, 9, 9, 9]], dtype="uint16")
SUMS = [[1, 3, 6, 10], [65535, 0, 1, 0], [0, 0, 5, 5], [7, 6, 6, 6], [9, 18, 27, 36]]


def test_differences_are_summed_from_the_left_and_wrap():
    out = np.zeros((5, 4), dtype="uint16")
    place(TILE, (0, 0), out, differenced=True)
    assert out.tolist() == SUMS


def test_a_window_begins_at_its_corner():
    out = np.zeros((2, 2), dtype="uint16")
    place(TILE, (1, 1), out, differenced=True)
    assert out.tolist() == [[0, 1], [0, 5]]
    place(TILE, (1, 1), out, differenced=False)
    assert out.tolist() == [[1, 1], [0, 5]]


def test_a_view_is_written_into_and_nothing_beside_it():
    whole = np.full((4, 5), 7, dtype="uint16")
    place(TILE, (1, 1), whole[1:-1, 2:-1], differenced=True)
    assert whole.tolist() == [[7] * 5, [7, 7, 0, 1, 7], [7, 7, 0, 5, 7], [7] * 5]


def test_what_is_not_kept_stays():
    out = np.full((2, 3), 77, dtype="uint16")
    place(TILE, (0, 1), out, differenced=True, keep=np.array([[True, False, True], [False, True, False]]))
    assert out.tolist() == [[3, 77, 10], [77, 1, 77]]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_window_equals_numpys(data):
    dtype = data.draw(st.sampled_from(["uint8", "uint16"]))
    tile = data.draw(arrays(dtype, st.tuples(st.integers(1, 20), st.integers(1, 20))))
    height, width = (data.draw(st.integers(1, side)) for side in tile.shape)
    row, col = data.draw(st.integers(0, tile.shape[0] - height)), data.draw(st.integers(0, tile.shape[1] - width))
    differenced = data.draw(st.booleans())
    keep = data.draw(st.none() | arrays(bool, (height, width)))
    if dtype == "uint16":  # as a file without compression gives it: read-only, at an odd address
        tile = np.frombuffer(memoryview(b"x" + tile.tobytes())[1:], tile.dtype).reshape(tile.shape)
    whole = np.full((height + 2, width + 3), 7, dtype=dtype)
    wanted = None if keep is None else np.pad(keep, ((1, 1), (2, 1)), constant_values=True)
    window = slice(1, height + 1), slice(2, width + 2)
    place(tile, (row, col), whole, window, differenced=differenced, keep=wanted)
    values = (np.cumsum(tile, axis=1, dtype=dtype) if differenced else tile)[row : row + height, col : col + width]
    expected = np.full_like(whole, 7)
    expected[1:-1, 2:-1] = values if keep is None else np.where(keep, values, 7)
    assert np.array_equal(whole, expected), "and nothing beside the window"


@pytest.mark.parametrize(
    ("corner", "shape", "dtype", "keep"),
    [
        ((0, 1), (5, 4), "uint16", None),
        ((1, 0), (5, 4), "uint16", None),
        ((-1, 0), (2, 2), "uint16", None),
        ((0, 0), (6, 1), "uint16", None),
        ((0, 0), (2, 2), "uint8", None),
        ((0, 0), (2, 2), "uint16", np.ones((2, 3), bool)),
    ],
)
def test_a_window_that_does_not_fit_is_refused(corner, shape, dtype, keep):
    with pytest.raises(ValueError, match=r"does not fit a tile of \(5, 4\), or types differ"):
        place(TILE, corner, np.zeros(shape, dtype), differenced=False, keep=keep)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_pixels_are_gathered_and_their_tiles_flagged(data):
    window = data.draw(arrays("uint16", st.tuples(st.integers(1, 12), st.integers(1, 12))))
    top, left = data.draw(st.integers(0, 30)), data.draw(st.integers(0, 30))
    shape = data.draw(st.tuples(st.integers(1, 8), st.integers(1, 8)))
    rows = data.draw(arrays("int32", shape, elements=st.integers(-1, window.shape[0] - 1)))
    cols = data.draw(arrays("int32", shape, elements=st.integers(0, window.shape[1] - 1))) + np.int32(left)
    rows[rows >= 0] += top
    out = np.full(shape, 7, dtype="uint16")
    gather(window, (top, left), rows, cols, out)
    there = rows >= 0
    expected = np.full(shape, 7)
    expected[there] = window[rows[there] - top, cols[there] - left]
    assert np.array_equal(out, expected)

    tall, wide = data.draw(st.integers(1, 16)), data.draw(st.integers(1, 16))
    flags = np.zeros((43 // tall + 1, 43 // wide + 1), dtype=bool)
    flags[rows[there] // tall, cols[there] // wide] = True
    assert np.array_equal(tiles_touched(rows, cols, (tall, wide), flags.shape), flags)
