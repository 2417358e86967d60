"""``mangroves status``: how far a run is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from engine.errors import StoreError
from jobs.report import Reporter


@click.command("status")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the record as JSON on standard output.")
def command(run: Path, as_json: bool) -> None:
    """Say how far the run in folder RUN is: stages, tile-years done, scenes lost."""
    record = read_run(run)
    reporter = Reporter(as_json=as_json)
    done = {kind: count_finished(run / kind) for kind in ("cube", "sample", "maps", "change")}
    planned = record.get("stages", {}).get("plan", {}).get("counts", {}).get("tile_years")
    shown: dict[str, Any] = {**done, "classify": done["maps"]}
    if planned:
        shown |= {name: f"{shown[name]} of {planned} tile-years" for name in ("cube", "classify")}
    reporter.table(
        f"{record['name']}: last command {record['status']}",
        ("stage", "seconds", "last command", "finished on disk"),
        (
            (
                name,
                f"{stage['seconds']:.1f}",
                ", ".join(f"{key} {value}" for key, value in stage.get("counts", {}).items()),
                shown.get(name, ""),
            )
            for name, stage in record.get("stages", {}).items()
        ),
    )
    lost = record.get("lost", [])
    lines = [f"scenes: {record.get('items', {}).get('count', 0)}; refused {len(record.get('refused', []))}"]
    lines += [f"lost: {len(lost)} (see run.json)"] if lost else []
    last = (record.get("sessions") or [{}])[-1]
    lines += [f"{last['status']}: {last['error']}"] if last.get("error") else []
    reporter.result({**record, "finished": done}, "\n".join(lines))


def read_run(folder: Path) -> dict[str, Any]:
    """Read the record of a run.

    Raises
    ------
    StoreError
        If the folder holds none.
    """
    path = folder / "run.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(
            f"{path} is not there or not readable", fix="name the folder of a run, e.g. runs/NAME"
        ) from error


def count_finished(folder: Path) -> int:
    """Count the completion markers below a folder."""
    return sum(
        1
        for marker in folder.rglob("*.json")
        if (marker.with_suffix(".zarr").is_dir() or marker.with_suffix(".parquet").is_file())
    )
