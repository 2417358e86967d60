"""Fits that are long enough to be killed in the middle, and who kills them."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import dask
import dask.dataframe as dd
from distributed import Client, LocalCluster

from engine.kernels.features import ALL_FEATURES
from engine.launch import settings_of
from engine.model import Model
from engine.params import TrainParams
from engine.profiles import LocalProfile
from engine.train import fit
from tests.engine.samples import make_sample

ROUNDS = 60
PARAMS = TrainParams(rounds=ROUNDS, max_depth=6)
SAMPLE = make_sample(20_000)
PARTS = 7


def fitted(client: Client | None = None, *, distributed: str = "no", checkpoints: Path | None = None) -> Model:
    """Fit to the sample, in partitions where there is a cluster."""
    params = PARAMS.model_copy(update={"distributed": distributed})
    sample = dd.from_pandas(SAMPLE.sort_values("red", ignore_index=True), npartitions=PARTS) if client else SAMPLE
    return fit(
        sample, features=ALL_FEATURES, params=params, client=client, checkpoints=checkpoints, plain_collective=True
    )


@contextmanager
def workers(count: int) -> Iterator[Client]:
    """Open a cluster of worker processes that are started again when they die, as the engine's own on this machine."""
    with (
        # Or a worker killed again 15 s after it was killed first is not started any more.
        dask.config.set(settings_of(LocalProfile(kind="local"))),
        LocalCluster(
            n_workers=count, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0", silence_logs=50
        ) as cluster,
        Client(cluster) as client,
    ):
        client.wait_for_workers(count)
        yield client


def rounds_kept(folder: Path) -> dict[Path, int]:
    """Return how many rounds each checkpoint in a folder holds."""
    found = {}
    for path in folder.glob("[!.]*.trees"):
        with suppress(FileNotFoundError):
            found[path] = path.read_bytes().count(b'"tree_param"')
    return found


def when_grown(folder: Path, rounds: int, act: Callable[[], None]) -> threading.Thread:
    """Start a thread that acts once a checkpoint in a folder holds so many rounds; 0: at once."""

    def watch() -> None:
        until = time.monotonic() + 60
        while time.monotonic() < until and max(rounds_kept(folder).values(), default=0) < rounds:
            time.sleep(0.002)
        act()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


class Killer:
    """Kills a worker of a cluster, and remembers how far the fit was."""

    def __init__(self, client: Client, folder: Path, choice: int, delay: float = 0.0) -> None:
        self._client, self._folder, self._choice, self._delay = client, folder, choice, delay
        self._pids = client.run(os.getpid)
        self.rounds = -1

    def __call__(self) -> None:
        time.sleep(self._delay)
        tasks = ("_train_rows", "fn-")  # of one task, and xgboost.dask's
        working = self._client.processing().items()
        busy = [where for where, keys in working if any(str(key).startswith(tasks) for key in keys)]
        among = sorted(set(busy) & set(self._pids)) or sorted(self._pids)
        os.kill(self._pids[among[self._choice % len(among)]], signal.SIGKILL)
        self.rounds = max(rounds_kept(self._folder).values(), default=0)
