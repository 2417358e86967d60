"""``python -m benchmarks``: the engine against peers and the floor, its models against truth; printed, and as JSON."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# Read when XGBoost is imported: its threads would else spin while they wait for each other.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from benchmarks import change_runs
from benchmarks import suggest as suggestions
from benchmarks.archive import SCALES, Setup, make_archive
from benchmarks.change import run_change
from benchmarks.change import show as show_change
from benchmarks.compare import COMPARISONS, compare
from benchmarks.study import run_study
from benchmarks.study import show as show_study
from benchmarks.study_runs import FULL, Setting


def main(arguments: list[str] | None = None) -> int:
    """Parse, run, print; return 1 where a side's values are not the engine's."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("compare", help="time the engine and its peers in turn")
    one.add_argument("--json", type=Path, metavar="FILE", help="write the figures and all runs here")
    one.add_argument("--scale", choices=SCALES, default="small")
    one.add_argument("--runs", type=int, metavar="N", help="runs of each side [default: 3; 1 at the tiny scale]")
    one.add_argument("--only", nargs="+", choices=COMPARISONS, default=list(COMPARISONS), metavar="NAME")
    one.add_argument("--archive", type=Path, metavar="FOLDER", help="keep the archive here, for the next time")
    one.set_defaults(run=compare_peers)
    other = commands.add_parser("study", help="the published study on a simulated world, scored against its truth")
    other.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    other.add_argument("--seed", type=int, default=1, metavar="S", help="another seed, another world [default: 1]")
    other.add_argument("--full", action="store_true", help="5 folds x 3 and 128 trials in place of 3 x 1 and 32")
    other.add_argument("--workers", type=int, default=2, metavar="N", help="processes [default: 2]; changes no figure")
    other.add_argument("--folder", type=Path, metavar="FOLDER", help="keep archives, runs and maps here")
    other.set_defaults(run=study)
    third = commands.add_parser("change", help="change in simulated worlds, scored against their truth")
    third.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    third.add_argument("--worlds", type=int, default=6, metavar="N", help="six of each seed [default: 6]")
    third.add_argument("--seed", type=int, default=1, metavar="S", help="another seed, other worlds [default: 1]")
    third.add_argument("--workers", type=int, default=2, metavar="N", help="processes [default: 2]; changes no figure")
    third.add_argument("--folder", type=Path, metavar="FOLDER", help="keep archives, runs and maps here")
    third.set_defaults(run=change)
    fourth = commands.add_parser("suggest", help="suggested labels against random ones, in simulated worlds")
    fourth.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    fourth.add_argument("--worlds", type=int, default=5, metavar="N", help="one of each seed [default: 5]")
    fourth.add_argument("--points", type=int, default=100, metavar="N", help="labels of each kind [default: 100]")
    fourth.add_argument("--folder", type=Path, metavar="FOLDER", help="keep archives, runs and maps here")
    fourth.set_defaults(run=suggest)
    options = parser.parse_args(arguments)
    return options.run(options, parser)


def compare_peers(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Run ``compare``."""
    if find_spec("numbagg"):
        parser.error("numbagg is installed: dask's median takes three times as long with it; uninstall it to compare")
    scale = SCALES[options.scale]
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="mangroves-bench-") as folder:
        archive = make_archive(options.archive or Path(folder), scale)
        print(f"archive: {archive.world.params.notice}, {time.perf_counter() - started:.0f} s", flush=True)
        found = compare(Setup(archive, scale, Path(folder), options.runs or scale.runs), options.only)
    found["seconds"] = round(time.perf_counter() - started, 1)
    print(f"{found['seconds']:.0f} s in all")
    _write(found, options.json)
    return 1 if found["wrong_values"] else 0


def study(options: argparse.Namespace, _: argparse.ArgumentParser) -> int:
    """Run ``study``."""
    setting = Setting(seed=options.seed, workers=options.workers, **FULL if options.full else {})
    return _score(partial(run_study, setting), show_study, "mangroves-study-", options)


def _score(
    run: Callable[..., dict[str, Any]], show: Callable[[dict[str, Any]], Iterable[str]], prefix: str, options: Any
) -> int:
    """Run a benchmark against truth in a folder; print its figures and its table, and write them."""
    with tempfile.TemporaryDirectory(prefix=prefix) as folder:
        place = (options.folder or Path(folder)).resolve()
        place.mkdir(parents=True, exist_ok=True)
        found = run(place, _say)
    for name, value in found.items():
        print(f"{name:<32} {value:.4f}" if isinstance(value, float) else f"{name:<32} {value}")
    _say("")
    for line in show(found):
        _say(line)
    _write(found, options.json)
    return 0


def change(options: argparse.Namespace, _: argparse.ArgumentParser) -> int:
    """Run ``change``."""
    setting = change_runs.Setting(seed=options.seed, worlds=options.worlds, workers=options.workers)
    return _score(partial(run_change, setting), show_change, "mangroves-change-", options)


def suggest(options: argparse.Namespace, _: argparse.ArgumentParser) -> int:
    """Run ``suggest``."""
    setting = suggestions.Setting(seeds=options.worlds, points=options.points)
    return _score(partial(suggestions.run_suggest, setting), suggestions.show, "mangroves-suggest-", options)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _write(found: dict[str, Any], path: Path | None) -> None:
    if path:
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
