"""``mangroves logs``: what a run said while it worked."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

from engine.errors import StoreError
from engine.files import cannot_read
from engine.record import LOGS
from jobs.driver import read_driver, state_of
from jobs.journal import LOG, plain

FOLLOW_SECONDS: Final = 0.5
DRIVER_LOG: Final = re.compile(r"driver-[0-9TZ]{1,40}\.log")


@click.command("logs")
@click.argument("run", type=click.Path(path_type=Path), metavar="RUN")
@click.option("-n", "lines", type=click.IntRange(1, 1_000_000), default=50, show_default=True, help="Last lines.")
@click.option("--follow", is_flag=True, help="Go on until the driver of the run ends.")
@click.option("--driver", is_flag=True, help="What the last detached driver printed, from before the run was open.")
def command(run: Path, lines: int, follow: bool, driver: bool) -> None:
    """Print what a run said, with the time, UTC.

    RUN is the folder of the run.
    """
    path = newest_driver_log(run) if driver else run / LOGS / LOG
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in deque(file, maxlen=lines):
                click.echo(plain(line.rstrip("\n")))
            for line in news(run, path, file.tell()) if follow else ():
                click.echo(plain(line))
    except FileNotFoundError:
        fix = "name the folder of a run that was begun; of a detached one that did not begin see --driver"
        raise StoreError(f"{path} is not there", fix=fix) from None
    except OSError as error:
        raise cannot_read(path, error) from error


def newest_driver_log(run: Path) -> Path:
    """Return the log of the driver that was detached last."""
    folder = run / LOGS
    found = sorted(path for path in folder.glob("driver-*.log") if DRIVER_LOG.fullmatch(path.name))
    if not found:
        raise StoreError(f"no driver of {run} was detached", fix="see mangroves logs without --driver")
    return found[-1]


def news(run: Path, path: Path, position: int) -> Iterator[str]:
    """Yield the lines that are added to a log until nothing drives the run; a log that begins anew is read anew."""
    rest, over = "", False
    while True:
        if path.is_file() and path.stat().st_size < position:
            position = 0
        if path.is_file():
            with path.open(encoding="utf-8", errors="replace") as file:
                file.seek(position)
                *whole, rest = (rest + file.read()).split("\n")
                position = file.tell()
            yield from whole
        if over:
            return
        driver = read_driver(run)
        over = driver is None or state_of(driver, run) == "ended"  # read once more what it said last
        time.sleep(FOLLOW_SECONDS)
