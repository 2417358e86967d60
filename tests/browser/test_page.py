"""The result folder in Debian's Chromium: what a reader does, what is seen, and that nothing leaves the machine."""

from __future__ import annotations

import json
import re
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from engine.page import languages

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]  # the first one makes the run


def changed(before: np.ndarray, after: np.ndarray, columns: slice = slice(None)) -> float:
    """Return the share of pixels that differ."""
    return float((before[:, columns] != after[:, columns]).any(axis=-1).mean())


@pytest.fixture
def opened(browser: Any, address: str) -> Any:
    browser.asked(), browser.complaints()
    browser.open(address)
    return browser


def test_every_layer_shows_another_picture(opened):
    seen = {}
    for kind in opened.run("return [...document.querySelectorAll('#layers input')].map((one) => one.value)"):
        opened.click(f"#layers input[value={kind}]")
        if kind not in ("loss_year", "gain_year"):  # perhaps empty in so small a world
            opened.settle()
        assert opened.get("#legend h2").text
        seen[kind] = opened.map_pixels()
    assert list(seen)[:5] == ["composite", "class", "probability", "looks", "uncertainty"]
    kinds = [kind for kind in seen if kind not in ("loss_year", "gain_year")]
    for one, other in pairwise(kinds):
        assert changed(seen[one], seen[other]) > 0.02, (one, other)
    assert opened.complaints() == []


def test_the_slider_changes_pixels_by_hand_and_by_keyboard(opened):
    opened.click("#layers input[value=composite]")
    opened.settle()
    last = opened.map_pixels()
    opened.get("#year").send_keys("\ue012")  # left arrow
    opened.settle()
    years = opened.run("return MANGROVES.years.map(String)")
    assert opened.get("#left-year").text == years[1]
    middle = opened.map_pixels()
    opened.slide("#year", 0)
    opened.settle()
    assert opened.get("#left-year").text == years[0]
    assert changed(last, middle) > 0.02
    assert changed(middle, opened.map_pixels()) > 0.02


def test_the_swipe_shows_two_years_side_by_side(opened):
    opened.click("#layers input[value=composite]")
    opened.slide("#year", 0)
    opened.settle()
    first = opened.map_pixels()
    opened.slide("#year", 2)
    opened.settle()
    last = opened.map_pixels()
    opened.slide("#year", 0)
    opened.click("#compare")
    opened.settle()
    both = opened.map_pixels()
    width = both.shape[1]
    left, right = slice(80, width // 2 - 40), slice(width // 2 + 40, width - 120)
    below = slice(60, -60)  # without the chips and the coordinates
    assert changed(first[below], both[below], left) < 0.002
    assert changed(last[below], both[below], right) < 0.002
    assert changed(first[below], both[below], right) > 0.02
    for _ in range(5):
        opened.get("#swipe").send_keys("\ue012")
    assert opened.get("#swipe").get_attribute("aria-valuenow") == "40"
    assert changed(both[below], opened.map_pixels()[below], slice(int(width * 0.43), int(width * 0.49))) > 0.02
    opened.keep(f"swipe-{'file' if 'file:' in opened.driver.current_url else 'host'}")


def test_opacity_makes_the_map_paler(opened):
    before = opened.map_pixels()
    opened.slide("#opacity", 30)
    assert changed(before, opened.map_pixels()) > 0.1


def test_a_patch_of_the_list_flies_the_map_there_and_the_list_sorts(opened):
    areas = "return [...document.querySelectorAll('#patch-list tbody tr')].map((row) => row.children[4].textContent)"
    largest = [float(text.replace(",", "")) for text in opened.run(areas)]
    assert largest == sorted(largest, reverse=True)
    opened.click("#patch-list [data-sort=area_ha]")
    assert [float(text.replace(",", "")) for text in opened.run(areas)] == sorted(largest)
    before = opened.centre()
    opened.click("#patch-list tbody tr:first-child button")
    opened.until("const at = MANGROVES_MAP.getCenter(); return at.lat !== arguments[0]", before[0])
    lat, lon = opened.centre()
    data = opened.run("return MANGROVES.patches.shown")
    boxes = [one["box"] for one in data if round(one["area_ha"], 1) == min(largest)]
    assert any(s - 0.01 <= lat <= n + 0.01 and w - 0.01 <= lon <= e + 0.01 for (s, w), (n, e) in boxes)


def test_one_map_holds_regions_far_apart_and_the_list_flies_there(opened):
    names = opened.run("return [...document.querySelectorAll('#place option')].map((one) => one.textContent)")
    assert {"sim-India", "sim-Vietnam2"} <= set(names)
    seen = []
    for index in [names.index(name) - 1 for name in ("sim-India", "sim-Vietnam2")]:
        opened.slide("#place", str(index))
        opened.settle()
        seen.append(opened.centre())
    assert abs(seen[0][1] - seen[1][1]) > 5
    opened.slide("#place", "")
    opened.until("return document.querySelectorAll('#map path.leaflet-interactive').length >= 2")


def test_a_click_says_where_it_was(opened):
    opened.get("#map").click()
    opened.until(r"return /\d\.\d{5}° N/.test(document.querySelector('.leaflet-popup-content')?.innerText)")


def test_every_language_says_everything(opened):
    for code, words in languages().items():
        opened.slide("#language", code)
        assert opened.run("return document.documentElement.lang") == code
        assert opened.get("#area h2").text == words["area"]
        shown = opened.run("return document.body.innerText")
        said = re.sub(r"\S+\.(?:csv|json|tif|qml|parquet|gpkg|md)\b", "", shown)  # without names of files
        assert not re.search(r"\b(?:layer|about|column|class|change|file|points)\.[a-z_0-9]+", said)
    assert opened.complaints() == []


def test_the_warning_stays_in_sight(opened):
    opened.run("window.scrollTo(0, document.body.scrollHeight)")
    top = opened.run("return document.getElementById('notice').getBoundingClientRect().top")
    assert "SIMULATED" in opened.get("#notice").text
    assert top == pytest.approx(0, abs=1)


def test_everything_is_reached_by_the_tab_key(opened):
    opened.run("window.scrollTo(0, 0); document.activeElement.blur()")
    reached = []
    for _ in range(30):
        opened.driver.switch_to.active_element.send_keys("\ue004")
        told = opened.run(
            "const one = document.activeElement, style = getComputedStyle(one);"
            "return [one.id || one.className || one.tagName, style.outlineStyle !== 'none']"
        )
        reached.append(told)
    names = [name for name, _ in reached]
    order = [
        names.index(name) for name in ("skip", "language", "map", "place", "year", "compare", "opacity", "outlines")
    ]
    assert order == sorted(order)
    assert all(visible for name, visible in reached if name in ("language", "place", "year", "opacity"))


def test_a_phone_scrolls_down_and_never_sideways(browser, address):
    browser.complaints()
    browser.open(address, 390, 844)
    for code in languages():
        browser.slide("#language", code)
        wide, inner = browser.run("return [document.documentElement.scrollWidth, window.innerWidth]")
        assert wide <= inner, code
    browser.slide("#language", "en")
    browser.keep(f"phone-{'file' if address.startswith('file:') else 'host'}")
    assert browser.complaints() == []


def test_no_request_leaves_the_machine(browser, address):
    browser.asked()
    browser.open(address)
    patch = "#patch-list tbody tr:first-child button"
    for selector in ("#layers input[value=composite]", "#compare", "#outlines", patch):
        browser.click(selector)
    browser.settle()
    asked = {url for url in browser.asked() if not url.startswith(("data:", "chrome:"))}
    here = urlsplit(address)
    assert len(asked) > 6
    assert {(urlsplit(url).scheme, urlsplit(url).netloc) for url in asked} == {(here.scheme, here.netloc)}
    browser.keep(f"patches-{here.scheme}")
    assert browser.complaints() == []


def test_what_a_run_says_is_never_markup(browser, page, tmp_path):
    evil = "<img src=x onerror=\"document.title='owned'\"></script><script>document.title='owned'</script>"
    folder = tmp_path / "page"
    shutil.copytree(page, folder)
    script = (folder / "data.js").read_text(encoding="utf-8")
    first, rest = script.split("\n", 1)
    data = json.loads(first.removeprefix("window.MANGROVES = ").removesuffix(";"))

    def spoil(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: spoil(one, name) for name, one in value.items()}
        if isinstance(value, list):
            return [spoil(one, key) for one in value]
        safe = key in ("url", "kind", "direction", "legends", "stops", "entries", "by", "created", "first", "last")
        return value if safe or not isinstance(value, str) else value + evil

    data = {**spoil(data), "legends": data["legends"], "layers": data["layers"]}
    (folder / "data.js").write_text(f"window.MANGROVES = {json.dumps(data)};\n{rest}", encoding="utf-8")
    browser.open(f"{folder.as_uri()}/index.html")
    browser.slide("#place", "")
    browser.until("return document.querySelectorAll('#map path.leaflet-interactive').length >= 2")
    browser.run(
        "for (const one of document.querySelectorAll('#map path.leaflet-interactive'))"
        " one.dispatchEvent(new MouseEvent('mouseover', {bubbles: true}))"
    )
    assert "owned" not in browser.driver.title
    assert browser.run("return document.querySelectorAll('img[src=x], body script:not([src])').length") == 0
    assert browser.run("return document.body.innerText.includes('<img src=x')")
    assert browser.complaints() == []


def test_artefacts_are_kept_out_of_the_repository():
    root = Path(__file__).resolve().parents[2]
    assert "tests/browser/artefacts/" in (root / ".gitignore").read_text(encoding="utf-8").split()
