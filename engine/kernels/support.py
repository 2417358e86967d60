"""Changes that neighbours confirm: land changes in patches, errors of single pixels do not."""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit

LEAST_NEIGHBOURS: Final = 4
"""Of a pixel's eight neighbours, how many must have changed alike."""

ROUNDS: Final = 3
"""Passes, in each of which a confirmed change may spread by one pixel."""

REACH_PX: Final = ROUNDS + 1
"""So far beyond a block pixels must be known for it to be exact: the passes, and what is mixed before them."""

OWN_WEIGHT: Final = 2 / 3
"""Of a pixel among its four neighbours; each of these has a twelfth."""

YEARS_APART: Final = 1
"""Between changes that are alike."""


def blend_neighbours(over: np.ndarray) -> np.ndarray:
    """Mix a pixel's log-odds with those of its four neighbours: errors of single pixels are much of a year's noise.

    Parameters
    ----------
    over : ndarray of float32, shape (year, y, x)
        nan where not observed.

    Returns
    -------
    ndarray of float32, shape (year, y, x)
        ``OWN_WEIGHT`` of the pixel and the rest of those neighbours that were observed, by equal parts; nan where the
        pixel was not observed itself. Exact one pixel and more from the edges.

    Raises
    ------
    ValueError
        If not float32 (year, y, x).

    Examples
    --------
    >>> blend_neighbours(np.array([[[3, 0, np.nan]]], dtype="float32"))[0, 0].round(3)
    array([2.667, 0.333,   nan], dtype=float32)
    """
    if over.ndim != 3 or over.dtype != np.float32:
        raise ValueError(f"log-odds must be float32 (year, y, x), got {over.dtype} {over.shape}")
    found = np.empty_like(over, order="C")
    _blend(np.ascontiguousarray(over), OWN_WEIGHT, found)
    return found


def confirm_changes(sure: np.ndarray, likely: np.ndarray) -> np.ndarray:
    """Take the likelier course of a pixel's years where neighbours changed alike, else the surer.

    As with edges of a picture (Canny 1986, doi 10.1109/TPAMI.1986.4767851): what is sure by itself begins a patch, what
    is only likely may go on with one. A pixel takes its course of ``likely`` when every change of it, loss or gain, has
    at least ``LEAST_NEIGHBOURS`` of the eight neighbours change the same way within a year. In each of ``ROUNDS``
    passes neighbours are as the pass before left them, so no order of pixels decides.

    Parameters
    ----------
    sure, likely : ndarray of bool, shape (year, y, x)
        Whether a pixel is mangrove: by a rule that finds few changes, and by one that finds many. Of repeated change
        the last loss and the last gain count.

    Returns
    -------
    ndarray of bool, shape (year, y, x)
        Exact ``ROUNDS`` pixels and more from the edges.

    Raises
    ------
    ValueError
        If the two are not of one shape (year, y, x), or of more than 255 years.

    Examples
    --------
    A clearing: four pixels are sure, the fifth is likely and confirmed, as four of its neighbours are.

    >>> likely = np.zeros((3, 3, 3), dtype=bool)
    >>> likely[0, 1] = likely[0, 0] = True
    >>> sure = likely.copy()
    >>> sure[:, 1, 1] = True
    >>> confirm_changes(sure, likely)[2].any()
    np.False_
    """
    if sure.ndim != 3 or sure.shape != likely.shape or len(sure) > 255:
        raise ValueError(
            f"sure and likely must be bool (year, y, x) of one shape, 255 years at most, got {sure.shape} and "
            f"{likely.shape}"
        )
    found = np.array(sure, np.bool_, order="C")
    likely = np.ascontiguousarray(likely, np.bool_)
    wanted = last_changes(likely)
    for _ in range(ROUNDS):
        if not _confirm(*last_changes(found), *wanted, likely, found):
            break
    return found


def last_changes(course: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return in which year pixels were last lost and last gained: two of uint8 (y, x), indices, 0 for never."""
    shape = course.shape[1:]
    lost, gained = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    for year in range(1, len(course)):
        lost[course[year - 1] & ~course[year]] = year
        gained[course[year] & ~course[year - 1]] = year
    return lost, gained


@njit(cache=True, nogil=True)
def _blend(over, own, found):
    years, height, width = over.shape
    rest = (1 - own) / 4
    for year in range(years):
        for y in range(height):
            for x in range(width):
                value = over[year, y, x]
                total, weight = own * value, own
                for down, right in ((-1, 0), (0, -1), (0, 1), (1, 0)):
                    if 0 <= y + down < height and 0 <= x + right < width:
                        other = over[year, y + down, x + right]
                        if not np.isnan(other):
                            total += rest * other
                            weight += rest
                found[year, y, x] = total / weight


@njit(cache=True, nogil=True)
def _confirm(lost, gained, likely_lost, likely_gained, likely, found):
    """Write confirmed courses into ``found``; return how many pixels took another."""
    height, width = lost.shape
    years = found.shape[0]
    taken = 0
    for y in range(height):
        for x in range(width):
            loss, gain = likely_lost[y, x], likely_gained[y, x]
            if (loss == 0 and gain == 0) or (loss == lost[y, x] and gain == gained[y, x]):
                continue
            losses, gains = 0, 0
            for down in range(max(y - 1, 0), min(y + 2, height)):
                for right in range(max(x - 1, 0), min(x + 2, width)):
                    if down == y and right == x:
                        continue
                    if lost[down, right] and abs(np.int64(lost[down, right]) - loss) <= YEARS_APART:
                        losses += 1
                    if gained[down, right] and abs(np.int64(gained[down, right]) - gain) <= YEARS_APART:
                        gains += 1
            if (loss == 0 or losses >= LEAST_NEIGHBOURS) and (gain == 0 or gains >= LEAST_NEIGHBOURS):
                taken += 1
                for year in range(years):
                    found[year, y, x] = likely[year, y, x]
    return taken
