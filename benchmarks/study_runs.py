"""What the commands make of a simulated study: worlds, a search, models and maps.

Every one is made as a user would make it; nothing here knows the truth.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import yaml

from engine.area import STUDY_HOLD_OUT, study_regions
from engine.model import Model, load_model
from engine.params import BoostParams
from engine.simulate import Archive, read_archive

YEAR: Final = 2022
"""Imagery of Landsat 8 and 9; the mask is of three years before, as old as the study's habit allows."""

FEATURES: Final = "all+mad+context"
"""All of them spectral: no elevation, no distance."""

OTHER_SENSORS: Final = {"landsat-5": 1987, "landsat-7": 2012}
"""A year of each in which no other flew, so of as many scenes; Landsat 7 without its scan-line corrector."""

MAINLAND_SHARE: Final = 0.02
"""Mangrove share stated for the mainland setting, which has 1-3 %."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How large a study is."""

    seed: int
    size_px: int = 512
    scenes: int = 14
    regions: int = 25
    trials: int = 32
    folds: int = 3
    repeats: int = 1
    workers: int = 2
    draw: tuple[int, int] = (3000, 6000)
    """Mangrove and other rows of a region."""


FULL: Final[dict[str, Any]] = {"trials": 128, "folds": 5, "repeats": 3}
"""In place of what fits 20 minutes on 2 cores."""


@dataclass(frozen=True)
class Runs:
    """The runs of a study, in one folder."""

    setting: Setting
    folder: Path
    say: Callable[[str], None]

    # --- what the commands make

    def make(self) -> None:
        """Simulate the study's world; search, train and map."""
        names = self.held + [name for name in study_regions() if name not in self.held]
        chosen = sorted(names[: self.setting.regions], key=list(study_regions()).index)
        self.simulate("world", chosen, [YEAR], YEAR - 3)
        config = self.configure("study", "world", [YEAR], YEAR - 3, platforms=["landsat-8", "landsat-9"])
        self.command("tune", config)
        self.command("classify", config, "--set", "train.tuned=true")

    def simulate(self, world: str, regions: Sequence[str], years: Sequence[int], mask: int, *more: str) -> None:
        if not (self.folder / world / "world.json").is_file():
            options = {
                "regions": ",".join(regions),
                "years": ",".join(map(str, years)),
                "size-px": self.setting.size_px,
                "scenes-per-year": self.setting.scenes,
                "seed": self.setting.seed,
            }
            flags = [flag for name, value in options.items() for flag in (f"--{name}", str(value))]
            self.command("simulate", self.folder / world, *flags, "--set", f"mask_years=[{mask}]", *more)

    def configure(
        self, name: str, world: str, years: Sequence[int], mask: int, *, platforms: Sequence[str], **more: Any
    ) -> Path:
        """Write the configuration of a run."""
        setting, archive = self.setting, read_archive(self.folder / world)
        config = {
            "name": name,
            "out": str(self.folder),
            "area": {"file": str(archive.regions), "name_field": "name"},
            "years": list(years),
            "seed": setting.seed,
            "search": {"catalogs": [str(archive.items)], "platforms": list(platforms), "tiers": ["T1", "T2"]},
            "labels": {"masks": [{"path": str(archive.masks[mask]), "year": mask}], "max_gap_years": 3},
            "sample": {"mangrove": setting.draw[0], "other": setting.draw[1]},
            "train": {"features": FEATURES, "hold_out": [f"sim-{one}" for one in self.held]},
            "tune": {"trials": setting.trials, "folds": setting.folds, "repeats": setting.repeats},
            "notice": archive.params.notice,
        }
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump({**config, **more}, sort_keys=False), encoding="utf-8")
        return path

    def command(self, name: str, *arguments: str | Path) -> None:
        """Run a command of ``mangroves``, on as many workers as the study has."""
        started = time.perf_counter()
        clusters = self.folder / "cluster.yaml"
        if not clusters.is_file():
            local = {"kind": "local", "workers": self.setting.workers, "threads_per_worker": 1}
            clusters.write_text(yaml.safe_dump({"profiles": {"local": local}}), encoding="utf-8")
        line = [sys.executable, "-m", "jobs", name, *map(str, arguments), "--cluster-file", str(clusters)]
        done = subprocess.run(line, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"mangroves {name} failed: {done.stderr.strip().splitlines()[-1:]}")
        self.say(f"mangroves {name} {Path(arguments[0]).stem}: {time.perf_counter() - started:.0f} s")

    @property
    def held(self) -> list[str]:
        return list(STUDY_HOLD_OUT)

    @cached_property
    def archive(self) -> Archive:
        return read_archive(self.folder / "world")

    @cached_property
    def model(self) -> Model:
        return load_model(self.folder / "study" / "model")

    @cached_property
    def best(self) -> dict[str, Any]:
        return json.loads((self.folder / "study" / "tune" / "best.json").read_text(encoding="utf-8"))

    @cached_property
    def boost(self) -> BoostParams:
        return BoostParams.model_validate(self.best["train"])
