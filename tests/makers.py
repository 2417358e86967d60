"""Small scenes written as real COG-like files, and GeoPackages that bring queries, for tests of reading."""

from __future__ import annotations

import datetime as dt
import sqlite3
import struct
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pystac
import rasterio
from affine import Affine
from pyproj import Transformer
from shapely.geometry import box
from shapely.ops import transform as transform_geometry

from engine.landsat import BANDS
from engine.scenes import Scene

ASSETS = (*BANDS, "qa_pixel", "qa_radsat")
CLEAR, CLOUD, FILL = 21824, 22280, 1


def write_scene(
    folder: Path,
    *,
    day: dt.datetime,
    zone: int = 48,
    corner: tuple[int, int],
    shape: tuple[int, int] = (300, 280),
    platform: str = "landsat-8",
    wrs: tuple[int, int] = (125, 53),
    seed: int = 0,
    cloud: float = 0.3,
    fill_columns: int = 6,
    pixel_m: int = 30,
    tile_px: int = 256,
) -> Scene:
    """Write one scene whose corner is grid pixel ``corner`` (row, col) of its zone; values are random.

    The first ``fill_columns`` columns are fill; ``cloud`` of the rest is cloudy in lumps of 8 px.
    """
    rng = np.random.default_rng([seed, int(day.timestamp()) % 2**31, *wrs])
    number = platform[-1]
    letter = {"7": "E", "5": "T", "4": "T"}.get(number, "C")
    name = f"L{letter}0{number}_L2SP_{wrs[0]:03d}{wrs[1]:03d}_{day:%Y%m%d}_02_T1"
    height, width = shape
    row, col = corner
    transform = Affine(pixel_m, 0, 15 + pixel_m * col, 0, -pixel_m, 15 - pixel_m * row)
    lumps = rng.random((height // 8 + 1, width // 8 + 1)) < cloud
    cloudy = lumps.repeat(8, 0).repeat(8, 1)[:height, :width]
    layers = {band: rng.integers(7300, 20000, shape).astype("uint16") for band in BANDS}
    layers["qa_pixel"] = np.where(cloudy, CLOUD, CLEAR).astype("uint16")
    layers["qa_radsat"] = np.where(rng.random(shape) < 0.01, 4, 0).astype("uint16")
    for asset, layer in layers.items():
        layer[:, :fill_columns] = FILL if asset == "qa_pixel" else 0
    layers["nir08"][rng.random(shape) < 0.005] = 0  # fill in one band only
    folder.mkdir(parents=True, exist_ok=True)
    assets = {}
    for asset, layer in layers.items():
        path = folder / f"{name}_{asset}.tif"
        profile = {
            "driver": "GTiff",
            "height": height,
            "width": width,
            "count": 1,
            "dtype": "uint16",
            "crs": f"EPSG:{32600 + zone}",
            "transform": transform,
            "tiled": True,
            "blockxsize": tile_px,
            "blockysize": tile_px,
            "compress": "deflate",
            "predictor": 2,
            "nodata": FILL if asset == "qa_pixel" else 0,
        }
        with rasterio.open(path, "w", **profile) as file:
            file.write(layer, 1)
        assets[asset] = str(path)
    left, top = transform.c, transform.f
    outline = box(left, top - pixel_m * height, left + pixel_m * width, top)
    project = Transformer.from_crs(32600 + zone, 4326, always_xy=True).transform
    return Scene(
        id=name,
        platform=platform,
        datetime=day,
        wrs_path=wrs[0],
        wrs_row=wrs[1],
        tier="T1",
        epsg=32600 + zone,
        shape=shape,
        transform=tuple(transform)[:6],
        geometry=transform_geometry(project, outline),
        assets=assets,
        cloud_cover=100 * cloud,
    )


def write_raster(path: Path, values: np.ndarray, **profile: Any) -> Path:
    """Write an array (y, x) or (band, y, x) as a GeoTIFF, by default in zone 48 on whole pixels of its grid."""
    bands = values if values.ndim == 3 else values[None]
    count, height, width = bands.shape
    placed = {"crs": "EPSG:32648", "transform": Affine(30, 0, 500_025, 0, -30, 900_015), "driver": "GTiff"}
    size = {"count": count, "height": height, "width": width, "dtype": bands.dtype}
    with rasterio.open(path, "w", **{**placed, **size, **profile}) as file:
        file.write(bands)
    return path


Tags = Mapping[int, tuple[int, Any]]
"""TIFF tags: number -> type (1 BYTE, 2 ASCII, 3 SHORT, 4 LONG, 12 DOUBLE) and values, of ASCII a string."""


def tiff_tags(shape: tuple[int, int], tile_shape: tuple[int, int], *, compression: int = 8) -> Tags:
    """Return the tags of a file of one uint16 band in zone 48, tiled, as ``tiff_bytes`` takes them."""
    sides = zip((257, 256, 323, 322), (*shape, *tile_shape), strict=True)
    return {
        **{tag: (4, [side]) for tag, side in sides},
        **{tag: (3, [value]) for tag, value in {258: 16, 259: compression, 262: 1, 277: 1, 317: 1, 339: 1}.items()},
        33550: (12, [30, 30, 0]),
        33922: (12, [0, 0, 0, 500_025, 900_015, 0]),
        34735: (3, [1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32648]),
    }


def tiff_bytes(tags: Tags, tiles: Sequence[bytes | None]) -> bytes:
    """Return a classic little-endian TIFF with these tags and tiles, None where one is not stored.

    Where the tags say nothing of offsets (324) and counts (325), they are those of the tiles.
    """
    letters = {1: "B", 3: "H", 4: "I", 12: "d"}

    def pack(kind: int, values: Any) -> bytes:
        return f"{values}\0".encode() if kind == 2 else struct.pack(f"<{len(values)}{letters[kind]}", *values)

    number = len({324, 325, *tags})
    beyond = 8 + 2 + 12 * number + 4
    sizes = [len(pack(*field)) for tag, field in tags.items() if tag not in (324, 325)]
    sizes += [len(pack(*tags.get(tag, (4, [0] * len(tiles))))) for tag in (324, 325)]
    place = beyond + sum(size for size in sizes if size > 4)
    offsets = []
    for tile in tiles:
        offsets.append(0 if tile is None else place)
        place += len(tile or b"")
    found = {324: (4, offsets), 325: (4, [len(tile or b"") for tile in tiles]), **tags}
    entries, values = b"", b""
    for tag in sorted(found):
        data = pack(*found[tag])
        field = data if len(data) <= 4 else struct.pack("<I", beyond + len(values))
        values += data if len(data) > 4 else b""
        length = len(data) if found[tag][0] == 2 else len(found[tag][1])
        entries += struct.pack("<HHI4s", tag, found[tag][0], length, field)
    index = struct.pack("<2sHIH", b"II", 42, 8, number) + entries + bytes(4)
    return index + values + b"".join(tile or b"" for tile in tiles)


def item_of(scene: Scene) -> pystac.Item:
    """Return a scene as the item a STAC client would find, with ``proj:code`` as pystac writes it today."""
    properties = {
        "platform": scene.platform,
        "landsat:wrs_path": str(scene.wrs_path),
        "landsat:wrs_row": str(scene.wrs_row),
        "landsat:collection_category": scene.tier,
        "eo:cloud_cover": scene.cloud_cover,
        "proj:code": f"EPSG:{scene.epsg}",
        "proj:shape": scene.shape,
        "proj:transform": scene.transform,
    }
    shape = scene.geometry
    item = pystac.Item(scene.id, shape.__geo_interface__, list(shape.bounds), scene.datetime, properties)
    item.stac_extensions = ["https://stac-extensions.github.io/projection/v2.0.0/schema.json"]
    for name, href in scene.assets.items():
        item.add_asset(name, pystac.Asset(href, media_type="image/tiff", roles=["data"]))
    return item


def utc(year: int, month: int, day: int, hour: int = 3, minute: int = 0, second: int = 0) -> dt.datetime:
    return dt.datetime(year, month, day, hour, minute, second, tzinfo=dt.UTC)


ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i AS fid, NULL AS geom FROM n"
"""A query that never ends."""

QUERIES = {
    "view": [f"CREATE VIEW more AS {ENDLESS}"],
    "layer that is a view": ["ALTER TABLE drawn RENAME TO old", f"CREATE VIEW drawn AS {ENDLESS}"],
    "view that says it is a table": [
        f"CREATE VIEW more AS {ENDLESS}",
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_master SET type = 'table' WHERE name = 'more'",
    ],
    "trigger": [f"CREATE TRIGGER mine AFTER INSERT ON drawn BEGIN {ENDLESS}; END"],
    "computed column": ["ALTER TABLE drawn ADD COLUMN heavy AS (hex(zeroblob(400000000)))"],
    "other virtual table": ["CREATE VIRTUAL TABLE words USING fts5(a)"],
}
"""What a GeoPackage may bring that is computed when it is read -> statements that bring it."""


def write_hostile_geopackage(path: Path, what: str) -> None:
    """Write a layer ``drawn`` of one polygon, and one of ``QUERIES``."""
    frame = gpd.GeoDataFrame({"kind": ["add"]}, geometry=[box(104.8, 8.6, 104.9, 8.7)], crs=4326)
    frame.to_file(path, layer="drawn")
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA legacy_alter_table = ON")
        with database:
            for statement in QUERIES[what]:
                database.execute(statement)
