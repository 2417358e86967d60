"""A pixel's years together: what it was in each, given that land seldom changes and that a year's map errs.

Two states, mangrove and other, by a hidden Markov model (Rabiner 1989, doi 10.1109/5.18626). A year's map is evidence
by how far its log-odds pass the threshold it is drawn at, sharpened: around a pixel's own level, which may be far from
certain and stays so over the years, maps vary little, so that a step of it tells more than its odds do. A year without
an observation says nothing.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numba import njit

SHARPNESS: Final = 3.0
"""Of a year's log-odds. Their noise from year to year has a variance of about .25 to .5, which as normal distributions
round two levels a step of 1.5 apart would make it 3 to 6. By the odds as they are (1), or tempered (.5), nearly no
change of a simulated decade outweighs its rarity."""

LEAST_RATE: Final = 1e-4
MOST_RATE: Final = 0.05
"""Between which rates of loss and of gain are estimated."""


class Rates(NamedTuple):
    """How land changes in a year."""

    loss: float
    """Probability that mangrove is none a year later."""

    gain: float
    """Probability that other land is mangrove a year later."""

    @classmethod
    def balanced(cls, loss: float, prevalence: float) -> Rates:
        """Return rates that leave the share of mangrove as it is.

        Examples
        --------
        >>> Rates.balanced(0.005, 0.2)
        Rates(loss=0.005, gain=0.00125)
        """
        return cls(loss, loss * prevalence / (1 - prevalence))


def evidence(over: np.ndarray) -> np.ndarray:
    """Return the log-odds of mangrove that each year's map brings.

    Parameters
    ----------
    over : ndarray of float32, shape (year, ...)
        By how much the year's log-odds pass the threshold's, from ``segments.logit_over``; nan where not observed.

    Returns
    -------
    ndarray of float32, shape (year, ...)
        0 where not observed.

    Examples
    --------
    >>> evidence(np.array([0.5, -1.0, np.nan], dtype="float32"))
    array([ 1.5, -3. ,  0. ], dtype=float32)
    """
    return np.where(np.isnan(over), 0, SHARPNESS * over).astype(np.float32)


def smooth(odds: np.ndarray, rates: Rates, prior: float) -> np.ndarray:
    """Return the probability of mangrove in each year, given all years (forward and backward).

    Parameters
    ----------
    odds : ndarray of float32, shape (year, pixel)
        From ``evidence``.
    rates : Rates
    prior : float
        Share of mangrove of the land mapped, 0 < prior < 1.

    Returns
    -------
    ndarray of float32, shape (year, pixel)
    """
    _check(odds, rates, prior)
    found = np.empty(odds.shape, np.float32)
    _smooth(np.ascontiguousarray(odds), rates.loss, rates.gain, prior, found)
    return found


def likeliest(odds: np.ndarray, rates: Rates, prior: float) -> np.ndarray:
    """Return the likeliest course of all years together (Viterbi), of equally likely ones that with mangrove later.

    Parameters
    ----------
    odds, rates, prior
        As of ``smooth``.

    Returns
    -------
    ndarray of bool, shape (year, pixel)
        True for mangrove.
    """
    _check(odds, rates, prior)
    found = np.empty(odds.shape, np.bool_)
    _likeliest(np.ascontiguousarray(odds), rates.loss, rates.gain, prior, found)
    return found


class Changes(NamedTuple):
    """Expected numbers of pixel-years of some land, to be added up."""

    mangrove: float
    """Mangrove with a year after it."""

    lost: float
    """Of these, with none a year later."""

    other: float
    gained: float
    first: float
    """Mangrove in the first year."""

    pixels: float

    def rates(self) -> Rates:
        """Return the rates these numbers say, within ``LEAST_RATE`` and ``MOST_RATE``."""
        pairs = ((self.lost, self.mangrove), (self.gained, self.other))
        return Rates(*(min(max(part / whole if whole else 0.0, LEAST_RATE), MOST_RATE) for part, whole in pairs))


def count_changes(odds: np.ndarray, rates: Rates, prior: float) -> Changes:
    """Return how many changes to expect, given all years: the expectation step of Baum and Welch.

    Parameters
    ----------
    odds, rates, prior
        As of ``smooth``.
    """
    _check(odds, rates, prior)
    mangrove, lost, other, gained, first = _count(np.ascontiguousarray(odds), rates.loss, rates.gain, prior)
    return Changes(mangrove, lost, other, gained, first, odds.shape[1])


def fit_rates(odds: np.ndarray, rates: Rates, prior: float, *, rounds: int = 20) -> tuple[Rates, float]:
    """Estimate how often some land changes, and its share of mangrove, from its years (Baum and Welch).

    Parameters
    ----------
    odds : ndarray of float32, shape (year, pixel)
        Of pixels that stand for the land.
    rates, prior
        To begin with.
    rounds : int
        Most steps; fewer where nothing moves by a thousandth of itself.

    Returns
    -------
    Rates
        Within ``LEAST_RATE`` and ``MOST_RATE``; as given where there is one year only, or no pixel.
    float
        Share of mangrove in the first year.
    """
    if odds.shape[0] < 2 or not odds.shape[1]:
        return rates, prior
    for _ in range(rounds):
        found = count_changes(odds, rates, prior)
        fitted = found.rates()
        share = min(max(found.first / found.pixels, LEAST_RATE), 1 - LEAST_RATE)
        still = np.allclose((*fitted, share), (*rates, prior), rtol=1e-3)
        rates, prior = fitted, share
        if still:
            break
    return rates, prior


def _check(odds: np.ndarray, rates: Rates, prior: float) -> None:
    if odds.ndim != 2 or odds.dtype != np.float32 or not odds.shape[0]:
        raise ValueError(f"odds must be float32 (year, pixel) of a year or more, got {odds.dtype} {odds.shape}")
    for name, value in (("loss", rates.loss), ("gain", rates.gain), ("prior", prior)):
        if not 0 < value < 1:
            raise ValueError(f"{name} must lie between 0 and 1, got {value}")


@njit(cache=True, nogil=True, error_model="numpy")
def _go_ahead(odds, pixel, loss, gain, prior, ahead):
    """Fill ``ahead`` with the share of mangrove that the years up to each say."""
    share = prior
    for year in range(odds.shape[0]):
        if year:
            share = share * (1 - loss) + (1 - share) * gain
        ratio = share / (1 - share) * np.exp(odds[year, pixel])
        share = ratio / (1 + ratio)
        ahead[year] = share


@njit(cache=True, nogil=True, error_model="numpy")
def _smooth(odds, loss, gain, prior, found):
    years, pixels = odds.shape
    ahead = np.empty(years)  # odds of mangrove by the years up to each
    for pixel in range(pixels):
        _go_ahead(odds, pixel, loss, gain, prior, ahead)
        behind = 1.0  # likelihood of the years after, of mangrove over other
        for year in range(years - 1, -1, -1):
            ratio = ahead[year] / (1 - ahead[year]) * behind
            found[year, pixel] = ratio / (1 + ratio)
            here = behind * np.exp(odds[year, pixel])
            behind = ((1 - loss) * here + loss) / (gain * here + (1 - gain))


@njit(cache=True, nogil=True, error_model="numpy")
def _likeliest(odds, loss, gain, prior, found):
    years, pixels = odds.shape
    stay, lost, gained, absent = np.log(1 - loss), np.log(loss), np.log(gain), np.log(1 - gain)
    from_mangrove = np.empty((years, 2), np.bool_)  # whether the best way to other, and to mangrove, is from mangrove
    for pixel in range(pixels):
        mangrove, other = np.log(prior) + odds[0, pixel], np.log(1 - prior)
        for year in range(1, years):
            from_mangrove[year, 0] = mangrove + lost > other + absent
            from_mangrove[year, 1] = mangrove + stay > other + gained
            to_other = mangrove + lost if from_mangrove[year, 0] else other + absent
            to_mangrove = mangrove + stay if from_mangrove[year, 1] else other + gained
            mangrove, other = to_mangrove + odds[year, pixel], to_other
        state = mangrove >= other
        for year in range(years - 1, -1, -1):
            found[year, pixel] = state
            if year:
                state = from_mangrove[year, 1 if state else 0]


@njit(cache=True, nogil=True, error_model="numpy")
def _count(odds, loss, gain, prior):
    years, pixels = odds.shape
    ahead, behind = np.empty(years), np.empty(years)  # share by the years up to each; likelihood ratio of those after
    mangrove, lost, other, gained, first = 0.0, 0.0, 0.0, 0.0, 0.0
    for pixel in range(pixels):
        _go_ahead(odds, pixel, loss, gain, prior, ahead)
        behind[years - 1] = 1.0
        for year in range(years - 1, 0, -1):
            here = behind[year] * np.exp(odds[year, pixel])
            behind[year - 1] = ((1 - loss) * here + loss) / (gain * here + (1 - gain))
        for year in range(years):
            ratio = ahead[year] / (1 - ahead[year]) * behind[year]
            share = ratio / (1 + ratio)
            if year == 0:
                first += share
            if year == years - 1:
                continue
            # Mangrove next year, over other, for either state of this one.
            here = behind[year + 1] * np.exp(odds[year + 1, pixel])
            stays = (1 - loss) * here / ((1 - loss) * here + loss)
            comes = gain * here / (gain * here + (1 - gain))
            mangrove += share
            lost += share * (1 - stays)
            other += 1 - share
            gained += (1 - share) * comes
    return mangrove, lost, other, gained, first
