"""Parts of pixels: all of them, once, and the same values from any number of threads."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.kernels.composite import annual_layers, median
from engine.kernels.geomedian import geomedian
from engine.kernels.lanes import PART_PX, in_parts


@given(st.integers(0, 9 * PART_PX), st.integers(1, 40))
def test_parts_hold_every_pixel_once_and_begin_where_lanes_do(pixels: int, threads: int) -> None:
    parts: list[tuple[int, int]] = []
    in_parts(lambda first, last: parts.append((first, last)), pixels, threads)
    parts.sort()
    assert [first for first, _ in parts] == [0, *(last for _, last in parts[:-1])]
    assert parts[-1][1] == pixels
    assert all(first % PART_PX == 0 for first, _ in parts)
    assert len(parts) <= threads


def test_threads_change_no_value() -> None:
    rng = np.random.default_rng(7)
    bands = rng.integers(0, 65_536, (5, 6, 211, 197), dtype=np.uint16)
    clear = rng.random((5, 211, 197)) < 0.6
    for threads in (2, 3):
        assert np.array_equal(median(bands, clear), median(bands, clear, threads=threads))
        assert np.array_equal(geomedian(bands, clear), geomedian(bands, clear, threads=threads))
        for composite in ("median", "geomedian"):
            one = annual_layers(bands, clear, min_looks_range=3, composite=composite)
            more = annual_layers(bands, clear, min_looks_range=3, composite=composite, threads=threads)
            assert all(np.array_equal(one[name], more[name]) for name in one)


def test_an_error_in_one_part_is_raised() -> None:
    def fail(first: int, last: int) -> None:
        raise MemoryError(first)

    with pytest.raises(MemoryError):
        in_parts(fail, 3 * PART_PX, 3)
