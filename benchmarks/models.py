"""Classifiers of the benchmarks, trained on the simulated square as the demo trains on its regions."""

from __future__ import annotations

import json
from typing import Final

import numpy as np
import xgboost

from benchmarks.archive import REGION, BenchmarkArchive
from engine.cube import composite_block
from engine.kernels.bins import MISSING_CODE, bin_edges, count_values, encode
from engine.kernels.features import ALL_FEATURES, feature_stack
from engine.model import Model, canonical_json
from engine.params import CubeParams

TRAINED_ROWS: Final = 50_000
WRONG_LABELS: Final = 0.05
"""Share of labels turned over, as masks err; without, later trees have few leaves and are quick."""


def pixels_of(archive: BenchmarkArchive) -> tuple[np.ndarray, np.ndarray]:
    """Return the observed pixels of the square, row by row: features int32 (20, pixel) and truth bool (pixel,)."""
    square = archive.square
    layers, _ = composite_block(square.scenes, square.tile.geobox, CubeParams(), archive.access)
    observed = layers["clear_count"] > 0
    return feature_stack(layers)[:, observed], archive.mangrove()[observed]


def fit(values: np.ndarray, mangrove: np.ndarray, features: tuple[str, ...], trees: int) -> Model:
    """Train on pixels drawn from the square, with the engine's binning and parameters."""
    rng = np.random.default_rng(0)
    drawn = rng.permutation(values.shape[1])[:TRAINED_ROWS]
    sample = values[[ALL_FEATURES.index(name) for name in features]][:, drawn]
    edges = tuple(bin_edges(count_values(one)) for one in sample)
    label = mangrove[drawn] ^ (rng.random(drawn.size) < WRONG_LABELS)
    data = xgboost.QuantileDMatrix(encode(sample, edges).T, label=label, missing=MISSING_CODE, max_bin=256)
    booster = xgboost.train(
        {"objective": "binary:logistic", "base_score": 0.5, "max_depth": 6, "learning_rate": 0.1}, data, trees
    )
    return Model(
        trees=canonical_json(json.loads(booster.save_raw("json"))),
        features=features,
        edges=edges,
        regions=(f"sim-{REGION}",),
        training_prevalence=float(label.mean()),
        training_rows={"other": int((~label).sum()), "mangrove": int(label.sum())},
    )


def codes_of(model: Model, values: np.ndarray) -> np.ndarray:
    """Return the codes uint8 (feature, pixel) of all features' values."""
    return encode(values[[ALL_FEATURES.index(name) for name in model.features]], model.edges)


def mean_leaves(model: Model) -> float:
    """Return the leaves of a mean tree, of at most 64."""
    trees = json.loads(model.trees)["learner"]["gradient_booster"]["model"]["trees"]
    return round(sum(tree["left_children"].count(-1) for tree in trees) / len(trees), 1)
