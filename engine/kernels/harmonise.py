"""TM and ETM+ reflectance as OLI would have seen it, and the lines that bring it there."""

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


def fit_line(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Fit y = slope * x + intercept by reduced major axis regression, without what lies far off.

    Both sensors are noisy, so neither is the cause of the other; least squares would flatten the line. A cloud that
    one look missed, or land that changed between them, is left out: values whose distance from the line is beyond three
    standard deviations (1.4826 median absolute deviations) of its median, until the same ones stay.

    Parameters
    ----------
    x, y : ndarray of float, shape (pixel,)
        Reflectance of the same pixels by two sensors, at least two.

    Returns
    -------
    slope, intercept, correlation : float
        Correlation is of the pixels kept. Slope and intercept are NaN where it is not positive.

    References
    ----------
    Roy et al. (2016), doi 10.1016/j.rse.2015.12.024, equations 2 and 3; trimming is ours (they left out what differed
    by more than its mean in blue).

    Examples
    --------
    >>> x = np.array([0.02, 0.05, 0.11, 0.2, 0.3, 0.4])
    >>> y = 0.9 * x + 0.01
    >>> y[2] = 0.8  # a cloud
    >>> [round(value, 6) for value in fit_line(x, y)]
    [0.9, 0.01, 1.0]
    """
    kept = _near(y - x)
    for _ in range(_TRIMS):
        spread_x, spread_y = x[kept].std(), y[kept].std()
        together = np.mean((x[kept] - x[kept].mean()) * (y[kept] - y[kept].mean()))
        if not together > 0:
            return np.nan, np.nan, 0.0
        slope = spread_y / spread_x
        intercept = y[kept].mean() - slope * x[kept].mean()
        before, kept = kept, _near(y - slope * x - intercept)
        if np.array_equal(before, kept):
            break
    return float(slope), float(intercept), float(together / (spread_x * spread_y))


_TRIMS: Final = 20


def _near(distance: np.ndarray) -> np.ndarray:
    """Flag values within three robust standard deviations of their median."""
    off = abs(distance - np.median(distance))
    return off <= 3 * 1.4826 * np.median(off) + 1e-9


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
