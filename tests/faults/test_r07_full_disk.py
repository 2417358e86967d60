"""The disk fills up in the middle of a stage: one line that says so; with room again the same command ends the same."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.promises import Promises
from tests.faults.runs import COMMANDS, MARKERS, ROOT, STAGES, Undisturbed, check_identical, prepared
from tests.jobs.calls import Job

MAY_MOUNT = (
    bool(shutil.which("unshare"))
    and not subprocess.run(
        ["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False
    ).returncode
)

# In a namespace of its own, where it begins and ends: a small disk at "$1", filled "$2" ("before" or "amid"). A first
# command fails on it; then there is room, and the second, the same, goes on. "$3" is where that is
# kept before and after.
ON_A_SMALL_DISK = """
set -e
disk=$1; full=$2; home=$3; marker=$4; shift 4
mount -t tmpfs -o size=512m none "$disk"
if [ -d "$home" ]; then cp -a "$home/." "$disk"; fi
fill() { dd if=/dev/zero of="$disk/filler" bs=64k 2> /dev/null || true; }
if [ "$full" = before ]; then fill; fi
"$@" 2> "$home.first" & going=$!
if [ "$full" = amid ]; then
  while kill -0 $going 2> /dev/null && ! ls $disk/$marker > /dev/null 2>&1; do sleep 0.02; done
  fill
fi
code=0; wait $going || code=$?
echo $code > "$home.code"
rm -f "$disk/filler"
"$@" 2> "$home.second"
if [ -d "$home" ]; then rm -rf "$home"; cp -a "$disk" "$home"; fi
"""


def on_a_small_disk(job: Job, command: str, disk: Path, *, full: str, marker: str, home: Path) -> str:
    """Run a command on a disk that fills up, then with room, and return the one line that it ended in at first."""
    arguments = job.arguments(command, cluster="threads")
    script = ["unshare", "-m", "sh", "-c", ON_A_SMALL_DISK, "sh", str(disk), full, str(home), marker]
    done = subprocess.run(
        [*script, sys.executable, "-m", "jobs", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    first = home.with_name(home.name + ".first").read_text()
    assert done.returncode == 0, f"with room again: {home.with_name(home.name + '.second').read_text()[-400:]}"
    assert home.with_name(home.name + ".code").read_text().strip() == "1", (
        f"it went well on a full disk: {first[-200:]}"
    )
    assert "Traceback" not in first, first[-800:]
    [line] = [line for line in first.splitlines() if line.startswith(("error: ", "Error: "))]
    assert line == first.splitlines()[-1]
    return line


def fill_and_free(small: Undisturbed, stage: str, folder: Path, *, full: str, marker: str) -> str:
    """Let the disk of a run fill up, then make room; return the one line it said, once what it made is the same."""
    job = prepared(stage, small, folder)
    home = folder / "kept"
    job.run.parent.rename(home)
    job.run.parent.mkdir()
    line = on_a_small_disk(job, COMMANDS[stage], job.run.parent, full=full, marker=f"tiny/{marker}", home=home)
    job.run.parent.rmdir()
    home.rename(job.run.parent)
    assert str(job.run) in line, line
    assert "free space" in line, line
    check_identical(job, small, through=stage)
    return line


@pytest.mark.faults
@pytest.mark.timeout(900)
@pytest.mark.parametrize("stage", STAGES)
def test_a_disk_that_fills_up_in_a_stage_is_one_line(
    small: Undisturbed, tmp_path: Path, promise: Promises, stage: str
) -> None:
    if not MAY_MOUNT:
        promise.cannot("R7", [f"full disk in {stage}"], "needs the right to mount in a namespace")
    marker = "model/suspects.parquet" if stage == "train" else MARKERS[stage]
    with promise("R7", f"full disk in {stage}"):
        fill_and_free(small, stage, tmp_path, full="amid", marker=marker)


@pytest.mark.faults
def test_a_disk_too_full_for_the_record_is_one_line(small: Undisturbed, tmp_path: Path, promise: Promises) -> None:
    if not MAY_MOUNT:
        promise.cannot("R7", ["full disk at the record"], "needs the right to mount in a namespace")
    with promise("R7", "full disk at the record"):
        assert "run.json" in fill_and_free(small, "change", tmp_path, full="before", marker="run.json")
