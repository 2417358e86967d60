"""What a run will do, before it does it: tiles x years, scenes, looks, bytes, memory, hours."""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import shapely
from shapely.ops import transform as transform_geometry

from engine.area import Area
from engine.errors import PlanError
from engine.grid import TILE_PX, Tile, tiles_of, to_zone
from engine.landsat import BANDS
from engine.params import REQUESTS
from engine.scenes import Scene, balance_seasons

BLOCK_SIZES: Final = (2048, 1024, 512, 256)
"""Rows of a block: as many as fit the worker. Blocks have a tile's full width."""
ASSETS_READ: Final = len(BANDS) + 2
COMPRESSION: Final = 1.6
"""Deflate with predictor 2 on Collection 2 bands and QA, a rough mean: an estimate, printed as one."""

DEFAULT_MB_PER_SECOND: Final = 20.0
"""Compressed MB/s a worker reads, decodes and composites; ``mangroves doctor`` measures yours."""

LOOK_BYTES_PER_PIXEL: Final = len(BANDS) * 2 + 1
"""Six uint16 bands and one clear flag, for every look of a block."""

LOOKS_AT_ONCE: Final = 6
"""Looks of a block that are read side by side, each waiting for index, quality words and bands in turn."""

READ_BYTES_PER_PIXEL: Final = LOOKS_AT_ONCE * 8
"""Quality words and masks of these looks."""

OTHER_ZONE_BYTES_PER_PIXEL: Final = LOOKS_AT_ONCE * 30
"""Were they all of another zone: pixels under the grid's, and windows of six bands."""

REQUEST_BYTES: Final = 3 * 2**20
"""Of every request in flight: a range that is not decoded yet (``ranges.MAX_RANGE_BYTES``), and what is made of it."""

HELD_BYTES_PER_COLUMN: Final = ASSETS_READ * 2 * 512
"""Of every scene between blocks: a row of internal tiles of each asset, of at most 512 px (larger ones GDAL reads)."""

TILE_BYTES_PER_PIXEL: Final = 240
"""A tile-year's layers and, the larger part, its features (20 to 28 int32) and labels while it is sampled: 237 measured
with neighbourhoods and two thinned composites, 161 with neither; a draw of a tenth of all pixels takes more."""

LAYER_BYTES_PER_PIXEL: Final = 78
"""A tile-year's layers while its cube is made and written, and those of a block beside them."""

HISTORY_BYTES_PER_PIXEL_YEAR: Final = 12
"""All years of a tile while its history is told and written; 12.0 measured between 10 and 30 years of 1024 x 1024."""

TRACED_VALUES: Final = 8 * 2**20
"""Pixels times years of a strip that is traced at once, but a row at least."""

TRACE_BYTES_PER_VALUE: Final = 36
"""Of these; 31 measured."""

WRITE_BYTES_PER_PIXEL: Final = 32
"""Cube, maps, history and change of a tile-year on disk; 23 to 29 on the simulated archive, an estimate elsewhere."""

PROCESS_BYTES: Final = 640 * 2**20
"""Interpreter, libraries (430 MB), kernels, pixel centres of another grid (134 MB); GDAL's cache, if it must read."""


@dataclass(frozen=True)
class TileYear:
    """One tile in one year: the unit of planning, resuming, accounting and failing."""

    tile: Tile
    year: int
    scenes: tuple[Scene, ...]
    """In order of time and id."""

    @property
    def key(self) -> str:
        """Tile and year, e.g. ``z48_c08_r-016/2019``."""
        return f"{self.tile.id}/{self.year}"

    @property
    def looks(self) -> int:
        """Number of observations."""
        return len({scene.observation for scene in self.scenes})


@dataclass(frozen=True)
class Plan:
    """All tile-years of a run and what they cost."""

    tile_years: tuple[TileYear, ...]
    block_px: int
    """Rows of a tile whose looks a task holds at once."""

    task_bytes: int
    """Stated bound on the memory of one task, process included."""

    read_bytes: int
    """Estimated compressed bytes to read, at most: a year sampled by thinned composites is read twice where every block
    has rows."""

    keep_scenes: bool = False
    """Whether the masked looks are kept beside the cubes."""

    @property
    def tiles(self) -> tuple[Tile, ...]:
        return tuple(dict.fromkeys(part.tile for part in self.tile_years))

    @property
    def years(self) -> tuple[int, ...]:
        return tuple(sorted({part.year for part in self.tile_years}))

    @property
    def tasks(self) -> int:
        """Tile tasks of cube, sample, classify and change together, were every year labelled; pairs as by default.

        Change is a history, its patches and its series of every tile, and the pairs.
        """
        steps = len(self.years) - 1
        return 3 * len(self.tile_years) + len(self.tiles) * (steps + (steps > 1) + (3 if steps else 0))

    @property
    def write_bytes(self) -> int:
        """Estimated bytes on disk of all outputs."""
        look = len(BANDS) * 2 / COMPRESSION if self.keep_scenes else 0
        return sum(
            int((WRITE_BYTES_PER_PIXEL + look * p.looks) * p.tile.shape[0] * p.tile.shape[1]) for p in self.tile_years
        )

    def looks_by_sensor(self) -> dict[tuple[int, str], tuple[int, float]]:
        """Return (year, platform) -> (scenes, clear looks of a mean pixel, at most).

        Each look counts by the share of the tile it covers and its scene's clear share. Dilated cloud, shadow and
        the gaps of ETM+ are not known before the pixels are read and make them fewer.
        """
        scenes: dict[tuple[int, str], set[str]] = {}
        clear: dict[tuple[int, str], float] = {}
        for part in self.tile_years:
            outline = lonlat_outline(part.tile)
            best: dict[tuple[str, str], float] = {}
            for scene in part.scenes:
                seen = _share(scene, outline) * (1 - (scene.cloud_cover or 0) / 100)
                look = (scene.platform, scene.observation)
                best[look] = max(best.get(look, 0.0), seen)
                scenes.setdefault((part.year, scene.platform), set()).add(scene.id)
            for (platform, _), seen in best.items():
                key = (part.year, platform)
                clear[key] = clear.get(key, 0.0) + seen / len(self.tiles)
        return {key: (len(scenes[key]), clear[key]) for key in sorted(scenes)}

    def hours(self, workers: int, mb_per_second: float = DEFAULT_MB_PER_SECOND) -> float:
        """Return the estimated hours at a rate of compressed MB/s a worker."""
        return self.read_bytes / 1e6 / mb_per_second / max(workers, 1) / 3600

    def summary(self, workers: int, mb_per_second: float = DEFAULT_MB_PER_SECOND) -> dict[str, Any]:
        """Return the figures of ``mangroves plan`` as plain values."""
        return {
            "tiles": len(self.tiles),
            "years": list(self.years),
            "tile_years": len(self.tile_years),
            "scenes": len({s.id for part in self.tile_years for s in part.scenes}),
            "pixels_per_year": sum(t.shape[0] * t.shape[1] for t in self.tiles),
            "read_gb_estimated": round(self.read_bytes / 1e9, 3),
            "write_gb_estimated": round(self.write_bytes / 1e9, 3),
            "tasks": self.tasks,
            "block_px": self.block_px,
            "task_memory_gb_bound": round(self.task_bytes / 1e9, 2),
            "workers": workers,
            "mb_per_second_per_worker": mb_per_second,
            "hours_estimated": round(self.hours(workers, mb_per_second), 3),
            "looks": [
                {"year": year, "platform": platform, "scenes": scenes, "clear_looks_at_most": round(clear, 1)}
                for (year, platform), (scenes, clear) in self.looks_by_sensor().items()
            ],
        }


def make_plan(
    area: Area,
    periods: Mapping[int, tuple[dt.datetime, dt.datetime]],
    scenes: Sequence[Scene],
    *,
    block_px: int | None = None,
    worker_bytes: int | None = None,
    keep_scenes: bool = False,
    requests: int = REQUESTS,
    read_again: Collection[int] = (),
    balance: Literal["none", "season"] = "none",
    low_tide: bool = False,
) -> Plan:
    """Cut an area into tile-years, give each its scenes, and check that a worker can hold one.

    Parameters
    ----------
    area : Area
    periods : mapping of int to (datetime, datetime)
        Year -> first instant and first instant after, UTC.
    scenes : sequence of Scene
    block_px : int, optional
        Rows of a block; default the largest of 2048, 1024, 512, 256 that fits ``worker_bytes``.
    worker_bytes : int, optional
        Memory a worker has; unlimited if not given.
    keep_scenes : bool
        ``cube.keep: scenes``: a task then holds all looks of a tile, whatever the block.
    requests : int
        Byte ranges a task asks for at once.
    read_again : collection of int
        Years of which scenes are read once more, for thinned composites.
    balance : str
        ``season`` gives each tile-year the scenes that ``scenes.balance_seasons`` keeps of its own.
    low_tide : bool
        ``cube.tide: low``: a second clear flag of every look of a block.

    Raises
    ------
    PlanError
        If no scene reaches the area in any year, or no block fits the worker.
    """
    tiles = tiles_of(area.geometry)
    tile_years = []
    for tile in tiles:
        footprint = lonlat_outline(tile)
        near = [scene for scene in scenes if scene.geometry.intersects(footprint)]
        for year, (start, end) in sorted(periods.items()):
            chosen = sorted(
                (scene for scene in near if start <= scene.datetime < end), key=lambda s: (s.datetime, s.id)
            )
            if balance == "season":
                chosen = balance_seasons(chosen)
            tile_years.append(TileYear(tile, year, tuple(chosen)))
    if not any(part.scenes for part in tile_years):
        raise PlanError(
            f"none of {len(scenes)} scenes reaches the area in {min(periods)}-{max(periods)}",
            fix="check the area and the years",
        )
    sizes = (block_px,) if block_px else BLOCK_SIZES
    histories = max(history_bytes(tile.shape, len(periods)) for tile in tiles)
    for size in sizes:
        bounds = {part.key: _bytes_of(part, size, keep_scenes, requests, low_tide) for part in tile_years}
        bound = max(*bounds.values(), histories)
        if worker_bytes is None or bound <= worker_bytes:
            again = [part for part in tile_years if part.year in read_again]
            return Plan(tuple(tile_years), size, bound, _read_bytes(tile_years) + _read_bytes(again), keep_scenes)
    if bound == histories:
        raise PlanError(
            f"the history of {len(periods)} years of a tile needs {bound / 1e9:.2f} GB, "
            f"a worker has {worker_bytes / 1e9:.2f} GB",  # type: ignore[operator]
            fix="raise memory_limit in cluster.yaml, or map fewer years in a run",
        )
    largest = next(part for part in tile_years if bounds[part.key] == bound)
    raise PlanError(
        f"one task needs {bound / 1e9:.2f} GB ({largest.looks} looks of blocks of {size} rows), "
        f"a worker has {worker_bytes / 1e9:.2f} GB",  # type: ignore[operator]
        fix="raise memory_limit in cluster.yaml, set search.least_cloudy, or "
        + ("drop cube.keep: scenes" if keep_scenes else "lower cube.block_px"),
    )


def history_bytes(shape: tuple[int, int], years: int) -> int:
    """Return the memory bound of the task that tells a tile's history, bytes; of a single year there is none."""
    values = shape[0] * shape[1] * years
    traced = max(min(TRACED_VALUES, values), shape[1] * years)
    return PROCESS_BYTES + TRACE_BYTES_PER_VALUE * traced + HISTORY_BYTES_PER_PIXEL_YEAR * values if years > 1 else 0


def _bytes_of(part: TileYear, block_px: int, keep_scenes: bool, requests: int, low_tide: bool) -> int:
    return task_bytes(
        part.looks,
        block_px,
        part.tile.shape,
        scenes=len(part.scenes),
        other_zone=any(scene.epsg != part.tile.epsg for scene in part.scenes),
        keep_scenes=keep_scenes,
        requests=requests,
        low_tide=low_tide,
    )


def task_bytes(
    looks: int,
    block_px: int,
    shape: tuple[int, int] = (TILE_PX, TILE_PX),
    *,
    scenes: int | None = None,
    other_zone: bool = False,
    keep_scenes: bool = False,
    requests: int = REQUESTS,
    low_tide: bool = False,
) -> int:
    """Return the memory bound of any task of one tile-year, bytes.

    Parameters
    ----------
    looks : int
    block_px : int
        Rows of a block.
    shape : (int, int)
        Of the tile.
    scenes : int, optional
        Default as many as looks.
    other_zone : bool
        Whether any scene lies in another zone than the tile.
    keep_scenes : bool
        Whether the masked looks are kept beside the cube.
    requests : int
        Byte ranges asked for at once.
    low_tide : bool
        Whether the wettest looks are left out, by a second clear flag.
    """
    height, width = shape
    rows = min(block_px, height)
    held = HELD_BYTES_PER_COLUMN * (width + 1024) * (looks if scenes is None else scenes) if rows < height else 0
    reading = READ_BYTES_PER_PIXEL + (OTHER_ZONE_BYTES_PER_PIXEL if other_zone else 0)
    cube = (
        rows * width * (looks * (LOOK_BYTES_PER_PIXEL + low_tide) + reading)
        + held
        + height * width * LAYER_BYTES_PER_PIXEL
    )
    # A look is written from the lazy stack one at a time, and what lies behind it is several times its size.
    kept = height * width * (looks * len(BANDS) * 2 + TILE_BYTES_PER_PIXEL) if keep_scenes else 0
    return PROCESS_BYTES + requests * REQUEST_BYTES + max(cube, kept, height * width * TILE_BYTES_PER_PIXEL)


def check_disk(plan: Plan, folder: Path) -> None:
    """Refuse a plan whose outputs do not fit the disk of a folder; what lies there from earlier counts as room.

    Raises
    ------
    PlanError
        With the numbers.
    """
    need, free = plan.write_bytes, shutil.disk_usage(folder).free
    # Only asked where it matters: a large run has a million files.
    if need > free and need > free + sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()):
        raise PlanError(
            f"outputs need about {need / 1e9:.1f} GB, {folder} has {free / 1e9:.1f} GB free",
            fix="free space, choose another out, or map fewer years",
        )


def _read_bytes(tile_years: Iterable[TileYear]) -> int:
    """Estimate compressed bytes: every asset of every scene, as far as its footprint covers the tile."""
    total = 0.0
    for part in tile_years:
        height, width = part.tile.shape
        outline = lonlat_outline(part.tile)
        for scene in part.scenes:
            total += _share(scene, outline) * height * width * ASSETS_READ * 2 / COMPRESSION
    return int(total)


def _share(scene: Scene, outline: shapely.Polygon) -> float:
    """Return how much of an outline a scene's footprint covers, 0-1."""
    return scene.geometry.intersection(outline).area / outline.area


def lonlat_outline(tile: Tile) -> shapely.Polygon:
    """Return the outline of a tile's crop in degrees."""
    ring = tile.geobox.extent.geom.segmentize(5000)
    outline = transform_geometry(lambda x, y: to_zone(tile.zone).transform(x, y, direction="INVERSE"), ring)
    west, _, east, _ = outline.bounds
    if east - west > 180:  # a crop that pokes over the antimeridian: keep its own zone's side
        side = 1 if tile.zone > 30 else -1
        outline = transform_geometry(lambda x, y: ([v if v * side > 0 else side * 180 for v in x], y), outline)
    return outline
