"""What a cluster is given to do: tasks of the engine on the benchmark archive, ready to be run and measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.params import CubeParams
from engine.plan import TileYear
from engine.ranges import Access

Calls = list[tuple[Any, ...]]
"""Arguments of each task."""


def cube_calls(parts: Sequence[TileYear], access: Access, folder: Path) -> Calls:
    """Return the tasks that make annual cubes of tile-years: arguments of ``engine.tasks.cube_task``."""
    params = CubeParams()
    return [
        (part, folder / f"{number}" / f"{part.year}.zarr", params, access, max(part.tile.shape), "bench", False, {})
        for number, part in enumerate(parts)
    ]
