"""Arrays and points on an interactive map in a notebook, through ipyleaflet; by default nothing is fetched for it.

Pictures travel inside the notebook's messages, as PNG in data addresses, so a map needs neither a server nor a network.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from odc.geo.geobox import GeoBox
from PIL import Image
from pyproj import Transformer
from rasterio.crs import CRS
from rasterio.transform import from_bounds
from rasterio.warp import Resampling, reproject

from engine.errors import ConfigError
from engine.grid import crs_of
from engine.legend import Entry

if TYPE_CHECKING:
    import geopandas as gpd
    import ipyleaflet

HEIGHT_PX: Final = 480
"""Of a map in a notebook."""

_MOST_PX: Final = 1024  # a picture is shown smaller than this
_RADIUS_M: Final = 6_378_137.0  # of the sphere of Web Mercator

Bounds = tuple[tuple[float, float], tuple[float, float]]
"""South and west, north and east, degrees; beyond +-180 where a picture crosses the antimeridian."""


def open_map(geobox: GeoBox, *, basemap: Any = None) -> ipyleaflet.Map:
    """Open a map of a grid, with a scale, a list of layers to switch, and a plain background.

    Parameters
    ----------
    geobox : GeoBox
    basemap : optional
        Of ``ipyleaflet.basemaps``: its tiles come over the network.

    Raises
    ------
    ConfigError
        If ipyleaflet is not installed.
    """
    leaflet = _ipyleaflet()
    (south, west), (north, east) = mercator_png(np.zeros((2, 2, 4), np.uint8), geobox.zoom_to((2, 2)))[1]
    zoom = math.log2(HEIGHT_PX / 256 * 360 / max(east - west, north - south))
    found = leaflet.Map(
        center=((south + north) / 2, (west + east) / 2),
        zoom=max(1, math.floor(zoom)),
        scroll_wheel_zoom=True,
        layout={"height": f"{HEIGHT_PX}px"},
        # An empty list of layers: by default ipyleaflet would ask a server for OpenStreetMap.
        **({"layers": ()} if basemap is None else {"basemap": basemap}),
    )
    found.add(leaflet.LayersControl(position="topright"))
    found.add(leaflet.ScaleControl(position="bottomleft", imperial=False))
    return found


def add_image(onto: ipyleaflet.Map, name: str, image: np.ndarray, geobox: GeoBox, *, opacity: float = 1.0) -> None:
    """Lay a picture on a map.

    Parameters
    ----------
    onto : Map
    name : str
        In the list of layers.
    image : ndarray of uint8, shape (y, x, 3) or (y, x, 4)
        sRGB, with opacity as a fourth channel.
    geobox : GeoBox
        Of what the picture shows; it may have been thinned by whole steps, as ``figures.Panel`` is.
    opacity : float
        0 to 1.
    """
    png, bounds = mercator_png(image, geobox)
    url = "data:image/png;base64," + base64.b64encode(png).decode()
    onto.add(_ipyleaflet().ImageOverlay(url=url, bounds=bounds, name=name, opacity=opacity))


def add_codes(
    onto: ipyleaflet.Map,
    name: str,
    codes: np.ndarray,
    legend: Sequence[Entry],
    geobox: GeoBox,
    *,
    opacity: float = 0.7,
) -> None:
    """Lay a class or transition raster on a map, in the colours of a legend; other codes are clear.

    Parameters
    ----------
    onto : Map
    name : str
    codes : ndarray of uint8, shape (y, x)
    legend : sequence of Entry
        Codes to show.
    geobox : GeoBox
    opacity : float
    """
    table = np.zeros((256, 4), np.uint8)
    for entry in legend:
        table[entry.code] = (*entry.colour, 255)
    add_image(onto, name, table[codes], geobox, opacity=opacity)


def add_points(
    onto: ipyleaflet.Map, name: str, points: gpd.GeoDataFrame, colour: tuple[int, int, int], *, radius_px: int = 3
) -> None:
    """Put points on a map, as dots of one colour.

    Parameters
    ----------
    onto : Map
    name : str
    points : GeoDataFrame
        Of points; only their geometry goes to the browser.
    colour : (int, int, int)
        sRGB, 0-255.
    radius_px : int
    """
    style = {"color": "#222222", "weight": 0.5, "fillColor": "#{:02x}{:02x}{:02x}".format(*colour), "fillOpacity": 0.9}
    places = points[[points.geometry.name]].to_crs(4326)
    layer = _ipyleaflet().GeoData(geo_dataframe=places, name=name, point_style={**style, "radius": radius_px})
    onto.add(layer)


def mercator_png(image: np.ndarray, geobox: GeoBox) -> tuple[bytes, Bounds]:
    """Warp a picture to Web Mercator, nearest pixel, at most 1024 pixels a side.

    Parameters
    ----------
    image : ndarray of uint8, shape (y, x, 3) or (y, x, 4)
    geobox : GeoBox
        Any grid that covers the same land.

    Returns
    -------
    bytes
        A PNG with transparency where the picture does not reach.
    Bounds

    Raises
    ------
    ValueError
        If the picture is not uint8 of three or four channels.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (3, 4):
        raise ValueError(f"image must be uint8 (y, x, 3) or (y, x, 4), got {image.dtype} {image.shape}")
    height, width = image.shape[:2]
    source = np.full((4, height, width), 255, np.uint8)
    source[: image.shape[2]] = np.moveaxis(image, -1, 0)
    # The prime meridian of the target runs through the picture, so that one across the antimeridian stays whole.
    centre = geobox.extent.centroid.to_crs("EPSG:4326").coords[0][0]
    proj = f"+proj=merc +a={_RADIUS_M:.0f} +b={_RADIUS_M:.0f} +lon_0={centre:.10f} +units=m +nadgrids=@null +no_defs"
    left, bottom, right, top = geobox.boundingbox.bbox
    there = Transformer.from_crs(crs_of(geobox), proj, always_xy=True)
    west, south, east, north = there.transform_bounds(left, bottom, right, top)
    scale = min(1.0, _MOST_PX / max(height, width))
    shape = (max(1, round(height * scale)), max(1, round(width * scale)))
    target = np.zeros((4, *shape), np.uint8)
    reproject(
        source,
        target,
        src_transform=from_bounds(left, bottom, right, top, width, height),
        src_crs=CRS.from_wkt(crs_of(geobox).to_wkt()),
        dst_transform=from_bounds(west, south, east, north, shape[1], shape[0]),
        dst_crs=CRS.from_string(proj),
        resampling=Resampling.nearest,
    )
    buffer = BytesIO()
    Image.fromarray(np.moveaxis(target, 0, -1)).save(buffer, "PNG", optimize=True)
    return buffer.getvalue(), (_degrees(south, west, centre), _degrees(north, east, centre))


def _degrees(y: float, x: float, centre: float) -> tuple[float, float]:
    """Return latitude and longitude of a point of a Mercator map about a meridian."""
    latitude = math.degrees(2 * math.atan(math.exp(y / _RADIUS_M)) - math.pi / 2)
    return latitude, centre + math.degrees(x / _RADIUS_M)


def _ipyleaflet() -> Any:
    try:
        import ipyleaflet
    except ImportError:
        raise ConfigError(
            "a map needs ipyleaflet, which is not here", fix="pip install 'mangroves[notebooks]'"
        ) from None
    return ipyleaflet
