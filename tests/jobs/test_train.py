"""``mangroves train``: what cannot work is told before anything is fetched."""

from __future__ import annotations

import pytest

from engine.params import TrainParams
from engine.train import train_model
from jobs.train import describe_decision
from tests.engine.samples import make_sample


def never(*_: object) -> None:
    raise AssertionError("something was fetched")


@pytest.mark.parametrize("command", ["train", "run", "classify", "evaluate"])
def test_tuned_parameters_are_refused_where_the_study_is_trained_on(job, command, monkeypatch):
    for name in ("find_scenes", "open_labels", "open_study"):
        monkeypatch.setattr(f"jobs.train.{name}", never)
    monkeypatch.setattr("jobs.context.Run.open_habitat", never)
    line = job.call(command, "--set", "train.from=study", "--set", "train.tuned=true").error
    assert "train.tuned: `mangroves tune` searches this run's regions, not the study's" in line
    assert "set train.tuned to false, or train.from to here" in line


def test_a_model_that_folds_could_not_decide_is_described_all_the_same():
    sample = make_sample(600, regions=("Cuba1",), extent_px=300).query("grid_row >= 0")  # one block
    metrics = train_model(sample, params=TrainParams(rounds=2, features="composite")).model.metrics
    lines = list(describe_decision(metrics))
    assert lines[0].startswith("not calibrated: mangrove and other are not both in")
    assert lines[1].startswith("mangrove from a probability of 0.50, chosen by nothing: mangrove and other")


def test_tuned_parameters_need_a_search(job):
    assert "train.tuned: no search of xgboost yet" in job.call("train", "--set", "train.tuned=true").error
