"""Find the scenes of an area: any STAC API, static catalog or item file, every filter applied again here.

A server is asked only for what all servers know: collection, box and dates. Some of them answer an unknown
``query`` with nothing, others ignore it; so platform, tier, cloud and footprint are judged on this side.
"""

from __future__ import annotations

import calendar
import datetime as dt
import io
import json
import posixpath
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode, urljoin, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from shapely.geometry.base import BaseGeometry

from engine.area import Area
from engine.errors import CatalogError, ConfigError, EngineError, SceneError, TrustError
from engine.landsat import ETM_ORBIT_DRIFT
from engine.lookup import PLANETARY_COMPUTER
from engine.params import SearchParams
from engine.scenes import Scene, is_scene_list, observations, scene_from_item, scenes_from_table
from engine.trust import Trust, redact
from engine.web import Web

PAGE_ITEMS: Final = 250
MAX_PAGES: Final = 4_000
"""Of one search; with PAGE_ITEMS a million items, more than Landsat has of the tropics."""

MAX_DOCUMENTS: Final = 50_000
"""Of one static catalog."""

MAX_FILE_BYTES: Final = 2**30
"""Of one item file, uncompressed."""

_UNPACKED_TIMES: Final = 64
_LEAST_UNPACKED_BYTES: Final = 2**26
"""What an item table may unpack to: this, or so many times its size where that is more."""

_ROWS_AT_ONCE: Final = 16
"""Of an item table: what is held at most before its size is known, however long its values turn out to be."""

_BOX_DEGREES: Final = 10.0
"""Larger areas are asked for in boxes of this side, so that a scattered area does not fetch an ocean."""

Period = tuple[dt.datetime, dt.datetime]
"""From, and until but not including; UTC."""


@dataclass(frozen=True)
class Refusal:
    """An item that cannot be used, and why."""

    id: str
    reason: str


@dataclass(frozen=True)
class SearchResult:
    """What a search found."""

    scenes: list[Scene]
    """In order of time and id, each acquisition once."""

    refused: list[Refusal]
    """Items of unusable form or address, by id."""

    left_out: dict[str, int] = field(default_factory=dict)
    """Usable scenes that were not asked for: reason -> number, e.g. ``{"tier T2": 12}``."""

    missing_years: list[int] = field(default_factory=list)
    """Years of the search without any scene."""


def periods_of(
    years: Iterable[int],
    season: tuple[str, str] | None = None,
    dates: Mapping[int, tuple[dt.date, dt.date]] | None = None,
) -> dict[int, Period]:
    """Return the period of each year: the calendar year in UTC, or a season named by the year it ends in.

    Parameters
    ----------
    years : iterable of int
    season : (str, str), optional
        First and last day as ``MM-DD``; where the first is later, it lies in the year before.
    dates : mapping of int to (date, date), optional
        First and last day of some years, whatever the season is.

    Examples
    --------
    >>> [f"{day:%Y-%m-%d}" for day in periods_of([2020], ("11-01", "02-29"))[2020]]
    ['2019-11-01', '2020-03-01']
    """
    first, last = season or ("01-01", "12-31")
    periods = {}
    for year in years:
        start, _ = _day(year - (first > last), first)
        _, end = _day(year, last)
        periods[year] = (start, end)
        if dates and year in dates:
            start, end = (dt.datetime.combine(day, dt.time(), dt.UTC) for day in dates[year])
            periods[year] = (start, end + dt.timedelta(days=1))
    return periods


def _day(year: int, month_day: str) -> Period:
    """Return where a day begins and ends; 29 February of a common year ends with the 28th."""
    month, day = (int(part) for part in month_day.split("-"))
    longest = 29 if month == 2 else calendar.monthrange(year, month)[1]
    if day > longest:
        raise ConfigError(f"season: {month_day} is not a day", fix="give days as MM-DD")
    day = min(day, calendar.monthrange(year, month)[1])
    start = dt.datetime(year, month, day, tzinfo=dt.UTC)
    return start, start + dt.timedelta(days=1)


def search_scenes(
    params: SearchParams,
    area: Area,
    periods: Mapping[int, Period],
    *,
    trust: Trust,
    progress: Callable[[int], None] | None = None,
) -> SearchResult:
    """Find all scenes of an area and some periods in one or several catalogs.

    Parameters
    ----------
    params : SearchParams
    area : Area
    periods : mapping of int to (datetime, datetime)
        Year -> period, see ``periods_of``.
    trust : Trust
        Catalogs, the links in them and the assets of every scene must pass it.
    progress : callable, optional
        Called with the number of items seen so far.

    Raises
    ------
    CatalogError
        If a catalog cannot be read to its end, or no scene is left.
    TrustError
        If a catalog, or a page it links to, is not allowed.
    """
    web = Web(trust)
    footprint = area.geometry
    shapely.prepare(footprint)
    found: dict[str, Scene] = {}
    refused: dict[str, str] = {}
    left_out: dict[str, set[str]] = defaultdict(set)
    seen = 0
    for catalog in params.catalogs:
        here: dict[str, Scene] = {}
        for item, base in _items(catalog, params, footprint, periods, web):
            seen += 1
            if progress and seen % PAGE_ITEMS == 0:
                progress(seen)
            try:
                scene = item if isinstance(item, Scene) else scene_from_item(item, base=base)
                reason = _unasked(scene, params, footprint, periods)
                if reason:
                    left_out[reason].add(scene.id)
                    continue
                for name, href in scene.assets.items():
                    trust.check(href, what=f"asset {name}")
            except (SceneError, TrustError) as error:
                refused[str(item.id if isinstance(item, Scene) else item.get("id"))[:128]] = _reason(error)
                continue
            known = here.get(scene.id)
            if known is None or known.processed < scene.processed:
                here[scene.id] = scene
        for name, scene in here.items():
            found.setdefault(name, scene)
    if progress:
        progress(seen)
    scenes = _latest(found.values(), left_out)
    counts = {reason: len(names) for reason, names in sorted(left_out.items())}
    refusals = [Refusal(name, reason) for name, reason in sorted(refused.items())]
    if not scenes:
        raise _nothing(params, footprint, periods, counts, refusals)
    missing = [y for y, (start, end) in periods.items() if not any(start <= s.datetime < end for s in scenes)]
    return SearchResult(scenes, refusals, counts, missing)


def _reason(error: EngineError) -> str:
    return redact(f"{error.problem}; {error.fix}" if error.fix else error.problem)[:300]


def _unasked(scene: Scene, params: SearchParams, footprint: BaseGeometry, periods: Mapping[int, Period]) -> str:
    """Say why a scene was not asked for; empty if it was. A scene that states no cloud cover passes that filter."""
    if scene.platform not in params.platforms:
        return f"platform {scene.platform}"
    if not any(start <= scene.datetime < end for start, end in periods.values()):
        return "outside the dates"
    if not footprint.intersects(scene.geometry):
        return "outside the area"
    if scene.tier not in params.tiers:
        return f"tier {scene.tier}"
    if params.max_cloud is not None and (scene.cloud_cover or 0) > params.max_cloud:
        return f"cloud over {params.max_cloud:g} %"
    drifted = scene.platform == "landsat-7" and scene.datetime.date() >= ETM_ORBIT_DRIFT
    return "landsat-7 after its orbit drift" if drifted and not params.include_etm_drift else ""


def _latest(scenes: Iterable[Scene], left_out: dict[str, set[str]]) -> list[Scene]:
    """Keep the latest processing of each acquisition (USGS reprocesses, and moves scenes between tiers)."""
    kept: dict[tuple[str, int], Scene] = {}
    for scene in scenes:
        key = (scene.observation, scene.wrs_row)
        known = kept.setdefault(key, scene)
        if known is not scene:
            older, newer = (known, scene) if scene.processed > known.processed else (scene, known)
            left_out["processed again"].add(older.id)
            kept[key] = newer
    return [scene for look in observations(kept.values()).values() for scene in look]


def _nothing(
    params: SearchParams,
    footprint: BaseGeometry,
    periods: Mapping[int, Period],
    counts: Mapping[str, int],
    refused: list[Refusal],
) -> CatalogError:
    west, south, east, north = footprint.bounds
    asked = (
        f"no scene of {', '.join(params.platforms)}, tier {'/'.join(params.tiers)}, years {min(periods)}-{max(periods)}"
        f" at {west:.2f} {south:.2f} {east:.2f} {north:.2f} in {', '.join(map(redact, params.catalogs))}"
    )
    passed_over = [f"{number} left out: {reason}" for reason, number in counts.items()]
    if refused:
        passed_over.append(f"{len(refused)} refused, the first {refused[0].id}: {refused[0].reason}")
    nearby = any(not reason.startswith("outside") for reason in counts)
    fix = "widen search.platforms, search.tiers or search.max_cloud" if nearby else "check the area, years and catalog"
    return CatalogError("; ".join([asked, *passed_over]), fix=fix)


Found = tuple[Mapping[str, Any] | Scene, str]
"""An item, or a scene of a frozen list; and the folder or address its relative hrefs start from."""


def _items(
    catalog: str, params: SearchParams, footprint: BaseGeometry, periods: Mapping[int, Period], web: Web
) -> Iterator[Found]:
    """Yield every item of a catalog that may matter."""
    source = PLANETARY_COMPUTER if catalog == "planetary-computer" else catalog
    if "://" not in source:
        path = web.trust.path(source, what=f"catalog {source[:200]}")
        # Absolute: relative hrefs are resolved now, and read by workers in other folders.
        source = str(path / "catalog.json" if path.is_dir() else path)
    document = _read(source, web)
    if isinstance(document, pa.Table):
        yield from _rows(document, source)
        return
    search = _search_link(document, source)
    if search is None:
        yield from _walk(document, source, web)
        return
    url, method = search
    for bounds in _boxes(footprint):
        for start, end in _merged(periods.values()):
            body = {
                "collections": [params.collection],
                "bbox": list(bounds),
                "datetime": f"{start:%Y-%m-%dT%H:%M:%SZ}/{end:%Y-%m-%dT%H:%M:%SZ}",
                "limit": PAGE_ITEMS,
            }
            yield from _pages(url, method, body, web)


def _read(source: str, web: Web) -> Any:
    """Read one document: decoded JSON, a list of NDJSON items, or a Parquet table."""
    what = f"catalog {redact(source)[:200]}"
    remote = "://" in source
    suffix = Path(urlsplit(source).path if remote else source).suffix.lower()
    table, lines = suffix in (".parquet", ".geoparquet"), suffix in (".ndjson", ".jsonl")
    if remote and not (table or lines):
        return web.json(source, what=what)
    try:
        if remote:
            data = web.content(source, what=what, max_bytes=MAX_FILE_BYTES)
        else:
            path = web.trust.path(source, what=what)
            if path.stat().st_size > MAX_FILE_BYTES:
                raise CatalogError(f"{what} is larger than {MAX_FILE_BYTES >> 20} MB", fix="split it")
            data = path.read_bytes()
        if table:
            return _unpacked(pq.ParquetFile(io.BytesIO(data)), len(data), what)
        return [json.loads(line) for line in data.splitlines() if line.strip()] if lines else json.loads(data)
    except (OSError, ValueError, RecursionError, pa.ArrowException) as error:
        kind = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        raise CatalogError(f"{what} cannot be read ({kind})", fix="give STAC JSON, NDJSON or GeoParquet") from error


def _unpacked(file: pq.ParquetFile, packed_bytes: int, what: str) -> pa.Table:
    """Read a Parquet file a few rows at a time: a long value that is stored once may be that of every row."""
    most = min(MAX_FILE_BYTES, max(_LEAST_UNPACKED_BYTES, _UNPACKED_TIMES * packed_bytes))
    too_large = CatalogError(f"{what} unpacks to more than {most >> 20} MB", fix="split it")
    groups = [file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups)]
    if sum(groups) > MAX_FILE_BYTES:
        raise too_large
    # No value is longer than its group is said to be, but that may be a lie.
    rows = min(_ROWS_AT_ONCE, MAX_FILE_BYTES // max([1, *groups]))
    size, batches = 0, []
    for batch in file.iter_batches(rows):
        batches.append(batch)
        size += batch.nbytes
        if size > most:
            raise too_large
    return pa.Table.from_batches(batches, file.schema_arrow)


def _search_link(document: Any, source: str) -> tuple[str, str] | None:
    """Return where and how a STAC API is searched; None for a static catalog or item file."""
    if not isinstance(document, dict):
        return None
    links = [link for link in _links(document) if link.get("rel") == "search"]
    if not links and "conformsTo" not in document:
        return None
    if not links and not any("item-search" in str(name) for name in document["conformsTo"] or ()):
        raise CatalogError(f"catalog {redact(source)} cannot be searched (no item-search)", fix="give another API")
    posts = [link for link in links if str(link.get("method", "")).upper() == "POST"]
    href = str((posts or links or [{"href": source.rstrip("/") + "/search"}])[0]["href"])
    return urljoin(source.rstrip("/") + "/", href), "POST" if posts else "GET"


def _links(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    links = document.get("links")
    return [link for link in links if isinstance(link, dict) and link.get("href")] if isinstance(links, list) else []


def _pages(url: str, method: str, body: Mapping[str, Any], web: Web) -> Iterator[Found]:
    """Yield the items of all pages of one search."""
    asked: set[str] = set()
    known: set[str] = set()
    for _ in range(MAX_PAGES):
        if method == "POST":
            document = web.json(url, what="search", body=body)
        else:
            plain = {k: ",".join(map(str, v)) if isinstance(v, list) else v for k, v in body.items()}
            url, body = (f"{url}?{urlencode(plain)}" if plain else url), {}
            document = web.json(url, what="search")
        features = document.get("features") if isinstance(document, dict) else None
        if not isinstance(features, list):
            raise CatalogError(f"search at {urlsplit(url).netloc}: answer holds no features", fix="check the address")
        items = [item for item in features if isinstance(item, dict)]
        names = {str(item.get("id")) for item in items}
        asked.add(f"{url} {json.dumps(body, sort_keys=True)}")
        yield from ((item, url) for item in items)
        following = next((link for link in _links(document) if link.get("rel") == "next"), None)
        if following is None or not items:
            return
        url, method = urljoin(url, str(following["href"])), str(following.get("method") or "GET").upper()
        more: dict[str, Any] = following["body"] if isinstance(following.get("body"), dict) else {}
        # pystac-client's reading of the specification too: without "merge" the body stands alone.
        body = ({**body, **more} if following.get("merge") else more) if method == "POST" else {}
        if f"{url} {json.dumps(body, sort_keys=True)}" in asked or names <= known:
            raise CatalogError(f"search at {urlsplit(url).netloc}: pages repeat", fix="report it to the catalog")
        known |= names
    raise CatalogError(f"search at {urlsplit(url).netloc}: more than {MAX_PAGES} pages", fix="ask for less at a time")


def _walk(document: Any, source: str, web: Web) -> Iterator[Found]:
    """Yield the items of a static catalog, or of an item file."""
    visited = {source}
    waiting: list[tuple[str, Any]] = [(source, document)]
    while waiting:
        here, document = waiting.pop()
        document = _read(here, web) if document is None else document
        base = here if "://" in here else str(Path(here).parent)
        kind = document.get("type") if isinstance(document, dict) else None
        if isinstance(document, pa.Table):
            yield from _rows(document, here)
        elif isinstance(document, list) or kind == "FeatureCollection":
            features = document if isinstance(document, list) else document.get("features") or []
            yield from ((item, base) for item in features if isinstance(item, dict))
        elif kind == "Feature":
            yield document, base
        elif isinstance(document, dict) and "links" in document:
            for link in reversed(_links(document)):
                if link.get("rel") not in ("child", "item", "items"):
                    continue
                href = str(link["href"])
                there = (
                    urljoin(here, href)
                    if "://" in here or "://" in href
                    else posixpath.normpath(posixpath.join(base, href))
                )
                if there not in visited:
                    visited.add(there)
                    waiting.append((there, None))
            if len(visited) > MAX_DOCUMENTS:
                raise CatalogError(f"catalog {redact(source)} links more than {MAX_DOCUMENTS} documents")
        else:
            raise CatalogError(f"catalog {redact(here)[:200]} is not STAC", fix="give a catalog or an item file")


def _rows(table: pa.Table, source: str) -> Iterator[Found]:
    """Yield the rows of a GeoParquet: a frozen list of ours, or stac-geoparquet turned back into items."""
    base = source if "://" in source else str(Path(source).parent)
    if is_scene_list(table.schema):
        yield from ((scene, base) for scene in scenes_from_table(table))
        return
    if not {"id", "geometry", "assets"} <= set(table.column_names):
        raise CatalogError(f"catalog {redact(source)[:200]} is no STAC GeoParquet", fix="it needs id, geometry, assets")
    outside = ("id", "geometry", "bbox", "assets", "links", "collection", "type")
    for batch in table.to_batches(max_chunksize=1000):
        for row in batch.to_pylist():
            item = {name: row.get(name) for name in outside}
            try:
                item["geometry"] = shapely.from_wkb(row["geometry"])
            except (TypeError, shapely.GEOSException):
                item["geometry"] = None
            bbox = row.get("bbox")
            item["bbox"] = list(bbox.values()) if isinstance(bbox, dict) else bbox
            item["properties"] = {name: value for name, value in row.items() if name not in outside}
            yield item, base


def _boxes(footprint: BaseGeometry) -> list[tuple[float, float, float, float]]:
    """Return boxes that cover an area, none across the antimeridian, none much larger than the area."""
    west, south, east, north = footprint.bounds
    boxes = []
    halves = [(west, east)] if east - west <= 180 else [(-180.0, 0.0), (0.0, 180.0)]
    for left, right in halves:
        half = shapely.clip_by_rect(footprint, left, -90, right, 90)
        if half.is_empty:
            continue
        west, south, east, north = half.bounds
        columns, rows = (max(1, int(-(-side // _BOX_DEGREES))) for side in (east - west, north - south))
        for column in range(columns):
            for row in range(rows):
                x, y = west + _BOX_DEGREES * column, south + _BOX_DEGREES * row
                part = shapely.clip_by_rect(half, x, y, x + _BOX_DEGREES, y + _BOX_DEGREES)
                if not part.is_empty:
                    boxes.append(tuple(float(edge) for edge in part.bounds))
    return boxes  # type: ignore[return-value]


def _merged(periods: Iterable[Period]) -> list[Period]:
    """Join periods that touch, so that a series of years is one search."""
    merged: list[Period] = []
    for start, end in sorted(periods):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged
