"""How the engine grows: with workers, with the area, and what the scheduler takes of very many tasks."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any, Final

from distributed import SchedulerPlugin

from benchmarks.archive import Setup
from benchmarks.harness import Comparison, Ratio, Run, local_cluster, ratio
from benchmarks.workloads import SCHEDULER, cube_workload, warm_up

AREAS: Final = (1, 4, 16)
WORKERS: Final = 2
BELT_TASKS: Final = 256_000
"""Tile tasks of the mangrove belt: 1 600 one-degree cells, 40 years, 4 tiles a cell."""


def compare_workers(setup: Setup) -> Comparison:
    """Time cubes of several tile-years by one worker and by two, in turn; each computes with one thread."""
    parts = setup.archive.windows(setup.scale.parts, setup.scale.part_px)
    workload = cube_workload(parts, setup.archive.access)
    runs: dict[int, list[Run]] = {1: [], WORKERS: []}
    found: dict[int, list[str]] = {}
    with local_cluster(WORKERS, setup.folder) as client:
        warm_up(client, workload, setup.folder / "warm")
        for turn in range(setup.runs + 2 if setup.runs > 1 else 1):
            for workers in runs:
                calls = workload.calls(len(parts), setup.folder / f"by-{workers}-{turn}")
                run, markers = workload.measure(client, calls, workers=workers)
                runs[workers].append(run)
                found[workers] = sorted(marker["sha256"] for marker in markers)
    walls = {workers: [run.seconds for run in some] for workers, some in runs.items()}
    return Comparison(
        what=f"cubes of {len(parts)} tile-years of {parts[0].tile.shape} px by 1 and {WORKERS} workers (simulated)",
        ratios={"workers_2_vs_1": ratio(walls[1], walls[WORKERS])},
        raw={f"{workers} worker(s)": [asdict(run) for run in some] for workers, some in runs.items()},
        wrong=[] if found[1] == found[WORKERS] else [f"{WORKERS} workers"],
    )


def compare_areas(setup: Setup) -> Comparison:
    """Make cubes of 1, 4 and 16 times an area, each on new workers: time, tasks at the scheduler, memory."""
    side = setup.scale.part_px
    runs: dict[int, Run] = {}
    tasks: dict[int, int] = {}
    for area in AREAS:
        workload = cube_workload(setup.archive.windows(WORKERS * area, side), setup.archive.access)
        with local_cluster(WORKERS, setup.folder) as client:
            count = _Count()
            assert client.cluster is not None
            client.cluster.scheduler.add_plugin(count)  # of a local cluster it lives in this process
            calls = workload.calls(WORKERS * area, setup.folder / f"area-{area}")
            runs[area], _ = workload.measure(client, calls, workers=WORKERS)
            tasks[area] = count.finished
    first, last = runs[AREAS[0]], runs[AREAS[-1]]
    return Comparison(
        what=f"cubes of {WORKERS} x 1, 4, 16 tile-years of ({side}, {side}) px on {WORKERS} new workers (simulated)",
        ratios={
            "memory_16x": Ratio([last.worker_peak_bytes / first.worker_peak_bytes]),
            "tasks_16x": Ratio([tasks[AREAS[-1]] / tasks[AREAS[0]]]),
            "client_memory_16x": Ratio([last.client_peak_bytes / first.client_peak_bytes]),
            "seconds_16x": Ratio([last.seconds / first.seconds]),
        },
        raw={f"{area} x": {**asdict(run), "tasks_at_scheduler": tasks[area]} for area, run in runs.items()},
    )


def compare_scheduler(setup: Setup) -> Comparison:
    """Hand tasks without work to a cluster as a job does, and extrapolate to those of the whole mangrove belt."""
    calls = SCHEDULER.calls(setup.scale.noop_thousands, setup.folder)
    with local_cluster(WORKERS, setup.folder) as client:
        cpu = time.process_time()
        run, _ = SCHEDULER.measure(client, calls, workers=WORKERS)
        cpu = time.process_time() - cpu  # client and scheduler are this process
    share = BELT_TASKS / run.tasks
    return Comparison(
        what=f"{run.tasks} tasks without work; {BELT_TASKS} are extrapolated",
        ratios={
            "tasks_per_second": Ratio([run.tasks / run.seconds]),
            "belt_hours_extrapolated": Ratio([run.seconds * share / 3600]),
            "belt_scheduler_cpu_hours_extrapolated": Ratio([cpu * share / 3600]),
        },
        raw={"run": asdict(run)},
    )


class _Count(SchedulerPlugin):
    """Counts the tasks that the scheduler saw finish."""

    def __init__(self) -> None:
        self.finished = 0

    def transition(self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any) -> None:
        self.finished += finish == "memory"
