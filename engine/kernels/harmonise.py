"""TM and ETM+ reflectance as OLI would have seen it."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
from numba import njit

from engine.landsat import BANDS, FILL_DN, OFFSET, ROY_RMA, SCALE
from engine.params import Lines

ROY: Final[Lines] = tuple(ROY_RMA[band] for band in BANDS)


def harmonise(bands: np.ndarray, where: np.ndarray, lines: Lines = ROY) -> None:
    """Bring the six bands of TM or ETM+ to OLI's by a line each, in place.

    Parameters
    ----------
    bands : ndarray of uint16, shape (6, y, x)
        Digital numbers in the order of ``engine.landsat.BANDS``; 0 is fill and stays fill, else at least 1.
    where : ndarray of bool, shape (y, x)
        Pixels to change.
    lines : tuple of (slope, intercept)
        Of each band, for reflectance; default the regressions of Roy et al. (2016).

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
    _harmonise(bands, where, *_steps(lines))


@lru_cache(maxsize=16)
def _steps(lines: Lines) -> tuple[np.ndarray, np.ndarray]:
    """Return lines as float32 slopes and shifts of digital numbers: slope * (SCALE * DN + OFFSET) + intercept."""
    slope = np.array([slope for slope, _ in lines], np.float32)
    shift = np.array([(slope * OFFSET + more - OFFSET) / SCALE for slope, more in lines], np.float32)
    return slope, shift


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
