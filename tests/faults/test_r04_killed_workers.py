"""Workers killed in the middle of a stage: the stage ends, and what it made is what nothing disturbed would have."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.faults.promises import Promises
from tests.faults.runs import (
    COMMANDS,
    Undisturbed,
    await_that,
    check_identical,
    finished,
    prepared,
    started,
    worker_pids,
)
from tests.jobs.calls import Job

KILLS = 20
HANGS_SECONDS = 240
EVERY = 5
"""Tile-years that are finished between two kills, more than two workers have in hand: no task is hit as often as dask
gives it up, four times."""


def kill_workers(job: Job, stage: str, most: int, *, every: int = EVERY) -> int:
    """Run a stage to its end and kill the worker that lives longest, again and again; return how often."""
    killed, due = 0, 1
    with started(job, COMMANDS[stage]) as going:
        while killed < most and await_that(lambda due=due: len(finished(job, stage)) >= due, going):
            pids = worker_pids(going)
            if not pids:
                continue
            os.kill(pids[0], signal.SIGKILL)
            killed, due = killed + 1, len(finished(job, stage)) + every
        going.join(HANGS_SECONDS)
        code = going.exitcode
    said = (job.folder / "stderr.txt").read_text()
    assert code == 0, f"{stage} ended after {killed} kills: {said.splitlines()[-1:]}"
    return killed


@pytest.mark.faults
@pytest.mark.timeout(600)
@pytest.mark.parametrize("stage", ["cube", "sample", "classify", "change"])
def test_a_stage_whose_workers_are_killed_ends_with_the_same(
    wide: Undisturbed, tmp_path: Path, promise: Promises, stage
):
    killed = 0
    while killed < KILLS:
        job = prepared(stage, wide, tmp_path / f"{killed:02d}")
        fault: Exception | None = None
        try:
            now = kill_workers(job, stage, KILLS - killed)
            check_identical(job, wide, through=stage)
        except Exception as error:
            fault, now = error, KILLS - killed
        assert now, "a stage ended before a worker could be killed"
        for number in range(killed, killed + now):
            with promise("R4", f"{stage}, worker kill {number + 1}"):
                if fault is not None:
                    raise fault
        killed += now
