"""What the commands make of simulated worlds whose change is asked for: a model trained elsewhere, maps, histories.

A planet is one seed: its sensors, its mask, its model. Six of its 25 regions are worlds, of the kinds ``WORLDS``; the
model is trained on the other nineteen. Everything is made as a user would make it; nothing here knows the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from benchmarks.commands import Commands
from engine.area import study_regions
from engine.simulate import Archive
from engine.simulate.world import stream

FEATURES: Final = "all+mad"
"""Of the pixel itself: means of its neighbourhood smear the edge of what changed."""

TRAINED: Final = (2004, 2010, 2012, 2018)
"""Years trained on: of Landsat 5 and 7, of the same with its gaps, of Landsat 7 with gaps alone, of Landsat 8."""

MASKS: Final = (2000, 2020)
"""Land is labelled where both agree, as with Giri's mask and Global Mangrove Watch's."""

HIGH, LOW = 0.0075, 0.0015
"""Share of the mangrove that changes in a year; the low one is about the world's."""

QUIET: Final = range(2009, 2018)
"""Years of a land where nothing happens, seen as often as each sensor really saw the tropics: 3 to 30 clear looks."""

CROSSING, RECENT, LONG = range(2008, 2018), range(2014, 2024), range(2001, 2023)
"""Years of a world: across the sensors of 2009 to 2016, of Landsat 8 and 9 alone, and of 22 years across all."""


_RATES: Final = {HIGH: "high", LOW: "low", 0.0: "quiet"}


@dataclass(frozen=True)
class Kind:
    """What is asked of a world."""

    rate: float
    years: range

    @property
    def name(self) -> str:
        return f"{_RATES[self.rate]}-{self.years[0]}"

    @property
    def groups(self) -> Iterator[str]:
        """Names of the groups that it counts in."""
        yield _RATES[self.rate]
        if self.years[0] <= 2009 and self.years[-1] >= 2016:
            yield "crossing"
        if len(self.years) >= 20:
            yield "long"


WORLDS: Final = (
    Kind(HIGH, CROSSING),
    Kind(LOW, CROSSING),
    Kind(HIGH, RECENT),
    Kind(LOW, RECENT),
    Kind(HIGH, LONG),
    Kind(LOW, RECENT),
)
"""Half of them change fast, half of them span 2009 to 2016."""

GROUPS: Final = ("high", "low", "crossing", "long")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How large a benchmark of change is."""

    seed: int
    worlds: int
    size_px: int = 512
    scenes: int = 14
    workers: int = 2


@dataclass(frozen=True)
class World:
    """A region, mapped and traced."""

    kind: Kind
    archive: Archive
    region: str
    run: Path


def make_worlds(setting: Setting, folder: Path, say: Callable[[str], None]) -> Iterator[World]:
    """Make worlds and their histories, planet by planet."""
    left = setting.worlds
    planet = 0
    while left > 0:
        yield from _make_planet(setting, setting.seed + planet, min(left, len(WORLDS)), folder, say)
        left -= len(WORLDS)
        planet += 1


def make_quiet(setting: Setting, folder: Path, say: Callable[[str], None]) -> World:
    """Make a world where nothing happens, in the first region of a planet that is made."""
    commands = Commands(folder / f"planet-{setting.seed}", setting.workers, say)
    size = {"size_px": setting.size_px, "scenes_per_year": None, "seed": setting.seed}
    return _map_world(Kind(0.0, QUIET), _regions(setting.seed)[:1], commands, size)[0]


def _make_planet(setting: Setting, seed: int, count: int, folder: Path, say: Callable[[str], None]) -> Iterator[World]:
    place = folder / f"planet-{seed}"
    place.mkdir(parents=True, exist_ok=True)
    commands = Commands(place, setting.workers, say)
    names, kinds = _regions(seed), WORLDS[:count]
    size: dict[str, Any] = {"size_px": setting.size_px, "scenes_per_year": setting.scenes, "seed": seed}
    elsewhere = commands.simulate("elsewhere", names[len(WORLDS) :], TRAINED, masks=MASKS, **size)
    masks = [{"path": str(path), "year": year} for year, path in elsewhere.masks.items()]
    sections: dict[str, Any] = {
        "labels": {"masks": masks, "stable_between": list(MASKS)},
        "sample": {"mangrove": 1000, "other": 2000},
        "train": {"features": FEATURES, "hold_out": []},
    }
    commands.run("train", commands.configure("trained", elsewhere, TRAINED, seed=seed, **sections))
    numbered = sorted(zip(kinds, names, strict=False), key=lambda one: kinds.index(one[0]))
    for kind, members in groupby(numbered, key=lambda one: one[0]):
        yield from _map_world(kind, [region for _, region in members], commands, size)


def _regions(seed: int) -> list[str]:
    """Return all regions, first those of the worlds of a planet."""
    return [str(name) for name in stream(seed, "worlds").permutation(sorted(study_regions()))]


def _map_world(kind: Kind, regions: Sequence[str], commands: Commands, size: dict[str, Any]) -> list[World]:
    """Simulate regions, map them with the planet's model and trace them."""
    place = commands.folder
    archive = commands.simulate(kind.name, regions, kind.years, change_rate=kind.rate, **size)
    train = {"from": str(place / "trained" / "model"), "features": FEATURES}
    run = f"{kind.name}-run"
    config = commands.configure(run, archive, kind.years, seed=size["seed"], train=train)
    commands.run("change", config, "--allow-root", place)
    return [World(kind, archive, region, place / run) for region in regions]
