"""``mangroves run``: the whole way from a catalog to yearly maps and change rasters."""

from __future__ import annotations

from pathlib import Path

import click

from jobs.context import Options, open_run, run_options
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
@run_options
def command(options: Options, demo: bool, demo_folder: Path) -> None:
    """Map an area, end to end; run it again to go on where it stopped."""
    if demo:
        if options.config is not None:
            raise click.UsageError("--demo brings its own configuration; leave CONFIG out")
        from jobs.demo import run_demo

        run_demo(options, demo_folder)
        return
    with open_run(options) as run:
        result = run_all(run)
        lines = [f"done in {result['seconds']} s; maps (open in any GIS):", *(f"  {path}" for path in result["maps"])]
        if result["change"]:
            lines += ["change rasters:", *(f"  {path}" for path in result["change"])]
        lines.append(f"areas: {result['areas']}; record: {run.folder / 'run.json'}")
        run.reporter.result(result, "\n".join(lines))
