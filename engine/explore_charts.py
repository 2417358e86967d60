"""Charts of what exploring a sample found: each drawn from its table alone, for up to ``MOST_REGIONS`` regions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from engine.charts import CLASS_COLOURS, GREY, INK, chart, shorten
from engine.kernels.indices import INDICES
from engine.landsat import BANDS

MOST_REGIONS: Final = 40
"""Shown; tables hold all."""

CLASSES: Final = tuple(CLASS_COLOURS)
"""Names, in the order they are drawn."""
_LINES: Final = {**CLASS_COLOURS, "other": (0.72, 0.56, 0.25)}
"""The pale colour of other does not show as a line on white."""

_BAND_NAMES: Final = dict(zip(BANDS, ("blue", "green", "red", "NIR", "SWIR1", "SWIR2"), strict=True))


def _title(feature: str) -> str:
    return f"{_name(feature)}, reflectance" if feature.partition("_")[0] in BANDS else _name(feature)


def _name(feature: str) -> str:
    first, _, rest = feature.partition("_")
    if first in BANDS:
        return f"{_BAND_NAMES[first]} {rest}".strip()
    return f"{first.upper()} {rest}".strip() if first in INDICES else feature.replace("_", " ")


def _regions(table: pd.DataFrame) -> list[str]:
    """Return the regions to show, in the order of the table."""
    return list(dict.fromkeys(table["region"]))[:MOST_REGIONS]


def _say_shown(title: str, table: pd.DataFrame) -> str:
    total = table["region"].nunique()
    return title if total <= MOST_REGIONS else f"{title}\nfirst {MOST_REGIONS} of {total} regions"


def draw_densities(path: Path, densities: pd.DataFrame, whole: str, *, title: str, notice: str) -> None:
    """Draw a panel a feature: both classes of all regions filled, those of each region as thin lines.

    Parameters
    ----------
    path : Path
        The ``.png``.
    densities : DataFrame
        Columns region, class, feature, x, density.
    whole : str
        Name among regions of what is filled.
    title, notice : str
    """
    if densities.empty:
        _draw_nothing(path, title=title, notice=notice)
        return
    features = list(dict.fromkeys(densities["feature"]))
    cols = 5
    rows = -(-len(features) // cols)
    with chart(path, title=title, notice=notice, size=(11, 0.6 + 1.55 * rows), rows=rows, cols=cols) as axes:
        for ax in axes.flat[len(features) :]:
            ax.set_axis_off()
        for ax, feature in zip(axes.flat, features, strict=False):
            of_feature = densities[densities["feature"] == feature]
            for name in CLASSES:
                curves = of_feature[of_feature["class"] == name].groupby("region", sort=False)
                for region, curve in curves:
                    if region == whole:
                        ax.fill_between(curve["x"], curve["density"], color=_LINES[name], alpha=0.35, linewidth=0)
                        ax.plot(curve["x"], curve["density"], color=_LINES[name], linewidth=1.6, label=name)
                    else:
                        ax.plot(curve["x"], curve["density"], color=_LINES[name], linewidth=0.4, alpha=0.45)
            _frame_density(ax, of_feature[of_feature["region"] == whole])
            ax.set_title(_title(feature))
        axes.flat[0].legend(loc="upper right")


def _frame_density(ax: Axes, whole: pd.DataFrame) -> None:
    """Show where the whole has its mass; a single region's peak may leave the frame."""
    peak = whole["density"].max()
    low, high = _middle(whole)
    ax.set(xlim=(low, high), ylim=(0, 1.5 * peak), yticks=[])
    ax.locator_params(axis="x", nbins=4)
    ax.grid(visible=False)


def _middle(densities: pd.DataFrame) -> tuple[float, float]:
    """Return where each of some densities has 98 % of its mass."""
    ends = []
    for _, curve in densities.groupby(["region", "class"]):
        mass = (curve["density"].cumsum() / curve["density"].sum()).to_numpy()
        ends.append(curve["x"].to_numpy()[np.searchsorted(mass, [0.01, 0.99])])
    return float(np.min(ends)), float(np.max(ends))


def draw_ridges(
    path: Path, densities: pd.DataFrame, features: Sequence[str], *, title: str, notice: str, whole: str
) -> None:
    """Draw a column a feature and a row a region: the densities of both classes, to one scale in each row.

    Parameters
    ----------
    path : Path
        The ``.png``.
    densities : DataFrame
        Columns region, class, feature, x, density.
    features : sequence of str
        Columns to draw.
    title, notice, whole : str
        ``whole`` names all regions together, and is drawn on top in bold.
    """
    if densities.empty:
        _draw_nothing(path, title=title, notice=notice)
        return
    regions = _regions(densities)
    if whole in regions:
        regions = [whole, *(region for region in regions if region != whole)]
    size = (1.6 + 1.45 * len(features), 1.1 + 0.29 * len(regions))
    with chart(path, title=_say_shown(title, densities), notice=notice, size=size, cols=len(features)) as axes:
        for ax, feature in zip(axes[0], features, strict=True):
            of_feature = densities[densities["feature"] == feature]
            if not of_feature.empty:
                _draw_column(ax, of_feature, regions)
            ax.set_title(_title(feature))
            ax.set(ylim=(len(regions) - 0.9, -1.1), yticks=np.arange(len(regions)), yticklabels=[])
            ax.tick_params(axis="y", length=0)
            ax.spines["left"].set_visible(False)
            ax.locator_params(axis="x", nbins=4)
            ax.grid(visible=False, axis="x")
        labels = axes[0, 0].set_yticklabels([shorten(region) for region in regions])
        if regions[0] == whole:
            labels[0].set_weight("bold")
        for name in CLASSES:
            axes[0, -1].fill_between([], [], color=_LINES[name], alpha=0.6, label=name)
        axes[0, -1].legend(loc="upper right", bbox_to_anchor=(1.0, -0.6 / len(regions)), ncols=2, handlelength=1)


def _draw_column(ax: Axes, of_feature: pd.DataFrame, regions: Sequence[str]) -> None:
    low, high = _middle(of_feature)
    groups = dict(list(of_feature.groupby(["region", "class"])))
    for row, region in enumerate(regions):
        curves = {name: groups[region, name] for name in CLASSES if (region, name) in groups}
        if not curves:
            ax.text(low, row - 0.1, "not known of enough rows", size=5.5, color=GREY)
            continue
        peak = max(curve["density"].max() for curve in curves.values())
        for name, curve in curves.items():
            height = row - 0.95 * curve["density"] / peak
            ax.fill_between(curve["x"], height, row, color=_LINES[name], alpha=0.45, linewidth=0, zorder=2 + row)
            ax.plot(curve["x"], height, color=_LINES[name], linewidth=0.7, zorder=2 + row)
    ax.set_xlim(low, high)


def draw_counts(path: Path, counts: pd.DataFrame, *, title: str, notice: str) -> None:
    """Draw the rows of each class as drawn and, beside, the share of mangrove among the pixels they stand for.

    Parameters
    ----------
    path : Path
        The ``.png``.
    counts : DataFrame
        Columns region, year, class, rows, pixels.
    title, notice : str
    """
    if counts.empty:
        _draw_nothing(path, title=title, notice=notice)
        return
    regions = _regions(counts)
    sums = counts.pivot_table(index="region", columns="class", values=["rows", "pixels"], aggfunc="sum", fill_value=0)
    shape: Any = {"index": regions, "columns": list(CLASSES), "fill_value": 0}
    rows, pixels = (pd.DataFrame(sums[kind]).reindex(**shape) for kind in ("rows", "pixels"))
    total = pixels.sum(axis="columns")
    place = np.arange(len(regions))
    size = (8.5, 1.3 + 0.21 * len(regions))
    with chart(path, title=_say_shown(title, counts), notice=notice, size=size, cols=2, sharey=True) as axes:
        left, right = axes[0]
        begin = np.zeros(len(regions))
        for name in CLASSES:
            left.barh(place, rows[name], left=begin, height=0.7, color=_LINES[name], alpha=0.8, label=name)
            begin += rows[name].to_numpy()
        left.set(xlabel="rows as drawn, all years", yticks=place, yticklabels=[shorten(region) for region in regions])
        left.set(xlim=(0, 1.05 * begin.max()), ylim=(len(regions) - 0.4, -0.6))
        left.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
        share = 100 * pixels["mangrove"] / total
        right.barh(place, share, height=0.7, color=_LINES["mangrove"], alpha=0.8)
        for row, (percent, whole) in enumerate(zip(share, total, strict=True)):
            right.text(percent, row, f" {percent:.1f} % of {whole:,.0f} px", va="center", size=6, color=INK)
        right.set(xlabel="mangrove, % of the pixels they stand for (wall to wall)")
        right.set_xlim(0, 1.55 * max(share.max(), 1))
        for ax in (left, right):
            ax.grid(visible=False, axis="y")
            ax.tick_params(axis="y", length=0)


def draw_spectra(path: Path, spectra: pd.DataFrame, *, title: str, notice: str) -> None:
    """Draw a panel a region: the median reflectance of each class and its quartiles.

    Parameters
    ----------
    path : Path
        The ``.png``.
    spectra : DataFrame
        Columns region, class, band, p25, p50, p75.
    title, notice : str
    """
    if spectra.empty:
        _draw_nothing(path, title=title, notice=notice)
        return
    regions = _regions(spectra)
    cols = min(6, len(regions))
    rows = -(-len(regions) // cols)
    size = (max(1.1 + 1.75 * cols, 6), 0.9 + 1.45 * rows)
    shared = {"sharex": True, "sharey": True}
    with chart(
        path, title=_say_shown(title, spectra), notice=notice, size=size, rows=rows, cols=cols, **shared
    ) as axes:
        groups = dict(list(spectra.groupby(["region", "class"])))
        for ax in axes.flat[len(regions) :]:
            ax.set_axis_off()
        for ax, region in zip(axes.flat, regions, strict=False):
            for name in CLASSES:
                if (region, name) in groups:
                    curve = groups[region, name].set_index("band").loc[list(BANDS)]
                    place = np.arange(len(BANDS))
                    ax.fill_between(place, curve["p25"], curve["p75"], color=_LINES[name], alpha=0.3, linewidth=0)
                    ax.plot(place, curve["p50"], color=_LINES[name], marker="o", markersize=2, label=name)
            ax.set_title(shorten(region), size=7.5)
            ax.set_xticks(np.arange(len(BANDS)), list(_BAND_NAMES.values()), rotation=90)
        for ax in axes.flat[max(0, len(regions) - cols) : len(regions)]:
            ax.tick_params(labelbottom=True)  # also above a place that is empty
        for ax in axes[:, 0]:
            ax.set_ylabel("reflectance")
        axes.flat[0].legend(loc="upper left")


def draw_separability(path: Path, separability: pd.DataFrame, *, title: str, notice: str) -> None:
    """Draw the Jeffries-Matusita distance as a heat map, regions by features, the bands together first.

    Parameters
    ----------
    path : Path
        The ``.png``.
    separability : DataFrame
        Columns region, feature, jm, jm_density.
    title, notice : str
    """
    if separability.empty:
        _draw_nothing(path, title=title, notice=notice)
        return
    regions = _regions(separability)
    # The bands together have no density of one variable: theirs is that of normal classes.
    shown = separability.assign(shown=separability["jm_density"].fillna(separability["jm"]))
    joint = list(dict.fromkeys(separability.loc[separability["jm_density"].isna(), "feature"]))
    features = [*joint, *(name for name in dict.fromkeys(separability["feature"]) if name not in joint)]
    matrix = shown.pivot(index="region", columns="feature", values="shown").reindex(index=regions, columns=features)
    size = (2.6 + 0.37 * len(features), 1.8 + 0.21 * len(regions))
    with chart(path, title=_say_shown(title, separability), notice=notice, size=size) as axes:
        ax = axes[0, 0]
        matrix = matrix.rename(index=shorten, columns=_name)
        _heat(ax, matrix, "YlGnBu", (0, 2), "Jeffries-Matusita distance, 0 the same to 2 apart", digits=2)
        for column in range(1, len(joint) + 1):
            ax.axvline(column - 0.5, color="white", linewidth=3)


def draw_correlations(path: Path, correlations: pd.DataFrame, whole: str, *, title: str, notice: str) -> None:
    """Draw a panel a class: correlations of all features.

    Parameters
    ----------
    path : Path
        The ``.png``.
    correlations : DataFrame
        Columns region, class, a, b, r.
    whole : str
        Region to show.
    title, notice : str
    """
    if correlations.empty:
        _draw_nothing(path, title=title, notice=notice)
        return
    shown = correlations[correlations["region"] == whole]
    features = list(dict.fromkeys(shown["a"]))
    present = [name for name in CLASSES if (shown["class"] == name).any()]
    side = 1.6 + 0.22 * len(features)
    size = (max(side * len(present), 5), side + 0.9)
    with chart(path, title=title, notice=notice, size=size, cols=max(len(present), 1)) as axes:
        for ax, name in zip(axes[0], present, strict=False):
            matrix = shown[shown["class"] == name].pivot(index="a", columns="b", values="r").loc[features, features]
            matrix = matrix.rename(index=_name, columns=_name)
            _heat(ax, matrix, "RdBu_r", (-1, 1), "correlation r" if name == present[-1] else "", digits=None)
            ax.set_title(name)


def draw_region_distances(path: Path, distances: pd.DataFrame, *, title: str, notice: str) -> None:
    """Draw a panel a class: distances of regions, near ones side by side.

    Parameters
    ----------
    path : Path
        The ``.png``.
    distances : DataFrame
        Columns region, against, class, distance.
    title, notice : str
    """
    if distances.empty:
        _draw_nothing(path, title=title, notice=notice)
        return
    mean = distances.groupby(["region", "against"])["distance"].mean().unstack()
    order = _order(mean)[:MOST_REGIONS]
    present = [name for name in CLASSES if (distances["class"] == name).any()]
    side = 2.2 + 0.2 * len(order)
    limit = max(float(distances["distance"].max()), 1e-9)
    size = (max(side * len(present), 5), side + 0.6)
    with chart(
        path, title=_say_shown(title, distances), notice=notice, size=size, cols=max(len(present), 1), sharey=True
    ) as axes:
        for ax, name in zip(axes[0], present, strict=False):
            matrix = distances[distances["class"] == name].pivot(index="region", columns="against", values="distance")
            matrix = matrix.reindex(index=order, columns=order).rename(index=shorten, columns=shorten)
            label = "mean Wasserstein distance, standard deviations" if name == present[-1] else ""
            _heat(ax, matrix, "YlOrBr", (0, limit), label, digits=None)
            ax.set_title(name)


def _order(mean: pd.DataFrame) -> list[str]:
    """Return regions so that near ones stand side by side (average linkage); those not comparable last."""
    whole = mean.loc[mean.notna().all(axis=1), mean.notna().all(axis=0)]
    names = [region for region in whole.index if region in whole.columns]
    if len(names) > 2:
        square = whole.loc[names, names].to_numpy()
        near = linkage(squareform((square + square.T) / 2, checks=False), "average", optimal_ordering=True)
        names = [names[leaf] for leaf in leaves_list(near)]
    return [*names, *(region for region in mean.index if region not in names)]


def draw_outliers(path: Path, counts: pd.DataFrame, *, title: str, notice: str) -> None:
    """Draw the share of each region's rows that look like mask errors, by class.

    Parameters
    ----------
    path : Path
        The ``.png``.
    counts : DataFrame
        Columns region, class, listed, share.
    title, notice : str
    """
    if counts.empty:
        _draw_nothing(path, title=title, notice=notice)
        return
    regions = _regions(counts)
    place = np.arange(len(regions))
    size = (8.5, 1.3 + 0.21 * len(regions))
    with chart(path, title=_say_shown(title, counts), notice=notice, size=size, cols=2, sharey=True) as axes:
        for ax, name in zip(axes[0], CLASSES, strict=True):
            of_class = counts[counts["class"] == name].set_index("region").reindex(regions)
            percent = 100 * of_class["share"].fillna(0)
            ax.barh(place, percent, height=0.7, color=_LINES[name], alpha=0.8)
            for row, (share, listed) in enumerate(zip(percent, of_class["listed"].fillna(0), strict=True)):
                ax.text(share, row, f" {share:.1f} % ({listed:,.0f} rows)", va="center", size=6, color=INK)
            ax.set_title(f"mask says {name}, pixel looks like {'other' if name == 'mangrove' else 'mangrove'}")
            ax.set(xlabel="% of rows examined", yticks=place, xlim=(0, 1.5 * max(percent.max(), 0.1)))
            ax.grid(visible=False, axis="y")
            ax.tick_params(axis="y", length=0)
        axes[0, 0].set_yticklabels([shorten(region) for region in regions])
        axes[0, 0].set_ylim(len(regions) - 0.4, -0.6)


def _draw_nothing(path: Path, *, title: str, notice: str) -> None:
    """Draw a chart that says why there is none: a file of an earlier sample may not stay."""
    with chart(path, title=title, notice=notice, size=(6, 1.5)) as axes:
        axes[0, 0].set_axis_off()
        axes[0, 0].text(0.5, 0.5, "too few rows to describe", ha="center", va="center", color=GREY)


def _heat(
    ax: Axes, matrix: pd.DataFrame, colours: str, limits: tuple[float, float], label: str, *, digits: int | None
) -> None:
    """Draw a matrix with its names and, where there is a label, a colour bar."""
    image = ax.imshow(matrix.to_numpy(), cmap=colours, vmin=limits[0], vmax=limits[1], aspect="auto")
    ax.set_xticks(np.arange(matrix.shape[1]), list(matrix.columns), rotation=90)
    ax.set_yticks(np.arange(matrix.shape[0]), list(matrix.index))
    ax.tick_params(length=0, labelsize=6.5)
    ax.grid(visible=False)
    for spine in ax.spines.values():
        spine.set_visible(False)
    if label:
        bar = ax.figure.colorbar(image, ax=ax, shrink=0.7, pad=0.015, aspect=30, label=label)
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=6.5)
    if digits is not None:
        middle = (limits[0] + limits[1]) / 2
        for (row, column), value in np.ndenumerate(matrix.to_numpy()):
            if np.isfinite(value):
                ink = "white" if value > middle else INK
                ax.text(column, row, f"{value:.{digits}f}", ha="center", va="center", size=5, color=ink)
