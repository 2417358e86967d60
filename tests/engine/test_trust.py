"""What untrusted addresses, paths, names and texts may be."""

from __future__ import annotations

import json
import pickle
import re
import sqlite3
import zipfile
from contextlib import closing
from pathlib import Path
from typing import Any

import geopandas as gpd
import pytest
from shapely.geometry import box

from engine.errors import TrustError
from engine.trust import Trust, is_plain_vector, redact, safe_name, unsigned
from tests.makers import ENDLESS, QUERIES, write_hostile_geopackage

BLOB = "https://landsateuwest.blob.core.windows.net/landsat-c2/a.tif"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a.tif").write_bytes(b"x")
    (tmp_path / "canary.txt").write_text("secret")
    return folder


@pytest.mark.parametrize(
    "href",
    [
        "http://landsateuwest.blob.core.windows.net/a.tif",  # not https
        "https://example.com/a.tif",
        "https://landsateuwest.blob.core.windows.net.example.com/a.tif",
        "https://example.com/landsateuwest.blob.core.windows.net/a.tif",
        "https://landsateuwest.blob.core.windows.net@example.com/a.tif",
        "https://user:pass@landsateuwest.blob.core.windows.net/a.tif",
        "https://@landsateuwest.blob.core.windows.net/a.tif",
        "https://landsateuwest.blob.core.windows.net\\@example.com/a.tif",
        "https://example.com#@landsateuwest.blob.core.windows.net/a.tif",
        "https://example.com?@landsateuwest.blob.core.windows.net/a.tif",
        "https://landsateuwest%2eblob.core.windows.net/a.tif",
        "https://landsateuwest.blob.core.windows.net.:443/a.tif",
        "https://landsateuwest.blob.core.windows.net:8443/a.tif",
        "https://landsateuwest.blob.core.windows.net:port/a.tif",
        "https://landsateuwest。blob.core.windows.net/a.tif",
        "https:///a.tif",
        "https://[::1/a.tif",
        "http://127.0.0.1/a.tif",
        "http://127.0.0.1:8080/a.tif",
        "http://[::1]:8080/a.tif",
        "http://[::ffff:127.0.0.1]/a.tif",
        "http://2130706433/a.tif",
        "http://0x7f.1/a.tif",
        "http://169.254.169.254/latest/meta-data",
        "https://localhost/a.tif",
        "file:///etc/passwd",
        "FILE:///etc/passwd",
        "ftp://landsateuwest.blob.core.windows.net/a.tif",
        "s3://bucket/a.tif",
        "gs://bucket/a.tif",
        "/vsicurl/https://landsateuwest.blob.core.windows.net/a.tif",
        "GTIFF_DIR:1:https://landsateuwest.blob.core.windows.net/a.tif",
        BLOB + "\n",
        BLOB + "\0",
        BLOB + " x",
        BLOB + "\u202e",
        BLOB + "x" * 5000,
    ],
)
def test_hostile_addresses_are_refused_in_one_line(href: str) -> None:
    with pytest.raises(TrustError) as caught:
        Trust().check(href, what="scene X asset red")
    assert str(caught.value).startswith("scene X asset red: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_allowed_addresses_pass_and_get_a_plain_form() -> None:
    assert Trust().check(BLOB, what="x") == BLOB
    assert Trust().check("HTTPS" + BLOB[5:] + "?sig=1#part", what="x") == BLOB + "?sig=1"
    assert Trust().check("https://LandsatLook.usgs.gov:443/a", what="x").endswith(":443/a")


def test_loopback_is_reached_over_http_only_when_allowed_with_its_port() -> None:
    trust = Trust().with_hosts("127.0.0.1:7822", "[::1]:7822", "localhost")
    assert trust.url("http://127.0.0.1:7822/search", what="x")
    assert trust.url("http://[::1]:7822/search", what="x")
    assert trust.url("http://localhost/search", what="x")
    for href in ("http://127.0.0.1:7823/", "http://127.0.0.1/", "http://[::1]/", "http://localhost:81/"):
        with pytest.raises(TrustError, match="pass --allow-host"):
            trust.url(href, what="x")


def test_the_fix_names_the_host_to_allow() -> None:
    href = "https://stac.example.org:8443/v1"
    with pytest.raises(TrustError) as caught:
        Trust().url(href, what="catalog")
    host = str(caught.value).rpartition(" ")[2]
    assert Trust().with_hosts(host).url(href, what="catalog") == href


@pytest.mark.parametrize(
    "href",
    [
        "",
        "../canary.txt",
        "a.tif/../../canary.txt",
        "/etc/passwd",
        "//server/share/a.tif",
        "\\\\server\\share\\a.tif",
        "~/a.tif",
        "~nobody-of-this-name/a.tif",
        "/vsicurl/http://127.0.0.1/a.tif",
        "/VSIMEM/a.tif",
        "//vsizip/a.zip",
        "file:/etc/passwd",
        "GTIFF_DIR:1:a.tif",
        "HDF5:a.h5",
        "NETCDF:a.nc",
        "vrt://a.tif",
        "a.tif\0.png",
        "a\n.tif",
        "x" * 5000,
    ],
)
def test_hostile_paths_are_refused(root: Path, monkeypatch: pytest.MonkeyPatch, href: str) -> None:
    monkeypatch.chdir(root)
    with pytest.raises(TrustError) as caught:
        Trust().with_roots(root).check(href, what="scene X asset red")
    assert "\n" not in str(caught.value)


def test_percent_signs_are_not_decoded(root: Path) -> None:
    trust = Trust().with_roots(root)
    assert trust.path(f"{root}/..%2fcanary.txt", what="x") == root / "..%2fcanary.txt"


def test_links_are_followed_before_the_check(root: Path) -> None:
    (root / "out").symlink_to(root.parent / "canary.txt")
    (root / "in").symlink_to(root / "a.tif")
    (root / "loop").symlink_to(root / "loop")
    trust = Trust().with_roots(root)
    assert trust.path(str(root / "in"), what="x") == root / "a.tif"
    for name in ("out", "loop/a.tif"):
        with pytest.raises(TrustError):
            trust.path(str(root / name), what="x")


def test_a_root_does_not_open_its_neighbour_of_the_same_beginning(root: Path) -> None:
    (root.parent / "data2").mkdir()
    with pytest.raises(TrustError, match="--allow-root"):
        Trust().with_roots(root).path(str(root.parent / "data2" / "a.tif"), what="x")


def test_the_folder_to_allow_is_that_of_a_file_and_a_folder_itself_but_never_all(tmp_path: Path) -> None:
    (tmp_path / "runs.v2").mkdir()
    for given, folder in {
        tmp_path / "runs.v2": tmp_path / "runs.v2",
        tmp_path / "new": tmp_path / "new",
        tmp_path / "mask.tif": tmp_path,
        Path("/data"): Path("/data"),
        Path("/mask.tif"): Path("/mask.tif"),
    }.items():
        with pytest.raises(TrustError, match=f"--allow-root {re.escape(str(folder.resolve()))}$"):
            Trust().path(str(given), what="out")
        Trust().with_roots(folder).path(str(given), what="out")


def test_nothing_local_is_allowed_by_default(root: Path) -> None:
    with pytest.raises(TrustError, match="outside the allowed folders"):
        Trust().path(str(root / "a.tif"), what="x")


def test_a_path_that_only_gdal_takes_for_an_address_is_refused_though_all_files_are_allowed() -> None:
    trust = Trust().with_roots("/")
    assert trust.path("/etc/../etc/hostname", what="x") == Path("/etc/hostname").resolve()
    for href in ("/./vsicurl/http:/127.0.0.1/a.tif", "/etc/../vsizip/a.zip/a.tif"):
        with pytest.raises(TrustError, match="plain file path"):
            trust.path(href, what="asset red")


@pytest.mark.parametrize(
    "address",
    [
        "s3://b/run",  # too short to be a bucket
        "s3://Bucket/run",
        "s3:///run",
        "s3:/bucket/run",
        "S3://bucket/run",
        "s3://bucket//run",
        "s3://bucket/run//",
        "s3://bucket/../run",
        "s3://bucket/run/..",
        "s3://bucket/./run",
        "s3://bucket/%2e%2e/run",
        "s3://bucket/.hidden",
        "s3://bucket/run?versionId=1",
        "s3://bucket/run#part",
        "s3://bucket/run\n",
        "s3://bucket/a run",
        "s3://bucket:443/run",
        "s3://KEY:S3CRET@bucket/run",
        "s3://bucket/run?X-Amz-Signature=S3CRET",
        "abfs://co/run",
        "abfs://a--b/run",
        "abfs://container@account/run",
        "abfs://container@account.example.com/run",
        "abfs://container@account.dfs.core.windows.net.example.com/run",
        "abfs://container@account.dfs.core.windows.net:8443/run",
        "abfs://container:S3CRET@account.dfs.core.windows.net/run",
        "gs://bucket/run",
        "https://bucket.s3.amazonaws.com/run",
        "file:///run",
        "/run",
    ],
)
def test_an_address_that_is_no_plain_store_is_refused_whatever_is_allowed(address: str) -> None:
    trust = Trust().with_roots("s3://bucket", "abfs://container@account.dfs.core.windows.net", "/")
    with pytest.raises(TrustError, match=r"^store: .+ is not the plain address of a store; give s3://") as caught:
        trust.store(address, what="store")
    assert "\n" not in str(caught.value)
    assert "S3CRET" not in str(caught.value)


@pytest.mark.parametrize(
    "root", ["s3://bucket/runs", "abfs://maps@account.dfs.core.windows.net/runs", "abfs://maps/runs"]
)
def test_a_store_is_allowed_by_whole_segments_and_the_fix_names_the_flag(root: str) -> None:
    trust = Trust().with_roots(root + "/")
    assert trust.store(root, what="store") == root
    assert trust.store(f"{root}/coast/2019/", what="store") == f"{root}/coast/2019"
    bucket = root.rpartition("/")[0]
    for other in (bucket, f"{root}2", f"{bucket}/other", root.replace("://", "://other-")):
        with pytest.raises(TrustError, match=f"^store: {other} is not allowed; .* pass --allow-root {other}$"):
            trust.store(other, what="store")
        assert Trust().with_roots(other).store(other, what="store") == other


def test_a_store_is_no_folder_and_a_folder_no_store() -> None:
    trust = Trust().with_roots("s3://bucket/runs")
    assert trust.roots == ()
    with pytest.raises(TrustError):
        trust.path("s3://bucket/runs/a.tif", what="asset red")
    assert trust.check("s3://bucket/runs/a.tif", what="asset red") == "s3://bucket/runs/a.tif"
    with pytest.raises(TrustError, match=r"asset red: s3://bucket/run/a\.tif is not allowed"):
        trust.check("s3://bucket/run/a.tif", what="asset red")
    with pytest.raises(TrustError, match="--allow-root: 's3://bucket/' is not the plain address"):
        Trust().with_roots("s3://bucket//")


def test_trust_survives_pickling_unchanged(root: Path) -> None:
    trust = Trust().with_roots(root, "s3://bucket/runs").with_hosts("A.example:1")
    assert pickle.loads(pickle.dumps(trust)) == trust
    assert "a.example:1" in trust.hosts


@pytest.mark.parametrize(
    "text",
    [
        "https://a/b.tif?se=2026-01-01&sp=r&sig=S3CRET%3D",
        "GET /b.tif?sig=S3CRET HTTP/1.1",
        "url=https%3A%2F%2Fa%2Fb.tif%3Fsv%3D2020%26sig%3DS3CRET",
        "token: sig=S3CRET",
        "{'token': 'st=2026&se=2026&sig=S3CRET'}",
        "https://bucket/x?X-Amz-Signature=S3CRET&X-Amz-Date=1",
        "https://user:S3CRET@host/a.tif",
        "https://host/a?access_token=S3CRET",
        "https://host/a?subscription-key=S3CRET",
        "https://host/stac?api_key=S3CRET",
        "DefaultEndpointsProtocol=https;AccountKey=S3CRET",
        "s3://KEY:S3CRET@bucket/run",
        "abfs://user:S3CRET@account.dfs.core.windows.net/run",
    ],
)
def test_secrets_are_redacted(text: str) -> None:
    assert "S3CRET" not in redact(text)
    assert "***" in redact(text)


def test_redaction_leaves_ordinary_text_alone() -> None:
    text = "scene LC08 at https://host/a.tif?item=1&assets=red: 3 se = 2 of 5 designs=good"
    text += " in abfs://container@account.dfs.core.windows.net/run"
    assert redact(text) == text


def test_unsigned_drops_the_query_of_addresses_only() -> None:
    assert unsigned(BLOB + "?sig=1&se=2#x") == BLOB
    assert unsigned("/data/what?.tif") == "/data/what?.tif"


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "a\\b", ".hidden", "-rf", "a..b", "a\n", "a\0", "a b", "x" * 129, "ä", "C:x"]
)
def test_unsafe_names_are_refused(name: str) -> None:
    with pytest.raises(TrustError, match="is not a safe name"):
        safe_name(name, what="scene id")


def test_landsat_names_are_safe() -> None:
    name = "LC08_L2SP_028030_20200114_20200824_02_T1_SR"
    assert safe_name(name, what="scene id") == name


def pipeline(path: Path) -> str:
    return json.dumps({"type": "gdal_streamed_alg", "command_line": f"gdal vector pipeline ! read {path}"})


def virtual(path: Path) -> str:
    layer = f"<OGRVRTLayer name='a'><SrcDataSource>{path}</SrcDataSource></OGRVRTLayer>"
    return f"<OGRVRTDataSource>{layer}</OGRVRTDataSource>"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.geojson", pipeline),
        ("a.json", lambda path: "\ufeff \n" + pipeline(path)),
        ("a.geojson", virtual),
        ("a.gpkg", virtual),
        ("a.kml", lambda path: "<!-- <kml --> " + virtual(path)),
        (
            "a.kml",
            lambda path: (
                '<f xmlns:g="http://www.opengis.net/gml" xsi:schemaLocation="u http://h/s.xsd"><!--<kml--></f>'
            ),
        ),
        ("a.gml", lambda path: "<kml></kml>"),
        ("a.vrt", virtual),
        ("a.shp", lambda path: ""),
        ("a!/b.geojson", lambda path: "{}"),
        ("a;b.geojson", lambda path: "{}"),
    ],
)
def test_a_vector_file_that_may_point_elsewhere_is_not_plain(tmp_path: Path, name: str, content: Any) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content(tmp_path / "other.geojson"), encoding="utf-8")
    assert not is_plain_vector(path)


def test_an_archive_is_no_plain_vector_file_whatever_is_in_it(tmp_path: Path) -> None:
    for name in ("a.zip", "a.geojson", "a.kml"):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("a.vrt", virtual(tmp_path / "other.geojson"))
        assert not is_plain_vector(tmp_path / name)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("what", QUERIES)
def test_a_geopackage_that_brings_queries_is_no_plain_vector_file(tmp_path: Path, what: str) -> None:
    path = tmp_path / "a b#1?.gpkg"
    write_hostile_geopackage(path, what)
    assert not is_plain_vector(path)


def test_a_geopackage_of_tables_is_plain_also_while_a_gis_has_it_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a b#1?.gpkg"
    square = gpd.GeoDataFrame({"kind": ["add"]}, geometry=[box(104.8, 8.6, 104.9, 8.7)], crs=4326)
    for layer in ("drawn", 'it\'s "mine"'):
        square.to_file(path, layer=layer)
    content = path.read_bytes()
    assert is_plain_vector(path)
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == content
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE layer_styles (id INTEGER PRIMARY KEY, styleQML TEXT)")
        assert is_plain_vector(path)
        database.execute(f"CREATE VIEW more AS {ENDLESS}")
        assert not is_plain_vector(path)
    monkeypatch.setattr("engine.trust._MOST_HELD", 9)
    assert not is_plain_vector(path)
