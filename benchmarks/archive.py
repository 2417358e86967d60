"""The archive every benchmark reads: a simulated square of Landsat scenes, cut as real ones are."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from engine.grid import TILE_PX, Tile
from engine.plan import TileYear
from engine.ranges import Access
from engine.raster import read_raster
from engine.scenes import Scene, observations, scene_from_item
from engine.simulate import WorldParams, write_archive
from engine.simulate.archive import Archive
from engine.simulate.world import site_of
from engine.trust import Trust

YEAR = 2015
REGION = "Venezuela"
"""Of the 25 regions the one whose year is masked as a year in the tropics is: 43 % of the pixels of 24 dates."""

INSET_PX = 96
"""From the simulated square to the measured one, so that scenes reach beyond it on all sides."""


@dataclass(frozen=True)
class Scale:
    """How large a comparison is."""

    size_px: int
    """Side of the measured square, 30 m pixels."""

    looks: int
    """Dates in the year, of two paths."""

    part_px: int
    """Side of the windows that stand for tiles where many are needed."""

    parts: int
    """Such windows in one run of the scaling of workers."""

    most_trees: int
    """A model has at most."""

    noop_thousands: int
    """Thousands of tasks without work."""

    runs: int
    """Runs of each side; the scaling of workers has two more."""


SCALES = {
    "tiny": Scale(size_px=128, looks=6, part_px=64, parts=2, most_trees=10, noop_thousands=1, runs=1),
    "small": Scale(size_px=1024, looks=24, part_px=512, parts=8, most_trees=300, noop_thousands=2, runs=3),
}


@dataclass(frozen=True)
class BenchmarkArchive:
    """A square with a year of scenes: COGs of uint16, deflate, predictor 2, 256 px tiles, and their truth.

    One scene a date: a pass that is delivered as two rows keeps the first, as not every peer fuses them.
    """

    world: Archive
    size_px: int

    @cached_property
    def scenes(self) -> tuple[Scene, ...]:
        """In order of time."""
        items = json.loads(self.world.items.read_text(encoding="utf-8"))["features"]
        found = [scene_from_item(item, base=str(self.world.folder)) for item in items]
        return tuple(rows[0] for rows in observations(found).values())

    @property
    def access(self) -> Access:
        return Access(Trust().with_roots(self.world.folder))

    @property
    def square(self) -> TileYear:
        """The measured square as a tile-year."""
        return self.window(0, 0, self.size_px)

    def window(self, row: int, col: int, size_px: int) -> TileYear:
        """Return a window of the square as a tile-year."""
        site = site_of(REGION, self.world.params.size_px)
        top, left = site.row + INSET_PX + row, site.col + INSET_PX + col
        tile = Tile(site.zone, left // TILE_PX, top // TILE_PX, (top, left, size_px, size_px))
        return TileYear(tile, YEAR, self.scenes)

    def windows(self, count: int, size_px: int) -> list[TileYear]:
        """Return windows spread over the square, at offsets that share no grid; they may overlap."""
        room = self.size_px - size_px
        return [self.window(97 * n % (room + 1), 61 * n % (room + 1), size_px) for n in range(count)]

    def mangrove(self) -> np.ndarray:
        """Return the truth of the square, bool (y, x)."""
        inner = slice(INSET_PX, INSET_PX + self.size_px)
        return read_raster(self.world.truth(f"sim-{REGION}", YEAR))[0][1][inner, inner] > 0


def make_archive(folder: Path, scale: Scale) -> BenchmarkArchive:
    """Write the archive of a scale into a folder, or return it where it already stands; the same bytes everywhere."""
    world = WorldParams(
        regions=(REGION,),
        years=(YEAR,),
        size_px=scale.size_px + 2 * INSET_PX,
        scenes_per_year=scale.looks + 1,  # a year of n passes is asked for as n + 1 scenes
        compression="deflate",
    )
    return BenchmarkArchive(write_archive(world, folder / f"archive-{scale.size_px}-{scale.looks}"), scale.size_px)


@dataclass(frozen=True)
class Setup:
    """What every comparison is given."""

    archive: BenchmarkArchive
    scale: Scale
    folder: Path
    """For outputs; whoever made it removes it."""

    runs: int
    """Of each side."""


def served(part: TileYear, root: Path, address: str) -> TileYear:
    """Return a tile-year whose scenes lie behind an address in place of a folder."""
    scenes = [
        replace(
            scene, assets={name: f"{address}/{Path(href).relative_to(root)}" for name, href in scene.assets.items()}
        )
        for scene in part.scenes
    ]
    return replace(part, scenes=tuple(scenes))
