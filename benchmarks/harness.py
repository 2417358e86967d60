"""Time ways of one thing in turn, and tasks on a cluster; say on what machine, with what software.

Absolute times of a shared machine mean little, so the sides of a comparison run in turn, A B C A B C, and what is
reported is the median of the rounds' ratios, with its range.
"""

from __future__ import annotations

import datetime as dt
import functools
import gc
import importlib.metadata
import json
import os
import platform
import re
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import psutil
from distributed import Client

import engine
from engine.cluster import open_cluster, run_bounded

PACKAGES: Final = (
    *("dask", "distributed", "imagecodecs", "numba", "numpy", "obstore", "rasterio", "xarray", "xgboost", "zarr"),
    *("geomad", "odc-stac", "pylignum", "stackstac"),
)
STATUS: Final = Path("/proc/self/status")
CPUINFO: Final = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Timing:
    """Seconds of every run of one side, in order."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    """Of this process, all threads."""


def time_in_turn(
    sides: Mapping[str, Callable[[], Any]],
    runs: int,
    *,
    warm: bool = True,
    keep: Callable[[Any], Any] = lambda result: result,
) -> tuple[dict[str, Timing], dict[str, Any]]:
    """Run every side once unmeasured, then all in turn ``runs`` times.

    Parameters
    ----------
    sides : mapping of str to callable
    runs : int
    warm : bool
        Without, the first round is measured as well: for sides that were warmed on less, or start cold by design.
    keep : callable
        What is kept of a side's first result; not timed.

    Returns
    -------
    timings : dict of str to Timing
    results : dict of str to object
        What was kept of each side.
    """
    timings = {name: Timing() for name in sides}
    results: dict[str, Any] = {name: keep(work()) for name, work in sides.items()} if warm else {}
    for _ in range(runs):
        for name, work in sides.items():
            gc.collect()
            wall, cpu = time.perf_counter(), time.process_time()
            result = work()
            timings[name].wall.append(time.perf_counter() - wall)
            timings[name].cpu.append(time.process_time() - cpu)
            if name not in results:
                results[name] = keep(result)
            del result
    return timings, results


@dataclass(frozen=True)
class Ratio:
    """A figure of a comparison, round by round."""

    rounds: list[float]

    @property
    def value(self) -> float:
        return statistics.median(self.rounds)

    def __str__(self) -> str:
        spread = f" ({min(self.rounds):.2f}-{max(self.rounds):.2f})" if len(self.rounds) > 1 else ""
        return f"{self.value:.2f}{spread}"


def ratio(above: Iterable[float], below: Iterable[float]) -> Ratio:
    """Divide the runs of one side by those of another, round by round."""
    return Ratio([a / b for a, b in zip(above, below, strict=True)])


def seconds(timings: Mapping[str, Timing]) -> dict[str, dict[str, list[float]]]:
    """Return the raw runs of every side, for JSON."""
    return {
        name: {"wall": [round(s, 4) for s in timing.wall], "cpu": [round(s, 4) for s in timing.cpu]}
        for name, timing in timings.items()
    }


@dataclass(frozen=True)
class Comparison:
    """What a comparison found."""

    what: str
    """The work, its size, and that it is simulated."""

    ratios: dict[str, Ratio]
    """Figures by name; those of ``benchmarks.compare.TARGETS`` among them."""

    raw: dict[str, Any]
    """The runs, and how they were made."""

    wrong: list[str] = field(default_factory=list)
    """Sides whose values are not ours."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Tasks measured on a cluster: one line of JSON."""

    workload: str
    simulated: bool
    workers: int
    """Worker processes used."""

    threads: int
    """Tasks run at once."""

    scaling: str = ""
    """``strong``, the same work on more workers; ``weak``, as much work for each worker."""

    tasks: int
    pixels: int = 0
    """Of the output, summed over tasks."""

    looks: int = 0
    """Dates of each output pixel."""

    submit_seconds: float
    """Of the client, in handing tasks to the scheduler."""

    seconds: float
    """From the first task handed over to the last result."""

    cpu_seconds: float
    """Of the workers' processes."""

    bytes: int | None = None
    """Compressed bytes read; None where the tasks do not say."""

    worker_peak_bytes: int
    """Largest resident memory any worker had since it was started."""

    client_peak_bytes: int
    """Largest resident memory of the client as results came."""

    spilled_bytes: int
    stages: dict[str, float] = field(default_factory=dict)
    """Seconds by stage, summed over tasks and their threads."""

    machine: dict[str, Any] = field(default_factory=dict)

    def line(self) -> str:
        """Return the record as one line of JSON."""
        return json.dumps(asdict(self), sort_keys=True)


@contextmanager
def local_cluster(workers: int, folder: Path) -> Iterator[Client]:
    """Open worker processes of one thread each on this machine, as the profile ``local`` does."""
    profile = folder / f"cluster-{workers}.yaml"
    profile.write_text(
        f"profiles: {{bench: {{kind: local, workers: {workers}, threads_per_worker: 1}}}}\n", encoding="utf-8"
    )
    with open_cluster("bench", profile) as client:
        yield client


class _TimedClient:
    """A client that hands tasks to some of its workers, and adds up how long that took."""

    def __init__(self, client: Client, workers: list[str]) -> None:
        self._client, self._workers = client, workers
        self.seconds = 0.0
        self.tasks = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def submit(self, *args: Any, **options: Any) -> Any:
        started = time.perf_counter()
        future = self._client.submit(*args, workers=self._workers, **options)
        self.seconds += time.perf_counter() - started
        self.tasks += 1
        return future


def measure_tasks(
    client: Client, function: Callable[..., Any], calls: Iterable[tuple[Any, ...]], *, workers: int, **about: Any
) -> tuple[Run, list[Any]]:
    """Run tasks as a job does, a bounded number at a time, and measure them.

    Parameters
    ----------
    client : Client
    function : callable
        Of a task; where it returns a completion marker, its stages are added up.
    calls : iterable of tuple
    workers : int
        How many of the cluster's workers are to work.
    **about
        What the caller knows of the run: workload, pixels, looks, scaling.

    Returns
    -------
    run : Run
    results : list of object
        In order of finishing.
    """
    used = sorted(client.scheduler_info(n_workers=-1)["workers"].items())[:workers]
    addresses, threads = [address for address, _ in used], sum(worker["nthreads"] for _, worker in used)
    timed, results, peak = _TimedClient(client, addresses), [], 0
    cpu = sum(client.run(time.process_time, workers=addresses).values())
    started = time.perf_counter()
    for _, result in run_bounded(cast(Client, timed), function, calls, in_flight=2 * threads):
        results.append(result)
        peak = max(peak, psutil.Process().memory_info().rss)
    seconds = time.perf_counter() - started
    stages: dict[str, float] = {}
    read: list[int] = []
    for result in results:
        told = result.get("stages", {}) if isinstance(result, dict) else {}
        for stage, spent in told.items():
            stages[stage] = stages.get(stage, 0.0) + spent["seconds"]
        if "fetch" in told:
            read.append(told["fetch"]["bytes"])
    run = Run(
        workers=len(addresses),
        threads=threads,
        tasks=timed.tasks,
        submit_seconds=timed.seconds,
        seconds=seconds,
        cpu_seconds=sum(client.run(time.process_time, workers=addresses).values()) - cpu,
        bytes=sum(read) if read else None,
        worker_peak_bytes=max(worker_peaks(client, addresses)),
        client_peak_bytes=peak,
        spilled_bytes=spilled_bytes(client),
        stages=stages,
        machine={**machine(), "worker_processors": worker_processors(client, addresses)},
        **about,
    )
    return run, results


def worker_peaks(client: Client, addresses: list[str] | None = None) -> list[int]:
    """Return the largest resident memory of each worker since it was started, in bytes.

    Of Linux's own account, which ``getrusage`` is not: a process inherits that of the one that started it.
    """
    # Functions of the standard library: the workers of a user need no benchmarks.
    texts = client.run(STATUS.read_text, workers=addresses, on_error="return")
    found = [re.search(r"VmHWM:\s+(\d+) kB", text) for text in texts.values() if isinstance(text, str)]
    if found and all(found):
        return [1024 * int(match[1]) for match in found if match]
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    return [int(worker["metrics"].get("memory", 0)) for worker in workers]


def spilled_bytes(client: Client) -> int:
    """Return what the workers have on disk for want of memory."""
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    return sum(int(worker["metrics"].get("spilled_bytes", {}).get("disk", 0)) for worker in workers)


def worker_processors(client: Client, addresses: list[str]) -> dict[str, int]:
    """Return the processors of workers, and how many workers have each."""
    names = client.run(processor, workers=addresses, on_error="return").values()
    return dict(Counter(name if isinstance(name, str) else "unknown" for name in names))


def processor() -> str:
    """Return the name of this machine's processor."""
    return _cpuinfo().get("model name", platform.processor())


@functools.cache
def _cpuinfo() -> dict[str, str]:
    text = CPUINFO.read_text(encoding="utf-8") if CPUINFO.is_file() else ""
    return dict(re.findall(r"^(model name|flags)\s*: (.*)$", text, re.MULTILINE))


@functools.cache
def machine() -> dict[str, Any]:
    """Return what the figures depend on: commit, versions, processor and its flags, memory, load, date."""
    return {
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "versions": {"mangroves": engine.__version__, "python": platform.python_version(), **versions()},
        "processor": processor(),
        "flags": sorted(_cpuinfo().get("flags", "").split()),
        "cores": psutil.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "load_before": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
    }


def versions() -> dict[str, str]:
    """Return the versions of the packages that are measured, as far as they are here."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def commit() -> str:
    """Return the commit of the checkout, with a plus where files differ from it; empty for an installed package."""
    folder = Path(engine.__file__).parent
    git = ["git", "-C", str(folder)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD"], capture_output=True, check=False).returncode
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head + "+" * bool(changed)
