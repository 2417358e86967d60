"""``mangroves status``: how far a run is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from engine.errors import StoreError
from engine.record import read_record
from jobs.config import ALLOW_ROOT, JSON, config_options, given_config, run_folder, trust_of
from jobs.report import Reporter


@click.command("status")
@click.argument("run", required=False, type=click.Path(path_type=Path), metavar="[RUN]")
@config_options("Run configuration (YAML) that names the run, in place of RUN.")
@ALLOW_ROOT
@JSON
def command(
    run: Path | None, config: Path | None, overrides: tuple[str, ...], allow_root: tuple[str, ...], as_json: bool
) -> None:
    """Say how far a run is: stages, tile-years done, scenes lost.

    RUN is the folder of the run, `out/name` of its configuration.
    """
    params = given_config(config, overrides)
    if params is not None and run is None:
        run = run_folder(params, trust_of(config, roots=allow_root))
    elif params is not None or run is None:
        raise click.UsageError("give either the folder RUN of a run or its --config")
    record = read_record(run)
    if record is None:
        raise StoreError(f"{run / 'run.json'} is not there", fix="name the folder of a run, e.g. runs/NAME")
    reporter = Reporter(as_json=as_json)
    done = {kind: count_finished(run / kind) for kind in ("cube", "sample", "maps", "change")}
    planned = record["stages"].get("plan", {}).get("counts", {}).get("tile_years")
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
            for name, stage in record["stages"].items()
        ),
    )
    lost = record["lost"]
    lines = [f"scenes: {(record['items'] or {}).get('count', 0)}; refused {len(record['refused'])}"]
    lines += [f"lost: {len(lost)} (see run.json)"] if lost else []
    last = (record["sessions"] or [{}])[-1]
    lines += [f"{last['status']}: {last['error']}"] if last.get("error") else []
    reporter.result({**record, "finished": done}, "\n".join(lines))


def count_finished(folder: Path) -> int:
    """Count the completion markers below a folder."""
    return sum(
        1
        for marker in folder.rglob("*.json")
        if not marker.stem.endswith("-looks")  # beside a cube that has a marker of its own
        and (marker.with_suffix(".zarr").is_dir() or marker.with_suffix(".parquet").is_file())
    )
