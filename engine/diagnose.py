"""What one process of a cluster is and reaches; run on the client and on workers, judged by ``mangroves doctor``."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import time
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import requests
from dask.system import CPU_COUNT
from distributed.system import MEMORY_LIMIT
from odc.geo.geobox import GeoBox

from engine.errors import EngineError
from engine.ranges import Access
from engine.reader import read_asset
from engine.scenes import Scene
from engine.trust import Trust, redact

_ASK_SECONDS: Final = 10


class Machine(NamedTuple):
    """What a process has."""

    host: str
    cores: int
    """That it may use, by affinity and control group."""

    memory_bytes: int
    """Of the machine or its control group."""

    threads: int
    """Tasks it runs at once; of the client 0."""

    limit_bytes: int
    """That dask lets it take; 0 is no limit."""

    scratch: str
    """Folder where it puts what memory does not hold."""

    scratch_free_bytes: int

    openmp_threads: str
    """``OMP_NUM_THREADS``, empty where it is not set."""

    openmp_wait: str
    """``OMP_WAIT_POLICY``."""

    time: float
    """Its clock: Unix seconds."""


def examine(dask_worker: Any = None) -> Machine:
    """Return what this process has; dask hands a worker over where it runs on one."""
    scratch = Path(tempfile.gettempdir() if dask_worker is None else dask_worker.local_directory)
    limit = None if dask_worker is None else dask_worker.memory_manager.memory_limit
    return Machine(
        host=socket.gethostname(),
        cores=CPU_COUNT,
        memory_bytes=MEMORY_LIMIT,
        threads=0 if dask_worker is None else dask_worker.state.nthreads,
        limit_bytes=limit or 0,
        scratch=str(scratch),
        scratch_free_bytes=shutil.disk_usage(scratch).free,
        openmp_threads=os.environ.get("OMP_NUM_THREADS", ""),
        openmp_wait=os.environ.get("OMP_WAIT_POLICY", ""),
        time=time.time(),
    )


def try_read(scene: Scene, geobox: GeoBox, access: Access) -> str:
    """Sign and read one band of a scene; return why that fails, empty where it does not."""
    try:
        read_asset(scene, "qa_pixel", geobox, access)
    except EngineError as error:
        return redact(error.problem)
    return ""


def clock_error(address: str, trust: Trust) -> float | None:
    """Return by how many seconds this clock is ahead of a server's; None where it does not say its time.

    Raises
    ------
    TrustError
        If the server's host is not allowed.
    """
    url = trust.url(address, what="clock")
    try:
        before = time.time()
        answer = requests.head(url, timeout=_ASK_SECONDS, allow_redirects=False)
        here = (before + time.time()) / 2
        there = parsedate_to_datetime(answer.headers["date"]).timestamp() + 0.5  # the header has whole seconds
    except (requests.RequestException, LookupError, ValueError):
        return None
    return here - there
