"""``mangroves tune``: search for a classifier, and say which pipeline does how well."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import click

from engine.errors import ConfigError
from engine.kernels.features import FEATURE_SETS
from engine.leaderboard import Study, leaderboard_cells, write_study
from engine.ledger import set_aside
from engine.params import TuneParams
from engine.plan import Plan
from engine.sample import read_sample
from engine.train import hold_out_regions
from engine.tune import Search, candidates_of
from engine.tune_trials import Trial
from jobs.context import Options, Run, open_run, run_options
from jobs.cube import build_cubes
from jobs.plan import plan_run
from jobs.sample import draw_samples, show_counts
from jobs.search import find_scenes
from jobs.train import check_training


def search_classifier(run: Run, plan: Plan, params: TuneParams, *, anew: bool = False) -> Study:
    """Draw the sample where it is missing, search, and write what was found to the run's folder ``tune``.

    Raises
    ------
    ConfigError, SampleError
        If there is nothing to choose from, or to fit and score.
    StoreError
        If the folder holds another search.
    """
    table = draw_samples(run, plan)
    show_counts(run, table)
    folder = run.folder / "tune"
    if anew:
        set_aside(folder)
    train = run.params.train
    search = Search(
        read_sample(run.outputs / "sample"),
        features=FEATURE_SETS[train.features],
        params=params,
        balance=train.balance,
        hold_out=hold_out_regions(train, list(table.index)),
        seed=run.params.seed,
        client=run.client,
        folder=folder,
        notice=run.params.notice,
    )
    with run.record.stage("tune") as counts:
        about = search.about
        run.reporter.say(
            f"tune      {len(search.names)} candidates, {about['folds_scored']} folds, {about['rows_looked_at']} rows"
        )
        for _ in run.reporter.track(say_best(run, search, search.trials()), params.trials, "tune"):
            pass
        run.reporter.say("tune      fitting the best of each candidate, scoring the hold-out ...")
        study = search.finish()
        write_study(study, folder)
        counts.update(
            trials=study.about["trials"],
            complete=study.about["complete"],
            best=study.best["trial"] if study.best else None,
        )
    return study


def say_best(run: Run, search: Search, trials: Iterable[Trial]) -> Iterator[Trial]:
    """Yield trials, and say after each batch whether it brought the best so far."""
    said = None

    def say() -> None:
        nonlocal said
        best = search.best
        if best is not None and best.number != said:
            said = best.number
            value = search.mean(best)
            run.reporter.say(f"tune      best so far: {best.candidate}, {search.params.objective} {value:.4f}")

    for trial in trials:
        say()
        yield trial
    say()  # of the last batch


def show_leaderboard(run: Run, study: Study) -> None:
    """Print the leaderboard and what must be known of it."""
    notice = f"{study.about['notice']}: " if study.about["notice"] else ""
    headings, rows = leaderboard_cells(study)
    title = f"{notice}leaderboard, {study.about['population']}, against the {study.about['label']}"
    run.reporter.table(title, headings, rows)
    for note in study.notes:
        run.reporter.say(f"tune      {note}")


@click.command("tune")
@click.option("--trials", type=click.IntRange(1, 100_000), help="Trials in all, those of earlier commands included.")
@click.option("--minutes", type=click.FloatRange(0, min_open=True), help="Ask for no more after these; not repeatable.")
@click.option("--new-search", is_flag=True, help="Set an earlier search of this run aside.")
@run_options
def command(options: Options, trials: int | None, minutes: float | None, new_search: bool) -> None:
    """Search for a classifier and rank the candidates; make cubes and sample first where missing."""
    with open_run(options.with_overrides("train.tuned=false")) as run:
        if run.params.train.source != "here":
            raise ConfigError("tune needs train.from: here", fix="tune in a run of the regions to train on")
        check_training(run)
        given = {key: value for key, value in (("trials", trials), ("minutes", minutes)) if value is not None}
        params = run.params.tune.model_copy(update=given)
        candidates_of(params, run.params.train.balance)  # a mistake is told before the cubes are made
        plan = plan_run(run, find_scenes(run))
        build_cubes(run, plan)
        study = search_classifier(run, plan, params, anew=new_search)
        show_leaderboard(run, study)
        folder = run.folder / "tune"
        board = study.leaderboard.astype(object)
        result = {
            "tune": str(folder),
            "best": study.best,
            "leaderboard": board.where(board.notna(), None).to_dict("records"),  # JSON knows no NaN
            "notes": list(study.notes),
        }
        said = f"leaderboard and trials in {folder}"
        if study.best is not None:
            said += ", and best.json: train with it by --set train.tuned=true"
        run.reporter.result(result, said)
