"""What the commands make of a simulated study: worlds, a search, models and maps.

Every one is made as a user would make it; nothing here knows the truth.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import geopandas as gpd
import pandas as pd

from benchmarks.commands import FEATURES, MASK_AGE, Commands
from engine.area import STUDY_HOLD_OUT, study_regions
from engine.model import Model, load_model
from engine.params import BoostParams
from engine.sample import read_sample
from engine.simulate import Archive, read_archive

YEAR: Final = 2022
"""Imagery of Landsat 8 and 9; the mask is of three years before, as old as the study's habit allows."""

SENSOR_YEARS: Final = {"landsat-8": 2014, "landsat-5": 1999, "landsat-7": 2012}
"""A year of each in which no other flew, so of as many scenes, as near to each other as can be: the land changes too.
Landsat 7 is without its scan-line corrector."""

MAINLAND_SHARE: Final = 0.02
"""Mangrove share stated for the mainland setting, which has 1-3 %."""

_PLATFORMS: Final = ("landsat-8", "landsat-9")


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
        self._commands.run("tune", config)
        self._commands.run("classify", config, "--set", "train.tuned=true")

    def make_draw(self) -> pd.DataFrame:
        """Draw rows of the hold-out by the published study's rule, in a run of their own; return them."""
        regions = gpd.read_file(self.archive.regions)
        path = self.folder / "held-out.geojson"
        regions[regions["name"].isin(HELD)].to_file(path, driver="GeoJSON", COORDINATE_PRECISION=9)
        area = {"file": str(path), "name_field": "name"}
        sample = {"rule": "study", "thinned": 0}
        self._commands.run("sample", self._configure("study-draw", "world", YEAR, area=area, sample=sample))
        return _read_rows(self.folder / "study-draw")

    def make_sensors(self) -> None:
        """Map the hold-out with the study's model as each sensor alone saw it: runs of the platforms' names."""
        self._simulate("sensors", STUDY_HOLD_OUT, sorted(SENSOR_YEARS.values()))
        for platform, year in SENSOR_YEARS.items():
            self._map_with_model(platform, "sensors", year, [platform])

    def make_mainland(self) -> None:
        """Map the hold-out's squares with the study's model in a world of little mangrove: run ``mainland-run``."""
        self._simulate("mainland", STUDY_HOLD_OUT, [YEAR], setting="mainland")
        stated = {"classify": {"prevalence": MAINLAND_SHARE}}
        self._map_with_model("mainland-run", "mainland", YEAR, _PLATFORMS, **stated)

    def _simulate(self, world: str, regions: Sequence[str], years: Sequence[int], **more: str) -> None:
        setting = self.setting
        size = {"size_px": setting.size_px, "scenes_per_year": setting.scenes, "seed": setting.seed}
        self._commands.simulate(world, regions, years, masks=[min(years) - MASK_AGE], **size, **more)

    def _map_with_model(self, run: str, world: str, year: int, platforms: Sequence[str], **more: Any) -> None:
        model = {"from": str(self.folder / "study" / "model"), "features": FEATURES}
        config = self._configure(run, world, year, platforms=platforms, train=model, **more)
        self._commands.run("classify", config, "--allow-root", self.folder)

    def _configure(
        self, run: str, world: str, year: int, *, platforms: Sequence[str] = _PLATFORMS, **more: Any
    ) -> Path:
        """Write the configuration of a run; sections given stand in place of the study's."""
        setting, archive = self.setting, read_archive(self.folder / world)
        sections = {
            "search": {"catalogs": [str(archive.items)], "platforms": list(platforms), "tiers": ["T1", "T2"]},
            "sample": {"mangrove": setting.draw[0], "other": setting.draw[1]},
            "train": {"features": FEATURES, "hold_out": list(HELD)},
            "tune": {"trials": setting.trials, "folds": setting.folds, "repeats": setting.repeats},
        }
        return self._commands.configure(run, archive, [year], seed=setting.seed, **(sections | more))

    @property
    def _commands(self) -> Commands:
        return Commands(self.folder, self.setting.workers, self.say)

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
    return pd.DataFrame(read_sample(run / "sample").compute(scheduler="threads").drop(columns="geometry"))
