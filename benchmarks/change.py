"""Change in simulated worlds: a model of other regions, histories of ten to twenty-two years, scored against truth."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.change_figures import count_quiet, count_world, describe
from benchmarks.change_runs import Setting, make_quiet, make_worlds
from benchmarks.targets import CHANGE_TARGETS, is_met


def run_change(setting: Setting, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Simulate worlds, map and trace them, and score what was told of change.

    Parameters
    ----------
    setting : Setting
    folder : Path
        For archives and runs.
    say : callable
        Takes a line of progress.

    Returns
    -------
    dict
        Flat: figures of all worlds, ``..._sd``, ``..._least`` and ``..._most`` over worlds, and those of each group;
        ``quiet_...`` of a land where nothing happens; ``target_...``, what is asked for.
    """
    started = time.perf_counter()
    rows, groups = [], []
    notice = ""
    for world in make_worlds(setting, folder, say):
        rows.append(count_world(world))
        groups.append(list(world.kind.groups))
        notice = notice or world.archive.params.notice
        say(f"world {len(rows)} of {setting.worlds}, {world.kind.name}: after {time.perf_counter() - started:.0f} s")
    found: dict[str, Any] = {"simulated": notice, "seed": setting.seed, "worlds": len(rows)}
    found |= describe(pd.DataFrame(rows), groups)
    found |= count_quiet(make_quiet(setting, folder, say))
    found |= {f"target_{name}": value for name, (_, value) in CHANGE_TARGETS.items()}
    return found | {"seconds": round(time.perf_counter() - started, 1)}


def show(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of a table: what was reached beside what is asked for, with its spread over worlds."""
    yield f"{found['simulated']}: change in {found['worlds']} simulated worlds"
    yield f"{'figure':<26} {'reached':>8} {'least':>8} {'most':>8}   asked"
    for name, (sign, target) in CHANGE_TARGETS.items():
        whole = name.removesuffix("_high")
        spread = "".join(f" {found[f'{whole}_{end}']:>8.3f}" for end in ("least", "most"))
        met = "reached" if is_met(name, found.get(name, float("nan")), CHANGE_TARGETS) else "MISSED"
        yield f"{name:<26} {found.get(name, float('nan')):>8.3f}{spread}   {sign} {target:g}, {met}"
