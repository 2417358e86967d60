"""Many files onto one grid: GDAL's very values, no tile twice and none for nothing, and faults in one line."""

from __future__ import annotations

import pickle
import random
import resource
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from rasterio.windows import Window

from engine import ranges
from engine.align import pixels_under
from engine.cube import composite_block, read_looks
from engine.errors import SceneError
from engine.gdal import values_at
from engine.kernels.quality import clear_mask
from engine.landsat import BANDS
from engine.params import CubeParams
from engine.ranges import MAX_RANGE_BYTES, Access
from engine.reader import BlockReader, File, StackReader, Stopped, files_of, read_asset
from engine.scenes import Scene
from engine.store import array_sha256
from engine.tiff import TiffIndex
from engine.trust import Trust
from tests.engine.conftest import TILE
from tests.engine.loopback import Call, Loopback, Reply
from tests.makers import tiff_bytes, tiff_tags, utc, write_raster, write_scene

CORNER = Affine(30, 0, 500_025, 0, -30, 900_015)
"""Of the rasters written here, in zone 48."""

UNTOUCHED = 77


def trusting(folder: Path, **settings: Any) -> Access:
    return Access(Trust().with_roots(folder), **settings)


def read_in_strips(
    path: Path, geobox: GeoBox, tall: int, keep: np.ndarray | None = None
) -> tuple[np.ndarray, TiffIndex | None]:
    """Return what a reader makes of a file on a grid, strip by strip, and the index it read the file by."""
    out = np.full(geobox.shape, UNTOUCHED, dtype=np.uint16)
    file = File(str(path), {"file": path.name})
    with BlockReader(geobox, trusting(path.parent)) as reader:
        for top in range(0, geobox.shape[0], tall):
            rows = slice(top, min(top + tall, geobox.shape[0]))
            reader.read([file], rows, out[None, rows], None if keep is None else keep[rows])
        return out, reader.indexes[file.href]


def by_gdal(path: Path, geobox: GeoBox, keep: np.ndarray | None = None) -> np.ndarray:
    with rasterio.open(path) as dataset:
        values, inside = values_at(dataset, geobox)
    return np.where(inside if keep is None else inside & keep, values, UNTOUCHED)


# The same values as GDAL's.

TILES = {"tiled": True, "blockysize": 16, "blockxsize": 32}
OURS = st.sampled_from(
    [
        {**TILES, "compress": "deflate", "predictor": 2},
        {**TILES, "compress": "deflate"},
        {**TILES, "compress": "zstd", "predictor": 2, "blockysize": 64},
        TILES,
        {**TILES, "compress": "deflate", "sparse_ok": True, "nodata": 0},
        {**TILES, "sparse_ok": True, "nodata": 1},
        {"driver": "COG", "blocksize": 128, "compress": "deflate", "predictor": 2},
    ]
)
FOREIGN = st.sampled_from(
    [
        {"compress": "deflate", "predictor": 2},
        {**TILES, "compress": "lzw"},
        {**TILES, "bigtiff": "YES"},
        {**TILES, "endianness": "BIG", "compress": "zstd", "predictor": 2},
    ]
)
SHAPES = st.tuples(st.integers(1, 150), st.integers(1, 150))


@st.composite
def grids(draw: st.DrawFn) -> GeoBox:
    """Draw a grid that lies over, partly over, or beside the rasters written here: their own, or another."""
    crs, pixel = draw(st.sampled_from([(32648, 30), (32648, 30), (32648, 20), (32649, 30), (32647, 45), (4326, 3e-4)]))
    up, left = draw(st.integers(-60, 160)), draw(st.integers(-60, 160))
    x, y = Transformer.from_crs(32648, crs, always_xy=True).transform(CORNER.c + 30 * left, CORNER.f - 30 * up)
    degrees = 0 if (crs, pixel) == (32648, 30) else draw(st.sampled_from([0, 0, 0, 10, -80, 180]))
    placed = Affine.translation(x, y) * Affine.rotation(degrees) * Affine.scale(pixel, -pixel)
    return GeoBox(draw(SHAPES), placed, f"EPSG:{crs}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reader")


def write(folder: Path, shape: tuple[int, int], seed: int, options: dict[str, Any]) -> Path:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 65536, shape).astype("uint16")
    values[: seed % (shape[0] + 1), : shape[1] // 2] = options.get("nodata", 0)
    return write_raster(folder / f"{rng.integers(2**60)}.tif", values, **options)


@settings(max_examples=80, deadline=None)
@given(SHAPES, st.integers(0, 9999), OURS | FOREIGN, grids(), st.integers(1, 200), st.integers(0, 100))
def test_every_grid_holds_gdals_values_in_strips_of_any_height_where_they_are_kept(
    folder, shape, seed, options, geobox, tall, kept
):
    path = write(folder, shape, seed, options)
    keep = np.random.default_rng(seed).random(geobox.shape) < kept / 100 if kept < 90 else None
    values, _ = read_in_strips(path, geobox, tall, keep)
    assert np.array_equal(values, by_gdal(path, geobox, keep))
    path.unlink()


@settings(max_examples=30, deadline=None)
@given(SHAPES, OURS)
def test_our_own_format_is_read_by_ourselves(folder, shape, options):
    path = write(folder, shape, 1, options)
    values, index = read_in_strips(path, GeoBox(shape, CORNER, "EPSG:32648"), 1000)
    assert index is not None
    with rasterio.open(path) as file:
        assert np.array_equal(values, file.read(1))
    path.unlink()


@settings(max_examples=10, deadline=None)
@given(SHAPES, FOREIGN)
def test_any_other_format_is_read_by_gdal(folder, shape, options):
    path = write(folder, shape, 1, options)
    values, index = read_in_strips(path, GeoBox(shape, CORNER, "EPSG:32648"), 1000)
    assert index is None
    with rasterio.open(path) as file:
        assert np.array_equal(values, file.read(1))
    path.unlink()


def test_files_of_one_scene_may_be_of_several_formats(tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (5, 100, 120)).astype("uint16")
    options = [TILES, {}, {**TILES, "compress": "lzw"}, {**TILES, "blockxsize": 64}, {"driver": "COG"}]
    paths = [
        write_raster(tmp_path / f"{number}.tif", layer, **kind)
        for number, (layer, kind) in enumerate(zip(values, options, strict=True))
    ]
    for geobox in (GeoBox((90, 70), CORNER * Affine.translation(5, 3), 32648), GeoBox((60, 70), CORNER, 32649)):
        with BlockReader(geobox, trusting(tmp_path)) as reader:
            out = np.full((5, *geobox.shape), UNTOUCHED, dtype="uint16")
            reader.read([File(str(path), {"file": path.name}) for path in paths], slice(0, geobox.shape[0]), out)
        assert np.array_equal(out, [by_gdal(path, geobox) for path in paths])


def test_a_tile_at_the_end_of_four_gigabytes_is_found(tmp_path):
    path, raw = tmp_path / "a.tif", np.arange(16 * 16, dtype="<u2").tobytes()
    place = 2**32 - len(raw) - 1
    tags = {**tiff_tags((16, 16), (16, 16), compression=1), 324: (4, [place]), 325: (4, [len(raw)])}
    with path.open("wb") as file:  # all but its ends are holes
        file.write(tiff_bytes(tags, []))
        file.seek(place)
        file.write(raw)
    geobox = GeoBox((16, 16), CORNER, 32648)
    values, index = read_in_strips(path, geobox, 16)
    assert index is not None
    assert values.tobytes() == raw
    assert np.array_equal(values, by_gdal(path, geobox))


def test_a_file_named_twice_is_read_twice(tmp_path):
    path = write_raster(tmp_path / "a.tif", np.full((100, 100), 9, "uint16"), **TILES)
    geobox = GeoBox((20, 20), CORNER * Affine.translation(40, 40) * Affine.rotation(3), 32648)
    files = [File(str(path), {"asset": asset}) for asset in ("red", "green")]
    with BlockReader(geobox, trusting(tmp_path)) as reader:
        for rows in (slice(0, 9), slice(9, 20)):
            out = np.zeros((2, rows.stop - rows.start, 20), dtype="uint16")
            reader.read(files, rows, out)
            assert (out == 9).all()


# No tile twice, none for nothing.


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[int, bytes]]:
    """How often each tile was decompressed; tiles are told apart by their file's index and their bytes."""
    counts: Counter[tuple[int, bytes]] = Counter()
    decode, indexes = TiffIndex.decode, []

    def count(index: TiffIndex, data: Any, *more: Any) -> np.ndarray:
        indexes.append(index)  # or another might take its place in memory, and its id
        counts[id(index), bytes(data)] += 1
        return decode(index, data, *more)

    monkeypatch.setattr(TiffIndex, "decode", count)
    return counts


def neighbour(folder: Path, day: int, **options: Any) -> Scene:
    """Write a scene of the neighbouring zone over the test tile."""
    centre = TILE.geobox.center_pixel.boundingbox
    x, y = Transformer.from_crs(32648, 32649, always_xy=True).transform(centre.left, centre.top)
    corner = (round((15 - y) / 30) - 150, round((x - 15) / 30) - 140)
    return write_scene(folder, day=utc(2019, 6, day), zone=49, corner=corner, wrs=(124, 53), **options)


@pytest.fixture(scope="module")
def cloudy_scenes(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Scene], Access, int]:
    """Scenes of small tiles, most of them under cloud, and how many of these must be decoded."""
    folder = tmp_path_factory.mktemp("cloudy")
    options = {"cloud": 0.9, "tile_px": 32}
    scenes = [
        write_scene(folder, day=utc(2019, month, 3), corner=(-32711 + 9 * month, 16430 + 13 * month), **options)
        for month in range(1, 4)
    ]
    scenes += [neighbour(folder, 5, **options), neighbour(folder, 6, shape=(170, 140), **options)]
    for number, scene in enumerate(scenes):
        with rasterio.open(scene.assets["qa_pixel"], "r+") as file:  # no tile like another: water here and there
            water = np.random.default_rng(number).integers(0, 2, (1, *scene.shape)).astype("uint16")
            file.write(file.read() ^ water << 7)
    # Quality words of every tile under the grid, bands of those with a clear pixel.
    expected = 0
    for scene in scenes:
        rows, cols = pixels_under(TILE.geobox, scene.transform, scene.shape, f"EPSG:{scene.epsg}")
        words = [by_gdal(Path(scene.assets[asset]), TILE.geobox) for asset in ("qa_pixel", "qa_radsat")]
        clear = clear_mask(*words, unusable_radsat=scene.sensor.unusable_radsat) & (rows >= 0)
        for assets, pixels in ((2, rows >= 0), (len(BANDS), clear)):
            expected += assets * len({*zip(rows[pixels] // 32, cols[pixels] // 32, strict=True)})
        assert 0 < clear.sum() < (rows >= 0).sum() / 5
    return scenes, trusting(folder), expected


@pytest.mark.parametrize("block_px", [None, 256, 100, 64, 17])
def test_no_tile_is_decoded_twice_and_none_without_a_clear_pixel(cloudy_scenes, decoded, block_px):
    scenes, access, expected = cloudy_scenes
    composite_block(scenes, TILE.geobox, CubeParams(), access, block_px=block_px)
    assert max(decoded.values()) == 1
    assert decoded.total() == expected


def test_of_a_wholly_cloudy_scene_only_the_quality_words_are_opened(tmp_path, scenes):
    cloudy = write_scene(tmp_path, day=utc(2019, 12, 3), corner=(-32711, 16455), cloud=1.1)
    for band in BANDS:
        Path(cloudy.assets[band]).unlink()
    access = Access(Trust().with_roots(tmp_path, Path(scenes[0].assets["red"]).parent))
    layers, lost = composite_block([*scenes, cloudy], TILE.geobox, CubeParams(), access)
    assert lost == []
    assert array_sha256(layers) == array_sha256(composite_block(scenes, TILE.geobox, CubeParams(), access)[0])


@pytest.fixture(scope="module")
def scenes_of_two_zones(scenes: list[Scene], access: Access, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Scenes of two zones, what may be read, and a digest of their layers read whole."""
    folder = tmp_path_factory.mktemp("two zones")
    scenes = [*scenes, neighbour(folder, 5), neighbour(folder, 6, tile_px=64)]
    trust = access.trust.with_roots(folder)
    return scenes, trust, array_sha256(composite_block(scenes, TILE.geobox, CubeParams(), Access(trust))[0])


@pytest.mark.parametrize("block_px", [300, 100, 17])
@pytest.mark.parametrize("requests", [1, 3])
def test_neither_strips_nor_requests_change_a_value(scenes_of_two_zones, block_px, requests):
    scenes, trust, whole = scenes_of_two_zones
    strips, _ = composite_block(scenes, TILE.geobox, CubeParams(), Access(trust, requests=requests), block_px=block_px)
    assert array_sha256(strips) == whole


# Faults.


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return write_scene(tmp_path, day=utc(2019, 5, 5), corner=(-32711, 16455), tile_px=64)


def refused(scene: Scene, asset: str, access: Access) -> str:
    """Return the one line in which an asset is refused."""
    with pytest.raises(SceneError) as caught:
        read_asset(scene, asset, TILE.geobox, access)
    line = str(caught.value)
    assert line.startswith(f"scene {scene.id}, asset {asset}: ")
    assert "\n" not in line
    assert caught.value.__cause__ is None
    assert "; re" in line, "repair or rewrite it"
    return line


def test_a_damaged_tile_is_told_by_scene_asset_file_and_place(scene, tmp_path):
    path = Path(scene.assets["red"])
    with rasterio.open(path) as file:
        begin = int(file.get_tag_item("BLOCK_OFFSET_1_2", "TIFF", bidx=1))
    data = bytearray(path.read_bytes())
    data[begin + 100] ^= 16
    path.write_bytes(data)
    line = refused(scene, "red", trusting(tmp_path))
    assert f"{path.name} cannot be read as a GeoTIFF (tile 2, 1: not decompressible)" in line


def test_a_file_cut_short_anywhere_is_refused(scene, tmp_path):
    path = Path(scene.assets["red"])
    data = path.read_bytes()
    for size in (0, 1, 7, 9, 100, 300, 1000, 2**15 - 1, 2**15, 2**15 + 1, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        refused(scene, "red", trusting(tmp_path))


def test_a_missing_file_is_refused_without_its_folder(scene, tmp_path):
    Path(scene.assets["red"]).unlink()
    line = refused(scene, "red", trusting(tmp_path))
    assert "No such file or directory" in line
    assert str(tmp_path) not in line


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"transform": (30.0, 0.0, 493_695.0, 0.0, -30.0, 981_375.0)}, "transform"),
        ({"shape": (299, 280)}, r"shape"),
        ({"epsg": 32649}, "coordinate system EPSG:32648, the item says EPSG:32649"),
    ],
)
def test_a_file_that_is_not_what_its_item_says_is_refused(scene, tmp_path, changes, problem):
    assert problem in refused(replace(scene, **changes), "red", trusting(tmp_path))


def test_bytes_for_words_are_refused(scene, tmp_path):
    path = write_raster(
        tmp_path / "bytes.tif", np.ones(scene.shape, "uint8"), transform=Affine(*scene.transform), **TILES
    )
    bad = replace(scene, assets={**scene.assets, "red": str(path)})
    assert "1 band(s) of uint8, expected one of uint16" in refused(bad, "red", trusting(tmp_path))


def test_an_item_whose_files_are_another_scenes_is_refused_also_after_that_one(scene, tmp_path):
    other = replace(scene, id=f"{scene.id}_b", transform=(30.0, 0.0, 500_025.0, 0.0, -30.0, 900_015.0))
    with pytest.raises(SceneError, match=rf"scene {other.id}.*the item says"):
        read_looks([scene, other], TILE.geobox, trusting(tmp_path))


def test_a_bomb_in_every_asset_stays_small(scene, tmp_path):
    """Eight files whose every tile of 8 KB would grow to 8 MB; and one whose tiles hold 128 MB by right."""
    bomb = zlib.compress(bytes(2**23))
    assert len(bomb) < 9000
    a, _, c, _, _, f = scene.transform
    tags = {**tiff_tags(scene.shape, (64, 64)), 33550: (12, [a, a, 0]), 33922: (12, [0, 0, 0, c, f, 0])}
    paths = dict(scene.assets)
    for asset in paths:
        paths[asset] = str(tmp_path / f"{asset}.tif")
        Path(paths[asset]).write_bytes(tiff_bytes(tags, [bomb] * 25))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    bad = replace(scene, assets=paths)
    for asset in paths:
        refused(bad, asset, trusting(tmp_path))
    giant = write_raster(
        tmp_path / "giant.tif",
        np.zeros(scene.shape, "uint16"),
        transform=Affine(*scene.transform),
        tiled=True,
        blockxsize=8192,
        blockysize=8192 + 16,
        compress="deflate",
    )
    line = refused(replace(scene, assets={**scene.assets, "red": str(giant)}), "red", trusting(tmp_path))
    assert "internal tiles of 8192 x 8208 px, which is refused" in line
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # rasterio's, of its own log
def test_five_hundred_damaged_indexes_are_refused_or_read(scene, tmp_path):
    path = Path(scene.assets["red"])
    data, rng, read = path.read_bytes(), random.Random(0), 0
    right = read_asset(scene, "red", TILE.geobox, trusting(tmp_path))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(500):
        damaged = bytearray(data)
        for _ in range(rng.choice([1, 1, 2])):
            damaged[rng.randrange(700)] = rng.randrange(256)
        path.write_bytes(damaged)
        with suppress(SceneError):
            read += np.array_equal(read_asset(scene, "red", TILE.geobox, trusting(tmp_path)), right)
    assert 100 < read < 400
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024


def test_a_reader_goes_on_after_a_file_that_failed(scene, tmp_path):
    other = write_scene(tmp_path / "other", day=utc(2019, 6, 6), corner=(-32721, 16465), tile_px=64)
    asked, bad = files_of(other, BANDS), files_of(scene, BANDS)
    data = bytearray(Path(scene.assets["nir08"]).read_bytes())
    data[-3000:] = bytes(3000)
    Path(scene.assets["nir08"]).write_bytes(data)
    whole, out = (np.zeros((len(BANDS), *TILE.shape), dtype="uint16") for _ in range(2))
    with BlockReader(TILE.geobox, trusting(tmp_path)) as reader:
        reader.read(asked, slice(0, TILE.shape[0]), whole)
    with BlockReader(TILE.geobox, trusting(tmp_path)) as reader:
        for top in range(0, TILE.shape[0], 100):
            rows = slice(top, min(top + 100, TILE.shape[0]))
            lost = np.zeros_like(out[:, rows])
            if top == 200:
                with pytest.raises(SceneError, match="asset nir08"):
                    reader.read(bad, rows, lost)
            else:
                reader.read(bad, rows, lost)
            reader.read(asked, rows, out[:, rows])
    assert np.array_equal(out, whole)


def test_a_reader_that_was_stopped_begins_nothing(scene, tmp_path):
    with BlockReader(TILE.geobox, trusting(tmp_path)) as reader:
        reader.stop()
        with pytest.raises(Stopped):
            reader.read(files_of(scene, BANDS), slice(0, 9), np.zeros((6, 9, TILE.shape[1]), "uint16"))


# Over HTTP.


class Storage(Loopback):
    """Gives ranges of the files of a folder, slowly enough that requests meet, and counts how many do."""

    def __init__(self, folder: Path, *, latency_s: float = 0.0) -> None:
        super().__init__(self.give, keep_alive=True)
        self.folder, self.latency_s = folder, latency_s
        self.contents: dict[str, bytes] = {}
        self.fault = lambda call: None
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()

    def give(self, call: Call) -> Reply:
        with self.lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            time.sleep(self.latency_s)
            name = call.path.strip("/").partition("?")[0]
            data = self.contents.get(name) or self.contents.setdefault(name, (self.folder / name).read_bytes())
            first, _, last = call.headers["range"].removeprefix("bytes=").partition("-")
            begin, end = int(first), min(int(last) + 1, len(data))
            right = Reply(206, data[begin:end], {"Content-Range": f"bytes {begin}-{end - 1}/{len(data)}"})
            return self.fault(call) or right
        finally:
            with self.lock:
                self.at_once -= 1

    def holding(self, scene: Scene) -> Scene:
        return replace(scene, assets={name: f"{self.url}/{Path(href).name}" for name, href in scene.assets.items()})


@pytest.fixture
def storage(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(ranges, "READ_WAITS_S", (0.05, 0.05))
    ranges._pool.cache_clear()
    with (server := Storage(tmp_path)).running():
        yield server
    ranges._pool.cache_clear()


def test_a_scene_takes_an_index_and_few_ranges_a_file_over_few_connections(scene, storage, tmp_path):
    stored = storage.holding(scene)
    found = read_looks([stored], TILE.geobox, Access(storage.trust, requests=8))
    assert np.array_equal(found[0], read_looks([scene], TILE.geobox, trusting(tmp_path))[0])
    assert set(Counter(call.path for call in storage.calls).values()) == {2}, "25 tiles lie side by side"
    assert storage.connections <= 8


def test_no_more_requests_than_were_asked_for_are_in_flight(scene, storage, monkeypatch, tmp_path):
    monkeypatch.setattr("engine.ranges.MAX_RANGE_BYTES", 2**14)
    storage.latency_s = 0.005
    stored = [
        storage.holding(replace(scene, id=f"{scene.id}_{day}", datetime=utc(2019, 5, day))) for day in range(1, 5)
    ]
    composite_block(stored, TILE.geobox, CubeParams(), Access(storage.trust, requests=4), block_px=100)
    assert storage.most_at_once == 4
    assert len(storage.calls) > 100


def test_what_is_not_decoded_yet_is_bounded_by_the_requests_in_flight(storage, tmp_path, peak_bytes):
    values = np.random.default_rng(0).integers(0, 65536, (2048, 2048)).astype("uint16")
    path = write_raster(tmp_path / "large.tif", values, tiled=True, blockxsize=256, blockysize=256)
    out = np.zeros((1, *values.shape), dtype="uint16")
    file = File(f"{storage.url}/{path.name}", {"file": "large.tif"})
    with BlockReader(GeoBox(values.shape, CORNER, 32648), Access(storage.trust, requests=2)) as reader:
        reader.read([file], slice(0, 1), out[:, :1])
        peak_bytes()
        reader.read([file], slice(0, 2048), out)
        # What is received, and what the server sends, which is of this process; and a few pieces and tiles.
        assert peak_bytes() < 2 * 2 * MAX_RANGE_BYTES + 2**21
    assert np.array_equal(out[0], values)


def test_after_an_error_nothing_goes_on(scene, storage, monkeypatch):
    monkeypatch.setattr("engine.ranges.MAX_RANGE_BYTES", 2**13)
    before = threading.active_count()  # with the server's own
    storage.fault = lambda call: None if call.headers["range"].startswith("bytes=0-") else Reply(503)
    stored = [
        storage.holding(replace(scene, id=f"{scene.id}_{day}", datetime=utc(2019, 5, day))) for day in range(1, 10)
    ]
    with pytest.raises(
        SceneError, match=r"qa_(pixel|radsat): .* cannot be read as a GeoTIFF \(HTTP response code: 503"
    ):
        read_looks(stored, TILE.geobox, Access(storage.trust, requests=4))
    asked = len(storage.calls)
    time.sleep(0.2)
    assert len(storage.calls) == asked
    assert asked < 9 * 2 + 4 * 3 + 4, "indexes, and of four ranges three attempts each"
    assert len([thread for thread in threading.enumerate() if "process_request" not in thread.name]) <= before


def test_signatures_are_in_no_fault(scene, storage):
    class Signs:
        def sign(self, href: str, budget_s: float) -> str:
            return f"{href}?sig=S3CRET"

        def forget(self, href: str) -> None:
            pass

    storage.fault = lambda call: Reply(403)
    line = refused(storage.holding(scene), "red", Access(storage.trust, Signs()))
    assert "S3CRET" not in line
    assert "?" not in line
    assert storage.host not in line


# stackstac's reader.


def test_stackstacs_reader_reads_windows_and_its_index_once(scene, storage):
    stored = storage.holding(scene)
    make = partial(StackReader, geobox=TILE.geobox, access=Access(storage.trust))
    reader = make(url=stored.assets["red"], fill_value=np.uint16(0), spec=None, resampling=None)
    whole = by_gdal(Path(scene.assets["red"]), TILE.geobox)
    whole[whole == UNTOUCHED] = 0
    for top, left in ((0, 0), (100, 200), (250, 290)):
        window = Window(left, top, min(100, 300 - left), min(100, 260 - top))
        assert np.array_equal(reader.read(window), whole[window.toslices()])
    assert [call.headers["range"].startswith("bytes=0-") for call in storage.calls].count(True) == 1
    again = pickle.loads(pickle.dumps(reader))
    assert again._index == {}, "a graph holds no index"
    assert np.array_equal(again.read(Window(0, 0, 50, 60)), whole[:60, :50])


def test_what_stackstacs_reader_cannot_read_is_told_by_its_file(tmp_path):
    (tmp_path / "a.tif").write_bytes(b"<html>gone</html>")
    reader = StackReader(url=str(tmp_path / "a.tif"), geobox=TILE.geobox, access=trusting(tmp_path), fill_value=0)
    with pytest.raises(SceneError, match=r"file a\.tif: a\.tif cannot be read as a GeoTIFF"):
        reader.read(Window(0, 0, 9, 9))
