"""Dask's report of where a command's time went, saved with the run."""

from __future__ import annotations

import importlib.util
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distributed import Client, performance_report

from engine.errors import ConfigError
from engine.files import write_text
from engine.trust import redact
from jobs.progress import utc_now


def check_performance() -> None:
    """Refuse a report that cannot be drawn.

    Raises
    ------
    ConfigError
        Without bokeh.
    """
    if importlib.util.find_spec("bokeh") is None:
        raise ConfigError("--performance-report needs bokeh", fix="pip install 'mangroves[dashboard]'")


@contextmanager
def keep_performance(client: Client, folder: Path) -> Iterator[Path]:
    """Write ``performance-<UTC time>.html`` of what the cluster did in the block; yield its path.

    It names tasks, functions and workers, and never the arguments of a task; it passes through ``redact`` all the same,
    as lines of the scheduler's log are in it.

    A cluster that is lost leaves none: what ended the run is told instead.
    """
    path = folder / f"performance-{re.sub('[^0-9T]', '', utc_now()[:19])}Z.html"
    with client.as_current(), tempfile.TemporaryDirectory(prefix="mangroves-") as scratch:
        file = Path(scratch, path.name)
        try:
            with performance_report(filename=str(file)):
                yield path
        finally:
            if file.is_file():
                write_text(path, redact(file.read_text(encoding="utf-8")))
