"""Annual layers: answers worked by hand, then equality with numpy on anything."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from engine.kernels.composite import annual_layers, sorting_network
from engine.kernels.features import WATER_MISSING
from engine.kernels.indices import INDEX_MISSING, spectral_indices


def looks_of(values: list[int]) -> np.ndarray:
    return np.array(values, dtype="uint16").reshape(-1, 1, 1, 1).repeat(6, axis=1)


def test_an_even_count_takes_the_mean_of_the_middle_and_rounds_halves_up():
    layers = annual_layers(looks_of([1, 2, 5, 9]), np.ones((4, 1, 1), dtype=bool))
    assert layers["composite"][:, 0, 0].tolist() == [4] * 6  # (2 + 5) / 2 = 3.5


def test_the_largest_values_do_not_overflow():
    layers = annual_layers(looks_of([65535, 65535]), np.ones((2, 1, 1), dtype=bool))
    assert layers["composite"][0, 0, 0] == 65535


def test_a_pixel_never_clear_stays_not_observed():
    layers = annual_layers(looks_of([7000] * 9), np.zeros((9, 1, 1), dtype=bool))
    assert layers["composite"].max() == 0
    assert layers["clear_count"][0, 0] == 0
    assert layers["ndvi_p10"][0, 0] == INDEX_MISSING
    assert layers["water_frequency"][0, 0] == WATER_MISSING


def test_ranges_are_missing_below_eight_looks_and_known_from_eight():
    bands = np.random.default_rng(1).integers(7000, 20000, (8, 6, 1, 1)).astype("uint16")
    clear = np.ones((8, 1, 1), dtype=bool)
    assert annual_layers(bands, clear)["ndvi_p90"][0, 0] != INDEX_MISSING
    clear[0] = False
    assert annual_layers(bands, clear)["ndvi_p90"][0, 0] == INDEX_MISSING


@settings(max_examples=60, deadline=None)
@given(
    bands=hnp.arrays("uint16", st.tuples(st.integers(1, 20), st.just(6), st.just(2), st.just(3))),
    seed=st.integers(0, 2**16),
)
def test_layers_equal_numpy_on_anything(bands, seed):
    clear = np.random.default_rng(seed).random((bands.shape[0], 2, 3)) < 0.6
    layers = annual_layers(bands, clear, min_looks_range=2)
    for y in range(2):
        for x in range(3):
            chosen = bands[clear[:, y, x], :, y, x]
            assert layers["clear_count"][y, x] == len(chosen)
            if len(chosen) == 0:
                continue
            median = np.floor(np.median(chosen.astype("float64"), axis=0) + 0.5)
            assert layers["composite"][:, y, x].tolist() == median.tolist()
            if len(chosen) < 2:
                continue
            indices = np.stack([spectral_indices(look.reshape(6, 1))[:, 0] for look in chosen])
            for column, name in ((0, "ndvi"), (1, "mndwi")):
                for q in (10, 90):
                    # Exact rationals: numpy's own interpolation may land a hair under a half.
                    ordered = np.sort(indices[:, column]).astype(int)
                    low, rest = divmod((len(ordered) - 1) * q, 100)
                    upper = ordered[min(low + 1, len(ordered) - 1)]
                    expected = (100 * ordered[low] + (upper - ordered[low]) * rest + 50) // 100
                    assert layers[f"{name}_p{q}"][y, x] == expected
                    assert abs(expected - np.percentile(ordered, q)) <= 0.5 + 1e-6
            assert abs(layers["water_frequency"][y, x] - 1e4 * (indices[:, 1] > 0).mean()) <= 0.5


def test_wrong_types_are_refused():
    with pytest.raises(TypeError, match="uint16"):
        annual_layers(np.zeros((1, 6, 1, 1)), np.zeros((1, 1, 1), dtype=bool))
    with pytest.raises(TypeError, match="shape"):
        annual_layers(np.zeros((1, 6, 1, 1), "uint16"), np.zeros((2, 1, 1), dtype=bool))


@pytest.mark.parametrize("size", range(14))
def test_the_network_sorts_everything(size):
    """By the zero-one principle (Knuth, 5.3.4 Z) a network that sorts all zeros and ones sorts all values."""
    values = (np.arange(2**size) >> np.arange(size)[:, None]) & 1
    for low, high in sorting_network(size):
        values[[low, high]] = np.sort(values[[low, high]], axis=0)
    assert (np.diff(values, axis=0) >= 0).all()


def test_more_looks_than_any_year_has_are_still_sorted():
    rng = np.random.default_rng(7)
    bands = rng.integers(1, 65_536, (150, 6, 3, 100)).astype("uint16")
    clear = rng.random((150, 3, 100)) < rng.random((3, 100))
    median = np.ma.median(np.ma.array(bands, mask=np.broadcast_to(~clear[:, None], bands.shape)), axis=0).filled(0)
    assert (annual_layers(bands, clear)["composite"] == np.floor(median + 0.5)).all()
