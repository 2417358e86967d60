"""Accuracy and area from a stratified random sample of pixels whose true class an interpreter told.

Strata may be the classes of the map or any other parts of it (a buffer round mapped change is one): the estimators are
those of Stehman (2014), which with classes as strata are Olofsson's (2013, 2014).

The interval of an area comes from limits of each stratum (``share_interval``). Of rare change an interval of two
standard errors holds the truth in .68 to .94 of samples only, as most have no unit where the map missed some; with the
variance by Jeffreys' prior in all of them, far too wide. Limits unlike on either side keep .94 to .97
(docs/assessing.md).

References
----------
Olofsson et al. 2013, doi 10.1016/j.rse.2012.10.031; 2014, doi 10.1016/j.rse.2014.02.015. Stehman 2014,
doi 10.1080/01431161.2014.930207; Cochran 1977, Sampling Techniques, chapters 5 and 6.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from scipy.special import betaincinv

Z_95: Final = 1.96
"""Standard errors on either side of a 95 % interval."""


class Estimate(NamedTuple):
    """An estimate and its standard error."""

    value: float
    error: float

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval."""
        return self.value - Z_95 * self.error, self.value + Z_95 * self.error


class Limits(NamedTuple):
    """Estimates and the ends of their 95 % intervals, float64, any one shape."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


class Accuracy(NamedTuple):
    """What a sample says of a map."""

    matrix: np.ndarray
    """float64 (mapped class, true class), estimated shares of the land: sums to 1."""

    overall: Estimate
    users: tuple[Estimate, ...]
    """Of each class: the share of what is mapped so that is so."""

    producers: tuple[Estimate, ...]
    """Of each class: the share of what is so that is mapped so."""

    shares: tuple[Estimate, ...]
    """Of each class: its share of the land, corrected for the map's errors; times the land's area it is an area."""


def estimate_share(size: np.ndarray, stratum: np.ndarray, found: np.ndarray, *, jeffreys: bool = False) -> Estimate:
    """Estimate the share of the land of which something is so.

    Parameters
    ----------
    size : ndarray of float or int, shape (stratum,)
        Pixels, or hectares, of each stratum.
    stratum : ndarray of int, shape (unit,)
        Of each unit of the sample; every stratum needs two.
    found : ndarray of bool, shape (unit,)
    jeffreys : bool
        Where all n units of a stratum say the same, take its p (1 - p) at p = .5 / (n + 1), as Jeffreys' prior would:
        else an interval knows for sure what a few units suggest, and rare classes are outside it too often.

    Raises
    ------
    ValueError
        If a stratum has fewer than two units.

    Examples
    --------
    Of two strata of 30 and 70 pixels, 8 of 10 and 1 of 10 are so: .3 * .8 + .7 * .1.

    >>> found = np.repeat([True, False, True, False], [8, 2, 1, 9])
    >>> share = estimate_share(np.array([30, 70]), np.repeat([0, 1], 10), found)
    >>> round(share.value, 3), round(share.error, 4)
    (0.31, 0.0806)
    """
    weight, count = _design(size, stratum)
    mean = np.bincount(stratum, found, minlength=weight.size) / count
    spread = mean * (1 - mean)
    if jeffreys:
        least = 0.5 / (count + 1)
        spread = np.where(spread == 0, least * (1 - least), spread)
    return Estimate(float(weight @ mean), float(np.sqrt(np.sum(weight**2 * spread / (count - 1)))))


def jeffreys_limits(hits: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of the 95 % interval of a share by Jeffreys' prior.

    They reach 0 where it is so of one unit or none, and 1 where it is not of one or none: of a share far below one in
    ``count`` some samples find a unit, and what it says of the least there is would be false in each of them.

    Parameters
    ----------
    hits, count : ndarray of float or int
        Units of which it is so, and units; broadcast against each other.

    Returns
    -------
    tuple of ndarray of float64

    References
    ----------
    Brown, Cai and DasGupta 2001, doi 10.1214/ss/1009213286, with the alteration at one unit of their 4.1.2.

    Examples
    --------
    >>> low, high = jeffreys_limits(np.array([0, 1, 5, 10]), np.array(10))
    >>> low.round(3), high.round(3)
    (array([0.   , 0.   , 0.224, 0.783]), array([0.217, 0.381, 0.776, 1.   ]))
    """
    hits, count = np.asarray(hits, np.float64), np.asarray(count, np.float64)
    low = betaincinv(hits + 0.5, count - hits + 0.5, 0.025)
    high = betaincinv(hits + 0.5, count - hits + 0.5, 0.975)
    return np.where(hits <= 1, 0.0, low), np.where(hits >= count - 1, 1.0, high)


def share_interval(
    weight: np.ndarray, count: np.ndarray, hits: np.ndarray, *, population: np.ndarray | None = None
) -> Limits:
    """Estimate the share of the land of which something is so, its interval from limits of every stratum.

    The distances of Jeffreys' limits from the estimate, stratum by stratum, add up as variances do: the square root of
    the sum of their squares, apart for either side (MOVER).

    Parameters
    ----------
    weight : ndarray of float, shape (stratum,)
        Share of the land of each stratum; or its hectares, and so is what is returned.
    count : ndarray of int, shape (stratum,)
        Units of the sample.
    hits : ndarray of int or float, shape (..., stratum)
        Units of which it is so; leading axes are samples, or questions, answered at once.
    population : ndarray of int, shape (stratum,), optional
        Pixels of each stratum: what is drawn without replacement is surer by the root of 1 - count / population.

    Returns
    -------
    Limits
        Each float64 (...,).

    Raises
    ------
    ValueError
        If a stratum that weighs something has no unit.

    References
    ----------
    Zou and Donner 2008, doi 10.1002/sim.3095, the method of variance estimates recovery; Waller et al. 1994,
    Statistics in Medicine 13, 1071, and Yan and Su 2010, Statistics in Biopharmaceutical Research 2, 329, for strata.

    Examples
    --------
    Of two strata of 30 and 70 ha, 8 of 10 and none of 10 are so; the second may well hide some.

    >>> found = share_interval(np.array([30, 70]), np.array([10, 10]), np.array([8, 0]))
    >>> [round(float(end), 1) for end in found]
    [24.0, 14.9, 39.9]
    """
    weight, count, hits = (np.asarray(part, np.float64) for part in (weight, count, hits))
    kept = weight > 0
    if (count[kept] < 1).any():
        raise ValueError(f"every stratum needs a unit, got {count.astype(int).tolist()}")
    weight, count, hits = weight[kept], count[kept], hits[..., kept]
    share = hits / count
    low, high = jeffreys_limits(hits, count)
    scale = weight**2
    if population is not None:
        scale = scale * np.maximum(0.0, 1 - count / np.asarray(population, np.float64)[kept])
    value = share @ weight
    below, above = (np.sqrt((share - end) ** 2 @ scale) for end in (low, high))
    return Limits(value, np.maximum(value - below, 0.0), np.minimum(value + above, weight.sum()))


def difference_interval(ones: Limits, others: Limits) -> Limits:
    """Return the difference of two estimates of one sample, such as gain and loss, and its 95 % interval.

    By the same method, as if the two were independent. They are nearly: a unit found in one is not in the other, which
    ties them by the product of both shares alone.

    Examples
    --------
    >>> [round(float(end), 1) for end in difference_interval(Limits(5.0, 3.0, 8.0), Limits(9.0, 6.0, 13.0))]
    [-4.0, -8.5, 0.2]
    """
    below = np.hypot(ones.value - ones.low, others.high - others.value)
    above = np.hypot(ones.high - ones.value, others.value - others.low)
    value = ones.value - others.value
    return Limits(value, value - below, value + above)


def fraction_interval(part: Limits, rest: Limits) -> Limits:
    """Return the share that one estimate has of itself and another, and its 95 % interval, by the same method.

    So is producer's accuracy, of what was found and what was missed. The error of the ratio that ``estimate_ratio``
    gives takes what no unit was found of for nothing: of rare loss that holds the truth in .45 to .94 of samples.

    References
    ----------
    Donner and Zou 2012, Statistical Methods in Medical Research 21, 347, equation 9.

    Examples
    --------
    Of loss 80 ha were mapped; missed nobody found any, but 20 ha may be.

    >>> part, rest = (Limits(*map(np.array, ends)) for ends in ((80.0, 70.0, 88.0), (0.0, 0.0, 20.0)))
    >>> [round(float(end), 2) for end in fraction_interval(part, rest)]
    [1.0, 0.8, 1.0]
    """
    both = part.value + rest.value
    with np.errstate(divide="ignore", invalid="ignore"):
        value = np.where(both > 0, part.value / both, np.nan)
        low, high = 1 / (1 + _most_times(rest, part)), 1 - 1 / (1 + _most_times(part, rest))
    return Limits(value, np.where(both > 0, low, np.nan), np.where(both > 0, high, np.nan))


def _most_times(one: Limits, other: Limits) -> np.ndarray:
    """Return how many times another estimate one may be at most; infinite where the other may be nothing."""
    product, least = one.value * other.value, other.low * (2 * other.value - other.low)
    root = np.sqrt(np.maximum(0.0, product**2 - one.high * (2 * one.value - one.high) * least))
    return np.where(least > 0, (product + root) / least, np.inf)


def interval_coverage(
    pixels: np.ndarray,
    positive: np.ndarray,
    count: np.ndarray,
    *,
    draws: int = 1000,
    seed: int = 1,
    reader_error: float = 0.0,
) -> tuple[float, float]:
    """Draw a sample many times and count how often the interval holds the truth.

    Parameters
    ----------
    pixels, positive : ndarray of int, shape (stratum,)
        Pixels of each stratum, and those of them of which it is truly so.
    count : ndarray of int, shape (stratum,)
        Units drawn of each, without replacement.
    draws, seed : int
    reader_error : float
        Share of labels, of either kind, that are wrong.

    Returns
    -------
    coverage : float
    halfwidth : float
        Mean of half the interval, as a share of the truth.

    Examples
    --------
    Loss is 80 % of what is mapped so and .1 % of the rest; wrong labels of the rest then look like loss.

    >>> pixels, positive, count = np.array([9_000, 991_000]), np.array([7_200, 991]), np.array([100, 900])
    >>> [round(interval_coverage(pixels, positive, count, reader_error=error)[0], 2) for error in (0, 0.05)]
    [0.96, 0.0]
    """
    pixels, positive, count = (np.asarray(part, np.int64) for part in (pixels, positive, count))
    rng = np.random.default_rng(seed)
    hits = rng.hypergeometric(positive, pixels - positive, count, size=(draws, pixels.size))
    if reader_error:
        hits = rng.binomial(hits, 1 - reader_error) + rng.binomial(count - hits, reader_error)
    found = share_interval(pixels, count, hits, population=pixels)
    truth = positive.sum()
    return (
        float(np.mean((found.low <= truth) & (truth <= found.high))),
        float(np.mean(found.high - found.low) / 2 / truth) if truth else float("nan"),
    )


def estimate_ratio(size: np.ndarray, stratum: np.ndarray, part: np.ndarray, whole: np.ndarray) -> Estimate:
    """Estimate which share of the land of one kind is of another kind too, by the combined ratio estimator.

    Parameters
    ----------
    size, stratum
        As of ``estimate_share``.
    part, whole : ndarray of bool, shape (unit,)
        ``part`` only where ``whole``.

    Returns
    -------
    Estimate
        nan where no unit is of the whole.

    Raises
    ------
    ValueError
        If a stratum has fewer than two units.
    """
    weight, count = _design(size, stratum)
    of_part, of_whole = (np.bincount(stratum, kind, minlength=weight.size) / count for kind in (part, whole))
    land = float(weight @ of_whole)
    if not land:
        return Estimate(np.nan, np.nan)
    ratio = float(weight @ of_part) / land
    residual = part - ratio * whole
    mean = np.bincount(stratum, residual, minlength=weight.size) / count
    squared = np.bincount(stratum, (residual - mean[stratum]) ** 2, minlength=weight.size) / (count - 1)
    return Estimate(ratio, float(np.sqrt(np.sum(weight**2 * squared / count)) / land))


def assess_sample(
    size: np.ndarray,
    stratum: np.ndarray,
    mapped: np.ndarray,
    true: np.ndarray,
    classes: int,
    *,
    jeffreys: bool = False,
) -> Accuracy:
    """Estimate accuracy and class shares from a stratified sample.

    Parameters
    ----------
    size : ndarray of float or int, shape (stratum,)
        Pixels, or hectares, of each stratum.
    stratum, mapped, true : ndarray of int, shape (unit,)
        Stratum, class by the map and class by the interpreter of each unit, from 0.
    classes : int
    jeffreys : bool
        As of ``estimate_share``: for the overall accuracy and the shares.

    Raises
    ------
    ValueError
        If a stratum has fewer than two units.
    """
    weight, count = _design(size, stratum)
    matrix = np.zeros((classes, classes))
    np.add.at(matrix, (mapped, true), (weight / count)[stratum])
    of = range(classes)
    return Accuracy(
        matrix,
        estimate_share(size, stratum, mapped == true, jeffreys=jeffreys),
        tuple(estimate_ratio(size, stratum, (mapped == k) & (true == k), mapped == k) for k in of),
        tuple(estimate_ratio(size, stratum, (mapped == k) & (true == k), true == k) for k in of),
        tuple(estimate_share(size, stratum, true == k, jeffreys=jeffreys) for k in of),
    )


def _design(size: np.ndarray, stratum: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the share of the land and the number of units of each stratum, float64 (stratum,)."""
    size = np.asarray(size, np.float64)
    count = np.bincount(stratum, minlength=size.size).astype(np.float64)
    if count.size > size.size or (count < 2).any():
        raise ValueError(f"every one of {size.size} strata needs two units, got {count.astype(int).tolist()}")
    return size / size.sum(), count
