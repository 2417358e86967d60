"""Our reading of TIFF against GDAL's: the same pixels in the same place, or left to GDAL; never anything else."""

from __future__ import annotations

import math
import random
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import imagecodecs
import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.errors import RasterioError

from engine.kernels.tiles import place
from engine.tiff import DamagedTile, ForeignTiff, TiffIndex, read_index
from tests.makers import tiff_bytes, tiff_tags, write_raster

RAW = np.random.default_rng(0).integers(0, 60_000, (32, 48)).astype("<u2").tobytes()
"""One tile of 32 x 48 pixels."""

TAGS = tiff_tags((32, 48), (32, 48))
NONE, ZSTD = (3, [1]), (3, [50000])


class Raster(NamedTuple):
    values: np.ndarray
    transform: tuple[float, ...]
    epsg: int | None


def index_of(data: bytes) -> TiffIndex:
    return read_index(lambda start, stop: data[start:stop])


def by_us(data: bytes) -> Raster:
    """Read a whole file tile by tile."""
    index = index_of(data)
    values = np.zeros(index.shape, index.dtype)
    tall, wide = index.tile_shape
    for row, col in np.ndindex(index.offsets.shape):
        start, size = int(index.offsets[row, col]), int(index.counts[row, col])
        tile = index.decode(memoryview(data)[start : start + size]) if size else index.unstored()
        target = values[row * tall : (row + 1) * tall, col * wide : (col + 1) * wide]
        place(tile, (0, 0), target, differenced=bool(size) and index.differenced)
    return Raster(values, index.transform, index.epsg)


def by_gdal(data: bytes) -> Raster:
    with rasterio.MemoryFile(data) as memory, memory.open(driver="GTiff") as file:
        return Raster(file.read(1), tuple(file.transform)[:6], file.crs.to_epsg() if file.crs else None)


def assert_same(data: bytes) -> None:
    ours, theirs = by_us(data), by_gdal(data)
    assert ours.values.dtype == theirs.values.dtype
    assert np.array_equal(ours.values, theirs.values)
    assert ours[1:] == theirs[1:]


# Files as GDAL writes them.

SIDES = st.integers(1, 10).map(lambda number: 16 * number)
OURS = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["uint8", "uint16"]),
        "compress": st.sampled_from([None, "deflate", "zstd"]),
        "predictor": st.sampled_from([1, 2]),
        "nodata": st.sampled_from([None, 0, 1, 7.5]),
        "sparse_ok": st.booleans(),
        "point": st.booleans(),
        "cog": st.booleans(),
    }
)
FOREIGN = st.sampled_from(
    [
        {"bigtiff": "YES"},
        {"endianness": "BIG"},
        {"tiled": False},
        {"count": 3, "interleave": "pixel"},
        {"count": 3, "interleave": "band"},
        {"compress": "lzw"},
        {"compress": "jpeg", "dtype": "uint8"},
        {"compress": "lzma"},
        {"compress": "packbits"},
        {"dtype": "int16"},
        {"dtype": "float32"},
        {"dtype": "uint32"},
        {"nbits": 12, "dtype": "uint16"},
        {"predictor": 3, "compress": "deflate", "dtype": "float32"},
        {"crs": "EPSG:4326"},
        {"crs": "EPSG:3031"},
        {"crs": None},
        {"transform": Affine.translation(500_025, 900_015) * Affine.rotation(5) * Affine.scale(30, -30)},
        {"transform": Affine(30, 0, 500_025, 0, 30, 900_015)},
        {"blockxsize": 2048, "blockysize": 2048},
    ]
)


def written(shape: tuple[int, int], tile: tuple[int, int], seed: int, options: dict[str, Any]) -> bytes:
    """Return a file of random values, a part of its tiles all nodata, or never written if it may be sparse."""
    options = {"tiled": True, "dtype": "uint16", "blockysize": tile[0], "blockxsize": tile[1], **options}
    point, cog = options.pop("point", False), options.pop("cog", False)
    if cog:
        options |= {"driver": "COG", "blocksize": max(tile[0], 128), "overviews": "AUTO"}
        for name in ("tiled", "blockxsize", "blockysize"):
            options.pop(name)
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 255, (options.pop("count", 1), *shape)).astype(options.pop("dtype"))
    blank = rng.random((shape[0] // tile[0] + 1, shape[1] // tile[1] + 1)) < 0.5
    blank = blank.repeat(tile[0], 0).repeat(tile[1], 1)[: shape[0], : shape[1]]
    values[:, blank] = int(options.get("nodata") or 0)
    with rasterio.MemoryFile() as memory:
        profile = {"driver": "GTiff", "crs": "EPSG:32648", "transform": Affine(30, 0, 500_025, 0, -30, 900_015)}
        size = {"count": len(values), "height": shape[0], "width": shape[1], "dtype": values.dtype}
        with memory.open(**{**profile, **size, **options}) as file:
            if point:
                file.update_tags(AREA_OR_POINT="Point")
            file.write(values)
        return memory.read()


@settings(max_examples=150, deadline=None)
@given(st.tuples(st.integers(1, 200), st.integers(1, 200)), st.tuples(SIDES, SIDES), st.integers(0, 99), OURS)
def test_tiled_integers_are_read_as_gdal_reads_them(shape, tile, seed, options):
    assert_same(written(shape, tile, seed, options))


@settings(max_examples=40, deadline=None)
@given(st.tuples(st.integers(1, 200), st.integers(1, 200)), st.tuples(SIDES, SIDES), st.integers(0, 99), FOREIGN)
def test_everything_else_is_left_to_gdal(shape, tile, seed, options):
    with pytest.raises(ForeignTiff):
        index_of(written(shape, tile, seed, options))


def test_the_index_of_a_whole_scene_with_overviews_lies_in_the_first_bytes(tmp_path):
    values = np.zeros((7711, 7561), dtype="uint16")
    path = write_raster(tmp_path / "a.tif", values, driver="COG", blocksize=256, compress="deflate", predictor=2)
    asked = []

    def read(start: int, stop: int) -> bytes:
        asked.append(stop)
        with path.open("rb") as file:
            file.seek(start)
            return file.read(stop - start)

    assert read_index(read).offsets.shape == (31, 30)
    assert max(asked) < 2**14


# Files as GDAL never writes them, but others might.

SAME = {
    "bytes after the end of a stream": (TAGS, zlib.compress(RAW) + b"more"),
    "deflate by its older number": (TAGS | {259: (3, [32946])}, zlib.compress(RAW)),
    "zstd": (TAGS | {259: ZSTD}, imagecodecs.zstd_encode(RAW)),
    "zstd of differences": (TAGS | {259: ZSTD, 317: (3, [2])}, imagecodecs.zstd_encode(RAW)),
    "no compression": (TAGS | {259: NONE}, RAW),
    "no compression, and bytes after": (TAGS | {259: NONE}, RAW + b"more"),
    "no compression, yet a predictor": (TAGS | {259: NONE, 317: (3, [2])}, RAW),
    "no photometric tag": ({tag: field for tag, field in TAGS.items() if tag != 262}, zlib.compress(RAW)),
    "bytes and longs for shorts": (TAGS | {256: (1, [48]), 258: (4, [16]), 259: (1, [8])}, zlib.compress(RAW)),
    "tiles of no multiple of 16": (tiff_tags((7, 5), (7, 5)), zlib.compress(RAW[:70])),
    "a tile larger than the image": (tiff_tags((20, 30), (32, 48)), zlib.compress(RAW)),
    "scale and offset": (
        TAGS | {42112: (2, '<GDALMetadata><Item name="SCALE" sample="0" role="scale">2</Item></GDALMetadata>')},
        zlib.compress(RAW),
    ),
    "ties beyond the corner": (TAGS | {33922: (12, [10, 20, 0, 500_025, 900_015, 0])}, zlib.compress(RAW)),
    "ties between pixels": (TAGS | {33922: (12, [0.3, 0.7, 0, 500_025.1, 900_015.7, 0])}, zlib.compress(RAW)),
    "ties of centres": (
        TAGS
        | {33922: (12, [3, 5, 0, 500_025, 900_015, 0])}
        | {34735: (3, [1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 2, 3072, 0, 1, 32648])},
        zlib.compress(RAW),
    ),
    "the southern half of a zone": (
        TAGS | {34735: (3, [1, 1, 0, 2, 1024, 0, 1, 1, 3072, 0, 1, 32748])},
        zlib.compress(RAW),
    ),
    "a tile that is nowhere": (TAGS, None),
    "a count of no bytes at some place": (TAGS | {324: (4, [8]), 325: (4, [0])}, zlib.compress(RAW)),
    **{
        f"no tile, nodata {nodata}": (TAGS | {42113: (2, nodata)}, None)
        for nodata in ("0", "1", " 7 ", "1.5", "1.4", "2.5", "-9999", "70000", "1e3", "nan", "inf", "-inf", "")
    },
}


@pytest.mark.parametrize("name", SAME)
def test_a_file_of_another_writer_is_read_as_gdal_reads_it(name):
    tags, tile = SAME[name]
    assert_same(tiff_bytes(tags, [tile]))


ODD_KEYS = {
    "no key of a projection": [1, 1, 0, 1, 1024, 0, 1, 1],
    "a code that no one gave": [1, 1, 0, 2, 1024, 0, 1, 1, 3072, 0, 1, 1],
    "metres that are feet": [1, 1, 0, 3, 1024, 0, 1, 1, 3072, 0, 1, 32648, 3076, 0, 1, 9002],
    "another datum": [1, 1, 0, 3, 1024, 0, 1, 1, 2048, 0, 1, 4267, 3072, 0, 1, 32648],
    "another version": [9, 1, 0, 2, 1024, 0, 1, 1, 3072, 0, 1, 32648],
    "fewer than it says": [1, 1, 0, 9, 1024, 0, 1, 1, 3072, 0, 1, 32648],
    "a value that is elsewhere": [1, 1, 0, 2, 1024, 0, 1, 1, 3072, 34736, 1, 32648],
    "none": [1, 1, 0, 0],
}
ODD = {
    "north down": {33550: (12, [30, -30, 0])},
    "no size": {33550: (12, [0, 30, 0])},
    "a size that is no number": {33550: (12, [math.nan, 30, 0])},
    "infinitely far": {33922: (12, [0, 0, 0, math.inf, 900_015, 0])},
    "more ties": {33922: (12, [0, 0, 0, 500_025, 900_015, 0] * 2)},
    "a general transformation": {34264: (12, [30, 0, 0, 500_025, 0, -30, 0, 900_015, 0, 0, 0, 0, 0, 0, 0, 1])},
    "inverted brightness": {262: (3, [0])},
    "reversed bits": {266: (3, [2])},
    "nodata that is no number": {42113: (2, "none")},
    "nodata as Python alone reads it": {42113: (2, "1_000")},
    "two samples": {277: (3, [2]), 258: (3, [16, 16])},
    "width 0": {256: (4, [0])},
    "tiles of no height": {323: (4, [0])},
    "a tile of 17 GB": {322: (4, [2**17]), 323: (4, [2**16])},
    "a million tiles": {256: (4, [2**31]), 322: (4, [16])},
    "one tile and a hundred counts": {325: (4, [9] * 100)},
    "tiles longer than their pixels": {325: (4, [2**31])},
    **{f"keys: {name}": {34735: (3, keys)} for name, keys in ODD_KEYS.items()},
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_index_is_left_to_gdal(name):
    with pytest.raises(ForeignTiff) as caught:
        index_of(tiff_bytes({**TAGS, **ODD[name]}, [zlib.compress(RAW)]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("tag", [256, 257, 258, 259, 262, 266, 277, 317, 322, 323, 324, 325, 339, 33550, 33922, 34735])
@pytest.mark.parametrize("kind", [1, 2, 3, 4, 12])
def test_a_tag_of_another_type_is_taken_for_its_number_or_left_to_gdal(tag, kind):
    data = tiff_bytes({**TAGS, tag: (kind, "5" if kind == 2 else [5])}, [RAW])
    with suppress(ForeignTiff):
        index = index_of(data)
        assert 5 in (*index.shape, index.offsets, index.counts)
        assert kind in (1, 3, 4)


@pytest.mark.parametrize("kind", [1, 3, 4, 12])
def test_nodata_that_is_no_text_is_left_to_gdal(kind):
    with pytest.raises(ForeignTiff, match="tag 42113 is of another type"):
        index_of(tiff_bytes({**TAGS, 42113: (kind, [5])}, [RAW]))


def test_a_tag_that_is_there_twice_is_left_to_gdal():
    data = bytearray(tiff_bytes(TAGS, [zlib.compress(RAW)]))
    assert data[10:12] == (256).to_bytes(2, "little")
    assert data[22:24] == (257).to_bytes(2, "little")
    data[22:24] = data[10:12]
    with pytest.raises(ForeignTiff, match="a tag is there twice"):
        index_of(bytes(data))


@pytest.mark.parametrize("place", [0, 3, 4, 8, 2**31, 2**32 - 1])
def test_an_index_that_begins_nowhere_or_in_itself_is_left_to_gdal(place):
    data = bytearray(tiff_bytes(TAGS, [zlib.compress(RAW)]))
    data[4:8] = place.to_bytes(4, "little")
    if place == 8:
        assert_same(bytes(data))
    else:
        with pytest.raises(ForeignTiff):
            index_of(bytes(data))


# Damage.

DAMAGED = {
    "nothing": b"",
    "half a stream": zlib.compress(RAW)[: len(RAW) // 2],
    "no checksum": zlib.compress(RAW)[:-4],
    "another checksum": zlib.compress(RAW)[:-4] + b"none",
    "fewer pixels": zlib.compress(RAW[:-2]),
    "more pixels": zlib.compress(RAW + b"12"),
    "no stream": b"<html>gone</html>",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_tile_that_is_not_exactly_one_is_damaged(name):
    with pytest.raises(DamagedTile):
        index_of(tiff_bytes(TAGS, [RAW])).decode(DAMAGED[name])


@pytest.mark.parametrize("data", [b"", imagecodecs.zstd_encode(RAW)[:-1], imagecodecs.zstd_encode(RAW + RAW), b"1"])
def test_zstd_that_is_not_exactly_one_tile_is_damaged(data):
    with pytest.raises(DamagedTile):
        index_of(tiff_bytes(TAGS | {259: ZSTD}, [RAW])).decode(data)


def test_pixels_that_end_early_are_damaged():
    with pytest.raises(DamagedTile, match="too short"):
        index_of(tiff_bytes(TAGS | {259: NONE}, [RAW])).decode(RAW[:-1])


@pytest.mark.parametrize("kind", [8, 50000])
def test_a_tile_that_would_grow_to_a_gigabyte_is_damaged_at_once(kind, peak_bytes):
    if kind == 8:
        deflate = zlib.compressobj(1, wbits=-15)
        zeros = deflate.compress(bytes(2**20)) + deflate.flush(zlib.Z_FULL_FLUSH)
        bomb = b"\x78\x01" + 1024 * zeros + zlib.compress(b"")[2:]
    else:
        bomb = 1024 * imagecodecs.zstd_encode(bytes(2**20))
    index = index_of(tiff_bytes(TAGS | {259: (3, [kind])}, [RAW]))
    peak_bytes()
    with pytest.raises(DamagedTile):
        index.decode(bomb)
    assert peak_bytes() < 2**24, "what was made, and the bomb itself"


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder: Path = tmp_path_factory.mktemp("tiff")
    values = np.random.default_rng(1).integers(0, 60_000, (50, 70)).astype("uint16")
    tiled = {"tiled": True, "blockxsize": 32, "blockysize": 16, "nodata": 0}
    return [
        tiff_bytes(TAGS | {42113: (2, "0")}, [zlib.compress(RAW)]),
        write_raster(folder / "a.tif", values, compress="deflate", predictor=2, **tiled).read_bytes(),
        write_raster(folder / "b.tif", values, **tiled).read_bytes(),
        write_raster(folder / "c.tif", values, driver="COG", blocksize=128, compress="zstd").read_bytes(),
    ]


def test_a_file_that_ends_anywhere_is_left_to_gdal_or_damaged(originals):
    for data in originals:
        for size in (*range(0, 600, 7), *range(600, len(data), 997), len(data) - 1):
            with suppress(ForeignTiff, DamagedTile):
                assert np.array_equal(by_us(data[:size]).values, by_us(data).values)
                assert size > len(data) - 8, "after the last tile there may be a few bytes more"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # rasterio's, of its own log
def test_a_thousand_damaged_indexes_are_refused_or_read_as_gdal_does(originals, peak_bytes):
    rng = random.Random(0)
    read = 0
    for _ in range(1000):
        data = bytearray(rng.choice(originals))
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            at = rng.randrange(500)
            data[at] = rng.choice([rng.randrange(256), data[at] ^ 1 << rng.randrange(8), 0, 255])
        try:
            ours = by_us(bytes(data))
        except (ForeignTiff, DamagedTile):
            continue
        try:
            theirs = by_gdal(bytes(data))
        except RasterioError:
            continue
        read += 1
        assert np.array_equal(ours.values, theirs.values)
        assert ours.transform == theirs.transform
    assert read > 300
    assert peak_bytes() < 100 * 2**20
