"""What Landsat sees of the land: passes of a year, and reflectance and QA words of each."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from scipy import ndimage
from scipy.special import ndtri

from engine.landsat import OFFSET, QA_BITS, QA_FILL, SCALE, SENSORS, SLC_FAILURE
from engine.simulate.spectra import (
    ATTENUATION,
    BANDS,
    CLOUD,
    HAZE_SHAPE,
    INDEX,
    NAMES,
    PERSISTENT_SHARE,
    WATER,
    RegionSpectra,
    indices_of,
    region_spectra,
    sensor_transform,
)
from engine.simulate.terrain import State, Terrain
from engine.simulate.world import Site, WorldParams, gaussian_field, stream, study_regions

SWATH_TILT: Final = float(np.tan(np.radians(10.0)))
"""Swath edges run this far west per pixel southwards (descending pass)."""

_SIGMA: Final = {"TM": 0.005, "ETM+": 0.004, "OLI": 0.0025}
_SERVICE: Final = {
    # First and last day of each platform's archive, days after its own 16-day cycle begins, share acquired.
    "landsat-5": (dt.date(1984, 4, 1), dt.date(2011, 11, 5), 0, 0.06),
    "landsat-7": (dt.date(1999, 7, 1), dt.date(2022, 4, 5), 8, 0.55),
    "landsat-8": (dt.date(2013, 4, 1), dt.date(2100, 1, 1), 0, 0.95),
    "landsat-9": (dt.date(2021, 11, 1), dt.date(2100, 1, 1), 8, 0.95),
}
_TIDES: Final = ((0.8, 12.4206), (0.35, 12.0), (0.2, 23.934), (0.12, 25.819))
"""M2, S2, K1, O1: amplitude in metres, period in hours."""

_GAP: Final = np.datetime64("1984-01-01T00:00")


@dataclass(frozen=True)
class Pass:
    """One look: a platform over a path on a day, delivered as one or two scenes."""

    platform: str
    path: int
    row: int
    east: bool
    """Whether the path's swath edge lies in the east of the square (it begins in the west)."""

    time: dt.datetime
    tier: str
    split: bool
    """Delivered as two overlapping rows, 24 s apart."""

    @property
    def sensor(self) -> str:
        return SENSORS[self.platform].name

    @property
    def key(self) -> str:
        return f"{self.platform}_{self.path:03d}_{self.time:%Y%m%d}"


@dataclass(frozen=True)
class Rendered:
    """Pixels of one pass over the whole canvas."""

    bands: dict[str, np.ndarray]
    """uint16 (y, x) by asset name: reflectance bands, ``qa_pixel``, ``qa_radsat`` and the sensor's own layers."""

    valid: np.ndarray
    """bool (y, x): inside the swath."""

    cloud: np.ndarray
    """bool (y, x): true cloud."""


@dataclass(frozen=True)
class Climate:
    """How a region's year goes."""

    cloud_mean: float
    wet_day: float
    tide_scale: float
    tide_phases: np.ndarray


def climate_of(seed: int, site: Site) -> Climate:
    """Return a region's climate: a third each of the 25 are dry, monsoonal and perhumid."""
    order = stream(seed, "climates").permutation(len(study_regions()))
    kind = int(order[list(study_regions()).index(site.region)]) % 3
    rng = stream(seed, site.region, "climate")
    wet = 210.0 if site.lat >= 0 else 30.0
    return Climate(
        (0.35, 0.5, 0.75)[kind],
        wet + rng.normal(0, 20),
        float(rng.uniform(0.4, 2)),
        rng.uniform(0, 2 * np.pi, 4),
    )


def cloud_cover(seed: int, site: Site, climate: Climate, platform: str, date: dt.date) -> float:
    """Return the share of a pass under cloud: Beta-distributed, its mean swinging with the wet season."""
    swing = 0.22 * np.cos(2 * np.pi * (date.timetuple().tm_yday - climate.wet_day) / 365)
    mean = float(np.clip(climate.cloud_mean + swing, 0.04, 0.94))
    return float(stream(seed, site.region, platform, date, "cover").beta(mean * 1.6, (1 - mean) * 1.6))


def plan_passes(params: WorldParams, site: Site, year: int) -> list[Pass]:
    """List the passes of a region and year by time.

    Two paths overlap the region, 7 or 9 days apart; one pass over the second comes as two rows. With a number of
    scenes a year, the passes of the main platforms of the time (Landsat 7 in 2012, Landsat 8 from 2013) are shared
    out over the year, the least cloudy of each stretch, as one selects from a catalog. Without, all that each
    platform acquires in the tropics is there.
    """
    rng = stream(params.seed, site.region, year, "passes")
    climate = climate_of(params.seed, site)
    fixed = stream(params.seed, site.region, "orbit")
    path = (
        round((-64.6 + 0.23 * site.lat - site.lon) / (360 / 233)) % 233 + 1
    )  # WRS-2: path 1 meets the equator at 64.6 W
    row = round(60 - site.lat / 1.44)
    first, apart = int(fixed.integers(0, 16)), int(fixed.choice([7, 9]))
    gap_region, t2_region = stream(params.seed, "history").choice(sorted(study_regions()), 2, replace=False)
    if site.region == gap_region and 1988 <= year <= 1998:
        return []
    wanted = params.scenes_per_year
    candidates: list[tuple[dt.date, str, int, bool]] = []
    for platform in _platforms(year, everything=wanted is None):
        start, end, offset, share = _SERVICE[platform]
        for east in (True, False):
            begin = (first + offset + (0 if east else apart)) % 16
            number = path if east else path % 233 + 1
            for day in range(begin, 366, 16):
                date = dt.date(year, 1, 1) + dt.timedelta(days=day)
                if date.year == year and start <= date <= end and (wanted is not None or rng.random() < share):
                    candidates.append((date, platform, number, east))
    candidates.sort()
    if wanted is not None:
        parts = np.array_split(np.arange(len(candidates)), max(1, wanted - 1))
        cover = [cloud_cover(params.seed, site, climate, platform, date) for date, platform, _, _ in candidates]
        candidates = [candidates[min(part, key=lambda i: cover[i])] for part in parts if len(part)]
    seconds = [i for i, candidate in enumerate(candidates) if not candidate[3]]
    split = int(rng.choice(seconds)) if seconds and wanted != 1 else -1
    local = 10.0 - site.lon / 15  # 10:00 solar time in UTC
    passes = []
    for i, (date, platform, number, east) in enumerate(candidates):
        time = dt.datetime(date.year, date.month, date.day, tzinfo=dt.UTC)
        time += dt.timedelta(hours=local % 24, seconds=float(rng.uniform(-400, 400)))
        second_tier = site.region == t2_region and year < 2000
        second_tier |= wanted is None and rng.random() < (0.06 if year < 2000 else 0.02)
        passes.append(Pass(platform, number, row, east, time, "T2" if second_tier else "T1", i == split))
    return passes


def _platforms(year: int, *, everything: bool) -> list[str]:
    """Return the platforms of a year: all in service, or those a user would mainly rely on."""
    serving = [name for name, (start, end, _, _) in _SERVICE.items() if start.year <= year <= end.year]
    if everything:
        return serving
    return [name for name in serving if name != "landsat-7" or 2000 <= year <= 2012]


class Surface:
    """A region in one year, ready to be seen under many skies.

    Pixels are kept sorted by class, so that every step is a plain vector operation on a stretch of pixels.
    """

    def __init__(self, params: WorldParams, terrain: Terrain, state: State) -> None:
        site = terrain.site
        key = (params.seed, site.region)
        self.site, self.params = site, params
        self.shape = state.index.shape
        self.spectra = region_spectra(stream(*key, "spectra"), overlap=params.overlap, region_shift=params.region_shift)
        self.climate = climate_of(params.seed, site)
        seasonal = np.isin(state.index, indices_of("rice_green", "pond"))
        group = state.index.astype("uint16") * 4 + np.where(seasonal, terrain.phase, 0)
        self.order = np.argsort(group, axis=None, kind="stable")
        ids, starts = np.unique(group.ravel()[self.order], return_index=True)
        ends = [*starts[1:], group.size]
        self.groups = [
            (int(g) // 4, int(g) % 4, slice(int(a), int(b))) for g, a, b in zip(ids, starts, ends, strict=True)
        ]
        base = self._persistent(state)
        gradient_y, gradient_x = np.gradient(base, axis=(1, 2))
        self.base, self.gradient_x, self.gradient_y = (
            np.ascontiguousarray(a.reshape(7, -1)[:, self.order]) for a in (base, gradient_x, gradient_y)
        )
        self.across = np.linspace(-0.03, 0.03, self.shape[1], dtype="float32")[self.order % self.shape[1]]
        slope_y, slope_x = np.gradient(terrain.elevation, 30.0)
        hills = np.hypot(slope_x, slope_y) > 0.03
        self.hills = np.flatnonzero(hills.ravel()[self.order])
        self.slope_x, self.slope_y = (a.ravel()[self.order][self.hills] for a in (slope_x, slope_y))
        reach = self.climate.tide_scale * sum(amplitude for amplitude, _ in _TIDES)
        tidal = (state.ground < reach) & ~np.isin(state.index, WATER)
        self.tidal = np.flatnonzero(tidal.ravel()[self.order])
        self.ground = state.ground.ravel()[self.order][self.tidal]
        self.open = 1 - state.canopy.ravel()[self.order][self.tidal]
        self.turbid = np.exp(self.spectra.log_mean[INDEX["water_turbid"]]) + self.spectra.haze
        self.water = np.isin(state.index, WATER) | np.isin(state.index, indices_of("pond"))
        self.bright = np.isin(state.index, indices_of("sand", "bare_urban", "tidal_flat_exposed"))
        clump = gaussian_field(stream(*key, "false cloud"), self.shape, length_px=3)
        self.prone = self.bright & (clump > 1.2816)  # the clearest tenth, always the same pixels

    def _persistent(self, state: State) -> np.ndarray:
        """Return reflectance with the part of the spread that stays with each pixel, float32 (7, y, x)."""
        rng = stream(self.params.seed, self.site.region, "persistent")
        noise = np.empty((7, state.index.size), dtype="float32")
        for band in range(7):
            correlated = gaussian_field(rng, self.shape, exponent=1.6)
            white = rng.standard_normal(self.shape, dtype="float32")
            noise[band] = (0.8 * correlated + 0.6 * white).ravel()[self.order]
        for index, _, pixels in self.groups:
            deviation = self.spectra.deviation(index, noise[:, pixels], PERSISTENT_SHARE)
            noise[:, pixels] = np.exp(self.spectra.log_mean[index][:, None] + deviation)
        base = np.empty_like(noise)
        base[:, self.order] = noise
        base = base.reshape(7, *self.shape) + self.spectra.haze[:, None, None]
        # The point spread function mixes about 15 % of the pixels with their neighbours.
        return np.stack([ndimage.gaussian_filter(band, 0.5, truncate=3) for band in base])

    def reflectance(self, look: Pass, rng: np.random.Generator) -> np.ndarray:
        """Return what the sensor would measure without clouds, float32 (7, pixel) in the surface's order."""
        jitter = rng.normal(0, 5, 2).astype("float32") / 30
        rho = self.base + jitter[0] * self.gradient_x
        rho += jitter[1] * self.gradient_y
        bank = noise_bank(self.params.seed)
        count = self.order.size
        day = look.time.timetuple().tm_yday
        drained = rng.random(4) < 0.2
        noise = [_slice(bank, rng, count) for _ in range(7)]
        for index, phase, pixels in self.groups:
            log = self.spectra.deviation(index, [band[pixels] for band in noise], 1 - PERSISTENT_SHARE)
            log += self._season(index, phase, day, drained)[:, None]
            rho[:, pixels] *= np.exp(log, out=log)
        sun_elevation, sun_azimuth = sun_position(look.time, self.site)
        # rho cos i / cos z, with the slope's own length left out: below 3 % on these hills.
        slope = np.sin(sun_azimuth) * -self.slope_x + np.cos(sun_azimuth) * self.slope_y
        rho[:, self.hills] *= np.maximum(1 + slope.astype("float32") / np.tan(sun_elevation), 0.15).astype("float32")
        depth = np.maximum(tide_height(look.time, self.climate) - self.ground, 0).astype("float32")
        wet = np.flatnonzero(depth > 0.02)
        if len(wet):
            flooded, depth, bare = self.tidal[wet], depth[wet], self.open[wet].astype("float32")
            for band in range(7):
                share = bare * (1 - np.exp(-2 * ATTENUATION[band] * depth))
                rho[band, flooded] += share * (self.turbid[band] - rho[band, flooded])
        haze = np.float32(abs(rng.normal(0, 0.006))) * HAZE_SHAPE
        gain = rng.normal(1, 0.015, 7).astype("float32")
        for band in range(7):
            rho[band] *= gain[band]
            rho[band] += haze[band]
        if look.sensor != "OLI":
            slope_, intercept = sensor_transform(stream(self.params.seed, "sensor", look.sensor))
            for band in range(7):
                rho[band] = (rho[band] - intercept[band]) / slope_[band]
            for index, _, pixels in self.groups:
                if index in WATER:  # LEDAPS over water: +25 % in the visible (Maciel 2023)
                    rho[1:4, pixels] *= 1.25
        for band in range(7):
            rho[band] += np.float32(_SIGMA[look.sensor]) * _slice(bank, rng, count)
        rho[BANDS.index("nir08")] *= 1 + (self.across if look.east else -self.across)
        return rho

    def _season(self, index: int, phase: int, day: int, drained: np.ndarray) -> np.ndarray:
        """Return the log change of a class on a day, float32 (7,)."""
        change = np.zeros(7, dtype="float32")
        turn = 2 * np.pi * (day - self.climate.wet_day - 40) / 365
        name = NAMES[index]
        if name == "rice_green":
            # Two crops a year: flooded, green, dry, each about two months.
            state = ("rice_flooded", "rice_green", "rice_dry")[int((day + 30 * phase) % 182.5 // 61)]
            change += self.spectra.log_mean[INDEX[state]] - self.spectra.log_mean[index]
        elif name == "pond" and drained[phase]:
            change += self.spectra.log_mean[INDEX["tidal_flat_wet"]] - self.spectra.log_mean[index]
        elif name.startswith("mangrove") or name == "silvofishery":
            change[4], change[3] = 0.05 * np.cos(turn), -0.05 * np.cos(turn)  # NDVI amplitude about .03
        elif name in ("grass_pasture", "saltmarsh_flat", "spartina"):
            swing = np.float32(np.cos(turn))
            change += swing * np.array([-0.1, -0.1, -0.05, -0.3, 0.25, -0.15, -0.25], dtype="float32")
        return change


def render(surface: Surface, look: Pass) -> Rendered:
    """Render one pass over the whole canvas: reflectance, clouds, swath, gaps and QA words."""
    params, site, shape = surface.params, surface.site, surface.shape
    rng = stream(params.seed, site.region, look.time.year, look.key)
    rho = surface.reflectance(look, rng)
    cloud, shadow, cirrus = _sky(surface, look, rng)
    texture = 1 + 0.2 * _roll(_field_bank(params.seed, max(shape)), rng, shape)
    order = surface.order
    opacity, light = cloud.ravel()[order], 1 - 0.45 * shadow.ravel()[order]
    glare = texture.ravel()[order] * opacity
    veil = None if cirrus is None else cirrus.ravel()[order]
    light *= 1 - opacity
    valid, gaps = _swath(surface, look)
    qa, detected, shadowed = _qa_words(surface, look, rng, cloud, shadow, cirrus is not None)
    fill = ~valid | gaps
    qa[fill] = QA_FILL
    bands = {}
    for band, name in enumerate(BANDS):
        if name == "coastal" and look.sensor != "OLI":
            continue
        seen = rho[band] * light + CLOUD[band] * glare
        if veil is not None:
            seen += HAZE_SHAPE[band] * veil
        # Rounded to 16 DN (4e-4): a fifth of the noise, and far fewer bytes.
        seen -= np.float32(OFFSET - 8 * SCALE)
        seen *= np.float32(1 / (16 * SCALE))
        dn = np.empty(shape, dtype="uint16")
        dn.ravel()[order] = np.clip(seen, 1, 4090, out=seen).astype("uint16") << 4
        dn[fill] = 0
        bands[name] = dn
    bands["qa_pixel"] = qa
    radsat = np.zeros(shape, dtype="uint16")
    if look.sensor != "OLI":
        saturated = (cloud * texture > 1.1) & ~fill
        radsat[saturated] = 0b111  # blue, green, red over the brightest cloud
        radsat[gaps & valid] = 1 << 9  # dropped pixel
    bands["qa_radsat"] = radsat
    bands |= _own_layers(surface, look, fill, detected, shadowed)
    return Rendered(bands, valid, (cloud > 0.3) & valid)


def _own_layers(
    surface: Surface, look: Pass, fill: np.ndarray, cloud: np.ndarray, shadow: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the layers only one family of sensors has: aerosol, or cloud QA and opacity."""
    if look.sensor == "OLI":
        aerosol = np.where(surface.water, 0b100, 0b10).astype("uint8")
        aerosol |= np.where(cloud | surface.bright, 0b11000000, 0b01000000).astype("uint8")
        aerosol[fill] = 1
        return {"qa_aerosol": aerosol}
    words = (cloud * 2 + shadow * 4 + surface.water * 32).astype("uint8")
    words[fill] = 0
    opacity = np.where(cloud, 400, 120).astype("int16")
    opacity[fill] = -9999
    return {"cloud_qa": words, "atmos_opacity": opacity}


def _sky(surface: Surface, look: Pass, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return opacity of cloud and of shadow, float32 (y, x) 0-1, and the brightness of cirrus or None."""
    climate, shape = surface.climate, surface.shape
    cover = cloud_cover(surface.params.seed, surface.site, climate, look.platform, look.time.date())
    bank = _field_bank(surface.params.seed, max(shape))
    threshold = np.quantile(bank[: len(bank) // 2 : 8, : len(bank) // 2 : 8], 1 - np.clip(cover, 0, 0.999))
    elevation, azimuth = sun_position(look.time, surface.site)
    offset = rng.uniform(800, 4000) / np.tan(elevation) / 30  # pixels, away from the sun
    corner = rng.integers(0, len(bank) // 2, 2)
    cloud = np.clip((_window(bank, corner, shape) - threshold) / 0.3, 0, 1)
    moved = corner + np.round(offset * np.array([-np.cos(azimuth), np.sin(azimuth)])).astype(int)
    shadow = np.clip((_window(bank, moved, shape) - threshold) / 0.3, 0, 1) * (1 - cloud)
    if rng.random() >= 0.15:
        return cloud, shadow, None
    veil = np.clip(_roll(bank, rng, shape), 0, None) * np.float32(rng.uniform(0.01, 0.03))
    return cloud, shadow, veil


def _qa_words(
    surface: Surface,
    look: Pass,
    rng: np.random.Generator,
    cloud: np.ndarray,
    shadow: np.ndarray,
    cirrus: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compose QA_PIXEL with its errors; return the words, and what was taken for cloud and for shadow.

    It misses 5 % of cloud, in clumps of its thin edges, and a fifth of the shadow, and takes 2 % of the clear ground,
    10 % where it is bright, for cloud. What it misses is not rescued by dilation.
    """
    clump = _fine_bank(surface.params.seed, max(surface.shape))
    cloudy, thin = cloud > 0, (cloud > 0) & (cloud < 0.6)
    share = 0.05 * float(cloudy.sum()) / max(1, int(thin.sum()))
    # Under a closed deck nothing is thin enough to be missed.
    missed = thin & (_roll(clump, rng, surface.shape) > ndtri(1 - min(share, 0.3)))
    detected = _roll(clump, rng, surface.shape) > ndtri(0.98)
    fresh = _roll(clump, rng, surface.shape) > ndtri(0.97)
    again = _roll(clump, rng, surface.shape) > ndtri(0.3)  # 7 % of bright ground by habit, and 3 % anew
    detected = (detected | cloudy | (surface.bright & (fresh | (surface.prone & again)))) & ~missed
    overlooked = _roll(clump, rng, surface.shape) > ndtri(0.8)
    shadowed = (shadow > 0.3) & ~overlooked & ~detected & ~missed
    dilated = _dilate(detected) & ~detected & ~missed
    oli = look.sensor == "OLI"
    bit = {name: np.uint16(1 << position) for name, position in QA_BITS.items()}
    low = np.uint16(0b0101_0101 << 8 if oli else 0b0001_0101 << 8)  # all confidences low; no cirrus on TM and ETM+
    unclear = detected | dilated
    if not oli:
        unclear |= shadowed | surface.water  # on OLI the clear bit stays under shadow and over water
    words = np.full(surface.shape, low)
    words |= bit["water"] * (surface.water & ~detected & ~dilated)
    words |= bit["clear"] * ~unclear
    words |= (bit["cloud"] + np.uint16(0b10 << 8)) * detected
    if oli:
        words[missed & (cloud > 0.3)] += np.uint16(1 << 8)  # middling confidence, without the cloud bit
    words |= bit["dilated_cloud"] * dilated
    words |= bit["cloud_shadow"] * shadowed + np.uint16(0b10 << 10) * shadowed
    if cirrus and oli:
        veiled = ~detected & ~dilated & (_roll(clump, rng, surface.shape) > -0.5)
        words |= (bit["cirrus"] + np.uint16(0b10 << 14)) * veiled
    return words, detected, shadowed


def _swath(surface: Surface, look: Pass) -> tuple[np.ndarray, np.ndarray]:
    """Return where the swath is, and where ETM+ lost its lines after the scan-line corrector failed, bool (y, x)."""
    rows, cols = np.ogrid[: surface.shape[0], : surface.shape[1]]
    edge = swath_edge(surface.params.seed, surface.site, look.east)
    line = edge - SWATH_TILT * (rows - surface.shape[0] / 2)
    valid = cols < line if look.east else cols >= line
    if look.sensor != "ETM+" or look.time.date() <= SLC_FAILURE:
        return valid, np.zeros(surface.shape, dtype=bool)
    rng = stream(surface.params.seed, surface.site.region, look.path, "gaps")
    from_centre = rng.uniform(5, 85) * (1 if look.east else -1)  # km of the square from the swath's middle
    distance = np.abs(from_centre + (cols - surface.shape[1] / 2) * 0.03)
    phase = stream(surface.params.seed, surface.site.region, look.key, "gaps").uniform(0, 33)
    gaps = ((rows + SWATH_TILT * cols + phase) % 33) < 14 * distance / 92.5
    return valid, gaps & valid


def swath_edge(seed: int, site: Site, east: bool) -> float:
    """Return the column of the canvas where a path's swath ends, halfway down."""
    share = stream(seed, site.region, "swath", east).uniform(0.06, 0.2)
    return site.canvas_px * (1 - share if east else share)


def sun_position(time: dt.datetime, site: Site) -> tuple[float, float]:
    """Return the sun's elevation and azimuth, radians, at 10:00 local solar time."""
    declination = np.radians(23.44) * np.sin(2 * np.pi * (time.timetuple().tm_yday - 81) / 365)
    latitude, hour = np.radians(site.lat), np.radians(-30.0)
    up = np.sin(latitude) * np.sin(declination) + np.cos(latitude) * np.cos(declination) * np.cos(hour)
    east = -np.cos(declination) * np.sin(hour)
    north = np.cos(latitude) * np.sin(declination) - np.sin(latitude) * np.cos(declination) * np.cos(hour)
    return float(np.arcsin(up)), float(np.arctan2(east, north) % (2 * np.pi))


def tide_height(time: dt.datetime, climate: Climate) -> float:
    """Return the tide in metres above mean sea level."""
    hours = (np.datetime64(time.replace(tzinfo=None)) - _GAP) / np.timedelta64(1, "h")
    parts = [
        amplitude * np.cos(2 * np.pi * hours / period + phase)
        for (amplitude, period), phase in zip(_TIDES, climate.tide_phases, strict=True)
    ]
    return climate.tide_scale * float(sum(parts))


@lru_cache(maxsize=2)
def noise_bank(seed: int) -> np.ndarray:
    """Return white noise to cut slices from, float32 (2**22 + 2**23,)."""
    return stream(seed, "noise bank").standard_normal(3 << 22, dtype="float32")


def _slice(bank: np.ndarray, rng: np.random.Generator, count: int) -> np.ndarray:
    """Cut a stretch of noise at a random place."""
    start = int(rng.integers(0, len(bank) - count))
    return bank[start : start + count]


@lru_cache(maxsize=2)
def _field_bank(seed: int, least_px: int) -> np.ndarray:
    """Return a periodic cloud field larger than a canvas, twice in each direction, float32 (2 side, 2 side)."""
    side = 1 << int(least_px).bit_length()
    return np.tile(gaussian_field(stream(seed, "clouds", side), (side, side), exponent=3.1, periodic=True), (2, 2))


@lru_cache(maxsize=2)
def _fine_bank(seed: int, least_px: int) -> np.ndarray:
    """Return a periodic field of small clumps like ``_field_bank``."""
    side = 1 << int(least_px).bit_length()
    return np.tile(gaussian_field(stream(seed, "clumps", side), (side, side), length_px=3, periodic=True), (2, 2))


def _window(bank: np.ndarray, corner: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """View a window of a field laid out twice, wherever its corner is."""
    row, col = (int(n) for n in corner % (len(bank) // 2))
    return bank[row : row + shape[0], col : col + shape[1]]


def _roll(bank: np.ndarray, rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return _window(bank, rng.integers(0, len(bank) // 2, 2), shape)


def _dilate(mask: np.ndarray, pixels: int = 3) -> np.ndarray:
    """Grow a mask by ``pixels`` in rows, then in columns."""
    out = mask.copy()
    for step in range(1, pixels + 1):
        out[step:] |= mask[:-step]
        out[:-step] |= mask[step:]
    rows = out.copy()
    for step in range(1, pixels + 1):
        out[:, step:] |= rows[:, :-step]
        out[:, :-step] |= rows[:, step:]
    return out


__all__ = ["Pass", "RegionSpectra", "Rendered", "Surface", "plan_passes", "render", "swath_edge"]
