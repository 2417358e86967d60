"""What a run says of itself in its folder while it works: ``logs/run.log``, ``progress.json``, ``metrics.prom``.

All three are told again by a thread every few seconds, and none decides anything: where they cannot be written the run
goes on.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from distributed import Client

from engine.errors import EngineError, printable
from engine.files import open_log, write_text
from engine.record import LOGS, METRICS, PROGRESS, RunRecord
from engine.trust import redact
from jobs.progress import utc_now
from jobs.reporter import Reporter

LOG: Final = "run.log"
MAX_LOG_BYTES: Final = 2_000_000
"""Of ``run.log``; what was said before is kept once more, as ``run.log.1``."""

MAX_PROGRESS_BYTES: Final = 1_000_000

TELL_SECONDS: Final = 2.0
"""The files are replaced at most this often."""

SIGN_SECONDS: Final = 20.0
"""And at least this often, as a sign of life."""

WORKERS_SECONDS: Final = 10.0


def plain(text: str) -> str:
    """Return a line without secrets, line ends and what moves a terminal's cursor."""
    return printable(redact(text))


class RunLog:
    """Appends lines with their time to a file that stays small."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, text: str) -> None:
        """Append a line; a disk that is full loses it, and so does a link in its place."""
        with suppress(OSError, EngineError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.is_file() and self.path.stat().st_size > MAX_LOG_BYTES:
                self.path.replace(self.path.with_name(f"{LOG}.1"))
            with open_log(self.path) as file:
                file.write(f"{utc_now()}  {plain(text)}\n".encode())


def dashboard_of(client: Client) -> str:
    """Return where the dashboard of a cluster is, as its scheduler says; empty where there is none."""
    link = plain(str(client.dashboard_link or ""))
    # A scheduler in this process names the machine's address, and serves on loopback.
    inside = client.scheduler is not None and client.scheduler.addr.startswith("inproc://")
    return re.sub("(?<=//)[^/]*(?=:)", "127.0.0.1", link) if inside else link


class Journal:
    """Tells of an open run; ``keep_journal`` begins and ends it."""

    def __init__(self, record: RunRecord, reporter: Reporter, client: Client) -> None:
        self.record, self.reporter, self.client = record, reporter, client
        self.workers = 0
        self.dashboard = dashboard_of(client)
        self._counted, self._told, self._last = 0.0, 0.0, ""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._tell_on, name="journal", daemon=True)

    def content(self, status: str) -> dict[str, Any]:
        """Return what ``progress.json`` holds."""
        progress, brief = self.reporter.progress, self.record.brief()
        stages = list(progress.stages.items())
        line = progress.line()
        return {
            **line,
            "stage": line["stage"] or brief["stage"],
            "run": self.record.folder.name,
            "status": status,
            "stages": {name: {"done": stage.earlier + stage.done, "total": stage.total} for name, stage in stages},
            "seconds": brief["seconds"],
            "bytes_read": progress.bytes_read,
            "lost": brief["lost"],
            "workers": self.workers,
            "dashboard": self.dashboard,
        }

    def tell(self, status: str) -> None:
        """Replace the files; a reader sees the old or the new."""
        content = self.content(status)
        with suppress(EngineError):
            write_text(self.record.folder / PROGRESS, json.dumps(content, indent=1) + "\n")
            write_text(self.record.folder / METRICS, metrics_text(content))

    def begin(self) -> None:
        self.reporter.log(f"begins    in {self.record.folder.name}, with {self.dashboard or 'no dashboard'}")
        self.tell("running")
        self._thread.start()

    def end(self, status: str, reason: str = "") -> None:
        self._over.set()
        self._thread.join(timeout=2 * TELL_SECONDS)
        self.reporter.log(f"{status}{': ' if reason else ''}{reason}")
        self.tell(status)

    def _tell_on(self) -> None:
        while not self._over.wait(TELL_SECONDS):
            # Of a cluster that is being lost: the work tells it, not this.
            with suppress(Exception):
                self._count_workers()
            with suppress(Exception):
                self._tell_news()

    def _count_workers(self) -> None:
        if time.monotonic() - self._counted >= WORKERS_SECONDS:
            self._counted = time.monotonic()
            self.workers = len(self.client.scheduler_info(n_workers=-1)["workers"])

    def _tell_news(self) -> None:
        content = self.content("running")
        news = json.dumps({key: content[key] for key in ("stage", "stages", "lost", "workers")})
        if news != self._last or time.monotonic() - self._told >= SIGN_SECONDS:
            self._last, self._told = news, time.monotonic()
            self.tell("running")


@contextmanager
def keep_journal(record: RunRecord, reporter: Reporter, client: Client) -> Iterator[None]:
    """Keep log, progress and metrics of a run for the block, and how it ended."""
    reporter.log = RunLog(record.folder / LOGS / LOG)
    journal = Journal(record, reporter, client)
    journal.begin()
    try:
        yield
    except BaseException as error:
        failed = isinstance(error, Exception)
        journal.end("failed" if failed else "interrupted", f"{type(error).__name__}: {error}" if failed else "")
        raise
    journal.end("finished")


def read_progress(folder: Path) -> dict[str, Any]:
    """Return what a run said last of its progress; ``{}`` where it said nothing that can be read.

    The file is as untrusted as a record: of each value only its kind is known.
    """
    kinds: dict[str, Callable[[Any], bool]] = {
        "time": lambda value: isinstance(value, str),
        "stage": lambda value: isinstance(value, str),
        "status": lambda value: isinstance(value, str),
        "dashboard": lambda value: isinstance(value, str),
        **dict.fromkeys(
            ("done", "total", "rate", "seconds_left", "workers", "bytes_read", "lost"),
            lambda value: isinstance(value, int | float) and not isinstance(value, bool),
        ),
    }
    try:
        with (folder / PROGRESS).open(encoding="utf-8") as file:
            content = json.loads(file.read(MAX_PROGRESS_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(content, Mapping):
        return {}
    found = {key: content[key] for key, fits in kinds.items() if key in content and fits(content[key])}
    return {key: plain(value)[:200] if isinstance(value, str) else value for key, value in found.items()}


def metrics_text(content: Mapping[str, Any]) -> str:
    """Return progress in Prometheus' text format, as node_exporter's textfile collector reads it.

    References
    ----------
    https://prometheus.io/docs/instrumenting/exposition_formats/
    """
    run = f'run="{content["run"]}"'  # a safe name, so there is nothing to escape
    stages: Mapping[str, Mapping[str, int]] = content["stages"]

    def by_stage(values: Mapping[str, Any]) -> dict[str, Any]:
        # Of an earlier command's record, which is not trusted.
        return {f"{run},stage={json.dumps(name, ensure_ascii=False)}": value for name, value in values.items()}

    families = (
        ("up", "gauge", "1 while a command works on the run.", {run: int(content["status"] == "running")}),
        ("finished", "gauge", "1 once the last command went through.", {run: int(content["status"] == "finished")}),
        ("told_timestamp_seconds", "gauge", "When the run last told of itself.", {run: round(time.time())}),
        (
            "tile_years_done",
            "gauge",
            "Tile-years finished (of history, change and patches: tiles), earlier commands included.",
            by_stage({name: stage["done"] for name, stage in stages.items()}),
        ),
        (
            "tile_years",
            "gauge",
            "Tile-years to do in all.",
            by_stage({name: stage["total"] for name, stage in stages.items()}),
        ),
        ("stage_seconds_total", "counter", "Seconds spent, over all commands.", by_stage(content["seconds"])),
        ("read_bytes_total", "counter", "Bytes of scenes read by this command.", {run: content["bytes_read"]}),
        ("scenes_lost", "gauge", "Scenes of tile-years that could not be read.", {run: content["lost"]}),
        ("workers", "gauge", "Workers of the cluster.", {run: content["workers"]}),
    )
    lines = []
    for name, kind, about, values in families:
        lines += [f"# HELP mangroves_{name} {about}", f"# TYPE mangroves_{name} {kind}"]
        lines += [f"mangroves_{name}{{{labels}}} {value}" for labels, value in values.items()]
    return "\n".join(lines) + "\n"
