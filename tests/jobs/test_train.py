"""``mangroves train``: what cannot work is told before anything is fetched."""

from __future__ import annotations

import pytest


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


def test_tuned_parameters_need_a_search(job):
    assert "train.tuned: there was no search yet" in job.call("train", "--set", "train.tuned=true").error
