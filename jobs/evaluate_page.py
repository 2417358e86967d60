"""What ``mangroves evaluate`` writes: tables, charts, a summary and the page that shows them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pyarrow
import pyarrow.parquet

from engine import evaluate_charts as charts
from engine.evaluate import LEAST_BLOCKS
from engine.files import replacing, write_text
from engine.kernels.score import PREVALENCES
from engine.scores import ALL_REGIONS, AS_DRAWN, labels_of
from engine.transfer import headline, split_table

FIGURES: Final = ("auc", "precision", "recall", "f1", "average_precision", "brier", "calibration_error")
"""Those of both classes, and of mangrove."""

OTHER_FIGURES: Final = ("other_precision", "other_recall", "other_f1", "other_average_precision")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Tables of an evaluation by name, and what goes with them."""

    tables: dict[str, pd.DataFrame]
    thresholds: tuple[float, ...]
    """From which the rows were mapped as mangrove: the model's, or that of each fold."""

    scope: str
    """How the scored rows were kept from the model."""

    rows_of_each: int
    """Pixels of each region and class that trials were fitted to, at most."""

    model_sha256: str
    """Of the model that maps are made with."""


def write_evaluation(
    folder: Path, found: Evaluation, *, tags: dict[str, str], maps: Sequence[tuple[str, str]] = ()
) -> dict[str, Any]:
    """Write tables, charts, page and summary, and remove those of an earlier evaluation; return the summary.

    Parameters
    ----------
    folder : Path
    found : Evaluation
    tags : dict of str to str
        Of the run; ``notice`` goes on every chart and page.
    maps : sequence of (str, str)
        Headings and file names of pictures already in the folder.
    """
    notice = tags.get("notice", "")
    for name, table in found.tables.items():
        write_parquet(folder / f"{name}.parquet", table, tags)
    summary = summarise(found, tags)
    pictures = [*draw_charts(folder, found, notice), *maps]
    write_text(folder / "summary.json", json.dumps(summary, indent=1, allow_nan=False))
    write_text(folder / "README.md", page(found, summary, pictures))
    written = {*(f"{name}.parquet" for name in found.tables), *(name for _, name in pictures)}
    for path in folder.iterdir():
        if path.suffix in (".parquet", ".png") and path.name not in written:
            path.unlink()
    return summary


def write_parquet(path: Path, table: pd.DataFrame, tags: dict[str, str]) -> None:
    """Write a table with the run's tags in its metadata."""
    content = pyarrow.Table.from_pandas(table, preserve_index=False)
    about = {f"mangroves.{name}": value for name, value in tags.items()}
    content = content.replace_schema_metadata({**(content.schema.metadata or {}), **about})
    with replacing(path) as temporary:
        pyarrow.parquet.write_table(content, temporary, compression="zstd")


def summarise(found: Evaluation, tags: dict[str, str]) -> dict[str, Any]:
    """Return the main figures as JSON takes them: None where not defined."""
    metrics = found.tables["metrics"]
    figures: dict[str, Any] = {}
    for row in metrics.to_dict("records"):
        figure = f"other_{row['figure']}" if row["class"] == "other" else row["figure"]
        place = figures.setdefault(row["label"], {}).setdefault(row["population"], {})
        place.setdefault(row["region"], {})[figure] = {name: _number(row[name]) for name in ("value", "low", "high")}
    summary = {
        "scope": found.scope,
        "model_sha256": found.model_sha256,
        "thresholds": list(found.thresholds),
        "rows": len(found.tables["scores"]),
        "blocks": int(found.tables["scores"]["block"].nunique()),
        "figures": figures,
        "tags": tags,
    }
    if "trial_figures" in found.tables:
        of = found.tables["trial_figures"]
        summary["leave_one_region_out"] = {
            label: {k: _number(v) if isinstance(v, float) else v for k, v in headline(of, label).items()}
            for label in of["label"].unique()
        }
        splits = split_table(of)
        summary["splits"] = [
            {k: _number(v) if isinstance(v, float) else v for k, v in row.items()} for row in splits.to_dict("records")
        ]
    return summary


def _number(value: float) -> float | None:
    return round(float(value), 6) if math.isfinite(value) else None


def draw_charts(folder: Path, found: Evaluation, notice: str) -> list[tuple[str, str]]:
    """Draw every chart; return (heading, file name) in the order of the page."""
    t = found.tables
    drawn: list[tuple[str, str]] = []

    def place(heading: str, name: str) -> Path:
        drawn.append((heading, f"{name}.png"))
        return folder / f"{name}.png"

    charts.confusion_chart(
        place("Confusion matrices", "confusion"), t["confusion"], thresholds=found.thresholds, notice=notice
    )
    for label in labels_of(t["scores"]):
        end = "" if label == "mask" else f"_{label}"
        charts.regions_chart(
            place(f"Regions, against the {label}", f"regions{end}"), t["metrics"], label=label, notice=notice
        )
        charts.roc_chart(
            place(f"ROC, against the {label}", f"roc{end}"),
            t["curves"],
            t["metrics"],
            label=label,
            thresholds=found.thresholds,
            notice=notice,
        )
        charts.curves_chart(
            place(f"Thresholds, calibration and prevalence, against the {label}", f"curves{end}"),
            t["curves"],
            t["reliability"],
            t["metrics"],
            label=label,
            thresholds=found.thresholds,
            notice=notice,
        )
        charts.errors_chart(
            place(f"What errors are made of, against the {label}", f"errors{end}"),
            t["errors"],
            label=label,
            notice=notice,
        )
        if "trial_figures" not in t:
            continue
        of = t["trial_figures"]
        if (of["kind"] == "all but one").any():
            charts.leave_one_out_chart(
                place(f"Leave one region out, against the {label}", f"leave_one_out{end}"),
                of,
                label=label,
                notice=notice,
            )
            for figure in ("auc", "f1") if len(charts.transfer_matrix(of, "auc", label).columns) else ():
                charts.transfer_chart(
                    place(f"Trained here, judged there: {figure.upper()}, {label}", f"transfer_{figure}{end}"),
                    of,
                    figure,
                    label=label,
                    notice=notice,
                )
        splits = split_table(of)
        if len(splits):
            charts.splits_chart(
                place(f"Ways to part the sample, {label}", f"splits{end}"), splits, label=label, notice=notice
            )
        if of["kind"].isin(["samples", "regions"]).any():
            charts.learning_chart(place(f"Learning curves, {label}", f"learning{end}"), of, label=label, notice=notice)
    importance = t["importance"]
    charts.importance_chart(
        place("What the model looks at", "importance"),
        importance,
        title="Importance: AUC wall to wall against the mask; SHAP of rows that count alike",
        notice=notice,
    )
    charts.shap_chart(
        place("SHAP values", "shap"),
        t["shap"],
        list(importance.loc[~importance["is_group"], "feature"]),
        title=f"SHAP values of {len(t['shap']):,} rows, a seeded choice",
        notice=notice,
    )
    return drawn


def page(found: Evaluation, summary: dict[str, Any], pictures: list[tuple[str, str]]) -> str:
    """Return the page in Markdown."""
    lines = ["# Evaluation", ""]
    if notice := summary["tags"].get("notice"):
        lines += [f"**{notice}**", ""]
    lines += [
        f"Scored are {summary['rows']:,} rows in {summary['blocks']} blocks of 10 km ({found.scope}). Mangrove is "
        f"mapped from a probability of {charts.range_of(found.thresholds)}. Intervals are 95 %, by a bootstrap"
        " of blocks within regions; none is given where a class lies in blocks worth fewer than "
        f"{LEAST_BLOCKS} alike. They say how far other land like these regions' might differ, not what other "
        "regions would give.",
        "",
        f"The model is `{found.model_sha256[:12]}`; a run that has another by now (see `model/README.md`) is to be"
        " evaluated again.",
        "",
    ]
    if AS_DRAWN not in summary["figures"]["mask"]:
        lines += [
            f"Of each region and class at most {found.rows_of_each:,} pixels were chosen anew from the sample, weighted"
            " to stand for all land, so no figure is of rows as drawn.",
            "",
        ]
    for label, populations in summary["figures"].items():
        lines += [f"## All regions, against the {label}", "", *_table_of(populations), ""]
        lines += [f"## By region, wall to wall, against the {label}", "", *_table_by_region(populations), ""]
    for label, of in summary.get("leave_one_region_out", {}).items():
        if of:
            lines += [
                f"**Leave one region out** (wall to wall, {label}, {of['regions']} regions): AUC median"
                f" {of['median_auc']:.3f}, worst {of['worst_auc']:.3f} ({of['worst_auc_region']}); F1 median"
                f" {of['median_f1']:.3f}, worst {of['worst_f1']:.3f} ({of['worst_f1_region']}).",
                "",
            ]
    lines += [
        "Trials (leave one out, transfer, other splits, learning curves) are fitted with the model's settings to at "
        f"most {found.rows_of_each:,} pixels of each region and class, and are not calibrated; the threshold of each "
        "is that of highest F1 on the training side, out of fold.",
        "",
    ]
    for heading, name in pictures:
        lines += [f"## {heading}", "", f"![{heading}]({name})", ""]
    lines += [
        "## Tables",
        "",
        *(f"* [{name}.parquet]({name}.parquet), {len(table):,} rows" for name, table in found.tables.items()),
        "",
    ]
    return "\n".join(lines)


def _table_of(populations: dict[str, Any]) -> list[str]:
    names = [*FIGURES, *OTHER_FIGURES]
    names += [f"{figure}_at_{share:.0%}" for share in PREVALENCES for figure in ("precision", "f1")]
    header = ["figure", *populations]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for name in ("prevalence", *names):
        cells = [with_interval(of.get(ALL_REGIONS, {}).get(name)) for of in populations.values()]
        lines.append("| " + " | ".join([name.replace("_", " "), *cells]) + " |")
    return lines


def _table_by_region(populations: dict[str, Any]) -> list[str]:
    header = ["region", *(name.replace("_", " ") for name in ("prevalence", *FIGURES))]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for region, figures in populations["wall to wall"].items():
        if region != ALL_REGIONS:
            cells = [with_interval(figures[name]) for name in ("prevalence", *FIGURES)]
            lines.append("| " + " | ".join([region, *cells]) + " |")
    return lines


def with_interval(cell: dict[str, float | None] | None) -> str:
    """Return a figure of a summary with its interval, as far as there are any."""
    if cell is None or cell["value"] is None:
        return "-"
    if cell["low"] is None:
        return f"{cell['value']:.3f}"
    return f"{cell['value']:.3f} ({cell['low']:.3f}-{cell['high']:.3f})"
