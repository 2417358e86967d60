"""The data of a page, its words in every language, and its files."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.legend import CHANGES, CLASSES, OUTSIDE_AREA
from engine.overview import KINDS
from engine.page import Result, languages, legend, page_files, read_series

FOLDER = Path(__file__).resolve().parents[2] / "engine" / "page"
LANGUAGES = {"en", "es", "fr", "pt", "id", "vi", "bn"}
TABLE = json.loads((FOLDER / "languages.json").read_text(encoding="utf-8"))
SCRIPT = (FOLDER / "page.js").read_text(encoding="utf-8")
HTML = (FOLDER / "page.html").read_text(encoding="utf-8")

EMPTY = {"name": "run", "notice": "", "years": [], "regions": [], "layers": [], "legends": {}, "series": []}


@pytest.mark.parametrize("key", TABLE)
def test_a_key_is_said_in_every_language_with_the_same_places(key):
    row = TABLE[key]
    assert set(row) == LANGUAGES
    assert all(text.strip() for text in row.values())
    assert len({tuple(sorted(re.findall(r"\{\w+\}", text))) for text in row.values()}) == 1


def test_every_word_the_page_asks_for_is_in_the_table():
    asked = set(re.findall(r'data-(?:text|label)="(\w+)"', HTML))
    asked |= set(re.findall(r'\b(?:text|fill)\("([\w.]+)"', SCRIPT))
    asked |= {f"layer.{kind}" for kind in KINDS} | {f"about.{kind}" for kind in KINDS}
    asked |= {key for kind in KINDS for key, _ in legend(kind, [2019, 2020]).get("entries", []) if not key.isdigit()}
    assert asked - set(TABLE) == set()


def test_what_a_pixel_is_asked_first_has_a_name_in_every_language():
    brief = {"year", "class", "class_of_the_year_alone", "probability", "clear_looks", "lost_looks", "reflectance"}
    asked = brief | {"scenes", "tile", "row", "col", "region", "change", "loss_year", "gain_year", "years"}
    assert {f"story.{key}" for key in asked} <= set(TABLE)


def test_the_warning_of_a_simulation_keeps_its_word_in_every_language():
    assert all("SIMULATED" in said for said in TABLE["notice.simulated"].values())


def test_every_code_of_the_legends_has_a_name_and_a_colour():
    for kind, entries in (("class", CLASSES), ("change", CHANGES)):
        codes = [f"{kind}.{entry.code}" for entry in entries if entry.code != OUTSIDE_AREA]
        assert [key for key, _ in legend(kind, [2020])["entries"]] == codes


def luminance(colour: str) -> float:
    """Return the relative luminance of an sRGB colour (WCAG 2.2)."""
    share = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("kind", ["probability", "looks", "uncertainty", "loss_year", "gain_year"])
def test_a_ramp_gets_darker_all_the_way_so_that_it_reads_without_colour(kind):
    of = legend(kind, list(range(2000, 2012)))
    colours = [colour for _, colour in of.get("stops") or of["entries"]]
    levels = [luminance(colour) for colour in colours]
    assert levels == sorted(levels, reverse=True)
    assert levels[0] - levels[-1] > 0.4


@given(text=st.text(max_size=60))
def test_whatever_a_run_says_stays_text(text):
    hostile = f"{text}</script><b onload=x>\u2028&{{{{name}}}}"
    written = page_files({**EMPTY, "name": hostile, "notice": hostile})
    html, script = written["index.html"].decode(), written["data.js"].decode()
    assert "<b" not in re.sub("<(body|blockquote|button)", "", html)
    assert script.isascii()
    assert "<" not in script
    line = script.split("\n", 1)[0].removeprefix("window.MANGROVES = ").removesuffix(";")
    assert json.loads(line)["name"] == hostile


def test_the_page_allows_its_own_folder_only_and_has_no_inline_code():
    [policy] = re.findall(r'Content-Security-Policy" content="([^"]+)"', HTML)
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert "http" not in policy
    assert not re.search(r"\son\w+=|<script>|\sstyle=|https?:", HTML)
    assert "innerHTML" not in SCRIPT
    assert "http" not in SCRIPT.replace("http://www.w3.org/2000/svg", "")


def test_leaflet_comes_with_its_licence_and_from_its_package():
    written = page_files(EMPTY)
    assert set(languages()) == LANGUAGES
    assert written["leaflet/leaflet.js"].startswith(b"/* @preserve\n * Leaflet")
    assert b"BSD 2-Clause" in written["leaflet/LICENSE.txt"]
    assert not list(FOLDER.glob("leaflet*.js"))


@pytest.mark.parametrize("name", ["NA", "None", "null", "nan", "12"])
def test_a_place_of_any_name_has_its_series(tmp_path, name):
    head = "by,where,year,provisional,mangrove_ha,loss_ha,gain_ha,estimated_ha,low_ha,high_ha\n"
    rows = f"total,all,2019,False,5.0,,,,,\nregion,{name},2019,False,5.0,,,,,\nregion,{name},2020,True,4.0,1.0,0.0,,,\n"
    (tmp_path / "series.csv").write_text(head + rows)
    [_, place] = read_series(Result(folder=tmp_path, outputs=tmp_path, record={}, params=None))
    assert place["where"] == name
    assert [row["loss_ha"] for row in place["rows"]] == [None, 1.0]
    assert [row["provisional"] for row in place["rows"]] == [False, True]
