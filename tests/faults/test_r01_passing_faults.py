"""Runs whose storage and signer have passing faults make what an undisturbed run makes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from engine.simulate import WorldParams, read_archive, write_archive
from tests.faults.fault_server import FAULTS, FaultServer, move_items, storage
from tests.faults.promises import Promises
from tests.jobs.calls import Job, markers

WORLD = WorldParams(regions=("Vietnam2",), years=(2016,), size_px=96, scenes_per_year=3, mask_years=(2015, 2018))
SEEDS = (1, 2, 3)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_archive(WORLD, tmp_path_factory.mktemp("world") / "archive").items.parent


@pytest.fixture(scope="module")
def undisturbed(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the hashes of the cube that is read from files."""
    job = Job(tmp_path_factory.mktemp("undisturbed"), read_archive(archive))
    answer = job.call("cube")
    assert answer.code == 0, answer.err
    assert markers(job.run)
    return markers(job.run)


def cube_by(server: FaultServer, folder: Path, archive: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Return the hashes of the cube that is read from a server."""
    shutil.copytree(archive, folder / "archive")
    job = Job(folder, read_archive(folder / "archive"))
    move_items(job.archive.items, server)
    with storage(server, monkeypatch):
        answer = job.call("cube", "--allow-host", server.blobs, "--allow-host", server.host)
    assert answer.code == 0, answer.err
    assert not server.fault or server.injected, "nothing was injected"
    return markers(job.run)


@pytest.mark.parametrize("fault", ["503", "expiry"])
def test_a_run_with_passing_faults_is_identical(
    fault: str, archive: Path, undisturbed: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cube_by(FaultServer(archive, fault, seed=0), tmp_path, archive, monkeypatch) == undisturbed


@pytest.mark.faults
@pytest.mark.parametrize("fault", FAULTS)
def test_runs_with_passing_faults_are_identical(
    fault: str,
    archive: Path,
    undisturbed: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    promise: Promises,
) -> None:
    for seed in SEEDS:
        with promise("R1", f"{fault}, seed {seed}"):
            (tmp_path / str(seed)).mkdir()
            server = FaultServer(archive, fault, seed)
            assert cube_by(server, tmp_path / str(seed), archive, monkeypatch) == undisturbed
