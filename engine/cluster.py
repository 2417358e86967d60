"""From a profile of ``cluster.yaml`` to a dask client; the only module that starts processes.

Everything listens on loopback unless a profile names an address elsewhere.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import dask
import dask.utils
import yaml
from distributed import CancelledError, Client, KilledWorker, LocalCluster, as_completed
from distributed.comm import CommClosedError
from distributed.utils import silence_logging_cmgr
from pydantic import Field, ValidationError

from engine.errors import ClusterError, ConfigError, EngineError
from engine.params import Params
from engine.places import ObjectPath, Place, entries

KINDS: Final = ("local", "threads", "address")

REACH_SECONDS: Final = 20
"""To wait for a scheduler elsewhere, and then for its first worker."""

PACKAGED: Final = (
    Path(__file__).resolve().parents[1] / "cluster.yaml",
    Path(sys.prefix) / "share" / "mangroves" / "cluster.yaml",
)
"""The default profiles: in a checkout, and where a wheel puts them."""

WORKER_ENVIRONMENT: Final = {
    # One task a thread: nothing below it may start threads of its own, or spin while it waits for them.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",
    # Dask's default trims the heap at every freed 64 KiB: blocks are then paged in again and again, and
    # rendering one simulated region took 10.4 s in place of 4.4, 6.0 of them in the kernel.
    "MALLOC_TRIM_THRESHOLD_": str(256 * 2**20),
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
}
"""Of local worker processes."""


_FIX_FOLDER: Final = "use a shared mount that client and workers see under the same path, or set store to a bucket"
_FIX_STORE: Final = "start workers with the client's AWS_* or AZURE_*: credentials, endpoint, region, account"


class Profile(Params):
    """One entry of ``cluster.yaml``."""

    kind: Literal["local", "threads", "address"]
    """``local``: worker processes on this machine; ``threads``: this process; ``address``: a running scheduler."""

    workers: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Worker processes (local) or threads (threads); default one a core."""

    threads_per_worker: Annotated[int, Field(ge=1, le=256)] = 1

    memory_limit: str | None = None
    """A worker's memory, e.g. ``8GiB``; default the machine's memory shared out."""

    address: str | None = None
    """``tcp://host:port`` or ``tls://host:port`` of the scheduler, for kind ``address``."""

    dashboard: str | None = None
    """``host:port``; loopback only. Default none is started."""


def read_profiles(cluster_file: Path | None) -> tuple[dict[str, Profile], Path]:
    """Read ``cluster.yaml``: the file given, else the one in the working folder, else the packaged default.

    Raises
    ------
    ConfigError
        If the file is missing, is not YAML, or a profile is not valid.
    """
    path = cluster_file or next((path for path in (Path("cluster.yaml"), *PACKAGED) if path.is_file()), PACKAGED[-1])
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cluster file {path} cannot be read", fix="check --cluster-file") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"cluster file {path} is not YAML", fix=" ".join(str(error).split())[:200]) from error
    if not isinstance(content, dict) or not isinstance(content.get("profiles"), dict):
        raise ConfigError(f"cluster file {path} has no 'profiles:' mapping", fix="see the packaged cluster.yaml")
    profiles = {}
    for name, body in content["profiles"].items():
        try:
            profiles[str(name)] = Profile.model_validate(body)
        except ValidationError as error:
            first = error.errors()[0]
            where = "".join(f"{part}: " for part in first["loc"])
            raise ConfigError(
                f"cluster file {path}: profile {name!r}: {where}{first['msg']}",
                fix=f"kinds are {', '.join(KINDS)}; keys are {', '.join(Profile.model_fields)}",
            ) from None
    return profiles, path


@contextmanager
def open_cluster(name: str, cluster_file: Path | None = None) -> Iterator[Client]:
    """Open the client of a profile, and close what was started.

    Raises
    ------
    ConfigError
        If there is no such profile.
    ClusterError
        If the cluster cannot be started or reached, has no worker, or is lost inside the block.
    """
    profiles, path = read_profiles(cluster_file)
    if name not in profiles:
        raise ConfigError(f"no cluster profile {name!r} in {path}", fix=f"known are {', '.join(sorted(profiles))}")
    profile = profiles[name]
    settings = {
        "distributed.comm.timeouts.connect": f"{REACH_SECONDS}s",
        "distributed.worker.daemon": False,
        # A tile-year task is large by design: neither warn of it nor let a busy loop look like a fault.
        "distributed.admin.tick.limit": "60s",
        "distributed.nanny.pre-spawn-environ": WORKER_ENVIRONMENT,
    }
    # What a task raises is told once, by the client; dask's own log of it is a traceback for every worker.
    with dask.config.set(settings), silence_logging_cmgr(logging.CRITICAL):
        try:
            cluster, client = _start(profile)
        except (OSError, RuntimeError, TimeoutError, ValueError) as error:
            raise ClusterError(
                f"cluster profile {name!r} cannot be opened ({type(error).__name__}: {str(error)[:160]})",
                fix="check address and memory_limit in cluster.yaml",
            ) from error
        try:
            yield client
        except KilledWorker as error:
            raise ClusterError(
                f"worker {error.last_worker.address} died, as others did before it at the same task",
                fix="it is likely out of memory: raise memory_limit, use fewer workers, or lower cube.block_px",
            ) from error
        except (CancelledError, CommClosedError) as error:
            raise ClusterError(
                f"the cluster of profile {name!r} was lost ({type(error).__name__})",
                fix="see to its scheduler and workers, then run the same command again",
            ) from error
        finally:
            client.close()
            if cluster is not None:
                cluster.close()


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


def _start(profile: Profile) -> tuple[LocalCluster | None, Client]:
    # Before anything starts: a cluster that fails half-way may wait for minutes.
    if profile.memory_limit not in (None, "auto"):
        dask.utils.parse_bytes(profile.memory_limit)
    if profile.kind == "address":
        scheme, _, rest = (profile.address or "").partition("://")
        if scheme not in ("tcp", "tls") or not rest.rpartition(":")[2].isdigit():
            raise ValueError(f"kind address needs address: tcp://host:port, got {profile.address!r}")
        client = Client(profile.address, timeout=REACH_SECONDS)
        try:
            client.wait_for_workers(1, timeout=REACH_SECONDS)
        except TimeoutError:
            client.close()
            raise TimeoutError(f"scheduler {profile.address} has no worker") from None
        return None, client
    if profile.dashboard and profile.dashboard.rsplit(":", 1)[0] not in ("127.0.0.1", "localhost"):
        raise ValueError(f"dashboard must be on 127.0.0.1, got {profile.dashboard}")
    processes = profile.kind == "local"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = profile.workers or cores
    cluster = None
    try:
        with _interrupts_held():
            cluster = LocalCluster(
                n_workers=count if processes else 1,
                threads_per_worker=profile.threads_per_worker if processes else count,
                processes=processes,
                memory_limit=profile.memory_limit or "auto",
                host="127.0.0.1" if processes else None,  # threads speak through memory and bind nothing
                # dashboard_address=None would still bind a port.
                dashboard_address=profile.dashboard or "127.0.0.1:0",
                # By default a worker in this process serves its own on every interface.
                worker_dashboard_address="127.0.0.1:0",
                silence_logs=logging.CRITICAL,
            )
        return cluster, Client(cluster)
    except BaseException:
        if cluster is not None:
            cluster.close()
        raise


def worker_count(client: Client) -> int:
    """Return how many tasks run at once."""
    return max(1, sum(worker["nthreads"] for worker in _workers(client)))


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
        The first error of a call; the others are cancelled.
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
        future = client.submit(_call, function, *(sent.get(id(one), one) for one in arguments), pure=False)
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


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    """Run a task's function on a worker; its error travels alone.

    What lies behind it is often GDAL's, which cannot be unpickled and may hold a signed address.
    """
    try:
        return function(*arguments)
    except (EngineError, OSError) as error:
        error.__cause__ = error.__context__ = None
        raise


def check_visible(client: Client, outputs: Place) -> None:
    """Check that every worker reads what the client writes in a folder or store, and the reverse.

    Raises
    ------
    ClusterError
        Naming the worker that does not, and what it was told, or that cannot run this software.
    """
    word = secrets.token_hex(8)
    probe, elsewhere = outputs / f".probe-{word}", isinstance(outputs, ObjectPath)
    try:
        if not isinstance(outputs, ObjectPath):
            outputs.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(word.encode())
        for address, answer in client.run(_answer_probe, probe, word, on_error="return").items():
            if isinstance(answer, Exception):
                raise ClusterError(
                    f"worker {address} cannot run this software ({str(answer)[:160]})",
                    fix="install the same version of mangroves where workers run",
                )
            reply, reason = answer
            if reply is None or not _reads(reply, word):
                raise ClusterError(
                    f"output {outputs} is not visible from worker {address} ({reason or 'it writes elsewhere'})",
                    fix=_FIX_STORE if elsewhere else _FIX_FOLDER,
                )
    except OSError as error:
        raise ClusterError(
            f"output {outputs} cannot be written from here ({error.strerror})",
            fix="see to its bucket, and to AWS_* or AZURE_* here" if elsewhere else "choose another out",
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
