"""``python -m benchmarks compare``: figures against peers and the floor, printed and written as JSON."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

# Read when XGBoost is imported: its threads would else spin while they wait for each other.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from benchmarks.archive import SCALES, Setup, make_archive
from benchmarks.compare import COMPARISONS, compare


def main(arguments: list[str] | None = None) -> int:
    """Parse, run, print; return 1 where a side's values are not the engine's."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    command = parser.add_subparsers(required=True).add_parser("compare", help="time the engine and its peers in turn")
    command.add_argument("--json", type=Path, metavar="FILE", help="write the figures and all runs here")
    command.add_argument("--scale", choices=SCALES, default="small")
    command.add_argument("--runs", type=int, metavar="N", help="runs of each side [default: 3; 1 at the tiny scale]")
    command.add_argument("--only", nargs="+", choices=COMPARISONS, default=list(COMPARISONS), metavar="NAME")
    command.add_argument("--archive", type=Path, metavar="FOLDER", help="keep the archive here, for the next time")
    options = parser.parse_args(arguments)
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
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 1 if found["wrong_values"] else 0


if __name__ == "__main__":
    sys.exit(main())
