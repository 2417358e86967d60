"""Spectral indices of Landsat reflectance, as integers.

All take digital numbers and clip reflectance to [1e-4, 1] first: coastal water is often slightly negative
and a denominator may otherwise pass zero. Float32 throughout, no fast-math, so every machine rounds alike.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit

from engine.landsat import OFFSET, SCALE

INDICES: Final = ("ndvi", "mndwi", "ndmi", "nbr", "mvi", "cmri", "evi")
"""Normalised differences and CMRI, EVI x 10 000; MVI x 1 000, clipped to +-20."""

INDEX_SCALE: Final = 10_000
MVI_SCALE: Final = 1_000
MVI_LIMIT: Final = 20.0
INDEX_MISSING: Final = -32_768

_SCALE: Final = np.float32(SCALE)
_OFFSET: Final = np.float32(OFFSET)
_LOWEST: Final = np.float32(1e-4)
_ONE: Final = np.float32(1)


@njit(cache=True, nogil=True, inline="always")
def reflectance_of(dn):
    """Return reflectance of one digital number, clipped to [1e-4, 1]."""
    value = np.float32(dn) * _SCALE + _OFFSET
    return min(max(value, _LOWEST), _ONE)


@njit(cache=True, nogil=True, inline="always")
def _rounded(value, scale):
    return np.int32(np.floor(value * np.float32(scale) + np.float32(0.5)))


@njit(cache=True, nogil=True, inline="always")
def normalised_difference(a, b):
    """Return (a - b) / (a + b) x 10 000, rounded half up, of two clipped reflectances."""
    return _rounded((a - b) / (a + b), INDEX_SCALE)


def spectral_indices(composite: np.ndarray) -> np.ndarray:
    """Compute the seven indices of a composite.

    Parameters
    ----------
    composite : ndarray of uint16, shape (6, ...)
        Digital numbers in the order of ``landsat.BANDS``.

    Returns
    -------
    ndarray of int32, shape (7, ...)
        In the order of ``INDICES``. Where the composite is 0 the values mean nothing.

    References
    ----------
    NDVI Tucker 1979; MNDWI Xu 2006; NDMI Gao 1996; NBR Key and Benson 2006; MVI Baloloy 2020,
    (N - G) / (S1 - G); CMRI Gupta 2018, NDVI - NDWI; EVI Huete 2002.

    Examples
    --------
    >>> rho = np.array([.0243, .0465, .0321, .2323, .0771, .0326])  # tall mangrove
    >>> dn = np.round((rho + .2) / 2.75e-5).astype("uint16")
    >>> spectral_indices(dn.reshape(6, 1))[:5, 0]
    array([ 7572, -2474,  5017,  7539,  6076], dtype=int32)
    """
    if composite.dtype != np.uint16 or composite.shape[0] != 6:
        raise TypeError(f"composite must be uint16 (6, ...), got {composite.dtype} {composite.shape}")
    flat = np.ascontiguousarray(composite).reshape(6, -1)
    out = np.empty((len(INDICES), flat.shape[1]), dtype=np.int32)
    _indices(flat, out)
    return out.reshape(len(INDICES), *composite.shape[1:])


@njit(cache=True, nogil=True)
def _indices(dn, out):
    for i in range(dn.shape[1]):
        blue, green, red = reflectance_of(dn[0, i]), reflectance_of(dn[1, i]), reflectance_of(dn[2, i])
        nir, swir1, swir2 = reflectance_of(dn[3, i]), reflectance_of(dn[4, i]), reflectance_of(dn[5, i])
        ndvi = normalised_difference(nir, red)
        out[0, i] = ndvi
        out[1, i] = normalised_difference(green, swir1)
        out[2, i] = normalised_difference(nir, swir1)
        out[3, i] = normalised_difference(nir, swir2)
        below = swir1 - green
        limit = np.float32(MVI_LIMIT)
        if below == 0:
            mvi = limit if nir > green else -limit
        else:
            mvi = min(max((nir - green) / below, -limit), limit)
        out[4, i] = _rounded(mvi, MVI_SCALE)
        out[5, i] = ndvi - normalised_difference(green, nir)
        # Over bright cloud remnants the denominator may pass zero.
        divisor = max(nir + np.float32(6) * red - np.float32(7.5) * blue + _ONE, _LOWEST)
        evi = np.float32(2.5) * (nir - red) / divisor
        out[6, i] = _rounded(min(max(evi, -np.float32(3)), np.float32(3)), INDEX_SCALE)
