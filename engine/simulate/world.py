"""What world to simulate, where its regions lie on the grid, and where its random numbers come from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import scipy.fft
import shapely
from odc.geo.geobox import GeoBox
from shapely import Polygon, box, segmentize

from engine.area import study_regions
from engine.grid import TILE_PX, grid_geobox, lonlat_of, to_zone, zone_of

FIRST_YEAR: Final = 1984
LAST_YEAR: Final = 2030
"""Change is simulated from FIRST_YEAR to LAST_YEAR whatever years are asked for: truth never depends on them."""

MARGIN_PX: Final = 32
"""The world reaches this far beyond the region's square, so that scenes are larger than it."""

CAVEAT: Final = (
    "No sun glint, smoke, species zonation, labelling committee or missing archive; 10 of 22 surface classes are "
    "expert estimates and the measured ones come from 4 regions in one year. Rank methods with these figures; do "
    "not predict your region with them."
)
"""Said below every score of this world."""


@dataclass(frozen=True)
class WorldParams:
    """A simulated archive.

    Raises
    ------
    ValueError
        If a region is not in ``engine/regions.csv``, a year or a size cannot be simulated.
    """

    regions: tuple[str, ...]
    """Names as in ``engine/regions.csv``; in the archive they are called ``sim-<name>``."""

    years: tuple[int, ...]

    size_px: int = 512
    """Side of each region's square, 30 m pixels."""

    scenes_per_year: int | None = 14
    """Scenes a year and region; None: as many as each sensor really took of the tropics."""

    seed: int = 1

    overlap: float = 1.0
    """s: multiplies the spread within classes, and so their overlap."""

    region_shift: float = 1.0
    """r: multiplies the difference between regions."""

    setting: Literal["coastal", "mainland"] = "coastal"
    """``coastal``: 10-25 % mangrove; ``mainland``: 1-3 % mangrove, at least 40 % evergreen forest."""

    change_rate: float | None = None
    """Share of the mangrove that events change in a year, the same for all regions; None: half of the regions .5-1 %,
    nearly half .15 %, some none."""

    utm_split: bool = False
    """Deliver the second path in the neighbouring UTM zone."""

    mask_years: tuple[int, ...] | None = None
    """Years of the reference masks; default three years before the first and before the last year."""

    compression: Literal["zstd", "deflate"] = "zstd"

    def __post_init__(self) -> None:
        for name in ("regions", "years", "mask_years"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, tuple(value))
        unknown = [name for name in self.regions if name not in study_regions()]
        if unknown or not self.regions or len(set(self.regions)) < len(self.regions):
            raise ValueError(f"regions must be distinct names of engine/regions.csv, got {unknown or self.regions}")
        if not self.years or not all(FIRST_YEAR <= year <= LAST_YEAR for year in self.years):
            raise ValueError(f"years must lie in {FIRST_YEAR}-{LAST_YEAR}, got {self.years}")
        if not 64 <= self.size_px <= TILE_PX:
            raise ValueError(f"size_px must be 64 to {TILE_PX} pixels, one tile, got {self.size_px}")
        if self.scenes_per_year is not None and not 1 <= self.scenes_per_year <= 60:
            raise ValueError(f"scenes_per_year must be 1 to 60 or None, got {self.scenes_per_year}")
        if self.change_rate is not None and not 0 <= self.change_rate <= 0.05:
            raise ValueError(f"change_rate must be 0 to 0.05 of the mangrove a year, got {self.change_rate}")
        if self.setting not in ("coastal", "mainland"):
            raise ValueError(f"setting must be coastal or mainland, got {self.setting!r}")

    @property
    def reference_years(self) -> tuple[int, ...]:
        """Years of the reference masks, ascending."""
        years = self.mask_years or (min(self.years) - 3, max(self.years) - 3)
        return tuple(sorted({max(FIRST_YEAR, year) for year in years}))

    @property
    def notice(self) -> str:
        """What every file and figure of this world must say."""
        return f"SIMULATED s={self.overlap:g} r={self.region_shift:g} seed={self.seed} {self.setting}"


@dataclass(frozen=True)
class Site:
    """A region's square on the project grid, and the canvas round it that is simulated."""

    region: str
    zone: int
    row: int
    """Grid row of the square's upper edge."""
    col: int
    size_px: int
    lon: float
    """Degrees, centre of the square."""
    lat: float

    @property
    def name(self) -> str:
        return f"sim-{self.region}"

    @property
    def canvas_px(self) -> int:
        return self.size_px + 2 * MARGIN_PX

    @property
    def geobox(self) -> GeoBox:
        """The square's GeoBox: the grid of the truth."""
        return grid_geobox(self.zone, (self.row, self.col, self.size_px, self.size_px))

    @property
    def inner(self) -> tuple[slice, slice]:
        """The square within the canvas."""
        return (slice(MARGIN_PX, MARGIN_PX + self.size_px),) * 2

    def canvas_geobox(self, rows: slice, cols: slice) -> GeoBox:
        """Return the GeoBox of a window of the canvas."""
        top, left = self.row - MARGIN_PX, self.col - MARGIN_PX
        return grid_geobox(
            self.zone, (top + rows.start, left + cols.start, rows.stop - rows.start, cols.stop - cols.start)
        )

    @property
    def polygon(self) -> Polygon:
        """The square in degrees, drawn 1 m inside so that rounding never adds a row of pixels to a tile."""
        west, south, east, north = self.geobox.extent.boundingbox.bbox
        square = segmentize(box(west + 1, south + 1, east - 1, north - 1), 500)
        return to_lonlat(square, self.zone)


def epsg_of(geobox: GeoBox) -> int:
    """Return the EPSG code of a GeoBox that has one."""
    assert geobox.crs is not None
    assert geobox.crs.epsg is not None
    return geobox.crs.epsg


def to_lonlat(geometry: Any, zone: int) -> Any:
    """Turn a geometry, or an array of them, from a zone's northern UTM code to degrees."""
    project = to_zone(zone).transform
    return shapely.transform(geometry, lambda xy: np.column_stack(project(xy[:, 0], xy[:, 1], direction="INVERSE")))


def site_of(region: str, size_px: int) -> Site:
    """Place a region's square: inside one tile and one zone, snapped where its side divides a tile's.

    Examples
    --------
    >>> site = site_of("Vietnam2", 512)
    >>> site.zone, site.row % 512, site.col % 512
    (48, 0, 0)
    """
    lon, lat = study_regions()[region]
    zone = zone_of(lon)
    easting, northing = to_zone(zone).transform(lon, lat)
    step = size_px if TILE_PX % size_px == 0 else 1
    row = round(((15 - northing) / 30 - size_px / 2) / step) * step
    col = round(((easting - 15) / 30 - size_px / 2) / step) * step
    if step == 1:
        row, col = (_clamp(start, size_px) for start in (row, col))
    # A region near a zone's edge moves away from it, whole squares at a time.
    inward = 1 if lon < 6 * zone - 183 else -1
    while not _inside_zone(zone, row, col, size_px):
        col += inward * size_px
        if step == 1:
            col = _clamp(col, size_px)
    centre_lon, centre_lat = lonlat_of(zone, np.array([row + size_px / 2]), np.array([col + size_px / 2]))
    return Site(region, zone, row, col, size_px, float(centre_lon[0]), float(centre_lat[0]))


def _clamp(start: int, size_px: int) -> int:
    """Move a stretch of pixels into the tile that holds most of it."""
    first = (start + size_px // 2) // TILE_PX * TILE_PX
    return min(max(start, first), first + TILE_PX - size_px)


def _inside_zone(zone: int, row: int, col: int, size_px: int) -> bool:
    corners = np.array([0, size_px])
    rows, cols = np.meshgrid(row + corners, col + corners)
    lon, _ = lonlat_of(zone, rows, cols)
    return bool((lon > 6 * zone - 186).all() and (lon < 6 * zone - 180).all())


def stream(*key: object) -> np.random.Generator:
    """Return the random numbers of a thing named by ``key``, the same in every process and on every machine.

    Examples
    --------
    >>> bool(stream(1, "Vietnam2").random() == stream(1, "Vietnam2").random())
    True
    """
    digest = hashlib.blake2b("|".join(map(str, key)).encode(), digest_size=16).digest()
    return np.random.default_rng(np.random.SeedSequence(int.from_bytes(digest, "big")))


def gaussian_field(
    rng: np.random.Generator,
    shape: tuple[int, int],
    *,
    exponent: float = 0.0,
    length_px: float = 0.0,
    periodic: bool = False,
) -> np.ndarray:
    """Draw a Gaussian random field of mean 0 and standard deviation 1.

    Parameters
    ----------
    rng : Generator
    shape : (int, int)
    exponent : float
        Power falls with wavenumber to this exponent; 0 is white noise, 3 is a landscape.
    length_px : float
        Smoothed by a Gaussian of this standard deviation, pixels.
    periodic : bool
        Keep the field's wrap-around, for fields that are rolled.

    Returns
    -------
    ndarray of float32, shape ``shape``
    """
    # Drawn a quarter larger and cropped: opposite edges of a spectral field are alike.
    full = tuple(side if periodic else scipy.fft.next_fast_len(side * 5 // 4, real=True) for side in shape)
    spectrum = scipy.fft.rfft2(rng.standard_normal(full, dtype="float32"))
    wavenumber = np.hypot(np.fft.fftfreq(full[0])[:, None], np.fft.rfftfreq(full[1])[None, :])
    wavenumber[0, 0] = 1.0
    filter_ = wavenumber ** (-exponent / 2) * np.exp(-0.5 * (2 * np.pi * wavenumber * length_px) ** 2)
    filter_[0, 0] = 0.0
    field = scipy.fft.irfft2(spectrum * filter_.astype("float32"), s=full)[: shape[0], : shape[1]]
    field -= field.mean()
    return (field / field.std()).astype("float32")
