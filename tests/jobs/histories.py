"""Stores of what happened to pixels, as `mangroves change` leaves them, made of a world's truth and some errors."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from engine.area import Area, read_area, region_codes
from engine.grid import Tile
from engine.history_tasks import history_paths
from engine.legend import GAIN, LOSS, MANGROVE, OTHER, OUTSIDE_AREA, STABLE_MANGROVE, STABLE_OTHER
from engine.params import AreaParams, ChangeParams
from engine.plan import make_plan
from engine.scenes import read_scenes
from engine.simulate import add_truth
from engine.store import grid_coords, write_store
from engine.trust import Trust
from tests.jobs.calls import Job


def area_and_tiles(job: Job) -> tuple[Area, tuple[Tile, ...]]:
    """Return the area of a run whose scenes are frozen, and its tiles."""
    area = read_area(AreaParams(**job.config["area"]), Trust().with_roots(job.archive.items.parent))
    periods = {
        year: tuple(dt.datetime(one, 1, 1, tzinfo=dt.UTC) for one in (year, year + 1)) for year in job.config["years"]
    }
    return area, make_plan(area, periods, read_scenes(job.run / "items.parquet")).tiles


def write_history(path: Path, tile: Tile, regions: np.ndarray, years: list[int], classes: np.ndarray) -> None:
    """Write the store of a tile from its classes, uint8 (year, y, x); of other layers those that are assessed."""
    first, last = classes[0] == MANGROVE, classes[-1] == MANGROVE
    kind = np.select([first & last, first, last], [STABLE_MANGROVE, LOSS, GAIN], STABLE_OTHER).astype("uint8")
    outside = regions == 0
    layers = {
        "kind": (("y", "x"), np.where(outside, np.uint8(OUTSIDE_AREA), kind)),
        "region": (("y", "x"), regions),
        "large": (("y", "x"), np.zeros(tile.shape, np.uint8)),
        "class": (("year", "y", "x"), np.where(outside, np.uint8(OUTSIDE_AREA), classes)),
    }
    data = xr.Dataset(layers, coords={**grid_coords(tile.geobox), "year": years})
    tifs = [tif for tif in history_paths(path).values() if tif.is_file()]  # of the run, if it made histories
    write_store(path, data, {"fingerprint": "test", "years": years, "settings": ChangeParams().tracing}, tifs)


def write_histories(job: Job, *, wrong: float = 0.03, seed: int = 1) -> None:
    """Write histories for all tiles of a run: the truth, a share of the pixels wrong in all years or the last."""
    area, tiles = area_and_tiles(job)
    rng = np.random.default_rng(seed)
    years = job.config["years"]
    for tile in tiles:
        regions = region_codes(area, tile)
        truth = truth_of(job, tile, regions, years)
        truth ^= rng.random(tile.shape) < wrong
        truth[-1] ^= rng.random(tile.shape) < wrong / 4
        classes = np.where(truth, np.uint8(MANGROVE), np.uint8(OTHER))
        write_history(job.run / "change" / "history" / f"{tile.id}.zarr", tile, regions, years, classes)


def truth_of(job: Job, tile: Tile, regions: np.ndarray, years: list[int]) -> np.ndarray:
    """Return what is truly mangrove, bool (year, y, x); False outside the area."""
    y, x = np.nonzero(regions)
    place = {"zone": tile.zone, "grid_row": y + tile.window[0], "grid_col": x + tile.window[1]}
    found = np.zeros((len(years), *tile.shape), bool)
    for index, year in enumerate(years):
        found[index, y, x] = add_truth(pd.DataFrame({**place, "year": year}), job.archive)["truth"]
    return found
