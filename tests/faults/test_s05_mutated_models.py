"""Model files with flipped bits, cut short, with odd numbers or without a key: refused or used, never a crash."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from engine.model import Model
from engine.params import TrainParams
from engine.train import train_model
from tests.engine.samples import make_sample
from tests.faults.promises import Promises

MUTANTS = 500
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model: Model = train_model(make_sample(1200), params=TrainParams(rounds=4, max_depth=3)).model
    folder = tmp_path_factory.mktemp("model")
    model.save(folder / "model")
    return folder / "model"


def mutate(folder: Path, first: int, last: int) -> tuple[dict[str, int], list[int]]:
    """Return what became of some mutants, and which ended their process; another goes on behind each of those."""
    counts: Counter[str] = Counter()
    crashed = []
    while first < last:
        command = [sys.executable, "-m", "tests.faults.model_mutants", str(folder), str(first), str(last)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=ROOT, check=False)
        if done.returncode == 0:
            counts.update(json.loads(done.stdout))
            break
        crashed.append(max(int(line) for line in done.stderr.splitlines() if line.isdigit()))
        first = crashed[-1] + 1
    return counts, crashed


@pytest.mark.slow
def test_some_mutated_models_are_refused_or_used(folder: Path) -> None:
    counts, crashed = mutate(folder, 0, 40)
    assert not crashed
    assert sum(counts.values()) == 40
    assert counts["refused"] > 20


@pytest.mark.faults
def test_mutated_models_never_end_the_process(folder: Path, promise: Promises) -> None:
    counts, crashed = mutate(folder, 0, MUTANTS)
    assert sum(counts.values()) + len(crashed) == MUTANTS
    for number in range(MUTANTS):
        with promise("S5", f"mutant {number}"):
            assert number not in crashed
