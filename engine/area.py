"""What to map: named regions in longitude and latitude, cut at the antimeridian; and which pixels are theirs."""

from __future__ import annotations

import csv
import json
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pyogrio
import shapely
from rasterio.features import rasterize
from shapely.affinity import translate
from shapely.geometry import MultiPolygon, box
from shapely.geometry.base import BaseGeometry

from engine.errors import ConfigError
from engine.grid import Tile, lonlat_of, to_zone
from engine.params import AreaParams
from engine.trust import Trust, is_plain_vector

STUDY_HOLD_OUT = ("Vietnam2", "Myanmar3", "Cuba2", "India")
"""Regions the published study held out (aws-samples/mangrove-landcover-classification, prep_mangrove_dataset)."""

MOST_REGIONS = 65_535
"""What a uint16 of region codes tells apart."""

MOST_FEATURES = 1_000_000
"""Of a file of polygons."""

_PARQUETS = (".parquet", ".geoparquet")
_GIVE = "give a GeoJSON, GeoPackage, shapefile, KML or GeoParquet"
_KM_PER_DEGREE = 111.32  # WGS84 equator, 2 pi 6378.137 km / 360


@dataclass(frozen=True)
class Region:
    """A named part of the area."""

    name: str
    """Letters and digits of any script and ``._-``, at most 64."""

    geometry: MultiPolygon
    """Degrees, longitude within -180..180."""


@dataclass(frozen=True)
class Area:
    """All regions of a run; where two overlap, the first owns the pixel."""

    regions: tuple[Region, ...]

    @property
    def geometry(self) -> BaseGeometry:
        return shapely.union_all([region.geometry for region in self.regions])


def read_area(params: AreaParams, trust: Trust) -> Area:
    """Turn the ``area:`` section of a run into regions.

    Raises
    ------
    ConfigError
        If a file is not a polygon layer, a region is unknown, or the area is empty.
    TrustError
        If the area file lies outside the allowed roots.
    """
    if params.bbox is not None:
        west, south, east, north = params.bbox
        # A box whose west is east of its east crosses the antimeridian. One wider than 180 degrees is meant to
        # be: its short edges keep ``wrap`` from turning it round.
        raw = {params.name: box(west, south, east + 360 if west > east else east, north).segmentize(90)}
    elif params.point is not None:
        raw = {params.name: _square(*params.point, params.size_km)}
    elif params.file is not None:
        raw = read_polygons(
            trust.path(params.file, what="area.file"),
            name_field=params.name_field,
            name=params.name,
            what="area.file",
        )
    else:
        known = study_regions()
        unknown = [name for name in params.regions or () if name not in known]
        if unknown:
            raise ConfigError(
                f"area.regions: unknown region {unknown[0]!r}",
                fix="known are " + ", ".join(sorted(known)),
            )
        raw = {name: _square(*known[name], params.size_km) for name in params.regions or ()}
    regions = tuple(Region(_plain_name(name), wrap(geometry)) for name, geometry in raw.items())
    first: dict[str, str] = {}
    for name, region in zip(raw, regions, strict=True):
        if first.setdefault(region.name, name) != name:
            raise ConfigError(
                f"area: two regions share a name: {first[region.name][:64]!r} and {name[:64]!r} give {region.name!r}",
                fix="rename one",
            )
    for region in regions:
        if region.geometry.is_empty or region.geometry.area == 0:
            raise ConfigError(f"area: region {region.name!r} is empty", fix="give a polygon")
    return Area(regions)


def _plain_name(text: str) -> str:
    """Return a name without control and formatting characters, and ``-`` for what is no letter or digit."""
    # Marks are part of letters: vowels of Bengali, accents of Vietnamese typed one by one.
    text = unicodedata.normalize("NFC", " ".join(text.split()))
    kept = [(c, unicodedata.category(c)[0]) for c in text]
    words = "".join(c if kind in "LMN" or c in "._-" else " " for c, kind in kept if kind != "C").split()
    return "-".join(words).strip(".-")[:64] or "area"


@lru_cache(maxsize=1)
def study_regions() -> dict[str, tuple[float, float]]:
    """Return name -> (lon, lat) of the 25 regions of the published study (``engine/regions.csv``)."""
    lines = files("engine").joinpath("regions.csv").read_text(encoding="utf-8").splitlines()
    rows = csv.DictReader(line for line in lines if not line.startswith("#"))
    return {row["region"]: (float(row["lon"]), float(row["lat"])) for row in rows}


def wrap(geometry: BaseGeometry) -> MultiPolygon:
    """Repair a lon/lat polygon and cut it at the antimeridian into longitudes -180..180.

    A part with an edge longer than 180 degrees crosses the antimeridian the short way (RFC 7946, 3.1.9).
    """
    parts: list[BaseGeometry] = []
    for part in shapely.get_parts(shapely.force_2d(geometry)):
        longitudes = shapely.get_coordinates(shapely.get_exterior_ring(part))[:, 0]
        if np.abs(np.diff(longitudes)).max(initial=0) > 180:
            turned = shapely.transform(part, lambda xy: np.where([[True, False]] & (xy < 0), xy + 360, xy))
            part = turned if turned.area > 0 else part  # a band right round the Earth stays one
        part = shapely.make_valid(part)
        west, south, east, north = part.bounds
        if west >= -180 and east <= 180 and south >= -90 and north <= 90:
            parts.append(part)
        else:
            parts += (shapely.clip_by_rect(translate(part, turn), -180, -90, 180, 90) for turn in (-360, 0, 360))
    union = shapely.union_all(parts)
    return MultiPolygon([p for p in shapely.get_parts(union) if p.geom_type == "Polygon"])


def region_codes(area: Area, tile: Tile) -> np.ndarray:
    """Say which region owns each pixel of a tile.

    A pixel belongs to a region when its centre lies in it, and to this tile only when its longitude lies in
    the tile's zone, so no hectare is counted twice where zones meet.

    Returns
    -------
    ndarray of uint16, shape (y, x)
        0 outside the area, otherwise 1 + index into ``area.regions``.
    """
    codes = np.zeros(tile.shape, dtype="uint16")
    shapes = [(piece, owner + 1) for piece, owner in pieces_in([region.geometry for region in area.regions], tile)]
    if shapes:
        rasterize(shapes[::-1], out=codes, transform=tile.geobox.transform)
        codes[~_in_zone(tile)] = 0
    return codes


def pieces_in(polygons: Sequence[BaseGeometry], tile: Tile) -> list[tuple[BaseGeometry, int]]:
    """Return what of some polygons lies in a tile or near it, as it is rasterized there.

    Parameters
    ----------
    polygons : sequence of MultiPolygon
        In degrees, longitude -180..180.
    tile : Tile

    Returns
    -------
    list of (geometry, int)
        In metres of the tile's zone, each with the index of its polygon, in order.
    """
    west = -180 + 6 * (tile.zone - 1)
    lon, lat = _spread_lonlat(tile)
    # Beyond it nothing of the tile: an edge cut there is 0.01 degrees long at most.
    margin = 0.02
    rect = (lon.min() - margin, lat.min() - margin, lon.max() + margin, lat.max() + margin)
    parts, owners = shapely.get_parts(list(polygons), return_index=True)
    left, bottom, right, top = shapely.bounds(parts).T
    near = (left <= rect[2]) & (right >= rect[0]) & (bottom <= rect[3]) & (top >= rect[1])
    # 0.01 degrees: the chord of a parallel at that step strays under a tenth of a pixel. Cut at the tile only
    # after, so that every tile of a zone has the same chords.
    lines = shapely.segmentize(shapely.clip_by_rect(parts[near], west - 0.5, -80, west + 6.5, 80), 0.01)
    project = to_zone(tile.zone).transform
    pieces = shapely.transform(shapely.clip_by_rect(lines, *rect), lambda xy: np.column_stack(project(*xy.T)))
    return [(piece, int(owner)) for piece, owner in zip(pieces, owners[near], strict=True) if not piece.is_empty]


def _spread_lonlat(tile: Tile) -> tuple[np.ndarray, np.ndarray]:
    """Return longitude and latitude of 9 x 9 pixels spread over a tile from edge to edge.

    Longitudes run on across the antimeridian, as proj's do not.
    """
    row, col, height, width = tile.window
    rows, cols = np.meshgrid(np.linspace(row, row + height - 1, 9), np.linspace(col, col + width - 1, 9), indexing="ij")
    lon, lat = lonlat_of(tile.zone, rows, cols)
    west = -180.0 + 6 * (tile.zone - 1)
    return west + _east_of(lon, west), lat


def _east_of(lon: np.ndarray, west: float) -> np.ndarray:
    """Return how far longitudes lie east of a meridian, -180..180 degrees."""
    return (lon - west + 180.0) % 360.0 - 180.0


def _in_zone(tile: Tile) -> np.ndarray:
    """Flag the pixels whose longitude lies in the tile's zone, bool (y, x)."""
    row, col, height, width = tile.window
    west = -180.0 + 6 * (tile.zone - 1)
    lon, _ = _spread_lonlat(tile)
    if lon.min() > west + 0.01 and lon.max() < west + 6 - 0.01:
        return np.ones(tile.shape, dtype=bool)
    rows, cols = np.meshgrid(np.arange(row, row + height), np.arange(col, col + width), indexing="ij")
    lon, _ = lonlat_of(tile.zone, rows, cols)
    offset = _east_of(lon, west)
    return (offset >= 0) & (offset < 6)


def _square(longitude: float, latitude: float, size_km: float) -> BaseGeometry:
    half_lat = size_km / 2 / _KM_PER_DEGREE
    half_lon = half_lat / np.cos(np.radians(latitude))
    return box(longitude - half_lon, latitude - half_lat, longitude + half_lon, latitude + half_lat)


def read_degrees(path: Path, *, what: str, columns: Sequence[str], most: int = MOST_FEATURES) -> gpd.GeoDataFrame:
    """Read all layers of a vector file, its geometries in degrees.

    Parameters
    ----------
    path : Path
        ``Trust.path`` must have allowed it.
    what : str
        Setting that named the file, for messages.
    columns : sequence of str
        Those to read, where they are there.
    most : int
        Features of all layers.

    Raises
    ------
    ConfigError
        If the file is unreadable, not what its name says, has more features, or no coordinate system.
    """
    if not path.is_file():
        raise ConfigError(f"{what} {path} does not exist", fix="paths start from the folder the command runs in")
    try:
        plain = is_plain_vector(path)
        frames = list(_frames(path, columns, most)) if plain else []
    except Exception as error:
        raise ConfigError(
            f"{what} {path.name} cannot be read as polygons ({type(error).__name__})", fix=_GIVE
        ) from error
    if not plain:
        held = "not what its name says, or holds more than plain tables (views, triggers, computed columns)"
        raise ConfigError(f"{what} {path.name} cannot be read as polygons: it is {held}", fix=_GIVE)
    if sum(map(len, frames)) > most:
        raise ConfigError(f"{what} {path.name} has more than {most:,} features", fix="join or split them")
    if not all(isinstance(frame, gpd.GeoDataFrame) and frame.crs for frame in frames) or not frames:
        raise ConfigError(f"{what} {path.name} has no coordinate system", fix="add a .prj or crs")
    return pd.concat([frame.to_crs(4326) for frame in frames], ignore_index=True)


def _frames(path: Path, columns: Sequence[str], most: int) -> Iterator[gpd.GeoDataFrame]:
    """Yield the layers of a vector file, up to one feature too many."""
    if path.suffix.lower() in _PARQUETS:
        about = pq.read_metadata(path)
        primary = json.loads((about.metadata or {})[b"geo"])["primary_column"]
        there = about.schema.to_arrow_schema().names
        if about.num_rows > most:
            raise ValueError(f"{about.num_rows} rows")
        yield gpd.read_parquet(path, columns=[primary, *(name for name in columns if name in there)])
        return
    for layer, kind in pyogrio.list_layers(path):  # a folder of a KML is one
        if kind:
            frame = pyogrio.read_dataframe(path, layer=layer, columns=list(columns), max_features=most + 1)
            most -= len(frame)
            yield frame
            if most < 0:
                return


def _columns_of(path: Path) -> list[str]:
    if path.suffix.lower() in _PARQUETS:
        return pq.read_schema(path).names
    layers = (layer for layer, kind in pyogrio.list_layers(path) if kind)
    return list(dict.fromkeys(name for layer in layers for name in pyogrio.read_info(path, layer=layer)["fields"]))


def read_polygons(path: Path, *, name_field: str | None, name: str, what: str) -> dict[str, BaseGeometry]:
    """Read a polygon file in degrees: its parts by the values of ``name_field``, or all of it as ``name``.

    Parameters
    ----------
    path : Path
        GeoJSON, GeoPackage, shapefile, KML or GeoParquet, all layers; ``Trust.path`` must have allowed it.
    name_field : str or None
        Column whose values name the parts; polygons without a value are together ``unnamed``.
    name : str
        Name of the whole, where ``name_field`` is None.
    what : str
        Setting that named the file, for messages: ``area.file``, ``change.zones``.

    Raises
    ------
    ConfigError
        If the file is unreadable, not what its name says, has no coordinate system, no polygon, no such column,
        or more than ``MOST_REGIONS`` parts.
    """
    frame = read_degrees(path, what=what, columns=[name_field] if name_field is not None else [])
    if name_field is not None and name_field not in frame:
        raise ConfigError(
            f"{what}: column {name_field!r} is not in {path.name}",
            fix="columns are " + ", ".join(name for name in _columns_of(path) if name != "geometry"),
        )
    frame = frame[frame.geom_type.isin(["Polygon", "MultiPolygon"])]
    if frame.empty:
        raise ConfigError(f"{what} {path.name} holds no polygon", fix="give polygons, not points or lines")
    labels = pd.Series(name, frame.index)
    if name_field is not None:
        labels = frame[name_field].astype(object).where(frame[name_field].notna(), "unnamed").astype(str)
    if labels.nunique() > MOST_REGIONS:
        raise ConfigError(
            f"{what}: column {name_field!r} of {path.name} names {labels.nunique()} parts, more than {MOST_REGIONS}",
            fix="name a coarser column, or split the file",
        )
    # Before any union: GEOS refuses to join self-crossing rings, and one across the antimeridian would span the Earth.
    geometries = [wrap(geometry) for geometry in frame.geometry]
    parts: dict[str, list[BaseGeometry]] = {}
    for label, geometry in zip(labels, geometries, strict=True):
        parts.setdefault(label, []).append(geometry)
    return {label: shapely.union_all(parts[label]) for label in sorted(parts)}
