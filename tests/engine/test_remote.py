"""Remote rasters opened by GDAL, fetched by us: the same pixels, and every fault told."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import rasterio
from affine import Affine

from engine import ranges, remote
from engine.errors import Fault, SceneError
from engine.gdal import open_raster
from engine.ranges import Access, Spent
from engine.remote import RemoteFile
from tests.engine.loopback import Call, Loopback, Reply


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, np.ndarray]:
    """A tiled float GeoTIFF of noise, and its values."""
    path = tmp_path_factory.mktemp("remote") / "a.tif"
    values = np.random.default_rng(0).random((900, 1100)).astype("float32")
    profile = {"height": 900, "width": 1100, "count": 1, "dtype": "float32", "crs": "EPSG:32648"}
    tiles = {"tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate", "predictor": 3}
    with rasterio.open(path, "w", driver="GTiff", transform=Affine(30, 0, 0, 0, -30, 0), **profile, **tiles) as file:
        file.write(values, 1)
    return path.read_bytes(), values


def ranged(data: bytes, call: Call) -> Reply:
    first, _, last = call.headers["range"].removeprefix("bytes=").partition("-")
    begin, end = int(first), min(int(last) + 1, len(data))
    return Reply(206, data[begin:end], {"Content-Range": f"bytes {begin}-{end - 1}/{len(data)}"})


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "READ_WAITS_S", (0.01, 0.02))


def test_many_threads_read_what_the_file_holds(content):
    data, values = content
    with Loopback(lambda call: ranged(data, call), keep_alive=True).running() as server:

        def read(number: int) -> bool:
            spent = Spent()
            with open_raster(f"{server.url}/{number % 3}/a.tif", Access(server.trust), spent=spent) as dataset:
                part = dataset.read(1, window=((number, 700 + number), (200, 1000)))
            assert spent.attempts > 1
            return np.array_equal(part, values[number : 700 + number, 200:1000])

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(read, range(60)))


def test_neighbouring_tiles_are_asked_for_together_and_headers_once(content):
    data, values = content
    with Loopback(lambda call: ranged(data, call), keep_alive=True).running() as server:
        with open_raster(f"{server.url}/a.tif", Access(server.trust)) as dataset:
            assert np.array_equal(dataset.read(1), values)
        assert len(server.calls) < 8, "20 tiles, 3.6 MB"


def test_a_passing_fault_between_header_and_pixels_is_asked_past(content):
    data, values = content
    sick = Loopback(lambda call: Reply(503) if call.number in (2, 4) else ranged(data, call))
    with sick.running() as server, open_raster(f"{server.url}/a.tif", Access(server.trust)) as dataset:
        assert np.array_equal(dataset.read(1), values)


@pytest.mark.parametrize(
    ("reply", "kind", "said"),
    [
        (Reply(404), Fault.PERMANENT, "404"),
        (Reply(503), Fault.TRANSIENT, "503"),
        (Reply(302, b"", {"Location": "http://127.0.0.1:9/"}), Fault.HOSTILE, "a redirect"),
        (Reply(200, b"<html>"), Fault.TRANSIENT, "200 in place of a range"),
    ],
)
@pytest.mark.parametrize("first", [1, 2], ids=["header", "pixels"])
def test_a_lasting_fault_is_told_with_its_kind(content, reply, kind, said, first):
    data, _ = content
    with Loopback(lambda call: reply if call.number >= first else ranged(data, call)).running() as server:
        with (
            pytest.raises(SceneError, match=said) as caught,
            open_raster(f"{server.url}/a.tif", Access(server.trust)) as dataset,
        ):
            dataset.read(1)
        assert caught.value.kind is kind
        assert server.host not in str(caught.value)
        # And nothing is kept of it: the same address is read once it is well.
        server.answer = lambda call: ranged(data, call)
        with open_raster(f"{server.url}/a.tif", Access(server.trust)) as dataset:
            dataset.read(1)


def test_a_file_cut_short_is_told(content):
    data, _ = content
    cut = data[: len(data) // 2]
    with Loopback(lambda call: ranged(cut, call)).running() as server:
        with (
            pytest.raises(SceneError, match=r"a\.tif cannot be read") as caught,
            open_raster(f"{server.url}/a.tif", Access(server.trust)) as dataset,
        ):
            dataset.read(1)
        assert caught.value.kind is Fault.PERMANENT


def test_no_other_file_is_opened_and_nothing_written(content):
    data, _ = content
    with Loopback(lambda call: ranged(data, call)).running() as server:
        file = RemoteFile("a.tif", f"{server.url}/a.tif", Access(server.trust), Spent(), {})
        for name in ("a.tif.aux.xml", "/etc/passwd", "a.tif.ovr"):
            assert not file.isfile(name)
            with pytest.raises(FileNotFoundError):
                file.open(name)
        with pytest.raises(PermissionError):
            file.open("a.tif", "r+b")
        assert len(server.calls) == 1


def test_what_is_kept_is_bounded_and_right_in_any_order(monkeypatch):
    monkeypatch.setattr(remote, "_KEPT_BLOCKS", 8)
    data = np.random.default_rng(1).bytes(3_000_001)
    with Loopback(lambda call: ranged(data, call), keep_alive=True).running() as server:
        file = RemoteFile("a.bin", f"{server.url}/a.bin", Access(server.trust), Spent(), {})
        handle = file.open("a.bin")
        rng = np.random.default_rng(2)
        for start, size in zip(rng.integers(0, 3_000_100, 200), rng.integers(0, 200_000, 200), strict=True):
            handle.seek(int(start))
            assert handle.read(int(size)) == data[start : start + size]
            assert len(file._blocks) <= 8
        assert handle.seek(-5, io.SEEK_END) == 2_999_996
        assert handle.read(99) == data[-5:]
