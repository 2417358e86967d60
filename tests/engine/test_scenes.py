"""Scenes from the items of every Landsat catalog, and the frozen list."""

from __future__ import annotations

import copy
import datetime as dt
import hashlib
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas as gpd
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shapely.geometry import box

from engine.errors import CatalogError, SceneError
from engine.landsat import PLATFORMS
from engine.scenes import (
    ASSETS,
    Grid,
    Scene,
    balance_seasons,
    keep_clearest,
    observations,
    read_scenes,
    scene_from_item,
    write_scenes,
)

Item = dict[str, Any]


def items_of(path: Path) -> list[Item]:
    document = json.loads(path.read_text())
    if isinstance(document, list):
        return document
    return document["features"] if document["type"] == "FeatureCollection" else [document]


def real_items(folder: Path) -> dict[str, list[Item]]:
    """Return all real items by the file they are in."""
    stac = folder / "stac-items"
    patterns = (
        "*.json",
        "pc-search-pages/landsat-8*response.json",
        "stactools-landsat-examples/L*.json",
        "usgs-landsatlook/*.json",
    )
    return {path.name: items_of(path) for pattern in patterns for path in sorted(stac.glob(pattern))}


@pytest.fixture(scope="session")
def parsed(shared_data: Path) -> tuple[list[Scene], Counter[str]]:
    """Return all scenes of the real items, and why the others are refused."""
    scenes, refused = [], Counter[str]()
    for items in real_items(shared_data).values():
        for item in items:
            try:
                scenes.append(scene_from_item(item, base="/folder"))
            except SceneError as error:
                refused[error.problem] += error.about["scene"] == item["id"]
    return scenes, refused


@pytest.fixture
def item() -> Item:
    """An item as the Planetary Computer has them, south of the equator."""
    name = "LC09_L2SP_010065_20220129_02_T1"
    folder = f"https://landsateuwest.blob.core.windows.net/landsat-c2/{name[:17]}20220129_20220131_02_T1"
    numbers = {"blue": 2, "green": 3, "red": 4, "nir08": 5, "swir16": 6, "swir22": 7}
    return {
        "type": "Feature",
        "id": name,
        "bbox": [-81.07, -8.29, -78.99, -6.18],
        "geometry": {
            "type": "Polygon",
            "coordinates": [
                [[-80.69, -6.18], [-81.07, -7.93], [-79.37, -8.29], [-79.0, -6.55], [-80.69, -6.18]],
            ],
        },
        "properties": {
            "platform": "landsat-9",
            "datetime": "2022-01-29T15:28:34.396428Z",
            "proj:epsg": 32617,
            "proj:shape": [7741, 7611],
            "proj:transform": [30.0, 0.0, 491985.0, 0.0, -30.0, -683685.0],
            "landsat:wrs_path": "010",
            "landsat:wrs_row": "065",
            "landsat:collection_category": "T1",
            "landsat:collection_number": "02",
            "landsat:correction": "L2SP",
            "eo:cloud_cover": 21.12,
            "view:sun_elevation": 57.84,
        },
        "assets": {
            **{band: {"href": f"{folder}/{name}_SR_B{n}.TIF?st=1&sig=S3CRET"} for band, n in numbers.items()},
            "qa_pixel": {"href": f"{folder}/{name}_QA_PIXEL.TIF"},
            "qa_radsat": {"href": f"{folder}/{name}_QA_RADSAT.TIF"},
        },
    }


def test_all_real_items_parse_or_are_refused_with_the_reason(parsed: tuple[list[Scene], Counter[str]]) -> None:
    scenes, refused = parsed
    assert len(scenes) == 614
    assert refused == {"item says no projection, shape or transform": 7}
    assert Counter(scene.platform for scene in scenes) == {
        "landsat-4": 2,
        "landsat-5": 3,
        "landsat-7": 3,
        "landsat-8": 550,
        "landsat-9": 56,
    }
    assert Counter(scene.tier for scene in scenes) == {"T1": 487, "T2": 127}


def test_every_real_scene_lies_on_the_project_grid(parsed: tuple[list[Scene], Counter[str]]) -> None:
    for scene in parsed[0]:
        a, b, c, d, e, f = scene.transform
        assert (a, b, d, e) == (30, 0, 0, -30)
        assert (c % 30, f % 30) == (15, 15)


def test_real_scenes_are_whole(parsed: tuple[list[Scene], Counter[str]]) -> None:
    for scene in parsed[0]:
        assert set(scene.assets) == set(ASSETS)
        assert all("?" not in href for href in scene.assets.values())
        assert scene.datetime.utcoffset() == dt.timedelta(0)
        assert scene.geometry.is_valid
        assert len(scene.processed) == 8
        # The product name in the file is that of the band.
        number = scene.sensor.band_numbers["swir16"]
        assert scene.assets["swir16"].endswith(f"_SR_B{number}.TIF")
        assert scene.assets["qa_pixel"].endswith("_QA_PIXEL.TIF")


def test_a_real_southern_item_keeps_its_negative_northing(shared_data: Path) -> None:
    (path,) = (shared_data / "stac-items").glob("pc_landsat-c2-l2_4items*.json")
    scenes = [scene_from_item(item) for item in items_of(path)]
    assert {scene.epsg for scene in scenes} == {32655, 32656}
    assert all(scene.transform[5] < 0 for scene in scenes)
    assert {scene.observation for scene in scenes} == {"landsat-9_089_20240418"}  # 10 in the morning there


def test_a_real_scene_across_the_antimeridian_is_cut(shared_data: Path) -> None:
    path = shared_data / "stac-items/usgs-landsatlook/LT05_L2SR_087017_20090621_20200827_02_T2_SR_stac.json"
    scene = scene_from_item(items_of(path)[0])
    assert scene.geometry.bounds[0] == -180
    assert scene.geometry.bounds[2] == 180
    assert scene.geometry.area < 10


def test_the_grid_of_an_old_item_comes_from_the_file_when_asked(shared_data: Path) -> None:
    def header(href: str) -> Grid:
        with rasterio.open(href) as dataset:
            a, b, c, d, e, f = tuple(dataset.transform)[:6]
            return dataset.crs.to_epsg(), dataset.shape, (a, b, c, d, e, f)

    made, refused = [], []
    for path in sorted((shared_data / "landsat-rasters/c2l2-wholescene-512").glob("*/*_SR_stac.json")):
        item = items_of(path)[0]
        for asset in item["assets"].values():
            asset["href"] = "./" + asset["href"].rsplit("/", 1)[1]
        with pytest.raises(SceneError, match="no projection"):
            scene_from_item(item, base=str(path.parent))
        try:
            made.append(scene_from_item(item, base=str(path.parent), grid_from_header=header))
        except SceneError as error:
            refused.append(str(error))
    assert [(scene.epsg, scene.shape) for scene in made] == [(32624, (512, 512)), (32618, (512, 512))]
    assert made[0].transform[0] == 515.09765625
    assert all(Path(href).is_file() for scene in made for href in scene.assets.values())
    assert refused == [
        "scene LC08_L2SR_099120_20191129_20201016_02_T2: EPSG:3031 is not UTM; polar and other grids hold no mangrove"
    ]


@pytest.mark.parametrize(
    ("said", "notice"),
    [("SIMULATED seed=1", "SIMULATED seed=1"), ("by hand", "SIMULATED by hand"), (True, "SIMULATED True"), (None, "")],
)
def test_what_is_simulated_says_so_and_keeps_saying_so_in_a_frozen_list(item: Item, tmp_path, said, notice) -> None:
    item["properties"]["simulated"] = said
    scene = scene_from_item(item)
    assert scene.notice == notice
    write_scenes([scene], tmp_path / "items.parquet")
    assert read_scenes(tmp_path / "items.parquet") == [scene]


def test_the_same_scene_in_three_catalogs_is_the_same_scene(item: Item) -> None:
    expected = scene_from_item(item)
    assert expected.processed == "20220131"
    usgs = copy.deepcopy(item)
    usgs["properties"]["platform"] = "LANDSAT_9"
    usgs["properties"]["landsat:wrs_path"] = "10"
    usgs["properties"]["proj:code"] = f"EPSG:{usgs['properties'].pop('proj:epsg')}"
    older = copy.deepcopy(item)
    for key in ("proj:shape", "proj:transform"):
        value = older["properties"].pop(key)
        for asset in older["assets"].values():
            asset[key] = value
    keys = {band: f"SR_B{n}" for band, n in expected.sensor.band_numbers.items()} | {"qa_pixel": "QA_PIXEL.TIF"}
    older["assets"] = {keys.get(key, key.upper()): asset for key, asset in older["assets"].items()}
    del older["bbox"]
    for other in (usgs, older):
        assert scene_from_item(other) == expected


def test_hrefs_are_unsigned_and_relative_ones_start_from_the_item(item: Item) -> None:
    assert all("sig" not in href for href in scene_from_item(item).assets.values())
    item["assets"]["red"]["href"] = "../img/red.tif"
    assert scene_from_item(item, base="/data/items").assets["red"] == "/data/img/red.tif"
    where = "https://host/catalog/items/a.json"
    assert scene_from_item(item, base=where).assets["red"] == "https://host/catalog/img/red.tif"


def put(*keys: str, value: Any) -> Callable[[Item], None]:
    def change(item: Item) -> None:
        holder = item
        for key in keys[:-1]:
            holder = holder[key]
        if value is None:
            del holder[keys[-1]]
        else:
            holder[keys[-1]] = value

    return change


P = "properties"
TRANSFORM = "proj:transform"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (put(P, "proj:epsg", value=3031), "EPSG:3031 is not UTM"),
        (put(P, "proj:epsg", value="WKT nonsense"), "is not an EPSG code"),
        (put(P, "proj:epsg", value=None), "no projection, shape or transform"),
        (put(P, TRANSFORM, value=None), "no projection, shape or transform"),
        (put(P, "proj:shape", value=None), "no projection, shape or transform"),
        (put(P, "proj:epsg", value=32648), "puts the raster .* km from the footprint; repair"),
        (put(P, "proj:epsg", value=32618), r"puts the raster 6\d\d km from the footprint"),
        (put(P, TRANSFORM, value=[30, 0, 491985, 0, -30, 683685]), "puts the raster .* km"),
        (put(P, TRANSFORM, value=[60, 0, 491985, 0, -60, -683685]), "pixels are 60 x 60 m, not 30 m"),
        (put(P, TRANSFORM, value=[30, 0, float("nan"), 0, -30, -683685]), "is refused"),
        (put(P, TRANSFORM, value=[30, 1, 491985, 0, -30, -683685]), "not 30 m north up"),
        (put(P, TRANSFORM, value=[30, 0]), "malformed"),
        (put(P, "proj:shape", value=[4_000_000, 4_000_000]), "declared size .* is refused"),
        (put(P, "proj:shape", value=[0, 10]), "declared size .* is refused"),
        (put("assets", "red", "proj:shape", value=[7741, 7000]), "bands have different grids"),
        (put("assets", "swir16", value=None), "no href for asset swir16"),
        (put("assets", "qa_radsat", value=None), "no href for asset qa_radsat"),
        (put("assets", "red", "href", value=None), "no href for asset red"),
        (put("assets", "red", "href", value=7), "no href for asset red"),
        (put("assets", "red", value="a.tif"), "malformed"),
        (put("assets", value=None), "no href for asset blue"),
        (put(P, "datetime", value=None), "datetime is null"),
        (put(P, "datetime", value="yesterday"), "malformed"),
        (put(P, "datetime", value="2021-01-29T15:28:34Z"), "contradict the name"),
        (put(P, "platform", value="landsat-8"), "contradict the name"),
        (put(P, "platform", value="sentinel-2a"), "platform 'sentinel-2a' is not Landsat"),
        (put(P, "landsat:correction", value="L1TP"), "level L1TP is not surface reflectance"),
        (put(P, "landsat:collection_number", value="01"), "collection 01 level"),
        (put(P, "landsat:collection_category", value="RT"), "contradict the name"),
        (put("id", value="../../etc/passwd"), "is not a safe name"),
        (put("id", value="LC09_L1TP_010065_20220129_02_T1"), "is not surface|contradict"),
        (put("geometry", value={"type": "Point", "coordinates": [0, 0]}), "geometry is not a polygon"),
        (put("geometry", value={"type": "Polygon", "coordinates": [[["a", "b"]]]}), "malformed"),
        (put("geometry", value=[1]), "malformed"),
        (put(P, value="text"), "malformed"),
    ],
)
def test_unusable_items_are_refused_by_name(item: Item, change: Callable[[Item], None], reason: str) -> None:
    change(item)
    with pytest.raises(SceneError, match=reason) as caught:
        scene_from_item(item)
    assert caught.value.about["scene"] == item["id"]
    assert "\n" not in str(caught.value)
    assert "S3CRET" not in str(caught.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(draw=st.data())
def test_no_damaged_item_fails_in_another_way(item: Item, draw: st.DataObject) -> None:
    damaged = copy.deepcopy(item)
    for _ in range(draw.draw(st.integers(1, 3))):
        holder: Any = damaged
        while True:
            key = draw.draw(st.sampled_from(list(holder) if isinstance(holder, dict) else range(len(holder))))
            if not isinstance(holder[key], dict | list) or not holder[key] or draw.draw(st.booleans()):
                break
            holder = holder[key]
        holder[key] = draw.draw(JSON)
    try:
        scene = scene_from_item(damaged)
    except SceneError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert scene.geometry.is_valid


def test_an_item_without_a_name_is_refused(item: Item) -> None:
    del item["id"]
    with pytest.raises(SceneError, match=r"scene \(no id\)"):
        scene_from_item(item)


def test_a_real_time_scene_is_refused(item: Item) -> None:
    item["id"] = item["id"].replace("_T1", "_RT")
    item[P]["landsat:collection_category"] = "RT"
    with pytest.raises(SceneError, match="tier 'RT' is neither T1 nor T2"):
        scene_from_item(item)


def test_a_southern_code_is_converted_where_it_is_landsats_own_grid(item: Item) -> None:
    expected = scene_from_item(item)
    item[P]["proj:epsg"] = 32717
    item[P][TRANSFORM][5] += 10_000_000
    assert scene_from_item(item) == expected
    item[P][TRANSFORM][5] -= 10  # edges at 15 m modulo 30 m in the southern code
    with pytest.raises(SceneError, match="EPSG:32717 off the Landsat grid; use the original product"):
        scene_from_item(item)


def test_a_missing_footprint_is_taken_from_the_box_or_the_raster(item: Item) -> None:
    del item["geometry"]
    by_box = scene_from_item(item).geometry
    assert by_box.bounds == pytest.approx((-81.07, -8.29, -78.99, -6.18))
    item["bbox"] = [-81.07, -8.29, 0.0, -78.99, -6.18, 100.0]
    assert scene_from_item(item).geometry == by_box
    del item["bbox"]
    by_raster = scene_from_item(item).geometry
    assert by_raster.bounds == pytest.approx((-81.07, -8.29, -78.99, -6.18), abs=0.05)
    item["bbox"] = [100, -8.29, 102, -6.18]
    with pytest.raises(SceneError, match="km from the footprint"):
        scene_from_item(item)


def test_an_unmeasured_cloud_cover_is_none(item: Item) -> None:
    item[P]["eo:cloud_cover"] = -1
    assert scene_from_item(item).cloud_cover is None


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    zone = draw(st.integers(1, 60))
    west, south = draw(st.floats(-179, 178)), draw(st.floats(-79, 78))
    text = st.text(st.characters(codec="ascii", min_codepoint=45, max_codepoint=122), min_size=1, max_size=40)
    return Scene(
        id=draw(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_]{0,60}", fullmatch=True)),
        platform=draw(st.sampled_from(PLATFORMS)),
        datetime=draw(st.datetimes(dt.datetime(1982, 7, 16), dt.datetime(2100, 1, 1), timezones=st.just(dt.UTC))),
        wrs_path=draw(st.integers(1, 233)),
        wrs_row=draw(st.integers(1, 248)),
        tier=draw(st.sampled_from(["T1", "T2"])),
        epsg=32600 + zone,
        shape=(draw(st.integers(1, 9500)), draw(st.integers(1, 9500))),
        transform=draw(st.tuples(*[st.floats(-1e7, 1e7)] * 6)),
        geometry=box(west, south, west + 1.7, south + 1.3),
        assets={name: "https://host/" + draw(text.filter(lambda t: "?" not in t)) for name in ASSETS},
        cloud_cover=draw(st.none() | st.floats(0, 100)),
        sun_elevation=draw(st.none() | st.floats(-90, 90)),
        processed=draw(st.from_regex(r"\d{0,8}", fullmatch=True)),
    )


@settings(deadline=None, max_examples=20)
@given(found=st.lists(scenes(), max_size=5, unique_by=lambda scene: scene.id))
def test_a_frozen_list_gives_back_the_same_scenes(found: list[Scene], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("frozen")
    write_scenes(found, folder / "a.parquet")
    again = read_scenes(folder / "a.parquet")
    assert again == sorted(found, key=lambda scene: (scene.datetime, scene.id))
    # Another order gives the same bytes.
    write_scenes(found[::-1], folder / "b.parquet")
    hashes = {hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("a.parquet", "b.parquet")}
    assert len(hashes) == 1


def test_a_frozen_list_is_geoparquet_without_signatures(tmp_path: Path, item: Item) -> None:
    path = tmp_path / "items.parquet"
    write_scenes([scene_from_item(item)], path)
    assert b"S3CRET" not in path.read_bytes()
    frame = gpd.read_parquet(path)
    assert frame.crs.to_epsg() == 4326 or frame.crs.to_string() == "OGC:CRS84"
    assert frame.geometry.iloc[0].bounds[0] == pytest.approx(-81.07)


def test_a_foreign_or_damaged_list_is_refused(tmp_path: Path, item: Item) -> None:
    path = tmp_path / "items.parquet"
    with pytest.raises(CatalogError, match="cannot be read"):
        read_scenes(path)
    path.write_bytes(b"PAR1 not really")
    with pytest.raises(CatalogError, match="cannot be read"):
        read_scenes(path)
    gpd.GeoDataFrame({"id": [1]}, geometry=[box(0, 0, 1, 1)], crs=4326).to_parquet(path)
    with pytest.raises(CatalogError, match="is not a scene list of this version; search again"):
        read_scenes(path)


def test_scenes_of_one_pass_are_one_observation(item: Item) -> None:
    north = scene_from_item(item)
    item["id"] = "LC09_L2SP_010066_20220129_02_T1"
    item[P]["landsat:wrs_row"] = "066"
    item[P]["datetime"] = "2022-01-29T15:28:58Z"
    south = scene_from_item(item)
    assert observations([south, north]) == {"landsat-9_010_20220129": [north, south]}


def test_a_pass_across_midnight_in_utc_is_one_observation(item: Item) -> None:
    """Path 94 crosses Papua New Guinea at 10 in the morning, which is midnight in UTC."""
    rows = []
    for row, when in (
        ("064", "2022-01-28T23:59:50Z"),
        ("065", "2022-01-29T00:00:14Z"),
        ("065", "2022-02-14T00:00:14Z"),
    ):
        item["id"] = f"LC09_L2SP_094{row}_{when[:10].replace('-', '')}_02_T1"
        item[P] |= {"landsat:wrs_path": "094", "landsat:wrs_row": row, "datetime": when}
        rows.append(scene_from_item(item))
    assert observations(rows) == {"landsat-9_094_20220129": rows[:2], "landsat-9_094_20220214": rows[2:]}


def test_the_clearest_looks_are_kept_whole_and_in_order(item: Item) -> None:
    days = {}
    for day, row in [(3, 65), (3, 66), (19, 65), (27, 65)]:
        item["id"] = f"LC09_L2SP_010{row:03d}_202201{day:02d}_02_T1"
        item[P] |= {"landsat:wrs_row": str(row), "datetime": f"2022-01-{day:02d}T15:00:{row - 60:02d}Z"}
        days[day, row] = scene_from_item(item)
    pixels = {"landsat-9_010_20220103": 50, "landsat-9_010_20220119": 50}
    kept = keep_clearest(reversed(days.values()), pixels, 1)
    assert kept == [days[3, 65], days[3, 66]]
    assert keep_clearest(days.values(), pixels, 2) == [*kept, days[19, 65]]
    assert keep_clearest(days.values(), pixels, 9) == [*kept, days[19, 65]], "a look that saw nothing is no gain"
    with pytest.raises(ValueError, match="n must be at least 1 look, got 0"):
        keep_clearest(days.values(), pixels, 0)


def dated(item: Item, path: int, month: int, day: int, cloud: float | None) -> Scene:
    item["id"] = f"LC09_L2SP_{path:03d}065_2022{month:02d}{day:02d}_02_T1"
    item[P] |= {
        "landsat:wrs_path": f"{path:03d}",
        "landsat:wrs_row": "065",
        "datetime": f"2022-{month:02d}-{day:02d}T15:00:00Z",
        "eo:cloud_cover": cloud,
    }
    return scene_from_item(item)


def test_each_path_keeps_the_clearest_looks_of_a_full_quarter_and_all_of_a_poor_one(item: Item) -> None:
    item["id"], item[P]["landsat:wrs_row"] = "LC09_L2SP_010065_20220101_02_T1", "065"
    dry = [dated(item, 10, 1, day, cloud) for day, cloud in [(1, 50), (5, 9), (9, None), (13, 9), (17, 70), (21, 20)]]
    wet = [dated(item, 10, 7, day, 90) for day in (2, 18)]
    other = [dated(item, 11, 1, day, 90) for day in (2, 6, 10)]
    kept = balance_seasons([*wet, *other, *dry])
    assert set(kept) == {*wet, *other, *(dry[n] for n in (0, 1, 3, 5))}, "four, as two quarters have no look at all"
    assert kept == sorted(kept, key=lambda scene: scene.datetime)
    even = [dated(item, 10, month, day, day) for month in (2, 5, 8, 11) for day in (1, 6, 11, 16, 21)]
    more = dated(item, 10, 2, 26, 26)
    assert balance_seasons([*even, more]) == even, "five, as many as the poorest has"
