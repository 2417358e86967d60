"""Faults are counted by promise, printed as one table, and written where ``--faults-json`` says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.promises import PROMISES, Promises, tally, write_tally
from tests.faults.runs import SMALL, WORLD, Undisturbed, undisturbed_run


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults-json", type=Path, help="where to write injected and held faults of each promise")


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """A run of 64 tile-years that nothing disturbed; not to be changed."""
    return undisturbed_run(WORLD, tmp_path_factory.mktemp("wide"))


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """The same of 4 tile-years, for the fast tests."""
    return undisturbed_run(SMALL, tmp_path_factory.mktemp("small"))


@pytest.fixture
def promise(request: pytest.FixtureRequest) -> Iterator[Promises]:
    """``with promise("R1", "429 at the header"): ...`` counts a fault; the test fails if any was not survived."""
    promises = Promises(request.node)
    yield promises
    if promises.broken:
        pytest.fail("\n".join(promises.broken), pytrace=False)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    seen: set[str] = set()
    reports = []
    for each in (report for some in terminalreporter.stats.values() for report in some):
        # Of a test the last phase knows all that was noted.
        if getattr(each, "when", "") == "teardown" and each.nodeid not in seen:
            seen.add(each.nodeid)
            reports.append(each)
    counts = tally(reports)
    if not counts:
        return
    terminalreporter.section("promises")
    for name, count in counts.items():
        mark = "" if count["held"] == count["injected"] else "  <-- BROKEN"
        terminalreporter.line(f"{name:<4}{count['held']:>5} of {count['injected']:<5}{PROMISES[name]}{mark}")
    path = config.getoption("--faults-json", None)
    if path is not None:
        write_tally(counts, path)
