"""From measured runs to a map of the world's mangroves: core-hours, bytes and dollars, and what was assumed."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.harness import Run


@dataclass(frozen=True)
class Belt:
    """The world's mangroves as work."""

    cells: int = 1600
    """One-degree cells with mangrove."""

    tiles_per_cell: int = 4
    """Of 61 km, those at an edge counted for every cell they reach."""

    tile_px: int = 2048
    looks: int = 24
    """Dates a year and tile, a mean of one and of two satellites in orbit."""

    dollars_per_core_hour: float = 0.05
    """Of a rented core with 4 GB, without discount."""

    remote: float = 1.0
    """Time of reading from storage of the same region over that of reading local files."""

    def tile_years(self, years: int) -> int:
        return self.cells * self.tiles_per_cell * years

    def assumptions(self) -> list[str]:
        """Say what the estimate stands on."""
        return [
            f"{self.cells} one-degree cells of {self.tiles_per_cell} tiles of {self.tile_px} px, all of it mapped, sea "
            "and hinterland included; a habitat limit makes it less",
            f"{self.looks} dates a year: fewer before 1999 and in gaps of the archive, more with two satellites",
            "the measured runs read simulated scenes of 24 dates, with the compression and the clouds of the benchmark "
            "archive; real bands compress by 1.2 to 1.8",
            "time and bytes grow with pixels x dates. Tiles of 1024 px were measured, which decode 1.56 times what is "
            "needed; whole tiles decode 1.27 times as much, so time and bytes are overestimated by up to a quarter",
            f"reading from storage near the workers takes {self.remote:.2f} times as long as the local files measured",
            "cores are paid for from the first task to the last, waiting included; starting machines, searching, "
            "sampling and training are not counted, nor is storage, nor traffic, which is free within a region",
            f"a core-hour costs ${self.dollars_per_core_hour:g}",
            "all workers are as fast as the measured ones, with as many as were measured; the scheduler's own time is "
            "measured by the workload of that name",
        ]


@dataclass(frozen=True)
class Estimate:
    """What one step takes for a number of years."""

    step: str
    years: int
    tasks: int
    core_hours: float
    terabytes_read: float
    dollars: float


_AMOUNT: Final[dict[str, Callable[[Run], float]]] = {
    "cube": lambda run: run.pixels * run.looks,
    "classify": lambda run: run.pixels,
    "change": lambda run: run.pixels,
}
"""Step -> what its time grows with."""


def extrapolate(runs: Sequence[Run], belt: Belt, years: Sequence[int] = (1, 40)) -> list[Estimate]:
    """Estimate each step that was measured, from its runs on most workers.

    Returns
    -------
    list of Estimate
        By number of years, then step, in order of the work; change is that of each year with the one before.
    """
    estimates = []
    for count in years:
        for step, amount in _AMOUNT.items():
            measured = [run for run in runs if run.workload == step and run.pixels]
            steps = count - 1 if step == "change" else count
            if not measured or steps == 0:
                continue
            most = max(run.workers for run in measured)
            measured = [run for run in measured if run.workers == most]
            tasks = belt.tile_years(steps)
            work = tasks * belt.tile_px**2 * (belt.looks if step == "cube" else 1)
            core_seconds = statistics.median(run.seconds * run.threads / amount(run) for run in measured)
            read = statistics.median((run.bytes or 0) / amount(run) for run in measured)
            hours = work * core_seconds / 3600 * (belt.remote if step == "cube" else 1)
            estimates.append(
                Estimate(step, count, tasks, hours, work * read / 1e12, hours * belt.dollars_per_core_hour)
            )
    return estimates
