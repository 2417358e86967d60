"""What a cluster is given to do: tasks of the engine on the benchmark archive, and how they scale with its workers."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from distributed import Client

from benchmarks.archive import BenchmarkArchive
from benchmarks.harness import Run, measure_tasks
from benchmarks.models import fit, pixels_of
from engine.area import read_area
from engine.history_tasks import TileMaps, Tracing, history_task
from engine.kernels.features import ALL_FEATURES
from engine.params import AreaParams, ChangeParams, ClassifyParams, CubeParams
from engine.plan import TileYear
from engine.ranges import Access
from engine.tasks import classify_task, cube_task

Calls = list[tuple[Any, ...]]
"""Arguments of each task."""

NOOP_TASKS: Final = 1000
"""Tasks without work that stand for one of the others."""

TREES: Final = 200
"""As the demo trains."""


@dataclass(frozen=True)
class Workload:
    """One kind of task, as many times as wanted."""

    name: str
    function: Callable[..., Any]
    calls: Callable[[int, Path], Calls]
    """``calls(count, folder)``: arguments of so many tasks that write into a folder."""

    pixels: int = 0
    """Of the output of a task."""

    looks: int = 0
    """Dates of each pixel."""

    simulated: bool = True

    def measure(self, client: Client, calls: Calls, *, workers: int, scaling: str = "") -> tuple[Run, list[Any]]:
        """Run tasks of this kind on so many workers; see ``harness.measure_tasks``."""
        about = {"workload": self.name, "simulated": self.simulated, "scaling": scaling, "looks": self.looks}
        return measure_tasks(client, self.function, calls, workers=workers, pixels=self.pixels * len(calls), **about)


def cube_workload(parts: Sequence[TileYear], access: Access) -> Workload:
    """Annual cubes of tile-years, in turn."""
    tile = parts[0].tile.shape

    def calls(count: int, folder: Path) -> Calls:
        chosen = [parts[number % len(parts)] for number in range(count)]
        return [
            (part, folder / f"{number}" / f"{part.year}.zarr", CubeParams(), access, max(tile), "bench", False, {})
            for number, part in enumerate(chosen)
        ]

    return Workload("cube", cube_task, calls, tile[0] * tile[1], parts[0].looks)


def classify_workload(archive: BenchmarkArchive, folder: Path) -> Workload:
    """Maps of the square, by a model like the demo's; its cube is made here, once."""
    square = archive.square
    area = read_area(AreaParams(file=str(archive.world.regions), name_field="name"), archive.access.trust)
    model = fit(*pixels_of(archive), ALL_FEATURES, TREES)
    model.save(folder / "model")
    [cube] = cube_workload([square], archive.access).calls(1, folder)
    cube_task(*cube)
    fixed = (folder / "model", model.sha256(), None, archive.access)

    def calls(count: int, folder: Path) -> Calls:
        return [
            (cube[1], square.tile, square.year, area, *fixed, params, folder / f"{number}" / "map.zarr", "bench", {})
            for number in range(count)
            for params in [ClassifyParams(threshold=0.7 if number % 2 else 0.5)]
        ]

    return Workload("classify", classify_task, calls, square.tile.shape[0] * square.tile.shape[1])


def change_workload(archive: BenchmarkArchive, folder: Path) -> Workload:
    """The history of two maps of the square, of different thresholds, as of two years; they are made here, once."""
    maps = classify_workload(archive, folder).calls(2, folder / "maps")
    for call in maps:
        classify_task(*call)
    (cube, tile, year, area, *_), stores = maps[0], (maps[0][-3], maps[1][-3])
    tracing = Tracing(
        years=(year, year + 1),
        threshold=0.5,
        params=ChangeParams(),
        area=area,
        zones=None,
        rates={},
        samples={},
    )
    own = TileMaps(tile=tile, maps=stores, cubes=(cube, cube))

    def calls(count: int, folder: Path) -> Calls:
        return [(own, (), tracing, folder / f"{number}" / f"{tile.id}.zarr", "bench", {}) for number in range(count)]

    return Workload("change", history_task, calls, tile.shape[0] * tile.shape[1])


SCHEDULER: Final = Workload(
    "scheduler", operator.index, lambda count, _: [(number,) for number in range(count * NOOP_TASKS)], simulated=False
)
"""Tasks without work."""

WORKLOADS: Final[dict[str, Callable[[BenchmarkArchive, Path], Workload]]] = {
    "cube": lambda archive, _: cube_workload([archive.square], archive.access),
    "classify": classify_workload,
    "change": change_workload,
    "scheduler": lambda *_: SCHEDULER,
}
"""Name -> how it is made ready in a folder that all workers see."""


def halves(workers: int) -> list[int]:
    """Return one worker, all, and what halving all gives between.

    Examples
    --------
    >>> halves(12)
    [1, 3, 6, 12]
    """
    counts = {workers, 1}
    while workers > 1:
        counts.add(workers := workers // 2)
    return sorted(counts)


def measure_scaling(client: Client, workload: Workload, folder: Path, *, scale: int, runs: int) -> Iterator[Run]:
    """Measure a workload on one worker of a cluster, on all, and on halves between.

    Strong: the same work, ``scale`` tasks for each thread of all workers; weak: ``scale`` tasks for each thread used.
    Every worker has done one task before, so that nobody's first compilation is measured.
    """
    workers = client.scheduler_info(n_workers=-1)["workers"]
    threads = sum(worker["nthreads"] for worker in workers.values())
    warm_up(client, workload, folder / "warm")
    for turn in range(runs):
        for count in halves(len(workers)):
            used = sum(worker["nthreads"] for _, worker in sorted(workers.items())[:count])
            for scaling, tasks in (("strong", scale * threads), ("weak", scale * used)):
                calls = workload.calls(tasks, folder / f"{scaling}-{count}-{turn}")
                yield workload.measure(client, calls, workers=count, scaling=scaling)[0]


def warm_up(client: Client, workload: Workload, folder: Path) -> None:
    """Let every worker do one task."""
    addresses = client.scheduler_info(n_workers=-1)["workers"]
    calls = workload.calls(len(addresses), folder)
    tasks = [
        client.submit(workload.function, *call, workers=[address], pure=False)
        for call, address in zip(calls, addresses, strict=False)
    ]
    client.gather(tasks)
