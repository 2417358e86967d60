"""Bodies of the tasks of what people correct: maps as edited, samples of edits, pixels whose label would help."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import geopandas as gpd
import numpy as np
import pandas as pd
import xarray as xr

from engine.area import Area, region_codes
from engine.change import area_table, records
from engine.edits import burn_edits, edit_tile
from engine.grid import Tile
from engine.kernels.bins import encode
from engine.kernels.features import feature_stack
from engine.legend import ADDED, AS_MAPPED, CLASSES, EDITS, LABEL_UNKNOWN, MANGROVE, OTHER, OUTSIDE_AREA, REMOVED
from engine.params import SampleParams
from engine.places import Place
from engine.raster import write_cog
from engine.sample import draw_tile, part_path, read_part, write_part
from engine.scratch import release_scratch
from engine.store import grid_coords, is_current, marker_path, open_store, read_marker, write_marker, write_store
from engine.suggest import Pool, draw_pool, labelled_rows, metres_to
from engine.tasks import Adjoining, layers_of_features

_LABELS = np.zeros(len(EDITS), dtype=np.uint8)
_LABELS[[ADDED, REMOVED]] = MANGROVE, OTHER


def edited_paths(store: Place) -> dict[str, Place]:
    """Return the COGs beside an edited map: ``maps_edited/<year>/<tile>.zarr`` -> class and edit."""
    year = store.parent.name
    return {kind: store.with_name(f"{kind}_{store.stem}_{year}.tif") for kind in ("class", "edit")}


def edited_is_current(store: Place, fingerprint: str) -> bool:
    """Tell whether an edited tile-year and its COGs are complete and of these inputs."""
    return is_current(store, fingerprint) and all(path.is_file() for path in edited_paths(store).values())


def edit_task(
    mapped: Place,
    tile: Tile,
    year: int,
    area: Area,
    pieces: tuple[tuple[int, bytes], ...],
    store: Place,
    fingerprint: str,
    tags: dict[str, str],
) -> None:
    """Write the map of a tile-year as edited: its COGs, a zarr store, and the marker that vouches for all of them."""
    release_scratch()
    started = time.perf_counter()
    tifs = edited_paths(store)
    for stale in (marker_path(store), *tifs.values()):
        stale.unlink(missing_ok=True)
    with open_store(mapped) as data:
        before, regions = data["class"].values, data["region"].values
    found = edit_tile(before, pieces, tile)
    edits = np.where(before == OUTSIDE_AREA, np.uint8(AS_MAPPED), found.edits)
    changed = np.where(before != found.classes, edits, np.uint8(AS_MAPPED))

    def layer(values: np.ndarray, name: str, legend: tuple) -> tuple:
        attrs = {
            "long_name": name,
            "flag_values": [entry.code for entry in legend],
            "flag_meanings": " ".join(entry.name.replace(" ", "_") for entry in legend),
            "grid_mapping": "spatial_ref",
        }
        return ("y", "x"), values, attrs

    dataset = xr.Dataset(
        {"class": layer(found.classes, "class as edited", CLASSES), "edit": layer(edits, "what was drawn", EDITS)},
        coords={**grid_coords(tile.geobox), "year": year},
        attrs={"Conventions": "CF-1.11", **tags, "regions": json.dumps([r.name for r in area.regions])},
    )
    marker = {
        "fingerprint": fingerprint,
        "tile": tile.id,
        "year": year,
        "areas": records([area_table(found.classes, regions, tile, area, legend=CLASSES).assign(by="region")]),
        "changed": records([area_table(changed, regions, tile, area, legend=EDITS).assign(by="region")]),
        "conflicting_pixels": int((found.conflicts & (before != OUTSIDE_AREA)).sum()),
        "seconds": round(time.perf_counter() - started, 3),
    }
    write_cog(
        tifs["class"],
        found.classes,
        tile.geobox,
        nodata=OUTSIDE_AREA,
        legend=CLASSES,
        tags=tags,
        overview="mode",
        description="mangrove map as edited by hand: 0 not observed or unsure, 1 other, 2 mangrove, 3 no habitat",
    )
    write_cog(
        tifs["edit"],
        edits,
        tile.geobox,
        nodata=AS_MAPPED,
        legend=EDITS,
        tags=tags,
        overview="mode",
        description="what was drawn by hand: 1 added, 2 removed, 3 unsure",
    )
    write_store(store, dataset, marker, tifs.values())


@dataclass(frozen=True, kw_only=True)
class EditDraw:
    """What the draws of edited tile-years have in common."""

    area: Area
    held_out: tuple[str, ...]
    """Regions nothing may be trained on."""

    sample: SampleParams
    seed: int
    features: tuple[str, ...]
    weights: Mapping[tuple[str, int], float]
    """Pixels that a drawn row of a region and label stands for; region ``""`` is of any other."""

    layer: str
    """Version the polygons are of, in words."""


def edit_sample_task(
    cube: Place,
    tile: Tile,
    year: int,
    pieces: tuple[tuple[int, bytes], ...],
    draw: EditDraw,
    ordinary: Place,
    folder: Place,
    fingerprint: str,
    adjoining: Sequence[Adjoining] = (),
) -> None:
    """Write the training rows of a tile-year that people edited, in place of those its masks gave.

    Rows of the masks that lie in an edit, unsure ones too, are not trained on any more, but stay as land. Rows drawn
    inside *add* and *remove* are further rows as those of thinned composites are: only training uses them, so that
    no land is counted twice, and no figure is of hand-made labels. They weigh what a row of their region and class
    weighs. Of regions held out nothing is drawn.
    """
    release_scratch()
    edits, _ = burn_edits(pieces, tile)
    layers = layers_of_features(cube, tile, draw.features, adjoining)
    regions = region_codes(draw.area, tile)
    held = [code for code, region in enumerate(draw.area.regions, 1) if region.name in draw.held_out]
    refused = np.isin(regions, held)
    labels = _LABELS[edits]
    frame = draw_tile(
        feature_stack(layers, draw.features),
        draw.features,
        labels,
        np.ones(tile.shape, dtype=bool),
        np.where(refused, np.uint16(0), regions),
        tile,
        year=year,
        mask_year=year,
        area=draw.area,
        params=draw.sample,
        seed=draw.seed,
        valid=layers["clear_count"] > 0,
        clear_count=layers["clear_count"],
        sensor="",
        looks=0,
    )
    weight = [
        draw.weights.get(key, draw.weights.get(("", key[1]), 1.0))
        for key in zip(frame["region"], frame["label"], strict=True)
    ]
    frame = frame.assign(weight=np.array(weight, np.float64), thinned=True, why=f"edit: drawn by hand, {draw.layer}")
    masked, overruled = read_part(ordinary) if read_marker(ordinary) else frame.iloc[:0], 0
    if len(masked):
        row, col = tile.window[:2]
        at = masked["grid_row"].to_numpy() - row, masked["grid_col"].to_numpy() - col
        edited = (edits[at] != AS_MAPPED) & ~refused[at]
        overruled = int(edited.sum())
        masked = masked.assign(interior=masked["interior"].to_numpy(bool) & ~edited)
        frame["sensor"], frame["looks"] = masked["sensor"].iloc[0], masked["looks"].iloc[0]
        frame = frame.astype(dict(masked.dtypes.drop("geometry")))
    whole = gpd.GeoDataFrame(pd.concat([masked, frame], ignore_index=True), geometry="geometry", crs="EPSG:4326")
    write_part(whole, folder, tile=tile.id, year=year)
    path = part_path(folder, tile.id, year)
    marker = {
        "fingerprint": fingerprint,
        "tile": tile.id,
        "year": year,
        "rows": {
            name: int((frame["label"] == code).sum()) for name, code in (("mangrove", MANGROVE), ("other", OTHER))
        },
        "overruled_rows": overruled,
        "held_out_pixels": int(((labels != LABEL_UNKNOWN) & refused).sum()),
    }
    write_marker(marker_path(path), marker, [path])


def suggest_task(
    mapped: Place,
    cube: Place,
    tile: Tile,
    year: int,
    area: Area,
    held_out: tuple[str, ...],
    pieces: tuple[tuple[int, bytes], ...],
    sample: Place,
    features: tuple[str, ...],
    edges: tuple[np.ndarray, ...],
    seed: int,
    adjoining: Sequence[Adjoining] = (),
) -> Pool:
    """Draw a tile's candidates for labels: classified pixels that nobody edited, outside the regions held out."""
    release_scratch()
    with open_store(mapped) as data:
        classes, probability, regions = (data[name].values for name in ("class", "probability", "region"))
    edits, _ = burn_edits(pieces, tile)
    held = [code for code, region in enumerate(area.regions, 1) if region.name in held_out]
    open_to = ((classes == MANGROVE) | (classes == OTHER)) & (edits == AS_MAPPED) & ~np.isin(regions, held)
    found = draw_pool(probability, open_to, regions, [region.name for region in area.regions], tile, seed=seed)
    layers = layers_of_features(cube, tile, features, adjoining)
    y, x = found["row"].to_numpy() - tile.window[0], found["col"].to_numpy() - tile.window[1]
    at_points = {name: layer[..., y, x][..., np.newaxis, :] for name, layer in layers.items()}
    codes = encode(feature_stack(at_points, features)[:, 0], edges).T
    rows = read_part(sample) if read_marker(sample) else None
    if rows is None or rows.empty:
        nothing = np.empty((0, len(features)), np.uint8), np.empty(0, np.uint64)
        return Pool(found.assign(labelled_m=np.inf), codes, *nothing)
    rows = rows[~rows["region"].isin(list(held_out))]
    return Pool(found.assign(labelled_m=metres_to(rows, found)), codes, *labelled_rows(rows, features, edges, seed))
