"""Rows of a training table as steps take them: features, place in a seeded order, and a few that stand for all.

Nothing here depends on how rows are spread over partitions, or on their order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import dask
import distributed
import numpy as np
import pandas as pd

from engine.errors import SampleError
from engine.legend import MANGROVE, OTHER

PIXEL: Final = ("zone", "grid_row", "grid_col")
"""Columns that name a pixel of the project grid."""

PIXEL_YEAR: Final = (*PIXEL, "year")

STRATUM: Final = ["region", "label"]
"""Columns that name what a sample is drawn of."""

WEIGHT_GRID: Final = 2.0**12
"""Weights are summed as integers of 1 / WEIGHT_GRID pixel: exactly, in any order."""


def feature_values(frame: pd.DataFrame, features: Sequence[str]) -> np.ndarray:
    """Return features as trees take them, int32 (feature, row)."""
    return np.ascontiguousarray(frame[list(features)].to_numpy(dtype=np.int32).T)


def is_thinned(frame: pd.DataFrame) -> np.ndarray:
    """Return which rows are further views of a pixel, bool (row,): of composites of fewer looks, they stand for no land
    of their own. None are in tables that know no such rows."""
    return frame["thinned"].to_numpy(bool) if "thinned" in frame else np.zeros(len(frame), bool)


def row_keys(frame: pd.DataFrame, seed: int, by: Sequence[str] = PIXEL_YEAR) -> np.ndarray:
    """Return a number for each row that looks random and is the same for all rows that agree in ``by``.

    Parameters
    ----------
    frame : DataFrame
    seed : int
        Not negative.
    by : sequence of str
        Columns of integers.

    Returns
    -------
    ndarray of uint64, shape (row,)

    Examples
    --------
    >>> rows = pd.DataFrame({"zone": [48, 48], "grid_row": [7, 7], "grid_col": [5, 5], "year": [2020, 2021]})
    >>> keys, pixels = row_keys(rows, 1), row_keys(rows, 1, by=PIXEL)
    >>> bool(keys[0] == keys[1]), bool(pixels[0] == pixels[1])
    (False, True)
    """
    key = np.full(len(frame), seed, np.uint64)
    for name in by:
        key = pd.util.hash_array(key ^ frame[name].to_numpy(np.int64).view(np.uint64))
    return key


def combine(add: Callable[[list[Any]], Any], tasks: Sequence[Any], width: int = 16) -> Any:
    """Add results up in a tree, so that thousands of partitions never meet in one process.

    Parameters
    ----------
    add : callable
        Takes a list of results, of parts or of itself.
    tasks : sequence of Delayed
        At least one.
    width : int
        Results added at once.

    Returns
    -------
    Delayed

    Examples
    --------
    >>> combine(sum, [dask.delayed(number) for number in range(100)]).compute()
    4950
    """
    tasks = list(tasks)
    while len(tasks) > 1:
        tasks = [dask.delayed(add)(tasks[first : first + width]) for first in range(0, len(tasks), width)]
    return tasks[0]


def run_task(task: Any, client: distributed.Client | None = None) -> Any:
    """Run a task on a cluster, or in this process without one."""
    return task.compute(scheduler="synchronous") if client is None else client.compute(task).result()


# --- a few that stand for all ----------------------------------------------------------------------------------


def gather_rows(
    sample: Any, columns: Sequence[str], *, most: int, seed: int, client: distributed.Client | None = None
) -> tuple[pd.DataFrame, int]:
    """Bring together some rows of each region and class, weighted to stand for all of its land.

    Parameters
    ----------
    sample : DataFrame or dask DataFrame
    columns : sequence of str
        To keep; with label, weight, region and those of ``PIXEL_YEAR``.
    most : int
        Rows in all, thinned ones included, shared out alike among regions and classes.
    seed : int
        Of the choice of pixels.
    client : distributed.Client, optional
        Where partitions are read; in this process without one.

    Returns
    -------
    DataFrame
        Sorted by region, class, place and year.
    int
        Pixels of each region and class there are at most.

    Raises
    ------
    SampleError
        If a column is missing or no row is labelled.
    """
    if missing := [name for name in columns if name not in sample.columns]:
        raise SampleError(f"sample lacks column {missing[0]!r}", fix="draw it again with `mangroves sample`")
    chosen = sample[[*columns, *({"thinned"} & set(sample.columns) - set(columns))]]
    parts = chosen.to_delayed() if hasattr(chosen, "to_delayed") else [chosen]
    totals = run_task(combine(_add_totals, [dask.delayed(_totals)(part) for part in parts]), client)
    if totals.empty:
        raise SampleError("the sample is empty: no labelled row", fix="check labels.masks and the area")
    each = max(1, int(most * totals["pixels"].sum() / (len(totals) * totals["rows"].sum())))
    take = partial(_first_of, most=each, seed=seed)
    frame = run_task(combine(take, [dask.delayed(take)([part]) for part in parts]), client)
    return standing_for(frame, totals["units"] / WEIGHT_GRID), each


def first_rows(frame: pd.DataFrame, *, most: int, seed: int) -> pd.DataFrame:
    """Take the rows of ``most`` pixels of every region and class, of those that come first in a seeded order.

    All years and thinned views of a pixel go together, so with several years of a pixel they may be fewer. Of parts
    taken first and then of these together, it takes what it would have taken of the whole.
    """
    order = row_keys(frame, seed, by=PIXEL)
    keep = np.zeros(len(frame), bool)
    plain = ~is_thinned(frame)
    for rows in frame.groupby(STRATUM, observed=True).indices.values():
        counted = order[rows[plain[rows]]]
        last = np.partition(counted, most - 1)[most - 1] if counted.size > most else np.uint64(2**64 - 1)
        keep[rows] = order[rows] <= last
    return frame[keep]


def land_of(frame: pd.DataFrame) -> pd.Series:
    """Return the pixels that the rows of each region and class stand for, summed exactly."""
    plain = frame[~is_thinned(frame)]
    units = np.rint(plain["weight"] * WEIGHT_GRID)  # whole numbers: the order of rows does not matter
    return (units.groupby([plain[name] for name in STRATUM], observed=True).sum() / WEIGHT_GRID).rename("weight")


def standing_for(frame: pd.DataFrame, land: pd.Series) -> pd.DataFrame:
    """Raise weights, so that what was taken of each region and class stands for all its land; sort the rows.

    Parameters
    ----------
    frame : DataFrame
        From ``first_rows``.
    land : Series
        Pixels by region and class: of ``land_of`` the whole sample.
    """
    keys = pd.MultiIndex.from_frame(frame[STRATUM])
    scale = (land / land_of(frame)).reindex(keys).fillna(1.0).to_numpy()
    by = [*STRATUM, *PIXEL_YEAR]
    order = [*by, *(name for name in frame.columns if name not in by)]
    return frame.assign(weight=frame["weight"] * scale).sort_values(order, kind="stable", ignore_index=True)


def _labelled(part: pd.DataFrame) -> pd.DataFrame:
    part = pd.DataFrame(part[part["label"].isin((OTHER, MANGROVE))])
    return part.assign(region=part["region"].astype(str).astype(object))


def _totals(part: pd.DataFrame) -> pd.DataFrame:
    """Return what the rows of each region and class stand for, how many pixels (of a year) and how many rows."""
    rows, plain = _labelled(part), ~is_thinned(_labelled(part))
    units = np.where(plain, np.rint(rows["weight"] * WEIGHT_GRID), 0).astype(np.int64)
    counted = rows[STRATUM].assign(units=units, pixels=plain.astype(np.int64), rows=1)
    return counted.groupby(STRATUM).sum()


def _add_totals(parts: list[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(parts).groupby(level=STRATUM).sum()


def _first_of(parts: list[pd.DataFrame], most: int, seed: int) -> pd.DataFrame:
    return first_rows(_labelled(pd.concat(parts, ignore_index=True)), most=most, seed=seed)
