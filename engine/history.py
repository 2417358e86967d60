"""What all years together say of a tile: class and probability of each year, what changed, when, and how surely."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from engine.kernels.context import within_reach
from engine.kernels.history import History, tell_history
from engine.kernels.patches import is_large
from engine.kernels.segments import LIKELY_BREAK_COST, logit_over, probability_of_level, segment
from engine.kernels.series import MOST_RATE, Rates, evidence, fit_rates, likeliest, smooth
from engine.kernels.support import REACH_PX, blend_neighbours, confirm_changes
from engine.kernels.tide import tide_suspect, wetness_levels
from engine.legend import (
    GAINED,
    LOST,
    MANGROVE,
    NOT_OBSERVED,
    OTHER,
    OUTSIDE_AREA,
    OUTSIDE_HABITAT,
    PROBABILITY_MISSING,
    PROBABILITY_SCALE,
    STABLE_OUTSIDE_HABITAT,
)
from engine.params import ChangeParams

PIXEL_HA: Final = 0.09
"""Of the project grid, in its projection: what a minimum mapping unit is counted by, as is the custom."""

LOSS_RATE: Final = 0.005
"""Share of the mangrove lost in a year that the estimation of rates begins with."""

LIKELY_RATES: Final = 10
"""How many times as often land changes where neighbours changed alike."""

FULL_LOOKS: Final = 8
"""Clear looks from which a year tells all it can; one of fewer weighs as many eighths. To take years of fewer than 3 as
missing, as is usual, loses more: of simulated worlds of ten years loss F1 .86 in place of .94, recall of erosion .81 in
place of .91, as under cloud half of the years are such."""

WATER: Final = 5000
"""Water frequency x 10 000 from which a pixel is water, in the median year."""

SPARSE: Final = 500
"""Water frequency x 10 000 from which canopy is sparse enough to let water be seen through it."""

WATER_REACH_PX: Final = 2
"""Within so many pixels of water, change of sparse canopy may be the tide's."""

_ROWS_AT_ONCE: Final = 128


class RegionRates(NamedTuple):
    """How the land of a region changes: what the hidden Markov model takes for granted."""

    rates: Rates
    mangrove: float
    """Its share in the first year."""


class Trace(NamedTuple):
    """Of a block, all years together."""

    classes: np.ndarray
    """uint8 (year, y, x), ``legend.CLASSES``: also of years without an observation, if there is one of another year."""

    probability: np.ndarray
    """uint16 (year, y, x), x 10 000; 65 535 where never observed."""

    history: History
    """Arrays (y, x)."""

    large: np.ndarray
    """uint8 (y, x), bits ``LOST`` and ``GAINED``: of patches at least as large as the minimum mapping unit."""

    seen_before: np.ndarray
    """uint16 (2, y, x): last year before that of loss, and of gain, in which the pixel was observed; 0 none."""


def least_px(params: ChangeParams) -> int:
    """Return the pixels of the smallest patch that counts.

    Examples
    --------
    >>> least_px(ChangeParams())  # half a hectare
    6
    """
    return max(1, math.ceil(round(params.min_area_ha / PIXEL_HA, 6)))


def reach_px(params: ChangeParams) -> int:
    """Return how many pixels beyond a block must be known for its trace to be exact."""
    return least_px(params) - 1 + REACH_PX


def odds_of_years(probability: np.ndarray, looks: np.ndarray, threshold: float, min_looks: int = 1) -> np.ndarray:
    """Return by how much each year's log-odds pass the threshold's, mixed with those of neighbours.

    Parameters
    ----------
    probability, looks : ndarray of uint16, shape (year, y, x)
    threshold : float
    min_looks : int
        Fewer clear looks and the year is missing.

    Returns
    -------
    ndarray of float32, shape (year, y, x)
        nan where missing.
    """
    seen = np.where(looks >= min_looks, probability, np.uint16(PROBABILITY_MISSING))
    return blend_neighbours(logit_over(seen, threshold))


def trace_block(
    probability: np.ndarray,
    looks: np.ndarray,
    static: np.ndarray,
    regions: np.ndarray,
    years: Sequence[int],
    *,
    threshold: float,
    params: ChangeParams,
    rates: Mapping[int, RegionRates] | None = None,
) -> Trace:
    """Trace a block through all years.

    A year's map errs, and errs anew each year: two of them subtracted show mostly that. So a pixel's years are told
    together, by few level stretches or by a hidden Markov model (``params.model``), and neighbours confirm changes.

    Parameters
    ----------
    probability : ndarray of uint16, shape (year, y, x)
        Of mangrove x 10 000, of each year by itself; 65 535 missing.
    looks : ndarray of uint16, shape (year, y, x)
        Clear looks.
    static : ndarray of uint8, shape (y, x)
        Class of any year: ``OUTSIDE_AREA`` and ``OUTSIDE_HABITAT`` stay so.
    regions : ndarray of uint16, shape (y, x)
    years : sequence of int
        Ascending.
    threshold : float
        From which a year's map is mangrove.
    params : ChangeParams
        A year of fewer than ``min_looks`` is missing: it neither starts nor dates a change.
    rates : mapping of int to RegionRates
        By region code; of ``hmm`` only.

    Returns
    -------
    Trace
        Of the whole block given; exact ``reach_px`` and more from those of its edges beyond which there is land.
    """
    over = odds_of_years(probability, looks, threshold, params.min_looks)
    known = ~np.isnan(over)
    ever = known.any(axis=0)
    weight = weight_of(looks)
    if params.model == "segments":
        course, share = _by_segments(over, weight, threshold)
    else:
        course, share = _by_rates(over, weight, regions, rates or {})
        course = _carried(course, known)
    flat = (len(years), -1)
    told = tell_history(
        course.reshape(flat),
        np.nan_to_num(share).reshape(flat),
        looks.reshape(flat),
        known.reshape(flat),
        np.asarray(years, np.uint16),
        recovery_years=params.recovery_years,
    )
    history = History(*(part.reshape(static.shape) for part in told))
    inside = static != OUTSIDE_AREA
    limited = static == OUTSIDE_HABITAT
    history.kind[limited] = STABLE_OUTSIDE_HABITAT
    history.kind[~inside] = OUTSIDE_AREA
    classes = np.where(course, np.uint8(MANGROVE), np.uint8(OTHER))
    classes[:, ~ever] = NOT_OBSERVED
    classes[:, limited] = OUTSIDE_HABITAT
    classes[:, ~inside] = OUTSIDE_AREA
    levels = np.rint(np.nan_to_num(share) * PROBABILITY_SCALE).astype(np.uint16)
    levels[:, ~ever] = PROBABILITY_MISSING
    least = least_px(params)
    large = LOST * is_large(history.loss_year > 0, least) + GAINED * is_large(history.gain_year > 0, least)
    seen_before = np.stack([_seen_before(year, known, years) for year in (history.loss_year, history.gain_year)])
    return Trace(classes, levels, history, large.astype(np.uint8), seen_before)


def _seen_before(changed: np.ndarray, known: np.ndarray, years: Sequence[int]) -> np.ndarray:
    """Return the last known year before that of a change, uint16 (y, x); 0 where nothing changed."""
    found = np.zeros_like(changed)
    for year, seen in zip(years, known, strict=True):
        found[seen & (year < changed)] = year
    return found


def weight_of(looks: np.ndarray) -> np.ndarray:
    """Return what years of so many clear looks weigh, float32 of the shape of ``looks``; of none as of one.

    Examples
    --------
    >>> weight_of(np.array([0, 2, 8, 30]))
    array([0.125, 0.25 , 1.   , 1.   ], dtype=float32)
    """
    return np.clip(looks, 1, FULL_LOOKS).astype(np.float32) / FULL_LOOKS


def _carried(course: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return a course whose missing years are as the year before them, the first ones as the first that is known."""
    found = course.copy()
    found[0] = np.where(known[0], course[0], np.take_along_axis(course, known.argmax(axis=0)[np.newaxis], axis=0)[0])
    for year in range(1, len(found)):
        found[year] = np.where(known[year], course[year], found[year - 1])
    return found


def _by_segments(over: np.ndarray, weight: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Return whether each year is mangrove, bool, and its probability, float32, (year, y, x)."""
    flat, weights = over.reshape(len(over), -1), weight.reshape(len(over), -1)
    sure = segment(flat, weights).reshape(over.shape)
    likely = segment(flat, weights, break_cost=LIKELY_BREAK_COST).reshape(over.shape)
    course = confirm_changes(sure >= 0, likely >= 0)
    followed = (course != (sure >= 0)).any(axis=0)
    return course, probability_of_level(np.where(followed, likely, sure), threshold)


def _by_rates(
    over: np.ndarray, weight: np.ndarray, regions: np.ndarray, rates: Mapping[int, RegionRates]
) -> tuple[np.ndarray, np.ndarray]:
    odds = evidence(over) * weight
    sure, likely = np.zeros((2, *over.shape), bool)
    share, likely_share = np.zeros((2, *over.shape), np.float32)
    for code, region in rates.items():
        inside = regions == code
        mine = odds[:, inside]
        if not mine.size:
            continue
        sure[:, inside] = likeliest(mine, region.rates, region.mangrove)
        share[:, inside] = smooth(mine, region.rates, region.mangrove)
        often = _oftener(region.rates)
        likely[:, inside] = likeliest(mine, often, region.mangrove)
        likely_share[:, inside] = smooth(mine, often, region.mangrove)
    course = confirm_changes(sure, likely)
    return course, np.where((course != sure).any(axis=0), likely_share, share)


def _oftener(rates: Rates) -> Rates:
    return Rates(*(max(rate, min(LIKELY_RATES * rate, MOST_RATE)) for rate in rates))


def fit_region(over: np.ndarray, weight: np.ndarray, threshold: float) -> RegionRates:
    """Estimate how often the land of a region changes, from the years of pixels that stand for it.

    Parameters
    ----------
    over : ndarray of float32, shape (year, pixel)
        As of ``odds_of_years``.
    weight : ndarray of float32, shape (year, pixel)
        Of ``weight_of``.
    threshold : float
        What the share of mangrove begins with, as with rare mangrove it is rarely passed.

    Examples
    --------
    >>> none = np.zeros((5, 0), dtype="float32")
    >>> fit_region(none, none, 0.4).rates.loss  # of no pixel: as it begins
    0.005
    """
    mangrove = min(max(float((over > 0).mean()) if over.size else threshold, 0.001), 0.999)
    return RegionRates(*fit_rates(evidence(over) * weight, Rates.balanced(LOSS_RATE, mangrove), mangrove))


def suspect_tide(
    history: History,
    seen_before: np.ndarray,
    frequency: np.ndarray,
    classes: np.ndarray,
    years: Sequence[int],
    corner: tuple[int, int],
) -> np.ndarray:
    """Flag changes that may be nothing but another height of the tide.

    Sparse canopy (water seen through it in ``SPARSE`` of the looks of its median year as mangrove) within
    ``WATER_REACH_PX`` of water, lost or gained between years that saw the coast at unlike heights
    (``kernels.tide``).

    Parameters
    ----------
    history : History
        Of a tile, arrays (y, x).
    seen_before : ndarray of uint16, shape (2, y, x)
        Of ``Trace``.
    frequency : ndarray of uint16, shape (year, y + 2 * WATER_REACH_PX, x + 2 * WATER_REACH_PX)
        Water frequency of the years' cubes, of the tile and what lies round it.
    classes : ndarray of uint8, shape (year, y, x)
        Of ``Trace``.
    years : sequence of int
    corner : tuple of int
        Row and column of the tile's first pixel in the grid of its zone.

    Returns
    -------
    ndarray of bool, shape (y, x)
    """
    changed = (history.loss_year > 0) | (history.gain_year > 0)
    if not changed.any():
        return changed
    inner = np.s_[..., WATER_REACH_PX:-WATER_REACH_PX, WATER_REACH_PX:-WATER_REACH_PX]
    own = frequency[inner]
    beside = within_reach(_median(frequency) >= WATER, WATER_REACH_PX)[inner]
    sparse = _median(own, classes) >= SPARSE
    levels = wetness_levels(own, corner=corner)
    flagged = [
        tide_suspect(levels, years, changed, before, beside, sparse, corner=corner)
        for changed, before in zip((history.loss_year, history.gain_year), seen_before, strict=True)
    ]
    return flagged[0] | flagged[1]


def _median(frequency: np.ndarray, classes: np.ndarray | None = None) -> np.ndarray:
    """Return the median over years of what is known, float32 (y, x), or of its mangrove alone; -1 where nothing is."""
    found = np.empty(frequency.shape[1:], np.float32)
    for top in range(0, len(found), _ROWS_AT_ONCE):
        rows = slice(top, top + _ROWS_AT_ONCE)
        known = frequency[:, rows] <= PROBABILITY_SCALE
        if classes is not None:
            known &= classes[:, rows] == MANGROVE
        found[rows] = _median_of(frequency[:, rows], known)
    return found


def _median_of(frequency: np.ndarray, known: np.ndarray) -> np.ndarray:
    values = np.where(known, frequency, np.uint16(PROBABILITY_MISSING))  # missing ones sort last
    values.sort(axis=0)
    count = known.sum(axis=0)
    low, high = (
        np.take_along_axis(values, np.maximum(at, 0)[np.newaxis], axis=0)[0] for at in ((count - 1) // 2, count // 2)
    )
    # count // 2 is at most the last known one, but where nothing is known.
    return np.where(count > 0, (low.astype(np.float32) + high) / 2, np.float32(-1))
