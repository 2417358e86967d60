"""Time two ways of one thing in turn, A B A B, and report ratios: absolute times of a shared machine mean little."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Pair:
    """Ratios of a peer's time to ours, run by run."""

    name: str
    ours: str
    peer: str
    wall: list[float]
    """Peer's wall seconds over ours: above 1, ours is faster."""
    cpu: list[float]
    """The same of processor seconds, all threads."""
    ours_seconds: list[float]
    peer_seconds: list[float]
    equal: bool
    """Whether both gave the same values."""

    def record(self) -> dict[str, Any]:
        """Return the raw runs and their medians, for JSON."""
        medians = {"wall_ratio": statistics.median(self.wall), "cpu_ratio": statistics.median(self.cpu)}
        return {**asdict(self), **medians}

    def __str__(self) -> str:
        wall, cpu = statistics.median(self.wall), statistics.median(self.cpu)
        spread = f"{min(self.wall):.1f}-{max(self.wall):.1f}"
        same = "same values" if self.equal else "DIFFERENT VALUES"
        times = f"{wall:.1f} x the wall time ({spread}) and {cpu:.1f} x the CPU"
        return f"{self.name}: {self.peer} takes {times} of {self.ours}, {same}"


def time_pair(
    name: str,
    ours: tuple[str, Callable[[], Any]],
    peer: tuple[str, Callable[[], Any]],
    *,
    same: Callable[[Any, Any], bool],
    runs: int = 3,
) -> Pair:
    """Run both once unmeasured, then in turn ``runs`` times."""
    results = [ours[1](), peer[1]()]
    measured: list[list[tuple[float, float]]] = [[], []]
    for _ in range(runs):
        for index, (_, work) in enumerate((ours, peer)):
            wall, cpu = time.perf_counter(), time.process_time()
            work()
            measured[index].append((time.perf_counter() - wall, time.process_time() - cpu))
    mine, theirs = measured
    return Pair(
        name=name,
        ours=ours[0],
        peer=peer[0],
        wall=[b[0] / a[0] for a, b in zip(mine, theirs, strict=True)],
        cpu=[b[1] / a[1] for a, b in zip(mine, theirs, strict=True)],
        ours_seconds=[a[0] for a in mine],
        peer_seconds=[b[0] for b in theirs],
        equal=same(*results),
    )
