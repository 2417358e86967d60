"""The published study, simulated: 25 regions, four held out, classifiers searched, maps scored against truth."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from benchmarks.study_figures import Figures
from benchmarks.study_runs import Runs, Setting
from benchmarks.targets import STUDY_TARGETS, is_met

PUBLISHED: Final = {
    "study_draw_auc_xgboost": 0.952,
    "study_draw_auc_mlp": 0.960,
    "study_draw_precision": 0.75,
    "study_draw_recall": 0.98,
}
"""Of the real study's four regions: rows as drawn, 31 % mangrove, against the mask."""

BESIDE: Final = (
    *("cart_f1", "linear_auc", "mlp_auc", "forest_auc", "auc_mask", "ece_before", "ece_map"),
    *("dem_f1", "truth_labels_f1", "oracle_f1", "oracle_f1_most", "random_auc", "median_region_f1", "worst_region_f1"),
    *("l8_f1", "l5_f1", "l7_f1", "mainland_f1", "mainland_auc"),
)
"""Figures without a target that the table shows too."""


def run_study(setting: Setting, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Simulate, search, train, map and score.

    Parameters
    ----------
    setting : Setting
    folder : Path
        For the archive and the runs.
    say : callable
        Takes a line of progress.

    Returns
    -------
    dict
        Flat; against truth and wall to wall unless a name says otherwise. Beside the figures ``target_...``, what is
        aimed at, and ``published_...``, what the real study reached.
    """
    started = time.perf_counter()
    runs = Runs(setting, folder, say)
    runs.make_study()
    figures = Figures(runs)
    found: dict[str, Any] = {"simulated": runs.archive.params.notice, "seed": setting.seed}
    parts = (
        *(figures.maps, figures.candidates, figures.study_draw, figures.ladder, figures.transfer),
        *(figures.sensors, figures.mainland),
    )
    for part in parts:
        found |= part()
        say(f"{part.__name__}: done after {time.perf_counter() - started:.0f} s")
    found |= {f"target_{name}": value for name, (_, value) in STUDY_TARGETS.items()}
    found |= {name.replace("study_draw", "published"): value for name, value in PUBLISHED.items()}
    found |= {f"setting_{name}": value for name, value in setting.__dict__.items() if name not in ("seed", "draw")}
    return found | {"seconds": round(time.perf_counter() - started, 1)}


def show(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of a table: what was reached, beside what was asked for or published."""
    yield f"{found['simulated']}: the published study on a simulated world"
    yield f"{'figure':<32} {'reached':>8}   asked or published"
    for name, (sign, target) in STUDY_TARGETS.items():
        met = "reached" if is_met(name, found[name], STUDY_TARGETS) else "MISSED"
        yield f"{name:<32} {_number(found[name])}   {sign} {target:g}, {met}"
    for name, value in PUBLISHED.items():
        yield f"{name:<32} {_number(found[name])}   {value:g} published, of real land"
    for name in BESIDE:
        yield f"{name:<32} {_number(found[name])}"


def _number(value: float) -> str:
    return f"{value:>8}" if isinstance(value, int) else f"{value:>8.4f}"
