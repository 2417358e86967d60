"""Everything is killed in the middle of a stage: the same command again ends with the same and redoes little."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.promises import Promises
from tests.faults.runs import (
    COMMANDS,
    WORKERS,
    Undisturbed,
    await_that,
    check_identical,
    ended,
    finished,
    kill_session,
    prepared,
    started,
)
from tests.jobs.calls import Job

SHARES = (0.25, 0.5, 0.75)
BLOCKS = {"cube": 64, "sample": 64, "classify": 64, "history": 8, "change": 64}
"""Tile-years, tiles or pairs of a tile of each stage; a model is one."""

COUNTED = ("cube", "classify", "history", "change")
"""Stages whose record counts what was made."""


def kill_at(job: Job, stage: str, count: int, cluster: str) -> dict[Path, int]:
    """Kill everything once so many markers stand; return those that did then, and when each was written."""
    with started(job, COMMANDS[stage], cluster) as going:
        reached = await_that(lambda: len(finished(job, stage)) >= count, going)
        kill_session(going)
    assert reached, "the stage ended before it could be killed"
    return {path: path.stat().st_mtime_ns for path in finished(job, stage)}


def check_redone(job: Job, stage: str, stood: dict[Path, int], total: int) -> None:
    """Raise if anything was made again whose marker stood, as that is written last.

    So what was made twice is what was in hand, a block a worker: of 64 less than 5 per cent.
    """
    again = [path for path, written in stood.items() if path.stat().st_mtime_ns != written]
    assert not again, f"{len(again)} of {len(stood)} whose marker stood were made again"
    assert total < 40 or 0.05 * total >= WORKERS
    if stage in COUNTED:
        done = job.record["stages"][stage]["counts"]["done"]
        assert done == total - len(stood), f"{done} of {total} were made, {len(stood)} stood"


def kill_and_resume(stage: str, share: float, undisturbed: Undisturbed, folder: Path, cluster: str) -> None:
    total = len(finished(undisturbed.job, stage))
    job = prepared(stage, undisturbed, folder)
    stood = kill_at(job, stage, max(1, round(share * total)), cluster)
    ended(job, COMMANDS[stage], cluster)
    check_identical(job, undisturbed, through=stage)
    check_redone(job, stage, stood, total)


@pytest.mark.faults
@pytest.mark.timeout(900)
@pytest.mark.parametrize("stage", BLOCKS)
def test_a_stage_killed_in_its_middle_goes_on(wide: Undisturbed, tmp_path: Path, promise: Promises, stage: str) -> None:
    assert len(finished(wide.job, stage)) == BLOCKS[stage]
    for share in SHARES:
        with promise("R5", f"{stage}, killed at {share:.0%}"):
            kill_and_resume(stage, share, wide, tmp_path / f"{share}", "two")


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_a_training_killed_in_its_middle_goes_on(wide: Undisturbed, tmp_path: Path, promise: Promises) -> None:
    """By what it leaves behind: suspect rows before there is a model, the first of two models, both but no end."""
    moments = {"25 %": "suspects.parquet", "50 %": "meta.json", "75 %": "bands/meta.json"}
    for share, file in moments.items():
        with promise("R5", f"train, killed at {share}"):
            job = prepared("train", wide, tmp_path / share[:2])
            with started(job, "train", "threads") as going:
                assert await_that((job.run / "model" / file).is_file, going)
                kill_session(going)
            ended(job, "train", "threads")
            check_identical(job, wide, through="train")


def test_a_small_run_killed_in_its_middle_goes_on(small_run: Undisturbed, tmp_path: Path, promise: Promises) -> None:
    with promise("R5", "classify of a small run, killed at 50 %"):
        kill_and_resume("classify", 0.5, small_run, tmp_path, "threads")
