"""Edits over classes: every pair of codes, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from engine.kernels.edits import apply_edits
from engine.legend import CLASSES, EDITS, OUTSIDE_AREA

CODES = [entry.code for entry in CLASSES]


def test_every_pair_of_codes_is_as_written_by_hand() -> None:
    classes = np.tile(np.array([0, 1, 2, 3, 255], dtype=np.uint8), (4, 1))
    edits = np.repeat(np.arange(4, dtype=np.uint8), 5).reshape(4, 5)
    assert apply_edits(classes, edits).tolist() == [
        [0, 1, 2, 3, 255],
        [2, 2, 2, 2, 255],
        [1, 1, 1, 3, 255],
        [0, 0, 0, 0, 255],
    ]


@given(
    arrays(np.uint8, (5, 4), elements=st.sampled_from(CODES)),
    arrays(np.uint8, (5, 4), elements=st.integers(0, len(EDITS) - 1)),
)
def test_an_edit_twice_is_an_edit_once_and_leaves_the_rest(classes: np.ndarray, edits: np.ndarray) -> None:
    before = classes.copy()
    once = apply_edits(classes, edits)
    assert np.array_equal(apply_edits(once, edits), once)
    assert np.array_equal(classes, before)
    untouched = (edits == 0) | (classes == OUTSIDE_AREA)
    assert np.array_equal(once[untouched], classes[untouched])


def test_other_arrays_are_refused() -> None:
    codes = np.zeros((2, 2), np.uint8)
    with pytest.raises(ValueError, match="one shape"):
        apply_edits(codes, codes[:1])
    with pytest.raises(ValueError, match="one shape"):
        apply_edits(codes.astype(np.int16), codes)
    with pytest.raises(ValueError, match="holds code 4"):
        apply_edits(codes, codes + np.uint8(4))
