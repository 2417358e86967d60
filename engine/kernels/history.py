"""What happened to a pixel: from its class in every year to a kind of change, its years, and what supports it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

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
)


class History(NamedTuple):
    """Of pixels."""

    kind: np.ndarray
    """uint8 (pixel,), codes of ``legend.CHANGES``."""

    loss_year: np.ndarray
    """uint16 (pixel,): first year without the mangrove, of the last loss; 0 none."""

    gain_year: np.ndarray
    """uint16 (pixel,): first year of the mangrove, of the last gain; 0 none."""

    confidence: np.ndarray
    """uint8 (pixel,), per cent: probability of the class before times that of the class after, of the least sure
    change; 0 without change."""

    looks: np.ndarray
    """uint16 (pixel,): clear looks of the shorter-seen of the stretches on either side, of the least seen change; 0
    without change."""


def tell_history(
    mangrove: np.ndarray,
    probability: np.ndarray,
    looks: np.ndarray,
    observed: np.ndarray,
    years: np.ndarray,
    *,
    recovery_years: int,
) -> History:
    """Tell what happened to pixels.

    Loss and gain lie between observed years: a change is dated by the first observed year after it, so never by the
    first. A loss that is mangrove again within ``recovery_years`` is *loss then recovery*. What changed less than
    ``recovery_years`` before the pixel's last look is *provisional*, as it may yet turn back: of a pixel that changed
    before that too the older change is its kind. Of repeated change the last loss and the last gain are dated.

    Parameters
    ----------
    mangrove : ndarray of bool, shape (year, pixel)
        The class by all years together.
    probability : ndarray of float32, shape (year, pixel)
        Of mangrove, by all years together.
    looks : ndarray of uint16, shape (year, pixel)
        Clear looks.
    observed : ndarray of bool, shape (year, pixel)
        Years with looks enough; the class of others is ignored.
    years : ndarray of uint16, shape (year,)
        Ascending.
    recovery_years : int

    Returns
    -------
    History

    Raises
    ------
    ValueError
        If shapes or dtypes do not fit.

    Examples
    --------
    >>> course = np.array([[1, 1, 0, 0, 0, 0, 0, 0]], dtype=bool).T
    >>> sure, seen = np.where(course, 0.9, 0.1).astype("float32"), np.full(course.shape, 9, dtype="uint16")
    >>> years = np.arange(2010, 2018, dtype="uint16")
    >>> found = tell_history(course, sure, seen, seen > 2, years, recovery_years=5)
    >>> [int(part[0]) for part in found]  # loss of 2012, 81 % sure, 18 looks before it
    [3, 2012, 0, 81, 18]
    """
    shape = mangrove.shape
    if len(shape) != 2 or any(part.shape != shape for part in (probability, looks, observed)):
        raise ValueError(
            "mangrove, probability, looks and observed must all be (year, pixel), "
            f"got {shape}, {probability.shape}, {looks.shape} and {observed.shape}"
        )
    if years.shape != shape[:1] or not (np.diff(years.astype(np.int64)) > 0).all():
        raise ValueError(f"years must be ascending, one for each of {shape[0]}, got {years.tolist()}")
    found = History(
        *(np.zeros(shape[1], dtype) for dtype in (np.uint8, np.uint16, np.uint16, np.uint8, np.uint16)),
    )
    _tell(
        np.ascontiguousarray(mangrove, np.bool_),
        np.ascontiguousarray(probability, np.float32),
        np.ascontiguousarray(looks, np.uint16),
        np.ascontiguousarray(observed, np.bool_),
        years.astype(np.int64),
        recovery_years,
        *found,
    )
    return found


@njit(cache=True, nogil=True)
def _tell(mangrove, probability, looks, observed, years, recovery, kind, loss_year, gain_year, confidence, supported):
    n_years, pixels = mangrove.shape
    changes = np.empty(n_years, np.int64)  # year index of each change
    stretch = np.empty(n_years + 1, np.int64)  # looks of each stretch between changes
    for pixel in range(pixels):
        first, last, count = -1, -1, 0
        surest = 1.0
        seen = 0
        for year in range(n_years):
            if not observed[year, pixel]:
                continue
            if first < 0:
                first = year
            elif mangrove[year, pixel] != mangrove[last, pixel]:
                changes[count], stretch[count] = year, seen
                count += 1
                seen = 0
                was, now = probability[last, pixel], probability[year, pixel]
                sure = was * (1 - now) if mangrove[last, pixel] else (1 - was) * now
                surest = min(surest, sure)
            seen += looks[year, pixel]
            last = year
        if first < 0:
            kind[pixel] = NOT_OBSERVED
            continue
        began, ends = mangrove[first, pixel], mangrove[last, pixel]
        if count == 0:
            kind[pixel] = STABLE_MANGROVE if began else STABLE_OTHER
            continue
        stretch[count] = seen
        least = stretch[0]
        for part in range(1, count + 1):
            least = min(least, stretch[part])
        supported[pixel] = min(least, 65535)
        confidence[pixel] = int(100 * surest + 0.5)
        recovered = began and ends  # every loss is mangrove again in time
        for number in range(count):
            year = changes[number]
            if mangrove[year, pixel]:
                gain_year[pixel] = years[year]
                if number == 0 or years[year] - years[changes[number - 1]] > recovery:
                    recovered = False
            else:
                loss_year[pixel] = years[year]
        if recovered:
            kind[pixel] = LOSS_RECOVERED
            continue
        settled = count  # changes that are old enough by the pixel's last look
        while settled and years[last] - years[changes[settled - 1]] < recovery:
            settled -= 1
        if settled == 0:
            kind[pixel] = PROVISIONAL_GAIN if ends else PROVISIONAL_LOSS
            continue
        ends = mangrove[changes[settled - 1], pixel]
        if began == ends:
            kind[pixel] = LOSS_THEN_GAIN if began else GAIN_THEN_LOSS
        else:
            kind[pixel] = GAIN if ends else LOSS
