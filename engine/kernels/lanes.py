"""Pixels in parts for several threads; kernels release the GIL."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

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
