"""Gradient-boosted trees over binned features: the same trees however the rows are spread.

Why they do not depend on row order, partitions, threads or workers: features are binned once, by exact additive
histograms; every bin is one integer code, at most 255 a feature, so XGBoost's own quantile sketch has nothing left
to approximate; and gradients are multiples of 2**-24, so that the double-precision sums from which splits and leaves
are computed are exact in any order (see ``logistic_gradients``). There is no row or column subsampling and no early
stopping.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import xgboost

from engine.checkpoints import Checkpoint, continued
from engine.kernels.bins import MISSING_CODE, bin_edges, count_values, encode
from engine.model import canonical_json
from engine.params import BoostParams

GRADIENT_GRID: Final = 2.0**24
"""Gradients are multiples of 1 / GRADIENT_GRID."""

MAX_ROWS: Final = 2**28
"""Rows one model can take: 2**28 rows of mean weight 1 keep every sum of gradients below 2**53 grid steps."""


@dataclass(frozen=True)
class Rows:
    """Encoded training rows."""

    codes: np.ndarray
    """uint8 (row, feature)."""

    positive: np.ndarray
    """float32 (row,), 1 for mangrove."""

    weight: np.ndarray
    """float32 (row,), mean 1 over the whole sample."""


@dataclass(frozen=True)
class Boosted:
    """Fitted trees and the bins they are about."""

    trees: bytes
    """XGBoost model as canonical JSON text."""

    edges: tuple[np.ndarray, ...]
    """Bin edges of each feature, int32."""

    def predict(self, values: np.ndarray) -> np.ndarray:
        """Return the probability of the positive class, float32 (row,), of int32 features (feature, row)."""
        codes = np.ascontiguousarray(encode(values, self.edges).T)
        if not len(codes):
            return np.empty(0, np.float32)  # XGBoost gives (0, 0)
        return self.booster.inplace_predict(codes, missing=MISSING_CODE)

    @cached_property
    def booster(self) -> xgboost.Booster:
        """The trees as XGBoost takes them, of one thread."""
        return xgboost.Booster({"nthread": 1}, model_file=bytearray(self.trees))


def fit_boosted(
    values: np.ndarray, positive: np.ndarray, weight: np.ndarray, params: BoostParams, *, threads: int = 1
) -> Boosted:
    """Fit trees to rows that are at hand.

    Parameters
    ----------
    values : ndarray of int32, shape (feature, row)
        ``engine.kernels.features.MISSING`` where missing.
    positive : ndarray of bool, shape (row,)
    weight : ndarray of float, shape (row,)
        Any scale; brought to mean 1.
    params : BoostParams
        Rounds, depth, learning rate and regularisers.
    threads : int

    Raises
    ------
    ValueError
        If there is no row, or all are of one class.
    """
    if not 0 < positive.sum() < positive.size:
        raise ValueError(f"rows of both classes are needed, got {int(positive.sum())} of {positive.size} positive")
    edges = tuple(bin_edges(count_values(feature)) for feature in values)
    rows = Rows(
        np.ascontiguousarray(encode(values, edges).T),
        positive.astype(np.float32),
        (weight / np.mean(weight, dtype=np.float64)).astype(np.float32),
    )
    return Boosted(train_rows([rows], params, threads), edges)


def booster_params(params: BoostParams) -> dict[str, Any]:
    """Return what XGBoost is asked for."""
    return {
        "objective": "binary:logistic",
        "base_score": 0.5,  # else it would be estimated from the rows each worker holds
        "tree_method": "hist",
        "max_bin": 256,
        "max_depth": params.max_depth,
        "learning_rate": params.learning_rate,
        "min_child_weight": params.min_child_weight,
        "reg_lambda": params.reg_lambda,
        "reg_alpha": params.reg_alpha,
        "gamma": params.gamma,
    }


def train_rows(parts: Sequence[Rows], params: BoostParams, threads: int, checkpoint: Checkpoint | None = None) -> bytes:
    """Train in this process on all encoded rows; return the trees as canonical JSON.

    With a checkpoint it goes on from the trees that are kept there, to the very same ones, and keeps its own.
    """
    features = parts[0].codes.shape[1]
    grown = checkpoint.read(features=features, rounds=params.rounds) if checkpoint else None
    if grown and grown.rounds == params.rounds:
        return grown.trees
    data = xgboost.QuantileDMatrix(
        np.concatenate([part.codes for part in parts]),
        label=np.concatenate([part.positive for part in parts]),
        label_lower_bound=np.concatenate([part.weight for part in parts]),
        missing=MISSING_CODE,
        max_bin=256,
        nthread=threads,
    )
    how = {**booster_params(params), "nthread": threads}
    booster = xgboost.train(how, data, obj=logistic_gradients, **continued(grown, checkpoint, params.rounds))
    return trees_of(booster)


def trees_of(booster: xgboost.Booster) -> bytes:
    """Return the one JSON text of a booster."""
    return canonical_json(json.loads(booster.save_raw("json")))


def logistic_gradients(margin: np.ndarray, rows: xgboost.DMatrix) -> tuple[np.ndarray, np.ndarray]:
    """Return gradient and hessian of the weighted logistic loss, on a grid where sums are exact.

    Each value is rounded to a multiple of 2**-24; the cast to float32 keeps it one, as a float32 above 1 has
    coarser steps and all are powers of two. XGBoost adds them up as doubles. With mean weight 1 and |g|, h <= w
    the sum over n rows is at most n * 2**24 steps, below 2**53 for n <= ``MAX_ROWS``, and doubles hold such
    sums without rounding: the order of addition cannot matter. It also hides the last bit in which ``exp``
    differs between processors.

    The weight travels as ``label_lower_bound``: as ``weight`` it would enter XGBoost's quantile sketch.
    """
    weight = rows.get_float_info("label_lower_bound").astype(np.float64)
    probability = 1 / (1 + np.exp(-margin.reshape(-1).astype(np.float64)))
    gradient = weight * (probability - rows.get_label())
    hessian = weight * probability * (1 - probability)
    return _on_grid(gradient), _on_grid(hessian)


def _on_grid(values: np.ndarray) -> np.ndarray:
    return (np.rint(values * GRADIENT_GRID) / GRADIENT_GRID).astype(np.float32)


def training_weights(
    positive: np.ndarray, weight: np.ndarray, interior: np.ndarray, thinned: np.ndarray, balance: str
) -> np.ndarray:
    """Return the weight each row is trained with: 0 for rows at a class edge.

    Parameters
    ----------
    positive : ndarray of bool, shape (row,)
    weight : ndarray of float64, shape (row,)
        Pixels a row stands for.
    interior : ndarray of bool, shape (row,)
        True away from class edges: these rows alone are trained on.
    thinned : ndarray of bool, shape (row,)
        True for further rows of the same pixels, which stand for no land of their own.
    balance : {"map", "classes", "drawn"}
        Whether a row counts as the land it stands for (each class's interior rows for all of the class's land), as
        that but both classes alike, or once.

    Returns
    -------
    ndarray of float64, shape (row,)

    Examples
    --------
    >>> interior = np.ones(3, bool)
    >>> training_weights(np.array([True, False, False]), np.array([1.0, 2, 3]), interior, ~interior, "classes")
    array([3. , 1.2, 1.8])
    """
    if balance == "drawn":
        return interior.astype(np.float64)
    found = np.where(interior, weight, 0.0)
    for of in (positive, ~positive):
        land = weight[of & ~thinned].sum() if balance == "map" else weight[~thinned].sum() / 2
        used = found[of].sum()
        found[of] *= land / used if used else 0.0
    return found
