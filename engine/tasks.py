"""Bodies of the dask tasks: one tile-year, one step, from store to store.

A step knows arrays and one kind of file; a task joins steps for one tile-year and writes what is durable,
with the fingerprint of its inputs, so that a second run skips it. Workers import this module and no job.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import xarray as xr

from engine.area import Area, region_codes
from engine.change import area_table, records
from engine.classify import as_asked, classify_block
from engine.cube import build_tile_year, clear_pixels, read_looks, read_strips
from engine.errors import ModelError
from engine.grid import Tile, pixel_hectares
from engine.habitat import HabitatSources, habitat_tile
from engine.kernels.composite import annual_layers, empty_layers, median
from engine.kernels.context import focal_means, within_reach
from engine.kernels.features import CONTEXT_PX, feature_stack, layers_of, wants_context
from engine.kernels.geomedian import geomedian
from engine.kernels.tide import CELL_PX, leave_out_wettest, wetness_levels
from engine.landsat import BANDS
from engine.legend import CLASSES, MANGROVE, OUTSIDE_AREA, PROBABILITY_MISSING, PROBABILITY_SCALE
from engine.masks import OpenMask, label_tile
from engine.model import Model, load_model
from engine.overlap import Overlap, Pair, draw_pair
from engine.params import ClassifyParams, CubeParams, HabitatParams, LabelParams, SampleParams
from engine.places import Place, entries, remove
from engine.plan import TileYear
from engine.ranges import Access, Spent
from engine.raster import GMW_NODATA, export_gmw, write_cog
from engine.sample import draw_tile, part_path, sensor_names, thin_looks, thinned_rows, write_part
from engine.scenes import Scene, observations
from engine.scratch import release_scratch
from engine.stack import stack_looks
from engine.store import grid_coords, is_current, marker_path, open_store, read_marker, write_marker, write_store
from engine.threads import compute_threads

CLASSIFY_ROWS = 512
"""Rows classified at once: bounds the memory of the features."""


THINNED_AT_ONCE = 2**14
"""Pixels of which looks are gathered at once: bounds the memory of thinned composites beside their strip."""

Strip = tuple[slice, np.ndarray, np.ndarray, list[dict[str, Any]]]
"""Rows, bands, clear flags and lost scenes, as of ``cube.read_strips``."""

Habitat = tuple[HabitatParams, HabitatSources]
"""A habitat limit and the rasters it is read from."""


@dataclass(frozen=True, kw_only=True)
class Draw:
    """What the draws of a run's tile-years have in common."""

    area: Area
    masks: Sequence[OpenMask]
    labels: LabelParams
    sample: SampleParams
    habitat: Habitat | None
    access: Access
    seed: int
    features: tuple[str, ...]
    cube: CubeParams
    block_px: int
    skip_bad: bool


@dataclass(frozen=True)
class Adjoining:
    """The cube of a tile that adjoins another, of the same year."""

    cube: Place
    tile: Tile
    sha256: str | None
    """Of its arrays, by its marker: part of what decides a sample or map that is made with it."""


def cube_task(
    part: TileYear,
    store: Place,
    params: CubeParams,
    access: Access,
    block_px: int,
    fingerprint: str,
    skip_bad: bool,
    attrs: dict[str, str],
) -> dict[str, Any]:
    """Make the annual cube of a tile-year, and with ``cube.keep: scenes`` the masked looks beside it."""
    marker = build_tile_year(
        part, store, params, access, block_px=block_px, fingerprint=fingerprint, skip_bad=skip_bad, attrs=attrs
    )
    if params.keep == "scenes" and marker["looks"]:
        release_scratch()
        lost = {loss["scene"] for loss in marker["lost"]}
        scenes = [scene for scene in part.scenes if scene.id not in lost]
        lazy = stack_looks(scenes, part.tile.geobox, params, access)
        looks = np.empty(lazy.shape, lazy.dtype)
        for index, look in enumerate(lazy):  # one at a time: what lies behind a look is several times its size
            looks[index] = look.compute(scheduler="synchronous")
        dataset = lazy.copy(data=looks).to_dataset(name="looks").assign_attrs({"Conventions": "CF-1.11", **attrs})
        write_store(looks_path(store), dataset, {"fingerprint": fingerprint, "tile": part.tile.id, "year": part.year})
    return marker


def looks_path(store: Place) -> Place:
    """Return the store of the masked looks beside a cube: ``2019.zarr`` -> ``2019-looks.zarr``."""
    return store.with_name(f"{store.stem}-looks.zarr")


def cube_is_current(store: Place, params: CubeParams, fingerprint: str) -> bool:
    """Tell whether a tile-year's cube, and its looks where they are kept, are complete and of these inputs."""
    marker = read_marker(store)
    if marker is None or marker.get("fingerprint") != fingerprint:
        return False
    return params.keep == "annual" or not marker["looks"] or is_current(looks_path(store), fingerprint)


def clear_task(
    part: TileYear, area: Area, access: Access, skip_bad: bool
) -> tuple[dict[str, dict[int, int]], list[dict[str, Any]]]:
    """Count the clear pixels of each observation in each region; also the scenes that could not be read."""
    return clear_pixels(part, region_codes(area, part.tile), access, skip_bad=skip_bad)


def wetness_task(cubes: Sequence[Place], tile: Tile, years: Sequence[int], path: Place, fingerprint: str) -> None:
    """Write how wet the looks of each year of a tile were, by cell, as JSON (``kernels.tide.wetness_levels``)."""
    release_scratch()
    frequency = np.empty((len(cubes), *tile.shape), dtype=np.uint16)
    for year, cube in zip(frequency, cubes, strict=True):
        with open_store(cube) as data:
            year[:] = data["water_frequency"].values
    levels = wetness_levels(frequency, CELL_PX, corner=tile.window[:2])
    known = [[[None if np.isnan(v) else round(float(v), 4) for v in row] for row in year] for year in levels]
    content = {
        "fingerprint": fingerprint,
        "tile": tile.id,
        "cell_px": CELL_PX,
        "first_cell": [at // CELL_PX for at in tile.window[:2]],
        "levels": dict(zip(years, known, strict=True)),
    }
    write_marker(path, content)


def overlap_task(
    overlap: Overlap, params: CubeParams, access: Access, seed: int, skip_bad: bool
) -> tuple[list[Pair], list[dict[str, Any]]]:
    """Draw the same pixels of both looks of each pair of a tile-year, as the sensors saw them; also the scenes lost."""
    tile = overlap.part.tile
    plain = CubeParams(reject_cloud_confidence=params.reject_cloud_confidence)
    pairs, lost = [], []
    for pair in overlap.pairs:
        scenes = [scene for scene in overlap.part.scenes if scene.observation in pair]
        bands, clear, looks, more = read_looks(scenes, tile.geobox, access, plain, skip_bad=skip_bad)
        order = [looks.index(look) for look in pair]  # either sensor may have come first
        pairs.append(draw_pair(bands[order], clear[order], tile, overlap.sensor, seed))
        lost += more
    return pairs, lost


def sample_task(
    cube: Place, part: TileYear, draw: Draw, folder: Place, fingerprint: str, adjoining: Sequence[Adjoining] = ()
) -> dict[str, Any]:
    """Draw the sample of a tile-year from its cube and the masks, and write it as one GeoParquet part.

    Neighbourhoods of pixels reach into the cubes given as ``adjoining``; those of thinned composites end with the tile.

    Thinned composites are made of the scenes of the cube, and only of the pixels drawn. A scene that cannot be read
    again is a fault as it is to the cube; with ``skip_bad`` they go without it.
    """
    release_scratch()
    started, spent = time.perf_counter(), Spent()
    tile, year = part.tile, part.year
    path = part_path(folder, tile.id, year)
    marker_path(path).unlink(missing_ok=True)
    frame, marker = _draw(cube, part, draw, adjoining)
    lost: list[dict[str, Any]] = []
    if draw.sample.thinned and len(frame):
        scenes = _scenes_of_cube(part, read_marker(cube))
        read = partial(
            read_strips,
            geobox=tile.geobox,
            access=draw.access,
            block_px=draw.block_px,
            params=draw.cube,
            skip_bad=draw.skip_bad,
            spent=spent,
        )
        choose = partial(_subsets, seed=draw.seed, tile=tile.id, year=year, number=draw.sample.thinned)
        frames, lost = _thin(frame, tile, scenes, draw.features, draw.cube, choose, read)
        frame = pd.concat([frame, *frames], ignore_index=True)
    write_part(frame, folder, tile=tile.id, year=year)
    marker |= {
        "fingerprint": fingerprint,
        "rows": len(frame),
        "thinned_rows": int(frame["thinned"].sum()),
        "lost": lost,
        "seconds": round(time.perf_counter() - started, 3),
        "stages": spent.record(),
    }
    return write_marker(marker_path(path), marker, [path])


def _draw(
    cube: Place, part: TileYear, draw: Draw, adjoining: Sequence[Adjoining]
) -> tuple[gpd.GeoDataFrame, dict[str, Any]]:
    """Return the rows that are not thinned, and what the marker says of them; the tile's layers end here."""
    layers = layers_of_features(cube, part.tile, draw.features, adjoining)
    return draw_rows(layers, part, _scenes_of_cube(part, read_marker(cube)), draw)


def draw_rows(
    layers: Mapping[str, np.ndarray], part: TileYear, scenes: Sequence[Scene], draw: Draw
) -> tuple[gpd.GeoDataFrame, dict[str, Any]]:
    """Draw the rows of a tile-year that are not thinned from the layers of its cube.

    Parameters
    ----------
    layers : mapping of str to ndarray
        As ``kernels.features.feature_stack`` takes them, and ``clear_count``.
    part : TileYear
    scenes : sequence of Scene
        That the cube was made of.
    draw : Draw

    Returns
    -------
    GeoDataFrame
        See ``sample.draw_tile``.
    dict
        What the marker of the sample says of them.
    """
    tile, year = part.tile, part.year
    found = label_tile(draw.masks, tile.geobox, year, draw.labels)
    regions = region_codes(draw.area, tile)
    valid = layers["clear_count"] > 0
    excluded_ha = 0.0
    if draw.habitat is not None:
        allowed = _allowed(draw.habitat, tile, draw.access)
        valid &= allowed
        excluded = (found.labels == MANGROVE) & (regions > 0) & ~allowed
        excluded_ha = float((excluded * pixel_hectares(tile)).sum())
    frame = draw_tile(
        feature_stack(layers, draw.features),
        draw.features,
        found.labels,
        found.interior,
        regions,
        tile,
        year=year,
        mask_year=found.mask_year,
        area=draw.area,
        params=draw.sample,
        seed=draw.seed,
        valid=valid,
        clear_count=layers["clear_count"],
        sensor=sensor_names(scene.platform for scene in scenes),
        looks=len(observations(scenes)),
    )
    return frame, {
        "tile": tile.id,
        "year": year,
        "mask_year": found.mask_year,
        "repaired_polygons": found.repaired,
        "mask_mangrove_outside_habitat_ha": round(excluded_ha, 4),
    }


def _subsets(looks: list[str], *, seed: int, tile: str, year: int, number: int) -> list[tuple[str, ...]]:
    """Return the looks of each of a number of thinned composites."""
    return [thin_looks(looks, seed=seed, tile=tile, year=year, number=each) for each in range(1, number + 1)]


def _thin(
    drawn: gpd.GeoDataFrame,
    tile: Tile,
    scenes: Sequence[Scene],
    features: tuple[str, ...],
    params: CubeParams,
    choose: Callable[[list[str]], list[tuple[str, ...]]],
    read: Callable[[Sequence[Scene]], Generator[Strip]],
) -> tuple[list[gpd.GeoDataFrame], list[dict[str, Any]]]:
    """Return the rows drawn as each thinned composite shows them, and the scenes that were lost.

    Neighbourhoods are of the same looks; their pixels too are composited, but none beyond the tile.

    Parameters
    ----------
    drawn : GeoDataFrame
        In order of grid row.
    tile, scenes, features, params
        Of the cube.
    choose : callable
        Looks there are -> looks of each thinned composite.
    read : callable
        Scenes -> strips as of ``cube.read_strips``. Only looks of some composite are read, once for all of them. As
        with cubes, what cannot be read in one strip is left out of all.
    """
    subsets = choose(list(observations(scenes)))
    wanted = [scene for scene in scenes if any(scene.observation in subset for subset in subsets)]
    looks = list(observations(wanted))
    y, x = drawn["grid_row"].to_numpy() - tile.window[0], drawn["grid_col"].to_numpy() - tile.window[1]
    found = [empty_layers(1, len(drawn)) for _ in subsets]
    around = _around(tile, y, x) if wants_context(features) else np.empty(0, dtype=np.int64)
    composites = np.zeros((len(subsets), len(BANDS), around.size), dtype=np.uint16)
    with closing(read(wanted)) as strips:
        for rows, bands, clear, lost in strips:
            if lost:
                names = {loss["scene"] for loss in lost}
                rest = [scene for scene in scenes if scene.id not in names]
                frames, more = _thin(drawn, tile, rest, features, params, choose, read)
                return frames, [*lost, *more]
            which = [[looks.index(look) for look in chosen] for chosen in subsets]
            for some in _pieces(*np.searchsorted(y, (rows.start, rows.stop))):
                at = y[some] - rows.start, x[some]
                bands_there, clear_there = bands[:, :, *at], clear[:, *at]
                for number, of_looks in enumerate(which):
                    layers = annual_layers(
                        bands_there[of_looks, :, np.newaxis],
                        clear_there[of_looks, np.newaxis],
                        min_looks_range=params.min_looks_range,
                        composite=params.composite,
                        tide=params.tide,
                        threads=compute_threads(),
                    )
                    for name, layer in layers.items():
                        found[number][name][..., some] = layer
            for some in _pieces(*np.searchsorted(around, (rows.start * tile.shape[1], rows.stop * tile.shape[1]))):
                ys, xs = np.divmod(around[some], tile.shape[1])
                at = ys - rows.start, xs
                bands_there, clear_there = bands[:, :, *at], clear[:, *at]
                for number, of_looks in enumerate(which):
                    composites[number, :, some] = _composite(
                        bands_there[of_looks, :, np.newaxis], clear_there[of_looks, np.newaxis], params
                    )[:, 0]
    frames = []
    for number, subset in enumerate(subsets):
        layers = found[number]
        if wants_context(features):
            composite = np.zeros((len(BANDS), *tile.shape), dtype=np.uint16)
            composite.reshape(len(BANDS), -1)[:, around] = composites[number]
            layers["context"] = focal_means(composite)[:, y, x][:, np.newaxis]
        frames.append(
            thinned_rows(
                drawn,
                feature_stack(layers, features)[:, 0],
                features,
                layers["clear_count"][0],
                sensor=sensor_names(scene.platform for scene in wanted if scene.observation in subset),
                looks=len(subset),
            )
        )
    return frames, []


def _composite(bands: np.ndarray, clear: np.ndarray, params: CubeParams) -> np.ndarray:
    """Return the composite of looks alone, as the cube's would be."""
    threads = compute_threads()
    if params.tide == "low":
        clear, _, _ = leave_out_wettest(bands, clear, threads=threads)
    return (geomedian if params.composite == "geomedian" else median)(bands, clear, threads=threads)


def _around(tile: Tile, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return the flat indices, in order, of a tile's pixels in the neighbourhoods of some."""
    pixels = np.zeros(tile.shape, dtype=bool)
    pixels[y, x] = True
    return np.flatnonzero(within_reach(pixels))


def _pieces(first: int, last: int) -> Iterator[slice]:
    """Cut a row of pixels so that their looks may be gathered."""
    for start in range(first, last, THINNED_AT_ONCE):
        yield slice(start, min(start + THINNED_AT_ONCE, last))


def _scenes_of_cube(part: TileYear, marker: dict[str, Any] | None) -> list[Scene]:
    """Return the scenes that a cube was made of."""
    lost = {loss["scene"] for loss in (marker or {}).get("lost", [])}
    return [scene for scene in part.scenes if scene.id not in lost]


def classify_task(
    cube: Place,
    tile: Tile,
    year: int,
    area: Area,
    model_folder: Place,
    model_sha256: str,
    habitat: Habitat | None,
    access: Access,
    params: ClassifyParams,
    store: Place,
    fingerprint: str,
    tags: dict[str, str],
    adjoining: Sequence[Adjoining] = (),
) -> dict[str, Any]:
    """Classify a tile-year wall to wall: its COGs, a zarr store, and the marker that vouches for all of them.

    Neighbourhoods of pixels reach into the cubes given as ``adjoining``.
    """
    release_scratch()
    started, spent = time.perf_counter(), Spent()
    tifs = map_paths(store)
    for stale in (marker_path(store), *tifs.values(), gmw_path(store)):
        stale.unlink(missing_ok=True)
    model = as_asked(_model(model_folder, model_sha256), params)
    layers = layers_of_features(cube, tile, model.features, adjoining)
    regions = region_codes(area, tile)
    allowed = None if habitat is None else _allowed(habitat, tile, access)
    probability = np.full(tile.shape, PROBABILITY_MISSING, dtype=np.uint16)
    classes = np.full(tile.shape, OUTSIDE_AREA, dtype=np.uint8)
    for top in range(0, tile.shape[0], CLASSIFY_ROWS):
        rows = slice(top, top + CLASSIFY_ROWS)
        with spent.on("features"):
            features = feature_stack({name: layer[..., rows, :] for name, layer in layers.items()}, model.features)
        with spent.on("classify"):
            probability[rows], classes[rows] = classify_block(
                features,
                observed=layers["clear_count"][rows] > 0,
                area=regions[rows] > 0,
                model=model,
                habitat=None if allowed is None else allowed[rows],
            )
    dataset = xr.Dataset(
        {
            "probability": (
                ("y", "x"),
                probability,
                {
                    "long_name": "probability of mangrove at map prevalence",
                    "scale_factor": 1 / PROBABILITY_SCALE,
                    "_FillValue": PROBABILITY_MISSING,
                    "grid_mapping": "spatial_ref",
                },
            ),
            "class": (
                ("y", "x"),
                classes,
                {
                    "long_name": "class",
                    "flag_values": [entry.code for entry in CLASSES],
                    "flag_meanings": " ".join(entry.name.replace(" ", "_") for entry in CLASSES),
                    "grid_mapping": "spatial_ref",
                },
            ),
            "region": (("y", "x"), regions, {"long_name": "1 + index of the region", "grid_mapping": "spatial_ref"}),
        },
        coords={**grid_coords(tile.geobox), "year": year},
        attrs={"Conventions": "CF-1.11", **tags, "regions": json.dumps([r.name for r in area.regions])},
    )
    marker = {
        "fingerprint": fingerprint,
        "tile": tile.id,
        "year": year,
        "areas": records([area_table(classes, regions, tile, area, legend=CLASSES).assign(by="region")]),
        "seconds": round(time.perf_counter() - started, 3),
        "stages": spent.record(),
    }
    _write_map_cogs(tifs, probability, classes, tile, tags)
    return write_store(store, dataset, marker, tifs.values())


def _write_map_cogs(
    tifs: dict[str, Place], probability: np.ndarray, classes: np.ndarray, tile: Tile, tags: dict[str, str]
) -> None:
    write_cog(
        tifs["class"],
        classes,
        tile.geobox,
        nodata=OUTSIDE_AREA,
        legend=CLASSES,
        tags=tags,
        overview="mode",
        description="mangrove map: 0 not observed, 1 other, 2 mangrove, 3 outside the habitat limit",
    )
    write_cog(
        tifs["probability"],
        probability,
        tile.geobox,
        nodata=PROBABILITY_MISSING,
        scale=1 / PROBABILITY_SCALE,
        tags=tags,
        description="probability of mangrove at map prevalence",
    )


def export_task(store: Place, tile: Tile, tags: dict[str, str]) -> Place:
    """Write the class map of a tile-year once more with Global Mangrove Watch's codes: 1, 0, nodata 255."""
    with open_store(store) as data:
        classes = data["class"].values
    path = gmw_path(store)
    write_cog(path, export_gmw(classes), tile.geobox, nodata=GMW_NODATA, tags=tags, overview="mode")
    return path


def map_paths(store: Place) -> dict[str, Place]:
    """Return the COGs beside a map store: ``maps/<year>/<tile>.zarr`` -> class and probability."""
    year = store.parent.name
    return {kind: store.with_name(f"{kind}_{store.stem}_{year}.tif") for kind in ("class", "probability")}


def gmw_path(store: Place) -> Place:
    """Return the export beside a map store in Global Mangrove Watch's codes."""
    return store.with_name(f"gmw_{store.stem}_{store.parent.name}.tif")


def map_is_current(store: Place, fingerprint: str) -> bool:
    """Tell whether a tile-year's map store and its COGs are complete and of these inputs."""
    return is_current(store, fingerprint) and all(path.is_file() for path in map_paths(store).values())


def within_reach_of(tile: Tile, other: Tile) -> tuple[slice, slice] | None:
    """Return the rows and columns of the zone where another of its tiles lies in neighbourhoods of a tile's pixels.

    Examples
    --------
    >>> west, east = Tile(48, 8, 0, (0, 18400, 9, 32)), Tile(48, 9, 0, (6, 18432, 9, 5))
    >>> within_reach_of(west, east)
    (slice(6, 11, None), slice(18432, 18434, None))
    """
    row, col, height, width = tile.window
    other_row, other_col, other_height, other_width = other.window
    rows = slice(max(row - CONTEXT_PX, other_row), min(row + height + CONTEXT_PX, other_row + other_height))
    cols = slice(max(col - CONTEXT_PX, other_col), min(col + width + CONTEXT_PX, other_col + other_width))
    meet = tile.zone == other.zone and rows.start < rows.stop and cols.start < cols.stop
    return (rows, cols) if meet else None


def layers_of_features(
    cube: Place, tile: Tile, names: Sequence[str], adjoining: Sequence[Adjoining]
) -> dict[str, np.ndarray]:
    """Return the layers of a tile-year that features are made of, ``context`` among them where asked for."""
    with open_store(cube) as data:
        layers = _layers(data[list(layers_of(names))])
    if wants_context(names):
        layers["context"] = _context(layers["composite"], tile, adjoining)
    return layers


def _context(composite: np.ndarray, tile: Tile, adjoining: Sequence[Adjoining]) -> np.ndarray:
    """Return the focal means of a tile's composite; where no cube adjoins nothing is observed."""
    padded = np.pad(composite, ((0, 0), (CONTEXT_PX, CONTEXT_PX), (CONTEXT_PX, CONTEXT_PX)))
    row, col = tile.window[0] - CONTEXT_PX, tile.window[1] - CONTEXT_PX
    for other in adjoining:
        if window := within_reach_of(tile, other.tile):
            with open_store(other.cube) as data:
                strip = data["composite"][:, *_less(window, *other.tile.window[:2])].values
            padded[:, *_less(window, row, col)] = strip
    return focal_means(padded)[:, CONTEXT_PX:-CONTEXT_PX, CONTEXT_PX:-CONTEXT_PX]


def _less(window: tuple[slice, slice], row: int, col: int) -> tuple[slice, slice]:
    """Return a window as counted from a row and a column."""
    rows, cols = window
    return slice(rows.start - row, rows.stop - row), slice(cols.start - col, cols.stop - col)


def _allowed(habitat: Habitat, tile: Tile, access: Access) -> np.ndarray:
    params, sources = habitat
    return habitat_tile(params, tile.geobox, sources=sources, trust=access.trust, signer=access.signer)


def _layers(data: xr.Dataset) -> dict[str, np.ndarray]:
    return {str(name): variable.values for name, variable in data.data_vars.items()}


@lru_cache(maxsize=2)
def _model(folder: Place, sha256: str) -> Model:
    model = load_model(folder)
    if model.sha256() != sha256:
        raise ModelError(f"model {folder} was trained anew while it was used", fix="run the same command again")
    return model


def remove_unlisted(folder: Place, keep: set[str]) -> None:
    """Delete entries of a folder that are not listed: parts of an earlier draw would be sampled again."""
    for paths in entries(folder):
        for path in paths:
            if path.name not in keep:
                remove(path)
