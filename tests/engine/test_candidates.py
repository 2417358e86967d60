"""Candidates: what each pipeline is made of, weighed against scikit-learn and numpy; the same wherever it is fitted."""

from __future__ import annotations

import threading

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import RobustScaler
from sklearn.tree import DecisionTreeClassifier
from threadpoolctl import threadpool_info

from engine import candidates
from engine.boost import fit_boosted, training_weights
from engine.candidates import BASELINE, CANDIDATES, MAPPED, Rows, by_region, fit_candidate, one_thread
from engine.errors import ConfigError, SampleError
from engine.kernels.features import ALL_FEATURES, COMPOSITE_FEATURES, MISSING
from engine.kernels.indices import INDICES
from engine.kernels.score import auc
from engine.params import BoostParams
from tests.engine.samples import make_sample

FRAME = make_sample(900)
ROWS = Rows.of(FRAME, ALL_FEATURES)
QUICK = {"xgboost": {"xgboost.rounds": 8, "xgboost.max_depth": 3}, "mlp": {"mlp.epochs": 6}}


def fitted(name, rows=ROWS, **options):
    return fit_candidate(name, rows, QUICK.get(name.partition("/")[0]), **options)


def drawn_values(frame, features=COMPOSITE_FEATURES):
    return frame[list(features)].to_numpy(np.float64)


# --- the list --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("candidate", CANDIDATES.values(), ids=str)
def test_every_default_lies_in_its_space(candidate):
    assert candidate.space.keys() == candidate.defaults.keys()
    for key, distribution in candidate.space.items():
        assert distribution._contains(distribution.to_internal_repr(candidate.defaults[key])), key


def test_the_space_of_the_boosted_trees_is_what_was_asked_for():
    space = CANDIDATES[MAPPED].space
    for key, low, high, log in (
        ("rounds", 64, 1024, True),
        ("max_depth", 2, 8, False),
        ("learning_rate", 1e-3, 1, True),
    ):
        of = space[f"xgboost.{key}"]
        assert (of.low, of.high, of.log) == (low, high, log)
    assert {key.partition(".")[2] for key in space} == set(BoostParams.model_fields)
    assert not [key for key in space if "sample" in key]


def test_the_baseline_has_nothing_to_search():
    assert CANDIDATES[BASELINE].space == {}


@pytest.mark.parametrize("name", CANDIDATES)
def test_every_candidate_tells_mangrove_apart_and_repeats(name):
    model = fitted(name)
    probability = model.predict(ROWS)
    assert probability.dtype == np.float32
    assert probability.shape == (len(FRAME),)
    assert ((probability >= 0) & (probability <= 1)).all()
    assert auc(probability, ROWS.positive, ROWS.weight) > 0.65
    again = fitted(name)
    assert model.sha256(ROWS) == again.sha256(ROWS)
    np.testing.assert_array_equal(again.predict(ROWS), probability)


# --- against the libraries -------------------------------------------------------------------------------------


def test_boosted_trees_are_those_of_training():
    rows = Rows.of(FRAME, ALL_FEATURES)
    weight = training_weights(rows.positive, rows.weight, rows.interior, rows.thinned, "classes")
    used = rows.interior
    expected = fit_boosted(rows.values[:, used], rows.positive[used], weight[used], BoostParams(rounds=8, max_depth=3))
    model = fitted(MAPPED, balance="classes")
    assert model.model.trees == expected.trees
    np.testing.assert_array_equal(model.predict(rows), expected.predict(rows.values))


def test_the_baseline_is_one_tree_grown_to_the_end_on_rows_as_drawn():
    rows = Rows.of(FRAME, COMPOSITE_FEATURES)
    interior = FRAME["interior"].to_numpy()
    tree = DecisionTreeClassifier(random_state=0).fit(drawn_values(FRAME[interior]), FRAME["label"][interior] == 2)
    expected = tree.predict_proba(drawn_values(FRAME))[:, 1]
    for balance in ("map", "classes", "drawn"):
        np.testing.assert_array_equal(fit_candidate(BASELINE, rows, balance=balance).predict(rows), expected)
    assert set(expected[interior]) == {0.0, 1.0}  # every leaf is pure


def test_the_linear_model_is_logistic_regression_on_scaled_features_with_the_weights_of_training():
    rows = Rows.of(FRAME, COMPOSITE_FEATURES)
    used = rows.interior
    weight = training_weights(rows.positive, rows.weight, used, rows.thinned, "map")[used]
    scaler = RobustScaler().fit(drawn_values(FRAME)[used])
    model = LogisticRegression(C=0.5, max_iter=10_000, tol=1e-9)  # by lbfgs
    model.fit(scaler.transform(drawn_values(FRAME))[used], rows.positive[used], sample_weight=weight / weight.mean())
    expected = model.predict_proba(scaler.transform(drawn_values(FRAME)))[:, 1]
    found = fit_candidate("linear/robust", rows, {"linear.C": 0.5}).predict(rows)  # by Newton steps, stopped sooner
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_without_indices_these_do_not_matter():
    rows = Rows.of(FRAME, ALL_FEATURES)
    changed = Rows.of(FRAME.assign(**dict.fromkeys(INDICES, np.int32(77))), ALL_FEATURES)
    for name in ("xgboost/bands", "mlp/bands"):
        assert fitted(name).sha256(rows) == fitted(name, changed).sha256(changed)


def test_what_is_missing_is_filled_with_the_median_of_the_rows_trained_on():
    rows = Rows.of(FRAME, ALL_FEATURES)
    known = rows.values[:, rows.interior].astype(float)
    known[known == MISSING] = np.nan
    filled = rows.values.copy()
    for feature, median in zip(filled, np.nanmedian(known, axis=1), strict=True):
        feature[feature == MISSING] = median
    full = fitted("xgboost/imputed").predict(rows)
    frame = FRAME.assign(**dict(zip(ALL_FEATURES, filled, strict=True)))
    np.testing.assert_allclose(fitted("xgboost/imputed", Rows.of(frame, ALL_FEATURES)).predict(rows), full, atol=0.05)


def test_a_feature_that_is_never_known_is_no_obstacle():
    frame = FRAME.assign(ndvi_p10=np.int32(MISSING), water_frequency=np.int32(MISSING))
    rows = Rows.of(frame, ALL_FEATURES)
    for name in ("cart", "xgboost/pca", "xgboost/region", "linear/quantile", "mlp/robust"):
        assert np.isfinite(fitted(name, rows).predict(rows)).all(), name


# --- relative to the region ------------------------------------------------------------------------------------


def test_features_are_relative_to_the_land_of_their_region():
    values = np.array([[10.0, 20, 30, 40, 1000, np.nan]])
    region = np.array([0, 0, 0, 0, 1, 1])
    found = by_region(values, region, np.array([1.0, 1, 1, 1, 5, 5]))
    # Quartiles of 10 20 30 40 with a quarter of the weight each: 10, 20, 30.
    np.testing.assert_allclose(found, [[-0.5, 0, 0.5, 1, 0, np.nan]])
    heavier = by_region(values, region, np.array([1.0, 1, 1, 9, 5, 5]))
    np.testing.assert_allclose(heavier[0, 3], 0)  # three quarters of the land are at 40


def test_rows_of_no_weight_are_changed_but_not_counted():
    values = np.array([[10.0, 20, 30, 40, 70]])
    found = by_region(values, np.zeros(5, int), np.array([1.0, 1, 1, 1, 0]))
    np.testing.assert_allclose(found, [[-0.5, 0, 0.5, 1, 2.5]])


@settings(max_examples=20, deadline=None)
@given(shift=st.integers(-5000, 5000), factor=st.integers(1, 4))
def test_a_region_seen_through_another_gain_and_offset_looks_the_same(shift, factor):
    values = drawn_values(FRAME).T
    region = pd.factorize(FRAME["region"])[0]
    weight = FRAME["weight"].to_numpy()
    other = np.where(region == 1, values * factor + shift, values)
    np.testing.assert_allclose(by_region(other, region, weight), by_region(values, region, weight), atol=1e-9)


@pytest.mark.parametrize("name", [name for name in CANDIDATES if name.endswith("/region")])
def test_labels_of_an_unseen_region_have_no_part_in_what_is_said_of_it(name):
    seen = FRAME["region"] != "Fiji"
    model = fitted(name, Rows.of(FRAME[seen], ALL_FEATURES))
    unseen = FRAME[~seen]
    expected = model.predict(Rows.of(unseen, ALL_FEATURES))
    other = unseen.assign(label=np.uint8(1), interior=False)
    np.testing.assert_array_equal(model.predict(Rows.of(other, ALL_FEATURES)), expected)
    together = model.predict(Rows.of(FRAME, ALL_FEATURES))[~seen.to_numpy()]
    np.testing.assert_array_equal(together, expected)  # nor have other regions


# --- rows ------------------------------------------------------------------------------------------------------


def test_rows_at_class_edges_are_not_fitted_to():
    moved = FRAME.copy()
    edge = ~moved["interior"].to_numpy()
    for name in COMPOSITE_FEATURES:
        moved.loc[edge, name] = 1
    for name in ("xgboost", "linear/robust", "mlp/quantile", "cart"):
        a, b = (fitted(name, Rows.of(frame, COMPOSITE_FEATURES)) for frame in (FRAME, moved))
        np.testing.assert_array_equal(
            a.predict(ROWS := Rows.of(FRAME, COMPOSITE_FEATURES)), b.predict(ROWS), err_msg=name
        )


def test_a_table_to_predict_needs_features_only():
    model = fitted("mlp/region")
    bare = Rows.of(FRAME[list(ALL_FEATURES)], ALL_FEATURES)
    assert model.predict(bare).shape == (len(FRAME),)


def test_mistakes_are_told():
    with pytest.raises(ConfigError, match=r"no candidate 'svm'; known are cart, xgboost, "):
        fit_candidate("svm", ROWS)
    with pytest.raises(ConfigError, match=r"cart has no parameter 'depth'; known are none"):
        fit_candidate("cart", ROWS, {"depth": 3})
    with pytest.raises(SampleError, match="lacks column 'red'"):
        Rows.of(FRAME.drop(columns="red"), COMPOSITE_FEATURES)
    with pytest.raises(SampleError, match="'red' is float64"):
        Rows.of(FRAME.assign(red=0.5), COMPOSITE_FEATURES)
    with pytest.raises(SampleError, match=r"0 of .* rows to train on are mangrove"):
        fit_candidate("cart", ROWS.take(~ROWS.positive))


# --- threads ---------------------------------------------------------------------------------------------------


def test_libraries_use_one_thread_while_any_task_is_inside():
    def threads(api=("blas", "openmp")):
        return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] in api}

    before = threads()
    inside, leave, seen = threading.Event(), threading.Event(), []

    def other():
        with one_thread():
            inside.set()
            leave.wait(10)
            seen.append(threads())

    with one_thread():
        task = threading.Thread(target=other)
        task.start()
        inside.wait(10)
        assert threads() == {1}
    assert threads(("blas",)) == {1}  # the other is inside still, and BLAS has one setting for the process
    leave.set()
    task.join()
    assert seen == [{1}]
    assert threads() == before
    assert candidates._inside == 0
