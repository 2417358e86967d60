"""``mangroves edit``, ``mangroves suggest`` and training on what they were told, on a small simulated world."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
from shapely.geometry import box

from engine.area import read_area
from engine.edits import add_edits, check_edits
from engine.grid import lonlat_of, pixel_hectares, tiles_of
from engine.kernels.edits import apply_edits
from engine.overview import find_layers
from engine.params import AreaParams
from engine.record import made_with
from engine.sample import read_part
from engine.splits import block_ids
from engine.store import open_store
from engine.trust import Trust
from jobs.suggest import label_pixels
from tests.jobs.calls import Answer, Job, mangroves, markers
from tests.stac_schemas import problems


def call(job: Job, command: str, *more: str | Path) -> Answer:
    roots = ("--allow-root", job.folder, "--allow-root", job.archive.items.parent)
    return mangroves(command, job.run, *more, "--cluster", "threads", *roots)


def square(job: Job, region: str, x: float, y: float, side: float, **about: object) -> gpd.GeoDataFrame:
    """Return a square in a region, in shares of its width from its west and south."""
    regions = gpd.read_file(job.archive.regions).set_index("name")
    west, south, east, north = regions.geometry[f"sim-{region}"].bounds
    wide, high = east - west, north - south
    shape = box(west + x * wide, south + y * high, west + (x + side) * wide, south + (y + side) * high)
    return gpd.GeoDataFrame({name: [value] for name, value in about.items()}, geometry=[shape], crs=4326)


@pytest.fixture(scope="module")
def edited(finished, tmp_path_factory) -> Job:
    """A run with three polygons over Vietnam2, and one over the region held out."""
    folder = tmp_path_factory.mktemp("edited")
    shutil.copytree(finished.folder, folder, dirs_exist_ok=True)
    job = Job(folder, finished.archive, copy.deepcopy(finished.config))
    assert job.call("search").code == 0  # the record knows its new place
    drawn = [
        square(job, "Vietnam2", 0.1, 0.1, 0.3, kind="add"),
        square(job, "Vietnam2", 0.2, 0.2, 0.3, kind="remove", from_year=2016, to_year=2016),
        square(job, "Vietnam2", 0.7, 0.7, 0.2, kind="unsure"),
        square(job, "India", 0.4, 0.4, 0.1, kind="add", from_year=2017),
    ]
    pd.concat(drawn).to_file(folder / "drawn.gpkg")
    answer = call(job, "edit", folder / "drawn.gpkg", "--author", "ana", "--json")
    assert answer.code == 0, answer.err
    (folder / "told.json").write_text(answer.out)
    return job


def maps(job: Job, year: int, tile: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return classes of the map, codes of edits and classes as edited."""
    with open_store(job.run / "maps" / str(year) / f"{tile}.zarr") as data:
        before = data["class"].values
    with open_store(job.run / "maps_edited" / str(year) / f"{tile}.zarr") as data:
        return before, data["edit"].values, data["class"].values


def maps_alone(job: Job, year: int, tile: str) -> np.ndarray:
    with open_store(job.run / "maps" / str(year) / f"{tile}.zarr") as data:
        return data["class"].values


def test_maps_as_edited_are_a_layer_to_look_at(edited):
    layers = {layer.id: layer for layer in find_layers(edited.run, [2016, 2017])}
    for year in (2016, 2017):
        for tile, source in layers[f"edited-{year}"].tiles.items():
            store = edited.run / "maps_edited" / str(year) / f"{tile}.zarr"
            expected = maps(edited, year, tile)[2] if store.exists() else maps_alone(edited, year, tile)
            with rasterio.open(source.place) as tif:
                assert np.array_equal(tif.read(source.band), expected)


def test_the_map_stays_and_the_edited_one_is_another_product(edited, finished):
    assert markers(edited.run) == markers(finished.run)
    area = read_area(AreaParams(file=str(edited.archive.regions), name_field="name"), Trust().with_roots("/"))
    told, changed, pixels = json.loads((edited.folder / "told.json").read_text()), {}, 0
    for tile in tiles_of(area.geometry):
        for year in (2016, 2017):
            if (tile.zone, year) == (45, 2016):
                assert not (edited.run / "maps_edited" / "2016" / f"{tile.id}.zarr").exists()
                continue
            before, edits, after = maps(edited, year, tile.id)
            assert np.array_equal(after, apply_edits(before, edits))
            for code in (1, 2, 3):
                hectares = np.broadcast_to(pixel_hectares(tile), before.shape)[(before != after) & (edits == code)]
                changed[code] = changed.get(code, 0.0) + hectares.sum()
            pixels += int((before != after).sum())
            with rasterio.open(edited.run / "maps_edited" / str(year) / f"class_{tile.id}_{year}.tif") as tif:
                assert np.array_equal(tif.read(1), after)
                assert tif.tags()["edits"] == "version 1"
                assert tif.tags()["edits_sha256"] == told["sha256"]
    assert list(told["changed_ha"].values()) == pytest.approx([changed[code] for code in (1, 2, 3)], abs=1e-3)
    assert sum(told["changed_pixels"].values()) == pixels > 1000
    assert told["conflicting_pixels"] > 0
    counts = edited.record["stages"]["edit"]["counts"]
    assert {name: counts[name] for name in ("version", "sha256", "polygons", "changed_ha")} == {
        name: told[name] for name in ("version", "sha256", "polygons", "changed_ha")
    }


def test_a_mosaic_takes_the_map_where_nothing_was_drawn(edited):
    for path in sorted((edited.run / "maps_edited").rglob("*.vrt")):
        year = int(path.parent.name)
        with rasterio.open(path) as mosaic, rasterio.open(edited.run / "maps" / path.parent.name / path.name.replace(
            "_edited", ""
        )) as plain:  # fmt: skip
            assert mosaic.bounds == plain.bounds
            assert np.array_equal(mosaic.read(), plain.read()) == (year == 2016 and "_z45" in path.name)


def test_areas_stand_side_by_side(edited):
    table = pd.read_csv(edited.run / "areas_edited.csv")
    plain = pd.read_csv(edited.run / "areas.csv")
    assert np.array_equal(table[["pixels", "hectares"]], plain[["pixels", "hectares"]])
    assert table["pixels"].sum() == table["pixels_edited"].sum()
    untouched = table[(table["year"] == 2016) & (table["where"] == "sim-India")]
    assert (untouched["difference_ha"] == 0).all()
    assert (table["difference_ha"] - (table["hectares_edited"] - table["hectares"])).abs().max() < 1e-3


def test_the_same_edits_again_redo_nothing_and_others_only_where_they_lie(edited, tmp_path):
    folder = edited.run / "maps_edited"
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*.tif")}
    again = call(edited, "edit", edited.folder / "drawn.gpkg")
    assert "0 of 4 polygon(s) are new: version 1" in again.err
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.tif")} == times
    square(edited, "India", 0.1, 0.7, 0.1, kind="remove", from_year=2017).to_file(tmp_path / "more.geojson")
    more = call(edited, "edit", tmp_path / "more.geojson")
    assert "edit      2 of 3 tile-years finished earlier, skipped" in more.err
    undone = call(edited, "edit", "--undo")
    assert undone.code == 0, undone.err
    kept = {path for path, when in times.items() if path.stat().st_mtime_ns == when}
    assert all(("_z45" in path.name) == (path not in kept) for path in times)
    versions = json.loads(call(edited, "edit", "--list", "--json").out)["versions"]
    assert [(one["version"], one["action"], one["polygons"]) for one in versions] == [
        (1, "add", 4),
        (2, "add", 5),
        (3, "undo", 4),
    ]


def test_maps_of_earlier_code_are_edited_and_stay_those_of_that_code(edited):
    path = edited.run / "run.json"
    text = path.read_text()
    record = json.loads(text)
    for session in record["sessions"]:
        session["versions"] |= {"mangroves": "0.0.1", "engine_sha256": "0" * 64}
    del record["config"]["train"]["edits"]  # which that code did not know
    path.write_text(json.dumps(record))
    try:
        answer = call(edited, "edit")
        assert answer.code == 0, answer.err
        after = json.loads(path.read_text())
        assert after["config"] == record["config"]
        assert after["config_sha256"] == record["config_sha256"]
        assert made_with(after)["engine_sha256"] == "0" * 64
        assert "was made with mangroves 0.0.1" in edited.call("search").error
    finally:
        path.write_text(text)


def test_the_catalog_follows_what_people_edit(edited):
    def items() -> dict[str, dict]:
        folder = edited.run / "stac"
        paths = [*(folder / "edited").glob("edited_*.json"), *(folder / "summaries").glob("*.json")]
        return {path.stem: json.loads(path.read_text()) for path in paths}

    found = items()
    versions = json.loads(call(edited, "edit", "--list", "--json").out)["versions"]
    assert sorted(found["edits"]["assets"]) == [f"v{one['version']:04d}.gpkg" for one in versions]
    assert {"areas_edited.csv"} < set(found["edited"]["assets"])
    assert "areas_edited.csv" not in found["summary"]["assets"]
    stores = {
        f"edited_{path.stem}_{path.parent.name}"
        for path in (edited.run / "maps_edited").rglob("*.zarr")
        if path.is_dir()
    }
    assert {name for name in found if name.startswith("edited_")} == stores
    wrong, _, _ = problems(found.values())
    assert not wrong, wrong[:5]
    for item in found.values():
        for linked in (*item.get("links", ()), *item.get("assets", {}).values()):
            assert (edited.run / "stac" / "edited" / linked["href"]).exists() or item["type"] == "Collection", linked
    square(edited, "India", 0.8, 0.1, 0.1, kind="add", from_year=2016, to_year=2016).to_file(edited.folder / "one.gpkg")
    assert call(edited, "edit", edited.folder / "one.gpkg").code == 0
    assert sum(name.startswith("edited_") for name in items()) == len(stores) + 1
    assert call(edited, "edit", "--undo").code == 0
    assert {name for name in items() if name.startswith("edited_")} == stores


def test_verify_covers_what_edits_made(edited):
    assert mangroves("verify", edited.run, "--cluster", "threads").code == 0
    path = next((edited.run / "maps_edited").rglob("edit_*.tif"))
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    answer = mangroves("verify", edited.run, "--cluster", "threads")
    path.write_bytes(content)
    assert answer.code == 1
    assert path.name in answer.err


def test_mistakes_are_one_line(edited, job, tmp_path):
    for arguments, expected in (
        ((tmp_path / "none.gpkg",), "cannot be read"),
        ((edited.archive.regions,), "have no column kind"),
        ((edited.folder / "drawn.gpkg", "--undo"), "one of them"),
    ):
        assert expected in call(edited, "edit", *arguments).error
    assert "run.json is not there" in call(job, "edit", "--list").error
    assert job.call("search").code == 0
    assert "run `mangroves classify` first" in call(job, "edit").error
    assert "run `mangroves classify` first" in call(job, "suggest").error
    assert "holds no suggestions" in call(edited, "suggest", "--labels", tmp_path / "none.csv").error


@pytest.mark.slow
def test_suggested_points_are_labelled_as_edits_and_trained_on(edited, tmp_path):
    answer = call(edited, "suggest", "--count", "12", "--year", "2017", "--spacing", "200", "--json")
    assert answer.code == 0, answer.err
    folder = edited.run / "suggest"
    points = gpd.read_file(folder / "points.gpkg")
    assert len(points) == json.loads(answer.out)["points"] == 12
    assert pd.read_csv(folder / "points.csv")["id"].tolist() == points["id"].tolist()
    assert set(points["region"]) == {"sim-Vietnam2"}
    grid = points[["row", "col"]].to_numpy() * 30.0
    apart = np.hypot(*(grid[:, np.newaxis] - grid[np.newaxis]).T)[~np.eye(12, dtype=bool)]
    assert apart.min() >= 199
    _, edits, _ = maps(edited, 2017, "z48_c08_r-016")
    area = read_area(AreaParams(file=str(edited.archive.regions), name_field="name"), Trust().with_roots("/"))
    [tile] = [tile for tile in tiles_of(area.geometry) if tile.zone == 48]
    at = points["row"] - tile.window[0], points["col"] - tile.window[1]
    with open_store(edited.run / "maps" / "2017" / f"{tile.id}.zarr") as data:
        assert (data["probability"].values[at] / 1e4).tolist() == pytest.approx(points["probability"].tolist())
    assert not edits[at].any()  # what is edited is labelled
    labels = pd.read_csv(folder / "labels_template.csv", dtype=str)
    labels["2017"] = ["mangrove", "other", "unsure", *["other"] * 9]
    labels.to_csv(tmp_path / "labels.csv", index=False)
    answer = call(edited, "suggest", "--labels", tmp_path / "labels.csv", "--json")
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    assert told["added"] == 11
    call(edited, "edit")
    _, edits, _ = maps(edited, 2017, tile.id)
    assert edits[at].tolist() == [1, 2, 0, *[2] * 9]

    answer = edited.call("train", "--set", "train.edits=true")
    assert answer.code == 0, answer.err
    assert "edited pixels lie in regions held out and train nothing" in answer.err
    found = pd.concat(map(read_part, (edited.run / "edits" / "sample").glob("*.parquet")))
    drawn = found[found["why"].str.startswith("edit")]
    assert set(drawn["region"]) == {"sim-Vietnam2"}
    assert drawn["thinned"].all()
    edits_of = {year: maps(edited, year, tile.id)[1] for year in (2016, 2017)}
    for year, rows in found[found["zone"] == 48].groupby("year"):
        code = edits_of[year][rows["grid_row"] - tile.window[0], rows["grid_col"] - tile.window[1]]
        hand = rows["why"].str.startswith("edit").to_numpy()
        assert np.array_equal(np.where(code[hand] == 1, 2, 1), rows["label"][hand])
        assert not np.isin(code[hand], (0, 3)).any()
        assert not rows["interior"].to_numpy()[~hand & (code != 0)].any()
    model = json.loads((edited.run / "model" / "meta.json").read_text())
    name = f"human edits v{told['version']:04d}"
    assert model["masks"][-1]["name"] == name
    held = found[found["region"] == "sim-India"]
    assert not set(block_ids(held)) & set(model["blocks"])
    assert name in (edited.run / "model" / "README.md").read_text()
    assert "model finished earlier" in edited.call("train", "--set", "train.edits=true").err


def test_the_label_of_a_pixel_on_the_antimeridian_is_a_small_square_on_both_sides():
    row, col = -60_133, 5978
    west, east = (lonlat_of(1, row, col + aside)[0] for aside in (-0.25, 0.25))
    assert west > 179.99
    assert east < -179.99
    at = (np.array([number]) for number in (1, row, col))
    found = check_edits(label_pixels(*at, np.array([2]), year=2019, notes=["a"]))
    parts = shapely.get_parts(found.geometry.iloc[0])
    assert len(parts) == 2
    assert max(shapely.bounds(part)[2] - shapely.bounds(part)[0] for part in parts) < 0.0003


def test_the_viewer_adds_the_same_by_its_own_words(edited):
    frame = gpd.read_file(edited.folder / "drawn.gpkg")
    layer, added = add_edits(edited.run, json.loads(frame.to_json()), author="viewer")
    assert added == 0
    assert len(check_edits(frame)) == 4
    assert layer.polygons["author"].iloc[0] == "ana"
