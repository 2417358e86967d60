"""A sample with all columns, a model of two of its regions, and what the model says of the third."""

from __future__ import annotations

import numpy as np
import pandas as pd

from engine.boost import fit_boosted, training_weights
from engine.kernels.features import ALL_FEATURES
from engine.model import Model
from engine.params import BoostParams
from engine.scores import score_part
from engine.splits import block_ids
from tests.engine.samples import make_sample

FEATURES = (*ALL_FEATURES[:7], "nbr")
FEW = BoostParams(rounds=8, max_depth=3, learning_rate=0.3)
THRESHOLD = 0.4


def make_model(sample: pd.DataFrame, held: tuple[str, ...]) -> Model:
    rows = sample[~sample["region"].isin(held) & sample["interior"]]
    positive = (rows["label"] == 2).to_numpy()
    plain = np.zeros(len(rows), bool)
    weight = training_weights(positive, rows["weight"].to_numpy(), ~plain, plain, "map")
    values = np.ascontiguousarray(rows[list(FEATURES)].to_numpy(np.int32).T)
    boosted = fit_boosted(values, positive, weight, FEW)
    return Model(
        trees=boosted.trees,
        features=FEATURES,
        edges=boosted.edges,
        regions=tuple(sorted(set(rows["region"]))),
        blocks=np.unique(block_ids(rows)),
        hold_out=held,
        training_prevalence=0.05,
        training_rows={},
        threshold=THRESHOLD,
    )


def with_all_columns(sample: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Add what later samples have, and a truth that differs from the mask in a tenth of the rows."""
    rng = np.random.default_rng(seed)
    mask = (sample["label"] == 2).to_numpy()
    truth = mask ^ (rng.random(len(sample)) < 0.1)
    kinds = np.where(truth, "mangrove", rng.choice(["water", "forest", "mudflat"], len(sample)))
    return sample.assign(
        clear_count=rng.integers(1, 40, len(sample)).astype(np.int16),
        sensor=rng.choice(["L8", "L8+L9", "L9", "L5", "L7"], len(sample)),
        thinned=False,
        lon=0.0,
        lat=0.0,
        truth=truth,
        truth_class=kinds,
    )


SAMPLE = with_all_columns(make_sample(2400, extent_px=1600))
MODEL = make_model(SAMPLE, ("Fiji",))
SCORES = score_part(SAMPLE, MODEL)
