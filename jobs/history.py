"""The histories of a run: every tile traced through all years, and what that says of the maps."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from engine.area import Area
from engine.change import merge_tables, write_table
from engine.classify import as_asked
from engine.files import write_text
from engine.grid import Tile
from engine.history import RegionRates, fit_region, reach_px
from engine.history_tasks import (
    TileHistory,
    TileMaps,
    Tracing,
    first_pixels,
    history_is_current,
    history_paths,
    history_task,
    meet,
    odds_task,
)
from engine.kernels.series import Rates
from engine.legend import CHANGES, CLASSES
from engine.model import Model
from engine.places import Place
from engine.plan import Plan
from engine.raster import write_vrt
from engine.sample import part_path
from engine.store import fingerprint_of, read_marker
from jobs.classify import map_path, model_tags, write_styles
from jobs.context import Run
from jobs.cube import cube_path


def history_path(run: Run, tile: Tile) -> Place:
    """Return the store of a tile's history."""
    return run.outputs / "change" / "history" / f"{tile.id}.zarr"


def trace_histories(run: Run, plan: Plan, model: Model, zones: Area | None) -> list[TileHistory]:
    """Trace every tile through all years where that is missing, and say how well its probabilities are calibrated."""
    params = run.params
    asked = as_asked(model, params.classify)
    maps = {
        tile: TileMaps(
            tile=tile,
            maps=tuple(map_path(run, part) for part in parts),
            cubes=tuple(cube_path(run, part) for part in parts),
        )
        for tile, parts in _by_tile(plan).items()
    }
    hashes = dict(zip(maps, run.each(_inputs, maps.values()), strict=True))
    samples = _samples(run, plan)
    adjoining = adjoining_tiles(maps, reach_px(params.change))
    around = {tile: tuple(maps[other] for other in others) for tile, others in adjoining.items()}
    tracing = Tracing(
        years=plan.years,
        threshold=asked.threshold,
        params=params.change,
        area=run.area,
        zones=zones,
        rates={},
        samples={tile: {year: place for year, (place, _) in parts.items()} for tile, parts in samples.items()},
    )
    common: list[Any] = [
        "history-2",
        asked.threshold,
        params.change.tracing,
        [(region.name, region.geometry.wkb_hex) for region in run.area.regions],
        [(zone.name, zone.geometry.wkb_hex) for zone in zones.regions] if zones else None,
    ]
    if params.change.model == "hmm":
        rates = _rates(run, maps, around, tracing, fingerprint_of(*common, sorted(map(str, hashes.values()))))
        tracing = Tracing(**{**tracing.__dict__, "rates": rates})
        common.append([(code, region) for code, region in sorted(rates.items())])

    def find(tile: Tile) -> tuple[tuple[Any, ...], bool]:
        store = history_path(run, tile)
        labelled = {year: sha for year, (_, sha) in samples.get(tile.id, {}).items()}
        beside = [hashes[other.tile] for other in around[tile]]
        fingerprint = fingerprint_of(*common, hashes[tile], beside, labelled)
        tags = {**history_tags(run), **model_tags(model), "years": f"{plan.years[0]}-{plan.years[-1]}"}
        call = (maps[tile], around[tile], tracing, store, fingerprint, tags)
        return call, history_is_current(store, fingerprint)

    found = run.each(find, maps)
    todo = [call for call, current in found if not current]
    run.say_skipped("history", len(found), len(todo))
    with run.record.stage("history") as counts:
        for _ in run.tasks(history_task, todo, len(todo), "history", shared=(tracing,)):
            pass
        counts.update(done=len(todo), skipped=len(found) - len(todo))
        histories = [(tile, history_path(run, tile)) for tile in maps]
        markers = [marker for marker in run.each(lambda one: read_marker(one[1]), histories) if marker]
        if error := _calibration_error(run, model, markers):
            counts.update(error)
    kinds = merge_tables(pd.DataFrame(marker["areas"]) for marker in markers)
    write_table(run.folder / "history.csv", kinds, notice=params.notice)
    stores = [store for _, store in histories]
    run.describe(run.folder / "history.csv", stores)
    _join_tiles(run, plan, histories)
    return histories


def history_tags(run: Run) -> dict[str, str]:
    """Return what is said of all that stands on histories: the run, and how years are told together."""
    return {**run.tags, "change": ", ".join(f"{name} {value}" for name, value in run.params.change.tracing.items())}


def _by_tile(plan: Plan) -> dict[Tile, list[Any]]:
    parts: dict[Tile, list[Any]] = {tile: [] for tile in plan.tiles}
    for part in sorted(plan.tile_years, key=lambda part: part.year):
        parts[part.tile].append(part)
    return parts


def _inputs(maps: TileMaps) -> list[str | None]:
    """Return what of a tile's stores decides a history."""
    return [(read_marker(store) or {}).get("sha256") for store in (*maps.maps, *maps.cubes)]


def adjoining_tiles(tiles: Iterable[Tile], reach: int) -> dict[Tile, tuple[Tile, ...]]:
    """Return of each tile the others of its zone that hold pixels at most ``reach`` away from one of its own."""
    at = {(tile.zone, tile.row, tile.col): tile for tile in tiles}

    def near(tile: Tile) -> Iterator[Tile]:
        row, col, height, width = tile.window
        window = (row - reach, col - reach, height + 2 * reach, width + 2 * reach)
        for down, right in product((-1, 0, 1), repeat=2):
            other = at.get((tile.zone, tile.row + down, tile.col + right))
            if other is not None and other != tile and meet(window, other.window):
                yield other

    return {tile: tuple(near(tile)) for tile in at.values()}


def _samples(run: Run, plan: Plan) -> dict[str, dict[int, tuple[Place, str]]]:
    """Return the finished parts of the run's own sample and the fingerprint of each, by tile and year."""
    folder = run.outputs / "sample"
    if run.params.train.source != "here":
        return {}
    parts = [(part.tile.id, part.year, part_path(folder, part.tile.id, part.year)) for part in plan.tile_years]
    found: dict[str, dict[int, tuple[Place, str]]] = {}
    for (tile, year, place), marker in zip(parts, run.each(lambda part: read_marker(part[2]), parts), strict=True):
        if marker:
            found.setdefault(tile, {})[year] = (place, marker["fingerprint"])
    return found


def _rates(
    run: Run,
    maps: dict[Tile, TileMaps],
    around: dict[Tile, tuple[TileMaps, ...]],
    tracing: Tracing,
    fingerprint: str,
) -> dict[int, RegionRates]:
    """Return how often the land of each region changes, from pixels that stand for it; say what came out.

    Estimated once: the next command reads what was found of the same maps.
    """
    place = run.outputs / "change" / "rates.json"
    try:
        found = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = {}
    if found.get("fingerprint") != fingerprint:
        calls = [(maps[tile], around[tile], tracing, run.params.seed) for tile in maps]
        best: dict[int, tuple[np.ndarray, ...]] = {}
        for _, regions in run.tasks(odds_task, calls, len(calls), "rates", shared=(tracing,)):
            best |= {code: first_pixels(best.get(code), drawn) for code, drawn in regions.items()}
        fits = [(code, fit_region(best[code][1], best[code][2], tracing.threshold)) for code in sorted(best)]
        found = {"fingerprint": fingerprint, "rates": [[code, *fit.rates, fit.mangrove] for code, fit in fits]}
        write_text(place, json.dumps(found))
    fitted = {code: RegionRates(Rates(loss, gain), mangrove) for code, loss, gain, mangrove in found["rates"]}
    run.reporter.table(
        "Rates of change that the hidden Markov model takes, per cent a year",
        ("region", "loss", "gain", "mangrove in the first year"),
        (
            (
                run.area.regions[code - 1].name,
                f"{100 * region.rates.loss:.3f}",
                f"{100 * region.rates.gain:.3f}",
                f"{region.mangrove:.1%}",
            )
            for code, region in fitted.items()
        ),
    )
    return fitted


def _calibration_error(run: Run, model: Model, markers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return, and say, the expected calibration error of the histories' probabilities on the run's own labels."""
    names = {name for marker in markers for name in marker["calibration"]}
    held = sorted(names & set(model.hold_out)) or sorted(names)
    if not held:
        return {}
    total = sum(
        np.array(marker["calibration"][name]) for marker in markers for name in held if name in marker["calibration"]
    )
    land, gap = np.asarray(total)
    error = float(np.abs(gap).sum() / land.sum())
    whose = "hold-out" if set(held) <= set(model.hold_out) else "regions trained on"
    run.reporter.say(
        f"history   probabilities of all years together: expected calibration error {error:.3f} "
        f"(wall to wall, against the mask, {whose})"
    )
    return {"calibration_error": round(error, 4), "calibration_population": f"wall to wall, mask, {whose}"}


def _join_tiles(run: Run, plan: Plan, histories: Sequence[TileHistory]) -> None:
    """Write a VRT a zone over the COGs of each layer, with QGIS styles of those that have a legend."""
    legends = {"kind": CHANGES, "class": CLASSES}
    for zone in sorted({tile.zone for tile in plan.tiles}):
        stores = [store for tile, store in histories if tile.zone == zone]
        for kind in history_paths(stores[0]):
            tifs = [history_paths(store)[kind] for store in stores]
            path = run.outputs / "change" / "history" / f"{kind}_z{zone:02d}.vrt"
            write_vrt(path, tifs, legend=CHANGES if kind == "kind" else None, tags=history_tags(run))
            if kind in legends:
                write_styles(run, (path, *tifs), legends[kind])
            run.describe(path, stores)
