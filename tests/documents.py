"""The documents and their fenced blocks."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^(?:<!-- not run: ([^\n]+) -->\n)?```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHELLS = ("sh", "console")
RUN = (*SHELLS, "python", "yaml", "json")
"""Languages of blocks that are run or read; ``text`` is neither and holds no command."""


class Block(NamedTuple):
    """A fenced block of a document."""

    where: str
    language: str
    text: str
    not_run: str | None
    """Why it cannot run here, as the line above it says: ``<!-- not run: reason -->``."""

    def lines(self) -> Iterator[tuple[str, list[str]]]:
        """Yield each command of a shell block, whole and split into words; of a console what follows the prompt."""
        lines = self.text.replace("\\\n", " ").splitlines()
        if self.language == "console":
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        for line in lines:
            if words := shlex.split(line, comments=True):
                yield line, words


def name_of(path: Path) -> str:
    """Return the path of a document as tests name it."""
    return path.relative_to(ROOT).as_posix()


def blocks_of(path: Path) -> list[Block]:
    """Return the fenced blocks of a document, in order."""
    text = path.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        line = text[: match.start(2)].count("\n") + 1
        found.append(Block(f"{name_of(path)}:{line}", match[2], match[3], match[1]))
    return found


def blocks(*languages: str) -> list[Any]:
    """Return the blocks of some languages of all documents, as parameters of a test."""
    every = [block for path in DOCUMENTS for block in blocks_of(path)]
    return [pytest.param(block, id=block.where) for block in every if block.language in languages]


def prose(path: Path) -> str:
    """Return a document without its fenced blocks."""
    return FENCE.sub("", path.read_text(encoding="utf-8"))
