"""``mangroves change``: compare years into change rasters and area tables."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import product
from typing import Any

import click
import pandas as pd

from engine.area import Area
from engine.change import change_table, merge_tables, read_zones, write_table, year_pairs
from engine.history import least_px
from engine.history_tasks import TileHistory, change_path, change_task
from engine.legend import PAIRS
from engine.model import Model
from engine.places import Place, entries, modified, remove
from engine.plan import Plan
from engine.raster import write_vrt
from engine.store import fingerprint_of, is_current, marker_path, read_marker
from jobs.change_pair import or_pair
from jobs.change_products import show_rates, write_patches, write_series
from jobs.classify import classify_maps, write_styles
from jobs.context import Options, Run, open_run, run_options
from jobs.cube import build_cubes
from jobs.history import history_tags, trace_histories
from jobs.plan import plan_run
from jobs.search import find_scenes
from jobs.train import check_training, fit_model


def open_comparison(run: Run) -> tuple[list[tuple[int, int]], Area | None]:
    """Return the pairs of years to compare and the zones to tally by; called before there are maps, to fail early."""
    params = run.params.change
    zones = read_zones(params.zones, params.by, run.trust) if params.zones and params.by else None
    return year_pairs(run.params.years, params.pairs), zones


def compare_years(run: Run, plan: Plan, model: Model) -> tuple[list[Place], pd.DataFrame]:
    """Trace what is missing, then compare pairs of years, outline patches and lay out the years; return what there is.

    Returns
    -------
    list of Place
        Mosaics of every pair of years.
    DataFrame
        A row a pair and region, and a pair and zone where ``change.zones`` is set: mangrove before and after, loss,
        gain and net, in hectares inside the area; of all change, and of that in patches of the minimum mapping unit.
    """
    pairs, zones = open_comparison(run)
    params = run.params.change
    histories = trace_histories(run, plan, model, zones)
    rasters, summary = _compare_pairs(run, plan, histories, pairs, zones) if pairs else ([], pd.DataFrame())
    patches, _ = write_patches(run, histories, zones=zones, least_px=least_px(params))
    _, rates = write_series(run, histories, zones=zones, recovery_years=params.recovery_years)
    if not rates.empty:
        show_rates(run, rates)
    run.reporter.say(f"patches   of all years together: {patches}")
    return rasters, summary


def _compare_pairs(
    run: Run, plan: Plan, histories: Sequence[TileHistory], pairs: Sequence[tuple[int, int]], zones: Area | None
) -> tuple[list[Place], pd.DataFrame]:
    """Compare two years of every tile's history, for each pair."""
    params = run.params.change
    _remove_others(run, histories, pairs)

    def find(of: tuple[tuple[int, int], TileHistory]) -> tuple[tuple[Any, ...], bool]:
        pair, (tile, history) = of
        store = run.outputs / "change" / f"{pair[0]}-{pair[1]}" / f"{tile.id}.zarr"
        fingerprint = fingerprint_of(
            "change-3",
            (read_marker(history) or {}).get("fingerprint"),
            [(zone.name, zone.geometry.wkb_hex) for zone in zones.regions] if zones else None,
        )
        tags = {**history_tags(run), "years": f"{pair[0]}-{pair[1]}"}
        call = (history, tile, pair, run.area, zones, params, store, fingerprint, tags)
        return call, is_current(store, fingerprint) and change_path(store).is_file()

    found = run.each(find, product(pairs, histories))
    all_calls, todo = [call for call, _ in found], [call for call, current in found if not current]
    run.say_skipped("change", len(all_calls), len(todo))
    with run.record.stage("change") as counts:
        for _ in run.tasks(change_task, todo, len(todo), "change", shared=(zones,)):
            pass
        counts.update(done=len(todo), skipped=len(all_calls) - len(todo))
    stores = [store for *_, store, _, _ in all_calls]
    tables = []
    for (_, _, pair, *_), marker in zip(all_calls, run.each(read_marker, stores), strict=True):
        tables.append(pd.DataFrame((marker or {"areas": []})["areas"]).assign(first=pair[0], last=pair[1]))
    merged = merge_tables(tables)
    write_table(run.folder / "transitions.csv", merged, notice=run.params.notice)
    summary = change_table(merged)
    write_table(run.folder / "change.csv", summary, notice=run.params.notice)
    for name in ("transitions.csv", "change.csv"):
        run.describe(run.folder / name, stores)
    zone_numbers = sorted({tile.zone for tile in plan.tiles})
    return [join_pair(run, plan, pair, zone) for pair in pairs for zone in zone_numbers], summary


def _remove_others(run: Run, histories: Sequence[TileHistory], pairs: Sequence[tuple[int, int]]) -> None:
    """Delete what earlier commands made of pairs that are not asked for now, unless it is of the same histories."""
    latest = max(run.each(lambda one: modified(marker_path(one[1])), histories))
    for folder in entries(run.outputs / "change")[0]:
        match = re.fullmatch(r"(\d{4})-(\d{4})", folder.name)
        if match is None or (int(match[1]), int(match[2])) in pairs:
            continue
        if any(modified(path) < latest for path in entries(folder)[1] if path.suffix == ".json"):
            remove(folder)


def join_pair(run: Run, plan: Plan, pair: tuple[int, int], zone: int) -> Place:
    """Write the VRT of one pair and zone over its tiles, with QGIS styles."""
    name = f"{pair[0]}-{pair[1]}"
    folder = run.outputs / "change" / name
    path = folder / f"change_{name}_z{zone:02d}.vrt"
    stores = [folder / f"{tile.id}.zarr" for tile in plan.tiles if tile.zone == zone]
    tifs = [change_path(store) for store in stores]
    write_vrt(path, tifs, legend=PAIRS, tags={**history_tags(run), "years": name})
    write_styles(run, (path, *tifs), PAIRS)
    run.describe(path, stores)
    return path


def show_change(run: Run, table: pd.DataFrame) -> None:
    """Print loss, gain and net of every pair of years, and by region and zone from the first year to the last."""
    if table.empty:
        run.reporter.say("change    one year only, nothing to compare")
        return
    hectares = ["before_ha", "after_ha", "loss_ha", "gain_ha", "provisional_loss_ha", "provisional_gain_ha", "net_ha"]
    of_pair = ["first", "last", "least_ha"]
    whole = table[table["by"] == "region"].groupby(of_pair, sort=False, as_index=False)[hectares].sum()
    longest = table[(table["first"] == table["first"].min()) & (table["last"] == table["last"].max())]
    rows = pd.concat([whole.assign(where="whole area"), longest]).to_dict("records")
    run.reporter.table(
        "Change, hectares by pixel count inside the area (all years together, not error-adjusted); of the last "
        f"{run.params.change.recovery_years} years provisional",
        ("years", "where", "patches", "before", "after", "loss", "gain", "prov. loss", "prov. gain", "net"),
        (
            (
                f"{row['first']}-{row['last']}",
                row["where"],
                f">= {row['least_ha']:g} ha" if row["least_ha"] else "all",
                *(f"{row[name]:,.1f}" for name in hectares),
            )
            for row in rows
        ),
    )


@click.command("change")
@click.option("--zones", type=click.Path(), help="Polygon file to tally by; the same as --set change.zones=FILE.")
@click.option("--by", help="Column of --zones that names them.")
@run_options
@or_pair
def command(options: Options, zones: str | None, by: str | None) -> None:
    """Compare years into change rasters and tables of hectares; make what is missing first.

    Of A.tif B.tif in place of CONFIG compare two class rasters on one grid, also foreign: docs/comparing-maps.md.
    """
    extra = [f"change.{key}={value}" for key, value in (("zones", zones), ("by", by)) if value]
    with open_run(options.with_overrides(*extra)) as run:
        check_training(run)
        open_comparison(run)
        plan = plan_run(run, find_scenes(run))
        build_cubes(run, plan)
        model, folder = fit_model(run, plan)
        classify_maps(run, plan, model, folder)
        rasters, table = compare_years(run, plan, model)
        show_change(run, table)
        run.reporter.result(
            {"change": [str(path) for path in rasters], "table": table.to_dict("records")},
            "\n".join(["change rasters:", *(f"  {path}" for path in rasters)]),
        )
