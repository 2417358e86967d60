"""What a person sees while a job works: stages, progress, tables; on standard error, results on standard output."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from jobs.progress import Progress as Counted
from jobs.progress import Stage, utc_now

Item = TypeVar("Item")
PLAIN_WIDTH = 120
"""Columns of a table where standard output is not a terminal."""

LINE_SECONDS = 5.0
"""Where standard error is not a terminal, a progress line at most this often."""

JSON_SECONDS = 2.0
LOG_SECONDS = 60.0


class Reporter:
    """Prints progress and results; with ``as_json`` the result is one JSON object on standard output.

    With ``json_lines`` every line on standard error is one, too.
    """

    def __init__(self, *, as_json: bool = False, json_lines: bool = False) -> None:
        self.as_json = as_json
        self.json_lines = json_lines
        self.progress = Counted()
        self.log: Callable[[str], None] = lambda text: None
        """Is told every line, and how far a stage is once a minute."""

        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self.out = Console(highlight=False, soft_wrap=True)
        if not self.out.is_terminal:
            self.out.width = PLAIN_WIDTH

    def say(self, text: str) -> None:
        """Print one line about what is going on."""
        self.log(text)
        if self.json_lines:
            self._print_json({"time": utc_now(), "message": text})
        else:
            self.console.print(text, markup=False)

    def track(self, items: Iterable[Item], total: int, label: str) -> Iterator[Item]:
        """Yield ``items`` while showing how many of ``total`` are done and the time left."""
        stage = self.progress.begin(label, total)
        live = self.console.is_terminal and not self.json_lines
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        bar = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=self.console) if live else None
        try:
            with bar or nullcontext():
                task = bar.add_task(f"{label:<9}", total=total) if bar else None
                started = printed = logged = time.monotonic()
                every = JSON_SECONDS if self.json_lines else LINE_SECONDS
                for item in items:
                    yield item
                    stage.done += 1
                    now, last = time.monotonic(), stage.done == total
                    if now - logged >= LOG_SECONDS or last:
                        logged = now
                        self.log(_line(stage, label, total, now - started))
                    if bar is not None and task is not None:
                        bar.advance(task)
                    elif now - printed >= every or last:
                        printed = now
                        if self.json_lines:
                            self._print_json(self.progress.line())
                        else:
                            self.console.print(_line(stage, label, total, now - started), markup=False)
        finally:
            self.progress.end(stage)

    def _print_json(self, content: dict[str, Any]) -> None:
        sys.stderr.write(json.dumps(content) + "\n")
        sys.stderr.flush()

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Print a table on standard output, unless the result is JSON."""
        if self.as_json:
            return
        table = Table(title=title, title_justify="left", title_style="bold")
        for index, column in enumerate(columns):
            table.add_column(column, justify="left" if index == 0 else "right")
        for row in rows:
            table.add_row(*(Text(str(cell)) for cell in row))
        self.out.print(table)

    def result(self, content: dict[str, Any], text: str = "") -> None:
        """Print what a command found: JSON when asked for, else ``text``."""
        if self.as_json:
            json.dump(content, sys.stdout, indent=1, default=str)
            sys.stdout.write("\n")
        elif text:
            self.out.print(text, markup=False)


def _line(stage: Stage, label: str, total: int, seconds: float) -> str:
    left = seconds / stage.done * (total - stage.done)
    return f"{label:<9} {stage.done}/{total}  {seconds:.0f} s, about {left:.0f} s left"
