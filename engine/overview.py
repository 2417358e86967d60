"""Rasters of a run as small pictures for a web map: decimated, in Web Mercator, within a budget of bytes.

A tile is read through the overviews of its COG, or strided from its store, one at a time; tiles that adjoin are painted
on one canvas, whose pixels grow until all pictures together fit the budget. Mercator of another central meridian is the
same picture moved sideways, so each canvas has its own and none is cut at the antimeridian.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox
from PIL import Image
from rasterio.enums import Resampling
from rasterio.warp import reproject
from scipy.ndimage import find_objects

from engine.errors import StoreError
from engine.figures import FALSE_COLOUR
from engine.files import replacing
from engine.grid import PIXEL_M, is_tile_id
from engine.landsat import BANDS
from engine.legend import (
    CHANGES,
    CLASSES,
    LOOKS_RAMP,
    OUTSIDE_AREA,
    PROBABILITY_MISSING,
    PROBABILITY_RAMP,
    PROBABILITY_SCALE,
    UNCERTAINTY_RAMP,
    year_colours,
)
from engine.places import Place, entries
from engine.raster import read_overview
from engine.store import open_store, read_marker

KINDS: Final = (
    "composite",
    "class",
    "edited",
    "probability",
    "looks",
    "uncertainty",
    "change",
    "loss_year",
    "gain_year",
)
"""Layers in the order they are offered; the first six are of a year."""

LEGENDS: Final = {"class": CLASSES, "edited": CLASSES, "change": CHANGES}
"""Codes of the layers that have classes."""

RAMPS: Final = {"probability": PROBABILITY_RAMP, "looks": LOOKS_RAMP, "uncertainty": UNCERTAINTY_RAMP}

CLEAR: Final = 255
"""Palette index of what is transparent."""

_LEVELS: Final = 63  # of a ramp; more colours cannot be told apart and compress worse
_MAX_PX: Final = 4096
_BYTES_PER_PX: Final = {"composite": 0.75, "probability": 0.2, "uncertainty": 0.2, "looks": 0.25}
"""Of a PNG, measured on the demo and rounded up; where they are wrong the pictures are made again, coarser."""

_PLAIN_BYTES_PER_PX: Final = 0.08

_SCALES: Final = (1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
_EARTH_M: Final = 6378137.0
_STRETCHED_TILES: Final = 6
_MISSING: Final = {
    "class": OUTSIDE_AREA,
    "edited": OUTSIDE_AREA,
    "change": OUTSIDE_AREA,
    "probability": PROBABILITY_MISSING,
    "uncertainty": 255,
}


@dataclass(frozen=True)
class Source:
    """Where the layer of a tile is: a COG and its band, or a variable of a store."""

    place: Place
    band: int = 1
    variable: str = ""


@dataclass(frozen=True)
class Layer:
    """One raster of all tiles, in one year or of all years together."""

    kind: str
    """One of ``KINDS``."""

    year: int | None
    tiles: Mapping[str, Source]
    """By tile id."""

    @property
    def id(self) -> str:
        return self.kind if self.year is None else f"{self.kind}-{self.year}"


@dataclass(frozen=True)
class Group:
    """Tiles that adjoin, and so share a canvas."""

    tiles: Mapping[str, GeoBox]
    longitude: float
    """Central meridian of its Mercator; beyond 180 east of a run that crosses the antimeridian."""

    bounds: tuple[float, float, float, float]
    """Left, bottom, right, top in that Mercator, metres at the equator."""

    @property
    def shrink(self) -> float:
        """Ground metres of a Mercator metre in its middle."""
        return 1 / math.cosh((self.bounds[1] + self.bounds[3]) / 2 / _EARTH_M)

    def step(self, scale: float) -> float:
        """Return the Mercator metres of a pixel that shows ``scale`` pixels of the data, more where the canvas ends."""
        left, bottom, right, top = self.bounds
        return max(PIXEL_M * scale / self.shrink, (right - left) / _MAX_PX, (top - bottom) / _MAX_PX)

    def pixels(self, scale: float) -> float:
        left, bottom, right, top = self.bounds
        return (right - left) * (top - bottom) / self.step(scale) ** 2

    def box(self, left: float, bottom: float, right: float, top: float) -> list[list[float]]:
        """Return Mercator bounds as ``[[south, west], [north, east]]``, degrees."""
        lat = [math.degrees(math.atan(math.sinh(y / _EARTH_M))) for y in (bottom, top)]
        lon = [self.longitude + math.degrees(x / _EARTH_M) for x in (left, right)]
        return [[round(one, 7) for one in pair] for pair in zip(lat, lon, strict=True)]


def find_layers(outputs: Place, years: Sequence[int]) -> list[Layer]:
    """Return what there is to show of a run, in the order of ``KINDS`` and of years.

    Classes and probabilities are those of all years together where histories are finished, else of each year's map.
    Once people have edited one, maps as edited are offered too: each year's, by hand where something was drawn.
    """
    histories = _finished(outputs / "change" / "history")
    found: dict[tuple[str, int | None], dict[str, Source]] = {}

    def add(kind: str, year: int | None, tile: str, source: Source) -> None:
        found.setdefault((kind, year), {})[tile] = source

    for tile, store in histories.items():
        told = [int(year) for year in (read_marker(store) or {}).get("years", [])]
        for kind in ("class", "probability", "uncertainty"):
            for band, year in enumerate(told, 1):
                add(kind, year, tile, Source(store.with_name(f"{kind}_{tile}.tif"), band))
        for kind, name in (("change", "kind"), ("loss_year", "loss_year"), ("gain_year", "gain_year")):
            add(kind, None, tile, Source(store.with_name(f"{name}_{tile}.tif")))
    edited = {year: _finished(outputs / "maps_edited" / str(year)) for year in years}
    for year in years:
        for tile, store in _finished(outputs / "maps" / str(year)).items():
            if any(edited.values()):
                add("edited", year, tile, Source(edited[year].get(tile, store).with_name(f"class_{tile}_{year}.tif")))
            for kind in ("class", "probability") if tile not in histories else ():
                add(kind, year, tile, Source(store.with_name(f"{kind}_{tile}_{year}.tif")))
            cube = outputs / "cube" / tile / f"{year}.zarr"
            if read_marker(cube) is not None:
                add("composite", year, tile, Source(cube, variable="composite"))
                add("looks", year, tile, Source(cube, variable="clear_count"))
    order = sorted(found, key=lambda key: (KINDS.index(key[0]), key[1] or 0))
    return [Layer(kind, year, dict(sorted(found[kind, year].items()))) for kind, year in order]


def _finished(folder: Place) -> dict[str, Place]:
    """Return the finished stores of a folder by tile."""
    _, files = entries(folder)
    stores = {
        file.stem: file.with_suffix(".zarr") for file in files if file.suffix == ".json" and is_tile_id(file.stem)
    }
    return {tile: store for tile, store in sorted(stores.items()) if read_marker(store) is not None}


def group_tiles(layers: Iterable[Layer]) -> list[Group]:
    """Return the tiles of some layers in groups that adjoin, from west to east."""
    first: dict[str, Source] = {}
    for layer in layers:
        for tile, source in layer.tiles.items():
            if source.place.suffix == ".tif":
                first.setdefault(tile, source)
    grids = {tile: _grid(source) for tile, source in sorted(first.items())}
    middles = {tile: _middle(tile) for tile in grids}
    if middles:
        # Begin east of the widest gap, so that a run across the antimeridian stays together.
        turn = sorted(set(middles.values()))
        gaps = [(turn[i] - turn[i - 1] if i else turn[0] + 360 - turn[-1], turn[i]) for i in range(len(turn))]
        west = max(gaps, key=lambda gap: (gap[0], -gap[1]))[1]
        middles = {tile: lon + 360 if lon < west else lon for tile, lon in middles.items()}
    # Left, bottom, right, top in degrees of longitude east of 0 and Mercator metres north.
    spans = {tile: _span(grid, middles[tile]) for tile, grid in grids.items()}
    boxes = {tile: shapely.box(*span) for tile, span in spans.items()}
    joined = shapely.get_parts(shapely.union_all([box.buffer(1e-3) for box in boxes.values()]))
    groups = []
    for part in sorted(joined, key=lambda part: part.bounds):
        own = {tile: grids[tile] for tile, box in boxes.items() if part.intersects(box)}
        west, bottom, east, top = np.array([spans[tile] for tile in own]).T
        middle = float(np.mean([west.min(), east.max()]))
        reach = math.radians(float(east.max()) - middle) * _EARTH_M
        bounds = (-reach, float(bottom.min()) * _TALL, reach, float(top.max()) * _TALL)
        groups.append(Group(own, middle, bounds))
    return groups


_TALL: Final = math.radians(1) * _EARTH_M
"""Mercator metres of a degree at the equator: spans are in such degrees both ways, so that boxes are plain."""


def _middle(tile: str) -> float:
    return int(tile[1:3]) * 6 - 183.0


def _grid(source: Source) -> GeoBox:
    return read_overview(source.place, 2**30)[1]


def _span(grid: GeoBox, middle: float) -> tuple[float, float, float, float]:
    """Return west, bottom, east and top of a tile, degrees of Mercator both ways, west and east near ``middle``."""
    edge = grid.extent.exterior.segmented(2000.0).to_crs("EPSG:4326")
    lon, lat = np.array(edge.coords).T
    lon = (lon - middle + 180) % 360 - 180 + middle
    y = np.degrees(np.arcsinh(np.tan(np.radians(lat))))
    return float(lon.min()), float(y.min()), float(lon.max()), float(y.max())


@dataclass(frozen=True)
class Picture:
    """One image of a layer."""

    layer: Layer
    path: Path
    box: list[list[float]]
    """``[[south, west], [north, east]]``, degrees."""

    pixel_m: float
    """Ground metres of a pixel in its middle."""


def write_overviews(
    folder: Path, layers: Sequence[Layer], groups: Sequence[Group], *, most_bytes: int
) -> list[Picture]:
    """Write a PNG of every layer and group, as fine as the bytes allow.

    Parameters
    ----------
    folder : Path
        Of the pictures, which are named after layer and group.
    layers : sequence of Layer
    groups : sequence of Group
    most_bytes : int
        Of all pictures together.

    Raises
    ------
    StoreError
        If a raster cannot be read, or nothing as coarse as is still a map would fit.
    """
    years = sorted({layer.year for layer in layers if layer.year is not None})
    stretches: dict[int, np.ndarray] = {}
    of_a_pixel = sum(_BYTES_PER_PX.get(layer.kind, _PLAIN_BYTES_PER_PX) for layer in layers)
    for scale in _SCALES:
        guess = sum(group.pixels(scale) for group in groups) * of_a_pixel
        if guess > most_bytes and scale != _SCALES[-1]:
            continue
        pictures: list[Picture] = []
        left = most_bytes
        for number, group in enumerate(groups):
            if number not in stretches:
                stretches[number] = stretch_of([one for one in layers if one.kind == "composite"], group)
            for layer in layers:
                path = folder / f"{layer.id}-{number + 1}.png"
                picture = _write_picture(path, layer, group, scale, years, stretches[number])
                if picture:
                    pictures.append(picture)
                    left -= path.stat().st_size
            if left < 0:
                break
        if left >= 0:
            return pictures
        for picture in pictures:
            picture.path.unlink()
    raise StoreError(f"pictures of {len(groups)} places do not fit {most_bytes / 1e6:.0f} MB", fix="raise --megabytes")


def _write_picture(
    path: Path, layer: Layer, group: Group, scale: float, years: Sequence[int], stretch: np.ndarray
) -> Picture | None:
    own = {tile: layer.tiles[tile] for tile in group.tiles if tile in layer.tiles}
    if not own:
        return None
    step = group.step(scale)
    left, bottom, right, top = group.bounds
    width, height = max(1, math.ceil((right - left) / step)), max(1, math.ceil((top - bottom) / step))
    place = Affine(step, 0, left, 0, -step, top)
    mercator = f"+proj=merc +a={_EARTH_M} +b={_EARTH_M} +lon_0={group.longitude} +units=m +no_defs"
    bands = 3 if layer.kind == "composite" else 1
    blank = 0 if bands == 3 else CLEAR
    canvas = np.full((bands, height, width), blank, np.uint8)
    every = max(1, round(step * group.shrink / PIXEL_M))
    for source in own.values():
        values, grid = _read(source, every)
        shown = stretched(values, stretch) if bands == 3 else index_of(layer.kind, values, years)[np.newaxis]
        reproject(
            shown,
            canvas,
            src_transform=grid.transform,
            src_crs=str(grid.crs),
            src_nodata=blank,
            dst_transform=place,
            dst_crs=mercator,
            dst_nodata=blank,
            init_dest_nodata=False,
            resampling=Resampling.nearest,
        )
    image = _quantised(canvas) if bands == 3 else paletted(canvas[0], palette(layer.kind, years))
    with replacing(path) as temporary:
        image.save(temporary, "PNG", compress_level=6)
    box = group.box(left, top - height * step, left + width * step, top)
    return Picture(layer, path, box, round(step * group.shrink, 1))


def _read(source: Source, every: int) -> tuple[np.ndarray, GeoBox]:
    """Return a tile with one of ``every`` pixels each way, and its grid: (y, x), of a composite (3, y, x)."""
    if not source.variable:
        return read_overview(source.place, every, source.band)
    with open_store(source.place) as data:
        variable = data[source.variable]
        numbers = [float(one) for one in str(data["spatial_ref"].attrs["GeoTransform"]).split()]
        affine = Affine.from_gdal(*numbers)
        crs = f"EPSG:{32600 + int(source.place.parent.name[1:3])}"
        if source.variable != "composite":
            values = variable[::every, ::every].values
        else:
            bands = [variable[BANDS.index(name)].values for name in FALSE_COLOUR]
            values = np.stack([_averaged(band, every) for band in bands])
    # Strides begin at the first pixel, so the last one may hang over the edge.
    return values, GeoBox(values.shape[-2:], affine * Affine.scale(every), crs)


def _averaged(band: np.ndarray, every: int) -> np.ndarray:
    """Average what was observed in blocks of ``every`` pixels, uint16 (y, x); 0 where nothing was."""
    if every == 1:
        return band
    rows, cols = (-(-n // every) for n in band.shape)
    padded = np.zeros((rows * every, cols * every), np.uint32)
    padded[: band.shape[0], : band.shape[1]] = band
    blocks = padded.reshape(rows, every, cols, every)
    seen = np.maximum((blocks > 0).sum(axis=(1, 3)), 1)
    return (blocks.sum(axis=(1, 3)) // seen).astype(np.uint16)


def stretch_of(layers: Sequence[Layer], group: Group) -> np.ndarray:
    """Return the 1 and 99.5 per cent of each shown band, float64 (2, 3), over a few tiles of all years alike."""
    seen = []
    for layer in layers:
        own = [source for tile, source in layer.tiles.items() if tile in group.tiles]
        for source in own[:: max(1, len(own) // _STRETCHED_TILES)]:
            values = _read(source, 8)[0].reshape(3, -1)
            seen.append(values[:, (values > 0).all(axis=0)])
    together = np.concatenate(seen, axis=1) if seen else np.empty((3, 0))
    return np.percentile(together, (1, 99.5), axis=1) if together.size else np.array([[0.0] * 3, [1.0] * 3])


def stretched(bands: np.ndarray, stretch: np.ndarray) -> np.ndarray:
    """Return reflectance DN (3, y, x) as shown, 1 to 255; 0 not observed."""
    low, high = stretch[:, :, np.newaxis, np.newaxis]
    share = np.clip((bands - low) / np.maximum(high - low, 1), 0, 1) ** 0.85
    return np.where((bands > 0).all(axis=0), np.rint(1 + 254 * share), 0).astype(np.uint8)


def index_of(kind: str, values: np.ndarray, years: Sequence[int]) -> np.ndarray:
    """Return the palette index of each value, uint8 (y, x); 255 is transparent."""
    if kind in RAMPS:
        scale = PROBABILITY_SCALE if kind == "probability" else 1
        low, high = (RAMPS[kind].stops[end][0] for end in (0, -1))
        share = np.clip((values.astype(np.float32) / scale - low) / (high - low), 0, 1)
        index = np.rint(share * _LEVELS).astype(np.uint8)
    elif kind in ("loss_year", "gain_year"):
        table = np.full(2**16, CLEAR, np.uint8)
        table[list(years)] = np.arange(len(years))
        return table[values]
    else:
        return values.astype(np.uint8)
    return np.where(values == _MISSING.get(kind, -1), np.uint8(CLEAR), index)


def palette(kind: str, years: Sequence[int]) -> dict[int, tuple[int, int, int]]:
    """Return the colours of a layer by index: a code, a level of its ramp, or the number of a year."""
    if kind in RAMPS:
        return dict(enumerate(RAMPS[kind].colours(_LEVELS + 1)))
    if kind in ("loss_year", "gain_year"):
        return dict(enumerate(year_colours(kind, len(years))))
    return {entry.code: entry.colour for entry in LEGENDS[kind] if entry.code != CLEAR}


def paletted(index: np.ndarray, colours: Mapping[int, tuple[int, int, int]]) -> Image.Image:
    index = np.where(np.isin(index, list(colours)), index, np.uint8(CLEAR))
    image = Image.fromarray(index, "P")
    return _with_palette(image, [channel for code in range(256) for channel in colours.get(code, (0, 0, 0))])


def _quantised(rgb: np.ndarray) -> Image.Image:
    """Return a picture in 255 colours of its own and a transparent one."""
    whole = Image.fromarray(np.ascontiguousarray(rgb.transpose(1, 2, 0)), "RGB")
    few = whole.quantize(CLEAR, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    index = np.where((rgb == 0).all(axis=0), np.uint8(CLEAR), np.asarray(few))
    colours = (few.getpalette() or [])[: 3 * CLEAR]
    return _with_palette(Image.fromarray(index, "P"), colours + [0] * (768 - len(colours)))


def _with_palette(image: Image.Image, colours: list[int]) -> Image.Image:
    image.putpalette(colours)
    image.info["transparency"] = bytes([255] * CLEAR + [0])
    return image


def region_boxes(outputs: Place, years: Sequence[int], groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Return name and box of every region with a mapped pixel, in the order of their names in the run."""
    found: dict[int, list[float]] = {}
    names: list[str] = []
    for group in groups:
        for tile in group.tiles:
            stores = (outputs / "maps" / str(year) / f"{tile}.zarr" for year in years)
            store = next((one for one in stores if read_marker(one) is not None), None)
            if store is None:
                continue
            with open_store(store) as data:
                codes = data["region"].values
                names = names or _names(data.attrs.get("regions"))
            grid = group.tiles[tile]
            full = Affine(PIXEL_M, 0, grid.transform.c, 0, -PIXEL_M, grid.transform.f)
            for code, part in enumerate(find_objects(codes), 1):
                if part is None:
                    continue
                rows, cols = part
                shape = (rows.stop - rows.start, cols.stop - cols.start)
                corner = full * Affine.translation(cols.start, rows.start)
                west, bottom, east, top = _span(GeoBox(shape, corner, grid.crs), group.longitude)
                old = found.get(code, [west, bottom, east, top])
                # Canvases on both sides of the antimeridian: the way round that is shorter.
                turn = 360 * round((old[0] + old[2] - west - east) / 720)
                found[code] = [
                    min(old[0], west + turn),
                    min(old[1], bottom),
                    max(old[2], east + turn),
                    max(old[3], top),
                ]
    return [
        {"name": names[code - 1] if code <= len(names) else str(code), "box": _degrees(*found[code])}
        for code in sorted(found)
    ]


def _degrees(west: float, bottom: float, east: float, top: float) -> list[list[float]]:
    lat = [math.degrees(math.atan(math.sinh(math.radians(y)))) for y in (bottom, top)]
    return [[round(lat[0], 6), round(west, 6)], [round(lat[1], 6), round(east, 6)]]


def _names(text: Any) -> list[str]:
    """Return the names of regions as a map's store lists them; of what is no such list none."""
    try:
        names = json.loads(text)
    except (TypeError, ValueError):
        return []
    return [str(name) for name in names] if isinstance(names, list) else []
