"""Rasters looked up on our grids: checked href, signed at the moment of reading, GTiff only.

Rasterio does the reading. GDAL itself retries what an HTTP status tells it to (``GDAL_HTTP_MAX_RETRY``). A server
that falls silent, a connection closed early, a web page in place of pixels, or a signature refused between a file's
header and its pixels only reach us as a failed read: ``read_raster`` reads again within ``READ_BUDGET_S``, newly
signed, under another name, as GDAL keeps what it got under a name for as long as the process lives.
"""

from __future__ import annotations

import math
import re
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Protocol

import numpy as np
import rasterio
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader
from rasterio.windows import Window

from engine.errors import EngineError, PlanError, SceneError
from engine.grid import crs_of
from engine.landsat import FILL_DN, QA_FILL, QA_PIXEL
from engine.scenes import Scene
from engine.trust import Trust, redact, unsigned

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

READ_WAITS_S: Final = (1.0, 4.0, 16.0)
"""Before a remote raster is read again: storage that stays ill is told after about 30 s, a missing file at once."""

READ_BUDGET_S: Final = 80.0
"""No attempt begins later than this after the first: silent storage is told after two attempts of 40 s each."""

MAX_TILE_BYTES: Final = 2**27
"""A larger internal tile, of all bands, is refused before it is allocated: 1.8 MB of file can ask for 1.7 GB."""

_STRIP_ROWS: Final = 256
_MAX_WINDOW_PX: Final = 2**27  # source pixels read at once; 256 rows of a whole tile at 1 m are 4 times this

_PERMANENT: Final = re.compile(r"response code: (?:400|401|404|410|451)")

Bounds = tuple[float, float, float, float]
"""Left, bottom, right, top, in the units of some coordinate system."""


class Signs(Protocol):
    """Whatever can sign an href (``engine.sign.Signer``)."""

    def sign(self, href: str) -> str: ...
    def forget(self, href: str) -> None: ...


@dataclass(frozen=True)
class Access:
    """How assets are reached: what may be opened, and who signs. Holds no token, so it may travel in graphs."""

    trust: Trust
    signer: Signs | None = None


def fill_of(asset: str) -> int:
    """Return the value that means "no data" in an asset; QA_PIXEL is padded with 1, which reads as fill."""
    return QA_FILL if asset == QA_PIXEL else FILL_DN


def read_asset(scene: Scene, asset: str, geobox: GeoBox, access: Access) -> np.ndarray:
    """Read one asset of a scene on a grid.

    Parameters
    ----------
    scene : Scene
    asset : str
        A band of ``landsat.BANDS``, ``qa_pixel`` or ``qa_radsat``.
    geobox : GeoBox
        Where to; on the scene's own grid the values are the file's, otherwise the nearest pixel's.
    access : Access

    Returns
    -------
    ndarray of uint16, shape (y, x)
        Padded with ``fill_of(asset)`` outside the scene.

    Raises
    ------
    SceneError
        If the file is missing, unreadable, or not what the item says.
    TrustError
        If the href may not be opened.
    """

    def read(dataset: DatasetReader) -> np.ndarray:
        _check_against_item(dataset, scene, asset)
        return read_onto(dataset, geobox, fill_of(asset))

    return read_raster(scene.assets[asset], access, read, scene=scene.id, asset=asset)


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
        raise _unreadable(error, address, fault, about) from None


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
    deadline = time.monotonic() + READ_BUDGET_S
    for attempt, wait in enumerate((*READ_WAITS_S, math.inf)):
        signed = _sign(address, access.signer)
        try:
            with _opened(signed, attempt, fault, about) as dataset:
                return read(dataset)
        except RasterioError as error:
            late = time.monotonic() + wait > deadline
            if late or "://" not in address or _PERMANENT.search(str(error)):
                raise _unreadable(error, address, fault, about) from None
        if access.signer is not None:
            access.signer.forget(signed)  # a read that broke off does not say whether its token was refused
        time.sleep(wait)
    raise AssertionError


def _sign(address: str, signer: Signs | None) -> str:
    return signer.sign(address) if signer is not None and "://" in address else address


@contextmanager
def _opened(address: str, attempt: int, fault: type[EngineError], about: dict[str, Any]) -> Iterator[DatasetReader]:
    """Open a checked address; the attempt, in a fragment that is not sent, makes it another name to GDAL's cache."""
    name = f"/vsicurl/{address}#{attempt}" if "://" in address else address
    with rasterio.Env(**GDAL_OPTIONS), rasterio.open(name, driver="GTiff") as dataset:
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


def _unreadable(error: Exception, address: str, fault: type[EngineError], about: dict[str, Any]) -> EngineError:
    """Return what to raise in place of GDAL's error, which must not be chained: it holds the signed address."""
    said = re.sub(rf"(/vsicurl/)?{re.escape(address)}[^\s']*", _file_name(address), str(error))
    return fault(
        f"{_file_name(address)} cannot be read as a GeoTIFF ({redact(said)[:160]})",
        fix="repair or remove it" if fault is not SceneError else "repair it, or go on without it with --skip-bad",
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
    corner = _whole_pixel_shift(dataset, geobox)
    if corner is not None:
        _read_window(dataset, corner, values, inside)
        return values, inside
    wkt = dataset.crs.to_wkt()
    if not any(overlap(tuple(dataset.bounds), box) for box in bounds_in(geobox, wkt)):
        return values, inside
    source, turn = dataset.transform, dataset.transform.determinant
    for top in range(0, height, _STRIP_ROWS):
        strip = slice(top, min(top + _STRIP_ROWS, height))
        x, y = _centres(geobox, top, strip.stop, wkt)
        # By division, not by the inverse matrix: our centres often lie exactly on the edges of a 10 m raster,
        # where the rounding of 1 / 10 would choose the pixel. Infinite where PROJ gave up.
        with np.errstate(invalid="ignore"):
            x, y = x - source.c, y - source.f
            cols = np.floor((x * source.e - y * source.b) / turn if source.b or source.d else x / source.a)
            rows = np.floor((y * source.a - x * source.d) / turn if source.b or source.d else y / source.e)
            hit = (cols >= 0) & (cols < dataset.width) & (rows >= 0) & (rows < dataset.height)
        if not hit.any():
            continue
        rows, cols = rows[hit].astype("int64"), cols[hit].astype("int64")
        first_row, first_col = int(rows.min()), int(cols.min())
        window = Window(first_col, first_row, int(cols.max()) - first_col + 1, int(rows.max()) - first_row + 1)
        if window.width * window.height > _MAX_WINDOW_PX:
            raise PlanError(
                f"{unsigned(dataset.name).rsplit('/', 1)[-1]} is too fine for this grid: "
                f"{window.width:.0f} x {window.height:.0f} of its pixels under {_STRIP_ROWS} rows",
                fix="resample it to about 10 m (gdalwarp -tr)",
            )
        part = dataset.read(1, window=window)
        values[strip][hit] = part[rows - first_row, cols - first_col]
        inside[strip] = hit
    return values, inside


def _whole_pixel_shift(dataset: DatasetReader, geobox: GeoBox) -> tuple[int, int] | None:
    """Return (row, col) of the grid's corner in the dataset, or None where pixels do not coincide."""
    ours, theirs = geobox.transform, dataset.transform
    if any(abs(getattr(ours, k) - getattr(theirs, k)) > 1e-9 for k in "abde") or theirs.b or theirs.d:
        return None
    if dataset.crs is None or CRS(dataset.crs.to_wkt()) != geobox.crs:
        return None
    col, row = (ours.c - theirs.c) / theirs.a, (ours.f - theirs.f) / theirs.e
    if abs(col - round(col)) > 1e-6 or abs(row - round(row)) > 1e-6:
        return None
    return round(row), round(col)


def _read_window(dataset: DatasetReader, corner: tuple[int, int], values: np.ndarray, inside: np.ndarray) -> None:
    row, col = corner
    top, left = max(row, 0), max(col, 0)
    bottom, right = min(row + values.shape[0], dataset.height), min(col + values.shape[1], dataset.width)
    if bottom <= top or right <= left:
        return
    target = (slice(top - row, bottom - row), slice(left - col, right - col))
    values[target] = dataset.read(1, window=Window(left, top, right - left, bottom - top))
    inside[target] = True


@lru_cache(maxsize=16)
def _centres(geobox: GeoBox, top: int, bottom: int, wkt: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixel centres of rows of a grid in another coordinate system, each float64 (y, x).

    Kept, as the assets and scenes of a neighbouring zone all ask for the same.
    """
    cols, rows = np.meshgrid(np.arange(geobox.shape[1]) + 0.5, np.arange(top, bottom) + 0.5)
    a = geobox.transform
    x, y = a.a * cols + a.b * rows + a.c, a.d * cols + a.e * rows + a.f
    ours = crs_of(geobox)
    if ours == CRS(wkt):
        return x, y
    return Transformer.from_crs(ours.to_wkt(), wkt, always_xy=True).transform(x, y)


def bounds_in(geobox: GeoBox, crs: str) -> list[Bounds]:
    """Return bounds round a GeoBox in another coordinate system: two where it crosses the antimeridian.

    Empty where PROJ cannot transform it, i.e. far outside that system's use.

    Examples
    --------
    >>> from engine.grid import grid_geobox
    >>> fiji = grid_geobox(1, (66000, 4000, 2000, 4000))
    >>> [[round(degrees, 1) for degrees in box] for box in bounds_in(fiji, "EPSG:4326")]
    [[179.4, -18.4, 180.0, -17.9], [-180.0, -18.4, -179.4, -17.9]]
    """
    shape, affine = geobox.shape, geobox.transform
    # 21 points a side, 1 % beyond it: between two of them an edge bends by less. The middle ones too, as the
    # antimeridian may lie there.
    col, row = np.meshgrid(*(np.linspace(-0.01 * n, 1.01 * n, 21) for n in (shape.x, shape.y)))
    x, y = affine.a * col + affine.b * row + affine.c, affine.d * col + affine.e * row + affine.f
    x, y = Transformer.from_crs(crs_of(geobox).to_wkt(), crs, always_xy=True).transform(x, y)
    finite = np.isfinite(x) & np.isfinite(y)
    if not finite.any():
        return []
    x, y = x[finite], y[finite]
    bottom, top = float(y.min()), float(y.max())
    if CRS(crs).geographic and x.max() - x.min() > 180:
        return [(float(x[x > 0].min()), bottom, 180.0, top), (-180.0, bottom, float(x[x < 0].max()), top)]
    return [(float(x.min()), bottom, float(x.max()), top)]


def overlap(first: Sequence[float], second: Sequence[float]) -> bool:
    """Tell whether two bounds touch."""
    return first[0] <= second[2] and second[0] <= first[2] and first[1] <= second[3] and second[1] <= first[3]


def _check_against_item(dataset: DatasetReader, scene: Scene, asset: str) -> None:
    """Refuse a file that is not where, or what, its item says."""
    problems = []
    if dataset.count != 1 or dataset.dtypes[0] != "uint16":
        problems.append(f"{dataset.count} band(s) of {dataset.dtypes[0]}, expected one of uint16")
    if dataset.shape != tuple(scene.shape):
        problems.append(f"shape {dataset.shape}, the item says {tuple(scene.shape)}")
    if not np.allclose(tuple(dataset.transform)[:6], scene.transform, rtol=0, atol=1e-6):
        problems.append(f"transform {tuple(dataset.transform)[:6]}, the item says {tuple(scene.transform)}")
    if dataset.crs is None or dataset.crs.to_epsg() != scene.epsg:
        problems.append(f"coordinate system {dataset.crs}, the item says EPSG:{scene.epsg}")
    if problems:
        raise SceneError(
            f"file has {problems[0]}",
            fix="repair the item, or go on without it with --skip-bad",
            scene=scene.id,
            asset=asset,
        )


class StackReader:
    """stackstac's ``Reader`` protocol over ``open_raster``: same checks, same signing, same errors."""

    def __init__(self, *, url: str, geobox: GeoBox, access: Access, fill_value: Any, **_unused: Any) -> None:
        self.url, self.geobox, self.access, self.fill = url, geobox, access, int(fill_value)

    def read(self, window: Window) -> np.ndarray:
        geobox = self.geobox[window.toslices()]
        name = self.url.rsplit("/", 1)[-1]
        return read_raster(self.url, self.access, lambda dataset: read_onto(dataset, geobox, self.fill), file=name)

    def close(self) -> None:
        """Nothing stays open between reads."""

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
