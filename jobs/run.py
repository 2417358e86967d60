"""``mangroves run``: the whole way from a catalog to yearly maps and change rasters."""

from __future__ import annotations

from pathlib import Path

import click

from engine.params import RunParams
from jobs.context import Options, open_run, run_options
from jobs.detach import DETACH, detach_run
from jobs.steps import run_all


@click.command("run")
@click.option("--demo", is_flag=True, help="Map a simulated world: needs no configuration, network or account.")
@click.option(
    "--demo-folder",
    type=click.Path(path_type=Path),
    default=Path("demo"),
    show_default=True,
    help="Where --demo works.",
)
@DETACH
@run_options
def command(options: Options, demo: bool, demo_folder: Path, detach: bool) -> None:
    """Map an area, end to end; run it again to go on where it stopped."""
    if demo:
        if options.config is not None:
            raise click.UsageError("--demo brings its own configuration; leave CONFIG out")
        if detach:
            raise click.UsageError("--demo takes minutes and is not detached")
        from jobs.demo import run_demo

        run_demo(options, demo_folder)
    elif detach:
        detach_run(options, ["run", *([str(options.config)] if options.config else [])])
    else:
        map_area(options)


def map_area(options: Options, params: RunParams | None = None) -> None:
    """Do every step of a run that is not done yet, and say where its maps are."""
    with open_run(options, params=params) as run:
        result = run_all(run)
        lines = [f"done in {result['seconds']} s; maps (open in any GIS):", *(f"  {path}" for path in result["maps"])]
        if result["change"]:
            lines += ["change rasters:", *(f"  {path}" for path in result["change"])]
        lines.append(f"areas: {result['areas']}; record: {run.folder / 'run.json'}")
        run.reporter.result(result, "\n".join(lines))
