"""What lies round a pixel: means over square windows, of integers and exact, so blocks change nothing."""

from __future__ import annotations

import numpy as np
from numba import njit
from scipy.ndimage import maximum_filter

from engine.kernels.features import CONTEXT_PX


def focal_means(composite: np.ndarray, radius: int = CONTEXT_PX) -> np.ndarray:
    """Return the mean of the observed pixels in the window round each observed pixel, band by band.

    Parameters
    ----------
    composite : ndarray of uint16, shape (band, y, x)
        Digital numbers, 0 not observed. Beyond the array nothing is observed: give a halo of ``radius`` pixels round
        what is to be known.
    radius : int
        Pixels on each side: the window is ``2 * radius + 1`` pixels wide and high. It does not change the time.

    Returns
    -------
    ndarray of uint16, shape (band, y, x)
        Digital numbers, halves rounded up; 0 where the pixel itself is not observed.

    Raises
    ------
    TypeError
        If ``composite`` is not uint16 (band, y, x).
    ValueError
        If the radius is not 0 to 127 pixels: sums of larger windows may not fit 32 bits.

    Examples
    --------
    >>> focal_means(np.array([[[10, 0, 21, 40]]], dtype="uint16"), 1)
    array([[[10,  0, 31, 31]]], dtype=uint16)
    """
    if composite.dtype != np.uint16 or composite.ndim != 3:
        raise TypeError(f"composite must be uint16 (band, y, x), got {composite.dtype} {composite.shape}")
    if not 0 <= radius <= 127:
        raise ValueError(f"radius must be 0 to 127 pixels, got {radius}")
    out = np.empty_like(composite, order="C")
    for dn, means in zip(np.ascontiguousarray(composite), out, strict=True):
        _means(dn, radius, means)
    return out


def within_reach(pixels: np.ndarray, radius: int = CONTEXT_PX) -> np.ndarray:
    """Flag all pixels in the windows round flagged ones.

    Parameters
    ----------
    pixels : ndarray of bool, shape (y, x)
    radius : int
        Pixels on each side of the window.

    Examples
    --------
    >>> within_reach(np.array([[False, False, False, True]]), 1)
    array([[False, False,  True,  True]])
    """
    return maximum_filter(pixels, size=2 * radius + 1, mode="constant", cval=False)


@njit(cache=True, nogil=True)
def _means(dn, radius, out):
    height, width = dn.shape
    # Of each column within the rows of the window; a column of zeros on either side of the array for all beyond it.
    sums, counts = np.zeros(width + 2, np.uint32), np.zeros(width + 2, np.uint32)
    totals, numbers = np.empty(width, np.uint32), np.empty(width, np.uint32)
    for y in range(-radius, height):
        if y + radius < height:
            for x in range(width):
                sums[x + 1] += dn[y + radius, x]
                counts[x + 1] += dn[y + radius, x] != 0
        if y - radius > 0:
            for x in range(width):
                sums[x + 1] -= dn[y - radius - 1, x]
                counts[x + 1] -= dn[y - radius - 1, x] != 0
        if y >= 0:
            total, number = np.uint32(0), np.uint32(0)
            for x in range(-radius, width):
                # A difference below zero comes right with the sum, as both wrap alike.
                enter, leave = min(x + radius, width) + 1, max(x - radius - 1, -1) + 1
                total += sums[enter] - sums[leave]
                number += counts[enter] - counts[leave]
                if x >= 0:
                    totals[x], numbers[x] = total, number
            for x in range(width):
                # Quotients of such integers are at least 1 / (2 * number) away from a half, or exactly there.
                mean = np.uint16(totals[x] / max(numbers[x], np.uint32(1)) + 0.5)
                out[y, x] = mean if dn[y, x] != 0 else np.uint16(0)
