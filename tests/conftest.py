"""Fixtures every test may use."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
from hypothesis import settings

from tests.object_store import azure_server, bucket, container, place, s3_server  # noqa: F401 fixtures

# Before OpenMP is loaded: on a busy machine two threads that spin for each other take minutes for what one does in 2 s.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

settings.register_profile("tests", deadline=None)  # how long an example takes is a matter of the machine
settings.load_profile("tests")

WHOLE_RUNS = {"finished", "small_run"}
"""Fixtures that map a small world, which takes some 8 s in each process that runs tests."""

SHARED_DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow every test of a whole run."""
    for item in items:
        if WHOLE_RUNS.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish() -> None:
    """Leave what imports made, some million objects, out of every later collection of garbage."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real items, rasters and masks beside the checkout; the test is skipped where they are absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("needs the real data at ../shared/data, which is not here")
    return SHARED_DATA
