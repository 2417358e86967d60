"""The driver of a run: the process that hands out its tasks. Where it runs is kept in ``driver.json``; from there it is
found again, started for itself (``--detach``) and stopped.

What is read from a run's folder is not trusted: an id must have the form of one, a process is the driver only while it
holds the lock of this very folder, and a batch job only while it has the name made for this folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import psutil
from pydantic import Field, ValidationError, model_validator

from engine.errors import ClusterError, ConfigError, StoreError
from engine.files import cannot_read, open_log, write_text
from engine.params import Params
from engine.profiles import PbsProfile, SlurmProfile, walltime_seconds, walltime_text
from engine.record import DRIVER, LOGS
from engine.trust import redact
from jobs.progress import utc_now

TAKE_OVER_SECONDS: Final = 120
"""To wait until a process that was started holds the run, on top of what its first worker may take."""

STOP_SECONDS: Final = 120
"""To wait until a driver that was asked to stop has done so."""

_ASK_SECONDS: Final = 30
"""For an answer of a batch scheduler."""

_ENDED: Final = frozenset(
    {"", "C", "F", "COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "PREEMPTED"}
    | {"BOOT_FAIL", "DEADLINE", "LAUNCH_FAILED", "REVOKED"}
)
"""States of a job of SLURM or PBS that does not run any more."""

_NO_SUCH_JOB: Final = re.compile(r"invalid job id|unknown job|has finished", re.IGNORECASE)
"""What ``squeue`` and ``qstat`` say of a job they have forgotten; anything else is a scheduler that cannot tell."""

_MAX_BYTES: Final = 100_000
_START_TOLERANCE_S: Final = 2.0
_FIX: Final = "delete it; a driver that still works is found by its process or job alone"

Host = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,252}$")]
JobId = Annotated[str, Field(pattern=r"^[0-9]{1,18}(\.[A-Za-z0-9][A-Za-z0-9._-]{0,100})?$")]
Line = Annotated[str, Field(max_length=4096)]


class Driver(Params):
    """What is known of the driver that worked last."""

    kind: Literal["process", "slurm", "pbs"]

    host: Host | None = None
    """Where its process runs; of a job None until it has begun."""

    pid: Annotated[int, Field(gt=1, lt=2**31)] | None = None
    started: Annotated[float, Field(gt=0, lt=1e11)] | None = None
    """When its process began: Unix seconds."""

    job: JobId | None = None
    cluster: Annotated[str, Field(max_length=128)]
    """Profile it works with."""

    command: Annotated[tuple[Line, ...], Field(max_length=1000)]
    when: Annotated[str, Field(pattern=r"^[0-9T:+-]{10,40}$")]
    """When it was noted, UTC."""

    log: Annotated[str, Field(pattern=r"^driver-[0-9TZ]{1,40}\.log$")] | None = None
    """Below ``logs/``; None of a command in a terminal."""

    @model_validator(mode="after")
    def _whole(self) -> Driver:
        if self.kind == "process" and None in (self.host, self.pid, self.started):
            raise ValueError("a process has host, pid and started")
        if self.kind != "process" and self.job is None:
            raise ValueError("a job has an id")
        return self

    @property
    def name(self) -> str:
        """What a person calls it."""
        where = f" on {self.host}" if self.host else ""
        return f"process {self.pid}{where}" if self.kind == "process" else f"{self.kind} job {self.job}{where}"


def read_driver(folder: Path) -> Driver | None:
    """Return the driver noted in a run's folder, None where none is.

    Raises
    ------
    StoreError
        If the note is not one of ours.
    """
    path = folder / DRIVER
    try:
        with path.open(encoding="utf-8") as file:
            return Driver.model_validate(json.loads(file.read(_MAX_BYTES)))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise cannot_read(path, error) from error
    except (ValueError, RecursionError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else type(error).__name__
        raise StoreError(f"{path} is damaged ({reason})", fix=_FIX) from None


def write_driver(folder: Path, driver: Driver) -> None:
    """Note a driver in a run's folder."""
    write_text(folder / DRIVER, json.dumps(driver.model_dump(mode="json"), indent=1) + "\n")


def note_driver(folder: Path, cluster: str, command: Sequence[str]) -> None:
    """Note this process as the driver of a run whose lock it holds; of a submitted job where it runs now."""
    try:
        before = read_driver(folder)
    except StoreError:
        before = None
    me = psutil.Process()
    here: dict[str, Any] = {"host": socket.gethostname(), "pid": me.pid, "started": me.create_time()}
    if before is not None and _is_this_job(before):
        write_driver(folder, before.model_copy(update=here))
        return
    words, log = tuple(redact(word)[:4096] for word in command[:1000]), os.environ.get(_LOG_VARIABLE)
    note = {"kind": "process", "cluster": cluster, "command": words, "when": utc_now(), "log": log, **here}
    write_driver(folder, Driver.model_validate(note))


def _is_this_job(driver: Driver) -> bool:
    """Tell whether this process runs in the batch job of a driver; some PBS name their server differently in it."""
    ours = os.environ.get({"slurm": "SLURM_JOB_ID", "pbs": "PBS_JOBID"}.get(driver.kind, ""), "").partition(".")[0]
    return driver.job is not None and driver.job.partition(".")[0] == ours


def check_free(folder: Path) -> None:
    """Refuse a run whose submitted driver may be waiting, for which no process holds the lock yet.

    Raises
    ------
    StoreError
        If there is one, and this is not it.
    """
    try:
        driver = read_driver(folder)
    except StoreError:
        return  # damaged; who works holds the lock
    if driver is None or driver.kind == "process" or _is_this_job(driver):
        return
    if state_of(driver, folder) in ("running", "pending"):
        raise StoreError(f"{driver.name} drives {folder}", fix="wait for it, or mangroves cancel it")


_LOG_VARIABLE: Final = "MANGROVES_DRIVER_LOG"
"""Tells a detached process the name of its log."""


def state_of(driver: Driver, folder: Path) -> str:
    """Return how a driver is: ``running``, ``pending``, ``ended``, or ``elsewhere`` where this machine cannot tell."""
    if driver.kind != "process":
        return _job_state(driver, folder)
    if driver.host != socket.gethostname():
        return "elsewhere"
    return "running" if _process(driver, folder) is not None else "ended"


def _process(driver: Driver, folder: Path) -> psutil.Process | None:
    """Return the process of a driver of this host; None unless it is the very one and holds the folder's lock."""
    lock = (folder.resolve().parent / f".{folder.resolve().name}.lock").resolve()
    try:
        process = psutil.Process(driver.pid)
        same = abs(process.create_time() - (driver.started or 0)) < _START_TOLERANCE_S
        alive = process.status() != psutil.STATUS_ZOMBIE
        holds = same and alive and any(Path(file.path).resolve() == lock for file in process.open_files())
    except (psutil.Error, OSError):
        return None
    return process if holds else None


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def job_name(folder: Path) -> str:
    """Return the name of a batch job that drives a run: no other folder's job has it.

    >>> job_name(Path("/scratch/runs/coast"))
    'mangroves-3f1dd'
    """
    # Old PBS takes 15 characters.
    return f"mangroves-{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:5]}"


def _job_state(driver: Driver, folder: Path) -> str:
    assert driver.job is not None
    if driver.kind == "slurm":
        answer = _ask(["squeue", "--noheader", "--jobs", driver.job, "--format", "%T|%j"])
        state, _, name = (answer or "").strip().partition("|")
    else:
        answer = _ask(["qstat", "-f", driver.job])
        found = dict(re.findall(r"^\s*(Job_Name|job_state) = (\S+)", answer or "", re.MULTILINE))
        name, state = found.get("Job_Name", ""), found.get("job_state", "")
    if answer is None:
        return "elsewhere"
    if name != job_name(folder):
        return "ended"
    if state in ("RUNNING", "COMPLETING", "R", "E"):
        return "running"
    return "ended" if state in _ENDED else "pending"


def _ask(command: Sequence[str]) -> str | None:
    """Return what a batch scheduler's command prints, ``""`` if it knows no such job; None where it cannot tell."""
    try:
        done = _run(command)
    except FileNotFoundError:
        return None
    if done.returncode == 0:
        return done.stdout
    return "" if _NO_SUCH_JOB.search(done.stderr) else None


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a command of a batch scheduler, in bounded time."""
    try:
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_ASK_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise ClusterError(f"{command[0]} does not answer within {_ASK_SECONDS} s", fix="try again later") from None


def stop(driver: Driver, folder: Path) -> bool:
    """Ask a driver to stop as Ctrl-C does, and wait; tell whether it ended in time.

    Raises
    ------
    ClusterError
        If it runs where it cannot be asked from here.
    """
    state = state_of(driver, folder)
    if state == "ended":
        return True
    if state == "elsewhere":
        where = f"host {driver.host}" if driver.kind == "process" else f"a {driver.kind} cluster"
        raise ClusterError(f"the driver of {folder} runs on {where}", fix="run mangroves cancel there")
    process = _process(driver, folder) if driver.kind == "process" else None
    if process is not None:
        process.send_signal(signal.SIGINT)
    elif driver.kind == "slurm":
        # The script became the driver: it hears the signal, closes its cluster and says so. What waits is removed.
        gently = ["--batch", "--signal=INT"] if state == "running" else []
        _ask(["scancel", *gently, str(driver.job)])
    elif driver.kind == "pbs":
        _ask(["qdel", str(driver.job)])
    deadline = time.monotonic() + STOP_SECONDS
    # A process frees the run first and then closes its cluster.
    while _is_alive(process) if process is not None else state_of(driver, folder) != "ended":
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2 if driver.kind == "process" else 2)
    return True


# Starting one


def log_name() -> str:
    """Return a name for the log of a driver that starts now."""
    return f"driver-{re.sub('[^0-9T]', '', utc_now()[:19])}Z.log"


def _program(python: str | None = None) -> list[str]:
    # -P: a folder named jobs where the command is typed is not ours.
    return [python or sys.executable, "-P", "-m", "jobs"]


def start_process(folder: Path, words: Sequence[str], log: str, *, worker_minutes: float) -> Driver:
    """Start a driver as a process of its own session on this machine, and wait until it holds the run.

    That takes as long as the first worker of its cluster may take, ``worker_minutes``, and a little more.

    Raises
    ------
    ClusterError
        With what it said last, if it ends before.
    """
    path = folder / LOGS / log
    with open_log(path) as output:
        process = subprocess.Popen(
            [*_program(), *words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, _LOG_VARIABLE: log},
            preexec_fn=_heed_interrupts,
        )
    seconds = TAKE_OVER_SECONDS + 60 * worker_minutes
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with suppress(StoreError):  # a damaged note of an earlier driver, which this one is about to replace
            driver = read_driver(folder)
            if driver is not None and driver.pid == process.pid:
                return driver
        if process.poll() is not None:
            said = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
            problem = said[0].removeprefix("error: ") if said else f"exit code {process.returncode}"
            raise ClusterError(f"the driver ended at once: {redact(problem)}", fix=f"see {path}")
        time.sleep(0.1)
    raise ClusterError(f"the driver, process {process.pid}, has not begun within {seconds:.0f} s", fix=f"see {path}")


def _heed_interrupts() -> None:
    """A shell has its background jobs ignore SIGINT, by which a driver is asked to stop."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def submit_job(
    profile: SlurmProfile | PbsProfile, folder: Path, words: Sequence[str], log: str, cluster: str
) -> Driver:
    """Submit a driver as a batch job; its script lies beside its log.

    Raises
    ------
    ClusterError
        If the batch scheduler is not there, or takes no job.
    """
    script = folder.resolve() / LOGS / log.replace(".log", ".sh")
    write_text(script, batch_script(profile, folder, words, log))
    command = ["sbatch", "--parsable", str(script)] if profile.kind == "slurm" else ["qsub", "-V", str(script)]
    try:
        done = _run(command)
    except FileNotFoundError:
        raise ClusterError(f"{command[0]} is not on this machine", fix="submit from a login node") from None
    answer = done.stdout.strip().partition(";")[0]
    if done.returncode or not re.fullmatch(r"[0-9]{1,18}(\.[A-Za-z0-9._-]{1,100})?", answer):
        said = " ".join((done.stderr or done.stdout).split())[:200]
        fix = f"see queue, account, walltime and directives of profile {cluster!r} in cluster.yaml"
        raise ClusterError(f"{command[0]} took no job ({redact(said)})", fix=fix)
    kept = tuple(word[:4096] for word in words[:1000])
    driver = Driver(kind=profile.kind, job=answer, cluster=cluster, command=kept, when=utc_now(), log=log)
    write_driver(folder, driver)
    return driver


def batch_script(profile: SlurmProfile | PbsProfile, folder: Path, words: Sequence[str], log: str) -> str:
    """Return the script of a batch job that becomes the driver, as the profile asks for its jobs.

    Raises
    ------
    ConfigError
        If the user's own settings of dask would put a secret into it.
    """
    memory = profile.memory_limit or profile.setting("memory")
    asked: Mapping[str, Any]
    nowhere: tuple[str, ...]
    if profile.kind == "slurm":
        mark, nowhere = "#SBATCH", ("--output=/dev/null",)
        asked = {
            "--job-name=": job_name(folder),
            "--partition=": profile.queue or profile.setting("queue"),
            "--account=": profile.account or profile.setting("account"),
            "--time=": _walltime(profile),
            "--mem=": memory and f"{_megabytes(memory)}M",
        }
    else:
        mark, nowhere = "#PBS", ("-j oe", "-o /dev/null")
        asked = {
            "-N ": job_name(folder),
            "-q ": profile.queue or profile.setting("queue"),
            "-A ": profile.account or profile.setting("account"),
            "-l walltime=": _walltime(profile),
            "-l select=1:ncpus=1:mem=": memory and f"{_megabytes(memory)}mb",
        }
    output = shlex.quote(str(folder.resolve() / LOGS / log))
    setup = profile.setup or profile.setting("job-script-prologue") or ()
    if any(redact(line) != line for line in setup):
        raise ConfigError(
            f"jobqueue.{profile.kind}.job-script-prologue in ~/.config/dask holds a secret, and the script of a "
            "detached driver is kept with the run",
            fix="export it where the command is typed, whose environment the driver has",
        )
    lines = [
        "#!/bin/sh",
        *(f"{mark} {option}" for option in nowhere),
        *(f"{mark} {option}{value}" for option, value in asked.items() if value),
        *(f"{mark} {line}" for line in profile.directives or profile.setting("job-extra-directives") or ()),
        f"exec >>{output} 2>&1",
        f"cd {shlex.quote(str(Path.cwd()))} || exit 1",
        *setup,
        # The shell becomes the driver, so that a signal for the job is one for it.
        f"exec {shlex.join([*_program(profile.python or profile.setting('python')), *words])}",
    ]
    return "\n".join(lines) + "\n"


def _walltime(profile: SlurmProfile | PbsProfile) -> str | None:
    """Return a walltime as both schedulers read it."""
    text = profile.walltime or profile.setting("walltime")
    if not text:
        return None
    return walltime_text(walltime_seconds(str(text)))


def _megabytes(memory: str) -> int:
    from dask.utils import parse_bytes

    return -(-int(parse_bytes(memory)) // 2**20)


def check_words(words: Sequence[str]) -> None:
    """Refuse a command that may not be kept in a file.

    Raises
    ------
    ConfigError
        If a word carries a signature or token, or is not one line.
    """
    for word in words:
        if redact(word) != word:
            raise ConfigError(
                "an option of a detached run carries a signature or token",
                fix="addresses are signed when they are read",
            )
        if not word.isprintable():
            raise ConfigError(f"an option of a detached run is not one line: {word[:80]!r}", fix="write it in CONFIG")
