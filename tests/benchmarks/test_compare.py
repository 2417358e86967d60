"""Every comparison works at the tiny scale and all sides give the same values; no timing is asserted."""

from __future__ import annotations

import json

import pytest

from benchmarks.__main__ import main
from benchmarks.compare import COMPARISONS
from benchmarks.targets import TARGETS, is_met


@pytest.mark.timeout(1200)
@pytest.mark.long
def test_all_comparisons_of_the_tiny_scale(tmp_path, capsys):
    path = tmp_path / "bench.json"
    assert main(["compare", "--scale", "tiny", "--json", str(path)]) == 0
    found = json.loads(path.read_text())
    assert all(isinstance(found[figure], float) and found[figure] > 0 for figure in TARGETS)
    assert found["tasks_16x"] == 16
    assert found["runs"].keys() == COMPARISONS.keys()
    assert found["wrong_values"] == []
    assert found["simulated"].startswith("SIMULATED")
    assert all("(simulated)" in run["what"] or "without work" in run["what"] for run in found["runs"].values())
    said = capsys.readouterr().out
    assert all(figure in said for figure in TARGETS)


@pytest.mark.slow
def test_one_comparison_alone_writes_its_figures_alone(tmp_path):
    path = tmp_path / "bench.json"
    assert main(["compare", "--scale", "tiny", "--json", str(path), "--only", "geomedian", "--runs", "2"]) == 0
    found = json.loads(path.read_text())
    assert found.keys() & TARGETS.keys() == {"geomedian_vs_geomad"}
    assert len(found["runs"]["geomedian"]["rounds"]["geomedian_vs_geomad"]) == 2
    assert found["targets"]["geomedian_vs_geomad"] == ">= 4"


@pytest.mark.slow
def test_wrong_values_fail_the_comparison(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.composites.TOLERANCE_DN", -1.0)
    assert main(["compare", "--scale", "tiny", "--only", "geomedian"]) == 1


def test_targets_are_met_from_their_own_side():
    assert is_met("tasks_16x", 16)
    assert not is_met("tasks_16x", 15)
    assert is_met("memory_16x", 1.1)
    assert not is_met("memory_16x", 1.2)
    assert is_met("composite_vs_stackstac", 8)
    assert not is_met("composite_vs_stackstac", 7.9)
