"""Imports point down: jobs, steps, supports, kernels, vocabulary; so each part can be read and tested alone."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

VOCABULARY = {"errors", "params", "landsat", "legend", "grid", "trust"}
"""What every layer may speak of."""

SUPPORTS = {
    "align",
    "area",
    "boost",
    "candidates",
    "cells",
    "change_charts",
    "charts",
    "card",
    "checkpoints",
    "cluster",
    "code",
    "collective",
    "connections",
    "copies",
    "decide",
    "diagnose",
    "downloads",
    "evaluate_charts",
    "explore_charts",
    "figures",
    "files",
    "folds",
    "gdal",
    "html",
    "launch",
    "leaderboard",
    "leaflet",
    "ledger",
    "lookup",
    "model",
    "naming",
    "observed",
    "origin",
    "overview",
    "page",
    "page.folder",
    "partitions",
    "places",
    "plan",
    "profiles",
    "ranges",
    "raster",
    "reader",
    "reads",
    "record",
    "remote",
    "report_charts",
    "rows",
    "scenes",
    "scores",
    "scratch",
    "sign",
    "splits",
    "store",
    "threads",
    "tiff",
    "unpacked",
    "tune_trials",
    "viewer",
    "web",
}
"""What steps stand on."""

STEPS = {
    "assess",
    "area_series",
    "catalog",
    "change",
    "classify",
    "cube",
    "edits",
    "explore",
    "evaluate",
    "habitat",
    "history",
    "importance",
    "mask_archives",
    "masks",
    "pair",
    "patches",
    "overlap",
    "predict",
    "sample",
    "stack",
    "suggest",
    "train",
    "transfer",
    "tune",
}
"""One subject each; a step knows no other step."""

TASKS = {"tasks", "edit_tasks", "history_tasks", "lineage", "notebook", "reproduce", "service", "verify", "why"}
"""Join steps into the bodies of dask tasks, of requests, and of cells of a notebook."""


def modules(*folders: str) -> dict[str, Path]:
    """Return the files of some packages by dotted name."""
    found = {}
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path) -> set[str]:
    """Return the dotted names a file imports, wherever it does; ``from a import b`` gives a, and a.b where that is a
    module."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(str(node.module))
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names & ALL
    return found


ALL = set(modules("engine", "jobs"))
ENGINE = {name: path for name, path in modules("engine").items() if not name.startswith("engine.simulate")}


def engine_parts(path: Path) -> set[str]:
    """Return the modules of the engine that a file imports: ``masks``, ``kernels.labels``."""
    return {name.removeprefix("engine.") for name in imports(path) if name.startswith("engine.")}


def test_every_module_of_the_engine_has_a_layer():
    flat = {name.removeprefix("engine.") for name in ENGINE if name.startswith("engine.") and "kernels" not in name}
    assert flat == VOCABULARY | SUPPORTS | STEPS | TASKS


@pytest.mark.parametrize("name", [name for name in ENGINE if name.startswith("engine.kernels.")])
def test_a_kernel_knows_arrays_only(name):
    outside = {found.split(".")[0] for found in imports(ENGINE[name])} - {"engine"} - sys.stdlib_module_names
    assert outside <= {"numpy", "numba", "scipy"}
    inside = engine_parts(ENGINE[name])
    assert {part for part in inside if not part.startswith("kernels")} <= VOCABULARY


@pytest.mark.parametrize("name", sorted(STEPS))
def test_a_step_imports_no_other_step_and_no_task(name):
    assert not engine_parts(ENGINE[f"engine.{name}"]) & (STEPS | TASKS)


@pytest.mark.parametrize("name", sorted(SUPPORTS))
def test_a_support_imports_no_step(name):
    assert not engine_parts(ENGINE[f"engine.{name}"]) & (STEPS | TASKS)


@pytest.mark.parametrize("name", sorted(VOCABULARY))
def test_the_vocabulary_stands_on_nothing_else(name):
    assert engine_parts(ENGINE[f"engine.{name}"]) <= VOCABULARY


def test_the_engine_imports_no_job_and_no_simulation():
    for name, path in ENGINE.items():
        found = imports(path)
        assert not [one for one in found if one.split(".")[0] in ("jobs", "benchmarks", "tests")], name
        assert not [one for one in found if one.startswith("engine.simulate")], name


def test_the_simulation_imports_no_step_and_no_job():
    for name, path in modules("engine/simulate").items():
        assert not engine_parts(path) & (STEPS | TASKS | {"cluster"}), name
        assert not [one for one in imports(path) if one.split(".")[0] in ("jobs", "benchmarks", "tests")], name


@pytest.mark.slow
def test_a_worker_that_imports_the_tasks_holds_no_job_and_no_simulation():
    check = "import sys, engine.tasks, engine.cluster; print([m for m in sys.modules if m.startswith(%r)])"
    done = subprocess.run(
        [sys.executable, "-c", check % (("jobs", "engine.simulate"),)], capture_output=True, text=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_circles_of_imports_do_not_exist():
    edges = {name: {found for found in imports(path) if found in ENGINE} for name, path in ENGINE.items()}
    left = set(edges)
    while free := {name for name in left if not (edges[name] - {name, "engine"}) & left}:
        left -= free
    assert not left
