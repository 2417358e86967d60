"""Training by every worker on the rows it holds, by ``xgboost.dask``; it survives the loss of workers.

``xgboost.dask`` itself does not: when a worker dies the others raise, or wait for it. So each attempt is watched; when
a worker it counted on is gone the attempt is given up, the lost rows are encoded anew by dask, and training goes on
from its checkpoint with the workers there are, to the same trees.

XGBoost's collective talks over plain sockets, whatever the security of the cluster: each worker listens on a port on
all interfaces while it trains, and the tracker beside the scheduler. Its workers offer no choice of interface.
"""

from __future__ import annotations

import asyncio
import ipaddress
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final
from urllib.parse import urlsplit

import dask
import dask.array
import distributed
import numpy as np
import xgboost
import xgboost.collective
import xgboost.dask
from xgboost.tracker import RabitTracker

from engine.boost import booster_params, logistic_gradients, trees_of
from engine.checkpoints import Checkpoint, continued
from engine.errors import ClusterError, EngineError
from engine.kernels.bins import MISSING_CODE
from engine.params import BoostParams

ALLOWED_LOSSES: Final = 3
"""Attempts that may be cut short by lost workers, in one fit, before it is given up."""

_RETURN_SECONDS: Final = 30.0  # to wait for as many workers as there were
_ANY_SECONDS: Final = 120.0  # to wait for one at least: on a busy machine a worker takes a minute to start again
_WATCH_SECONDS: Final = 1.0  # between two looks at who is there
_TELL_SECONDS: Final = 5.0  # in which workers that are left tell of a loss by themselves
_LEAVE_SECONDS: Final = 20.0  # for workers to leave an attempt that was given up, before they are started again
_MEET_SECONDS: Final = 60  # for all to meet; one that died before would be waited for without end


def loopback_host(address: str) -> str | None:
    """Return the host of a scheduler's address if it is this machine's own.

    Examples
    --------
    >>> loopback_host("tcp://127.0.0.1:8786"), loopback_host("tls://10.0.0.5:8786"), loopback_host("tcp://[::1]:8786")
    ('127.0.0.1', None, '::1')
    """
    host = str(urlsplit(address).hostname)
    try:
        return host if ipaddress.ip_address(host).is_loopback else None
    except ValueError:
        return "127.0.0.1" if host == "localhost" else None


def train_spread(
    client: distributed.Client,
    encoded: Sequence[Any],
    counts: Sequence[int],
    features: int,
    params: BoostParams,
    checkpoint: Checkpoint | None = None,
) -> bytes:
    """Train with every worker on the rows it holds; return the trees as canonical JSON.

    Parameters
    ----------
    client : distributed.Client
    encoded : sequence of Delayed
        Each a ``engine.boost.Rows``.
    counts : sequence of int
        Rows of each.
    features : int
    params : BoostParams
    checkpoint : Checkpoint, optional
        To go on from, also after a loss; without one each attempt begins anew.

    Raises
    ------
    ClusterError
        If workers are lost ``ALLOWED_LOSSES`` times and once more, or all of them for good.
    """
    hush = _Hush()
    try:
        return _train(client, client.compute(list(encoded)), counts, features, params, checkpoint)
    finally:
        threading.Thread(target=hush.restore, daemon=True).start()


def _train(
    client: distributed.Client,
    held: Sequence[Any],
    counts: Sequence[int],
    features: int,
    params: BoostParams,
    checkpoint: Checkpoint | None,
) -> bytes:
    before = _workers(client)
    unexplained = 0
    for _ in range(ALLOWED_LOSSES + 1):
        grown = checkpoint.read(features=features, rounds=params.rounds) if checkpoint else None
        if grown and grown.rounds == params.rounds:
            return grown.trees
        there = _await_workers(client, len(before))
        _free(client)
        columns = _columns(held, counts, features)
        try:
            how = continued(grown, checkpoint, params.rounds)
            return trees_of(client.sync(_attempt, client, columns, booster_params(params), how))
        except (EngineError, distributed.KilledWorker):
            raise
        except xgboost.core.XGBoostError as error:
            # Most often the others' word of the worker that died; twice with all of them there, their own.
            unexplained += not _is_any_lost(client, there)
            if unexplained > 1:
                said = " ".join(str(error).split())[:200]
                raise ClusterError(
                    f"training failed with all workers there: {said}", fix="see their logs; the same command goes on"
                ) from error
            cause: Exception = error
        except Exception as error:
            if not _is_any_lost(client, there):
                raise
            cause = error
    raise ClusterError(
        f"training lost workers {ALLOWED_LOSSES + 1} times ({type(cause).__name__})",
        fix="they are likely out of memory: give them more, or draw fewer samples; the same command goes on",
    ) from cause


def _columns(held: Sequence[Any], counts: Sequence[int], features: int) -> dict[str, dask.array.Array]:
    def column(name: str, kind: type, *width: int) -> dask.array.Array:
        parts = [
            dask.array.from_delayed(dask.delayed(getattr)(rows, name), (count, *width), kind)
            for rows, count in zip(held, counts, strict=True)
        ]
        return dask.array.concatenate(parts)

    return {
        "data": column("codes", np.uint8, features),
        "label": column("positive", np.float32),
        "label_lower_bound": column("weight", np.float32),
    }


async def _attempt(
    client: distributed.Client, columns: dict[str, Any], params: dict[str, Any], how: dict[str, Any]
) -> xgboost.Booster:
    """Train once, on the client's own loop, where an attempt that would wait for ever can be cancelled."""
    assert client.scheduler is not None
    data = await xgboost.dask.DaskQuantileDMatrix(client, **columns, missing=MISSING_CODE, max_bin=256)
    host = loopback_host(str(client.scheduler.address))
    settings = xgboost.collective.Config(tracker_host_ip=host, tracker_timeout=_MEET_SECONDS)
    training = asyncio.ensure_future(
        xgboost.dask.train(client, params, data, obj=logistic_gradients, coll_cfg=settings, **how)
    )
    counted_on = set(data.worker_map)
    try:
        while not training.done():
            await asyncio.wait({training}, timeout=_WATCH_SECONDS)
            if not training.done() and counted_on - set((await client.scheduler.identity(n_workers=-1))["workers"]):
                await asyncio.wait({training}, timeout=_TELL_SECONDS)
                break
        if training.done():
            return training.result()["booster"]
        raise TimeoutError("a worker is gone, and the others wait for it")
    finally:
        if not training.done():
            training.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await training


def _free(client: distributed.Client) -> None:
    """Start workers again that still compute for an attempt given up: XGBoost may wait in there for ever.

    Raises
    ------
    ClusterError
        If they cannot be started again, as nobody watches over them.
    """
    until = time.monotonic() + _LEAVE_SECONDS
    while (stuck := _deserted(client)) and time.monotonic() < until:
        time.sleep(0.5)
    if not stuck:
        return
    try:
        client.restart_workers(stuck, timeout=_ANY_SECONDS)
    except (ValueError, TimeoutError, RuntimeError) as error:
        raise ClusterError(
            f"{len(stuck)} workers wait in training for one that is gone",
            fix="restart the workers; the same command goes on",
        ) from error


def _deserted(client: distributed.Client) -> list[str]:
    """Return the workers that run a spread training of which the scheduler no longer knows."""
    wanted = {worker: set(map(str, keys)) for worker, keys in client.processing().items()}
    running = client.run(_trainings, on_error="ignore")
    return [worker for worker, keys in running.items() if set(keys) - wanted.get(worker, set())]


def _trainings(dask_worker: distributed.Worker) -> list[str]:
    return [str(key) for key in dask_worker.active_threads.values() if str(key).startswith("fn-")]  # xgboost.dask's


class _Hush:
    """Keeps from the terminal what trackers of this process say, up to a minute later, of attempts given up.

    A tracker tells its thread, and once more when it is freed, where Python only reports errors.
    """

    def __init__(self) -> None:
        now: Any = threading.excepthook
        earlier = getattr(now, "__self__", None)
        meant = earlier._meant if isinstance(earlier, _Hush) else (now, sys.unraisablehook)
        self._meant: tuple[Any, Any] = meant
        threading.excepthook, sys.unraisablehook = self.uncaught, self.unraisable

    def uncaught(self, args: threading.ExceptHookArgs) -> None:
        if args.exc_type is not xgboost.core.XGBoostError or args.thread not in _trackers():
            self._meant[0](args)

    def unraisable(self, args: sys.UnraisableHookArgs) -> None:
        if args.exc_type is not xgboost.core.XGBoostError or args.object is not RabitTracker.__del__:
            self._meant[1](args)

    def restore(self) -> None:
        """Bring back the hooks there were, once the last tracker has ended; a later fit's stay."""
        while trackers := _trackers():
            for tracker in trackers:
                tracker.join()
        if threading.excepthook == self.uncaught:
            threading.excepthook, sys.unraisablehook = self._meant


def _trackers() -> set[threading.Thread]:
    """Return the threads in which ``xgboost.dask`` waits for a tracker; it gives them no other name."""
    return {thread for thread in threading.enumerate() if thread.name.endswith("(wait_for)")}


def _workers(client: distributed.Client) -> set[str]:
    return set(client.scheduler_info(n_workers=-1)["workers"])


def _is_any_lost(client: distributed.Client, there: set[str]) -> bool:
    """Tell whether one of these workers is gone, which the scheduler may learn a moment after the others."""
    until = time.monotonic() + _TELL_SECONDS
    while not (lost := there - _workers(client)) and time.monotonic() < until:
        time.sleep(0.1)
    return bool(lost)


def _await_workers(client: distributed.Client, count: int) -> set[str]:
    """Return who is there, once there are as many as before or no more seem to come."""
    begun = time.monotonic()
    while len(there := _workers(client)) < count:
        if time.monotonic() > begun + (_RETURN_SECONDS if there else _ANY_SECONDS):
            break
        time.sleep(0.2)
    if not there:
        raise ClusterError("training lost all workers", fix="start workers; the same command goes on")
    return there
