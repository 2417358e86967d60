"""Figures of scored rows, with intervals by block: each table is made of ``engine.scores.score_table`` and of nothing
else, so any figure can be checked by a few lines of one's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd

from engine.kernels.score import CALIBRATION_BINS, ScoreCounts, block_draws, count_scores, figures_of, interval
from engine.scores import ALL_REGIONS, POPULATIONS, labels_of, weights_of

DRAWS: Final = 500
"""Of the bootstrap."""

LEAST_BLOCKS: Final = 3
"""Blocks of 10 km an interval needs; where a class lies unevenly, as many as would be worth the same if alike."""

_CLASS: Final = {"both": "both", "positive": "mangrove", "negative": "other"}
_CLEAR_BINS: Final = (0, 3, 5, 8, 12, 20, 30)


class _Judged(NamedTuple):
    """One population of one region against one label."""

    about: dict[str, Any]
    """population, label, region: the first columns of a table."""

    probability: np.ndarray
    mapped: np.ndarray
    positive: np.ndarray
    weight: np.ndarray
    block: np.ndarray
    """int (row,), 0, 1, ..."""

    times: np.ndarray | None
    """(block, draw), or None where an interval would mean nothing."""

    blocks: int

    def cells(self) -> np.ndarray:
        """Return the weight of each block, actual and mapped class, float64 (block, 2, 2)."""
        found = np.zeros((self.blocks, 2, 2))
        np.add.at(found, (self.block, self.positive.astype(int), self.mapped.astype(int)), self.weight)
        return found


def _each(scores: pd.DataFrame, populations: Sequence[str], draws: int, seed: int) -> Iterator[_Judged]:
    """Yield every population, label and region, all regions first."""
    region_names, region = np.unique(scores["region"].to_numpy(str), return_inverse=True)
    blocks, block = np.unique(scores["block"].to_numpy(), return_inverse=True)
    pair = region * blocks.size + block  # where a block reaches into two regions, each has a block of its own
    probability, mapped = scores["probability"].to_numpy(), scores["mapped"].to_numpy(bool)
    for population in populations:
        weights = weights_of(scores, population)
        for label, positive in labels_of(scores).items():
            for number, name in enumerate((ALL_REGIONS, *region_names), start=-1):
                rows = np.flatnonzero((weights > 0) & (True if number < 0 else region == number))
                if not rows.size:
                    continue
                pairs, within = np.unique(pair[rows], return_inverse=True)
                stratum = strata(pairs // blocks.size)
                times = None
                if draws and np.bincount(stratum).min() >= LEAST_BLOCKS <= _alike(
                    within, positive[rows], weights[rows]
                ):
                    times = block_draws(stratum, draws, seed)
                about = {"population": population, "label": label, "region": str(name)}
                yield _Judged(
                    about, probability[rows], mapped[rows], positive[rows], weights[rows], within, times, pairs.size
                )


def _alike(block: np.ndarray, positive: np.ndarray, weight: np.ndarray) -> float:
    """Return how many blocks of equal weight would be worth as much as these (Kish 1965), of the scarcer class."""
    land = [np.bincount(block[of], weight[of]) for of in (positive, ~positive) if of.any()]
    return min(float(of.sum() ** 2 / (of**2).sum()) for of in land)


def strata(region: np.ndarray) -> np.ndarray:
    """Return which blocks may stand for each other: those of a region, and together those of regions too small.

    Parameters
    ----------
    region : ndarray of int, shape (block,)

    Returns
    -------
    ndarray of int, shape (block,)
        0, 1, ...; each at least ``LEAST_BLOCKS`` often if there are as many blocks.

    Examples
    --------
    >>> strata(np.array([0, 0, 0, 1, 2, 2]))
    array([1, 1, 1, 0, 0, 0])
    """
    names, counts = np.unique(region, return_counts=True)
    order = np.argsort(counts, kind="stable")
    found, current, held = np.empty_like(region), 0, 0
    for name, count in zip(names[order], counts[order], strict=True):
        found[region == name] = current
        held += count
        if held >= LEAST_BLOCKS:
            current, held = current + 1, 0
    if held and current:  # too few alone: all blocks are fewer than a stratum needs, or ties left a rest
        found[found == current] = current - 1
    return found


def metrics_table(
    scores: pd.DataFrame, *, populations: Sequence[str] = POPULATIONS, draws: int = DRAWS, seed: int = 0
) -> pd.DataFrame:
    """Return every figure of a model, with 95 % intervals by block.

    Blocks of 10 km are drawn anew within their region (``engine.kernels.score.block_draws``); those of regions with
    fewer than three share one draw. So an interval says how far other land like these regions' might differ, not
    what other regions would give.

    Parameters
    ----------
    scores : DataFrame
        From ``score_table``.
    populations : sequence of str
        Of ``POPULATIONS``; without ``AS_DRAWN`` where the scored rows are not the draw of the sample.
    draws : int
        Of the bootstrap; 0 for no intervals.
    seed : int

    Returns
    -------
    DataFrame
        population, label, region, class (mangrove, other, both), figure, value, low, high (float64, nan where not
        defined), blocks, rows (int64). Figures: see ``engine.kernels.score.figures_of``.
    """
    found = []
    for one in _each(scores, populations, draws, seed):
        counts, cells = count_scores(one.probability, one.positive, one.weight, one.block, one.blocks), one.cells()
        value = figures_of(counts.probability, counts.total(), cells.sum(axis=0)[..., np.newaxis])
        spread = _resample(counts, cells, one.times)
        for kind, figures in value.items():
            for figure, number in figures.items():
                low, high = interval(spread[kind, figure]) if spread else (np.nan, np.nan)
                about = {**one.about, "class": _CLASS[kind], "figure": figure}
                found.append(
                    {
                        **about,
                        "value": number[0],
                        "low": low,
                        "high": high,
                        "blocks": one.blocks,
                        "rows": one.probability.size,
                    }
                )
    return pd.DataFrame(found)


_AT_ONCE: Final = 50  # draws: 50 MB where all 10 001 probabilities occur


def _resample(counts: ScoreCounts, cells: np.ndarray, times: np.ndarray | None) -> dict[tuple[str, str], np.ndarray]:
    if times is None:
        return {}
    parts = [
        figures_of(counts.probability, counts.under(some), np.tensordot(cells, some, (0, 0)))
        for some in np.split(times, range(_AT_ONCE, times.shape[1], _AT_ONCE), axis=1)
    ]
    return {
        (kind, figure): np.concatenate([part[kind][figure] for part in parts])
        for kind, figures in parts[0].items()
        for figure in figures
    }


def confusion_table(
    scores: pd.DataFrame, *, populations: Sequence[str] = POPULATIONS, draws: int = DRAWS, seed: int = 0
) -> pd.DataFrame:
    """Return confusion matrices as a long table.

    Returns
    -------
    DataFrame
        population, label, region, actual, predicted (mangrove, other), weight (float64, rows or pixels), share,
        low, high: of the actual class, with its 95 % interval by block.
    """
    found = []
    for one in _each(scores, populations, draws, seed):
        cell = one.cells()
        weight = cell.sum(axis=0)
        share = _shares(weight[..., np.newaxis])[..., 0]
        drawn = None if one.times is None else _shares(np.tensordot(cell, one.times, (0, 0)))
        for actual in (1, 0):
            for predicted in (1, 0):
                low, high = (np.nan, np.nan) if drawn is None else interval(drawn[actual, predicted])
                found.append(
                    {
                        **one.about,
                        "actual": ("other", "mangrove")[actual],
                        "predicted": ("other", "mangrove")[predicted],
                        "weight": weight[actual, predicted],
                        "share": share[actual, predicted],
                        "low": low,
                        "high": high,
                    }
                )
    return pd.DataFrame(found)


def _shares(cells: np.ndarray) -> np.ndarray:
    """Divide (actual, predicted, draw) by the sum of each actual class; nan where that is empty."""
    whole = cells.sum(axis=1, keepdims=True)
    return np.divide(cells, whole, out=np.full_like(cells, np.nan), where=whole > 0)


def curve_table(scores: pd.DataFrame, *, populations: Sequence[str] = POPULATIONS, steps: int = 200) -> pd.DataFrame:
    """Return what every threshold would give.

    Returns
    -------
    DataFrame
        population, label, region, threshold (0..1 in ``steps`` steps), precision, recall, f1, false_positive_rate.
    """
    thresholds = np.arange(steps + 1) / steps
    found = []
    for one in _each(scores, populations, 0, 0):
        at = np.searchsorted(thresholds, one.probability, side="right") - 1  # highest threshold still reached
        reached = np.zeros((2, steps + 1))
        np.add.at(reached, (one.positive.astype(int), at), one.weight)
        false_alarm, hit = np.cumsum(reached[:, ::-1], axis=1)[:, ::-1]
        land = one.weight[~one.positive].sum(), one.weight[one.positive].sum()
        with np.errstate(divide="ignore", invalid="ignore"):
            table = pd.DataFrame(
                {
                    "threshold": thresholds,
                    "precision": hit / (hit + false_alarm),
                    "recall": hit / land[1],
                    "f1": 2 * hit / (hit + false_alarm + land[1]),
                    "false_positive_rate": false_alarm / land[0],
                }
            )
        found.append(table.assign(**one.about))
    return _about_first(pd.concat(found, ignore_index=True))


def _about_first(table: pd.DataFrame) -> pd.DataFrame:
    about = ["population", "label", "region"]
    return table[[*about, *(name for name in table if name not in about)]]


def reliability_table(
    scores: pd.DataFrame, *, populations: Sequence[str] = POPULATIONS, draws: int = DRAWS, seed: int = 0
) -> pd.DataFrame:
    """Return how often mangrove is there where a probability says so.

    The calibration error is the sum of ``part * |probability - share|``.

    Returns
    -------
    DataFrame
        population, label, region, bin (0..19, of equal width), part (of the population's weight), probability (its
        mean), share (of mangrove), low, high (95 % interval of the share, by block), for bins with rows.
    """
    found = []
    for one in _each(scores, populations, draws, seed):
        bins = np.minimum((one.probability * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
        cell = np.zeros((2, one.blocks, CALIBRATION_BINS))
        np.add.at(cell, (one.positive.astype(int), one.block, bins), one.weight)
        meant = np.bincount(bins, one.weight * one.probability, minlength=CALIBRATION_BINS)
        weight, yes = cell.sum(axis=(0, 1)), cell[1].sum(axis=0)
        drawn = None if one.times is None else np.tensordot(cell, one.times, (1, 0))
        for number in np.flatnonzero(weight):
            low = high = np.nan
            if drawn is not None:
                with np.errstate(divide="ignore", invalid="ignore"):
                    low, high = interval(drawn[1, number] / drawn[:, number].sum(axis=0))
            found.append(
                {
                    **one.about,
                    "bin": number,
                    "part": weight[number] / weight.sum(),
                    "probability": meant[number] / weight[number],
                    "share": yes[number] / weight[number],
                    "low": low,
                    "high": high,
                }
            )
    return pd.DataFrame(found)


def error_table(scores: pd.DataFrame) -> pd.DataFrame:
    """Return what errors are made of, wall to wall.

    Returns
    -------
    DataFrame
        label, region, error (false alarm, miss), by (truth class, class edge, clear looks, water), value, rows,
        weight (pixels), share (of the region's errors of this kind), rate (errors in the region's land of this value
        and of the class that can be so mistaken). Only what the scores know: no ``truth class`` without truth.
    """
    mapped = scores["mapped"].to_numpy(bool)
    ways = {"class edge": np.where(scores["interior"], "interior", "edge")}
    if "truth_class" in scores:
        ways = {"truth class": scores["truth_class"].astype(str).to_numpy(), **ways}
    if "clear_count" in scores:
        ways["clear looks"] = clear_bins(scores["clear_count"].to_numpy())
    if "wet" in scores:
        ways["water"] = np.where(scores["wet"], "wet", "dry")
    region, weight = scores["region"].to_numpy(), scores["weight"].to_numpy()
    found = []
    for label, positive in labels_of(scores).items():
        for error, may, wrong in (("false alarm", ~positive, mapped), ("miss", positive, ~mapped)):
            for by, value in ways.items():
                rows = pd.DataFrame({"region": region, "value": value, "land": weight, "wrong": wrong})[may]
                rows = pd.concat([rows, rows.assign(region=ALL_REGIONS)]).assign(
                    weight=lambda r: r["land"] * r["wrong"]
                )
                sums = {"rows": ("wrong", "sum"), "weight": ("weight", "sum"), "land": ("land", "sum")}
                cells = rows.groupby(["region", "value"]).agg(**sums).reset_index()
                total = cells.groupby("region")["weight"].transform("sum")
                cells["share"] = (cells["weight"] / total).where(total > 0)
                cells["rate"] = cells["weight"] / cells.pop("land")
                found.append(cells.assign(label=label, error=error, by=by))
    columns = ["label", "region", "error", "by", "value", "rows", "weight", "share", "rate"]
    return pd.concat(found, ignore_index=True)[columns]


def clear_bins(clear_count: np.ndarray) -> np.ndarray:
    """Name the bin of each number of clear looks.

    Examples
    --------
    >>> clear_bins(np.array([0, 4, 8, 99])).tolist()
    ['0-2', '3-4', '8-11', '30+']
    """
    ends = [f"{low}-{high - 1}" for low, high in pairwise(_CLEAR_BINS)]
    names = np.array([*ends, f"{_CLEAR_BINS[-1]}+"], dtype=object)
    return names[np.searchsorted(_CLEAR_BINS, clear_count, side="right") - 1]
