"""Trees kept while they grow: gone on with to the very same ones, and nothing else is believed."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import xgboost

from engine import checkpoints
from engine.boost import Rows, booster_params, logistic_gradients, train_rows
from engine.checkpoints import Checkpoint
from engine.kernels.bins import MISSING_CODE
from engine.params import BoostParams

PARAMS = BoostParams(rounds=12, max_depth=5, gamma=0.05, reg_alpha=0.1)


def draw_rows(count=1500, features=6, seed=0):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 200, (count, features)).astype(np.uint8)
    positive = (codes[:, 0] + rng.normal(0, 40, count) > 120).astype(np.float32)
    codes[rng.random(codes.shape) < 0.1] = MISSING_CODE
    weight = rng.lognormal(0, 2, count)
    return Rows(codes, positive, (weight / weight.mean()).astype(np.float32))


ROWS = draw_rows()
WHOLE = train_rows([ROWS], PARAMS, 1)


def stop_after(rounds, path, threads=1):
    """Leave what a fit leaves that is killed after some rounds."""
    data = xgboost.QuantileDMatrix(
        ROWS.codes, label=ROWS.positive, label_lower_bound=ROWS.weight, missing=MISSING_CODE, max_bin=256
    )
    how = {**booster_params(PARAMS), "nthread": threads}
    Checkpoint(path).write(xgboost.train(how, data, rounds, obj=logistic_gradients))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("rounds", range(1, 13))
def test_a_fit_goes_on_to_the_trees_of_an_undisturbed_one(rounds, threads, tmp_path):
    checkpoint = Checkpoint(tmp_path / "fit.trees")
    stop_after(rounds, checkpoint.path, threads)
    assert train_rows([ROWS], PARAMS, threads, checkpoint) == WHOLE
    assert checkpoint.read(features=6, rounds=12) == (WHOLE, 12)


def test_a_finished_fit_is_not_made_again(tmp_path, monkeypatch):
    checkpoint = Checkpoint(tmp_path / "fit.trees")
    assert train_rows([ROWS], PARAMS, 1, checkpoint) == WHOLE
    monkeypatch.setattr(xgboost, "train", None)
    assert train_rows([ROWS], PARAMS, 1, checkpoint) == WHOLE


def test_a_checkpoint_is_written_now_and_then_and_at_the_end(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(Checkpoint, "write", lambda self, booster: written.append(booster.num_boosted_rounds()))
    train_rows([ROWS], PARAMS, 1, Checkpoint(tmp_path / "fit.trees"))
    assert written == [12]
    written.clear()
    train_rows([ROWS], PARAMS, 1, Checkpoint(tmp_path / "fit.trees", seconds=0))
    assert written == [*range(1, 13), 12]


def test_writing_takes_a_hundredth_of_training_however_slow_the_disk(monkeypatch):
    keep = checkpoints.Keep(Checkpoint(None, seconds=5.0))
    assert (keep._gap(0.01), keep._gap(3.0)) == (5.0, 300.0)


def damaged(text):
    """Yield what is not to be believed: cut short, one bit flipped, a hash that fits trees that point outside."""
    yield text[:1000]
    yield text[:2000] + bytes([text[2000] ^ 1]) + text[2001:]
    yield b""
    document = json.loads(text[65:])
    document["learner"]["gradient_booster"]["model"]["trees"][0]["left_children"][0] = 10**6
    for body in (json.dumps(document).encode(), b"[]", b"{}", b"no JSON"):
        yield hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def test_damaged_and_foreign_checkpoints_are_passed_over(tmp_path):
    checkpoint = Checkpoint(tmp_path / "fit.trees")
    assert checkpoint.read(features=6, rounds=12) is None
    stop_after(7, checkpoint.path)
    text = checkpoint.path.read_bytes()
    assert checkpoint.read(features=6, rounds=12).rounds == 7
    assert checkpoint.read(features=5, rounds=12) is None
    assert checkpoint.read(features=6, rounds=6) is None
    for content in damaged(text):
        checkpoint.path.write_bytes(content)
        assert checkpoint.read(features=6, rounds=12) is None
        assert train_rows([ROWS], PARAMS, 1, checkpoint) == WHOLE


def test_a_checkpoint_may_lie_in_a_bucket(bucket):
    checkpoint = Checkpoint(bucket / "model" / "checkpoints" / "fit.trees")
    assert checkpoint.read(features=6, rounds=12) is None
    assert train_rows([ROWS], PARAMS, 1, checkpoint) == WHOLE
    assert checkpoint.read(features=6, rounds=12) == (WHOLE, 12)
