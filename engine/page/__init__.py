"""What the page of a run shows: one object of plain data, made here for the folder and for the viewer alike.

``page_data`` returns it, ``write_page`` puts it beside the page's files. Strings in it come from a run, whose
record and tables are untrusted: the page sets them as text, never as markup.

The object, all of it JSON; a box is ``[[south, west], [north, east]]`` in degrees, east beyond 180 where a run crosses
the antimeridian::

    name, notice        of the run; the notice is always visible
    years               [2012, 2013, 2020]
    regions             [{name, box}]
    layers              [{kind, year | null, images: [{url, box, pixel_m}]}]
                     or [{kind, year | null, tiles: {url, box, min_zoom, max_zoom, pixel_m}}]
                        url as Leaflet takes it: .../{z}/{x}/{y}.png; layers of both sorts may be mixed
    legends             {kind: {entries: [[key, colour]]}} or {kind: {stops: [[value, colour]], percent: bool}}
    points              null or [{key, colour, points: [[lat, lon, text]], total}]    switched on and off by the reader
    story               null or an address of the same origin: a click asks it for ?lon=&lat= and shows the JSON it
                        answers, an object of texts, numbers, lists and objects, as its keys and values
    edits               null or {url, token}: an address of the same origin that answers the polygons drawn so far as
                        GeoJSON, and takes new ones with the token in the header x-mangroves-token
    series              [{by, where, rows: [{year, mangrove_ha, loss_ha, gain_ha, estimated_ha, low_ha, high_ha,
                        provisional}]}]; figures may be null
    patches             {shown: [{direction, kind, year, area_ha, confidence_pct, region, box, rings}], total, large}
                        rings: [[[lat, lon], ...], ...]; the largest by area
    downloads           [{kind, year | null, name, bytes, url | null, where}]      where: the path in the run
    provenance          {version, engine_sha256, config_sha256, created, items: {...}, masks: [...], lost, refused,
                        citation, licences: [[what, licence]]}

``kind`` of a layer is one of ``engine.overview.KINDS``. A key is looked up in ``languages.json``; where that has none
it is shown as it is (a year).
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import shapely

import engine
from engine.downloads import largest_patches
from engine.errors import StoreError
from engine.files import cannot_read, write_text
from engine.legend import OUTSIDE_AREA
from engine.overview import LEGENDS, RAMPS, palette
from engine.params import RunParams
from engine.places import Place
from engine.record import ITEMS, citation

MOST_PATCHES: Final = 300
"""Listed and outlined, the largest; the others are counted."""

MOST_PLACES: Final = 200
"""With a series of their own, those with most mangrove."""

PAGE: Final = "index.html"
_FILES: Final = ("page.css", "page.js")
_LEAFLET: Final = ("leaflet.js", "leaflet.css")
_OUTLINE_DEGREES: Final = 0.0002
_SERIES: Final = ("mangrove_ha", "loss_ha", "gain_ha", "estimated_ha", "low_ha", "high_ha")
_MANGROVE_CODE: Final = 2
_READ: Final[dict[str, Any]] = {
    "dtype": {"by": str, "where": str},
    "keep_default_na": False,  # a place may be called NA, None or null
    "na_values": {name: [""] for name in ("code", "year", "provisional", "hectares", *_SERIES)},
}


@dataclass(frozen=True, kw_only=True)
class Result:
    """A run as a page reads it."""

    folder: Path
    """Of record, list of scenes and tables."""

    outputs: Place
    """Of rasters and stores."""

    record: Mapping[str, Any]
    """As ``read_record`` returns it."""

    params: RunParams
    """What the record says was asked, checked."""

    @property
    def notice(self) -> str:
        return str(self.record.get("notice") or "")


def page_data(
    result: Result,
    layers: Sequence[Mapping[str, Any]],
    regions: Sequence[Mapping[str, Any]],
    *,
    downloads: Sequence[Mapping[str, Any]] = (),
    points: Sequence[Mapping[str, Any]] | None = None,
    story: str | None = None,
    edits: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return all that the page of a run shows, as the module says.

    Parameters
    ----------
    result : Result
    layers : sequence of mapping
        ``kind``, ``year`` and ``images`` or ``tiles`` of each, in the order they are offered.
    regions : sequence of mapping
        Of ``engine.overview.region_boxes``.
    downloads : sequence of mapping
    points : sequence of mapping, optional
    story : str, optional
        Address of the page's own origin, where something listens.
    edits : mapping, optional
        ``url``, such an address too, and ``token``.

    Raises
    ------
    StoreError
        If a table of the run is damaged.
    """
    years = sorted({int(layer["year"]) for layer in layers if layer["year"] is not None})
    return {
        "name": result.params.name,
        "notice": result.notice,
        "years": years,
        "regions": list(regions),
        "layers": list(layers),
        "legends": {kind: legend(kind, list(result.params.years)) for kind in {str(one["kind"]) for one in layers}},
        "words": _WORDS,
        "points": points,
        "story": story,
        "edits": None if edits is None else dict(edits),
        "series": read_series(result),
        "patches": read_patches(result),
        "downloads": list(downloads),
        "provenance": provenance(result),
    }


def legend(kind: str, years: Sequence[int]) -> dict[str, Any]:
    """Return the legend of a layer: entries, or the stops of a ramp; of the composite neither.

    Examples
    --------
    >>> legend("loss_year", [2012, 2013])["entries"]
    [['2013', '#661428']]
    """
    if kind == "composite":
        return {"entries": [["composite.vegetation", "#4f7a3a"], ["composite.water", "#22304a"]]}
    if kind in RAMPS:
        stops = [[value, _hex(colour)] for value, colour in RAMPS[kind].stops]
        return {"stops": stops, "percent": kind != "looks"}
    if kind in ("loss_year", "gain_year"):
        colours = palette(kind, years)  # a change is dated by the first year after it, so never by the first of all
        return {"entries": [[str(year), _hex(colours[number])] for number, year in enumerate(years) if number]}
    name = "change" if kind == "change" else "class"  # by which the page has words for the codes
    shown = [entry for entry in LEGENDS[kind] if entry.code != OUTSIDE_AREA]
    return {"entries": [[f"{name}.{entry.code}", _hex(entry.colour)] for entry in shown]}


def _hex(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def read_series(result: Result) -> list[dict[str, Any]]:
    """Return the area year by year of the whole and of the places with most mangrove.

    Of a run whose years are not compared yet, the areas of each year's map.
    """
    series, areas = result.folder / "series.csv", result.folder / "areas.csv"
    try:
        if series.is_file():
            table = pd.read_csv(series, usecols=["by", "where", "year", "provisional", *_SERIES], **_READ)
        elif areas.is_file():
            table = pd.read_csv(areas, usecols=["by", "code", "where", "year", "hectares"], **_READ)
            table = table[table["code"] == _MANGROVE_CODE].rename(columns={"hectares": "mangrove_ha"})
            table = table.assign(provisional=False, **dict.fromkeys(_SERIES[1:], math.nan))
        else:
            return []
        table["year"] = table["year"].astype(int)
        means = table.groupby(["by", "where"], sort=False)["mangrove_ha"].mean()
        kept = means[means.index.get_level_values("by") != "total"].nlargest(MOST_PLACES)
        shown = [key for key in means.index if key[0] == "total" or key in kept.index]
        found = []
        for by, where in shown:
            rows = table[(table["by"] == by) & (table["where"] == where)].sort_values("year").to_dict("records")
            told = [
                {"year": row["year"], "provisional": bool(row["provisional"])} | {n: _number(row[n]) for n in _SERIES}
                for row in rows
            ]
            found.append({"by": str(by), "where": str(where), "rows": told})
    except OSError as error:
        raise cannot_read(series, error) from error
    except (ValueError, KeyError, TypeError, pd.errors.ParserError) as error:
        raise StoreError(f"{series} or areas.csv is damaged", fix="run the command that makes it again") from error
    return found


def _number(value: Any) -> float | None:
    return round(float(value), 2) if value is not None and math.isfinite(float(value)) else None


def read_patches(result: Result) -> dict[str, Any]:
    """Return the largest patches of change with outlines, and how many there are; a row group is held at a time."""
    path = result.outputs / "change" / "patches.parquet"
    if not path.is_file():
        return {"shown": [], "total": 0, "large": 0}
    columns = ["direction", "kind", "year", "confidence_pct", "region", "geometry"]
    rows, total, large = largest_patches(path, MOST_PATCHES, columns)
    try:
        shown = [_patch(row) for row in rows.to_dict("records")]
    except (shapely.GEOSException, AttributeError, TypeError, ValueError) as error:
        raise StoreError(f"{path} is damaged", fix="run `mangroves change` again") from error
    return {"shown": shown, "total": total, "large": large}


_WORDS: Final = {
    kind: {entry.name: f"{kind}.{entry.code}" for entry in LEGENDS[kind] if entry.code != OUTSIDE_AREA}
    for kind in ("class", "change")
}
"""By which the page has words for the names of classes and changes."""


def _patch(row: Mapping[Any, Any]) -> dict[str, Any]:
    geometry = shapely.from_wkb(row["geometry"])
    west, south, east, north = geometry.bounds
    outline = geometry.simplify(_OUTLINE_DEGREES)
    rings = [[[round(y, 5), round(x, 5)] for x, y in part.exterior.coords] for part in shapely.get_parts(outline)]
    return {
        "direction": str(row["direction"]),
        "kind": _WORDS["change"].get(str(row["kind"]), str(row["kind"])),
        "year": int(row["year"]),
        "area_ha": _number(row["area_ha"]),
        "confidence_pct": _number(row["confidence_pct"]),
        "region": str(row["region"]),
        "box": [[round(south, 5), round(west, 5)], [round(north, 5), round(east, 5)]],
        "rings": [ring for ring in rings if len(ring) > 3] or [],
    }


def provenance(result: Result) -> dict[str, Any]:
    """Return what made a run: software, configuration, scenes, masks, licences, and how to cite it."""
    record, params = result.record, result.params
    versions = (record.get("sessions") or [{}])[-1].get("versions", {})
    simulated = result.notice.upper().startswith("SIMULATED")
    masks = [
        {key: str(mask.get(key) or "") for key in ("name", "year", "licence", "citation")}
        for mask in record.get("masks") or []
        if isinstance(mask, dict)
    ]
    items = _scenes(result)
    version, sha = str(versions.get("mangroves", engine.__version__)), str(record["config_sha256"])
    licences = [["mangroves (software)", "Apache-2.0"], ["Leaflet (map on this page)", "BSD-2-Clause"]]
    if not simulated:
        licences.insert(0, ["Landsat", "public domain (USGS)"])
    of_masks = dict.fromkeys((mask["name"], mask["licence"]) for mask in masks if mask["licence"])
    licences += [list(one) for one in of_masks]
    return {
        "version": version,
        "engine_sha256": str(versions.get("engine_sha256", "")),
        "config_sha256": sha,
        "created": str((record.get("sessions") or [{}])[-1].get("started", "")),
        "items": items,
        "masks": masks,
        "lost": len(record.get("lost") or []),
        "refused": len(record.get("refused") or []),
        "citation": citation(record, params),
        "licences": licences,
    }


def _scenes(result: Result) -> dict[str, Any]:
    """Return how many scenes a run froze, by platform, from when to when."""
    path, items = result.folder / ITEMS, result.record.get("items") or {}
    told: dict[str, Any] = {"count": items.get("count", 0), "sha256": str(items.get("sha256", "")), "platforms": []}
    if not path.is_file():
        return told
    try:
        table = pq.read_table(path, columns=["platform", "datetime"])
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise StoreError(f"{path} is damaged", fix="restore it, or begin anew with --fresh") from error
    counts = Counter(str(name) for name in table["platform"].to_pylist())
    times = [time for time in table["datetime"].to_pylist() if time is not None]
    told["platforms"] = sorted(counts.items())
    if times:
        told |= {"first": f"{min(times):%Y-%m-%d}", "last": f"{max(times):%Y-%m-%d}"}
    return told


def languages() -> dict[str, dict[str, str]]:
    """Return the texts of the page: language -> key -> text, every key in every language."""
    table = json.loads(_asset("languages.json").decode())
    return {language: {key: row[language] for key, row in table.items()} for language in table["name"]}


def page_files(data: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the files of a page by relative path: all but the pictures and downloads that ``data`` names."""
    import xstatic.pkg.leaflet as leaflet

    base = Path(leaflet.BASE_DIR)
    # As a script and not as JSON: a page that was opened from a folder may not fetch.
    contents = {"MANGROVES": data, "TEXTS": languages()}
    script = "".join(f"window.{name} = {_script(content)};\n" for name, content in contents.items())
    html = _asset("page.html").decode()
    for name in ("notice", "name"):
        html = html.replace("{{" + name + "}}", escape(str(data[name])))
    found = {PAGE: html.encode(), "data.js": script.encode()}
    found |= {name: _asset(name) for name in _FILES}
    found |= {f"leaflet/{name}": (base / name).read_bytes() for name in _LEAFLET}
    return found | {"leaflet/LICENSE.txt": _asset("leaflet-licence.txt")}


def write_page(folder: Path, data: Mapping[str, Any]) -> None:
    """Write the files of a page into a folder, whole or not at all each."""
    for name, content in page_files(data).items():
        write_text(folder / name, content.decode())


def _script(content: Any) -> str:
    """Return JSON as a script takes it: ASCII, so that no line separator ends a string, and no end of a script."""
    return json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _asset(name: str) -> bytes:
    return files("engine.page").joinpath(name).read_bytes()
