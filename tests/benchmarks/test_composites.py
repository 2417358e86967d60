"""The converged geometric median, against which two kernels are held, is the one that can be reckoned by hand."""

from __future__ import annotations

import numpy as np

from benchmarks.composites import converged_geomedian


def looks(*points):
    """Return one pixel of two bands as (look, band, pixel)."""
    return np.array(points, dtype="uint16")[..., None]


def test_the_middle_of_a_square_and_of_a_line():
    clear = np.ones((4, 1), dtype=bool)
    assert np.allclose(converged_geomedian(looks((0, 0), (0, 8), (8, 0), (8, 8)), clear).T, (4, 4))
    assert np.allclose(converged_geomedian(looks((0, 0), (10, 10), (11, 11)), clear[:3]).T, (10, 10), atol=1e-2)


def test_what_is_not_clear_does_not_count():
    clear = np.array([[True], [True], [True], [False]])
    # The point that sees three corners of an equilateral triangle under 120 degrees is its centre.
    found = converged_geomedian(looks((0, 0), (1000, 0), (500, 866), (60000, 60000)), clear)
    assert np.allclose(found.T, (500, 866 / 3), atol=0.1)
