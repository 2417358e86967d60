"""Bodies of the dask tasks that look at all years of a tile: its history, and what is told from histories.

As in ``engine.tasks``, a task joins steps from store to store and writes what is durable with its fingerprint.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from engine.area import Area
from engine.area_series import tally_years
from engine.assess import Domains, draw_points, tally_maps, tally_strata
from engine.change import area_table, compare_tile, mark_provisional, records, sieved_transitions, zone_codes
from engine.figures import CHIP_PX, FALSE_COLOUR, chip_strip
from engine.grid import Tile, pixel_hectares
from engine.history import (
    WATER_REACH_PX,
    RegionRates,
    Trace,
    odds_of_years,
    reach_px,
    suspect_tide,
    trace_block,
    weight_of,
)
from engine.kernels.design import stratify
from engine.kernels.draw import pixel_hash, smallest
from engine.kernels.features import WATER_MISSING
from engine.kernels.history import History
from engine.kernels.score import CALIBRATION_BINS
from engine.kernels.support import REACH_PX
from engine.landsat import BANDS
from engine.legend import (
    CHANGES,
    CLASSES,
    MANGROVE,
    OTHER,
    OUTSIDE_AREA,
    PAIRS,
    PROBABILITY_MISSING,
    PROBABILITY_SCALE,
    Entry,
)
from engine.params import ChangeParams
from engine.patches import DIRECTIONS, LAYERS, cut_pieces, edges_path, patch_areas, write_pieces
from engine.places import Place
from engine.plan import TRACED_VALUES
from engine.raster import write_cog
from engine.sample import read_part
from engine.scratch import release_scratch
from engine.store import CHUNK_PX, grid_coords, is_current, marker_path, open_store, write_marker, write_store

TileHistory = tuple[Tile, Place]
"""A tile and the finished store of its history."""

REGION_PIXELS: Final = 20_000
"""Pixels of a region that its rates are estimated from."""

HISTORY_LAYERS: Final[Mapping[str, Mapping[str, Any]]] = {
    "kind": {"long_name": "what happened to a pixel in all years"},
    "loss_year": {"long_name": "first year without the mangrove that was lost last, 0 none"},
    "gain_year": {"long_name": "first year of the mangrove that was gained last, 0 none"},
    "confidence": {"long_name": "confidence of the least sure change", "units": "percent"},
    "looks": {"long_name": "clear looks on the shorter-seen side of the least seen change", "units": "1"},
    "tide_suspect": {"long_name": "1 where change may be another height of the tide"},
    "large": {"long_name": "1 loss, 2 gain, 3 both: of a patch at least as large as the minimum mapping unit"},
    "region": {"long_name": "1 + index of the region"},
    "class": {"long_name": "class of the year, by all years together"},
    "probability": {
        "long_name": "probability of mangrove in the year, by all years together",
        "scale_factor": 1 / PROBABILITY_SCALE,
        "_FillValue": PROBABILITY_MISSING,
    },
    "uncertainty": {
        "long_name": "probability that the class of the year is wrong",
        "units": "percent",
        "_FillValue": 255,
    },
}
"""Layers of a history; what other tasks read of one is there by these names."""


@dataclass(frozen=True, kw_only=True)
class TileMaps:
    """A tile's maps and cubes, one of each a year."""

    tile: Tile
    maps: tuple[Place, ...]
    cubes: tuple[Place, ...]


@dataclass(frozen=True, kw_only=True)
class Tracing:
    """What the histories of a run have in common."""

    years: tuple[int, ...]
    threshold: float
    """Of the maps."""

    params: ChangeParams
    area: Area
    zones: Area | None
    rates: Mapping[int, RegionRates]
    """By region code, of the hidden Markov model."""

    samples: Mapping[str, Mapping[int, Place]]
    """Parts of the sample by tile and year, to say how well probabilities are calibrated."""


def history_task(
    own: TileMaps,
    around: Sequence[TileMaps],
    tracing: Tracing,
    store: Place,
    fingerprint: str,
    tags: dict[str, str],
) -> dict[str, Any]:
    """Trace a tile through all years: its COGs, a zarr store, its areas by kind of change.

    Pixels of adjoining tiles are read as far as they decide what is in this one, so that seams do not show.
    """
    release_scratch()
    started = time.perf_counter()
    tile, years = own.tile, tracing.years
    tifs = history_paths(store)
    for stale in (marker_path(store), *tifs.values()):
        stale.unlink(missing_ok=True)
    regions = _layer(own.maps[0], "region")
    layers = {name: np.zeros(tile.shape, dtype) for name, dtype in _PLANES.items()} | {"region": regions}
    layers |= {name: np.zeros((len(years), *tile.shape), dtype) for name, dtype in _STACKS.items()}
    seen_before = np.zeros((2, *tile.shape), np.uint16)
    for rows, trace in _traced(own, around, tracing):
        planes = {**trace.history._asdict(), "large": trace.large}
        for name in _PLANES.keys() - {"tide_suspect"}:
            layers[name][rows] = planes[name]
        layers["class"][:, rows], layers["probability"][:, rows] = trace.classes, trace.probability
        layers["uncertainty"][:, rows] = _uncertainty(trace)
        seen_before[:, rows] = trace.seen_before
    history = History(*(layers[name] for name in History._fields))
    frequency = _frequency(own, around)
    layers["tide_suspect"][:] = suspect_tide(history, seen_before, frequency, layers["class"], years, tile.window[:2])
    del frequency
    tables = [
        area_table(layers["kind"], codes, tile, of, legend=CHANGES).assign(by=by)
        for by, codes, of in _zonings(regions, tile, tracing.area, tracing.zones)
    ]
    marker = {
        "fingerprint": fingerprint,
        "tile": tile.id,
        "years": list(years),
        "settings": tracing.params.tracing,
        "areas": records(tables),
        "calibration": _outcomes(layers, tile, tracing),
        "seconds": round(time.perf_counter() - started, 3),
    }
    for name, tif in tifs.items():
        values = layers[name]
        write_cog(
            tif,
            values,
            tile.geobox,
            nodata=_NODATA.get(name, 0),
            legend=_LEGENDS.get(name) if values.ndim == 2 else None,
            scale=float(HISTORY_LAYERS[name].get("scale_factor", 1)),
            band_names=[f"{name} {year}" for year in years] if values.ndim == 3 else (),
            description="" if values.ndim == 3 else str(HISTORY_LAYERS[name]["long_name"]),
            tags=tags,
            overview="nearest" if name in ("probability", "uncertainty") else "mode",
        )
    return write_store(store, _as_dataset(layers, tile, years, tags), marker, tifs.values())


_PLANES: Final = {
    "kind": np.uint8,
    "loss_year": np.uint16,
    "gain_year": np.uint16,
    "confidence": np.uint8,
    "looks": np.uint16,
    "tide_suspect": np.uint8,
    "large": np.uint8,
}
_LEGENDS: Final[Mapping[str, tuple[Entry, ...]]] = {"kind": CHANGES, "class": CLASSES}
_NODATA: Final = {"kind": OUTSIDE_AREA, "class": OUTSIDE_AREA, "probability": PROBABILITY_MISSING, "uncertainty": 255}
_STACKS: Final = {"class": np.uint8, "probability": np.uint16, "uncertainty": np.uint8}


def _as_dataset(layers: Mapping[str, np.ndarray], tile: Tile, years: Sequence[int], tags: dict[str, str]) -> xr.Dataset:
    def attrs(name: str) -> dict[str, Any]:
        legend = _LEGENDS.get(name, ())
        flags = {
            "flag_values": [entry.code for entry in legend],
            "flag_meanings": " ".join(entry.name.replace(" ", "_").replace(",", "") for entry in legend),
        }
        return {**HISTORY_LAYERS[name], "grid_mapping": "spatial_ref", **(flags if legend else {})}

    variables = {name: (("year", "y", "x")[-values.ndim :], values, attrs(name)) for name, values in layers.items()}
    coords = {**grid_coords(tile.geobox), "year": list(years)}
    return xr.Dataset(variables, coords=coords, attrs={"Conventions": "CF-1.11", **tags})


def _uncertainty(trace: Trace) -> np.ndarray:
    """Return the probability that a class is wrong, uint8 (year, y, x) per cent; 255 missing."""
    of_mangrove = trace.probability.astype(np.float32) / (PROBABILITY_SCALE / 100)
    wrong = np.where(trace.classes == MANGROVE, 100 - of_mangrove, of_mangrove)
    decided = (trace.classes == MANGROVE) | (trace.classes == OTHER)
    return np.where(decided, np.rint(np.clip(wrong, 0, 100)), 255).astype(np.uint8)


def _outcomes(layers: Mapping[str, np.ndarray], tile: Tile, tracing: Tracing) -> dict[str, list[list[float]]]:
    """Return, by region, the land of each bin of probability, and by how much its probability passes its labels."""
    found: dict[str, np.ndarray] = {}
    names = [region.name for region in tracing.area.regions]
    for year, part in tracing.samples.get(tile.id, {}).items():
        at = tracing.years.index(year)
        rows = read_part(part, ["grid_row", "grid_col", "region", "label", "weight", "thinned"])
        rows = rows[~rows["thinned"].to_numpy(bool) & rows["label"].isin((OTHER, MANGROVE)).to_numpy()]
        y, x = rows["grid_row"].to_numpy() - tile.window[0], rows["grid_col"].to_numpy() - tile.window[1]
        code = layers["probability"][at, y, x]
        known = code != PROBABILITY_MISSING
        share, land = code / PROBABILITY_SCALE, rows["weight"].to_numpy(np.float64)
        gap = land * (share - (rows["label"].to_numpy() == MANGROVE))
        bins = np.minimum((share * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
        for name in names:
            mine = known & (rows["region"].to_numpy() == name)
            counts = [np.bincount(bins[mine], part[mine], minlength=CALIBRATION_BINS) for part in (land, gap)]
            if mine.any():
                found[name] = found.get(name, 0) + np.array(counts)
    return {name: counts.round(6).tolist() for name, counts in found.items()}


# --- reading ----------------------------------------------------------------------------------------------------


def _traced(own: TileMaps, around: Sequence[TileMaps], tracing: Tracing) -> Iterator[tuple[slice, Trace]]:
    """Yield the trace of a tile strip by strip: rows of the tile, and what is so there."""
    reach = reach_px(tracing.params)
    for rows, block in _strips(own, around, len(tracing.years), reach):
        trace = trace_block(
            block.probability,
            block.looks,
            block.static,
            block.regions,
            tracing.years,
            threshold=tracing.threshold,
            params=tracing.params,
            rates=tracing.rates,
        )
        inner = np.s_[..., reach:-reach, reach:-reach]
        history = History(*(part[inner] for part in trace.history))
        rest = {name: part[inner] for name, part in trace._asdict().items() if name != "history"}
        yield rows, Trace(history=history, **rest)


def odds_task(
    own: TileMaps, around: Sequence[TileMaps], tracing: Tracing, seed: int
) -> dict[int, tuple[np.ndarray, ...]]:
    """Return of each region the pixels of a tile that come first by seed: numbers, odds and weights of their years.

    Only of pixels that were observed in a year: the others tell nothing.
    """
    zone, (row, col, *_) = own.tile.zone, own.tile.window
    best: dict[int, tuple[np.ndarray, ...]] = {}
    for rows, block in _strips(own, around, len(tracing.years), REACH_PX):
        inner = np.s_[..., REACH_PX:-REACH_PX, REACH_PX:-REACH_PX]
        over = odds_of_years(block.probability, block.looks, tracing.threshold, tracing.params.min_looks)[inner]
        regions, weight = block.regions[inner], weight_of(block.looks[inner])
        known = (regions > 0) & ~np.isnan(over).all(axis=0)
        for code in np.unique(regions[known]).tolist():
            y, x = np.nonzero(known & (regions == code))
            keys = pixel_hash(seed, zone, row + rows.start + y, col + x)
            first = smallest(keys, REGION_PIXELS)
            at = np.s_[:, y[first], x[first]]
            best[code] = first_pixels(best.get(code), (keys[first], over[at], weight[at]))
    return best


def first_pixels(ones: tuple[np.ndarray, ...] | None, others: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    """Return the pixels of two draws that come first, whatever order draws are put together in."""
    if ones is None:
        return others
    both = tuple(np.concatenate(pair, axis=-1) for pair in zip(ones, others, strict=True))
    first = smallest(both[0], REGION_PIXELS)
    return tuple(part[..., first] for part in both)


class _Block(NamedTuple):
    """A strip of a tile with what lies round it, of every year."""

    probability: np.ndarray
    looks: np.ndarray
    static: np.ndarray
    regions: np.ndarray


def _strips(own: TileMaps, around: Sequence[TileMaps], years: int, reach: int) -> Iterator[tuple[slice, _Block]]:
    """Yield rows of a tile, and its layers there with ``reach`` pixels more on every side."""
    row, col, height, width = own.tile.window
    tall = max(1, TRACED_VALUES // (years * width))
    tall -= tall % CHUNK_PX if tall > CHUNK_PX else 0
    for top in range(0, height, tall):
        rows = slice(top, min(top + tall, height))
        window = (row + rows.start - reach, col - reach, rows.stop - rows.start + 2 * reach, width + 2 * reach)
        sources = [source for source in (own, *around) if meet(window, source.tile.window)]

        def read(name: str, fill: int, dtype: Any, of: str, some: slice = slice(None)) -> np.ndarray:
            stores = {source.tile: getattr(source, of)[some] for source in sources}  # noqa: B023 used at once
            return _window(stores, window, name, fill, dtype)  # noqa: B023

        yield (
            rows,
            _Block(
                read("probability", PROBABILITY_MISSING, np.uint16, "maps"),
                read("clear_count", 0, np.uint16, "cubes"),
                read("class", OUTSIDE_AREA, np.uint8, "maps", slice(1))[0],
                read("region", 0, np.uint16, "maps", slice(1))[0],
            ),
        )


def _frequency(own: TileMaps, around: Sequence[TileMaps]) -> np.ndarray:
    """Return the water frequency of a tile's years and of what lies ``WATER_REACH_PX`` round it."""
    row, col, height, width = own.tile.window
    reach = WATER_REACH_PX
    window = (row - reach, col - reach, height + 2 * reach, width + 2 * reach)
    stores = {source.tile: source.cubes for source in (own, *around) if meet(window, source.tile.window)}
    return _window(stores, window, "water_frequency", WATER_MISSING, np.uint16)


def _window(
    stores: Mapping[Tile, Sequence[Place]], window: tuple[int, int, int, int], name: str, fill: int, dtype: Any
) -> np.ndarray:
    """Return a window of a zone's grid of a layer, (store, y, x), from tiles of as many stores each."""
    count = max(len(places) for places in stores.values())
    found = np.full((count, *window[2:]), fill, dtype)
    for tile, places in stores.items():
        rows, cols = meet(window, tile.window) or (slice(0), slice(0))
        there = np.s_[_less(rows, tile.window[0]), _less(cols, tile.window[1])]
        for number, place in enumerate(places):
            with open_store(place) as data:
                found[number, _less(rows, window[0]), _less(cols, window[1])] = data[name][there].values
    return found


def meet(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> tuple[slice, slice] | None:
    """Return the rows and columns of the grid that two windows share, None where there are none."""
    rows, cols = (
        slice(max(one[axis], other[axis]), min(one[axis] + one[axis + 2], other[axis] + other[axis + 2]))
        for axis in (0, 1)
    )
    return (rows, cols) if rows.start < rows.stop and cols.start < cols.stop else None


def _less(part: slice, start: int) -> slice:
    return slice(part.start - start, part.stop - start)


def _layer(place: Place, name: str) -> np.ndarray:
    """Return a layer of a store."""
    with open_store(place) as data:
        return data[name].values


# --- what is told from histories -----------------------------------------------------------------------------------


def change_task(
    history: Place,
    tile: Tile,
    pair: tuple[int, int],
    area: Area,
    zones: Area | None,
    params: ChangeParams,
    store: Place,
    fingerprint: str,
    tags: dict[str, str],
) -> dict[str, Any]:
    """Compare two years of a tile's history: its COG, a zarr store, and its areas by region and by zone.

    Areas are of all that changed (``least_ha`` 0), and of what changed in patches of ``least_ha`` and more. What
    changed in the last ``recovery_years`` of the history has a code of its own.
    """
    release_scratch()
    tif = change_path(store)
    for stale in (marker_path(store), tif):
        stale.unlink(missing_ok=True)
    with open_store(history) as data:
        before, after = (data["class"].sel(year=year).values for year in pair)
        regions, large = data["region"].values, data["large"].values
        changed = data["loss_year"].values, data["gain_year"].values
        last = int(data["year"].values[-1])
    codes = mark_provisional(compare_tile(before, after), *changed, after=last - params.recovery_years)
    tables = [
        area_table(transitions, places, tile, of, legend=PAIRS).assign(by=by, least_ha=least)
        for least, transitions in ((0.0, codes), (params.min_area_ha, sieved_transitions(codes, large)))
        for by, places, of in _zonings(regions, tile, area, zones)
    ]
    dataset = xr.Dataset(
        {
            "transition": (
                ("y", "x"),
                codes,
                {
                    "long_name": f"change {pair[0]} to {pair[1]}",
                    "flag_values": [entry.code for entry in PAIRS],
                    "flag_meanings": " ".join(entry.name.replace(" ", "_") for entry in PAIRS),
                    "grid_mapping": "spatial_ref",
                },
            )
        },
        coords=grid_coords(tile.geobox),
        attrs={"Conventions": "CF-1.11", **tags},
    )
    marker = {"fingerprint": fingerprint, "tile": tile.id, "pair": list(pair), "areas": records(tables)}
    write_cog(
        tif,
        codes,
        tile.geobox,
        nodata=OUTSIDE_AREA,
        legend=PAIRS,
        tags=tags,
        overview="mode",
        description=f"mangrove change {pair[0]} to {pair[1]}",
    )
    return write_store(store, dataset, marker, [tif])


def change_path(store: Place) -> Place:
    """Return the COG beside a change store: ``change/<first>-<last>/<tile>.zarr`` -> its ``.tif``."""
    return store.with_name(f"change_{store.stem}_{store.parent.name}.tif")


def history_paths(store: Place) -> dict[str, Place]:
    """Return the COGs beside a history by layer, all but the region; those of years have a band a year."""
    return {kind: store.with_name(f"{kind}_{store.stem}.tif") for kind in HISTORY_LAYERS if kind != "region"}


def history_is_current(store: Place, fingerprint: str) -> bool:
    """Tell whether a tile's history and its COGs are complete and of these inputs."""
    return is_current(store, fingerprint) and all(path.is_file() for path in history_paths(store).values())


def patches_task(
    history: Place, tile: Tile, area: Area, zones: Area | None, least_px: int, part: Place, fingerprint: str
) -> None:
    """Outline the patches of a tile's history, and count them by region and by zone: two files and their marker."""
    release_scratch()
    marker_path(part).unlink(missing_ok=True)
    with open_store(history) as data:
        layers = {name: data[name].values for name in LAYERS}
        large = data["large"].values
    pieces = (cut_pieces(layers, tile, direction) for direction in DIRECTIONS)
    write_pieces(part, pieces, [region.name for region in area.regions], least_px)
    tables = [
        patch_areas(layers, large, codes, tile, of).assign(by=by)
        for by, codes, of in _zonings(layers["region"], tile, area, zones)
    ]
    marker = {"fingerprint": fingerprint, "tile": tile.id, "areas": records(tables)}
    write_marker(marker_path(part), marker, [part, edges_path(part)])


def patches_are_current(part: Place, fingerprint: str) -> bool:
    """Tell whether both files of a tile's patches are complete and of these inputs."""
    return is_current(part, fingerprint) and edges_path(part).is_file()


def series_task(history: Place, tile: Tile, area: Area, zones: Area | None, counts: Place, fingerprint: str) -> None:
    """Count the mangrove, loss and gain of every year of a tile's history, by region and by zone: one JSON file."""
    release_scratch()
    with open_store(history) as data:
        regions, large = data["region"].values, data["large"].values
        years = [int(year) for year in data["year"].values]
        classes = (data["class"][at].values for at in range(len(years)))
        table = tally_years(years, classes, large, _zonings(regions, tile, area, zones), tile)
    marker = {"fingerprint": fingerprint, "tile": tile.id, "years": years, "counts": table.to_dict("records")}
    write_marker(counts, marker)


def tally_task(
    history: Place, tile: Tile, adjoining: Sequence[TileHistory], area: Area, zones: Area | None, buffer_px: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Count a tile's pixels and hectares of each stratum of an assessment, and of what is mapped in each year."""
    strata, domains = _assessed(history, tile, adjoining, area, zones, buffer_px)
    hectares = pixel_hectares(tile)
    with open_store(history) as data:
        maps = ((int(year), data["class"][index].values) for index, year in enumerate(data["year"].values))
        return tally_strata(strata, domains, hectares), tally_maps(maps, domains, hectares)


def point_task(
    history: Place,
    tile: Tile,
    adjoining: Sequence[TileHistory],
    area: Area,
    zones: Area | None,
    buffer_px: int,
    wanted: dict[int, int],
    seed: int,
) -> pd.DataFrame:
    """Draw a tile's candidates for the sample of an assessment, each with its mapped class of every year."""
    strata, domains = _assessed(history, tile, adjoining, area, zones, buffer_px)
    points = draw_points(strata, wanted, domains, tile, seed=seed)
    y, x = points["row"].to_numpy() - tile.window[0], points["col"].to_numpy() - tile.window[1]
    with open_store(history) as data:
        classes = {str(year): data["class"][index].values[y, x] for index, year in enumerate(data["year"].values)}
    return points.assign(**classes)


def _assessed(
    history: Place, tile: Tile, adjoining: Sequence[TileHistory], area: Area, zones: Area | None, buffer_px: int
) -> tuple[np.ndarray, list[Domains]]:
    """Return the strata of a tile, as whole as if there were no tiles, and the regions and zones of its pixels."""
    row, col, height, width = tile.window
    window = (row - buffer_px, col - buffer_px, height + 2 * buffer_px, width + 2 * buffer_px)
    stores = {other: [store] for other, store in ((tile, history), *adjoining)}
    kind = _window(stores, window, "kind", OUTSIDE_AREA, np.uint8)[0]
    regions = _layer(history, "region")
    inner = tuple(slice(buffer_px, buffer_px + size) for size in tile.shape)
    strata = np.where(regions > 0, stratify(kind, buffer_px=buffer_px)[inner], np.uint8(0))
    by = _zonings(regions, tile, area, zones)
    return strata, [Domains(name, tuple(place.name for place in of.regions), codes) for name, codes, of in by]


def chip_task(points: pd.DataFrame, tile: Tile, cubes: dict[int, Place]) -> list[tuple[str, bytes]]:
    """Draw what was seen round some points of a tile in every year: id and PNG of each."""
    half = CHIP_PX // 2
    y, x = points["row"].to_numpy() - tile.window[0], points["col"].to_numpy() - tile.window[1]
    strip = slice(max(0, y.min() - half), y.max() + half + 1)
    bands = [BANDS.index(name) for name in FALSE_COLOUR]
    chips = np.zeros((len(points), len(cubes), len(bands), CHIP_PX, CHIP_PX), np.uint16)
    for index, store in enumerate(cubes.values()):
        with open_store(store) as data:
            composite = data["composite"][bands, strip].values
        around = np.pad(composite, ((0, 0), (half, half), (half, half)))  # beyond the tile nothing is shown
        for number, (down, right) in enumerate(zip(y - strip.start, x, strict=True)):
            chips[number, index] = around[:, down : down + CHIP_PX, right : right + CHIP_PX]
    return [(name, chip_strip(chip, list(cubes))) for name, chip in zip(points["id"], chips, strict=True)]


def _zonings(regions: np.ndarray, tile: Tile, area: Area, zones: Area | None) -> list[tuple[str, np.ndarray, Area]]:
    """Return what to count by: regions, and zones where there are any."""
    found = [("region", regions, area)]
    return found if zones is None else [*found, ("zone", zone_codes(zones, tile, regions), zones)]
