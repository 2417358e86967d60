"""The latency server serves ranges as storage does, waits as long as it says, and counts what it answered."""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import rasterio

from benchmarks.range_server import Traffic, serve

CONTENT = bytes(range(256)) * 1000


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    root = tmp_path_factory.mktemp("served")
    (root / "scenes").mkdir()
    (root / "scenes" / "a.bin").write_bytes(CONTENT)
    (root.parent / "secret.bin").write_bytes(b"secret")
    profile = {"driver": "GTiff", "dtype": "uint16", "count": 1, "width": 512, "height": 512, "tiled": True}
    with rasterio.open(root / "a.tif", "w", **profile) as file:
        file.write(np.arange(512 * 512, dtype="uint32").astype("uint16").reshape(1, 512, 512))
    with serve(root, latency_seconds=0.05, bytes_per_second=2e6) as running:
        yield running


@pytest.fixture
def connection(server):
    server.traffic()
    connection = http.client.HTTPConnection(server.host)
    yield connection
    connection.close()


def test_ranges_of_one_connection_are_the_file_s_bytes(server, connection):
    for first, last in ((0, 0), (10, 999), (250_000, 255_999), (255_000, 300_000)):
        connection.request("GET", "/run-1/scenes/a.bin", headers={"Range": f"bytes={first}-{last}"})
        answer = connection.getresponse()
        assert answer.status == 206
        assert answer.headers["Content-Range"] == f"bytes {first}-{min(last, 255_999)}/256000"
        assert answer.read() == CONTENT[first : last + 1]
    assert server.traffic() == Traffic(4, 1 + 990 + 6000 + 1000)


def test_whole_files_heads_and_open_ranges(connection):
    for method, more, status, length in (
        ("GET", {}, 200, 256_000),
        ("HEAD", {}, 200, 0),
        ("GET", {"range": "bytes=255990-"}, 206, 10),
        ("GET", {"Range": "bytes=256000-256010"}, 416, 0),
    ):
        connection.request(method, "/x/scenes/a.bin", headers=more)
        answer = connection.getresponse()
        assert (answer.status, len(answer.read())) == (status, length)
        if method == "HEAD":
            assert answer.headers["Content-Length"] == "256000"


@pytest.mark.parametrize("path", ["/x/scenes/b.bin", "/x/../../secret.bin", "/x//etc/hostname", "/", "/x/scenes"])
def test_what_is_not_there_or_outside_is_not_found(server, path):
    connection = http.client.HTTPConnection(server.host)
    connection.request("GET", path)
    assert connection.getresponse().status == 404


def test_requests_wait_together_and_share_the_link(server):
    def fetch(number):
        with urllib.request.urlopen(server.address(f"run-{number}") + "/scenes/a.bin", timeout=30) as answer:
            return answer.read()

    started = time.perf_counter()
    with ThreadPoolExecutor(8) as pool:
        assert all(content == CONTENT for content in pool.map(fetch, range(8)))
    # Eight times 256 kB at 2 MB/s after one latency; in turn it would be eight latencies.
    assert time.perf_counter() - started >= 0.05 + 8 * 0.128


@pytest.mark.slow
def test_gdal_reads_a_raster_through_it(server):
    with rasterio.open(f"/vsicurl/{server.address('gdal')}/a.tif", driver="GTiff") as file:
        assert file.read(1)[511, 511] == 512 * 512 - 1 & 0xFFFF
    with pytest.raises(rasterio.errors.RasterioIOError):
        rasterio.open(f"/vsicurl/{server.address('gdal')}/b.tif", driver="GTiff")


def test_the_server_ends_with_the_block(tmp_path):
    with serve(tmp_path, latency_seconds=0, bytes_per_second=1e9) as running:
        address = running.address("x")
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(address, timeout=5)
