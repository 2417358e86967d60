"""Neighbourhoods across the tiles of a run: what they are made of, and what is made anew with them."""

from __future__ import annotations

import json
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
from shapely.geometry import Polygon

from engine.grid import lonlat_of
from engine.kernels.context import focal_means
from engine.kernels.features import ALL_FEATURES, CONTEXT_FEATURES, FEATURE_SETS
from engine.model import Model
from engine.params import TrainParams
from engine.places import Place
from engine.plan import Plan
from engine.sample import part_path, read_sample
from engine.scenes import write_scenes
from engine.store import marker_path, open_store, write_store
from engine.train import fit
from jobs.classify import classify_maps, map_path
from jobs.context import Run
from jobs.cube import build_cubes, cube_path
from jobs.plan import plan_run
from jobs.sample import adjoining_cubes, draw_samples
from jobs.search import find_scenes
from tests.engine.samples import make_sample
from tests.integration.conftest import Opener
from tests.makers import utc, write_scene

SEAM = 9 * 2048
"""Column of zone 48 where the tiles of the first region meet."""

NORTH, SOUTH = -14 * 2048 + 500, -12 * 2048 + 500
"""Rows of the two regions, in tiles that do not adjoin."""


def square(row: int, col: int, side: int = 40) -> Polygon:
    """Return a square of pixels in degrees."""
    lon, lat = lonlat_of(48, np.array([row, row, row + side, row + side]), np.array([col, col + side, col + side, col]))
    return Polygon(zip(lon, lat, strict=True))


@pytest.fixture
def two_regions(tmp_path: Path) -> dict:
    """One region on either side of a seam, and one by itself; two years of two looks."""
    places = {"seam": (NORTH, SEAM - 12), "alone": (SOUTH, SEAM + 100)}
    scenes = [
        write_scene(
            tmp_path,
            day=utc(year, month, 2 + number),
            corner=(row - 20, col - 20),
            shape=(80, 80),
            wrs=(125 + number, 53),
            seed=month,
        )
        for year in (2018, 2019)
        for month in (3, 6)
        for number, (row, col) in enumerate(places.values())
    ]
    write_scenes(scenes, tmp_path / "found.parquet")
    outlines = [square(*place) for place in places.values()]
    gpd.GeoDataFrame({"name": list(places)}, geometry=outlines, crs=4326).to_file(tmp_path / "area.geojson")
    gpd.GeoDataFrame(geometry=[square(NORTH, SEAM - 12, 20)], crs=4326).to_parquet(tmp_path / "mask.parquet")
    return {
        "area": {"file": str(tmp_path / "area.geojson"), "name_field": "name"},
        "years": [2018, 2019],
        "search": {"catalogs": [str(tmp_path / "found.parquet")]},
        "labels": {"masks": [{"path": str(tmp_path / "mask.parquet"), "year": 2018}], "erode_px": 0},
        "sample": {"mangrove": 1.0, "other": 1.0, "thinned": 0},
        "train": {"features": "all+mad+context"},
    }


def draw_and_map(run: Run, plan: Plan, model: Model, folder: Path) -> dict[str, tuple[str, ...]]:
    """Make what is missing; return the fingerprints of samples and maps by key of the tile-year."""
    build_cubes(run, plan)
    draw_samples(run, plan)
    classify_maps(run, plan, model, folder)
    found = {}
    for part in plan.tile_years:
        paths = part_path(run.outputs / "sample", part.tile.id, part.year), map_path(run, part)
        found[part.key] = tuple(json.loads(marker_path(path).read_text())["fingerprint"] for path in paths)
    return found


def model_of(names: tuple[str, ...], folder: Path) -> Model:
    sample = make_sample(300)
    sample = sample.assign(**{name: sample["red"] + number for number, name in enumerate(names)})
    model = fit(sample, features=names, params=TrainParams(rounds=2, max_depth=2, calibrate="none"))
    model.save(folder)
    return model


@pytest.mark.slow
def test_neighbourhoods_reach_across_a_seam_and_a_cube_made_anew_remakes_what_adjoins(
    two_regions: dict, open_run: Opener, tmp_path: Path
) -> None:
    model = model_of(FEATURE_SETS["all+mad+context"], tmp_path / "model")
    with open_run(two_regions) as run:
        plan = plan_run(run, find_scenes(run))
        before = draw_and_map(run, plan, model, tmp_path / "model")
        west, east, _ = plan.tiles
        assert (west.window[1] + west.window[3], east.window[1]) == (SEAM, SEAM)

        joined = np.zeros((6, 60, 80), "uint16")
        corner = NORTH - 10, SEAM - 40
        for part in plan.tile_years:
            if part.year == 2019 and part.tile in (west, east):
                top, left = part.tile.window[0] - corner[0], part.tile.window[1] - corner[1]
                with open_store(cube_path(run, part)) as cube:
                    height, width = part.tile.shape
                    joined[:, top : top + height, left : left + width] = cube["composite"].values
        sample = read_sample(run.folder / "sample").compute()
        rows = sample[(sample.year == 2019) & (sample.region == "seam")]
        assert set(rows.tile) == {west.id, east.id}
        means = focal_means(joined)[:, rows.grid_row - corner[0], rows.grid_col - corner[1]]
        assert np.array_equal(rows[list(CONTEXT_FEATURES)].T, means)

        adjoining = adjoining_cubes(run, plan, CONTEXT_FEATURES)
        reached = {key: [other.tile for other in others] for key, others in adjoining.items()}
        pairs = {f"{tile.id}/{year}": [other] for tile, other in ((west, east), (east, west)) for year in (2018, 2019)}
        assert {key: others for key, others in reached.items() if others} == pairs

        change_cube(cube_path(run, next(part for part in plan.tile_years if part.key == f"{east.id}/2019")))
        after = draw_and_map(run, plan, model, tmp_path / "model")
        anew = {f"{tile.id}/2019" for tile in (west, east)}
        for key, old in before.items():
            assert [a == b for a, b in zip(after[key], old, strict=True)] == [key not in anew] * 2, key


@pytest.mark.slow
def test_without_neighbourhoods_no_other_cube_decides_a_sample_or_a_map(
    two_regions: dict, open_run: Opener, tmp_path: Path
) -> None:
    model = model_of(ALL_FEATURES, tmp_path / "model")
    two_regions["train"]["features"] = "all"
    with open_run(two_regions) as run:
        plan = plan_run(run, find_scenes(run))
        before = draw_and_map(run, plan, model, tmp_path / "model")
        assert not any(adjoining_cubes(run, plan, ALL_FEATURES).values())
        changed = plan.tile_years[0]
        change_cube(cube_path(run, changed))
        after = draw_and_map(run, plan, model, tmp_path / "model")
    assert [key for key, old in before.items() if after[key] != old] == [changed.key]


def change_cube(store: Place) -> None:
    """Write other bands of a pixel, as if the cube had been made anew."""
    with open_store(store) as data:
        cube = data.load()
    cube["composite"][:, 0, 0] += 1
    write_store(store, cube, json.loads(marker_path(store).read_text()))
