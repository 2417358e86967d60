"""Blocks of features to probability and class."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from engine.classify import as_asked, classify_block
from engine.errors import ModelError
from engine.kernels.bins import encode
from engine.kernels.calibrate import CURVE_THRESHOLDS, Calibration, Curve
from engine.kernels.features import ALL_FEATURES, MISSING
from engine.params import ClassifyParams, TrainParams
from engine.train import fit
from tests.engine.samples import make_sample

SAMPLE = make_sample(1200, prevalence=0.4)
MODEL = fit(SAMPLE, features=ALL_FEATURES, params=TrainParams(rounds=20, max_depth=4))
BLOCK = np.ascontiguousarray(SAMPLE[list(ALL_FEATURES)].to_numpy(np.int32).T[:, :1080]).reshape(-1, 30, 36)
ALL = np.ones((30, 36), bool)


def expected():
    codes = encode(BLOCK.reshape(len(ALL_FEATURES), -1), MODEL.edges)
    return np.rint(MODEL.predict_codes(codes).reshape(30, 36) * 10_000)


def test_every_pixel_has_the_models_probability_and_the_class_that_follows():
    probability, classes = classify_block(BLOCK, observed=ALL, area=ALL, model=MODEL)
    assert (probability.dtype, classes.dtype) == (np.uint16, np.uint8)
    np.testing.assert_array_equal(probability, expected())
    np.testing.assert_array_equal(classes, np.where(probability >= 5000, 2, 1))
    assert {1, 2} == set(np.unique(classes).tolist())


def test_legend_codes_where_nothing_is_classified():
    observed, area, habitat = ALL.copy(), ALL.copy(), ALL.copy()
    observed[0, :3] = False
    habitat[0, 1:4] = False
    area[0, 2:5] = False
    probability, classes = classify_block(BLOCK, observed=observed, area=area, habitat=habitat, model=MODEL)
    assert classes[0, :5].tolist() == [0, 3, 255, 255, 255]
    assert (probability[0, :5] == 65535).all()
    np.testing.assert_array_equal(probability[1:], expected()[1:])


def test_the_block_size_does_not_change_the_map():
    whole = classify_block(BLOCK, observed=ALL, area=ALL, model=MODEL)
    for rows in (1, 7):
        parts = [
            classify_block(
                BLOCK[:, top : top + rows],
                observed=ALL[top : top + rows],
                area=ALL[top : top + rows],
                model=MODEL,
            )
            for top in range(0, 30, rows)
        ]
        for layer in (0, 1):
            np.testing.assert_array_equal(np.concatenate([part[layer] for part in parts]), whole[layer])


def test_a_lower_threshold_maps_more_and_rasters_agree_at_the_edge():
    probability, _ = classify_block(BLOCK, observed=ALL, area=ALL, model=MODEL)
    value = int(np.median(probability))
    _, classes = classify_block(BLOCK, observed=ALL, area=ALL, model=replace(MODEL, threshold=value / 10_000))
    np.testing.assert_array_equal(classes == 2, probability >= value)


def test_missing_features_are_classified_all_the_same():
    block = BLOCK.copy()
    block[13:] = MISSING
    probability, classes = classify_block(block, observed=ALL, area=ALL, model=MODEL)
    assert (probability <= 10_000).all()
    assert set(np.unique(classes).tolist()) <= {1, 2}


def test_a_block_without_one_pixel_to_classify_is_fine():
    probability, classes = classify_block(BLOCK, observed=~ALL, area=ALL, model=MODEL)
    assert (probability == 65535).all()
    assert (classes == 0).all()


def test_shapes_that_disagree_are_refused():
    with pytest.raises(ValueError, match=r"observed \(30, 36\), area \(29, 36\)"):
        classify_block(BLOCK, observed=ALL, area=ALL[:29], model=MODEL)


def test_a_run_asks_for_another_prevalence_or_threshold():
    thresholds = CURVE_THRESHOLDS
    curve = Curve(thresholds, 1 - thresholds**2, (1 - thresholds) ** 2)
    calibration = Calibration(np.array([0.0, 1.0]), np.array([0.05, 0.9]))
    model = replace(MODEL, calibration=calibration, curve=curve, training_prevalence=0.4)
    assert as_asked(model, ClassifyParams()) is model
    assert as_asked(model, ClassifyParams(threshold=0.7)).threshold == 0.7

    moved = as_asked(model, ClassifyParams(prevalence=0.04))

    assert moved.training_prevalence == 0.04
    odds = moved.levels[5000] / (10_000 - moved.levels[5000])
    assert odds == pytest.approx((0.475 / 0.525) * (0.04 / 0.4) * (0.6 / 0.96), rel=0.01)
    f1 = 2 * 0.04 * curve.recall / (0.04 * curve.recall + 0.96 * curve.false_positive_rate + 0.04)
    best = thresholds[np.argmax(f1)]  # a threshold of before, which now lies at the same odds
    assert moved.threshold / (1 - moved.threshold) == pytest.approx(best / (1 - best) * (0.04 / 0.4) * (0.6 / 0.96))


def test_a_model_that_was_not_calibrated_has_no_other_prevalence():
    with pytest.raises(ModelError, match="not calibrated"):
        as_asked(MODEL, ClassifyParams(prevalence=0.1))
