"""How large every pixel of any grid is on the ellipsoid, in degrees or projected, and in whole units."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from odc.geo.geobox import GeoBox
from pyproj import CRS, Transformer
from pyproj.crs import Ellipsoid

from engine.errors import ConfigError
from engine.grid import crs_of

NODES: Final = 512
"""Pixels of a row or column, about, that are measured; between two of them area is interpolated."""


@dataclass(frozen=True)
class Cells:
    """Areas of the pixels of a grid.

    A pixel's corners are taken to longitude and q, twice the sine of the authalic latitude: on that plane areas are
    those of the ellipsoid (Snyder 1987, USGS Professional Paper 1395, eq. 3-12). So a cell between two meridians and
    two parallels is exact, and one of a projection as far as its edges are straight there (1e-9 at 30 m). The
    ellipsoid is that of the coordinate system, WGS84 in nearly all.

    In degrees every row is measured, as all pixels of a row are equal; otherwise every pixel of a grid up to 512 x
    512, and of a larger one some 512 x 512 of them. In between area is linear: off by less than 4e-8 in UTM over
    1 200 km.
    """

    shape: tuple[int, int]
    rows: np.ndarray
    """Rows that were measured, int64."""

    cols: np.ndarray
    areas: np.ndarray
    """Square metres of the measured pixels, float64 (row, col)."""

    @classmethod
    def of(cls, geobox: GeoBox) -> Cells:
        """Measure a grid.

        Raises
        ------
        ConfigError
            If its coordinate system has no place on Earth, or does not reach as far as the grid.

        Examples
        --------
        >>> from affine import Affine
        >>> degree = GeoBox((180, 360), Affine(1, 0, -180, 0, -1, 90), "EPSG:4326")
        >>> cells = Cells.of(degree)
        >>> round(cells.square_metres(slice(0, 180)).sum() * 360 / 1e6)  # the Earth, km2
        510065622
        """
        crs = CRS.from_wkt(crs_of(geobox).to_wkt())
        ground, affine, (height, width) = crs.geodetic_crs, geobox.transform, geobox.shape
        if ground is None or ground.ellipsoid is None:
            raise ConfigError(f"{crs.name} has no place on Earth", fix="assign the raster's coordinate system")
        in_degrees = crs.equals(ground)
        level = in_degrees and not affine.b and not affine.d
        rows, cols = (np.arange(height), np.arange(1)) if level else (_nodes(height), _nodes(width))
        y, x = (np.array(steps)[:, np.newaxis, np.newaxis] for steps in ([0, 0, 1, 1], [0, 1, 1, 0]))
        y, x = np.broadcast_arrays(y + rows[:, np.newaxis], x + cols)
        left = 0 if level else affine.c  # a small number is a more exact one
        east, north = affine.a * x + affine.b * y + left, affine.d * x + affine.e * y + affine.f
        if not in_degrees:
            east, north = Transformer.from_crs(crs, ground, always_xy=True).transform(east, north)
        radians = ground.axis_info[0].unit_conversion_factor
        longitude, latitude = east * radians, np.clip(north * radians, -math.pi / 2, math.pi / 2)
        with np.errstate(invalid="ignore"):  # infinite where PROJ gave up
            areas = _quadrangles(longitude, _authalic(latitude, ground.ellipsoid), ground.ellipsoid.semi_major_metre)
        if not (np.isfinite(areas).all() and areas.max() > 0):
            raise ConfigError(f"the grid reaches where {crs.name} does not", fix="crop or warp the rasters")
        return cls((height, width), rows, cols, areas)

    @cached_property
    def unit(self) -> float:
        """Square metres that areas are whole multiples of: the least power of 2 of which int64 counts the grid."""
        return 2.0 ** math.ceil(math.log2(float(self.areas.max()) * math.prod(self.shape)) - 62)

    @cached_property
    def smallest(self) -> np.ndarray:
        """Area of the smallest pixel of each row in units, or a little less; int64 (y,)."""
        by_row = self._between_rows(np.arange(self.shape[0])).min(axis=1)
        return np.maximum(np.floor(by_row * (1 - 1e-12) / self.unit).astype(np.int64) - 1, 0)

    def square_metres(self, rows: slice) -> np.ndarray:
        """Return the areas of some rows, float64, that broadcasts to (y, x): of one column where all are equal."""
        areas = self._between_rows(np.arange(rows.start, rows.stop))
        if len(self.cols) == 1:
            return areas
        left, part = _position(self.cols, np.arange(self.shape[1]))
        return areas[:, left] * (1 - part) + areas[:, left + 1] * part

    def units(self, rows: slice) -> np.ndarray:
        """Return the areas of some rows in units, int64, that broadcasts to (y, x)."""
        return np.rint(self.square_metres(rows) / self.unit).astype(np.int64)

    def units_of(self, hectares: float) -> int:
        """Return an area in units; less by a millionth, so that pixels which add up to it do."""
        return math.ceil(hectares * 1e4 * (1 - 1e-6) / self.unit)

    def hectares(self, units: np.ndarray) -> np.ndarray:
        """Return sums of units as float64 hectares."""
        return units * self.unit / 1e4

    def _between_rows(self, wanted: np.ndarray) -> np.ndarray:
        if len(self.rows) == self.shape[0]:
            return self.areas[wanted]
        above, part = _position(self.rows, wanted)
        part = part[:, np.newaxis]
        return self.areas[above] * (1 - part) + self.areas[above + 1] * part


def _nodes(count: int) -> np.ndarray:
    """Return about ``NODES`` of some numbered pixels, or all, the first and last among them."""
    return np.unique([*range(0, count, math.ceil(count / NODES)), count - 1])


def _position(nodes: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which two nodes each number lies between, by the first, and how far along."""
    first = np.clip(np.searchsorted(nodes, wanted, side="right") - 1, 0, len(nodes) - 2)
    return first, (wanted - nodes[first]) / (nodes[first + 1] - nodes[first])


def _authalic(latitude: np.ndarray, ellipsoid: Ellipsoid) -> np.ndarray:
    """Return q of latitudes in radians (Snyder 1987, eq. 3-12)."""
    sine = np.sin(latitude)
    ratio = ellipsoid.semi_minor_metre / ellipsoid.semi_major_metre
    e = math.sqrt(1 - ratio * ratio)
    if e == 0:
        return 2 * sine
    return ratio * ratio * (sine / (1 - (e * sine) ** 2) + np.arctanh(e * sine) / e)


def _quadrangles(longitude: np.ndarray, q: np.ndarray, radius: float) -> np.ndarray:
    """Return the areas of quadrangles with corners (4, ...), in the square of the radius' unit."""
    x = longitude - longitude[0]
    x -= 2 * math.pi * np.round(x / (2 * math.pi))  # across the antimeridian
    y = q - q[0]
    return abs((x[2] - x[0]) * (y[3] - y[1]) - (x[3] - x[1]) * (y[2] - y[0])) / 2 * radius**2 / 2
