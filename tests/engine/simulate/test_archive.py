"""The archive on disk: an ordinary one, the same on any number of workers."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pystac
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.features import rasterize

from engine.area import Area, Region, region_codes, wrap
from engine.errors import ConfigError
from engine.grid import tiles_of
from engine.kernels.quality import clear_mask
from engine.simulate import Archive, WorldParams, read_archive, write_archive
from engine.simulate.cog import write_cog
from engine.simulate.world import site_of

PARAMS = WorldParams(("India", "Mozambique1"), (2012, 2016), size_px=128, scenes_per_year=6, mask_years=(2013,))


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    return write_archive(PARAMS, tmp_path_factory.mktemp("archive"))


@pytest.fixture(scope="module")
def items(archive: Archive) -> list[dict[str, Any]]:
    return json.loads(archive.items.read_text())["features"]


def decoded(folder: Path) -> dict[str, str]:
    """Return a digest of the pixels of every raster of an archive."""
    digests = {}
    for path in sorted([*folder.rglob("*.TIF"), *folder.rglob("*.tif")]):
        with rasterio.open(path) as file:
            digests[path.relative_to(folder).as_posix()] = hashlib.sha256(file.read().tobytes()).hexdigest()
    return digests


@pytest.mark.parametrize("kind", ["threads", pytest.param("processes", marks=pytest.mark.slow)])
def test_any_number_of_workers_writes_the_same_pixels_items_and_tables(
    archive: Archive, tmp_path: Path, kind: str
) -> None:
    done = []
    pools = {"threads": ThreadPoolExecutor, "processes": partial(ProcessPoolExecutor, mp_context=get_context("spawn"))}
    with pools[kind](2) as pool:
        other = write_archive(PARAMS, tmp_path, map_tasks=pool.map, progress=lambda n, of: done.append((n, of)))
    assert done == [(n + 1, 4) for n in range(4)]
    assert decoded(tmp_path) == decoded(archive.folder)
    for name in ("items.json", "collection.json", "regions.geojson", "truth/areas.csv", "truth/events.csv"):
        assert (tmp_path / name).read_bytes() == (archive.folder / name).read_bytes()
    assert gpd.read_parquet(other.masks[2013]).equals(gpd.read_parquet(archive.masks[2013]))


def test_the_truth_of_a_year_does_not_depend_on_the_years_asked_for(archive: Archive, tmp_path: Path) -> None:
    alone = write_archive(WorldParams(("India",), (2016,), size_px=128, scenes_per_year=1), tmp_path)
    for suffix in ("", "_change"):
        paths = [a.truth("sim-India", 2016).with_name(f"sim-India_2016{suffix}.tif") for a in (alone, archive)]
        one, other = (rasterio.open(path).read() for path in paths)
        np.testing.assert_array_equal(one, other)


def test_an_archive_is_written_once_and_never_mixed(archive: Archive, tmp_path: Path) -> None:
    assert read_archive(archive.folder) == archive
    assert write_archive(PARAMS, archive.folder, map_tasks=lambda *_: pytest.fail("nothing to do")) == archive
    with pytest.raises(ConfigError, match="another simulated world; choose another folder"):
        write_archive(WorldParams(("India",), (2016,)), archive.folder)
    with pytest.raises(ConfigError, match="no finished simulated archive"):
        read_archive(tmp_path)


def test_items_have_the_shape_of_the_planetary_computers(items: list[dict[str, Any]], shared_data: Path) -> None:
    real = json.loads((shared_data / "stac-items/pc_landsat-c2-l2_4items_LC09_path089_20240417.json").read_text())[0]
    etm = json.loads(
        (shared_data / "stac-items/stactools-landsat-examples/LE07_L2SP_021030_20100109_02_T1.json").read_text()
    )
    for item in items:
        template = etm if item["properties"]["platform"] == "landsat-7" else real
        assert set(item) == set(real)
        assert set(item["properties"]) - {"simulated"} == set(real["properties"])
        assert set(item["assets"]) <= set(template["assets"])
        for name, asset in item["assets"].items():
            assert asset["type"] == template["assets"][name]["type"]
            assert (
                Path(asset["href"]).name.split("_", 7)[7]
                == Path(template["assets"][name]["href"]).name.split("_", 7)[7]
            )
        for key, value in item["properties"].items():
            if key != "simulated":
                assert type(value) is type(template["properties"][key]) or isinstance(value, float | int), key
        pystac.Item.from_dict(item, preserve_dict=True)


def test_a_stac_client_opens_the_static_catalog(archive: Archive, items: list[dict[str, Any]]) -> None:
    catalog = pystac.Catalog.from_file(str(archive.catalog))
    found = {item.id: item for item in catalog.get_items(recursive=True)}
    assert set(found) == {item["id"] for item in items}
    item = found[items[0]["id"]]
    assert item.get_collection().id == "landsat-c2-l2"
    assert Path(item.assets["red"].get_absolute_href()).is_file()


def test_scenes_lie_on_the_30_m_grid_off_the_tile_and_larger_than_it(
    archive: Archive, items: list[dict[str, Any]]
) -> None:
    for item in items:
        properties = item["properties"]
        region = next(r for r in PARAMS.regions if f"sim-{r}" in item["assets"]["red"]["href"])
        site = site_of(region, 128)
        with rasterio.open(archive.folder / item["assets"]["red"]["href"]) as file:
            assert list(file.transform)[:6] == properties["proj:transform"]
            assert list(file.shape) == properties["proj:shape"]
            assert file.crs.to_epsg() == properties["proj:epsg"] == 32600 + site.zone  # northern, also in the south
            assert (file.nodata, file.dtypes[0], file.block_shapes) == (0, "uint16", [(256, 256)])
            assert file.overviews(1) == [2]
            assert file.tags()["SIMULATED"] == PARAMS.notice
            left, top = file.transform.c, file.transform.f
        assert (left % 30, top % 30) == (15, 15)
        rows, cols = (top - site.geobox.transform.f) / 30, (site.geobox.transform.c - left) / 30
        assert cols > 0
        assert cols % 256
        assert rows % 256
        with rasterio.open(archive.folder / item["assets"]["qa_pixel"]["href"]) as file:
            assert file.nodata == 1


def test_two_rows_of_one_pass_hold_the_same_look(archive: Archive, items: list[dict[str, Any]]) -> None:
    looks = defaultdict(list)
    for item in items:
        properties = item["properties"]
        looks[properties["landsat:wrs_path"], properties["datetime"][:10], properties["platform"]].append(item)
    pairs = [pair for pair in looks.values() if len(pair) == 2]
    assert len(pairs) == 4  # one a region and year
    for upper, lower in pairs:
        assert int(lower["properties"]["landsat:wrs_row"]) == int(upper["properties"]["landsat:wrs_row"]) + 1
        seconds = np.diff([np.datetime64(i["properties"]["datetime"][:-1]) for i in (upper, lower)])[0]
        assert seconds == np.timedelta64(23_950_000, "us")
        parts = []
        for item in (upper, lower):
            with rasterio.open(archive.folder / item["assets"]["nir08"]["href"]) as file:
                parts.append((file.read(1), file.transform.f))
        shift = round((parts[0][1] - parts[1][1]) / 30)
        overlap = parts[0][0][shift:]
        assert len(overlap) > 20
        np.testing.assert_array_equal(overlap, parts[1][0][: len(overlap)])


def test_each_region_is_exactly_one_tile(archive: Archive) -> None:
    frame = gpd.read_file(archive.regions)
    assert list(frame["name"]) == ["sim-India", "sim-Mozambique1"]
    area = Area(tuple(Region(name, wrap(part)) for name, part in zip(frame["name"], frame.geometry, strict=True)))
    for number, region in enumerate(area.regions, 1):
        (tile,) = tiles_of(region.geometry)
        assert tile.shape == (128, 128)
        assert (region_codes(area, tile) == number).all()
        with rasterio.open(archive.truth(region.name, 2016)) as file:
            assert file.transform == tile.geobox.transform
            assert file.crs.to_epsg() == tile.epsg
            assert file.descriptions == ("class", "mangrove", "canopy_percent")


def test_areas_are_those_of_the_truth(archive: Archive) -> None:
    areas = pd.read_csv(archive.areas).set_index(["region", "year", "class"])
    for region in ("sim-India", "sim-Mozambique1"):
        with rasterio.open(archive.truth(region, 2016)) as file:
            mangrove = int(file.read(2).sum())
        row = areas.loc[(region, 2016, "all mangrove")]
        assert row["pixels"] == mangrove
        assert row["hectares"] == pytest.approx(mangrove * 0.09, rel=2e-3)  # areal scale of the projection
        assert row["simulated"] == PARAMS.notice


@pytest.mark.parametrize("text", ["", '{"params": {"reg', "[]", "{}", '{"params": {"x": 1}}', "[" * 100_000, "\x80"])
def test_a_damaged_or_foreign_marker_ends_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "world.json").write_text(text, encoding="latin-1")
    for call in (read_archive, partial(write_archive, PARAMS)):
        with pytest.raises(ConfigError, match=r"world\.json does not describe a simulated world .*; remove it, or"):
            call(tmp_path)


def test_events_lie_in_their_region_and_time(archive: Archive) -> None:
    events = gpd.read_file(archive.events)
    assert set(events["region"]) <= {"sim-India", "sim-Mozambique1"}
    assert (events["date"].astype(str).str[:4].astype(int) <= events["last_year"]).all()
    equal_area = events.to_crs(6933).area / 1e4
    np.testing.assert_allclose(equal_area, events["area_ha"], rtol=3e-3)


def test_the_mask_is_wrong_as_published_masks_are(tmp_path: Path) -> None:
    params = WorldParams(("India", "Vietnam2"), (2016,), size_px=256, scenes_per_year=1)
    archive = write_archive(params, tmp_path)
    polygons = gpd.read_parquet(archive.masks[2013])
    assert set(polygons["licence"]) == {"CC0-1.0"}
    for region in ("sim-India", "sim-Vietnam2"):
        with rasterio.open(archive.truth(region, 2016)) as file:
            truth, grid = file.read(2) == 1, file
        shapes = polygons[polygons["region"] == region].to_crs(grid.crs).geometry
        mask = rasterize(shapes, out_shape=truth.shape, transform=grid.transform) == 1
        # 7 % omitted and 1-2 px of wandering boundary; Nypa and others taken for mangrove.
        assert 0.75 < (mask & truth).sum() / truth.sum() < 0.93
        assert 0.65 < (mask & truth).sum() / mask.sum() < 0.93


def test_the_second_path_can_come_in_the_next_zone(tmp_path: Path) -> None:
    params = WorldParams(("India",), (2016,), size_px=64, scenes_per_year=4, utm_split=True)
    archive = write_archive(params, tmp_path)
    items = json.loads(archive.items.read_text())["features"]
    assert {item["properties"]["proj:epsg"] for item in items} == {32645, 32646}
    item = next(item for item in items if item["properties"]["proj:epsg"] == 32646)
    with rasterio.open(tmp_path / item["assets"]["qa_pixel"]["href"]) as file:
        words, transform = file.read(1), file.transform
    assert (transform.c % 30, transform.f % 30) == (15, 15)
    assert words[0, 0] == 1  # fill where the turned frame has no pixel: 0 would read as clear
    assert clear_mask(words).any() or (words >> 1 & 0b11111).any()


@pytest.mark.parametrize("compression", ["zstd", "deflate"])
@pytest.mark.parametrize(("dtype", "nodata"), [("uint16", 0), ("uint8", 1), ("int16", -9999), ("uint16", None)])
def test_our_cog_is_what_gdal_reads(tmp_path: Path, dtype: str, nodata: float | None, compression: str) -> None:
    array = np.random.default_rng(1).integers(0, 250, (300, 520)).astype(dtype)
    geobox = GeoBox(array.shape, Affine(30, 0, 491535, 0, -30, -15), "EPSG:32648")

    write_cog(tmp_path / "a.tif", array, geobox, nodata=nodata, notice="SIMULATED here", compression=compression)

    with rasterio.open(tmp_path / "a.tif") as file:
        np.testing.assert_array_equal(file.read(1), array)
        np.testing.assert_array_equal(file.read(1, out_shape=(150, 260)), array[::2, ::2])
        assert (file.nodata, file.transform, file.crs.to_epsg()) == (nodata, geobox.transform, 32648)
        assert file.profile["compress"] == compression
        assert file.tags()["SIMULATED"] == "SIMULATED here"
