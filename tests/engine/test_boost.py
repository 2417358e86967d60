"""Trees of rows at hand: those of training, and what a row weighs."""

from __future__ import annotations

import numpy as np
import pytest

from engine.boost import fit_boosted, training_weights
from engine.kernels.bins import encode
from engine.kernels.features import ALL_FEATURES
from engine.legend import MANGROVE
from engine.params import BoostParams, TrainParams
from engine.train import fit
from tests.engine.samples import make_sample

SAMPLE = make_sample(1500)
POSITIVE = (SAMPLE["label"] == MANGROVE).to_numpy()
WEIGHT = SAMPLE["weight"].to_numpy()
INTERIOR = SAMPLE["interior"].to_numpy()
NONE = np.zeros(len(SAMPLE), bool)


def values(frame):
    return np.ascontiguousarray(frame[list(ALL_FEATURES)].to_numpy(np.int32).T)


@pytest.mark.parametrize("balance", ["map", "classes", "drawn"])
def test_trees_say_what_those_of_training_say(balance):
    weight = training_weights(POSITIVE, WEIGHT, INTERIOR, NONE, balance)
    used = weight > 0
    few = BoostParams(rounds=8, max_depth=3)
    found = fit_boosted(values(SAMPLE)[:, used], POSITIVE[used], weight[used], few)
    model = fit(SAMPLE, features=ALL_FEATURES, params=TrainParams(rounds=8, max_depth=3, balance=balance))
    for ours, theirs in zip(found.edges, model.edges, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    expected = model.predict_codes(encode(values(SAMPLE), model.edges))
    np.testing.assert_allclose(found.predict(values(SAMPLE)), expected, atol=1e-4)


def test_one_class_cannot_be_fitted():
    with pytest.raises(ValueError, match="rows of both classes"):
        fit_boosted(values(SAMPLE), POSITIVE & False, WEIGHT, BoostParams())


def test_weights_by_hand():
    # Mangrove: 2 px inside, 6 at an edge; other: 8 px and, of a thinned composite, the same again.
    positive, weight = np.array([True, True, False, False]), np.array([2.0, 6.0, 8.0, 8.0])
    interior, thinned = np.array([True, False, True, True]), np.array([False, False, False, True])
    of = {one: training_weights(positive, weight, interior, thinned, one) for one in ("map", "classes", "drawn")}
    np.testing.assert_allclose(of["map"], [8, 0, 4, 4])
    np.testing.assert_allclose(of["classes"], [8, 0, 4, 4])
    np.testing.assert_allclose(of["drawn"], [1, 0, 1, 1])


def test_no_rows_have_no_probability():
    found = fit_boosted(values(SAMPLE), POSITIVE, WEIGHT, BoostParams(rounds=2))
    assert found.predict(values(SAMPLE[:0])).shape == (0,)
