"""Rasters of any kind of GeoTIFF, looked up on our grids by GDAL: checked href, signed at the moment of reading.

GDAL decodes and we fetch: what lies on a host or in a store is read by ``engine.remote``, with the checks, signatures,
budgets and kinds of fault of ``engine.ranges``.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import rasterio
from odc.geo.geobox import GeoBox
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader
from rasterio.windows import Window

from engine.align import STRIP_ROWS, bounds_in, overlap, pixels_under, whole_pixel_shift
from engine.errors import EngineError, Fault, PlanError, SceneError
from engine.ranges import Access, RangeError, Spent
from engine.remote import RemoteFile
from engine.tiff import MAX_TILE_BYTES
from engine.trust import redact, unsigned

# Rasterio says so of its own arrays in memory; of a file without a place our checks say it in one line.
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)

GDAL_OPTIONS: Final[dict[str, Any]] = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",  # no side files, no listing of folders
    "GDAL_CACHEMAX": 256 * 2**20,  # bytes a process
    "GDAL_NUM_THREADS": "1",
}

_MAX_WINDOW_PX: Final = 2**27  # source pixels read at once; 256 rows of a whole tile at 1 m are 4 times this


@contextmanager
def open_raster(
    href: str,
    access: Access,
    *,
    fault: type[EngineError] = SceneError,
    spent: Spent | None = None,
    **about: Any,
) -> Iterator[DatasetReader]:
    """Open a raster by the GTiff driver, after the checks of ``access.trust``; of use in the thread that opened it.

    Parameters
    ----------
    href : str
        Unsigned address, or path.
    access : Access
    fault : type of EngineError
        What to raise when it is no readable GeoTIFF of real values.
    spent : Spent, optional
        Where requests are counted.
    **about
        What the raster is, for errors: ``scene=..., asset=...`` or ``mask=2020``.

    Raises
    ------
    TrustError
        If the address is not allowed.
    """
    address = access.trust.check(href, what=_title(about))
    remote = None
    try:
        if "://" in address:
            remote = RemoteFile(_file_name(address), address, access, spent or Spent(), about)
        with (
            rasterio.Env(**GDAL_OPTIONS),
            rasterio.open(remote.name if remote else address, driver="GTiff", opener=remote) as dataset,
        ):
            _check_blocks(dataset, address, fault, about)
            yield dataset
    except (RasterioError, RangeError, EngineError, OSError) as error:
        # What was missing from a read explains whatever came of it.
        cause = remote.fault if remote is not None and remote.fault is not None else error
        if isinstance(cause, EngineError):
            raise cause from None
        raise unreadable(cause, address, fault, about) from None
    if remote is not None and remote.fault is not None:
        raise remote.fault if isinstance(remote.fault, EngineError) else unreadable(remote.fault, address, fault, about)


def _check_blocks(dataset: DatasetReader, address: str, fault: type[EngineError], about: dict[str, Any]) -> None:
    height, width = dataset.block_shapes[0]
    dtype = dataset.dtypes[0]
    real = dtype.startswith(("int", "uint", "float"))
    if not real or height * width * dataset.count * np.dtype(dtype).itemsize > MAX_TILE_BYTES:
        raise fault(
            f"{_file_name(address)} holds {dataset.count} band(s) of {dtype} in internal tiles of "
            f"{width} x {height} px, which is refused",
            fix="rewrite its one band as a COG with tiles of 256 or 512 px (gdal_translate -b 1 -of COG)",
            kind=Fault.HOSTILE,
            **about,
        )


def unreadable(error: Exception, address: str, fault: type[EngineError], about: dict[str, Any]) -> EngineError:
    """Return what to raise in place of GDAL's error, or of ours about a range; not chained."""
    said = re.sub(rf"/vsiriopener_[0-9a-f]+/|{re.escape(address)}[^\s']*", "", str(error))
    return fault(
        f"{_file_name(address)} cannot be read as a GeoTIFF ({redact(said)[:160]})",
        fix="repair or remove it" if fault is not SceneError else "repair it, or go on without it with --skip-bad",
        kind=getattr(error, "kind", Fault.PERMANENT),
        **about,
    )


def _title(about: dict[str, Any]) -> str:
    return " ".join(f"{name} {value}" for name, value in about.items()) or "raster"


def _file_name(address: str) -> str:
    return unsigned(address).rsplit("/", 1)[-1]


def read_onto(dataset: DatasetReader, geobox: GeoBox, fill: int) -> np.ndarray:
    """Read band 1 of an open dataset on a grid, nearest pixel, padded with ``fill``."""
    values, inside = values_at(dataset, geobox)
    if not inside.all():
        values[~inside] = fill
    return values


def values_at(dataset: DatasetReader, geobox: GeoBox) -> tuple[np.ndarray, np.ndarray]:
    """Look up band 1 of a raster at the pixel centres of a grid, in whatever coordinate system it is.

    Nearest by construction: a pixel takes the value of the raster's pixel that contains its centre, exactly as
    ``rasterio.sample`` at that point would; GDAL's warper would approximate the transformation by up to an
    eighth of a pixel. On the raster's own grid, shifted by whole pixels, a window is read and nothing is looked up.

    Returns
    -------
    values : ndarray of the raster's dtype, shape (y, x)
        0 where not inside.
    inside : ndarray of bool, shape (y, x)
        True where the centre lies within the raster's extent.

    Raises
    ------
    PlanError
        If the raster is so fine that a strip of the grid holds more than 2**27 of its pixels.
    """
    height, width = geobox.shape
    values = np.zeros((height, width), dataset.dtypes[0])
    inside = np.zeros((height, width), dtype=bool)
    wkt = dataset.crs.to_wkt() if dataset.crs else ""
    corner = whole_pixel_shift(dataset.transform, wkt, geobox)
    if corner is not None:
        _read_window(dataset, corner, values, inside)
        return values, inside
    if not any(overlap(tuple(dataset.bounds), box) for box in bounds_in(geobox, wkt)):
        return values, inside
    for top in range(0, height, STRIP_ROWS):
        strip = slice(top, min(top + STRIP_ROWS, height))
        rows, cols = pixels_under(geobox[strip, :], dataset.transform, dataset.shape, wkt)
        hit = rows >= 0
        if not hit.any():
            continue
        rows, cols = rows[hit], cols[hit]
        first_row, first_col = int(rows.min()), int(cols.min())
        window = Window(first_col, first_row, int(cols.max()) - first_col + 1, int(rows.max()) - first_row + 1)
        check_fineness(dataset.name, (window.height, window.width), STRIP_ROWS)
        part = dataset.read(1, window=window)
        values[strip][hit] = part[rows - first_row, cols - first_col]
        inside[strip] = hit
    return values, inside


def check_fineness(name: str, window: tuple[float, float], rows: int) -> None:
    if window[0] * window[1] > _MAX_WINDOW_PX:
        raise PlanError(
            f"{_file_name(name)} is too fine for this grid: "
            f"{window[1]:.0f} x {window[0]:.0f} of its pixels under {rows} rows",
            fix="resample it to about 10 m (gdalwarp -tr)",
        )


def _read_window(dataset: DatasetReader, corner: tuple[int, int], values: np.ndarray, inside: np.ndarray) -> None:
    row, col = corner
    top, left = max(row, 0), max(col, 0)
    bottom, right = min(row + values.shape[0], dataset.height), min(col + values.shape[1], dataset.width)
    if bottom <= top or right <= left:
        return
    target = (slice(top - row, bottom - row), slice(left - col, right - col))
    values[target] = dataset.read(1, window=Window(left, top, right - left, bottom - top))
    inside[target] = True
