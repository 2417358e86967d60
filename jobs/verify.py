"""``mangroves verify``: every chunk, raster, table and model of a run compared with what was written."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import click

from engine.cluster import check_visible, open_cluster, run_bounded
from engine.files import bytes_sha256
from engine.model import BANDS_MODEL, META_FILE, TREES_FILE
from engine.places import Place
from engine.record import ITEMS
from engine.verify import find_vouchers, verify_task
from jobs.config import ALLOW_ROOT, JSON, cluster_options, config_options, given_config, named_run, trust_of
from jobs.reporter import Reporter

MADE_BY: Final = {"cube": "cube", "classify": "maps", "history": "change/history", "edit": "maps_edited"}
"""Stage -> where its outputs lie, a marker for each of which its record counts."""


@click.command("verify")
@click.argument("run", required=False, type=click.Path(path_type=Path), metavar="[RUN]")
@config_options("Run configuration (YAML) that names the run, in place of RUN.")
@cluster_options
@ALLOW_ROOT
@JSON
def command(
    run: Path | None,
    config: Path | None,
    overrides: tuple[str, ...],
    cluster: str,
    cluster_file: Path | None,
    allow_root: tuple[str, ...],
    as_json: bool,
) -> None:
    """Compare all that a run made with the hashes kept of it; exit 1 if anything is damaged or missing.

    RUN is the folder of the run, `out/name` of its configuration. A run in the middle of its work may be verified:
    what is not finished is said, and is no error.
    """
    params, trust = given_config(config, overrides), trust_of(config, roots=allow_root)
    run, record, outputs = named_run(run, params, trust)
    reporter = Reporter(as_json=as_json)
    vouchers: list[Place] = []
    unfinished: list[Place] = []
    for place in dict.fromkeys((outputs, run)):
        found = find_vouchers(place)
        vouchers += found.vouchers
        unfinished += found.unfinished
    counts = Counter[str]()
    damaged = [*_check_items(run, record), *_check_all_there(outputs, record, [*vouchers, *unfinished])]
    with open_cluster(cluster, cluster_file) as client:
        check_visible(client, outputs)
        calls = [(voucher,) for voucher in vouchers]
        for _, checked in reporter.track(run_bounded(client, verify_task, calls), len(calls), "verify"):
            counts.update(checked.counts)
            damaged += checked.damaged
    damaged.sort()
    for problem, fix in damaged:
        reporter.say(f"damaged   {problem}; {fix}")
    content: dict[str, Any] = {
        "checked": {name: counts[name] for name in ("stores", "files", "markers", "models")},
        "unfinished": [str(place) for place in unfinished],
        "damaged": [{"problem": problem, "fix": fix} for problem, fix in damaged],
    }
    told = ", ".join(f"{number} {name}" for name, number in content["checked"].items())
    lines = [f"compared {told}: {len(damaged)} damaged or missing"]
    lines += [f"not finished: {place}" for place in content["unfinished"]]
    reporter.result(content, "\n".join(lines))
    if damaged:
        sys.exit(1)


def _check_items(run: Path, record: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with the frozen list of scenes."""
    if record["items"] is None:
        return
    frozen = run / ITEMS
    if not frozen.is_file():
        yield f"{frozen} is missing", "restore it, or begin anew with --fresh"
    elif bytes_sha256(frozen) != record["items"]["sha256"]:
        yield f"{frozen} is not the list this run froze", "restore it, or begin anew with --fresh"


def _check_all_there(outputs: Place, record: dict[str, Any], found: Sequence[Place]) -> Iterator[tuple[str, str]]:
    """Yield what the record says was finished and is gone with its marker, so that nothing else misses it.

    ``found`` are markers, of which each is asked for what it marks, and stores that have none yet.
    """
    there = Counter(str(place.parent) for place in found if _is_of_store(place))
    for stage, name in MADE_BY.items():
        counts = record["stages"].get(stage, {}).get("counts", {})
        made = counts.get("done", 0) + counts.get("skipped", 0)
        folder = outputs / name
        here = sum(count for parent, count in there.items() if f"{parent}/".startswith(f"{folder}/"))
        if here < made:
            yield f"{made - here} of {made} outputs below {folder} are missing", "run the same command again"
    if "trees_sha256" in record["stages"].get("train", {}).get("counts", {}):
        for folder in (outputs / "model", outputs / "model" / BANDS_MODEL):
            if not any((folder / name).is_file() for name in (META_FILE, TREES_FILE)):
                yield f"model {folder} is missing", f"delete {outputs / 'model'} and run the same command again"


def _is_of_store(place: Place) -> bool:
    """Tell a store or its marker from what lies beside it: a ledger of reads, a store of looks, a mosaic's record."""
    return (
        place.suffix in (".json", ".zarr") and "." not in place.stem and not place.stem.endswith(("-reads", "-looks"))
    )
