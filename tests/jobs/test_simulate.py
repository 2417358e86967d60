"""A world from a file, from overrides and from flags."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import rasterio

from engine.model import load_model
from engine.simulate import WorldParams, read_archive
from jobs.simulate import read_world
from tests.jobs.calls import mangroves

TINY = """
regions: [Cuba1]
years: 2016
size_px: 64
scenes_per_year: 3
mask_years: [2015]
"""


def test_flags_and_overrides_go_before_the_file(tmp_path):
    (tmp_path / "world.yaml").write_text(TINY)
    more = ("--scenes-per-year", "1", "--set", "seed=7", "--set", "compression=deflate", "--cluster", "threads")
    answer = mangroves("simulate", tmp_path / "world", "--config", tmp_path / "world.yaml", *more, "--json")
    assert list(json.loads(answer.out)["masks"]) == ["2015"]
    assert read_archive(tmp_path / "world").params == WorldParams(
        ("Cuba1",), (2016,), size_px=64, scenes_per_year=1, seed=7, mask_years=(2015,), compression="deflate"
    )


def test_without_a_file_the_defaults_are_those_of_the_help():
    assert read_world(None, (), {}) == WorldParams(("Vietnam2", "India"), (2016,), scenes_per_year=None)
    asked = read_world(None, ("overlap=1.5",), {"regions": "Cuba1, India", "years": "2012,2016-2018"})
    assert asked == WorldParams(("Cuba1", "India"), (2012, 2016, 2017, 2018), scenes_per_year=None, overlap=1.5)


def test_every_key_is_in_the_help():
    answer = mangroves("simulate", "--help")
    assert not [key for key in WorldParams.__dataclass_fields__ if f"  {key}: " not in answer.out]


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("region: [Cuba1]", [], "world.yaml: unknown key 'region'; did you mean 'regions'?"),
        ("zzz: 1", [], "world.yaml: unknown key 'zzz'; known keys are regions, years, size_px"),
        ("size_px: 10", [], "world.yaml: size_px must be 64 to 2048 pixels, one tile, got 10"),
        ("size_px: big", [], "world.yaml: size_px: "),
        ("seed: -1", [], "world.yaml: seed: Input should be greater than or equal to 0, got '-1'"),
        ("overlap: .nan", [], "world.yaml: overlap: "),
        ("years: 1988-99999999999", [], "'1988-99999999999' is not a year or first-last"),
        ("years: []", [], "years must lie in 1984-2030, got ()"),
        ("years: [soon]", [], "world.yaml: years.0: "),
        ("setting: desert", [], "'coastal' or 'mainland', got 'desert'"),
        ("- a", [], "world.yaml is not a mapping"),
        ("seed: 1", ["--set", "sead=2"], "unknown key 'sead'; did you mean 'seed'?"),
        ("seed: 1", ["--regions", "Atlantis"], "Atlantis"),
        ("seed: 1", ["--seed", "-1"], "seed: Input should be greater than or equal to 0"),
    ],
)
def test_a_wrong_key_or_value_is_named(tmp_path, text, options, expected):
    (tmp_path / "world.yaml").write_text(text)
    answer = mangroves("simulate", tmp_path / "world", "--config", tmp_path / "world.yaml", *options)
    assert expected in answer.error
    assert not (tmp_path / "world").exists()


def test_a_run_of_simulated_scenes_says_so_on_every_output_though_its_configuration_does_not(finished):
    notice = finished.archive.params.notice
    assert "notice" not in finished.config
    assert finished.record["notice"] == notice
    for path in (*finished.run.glob("maps/*/*.tif"), *finished.run.glob("change/*/*.tif")):
        with rasterio.open(path) as file:
            assert file.tags()["notice"] == notice, path
    for name in ("areas", "change", "transitions", "history", "series"):
        assert set(pd.read_csv(finished.run / f"{name}.csv")["notice"]) == {notice}, name
    assert load_model(finished.run / "model").metrics["notice"] == notice
    items = [json.loads(path.read_text()) for path in finished.run.glob("stac/*/*.json")]
    told = [item["properties"].get("mangroves:notice") for item in items if item["type"] == "Feature"]
    assert told
    assert set(told) == {notice}


def test_page_and_report_of_simulated_scenes_say_so_too(finished_copy):
    notice = finished_copy.archive.params.notice
    for command, written in (("page", "page/index.html"), ("report", "report.html")):
        answer = mangroves(command, finished_copy.run)
        assert answer.code == 0, answer.err
        assert notice in (finished_copy.run / written).read_text(encoding="utf-8"), command


def test_the_configuration_beside_an_archive_maps_it_and_is_written_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "world.yaml").write_text(TINY)
    make = ("simulate", "world", "--config", "world.yaml", "--cluster", "threads", "--json")
    config = Path(json.loads(mangroves(*make).out)["config"])
    answer = mangroves("search", config, "--cluster", "threads")
    assert answer.code == 0, answer.err
    record = json.loads((tmp_path / "world" / "run" / "run.json").read_text(encoding="utf-8"))
    assert record["notice"].startswith("SIMULATED")
    assert record["config"]["notice"] == ""
    config.write_text("years: [2016]")
    assert mangroves(*make).code == 0
    assert config.read_text() == "years: [2016]"
