from __future__ import annotations

import hashlib
import io
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import rasterio
import requests
from affine import Affine
from rasterio.io import MemoryFile
from shapely.geometry import MultiPolygon, box

from engine import lookup, ranges
from engine.area import Area, Region
from engine.errors import CatalogError, MaskError, StoreError, TrustError
from engine.grid import grid_geobox, lonlat_of
from engine.habitat import find_habitat_sources, habitat_tile
from engine.lookup import planetary_rasters
from engine.mask_archives import get_masks
from engine.masks import label_tile, open_masks
from engine.params import HabitatParams, LabelParams
from engine.trust import Trust

TOKEN = "sig=s3cret"


class Server:
    """Files over http on loopback, with ranges; faults are asked for by name."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.signed: set[str] = set()
        self.cut_once: dict[str, int] = {}
        self.redirects: dict[str, str] = {}
        self.requests: list[tuple[str, str | None]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                path, _, query = self.path.partition("?")
                name, wanted = path.lstrip("/"), self.headers.get("Range")
                outer.requests.append((name, wanted))
                if name in outer.redirects:
                    self.send_response(302)
                    self.send_header("Location", outer.redirects[name])
                    self.end_headers()
                    return
                if name not in outer.files or (name in outer.signed and TOKEN not in query):
                    self.send_error(404 if name not in outer.files else 403)
                    return
                body, total = outer.files[name], len(outer.files[name])
                first, last = 0, total - 1
                if wanted:
                    begin, _, end = wanted.removeprefix("bytes=").partition("-")
                    first, last = int(begin), min(int(end or last), last)
                self.send_response(206 if wanted else 200)
                self.send_header("Content-Length", str(last - first + 1))
                self.send_header("Accept-Ranges", "bytes")
                if wanted:
                    self.send_header("Content-Range", f"bytes {first}-{last}/{total}")
                self.end_headers()
                body = body[first : last + 1]
                if name in outer.cut_once:
                    body = body[: outer.cut_once.pop(name)]
                    self.close_connection = True
                if self.command == "GET":
                    self.wfile.write(body)

            def log_message(self, *args) -> None:
                pass

        self.httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.httpd.server_port}"
        threading.Thread(target=self.httpd.serve_forever, args=(0.02,), daemon=True).start()

    def url(self, name: str) -> str:
        return f"http://{self.host}/{name}"


@pytest.fixture
def server():
    server = Server()
    yield server
    server.httpd.shutdown()
    server.httpd.server_close()


def _tif(values: np.ndarray, west: float, north: float, degrees: float, **options) -> bytes:
    profile = {"driver": "GTiff", "count": 1, "height": values.shape[0], "width": values.shape[1]}
    profile |= {"transform": Affine(degrees, 0, west, 0, -degrees, north), "crs": "EPSG:4326"}
    with MemoryFile() as memory:
        with memory.open(dtype=values.dtype, **profile, **options) as target:
            target.write(values, 1)
        return memory.read()


def _area(*boxes) -> Area:
    return Area((Region("a", MultiPolygon([box(*b) for b in boxes])),))


# Global Mangrove Watch

CA_MAU = _area((104.7, 8.5, 105.2, 8.9))


def _gmw_tile(west: int, north: int, seed: int = 0) -> bytes:
    values = (np.random.default_rng(seed).random((900, 900)) < 0.3).astype("uint8")
    return _tif(values, west, north, 1 / 900, nodata=0)


def _gmw(server: Server, members: dict[str, bytes], **record) -> str:
    """Publish an archive in the shape of the Zenodo record; return the record's address."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in members.items():
            archive.writestr(name, body)
    body = packed.getvalue()
    key = "gmw_v3_2020_gtiff.zip"
    server.files["content"] = body
    entry = {
        "id": "0f1e",
        "key": key,
        "size": len(body),
        "checksum": "md5:" + hashlib.md5(body).hexdigest(),
        "links": {"self": server.url("content")},
    } | record
    readme = {"key": "readme.txt", "size": 1, "checksum": "md5:0", "links": {"self": server.url("readme.txt")}}
    server.files["record"] = json.dumps({"id": 6894273, "files": [readme, entry]}).encode()
    return server.url("record")


MEMBERS = {
    "gmw_v3_2020/GMW_N09E104_2020_v3.tif": _gmw_tile(104, 9),
    "gmw_v3_2020/GMW_N09E105_2020_v3.tif": _gmw_tile(105, 9, 1),
    "gmw_v3_2020/GMW_N26W082_2020_v3.tif": _gmw_tile(-82, 26, 2),
    "gmw_v3_2020/readme.txt": b"hello",
}


def _get_gmw(server: Server, out: Path, record: str, area: Area = CA_MAU, lines: list[str] | None = None) -> Path:
    trust = Trust().with_hosts(server.host)
    progress = lines.append if lines is not None else (lambda line: None)
    return get_masks("gmw", 2020, area, out, trust=trust, api=record, progress=progress)


def test_only_the_tiles_an_area_needs_are_taken_out_and_described(server, tmp_path):
    lines: list[str] = []
    folder = _get_gmw(server, tmp_path, _gmw(server, MEMBERS), lines=lines)
    assert folder == tmp_path / "gmw-2020"
    names = ["GMW_N09E104_2020_v3.tif", "GMW_N09E105_2020_v3.tif"]
    assert sorted(p.name for p in folder.iterdir()) == [*names, "mask.json"]
    about = json.loads((folder / "mask.json").read_text())
    assert (about["licence"], about["year"], about["value"]) == ("CC-BY-4.0", 2020, [1])
    assert "Bunting" in about["citation"]
    assert "2022" in about["citation"]
    for entry, name in zip(about["files"], names, strict=True):
        body = MEMBERS[f"gmw_v3_2020/{name}"]
        assert entry == {"name": name, "href": server.url("content"), "sha256": hashlib.sha256(body).hexdigest()}
        assert (folder / name).read_bytes() == body
    assert any("downloading" in line for line in lines)
    # And it is a mask as it stands.
    params = LabelParams.model_validate({"masks": [{"path": str(folder), "year": 2020}]})
    masks = open_masks(params, trust=Trust().with_roots(tmp_path), area=CA_MAU)
    assert masks[0].citation == about["citation"]
    # Longitude 105 lies in this window, 9 N north of it.
    labels = label_tile(masks, grid_geobox(48, (-32500, 16600, 50, 130)), 2020, params).labels
    assert set(np.unique(labels)) == {1, 2}


def test_an_archive_that_is_here_already_is_not_downloaded_again(server, tmp_path):
    record = _gmw(server, MEMBERS)
    _get_gmw(server, tmp_path, record)
    florida = _get_gmw(server, tmp_path, record, _area((-81.5, 25.2, -81.4, 25.3)))
    assert [name for name, _ in server.requests] == ["record", "content", "record"]
    assert [p.name for p in sorted(florida.iterdir())] == ["GMW_N26W082_2020_v3.tif", "mask.json"]


def test_a_download_that_breaks_off_goes_on_where_it_stopped(server, tmp_path):
    record = _gmw(server, MEMBERS)
    server.cut_once["content"] = 2**17 + 5
    folder = _get_gmw(server, tmp_path, record)
    assert len(list(folder.glob("*.tif"))) == 2
    assert [wanted for name, wanted in server.requests if name == "content"] == [None, f"bytes={2**17 + 5}-"]


def test_a_wrong_checksum_is_refused_and_nothing_is_left(server, tmp_path):
    record = _gmw(server, MEMBERS, checksum="md5:" + "0" * 32)
    with pytest.raises(CatalogError, match="does not have the size and md5 announced; run it again"):
        _get_gmw(server, tmp_path, record)
    assert list(tmp_path.iterdir()) == []


def test_names_that_climb_out_of_the_folder_stay_inside_it_and_others_are_left(server, tmp_path):
    members = {
        "../../GMW_N09E104_2020_v3.tif": MEMBERS["gmw_v3_2020/GMW_N09E104_2020_v3.tif"],
        "/etc/GMW_N09E105_2020_v3.tif": MEMBERS["gmw_v3_2020/GMW_N09E105_2020_v3.tif"],
        "../../evil.tif": b"x",
        "GMW_N09E104_2019_v3.tif": b"x",
    }
    out = tmp_path / "a" / "b"
    folder = _get_gmw(server, out, _gmw(server, members))
    assert sorted(p.name for p in folder.glob("*.tif")) == ["GMW_N09E104_2020_v3.tif", "GMW_N09E105_2020_v3.tif"]
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.tif")) == [
        "a/b/gmw-2020/GMW_N09E104_2020_v3.tif",
        "a/b/gmw-2020/GMW_N09E105_2020_v3.tif",
    ]


@pytest.mark.parametrize(
    ("members", "match"),
    [
        ({"GMW_N09E104_2020_v3.tif": b"not a tiff"}, "cannot be read as a GeoTIFF"),
        ({"GMW_N09E104_2020_v3.tif": _gmw_tile(4, 9)}, "does not lie where its name says"),
        ({"GMW_N09E104_2020_v3.tif": bytes(2**27 + 1)}, "too large"),
        ({"GMW_N50E104_2020_v3.tif": b""}, "2020 has no tile in the area"),
    ],
)
def test_archives_that_hold_something_else_are_refused_whole(server, tmp_path, members, match):
    with pytest.raises(MaskError, match=match):
        _get_gmw(server, tmp_path, _gmw(server, members))
    assert not (tmp_path / "gmw-2020").exists()
    assert not list(tmp_path.glob(".*"))


def test_other_hosts_are_refused_also_by_redirect(server, tmp_path):
    with pytest.raises(TrustError, match=r"host evil\.example is not allowed"):
        _get_gmw(server, tmp_path, _gmw(server, MEMBERS, links={"self": "https://evil.example/x.zip"}))
    record = _gmw(server, MEMBERS)
    server.redirects["content"] = "https://evil.example/x.zip"
    with pytest.raises(TrustError, match=r"host evil\.example is not allowed"):
        _get_gmw(server, tmp_path, record)


def test_archives_that_cannot_be_had_end_in_one_line(server, tmp_path):
    record = _gmw(server, MEMBERS)
    with pytest.raises(MaskError, match="no gmw mask of 2012; choose among worldcover: 2020, 2021; gmw: 1996"):
        get_masks("gmw", 2012, CA_MAU, tmp_path, trust=Trust())
    with pytest.raises(CatalogError, match="has no file gmw_v3_2019_gtiff"):
        get_masks("gmw", 2019, CA_MAU, tmp_path, trust=Trust().with_hosts(server.host), api=record)
    del server.files["content"]
    with pytest.raises(CatalogError, match=r"gmw_v3_2020_gtiff\.zip: no answer from .*\(HTTP 404\)"):
        _get_gmw(server, tmp_path, record)
    server.files["record"] = b'{"files": 3}'
    with pytest.raises(CatalogError, match="is not one of Zenodo's"):
        _get_gmw(server, tmp_path, record)


def test_a_folder_of_somebody_else_is_not_replaced(server, tmp_path):
    (tmp_path / "gmw-2020").mkdir()
    (tmp_path / "gmw-2020" / "thesis.txt").write_text("all of it")
    with pytest.raises(StoreError, match="exists and is not a fetched mask"):
        _get_gmw(server, tmp_path, _gmw(server, MEMBERS))
    assert (tmp_path / "gmw-2020" / "thesis.txt").exists()


# The Planetary Computer, played by a real STAC API server


class Signer:
    """Hands out a token that is refused until it is forgotten, as an expired one is."""

    def __init__(self, *, stale: bool = False) -> None:
        self.stale = stale

    def sign(self, href: str, budget_s: float) -> str:
        return f"{href}?sig=old" if self.stale else f"{href}?{TOKEN}"

    def forget(self, href: str) -> None:
        assert href.endswith("old") == self.stale
        self.stale = False


def _item(collection: str, name: str, asset: str, href: str, bounds, begin: str | None, end: str | None) -> dict:
    west, south, east, north = bounds
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    times = {"datetime": None, "start_datetime": begin, "end_datetime": end} if end else {"datetime": begin}
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": name,
        "collection": collection,
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "bbox": list(bounds),
        "properties": times,
        "links": [],
        "assets": {asset: {"href": href, "type": "image/tiff; application=geotiff"}},
    }


WORLDCOVER = np.random.default_rng(8).choice(np.array([10, 80, 95], "uint8"), (900, 900))
"""Three degrees from 105 E 9 N, as WorldCover cuts its tiles, at a 300th of a degree."""


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    """A STAC API with WorldCover, a DEM and water occurrence, and the server of their files."""
    rustac = shutil.which("rustac", path=str(Path(sys.executable).parent))
    if rustac is None:
        pytest.skip("needs the rustac command")
    server = Server()
    bounds = (105.0, 6.0, 108.0, 9.0)
    items = []
    for year in (2020, 2021):
        name = f"ESA_WorldCover_10m_{year}_v{year - 2019}00_N06E105_Map"
        times = (f"{year}-01-01T00:00:00Z", f"{year}-12-31T23:59:59Z")
        values = WORLDCOVER if year == 2021 else np.full_like(WORLDCOVER, 10)
        server.files[f"{name}.tif"] = _tif(values, 105, 9, 1 / 300, nodata=0, tiled=True)
        items.append(_item("esa-worldcover", name, "map", server.url(f"{name}.tif"), bounds, *times))
    server.files["dem.tif"] = _tif(np.zeros((300, 300), "float32"), 105, 9, 1 / 300, tiled=True)
    items.append(
        _item("cop-dem-glo-30", "dem", "data", server.url("dem.tif"), (105, 8, 106, 9), "2021-04-22T00:00:00Z", None)
    )
    water = np.zeros((300, 300), "uint8")
    water[:, :150] = 100
    server.files["gsw.tif"] = _tif(water, 105, 9, 1 / 300, tiled=True)
    times = ("1984-03-01T00:00:00Z", "2020-12-31T11:59:59Z")
    items.append(_item("jrc-gsw", "gsw", "occurrence", server.url("gsw.tif"), (105, 8, 106, 9), *times))
    server.signed = set(server.files)
    folder = tmp_path_factory.mktemp("stac")
    documents = []
    for collection in sorted({item["collection"] for item in items}):
        extent = {"spatial": {"bbox": [[-180, -90, 180, 90]]}, "temporal": {"interval": [[None, None]]}}
        about = {"type": "Collection", "stac_version": "1.0.0", "id": collection, "description": collection}
        documents.append(folder / f"{collection}.json")
        documents[-1].write_text(json.dumps(about | {"license": "various", "extent": extent, "links": []}))
    documents.append(folder / "items.json")
    documents[-1].write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    process = subprocess.Popen(
        [rustac, "serve", "--addr", address, *map(str, documents)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(100):
            try:
                requests.get(f"http://{address}/", timeout=1).raise_for_status()
                break
            except requests.RequestException:
                time.sleep(0.05)
        yield server, f"http://{address}", Trust().with_hosts(server.host, address)
    finally:
        process.terminate()
        process.wait(10)
        server.httpd.shutdown()
        server.httpd.server_close()


def test_worldcover_is_cut_to_the_area_and_described_without_a_signature(catalog, tmp_path):
    _, api, trust = catalog
    # To pixel edges, through pixels, up to the raster's edge.
    area = _area((105.1, 8.6, 105.2, 8.75), (106.001, 8.001, 106.049, 8.019), (104.0, 7.0, 105.0, 7.5))
    folder = get_masks("worldcover", 2021, area, tmp_path, trust=trust, signer=Signer(stale=True), api=api)
    [path] = folder.glob("*.tif")
    assert path.name == "ESA_WorldCover_10m_2021_v200_N06E105_Map.tif"
    with rasterio.open(path) as source:
        values = source.read(1)
        left, top = (round(v * 300) for v in (source.transform.c - 105, 9 - source.transform.f))
        assert source.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert source.nodata == 0
    expected = np.zeros_like(WORLDCOVER)
    expected[75:120, 30:60] = WORLDCOVER[75:120, 30:60]
    expected[294:300, 300:315] = WORLDCOVER[294:300, 300:315]
    assert (top, left) == (75, 30)
    assert np.array_equal(values, expected[75:300, 30:315])
    text = (folder / "mask.json").read_text()
    assert "s3cret" not in text
    about = json.loads(text)
    assert about["licence"] == "CC-BY-4.0"
    assert "v200" in about["citation"]
    assert about["files"][0]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    params = LabelParams.model_validate({"masks": [{"path": str(folder), "year": 2021, "value": [95]}]})
    masks = open_masks(params, trust=Trust().with_roots(tmp_path), area=area)
    assert {1, 2} <= set(np.unique(label_tile(masks, grid_geobox(48, (-32000, 17200, 40, 40)), 2020, params).labels))


def test_an_area_without_worldcover_and_files_that_may_not_be_read_end_in_one_line(catalog, tmp_path, monkeypatch):
    monkeypatch.setattr(ranges, "READ_WAITS_S", (0.01,))
    _, api, trust = catalog
    with pytest.raises(CatalogError, match="esa-worldcover holds nothing of 2021 in this area"):
        get_masks("worldcover", 2021, _area((0, 0, 1, 1)), tmp_path, trust=trust, signer=Signer(), api=api)
    with pytest.raises(CatalogError, match="has no asset photo"):
        planetary_rasters("esa-worldcover", "photo", [(105, 8, 106, 9)], trust=trust, api=api)
    with pytest.raises(TrustError, match="host"):
        planetary_rasters(
            "esa-worldcover", "map", [(105, 8, 106, 9)], trust=Trust().with_hosts(api.removeprefix("http://")), api=api
        )
    with pytest.raises(MaskError, match="cannot be read as a GeoTIFF") as caught:
        get_masks("worldcover", 2021, _area((105, 8, 106, 9)), tmp_path, trust=trust, api=api)  # unsigned
    assert "s3cret" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_real_api_is_paged_to_its_end(catalog, monkeypatch):
    server, api, trust = catalog
    monkeypatch.setattr(lookup, "_PAGE_ITEMS", 1)
    found = planetary_rasters("esa-worldcover", "map", [(105, 8, 106, 9)], trust=trust, api=api)
    names = [f"ESA_WorldCover_10m_{year}_v{version}00_N06E105_Map.tif" for year, version in ((2020, 1), (2021, 2))]
    assert found == [(server.url(name), (105.0, 6.0, 108.0, 9.0)) for name in names]


def test_the_habitat_limit_finds_and_reads_its_rasters_there(catalog):
    _, api, trust = catalog
    params = HabitatParams(max_distance_to_tidal_water_km=1.0)
    area = _area((105.45, 8.6, 105.55, 8.7))
    sources = find_habitat_sources(params, area, trust=trust, api=api)
    assert [r.href.rsplit("/")[-1] for r in (*sources.dem, *sources.water)] == ["dem.tif", "gsw.tif"]
    assert all(TOKEN not in r.href for r in (*sources.dem, *sources.water))
    geobox = grid_geobox(48, (-31800, 18470, 20, 120))  # across 105.5 E, where the water ends
    allowed = habitat_tile(params, geobox, sources=sources, trust=trust, signer=Signer())
    edge = int(allowed[10].sum())
    assert allowed[10, :edge].all()
    assert 0 < edge < 120
    lon, lat = lonlat_of(48, np.array([-31790]), np.array([18470 + edge]))
    beyond_m = (lon - 105.5) * 111_320 * np.cos(np.radians(lat))
    assert abs(beyond_m - 1000) < 45
