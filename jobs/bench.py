"""``mangroves bench``: what a cluster makes of the engine's tasks, and a page of it."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path

import click

from benchmarks.archive import SCALES, make_archive
from benchmarks.belt import Belt, extrapolate
from benchmarks.report import group_runs, read_files, write_report
from benchmarks.workloads import WORKLOADS, measure_scaling
from engine.cluster import check_visible, open_cluster
from jobs.config import JSON, cluster_options
from jobs.reporter import Reporter


@click.group("bench", invoke_without_command=True)
@cluster_options
@click.option("--workload", type=click.Choice(list(WORKLOADS)), default="cube", show_default=True, help="What to run.")
@click.option(
    "--scale", type=click.IntRange(1), default=2, show_default=True, help="Tasks for each thread of a worker."
)
@click.option("--runs", type=click.IntRange(1), default=3, show_default=True, help="Runs of each number of workers.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("runs/bench"),
    show_default=True,
    help="Folder that client and workers see; keeps the simulated archive, and runs.jsonl.",
)
@JSON
@click.pass_context
def command(
    context: click.Context,
    cluster: str,
    cluster_file: Path | None,
    workload: str,
    scale: int,
    runs: int,
    out: Path,
    as_json: bool,
) -> None:
    """Measure tasks on simulated scenes by one worker of a cluster, by all, and by halves between.

    Strong scaling gives every number of workers the same work, weak scaling each worker as much. A task of cube,
    classify or change is a tile-year of 1024 px; of scheduler a thousand without work. Runs are added to
    OUT/runs.jsonl, one a line.
    """
    if context.invoked_subcommand is None:
        measure(cluster, cluster_file, workload, scale, runs, out.resolve(), Reporter(as_json=as_json))


def measure(
    cluster: str, cluster_file: Path | None, workload: str, scale: int, runs: int, out: Path, reporter: Reporter
) -> None:
    """Measure, write down each run as it ends, and print a table of them."""
    work, lines = out / "work", out / "runs.jsonl"
    measured = []
    with open_cluster(cluster, cluster_file) as client:
        check_visible(client, out)
        reporter.say(f"archive   simulated scenes in {out}, made once, and what the workload starts from")
        try:
            ready = WORKLOADS[workload](make_archive(out, SCALES["small"]), work)
            for run in measure_scaling(client, ready, work, scale=scale, runs=runs):
                measured.append(run)
                with lines.open("a", encoding="utf-8") as file:
                    file.write(f"{run.line()}\n")
                reporter.say(
                    f"{workload:<9} {run.scaling}, {run.workers} worker(s): {run.tasks} tasks in {run.seconds:.1f} s"
                )
        finally:
            shutil.rmtree(work, ignore_errors=True)
    [groups] = group_runs(measured).values()
    unit, divisor = ("Mpx/s", 1e6) if groups[0].first.pixels else ("tasks/s", 1)
    reporter.table(
        f"{workload}{' (simulated)' if groups[0].first.simulated else ''}",
        ("scaling", "workers", "tasks", "seconds", unit, "MB/s read", "efficiency"),
        (
            (
                group.first.scaling,
                group.first.workers,
                group.first.tasks,
                f"{group.median(lambda run: run.seconds):.2f}",
                f"{group.rate / divisor:.2f}",
                f"{group.median(lambda run: (run.bytes or 0) / run.seconds) / 1e6:.0f}",
                f"{group.efficiency:.0%}",
            )
            for group in groups
        ),
    )
    result = {"runs": [asdict(run) for run in measured], "written": str(lines)}
    reporter.result(result, f"{len(measured)} runs added to {lines}; see them with: mangroves bench report {lines}")


@command.command("report", short_help="Write one HTML file of measured runs.")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUNS.jsonl...")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("bench.html"), help="File to write.")
@click.option("--price", type=float, default=Belt.dollars_per_core_hour, show_default=True, help="Dollars a core-hour.")
@click.option(
    "--remote",
    type=float,
    default=Belt.remote,
    show_default=True,
    help="How many times as long reading takes from your storage as from local files.",
)
@JSON
def report(files: tuple[Path, ...], output: Path, price: float, remote: float, as_json: bool) -> None:
    """Write tables and charts of runs, and what they say a map of the world's mangrove belt would take, to one page.

    RUNS.jsonl is what `mangroves bench` wrote; the JSON of `python -m benchmarks compare`, and the run.json of any run,
    may be given beside it.
    """
    belt = Belt(dollars_per_core_hour=price, remote=remote)
    measured = read_files(files)
    write_report(measured, output, belt)
    estimates = [asdict(one) for one in extrapolate(measured.runs, belt)]
    Reporter(as_json=as_json).result({"report": str(output), "belt": estimates}, f"report in {output}")
