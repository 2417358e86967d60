"""``mangroves tune``: a leaderboard in the run's folder, a search that goes on, and parameters training takes."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from engine.model import load_model
from tests.jobs.calls import Job, mangroves

SMALL = {"candidates": ["xgboost", "linear/robust"], "folds": 2, "repeats": 1, "rows": 400, "trials": 5, "batch": 2}


@pytest.fixture(scope="module")
def tuned(archive, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A run whose classifier was searched; not to be changed but by going on."""
    job = Job(tmp_path_factory.mktemp("tuned"), archive)
    job.config |= {"tune": SMALL, "notice": "SIMULATED for a test"}
    answer = job.call("tune")
    assert answer.code == 0, answer.err
    return job


def result_of(answer):
    assert answer.code == 0, answer.err
    return json.loads(answer.out)


def test_a_search_writes_a_leaderboard_all_trials_and_the_best_parameters(tuned):
    folder = tuned.run / "tune"
    assert {path.name for path in folder.iterdir()} == {
        "best.json",
        "leaderboard.csv",
        "leaderboard.md",
        "leaderboard.parquet",
        "trials.jsonl",
        "trials.parquet",
    }
    board = pd.read_csv(folder / "leaderboard.csv")
    assert set(board["candidate"]) == {"cart", "xgboost", "linear/robust"}
    assert set(board["notice"]) == {"SIMULATED for a test"}
    assert board["hold_out_auc"].between(0, 1).all()  # sim-India, in no fold
    assert len(pd.read_parquet(folder / "trials.parquet")) == 5
    assert "hold-out: sim-India" in (folder / "leaderboard.md").read_text()
    counts = tuned.record["stages"]["tune"]["counts"]
    assert (counts["trials"], type(counts["best"])) == (5, int)


@pytest.mark.slow
def test_another_command_goes_on_and_ends_as_one_longer_search(tuned, archive, tmp_path):
    longer = result_of(tuned.call("tune", "--trials", "7", "--json"))
    before = [json.loads(line) for line in (tuned.run / "tune" / "trials.jsonl").read_text().splitlines()[1:]]
    assert sorted(line["number"] for line in before if line["kind"] == "trial") == list(range(7))
    once = Job(tmp_path, archive)
    once.config |= {"tune": SMALL | {"trials": 7}, "notice": "SIMULATED for a test"}
    other = result_of(once.call("tune", "--json"))
    for board in (longer["leaderboard"], other["leaderboard"]):
        for row in board:
            del row["seconds"], row["fit_seconds"]
    assert longer["leaderboard"] == other["leaderboard"]
    assert longer["best"] == other["best"]


def test_what_is_seen_names_population_label_notice_and_the_best_so_far(tuned):
    answer = tuned.call("tune")
    assert "SIMULATED for a test: leaderboard, wall to wall, against the mask" in answer.out
    assert "cart" in answer.out
    assert "best so far: " in answer.err
    assert "5/5" in answer.err


@pytest.mark.slow
def test_without_a_hold_out_its_figures_are_null_and_one_batch_is_enough_to_say_the_best(job):
    job.config |= {"years": [2016], "tune": SMALL | {"candidates": ["cart"], "trials": 1}}
    job.config["train"]["hold_out"] = []
    answer = job.call("tune", "--json")
    assert answer.code == 0, answer.err
    assert "best so far: cart, auc 0." in answer.err
    (row,) = json.loads(answer.out, parse_constant=pytest.fail)["leaderboard"]
    assert row["hold_out_auc"] is None
    assert 0 < row["auc_mean"] <= 1


@pytest.mark.slow
def test_training_takes_the_best_parameters(tuned):
    best = json.loads((tuned.run / "tune" / "best.json").read_text())["train"]
    answer = tuned.call("train", "--set", "train.tuned=true")
    assert answer.code == 0, answer.err
    learnt = load_model(tuned.run / "model").params
    assert {key: learnt[key] for key in best} == best


@pytest.mark.slow
def test_settings_of_another_search_are_refused_until_it_is_set_aside(archive, tmp_path):
    job = Job(tmp_path, archive)
    job.config["tune"] = SMALL | {"trials": 3}
    assert job.call("tune").code == 0
    change = ("--set", "tune.folds=3")
    assert "(differs in: folds" in job.call("tune", *change).error
    answer = job.call("tune", *change, "--new-search")
    assert answer.code == 0, answer.err
    assert len(list((job.run / "tune").glob("trials-*.jsonl"))) == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--trials", "2"), "tune.trials is 2, fewer than the 3 candidates"),
        (("--set", "tune.candidates=[svm]"), "no candidate 'svm'; known are cart, "),
        (("--set", "train.from=study"), "tune needs train.from: here"),
        (("--set", "tune.objective=brier", "--set", "train.balance=classes"), "objective brier needs probabilities"),
    ],
)
def test_mistakes_are_told_in_a_line_and_before_the_cubes(job, arguments, told):
    job.config["tune"] = SMALL
    assert told in job.call("tune", *arguments).error
    assert not (job.run / "cube").exists()


@pytest.mark.parametrize("arguments", [("--trials", "0"), ("--minutes", "0"), ("--trials", "many")])
def test_budgets_that_mean_nothing_are_refused(job, arguments):
    assert "Invalid value" in job.call("tune", *arguments).error


def test_help_says_what_it_does():
    answer = mangroves("tune", "--help")
    assert "--new-search" in answer.out
    assert "not repeatable" in answer.out
