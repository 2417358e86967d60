"""Killed while it writes: what stands under its final name is whole, or our readers refuse it as unfinished."""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
from pathlib import Path

import pytest

from engine.errors import EngineError
from engine.model import load_model
from engine.store import open_store, read_marker
from tests.faults.promises import Promises
from tests.faults.runs import (
    COMMANDS,
    STAGES,
    Undisturbed,
    await_that,
    content_of,
    is_same_file,
    kill_session,
    names,
    prepared,
    started,
)
from tests.jobs.calls import Job

KILLS = 50
LONGEST_SECONDS = 0.5


def kill_while_writing(job: Job, stage: str, chance: random.Random) -> bool:
    """Kill a stage at some moment after it began to write; False if it ended before."""
    before = written(job.run)
    with started(job, COMMANDS[stage], "threads") as going:
        began = await_that(lambda: written(job.run) != before, going)
        time.sleep(chance.uniform(0, LONGEST_SECONDS))
        alive = going.exitcode is None
        kill_session(going)
    return began and alive


def written(run: Path) -> set[str]:
    """Return what lies in a run, also under the names of what is being written; its record and chunks apart."""
    found = set()
    for folder, folders, files in os.walk(run):
        folders[:] = [name for name in folders if not folder.endswith(".zarr")]
        found |= {f"{folder}/{name}" for name in (*folders, *files) if "run.json" not in name}
    return found


def check_whole_or_refused(job: Job, undisturbed: Undisturbed) -> None:
    """Raise if anything can be read as finished that is not what an undisturbed run writes there."""
    whole = undisturbed.job.run
    for name in sorted(names(job.run)):
        path = job.run / name
        if is_same_file(path, whole / name):
            continue  # of a stage before
        if path.suffix in (".tif", ".parquet", ".csv"):
            assert content_of(path) == undisturbed.digest.get(name, content_of(path)), f"{name} differs"
        elif path.suffix == ".json":
            json.loads(path.read_text())  # markers, cards, the record
        elif path.suffix == ".trees":  # a checkpoint, gone once the model stands
            claimed, _, trees = path.read_bytes().partition(b"\n")
            assert claimed.decode() == hashlib.sha256(trees).hexdigest(), f"{name} is cut off"
            continue
        elif path.suffix in (".vrt", ".qml", ".xml"):
            assert path.read_text().rstrip().endswith(">"), f"{name} is cut off"
        assert (whole / name).is_file(), f"{name} is nothing that a run writes"
    for store in job.run.rglob("*.zarr"):
        marker = store.with_suffix(".json")
        if is_same_file(marker, whole / marker.relative_to(job.run)):
            continue
        try:
            with open_store(store):
                pass
        except EngineError:
            assert read_marker(store) is None, f"{store} has a marker, so a rerun takes it as finished"
            continue
        name = store.relative_to(job.run).as_posix()
        assert content_of(store) == undisturbed.digest[name], f"{name} reads as finished and is not"
    for folder in (job.run / "model", job.run / "model" / "bands"):
        try:
            trees = load_model(folder).tree_sha256()
        except EngineError:
            continue
        assert trees == load_model(whole / folder.relative_to(job.run)).tree_sha256(), f"{folder} is another model"


def interrupt(undisturbed: Undisturbed, folder: Path, promise: Promises, kills: int, stages: tuple[str, ...]) -> None:
    """Kill a stage over and over as it goes on, then the next stage, until there were so many kills."""
    chance = random.Random(6)
    killed, turn = 0, 0
    while killed < kills:
        stage = stages[turn % len(stages)]
        job = prepared(stage, undisturbed, folder / f"{turn:02d}")
        turn += 1
        for _ in range(-(-kills // len(stages))):
            if killed == kills or not kill_while_writing(job, stage, chance):
                break
            killed += 1
            with promise("R6", f"kill {killed}, {stage}"):
                check_whole_or_refused(job, undisturbed)


@pytest.mark.faults
@pytest.mark.timeout(1200)
def test_no_interrupted_output_reads_as_finished(wide: Undisturbed, tmp_path: Path, promise: Promises) -> None:
    interrupt(wide, tmp_path, promise, KILLS, STAGES)


def test_an_interrupted_map_is_whole_or_refused(small_run: Undisturbed, tmp_path: Path, promise: Promises) -> None:
    interrupt(small_run, tmp_path, promise, 3, ("classify",))
