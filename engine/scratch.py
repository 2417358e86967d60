"""Large arrays that are used again: the first touch of fresh memory can take longer than filling it.

A block of looks is hundreds of megabytes. The system hands it out a page at a time, cleared, at the first touch of
each; where that is slow (virtual machines, sandboxes) it costs more than decoding what goes there.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

_kept: list[np.ndarray] = []
_guard = threading.Lock()


@contextmanager
def scratch(shape: tuple[int, ...], dtype: Any) -> Iterator[np.ndarray]:
    """Lend an array that holds anything; it must not be used after the block.

    Examples
    --------
    >>> with scratch((2, 3), "uint16") as array:
    ...     array[:] = 7
    ...     print(array)
    [[7 7 7]
     [7 7 7]]
    """
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    with _guard:
        _kept.sort(key=len)
        place = next((place for place, kept in enumerate(_kept) if kept.size >= size), -1)
        memory = _kept.pop(place) if _kept else np.empty(0, dtype=np.uint8)
    if memory.size < size:
        memory = np.empty(size, dtype=np.uint8)  # in place of the largest, which was too small
    try:
        yield memory[:size].view(dtype).reshape(shape)
    finally:
        with _guard:
            _kept.append(memory)


def release_scratch() -> None:
    """Give back what is kept, before a step that needs the memory for something else."""
    with _guard:
        _kept.clear()
