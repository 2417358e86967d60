"""The frame of every chart."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.image import imread

from engine.charts import chart, say_cut


def draw(path, notice):
    with chart(path, title="densities of $region", notice=notice, size=(3, 2), cols=2) as axes:
        assert axes.shape == (1, 2)
        axes[0, 0].plot([0, 1], [0, 1])


def test_the_same_chart_gives_the_same_bytes_and_shows_its_notice(tmp_path):
    for name, notice in (("a", "SIMULATED"), ("b", "SIMULATED"), ("c", "")):
        draw(tmp_path / f"{name}.png", notice)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert imread(tmp_path / "a.png").shape == (300, 450, 4)
    assert not np.array_equal(imread(tmp_path / "a.png"), imread(tmp_path / "c.png"))


def test_a_chart_that_fails_leaves_no_file(tmp_path):
    try:
        with chart(tmp_path / "a.png", title="t"):
            raise KeyError
    except KeyError:
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("limits", "said"), [((0.8, 1), "begins at 0.8"), ((0, 1), ""), ((-1, 1), "")])
def test_an_axis_that_does_not_show_zero_says_where_it_begins(tmp_path, limits, said):
    with chart(tmp_path / "a.png", title="t", size=(3, 2)) as axes:
        axes[0, 0].set(xlim=limits)
        say_cut(axes[0, 0].xaxis)
        label = axes[0, 0].get_xlabel()
    assert (said in label) if said else label == ""
