"""Trials train and judge where they say, and their figures are recomputed from their rows."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, f1_score, precision_recall_fscore_support, roc_auc_score

from engine.boost import fit_boosted, training_weights
from engine.errors import SampleError
from engine.rows import first_rows, land_of, row_keys, standing_for
from engine.splits import block_ids
from engine.transfer import (
    REPEATS,
    Outcome,
    Trial,
    fold_outcome,
    headline,
    out_of_fold_trials,
    plan_trials,
    run_trial,
    trial_figures,
    trial_list,
    trial_rows,
    trial_scores,
)
from tests.engine.judged import FEATURES, FEW, SAMPLE


def outcomes_of(frame: pd.DataFrame, trials: list[Trial]) -> list[Outcome | None]:
    return [run_trial(frame, FEATURES, FEW, "map", np.packbits(one.train), np.packbits(one.test), 0) for one in trials]


FRAME = standing_for(first_rows(SAMPLE, most=300, seed=0), land_of(SAMPLE))


class Tried(NamedTuple):
    """Trials, what became of them, and their tables."""

    trials: list[Trial]
    outcomes: list[Outcome | None]
    listed: pd.DataFrame
    rows: pd.DataFrame
    said: pd.DataFrame
    figures: pd.DataFrame


@pytest.fixture(scope="module")
def tried() -> Tried:
    trials = plan_trials(FRAME, ("Fiji",))
    outcomes = outcomes_of(FRAME, trials)
    listed, rows = trial_list(trials, outcomes), trial_rows(FRAME)
    said = pd.concat([trial_scores(n, trials[n], one) for n, one in enumerate(outcomes) if one], ignore_index=True)
    return Tried(trials, outcomes, listed, rows, said, trial_figures(listed, rows, said))


@pytest.mark.slow
def test_no_trial_but_the_random_one_shares_a_block_between_its_sides(tried):
    blocks = block_ids(FRAME)
    kinds = set()
    for trial in tried.trials:
        kinds.add(trial.kind)
        assert trial.train.any()
        assert trial.test.any()
        shared = set(blocks[trial.train]) & set(blocks[trial.test])
        assert bool(shared) == (trial.kind == "random")
    assert kinds == {
        "one region", "in region", "all but one", "blocks", "random", "sensor", "year", "samples", "regions",
    }  # fmt: skip


def test_trials_train_and_judge_where_they_say(tried):
    region = FRAME["region"].to_numpy()
    for trial in tried.trials:
        trained, judged = set(region[trial.train]), set(region[trial.test])
        if trial.kind == "one region":
            assert (trained, judged) == ({trial.name}, {"Cuba1", "Cuba2", "Fiji"} - {trial.name})
        elif trial.kind == "all but one":
            assert (judged, trained) == ({trial.name}, {"Cuba1", "Cuba2", "Fiji"} - {trial.name})
        elif trial.kind == "in region":
            assert trained == judged == {trial.name}
        elif trial.kind in ("samples", "regions"):
            assert judged == {"Fiji"}
            assert "Fiji" not in trained
    sensor = FRAME["sensor"].to_numpy()
    names = {trial.name for trial in tried.trials if trial.kind == "sensor"}
    assert names == {"sensor: L8+L9 to L8+L9", "sensor: L8+L9 to L5", "sensor: L8+L9 to L7"}
    for trial in tried.trials:
        if trial.name == "sensor: L8+L9 to L7":
            assert set(sensor[trial.train]) == {"L8", "L9", "L8+L9"}
            assert set(sensor[trial.test]) == {"L7"}


def test_subsets_of_learning_curves_are_nested(tried):
    for kind in ("samples", "regions"):
        for repeat in range(REPEATS):
            steps = [one for one in tried.trials if one.kind == kind and one.repeat == repeat]
            for small, large in pairwise(steps):
                assert not (small.train & ~large.train).any()
                assert large.train.sum() > small.train.sum()
    last = [one for one in tried.trials if one.kind == "samples"][-1]
    everything = next(one for one in tried.trials if one.kind == "all but one" and one.name == "Fiji")
    assert (last.train == everything.train).all()


def test_trial_figures_are_those_of_scikit_learn(tried):
    joined = tried.said.merge(tried.listed, on="trial").merge(tried.rows, on="row")
    joined["called"] = joined["probability"] / 10_000 >= joined["threshold"] - 1e-9
    checked = 0
    for row in tried.figures.sample(40, random_state=0).itertuples():
        some = joined[(joined["kind"] == row.kind) & (joined["repeat"] == row.repeat)]
        some = some if row.name == "all regions" else some[some["name"] == row.name]
        assert row.train_rows == pytest.approx(some.groupby("trial")["train_rows"].first().mean())
        some = some if row.region == "all regions" else some[some["region"] == row.region]
        truth, weight = some["positive" if row.label == "mask" else "truth"], some["weight"]
        assert row.rows == len(some)
        assert row.auc == pytest.approx(roc_auc_score(truth, some["probability"], sample_weight=weight))
        expected = average_precision_score(truth, some["probability"], sample_weight=weight)
        assert row.average_precision == pytest.approx(expected)
        if some["called"].any():
            *rates, _ = precision_recall_fscore_support(truth, some["called"], average="binary", sample_weight=weight)
            assert (row.precision, row.recall, row.f1) == pytest.approx(tuple(rates))
            checked += 1
    assert checked > 20


@pytest.mark.parametrize("kind", ["all but one", "in region"])
def test_a_trials_threshold_never_saw_its_test_side(tried, kind):
    number = next(n for n, one in enumerate(tried.trials) if one.kind == kind)
    trial = tried.trials[number]
    changed = FRAME.copy()
    changed.loc[trial.test, "label"] = 3 - changed.loc[trial.test, "label"]
    changed.loc[trial.test, list(FEATURES)] = 7
    again = outcomes_of(changed, [trial])[0]
    assert again.threshold == tried.outcomes[number].threshold
    assert again.boosted.trees == tried.outcomes[number].boosted.trees


def test_a_threshold_of_one_region_suits_it_however_few_its_blocks():
    here = SAMPLE[SAMPLE["region"] == "Fiji"].assign(zone=48, grid_row=0, grid_col=0)
    here = here.assign(grid_row=np.arange(len(here)) // 100 * 333 + np.arange(len(here)) % 100, thinned=False)
    side = np.arange(len(here)) % 2 == 0
    outcome = run_trial(here, FEATURES, FEW, "map", np.packbits(side), np.packbits(~side), 0)
    # Halves of the training side by pixel, each scored by a model of the other.
    side = here[side].reset_index(drop=True)
    half = row_keys(side, 0, by=("zone", "grid_row", "grid_col")) % np.uint64(2)
    scores, positive = np.empty(len(side)), (side["label"] == 2).to_numpy()
    for one in (0, 1):
        rows = side[half != one]
        ones, interior = (rows["label"] == 2).to_numpy(), rows["interior"].to_numpy()
        weight = training_weights(ones, rows["weight"].to_numpy(), interior, np.zeros(len(rows), bool), "map")
        values = np.ascontiguousarray(rows[list(FEATURES)].to_numpy(np.int32).T)
        fitted = fit_boosted(values[:, weight > 0], ones[weight > 0], weight[weight > 0], FEW)
        scores[half == one] = fitted.predict(
            np.ascontiguousarray(side.loc[half == one, list(FEATURES)].to_numpy(np.int32).T)
        )
    codes = np.rint(scores * 10_000)
    f1 = {code: f1_score(positive, codes >= code, sample_weight=side["weight"]) for code in np.unique(codes)}
    assert f1[outcome.threshold] == pytest.approx(max(f1.values()))


def test_what_folds_are_decided_by_is_what_their_models_said(tried):
    number = next(n for n, one in enumerate(tried.trials) if one.kind == "all but one")
    counted = fold_outcome(FRAME, tried.trials[number], tried.outcomes[number])
    rows = FRAME[tried.trials[number].test]
    assert counted["probability"].tolist() == tried.outcomes[number].mapped.tolist()
    assert counted["pixels"].tolist() == rows["weight"].tolist()
    assert counted["positive"].tolist() == (rows["label"] == 2).tolist()
    assert set(counted) == {"region", "interior", "positive", "probability", "pixels", "rows"}


def test_the_headline_is_the_median_and_the_worst_region(tried):
    of = tried.figures[(tried.figures["kind"] == "all but one") & (tried.figures["label"] == "truth")]
    of = of[(of["name"] == of["region"]) & (of["name"] != "all regions")].set_index("name")
    found = headline(tried.figures, "truth")
    assert found["regions"] == 3
    assert found["median_auc"] == np.median(of["auc"])
    assert found["worst_f1"] == of["f1"].min()
    assert found["worst_f1_region"] == of["f1"].idxmin()
    assert headline(tried.figures[tried.figures["kind"] == "random"]) == {}


def test_a_region_of_one_class_is_not_the_worst():
    figures = pd.DataFrame({"name": ["a", "b", "c"], "auc": [0.9, 0.8, np.nan], "f1": [0.7, 0.6, 0.0]})
    found = headline(figures.assign(region=figures["name"], kind="all but one", label="mask"))
    assert (found["regions"], found["worst_f1"], found["worst_f1_region"]) == (2, 0.6, "b")


def test_a_training_side_of_one_class_is_told_and_not_scored():
    frame = FRAME.assign(label=np.where(FRAME["region"] == "Fiji", 1, FRAME["label"]))
    trials = [one for one in plan_trials(frame, ()) if one.kind == "one region"]
    outcomes = outcomes_of(frame, trials)
    assert [one is None for one in outcomes] == [one.name == "Fiji" for one in trials]
    listed = trial_list(trials, outcomes)
    assert np.isnan(listed.loc[listed["name"] == "Fiji", "threshold"]).all()


def test_one_region_has_no_transfer_but_blocks():
    frame = first_rows(SAMPLE[SAMPLE["region"] == "Fiji"], most=200, seed=0)
    kinds = {one.kind for one in plan_trials(frame, ())}
    assert not {"one region", "all but one"} & kinds
    assert {"in region", "blocks", "random", "samples"} <= kinds
    seen = np.sum([one.test for one in out_of_fold_trials(frame)], axis=0)
    assert (seen == 1).all()


def test_one_block_leaves_nothing_to_judge_on():
    frame = SAMPLE.head(50).assign(zone=48, grid_row=1, grid_col=2, region="Fiji")
    with pytest.raises(SampleError, match="one 10 km block"):
        out_of_fold_trials(frame)
    assert plan_trials(frame, ()) == []


def test_a_sensor_of_one_region_and_a_year_of_another_are_judged_where_they_are():
    alone = (FRAME["region"] == "Cuba1").to_numpy()
    odd = FRAME.assign(sensor=np.where(alone, "L5", "L8"), year=np.where(alone, 2015, 2020))
    trials = [trial for trial in plan_trials(odd, ()) if trial.kind in ("sensor", "year")]
    assert {trial.kind for trial in trials} == {"sensor", "year"}
    assert all(trial.test.any() for trial in trials)
    outcomes = outcomes_of(odd, trials)
    said = [trial_scores(n, trials[n], one) for n, one in enumerate(outcomes) if one]
    assert len(pd.concat(said)) == sum(int(trials[n].test.sum()) for n, one in enumerate(outcomes) if one)
