"""A year of looks at a block to its annual layers, in one pass over integers."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
from numba import njit

from engine.kernels.features import WATER_MISSING
from engine.kernels.indices import INDEX_MISSING, INDEX_SCALE, normalised_difference, reflectance_of
from engine.landsat import BANDS

GREEN: Final = BANDS.index("green")
RED: Final = BANDS.index("red")
NIR: Final = BANDS.index("nir08")
SWIR1: Final = BANDS.index("swir16")

LANES: Final = 256
"""Pixels sorted side by side: with 30 looks 15 KB, in a core's fastest cache."""

_LAST_UINT16: Final = np.uint16(65_535)
_LAST_INT16: Final = np.int16(32_767)


def annual_layers(bands: np.ndarray, clear: np.ndarray, *, min_looks_range: int = 8) -> dict[str, np.ndarray]:
    """Reduce the looks of a year to median, counts and ranges.

    Parameters
    ----------
    bands : ndarray of uint16, shape (look, 6, y, x)
        Digital numbers in the order of ``landsat.BANDS``; anything where not clear.
    clear : ndarray of bool, shape (look, y, x)
        Looks worth keeping.
    min_looks_range : int
        Clear looks below which percentiles and water frequency are missing.

    Returns
    -------
    dict of str to ndarray
        ``composite`` uint16 (6, y, x), per band the median of the clear looks: for an even count the mean
        of the two middle values, halves rounded up; 0 where no look was clear.
        ``clear_count`` uint16 (y, x).
        ``ndvi_p10, ndvi_p90, mndwi_p10, mndwi_p90`` int16 (y, x), index x 10 000, percentiles by linear
        interpolation between order statistics (numpy's default), halves rounded up; -32768 missing.
        ``water_frequency`` uint16 (y, x), share of clear looks with MNDWI > 0, x 10 000; 65535 missing.

    Raises
    ------
    TypeError
        If ``bands`` is not uint16 or the shapes disagree.

    Examples
    --------
    >>> looks = np.array([10, 20, 40, 90], dtype="uint16").reshape(4, 1, 1, 1).repeat(6, axis=1)
    >>> clear = np.array([True, True, False, True]).reshape(4, 1, 1)
    >>> layers = annual_layers(looks, clear)
    >>> int(layers["composite"][0, 0, 0]), int(layers["clear_count"][0, 0])
    (20, 3)
    """
    looks, _, height, width = bands.shape
    if bands.dtype != np.uint16 or bands.shape[1] != len(BANDS):
        raise TypeError(f"bands must be uint16 (look, 6, y, x), got {bands.dtype} {bands.shape}")
    if clear.shape != (looks, height, width):
        raise TypeError(f"clear must have shape {(looks, height, width)}, got {clear.shape}")
    layers = empty_layers(height, width)
    if bands.size == 0:
        return layers
    flat = {name: layer.reshape(*layer.shape[:-2], -1) for name, layer in layers.items()}  # views
    _annual(
        np.ascontiguousarray(bands).reshape(looks, len(BANDS), -1),
        np.ascontiguousarray(clear).reshape(looks, -1),
        min_looks_range,
        sorting_network(looks),
        flat["composite"],
        flat["clear_count"],
        flat["ndvi_p10"],
        flat["ndvi_p90"],
        flat["mndwi_p10"],
        flat["mndwi_p90"],
        flat["water_frequency"],
    )
    return layers


def empty_layers(height: int, width: int) -> dict[str, np.ndarray]:
    """Return the layers of a block that was never observed."""
    shape = (height, width)
    return {
        "composite": np.zeros((len(BANDS), *shape), dtype=np.uint16),
        "clear_count": np.zeros(shape, dtype=np.uint16),
        "ndvi_p10": np.full(shape, INDEX_MISSING, dtype=np.int16),
        "ndvi_p90": np.full(shape, INDEX_MISSING, dtype=np.int16),
        "mndwi_p10": np.full(shape, INDEX_MISSING, dtype=np.int16),
        "mndwi_p90": np.full(shape, INDEX_MISSING, dtype=np.int16),
        "water_frequency": np.full(shape, WATER_MISSING, dtype=np.uint16),
    }


@lru_cache(maxsize=256)
def sorting_network(size: int) -> np.ndarray:
    """Return the comparators that sort any ``size`` values: Batcher's merge exchange (Knuth, TAOCP 3, 5.2.2 M).

    Returns
    -------
    ndarray of int64, shape (comparator, 2)
        Put the smaller of each pair of places first, in this order.

    Examples
    --------
    >>> sorting_network(3).tolist()
    [[0, 2], [0, 1], [1, 2]]
    """
    pairs = []
    step = first = 1 << max(0, (size - 1).bit_length() - 1)
    while step and size > 1:
        reach, phase, distance = first, 0, step
        while True:
            pairs += [(place, place + distance) for place in range(size - distance) if place & step == phase]
            if reach == step:
                break
            distance, reach, phase = reach - step, reach >> 1, step
        step >>= 1
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


@njit(cache=True, nogil=True)
def _sort(values, network):
    """Sort each lane of (look, lane) along the looks: no branch, so the compiler takes 32 lanes an instruction."""
    for comparator in range(network.shape[0]):
        low, high = values[network[comparator, 0]], values[network[comparator, 1]]
        for lane in range(LANES):
            one, other = low[lane], high[lane]
            low[lane] = min(one, other)
            high[lane] = max(one, other)


@njit(cache=True, nogil=True)
def _percentile(values, lane, count, tenths):
    """Return the ``tenths`` / 10 quantile of a sorted lane, halves rounded up, in integer arithmetic."""
    position = (count - 1) * tenths
    below, rest = position // 10, position % 10
    low = np.int32(values[below, lane])
    if rest == 0:
        return low
    return (low * 10 + (np.int32(values[below + 1, lane]) - low) * rest + 5) // 10


# Without numpy's error model a division may raise, and a loop that may raise is not vectorised: 15 times slower.
@njit(cache=True, nogil=True, error_model="numpy")
def _index_lanes(first, second, clear, index):
    for lane in range(first.size):
        value = normalised_difference(reflectance_of(first[lane]), reflectance_of(second[lane]))
        index[lane] = value if clear[lane] else _LAST_INT16


@njit(cache=True, nogil=True)
def _annual(bands, clear, min_range, network, composite, clear_count, ndvi_p10, ndvi_p90, mndwi_p10, mndwi_p90, water):
    looks, n_bands, pixels = bands.shape
    values = np.empty((looks, LANES), dtype=np.uint16)
    ndvi = np.empty((looks, LANES), dtype=np.int16)
    mndwi = np.empty((looks, LANES), dtype=np.int16)
    counts = np.empty(LANES, dtype=np.int32)
    wet = np.empty(LANES, dtype=np.int32)
    for start in range(0, pixels, LANES):
        stop = min(start + LANES, pixels)
        lanes = stop - start
        counts[:] = 0
        for look in range(looks):
            usable = clear[look, start:stop]
            for lane in range(lanes):
                counts[lane] += usable[lane]
        clear_count[start:stop] = counts[:lanes]
        most = counts[:lanes].max()
        if most == 0:
            continue
        for band in range(n_bands):
            for look in range(looks):
                usable, given, kept = clear[look, start:stop], bands[look, band, start:stop], values[look]
                for lane in range(lanes):
                    # What is not clear sorts last, where no count reaches it.
                    kept[lane] = given[lane] if usable[lane] else _LAST_UINT16
            _sort(values, network)
            for lane in range(lanes):
                count = counts[lane]
                if count > 0:
                    low, high = np.int32(values[(count - 1) // 2, lane]), np.int32(values[count // 2, lane])
                    composite[band, start + lane] = (low + high + 1) // 2
        if most < min_range:
            continue
        wet[:] = 0
        for look in range(looks):
            usable, here = clear[look, start:stop], bands[look]
            _index_lanes(here[NIR, start:stop], here[RED, start:stop], usable, ndvi[look])
            _index_lanes(here[GREEN, start:stop], here[SWIR1, start:stop], usable, mndwi[look])
            for lane in range(lanes):
                wet[lane] += usable[lane] & (mndwi[look, lane] > 0)
        _sort(ndvi, network)
        _sort(mndwi, network)
        for lane in range(lanes):
            count = counts[lane]
            if count < min_range:
                continue
            ndvi_p10[start + lane] = _percentile(ndvi, lane, count, 1)
            ndvi_p90[start + lane] = _percentile(ndvi, lane, count, 9)
            mndwi_p10[start + lane] = _percentile(mndwi, lane, count, 1)
            mndwi_p90[start + lane] = _percentile(mndwi, lane, count, 9)
            water[start + lane] = (wet[lane] * INDEX_SCALE + count // 2) // count
