"""Scenes as files and STAC items, in the words of the Planetary Computer's ``landsat-c2-l2`` collection."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from odc.geo.geobox import GeoBox
from rasterio.crs import CRS
from rasterio.warp import Resampling, reproject
from shapely import LineString, box
from shapely.geometry import mapping
from shapely.ops import split

from engine.grid import grid_geobox
from engine.landsat import OFFSET, SCALE, SENSORS
from engine.simulate.cog import write_cog
from engine.simulate.scenes import SWATH_TILT, Pass, Rendered, sun_position, swath_edge
from engine.simulate.spectra import BANDS
from engine.simulate.world import CAVEAT, MARGIN_PX, Site, WorldParams, epsg_of, stream, to_lonlat

COLLECTION: Final = "landsat-c2-l2"
_STAC_VERSION: Final = "1.0.0"
_LETTERS: Final = {"landsat-5": "LT05", "landsat-7": "LE07", "landsat-8": "LC08", "landsat-9": "LC09"}
_INSTRUMENTS: Final = {"TM": ["tm"], "ETM+": ["etm+"], "OLI": ["oli", "tirs"]}
_DOI: Final = {"TM": "10.5066/P9IAXOVV", "ETM+": "10.5066/P9C7I13B", "OLI": "10.5066/P9OGBGM6"}
_WAVELENGTHS_UM: Final = (0.44, 0.48, 0.56, 0.65, 0.87, 1.61, 2.2)
_QUALITY: Final[dict[str, tuple[str, str, int | None, list[str]]]] = {
    # File suffix, title, nodata, roles.
    "qa_pixel": ("QA_PIXEL", "Pixel Quality Assessment Band", 1, ["cloud", "cloud-shadow", "snow-ice", "water-mask"]),
    "qa_radsat": ("QA_RADSAT", "Radiometric Saturation Quality Assessment Band", None, ["saturation"]),
    "qa_aerosol": ("SR_QA_AEROSOL", "Aerosol Quality Assessment Band", 1, ["data-mask", "water-mask"]),
    "cloud_qa": ("SR_CLOUD_QA", "Cloud Quality Assessment Band", None, ["cloud", "cloud-shadow", "water-mask"]),
    "atmos_opacity": ("SR_ATMOS_OPACITY", "Atmospheric Opacity Band", -9999, ["data"]),
}
_EXTENSIONS: Final = [
    "https://stac-extensions.github.io/raster/v1.1.0/schema.json",
    "https://stac-extensions.github.io/eo/v1.0.0/schema.json",
    "https://stac-extensions.github.io/view/v1.0.0/schema.json",
    "https://stac-extensions.github.io/projection/v1.1.0/schema.json",
    "https://landsat.usgs.gov/stac/landsat-extension/v1.1.1/schema.json",
    "https://stac-extensions.github.io/scientific/v1.0.0/schema.json",
]


def write_pass(params: WorldParams, out: Path, site: Site, look: Pass, rendered: Rendered) -> list[dict[str, Any]]:
    """Write the scenes a pass is delivered as: one, or two overlapping rows 24 s apart.

    No scene's origin is a multiple of 256 px from the square's, so windows straddle COG tiles as in real scenes.

    Returns
    -------
    list of dict
        STAC items, hrefs relative to ``out``, without links.
    """
    rng = stream(params.seed, site.region, "frames", look.path)
    top, left, bottom, right = (int(n) for n in rng.integers(1, MARGIN_PX, 4))
    side = site.canvas_px
    cols = slice(left, side - right)
    if not look.split:
        return [_write_scene(params, out, site, look, rendered, slice(top, side - bottom), cols)]
    # A descending pass meets the northern row first.
    upper, lower = slice(top, round(0.62 * side)), slice(round(0.4 * side), side - bottom)
    later = replace(look, row=look.row + 1, time=look.time + dt.timedelta(seconds=23.95))
    return [
        _write_scene(params, out, site, look, rendered, upper, cols),
        _write_scene(params, out, site, later, rendered, lower, cols),
    ]


def _write_scene(
    params: WorldParams, out: Path, site: Site, look: Pass, rendered: Rendered, rows: slice, cols: slice
) -> dict[str, Any]:
    """Write a window of a rendered pass as COGs, and return its item."""
    geobox = site.canvas_geobox(rows, cols)
    layers = {name: array[rows, cols] for name, array in rendered.bands.items()}
    if params.utm_split and not look.east:
        geobox, layers = _to_neighbour_zone(site, geobox, layers)
    processed = look.time + dt.timedelta(days=14)
    stem = f"{_LETTERS[look.platform]}_L2SP_{look.path:03d}{look.row:03d}_{look.time:%Y%m%d}"
    name = f"{stem}_02_{look.tier}"
    product = f"{stem}_{processed:%Y%m%d}_02_{look.tier}"
    folder = f"./scenes/{site.name}/{look.time.year}/{name}"
    (out / folder).mkdir(parents=True, exist_ok=True)
    assets = {}
    for band, array in layers.items():
        suffix, nodata, asset = _asset(band, look, str(array.dtype))
        href = f"{folder}/{product}_{suffix}.TIF"
        write_cog(out / href, array, geobox, nodata=nodata, notice=params.notice, compression=params.compression)
        assets[band] = {"href": href} | asset
    cover = float(rendered.cloud[rows, cols].sum() / max(1, rendered.valid[rows, cols].sum()))
    elevation, azimuth = np.degrees(sun_position(look.time, site))
    footprint = to_lonlat(_footprint(params, site, look, rows, cols), site.zone)
    letters = _LETTERS[look.platform]
    return {
        "type": "Feature",
        "stac_version": _STAC_VERSION,
        "stac_extensions": _EXTENSIONS,
        "id": name,
        "collection": COLLECTION,
        "bbox": list(footprint.bounds),
        "geometry": mapping(footprint),
        "properties": {
            "datetime": f"{look.time:%Y-%m-%dT%H:%M:%S.%fZ}",
            "created": f"{processed:%Y-%m-%dT%H:%M:%S.%fZ}",
            "description": "Landsat Collection 2 Level-2 (SIMULATED)",
            "simulated": params.notice,
            "gsd": 30,
            "platform": look.platform,
            "instruments": _INSTRUMENTS[look.sensor],
            "eo:cloud_cover": round(100 * cover, 2),
            "view:off_nadir": 0,
            "view:sun_azimuth": round(float(azimuth), 6),
            "view:sun_elevation": round(float(elevation), 6),
            "proj:epsg": epsg_of(geobox),
            "proj:shape": list(geobox.shape),
            "proj:transform": list(geobox.transform)[:6],
            "landsat:wrs_path": f"{look.path:03d}",
            "landsat:wrs_row": f"{look.row:03d}",
            "landsat:wrs_type": "2",
            "landsat:scene_id": f"{letters[:2]}{letters[3]}{look.path:03d}{look.row:03d}{look.time:%Y%j}SIM00",
            "landsat:correction": "L2SP",
            "landsat:cloud_cover_land": round(100 * cover, 2),
            "landsat:collection_number": "02",
            "landsat:collection_category": look.tier,
            "sci:doi": _DOI[look.sensor],
        },
        "assets": assets,
    }


def _asset(name: str, look: Pass, dtype: str) -> tuple[str, int | None, dict[str, Any]]:
    """Return the file suffix, the nodata value and the STAC description of a layer."""
    band: dict[str, Any] = {"data_type": dtype, "spatial_resolution": 30}
    asset = {"type": "image/tiff; application=geotiff; profile=cloud-optimized", "raster:bands": [band]}
    if name in _QUALITY:
        suffix, title, nodata, roles = _QUALITY[name]
        if nodata is not None:
            band["nodata"] = nodata
        band |= {"scale": 0.001} if name == "atmos_opacity" else {"unit": "bit index"}
        return suffix, nodata, asset | {"title": title, "roles": roles}
    number = 1 if name == "coastal" else SENSORS[look.platform].band_numbers[name]
    band |= {"scale": SCALE, "offset": OFFSET, "nodata": 0}
    optics = {
        "name": f"{look.sensor.rstrip('+')}_B{number}",
        "common_name": name,
        "center_wavelength": _WAVELENGTHS_UM[BANDS.index(name)],
    }
    more = {"title": f"Surface reflectance, {name}", "roles": ["data", "reflectance"], "eo:bands": [optics]}
    return f"SR_B{number}", 0, asset | more


def _footprint(params: WorldParams, site: Site, look: Pass, rows: slice, cols: slice) -> Any:
    """Return the swath within a window of the canvas, in metres of the square's zone."""
    frame = box(*site.canvas_geobox(rows, cols).extent.boundingbox.bbox)
    side = site.canvas_px
    edge = swath_edge(params.seed, site, look.east)
    origin = site.canvas_geobox(slice(0, side), slice(0, side)).transform
    line = LineString([origin * (edge - SWATH_TILT * (row - side / 2), row) for row in (-10, side + 10)])
    choose = min if look.east else max
    return choose(split(frame, line).geoms, key=lambda part: part.centroid.x)


def _to_neighbour_zone(
    site: Site, geobox: GeoBox, layers: dict[str, np.ndarray]
) -> tuple[GeoBox, dict[str, np.ndarray]]:
    """Warp a scene, by nearest pixel, onto the 30 m grid of the nearer neighbouring UTM zone."""
    zone = (site.zone if site.lon > 6 * site.zone - 183 else site.zone - 2) % 60 + 1
    crs = CRS.from_epsg(32600 + zone)
    bounds = geobox.extent.to_crs(f"EPSG:{32600 + zone}").boundingbox
    col, row = int((bounds.left - 15) // 30), int((15 - bounds.top) // 30)
    size = (int((15 - bounds.bottom) // 30) + 1 - row, int((bounds.right - 15) // 30) + 1 - col)
    target = grid_geobox(zone, (row, col, *size))
    warped = {}
    for name, array in layers.items():
        nodata = _QUALITY[name][2] if name in _QUALITY else None
        warped[name] = np.full(size, nodata or 0, dtype=array.dtype)
        reproject(
            array,
            warped[name],
            src_transform=geobox.transform,
            src_crs=CRS.from_epsg(epsg_of(geobox)),
            dst_transform=target.transform,
            dst_crs=crs,
            resampling=Resampling.nearest,
            init_dest_nodata=False,
        )
    return target, warped


def write_catalog(params: WorldParams, out: Path, items: list[dict[str, Any]]) -> None:
    """Write the items as one ItemCollection and as a static catalog that any STAC client can open."""
    items = sorted(items, key=lambda item: (item["properties"]["datetime"], item["id"]))
    description = f"{params.notice}. {CAVEAT}"
    features = [item | {"links": [_link("collection", "./collection.json")]} for item in items]
    _dump(out / "items.json", {"type": "FeatureCollection", "simulated": params.notice, "features": features})
    root = _link("root", "./catalog.json")
    catalog = {"type": "Catalog", "stac_version": _STAC_VERSION, "id": "mangroves-simulated"}
    links = [root, _link("child", "./collection.json")]
    _dump(out / "catalog.json", catalog | {"description": description, "links": links})
    bounds = np.array([item["bbox"] for item in items]) if items else np.array([[-180.0, -90.0, 180.0, 90.0]])
    times = [item["properties"]["datetime"] for item in items] or [None]
    files = [f"{Path(item['assets']['red']['href']).parent.as_posix()}/{item['id']}.json" for item in items]
    collection = {
        "type": "Collection",
        "stac_version": _STAC_VERSION,
        "id": COLLECTION,
        "title": "Simulated Landsat Collection 2 Level-2",
        "description": description,
        "license": "CC0-1.0",
        "extent": {
            "spatial": {"bbox": [[*bounds[:, :2].min(0).tolist(), *bounds[:, 2:].max(0).tolist()]]},
            "temporal": {"interval": [[times[0], times[-1]]]},
        },
        "links": [root, _link("parent", "./catalog.json"), *(_link("item", f"./{file}") for file in files)],
    }
    _dump(out / "collection.json", collection)
    for item, file in zip(items, files, strict=True):
        up = "../" * file.count("/")
        links = [_link("root", f"{up}catalog.json")]
        links += [_link(rel, f"{up}collection.json") for rel in ("parent", "collection")]
        assets = {name: asset | {"href": f"./{Path(asset['href']).name}"} for name, asset in item["assets"].items()}
        _dump(out / file, item | {"links": links, "assets": assets})


def _link(rel: str, href: str) -> dict[str, str]:
    return {"rel": rel, "href": href, "type": "application/geo+json" if rel == "item" else "application/json"}


def _dump(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document), encoding="utf-8")
