"""One small world, the map that threads of one process make of it, and the command line as a user calls it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.model import load_model
from engine.places import Place, entries
from engine.simulate import Archive, WorldParams, write_archive
from engine.store import read_marker
from tests.cluster.services import ROOT
from tests.jobs.calls import Job, markers, trees
from tests.object_store import azure_server, bucket, container, s3_server  # noqa: F401

WORLD = WorldParams(
    regions=("Vietnam2", "India"), years=(2016, 2017), size_px=128, scenes_per_year=4, mask_years=(2015, 2018)
)
SECONDS = 280
"""Of one run; some 30 are usual."""


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    return write_archive(WORLD, tmp_path_factory.mktemp("world") / "archive")


@pytest.fixture(scope="session")
def reference(archive: Archive, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The sha256 of all decoded arrays and of the trees of a run on threads of one process."""
    job = Job(tmp_path_factory.mktemp("threads"), archive)
    answer = job.call("run")
    assert answer.code == 0, answer.err
    found = made(job.run)
    assert found == {**markers(job.run), "trees": trees(job.run)}
    assert {name.partition("/")[0] for name in found} == {"cube", "maps", "change", "trees"}
    return found


def made(outputs: Place) -> dict[str, str]:
    """Return the sha256 of every finished store of a run, and of its trees, wherever they are."""
    found = {"trees": load_model(outputs / "model").tree_sha256()}

    def look(place: Place, name: str) -> None:
        for folder in entries(place)[0]:
            below = f"{name}/{folder.name}"
            if folder.name.endswith(".zarr"):
                marker = read_marker(folder)
                assert marker is not None, below
                found[below.replace(".zarr", ".json")] = marker["sha256"]
            else:
                look(folder, below)

    for kind in ("cube", "maps", "change"):
        look(outputs / kind, kind)
    return found


@dataclass
class Deployed:
    """A run on a profile of a ``cluster.yaml`` of its own, by the command line in a process of its own."""

    job: Job
    profile: Mapping[str, Any]
    env: Mapping[str, str]

    def arguments(self, command: str, *more: str | Path) -> list[str]:
        path = self.job.folder / "cluster.yaml"
        path.write_text(yaml.safe_dump({"profiles": {"here": dict(self.profile)}}))
        options = self.job.arguments(command, "--cluster-file", path, *more, cluster="here")
        return [sys.executable, "-P", "-m", "jobs", *options]

    def start(self, command: str, *more: str | Path) -> subprocess.Popen[str]:
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(self.arguments(command, *more), cwd=self.job.folder, env=dict(self.env), **pipes)

    def call(self, command: str, *more: str | Path) -> str:
        """Run a command to its end, which must be a good one; what it printed."""
        with self.start(command, *more) as going:
            try:
                out, err = going.communicate(timeout=SECONDS)
            finally:
                going.kill()
        assert going.returncode == 0, err
        assert "Traceback" not in err, err
        return out


@pytest.fixture
def deployed(archive: Archive, tmp_path: Path) -> Deployed:
    """A run that nobody has started; its profile is to be set."""
    # As an installed package would, every process finds this checkout.
    return Deployed(Job(tmp_path, archive), {"kind": "local", "workers": 2}, {**os.environ, "PYTHONPATH": str(ROOT)})
