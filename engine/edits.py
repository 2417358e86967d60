"""What people correct on a map: polygons that say mangrove, other or unsure, kept in versions that stay.

A version is a GeoPackage, ``edits/v0003.gpkg`` in the folder of a run, with all polygons that hold then, and its marker
beside it. What is added comes on top of the version before; nothing is written over. Where polygons overlap, the one
added last holds. Drawn files come from anybody: see ``read_edits``.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import shapely
from rasterio.features import rasterize
from shapely.geometry.base import BaseGeometry

from engine.area import pieces_in, read_degrees, wrap
from engine.errors import ConfigError, EngineError, StoreError, printable
from engine.files import bytes_sha256, cannot_read, locked, replacing
from engine.grid import Tile
from engine.kernels.edits import apply_edits
from engine.legend import ADDED, REMOVED, UNSURE
from engine.store import seal_of, write_marker
from engine.trust import is_plain_vector

KINDS: Final = {"add": ADDED, "remove": REMOVED, "unsure": UNSURE}
"""What a polygon may say -> code of ``legend.EDITS``."""

COLUMNS: Final = ("kind", "from_year", "to_year", "note", "author", "version", "added")
"""Of a version, beside the polygons: years are whole numbers, or none where open."""

ASKED: Final = COLUMNS[:5]
"""Those that people fill in."""

SUFFIXES: Final = (".gpkg", ".geojson", ".json", ".fgb")
MOST_BYTES: Final = 2**26
MOST_POLYGONS: Final = 20_000
MOST_VERTICES: Final = 1_000_000
MOST_NOTE: Final = 500
MOST_AUTHOR: Final = 64
MOST_SHOWN: Final = 1000
MOST_SHOWN_VERTICES: Final = 100_000
_YEARS: Final = (1900, 2200)
_VERSION: Final = re.compile(r"v(\d{4,6})\.(json|gpkg)")
_MOST_MARKER_BYTES: Final = 2**16
_DRAW: Final = "draw polygons with a column kind (add, remove, unsure) and save them as GeoPackage or GeoJSON"


@dataclass(frozen=True, eq=False)
class Layer:
    """A version of the edits of a run."""

    version: int
    sha256: str
    """Of its GeoPackage."""

    polygons: gpd.GeoDataFrame
    """``COLUMNS`` and polygons in degrees, in the order in which they hold: the last over all before."""

    about: Mapping[str, Any]
    """What its marker says: author, made, what was done."""


class Piece(NamedTuple):
    """What a polygon says of a tile."""

    code: int
    """Of ``legend.EDITS``."""

    first: int
    last: int
    """Years it holds in, both among them."""

    outline: bytes
    """WKB, metres of the tile's zone."""

    row: int
    """Of the polygon in its layer."""


class EditedTile(NamedTuple):
    """A tile-year as edited."""

    classes: np.ndarray
    """uint8 (y, x), ``legend.CLASSES``."""

    edits: np.ndarray
    """uint8 (y, x), ``legend.EDITS``: what holds where."""

    conflicts: np.ndarray
    """bool (y, x): polygons of several kinds lie here."""


# ---------------------------------------------------------------- what people draw


def read_edits(path: Path) -> gpd.GeoDataFrame:
    """Read polygons drawn in a GIS.

    Parameters
    ----------
    path : Path
        GeoPackage, GeoJSON or FlatGeobuf in any coordinate system, all layers. Column ``kind``; optionally
        ``from_year``, ``to_year``, ``note`` and ``author``. Others are left alone.

    Returns
    -------
    GeoDataFrame
        As ``check_edits`` returns it.

    Raises
    ------
    ConfigError
        If it is no such file, too large, or ``check_edits`` refuses it.
    """
    try:
        size = path.stat().st_size
        if path.suffix.lower() not in SUFFIXES or not is_plain_vector(path):
            held = "not what its name says, or holds views, triggers or computed columns"
            raise ConfigError(f"edits {path.name} is no {', '.join(SUFFIXES)}, or {held}", fix=_DRAW)
    except OSError as error:
        raise ConfigError(f"edits {path} cannot be read ({error.strerror})", fix="check the path") from error
    if size > MOST_BYTES:
        raise ConfigError(f"edits {path.name} is larger than {MOST_BYTES >> 20} MB", fix="give polygons alone")
    try:
        counts = [pyogrio.read_info(path, layer=layer)["features"] for layer, kind in pyogrio.list_layers(path) if kind]
    except Exception as error:
        raise ConfigError(f"edits {path.name} cannot be read ({type(error).__name__})", fix=_DRAW) from error
    _check_count(sum(counts))
    try:
        frame = read_degrees(path, what="edits", columns=ASKED, most=MOST_POLYGONS)
    except EngineError:
        raise
    except Exception as error:  # of PROJ, for a coordinate system that has no place on Earth
        raise ConfigError(f"edits {path.name} cannot be placed ({type(error).__name__})", fix=_DRAW) from error
    return check_edits(frame)


def check_edits(frame: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """Check polygons from anybody, and return them as a version holds them.

    Parameters
    ----------
    frame : GeoDataFrame
        In degrees; columns as of ``read_edits``.

    Returns
    -------
    GeoDataFrame
        Columns kind, from_year, to_year (Int64), note, author (str) and geometry: valid, cut at the antimeridian.

    Raises
    ------
    ConfigError
        Naming the first row that is no polygon on Earth, of an unknown kind, or whose years are none.
    """
    _check_count(len(frame))
    if frame.empty or "kind" not in frame:
        what = "hold no polygon" if frame.empty else "have no column kind"
        raise ConfigError(f"the edits {what}", fix=_DRAW)
    vertices = int(shapely.get_num_coordinates(frame.geometry.to_numpy()).sum())
    if vertices > MOST_VERTICES:
        raise ConfigError(f"the edits have {vertices} vertices, more than {MOST_VERTICES}", fix="simplify the polygons")
    rows = [_checked(number, dict(row)) for number, row in enumerate(frame.to_dict("records"), 1)]
    table = pd.DataFrame(rows, columns=["kind", "from_year", "to_year", "note", "author", "geometry"])
    table = table.astype({"from_year": "Int64", "to_year": "Int64"})
    return gpd.GeoDataFrame(table, geometry="geometry", crs="EPSG:4326")


def _check_count(count: int) -> None:
    if count > MOST_POLYGONS:
        raise ConfigError(f"there are {count} edits, more than {MOST_POLYGONS}", fix="join polygons of one kind")


def _checked(number: int, row: Mapping[str, Any]) -> dict[str, Any]:
    kind = str(row["kind"]).strip().lower()
    if kind not in KINDS:
        raise ConfigError(f"edit {number}: kind {kind[:40]!r} is none", fix="write " + ", ".join(KINDS))
    first, last = (_year(number, name, row.get(name)) for name in ("from_year", "to_year"))
    if first is not None and last is not None and first > last:
        raise ConfigError(f"edit {number}: from_year {first} is after to_year {last}", fix="swap them")
    return {
        "kind": kind,
        "from_year": first,
        "to_year": last,
        "note": _text(row.get("note"), MOST_NOTE),
        "author": _text(row.get("author"), MOST_AUTHOR),
        "geometry": _polygon(number, row["geometry"]),
    }


def _year(number: int, name: str, value: Any) -> int | None:
    """Return a year as forms hold it: a number, also one with a point, or text; empty for open."""
    if value is None or value is pd.NA or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    try:
        year = float(value)
    except (TypeError, ValueError, OverflowError):
        year = math.nan
    if not (year.is_integer() and _YEARS[0] <= year <= _YEARS[1]):
        raise ConfigError(f"edit {number}: {name} {str(value)[:40]!r} is no year", fix="write 2019, or leave it empty")
    return int(year)


def _text(value: Any, most: int) -> str:
    return printable(value.strip())[:most] if isinstance(value, str) else ""


def _polygon(number: int, geometry: BaseGeometry | None) -> BaseGeometry:
    if geometry is None or geometry.geom_type not in ("Polygon", "MultiPolygon"):
        what = "no geometry" if geometry is None else geometry.geom_type
        raise ConfigError(f"edit {number} is {what}, and no polygon", fix=_DRAW)
    west, south, east, north = geometry.bounds if not geometry.is_empty else (math.nan,) * 4
    if not (max(abs(west), abs(east)) <= 360 and max(abs(south), abs(north)) <= 80):  # also of what is no number
        raise ConfigError(
            f"edit {number} reaches beyond the Earth's UTM grid (longitude {west:g}..{east:g}, latitude "
            f"{south:g}..{north:g})",
            fix="check the coordinate system of the layer",
        )
    found = wrap(geometry)
    if found.is_empty:
        raise ConfigError(f"edit {number} encloses nothing", fix="draw it again")
    return found


# ---------------------------------------------------------------- versions


def edits_folder(run: Path) -> Path:
    """Return where the versions of a run's edits lie."""
    return run / "edits"


def list_versions(run: Path) -> list[dict[str, Any]]:
    """Return what the marker of every version says, by rising version.

    Raises
    ------
    StoreError
        If one is not as it was written.
    """
    return [_marker(run, version) for version in _versions(run)]


def read_layer(run: Path) -> Layer | None:
    """Return the edits of a run that hold now: its last version, None where nobody edited.

    Raises
    ------
    StoreError
        If it is not as it was written.
    """
    versions = _versions(run)
    if not versions:
        return None
    marker = _marker(run, versions[-1])
    path = _path(run, versions[-1])
    [(name, sha256)] = marker["files"].items()
    if name != path.name or bytes_sha256(path) != sha256:
        raise StoreError(f"{path} is not as it was written", fix="restore it from a copy")
    frame = read_degrees(path, what="edits", columns=COLUMNS, most=MOST_POLYGONS)
    checked = check_edits(frame) if len(frame) else frame
    for name in ("version", "added"):
        checked[name] = frame[name].to_numpy()
    return Layer(versions[-1], sha256, checked, marker)


def add_edits(
    run: Path, features: gpd.GeoDataFrame | Mapping[str, Any], *, author: str, source: str = ""
) -> tuple[Layer, int]:
    """Add polygons on top of those of a run, as a new version.

    Parameters
    ----------
    run : Path
        Folder of the run.
    features : GeoDataFrame or mapping
        As of ``check_edits``; or a GeoJSON FeatureCollection with the same properties.
    author : str
        Of those that name none.
    source : str
        What they came from, for the marker.

    Returns
    -------
    layer : Layer
        As it holds now; the version before, if all polygons were in it.
    added : int
        Polygons; one that lies there already, of the same kind, years and note, is not added again, unless another of
        another kind came over it since.

    Raises
    ------
    ConfigError
        If ``check_edits`` refuses them, or they are no features.
    StoreError
        If the folder cannot be written, or another command writes edits now.
    """
    found = check_edits(features if isinstance(features, gpd.GeoDataFrame) else _from_geojson(features))
    with locked(edits_folder(run)):
        before = read_layer(run)
        if before is not None:
            found = found[_changing(found, before.polygons)]
        if before is not None and found.empty:
            return before, 0
        version = _next(run)
        name = _text(author, MOST_AUTHOR) or "unknown"
        found = found.assign(author=found["author"].where(found["author"] != "", name), version=version, added=_now())
        whole = found if before is None or before.polygons.empty else pd.concat([before.polygons, found])
        _check_count(len(whole))
        about = {"author": name, "action": "add", "added": len(found), "source": printable(source)[:MOST_NOTE]}
        return _write(run, version, whole, about), len(found)


def _changing(found: gpd.GeoDataFrame, before: gpd.GeoDataFrame) -> np.ndarray:
    """Flag the polygons that change something on top of those there are, bool (polygon,)."""
    keys, kinds = list(_keys(found)), before["kind"].to_numpy()
    place = {key: number for number, key in enumerate(_keys(before))}  # of equals the last
    again = {place[key]: number for number, key in enumerate(keys) if key in place}
    outlines, other = found.geometry.to_numpy(), before.geometry.to_numpy()
    fresh = np.array([key not in place for key in keys], dtype=bool)
    for number, over in zip(*shapely.STRtree(other).query(outlines, predicate="intersects"), strict=True):
        key = keys[number]
        buried = key in place and over > place[key] and kinds[over] != key[0]
        # What follows in the file too lies over it there as well.
        if buried and again.get(over, -1) < number and not shapely.touches(outlines[number], other[over]):
            fresh[number] = True
    put_back = fresh & np.array([key in place for key in keys], dtype=bool)
    if put_back.any():  # what follows it in the file would be under it
        fresh[int(np.argmax(put_back)) :] = True
    return fresh


def undo_edits(run: Path, *, author: str) -> Layer:
    """Take back what was added last, as a new version without it.

    Raises
    ------
    ConfigError
        If there is nothing to take back.
    """
    with locked(edits_folder(run)):
        before = read_layer(run)
        if before is None or before.polygons.empty:
            raise ConfigError(f"{run} has no edits to take back", fix="see mangroves edit --list")
        last = int(before.polygons["version"].max())
        rest = before.polygons[before.polygons["version"] != last]
        about = {"author": _text(author, MOST_AUTHOR) or "unknown", "action": "undo", "of": last}
        return _write(run, _next(run), rest, {**about, "removed": len(before.polygons) - len(rest)})


def _from_geojson(features: Mapping[str, Any]) -> gpd.GeoDataFrame:
    try:
        _check_count(len(features["features"]))
        listed = [
            {"geometry": one["geometry"], "properties": {name: one["properties"].get(name) for name in ASKED}}
            for one in features["features"]
        ]
        return gpd.GeoDataFrame.from_features(listed, crs="EPSG:4326")
    except EngineError:
        raise
    except Exception as error:
        raise ConfigError(f"the edits are no features ({type(error).__name__})", fix="give GeoJSON polygons") from error


def as_geojson(
    layer: Layer | None, *, most: int = MOST_SHOWN, most_vertices: int = MOST_SHOWN_VERTICES
) -> dict[str, Any]:
    """Return the polygons of a layer as a GeoJSON FeatureCollection, degrees to a tenth of a metre.

    Parameters
    ----------
    layer : Layer, optional
    most, most_vertices : int
        Kept of the polygons that were added last, in their order.

    Returns
    -------
    dict
        With ``version``, 0 where nobody edited, and ``total``, the polygons there are.
    """
    if layer is None:
        return {"type": "FeatureCollection", "version": 0, "total": 0, "features": []}
    shown = layer.polygons.iloc[-most:] if most else layer.polygons.iloc[:0]
    vertices = shapely.get_num_coordinates(shown.geometry.to_numpy())[::-1].cumsum()[::-1]
    shown = shown[vertices <= most_vertices]
    features = [
        {
            "type": "Feature",
            "geometry": shapely.geometry.mapping(shapely.set_precision(row["geometry"], 1e-6, mode="pointwise")),
            "properties": {name: None if pd.isna(row[name]) else row[name] for name in COLUMNS},
        }
        for row in shown.astype({"version": object}).to_dict("records")
    ]
    return {"type": "FeatureCollection", "version": layer.version, "total": len(layer.polygons), "features": features}


def _keys(frame: gpd.GeoDataFrame) -> Iterator[tuple[Any, ...]]:
    """Yield what tells polygons apart."""
    years = frame[["from_year", "to_year"]].astype("Int64").fillna(0)
    outlines = shapely.to_wkb(shapely.normalize(frame.geometry.to_numpy()))
    yield from zip(frame["kind"], years["from_year"], years["to_year"], frame["note"], outlines, strict=True)


def _write(run: Path, version: int, frame: gpd.GeoDataFrame, about: Mapping[str, Any]) -> Layer:
    path = _path(run, version)
    frame = gpd.GeoDataFrame(frame, geometry="geometry", crs="EPSG:4326").reset_index(drop=True)
    frame = frame.astype({"from_year": "Int64", "to_year": "Int64"})[[*COLUMNS, "geometry"]]
    with replacing(path) as temporary:
        frame.to_file(temporary, driver="GPKG", layer="edits", engine="pyogrio", geometry_type="MultiPolygon")
    counts = {kind: int((frame["kind"] == kind).sum()) for kind in KINDS}
    marker = {"version": version, "made": _now(), "polygons": len(frame), "kinds": counts, **about}
    written = write_marker(path.with_suffix(".json"), marker, [path])
    return Layer(version, written["files"][path.name], frame, written)


def _versions(run: Path, suffix: str = "json") -> list[int]:
    """Return the versions there are: those with a marker."""
    try:
        names = [path.name for path in edits_folder(run).iterdir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise cannot_read(edits_folder(run), error) from error
    return sorted(int(found[1]) for name in names if (found := _VERSION.fullmatch(name)) and found[2] == suffix)


def _next(run: Path) -> int:
    """Return the number of a new version: above all there are, also what was cut off before its marker."""
    return 1 + max([0, *_versions(run), *_versions(run, "gpkg")])


def _path(run: Path, version: int) -> Path:
    return edits_folder(run) / f"v{version:04d}.gpkg"


def _marker(run: Path, version: int) -> dict[str, Any]:
    path = _path(run, version).with_suffix(".json")
    try:
        with path.open(encoding="utf-8") as file:
            marker = json.loads(file.read(_MOST_MARKER_BYTES))
        whole = seal_of(marker) == marker["marker_sha256"] and len(marker["files"]) == 1
    except OSError as error:
        raise cannot_read(path, error) from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        whole = False
    if not whole:
        raise StoreError(f"{path} is not as it was written", fix="restore it from a copy")
    return marker


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")


# ---------------------------------------------------------------- tiles


def clip_edits(polygons: gpd.GeoDataFrame, tiles: Sequence[Tile]) -> dict[Tile, tuple[Piece, ...]]:
    """Return what the polygons say of each tile they reach, in their order: so a task gets no more than its own."""
    if polygons.empty:
        return {}
    geometries = list(polygons.geometry)
    rows = polygons[["kind", "from_year", "to_year"]].astype({"from_year": "Int64", "to_year": "Int64"})
    first = rows["from_year"].fillna(_YEARS[0]).to_numpy(int)
    last = rows["to_year"].fillna(_YEARS[1]).to_numpy(int)
    found = {}
    for tile in tiles:
        extent = tile.geobox.extent.geom
        pieces = [
            Piece(KINDS[rows["kind"].iat[row]], int(first[row]), int(last[row]), shapely.to_wkb(piece), row)
            for piece, row in pieces_in(geometries, tile)
            if piece.intersects(extent)
        ]
        if pieces:
            found[tile] = tuple(pieces)
    return found


def of_year(pieces: Sequence[Piece], year: int) -> tuple[tuple[int, bytes], ...]:
    """Return code and outline of the pieces that hold in a year."""
    return tuple((piece.code, piece.outline) for piece in pieces if piece.first <= year <= piece.last)


def burn_edits(pieces: Sequence[tuple[int, bytes]], tile: Tile) -> tuple[np.ndarray, np.ndarray]:
    """Return what holds in each pixel of a tile, by its centre.

    Parameters
    ----------
    pieces : sequence of (int, bytes)
        Of ``of_year``.
    tile : Tile

    Returns
    -------
    edits : ndarray of uint8, shape (y, x)
        Codes of ``legend.EDITS``; of polygons that overlap the last.
    conflicts : ndarray of bool, shape (y, x)
        True where polygons of several kinds lie.
    """
    shapes = [
        (outline, code) for (code, _), outline in zip(pieces, shapely.from_wkb([p for _, p in pieces]), strict=True)
    ]

    def burn(some: list[tuple[BaseGeometry, int]]) -> np.ndarray:
        out = np.zeros(tile.shape, dtype=np.uint8)
        return rasterize(some, out=out, transform=tile.geobox.transform) if some else out

    kinds = np.zeros(tile.shape, dtype=np.uint8)
    for code in KINDS.values():
        kinds += burn([(outline, 1) for outline, of in shapes if of == code])
    return burn(shapes), kinds > 1


def edit_tile(classes: np.ndarray, pieces: Sequence[tuple[int, bytes]], tile: Tile) -> EditedTile:
    """Apply the edits of a year to the classes of a tile, uint8 (y, x)."""
    edits, conflicts = burn_edits(pieces, tile)
    return EditedTile(apply_edits(classes, edits), edits, conflicts)
