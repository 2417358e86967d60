"""The page of ``mangroves report``: what a run saw, learnt, mapped, lost and cost, section by section."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pandas as pd

from benchmarks.report import Measured, bench_sections
from engine.card import score_records
from engine.errors import StoreError
from engine.evaluate_charts import transfer_matrix
from engine.files import write_text
from engine.html import Captions, Section, document, link, paragraph, png, table, text
from engine.leaderboard import LEADERBOARD_COLUMNS
from engine.legend import CHANGES
from engine.model import load_model
from engine.places import Place
from engine.report_charts import cost_chart, looks_chart
from engine.scores import ALL_REGIONS
from jobs.report_tables import make_tables, read_table, read_years, write_tables

MOST_ROWS: Final = 40
"""Of a table on the page; its file holds all."""

MOST_BYTES: Final = 9_500_000
"""Of the page; figures that would make it larger are named and not shown."""

TABLES: Final = "report"
"""Folder of the run for tables and figures that this command makes."""

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


@dataclass
class Report:
    """A run as the page shows it."""

    folder: Path
    outputs: Place
    record: Mapping[str, Any]
    tables: Mapping[str, pd.DataFrame]
    measured: Measured
    captions: Captions = field(default_factory=Captions)
    size: int = 0
    """Bytes of the pictures so far."""

    missing: list[str] = field(default_factory=list)
    """Steps that were not run, in the order of the work."""

    @property
    def notice(self) -> str:
        return str(self.record.get("notice") or "")

    def table(
        self,
        found: pd.DataFrame,
        columns: Mapping[str, tuple[str, str]],
        caption: str,
        *files: str,
        most: int = MOST_ROWS,
    ) -> str:
        """Return the first rows of a table: column -> heading and format; the caption says how many are left out."""
        shown = found.head(most)
        rows = [[_cell(row[name], form) for name, (_, form) in columns.items()] for row in shown.to_dict("records")]
        if left := len(found) - len(shown):
            caption += f" The first {len(shown)} rows; {left:,} more are in the file."
        return self.captions.table([heading for heading, _ in columns.values()], rows, caption, *files)

    def figure(self, name: str, alt: str, caption: str, *files: str, by: str) -> str:
        """Return a picture of the run's folder, with the command that makes it, or a word on why it is not shown."""
        path = self.folder / name
        if not path.is_file():
            return ""
        try:
            drawn = png(path, alt=alt)
        except StoreError as error:
            return paragraph(f"{error.problem}, and is not shown.", note=True)
        if self.size + len(drawn) > MOST_BYTES:
            return f"<p>Not shown, to keep this page small: {link(name, name)}.</p>"
        self.size += len(drawn)
        return self.captions.figure(drawn, f"{caption} Made, and made again, by `mangroves {by}`.", *files, name)


def _cell(value: Any, form: str) -> str:
    """Return a cell as it is read; a dash for what is not known."""
    if str(value) in ("True", "False"):
        return "yes" if str(value) == "True" else "no"
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    try:
        return format(value, form)
    except (ValueError, TypeError):
        return str(value)


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
                fix="run again the command that wrote it; `mangroves verify` names what is damaged",
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
        ("scenes", f"{_cell((record['items'] or {}).get('count', 0), ',')} found, {len(record['refused']):,} refused"),
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


def clear_looks(report: Report) -> Section | None:
    found = report.tables["looks"]
    if found.empty:
        report.missing.append("cube")
        return None
    years = read_years(report.folder)
    poorest = years.sort_values(["mean_clear_looks", "tile", "year"], kind="stable")
    return Section(
        "Clear looks",
        "looks",
        [
            paragraph(
                "A look is one pass of a satellite over a tile, clear at a pixel where neither cloud, shadow, snow nor "
                "fill is; figures are means over the observed pixels of a tile-year. Poor is a tile-year of which less "
                "than half was seen well."
            ),
            report.figure(
                f"{TABLES}/looks.png",
                f"Histogram of {int(found['tile_years'].sum())} tile-years by mean clear looks, from "
                f"{found['clear_least'].min():g} to {found['clear_most'].max():g}; and their spread in each year.",
                "Clear looks: tile-years by sensor, and the spread of tile-years in each year.",
                f"{TABLES}/looks_histogram.csv",
                by="report RUN",
            ),
            report.table(
                found,
                {
                    "year": ("year", "d"),
                    "tile_years": ("tile-years", ",d"),
                    "looks_median": ("looks, median", "g"),
                    "clear_least": ("clear, least", ".2f"),
                    "clear_median": ("clear, median", ".2f"),
                    "clear_most": ("clear, most", ".2f"),
                    "observed_share": ("observed share", ".3f"),
                    "poor": ("poor", ",d"),
                },
                "Looks by year, over tile-years.",
                f"{TABLES}/looks.csv",
                most=80,
            ),
            report.table(
                poorest,
                {
                    "tile": ("tile", ""),
                    "year": ("year", ".0f"),
                    "sensors": ("sensors", ""),
                    "looks": ("looks", ".0f"),
                    "mean_clear_looks": ("clear looks", ".2f"),
                    "observed_share": ("observed share", ".3f"),
                    "poorly_observed_share": ("of it poorly", ".3f"),
                    "poor": ("poor", ""),
                },
                "Tile-years with the fewest clear looks.",
                "years.csv",
                most=15,
            ),
        ],
    )


def _summary_of(path: Path) -> dict[str, Any] | None:
    """Return a summary that a command wrote as JSON, None where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, error) from error
    if not isinstance(found, dict):
        raise _damaged(path, TypeError())
    return found


def _damaged(path: Path, error: Exception) -> StoreError:
    fix = "run again the command that wrote it; `mangroves verify` names what is damaged"
    return StoreError(f"{path} is damaged ({type(error).__name__})", fix=fix)


def sample(report: Report) -> Section | None:
    about = _summary_of(report.folder / "explore" / "summary.json")
    stage = report.record["stages"].get("sample")
    if stage is None and about is None:
        report.missing += ["sample", "explore"]
        return None
    parts = []
    if stage is not None:
        told = ", ".join(f"{name.replace('_', ' ')} {_cell(value, ',')}" for name, value in stage["counts"].items())
        parts.append(paragraph(f"Drawn by the last command: {told[:300]}."))
    if about is None:
        report.missing.append("explore")
        return Section("The sample", "sample", parts)
    if about.get("config_sha256") != report.record["config_sha256"]:
        parts.append(
            paragraph("What follows was found by another configuration: run `mangroves explore` again.", note=True)
        )
    parts.append(
        paragraph(
            f"Label: {str(about.get('label'))[:200]}. Looked at were {_cell(about.get('rows_examined'), ',')} of "
            f"{_cell(about.get('rows'), ',')} rows. Wall to wall: rows count by the pixels they stand for."
        )
    )
    regions = pd.DataFrame([one for one in about.get("regions", []) if isinstance(one, dict)])
    columns = {
        "region": ("region", ""),
        "mangrove_rows": ("mangrove rows", ",d"),
        "other_rows": ("other rows", ",d"),
        "mangrove_share": ("mangrove, wall to wall", ".1%"),
        "jm_all_bands": ("JM, all bands", ".2f"),
        "unlikeness": ("unlikeness", ".2f"),
    }
    parts.append(
        report.table(
            regions.reindex(columns=list(columns)),
            columns,
            "The sample by region: rows as drawn, all else wall to wall. JM is the Jeffries-Matusita distance of "
            "mangrove and other, 0 (the same) to 2 (no overlap).",
            "explore/summary.json",
        )
    )
    figures = {
        "densities": ("kernel density of every band, index and range, mangrove against other", "densities"),
        "densities_bands": ("kernel densities of the bands by region", "densities"),
        "densities_indices": ("kernel densities of the indices by region", "densities"),
        "separability": ("Jeffries-Matusita distance by region and feature", "separability"),
        "spectra": ("median spectra and quartiles of both classes by region", "spectra"),
    }
    parts += [
        report.figure(
            f"explore/{name}.png",
            f"Chart: {words}. Its numbers are in explore/{source}.parquet.",
            f"{words[0].upper()}{words[1:]}; wall to wall.",
            f"explore/{source}.parquet",
            by="explore RUN",
        )
        for name, (words, source) in figures.items()
    ]
    return Section("The sample: densities by band and class", "sample", parts)


def leaderboard(report: Report) -> Section | None:
    numbers = [name for _, name, _ in LEADERBOARD_COLUMNS if name != "candidate"]
    found = read_table(report.folder / "tune" / "leaderboard.csv", ("candidate", *numbers), numbers)
    if found is None:
        report.missing.append("tune")
        return None
    columns = {name: (heading, _format_of(form)) for heading, name, form in LEADERBOARD_COLUMNS}
    return Section(
        "Leaderboard of classifiers",
        "leaderboard",
        [
            report.table(
                found,
                columns,
                "Candidates of the search, best first: mean, standard deviation and least of folds, against the mask; "
                "hold-out regions had no part in the choice.",
                "tune/leaderboard.csv",
            )
        ],
    )


def _format_of(form: str) -> str:
    inner = form.strip("{}").removeprefix(":")
    return inner or "g"


def trained(report: Report) -> Section | None:
    if not (report.folder / "model" / "model.json").is_file():
        report.missing.append("train")
        return None
    model = load_model(report.folder / "model")
    records = pd.DataFrame(score_records(model.metrics))
    parts = [
        paragraph(
            f"Model {model.sha256()}: {sum(model.training_rows.values()):,} rows of {len(model.regions)} region(s), "
            f"{len(model.features)} features; mangrove is mapped from a probability of {model.threshold:.2f}. "
            f"Held out: {', '.join(name[:40] for name in model.hold_out[:20]) or 'none'}."
        )
    ]
    if not records.empty:
        wide = records.pivot_table(
            index=["scope", "label", "population", "region"], columns="figure", values="value", sort=False
        ).reset_index()
        figures = {
            "prevalence": ("mangrove", ".1%"),
            "auc": ("AUC", ".3f"),
            "precision": ("precision", ".3f"),
            "recall": ("recall", ".3f"),
            "f1": ("F1", ".3f"),
            "brier": ("Brier", ".3f"),
            "calibration_error": ("ECE", ".3f"),
        }
        columns = {"region": ("region", ""), "population": ("population", ""), "scope": ("scored on", "")} | figures
        parts.append(
            report.table(
                wide.reindex(columns=list(columns)),
                columns,
                "What training said of the model, against the mask.",
                "model/README.md",
            )
        )
    return Section("The model as trained", "model", parts)


def evaluation(report: Report) -> Section | None:
    about = _summary_of(report.folder / "evaluate" / "summary.json")
    if about is None:
        report.missing.append("evaluate")
        return None
    folder = report.folder / "evaluate"
    parts = [
        paragraph(
            f"Scored are {_cell(about.get('rows'), ',')} rows in {_cell(about.get('blocks'), ',')} blocks of 10 km "
            f"({str(about.get('scope'))[:200]}). Intervals are 95 %, by a bootstrap of blocks within regions; none "
            "where there are too few blocks."
        )
    ]
    trees = report.folder / "model" / "model.json"
    if trees.is_file() and load_model(report.folder / "model").sha256() != about.get("model_sha256"):
        parts.append(paragraph("The run has another model by now: run `mangroves evaluate` again.", note=True))
    spread = ("value", "low", "high")
    metrics = read_table(
        folder / "metrics.parquet", ("population", "label", "region", "class", "figure", *spread), spread
    )
    if metrics is not None:
        parts += _metrics(report, metrics)
    cells = ("weight", "share", "low", "high")
    confusion = read_table(
        folder / "confusion.parquet", ("population", "label", "region", "actual", "predicted", *cells), cells
    )
    if confusion is not None:
        parts.append(
            report.table(
                confusion[confusion["region"] == ALL_REGIONS],
                {
                    "label": ("against the", ""),
                    "population": ("population", ""),
                    "actual": ("actual", ""),
                    "predicted": ("mapped", ""),
                    "weight": ("pixels or rows", ",.0f"),
                    "share": ("share of the actual class", ".4f"),
                    "low": ("low", ".4f"),
                    "high": ("high", ".4f"),
                },
                "Confusion matrix, all regions: shares of the actual class with 95 % intervals.",
                "evaluate/confusion.parquet",
            )
        )
    figures = {
        "confusion": "Confusion matrices of all regions, with intervals, for each population and label",
        "roc": "ROC: mangrove found against other mapped as mangrove",
        "curves": "Precision and recall by threshold, reliability, and precision where mangrove is rarer",
        "regions": "Figures of each region with intervals",
        "importance": "What the model looks at: permutation and SHAP importance",
        "transfer_auc": "Cross-region matrix of AUC: trained on rows, judged on columns",
        "leave_one_out": "Each region judged by a model of all others",
    }
    sources = {"roc": "curves", "regions": "metrics", "transfer_auc": "trial_figures", "leave_one_out": "trial_figures"}
    for name, words in figures.items():
        source = f"evaluate/{sources.get(name, name)}.parquet"
        caption = f"{words}." if name in ("confusion", "importance") else f"{words}; wall to wall, against the mask."
        alt = f"{words}. Its numbers are in {source}."
        parts.append(report.figure(f"evaluate/{name}.png", alt, caption, source, by="evaluate CONFIG"))
        if name == "importance":
            parts.append(_importance(report, folder))
        if name == "transfer_auc":
            parts.append(_transfer(report, folder))
        if name in ("roc", "curves", "regions"):
            truth = f"evaluate/{name}_truth.png"
            caption = f"{words}; wall to wall, against the truth of the simulated world."
            parts.append(report.figure(truth, alt, caption, source, by="evaluate CONFIG --truth WORLD"))
    return Section("How far to trust the model", "evaluation", parts)


def _metrics(report: Report, metrics: pd.DataFrame) -> list[str]:
    """Return the main figures with intervals, of all regions and of each."""
    names = {"auc": "AUC", "precision": "precision", "recall": "recall", "f1": "F1", "calibration_error": "ECE"}
    some = metrics[metrics["figure"].isin(list(names)) & metrics["class"].isin(["both", "mangrove"])]
    some = some.assign(
        shown=[
            _cell(value, ".3f") + (f" ({low:.3f}-{high:.3f})" if math.isfinite(low) else "")
            for value, low, high in zip(some["value"], some["low"], some["high"], strict=True)
        ]
    )
    wide = some.pivot_table(
        index=["label", "population", "region"], columns="figure", values="shown", aggfunc="first", sort=False
    ).reset_index()
    columns = {"label": ("against the", ""), "population": ("population", ""), "region": ("region", "")}
    columns |= {name: (heading, "") for name, heading in names.items()}
    wide = wide.reindex(columns=list(columns)).fillna("–")
    whole = wide["region"] == ALL_REGIONS
    each = wide[~whole & (wide["population"] == "wall to wall")]
    file = "evaluate/metrics.parquet"
    return [
        report.table(wide[whole], columns, "Figures of all regions with 95 % intervals.", file),
        report.table(each, columns, "Figures of each region, wall to wall, with 95 % intervals.", file),
    ]


def _importance(report: Report, folder: Path) -> str:
    numbers = ("auc_drop", "auc_drop_sd", "shap")
    found = read_table(folder / "importance.parquet", ("feature", *numbers), numbers)
    if found is None:
        return ""
    return report.table(
        found,
        {
            "feature": ("feature or group", ""),
            "auc_drop": ("AUC lost when permuted", ".4f"),
            "auc_drop_sd": ("sd of repeats", ".4f"),
            "shap": ("mean |SHAP|, log-odds", ".3f"),
        },
        "Importance of features and of groups of them.",
        "evaluate/importance.parquet",
    )


def _transfer(report: Report, folder: Path) -> str:
    found = read_table(folder / "trial_figures.parquet", ("label", "kind", "name", "region", "auc"), ("auc",))
    if found is None:
        return ""
    matrix = transfer_matrix(found, "auc", "mask")
    most = 25
    names = list(matrix.columns)[:most]
    if not names:
        return ""
    rows = [
        [name, *(_cell(value, ".3f") for value in matrix.loc[name, names].to_numpy(float))]
        for name in (*names, "all but this")
        if name in matrix.index
    ]
    left = f" The first {most} of {len(matrix.columns)} regions." if len(matrix.columns) > most else ""
    caption = "Cross-region matrix of AUC, wall to wall, against the mask: a row trained on, a column judged on."
    return report.captions.table(["trained on", *names], rows, caption + left, "evaluate/trial_figures.parquet")


def areas(report: Report) -> Section | None:
    numbers = ("year", "mangrove_ha", "loss_ha", "gain_ha", "net_ha", "estimated_ha", "low_ha", "high_ha")
    series = read_table(report.folder / "series.csv", ("by", "where", *numbers, "provisional"), numbers)
    mapped = ("year", "code", "hectares")
    maps = read_table(report.folder / "areas.csv", ("by", "where", "name", *mapped), mapped)
    if maps is None:
        report.missing += ["classify", "change"]
        return None
    parts = [
        paragraph(
            "Hectares are counts of pixels times their area on the ellipsoid, so they hold the errors of the map; "
            "where the run was assessed, estimates with 95 % intervals stand beside them and are what to quote."
        )
    ]
    if series is None:
        report.missing.append("change")
        by_year = maps[maps["by"] == ("total" if (maps["by"] == "total").any() else "region")]
        sums = by_year.groupby(["year", "name"])["hectares"].sum().unstack().reset_index()
        columns = {"year": ("year", ".0f")} | {name: (name, ",.1f") for name in sums.columns if name != "year"}
        parts.append(report.table(sums, columns, "Hectares by class and year, all regions.", "areas.csv", most=80))
        return Section("Areas", "areas", parts)
    parts.append(
        report.figure(
            "series.png",
            "Mangrove area by year, and hectares gained and lost between years, of the whole area and the places with "
            "most mangrove. Its numbers are in series.csv.",
            "Mangrove by year, and gain and loss between years. Hollow: provisional, the last years may yet turn back.",
            "series.csv",
            by="change CONFIG",
        )
    )
    columns = {
        "where": ("place", ""),
        "year": ("year", ".0f"),
        "mangrove_ha": ("mapped, ha", ",.1f"),
        "loss_ha": ("lost since the year before", ",.1f"),
        "gain_ha": ("gained", ",.1f"),
        "net_ha": ("net", ",.1f"),
        "estimated_ha": ("estimated, ha", ",.1f"),
        "low_ha": ("low", ",.1f"),
        "high_ha": ("high", ",.1f"),
        "provisional": ("provisional", ""),
    }
    whole = series["by"] == "total"
    parts.append(
        report.table(
            series[whole],
            columns,
            "Mangrove of the whole area by year: mapped, and estimated with 95 % intervals where assessed.",
            "series.csv",
            most=80,
        )
    )
    rest = series[~whole & (series["year"] == series["year"].max())].sort_values(
        ["mangrove_ha", "where"], ascending=[False, True]
    )
    parts.append(
        report.table(rest, columns, "The same of each place in the last year, most mangrove first.", "series.csv")
    )
    parts += _change(report)
    return Section("Areas and change", "areas", parts)


def _change(report: Report) -> list[str]:
    parts = []
    found = report.tables["change_matrix"]
    columns = {
        "first": ("from year", "d"),
        "last": ("to year", "d"),
        "from": ("was", ""),
        "to": ("became", ""),
        "hectares": ("hectares", ",.1f"),
        "provisional_ha": ("of them provisional", ",.1f"),
    }
    caption = "Change matrix, all regions: hectares by class before and after, of changes of every size."
    parts.append(report.table(found, columns, caption, f"{TABLES}/change_matrix.csv", "transitions.csv"))
    history = read_table(
        report.folder / "history.csv", ("by", "where", "name", "code", "hectares"), ("code", "hectares")
    )
    if history is not None:
        some = history[history["by"] == ("total" if (history["by"] == "total").any() else "region")]
        sums = some.groupby("name")["hectares"].sum().reindex([one.name for one in CHANGES]).dropna()
        table_of = sums.rename_axis("name").reset_index()
        named = {"name": ("what happened in all years", ""), "hectares": ("hectares", ",.1f")}
        parts.append(report.table(table_of, named, "What all years of a pixel tell, all regions.", "history.csv"))
    return parts


def assessment(report: Report) -> Section | None:
    folder = report.folder / "assess"
    numbers = ("mapped_ha", "estimated_ha", "low_ha", "high_ha", "points", "pct_per_year")
    found = read_table(folder / "areas.csv", ("by", "where", "period", "class", *numbers), numbers)
    if found is None:
        report.missing.append("assess")
        return None
    whole = found[found["by"] == "total"]
    limits = {"low_ha": ("low", ",.1f"), "high_ha": ("high", ",.1f"), "points": ("points", ",.0f")}
    parts = [
        paragraph(
            "From points an interpreter looked at, drawn at random in strata of the map (Olofsson and others, 2014)."
        ),
        report.table(
            whole,
            {
                "period": ("period", ""),
                "class": ("class", ""),
                "mapped_ha": ("mapped, ha", ",.1f"),
                "estimated_ha": ("estimated, ha", ",.1f"),
                **limits,
                "pct_per_year": ("% a year", ".2f"),
            },
            "Areas of the whole area, estimated with 95 % intervals.",
            "assess/areas.csv",
            most=120,
        ),
    ]
    measured = ("value", "low", "high", "points")
    figures = read_table(folder / "accuracy.csv", ("by", "period", "measure", "class", *measured), measured)
    if figures is not None:
        parts.append(
            report.table(
                figures[figures["by"] == "total"],
                {
                    "period": ("period", ""),
                    "measure": ("accuracy", ""),
                    "class": ("class", ""),
                    "value": ("value", ".4f"),
                    "low": ("low", ".4f"),
                    "high": ("high", ".4f"),
                    "points": ("points", ",.0f"),
                },
                "Accuracy of the map with 95 % intervals: overall, user's and producer's.",
                "assess/accuracy.csv",
                most=120,
            )
        )
    shares = ("points", "share")
    matrix = read_table(folder / "matrix.csv", ("by", "period", "mapped", "true", *shares), shares)
    if matrix is not None:
        parts.append(
            report.table(
                matrix[matrix["by"] == "total"],
                {
                    "period": ("period", ""),
                    "mapped": ("mapped", ""),
                    "true": ("by the interpreter", ""),
                    "points": ("points", ",.0f"),
                    "share": ("estimated share of the land", ".4f"),
                },
                "Error matrix of the assessment.",
                "assess/matrix.csv",
                most=60,
            )
        )
    return Section("Accuracy and areas as assessed", "assessment", parts)


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
