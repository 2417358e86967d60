"""A year of looks at a block to its annual layers, in one pass over integers.

Pixels are sorted side by side, look against look. Clouds are coherent, so only looks that are clear somewhere among
the pixels sorted together take part. Any number of looks can be sorted; time grows a little faster than it does.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final, Literal

import numpy as np
from numba import njit

from engine.kernels.features import WATER_MISSING
from engine.kernels.geomedian import geomedian
from engine.kernels.indices import INDEX_MISSING, INDEX_SCALE, normalised_difference, reflectance_of
from engine.kernels.lanes import flat_looks, in_parts
from engine.kernels.tide import leave_out_wettest
from engine.landsat import BANDS

GREEN: Final = BANDS.index("green")
RED: Final = BANDS.index("red")
NIR: Final = BANDS.index("nir08")
SWIR1: Final = BANDS.index("swir16")

RANGES: Final = ("ndvi_p10", "ndvi_p90", "ndvi_mad", "mndwi_p10", "mndwi_p90", "mndwi_mad")
"""Layers that are missing where there are few looks, water frequency apart."""

LANES: Final = 256
"""Pixels sorted side by side: with 30 looks 15 KB, in a core's fastest cache."""

_LAST_UINT16: Final = np.uint16(65_535)
_LAST_INT16: Final = np.int16(32_767)
_HALF: Final = np.float32(0.5)


def annual_layers(
    bands: np.ndarray,
    clear: np.ndarray,
    *,
    min_looks_range: int = 8,
    composite: Literal["median", "geomedian"] = "median",
    tide: Literal["all", "low"] = "all",
    threads: int = 1,
) -> dict[str, np.ndarray]:
    """Reduce the looks of a year to a composite, counts and ranges.

    Parameters
    ----------
    bands : ndarray of uint16, shape (look, 6, y, x)
        Digital numbers in the order of ``landsat.BANDS``; anything where not clear.
    clear : ndarray of bool, shape (look, y, x)
        Looks worth keeping.
    min_looks_range : int
        Clear looks below which percentiles, deviations and water frequency are missing; all of them count, also those
        that ``tide`` leaves out.
    composite : str
        ``median`` of each band by itself, or ``geomedian`` of all.
    tide : str
        ``low`` leaves the wettest third of a pixel's looks out of all but ``clear_count`` and ``water_frequency``, see
        ``tide.leave_out_wettest``.
    threads : int
        Threads to use; they change no value.

    Returns
    -------
    dict of str to ndarray
        ``composite`` uint16 (6, y, x), see ``median`` and ``geomedian.geomedian``; 0 where no look was clear.
        ``clear_count`` uint16 (y, x).
        ``ndvi_p10, ndvi_p90, mndwi_p10, mndwi_p90`` int16 (y, x), index x 10 000, percentiles by linear
        interpolation between order statistics (numpy's default), halves rounded up; -32768 missing.
        ``ndvi_mad, mndwi_mad`` int16 (y, x), median of the distances of an index x 10 000 from its median. Both
        medians are exact, for an even count the mean of the two middle values, and the result is rounded once,
        halves up; -32768 missing.
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
    looks_of_bands, clear_looks = flat_looks(bands, clear)
    looks, n_bands, height, width = bands.shape
    if n_bands != len(BANDS):
        raise TypeError(f"bands must be uint16 (look, 6, y, x), got {bands.dtype} {bands.shape}")
    layers = empty_layers(height, width)
    if bands.size == 0:
        return layers
    if tide == "low":
        kept, *of_all = leave_out_wettest(bands, clear, min_looks_range=min_looks_range, threads=threads)
        layers = annual_layers(bands, kept, min_looks_range=1, composite=composite, threads=threads)
        layers["clear_count"], layers["water_frequency"] = of_all
        few = layers["clear_count"] < min_looks_range
        for name in RANGES:
            layers[name][few] = INDEX_MISSING
        return layers
    flat = {name: layer.reshape(*layer.shape[:-2], -1) for name, layer in layers.items()}  # views
    if composite == "geomedian":
        layers["composite"] = geomedian(bands, clear, threads=threads)
        flat["composite"] = flat["composite"][:0]
    networks = sorting_network(looks), merging_network(looks)

    def reduce(first: int, last: int) -> None:
        _annual(
            looks_of_bands,
            clear_looks,
            first,
            last,
            min_looks_range,
            *networks,
            flat["composite"],
            flat["clear_count"],
            (flat["ndvi_p10"], flat["ndvi_p90"], flat["ndvi_mad"]),
            (flat["mndwi_p10"], flat["mndwi_p90"], flat["mndwi_mad"]),
            flat["water_frequency"],
        )

    in_parts(reduce, height * width, threads)
    return layers


def median(bands: np.ndarray, clear: np.ndarray, dtype: Any = np.uint16, *, threads: int = 1) -> np.ndarray:
    """Return the median of the clear looks, per band and pixel.

    Parameters
    ----------
    bands : ndarray of uint16, shape (look, band, y, x)
        Digital numbers of any number of bands; anything where not clear.
    clear : ndarray of bool, shape (look, y, x)
        Looks worth keeping.
    dtype : numpy dtype
        uint16 or float32.
    threads : int
        Threads to use; they change no value.

    Returns
    -------
    ndarray of uint16 or float32, shape (band, y, x)
        For an even count the mean of the two middle values: as uint16 halves are rounded up, as float32 they are
        exact. Where no look was clear 0, or NaN as float32.

    Raises
    ------
    TypeError
        If ``bands`` is not uint16, the shapes disagree or ``dtype`` is another.

    Examples
    --------
    >>> looks = np.array([[10], [25]], dtype="uint16").reshape(2, 1, 1, 1)
    >>> clear = np.ones((2, 1, 1), dtype=bool)
    >>> int(median(looks, clear)[0, 0, 0]), float(median(looks, clear, np.float32)[0, 0, 0])
    (18, 17.5)
    """
    looks_of_bands, clear_looks = flat_looks(bands, clear, dtype)
    looks, n_bands, height, width = bands.shape
    rounded = dtype == np.uint16
    medians = np.full((n_bands, height, width), 0 if rounded else np.nan, dtype=dtype)
    if bands.size:
        out = medians.reshape(n_bands, -1)
        network, up = sorting_network(looks), 1 if rounded else 0

        def reduce(first: int, last: int) -> None:
            _medians(looks_of_bands, clear_looks, first, last, network, up, out)

        in_parts(reduce, height * width, threads)
    return medians


def empty_layers(height: int, width: int) -> dict[str, np.ndarray]:
    """Return the layers of a block that was never observed."""
    shape = (height, width)
    return {
        "composite": np.zeros((len(BANDS), *shape), dtype=np.uint16),
        "clear_count": np.zeros(shape, dtype=np.uint16),
        "ndvi_p10": np.full(shape, INDEX_MISSING, dtype=np.int16),
        "ndvi_p90": np.full(shape, INDEX_MISSING, dtype=np.int16),
        "ndvi_mad": np.full(shape, INDEX_MISSING, dtype=np.int16),
        "mndwi_p10": np.full(shape, INDEX_MISSING, dtype=np.int16),
        "mndwi_p90": np.full(shape, INDEX_MISSING, dtype=np.int16),
        "mndwi_mad": np.full(shape, INDEX_MISSING, dtype=np.int16),
        "water_frequency": np.full(shape, WATER_MISSING, dtype=np.uint16),
    }


@lru_cache(maxsize=256)
def sorting_network(size: int) -> np.ndarray:
    """Return the comparators that sort any ``size`` values: Batcher's merge exchange (Knuth, TAOCP 3, 5.2.2 M).

    Those among the first few places alone sort these, so one network serves every smaller number of values too.

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
    step = first = _half(size)
    while step:
        reach, phase, distance = first, 0, step
        while True:
            pairs += [(place, place + distance) for place in range(size - distance) if place & step == phase]
            if reach == step:
                break
            distance, reach, phase = reach - step, reach >> 1, step
        step >>= 1
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


@lru_cache(maxsize=256)
def merging_network(size: int) -> np.ndarray:
    """Return the comparators that sort ``size`` values that fall, then rise: Batcher's bitonic merge (Knuth, 5.3.4).

    Less than half of what sorts any values; else as ``sorting_network``.

    Examples
    --------
    >>> merging_network(3).tolist()
    [[0, 2], [0, 1]]
    """
    pairs = []
    distance = _half(size)
    while distance:
        pairs += [(place, place + distance) for place in range(size - distance) if not place & distance]
        distance >>= 1
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def _half(size: int) -> int:
    """Return half of the smallest power of two that is not below ``size``; 0 for a single value."""
    return (1 << (size - 1).bit_length()) >> 1 if size > 1 else 0


@njit(cache=True, nogil=True)
def _sort(values, network, rows):
    """Sort each lane of the first rows of (look, lane): no branch, so the compiler takes 32 lanes an instruction."""
    for comparator in range(network.shape[0]):
        if network[comparator, 1] >= rows:
            continue
        low, high = values[network[comparator, 0]], values[network[comparator, 1]]
        for lane in range(LANES):
            one, other = low[lane], high[lane]
            low[lane] = min(one, other)
            high[lane] = max(one, other)


@njit(cache=True, nogil=True)
def _count_clear(clear, start, stop, counts, seen):
    """Count the clear looks of each lane; list those clear in any lane, and return their number."""
    rows = 0
    counts[:] = 0
    for look in range(clear.shape[0]):
        usable = clear[look, start:stop]
        if usable.any():
            for lane in range(usable.size):
                counts[lane] += usable[lane]
            seen[rows] = look
            rows += 1
    return rows


@njit(cache=True, nogil=True)
def _band_median(bands, band, clear, start, counts, seen, values, network, up, out):
    """Write a band's medians of a group of lanes, as uint16 rounded by an ``up`` of 1, as float32 exact by one of 0."""
    stop = start + out.size
    for row in range(seen.size):
        usable, given, kept = clear[seen[row], start:stop], bands[seen[row], band, start:stop], values[row]
        for lane in range(out.size):
            # What is not clear sorts last, where no count reaches it.
            kept[lane] = given[lane] if usable[lane] else _LAST_UINT16
    _sort(values, network, seen.size)
    for lane in range(out.size):
        count = counts[lane]
        if count > 0:
            low, high = np.int32(values[(count - 1) // 2, lane]), np.int32(values[count // 2, lane])
            out[lane] = np.float32(low + high + up) * _HALF


@njit(cache=True, nogil=True)
def _medians(bands, clear, first, last, network, up, out):
    looks, n_bands, pixels = bands.shape
    values = np.empty((looks, LANES), dtype=np.uint16)
    counts = np.empty(LANES, dtype=np.uint16)
    seen = np.empty(looks, dtype=np.int64)
    for start in range(first, last, LANES):
        stop = min(start + LANES, pixels)
        rows = _count_clear(clear, start, stop, counts, seen)
        for band in range(n_bands):
            _band_median(bands, band, clear, start, counts, seen[:rows], values, network, up, out[band, start:stop])


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
def _deviations(index, rows, counts, deviations):
    """Write twice the distance of each value of sorted lanes from their median: first falling, then rising."""
    twice = np.empty(LANES, dtype=np.int16)
    for lane in range(LANES):
        count = max(int(counts[lane]), 1)
        twice[lane] = index[(count - 1) // 2, lane] + index[count // 2, lane]
    for row in range(rows):
        values, out = index[row], deviations[row]
        for lane in range(LANES):
            value, middle = values[lane], twice[lane]
            double = np.int16(value + value)
            # At most 40 000: too much for int16, but not for the difference of its words.
            distance = np.uint16(np.uint16(max(double, middle)) - np.uint16(min(double, middle)))
            out[lane] = _LAST_UINT16 if value == _LAST_INT16 else distance


@njit(cache=True, nogil=True)
def _index_layers(index, rows, counts, min_range, sorting, merging, deviations, start, layers):
    """Sort the lanes of an index; write percentiles and median absolute deviation."""
    p10, p90, mad = layers
    _sort(index, sorting, rows)
    _deviations(index, rows, counts, deviations)
    _sort(deviations, merging, rows)
    for lane in range(min(LANES, p10.size - start)):
        count = np.int64(counts[lane])
        if count >= min_range:
            p10[start + lane] = _percentile(index, lane, count, 1)
            p90[start + lane] = _percentile(index, lane, count, 9)
            low, high = np.int32(deviations[(count - 1) // 2, lane]), np.int32(deviations[count // 2, lane])
            mad[start + lane] = (low + high + 2) // 4


@njit(cache=True, nogil=True)
def _annual(
    bands, clear, first, last, min_range, sorting, merging, composite, clear_count, ndvi_layers, mndwi_layers, water
):
    looks, _, pixels = bands.shape
    values = np.empty((looks, LANES), dtype=np.uint16)
    ndvi = np.empty((looks, LANES), dtype=np.int16)
    mndwi = np.empty((looks, LANES), dtype=np.int16)
    counts = np.empty(LANES, dtype=np.uint16)
    wet = np.empty(LANES, dtype=np.int32)
    looks_seen = np.empty(looks, dtype=np.int64)
    for start in range(first, last, LANES):
        stop = min(start + LANES, pixels)
        lanes = stop - start
        rows = _count_clear(clear, start, stop, counts, looks_seen)
        if rows == 0:
            continue
        seen = looks_seen[:rows]
        clear_count[start:stop] = counts[:lanes]
        for band in range(composite.shape[0]):
            _band_median(bands, band, clear, start, counts, seen, values, sorting, 1, composite[band, start:stop])
        if counts.max() < min_range:
            continue
        wet[:] = 0
        for row in range(rows):
            usable, here = clear[seen[row], start:stop], bands[seen[row]]
            _index_lanes(here[NIR, start:stop], here[RED, start:stop], usable, ndvi[row])
            _index_lanes(here[GREEN, start:stop], here[SWIR1, start:stop], usable, mndwi[row])
            for lane in range(lanes):
                wet[lane] += usable[lane] & (mndwi[row, lane] > 0)
        _index_layers(ndvi, rows, counts, min_range, sorting, merging, values, start, ndvi_layers)
        _index_layers(mndwi, rows, counts, min_range, sorting, merging, values, start, mndwi_layers)
        for lane in range(lanes):
            count = np.int64(counts[lane])
            if count >= min_range:
                water[start + lane] = (wet[lane] * INDEX_SCALE + count // 2) // count
