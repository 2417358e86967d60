"""``mangroves evaluate``: judge a model on land it never saw, and write tables, charts and a page."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet

from engine import evaluate as step
from engine import evaluate_charts as charts
from engine.boost import Boosted
from engine.classify import as_asked
from engine.figures import prediction_map
from engine.files import replacing, write_text
from engine.kernels.score import PREVALENCES
from engine.model import Model
from engine.params import BoostParams
from engine.plan import Plan, TileYear
from engine.rows import PIXEL, gather_rows, is_thinned, row_keys
from engine.sample import read_sample
from engine.store import open_store
from engine.trust import safe_name
from jobs.context import Options, Run, open_run, run_options
from jobs.cube import build_cubes, cube_path
from jobs.plan import plan_run
from jobs.sample import draw_samples
from jobs.search import find_scenes
from jobs.train import check_training, fit_model

SHAP_ROWS: Final = 2000
MOST_MAPS: Final = 30
FIGURES: Final = ("auc", "precision", "recall", "f1", "average_precision", "brier", "calibration_error")
"""Those of both classes, and of mangrove."""

OTHER_FIGURES: Final = ("other_precision", "other_recall", "other_f1", "other_average_precision")

AddTruth = Callable[[pd.DataFrame], pd.DataFrame]
"""Adds columns ``truth`` (bool) and ``truth_class`` (str) to rows with zone, grid_row, grid_col, year and region."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Tables of an evaluation by name, and what goes with them."""

    tables: dict[str, pd.DataFrame]
    threshold: float
    scope: str
    """How the scored rows were kept from the model."""

    features: tuple[str, ...]
    rows_of_each: int
    """Pixels of each region and class that trials were fitted to, at most."""


def evaluate_model(run: Run, model: Model, *, add_truth: AddTruth | None = None) -> Evaluation:
    """Score a model on a run's sample, and fit the trials that tell how far it carries.

    Parameters
    ----------
    run : Run
        With a sample.
    model : Model
    add_truth : callable, optional
        Where the truth is known, as in simulated worlds.

    Raises
    ------
    SampleError
        If the sample lacks columns, or leaves nothing to judge on.
    """
    truth = add_truth or (lambda frame: frame)
    sample = read_sample(run.outputs / "sample")
    sample = run.client.persist(sample[step.needed_columns(sample.columns, model.features)])

    frame, each = gather_rows(sample, list(sample.columns), most=step.ROWS, seed=run.params.seed, client=run.client)
    frame = truth(frame)
    held = step.unseen_regions(model, frame["region"].unique())
    if held:
        scope = "transfer: " + ("held-out regions" if model.hold_out else "regions the model was not trained on")
        scores = truth(step.score_sample(sample, model, held, run.client))
        judges = [(Boosted(model.trees, model.edges), frame["region"].isin(held).to_numpy())]
    else:
        trials = step.out_of_fold_trials(frame, seed=run.params.seed)
        fitted = [(trial, outcome) for trial, outcome in _run_trials(run, model, frame, trials, "folds") if outcome]
        scope = trials[0].name + ", each by a model of the others"
        scores = pd.concat(
            [
                step.score_table(frame[trial.test], step.mapped_probability(model, frame[trial.test], outcome.boosted))
                for trial, outcome in fitted
            ],
            ignore_index=True,
        )
        judges = [(outcome.boosted, trial.test) for trial, outcome in fitted]
    trials = step.plan_trials(frame, held, seed=run.params.seed)
    outcomes = [outcome for _, outcome in _run_trials(run, model, frame, trials, "trials")]
    tables = {"scores": scores, **_score_tables(scores, model.threshold, run.params.seed)}
    said = [step.trial_scores(n, trials[n], outcome) for n, outcome in enumerate(outcomes) if outcome]
    tables["trials"] = step.trial_list(trials, outcomes)
    tables["trial_rows"] = step.trial_rows(frame)
    if said:
        tables["trial_scores"] = pd.concat(said, ignore_index=True)
        tables["trial_figures"] = step.trial_figures(tables["trials"], tables["trial_rows"], tables["trial_scores"])
    tables |= _importance(run, model, frame, judges)
    return Evaluation(tables=tables, threshold=model.threshold, scope=scope, features=model.features, rows_of_each=each)


def _score_tables(scores: pd.DataFrame, threshold: float, seed: int) -> dict[str, pd.DataFrame]:
    return {
        "metrics": step.metrics_table(scores, threshold=threshold, seed=seed),
        "confusion": step.confusion_table(scores, threshold=threshold, seed=seed),
        "curves": step.curve_table(scores),
        "reliability": step.reliability_table(scores, seed=seed),
        "errors": step.error_table(scores, threshold=threshold),
    }


def _run_trials(
    run: Run, model: Model, frame: pd.DataFrame, trials: Iterable[step.Trial], label: str
) -> list[tuple[step.Trial, step.Outcome | None]]:
    """Fit trials on the cluster; in their order."""
    trials = list(trials)
    known = {name: model.params[name] for name in BoostParams.model_fields if name in model.params}
    params, balance = BoostParams(**known), str(model.params.get("balance", "map"))
    calls = [
        (frame, model.features, params, balance, np.packbits(one.train), np.packbits(one.test), run.params.seed)
        for one in trials
    ]
    number = {id(call): n for n, call in enumerate(calls)}
    outcomes: list[step.Outcome | None] = [None] * len(trials)
    for call, outcome in run.tasks(step.run_trial, calls, len(calls), label, shared=(frame,)):
        outcomes[number[id(call)]] = outcome
    return list(zip(trials, outcomes, strict=True))


def _importance(
    run: Run, model: Model, frame: pd.DataFrame, judges: list[tuple[Boosted, np.ndarray]]
) -> dict[str, pd.DataFrame]:
    plain = ~is_thinned(frame)
    calls = [(frame[rows & plain], model.features, boosted, 5, run.params.seed) for boosted, rows in judges]
    drops = [drop for _, drop in run.tasks(step.permutation_importance, calls, len(calls), "importance")]
    seen = np.any([rows for _, rows in judges], axis=0) & plain
    order = row_keys(frame, run.params.seed, by=PIXEL)
    chosen = frame[seen].iloc[np.argsort(order[seen], kind="stable")[:SHAP_ROWS]]
    shap = step.shap_table(chosen, model.features, Boosted(model.trees, model.edges))
    permuted = pd.concat(drops, ignore_index=True)
    return {"permuted": permuted, "shap": shap, "importance": step.importance_table(permuted, shap)}


# --- what is written -------------------------------------------------------------------------------------------


def write_evaluation(
    folder: Path, found: Evaluation, *, tags: dict[str, str], maps: Sequence[tuple[str, str]] = ()
) -> dict[str, Any]:
    """Write tables, charts, page and summary; return the summary.

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
        "threshold": found.threshold,
        "rows": len(found.tables["scores"]),
        "blocks": int(found.tables["scores"]["block"].nunique()),
        "figures": figures,
        "tags": tags,
    }
    if "trial_figures" in found.tables:
        of = found.tables["trial_figures"]
        summary["leave_one_region_out"] = {
            label: {k: _number(v) if isinstance(v, float) else v for k, v in step.headline(of, label).items()}
            for label in of["label"].unique()
        }
        splits = step.split_table(of)
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
        place("Confusion matrices", "confusion"), t["confusion"], threshold=found.threshold, notice=notice
    )
    for label in step.labels_of(t["scores"]):
        end = "" if label == "mask" else f"_{label}"
        charts.regions_chart(
            place(f"Regions, against the {label}", f"regions{end}"), t["metrics"], label=label, notice=notice
        )
        charts.curves_chart(
            place(f"Thresholds, calibration and prevalence, against the {label}", f"curves{end}"),
            t["curves"],
            t["reliability"],
            t["metrics"],
            label=label,
            threshold=found.threshold,
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
            for figure in ("auc", "f1"):
                charts.transfer_chart(
                    place(f"Trained here, judged there: {figure.upper()}, {label}", f"transfer_{figure}{end}"),
                    of,
                    figure,
                    label=label,
                    notice=notice,
                )
        splits = step.split_table(of)
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
        title="Importance: AUC wall to wall against the mask; SHAP over rows as drawn",
        notice=notice,
    )
    charts.shap_chart(
        place("SHAP values", "shap"),
        t["shap"],
        list(importance.loc[~importance["is_group"], "feature"]),
        title=f"SHAP values of {len(t['shap']):,} rows as drawn",
        notice=notice,
    )
    return drawn


def draw_maps(run: Run, plan: Plan, found: Evaluation, folder: Path) -> list[tuple[str, str]]:
    """Draw the scored points of each region over its composite, right and wrong; return (heading, file name).

    Of a region in several tiles or years the one with most points is shown; of many regions the first by name.
    """
    scores = found.tables["scores"]
    drawn = []
    for region in sorted(scores["region"].unique())[:MOST_MAPS]:
        rows = scores[scores["region"] == region]
        inside = {part: _points_of(part, rows) for part in plan.tile_years}
        part = max(inside, key=lambda one: len(inside[one]))
        points, (top, left, _, _) = inside[part], part.tile.window
        y, x = (points["grid_row"] - top).to_numpy(), (points["grid_col"] - left).to_numpy()
        window = tuple(slice(max(0, at.min() - 10), at.max() + 11) for at in (y, x))
        with open_store(cube_path(run, part)) as cube:
            composite = cube["composite"][:, window[0], window[1]].to_numpy()
        drawn.append((f"{region}, {part.year}", f"map_{safe_name(region, what='region')}.png"))
        prediction_map(
            folder / drawn[-1][1],
            composite,
            y - window[0].start,
            x - window[1].start,
            points["positive"].to_numpy(bool),
            (points["probability"] >= found.threshold).to_numpy(bool),
            title=f"{region} {part.year}, {found.scope}; mangrove from {found.threshold:.2f}",
            notice=run.params.notice,
            population="scored rows as drawn",
        )
    return drawn


def _points_of(part: TileYear, rows: pd.DataFrame) -> pd.DataFrame:
    top, left, height, width = part.tile.window
    of = (rows["zone"] == part.tile.zone) & (rows["year"] == part.year)
    of &= rows["grid_row"].between(top, top + height - 1) & rows["grid_col"].between(left, left + width - 1)
    return rows[of]


def page(found: Evaluation, summary: dict[str, Any], pictures: list[tuple[str, str]]) -> str:
    """Return the page in Markdown."""
    lines = ["# Evaluation", ""]
    if notice := summary["tags"].get("notice"):
        lines += [f"**{notice}**", ""]
    lines += [
        f"Scored are {summary['rows']:,} rows in {summary['blocks']} blocks of 10 km ({found.scope}). Mangrove is "
        f"mapped from a probability of {found.threshold:.2f}, the model's threshold. Intervals are 95 %, by a bootstrap"
        " of blocks within regions; none is given where a class lies in blocks worth fewer than "
        f"{step.LEAST_BLOCKS} alike. They say how far other land like these regions' might differ, not what other "
        "regions would give.",
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
        cells = [_with_interval(of.get(step.ALL_REGIONS, {}).get(name)) for of in populations.values()]
        lines.append("| " + " | ".join([name.replace("_", " "), *cells]) + " |")
    return lines


def _table_by_region(populations: dict[str, Any]) -> list[str]:
    header = ["region", *(name.replace("_", " ") for name in ("prevalence", *FIGURES))]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for region, figures in populations["wall to wall"].items():
        if region != step.ALL_REGIONS:
            cells = [_with_interval(figures[name]) for name in ("prevalence", *FIGURES)]
            lines.append("| " + " | ".join([region, *cells]) + " |")
    return lines


def _with_interval(cell: dict[str, float | None] | None) -> str:
    if cell is None or cell["value"] is None:
        return "-"
    if cell["low"] is None:
        return f"{cell['value']:.3f}"
    return f"{cell['value']:.3f} ({cell['low']:.3f}-{cell['high']:.3f})"


def show_evaluation(run: Run, summary: dict[str, Any], folder: Path) -> None:
    """Print the headline and hand the summary over."""
    rows = []
    for label, populations in summary["figures"].items():
        for population, regions in populations.items():
            of = regions[step.ALL_REGIONS]
            rows.append((f"{population}, {label}", *(_with_interval(of.get(name)) for name in FIGURES[:4])))
    run.reporter.table(f"Score, {summary['scope']}", ("population, label", "AUC", "precision", "recall", "F1"), rows)
    for label, of in summary.get("leave_one_region_out", {}).items():
        if of:
            run.reporter.say(
                f"evaluate  leave one region out, wall to wall, {label}: AUC median {of['median_auc']:.3f}, worst"
                f" {of['worst_auc']:.3f} ({of['worst_auc_region']}); F1 median {of['median_f1']:.3f}, worst"
                f" {of['worst_f1']:.3f} ({of['worst_f1_region']})"
            )
    run.reporter.result({"evaluation": str(folder), **summary}, f"evaluation in {folder / 'README.md'}")


@click.command("evaluate")
@run_options
def command(options: Options) -> None:
    """Judge the model on land it never saw: figures with intervals, transfer, importance, errors, a page.

    Makes cubes, sample and model first where missing.
    """
    with open_run(options) as run:
        check_training(run)
        plan = plan_run(run, find_scenes(run))
        build_cubes(run, plan)
        model, _ = fit_model(run, plan)
        if run.params.train.source != "here":
            draw_samples(run, plan)
        folder = run.folder / "evaluate"
        with run.record.stage("evaluate") as counts:
            found = evaluate_model(run, as_asked(model, run.params.classify))
            maps = draw_maps(run, plan, found, folder)
            summary = write_evaluation(folder, found, tags=run.tags, maps=maps)
            counts.update(rows=summary["rows"], trials=len(found.tables["trials"]))
        show_evaluation(run, summary, folder)
