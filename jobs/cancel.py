"""``mangroves cancel``: ask the driver of a run to stop."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from engine.errors import StoreError
from engine.record import read_record
from jobs.config import JSON
from jobs.driver import STOP_SECONDS, read_driver, state_of, stop
from jobs.reporter import Reporter


@click.command("cancel")
@click.argument("run", type=click.Path(path_type=Path), metavar="RUN")
@JSON
def command(run: Path, as_json: bool) -> None:
    """Stop a run, as Ctrl-C in its terminal would; what is finished stays.

    RUN is the folder of the run.
    """
    driver, record = read_driver(run), read_record(run)
    if driver is None and record is None:
        raise StoreError(f"{run / 'run.json'} is not there", fix="name the folder of a run that was begun")
    reporter = Reporter(as_json=as_json)
    if driver is None or state_of(driver, run) == "ended":
        status = record["status"] if record else "unknown"
        reporter.result({"run": str(run), "stopped": False}, f"nothing works on {run}; its last command {status}")
        return
    reporter.say(f"cancel    asked {driver.name} to stop, waiting ...")
    if not stop(driver, run):
        reporter.result(
            {"run": str(run), "stopped": False},
            f"{driver.name} has not stopped within {STOP_SECONDS} s; wait, or ask again",
        )
        sys.exit(1)
    status = (read_record(run) or {"status": "not begun"})["status"]
    said = f"the run is {status}" if status == "finished" else f"mangroves resume {run} goes on from what is finished"
    reporter.result(
        {"run": str(run), "stopped": True, "status": status, "driver": driver.model_dump(mode="json")},
        f"{driver.name} has stopped; {said}",
    )
