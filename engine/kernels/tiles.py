"""The pixels of a decompressed TIFF tile into an array: predictor undone and mask applied on the way."""

from __future__ import annotations

import numpy as np
from numba import njit


def place(
    tile: np.ndarray,
    corner: tuple[int, int],
    out: np.ndarray,
    window: tuple[slice, slice] | None = None,
    *,
    differenced: bool,
    keep: np.ndarray | None = None,
) -> None:
    """Write a window of a tile into one of ``out``.

    Parameters
    ----------
    tile : ndarray of uint8 or uint16, shape (tile_y, tile_x)
        As decompressed; native byte order.
    corner : (int, int)
        Row and column of the tile that come first.
    out : ndarray of the tile's dtype, shape (y, x)
        Where to; contiguous, else it takes twice the time.
    window : (slice, slice), optional
        Rows and columns of ``out``; default all.
    differenced : bool
        Whether each value is the difference to the one on its left (TIFF 6.0, section 14: predictor 2).
    keep : ndarray of bool, shape (y, x), optional
        Only written where True.

    Raises
    ------
    ValueError
        If the window reaches beyond the tile or ``out``, or dtypes or shapes disagree.

    Examples
    --------
    >>> out = np.zeros((1, 2), dtype="uint8")
    >>> place(np.array([[250, 5, 2, 1]], dtype="uint8"), (0, 1), out, differenced=True)
    >>> out
    array([[255,   1]], dtype=uint8)
    """
    rows, cols = window or (slice(0, out.shape[0]), slice(0, out.shape[1]))
    height, width = rows.stop - rows.start, cols.stop - cols.start
    fits = 0 <= corner[0] <= tile.shape[0] - height and 0 <= corner[1] <= tile.shape[1] - width
    fits &= 0 <= rows.start <= rows.stop <= out.shape[0] and 0 <= cols.start <= cols.stop <= out.shape[1]
    if not fits or tile.dtype != out.dtype or (keep is not None and keep.shape != out.shape):
        raise ValueError(f"{height} x {width} at {corner} does not fit a tile of {tile.shape}, or types differ")
    where = (rows.start, cols.start, height, width)
    _place(tile, *corner, differenced, keep, out, *where)


# Rows are cut out of whole arrays: of the rows of a view the compiler does not know that they are contiguous.


@njit(cache=True, nogil=True)
def _place(tile, top, left, differenced, keep, out, first_row, first_col, height, width):
    sums = np.empty((4, width), tile.dtype)
    for y in range(0, height, 4):
        if differenced:
            _sum_rows(tile, top + y, top + height - 1, left, sums)
        for row in range(min(4, height - y)):
            line, target = sums[row], out[first_row + y + row, first_col : first_col + width]
            if not differenced:
                line = tile[top + y + row, left : left + width]
            if keep is None:  # known to the compiler, which makes a kernel of each kind
                for x in range(width):
                    target[x] = line[x]
            else:
                wanted = keep[first_row + y + row, first_col : first_col + width]
                for x in range(width):
                    # Both are read: a read under a condition is a branch, and the loop not vectorised.
                    new, old = line[x], target[x]
                    target[x] = new if wanted[x] else old


@njit(cache=True, nogil=True)
def _sum_rows(tile, first, last, left, sums):
    """Sum four rows from their left ends, side by side, as each sum must wait for the one before it."""
    one, two = tile[first], tile[min(first + 1, last)]
    three, four = tile[min(first + 2, last)], tile[min(first + 3, last)]
    a = b = c = d = np.uint32(0)  # the low bits of a sum do not depend on its high ones
    for x in range(left):
        a += one[x]
        b += two[x]
        c += three[x]
        d += four[x]
    for x in range(sums.shape[1]):
        a += one[left + x]
        b += two[left + x]
        c += three[left + x]
        d += four[left + x]
        sums[0, x], sums[1, x], sums[2, x], sums[3, x] = a, b, c, d


def tiles_touched(rows: np.ndarray, cols: np.ndarray, tile_shape: tuple[int, int], grid: tuple[int, ...]) -> np.ndarray:
    """Flag the tiles of a raster that hold any of some pixels.

    Parameters
    ----------
    rows, cols : ndarray of int32, shape (y, x)
        Pixels of the raster; none where the row is negative.
    tile_shape : (int, int)
        Rows and columns of a tile.
    grid : (int, int)
        Rows and columns of tiles.

    Returns
    -------
    ndarray of bool, shape ``grid``

    Examples
    --------
    >>> tiles_touched(np.array([[5, -1]], "int32"), np.array([[9, 0]], "int32"), (4, 4), (2, 3))
    array([[False, False, False],
           [False, False,  True]])
    """
    touched = np.zeros(grid, dtype=np.bool_)
    _touch(rows, cols, tile_shape[0], tile_shape[1], touched)
    return touched


@njit(cache=True, nogil=True)
def _touch(rows, cols, tall, wide, touched):
    height, width = rows.shape
    first_row = first_col = -1 - tall - wide  # of the tile touched last, as the next pixel is of it too, mostly
    for y in range(height):
        for x in range(width):
            row, col = rows[y, x], cols[y, x]
            there = first_row <= row < first_row + tall and first_col <= col < first_col + wide
            if row >= 0 and not there:
                tile_row, tile_col = row // tall, col // wide
                touched[tile_row, tile_col] = True
                first_row, first_col = tile_row * tall, tile_col * wide


def gather(window: np.ndarray, corner: tuple[int, int], rows: np.ndarray, cols: np.ndarray, out: np.ndarray) -> None:
    """Write pixels of a raster into ``out``, but where a row is negative.

    Parameters
    ----------
    window : ndarray, shape (window_y, window_x)
        Of the raster.
    corner : (int, int)
        Row and column of the raster at ``window[0, 0]``.
    rows, cols : ndarray of int32, shape (y, x)
        Of the raster, inside the window where the row is not negative.
    out : ndarray of the window's dtype, shape (y, x)

    Examples
    --------
    >>> out = np.zeros((1, 2), dtype="uint8")
    >>> window = np.array([[1, 2], [3, 4]], dtype="uint8")
    >>> gather(window, (7, 8), np.array([[8, -1]], "int32"), np.array([[9, 9]], "int32"), out)
    >>> out
    array([[4, 0]], dtype=uint8)
    """
    _gather(window, corner[0], corner[1], rows, cols, out)


@njit(cache=True, nogil=True)
def _gather(window, top, left, rows, cols, out):
    height, width = out.shape
    for y in range(height):
        for x in range(width):
            if rows[y, x] >= 0:
                out[y, x] = window[rows[y, x] - top, cols[y, x] - left]
