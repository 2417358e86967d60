from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from engine.kernels.labels import erode_edges, first_known, mask_codes, stable_labels, within_distance
from engine.legend import LABEL_UNKNOWN


def test_codes_keep_unknown_values_and_everything_outside_the_extent_unknown():
    values = np.array([[0, 95, 255], [10, 95, 95]], dtype="uint8")
    known = np.array([[True, True, True], [True, True, False]])
    codes = mask_codes(values, known, [95], unknown=[0, 255])
    assert codes.tolist() == [[0, 2, 0], [1, 2, 0]]


def test_a_mask_of_presence_only_knows_nothing_where_it_has_no_mangrove():
    codes = mask_codes(np.array([[0, 1]]), np.ones((1, 2), bool), [1], background=LABEL_UNKNOWN)
    assert codes.tolist() == [[0, 2]]


def test_nan_is_unknown():
    assert mask_codes(np.array([[np.nan, 1.0]]), np.ones((1, 2), bool), [1]).tolist() == [[0, 2]]


def test_the_first_layer_that_knows_wins_also_against_mangrove():
    first = np.array([[0, 1, 2]], "uint8")
    second = np.array([[1, 2, 1]], "uint8")
    assert first_known([first, second]).tolist() == [[1, 1, 2]]
    assert first.tolist() == [[0, 1, 2]]


def test_stable_labels_drop_what_changed_or_is_unknown_in_one_year():
    first = np.array([1, 1, 2, 2, 0, 0], "uint8")
    second = np.array([1, 2, 2, 1, 2, 0], "uint8")
    assert stable_labels(first, second).tolist() == [1, 0, 2, 0, 0, 0]


def test_erosion_takes_both_sides_of_an_edge_diagonals_too_but_not_at_unknown():
    labels = np.ones((5, 5), "uint8")
    labels[2, 2] = 2
    labels[0, 4] = 0
    expected = np.ones((5, 5), bool)
    expected[1:4, 1:4] = False
    expected[0, 4] = False
    assert np.array_equal(erode_edges(labels, 1), expected)
    assert erode_edges(labels, 2).sum() == 0
    assert np.array_equal(erode_edges(labels, 0), labels > 0)


@settings(max_examples=40, deadline=None)
@given(arrays.arrays("uint8", (7, 8), elements=st.integers(0, 2)), st.integers(0, 3))
def test_erosion_equals_looking_at_every_neighbour(labels, pixels):
    expected = np.zeros(labels.shape, bool)
    for y, x in np.argwhere(labels > 0):
        near = labels[max(0, y - pixels) : y + pixels + 1, max(0, x - pixels) : x + pixels + 1]
        expected[y, x] = not np.any((near > 0) & (near != labels[y, x]))
    assert np.array_equal(erode_edges(labels, pixels), expected)


def test_distance_is_euclidean_between_centres():
    target = np.zeros((5, 5), bool)
    target[0, 0] = True
    inside = within_distance(target, 5)
    assert inside[3, 4]  # 3-4-5
    assert not within_distance(target, 4.99)[3, 4]
    assert np.array_equal(within_distance(target, 0), target)
    assert not within_distance(np.zeros((3, 3), bool), 99).any()


def test_wrong_types_and_shapes_are_refused():
    with pytest.raises(TypeError, match="uint8 label codes, got int64"):
        erode_edges(np.zeros((2, 2), "int64"), 1)
    with pytest.raises(ValueError, match="got -1"):
        erode_edges(np.zeros((2, 2), "uint8"), -1)
    with pytest.raises(ValueError, match="shape"):
        mask_codes(np.zeros((2, 2)), np.ones((1, 2), bool), [1])
    with pytest.raises(ValueError, match="empty"):
        first_known([])
