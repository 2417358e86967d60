"""What a person sees while a job works: stages, progress, tables; on standard error, results on standard output."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

Item = TypeVar("Item")
PLAIN_WIDTH = 120
"""Columns of a table where standard output is not a terminal."""

LINE_SECONDS = 5.0
"""Where standard error is not a terminal, a progress line at most this often."""


class Reporter:
    """Prints progress and results; with ``as_json`` the result is one JSON object on standard output."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self.out = Console(highlight=False, soft_wrap=True)
        if not self.out.is_terminal:
            self.out.width = PLAIN_WIDTH

    def say(self, text: str) -> None:
        """Print one line about what is going on."""
        self.console.print(text, markup=False)

    def track(self, items: Iterable[Item], total: int, label: str) -> Iterator[Item]:
        """Yield ``items`` while showing how many of ``total`` are done and the time left."""
        if not self.console.is_terminal:
            yield from self._track_lines(items, total, label)
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=self.console) as bar:
            task = bar.add_task(f"{label:<9}", total=total)
            for item in items:
                yield item
                bar.advance(task)

    def _track_lines(self, items: Iterable[Item], total: int, label: str) -> Iterator[Item]:
        started = last = time.monotonic()
        for done, item in enumerate(items, start=1):
            yield item
            now = time.monotonic()
            if now - last >= LINE_SECONDS or done == total:
                last = now
                left = (now - started) / done * (total - done)
                self.say(f"{label:<9} {done}/{total}  {now - started:.0f} s, about {left:.0f} s left")

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
