"""A small run over a simulated archive, and the command line called in this process."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from engine.model import load_model
from engine.simulate import Archive
from jobs.cli import main


class Answer(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line a mistake ends in; a traceback, a second error or success is a failure of the test."""
        lines = [line for line in self.err.splitlines() if line.startswith(("error: ", "Error: "))]
        assert self.code != 0, f"went well: {self.out}{self.err}"
        assert "Traceback" not in self.err, self.err
        assert len(lines) == 1, self.err
        assert self.err.splitlines()[-1] == lines[0], self.err
        return lines[0]


def mangroves(*arguments: str | Path) -> Answer:
    """Run the command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
    return Answer(code, out.getvalue(), err.getvalue())


@dataclass
class Job:
    """A run configuration over an archive, in a folder of its own."""

    folder: Path
    archive: Archive
    config: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.config = self.config or config_of(self.archive)
        self.config["out"] = str(self.folder / "runs")

    @property
    def run(self) -> Path:
        """The folder of the run."""
        return self.folder / "runs" / "tiny"

    @property
    def record(self) -> dict[str, Any]:
        return json.loads((self.run / "run.json").read_text(encoding="utf-8"))

    def write(self) -> Path:
        """Write the configuration as it stands."""
        path = self.folder / "tiny.yaml"
        path.write_text(yaml.safe_dump(self.config), encoding="utf-8")
        return path

    def arguments(self, command: str, *more: str | Path, cluster: str = "threads") -> list[str]:
        """Return the arguments of a command on this configuration."""
        roots = ("--allow-root", self.archive.items.parent)
        return [str(a) for a in (command, self.write(), "--cluster", cluster, *roots, *more)]

    def call(self, command: str, *more: str | Path) -> Answer:
        """Run a command on this configuration with threads of this process."""
        return mangroves(*self.arguments(command, *more))

    def edit_items(self, edit: Callable[[dict[str, Any]], None]) -> None:
        """Change every item of the archive, which must be a copy."""
        content = json.loads(self.archive.items.read_text(encoding="utf-8"))
        for item in content["features"]:
            edit(item)
        self.archive.items.write_text(json.dumps(content), encoding="utf-8")


def config_of(archive: Archive) -> dict[str, Any]:
    """Return a small run over an archive."""
    masks = [{"path": str(path), "year": year} for year, path in sorted(archive.masks.items())]
    return {
        "name": "tiny",
        "area": {"file": str(archive.regions), "name_field": "name"},
        "years": list(archive.params.years),
        "search": {"catalogs": [str(archive.items)]},
        "labels": {"masks": masks, "stable_between": sorted(archive.masks)},
        "sample": {"mangrove": 200, "other": 400},
        "train": {"rounds": 10, "max_depth": 3, "hold_out": ["sim-India"]},
    }


def markers(run: Path) -> dict[str, str]:
    """Return the sha256 of every finished store of a run, by the path of its marker."""
    found = {}
    for kind in ("cube", "maps", "change"):
        for path in sorted((run / kind).rglob("*.json")):
            if path.with_suffix(".zarr").is_dir():
                found[path.relative_to(run).as_posix()] = json.loads(path.read_text(encoding="utf-8"))["sha256"]
    return found


def trees(run: Path) -> str:
    """Return the sha256 of the trees of a run's model."""
    return load_model(run / "model").tree_sha256()
