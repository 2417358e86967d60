"""Clear masks against words of the USGS product guides."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from engine.kernels.quality import clear_mask, drop_fill, empty_band, settle_look
from engine.landsat import ETM, OLI

WORDS = {
    1: False,  # fill
    0: False,  # never delivered: padding gone wrong
    21824: True,  # OLI clear land
    21952: True,  # OLI clear water
    21762: False,  # OLI dilated cloud
    22280: False,  # OLI cloud
    23888: False,  # OLI shadow, with bit 6 "clear" set
    54596: False,  # OLI cirrus, with bit 6 set
    5440: True,  # TM clear land
    5504: True,  # TM clear water, bit 6 not set
    5442: False,  # TM clear and dilated
    5698: False,  # TM clear and dilated, medium cloud confidence
    21824 | 32: True,  # snow stays
}


def test_words_of_the_product_guide_are_read_by_their_bits():
    words = np.array(list(WORDS), dtype="uint16")
    assert clear_mask(words).tolist() == list(WORDS.values())


def test_medium_cloud_confidence_is_rejected_only_when_asked():
    word = np.array([21824 & ~(3 << 8) | (2 << 8)], dtype="uint16")
    assert clear_mask(word).all()
    assert not clear_mask(word, reject_cloud_confidence=True).any()


def test_radsat_bit_5_is_swir1_on_oli_but_thermal_on_etm():
    qa, radsat = np.array([21824], "uint16"), np.array([1 << 5], "uint16")
    assert not clear_mask(qa, radsat, unusable_radsat=OLI.unusable_radsat).any()
    assert clear_mask(qa, radsat, unusable_radsat=ETM.unusable_radsat).all()


def test_saturated_coastal_band_does_not_rule_a_pixel_out():
    qa, radsat = np.array([21824], "uint16"), np.array([1], "uint16")
    assert clear_mask(qa, radsat, unusable_radsat=OLI.unusable_radsat).all()


def test_rescaled_words_are_refused():
    with pytest.raises(TypeError, match="qa_pixel must be uint16, got float64"):
        clear_mask(np.array([21824.0]))


def test_fill_in_any_band_rules_a_pixel_out():
    bands = np.array([[[5, 5]], [[0, 5]]], dtype="uint16")
    assert drop_fill(np.array([[True, True]]), bands).tolist() == [[False, True]]


def test_every_word_is_judged_as_numpy_judges_it():
    words = np.arange(2**16, dtype="uint16").reshape(4, 128, 128)
    plain = (words != 0) & (words & 0b11111 == 0)
    assert np.array_equal(clear_mask(words), plain)
    assert np.array_equal(clear_mask(words, reject_cloud_confidence=True), plain & (words >> 8 & 3 < 2))
    clear = np.full_like(words, 21824)
    assert np.array_equal(clear_mask(clear, words, unusable_radsat=OLI.unusable_radsat), words & 0b1000_0111_1110 == 0)
    assert clear_mask(clear, words).all(), "saturation that no one asks for"


def test_words_that_lie_apart_in_memory_are_judged_alike():
    words = np.array(list(WORDS) * 4, dtype="uint16").reshape(4, -1)
    assert np.array_equal(clear_mask(words[::2, ::-3]), clear_mask(words)[::2, ::-3])
    assert np.array_equal(clear_mask(words.T, words.T), clear_mask(words, words).T)
    assert clear_mask(np.empty((0, 5), dtype="uint16")).shape == (0, 5)


def test_words_of_two_shapes_are_refused():
    words = np.zeros((3, 4), dtype="uint16")
    with pytest.raises(TypeError, match=r"qa_radsat must have the shape of qa_pixel, \(3, 4\), got \(4, 3\)"):
        clear_mask(words, words.T)
    with pytest.raises(TypeError, match="qa_radsat must be uint16, got uint8"):
        clear_mask(words, words.astype("uint8"))


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_a_band_is_empty_where_enough_pixels_are_usable_and_it_is_fill_at_all_of_them(data):
    shape = data.draw(array_shapes(min_dims=2, max_dims=2, max_side=5))
    bands = data.draw(arrays("uint16", (3, *shape), elements=st.sampled_from([0, 0, 0, 7])))
    usable, least = data.draw(arrays(bool, shape)), data.draw(st.integers(1, 8))
    blank = [band for band in range(3) if usable.sum() >= least and not bands[band][usable].any()]
    assert empty_band(bands, usable, least) == (blank[0] if blank else -1)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_a_look_is_settled_where_it_was_written_and_every_band_holds_data(data):
    shape = data.draw(array_shapes(min_dims=2, max_dims=2, max_side=9))
    bands = data.draw(arrays("uint16", (3, *shape), elements=st.sampled_from([0, 0, 1, 65535, 7, 8, 9])))
    usable, clear = (data.draw(arrays(bool, shape)) for _ in range(2))
    whole = (bands != 0).all(axis=0)
    expected_bands, expected_clear = np.where(usable & ~whole, 0, bands), clear | (usable & whole)
    settle_look(bands, usable, clear)
    assert np.array_equal(bands, expected_bands)
    assert np.array_equal(clear, expected_clear)
