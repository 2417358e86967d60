"""Runs to be killed: a world of many small tile-years, a run over it that nothing disturbed, and what a run holds."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Final, NamedTuple

import psutil
import pyarrow.parquet as pq
import rasterio

from engine.simulate import WorldParams, write_archive
from engine.store import array_sha256, open_store, read_marker
from jobs.cli import main
from tests.jobs.calls import Job, trees

ROOT: Final = Path(__file__).resolve().parents[2]
WORKERS: Final = 2

_FORKS: Final = get_context("forkserver")
_FORKS.set_forkserver_preload([f"jobs.{name}" for name in ("run", "cube", "sample", "train", "classify", "change")])
"""Commands are forked from a process that has imported the software and does nothing else: the 2 s that would take
each of a hundred of them are not what is tested."""

WORLD: Final = WorldParams(
    regions=("Vietnam2", "India", "Nigeria1", "Cuba1", "Colombia", "Madagascar", "Myanmar1", "Guinea-Bissau"),
    years=tuple(range(2014, 2022)),
    size_px=64,
    scenes_per_year=2,
    mask_years=(2013, 2022),
)
"""64 tile-years: of so many, the two that two workers have in hand and one more are less than 5 per cent."""

SMALL: Final = WorldParams(
    regions=("Vietnam2", "India"), years=(2016, 2017), size_px=64, scenes_per_year=2, mask_years=(2015, 2018)
)
"""Of the fast tests."""

STAGES: Final = ("cube", "sample", "train", "classify", "history", "change")

COMMANDS: Final = {stage: stage for stage in STAGES} | {"history": "change"}
"""Stage -> the command that ends with it."""

OUTPUTS: Final = {
    "cube": ("cube/", "years.csv"),
    "sample": ("sample/",),
    "train": ("model/",),
    "classify": ("maps/", "areas.csv"),
    "history": ("change/history/", "history.csv"),
    "change": ("change/", "change.csv", "transitions.csv", "patch_areas.csv", "series.", "rates.csv"),
}

MARKERS: Final = {
    "cube": "cube/*/2???.json",
    "sample": "sample/z*.json",
    "train": "model/**/meta.json",
    "classify": "maps/*/z*.json",
    "history": "change/history/z*.json",
    "change": "change/*-*/z*.json",
}


class Undisturbed(NamedTuple):
    """A run that nothing disturbed, and its digest."""

    job: Job
    digest: dict[str, str]


def prepared(stage: str, undisturbed: Undisturbed, folder: Path) -> Job:
    """Return a copy of a run in which all before a stage is finished and the stage is not begun.

    Files are links to the undisturbed ones: the engine replaces files and never writes into one.
    """
    later = tuple(name for each in STAGES[STAGES.index(stage) :] for name in OUTPUTS[each])
    whole = undisturbed.job
    folder.mkdir(parents=True, exist_ok=True)
    job = Job(folder, whole.archive, copy.deepcopy(whole.config))
    for source in whole.run.rglob("*"):
        path = source.relative_to(whole.run)
        if source.is_file() and not path.as_posix().startswith(later):
            target = job.run / path
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(source, target)
    (job.run / "run.json").unlink()  # of this one many sessions will be noted
    shutil.copy(whole.run / "run.json", job.run)
    return job


def finished(job: Job, stage: str) -> list[Path]:
    """Return the completion markers of a stage."""
    return sorted(path for path in job.run.glob(MARKERS[stage]) if not path.name.startswith("."))


@contextmanager
def started(job: Job, command: str, cluster: str = "two") -> Iterator[BaseProcess]:
    """Start a command as a terminal would, in a session of its own; no process of it outlives the block."""
    profiles = job.folder / "profiles.yaml"
    profiles.write_text(f"profiles: {{two: {{kind: local, workers: {WORKERS}}}, threads: {{kind: threads}}}}")
    arguments = job.arguments(command, "--cluster-file", profiles, cluster=cluster)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # workers would compile all they import each time they start
    going = _FORKS.Process(target=_main, args=(arguments, job.folder / "stderr.txt"))
    going.start()
    try:
        yield going
    finally:
        kill_session(going)


def _main(arguments: list[str], said: Path) -> None:
    """Run the command line in this process, which leads a session of its own."""
    os.setsid()
    os.chdir(ROOT)
    with said.open("w") as errors, Path(os.devnull).open("w") as nowhere:
        os.dup2(errors.fileno(), 2)
        os.dup2(nowhere.fileno(), 1)
        main(arguments)


def ended(job: Job, command: str, cluster: str = "two", seconds: float = 240) -> str:
    """Run a command to its end, and return what it said; one that fails or hangs is a fault."""
    with started(job, command, cluster) as going:
        going.join(seconds)
        code = going.exitcode
    said = (job.folder / "stderr.txt").read_text()
    assert code == 0, said[-600:]
    return said


def kill_session(going: BaseProcess) -> None:
    """End the command and every process that it started, as hard as can be and all at once."""
    for pid in [pid for pid in psutil.pids() if session_of(pid) == going.pid]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    going.join()


def session_of(pid: int) -> int | None:
    """Return the session of a living process."""
    try:
        return os.getsid(pid) if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE else None
    except (ProcessLookupError, psutil.NoSuchProcess):
        return None


def worker_pids(going: BaseProcess) -> list[int]:
    """Return the worker processes of a command, the oldest first."""
    found = []
    for pid in sorted(pid for pid in psutil.pids() if session_of(pid) == going.pid and pid != going.pid):
        try:
            process = psutil.Process(pid)
            if "spawn_main" in " ".join(process.cmdline()):
                found.append((process.create_time(), pid))
        except psutil.NoSuchProcess:
            continue
    return [pid for _, pid in sorted(found)]


def await_that(holds: Callable[[], bool], going: BaseProcess, seconds: float = 240) -> bool:
    """Wait until something holds; False if the command ended before."""
    deadline = time.monotonic() + seconds
    while not holds():
        if going.exitcode is not None:
            return False
        assert time.monotonic() < deadline, f"no progress in {seconds:.0f} s"
        time.sleep(0.02)
    return True


def digest(run: Path, undisturbed: Path | None = None) -> dict[str, str]:
    """Return the sha256 of what a run holds: decoded arrays of stores and rasters, rows of tables, trees.

    A file that is still a link to the ``undisturbed`` one is told by its inode.
    """
    found = {}
    for path in sorted(run.rglob("*")):
        name = path.relative_to(run).as_posix()
        if path.name.startswith(".") or ".zarr/" in name:
            continue
        mark = path.with_suffix(".json") if path.suffix == ".zarr" else path
        if path.suffix not in (".zarr", ".tif", ".parquet", ".csv"):
            continue
        if undisturbed is not None and is_same_file(mark, undisturbed / mark.relative_to(run)):
            found[name] = "as it was"
        else:
            found[name] = content_of(path)
    if (run / "model" / "inputs.json").is_file():
        found["model/trees"] = trees(run)
    return found


def check_identical(job: Job, undisturbed: Undisturbed, *, through: str = STAGES[-1]) -> None:
    """Raise unless a run holds all that the undisturbed one holds of the stages up to one, and the same."""
    later = tuple(name for each in STAGES[STAGES.index(through) + 1 :] for name in OUTPUTS[each])
    if COMMANDS[through] == "change":
        later = ()
    whole = undisturbed.job.run
    reference = {name: sha256 for name, sha256 in undisturbed.digest.items() if not name.startswith(later or "/")}
    mine = digest(job.run, whole)
    other = [name for name in {*mine, *reference} if mine.get(name) not in ("as it was", reference.get(name))]
    assert not other, f"{len(other)} of {len(reference)} outputs differ: {sorted(other)[:3]}"
    missing = {name for name in names(whole) - names(job.run) if not name.startswith(later or "/")}
    assert not missing, f"{len(missing)} files are missing: {sorted(missing)[:3]}"


def names(run: Path) -> set[str]:
    """Return the files of a run but of stores."""
    files = (path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file())
    return {name for name in files if ".zarr/" not in name and not Path(name).name.startswith(".")}


def content_of(path: Path) -> str:
    """Return the sha256 of what a file or store says, by its own reader; of a store also against its marker."""
    if path.suffix == ".zarr":
        with open_store(path) as data:
            sha256 = array_sha256({str(name): variable.values for name, variable in data.data_vars.items()})
        assert sha256 == (read_marker(path) or {})["sha256"], f"{path} is not what its marker says"
        return sha256
    if path.suffix == ".tif":
        with rasterio.open(path, driver="GTiff") as raster:
            return array_sha256({"bands": raster.read()})
    if path.suffix == ".parquet":
        content = json.dumps(pq.read_table(path).to_pydict(), default=str).encode()
    else:
        content = path.read_bytes()
    return hashlib.sha256(content).hexdigest()


def is_same_file(path: Path, other: Path) -> bool:
    """Tell whether two paths are links to one file."""
    return path.is_file() and other.is_file() and path.samefile(other)


def undisturbed_run(world: WorldParams, folder: Path) -> Undisturbed:
    """Return a run that went through, and its digest; training is quick, as it is not what these runs are about."""
    job = Job(folder, write_archive(world, folder / "archive"))
    job.config["sample"] = {"mangrove": 30, "other": 60}
    job.config["train"] = {"rounds": 4, "max_depth": 2, "folds": 2, "features": "composite", "hold_out": ["sim-India"]}
    answer = job.call("run")
    assert answer.code == 0, answer.err
    return Undisturbed(job, digest(job.run))
