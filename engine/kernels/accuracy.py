"""Accuracy and area from a stratified random sample of pixels whose true class an interpreter told.

Strata may be the classes of the map or any other parts of it (a buffer round mapped change is one): the estimators are
those of Stehman (2014), which with classes as strata are Olofsson's (2013, 2014).

References
----------
Olofsson et al. 2013, doi 10.1016/j.rse.2012.10.031; 2014, doi 10.1016/j.rse.2014.02.015. Stehman 2014,
doi 10.1080/01431161.2014.930207; Cochran 1977, Sampling Techniques, chapters 5 and 6.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

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
