"""Integer features to at most 255 codes: additive exact histograms, quantile edges, byte encoding.

A code is the number of edges at or below the value, so a tree over codes asks exactly the questions a tree
over values would ask, and one byte a feature is all that training and classification ever read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from numba import njit

from engine.kernels.features import MISSING

MISSING_CODE: Final = 255
"""Code of a missing value; edges never reach it."""

MAX_BINS: Final = 255
"""Codes 0..254 hold values, 255 is missing: one byte."""

_LOOKUP_SPAN: Final = 1 << 18
"""Widest range between first and last edge that is coded by table (256 KB, in a core's L2 cache)."""

Histogram = tuple[np.ndarray, np.ndarray]
"""Distinct values (int32, increasing) of one feature, and how often each occurs (int64)."""


def count_values(values: np.ndarray) -> Histogram:
    """Count how often each value occurs, missing ones left out.

    Parameters
    ----------
    values : ndarray of int32, any shape
        One feature; ``MISSING`` where it is missing.

    Returns
    -------
    tuple of (ndarray of int32, ndarray of int64)
        Distinct values in increasing order, and their counts.

    Raises
    ------
    TypeError
        If ``values`` is not int32: floats have no exact histogram.

    Examples
    --------
    >>> count_values(np.array([7, 3, 7, MISSING], dtype="int32"))
    (array([3, 7], dtype=int32), array([1, 2]))
    """
    if values.dtype != np.int32:
        raise TypeError(f"values must be int32, got {values.dtype}; features are integers until the end")
    distinct, counts = np.unique(values[values != MISSING], return_counts=True)
    return distinct, counts.astype(np.int64)


def merge_histograms(histograms: Iterable[Histogram]) -> Histogram:
    """Add histograms of one feature: any partition of the rows gives the same sum.

    Examples
    --------
    >>> a, b = (count_values(np.array(v, dtype="int32")) for v in ([1, 5], [5, 9]))
    >>> merge_histograms([a, b])
    (array([1, 5, 9], dtype=int32), array([1, 2, 1]))
    """
    parts = list(histograms)
    if not parts:
        return np.empty(0, np.int32), np.empty(0, np.int64)
    distinct, where = np.unique(np.concatenate([values for values, _ in parts]), return_inverse=True)
    counts = np.zeros(distinct.size, np.int64)
    np.add.at(counts, where, np.concatenate([count for _, count in parts]))
    return distinct, counts


def bin_edges(histogram: Histogram, max_bins: int = MAX_BINS) -> np.ndarray:
    """Choose edges so that bins hold near equal counts; every distinct value its own bin where they are few.

    Parameters
    ----------
    histogram : tuple of (ndarray of int32, ndarray of int64)
        From ``count_values`` or ``merge_histograms``.
    max_bins : int
        Most bins wanted, 1..255.

    Returns
    -------
    ndarray of int32, shape (edges,)
        Strictly increasing, at most ``max_bins - 1``; each is the lowest value of the bin above it. Empty for
        a feature that is constant or always missing.

    Raises
    ------
    ValueError
        If ``max_bins`` is not within 1..255.

    Examples
    --------
    >>> bin_edges(count_values(np.array([1, 1, 2, 3, 4, 4], dtype="int32")), max_bins=2)
    array([3], dtype=int32)
    """
    if not 1 <= max_bins <= MAX_BINS:
        raise ValueError(f"max_bins must be 1..{MAX_BINS}, got {max_bins}")
    values, counts = histogram
    if values.size <= max_bins:
        return values[1:].astype(np.int32)
    # Integer arithmetic only: the k-th edge is the first value with at least k/max_bins of the rows below it.
    below = np.cumsum(counts) - counts
    wanted = np.arange(1, max_bins, dtype=np.int64) * int(counts.sum())
    first = np.searchsorted(below * max_bins, wanted, side="left")
    return np.unique(values[np.minimum(first, values.size - 1)]).astype(np.int32)


def encode(features: np.ndarray, edges: Sequence[np.ndarray]) -> np.ndarray:
    """Code every value by the number of edges at or below it.

    Parameters
    ----------
    features : ndarray of int32, shape (feature, ...)
        Feature values; ``MISSING`` where missing.
    edges : sequence of ndarray of int32
        One array of at most 254 increasing edges a feature.

    Returns
    -------
    ndarray of uint8, shape (feature, ...)
        Codes 0..254; 255 where missing.

    Raises
    ------
    TypeError
        If ``features`` is not int32.
    ValueError
        If the number of edge arrays is not the number of features, or one has more than 254 edges.

    Notes
    -----
    A feature whose edges span less than 2**18 is coded through a table, at memory speed; all bands, indices
    and ranges do. Wider ones, and values fewer than the table is long, are searched, several times slower each.

    Examples
    --------
    >>> encode(np.array([[-5, 10, 11, 99, MISSING]], dtype="int32"), [np.array([10, 50], dtype="int32")])
    array([[  0,   1,   1,   2, 255]], dtype=uint8)
    """
    if features.dtype != np.int32:
        raise TypeError(f"features must be int32, got {features.dtype}; features are integers until the end")
    if len(edges) != features.shape[0] or any(len(one) >= MAX_BINS for one in edges):
        raise ValueError(
            f"edges must be one array of at most {MAX_BINS - 1} for each of {features.shape[0]} features, "
            f"got {[len(one) for one in edges]}"
        )
    codes = np.empty(features.shape, np.uint8)
    for values, out, one in zip(features, codes, edges, strict=True):
        steps = np.asarray(one, dtype=np.int64)
        flat = np.ascontiguousarray(values).reshape(-1)
        if steps.size and steps[-1] - steps[0] >= min(_LOOKUP_SPAN, flat.size):
            found = np.searchsorted(steps, flat, side="right").astype(np.uint8)
            out[...] = np.where(flat == MISSING, MISSING_CODE, found).reshape(out.shape)
        else:
            first, last = (int(steps[0]) - 1, int(steps[-1])) if steps.size else (0, 0)
            table = np.searchsorted(steps, np.arange(first, last + 1), side="right").astype(np.uint8)
            _look_up(flat, table, first, out.reshape(-1))
    return codes


@njit(cache=True, nogil=True)
def _look_up(values, table, first, codes):
    # Values beyond the table share the code of its end.
    last = first + table.size - 1
    for i in range(values.size):
        value = np.int64(values[i])
        clamped = min(max(value, first), last)
        codes[i] = MISSING_CODE if value == MISSING else table[clamped - first]
