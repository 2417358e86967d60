"""``mangroves cube``: every tile-year composited into an annual zarr cube."""

from __future__ import annotations

from typing import Any

import click

from engine.places import Place
from engine.plan import Plan, TileYear
from engine.scratch import release_scratch
from engine.store import fingerprint_of, read_marker
from engine.tasks import cube_is_current, cube_task
from jobs.context import Options, Run, open_run, run_options
from jobs.plan import plan_run
from jobs.search import find_scenes


def cube_path(run: Run, part: TileYear) -> Place:
    """Return the store of a tile-year's cube."""
    return run.outputs / "cube" / part.tile.id / f"{part.year}.zarr"


def build_cubes(run: Run, plan: Plan) -> None:
    """Make the cubes that are missing or of other inputs."""
    params = run.params.cube
    todo = []

    def find(part: TileYear) -> tuple[TileYear, str, list[dict[str, Any]], bool]:
        fingerprint = fingerprint_of(
            "cube-2",
            part.tile.zone,
            part.tile.window,
            part.year,
            [(scene.id, scene.processed) for scene in part.scenes],
            params.model_dump(exclude={"block_px", "requests"}),
        )
        lost = (read_marker(cube_path(run, part)) or {"lost": []})["lost"]
        return part, fingerprint, lost, cube_is_current(cube_path(run, part), params, fingerprint)

    for part, fingerprint, lost, current in run.each(find, plan.tile_years):
        # A cube that went without scenes stands only as long as that is accepted.
        if current and (run.params.skip_bad or not lost):
            # Said again: a command killed after the cube was written may not have recorded it.
            run.note_lost(part, lost)
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
            run.record.forget_lost(marker["scenes"], tile=part.tile.id, year=part.year)
            run.note_lost(part, marker["lost"])
        counts.update(done=len(made), skipped=len(plan.tile_years) - len(made))
        if made:
            # Also of workers that get no tile before a training takes their memory.
            run.client.run(release_scratch, on_error="ignore")
    without = sum(len(marker["lost"]) for marker in made)
    if without:
        run.reporter.say(f"cube      went without {without} scene(s) that could not be read; see run.json")


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
