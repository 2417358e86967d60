"""A year of looks at a block to its annual layers, in one pass over integers."""

from __future__ import annotations

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
    _annual(
        bands,
        clear,
        min_looks_range,
        layers["composite"],
        layers["clear_count"],
        layers["ndvi_p10"],
        layers["ndvi_p90"],
        layers["mndwi_p10"],
        layers["mndwi_p90"],
        layers["water_frequency"],
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


@njit(cache=True, nogil=True)
def _sort(values, count):
    """Sort the first ``count`` values in place; insertion sort, as a year has tens of looks."""
    for i in range(1, count):
        value = values[i]
        j = i - 1
        while j >= 0 and values[j] > value:
            values[j + 1] = values[j]
            j -= 1
        values[j + 1] = value


@njit(cache=True, nogil=True)
def _percentile(values, count, tenths):
    """Return the ``tenths`` / 10 quantile of sorted integers, halves rounded up, in integer arithmetic."""
    position = (count - 1) * tenths
    low, rest = position // 10, position % 10
    if rest == 0:
        return values[low]
    return (values[low] * 10 + (values[low + 1] - values[low]) * rest + 5) // 10


@njit(cache=True, nogil=True)
def _annual(bands, clear, min_range, composite, clear_count, ndvi_p10, ndvi_p90, mndwi_p10, mndwi_p90, water):
    looks, n_bands, height, width = bands.shape
    values = np.empty(looks, dtype=np.int32)
    ndvi = np.empty(looks, dtype=np.int32)
    mndwi = np.empty(looks, dtype=np.int32)
    which = np.empty(looks, dtype=np.int32)
    for y in range(height):
        for x in range(width):
            count = 0
            for look in range(looks):
                if clear[look, y, x]:
                    which[count] = look
                    count += 1
            clear_count[y, x] = count
            if count == 0:
                continue
            middle = count // 2
            for band in range(n_bands):
                for i in range(count):
                    values[i] = bands[which[i], band, y, x]
                _sort(values, count)
                if count % 2:
                    composite[band, y, x] = values[middle]
                else:
                    composite[band, y, x] = (values[middle - 1] + values[middle] + 1) // 2
            if count < min_range:
                continue
            wet = 0
            for i in range(count):
                look = which[i]
                nir = reflectance_of(bands[look, NIR, y, x])
                red = reflectance_of(bands[look, RED, y, x])
                green = reflectance_of(bands[look, GREEN, y, x])
                swir1 = reflectance_of(bands[look, SWIR1, y, x])
                ndvi[i] = normalised_difference(nir, red)
                mndwi[i] = normalised_difference(green, swir1)
                if mndwi[i] > 0:
                    wet += 1
            _sort(ndvi, count)
            _sort(mndwi, count)
            ndvi_p10[y, x] = _percentile(ndvi, count, 1)
            ndvi_p90[y, x] = _percentile(ndvi, count, 9)
            mndwi_p10[y, x] = _percentile(mndwi, count, 1)
            mndwi_p90[y, x] = _percentile(mndwi, count, 9)
            water[y, x] = (wet * INDEX_SCALE + count // 2) // count
