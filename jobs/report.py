"""``mangroves report``: one HTML file of all that a run saw, learnt, mapped, lost and cost."""

from __future__ import annotations

from pathlib import Path

import click

from benchmarks.report import read_files
from engine.trust import check_inside
from jobs.config import ALLOW_ROOT, JSON, config_options, given_config, named_run, trust_of
from jobs.report_page import write_report
from jobs.reporter import Reporter


@click.command("report")
@click.argument("run", required=False, type=click.Path(path_type=Path), metavar="[RUN]")
@config_options("Run configuration (YAML) that names the run, in place of RUN.")
@click.option(
    "--bench",
    "benches",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Show measurements too: runs.jsonl of `mangroves bench`; may be repeated.",
)
@ALLOW_ROOT
@JSON
def command(
    run: Path | None,
    config: Path | None,
    overrides: tuple[str, ...],
    benches: tuple[Path, ...],
    allow_root: tuple[str, ...],
    as_json: bool,
) -> None:
    """Write one HTML file of a run: provenance, looks, model, areas and change, what was lost, what it cost.

    RUN is the folder of a run, finished or not. The page is RUN/report.html; what was not run is listed at its end. Its
    tables are files of the run, those that no other command writes in RUN/report.
    """
    params, trust = given_config(config, overrides), trust_of(config, roots=allow_root)
    reporter = Reporter(as_json=as_json)
    run, record, place = named_run(run, params, trust)
    reporter.say(f"report    reading what {run} holds")
    check_inside(run, trust.with_roots(run))
    beside = [run / name for name in ("runs.jsonl", "bench.json") if (run / name).is_file()]
    written = write_report(run, record, place, read_files(benches or beside))
    if record.get("notice"):
        reporter.say(str(record["notice"]))
    for step, line in written["not_run"].items():
        reporter.say(f"{step:<9} not run: {line}")
    reporter.result(written, f"report in {written['report']}")
