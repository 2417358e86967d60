"""The charts of change."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.image import imread

from engine import change_charts
from engine.area_series import series_table


def test_the_chart_shows_the_whole_and_the_largest_places_and_its_notice(tmp_path, monkeypatch):
    monkeypatch.setattr(change_charts, "CHARTED", 2)
    places = [("region", f"r{number}") for number in range(4)]
    rows = [(by, where, year, "mangrove", 1, 50.0 + int(where[1:])) for by, where in places for year in (2000, 2003)]
    counted = pd.DataFrame(rows, columns=["by", "where", "year", "counted", "pixels", "hectares"])
    table = series_table(counted, [2000, 2003], places, recovery_years=1)
    for name, notice in (("a", "SIMULATED"), ("b", "")):
        change_charts.series_chart(tmp_path / f"{name}.png", table, notice=notice)
    shown, silent = (imread(tmp_path / f"{name}.png") for name in "ab")
    assert shown.shape[0] == round(150 * (0.8 + 1.9 * 2))
    assert not np.array_equal(shown, silent)
