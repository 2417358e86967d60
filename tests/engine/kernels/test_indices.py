"""Spectral indices by hand."""

from __future__ import annotations

import numpy as np
import pytest

from engine.kernels.indices import INDICES, spectral_indices


def indices_of(*dn: int) -> dict[str, int]:
    """Return the indices of one pixel: blue, green, red, nir08, swir16, swir22."""
    return dict(zip(INDICES, spectral_indices(np.array(dn, "uint16")).tolist(), strict=True))


def test_every_index_of_a_pixel_worked_by_hand():
    # Reflectances .02, .075, .02, .35, .13, .075.
    assert indices_of(8000, 10000, 8000, 20000, 12000, 10000) == {
        "ndvi": 8919,  # .33 / .37
        "mndwi": -2683,  # -.055 / .205
        "ndmi": 4583,  # .22 / .48
        "nbr": 6471,  # .275 / .425
        "mvi": 5000,  # .275 / .055, in thousandths
        "cmri": 8919 + 6471,  # NDVI less NDWI of -.275 / .425
        "evi": 6250,  # 2.5 x .33 / (.35 + .12 - .15 + 1)
    }


def test_negative_reflectance_is_clipped_before_any_ratio():
    dark = indices_of(1, 1, 1, 1, 1, 1)
    assert {name: value for name, value in dark.items() if name != "mvi"} == dict.fromkeys(set(INDICES) - {"mvi"}, 0)
    assert indices_of(1, 1, 1, 20000, 1, 1)["ndvi"] == 9994  # (.35 - .0001) / .3501


@pytest.mark.parametrize(
    ("green", "nir", "swir16", "expected"),
    [
        (10000, 20000, 10000, 20000),  # denominator 0, vegetation
        (10000, 8000, 10000, -20000),  # denominator 0, water
        (10000, 20000, 10001, 20000),  # beyond the limit
        (10001, 20000, 10000, -20000),
    ],
)
def test_mvi_stays_within_its_limits(green, nir, swir16, expected):
    assert indices_of(8000, green, 8000, nir, swir16, 10000)["mvi"] == expected


def test_evi_over_a_bright_remnant_of_cloud_is_at_its_limit():
    assert indices_of(65535, 10000, 8000, 20000, 12000, 10000)["evi"] == 30000
    assert indices_of(65535, 10000, 20000, 8000, 12000, 10000)["evi"] == -30000


def test_shape_is_kept_and_other_input_is_refused():
    assert spectral_indices(np.full((6, 2, 3), 9000, "uint16")).shape == (7, 2, 3)
    for wrong in (np.zeros((6, 2)), np.zeros((5, 2), "uint16")):
        with pytest.raises(TypeError, match=r"composite must be uint16 \(6, \.\.\.\), got"):
            spectral_indices(wrong)
