"""A cluster of threads in this process, and runs on it from configurations written as a user would."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from distributed import Client

from engine.cluster import open_cluster
from engine.simulate import Archive
from engine.trust import Trust
from jobs.config import parse_config
from jobs.context import Run, begin_run, place_run
from jobs.reporter import Reporter

Opener = Callable[..., AbstractContextManager[Run]]


@pytest.fixture(scope="module")  # no longer: others close their loops
def client() -> Iterator[Client]:
    with open_cluster("threads") as client:
        yield client


@pytest.fixture
def open_run(client: Client, tmp_path: Path) -> Opener:
    """``open_run({...}, root, ...)``: the run of a configuration that may read below these folders."""

    def opened(config: dict[str, Any], *roots: Path) -> AbstractContextManager[Run]:
        params = parse_config({"out": str(tmp_path), **config}, source="test")
        trust = Trust().with_roots(tmp_path, *roots)
        return begin_run(place_run(params, trust), client, Reporter(as_json=True), fresh=False)

    return opened


def simulated_config(archive: Archive, **sections: Any) -> dict[str, Any]:
    """Return the configuration a user would write for a simulated archive; quick to train."""
    return {
        "area": {"file": str(archive.regions), "name_field": "name"},
        "years": list(archive.params.years),
        "search": {"catalogs": [str(archive.items)]},
        "labels": {"masks": [{"path": str(path), "year": year} for year, path in archive.masks.items()]},
        "sample": {"mangrove": 400, "other": 400},
        "train": {"rounds": 20, "hold_out": ["sim-India"]},
        "notice": archive.params.notice,
        **sections,
    }
