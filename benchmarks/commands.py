"""The commands of ``mangroves`` as a benchmark runs them: simulated archives, run configurations, processes.

Every thing is made as a user would make it; nothing here knows the truth.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from engine.area import study_regions
from engine.simulate import Archive, read_archive

FEATURES: Final = "all+mad+context"
"""All of them spectral: no elevation, no distance."""

MASK_AGE: Final = 3
"""Years from a mask to the imagery it labels, as old as the study's habit allows."""


@dataclass(frozen=True)
class Commands:
    """A folder of archives and runs, and how commands work there.

    Parameters
    ----------
    folder : Path
    workers : int
        Processes of a thread each.
    say : callable
        Takes a line of progress.
    """

    folder: Path
    workers: int
    say: Callable[[str], None]

    def simulate(
        self, world: str, regions: Sequence[str], years: Sequence[int], *, masks: Sequence[int] = (), **options: Any
    ) -> Archive:
        """Simulate an archive, if it is not there; masks are ``MASK_AGE`` years before ``years``, or of ``masks``."""
        folder = self.folder / world
        if not (folder / "world.json").is_file():
            given = {
                "regions": ",".join(sorted(regions, key=list(study_regions()).index)),
                "years": ",".join(map(str, years)),
                **{name.replace("_", "-"): value for name, value in options.items() if value is not None},
            }
            settings = {"change-rate", "overlap", "region-shift"} & set(given)
            flags = [flag for name in given.keys() - settings for flag in (f"--{name}", str(given[name]))]
            settings_of = {name.replace("-", "_"): given[name] for name in settings}
            settings_of["mask_years"] = sorted(masks or {year - MASK_AGE for year in years})
            more = [flag for name, value in settings_of.items() for flag in ("--set", f"{name}={value}")]
            self.run("simulate", folder, *flags, *more)
        return read_archive(folder)

    def configure(self, run: str, archive: Archive, years: Sequence[int], *, seed: int, **sections: Any) -> Path:
        """Write the configuration of a run over an archive; sections given stand in place of what is usual."""
        config = {
            "name": run,
            "out": str(self.folder),
            "area": {"file": str(archive.regions), "name_field": "name"},
            "years": list(years),
            "seed": seed,
            "search": {"catalogs": [str(archive.items)], "tiers": ["T1", "T2"]},
            "labels": {
                "masks": [{"path": str(path), "year": year} for year, path in archive.masks.items()],
                "max_gap_years": MASK_AGE,
            },
            "notice": archive.params.notice,
        }
        path = self.folder / f"{run}.yaml"
        path.write_text(yaml.safe_dump({**config, **sections}, sort_keys=False), encoding="utf-8")
        return path

    def run(self, name: str, *arguments: str | Path) -> None:
        """Run a command of ``mangroves``.

        Raises
        ------
        RuntimeError
            With its last line, if it fails.
        """
        started = time.perf_counter()
        clusters = self.folder / "cluster.yaml"
        local = {"kind": "local", "workers": self.workers, "threads_per_worker": 1}
        clusters.write_text(yaml.safe_dump({"profiles": {"local": local}}), encoding="utf-8")
        line = [sys.executable, "-m", "jobs", name, *map(str, arguments), "--cluster-file", str(clusters)]
        done = subprocess.run(line, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"mangroves {name} failed: {done.stderr.strip().splitlines()[-1:]}")
        self.say(f"mangroves {name} {Path(arguments[0]).stem}: {time.perf_counter() - started:.0f} s")
