"""The trees of a fit so far, kept beside the model: training that was cut off goes on from there to the same trees.

XGBoost continues to the very trees of an undisturbed fit: a row's margin is the float32 sum of what its trees say, in
the order of the trees, whether they were just grown or were read (held by tests at many rounds). A checkpoint is
untrusted input, as a model is: its size is bounded, its hash is checked before it is parsed, and every tree before
XGBoost sees it. One that is damaged or missing is no fault; training then begins anew.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import xgboost
import xgboost.callback
import xgboost.collective

from engine.errors import ModelError
from engine.files import replacing
from engine.model import MAX_BYTES, TREES_FILE, sound_trees, tree_count
from engine.places import Place, read_start

SECONDS: Final = 5.0
"""Least time between two checkpoints of a fit."""

_SHARE: Final = 100  # and as many times what the last one took: writing them costs 1 % of training at most
_HASH: Final = 64  # characters of a sha256, and a line end after them


class Grown(NamedTuple):
    """The trees of the first rounds of a fit."""

    trees: bytes
    """XGBoost model as canonical JSON text."""

    rounds: int


@dataclass(frozen=True)
class Checkpoint:
    """Where one fit keeps its trees."""

    path: Place
    """Named after all that decides the trees, so another fit never reads it."""

    seconds: float = field(default_factory=lambda: SECONDS)
    """Least time between two writes; with 0 there is one after every round."""

    def read(self, *, features: int, rounds: int) -> Grown | None:
        """Return the trees kept, or None where there are none that a fit of so many features and rounds can go on from.

        Raises
        ------
        OSError
            If a store does not answer.
        """
        try:
            text = read_start(self.path, _HASH + 1 + MAX_BYTES[TREES_FILE])
        except FileNotFoundError:
            return None
        claimed, found = text[:_HASH], text[_HASH + 1 :]
        if claimed != hashlib.sha256(found).hexdigest().encode():
            return None
        try:
            trees = sound_trees(found, features=features, what=str(self.path))
        except ModelError:
            return None
        done = tree_count(trees)
        return Grown(trees, done) if done <= rounds else None

    def write(self, booster: xgboost.Booster) -> None:
        """Keep the trees of a booster, in place of those kept before; a reader sees the old or the new ones.

        Raises
        ------
        StoreError
            If the file cannot be written.
        """
        found = bytes(booster.save_raw("json"))
        with replacing(self.path) as temporary:
            temporary.write_bytes(hashlib.sha256(found).hexdigest().encode() + b"\n" + found)


class Keep(xgboost.callback.TrainingCallback):
    """Writes a checkpoint now and then, and at the end of a fit; of several workers one does."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._next = 0.0

    def before_training(self, model: Any) -> Any:
        self._next = time.monotonic() + self._checkpoint.seconds
        return model

    def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
        if time.monotonic() >= self._next:
            began = time.monotonic()
            self._write(model)
            took = time.monotonic() - began
            self._next = time.monotonic() + self._gap(took)
        return False

    def after_training(self, model: Any) -> Any:
        self._write(model)
        return model

    def _gap(self, took: float) -> float:
        least = self._checkpoint.seconds
        return max(least, _SHARE * took) if least else 0.0

    def _write(self, model: Any) -> None:
        if xgboost.collective.get_rank() == 0:
            self._checkpoint.write(model)


def continued(grown: Grown | None, checkpoint: Checkpoint | None, rounds: int) -> dict[str, Any]:
    """Return what XGBoost's ``train`` is told of where to begin, how far to go and what to keep."""
    return {
        "num_boost_round": rounds - (grown.rounds if grown else 0),
        "xgb_model": xgboost.Booster({"nthread": 1}, model_file=bytearray(grown.trees)) if grown else None,
        "callbacks": [Keep(checkpoint)] if checkpoint else None,
    }
