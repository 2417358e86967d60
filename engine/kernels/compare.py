"""Two class maps into one of transitions, and codes into pixels and hectares."""

from __future__ import annotations

import numpy as np

from engine.legend import (
    GAIN,
    LOSS,
    MANGROVE,
    NOT_OBSERVED,
    OTHER,
    OUTSIDE_AREA,
    OUTSIDE_HABITAT,
    STABLE_MANGROVE,
    STABLE_OTHER,
    STABLE_OUTSIDE_HABITAT,
)

_UNKNOWN = 254  # a class code no legend holds
_KNOWN = (NOT_OBSERVED, OTHER, MANGROVE, OUTSIDE_HABITAT, OUTSIDE_AREA)


def _transition_table() -> np.ndarray:
    """Return what each (before, after) becomes; later lines win over earlier ones."""
    table = np.full((256, 256), _UNKNOWN, dtype="uint8")
    table[OTHER, OTHER] = STABLE_OTHER
    table[MANGROVE, MANGROVE] = STABLE_MANGROVE
    table[MANGROVE, OTHER] = LOSS
    table[OTHER, MANGROVE] = GAIN
    # Nothing was decided outside the limit: where it differs between two maps, that is no gain and no loss.
    for rule, code in (
        (OUTSIDE_HABITAT, STABLE_OUTSIDE_HABITAT),
        (NOT_OBSERVED, NOT_OBSERVED),
        (OUTSIDE_AREA, OUTSIDE_AREA),
    ):
        table[rule, _KNOWN] = code
        table[_KNOWN, rule] = code
    return table


_TABLE = _transition_table()


def transitions(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Compare two class maps pixel by pixel.

    Parameters
    ----------
    before, after : ndarray of uint8, the same shape
        Class codes (``legend.CLASSES``) of an earlier and a later year on one grid.

    Returns
    -------
    ndarray of uint8, of that shape
        Codes of ``legend.TRANSITIONS``. Outside the area in either is outside; then, not observed in either
        is not observed; then, outside the habitat limit in either is that: none of them is loss or gain.

    Raises
    ------
    TypeError
        If a map is not uint8.
    ValueError
        If shapes differ, or a map holds a code that is no class.

    Examples
    --------
    >>> before = np.array([[1, 2, 2, 1, 0, 2, 255]], dtype="uint8")
    >>> after = np.array([[1, 2, 1, 2, 2, 0, 255]], dtype="uint8")
    >>> transitions(before, after)
    array([[  1,   2,   3,   4,   0,   0, 255]], dtype=uint8)
    """
    for name, classes in (("before", before), ("after", after)):
        if classes.dtype != np.uint8:
            raise TypeError(f"{name} must be uint8 class codes, got {classes.dtype}")
    if before.shape != after.shape:
        raise ValueError(f"before and after must share a grid, got shapes {before.shape} and {after.shape}")
    codes = _TABLE[before, after]
    if (codes == _UNKNOWN).any():
        foreign = sorted((set(np.unique(before)) | set(np.unique(after))) - set(_KNOWN))
        raise ValueError(f"class maps hold codes that are no class: {', '.join(map(str, foreign))}")
    return codes


def tally(
    codes: np.ndarray, zones: np.ndarray, hectares_per_column: np.ndarray, *, zone_count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Count pixels and hectares of every code in every zone.

    Parameters
    ----------
    codes : ndarray of uint8, shape (y, x)
    zones : ndarray of uint16, shape (y, x)
        0 is no zone, otherwise 1 + index of a zone.
    hectares_per_column : ndarray of float64, shape (x,)
        Area of one pixel of each column (``grid.pixel_hectares``).
    zone_count : int
        How many zones there are; those without a pixel count 0.

    Returns
    -------
    pixels : ndarray of int64, shape (zone, 256)
    hectares : ndarray of float64, shape (zone, 256)
        Pixels without a zone are in neither.

    Raises
    ------
    ValueError
        If shapes do not fit, or a zone is above ``zone_count``.

    Examples
    --------
    >>> codes = np.array([[3, 3, 4], [3, 0, 4]], dtype="uint8")
    >>> zones = np.array([[1, 1, 1], [2, 2, 0]], dtype="uint16")
    >>> pixels, hectares = tally(codes, zones, np.array([0.09, 0.1, 0.11]), zone_count=2)
    >>> pixels[:, [0, 3, 4]].tolist()
    [[0, 2, 1], [1, 1, 0]]
    >>> hectares[:, [0, 3, 4]].round(2).tolist()
    [[0.0, 0.19, 0.11], [0.1, 0.09, 0.0]]
    """
    if codes.ndim != 2 or codes.shape != zones.shape or hectares_per_column.shape != codes.shape[1:]:
        raise ValueError(
            "codes and zones must be (y, x) and hectares_per_column (x,), "
            f"got {codes.shape}, {zones.shape} and {hectares_per_column.shape}"
        )
    if codes.dtype != np.uint8:
        raise ValueError(f"codes must be uint8, got {codes.dtype}")
    if zones.size and zones.max() > zone_count:
        raise ValueError(f"zones reach {zones.max()}, beyond the {zone_count} that were named")
    rows, cols = np.nonzero(zones)
    key = (zones[rows, cols].astype("int64") - 1) * 256 + codes[rows, cols]
    cells = zone_count * 256
    pixels = np.bincount(key, minlength=cells)
    hectares = np.bincount(key, weights=hectares_per_column[cols], minlength=cells)
    return pixels.reshape(zone_count, 256), hectares.reshape(zone_count, 256)
