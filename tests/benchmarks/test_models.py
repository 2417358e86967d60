"""Models of the comparison are trained as the demo's, and give XGBoost's own probabilities."""

from __future__ import annotations

import numpy as np
import xgboost

from benchmarks.forests import probabilities_of
from benchmarks.models import codes_of, fit, mean_leaves
from engine.kernels.bins import MISSING_CODE
from engine.kernels.features import ALL_FEATURES, MISSING


def test_a_fitted_model_is_bit_exact_and_has_bushy_trees():
    rng = np.random.default_rng(1)
    values = rng.integers(0, 10_000, (len(ALL_FEATURES), 5000)).astype("int32")
    values[-1, ::7] = MISSING
    mangrove = values[3] - values[2] > 2000
    for features in (ALL_FEATURES, ("red", "nir08")):
        model = fit(values, mangrove, features, 8)
        codes = codes_of(model, values)
        assert codes.shape == (len(features), 5000)
        booster = xgboost.Booster(model_file=bytearray(model.trees))
        expected = booster.inplace_predict(codes.T, missing=MISSING_CODE)
        assert np.array_equal(probabilities_of(np.ascontiguousarray(codes.T), model), expected)
        assert ((expected > 0.5) == mangrove).mean() > 0.9
        assert 8 < mean_leaves(model) <= 64
