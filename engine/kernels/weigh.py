"""Pixels that differ in area, weighed in whole units: sums are exact, so the order of blocks changes nothing."""

from __future__ import annotations

import numpy as np
from numba import njit

from engine.kernels.patches import label_patches


def weigh(
    codes: np.ndarray, zones: np.ndarray, areas: np.ndarray, *, zone_count: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Count pixels of every code in every zone, and sum their areas.

    Parameters
    ----------
    codes : ndarray of uint8, shape (y, x)
    zones : ndarray of uint16, that broadcasts to (y, x)
        0 is no zone, otherwise 1 + index of a zone.
    areas : ndarray of int64, that broadcasts to (y, x)
        Area of each pixel in a unit so small that it is whole (``engine.cells``).
    zone_count : int
        How many zones there are.

    Returns
    -------
    pixels, sums : ndarray of int64, shape (1 + zone, 256)
        First what lies in no zone; ``sums`` is in the unit of ``areas``.

    Raises
    ------
    ValueError
        If codes are not uint8 (y, x), or a zone is above ``zone_count``.

    Examples
    --------
    >>> codes = np.array([[3, 3, 4], [3, 0, 4]], dtype="uint8")
    >>> areas = np.array([[10], [11]])  # of the pixels of each row
    >>> pixels, sums = weigh(codes, np.uint16([[0, 1, 1]]), areas, zone_count=1)
    >>> pixels[:, [0, 3, 4]].tolist(), sums[:, [0, 3, 4]].tolist()
    ([[0, 2, 0], [1, 1, 2]], [[0, 21, 0], [11, 10, 21]])
    """
    if codes.ndim != 2 or codes.dtype != np.uint8:
        raise ValueError(f"codes must be uint8 (y, x), got {codes.dtype} {codes.shape}")
    if zones.size and zones.max() > zone_count:
        raise ValueError(f"zones reach {zones.max()}, beyond the {zone_count} that were named")
    pixels, sums = (np.zeros((1 + zone_count, 256), np.int64) for _ in range(2))
    _weigh(codes, np.broadcast_to(zones, codes.shape), np.broadcast_to(areas, codes.shape), pixels, sums)
    return pixels, sums


def sieve_by_area(codes: np.ndarray, areas: np.ndarray, least: int) -> np.ndarray:
    """Flag the pixels whose patch, 8-connected and of one code, has at least the area ``least``.

    Of a strip of rows of a larger raster, as wide as it, that is exact once the strip is read with ``reach`` more rows
    above and below, where the raster has them.

    Parameters
    ----------
    codes : ndarray of uint8, shape (y, x)
        0 is no patch.
    areas : ndarray of int64, that broadcasts to (y, x)
        Area of each pixel.
    least : int
        In the unit of ``areas``; with 0 every patch counts.

    Returns
    -------
    ndarray of bool, shape (y, x)

    Examples
    --------
    >>> sieve_by_area(np.array([[3, 0, 4], [0, 3, 0]], dtype="uint8"), np.array([[10], [11]]), 20)
    array([[ True, False, False],
           [False,  True, False]])
    """
    labels, sizes = label_patches(codes)
    sums = np.zeros(sizes.shape, np.int64)
    _add(labels, np.broadcast_to(areas, codes.shape), sums)
    large = sums >= least
    large[0] = False
    return large[labels]


def reach(smallest: np.ndarray, rows: slice, least: int) -> slice:
    """Widen a strip to the rows that tell which patches of its pixels have at least the area ``least``.

    A step within a patch goes one row at most. So a patch that leads from the strip beyond the rows above has a pixel
    in each of them, and in the first of the strip: once the smallest of these add up to ``least``, what is seen of it
    is large already. Any other patch is seen whole. The same below.

    Parameters
    ----------
    smallest : ndarray of int64, shape (y,)
        Area of the smallest pixel of each row of the raster.
    rows : slice
        Of the strip.
    least : int

    Examples
    --------
    >>> reach(np.array([5, 5, 5, 5, 5, 5, 5, 5]), slice(3, 5), 11)  # of 3 rows the smallest have 15
    slice(1, 7, None)
    """
    if least <= 0:
        return rows
    above, below = np.cumsum(smallest[rows.start :: -1]), np.cumsum(smallest[rows.stop - 1 :])
    up, down = (int(np.searchsorted(sums, least)) for sums in (above, below))
    return slice(max(0, rows.start - up), min(len(smallest), rows.stop + down))


@njit(cache=True, nogil=True)
def _weigh(codes, zones, areas, pixels, sums):
    for y in range(codes.shape[0]):
        for x in range(codes.shape[1]):
            pixels[zones[y, x], codes[y, x]] += 1
            sums[zones[y, x], codes[y, x]] += areas[y, x]


@njit(cache=True, nogil=True)
def _add(labels, areas, sums):
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            sums[labels[y, x]] += areas[y, x]
