"""Every figure of an evaluation against a few independent lines over its rows."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    confusion_matrix,
    precision_recall_fscore_support,
    roc_auc_score,
)

from engine import evaluate as step
from engine.boost import Boosted, fit_boosted, training_weights
from engine.errors import SampleError
from engine.kernels.features import ALL_FEATURES, MISSING
from engine.model import Model
from engine.params import BoostParams
from engine.rows import first_rows, land_of, standing_for
from engine.splits import block_ids
from tests.engine.samples import make_sample

FEATURES = (*ALL_FEATURES[:7], "nbr")
FEW = BoostParams(rounds=8, max_depth=3, learning_rate=0.3)
THRESHOLD = 0.4


def make_model(sample: pd.DataFrame, held: tuple[str, ...]) -> Model:
    rows = sample[~sample["region"].isin(held) & sample["interior"]]
    positive = (rows["label"] == 2).to_numpy()
    plain = np.zeros(len(rows), bool)
    weight = training_weights(positive, rows["weight"].to_numpy(), ~plain, plain, "map")
    values = np.ascontiguousarray(rows[list(FEATURES)].to_numpy(np.int32).T)
    boosted = fit_boosted(values, positive, weight, FEW)
    return Model(
        trees=boosted.trees,
        features=FEATURES,
        edges=boosted.edges,
        regions=tuple(sorted(set(rows["region"]))),
        hold_out=held,
        training_prevalence=0.05,
        training_rows={},
        threshold=THRESHOLD,
    )


def with_all_columns(sample: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Add what later samples have, and a truth that differs from the mask in a tenth of the rows."""
    rng = np.random.default_rng(seed)
    mask = (sample["label"] == 2).to_numpy()
    truth = mask ^ (rng.random(len(sample)) < 0.1)
    kinds = np.where(truth, "mangrove", rng.choice(["water", "forest", "mudflat"], len(sample)))
    return sample.assign(
        clear_count=rng.integers(1, 40, len(sample)).astype(np.int16),
        sensor=rng.choice(["L8", "L8+L9", "L9", "L5", "L7"], len(sample)),
        thinned=False,
        lon=0.0,
        lat=0.0,
        truth=truth,
        truth_class=kinds,
    )


SAMPLE = with_all_columns(make_sample(2400, extent_px=1600))
MODEL = make_model(SAMPLE, ("Fiji",))
SCORES = step.score_part(SAMPLE, MODEL, ("Fiji",))


# --- rows ------------------------------------------------------------------------------------------------------


def test_scores_are_the_models_of_rows_it_never_saw():
    here = SAMPLE[SAMPLE["region"] == "Fiji"]
    assert step.unseen_regions(MODEL, SAMPLE["region"]) == ("Fiji",)
    assert len(SCORES) == len(here)
    expected = Boosted(MODEL.trees, MODEL.edges).predict(
        np.ascontiguousarray(here[list(FEATURES)].to_numpy(np.int32).T)
    )
    assert SCORES["probability"].to_numpy() == pytest.approx(expected, abs=0.00006)
    assert (SCORES["probability"] * 10_000).round().to_numpy() / 10_000 == pytest.approx(SCORES["probability"], abs=0)
    assert SCORES["block"].tolist() == block_ids(here).tolist()
    assert SCORES["positive"].tolist() == (here["label"] == 2).tolist()
    assert SCORES["wet"].tolist() == (here["mndwi"] > 0).tolist()
    for name in ("weight", "interior", "clear_count", "truth", "truth_class", "grid_row", "year", "sensor"):
        assert SCORES[name].tolist() == here[name].tolist()


def test_thinned_rows_are_not_scored():
    sample = SAMPLE.assign(thinned=np.arange(len(SAMPLE)) % 2 == 0)
    assert len(step.score_part(sample, MODEL, ("Fiji",))) == ((sample["region"] == "Fiji") & ~sample["thinned"]).sum()


def test_columns_a_table_lacks_are_gone_without():
    old = make_sample(300)
    columns = step.needed_columns(old.columns, FEATURES)
    assert "sensor" not in columns
    assert "mndwi" in columns
    scores = step.score_part(old[columns].drop(columns="mndwi"), MODEL, ("Fiji",))
    assert not {"clear_count", "truth", "wet"} & set(scores)
    errors = step.error_table(scores, threshold=THRESHOLD)
    assert set(errors["by"]) == {"class edge"}
    assert set(step.metrics_table(scores, threshold=THRESHOLD, draws=0)["label"]) == {"mask"}
    with pytest.raises(SampleError, match="sample lacks column 'weight'"):
        step.needed_columns(set(old.columns) - {"weight"}, FEATURES)


# --- figures ---------------------------------------------------------------------------------------------------


def rows_of(population: str, label: str, region: str, scores: pd.DataFrame = SCORES):
    """Return probability, outcome and weight, as a reader of the tables would select them."""
    some = scores if region == "all regions" else scores[scores["region"] == region]
    if population == "eroded":
        some = some[some["interior"]]
    weight = np.ones(len(some)) if population == "as drawn" else some["weight"].to_numpy()
    return some["probability"].to_numpy(), some["positive" if label == "mask" else "truth"].to_numpy(), weight


@pytest.mark.parametrize("label", ["mask", "truth"])
@pytest.mark.parametrize("population", step.POPULATIONS)
def test_metrics_are_those_of_scikit_learn(population, label):
    table = step.metrics_table(SCORES, threshold=THRESHOLD, draws=0)
    probability, positive, weight = rows_of(population, label, "Fiji")
    some = table[(table["population"] == population) & (table["label"] == label) & (table["region"] == "Fiji")]
    found = some.set_index(["class", "figure"])["value"]
    called = probability >= THRESHOLD
    precision, recall, f1, _ = precision_recall_fscore_support(positive, called, sample_weight=weight, labels=[0, 1])
    expected = {
        ("both", "auc"): roc_auc_score(positive, probability, sample_weight=weight),
        ("both", "brier"): brier_score_loss(positive, probability, sample_weight=weight),
        ("both", "prevalence"): np.average(positive, weights=weight),
        ("both", "accuracy"): np.average(positive == called, weights=weight),
        ("mangrove", "average_precision"): average_precision_score(positive, probability, sample_weight=weight),
        ("other", "average_precision"): average_precision_score(~positive, -probability, sample_weight=weight),
    }
    for number, name in enumerate(("other", "mangrove")):
        for figure, values in (("precision", precision), ("recall", recall), ("f1", f1)):
            expected[name, figure] = values[number]
    false_positive_rate = np.average(called[~positive], weights=weight[~positive])
    for share in (0.01, 0.05, 0.2, 0.31):
        hit, alarm = share * recall[1], (1 - share) * false_positive_rate
        expected["mangrove", f"precision_at_{share:.0%}"] = hit / (hit + alarm)
        expected["mangrove", f"f1_at_{share:.0%}"] = 2 * hit / (hit + alarm + share)
    gap = 0.0
    for low in np.arange(20) / 20:
        here = (probability >= low) & ((probability < low + 0.05) | (low == 0.95))
        gap += abs((weight[here] * (probability[here] - positive[here])).sum())
    expected["both", "calibration_error"] = gap / weight.sum()
    assert set(found.index) == set(expected)
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, abs=1e-9), key
    assert (some["rows"] == len(probability)).all()


def test_confusion_matrices_are_those_of_scikit_learn():
    table = step.confusion_table(SCORES, threshold=THRESHOLD, draws=0)
    for (population, label), some in table.groupby(["population", "label"]):
        probability, positive, weight = rows_of(population, label, "all regions")
        expected = confusion_matrix(positive, probability >= THRESHOLD, sample_weight=weight)
        cells = some[some["region"] == "all regions"].set_index(["actual", "predicted"])
        for actual, name in enumerate(("other", "mangrove")):
            for predicted, mapped in enumerate(("other", "mangrove")):
                cell = cells.loc[(name, mapped)]
                assert cell["weight"] == pytest.approx(expected[actual, predicted])
                assert cell["share"] == pytest.approx(expected[actual, predicted] / expected[actual].sum())


def test_curves_are_the_rates_of_each_threshold():
    table = step.curve_table(SCORES)
    some = table[(table["population"] == "wall to wall") & (table["label"] == "truth") & (table["region"] == "Fiji")]
    probability, positive, weight = rows_of("wall to wall", "truth", "Fiji")
    for row in some[some["threshold"].isin([0, 0.05, 0.3, 0.5, 0.8])].itertuples():
        called = probability >= row.threshold
        assert row.recall == pytest.approx(np.average(called[positive], weights=weight[positive]))
        assert row.precision == pytest.approx(np.average(positive[called], weights=weight[called]))
        assert row.false_positive_rate == pytest.approx(np.average(called[~positive], weights=weight[~positive]))
        assert row.f1 == pytest.approx(2 / (1 / row.recall + 1 / row.precision))
    assert np.isnan(some["precision"].iloc[-1])  # nothing reaches a probability of 1


def test_reliability_adds_up_to_the_calibration_error():
    table = step.reliability_table(SCORES, draws=0)
    metrics = step.metrics_table(SCORES, threshold=THRESHOLD, draws=0)
    errors = metrics[metrics["figure"] == "calibration_error"].set_index(["population", "label", "region"])["value"]
    for key, some in table.groupby(["population", "label", "region"]):
        assert some["part"].sum() == pytest.approx(1)
        gap = (some["part"] * (some["probability"] - some["share"]).abs()).sum()
        assert gap == pytest.approx(errors[key])
    probability, positive, weight = rows_of("wall to wall", "mask", "Fiji")
    some = table[(table["population"] == "wall to wall") & (table["label"] == "mask") & (table["region"] == "Fiji")]
    for row in some.itertuples():
        here = np.floor(probability * 20 + 1e-9) == row.bin
        assert row.share == pytest.approx(np.average(positive[here], weights=weight[here]))
        assert row.probability == pytest.approx(np.average(probability[here], weights=weight[here]))


def test_errors_are_parted_by_what_the_rows_know():
    table = step.error_table(SCORES, threshold=THRESHOLD)
    called = SCORES["probability"] >= THRESHOLD
    alarms = SCORES[called & ~SCORES["truth"]]
    some = table[(table["label"] == "truth") & (table["region"] == "Fiji") & (table["error"] == "false alarm")]
    by_class = some[some["by"] == "truth class"].set_index("value")
    for kind in ("water", "forest", "mudflat"):
        here = alarms[alarms["truth_class"] == kind]
        land = SCORES[~SCORES["truth"] & (SCORES["truth_class"] == kind)]["weight"].sum()
        assert by_class.loc[kind, "rows"] == len(here)
        assert by_class.loc[kind, "weight"] == pytest.approx(here["weight"].sum())
        assert by_class.loc[kind, "share"] == pytest.approx(here["weight"].sum() / alarms["weight"].sum())
        assert by_class.loc[kind, "rate"] == pytest.approx(here["weight"].sum() / land)
    edge = some[some["by"] == "class edge"].set_index("value")
    assert edge.loc["edge", "weight"] == pytest.approx(alarms.loc[~alarms["interior"], "weight"].sum())
    few = some[(some["by"] == "clear looks") & (some["value"] == "3-4")]["weight"].item()
    assert few == pytest.approx(alarms.loc[alarms["clear_count"].isin([3, 4]), "weight"].sum())
    wet = some[(some["by"] == "water") & (some["value"] == "wet")]["weight"].sum()
    assert wet == pytest.approx(alarms.loc[alarms["wet"], "weight"].sum())
    for _, one in table.groupby(["label", "region", "error", "by"]):
        assert one["share"].sum() == pytest.approx(1)


# --- intervals -------------------------------------------------------------------------------------------------


def two_regions(blocks: tuple[int, int], seed: int = 0) -> pd.DataFrame:
    """Return scores of 40 rows a block, in two regions of so many blocks."""
    rng = np.random.default_rng(seed)
    rows = 40 * sum(blocks)
    positive = rng.random(rows) < 0.4
    return pd.DataFrame(
        {
            "region": np.repeat(["a", "b"], [40 * n for n in blocks]),
            "block": np.repeat(np.arange(sum(blocks)), 40),
            "positive": positive,
            "probability": np.round(np.clip(rng.normal(0.3 + 0.4 * positive, 0.25), 0, 1), 4),
            "weight": rng.uniform(1, 3, rows),
            "interior": rng.random(rows) < 0.8,
        }
    )


def test_intervals_hold_the_value_and_repeat_by_seed():
    scores = two_regions((8, 5))
    table = step.metrics_table(scores, threshold=0.5, draws=200, seed=3)
    assert (table["low"] < table["value"] + 1e-9).all()
    assert (table["value"] < table["high"] + 1e-9).mean() > 0.95
    pd.testing.assert_frame_equal(table, step.metrics_table(scores, threshold=0.5, draws=200, seed=3))
    shuffled = scores.sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(table, step.metrics_table(shuffled, threshold=0.5, draws=200, seed=3))
    assert not table.equals(step.metrics_table(scores, threshold=0.5, draws=200, seed=4))


def test_an_interval_is_the_quantiles_of_figures_of_drawn_blocks():
    from engine.kernels.score import block_draws

    scores = two_regions((6, 4))
    table = step.metrics_table(scores, threshold=0.5, draws=50, seed=9)
    row = table[
        (table["population"] == "wall to wall") & (table["region"] == "all regions") & (table["figure"] == "auc")
    ]
    # Strata come by their size: region b's four blocks are stratum 0.
    times = block_draws(np.array([1] * 6 + [0] * 4), 50, 9)
    drawn = []
    for draw in range(50):
        weight = scores["weight"] * times[scores["block"], draw]
        used = weight > 0
        drawn.append(roc_auc_score(scores["positive"][used], scores["probability"][used], sample_weight=weight[used]))
    assert row[["low", "high"]].to_numpy()[0] == pytest.approx(np.quantile(drawn, [0.025, 0.975]))


@pytest.mark.parametrize("blocks", [(1, 6), (2, 6)])
def test_one_or_two_blocks_give_no_interval(blocks):
    table = step.metrics_table(two_regions(blocks), threshold=0.5, draws=50)
    for figures in (table, step.confusion_table(two_regions(blocks), threshold=0.5, draws=50)):
        assert figures.loc[figures["region"] == "a", ["low", "high"]].isna().all(axis=None)
        assert figures.loc[figures["region"] == "b", ["low", "high"]].notna().all(axis=None)
        assert figures.loc[figures["region"] == "all regions", ["low", "high"]].notna().all(axis=None)


def test_a_class_in_one_of_many_blocks_gives_no_interval():
    scores = two_regions((8, 5))
    scores["positive"] &= (scores["block"] == 2) | (scores["region"] == "b")
    table = step.metrics_table(scores, threshold=0.5, draws=50)
    assert table.loc[table["region"] == "a", "low"].isna().all()
    assert table.loc[table["region"] == "b", "low"].notna().all()


def test_a_region_of_one_class_has_no_ranking_and_no_recall():
    scores = two_regions((4, 4))
    scores["positive"] &= scores["region"] == "b"
    table = step.metrics_table(scores, threshold=0.5, draws=50)
    some = table[(table["region"] == "a") & (table["population"] == "as drawn")].set_index(["class", "figure"])["value"]
    assert np.isnan(some["both", "auc"])
    assert np.isnan(some["mangrove", "recall"])
    assert some["other", "recall"] == pytest.approx((scores[scores["region"] == "a"]["probability"] < 0.5).mean())
    assert some["both", "prevalence"] == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=9))
def test_each_stratum_holds_whole_regions_and_blocks_enough(counts):
    region = np.repeat(np.arange(len(counts)), counts)
    found = step.strata(region)
    for one in range(len(counts)):
        assert len(set(found[region == one])) == 1
    sizes = np.bincount(found)
    assert sizes.min() >= min(3, sum(counts))
    for one, count in enumerate(counts):
        if count >= 3 and min(counts) >= 3:
            assert sizes[found[region == one][0]] == count


# --- trials ----------------------------------------------------------------------------------------------------


def outcomes_of(frame: pd.DataFrame, trials: list[step.Trial]) -> list[step.Outcome | None]:
    return [
        step.run_trial(frame, FEATURES, FEW, "map", np.packbits(one.train), np.packbits(one.test), 0) for one in trials
    ]


FRAME = standing_for(first_rows(SAMPLE, most=300, seed=0), land_of(SAMPLE))


class Tried(NamedTuple):
    """Trials, what became of them, and their tables."""

    trials: list[step.Trial]
    outcomes: list[step.Outcome | None]
    listed: pd.DataFrame
    rows: pd.DataFrame
    said: pd.DataFrame
    figures: pd.DataFrame


@pytest.fixture(scope="module")
def tried() -> Tried:
    trials = step.plan_trials(FRAME, ("Fiji",))
    outcomes = outcomes_of(FRAME, trials)
    listed, rows = step.trial_list(trials, outcomes), step.trial_rows(FRAME)
    said = pd.concat([step.trial_scores(n, trials[n], one) for n, one in enumerate(outcomes) if one], ignore_index=True)
    return Tried(trials, outcomes, listed, rows, said, step.trial_figures(listed, rows, said))


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
        for repeat in range(step.REPEATS):
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
        some = some if row.region == "all regions" else some[some["region"] == row.region]
        truth, weight = some["positive" if row.label == "mask" else "truth"], some["weight"]
        assert row.rows == len(some)
        assert row.auc == pytest.approx(roc_auc_score(truth, some["probability"], sample_weight=weight))
        if some["called"].any():
            *rates, _ = precision_recall_fscore_support(truth, some["called"], average="binary", sample_weight=weight)
            assert (row.precision, row.recall, row.f1) == pytest.approx(tuple(rates))
            checked += 1
    assert checked > 20


def test_a_trials_threshold_never_saw_its_test_side(tried):
    number = next(n for n, one in enumerate(tried.trials) if one.kind == "all but one")
    trial = tried.trials[number]
    changed = FRAME.copy()
    changed.loc[trial.test, "label"] = 3 - changed.loc[trial.test, "label"]
    changed.loc[trial.test, list(FEATURES)] = 7
    again = outcomes_of(changed, [trial])[0]
    assert again.threshold == tried.outcomes[number].threshold
    assert again.boosted.trees == tried.outcomes[number].boosted.trees


def test_the_headline_is_the_median_and_the_worst_region(tried):
    of = tried.figures[(tried.figures["kind"] == "all but one") & (tried.figures["label"] == "truth")]
    of = of[(of["name"] == of["region"]) & (of["name"] != "all regions")].set_index("name")
    found = step.headline(tried.figures, "truth")
    assert found["regions"] == 3
    assert found["median_auc"] == np.median(of["auc"])
    assert found["worst_f1"] == of["f1"].min()
    assert found["worst_f1_region"] == of["f1"].idxmin()
    assert step.headline(tried.figures[tried.figures["kind"] == "random"]) == {}


def test_a_region_of_one_class_is_not_the_worst():
    figures = pd.DataFrame({"name": ["a", "b", "c"], "auc": [0.9, 0.8, np.nan], "f1": [0.7, 0.6, 0.0]})
    found = step.headline(figures.assign(region=figures["name"], kind="all but one", label="mask"))
    assert (found["regions"], found["worst_f1"], found["worst_f1_region"]) == (2, 0.6, "b")


def test_a_training_side_of_one_class_is_told_and_not_scored():
    frame = FRAME.assign(label=np.where(FRAME["region"] == "Fiji", 1, FRAME["label"]))
    trials = [one for one in step.plan_trials(frame, ()) if one.kind == "one region"]
    outcomes = outcomes_of(frame, trials)
    assert [one is None for one in outcomes] == [one.name == "Fiji" for one in trials]
    listed = step.trial_list(trials, outcomes)
    assert np.isnan(listed.loc[listed["name"] == "Fiji", "threshold"]).all()


def test_one_region_has_no_transfer_but_blocks():
    frame = first_rows(SAMPLE[SAMPLE["region"] == "Fiji"], most=200, seed=0)
    kinds = {one.kind for one in step.plan_trials(frame, ())}
    assert not {"one region", "all but one"} & kinds
    assert {"in region", "blocks", "random", "samples"} <= kinds
    seen = np.sum([one.test for one in step.out_of_fold_trials(frame)], axis=0)
    assert (seen == 1).all()


def test_one_block_leaves_nothing_to_judge_on():
    frame = SAMPLE.head(50).assign(zone=48, grid_row=1, grid_col=2, region="Fiji")
    with pytest.raises(SampleError, match="one 10 km block"):
        step.out_of_fold_trials(frame)
    assert step.plan_trials(frame, ()) == []


# --- importance ------------------------------------------------------------------------------------------------


def test_shap_values_and_bias_add_up_to_the_margin():
    boosted = Boosted(MODEL.trees, MODEL.edges)
    table = step.shap_table(SAMPLE.head(200), FEATURES, boosted)
    parts = table[[f"shap_{name}" for name in FEATURES]].to_numpy(np.float64)
    assert parts.sum(axis=1) + table["bias"].to_numpy() == pytest.approx(table["margin"].to_numpy(), abs=1e-4)
    probability = boosted.predict(np.ascontiguousarray(SAMPLE.head(200)[list(FEATURES)].to_numpy(np.int32).T))
    assert 1 / (1 + np.exp(-table["margin"].to_numpy())) == pytest.approx(probability, abs=1e-6)


def test_permutation_importance_is_the_auc_that_is_lost():
    boosted = Boosted(MODEL.trees, MODEL.edges)
    rows = SAMPLE[SAMPLE["region"] == "Fiji"]
    table = step.permutation_importance(rows, FEATURES, boosted, repeats=2, seed=4)
    values = np.ascontiguousarray(rows[list(FEATURES)].to_numpy(np.int32).T)
    order = np.random.default_rng([4, 1]).permutation(len(rows))
    positive, weight = rows["label"] == 2, rows["weight"]
    whole = roc_auc_score(positive, boosted.predict(values), sample_weight=weight)
    changed = values.copy()
    changed[FEATURES.index("nir08")] = values[FEATURES.index("nir08"), order]
    expected = whole - roc_auc_score(positive, boosted.predict(changed), sample_weight=weight)
    found = table[(table["feature"] == "nir08") & (table["repeat"] == 1)]["drop"].item()
    assert found == pytest.approx(expected, abs=1e-5)
    summary = step.importance_table(table, step.shap_table(rows, FEATURES, boosted)).set_index("feature")
    assert summary.loc["nir08", "auc_drop"] == pytest.approx(table[table["feature"] == "nir08"]["drop"].mean())
    groups = set(summary.index[summary["is_group"]])
    assert groups == {"bands", "indices"}
    assert summary.loc["bands", "auc_drop"] > summary.loc["nir08", "auc_drop"]


def test_mean_shap_is_recomputed_from_its_rows():
    boosted = Boosted(MODEL.trees, MODEL.edges)
    shap = step.shap_table(SAMPLE.head(100), FEATURES, boosted)
    permuted = step.permutation_importance(SAMPLE.head(100), FEATURES, boosted, repeats=1)
    table = step.importance_table(permuted, shap).set_index("feature")
    assert table.loc["red", "shap"] == pytest.approx(shap["shap_red"].abs().mean())
    bands = shap[[f"shap_{name}" for name in ("blue", "green", "red", "nir08", "swir16", "swir22")]].sum(axis=1)
    assert table.loc["bands", "shap"] == pytest.approx(bands.abs().mean())


def test_missing_features_are_taken_as_missing():
    rows = SAMPLE.head(40).assign(red=np.int32(MISSING))
    assert np.isfinite(step.shap_table(rows, FEATURES, Boosted(MODEL.trees, MODEL.edges))["margin"]).all()
