"""A tiny simulated archive, and runs over it."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import pytest

from engine.simulate import Archive, WorldParams, read_archive, write_archive
from tests.jobs.calls import Job

WORLD = WorldParams(
    regions=("Vietnam2", "India"), years=(2016, 2017), size_px=128, scenes_per_year=4, mask_years=(2015, 2018)
)


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """A world of two regions and two years, 128 x 128 px each; not to be changed."""
    return write_archive(WORLD, tmp_path_factory.mktemp("world") / "archive")


@pytest.fixture
def job(archive: Archive, tmp_path: Path) -> Job:
    """A run over the shared archive that nobody has started."""
    return Job(tmp_path, archive)


@pytest.fixture
def own_job(archive: Archive, tmp_path: Path) -> Job:
    """A run over a copy of the archive, to be damaged."""
    shutil.copytree(archive.items.parent, tmp_path / "archive")
    return Job(tmp_path, read_archive(tmp_path / "archive"))


@pytest.fixture(scope="session")
def finished(archive: Archive, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A run that went through undisturbed; not to be changed."""
    job = Job(tmp_path_factory.mktemp("finished"), archive)
    answer = job.call("run")
    assert answer.code == 0, answer.err
    return job


@pytest.fixture
def finished_copy(finished: Job, tmp_path: Path) -> Job:
    """A copy of the undisturbed run, to be damaged and run again."""
    shutil.copytree(finished.folder, tmp_path / "copy")
    return Job(tmp_path / "copy", finished.archive, copy.deepcopy(finished.config))
