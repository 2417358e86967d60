"""Importance, recomputed from rows."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from engine.boost import Boosted
from engine.importance import importance_table, permutation_importance, shap_table
from engine.kernels.features import MISSING
from tests.engine.judged import FEATURES, MODEL, SAMPLE


def test_shap_values_and_bias_add_up_to_the_margin():
    boosted = Boosted(MODEL.trees, MODEL.edges)
    table = shap_table(SAMPLE.head(200), FEATURES, boosted)
    parts = table[[f"shap_{name}" for name in FEATURES]].to_numpy(np.float64)
    assert parts.sum(axis=1) + table["bias"].to_numpy() == pytest.approx(table["margin"].to_numpy(), abs=1e-4)
    probability = boosted.predict(np.ascontiguousarray(SAMPLE.head(200)[list(FEATURES)].to_numpy(np.int32).T))
    assert 1 / (1 + np.exp(-table["margin"].to_numpy())) == pytest.approx(probability, abs=1e-6)


def test_permutation_importance_is_the_auc_that_is_lost():
    boosted = Boosted(MODEL.trees, MODEL.edges)
    rows = SAMPLE[SAMPLE["region"] == "Fiji"]
    table = permutation_importance(rows, FEATURES, boosted, repeats=2, seed=4)
    values = np.ascontiguousarray(rows[list(FEATURES)].to_numpy(np.int32).T)
    order = np.random.default_rng([4, 1]).permutation(len(rows))
    positive, weight = rows["label"] == 2, rows["weight"]
    whole = roc_auc_score(positive, boosted.predict(values), sample_weight=weight)
    changed = values.copy()
    changed[FEATURES.index("nir08")] = values[FEATURES.index("nir08"), order]
    expected = whole - roc_auc_score(positive, boosted.predict(changed), sample_weight=weight)
    found = table[(table["feature"] == "nir08") & (table["repeat"] == 1)]["drop"].item()
    assert found == pytest.approx(expected, abs=1e-5)
    summary = importance_table(table, shap_table(rows, FEATURES, boosted)).set_index("feature")
    assert summary.loc["nir08", "auc_drop"] == pytest.approx(table[table["feature"] == "nir08"]["drop"].mean())
    groups = set(summary.index[summary["is_group"]])
    assert groups == {"bands", "indices"}
    assert summary.loc["bands", "auc_drop"] > summary.loc["nir08", "auc_drop"]


def test_mean_shap_is_recomputed_from_its_rows():
    boosted = Boosted(MODEL.trees, MODEL.edges)
    shap = shap_table(SAMPLE.head(100), FEATURES, boosted)
    permuted = permutation_importance(SAMPLE.head(100), FEATURES, boosted, repeats=1)
    table = importance_table(permuted, shap).set_index("feature")
    assert table.loc["red", "shap"] == pytest.approx(shap["shap_red"].abs().mean())
    bands = shap[[f"shap_{name}" for name in ("blue", "green", "red", "nir08", "swir16", "swir22")]].sum(axis=1)
    assert table.loc["bands", "shap"] == pytest.approx(bands.abs().mean())


def test_missing_features_are_taken_as_missing():
    rows = SAMPLE.head(40).assign(red=np.int32(MISSING))
    assert np.isfinite(shap_table(rows, FEATURES, Boosted(MODEL.trees, MODEL.edges))["margin"]).all()
