"""Charts are written for every shape a table has, and matrices are put together right."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from engine import evaluate_charts as charts
from engine.evaluate import confusion_table, curve_table, error_table, metrics_table, reliability_table
from engine.scores import labels_of
from engine.transfer import split_table

RNG = np.random.default_rng(0)
REGIONS = ("a", "b", "c")


def scores(regions=REGIONS, **more):
    rows = 240
    positive = RNG.random(rows) < 0.4
    return pd.DataFrame(
        {
            "region": np.array(regions)[np.arange(rows) % len(regions)],
            "block": np.arange(rows) % 12,
            "positive": positive,
            "probability": np.round(np.clip(RNG.normal(0.3 + 0.4 * positive, 0.2), 0, 1), 4),
            "weight": RNG.uniform(1, 3, rows),
            "interior": RNG.random(rows) < 0.8,
            "mapped": RNG.random(rows) < 0.4,
            **more,
        }
    )


def figures():
    rows = [("one region", "a", "b", 0.7), ("one region", "a", "c", 0.6), ("one region", "b", "a", 0.8)]
    rows += [("in region", "a", "a", 0.95), ("all but one", "a", "a", 0.9), ("all but one", "b", "b", 0.85)]
    rows += [(kind, name, "all regions", 0.8) for kind in ("samples", "regions") for name in ("1", "2", "4")]
    rows += [("random", "random rows", "all regions", 0.99), ("all but one", "all regions", "all regions", 0.87)]
    rows += [("blocks", "in-region, not transfer: 10 km blocks", "all regions", 0.9)]
    table = pd.DataFrame(rows, columns=["kind", "name", "region", "auc"])
    return table.assign(f1=table["auc"] - 0.1, label="mask", repeat=0)


def test_the_transfer_matrix_has_trained_on_in_rows_and_judged_on_in_columns():
    matrix = charts.transfer_matrix(figures(), "auc", "mask")
    assert matrix.columns.tolist() == ["a", "b", "c"]
    assert matrix.index.tolist() == ["a", "b", "c", "all but this"]
    assert matrix.loc["a", "b"] == 0.7
    assert matrix.loc["b", "a"] == 0.8
    assert matrix.loc["a", "a"] == 0.95
    assert matrix.loc["all but this"].tolist()[:2] == [0.9, 0.85]
    assert np.isnan(matrix.loc["c", "a"])


def test_a_region_of_one_class_is_blank_in_the_matrix():
    table = figures()
    table.loc[table["region"] == "c", ["auc", "f1"]] = np.nan, 0.0
    matrix = charts.transfer_matrix(table, "f1", "mask")
    assert "c" not in matrix or matrix["c"].isna().all()
    assert matrix.loc["a", "b"] == pytest.approx(0.6)


def test_splits_are_compared_over_all_regions():
    table = split_table(figures()).set_index("split")["auc"]
    assert table["leave one region out"] == 0.87
    assert table["random rows, optimistic"] == 0.99
    assert len(table) == 3


def is_png(path):
    return path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize(
    "rows",
    [
        scores(),
        scores(("only",)),
        scores(positive=False),
        scores(truth=True, truth_class="mangrove", clear_count=np.arange(240) % 40, wet=np.arange(240) % 2 == 0),
    ],
    ids=["regions", "one region", "no mangrove", "all columns"],
)
def test_charts_of_scores_are_drawn_from_any_table(tmp_path, rows):
    metrics = metrics_table(rows, draws=20)
    curves, reliability = curve_table(rows), reliability_table(rows, draws=20)
    confusion = confusion_table(rows, draws=20)
    errors = error_table(rows)
    charts.confusion_chart(tmp_path / "confusion.png", confusion, thresholds=(0.5,), notice="SIMULATED")
    for label in labels_of(rows):
        charts.regions_chart(tmp_path / "regions.png", metrics, label=label)
        charts.curves_chart(tmp_path / "curves.png", curves, reliability, metrics, label=label, thresholds=(0.4, 0.5))
        charts.errors_chart(tmp_path / "errors.png", errors, label=label)
    assert all(is_png(tmp_path / f"{name}.png") for name in ("confusion", "regions", "curves", "errors"))


def test_charts_of_trials_are_drawn_and_repeat_byte_for_byte(tmp_path):
    table = figures()
    for folder in (tmp_path / "one", tmp_path / "two"):
        charts.transfer_chart(folder / "transfer.png", table, "auc", label="mask", notice="SIMULATED")
        charts.leave_one_out_chart(folder / "leave.png", table, label="mask")
        charts.splits_chart(folder / "splits.png", split_table(table), label="mask")
        charts.learning_chart(folder / "learning.png", table, label="mask")
    for path in (tmp_path / "one").iterdir():
        assert is_png(path)
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_charts_of_importance_are_drawn(tmp_path):
    names = ["red", "ndvi", "ndvi_range"]
    table = pd.DataFrame({"feature": [*names, "bands"], "is_group": [False] * 3 + [True]})
    table = table.assign(auc_drop=0.1, auc_drop_sd=np.nan, shap=0.5)
    shap = pd.DataFrame({f"shap_{name}": RNG.normal(size=50) for name in names})
    shap = shap.assign(**{name: RNG.integers(0, 9, 50) for name in names}).assign(red=-(2**31))
    charts.importance_chart(tmp_path / "importance.png", table, title="importance")
    charts.shap_chart(tmp_path / "shap.png", shap, names, title="SHAP")
    assert is_png(tmp_path / "importance.png")
    assert is_png(tmp_path / "shap.png")
