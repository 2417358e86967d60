"""Charts of looks and costs are drawn for every shape their tables have, the same bytes each time."""

from __future__ import annotations

import pandas as pd
import pytest
from PIL import Image

from engine.report_charts import cost_chart, looks_chart


def looks(years):
    names = ["clear_least", "clear_p25", "clear_median", "clear_p75", "clear_most"]
    by_year = pd.DataFrame([(year, 1.0, 2.0, 3.0, 4.0, 5.0) for year in years], columns=["year", *names])
    columns = ["sensors", "clear_from", "clear_to", "tile_years"]
    return pd.DataFrame([("L8", 0, 1, 2), ("$L7$", 3, 4, 1)], columns=columns), by_year


@pytest.mark.parametrize("years", [(2019,), range(1984, 2024)])
def test_looks_are_drawn_of_one_year_and_of_many(tmp_path, years):
    for name in ("a", "b"):
        looks_chart(tmp_path / f"{name}.png", *looks(years), title="t", notice="n")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert Image.open(tmp_path / "a.png").size[0] == 1350


@pytest.mark.parametrize("stages", [0, 1, 12])
def test_cost_is_drawn_with_and_without_stages(tmp_path, stages):
    steps = pd.DataFrame([("search", 0.0), ("cube", 12.5)], columns=["step", "seconds"])
    rows = [("cube", f"s{n}", 1.0 + n) for n in range(stages)]
    cost_chart(tmp_path / "a.png", steps, pd.DataFrame(rows, columns=["step", "stage", "seconds"]), title="t")
    assert (tmp_path / "a.png").stat().st_size > 1000
