"""Charts are written for every shape a table has, and matrices are put together right."""

from __future__ import annotations

from contextlib import contextmanager

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


def test_the_matrix_is_empty_where_no_region_has_both_classes():
    assert charts.transfer_matrix(figures().assign(auc=np.nan), "auc", "mask").empty


def test_splits_are_compared_over_all_regions():
    table = split_table(figures()).set_index("split")["auc"]
    assert table["leave one region out, rows together"] == 0.87
    assert table["random rows, optimistic"] == 0.99
    assert len(table) == 3


@pytest.fixture
def axes(monkeypatch):
    """Collect the axes of every chart drawn."""
    seen, chart = [], charts.chart

    @contextmanager
    def spy(*args, **options):
        with chart(*args, **options) as drawn:
            seen.append(drawn)
            yield drawn

    monkeypatch.setattr(charts, "chart", spy)
    return seen


def test_confusion_matrices_hold_the_shares_of_the_table(tmp_path, axes):
    table = confusion_table(scores(), draws=20)
    charts.confusion_chart(tmp_path / "a.png", table, thresholds=(0.4, 0.5))
    cells = table[table["region"] == "all regions"].set_index(["population", "actual", "predicted"])
    for one, population in zip(axes[0][0], ("wall to wall", "as drawn", "eroded"), strict=True):
        expected = [cells.loc[(population, a, p)] for a in ("mangrove", "other") for p in ("mangrove", "other")]
        assert one.images[0].get_array().ravel().tolist() == [cell["share"] for cell in expected]
        assert [text.get_text().splitlines()[0] for text in one.texts] == [f"{cell['share']:.1%}" for cell in expected]
    assert "mangrove from 0.40 to 0.50" in axes[0][0, 0].figure.get_suptitle()


def test_points_and_lines_of_regions_are_figures_and_intervals(tmp_path, axes):
    table = metrics_table(scores(), draws=20)
    charts.regions_chart(tmp_path / "a.png", table, label="mask")
    of = table[(table["population"] == "wall to wall") & (table["figure"] == "recall") & (table["class"] == "mangrove")]
    panel = axes[0][0, 2]
    order = [label.get_text() for label in axes[0][0, 0].get_yticklabels()]
    assert order[-1] == "all regions"
    of = of.set_index("region").loc[order]
    assert panel.collections[0].get_offsets()[:, 0].tolist() == of["value"].tolist()
    np.testing.assert_array_equal([line.get_xdata() for line in panel.lines], of[["low", "high"]])


def test_curves_are_the_tables_and_the_dot_is_what_was_reached(tmp_path, axes):
    rows = scores()
    curves, reliability, metrics = curve_table(rows), reliability_table(rows, draws=20), metrics_table(rows, draws=20)
    charts.curves_chart(tmp_path / "a.png", curves, reliability, metrics, label="mask", thresholds=(0.4, 0.5))
    panels = axes[0]

    def whole(table):
        return table[(table["population"] == "wall to wall") & (table["region"] == "all regions")]

    recall = next(line for line in panels[0, 0].lines if line.get_label() == "recall")
    np.testing.assert_array_equal(recall.get_ydata(), whole(curves)["recall"])
    assert [line.get_xdata()[0] for line in panels[0, 0].lines[-2:]] == [0.4, 0.5]
    reached = rows[rows["mapped"]]
    precision = np.average(reached["positive"], weights=reached["weight"])
    share = reached.loc[reached["positive"], "weight"].sum() / rows.loc[rows["positive"], "weight"].sum()
    assert panels[0, 1].collections[-1].get_offsets()[0].tolist() == pytest.approx([share, precision])
    np.testing.assert_array_equal(panels[1, 0].lines[-1].get_ydata(), whole(reliability)["share"])
    at = whole(metrics)[whole(metrics)["figure"].str.startswith("precision_at")]
    np.testing.assert_array_equal(panels[1, 1].lines[0].get_ydata(), at["value"])


def test_the_roc_is_the_table_and_its_dots_are_the_thresholds_in_use(tmp_path, axes):
    rows = scores()
    curves, metrics = curve_table(rows), metrics_table(rows, draws=20)
    charts.roc_chart(tmp_path / "a.png", curves, metrics, label="mask", thresholds=(0.4, 0.5))
    panel = axes[0][0, 0]
    whole = curves[(curves["population"] == "wall to wall") & (curves["region"] == "all regions")]
    np.testing.assert_array_equal(panel.lines[-1].get_ydata(), whole["recall"])
    used = whole[whole["threshold"].isin([0.4, 0.5])][["false_positive_rate", "recall"]]
    np.testing.assert_array_equal(panel.collections[-1].get_offsets(), used)


@pytest.mark.parametrize("regions", [("a",), REGIONS, tuple("abcdefghijklmno")], ids=len)
def test_bars_of_errors_are_their_shares_and_no_legend_hides_the_notice(tmp_path, axes, regions):
    kinds = [f"kind {number}" for number in range(12)]
    rows = scores(regions, truth=RNG.random(240) < 0.5, truth_class=np.array(kinds)[np.arange(240) % 12])
    table = error_table(rows)
    charts.errors_chart(tmp_path / "a.png", table, label="truth", notice="SIMULATED")
    panel = axes[0][0, 0]
    shown = table[(table["label"] == "truth") & (table["error"] == "false alarm") & (table["by"] == "truth class")]
    of = shown[shown["region"] == "all regions"].set_index("value")["share"]
    widths = {bars.get_label(): bars[0].get_width() for bars in panel.containers}
    rest = widths.pop("all others")
    assert widths == pytest.approx(of[list(widths)].to_dict())
    assert rest + sum(widths.values()) == pytest.approx(1)
    figure = panel.figure
    notice = next(text for text in figure.texts if text.get_text() == "SIMULATED").get_window_extent()
    for one in axes[0][1]:
        assert one.get_legend().get_window_extent().y0 >= notice.y1


def test_bars_of_importance_are_the_table(tmp_path, axes):
    table = pd.DataFrame({"feature": ["red", "ndvi", "bands"], "is_group": [False, False, True]})
    table = table.assign(auc_drop=[0.3, 0.2, 0.4], auc_drop_sd=0.01, shap=[0.5, 0.7, 0.9])
    charts.importance_chart(tmp_path / "a.png", table, title="importance")
    for one, column in zip(axes[0][0], ("auc_drop", "shap"), strict=True):
        assert [bar.get_width() for bar in one.patches] == table[column].tolist()


def test_lines_of_learning_are_the_means_of_repeats(tmp_path, axes):
    table = pd.concat([figures(), figures().assign(repeat=1, auc=lambda t: t["auc"] / 2)])
    charts.learning_chart(tmp_path / "a.png", table, label="mask")
    of = table[(table["kind"] == "samples") & (table["region"] == "all regions")]
    expected = of.groupby(of["name"].astype(int))["auc"].mean()
    line = axes[0][0, 0].lines[0]
    assert line.get_xdata().tolist() == expected.index.tolist()
    assert line.get_ydata().tolist() == expected.tolist()


def test_dots_of_left_out_regions_and_of_splits_are_the_table(tmp_path, axes):
    charts.leave_one_out_chart(tmp_path / "a.png", figures(), label="mask")
    panel = axes[0][0, 0]
    order = [label.get_text() for label in panel.get_yticklabels()]
    dots = dict(zip(order, panel.collections[-1].get_offsets()[:, 0].tolist(), strict=True))
    assert (dots["a"], dots["b"]) == (0.9, 0.85)
    splits = split_table(figures())
    charts.splits_chart(tmp_path / "b.png", splits, label="mask")
    assert sorted(axes[1][0, 0].collections[0].get_offsets()[:, 0]) == sorted(splits["auc"])


def is_png(path):
    return path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.slow
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
        charts.roc_chart(tmp_path / "roc.png", curves, metrics, label=label, thresholds=(0.4, 0.5))
        charts.errors_chart(tmp_path / "errors.png", errors, label=label)
    assert all(is_png(tmp_path / f"{name}.png") for name in ("confusion", "regions", "curves", "roc", "errors"))


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
