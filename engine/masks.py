"""Reference masks, raster or vector, as labels of our pixels; and which mask may label which year.

A mask knows nothing outside its extent, and nothing where a raster holds its nodata. One exception: a 1/0
raster (``value: [1]``) that declares its 0 as nodata, as the Global Mangrove Watch tiles do to be
transparent on a map, means "no mangrove" by it; ``unknown: [0]`` overrules that.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import geopandas as gpd
import numpy as np
import pyarrow.parquet
import pyogrio
import shapely
from odc.geo.geobox import GeoBox
from pyproj import CRS, Transformer
from rasterio.features import rasterize
from shapely.geometry import box
from shapely.ops import transform as transform_geometry

from engine.align import Bounds, bounds_in, overlap
from engine.area import Area
from engine.copies import reach
from engine.errors import MaskError
from engine.gdal import open_raster, values_at
from engine.kernels.labels import erode_edges, first_known, mask_codes, stable_labels
from engine.legend import LABEL_UNKNOWN, MANGROVE, OTHER
from engine.lookup import MASK_SIDECAR
from engine.params import LabelParams, MaskParams
from engine.ranges import Access
from engine.trust import Trust, is_plain_vector

_RASTERS: Final = (".tif", ".tiff")
_VECTORS: Final = (".parquet", ".geoparquet", ".gpkg", ".shp", ".geojson", ".json")


@dataclass(frozen=True)
class MaskFile:
    """One file of a mask; checked, not held open, so that it travels to workers."""

    path: str
    """Of this machine; or of a store, see ``engine.copies``."""

    crs: str
    """WKT."""

    bounds: Bounds
    """In ``crs``."""

    @property
    def is_raster(self) -> bool:
        return self.path.lower().endswith(_RASTERS)


@dataclass(frozen=True)
class OpenMask:
    """A mask of one year, ready to label tiles."""

    params: MaskParams
    files: tuple[MaskFile, ...]
    name: str
    version: str
    licence: str
    citation: str
    definition: str
    trust: Trust

    @property
    def year(self) -> int:
        return self.params.year


class TileLabels(NamedTuple):
    """Labels of a tile-year."""

    labels: np.ndarray
    """uint8 (y, x): 0 unknown, 1 other, 2 mangrove."""

    interior: np.ndarray
    """bool (y, x): away from class edges, for training."""

    mask_year: int
    repaired: int
    """Invalid polygons repaired; one that reaches into several tiles counts in each."""


def open_masks(params: LabelParams, *, trust: Trust, area: Area | None = None) -> list[OpenMask]:
    """Check every mask of a run once, before any work.

    A mask's path is a GeoTIFF, a GeoParquet, GeoPackage, shapefile or GeoJSON of polygons, or a folder of
    them, which is then one mask: a polygon of any of its files is mangrove. Licence, citation and definition
    come from the parameters or else from the folder's ``mask.json``.

    Parameters
    ----------
    params : LabelParams
    trust : Trust
    area : Area, optional
        Each mask must overlap it.

    Raises
    ------
    MaskError
        If a mask cannot be read, has no or an impossible coordinate system, or never overlaps the area.
    TrustError
        If a path is not allowed.
    """
    masks = []
    for mask in params.masks:
        root = trust.path(mask.path, what="mask")
        paths = _files_of(root) if root.is_dir() else [root]
        opened = [_open_file(trust.path(str(path), what="mask"), mask, trust) for path in paths]
        if area is not None:
            near = tuple(file for file in opened if _covers(file, area))
            if not near:
                raise MaskError(
                    f"mask {mask.path} of {mask.year} never overlaps the area", fix="check labels.masks and the area"
                )
            opened = list(near)
        about = _read_sidecar((root if root.is_dir() else root.parent) / MASK_SIDECAR)
        keys = ("name", "version", "licence", "citation", "definition")
        texts = {key: getattr(mask, key) or about.get(key, "") for key in keys}
        texts["name"] = texts["name"] or root.stem
        masks.append(OpenMask(params=mask, files=tuple(opened), trust=trust, **texts))
    return masks


def _files_of(folder: Path) -> list[Path]:
    suffixes = (*_RASTERS, *_VECTORS)
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in suffixes and p.name != MASK_SIDECAR)
    if not paths:
        raise MaskError(f"mask folder {folder} holds no raster or vector file", fix="run `mangroves masks get`")
    return paths


def _read_sidecar(path: Path) -> dict[str, str]:
    """Return the texts of a ``mask.json``; none where it is absent or foreign, as it only informs."""
    if not path.is_file() or path.stat().st_size > 2**20:
        return {}
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return (
        {key: value[:2000] for key, value in about.items() if isinstance(value, str)} if isinstance(about, dict) else {}
    )


def _open_file(path: Path, params: MaskParams, trust: Trust) -> MaskFile:
    if not path.is_file():
        raise MaskError(f"mask {path} does not exist", fix="check labels.masks or run `mangroves masks get`")
    if path.suffix.lower() in _RASTERS:
        with open_raster(str(path), Access(trust), fault=MaskError, mask=params.year) as dataset:
            crs, bounds = dataset.crs and dataset.crs.to_wkt(), tuple(dataset.bounds)
    else:
        crs, bounds = _vector_header(path, params)
    if not crs:
        raise MaskError(
            f"mask {path.name} has no coordinate system", fix="assign one (gdal_edit -a_srs, ogr2ogr -a_srs)"
        )
    _check_bounds(path.name, CRS(crs), bounds)
    return MaskFile(str(path), CRS(crs).to_wkt(), bounds)


def _vector_header(path: Path, params: MaskParams) -> tuple[Any, Bounds]:
    """Return CRS and bounds of a vector file, and check that it is what its name says and has what is asked."""
    suffix = path.suffix.lower()
    if suffix not in _VECTORS or not is_plain_vector(path):
        raise MaskError(
            f"mask {path.name} is not a file of its kind",
            fix="give a GeoTIFF, GeoParquet, GeoPackage, shapefile or GeoJSON",
        )
    try:
        if suffix.endswith("parquet"):
            schema = pyarrow.parquet.read_schema(path)
            about = json.loads((schema.metadata or {})[b"geo"])
            geometry = about["columns"][about["primary_column"]]
            crs, columns, kinds = geometry.get("crs", "OGC:CRS84"), schema.names, geometry["geometry_types"]
            bounds = geometry.get("bbox") or gpd.read_parquet(path, columns=[about["primary_column"]]).total_bounds
            bounds = bounds if len(bounds) == 4 else (*bounds[0:2], *bounds[3:5])
        else:
            info = pyogrio.read_info(path, force_total_bounds=True)
            crs, bounds, columns, kinds = (
                info["crs"],
                info["total_bounds"],
                list(info["fields"]),
                [info["geometry_type"]],
            )
    except Exception as error:  # pyogrio, pyarrow and json each have their own
        raise MaskError(
            f"mask {path.name} cannot be read ({type(error).__name__})", fix="convert it (ogr2ogr)"
        ) from error
    if any(str(kind).startswith(("Point", "MultiPoint", "LineString", "MultiLineString")) for kind in kinds):
        raise MaskError(f"mask {path.name} holds {', '.join(map(str, kinds))}", fix="give polygons")
    if params.field is not None and (params.field not in columns or not params.field_values):
        raise MaskError(
            f"mask {path.name}: field {params.field!r} with values {list(params.field_values)} cannot be used",
            fix="name field_values and a column among " + ", ".join(map(str, columns)),
        )
    return (CRS.from_user_input(crs).to_wkt() if crs else None), tuple(float(value) for value in bounds)  # type: ignore[return-value]


def _check_bounds(name: str, crs: CRS, bounds: Bounds) -> None:
    """Refuse bounds that cannot be in their coordinate system: the usual sign of a wrong one."""
    left, bottom, right, top = bounds
    fine = bool(np.isfinite(bounds).all())
    if fine and crs.is_geographic:
        fine = left >= -180.5 and right <= 180.5 and bottom >= -90.5 and top <= 90.5
    elif fine:
        corners = Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform([left, right], [bottom, top])
        in_metres = crs.axis_info[0].unit_name == "metre"
        like_degrees = max(abs(left), abs(right)) <= 360 and max(abs(bottom), abs(top)) <= 90
        fine = bool(np.isfinite(corners).all()) and not (in_metres and like_degrees)
    if not fine:
        shown = ", ".join(f"{value:.6g}" for value in bounds)
        raise MaskError(
            f"mask {name} has impossible bounds {shown} for {crs.name}",
            fix="assign its real coordinate system, longitudes -180 to 180",
        )


def _covers(file: MaskFile, area: Area) -> bool:
    """Tell whether a file's bounds touch any part of the area."""
    project = Transformer.from_crs("EPSG:4326", file.crs, always_xy=True)
    for part in shapely.get_parts(area.geometry):
        x, y = project.transform(*shapely.get_coordinates(part.segmentize(0.1)).T)
        finite = np.isfinite(x) & np.isfinite(y)
        if finite.any() and overlap(file.bounds, (x[finite].min(), y[finite].min(), x[finite].max(), y[finite].max())):
            return True
    return False


def labelled_years(params: LabelParams, years: Iterable[int]) -> dict[int, int]:
    """Return which of some imagery years a mask labels, and the year of that mask.

    A mask labels its own year +- ``max_gap_years``; the nearest wins, of two the earlier. Within
    ``stable_between`` both of its masks label every year together, and the nearer gives the mask year. With
    ``allow_stale`` the nearest mask labels any year.

    Raises
    ------
    MaskError
        If no year is labelled, or a year of ``stable_between`` has no mask.

    Examples
    --------
    >>> masks = ({"path": "a.tif", "year": 2010}, {"path": "b.tif", "year": 2020})
    >>> labelled_years(LabelParams(masks=masks), range(2008, 2014))
    {2009: 2010, 2010: 2010, 2011: 2010}
    """
    years = list(years)
    labelled = {year: choices[0] for year in years if (choices := _mask_years(params, year))}
    if not labelled:
        raise _stale(params, years)
    return labelled


def stale_years(params: LabelParams, labelled: Mapping[int, int]) -> dict[int, int]:
    """Return the labelled years that only ``allow_stale`` lets a mask label, each with that mask's year.

    Examples
    --------
    >>> params = LabelParams(masks=({"path": "a.tif", "year": 2010},), allow_stale=True)
    >>> stale_years(params, labelled_years(params, [2010, 2015]))
    {2015: 2010}
    """
    strict = params.model_copy(update={"allow_stale": False})
    return {year: mask_year for year, mask_year in labelled.items() if not _mask_years(strict, year)}


def _mask_years(params: LabelParams, year: int) -> list[int]:
    """Return the mask years that may label a year, the best first."""
    known = sorted({mask.year for mask in params.masks})
    if params.stable_between is not None:
        pair = sorted(params.stable_between)
        missing = [y for y in pair if y not in known]
        if missing:
            raise MaskError(
                f"labels.stable_between names {missing[0]}, a year without a mask (there are {known})",
                fix="name the years of two masks",
            )
        if pair[0] <= year <= pair[1]:
            return sorted(pair, key=lambda y: abs(y - year))
    near = sorted(known, key=lambda y: abs(y - year))
    return [y for y in near if params.allow_stale or abs(y - year) <= params.max_gap_years]


def _stale(params: LabelParams, years: Sequence[int]) -> MaskError:
    known = sorted({mask.year for mask in params.masks})
    if not known:
        return MaskError("labels.masks is empty", fix="name at least one mask, or train from a model")
    imagery = f"{years[0]}" if len(years) == 1 else f"{min(years, default=0)}-{max(years, default=0)}"
    return MaskError(
        f"mask of {', '.join(map(str, known))} is more than {params.max_gap_years} year(s) from imagery of {imagery}",
        fix="add a mask of that time, or set labels.allow_stale: true",
    )


def label_tile(masks: Sequence[OpenMask], geobox: GeoBox, year: int, params: LabelParams) -> TileLabels:
    """Label the pixels of a GeoBox for one imagery year.

    A pixel has the class of what contains its centre. Of several masks of one year the first that knows a
    pixel decides. Where the nearest mask year knows nothing of this GeoBox the next allowed one is asked.

    Parameters
    ----------
    masks : sequence of OpenMask
    geobox : GeoBox
    year : int
        Of the imagery.
    params : LabelParams

    Raises
    ------
    MaskError
        If no mask may label the year, or one cannot be read.
    """
    choices = _mask_years(params, year)
    if not choices:
        raise _stale(params, [year])
    halo = params.erode_px
    padded = geobox.pad(halo) if halo else geobox
    mask_year, repaired = choices[0], 0
    pair = params.stable_between
    if pair is not None and min(pair) <= year <= max(pair):
        layers, counts = zip(*(_label_year(masks, padded, y) for y in pair), strict=True)
        labels, repaired = stable_labels(*layers), sum(counts)
    else:
        for choice in choices:
            labels, repaired = _label_year(masks, padded, choice)
            if labels.any():
                mask_year = choice
                break
    interior = erode_edges(labels, halo)
    core = (slice(halo, labels.shape[0] - halo), slice(halo, labels.shape[1] - halo))
    return TileLabels(labels[core], interior[core], mask_year, repaired)


def _label_year(masks: Sequence[OpenMask], geobox: GeoBox, year: int) -> tuple[np.ndarray, int]:
    """Combine the masks of one year; also how many polygons were repaired."""
    labels, repaired = np.zeros((geobox.shape.y, geobox.shape.x), "uint8"), 0
    for mask in masks:
        if mask.year != year:
            continue
        rasters, vectors = np.zeros_like(labels), np.zeros_like(labels)
        for file in mask.files:
            if not any(overlap(file.bounds, part) for part in bounds_in(geobox, file.crs)):
                continue
            if file.is_raster:
                rasters = first_known([rasters, _label_raster(file, mask, geobox)])
            else:
                here = replace(file, path=reach(file.path, mask.trust)[0])
                codes, count = _label_vector(here, mask.params, geobox)
                # What one file leaves as background may be another's polygon; the codes grow with what is known.
                vectors = np.maximum(vectors, codes)
                repaired += count
        labels = first_known([labels, np.maximum(rasters, vectors)])
    return labels, repaired


def _background(params: MaskParams) -> int:
    return OTHER if params.background == "other" else LABEL_UNKNOWN


def _label_raster(file: MaskFile, mask: OpenMask, geobox: GeoBox) -> np.ndarray:
    params = mask.params
    path, trust = reach(file.path, mask.trust)
    with open_raster(path, Access(trust), fault=MaskError, mask=mask.year) as dataset:
        values, inside = values_at(dataset, geobox)
        nodata = dataset.nodata
    unknown = list(params.unknown)
    if nodata is not None and not (nodata == 0 and params.value == (1,)):
        unknown.append(nodata)
    return mask_codes(values, inside, params.value, unknown=unknown, background=_background(params))


def _label_vector(file: MaskFile, params: MaskParams, geobox: GeoBox) -> tuple[np.ndarray, int]:
    """Burn the polygons of a file that reach into a GeoBox; its extent is the bounds of all its polygons."""
    shape = (geobox.shape.y, geobox.shape.x)
    codes, repaired = np.zeros(shape, "uint8"), 0
    project = Transformer.from_crs(file.crs, str(geobox.crs), always_xy=True).transform
    # A chord of 0.01 degrees strays from its parallel by under a tenth of a pixel.
    step = 0.01 if CRS(file.crs).is_geographic else 1000.0
    for bounds in bounds_in(geobox, file.crs):
        clip = box(*bounds)
        extent = clip.intersection(box(*file.bounds))
        polygons, count = _read_polygons(file, params, bounds)
        repaired += count
        burn = [(extent, _background(params))] + [(part, MANGROVE) for part in shapely.intersection(polygons, clip)]
        shapes = [(transform_geometry(project, part.segmentize(step)), code) for part, code in burn if part.area > 0]
        if shapes:
            rasterize(shapes, out=codes, transform=geobox.transform)
    return codes, repaired


def _read_polygons(file: MaskFile, params: MaskParams, bounds: Bounds) -> tuple[np.ndarray, int]:
    """Read the mangrove polygons that touch some bounds, repaired; also how many had to be."""
    path, columns = Path(file.path), [params.field] if params.field else []
    try:
        if path.suffix.lower().endswith("parquet"):
            frame = _read_geoparquet(path, bounds)
        else:
            frame = pyogrio.read_dataframe(path, columns=columns, bbox=bounds, force_2d=True)
    except Exception as error:  # pyogrio and pyarrow each have their own
        raise MaskError(
            f"mask {path.name} cannot be read ({type(error).__name__})", fix="convert it (ogr2ogr)"
        ) from error
    frame = frame[frame.geometry.notna() & ~frame.geometry.is_empty]
    if params.field:
        frame = frame[frame[params.field].astype(str).isin(params.field_values)]
    shapes = shapely.force_2d(np.asarray(frame.geometry.values))
    shapes = shapes[shapely.intersects(shapely.envelope(shapes), box(*bounds))]
    invalid = ~shapely.is_valid(shapes)
    shapes[invalid] = shapely.make_valid(shapes[invalid])
    # A repaired polygon may come back as a collection with stray lines, and nested.
    parts = shapely.get_parts(shapely.get_parts(shapes))
    return parts[shapely.get_type_id(parts) == shapely.GeometryType.POLYGON], int(invalid.sum())


def _read_geoparquet(path: Path, bounds: Bounds) -> gpd.GeoDataFrame:
    try:
        return gpd.read_parquet(path, bbox=bounds)
    except ValueError:  # the file has no column of row bounds to filter by
        return gpd.read_parquet(path)
