"""Threads to compute with: those of the worker, and never more at once than there are slots."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from engine import threads
from engine.cluster import open_cluster
from engine.threads import compute_slots, compute_threads


def test_no_more_threads_compute_than_there_are_slots(monkeypatch):
    monkeypatch.setattr(threads, "compute_threads", lambda: 2)
    slots, guard = compute_slots(), threading.Lock()
    assert compute_slots() is slots, "one of the process"
    at_once, most = 0, 0

    def compute(_: int) -> None:
        nonlocal at_once, most
        with slots:
            with guard:
                at_once += 1
                most = max(most, at_once)
            time.sleep(0.002)
            with guard:
                at_once -= 1

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(compute, range(50)))
    assert most == 2


def test_a_task_computes_with_the_threads_of_its_worker():
    with open_cluster("threads") as client:
        (threads_of_worker,) = client.nthreads().values()
        assert client.submit(compute_threads).result() == threads_of_worker
    assert 1 <= compute_threads() <= 1024
