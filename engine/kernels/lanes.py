"""Looks as rows of pixels, and these in parts for several threads; kernels release the GIL."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np

PART_PX: Final = 2**14
"""Parts begin at multiples of this, and so of any number of lanes: every pixel is computed as without parts."""


def in_parts(kernel: Callable[[int, int], None], pixels: int, threads: int) -> None:
    """Call ``kernel(first, last)`` on parts of a row of pixels, side by side in threads.

    Examples
    --------
    >>> in_parts(lambda first, last: print(first, last), 40_000, 2)
    0 16384
    16384 40000
    """
    count = max(1, min(threads, pixels // PART_PX))
    edges = [pixels * part // count // PART_PX * PART_PX for part in range(count)] + [pixels]
    if count == 1:
        kernel(0, pixels)
        return
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(kernel, edges[:-1], edges[1:]))


def flat_looks(bands: np.ndarray, clear: np.ndarray, dtype: Any = np.uint16) -> tuple[np.ndarray, np.ndarray]:
    """Return looks with their pixels in one row, (look, band, pixel) and (look, pixel), after checking them.

    Raises
    ------
    TypeError
        If ``bands`` is not uint16 (look, band, y, x), ``clear`` not of its shape, or ``dtype``, that of what is to be
        made of them, neither uint16 nor float32.
    """
    if bands.dtype != np.uint16 or bands.ndim != 4:
        raise TypeError(f"bands must be uint16 (look, band, y, x), got {bands.dtype} {bands.shape}")
    looks, n_bands, height, width = bands.shape
    if clear.shape != (looks, height, width):
        raise TypeError(f"clear must have shape {(looks, height, width)}, got {clear.shape}")
    if dtype not in (np.uint16, np.float32):
        raise TypeError(f"dtype must be uint16 or float32, got {dtype}")
    return (
        np.ascontiguousarray(bands).reshape(looks, n_bands, height * width),
        np.ascontiguousarray(clear).reshape(looks, height * width),
    )
