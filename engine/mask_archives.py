"""Fetch the parts of public mangrove masks that an area needs: ESA WorldCover and Global Mangrove Watch.

A mask is a folder of GeoTIFFs with a ``mask.json`` that says what they are, under what licence, and their
checksums. The folder appears when it is whole.
"""

from __future__ import annotations

import json
import re
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, Final

import rasterio
import rasterio.shutil
from rasterio.errors import WindowError
from rasterio.features import geometry_window
from rasterio.io import DatasetReader
from rasterio.windows import Window, subdivide, union
from shapely import box, get_parts

from engine.align import Bounds, overlap
from engine.area import Area
from engine.errors import CatalogError, MaskError, StoreError
from engine.files import content_sha256, write_text
from engine.gdal import open_raster
from engine.lookup import MASK_SIDECAR, PLANETARY_COMPUTER, planetary_rasters
from engine.params import SOURCE_VALUES
from engine.ranges import Access
from engine.trust import Trust, safe_name
from engine.web import Web

GMW_RECORD: Final = "https://zenodo.org/api/records/6894273"
"""Zenodo record of Global Mangrove Watch v3.0."""

YEARS: Final = {"worldcover": (2020, 2021), "gmw": (1996, *range(2007, 2011), *range(2015, 2021))}

ABOUT: Final[dict[str, dict[str, Any]]] = {
    "worldcover": {
        "value": list(SOURCE_VALUES["worldcover"]),
        "licence": "CC-BY-4.0",
        "definition": "ESA WorldCover class 95, mangroves, 10 m, from Sentinel-1 and Sentinel-2",
        "homepage": "https://esa-worldcover.org",
    },
    "gmw": {
        "value": list(SOURCE_VALUES["gmw"]),
        "licence": "CC-BY-4.0",
        "version": "3.0",
        "definition": "Global Mangrove Watch v3.0 mangrove extent, 25 m, by L-band radar change from a 2010 baseline",
        "citation": "Bunting P., Rosenqvist A., Hilarides L. et al. (2022), Global Mangrove Extent Change 1996-2020: "
        "Global Mangrove Watch Version 3.0, Remote Sensing 14(15), 3657, doi 10.3390/rs14153657",
        "homepage": "https://doi.org/10.5281/zenodo.6894273",
    },
}
_WORLDCOVER_VERSIONS: Final = {2020: "v100", 2021: "v200"}
_WORLDCOVER_CITATIONS: Final = {
    2020: "Zanaga D. et al. (2021), ESA WorldCover 10 m 2020 v100, doi 10.5281/zenodo.5571936",
    2021: "Zanaga D. et al. (2022), ESA WorldCover 10 m 2021 v200, doi 10.5281/zenodo.7254221",
}
_GMW_TILE: Final = re.compile(r"GMW_([NS])(\d{2})([EW])(\d{3})_(\d{4})_v3\.tif")
"""A tile of one degree, named by its north-west corner."""

_MAX_TILE_BYTES: Final = 2**27
_MAX_ZIP_BYTES: Final = 2**33
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
        If there is no such mask, or its files do not hold what they should.
    CatalogError
        If an archive cannot be reached, or what came is not what it announces.
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
            about |= {"citation": _WORLDCOVER_CITATIONS[year], "version": _WORLDCOVER_VERSIONS[year]}
            files = _get_worldcover(year, area, target, trust, signer, progress, api or PLANETARY_COMPUTER)
        else:
            files = _get_gmw(year, area, target, Path(out), trust, progress, api or GMW_RECORD)
        about["files"] = [{"name": name, "href": href, "sha256": content_sha256(target / name)} for name, href in files]
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
        with open_raster(href, Access(trust, signer), fault=MaskError, mask="worldcover") as dataset:
            reached = _copy_windows(dataset, boxes, folder / name)
        if reached:
            files.append((name, href))
    if not files:
        raise MaskError(f"esa-worldcover of {year} has no pixel in the area", fix="check the area")
    return files


def _copy_windows(dataset: DatasetReader, boxes: list[Bounds], path: Path) -> bool:
    """Write what lies in some boxes as one COG, nodata between them; False where no pixel does."""
    windows = []
    for bounds in boxes:
        with suppress(WindowError):  # no pixel is in the box
            # Less a hundredth: a box that ends on the edge of a pixel does not reach into the next.
            windows.append(geometry_window(dataset, [box(*bounds)], pad_x=-0.01, pad_y=-0.01))
    if not windows:
        return False
    whole = union(*windows)
    plain = path.with_suffix(".plain.tif")
    profile = {"driver": "GTiff", "count": 1, "dtype": dataset.dtypes[0], "tiled": True, "compress": "deflate"}
    profile |= {"width": whole.width, "height": whole.height, "crs": dataset.crs}
    profile |= {"transform": dataset.window_transform(whole), "nodata": dataset.nodata or 0}
    try:
        with rasterio.open(plain, "w", SPARSE_OK=True, BIGTIFF="IF_SAFER", **profile) as target:
            for window in windows:
                for part in subdivide(window, _COPY_PX, _COPY_PX):
                    place = Window(part.col_off - whole.col_off, part.row_off - whole.row_off, part.width, part.height)
                    target.write(dataset.read(1, window=part), 1, window=place)
        options = {"COMPRESS": "DEFLATE", "OVERVIEW_RESAMPLING": "MODE", "BIGTIFF": "IF_SAFER"}
        rasterio.shutil.copy(plain, path, driver="COG", **options)
    finally:
        plain.unlink(missing_ok=True)
    return True


def _get_gmw(
    year: int, area: Area, folder: Path, cache: Path, trust: Trust, progress: Progress, record: str
) -> list[tuple[str, str]]:
    """Take the area's tiles out of the archive of a year; names and source hrefs."""
    key = f"gmw_v3_{year}_gtiff.zip"
    web, archive = Web(trust), cache / key
    href, size, md5 = _record_file(record, key, web)
    here = archive.is_file() and archive.stat().st_size == size
    progress(f"{key} is here, checking it" if here else f"downloading {key}, {size / 1e6:.1f} MB")
    web.download(href, archive, size=size, md5=md5, what=key)
    boxes = _area_bounds(area)
    files: list[tuple[str, str]] = []
    try:
        with zipfile.ZipFile(archive) as members:
            for info in members.infolist():
                # Only the last part of a member's name is used, and only if it is a tile's.
                name = PurePosixPath(info.filename).name
                corner = _tile_bounds(name, year)
                if corner is None or not any(overlap(corner, bounds) for bounds in boxes):
                    continue
                if info.file_size > _MAX_TILE_BYTES or name in (known for known, _ in files):
                    raise MaskError(f"{key}: member {name} is too large or there twice", fix="fetch it again")
                with members.open(info) as packed, (folder / name).open("wb") as unpacked:
                    shutil.copyfileobj(packed, unpacked)
                _check_tile(folder / name, corner, trust)
                files.append((name, href))
    except (zipfile.BadZipFile, RuntimeError, EOFError, zlib.error) as error:
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


def _record_file(record: str, key: str, web: Web) -> tuple[str, int, str]:
    """Ask Zenodo for address, bytes and md5 of a file of a record."""
    try:
        files = web.json(record, what="mask archive")["files"]
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
    return web.trust.url(href, what=key), size, md5
