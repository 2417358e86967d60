"""What changed, what stayed, and what nobody saw."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from engine.kernels.compare import tally, transitions
from engine.legend import CLASSES, TRANSITIONS

CODES = [entry.code for entry in CLASSES]
class_maps = arrays("uint8", (4, 5), elements=st.sampled_from(CODES))


def test_every_pair_of_classes_has_the_transition_written_here_by_hand():
    by_hand = {  # rows: before; columns: after 0, 1, 2, 3, 255
        0: [0, 0, 0, 0, 255],
        1: [0, 1, 4, 5, 255],
        2: [0, 3, 2, 5, 255],
        3: [0, 5, 5, 5, 255],
        255: [255, 255, 255, 255, 255],
    }
    before = np.repeat(np.array(CODES, dtype="uint8")[:, None], 5, axis=1)
    after = np.repeat(np.array(CODES, dtype="uint8")[None, :], 5, axis=0)
    assert transitions(before, after).tolist() == [by_hand[code] for code in CODES]


@given(class_maps, class_maps)
def test_what_was_never_observed_is_neither_loss_nor_gain(before, after):
    codes = transitions(before, after)
    undecided = ~np.isin(before, [1, 2]) | ~np.isin(after, [1, 2])
    assert not np.isin(codes[undecided], [1, 2, 3, 4]).any()
    assert np.isin(codes[~undecided], [1, 2, 3, 4]).all()
    assert np.isin(codes, [entry.code for entry in TRANSITIONS]).all()


@given(class_maps, class_maps)
def test_time_backwards_turns_loss_into_gain_and_changes_nothing_else(before, after):
    swap = np.arange(256, dtype="uint8")
    swap[[3, 4]] = 4, 3
    assert np.array_equal(transitions(after, before), swap[transitions(before, after)])


@given(class_maps)
def test_a_map_against_itself_has_no_change(classes):
    assert not np.isin(transitions(classes, classes), [3, 4]).any()


def test_transitions_refuses_a_code_that_is_no_class():
    good, bad = np.array([1, 2], dtype="uint8"), np.array([1, 7], dtype="uint8")
    with pytest.raises(ValueError, match="codes that are no class: 7"):
        transitions(good, bad)
    with pytest.raises(ValueError, match="no class: 7"):
        transitions(bad, np.array([0, 0], dtype="uint8"))


def test_transitions_refuses_maps_of_two_grids_or_of_probabilities():
    with pytest.raises(ValueError, match=r"got shapes \(2, 2\) and \(2, 3\)"):
        transitions(np.zeros((2, 2), "uint8"), np.zeros((2, 3), "uint8"))
    with pytest.raises(TypeError, match="after must be uint8 class codes, got uint16"):
        transitions(np.zeros((2, 2), "uint8"), np.zeros((2, 2), "uint16"))


@given(
    arrays("uint8", (4, 5)),
    arrays("uint16", (4, 5), elements=st.integers(0, 3)),
    arrays("float64", 5, elements=st.floats(0.05, 0.1)),
)
def test_tally_equals_counting_one_pixel_after_the_other(codes, zones, hectares):
    pixels, area = tally(codes, zones, hectares, zone_count=3)
    slow_pixels, slow_area = np.zeros((3, 256), int), np.zeros((3, 256))
    for y in range(4):
        for x in range(5):
            if zones[y, x]:
                slow_pixels[zones[y, x] - 1, codes[y, x]] += 1
                slow_area[zones[y, x] - 1, codes[y, x]] += hectares[x]
    assert np.array_equal(pixels, slow_pixels)
    np.testing.assert_allclose(area, slow_area, rtol=1e-12)


def test_tally_of_nothing_is_zero():
    pixels, hectares = tally(np.zeros((2, 3), "uint8"), np.zeros((2, 3), "uint16"), np.ones(3), zone_count=2)
    assert pixels.shape == hectares.shape == (2, 256)
    assert pixels.sum() == 0
    assert hectares.sum() == 0


def test_tally_refuses_zones_without_a_name_and_shapes_that_do_not_fit():
    codes = np.zeros((2, 3), "uint8")
    with pytest.raises(ValueError, match="zones reach 2, beyond the 1"):
        tally(codes, np.full((2, 3), 2, "uint16"), np.ones(3), zone_count=1)
    with pytest.raises(ValueError, match=r"got \(2, 3\), \(2, 3\) and \(2,\)"):
        tally(codes, np.zeros((2, 3), "uint16"), np.ones(2), zone_count=1)
