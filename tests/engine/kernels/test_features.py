"""Features of a block: order, and what is missing where."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from engine.kernels.composite import annual_layers
from engine.kernels.features import (
    ALL_FEATURES,
    COMPOSITE_FEATURES,
    CONTEXT_FEATURES,
    FEATURE_SETS,
    KNOWN_FEATURES,
    MISSING,
    WATER_MISSING,
    feature_stack,
    layers_of,
)
from engine.kernels.indices import INDEX_MISSING, spectral_indices
from engine.landsat import BANDS
from engine.params import TrainParams


def test_the_features_of_four_pixels_by_hand():
    """Seen often; seen often but with no wet look counted; seen seldom; never seen."""
    composite = np.array([[[8000, 8000, 8000, 0]]] * 6, "uint16")
    arrays = {
        "composite": composite,
        "ndvi_p10": np.array([[-300, -300, INDEX_MISSING, INDEX_MISSING]], "int16"),
        "ndvi_p90": np.array([[9000, 9000, INDEX_MISSING, INDEX_MISSING]], "int16"),
        "water_frequency": np.array([[2500, 0, WATER_MISSING, WATER_MISSING]], "uint16"),
    }
    stack = feature_stack(arrays, ("water_frequency", "ndvi_range", "ndvi_p10", "red"))
    assert stack.dtype == np.int32
    assert stack[:, 0].tolist() == [
        [2500, 0, MISSING, MISSING],
        [9300, 9300, MISSING, MISSING],
        [-300, -300, MISSING, MISSING],
        [8000, 8000, 8000, MISSING],
    ]


def test_bands_and_indices_come_in_the_order_asked_for():
    composite = np.random.default_rng(4).integers(7000, 20000, (6, 2, 3)).astype("uint16")
    stack = feature_stack({"composite": composite}, COMPOSITE_FEATURES)
    assert np.array_equal(stack[: len(BANDS)], composite)
    assert np.array_equal(stack[len(BANDS) :], spectral_indices(composite))
    assert np.array_equal(feature_stack({"composite": composite}, COMPOSITE_FEATURES[::-1]), stack[::-1])


def test_features_are_missing_where_not_observed_and_ranges_where_not_known():
    bands = np.random.default_rng(2).integers(7000, 20000, (3, 6, 2, 2)).astype("uint16")
    clear = np.ones((3, 2, 2), dtype=bool)
    clear[:, 0, 0] = False
    stack = feature_stack(annual_layers(bands, clear))
    assert stack.shape == (len(ALL_FEATURES), 2, 2)
    assert (stack[:, 0, 0] == MISSING).all()
    assert (stack[13:, 1, 1] == MISSING).all()
    assert (stack[:13, 1, 1] != MISSING).all()


def test_deviations_are_features_only_where_asked_for():
    arrays = {
        "composite": np.array([[[8000, 8000, 0]]] * 6, "uint16"),
        "ndvi_mad": np.array([[120, INDEX_MISSING, INDEX_MISSING]], "int16"),
        "mndwi_mad": np.array([[0, INDEX_MISSING, INDEX_MISSING]], "int16"),
    }
    stack = feature_stack(arrays, ("mndwi_mad", "ndvi_mad"))
    assert stack[:, 0].tolist() == [[0, MISSING, MISSING], [120, MISSING, MISSING]]
    assert not set(FEATURE_SETS["all"]) & {"ndvi_mad", "mndwi_mad"}
    assert FEATURE_SETS["all+mad"] == (*ALL_FEATURES, "ndvi_mad", "mndwi_mad")


def test_neighbourhoods_are_features_only_where_asked_for():
    composite = np.array([[[8000, 0]]] * 6, "uint16")
    context = np.arange(7001, 7007, dtype="uint16").reshape(6, 1, 1) * np.array([1, 0], "uint16")
    arrays = {"composite": composite, "context": context}
    stack = feature_stack(arrays, ("swir22_150m", "blue", "blue_150m"))
    assert stack[:, 0].tolist() == [[7006, MISSING], [8000, MISSING], [7001, MISSING]]
    for name in ("composite", "all", "all+mad"):
        assert not set(FEATURE_SETS[name]) & set(CONTEXT_FEATURES)
    assert FEATURE_SETS["all+mad+context"] == (*FEATURE_SETS["all+mad"], *CONTEXT_FEATURES) == KNOWN_FEATURES
    assert layers_of(CONTEXT_FEATURES) == {"composite", "clear_count"}, "all that is read of a cube"


def test_every_set_of_features_can_be_asked_for_by_name():
    assert set(FEATURE_SETS) == set(get_args(TrainParams.model_fields["features"].annotation))


def test_unknown_features_are_refused_by_name():
    with pytest.raises(ValueError, match="elevation"):
        feature_stack({"composite": np.zeros((6, 1, 1), "uint16")}, ("elevation",))
