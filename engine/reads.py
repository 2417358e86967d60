"""What was read for a tile-year, file by file: ranges, bytes, repeated requests and the faults met.

Written as ``2019-reads.json`` beside ``2019.zarr``, before its completion marker; no result depends on it.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from engine.errors import Fault
from engine.files import cannot_read, write_text
from engine.places import Place
from engine.ranges import Spent


@dataclass
class FileReads:
    """What was asked of one file."""

    ranges: int = 0
    bytes: int = 0
    """Asked for, each range once; fewer arrive where the file ends."""

    retries: int = 0
    """Requests beyond the first of each range."""

    attempts: int = 0
    """Most requests that one range took."""

    faults: Counter[str] = field(default_factory=Counter)
    """Requests that failed, by kind of fault."""

    def record(self) -> dict[str, Any]:
        """Return what is kept; what did not happen is left out."""
        found = {"ranges": self.ranges, "bytes": self.bytes}
        return (
            found
            | ({"retries": self.retries} if self.retries else {})
            | ({"faults": dict(sorted(self.faults.items()))} if self.faults else {})
        )


class Reads(Spent):
    """Counts seconds and bytes as ``Spent`` does, and of each asset of each scene what was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.files: defaultdict[tuple[str, str], FileReads] = defaultdict(FileReads)

    def of_range(self, about: Mapping[str, Any]) -> Spent:
        """Return where one range of a file is counted."""
        with self._lock:
            file = self.files[str(about.get("scene", "")), str(about.get("asset", ""))]
            file.ranges += 1
        return _RangeReads(self, file)

    def attempts_of(self, scene: str, asset: str) -> int:
        """Return the most requests that one range of an asset took."""
        found = self.files.get((scene, asset))
        return found.attempts if found else 0

    def write(self, path: Place, *, tile: str, year: int, lost: Sequence[Mapping[str, Any]]) -> None:
        """Write the ledger of a tile-year, JSON.

        Raises
        ------
        StoreError
            If it cannot be written.
        """
        scenes: dict[str, dict[str, Any]] = {}
        for (scene, asset), file in sorted(self.files.items()):
            scenes.setdefault(scene, {})[asset] = file.record()
        write_text(path, json.dumps({"tile": tile, "year": year, "scenes": scenes, "lost": list(lost)}))


class _RangeReads(Spent):
    """Counts the requests for one range into its file and into the whole."""

    def __init__(self, whole: Reads, file: FileReads) -> None:
        super().__init__()
        self._whole, self._file, self._requests = whole, file, 0

    @contextmanager
    def on(self, stage: str, size: int = 0) -> Iterator[None]:
        if stage == "fetch":
            self._requests += 1
            with self._whole._lock:
                first = self._requests == 1
                self._file.bytes += size * first
                self._file.retries += not first
                self._file.attempts = max(self._file.attempts, self._requests)
        with self._whole.on(stage, size):
            yield

    def count(self, fault: Fault | None) -> None:
        """Count one request as ``Spent`` does, and its kind of fault if it had one."""
        if fault is not None:
            with self._whole._lock:
                self._file.faults[str(fault)] += 1
        self._whole.count(fault)


def reads_path(store: Place) -> Place:
    """Return the ledger of what was read for a store: ``2019.zarr`` -> ``2019-reads.json``."""
    return store.with_name(f"{store.stem}-reads.json")


def read_reads(store: Place) -> dict[str, Any] | None:
    """Return the ledger beside a store, None where there is none.

    Raises
    ------
    StoreError
        If its place does not answer.
    """
    path = reads_path(store)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    except OSError as error:
        raise cannot_read(path, error) from error
