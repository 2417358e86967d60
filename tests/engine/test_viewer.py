"""Tiles that are the rasters' own pixels, and a server that answers nothing else."""

from __future__ import annotations

import gc
import io
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from engine.edits import add_edits, as_geojson, list_versions, read_layer
from engine.errors import ConfigError, StoreError, TrustError
from engine.files import locked
from engine.grid import Tile, lonlat_of
from engine.landsat import BANDS
from engine.legend import CLASSES, OUTSIDE_AREA
from engine.overview import Layer, Source, palette, stretched
from engine.ranges import Access
from engine.raster import write_cog
from engine.store import write_store
from engine.trust import Trust, check_inside
from engine.viewer import (
    HEADERS,
    MOST_DRAWN_BYTES,
    TOKEN,
    Drawing,
    Shown,
    create_app,
    draw_tile,
    judged_points,
    tile_bounds,
)

testclient = pytest.importorskip("starlette.testclient")

TILE = Tile(48, 8, -16, (-32768 + 40, 16384 + 60, 300, 280))
FIJI = Tile(1, 2, 64, (64 * 2048, 5540, 200, 220))  # its west reaches beyond 180 degrees
PORT = 8080
STRETCH = np.array([[5000.0] * 3, [20000.0] * 3])


def web_tile(lon: float, lat: float, z: int) -> tuple[int, int]:
    """Return the tile of the web's grid that holds a point."""
    n = 2**z
    y = (1 - math.asinh(math.tan(math.radians(lat))) / math.pi) / 2 * n
    return int((lon + 180) / 360 * n), int(y)


def pixel_of(content: bytes, lon: float, lat: float, z: int) -> tuple[int, ...]:
    """Return the colour of a point in the tile that holds it."""
    x, y = web_tile(lon, lat, z)
    left, bottom, right, top = tile_bounds(x, y, z)
    radius = 6378137.0
    east, north = math.radians(lon) * radius, math.asinh(math.tan(math.radians(lat))) * radius
    image = Image.open(io.BytesIO(content)).convert("RGBA")
    at = int((east - left) / (right - left) * 256), int((top - north) / (top - bottom) * 256)
    return image.getpixel(at)


def story(lon: float, lat: float, year: int | None) -> dict[str, object]:
    if not (-180 <= lon <= 180):
        raise ConfigError("lies in no tile of the run")
    return {"lon": lon, "lat": lat, "year": year}


def make_shown(run: Path, tile: Tile = TILE) -> tuple[Shown, np.ndarray]:
    """Write classes of a tile, and a viewer of them; return the codes too."""
    codes = np.random.default_rng(1).choice(np.array([0, 1, 2, 3], np.uint8), tile.shape)
    codes[:20] = OUTSIDE_AREA
    path = run / "maps" / f"class_{tile.id}_2016.tif"
    write_cog(path, codes, tile.geobox, nodata=OUTSIDE_AREA, legend=CLASSES, overview="mode")
    layer = Layer("class", 2016, {tile.id: Source(path)})
    shown = Shown(
        files={"index.html": (b"<!doctype html>", "text/html"), "page.js": (b"1", "text/javascript")},
        layers={layer.id: layer},
        tiles={tile.id: tile},
        years=(2016,),
        stretches={},
        access=Access(Trust().with_roots(run)),
        story=story,
    )
    return shown, codes


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def shown(run: Path) -> Shown:
    return make_shown(run)[0]


@pytest.fixture(scope="module")
def client(shown: Shown):
    return testclient.TestClient(create_app(shown, port=PORT), base_url=f"http://127.0.0.1:{PORT}")


@pytest.mark.parametrize("tile", [TILE, FIJI], ids=["Ca Mau", "Fiji"])
def test_a_tile_shows_the_colours_of_the_pixels(tmp_path, tile):
    shown, codes = make_shown(tmp_path, tile)
    colours = {code: (*colour, 255) for code, colour in palette("class", (2016,)).items()}
    picked = np.random.default_rng(2)
    for _ in range(8):
        row, col = (int(picked.integers(1, size - 1)) for size in tile.shape)
        lon, lat = (
            float(at[0])
            for at in lonlat_of(tile.zone, np.array([tile.window[0] + row]), np.array([tile.window[1] + col]))
        )
        x, y = web_tile(lon, lat, 14)
        found = pixel_of(draw_tile(shown, shown.layers["class-2016"], x, y, 14), lon, lat, 14)
        if codes[row, col] == OUTSIDE_AREA:
            assert found[3] == 0
        else:
            assert found == colours[codes[row, col]]


def test_a_composite_is_stretched_as_on_the_page(tmp_path):
    import xarray as xr

    composite = np.random.default_rng(3).integers(1, 30_000, (len(BANDS), *TILE.shape)).astype(np.uint16)
    store = tmp_path / "cube" / TILE.id / "2016.zarr"
    write_store(store, xr.Dataset({"composite": (("band", "y", "x"), composite)}), {})
    shown, _ = make_shown(tmp_path)
    shown = Shown(**{**shown.__dict__, "stretches": {TILE.id: STRETCH}})
    layer = Layer("composite", 2016, {TILE.id: Source(store, variable="composite")})
    lon, lat = (
        float(at[0]) for at in lonlat_of(48, np.array([TILE.window[0] + 150]), np.array([TILE.window[1] + 140]))
    )
    found = pixel_of(draw_tile(shown, layer, *web_tile(lon, lat, 14), 14), lon, lat, 14)
    shot = [composite[BANDS.index(name), 150, 140] for name in ("swir16", "nir08", "red")]
    expected = stretched(np.array(shot, np.uint16).reshape(3, 1, 1), STRETCH).ravel()
    assert found == (*expected, 255)


@pytest.mark.parametrize("z", range(0, 15, 2))
def test_every_zoom_has_a_tile_and_where_nothing_is_it_is_clear(client, z):
    lon, lat = (
        float(at[0]) for at in lonlat_of(48, np.array([TILE.window[0] + 150]), np.array([TILE.window[1] + 140]))
    )
    x, y = web_tile(lon, lat, z)
    answer = client.get(f"/tiles/class-2016/{z}/{x}/{y}.png")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    image = np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGBA"))
    assert image.shape == (256, 256, 4)
    if z >= 6:
        assert image[..., 3].any()
    if z:
        elsewhere = client.get(f"/tiles/class-2016/{z}/{(x + 2 ** (z - 1)) % 2**z}/{y}.png")
        assert not np.asarray(Image.open(io.BytesIO(elsewhere.content)).convert("RGBA"))[..., 3].any()


def test_a_raster_that_is_swapped_is_not_shown(tmp_path):
    shown, codes = make_shown(tmp_path / "run")
    (layer,) = shown.layers.values()
    path = layer.tiles[TILE.id].place
    lon, lat = (
        float(at[0]) for at in lonlat_of(48, np.array([TILE.window[0] + 150]), np.array([TILE.window[1] + 140]))
    )
    where = (*web_tile(lon, lat, 14), 14)
    path.rename(tmp_path / "outside.tif")
    path.symlink_to(tmp_path / "outside.tif")
    with pytest.raises(TrustError, match="outside the allowed folders"):
        draw_tile(shown, layer, *where)
    path.unlink()
    write_cog(path, codes[:100], TILE.geobox[:100], nodata=OUTSIDE_AREA)
    with pytest.raises(StoreError, match="is not a raster of tile"):
        draw_tile(shown, layer, *where)
    path.write_text("<VRTDataset rasterXSize='1' rasterYSize='1'/>")
    with pytest.raises(StoreError, match="cannot be read as a GeoTIFF"):
        draw_tile(shown, layer, *where)
    client = testclient.TestClient(create_app(shown, port=PORT), base_url=f"http://127.0.0.1:{PORT}")
    answer = client.get("/tiles/class-2016/{2}/{0}/{1}.png".format(*where))
    assert answer.status_code == 500
    assert "cannot be read" in answer.json()["error"]


def test_a_link_out_of_the_run_is_refused(tmp_path):
    (tmp_path / "run" / "maps").mkdir(parents=True)
    (tmp_path / "run" / "within").symlink_to(tmp_path / "run" / "maps")
    trust = Trust().with_roots(tmp_path / "run")
    check_inside(tmp_path / "run", trust)
    (tmp_path / "run" / "maps" / "passwd").symlink_to("/etc/passwd")
    with pytest.raises(TrustError, match="outside the allowed folders"):
        check_inside(tmp_path / "run", trust)


def test_the_page_is_served_and_may_ask_nobody_else(client):
    for path, kind in (("/", "text/html"), ("/index.html", "text/html"), ("/page.js", "text/javascript")):
        answer = client.get(path)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(kind)
        assert all(answer.headers[name] == value for name, value in HEADERS.items())


def test_a_story_is_asked_for_by_two_numbers_and_perhaps_a_year(client):
    assert client.get("/story?lon=104.9&lat=8.6").json() == {"lon": 104.9, "lat": 8.6, "year": None}
    assert client.get("/story?lon=104.9&lat=8.6&year=2016").json()["year"] == 2016
    for query in ("", "lon=1", "lon=1&lat=x", "lon=1&lat=2&lat=3", "lon=1&lat=2&url=http://a", "lon=1&lat=2&year=2.5"):
        answer = client.get(f"/story?{query}")
        assert answer.status_code == 400
        assert "a story is asked for by" in answer.json()["error"]
    assert client.get("/story?lon=900&lat=8.6").json() == {"error": "lies in no tile of the run"}
    for number in ("nan", "inf", "1e999"):
        assert client.get(f"/story?lon={number}&lat=8").status_code == 404


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({"host": "evil.example"}, "own address"),
        ({"host": f"evil.example:{PORT}"}, "own address"),
        ({"host": "127.0.0.1:1"}, "own address"),
        ({"host": "127.0.0.1"}, "own address"),
        ({"host": f"127.0.0.1.evil.example:{PORT}"}, "own address"),
        ({"origin": "http://evil.example"}, "other origins"),
        ({"origin": "http://localhost:1"}, "other origins"),
        ({"origin": f"https://127.0.0.1:{PORT}"}, "other origins"),
        ({"origin": "null"}, "other origins"),
        ({"sec-fetch-site": "cross-site"}, "other origins"),
        ({"sec-fetch-site": "same-site"}, "other origins"),
        ({"sec-fetch-site": "cross-site", "sec-fetch-dest": "document"}, "other origins"),
    ],
)
def test_others_are_not_answered(client, headers, said):
    answer = client.get("/story?lon=104.9&lat=8.6", headers=headers)
    assert answer.status_code == 403
    assert said in answer.json()["error"]


def test_the_page_s_own_requests_and_a_link_to_it_are(client):
    own = {"origin": f"http://127.0.0.1:{PORT}", "sec-fetch-site": "same-origin"}
    assert client.get("/story?lon=104.9&lat=8.6", headers=own).status_code == 200
    assert client.get("/page.js", headers={"host": f"localhost:{PORT}"}).status_code == 200
    opened = {"sec-fetch-site": "cross-site", "sec-fetch-dest": "document", "sec-fetch-mode": "navigate"}
    assert client.get("/", headers=opened).status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"])
def test_it_is_only_read_from(client, method):
    answer = client.request(method, "/")
    assert answer.status_code == 405
    assert answer.json()["error"].startswith("the viewer is only")


def ask(app, path: bytes, query: bytes = b"") -> tuple[int, str, bytes]:
    """Ask an application as a server does that decodes a path and keeps it as it came."""
    import asyncio
    from urllib.parse import unquote_to_bytes

    sent: list[dict] = []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    decoded = unquote_to_bytes(path).decode("utf-8", "replace")
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "path": decoded,
        "raw_path": path,
        "query_string": query,
    }
    scope |= {"headers": [(b"host", f"127.0.0.1:{PORT}".encode())], "scheme": "http", "root_path": ""}
    asyncio.run(app(scope, receive, send))
    headers = dict(sent[0]["headers"])
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], headers[b"content-type"].decode(), body


HOSTILE = b".. %2e%2e %252e%252e .%2e \\ %5c %2f %252f %00 \x00 // / . ~ %c0%ae%c0%ae \xff ? # C: % -1 file: http:"
WORDS = b"etc passwd tiles class-2016 story 14 0 0.png index.html vsicurl run.json maps"
PARTS = st.sampled_from([*HOSTILE.split(b" "), *WORDS.split(b" "), b"9" * 40, b"a" * 300])


@settings(max_examples=200, deadline=None)
@given(parts=st.lists(PARTS | st.binary(max_size=6), max_size=10), query=st.binary(max_size=30))
def test_hostile_paths_bring_nothing_but_a_sentence(shown, parts, query):
    app = create_app(shown, port=PORT)
    status, kind, body = ask(app, b"/" + b"/".join(parts), query)
    if status == 200:
        assert kind == "image/png" or body in [content for content, _ in shown.files.values()] or b"lon" in query
    else:
        assert 400 <= status < 500
        assert set(json.loads(body)) == {"error"}


def test_points_are_right_and_wrong_of_both_classes_and_counted():
    rows = 500
    draw = np.random.default_rng(4)
    scores = pd.DataFrame({name: draw.integers(0, 2, rows).astype(bool) for name in ("positive", "mapped")})
    scores = scores.assign(zone=48, grid_row=np.arange(rows), grid_col=7, year=2016, region="a", probability=0.25)
    scores = scores.assign(lon=np.linspace(104, 105, rows), lat=8.5)
    found = judged_points([scores], most=50)
    assert [layer["key"] for layer in found] == [
        f"points.{a}_{b}" for a in ("mangrove", "other") for b in ("right", "wrong")
    ]
    assert sum(layer["total"] for layer in found) == rows
    missed = scores[scores["positive"] & ~scores["mapped"]]
    assert found[1]["total"] == len(missed)
    assert len(found[1]["points"]) == 50
    assert {lon for _, lon, _ in found[1]["points"]} <= set(missed["lon"].round(6))
    mixed = scores.sample(frac=1, random_state=1)
    assert found == judged_points([mixed], most=50)


@pytest.mark.slow
def test_of_points_in_many_parts_no_more_are_held_than_are_shown():
    held = []

    def parts():
        for number in range(40):
            rows = pd.DataFrame({"grid_row": number * 100 + np.arange(100), "grid_col": 7, "zone": 48, "year": 2016})
            yield rows.assign(positive=True, mapped=True, region="a", probability=0.5, lon=104.0, lat=8.5)
            held.append(sum(len(of) for of in gc.get_objects() if isinstance(of, pd.DataFrame)))

    found = judged_points(parts(), most=50)
    assert (len(found[0]["points"]), found[0]["total"]) == (50, 4000)
    assert max(held[1:]) - held[0] < 500


OWN = {"origin": f"http://127.0.0.1:{PORT}", "sec-fetch-site": "same-origin", TOKEN: "only the page"}


def square(west: float = 104.9, south: float = 8.6, **properties: object) -> dict[str, object]:
    ring = [[west, south], [west + 0.01, south], [west + 0.01, south + 0.01], [west, south + 0.01], [west, south]]
    geometry = {"type": "Polygon", "coordinates": [ring]}
    return {"type": "Feature", "geometry": geometry, "properties": {"kind": "add", **properties}}


def collection(*features: object) -> dict[str, object]:
    return {"type": "FeatureCollection", "features": list(features)}


def drawing_client(shown: Shown, run: Path):
    """Return a client of a viewer whose drawings are the edits of a folder."""

    def add(features):
        layer, added = add_edits(run, features, author="who views")
        return {"version": layer.version, "added": added}

    drawing = Drawing(token=OWN[TOKEN], polygons=lambda: as_geojson(read_layer(run)), add=add)
    app = create_app(Shown(**{**shown.__dict__, "drawing": drawing}), port=PORT)
    return testclient.TestClient(app, base_url=f"http://127.0.0.1:{PORT}")


def test_what_is_drawn_is_a_version_of_the_edits(shown, tmp_path):
    client = drawing_client(shown, tmp_path)
    assert client.get("/edits").json() == {"version": 0, "total": 0, **collection()}
    first = client.post("/edits", json=collection(square(kind="remove", from_year=2016, note="a pond")), headers=OWN)
    assert (first.status_code, first.json()) == (200, {"version": 1, "added": 1})
    assert client.post("/edits", json=collection(square(), square(105)), headers=OWN).json()["added"] == 2
    assert client.post("/edits", json=collection(square()), headers=OWN).json() == {"version": 2, "added": 0}
    layer = read_layer(tmp_path)
    assert list(layer.polygons["kind"]) == ["remove", "add", "add"]
    assert list(layer.polygons["author"]) == ["who views"] * 3
    found = client.get("/edits").json()
    assert (found["version"], found["total"]) == (2, 3)
    told = found["features"][0]["properties"]
    assert (told["kind"], told["from_year"], told["to_year"], told["note"]) == ("remove", 2016, None, "a pond")
    assert [104.9, 8.6] in found["features"][0]["geometry"]["coordinates"][0][0]


HOSTILE_BODIES = {
    "no JSON": b"{",
    "no number": b'{"type": "FeatureCollection", "features": [NaN]}',
    "deep": b"[" * 100_000,
    "not UTF-8": b"\xff\xfe\x00",
    "a list": b"[]",
    "no features": b'{"type": "FeatureCollection"}',
    "features of another kind": b'{"type": "FeatureCollection", "features": {"a": 1}}',
    "none": json.dumps(collection()).encode(),
    "null": json.dumps(collection(None)).encode(),
    "a point": json.dumps(collection({**square(), "geometry": {"type": "Point", "coordinates": [1, 2]}})).encode(),
    "no geometry": json.dumps(collection({**square(), "geometry": None})).encode(),
    "beyond the Earth": json.dumps(collection(square(500))).encode(),
    "at a pole": json.dumps(collection(square(south=89))).encode(),
    "endless": json.dumps(collection(square())).replace("104.9", "1e999").encode(),
    "another kind": json.dumps(collection(square(kind="burn"))).encode(),
    "no year": json.dumps(collection(square(from_year=10**400))).encode(),
    "years turned": json.dumps(collection(square(from_year=2018, to_year=2016))).encode(),
    "one of two": json.dumps(collection(square(), square(kind=None))).encode(),
}


@pytest.mark.parametrize("body", HOSTILE_BODIES.values(), ids=HOSTILE_BODIES)
def test_what_is_no_polygon_is_one_sentence_and_nothing_is_written(shown, tmp_path, body):
    answer = drawing_client(shown, tmp_path).post(
        "/edits", content=body, headers={**OWN, "content-type": "application/json"}
    )
    assert answer.status_code == 422
    assert answer.json()["error"].count("\n") == 0
    assert list_versions(tmp_path) == []


@pytest.mark.parametrize(
    ("headers", "status", "said"),
    [
        ({TOKEN: None}, 403, "own page"),
        ({TOKEN: ""}, 403, "own page"),
        ({TOKEN: "only the page "[:-2]}, 403, "own page"),
        ({"origin": "http://evil.example"}, 403, "other origins"),
        ({"origin": "null"}, 403, "other origins"),
        ({"sec-fetch-site": "cross-site"}, 403, "other origins"),
        ({"host": f"evil.example:{PORT}"}, 403, "own address"),
        ({"content-type": None}, 415, "application/json"),
        ({"content-type": "text/plain"}, 415, "application/json"),
        ({"content-type": "application/x-www-form-urlencoded"}, 415, "application/json"),
    ],
)
def test_others_may_not_draw(shown, tmp_path, headers, status, said):
    given = {**OWN, "content-type": "application/json", **headers}
    answer = drawing_client(shown, tmp_path).post(
        "/edits",
        content=json.dumps(collection(square())),
        headers={name: value for name, value in given.items() if value is not None},
    )
    assert answer.status_code == status
    assert said in answer.json()["error"]
    assert not (tmp_path / "edits").exists()


def test_no_more_is_read_than_is_taken(shown, tmp_path):
    sent = []

    def endless():
        for _ in range(64):
            sent.append(1)
            yield b" " * (MOST_DRAWN_BYTES // 16)

    client, headers = drawing_client(shown, tmp_path), {**OWN, "content-type": "application/json"}
    for body in (b" " * (MOST_DRAWN_BYTES + 1), endless()):
        answer = client.post("/edits", content=body, headers=headers)
        assert answer.status_code == 413
        assert "larger than 1 MB" in answer.json()["error"]
    assert not (tmp_path / "edits").exists()


def test_only_edits_are_written_to_and_only_where_something_may_be_drawn(client, shown, tmp_path):
    drawn = drawing_client(shown, tmp_path)
    body = collection(square())
    for path in ("/", "/edits/", "/story", "/data.js", "/tiles/class-2016/0/0/0.png"):
        assert drawn.post(path, json=body, headers=OWN).status_code == 405
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS"):
        assert drawn.request(method, "/edits", headers=OWN).status_code == 405
    assert drawn.post("/edits?a=1", json=body, headers=OWN).status_code == 404
    assert client.get("/edits").status_code == 404
    assert client.post("/edits", json=body, headers=OWN).status_code == 405
    assert not (tmp_path / "edits").exists()


def test_while_another_command_writes_edits_it_is_said(shown, tmp_path):
    with locked(tmp_path / "edits"):
        answer = drawing_client(shown, tmp_path).post("/edits", json=collection(square()), headers=OWN)
    assert answer.status_code == 409
    assert "another command works on" in answer.json()["error"]


def test_of_very_many_polygons_the_last_are_shown(tmp_path):
    layer, _ = add_edits(tmp_path, collection(*(square(100 + n / 50) for n in range(20))), author="a")
    found = as_geojson(layer, most=5)
    assert (len(found["features"]), found["total"]) == (5, 20)
    assert found["features"] == as_geojson(layer)["features"][-5:]
    assert as_geojson(layer, most_vertices=12)["features"] == found["features"][-2:]
