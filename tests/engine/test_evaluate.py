"""Every figure of an evaluation against a few independent lines over its rows."""

from __future__ import annotations

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

from engine.evaluate import confusion_table, curve_table, error_table, metrics_table, reliability_table, strata
from engine.kernels.score import block_draws
from engine.scores import POPULATIONS
from tests.engine.judged import SCORES, THRESHOLD


def rows_of(population: str, label: str, region: str, scores: pd.DataFrame = SCORES):
    """Return probability, outcome and weight, as a reader of the tables would select them."""
    some = scores if region == "all regions" else scores[scores["region"] == region]
    if population == "eroded":
        some = some[some["interior"]]
    weight = np.ones(len(some)) if population == "as drawn" else some["weight"].to_numpy()
    return some["probability"].to_numpy(), some["positive" if label == "mask" else "truth"].to_numpy(), weight


@pytest.mark.parametrize("label", ["mask", "truth"])
@pytest.mark.parametrize("population", POPULATIONS)
def test_metrics_are_those_of_scikit_learn(population, label):
    table = metrics_table(SCORES, draws=0)
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
    table = confusion_table(SCORES, draws=0)
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
    table = curve_table(SCORES)
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
    table = reliability_table(SCORES, draws=0)
    metrics = metrics_table(SCORES, draws=0)
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
    table = error_table(SCORES)
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
    ).assign(mapped=lambda table: table["probability"] >= 0.5)


def test_intervals_hold_the_value_and_repeat_by_seed():
    scores = two_regions((8, 5))
    table = metrics_table(scores, draws=200, seed=3)
    assert (table["low"] < table["value"] + 1e-9).all()
    assert (table["value"] < table["high"] + 1e-9).mean() > 0.95
    pd.testing.assert_frame_equal(table, metrics_table(scores, draws=200, seed=3))
    shuffled = scores.sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(table, metrics_table(shuffled, draws=200, seed=3))
    assert not table.equals(metrics_table(scores, draws=200, seed=4))


def test_an_interval_is_the_quantiles_of_figures_of_drawn_blocks():
    scores = two_regions((6, 4))
    table = metrics_table(scores, draws=50, seed=9)
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


def test_intervals_of_shares_are_the_quantiles_of_shares_of_drawn_blocks():
    scores = two_regions((6, 4))
    times = block_draws(np.array([1] * 6 + [0] * 4), 50, 9)[scores["block"]].T * scores["weight"].to_numpy()
    positive, called = scores["positive"].to_numpy(), scores["probability"].to_numpy() >= 0.5

    def quantiles(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
        mass = times[:, whole].sum(axis=1)
        return np.quantile(times[:, part & whole].sum(axis=1)[mass > 0] / mass[mass > 0], [0.025, 0.975])

    table = confusion_table(scores, draws=50, seed=9)
    cells = table[(table["population"] == "wall to wall") & (table["region"] == "all regions")]
    for cell in cells.itertuples():
        actual, predicted = positive == (cell.actual == "mangrove"), called == (cell.predicted == "mangrove")
        assert (cell.low, cell.high) == pytest.approx(quantiles(predicted, actual))
    table = reliability_table(scores, draws=50, seed=9)
    bins = table[(table["population"] == "wall to wall") & (table["region"] == "all regions")]
    told = bins[bins["low"].notna()]
    assert len(told) > 10
    for one in told.itertuples():
        inside = np.floor(scores["probability"].to_numpy() * 20 + 1e-9) == one.bin
        assert (one.low, one.high) == pytest.approx(quantiles(positive, inside))


def test_populations_are_those_asked_for():
    scores = two_regions((4, 4))
    some = {"populations": ("wall to wall", "eroded")}
    tables = [
        *(table(scores, draws=0, **some) for table in (metrics_table, confusion_table)),
        curve_table(scores, **some),
        reliability_table(scores, draws=0, **some),
    ]
    for table in tables:
        assert list(table["population"].unique()) == ["wall to wall", "eroded"]


@pytest.mark.parametrize("blocks", [(1, 6), (2, 6)])
def test_one_or_two_blocks_give_no_interval(blocks):
    table = metrics_table(two_regions(blocks), draws=50)
    for figures in (table, confusion_table(two_regions(blocks), draws=50)):
        assert figures.loc[figures["region"] == "a", ["low", "high"]].isna().all(axis=None)
        assert figures.loc[figures["region"] == "b", ["low", "high"]].notna().all(axis=None)
        assert figures.loc[figures["region"] == "all regions", ["low", "high"]].notna().all(axis=None)


def test_a_class_in_one_of_many_blocks_gives_no_interval():
    scores = two_regions((8, 5))
    scores["positive"] &= (scores["block"] == 2) | (scores["region"] == "b")
    table = metrics_table(scores, draws=50)
    assert table.loc[table["region"] == "a", "low"].isna().all()
    assert table.loc[table["region"] == "b", "low"].notna().all()


def test_a_region_of_one_class_has_no_ranking_and_no_recall():
    scores = two_regions((4, 4))
    scores["positive"] &= scores["region"] == "b"
    table = metrics_table(scores, draws=50)
    some = table[(table["region"] == "a") & (table["population"] == "as drawn")].set_index(["class", "figure"])["value"]
    assert np.isnan(some["both", "auc"])
    assert np.isnan(some["mangrove", "recall"])
    assert some["other", "recall"] == pytest.approx((scores[scores["region"] == "a"]["probability"] < 0.5).mean())
    assert some["both", "prevalence"] == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=9))
def test_each_stratum_holds_whole_regions_and_blocks_enough(counts):
    region = np.repeat(np.arange(len(counts)), counts)
    found = strata(region)
    for one in range(len(counts)):
        assert len(set(found[region == one])) == 1
    sizes = np.bincount(found)
    assert sizes.min() >= min(3, sum(counts))
    for one, count in enumerate(counts):
        if count >= 3 and min(counts) >= 3:
            assert sizes[found[region == one][0]] == count
