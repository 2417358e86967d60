"""The search: the same on any cluster, whenever stopped; figures recomputed; hold-out rows never seen."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from distributed import Client, LocalCluster
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    f1_score,
    log_loss,
    precision_recall_curve,
    precision_score,
    recall_score,
    roc_auc_score,
)

from engine.candidates import CANDIDATES, Rows, find_candidate, fit_candidate
from engine.errors import ConfigError, SampleError, StoreError
from engine.kernels.features import COMPOSITE_FEATURES
from engine.leaderboard import RUN_TIME, leaderboard_cells, write_study
from engine.ledger import LEDGER, Ledger, set_aside
from engine.params import TrainParams, TuneParams
from engine.rows import PIXEL_YEAR, gather_rows
from engine.splits import block_ids, region_folds
from engine.tune import Search, search
from engine.tune_trials import Trial, run_trial
from tests.engine.samples import make_sample

ROOT = Path(__file__).resolve().parents[2]
REGIONS = ("Cuba1", "Cuba2", "Fiji", "Peru", "Togo")
FRAME = make_sample(900, regions=REGIONS)
QUICK = TuneParams(candidates=("linear/robust", "linear/region"), trials=10, batch=4, folds=3, repeats=1, rows=5000)
OPTIONS = {"features": COMPOSITE_FEATURES, "hold_out": ("Fiji",), "seed": 5, "notice": "SIMULATED for a test"}


def found(frame=FRAME, params=QUICK, **options):
    return search(frame, params=params, **{**OPTIONS, **options})


def without_times(study):
    trials = study.trials.drop(columns=list({*RUN_TIME} & {*study.trials}))
    return study.leaderboard.drop(columns=list(RUN_TIME)), trials


def assert_same(one, other):
    for a, b in zip(without_times(one), without_times(other), strict=True):
        pd.testing.assert_frame_equal(a, b, check_exact=True)
    assert one.best == other.best


def looked_at():
    """Return the rows that a search looks at."""
    columns = [*COMPOSITE_FEATURES, "label", "weight", "region", "interior", *PIXEL_YEAR]
    return gather_rows(FRAME, columns, most=QUICK.rows, seed=5)[0]


@pytest.fixture(scope="module")
def study():
    return found()


# --- what is asked ---------------------------------------------------------------------------------------------


def test_the_baseline_comes_first_then_each_candidate_with_its_defaults(study):
    trials = study.trials
    assert list(trials["candidate"][:3]) == ["cart", "linear/robust", "linear/region"]
    for row in trials[:3].to_dict("records"):
        assert json.loads(row["params"]) == find_candidate(row["candidate"]).defaults
        assert row["state"] == "complete"
    assert list(trials["number"]) == list(range(10))
    assert list(trials["batch"]) == [number // 4 for number in range(10)]
    assert (trials["candidate"] == "cart").sum() == 1
    assert trials["params"][3:].nunique() > 5


def test_every_second_further_trial_is_of_the_candidate_that_maps_are_made_with():
    asked = Search(FRAME, params=QUICK.model_copy(update={"candidates": None, "trials": 30}), **OPTIONS)
    names = [trial.candidate for trial, _ in asked._ask(0, range(30))]
    assert names[: len(CANDIDATES)] == list(CANDIDATES)
    assert set(names[15::2]) == {"xgboost"}


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**63 - 1))
def test_what_is_asked_lies_in_the_space_of_its_candidate(seed):
    asked = Search(FRAME[:300], params=QUICK.model_copy(update={"candidates": None, "trials": 30}), **_seeded(seed))
    for trial, _ in asked._ask(0, range(30)):
        space = CANDIDATES[trial.candidate].space
        assert trial.params.keys() == space.keys()
        assert all(space[key]._contains(space[key].to_internal_repr(value)) for key, value in trial.params.items())


def _seeded(seed):
    return {**OPTIONS, "seed": seed, "hold_out": ()}


def test_a_seed_repeats_and_another_searches_elsewhere(study):
    assert_same(found(), study)
    assert list(found(seed=6).trials["params"][3:]) != list(study.trials["params"][3:])


def test_a_longer_search_begins_with_a_shorter_one(study):
    short = found(params=QUICK.model_copy(update={"trials": 6}))
    pd.testing.assert_frame_equal(without_times(short)[1], without_times(study)[1][:6], check_exact=True)


def test_the_order_and_partitions_of_the_table_do_not_matter(study):
    shuffled = FRAME.sample(frac=1, random_state=1)
    assert_same(found(shuffled), study)
    assert_same(found(dd.from_pandas(shuffled, npartitions=5, sort=False)), study)


def test_a_trial_is_pruned_only_against_earlier_batches():
    asked = Search(FRAME, params=QUICK.model_copy(update={"folds": 4}), **OPTIONS)

    def told(number, *values):
        return Trial(number, number // 4, "linear/robust", {}, "complete", {"auc": list(values)})

    assert asked._bars() == (-math.inf,) * 4
    asked._told = [told(n, 0.9, 0.7 + n / 100) for n in range(1, 8)]
    bars = asked._bars()
    assert bars[0] == -math.inf  # one fold says little
    assert bars[1] == pytest.approx((0.9 + 0.74) / 2)  # the median of seven
    assert bars[2:] == (-math.inf, -math.inf)  # nobody got there
    work = asked.work
    trial = Trial(20, 5, "linear/robust", {"linear.C": 1.0})
    whole = run_trial(work, trial, ())
    assert whole.state == "complete"
    assert len(whole.folds["auc"]) == 4
    stopped = run_trial(work, trial, (-math.inf, 1.0, -math.inf, -math.inf))
    assert stopped.state == "pruned"
    assert stopped.folds["auc"] == whole.folds["auc"][:2]


def test_a_time_budget_asks_no_more_and_says_that_it_does_not_repeat():
    asked = Search(FRAME, params=QUICK.model_copy(update={"minutes": 1e-9}), **OPTIONS)
    assert [trial.number for trial in asked.trials()] == [0, 1, 2, 3]  # one batch in any case
    assert "A time budget does not repeat: 1e-09 minutes, stopped after 4 of 10 trials." in asked.finish().notes
    once = Search(FRAME, params=QUICK.model_copy(update={"minutes": 60}), **OPTIONS)
    for _ in once.trials():
        pass
    assert "A time budget does not repeat: 60 minutes, kept." in once.finish().notes


def test_a_hold_out_without_mangrove_has_no_f1_to_tell():
    other = FRAME[(FRAME["region"] != "Fiji") | (FRAME["label"] == 1)].reset_index(drop=True)
    board = found(other, QUICK.model_copy(update={"trials": 4})).leaderboard
    assert board[["hold_out_auc", "hold_out_recall"]].isna().all().all()
    assert board["auc_mean"].notna().all()


# --- wherever it runs ------------------------------------------------------------------------------------------


def test_the_number_of_threads_does_not_matter(study):
    with (
        LocalCluster(
            n_workers=1,
            threads_per_worker=3,
            processes=False,
            dashboard_address="127.0.0.1:0",
            worker_dashboard_address="127.0.0.1:0",
        ) as cluster,
        Client(cluster) as client,
    ):
        assert_same(found(client=client), study)


EVERYTHING = TuneParams(trials=20, batch=8, folds=3, repeats=1, rows=900)


@pytest.mark.timeout(1200)
@pytest.mark.long
def test_one_two_and_four_workers_give_the_same_leaderboard_and_model():
    boards = []
    for workers in (1, 2, 4):
        with (
            LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                worker_dashboard_address="127.0.0.1:0",
            ) as cluster,
            Client(cluster) as client,
        ):
            boards.append(found(params=EVERYTHING, client=client))
    assert set(boards[0].leaderboard["candidate"]) == set(CANDIDATES)
    assert len(boards[0].best["model_sha256"]) == 64
    for other in (*boards[1:], found(params=EVERYTHING)):
        assert_same(other, boards[0])


# --- stopped and going on --------------------------------------------------------------------------------------


def test_a_search_that_stopped_goes_on_and_ends_as_one_that_did_not(study, tmp_path):
    first = Search(FRAME, params=QUICK, folder=tmp_path, **OPTIONS)
    done = [trial.number for trial in itertools.islice(first.trials(), 6)]  # in the middle of a batch
    with (tmp_path / LEDGER).open("a") as file:
        file.write('{"kind": "trial", "numb')  # and of a line
    again = Search(FRAME, params=QUICK, folder=tmp_path, **OPTIONS)
    fitted = []
    again._run = lambda function, calls: ((fitted.append(call[1].number) or (call, function(*call))) for call in calls)
    numbers = [trial.number for trial in again.trials()]
    assert sorted(numbers) == list(range(10))
    assert set(fitted) == set(range(10)) - set(done)
    assert_same(again.finish(), study)
    # All of it is in the ledger now, the final fits too.
    last = Search(FRAME, params=QUICK, folder=tmp_path, **OPTIONS)
    last._run = lambda function, calls: iter(()) if not calls else pytest.fail("fitted anew")
    assert len(list(last.trials())) == 10
    assert_same(last.finish(), study)


STOPPED = """
import sys
from pathlib import Path
from tests.engine.test_tune import EVERYTHING, FRAME, OPTIONS
from engine.rows import PIXEL_YEAR, gather_rows
from engine.tune import search
search(FRAME, params=EVERYTHING, folder=Path(sys.argv[1]), **OPTIONS)
"""


@pytest.mark.long
def test_a_search_that_was_killed_loses_no_finished_trial(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", STOPPED, str(tmp_path)], cwd=ROOT, start_new_session=True)
    ledger = tmp_path / LEDGER
    deadline = time.monotonic() + 120
    while not ledger.exists() or ledger.read_text().count('"kind": "trial"') < 11:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    finished = [json.loads(line) for line in ledger.read_text().splitlines()[1:] if line.endswith("}")]
    assert 11 <= len(finished) < 20
    again = Search(FRAME, params=EVERYTHING, folder=tmp_path, **OPTIONS)
    kept = [asdict(trial) for trial in again.trials()]
    for line in finished:  # with the seconds it took: not fitted anew
        assert {key: value for key, value in line.items() if key != "kind"} in kept
    assert_same(again.finish(), found(params=EVERYTHING))


def test_a_ledger_of_another_search_is_refused(tmp_path):
    found(folder=tmp_path)
    with pytest.raises(StoreError, match=r"of another search \(differs in: seed\); .*--new-search"):
        found(folder=tmp_path, seed=9)
    with pytest.raises(StoreError, match=r"\(differs in: folds, folds_scored\)"):
        found(folder=tmp_path, params=QUICK.model_copy(update={"folds": 2}))
    with pytest.raises(StoreError, match=r"\(differs in: rows_sha256\)"):
        found(FRAME.assign(red=FRAME["red"] + 1), folder=tmp_path)
    set_aside(tmp_path)
    found(folder=tmp_path, seed=9)
    assert len(list(tmp_path.glob("trials-*.jsonl"))) == 1
    set_aside(tmp_path / "nothing there")


@pytest.mark.parametrize(
    "line",
    ["[]", "{}", "null", '{"kind": "trial"}', '{"kind": "fit", "number": 1}', "no JSON", "[" * 100_000, '{"kind": []}'],
)
def test_a_damaged_ledger_is_refused(tmp_path, line):
    path = tmp_path / LEDGER
    Ledger(path, {"a": 1})
    with path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(StoreError, match=r"is damaged .*--new-search"):
        Ledger(path, {"a": 1})


def test_a_ledger_whose_trials_were_not_asked_for_is_refused(tmp_path):
    found(folder=tmp_path)
    path = tmp_path / LEDGER
    path.write_text(path.read_text().replace('"linear.C": 1.0', '"linear.C": 2.0'))
    with pytest.raises(StoreError, match="trial 1 is of another search"):
        found(folder=tmp_path)


# --- figures ---------------------------------------------------------------------------------------------------


def test_the_leaderboard_is_what_the_trials_say(study):
    trials = study.trials[study.trials["state"] == "complete"]
    for row in study.leaderboard.to_dict("records"):
        own = trials[trials["candidate"] == row["candidate"]]
        means = own["auc"].map(np.mean)
        best = own.loc[means.idxmax()]
        assert row["auc_mean"] == pytest.approx(means.max(), abs=1e-12)
        assert row["auc_sd"] == pytest.approx(pd.Series(best["auc"]).std())
        assert row["auc_min"] == min(best["auc"])
        assert (row["best_trial"], row["params"]) == (best["number"], best["params"])
        assert (row["f1_folds"], row["threshold"]) == (best["f1_folds"], best["threshold"])
        every = study.trials[study.trials["candidate"] == row["candidate"]]
        assert row["trials"] == len(every)
        assert row["pruned"] == (every["state"] == "pruned").sum()
        assert row["seconds"] == pytest.approx(every["seconds"].sum())
    assert study.leaderboard["auc_mean"].is_monotonic_decreasing
    assert set(study.leaderboard["population"] + study.leaderboard["label"]) == {"wall to wallmask"}


def test_every_figure_of_a_fold_is_that_of_scikit_learn(study):
    inside = looked_at().query("region != 'Fiji'").reset_index(drop=True)
    steps, positive, weight = [], [], []
    for number, split in enumerate(region_folds(inside, folds=3, repeats=1, seed=5)):
        model = fit_candidate("linear/robust", Rows.of(inside[split.train], COMPOSITE_FEATURES), seed=5)
        test = inside[split.test]
        p = model.predict(Rows.of(test, COMPOSITE_FEATURES))
        y, w = test["label"] == 2, test["weight"]
        step = np.rint(p * 10_000)
        precision, recall, _ = precision_recall_curve(y, step, sample_weight=w)
        expected = {
            "auc": roc_auc_score(y, p, sample_weight=w),
            "average_precision": average_precision_score(y, p, sample_weight=w),
            "f1": (2 * precision * recall / (precision + recall).clip(1e-12)).max(),
            "brier": brier_score_loss(y, p, sample_weight=w),
            "logloss": log_loss(y, p.astype(float).clip(1e-4, 1 - 1e-4), sample_weight=w),
        }
        for name, value in expected.items():
            assert study.trials.loc[1, name][number] == pytest.approx(value, rel=1e-5), name
        steps, positive, weight = [*steps, *step], [*positive, *y], [*weight, *w]
    precision, recall, at = precision_recall_curve(positive, steps, sample_weight=weight)
    f1 = (2 * precision * recall / (precision + recall).clip(1e-12))[:-1]
    assert study.trials.loc[1, "f1_folds"] == pytest.approx(f1.max())
    assert study.trials.loc[1, "threshold"] == pytest.approx(at[f1.argmax()] / 10_000)


def test_hold_out_figures_are_those_of_the_best_trial_fitted_to_all_training_regions(study):
    rows = looked_at()
    held = (rows["region"] == "Fiji").to_numpy()
    apart = ~np.isin(block_ids(rows), block_ids(rows[held]))
    for row in study.leaderboard.to_dict("records"):
        train = Rows.of(rows[apart].reset_index(drop=True), COMPOSITE_FEATURES)
        model = fit_candidate(row["candidate"], train, json.loads(row["params"]), seed=5)
        assert model.sha256(train) == row["model_sha256"]
        p = model.predict(Rows.of(rows[held], COMPOSITE_FEATURES))
        y, w = rows["label"][held] == 2, rows["weight"][held]
        yes = np.rint(p * 10_000) >= round(row["threshold"] * 10_000)
        assert row["hold_out_auc"] == pytest.approx(roc_auc_score(y, p, sample_weight=w))
        assert row["hold_out_f1"] == pytest.approx(f1_score(y, yes, sample_weight=w))
        assert row["hold_out_precision"] == pytest.approx(precision_score(y, yes, sample_weight=w))
        assert row["hold_out_recall"] == pytest.approx(recall_score(y, yes, sample_weight=w))


def test_the_best_parameters_are_what_training_takes():
    best = found(params=TuneParams(candidates=("xgboost",), trials=4, batch=4, folds=2, repeats=1, rows=600)).best
    assert TrainParams(**best["train"]).model_dump().items() >= best["train"].items()
    assert best["candidate"] == "xgboost"
    assert (best["population"], best["label"], best["notice"]) == ("wall to wall", "mask", "SIMULATED for a test")


def test_when_another_candidate_leads_it_is_said():
    noted = found(params=QUICK.model_copy(update={"candidates": ("xgboost", "linear/robust"), "trials": 3}))
    leader = noted.leaderboard["candidate"].iloc[0]
    assert leader == "linear/robust"  # what tells the classes apart here is a sum of features
    assert any(note.startswith("linear/robust leads; maps are made with xgboost") for note in noted.notes)
    assert noted.best["leads"] == leader


@pytest.mark.parametrize("objective", ["average_precision", "f1", "brier", "logloss"])
def test_another_objective_ranks_by_it(objective):
    ranked = found(params=QUICK.model_copy(update={"objective": objective, "trials": 6}))
    values = ranked.leaderboard[f"{objective}_mean"]
    assert values.is_monotonic_increasing if objective in ("brier", "logloss") else values.is_monotonic_decreasing
    complete = ranked.trials[ranked.trials["state"] == "complete"]
    means = complete[objective].map(np.mean)
    assert values.iloc[0] == pytest.approx(means.min() if objective in ("brier", "logloss") else means.max())


# --- rows ------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    folds=st.integers(2, 6),
    repeats=st.integers(1, 3),
    held=st.sampled_from(list(itertools.combinations(REGIONS, 1)) + list(itertools.combinations(REGIONS, 2))),
    extent=st.sampled_from([200, 3000]),
)
def test_hold_out_rows_are_in_no_fold_and_no_block_is_on_both_sides(seed, folds, repeats, held, extent):
    frame = make_sample(400, regions=REGIONS, seed=seed % 7, extent_px=extent)
    frame["blue"] = np.where(frame["region"].isin(held), 1, 2).astype(np.int32)  # a mark that travels with the row
    frame["green"] = pd.factorize(block_ids(frame))[0].astype(np.int32)
    params = TuneParams(folds=folds, repeats=repeats, rows=1000, trials=20)
    try:
        work = Search(frame, **{**OPTIONS, "hold_out": held, "seed": seed, "params": params}).work
    except SampleError:
        return
    assert set(work.rows.values[0]) == {2}
    assert set(work.held.values[0]) == {1}
    assert not set(work.rows.values[1]) & set(work.held.values[1])
    for train, test in work.splits:
        assert not set(work.rows.values[1][train]) & set(work.rows.values[1][test])
        assert not set(work.rows.region[train]) & set(work.rows.region[test])


def test_rows_of_thinned_composites_are_fitted_to_and_never_scored():
    thinned = FRAME.assign(thinned=True, red=FRAME["red"] + 50)
    frame = pd.concat([FRAME.assign(thinned=False), thinned], ignore_index=True)
    params = QUICK.model_copy(update={"trials": 3, "rows": 20_000})
    asked = Search(frame, params=params, **OPTIONS)
    assert len(asked.work.rows) == 2 * (FRAME["region"] != "Fiji").sum()
    assert not asked.work.held.thinned.any()
    trial = Trial(1, 0, "linear/robust", {"linear.C": 1.0})
    whole = run_trial(asked.work, trial, ())
    scored = asked.work.rows
    side = scored.take(asked.work.splits[0][1] & ~scored.thinned)
    model = fit_candidate("linear/robust", scored.take(asked.work.splits[0][0]), trial.params, seed=5)
    assert whole.folds["auc"][0] == pytest.approx(
        roc_auc_score(side.positive, model.predict(side), sample_weight=side.weight)
    )
    assert whole.folds["auc"] != found().trials.loc[1, "auc"]  # they did take part in the fit


# --- mistakes and tables ---------------------------------------------------------------------------------------


def test_mistakes_are_told_before_anything_is_fitted():
    def told(**update):
        return QUICK.model_copy(update=update)

    with pytest.raises(ConfigError, match=r"no candidate 'svm'; known are cart, "):
        found(params=told(candidates=("svm",)))
    with pytest.raises(ConfigError, match=r"tune\.trials is 2, fewer than the 3 candidates"):
        found(params=told(trials=2))
    with pytest.raises(ConfigError, match="objective brier needs probabilities at map prevalence"):
        found(params=told(objective="brier"), balance="classes")
    with pytest.raises(SampleError, match="lacks column 'interior'"):
        found(FRAME.drop(columns="interior"))
    with pytest.raises(SampleError, match="mangrove and other are not both in two or more folds"):
        found(FRAME[FRAME["label"] == 1])
    with pytest.raises(SampleError, match="no sample in region 'Chad'"):
        found(hold_out=("Chad",))
    with pytest.raises(SampleError, match="the sample is empty"):
        found(FRAME[:0])


def test_one_region_is_searched_by_its_blocks():
    one = FRAME.assign(region="Cuba1")
    blocks = found(one, hold_out=(), params=QUICK.model_copy(update={"trials": 3}))
    assert blocks.about["split"] == "in-region, not transfer: 10 km blocks"
    assert "not transfer" in blocks.notes[0]
    assert blocks.leaderboard["hold_out_auc"].isna().all()
    assert "-" in leaderboard_cells(blocks)[1][0]


def test_tables_are_written_with_what_they_are_about(study, tmp_path):
    write_study(study, tmp_path)
    for name, table in (("leaderboard", study.leaderboard), ("trials", study.trials)):
        read = pq.read_table(tmp_path / f"{name}.parquet")
        about = json.loads(read.schema.metadata[b"mangroves"])
        assert (about["notice"], about["population"], about["label"]) == (
            "SIMULATED for a test",
            "wall to wall",
            "mask",
        )
        assert read.num_rows == len(table)
    read = pd.read_parquet(tmp_path / "trials.parquet")
    assert [list(values) for values in read["auc"]] == list(study.trials["auc"])
    csv = pd.read_csv(tmp_path / "leaderboard.csv")
    assert set(csv["notice"]) == {"SIMULATED for a test"}
    np.testing.assert_allclose(csv["auc_mean"], study.leaderboard["auc_mean"])
    text = (tmp_path / "leaderboard.md").read_text()
    assert "**SIMULATED for a test**" in text
    assert "hold-out: Fiji" in text
    for row in study.leaderboard.to_dict("records"):
        assert f"| {row['candidate']} | {row['auc_mean']:.4f} |" in text
    assert not (tmp_path / "best.json").exists()  # xgboost was not tried
    write_study(replace(study, best={"candidate": "xgboost"}), tmp_path)
    assert json.loads((tmp_path / "best.json").read_text()) == {"candidate": "xgboost"}
