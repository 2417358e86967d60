"""``mangroves page`` on a small run: what is in the folder, what is refused, what may be hostile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import geopandas as gpd
import pytest
import rasterio
from PIL import Image

from tests.jobs.calls import Job, mangroves


def data_of(page: Path) -> dict[str, Any]:
    line = (page / "data.js").read_text(encoding="utf-8").split("\n", 1)[0]
    return json.loads(line.removeprefix("window.MANGROVES = ").removesuffix(";"))


@pytest.fixture(scope="module")
def page(finished: Job, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages") / "page"
    answer = mangroves("page", finished.run, "-o", folder, "--json")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["page"] == str(folder / "index.html")
    return folder


def test_the_folder_holds_all_that_it_names_and_stays_small(page, finished):
    data = data_of(page)
    assert data["years"] == [2016, 2017]
    assert {one["name"] for one in data["regions"]} == {"sim-Vietnam2", "sim-India"}
    by_kind = {(layer["kind"], layer["year"]) for layer in data["layers"]}
    yearly = ("composite", "class", "probability", "looks", "uncertainty")
    assert by_kind == {(kind, year) for kind in yearly for year in (2016, 2017)} | {
        (kind, None) for kind in ("change", "loss_year", "gain_year")
    }
    for layer in data["layers"]:
        assert len(layer["images"]) == 2, "one for each region, far apart"
        for image in layer["images"]:
            (south, west), (north, east) = image["box"]
            with Image.open(page / image["url"]) as picture:
                assert picture.format == "PNG"
            assert south < north
            assert west < east
    for file in data["downloads"]:
        assert file["url"] is None or (page / file["url"]).stat().st_size == file["bytes"]
        assert not Path(file["where"]).is_absolute()
    assert sum(path.stat().st_size for path in page.rglob("*") if path.is_file()) < 20e6
    assert str(finished.folder) not in (page / "index.html").read_text() + json.dumps(
        {key: value for key, value in data.items() if key != "name"}
    )


def test_what_is_copied_opens(page):
    data = data_of(page)
    kinds = {file["kind"] for file in data["downloads"] if file["url"]}
    assert {"series", "table", "style", "record", "class", "change"} <= kinds
    tif = next(file for file in data["downloads"] if file["kind"] == "class" and file["url"])
    with rasterio.open(page / tif["url"]) as raster:
        assert raster.crs.to_epsg() == 32648 or raster.crs.is_projected
    assert (page / tif["url"]).with_name(Path(tif["url"]).stem + ".qml").is_file()
    if data["patches"]["large"]:
        patches = gpd.read_file(page / "files" / "patches.gpkg")
        assert patches.crs.to_epsg() == 4326
        assert len(patches) == data["patches"]["large"]


def test_areas_patches_and_provenance_are_those_of_the_run(page, finished):
    data, record = data_of(page), finished.record
    assert data["series"][0]["by"] == "total"
    assert [row["year"] for row in data["series"][0]["rows"]] == [2016, 2017]
    areas = [one["area_ha"] for one in data["patches"]["shown"]]
    assert areas == sorted(areas, reverse=True)
    assert data["patches"]["total"] >= len(areas) > 0
    about = data["provenance"]
    assert about["config_sha256"] == record["config_sha256"]
    assert about["items"]["count"] == record["items"]["count"]
    assert record["config_sha256"][:12] in about["citation"]


def test_a_page_is_made_again_and_nothing_else_is_replaced(finished_copy, tmp_path, monkeypatch):
    run = finished_copy.run
    assert mangroves("page", run).code == 0
    (run / "page" / "mine.txt").write_text("x")
    assert mangroves("page", run).code == 0
    assert (run / "page" / "mine.txt").exists()
    assert "something else than a page" in mangroves("page", run, "-o", run / "maps").error
    assert (run / "maps" / "2016").is_dir()
    assert "is no folder" in mangroves("page", run, "-o", run / "run.json").error
    assert mangroves("verify", run, "--cluster", "threads").code == 0
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for _ in range(2):
        answer = mangroves("page", run, "-o", ".")
        assert answer.code == 0, answer.err
    assert Path("index.html").is_file()
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")] == []


def test_hostile_names_go_no_further(finished_copy):
    run = finished_copy.run
    evil = "<img src=x onerror=alert(1)></script>"
    record = json.loads((run / "run.json").read_text())
    record["notice"] = evil
    record["masks"] = [{"name": evil, "year": 2016, "licence": evil, "citation": evil}, "nonsense"]
    (run / "run.json").write_text(json.dumps(record))
    (run / "series.csv").write_text((run / "series.csv").read_text().replace("sim-India", "<b>India"))
    answer = mangroves("page", run)
    assert answer.code == 0, answer.err
    html, script = ((run / "page" / name).read_text() for name in ("index.html", "data.js"))
    assert "<img" not in html
    assert "<" not in script
    assert "&lt;img src=x" in html


@pytest.mark.parametrize("name", ["series.csv", "rates.csv", "items.parquet"])
def test_a_link_out_of_the_run_is_not_followed(finished_copy, tmp_path, name):
    (finished_copy.run / name).rename(tmp_path / name)
    (finished_copy.run / name).symlink_to(tmp_path / name)
    assert "lies outside the allowed folders" in mangroves("page", finished_copy.run).error
    assert not (finished_copy.run / "page").exists()


@pytest.mark.parametrize("name", ["series.csv", "change/patches.parquet", "items.parquet"])
def test_a_damaged_table_is_one_line(finished_copy, name):
    (finished_copy.run / name).write_bytes(b"\x00\xffnonsense")
    assert "damaged" in mangroves("page", finished_copy.run).error
    assert not (finished_copy.run / "page").exists()


def test_a_run_without_maps_has_no_page(job):
    assert "run.json is not there" in mangroves("page", job.run).error
    assert job.call("search").code == 0
    assert "no finished map" in mangroves("page", job.run).error
