"""The page of ``mangroves report``: what a run saw, learnt, mapped, lost and cost, section by section."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.report import Measured, bench_sections
from engine.errors import StoreError
from engine.files import write_text
from engine.html import Section, document, link, paragraph, table, text
from engine.places import Place
from engine.report_charts import cost_chart, looks_chart
from jobs.report_maps import areas, assessment, clear_looks
from jobs.report_model import evaluation, leaderboard, sample, trained
from jobs.report_parts import MOST_ROWS, TABLES, Report, cell
from jobs.report_tables import REPAIR, make_tables, read_table, write_tables

_COMMANDS: Final = {
    "cube": ("annual composites and clear looks", "mangroves cube CONFIG"),
    "sample": ("labelled pixels", "mangroves sample CONFIG"),
    "explore": ("densities by band and class", "mangroves explore RUN"),
    "tune": ("leaderboard of classifiers", "mangroves tune CONFIG"),
    "train": ("the model", "mangroves train CONFIG"),
    "evaluate": ("confusion, ROC, reliability, importances, cross-region matrix", "mangroves evaluate CONFIG"),
    "classify": ("maps", "mangroves classify CONFIG"),
    "change": ("areas by year and change matrix", "mangroves change CONFIG"),
    "assess": ("accuracy and areas with 95 % intervals", "mangroves assess design CONFIG"),
    "bench": ("benchmarks", "mangroves bench --cluster PROFILE"),
}
"""Step -> what of the report it is needed for, and how to run it."""


def write_report(folder: Path, record: Mapping[str, Any], outputs: Place, measured: Measured) -> dict[str, Any]:
    """Write ``report.html`` and the tables and figures that it alone has; return what is in it.

    Raises
    ------
    StoreError
        If a table of the run is damaged, or the page cannot be written.
    """
    tables = make_tables(record, folder, outputs)
    report = Report(folder, outputs, record, tables, measured)
    write_tables(folder / TABLES, tables, report.notice)
    _draw(report)
    builders: Sequence[Callable[[Report], Section | None]] = (
        provenance,
        clear_looks,
        sample,
        leaderboard,
        trained,
        evaluation,
        areas,
        assessment,
        losses,
        cost,
        bench,
    )
    sections = []
    for build in builders:
        try:
            section = build(report)
        except (TypeError, ValueError, KeyError, AttributeError, IndexError, OverflowError) as error:
            raise StoreError(
                f"what {folder} holds for the section {build.__name__!r} is damaged ({type(error).__name__})",
                fix=REPAIR,
            ) from error
        if section is not None:
            sections.append(section)
    sections += [not_run(report), configuration(report)]
    title = f"Report of run {str(record['name'])[:80]}"
    write_text(folder / "report.html", document(title, sections, lead=summary(report), notice=report.notice))
    return {
        "report": str(folder / "report.html"),
        "sections": [one.title for one in sections],
        "not_run": {step: _COMMANDS[step][1] for step in report.missing},
        "tables": sorted(f"{TABLES}/{name}.csv" for name, one in tables.items() if not one.empty),
        "bytes": (folder / "report.html").stat().st_size,
    }


def _draw(report: Report) -> None:
    folder, tables, name = report.folder / TABLES, report.tables, str(report.record["name"])[:60]
    notice = report.notice[:150]
    drawn = set()
    if not tables["looks"].empty:
        drawn.add("looks.png")
        title = f"Clear looks, run {name}"
        looks_chart(folder / "looks.png", tables["looks_histogram"], tables["looks"], title=title, notice=notice)
    if not tables["steps"].empty:
        drawn.add("cost.png")
        title = f"What run {name} took"
        steps = tables["steps"].head(MOST_ROWS)
        cost_chart(folder / "cost.png", steps, tables["stages"], title=title, notice=notice)
    for old in {"looks.png", "cost.png"} - drawn:
        (folder / old).unlink(missing_ok=True)


def summary(report: Report) -> list[str]:
    """Return what a reader wants first."""
    record, tables = report.record, report.tables
    sessions = record["sessions"]
    versions = sessions[-1]["versions"] if sessions else {}
    years = record["config"].get("years") or []
    plan = record["stages"].get("plan", {}).get("counts", {})
    cubes = int(tables["looks"]["tile_years"].sum()) if not tables["looks"].empty else 0
    rows: list[tuple[str, str]] = [
        ("last command", str(record["status"])),
        ("years", ", ".join(map(str, years)) if isinstance(years, list) else str(years)),
        ("scenes", f"{cell((record['items'] or {}).get('count', 0), ',')} found, {len(record['refused']):,} refused"),
        ("tile-years", f"{cubes:,} finished" + (f" of {plan['tile_years']} planned" if "tile_years" in plan else "")),
        ("scenes lost", f"{len(tables['lost']):,} in tile-years that went without them"),
        *_mapped(report.folder),
        ("made with", f"mangroves {versions.get('mangroves', '')}"),
        ("engine sha256", str(versions.get("engine_sha256", "not recorded"))),
        ("configuration sha256", str(record["config_sha256"])),
    ]
    return [table((), rows, label="At a glance")]


def _mapped(folder: Path) -> list[tuple[str, str]]:
    """Return mangrove of the whole area in the last year, mapped and, where assessed, estimated."""
    numbers = ("year", "mangrove_ha", "estimated_ha", "low_ha", "high_ha")
    series = read_table(folder / "series.csv", ("by", *numbers), numbers)
    if series is None or not (series["by"] == "total").any():
        return []
    last = series[series["by"] == "total"].sort_values("year").iloc[-1]
    said = f"{last['mangrove_ha']:,.1f} ha mapped"
    if math.isfinite(last["estimated_ha"]):
        said += f"; {last['estimated_ha']:,.1f} ha estimated (95 %: {last['low_ha']:,.1f} to {last['high_ha']:,.1f})"
    return [(f"mangrove in {last['year']:.0f}", said)]


def provenance(report: Report) -> Section:
    record, tables = report.record, report.tables
    frozen = str((record["items"] or {}).get("sha256", "none"))
    parts = [
        report.table(
            tables["scenes"],
            {
                "year": ("year", "d"),
                "platform": ("platform", ""),
                "scenes": ("scenes", ",d"),
                "median_cloud_pct": ("median cloud, %", ".0f"),
            },
            f"Scenes of the frozen list by year of acquisition (sha256 {frozen[:64]}).",
            f"{TABLES}/scenes.csv",
            "items.parquet",
        ),
        report.table(
            tables["refused"],
            {"reason": ("reason", ""), "scenes": ("scenes", ",d"), "first": ("the first of them", "")},
            "Scenes that were refused before anything was read.",
            f"{TABLES}/refused.csv",
            most=15,
        ),
    ]
    masks = [mask for mask in record.get("masks", []) if isinstance(mask, dict)]
    names = ("name", "version", "year", "licence", "sha256", "citation", "labels_years", "stale_years")
    heads = ("mask", "version", "year", "licence", "sha256", "citation", "labels imagery of", "stale years used")
    parts.append(
        report.captions.table(
            heads,
            ([_listed(mask.get(name)) for name in names] for mask in masks[:MOST_ROWS]),
            f"Masks that labels come from{_left(len(masks))}; sha256 of the file, of several that of theirs.",
            "run.json",
        )
        or paragraph("No mask was read yet.")
    )
    sessions = record["sessions"]
    if sessions:
        versions = sessions[-1]["versions"]
        parts.append(
            report.captions.table(
                ("software", "version"),
                sorted(versions.items())[:MOST_ROWS],
                "Versions of the last command.",
                "run.json",
            )
        )
        shown = sessions[-15:]
        rows = [[str(one.get(name) or "") for name in ("started", "ended", "status", "error")] for one in shown]
        parts.append(
            report.captions.table(
                ("started", "ended", "ended as", "error"),
                rows,
                f"Commands on this run{_left(len(sessions), 15)}.",
                "run.json",
            )
        )
    return Section("Provenance", "provenance", parts)


def _listed(value: Any) -> str:
    return ", ".join(map(str, value[:30])) if isinstance(value, list) else "" if value is None else str(value)


def _left(total: int, most: int = MOST_ROWS) -> str:
    return f", {most} of {total:,}" if total > most else ""


def losses(report: Report) -> Section:
    tables, lost = report.tables, report.tables["lost"]
    list_of = ("lost.csv",) if (report.folder / "lost.csv").is_file() else (f"{TABLES}/lost.csv",)
    if lost.empty:
        parts = [
            paragraph(
                "No finished tile-year went without a scene."
                if not tables["looks"].empty
                else "No tile-year is finished, so nothing can be said of what is lost."
            )
        ]
    else:
        parts = [
            paragraph(
                f"Scenes that could not be read and that a tile-year went without: {len(lost):,}. Its pixels have "
                "fewer looks there; the layer `lost_count` of the cube says how many.",
                note=True,
            )
        ]
    causes = {
        "asset": ("asset", ""),
        "kind": ("kind", ""),
        "cause": ("cause", ""),
        "tile_years": ("times", ",d"),
        "scenes": ("scenes", ",d"),
        "pixels": ("pixels of their footprints", ",.0f"),
    }
    places = {
        "tile": ("tile", ""),
        "year": ("year", "d"),
        "scenes_lost": ("scenes lost", ",d"),
        "pixels_with_fewer_looks": ("pixels with fewer looks", ",.0f"),
        "most_looks_lost": ("most looks lost of a pixel", ",.0f"),
    }
    listed = {
        "tile": ("tile", ""),
        "year": ("year", "d"),
        "scene": ("item", ""),
        "asset": ("asset", ""),
        "cause": ("cause", ""),
        "attempts": ("attempts", ",.0f"),
    }
    requests = {
        "asset": ("asset", ""),
        "files": ("files", ",d"),
        "ranges": ("ranges", ",d"),
        "bytes": ("bytes", ",d"),
        "retries": ("requests sent again", ",d"),
        "failed_requests": ("requests that failed", ",d"),
    }
    faults = {
        "asset": ("asset", ""),
        "fault": ("fault", ""),
        "requests": ("requests", ",d"),
        "files": ("files", ",d"),
    }
    parts += [
        report.table(tables["lost_causes"], causes, "What was lost, by cause.", f"{TABLES}/lost_causes.csv", most=20),
        report.table(
            tables["lost_tile_years"],
            places,
            "Tile-years that lost most (`lost_count`).",
            f"{TABLES}/lost_tile_years.csv",
            most=20,
        ),
        report.table(lost, listed, "Every scene that was lost.", *list_of),
        report.table(tables["requests"], requests, "The ledger of reads, by asset.", f"{TABLES}/requests.csv"),
        report.table(
            tables["faults"],
            faults,
            "Requests that failed; all but those of lost scenes were well when sent again.",
            f"{TABLES}/faults.csv",
        ),
    ]
    return Section("What was lost, and why", "losses", parts)


def cost(report: Report) -> Section:
    steps, stages = report.tables["steps"], report.tables["stages"]
    seconds = steps["seconds"].sum() if len(steps) else 0.0
    parts = [
        paragraph(
            "Elapsed are seconds of a command. Seconds of a stage are summed over tasks and their threads, which work "
            "and wait side by side, so they may exceed what elapsed."
        ),
        report.figure(
            f"{TABLES}/cost.png",
            f"Elapsed seconds of each step, {seconds:,.0f} in all, and what their tasks spent them on.",
            "Seconds of each step, and of the stages of its tasks.",
            f"{TABLES}/steps.csv",
            f"{TABLES}/stages.csv",
            by="report RUN",
        ),
        report.table(
            steps,
            {
                "step": ("step", ""),
                "seconds": ("seconds", ",.1f"),
                "commands": ("commands", ",d"),
                "last_command": ("the last of them", ""),
            },
            f"Elapsed seconds by step: {seconds:,.1f} in all.",
            f"{TABLES}/steps.csv",
        ),
        report.table(
            stages,
            {
                "step": ("step", ""),
                "stage": ("stage", ""),
                "seconds": ("seconds", ",.1f"),
                "bytes": ("bytes", ",d"),
                "tasks": ("tasks", ",d"),
            },
            "Seconds and bytes by stage of tasks, by what is finished.",
            f"{TABLES}/stages.csv",
        ),
    ]
    logs = report.folder / "logs"
    files = sorted(path.name for path in logs.glob("performance-*.html"))[-10:] if logs.is_dir() else []
    if files:
        parts.append(f"<p>Dask's own reports: {', '.join(link(f'logs/{name}', name) for name in files)}.</p>")
    return Section("Seconds and bytes", "cost", parts)


def bench(report: Report) -> Section | None:
    found = bench_sections(report.measured)
    if not found:
        report.missing.append("bench")
        return None
    parts = [part for one in found for part in (f"<h3>{text(one.title)}</h3>", *one.parts)]
    return Section("Benchmarks", "bench", parts)


def not_run(report: Report) -> Section:
    lines = []
    for step in dict.fromkeys(report.missing):
        about, command = _COMMANDS[step]
        lines.append(f"<li>{about}: not run: <code>{command}</code></li>")
    if not lines:
        return Section("Not run", "not-run", [paragraph("Every step that this report shows was run.")])
    intro = paragraph(
        "Figures and tables that are missing, and the command that adds them; then `mangroves report RUN` once more. "
        "RUN is the folder of the run, CONFIG its configuration:"
    )
    return Section("Not run", "not-run", [intro, f"<ul>{''.join(lines)}</ul>"])


def configuration(report: Report) -> Section:
    rows = [(key, "" if value is None else json.dumps(value)) for key, value in _flat(report.record["config"])]
    most = 200
    told = report.captions.table(
        ("key", "value"), rows[:most], f"The configuration as recorded{_left(len(rows), most)}.", "run.json"
    )
    return Section("Configuration", "configuration", [told])


def _flat(config: Mapping[str, Any], prefix: str = "", depth: int = 0) -> Iterable[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping) and value and depth < 5:
            yield from _flat(value, f"{prefix}{key}.", depth + 1)
        else:
            yield f"{prefix}{key}", value
