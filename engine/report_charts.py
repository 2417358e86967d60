"""Pictures of what a run saw and what it cost, drawn from their tables."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from engine.charts import CLASS_COLOURS, GREY, INK, chart, shorten

_HUES: Final = ("#00725a", "#56b4e9", "#e69f00", "#cc79a7", "#0072b2", "#d55e00", "#f0e442", "#999999")
_REST: Final = "all others"


def looks_chart(path: Path, histogram: pd.DataFrame, by_year: pd.DataFrame, *, title: str, notice: str = "") -> None:
    """Draw how many tile-years have how many clear looks, by sensor, and beside it the looks of each year.

    Parameters
    ----------
    path : Path
        The ``.png``.
    histogram : DataFrame
        Columns sensors, clear_from, clear_to, tile_years.
    by_year : DataFrame
        Columns year, clear_least, clear_p25, clear_median, clear_p75, clear_most.
    title, notice : str
    """
    with chart(path, title=title, notice=notice, size=(9, 3.2), cols=2) as axes:
        left, right = axes[0]
        wide = histogram.pivot_table(index="clear_from", columns="sensors", values="tile_years", aggfunc="sum")
        wide = _join_rest(wide.fillna(0.0))
        width = float((histogram["clear_to"] - histogram["clear_from"]).iloc[0])
        base = np.zeros(len(wide))
        for at, name in enumerate(wide.columns):
            colour, count = _HUES[at % len(_HUES)], wide[name].to_numpy(float)
            left.bar(wide.index + width / 2, count, 0.9 * width, bottom=base, color=colour, label=shorten(str(name)))
            base += count
        left.yaxis.set_major_locator(MaxNLocator(integer=True))
        left.set(title="tile-years by mean clear looks of a pixel", xlabel="clear looks", ylabel="tile-years")
        left.set_xlim(left=0)
        left.legend(title="sensors", title_fontsize=7)
        year = by_year["year"].to_numpy(float)
        right.vlines(year, by_year["clear_least"], by_year["clear_most"], color=GREY, linewidth=1)
        right.vlines(year, by_year["clear_p25"], by_year["clear_p75"], color=CLASS_COLOURS["mangrove"], linewidth=4)
        right.plot(year, by_year["clear_median"], "o", color=INK, markersize=4)
        right.xaxis.set_major_locator(MaxNLocator(integer=True))
        right.set(title="by year: median, quartiles, extremes of tile-years", ylabel="clear looks")
        right.set_xlim(year.min() - 0.6, year.max() + 0.6)
        right.set_ylim(bottom=0)


def cost_chart(path: Path, steps: pd.DataFrame, stages: pd.DataFrame, *, title: str, notice: str = "") -> None:
    """Draw the seconds of each step, and beside it what its tasks spent them on.

    Parameters
    ----------
    path : Path
        The ``.png``.
    steps : DataFrame
        Columns step, seconds: elapsed.
    stages : DataFrame
        Columns step, stage, seconds: summed over tasks and threads.
    title, notice : str
    """
    size = (9, 1.3 + 0.2 * max(len(steps), stages["step"].nunique() + 4))
    with chart(path, title=title, notice=notice, size=size, cols=2) as axes:
        left, right = axes[0]
        place = np.arange(len(steps))
        bars = left.barh(place, steps["seconds"], 0.7, color=CLASS_COLOURS["mangrove"])
        left.bar_label(bars, labels=[f" {value:,.1f}" for value in steps["seconds"]], size=6.5)
        left.set(
            title="elapsed seconds of each step",
            xlabel="seconds",
            yticks=place,
            yticklabels=[shorten(str(name)) for name in steps["step"]],
        )
        left.set_ylim(len(steps) - 0.4, -0.6)
        left.set_xlim(0, 1.18 * max(steps["seconds"].max(), 1e-9))
        if stages.empty:
            right.set_axis_off()
            return
        wide = stages.pivot_table(index="step", columns="stage", values="seconds", aggfunc="sum", sort=False).fillna(0)
        wide = _join_rest(wide[wide.sum().sort_values(ascending=False, kind="stable").index])
        place, base = np.arange(len(wide)), np.zeros(len(wide))
        for at, name in enumerate(wide.columns):
            seconds = wide[name].to_numpy(float)
            right.barh(place, seconds, 0.7, left=base, color=_HUES[at], label=shorten(str(name)))
            base += seconds
        right.set(title="what tasks spent them on", xlabel="seconds, summed over tasks and threads")
        right.set(yticks=place, yticklabels=wide.index)
        right.set_ylim(len(wide) + 1.6, -0.6)  # room for the legend
        right.legend(loc="lower right", ncols=2)


def _join_rest(wide: pd.DataFrame) -> pd.DataFrame:
    """Return no more columns than there are colours, the last of them the sum of all others."""
    kept, rest = wide.columns[: len(_HUES) - 1], wide.columns[len(_HUES) - 1 :]
    return wide if len(rest) <= 1 else wide[kept].assign(**{_REST: wide[rest].sum(axis="columns")})
