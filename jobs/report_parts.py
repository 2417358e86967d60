"""A run as ``mangroves report`` shows it: what its folder holds, and the tables and figures of a section."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pandas as pd

from benchmarks.report import Measured
from engine.errors import StoreError
from engine.html import Captions, link, paragraph, png
from engine.places import Place
from jobs.report_tables import REPAIR

MOST_ROWS: Final = 40
"""Of a table on the page; its file holds all."""

MOST_BYTES: Final = 9_500_000
"""Of the page; figures that would make it larger are named and not shown."""

TABLES: Final = "report"
"""Folder of the run for tables and figures that this command makes."""


@dataclass
class Report:
    """A run as the page shows it."""

    folder: Path
    outputs: Place
    record: Mapping[str, Any]
    tables: Mapping[str, pd.DataFrame]
    measured: Measured
    captions: Captions = field(default_factory=Captions)
    size: int = 0
    """Bytes of the pictures so far."""

    missing: list[str] = field(default_factory=list)
    """Steps that were not run, in the order of the work."""

    @property
    def notice(self) -> str:
        return str(self.record.get("notice") or "")

    def table(
        self,
        found: pd.DataFrame,
        columns: Mapping[str, tuple[str, str]],
        caption: str,
        *files: str,
        most: int = MOST_ROWS,
    ) -> str:
        """Return the first rows of a table: column -> heading and format; the caption says how many are left out."""
        shown = found.head(most)
        rows = [[cell(row[name], form) for name, (_, form) in columns.items()] for row in shown.to_dict("records")]
        if left := len(found) - len(shown):
            caption += f" The first {len(shown)} rows; {left:,} more are in the file."
        return self.captions.table([heading for heading, _ in columns.values()], rows, caption, *files)

    def figure(self, name: str, alt: str, caption: str, *files: str, by: str) -> str:
        """Return a picture of the run's folder, with the command that makes it, or a word on why it is not shown."""
        path = self.folder / name
        if not path.is_file():
            return ""
        try:
            drawn = png(path, alt=alt)
        except StoreError as error:
            return paragraph(f"{error.problem}, and is not shown.", note=True)
        if self.size + len(drawn) > MOST_BYTES:
            return f"<p>Not shown, to keep this page small: {link(name, name)}.</p>"
        self.size += len(drawn)
        return self.captions.figure(drawn, f"{caption} Made, and made again, by `mangroves {by}`.", *files, name)


def cell(value: Any, form: str) -> str:
    """Return a cell as it is read; a dash for what is not known."""
    if str(value) in ("True", "False"):
        return "yes" if str(value) == "True" else "no"
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    try:
        return format(value, form)
    except (ValueError, TypeError):
        return str(value)


def summary_of(path: Path) -> dict[str, Any] | None:
    """Return a summary that a command wrote as JSON, None where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, error) from error
    if not isinstance(found, dict):
        raise _damaged(path, TypeError())
    return found


def _damaged(path: Path, error: Exception) -> StoreError:
    return StoreError(f"{path} is damaged ({type(error).__name__})", fix=REPAIR)
