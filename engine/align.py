"""One grid on another: whole-pixel shifts, the pixels under pixel centres, bounds in another coordinate system."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import numpy as np
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from engine.grid import crs_of

STRIP_ROWS: Final = 256
"""Rows whose centres are transformed, and kept, at once."""

Bounds = tuple[float, float, float, float]
"""Left, bottom, right, top, in the units of some coordinate system."""


def whole_pixel_shift(transform: Sequence[float], crs: str, geobox: GeoBox) -> tuple[int, int] | None:
    """Return (row, col) of the grid's corner in a raster, or None where pixels do not coincide."""
    a, b, c, d, e, f = transform[:6]
    ours = geobox.transform
    if not all(map(math.isfinite, transform[:6])):
        return None
    if any(abs(one - other) > 1e-9 for one, other in ((ours.a, a), (ours.b, b), (ours.d, d), (ours.e, e))) or b or d:
        return None
    if not crs or _crs(crs) != geobox.crs:
        return None
    col, row = (ours.c - c) / a, (ours.f - f) / e
    if abs(col - round(col)) > 1e-6 or abs(row - round(row)) > 1e-6:
        return None
    return round(row), round(col)


@lru_cache(maxsize=64)
def _crs(text: str) -> CRS:
    return CRS(text)


def pixels_under(
    geobox: GeoBox, transform: Sequence[float], shape: Sequence[int], crs: str
) -> tuple[np.ndarray, np.ndarray]:
    """Find the pixels of a raster that contain the pixel centres of a grid.

    Parameters
    ----------
    geobox : GeoBox
    transform : sequence of float
        Affine coefficients a-f of the raster, and any more.
    shape : (int, int)
        Of the raster.
    crs : str
        Of the raster.

    Returns
    -------
    rows, cols : ndarray of int32, shape (y, x)
        -1 where the centre lies outside the raster.
    """
    a, b, c, d, e, f = transform[:6]
    rows, cols = (np.full(geobox.shape, -1, dtype=np.int32) for _ in range(2))
    for top in range(0, geobox.shape[0], STRIP_ROWS):
        strip = slice(top, min(top + STRIP_ROWS, geobox.shape[0]))
        x, y = _centres(geobox[strip, :], crs)
        # By division, not by the inverse matrix: our centres often lie exactly on the edges of a 10 m raster,
        # where the rounding of 1 / 10 would choose the pixel. Infinite where PROJ gave up.
        with np.errstate(invalid="ignore"):
            x, y = x - c, y - f
            turn = a * e - b * d
            col = np.floor((x * e - y * b) / turn if b or d else x / a)
            row = np.floor((y * a - x * d) / turn if b or d else y / e)
            hit = (col >= 0) & (col < shape[1]) & (row >= 0) & (row < shape[0])
        rows[strip][hit], cols[strip][hit] = row[hit], col[hit]
    return rows, cols


def first_rows_under(geobox: GeoBox, transform: Sequence[float], crs: str) -> tuple[int, int]:
    """Return the least row of a north-up raster under the first row of a grid, and under its last.

    As if the raster went on without end: it need not reach as far as the grid. 0 where PROJ gave up.
    """
    least = []
    for row, top in ((0, 0), (-1, (geobox.shape[0] - 1) // STRIP_ROWS * STRIP_ROWS)):
        _, y = _centres(geobox[top : min(top + STRIP_ROWS, geobox.shape[0]), :], crs)
        known = y[row][np.isfinite(y[row])]
        least.append(math.floor((known.max() - transform[5]) / transform[4]) if known.size else 0)
    return least[0], least[1]


@lru_cache(maxsize=16)
def _centres(geobox: GeoBox, crs: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixel centres of a grid in another coordinate system, each float64 (y, x).

    Kept, as the scenes of a neighbouring zone all ask for the same.
    """
    cols, rows = np.meshgrid(np.arange(geobox.shape[1]) + 0.5, np.arange(geobox.shape[0]) + 0.5)
    a = geobox.transform
    x, y = a.a * cols + a.b * rows + a.c, a.d * cols + a.e * rows + a.f
    ours = crs_of(geobox)
    if ours == _crs(crs):
        return x, y
    return _transformer(ours.to_wkt(), crs).transform(x, y)


@lru_cache(maxsize=16)
def _transformer(source: str, target: str) -> Transformer:
    """Return what takes x, y to x, y; it takes 10 ms to make, and is safe in threads."""
    return Transformer.from_crs(source, target, always_xy=True)


def bounds_in(geobox: GeoBox, crs: str) -> list[Bounds]:
    """Return bounds round a GeoBox in another coordinate system: two where it crosses the antimeridian.

    Empty where PROJ cannot transform it, i.e. far outside that system's use.

    Examples
    --------
    >>> from engine.grid import grid_geobox
    >>> fiji = grid_geobox(1, (66000, 4000, 2000, 4000))
    >>> [[round(degrees, 1) for degrees in box] for box in bounds_in(fiji, "EPSG:4326")]
    [[179.4, -18.4, 180.0, -17.9], [-180.0, -18.4, -179.4, -17.9]]
    """
    shape, affine = geobox.shape, geobox.transform
    # 21 points a side, 1 % beyond it: between two of them an edge bends by less. The middle ones too, as the
    # antimeridian may lie there.
    col, row = np.meshgrid(*(np.linspace(-0.01 * n, 1.01 * n, 21) for n in (shape.x, shape.y)))
    x, y = affine.a * col + affine.b * row + affine.c, affine.d * col + affine.e * row + affine.f
    x, y = _transformer(crs_of(geobox).to_wkt(), crs).transform(x, y)
    finite = np.isfinite(x) & np.isfinite(y)
    if not finite.any():
        return []
    x, y = x[finite], y[finite]
    bottom, top = float(y.min()), float(y.max())
    if CRS(crs).geographic and x.max() - x.min() > 180:
        return [(float(x[x > 0].min()), bottom, 180.0, top), (-180.0, bottom, float(x[x < 0].max()), top)]
    return [(float(x.min()), bottom, float(x.max()), top)]


def overlap(first: Sequence[float], second: Sequence[float]) -> bool:
    """Tell whether two bounds touch."""
    return first[0] <= second[2] and second[0] <= first[2] and first[1] <= second[3] and second[1] <= first[3]
