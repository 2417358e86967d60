"""A pixel's years as few level stretches: mangrove or not, and when that changed.

Penalised weighted least squares of a piecewise constant series, solved exactly by dynamic programming (Auger and
Lawrence 1989, doi 10.1007/BF02458835): a break costs as much as it must explain.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from engine.legend import PROBABILITY_MISSING, PROBABILITY_SCALE

MOST_LOGIT = 4.6
"""Log-odds beyond which a year is no surer: a probability of .99 at even odds."""

BREAK_COST = 5.0
"""Of a break that a pixel tells by itself, times the logarithm of the number of years, in units of the noise."""

LIKELY_BREAK_COST = 1.0
"""Of a break that counts where neighbours break alike (``support.confirm_changes``)."""

LEVEL_SHARPNESS = 2.0
"""Of a stretch's level: the mean of many years is surer than each of them. Calibrates P in simulated worlds, where the
years' own P are calibrated (expected calibration error .002 to .007; with 1 it is .035)."""

LEAST_NOISE = 0.25
"""Variance of a year's log-odds, at least."""

NOISE_YEARS = 4
"""Observed years from which noise is told from change: of two steps the median is half of the larger one."""

LEAST_STEP = 1.5
"""Log-odds by which neighbouring stretches differ, at least."""


def logit_over(probability: np.ndarray, threshold: float) -> np.ndarray:
    """Return by how much a year's log-odds pass the threshold's, clipped.

    Parameters
    ----------
    probability : ndarray of uint16, shape (year, ...)
        Probability x 10 000 as maps hold it; 65 535 where not observed.
    threshold : float
        From which a pixel is mapped as mangrove.

    Returns
    -------
    ndarray of float32, shape (year, ...)
        nan where not observed.

    Examples
    --------
    >>> logit_over(np.array([4000, 9990, 65535], dtype="uint16"), 0.4).round(2)
    array([0. , 4.6, nan], dtype=float32)
    """
    share = np.clip(probability / PROBABILITY_SCALE, 1e-4, 1 - 1e-4)
    over = np.log(share / (1 - share)) - math.log(threshold / (1 - threshold))
    over = np.where(probability == PROBABILITY_MISSING, np.nan, np.clip(over, -MOST_LOGIT, MOST_LOGIT))
    return over.astype(np.float32)


def probability_of_level(level: np.ndarray, threshold: float) -> np.ndarray:
    """Return the probability of mangrove that a stretch's level means, float32 of its shape; nan stays.

    Examples
    --------
    >>> probability_of_level(np.array([0.0, 2.0, -2.0], dtype="float32"), 0.4).round(3)
    array([0.4  , 0.973, 0.012], dtype=float32)
    """
    return (1 / (1 + (1 - threshold) / threshold * np.exp(-LEVEL_SHARPNESS * level))).astype(np.float32)


def segment(series: np.ndarray, weight: np.ndarray | None = None, *, break_cost: float = BREAK_COST) -> np.ndarray:
    """Return the level of the stretch each year lies in.

    At most ``max(2, ceil(years / 10))`` breaks, as many as lower the squared residuals over the noise by more than
    their cost; then neighbouring stretches that do not lie on either side of 0, or are less than ``LEAST_STEP``
    apart, are joined, the nearest first. The noise is told from the median squared step between observed years, of
    ``NOISE_YEARS`` or more; of fewer it is ``LEAST_NOISE``.

    Parameters
    ----------
    series : ndarray of float32, shape (year, pixel)
        From ``logit_over``.
    weight : ndarray of float32, shape (year, pixel), optional
        Of each year, above 0; 1 is that of a year which tells all it can. Default 1.
    break_cost : float
        Of a break, times the logarithm of the number of years, in units of the noise.

    Returns
    -------
    ndarray of float32, shape (year, pixel)
        A year without an observation is on the level of the observed year before it, at the beginning of that after;
        nan where no year was observed.

    Examples
    --------
    >>> segment(np.array([[3, 3.2, 2.8, -3, -2.8, np.nan, -3.2]], dtype="float32").T)[:, 0].round(2)
    array([ 3.,  3.,  3., -3., -3., -3., -3.], dtype=float32)
    """
    if series.ndim != 2 or series.dtype != np.float32:
        raise ValueError(f"series must be float32 (year, pixel), got {series.dtype} {series.shape}")
    weight = np.ones(series.shape, np.float32) if weight is None else np.ascontiguousarray(weight, np.float32)
    if weight.shape != series.shape or not (weight > 0).all():
        raise ValueError(f"weight must be above 0 and of shape {series.shape}, got {weight.shape}")
    found = np.full(series.shape, np.nan, np.float32)
    _segment(np.ascontiguousarray(series), weight, break_cost, found)
    return found


@njit(cache=True, nogil=True)
def _segment(series, weight, break_cost, found):
    years, pixels = series.shape
    when, values = np.empty(years, np.int64), np.empty(years)
    mass, total, squares = np.zeros(years + 1), np.zeros(years + 1), np.zeros(years + 1)
    steps = np.empty(years)
    most = max(2, (years + 9) // 10)
    least = np.empty((most + 1, years + 1))  # least residual of the first years in so many breaks
    last = np.empty((most + 1, years + 1), np.int64)  # where its last stretch begins
    starts, levels = np.empty(most + 2, np.int64), np.empty(most + 1)
    for pixel in range(pixels):
        count, positive = 0, 0
        for year in range(years):
            value = series[year, pixel]
            if not np.isnan(value):
                positive += value >= 0
                when[count], values[count] = year, value
                share = weight[year, pixel]
                mass[count + 1] = mass[count] + share
                total[count + 1] = total[count] + share * value
                squares[count + 1] = squares[count] + share * value * value
                count += 1
        if count == 0:
            continue
        if count == positive or positive == 0:  # all on one side: whatever the stretches, they are joined
            found[:, pixel] = total[count] / mass[count]
            continue
        parts = _break(
            values, mass, total, squares, count, min(most, count - 1), break_cost, steps, least, last, starts
        )
        parts = _join(mass, total, parts, starts, levels)
        for part in range(parts):
            first = 0 if part == 0 else when[starts[part]]
            end = years if part == parts - 1 else when[starts[part + 1]]
            for year in range(first, end):
                found[year, pixel] = levels[part]


@njit(cache=True, nogil=True)
def _break(values, mass, total, squares, count, most, break_cost, steps, least, last, starts):
    """Fill ``starts`` with where stretches begin, and the end; return how many there are."""
    for year in range(count - 1):
        steps[year] = (values[year + 1] - values[year]) ** 2
    noise = LEAST_NOISE
    if count >= NOISE_YEARS:
        # A step has twice a year's variance, and the median of a chi-square of one degree is .455.
        noise = max(noise, np.median(steps[: count - 1]) / (2 * 0.455))
    best, breaks = np.inf, 0
    for number in range(most + 1):
        for end in range(number + 1, count + 1):
            if number == 0:
                least[0, end], last[0, end] = _residual(mass, total, squares, 0, end), 0
                continue
            least[number, end] = np.inf
            for start in range(number, end):
                here = least[number - 1, start] + _residual(mass, total, squares, start, end)
                if here < least[number, end]:
                    least[number, end], last[number, end] = here, start
        cost = least[number, count] / noise + break_cost * number * math.log(count)
        if cost < best:
            best, breaks = cost, number
    starts[breaks + 1] = count
    end = count
    for number in range(breaks, -1, -1):
        end = last[number, end]
        starts[number] = end
    return breaks + 1


@njit(cache=True, nogil=True)
def _residual(mass, total, squares, start, end):
    whole = total[end] - total[start]
    return squares[end] - squares[start] - whole * whole / (mass[end] - mass[start])


@njit(cache=True, nogil=True)
def _join(mass, total, parts, starts, levels):
    """Join stretches that are no change, fill ``levels``; return how many are left."""
    while True:
        for part in range(parts):
            start, end = starts[part], starts[part + 1]
            levels[part] = (total[end] - total[start]) / (mass[end] - mass[start])
        nearest, at = np.inf, -1
        for part in range(parts - 1):
            step = abs(levels[part + 1] - levels[part])
            same = (levels[part] >= 0) == (levels[part + 1] >= 0)
            if (same or step < LEAST_STEP) and step < nearest:
                nearest, at = step, part
        if at < 0:
            return parts
        for part in range(at + 1, parts):
            starts[part] = starts[part + 1]
        parts -= 1
