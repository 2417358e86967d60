"""Fetch the parts of public mangrove masks that an area needs: ESA WorldCover and Global Mangrove Watch.

A mask is a folder of GeoTIFFs with a ``mask.json`` that says what they are, under what licence, and their
checksums. The folder appears when it is whole.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, Final

import rasterio
import rasterio.shutil
import requests
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader
from rasterio.windows import Window, from_bounds
from shapely import get_parts

from engine.area import Area
from engine.errors import CatalogError, MaskError, StoreError
from engine.files import write_text
from engine.lookup import MASK_SIDECAR, PLANETARY_COMPUTER, planetary_rasters
from engine.reader import Access, Bounds, open_raster, overlap, read_raster
from engine.trust import Trust, redact, safe_name
from engine.web import Web

GMW_RECORD: Final = "https://zenodo.org/api/records/6894273"
"""Zenodo record of Global Mangrove Watch v3.0."""

YEARS: Final = {"worldcover": (2020, 2021), "gmw": (1996, *range(2007, 2011), *range(2015, 2021))}

ABOUT: Final[dict[str, dict[str, Any]]] = {
    "worldcover": {
        "value": [95],
        "licence": "CC-BY-4.0",
        "definition": "ESA WorldCover class 95, mangroves, 10 m, from Sentinel-1 and Sentinel-2",
        "homepage": "https://esa-worldcover.org",
    },
    "gmw": {
        "value": [1],
        "licence": "CC-BY-4.0",
        "definition": "Global Mangrove Watch v3.0 mangrove extent, 25 m, by L-band radar change from a 2010 baseline",
        "citation": "Bunting P., Rosenqvist A., Hilarides L. et al. (2022), Global Mangrove Extent Change 1996-2020: "
        "Global Mangrove Watch Version 3.0, Remote Sensing 14(15), 3657, doi 10.3390/rs14153657",
        "homepage": "https://doi.org/10.5281/zenodo.6894273",
    },
}
_WORLDCOVER_CITATIONS: Final = {
    2020: "Zanaga D. et al. (2021), ESA WorldCover 10 m 2020 v100, doi 10.5281/zenodo.5571936",
    2021: "Zanaga D. et al. (2022), ESA WorldCover 10 m 2021 v200, doi 10.5281/zenodo.7254221",
}
_GMW_TILE: Final = re.compile(r"GMW_([NS])(\d{2})([EW])(\d{3})_(\d{4})_v3\.tif")
"""A tile of one degree, named by its north-west corner."""

_MAX_TILE_BYTES: Final = 2**27
_MAX_ZIP_BYTES: Final = 2**33
_CHUNK: Final = 2**16
"""Bytes written at once: what a broken connection loses at most."""
_ATTEMPTS: Final = 5
_TIMEOUT_S: Final = 60
_COPY_PX: Final = 4096

Progress = Callable[[str], None]


def get_masks(
    source: str,
    year: int,
    area: Area,
    out: Path | str,
    *,
    trust: Trust,
    signer: Any = None,
    progress: Progress = lambda line: None,
    api: str | None = None,
) -> Path:
    """Fetch what an area needs of a public mask.

    Parameters
    ----------
    source : str
        ``worldcover`` reads windows from the Planetary Computer; ``gmw`` downloads the archive of the year
        (it is kept in ``out`` and resumed) and takes the tiles out of it.
    year : int
        Of the mask.
    area : Area
    out : path
        Folder; the mask becomes ``out/<source>-<year>`` and replaces what an earlier call made there.
    trust : Trust
    signer : object, optional
        Its ``sign(href)`` gives the href that may be read.
    progress : callable
        Told one line at a time.
    api : str, optional
        Address of the STAC API, or of the Zenodo record, in place of the public one.

    Returns
    -------
    Path
        The folder, fit for ``labels.masks[].path``.

    Raises
    ------
    MaskError
        If there is no such mask, or what came is not what was announced.
    CatalogError
        If an archive cannot be reached.
    StoreError
        If the folder cannot be written.
    TrustError
        If an archive points at a host that is not allowed.
    """
    if source not in YEARS or year not in YEARS[source]:
        known = "; ".join(f"{name}: {', '.join(map(str, years))}" for name, years in YEARS.items())
        raise MaskError(f"there is no {source} mask of {year}", fix=f"choose among {known}")
    folder = Path(out) / f"{source}-{year}"
    about = {"name": folder.name, "source": source, "year": year, **ABOUT[source]}
    with _new_folder(folder) as target:
        if source == "worldcover":
            about["citation"] = _WORLDCOVER_CITATIONS[year]
            files = _get_worldcover(year, area, target, trust, signer, progress, api or PLANETARY_COMPUTER)
        else:
            files = _get_gmw(year, area, target, Path(out), trust, progress, api or GMW_RECORD)
        about["files"] = [
            {"name": name, "href": href, "sha256": _digest(target / name, "sha256")} for name, href in files
        ]
        write_text(target / MASK_SIDECAR, json.dumps(about, indent=1) + "\n")
    progress(f"{folder}: {len(files)} file(s), {about['licence']}, {about['citation']}")
    return folder


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder that takes its place when the block ends without an error; only ours is replaced."""
    temporary = folder.with_name(f".{folder.name}.part")
    try:
        if folder.exists() and not (folder / MASK_SIDECAR).is_file():
            raise StoreError(f"{folder} exists and is not a fetched mask", fix="move it or choose another --out")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    except OSError as error:
        raise StoreError(
            f"{folder} cannot be written ({error.strerror or type(error).__name__})",
            fix="free space or choose another --out",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _area_bounds(area: Area) -> list[Bounds]:
    return [part.bounds for part in get_parts(area.geometry)]


def _get_worldcover(
    year: int, area: Area, folder: Path, trust: Trust, signer: Any, progress: Progress, api: str
) -> list[tuple[str, str]]:
    """Copy the area's windows of every WorldCover tile; names and source hrefs."""
    boxes, files = _area_bounds(area), []
    for href, _ in planetary_rasters("esa-worldcover", "map", boxes, trust=trust, year=year, api=api):
        name = safe_name(PurePosixPath(href).name, what="WorldCover file")
        progress(f"reading {name}")

        def copy(dataset: DatasetReader, path: Path = folder / name) -> bool:
            windows = [
                from_bounds(*_intersection(box, tuple(dataset.bounds)), dataset.transform)
                for box in boxes
                if overlap(box, tuple(dataset.bounds))
            ]
            windows = [w for w in map(_whole_pixels, windows) if w.width > 0 and w.height > 0]
            if windows:
                _copy_windows(dataset, windows, path)
            return bool(windows)

        if read_raster(href, Access(trust, signer), copy, fault=MaskError, mask="worldcover"):
            files.append((name, href))
    if not files:
        raise MaskError(f"esa-worldcover of {year} has no pixel in the area", fix="check the area")
    return files


def _intersection(first: Bounds, second: Bounds) -> Bounds:
    return (
        max(first[0], second[0]),
        max(first[1], second[1]),
        min(first[2], second[2]),
        min(first[3], second[3]),
    )


def _whole_pixels(window: Window) -> Window:
    return window.round_offsets().round_lengths(op="ceil")


def _copy_windows(dataset: Any, windows: list[Window], path: Path) -> None:
    """Write some windows of a raster as one COG; between them it is nodata."""
    left, top = min(w.col_off for w in windows), min(w.row_off for w in windows)
    right = min(max(w.col_off + w.width for w in windows), dataset.width)
    bottom = min(max(w.row_off + w.height for w in windows), dataset.height)
    whole = Window(left, top, right - left, bottom - top)
    plain = path.with_suffix(".plain.tif")
    profile = {
        "driver": "GTiff",
        "count": 1,
        "dtype": dataset.dtypes[0],
        "width": whole.width,
        "height": whole.height,
        "crs": dataset.crs,
        "transform": dataset.window_transform(whole),
        "nodata": 0 if dataset.nodata is None else dataset.nodata,
        "tiled": True,
        "compress": "deflate",
        "SPARSE_OK": True,
        "BIGTIFF": "IF_SAFER",
    }
    try:
        with rasterio.open(plain, "w", **profile) as target:
            for window in windows:
                for part in _pieces(window.intersection(whole)):
                    place = Window(part.col_off - left, part.row_off - top, part.width, part.height)
                    target.write(dataset.read(1, window=part), 1, window=place)
        rasterio.shutil.copy(
            plain, path, driver="COG", COMPRESS="DEFLATE", OVERVIEW_RESAMPLING="MODE", BIGTIFF="IF_SAFER"
        )
    except RasterioError as error:
        raise MaskError(f"{path.name} cannot be copied ({redact(str(error))[:120]})", fix="try again") from None
    finally:
        plain.unlink(missing_ok=True)


def _pieces(window: Window) -> Iterator[Window]:
    for top in range(0, window.height, _COPY_PX):
        for left in range(0, window.width, _COPY_PX):
            yield Window(
                window.col_off + left,
                window.row_off + top,
                min(_COPY_PX, window.width - left),
                min(_COPY_PX, window.height - top),
            )


def _get_gmw(
    year: int, area: Area, folder: Path, cache: Path, trust: Trust, progress: Progress, record: str
) -> list[tuple[str, str]]:
    """Take the area's tiles out of the archive of a year; names and source hrefs."""
    key = f"gmw_v3_{year}_gtiff.zip"
    href, size, md5 = _record_file(record, key, trust)
    archive = cache / key
    _download(href, archive, size, md5, trust, progress)
    boxes = _area_bounds(area)
    files: list[tuple[str, str]] = []
    try:
        with zipfile.ZipFile(archive) as members:
            for info in members.infolist():
                # Only the last part of a member's name is used, and only if it is a tile's.
                name = PurePosixPath(info.filename).name
                corner = _tile_bounds(name, year)
                if corner is None or not any(overlap(corner, box) for box in boxes):
                    continue
                if info.file_size > _MAX_TILE_BYTES or name in (known for known, _ in files):
                    raise MaskError(f"{key}: member {name} is too large or there twice", fix="fetch it again")
                with members.open(info) as packed, (folder / name).open("wb") as unpacked:
                    shutil.copyfileobj(packed, unpacked, _CHUNK)
                _check_tile(folder / name, corner, trust)
                files.append((name, href))
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise MaskError(f"{key} is a damaged archive ({error})", fix=f"remove {archive} and try again") from error
    if not files:
        raise MaskError(f"Global Mangrove Watch of {year} has no tile in the area", fix="check the area")
    return sorted(files)


def _tile_bounds(name: str, year: int) -> Bounds | None:
    """Return the bounds of a GMW tile by its name, None for any other name or year."""
    match = _GMW_TILE.fullmatch(name)
    if match is None or int(match[5]) != year:
        return None
    north = float(match[2]) * (1 if match[1] == "N" else -1)
    west = float(match[4]) * (1 if match[3] == "E" else -1)
    return west, north - 1, west + 1, north


def _check_tile(path: Path, expected: Bounds, trust: Trust) -> None:
    with open_raster(str(path), Access(trust.with_roots(path.parent)), fault=MaskError, mask="gmw") as dataset:
        if max(abs(a - b) for a, b in zip(dataset.bounds, expected, strict=True)) > 0.01:
            raise MaskError(f"GMW tile {path.name} does not lie where its name says", fix="fetch it again")


def _record_file(record: str, key: str, trust: Trust) -> tuple[str, int, str]:
    """Ask Zenodo for address, bytes and md5 of a file of a record."""
    try:
        files = Web(trust).json(record, what="mask archive")["files"]
        entry = next((file for file in files if file["key"] == key), None)
        if entry is None:
            raise CatalogError(f"record {record} has no file {key}", fix="check the year")
        kind, _, md5 = entry["checksum"].partition(":")
        size, href = int(entry["size"]), str(entry["links"]["self"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CatalogError(
            f"record {record} is not one of Zenodo's ({type(error).__name__})", fix="report this"
        ) from error
    if kind != "md5" or not 0 < size <= _MAX_ZIP_BYTES:
        raise CatalogError(f"{key} is announced with {kind} and {size} bytes, not as expected", fix="report this")
    return trust.url(href, what=key), size, md5


@contextmanager
def _get(url: str, trust: Trust, headers: dict[str, str] | None = None) -> Iterator[requests.Response]:
    """GET, checking every address a redirect leads to."""
    for _ in range(5):
        trust.url(url, what="mask archive")
        response = requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT_S, allow_redirects=False)
        with response:
            if not response.is_redirect:
                yield response
                return
            url = requests.compat.urljoin(url, response.headers["location"])
    raise CatalogError(f"{redact(url)} redirects without end", fix="try again later")


def _download(href: str, path: Path, size: int, md5: str, trust: Trust, progress: Progress) -> None:
    """Download a file, going on where an earlier attempt stopped; it has its name when its md5 is right."""
    if path.is_file() and path.stat().st_size == size and _digest(path, "md5") == md5:
        progress(f"{path.name} is here already")
        return
    part = path.with_name(path.name + ".part")
    progress(f"downloading {path.name}, {size / 1e6:.1f} MB")
    fault = ""
    for attempt in range(_ATTEMPTS):
        start = part.stat().st_size if part.is_file() else 0
        if start >= size:
            break
        time.sleep(2**attempt - 1)
        try:
            _download_rest(href, part, start, size, trust)
        except requests.RequestException as error:
            status = error.response.status_code if error.response is not None else 0
            fault = f"HTTP {status}" if status else type(error).__name__
            if 400 <= status < 500 and status not in (408, 429):
                break
    if not part.is_file() or part.stat().st_size != size:
        got = part.stat().st_size if part.is_file() else 0
        if got > size:
            part.unlink()
        raise CatalogError(
            f"{path.name} broke off at {got / 1e6:.1f} of {size / 1e6:.1f} MB {f'({fault})' if fault else ''}".rstrip(),
            fix="run it again to go on",
        )
    if _digest(part, "md5") != md5:
        part.unlink()
        raise MaskError(f"{path.name} does not have the md5 its record announces", fix="run it again")
    part.replace(path)


def _download_rest(href: str, part: Path, start: int, size: int, trust: Trust) -> None:
    with _get(href, trust, {"Range": f"bytes={start}-"} if start else None) as response:
        response.raise_for_status()
        # A server that ignores the range starts over.
        mode = "ab" if response.status_code == 206 else "wb"
        written = start if mode == "ab" else 0
        with part.open(mode) as file:
            for chunk in response.iter_content(_CHUNK):
                written += len(chunk)
                if written > size:
                    raise MaskError(f"{part.stem} is longer than its record announces", fix="report this")
                file.write(chunk)


def _digest(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()
