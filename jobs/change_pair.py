"""``mangroves change A.tif B.tif``: compare two class rasters from anywhere, on one grid."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

import engine
from engine.change import AREA_METHOD, change_table, read_zones, write_table
from engine.files import content_sha256, write_text
from engine.legend import TRANSITIONS
from engine.pair import check_grids, compare_pair, open_map, small_shares
from engine.raster import write_qml
from jobs.context import Options
from jobs.reporter import Reporter


def or_pair(job: Callable[..., None]) -> Callable[..., None]:
    """Let a job on a configuration take two rasters in its place; below ``run_options``, whose CONFIG is the first."""

    @click.argument("after", required=False, type=click.Path(path_type=Path), metavar="[| A.tif B.tif]")
    @click.option("--out", type=click.Path(path_type=Path), help="Of A.tif B.tif: folder to write; default A-to-B.")
    @click.option("--value", "values", type=int, multiple=True, help="Of foreign rasters: means mangrove. Default 1.")
    @click.option("--unknown", type=int, multiple=True, help="Of foreign rasters: not observed, as is their nodata.")
    @click.option("--min-area-ha", type=click.FloatRange(0), help="Of A.tif B.tif: smallest patch. Default 0.5.")
    @functools.wraps(job)
    def wrapped(
        options: Options,
        after: Path | None,
        out: Path | None,
        values: tuple[int, ...],
        unknown: tuple[int, ...],
        min_area_ha: float | None,
        **rest: Any,
    ) -> None:
        if after is None:
            if out or values or unknown or min_area_ha is not None:
                raise click.UsageError("--out, --value, --unknown and --min-area-ha are for two rasters, A.tif B.tif")
            if options.config and options.config.suffix.lower() in (".tif", ".tiff"):
                raise click.UsageError(f"{options.config} is a raster; give a second one to compare it with")
            job(options, **rest)
            return
        if options.config is None or options.overrides or options.skip_bad or options.fresh:
            raise click.UsageError("two rasters, A.tif B.tif, take neither configuration nor options of a run")
        least = 0.5 if min_area_ha is None else min_area_ha
        change_pair(options, options.config, after, out=out, values=values, unknown=unknown, least_ha=least, **rest)

    return wrapped


def change_pair(
    options: Options,
    before: Path,
    after: Path,
    *,
    out: Path | None,
    values: tuple[int, ...],
    unknown: tuple[int, ...],
    least_ha: float,
    zones: str | None,
    by: str | None,
) -> None:
    """Compare two rasters into ``transition.tif``, tables and ``change.json``."""
    if bool(zones) != bool(by):
        raise click.UsageError("--zones and --by belong together")
    reporter, out = Reporter(as_json=options.as_json), out or Path(f"{before.stem}-to-{after.stem}")
    # Named on the command line, so allowed.
    trust = options.trust.with_roots(before, after, *([zones] if zones else []))
    first, second = (open_map(path, trust, values=values, unknown=unknown) for path in (before, after))
    for one in (first, second):
        reporter.say(f"change    {one.name}: {one.reading}")
    check_grids(first, second)
    parts = read_zones(zones, by, trust) if zones and by else None
    notice = "; ".join(dict.fromkeys(one.notice for one in (first, second) if one.notice))
    tags = {"software": f"mangroves {engine.__version__}", "before": before.name, "after": after.name, "notice": notice}
    raster = out / "transition.tif"
    if raster.resolve() in (before.resolve(), after.resolve()):
        raise click.UsageError(f"{raster} is one of the two rasters; choose another --out")
    areas = compare_pair(
        first,
        second,
        raster,
        trust,
        least_ha=least_ha,
        zones=parts,
        tags={key: text for key, text in tags.items() if text},
        track=lambda strips: reporter.track(strips, len(strips), "change"),
    )
    write_qml(raster.with_suffix(".qml"), TRANSITIONS)
    table = change_table(areas.table).merge(small_shares(areas.table), on=["by", "where", "least_ha"])
    write_table(out / "transitions.csv", areas.table, notice=notice)
    write_table(out / "change.csv", table, notice=notice)
    low, high = areas.least_px
    pixels = f"{low}" if low == high else f"{low} to {high}"
    mmu = (
        f"patches, 8-connected, of at least {least_ha:g} ha by the areas of their very pixels on the ellipsoid "
        f"({pixels} px here); smaller ones are taken for no change"
    )
    content = {
        "before": {"path": str(before), "sha256": content_sha256(before), "reading": first.reading},
        "after": {"path": str(after), "sha256": content_sha256(after), "reading": second.reading},
        "software": tags["software"],
        "notice": notice,
        "method": AREA_METHOD,
        "least_ha": least_ha,
        "least_px": [low, high],
        "sieve": mmu,
        "transition": str(raster),
        "change": json.loads(table.to_json(orient="records", double_precision=15)),
        "transitions": json.loads(areas.table.to_json(orient="records", double_precision=15)),
    }
    write_text(out / "change.json", json.dumps(content, indent=1) + "\n")
    show_pair(reporter, content)
    reporter.say(f"change    sieved: {mmu}")
    if notice:
        reporter.say(f"change    {notice}")
    reporter.result(content, f"transitions, tables and change.json in {out}")


def show_pair(reporter: Reporter, content: dict[str, Any]) -> None:
    """Print loss, gain and net of the whole raster and of each zone, by all change and by large patches."""
    hectares = ("before_ha", "after_ha", "loss_ha", "gain_ha", "net_ha", "not_observed_ha")
    shares = ("small_loss_share", "small_gain_share")
    digits = 1 if max(row["before_ha"] for row in content["change"]) < 1e5 else 0  # as wide as a terminal
    reporter.table(
        "Change, hectares by pixel count (two maps differenced, not error-adjusted)",
        ("where", "patches", "before", "after", "loss", "gain", "net", "not observed", "small loss", "small gain"),
        (
            (
                row["where"],
                f">= {row['least_ha']:g} ha" if row["least_ha"] else "all",
                *(f"{row[name]:,.{digits}f}" for name in hectares),
                *("" if row[name] is None or not row["least_ha"] else f"{row[name]:.1%}" for name in shares),
            )
            for row in content["change"]
        ),
    )
