"""The project grid: UTM zones, tiles and blocks over odc-geo GeoBoxes.

Always the northern code of a zone (EPSG:326zz), with negative northings south of the equator, as Landsat
delivers everywhere: 327zz would sit 10 m off and resample every southern scene. Pixels are 30 m with edges
at 15 m modulo 30 m, true of every Collection 2 scene, so a scene of the tile's zone is read unresampled.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import shapely
from affine import Affine
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from pyproj import Proj, Transformer
from shapely.geometry import box
from shapely.geometry.base import BaseGeometry
from shapely.ops import transform as transform_geometry

from engine.errors import PlanError

PIXEL_M: Final = 30
EDGE_M: Final = 15
TILE_PX: Final = 2048
_TILE_ID = re.compile(r"z(\d{2})_c(\d{2})_r([+-]\d{3})")


@dataclass(frozen=True, order=True)
class Tile:
    """A square of the project grid, cropped to what an area needs of it.

    Rows and columns count 30 m pixels of the zone from (easting 15 m, northing 15 m), rows downwards, so a
    pixel has the same ``(zone, row, col)`` whatever tile, crop or block it is reached through.
    """

    zone: int
    """UTM zone, 1-60."""

    col: int
    """Tile column, 0 at easting 15 m, 61.44 km each."""

    row: int
    """Tile row, downwards; negative in the northern hemisphere."""

    window: tuple[int, int, int, int]
    """``(row, col, height, width)`` in grid pixels: the crop."""

    def __post_init__(self) -> None:
        row, col, height, width = self.window
        if height < 1 or width < 1:
            raise ValueError(f"tile window must be at least 1 pixel, got {height} x {width}")
        inside = (
            self.row * TILE_PX <= row
            and row + height <= (self.row + 1) * TILE_PX
            and self.col * TILE_PX <= col
            and col + width <= (self.col + 1) * TILE_PX
        )
        if not (1 <= self.zone <= 60 and inside):
            raise ValueError(f"window {self.window} is not inside tile {self.id}")

    @property
    def id(self) -> str:
        """Name of the tile, e.g. ``z48_c08_r-016``; a safe path component."""
        return f"z{self.zone:02d}_c{self.col:02d}_r{self.row:+04d}"

    @property
    def epsg(self) -> int:
        return 32600 + self.zone

    @property
    def shape(self) -> tuple[int, int]:
        return self.window[2], self.window[3]

    @property
    def geobox(self) -> GeoBox:
        return grid_geobox(self.zone, self.window)


def is_tile_id(text: str) -> bool:
    """Tell whether ``text`` is exactly a tile name, and so safe as a path component."""
    return _TILE_ID.fullmatch(text) is not None


def grid_geobox(zone: int, window: tuple[int, int, int, int]) -> GeoBox:
    """Return the GeoBox of a window ``(row, col, height, width)`` of a zone's 30 m grid.

    Built from an explicit affine: ``GeoBox.from_bbox`` with its default anchor shifts half a pixel.

    Examples
    --------
    >>> grid_geobox(48, (-32768, 16384, 512, 512)).transform.c
    491535.0
    """
    row, col, height, width = window
    left, top = EDGE_M + PIXEL_M * col, EDGE_M - PIXEL_M * row
    affine = Affine(PIXEL_M, 0, left, 0, -PIXEL_M, top)
    return GeoBox((height, width), affine, f"EPSG:{32600 + zone}")


def crs_of(geobox: GeoBox) -> CRS:
    """Return the coordinate system of a GeoBox.

    Raises
    ------
    ValueError
        If it has none.
    """
    if geobox.crs is None:
        raise ValueError("grid has no coordinate system; give a GeoBox with a crs")
    return geobox.crs


def zone_of(longitude: float) -> int:
    """Return the UTM zone that owns a longitude in degrees; 180 belongs to zone 1, as -180.

    The exceptions of Norway and Svalbard are not made: no mangrove grows there.

    Examples
    --------
    >>> zone_of(104.976), zone_of(-180.0), zone_of(180.0)
    (48, 1, 1)
    """
    return int((longitude + 180.0) % 360.0 // 6.0) + 1


def tiles_of(geometry: BaseGeometry) -> list[Tile]:
    """Cut an area into tiles of the zones that own it, each cropped to the pixels the area can touch.

    Parameters
    ----------
    geometry : shapely geometry
        In degrees, longitude -180..180, cut at the antimeridian (``engine.area`` does).

    Raises
    ------
    PlanError
        If the area reaches beyond 80 degrees south or north, where Landsat uses polar grids.
    """
    west, south, east, north = geometry.bounds
    if south < -80 or north > 80:
        raise PlanError(
            f"area reaches latitude {south if south < -80 else north:.1f}, beyond the UTM grid",
            fix="keep the area between 80 S and 80 N",
        )
    tiles: dict[tuple[int, int, int], list[int]] = {}
    last = min(59, int((east + 180.0) // 6.0))
    for index in range(int((west + 180.0) // 6.0), last + 1):
        strip = geometry.intersection(box(-180 + 6 * index, -80, -174 + 6 * index, 80))
        if strip.area == 0:
            continue
        zone = index + 1
        parts = list(strip.geoms) if hasattr(strip, "geoms") else [strip]
        for part in parts:
            if part.area > 0:
                _add_tiles(tiles, zone, part)
    return sorted(
        Tile(zone, col, row, (top, left, bottom - top, right - left))
        for (zone, col, row), (top, left, bottom, right) in tiles.items()
    )


def _add_tiles(tiles: dict[tuple[int, int, int], list[int]], zone: int, geometry: BaseGeometry) -> None:
    """Grow the crop of every tile of ``zone`` that a lon/lat geometry reaches."""
    # The vertices of engine.area.region_codes: a crop holds every pixel that is rasterized there.
    projected = transform_geometry(to_zone(zone).transform, geometry.segmentize(0.01))
    west, south, east, north = projected.bounds
    side = TILE_PX * PIXEL_M
    for row in range(int((EDGE_M - north) // side), int((EDGE_M - south) // side) + 1):
        for col in range(int((west - EDGE_M) // side), int((east - EDGE_M) // side) + 1):
            left, top = EDGE_M + side * col, EDGE_M - side * row
            piece = shapely.clip_by_rect(projected, left, top - side, left + side, top)
            if piece.area == 0:
                continue
            first_x, first_y, last_x, last_y = piece.bounds
            crop = [
                max(int((EDGE_M - last_y) // PIXEL_M), row * TILE_PX),
                max(int((first_x - EDGE_M) // PIXEL_M), col * TILE_PX),
                min(int((EDGE_M - first_y) // PIXEL_M) + 1, (row + 1) * TILE_PX),
                min(int((last_x - EDGE_M) // PIXEL_M) + 1, (col + 1) * TILE_PX),
            ]
            known = tiles.get((zone, col, row), crop)
            tiles[zone, col, row] = [*map(min, known[:2], crop[:2]), *map(max, known[2:], crop[2:])]


@lru_cache(maxsize=64)
def to_zone(zone: int) -> Transformer:
    """Return the (lon, lat) -> (easting, northing) transformer of a zone's northern code."""
    return Transformer.from_crs("EPSG:4326", f"EPSG:{32600 + zone}", always_xy=True)


def lonlat_of(zone: int, rows: np.ndarray, cols: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return longitude and latitude, float64 degrees, of pixel centres given by grid row and column."""
    easting = EDGE_M + PIXEL_M * (np.asarray(cols, dtype="float64") + 0.5)
    northing = EDGE_M - PIXEL_M * (np.asarray(rows, dtype="float64") + 0.5)
    return to_zone(zone).transform(easting, northing, direction="INVERSE")


def pixel_hectares(tile: Tile) -> np.ndarray:
    """Return the ellipsoidal area of one pixel in each column of a tile, float64 hectares, shape (x,).

    A 30 m grid cell is 900 m2 on the map; on the WGS84 ellipsoid it is that over the areal scale of the
    transverse Mercator projection (.9992 at the central meridian, 1.0010 at 6 degrees' edge on the equator).
    The scale hardly varies along a column, so the middle row stands for the tile; the error is below 2e-5.
    """
    row, col, height, width = tile.window
    cols = np.arange(col, col + width)
    lon, lat = lonlat_of(tile.zone, np.full(width, row + height // 2), cols)
    scale = Proj(f"EPSG:{tile.epsg}").get_factors(lon, lat).areal_scale
    return PIXEL_M * PIXEL_M / 1e4 / np.asarray(scale)
