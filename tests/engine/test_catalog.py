"""Searching item files, static catalogs and STAC APIs, friendly and hostile."""

from __future__ import annotations

import datetime as dt
import gzip
import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from shapely.geometry import box, mapping

from engine import catalog, web
from engine.area import Area, read_area
from engine.catalog import SearchResult, periods_of, search_scenes
from engine.errors import CatalogError, ConfigError, TrustError
from engine.grid import to_zone
from engine.landsat import BANDS
from engine.params import AreaParams, SearchParams
from engine.scenes import read_scenes, write_scenes
from engine.trust import Trust
from tests.engine.loopback import Call, Loopback, Reply
from tests.stac_api import stac_api

Item = dict[str, Any]
HUNDRED = "pc_landsat-c2-l2_100items_path033-034_row032_2023-2024"
COLORADO = (-106.0, 40.0, -105.0, 41.0)
CA_MAU = (104.95, 8.7, 105.05, 8.8)


def area_of(west: float, south: float, east: float, north: float) -> Area:
    return read_area(AreaParams(bbox=(west, south, east, north)), Trust())


def make_item(
    *,
    day: str = "2019-02-03",
    platform: str = "landsat-8",
    path: int = 125,
    row: int = 53,
    tier: str = "T1",
    zone: int = 48,
    corner: tuple[int, int] = (-33000, 16200),
    processed: str = "20200801",
    cloud: float | None = 10.0,
    folder: str = ".",
) -> Item:
    """Return an item of 2000 x 2000 px whose corner is a grid pixel (row, col)."""
    letter = {"4": "T", "5": "T", "7": "E"}.get(platform[-1], "C")
    name = f"L{letter}0{platform[-1]}_L2SP_{path:03d}{row:03d}_{day.replace('-', '')}"
    left, top = 15 + 30 * corner[1], 15 - 30 * corner[0]
    place = to_zone(zone).transform
    west, south = place(left, top - 60_000, direction="INVERSE")
    east, north = place(left + 60_000, top, direction="INVERSE")
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": f"{name}_02_{tier}",
        "collection": "landsat-c2-l2",
        "links": [],
        "bbox": [west, south, east, north],
        "geometry": mapping(box(west, south, east, north)),
        "properties": {
            "platform": platform,
            "datetime": f"{day}T03:10:11Z",
            "proj:epsg": 32600 + zone,
            "proj:shape": [2000, 2000],
            "proj:transform": [30, 0, left, 0, -30, top],
            "landsat:wrs_path": f"{path:03d}",
            "landsat:wrs_row": f"{row:03d}",
            "landsat:collection_category": tier,
            **({} if cloud is None else {"eo:cloud_cover": cloud}),
        },
        "assets": {
            asset: {"href": f"{folder}/{name}_{processed}_02_{tier}_{asset}.TIF"}
            for asset in (*BANDS, "qa_pixel", "qa_radsat")
        },
    }


def save(path: Path, items: list[Item]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    return str(path)


def search(
    *catalogs: str, trust: Trust, bounds: tuple[float, ...] = CA_MAU, years: str = "2019", **given: Any
) -> SearchResult:
    first, _, last = years.partition("-")
    periods = periods_of(range(int(first), int(last or first) + 1))
    return search_scenes(SearchParams(catalogs=catalogs, **given), area_of(*bounds), periods, trust=trust)


@pytest.fixture
def trust(tmp_path: Path) -> Trust:
    return Trust().with_roots(tmp_path)


# Periods


def test_a_year_is_the_calendar_year_in_utc() -> None:
    assert periods_of([2019]) == {
        2019: (dt.datetime(2019, 1, 1, tzinfo=dt.UTC), dt.datetime(2020, 1, 1, tzinfo=dt.UTC))
    }


def test_dates_replace_the_year_or_season_of_the_years_they_name() -> None:
    dates = {2019: (dt.date(2018, 7, 1), dt.date(2020, 6, 30))}
    periods = periods_of([2018, 2019], ("01-01", "03-31"), dates)
    assert {year: (f"{start:%F}", f"{end:%F}") for year, (start, end) in periods.items()} == {
        2018: ("2018-01-01", "2018-04-01"),
        2019: ("2018-07-01", "2020-07-01"),
    }


def test_a_season_across_the_new_year_is_named_by_its_end() -> None:
    start, end = periods_of([2019], ("12-15", "03-10"))[2019]
    assert (f"{start:%F}", f"{end:%F}") == ("2018-12-15", "2019-03-11")
    start, end = periods_of([2019], ("02-01", "02-29"))[2019]
    assert (f"{start:%F}", f"{end:%F}") == ("2019-02-01", "2019-03-01")


def test_a_day_that_no_month_has_is_refused() -> None:
    with pytest.raises(ConfigError, match="04-31 is not a day"):
        periods_of([2019], ("04-31", "05-10"))


# Filters


def test_every_filter_is_applied_here_and_counted(tmp_path: Path, trust: Trust) -> None:
    items = [
        make_item(),
        make_item(day="2019-02-11", tier="T2"),
        make_item(day="2019-02-19", platform="landsat-7"),
        make_item(day="2018-12-31"),
        make_item(day="2020-01-01"),
        make_item(day="2019-03-07", corner=(-43000, 16200)),
        make_item(day="2019-03-23", cloud=80),
        make_item(day="2019-04-08", cloud=None),
    ]
    found = search(
        save(tmp_path / "items.json", items), trust=trust, platforms=("landsat-8", "landsat-9"), max_cloud=50
    )
    assert [f"{scene.datetime:%m-%d}" for scene in found.scenes] == ["02-03", "04-08"]
    assert found.left_out == {
        "cloud over 50 %": 1,
        "outside the area": 1,
        "outside the dates": 2,
        "platform landsat-7": 1,
        "tier T2": 1,
    }
    assert found.missing_years == []


def test_landsat_7_ends_with_its_orbit_unless_asked_for(tmp_path: Path, trust: Trust) -> None:
    items = [make_item(day=day, platform="landsat-7") for day in ("2022-04-05", "2022-04-06")]
    path = save(tmp_path / "items.json", items)
    found = search(path, trust=trust, years="2022")
    assert len(found.scenes) == 1
    assert found.left_out == {"landsat-7 after its orbit drift": 1}
    assert len(search(path, trust=trust, years="2022", include_etm_drift=True).scenes) == 2


def test_years_without_a_scene_are_named(tmp_path: Path, trust: Trust) -> None:
    path = save(tmp_path / "items.json", [make_item(), make_item(day="2021-02-03")])
    assert search(path, trust=trust, years="2018-2022").missing_years == [2018, 2020, 2022]


def test_an_empty_search_says_what_was_asked_and_what_to_change(tmp_path: Path, trust: Trust) -> None:
    path = save(tmp_path / "items.json", [make_item(tier="T2")])
    with pytest.raises(CatalogError, match=r"tier T1, years 2019-2019 at 104\.95 8\.70 .* 1 left out: tier T2; widen"):
        search(path, trust=trust)
    with pytest.raises(CatalogError, match="1 left out: outside the area; check the area, years and catalog"):
        search(path, trust=trust, bounds=(0, 0, 1, 1))
    broken = make_item()
    del broken["assets"]["red"]
    with pytest.raises(
        CatalogError, match="1 refused, the first LC08_L2SP_125053_20190203_02_T1: no href for asset red"
    ):
        search(save(tmp_path / "broken.json", [broken]), trust=trust)


def test_an_area_across_the_antimeridian_finds_both_sides(tmp_path: Path, trust: Trust) -> None:
    items = [
        make_item(path=74, row=71, zone=60, corner=(61500, 26500)),
        make_item(path=73, row=71, zone=1, corner=(61500, 6000), day="2019-02-05"),
    ]
    found = search(save(tmp_path / "items.json", items), trust=trust, bounds=(179.7, -16.9, -179.7, -16.7))
    assert [scene.epsg for scene in found.scenes] == [32660, 32601]


def test_boxes_hug_an_area_and_never_cross_the_antimeridian() -> None:
    fiji = area_of(179.9, -16.9, -179.9, -16.7).geometry
    assert catalog._boxes(fiji) == [(-180.0, -16.9, -179.9, -16.7), (179.9, -16.9, 180.0, -16.7)]
    far_apart = area_of(*CA_MAU).geometry.union(box(150, -20, 150.1, -19.9))
    boxes = [box(*bounds) for bounds in catalog._boxes(far_apart)]
    assert sum(b.area for b in boxes) == pytest.approx(0.02)


# Duplicates


def test_the_latest_processing_of_a_scene_is_kept(tmp_path: Path, trust: Trust) -> None:
    items = [make_item(processed=day) for day in ("20200801", "20211205", "20201001")]
    items.append(make_item(tier="T2", processed="20190101"))
    found = search(save(tmp_path / "items.json", items), trust=trust, tiers=("T1", "T2"))
    assert [scene.processed for scene in found.scenes] == ["20211205"]
    assert found.left_out == {"processed again": 1}


def test_catalogs_are_merged_by_scene_and_the_first_wins(tmp_path: Path, trust: Trust) -> None:
    mine = save(tmp_path / "mine/items.json", [make_item()])
    theirs = save(tmp_path / "theirs/items.json", [make_item(processed="20240101"), make_item(day="2019-03-07")])
    found = search(mine, theirs, trust=trust)
    assert [Path(scene.assets["red"]).parent.name for scene in found.scenes] == ["mine", "theirs"]
    assert [Path(s.assets["red"]).parent.name for s in search(theirs, mine, trust=trust).scenes] == ["theirs"] * 2


def test_the_same_scene_of_two_providers_is_one(tmp_path: Path, trust: Trust) -> None:
    usgs = make_item()
    usgs["id"] = "LC08_L2SP_125053_20190203_20200801_02_T1_SR"
    found = search(save(tmp_path / "items.json", [make_item(), usgs]), trust=trust)
    assert [scene.id for scene in found.scenes] == ["LC08_L2SP_125053_20190203_02_T1"]


# Files


def test_the_hundred_real_items_are_found_in_json_and_geoparquet(shared_data: Path, tmp_path: Path) -> None:
    trust = Trust().with_roots(shared_data, tmp_path)
    folder = shared_data / "stac-items"
    by_json = search(str(folder / f"{HUNDRED}.json"), trust=trust, bounds=COLORADO, years="2023-2024")
    table = search(str(folder / f"{HUNDRED}.parquet"), trust=trust, bounds=COLORADO, years="2023-2024")
    assert len(by_json.scenes) == 97
    assert by_json.left_out == table.left_out == {"tier T2": 3}
    assert [scene.id for scene in table.scenes] == [scene.id for scene in by_json.scenes]
    assert [scene.assets for scene in table.scenes] == [scene.assets for scene in by_json.scenes]
    frozen = tmp_path / "frozen.parquet"
    write_scenes(by_json.scenes, frozen)
    assert read_scenes(frozen) == by_json.scenes
    assert search(str(frozen), trust=trust, bounds=COLORADO, years="2023-2024").scenes == by_json.scenes


def test_a_recorded_page_of_the_planetary_computer_is_searched(shared_data: Path) -> None:
    page = shared_data / "stac-items/pc-search-pages/landsat-8-c2-l2_sanfrancisco_page1.response.json"
    found = search(
        str(page), trust=Trust().with_roots(shared_data), bounds=(-122.5, 37.4, -122.3, 37.6), years="2016-2022"
    )
    assert len(found.scenes) == 192
    assert found.left_out == {"outside the area": 45, "tier T2": 13}


@pytest.mark.parametrize("form", ["feature", "list", "ndjson", "collection"])
def test_item_files_of_every_form(tmp_path: Path, trust: Trust, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    items = [make_item()] if form == "feature" else [make_item(), make_item(day="2019-03-07")]
    path = tmp_path / ("items.ndjson" if form == "ndjson" else "items.json")
    text = {
        "feature": lambda: json.dumps(items[0]),
        "list": lambda: json.dumps(items),
        "ndjson": lambda: "\n".join(map(json.dumps, items)) + "\n",
        "collection": lambda: json.dumps({"type": "FeatureCollection", "features": items}),
    }[form]()
    path.write_text(text)
    found = search(str(path), trust=trust)
    assert len(found.scenes) == len(items)
    assert found.scenes[0].assets["red"].startswith(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert search(path.name, trust=trust).scenes == found.scenes


def static_catalog(folder: Path) -> str:
    """Write a catalog > collection > two items, with a link back and links to other things."""
    links = [
        {"rel": "root", "href": "./catalog.json"},
        {"rel": "child", "href": "./landsat/collection.json"},
        {"rel": "license", "href": "https://example.com/"},
    ]
    items = [make_item(), make_item(day="2019-03-07")]
    down = [{"rel": "item", "href": f"./items/{i}.json"} for i in range(len(items))]
    up = [{"rel": "child", "href": "../catalog.json"}, {"rel": "parent", "href": "../catalog.json"}]
    (folder / "landsat/items").mkdir(parents=True)
    (folder / "catalog.json").write_text(json.dumps({"type": "Catalog", "id": "c", "links": links}))
    (folder / "landsat/collection.json").write_text(json.dumps({"type": "Collection", "id": "l", "links": down + up}))
    for i, item in enumerate(items):
        (folder / f"landsat/items/{i}.json").write_text(json.dumps(item))
    return str(folder / "catalog.json")


def test_a_static_catalog_is_walked_once_round_its_loops(tmp_path: Path, trust: Trust) -> None:
    path = static_catalog(tmp_path / "catalog")
    found = search(path, trust=trust)
    assert len(found.scenes) == 2
    assert found.scenes[0].assets["red"].startswith(str(tmp_path / "catalog/landsat/items"))
    assert search(str(tmp_path / "catalog"), trust=trust).scenes == found.scenes


def test_a_static_catalog_does_not_leave_its_folders(tmp_path: Path) -> None:
    path = Path(static_catalog(tmp_path / "catalog"))
    save(tmp_path / "outside.json", [make_item()])
    for href in ("../outside.json", "/etc/passwd", "file:///etc/passwd", "http://127.0.0.1:9/a.json", "/vsimem/a.json"):
        path.write_text(json.dumps({"type": "Catalog", "links": [{"rel": "child", "href": href}]}))
        with pytest.raises(TrustError):
            search(str(path), trust=Trust().with_roots(tmp_path / "catalog"))


def test_a_static_catalog_without_end_is_cut_off(tmp_path: Path, trust: Trust, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "MAX_DOCUMENTS", 100)
    links = [{"rel": "child", "href": f"{i}.json"} for i in range(200)]
    (tmp_path / "catalog.json").write_text(json.dumps({"type": "Catalog", "links": links}))
    with pytest.raises(CatalogError, match="links more than 100 documents"):
        search(str(tmp_path / "catalog.json"), trust=trust)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", b"<html></html>"),
        ("a.json", b"[" * 100_000),
        ("a.json", b'{"type": "Table"}'),
        ("a.json", b"3"),
        ("a.parquet", b"PAR1 garbage"),
        ("a.ndjson", b"{}\nnot json\n"),
        ("absent.json", None),
    ],
)
def test_files_that_are_no_catalog_end_in_one_line(
    tmp_path: Path, trust: Trust, name: str, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CatalogError, match=r"cannot be read|is not STAC|no scene") as caught:
        search(str(tmp_path / name), trust=trust)
    assert "\n" not in str(caught.value)


def test_a_parquet_that_is_no_catalog_is_refused(shared_data: Path) -> None:
    path = shared_data / "landsat-rasters/c2l2-pixel-timeseries/lsat_example.parquet"
    with pytest.raises(CatalogError, match="is no STAC GeoParquet; it needs id"):
        search(str(path), trust=Trust().with_roots(shared_data))


def test_a_parquet_that_unpacks_to_far_more_than_it_says_is_refused(
    tmp_path: Path, trust: Trust, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "MAX_FILE_BYTES", 2**20)
    path = tmp_path / "bomb.parquet"
    name = pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int32()), pa.array(["x" * 20_000]))
    table = pa.table({"id": name, "geometry": [b"a"] * 1000, "assets": ["a"] * 1000})
    pq.write_table(table, path, compression="zstd", store_schema=False)
    assert path.stat().st_size < 2000, "20 MB stored once"
    with pytest.raises(CatalogError, match=r"bomb\.parquet unpacks to more than 1 MB; split it"):
        search(str(path), trust=trust)


def test_scenes_with_untrusted_assets_are_refused_by_name(tmp_path: Path, trust: Trust) -> None:
    sly = [make_item(day=f"2019-05-{day:02d}") for day in range(1, 6)]
    hrefs = ["/etc/passwd", "file:///etc/passwd", "https://example.com/a.tif", "/vsicurl/http://127.0.0.1/a", "../../a"]
    for item, href in zip(sly, hrefs, strict=True):
        item["assets"]["qa_pixel"]["href"] = href
    found = search(save(tmp_path / "items.json", [make_item(), *sly]), trust=trust)
    assert len(found.scenes) == 1
    assert [refusal.id for refusal in found.refused] == sorted(item["id"] for item in sly)
    assert all("asset qa_pixel" in refusal.reason for refusal in found.refused)


# APIs


@pytest.fixture(scope="module")
def real_api(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run a real STAC API server over the hundred real items."""
    items = json.loads((shared_data / f"stac-items/{HUNDRED}.json").read_text())["features"]
    with stac_api(items, tmp_path_factory.mktemp("api")) as address:
        yield address


@pytest.mark.parametrize("page", [250, 100, 7])
def test_a_real_api_is_paged_to_its_end(
    real_api: str, shared_data: Path, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    monkeypatch.setattr(catalog, "PAGE_ITEMS", page)
    trust = Trust().with_hosts(real_api.removeprefix("http://")).with_roots(shared_data)
    given: dict[str, Any] = {"trust": trust, "bounds": COLORADO, "years": "2023-2024", "platforms": ("landsat-9",)}
    found = search(real_api, **given)
    assert found.left_out == {"platform landsat-7": 1, "platform landsat-8": 48, "tier T2": 1}
    by_file = search(str(shared_data / f"stac-items/{HUNDRED}.json"), **given)
    # The derived JSON of the fixture and the server both keep milliseconds.
    assert found.scenes == by_file.scenes
    assert len(found.scenes) == 50


def test_a_real_api_is_asked_for_dates_and_place(real_api: str) -> None:
    trust = Trust().with_hosts(real_api.removeprefix("http://"))
    found = search(real_api, trust=trust, bounds=COLORADO, years="2023")
    assert all(scene.datetime.year == 2023 for scene in found.scenes)
    # The server left out the other year and we count only what it sent.
    assert "outside the dates" not in found.left_out
    with pytest.raises(CatalogError, match=r"no scene of .* check the area"):
        search(real_api, trust=trust, years="2023")
    with pytest.raises(TrustError, match="--allow-host 127"):
        search(real_api, trust=Trust())


Serve = Callable[[Callable[[Call], Reply]], Loopback]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    monkeypatch.setattr(web, "_FIRST_WAIT_S", 0.01)
    with ExitStack() as stack:
        yield lambda answer: stack.enter_context(Loopback(answer).running())


def root(server: Loopback, method: str = "POST") -> Reply:
    """Return the landing page of an API that can be searched."""
    link = {"rel": "search", "href": f"{server.url}/search", "method": method}
    conforms = ["https://api.stacspec.org/v1.0.0/item-search"]
    return Reply(body={"type": "Catalog", "conformsTo": conforms, "links": [link]})


def page(items: list[Item], **following: Any) -> Reply:
    links = [{"rel": "next", **following}] if following else []
    return Reply(body={"type": "FeatureCollection", "features": items, "links": links})


def remote(**given: Any) -> Item:
    return make_item(folder="https://landsateuwest.blob.core.windows.net/landsat-c2", **given)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_pages_are_followed_by_get_and_post(serve: Serve, method: str) -> None:
    days = ["2019-02-03", "2019-02-19", "2019-03-07"]

    def answer(call: Call) -> Reply:
        if call.number == 1:
            return root(server, method)
        items = [remote(day=days[call.number - 2])]
        if call.number == 4:
            return page(items)
        if method == "GET":
            return page(items, href=f"/search?token=t{call.number}")
        return page(items, href=f"{server.url}/search", method="POST", body={"token": str(call.number)}, merge=True)

    server = serve(answer)
    found = search(server.url, trust=server.trust)
    assert [f"{scene.datetime:%F}" for scene in found.scenes] == days
    if method == "POST":
        body = server.calls[1].body
        assert set(body) == {"collections", "bbox", "datetime", "limit"}
        assert server.calls[3].body == {**body, "token": "3"}
    else:
        assert server.calls[1].path.startswith("/search?collections=landsat-c2-l2&bbox=104.95%2C8.7")
        assert server.calls[3].path == "/search?token=t3"


def test_a_scene_on_two_pages_is_one(serve: Serve) -> None:
    def answer(call: Call) -> Reply:
        if call.number == 1:
            return root(server)
        items = [remote(), remote(day=f"2019-03-0{call.number}")]
        return page(items, **({"href": "/search?2"} if call.number == 2 else {}))

    server = serve(answer)
    assert len(search(server.url, trust=server.trust).scenes) == 3


@pytest.mark.parametrize("fresh", [True, False])
def test_a_loop_of_next_links_ends(serve: Serve, fresh: bool) -> None:
    tokens = itertools.count()

    def answer(call: Call) -> Reply:
        document = page([remote()], href=f"/search?token={next(tokens) if fresh else 1}")
        return root(server) if call.number == 1 else document

    server = serve(answer)
    with pytest.raises(CatalogError, match="pages repeat"):
        search(server.url, trust=server.trust)
    assert len(server.calls) < 6


def test_pages_without_end_are_cut_off(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "MAX_PAGES", 10)

    def answer(call: Call) -> Reply:
        item = remote(row=call.number)
        return root(server) if call.number == 1 else page([item], href=f"/search?token={call.number}")

    server = serve(answer)
    with pytest.raises(CatalogError, match="more than 10 pages"):
        search(server.url, trust=server.trust)


@pytest.mark.parametrize("href", ["http://127.0.0.1:9/search", "https://example.com/s", "file:///etc/passwd"])
def test_a_next_link_or_redirect_elsewhere_is_refused(serve: Serve, href: str) -> None:
    def linking(call: Call) -> Reply:
        return root(servers[0]) if call.number == 1 else page([remote()], href=href)

    def redirecting(call: Call) -> Reply:
        return root(servers[1]) if call.number == 1 else Reply(302, headers={"Location": href})

    servers = [serve(linking), serve(redirecting)]
    for server in servers:
        with pytest.raises(TrustError, match="not allowed"):
            search(server.url, trust=server.trust)
        assert len(server.calls) == 2


@pytest.mark.parametrize(
    "fault",
    [
        Reply(429, b"", {"Retry-After": "0"}),
        Reply(500),
        Reply(503, b"<html>"),
        Reply(body=b"<html>maintenance</html>"),
        Reply(body=b'{"type"'),
        Reply(body=b"{}", headers={"Content-Length": "1000"}),
    ],
)
def test_passing_faults_of_an_api_are_waited_out(serve: Serve, fault: Reply) -> None:
    def answer(call: Call) -> Reply:
        return fault if call.number in (1, 3) else root(server) if call.number == 2 else page([remote()])

    server = serve(answer)
    assert len(search(server.url, trust=server.trust).scenes) == 1
    assert len(server.calls) == 4


@pytest.mark.parametrize(
    ("answer", "message", "calls"),
    [
        (Reply(404), "no answer from 127.0.0.1:.* .HTTP 404.; check the address", 1),
        (Reply(429, b"", {"Retry-After": "9999"}), "HTTP 429, tried 1 times", 1),
        (Reply(500), "HTTP 500, tried 6 times", 6),
        (Reply(body=b"<html>"), "answer is not JSON", 6),
        (Reply(body=b"[" * 100_000), "answer is nested too deep", 1),
        (Reply(302, b"", {"Location": "/again"}), "too many redirects", 6),
        (Reply(body={"conformsTo": ["core"], "links": []}), "cannot be searched", 1),
        (Reply(body={"conformsTo": ["item-search"], "features": 3}), "answer holds no features", 2),
        (Reply(body=gzip.compress(b" " * 2**21), headers={"Content-Encoding": "gzip"}), "larger than 1 MB", 1),
    ],
)
def test_lasting_faults_of_an_api_end_in_one_line(
    serve: Serve,
    monkeypatch: pytest.MonkeyPatch,
    answer: Reply,
    message: str,
    calls: int,
) -> None:
    monkeypatch.setattr(web, "MAX_BYTES", 2**20)
    server = serve(lambda call: answer)
    with pytest.raises(CatalogError, match=message) as caught:
        search(server.url + "/?sig=S3CRET", trust=server.trust)
    assert "S3CRET" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(server.calls) == calls


def test_an_api_that_names_only_its_search_is_searched(serve: Serve) -> None:
    def answer(call: Call) -> Reply:
        if call.number > 1:
            return page([remote()])
        return Reply(body={"type": "Catalog", "links": root(server).body["links"]})

    server = serve(answer)
    assert len(search(server.url, trust=server.trust).scenes) == 1


def test_a_remote_item_file_is_read(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "frozen.parquet"
    trust = Trust().with_roots(tmp_path)
    local = search(save(tmp_path / "items.json", [remote(), remote(day="2019-03-07")]), trust=trust)
    write_scenes(local.scenes, path)
    server = serve(lambda call: Reply(body=path.read_bytes()))
    assert search(f"{server.url}/lists/frozen.parquet?x=1", trust=server.trust).scenes == local.scenes


def test_relative_assets_of_a_remote_item_start_from_its_address(serve: Serve) -> None:
    server = serve(lambda call: Reply(body=make_item()))
    (scene,) = search(f"{server.url}/stac/items/a.json", trust=server.trust).scenes
    assert scene.assets["red"].startswith(f"{server.url}/stac/items/LC08")


def test_progress_counts_the_items_seen(tmp_path: Path, trust: Trust, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "PAGE_ITEMS", 2)
    days = ("2019-02-03", "2019-02-19", "2019-03-07")
    path = save(tmp_path / "items.json", [make_item(day=day) for day in days])
    seen: list[int] = []
    params = SearchParams(catalogs=(path,))
    search_scenes(params, area_of(*CA_MAU), periods_of([2019]), trust=trust, progress=seen.append)
    assert seen == [2, 3]
