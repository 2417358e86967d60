"""Draw training and hold-out pixels: per tile and year a seeded draw, in strata of region and class.

Rows are drawn from *all* observed, labelled pixels of the area, class edges included, because the hold-out
is scored un-eroded; the column ``interior`` lets training leave the edges out. ``weight`` is one over the
probability that a pixel of the row's stratum is drawn, so weighted sums stand for the whole map. ``why`` says in
words what a row is there for.

A year with few looks has other composites than one with many. With ``sample.thinned`` the pixels drawn are seen once
more, or several times, in composites of some looks only. These rows are marked ``thinned`` and carry the weight of
their pixel: one pixel drawn has up to 1 + ``thinned`` rows of one weight. So whoever adds up weights as land (scores,
areas, prevalence) takes the rows that are not thinned, which are complete by themselves; whoever fits a model takes
all, where only the ratio of weights matters.
"""

from __future__ import annotations

import hashlib
import math
import re
import secrets
from collections.abc import Iterable, Sequence
from functools import lru_cache
from io import BytesIO
from typing import Final

import dask
import dask.dataframe
import dask_geopandas
import geopandas as gpd
import numpy as np
import pandas as pd
from pyproj import Geod
from shapely.geometry.base import BaseGeometry

from engine.area import Area
from engine.errors import SampleError
from engine.files import replacing
from engine.grid import PIXEL_M, Tile, is_tile_id, lonlat_of
from engine.kernels.draw import pixel_hash, smallest, with_probability
from engine.legend import CLASSES, MANGROVE, OTHER, names
from engine.params import SampleParams
from engine.places import ObjectPath, Place, each, entries

STUDY_POSITIONS: Final = {MANGROVE: 10_000, OTHER: 1_000}
"""Positions the published study drew uniformly over a region, kept where they fell on this class
(aws-samples/mangrove-landcover-classification: ``numPixels`` of the image masked to mangrove, and to other)."""

THINNED_LOOKS: Final = (3, 30)
"""Fewest and most looks of a thinned composite: below 3 a year counts as poorly observed, and beyond 30 more looks
change little."""

_HASHED_AT_ONCE: Final = 2**18
"""Pixels: a hash takes a dozen words of memory on its way, 400 MB for a whole tile."""

_PART: Final = re.compile(r"z.*_c.*_r.*_.*\.parquet")

EDGE: Final = "; at a class edge: not trained on"
"""Ends ``why`` of a row that is not interior."""

CLASS_NAMES: Final = {code: names(CLASSES)[code] for code in (MANGROVE, OTHER)}


def draw_tile(
    features: np.ndarray,
    feature_names: Sequence[str],
    labels: np.ndarray,
    interior: np.ndarray,
    regions: np.ndarray,
    tile: Tile,
    *,
    year: int,
    mask_year: int,
    area: Area,
    params: SampleParams,
    seed: int,
    valid: np.ndarray,
    clear_count: np.ndarray,
    sensor: str,
    looks: int,
) -> gpd.GeoDataFrame:
    """Draw the sample of one tile-year.

    By the ``stratified`` rule the stratum of a region and class gives its n pixels of smallest hash, and
    weighs each N / n, N counting its observed, labelled pixels: the weights of a stratum sum to N. By the
    ``study`` rule a position is drawn with the probability 10 000 (mangrove) or 1 000 (other) over the number
    of pixels of its region, whatever covers it, and weighs one over that; as with Earth Engine's
    ``numPixels``, how many fall on a class is left to chance. Neither depends on blocks, workers or order.

    Parameters
    ----------
    features : ndarray of int32, shape (feature, y, x)
    feature_names : sequence of str
        Column names, in the order of ``features``.
    labels : ndarray of uint8, shape (y, x)
        0 unknown, 1 other, 2 mangrove.
    interior : ndarray of bool, shape (y, x)
        True away from class edges.
    regions : ndarray of uint16, shape (y, x)
        0 outside the area, 1 + index into ``area.regions``.
    tile : Tile
    year, mask_year : int
        Of the imagery and of the mask.
    area : Area
    params : SampleParams
    seed : int
    valid : ndarray of bool, shape (y, x)
        True where the composite is observed (and, where a habitat limit is set, inside it).
    clear_count : ndarray of uint16, shape (y, x)
        Clear looks of the composite.
    sensor : str
        Platforms of its looks, see ``sensor_names``.
    looks : int
        Looks it was made of.

    Returns
    -------
    GeoDataFrame
        One row a pixel, ordered by grid row and column; may be empty. Columns: the features (int32), label
        (uint8), weight (float64, pixels), region, tile (str), year, mask_year, mask_year_gap (int16),
        grid_row, grid_col (int32), zone (uint8), interior (bool), lon, lat (float64, degrees), sensor (str), looks,
        clear_count (int16), thinned (bool, all False), why (str), geometry (points, EPSG:4326).

    Raises
    ------
    ValueError
        If an array does not have the tile's shape.
    """
    if features.shape != (len(feature_names), *tile.shape):
        raise ValueError(f"features must be {(len(feature_names), *tile.shape)}, got {features.shape}")
    layers = {"labels": labels, "interior": interior, "regions": regions, "valid": valid, "clear_count": clear_count}
    for name, array in layers.items():
        if array.shape != tile.shape:
            raise ValueError(f"{name} must be {tile.shape} as the tile, got {array.shape}")
    eligible = np.where(valid, regions, 0)
    strata = [
        _draw_stratum(np.flatnonzero((eligible == code) & (labels == label)), code, label, tile, area, params, seed)
        for code in np.unique(eligible[eligible > 0])
        for label in (OTHER, MANGROVE)
    ]
    sizes = [chosen.size for chosen, _, _ in strata]
    flat = np.concatenate([np.empty(0, "int64"), *(chosen for chosen, _, _ in strata)])
    weight = np.repeat(np.array([weight for _, weight, _ in strata], "float64"), sizes)
    why = np.repeat(np.array([why for _, _, why in strata], dtype=object), sizes)
    order = np.argsort(flat)
    flat, weight, why = flat[order], weight[order], why[order]
    y, x = np.divmod(flat, tile.shape[1])
    rows, cols = y + tile.window[0], x + tile.window[1]
    lon, lat = lonlat_of(tile.zone, rows, cols)
    region_names = np.array([""] + [region.name for region in area.regions], dtype=object)
    values = features[:, y, x]
    size = flat.size
    columns = {name: values[index].astype("int32") for index, name in enumerate(feature_names)} | {
        "label": labels[y, x].astype("uint8"),
        "weight": weight,
        "region": region_names[regions[y, x]],
        "tile": np.full(size, tile.id, dtype=object),
        "year": np.full(size, year, "int16"),
        "mask_year": np.full(size, mask_year, "int16"),
        "mask_year_gap": np.full(size, year - mask_year, "int16"),
        "grid_row": rows.astype("int32"),
        "grid_col": cols.astype("int32"),
        "zone": np.full(size, tile.zone, "uint8"),
        "interior": interior[y, x].astype(bool),
        "lon": np.asarray(lon, "float64"),
        "lat": np.asarray(lat, "float64"),
        "sensor": np.full(size, sensor, dtype=object),
        "looks": np.full(size, looks, "int16"),
        "clear_count": _as_int16(clear_count[y, x]),
        "thinned": np.zeros(size, bool),
        "why": np.where(interior[y, x], why, why + EDGE),
    }
    return gpd.GeoDataFrame(columns, geometry=gpd.points_from_xy(lon, lat), crs="EPSG:4326")


def _draw_stratum(
    flat: np.ndarray, code: int, label: int, tile: Tile, area: Area, params: SampleParams, seed: int
) -> tuple[np.ndarray, float, str]:
    """Choose among the flat pixel indices of one region and class; also the weight of each chosen, and why it is."""
    hashes = np.empty(flat.size, "uint64")
    for first in range(0, flat.size, _HASHED_AT_ONCE):
        some = slice(first, first + _HASHED_AT_ONCE)
        y, x = np.divmod(flat[some], tile.shape[1])
        hashes[some] = pixel_hash(seed, tile.zone, y + tile.window[0], x + tile.window[1])
    region, name = area.regions[code - 1], CLASS_NAMES[label]
    if params.rule == "study":
        pixels = _region_pixels(region.geometry)
        probability = min(1.0, STUDY_POSITIONS[label] / pixels)
        why = f"study: uniform position, one of {STUDY_POSITIONS[label]} over {region.name}, kept as {name}"
        return flat[with_probability(hashes, probability)], 1 / probability, why
    wanted = params.mangrove if label == MANGROVE else params.other
    # Rounded first: a tenth of 30 is a little more than 3 in floating point.
    n = math.ceil(round(wanted * flat.size, 6)) if wanted <= 1 else int(wanted)
    chosen = flat[smallest(hashes, n)]
    number = f"{chosen.size} of" if chosen.size < flat.size else "all"
    why = f"stratified: {number} {flat.size} {name} px of {region.name} in this tile and year"
    return chosen, flat.size / max(chosen.size, 1), why


def thin_looks(looks: Sequence[str], *, seed: int, tile: str, year: int, number: int) -> tuple[str, ...]:
    """Choose the looks of a thinned composite at random.

    How many is log-uniform from 3 to 30, and to one less than there are: as many composites have 3 to 5 looks as have
    12 to 23. Which, and how many, depends on nothing but what is given here.

    Parameters
    ----------
    looks : sequence of str
        Observation keys of a tile-year, in order.
    seed : int
    tile : str
    year : int
    number : int
        Of the thinned composite, from 1.

    Returns
    -------
    tuple of str
        In order; none where there are no more than 3.

    Examples
    --------
    >>> days = [f"landsat-8_125053_2019{day:04d}" for day in range(1, 14)]
    >>> [len(thin_looks(days, seed=1, tile="z48_c08_r-016", year=2019, number=number)) for number in (1, 2, 3, 4)]
    [10, 5, 10, 6]
    """
    fewest, most = THINNED_LOOKS
    most = min(most, len(looks) - 1)
    if most < fewest:
        return ()

    def number_of(what: str) -> int:
        text = f"{seed} {tile} {year} {number} {what}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])

    share = number_of("looks") / 2**64
    count = min(most, int(fewest * ((most + 1) / fewest) ** share))
    chosen = set(sorted(looks, key=number_of)[:count])
    return tuple(look for look in looks if look in chosen)


def thinned_rows(
    drawn: gpd.GeoDataFrame,
    features: np.ndarray,
    feature_names: Sequence[str],
    clear_count: np.ndarray,
    *,
    sensor: str,
    looks: int,
) -> gpd.GeoDataFrame:
    """Return the rows of a tile-year once more, as a thinned composite shows their pixels.

    Parameters
    ----------
    drawn : GeoDataFrame
        From ``draw_tile``.
    features : ndarray of int32, shape (feature, row)
        Of the thinned composite.
    feature_names : sequence of str
    clear_count : ndarray of uint16, shape (row,)
        Its clear looks; a row without any is left out.
    sensor, looks
        Of the thinned composite, as of ``draw_tile``.

    Returns
    -------
    GeoDataFrame
        Columns, order and weights of ``drawn``; ``thinned`` is True.
    """
    seen = clear_count > 0
    rows = drawn[seen].reset_index(drop=True)
    why = rows["why"] + f"; thinned: composite of {looks} of its " + rows["looks"].astype(str) + " looks"
    values = {name: features[index, seen].astype("int32") for index, name in enumerate(feature_names)}
    return rows.assign(
        **values,
        sensor=np.full(len(rows), sensor, dtype=object),
        looks=np.full(len(rows), looks, "int16"),
        clear_count=_as_int16(clear_count[seen]),
        thinned=np.ones(len(rows), bool),
        why=why.astype(object),
    )


def sensor_names(platforms: Iterable[str]) -> str:
    """Return platforms as a table names them, each once and in order.

    Examples
    --------
    >>> sensor_names(["landsat-9", "landsat-8", "landsat-9"])
    'L8+L9'
    """
    return "+".join(sorted({platform.replace("landsat-", "L") for platform in platforms}))


def _as_int16(counts: np.ndarray) -> np.ndarray:
    return np.minimum(counts, np.iinfo(np.int16).max).astype(np.int16)


@lru_cache(maxsize=256)
def _region_pixels(geometry: BaseGeometry) -> float:
    """Return a region's ellipsoidal area in pixels: every task knows it without asking the others."""
    square_metres, _ = Geod(ellps="WGS84").geometry_area_perimeter(geometry.segmentize(0.1))
    return abs(square_metres) / PIXEL_M**2


def part_path(folder: Place, tile: str, year: int) -> Place:
    """Return where the sample of a tile-year is written.

    Examples
    --------
    >>> from pathlib import Path
    >>> part_path(Path("sample"), "z48_c08_r-016", 2019).name
    'z48_c08_r-016_2019.parquet'
    """
    if not is_tile_id(tile):
        raise ValueError(f"tile must be a tile id, got {tile!r}")
    return folder / f"{tile}_{year:04d}.parquet"


def write_part(frame: gpd.GeoDataFrame, folder: Place, *, tile: str, year: int) -> Place:
    """Write the sample of one tile-year as GeoParquet, whole or not at all; also an empty one, as a sign it is done.

    Raises
    ------
    StoreError
        If the folder cannot be written.
    """
    path = part_path(folder, tile, year)
    with replacing(path) as temporary:
        frame.to_parquet(temporary, compression="zstd", index=False)
    return path


def read_sample(folder: Place, instead: Place | None = None) -> dask_geopandas.GeoDataFrame:
    """Open all parts of a sample lazily, one partition each, in the order of tile and year.

    Parameters
    ----------
    folder : Path or ObjectPath
    instead : Path or ObjectPath, optional
        Folder of parts that stand in place of those of their tile and year, or beside the others.

    Raises
    ------
    SampleError
        If the folder holds none.
    """
    folders = (folder,) if instead is None else (folder, instead)
    found = {path.name: path for one in folders for path in entries(one)[1] if _PART.fullmatch(path.name)}
    parts = [found[name] for name in sorted(found)]
    if not parts:
        raise SampleError(f"{folder} holds no sample", fix="run the sample step first")
    meta = read_part(parts[0]).iloc[:0]
    # A name of its own: what is drawn anew lies at the same place, and may not be taken for what a cluster still holds.
    with dask.config.set({"dataframe.convert-string": False}):  # columns as they were drawn
        return dask.dataframe.from_map(read_part, parts, meta=meta, label=f"sample-{secrets.token_hex(8)}")


def years_and_sensors(folder: Place) -> tuple[list[int], list[str]]:
    """Return the years of the imagery of a sample and the sensors that made it, each ascending."""
    parts = [path for path in entries(folder)[1] if _PART.fullmatch(path.name)]
    tables = each(lambda path: read_part(path, ["year", "sensor"]).drop_duplicates(), parts, within=folder)
    seen = pd.concat(tables)
    sensors = {one for joined in seen["sensor"].astype(str) for one in joined.split("+") if one}
    return sorted(int(year) for year in set(seen["year"])), sorted(sensors)


def read_part(path: Place, columns: Sequence[str] | None = None) -> pd.DataFrame:
    source = BytesIO(path.read_bytes()) if isinstance(path, ObjectPath) else path
    with_geometry = columns is None or "geometry" in columns
    return (gpd if with_geometry else pd).read_parquet(source, columns=columns)


def count_by(frame: gpd.GeoDataFrame | dask_geopandas.GeoDataFrame) -> pd.DataFrame:
    """Count the rows of each class and region, and the pixels they stand for; thinned rows apart.

    Returns
    -------
    DataFrame
        Index region, sorted; columns ``mangrove``, ``other`` (rows) and ``mangrove_px``, ``other_px`` (sum of
        weights, pixel-years) of what is not thinned, and ``thinned`` (rows).
    """
    columns = frame[["region", "label", "weight", "thinned"]]
    if isinstance(frame, dask_geopandas.GeoDataFrame):
        columns = columns.compute()
    thinned, columns = columns[columns["thinned"]], columns[~columns["thinned"]]
    counts = pd.DataFrame(index=pd.Index(sorted(set(columns["region"])), name="region", dtype=object))
    for suffix, total in (("", "size"), ("_px", "sum")):
        for code, name in CLASS_NAMES.items():
            weights = columns.loc[columns["label"] == code].groupby("region")["weight"]
            counts[name + suffix] = weights.agg(total).reindex(counts.index, fill_value=0)
    counts["thinned"] = thinned.groupby("region").size().reindex(counts.index, fill_value=0)
    return counts


def check_sample(counts: pd.DataFrame) -> None:
    """Refuse a sample no classifier can be fitted to.

    Parameters
    ----------
    counts : DataFrame
        From ``count_by``.

    Raises
    ------
    SampleError
        If there is no mangrove anywhere, or nothing else.
    """
    rows = counts[list(CLASS_NAMES.values())].sum()
    if rows.sum() == 0:
        raise SampleError(
            "the sample is empty: no labelled pixel was observed",
            fix="check that the masks cover the area and that the cube has clear looks",
        )
    for name in CLASS_NAMES.values():
        if rows[name] == 0:
            raise SampleError(
                f"the sample of {int(rows.sum())} rows has no {name} pixel anywhere",
                fix="check labels.masks (value, background, year) or widen the area",
            )
