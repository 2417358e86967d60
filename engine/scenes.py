"""A Landsat scene as the engine knows it, whatever catalog it came from, and the frozen list of a run."""

from __future__ import annotations

import datetime as dt
import json
import math
import posixpath
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urljoin

import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from shapely.errors import ShapelyError
from shapely.geometry import MultiPolygon, box, shape
from shapely.geometry.base import BaseGeometry
from shapely.ops import transform as transform_geometry

from engine.area import wrap
from engine.errors import CatalogError, SceneError, TrustError, printable
from engine.files import replacing
from engine.grid import EDGE_M, PIXEL_M, to_zone
from engine.landsat import BANDS, QA_PIXEL, QA_RADSAT, SENSORS, Sensor
from engine.trust import safe_name, unsigned

ASSETS: Final = (*BANDS, QA_PIXEL, QA_RADSAT)
"""What every scene must have."""

Grid = tuple[int, tuple[int, int], tuple[float, float, float, float, float, float]]
"""EPSG code, (rows, columns), affine coefficients a-f."""

_PRODUCT: Final = re.compile(
    r"L[COTEM](?P<platform>0\d)_(?P<level>L\w{3})_(?P<path>\d{3})(?P<row>\d{3})_(?P<day>\d{8})"
    r"(?:_(?P<processed>\d{8}))?_(?P<collection>\d{2})_(?P<tier>T1|T2|RT)(?:_(?:SR|ST))?"
)
"""USGS product identifier (LSDS-1619, 3.2), with or without the processing date."""

_MAX_SIDE_PX: Final = 20_000
"""Landsat scenes are below 9 500 px a side; a declared giant is refused before anything is allocated."""

_FAR_M: Final = 111_000.0
"""A footprint may differ from its raster's bounds by a degree of latitude; a wrong zone is 200 km off at 72 N."""

_FALSE_NORTHING_M: Final = 10_000_000.0
"""327zz is 326zz with this added to northings."""


_MAX_ID: Final = 128
_MAX_NOTICE: Final = 120


@dataclass(frozen=True)
class Scene:
    """One STAC item, checked: everything below is present and of a known form.

    Raises
    ------
    SceneError
        If a field is missing or out of range.
    """

    id: str
    """Like ``LC09_L2SP_010065_20220129_02_T1``; a safe path component."""

    platform: str
    """A key of ``engine.landsat.SENSORS``."""

    datetime: dt.datetime
    """Acquisition, UTC."""

    wrs_path: int
    wrs_row: int

    tier: str
    """'T1' or 'T2'."""

    epsg: int
    """Northern UTM code, 32601-32660."""

    shape: tuple[int, int]
    """Rows and columns of the reflectance bands."""

    transform: tuple[float, float, float, float, float, float]
    """Affine coefficients a, b, c, d, e, f: pixel (col, row) corner to easting, northing in metres."""

    geometry: BaseGeometry
    """Footprint in degrees."""

    assets: Mapping[str, str] = field(hash=False)
    """Asset name -> unsigned href, for the six bands, ``qa_pixel`` and ``qa_radsat``."""

    cloud_cover: float | None = None
    """Per cent, None where the catalog does not say."""

    sun_elevation: float | None = None
    """Degrees above the horizon."""

    processed: str = ""
    """Processing date or version, sortable; the latest of a reprocessed scene wins."""

    notice: str = ""
    """Line that all that is made of the scene must say: that it is simulated."""

    def __post_init__(self) -> None:
        try:
            safe_name(self.id, what="scene id")
        except TrustError as error:
            raise SceneError(error.problem, fix=error.fix) from None
        missing = [name for name in ASSETS if not self.assets.get(name)]
        checks = {
            f"platform {str(self.platform)[:40]!r} is not Landsat 4, 5, 7, 8 or 9": self.platform in SENSORS,
            "time has no zone": self.datetime.tzinfo is not None,
            f"year {self.datetime.year} is before Landsat 4": self.datetime.year >= 1982,
            f"WRS-2 path {self.wrs_path} row {self.wrs_row}": 1 <= self.wrs_path <= 233 and 1 <= self.wrs_row <= 248,
            f"tier {str(self.tier)[:20]!r} is neither T1 nor T2": self.tier in ("T1", "T2"),
            f"EPSG:{self.epsg} is not a northern UTM code (326zz)": 32601 <= self.epsg <= 32660,
            f"declared size {self.shape}": all(1 <= side <= _MAX_SIDE_PX for side in self.shape),
            f"transform {self.transform}": all(map(math.isfinite, self.transform)),
            f"no href for asset {', '.join(missing)}": not missing,
        }
        for problem, passed in checks.items():
            if not passed:
                raise SceneError(problem, scene=self.id)

    @property
    def sensor(self) -> Sensor:
        return SENSORS[self.platform]

    @property
    def observation(self) -> str:
        """Key of the look: all scenes of one platform, path and day are one look and are fused.

        The day is the path's solar day: near 150 degrees east a pass at 10 in the morning crosses UTC's midnight.
        """
        return f"{self.platform}_{self.wrs_path:03d}_{self.datetime + _solar_offset(self.wrs_path):%Y%m%d}"


def _solar_offset(wrs_path: int) -> dt.timedelta:
    """Return local mean solar time less UTC where a WRS-2 path crosses the equator.

    Path 1 crosses it at 64.6 degrees west, each further one of the 233 lies 360 / 233 degrees west of the last
    (Landsat 7 Science Data Users Handbook, 5.4).

    Examples
    --------
    >>> round(_solar_offset(94).total_seconds() / 3600, 1)  # Papua New Guinea, 151.7 degrees east
    10.1
    """
    degrees = (-64.6 - (wrs_path - 1) * 360 / 233 + 180) % 360 - 180
    return dt.timedelta(hours=degrees / 15)


def observations(scenes: Iterable[Scene]) -> dict[str, list[Scene]]:
    """Group scenes into looks, in order of time and id."""
    looks: dict[str, list[Scene]] = {}
    for scene in sorted(scenes, key=_by_time):
        looks.setdefault(scene.observation, []).append(scene)
    return looks


def keep_clearest(scenes: Iterable[Scene], clear: Mapping[str, float], n: int) -> list[Scene]:
    """Keep the scenes of the ``n`` looks that see most of a region clearly; call it once a year and region.

    Parameters
    ----------
    scenes : iterable of Scene
    clear : mapping of str to float
        Observation -> how much of the region it saw clear, share or pixels; one not listed is not kept. Ties go to the
        earlier.
    n : int
        Looks to keep, at least 1.

    Returns
    -------
    list of Scene
        In order of time and id.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1 look, got {n}")
    looks = {look: members for look, members in observations(scenes).items() if clear.get(look)}
    kept = sorted(looks, key=lambda look: -clear[look])[:n]
    return sorted((scene for look in kept for scene in looks[look]), key=_by_time)


LEAST_OF_SEASON: Final = 4
"""Looks of a path in a quarter of the year that are always kept."""


def balance_seasons(scenes: Iterable[Scene]) -> list[Scene]:
    """Keep of each path no more looks of one quarter of the year than of its poorest; call it once a tile-year.

    Quarters are those of the calendar. ``LEAST_OF_SEASON`` looks stay wherever there are so many: a quarter without any
    would otherwise cost the others all of theirs. The least cloudy stay, by the mean cloud cover of a look's scenes;
    ties go to the earlier, and one that does not tell its cloud counts as the cloudiest.

    Parameters
    ----------
    scenes : iterable of Scene

    Returns
    -------
    list of Scene
        In order of time and id.
    """
    looks = observations(scenes)
    quarters: dict[int, list[list[str]]] = {}
    for look, members in looks.items():
        of_path = quarters.setdefault(members[0].wrs_path, [[] for _ in range(4)])
        of_path[(members[0].datetime.month - 1) // 3].append(look)
    kept: list[str] = []
    for of_path in quarters.values():
        most = max(LEAST_OF_SEASON, min(map(len, of_path)))
        kept += (
            look
            for of_quarter in of_path
            for look in sorted(of_quarter, key=lambda look: mean_cloud(looks[look]))[:most]
        )
    return sorted((scene for look in kept for scene in looks[look]), key=_by_time)


def mean_cloud(look: Sequence[Scene]) -> float:
    """Return the mean cloud cover of a look's scenes, per cent; of one that does not tell, all."""
    return sum(100.0 if scene.cloud_cover is None else scene.cloud_cover for scene in look) / len(look)


def _by_time(scene: Scene) -> tuple[dt.datetime, str]:
    return scene.datetime, scene.id


def scene_from_item(
    item: Mapping[str, Any], *, base: str = "", grid_from_header: Callable[[str], Grid] | None = None
) -> Scene:
    """Turn a STAC item of any Collection 2 Level 2 catalog into a scene.

    Takes the raw dict: pystac would rewrite ``proj:epsg``. Knows the Planetary Computer (both collections),
    USGS landsatlook and stactools.

    Parameters
    ----------
    item : mapping
        A STAC item; dates may be datetimes, as in GeoParquet.
    base : str
        Folder or URL of the item, to which relative hrefs are resolved.
    grid_from_header : callable, optional
        Gives the grid from the raster at an href, for items that do not say theirs. Any pixel size then
        passes; the 30 m job never uses it.

    Raises
    ------
    SceneError
        Naming the item and why it cannot be used.
    """
    name = str(item.get("id") or "(no id)")
    if len(name) > _MAX_ID:
        raise SceneError(f"id is longer than {_MAX_ID} characters", fix="repair the catalog", scene=name[:_MAX_ID])
    try:
        return _scene(item, name, base, grid_from_header)
    except SceneError as error:
        raise SceneError(error.problem, fix=error.fix, scene=name) from error.__cause__
    except (AttributeError, LookupError, TypeError, ValueError, ArithmeticError, RecursionError, ShapelyError) as error:
        raise SceneError(f"item is malformed ({type(error).__name__})", scene=name) from error


def _scene(item: Mapping[str, Any], name: str, base: str, grid_from_header: Callable[[str], Grid] | None) -> Scene:
    properties = item.get("properties") or {}
    product = _PRODUCT.fullmatch(name)
    told = product.groupdict() if product else {}
    level = [str(properties.get("landsat:correction") or "L2"), told.get("level", "L2")]
    collection = [str(properties.get("landsat:collection_number") or "02"), told.get("collection", "02")]
    if not all(name.startswith("L2") for name in level) or collection != ["02", "02"]:
        raise SceneError(
            f"collection {min(collection)[:8]} level {min(level)[:8]} is not surface reflectance",
            fix="search Collection 2 Level 2",
        )
    platform = str(properties.get("platform") or properties.get("eo:platform") or "").lower().replace("_", "-")
    if platform not in SENSORS:
        raise SceneError(f"platform {platform[:40]!r} is not Landsat 4, 5, 7, 8 or 9")
    when = _time(properties.get("datetime") or properties.get("start_datetime"))
    path = int(properties.get("landsat:wrs_path") or told.get("path") or 0)
    row = int(properties.get("landsat:wrs_row") or told.get("row") or 0)
    tier = str(properties.get("landsat:collection_category") or told.get("tier") or "")
    if told:
        by_name = (f"landsat-{int(told['platform'])}", int(told["path"]), int(told["row"]), told["day"], told["tier"])
        by_item = (platform, path, row, f"{when:%Y%m%d}", tier)
        if by_name != by_item:
            raise SceneError(f"properties {by_item} contradict the name")
    declared = _assets(item, SENSORS[platform])
    assets = {key: _href(asset, base) for key, asset in declared.items()}
    missing = [key for key in ASSETS if not assets.get(key)]
    if missing:
        raise SceneError(f"no href for asset {', '.join(missing)}")
    grid = _declared_grid(properties, list(declared.values()))
    if grid is None:
        if grid_from_header is None:
            raise SceneError(
                "item says no projection, shape or transform", fix="use a catalog with the projection extension"
            )
        grid = grid_from_header(assets["red"])
    epsg, size, affine = _northern(grid, any_pixel=grid_from_header is not None)
    return Scene(
        id=name,
        platform=platform,
        datetime=when,
        wrs_path=path,
        wrs_row=row,
        tier=tier,
        epsg=epsg,
        shape=size,
        transform=affine,
        geometry=_footprint(item, epsg, size, affine),
        assets=assets,
        cloud_cover=_number(properties.get("eo:cloud_cover"), 0, 100),
        sun_elevation=_number(properties.get("view:sun_elevation", properties.get("eo:sun_elevation")), -90, 90),
        processed=_processed(told, assets["red"], properties),
        notice=_notice(properties.get("simulated")),
    )


def _time(value: Any) -> dt.datetime:
    if value is None:
        raise SceneError("datetime is null")
    when = value if isinstance(value, dt.datetime) else dt.datetime.fromisoformat(str(value))
    # USGS items of 2020 carry the bare day: midnight UTC.
    when = when.replace(tzinfo=dt.UTC) if when.tzinfo is None else when.astimezone(dt.UTC)
    return dt.datetime.fromisoformat(when.isoformat())  # a plain datetime, also from pandas


def _assets(item: Mapping[str, Any], sensor: Sensor) -> dict[str, Mapping[str, Any]]:
    """Return our asset names -> asset objects, by common name or product key (``SR_B4``, ``SR_B4.TIF``)."""
    given = {key.lower().removesuffix(".tif"): asset for key, asset in (item.get("assets") or {}).items() if asset}
    found = {}
    for name in ASSETS:
        key = f"sr_b{sensor.band_numbers[name]}" if name in sensor.band_numbers else name
        asset = given.get(name) or given.get(key)
        if asset:
            found[name] = asset
    return found


def _href(asset: Mapping[str, Any], base: str) -> str:
    href = asset.get("href")
    if not isinstance(href, str) or not href:
        return ""
    href = unsigned(href)
    if "://" in href or posixpath.isabs(href) or not base:
        return href
    return urljoin(base, href) if "://" in base else posixpath.normpath(posixpath.join(base, href))


def _declared_grid(properties: Mapping[str, Any], assets: list[Mapping[str, Any]]) -> Grid | None:
    """Return the one grid that the item says all its bands have; None where it says none."""
    grids = set()
    for asset in assets:
        epsg, size, affine = (
            next((holder[key] for holder in (asset, properties) for key in keys if holder.get(key)), None)
            for keys in (("proj:epsg", "proj:code"), ("proj:shape",), ("proj:transform",))
        )
        if epsg is None or size is None or affine is None:
            return None
        code = str(epsg).upper().removeprefix("EPSG:")
        if not code.isdigit():
            raise SceneError(f"projection {str(epsg)[:40]!r} is not an EPSG code")
        rows, cols = (int(side) for side in size)
        a, b, c, d, e, f = (float(number) for number in list(affine)[:6])
        grids.add((int(code), (rows, cols), (a, b, c, d, e, f)))
    if len(grids) > 1:
        raise SceneError("bands have different grids")
    return grids.pop()


def _northern(grid: Grid, *, any_pixel: bool) -> Grid:
    """Check a declared grid and bring it to the zone's northern code."""
    epsg, size, (a, b, c, d, e, f) = grid
    if 32701 <= epsg <= 32760:
        # Landsat itself never uses 327zz. Its own grid under that code sits at 25 m modulo 30 m; anything
        # else would have to be resampled by 10 m.
        if (f - _FALSE_NORTHING_M - EDGE_M) % PIXEL_M:
            raise SceneError(
                f"southern code EPSG:{epsg} off the Landsat grid", fix="use the original product (EPSG:326zz)"
            )
        epsg, f = epsg - 100, f - _FALSE_NORTHING_M
    if not 32601 <= epsg <= 32660:
        raise SceneError(f"EPSG:{epsg} is not UTM", fix="polar and other grids hold no mangrove")
    if not any_pixel and (a, b, d, e) != (PIXEL_M, 0, 0, -PIXEL_M):
        raise SceneError(f"pixels are {a:g} x {-e:g} m, not {PIXEL_M} m north up")
    if not all(map(math.isfinite, (a, c, e, f))) or not all(1 <= side <= _MAX_SIDE_PX for side in size):
        raise SceneError(f"declared size {size} px at {c:g}, {f:g} is refused")
    return epsg, size, (a, b, c, d, e, f)


def _footprint(item: Mapping[str, Any], epsg: int, size: tuple[int, int], affine: Sequence[float]) -> MultiPolygon:
    """Return the footprint in degrees after holding it against the raster's own bounds."""
    a, _, c, _, e, f = affine
    raster = box(c, f + e * size[0], c + a * size[1], f)
    project = to_zone(epsg - 32600).transform
    geometry, bbox = item.get("geometry"), item.get("bbox")
    if geometry:
        outline = geometry if isinstance(geometry, BaseGeometry) else shape(geometry)
    elif bbox:
        # With heights it has six numbers; its west may lie east of its east, across the antimeridian.
        west, south, east, north = (bbox[i] for i in ((0, 1, 2, 3) if len(bbox) == 4 else (0, 1, 3, 4)))
        outline = box(west, south, east + 360 if west > east else east, north)
    else:
        lonlat = transform_geometry(lambda x, y: project(x, y, direction="INVERSE"), raster.segmentize(30_000))
        return wrap(lonlat)
    outline = wrap(outline)
    if outline.is_empty:
        raise SceneError("geometry is not a polygon in degrees")
    there = transform_geometry(project, outline).bounds
    off = max(abs(ours - theirs) for ours, theirs in zip(there, raster.bounds, strict=True))
    if not off <= _FAR_M:  # also NaN
        raise SceneError(
            f"projection EPSG:{epsg} puts the raster {min(off, 2e7) / 1000:.0f} km from the footprint",
            fix="repair proj:epsg or proj:transform in the catalog",
        )
    return outline


def _number(value: Any, lowest: float, highest: float) -> float | None:
    """Return a float within a range; ocean scenes say -1 for a cloud cover nobody measured."""
    number = math.nan if value is None else float(value)
    return number if lowest <= number <= highest else None


def _processed(told: Mapping[str, Any], href: str, properties: Mapping[str, Any]) -> str:
    """Return the processing date as YYYYMMDD: from the name, the file's name, or the item's own date."""
    inside = re.search(r"_\d{6}_\d{8}_(\d{8})_\d{2}_(?:T1|T2|RT)", href)
    date = properties.get("updated") or properties.get("created") or ""
    return told.get("processed") or (inside and inside[1]) or re.sub(r"\D", "", str(date))[:8]


def _notice(simulated: Any) -> str:
    """Return what is to be said of an item whose property ``simulated`` says anything, as in archives of our own."""
    told = printable(str(simulated))[:_MAX_NOTICE] if simulated else ""
    return told if not told or told.upper().startswith("SIMULATED") else f"SIMULATED {told}"


_SCHEMA: Final = pa.schema(
    [
        ("id", pa.string()),
        ("platform", pa.string()),
        ("datetime", pa.timestamp("us", "UTC")),
        ("wrs_path", pa.int16()),
        ("wrs_row", pa.int16()),
        ("tier", pa.string()),
        ("epsg", pa.int32()),
        ("shape", pa.list_(pa.int32(), 2)),
        ("transform", pa.list_(pa.float64(), 6)),
        ("cloud_cover", pa.float64()),
        ("sun_elevation", pa.float64()),
        ("processed", pa.string()),
        *((name, pa.string()) for name in ASSETS),
        ("geometry", pa.binary()),
        ("notice", pa.string()),
    ],
    metadata={
        "mangroves:scenes": "1",
        # GeoParquet 1.1; without a crs it is longitude, latitude on WGS84.
        "geo": json.dumps(
            {
                "version": "1.1.0",
                "primary_column": "geometry",
                "columns": {"geometry": {"encoding": "WKB", "geometry_types": []}},
            }
        ),
    },
)


def write_scenes(scenes: Iterable[Scene], path: Path | str) -> None:
    """Write the frozen list of a run: GeoParquet with unsigned hrefs, in order of time and id.

    The same scenes give the same bytes. ``read_scenes`` gives them back exactly.
    """
    rows = []
    for scene in sorted(scenes, key=_by_time):
        row = {name: getattr(scene, name) for name in _SCHEMA.names if name not in (*ASSETS, "geometry")}
        row |= {name: unsigned(scene.assets[name]) for name in ASSETS}
        rows.append(row | {"geometry": shapely.to_wkb(scene.geometry)})
    with replacing(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), temporary, compression="zstd")


def read_scenes(path: Path | str) -> list[Scene]:
    """Read a frozen list; hrefs are checked when they are opened.

    Raises
    ------
    CatalogError
        If the file is missing or not a frozen list.
    SceneError
        If a row is not a valid scene.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise CatalogError(f"scene list {path} cannot be read ({type(error).__name__})", fix="search again") from error
    if not is_scene_list(table.schema):
        raise CatalogError(f"{path} is not a scene list of this version", fix="search again")
    return scenes_from_table(table)


def is_scene_list(schema: pa.Schema) -> bool:
    """Tell whether a Parquet schema is that of ``write_scenes``."""
    known = (_SCHEMA, _SCHEMA.remove(_SCHEMA.get_field_index("notice")))  # lists of before had no notice
    return any(schema.equals(one) for one in known) and b"mangroves:scenes" in (schema.metadata or {})


def scenes_from_table(table: pa.Table) -> list[Scene]:
    """Turn the rows of a frozen list into scenes."""
    scenes = []
    for row in table.to_pylist():
        try:
            row["assets"] = {name: unsigned(row.pop(name)) for name in ASSETS}
            row["geometry"] = shapely.from_wkb(row["geometry"])
            row["shape"], row["transform"] = tuple(row["shape"]), tuple(row["transform"])
            scenes.append(Scene(**row))
        except (AttributeError, TypeError, ShapelyError) as error:
            raise SceneError(f"row is malformed ({type(error).__name__})", scene=str(row.get("id"))[:128]) from error
    return scenes
