"""A run labelled by the real Global Mangrove Watch tiles of 1996 and 2020 over south-west Florida."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rasterio
from shapely.geometry import box

from engine.grid import tiles_of
from engine.legend import MANGROVE, OTHER
from engine.plan import make_plan
from engine.sample import read_sample
from engine.scenes import Scene, write_scenes
from jobs.cube import build_cubes
from jobs.run import run_all
from jobs.sample import draw_samples
from jobs.search import find_scenes
from tests.integration.conftest import Opener
from tests.makers import utc, write_scene

TILE = "mangrove-masks/gmw_v3_tile_N26W082"
BOUNDS = (-81.45, 25.82, -81.40, 25.86)
"""Chokoloskee Bay, Ten Thousand Islands."""


def scenes_over(folder: Path, years: tuple[int, ...]) -> list[Scene]:
    (tile,) = tiles_of(box(*BOUNDS))
    top, left, height, width = tile.window
    platforms = {1997: "landsat-5", 2019: "landsat-8"}
    return [
        write_scene(
            folder,
            day=utc(year, month, 7),
            zone=tile.zone,
            corner=(top - 11, left - 17),
            shape=(height + 20, width + 30),
            platform=platforms[year],
            wrs=(16, 42),
            seed=month,
        )
        for year in years
        for month in (2, 5, 9)
    ]


def config_of(shared_data: Path, folder: Path, **labels: Any) -> dict[str, Any]:
    """Write the scenes and return the configuration of a run labelled by the two real masks."""
    write_scenes(scenes_over(folder / "scenes", (1997, 2019)), folder / "found.parquet")
    masks = [{"path": str(path), "year": year} for year, path in mask_files(shared_data).items()]
    return {
        "area": {"bbox": list(BOUNDS), "name": "Ten Thousand Islands"},
        "years": [1997, 2019],
        "search": {"catalogs": [str(folder / "found.parquet")]},
        "labels": {"masks": masks, **labels},
        "sample": {"mangrove": 0.2, "other": 0.2},
        "train": {"rounds": 5},
    }


def mask_files(shared_data: Path) -> dict[int, Path]:
    return {year: shared_data / TILE / f"GMW_N26W082_{year}_v3.tif" for year in (1996, 2020)}


def shown(rows: pd.DataFrame, shared_data: Path, year: int) -> np.ndarray:
    """Return the class the mask of a year shows at the sampled places, by rasterio alone."""
    with rasterio.open(mask_files(shared_data)[year]) as file:
        values = np.array([value[0] for value in file.sample(zip(rows.lon, rows.lat, strict=True))])
    return np.where(values == 1, MANGROVE, OTHER)


@pytest.mark.slow
def test_every_sampled_pixel_has_the_class_of_the_nearest_real_mask(
    shared_data: Path, tmp_path: Path, open_run: Opener
) -> None:
    with open_run(config_of(shared_data, tmp_path), shared_data) as run:
        plan = make_plan(run.area, run.periods, find_scenes(run))
        build_cubes(run, plan)
        table = draw_samples(run, plan)
        rows = read_sample(run.folder / "sample").compute()
    assert table.loc["Ten-Thousand-Islands", "mangrove"] == (rows.label == MANGROVE).sum() > 1000
    assert (rows.mask_year == rows.year.map({1997: 1996, 2019: 2020})).all()
    assert (rows.mask_year_gap.abs() == 1).all()
    then, now = shown(rows, shared_data, 1996), shown(rows, shared_data, 2020)
    assert (then != now).any(), "some of it changed"
    assert np.array_equal(rows.label, np.where(rows.year == 1997, then, now))


@pytest.mark.slow
def test_a_run_between_two_real_masks_labels_only_where_they_agree(
    shared_data: Path, tmp_path: Path, open_run: Opener
) -> None:
    with open_run(config_of(shared_data, tmp_path, stable_between=[1996, 2020]), shared_data) as run:
        result = run_all(run)
        rows = read_sample(run.folder / "sample").compute()
        record = run.record.data
    then, now = shown(rows, shared_data, 1996), shown(rows, shared_data, 2020)
    assert np.array_equal(then, now)
    assert np.array_equal(rows.label, then)
    assert set(rows.label) == {OTHER, MANGROVE}
    assert set(rows.year) == {1997, 2019}
    assert [mask["year"] for mask in record["masks"]] == [1996, 2020]
    assert (len(result["maps"]), len(result["change"])) == (2, 1)
