"""Rasters of any kind of GeoTIFF, looked up on our grids by GDAL: checked href, signed at the moment of reading.

GDAL itself retries what an HTTP status tells it to (``GDAL_HTTP_MAX_RETRY``). A server that falls silent, a
connection closed early, a web page in place of pixels, or a signature refused between a file's header and its pixels
only reach us as a failed read: ``read_raster`` reads again within ``READ_BUDGET_S``, newly signed, under another
name, as GDAL keeps what it got under a name for as long as the process lives.
"""

from __future__ import annotations

import math
import re
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import rasterio
from odc.geo.geobox import GeoBox
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader
from rasterio.windows import Window

from engine import ranges
from engine.align import STRIP_ROWS, bounds_in, overlap, pixels_under, whole_pixel_shift
from engine.errors import EngineError, Fault, PlanError, SceneError
from engine.places import ObjectPath
from engine.ranges import Access, Signs
from engine.tiff import MAX_TILE_BYTES
from engine.trust import is_object, redact, unsigned

# Rasterio says so of its own arrays in memory; of a file without a place our checks say it in one line.
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)

GDAL_OPTIONS: Final[dict[str, Any]] = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",  # no side files, no listing of folders
    "GDAL_HTTP_MAX_RETRY": "2",  # after .5 and 1 s
    "GDAL_HTTP_RETRY_DELAY": "0.5",
    "GDAL_HTTP_TIMEOUT": "60",  # of a request, however slowly it is answered
    "GDAL_HTTP_CONNECTTIMEOUT": "10",
    "GDAL_HTTP_LOW_SPEED_TIME": "20",  # of silence end a request; GDAL asks twice for a header, then gives up
    "GDAL_HTTP_LOW_SPEED_LIMIT": "1000",  # bytes a second; less is silence
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_CACHEMAX": 256 * 2**20,  # bytes a process
    "GDAL_NUM_THREADS": "1",
}

_MAX_WINDOW_PX: Final = 2**27  # source pixels read at once; 256 rows of a whole tile at 1 m are 4 times this

_MAX_OBJECT_BYTES: Final = 2**30  # of a file that must be fetched whole

_PERMANENT: Final = re.compile(r"response code: (?:400|401|404|410|451)")


@contextmanager
def open_raster(
    href: str, access: Access, *, fault: type[EngineError] = SceneError, **about: Any
) -> Iterator[DatasetReader]:
    """Open a raster by the GTiff driver, after the checks of ``access.trust``, in one attempt.

    Parameters
    ----------
    href : str
        Unsigned address, or path.
    access : Access
    fault : type of EngineError
        What to raise when it is no readable GeoTIFF of real values.
    **about
        What the raster is, for errors: ``scene=..., asset=...`` or ``mask=2020``.

    Raises
    ------
    TrustError
        If the address is not allowed.
    """
    address = access.trust.check(href, what=_title(about))
    try:
        with _opened(_sign(address, access.signer), 0, fault, about) as dataset:
            yield dataset
    except RasterioError as error:
        raise unreadable(error, address, fault, about) from None


def read_raster[Result](
    href: str,
    access: Access,
    read: Callable[[DatasetReader], Result],
    *,
    fault: type[EngineError] = SceneError,
    **about: Any,
) -> Result:
    """Return ``read(dataset)`` of a raster opened as by ``open_raster``, read again where remote storage failed.

    A file that is not there is told at once. Every further attempt is newly signed, and none begins after
    ``READ_BUDGET_S``.
    """
    address = access.trust.check(href, what=_title(about))
    deadline = time.monotonic() + ranges.READ_BUDGET_S
    for attempt, pause in enumerate((*ranges.READ_WAITS_S, math.inf)):
        signed = _sign(address, access.signer)
        try:
            with _opened(signed, attempt, fault, about) as dataset:
                return read(dataset)
        except RasterioError as error:
            late = time.monotonic() + pause > deadline
            if late or not _is_url(address) or _PERMANENT.search(str(error)):
                raise unreadable(error, address, fault, about) from None
        if access.signer is not None:
            access.signer.forget(signed)  # a read that broke off does not say whether its token was refused
        time.sleep(pause)
    raise AssertionError


def _is_url(address: str) -> bool:
    return "://" in address and not is_object(address)


def _sign(address: str, signer: Signs | None) -> str:
    return signer.sign(address) if signer is not None and "://" in address else address


@contextmanager
def _opened(address: str, attempt: int, fault: type[EngineError], about: dict[str, Any]) -> Iterator[DatasetReader]:
    """Open a checked address; the attempt, in a fragment that is not sent, makes it another name to GDAL's cache."""
    name = f"/vsicurl/{address}#{attempt}" if _is_url(address) else address
    with ExitStack() as stack:
        if is_object(address):
            # GDAL's own clients know neither the endpoint nor the account that ours was told.
            name = stack.enter_context(_fetched(ObjectPath(address), fault, about))
        stack.enter_context(rasterio.Env(**GDAL_OPTIONS))
        dataset = stack.enter_context(rasterio.open(name, driver="GTiff"))
        height, width = dataset.block_shapes[0]
        dtype = dataset.dtypes[0]
        real = dtype.startswith(("int", "uint", "float"))
        if not real or height * width * dataset.count * np.dtype(dtype).itemsize > MAX_TILE_BYTES:
            raise fault(
                f"{_file_name(address)} holds {dataset.count} band(s) of {dtype} in internal tiles of "
                f"{width} x {height} px, which is refused",
                fix="rewrite its one band as a COG with tiles of 256 or 512 px (gdal_translate -b 1 -of COG)",
                **about,
            )
        yield dataset


@contextmanager
def _fetched(path: ObjectPath, fault: type[EngineError], about: dict[str, Any]) -> Iterator[str]:
    """Bring an object that we do not read by ranges onto the disk, until the block ends."""
    with tempfile.TemporaryDirectory(prefix="mangroves-") as folder:
        try:
            if path.size() > _MAX_OBJECT_BYTES:
                raise fault(f"{path.name} is larger than {_MAX_OBJECT_BYTES >> 20} MB", fix="make it a COG", **about)
            path.download(Path(folder) / "object.tif")
        except OSError as error:
            raise unreadable(error, str(path), fault, about) from None
        yield str(Path(folder) / "object.tif")


def unreadable(error: Exception, address: str, fault: type[EngineError], about: dict[str, Any]) -> EngineError:
    """Return what to raise in place of GDAL's error, which must not be chained: it holds the signed address."""
    said = re.sub(rf"(/vsicurl/)?{re.escape(address)}[^\s']*", _file_name(address), str(error))
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
