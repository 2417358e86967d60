"""How wet the years of a coast are, and which changes may be nothing but the tide.

A sun-synchronous satellite sees a beach at some heights of the tide and never at others, and at other ones each year.
Where a year was seen at higher water than the one before, sparse canopy at the water's edge seems lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numba import njit

from engine.kernels.features import WATER_MISSING
from engine.kernels.indices import INDEX_SCALE, normalised_difference, reflectance_of
from engine.kernels.lanes import flat_looks, in_parts
from engine.landsat import BANDS

CELL_PX: Final = 256
"""Side of a cell that has one level: 7.7 km of 30 m pixels, of what divides a tile of 2048 the nearest to 10 km.

Cells lie on the grid of the zone: none is of two tiles, and none begins anew where an area is cropped."""

INTERTIDAL: Final = (0.1, 0.9)
"""Share of the clear looks in which an intertidal pixel is wet (MNDWI > 0) in its typical year."""

LEAST_PX: Final = 100
"""Intertidal pixels below which a cell has no level: 9 ha."""

SUSPECT_DIFFERENCE: Final = 0.25
"""Levels of two years that differ by more make a change between them suspect."""

LEAST_LOOKS: Final = 9
"""Clear looks of a pixel from which a third can be spared."""

_GREEN: Final = BANDS.index("green")
_SWIR1: Final = BANDS.index("swir16")


def leave_out_wettest(
    bands: np.ndarray, clear: np.ndarray, *, min_looks_range: int = 8, threads: int = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Leave the wettest third of each pixel's clear looks out, where there are at least ``LEAST_LOOKS``.

    Parameters
    ----------
    bands : ndarray of uint16, shape (look, 6, y, x)
        Digital numbers in the order of ``landsat.BANDS``; anything where not clear.
    clear : ndarray of bool, shape (look, y, x)
    min_looks_range : int
        Clear looks below which water frequency is missing.
    threads : int
        Threads to use; they change no value.

    Returns
    -------
    kept : ndarray of bool, shape (look, y, x)
        ``clear`` without a third of the looks, rounded down, of largest MNDWI; of equal ones the latest goes first.
    clear_count : ndarray of uint16, shape (y, x)
        Of all clear looks.
    water_frequency : ndarray of uint16, shape (y, x)
        Of all clear looks, as of ``composite.annual_layers``.

    Examples
    --------
    Nine looks of one pixel, of rising green: the last three are the wettest.

    >>> looks = np.full((9, 6, 1, 1), 10_000, dtype="uint16")
    >>> looks[:, 1, 0, 0] += np.arange(9, dtype="uint16") * 100
    >>> kept, count, _ = leave_out_wettest(looks, np.ones((9, 1, 1), dtype=bool))
    >>> kept.ravel().tolist(), int(count[0, 0])
    ([True, True, True, True, True, True, False, False, False], 9)
    """
    flat_bands, flat_clear = flat_looks(bands, clear)
    kept = flat_clear.copy()
    counts = np.zeros(clear.shape[1:], dtype=np.uint16)
    water = np.full(clear.shape[1:], WATER_MISSING, dtype=np.uint16)

    def leave(first: int, last: int) -> None:
        _leave_out(flat_bands, flat_clear, first, last, min_looks_range, kept, counts.reshape(-1), water.reshape(-1))

    in_parts(leave, counts.size, threads)
    return kept.reshape(clear.shape), counts, water


@njit(cache=True, nogil=True, error_model="numpy")
def _leave_out(bands, clear, first, last, min_range, kept, counts, water):
    looks = bands.shape[0]
    index = np.empty(looks, np.int32)
    place = np.empty(looks, np.int64)
    for pixel in range(first, last):
        count = wet = 0
        for look in range(looks):
            if clear[look, pixel]:
                green, swir1 = bands[look, _GREEN, pixel], bands[look, _SWIR1, pixel]
                index[count] = normalised_difference(reflectance_of(green), reflectance_of(swir1))
                wet += index[count] > 0
                place[count] = look
                count += 1
        counts[pixel] = count
        if count > 0 and count >= min_range:
            water[pixel] = (wet * INDEX_SCALE + count // 2) // count
        if count < LEAST_LOOKS:
            continue
        for left in range(count, count - count // 3, -1):
            wettest = 0
            for each in range(1, left):
                if index[each] >= index[wettest]:
                    wettest = each
            kept[place[wettest], pixel] = False
            for each in range(wettest, left - 1):
                index[each], place[each] = index[each + 1], place[each + 1]


def wetness_levels(
    frequency: np.ndarray, cell_px: int = CELL_PX, *, corner: tuple[int, int] = (0, 0), least_px: int = LEAST_PX
) -> np.ndarray:
    """Return how wet the looks of each year found the intertidal pixels of each cell.

    Intertidal is a pixel whose water frequency, in the median of the years that know it, is within ``INTERTIDAL``: by
    the median, not the mean, as land that was lost to the sea half way is dry, then wet, but at no time tidal. These
    pixels are the same in all years, so levels of years compare.

    Parameters
    ----------
    frequency : ndarray of uint16, shape (year, y, x)
        ``water_frequency`` of the years' cubes: share of clear looks that are wet, x 10 000; 65535 missing.
    cell_px : int
        Side of a cell.
    corner : tuple of int
        Row and column of the first pixel in the grid of the zone, whose rows and columns of cells begin at multiples of
        ``cell_px``; cells at the edges hold what is there of them.
    least_px : int
        Intertidal pixels that a level needs.

    Returns
    -------
    ndarray of float32, shape (year, cell row, cell column)
        Mean water frequency of the cell's intertidal pixels, 0 to 1. Where a year knows only some of them: the mean of
        what is typical of all, plus how much wetter than typical those were, as the upper beach alone is not a drier
        year. NaN where it knows fewer than ``least_px``.

    Raises
    ------
    TypeError
        If ``frequency`` is not uint16 (year, y, x).

    Examples
    --------
    Three years of three pixels; the second is sea, the third was lost to it.

    >>> frequency = np.array([[[3000, 9900, 0]], [[5000, 9900, 0]], [[4000, 9900, 10000]]], dtype="uint16")
    >>> wetness_levels(frequency, 3, least_px=1).ravel().tolist()
    [0.30000001192092896, 0.5, 0.4000000059604645]
    """
    if frequency.dtype != np.uint16 or frequency.ndim != 3:
        raise TypeError(f"frequency must be uint16 (year, y, x), got {frequency.dtype} {frequency.shape}")
    first, cells = _cells(frequency.shape[1:], cell_px, corner)
    years = len(frequency)
    wetter, known = np.zeros((2, years, *cells), dtype=np.int64)
    typical, intertidal = np.zeros((2, *cells), dtype=np.int64)
    low, high = (round(share * INDEX_SCALE) for share in INTERTIDAL)
    _add_levels(frequency, cell_px, first, low, high, wetter, known, typical, intertidal)
    levels = np.full(known.shape, np.nan, dtype=np.float32)
    enough = known >= max(least_px, 1)
    usual = np.broadcast_to(typical / np.maximum(intertidal, 1), known.shape)
    levels[enough] = (usual[enough] + wetter[enough] / known[enough]) / (2 * INDEX_SCALE)  # all was added up doubled
    return levels


def _cells(shape: tuple[int, ...], cell_px: int, corner: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return where in its cell the first pixel is, and the rows and columns of cells."""
    top, left = (at % cell_px for at in corner)
    return (top, left), (-(-(top + shape[0]) // cell_px), -(-(left + shape[1]) // cell_px))


@njit(cache=True, nogil=True)
def _add_levels(frequency, cell_px, first, low, high, wetter, known, typical, intertidal):
    years, height, width = frequency.shape
    sorted_years = np.empty(years, np.int64)
    for y in range(height):
        for x in range(width):
            count = 0
            for year in range(years):  # into their places
                value = np.int64(frequency[year, y, x])
                if value != WATER_MISSING:
                    place = count
                    while place > 0 and sorted_years[place - 1] > value:
                        sorted_years[place] = sorted_years[place - 1]
                        place -= 1
                    sorted_years[place] = value
                    count += 1
            if count == 0:
                continue
            twice = sorted_years[(count - 1) // 2] + sorted_years[count // 2]
            if 2 * low <= twice <= 2 * high:
                row, col = (first[0] + y) // cell_px, (first[1] + x) // cell_px
                intertidal[row, col] += 1
                typical[row, col] += twice
                for year in range(years):
                    if frequency[year, y, x] != WATER_MISSING:
                        wetter[year, row, col] += 2 * np.int64(frequency[year, y, x]) - twice
                        known[year, row, col] += 1


def tide_suspect(
    levels: np.ndarray,
    years: Sequence[int],
    changed: np.ndarray,
    seen_before: np.ndarray,
    beside_water: np.ndarray,
    sparse: np.ndarray,
    cell_px: int = CELL_PX,
    *,
    corner: tuple[int, int] = (0, 0),
    limit: float = SUSPECT_DIFFERENCE,
) -> np.ndarray:
    """Flag the changes that the tide may have made: of sparse canopy near water, between years of unlike levels.

    A change lies between the year it is dated by and the last one before that in which the pixel was seen.

    Parameters
    ----------
    levels : ndarray of float32, shape (year, cell row, cell column)
        From ``wetness_levels``.
    years : sequence of int
        What the levels are of, rising.
    changed : ndarray of uint16, shape (y, x)
        Year of loss or gain, the first in which a pixel was seen as what it became; 0 none.
    seen_before : ndarray of uint16, shape (y, x)
        Last year before it in which the pixel was seen; 0 none.
    beside_water : ndarray of bool, shape (y, x)
        Within two pixels of water.
    sparse : ndarray of bool, shape (y, x)
        Sparse canopy on the side of the change that has any.
    cell_px, corner
        As of the levels.
    limit : float
        Difference of the levels above which a change is suspect.

    Returns
    -------
    ndarray of bool, shape (y, x)
        True where the levels of these two years differ by more than ``limit``; of a year without one it is that of the
        next known, of ``seen_before`` the last known. False where there is none: nothing is known against the change.

    Raises
    ------
    ValueError
        If the shapes disagree, or the levels are of cells of another size.

    Examples
    --------
    The second pixel was seen in all years, the first not in 2001: its loss may be of the tide of 2002.

    >>> levels = np.array([0.2, 0.4, 0.5], dtype="float32").reshape(3, 1, 1)
    >>> lost, before = np.array([[[2002, 2002, 0]], [[2000, 2001, 0]]], dtype="uint16")
    >>> always = np.ones((1, 3), dtype=bool)
    >>> tide_suspect(levels, [2000, 2001, 2002], lost, before, always, always)
    array([[ True, False, False]])
    """
    (top, left), cells = _cells(changed.shape, cell_px, corner)
    if levels.shape != (len(years), *cells):
        raise ValueError(f"levels must have shape {(len(years), *cells)}, years and cells, got {levels.shape}")
    if not seen_before.shape == beside_water.shape == sparse.shape == changed.shape:
        got = ", ".join(str(of.shape) for of in (seen_before, beside_water, sparse))
        raise ValueError(f"all must have shape {changed.shape}, got {got}")
    suspect = np.zeros(changed.shape, dtype=bool)
    y, x = np.nonzero((seen_before > 0) & beside_water & sparse)
    cell = (top + y) // cell_px, (left + x) // cell_px
    last, first = (np.searchsorted(years, of[y, x]) for of in (seen_before, changed))
    suspect[y, x] = np.abs(_carried(levels[::-1])[::-1][first, *cell] - _carried(levels)[last, *cell]) > limit
    return suspect


def _carried(levels: np.ndarray) -> np.ndarray:
    """Return levels whose missing years are as the year before them."""
    found = levels.copy()
    for year in range(1, len(found)):
        found[year] = np.where(np.isnan(found[year]), found[year - 1], found[year])
    return found
