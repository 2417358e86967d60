"""Write the simulated world as an ordinary archive: COG scenes, STAC items, masks, DEM and truth."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from os import cpu_count
from pathlib import Path
from typing import Any, Final

import geopandas as gpd
import numpy as np
import pandas as pd
import rasterio
from odc.geo.geobox import GeoBox
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning
from rasterio.features import shapes
from scipy import ndimage
from shapely.geometry import shape

from engine.errors import ConfigError
from engine.files import write_text
from engine.grid import TILE_PX, Tile, pixel_hectares
from engine.simulate.items import write_catalog, write_pass
from engine.simulate.scenes import (
    Surface,
    plan_passes,
    render,
)
from engine.simulate.spectra import CODES, NAMES, SOURCES, noisy_mask
from engine.simulate.terrain import PIXEL_HA, Event, State, Terrain, canopy_height, make_terrain, state_of
from engine.simulate.world import (
    CAVEAT,
    MARGIN_PX,
    Site,
    WorldParams,
    epsg_of,
    gaussian_field,
    site_of,
    stream,
    to_lonlat,
)

DEM_YEAR: Final = 2013
"""The surface model holds the canopy of this year, whatever year is mapped."""

_YEARS_PER_TASK: Final = 4


@dataclass(frozen=True)
class Archive:
    """A written archive: where its parts are."""

    folder: Path
    params: WorldParams

    @property
    def items(self) -> Path:
        """STAC ItemCollection; hrefs are relative to this file."""
        return self.folder / "items.json"

    @property
    def catalog(self) -> Path:
        """Root of the static STAC catalog of the same items."""
        return self.folder / "catalog.json"

    @property
    def regions(self) -> Path:
        """GeoJSON area file; column ``name`` is ``sim-Vietnam2`` and so on."""
        return self.folder / "regions.geojson"

    @property
    def masks(self) -> dict[int, Path]:
        """Reference masks by the year they show: GeoParquet polygons of (what is taken for) mangrove."""
        return {year: self.folder / f"mask_{year}.parquet" for year in self.params.reference_years}

    @property
    def dems(self) -> dict[str, Path]:
        """Surface model of each region, float32 metres."""
        return {f"sim-{name}": self.folder / "dem" / f"sim-{name}.tif" for name in self.params.regions}

    @property
    def areas(self) -> Path:
        """CSV of true hectares by region, year and class."""
        return self.folder / "truth" / "areas.csv"

    @property
    def events(self) -> Path:
        """GeoJSON of the true changes; ``events.csv`` beside it is its table."""
        return self.folder / "truth" / "events.geojson"

    def truth(self, region: str, year: int) -> Path:
        """Return the truth of a region (``sim-...``) on 1 July of a year.

        uint8, bands class code, mangrove (0, 1) and canopy (per cent), on the project grid; beside it
        ``..._change.tif``, uint16: id of the last event and the year it reached the pixel.
        """
        return self.folder / "truth" / f"{region}_{year}.tif"


def read_archive(out: Path) -> Archive:
    """Open an archive that ``write_archive`` finished.

    Raises
    ------
    ConfigError
        If the folder holds no finished archive, or its ``world.json`` is not one of ours.
    """
    marker = Path(out) / "world.json"
    if not marker.is_file():
        raise ConfigError(f"no finished simulated archive in {out}", fix="write one with `mangroves simulate`")
    try:
        params = WorldParams(**json.loads(marker.read_text(encoding="utf-8"))["params"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ConfigError(
            f"{marker} does not describe a simulated world ({type(error).__name__})",
            fix="remove it, or choose another folder",
        ) from error
    return Archive(Path(out), params)


def write_archive(
    params: WorldParams,
    out: Path,
    *,
    map_tasks: Callable[[Callable[[Any], Any], list[Any]], Iterable[Any]] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Archive:
    """Write a simulated archive, or return it where it already stands.

    Parameters
    ----------
    params : WorldParams
    out : Path
        A new folder, or one that holds the same archive.
    map_tasks : callable, optional
        ``map_tasks(function, arguments)`` runs the tasks and yields their results in any order; default threads.
        Functions and arguments can be pickled. The decoded arrays do not depend on it.
    progress : callable, optional
        Called with tasks done and tasks in all.

    Raises
    ------
    ConfigError
        If ``out`` holds another archive.
    """
    out = Path(out)
    archive = Archive(out, params)
    if (out / "world.json").is_file():
        if read_archive(out).params != params:
            raise ConfigError(f"{out} holds another simulated world", fix="choose another folder")
        return archive
    for folder in ("scenes", "dem", "truth"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    years = sorted(set(params.years))
    tasks: list[tuple[str, tuple[int, ...]]] = [(region, ()) for region in params.regions]
    for first in range(0, len(years), _YEARS_PER_TASK):
        tasks += [(region, tuple(years[first : first + _YEARS_PER_TASK])) for region in params.regions]
    results = []
    for result in (map_tasks or _in_threads)(partial(_write_task, params, out), tasks):
        results.append(result)
        if progress:
            progress(len(results), len(tasks))
    write_catalog(params, out, [item for result in results for item in result["items"]])
    _write_tables(archive, results)
    marker = {
        "notice": params.notice,
        "caveat": CAVEAT,
        "params": asdict(params),
        "classes": [
            {"code": int(code), "name": name, "source": source}
            for code, name, source in sorted(zip(CODES, NAMES, SOURCES, strict=True))
        ],
    }
    write_text(out / "world.json", json.dumps(marker, indent=1))
    return archive


def _in_threads(function: Callable[[Any], Any], arguments: list[Any]) -> Iterable[Any]:
    with ThreadPoolExecutor(cpu_count()) as pool:
        yield from pool.map(function, arguments)


def _write_task(params: WorldParams, out: Path, task: tuple[str, tuple[int, ...]]) -> dict[str, Any]:
    """Write the scenes and truth of a region in some years, or, of no year, what belongs to none."""
    # rasterio hides this warning of its polygoniser by a filter that threads take from each other.
    warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)
    region, years = task
    terrain = make_terrain(params.seed, region, params.size_px, params.setting, params.change_rate)
    site = terrain.site
    result: dict[str, Any] = {"region": region, "items": [], "areas": [], "masks": {}, "events": []}
    if not years:
        _write_dem(params, out, terrain)
        result["masks"] = {year: _mask_polygons(params, terrain, year) for year in params.reference_years}
        rows = (_event_row(params, site, event) for event in terrain.events if event.date.year <= max(params.years))
        result["events"] = [row for row in rows if row]
    for year in years:
        state = state_of(terrain, year)
        _write_truth(params, out, site, state, year)
        result["areas"] += _area_rows(params, site, state, year)
        surface = Surface(params, terrain, state)
        for look in plan_passes(params, site, year):
            result["items"] += write_pass(params, out, site, look, render(surface, look))
    return result


def _write_raster(path: Path, bands: np.ndarray, geobox: GeoBox, notice: str, names: tuple[str, ...]) -> None:
    """Write named bands (band, y, x) through GDAL's COG driver, marked SIMULATED."""
    with rasterio.open(
        path,
        "w",
        driver="COG",
        dtype=bands.dtype,
        count=len(bands),
        height=bands.shape[1],
        width=bands.shape[2],
        crs=CRS.from_epsg(epsg_of(geobox)),
        transform=geobox.transform,
        BLOCKSIZE=256,
        COMPRESS="DEFLATE",
        PREDICTOR="YES",
        OVERVIEW_RESAMPLING="NEAREST",
    ) as file:
        file.write(bands)
        file.update_tags(SIMULATED=notice)
        for number, name in enumerate(names, 1):
            file.set_band_description(number, name)


def _write_truth(params: WorldParams, out: Path, site: Site, state: State, year: int) -> None:
    inner = site.inner
    layers = np.stack([CODES[state.index[inner]], state.mangrove[inner], np.round(100 * state.canopy[inner])]).astype(
        "uint8"
    )
    path = out / "truth" / f"{site.name}_{year}.tif"
    _write_raster(path, layers, site.geobox, params.notice, ("class", "mangrove", "canopy_percent"))
    change = np.stack([state.event[inner], state.change_year[inner]])
    path = path.with_name(f"{path.stem}_change.tif")
    _write_raster(path, change, site.geobox, params.notice, ("event", "change_year"))


def _area_rows(params: WorldParams, site: Site, state: State, year: int) -> list[dict[str, Any]]:
    """Return true hectares on the ellipsoid by class, and of all mangrove."""
    window = (site.row, site.col, site.size_px, site.size_px)
    tile = Tile(site.zone, site.col // TILE_PX, site.row // TILE_PX, window)
    hectares = np.broadcast_to(pixel_hectares(tile), tile.shape)
    index = state.index[site.inner]
    parts = [(NAMES[i], int(CODES[i]), index == i) for i in np.unique(index)]
    parts.append(("all mangrove", 0, state.mangrove[site.inner]))
    return [
        {
            "region": site.name,
            "year": year,
            "class": name,
            "code": code,
            "pixels": int(pixels.sum()),
            "hectares": round(float(hectares[pixels].sum()), 3),
            "simulated": params.notice,
        }
        for name, code, pixels in parts
    ]


def _event_row(params: WorldParams, site: Site, event: Event) -> dict[str, Any] | None:
    """Return a change with its polygon, or None where it misses the square."""
    rows, cols = (slice(max(part.start, MARGIN_PX), min(part.stop, MARGIN_PX + site.size_px)) for part in event.window)
    if rows.start >= rows.stop or cols.start >= cols.stop:
        return None
    top, left = event.window[0].start, event.window[1].start
    start = event.start[rows.start - top : rows.stop - top, cols.start - left : cols.stop - left]
    inside = np.isfinite(start).astype("uint8")
    if not inside.any():
        return None
    transform = site.canvas_geobox(rows, cols).transform
    parts = [shape(g) for g, _ in shapes(inside, mask=inside > 0, transform=transform)]
    return {
        "region": site.name,
        "event": event.id,
        "type": event.type,
        "date": event.date.isoformat(),
        "last_year": int(np.nanmax(start)),
        "recovers": event.recovers if event.type == "storm dieback" else "",
        "area_ha": round(float(inside.sum()) * PIXEL_HA, 2),
        "simulated": params.notice,
        "geometry": to_lonlat(gpd.GeoSeries(parts).union_all(), site.zone),
    }


def _mask_polygons(params: WorldParams, terrain: Terrain, year: int) -> list[Any]:
    """Return a region's reference mask of a year as polygons in degrees, with the errors such masks have."""
    site = terrain.site
    state = state_of(terrain, year)
    # One draw for all years: the same committee makes the same mistakes.
    rng = stream(params.seed, site.region, "mask")
    dims = state.index.shape
    truth = state.mangrove
    uniform = [_clumped_uniform(rng, dims) for _ in range(2)]
    # Boundaries wander by one or two pixels.
    shift = [np.round(gaussian_field(rng, dims, length_px=6)).astype(int) for _ in range(2)]
    rows, cols = (np.clip(grid + move, 0, dims[0] - 1) for grid, move in zip(np.indices(dims), shift, strict=True))
    labels, count = ndimage.label(truth, structure=np.ones((3, 3)))
    small = np.bincount(labels.ravel(), minlength=count + 1) < 1 / PIXEL_HA
    dropped = small & (rng.random(count + 1) < 0.5)
    mask = (noisy_mask(state.index, truth, *uniform) & ~dropped[labels])[rows, cols][site.inner]
    found = shapes(mask.astype("uint8"), mask=mask, transform=site.geobox.transform)
    return list(to_lonlat(np.array([shape(geometry) for geometry, _ in found], dtype=object), site.zone))


def _clumped_uniform(rng: np.random.Generator, dims: tuple[int, int]) -> np.ndarray:
    """Draw numbers uniform in [0, 1) that come in clumps of a few pixels."""
    field = gaussian_field(rng, dims, length_px=3)
    ranks = np.empty(field.size)
    ranks[np.argsort(field, axis=None, kind="stable")] = np.arange(field.size) / field.size
    return ranks.reshape(dims)


def _write_dem(params: WorldParams, out: Path, terrain: Terrain) -> None:
    """Write a surface model: bare earth, 0.6 of the canopy of 2013, 2 m of noise, water flat."""
    site = terrain.site
    state = state_of(terrain, DEM_YEAR)
    rng = stream(params.seed, site.region, "dem")
    surface = terrain.elevation + 0.6 * canopy_height(state) + 2 * gaussian_field(rng, state.index.shape, length_px=10)
    surface[terrain.elevation < -0.9] = 0.0
    notice = f"{params.notice}; class depends on elevation in this world"
    path = out / "dem" / f"{site.name}.tif"
    _write_raster(path, surface[None][:, *site.inner].astype("float32"), site.geobox, notice, ("height_m",))


def _write_tables(archive: Archive, results: list[dict[str, Any]]) -> None:
    """Write regions, masks, areas and events in the order of the regions, whatever order the tasks ended in."""
    params = archive.params
    rank = {region: i for i, region in enumerate(params.regions)}
    results = sorted(results, key=lambda result: rank[result["region"]])
    sites = [site_of(region, params.size_px) for region in params.regions]
    gpd.GeoDataFrame(
        {"name": [site.name for site in sites], "simulated": params.notice},
        geometry=[site.polygon for site in sites],
        crs=4326,
    ).to_file(archive.regions, driver="GeoJSON", COORDINATE_PRECISION=9)
    for year, path in archive.masks.items():
        rows = [
            {"region": f"sim-{result['region']}", "year": year, "geometry": polygon}
            for result in results
            for polygon in result["masks"].get(year, [])
        ]
        frame = gpd.GeoDataFrame(rows, columns=["region", "year", "geometry"], geometry="geometry", crs=4326)
        frame["name"], frame["licence"] = f"SIMULATED mangrove mask {year}", "CC0-1.0"
        frame["simulated"] = params.notice
        frame.to_parquet(path)
    areas = pd.DataFrame([row for result in results for row in result["areas"]])
    areas["rank"] = areas["region"].map({f"sim-{region}": i for region, i in rank.items()})
    areas.sort_values(["rank", "year"], kind="stable").drop(columns="rank").to_csv(archive.areas, index=False)
    columns = ["region", "event", "type", "date", "last_year", "recovers", "area_ha", "simulated", "geometry"]
    rows = [row for result in results for row in result["events"]]
    events = gpd.GeoDataFrame(rows, columns=columns, geometry="geometry", crs=4326)
    events.to_file(archive.events, driver="GeoJSON", COORDINATE_PRECISION=8)
    pd.DataFrame(events.drop(columns="geometry")).to_csv(archive.events.with_suffix(".csv"), index=False)
