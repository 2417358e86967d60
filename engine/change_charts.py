"""Pictures of the tables of change."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from engine.charts import CLASS_COLOURS, GREY, INK, chart, say_cut
from engine.legend import TRANSITIONS

CHARTED: Final = 6
"""Places shown in a chart, the whole area among them."""

_COLOURS: Final = {entry.name: tuple(channel / 255 for channel in entry.colour) for entry in TRANSITIONS}


def series_chart(path: Path, series: pd.DataFrame, *, notice: str = "") -> None:
    """Draw area, and loss and gain between years, of the whole area and of the places with most mangrove.

    Parameters
    ----------
    path : Path
        The ``.png``.
    series : DataFrame
        Of ``area_series.series_table``, the whole area first.
    notice : str
        Line that must not be lost.
    """
    means = series.groupby(["by", "where"], sort=False)["mangrove_ha"].mean()
    whole, rest = means.index[0], means.iloc[1:].sort_values(ascending=False, kind="stable")
    shown = [whole, *rest.index[: CHARTED - 1]]
    title = "Mangrove by year, mapped area (hollow: provisional)"
    if series["estimated_ha"].notna().any():
        title += ", and error-adjusted with 95 % intervals (grey)"
    if len(means) > len(shown):
        title += f"\nthe {whole[1]} and {len(shown) - 1} of {len(rest)} places, those with most mangrove"
    with chart(path, title=title, notice=notice, size=(9, 0.8 + 1.9 * len(shown)), rows=len(shown), cols=2) as axes:
        for row, (by, where) in zip(axes, shown, strict=True):
            one = series[(series["by"] == by) & (series["where"] == where)]
            _draw_area(row[0], one, where if (by, where) == whole else f"{by} {where}")
            _draw_change(row[1], one)
            for each in row:
                each.xaxis.set_major_locator(MaxNLocator(integer=True))
                each.yaxis.set_major_formatter(StrMethodFormatter("{x:,.6g}"))
        axes[0, 1].legend(loc="lower right", bbox_to_anchor=(1, 1), borderpad=0, ncols=4, columnspacing=1)


def _draw_area(axes: Axes, one: pd.DataFrame, title: str) -> None:
    assessed = one[one["estimated_ha"].notna()]
    spread = np.abs(assessed[["low_ha", "high_ha"]].to_numpy().T - assessed["estimated_ha"].to_numpy())
    axes.errorbar(assessed["year"], assessed["estimated_ha"], yerr=spread, fmt="s", color=GREY, markersize=3)
    colour = CLASS_COLOURS["mangrove"]
    axes.plot(one["year"], one["mangrove_ha"], "o-", color=colour, markersize=3.5)
    open_ended = one[one["provisional"]]
    axes.plot(open_ended["year"], open_ended["mangrove_ha"], "o", color=colour, markersize=3.5, markerfacecolor="white")
    axes.set(title=title, ylabel="hectares")
    say_cut(axes.yaxis)


def _draw_change(axes: Axes, one: pd.DataFrame) -> None:
    years = one["year"].to_numpy()
    width = 0.8 * min((after - before for before, after in pairwise(years)), default=1)
    for name, sign in (("gain", 1), ("loss", -1)):
        every, sieved = sign * one[f"{name}_ha"], sign * one[f"{name}_sieved_ha"]
        axes.bar(years, every, width, color=_COLOURS[name], alpha=0.45, label=f"{name}, all")
        axes.bar(years, sieved, width, color=_COLOURS[name], label=f"{name}, sieved")
    axes.axhline(0, color=INK, linewidth=0.6)
    axes.set(ylabel="hectares gained, lost")
