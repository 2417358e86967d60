"""Sections of a report on the sample and the model: densities, leaderboard, figures of the evaluation."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd

from engine.card import score_records
from engine.evaluate_charts import transfer_matrix
from engine.html import Section, paragraph
from engine.leaderboard import LEADERBOARD_COLUMNS
from engine.model import load_model
from engine.scores import ALL_REGIONS
from jobs.report_parts import Report, cell, summary_of
from jobs.report_tables import read_table


def sample(report: Report) -> Section | None:
    about = summary_of(report.folder / "explore" / "summary.json")
    stage = report.record["stages"].get("sample")
    if stage is None and about is None:
        report.missing += ["sample", "explore"]
        return None
    parts = []
    if stage is not None:
        told = ", ".join(f"{name.replace('_', ' ')} {cell(value, ',')}" for name, value in stage["counts"].items())
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
            f"Label: {str(about.get('label'))[:200]}. Looked at were {cell(about.get('rows_examined'), ',')} of "
            f"{cell(about.get('rows'), ',')} rows. Wall to wall: rows count by the pixels they stand for."
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
    about = summary_of(report.folder / "evaluate" / "summary.json")
    if about is None:
        report.missing.append("evaluate")
        return None
    folder = report.folder / "evaluate"
    parts = [
        paragraph(
            f"Scored are {cell(about.get('rows'), ',')} rows in {cell(about.get('blocks'), ',')} blocks of 10 km "
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
            cell(value, ".3f") + (f" ({low:.3f}-{high:.3f})" if math.isfinite(low) else "")
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
        [name, *(cell(value, ".3f") for value in matrix.loc[name, names].to_numpy(float))]
        for name in (*names, "all but this")
        if name in matrix.index
    ]
    left = f" The first {most} of {len(matrix.columns)} regions." if len(matrix.columns) > most else ""
    caption = "Cross-region matrix of AUC, wall to wall, against the mask: a row trained on, a column judged on."
    return report.captions.table(["trained on", *names], rows, caption + left, "evaluate/trial_figures.parquet")
