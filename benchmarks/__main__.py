"""``python -m benchmarks``: run the comparison and print it; ``--json FILE`` keeps the raw runs."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import engine
from benchmarks.composite import composite_vs_odc


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--size-px", type=int, default=1024)
    parser.add_argument("--scenes", type=int, default=24)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path, help="Write the raw runs here.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pair = composite_vs_odc(Path(folder), size_px=options.size_px, scenes=options.scenes, runs=options.runs)
    print(pair)
    if options.json:
        options.json.write_text(
            json.dumps({"version": engine.__version__, "composite_vs_odc": pair.record()}, indent=1)
        )


if __name__ == "__main__":
    main()
