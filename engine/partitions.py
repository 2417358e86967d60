"""A training table wherever it lies: in this process, or in partitions on a cluster.

What must be known of all rows is counted a partition at a time and added up exactly, so nothing depends on how rows are
spread. Which rows to use is told by a picklable function of a partition (``Keep``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import dask
import distributed
import numpy as np
import pandas as pd

from engine.boost import Rows
from engine.errors import SampleError
from engine.kernels.bins import Histogram, count_values, encode, merge_histograms
from engine.legend import MANGROVE, OTHER
from engine.model import Model
from engine.rows import PIXEL_YEAR, WEIGHT_GRID, combine, feature_values, is_thinned, row_keys, run_task
from engine.splits import block_ids

Keep = Callable[[pd.DataFrame], np.ndarray]
"""Which rows of a partition to use, as a boolean array; must be picklable."""

_NEEDED: Final = ("label", "weight", "region", "interior", *PIXEL_YEAR)
_WELCOME: Final = ("thinned", "lon", "lat")
_OUTCOME: Final = ["region", "interior", "positive", "probability"]
_MAX_WEIGHT: Final = 2.0**28  # pixels one row may stand for: 60 tiles


@dataclass(frozen=True)
class Table:
    """Partitions of a sample, and where work on them runs."""

    parts: list[Any]
    """DataFrames or delayed DataFrames."""

    features: tuple[str, ...]
    client: distributed.Client | None

    @classmethod
    def of(cls, sample: Any, features: Sequence[str], client: distributed.Client | None) -> Table:
        """Take the columns that are needed of a DataFrame or dask DataFrame.

        Raises
        ------
        SampleError
            If one is missing, or a feature is not of integers.
        """
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
        spread = any(dask.is_dask_collection(part) for part in self.parts)
        return run_task(task, self.client if spread else None)

    def distinct(self, values_of: Callable[[pd.DataFrame], np.ndarray]) -> np.ndarray:
        """Return the distinct values of what a function makes of each partition, sorted."""
        return self.compute(combine(_distinct, self.map(_distinct_of, values_of)))

    def outcomes(self, model: Model, keep: Keep) -> pd.DataFrame:
        """Return how often each probability met each label, by region: small, and exact under addition."""
        summed = self.compute(combine(sum_outcomes, self.map(_count_outcomes, model, keep)))
        return summed.assign(pixels=summed.pop("units") / WEIGHT_GRID)


def _distinct(parts: list[np.ndarray]) -> np.ndarray:
    return np.unique(np.concatenate(parts))


def _distinct_of(part: pd.DataFrame, values_of: Callable[[pd.DataFrame], np.ndarray]) -> np.ndarray:
    return np.unique(values_of(part))


def as_mapped(part: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of whole years: those of thinned composites stand for no land of their own."""
    return part[~is_thinned(part)]


def _select(part: pd.DataFrame, keep: Keep) -> pd.DataFrame:
    return part[keep(part) & part["label"].isin((OTHER, MANGROVE)).to_numpy()]


def _units(part: pd.DataFrame) -> np.ndarray:
    weight = part["weight"].to_numpy(dtype=np.float64)
    if not ((weight > 0) & (weight < _MAX_WEIGHT)).all():
        raise SampleError("sample has a weight that is not a positive number of pixels", fix="draw it again")
    return np.rint(weight * WEIGHT_GRID).astype(np.int64)


# --- outcomes: what a model says of rows, counted --------------------------------------------------------------


def probability_of(part: pd.DataFrame, model: Model) -> np.ndarray:
    """Return what a model says of each row, uint16 (row,) x 10 000."""
    return model.probability(encode(feature_values(part, model.features), model.edges))


def sum_outcomes(parts: list[pd.DataFrame]) -> pd.DataFrame:
    """Add up counted outcomes."""
    return pd.concat(parts).groupby(_OUTCOME, as_index=False).sum()


def _count_outcomes(part: pd.DataFrame, model: Model, keep: Keep) -> pd.DataFrame:
    rows = as_mapped(_select(part, keep))
    counted = pd.DataFrame(
        {
            "region": rows["region"].astype(str).to_numpy(),
            "interior": rows["interior"].to_numpy(dtype=bool),
            "positive": (rows["label"] == MANGROVE).to_numpy(),
            "probability": probability_of(rows, model),
            "units": _units(rows),
            "rows": np.ones(len(rows), np.int64),
        }
    )
    return sum_outcomes([counted])


# --- training rows: counted first, then encoded ----------------------------------------------------------------


@dataclass(frozen=True)
class Tally:
    """What must be known of all rows before one can be encoded; adds up."""

    histograms: list[Histogram]
    rows: np.ndarray
    """Rows to train on, int64 (other, mangrove)."""

    units: np.ndarray
    """Summed weight of those rows, int64 (other, mangrove) in 2**-12 pixel."""

    land: np.ndarray
    """The same with the rows at class edges, which stand for land but are not trained on."""

    regions: frozenset[str]

    blocks: np.ndarray
    """Numbers of the 10 km blocks of all these rows, those at class edges too: int64 (block,), rising."""

    digest: int
    """Of all rows to train on, their labels and weights, whatever their order: the sum of their hashes, in 64 bits."""

    @classmethod
    def sum(cls, parts: list[Tally]) -> Tally:
        """Add up the tallies of partitions."""
        return cls(
            [merge_histograms(feature) for feature in zip(*(part.histograms for part in parts), strict=True)],
            np.sum([part.rows for part in parts], axis=0),
            np.sum([part.units for part in parts], axis=0),
            np.sum([part.land for part in parts], axis=0),
            frozenset().union(*(part.regions for part in parts)),
            _distinct([part.blocks for part in parts]),
            sum(part.digest for part in parts) % 2**64,
        )


def tally_rows(part: pd.DataFrame, features: Sequence[str], keep: Keep, balance: str) -> Tally:
    """Count the training rows of a partition."""
    chosen = _select(part, keep)
    used, units = _training_rows(chosen, balance)
    land = as_mapped(chosen)
    return Tally(
        [count_values(values) for values in feature_values(used, features)],
        _by_class(used, np.ones(len(used), np.int64)),
        _by_class(used, units),
        _by_class(land, _units(land)),
        frozenset(used["region"].astype(str)),
        np.unique(block_ids(chosen)),
        _digest(used, features, units),
    )


def encode_rows(
    part: pd.DataFrame,
    features: Sequence[str],
    keep: Keep,
    balance: str,
    edges: Sequence[np.ndarray],
    scale: np.ndarray,
) -> Rows:
    """Encode the training rows of a partition; ``scale`` brings the units of each class to weights of mean 1."""
    used, units = _training_rows(_select(part, keep), balance)
    positive = (used["label"] == MANGROVE).to_numpy()
    codes = encode(feature_values(used, features), edges)
    weight = units * scale[positive.astype(np.int64)]
    return Rows(np.ascontiguousarray(codes.T), positive.astype(np.float32), weight.astype(np.float32))


def _training_rows(part: pd.DataFrame, balance: str) -> tuple[pd.DataFrame, np.ndarray]:
    """Return the rows to train on, those away from class edges, and what each weighs in 2**-12."""
    trust = part["trust"].to_numpy(dtype=np.float64) if "trust" in part else np.ones(len(part))
    rows = part["interior"].to_numpy(dtype=bool) & (trust > 0)
    units = np.full(len(part), WEIGHT_GRID) if balance == "drawn" else _units(part)
    return part[rows], np.maximum(np.rint(units[rows] * trust[rows]), 1).astype(np.int64)


def _digest(used: pd.DataFrame, features: Sequence[str], units: np.ndarray) -> int:
    keys = row_keys(used, 0, by=[*features, "label"])
    return int(pd.util.hash_array(keys ^ units.view(np.uint64)).sum(dtype=np.uint64))


def _by_class(part: pd.DataFrame, values: np.ndarray) -> np.ndarray:
    return np.array([values[part["label"] == label].sum() for label in (OTHER, MANGROVE)], dtype=np.int64)
