"""The pixels of a decompressed TIFF tile into an array: predictor undone and mask applied on the way."""

from __future__ import annotations

import numpy as np
from numba import njit


def place(
    tile: np.ndarray, corner: tuple[int, int], out: np.ndarray, *, differenced: bool, keep: np.ndarray | None = None
) -> None:
    """Write a window of a tile into ``out``.

    Parameters
    ----------
    tile : ndarray of uint8 or uint16, shape (tile_y, tile_x)
        As decompressed; native byte order.
    corner : (int, int)
        Row and column of the tile that go to ``out[0, 0]``.
    out : ndarray of the tile's dtype, shape (y, x)
        Where to; a view of a larger array will do.
    differenced : bool
        Whether each value is the difference to the one on its left (TIFF 6.0, section 14: predictor 2).
    keep : ndarray of bool, shape (y, x), optional
        Only written where True.

    Raises
    ------
    ValueError
        If the window reaches beyond the tile, or dtypes or shapes disagree.

    Examples
    --------
    >>> out = np.zeros((1, 2), dtype="uint8")
    >>> place(np.array([[250, 5, 2, 1]], dtype="uint8"), (0, 1), out, differenced=True)
    >>> out
    array([[255,   1]], dtype=uint8)
    """
    row, col = corner
    inside = 0 <= row <= tile.shape[0] - out.shape[0] and 0 <= col <= tile.shape[1] - out.shape[1]
    if not inside or tile.dtype != out.dtype or (keep is not None and keep.shape != out.shape):
        raise ValueError(f"window {out.shape} at {corner} does not fit a tile of {tile.shape}, or types differ")
    if keep is None:
        _place(tile, row, col, differenced, out)
    else:
        _place_where(tile, row, col, differenced, keep, out)


@njit(cache=True, nogil=True)
def _place(tile, top, left, differenced, out):
    height, width = out.shape
    for y in range(height):
        line, target = tile[top + y], out[y]
        if differenced:
            total = np.uint32(0)  # the low bits of a sum do not depend on its high ones
            for x in range(left):
                total += line[x]
            for x in range(width):
                total += line[left + x]
                target[x] = total
        else:
            for x in range(width):
                target[x] = line[left + x]


@njit(cache=True, nogil=True)
def _place_where(tile, top, left, differenced, keep, out):
    height, width = out.shape
    for y in range(height):
        line, target, wanted = tile[top + y], out[y], keep[y]
        if differenced:
            total = np.uint32(0)
            for x in range(left):
                total += line[x]
            for x in range(width):
                total += line[left + x]
                if wanted[x]:
                    target[x] = total
        else:
            for x in range(width):
                if wanted[x]:
                    target[x] = line[left + x]


def gather(window: np.ndarray, rows: np.ndarray, cols: np.ndarray, out: np.ndarray) -> None:
    """Write ``window[rows, cols]`` into ``out``, but where a row is negative.

    Parameters
    ----------
    window : ndarray, shape (window_y, window_x)
    rows, cols : ndarray of int32, shape (y, x)
        Inside the window where the row is not negative.
    out : ndarray of the window's dtype, shape (y, x)
    """
    _gather(window, rows, cols, out)


@njit(cache=True, nogil=True)
def _gather(window, rows, cols, out):
    height, width = out.shape
    for y in range(height):
        for x in range(width):
            if rows[y, x] >= 0:
                out[y, x] = window[rows[y, x], cols[y, x]]
