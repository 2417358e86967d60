"""From a profile of ``cluster.yaml`` to a dask client, and work on it, a bounded number of tasks at a time.

Everything listens on loopback unless a profile asks for more.
"""

from __future__ import annotations

import logging
import secrets
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, Final

import dask
from distributed import CancelledError, Client, KilledWorker, as_completed, get_worker
from distributed.comm import CommClosedError
from distributed.scheduler import NoValidWorkerError
from distributed.utils import silence_logging_cmgr

from engine.code import difference, software
from engine.errors import ClusterError, EngineError
from engine.launch import REACH_SECONDS, Launched, launch, settings_of, threads_of
from engine.places import ObjectPath, Place, entries
from engine.profiles import Profile, pick_profile
from engine.trust import redact

_PROMISED: Final = "mangroves.threads"
"""Where dask's configuration says how many threads the open profile comes to in the end."""

_WAIT_MINUTES: Final = {"slurm": 60, "pbs": 60, "gateway": 10, "kubernetes": 10, "cloud": 20}
_SAY_SECONDS: Final = 60
_FIX_FOLDER: Final = "use a shared mount that client and workers see under the same path, or set store to a bucket"
_FIX_SOFTWARE: Final = "install the same mangroves and requirements.lock where workers run"
_FIX_STORE: Final = "start workers with the client's AWS_* or AZURE_*: credentials, endpoint, region, account"


@contextmanager
def open_cluster(
    name: str, cluster_file: Path | None = None, *, say: Callable[[str], None] = lambda line: None
) -> Iterator[Client]:
    """Open the client of a profile, and close what was started.

    Parameters
    ----------
    name : str
        Of a profile of ``cluster.yaml``.
    cluster_file : Path, optional
        As in ``read_profiles``.
    say : callable
        Told what is waited for.

    Raises
    ------
    ConfigError
        If there is no such profile, or it is not valid.
    ClusterError
        If the cluster cannot be started or reached, has no worker, or is lost inside the block.
    """
    profile = pick_profile(name, cluster_file)
    # What a task raises is told once, by the client; dask's own log of it is a traceback for every worker.
    settings = {**settings_of(profile), _PROMISED: threads_of(profile)}
    launched: Launched | None = None
    with dask.config.set(settings), silence_logging_cmgr(logging.CRITICAL):
        try:
            with _told_in_one_line(name), _interrupts_held(), warnings.catch_warnings():
                # In a table; ``check_software`` says it in a line.
                warnings.filterwarnings("ignore", "Mismatched versions")
                launched = launch(profile)
            # Ctrl-C that was held back is raised by now: what was started is closed all the same.
            with _told_in_one_line(name):
                _await_worker(launched, profile, name, say)
            yield launched.client
        except KilledWorker as error:
            raise ClusterError(
                f"worker {error.last_worker.address} died, as others did before it at the same task",
                fix="it is likely out of memory: raise memory_limit, use fewer workers, or lower cube.block_px",
            ) from error
        except (CancelledError, CommClosedError, NoValidWorkerError) as error:
            raise ClusterError(
                f"the cluster of profile {name!r} was lost ({type(error).__name__})",
                fix="see to its scheduler and workers, then run the same command again",
            ) from error
        finally:
            if launched is not None:
                launched.client.close()
                if launched.cluster is not None:
                    launched.cluster.close()


@contextmanager
def _told_in_one_line(name: str) -> Iterator[None]:
    """Tell what some package raises while a cluster starts as an error of ours: each has its own."""
    try:
        yield
    except EngineError:
        raise
    except Exception as error:
        reason = redact(" ".join(str(error).split()))
        raise ClusterError(
            f"cluster profile {name!r} cannot be opened ({type(error).__name__}: {reason[:200]})",
            fix=f"see what it asks for with `mangroves cluster show {name}`, and mangroves doctor",
        ) from error


def wait_minutes(profile: Profile) -> float:
    """Return how long the first worker of a profile is waited for."""
    return float(getattr(profile, "wait_minutes", 0) or _WAIT_MINUTES.get(profile.kind, REACH_SECONDS / 60))


def _await_worker(launched: Launched, profile: Profile, name: str, say: Callable[[str], None]) -> None:
    """Wait for the first worker, saying so; those of a batch scheduler or a cloud may take their time."""
    minutes = wait_minutes(profile)
    begun = said = time.monotonic()
    while (waited := time.monotonic() - begun) < minutes * 60:
        with suppress(TimeoutError):
            return launched.client.wait_for_workers(1, timeout=min(2, minutes * 60 - waited) or 0.1)
        if launched.refused:
            raise launched.refused[0]
        if waited < 3 or time.monotonic() - said >= _SAY_SECONDS:
            said = time.monotonic()
            say(f"waiting for the first worker of profile {name} ({waited / 60:.0f} of at most {minutes:.0f} minutes)")
    raise ClusterError(
        f"cluster profile {name!r} cannot be opened (its scheduler has no worker after {waited:.0f} s)",
        fix="see to its workers and their logs, or raise wait_minutes where a queue is longer",
    )


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back until the block ends, and for good from the threads and processes started in it.

    A terminal sends it to every process: workers would each print a traceback, and what is half-started cannot
    be closed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # a notebook or server: Python gives Ctrl-C to its main thread
        return
    resource_tracker.ensure_running()  # started inside, it would lift the mask
    held: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, _: held.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
        for number in held[:1]:
            signal.raise_signal(number)


def worker_count(client: Client) -> int:
    """Return how many tasks run at once, when all workers that the open profile asks for have come."""
    return max(1, dask.config.get(_PROMISED, 0), sum(worker["nthreads"] for worker in _workers(client)))


def worker_bytes(client: Client) -> int | None:
    """Return the memory one task may use: the least of a worker's limit over its threads; None if unlimited."""
    limits = [worker["memory_limit"] // worker["nthreads"] for worker in _workers(client) if worker["memory_limit"]]
    return min(limits) if limits else None


def _workers(client: Client) -> list[dict[str, Any]]:
    return list(client.scheduler_info(n_workers=-1)["workers"].values())


def run_bounded(
    client: Client,
    function: Callable[..., Any],
    calls: Iterable[tuple[Any, ...]],
    *,
    shared: Iterable[Any] = (),
    in_flight: int | None = None,
) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Run a function over many argument tuples, a bounded number at a time, and yield results as they finish.

    The scheduler never holds more than ``in_flight`` tasks, however large the area.

    Parameters
    ----------
    client : Client
    function : callable
        Importable by the workers.
    calls : iterable of tuple
        Arguments of each call.
    shared : iterable
        Objects that many calls have among their arguments, such as the outline of a coast: each worker fetches them
        once, in place of every task bringing its own.
    in_flight : int, optional
        Default twice the number of worker threads.

    Yields
    ------
    (tuple, object)
        The arguments and what the function returned, in order of finishing.

    Raises
    ------
    Exception
        The first error of a call; the others are cancelled. ClusterError where a worker is of other software, also
        one that came late.
    """
    limit = in_flight or 2 * worker_count(client)
    pending: dict[Any, tuple[Any, ...]] = {}
    running = as_completed([], with_results=False)
    source = iter(calls)
    # As tasks of their own, not scattered: what a worker that dies had of them is made anew.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sending large graph")  # once, and on purpose
        sent = {id(thing): client.submit(_same, thing, pure=False) for thing in shared if thing is not None}

    def submit_next() -> bool:
        arguments = next(source, None)
        if arguments is None:
            return False
        key = f"{getattr(function, '__name__', 'call')}-{secrets.token_hex(8)}"  # as dashboard and reports name it
        sends = (sent.get(id(one), one) for one in arguments)
        future = client.submit(_call, software(), function, *sends, key=key, pure=False)
        pending[future.key] = arguments
        running.add(future)
        return True

    try:
        while len(pending) < limit and submit_next():
            pass
        for future in running:
            result = future.result()
            yield pending.pop(future.key), result
            future.release()
            submit_next()
    except BaseException:
        client.cancel(list(running.futures), force=True)
        raise


def _same(thing: Any) -> Any:
    return thing


def _call(expected: dict[str, str], function: Callable[..., Any], *arguments: Any) -> Any:
    """Run a task's function on a worker of the client's software; its error travels alone.

    What lies behind it is often GDAL's, which cannot be unpickled and may hold a signed address.
    """
    if differs := difference(software(), expected):
        raise ClusterError(f"worker {get_worker().address} is of other software ({differs})", fix=_FIX_SOFTWARE)
    try:
        return function(*arguments)
    except (EngineError, OSError) as error:
        error.__cause__ = error.__context__ = None
        raise


def check_software(client: Client) -> None:
    """Check that scheduler and workers run the client's code, and versions of what decides a result.

    Raises
    ------
    ClusterError
        Naming the one that does not, and what differs.
    """
    try:
        answers = {"the scheduler": client.run_on_scheduler(software)}
    except (ImportError, AttributeError, TypeError) as error:
        answers = {"the scheduler": error}
    answers |= {f"worker {at}": answer for at, answer in client.run(software, on_error="return").items()}
    for who, answer in answers.items():
        if isinstance(answer, Exception):
            reason = redact(" ".join(str(answer).split()))
            raise ClusterError(f"{who} cannot run this software ({reason[:160]})", fix=_FIX_SOFTWARE)
        if differs := difference(answer, software()):
            raise ClusterError(f"{who} is of other software ({differs})", fix=_FIX_SOFTWARE)


def check_visible(client: Client, outputs: Place) -> None:
    """Check that workers are of the client's software, read what it writes in a folder or store, and the reverse.

    Raises
    ------
    ClusterError
        Naming the worker that is not or does not, and what it was told.
    """
    check_software(client)
    word = secrets.token_hex(8)
    probe, elsewhere = outputs / f".probe-{word}", isinstance(outputs, ObjectPath)
    try:
        if not isinstance(outputs, ObjectPath):
            outputs.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(word.encode())
        for address, answer in client.run(_answer_probe, probe, word, on_error="return").items():
            if isinstance(answer, Exception):
                raise ClusterError(f"worker {address} was lost ({str(answer)[:160]})", fix="run the same command again")
            reply, reason = answer
            if reply is None or not _reads(reply, word):
                raise ClusterError(
                    f"output {outputs} is not visible from worker {address} ({reason or 'it writes elsewhere'})",
                    fix=_FIX_STORE if elsewhere else _FIX_FOLDER,
                )
    except OSError as error:
        raise ClusterError(
            f"output {outputs} cannot be written from here ({error.strerror})",
            fix="see to its bucket, and to AWS_* or AZURE_* here" if elsewhere else "free space or choose another out",
        ) from error
    finally:
        with suppress(OSError):
            for leftover in entries(outputs)[1]:
                if leftover.name.startswith(probe.name):
                    leftover.unlink(missing_ok=True)


def _answer_probe(probe: Place, word: str) -> tuple[Place | None, str]:
    """Read the client's probe and leave a reply beside it: where, or why not; runs on every worker."""
    reply = probe.with_name(f"{probe.name}-{secrets.token_hex(4)}")
    try:
        if probe.read_bytes() != word.encode():
            return None, "it reads something else there"
        reply.write_bytes(word.encode())
    except OSError as error:
        return None, str(error.strerror)
    return reply, ""


def _reads(reply: Place, word: str) -> bool:
    try:
        return reply.read_bytes() == word.encode()
    except FileNotFoundError:
        return False
