"""Looks of two sensors a few days apart: lines that bring one to the other, and how far off they stay.

TM ended in 2011, before OLI began: it reaches OLI through ETM+, which flew beside both.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pandas as pd

from engine.errors import CatalogError
from engine.grid import Tile
from engine.kernels.draw import pixel_hash, smallest
from engine.kernels.harmonise import ROY, fit_line
from engine.kernels.indices import spectral_indices
from engine.landsat import BANDS, ETM, OFFSET, OLI, SCALE, TM
from engine.params import Lines
from engine.plan import TileYear
from engine.scenes import mean_cloud, observations
from engine.store import fingerprint_of

MOST_DAYS: Final = 8
"""Between two looks of a pair: two Landsats cross a path 8 days apart, neighbouring paths within 1 and 7."""

TILE_YEARS: Final = 24
"""Of each two sensors, chosen by seed: all the reading there is, whatever the size of the run."""

PAIRS: Final = 6
"""Of a tile-year, the least cloudy."""

PIXELS: Final = 4000
"""Of a pair, chosen by seed."""

LEAST_PAIRS: Final = 4
"""That lines are fitted to; half of them judge the lines of the others."""

LEAST_PIXELS: Final = 200
"""Of a pair that counts."""

LEAST_CORRELATION: Final = 0.5
"""Of a band, below which a line would be fitted to noise."""

IDENTITY: Final[Lines] = ((1.0, 0.0),) * len(BANDS)

NEXT: Final = {TM.name: ETM.name, ETM.name: OLI.name}
"""Sensor -> the one it is compared with."""


@dataclass(frozen=True)
class Overlap:
    """Pairs of looks of one tile-year."""

    part: TileYear
    """With the scenes of the pairs alone."""

    sensor: str
    pairs: tuple[tuple[str, str], ...]
    """Observations of ``sensor`` and of the next one; no look is in two pairs."""

    def fingerprint(self) -> str:
        """Return a hash of all that decides what is drawn of it, but the seed and how looks are masked."""
        scenes = [(scene.id, scene.processed) for scene in self.part.scenes]
        return fingerprint_of(
            "overlap-1", self.part.tile.zone, self.part.tile.window, self.part.year, self.pairs, scenes
        )


@dataclass(frozen=True)
class Pair:
    """The same pixels of two looks, digital numbers uint16 (6, pixel)."""

    sensor: str
    first: np.ndarray
    second: np.ndarray
    """Of the next sensor."""


def find_overlaps(tile_years: Sequence[TileYear], seed: int) -> list[Overlap]:
    """Choose the pairs of looks to compare the sensors of a run by.

    Parameters
    ----------
    tile_years : sequence of TileYear
    seed : int
        Decides which tile-years are looked at.

    Returns
    -------
    list of Overlap
        Of ETM+ and OLI, and where the run has TM of TM and ETM+, at most ``TILE_YEARS`` each.
    """
    order = sorted(tile_years, key=lambda part: fingerprint_of(seed, part.key))
    found: list[Overlap] = []
    for sensor in needed(scene.sensor.name for part in tile_years for scene in part.scenes):
        there = (overlap for part in order if (overlap := _overlap(part, sensor)).pairs)
        found += itertools.islice(there, TILE_YEARS)
    return sorted(found, key=lambda overlap: (overlap.sensor, overlap.part.key))


def _overlap(part: TileYear, sensor: str) -> Overlap:
    looks = observations(part.scenes)
    firsts, seconds = (
        [look for look, scenes in looks.items() if scenes[0].sensor.name == name] for name in (sensor, NEXT[sensor])
    )

    def days(pair: tuple[str, str]) -> float:
        first, second = (looks[look][0].datetime.date() for look in pair)
        return abs((first - second).days)

    close = [pair for pair in itertools.product(firsts, seconds) if days(pair) <= MOST_DAYS]
    pairs: list[tuple[str, str]] = []
    for pair in sorted(close, key=lambda pair: (sum(mean_cloud(looks[look]) for look in pair), days(pair), pair)):
        if len(pairs) < PAIRS and not any(look in used for used in pairs for look in pair):
            pairs.append(pair)
    wanted = {look for pair in pairs for look in pair}
    scenes = tuple(scene for scene in part.scenes if scene.observation in wanted)
    return Overlap(replace(part, scenes=scenes), sensor, tuple(pairs))


def draw_pair(bands: np.ndarray, clear: np.ndarray, tile: Tile, sensor: str, seed: int) -> Pair:
    """Draw pixels that are clear and dry in both looks of a pair.

    Wet ones (MNDWI > 0) would compare two heights of the tide, and over water the visible bands of TM and ETM+ are off
    by another amount than over land (Maciel et al. 2023).

    Parameters
    ----------
    bands : ndarray of uint16, shape (2, 6, y, x)
    clear : ndarray of bool, shape (2, y, x)
    tile : Tile
    sensor : str
        Of the first look.
    seed : int
    """
    y, x = np.nonzero(clear.all(axis=0))
    looks = bands[:, :, y, x]
    dry = np.all([spectral_indices(look)[1] <= 0 for look in looks], axis=0)
    y, x, looks = y[dry], x[dry], looks[:, :, dry]
    chosen = smallest(pixel_hash(seed, tile.zone, y + tile.window[0], x + tile.window[1]), PIXELS)
    return Pair(sensor, *np.ascontiguousarray(looks[:, :, chosen]))


def fit_lines(pairs: Sequence[Pair], sensors: Iterable[str], *, least: int = LEAST_PAIRS) -> dict[str, Lines]:
    """Fit what brings each sensor to OLI, TM by way of ETM+.

    Parameters
    ----------
    pairs : sequence of Pair
        Those of fewer than ``LEAST_PIXELS`` do not count.
    sensors : iterable of str
        That need lines.
    least : int
        Pairs a fit needs.

    Returns
    -------
    dict of str to Lines
        Sensor -> slope and intercept of each band, to six digits.

    Raises
    ------
    CatalogError
        If there are too few pairs of two sensors, or a band has too little in common.
    """
    lines: dict[str, Lines] = {}
    by_sensor = _by_sensor(pairs)
    for sensor in needed(sensors):
        of = by_sensor.get(sensor, [])
        names = f"{sensor} and {NEXT[sensor]}"
        if len(of) < least:
            raise CatalogError(
                f"harmonise is local and {len(of)} pairs of looks of {names} within {MOST_DAYS} days have "
                f"{LEAST_PIXELS} dry pixels clear in both, of {least} needed",
                fix="add years in which both flew, or use cube.harmonise: roy or none",
            )
        firsts, seconds = (np.concatenate([getattr(p, look) for p in of], axis=1) for look in ("first", "second"))
        fits = [fit_line(*of_band) for of_band in zip(_reflectance(firsts), _reflectance(seconds), strict=True)]
        for band, (_, _, correlation) in zip(BANDS, fits, strict=True):
            if correlation < LEAST_CORRELATION:
                raise CatalogError(
                    f"harmonise is local and {band} of {names} correlates by {correlation:.2f} over {len(of)} pairs of "
                    f"looks, {LEAST_CORRELATION} needed",
                    fix="add years or regions with more contrast, or use cube.harmonise: roy or none",
                )
        onward = lines.get(NEXT[sensor], IDENTITY)
        lines[sensor] = tuple(
            (round(more * slope, 6), round(more * intercept + shift, 6))
            for (slope, intercept, _), (more, shift) in zip(fits, onward, strict=True)
        )
    return lines


def needed(sensors: Iterable[str]) -> list[str]:
    """Return the sensors that need lines so that these do, each after the one it leads to.

    Examples
    --------
    >>> needed(["TM", "OLI"]), needed(["OLI"])
    (['ETM+', 'TM'], [])
    """
    wanted = set(sensors) & set(NEXT)
    return [sensor for sensor in (ETM.name, TM.name) if sensor in wanted or (sensor == ETM.name and TM.name in wanted)]


def residual_table(pairs: Sequence[Pair], *, local: bool) -> pd.DataFrame:
    """Return how far two sensors differ over the same pixels as they are, by Roy's lines and by those fitted here.

    Parameters
    ----------
    pairs : sequence of Pair
    local : bool
        Fit lines too: half of the pairs is judged by lines of the other half, and the other way round.

    Returns
    -------
    DataFrame
        A row for each ``sensor`` and ``target``, ``method`` (none, roy, local) and ``band``: ``pairs``, ``pixels``;
        ``mean_bias`` and ``median_absolute`` of the reflectance of the target less that of the sensor, both as the
        method brings them to OLI; and ``slope`` and ``intercept`` that it does by, of local those of all pairs.
    """
    by_sensor = _by_sensor(pairs)
    halves = [[pair for of in by_sensor.values() for pair in of[first::2]] for first in (0, 1)]
    everything = [pair for of in by_sensor.values() for pair in of]
    methods: dict[str, tuple[dict[str, Lines], list[tuple[list[Pair], dict[str, Lines]]]]] = {
        "none": ({}, [(everything, {})]),
        "roy": (dict.fromkeys(NEXT, ROY), [(everything, dict.fromkeys(NEXT, ROY))]),
    }
    if local:
        fits = [fit_lines(half, by_sensor, least=LEAST_PAIRS // 2) for half in halves]
        methods["local"] = (fit_lines(everything, by_sensor), list(zip(halves, reversed(fits), strict=True)))
    rows: list[dict[str, Any]] = []
    for sensor, of in by_sensor.items():
        for method, (final, judged) in methods.items():
            off = np.concatenate(
                [_difference(pair, lines) for some, lines in judged for pair in some if pair.sensor == sensor], axis=1
            )
            for band, name in enumerate(BANDS):
                slope, intercept = final.get(sensor, IDENTITY)[band]
                rows.append(
                    {
                        "sensor": sensor,
                        "target": NEXT[sensor],
                        "method": method,
                        "band": name,
                        "pairs": len(of),
                        "pixels": off.shape[1],
                        "mean_bias": round(float(off[band].mean()), 5),
                        "median_absolute": round(float(np.median(abs(off[band]))), 5),
                        "slope": slope,
                        "intercept": intercept,
                    }
                )
    return pd.DataFrame(rows)


def _by_sensor(pairs: Iterable[Pair]) -> dict[str, list[Pair]]:
    """Return the pairs that count."""
    found: dict[str, list[Pair]] = {}
    for pair in pairs:
        if pair.first.shape[1] >= LEAST_PIXELS:
            found.setdefault(pair.sensor, []).append(pair)
    return found


def _difference(pair: Pair, lines: Mapping[str, Lines]) -> np.ndarray:
    """Return the second look of a pair less the first, both brought to OLI."""
    sides = ((pair.second, NEXT[pair.sensor]), (pair.first, pair.sensor))
    second, first = (_brought(dn, lines.get(sensor, IDENTITY)) for dn, sensor in sides)
    return second - first


def _reflectance(dn: np.ndarray) -> np.ndarray:
    return dn * SCALE + OFFSET


def _brought(dn: np.ndarray, lines: Lines) -> np.ndarray:
    slope, intercept = np.array(lines).T[:, :, None]
    return slope * _reflectance(dn) + intercept
