"""Patches of change as polygons: pieces of them in each tile of a zone, and what the pieces of all tiles make together.

A patch is all pixels that touch, also at a corner, and have lost mangrove in any year, or gained it. One that lies
inside a tile is done with the tile. Of those at a tile's edge are kept outline, sums, counts by value and the pixels
on the edge: enough to join them exactly, and never their pixels, so joining takes memory for the edges only. Patches
end at the edge of a UTM zone, where grids differ.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import chain, groupby, islice
from typing import Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from affine import Affine
from pyproj import CRS
from rasterio import features

from engine.area import Area, wrap
from engine.errors import StoreError
from engine.files import cannot_read, replacing
from engine.grid import Tile, pixel_hectares, to_zone
from engine.kernels.compare import tally
from engine.kernels.patches import Joins, label_patches
from engine.legend import (
    CHANGES,
    GAIN,
    GAIN_THEN_LOSS,
    GAINED,
    LOSS,
    LOSS_THEN_GAIN,
    LOST,
    PROVISIONAL_GAIN,
    PROVISIONAL_LOSS,
    names,
)
from engine.places import ObjectPath, Place

DIRECTIONS: Final = {"gain": GAINED, "loss": LOST}
"""What patches are made of: pixels with a ``gain_year``, pixels with a ``loss_year``; and the bit each has in the layer
``large`` of a history."""

_OTHER_WAY: Final = {
    "gain": {LOSS: LOSS_THEN_GAIN, PROVISIONAL_LOSS: PROVISIONAL_GAIN},
    "loss": {GAIN: GAIN_THEN_LOSS, PROVISIONAL_GAIN: PROVISIONAL_LOSS},
}
"""Kind of a pixel that changed both ways -> what that is of a direction. One whose kind is *gain* was not mangrove at
first: what it lost it had gained."""

LAYERS: Final = ("kind", "loss_year", "gain_year", "confidence", "looks", "tide_suspect", "region")
"""Layers of a history that patches are told from."""

COUNTED: Final = ("year", "kind", "region", "looks")
"""What is counted by value, so that the median, the range and the commonest are those of the whole patch."""

SCHEMA: Final = pa.schema(
    {
        "direction": pa.string(),
        "kind": pa.string(),
        "year": pa.uint16(),
        "first_year": pa.uint16(),
        "last_year": pa.uint16(),
        "area_ha": pa.float64(),
        "pixels": pa.int64(),
        "large": pa.bool_(),
        "confidence_pct": pa.float64(),
        "looks": pa.uint16(),
        "tide_suspect": pa.float64(),
        "region": pa.string(),
        "zone": pa.uint8(),
        "grid_row": pa.int32(),
        "grid_col": pa.int32(),
        "geometry": pa.binary(),
    }
)
"""Columns of patches. ``docs/reading-the-maps.md`` says what each means."""

AREAS: Final = ("where", "direction", "code", "name", "patches", "pixels", "hectares")
"""Columns of ``patch_areas``."""

OUTLINED_AT_ONCE: Final = 2**14
"""Outlines held as GDAL gives them, a hundred times as large as they become."""

_ORDER: Final = ["direction", "grid_row", "grid_col"]
_CARRIED: Final = ("zone", *_ORDER, "pixels", "area_ha", "confidence", "tide_suspect")


@dataclass(frozen=True)
class Pieces:
    """Patches of one zone as far as they are known."""

    table: pd.DataFrame
    """One row each: ``zone``, ``direction``, ``grid_row`` and ``grid_col`` of the first pixel, row by row; ``pixels``,
    ``area_ha``, ``confidence`` (sum of per cents), ``tide_suspect`` (pixels), ``geometry`` (MultiPolygon, metres)."""

    counts: pd.DataFrame
    """``piece`` (row of the table), ``counted`` (index into ``COUNTED``), ``value``, ``pixels``; sorted by the first
    three."""

    border: pd.DataFrame
    """``piece``, ``row`` and ``col`` of the zone's grid: pixels on the edge of the tile."""

    def take(self, chosen: np.ndarray) -> Pieces:
        """Return some of the pieces, chosen by bool (piece,)."""
        number = np.cumsum(chosen) - 1
        counts, border = (
            part[chosen[part["piece"]]].assign(piece=lambda kept: number[kept["piece"]])
            for part in (self.counts, self.border)
        )
        return Pieces(self.table[chosen].reset_index(drop=True), counts, border)

    def on_border(self) -> np.ndarray:
        """Flag the pieces that touch the edge of their tile, bool (piece,)."""
        flags = np.zeros(len(self.table), dtype=bool)
        flags[self.border["piece"]] = True
        return flags


def together(pieces: Iterable[Pieces]) -> Pieces:
    """Put pieces in one list, numbered on."""
    pieces = list(pieces)
    starts = np.cumsum([0, *(len(part.table) for part in pieces)])

    def numbered_on(parts: Iterable[pd.DataFrame]) -> pd.DataFrame:
        moved = [part.assign(piece=part["piece"] + start) for part, start in zip(parts, starts, strict=False)]
        return pd.concat(moved, ignore_index=True)

    table = pd.concat([part.table for part in pieces], ignore_index=True)
    return Pieces(table, numbered_on(part.counts for part in pieces), numbered_on(part.border for part in pieces))


# --- in one tile ----------------------------------------------------------------------------------------------


def cut_pieces(layers: Mapping[str, np.ndarray], tile: Tile, direction: str) -> Pieces:
    """Label the patches of a tile, outline them and add up what they hold.

    Parameters
    ----------
    layers : mapping of str to ndarray, shape (y, x)
        ``LAYERS`` of the tile's history.
    tile : Tile
    direction : str
        Of ``DIRECTIONS``.

    Returns
    -------
    Pieces
        In order of their first pixel.
    """
    years = layers[f"{direction}_year"]
    labels, sizes = label_patches((years > 0).view(np.uint8))
    count = len(sizes) - 1
    at = np.flatnonzero(labels)
    piece = labels.ravel()[at].astype(np.int64) - 1
    first = np.empty(count, dtype=np.int64)
    first[piece[::-1]] = at[::-1]  # of those written to one place the last stays: its first pixel

    def total(name: str) -> np.ndarray:  # whole numbers, exact in float64
        return np.bincount(piece, layers[name].ravel()[at], minlength=count).astype(np.int64)

    (top, left), width = tile.window[:2], tile.shape[1]
    table = pd.DataFrame(
        {
            "zone": np.full(count, tile.zone),
            "direction": np.full(count, direction, dtype=object),
            "grid_row": top + first // width,
            "grid_col": left + first % width,
            "pixels": sizes[1:],
            "area_ha": np.bincount(piece, pixel_hectares(tile)[at % width], minlength=count),
            "confidence": total("confidence"),
            "tide_suspect": total("tide_suspect"),
            "geometry": _outlines(labels, tile.geobox.transform, count),
        }
    )
    values = {"year": years, **{name: layers[name] for name in COUNTED[1:]}, "kind": _kinds(layers["kind"], direction)}
    counts = [_count(piece, values[name].ravel()[at], number) for number, name in enumerate(COUNTED)]
    rows, cols = np.divmod(at, width)
    edge = (rows == 0) | (rows == tile.shape[0] - 1) | (cols == 0) | (cols == width - 1)
    border = pd.DataFrame({"piece": piece[edge], "row": top + rows[edge], "col": left + cols[edge]})
    return Pieces(table, pd.concat(counts).sort_values(["piece", "counted", "value"], ignore_index=True), border)


def _kinds(kind: np.ndarray, direction: str) -> np.ndarray:
    """Return what happened to pixels as one direction tells it, uint8."""
    table = np.arange(256, dtype=np.uint8)
    table[list(_OTHER_WAY[direction])] = list(_OTHER_WAY[direction].values())
    return table[kind]


def _count(piece: np.ndarray, values: np.ndarray, counted: int) -> pd.DataFrame:
    """Count the pixels of each piece by value, of at most 16 bits."""
    keys, pixels = np.unique(piece << 16 | values, return_counts=True)
    return pd.DataFrame({"piece": keys >> 16, "counted": counted, "value": keys & 0xFFFF, "pixels": pixels})


def _outlines(labels: np.ndarray, transform: Affine, count: int) -> np.ndarray:
    """Return the MultiPolygon of each label, in order.

    Parts that share a side are one polygon, parts that share a corner are two: so each is valid.
    """
    found = features.shapes(labels.view(np.int32), mask=labels > 0, connectivity=4, transform=transform)
    polygons, owners = [], []
    while batch := list(islice(found, OUTLINED_AT_ONCE)):
        of_shape = [shape["coordinates"] for shape, _ in batch]
        rings = list(chain.from_iterable(of_shape))
        points = np.array(list(chain.from_iterable(rings)))
        closed = shapely.linearrings(points, indices=np.repeat(np.arange(len(rings)), list(map(len, rings))))
        polygons.append(shapely.polygons(closed, indices=np.repeat(np.arange(len(batch)), list(map(len, of_shape)))))
        owners.append(np.array([label for _, label in batch], dtype=np.int64) - 1)
    outlines = np.empty(count, dtype=object)
    if polygons:
        owner = np.concatenate(owners)
        order = np.argsort(owner, kind="stable")
        shapely.multipolygons(np.concatenate(polygons)[order], indices=owner[order], out=outlines)
    return outlines


def patch_areas(
    layers: Mapping[str, np.ndarray], large: np.ndarray, zones: np.ndarray, tile: Tile, area: Area
) -> pd.DataFrame:
    """Count one tile's pixels and hectares of lasting loss and gain, all of them and those of large patches.

    Parameters
    ----------
    layers : mapping of str to ndarray, shape (y, x)
        ``LAYERS``.
    large : ndarray of uint8, shape (y, x)
        Bit 1 where a loss is in a patch of the least area or more, bit 2 where a gain is.
    zones : ndarray of uint16, shape (y, x)
        Region or zone codes: 0 outside, otherwise 1 + index into ``area.regions``.
    tile : Tile
    area : Area
        Regions, or zones, that ``zones`` counts in.

    Returns
    -------
    DataFrame
        ``where``, ``direction``, ``code``, ``name`` of the kind, ``patches`` (``all`` or ``large``), ``pixels`` and
        ``hectares``; rows with pixels only.
    """
    hectares_of, kinds = pixel_hectares(tile), names(CHANGES)
    rows = []
    for direction, bit in DIRECTIONS.items():
        changed, kind = layers[f"{direction}_year"] > 0, _kinds(layers["kind"], direction)
        for which, chosen in (("all", changed), ("large", changed & (large & bit > 0))):
            inside = np.where(chosen, zones, np.uint16(0))
            pixels, hectares = tally(kind, inside, hectares_of, zone_count=len(area.regions))
            for zone, code in zip(*np.nonzero(pixels), strict=True):
                counted = int(pixels[zone, code]), float(hectares[zone, code])
                rows.append((area.regions[zone].name, direction, int(code), kinds[int(code)], which, *counted))
    return pd.DataFrame(rows, columns=list(AREAS))


# --- across tiles ---------------------------------------------------------------------------------------------


def join_pieces(pieces: Pieces) -> Pieces:
    """Join the pieces of all tiles of a zone that touch across edges of tiles, at corners too.

    Returns
    -------
    Pieces
        Whole patches. Sums do not depend on the order of the pieces.
    """
    count = len(pieces.table)
    if not count:
        return pieces
    joins = Joins(count)
    for direction in DIRECTIONS:
        one = pieces.border[(pieces.table["direction"] == direction).to_numpy()[pieces.border["piece"]]]
        owner = one["piece"].to_numpy()
        for here, there in _adjoining(one["row"].to_numpy(), one["col"].to_numpy()):
            joins.add(owner[here], owner[there])
    patch = np.unique(joins.roots(), return_inverse=True)[1]
    by_first = pieces.table.assign(patch=patch).sort_values(["patch", "grid_row", "grid_col"], kind="stable")
    table = by_first.groupby("patch").agg(
        **{name: (name, "first") for name in ("zone", *_ORDER)},
        **{name: (name, "sum") for name in ("pixels", "confidence", "tide_suspect")},
        area_ha=("area_ha", math.fsum),
        geometry=("geometry", lambda some: some.iloc[0] if len(some) == 1 else _united(some.to_numpy())),
    )
    moved = pieces.counts.assign(piece=patch[pieces.counts["piece"]])
    counts = moved.groupby(["piece", "counted", "value"])["pixels"].sum().reset_index()
    border = pieces.border.assign(piece=patch[pieces.border["piece"]])
    return Pieces(table.reset_index(drop=True), counts, border)


def _adjoining(rows: np.ndarray, cols: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield positions of pixels that touch, and of those they touch; each pixel is there once."""
    if not len(rows):
        return
    width = cols.max() - cols.min() + 3  # so that no column's neighbour is in another row
    keys = (rows - rows.min()) * width + cols - cols.min()
    order = np.argsort(keys)
    ordered = keys[order]
    for step in (1, width - 1, width, width + 1):
        at = np.minimum(np.searchsorted(ordered, keys + step), len(keys) - 1)
        here = np.flatnonzero(ordered[at] == keys + step)
        yield here, order[at[here]]


def _united(geometries: np.ndarray) -> shapely.MultiPolygon:
    union = shapely.union_all(geometries)
    return union if union.geom_type == "MultiPolygon" else shapely.MultiPolygon([union])


def finish_patches(pieces: Pieces, regions: Sequence[str], least_px: int) -> pa.Table:
    """Say of whole patches of a zone what ``SCHEMA`` holds.

    Parameters
    ----------
    pieces : Pieces
        Whole ones.
    regions : sequence of str
        Names of the area's regions.
    least_px : int
        Pixels from which a patch is large.

    Returns
    -------
    pyarrow.Table
        By direction and first pixel. Of an even number of pixels the median is the lower of the middle two; of kinds
        or regions with as many pixels the lowest code counts.
    """
    table, count = pieces.table, len(pieces.table)
    if not count:
        return SCHEMA.empty_table()
    year, kind, region, looks = (_spread(pieces.counts, number, count) for number in range(len(COUNTED)))
    known, named = names(CHANGES), np.array(["", *regions], dtype=object)
    pixels = table["pixels"].to_numpy()
    columns = {
        "direction": table["direction"],
        "kind": [known[code] for code in kind.most.tolist()],
        "year": year.median,
        "first_year": year.least,
        "last_year": year.greatest,
        "area_ha": table["area_ha"],
        "pixels": pixels,
        "large": pixels >= least_px,
        "confidence_pct": table["confidence"].to_numpy() / pixels,
        "looks": looks.median,
        "tide_suspect": table["tide_suspect"].to_numpy() / pixels,
        "region": named[region.most],
        **{name: table[name] for name in ("zone", "grid_row", "grid_col")},
        "geometry": shapely.to_wkb(_lonlat(table["geometry"].to_numpy(), int(table["zone"].iloc[0]))),
    }
    found = pa.table({name: pa.array(columns[name], SCHEMA.field(name).type) for name in SCHEMA.names})
    return _sorted(found)


def _sorted(table: pa.Table) -> pa.Table:
    return table.sort_by([(name, "ascending") for name in _ORDER])


@dataclass(frozen=True)
class _Spread:
    """Of the pixels of each piece."""

    median: np.ndarray
    least: np.ndarray
    greatest: np.ndarray
    most: np.ndarray
    """The commonest value."""


def _spread(counts: pd.DataFrame, counted: int, count: int) -> _Spread:
    piece, value, pixels = (
        counts.loc[counts["counted"] == counted, name].to_numpy() for name in ("piece", "value", "pixels")
    )
    starts = np.searchsorted(piece, np.arange(count))
    ends = np.searchsorted(piece, np.arange(count), side="right")
    up_to = np.cumsum(pixels)
    before = up_to[starts] - pixels[starts]
    middle = before + (up_to[ends - 1] - before + 1) // 2
    by_pixels = np.lexsort((value, -pixels, piece))
    return _Spread(value[np.searchsorted(up_to, middle)], value[starts], value[ends - 1], value[by_pixels[starts]])


def _lonlat(geometries: np.ndarray, zone: int) -> np.ndarray:
    """Return outlines in degrees, cut where a pixel reaches over the antimeridian."""

    def degrees(xy: np.ndarray) -> np.ndarray:
        return np.column_stack(to_zone(zone).transform(xy[:, 0], xy[:, 1], direction="INVERSE"))

    turned = shapely.transform(geometries, degrees)
    bounds = shapely.bounds(turned)
    for across in np.flatnonzero(bounds[:, 2] - bounds[:, 0] > 180):
        turned[across] = wrap(turned[across])
    return turned


# --- files ----------------------------------------------------------------------------------------------------


def edges_path(part: Place) -> Place:
    """Return the file of the pieces at a tile's edges, beside that of its whole patches."""
    return part.with_name(f"{part.stem}-edges.parquet")


def write_pieces(part: Place, pieces: Iterable[Pieces], regions: Sequence[str], least_px: int) -> None:
    """Write a tile's patches: those that end inside it as they will be, and the pieces at its edges beside.

    Parameters
    ----------
    part : Place
        The ``.parquet``.
    pieces : iterable of Pieces
        Of one direction after the other, as ``DIRECTIONS`` has them; one is held at a time.
    regions, least_px
        As ``finish_patches`` takes them.

    Raises
    ------
    StoreError
        If they cannot be written.
    """
    edges = []
    with replacing(part) as temporary, pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer:
        for some in pieces:
            edge = some.on_border()
            writer.write_table(finish_patches(some.take(~edge), regions, least_px))
            edges.append(some.take(edge))
            del some
    rest = together(edges)
    count = len(rest.table)
    table = rest.table.assign(geometry=shapely.to_wkb(rest.table["geometry"].to_numpy()))
    columns = {name: pa.array(table[name]) for name in table} | {
        f"{of}_{name}": _listed(owned, name, count)
        for of, owned in (("counts", rest.counts), ("border", rest.border))
        for name in owned.columns.drop("piece")
    }
    with replacing(edges_path(part)) as temporary:
        pq.write_table(pa.table(columns), temporary, compression="zstd")


def _listed(owned: pd.DataFrame, name: str, count: int) -> pa.ListArray:
    """Return a column as one list a piece."""
    ordered = owned.sort_values("piece", kind="stable")
    offsets = np.searchsorted(ordered["piece"], np.arange(count + 1)).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(ordered[name].to_numpy(dtype=np.int64)))


def read_edges(part: Place) -> Pieces:
    """Read the pieces at a tile's edges, as ``write_pieces`` wrote them.

    Raises
    ------
    StoreError
        If they cannot be read.
    """
    found = _read(edges_path(part))
    table = found.select([*_CARRIED, "geometry"]).to_pandas()
    table["geometry"] = shapely.from_wkb(table["geometry"].to_numpy(dtype=object))
    owned = []
    for of, columns in (("counts", ("counted", "value", "pixels")), ("border", ("row", "col"))):
        lists = {name: found[f"{of}_{name}"].combine_chunks() for name in columns}
        lengths = lists[columns[0]].value_lengths().to_numpy(zero_copy_only=False)
        parts = {name: some.flatten().to_numpy(zero_copy_only=False) for name, some in lists.items()}
        owned.append(pd.DataFrame({"piece": np.repeat(np.arange(found.num_rows), lengths), **parts}))
    return Pieces(table, *owned)


def _read(path: Place) -> pa.Table:
    try:
        return pq.read_table(BytesIO(path.read_bytes()) if isinstance(path, ObjectPath) else path)
    except pa.ArrowInvalid as error:
        raise StoreError(f"{path} is damaged ({error})", fix="delete it and run the same command again") from error
    except OSError as error:
        raise cannot_read(path, error) from error


def join_tiles(parts: Mapping[Tile, Place], regions: Sequence[str], least_px: int) -> Iterator[pa.Table]:
    """Yield the patches of each tile, those with the first pixel in it among them; of one zone after the other.

    At a time memory holds the pieces at the edges of one zone, and the patches of one tile.

    Parameters
    ----------
    parts : mapping of Tile to Place
        Files of ``write_pieces``; in any order.
    regions, least_px
        As given to ``write_pieces``.
    """
    for _, of_zone in groupby(sorted(parts), key=lambda tile: tile.zone):
        tiles = list(of_zone)
        joined = finish_patches(join_pieces(together(read_edges(parts[tile]) for tile in tiles)), regions, least_px)
        rows, cols = joined["grid_row"].to_numpy(), joined["grid_col"].to_numpy()
        for tile in tiles:
            row, col, height, width = tile.window
            inside = (rows >= row) & (rows < row + height) & (cols >= col) & (cols < col + width)
            yield _sorted(pa.concat_tables([_read(parts[tile]), joined.filter(pa.array(inside))]))


def write_joined(path: Place, tables: Iterable[pa.Table], about: Mapping[str, str]) -> pd.DataFrame:
    """Write patches as GeoParquet 1.1, a table at a time.

    Parameters
    ----------
    path : Place
    tables : iterable of pyarrow.Table
        Of ``SCHEMA``, as ``join_tiles`` yields them.
    about : mapping of str to str
        Further columns that are the same in every row: ``method``, ``notice``.

    Returns
    -------
    DataFrame
        By ``direction`` and ``large``: ``patches``, ``pixels`` and ``hectares``.

    Raises
    ------
    StoreError
        If it cannot be written.
    """
    column = {"encoding": "WKB", "geometry_types": ["MultiPolygon"], "crs": CRS.from_epsg(4326).to_json_dict()}
    described = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
    fields = [*SCHEMA, *(pa.field(name, pa.string()) for name in about)]
    schema = pa.schema(fields, metadata={"geo": json.dumps(described)})
    sums = []
    with replacing(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for table in tables:
            if not table.num_rows:
                continue
            sums.append(_sums(table.select(["direction", "large", "pixels", "area_ha"]).to_pandas().assign(patches=1)))
            for name, text in about.items():
                table = table.append_column(name, pa.array([text] * table.num_rows))
            writer.write_table(table.replace_schema_metadata(schema.metadata))
    if not sums:
        return pd.DataFrame(columns=["direction", "large", "patches", "pixels", "hectares"])
    return _sums(pd.concat(sums)).rename(columns={"area_ha": "hectares"})


def _sums(table: pd.DataFrame) -> pd.DataFrame:
    grouped = table.groupby(["direction", "large"], as_index=False)
    return grouped.agg(patches=("patches", "sum"), pixels=("pixels", "sum"), area_ha=("area_ha", math.fsum))
