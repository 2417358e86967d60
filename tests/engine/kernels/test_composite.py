"""Annual layers: answers worked by hand, then equality with numpy on anything."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from engine.kernels.composite import LANES, annual_layers, empty_layers, median, merging_network, sorting_network
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
    assert layers["ndvi_mad"][0, 0] == INDEX_MISSING
    assert layers["water_frequency"][0, 0] == WATER_MISSING


def test_ranges_are_missing_below_eight_looks_and_known_from_eight():
    bands = np.random.default_rng(1).integers(7000, 20000, (8, 6, 1, 1)).astype("uint16")
    clear = np.ones((8, 1, 1), dtype=bool)
    known, missing = annual_layers(bands, clear), annual_layers(bands, clear & (np.arange(8) > 0).reshape(8, 1, 1))
    for name in ("ndvi_p10", "ndvi_p90", "ndvi_mad", "mndwi_p10", "mndwi_p90", "mndwi_mad"):
        assert known[name][0, 0] != INDEX_MISSING
        assert missing[name][0, 0] == INDEX_MISSING


def test_the_deviation_of_an_index_by_hand():
    """NDVI about 0, 1000, 2000 and 4000: median 1500; distances 1500, 500, 500 and 2500; their median 1000."""
    looks = looks_of([10_000] * 4)  # reflectance .075
    looks[:, 3, 0, 0] = [10_000, 10_606, 11_364, 13_636]  # .075, .0917, .1125, .175
    layers = annual_layers(looks, np.ones((4, 1, 1), dtype=bool), min_looks_range=4)
    assert layers["ndvi_mad"][0, 0] == pytest.approx(1000, abs=1)
    assert layers["mndwi_mad"][0, 0] == 0


def test_no_looks_or_no_pixels_give_the_layers_of_a_block_never_observed():
    for shape in ((0, 6, 2, 3), (4, 6, 0, 3)):
        layers = annual_layers(np.zeros(shape, "uint16"), np.zeros((shape[0], *shape[2:]), dtype=bool))
        empty = empty_layers(*shape[2:])
        assert layers.keys() == empty.keys()
        assert all(np.array_equal(layers[name], empty[name]) for name in empty)


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
                ordered = np.sort(indices[:, column]).astype(int)
                deviation = np.median(np.abs(ordered - np.median(ordered)))
                assert layers[f"{name}_mad"][y, x] == np.floor(deviation + 0.5)
                for q in (10, 90):
                    # Exact rationals: numpy's own interpolation may land a hair under a half.
                    low, rest = divmod((len(ordered) - 1) * q, 100)
                    upper = ordered[min(low + 1, len(ordered) - 1)]
                    expected = (100 * ordered[low] + (upper - ordered[low]) * rest + 50) // 100
                    assert layers[f"{name}_p{q}"][y, x] == expected
                    assert abs(expected - np.percentile(ordered, q)) <= 0.5 + 1e-6
            assert abs(layers["water_frequency"][y, x] - 1e4 * (indices[:, 1] > 0).mean()) <= 0.5


@settings(max_examples=60, deadline=None)
@given(
    bands=hnp.arrays(
        "uint16",
        st.tuples(st.integers(1, 20), st.integers(1, 8), st.just(2), st.just(3)),
        elements=st.one_of(st.integers(0, 65_535), st.sampled_from([0, 7000, 7001, 65_535])),
    ),
    seed=st.integers(0, 2**16),
)
def test_the_median_of_any_number_of_bands_equals_numpy(bands, seed):
    clear = np.random.default_rng(seed).random((bands.shape[0], 2, 3)) < 0.6
    masked = np.ma.array(bands.astype("float64"), mask=np.broadcast_to(~clear[:, None], bands.shape))
    expected = np.ma.median(masked, axis=0)
    exact = median(bands, clear, np.float32)
    assert exact.dtype == np.float32
    assert np.array_equal(exact, np.ma.filled(expected, np.nan), equal_nan=True)
    rounded = median(bands, clear)
    assert rounded.dtype == np.uint16
    assert np.array_equal(rounded, np.floor(np.ma.filled(expected, 0) + 0.5))


def test_looks_that_are_clear_nowhere_among_the_pixels_sorted_together_change_nothing():
    """Banks of cloud over whole groups of lanes, and a last group that is not full."""
    rng = np.random.default_rng(11)
    bands = rng.integers(1, 65_536, (12, 6, 1, 5 * LANES + 9)).astype("uint16")
    banks = rng.random((12, 1, 6)) < 0.5
    clear = banks.repeat(LANES, axis=2)[..., : bands.shape[3]] & (rng.random((12, 1, bands.shape[3])) < 0.9)
    layers = annual_layers(bands, clear)
    for x in range(0, bands.shape[3], 7):
        seen = clear[:, 0, x]
        alone = annual_layers(bands[seen][..., x : x + 1], clear[seen][..., x : x + 1])
        assert all(np.array_equal(layers[name][..., x : x + 1], alone[name]) for name in layers)


def test_a_geomedian_takes_the_place_of_the_median_and_of_nothing_else(monkeypatch):
    """A stand-in, as compiling takes long; ``test_cube`` and ``test_lanes`` take the real one."""
    monkeypatch.setattr("engine.kernels.composite.geomedian", lambda bands, clear, threads: bands[0] + 1)
    rng = np.random.default_rng(5)
    bands = rng.integers(7000, 12_000, (10, 6, 2, 40)).astype("uint16")
    clear = rng.random((10, 2, 40)) < 0.6
    plain, layers = annual_layers(bands, clear), annual_layers(bands, clear, composite="geomedian")
    assert np.array_equal(layers.pop("composite"), bands[0] + 1)
    assert all(np.array_equal(plain[name], layers[name]) for name in layers)


def test_wrong_types_are_refused():
    with pytest.raises(TypeError, match="uint16"):
        annual_layers(np.zeros((1, 6, 1, 1)), np.zeros((1, 1, 1), dtype=bool))
    with pytest.raises(TypeError, match="shape"):
        annual_layers(np.zeros((1, 6, 1, 1), "uint16"), np.zeros((2, 1, 1), dtype=bool))
    with pytest.raises(TypeError, match="look, 6, y, x"):
        annual_layers(np.zeros((1, 7, 1, 1), "uint16"), np.zeros((1, 1, 1), dtype=bool))
    with pytest.raises(TypeError, match="float32, got"):
        median(np.zeros((1, 7, 1, 1), "uint16"), np.zeros((1, 1, 1), dtype=bool), np.float64)


@pytest.mark.parametrize("size", range(14))
def test_the_network_sorts_everything(size):
    """By the zero-one principle (Knuth, 5.3.4 Z) a network that sorts all zeros and ones sorts all values."""
    values = (np.arange(2**size) >> np.arange(size)[:, None]) & 1
    for low, high in sorting_network(size):
        values[[low, high]] = np.sort(values[[low, high]], axis=0)
    assert (np.diff(values, axis=0) >= 0).all()


@pytest.mark.parametrize("size", [1, 2, 5, 8, 13])
def test_the_first_comparators_of_a_larger_network_sort_fewer_values(size):
    within = [pair for pair in sorting_network(20).tolist() if pair[1] < size]
    assert within == sorting_network(size).tolist()


@pytest.mark.parametrize("size", range(25))
def test_the_merge_sorts_all_that_falls_and_then_rises(size):
    """Zeros and ones suffice as above; and of those places that are left out at the end none may matter."""
    place = np.arange(size)[:, None]
    bounds = [(left, right) for left in range(size + 1) for right in range(left, size + 1)]
    values = np.stack([(place[:, 0] < left) | (place[:, 0] >= right) for left, right in bounds], axis=1)
    for network in (merging_network(size), merging_network(40)):
        merged = values.copy()
        for low, high in network[network[:, 1] < size]:
            merged[[low, high]] = np.sort(merged[[low, high]], axis=0)
        assert (np.diff(merged.astype(int), axis=0) >= 0).all()


def test_more_looks_than_any_year_has_are_still_sorted():
    rng = np.random.default_rng(7)
    bands = rng.integers(1, 65_536, (200, 6, 3, 100)).astype("uint16")
    clear = rng.random((200, 3, 100)) < rng.random((3, 100))
    layers = annual_layers(bands, clear)
    masked = np.ma.array(bands, mask=np.broadcast_to(~clear[:, None], bands.shape))
    assert (layers["composite"] == np.floor(np.ma.median(masked, axis=0).filled(0) + 0.5)).all()
    assert layers["clear_count"].max() > 128
    often = layers["clear_count"] >= 8
    ndvi = np.ma.array([spectral_indices(look)[0] for look in bands], mask=~clear).astype(float)
    deviation = np.ma.median(np.ma.abs(ndvi - np.ma.median(ndvi, axis=0)), axis=0)
    assert (layers["ndvi_mad"] == np.floor(deviation.filled(0) + 0.5))[often].all()
    p90 = np.nanpercentile(ndvi.filled(np.nan)[:, often], 90, axis=0)
    assert np.abs(layers["ndvi_p90"][often] - p90).max() <= 0.5 + 1e-6
