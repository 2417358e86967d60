"""What the engine promises to survive or refuse, and the count of how often it was put to the test."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

PROMISES: Final = {
    "R1": "passing faults of storage and signer: identical",
    "R2": "a run over many token lifetimes: identical, no expired read, a call a worker a lifetime",
    "R3": "a bad asset stops the run naming item, asset and fix; or is listed and counted per pixel",
    "R4": "workers killed in cube, sample, train and map: identical, none hangs",
    "R5": "everything killed at 25, 50 and 75 % of a stage: identical, only what was in flight is redone",
    "R6": "an interrupted output is never readable as finished",
    "R7": "a full disk at each stage: one line, and identical once there is room",
    "R8": "flipped bits in stored chunks are caught by verify and by reads",
    "R9": "a run resumed with another configuration, items or code is refused in one line",
    "R10": "the same trees on 1, 2, 3 and 4 workers and after kill and resume",
    "R11": "a worker stays within its declared memory; 16 times the area adds at most 10 %",
    "R12": "a dead scheduler, an exhausted worker, another version: an error with its fix in 30 s",
    "R13": "odd inputs are mapped or refused, none is silently empty",
    "R14": "no spatial block lies on both sides of a split",
    "S1": "hostile inputs are refused in 5 s and 500 MB with one line; nothing read, nobody called",
    "S2": "no secret in any file, log, report, attribute, item or graph",
    "S3": "a default run listens on loopback only; remote needs TLS or a flag",
    "S4": "clients without the right certificate are refused; so is all that asks the viewer for more than its page",
    "S5": "mutated model files never end the process",
}
"""Promise -> what it says."""

_PROPERTY: Final = "promise"


class Promises:
    """Counts, within one test, the faults that were injected and those the promise held against.

    A fault that is not survived fails the test only at its end, so that the others are injected too.
    """

    def __init__(self, node: pytest.Item) -> None:
        self._node = node
        self.broken: list[str] = []

    @contextmanager
    def __call__(self, promise: str, fault: str) -> Iterator[None]:
        """Inject one fault in the block; an exception there is a broken promise.

        ``pytest.raises`` and a time-out end by ``pytest.fail``, which is no ``Exception``: noted, and the test ends.
        """
        try:
            yield
        except (Exception, pytest.fail.Exception) as error:
            self._note(promise, fault, False)
            if isinstance(error, pytest.fail.Exception):
                raise
            self.broken.append(f"{promise}, {fault}: {type(error).__name__}: {error}")
        else:
            self._note(promise, fault, True)

    def cannot(self, promise: str, faults: Iterable[str], reason: str) -> None:
        """Skip the test where the machine forbids to inject its faults; they count as not held."""
        for fault in faults:
            self._note(promise, f"{fault} (not injected: {reason})", False)
        pytest.skip(reason)

    def _note(self, promise: str, fault: str, held: bool) -> None:
        assert promise in PROMISES, promise
        self._node.user_properties.append((_PROPERTY, [promise, fault, held]))


def tally(reports: Iterable[Any]) -> dict[str, dict[str, int]]:
    """Return ``{promise: {"injected": ..., "held": ...}}`` of the reports of finished tests."""
    counts: dict[str, dict[str, int]] = {}
    for name, value in (each for report in reports for each in report.user_properties):
        if name == _PROPERTY:
            count = counts.setdefault(value[0], {"injected": 0, "held": 0})
            count["injected"] += 1
            count["held"] += int(value[2])
    return {promise: counts[promise] for promise in PROMISES if promise in counts}


def write_tally(counts: dict[str, dict[str, int]], path: Path) -> None:
    """Write the counts as JSON, with every promise that was not put to the test as injected 0."""
    none = {"injected": 0, "held": 0}
    path.write_text(json.dumps({promise: counts.get(promise, none) for promise in PROMISES}, indent=1) + "\n")
