"""A few scenes over one small crop of the grid."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.grid import Tile
from engine.ranges import Access
from engine.scenes import Scene
from engine.trust import Trust
from tests.makers import utc, write_scene

TILE = Tile(48, 8, -16, (-32700, 16500, 260, 300))


@pytest.fixture(scope="session")
def scene_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scenes")


@pytest.fixture(scope="session")
def scenes(scene_folder: Path) -> list[Scene]:
    """Ten scenes of 2019: two paths, one pass in two rows 24 s apart, origins off the 256-px rhythm."""
    made = [
        write_scene(scene_folder, day=utc(2019, month, 3), corner=(-32711, 16455 + month), seed=month)
        for month in range(1, 8)
    ]
    made.append(write_scene(scene_folder, day=utc(2019, 9, 10), corner=(-32760, 16600), wrs=(126, 53)))
    made.append(write_scene(scene_folder, day=utc(2019, 11, 1), corner=(-32750, 16480), wrs=(125, 53)))
    made.append(
        write_scene(scene_folder, day=utc(2019, 11, 1, 3, 0, 24), corner=(-32610, 16480), wrs=(125, 54), seed=3)
    )
    return made


@pytest.fixture(scope="session")
def access(scene_folder: Path) -> Access:
    return Access(Trust().with_roots(scene_folder))


@pytest.fixture
def peak_bytes() -> Iterator[Callable[[], int]]:
    """``peak_bytes()``: the most that Python and numpy held at once beyond what they held when it was last asked."""

    def peak() -> int:
        nonlocal before
        most = tracemalloc.get_traced_memory()[1] - before
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        return most

    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    yield peak
    tracemalloc.stop()
