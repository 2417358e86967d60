"""Change in simulated worlds, small: what is counted by hand, and what the command writes."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest

from benchmarks import change_runs
from benchmarks.__main__ import main
from benchmarks.change import show
from benchmarks.change_figures import MEANS, _carried, _changes, _match, describe, figures_of
from benchmarks.change_runs import GROUPS, WORLDS, Setting
from benchmarks.targets import CHANGE_TARGETS
from engine.legend import MANGROVE, NOT_OBSERVED, OTHER

ASKED = """
    annual_f1 loss_f1 loss_precision gain_f1 gain_precision recall_clearfell recall_erosion recall_dieback recall_gain
    within_one_year false_loss_pct false_gain_pct extent_error_pct coverage_extent coverage_loss loss_halfwidth_pct
"""


def test_a_change_is_right_within_a_year_where_both_patches_are_large():
    told, true, stable = (np.zeros((6, 8), int) for _ in range(3))
    true[0], told[0] = 2010, 2011
    told[0, 7] = 2012  # two years off
    told[2] = 2010  # of which two pixels are stable, the others changed otherwise
    stable[2, :2] = 1
    true[4, :5] = 2010  # of five pixels, as is what is told of it
    told[4, :5] = 2010
    found = _match("loss", told, true, stable > 0)
    assert found == {"loss_told": 16, "loss_true": 8, "loss_right": 7, "loss_met": 8, "loss_false": 2}


def test_changes_are_dated_by_the_first_year_after():
    years = np.array([2010, 2012, 2013])
    mangrove = np.array([[[1, 1, 0, 1]], [[1, 0, 0, 0]], [[0, 0, 1, 1]]], bool)
    found = _changes(mangrove, years)
    assert found["loss"].tolist() == [[2013, 2012, 0, 2012]]
    assert found["gain"].tolist() == [[0, 0, 2013, 2013]]
    classes = np.array([[[MANGROVE]], [[NOT_OBSERVED]], [[OTHER]]])
    assert _carried(classes).ravel().tolist() == [True, True, False]


def counts(**more):
    one = {f"{change}_{name}": 8 for change in ("loss", "gain") for name in ("told", "true", "right", "met")}
    one |= {f"{which}_{name}": value for which in ("naive", "unsieved") for name, value in one.items()}
    one |= {f"{name}_{kind}": 10 for name in ("clearfell", "erosion", "dieback", "gain") for kind in ("events", "hit")}
    one |= dict.fromkeys(("loss_false", "gain_false", "unsieved_loss_false", "unsieved_gain_false"), 1) | {
        "stable_years": 1000
    }
    one |= dict.fromkeys(MEANS, 0.9) | {"coverage_loss": 0.95, "assessed": 1, "loss_halfwidth_pct": 20.0}
    return {**one, **more}


def test_figures_of_worlds_are_ratios_of_all_their_pixels():
    table = pd.DataFrame([counts(), counts(loss_told=32, loss_right=12, loss_true=24, annual_f1=0.8)])
    found = figures_of(table)
    assert found["loss_precision"] == 20 / 40
    assert found["loss_recall"] == 20 / 32
    assert found["loss_f1"] == pytest.approx(2 * 20 / (40 + 32))
    assert found["within_one_year"] == (20 + 16) / 32
    assert found["false_loss_pct"] == pytest.approx(0.1)
    assert found["annual_f1"] == pytest.approx(0.85)
    spread = describe(table, [["high", "crossing"], ["low"]])
    assert (spread["annual_f1_least"], spread["annual_f1_most"]) == (0.8, 0.9)
    assert spread["annual_f1_high"] == 0.9
    assert spread["worlds_low"] == 1
    assert "annual_f1_long" not in spread


def test_half_of_the_worlds_change_fast_and_half_span_the_sensors():
    groups = [list(kind.groups) for kind in WORLDS]
    assert sum("high" in names for names in groups) == sum("crossing" in names for names in groups) == 3
    assert {name for names in groups for name in names} == set(GROUPS)


@pytest.mark.timeout(1200)
@pytest.mark.long
def test_the_command_writes_flat_figures_of_all_that_is_asked(tmp_path, monkeypatch):
    small = {"size_px": 96, "scenes": 4}
    monkeypatch.setattr(change_runs, "Setting", lambda **asked: Setting(**asked, **small))
    monkeypatch.setattr(change_runs, "TRAINED", (2010, 2018))
    monkeypatch.setattr(change_runs, "QUIET", range(2012, 2015))
    regions = change_runs._regions
    monkeypatch.setattr(change_runs, "_regions", lambda seed: regions(seed)[: len(WORLDS) + 3])
    short = [change_runs.Kind(kind.rate, kind.years[:4]) for kind in WORLDS]
    monkeypatch.setattr(change_runs, "WORLDS", tuple(short))
    path = tmp_path / "change.json"
    assert main(["change", "--json", str(path), "--worlds", "1", "--seed", "3", "--folder", str(tmp_path / "w")]) == 0
    found = json.loads(path.read_text())
    assert set(ASKED.split()) <= found.keys()
    assert all(isinstance(value, str | int | float) for value in found.values())
    assert found["simulated"].startswith("SIMULATED")
    assert 0.5 < found["annual_f1"] <= 1
    assert math.isfinite(found["quiet_jump_pct"])
    lines = list(show(found))
    assert len(lines) == 2 + len(CHANGE_TARGETS)
    assert all("asked" in lines[1] and (" reached" in line or "MISSED" in line) for line in lines[2:])
