"""The page of a small run, as a folder and behind a static host, and the browser that looks at it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.simulate import WorldParams, write_archive
from tests.jobs.calls import Job, mangroves

HERE = Path(__file__).parent
DRIVER = HERE / "driver.py"
MISSING = [path for path in ("/usr/bin/chromium", "/usr/bin/chromedriver") if not Path(path).exists()]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip where there is no browser, and say why."""
    reason = f"needs {' and '.join(MISSING)}; run `make browser-test` as root" if MISSING else ""
    if not reason and importlib.util.find_spec("selenium") is None:
        reason = "needs selenium (the test extra)"
    for item in items:
        if HERE in Path(item.path).parents and reason:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the page's folder of two regions far apart and three years."""
    folder = tmp_path_factory.mktemp("browsed")
    world = WorldParams(
        regions=("Vietnam2", "India"), years=(2015, 2016, 2018), size_px=160, scenes_per_year=5, mask_years=(2015, 2018)
    )
    job = Job(folder, write_archive(world, folder / "archive"))
    job.config["notice"] = world.notice
    answer = job.call("run")
    assert answer.code == 0, answer.err
    answer = mangroves("page", job.run)
    assert answer.code == 0, answer.err
    return job.run / "page"


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    from tests.browser.driver import browsing

    with browsing(tmp_path_factory.mktemp("browser")) as driven:
        yield driven


@pytest.fixture(scope="session", params=["file", "host"])
def address(request: pytest.FixtureRequest, page: Path) -> Iterator[str]:
    """Yield where the page is: opened from the folder, and from a static host on loopback."""
    from tests.browser.driver import static_host

    if request.param == "file":
        yield f"{page.as_uri()}/index.html"
    else:
        with static_host(page) as origin:
            yield f"{origin}/index.html"
