"""Pictures of results: one glance at composite, probability, classes and change."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image, ImageDraw

from engine.files import replacing
from engine.landsat import BANDS
from engine.legend import (
    NOT_OBSERVED,
    OUTSIDE_AREA,
    PROBABILITY_MISSING,
    PROBABILITY_RAMP,
    PROBABILITY_SCALE,
    Entry,
)

FALSE_COLOUR: Final = ("swir16", "nir08", "red")
"""Shown as red, green, blue: mangrove is a darker, bluer green than other forest, as its ground is wet."""

RIGHT: Final = Entry(1, "right", (86, 180, 233))
WRONG: Final = Entry(0, "wrong", (213, 94, 0))
"""Sampled points by whether the model agrees with their label; distinguishable with colour blindness."""

CHIP_PX: Final = 33
"""Side of a chip: 1 km."""

_MAX_PX: Final = 640  # a panel is shown smaller than this in any README
_DPI: Final = 170
_CHIP_ZOOM: Final = 4
_CHIPS_A_ROW: Final = 10
_INK: Final = "#222222"
_GREY: Final = (190, 190, 190)  # not observed, as in the legends
_WARNING: Final = "#b03a00"


@dataclass(frozen=True, eq=False)
class Points:
    """Dots of one colour on a picture."""

    x: np.ndarray
    """Columns of the picture, float64 (point,); the centre of its first pixel is 0."""

    y: np.ndarray
    """Rows likewise."""

    colour: tuple[int, int, int]
    """sRGB, 0-255."""

    size: float = 2.0
    """Diameter, points of 1/72 inch."""


@dataclass(frozen=True)
class Panel:
    """One picture of a row."""

    title: str
    image: np.ndarray
    """uint8 sRGB (y, x, 3)."""

    entries: tuple[Entry, ...] = ()
    """Legend below the picture."""

    ramp: bool = False
    """Show the colour ramp of probability below the picture."""

    note: str = ""
    """Small line below the picture."""

    step: int = 1
    """Pixels of the data along one of the picture."""

    points: tuple[Points, ...] = ()
    """Dots on the picture, later ones above."""


def composite_panel(title: str, composite: np.ndarray) -> Panel:
    """Show a composite in false colour, stretched to the 2-98 per cent of what was observed.

    Parameters
    ----------
    title : str
    composite : ndarray of uint16, shape (band, y, x)
        Reflectance DN in the order of ``landsat.BANDS``; 0 is not observed.
    """
    if composite.ndim != 3 or len(composite) != len(BANDS):
        raise ValueError(f"composite must be ({len(BANDS)}, y, x), got shape {composite.shape}")
    step = _step(composite.shape)
    bands = composite[[BANDS.index(name) for name in FALSE_COLOUR], ::step, ::step].astype("float64")
    seen = (bands > 0).all(axis=0)
    image = np.empty((*seen.shape, 3), dtype="uint8")
    image[:] = _GREY
    if seen.any():
        low, high = np.percentile(bands[:, seen], (2, 98), axis=1)
        share = (bands[:, seen].T - low) / np.maximum(high - low, 1)
        image[seen] = np.rint(255 * np.clip(share, 0, 1) ** 0.85)
    entries = () if seen.all() else (Entry(NOT_OBSERVED, "not observed", _GREY),)
    return Panel(title, image, entries, note=" · ".join(FALSE_COLOUR) + " as R · G · B", step=step)


def chip_strip(composites: np.ndarray, years: Sequence[int]) -> bytes:
    """Show the surroundings of a pixel in every year in false colour, all years stretched alike, the pixel outlined.

    Parameters
    ----------
    composites : ndarray of uint16, shape (year, band, y, x)
        Reflectance DN of ``FALSE_COLOUR``, 0 not observed; the pixel is in the middle.
    years : sequence of int
        Written above each.

    Returns
    -------
    bytes
        A PNG, at most ten years a row.
    """
    bands = composites.astype("float64").transpose(0, 2, 3, 1)
    seen = (bands > 0).all(axis=-1)
    image = np.empty((*seen.shape, 3), dtype="uint8")
    image[:] = _GREY
    if seen.any():
        low, high = np.percentile(bands[seen], (2, 98), axis=0)
        image[seen] = np.rint(255 * np.clip((bands[seen] - low) / np.maximum(high - low, 1), 0, 1) ** 0.85)
    height, width = (size * _CHIP_ZOOM for size in seen.shape[1:])
    per_row = min(len(years), _CHIPS_A_ROW)
    rows = math.ceil(len(years) / per_row)
    sheet = Image.new("RGB", (per_row * (width + 4) - 4, rows * (height + 18) - 4), "white")
    draw = ImageDraw.Draw(sheet)
    for index, year in enumerate(years):
        left, top = index % per_row * (width + 4), index // per_row * (height + 18)
        draw.text((left + 1, top + 1), str(year), fill=_INK)
        shown = image[index].repeat(_CHIP_ZOOM, axis=0).repeat(_CHIP_ZOOM, axis=1)
        sheet.paste(Image.fromarray(shown), (left, top + 14))
        y, x = (top + 14 + seen.shape[1] // 2 * _CHIP_ZOOM, left + seen.shape[2] // 2 * _CHIP_ZOOM)
        for colour, gap in (("black", 2), ("yellow", 1)):
            draw.rectangle((x - gap, y - gap, x + _CHIP_ZOOM - 1 + gap, y + _CHIP_ZOOM - 1 + gap), outline=colour)
    buffer = BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def probability_panel(title: str, probability: np.ndarray) -> Panel:
    """Show probability of mangrove, uint16 (y, x) x 10 000, 65 535 where not classified."""
    step = _step(probability.shape)
    probability = probability[::step, ::step]
    missing = probability == PROBABILITY_MISSING
    values, colours = zip(*PROBABILITY_RAMP.stops, strict=True)
    channels = [np.interp(probability / PROBABILITY_SCALE, values, channel) for channel in zip(*colours, strict=True)]
    image = np.rint(np.stack(channels, axis=-1)).astype("uint8")
    image[missing] = _GREY
    entries = (Entry(NOT_OBSERVED, "not classified", _GREY),) if missing.any() else ()
    return Panel(title, image, entries, ramp=True, step=step)


def category_panel(title: str, codes: np.ndarray, legend: tuple[Entry, ...]) -> Panel:
    """Show a class or transition raster, uint8 (y, x), with the entries of its legend that occur."""
    step = _step(codes.shape)
    codes = codes[::step, ::step]
    table = np.zeros((256, 3), dtype="uint8")
    for entry in legend:
        table[entry.code] = entry.colour
    present = set(np.unique(codes).tolist())
    shown = tuple(entry for entry in legend if entry.code in present and entry.code != OUTSIDE_AREA)
    return Panel(title, table[codes], shown, step=step)


def points_panel(title: str, composite: np.ndarray, rows: np.ndarray, cols: np.ndarray, right: np.ndarray) -> Panel:
    """Show sampled points on a composite, coloured by whether they were classified right; wrong ones above.

    Parameters
    ----------
    title : str
    composite : ndarray of uint16, shape (band, y, x)
        As ``composite_panel`` takes it; shown paler, so that the points stand out.
    rows, cols : ndarray of int, shape (point,)
        Pixels of the composite.
    right : ndarray of bool, shape (point,)

    Raises
    ------
    ValueError
        If lengths differ or a point lies outside.
    """
    base = composite_panel(title, composite)
    if not rows.shape == cols.shape == right.shape or rows.ndim != 1:
        raise ValueError(f"rows {rows.shape}, cols {cols.shape} and right {right.shape} must be of one length")
    height, width = composite.shape[1:]
    if not ((rows >= 0) & (rows < height) & (cols >= 0) & (cols < width)).all():
        raise ValueError(f"points must lie within the {height} x {width} pixels of the composite")
    # Few are seen best large; of thousands large ones would hide the land.
    size = float(np.clip(90 / math.sqrt(max(rows.size, 1)), 1.4, 4.5))
    y, x = ((place + 0.5) / base.step - 0.5 for place in (rows, cols))
    points = tuple(
        Points(x[chosen], y[chosen], entry.colour, size if entry is RIGHT else size * 1.25)
        for entry, chosen in ((RIGHT, right), (WRONG, ~right))
        if chosen.any()
    )
    entries = tuple(
        Entry(entry.code, f"{entry.name}: {int(chosen.sum()):,}", entry.colour)
        for entry, chosen in ((RIGHT, right), (WRONG, ~right))
    )
    land = base.image.astype(np.float64)
    grey = land.mean(axis=-1, keepdims=True)
    pale = np.rint(255 - 0.75 * (255 - (0.45 * land + 0.55 * grey))).astype("uint8")
    pale[(land == _GREY).all(axis=-1)] = _GREY
    return replace(base, image=pale, entries=entries + base.entries, points=points)


def prediction_map(
    path: Path | str,
    composite: np.ndarray,
    rows: np.ndarray,
    cols: np.ndarray,
    positive: np.ndarray,
    predicted: np.ndarray,
    *,
    title: str,
    notice: str = "",
    label: str = "mask",
    population: str = "points as drawn",
    pixel_m: float = 30.0,
) -> None:
    """Write two maps as a PNG: points that are mangrove and points that are not, each coloured right or wrong.

    Parameters
    ----------
    path : path
        The ``.png``.
    composite : ndarray of uint16, shape (band, y, x)
        Reflectance DN of the land the points lie on, in the order of ``landsat.BANDS``.
    rows, cols : ndarray of int, shape (point,)
        Pixels of the composite.
    positive : ndarray of bool, shape (point,)
        True for mangrove by the label.
    predicted : ndarray of bool, shape (point,)
        True for mangrove by the model.
    title : str
        Region, year and model.
    notice : str
        Line that must not be lost, e.g. that the data are simulated.
    label : str
        Whose label: ``mask`` or ``truth``.
    population : str
        Which points these are.
    pixel_m : float
        Ground size of a pixel, metres.

    Raises
    ------
    ValueError
        If lengths differ or a point lies outside.
    StoreError
        If the file cannot be written.
    """
    panels = [
        _class_panel(name, label, composite, rows[chosen], cols[chosen], (predicted == positive)[chosen])
        for name, chosen in (("Mangrove", positive), ("Other", ~positive))
    ]
    panels = [replace(panel, note=f"{population} · {panel.note}") for panel in panels]
    preview(path, panels, title=title, notice=notice, pixel_m=pixel_m, panel_inches=3.6)


def _class_panel(
    name: str, label: str, composite: np.ndarray, rows: np.ndarray, cols: np.ndarray, right: np.ndarray
) -> Panel:
    share = f"{right.mean():.1%} of {right.size:,} right" if right.size else "no point"
    return points_panel(f"{name} by the {label}: {share}", composite, rows, cols, right)


def preview(
    path: Path | str,
    panels: Sequence[Panel],
    *,
    title: str,
    notice: str = "",
    pixel_m: float = 30.0,
    panel_inches: float = 2.45,
) -> None:
    """Write panels side by side as a PNG, with legends, a scale bar and the notice of the run.

    Parameters
    ----------
    path : path
        The ``.png``.
    panels : sequence of Panel
        Of one place; best two to five.
    title : str
        Region and years.
    notice : str
        Line that must not be lost, e.g. that the data are simulated.
    pixel_m : float
        Ground size of a data pixel, metres.
    panel_inches : float
        Width of a panel.

    Raises
    ------
    StoreError
        If the file cannot be written.
    """
    if not panels:
        raise ValueError("panels is empty; give at least one")
    # Laid out in inches, so that text and gaps stay the same whatever the shape of the area.
    width, margin, gap = panel_inches, 0.15, 0.12
    height = width * min(1.6, max(p.image.shape[0] / p.image.shape[1] for p in panels))
    rows = max(len(panel.entries) + panel.ramp * 2 + bool(panel.note) for panel in panels)
    below, above = 0.12 + 0.165 * rows + 0.06, 0.72 if notice else 0.56
    total = (2 * margin + len(panels) * width + (len(panels) - 1) * gap, above + height + below)
    figure = Figure(figsize=total, dpi=_DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    figure.text(margin / total[0], 1 - 0.1 / total[1], title, va="top", size=10.5, weight="bold", color=_INK)
    if notice:
        y = 1 - 0.3 / total[1]
        figure.text(margin / total[0], y, notice, va="top", size=7.5, weight="bold", color=_WARNING)
    for index, panel in enumerate(panels):
        left = margin + index * (width + gap)
        place = (left / total[0], below / total[1], width / total[0], height / total[1])
        axes = figure.add_axes(place)
        axes.imshow(panel.image, interpolation="nearest", aspect="equal")
        for dots in panel.points:
            axes.scatter(
                *(dots.x, dots.y),
                s=dots.size**2,
                color=np.array(dots.colour) / 255,
                edgecolors="black",
                linewidths=0.08 * dots.size,
                zorder=2,
            )
        axes.set(xlim=(-0.5, panel.image.shape[1] - 0.5), ylim=(panel.image.shape[0] - 0.5, -0.5))
        axes.set_anchor("NW")
        axes.set(xticks=[], yticks=[])
        axes.set_title(panel.title, size=8.5, loc="left", pad=4, color=_INK)
        for spine in axes.spines.values():
            spine.set(color="#888888", linewidth=0.5)
        _draw_key(figure, panel, left, below - 0.1, total, width)
        if index == 0:
            _draw_scale_bar(axes, panel.image.shape, pixel_m * panel.step)
    with replacing(path) as temporary:
        # No software version in the file: the same result gives the same bytes.
        canvas.print_png(temporary, metadata={"Software": None})


def _step(shape: tuple[int, ...]) -> int:
    """Return the stride that brings the longer side of (..., y, x) below the size of a panel."""
    return max(1, math.ceil(max(shape[-2:]) / _MAX_PX))


def _draw_key(figure: Figure, panel: Panel, left: float, top: float, total: tuple[float, float], width: float) -> None:
    """Draw ramp, legend entries and note of a panel below it; all lengths in inches."""
    row = 0.165
    if panel.ramp:
        axes = figure.add_axes((left / total[0], (top - 0.11) / total[1], 0.6 * width / total[0], 0.1 / total[1]))
        values, colours = zip(*PROBABILITY_RAMP.stops, strict=True)
        along = np.linspace(0, 1, 256)
        strip = np.stack([np.interp(along, values, c) for c in zip(*colours, strict=True)], axis=-1)
        axes.imshow(np.rint(strip)[np.newaxis].astype("uint8"), aspect="auto", extent=(0, 1, 0, 1))
        axes.set(xticks=[0, 0.5, 1], yticks=[])
        axes.tick_params(labelsize=7, length=2, pad=1.5, colors=_INK)
        for spine in axes.spines.values():
            spine.set(color="#888888", linewidth=0.5)
        top -= 2 * row
    for entry in panel.entries:
        colour = np.array(entry.colour) / 255
        swatch = (left / total[0], (top - 0.11) / total[1])
        figure.add_artist(
            Rectangle(
                swatch,
                0.17 / total[0],
                0.1 / total[1],
                facecolor=colour,
                edgecolor="#888888",
                linewidth=0.5,
                transform=figure.transFigure,
            )
        )
        figure.text((left + 0.23) / total[0], (top - 0.06) / total[1], entry.name, va="center", size=7.5, color=_INK)
        top -= row
    if panel.note:
        figure.text(left / total[0], (top - 0.06) / total[1], panel.note, va="center", size=7, color="#666666")


def _draw_scale_bar(axes: Axes, shape: tuple[int, ...], pixel_m: float) -> None:
    """Draw a bar of a round length, at most a third of the picture, in its lower left corner."""
    limit_m = shape[1] * pixel_m / 3
    length_m = max(m * 10**e for e in range(7) for m in (1, 2, 5) if m * 10**e <= max(limit_m, 1))
    label = f"{length_m / 1000:g} km" if length_m >= 1000 else f"{length_m:g} m"
    bar = length_m / pixel_m
    x, y = 0.05 * shape[1], 0.95 * shape[0]
    axes.add_patch(
        Rectangle((x, y), bar, -0.014 * shape[0], facecolor="white", edgecolor="black", linewidth=0.6, zorder=3)
    )
    axes.text(
        x + bar / 2,
        y - 0.03 * shape[0],
        label,
        ha="center",
        va="bottom",
        size=7,
        color=_INK,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1.2},
    )
