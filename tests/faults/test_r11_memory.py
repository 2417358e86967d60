"""No worker holds more than `mangroves plan` says, however large the area."""

from __future__ import annotations

import copy
import json
import shutil
import time
from pathlib import Path

import pytest

from engine.simulate import Archive, WorldParams, write_archive
from tests.faults.promises import Promises
from tests.faults.runs import started, worker_pids
from tests.jobs.calls import Job

REGIONS = ("Vietnam2", "India", "Nigeria1", "Cuba1", "Colombia", "Madagascar", "Myanmar1", "Guinea-Bissau")
YEARS = (2016, 2017)
SIZE_PX = 768
GROWTH = 1.10
TIMES = 3
"""A small area is measured, as its peak alone differs by up to a tenth from one time to the next: the largest counts,
as over a large area the largest of many tasks does."""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """Eight regions of two years; sixteen times the tile-years of one region and year."""
    world = WorldParams(regions=REGIONS, years=YEARS, size_px=SIZE_PX, scenes_per_year=3, mask_years=(2015, 2018))
    return write_archive(world, tmp_path_factory.mktemp("large") / "archive")


def peak_bytes(pid: int) -> int:
    """Return the most resident memory that a process ever had; 0 once it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0)


def measure(job: Job, command: str) -> tuple[int, int]:
    """Run a command; return the highest memory of its workers and of its own process, bytes."""
    worker, client = 0, 0
    with started(job, command) as going:
        while going.exitcode is None:
            client = max(client, peak_bytes(going.pid or 0))
            worker = max([worker, *map(peak_bytes, worker_pids(going))])
            time.sleep(0.1)
    assert going.exitcode == 0, (job.folder / "stderr.txt").read_text()[-400:]
    return worker, client


def of_area(archive: Archive, folder: Path, regions: int, years: tuple[int, ...]) -> Job:
    """Return a run over some regions of an archive in some years."""
    folder.mkdir()
    area = json.loads(archive.regions.read_text())
    area["features"] = area["features"][:regions]
    (archive.folder / f"area_{regions}.geojson").write_text(json.dumps(area))
    job = Job(folder, archive)
    job.config["area"]["file"] = str(archive.folder / f"area_{regions}.geojson")
    job.config["years"] = list(years)
    job.config["labels"] = {"masks": job.config["labels"]["masks"], "stable_between": sorted(archive.masks)}
    job.config["sample"] = {"mangrove": 60, "other": 120}
    job.config["train"] = {"rounds": 4, "max_depth": 2, "folds": 2, "features": "composite", "hold_out": []}
    return job


def copy_of(job: Job, folder: Path) -> Job:
    """Return a copy of a run as far as it is."""
    folder.mkdir()
    if job.run.exists():
        shutil.copytree(job.run, folder / "runs" / job.run.name)
    return Job(folder, job.archive, copy.deepcopy(job.config))


def bound_of(job: Job) -> int:
    """Return the memory of one task that `mangroves plan` states, bytes."""
    answer = job.call("plan", "--json")
    assert answer.code == 0, answer.err
    return int(json.loads(answer.out)["task_memory_gb_bound"] * 1e9)


@pytest.mark.faults
@pytest.mark.timeout(1200)
def test_memory_is_as_declared_and_does_not_grow_with_the_area(
    large: Archive, tmp_path: Path, promise: Promises
) -> None:
    one, many = of_area(large, tmp_path / "one", 1, YEARS), of_area(large, tmp_path / "many", len(REGIONS), YEARS)
    small = of_area(large, tmp_path / "cube", 1, YEARS[:1])
    bound = bound_of(many)
    for command in ("cube", "classify", "change"):
        base = small if command == "cube" else one  # a model and a history need both years
        again = [copy_of(base, tmp_path / f"{command}-{number}") for number in range(1, TIMES)]
        ones = [measure(job, command) for job in (*again, base)]  # the last of them is gone on with
        worker_one, client_one = (max(values) for values in zip(*ones, strict=True))
        worker_many, client_many = measure(many, command)
        print(
            f"{command}: worker {worker_one >> 20} -> {worker_many >> 20} MiB, client {client_one >> 20} -> "
            f"{client_many >> 20} MiB, declared {bound >> 20} MiB"
        )
        with promise("R11", f"{command}: a worker within its bound"):
            assert worker_many <= bound, f"{worker_many >> 20} MiB, declared {bound >> 20} MiB"
        with promise("R11", f"{command}: workers with a larger area"):
            assert worker_many <= GROWTH * worker_one, f"{worker_one >> 20} -> {worker_many >> 20} MiB"
        with promise("R11", f"{command}: client with a larger area"):
            assert client_many <= GROWTH * client_one, f"{client_one >> 20} -> {client_many >> 20} MiB"
