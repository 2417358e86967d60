"""Inputs that change under the same name, and what a run makes of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from affine import Affine

from engine.cluster import open_cluster
from engine.errors import StoreError
from engine.simulate import Archive, WorldParams, write_archive
from engine.trust import Trust
from jobs.config import parse_config
from jobs.context import Run, begin_run, place_run
from jobs.cube import build_cubes
from jobs.plan import plan_run
from jobs.reporter import Reporter
from jobs.search import find_scenes


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    world = WorldParams(("India",), (2016,), size_px=128, scenes_per_year=3, mask_years=(2016,))
    return write_archive(world, tmp_path / "archive")


@contextmanager
def opened(archive: Archive, **sections: Any) -> Iterator[Run]:
    """Open the run of an archive, as every command does."""
    folder = archive.items.parents[1]
    config = {
        "out": str(folder),
        "area": {"file": str(archive.regions), "name_field": "name"},
        "years": list(archive.params.years),
        "search": {"catalogs": [str(archive.items)]},
        **sections,
    }
    with (
        open_cluster("threads") as client,
        begin_run(
            place_run(parse_config(config, source="test"), Trust().with_roots(folder)),
            client,
            Reporter(as_json=True),
            fresh=False,
        ) as run,
    ):
        yield run


@pytest.mark.parametrize("change", ["name", "geometry"])
def test_another_area_in_a_file_of_the_same_name_is_another_run(archive, change):
    with opened(archive) as run:
        build_cubes(run, plan_run(run, find_scenes(run)))
    with opened(archive):
        pass
    frame = gpd.read_file(archive.regions)
    if change == "name":
        frame["name"] = "elsewhere"
    else:
        frame["geometry"] = frame.geometry.translate(0.5)
    frame.to_file(archive.regions)
    with pytest.raises(StoreError, match=r"differs in: area\.sha256"), opened(archive):
        pass


def test_a_habitat_raster_of_the_same_name_and_other_content_decides_other_maps(archive, tmp_path):
    found = []
    for height in (5, 6):
        with rasterio.open(
            tmp_path / "dem.tif",
            "w",
            driver="GTiff",
            height=4,
            width=4,
            count=1,
            dtype="uint8",
            crs="EPSG:4326",
            transform=Affine(1, 0, 88, 0, -1, 23),
        ) as file:
            file.write(np.full((1, 4, 4), height, "uint8"))
        with opened(archive, habitat={"dem": str(tmp_path / "dem.tif"), "max_distance_to_tidal_water_km": None}) as run:
            found.append(json.dumps(run.habitat_fingerprint))
    assert found[0] != found[1]


def test_a_scene_lost_before_a_kill_is_listed_by_the_next_command(archive):
    broken = min(archive.items.parent.rglob("*_SR_B4.TIF"))
    broken.write_bytes(b"no raster")
    with opened(archive, skip_bad=True) as run:
        build_cubes(run, plan_run(run, find_scenes(run)))
        [lost] = run.record.data["lost"]
        path = run.record.path
    # As a kill leaves it between the worker's marker and the client's record.
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), "lost": []}), encoding="utf-8")
    with opened(archive, skip_bad=True) as run:
        build_cubes(run, plan_run(run, find_scenes(run)))
        assert run.record.data["lost"] == [lost]
