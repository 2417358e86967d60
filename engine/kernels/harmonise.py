"""TM and ETM+ reflectance as OLI would have seen it."""

from __future__ import annotations

import numpy as np
from numba import njit

from engine.landsat import BANDS, FILL_DN, OFFSET, ROY_RMA, SCALE


def harmonise(bands: np.ndarray, where: np.ndarray) -> None:
    """Bring the six bands of TM or ETM+ to OLI's by the regressions of Roy et al. (2016), in place.

    Parameters
    ----------
    bands : ndarray of uint16, shape (6, y, x)
        Digital numbers in the order of ``engine.landsat.BANDS``; 0 is fill and stays fill, else at least 1.
    where : ndarray of bool, shape (y, x)
        Pixels to change.

    References
    ----------
    See ``engine.landsat.ROY_RMA``.

    Examples
    --------
    A red of .1 is .9825 * .1 - .0022 = .09605, by 2.75e-5 a step from -.2:

    >>> bands = np.full((6, 1, 2), 10909, dtype="uint16")
    >>> harmonise(bands, np.array([[True, False]]))
    >>> bands[2].tolist()
    [[10765, 10909]]
    """
    _harmonise(bands, where, _SLOPE, _SHIFT)


_SLOPE = np.array([ROY_RMA[band][0] for band in BANDS], np.float32)
# In steps of digital numbers: slope * (SCALE * DN + OFFSET) + intercept, scaled back.
_SHIFT = np.array([(slope * OFFSET + more - OFFSET) / SCALE for slope, more in (ROY_RMA[b] for b in BANDS)], np.float32)


@njit(cache=True, nogil=True)
def _harmonise(bands, where, slope, shift):
    count, height, width = bands.shape
    for band in range(count):
        for y in range(height):
            values, wanted = bands[band, y], where[y]
            for x in range(width):
                value = values[x]
                if wanted[x] and value != FILL_DN:
                    there = np.rint(slope[band] * np.float32(value) + shift[band])
                    values[x] = np.uint16(min(max(there, np.float32(1)), np.float32(65535)))
