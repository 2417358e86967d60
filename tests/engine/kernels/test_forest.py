"""Trees over codes as selections: the very margins and probabilities of XGBoost."""

from __future__ import annotations

import json

import numpy as np
import pytest
import xgboost
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.kernels.bins import MISSING_CODE
from engine.kernels.forest import LANES, compile_trees, margins, probabilities


def tree(left, right, feature, condition, default_left):
    return {
        "left_children": left,
        "right_children": right,
        "split_indices": feature,
        "split_conditions": condition,
        "default_left": default_left,
    }


def trained(rng, features, *, rounds=8, depth=6, missing=0.1, rows=3000):
    codes = rng.integers(0, 255, (rows, features)).astype("uint8")
    codes[rng.random(codes.shape) < missing] = MISSING_CODE
    label = (codes[:, 0].astype(int) + codes[:, -1] + rng.normal(0, 60, rows)) > 250
    data = xgboost.QuantileDMatrix(codes, label, missing=MISSING_CODE, max_bin=256)
    params = {"objective": "binary:logistic", "base_score": 0.5, "max_depth": depth, "nthread": 1}
    return xgboost.train(params, data, rounds)


def trees_of(booster):
    return json.loads(booster.save_raw("json"))["learner"]["gradient_booster"]["model"]["trees"]


def test_a_walk_by_hand():
    # Code of feature 0 below 10: leaf 1. Else feature 1 below 200.5, missing to the right: leaf 2, else leaf 4.
    one = tree([1, -1, 3, -1, -1], [2, -1, 4, -1, -1], [0, 0, 1, 0, 0], [10, 1, 200.5, 2, 4], [1, 0, 0, 0, 0])
    codes = np.array([[9, 10, 10, 10, 255, 254], [0, 200, 201, 255, 255, 0]], dtype="uint8")
    assert margins(compile_trees([one], 2), codes, np.float32(0.5)).tolist() == [1.5, 2.5, 4.5, 4.5, 1.5, 2.5]


@pytest.mark.parametrize("default_left", [0, 1])
@pytest.mark.parametrize("condition", [-3, 0, 0.5, 1, 254, 254.5, 255, 256, 300])
def test_every_condition_parts_the_codes_as_it_says(condition, default_left):
    one = tree([1, -1, -1], [2, -1, -1], [0, 0, 0], [condition, -1, 1], [default_left, 0, 0])
    codes = np.arange(256, dtype="uint8")
    expected = np.where(codes < condition, -1, 1)
    expected[255] = -1 if default_left else 1
    assert margins(compile_trees([one], 1), codes[None], np.float32(0)).tolist() == expected.tolist()


def test_a_tree_of_one_leaf_adds_it_to_all():
    assert (
        margins(compile_trees([tree([-1], [-1], [0], [0.25], [0])], 1), np.zeros((1, 3), "uint8"), np.float32(0)).sum()
        == 0.75
    )


@settings(max_examples=12)
@given(
    seed=st.integers(0, 2**32 - 1),
    features=st.integers(1, 20),
    depth=st.integers(1, 8),
    missing=st.sampled_from([0, 0.1, 0.9]),
    pixels=st.sampled_from([1, LANES - 1, LANES, LANES + 1, 3 * LANES + 7]),
)
def test_margins_and_probabilities_are_those_of_xgboost(seed, features, depth, missing, pixels):
    rng = np.random.default_rng(seed)
    booster = trained(rng, features, depth=depth, missing=missing)
    codes = rng.integers(0, 256, (features, pixels)).astype("uint8")
    found = margins(compile_trees(trees_of(booster), features), codes, np.float32(0))
    options = {"missing": MISSING_CODE}
    np.testing.assert_array_equal(found, booster.inplace_predict(codes.T, predict_type="margin", **options))
    np.testing.assert_array_equal(probabilities(found), booster.inplace_predict(codes.T, **options))


def test_trees_too_large_for_a_byte_are_refused():
    rng = np.random.default_rng(1)
    label = rng.random(20_000) < 0.5
    data = xgboost.QuantileDMatrix(rng.integers(0, 255, (20_000, 4)).astype("uint8"), label, max_bin=256)
    params = {"objective": "binary:logistic", "max_depth": 12, "min_child_weight": 0, "nthread": 1}
    with pytest.raises(ValueError, match="leaves, more than 256"):
        compile_trees(trees_of(xgboost.train(params, data, 1)), 4)
