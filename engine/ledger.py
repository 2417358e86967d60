"""The ledger of a search: every finished trial is on the disk before the next is waited for."""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from engine.errors import StoreError
from engine.files import cannot_read, cannot_write, write_text
from engine.tune_trials import METRICS, Trial

FORMAT: Final = "mangroves-tune-1"
LEDGER: Final = "trials.jsonl"

_MOST_BYTES: Final = 2**30


class Ledger:
    """Finished trials, one JSON line each, added as they finish.

    The first line says of which search. A line that was not finished, the last one, is dropped.

    Parameters
    ----------
    path : Path or None
        None keeps it in memory.
    about : mapping
        What must be the same for trials to be of one search.

    Raises
    ------
    StoreError
        If the file is of another search, damaged, or cannot be read.
    """

    def __init__(self, path: Path | None, about: Mapping[str, Any]) -> None:
        self._path = path
        self._trials: dict[int, dict[str, Any]] = {}
        self._fits: dict[int, dict[str, Any]] = {}
        if path is None:
            return
        head: dict[str, Any] = {"format": FORMAT, "search": json.loads(json.dumps(about))}
        lines = self._read(path)
        if not lines:
            write_text(path, json.dumps(head) + "\n")
        elif lines[0] != head:
            ours, theirs = head["search"], lines[0].get("search")
            theirs = theirs if isinstance(theirs, dict) else {}
            keys = sorted(str(key) for key in {*theirs, *ours} if theirs.get(key) != ours.get(key))
            raise StoreError(
                f"{path} is of another search (differs in: {', '.join(keys) or 'format'})",
                fix="search as before, or begin anew with --new-search",
            )
        for line in lines[1:]:
            self._keep(line)

    def has(self, number: int) -> bool:
        """Tell whether a trial is finished."""
        return number in self._trials

    def trial(self, asked: Trial) -> Trial | None:
        """Return a trial as finished earlier, None if it was not.

        Raises
        ------
        StoreError
            If it was finished with other parameters than are asked now.
        """
        line = self._trials.get(asked.number)
        if line is None:
            return None
        found = Trial(**line)
        if (found.candidate, found.params, found.batch) != (asked.candidate, asked.params, asked.batch):
            raise StoreError(
                f"{self._path}: trial {asked.number} is of another search", fix="begin anew with --new-search"
            )
        return found

    def fit(self, trial: Trial) -> dict[str, Any] | None:
        """Return what the fit of a trial to all training regions gave, None if it was not made."""
        return self._fits.get(trial.number)

    def add(self, kind: str, content: Mapping[str, Any]) -> None:
        """Add a line; it is on the disk when this returns.

        Raises
        ------
        StoreError
            If it cannot be written.
        """
        line = {"kind": kind, **content}
        self._keep(json.loads(json.dumps(line)))
        if self._path is None:
            return
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise cannot_write(self._path, error) from error

    def _keep(self, line: dict[str, Any]) -> None:
        kind, rest = line["kind"], {key: value for key, value in line.items() if key != "kind"}
        if kind == "trial":
            self._trials[rest["number"]] = rest
        else:
            self._fits[rest["number"]] = {k: v for k, v in rest.items() if k not in ("number", "candidate")}

    @staticmethod
    def _read(path: Path) -> list[dict[str, Any]]:
        """Return the whole lines, and cut off what follows them."""
        try:
            if path.stat().st_size > _MOST_BYTES:
                raise StoreError(f"{path} is too large for a ledger", fix="begin anew with --new-search")
            content = path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise cannot_read(path, error) from error
        whole = content[: content.rfind(b"\n") + 1]
        try:
            lines = [json.loads(line) for line in whole.splitlines()]
            for line in lines[1:]:
                _check_line(line)
            if lines and not isinstance(lines[0], dict):
                raise TypeError("not a ledger")
        except (ValueError, TypeError, LookupError, RecursionError) as error:
            raise StoreError(
                f"{path} is damaged ({type(error).__name__})", fix="begin anew with --new-search"
            ) from error
        if whole != content:
            try:
                os.truncate(path, len(whole))
            except OSError as error:
                raise cannot_write(path, error) from error
        return lines


def _check_line(line: Any) -> None:
    if line["kind"] == "trial":
        trial = Trial(**{key: value for key, value in line.items() if key != "kind"})
        count = len(trial.folds["auc"])
        if trial.state not in ("complete", "pruned") or not isinstance(trial.number, int) or not count:
            raise ValueError("not a finished trial")
        if set(trial.folds) != set(METRICS) or not isinstance(trial.params, dict):
            raise ValueError("not a finished trial")
        if any(len(values) != count or not all(map(math.isfinite, values)) for values in trial.folds.values()):
            raise ValueError("not a finished trial")
        if not math.isfinite(trial.threshold + trial.f1 + trial.seconds):
            raise ValueError("not a number")
    elif line["kind"] == "fit":
        if not isinstance(line["model_sha256"], str) or not isinstance(line["number"], int):
            raise ValueError("not a finished fit")
        if not math.isfinite(line["fit_seconds"]):
            raise ValueError("not a number")
    else:
        raise ValueError("neither trial nor fit")


def set_aside(folder: Path) -> None:
    """Rename the ledger of a folder, so that the next search begins anew.

    Raises
    ------
    StoreError
        If it cannot be renamed.
    """
    path = folder / LEDGER
    with suppress(FileNotFoundError):
        try:
            path.rename(path.with_name(f"trials-{secrets.token_hex(4)}.jsonl"))
        except FileNotFoundError:
            raise
        except OSError as error:
            raise cannot_write(path, error) from error
