"""Where to look when a map is assessed: strata round what changed, and how many pixels of each.

What a map got wrong lies mostly near its edges and its changes. Strata of their own there find it with few pixels, and
leave little to the large strata, of which one pixel in error would stand for many hectares.

References
----------
Olofsson et al. 2014, doi 10.1016/j.rse.2014.02.015; 2020, doi 10.1016/j.rse.2019.111492 (the buffer); Cochran 1977,
Sampling Techniques, 5.5 (allocation).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
from scipy.ndimage import maximum_filter

from engine.kernels.accuracy import share_interval
from engine.legend import (
    GAIN,
    GAIN_THEN_LOSS,
    LOSS,
    LOSS_RECOVERED,
    LOSS_THEN_GAIN,
    NOT_OBSERVED,
    PROVISIONAL_GAIN,
    PROVISIONAL_LOSS,
    STABLE_MANGROVE,
    STABLE_OTHER,
    STABLE_OUTSIDE_HABITAT,
)

INNER_MANGROVE: Final = 1
NEAR_MANGROVE: Final = 2
NEAR_OTHER: Final = 3
FAR_OTHER: Final = 4
MAPPED_LOSS: Final = 5
MAPPED_GAIN: Final = 6
UNOBSERVED: Final = 7

STRATA: Final = {
    INNER_MANGROVE: "mangrove",
    NEAR_MANGROVE: "mangrove near an edge or change",
    NEAR_OTHER: "other near mangrove or change",
    FAR_OTHER: "other",
    MAPPED_LOSS: "loss",
    MAPPED_GAIN: "gain",
    UNOBSERVED: "not observed",
}
"""Strata and their names. Whatever was lost at any time is in *loss*, also provisionally, and if it recovered."""

LARGE: Final = (INNER_MANGROVE, NEAR_MANGROVE, NEAR_OTHER, FAR_OTHER)
"""Where a map says nothing happened."""

USERS_ACCURACY: Final = 0.7
"""Of mapped loss, before anything is read: published maps have .6 to .8 (GMW v3, CGMD-Extent30)."""

MISSED: Final = {INNER_MANGROVE: 0.15, NEAR_MANGROVE: 0.15, NEAR_OTHER: 0.05, FAR_OTHER: 0.02, MAPPED_GAIN: 0.01}
"""Loss that a map misses, by where it lies, as a share of the loss it shows: an assumption of the design alone. Were
it wrong, the interval comes out wider or narrower than planned, and is as true."""

_OF_KIND: Final = {
    NOT_OBSERVED: UNOBSERVED,
    STABLE_OTHER: FAR_OTHER,
    STABLE_OUTSIDE_HABITAT: FAR_OTHER,
    STABLE_MANGROVE: INNER_MANGROVE,
    GAIN: MAPPED_GAIN,
    PROVISIONAL_GAIN: MAPPED_GAIN,
    LOSS: MAPPED_LOSS,
    LOSS_RECOVERED: MAPPED_LOSS,
    PROVISIONAL_LOSS: MAPPED_LOSS,
    LOSS_THEN_GAIN: MAPPED_LOSS,
    GAIN_THEN_LOSS: MAPPED_LOSS,
}
_TABLE: Final = np.array([_OF_KIND.get(kind, 0) for kind in range(256)], dtype=np.uint8)


class Allocation(NamedTuple):
    """How many pixels to draw."""

    points: np.ndarray
    """int64 (stratum,)."""

    halfwidth: float
    """Of the 95 % interval that is expected, as a share of what is mapped; nan where nothing is."""


def stratify(kind: np.ndarray, *, buffer_px: int) -> np.ndarray:
    """Turn what happened to pixels into strata.

    Of a block of a larger raster that is exact where ``buffer_px`` pixels more are given on every side.

    Parameters
    ----------
    kind : ndarray of uint8, shape (y, x)
        Codes of ``legend.CHANGES``.
    buffer_px : int
        A pixel is near what lies at most so many rows and columns away; 0 makes no buffer.

    Returns
    -------
    ndarray of uint8, shape (y, x)
        Codes of ``STRATA``; 0 outside the area.

    Raises
    ------
    ValueError
        If ``kind`` is not uint8 (y, x), or ``buffer_px`` below 0.

    Examples
    --------
    >>> stratify(np.array([[1, 1, 1, 3, 2, 2, 2, 255]], dtype="uint8"), buffer_px=1)
    array([[4, 4, 3, 5, 2, 1, 1, 0]], dtype=uint8)
    """
    if kind.ndim != 2 or kind.dtype != np.uint8 or buffer_px < 0:
        raise ValueError(f"kind must be uint8 (y, x) and buffer_px from 0, got {kind.dtype} {kind.shape}, {buffer_px}")
    strata = _TABLE[kind]
    if not buffer_px:
        return strata
    change = (strata == MAPPED_LOSS) | (strata == MAPPED_GAIN)
    other, mangrove = strata == FAR_OTHER, strata == INNER_MANGROVE
    strata[mangrove & _within(change | other, buffer_px)] = NEAR_MANGROVE
    strata[other & _within(change | mangrove, buffer_px)] = NEAR_OTHER
    return strata


def _within(flags: np.ndarray, buffer_px: int) -> np.ndarray:
    """Flag what lies at most ``buffer_px`` rows and columns from a flagged pixel, bool (y, x)."""
    return maximum_filter(flags.view(np.uint8), 2 * buffer_px + 1, mode="constant").astype(bool)


def expected_loss(share: np.ndarray) -> np.ndarray:
    """Return the share of each stratum that is expected to be loss, before anything is read.

    Parameters
    ----------
    share : ndarray of float, shape (stratum,)
        Of the land, in the order of ``STRATA``.

    Returns
    -------
    ndarray of float64, shape (stratum,)
        ``USERS_ACCURACY`` of what is mapped so, elsewhere what ``MISSED`` says; half of a stratum at most.
    """
    codes = np.array(list(STRATA))
    mapped = share[codes == MAPPED_LOSS].sum()
    missed = np.array([MISSED.get(code, 0.0) for code in STRATA]) * mapped
    expected = np.minimum(0.5, np.divide(missed, share, out=np.zeros(share.shape), where=share > 0))
    expected[codes == UNOBSERVED] = mapped
    expected[codes == MAPPED_LOSS] = USERS_ACCURACY
    return expected


def allocate(pixels: np.ndarray, least: np.ndarray, *, halfwidth: float, most: int) -> Allocation:
    """Choose how many pixels of each stratum to draw, for an interval of loss of a given width.

    Beyond the least of every stratum, by Neyman's rule: in proportion to its land and to how unlike its pixels are
    expected to be. Of all such samples the smallest whose expected interval (``share_interval``) is narrow enough.

    Parameters
    ----------
    pixels : ndarray of int, shape (stratum,)
        Of each of ``STRATA``, in that order.
    least : ndarray of int, shape (stratum,)
        Fewest pixels to draw of each; all where there are fewer.
    halfwidth : float
        Half the 95 % interval of the area lost, as a share of the loss that is mapped.
    most : int
        Pixels in all at which to stop, the interval then being wider; ``least`` is drawn in any case.

    Returns
    -------
    Allocation

    Raises
    ------
    ValueError
        If there is no pixel, or arrays are not of every stratum.

    Examples
    --------
    >>> pixels = np.array([180_000, 20_000, 20_000, 770_000, 8_000, 2_000, 0])
    >>> found = allocate(pixels, np.array([400, 400, 400, 400, 100, 100, 100]), halfwidth=0.3, most=5000)
    >>> found.points, round(found.halfwidth, 3)
    (array([799, 400, 400, 605, 200, 100,   0]), 0.3)
    """
    pixels, least = np.asarray(pixels, np.int64), np.asarray(least, np.int64)
    if pixels.shape != (len(STRATA),) or least.shape != pixels.shape or not pixels.sum():
        raise ValueError(f"pixels and least must be of {len(STRATA)} strata, not all empty, got {pixels}, {least}")
    share = pixels / pixels.sum()
    loss = expected_loss(share)
    spread = share * np.sqrt(loss * (1 - loss))
    mapped = share[list(STRATA).index(MAPPED_LOSS)]

    def plan(total: int) -> Allocation:
        wanted = np.ceil(total * spread / max(spread.sum(), 1e-300)).astype(np.int64)
        count = np.minimum(np.maximum(least, wanted), pixels)
        if not mapped:
            return Allocation(count, float("nan"))
        found = share_interval(share, count, loss * count, population=pixels)
        return Allocation(count, float((found.high - found.low) / 2 / mapped))

    if not mapped or not spread.sum():
        return plan(0)
    enough = _least(lambda total: plan(total).points.sum() > most or plan(total).halfwidth <= halfwidth, most + 1)
    return plan(enough - (enough > 0 and bool(plan(enough).points.sum() > most)))


def _least(holds: Callable[[int], bool], high: int) -> int:
    """Return the smallest number from 0 of which something holds that holds of all from there to ``high``."""
    low = -1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
