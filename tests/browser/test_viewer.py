"""The viewer in Debian's Chromium: tiles, stories and points on the same page, and nothing leaves the machine."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.browser.test_page import changed
from tests.jobs.test_view import viewing

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def viewer(page: Path) -> Iterator[str]:
    """Yield the address of a viewer of the run whose page the other tests look at."""
    run = page.parent
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
    opened.keep("viewer-story")
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


def test_no_request_leaves_the_viewer(browser, viewer):
    browser.asked()
    browser.open(viewer)
    browser.get("#map").click()
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
        for path in ("story?lon=88.9&lat=21.9", "data.js"):
            said = browser.driver.execute_async_script(
                "const [address, done] = arguments;"
                "fetch(address, {mode: 'no-cors'}).then((one) => done(one.type), () => done('refused'))",
                viewer + path,
            )
            assert said == "refused"
    browser.complaints()
