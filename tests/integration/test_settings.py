"""Settings that change what a run does: looks kept, clearest looks, other models, the habitat limit, skipped scenes."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rasterio
import xarray as xr
from scipy.ndimage import distance_transform_edt

import jobs.train
from engine.area import region_codes
from engine.errors import SceneError
from engine.gdal import read_onto
from engine.grid import pixel_hectares
from engine.landsat import BANDS
from engine.legend import MANGROVE, OUTSIDE_HABITAT
from engine.masks import label_tile, open_masks
from engine.params import AreaParams
from engine.plan import Plan, make_plan
from engine.scenes import observations, read_scenes
from engine.simulate import Archive, WorldParams, write_archive
from engine.store import open_store, read_marker
from engine.tasks import looks_path
from engine.trust import Trust
from jobs.classify import map_path
from jobs.config import parse_config
from jobs.context import Run, begin_run, place_run
from jobs.cube import build_cubes, cube_path
from jobs.reporter import Reporter
from jobs.run import run_all
from jobs.search import find_scenes
from tests.integration.conftest import Opener, simulated_config


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    world = WorldParams(
        ("Nigeria1", "India"), (2016, 2020), size_px=128, scenes_per_year=6, mask_years=(2016, 2020), seed=3
    )
    return write_archive(world, tmp_path_factory.mktemp("settings") / "archive")


def plan_of(run: Run) -> Plan:
    return make_plan(run.area, run.periods, read_scenes(run.folder / "items.parquet"))


@pytest.mark.long
def test_kept_looks_open_placed_and_timed_and_missing_ones_are_made_again(
    archive: Archive, open_run: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_run(simulated_config(archive, cube={"keep": "scenes"}, years=[2016]), archive.folder) as run:
        plan = make_plan(run.area, run.periods, find_scenes(run))
        build_cubes(run, plan)
        for part in plan.tile_years:
            store = looks_path(cube_path(run, part))
            opened = xr.open_zarr(store, decode_coords="all")
            assert opened["looks"].dims == ("time", "band", "y", "x")
            assert opened.sizes["time"] == part.looks
            assert list(opened.band.values) == list(BANDS)
            assert set(opened.time.dt.year.values) == {part.year}
            assert opened.spatial_ref.attrs["spatial_ref"].startswith(("PROJCS", "PROJCRS"))
            assert float(opened.x[0]) == part.tile.geobox.transform.c + 15
            assert np.isnan(opened["looks"].values[~(opened["looks"].values > 0)]).all(), "0 is missing"
        # Looks that went missing are made again, and nothing else.
        store.with_suffix(".json").unlink()
        made: list[str] = []
        monkeypatch.setattr(run.reporter, "say", made.append)
        build_cubes(run, plan)
        assert made[0] == "cube      1 of 2 tile-years finished earlier, skipped"


def test_the_clearest_looks_of_every_region_and_year_are_kept(archive: Archive, open_run: Opener) -> None:
    with open_run(simulated_config(archive), archive.folder) as run:
        everything = find_scenes(run)
        parts = make_plan(run.area, run.periods, everything).tile_years
    expected = set()
    for part in parts:  # each region is one tile
        clear: dict[str, Any] = defaultdict(lambda: False)
        inside = region_codes(run.area, part.tile) > 0
        for scene in part.scenes:
            with rasterio.open(scene.assets["qa_pixel"]) as file:
                words = read_onto(file, part.tile.geobox, 1)
            clear[scene.observation] |= ((words & 0b11111) == 0) & inside
        best = sorted(observations(part.scenes), key=lambda look: -int(clear[look].sum()))[:2]
        expected |= {scene.id for scene in part.scenes if scene.observation in best}
    search = {"catalogs": [str(archive.items)], "least_cloudy": 2}
    with open_run(simulated_config(archive, name="clearest", search=search), archive.folder) as run:
        kept = find_scenes(run)
        assert {scene.id for scene in kept} == expected
        assert [scene.id for scene in kept] == [scene.id for scene in read_scenes(run.folder / "items.parquet")]
        assert all(part.looks == 2 for part in plan_of(run).tile_years)
    assert len(expected) < len(everything)


def damaged(archive: Archive, folder: Path) -> tuple[Archive, str]:
    """Copy the archive's items, the red band of one scene cut short so that only its lower rows cannot be read."""
    document = json.loads(archive.items.read_text())
    victim = document["features"][0]
    for item in document["features"]:
        for asset in item["assets"].values():
            asset["href"] = str(archive.folder / asset["href"])
    whole = Path(victim["assets"]["red"]["href"])
    broken = folder / whole.name
    broken.write_bytes(whole.read_bytes()[:-4000])
    victim["assets"]["red"]["href"] = str(broken)
    (folder / "items.json").write_text(json.dumps(document))
    return Archive(folder, archive.params), victim["id"]


@pytest.mark.long
def test_a_scene_cut_short_stops_the_run_or_is_left_out_of_cube_and_looks(
    archive: Archive, open_run: Opener, tmp_path: Path
) -> None:
    copy, victim = damaged(archive, tmp_path)
    config = simulated_config(archive, cube={"keep": "scenes"}, search={"catalogs": [str(copy.items)]}, years=[2016])
    with (
        pytest.raises(SceneError, match=f"scene {victim}, asset red: .* cannot be read .*--skip-bad"),
        open_run(config, archive.folder) as run,
    ):
        build_cubes(run, make_plan(run.area, run.periods, find_scenes(run)))
    # A run of its own: the other tile's task of the one that stopped may still be writing.
    with open_run({**config, "name": "without", "skip_bad": True}, archive.folder) as run:
        plan = make_plan(run.area, run.periods, find_scenes(run))
        build_cubes(run, plan)
        (part,) = [part for part in plan.tile_years if victim in {scene.id for scene in part.scenes}]
        assert {loss["scene"] for loss in run.record.data["lost"]} == {victim}
        with open_store(cube_path(run, part)) as cube, open_store(looks_path(cube_path(run, part))) as kept:
            assert kept.sizes["time"] == cube["clear_count"].max() == part.looks - 1


@pytest.fixture(scope="module")
def finished(archive: Archive, client: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the result of a whole run whose model others may use."""
    folder = tmp_path_factory.mktemp("finished")
    params = parse_config({"out": str(folder), **simulated_config(archive)}, source="test")
    trust = Trust().with_roots(folder, archive.folder)
    with begin_run(place_run(params, trust), client, Reporter(as_json=True), fresh=False) as run:
        return run_all(run)


@pytest.mark.long
def test_a_model_of_another_run_maps_without_masks_or_training(
    archive: Archive, finished: dict[str, Any], open_run: Opener
) -> None:
    config = simulated_config(archive, train={"from": finished["model"]}, labels={})
    with open_run(config, archive.folder, Path(finished["run"])) as run:
        result = run_all(run)
        assert result["trees_sha256"] == finished["trees_sha256"]
        assert result["model"] == finished["model"]
        assert not (run.folder / "sample").exists()
        assert not (run.folder / "model").exists()
        # Whose labels a map stands on is said of it, wherever its model was made.
        assert [mask["year"] for mask in run.record.data["masks"]] == sorted(archive.masks)
        with rasterio.open(next((run.folder / "maps").rglob("class_*.tif"))) as file:
            assert file.tags()["labels"].endswith("2020")
        assert set(run.record.data["stages"]) == {
            *("search", "plan", "cube", "classify", "history", "change", "patches", "series", "catalog")
        }
        for part in plan_of(run).tile_years:
            theirs = Path(finished["run"]) / map_path(run, part).relative_to(run.folder)
            assert read_marker(map_path(run, part))["sha256"] == read_marker(theirs)["sha256"]  # type: ignore[index]


@pytest.mark.long
def test_training_on_the_study_opens_a_run_of_its_regions_inside_this_one(
    archive: Archive, open_run: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The study has 25 regions all over the tropics; here it has the two whose scenes are simulated."""
    known = {name: centre for name, centre in jobs.train.study_regions().items() if name in archive.params.regions}
    assert len(jobs.train.study_regions()) == 25
    monkeypatch.setattr(jobs.train, "study_regions", lambda: known)
    area = AreaParams(point=known["India"], size_km=3)
    config = simulated_config(archive, train={"from": "study", "rounds": 20}, area=area.model_dump(exclude_none=True))
    with open_run(config, archive.folder) as run:
        result = run_all(run)
        inner = json.loads((run.folder / "study" / "run.json").read_text())
        assert result["model"] == str(run.folder / "study" / "model")
        assert inner["status"] == "finished"
        assert set(inner["stages"]) == {"search", "plan", "cube", "sample", "train"}
        assert "sample" not in run.record.data["stages"]
        # India is one of the study's four hold-out regions, so the model never saw the area it maps.
        assert result["metrics"]["scope"] == "transfer: held-out regions"
        again = run_all(run)
        assert again["trees_sha256"] == result["trees_sha256"]


@pytest.mark.long
def test_the_habitat_limit_is_a_class_of_its_own_and_its_cost_is_told(
    archive: Archive, open_run: Opener, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    water = tmp_path / "water"
    water.mkdir()
    for name, path in archive.dems.items():
        with rasterio.open(path) as file:
            profile = {**file.profile, "dtype": "uint8", "count": 1, "nodata": 255}
        occurrence = np.zeros((128, 128), "uint8")
        occurrence[:, :10] = 90
        occurrence[0, 127] = 49  # not often enough
        with rasterio.open(water / f"{name}.tif", "w", **profile) as file:
            file.write(occurrence, 1)
    habitat = {
        "max_elevation_m": 3.0,
        "dem": str(archive.folder / "dem"),
        "max_distance_to_tidal_water_km": 1.5,
        "water": str(water),
    }
    with open_run(simulated_config(archive, habitat=habitat), archive.folder) as run:
        run_all(run)
        plan = plan_of(run)
        areas = pd.read_csv(run.folder / "areas.csv")
        labels = run.params.labels
        masks = open_masks(labels, trust=run.trust)
        told: dict[str, float] = defaultdict(float)
        for part in plan.tile_years:
            region = run.area.regions[int(region_codes(run.area, part.tile).max()) - 1].name
            occurrence = np.zeros(part.tile.shape)
            occurrence[:, :10] = 1
            with rasterio.open(archive.dems[region]) as file:
                low = file.read(1) <= 3.0
            allowed = low & (distance_transform_edt(occurrence == 0) <= 50)
            assert 0.05 < allowed.mean() < 0.95
            with open_store(map_path(run, part)) as data:
                assert np.array_equal(data["class"].values == OUTSIDE_HABITAT, ~allowed)
                assert (data["probability"].values[~allowed] == 65535).all()
            hectares = np.broadcast_to(pixel_hectares(part.tile), part.tile.shape)
            row = areas[(areas["where"] == region) & (areas.year == part.year) & (areas.code == OUTSIDE_HABITAT)]
            assert row.pixels.item() == (~allowed).sum()
            assert row.hectares.item() == pytest.approx(hectares[~allowed].sum(), abs=1e-3)
            mask = label_tile(masks, part.tile.geobox, part.year, labels).labels
            told[str(part.year)] += hectares[(mask == MANGROVE) & ~allowed].sum()
            sample = pd.read_parquet(run.folder / "sample" / f"{part.tile.id}_{part.year}.parquet")
            rows, cols = sample.grid_row - part.tile.window[0], sample.grid_col - part.tile.window[1]
            assert allowed[rows, cols].all(), "training rows lie within the limit too"
        counted = run.record.data["stages"]["sample"]["counts"]["mask_mangrove_outside_habitat_ha"]
        assert counted == pytest.approx(dict(told), abs=1e-3)
        assert min(told.values()) > 0
    printed = capsys.readouterr().err
    assert f"2016: {told['2016']:,.1f} ha of the mask's mangrove lie outside the limit" in printed
    outside = areas[(areas.year == 2020) & (areas.code == OUTSIDE_HABITAT)].hectares.sum()
    assert f"2020: {outside:,.1f} ha of the area lie outside the limit, class 3" in printed
