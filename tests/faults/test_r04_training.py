"""R4 in training: workers killed in the middle, the trees the same and nobody waiting for ever."""

from __future__ import annotations

import random

import pytest

from engine import checkpoints
from tests.faults import training

KILLS = 10  # in each way to train


@pytest.fixture(autouse=True)
def after_every_round(monkeypatch):
    monkeypatch.setattr(checkpoints, "SECONDS", 0.0)


@pytest.mark.faults
@pytest.mark.timeout(600)
@pytest.mark.parametrize("distributed", ["no", "yes"], ids=["one task", "distributed"])
def test_a_worker_killed_in_training_changes_no_tree(distributed, promise, tmp_path):
    expected = training.fitted().tree_sha256()
    draw = random.Random(f"R4 {distributed}")
    with training.workers(3) as client:
        for number in range(KILLS):
            # The first two before there is a checkpoint: while rows are encoded, or workers meet.
            rounds = 0 if number < 2 else draw.randrange(1, training.ROUNDS - 15)
            delay = draw.uniform(0.2, 1.2) if number < 2 else draw.uniform(0, 0.05)
            folder = tmp_path / str(number)
            with promise("R4", f"train, {distributed=}: worker killed at round {rounds} and {delay:.2f} s"):
                client.wait_for_workers(3, timeout=60)
                killer = training.Killer(client, folder, draw.randrange(3), delay)
                watch = training.when_grown(folder, rounds, killer)
                found = training.fitted(client, distributed=distributed, checkpoints=folder).tree_sha256()
                watch.join(60)
                assert 0 <= killer.rounds < training.ROUNDS, f"killed at round {killer.rounds}: too late"
                assert found == expected
