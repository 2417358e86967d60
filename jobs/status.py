"""``mangroves status``: how far a run is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from engine.errors import StoreError
from jobs.config import ALLOW_ROOT, JSON, config_options, given_config, run_folder, trust_of
from jobs.report import Reporter


@click.command("status")
@click.argument("run", required=False, type=click.Path(path_type=Path), metavar="[RUN]")
@config_options("Run configuration (YAML) that names the run, in place of RUN.")
@ALLOW_ROOT
@JSON
def command(
    run: Path | None, config: Path | None, overrides: tuple[str, ...], allow_root: tuple[Path, ...], as_json: bool
) -> None:
    """Say how far a run is: stages, tile-years done, scenes lost.

    RUN is the folder of the run, `out/name` of its configuration.
    """
    params = given_config(config, overrides)
    if params is not None and run is None:
        run = run_folder(params, trust_of(config, roots=allow_root))
    elif params is not None or run is None:
        raise click.UsageError("give either the folder RUN of a run or its --config")
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
