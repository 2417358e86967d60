"""Histograms add, edges are quantiles, codes count edges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from engine.kernels.bins import MISSING_CODE, bin_edges, count_values, encode, merge_histograms
from engine.kernels.features import MISSING

COLUMNS = npst.arrays(
    np.int32, st.integers(1, 300), elements=st.one_of(st.integers(-40, 40), st.integers(-(2**31), 2**31 - 1))
)


def test_histograms_leave_missing_values_out():
    values, counts = count_values(np.array([3, MISSING, 3, -2], np.int32))
    assert values.tolist() == [-2, 3]
    assert counts.tolist() == [1, 2]


def test_floats_are_refused():
    with pytest.raises(TypeError, match="int32, got float64"):
        count_values(np.zeros(3))
    with pytest.raises(TypeError, match="int32, got int16"):
        encode(np.zeros((1, 3), np.int16), [np.array([1])])


def test_few_distinct_values_each_get_a_bin():
    assert bin_edges(count_values(np.array([5, 5, 7, 100], np.int32))).tolist() == [7, 100]


def test_edges_split_a_uniform_feature_into_equal_counts():
    # 1000 values in 4 bins: 250 values each.
    edges = bin_edges(count_values(np.arange(1000, dtype=np.int32)), max_bins=4)
    assert edges.tolist() == [250, 500, 750]


def test_a_value_that_fills_several_quantiles_gives_one_edge():
    values = np.array([0] * 900 + list(range(1, 101)), np.int32)
    # Of 1000 rows, 900 are 0: all three quartiles fall on the first value above it.
    assert bin_edges(count_values(values), max_bins=4).tolist() == [1]


def test_constant_and_missing_features_have_no_edges():
    assert bin_edges(count_values(np.full(4, 9, np.int32))).size == 0
    assert bin_edges(count_values(np.full(4, MISSING, np.int32))).size == 0
    assert encode(np.array([[9, MISSING]], np.int32), [np.array([], np.int32)]).tolist() == [[0, MISSING_CODE]]


def test_too_many_edges_or_features_are_refused():
    with pytest.raises(ValueError, match="at most 254"):
        encode(np.zeros((1, 2), np.int32), [np.arange(255)])
    with pytest.raises(ValueError, match="each of 2 features"):
        encode(np.zeros((2, 2), np.int32), [np.arange(5)])
    with pytest.raises(ValueError, match=r"1\.\.255, got 256"):
        bin_edges(count_values(np.arange(9, dtype=np.int32)), max_bins=256)


@settings(max_examples=60, deadline=None)
@given(COLUMNS, st.lists(st.integers(0, 300), max_size=6))
def test_any_partition_of_the_rows_gives_the_same_edges(values, cuts):
    whole = count_values(values)
    merged = merge_histograms(count_values(part) for part in np.split(values, sorted(cuts)))
    np.testing.assert_array_equal(whole[0], merged[0])
    np.testing.assert_array_equal(whole[1], merged[1])
    np.testing.assert_array_equal(bin_edges(whole, 7), bin_edges(merged, 7))


@settings(max_examples=60, deadline=None)
@given(COLUMNS, COLUMNS, st.integers(1, 255))
def test_a_code_is_the_number_of_edges_at_or_below_the_value(training, others, max_bins):
    edges = bin_edges(count_values(training), max_bins)
    assert edges.size < max_bins
    assert (np.diff(edges.astype(np.int64)) > 0).all()
    codes = encode(others[None], [edges])[0]
    for value, code in zip(others.tolist(), codes.tolist(), strict=True):
        assert code == (MISSING_CODE if value == MISSING else sum(edge <= value for edge in edges.tolist()))


def test_many_values_are_coded_by_a_table_as_few_are_by_a_search():
    rng = np.random.default_rng(2)
    edges = np.unique(rng.integers(-9000, 9000, 250)).astype(np.int32)
    values = np.append(rng.integers(-10_000, 10_000, 40_000), MISSING).astype(np.int32)
    many, few = encode(values[None], [edges])[0], [encode(part[None], [edges])[0] for part in np.array_split(values, 9)]
    np.testing.assert_array_equal(many, np.concatenate(few))


def test_blocks_keep_their_shape():
    block = np.arange(24, dtype=np.int32).reshape(2, 3, 4)
    codes = encode(block[:, :, ::2], [np.array([4]), np.array([100])])
    assert codes.shape == (2, 3, 2)
    assert codes[0].tolist() == [[0, 0], [1, 1], [1, 1]]
