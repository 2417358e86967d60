"""A pixel's years together: what it was in each, given that land seldom changes and that a year's map errs.

Two states, mangrove and other, by a hidden Markov model (Rabiner 1989, doi 10.1109/5.18626). A year's probability of
mangrove P is evidence by its odds against the share of mangrove where the classifier learnt, tempered: errors of a
pixel persist over the years, so that ten maps are not ten witnesses. A year without an observation says nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from engine.legend import PROBABILITY_MISSING, PROBABILITY_SCALE

TEMPER = 0.5
"""Exponent of a year's odds."""

LEAST_PROBABILITY = 0.005
"""Of a year's P and 1 - P: no map is surer."""


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


def evidence(probability: np.ndarray, learnt: float) -> np.ndarray:
    """Return the tempered log-odds of mangrove that each year's map brings.

    Parameters
    ----------
    probability : ndarray of uint16, shape (year, ...)
        Probability x 10 000 as maps hold it, at the share ``learnt``; 65 535 where not observed.
    learnt : float
        Share of mangrove of the land that probabilities are calibrated to.

    Returns
    -------
    ndarray of float32, shape (year, ...)
        0 where not observed.

    Examples
    --------
    Even odds where a fifth is mangrove speak for mangrove, by half of log 4:

    >>> evidence(np.array([5000, 2000, 65535], dtype="uint16"), 0.2).round(3)
    array([0.693, 0.   , 0.   ], dtype=float32)
    """
    share = np.clip(probability / PROBABILITY_SCALE, LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    odds = np.log(share / (1 - share)) - np.log(learnt / (1 - learnt))
    return np.where(probability == PROBABILITY_MISSING, 0.0, TEMPER * odds).astype(np.float32)


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


def _check(odds: np.ndarray, rates: Rates, prior: float) -> None:
    if odds.ndim != 2 or odds.dtype != np.float32 or not odds.shape[0]:
        raise ValueError(f"odds must be float32 (year, pixel) of a year or more, got {odds.dtype} {odds.shape}")
    for name, value in (("loss", rates.loss), ("gain", rates.gain), ("prior", prior)):
        if not 0 < value < 1:
            raise ValueError(f"{name} must lie between 0 and 1, got {value}")


@njit(cache=True, nogil=True, error_model="numpy")
def _smooth(odds, loss, gain, prior, found):
    years, pixels = odds.shape
    ahead = np.empty(years)  # odds of mangrove by the years up to each
    for pixel in range(pixels):
        share = prior
        for year in range(years):
            if year:
                share = share * (1 - loss) + (1 - share) * gain
            ratio = share / (1 - share) * np.exp(odds[year, pixel])
            share = ratio / (1 + ratio)
            ahead[year] = share
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
