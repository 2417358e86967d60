"""A run over HTTP on loopback in full resolution: tiles of its rasters, the story of a pixel, and the page on top.

A request never names a file: layers have ids, and the page's files are held in memory, both made when the server
begins. A tile is read and coloured as the pictures of ``engine.overview`` are.
"""

from __future__ import annotations

import asyncio
import hmac
import io
import json
import math
import re
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from affine import Affine
from PIL import Image
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.warp import reproject, transform_bounds

from engine.errors import ConfigError, EngineError, StoreError
from engine.figures import FALSE_COLOUR
from engine.gdal import open_raster
from engine.grid import PIXEL_M, Tile, lonlat_of
from engine.landsat import BANDS
from engine.origin import foreign
from engine.overview import CLEAR, Layer, Source, index_of, palette, paletted, stretched
from engine.page import PAGE
from engine.ranges import Access
from engine.rows import PIXEL_YEAR, row_keys
from engine.store import open_store
from engine.trust import check_inside

TILE_PX: Final = 256
MAX_ZOOM: Final = 14
"""A pixel of the data is three of the screen at the equator."""

MOST_RASTERS: Final = 64
"""Rasters one tile is painted from; where more meet it, it is left empty."""

MOST_POINTS: Final = 1000
"""Of each layer of points: they are part of the page."""

MOST_DRAWN_BYTES: Final = 2**20
"""Of polygons that are sent at once."""

TOKEN: Final = "x-mangroves-token"
"""Header that what is drawn comes with: a page of elsewhere may not set it, nor read what it has to be."""

_JUDGED: Final = (
    ("points.mangrove_right", True, True, "#009e73"),
    ("points.mangrove_wrong", True, False, "#d55e00"),
    ("points.other_right", False, True, "#56b4e9"),
    ("points.other_wrong", False, False, "#cc79a7"),
)
"""Key, mangrove by its label, mapped as that, colour (Okabe and Ito 2008)."""

_POINT: Final = ("lat", "lon", "region", "probability", *PIXEL_YEAR)

_PLAIN: Final = np.array([[0.0] * 3, [1.0] * 3])
_WORKERS: Final = 2
_WAITING: Final = 64
_TILE_SECONDS: Final = 20.0
_STORY_SECONDS: Final = 60.0
_BODY_SECONDS: Final = 20.0
_MOST_QUERY: Final = 200
_PATH: Final = re.compile(rb"/[A-Za-z0-9_+.-]*(?:/[A-Za-z0-9_+.-]+)*")
_EDGE: Final = math.pi * 6378137.0  # of Web Mercator, metres from its middle

HEADERS: Final = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
"""Of every answer: the page may load and ask nothing but this server, and no other page may show it."""


Box = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """Where what is drawn in a viewer goes."""

    token: str
    """Of this session, known to its page."""

    polygons: Callable[[], dict[str, Any]]
    """Those drawn so far, GeoJSON."""

    add: Callable[[Mapping[str, Any]], dict[str, Any]]
    """Keeps a FeatureCollection and returns what the page is told; raises ``ConfigError`` of what is none."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What a viewer serves."""

    files: Mapping[str, tuple[bytes, str]]
    """Content and media type of the page's files, by path."""

    layers: Mapping[str, Layer]
    """By id."""

    tiles: Mapping[str, Tile]
    """Of the run, by id."""

    years: tuple[int, ...]

    stretches: Mapping[str, np.ndarray]
    """Of each tile the reflectance DN shown as black and white, float64 (2, 3), see ``engine.overview``."""

    access: Access
    """Of a trust that allows no more than the run's folder."""

    story: Callable[[float, float, int | None], dict[str, Any]]
    """What is known of a pixel (longitude, latitude) in all years, or all of one."""

    drawing: Drawing | None = None
    """None where nothing may be drawn."""


def tile_bounds(x: int, y: int, z: int) -> Box:
    """Return left, bottom, right and top of a tile of the web's grid, Web Mercator metres.

    Examples
    --------
    >>> [round(edge) for edge in tile_bounds(1, 0, 1)]
    [0, 0, 20037508, 20037508]
    """
    side = 2 * _EDGE / 2**z
    left, top = -_EDGE + x * side, _EDGE - y * side
    return left, top - side, left + side, top


def draw_tile(shown: Shown, layer: Layer, x: int, y: int, z: int) -> bytes:
    """Return a tile of a layer as PNG, nearest pixels, transparent where there is nothing.

    Parameters
    ----------
    shown : Shown
    layer : Layer
    x, y, z : int
        Column, row and zoom of the web's grid.

    Raises
    ------
    StoreError, TrustError
        If a raster is not what the run wrote, or lies outside of it.
    """
    bounds = tile_bounds(x, y, z)
    step = (bounds[2] - bounds[0]) / TILE_PX
    near = [(tile, source) for tile, source in _sources(shown, layer) if _meet(tile, bounds)]
    bands = 3 if layer.kind == "composite" else 1
    blank = 0 if bands == 3 else CLEAR
    canvas = np.full((bands, TILE_PX, TILE_PX), blank, np.uint8)
    # Read coarse, then warped. Warped as it is read, as rio-tiler does, a tile of zoom 4 over one raster of 512 px took
    # more than 25 s of a CPU where the raster has a band a year and no overviews.
    for tile, source in near if len(near) <= MOST_RASTERS else ():
        every = max(1, int(step * math.cos(math.radians(_middle(tile))) / PIXEL_M))
        window = _window(tile, bounds, every)
        if window is None:
            continue
        values = _read(shown.access, tile, source, window, every)
        # GDAL spreads its picks over a window that ``every`` does not divide; strides of a store hang over its end.
        rows, cols = (
            every if source.variable else (part.stop - part.start) / n
            for part, n in zip(window, values.shape[-2:], strict=True)
        )
        corner = tile.geobox.transform * Affine.translation(window[1].start, window[0].start)
        stretch = shown.stretches.get(tile.id, _PLAIN)
        reproject(
            stretched(values, stretch) if bands == 3 else index_of(layer.kind, values, shown.years)[np.newaxis],
            canvas,
            src_transform=corner * Affine.scale(cols, rows),
            src_crs=f"EPSG:{tile.epsg}",
            src_nodata=blank,
            dst_transform=Affine(step, 0, bounds[0], 0, -step, bounds[3]),
            dst_crs="EPSG:3857",
            dst_nodata=blank,
            init_dest_nodata=False,
            resampling=Resampling.nearest,
        )
    png = io.BytesIO()
    if bands == 3:
        opacity = np.where(canvas.any(axis=0), np.uint8(255), np.uint8(0))
        Image.fromarray(np.dstack([*canvas, opacity]), "RGBA").save(png, "PNG")
    else:
        paletted(canvas[0], palette(layer.kind, shown.years)).save(png, "PNG")
    return png.getvalue()


def _middle(tile: Tile) -> float:
    """Return the latitude of the middle of a tile, degrees."""
    row, col, height, width = tile.window
    return float(lonlat_of(tile.zone, np.array(row + height // 2), np.array(col + width // 2))[1])


def _window(tile: Tile, bounds: Box, every: int) -> tuple[slice, slice] | None:
    """Return rows and columns that may lie within Web Mercator bounds, in steps of ``every``; None if none."""
    left, bottom, right, top = transform_bounds("EPSG:3857", f"EPSG:{tile.epsg}", *bounds)
    affine, found = ~tile.geobox.transform, []
    (x0, y0), (x1, y1) = affine * (left, top), affine * (right, bottom)
    for low, high, size in ((y0, y1, tile.shape[0]), (x0, x1, tile.shape[1])):
        if not math.isfinite(low + high):
            low, high = 0, size  # of the whole world there is no such window
        first, last = max(0, int(low) // every - 2) * every, min(size, int(high) + 2 * every)
        if first >= last:
            return None
        found.append(slice(first, last))
    return found[0], found[1]


def _sources(shown: Shown, layer: Layer) -> Iterator[tuple[Tile, Source]]:
    yield from ((shown.tiles[name], source) for name, source in layer.tiles.items() if name in shown.tiles)


def _meet(tile: Tile, bounds: Box) -> bool:
    """Tell whether a tile of the run may reach into Web Mercator bounds; sideways also beyond the antimeridian."""
    left, bottom, right, top = _reach(tile)
    if not (bottom < bounds[3] and top > bounds[1]):
        return False
    return any(left + turn < bounds[2] and right + turn > bounds[0] for turn in (-2 * _EDGE, 0.0, 2 * _EDGE))


@lru_cache(maxsize=100_000)
def _reach(tile: Tile) -> Box:
    """Return left, bottom, right and top of a tile of the run, Web Mercator metres."""
    west, south, east, north = tile.geobox.geographic_extent.boundingbox
    if east - west > 180:  # pixels on both sides of the antimeridian
        west, east = east - 360, west + 360
    bottom, top = (_EDGE / math.pi * math.asinh(math.tan(math.radians(lat))) for lat in (south, north))
    return math.radians(west) * _EDGE / math.pi, bottom, math.radians(east) * _EDGE / math.pi, top


def _read(access: Access, tile: Tile, source: Source, window: tuple[slice, slice], every: int) -> np.ndarray:
    """Return one of ``every`` pixels each way of a window: (y, x), of a composite (3, y, x).

    The file is checked to lie inside the run still, and to be on the tile's grid.
    """
    shape = tuple(math.ceil((part.stop - part.start) / every) for part in window)
    if not source.variable:
        with open_raster(str(source.place), access, fault=StoreError) as data:
            same = data.shape == tile.shape and data.transform == tile.geobox.transform
            if not same or data.crs.to_epsg() != tile.epsg or source.band not in data.indexes:
                raise StoreError(f"{source.place} is not a raster of tile {tile.id}", fix="run `mangroves verify`")
            spans = tuple((part.start, part.stop) for part in window)
            return data.read(source.band, window=spans, out_shape=shape)
    place = Path(access.trust.path(str(source.place), what="layer"))
    check_inside(place, access.trust)
    rows, cols = (slice(part.start, part.stop, every) for part in window)
    with open_store(place) as data:
        variable = data[source.variable]
        if variable.shape[-2:] != tile.shape:
            raise StoreError(f"{place} is not a store of tile {tile.id}", fix="run `mangroves verify`")
        if source.variable != "composite":
            return variable[rows, cols].values
        return np.stack([variable[BANDS.index(name), rows, cols].values for name in FALSE_COLOUR])


def page_layers(layers: Iterable[Layer], box: list[list[float]]) -> list[dict[str, Any]]:
    """Return layers as the page takes them, see ``engine.page``; ``box`` holds all of the run."""
    tiles = {"box": box, "min_zoom": 0, "max_zoom": MAX_ZOOM, "pixel_m": PIXEL_M}
    return [
        {"kind": layer.kind, "year": layer.year, "tiles": {"url": f"tiles/{layer.id}/{{z}}/{{x}}/{{y}}.png", **tiles}}
        for layer in layers
    ]


def judged_points(scores: Iterable[pd.DataFrame], *, most: int = MOST_POINTS, seed: int = 0) -> list[dict[str, Any]]:
    """Return the points that a model judged, right and wrong, of mangrove and of other, as the page takes them.

    Parameters
    ----------
    scores : iterable of DataFrame
        From ``engine.scores``, with lon and lat: of land the model never saw. Of parts read one by one no more is held
        than a part and what is shown.
    most : int
        Points of each of the four layers, those that come first in a seeded order; the others are only counted.
    seed : int

    Returns
    -------
    list of dict
        key, colour, points ([lat, lon, text]) and total.
    """
    shown: dict[str, list[pd.DataFrame]] = {key: [] for key, *_ in _JUDGED}
    totals = dict.fromkeys(shown, 0)
    for part in scores:
        if not {"lon", "lat"} <= set(part):
            continue
        for key, positive, right, _ in _JUDGED:
            of = part[(part["positive"] == positive) & ((part["mapped"] == part["positive"]) == right)]
            totals[key] += len(of)
            held = pd.concat([*shown[key], of])
            shown[key] = [held.iloc[np.argsort(row_keys(held, seed), kind="stable")[:most]][list(_POINT)]]
    return [
        {
            "key": key,
            "colour": colour,
            "points": [
                [round(float(row["lat"]), 6), round(float(row["lon"]), 6), _told(row)]
                for part in shown[key]
                for row in part.to_dict("records")
            ],
            "total": totals[key],
        }
        for key, _, _, colour in _JUDGED
    ]


def _told(row: Mapping[Any, Any]) -> str:
    return f"{row['region']}, {row['year']}: {row['probability']:.2f}"


class _Busy(Exception):
    """More was asked for at once than is kept waiting."""


class _Bounded:
    """Works off calls in a few threads, and keeps no more than so many waiting."""

    def __init__(self, workers: int, most: int, seconds: float) -> None:
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="view")
        self._free = threading.BoundedSemaphore(most)
        self._seconds = seconds

    async def __call__[T](self, function: Callable[..., T], *arguments: Any) -> T:
        """Return what a function does; of one that takes too long the thread is not free before its end.

        Raises
        ------
        TimeoutError
        """
        if not self._free.acquire(blocking=False):
            raise _Busy
        future = self._pool.submit(function, *arguments)
        future.add_done_callback(lambda _: self._free.release())
        return await asyncio.wait_for(asyncio.wrap_future(future), self._seconds)


def create_app(shown: Shown, *, port: int) -> Any:
    """Return the ASGI application of a viewer.

    Parameters
    ----------
    shown : Shown
    port : int
        Of loopback that it is served on: under any other name or port it answers nothing.
    """
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    tiles, stories = _Bounded(_WORKERS, _WAITING, _TILE_SECONDS), _Bounded(1, 8, _STORY_SECONDS)
    drawings = _Bounded(1, 4, _STORY_SECONDS)

    async def tile(request: Any) -> Response:
        z, x, y = (int(request.path_params[name]) for name in "zxy")
        layer = shown.layers.get(request.path_params["layer"])
        if layer is None or request.query_params:
            raise HTTPException(404, "there is no such layer")
        if z > MAX_ZOOM or not (x < 2**z and y < 2**z):
            raise HTTPException(404, f"there is no such tile, zooms are 0 to {MAX_ZOOM}")
        content = await tiles(draw_tile, shown, layer, x, y, z)
        return Response(content, media_type="image/png", headers={"cache-control": "no-cache"})

    async def story(request: Any) -> Response:
        asked = _asked(request.query_params.multi_items())
        if asked is None:
            raise HTTPException(400, "a story is asked for by lon and lat in degrees, and a year or none")
        return JSONResponse(await stories(shown.story, *asked))

    async def edits(request: Any) -> Response:
        drawing = shown.drawing
        if drawing is None or request.query_params:
            raise HTTPException(404, "there is nothing here")
        if request.method != "POST":
            return JSONResponse(await drawings(drawing.polygons), headers={"cache-control": "no-store"})
        if request.headers.getlist("content-type") != ["application/json"]:
            raise HTTPException(415, "polygons are sent as application/json")
        body = bytearray()
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                async for part in request.stream():
                    body += part
                    if len(body) > MOST_DRAWN_BYTES:
                        raise HTTPException(413, f"the polygons are larger than {MOST_DRAWN_BYTES >> 20} MB")
        except (TimeoutError, ClientDisconnect):
            raise HTTPException(408, "the polygons took too long to come") from None
        try:
            return JSONResponse(await drawings(_add, drawing, bytes(body)))
        except ConfigError as error:
            raise HTTPException(422, error.problem) from error
        except StoreError as error:  # another command writes edits now, or those that are there are damaged
            raise HTTPException(409, error.problem) from error

    async def file(request: Any) -> Response:
        found = shown.files.get(request.path_params["path"] or PAGE)
        if found is None:
            raise HTTPException(404, "there is nothing here")
        return Response(found[0], media_type=found[1], headers={"cache-control": "no-cache"})

    def said(status: int, problem: str) -> Response:
        return JSONResponse({"error": problem}, status_code=status)

    async def refused(request: Any, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return said(error.status_code, error.detail)

    async def failed(request: Any, error: Exception) -> Response:
        assert isinstance(error, EngineError)
        return said(404 if isinstance(error, ConfigError) else 500, error.problem)

    async def unreadable(request: Any, error: Exception) -> Response:
        return said(500, f"a raster of the run cannot be read ({type(error).__name__})")

    async def late(request: Any, error: Exception) -> Response:
        return said(503, "too much is asked for at once, or of too large a part; try again, or zoom in")

    app = Starlette(
        routes=[
            Route("/tiles/{layer}/{z:int}/{x:int}/{y:int}.png", tile),
            Route("/story", story),
            Route("/edits", edits, methods=["GET", "POST"]),
            Route("/{path:path}", file),
        ],
        exception_handlers={
            HTTPException: refused,
            EngineError: failed,
            RasterioError: unreadable,
            TimeoutError: late,
            _Busy: late,
        },
    )
    app.router.redirect_slashes = False
    return _Guard(app, port, None if shown.drawing is None else shown.drawing.token)


def _add(drawing: Drawing, body: bytes) -> dict[str, Any]:
    """Keep polygons that came as JSON of anybody."""

    def refuse(name: str) -> None:
        raise ValueError(name)

    try:
        features = json.loads(body, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise ConfigError("the polygons are no JSON", fix="send GeoJSON") from error
    if not isinstance(features, dict) or features.get("type") != "FeatureCollection":
        raise ConfigError("the polygons are no FeatureCollection", fix="send GeoJSON")
    return drawing.add(features)


def _asked(pairs: Sequence[tuple[str, str]]) -> tuple[float, float, int | None] | None:
    """Return longitude, latitude and year that a query asks for, None if it is none."""
    query = dict(pairs)
    if len(query) != len(pairs) or not {"lon", "lat"} <= set(query) <= {"lon", "lat", "year"}:
        return None
    try:
        return float(query["lon"]), float(query["lat"]), int(query["year"]) if "year" in query else None
    except ValueError:
        return None


Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class _Guard:
    """Lets through what the page itself asks for, before anything looks at it: see ``engine.origin``.

    What writes must also know the token that only the page is told.
    """

    def __init__(self, app: Any, port: int, token: str | None) -> None:
        self._app = app
        self._token = None if token is None else token.encode()
        self._hosts = {f"{name}:{port}" for name in ("127.0.0.1", "localhost")}

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        async def sending(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                more = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", ()), *more]}
            await send(message)

        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            problem = self._refusal(scope)
            if problem is None:
                await self._app(scope, receive, sending)
            else:
                await _answer(sending, *problem)
        else:
            await send({"type": "websocket.close"})

    def _refusal(self, scope: dict[str, Any]) -> tuple[int, str] | None:
        """Return status and reason where a request is refused."""
        path = scope["raw_path"]
        if why := foreign(scope, self._hosts.__contains__):
            return 403, f"the viewer {why}"
        if scope["method"] == "POST" and path == b"/edits" and self._token is not None:
            tokens = [value for name, value in scope["headers"] if name.lower() == TOKEN.encode()]
            if len(tokens) != 1 or not hmac.compare_digest(tokens[0], self._token):
                return 403, "only the viewer's own page may draw; load it again"
        elif scope["method"] not in ("GET", "HEAD"):
            return 405, "the viewer is only read from"
        if len(path) > _MOST_QUERY or len(scope["query_string"]) > _MOST_QUERY:
            return 414, "the address is too long"
        if not _PATH.fullmatch(path) or b".." in path:
            return 400, "the path is none of the viewer's"
        return None


async def _answer(send: Send, status: int, problem: str) -> None:
    body = json.dumps({"error": problem}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
