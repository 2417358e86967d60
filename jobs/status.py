"""``mangroves status``: how far a run is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import click

from engine.files import cannot_read
from engine.places import Place, entries
from jobs.config import ALLOW_ROOT, JSON, config_options, given_config, named_run, trust_of
from jobs.report import Reporter

_PAIR: Final = re.compile(r"\d{4}-\d{4}")


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
    params, trust = given_config(config, overrides), trust_of(config, roots=allow_root)
    run, record, outputs = named_run(run, params, trust)
    reporter = Reporter(as_json=as_json)
    try:
        done = {kind: count_finished(outputs / kind) for kind in ("cube", "sample", "maps")}
        done["history"] = count_finished(outputs / "change" / "history")
        done["change"] = sum(
            count_finished(pair) for pair in entries(outputs / "change")[0] if _PAIR.fullmatch(pair.name)
        )
    except OSError as error:
        raise cannot_read(outputs, error) from error
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
    lines = [f"scenes: {(record['items'] or {}).get('count', 0)}; refused {len(record['refused'])}"]
    lines += [f"lost: {len(lost)} (see run.json)"] if lost else []
    last = (record["sessions"] or [{}])[-1]
    lines += [f"{last['status']}: {last['error']}"] if last.get("error") else []
    reporter.result({**record, "finished": done}, "\n".join(lines))


def count_finished(place: Place) -> int:
    """Count the completion markers below a place that stand beside what they mark."""
    folders, files = entries(place)
    made = {path.stem for path in folders if path.suffix == ".zarr"}
    made |= {path.stem for path in files if path.suffix == ".parquet"}
    made -= {stem for stem in made if stem.endswith("-looks")}  # beside a cube that has a marker of its own
    here = sum(path.suffix == ".json" and path.stem in made for path in files)
    return here + sum(count_finished(folder) for folder in folders if folder.suffix != ".zarr")
