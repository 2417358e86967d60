"""How far a command is: counted by what works, told by whoever asks."""

from __future__ import annotations

import datetime as dt
import time
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Stage:
    """Something that is done many times: tile-years of a stage, tiles of a history."""

    total: int
    earlier: int = 0
    """Of the total, finished by an earlier command."""

    done: int = 0
    """Of the total, by this command."""

    started: float = field(default_factory=time.monotonic)
    ended: float | None = None

    @property
    def per_minute(self) -> float | None:
        """How many this command does a minute; None before the first."""
        seconds = (self.ended or time.monotonic()) - self.started
        return 60 * self.done / seconds if self.done and seconds > 0 else None

    @property
    def seconds_left(self) -> float | None:
        """What is left at the rate so far; None before the first."""
        left = self.total - self.earlier - self.done
        return 0.0 if left == 0 else (60 * left / self.per_minute if self.per_minute else None)


class Progress:
    """The stages of a command, in their order, and the bytes that its tasks read."""

    def __init__(self) -> None:
        self.stages: dict[str, Stage] = {}
        self.current = ""
        """The stage that is counted now; empty between two."""

        self.bytes_read = 0

    def note_earlier(self, name: str, done: int, total: int) -> None:
        """Count what an earlier command finished of a stage that may begin now."""
        self.stages[name] = Stage(total, earlier=done)

    def begin(self, name: str, count: int) -> Stage:
        """Begin to count: ``count`` more of a stage than were finished earlier."""
        known = self.stages.get(name)
        earlier = known.earlier if known is not None and known.done == 0 else 0
        self.current, self.stages[name] = name, Stage(earlier + count, earlier=earlier)
        return self.stages[name]

    def end(self, stage: Stage) -> None:
        """End to count."""
        stage.ended, self.current = time.monotonic(), ""

    def note_result(self, result: Any) -> None:
        """Count the bytes that a task says it read, as the marker of a cube or of a part of the sample does."""
        stages = result.get("stages") if isinstance(result, dict) else None
        if isinstance(stages, dict):
            self.bytes_read += sum(stages[name]["bytes"] for name in ("fetch", "gdal") if name in stages)

    def line(self) -> dict[str, Any]:
        """Return what a machine reads of the stage that is counted now: done, total, rate and time left.

        Returns
        -------
        dict
            ``time`` (UTC), ``stage``, ``done`` and ``total`` (with what was finished earlier), ``rate`` (a minute) and
            ``seconds_left``; of the last two None where nothing is done yet.
        """
        stage = self.stages.get(self.current)
        found: dict[str, Any] = {"time": utc_now(), "stage": self.current}
        if stage is not None:
            rate, left = stage.per_minute, stage.seconds_left
            found |= {
                "done": stage.earlier + stage.done,
                "total": stage.total,
                "rate": None if rate is None else round(rate, 2),
                "seconds_left": None if left is None else round(left),
            }
        return found


def utc_now() -> str:
    """Return the time as ISO 8601, UTC, to the second."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
