"""Fit the classifier to a sample, the same trees however the rows are spread, and score it honestly.

The trees do not depend on row order, partitions, threads or workers: see ``engine.boost``.
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit

import dask
import dask.array
import distributed
import geopandas as gpd
import numpy as np
import pandas as pd
import xgboost
import xgboost.collective
import xgboost.dask

import engine
from engine.area import STUDY_HOLD_OUT
from engine.boost import MAX_ROWS, Rows, booster_params, logistic_gradients, train_rows, trees_of
from engine.errors import ConfigError, SampleError
from engine.files import replacing
from engine.kernels.bins import MISSING_CODE, Histogram, bin_edges, count_values, encode, merge_histograms
from engine.kernels.calibrate import Calibration, curve_of, decide, fit_isotonic, fit_platt, levels_of
from engine.kernels.features import FEATURE_SETS
from engine.kernels.score import PREVALENCES, at_prevalence, auc, brier, calibration_error, rates
from engine.kernels.suspects import Thresholds, joint, noise_rates, suspects, thresholds
from engine.legend import MANGROVE, OTHER, PROBABILITY_SCALE, threshold_code
from engine.model import Model
from engine.params import TrainParams
from engine.places import Place
from engine.rows import PIXEL_YEAR, WEIGHT_GRID, combine, feature_values, is_thinned, row_keys
from engine.splits import BLOCK_PX

_RANDOM_PARTS: Final = 4  # of a random split one is scored by a model of the others

_MAX_WEIGHT: Final = 2.0**28  # pixels one row may stand for: 60 tiles
_BYTES_PER_VALUE: Final = 4  # peak of training 2-4 million rows: 138 bytes a row with 8 features, 176 with 20
_BYTES_PER_ROW: Final = 120
_MEMORY_SHARE: Final = 0.5  # of a worker's memory that training in one task may take

Keep = Callable[[pd.DataFrame], np.ndarray]
"""Which rows of a partition to use, as a boolean array; must be picklable."""


@dataclass(frozen=True)
class Trained:
    """A model, and the rows whose labels it doubts."""

    model: Model

    suspects: pd.DataFrame
    """Rows that models which never saw them are confident belong to the other class: region, label, probability
    (uint16 x 10 000, as scored), weight, zone, grid_row, grid_col, year, and lon, lat where the sample has them."""


def train_model(
    sample: Any,
    *,
    params: TrainParams,
    features: Sequence[str] | None = None,
    threshold: float | None = None,
    seed: int = 1,
    client: distributed.Client | None = None,
    worker_memory: int | None = None,
) -> Trained:
    """Fit a model, calibrate it and choose its threshold on land it never saw, and score it on other such land.

    Parameters
    ----------
    sample : DataFrame or dask DataFrame
        Training table as ``engine.sample`` writes it (also geopandas and dask_geopandas).
    params : TrainParams
        ``params.hold_out`` names the regions to keep out; default the study's four where present.
    features : sequence of str, optional
        Columns to use; default those of ``params.features``.
    threshold : float, optional
        Probability from which a pixel is mapped as mangrove; default by ``params.threshold_rule``.
    seed : int
        Of the deal of regions or blocks to folds and of the random split; training itself draws nothing.
    client : distributed.Client, optional
        Where to work; in this process without one.
    worker_memory : int, optional
        Bytes a worker has; asked of the cluster if not given.

    Returns
    -------
    Trained
        The model is fitted on every row outside the hold-out and the 10 km blocks it touches; calibrated, and its
        threshold chosen, on folds of these rows, never on the hold-out. Its ``metrics`` are of the held-out
        regions, or, where there are none, of the folds; a random split stands beside.

    Raises
    ------
    SampleError
        If the table lacks columns, or training rows of either class.
    ConfigError
        If ``train.distributed: yes`` is asked without a cluster, or every region is held out.
    """
    table = _Table.of(sample, features or FEATURE_SETS[params.features], client)
    held = hold_out_regions(params, table.distinct(_regions)["region"].tolist())
    base = _apart_from(table, held)
    scope, splits = _folds(table, base, params.folds, seed)

    def work(table: _Table, keep: Keep, hold_out: Sequence[str] = ()) -> Model:
        return _fit(table, keep=keep, params=params, hold_out=hold_out, worker_memory=worker_memory)

    folds = _fit_folds(table, work, splits)
    doubt, found = {"rows": 0}, pd.DataFrame()
    if folds:
        limits = thresholds(*_counted(_together(folds)))
        doubt, found = _describe_suspects(folds, limits), table.suspects(folds, limits)
        if params.suspects != "keep":
            table = table.trusting(folds, limits, params.suspects)
            folds = _fit_folds(table, work, splits)
    model = _decide(work(table, base, held), folds, params, threshold)
    if held:
        metrics = _score_held(model, table)
    else:
        metrics = _score_folds(folds, params, model.threshold, len(splits), scope)
    random = _fit_folds(table, work, [_Split(base, partial(_row_fold, seed=seed), 0)])
    random_metrics = _score_folds(random, params, model.threshold, 1, "random split, optimistic", model.levels)
    model = replace(
        model,
        metrics={**metrics, **model.metrics, "folds_scope": scope, "suspects": doubt, "random_split": random_metrics},
    )
    return Trained(model, found)


def hold_out_regions(params: TrainParams, present: Sequence[str]) -> tuple[str, ...]:
    """Return the regions to keep out of training, of those present.

    Raises
    ------
    ConfigError
        If a region named in ``train.hold_out`` is not present, or nothing would be left to train on.

    Examples
    --------
    >>> hold_out_regions(TrainParams(), ["Cuba1", "Cuba2"])
    ('Cuba2',)
    >>> hold_out_regions(TrainParams(hold_out=("Fiji",)), ["Cuba1"])
    Traceback (most recent call last):
    engine.errors.ConfigError: train.hold_out: no sample in 'Fiji'; regions sampled are Cuba1
    """
    if params.hold_out is None:
        held = tuple(sorted(set(STUDY_HOLD_OUT) & set(present)))
        return held if len(held) < len(set(present)) else ()
    unknown = sorted(set(params.hold_out) - set(present))
    if unknown:
        raise ConfigError(
            f"train.hold_out: no sample in {unknown[0]!r}", fix=f"regions sampled are {', '.join(sorted(present))}"
        )
    if set(params.hold_out) == set(present):
        raise ConfigError("train.hold_out leaves no region to train on", fix="hold out fewer regions")
    return tuple(sorted(set(params.hold_out)))


def write_suspects(found: pd.DataFrame, path: Place) -> None:
    """Write suspect rows as points a GIS can open (GeoParquet), or as a plain table where they have no position.

    Raises
    ------
    StoreError
        If the file cannot be written.
    """
    if {"lon", "lat"} <= set(found.columns):
        found = gpd.GeoDataFrame(found, geometry=gpd.points_from_xy(found["lon"], found["lat"]), crs="EPSG:4326")
    with replacing(path) as temporary:
        found.to_parquet(temporary, compression="zstd", index=False)


def fit(
    sample: Any,
    *,
    features: Sequence[str],
    params: TrainParams,
    hold_out_regions: Sequence[str] = (),
    client: distributed.Client | None = None,
    worker_memory: int | None = None,
) -> Model:
    """Fit a model, neither scored nor calibrated, to the interior rows outside the held-out regions and their blocks.

    Parameters
    ----------
    sample : DataFrame or dask DataFrame
        Training table; needs the features (int32), label, weight, region and interior.
    features : sequence of str
        Columns to use, in this order.
    params : TrainParams
        Rounds, depth and so on; ``distributed`` says where, which never changes the trees.
    hold_out_regions : sequence of str
        Regions whose rows are not looked at.
    client, worker_memory
        As in ``train_model``.

    Raises
    ------
    SampleError
        If the table lacks columns, or training rows of either class.
    """
    held = tuple(sorted(hold_out_regions))
    table = _Table.of(sample, features, client)
    return _fit(
        table,
        keep=_apart_from(table, held),
        hold_out=held,
        params=params,
        worker_memory=worker_memory,
    )


def score_hold_out(model: Model, sample: Any, *, client: distributed.Client | None = None) -> dict[str, Any]:
    """Score a model on its held-out regions, un-eroded, against the mask.

    Returns
    -------
    dict
        ``scope`` and what ``summarise`` returns.

    Raises
    ------
    SampleError
        If the sample has no row in a held-out region.
    """
    return _score_held(model, _Table.of(sample, model.features, client))


def _score_held(model: Model, table: _Table) -> dict[str, Any]:
    outcome = table.outcomes(model, partial(_inside, regions=model.hold_out))
    if outcome.empty:
        raise SampleError("the sample has no row in the held-out regions", fix="sample them too, or set train.hold_out")
    return {"scope": "transfer: held-out regions", **summarise(outcome, model.threshold)}


def summarise(outcome: pd.DataFrame, threshold: float) -> dict[str, Any]:
    """Turn counted outcomes into figures, each under the name of its population.

    Parameters
    ----------
    outcome : DataFrame
        Columns region, interior, positive, probability (uint16, x 1e4), pixels (summed weight), rows.
    threshold : float
        Probability from which a pixel is mapped as mangrove.

    Returns
    -------
    dict
        ``wall_to_wall``: each row weighted by the pixels it stands for, so at map prevalence;
        ``as_drawn``: rows as drawn; ``eroded``: wall to wall without pixels at a class edge;
        ``regions``: wall to wall of each. A figure that is not defined is None.
    """

    def figures(rows: pd.DataFrame, weight: str) -> dict[str, float | None]:
        probability, mass = rows["probability"].to_numpy(), rows[weight].to_numpy()
        positive = rows["positive"].to_numpy()
        # The map's own rule, on the integers the map holds.
        found = rates(probability >= threshold_code(threshold), positive, mass)
        result = {
            "rows": int(rows["rows"].sum()),
            "prevalence": float(mass[positive].sum() / mass.sum()) if mass.sum() else math.nan,
            "auc": auc(probability, positive, mass),
            "precision": found.precision,
            "recall": found.recall,
            "f1": found.f1,
            "brier": brier(probability / PROBABILITY_SCALE, positive, mass),
            "calibration_error": calibration_error(probability / PROBABILITY_SCALE, positive, mass),
        }
        for share in PREVALENCES:
            precision, f1 = at_prevalence(found.recall, found.false_positive_rate, share)
            result[f"precision_at_{share:.0%}"], result[f"f1_at_{share:.0%}"] = precision, f1
        return {name: _figure(value) for name, value in result.items()}

    return {
        "label": "mask",
        "threshold": threshold,
        "wall_to_wall": figures(outcome, "pixels"),
        "as_drawn": figures(outcome, "rows"),
        "eroded": figures(outcome[outcome["interior"]], "pixels"),
        "regions": {str(name): figures(rows, "pixels") for name, rows in outcome.groupby("region")},
    }


# --- the table, wherever it lies -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Table:
    """Partitions of a sample, and where work on them runs."""

    parts: list[Any]
    """DataFrames or delayed DataFrames."""

    features: tuple[str, ...]
    client: distributed.Client | None

    @classmethod
    def of(cls, sample: Any, features: Sequence[str], client: distributed.Client | None) -> _Table:
        columns = [*features, *_NEEDED]
        missing = [name for name in columns if name not in sample.columns]
        if missing:
            raise SampleError(f"sample lacks column {missing[0]!r}", fix="draw it again with `mangroves sample`")
        floats = [name for name in features if sample.dtypes[name].kind not in "iu"]
        if floats:
            raise SampleError(
                f"sample column {floats[0]!r} is {sample.dtypes[floats[0]]}", fix="features are int32; draw it again"
            )
        chosen = sample[[*columns, *(name for name in _WELCOME if name in sample.columns)]]
        if client is not None and dask.is_dask_collection(chosen):
            chosen = client.persist(chosen)  # else read anew for each of a dozen passes
        return cls(chosen.to_delayed() if hasattr(chosen, "to_delayed") else [chosen], tuple(features), client)

    def map(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """Return the task of ``function(part, *args)`` for every partition."""
        shared = [dask.delayed(arg, traverse=False) for arg in args]
        return [dask.delayed(function)(part, *shared) for part in self.parts]

    def compute(self, task: Any) -> Any:
        """Run a task where the table lies."""
        if self.client is None or not any(dask.is_dask_collection(part) for part in self.parts):
            return task.compute(scheduler="synchronous")
        return self.client.compute(task).result()

    def distinct(self, columns_of: Callable[[pd.DataFrame], pd.DataFrame]) -> pd.DataFrame:
        """Return the distinct rows of what a function makes of each partition, sorted."""
        found = self.compute(combine(_distinct, self.map(_distinct_of, columns_of)))
        return found.sort_values(list(found.columns)).reset_index(drop=True)

    def outcomes(self, model: Model, keep: Keep) -> pd.DataFrame:
        """Return how often each probability met each label, by region: small, and exact under addition."""
        summed = self.compute(combine(_sum_outcomes, self.map(_count_outcomes, model, keep)))
        return summed.assign(pixels=summed.pop("units") / WEIGHT_GRID)

    def suspects(self, folds: Sequence[_Fold], limits: Thresholds) -> pd.DataFrame:
        """Return the rows whose label is probably wrong."""
        found = self.compute(combine(pd.concat, self.map(_suspects_in, folds, limits)))
        return found.reset_index(drop=True)

    def trusting(self, folds: Sequence[_Fold], limits: Thresholds, how: str) -> _Table:
        """Return the table with how much of each row's weight is trained with."""
        parts = self.map(_with_trust, folds, limits, how)
        if self.client is not None:
            parts = self.client.persist(parts)
        return replace(self, parts=parts)


@dataclass(frozen=True)
class _Tally:
    """What must be known of all rows before one can be encoded; adds up."""

    histograms: list[Histogram]
    rows: np.ndarray
    """Rows to train on, int64 (other, mangrove)."""

    units: np.ndarray
    """Summed weight of those rows, int64 (other, mangrove) in 2**-12 pixel."""

    land: np.ndarray
    """The same with the rows at class edges, which stand for land but are not trained on."""

    regions: frozenset[str]

    @classmethod
    def sum(cls, parts: list[_Tally]) -> _Tally:
        return cls(
            [merge_histograms(feature) for feature in zip(*(part.histograms for part in parts), strict=True)],
            np.sum([part.rows for part in parts], axis=0),
            np.sum([part.units for part in parts], axis=0),
            np.sum([part.land for part in parts], axis=0),
            frozenset().union(*(part.regions for part in parts)),
        )


_NEEDED: Final = ("label", "weight", "region", "interior", *PIXEL_YEAR)
_WELCOME: Final = ("thinned", "lon", "lat")
_INNER: Final = "wall to wall, by rows away from class edges"
_OUTCOME: Final = ["region", "interior", "positive", "probability"]


def _distinct(parts: list[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(parts).drop_duplicates()


def _distinct_of(part: pd.DataFrame, columns_of: Callable[[pd.DataFrame], pd.DataFrame]) -> pd.DataFrame:
    return columns_of(part).drop_duplicates()


def _regions(part: pd.DataFrame) -> pd.DataFrame:
    return part[["region"]].astype(str)


def _sum_outcomes(parts: list[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(parts).groupby(_OUTCOME, as_index=False).sum()


def _select(part: pd.DataFrame, keep: Keep) -> pd.DataFrame:
    return part[keep(part) & part["label"].isin((OTHER, MANGROVE)).to_numpy()]


def _as_mapped(part: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of whole years: those of thinned composites stand for no land of their own."""
    return part[~is_thinned(part)]


def _units(part: pd.DataFrame) -> np.ndarray:
    weight = part["weight"].to_numpy(dtype=np.float64)
    if not ((weight > 0) & (weight < _MAX_WEIGHT)).all():
        raise SampleError("sample has a weight that is not a positive number of pixels", fix="draw it again")
    return np.rint(weight * WEIGHT_GRID).astype(np.int64)


def _training_rows(part: pd.DataFrame, balance: str) -> tuple[pd.DataFrame, np.ndarray]:
    """Return the rows to train on, those away from class edges, and what each weighs in 2**-12."""
    trust = part["trust"].to_numpy(dtype=np.float64) if "trust" in part else np.ones(len(part))
    rows = part["interior"].to_numpy(dtype=bool) & (trust > 0)
    units = np.full(len(part), WEIGHT_GRID) if balance == "drawn" else _units(part)
    return part[rows], np.maximum(np.rint(units[rows] * trust[rows]), 1).astype(np.int64)


def _by_class(part: pd.DataFrame, values: np.ndarray) -> np.ndarray:
    return np.array([values[part["label"] == label].sum() for label in (OTHER, MANGROVE)], dtype=np.int64)


def _tally(part: pd.DataFrame, features: Sequence[str], keep: Keep, balance: str) -> _Tally:
    chosen = _select(part, keep)
    used, units = _training_rows(chosen, balance)
    land = _as_mapped(chosen)
    return _Tally(
        [count_values(values) for values in feature_values(used, features)],
        _by_class(used, np.ones(len(used), np.int64)),
        _by_class(used, units),
        _by_class(land, _units(land)),
        frozenset(used["region"].astype(str)),
    )


def _encode(
    part: pd.DataFrame,
    features: Sequence[str],
    keep: Keep,
    balance: str,
    edges: Sequence[np.ndarray],
    scale: np.ndarray,
) -> Rows:
    used, units = _training_rows(_select(part, keep), balance)
    positive = (used["label"] == MANGROVE).to_numpy()
    codes = encode(feature_values(used, features), edges)
    weight = units * scale[positive.astype(np.int64)]
    return Rows(np.ascontiguousarray(codes.T), positive.astype(np.float32), weight.astype(np.float32))


def _count_outcomes(part: pd.DataFrame, model: Model, keep: Keep) -> pd.DataFrame:
    rows = _as_mapped(_select(part, keep))
    counted = pd.DataFrame(
        {
            "region": rows["region"].astype(str).to_numpy(),
            "interior": rows["interior"].to_numpy(dtype=bool),
            "positive": (rows["label"] == MANGROVE).to_numpy(),
            "probability": _probability(rows, model),
            "units": _units(rows),
            "rows": np.ones(len(rows), np.int64),
        }
    )
    return _sum_outcomes([counted])


def _probability(part: pd.DataFrame, model: Model) -> np.ndarray:
    return model.probability(encode(feature_values(part, model.features), model.edges))


def _doubts(part: pd.DataFrame, folds: Sequence[_Fold], limits: Thresholds) -> tuple[np.ndarray, np.ndarray]:
    """Return the out-of-fold probability of each row, uint16 x 10 000, and which rows are suspect by it."""
    positive = (part["label"] == MANGROVE).to_numpy()
    probability = np.where(positive, PROBABILITY_SCALE, 0).astype(np.uint16)  # as labelled, where no fold tells
    for fold in folds:
        rows = fold.split.test(part)
        probability[rows] = _probability(part[rows], fold.model)
    return probability, suspects(probability, positive, limits)


def _suspects_in(part: pd.DataFrame, folds: Sequence[_Fold], limits: Thresholds) -> pd.DataFrame:
    part = _as_mapped(part)
    probability, doubted = _doubts(part, folds, limits)
    columns = ["region", "label", "weight", "zone", "grid_row", "grid_col", "year", "lon", "lat"]
    found = pd.DataFrame(part.loc[doubted, [name for name in columns if name in part]])
    found.insert(2, "probability", probability[doubted])
    return found


def _with_trust(part: pd.DataFrame, folds: Sequence[_Fold], limits: Thresholds, how: str) -> pd.DataFrame:
    probability, doubted = _doubts(part, folds, limits)
    mangrove = probability / PROBABILITY_SCALE
    of_label = np.where(part["label"] == MANGROVE, mangrove, 1 - mangrove)
    return part.assign(trust=np.where(doubted, of_label if how == "weigh" else 0.0, 1.0))


# --- splits: which rows are used, as picklable functions of a partition ----------------------------------------


def _apart_from(table: _Table, regions: Sequence[str]) -> Keep:
    """Return which rows may be trained on: those outside some regions and outside every block these touch."""
    return partial(_apart, regions=regions, blocks=table.distinct(partial(_blocks_in, regions=regions)))


def _apart(part: pd.DataFrame, regions: Sequence[str], blocks: pd.DataFrame) -> np.ndarray:
    shared = _blocks(part).merge(blocks, how="left", indicator=True)["_merge"] == "both"
    return ~_inside(part, regions) & ~shared.to_numpy()


def _inside(part: pd.DataFrame, regions: Sequence[str]) -> np.ndarray:
    return part["region"].isin(list(regions)).to_numpy()


@dataclass(frozen=True)
class _Split:
    """One fold against the rest, of the rows of ``base``."""

    base: Keep
    fold_of: Callable[[pd.DataFrame], np.ndarray]
    fold: int
    apart: Keep | None = None
    """Where folds are not made of whole blocks: rows in none that the fold touches."""

    def train(self, part: pd.DataFrame) -> np.ndarray:
        rows = self.base(part) & (self.fold_of(part) != self.fold)
        return rows if self.apart is None else rows & self.apart(part)

    def test(self, part: pd.DataFrame) -> np.ndarray:
        return self.base(part) & (self.fold_of(part) == self.fold)


@dataclass(frozen=True)
class _Fold:
    """A model, and how it did on the rows it never saw."""

    split: _Split
    model: Model
    outcome: pd.DataFrame
    """As ``summarise`` takes it; probability is the score, not calibrated."""


def _folds(table: _Table, base: Keep, folds: int, seed: int) -> tuple[str, list[_Split]]:
    """Deal the regions of ``base`` to folds, or the blocks of a single one; return what that is a test of, and the
    splits."""
    regions = table.distinct(partial(_regions_of, keep=base))["region"].tolist()
    if len(regions) > 1:
        deal = np.random.default_rng(seed).permutation(len(regions)) % folds
        of = dict(zip(regions, deal.tolist(), strict=True))
        fold_of = partial(_region_fold, of=of)
        return "transfer: folds of regions", [
            _Split(base, fold_of, fold, _apart_from(table, [name for name in regions if of[name] == fold]))
            for fold in sorted(set(of.values()))
        ]
    blocks = table.distinct(partial(_blocks_of, keep=base))
    deal = np.random.default_rng(seed).permutation(len(blocks))
    if blocks.empty:
        return "no land to train on", []
    dealt = blocks.assign(fold=deal % max(1, min(folds, len(blocks))))
    fold_of = partial(_block_fold, dealt=dealt)
    splits = [_Split(base, fold_of, fold) for fold in range(dealt["fold"].max() + 1)]
    return "in-region, not transfer: 10 km blocks", splits


def _regions_of(part: pd.DataFrame, keep: Keep) -> pd.DataFrame:
    return _regions(part[keep(part)])


def _region_fold(part: pd.DataFrame, of: dict[str, int]) -> np.ndarray:
    return part["region"].astype(str).map(of).fillna(-1).to_numpy(np.int64)


def _blocks(part: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "zone": part["zone"].to_numpy(np.int64),
            "block_row": part["grid_row"].to_numpy(np.int64) // BLOCK_PX,
            "block_col": part["grid_col"].to_numpy(np.int64) // BLOCK_PX,
        }
    )


def _blocks_of(part: pd.DataFrame, keep: Keep) -> pd.DataFrame:
    return _blocks(part[keep(part)])


def _blocks_in(part: pd.DataFrame, regions: Sequence[str]) -> pd.DataFrame:
    return _blocks(part[_inside(part, regions)])


def _block_fold(part: pd.DataFrame, dealt: pd.DataFrame) -> np.ndarray:
    return _blocks(part).merge(dealt, how="left")["fold"].to_numpy()


def _row_fold(part: pd.DataFrame, seed: int) -> np.ndarray:
    return (row_keys(part, seed) % np.uint64(_RANDOM_PARTS)).astype(np.int64)


def _fit_folds(table: _Table, work: Callable[..., Model], splits: Sequence[_Split]) -> list[_Fold]:
    """Fit and score the folds that have both classes on their training side."""
    folds = []
    for split in splits:
        try:
            model = work(table, split.train)
        except SampleError:
            continue  # no mangrove, or nothing else, outside this fold
        folds.append(_Fold(split, model, table.outcomes(model, split.test)))
    return folds


def _counted(outcome: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return score (uint16 x 10 000), label and land of outcomes."""
    return tuple(outcome[name].to_numpy() for name in ("probability", "positive", "pixels"))  # type: ignore[return-value]


def _together(folds: Sequence[_Fold]) -> pd.DataFrame:
    return pd.concat([fold.outcome for fold in folds])


def _away_from_edges(outcome: pd.DataFrame) -> pd.DataFrame:
    """Return the outcomes away from class edges, each class's standing for all of that class's land.

    A mask is least sure at its edges: what it says there is no more fit to calibrate with than to train on.
    """
    inner = outcome[outcome["interior"]]
    land, seen = (rows.groupby("positive")["pixels"].sum() for rows in (outcome, inner))
    return inner.assign(pixels=inner["pixels"] * inner["positive"].map(land / seen))


# --- calibration, threshold and figures of folds ---------------------------------------------------------------


def _decide(model: Model, folds: Sequence[_Fold], params: TrainParams, threshold: float | None) -> Model:
    """Calibrate a model and choose its threshold by the outcomes of folds."""
    said: dict[str, Any]
    rule: dict[str, Any] = {"rule": params.threshold_rule, "label": "mask", "population": _INNER}
    if params.threshold_rule in ("precision", "recall"):
        rule["target"] = params.threshold_target
    problem = "mangrove and other are not both in two or more parts"
    try:
        curve_of_scores = _calibration(folds, params)
        apart = _calibrated_apart(folds, params)
    except ValueError:
        said = {
            "calibration": {"problem": f"not calibrated: {problem}"},
            "decision": {"rule": "none", "reason": problem},
        }
        return replace(model, threshold=threshold or 0.5, metrics=said)
    calibrated = replace(model, calibration=curve_of_scores)
    probability, positive, land = _counted(_away_from_edges(pd.concat(apart)))
    score, positive_before, land_before = _counted(_away_from_edges(_together(folds)))
    prevalence = float(land[positive].sum() / land.sum())
    curve = curve_of(probability, positive, land)
    decision = decide(curve, params.threshold_rule, params.threshold_target, prevalence)
    chosen = decision.threshold if threshold is None else threshold
    reached = rates(probability >= threshold_code(chosen), positive, land)
    said = {
        "calibration": {
            "method": params.calibrate,
            "label": "mask",
            "population": _INNER,
            "folds": len(folds),
            "prevalence": round(prevalence, 6),
            "ece_before": round(calibration_error(score / PROBABILITY_SCALE, positive_before, land_before), 6),
            "ece_after": round(calibration_error(probability / PROBABILITY_SCALE, positive, land), 6),
        },
        "decision": {
            **(rule if threshold is None else {**rule, "rule": "given"}),
            "reached": decision.reached or threshold is not None,
            "threshold": chosen,
            "prevalence": round(prevalence, 6),
            **{name: _figure(value) for name, value in reached._asdict().items()},
        },
    }
    return replace(calibrated, curve=curve, threshold=chosen, metrics=said)


def _calibration(folds: Sequence[_Fold], params: TrainParams) -> Calibration | None:
    if params.calibrate == "none":
        return None
    fit_curve = fit_isotonic if params.calibrate == "isotonic" else fit_platt
    return fit_curve(*_counted(_away_from_edges(_together(folds))))


def _calibrated_apart(folds: Sequence[_Fold], params: TrainParams) -> list[pd.DataFrame]:
    """Return the outcomes of each fold, calibrated by those of the others: as new land would be.

    Raises
    ------
    ValueError
        If there are no two folds, or one class is missing outside a fold.
    """
    if len(folds) < 2:
        raise ValueError("at least two folds are needed")
    found = []
    for index, fold in enumerate(folds):
        others = [other for place, other in enumerate(folds) if place != index]
        found.append(_mapped(fold, levels_of(_calibration(others, params))))
    return found


def _mapped(fold: _Fold, levels: np.ndarray) -> pd.DataFrame:
    return fold.outcome.assign(probability=levels[fold.outcome["probability"]])


def _score_folds(
    folds: Sequence[_Fold],
    params: TrainParams,
    threshold: float,
    asked: int,
    scope: str,
    levels: np.ndarray | None = None,
) -> dict[str, Any]:
    """Return the figures of folds; calibrated by the levels given, or each by the others."""
    try:
        seen = _calibrated_apart(folds, params) if levels is None else [_mapped(fold, levels) for fold in folds]
        outcome = _sum_outcomes(seen)
    except ValueError:
        return {"scope": scope, "problem": "not scored: mangrove and other are not both in two or more parts"}
    return {"scope": scope, "folds": len(folds), "folds_failed": asked - len(folds), **summarise(outcome, threshold)}


def _describe_suspects(folds: Sequence[_Fold], limits: Thresholds) -> dict[str, Any]:
    """Return how many labels are suspect, and how wrong the mask is by these models, overall and by region."""
    outcome = _together(folds)

    def describe(rows: pd.DataFrame) -> dict[str, Any]:
        probability, positive, land = _counted(rows)
        doubted = suspects(probability, positive, limits)
        noise = noise_rates(joint(probability, positive, land, limits))
        return {
            "rows": int(rows["rows"][doubted].sum()),
            "of": int(rows["rows"].sum()),
            "pixels": round(float(rows["pixels"][doubted].sum()), 1),
            "omission": _figure(noise.omission),
            "commission": _figure(noise.commission),
        }

    return {
        "label": "mask",
        "population": "wall to wall",
        "limits": {name: _figure(value) for name, value in limits._asdict().items()},
        **describe(outcome),
        "regions": {str(name): describe(rows) for name, rows in outcome.groupby("region")},
    }


def _figure(value: float) -> float | None:
    """Round for JSON, which has no nan: a figure that is not defined is None."""
    return round(value, 6) if math.isfinite(value) else None


# --- fitting ---------------------------------------------------------------------------------------------------


def _fit(
    table: _Table,
    *,
    keep: Keep,
    params: TrainParams,
    hold_out: Sequence[str] = (),
    worker_memory: int | None = None,
) -> Model:
    tallies = table.map(_tally, table.features, keep, params.balance)
    counts = [tally.rows.sum() for tally in tallies]
    total, counts = table.compute(dask.delayed((combine(_Tally.sum, tallies), counts)))
    rows = int(total.rows.sum())
    for label, count in zip(("other", "mangrove"), total.rows, strict=True):
        if count == 0:
            raise SampleError(
                f"no {label} row among {rows} rows to train on", fix="add masks, years or area, or hold out less"
            )
    if rows > MAX_ROWS:
        raise SampleError(f"{rows} rows to train on, more than {MAX_ROWS}", fix="draw fewer per tile")
    edges = [bin_edges(histogram) for histogram in total.histograms]
    scale = _scale(total, params.balance)
    encoded = [
        dask.delayed(_encode)(part, table.features, keep, params.balance, edges, scale)
        for part, count in zip(table.parts, counts, strict=True)
        if count
    ]
    bytes_needed = rows * (len(edges) * _BYTES_PER_VALUE + _BYTES_PER_ROW)
    if _is_distributed(params, table.client, bytes_needed, worker_memory):
        assert table.client is not None
        trees = _train_distributed(table.client, encoded, [n for n in counts if n], len(edges), params)
    else:
        trees = table.compute(dask.delayed(_train_rows)(encoded, params))
    return Model(
        trees=trees,
        features=table.features,
        edges=tuple(edges),
        regions=tuple(sorted(total.regions)),
        hold_out=tuple(hold_out),
        training_prevalence=float(total.land[1] / total.land.sum()),
        training_rows={"other": int(total.rows[0]), "mangrove": int(total.rows[1])},
        params=params.model_dump(mode="json"),
        versions={
            "mangroves": engine.__version__,
            "xgboost": xgboost.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    )


def _scale(total: _Tally, balance: str) -> np.ndarray:
    """Return what brings the units of each class's rows to weights of mean 1."""
    rows = float(total.rows.sum())
    if balance == "drawn":
        return np.full(2, rows / float(total.units.sum()))
    # Rows at class edges are not trained on, so each class's rows stand for all of that class's land.
    share = total.land / float(total.land.sum()) if balance == "map" else np.full(2, 0.5)
    return share * rows / total.units


def _is_distributed(
    params: TrainParams, client: distributed.Client | None, bytes_needed: int, worker_memory: int | None
) -> bool:
    if params.distributed == "yes" and client is None:
        raise ConfigError("train.distributed: yes needs a cluster", fix="give --cluster, or train.distributed: auto")
    if params.distributed != "auto" or client is None:
        return params.distributed == "yes"
    if worker_memory is None:
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        worker_memory = min((worker["memory_limit"] for worker in workers), default=0)
    return bool(worker_memory) and bytes_needed > _MEMORY_SHARE * worker_memory


def _train_rows(parts: Sequence[Rows], params: TrainParams) -> bytes:
    return train_rows(parts, params, _threads(sum(part.positive.size for part in parts)))


def _train_distributed(
    client: distributed.Client, encoded: Sequence[Any], counts: Sequence[int], features: int, params: TrainParams
) -> bytes:
    """Train with every worker on the rows it holds, by ``xgboost.dask``.

    Its collective talks over plain sockets, whatever the security of the cluster: each worker listens on all
    interfaces, and the tracker on one that it guesses. On a loopback cluster the tracker can be kept there.
    """
    held = client.compute(list(encoded))

    def column(name: str, kind: type, *width: int) -> dask.array.Array:
        parts = [
            dask.array.from_delayed(dask.delayed(getattr)(rows, name), (count, *width), kind)
            for rows, count in zip(held, counts, strict=True)
        ]
        return dask.array.concatenate(parts)

    data = xgboost.dask.DaskQuantileDMatrix(
        client,
        column("codes", np.uint8, features),
        column("positive", np.float32),
        label_lower_bound=column("weight", np.float32),
        missing=MISSING_CODE,
        max_bin=256,
    )
    host = str(urlsplit(client.scheduler_info()["address"]).hostname)
    local = xgboost.collective.Config(tracker_host_ip=host) if host in ("127.0.0.1", "::1") else None
    result = xgboost.dask.train(
        client, booster_params(params), data, params.rounds, obj=logistic_gradients, coll_cfg=local
    )
    return trees_of(result["booster"])


def _threads(rows: int) -> int:
    """Return threads to train with: below 100 000 rows a second one only waits, and spinning, on a busy machine."""
    try:
        available = distributed.get_worker().state.nthreads
    except ValueError:  # not on a worker
        available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(available, rows // 100_000))
