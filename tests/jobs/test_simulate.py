"""A world from a file, from overrides and from flags."""

from __future__ import annotations

import json

import pytest

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
