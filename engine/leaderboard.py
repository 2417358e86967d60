"""What a search found, as tables: the leaderboard and all trials."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from engine.files import replacing, write_text
from engine.tune_trials import LABEL, POPULATION, Trial

RUN_TIME: Final = ("fit_seconds", "seconds")
"""Columns that depend on the machine."""

LEADERBOARD_COLUMNS: Final = (
    ("candidate", "candidate", "{}"),
    ("AUC", "auc_mean", "{:.4f}"),
    ("sd", "auc_sd", "{:.4f}"),
    ("worst", "auc_min", "{:.4f}"),
    ("F1 folds", "f1_folds", "{:.3f}"),
    ("hold-out AUC", "hold_out_auc", "{:.4f}"),
    ("hold-out F1", "hold_out_f1", "{:.3f}"),
    ("trials", "trials", "{}"),
    ("a fit, s", "fit_seconds", "{:.1f}"),
    ("all, s", "seconds", "{:.0f}"),
)
"""Heading, column and format of a leaderboard as it is read."""


@dataclass(frozen=True, eq=False)
class Study:
    """What a search found."""

    leaderboard: pd.DataFrame
    """One row a candidate, best first."""

    trials: pd.DataFrame
    """One row a trial."""

    best: dict[str, Any] | None
    """The best trial of the candidate that maps are made with, None if it was not tried."""

    about: dict[str, Any]
    """What was searched, and of which rows."""

    notes: tuple[str, ...]
    """What a reader must know of these figures."""


def best_trials(trials: Sequence[Trial], objective: str) -> dict[str, Trial]:
    """Return the best finished trial of each candidate, the first of equals."""
    best: dict[str, Trial] = {}
    for trial in trials:
        if trial.state != "complete":
            continue
        other = best.get(trial.candidate)
        if other is None or trial.gain(objective) > other.gain(objective):
            best[trial.candidate] = trial
    return best


def rank_candidates(
    trials: Sequence[Trial], best: Mapping[str, Trial], fits: Mapping[str, dict[str, Any]], objective: str
) -> pd.DataFrame:
    """Return one row a candidate, best first.

    Parameters
    ----------
    trials : sequence of Trial
    best : mapping
        Candidate -> its best trial.
    fits : mapping
        Candidate -> what the fit of that trial to all training regions gave.
    objective : str
        Metric to rank by.
    """
    rows = []
    for name, trial in best.items():
        own = [one for one in trials if one.candidate == name]
        values, fit = trial.folds["auc"], fits[name]
        rows.append(
            {
                "candidate": name,
                **({} if objective == "auc" else {f"{objective}_mean": fmean(trial.folds[objective])}),
                "auc_mean": fmean(values),
                "auc_sd": float(np.std(values, ddof=1)),
                "auc_min": min(values),
                "folds": len(values),
                "f1_folds": trial.f1,
                "threshold": trial.threshold,
                "hold_out_auc": fit.get("auc", math.nan),
                "hold_out_f1": fit.get("f1", math.nan),
                "hold_out_precision": fit.get("precision", math.nan),
                "hold_out_recall": fit.get("recall", math.nan),
                "trials": len(own),
                "pruned": sum(one.state == "pruned" for one in own),
                "best_trial": trial.number,
                "params": json.dumps(trial.params, sort_keys=True),
                "model_sha256": fit["model_sha256"],
                "fit_seconds": fit["fit_seconds"],
                "seconds": math.fsum(one.seconds for one in own),
                "population": POPULATION,
                "label": LABEL,
            }
        )
    rows.sort(key=lambda row: (-best[row["candidate"]].gain(objective), row["candidate"]))
    return pd.DataFrame(rows)


def trials_table(trials: Sequence[Trial]) -> pd.DataFrame:
    """Return one row a trial, in their order."""
    return pd.DataFrame(
        [
            {
                "number": trial.number,
                "batch": trial.batch,
                "candidate": trial.candidate,
                "state": trial.state,
                "params": json.dumps(trial.params, sort_keys=True),
                **trial.folds,
                "threshold": trial.threshold,
                "f1_folds": trial.f1,
                "seconds": trial.seconds,
            }
            for trial in trials
        ]
    )


def write_study(study: Study, folder: Path) -> None:
    """Write leaderboard (CSV, Parquet, Markdown), trials (Parquet) and the best parameters (JSON).

    Raises
    ------
    StoreError
        If the folder cannot be written.
    """
    stated = study.leaderboard.assign(notice=study.about["notice"])
    write_text(folder / "leaderboard.csv", stated.to_csv(index=False, lineterminator="\n"))
    write_text(folder / "leaderboard.md", _markdown(study))
    for name, table in (("leaderboard", study.leaderboard), ("trials", study.trials)):
        content = pa.Table.from_pandas(table, preserve_index=False)
        about = {b"mangroves": json.dumps(study.about).encode()}
        with replacing(folder / f"{name}.parquet") as temporary:
            pq.write_table(content.replace_schema_metadata({**(content.schema.metadata or {}), **about}), temporary)
    if study.best is None:
        (folder / "best.json").unlink(missing_ok=True)
    else:
        write_text(folder / "best.json", json.dumps(study.best, indent=1) + "\n")


def leaderboard_cells(study: Study) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows of the leaderboard as text."""
    columns = list(LEADERBOARD_COLUMNS)
    objective = study.about["objective"]
    if objective != "auc":
        columns.insert(1, (objective.replace("_", " "), f"{objective}_mean", "{:.4f}"))

    def cell(value: Any, form: str) -> str:
        return "-" if isinstance(value, float) and math.isnan(value) else form.format(value)

    rows = [[cell(row[name], form) for _, name, form in columns] for row in study.leaderboard.to_dict("records")]
    return [heading for heading, _, _ in columns], rows


def _markdown(study: Study) -> str:
    headings, rows = leaderboard_cells(study)
    about = study.about
    lines = ["# Leaderboard", ""]
    if about["notice"]:
        lines += [f"**{about['notice']}**", ""]
    lines += [
        f"{about['trials']} trials, {about['folds_scored']} folds ({about['split']}), seed {about['seed']}, "
        f"{about['rows_looked_at']} rows, hold-out: {', '.join(about['hold_out']) or 'none'}.",
        "",
        "| " + " | ".join(headings) + " |",
        "|---" + "|---:" * (len(headings) - 1) + "|",
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
        *(f"* {note}" for note in study.notes),
        "",
    ]
    return "\n".join(lines)
