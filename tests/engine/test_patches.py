"""Patches of change are those of the whole raster, however it lies in tiles; joining takes memory for edges only."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from itertools import product
from unittest import mock

import dask_geopandas
import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from engine.area import Area, Region
from engine.errors import StoreError
from engine.grid import EDGE_M, PIXEL_M, Tile, pixel_hectares, to_zone
from engine.kernels.history import tell_history
from engine.legend import (
    CHANGES,
    GAIN,
    GAIN_THEN_LOSS,
    LOSS,
    LOSS_THEN_GAIN,
    PROVISIONAL_GAIN,
    PROVISIONAL_LOSS,
    names,
)
from engine.patches import (
    DIRECTIONS,
    SCHEMA,
    cut_pieces,
    edges_path,
    finish_patches,
    join_pieces,
    join_tiles,
    patch_areas,
    read_edges,
    together,
    write_joined,
    write_pieces,
)
from tests.engine.histories import crop, large_flags, random_history

EIGHT = np.ones((3, 3))
REGIONS = ("north", "south")
LEAST_PX = 4
CORNER = (-15 * 2048, 9 * 2048)
"""Grid row and column at which four tiles of zone 48 meet."""


def tiles_over(corner: tuple[int, int], shape: tuple[int, int], side: int) -> list[Tile]:
    """Return the tiles over a raster, were tiles of ``side`` pixels; to be called where they are."""
    tiles = []
    for row, col in product(
        *(range(at // side, (at + n - 1) // side + 1) for at, n in zip(corner, shape, strict=True))
    ):
        top, left = max(corner[0], row * side), max(corner[1], col * side)
        bottom, right = min(corner[0] + shape[0], (row + 1) * side), min(corner[1] + shape[1], (col + 1) * side)
        tiles.append(Tile(48, col, row, (top, left, bottom - top, right - left)))
    return tiles


def joined(layers: dict[str, np.ndarray], tiles: Sequence[Tile], corner: tuple[int, int]) -> pd.DataFrame:
    """Return the patches of a raster cut into tiles, with their outlines in metres."""
    cut = [cut_pieces(crop(layers, tile, corner), tile, direction) for tile in tiles for direction in DIRECTIONS]
    pieces = join_pieces(together(cut))
    outlines = pieces.table.sort_values(["direction", "grid_row", "grid_col"])["geometry"].to_numpy()
    return finish_patches(pieces, REGIONS, LEAST_PX).to_pandas().assign(geometry=outlines)


def told_as(kind: np.ndarray, direction: str) -> np.ndarray:
    """Return kinds of changed pixels as they are told of one direction."""
    kind = kind.astype(int)
    if direction == "loss":
        return np.select([kind == GAIN, kind == PROVISIONAL_GAIN], [GAIN_THEN_LOSS, PROVISIONAL_LOSS], kind)
    return np.select([kind == LOSS, kind == PROVISIONAL_LOSS], [LOSS_THEN_GAIN, PROVISIONAL_GAIN], kind)


def expected(layers: dict[str, np.ndarray], tile: Tile) -> pd.DataFrame:
    """Return what scipy and plain numpy say of the patches of a raster that is one tile."""
    rows = []
    hectares = np.broadcast_to(pixel_hectares(tile), tile.shape)
    for direction in ("gain", "loss"):
        years = layers[f"{direction}_year"]
        labels, count = ndimage.label(years > 0, EIGHT)
        for label in range(1, count + 1):
            own = labels == label
            row, col = np.argwhere(own)[0]
            number = int(own.sum())
            rows.append(
                {
                    "direction": direction,
                    "kind": names(CHANGES)[int(np.bincount(told_as(layers["kind"][own], direction)).argmax())],
                    "year": np.sort(years[own])[(number - 1) // 2],
                    "first_year": years[own].min(),
                    "last_year": years[own].max(),
                    "area_ha": hectares[own].sum(),
                    "pixels": number,
                    "large": number >= LEAST_PX,
                    "confidence_pct": layers["confidence"][own].mean(),
                    "looks": np.sort(layers["looks"][own])[(number - 1) // 2],
                    "tide_suspect": layers["tide_suspect"][own].mean(),
                    "region": REGIONS[int(np.bincount(layers["region"][own]).argmax()) - 1],
                    "zone": 48,
                    "grid_row": tile.window[0] + row,
                    "grid_col": tile.window[1] + col,
                }
            )
    ordered = pd.DataFrame(rows, columns=SCHEMA.names[:-1]).sort_values(["direction", "grid_row", "grid_col"])
    return ordered.reset_index(drop=True)


@settings(max_examples=25)
@given(st.integers(0, 2**32), st.tuples(st.integers(1, 14), st.integers(1, 14)), st.integers(3, 9), st.floats(0.0, 0.6))
def test_tiles_give_the_patches_of_the_whole_raster(seed, shape, side, share):
    rng = np.random.default_rng(seed)
    layers = random_history(rng, shape, share)
    corner = (CORNER[0] - int(rng.integers(9)), CORNER[1] + int(rng.integers(9)))
    with mock.patch("engine.grid.TILE_PX", side):
        tiles = tiles_over(corner, shape, side)
        found = joined(layers, [tiles[at] for at in rng.permutation(len(tiles))], corner)
    with mock.patch("engine.grid.TILE_PX", 10**6):
        whole = Tile(48, 0, -1, (*corner, *shape))
        of_one = joined(layers, [whole], corner)
    wanted = expected(layers, whole)
    for one in (found, of_one):
        same = one.drop(columns="geometry").reset_index(drop=True)
        # A tile's middle row stands for it, so hectares differ by what the scale does between rows.
        pd.testing.assert_frame_equal(same, wanted, check_dtype=False, rtol=1e-7)
        assert all(shapely.is_valid(one["geometry"]))
        assert shapely.area(one["geometry"]).tolist() == (900 * one["pixels"]).tolist()
    assert all(shapely.equals(found["geometry"], of_one["geometry"]))
    # What a tile says of a pixel that is read with a few more around it is what its patch says.
    large = large_by_tile(layers, tiles, corner)
    for patch in found.itertuples():
        at = patch.grid_row - corner[0], patch.grid_col - corner[1]
        assert bool(large[at] & DIRECTIONS[patch.direction]) == patch.large


def large_by_tile(layers: dict[str, np.ndarray], tiles: Sequence[Tile], corner: tuple[int, int]) -> np.ndarray:
    """Return the layer ``large`` of a raster, told tile by tile with a halo of ``LEAST_PX - 1`` pixels."""
    large = np.zeros(layers["kind"].shape, dtype="uint8")
    for tile in tiles:
        row, col, height, width = tile.window
        top, left = row - corner[0], col - corner[1]
        above, before = min(top, LEAST_PX - 1), min(left, LEAST_PX - 1)
        seen = slice(top - above, top + height + LEAST_PX - 1), slice(left - before, left + width + LEAST_PX - 1)
        flags = large_flags({name: layer[seen] for name, layer in layers.items()}, LEAST_PX)
        large[top : top + height, left : left + width] = flags[above:, before:][:height, :width]
    return large


def four_tiles(shape: tuple[int, int]) -> list[Tile]:
    """Return four tiles that meet in the middle of a raster with its corner at ``corner_of(shape)``."""
    return tiles_over(corner_of(shape), shape, 2048)


def corner_of(shape: tuple[int, int]) -> tuple[int, int]:
    return CORNER[0] - shape[0] // 2, CORNER[1] - shape[1] // 2


def write_all_pieces(folder, layers, tiles, corner):
    parts = {}
    for tile in tiles:
        parts[tile] = folder / f"{tile.id}.parquet"
        cut = (cut_pieces(crop(layers, tile, corner), tile, direction) for direction in DIRECTIONS)
        write_pieces(parts[tile], cut, REGIONS, LEAST_PX)
    return parts


def test_patches_that_meet_at_the_corner_of_four_tiles_only_are_one():
    layers = random_history(np.random.default_rng(0), (4, 4), 0.0)
    for y, x in ((1, 2), (2, 1)):  # the two that do not share a side
        layers["loss_year"][y, x], layers["kind"][y, x] = 2001, LOSS
    layers["gain_year"][2, 2], layers["kind"][2, 2] = 2005, GAIN  # touches both, and is another matter
    found = joined(layers, four_tiles((4, 4)), corner_of((4, 4)))
    assert found[["direction", "pixels", "year"]].to_numpy().tolist() == [["gain", 1, 2005], ["loss", 2, 2001]]


def test_the_file_is_the_same_in_any_order_and_opens_in_geopandas(tmp_path):
    layers = random_history(np.random.default_rng(3), (40, 50), 0.3)
    tiles = four_tiles((40, 50))
    parts = write_all_pieces(tmp_path, layers, tiles, corner_of((40, 50)))
    about = {"method": "by hand", "notice": "SIMULATED"}
    path, again = tmp_path / "patches.parquet", tmp_path / "again.parquet"
    sums = write_joined(path, join_tiles(parts, REGIONS, LEAST_PX), about)
    write_joined(again, join_tiles(dict(reversed(parts.items())), REGIONS, LEAST_PX), about)
    assert path.read_bytes() == again.read_bytes()
    frame = gpd.read_parquet(path)
    assert len(dask_geopandas.read_parquet(path)) == len(frame)
    assert frame.crs.to_epsg() == 4326
    assert frame.is_valid.all()
    assert set(frame["notice"]) == {"SIMULATED"}
    found = frame.drop(columns=["geometry", *about]).sort_values(["direction", "grid_row", "grid_col"])
    wanted = joined(layers, tiles, corner_of((40, 50))).drop(columns="geometry")
    pd.testing.assert_frame_equal(found.reset_index(drop=True), wanted.reset_index(drop=True))
    assert sums["patches"].sum() == len(frame)
    assert sums["hectares"].sum() == pytest.approx(frame["area_ha"].sum())
    # The outlines lie where the pixels do: an equal-area projection gives their hectares.
    assert np.allclose(frame.to_crs("EPSG:6933").area / 1e4, frame["area_ha"], rtol=1e-4)
    rows = [pq.ParquetFile(path).metadata.row_group(n).num_rows for n in range(4)]
    assert sum(rows) == len(frame)  # a group a tile


def test_zones_are_in_one_file_and_their_patches_apart(tmp_path):
    tiles = [Tile(48, 8, -15, (CORNER[0], 8 * 2048, 1, 2)), Tile(47, 8, -15, (CORNER[0], 8 * 2048, 1, 2))]
    layers = random_history(np.random.default_rng(0), (1, 2), 0.0)
    layers["loss_year"][:], layers["kind"][:] = 2001, LOSS
    parts = write_all_pieces(tmp_path, layers, tiles[:1], tiles[0].window[:2])
    parts |= write_all_pieces(tmp_path, layers, tiles[1:], tiles[1].window[:2])
    write_joined(tmp_path / "patches.parquet", join_tiles(parts, REGIONS, LEAST_PX), {})
    frame = gpd.read_parquet(tmp_path / "patches.parquet")
    assert frame[["zone", "pixels", "large"]].to_numpy().tolist() == [[47, 2, False], [48, 2, False]]
    assert np.diff(frame.bounds["minx"]) == pytest.approx(6)


def test_parts_and_file_lie_in_a_store_as_on_a_disk(place, tmp_path):
    layers = random_history(np.random.default_rng(3), (6, 6), 0.3)
    for folder in (place, tmp_path):
        parts = write_all_pieces(folder, layers, four_tiles((6, 6)), corner_of((6, 6)))
        write_joined(folder / "patches.parquet", join_tiles(parts, REGIONS, LEAST_PX), {})
    assert (place / "patches.parquet").read_bytes() == (tmp_path / "patches.parquet").read_bytes()
    with pytest.raises(StoreError, match="cannot be read"):
        read_edges(place / "absent.parquet")


def test_without_change_the_file_is_empty_and_opens(tmp_path):
    layers = random_history(np.random.default_rng(3), (4, 4), 0.0)
    parts = write_all_pieces(tmp_path, layers, four_tiles((4, 4)), corner_of((4, 4)))
    sums = write_joined(tmp_path / "none.parquet", join_tiles(parts, REGIONS, LEAST_PX), {})
    assert sums.empty
    frame = gpd.read_parquet(tmp_path / "none.parquet")
    assert list(frame.columns) == SCHEMA.names
    assert frame.empty


def test_a_patch_that_reaches_over_the_antimeridian_is_cut_there():
    col = int((to_zone(1).transform(-180, 0)[0] - EDGE_M) // PIXEL_M)  # a pixel that lies on both sides
    tile = Tile(1, col // 2048, 0, (0, col, 1, 4))
    layers = random_history(np.random.default_rng(0), (1, 4), 0.0)
    layers["loss_year"][:] = 2001
    (outline,) = shapely.from_wkb(
        finish_patches(join_pieces(cut_pieces(layers, tile, "loss")), REGIONS, 1)["geometry"].to_pylist()
    )
    west, _, east, _ = outline.bounds
    assert (west, east) == (-180, 180)
    assert outline.area < 1e-6


def test_a_damaged_part_is_told(tmp_path):
    layers = random_history(np.random.default_rng(3), (4, 4), 0.3)
    parts = write_all_pieces(tmp_path, layers, four_tiles((4, 4)), corner_of((4, 4)))
    for part in parts.values():
        edges_path(part).write_bytes(b"PAR1 of another kind")
    with pytest.raises(StoreError, match=r"edges\.parquet is damaged"):
        list(join_tiles(parts, REGIONS, LEAST_PX))


def test_joining_takes_memory_for_the_edges_and_not_for_what_lies_inside(tmp_path):
    """Patches inside tiles: 25 times as many of them, with as many pieces at the edges."""
    peaks = []
    for inner in (0.002, 0.05):
        layers = random_history(np.random.default_rng(1), (400, 400), inner)
        edges = random_history(np.random.default_rng(2), (400, 400), 0.05)
        near = np.zeros((400, 400), bool)
        for line in (slice(0, 3), slice(197, 203), slice(397, 400)):
            near[line] = near[:, line] = True
        layers = {name: np.where(near, edges[name], layer) for name, layer in layers.items()}
        folder = tmp_path / str(inner)
        folder.mkdir()
        parts = write_all_pieces(folder, layers, four_tiles((400, 400)), corner_of((400, 400)))
        pieces = [read_edges(part) for part in parts.values()]
        tracemalloc.start()
        join_pieces(together(pieces))
        peaks.append((tracemalloc.get_traced_memory()[1], sum(len(part.table) for part in pieces)))
        tracemalloc.stop()
    (few, few_edges), (many, many_edges) = peaks
    assert many_edges < 1.3 * few_edges
    assert many < 1.4 * few


def test_areas_stand_sieved_beside_unsieved():
    tile = Tile(48, 9, -15, (*CORNER, 2, 6))
    layers = random_history(np.random.default_rng(0), (2, 6), 0.0)
    layers["loss_year"][0, :3] = layers["gain_year"][1, 5] = 2001
    layers["kind"][0, :3], layers["kind"][1, 5] = LOSS, GAIN
    zones = np.ones((2, 6), dtype="uint16")
    zones[0, 0] = 0  # in none
    area = Area((Region("mine", shapely.MultiPolygon()),))
    table = patch_areas(layers, large_flags(layers, 3), zones, tile, area)
    assert table.drop(columns="hectares").to_numpy().tolist() == [
        ["mine", "gain", GAIN, "gain", "all", 1],
        ["mine", "loss", LOSS, "loss", "all", 2],
        ["mine", "loss", LOSS, "loss", "large", 2],
    ]
    assert table["hectares"].tolist() == pytest.approx([0.09, 0.18, 0.18], rel=2e-3)


def test_the_kind_of_a_patch_never_contradicts_its_direction():
    years = np.arange(2000, 2012, dtype="uint16")
    # Every course of mangrove and other over twelve years, a pixel each.
    mangrove = (np.arange(2**12)[np.newaxis] >> np.arange(12)[:, np.newaxis] & 1).astype(bool)
    looks = np.full(mangrove.shape, 9, "uint16")
    history = tell_history(mangrove, mangrove.astype("float32"), looks, np.ones_like(mangrove), years, recovery_years=5)
    shape = (64, 64)
    layers = {name: getattr(history, name).reshape(shape) for name in ("kind", "loss_year", "gain_year", "confidence")}
    layers |= {"looks": looks[0].reshape(shape), "tide_suspect": np.zeros(shape, "uint8")}
    layers["region"] = np.ones(shape, "uint16")
    spaced = {name: np.zeros((128, 128), layer.dtype) for name, layer in layers.items()}
    for name, layer in layers.items():
        spaced[name][::2, ::2] = layer  # so that each pixel is a patch
    found = joined(spaced, [Tile(48, 0, 0, (0, 0, 128, 128))], (0, 0))
    at = found["grid_row"] // 2, found["grid_col"] // 2
    first = mangrove[0].reshape(shape)[at]
    allowed = {
        "loss": {"loss", "loss then recovery", "provisional loss", "loss, later gain", "gain, later loss"},
        "gain": {"gain", "loss then recovery", "provisional gain", "loss, later gain", "gain, later loss"},
    }
    assert len(found) > 4000
    for direction, kinds in allowed.items():
        of = (found["direction"] == direction).to_numpy()
        assert set(found["kind"][of]) == kinds
    began = pd.Series(first, found.index)
    assert not began[found["kind"].isin(["gain", "gain, later loss"])].any()
    assert began[found["kind"].isin(["loss", "loss, later gain"])].all()
