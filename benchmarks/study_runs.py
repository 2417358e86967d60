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

import geopandas as gpd
import pandas as pd
import yaml

from engine.area import STUDY_HOLD_OUT, study_regions
from engine.model import Model, load_model
from engine.params import BoostParams
from engine.sample import read_sample
from engine.simulate import Archive, read_archive

YEAR: Final = 2022
"""Imagery of Landsat 8 and 9; the mask is of three years before, as old as the study's habit allows."""

FEATURES: Final = "all+mad+context"
"""All of them spectral: no elevation, no distance."""

SENSOR_YEARS: Final = {"landsat-8": 2014, "landsat-5": 1999, "landsat-7": 2012}
"""A year of each in which no other flew, so of as many scenes, as near to each other as can be: the land changes too.
Landsat 7 is without its scan-line corrector."""

MAINLAND_SHARE: Final = 0.02
"""Mangrove share stated for the mainland setting, which has 1-3 %."""

_PLATFORMS: Final = ("landsat-8", "landsat-9")
_MASK_AGE: Final = 3


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

HELD: Final = tuple(f"sim-{name}" for name in STUDY_HOLD_OUT)
"""The hold-out, as runs call its regions."""


@dataclass(frozen=True)
class Runs:
    """The runs of a study, in one folder.

    Parameters
    ----------
    setting : Setting
    folder : Path
    say : callable
        Takes a line of progress.
    """

    setting: Setting
    folder: Path
    say: Callable[[str], None]

    # --- what is made

    def make_study(self) -> None:
        """Simulate the study's world; search, train and map."""
        others = [name for name in study_regions() if name not in STUDY_HOLD_OUT]
        self._simulate("world", [*STUDY_HOLD_OUT, *others][: self.setting.regions], [YEAR])
        config = self._configure("study", "world", YEAR)
        self._command("tune", config)
        self._command("classify", config, "--set", "train.tuned=true")

    def make_draw(self) -> pd.DataFrame:
        """Draw rows of the hold-out by the published study's rule, in a run of their own; return them."""
        regions = gpd.read_file(self.archive.regions)
        path = self.folder / "held-out.geojson"
        regions[regions["name"].isin(HELD)].to_file(path, driver="GeoJSON", COORDINATE_PRECISION=9)
        area = {"file": str(path), "name_field": "name"}
        sample = {"rule": "study", "thinned": 0}
        self._command("sample", self._configure("study-draw", "world", YEAR, area=area, sample=sample))
        return _read_rows(self.folder / "study-draw")

    def make_sensors(self) -> None:
        """Map the hold-out with the study's model as each sensor alone saw it: runs of the platforms' names."""
        self._simulate("sensors", STUDY_HOLD_OUT, sorted(SENSOR_YEARS.values()))
        for platform, year in SENSOR_YEARS.items():
            self._map_with_model(platform, "sensors", year, [platform])

    def make_mainland(self) -> None:
        """Map the hold-out's squares with the study's model in a world of little mangrove: run ``mainland-run``."""
        self._simulate("mainland", STUDY_HOLD_OUT, [YEAR], "--setting", "mainland")
        stated = {"classify": {"prevalence": MAINLAND_SHARE}}
        self._map_with_model("mainland-run", "mainland", YEAR, _PLATFORMS, **stated)

    def _simulate(self, world: str, regions: Sequence[str], years: Sequence[int], *more: str) -> None:
        if (self.folder / world / "world.json").is_file():
            return
        options = {
            "regions": ",".join(sorted(regions, key=list(study_regions()).index)),
            "years": ",".join(map(str, years)),
            "size-px": self.setting.size_px,
            "scenes-per-year": self.setting.scenes,
            "seed": self.setting.seed,
        }
        flags = [flag for name, value in options.items() for flag in (f"--{name}", str(value))]
        mask = f"mask_years=[{min(years) - _MASK_AGE}]"
        self._command("simulate", self.folder / world, *flags, "--set", mask, *more)

    def _map_with_model(self, run: str, world: str, year: int, platforms: Sequence[str], **more: Any) -> None:
        model = {"from": str(self.folder / "study" / "model"), "features": FEATURES}
        config = self._configure(run, world, year, platforms=platforms, train=model, **more)
        self._command("classify", config, "--allow-root", self.folder)

    def _configure(
        self, run: str, world: str, year: int, *, platforms: Sequence[str] = _PLATFORMS, **more: Any
    ) -> Path:
        """Write the configuration of a run; sections given stand in place of the study's."""
        setting, archive = self.setting, read_archive(self.folder / world)
        ((mask, path_of_mask),) = archive.masks.items()
        config = {
            "name": run,
            "out": str(self.folder),
            "area": {"file": str(archive.regions), "name_field": "name"},
            "years": [year],
            "seed": setting.seed,
            "search": {"catalogs": [str(archive.items)], "platforms": list(platforms), "tiers": ["T1", "T2"]},
            "labels": {"masks": [{"path": str(path_of_mask), "year": mask}], "max_gap_years": _MASK_AGE},
            "sample": {"mangrove": setting.draw[0], "other": setting.draw[1]},
            "train": {"features": FEATURES, "hold_out": list(HELD)},
            "tune": {"trials": setting.trials, "folds": setting.folds, "repeats": setting.repeats},
            "notice": archive.params.notice,
        }
        path = self.folder / f"{run}.yaml"
        path.write_text(yaml.safe_dump({**config, **more}, sort_keys=False), encoding="utf-8")
        return path

    def _command(self, name: str, *arguments: str | Path) -> None:
        """Run a command of ``mangroves``, on as many workers as the study has."""
        started = time.perf_counter()
        clusters = self.folder / "cluster.yaml"
        local = {"kind": "local", "workers": self.setting.workers, "threads_per_worker": 1}
        clusters.write_text(yaml.safe_dump({"profiles": {"local": local}}), encoding="utf-8")
        line = [sys.executable, "-m", "jobs", name, *map(str, arguments), "--cluster-file", str(clusters)]
        done = subprocess.run(line, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"mangroves {name} failed: {done.stderr.strip().splitlines()[-1:]}")
        self.say(f"mangroves {name} {Path(arguments[0]).stem}: {time.perf_counter() - started:.0f} s")

    # --- what was made

    @cached_property
    def archive(self) -> Archive:
        """The study's world."""
        return read_archive(self.folder / "world")

    @cached_property
    def model(self) -> Model:
        """The model the maps were made with."""
        return load_model(self.folder / "study" / "model")

    @cached_property
    def best(self) -> dict[str, Any]:
        """The best trial of the trees that maps are made with, as the search wrote it."""
        return json.loads((self.folder / "study" / "tune" / "best.json").read_text(encoding="utf-8"))

    @cached_property
    def boost(self) -> BoostParams:
        """Its parameters."""
        return BoostParams.model_validate(self.best["train"])

    @cached_property
    def leaderboard(self) -> dict[Any, Any]:
        """The row of each candidate by its name, best first."""
        table = pd.read_parquet(self.folder / "study" / "tune" / "leaderboard.parquet")
        return table.set_index("candidate").to_dict("index")

    def sample(self) -> pd.DataFrame:
        """Return the rows the study drew."""
        return _read_rows(self.folder / "study")


def _read_rows(run: Path) -> pd.DataFrame:
    return pd.DataFrame(read_sample(run / "sample").compute().drop(columns="geometry"))
