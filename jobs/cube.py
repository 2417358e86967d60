"""``mangroves cube``: every tile-year composited into an annual zarr cube."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import Any, Final

import click
import pandas as pd

from engine.files import write_text
from engine.grid import Tile
from engine.places import Place
from engine.plan import Plan, TileYear
from engine.scratch import release_scratch
from engine.store import fingerprint_of, is_current, read_marker
from engine.tasks import cube_is_current, cube_task, wetness_task
from jobs.context import Options, Run, open_run, run_options
from jobs.harmonise import cube_params
from jobs.plan import plan_run
from jobs.search import find_scenes


def cube_path(run: Run, part: TileYear) -> Place:
    """Return the store of a tile-year's cube."""
    return run.outputs / "cube" / part.tile.id / f"{part.year}.zarr"


def build_cubes(run: Run, plan: Plan, *, harmonised: Plan | None = None) -> None:
    """Make the cubes that are missing or of other inputs.

    Sensors are compared over ``harmonised``, the whole run, where ``plan`` is a part of it.
    """
    params = cube_params(run, harmonised or plan)
    todo = []

    def find(part: TileYear) -> tuple[TileYear, str, dict[str, Any], bool]:
        fingerprint = fingerprint_of(
            "cube-3",
            part.tile.zone,
            part.tile.window,
            part.year,
            [(scene.id, scene.processed) for scene in part.scenes],
            params.model_dump(exclude={"block_px", "requests"}),
        )
        marker = read_marker(cube_path(run, part)) or {"lost": []}
        return part, fingerprint, marker, cube_is_current(cube_path(run, part), params, fingerprint)

    markers: dict[str, dict[str, Any]] = {}
    for part, fingerprint, marker, current in run.each(find, plan.tile_years):
        # A cube that went without scenes stands only as long as that is accepted.
        if current and (run.params.skip_bad or not marker["lost"]):
            # Said again: a command killed after the cube was written may not have recorded it.
            run.note_lost(part, marker["lost"])
            markers[part.key] = marker
        else:
            todo.append(
                (
                    part,
                    cube_path(run, part),
                    params,
                    run.access,
                    plan.block_px,
                    fingerprint,
                    run.params.skip_bad,
                    run.tags,
                )
            )
    run.say_skipped("cube", len(plan.tile_years), len(todo))
    with run.record.stage("cube") as counts:
        made: list[dict[str, Any]] = []
        for (part, *_), marker in run.tasks(cube_task, todo, len(todo), "cube"):
            made.append(marker)
            markers[part.key] = marker
            run.record.forget_lost(marker["scenes"], tile=part.tile.id, year=part.year)
            run.note_lost(part, marker["lost"])
        counts.update(done=len(made), skipped=len(plan.tile_years) - len(made))
        if made:
            # Also of workers that get no tile before a training takes their memory.
            run.client.run(release_scratch, on_error="ignore")
    report_years(run, plan)
    report_losses(run, plan, markers)


LOST_COLUMNS: Final = ("tile", "year", "scene", "asset", "kind", "cause", "attempts", "pixels")


def report_losses(run: Run, plan: Plan, markers: Mapping[str, dict[str, Any]]) -> None:
    """Write ``lost.csv``, the scenes that cubes went without and what that cost in pixels, and say it."""
    path = run.folder / "lost.csv"
    rows = [
        {"tile": part.tile.id, "year": part.year, **loss}
        for part in plan.tile_years
        for loss in markers[part.key]["lost"]
    ]
    if not rows:
        path.unlink(missing_ok=True)
        return
    table = pd.DataFrame(rows, columns=list(LOST_COLUMNS))
    noted = table.assign(notice=run.params.notice) if run.params.notice else table
    write_text(path, noted.to_csv(index=False, lineterminator="\n"))
    pixels = sum(count for marker in markers.values() for count in marker.get("lost_px", {}).values())
    run.reporter.say(
        f"cube      went without {len(rows)} scene(s) that could not be read: {pixels:,} pixel-years have fewer looks; "
        "see lost.csv and lost_count in the cubes"
    )


def report_years(run: Run, plan: Plan) -> None:
    """Write ``years.csv``: when, by what and how well each tile-year was seen, how wet its looks were, if it is poor.

    Poor is a year in which of the pixels that some year sees not half have ``cube.min_looks`` clear looks.
    """
    seen: dict[Tile, list[dict[str, Any]]] = {}
    markers = run.each(lambda part: read_marker(cube_path(run, part)), plan.tile_years)
    for part, marker in zip(plan.tile_years, markers, strict=True):
        if marker is not None:
            seen.setdefault(part.tile, []).append(marker)
    calls = []
    for tile, of_tile in seen.items():
        years = [marker["year"] for marker in of_tile]
        fingerprint = fingerprint_of("wetness-3", years, [marker["sha256"] for marker in of_tile])
        cubes = [run.outputs / "cube" / tile.id / f"{year}.zarr" for year in years]
        calls.append((cubes, tile, years, wetness_path(run, tile), fingerprint))
    current = run.each(lambda call: is_current(call[-2], call[-1]), calls)
    todo = [call for call, done in zip(calls, current, strict=True) if not done]
    path = run.folder / "years.csv"
    if not todo and path.is_file():
        return
    for _ in run.tasks(wetness_task, todo, len(todo), "wetness"):
        pass
    levels = run.each(lambda tile: read_marker(wetness_path(run, tile)) or {"levels": {}}, seen)
    rows = [
        row
        for (tile, of_tile), wet in zip(seen.items(), levels, strict=True)
        for row in _year_rows(tile, of_tile, wet["levels"])
    ]
    table = pd.DataFrame(rows).convert_dtypes()
    noted = table.assign(notice=run.params.notice) if run.params.notice else table
    write_text(path, noted.to_csv(index=False, lineterminator="\n"))
    if poor := sum(row["poor"] for row in rows):
        run.reporter.say(f"cube      {poor} of {len(rows)} tile-years are poor, less than half seen well: years.csv")


def _year_rows(tile: Tile, seen: list[dict[str, Any]], levels: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of a tile's years, from their markers and their levels of wetness by cell."""
    most, pixels = max(marker["observed_px"] for marker in seen), math.prod(tile.shape)
    rows = []
    for marker in seen:
        cells = [level for row in levels.get(str(marker["year"]), []) for level in row if level is not None]
        early, middle, late = marker["seen"]["quartile_days"] or (None, None, None)
        well = marker["observed_px"] - marker["poorly_observed_px"]
        rows.append(
            {
                "tile": tile.id,
                "year": marker["year"],
                "sensors": marker["seen"]["sensors"],
                "looks": marker["looks"],
                "mean_clear_looks": marker["mean_clear_looks"],
                "observed_share": round(marker["observed_px"] / pixels, 4),
                "poorly_observed_share": round(marker["poorly_observed_px"] / pixels, 4),
                "poor": most == 0 or 2 * well < most,
                "slc_off_share": marker["seen"]["slc_off_share"],
                "first": marker["seen"]["first"],
                "last": marker["seen"]["last"],
                "day_p25": early,
                "day_p50": middle,
                "day_p75": late,
                "quarters": marker["seen"]["quarters"],
                "wetness": round(statistics.median(cells), 4) if cells else None,
                "wetness_least": min(cells, default=None),
                "wetness_most": max(cells, default=None),
            }
        )
    return rows


def wetness_path(run: Run, tile: Tile) -> Place:
    """Return the levels of wetness of a tile's years, by cell."""
    return run.outputs / "cube" / tile.id / "wetness.json"


def observed_summary(run: Run, plan: Plan) -> list[dict[str, Any]]:
    """Return per year the share of pixels observed and the mean clear looks, from the completion markers."""
    rows = []
    for year in plan.years:
        markers = run.each(read_marker, [cube_path(run, part) for part in plan.tile_years if part.year == year])
        pixels = [t.shape[0] * t.shape[1] for t in plan.tiles]
        known = [(marker, px) for marker, px in zip(markers, pixels, strict=True) if marker]
        total = sum(px for _, px in known) or 1
        rows.append(
            {
                "year": year,
                "observed_share": round(sum(m["observed_px"] for m, _ in known) / total, 4),
                "poorly_observed_share": round(sum(m["poorly_observed_px"] for m, _ in known) / total, 4),
                "mean_clear_looks": round(sum(m["mean_clear_looks"] * px for m, px in known) / total, 2),
                "looks": sum(m["looks"] for m, _ in known),
            }
        )
    return rows


@click.command("cube")
@run_options
def command(options: Options) -> None:
    """Composite every tile-year of a run: its bands, clear looks, ranges, water frequency."""
    with open_run(options) as run:
        plan = plan_run(run, find_scenes(run))
        build_cubes(run, plan)
        rows = observed_summary(run, plan)
        run.reporter.table(
            "Cubes",
            ("year", "observed", "under 3 looks", "mean clear looks"),
            (
                (r["year"], f"{r['observed_share']:.1%}", f"{r['poorly_observed_share']:.1%}", r["mean_clear_looks"])
                for r in rows
            ),
        )
        run.reporter.result({"cubes": str(run.outputs / "cube"), "years": rows}, f"cubes in {run.outputs / 'cube'}")
