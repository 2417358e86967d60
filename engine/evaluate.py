"""Judge a model: row by row on land it never saw, and from these rows every figure, with intervals by block.

``score_table`` makes the rows; each other table is made of them and of nothing else, so any figure can be checked by
a few lines of one's own. What other models would reach (trained on one region, on all but one, on other years, on
less) stands on rows too: ``plan_trials`` says which models, ``run_trial`` fits one and is a dask task,
``trial_rows`` keeps what each said of each row.

Populations: *wall to wall* weighs a row by the land it stands for; *as drawn* counts rows; *eroded* is wall to wall
without class edges. Labels: *mask*, and *truth* where the caller has put it into the table.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final, NamedTuple

import dask
import distributed
import numpy as np
import pandas as pd
import xgboost

from engine.boost import Boosted, fit_boosted, training_weights
from engine.errors import SampleError
from engine.kernels.bins import MISSING_CODE, encode
from engine.kernels.indices import INDICES
from engine.kernels.score import (
    CALIBRATION_BINS,
    auc,
    average_precision,
    best_threshold,
    block_draws,
    count_scores,
    figures_of,
    interval,
    rates,
)
from engine.landsat import BANDS
from engine.legend import MANGROVE, PROBABILITY_SCALE, threshold_code
from engine.model import Model
from engine.params import BoostParams
from engine.rows import PIXEL, PIXEL_YEAR, combine, feature_values, is_thinned, row_keys, run_task
from engine.splits import (
    Split,
    apart,
    block_folds,
    block_ids,
    by_region,
    by_sensor,
    by_year,
    leave_one_region_out,
    random_rows,
    region_folds,
)

POPULATIONS: Final = ("wall to wall", "as drawn", "eroded")
ALL_REGIONS: Final = "all regions"

DRAWS: Final = 500
"""Of the bootstrap."""

LEAST_BLOCKS: Final = 3
"""Blocks of 10 km an interval needs; where a class lies unevenly, as many as would be worth the same if alike."""

ROWS: Final = 100_000
"""Rows that trials are fitted to and judged on, at most."""

_CLASS: Final = {"both": "both", "positive": "mangrove", "negative": "other"}
_CLEAR_BINS: Final = (0, 3, 5, 8, 12, 20, 30)
_NEEDED: Final = ("label", "weight", "region", "interior", *PIXEL_YEAR)
_ALONG: Final = ("clear_count", "sensor", "lon", "lat", "truth", "truth_class")
"""Columns that go along where the table has them."""


# --- rows ------------------------------------------------------------------------------------------------------


def needed_columns(available: Iterable[str], features: Sequence[str]) -> list[str]:
    """Return the columns of a sample that evaluation reads: the features, what it cannot do without, what it can.

    Raises
    ------
    SampleError
        If one it needs is missing.
    """
    here = set(available)
    for name in (*features, *_NEEDED):
        if name not in here:
            raise SampleError(f"sample lacks column {name!r}", fix="draw it again with `mangroves sample`")
    return list(dict.fromkeys((*features, *_NEEDED, *(n for n in (*_ALONG, "thinned", "mndwi") if n in here))))


def mapped_probability(model: Model, frame: pd.DataFrame, boosted: Boosted | None = None) -> np.ndarray:
    """Return what the map would hold for these rows, uint16 (row,), probability x 10 000.

    Parameters
    ----------
    model : Model
    frame : DataFrame
        Its features, int32.
    boosted : Boosted, optional
        Trees to use in place of the model's, fitted like them to other rows.
    """
    if boosted is not None:
        model = replace(model, trees=boosted.trees, edges=boosted.edges)
    return model.probability(encode(feature_values(frame, model.features), model.edges))


def unseen_regions(model: Model, present: Iterable[str]) -> tuple[str, ...]:
    """Return the regions, of those present, that the model was not trained on, by their names."""
    return tuple(sorted(set(present) - set(model.regions)))


def score_table(frame: pd.DataFrame, mapped: np.ndarray) -> pd.DataFrame:
    """Return the table every figure is made of: one row for each row of a sample that is not thinned.

    Parameters
    ----------
    frame : DataFrame
        Sample rows. ``truth`` (bool, mangrove in truth) and ``truth_class`` (str) may be among the columns.
    mapped : ndarray of uint16, shape (row,)
        Probability x 10 000, of a model that never saw the row.

    Returns
    -------
    DataFrame
        region (str), block (int64, 10 km), positive (bool, the mask says mangrove), probability (float64, a multiple
        of 1e-4), weight (float64, pixels), interior (bool), year, zone, grid_row, grid_col, and where the sample has
        what they are made of: wet (bool, MNDWI of the composite above 0), clear_count, sensor, lon, lat, truth,
        truth_class.
    """
    keep = ~is_thinned(frame)
    frame, mapped = frame[keep], mapped[keep]
    found = {
        "region": frame["region"].astype(str).to_numpy(),
        "block": block_ids(frame),
        "positive": (frame["label"] == MANGROVE).to_numpy(),
        "probability": mapped / PROBABILITY_SCALE,
        "weight": frame["weight"].to_numpy(np.float64),
        "interior": frame["interior"].to_numpy(bool),
    }
    found |= {name: frame[name].to_numpy() for name in ("year", "zone", "grid_row", "grid_col")}
    if "mndwi" in frame:
        found["wet"] = (frame["mndwi"] > 0).to_numpy()
    return pd.DataFrame(found | {name: frame[name].to_numpy() for name in _ALONG if name in frame})


def score_part(part: pd.DataFrame, model: Model, regions: Sequence[str]) -> pd.DataFrame:
    """Score the rows of some regions in one partition of a sample by a model that never saw them."""
    part = part[part["region"].isin(list(regions))]
    return score_table(part, mapped_probability(model, part))


def score_sample(
    sample: Any, model: Model, regions: Sequence[str], client: distributed.Client | None = None
) -> pd.DataFrame:
    """Return ``score_table`` of all rows of some regions, which the model never saw.

    Parameters
    ----------
    sample : dask DataFrame
        Columns as of ``needed_columns``.
    model : Model
    regions : sequence of str
    client : distributed.Client, optional
        Where partitions are scored; in this process without one.
    """
    shared = dask.delayed(model, traverse=False)
    parts = [dask.delayed(score_part)(part, shared, list(regions)) for part in sample.to_delayed()]
    return run_task(combine(_join, parts), client)


def _join(parts: list[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(parts, ignore_index=True)


def labels_of(scores: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return what the rows are judged against, by name: bool (row,) each."""
    found = {"mask": scores["positive"].to_numpy(bool)}
    return found | ({"truth": scores["truth"].to_numpy(bool)} if "truth" in scores else {})


def weights_of(scores: pd.DataFrame, population: str) -> np.ndarray:
    """Return the weight of each row in a population, float64 (row,)."""
    if population == "as drawn":
        return np.ones(len(scores))
    weight = scores["weight"].to_numpy(np.float64)
    return np.where(scores["interior"], weight, 0.0) if population == "eroded" else weight


# --- figures ---------------------------------------------------------------------------------------------------


class _Judged(NamedTuple):
    """One population of one region against one label."""

    about: dict[str, Any]
    """population, label, region: the first columns of a table."""

    probability: np.ndarray
    positive: np.ndarray
    weight: np.ndarray
    block: np.ndarray
    """int (row,), 0, 1, ..."""

    times: np.ndarray | None
    """(block, draw), or None where an interval would mean nothing."""

    blocks: int


def _each(scores: pd.DataFrame, draws: int, seed: int) -> Iterator[_Judged]:
    """Yield every population, label and region, all regions first."""
    region_names, region = np.unique(scores["region"].to_numpy(str), return_inverse=True)
    blocks, block = np.unique(scores["block"].to_numpy(), return_inverse=True)
    pair = region * blocks.size + block  # where a block reaches into two regions, each has a block of its own
    probability = scores["probability"].to_numpy()
    for population in POPULATIONS:
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
                yield _Judged(about, probability[rows], positive[rows], weights[rows], within, times, pairs.size)


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


def metrics_table(scores: pd.DataFrame, *, threshold: float, draws: int = DRAWS, seed: int = 0) -> pd.DataFrame:
    """Return every figure of a model, with 95 % intervals by block.

    Blocks of 10 km are drawn anew within their region (``engine.kernels.score.block_draws``); those of regions with
    fewer than three share one draw. So an interval says how far other land like these regions' might differ, not
    what other regions would give.

    Parameters
    ----------
    scores : DataFrame
        From ``score_table``.
    threshold : float
        Probability from which a pixel is mapped as mangrove.
    draws : int
        Of the bootstrap; 0 for no intervals.
    seed : int

    Returns
    -------
    DataFrame
        population, label, region, class (mangrove, other, both), figure, value, low, high (float64, nan where not
        defined), blocks, rows (int64). Figures: see ``engine.kernels.score.figures_of``.
    """
    threshold = threshold_code(threshold) / PROBABILITY_SCALE
    found = []
    for one in _each(scores, draws, seed):
        counts = count_scores(one.probability, one.positive, one.weight, one.block, one.blocks)
        value = figures_of(counts.probability, counts.total(), threshold)
        spread = _resample(counts, one.times, threshold)
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


def _resample(counts: Any, times: np.ndarray | None, threshold: float) -> dict[tuple[str, str], np.ndarray]:
    if times is None:
        return {}
    parts = [
        figures_of(counts.probability, counts.under(times[:, first : first + _AT_ONCE]), threshold)
        for first in range(0, times.shape[1], _AT_ONCE)
    ]
    return {
        (kind, figure): np.concatenate([part[kind][figure] for part in parts])
        for kind, figures in parts[0].items()
        for figure in figures
    }


def confusion_table(scores: pd.DataFrame, *, threshold: float, draws: int = DRAWS, seed: int = 0) -> pd.DataFrame:
    """Return confusion matrices as a long table.

    Returns
    -------
    DataFrame
        population, label, region, actual, predicted (mangrove, other), weight (float64, rows or pixels), share,
        low, high: of the actual class, with its 95 % interval by block.
    """
    threshold = threshold_code(threshold) / PROBABILITY_SCALE
    found = []
    for one in _each(scores, draws, seed):
        called = one.probability >= threshold
        # (block, actual, predicted)
        cell = np.zeros((one.blocks, 2, 2))
        np.add.at(cell, (one.block, one.positive.astype(int), called.astype(int)), one.weight)
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


def curve_table(scores: pd.DataFrame, steps: int = 200) -> pd.DataFrame:
    """Return what every threshold would give.

    Returns
    -------
    DataFrame
        population, label, region, threshold (0..1 in ``steps`` steps), precision, recall, f1, false_positive_rate.
    """
    thresholds = np.arange(steps + 1) / steps
    found = []
    for one in _each(scores, 0, 0):
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


def reliability_table(scores: pd.DataFrame, *, draws: int = DRAWS, seed: int = 0) -> pd.DataFrame:
    """Return how often mangrove is there where a probability says so.

    The calibration error is the sum of ``part * |probability - share|``.

    Returns
    -------
    DataFrame
        population, label, region, bin (0..19, of equal width), part (of the population's weight), probability (its
        mean), share (of mangrove), low, high (95 % interval of the share, by block), for bins with rows.
    """
    found = []
    for one in _each(scores, draws, seed):
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


def error_table(scores: pd.DataFrame, *, threshold: float) -> pd.DataFrame:
    """Return what errors are made of, wall to wall.

    Returns
    -------
    DataFrame
        label, region, error (false alarm, miss), by (truth class, class edge, clear looks, water), value, rows,
        weight (pixels), share (of the region's errors of this kind), rate (errors in the region's land of this value
        and of the class that can be so mistaken). Only what the scores know: no ``truth class`` without truth.
    """
    called = scores["probability"].to_numpy() >= threshold_code(threshold) / PROBABILITY_SCALE
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
        for error, may, wrong in (("false alarm", ~positive, called), ("miss", positive, ~called)):
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


# --- what other models would reach -----------------------------------------------------------------------------

REPEATS: Final = 3
"""Of each point of a learning curve."""

INNER_FOLDS: Final = 2
"""Parts of a training side; a threshold is chosen on each by the model of the other."""


@dataclass(frozen=True, eq=False)
class Trial:
    """One model to be fitted, and the rows it is judged on."""

    kind: str
    """``one region``, ``all but one``, ``in region``, ``blocks``, ``random``, ``sensor``, ``year``, ``out of fold``,
    ``samples`` and ``regions`` (learning curves)."""

    name: str
    """Of kind ``one region``, ``all but one`` and ``in region`` the region; of others what was trained on."""

    repeat: int
    train: np.ndarray
    """bool (row,)"""

    test: np.ndarray
    """bool (row,)"""


class Outcome(NamedTuple):
    """What a trial's model said."""

    mapped: np.ndarray
    """uint16, one for each row of the test side: probability x 10 000, not calibrated."""

    threshold: int
    """x 10 000: of highest F1 wall to wall, out of fold on the training side."""

    rows: int
    """Trained on."""

    boosted: Boosted


def out_of_fold_trials(frame: pd.DataFrame, *, folds: int = 5, seed: int = 0) -> list[Trial]:
    """Return trials that together score every row: folds of regions, or of blocks where there is one region only.

    Raises
    ------
    SampleError
        If all rows lie in one 10 km block.
    """
    parts = region_folds(frame, folds=folds, seed=seed)
    if len(parts) < 2:
        raise SampleError("the sample lies in one 10 km block: no land is left to judge on", fix="sample a wider area")
    return [Trial("out of fold", part.kind, 0, part.train, part.test) for part in parts]


def plan_trials(frame: pd.DataFrame, held_out: Sequence[str], *, seed: int = 0) -> list[Trial]:
    """Return the trials that tell how far a model carries.

    Parameters
    ----------
    frame : DataFrame
        From ``engine.rows.gather_rows``.
    held_out : sequence of str
        Regions that learning curves are judged on; a fourth of the regions (or blocks) where there is none.
    seed : int
    """
    plain = ~is_thinned(frame)
    names = sorted(frame["region"].unique())
    found: list[Trial] = []

    def add(kind: str, splits: Iterable[Split], name: str = "", only: np.ndarray | None = None) -> None:
        for split in splits:
            train = split.train if only is None else split.train & only
            found.append(Trial(kind, name or split.name, 0, train, split.test & plain))

    for name in names:
        here = (frame["region"] == name).to_numpy()
        if others := [other for other in names if other != name]:
            add("one region", [by_region(frame, others, name)], only=here)
        parts = block_folds(frame[here], folds=3, seed=seed)
        if len(parts) > 1:
            add("in region", (_widened(part, here) for part in parts), name)
    if len(names) > 1:
        add("all but one", leave_one_region_out(frame))
    if len(parts := block_folds(frame, folds=4, seed=seed)) > 1:
        add("blocks", parts, parts[0].kind)
        add("random", [random_rows(frame, seed=seed)])
        for kind, splits in _across_kinds(frame, seed):
            add(kind, splits, splits[0].kind)
    return found + _learning_trials(frame, held_out, seed)


def _widened(split: Split, here: np.ndarray) -> Split:
    """Return a split of some rows as one of the whole table."""
    train, test = np.zeros_like(here), np.zeros_like(here)
    train[here], test[here] = split.train, split.test
    return Split(split.name, split.kind, train, test)


def _across_kinds(frame: pd.DataFrame, seed: int) -> Iterator[tuple[str, list[Split]]]:
    """Yield splits by sensor and by year, where the table has several of them."""
    if "sensor" in frame:
        counts = frame["sensor"].astype(str).str.split("+").explode().value_counts()
        first = tuple(name for name in ("L8", "L9") if name in counts) or tuple(counts.index[:1])
        for test in (first, *((name,) for name in sorted(set(counts.index) - set(first)))):
            if len(counts) > len(first):
                try:
                    yield "sensor", by_sensor(frame, train=first, test=test, seed=seed)
                except SampleError:
                    continue  # no composite of these sensors alone
    years = sorted(int(year) for year in frame["year"].unique())
    if len(years) > 1:
        for year in (years[0], years[-1]):
            yield "year", by_year(frame, train=[one for one in years if one != year], test=[year], seed=seed)


def _learning_trials(frame: pd.DataFrame, held_out: Sequence[str], seed: int) -> list[Trial]:
    """Return nested subsets of the training side, by rows of each region and class and by regions."""
    here = sorted(set(held_out) & set(frame["region"]))
    if here and len(here) < frame["region"].nunique():
        test = by_region(frame, here).test
    else:
        test = region_folds(frame, folds=4, seed=seed)[0].test
    train = apart(frame, test)
    test = test & ~is_thinned(frame)
    found = []
    stratum = frame.groupby(["region", "label"]).ngroup().to_numpy()
    regions = frame["region"].to_numpy()
    for repeat in range(REPEATS):
        order = row_keys(frame, seed + 1 + repeat, by=PIXEL)
        rank = pd.Series(np.where(train, order, np.uint64(2**64 - 1))).groupby(stratum).rank(method="dense").to_numpy()
        most = int(rank[train].max(initial=0))
        found += [Trial("samples", str(n), repeat, train & (rank <= n), test) for n in _doublings(50, most)]
        names = np.random.default_rng([seed, repeat]).permutation(np.unique(regions[train]))
        subsets = {n: np.isin(regions, names[:n]) for n in _doublings(1, names.size) if names.size > 1}
        found += [Trial("regions", str(n), repeat, train & of, test) for n, of in subsets.items()]
    return found


def _doublings(first: int, last: int) -> list[int]:
    """Return first, 2 first, 4 first, ... and last."""
    found = [first * 2**power for power in range(32) if first * 2**power < last]
    return [*found, last] if last > 0 else []


def run_trial(
    frame: pd.DataFrame,
    features: Sequence[str],
    params: BoostParams,
    balance: str,
    train: np.ndarray,
    test: np.ndarray,
    seed: int,
) -> Outcome | None:
    """Fit a trial's model and let it speak of the test side; the body of a dask task.

    Parameters
    ----------
    frame : DataFrame
        From ``engine.rows.gather_rows``; shared by all trials.
    features : sequence of str
    params : BoostParams
    balance : str
        As ``engine.boost.training_weights`` takes it.
    train, test : ndarray of uint8
        ``np.packbits`` of bool (row,).
    seed : int
        Of the folds that the threshold is chosen on.

    Returns
    -------
    Outcome or None
        None if the training side is of one class.
    """
    train, test = (np.unpackbits(bits, count=len(frame)).astype(bool) for bits in (train, test))
    side = frame[train].reset_index(drop=True)
    boosted, rows = _fit(side, np.ones(len(side), bool), features, params, balance)
    if boosted is None:
        return None
    threshold = _threshold_out_of_fold(side, features, params, balance, seed)
    mapped = _mapped_by(boosted, feature_values(frame[test], features))
    return Outcome(mapped, threshold, rows, boosted)


def _fit(
    frame: pd.DataFrame, keep: np.ndarray, features: Sequence[str], params: BoostParams, balance: str
) -> tuple[Boosted | None, int]:
    rows = frame[keep]
    positive = (rows["label"] == MANGROVE).to_numpy()
    interior = rows["interior"].to_numpy(bool)
    weight = training_weights(positive, rows["weight"].to_numpy(np.float64), interior, is_thinned(rows), balance)
    used = weight > 0
    if not 0 < positive[used].sum() < used.sum():
        return None, int(used.sum())
    values = feature_values(rows[used], features)
    return fit_boosted(values, positive[used], weight[used], params), int(used.sum())


def _mapped_by(boosted: Boosted, values: np.ndarray) -> np.ndarray:
    return np.rint(boosted.predict(values) * PROBABILITY_SCALE).astype(np.uint16)


def _threshold_out_of_fold(
    frame: pd.DataFrame, features: Sequence[str], params: BoostParams, balance: str, seed: int
) -> int:
    """Choose the threshold of highest F1 wall to wall on rows the judged model's siblings never saw."""
    mapped, seen = np.zeros(len(frame), np.uint16), np.zeros(len(frame), bool)
    for part in region_folds(frame, folds=INNER_FOLDS, seed=seed):
        boosted, _ = _fit(frame, part.train, features, params, balance)
        if boosted is not None:
            mapped[part.test], seen[part.test] = _mapped_by(boosted, feature_values(frame[part.test], features)), True
    seen &= ~is_thinned(frame)
    positive = (frame["label"] == MANGROVE).to_numpy()
    if not (positive & seen).any():
        return PROBABILITY_SCALE // 2  # one block, or mangrove in one fold alone
    return best_threshold(mapped[seen], positive[seen], frame["weight"].to_numpy()[seen])


def trial_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Return what trials are judged against: ``row`` (int32, of ``frame``) and the columns of ``score_table``."""
    keep = ~is_thinned(frame)
    scores = score_table(frame, np.zeros(len(frame), np.uint16)).drop(columns="probability")
    scores.insert(0, "row", np.flatnonzero(keep).astype(np.int32))
    return scores


def trial_scores(number: int, trial: Trial, outcome: Outcome) -> pd.DataFrame:
    """Return what a trial's model said: trial (int16), row (int32), probability (uint16, x 10 000)."""
    rows = np.flatnonzero(trial.test).astype(np.int32)
    return pd.DataFrame({"trial": np.full(rows.size, number, np.int16), "row": rows, "probability": outcome.mapped})


def trial_list(trials: Sequence[Trial], outcomes: Sequence[Outcome | None]) -> pd.DataFrame:
    """Return what each trial was: trial, kind, name, repeat, train_rows, test_rows, threshold (nan: not fitted)."""
    return pd.DataFrame(
        {
            "trial": number,
            "kind": trial.kind,
            "name": trial.name,
            "repeat": trial.repeat,
            "train_rows": outcome.rows if outcome else 0,
            "test_rows": int(trial.test.sum()),
            "threshold": outcome.threshold / PROBABILITY_SCALE if outcome else np.nan,
        }
        for number, (trial, outcome) in enumerate(zip(trials, outcomes, strict=True))
    )


_BY_REGION: Final = ("all but one", "in region")


def trial_figures(listed: pd.DataFrame, rows: pd.DataFrame, said: pd.DataFrame) -> pd.DataFrame:
    """Return the figures of trials, wall to wall; the folds of one name and repeat are judged together.

    Trials that are of one region each (``all but one``, ``in region``) are also judged together, by the name
    ``ALL_REGIONS``.

    Parameters
    ----------
    listed, rows, said : DataFrame
        From ``trial_list``, ``trial_rows`` and ``trial_scores``.

    Returns
    -------
    DataFrame
        kind, name, repeat, label, region, rows, train_rows (mean of the folds), auc, average_precision, and by each
        fold's own threshold precision, recall, f1; nan where not defined.
    """
    table = said.merge(listed[["trial", "kind", "name", "repeat", "threshold", "train_rows"]], on="trial")
    table = table.merge(rows, on="row")
    table["called"] = table["probability"] >= (table["threshold"] * PROBABILITY_SCALE).round()
    together = table[table["kind"].isin(_BY_REGION)].assign(name=ALL_REGIONS)
    groups = [*table.groupby(["kind", "name", "repeat"]), *together.groupby(["kind", "name", "repeat"])]
    found = []
    for (kind, name, repeat), group in groups:
        train_rows = group.groupby("trial")["train_rows"].first().mean()
        for region, some in [(ALL_REGIONS, group), *group.groupby("region")]:
            weight = some["weight"].to_numpy()
            for label, positive in labels_of(some).items():
                reached = rates(some["called"].to_numpy(), positive, weight)
                found.append(
                    {
                        "kind": kind,
                        "name": name,
                        "repeat": repeat,
                        "label": label,
                        "region": region,
                        "rows": len(some),
                        "train_rows": train_rows,
                        "auc": auc(some["probability"].to_numpy(), positive, weight),
                        "average_precision": average_precision(some["probability"].to_numpy(), positive, weight),
                        "precision": reached.precision,
                        "recall": reached.recall,
                        "f1": reached.f1,
                    }
                )
    return pd.DataFrame(found)


_SPLITS: Final = {
    "all but one": "leave one region out",
    "year": "",
    "sensor": "",
    "in region": "each region by its own other blocks, not transfer",
    "blocks": "",
    "random": "random rows, optimistic",
}
"""Kinds of trials that part the sample, and their names where these are not the trial's."""


def split_table(figures: pd.DataFrame) -> pd.DataFrame:
    """Return how one way to part the sample compares to another, all regions together.

    Parameters
    ----------
    figures : DataFrame
        From ``trial_figures``.

    Returns
    -------
    DataFrame
        split (str), and the columns of ``figures``.
    """
    whole = figures[figures["region"] == ALL_REGIONS]
    found = []
    for kind, name in _SPLITS.items():
        of = whole[(whole["kind"] == kind) & ((whole["name"] == ALL_REGIONS) | (kind not in _BY_REGION))]
        found.append(of.assign(split=name or of["name"]))
    return pd.concat(found, ignore_index=True)


def headline(figures: pd.DataFrame, label: str = "mask") -> dict[str, Any]:
    """Return median and worst region of leave-one-region-out, of regions with both classes.

    Parameters
    ----------
    figures : DataFrame
        From ``trial_figures``.
    label : str

    Returns
    -------
    dict
        regions, and of auc and f1 ``median_auc``, ``worst_auc``, ``worst_auc_region``; empty with one region.
    """
    of = figures[(figures["kind"] == "all but one") & (figures["label"] == label)]
    of = of[(of["region"] == of["name"]) & (of["region"] != ALL_REGIONS)].dropna(subset="auc").set_index("region")
    found: dict[str, Any] = {}
    for figure in ("auc", "f1"):
        values = of[figure].dropna()
        if len(values):
            found |= {
                "regions": len(values),
                f"median_{figure}": float(values.median()),
                f"worst_{figure}": float(values.min()),
                f"worst_{figure}_region": str(values.idxmin()),
            }
    return found


# --- what the model looks at -----------------------------------------------------------------------------------

GROUPS: Final = {"bands": BANDS, "indices": INDICES}
"""Features taken together; ``surroundings`` are bands around a pixel, ``ranges`` all else."""


def feature_groups(features: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the groups that occur among some features, and of what.

    Examples
    --------
    >>> feature_groups(("red", "ndvi", "ndvi_range", "ndvi_p10", "red_150m"))
    {'bands': ('red',), 'indices': ('ndvi',), 'ranges': ('ndvi_range', 'ndvi_p10'), 'surroundings': ('red_150m',)}
    """
    known = {name: group for group, names in GROUPS.items() for name in names}
    found: dict[str, tuple[str, ...]] = {}
    for feature in features:
        of_band = feature.rpartition("_")[0] in BANDS
        group = known.get(feature, "surroundings" if of_band else "ranges")
        found[group] = (*found.get(group, ()), feature)
    return found


def permutation_importance(
    frame: pd.DataFrame, features: Sequence[str], boosted: Boosted, repeats: int = 5, seed: int = 0
) -> pd.DataFrame:
    """Return how much AUC is lost, wall to wall, when a feature or group of features says of each row what it says of
    another.

    Parameters
    ----------
    frame : DataFrame
        Sample rows the model never saw, none of them thinned.
    features : sequence of str
        Of the model.
    boosted : Boosted
    repeats : int
        Seeded permutations of each.
    seed : int

    Returns
    -------
    DataFrame
        feature (or group), is_group, repeat, auc (permuted), drop; nan where the rows are of one class.
    """
    codes = encode(feature_values(frame, features), boosted.edges)
    positive, weight = (frame["label"] == MANGROVE).to_numpy(), frame["weight"].to_numpy(np.float64)
    booster = boosted.booster

    def auc_of(codes: np.ndarray) -> float:
        margin = booster.inplace_predict(np.ascontiguousarray(codes.T), missing=MISSING_CODE, predict_type="margin")
        return auc(margin, positive, weight)

    whole = auc_of(codes)
    jobs: list[tuple[str, tuple[str, ...], bool]] = [(name, (name,), False) for name in features]
    jobs += [(name, members, True) for name, members in feature_groups(features).items()]
    found = []
    for name, members, is_group in jobs:
        where = [list(features).index(member) for member in members]
        for repeat in range(repeats):
            order = np.random.default_rng([seed, repeat]).permutation(len(frame))
            changed = codes.copy()
            changed[where] = codes[where][:, order]
            value = auc_of(changed)
            found.append({"feature": name, "is_group": is_group, "repeat": repeat, "auc": value, "drop": whole - value})
    return pd.DataFrame(found)


def shap_table(frame: pd.DataFrame, features: Sequence[str], boosted: Boosted) -> pd.DataFrame:
    """Return what each feature adds to the margin (log-odds) of each row: SHAP values of the trees.

    Lundberg et al. 2020, doi 10.1038/s42256-019-0138-9, as XGBoost computes them. They add up: the features' and the
    bias are the margin.

    Parameters
    ----------
    frame : DataFrame
        Sample rows.
    features : sequence of str
        Of the model.
    boosted : Boosted

    Returns
    -------
    DataFrame
        region, positive, margin, bias (float32), and of each feature ``shap_NAME`` (float32) and ``NAME`` (int32).
    """
    codes = np.ascontiguousarray(encode(feature_values(frame, features), boosted.edges).T)
    data = xgboost.DMatrix(codes.astype(np.float32), missing=MISSING_CODE, nthread=1)
    booster = boosted.booster
    parts = booster.predict(data, pred_contribs=True)
    found = {
        "region": frame["region"].astype(str).to_numpy(),
        "positive": (frame["label"] == MANGROVE).to_numpy(),
        "margin": booster.predict(data, output_margin=True),
        "bias": parts[:, -1],
    }
    for number, name in enumerate(features):
        found[f"shap_{name}"] = parts[:, number]
        found[name] = frame[name].to_numpy(np.int32)
    return pd.DataFrame(found)


def importance_table(permuted: pd.DataFrame, shap: pd.DataFrame) -> pd.DataFrame:
    """Return importance by both measures, the most important first.

    Parameters
    ----------
    permuted : DataFrame
        From ``permutation_importance``, of one model or of several together.
    shap : DataFrame
        From ``shap_table``.

    Returns
    -------
    DataFrame
        feature, is_group, auc_drop, auc_drop_sd (over repeats and models), shap (mean of the absolute value; of a
        group of the absolute value of its sum).
    """
    table = permuted.groupby(["feature", "is_group"])["drop"].agg(auc_drop="mean", auc_drop_sd="std").reset_index()
    features = [str(name).removeprefix("shap_") for name in shap if str(name).startswith("shap_")]
    members = {**{name: (name,) for name in features}, **feature_groups(features)}
    table["shap"] = [
        float(shap[[f"shap_{one}" for one in members[name]]].sum(axis=1).abs().mean()) for name in table["feature"]
    ]
    return table.sort_values(["is_group", "auc_drop", "feature"], ascending=[True, False, True], ignore_index=True)
