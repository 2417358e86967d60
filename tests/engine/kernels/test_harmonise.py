import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.kernels.harmonise import harmonise
from engine.landsat import BANDS, OFFSET, ROY_RMA, SCALE


def test_reflectance_goes_by_the_line_of_its_band():
    bands = np.full((6, 2, 3), 18_000, np.uint16)  # a reflectance of .295
    harmonise(bands, np.ones((2, 3), bool))
    expected = [0.2791575, 0.279889, 0.2876375, 0.2950535, 0.2970445, 0.2963955]
    for band, reflectance in zip(bands, expected, strict=True):
        assert (np.abs(band * SCALE + OFFSET - reflectance) <= SCALE / 2 + 1e-7).all()


@given(st.lists(st.integers(0, 65_535), min_size=6, max_size=6), st.booleans())
def test_fill_stays_fill_and_no_value_becomes_it(values, wanted):
    bands = np.array(values, np.uint16).reshape(6, 1, 1)
    before = bands.copy()
    harmonise(bands, np.full((1, 1), wanted))
    if not wanted:
        np.testing.assert_array_equal(bands, before)
        return
    assert ((bands == 0) == (before == 0)).all()
    for band, dn, found in zip(BANDS, values, bands.ravel(), strict=True):
        slope, more = ROY_RMA[band]
        there = (slope * (dn * SCALE + OFFSET) + more - OFFSET) / SCALE
        assert dn == 0 or found == pytest.approx(np.clip(there, 1, 65_535), abs=0.51)
