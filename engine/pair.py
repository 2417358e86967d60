"""Any two class rasters on one grid, ours or foreign, as transitions and exact areas, strip by strip."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from rasterio.enums import MaskFlags
from rasterio.errors import RasterioError
from rasterio.features import rasterize
from rasterio.io import DatasetReader
from shapely.geometry.base import BaseGeometry

from engine.align import bounds_in
from engine.area import Area
from engine.cells import Cells
from engine.errors import ConfigError, PlanError
from engine.gdal import open_raster, unreadable
from engine.grid import crs_of
from engine.kernels.compare import transitions
from engine.kernels.labels import mask_codes
from engine.kernels.weigh import reach, sieve_by_area, weigh
from engine.legend import CLASSES, GAIN, LOSS, OTHER, OUTSIDE_AREA, STABLE_MANGROVE, STABLE_OTHER, TRANSITIONS, Entry
from engine.ranges import Access
from engine.raster import writing_cog
from engine.trust import Trust

STRIP_PX: Final = 2**22
"""Pixels of a strip: some 200 MB while it is compared."""

_MOST_STRIP_PX: Final = 2**26  # with the rows that a strip reaches to; 3 GB
_MOST_PX: Final = 2**36  # of a raster; a header may declare any size

_BEFORE: Final = {LOSS: STABLE_MANGROVE, GAIN: STABLE_OTHER}
"""What a pixel is taken to be whose patch of change is too small: what it was."""


@dataclass(frozen=True)
class ClassMap:
    """One raster of a pair, and how its values are read; closed, see ``opened``."""

    path: Path
    geobox: GeoBox
    is_ours: bool
    """Its values are codes of ``legend.CLASSES``."""

    mangrove: tuple[int, ...]
    """Of a foreign raster."""

    unknown: tuple[int, ...]
    """Of a foreign raster, not observed."""

    nodata: float | None
    masked: bool
    """It has a mask inside the file; what that hides was not observed."""

    reading: str
    """The same for people, in one line."""

    notice: str
    """What the file says of itself: SIMULATED ..."""

    @property
    def name(self) -> str:
        return self.path.name


def open_map(path: Path, trust: Trust, *, values: Sequence[int] = (), unknown: Sequence[int] = ()) -> ClassMap:
    """Check a class raster and decide how its values are read.

    A class raster of ours says so by its colours, and its codes mean what ``legend.CLASSES`` says. Of any other,
    ``values`` are mangrove, its nodata and ``unknown`` were not observed, and the rest is other. One exception, as for
    masks: a raster in which 1 alone is mangrove and 0 is nodata, as Global Mangrove Watch's tiles declare to be
    transparent on a map, means "no mangrove" by 0; ``unknown=[0]`` overrules that.

    Parameters
    ----------
    path : Path
    trust : Trust
        Which must allow it.
    values : sequence of int
        Default 1.
    unknown : sequence of int

    Raises
    ------
    ConfigError
        If it is no GeoTIFF of one band of whole numbers with a coordinate system, or a raster of ours of another kind.
    PlanError
        If it declares more pixels than can be worked on.
    TrustError
        If it lies outside the allowed folders.
    """
    name = path.name
    if path.suffix.lower() == ".vrt":
        raise ConfigError(f"{name} is a virtual mosaic", fix=f"make it one file: gdal_translate -of COG {name} one.tif")
    with open_raster(str(path), Access(trust), fault=ConfigError) as source:
        dtype = np.dtype(source.dtypes[0])
        if source.count != 1 or dtype.kind not in "iu":
            raise ConfigError(
                f"{name} holds {source.count} band(s) of {dtype}, which is no class raster",
                fix="give one band of whole numbers (gdal_translate -b 1 -ot Byte)",
            )
        if source.crs is None:
            raise ConfigError(f"{name} has no coordinate system", fix="assign it (gdal_edit -a_srs)")
        if source.width * source.height > _MOST_PX:
            raise PlanError(f"{name} declares {source.width} x {source.height} px", fix="cut it into parts")
        geobox, tags, nodata = GeoBox.from_rio(source), source.tags(), source.nodata
        is_ours = dtype == np.uint8 and _has_colours(source, CLASSES)
        if not is_ours and _has_colours(source, TRANSITIONS):
            raise ConfigError(f"{name} is a raster of change, not of classes", fix="give two class rasters")
        masked = MaskFlags.per_dataset in source.mask_flag_enums[0]
    mangrove = tuple(dict.fromkeys(values)) or (1,)
    absent = nodata == 0 and mangrove == (1,) and 0 not in unknown
    hidden = [int(nodata)] if nodata is not None and float(nodata).is_integer() and not absent else []
    unseen = tuple(dict.fromkeys([*unknown, *hidden]))
    if is_ours:
        mangrove, unseen, reading = (), (), "class codes of ours, by its colours"
    else:
        reading = f"{' '.join(map(str, mangrove))} is mangrove, all else other"
        if unseen:
            reading += f", {' '.join(map(str, unseen))} not observed"
        if absent:
            reading += "; its nodata 0 is no mangrove, as in Global Mangrove Watch (with --unknown 0 not observed)"
    return ClassMap(path, geobox, is_ours, mangrove, unseen, nodata, masked, reading, tags.get("notice", ""))


def _has_colours(source: DatasetReader, legend: Iterable[Entry]) -> bool:
    try:
        colours = source.colormap(1)
    except ValueError:
        return False
    return all(colours.get(entry.code, ())[:3] == entry.colour for entry in legend)


def check_grids(before: ClassMap, after: ClassMap) -> None:
    """Refuse two rasters that are not on one grid, and say how to bring the second onto that of the first.

    Raises
    ------
    ConfigError
    """
    ours, theirs = before.geobox, after.geobox
    a, b = ours.transform, theirs.transform
    corners = [(0, 0), (ours.shape.x, 0), (0, ours.shape.y)]
    pixel = min(math.hypot(a.a, a.d), math.hypot(a.b, a.e))
    apart = max(math.dist(a * corner, b * corner) for corner in corners)
    differ = [
        what
        for what, one, other in (
            ("CRS", crs_of(ours), crs_of(theirs)),
            ("shape", tuple(ours.shape), tuple(theirs.shape)),
            ("corner or pixel size", apart < 1e-3 * pixel, True),
        )
        if one != other
    ]
    if not differ:
        return
    box, (height, width) = ours.boundingbox, ours.shape
    epsg = crs_of(ours).epsg
    # Where the warped raster does not reach nothing was observed: its nodata says so, unless that means "no mangrove".
    fill = "" if after.is_ours or after.nodata in after.unknown else " -srcnodata None -dstnodata 255"
    place = f"EPSG:{epsg}" if epsg else f"'{before.name}'"
    raise ConfigError(
        f"{before.name} and {after.name} differ in {' and '.join(differ)}",
        fix=f"warp one onto the other: gdalwarp -r near -t_srs {place} -te {box.left!r} {box.bottom!r} {box.right!r} "
        f"{box.top!r} -ts {width} {height}{fill} {after.name} warped.tif",
    )


@dataclass(frozen=True)
class PairAreas:
    """What comparing two rasters gave, beside the raster of transitions."""

    table: pd.DataFrame
    """``by`` ("raster" or "zone"), ``where``, ``least_ha``, ``code``, ``name``, ``pixels`` and ``hectares``: every code
    of the whole raster and of each zone, by all change (``least_ha`` 0) and by patches of at least ``least_ha``."""

    least_px: tuple[int, int]
    """Pixels from which a patch is large enough: of the largest pixels of the grid, and of the smallest."""


def compare_pair(
    before: ClassMap,
    after: ClassMap,
    out: Path,
    trust: Trust,
    *,
    least_ha: float = 0.5,
    zones: Area | None = None,
    tags: dict[str, str] | None = None,
    strip_rows: int | None = None,
    track: Callable[[Sequence[slice]], Iterable[slice]] = iter,
) -> PairAreas:
    """Compare two class rasters on one grid; write the transitions as a COG and sum pixels and hectares.

    What was not observed in either is not observed, never loss or gain. Transitions are written unsieved. Areas are
    summed a second time with the loss and the gain in patches (8-connected, each code of its own) of less than
    ``least_ha``, by the areas of their very pixels, taken for what they were before. Strips of any height give the
    same, byte by byte.

    Parameters
    ----------
    before, after : ClassMap
        Of ``open_map``; ``check_grids`` must have passed.
    out : Path
        Raster to write: uint8, ``legend.TRANSITIONS``.
    trust : Trust
    least_ha : float
        Smallest patch, hectares on the ellipsoid.
    zones : Area, optional
        To sum by too; of two that overlap the first counts. A pixel belongs to a zone by its centre.
    tags : dict of str, optional
        What the raster says of itself.
    strip_rows : int, optional
        Rows at once; by default as many as ``STRIP_PX`` allows.
    track : callable
        Takes the strips and returns them one by one, to show how far the work is.

    Raises
    ------
    ConfigError
        If a raster cannot be read to its end, or one of ours holds a code that is no class.
    PlanError
        If patches of that size reach over more rows than can be held.
    """
    geobox = before.geobox
    height, width = geobox.shape
    cells, zone_count = Cells.of(geobox), len(zones.regions) if zones else 0
    least = cells.units_of(least_ha)
    # Twice as many as it reaches to, else most rows would be read over and over.
    deep = least // max(1, int(np.median(cells.smallest)))
    rows = strip_rows or min(height, max(1, STRIP_PX // width, 2 * deep))
    strips = [slice(top, min(top + rows, height)) for top in range(0, height, rows)]
    most = max(seen.stop - seen.start for seen in (reach(cells.smallest, strip, least) for strip in strips))
    if most * width > _MOST_STRIP_PX:
        raise PlanError(
            f"patches of {least_ha:g} ha reach over {most} rows of {width} px, too many to hold at once",
            fix="lower --min-area-ha, or cut the rasters into parts",
        )
    shapes = _zone_shapes(zones, geobox) if zones else []
    pixels, sums = (np.zeros((2, 1 + zone_count, 256), np.int64) for _ in range(2))
    description = f"mangrove change from {before.name} to {after.name}"
    with (
        _opened(before, trust) as read_before,
        _opened(after, trust) as read_after,
        writing_cog(out, geobox, TRANSITIONS, nodata=OUTSIDE_AREA, tags=tags, description=description) as write,
    ):
        for strip in track(strips):
            seen = reach(cells.smallest, strip, least)
            inner = slice(strip.start - seen.start, strip.stop - seen.start)
            codes = transitions(read_before(seen), read_after(seen))
            areas = cells.units(seen)
            changed = np.where((codes == LOSS) | (codes == GAIN), codes, np.uint8(0))
            large = sieve_by_area(changed, areas, least)[inner]
            codes, areas = codes[inner], areas[inner]
            write(strip.start, codes)
            sieved = codes.copy()
            for change, was in _BEFORE.items():
                sieved[(codes == change) & ~large] = was
            owners = _burn(shapes, geobox[strip, :]) if shapes else np.zeros((1, 1), np.uint16)
            for index, of in enumerate((codes, sieved)):
                counted = weigh(of, owners, areas, zone_count=zone_count)
                pixels[index] += counted[0]
                sums[index] += counted[1]
    largest, smallest = cells.areas.max(), cells.areas[cells.areas > 0].min()
    few, many = (max(1, math.ceil(least_ha * 1e4 * (1 - 1e-6) / metres)) for metres in (largest, smallest))
    return PairAreas(_table(pixels, sums, (0.0, least_ha) if least_ha else (0.0,), cells, zones), (few, many))


def _table(
    pixels: np.ndarray, sums: np.ndarray, sieves: Sequence[float], cells: Cells, zones: Area | None
) -> pd.DataFrame:
    """Return the table of ``PairAreas`` from sums (sieve, zone, code)."""
    totals = [(pixels.sum(axis=1), sums.sum(axis=1)), *((pixels[:, n], sums[:, n]) for n in range(1, pixels.shape[1]))]
    places = [("raster", "all"), *(("zone", zone.name) for zone in (zones.regions if zones else ()))]
    return pd.DataFrame(
        [
            {
                "by": by,
                "where": where,
                "least_ha": least_ha,
                "code": entry.code,
                "name": entry.name,
                "pixels": int(counted[sieve, entry.code]),
                "hectares": float(cells.hectares(summed[sieve, entry.code])),
            }
            for (by, where), (counted, summed) in zip(places, totals, strict=True)
            for sieve, least_ha in enumerate(sieves)
            for entry in TRANSITIONS
        ]
    )


def small_shares(table: pd.DataFrame) -> pd.DataFrame:
    """Return which share of the area of loss and of gain lies in patches below the smallest that count.

    Parameters
    ----------
    table : DataFrame
        Of ``compare_pair``.

    Returns
    -------
    DataFrame
        A row for each ``by``, ``where`` and ``least_ha``: ``loss_px`` and ``gain_px``, ``small_loss_share`` and
        ``small_gain_share``, NaN where there is none.
    """
    keys = ["by", "where", "least_ha"]
    found = table[keys].drop_duplicates()
    for name, code in (("loss", LOSS), ("gain", GAIN)):
        rows = table.loc[table["code"] == code, [*keys, "pixels", "hectares"]]
        whole = rows.loc[rows["least_ha"] == 0, ["by", "where", "hectares"]]
        both = rows.merge(whole, on=["by", "where"], suffixes=("", "_whole"))
        both[f"small_{name}_share"] = 1 - both["hectares"] / both["hectares_whole"]  # NaN of 0 by 0
        both = both.rename(columns={"pixels": f"{name}_px"}).drop(columns=["hectares", "hectares_whole"])
        found = found.merge(both, on=keys)
    return found


@contextmanager
def _opened(of: ClassMap, trust: Trust) -> Iterator[Callable[[slice], np.ndarray]]:
    """Open a raster and yield what reads rows of it as class codes, uint8 (y, x)."""
    with open_raster(str(of.path), Access(trust), fault=ConfigError) as source:

        def read(rows: slice) -> np.ndarray:
            window = ((rows.start, rows.stop), (0, source.width))
            try:
                values = source.read(1, window=window)
                known = source.read_masks(1, window=window) > 0 if of.masked else np.ones(values.shape, bool)
            except RasterioError as error:  # told as a fault of this file, not of the one that is written
                raise unreadable(error, str(of.path), ConfigError, {}) from None
            if not of.is_ours:
                return mask_codes(values, known, of.mangrove, unknown=of.unknown, background=OTHER)
            found = set(np.flatnonzero(np.bincount(values.ravel(), minlength=256)).tolist())
            if foreign := sorted(found - {entry.code for entry in CLASSES}):
                raise ConfigError(f"{of.name} holds {foreign[0]}, which is no class code", fix="make it again")
            return values

        yield read


def _zone_shapes(zones: Area, geobox: GeoBox) -> list[tuple[BaseGeometry, int]]:
    """Return the parts of zones on a grid, in its coordinate system, and 1 + index of the zone; the first on top."""
    crs = crs_of(geobox)
    project = Transformer.from_crs("EPSG:4326", crs.to_wkt(), always_xy=True).transform
    shapes = []
    for left, bottom, right, top in bounds_in(geobox, "EPSG:4326"):
        for number, zone in reversed(list(enumerate(zones.regions, 1))):
            part = shapely.clip_by_rect(zone.geometry, left - 0.02, bottom - 0.02, right + 0.02, top + 0.02)
            # 0.01 degrees, as in engine.area: the chord of a parallel strays under a tenth of a pixel of 30 m.
            lines = part if crs.geographic else shapely.segmentize(part, 0.01)
            if not part.is_empty:
                shapes.append((shapely.transform(lines, lambda xy: np.column_stack(project(*xy.T))), number))
    return shapes


def _burn(shapes: list[tuple[BaseGeometry, int]], geobox: GeoBox) -> np.ndarray:
    """Say which zone owns each pixel of a grid, uint16 (y, x)."""
    codes = np.zeros(tuple(geobox.shape), np.uint16)
    rasterize(shapes, out=codes, transform=Affine(*geobox.transform[:6]))
    return codes
