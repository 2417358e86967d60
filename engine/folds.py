"""Folds of a training table wherever it lies: land for land, no 10 km block on two sides.

``engine.splits`` parts a table that is at hand; here which rows are on a side is a picklable function of a partition.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np
import pandas as pd

from engine.errors import SampleError
from engine.kernels.suspects import Thresholds, suspects
from engine.legend import MANGROVE, PROBABILITY_SCALE
from engine.model import Model
from engine.partitions import Keep, Table, as_mapped, probability_of
from engine.rows import combine, row_keys
from engine.splits import IN_REGION, REGION_FOLDS, block_ids

_RANDOM_PARTS: Final = 4  # of a random split one is scored by a model of the others


@dataclass(frozen=True)
class FoldSplit:
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
class Fold:
    """A model, and how it did on the rows it never saw."""

    split: FoldSplit
    model: Model
    outcome: pd.DataFrame
    """As ``engine.decide.summarise`` takes it; probability is the score, not calibrated."""


def regions_in(table: Table, keep: Keep | None = None) -> list[str]:
    """Return the names of the regions that have rows, sorted."""
    return table.distinct(partial(_regions, keep=keep)).tolist()


def apart_from(table: Table, regions: Sequence[str]) -> Keep:
    """Return which rows may be trained on: those outside some regions and outside every block these touch."""
    return partial(_apart, regions=regions, blocks=table.distinct(partial(_blocks, keep=inside(regions))))


def inside(regions: Sequence[str]) -> Keep:
    """Return which rows lie in some regions."""
    return partial(_inside, regions=regions)


def deal_folds(table: Table, base: Keep, folds: int, seed: int) -> tuple[str, list[FoldSplit]]:
    """Deal the regions of ``base`` to folds, or the blocks of a single one; return what that is a test of, and the
    splits."""
    regions = regions_in(table, base)
    if len(regions) > 1:
        deal = np.random.default_rng(seed).permutation(len(regions)) % folds
        of = dict(zip(regions, deal.tolist(), strict=True))
        fold_of = partial(_region_fold, of=of)
        return REGION_FOLDS, [
            FoldSplit(base, fold_of, fold, apart_from(table, [name for name in regions if of[name] == fold]))
            for fold in sorted(set(of.values()))
        ]
    blocks = table.distinct(partial(_blocks, keep=base))
    if blocks.size == 0:
        return "no land to train on", []
    deal = np.random.default_rng(seed).permutation(blocks.size) % folds
    fold_of = partial(_block_fold, of=dict(zip(blocks.tolist(), deal.tolist(), strict=True)))
    return IN_REGION, [FoldSplit(base, fold_of, fold) for fold in sorted(set(deal.tolist()))]


def random_split(base: Keep, seed: int) -> FoldSplit:
    """Return a quarter of the rows of ``base``, drawn at random, against the rest: neighbours are on both sides."""
    return FoldSplit(base, partial(_row_fold, seed=seed), 0)


def fit_folds(table: Table, work: Callable[[Table, Keep], Model], splits: Sequence[FoldSplit]) -> list[Fold]:
    """Fit and score the folds that have both classes on their training side."""
    folds = []
    for split in splits:
        try:
            model = work(table, split.train)
        except SampleError:
            continue  # no mangrove, or nothing else, outside this fold
        folds.append(Fold(split, model, table.outcomes(model, split.test)))
    return folds


def _regions(part: pd.DataFrame, keep: Keep | None) -> np.ndarray:
    return (part if keep is None else part[keep(part)])["region"].astype(str).to_numpy(object)


def _blocks(part: pd.DataFrame, keep: Keep) -> np.ndarray:
    return block_ids(part[keep(part)])


def _inside(part: pd.DataFrame, regions: Sequence[str]) -> np.ndarray:
    return part["region"].isin(list(regions)).to_numpy()


def _apart(part: pd.DataFrame, regions: Sequence[str], blocks: np.ndarray) -> np.ndarray:
    return ~_inside(part, regions) & ~np.isin(block_ids(part), blocks)


def _region_fold(part: pd.DataFrame, of: dict[str, int]) -> np.ndarray:
    return part["region"].astype(str).map(of).fillna(-1).to_numpy(np.int64)


def _block_fold(part: pd.DataFrame, of: dict[int, int]) -> np.ndarray:
    return pd.Series(block_ids(part)).map(of).fillna(-1).to_numpy(np.int64)


def _row_fold(part: pd.DataFrame, seed: int) -> np.ndarray:
    return (row_keys(part, seed) % np.uint64(_RANDOM_PARTS)).astype(np.int64)


# --- suspects: rows whose label the folds doubt ----------------------------------------------------------------


def find_suspects(table: Table, folds: Sequence[Fold], limits: Thresholds) -> pd.DataFrame:
    """Return the rows whose label is probably wrong."""
    found = table.compute(combine(pd.concat, table.map(_suspects_in, folds, limits)))
    return found.reset_index(drop=True)


def with_trust(table: Table, folds: Sequence[Fold], limits: Thresholds, how: str) -> Table:
    """Return the table with how much of each row's weight is trained with; not to be parted into these folds again."""
    parts = table.map(_with_trust, folds, limits, how)
    if table.client is not None:
        parts = table.client.persist(parts)
    return replace(table, parts=parts)


def _suspects_in(part: pd.DataFrame, folds: Sequence[Fold], limits: Thresholds) -> pd.DataFrame:
    part = as_mapped(part)
    probability, doubted = _doubts(part, folds, limits)
    columns = ["region", "label", "weight", "zone", "grid_row", "grid_col", "year", "lon", "lat"]
    found = pd.DataFrame(part.loc[doubted, [name for name in columns if name in part]])
    found.insert(2, "probability", probability[doubted])
    return found


def _with_trust(part: pd.DataFrame, folds: Sequence[Fold], limits: Thresholds, how: str) -> pd.DataFrame:
    probability, doubted = _doubts(part, folds, limits)
    mangrove = probability / PROBABILITY_SCALE
    of_label = np.where(part["label"] == MANGROVE, mangrove, 1 - mangrove)
    return part.assign(trust=np.where(doubted, of_label if how == "weigh" else 0.0, 1.0))


def _doubts(part: pd.DataFrame, folds: Sequence[Fold], limits: Thresholds) -> tuple[np.ndarray, np.ndarray]:
    """Return the out-of-fold probability of each row, uint16 x 10 000, and which rows are suspect by it."""
    positive = (part["label"] == MANGROVE).to_numpy()
    probability = np.where(positive, PROBABILITY_SCALE, 0).astype(np.uint16)  # as labelled, where no fold tells
    for fold in folds:
        rows = fold.split.test(part)
        probability[rows] = probability_of(part[rows], fold.model)
    return probability, suspects(probability, positive, limits)
