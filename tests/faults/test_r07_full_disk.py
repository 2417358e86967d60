"""The disk fills up in the middle of a stage: one line that says so; with room again the same command ends the same."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.promises import Promises
from tests.faults.runs import COMMANDS, OUTPUTS, ROOT, STAGES, Undisturbed, check_identical, prepared
from tests.jobs.calls import Job

PAGE_BYTES = 4096
MAY_MOUNT = (
    bool(shutil.which("unshare"))
    and not subprocess.run(
        ["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False
    ).returncode
)

# In a namespace of its own: a small disk at "$1" with what "$3" holds, full but for "$2" bytes. A first command
# fails on it; then there is room, and the second, the same, goes on.
ON_A_SMALL_DISK = """
set -e
disk=$1; room=$2; home=$3; shift 3
mount -t tmpfs -o size=256m none "$disk"
cp -a "$home/." "$disk"
dd if=/dev/zero of="$disk/filler" bs=64k 2> /dev/null || true
truncate -s "-$room" "$disk/filler"
code=0; "$@" 2> "$home.first" || code=$?
echo $code > "$home.code"
rm -f "$disk/filler"
"$@" 2> "$home.second"
rm -rf "$home"; cp -a "$disk" "$home"
"""


def on_a_small_disk(job: Job, command: str, disk: Path, *, room: int, home: Path) -> str:
    """Run a command on a disk that fills up, then with room, and return the one line that it ended in at first."""
    arguments = job.arguments(command, cluster="threads")
    script = ["unshare", "-m", "sh", "-c", ON_A_SMALL_DISK, "sh", str(disk), str(room), str(home)]
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


def fill_and_free(small_run: Undisturbed, stage: str, folder: Path, *, share: float) -> str:
    """Run a stage on a disk with room for a share of what it writes; return the one line, once all is the same."""
    job = prepared(stage, small_run, folder)
    files = [path for path in small_run.job.run.rglob("*") if path.is_file()]
    files = [path for path in files if path.relative_to(small_run.job.run).as_posix().startswith(OUTPUTS[stage])]
    sizes = [path.stat().st_size for path in files if not (job.run / path.relative_to(small_run.job.run)).exists()]
    room = int(share * sum(-(-size // PAGE_BYTES) * PAGE_BYTES for size in sizes))
    home = folder / "kept"
    job.run.parent.rename(home)
    job.run.parent.mkdir()
    line = on_a_small_disk(job, COMMANDS[stage], job.run.parent, room=room, home=home)
    job.run.parent.rmdir()
    home.rename(job.run.parent)
    assert str(job.run) in line, line
    assert "free space" in line, line
    check_identical(job, small_run, through=stage)
    return line


@pytest.mark.faults
@pytest.mark.timeout(900)
@pytest.mark.parametrize("stage", STAGES)
def test_a_disk_that_fills_up_in_a_stage_is_one_line(
    small_run: Undisturbed, tmp_path: Path, promise: Promises, stage: str
) -> None:
    if not MAY_MOUNT:
        promise.cannot("R7", [f"full disk in {stage}"], "needs the right to mount in a namespace")
    with promise("R7", f"full disk in {stage}"):
        fill_and_free(small_run, stage, tmp_path, share=0.5)


@pytest.mark.faults
def test_a_disk_too_full_to_begin_is_one_line(small_run: Undisturbed, tmp_path: Path, promise: Promises) -> None:
    if not MAY_MOUNT:
        promise.cannot("R7", ["full disk at the record"], "needs the right to mount in a namespace")
    with promise("R7", "full disk at the record"):
        fill_and_free(small_run, "change", tmp_path, share=0)
