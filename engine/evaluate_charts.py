"""Pictures of the tables of an evaluation: each shows what its table holds, and computes nothing of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import ScaledTranslation

from engine.charts import CLASS_COLOURS, GREY, INK, chart, say_cut
from engine.scores import ALL_REGIONS

_AUC: Final = "#0072b2"
_F1: Final = "#d55e00"
_PRECISION: Final = "#0072b2"
_RECALL: Final = "#009e73"
_HUES: Final = ("#00725a", "#56b4e9", "#e69f00", "#cc79a7", "#0072b2", "#d55e00", "#f0e442", "#999999", "#444444")
_REST: Final = "all others"
_ROW: Final = 0.17  # inches a line of a chart needs


def confusion_chart(path: Path, confusion: pd.DataFrame, *, thresholds: Sequence[float], notice: str = "") -> None:
    """Draw the confusion matrix of all regions for each population and label."""
    table = confusion[confusion["region"] == ALL_REGIONS]
    populations, labels = list(table["population"].unique()), list(table["label"].unique())
    title = f"Confusion, all regions, mangrove from {range_of(thresholds)}\nshares of the actual class"
    size = (2.7 * len(populations), 0.9 + 2.4 * len(labels))
    classes = ["mangrove", "other"]
    with chart(path, title=title, notice=notice, size=size, rows=len(labels), cols=len(populations)) as axes:
        for row, label in zip(axes, labels, strict=True):
            for one, population in zip(row, populations, strict=True):
                cells = table[(table["label"] == label) & (table["population"] == population)]
                cells = cells.set_index(["actual", "predicted"])
                share = np.array([[cells.loc[(a, p), "share"] for p in classes] for a in classes], float)
                one.imshow(np.nan_to_num(share), cmap="GnBu", vmin=0, vmax=1.15)
                for y, actual in enumerate(classes):
                    for x, predicted in enumerate(classes):
                        cell = cells.loc[(actual, predicted)]
                        span = "" if np.isnan(cell["low"]) else f"\n{cell['low']:.1%} to {cell['high']:.1%}"
                        text = f"{cell['share']:.1%}{span}\n{cell['weight']:,.0f}"
                        colour = "white" if cell["share"] > 0.8 else INK
                        one.text(x, y, text, ha="center", va="center", size=6.5, color=colour)
                one.set_xticks([0, 1], classes)
                one.set_yticks([0, 1], classes, rotation=90, va="center")
                unit = "rows" if population == "as drawn" else "pixels"
                one.set(title=f"{population} ({unit}), {label}", xlabel="mapped", ylabel=f"{label} says")
                one.grid(visible=False)


def range_of(thresholds: Sequence[float]) -> str:
    """Name the thresholds in use: one, or the least and the greatest of the folds.

    Examples
    --------
    >>> range_of([0.4]), range_of([0.45, 0.4, 0.43])
    ('0.40', '0.40 to 0.45')
    """
    low, high = (f"{threshold:.2f}" for threshold in (min(thresholds), max(thresholds)))
    return low if low == high else f"{low} to {high}"


def regions_chart(path: Path, metrics: pd.DataFrame, *, label: str, notice: str = "") -> None:
    """Draw AUC, precision, recall and F1 of every region, with intervals, wall to wall."""
    of_mangrove = (("precision", "precision"), ("recall", "recall"), ("f1", "F1"))
    shown = [("both", "auc", "AUC"), *(("mangrove", figure, name) for figure, name in of_mangrove)]
    table = metrics[(metrics["population"] == "wall to wall") & (metrics["label"] == label)]
    order = _by_value(table[(table["figure"] == "f1") & (table["class"] == "mangrove")].set_index("region")["value"])
    title = f"By region, wall to wall, against the {label}; lines: 95 % intervals, where there are blocks enough"
    size = (8.5, 1.1 + _ROW * len(order))
    with chart(path, title=title, notice=notice, size=size, cols=len(shown), sharey=True) as axes:
        for one, (kind, figure, name) in zip(axes[0], shown, strict=True):
            of = table[(table["figure"] == figure) & (table["class"] == kind)].set_index("region").reindex(order)
            y = np.arange(len(order))
            for at, low, high in zip(y, of["low"], of["high"], strict=True):
                one.plot([low, high], [at, at], color=GREY, linewidth=1)
            colours = [INK if region == ALL_REGIONS else CLASS_COLOURS["mangrove"] for region in order]
            one.scatter(of["value"], y, c=colours, s=14, zorder=3)
            one.set_yticks(y, order)
            one.set_ylim(-0.5, len(order) - 0.5)
            one.set(title=f"{name} of mangrove" if kind == "mangrove" else name, xlim=_span(of, ["value", "low"]))
            say_cut(one.xaxis)


def _by_value(values: pd.Series) -> list[str]:
    """Return regions from the worst, at the bottom of a chart, to the best, and all of them at the very top."""
    rest = values.drop(ALL_REGIONS, errors="ignore").sort_values(na_position="first", kind="stable")
    return [*map(str, rest.index), ALL_REGIONS]


def _span(table: pd.DataFrame, columns: Sequence[str]) -> tuple[float, float]:
    low = np.nanmin(table[list(columns)].to_numpy(float), initial=1.0)
    return max(0.0, float(np.floor((low - 0.02) * 20) / 20)), 1.01


def curves_chart(
    path: Path,
    curves: pd.DataFrame,
    reliability: pd.DataFrame,
    metrics: pd.DataFrame,
    *,
    label: str,
    thresholds: Sequence[float],
    notice: str = "",
) -> None:
    """Draw precision and recall against threshold and each other, reliability, and precision at other prevalences."""

    def of(table: pd.DataFrame) -> pd.DataFrame:
        return table[(table["population"] == "wall to wall") & (table["label"] == label)]

    curves, reliability, metrics = of(curves), of(reliability), of(metrics)
    whole = curves[curves["region"] == ALL_REGIONS]
    title = f"Wall to wall, against the {label}; thick: all regions, thin: each"
    with chart(path, title=title, notice=notice, size=(8, 6.6), rows=2, cols=2) as axes:
        one = axes[0, 0]
        for figure, colour in (("precision", _PRECISION), ("recall", _RECALL), ("f1", _F1)):
            name = "F1" if figure == "f1" else figure
            one.plot(whole["threshold"], whole[figure], color=colour, label=name, linewidth=1.8)
        for number, threshold in enumerate(sorted(set(thresholds))):
            used = f"in use: {range_of(thresholds)}" if number == 0 else None
            one.axvline(threshold, color=GREY, linestyle="--", label=used)
        one.legend(loc="lower center")
        one.set(title="precision and recall against threshold", xlabel="threshold", xlim=(0, 1), ylim=(0, 1.01))
        one = axes[0, 1]
        for region, some in curves.groupby("region"):
            if region != ALL_REGIONS:
                one.plot(some["recall"], some["precision"], color=GREY, linewidth=0.5, alpha=0.6)
        one.plot(whole["recall"], whole["precision"], color=_PRECISION, linewidth=1.8)
        recall, precision = (_figure(metrics, "mangrove", figure) for figure in ("recall", "precision"))
        one.scatter([recall], [precision], color=_PRECISION, s=20, zorder=3)
        one.set(title="precision against recall", xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.01))
        one = axes[1, 0]
        one.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=0.8)
        for region, some in reliability.groupby("region"):
            if region != ALL_REGIONS:
                one.plot(some["probability"], some["share"], color=GREY, linewidth=0.5, alpha=0.6)
        some = reliability[reliability["region"] == ALL_REGIONS]
        one.plot(some["probability"], some["share"], color=_AUC, marker="o", markersize=3, linewidth=1.6)
        one.vlines(some["probability"], some["low"], some["high"], color=_AUC, linewidth=0.8)
        parts = one.twinx()
        parts.bar(some["probability"], some["part"], width=0.03, color=GREY, alpha=0.25)
        parts.set_yscale("log")
        parts.set_ylim(1e-3, 100)
        parts.set_yticks([1e-3, 1e-2, 1e-1, 1], ["0.1 %", "1 %", "10 %", "100 %"])
        parts.minorticks_off()
        parts.grid(visible=False)
        error = _figure(metrics, "both", "calibration_error")
        one.set(xlabel="probability", ylabel="share of mangrove", xlim=(0, 1), ylim=(0, 1.01))
        one.set_title(f"reliability, ECE {error:.3f}; bars: share of the land")
        one = axes[1, 1]
        for figure, colour, name, shift in (("precision", _PRECISION, "precision", -0.06), ("f1", _F1, "F1", 0.06)):
            at_share = metrics[metrics["figure"].str.startswith(f"{figure}_at_") & (metrics["region"] == ALL_REGIONS)]
            x = np.arange(len(at_share)) + shift
            one.vlines(x, at_share["low"], at_share["high"], color=colour, linewidth=1)
            one.plot(x, at_share["value"], color=colour, marker="o", markersize=4, label=name)
            for here, value in zip(x, at_share["value"], strict=True):
                place = (5, -9) if figure == "f1" else (-23, 4)
                one.annotate(f"{value:.2f}", (here, value), place, textcoords="offset points", size=7, color=colour)
            one.set_xticks(np.arange(len(at_share)), [name.split("_at_")[1] for name in at_share["figure"]])
        one.legend(loc="lower right")
        one.set(
            title="where another share of the land is mangrove",
            xlabel="mangrove share",
            ylim=(0, 1.01),
            xlim=(-0.6, len(at_share) - 0.5),
        )


def roc_chart(
    path: Path,
    curves: pd.DataFrame,
    metrics: pd.DataFrame,
    *,
    label: str,
    thresholds: Sequence[float],
    notice: str = "",
) -> None:
    """Draw recall against false alarms of every threshold, and where the thresholds in use lie."""

    def of(table: pd.DataFrame) -> pd.DataFrame:
        return table[(table["population"] == "wall to wall") & (table["label"] == label)]

    curves = of(curves)
    title = f"ROC, wall to wall, against the {label}; thick: all regions, thin: each"
    with chart(path, title=title, notice=notice, size=(5, 4.4)) as axes:
        one = axes[0, 0]
        one.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=0.8)
        for region, some in curves.groupby("region"):
            if region != ALL_REGIONS:
                one.plot(some["false_positive_rate"], some["recall"], color=GREY, linewidth=0.5, alpha=0.6)
        whole = curves[curves["region"] == ALL_REGIONS]
        one.plot(whole["false_positive_rate"], whole["recall"], color=_AUC, linewidth=1.8)
        used = whole.iloc[[int((whole["threshold"] - threshold).abs().argmin()) for threshold in thresholds]]
        name = f"mangrove from {range_of(thresholds)}"
        one.scatter(used["false_positive_rate"], used["recall"], color=_F1, s=20, zorder=3, label=name)
        one.legend(loc="lower right")
        one.set(xlabel="share of other that is mapped as mangrove", ylabel="share of mangrove that is found")
        one.set(xlim=(-0.01, 1), ylim=(0, 1.01))
        one.set_title(f"AUC {_figure(of(metrics), 'both', 'auc'):.3f}")


def _figure(metrics: pd.DataFrame, kind: str, figure: str) -> float:
    rows = (metrics["class"] == kind) & (metrics["figure"] == figure) & (metrics["region"] == ALL_REGIONS)
    found = metrics[rows]["value"]
    return float(found.iloc[0]) if len(found) else float("nan")


def transfer_matrix(figures: pd.DataFrame, figure: str, label: str) -> pd.DataFrame:
    """Return the cross-region matrix of ``engine.transfer.trial_figures``: a row trained on, a column judged on.

    The last row is all but the region judged on; the diagonal is the region's own blocks, each judged by the others.
    Without rows and columns where no region of both classes is judged by a model of another.
    """
    # A region of one class has no AUC, and an F1 of 0 that says nothing of the model.
    of = figures[(figures["label"] == label) & (figures["region"] != ALL_REGIONS) & figures["auc"].notna()]
    pairs = of[of["kind"] == "one region"].pivot(index="name", columns="region", values=figure)
    regions = sorted({*pairs.index, *pairs.columns})
    matrix = pairs.reindex(index=regions, columns=regions)
    own = of[(of["kind"] == "in region") & (of["name"] == of["region"])].set_index("region")[figure]
    rest = of[(of["kind"] == "all but one") & (of["name"] == of["region"])].set_index("region")[figure]
    for region in regions:
        matrix.loc[region, region] = own.get(region, np.nan)
    if regions:
        matrix.loc["all but this"] = rest.reindex(regions)
    return matrix


def transfer_chart(path: Path, figures: pd.DataFrame, figure: str, *, label: str, notice: str = "") -> None:
    """Draw the cross-region matrix of one figure."""
    matrix = transfer_matrix(figures, figure, label)
    count = len(matrix.columns)
    names = [str(name) for name in matrix.columns]
    name = "AUC" if figure == "auc" else figure.upper()
    title = f"{name} on one region (column) of a model of another (row); wall to wall, {label}"
    side = max(5.6, 2.0 + 0.29 * count)
    values = matrix.to_numpy(float)
    low = float(np.nanmin(values)) if np.isfinite(values).any() else 0.0
    with chart(path, title=title, notice=notice, size=(side + 0.6, side + 0.2)) as axes:
        one = axes[0, 0]
        # A line apart for what was trained on all other regions.
        spread = np.insert(values, count, np.nan, axis=0)
        image = one.imshow(spread, cmap="YlGnBu", vmin=low, vmax=1, aspect="auto")
        for (y, x), value in np.ndenumerate(spread):
            if np.isfinite(value):
                dark = value > low + 0.6 * (1 - low)
                weight = "bold" if x == y or y > count else "normal"
                one.text(
                    x,
                    y,
                    f"{value:.2f}".removeprefix("0"),
                    ha="center",
                    va="center",
                    size=5.6,
                    weight=weight,
                    color="white" if dark else INK,
                )
        one.set_xticks(range(count), names, rotation=90)
        one.set_yticks([*range(count), count + 1], [*names, "all but this"])
        one.set(xlabel="judged on (diagonal: own blocks, each by a model of the others)", ylabel="trained on")
        one.grid(visible=False)
        one.figure.colorbar(image, ax=one, shrink=0.5, pad=0.01)


def leave_one_out_chart(path: Path, figures: pd.DataFrame, *, label: str, notice: str = "") -> None:
    """Draw what each region reaches when it is left out, beside its own blocks and single other regions."""
    title = f"Each region judged by a model of all others, wall to wall, against the {label}"
    matrices = {"auc": transfer_matrix(figures, "auc", label), "f1": transfer_matrix(figures, "f1", label)}
    reached = pd.Series(matrices["f1"].loc["all but this"])
    order = [str(name) for name in reached.sort_values(na_position="first").index]
    size = (8, 1.3 + _ROW * len(order))
    with chart(path, title=title, notice=notice, size=size, cols=2, sharey=True) as axes:
        for one, (figure, matrix) in zip(axes[0], matrices.items(), strict=True):
            y = np.arange(len(order))
            rest = matrix.loc["all but this", order]
            singles = matrix.drop(index="all but this")
            for at, region in zip(y, order, strict=True):
                others = singles[region].drop(region).dropna()
                if len(others):
                    one.plot(
                        [others.min(), others.max()],
                        [at, at],
                        color="#cccccc",
                        linewidth=3,
                        zorder=1,
                        label="one other region, worst to best" if at == 0 else None,
                    )
                one.scatter(
                    [singles.loc[region, region]],
                    [at],
                    color=_F1,
                    marker="|",
                    s=40,
                    zorder=2,
                    label="own blocks" if at == 0 else None,
                )
            one.scatter(rest, y, color=CLASS_COLOURS["mangrove"], s=16, zorder=3, label="all other regions")
            one.axvline(rest.median(), color=GREY, linestyle="--", linewidth=0.8)
            one.set_yticks(y, order)
            one.xaxis.set_major_locator(MaxNLocator(6))
            one.set(title=f"{figure.upper()}: median {rest.median():.3f}, worst {rest.min():.3f}")
        handles, names = axes[0, 0].get_legend_handles_labels()
        axes[0, 0].figure.legend(handles, names, loc="outside lower right", ncols=3)


def splits_chart(path: Path, splits: pd.DataFrame, *, label: str, notice: str = "") -> None:
    """Draw what the same settings would claim under each way to part the sample."""
    table = splits[splits["label"] == label].iloc[::-1]
    title = f"How the sample is parted decides what is claimed; wall to wall, against the {label}"
    size = (8, 1.0 + 0.24 * len(table))
    with chart(path, title=title, notice=notice, size=size, cols=2, sharey=True) as axes:
        for one, (figure, colour) in zip(axes[0], (("auc", _AUC), ("f1", _F1)), strict=True):
            y = np.arange(len(table))
            colours = [GREY if "optimistic" in name else colour for name in table["split"]]
            one.scatter(table[figure], y, c=colours, s=24, zorder=3)
            for at, value in zip(y, table[figure], strict=True):
                one.annotate(f"{value:.3f}", (value, at), (6, -3), textcoords="offset points", size=7)
            low, _ = _span(table, [figure])
            one.set(title=figure.upper(), xlim=(low, 1 + 0.12 * (1 - low)))
            say_cut(one.xaxis)
            one.set_xticks([tick for tick in one.get_xticks() if low <= tick <= 1.0001])
            one.set_yticks(y, table["split"])
            one.set_ylim(-0.7, len(table) - 0.3)


def importance_chart(path: Path, importance: pd.DataFrame, *, title: str, notice: str = "") -> None:
    """Draw permutation and SHAP importance of features, groups below."""
    features, groups = (importance[importance["is_group"] == flag] for flag in (False, True))
    size = (8, 1.2 + _ROW * len(importance) + 0.2)
    with chart(path, title=title, notice=notice, size=size, cols=2, sharey=True) as axes:
        y = np.concatenate([np.arange(len(features)), len(features) + 1 + np.arange(len(groups))])
        table = pd.concat([features, groups])
        colours = [CLASS_COLOURS["mangrove"]] * len(features) + [GREY] * len(groups)
        left, right = axes[0]
        left.barh(y, table["auc_drop"], color=colours, height=0.7)
        left.errorbar(table["auc_drop"], y, xerr=table["auc_drop_sd"].fillna(0), fmt="none", ecolor=INK, elinewidth=0.8)
        left.set(title="AUC lost when permuted (mean, sd of repeats)")
        left.set_yticks(y, table["feature"])
        left.set_ylim(y[-1] + 0.7, -0.7)
        right.barh(y, table["shap"], color=colours, height=0.7)
        right.set(title="mean |SHAP|, log-odds")


def shap_chart(path: Path, shap: pd.DataFrame, order: Sequence[str], *, title: str, notice: str = "") -> None:
    """Draw each row's SHAP value of each feature, coloured by the rank of the feature's value."""
    size = (7, 1.2 + 0.26 * len(order))
    with chart(path, title=title, notice=notice, size=size) as axes:
        one = axes[0, 0]
        for at, name in enumerate(order):
            values = shap[f"shap_{name}"].to_numpy()
            rank = shap[name].rank(pct=True).to_numpy()
            known = (shap[name] != -(2**31)).to_numpy()
            y = at + 0.38 * _spread(values)
            one.scatter(values[~known], y[~known], color="#c8c8c8", s=1.5, linewidths=0)
            image = one.scatter(
                values[known], y[known], c=rank[known], cmap="viridis", vmin=0, vmax=1, s=1.5, linewidths=0
            )
        one.axvline(0, color=GREY, linewidth=0.6)
        one.set_yticks(range(len(order)), order)
        one.set_ylim(len(order) - 0.4, -0.6)
        one.set(xlabel="SHAP value, log-odds of mangrove (grey dots: feature missing)")
        bar = one.figure.colorbar(image, ax=one, shrink=0.4, pad=0.01, ticks=[0, 1])
        bar.ax.set_yticklabels(["low", "high"])


def _spread(values: np.ndarray, bins: int = 80) -> np.ndarray:
    """Return -1..1 for each value: wide where many lie, alternately above and below, without chance."""
    edges = np.linspace(values.min(), values.max() + 1e-9, bins + 1)
    which = np.digitize(values, edges)
    order = np.lexsort((np.arange(values.size), which))
    start = np.searchsorted(which[order], which[order], side="left")
    place = np.empty(values.size)
    place[order] = np.arange(values.size) - start
    counts = np.bincount(which, minlength=bins + 2)
    sign = np.where(place % 2 == 0, 1, -1)
    return sign * np.ceil(place / 2) / max(1, counts.max() / 2)


def learning_chart(path: Path, learning: pd.DataFrame, *, label: str, notice: str = "") -> None:
    """Draw AUC and F1 against rows and regions trained on."""
    table = learning[(learning["label"] == label) & (learning["region"] == ALL_REGIONS)]
    title = f"Learning curves, wall to wall on the same land, against the {label}; bands: repeats"
    kinds = [("samples", "rows of each region and class"), ("regions", "regions trained on")]
    kinds = [(kind, name) for kind, name in kinds if (table["kind"] == kind).any()]
    with chart(path, title=title, notice=notice, size=(8, 3.4), cols=len(kinds), sharey=True) as axes:
        for one, (kind, name) in zip(axes[0], kinds, strict=True):
            some = table[table["kind"] == kind].assign(size=lambda t: t["name"].astype(int))
            for figure, colour in (("auc", _AUC), ("f1", _F1)):
                by = some.groupby("size")[figure]
                one.fill_between(by.min().index, by.min(), by.max(), color=colour, alpha=0.18, linewidth=0)
                one.plot(by.mean().index, by.mean(), color=colour, marker="o", markersize=3.5, label=figure.upper())
            one.set_xscale("log", base=2)
            sizes = sorted(some["size"].unique())
            one.set_xticks(sizes, [f"{size:,}" for size in sizes], rotation=45 if len(sizes) > 6 else 0)
            one.minorticks_off()
            one.set(xlabel=name)
        axes[0, 0].legend(loc="lower right")


def errors_chart(path: Path, errors: pd.DataFrame, *, label: str, notice: str = "") -> None:
    """Draw what false alarms and misses of each region are made of."""
    table = errors[errors["label"] == label]
    ways = list(table["by"].unique())
    table = pd.concat([_few_values(table[table["by"] == by]) for by in ways])
    regions = [ALL_REGIONS, *sorted(set(table["region"]) - {ALL_REGIONS})]
    title = f"What errors are made of, wall to wall, against the {label}"
    values = {by: _in_order(table.loc[table["by"] == by, "value"].unique()) for by in ways}
    lines = max(_legend_lines(len(names)) for names in values.values())
    size = (3.2 + 1.9 * len(ways), 1.1 + 0.16 * lines + 2 * (0.55 + _ROW * len(regions)))
    with chart(path, title=title, notice=notice, size=size, rows=2, cols=len(ways), sharex=True, sharey=True) as axes:
        for row, error in zip(axes, ("false alarm", "miss"), strict=True):
            for one, by in zip(row, ways, strict=True):
                _stack(
                    one,
                    table[(table["error"] == error) & (table["by"] == by)],
                    by,
                    regions,
                    values[by],
                )
                one.set_title(f"{error}s by {by}" if error != "miss" else f"misses by {by}")
                one.set_yticks(range(len(regions)), regions)
                one.set_ylim(len(regions) - 0.5, -0.5)
                one.set_xlim(0, 1)
        for one in axes[1]:
            one.set_xlabel("share of the errors")
            handles, names = one.get_legend_handles_labels()
            below = ScaledTranslation(0, -0.4, one.figure.dpi_scale_trans)  # inches: axes may have any height
            one.legend(
                handles,
                names,
                loc="upper center",
                bbox_to_anchor=(0.5, 0),
                bbox_transform=one.transAxes + below,
                ncols=-(-len(names) // _legend_lines(len(names))),
                handlelength=0.8,
                columnspacing=0.8,
            )


def _legend_lines(names: int) -> int:
    return 1 if names <= 3 else -(-names // 2)


def _few_values(cells: pd.DataFrame) -> pd.DataFrame:
    """Join the values that matter least, so that no two share a colour."""
    weight = cells[cells["region"] == ALL_REGIONS].groupby("value")["weight"].sum()
    if len(weight) <= len(_HUES):
        return cells
    kept = set(weight.sort_values(ascending=False, kind="stable").index[: len(_HUES) - 1])
    cells = cells.assign(value=cells["value"].where(cells["value"].isin(kept), _REST))
    return cells.groupby(["region", "error", "by", "value"]).agg(share=("share", "sum")).reset_index()


def _stack(one: Axes, cells: pd.DataFrame, by: str, regions: list[str], values: list[Any]) -> None:
    left = np.zeros(len(regions))
    wide = cells.pivot(index="region", columns="value", values="share").reindex(index=regions, columns=values).fillna(0)
    for number, value in enumerate(values):
        share = wide[value].to_numpy()
        one.barh(
            np.arange(len(regions)), share, left=left, color=_HUES[number % len(_HUES)], height=0.75, label=str(value)
        )
        left += share


def _in_order(values: Sequence[Any]) -> list[Any]:
    """Return names in order, bins of numbers by their number."""

    def key(value: Any) -> tuple[int, str]:
        first = str(value).split("-")[0].rstrip("+")
        return (int(first), "") if first.isdigit() else (1000 if value == _REST else -1, str(value))

    return sorted(values, key=key)
