"""The comparison of ``python -m benchmarks compare``: figures against peers and the floor, in one run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from benchmarks.archive import Setup
from benchmarks.composites import compare_composites, compare_geomedians
from benchmarks.forests import compare_forests
from benchmarks.harness import Comparison, machine
from benchmarks.remote import compare_remote
from benchmarks.scaling import compare_areas, compare_scheduler, compare_workers
from benchmarks.service import compare_service
from benchmarks.targets import TARGETS, is_met

COMPARISONS: Final[dict[str, Callable[[Setup], Comparison]]] = {
    "composite": compare_composites,
    "geomedian": compare_geomedians,
    "forest": compare_forests,
    "remote": compare_remote,
    "workers": compare_workers,
    "area": compare_areas,
    "scheduler": compare_scheduler,
    "service": compare_service,
}
"""Name for ``--only`` -> what is run."""


def compare(setup: Setup, names: Sequence[str]) -> dict[str, Any]:
    """Run comparisons, tell each as it ends, and return their figures.

    Returns
    -------
    dict
        Every figure of ``TARGETS`` that was measured, as a number; ``targets``; ``runs``, the raw ones and the further
        figures of every comparison; ``machine``; ``wrong_values``, the sides whose values are not the engine's.
    """
    figures: dict[str, float] = {}
    runs: dict[str, Any] = {}
    wrong: list[str] = []
    for name in names:
        started = time.perf_counter()
        found = COMPARISONS[name](setup)
        took = time.perf_counter() - started
        _say(f"{name}: {found.what}, {took:.0f} s")
        for side, spent in found.raw.get("seconds", {}).items():
            wall, cpu = (f"{min(spent[kind]):.2f}-{max(spent[kind]):.2f} s {kind}" for kind in ("wall", "cpu"))
            _say(f"    {side:<42} {wall:>22} {cpu:>22}")
        for figure, value in found.ratios.items():
            _say(f"  {figure:<44} {value!s:<22} {_aim(figure, value.value)}".rstrip())
        figures |= {figure: round(value.value, 4) for figure, value in found.ratios.items() if figure in TARGETS}
        rounds = {figure: [round(one, 4) for one in value.rounds] for figure, value in found.ratios.items()}
        runs[name] = {"what": found.what, "took_seconds": round(took, 1), "rounds": rounds, **found.raw}
        wrong += [f"{name}: {side}" for side in found.wrong]
        for side in found.wrong:
            _say(f"  WRONG VALUES: {side}")
    return {
        **figures,
        "targets": {figure: f"{sign} {target:g}" for figure, (sign, target) in TARGETS.items()},
        "simulated": setup.archive.world.params.notice,
        "runs": runs,
        "machine": machine(),
        "wrong_values": wrong,
    }


def _say(line: str) -> None:
    print(line, flush=True)  # also into a pipe: the whole takes minutes


def _aim(figure: str, value: float) -> str:
    if figure not in TARGETS:
        return ""
    sign, target = TARGETS[figure]
    return f"target {sign} {target:g}{'' if is_met(figure, value) else ', missed'}"
