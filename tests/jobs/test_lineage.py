"""The catalog that a run leaves: valid, whole in itself, true of the files it names, and free of secrets."""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import json
import shutil
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import geopandas as gpd
import numpy as np
import pyarrow.parquet as pq
import pystac
import pytest
import rasterio
import rustac
from pyproj import Geod
from rio_cogeo.cogeo import cog_validate

import engine.lineage
from engine.errors import StoreError
from engine.legend import PROBABILITY_RAMP
from engine.lineage import PRODUCTS, Finished, catalog_documents, write_catalog
from engine.model import load_model
from engine.page import Result, provenance
from engine.plan import make_plan
from engine.record import STAC, read_record
from engine.scenes import read_scenes
from engine.trust import Trust
from jobs.config import recorded_config
from jobs.context import place_run
from tests.stac_schemas import extension_schemas, problems

SECRET = "sv=2024&sig=abcdef%3D"


@pytest.fixture(scope="module")
def documents(finished) -> dict[str, dict[str, Any]]:
    folder = finished.run / STAC
    return {p.relative_to(folder).as_posix(): json.loads(p.read_text()) for p in sorted(folder.rglob("*.json"))}


@pytest.fixture(scope="module")
def items(documents) -> dict[str, dict[str, Any]]:
    return {path: document for path, document in documents.items() if document["type"] == "Feature"}


def test_every_output_has_an_item_and_every_product_a_collection(items, documents):
    counts = {name: sum(path.startswith(f"{name}/") for path in items) for name in PRODUCTS}
    assert counts == {
        **{"cubes": 4, "samples": 4, "models": 2, "maps": 4, "histories": 2, "changes": 2, "edited": 0, "summaries": 1},
    }
    assert {path for path in documents if path not in items} == {
        "catalog.json",
        *(f"{name}/collection.json" for name, count in counts.items() if count),
    }


def test_every_document_is_valid_stac(documents):
    wrong, held, not_held = problems(documents.values())
    assert not wrong, wrong[:10]
    assert sum(count for name, count in held.items() if "stacspec" in name) == len(documents)
    if extension_schemas():
        # The published snapshot of the classification extension may end with 1.1.
        assert {name.split("/")[3] for name in not_held} <= {"classification"}


def test_pystac_walks_the_catalog_by_relative_links_alone(finished, items):
    root = pystac.Catalog.from_file(str(finished.run / STAC / "catalog.json"))
    found = list(root.get_items(recursive=True))
    assert sorted(item.id for item in found) == sorted(item["id"] for item in items.values())
    for item in found:
        for asset in item.assets.values():
            assert Path(str(asset.get_absolute_href())).exists(), asset.href
    for path, item in items.items():
        for link in item["links"]:
            assert not Path(link["href"]).is_absolute()
            assert (finished.run / STAC / path).parent.joinpath(link["href"]).exists(), link


def test_a_moved_run_keeps_its_catalog(finished_copy, tmp_path):
    moved = tmp_path / "somewhere" / "else" / "run"
    moved.parent.mkdir(parents=True)
    shutil.move(finished_copy.run, moved)
    root = pystac.Catalog.from_file(str(moved / STAC / "catalog.json"))
    found = list(root.get_items(recursive=True))
    assert len(found) == 19
    for item in found:
        assert all(Path(str(asset.get_absolute_href())).is_relative_to(moved) for asset in item.assets.values())
        assert all(Path(str(asset.get_absolute_href())).exists() for asset in item.assets.values())
        for link in item.links:
            # Of what lies outside the run nothing is promised.
            target = (Path(item.self_href).parent / link.to_dict()["href"]).resolve()
            assert target.exists() or not target.is_relative_to(moved), link


def test_checksums_are_those_of_the_files(finished, items):
    checked = 0
    for path, item in items.items():
        for asset in item["assets"].values():
            if "file:checksum" in asset:
                content = (finished.run / STAC / path).parent.joinpath(asset["href"]).read_bytes()
                assert asset["file:checksum"] == "1220" + hashlib.sha256(content).hexdigest(), asset["href"]
                assert asset["file:size"] == len(content)
                checked += 1
    assert checked > 50


def test_whatever_is_derived_leads_to_the_frozen_scenes(finished, items):
    scenes = {scene.id for scene in read_scenes(finished.run / "items.parquet")}

    def sources(path: str) -> set[str]:
        found = set()
        for link in items[path]["links"]:
            if link["rel"] == "derived_from":
                inside = link["href"].removeprefix("../")
                found |= sources(inside) if inside in items else {link["title"]}
        return found

    masks = {"mask mask_2015.parquet 2015", "mask mask_2018.parquet 2018"}
    for path, item in items.items():
        found = sources(path)
        assert found & scenes, path
        assert found <= scenes | masks
        if item["properties"]["mangroves:product"] != "cubes":
            assert masks <= found, path
    assert sources("summaries/summary.json") == scenes | masks
    [cube] = (item for path, item in items.items() if "cube_z48" in path and "2017" in path)
    marker = json.loads((finished.run / "cube" / cube["properties"]["mangroves:tile"] / "2017.json").read_text())
    linked = [link["title"] for link in cube["links"] if link["rel"] == "derived_from"]
    assert linked == marker["scenes"]


def finished_of(job) -> Finished:
    """Return a finished run as its catalog is written from."""
    record = read_record(job.run)
    params = recorded_config(job.run, record).model_copy(update={"out": str(job.folder / "runs")})
    place = place_run(params, Trust().with_roots(job.folder, job.archive.items.parent))
    periods = {
        year: (dt.datetime(year, 1, 1, tzinfo=dt.UTC), dt.datetime(year + 1, 1, 1, tzinfo=dt.UTC))
        for year in params.years
    }
    scenes = read_scenes(job.run / "items.parquet")
    return Finished(
        params=params,
        record=record,
        folder=job.run,
        outputs=job.run,
        plan=make_plan(place.area, periods, scenes),
        periods=periods,
        model=load_model(job.run / "model"),
        model_folder=job.run / "model",
        pairs=[(2016, 2017)],
    )


def test_no_signature_leaks_and_remote_scenes_are_linked_by_their_items(finished):
    run = finished_of(finished)
    signed = [
        replace(
            part,
            scenes=tuple(
                replace(scene, assets={key: f"https://a.example/{scene.id}_{key}.TIF?{SECRET}" for key in scene.assets})
                for scene in part.scenes
            ),
        )
        for part in run.plan.tile_years
    ]
    masks = tuple(
        mask.model_copy(update={"path": f"https://b.example/m.tif?{SECRET}"}) for mask in run.params.labels.masks
    )
    params = run.params.model_copy(update={"labels": run.params.labels.model_copy(update={"masks": masks})})
    leaky = replace(
        run,
        params=params,
        plan=replace(run.plan, tile_years=tuple(signed)),
        habitat=[f"https://c.example/d.tif?{SECRET}"],
    )
    text = json.dumps(dict(catalog_documents(leaky)))
    assert "sig=" not in text
    assert "abcdef" not in text
    assert "https://a.example/" in text
    assert "https://c.example/d.tif" in text
    search = params.search.model_copy(update={"catalogs": ("planetary-computer",)})
    by_api = replace(leaky, params=params.model_copy(update={"search": search}))
    scene = signed[0].scenes[0].id
    href = f"https://planetarycomputer.microsoft.com/api/stac/v1/collections/{search.collection}/items/{scene}"
    assert href in json.dumps(dict(catalog_documents(by_api)))


def test_a_simulated_run_says_so_in_every_item_and_the_maker_is_named(finished):
    about = {"licence": "CC-BY-4.0", "provider": "A Lab", "url": "https://lab.example", "citation": ""}
    run = finished_of(finished)
    params = run.params.model_copy(
        update={"notice": "SIMULATED world 7", "about": run.params.about.model_copy(update=about)}
    )
    found = dict(catalog_documents(replace(run, params=params)))
    for path, document in found.items():
        told = document.get("properties", document)
        assert told["description"].startswith("SIMULATED world 7. "), path
        if document["type"] == "Feature":
            properties = document["properties"]
            assert properties["license"] == "CC-BY-4.0"
            assert {"name": "A Lab", "roles": ["processor"], "url": "https://lab.example"} in properties["providers"]
            assert "U.S. Geological Survey" not in json.dumps(properties)  # which made none of its scenes
            assert properties["sci:citation"].startswith("A Lab: tiny, mangrove maps of 2016-2017")
            shown = Result(folder=finished.run, outputs=finished.run, record=run.record, params=params)
            assert properties["sci:citation"] == provenance(shown)["citation"]
            assert "SIMULATED world 7." in properties["sci:citation"]


def test_classes_have_the_colours_of_the_raster(finished, items):
    for path, item in items.items():
        for asset in item["assets"].values():
            for number in asset.get("classification:classes", ()):
                with rasterio.open((finished.run / STAC / path).parent / asset["href"]) as file:
                    if file.count == 1:
                        colour = file.colormap(1)[number["value"]][:3]
                        assert "".join(f"{channel:02X}" for channel in colour) == number["color_hint"]


def test_bands_and_grid_are_those_of_the_rasters(finished, items):
    seen = 0
    for path, item in items.items():
        for asset in item["assets"].values():
            if asset["href"].endswith(".tif"):
                with rasterio.open((finished.run / STAC / path).parent / asset["href"]) as file:
                    properties = item["properties"]
                    assert f"EPSG:{file.crs.to_epsg()}" == properties["proj:code"]
                    assert list(file.shape) == properties["proj:shape"]
                    assert list(file.transform[:6]) == properties["proj:transform"]
                    assert [band["data_type"] for band in asset["bands"]] == list(file.dtypes)
                    assert [band["nodata"] for band in asset["bands"]] == list(file.nodatavals)
                    assert [band.get("raster:scale", 1) for band in asset["bands"]] == pytest.approx(file.scales)
                    seen += 1
    assert seen == 4 * 2 + 2 * 10 + 2


def test_the_table_holds_the_same_items(finished, items):
    path = finished.run / STAC / "items.parquet"
    assert json.loads(pq.read_schema(path).metadata[b"stac-geoparquet"])["version"] == "1.1.0"

    def plain(value: Any) -> Any:
        """Without what a column of structs fills in, and numbers of one kind."""
        if isinstance(value, dict):
            return {key: plain(part) for key, part in value.items() if part is not None}
        return [plain(part) for part in value] if isinstance(value, list) else value

    async def read_back() -> Any:
        return await rustac.read(str(path))

    read = asyncio.run(read_back())["features"]
    by_id = {(item["collection"], item["id"]): item for item in read}
    assert len(by_id) == len(items)
    for item in items.values():
        other = plain(by_id[item["collection"], item["id"]])
        assert other["properties"]["mangroves:sha256"] == item["properties"]["mangroves:sha256"]
        assert plain(other["assets"]) == plain(item["assets"])
        assert plain(other["links"]) == plain(item["links"])
        start = dt.datetime.fromisoformat(other["properties"]["start_datetime"])
        assert start == dt.datetime.fromisoformat(item["properties"]["start_datetime"])
    table = gpd.read_parquet(path)
    assert table.crs.equals("OGC:CRS84")
    assert len(table) == len(items)


def test_only_documents_of_a_run_are_deleted_and_links_refused(finished_copy, tmp_path):
    run = finished_of(finished_copy)
    item = next((run.stac / "maps").glob("map_*.json"))
    content = json.loads(item.read_text()) | {"id": "map_of_nothing"}
    gone = item.with_name("map_of_nothing.json")
    gone.write_text(json.dumps(content))
    unmarked = {key: value for key, value in content["properties"].items() if key != "mangroves:run"}
    kept = {
        run.stac / "maps" / "mine.json": "{}",
        run.stac / "maps" / "notes.json": json.dumps(content),  # which is not its name
        run.stac / "maps" / "theirs.json": json.dumps({**content, "id": "theirs", "properties": unmarked}),
        run.stac / "broken.json": "{",
        run.stac / "mine" / "deep" / "item.json": json.dumps({**content, "id": "item"}),
    }
    for path, text in kept.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "item.json").write_text(json.dumps({**content, "id": "item"}))
    (run.stac / "linked").symlink_to(elsewhere)
    (run.stac / "maps" / "item.json").symlink_to(elsewhere / "item.json")
    before = {path: path.read_bytes() for path in run.stac.rglob("*.json") if path != gone}
    write_catalog(run)
    assert not gone.exists()
    assert {path: path.read_text() for path in kept} == kept
    assert before.keys() == set(run.stac.rglob("*.json"))
    assert (elsewhere / "item.json").exists()
    shutil.move(run.stac / "maps", elsewhere / "maps")
    (run.stac / "maps").symlink_to(elsewhere / "maps")
    left = sorted(elsewhere.rglob("*"))
    with pytest.raises(StoreError, match="maps is a link"):
        write_catalog(run)
    assert sorted(elsewhere.rglob("*")) == left


def test_the_item_of_a_model_names_the_edits_it_learnt_from(finished):
    run = finished_of(finished)
    mask = {"name": "human edits v0003", "version": "3", "sha256": "ab" * 32}
    run = replace(run, model=replace(run.model, masks=(*run.model.masks, mask)))
    found = [document["properties"] for path, document in catalog_documents(run) if path.startswith("models/mang")]
    assert [one["mangroves:edits"] for one in found] == [{"version": 3, "sha256": "ab" * 32}] * 2


def test_the_probability_is_drawn_in_every_of_its_colours(items):
    [*renders] = (item["properties"]["renders"] for path, item in items.items() if path.startswith("maps/"))
    for render in (one["probability"] for one in renders):
        assert list(render["colormap"]) == [str(value) for value in range(256)]
        assert render["colormap"]["255"] == [*PROBABILITY_RAMP.stops[-1][1], 255]


def test_false_colour_is_drawn_from_the_bands_it_says(items):
    for path, item in items.items():
        if path.startswith("cubes/"):
            render, bands = item["properties"]["renders"]["false-colour"], item["assets"]["zarr"]["bands"]
            assert [bands[number - 1]["name"] for number in render["bidx"]] == ["nir08", "red", "green"]
            assert render["title"].endswith("nir08, red, green")


@pytest.mark.parametrize(
    ("catalog", "root"),
    [
        ("https://stac.example", "https://stac.example"),
        ("https://stac.example/v1.0/?token=abc", "https://stac.example/v1.0"),
        ("https://stac.example/api/#top", "https://stac.example/api"),
        ("https://stac.example/catalog.json?sig=abc", ""),
        ("items.json", ""),
    ],
)
def test_scenes_of_an_api_are_linked_below_its_root(finished, catalog, root):
    run = finished_of(finished)
    search = run.params.search.model_copy(update={"catalogs": (catalog,), "collection": "landsat c2"})
    run = replace(run, params=run.params.model_copy(update={"search": search}))
    items = (document for path, document in catalog_documents(run) if path.startswith("cubes/cube"))
    [href, *_] = [link["href"] for link in next(items)["links"] if link["rel"] == "derived_from"]
    assert href.startswith(f"{root}/collections/landsat%20c2/items/" if root else "../../")
    assert "abc" not in href


def test_no_more_than_some_items_are_held_at_a_time(finished, monkeypatch):
    monkeypatch.setattr("engine.lineage._AT_ONCE", 1)
    monkeypatch.setattr("engine.lineage._ROWS_AT_ONCE", 2)
    run, alive = finished_of(finished), weakref.WeakSet()
    made = engine.lineage._item

    class Item(dict):
        """One that says when it is gone."""

        __hash__ = object.__hash__

    def item(*given):
        alive.add(found := Item(made(*given)))
        return found

    monkeypatch.setattr("engine.lineage._item", item)
    most = 0
    for _ in catalog_documents(run):
        most = max(most, len(alive))
    assert most <= 3


def test_what_later_commands_write_is_in_the_catalog(finished_copy):
    run = finished_of(finished_copy)
    for name in ("suggest/points.csv", "evaluate/metrics.parquet", "evaluate/README.md", "assess/areas.csv"):
        path = run.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    found = {path: document for path, document in catalog_documents(run) if path.startswith("summaries/")}
    named = {path: sorted(one["assets"]) for path, one in found.items() if one["type"] == "Feature"}
    assert {path: named[path] for path in named if path != "summaries/summary.json"} == {
        "summaries/suggest.json": ["points.csv"],
        "summaries/evaluate.json": ["README.md", "metrics.parquet"],
        "summaries/assess.json": ["areas.csv"],
    }
    assert not problems(found.values())[0]


# What people open ------------------------------------------------------------------------------------------------


def test_every_raster_is_a_valid_cog(finished):
    rasters = [path for kind in ("maps", "change") for path in sorted((finished.run / kind).rglob("*.tif"))]
    assert len(rasters) == 4 * 2 + 2 * 10 + 2
    for path in rasters:
        valid, errors, warnings = cog_validate(path, strict=True)
        assert valid, (path, errors, warnings)


def test_vectors_open_with_their_system_and_area(finished):
    patches = gpd.read_parquet(finished.run / "change" / "patches.parquet")
    assert patches.crs is not None
    assert len(patches)
    geod = Geod(ellps="WGS84")
    there = patches.to_crs("EPSG:4326").geometry
    hectares = np.array([abs(geod.geometry_area_perimeter(one)[0]) / 1e4 for one in there])
    name = next(column for column in ("hectares", "area_ha") if column in patches.columns)
    np.testing.assert_allclose(hectares, patches[name], rtol=2e-3)


def test_qgis_styles_name_every_code_of_their_raster(finished):
    styles = sorted(finished.run.rglob("*.qml"))
    assert styles
    for path in styles:
        root = Xml.fromstring(path.read_text().split("\n", 1)[1])
        assert root.tag == "qgis"
        [renderer] = root.findall("./pipe/rasterrenderer")
        assert renderer.get("band") == "1"
        raster = next(path.with_suffix(suffix) for suffix in (".tif", ".vrt") if path.with_suffix(suffix).exists())
        if renderer.get("type") == "paletted":
            entries = renderer.findall("./colorPalette/paletteEntry")
            codes = {int(entry.attrib["value"]) for entry in entries}
            with rasterio.open(raster) as file:
                assert set(np.unique(file.read(1)).tolist()) <= codes, path
            assert all(entry.attrib["label"] and len(entry.attrib["color"]) == 7 for entry in entries)
        else:
            assert renderer.get("type") == "singlebandpseudocolor"
            stops = [float(item.attrib["value"]) for item in renderer.findall(".//colorrampshader/item")]
            assert stops == sorted(stops)
            assert (stops[0], stops[-1]) == (0, 1)
