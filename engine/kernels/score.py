"""How good a probability is: weighted AUC, precision, recall, F1, Brier score, calibration error; and how sure of it.

Every function takes weights, as a figure means nothing without the population it is about: with
``weight = 1 / inclusion probability`` it is the area mapped, with ones it is the sample as drawn. A figure
that is not defined (no mangrove, nothing predicted) is nan, never 0.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from scipy.sparse import csr_array

PREVALENCES: Final = (0.01, 0.05, 0.20, 0.31)
"""Mangrove shares at which precision is told; .31 is the published study's hold-out."""

CALIBRATION_BINS: Final = 20
"""Bins of probability, of equal width, over which calibration is judged."""


class Rates(NamedTuple):
    """What a threshold gives."""

    precision: float
    recall: float
    f1: float
    false_positive_rate: float


def auc(probability: np.ndarray, positive: np.ndarray, weight: np.ndarray) -> float:
    """Return the chance that a positive outranks a negative, ties counting half.

    Parameters
    ----------
    probability : ndarray of float or int, shape (row,)
        Any score that rises with the positive class.
    positive : ndarray of bool, shape (row,)
        True for the positive class.
    weight : ndarray of float or int, shape (row,)
        Weight of a row, not negative.

    Returns
    -------
    float
        0..1; nan if a class has no weight.

    Examples
    --------
    >>> auc(np.array([0.9, 0.5, 0.5, 0.1]), np.array([True, True, False, False]), np.ones(4))
    0.875
    """
    _, rank = np.unique(probability, return_inverse=True)
    mass = np.asarray(weight, dtype=np.float64)
    yes = np.bincount(rank, mass * positive)
    no = np.bincount(rank, mass * ~positive, minlength=yes.size)
    below = np.cumsum(no) - no
    return _ratio(float((yes * (below + no / 2)).sum()), float(yes.sum() * no.sum()))


def rates(predicted: np.ndarray, positive: np.ndarray, weight: np.ndarray) -> Rates:
    """Return precision, recall, F1 and false positive rate of a weighted confusion matrix.

    Parameters
    ----------
    predicted, positive : ndarray of bool, shape (row,)
        The map's word and the reference's.
    weight : ndarray of float or int, shape (row,)
        Weight of a row.

    Examples
    --------
    >>> rates(np.array([True, True, False, False]), np.array([True, False, True, False]), np.array([3, 1, 1, 5]))
    Rates(precision=0.75, recall=0.75, f1=0.75, false_positive_rate=0.16666666666666666)
    """
    mass = np.asarray(weight, dtype=np.float64)
    hit = float(mass[predicted & positive].sum())
    false_alarm = float(mass[predicted & ~positive].sum())
    missed = float(mass[~predicted & positive].sum())
    rejected = float(mass[~predicted & ~positive].sum())
    return Rates(
        precision=_ratio(hit, hit + false_alarm),
        recall=_ratio(hit, hit + missed),
        f1=_ratio(2 * hit, 2 * hit + false_alarm + missed),
        false_positive_rate=_ratio(false_alarm, false_alarm + rejected),
    )


def at_prevalence(recall: float, false_positive_rate: float, prevalence: float) -> tuple[float, float]:
    """Return precision and F1 the same classifier has where another share of the land is positive.

    Parameters
    ----------
    recall, false_positive_rate : float
        Of the classifier, which do not depend on prevalence.
    prevalence : float
        Share of the positive class, 0..1.

    Examples
    --------
    The published study's P .75, R .98 at 31 %, elsewhere:

    >>> fpr = 0.98 * 0.31 / 0.69 * (1 / 0.75 - 1)
    >>> [round(at_prevalence(0.98, fpr, share)[0], 2) for share in (0.31, 0.10, 0.02)]
    [0.75, 0.43, 0.12]
    """
    hit = prevalence * recall
    false_alarm = (1 - prevalence) * false_positive_rate
    return _ratio(hit, hit + false_alarm), _ratio(2 * hit, hit + false_alarm + prevalence)


def brier(probability: np.ndarray, positive: np.ndarray, weight: np.ndarray) -> float:
    """Return the weighted mean squared difference of probability and outcome.

    Examples
    --------
    >>> brier(np.array([1.0, 0.5]), np.array([True, False]), np.array([3.0, 1.0]))
    0.0625
    """
    mass = np.asarray(weight, dtype=np.float64)
    return _ratio(float((mass * (probability - positive) ** 2).sum()), float(mass.sum()))


def calibration_error(
    probability: np.ndarray, positive: np.ndarray, weight: np.ndarray, bins: int = CALIBRATION_BINS
) -> float:
    """Return the expected calibration error over equal-width bins of probability.

    Parameters
    ----------
    probability : ndarray of float, shape (row,)
        0..1.
    positive : ndarray of bool, shape (row,)
        Outcome.
    weight : ndarray of float or int, shape (row,)
        Weight of a row.
    bins : int
        Number of bins of probability.

    Examples
    --------
    >>> calibration_error(np.array([0.2, 0.2, 0.9]), np.array([True, False, True]), np.array([1, 1, 2]))
    0.2
    """
    mass = np.asarray(weight, dtype=np.float64)
    which = np.minimum((np.asarray(probability) * bins).astype(np.int64), bins - 1)
    gap = np.bincount(which, mass * (probability - positive))
    return _ratio(float(np.abs(gap).sum()), float(mass.sum()))


def average_precision(probability: np.ndarray, positive: np.ndarray, weight: np.ndarray) -> float:
    """Return the mean of the precision at each threshold, weighted by the recall it adds (no interpolation).

    Examples
    --------
    >>> average_precision(np.array([0.9, 0.8, 0.7]), np.array([True, False, True]), np.ones(3))  # (1 + 2/3) / 2
    0.8333333333333333
    """
    mass = np.asarray(weight, dtype=np.float64)
    _, rank = np.unique(probability, return_inverse=True)
    counts = np.stack([np.bincount(rank, mass * ~positive), np.bincount(rank, mass * positive)])
    return float(_average_precision(counts[..., np.newaxis])[0])


def best_threshold(score: np.ndarray, positive: np.ndarray, weight: np.ndarray) -> int:
    """Return the integer score, at least 1, from which calling rows positive gives the highest F1, the lowest of such.

    Parameters
    ----------
    score : ndarray of uint16, shape (row,)
        Probability x 10 000, as maps hold it.
    positive : ndarray of bool, shape (row,)
    weight : ndarray of float or int, shape (row,)

    Raises
    ------
    ValueError
        If no row is positive: no threshold is better than another.

    Examples
    --------
    >>> positive = np.array([True, False, True, False])
    >>> best_threshold(np.array([9000, 4000, 6000, 5000], np.uint16), positive, np.ones(4))
    6000
    """
    if not np.any(np.asarray(weight)[positive] > 0):
        raise ValueError("no row is positive; a threshold needs some")
    values, rank = np.unique(score, return_inverse=True)
    mass = np.asarray(weight, dtype=np.float64)
    hit = np.cumsum(np.bincount(rank, mass * positive)[::-1])[::-1]
    called = np.cumsum(np.bincount(rank, mass)[::-1])[::-1]
    f1 = 2 * hit / (called + mass[positive].sum())
    f1[values == 0] = -1  # would map all of the land
    return max(1, int(values[np.argmax(f1)]))


class ScoreCounts(NamedTuple):
    """How much weight each probability met of each class, block by block: enough for every figure here."""

    probability: np.ndarray
    """float64 (score,), increasing."""

    mass: csr_array
    """float64 (2 * score, block): of the negative class first, then of the positive one."""

    def under(self, times: np.ndarray) -> np.ndarray:
        """Return the weight where block b counts ``times[b]`` times, float64 (2, score, draw) of (block, draw)."""
        return np.asarray(self.mass @ times).reshape(2, self.probability.size, -1)

    def total(self) -> np.ndarray:
        """Return the weight of all blocks together, float64 (2, score, 1)."""
        return self.under(np.ones((self.mass.shape[1], 1)))


def count_scores(
    probability: np.ndarray, positive: np.ndarray, weight: np.ndarray, block: np.ndarray, blocks: int
) -> ScoreCounts:
    """Add up weights by probability, class and block.

    Parameters
    ----------
    probability : ndarray of float, shape (row,)
        0..1; quick where few values occur, as in maps, which hold multiples of 1e-4.
    positive : ndarray of bool, shape (row,)
    weight : ndarray of float or int, shape (row,)
    block : ndarray of int, shape (row,)
        0..``blocks`` - 1.
    blocks : int

    Examples
    --------
    >>> counts = count_scores(np.array([0.2, 0.8, 0.8]), np.array([False, True, True]), np.ones(3), np.zeros(3, int), 1)
    >>> counts.total()[..., 0]
    array([[1., 0.],
           [0., 2.]])
    """
    values, rank = np.unique(probability, return_inverse=True)
    row = rank + values.size * positive.astype(np.int64)
    mass = csr_array((np.asarray(weight, np.float64), (row, block)), shape=(2 * values.size, blocks))
    return ScoreCounts(np.asarray(values, np.float64), mass)


def figures_of(probability: np.ndarray, mass: np.ndarray, cells: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    """Return every figure of some weighted counts, many draws at once.

    Parameters
    ----------
    probability : ndarray of float64, shape (score,)
        Increasing.
    mass : ndarray of float64, shape (2, score, draw)
        Weight of the negative and of the positive class at each probability.
    cells : ndarray of float64, shape (2, 2, draw)
        Weight of the negative and of the positive class, called negative and called positive.

    Returns
    -------
    dict of dict of ndarray of float64, shape (draw,)
        Under ``both``: prevalence, accuracy, auc, brier, calibration_error; under ``positive`` and ``negative``
        precision, recall, f1, average_precision of that class, and under ``positive`` precision and F1 at each of
        ``PREVALENCES`` (``precision_at_1%``). nan where not defined.
    """
    no, yes = mass
    land = no.sum(axis=0), yes.sum(axis=0)
    (rejected, false_alarm), (missed, hit) = cells
    whole = land[0] + land[1]
    values = probability[:, np.newaxis]
    bins = np.minimum((probability * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    in_bin = csr_array((np.ones(bins.size), (bins, np.arange(bins.size))), shape=(CALIBRATION_BINS, bins.size))
    gap = np.abs(in_bin @ ((no + yes) * values - yes)).sum(axis=0)
    both = {
        "prevalence": _ratios(land[1], whole),
        "accuracy": _ratios(hit + rejected, whole),
        "auc": _ratios((yes * (np.cumsum(no, axis=0) - no / 2)).sum(axis=0), land[0] * land[1]),
        "brier": _ratios((no * values**2 + yes * (1 - values) ** 2).sum(axis=0), whole),
        "calibration_error": _ratios(gap, whole),
    }
    positive = _of_class(hit, false_alarm, missed) | {"average_precision": _average_precision(mass)}
    reversed_mass = mass[::-1, ::-1]
    negative = _of_class(rejected, missed, false_alarm) | {"average_precision": _average_precision(reversed_mass)}
    recall, false_positive_rate = positive["recall"], _ratios(false_alarm, land[0])
    for share in PREVALENCES:
        alarm, found = (1 - share) * false_positive_rate, share * recall
        positive[f"precision_at_{share:.0%}"] = _ratios(found, found + alarm)
        positive[f"f1_at_{share:.0%}"] = _ratios(2 * found, found + alarm + share)
    return {"both": both, "positive": positive, "negative": negative}


def block_draws(stratum: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Draw blocks with replacement within their stratum, and return how often each counts.

    Of the n blocks of a stratum n - 1 are drawn, and each counts n / (n - 1) times: the rescaled bootstrap of Rao, Wu
    and Yue (1992, Survey Methodology 18, 209-217), whose variance is not too small where blocks are few, as that of
    the plain bootstrap is.

    Parameters
    ----------
    stratum : ndarray of int, shape (block,)
        0, 1, ...: which blocks may stand for each other.
    draws : int
    seed : int

    Returns
    -------
    ndarray of float64, shape (block, draw)
        Sums over a stratum to its number of blocks; 1 for the only block of a stratum.

    Examples
    --------
    >>> times = block_draws(np.array([0, 0, 0, 1]), 4, seed=0)
    >>> times.sum(axis=0)
    array([4., 4., 4., 4.])
    """
    rng = np.random.default_rng(seed)
    times = np.ones((stratum.size, draws))
    for one in np.unique(stratum):
        members = np.flatnonzero(stratum == one)
        n = members.size
        if n > 1:
            times[members] = rng.multinomial(n - 1, np.full(n, 1 / n), size=draws).T * (n / (n - 1))
    return times


def interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Return the middle ``level`` of what a bootstrap gave; nan twice if over one draw in 20 left it undefined.

    Examples
    --------
    >>> interval(np.arange(101.0), 0.5)
    (25.0, 75.0)
    """
    defined = values[np.isfinite(values)]
    if defined.size < 0.95 * values.size or defined.size == 0:
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _of_class(hit: np.ndarray, false_alarm: np.ndarray, missed: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "precision": _ratios(hit, hit + false_alarm),
        "recall": _ratios(hit, hit + missed),
        "f1": _ratios(2 * hit, 2 * hit + false_alarm + missed),
    }


def _average_precision(mass: np.ndarray) -> np.ndarray:
    """Return average precision, (draw,), of (2, score, draw) by increasing score."""
    no, yes = mass[:, ::-1]
    found = np.cumsum(yes, axis=0)
    called = found + np.cumsum(no, axis=0)
    precision = np.divide(found, called, out=np.zeros_like(found), where=called > 0)
    return _ratios((yes * precision).sum(axis=0), yes.sum(axis=0))


def _ratios(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole > 0)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
