"""The land: relief, tidal zones, land cover, and how both change from year to year."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

import numpy as np
from scipy import ndimage

from engine.simulate.spectra import INDEX, MANGROVE, NAMES, indices_of
from engine.simulate.world import FIRST_YEAR, LAST_YEAR, Site, gaussian_field, site_of, stream

PIXEL_HA: Final = 0.09
_CREEK_M: Final = -1.5
_PLATEAU_M: Final = 2.6

EVENT_TYPES: Final = ("clear-fell to pond", "storm dieback", "progradation", "erosion", "planting")
_OPEN = indices_of("water", "tidal_flat_wet")
_PLANTABLE = indices_of("pond", "abandoned_pond", "tidal_flat_exposed", "saltmarsh_flat")


@dataclass(frozen=True)
class Event:
    """One change of the mangrove, as it happened."""

    id: int
    type: str
    date: dt.date
    """When it began."""

    window: tuple[slice, slice]
    """Rows and columns of the canvas."""

    start: np.ndarray
    """float32 (y, x) of the window: decimal year in which the change reached the pixel, NaN outside."""

    recovers: bool = False
    """Whether a dieback grows back."""


@dataclass(frozen=True)
class State:
    """The land on 1 July of a year; arrays over the canvas."""

    index: np.ndarray
    """uint8 (y, x): class, index into ``spectra.NAMES``."""

    canopy: np.ndarray
    """float32 (y, x): share of the pixel under mangrove canopy; mangrove is at least 0.2."""

    event: np.ndarray
    """uint16 (y, x): id of the last event, 0 none."""

    change_year: np.ndarray
    """uint16 (y, x): year the last event reached the pixel, 0 none."""

    ground: np.ndarray
    """float32 (y, x): metres above mean sea level, with what progradation has built up."""

    @property
    def mangrove(self) -> np.ndarray:
        return self.canopy >= 0.2


@dataclass(frozen=True)
class Terrain:
    """What does not change in a region; arrays over the canvas."""

    site: Site
    elevation: np.ndarray
    """float32 (y, x): bare earth, metres above mean sea level."""

    index: np.ndarray
    """uint8 (y, x): class before any event."""

    canopy: np.ndarray
    """float32 (y, x): mangrove canopy before any event."""

    phase: np.ndarray
    """uint8 (y, x), 0-3: which of four calendars a field or pond follows."""

    events: list[Event] = field(default_factory=list)
    """By date, FIRST_YEAR to LAST_YEAR."""


@lru_cache(maxsize=4)
def make_terrain(seed: int, region: str, size_px: int, setting: str, change_rate: float | None = None) -> Terrain:
    """Build a region's land and its whole history of change.

    Parameters
    ----------
    seed : int
    region : str
        Row of ``engine/regions.csv``.
    size_px : int
        Side of the region's square.
    setting : str
        ``coastal`` or ``mainland``.
    change_rate : float, optional
        As of ``WorldParams``.
    """
    site = site_of(region, size_px)
    rng = stream(seed, region, size_px, setting, "terrain")
    shape = (site.canvas_px, site.canvas_px)
    coast, relief = _coast_and_relief(rng, site, setting)
    zoning = 0.4 * gaussian_field(rng, shape, length_px=50)  # zone boundaries are not contours
    cover, texture = gaussian_field(rng, shape, exponent=2.6), gaussian_field(rng, shape, exponent=2.6)
    share = rng.uniform(0.012, 0.026) if setting == "mainland" else rng.uniform(0.15, 0.22)

    # The tidal slope is stretched until mangrove covers its share of the square.
    low, high = 0.02, 20.0
    for _ in range(12):
        stretch = np.sqrt(low * high)
        level = _elevation(coast, relief, stretch)[site.inner] + zoning[site.inner]
        if ((level >= 0.12) & (level < 2.3)).mean() > share:
            high = stretch
        else:
            low = stretch
    elevation = _elevation(coast, relief, stretch)
    index = _land_cover(rng, elevation + zoning, coast, cover, texture, setting)
    canopy = _canopy(rng, index, elevation, texture)
    blocks = stream(seed, region, "calendar").integers(0, 4, (shape[0] // 16 + 1, shape[1] // 16 + 1))
    phase = np.kron(blocks, np.ones((16, 16), int))[: shape[0], : shape[1]].astype("uint8")
    terrain = Terrain(site, elevation, index, canopy, phase)
    _add_events(stream(seed, region, size_px, setting, "events"), terrain, change_rate)
    return terrain


def _coast_and_relief(rng: np.random.Generator, site: Site, setting: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return metres inland of the coast, float32 (y, x), and the fields that shape the ground."""
    side = site.canvas_px
    shape = (side, side)
    y, x = (np.mgrid[:side, :side].astype("float32") - side / 2) * 30
    angle, wave = rng.uniform(0, 2 * np.pi), rng.uniform(5e3, 9e3)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    coast = across + rng.uniform(300, 900) * np.sin(2 * np.pi * (along / wave + rng.random()))
    coast += 900 * gaussian_field(rng, shape, exponent=3.2, length_px=2)
    sea = rng.uniform(0.03, 0.07) if setting == "mainland" else rng.uniform(0.22, 0.36)
    coast -= np.quantile(coast[site.inner], sea)
    return coast.astype("float32"), {
        "noise": 0.35 * gaussian_field(rng, shape, exponent=2.8, length_px=2),
        "creek": np.abs(gaussian_field(rng, shape, exponent=3.0, length_px=2)),
        "ridge": gaussian_field(rng, shape, exponent=3.0),
    }


def _elevation(coast: np.ndarray, relief: dict[str, np.ndarray], stretch: float) -> np.ndarray:
    """Return metres above mean sea level: tidal slope, plateau, creeks, hills."""
    level = np.where(coast < 0, coast / (400 * stretch), np.minimum(coast / (900 * stretch), _PLATEAU_M))
    level = level + relief["noise"] + np.maximum(coast - 3000 * stretch, 0) / 500  # then a dry coastal plain
    # Creeks end a few km inland; their banks rise over the next .1 of the field.
    bank = _CREEK_M + np.maximum(relief["creek"] - 0.06, 0) * 40 + np.maximum(coast - 3000 * stretch, 0) / 200
    level = np.where(coast > 0, np.minimum(level, bank), level)
    hills = np.maximum(coast - 4500 * max(stretch, 1), 0)
    return (level + 0.012 * hills * np.maximum(1 + 1.2 * relief["ridge"], 0)).astype("float32")


def _land_cover(
    rng: np.random.Generator,
    level: np.ndarray,
    coast: np.ndarray,
    cover: np.ndarray,
    texture: np.ndarray,
    setting: str,
) -> np.ndarray:
    """Return class indices by tidal zone, and above it by a second field, uint8 (y, x)."""
    offshore = -coast / 1000 + 0.8 * cover
    index = np.select(
        [level < -0.9, level < -0.35, level < 0.12, level < 0.35, level < 1.75, level < 2.3, level < 2.9],
        [
            np.select(
                [offshore < 1.2, offshore < 3.0],
                [INDEX["water_turbid"], INDEX["water_mid"]],
                INDEX["water_clear"],
            ),
            INDEX["tidal_flat_wet"],
            INDEX["tidal_flat_exposed"],
            INDEX["mangrove_sparse"],
            INDEX["mangrove_tall"],
            INDEX["mangrove_short"],
            np.where(texture > 0.4, INDEX["saltmarsh_flat"], INDEX["swamp_nypa"]),
        ],
        _upland(rng, level >= 2.9, cover, texture, setting),
    ).astype("uint8")
    index[(level > 25) & (texture < 0.3)] = INDEX["forest_evergreen"]  # hills
    index[(level >= -0.15) & (level < 0.12) & (texture > 0.9)] = INDEX["spartina"]
    exposed = cover > np.quantile(cover, 0.75)
    index[exposed & (coast > 0) & (coast < 70)] = INDEX["sand"]
    ponds, silvo, palms = 0.035 * index.size, 0.006 * index.size, 0.04 * index.size
    mangrove = np.isin(index, [INDEX["mangrove_tall"], INDEX["mangrove_short"]])
    nypa = np.isin(index, [INDEX["swamp_nypa"], INDEX["saltmarsh_flat"]])
    if setting == "coastal":
        _blocks(rng, index, nypa | (index == INDEX["mangrove_short"]), "pond", ponds, (3, 11))
        _blocks(rng, index, mangrove, "silvofishery", silvo, (5, 14))
    _blocks(rng, index, index == INDEX["pond"], "abandoned_pond", 0.15 * ponds, (3, 8))
    _blocks(rng, index, (level >= 2.9) & (level < 40), "oil_palm", palms, (12, 34))
    return index


def _upland(
    rng: np.random.Generator, upland: np.ndarray, cover: np.ndarray, texture: np.ndarray, setting: str
) -> np.ndarray:
    """Return the land cover of dry land: contours of a field, with a little of each drawn anew per region."""
    names = ("forest_evergreen", "shrub_secondary", "grass_pasture", "rice_green", "bare_urban")
    shares = np.array([0.30, 0.2, 0.2, 0.2, 0.1] if setting == "coastal" else [0.62, 0.12, 0.11, 0.1, 0.05])
    shares = shares * (rng.uniform(0.7, 1.3, 5) if setting == "coastal" else 1)
    mixed = cover + 0.5 * texture
    values = mixed[upland] if upland.any() else mixed
    edges = np.quantile(values, np.cumsum(shares / shares.sum())[:-1])
    return np.array([INDEX[name] for name in names], dtype="uint8")[np.digitize(mixed, edges)]


def _blocks(
    rng: np.random.Generator,
    index: np.ndarray,
    allowed: np.ndarray,
    name: str,
    pixels: float,
    sides: tuple[int, int],
) -> None:
    """Turn rectangles of allowed ground into a class, in place, until it covers about ``pixels``."""
    centres = np.flatnonzero(allowed)
    changed, tries = 0, 0
    while changed < pixels and tries < 400 and len(centres):
        tries += 1
        row, col = divmod(int(rng.choice(centres)), index.shape[1])
        height, width = rng.integers(*sides, 2)
        window = (slice(row, row + height), slice(col, col + width))
        inside = allowed[window]
        if inside.mean() > 0.6:
            index[window][inside] = INDEX[name]
            changed += int(inside.sum())


def _canopy(rng: np.random.Generator, index: np.ndarray, elevation: np.ndarray, texture: np.ndarray) -> np.ndarray:
    """Return mangrove canopy cover, float32 (y, x): tallest within 90 m of creeks."""
    vigour = np.clip(0.5 + 0.25 * texture + 0.1 * rng.standard_normal(index.shape, dtype="float32"), 0, 1)
    near_creek = ndimage.maximum_filter(elevation < -0.9, size=7)
    canopy = np.zeros(index.shape, dtype="float32")
    for name, least, most in (("tall", 0.7, 0.92), ("short", 0.5, 0.8), ("sparse", 0.22, 0.5)):
        mine = index == INDEX[f"mangrove_{name}"]
        canopy[mine] = least + (most - least) * vigour[mine]
    canopy[near_creek & (index == INDEX["mangrove_tall"])] += 0.06
    # Silvofishery: strips of canopy one to three pixels wide between strips of water.
    rows, cols = np.indices(index.shape)
    strips = (rows + 2 * cols) % 6 < 3
    silvo = index == INDEX["silvofishery"]
    canopy[silvo] = np.where(strips, 0.7, 0.3)[silvo]
    return canopy


def state_of(terrain: Terrain, year: int) -> State:
    """Return the land on 1 July of ``year``."""
    state = _initial(terrain)
    for event in terrain.events:
        if event.date.year <= year:
            _apply(event, year + 0.5, state, terrain)
    return state


def _initial(terrain: Terrain) -> State:
    zeros = np.zeros(terrain.index.shape, dtype="uint16")
    return State(terrain.index.copy(), terrain.canopy.copy(), zeros, zeros.copy(), terrain.elevation.copy())


def _apply(event: Event, now: float, state: State, terrain: Terrain) -> None:
    """Write an event's effect at decimal year ``now`` into a state."""
    age = now - event.start
    hit = age >= 0  # NaN, outside the event, compares false
    if not hit.any():
        return
    age = age[hit]
    if event.type == "clear-fell to pond":
        names, canopy = ["pond"], np.zeros_like(age)
        stage = np.zeros(age.shape, int)
    elif event.type == "erosion":
        names, canopy = ["water_turbid"], np.zeros_like(age)
        stage = np.zeros(age.shape, int)
    elif event.type == "storm dieback":
        names = ["mangrove_dead", "mangrove_sparse", "mangrove_short"]
        stage = np.digitize(age, [2, 4])
        canopy = np.array([0.08, 0.35, 0.6], dtype="float32")[stage]
        if not event.recovers:
            names, stage = ["mangrove_dead", "tidal_flat_wet"], np.digitize(age, [4])
            canopy = np.array([0.08, 0.0], dtype="float32")[stage]
    elif event.type == "progradation":
        names = ["tidal_flat_wet", "mangrove_sparse", "mangrove_short", "mangrove_tall"]
        stage = np.digitize(age, [1, 3, 6])
        canopy = np.array([0.0, 0.35, 0.6, 0.8], dtype="float32")[stage]
        # Mangrove follows the mud, and grows where it lies above mean sea level: the zones of _land_cover.
        ground = state.ground[event.window]
        ground[hit] = np.maximum(ground[hit], np.array([-0.6, 0.2, 0.5, 0.5], dtype="float32")[stage])
    else:
        canopy = np.clip(0.1 + 0.1 * age, 0.1, 0.7)
        names, stage = (
            ["tidal_flat_exposed", "mangrove_sparse", "mangrove_short"],
            np.digitize(canopy, [0.2, 0.5]),
        )
    state.index[event.window][hit] = np.array([INDEX[name] for name in names], dtype="uint8")[stage]
    state.canopy[event.window][hit] = canopy
    state.event[event.window][hit] = event.id
    state.change_year[event.window][hit] = np.floor(event.start[hit])


def _add_events(rng: np.random.Generator, terrain: Terrain, change_rate: float | None) -> None:
    """Fill ``terrain.events``. No pixel changes twice, so that every change can be scored on its own."""
    # Half of the worlds change 0.5-1 % of their mangrove a year, nearly half .15 % (the real order), some none.
    draw = rng.random()
    rate = rng.uniform(0.005, 0.01) if draw < 0.5 else 0.0015 if draw < 0.9 else 0.0
    rate = rate if change_rate is None else change_rate
    free = np.ones(terrain.index.shape, dtype=bool)
    mangrove = terrain.canopy >= 0.2
    shore = mangrove & ndimage.maximum_filter(np.isin(terrain.index, _OPEN), size=3)
    grounds = {
        "progradation": np.flatnonzero(shore),
        "erosion": np.flatnonzero(shore),
        "planting": np.flatnonzero(np.isin(terrain.index, _PLANTABLE)),
    }
    inland = np.flatnonzero(mangrove)
    budget = 0.0
    for year in range(FIRST_YEAR, LAST_YEAR + 1):
        budget += rate * len(inland)
        for _ in range(8):
            if budget < 12:
                break
            kind = str(rng.choice(EVENT_TYPES, p=[0.42, 0.12, 0.14, 0.14, 0.18]))
            event = _draw_event(rng, terrain, free, kind, grounds.get(kind, inland), year, budget)
            if event is not None:
                terrain.events.append(event)
                changed = np.isfinite(event.start)
                free[event.window] &= ~changed
                budget -= changed.sum()
    terrain.events.sort(key=lambda event: event.date)


def _draw_event(
    rng: np.random.Generator,
    terrain: Terrain,
    free: np.ndarray,
    kind: str,
    centres: np.ndarray,
    year: int,
    budget: float,
) -> Event | None:
    """Draw one event of a year round one of ``centres``, or None where it finds too little ground."""
    if not len(centres):
        return None
    row, col = divmod(int(rng.choice(centres)), free.shape[1])
    date = dt.date(year, 1, 1) + dt.timedelta(days=int(rng.integers(0, 365)))
    begin = year + (date.timetuple().tm_yday - 1) / 366
    reach = {"clear-fell to pond": 12, "storm dieback": 48, "planting": 16}.get(kind, 32)
    window = (
        slice(max(0, row - reach), min(row + reach, free.shape[0])),
        slice(max(0, col - reach), min(col + reach, free.shape[1])),
    )
    rows, cols = np.mgrid[window]
    rows, cols = rows - row, cols - col
    mangrove, index = terrain.canopy[window] >= 0.2, terrain.index[window]
    open_ground = np.isin(index, _OPEN)
    largest = max(12.0, 1.5 * budget)
    arrives = np.full(index.shape, begin)
    if kind in ("clear-fell to pond", "planting"):
        area = rng.uniform(11, np.clip(largest, 12, 111 if kind == "clear-fell to pond" else 222))
        height = np.clip(np.sqrt(area * rng.uniform(0.5, 2)), 3, 2 * reach)
        inside = (abs(rows) <= height / 2) & (abs(cols) <= area / height / 2)
        inside &= mangrove if kind == "clear-fell to pond" else np.isin(index, _PLANTABLE)
    elif kind == "storm dieback":
        radius = np.sqrt(rng.uniform(56, np.clip(largest, 57, 2222)) / np.pi)
        wobble = 1 + 0.35 * gaussian_field(rng, index.shape, exponent=3.0)
        inside = mangrove & (np.hypot(rows, cols) < radius * wobble)
    else:
        # A front that moves a few pixels a year for some years, along a stretch of coast.
        rate = rng.uniform(1, 5) if kind == "progradation" else rng.uniform(0.5, 3)
        onto, origin = (open_ground, mangrove) if kind == "progradation" else (mangrove, open_ground)
        distance = ndimage.distance_transform_edt(~origin)
        inside = onto & (np.hypot(rows, cols) < rng.uniform(8, 24)) & (distance <= rate * rng.integers(3, 9))
        inside &= terrain.elevation[window] > -2.5
        arrives = begin + np.floor(distance / rate)
    inside &= free[window]
    if inside.sum() < 6:
        return None
    start = np.where(inside, arrives, np.nan).astype("float32")
    return Event(len(terrain.events) + 1, kind, date, window, start, bool(rng.random() >= 0.4))


def canopy_height(state: State) -> np.ndarray:
    """Return the height of the vegetation, float32 metres, for a surface model."""
    height = np.zeros(len(NAMES), dtype="float32")
    for name, metres in (
        ("forest_evergreen", 20),
        ("oil_palm", 10),
        ("swamp_nypa", 6),
        ("shrub_secondary", 4),
    ):
        height[INDEX[name]] = metres
    for name, metres in (
        ("mangrove_tall", 14),
        ("mangrove_short", 5),
        ("mangrove_sparse", 4),
        ("silvofishery", 8),
    ):
        height[INDEX[name]] = metres
    mangrove = np.isin(state.index, MANGROVE)
    return height[state.index] * np.where(mangrove, state.canopy, 1)
