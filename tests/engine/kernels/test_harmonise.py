import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.kernels.harmonise import fit_line, harmonise
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


def test_a_line_is_that_of_the_spreads_and_not_flattened_by_noise():
    rng = np.random.default_rng(1)
    true = rng.uniform(0.05, 0.35, 20_000)
    x, y = true + rng.normal(0, 0.03, true.size), 0.9 * true + 0.01 + rng.normal(0, 0.027, true.size)
    slope, intercept, correlation = fit_line(x, y)
    assert abs(slope - 0.9) < 0.01
    assert abs(intercept - 0.01) < 0.003
    assert 0.8 < correlation < 0.95
    assert np.polyfit(x, y, 1)[0] < 0.85, "least squares is flatter"


def test_what_lies_far_off_has_no_say_in_a_line():
    x = np.linspace(0, 0.4, 400)
    y = 1.05 * x - 0.01 + 1e-4 * np.sin(np.arange(400))
    y[::10] += 0.3
    np.testing.assert_allclose(fit_line(x, y)[:2], [1.05, -0.01], atol=1e-3)


def test_values_that_have_nothing_in_common_have_no_line():
    assert np.isnan(fit_line(np.array([0.1, 0.2, 0.3]), np.array([0.3, 0.2, 0.1]))[0])
    assert np.isnan(fit_line(np.full(5, 0.1), np.full(5, 0.2))[0])
