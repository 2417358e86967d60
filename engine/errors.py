"""What can go wrong that is not a bug: one line that says what was wrong, what was got and what to do.

The command line prints these without a traceback; anything else that escapes is a defect of ours.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, ClassVar


class Fault(StrEnum):
    """What a failed read says of another: worth it, worth it newly signed, for nothing, or not allowed."""

    TRANSIENT = "transient"
    EXPIRED = "expired"
    PERMANENT = "permanent"
    HOSTILE = "hostile"


def printable(text: str) -> str:
    """Return a text without line ends and what moves a terminal's cursor."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


class EngineError(Exception):
    """A fault of the world or of the input, told in one line.

    Parameters
    ----------
    problem : str
        What was wrong and what was got, e.g. ``"area file roads.txt is not a vector file"``.
    fix : str, optional
        What to do about it, e.g. ``"give a GeoJSON, GeoPackage, shapefile or KML"``.
    kind : Fault, optional
        Of what was read; None where the fault does not lie in a read.
    **about
        What the fault is about, by name: ``scene="LC08..."``, ``tile="z48_c08_r-016"``, ``year=2019``,
        ``asset="red"``. Printed in front, kept in ``.about`` for the run record.

    Examples
    --------
    >>> str(EngineError("no scene is left", year=2012, fix="add landsat-7 to search.platforms"))
    'year 2012: no scene is left; add landsat-7 to search.platforms'
    """

    default_kind: ClassVar[Fault | None] = None

    def __init__(self, problem: str, *, fix: str = "", kind: Fault | None = None, **about: Any) -> None:
        self.problem = problem
        self.fix = fix
        self.kind = kind or self.default_kind
        self.about = {name: value for name, value in about.items() if value is not None}
        where = ", ".join(f"{name} {value}" for name, value in self.about.items())
        line = f"{where}: {problem}" if where else problem
        line = f"{line}; {fix}" if fix else line
        # One line whatever was named in it: an item's id may hold line ends, or what moves a terminal's cursor.
        super().__init__(printable(line))

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions travel from worker to client by pickle, which would drop the keywords.
        return _rebuild, (type(self), self.problem, self.fix, self.kind, self.about)


def _rebuild(
    error: type[EngineError], problem: str, fix: str, kind: Fault | None, about: dict[str, Any]
) -> EngineError:
    return error(problem, fix=fix, kind=kind, **about)


class ConfigError(EngineError):
    """A run configuration, a flag or an area that cannot be used as given."""


class TrustError(EngineError):
    """A path, host, scheme, name or size that untrusted input may not ask for."""

    default_kind = Fault.HOSTILE


class CatalogError(EngineError):
    """A catalog that cannot be reached, or does not hold what was asked for."""


class SceneError(EngineError):
    """A scene that cannot be described or read; ``about`` names scene and asset."""

    default_kind = Fault.PERMANENT


class MaskError(EngineError):
    """A reference mask that is unreadable, stale, or does not cover the area."""


class PlanError(EngineError):
    """Work that will not fit: memory, disk, tasks."""


class SampleError(EngineError):
    """A training sample that no model can be fitted to."""


class ModelError(EngineError):
    """A model directory that is damaged, foreign, or lacks features."""


class StoreError(EngineError):
    """An output that is unfinished, damaged, of another run, or cannot be written."""


class ClusterError(EngineError):
    """A cluster that cannot be started or reached, or workers that do not see the output."""
