"""Where mangrove can be at all: low land near tidal water, as Global Mangrove Watch confines its maps.

The limits are wide on purpose. Elevation is a *surface* model, so canopy counts as height, and water is what
has water often enough, whether the tide reaches it or not: a lake only makes the limit wider.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from odc.geo.geobox import GeoBox
from shapely import get_parts

from engine.align import Bounds, bounds_in, overlap
from engine.area import Area
from engine.copies import reach
from engine.errors import MaskError
from engine.gdal import open_raster, values_at
from engine.kernels.labels import within_distance
from engine.lookup import PLANETARY_COMPUTER, FoundRaster, planetary_rasters
from engine.params import HabitatParams
from engine.ranges import Access
from engine.trust import Trust

_COLLECTIONS: Final = {"dem": ("cop-dem-glo-30", "data"), "water": ("jrc-gsw", "occurrence")}
"""Planetary Computer collection and asset of each source."""

_KM_PER_DEGREE: Final = 111.32  # WGS84 equator, 2 pi 6378.137 km / 360


@dataclass(frozen=True)
class HabitatSources:
    """The rasters of a habitat limit; none where there is no such limit."""

    dem: tuple[FoundRaster, ...]
    water: tuple[FoundRaster, ...]


def find_habitat_sources(
    params: HabitatParams, area: Area, *, trust: Trust, api: str = PLANETARY_COMPUTER
) -> HabitatSources:
    """Find once, before any work, the rasters a habitat limit needs.

    A path is a GeoTIFF or a folder of them.

    Raises
    ------
    MaskError
        If a file is missing.
    CatalogError
        If the Planetary Computer cannot be reached or has nothing there.
    TrustError
        If a path is not allowed.
    """
    reach = params.max_distance_to_tidal_water_km or 0.0
    found: dict[str, tuple[FoundRaster, ...]] = {"dem": (), "water": ()}
    for kind, wanted, margin_km in (
        ("dem", params.max_elevation_m, 0.0),
        ("water", params.max_distance_to_tidal_water_km, reach),
    ):
        source = getattr(params, kind)
        if wanted is None:
            continue
        if source == "planetary-computer":
            collection, asset = _COLLECTIONS[kind]
            boxes = _boxes(area, margin_km)
            found[kind] = tuple(planetary_rasters(collection, asset, boxes, trust=trust, api=api))
        else:
            found[kind] = tuple(_files(trust.path(source, what=f"habitat.{kind}"), kind))
    return HabitatSources(**found)


def _files(path: Path, kind: str) -> list[FoundRaster]:
    paths = sorted(path.glob("*.tif")) if path.is_dir() else [path]
    if not paths or not paths[0].is_file():
        raise MaskError(f"habitat.{kind}: {path} holds no GeoTIFF", fix="give a .tif, a folder of them, or remove it")
    return [FoundRaster(str(p), None) for p in paths]


def _boxes(area: Area, margin_km: float) -> list[Bounds]:
    """Return a box round each part of an area, widened, cut at the antimeridian."""
    boxes: list[Bounds] = []
    for part in get_parts(area.geometry):
        west, south, east, north = part.bounds
        high = margin_km / _KM_PER_DEGREE
        wide = high / math.cos(math.radians(max(abs(south), abs(north))))
        west, east, south, north = west - wide, east + wide, south - high, north + high
        boxes.append((max(west, -180.0), south, min(east, 180.0), north))
        if west < -180:
            boxes.append((west + 360, south, 180.0, north))
        if east > 180:
            boxes.append((-180.0, south, east - 360, north))
    return boxes


def habitat_tile(
    params: HabitatParams, geobox: GeoBox, *, sources: HabitatSources, trust: Trust, signer: Any = None
) -> np.ndarray:
    """Flag the pixels of a GeoBox where mangrove can be.

    Parameters
    ----------
    params : HabitatParams
    geobox : GeoBox
        In metres. Water is read with a halo of the greatest distance, so neighbouring tiles agree.
    sources : HabitatSources
        From ``find_habitat_sources``.
    trust : Trust
    signer : object, optional
        Its ``sign(href)`` gives the href that may be read.

    Returns
    -------
    ndarray of bool, shape (y, x)
        True where allowed. A pixel without elevation is (the sea has no tile in the Copernicus model); a pixel
        without water data is not water.

    Raises
    ------
    MaskError
        If a raster cannot be read, or no water raster covers the tile and its surroundings.
    """
    allowed = np.ones((geobox.shape.y, geobox.shape.x), dtype=bool)
    if params.max_elevation_m is not None:
        elevation, known = _mosaic(sources.dem, geobox, "dem", trust, signer)
        allowed &= ~known | (elevation <= params.max_elevation_m)
    if params.max_distance_to_tidal_water_km is not None:
        radius = params.max_distance_to_tidal_water_km * 1000 / abs(geobox.resolution.x)
        halo = math.ceil(radius)
        occurrence, known = _mosaic(sources.water, geobox.pad(halo), "water", trust, signer)
        if not known.any():
            raise MaskError(
                "habitat.water covers nothing of a tile", fix="give a raster of the whole area, or drop the limit"
            )
        low, high = params.water_values
        near = within_distance(known & (occurrence >= low) & (occurrence <= high), radius)
        allowed &= near[halo : near.shape[0] - halo, halo : near.shape[1] - halo]
    return allowed


def _mosaic(
    rasters: Sequence[FoundRaster], geobox: GeoBox, what: str, trust: Trust, signer: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Look up several rasters, the first that knows a pixel wins: float32 values, and where they are known."""
    shape = (geobox.shape.y, geobox.shape.x)
    values, known = np.zeros(shape, "float32"), np.zeros(shape, dtype=bool)
    boxes = bounds_in(geobox, "EPSG:4326")
    for href, bounds in rasters:
        if bounds is not None and not any(overlap(bounds, part) for part in boxes):
            continue

        reached, allowing = reach(href, trust)
        with open_raster(reached, Access(allowing, signer), fault=MaskError, habitat=what) as dataset:
            if dataset.crs is None:
                raise MaskError("it has no coordinate system", fix="assign one (gdal_edit -a_srs)", habitat=what)
            found, inside = values_at(dataset, geobox)
            if dataset.nodata is not None:
                inside &= found != dataset.nodata
        inside &= np.isfinite(found) & ~known
        values[inside] = found[inside]
        known |= inside
    return values, known
