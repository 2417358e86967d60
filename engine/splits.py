"""Which rows a model is fitted to, and which it is judged on; no 10 km block is on both sides.

Neighbouring pixels are near copies of each other, and so is a pixel of itself a year later: whatever the test side
is made of, training rows in a block it touches are left out. Only ``random_rows`` does otherwise, to show what a
random split would claim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from engine.errors import SampleError
from engine.rows import row_keys

BLOCK_PX: Final = 333
"""Side of a spatial block, 10 km."""

HELD_OUT: Final = "transfer: held-out regions"
REGION_FOLDS: Final = "transfer: folds of regions"
IN_REGION: Final = "in-region, not transfer: 10 km blocks"
RANDOM_ROWS: Final = "random split, optimistic"
"""Kinds of splits; one stands beside every figure."""


@dataclass(frozen=True, eq=False)
class Split:
    """One way to part a table."""

    name: str
    """What is judged, as a region's name."""

    kind: str
    """How it was parted, to stand beside every figure."""

    train: np.ndarray
    """bool (row,)"""

    test: np.ndarray
    """bool (row,)"""


def block_ids(frame: pd.DataFrame) -> np.ndarray:
    """Return the number of the 10 km block of the project grid each row lies in.

    Parameters
    ----------
    frame : DataFrame
        Columns zone, grid_row, grid_col.

    Returns
    -------
    ndarray of int64, shape (row,)
        Equal for rows of one block, in any table.

    Examples
    --------
    >>> rows = pd.DataFrame({"zone": [48, 48, 48], "grid_row": [-1, 0, 332], "grid_col": [5, 5, 5]})
    >>> ids = block_ids(rows)
    >>> bool(ids[0] != ids[1]), bool(ids[1] == ids[2])
    (True, True)
    """
    zone, row, col = (frame[name].to_numpy(np.int64) for name in ("zone", "grid_row", "grid_col"))
    # 20 bits hold any block row or column of a zone, also negative ones.
    return (zone << 40) + ((row // BLOCK_PX + 2**19) << 20) + (col // BLOCK_PX + 2**19)


def apart(frame: pd.DataFrame, test: np.ndarray) -> np.ndarray:
    """Return the rows in no block of the test side, bool (row,)."""
    blocks = block_ids(frame)
    return ~np.isin(blocks, np.unique(blocks[test]))


def by_region(frame: pd.DataFrame, regions: Sequence[str], name: str = "") -> Split:
    """Hold out named regions.

    Raises
    ------
    SampleError
        If the table has no row of one of them.
    """
    of = frame["region"].astype(str)
    if unknown := sorted(set(regions) - set(of)):
        raise SampleError(f"no sample in region {unknown[0]!r}", fix=f"sampled are {', '.join(sorted(set(of)))}")
    test = of.isin(list(regions)).to_numpy()
    return Split(name or ", ".join(sorted(regions)), HELD_OUT, apart(frame, test), test)


def leave_one_region_out(frame: pd.DataFrame) -> list[Split]:
    """Hold out each region in turn, in the order of their names."""
    names = sorted(set(frame["region"].astype(str)))
    return [
        Split(s.name, "transfer: leave one region out", s.train, s.test) for s in (by_region(frame, [n]) for n in names)
    ]


def region_folds(frame: pd.DataFrame, *, folds: int, repeats: int = 1, seed: int = 0) -> list[Split]:
    """Deal the regions to folds, and again for each repeat; with a single region its blocks.

    Parameters
    ----------
    frame : DataFrame
        Columns region, zone, grid_row, grid_col.
    folds : int
        At least 2; at most as many as there are regions are made.
    repeats : int
        Deals, each of its own order.
    seed : int

    Returns
    -------
    list of Split
        ``folds`` after ``folds``: every row is tested once a repeat.
    """
    of = frame["region"].astype(str).to_numpy()
    groups, kind = (of, REGION_FOLDS) if len(set(of)) > 1 else (block_ids(frame), IN_REGION)
    return _folds(frame, groups, kind, folds, repeats, seed)


def block_folds(frame: pd.DataFrame, *, folds: int, seed: int = 0) -> list[Split]:
    """Deal the 10 km blocks to folds: how well a model does between its training rows, not elsewhere."""
    return _folds(frame, block_ids(frame), IN_REGION, folds, 1, seed)


def _folds(frame: pd.DataFrame, groups: np.ndarray, kind: str, folds: int, repeats: int, seed: int) -> list[Split]:
    if folds < 2 or repeats < 1:
        raise ValueError(f"folds must be at least 2 and repeats at least 1, got {folds} and {repeats}")
    names, index = np.unique(groups, return_inverse=True)
    found = []
    for repeat in range(repeats):
        deal = np.random.default_rng([seed, repeat]).permutation(len(names)) % min(folds, len(names))
        for fold in range(min(folds, len(names))):
            test = deal[index] == fold
            found.append(Split(f"fold {fold + 1} of repeat {repeat + 1}", kind, apart(frame, test), test))
    return found


def by_sensor(
    frame: pd.DataFrame, *, train: Sequence[str], test: Sequence[str], folds: int = 4, seed: int = 0
) -> list[Split]:
    """Fit to composites of some sensors and judge on those of others, on land the model never saw.

    Parameters
    ----------
    frame : DataFrame
        Also a column ``sensor``: ``L5``, or ``L8+L9`` where scenes of both made the composite.
    train, test : sequence of str
        A row belongs to a side when all its sensors do.
    folds : int
        Parts of the land; each is judged by a model of the others.
    seed : int

    Raises
    ------
    SampleError
        If a side is empty.
    """
    sensors = frame["sensor"].astype(str).str.split("+")
    sides = {
        side: sensors.map(lambda of, names=frozenset(names): set(of) <= names).to_numpy(bool)
        for side, names in (("train", train), ("test", test))
    }
    for side, rows in sides.items():
        if not rows.any():
            raise SampleError(
                f"no row of {' or '.join(train if side == 'train' else test)} to {side} on",
                fix=f"sampled are {', '.join(sorted(set(frame['sensor'].astype(str))))}",
            )
    kind = f"sensor: {'+'.join(train)} to {'+'.join(test)}"
    return _across(frame, sides["train"], sides["test"], kind, folds, seed)


def by_year(
    frame: pd.DataFrame, *, train: Sequence[int], test: Sequence[int], folds: int = 4, seed: int = 0
) -> list[Split]:
    """Fit to some years and judge on others, on land the model never saw.

    Raises
    ------
    SampleError
        If a side is empty.
    """
    year = frame["year"].to_numpy()
    for side, years in (("train", train), ("test", test)):
        if not np.isin(year, list(years)).any():
            raise SampleError(
                f"no row of {', '.join(map(str, years))} to {side} on",
                fix=f"sampled are {', '.join(map(str, np.unique(year)))}",
            )
    kind = f"year: {'+'.join(map(str, train))} to {'+'.join(map(str, test))}"
    return _across(frame, np.isin(year, list(train)), np.isin(year, list(test)), kind, folds, seed)


def _across(frame: pd.DataFrame, train: np.ndarray, test: np.ndarray, kind: str, folds: int, seed: int) -> list[Split]:
    parts = region_folds(frame, folds=folds, seed=seed)
    return [Split(part.name, kind, part.train & train, part.test & test) for part in parts]


def random_rows(frame: pd.DataFrame, *, share: float = 0.25, seed: int = 0) -> Split:
    """Hold out rows at random: neighbours are on both sides, so that this is optimistic and only for comparison.

    All rows of a pixel and year (also those of thinned composites) go to the same side.
    """
    test = row_keys(frame, seed) < np.uint64(share * 2**64)
    return Split("random rows", RANDOM_ROWS, ~test, test)
