"""Patches: pixels of one code that touch, also at a corner; how large each is, and which go on in the next block."""

from __future__ import annotations

import numpy as np
from numba import njit


def label_patches(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number the patches of equal codes, 8-connected, and count their pixels.

    Parameters
    ----------
    codes : ndarray of uint8, shape (y, x)
        0 is no patch.

    Returns
    -------
    labels : ndarray of uint32, shape (y, x)
        0 where ``codes`` is, otherwise the patch: 1, 2, ... by its first pixel, row by row.
    sizes : ndarray of int64, shape (1 + patch,)
        Pixels by label; first those of no patch.

    Raises
    ------
    ValueError
        If the codes are not uint8 (y, x), or 2**32 pixels or more.

    Examples
    --------
    >>> labels, sizes = label_patches(np.array([[3, 0, 4, 4], [0, 3, 0, 0], [4, 0, 0, 4]], dtype="uint8"))
    >>> labels
    array([[1, 0, 2, 2],
           [0, 1, 0, 0],
           [3, 0, 0, 4]], dtype=uint32)
    >>> sizes
    array([6, 2, 2, 1, 1])
    """
    if codes.ndim != 2 or codes.dtype != np.uint8 or codes.size >= 2**32:
        raise ValueError(f"codes must be uint8 (y, x) of fewer than 2**32 pixels, got {codes.dtype} {codes.shape}")
    labels = np.empty(codes.shape, np.uint32)
    count = _label(np.ascontiguousarray(codes), labels, np.empty(codes.size + 1, np.uint32))
    return labels, np.bincount(labels.ravel(), minlength=count + 1)


def sieve(codes: np.ndarray, least_px: int) -> np.ndarray:
    """Flag the pixels whose patch, 8-connected and of one code, holds at least ``least_px`` pixels.

    Of a block of a larger raster that is exact once the block is read with ``least_px - 1`` pixels more on every side,
    where the raster has them. For take a pixel of the block and walk its patch, nearest steps first: the pixels met
    are joined to it by fewer steps than there are, and a step goes one row or column at most. So the first
    ``least_px``, or all of a patch that has fewer, lie within ``least_px - 1`` pixels, and so do the steps between
    them: the patch seen there is large exactly where the whole is.

    Parameters
    ----------
    codes : ndarray of uint8, shape (y, x)
        0 is no patch.
    least_px : int
        Pixels from which a patch counts; with 1 all do.

    Returns
    -------
    ndarray of bool, shape (y, x)

    Raises
    ------
    ValueError
        If ``least_px`` is below 1.

    Examples
    --------
    >>> sieve(np.array([[3, 0, 4, 4], [0, 3, 0, 0], [4, 0, 0, 4]], dtype="uint8"), 2)
    array([[ True, False,  True,  True],
           [False,  True, False, False],
           [False, False, False, False]])
    """
    if least_px < 1:
        raise ValueError(f"least_px must be at least 1 pixel, got {least_px}")
    if least_px == 1:
        return codes > 0
    labels, sizes = label_patches(codes)
    large = sizes >= least_px
    large[0] = False
    return large[labels]


def is_large(flags: np.ndarray, least_px: int) -> np.ndarray:
    """Flag the pixels, bool (y, x), of 8-connected patches of ``flags`` that hold at least ``least_px``.

    Of blocks exact with ``least_px - 1`` pixels more on every side; see ``sieve``.

    Examples
    --------
    >>> is_large(np.array([[1, 0, 0, 1], [0, 1, 0, 0]], dtype=bool), 2)
    array([[ True, False, False, False],
           [False,  True, False, False]])
    """
    return sieve(np.asarray(flags, dtype=bool).view(np.uint8), least_px)


class Joins:
    """Which of many numbered things are one, told by pairs of them: a union-find.

    What a thing belongs to goes by the smallest number in it, whatever the order the pairs came in.

    Parameters
    ----------
    count : int
        Things, numbered from 0.

    Examples
    --------
    >>> joins = Joins(6)
    >>> joins.add(np.array([4, 5]), np.array([3, 4]))
    >>> joins.roots()
    array([0, 1, 2, 3, 3, 3])
    """

    def __init__(self, count: int) -> None:
        self._parent = np.arange(count, dtype=np.int64)

    def add(self, ones: np.ndarray, others: np.ndarray) -> None:
        """Join each of ``ones`` to that of ``others`` in its place, both integers, shape (pair,).

        Raises
        ------
        ValueError
            If the two are not of one length, or hold a number that was not announced.
        """
        ones, others = np.asarray(ones, dtype=np.int64), np.asarray(others, dtype=np.int64)
        if ones.ndim != 1 or ones.shape != others.shape:
            raise ValueError(f"pairs must be two lists of one length, got shapes {ones.shape} and {others.shape}")
        if ones.size and not 0 <= min(ones.min(), others.min()) <= max(ones.max(), others.max()) < len(self._parent):
            raise ValueError(f"pairs must be of numbers from 0 to {len(self._parent) - 1}")
        _join(self._parent, ones, others)

    def roots(self) -> np.ndarray:
        """Return the smallest number joined to each, int64, shape (count,)."""
        _flatten(self._parent)
        return self._parent.copy()


@njit(cache=True, nogil=True)
def _root(parent, one):
    while parent[one] != one:
        parent[one] = parent[parent[one]]
        one = parent[one]
    return one


@njit(cache=True, nogil=True)
def _unite(parent, one, other):
    """Join two numbers; return the smallest of what they are in."""
    one, other = _root(parent, one), _root(parent, other)
    if one < other:
        parent[other] = one
        return one
    parent[one] = other
    return other


@njit(cache=True, nogil=True)
def _join(parent, ones, others):
    for index in range(len(ones)):
        _unite(parent, ones[index], others[index])


@njit(cache=True, nogil=True)
def _flatten(parent):
    for one in range(len(parent)):
        parent[one] = parent[parent[one]]  # a parent is the smaller, and so done before


@njit(cache=True, nogil=True)
def _label(codes, labels, parent):
    """Fill ``labels`` and return how many patches there are; ``parent`` has room for every pixel."""
    height, width = codes.shape
    count = 0
    parent[0] = 0
    for y in range(height):
        for x in range(width):
            code = codes[y, x]
            label = np.uint32(0)
            if code:
                # The pixel above touches both beside it and that to the left: they are one with it already.
                if y and codes[y - 1, x] == code:
                    label = labels[y - 1, x]
                else:
                    if x and codes[y, x - 1] == code:
                        label = labels[y, x - 1]
                    elif x and y and codes[y - 1, x - 1] == code:
                        label = labels[y - 1, x - 1]
                    if y and x + 1 < width and codes[y - 1, x + 1] == code:
                        right = labels[y - 1, x + 1]
                        label = _unite(parent, label, right) if label else right
                    if not label:
                        count += 1
                        label = np.uint32(count)
                        parent[count] = label
            labels[y, x] = label
    patches = 0
    for one in range(1, count + 1):  # a root comes before what was joined to it
        if parent[one] == one:
            patches += 1
            parent[one] = patches
        else:
            parent[one] = parent[parent[one]]
    for y in range(height):
        for x in range(width):
            labels[y, x] = parent[labels[y, x]]
    return patches
