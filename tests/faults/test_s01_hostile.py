"""Hostile inputs of every kind: refused in one line, fast and small; the canaries are neither read nor called."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from engine.simulate import WorldParams, write_archive
from tests.faults.hostile import CASES, attempt, bait_in, problem_of
from tests.faults.promises import Promises

WORLD = WorldParams(regions=("Vietnam2",), years=(2016,), size_px=64, scenes_per_year=2, mask_years=(2015, 2018))
ROOT = Path(__file__).resolve().parents[2]
FAST = [name for name in CASES if name.startswith(("href: ", "config: "))][::4]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_archive(WORLD, tmp_path_factory.mktemp("world") / "archive").items.parent


def test_some_hostile_inputs_are_refused(archive: Path, tmp_path: Path) -> None:
    bait = bait_in(tmp_path, archive)
    with bait.server.running():
        found = [attempt(name, bait, tmp_path / str(number)) for number, name in enumerate(FAST)]
    assert not {each["name"]: problem_of(each) for each in found if problem_of(each)}
    assert bait.server.connections == 0


@pytest.mark.faults
def test_hostile_inputs_are_refused(archive: Path, tmp_path: Path, promise: Promises) -> None:
    command = [sys.executable, "-m", "tests.faults.hostile", str(archive), str(tmp_path / "work")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=290, cwd=ROOT, check=False)
    *found, canary = [json.loads(line) for line in done.stdout.splitlines()] or [{}]
    by_name = {each["name"]: each for each in found}
    assert len(CASES) >= 60
    for name in CASES:
        with promise("S1", name):
            assert name in by_name, f"not reached: {done.stderr[-500:]}"
            assert not problem_of(by_name[name]), problem_of(by_name[name])
    with promise("S1", "the canaries"):
        assert canary == {"untouched": True, "calls": 0}
