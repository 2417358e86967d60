"""Finished rasters as people open them: COGs, their legends, QGIS styles, and one VRT a year and zone.

A COG is a copy of a finished array: GDAL's COG driver cannot be written block by block. Every file is
written beside its place, read back, compared and then renamed, so a file under its name is whole.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal
from xml.etree import ElementTree as Xml

import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio._err import CPLE_BaseError  # a failed copy raises GDAL's error bare
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader, DatasetWriter, MemoryFile

from engine.errors import StoreError
from engine.files import cannot_read, replacing, write_text
from engine.grid import crs_of
from engine.legend import MANGROVE, NOT_OBSERVED, OTHER, OUTSIDE_AREA, OUTSIDE_HABITAT, Entry, Ramp
from engine.places import ObjectPath, Place, each, read_start, relative

BLOCK_PX = 512
_GDAL_TYPES = {"uint8": "Byte", "int16": "Int16", "uint16": "UInt16", "int32": "Int32", "float32": "Float32"}
_HEADER_BYTES: Final = 2**18
"""Of a COG of ours that hold its header: 4 KB and what the tags say."""

_NO_SIDECARS = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "GDAL_PAM_ENABLED": "NO"}


def write_cog(
    path: Place | str,
    array: np.ndarray,
    geobox: GeoBox,
    *,
    nodata: float | None = None,
    legend: tuple[Entry, ...] | None = None,
    scale: float = 1.0,
    tags: Mapping[str, str] | None = None,
    band_names: Sequence[str] = (),
    overview: Literal["nearest", "mode", "average"] = "nearest",
    description: str = "",
) -> None:
    """Write an array as a Cloud-Optimized GeoTIFF, and its category names beside it.

    Parameters
    ----------
    path : path
        The ``.tif``; with a legend ``<path>.aux.xml`` holds the category names (a TIFF has no place for them).
    array : ndarray of uint8, int16, uint16, int32 or float32, shape (y, x) or (band, y, x)
    geobox : GeoBox
        Of the array's (y, x).
    nodata : float, optional
        Value that GIS show as transparent.
    legend : tuple of Entry, optional
        Colour table of a uint8 (y, x) array.
    scale : float
        Stored value x scale is the quantity; kept in the file, and applied by GIS.
    tags : mapping of str to str, optional
        What made the file: run, year, versions, notice.
    band_names : sequence of str, optional
    overview : str
        Resampling of the overviews; never 'average' for classes.
    description : str
        One line on what the raster shows.

    Raises
    ------
    ValueError
        If array, geobox, legend and names do not fit together.
    StoreError
        If the file cannot be written, or does not read back equal.
    """
    path, bands = _place(path), array[np.newaxis] if array.ndim == 2 else array
    if bands.ndim != 3 or bands.shape[1:] != tuple(geobox.shape):
        raise ValueError(f"array must be (y, x) or (band, y, x) of {tuple(geobox.shape)}, got shape {array.shape}")
    if geobox.crs is None:
        raise ValueError("geobox has no coordinate system; a map needs one")
    if bands.dtype.name not in _GDAL_TYPES:
        raise ValueError(f"array must be {', '.join(_GDAL_TYPES)}, got {array.dtype}")
    if legend is not None and (bands.dtype != np.uint8 or len(bands) > 1 or overview == "average"):
        raise ValueError("a legend needs one band of uint8 and overviews by 'nearest' or 'mode'")
    if band_names and len(band_names) != len(bands):
        raise ValueError(f"band_names must name {len(bands)} bands, got {len(band_names)}")
    try:
        with MemoryFile() as memory, replacing(path) as temporary:
            with memory.open(**_profile(geobox, bands.dtype.name, len(bands), nodata), tiled=True) as target:
                target.write(bands)
                _describe(target, tags, description, legend)
                for band, name in enumerate(band_names, 1):
                    target.set_band_description(band, name)
                if scale != 1:
                    target.scales = (scale,) * len(bands)
            with memory.open() as source:
                _copy_cog(source, temporary, overview, "NO" if legend else "YES")
            # GDAL may only mumble when the disk fills up while it closes a file.
            with rasterio.open(temporary, driver="GTiff") as written:
                whole = np.array_equal(written.read(), bands, equal_nan=bands.dtype.kind == "f")
            _check_whole(path, whole)
            _name_categories(path, legend)
    except (RasterioError, CPLE_BaseError) as error:
        raise _unwritten(path, error) from error


@contextmanager
def writing_cog(
    path: Path,
    geobox: GeoBox,
    legend: tuple[Entry, ...],
    *,
    nodata: float | None = None,
    tags: Mapping[str, str] | None = None,
    description: str = "",
) -> Iterator[Callable[[int, np.ndarray], None]]:
    """Write a classified raster that need not fit in memory: yield what takes its rows, and make it a COG at the end.

    What is yielded takes the number of the first row and the rows, uint8 (y, x) as wide as the raster; of any height,
    in order. Else as ``write_cog``, with overviews by the most frequent code. As much free disk as the compressed
    raster takes is needed beside the place of the file.

    Raises
    ------
    StoreError
        If the file cannot be written, or does not read back equal.
    """
    try:
        with replacing(path) as temporary, tempfile.TemporaryDirectory(prefix=".rows-", dir=path.parent) as folder:
            rows = Path(folder) / "rows.tif"
            with rasterio.open(rows, "w", **_profile(geobox, "uint8", 1, nodata), compress="LZW") as target:
                _describe(target, tags, description, legend)
                yield lambda row, codes: target.write(codes, 1, window=((row, row + len(codes)), (0, target.width)))
            with rasterio.open(rows, driver="GTiff") as source:
                _copy_cog(source, temporary, "mode", "NO")
                with rasterio.open(temporary, driver="GTiff") as written:
                    strips = [
                        ((top, min(top + BLOCK_PX, source.height)), (0, source.width))
                        for top in range(0, source.height, BLOCK_PX)
                    ]
                    whole = all(np.array_equal(source.read(window=w), written.read(window=w)) for w in strips)
            _check_whole(path, whole)
            _name_categories(path, legend)
    except (RasterioError, CPLE_BaseError) as error:
        raise _unwritten(path, error) from error


def _profile(geobox: GeoBox, dtype: str, count: int, nodata: float | None) -> dict[str, Any]:
    return {
        "driver": "GTiff",
        "count": count,
        "height": geobox.shape[0],
        "width": geobox.shape[1],
        "dtype": dtype,
        "crs": crs_of(geobox).to_wkt(),
        "transform": geobox.transform,
        "nodata": nodata,
        "BIGTIFF": "IF_SAFER",
    }


def _describe(
    target: DatasetWriter, tags: Mapping[str, str] | None, description: str, legend: tuple[Entry, ...] | None
) -> None:
    target.update_tags(**(tags or {}))
    if description:
        target.update_tags(TIFFTAG_IMAGEDESCRIPTION=description)
    if legend is not None:
        target.write_colormap(1, {entry.code: (*entry.colour, 255) for entry in legend})


def _copy_cog(source: DatasetReader, path: Path, overview: str, predictor: str) -> None:
    rasterio.shutil.copy(
        source,
        path,
        driver="COG",
        COMPRESS="DEFLATE",  # every GIS reads it; zstd is missing from older builds
        PREDICTOR=predictor,
        BLOCKSIZE=str(BLOCK_PX),
        OVERVIEW_RESAMPLING=overview.upper(),
        BIGTIFF="IF_SAFER",
    )


def _check_whole(path: Place, whole: bool) -> None:
    if not whole:
        raise StoreError(f"{path} does not read back as it was written", fix="check the disk")


def _name_categories(path: Place, legend: tuple[Entry, ...] | None) -> None:
    """Write the names of the categories beside a raster, or take away those of another."""
    sidecar = path.with_name(path.name + ".aux.xml")
    sidecar.unlink(missing_ok=True)
    if legend is not None:
        write_text(sidecar, _pam(legend))


def _unwritten(path: Place, error: Exception) -> StoreError:
    return StoreError(f"{path} cannot be written ({error})", fix="free space or choose another out")


def read_raster(path: Place | str, window: tuple[slice, slice] | None = None) -> tuple[np.ndarray, GeoBox]:
    """Read a GeoTIFF, or the (y, x) ``window`` of it: array (band, y, x) and its GeoBox.

    Only the GTiff driver may open the file, and none beside it. A path from a catalog or a run configuration
    must have passed ``Trust.path`` before.

    Raises
    ------
    StoreError
        If the file is missing or no GeoTIFF.
    """
    try:
        with rasterio.Env(**_NO_SIDECARS), _opened(_place(path)) as source:
            geobox = GeoBox.from_rio(source)
            if window is None:
                return source.read(), geobox
            rows, cols = (s.indices(n) for s, n in zip(window, source.shape, strict=True))
            array = source.read(window=((rows[0], rows[1]), (cols[0], cols[1])))
            return array, geobox[rows[0] : rows[1], cols[0] : cols[1]]
    except RasterioError as error:
        raise StoreError(f"{path} is not a readable GeoTIFF", fix="check the path, or make it again") from error


def read_overview(path: Place | str, every: int, band: int = 1) -> tuple[np.ndarray, GeoBox]:
    """Read a band of a COG of ours with one of ``every`` pixels each way, through its overviews: (y, x) and GeoBox.

    At least one pixel is read. Memory is that of what is returned; of an object its whole file is fetched.

    Raises
    ------
    StoreError
        If the file is missing, no GeoTIFF, or has no such band.
    """
    try:
        with rasterio.Env(**_NO_SIDECARS), _opened(_place(path)) as source:
            rows, cols = (max(1, -(-n // every)) for n in source.shape)
            values = source.read(band, out_shape=(rows, cols))
            affine = source.transform * Affine.scale(source.width / cols, source.height / rows)
            return values, GeoBox((rows, cols), affine, GeoBox.from_rio(source).crs)
    except (RasterioError, IndexError) as error:
        raise StoreError(f"{path} is not a readable GeoTIFF", fix="check the path, or make it again") from error


def write_vrt(
    path: Place | str,
    tifs: Sequence[Place | str],
    *,
    legend: tuple[Entry, ...] | None = None,
    tags: Mapping[str, str] | None = None,
) -> None:
    """Join the tiles of one zone and year into a virtual mosaic with relative paths.

    Parameters
    ----------
    path : path
        The ``.vrt``; moved together with its tiles it stays valid.
    tifs : sequence of path
        Rasters on one grid (same CRS, pixel size and phase), type, bands and nodata, that do not overlap.
    legend : tuple of Entry, optional
        Colours and category names.
    tags : mapping of str to str, optional
        What the mosaic says of itself.

    Raises
    ------
    ValueError
        If there is no tile, or two do not share a grid: one VRT holds one zone.
    StoreError
        If a tile is unreadable or the VRT cannot be written.
    """
    path = _place(path)
    tiles = sorted(each(_Source.open, map(_place, tifs), within=path), key=lambda tile: str(tile.path))
    if not tiles:
        raise ValueError("tifs is empty; a mosaic needs at least one tile")
    first = tiles[0]
    for tile in tiles[1:]:
        if tile.kind != first.kind:
            raise ValueError(
                f"{tile.path.name} and {first.path.name} differ in CRS, pixel grid, type, bands or nodata; "
                "write one VRT per zone and kind"
            )
    left = min(tile.left for tile in tiles)
    top = min(tile.top for tile in tiles)
    width = max(tile.left + tile.width for tile in tiles) - left
    height = max(tile.top + tile.height for tile in tiles) - top
    dx, _, x, _, dy, y = first.transform[:6]
    corner = (x + dx * (left - first.left), dx, 0, y + dy * (top - first.top), 0, dy)

    root = Xml.Element("VRTDataset", rasterXSize=str(width), rasterYSize=str(height))
    Xml.SubElement(root, "SRS", dataAxisToSRSAxisMapping="1,2").text = first.kind.crs
    Xml.SubElement(root, "GeoTransform").text = ", ".join(f"{value:.17g}" for value in corner)
    metadata = Xml.SubElement(root, "Metadata")
    for key, text in sorted((tags or {}).items()):
        Xml.SubElement(metadata, "MDI", key=key).text = text
    for number, name in enumerate(first.kind.band_names, 1):
        band = Xml.SubElement(root, "VRTRasterBand", dataType=_GDAL_TYPES[first.kind.dtype], band=str(number))
        if name:
            Xml.SubElement(band, "Description").text = name
        if first.kind.nodata is not None:
            Xml.SubElement(band, "NoDataValue").text = f"{first.kind.nodata:.17g}"
        if first.kind.scale != 1:
            Xml.SubElement(band, "Scale").text = f"{first.kind.scale:.17g}"
        if legend is not None:
            Xml.SubElement(band, "ColorInterp").text = "Palette"
            band.append(_colour_table(legend, first.kind.nodata))
            band.append(_category_names(legend))
        for tile in tiles:
            source = Xml.SubElement(band, "SimpleSource")
            Xml.SubElement(source, "SourceFilename", relativeToVRT="1").text = relative(tile.path, path.parent)
            Xml.SubElement(source, "SourceBand").text = str(number)
            size = {"xSize": str(tile.width), "ySize": str(tile.height)}
            offset = {"xOff": str(tile.left - left), "yOff": str(tile.top - top)}
            Xml.SubElement(source, "SrcRect", {"xOff": "0", "yOff": "0"} | size)
            Xml.SubElement(source, "DstRect", offset | size)
    write_text(path, _document(root))


def write_qml(path: Place | str, style: tuple[Entry, ...] | Ramp) -> None:
    """Write the QGIS 3 style of a raster: a legend as paletted classes, a ramp as pseudocolour.

    QGIS applies ``<name>.qml`` to ``<name>.tif`` on opening.
    """
    root = Xml.Element("qgis", version="3.22", styleCategories="Symbology")
    pipe = Xml.SubElement(root, "pipe")
    common = {"band": "1", "opacity": "1", "alphaBand": "-1", "nodataColor": ""}
    if isinstance(style, Ramp):
        low, high = (f"{style.stops[end][0]:g}" for end in (0, -1))
        kind = {"type": "singlebandpseudocolor", "classificationMin": low, "classificationMax": high}
        renderer = Xml.SubElement(pipe, "rasterrenderer", kind | common)
        shader = Xml.SubElement(
            Xml.SubElement(renderer, "rastershader"),
            "colorrampshader",
            {"colorRampType": "INTERPOLATED", "classificationMode": "1", "clip": "0"}
            | {"minimumValue": low, "maximumValue": high},
        )
        for value, colour in style.stops:
            number = f"{value:g}"
            Xml.SubElement(shader, "item", value=number, label=number, color=_hex(colour), alpha="255")
    else:
        renderer = Xml.SubElement(pipe, "rasterrenderer", {"type": "paletted"} | common)
        palette = Xml.SubElement(renderer, "colorPalette")
        for entry in style:
            Xml.SubElement(
                palette,
                "paletteEntry",
                value=str(entry.code),
                label=entry.name,
                color=_hex(entry.colour),
                alpha="0" if entry.code == OUTSIDE_AREA else "255",
            )
    Xml.SubElement(root, "blendMode").text = "0"
    write_text(path, "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n" + _document(root))


GMW_NODATA: Final = 255


def export_gmw(classes: np.ndarray) -> np.ndarray:
    """Recode a class raster as Global Mangrove Watch does: 1 mangrove, 0 other, 255 nodata.

    What lies outside the habitat limit is 0, as GMW confines mangrove to its habitat too; what was never
    observed, or lies outside the area, is nodata.

    Examples
    --------
    >>> export_gmw(np.array([[0, 1, 2, 3, 255]], dtype="uint8"))
    array([[255,   0,   1,   0, 255]], dtype=uint8)
    """
    if classes.dtype != np.uint8:
        raise TypeError(f"classes must be uint8 class codes, got {classes.dtype}")
    table = np.full(256, GMW_NODATA, dtype="uint8")
    table[[NOT_OBSERVED, OTHER, MANGROVE, OUTSIDE_HABITAT]] = GMW_NODATA, 0, 1, 0
    return table[classes]


@dataclass(frozen=True)
class _Kind:
    """What tiles of one mosaic share; ``phase`` is where the grid's pixel corners lie within one pixel."""

    crs: str
    pixel: tuple[float, float]
    phase: tuple[float, float]
    dtype: str
    nodata: float | None
    scale: float
    band_names: tuple[str | None, ...]


@dataclass(frozen=True)
class _Source:
    """One tile of a mosaic; ``left`` and ``top`` count its pixels from the CRS origin."""

    path: Place
    kind: _Kind
    transform: Affine
    left: int
    top: int
    width: int
    height: int

    @classmethod
    def open(cls, path: Place) -> _Source:
        try:
            with _opened(path, _HEADER_BYTES) as source:
                return cls._of(path, source)
        except RasterioError as error:
            raise StoreError(f"{path} is not a readable GeoTIFF", fix="make it again") from error

    @classmethod
    def _of(cls, path: Place, source: DatasetReader) -> _Source:
        affine = source.transform
        if affine.b or affine.d:
            raise ValueError(f"{path.name} is rotated; a mosaic needs north-up tiles")
        left, top = round(affine.c / affine.a, 6), round(affine.f / affine.e, 6)
        kind = _Kind(
            crs=f"EPSG:{source.crs.to_epsg()}" if source.crs.to_epsg() else source.crs.to_wkt(),
            pixel=(affine.a, affine.e),
            phase=(left % 1, top % 1),
            dtype=source.dtypes[0],
            nodata=source.nodata,
            scale=source.scales[0],
            band_names=source.descriptions,
        )
        return cls(path, kind, affine, math.floor(left), math.floor(top), source.width, source.height)


def _place(path: Place | str) -> Place:
    return Path(path) if isinstance(path, str) else path


@contextmanager
def _opened(path: Place, most: int | None = None) -> Iterator[DatasetReader]:
    """Open a GeoTIFF; of an object its bytes, or the first ``most`` where the header is all that is asked."""
    if not isinstance(path, ObjectPath):
        with rasterio.open(path, driver="GTiff") as source:
            yield source
        return
    try:
        content = path.read_bytes() if most is None else read_start(path, most)
    except OSError as error:
        raise cannot_read(path, error) from error
    with MemoryFile(content) as memory, memory.open(driver="GTiff") as source:
        yield source


def _pam(legend: tuple[Entry, ...]) -> str:
    """Return the GDAL side file that names the categories."""
    root = Xml.Element("PAMDataset")
    Xml.SubElement(root, "PAMRasterBand", band="1").append(_category_names(legend))
    return _document(root)


def _category_names(legend: tuple[Entry, ...]) -> Xml.Element:
    """List the names from code 0 to the highest; GDAL counts them, so gaps are empty."""
    known = {entry.code: entry.name for entry in legend}
    element = Xml.Element("CategoryNames")
    for code in range(max(known) + 1):
        Xml.SubElement(element, "Category").text = known.get(code, "")
    return element


def _colour_table(legend: tuple[Entry, ...], nodata: float | None) -> Xml.Element:
    """List the colours from code 0 to the highest, nodata transparent."""
    known = {entry.code: entry.colour for entry in legend}
    element = Xml.Element("ColorTable")
    for code in range(max(known) + 1):
        red, green, blue = known.get(code, (0, 0, 0))
        alpha = 0 if code == nodata else 255
        Xml.SubElement(element, "Entry", c1=str(red), c2=str(green), c3=str(blue), c4=str(alpha))
    return element


def _document(root: Xml.Element) -> str:
    Xml.indent(root)
    return Xml.tostring(root, encoding="unicode") + "\n"


def _hex(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
