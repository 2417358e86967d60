"""``mangroves plan``: tiles, scenes, looks, memory and hours, before anything runs."""

from __future__ import annotations

from collections.abc import Sequence

import click

from engine.cluster import worker_bytes, worker_count
from engine.errors import MaskError
from engine.masks import labelled_years
from engine.plan import DEFAULT_MB_PER_SECOND, Plan, check_disk, make_plan
from engine.scenes import Scene
from jobs.context import Options, Run, open_run, run_options
from jobs.search import find_scenes


def plan_run(run: Run, scenes: Sequence[Scene]) -> Plan:
    """Cut a run into tile-years that fit the workers and the disk, or refuse it with the numbers."""
    memory, cube = worker_bytes(run.client), run.params.cube
    with run.record.stage("plan") as counts:
        plan = make_plan(
            run.area,
            run.periods,
            scenes,
            block_px=cube.block_px,
            worker_bytes=memory,
            keep_scenes=cube.keep == "scenes",
            requests=cube.requests,
            read_again=_thinned_years(run),
            balance=cube.balance,
            low_tide=cube.tide == "low",
        )
        if run.params.store is None:
            check_disk(plan, run.folder)
        counts.update(tiles=len(plan.tiles), tile_years=len(plan.tile_years), block_px=plan.block_px)
    return plan


def _thinned_years(run: Run) -> list[int]:
    """Return the years that thinned composites are drawn of."""
    params = run.params
    if params.train.source != "here" or not params.sample.thinned:
        return []
    try:
        return list(labelled_years(params.labels, params.sample.years or params.years))
    except MaskError:
        return []  # none is labelled; what needs labels tells it


@click.command("plan")
@click.option(
    "--mb-per-second",
    type=click.FloatRange(min=0.01),
    default=DEFAULT_MB_PER_SECOND,
    show_default=True,
    help="Compressed MB/s one worker reads and composites; `mangroves doctor --planetary-computer` measures reading.",
)
@run_options
def command(options: Options, mb_per_second: float) -> None:
    """Print what a run will do, and refuse what will not fit."""
    with open_run(options) as run:
        plan = plan_run(run, find_scenes(run))
        summary = plan.summary(worker_count(run.client), mb_per_second)
        run.reporter.table(
            "Scenes, and clear looks of a mean pixel by the catalog's cloud cover: at most",
            ("year", "platform", "scenes", "clear looks"),
            ((r["year"], r["platform"], r["scenes"], r["clear_looks_at_most"]) for r in summary["looks"]),
        )
        lines = [
            f"{summary['tiles']} tiles x {len(plan.years)} years = {summary['tile_years']} tile-years, "
            f"{summary['tasks']} tasks",
            f"{summary['pixels_per_year'] / 1e6:.1f} Mpx a year, about {summary['read_gb_estimated']} GB to read "
            f"and {summary['write_gb_estimated']} GB to write",
            f"a task holds at most {summary['task_memory_gb_bound']} GB, in blocks of {plan.block_px} rows",
            f"about {summary['hours_estimated']} h on {summary['workers']} workers at {mb_per_second} MB/s each",
        ]
        run.reporter.result(summary, "\n".join(lines))
