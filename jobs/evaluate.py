"""``mangroves evaluate``: judge a model on land it never saw, and write tables, charts and a page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import pandas as pd

from engine.boost import Boosted
from engine.classify import as_asked
from engine.decide import ONE_SIDED, decide_apart
from engine.errors import SampleError
from engine.evaluate import confusion_table, curve_table, error_table, metrics_table, reliability_table
from engine.evaluate_charts import range_of
from engine.figures import prediction_map
from engine.importance import importance_table, permutation_importance, shap_table
from engine.model import Model
from engine.params import BoostParams, TrainParams
from engine.plan import Plan, TileYear
from engine.rows import PIXEL, gather_rows, is_thinned, row_keys
from engine.sample import read_sample
from engine.scores import ALL_REGIONS, AS_DRAWN, POPULATIONS, needed_columns, score_sample, score_table, unseen_rows
from engine.simulate import Archive, add_truth, read_archive
from engine.splits import HELD_OUT
from engine.store import open_store
from engine.transfer import (
    ROWS,
    Outcome,
    Trial,
    fold_outcome,
    out_of_fold_trials,
    plan_trials,
    run_trial,
    trial_figures,
    trial_list,
    trial_rows,
    trial_scores,
)
from engine.trust import safe_name
from jobs.context import Options, Run, open_run, run_options
from jobs.cube import build_cubes, cube_path
from jobs.evaluate_page import FIGURES, Evaluation, with_interval, write_evaluation
from jobs.lineage import refresh_lineage
from jobs.plan import plan_run
from jobs.sample import draw_samples
from jobs.search import find_scenes
from jobs.train import check_training, fit_model

SHAP_ROWS: Final = 2000
MOST_MAPS: Final = 30

_DECIDES: Final = ("calibrate", "threshold_rule", "threshold_target")


def evaluate_model(run: Run, model: Model, *, world: Archive | None = None) -> Evaluation:
    """Score a model on a run's sample, and fit the trials that tell how far it carries.

    Parameters
    ----------
    run : Run
        With a sample.
    model : Model
    world : Archive, optional
        The simulated world that the run maps: rows are judged against its truth too.

    Raises
    ------
    SampleError
        If the sample lacks columns, or leaves nothing to judge on.
    ConfigError
        If a row lies outside the world.
    """

    def judged(frame: pd.DataFrame) -> pd.DataFrame:
        return frame if world is None else add_truth(frame, world)

    sample = read_sample(run.outputs / "sample")
    sample = run.client.persist(sample[needed_columns(sample.columns, model.features)])

    frame, each = gather_rows(sample, list(sample.columns), most=ROWS, seed=run.params.seed, client=run.client)
    frame = judged(frame)
    unseen = unseen_rows(model, frame)
    if unseen.any():
        held = frame.loc[unseen, "region"].isin(model.hold_out).all()
        scope = HELD_OUT if held else "transfer: land the model was not trained on"
        scores, populations = judged(score_sample(sample, model, run.client)), POPULATIONS
        judges = [(model, unseen)]
    else:
        scope, judges = _judge_by_folds(run, model, frame)
        scores = pd.concat([score_table(frame[rows], one) for one, rows in judges], ignore_index=True)
        populations = tuple(name for name in POPULATIONS if name != AS_DRAWN)  # the frame is alike in each class
    trials = plan_trials(frame, sorted(frame.loc[unseen, "region"].unique()), seed=run.params.seed)
    outcomes = [outcome for _, outcome in _run_trials(run, model, frame, trials, "trials")]
    tables = {"scores": scores, **_score_tables(scores, populations, run.params.seed)}
    said = [trial_scores(n, trials[n], outcome) for n, outcome in enumerate(outcomes) if outcome]
    tables["trials"] = trial_list(trials, outcomes)
    tables["trial_rows"] = trial_rows(frame)
    if said:
        tables["trial_scores"] = pd.concat(said, ignore_index=True)
        tables["trial_figures"] = trial_figures(tables["trials"], tables["trial_rows"], tables["trial_scores"])
    tables |= _importance(run, model, frame, judges)
    thresholds = tuple(judge.threshold for judge, _ in judges)
    return Evaluation(tables=tables, thresholds=thresholds, scope=scope, rows_of_each=each, model_sha256=model.sha256())


def _judge_by_folds(run: Run, model: Model, frame: pd.DataFrame) -> tuple[str, list[tuple[Model, np.ndarray]]]:
    """Fit a model to all folds but one in turn, calibrated and its threshold chosen by the outcomes of these, as
    ``mangroves train`` scores folds; return the scope, and each model with the rows it never saw."""
    trials = out_of_fold_trials(frame, seed=run.params.seed)
    fitted = [(trial, outcome) for trial, outcome in _run_trials(run, model, frame, trials, "folds") if outcome]
    params = TrainParams(**{name: model.params[name] for name in _DECIDES if name in model.params})
    try:
        decided = decide_apart([fold_outcome(frame, trial, one) for trial, one in fitted], params, None)
    except ValueError as error:
        raise SampleError(f"folds cannot be judged: {ONE_SIDED}", fix="sample a wider area") from error
    judges = []
    for (trial, outcome), by in zip(fitted, decided, strict=True):
        judge = replace(
            model,
            trees=outcome.boosted.trees,
            edges=outcome.boosted.edges,
            calibration=by.calibration,
            curve=by.curve,
            threshold=by.threshold,
            training_prevalence=by.prevalence,
        )
        judges.append((as_asked(judge, run.params.classify), trial.test))
    return f"{trials[0].name}, each by a model, a calibration and a threshold of the others", judges


def _score_tables(scores: pd.DataFrame, populations: Sequence[str], seed: int) -> dict[str, pd.DataFrame]:
    return {
        "metrics": metrics_table(scores, populations=populations, seed=seed),
        "confusion": confusion_table(scores, populations=populations, seed=seed),
        "curves": curve_table(scores, populations=populations),
        "reliability": reliability_table(scores, populations=populations, seed=seed),
        "errors": error_table(scores),
    }


def _run_trials(
    run: Run, model: Model, frame: pd.DataFrame, trials: Iterable[Trial], label: str
) -> list[tuple[Trial, Outcome | None]]:
    """Fit trials on the cluster; in their order."""
    trials = list(trials)
    known = {name: model.params[name] for name in BoostParams.model_fields if name in model.params}
    params, balance = BoostParams(**known), str(model.params.get("balance", "map"))
    calls = [
        (frame, model.features, params, balance, np.packbits(one.train), np.packbits(one.test), run.params.seed)
        for one in trials
    ]
    number = {id(call): n for n, call in enumerate(calls)}
    outcomes: list[Outcome | None] = [None] * len(trials)
    for call, outcome in run.tasks(run_trial, calls, len(calls), label, shared=(frame,)):
        outcomes[number[id(call)]] = outcome
    return list(zip(trials, outcomes, strict=True))


def _importance(
    run: Run, model: Model, frame: pd.DataFrame, judges: list[tuple[Model, np.ndarray]]
) -> dict[str, pd.DataFrame]:
    plain = ~is_thinned(frame)
    calls = [
        (frame[rows & plain], model.features, Boosted(judge.trees, judge.edges), 5, run.params.seed)
        for judge, rows in judges
    ]
    frames = [call[0] for call in calls]
    drops = [drop for _, drop in run.tasks(permutation_importance, calls, len(calls), "importance", shared=frames)]
    seen = np.any([rows for _, rows in judges], axis=0) & plain
    order = row_keys(frame, run.params.seed, by=PIXEL)
    chosen = frame[seen].iloc[np.argsort(order[seen], kind="stable")[:SHAP_ROWS]]
    shap = shap_table(chosen, model.features, Boosted(model.trees, model.edges))
    permuted = pd.concat(drops, ignore_index=True)
    return {"permuted": permuted, "shap": shap, "importance": importance_table(permuted, shap)}


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
            points["mapped"].to_numpy(bool),
            title=f"{region} {part.year}, {found.scope}; mangrove from {range_of(found.thresholds)}",
            notice=run.params.notice,
            population="scored rows, a dot each",
        )
    return drawn


def _points_of(part: TileYear, rows: pd.DataFrame) -> pd.DataFrame:
    top, left, height, width = part.tile.window
    of = (rows["zone"] == part.tile.zone) & (rows["year"] == part.year)
    of &= rows["grid_row"].between(top, top + height - 1) & rows["grid_col"].between(left, left + width - 1)
    return rows[of]


def show_evaluation(run: Run, summary: dict[str, Any], folder: Path) -> None:
    """Print the headline and hand the summary over."""
    if run.params.notice:
        run.reporter.say(run.params.notice)
    rows = []
    for label, populations in summary["figures"].items():
        for population, regions in populations.items():
            of = regions[ALL_REGIONS]
            rows.append((f"{population}, {label}", *(with_interval(of.get(name)) for name in FIGURES[:4])))
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
@click.option(
    "--truth",
    type=click.Path(path_type=Path),
    metavar="WORLD",
    help="Judge against truth as well as the mask: of a world of `mangroves simulate`, its folder.",
)
def command(options: Options, truth: Path | None) -> None:
    """Judge the model on land it never saw: figures with intervals, transfer, importance, errors, a page.

    Makes cubes, sample and model first where missing.
    """
    world = None if truth is None else read_archive(truth)
    with open_run(options) as run:
        check_training(run)
        plan = plan_run(run, find_scenes(run))
        build_cubes(run, plan)
        model, _ = fit_model(run, plan)
        if run.params.train.source != "here":
            draw_samples(run, plan)
        folder = run.folder / "evaluate"
        with run.record.stage("evaluate") as counts:
            found = evaluate_model(run, as_asked(model, run.params.classify), world=world)
            maps = draw_maps(run, plan, found, folder)
            summary = write_evaluation(folder, found, tags=run.tags, maps=maps)
            counts.update(rows=summary["rows"], trials=len(found.tables["trials"]))
        refresh_lineage(run, plan)
        show_evaluation(run, summary, folder)
