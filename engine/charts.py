"""Charts of tables: one look for all, deterministic bytes, and the notice of the run on every one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import matplotlib
import numpy as np
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from engine.files import replacing
from engine.legend import CLASSES, MANGROVE, OTHER

_COLOURS: Final = {entry.code: tuple(channel / 255 for channel in entry.colour) for entry in CLASSES}
CLASS_COLOURS: Final = {"mangrove": _COLOURS[MANGROVE], "other": _COLOURS[OTHER]}
"""Colours of the maps, as matplotlib takes them."""

INK: Final = "#222222"
WARNING: Final = "#b03a00"
GREY: Final = "#888888"

_LONGEST: Final = 24

_STYLE: Final[Any] = {
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 8,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 8.5,
    "font.size": 8,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.5,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "text.color": INK,
    "text.parse_math": False,  # a name may hold a dollar sign
    "xtick.color": INK,
    "xtick.labelsize": 7,
    "ytick.color": INK,
    "ytick.labelsize": 7,
}


def shorten(name: str) -> str:
    """Return a name as a chart has room for it."""
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"


def say_cut(axis: Axis) -> None:
    """Say below an axis where it begins, unless it shows zero: what is drawn on it looks larger than it is."""
    low, high = sorted(axis.get_view_interval())
    if low > 0 or high < 0:
        told = f"(axis cut: begins at {low:,.4g})"
        axis.set_label_text(f"{axis.get_label_text()}\n{told}".strip())


@contextmanager
def chart(
    path: Path,
    *,
    title: str,
    notice: str = "",
    size: tuple[float, float] = (6.0, 4.0),
    rows: int = 1,
    cols: int = 1,
    sharex: bool = False,
    sharey: bool = False,
    dpi: int = 150,
) -> Iterator[np.ndarray]:
    """Draw on axes, and write them as a PNG at the end.

    Parameters
    ----------
    path : Path
        The ``.png``.
    title : str
        Above all axes: what is shown, its population and its label.
    notice : str
        Line that must not be lost, e.g. that the data are simulated.
    size : (float, float)
        Width and height, inches.
    rows, cols : int
        Of axes.
    sharex, sharey : bool
        Give all axes the same range.
    dpi : int

    Yields
    ------
    ndarray of Axes, shape (rows, cols)

    Raises
    ------
    StoreError
        If the file cannot be written.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size, dpi=dpi, facecolor="white", layout="constrained")
        canvas = FigureCanvasAgg(figure)
        axes = figure.subplots(rows, cols, squeeze=False, sharex=sharex, sharey=sharey)
        for one in axes.flat:
            one.set_axisbelow(True)
        yield axes
        figure.suptitle(title, x=0.01, ha="left", size=9.5, weight="bold", color=INK)
        if notice:
            figure.supxlabel(notice, x=0.01, ha="left", size=6.5, weight="bold", color=WARNING)
        with replacing(path) as temporary:
            # No software version in the file: the same table gives the same bytes.
            canvas.print_png(temporary, metadata={"Software": None})
