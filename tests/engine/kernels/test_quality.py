"""Clear masks against words of the USGS product guides."""

from __future__ import annotations

import numpy as np
import pytest

from engine.kernels.quality import clear_mask, drop_fill
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
