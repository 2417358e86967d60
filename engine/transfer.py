"""What other models would reach: trained on one region, on all but one, on other years, on less.

``plan_trials`` says which models, ``run_trial`` fits one and is a dask task, ``trial_rows`` and ``trial_scores`` keep
what each said of each row; the figures are made of these.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd

from engine.boost import Boosted, fit_boosted, training_weights
from engine.errors import SampleError
from engine.kernels.score import auc, average_precision, best_threshold, rates
from engine.legend import MANGROVE, PROBABILITY_SCALE
from engine.params import BoostParams
from engine.rows import PIXEL, feature_values, is_thinned, row_keys
from engine.scores import ALL_REGIONS, judged_rows, labels_of
from engine.splits import (
    Split,
    apart,
    block_folds,
    by_region,
    by_sensor,
    by_year,
    leave_one_region_out,
    random_rows,
    region_folds,
)

ROWS: Final = 100_000
"""Rows that trials are fitted to and judged on, at most."""

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
    """x 10 000: of highest F1 wall to wall, out of fold on the training side (of a single region, of its pixels)."""

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


def fold_outcome(frame: pd.DataFrame, trial: Trial, outcome: Outcome) -> pd.DataFrame:
    """Return what a trial's model said of the rows it was judged on, as ``engine.decide`` takes it."""
    side = frame[trial.test]
    rows = judged_rows(side)
    said = outcome.mapped[~is_thinned(side)]
    return rows[["region", "interior", "positive"]].assign(probability=said, pixels=rows["weight"], rows=1)


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
            test = split.test & plain
            if test.any():  # of one year or sensor a fold of regions may have no row
                found.append(Trial(kind, name or split.name, 0, train, test))

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
    for train, test in _inner_folds(frame, seed):
        boosted, _ = _fit(frame, train, features, params, balance)
        if boosted is not None:
            mapped[test], seen[test] = _mapped_by(boosted, feature_values(frame[test], features)), True
    seen &= ~is_thinned(frame)
    positive = (frame["label"] == MANGROVE).to_numpy()
    if not (positive & seen).any():
        return PROBABILITY_SCALE // 2  # mangrove in one fold alone
    return best_threshold(mapped[seen], positive[seen], frame["weight"].to_numpy()[seen])


def _inner_folds(frame: pd.DataFrame, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Deal the regions of a training side to folds, or the pixels of a single one: models of its few blocks are too
    unlike for one threshold to suit their scores."""
    if frame["region"].nunique() > 1:
        return [(part.train, part.test) for part in region_folds(frame, folds=INNER_FOLDS, seed=seed)]
    fold = row_keys(frame, seed, by=PIXEL) % np.uint64(INNER_FOLDS)
    return [(fold != one, fold == one) for one in range(INNER_FOLDS)]


def trial_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Return what trials are judged against: ``row`` (int32, of ``frame``) and the columns of
    ``engine.scores.judged_rows``."""
    keep = ~is_thinned(frame)
    rows = judged_rows(frame)
    rows.insert(0, "row", np.flatnonzero(keep).astype(np.int32))
    return rows


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
    "all but one": "leave one region out, rows together",
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
