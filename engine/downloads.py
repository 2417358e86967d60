"""What a reader of a result page may take away: small files copied beside it, the others named with size and place."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import geopandas as gpd
import pandas as pd
import pyarrow as pa

from engine.errors import StoreError
from engine.files import cannot_read, cannot_write, replacing
from engine.legend import Entry, Ramp, year_colours
from engine.overview import LEGENDS, RAMPS, Layer
from engine.places import Place, entries, relative
from engine.raster import write_qml
from engine.record import ITEMS, RECORD
from engine.unpacked import bounded_batches, open_packed

FOLDER: Final = "files"
"""Of copies, in the page's folder."""

PATCHES: Final = "patches.gpkg"
MOST_PATCHES: Final = 20_000
"""In the GeoPackage, the largest of those that count."""

_TABLES: Final = {
    "series.csv": "series",
    "rates.csv": "series",
    "change.csv": "table",
    "transitions.csv": "table",
    "patch_areas.csv": "table",
    "history.csv": "table",
    "areas.csv": "table",
    "years.csv": "table",
    RECORD: "record",
    ITEMS: "scenes",
}
_MOST_FILES: Final = 200
"""Of a layer that are copied; of more only the pattern is named."""

_PART_ROWS: Final = 2**13


@dataclass(frozen=True)
class Offer:
    """Files that are copied together or not at all."""

    kind: str
    """Of a layer, or ``series``, ``table``, ``patches``, ``style``, ``record``, ``scenes``, ``model``, ``stac``."""

    year: int | None
    files: tuple[Place, ...]
    root: Place
    """What the paths are told from: the run's folder or its store."""

    pattern: str = ""
    """How files that are not copied are named together, from the root."""

    may_copy: bool = True

    style: tuple[Entry, ...] | Ramp | None = None
    """For QGIS, of rasters that have none in the run."""


def find_offers(folder: Path, outputs: Place, layers: Sequence[Layer]) -> Iterator[Offer]:
    """Yield what a run has to give, the most useful and smallest first."""
    for name, kind in _TABLES.items():
        yield Offer(kind, None, (folder / name,), folder)
    for kind in ("class", "probability", "change"):
        places = (source.place for layer in layers if layer.kind == kind for source in layer.tiles.values())
        styles = (place.with_name(f"{place.stem}.qml") for place in places)
        if style := next((style for style in styles if style.is_file()), None):
            yield Offer("style", None, (style,), outputs)
    yield Offer("model", None, (outputs / "model" / "README.md",), outputs)
    yield Offer("stac", None, (outputs / "stac" / "catalog.json",), outputs)
    yield Offer("patches", None, (outputs / "change" / "patches.parquet",), outputs, may_copy=False)
    yield from _raster_offers(outputs, layers)


def _raster_offers(outputs: Place, layers: Sequence[Layer]) -> Iterator[Offer]:
    """Yield rasters: of change first, then classes before probabilities, of each the newest year first."""
    seen: set[Place] = set()
    years = sorted({layer.year for layer in layers if layer.year is not None}, reverse=True)
    for kind in ("change", "loss_year", "gain_year", "class", "uncertainty", "probability"):
        own = sorted((layer for layer in layers if layer.kind == kind), key=lambda layer: -(layer.year or 0))
        for layer in own:
            tifs = tuple(dict.fromkeys(source.place for source in layer.tiles.values()))
            if not set(tifs) <= seen:
                seen |= set(tifs)
                # Files of all years together have a band for each.
                shared = sum(tifs[0] in (source.place for source in other.tiles.values()) for other in own) > 1
                yield _rasters(kind, None if shared else layer.year, tifs, outputs, years)
        for year in years if kind in ("class", "probability") else ():
            _, files = entries(outputs / "maps" / str(year))
            left = [one for one in files if one.suffix == ".tif" and one not in seen]
            if tifs := tuple(one for one in left if one.name.startswith(f"{kind}_z")):
                yield _rasters(kind, year, tifs, outputs, years)


def _rasters(kind: str, year: int | None, tifs: tuple[Place, ...], outputs: Place, years: Sequence[int]) -> Offer:
    first = tifs[0]
    beside = first.name.partition("_z")
    ending = f"_{year}.tif" if year is not None and first.stem.endswith(f"_{year}") else ".tif"
    folder = relative(first.parent, outputs)
    return Offer(kind, year, tifs, outputs, f"{folder}/{beside[0]}_*{ending}", style=_style(kind, years))


def _style(kind: str, years: Sequence[int]) -> tuple[Entry, ...] | Ramp:
    """Return the colours of a layer as the page shows it; a code of a year is the year."""
    if kind in ("loss_year", "gain_year"):
        rising = sorted(years)
        return tuple(map(Entry, rising, map(str, rising), year_colours(kind, len(rising))))
    return LEGENDS[kind] if kind in LEGENDS else RAMPS[kind]


def take(offers: Iterator[Offer], folder: Path, *, most_bytes: int) -> list[dict[str, Any]]:
    """Copy what fits into ``folder/files``, in order; return every file, or pattern of files, as a page lists them.

    Links are not followed out of the run: what lies elsewhere was not given to be shown.
    """
    listed: list[dict[str, Any]] = []
    for offer in offers:
        files = [one for one in offer.files if one.is_file() and _within(one, offer.root)]
        if not files:
            continue
        sizes = [_size(one) for one in files]
        fits = offer.may_copy and len(files) <= _MOST_FILES and sum(sizes) <= most_bytes
        if fits or len(files) == 1:
            for file, size in zip(files, sizes, strict=True):
                where = relative(file, offer.root)
                url = _copy(file, folder, where) if fits else None
                if url and offer.style and not file.with_name(f"{file.stem}.qml").is_file():
                    write_qml((folder / url).with_suffix(".qml"), offer.style)
                listed.append(_entry(offer, file.name, size, where, url))
            most_bytes -= sum(sizes) if fits else 0
        else:
            name = f"{offer.pattern.rpartition('/')[2]} ({len(files)})"
            listed.append(_entry(offer, name, sum(sizes), offer.pattern, None))
    return listed


def _entry(offer: Offer, name: str, size: int, where: str, url: str | None) -> dict[str, Any]:
    return {"kind": offer.kind, "year": offer.year, "name": name, "bytes": size, "url": url, "where": where}


def _within(file: Place, root: Place) -> bool:
    return not isinstance(file, Path) or (isinstance(root, Path) and file.resolve().is_relative_to(root.resolve()))


def _size(file: Place) -> int:
    return file.stat().st_size if isinstance(file, Path) else file.size()


def _copy(file: Place, folder: Path, where: str) -> str:
    """Copy a file under its path in the run, with the sidecars that name and colour its categories."""
    target = folder / FOLDER / where
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = (
        [file.with_name(f"{file.name}.aux.xml"), file.with_name(f"{file.stem}.qml")] if file.suffix == ".tif" else []
    )
    for one in (file, *beside):
        if one.is_file():
            place = target.with_name(one.name)
            if isinstance(one, Path):
                try:
                    shutil.copyfile(one, place)
                except OSError as error:
                    raise cannot_write(place, error) from error
            else:
                one.download(place)
    return f"{FOLDER}/{where}"


def largest_patches(
    path: Place, most: int, columns: Sequence[str], *, large: bool = False
) -> tuple[pd.DataFrame, int, int]:
    """Return the largest patches of change by area, how many there are, and how many of these are large.

    Parameters
    ----------
    path : Place
        ``change/patches.parquet``; read a few thousand rows at a time.
    most : int
    columns : sequence of str
        Wanted; ``area_ha`` and ``large`` are always there.
    large : bool
        Only those of the least area that counts.

    Raises
    ------
    StoreError
        If it is damaged.
    """
    wanted = list(dict.fromkeys(["area_ha", "large", *columns]))
    kept, total, counted = pd.DataFrame(columns=wanted), 0, 0
    try:
        for batch in _some_columns(path, wanted):
            rows = batch.to_pandas()
            total, counted = total + len(rows), counted + int(rows["large"].sum())
            rows = rows[rows["large"].astype(bool)] if large else rows
            both = pd.concat([kept, rows]) if len(kept) else rows
            kept = both.sort_values("area_ha", ascending=False, kind="stable").head(most)
    except OSError as error:
        raise cannot_read(path, error) from error
    except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{path} is damaged", fix="run `mangroves change` again") from error
    return kept, total, counted


def _some_columns(path: Place, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield flat columns of a Parquet file, some rows at a time.

    Raises
    ------
    ValueError
        If the file unpacks to too much, or a column is missing.
    """
    source = path if isinstance(path, Path) else pa.BufferReader(path.read_bytes())
    with open_packed(source) as file:
        schema = file.metadata.schema.to_arrow_schema()
        kinds = {name: schema.field(name).type for name in columns}
        yield from bounded_batches(file, kinds, _PART_ROWS, file_bytes=_size(path), columns=columns)


def write_patches(path: Place, folder: Path) -> dict[str, Any] | None:
    """Write the large patches as a GeoPackage into ``folder/files``; return it as a page lists it, None without any."""
    if not path.is_file():
        return None
    columns = ["direction", "kind", "year", "area_ha", "large", "confidence_pct", "tide_suspect", "region", "geometry"]
    rows, _, _ = largest_patches(path, MOST_PATCHES, columns, large=True)
    if rows.empty:
        return None
    target = folder / FOLDER / PATCHES
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        shapes = gpd.GeoSeries.from_wkb(rows["geometry"], crs="EPSG:4326")
    except Exception as error:  # shapely's own, of bytes that are no geometry
        raise StoreError(f"{path} is damaged", fix="run `mangroves change` again") from error
    with replacing(target) as temporary:
        table = gpd.GeoDataFrame(rows.drop(columns=["geometry", "large"]), geometry=shapes)
        table.to_file(temporary, layer="patches", driver="GPKG")
    size = target.stat().st_size
    where = "change/patches.parquet"
    return {
        "kind": "patches",
        "year": None,
        "name": PATCHES,
        "bytes": size,
        "url": f"{FOLDER}/{PATCHES}",
        "where": where,
    }
