"""All steps of a run in their order; ``mangroves run`` and its demo are this."""

from __future__ import annotations

import time
from typing import Any

from jobs.change import compare_years, open_comparison, show_change
from jobs.classify import classify_maps
from jobs.context import Run
from jobs.cube import build_cubes, observed_summary
from jobs.lineage import write_lineage
from jobs.plan import plan_run
from jobs.search import find_scenes
from jobs.train import check_training, fit_model, show_score


def run_all(run: Run) -> dict[str, Any]:
    """Do every step that is not done yet, and return what came out."""
    started = time.perf_counter()
    check_training(run)
    open_comparison(run)
    plan = plan_run(run, find_scenes(run))
    if run.habitat is not None:
        run.reporter.say("habitat   maps are confined to low land near tidal water")
    build_cubes(run, plan)
    model, model_folder = fit_model(run, plan)
    metrics = show_score(run, model)
    maps = classify_maps(run, plan, model, model_folder)
    changes, table = compare_years(run, plan, model)
    show_change(run, table)
    catalog = write_lineage(run, plan, model, model_folder)
    return {
        "run": str(run.folder),
        "maps": [str(path) for path in maps],
        "change": [str(path) for path in changes],
        "areas": str(run.folder / "areas.csv"),
        "catalog": str(catalog),
        "model": str(model_folder),
        "trees_sha256": model.tree_sha256(),
        "hold_out": list(model.hold_out),
        "metrics": metrics,
        "years": observed_summary(run, plan),
        "seconds": round(time.perf_counter() - started, 1),
    }
