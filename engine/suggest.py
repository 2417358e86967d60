"""Where a label would help a classifier most: a pool of doubtful pixels of every tile, and a few of them all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import geopandas as gpd
import numpy as np
import pandas as pd
from scipy.spatial import cKDTree
from shapely.geometry import MultiPolygon, Polygon

from engine.grid import PIXEL_M, Tile, lonlat_of
from engine.kernels.bins import MISSING_CODE, encode
from engine.kernels.draw import pixel_hash, smallest
from engine.kernels.suggest import choose_diverse, draw_keys, entropy
from engine.rows import feature_values

POOL: Final = 20_000
"""Candidates at most, of all tiles together and of each."""

LABELLED: Final = 4_000
"""Labelled rows that suggestions keep away from, at most."""

REASONS: Final = ("year", "probability", "uncertainty", "feature_distance", "labelled_m")
"""Columns that say why a point is suggested: entropy in bits; distance in features, each from 0 to 1 by its rank in the
training sample, to what is labelled or suggested before; metres to the nearest labelled pixel of its tile."""

_HASHED_AT_ONCE: Final = 2**18


class Pool(NamedTuple):
    """Candidates, and labelled rows, of some tiles."""

    candidates: pd.DataFrame
    """zone, row, col (of the grid), region, probability (uint16), key, labelled_m."""

    codes: np.ndarray
    """uint8 (candidate, feature), of the model's bins."""

    labelled: np.ndarray
    """uint8 (row, feature)."""

    hashes: np.ndarray
    """uint64 (row,): of labelled rows, by which some are kept."""


def draw_pool(
    probability: np.ndarray, open_to: np.ndarray, regions: np.ndarray, names: Sequence[str], tile: Tile, *, seed: int
) -> pd.DataFrame:
    """Draw candidates of one tile, the likelier the less sure the map is.

    Parameters
    ----------
    probability : ndarray of uint16, shape (y, x)
        Of mangrove x 10 000.
    open_to : ndarray of bool, shape (y, x)
        Pixels that may be suggested; all of them classified.
    regions : ndarray of uint16, shape (y, x)
    names : sequence of str
        Of regions.
    tile : Tile
    seed : int

    Returns
    -------
    DataFrame
        Columns zone, row, col, region, probability, key; by falling key, at most ``POOL``.
    """
    flat = np.flatnonzero(open_to)
    kept, keys = np.empty(0, np.int64), np.empty(0, np.float64)
    top, left = tile.window[:2]
    for first in range(0, flat.size, _HASHED_AT_ONCE):
        some = flat[first : first + _HASHED_AT_ONCE]
        y, x = np.divmod(some, tile.shape[1])
        found = draw_keys(pixel_hash(seed, tile.zone, y + top, x + left), entropy(probability[y, x]))
        kept, keys = np.concatenate([kept, some]), np.concatenate([keys, found])
        best = np.argsort(-keys, kind="stable")[:POOL]
        best = best[np.isfinite(keys[best])]
        kept, keys = kept[best], keys[best]
    y, x = np.divmod(kept, tile.shape[1])
    return pd.DataFrame(
        {
            "zone": np.full(y.size, tile.zone, np.int16),
            "row": (y + top).astype(np.int32),
            "col": (x + left).astype(np.int32),
            "region": np.array(["", *names], dtype=object)[regions[y, x]],
            "probability": probability[y, x],
            "key": keys,
        }
    )


def labelled_rows(sample: pd.DataFrame, features: Sequence[str], edges: Sequence[np.ndarray], seed: int) -> tuple:
    """Return codes and hashes of some rows of a sample part: those of smallest hash."""
    plain = sample[~sample["thinned"].to_numpy(bool)]
    zone = int(plain["zone"].iloc[0]) if len(plain) else 1
    hashes = pixel_hash(seed, zone, plain["grid_row"].to_numpy(np.int64), plain["grid_col"].to_numpy(np.int64))
    best = smallest(hashes, LABELLED)
    return encode(feature_values(plain.iloc[best], features), edges).T, hashes[best]


def metres_to(sample: pd.DataFrame, candidates: pd.DataFrame) -> np.ndarray:
    """Return how far candidates of a tile lie from the nearest row of its sample, float64; infinite without one."""
    if sample.empty:
        return np.full(len(candidates), np.inf)
    tree = cKDTree(sample[["grid_row", "grid_col"]].to_numpy(np.float64) * PIXEL_M)
    return tree.query(candidates[["row", "col"]].to_numpy(np.float64) * PIXEL_M)[0]


def join_pools(pools: Iterable[Pool]) -> Pool:
    """Join the pools of tiles into one no larger than the largest may be; their order does not matter."""
    whole: Pool | None = None
    for pool in pools:
        whole = pool if whole is None else _join(whole, pool)
    if whole is None:
        raise ValueError("there is no pool to join")
    return whole


def _join(one: Pool, other: Pool) -> Pool:
    frame = pd.concat([one.candidates, other.candidates], ignore_index=True)
    order = np.lexsort([frame["col"], frame["row"], frame["zone"], -frame["key"]])[:POOL]
    hashes = np.concatenate([one.hashes, other.hashes])
    best = smallest(hashes, LABELLED)
    return Pool(
        frame.iloc[order].reset_index(drop=True),
        np.concatenate([one.codes, other.codes])[order],
        np.concatenate([one.labelled, other.labelled])[best],
        hashes[best],
    )


def suggest_points(
    pool: Pool, edges: Sequence[np.ndarray], *, year: int, count: int, spacing_m: float
) -> gpd.GeoDataFrame:
    """Choose among candidates those whose label would help most, the most helpful first.

    Parameters
    ----------
    pool : Pool
        Of ``join_pools``.
    edges : sequence of ndarray
        Bin edges of the model's features.
    year : int
        Of the map.
    count : int
    spacing_m : float

    Returns
    -------
    GeoDataFrame
        Points at pixel centres, EPSG:4326; columns lon, lat, zone, row, col, region, and ``REASONS``.
    """
    frame = pool.candidates
    lon, lat = np.empty(len(frame)), np.empty(len(frame))
    for zone in frame["zone"].unique():
        here = (frame["zone"] == zone).to_numpy()
        places = (frame.loc[here, name].to_numpy(np.int64) for name in ("row", "col"))
        lon[here], lat[here] = lonlat_of(int(zone), *places)
    doubt = entropy(frame["probability"].to_numpy(np.uint16))
    chosen, distance = choose_diverse(
        _ranks(pool.codes, edges),
        doubt,
        np.column_stack([lon, lat]),
        _ranks(pool.labelled, edges),
        count=count,
        spacing_m=spacing_m,
    )
    some = frame.iloc[chosen]
    table = some[["zone", "row", "col", "region"]].assign(
        lon=lon[chosen],
        lat=lat[chosen],
        year=year,
        probability=some["probability"] / 10_000,
        uncertainty=doubt[chosen].round(4),
        feature_distance=distance,
        labelled_m=some["labelled_m"].round(1),
    )
    points = gpd.points_from_xy(table["lon"], table["lat"])
    return gpd.GeoDataFrame(table.reset_index(drop=True), geometry=points, crs="EPSG:4326")


def _ranks(codes: np.ndarray, edges: Sequence[np.ndarray]) -> np.ndarray:
    """Return features from 0 to 1, by their rank in the training sample; a missing one lies in the middle."""
    scale = np.array([max(1, len(edge)) for edge in edges], np.float32)
    return np.where(codes == MISSING_CODE, np.float32(0.5), codes / scale).astype(np.float32)


def pixel_squares(zone: np.ndarray, row: np.ndarray, col: np.ndarray) -> list[MultiPolygon]:
    """Return the squares of pixels of the grid, in degrees: their middle half, which holds no other pixel's centre."""
    corners = np.array([[-0.25, -0.25], [-0.25, 0.25], [0.25, 0.25], [0.25, -0.25]])
    squares = []
    for one, down, right in zip(zone, row, col, strict=True):
        lon, lat = lonlat_of(int(one), down + corners[:, 0], right + corners[:, 1])
        squares.append(MultiPolygon([Polygon(np.column_stack([lon, lat]))]))
    return squares
