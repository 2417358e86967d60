"""Class and transition codes, their names and colours: written once, used by rasters, plots and pages."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final


@dataclass(frozen=True)
class Entry:
    """One code of a categorical raster."""

    code: int
    name: str
    colour: tuple[int, int, int]
    """sRGB, 0-255; distinguishable with red-green colour blindness (after Okabe and Ito 2008)."""


NOT_OBSERVED: Final = 0
OTHER: Final = 1
MANGROVE: Final = 2
OUTSIDE_HABITAT: Final = 3
OUTSIDE_AREA: Final = 255

CLASSES: Final = (
    Entry(NOT_OBSERVED, "not observed", (190, 190, 190)),
    Entry(OTHER, "other", (240, 228, 200)),
    Entry(MANGROVE, "mangrove", (0, 114, 90)),
    Entry(OUTSIDE_HABITAT, "outside the habitat limit", (236, 232, 240)),
    Entry(OUTSIDE_AREA, "outside the area", (255, 255, 255)),
)
"""Codes of every class raster. 0 is never "not mangrove"."""

AS_MAPPED: Final = 0
ADDED: Final = 1
REMOVED: Final = 2
UNSURE: Final = 3

EDITS: Final = (
    Entry(AS_MAPPED, "as mapped", (255, 255, 255)),
    Entry(ADDED, "added by hand", (0, 158, 115)),
    Entry(REMOVED, "removed by hand", (204, 121, 167)),
    Entry(UNSURE, "unsure", (230, 159, 0)),
)
"""Codes of what people drew over a map."""

STABLE_OTHER: Final = 1
STABLE_MANGROVE: Final = 2
LOSS: Final = 3
GAIN: Final = 4
STABLE_OUTSIDE_HABITAT: Final = 5

TRANSITIONS: Final = (
    Entry(NOT_OBSERVED, "not observed", (190, 190, 190)),
    Entry(STABLE_OTHER, "stable other", (240, 228, 200)),
    Entry(STABLE_MANGROVE, "stable mangrove", (0, 114, 90)),
    Entry(LOSS, "loss", (213, 94, 0)),
    Entry(GAIN, "gain", (86, 180, 233)),
    Entry(STABLE_OUTSIDE_HABITAT, "outside the habitat limit", (236, 232, 240)),
    Entry(OUTSIDE_AREA, "outside the area", (255, 255, 255)),
)
"""Codes of every transition between two maps. A pixel that either did not observe is *not observed*."""

LOSS_RECOVERED: Final = 6
PROVISIONAL_LOSS: Final = 7
PROVISIONAL_GAIN: Final = 8
LOSS_THEN_GAIN: Final = 9
GAIN_THEN_LOSS: Final = 10

_PROVISIONAL: Final = (
    Entry(PROVISIONAL_LOSS, "provisional loss", (240, 180, 130)),
    Entry(PROVISIONAL_GAIN, "provisional gain", (140, 220, 255)),
)
PAIRS: Final = (*TRANSITIONS[:-1], *_PROVISIONAL, TRANSITIONS[-1])
"""Codes of a transition between two years of a history: those of the last years may yet turn back."""

LOST: Final = 1
GAINED: Final = 2
"""Bits of the layer ``large`` of a history: of a patch of loss, and of gain, that counts."""

CHANGES: Final = (
    *TRANSITIONS[:-1],
    Entry(LOSS_RECOVERED, "loss then recovery", (204, 121, 167)),
    *_PROVISIONAL,
    Entry(LOSS_THEN_GAIN, "loss, later gain", (0, 158, 115)),
    Entry(GAIN_THEN_LOSS, "gain, later loss", (230, 159, 0)),
    TRANSITIONS[-1],
)
"""Codes of what happened to a pixel in all years: those of a transition, and what two years cannot tell."""

LABEL_UNKNOWN: Final = 0
"""Reference labels share OTHER and MANGROVE; 0 is a pixel the mask says nothing about, or was eroded away."""

PROBABILITY_SCALE: Final = 10_000
"""Probability rasters hold uint16 round(p * 10000)."""

PROBABILITY_MISSING: Final = 65_535
"""Probability of a pixel that was not classified."""


def threshold_code(threshold: float) -> int:
    """Return a threshold as probability rasters are compared with it: a pixel is mangrove from this code on.

    Examples
    --------
    >>> threshold_code(0.31), threshold_code(0.0)  # 0 would map all of the land
    (3100, 1)
    """
    return max(1, round(threshold * PROBABILITY_SCALE))


@dataclass(frozen=True)
class Ramp:
    """Colours of a continuous raster, interpolated between stops."""

    name: str
    stops: tuple[tuple[float, tuple[int, int, int]], ...]
    """``(value, sRGB)`` by rising value."""

    def colours(self, count: int) -> list[tuple[int, int, int]]:
        """Return ``count`` colours at even distances from the first stop to the last."""
        first, last = self.stops[0][0], self.stops[-1][0]
        return [self.colour(first + (last - first) * n / max(1, count - 1)) for n in range(count)]

    def colour(self, value: float) -> tuple[int, int, int]:
        """Return the colour of a value; beyond the stops that of the nearest."""
        for (low, before), (high, after) in pairwise(self.stops):
            if value <= high:
                share = max(0.0, (value - low) / (high - low))
                red, green, blue = (round(a + (b - a) * share) for a, b in zip(before, after, strict=True))
                return red, green, blue
        return self.stops[-1][1]


PROBABILITY_RAMP: Final = Ramp(
    "probability of mangrove",
    (
        (0.0, (250, 245, 230)),
        (0.25, (205, 225, 190)),
        (0.5, (120, 190, 150)),
        (0.75, (30, 145, 115)),
        (1.0, (0, 68, 60)),
    ),
)
"""Light to dark, so it also reads in grey; ends near the mangrove colour."""


LOOKS_RAMP: Final = Ramp(
    "clear looks",
    (
        (0, (247, 244, 249)),
        (5, (208, 196, 226)),
        (10, (148, 140, 196)),
        (20, (88, 80, 160)),
        (30, (44, 20, 90)),
    ),
)
"""Clear looks of a year; more than the last stop are shown alike."""

UNCERTAINTY_RAMP: Final = Ramp(
    "probability that the class is wrong, per cent",
    ((0, (247, 247, 242)), (10, (253, 224, 170)), (25, (240, 150, 70)), (50, (140, 45, 4))),
)
"""A class that is likelier wrong than right would be the other."""

_LOSS_YEARS: Final = Ramp("year of loss", ((0, (255, 220, 130)), (0.5, (220, 100, 20)), (1, (102, 20, 40))))
_GAIN_YEARS: Final = Ramp("year of gain", ((0, (170, 220, 240)), (0.5, (50, 130, 200)), (1, (20, 30, 110))))


def year_colours(kind: str, count: int) -> list[tuple[int, int, int]]:
    """Return the colours of ``count`` years of ``loss_year`` or ``gain_year``, light the earliest.

    Examples
    --------
    >>> year_colours("loss_year", 2)
    [(255, 220, 130), (102, 20, 40)]
    """
    return (_LOSS_YEARS if kind == "loss_year" else _GAIN_YEARS).colours(count)


def names(legend: tuple[Entry, ...]) -> dict[int, str]:
    """Return code -> name of a legend."""
    return {entry.code: entry.name for entry in legend}
