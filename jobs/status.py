"""``mangroves status``: how far a run is, how fast, and what drives it."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click

from engine.errors import StoreError
from engine.files import cannot_read
from engine.places import ObjectPath, Place, entries
from engine.record import read_record
from jobs.config import ALLOW_ROOT, JSON, config_options, given_config, named_run, trust_of
from jobs.driver import Driver, read_driver, state_of
from jobs.journal import plain, read_progress
from jobs.reporter import Reporter

_PAIR: Final = re.compile(r"\d{4}-\d{4}")


@click.command("status")
@click.argument("run", required=False, metavar="[RUN]")
@config_options("Run configuration (YAML) that names the run, in place of RUN.")
@ALLOW_ROOT
@JSON
def command(
    run: str | None, config: Path | None, overrides: tuple[str, ...], allow_root: tuple[str, ...], as_json: bool
) -> None:
    """Say how far a run is: stages, tile-years done, rate and time left, scenes lost, what drives it.

    RUN is the folder of the run, `out/name` of its configuration; or where its outputs go in a store, where a copy of
    its record lies.
    """
    params, trust = given_config(config, overrides), trust_of(config, roots=allow_root)
    folder: Path | None = None
    outputs: Place
    if run is not None and "://" in run and params is None:
        outputs = ObjectPath(trust.store(run, what="RUN"))
        copied = read_record(outputs)
        if copied is None:
            raise StoreError(f"{outputs / 'run.json'} is not there", fix="name where a run's outputs go: store/name")
        record = copied
    else:
        folder, record, outputs = named_run(None if run is None else Path(run), params, trust)
    reporter = Reporter(as_json=as_json)
    done = finished_in(outputs)
    planned = record["stages"].get("plan", {}).get("counts", {}).get("tile_years")
    shown: dict[str, Any] = {**done, "classify": done["maps"]}
    if planned:
        shown |= {name: f"{shown[name]} of {planned} tile-years" for name in ("cube", "classify")}
    reporter.table(
        f"{record['name']}: last command {record['status']}",
        ("stage", "seconds", "last command", "finished"),
        (
            (
                name,
                f"{stage['seconds']:.1f}",
                ", ".join(f"{key} {value}" for key, value in stage.get("counts", {}).items()),
                shown.get(name, ""),
            )
            for name, stage in record["stages"].items()
        ),
    )
    lost = record["lost"]
    driver = driver_of(folder, record)
    progress = read_progress(folder) if folder is not None and driver["state"] in ("running", "elsewhere") else {}
    lines = [f"scenes: {(record['items'] or {}).get('count', 0)}; refused {len(record['refused'])}"]
    lines += [f"lost: {len(lost)} (see lost.csv)"] if lost else []
    lines += said_of(driver, progress)
    last = (record["sessions"] or [{}])[-1]
    if last.get("error") and last.get("status") == "failed":  # of one that was interrupted it is a class's name
        lines += [f"{last['status']}: {last['error']}"]
    if driver["state"] == "ended" and last.get("ended"):
        lines += [f"{last['status']} {last['ended']}{' by ' + driver['name'] if 'name' in driver else ''}"]
    content = {**record, "finished": done, "driver": driver, "progress": progress}
    reporter.result(content, "\n".join(plain(line) for line in lines))


def finished_in(outputs: Place) -> dict[str, int]:
    """Count what is finished of each kind of output."""
    try:
        done = {kind: count_finished(outputs / kind) for kind in ("cube", "sample", "maps")}
        done["history"] = count_finished(outputs / "change" / "history")
        done["change"] = sum(
            count_finished(pair) for pair in entries(outputs / "change")[0] if _PAIR.fullmatch(pair.name)
        )
    except OSError as error:
        raise cannot_read(outputs, error) from error
    return done


def driver_of(folder: Path | None, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is known of the driver: its note, and whether it is ``running``, ``pending``, ``ended``, ``killed``,
    or ``elsewhere``, which is where this machine cannot look."""
    driver: Driver | None = None
    if folder is not None:
        try:
            driver = read_driver(folder)
        except StoreError:
            driver = None  # damaged: the record tells how the last command went
    if driver is None or folder is None:
        return {"state": "elsewhere" if record["status"] == "running" else "ended"}
    state = state_of(driver, folder)
    if state == "elsewhere" and record["status"] != "running":
        state = "ended"
    if state == "ended" and record["status"] == "running":
        state = "killed"
    return {"state": state, "name": driver.name, **driver.model_dump(mode="json")}


def said_of(driver: Mapping[str, Any], progress: Mapping[str, Any]) -> list[str]:
    """Return in words what drives a run, how far it is, and where its dashboard is."""
    name, since = driver.get("name", "a command"), f"since {driver['when']}" if "when" in driver else ""
    lines = {
        "running": [f"driven by {name} {since}"],
        "pending": [f"waiting: {name}, submitted {driver.get('when', '')}"],
        "elsewhere": [f"driven by {name} {since}, if it still works: this machine cannot see it"],
        "killed": [f"{name} ended without a word; mangroves resume goes on from what is finished"],
    }.get(driver["state"], [])
    if "total" in progress:
        rate, left = progress.get("rate"), progress.get("seconds_left")
        lines += [
            f"{progress.get('stage', '')}: {progress.get('done', 0)} of {progress['total']}"
            + (f", {rate:g} a minute" if rate is not None else "")
            + (f", about {dt.timedelta(seconds=round(min(left, 1e9)))} left" if left is not None else "")
        ]
    elif progress.get("stage"):
        lines += [f"at {progress['stage']}"]
    if "time" in progress:
        lines += [f"last sign of life {progress['time']}; {progress.get('workers', 0)} workers"]
    if progress.get("dashboard"):
        lines += [f"dashboard: {progress['dashboard']}"]
    return lines


def count_finished(place: Place) -> int:
    """Count the completion markers below a place that stand beside what they mark."""
    folders, files = entries(place)
    made = {path.stem for path in folders if path.suffix == ".zarr"}
    made |= {path.stem for path in files if path.suffix == ".parquet"}
    made -= {stem for stem in made if stem.endswith("-looks")}  # beside a cube that has a marker of its own
    here = sum(path.suffix == ".json" and path.stem in made for path in files)
    return here + sum(count_finished(folder) for folder in folders if folder.suffix != ".zarr")
