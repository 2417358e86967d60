"""The viewer in Debian's Chromium: tiles, stories and points on the same page, and nothing leaves the machine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from shapely.geometry import Polygon

from engine.edits import read_layer
from tests.browser.test_page import changed
from tests.jobs.test_view import viewing

pytest.importorskip("selenium")
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def run(page: Path) -> Path:
    return page.parent


@pytest.fixture(scope="module")
def viewer(run: Path) -> Iterator[str]:
    """Yield the address of a viewer of the run whose page the other tests look at."""
    with viewing(run, run.parents[1] / "archive") as (address, _):
        yield address


@pytest.fixture
def opened(browser: Any, viewer: str) -> Any:
    browser.asked(), browser.complaints()
    browser.open(viewer)
    return browser


def test_layers_are_tiles_and_each_shows_another_picture(opened):
    seen = {}
    for kind in ("composite", "class", "probability", "looks"):
        opened.click(f"#layers input[value={kind}]")
        opened.settle()
        seen[kind] = opened.map_pixels()
    kinds = list(seen)
    for one, other in pairwise(kinds):
        assert changed(seen[one], seen[other]) > 0.02, (one, other)
    sources = opened.run("return [...document.querySelectorAll('#map img.leaflet-tile')].map((one) => one.src)")
    assert sources
    assert all("/tiles/looks-" in source for source in sources)
    opened.slide("#year", 0)
    opened.settle()
    assert changed(seen["looks"], opened.map_pixels()) > 0.02
    assert opened.complaints() == []


def test_a_click_tells_the_story_of_a_pixel(opened):
    opened.get("#map").click()
    opened.until("return document.querySelectorAll('.leaflet-popup-content dt').length > 10")
    text = opened.get(".leaflet-popup-content").text
    for word in ("clear looks", "probability", "2015", "2018", "scenes"):
        assert word in text
    opened.click(".story details.scenes summary")
    opened.until("return document.querySelectorAll('.story details.scenes td').length > 10")
    assert any(word in opened.get(".story details.scenes").text for word in ("clear", "cloud", "cirrus"))
    opened.keep("viewer-story")
    assert opened.complaints() == []


def test_the_story_is_reached_without_a_mouse_and_in_the_reader_s_language(opened):
    opened.slide("#language", "fr")
    opened.run("document.getElementById('map').focus()")
    press(opened, Keys.ENTER)
    opened.until("return document.querySelectorAll('.leaflet-popup-content dt').length > 10")
    said = opened.get(".leaflet-popup-content").text
    assert "probabilité" in said
    assert any(word in said for word in ("autre couverture", "mangrove", "hors de la limite", "non observé"))
    assert not any(word in said for word in ("other", "not observed", "outside the habitat"))
    assert opened.run("return document.activeElement.closest('.leaflet-popup') !== null")
    press(opened, Keys.ESCAPE)
    opened.until("return document.querySelectorAll('.leaflet-popup').length === 0")
    assert opened.run("return document.activeElement.id") == "map"
    opened.slide("#language", "en")
    assert opened.complaints() == []


def test_points_right_and_wrong_are_switched_on(opened):
    opened.slide("#place", str([one["name"] for one in opened.run("return MANGROVES.regions")].index("sim-India")))
    opened.settle()
    before = opened.map_pixels()
    boxes = opened.driver.find_elements("css selector", ".point-layer input")
    assert len(boxes) == 4
    for number in range(4):
        opened.run("document.querySelectorAll('.point-layer input')[arguments[0]].click()", number)
    opened.until("return document.querySelectorAll('#map path.leaflet-interactive').length > 20")
    assert changed(before, opened.map_pixels()) > 0.001
    opened.keep("viewer-points")
    assert opened.complaints() == []


def click_at(opened: Any, *corners: tuple[int, int]) -> None:
    """Click on the map, pixels right and down of its middle."""
    for right, down in corners:
        ActionChains(opened.driver).move_to_element_with_offset(opened.get("#map"), right, down).click().perform()
        time.sleep(0.3)  # or two clicks are a double click


def press(opened: Any, *keys: str) -> None:
    for key in keys:
        ActionChains(opened.driver).send_keys(key).perform()


def test_a_polygon_that_is_drawn_is_saved_and_shown(opened, run):
    opened.run("arguments[0].scrollIntoView()", opened.get("#edits"))
    opened.get("#edits-draw").send_keys(Keys.ENTER)  # as whoever has no mouse begins
    opened.run("window.scrollTo(0, 0)")
    assert not opened.get("#edits-save").is_enabled()
    click_at(opened, (-80, -60), (80, -60), (120, 200), (80, 60))
    press(opened, Keys.BACKSPACE, Keys.BACKSPACE)
    click_at(opened, (80, 60), (-80, 60))
    assert opened.run("return document.querySelectorAll('.leaflet-popup').length") == 0
    press(opened, Keys.ENTER)
    opened.click("#edit-kinds input[value=remove]")
    opened.slide("#edit-from", 2016)
    opened.get("#edit-note").send_keys("a pond <b>")
    opened.click("#edits-save")
    opened.until("return document.getElementById('edits-said').textContent.includes('mangroves edit')")
    opened.until("return document.querySelectorAll('#map path.edit').length === 1")
    layer = read_layer(run)
    assert (run / "edits" / "v0001.gpkg").is_file()
    [one] = layer.polygons.to_dict("records")
    assert (layer.version, one["kind"], one["from_year"], one["note"]) == (1, "remove", 2016, "a pond <b>")
    corners = opened.run(
        "const middle = MANGROVES_MAP.getSize().divideBy(2);"
        "return arguments[0].map(([x, y]) => MANGROVES_MAP.containerPointToLatLng(middle.add([x, y])))"
        ".map((at) => [at.lng, at.lat])",
        [(-80, -60), (80, -60), (80, 60), (-80, 60)],
    )
    asked = Polygon(corners)
    assert one["geometry"].intersection(asked).area > 0.95 * one["geometry"].union(asked).area
    opened.keep("viewer-edits")
    opened.run("window.scrollTo(0, 0)")  # or the middle of what is seen of the map is not that of the map
    click_at(opened, (0, 0))
    opened.until("return document.querySelector('.leaflet-popup-content')?.innerText.includes('a pond <b>')")
    assert opened.complaints() == []


def test_what_was_drawn_before_is_there_and_a_refusal_is_told(opened, run):
    opened.until("return document.querySelectorAll('#map path.edit').length === 1")
    opened.run("document.getElementById('edits-draw').click()")
    press(opened, Keys.SPACE)
    for _ in range(2):  # without a mouse the map goes under its middle
        press(opened, Keys.ARROW_RIGHT if _ else Keys.ARROW_DOWN)
        time.sleep(0.5)
        press(opened, Keys.SPACE)
    press(opened, Keys.ENTER)
    opened.slide("#edit-from", 2018)
    opened.slide("#edit-to", 2016)
    opened.click("#edits-save")
    opened.until("return document.getElementById('edits-said').textContent.includes('is after to_year')")
    opened.slide("#edit-to", 2018)
    opened.click("#edits-save")
    opened.until("return document.querySelectorAll('#map path.edit').length === 2")
    assert read_layer(run).version == 2
    assert [line for line in opened.complaints() if "422" not in line] == []


def test_escape_and_discard_leave_nothing(opened, run):
    before = read_layer(run)
    opened.run("document.getElementById('edits-draw').click()")
    click_at(opened, (-150, -60), (150, -60), (0, 100))
    assert opened.get("#edits-hint").is_displayed()
    press(opened, Keys.ESCAPE)
    assert not opened.get("#edits-hint").is_displayed()
    assert not opened.get("#edits-save").is_enabled()
    opened.run("document.getElementById('edits-draw').click()")
    click_at(opened, (-150, -60), (150, -60))
    middle = ActionChains(opened.driver).move_to_element_with_offset(opened.get("#map"), 0, 100)
    middle.double_click().perform()
    assert opened.get("#edits-save").is_enabled()
    opened.click("#edits-discard")
    assert not opened.get("#edits-save").is_enabled()
    click_at(opened, (-200, 100))
    opened.until("return document.querySelectorAll('.leaflet-popup-content').length === 1")
    assert (before is None and read_layer(run) is None) or read_layer(run).version == before.version
    assert opened.complaints() == []


def test_no_request_leaves_the_viewer(browser, viewer):
    browser.asked()
    browser.open(viewer)
    click_at(browser, (-200, -200))  # beside the polygons, which tell of themselves
    browser.until("return document.querySelectorAll('.leaflet-popup-content dt').length > 10")
    asked = {url for url in browser.asked() if not url.startswith(("data:", "chrome:"))}
    here = urlsplit(viewer)
    assert len(asked) > 6
    assert {(urlsplit(url).scheme, urlsplit(url).netloc) for url in asked} == {(here.scheme, here.netloc)}
    assert browser.complaints() == []


def test_another_page_gets_nothing_of_the_viewer(browser, viewer, page):
    from tests.browser.driver import static_host

    with static_host(page) as origin:
        browser.open(f"{origin}/index.html")
        for path in ("story?lon=88.9&lat=21.9", "data.js", "edits"):
            said = browser.driver.execute_async_script(
                "const [address, done] = arguments;"
                "fetch(address, {mode: 'no-cors'}).then((one) => done(one.type), () => done('refused'))",
                viewer + path,
            )
            assert said == "refused"
    browser.complaints()
