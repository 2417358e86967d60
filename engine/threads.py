"""How many threads of a process may compute at once: those of its dask worker, else one a core."""

from __future__ import annotations

import os
import threading
from functools import lru_cache

from distributed import get_worker


def compute_threads() -> int:
    """Return the threads that a task may compute with; to be asked in the thread that dask gave it."""
    try:
        return get_worker().state.nthreads
    except ValueError:  # no worker: a script, a notebook, a test
        return cores()


def cores() -> int:
    """Return the cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def compute_slots() -> threading.BoundedSemaphore:
    """Return what a thread must hold to compute: one for each of ``compute_threads``, shared by the process.

    Many more threads wait for storage than there are cores, and each decodes what it brought: without this they
    would all decode at once, and all hold what they decoded.
    """
    return _slots(compute_threads())


@lru_cache(maxsize=8)
def _slots(count: int) -> threading.BoundedSemaphore:
    return threading.BoundedSemaphore(count)
