"""The record of a run: what was asked, what made it, what it cost, and what was lost on the way.

Kept as ``run.json`` in the run's folder from the first moment, replaced whole at every change, so a run that
was killed leaves a valid record that says *running*. A folder belongs to one configuration: results of two
are never mixed. Where workers write to a store, a copy of the record lies there, and keeps others' runs out.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import math
import platform
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq
import rasterio

import engine
from engine.code import code_sha256
from engine.errors import StoreError
from engine.files import bytes_sha256, cannot_read, cannot_write, locked, write_text
from engine.params import RunParams
from engine.places import ObjectPath, Place, entries, move, relative
from engine.trust import redact

RECORD: Final = "run.json"
ITEMS: Final = "items.parquet"
"""The frozen item list of a run, beside its record."""

STAC: Final = "stac"
"""The catalog of a run, beside its record: what it says others vouch for."""

LOGS: Final = "logs"
DRIVER: Final = "driver.json"
PROGRESS: Final = "progress.json"
METRICS: Final = "metrics.prom"

_NO_OUTPUT: Final = frozenset({RECORD, ITEMS, STAC, LOGS, DRIVER, PROGRESS, METRICS})
"""What in a run's folder tells of the work and is none of its results."""

_NO_RESULT: Final = (
    "out",
    "store",
    "skip_bad",
    "cube.block_px",
    "cube.requests",
    "train.distributed",
    "train.edits",
    "train.tuned",
)
"""Settings that do not make another run: where and how to work, and whether to go on without bad scenes.

A run that stopped at a bad scene goes on with ``skip_bad``; what it lost is listed, and a tile-year that was
finished without it lost nothing.
"""

_LIBRARIES: Final = (
    "dask",
    "distributed",
    "numba",
    "numpy",
    "odc-geo",
    "pandas",
    "pyproj",
    "rasterio",
    "shapely",
    "stackstac",
    "xarray",
    "xgboost",
    "zarr",
)
_SAVE_SECONDS: Final = 2.0
_MOST_NOTICES: Final = 3
_LONGEST_NOTICE: Final = 200
_FIX: Final = "choose another name or pass --fresh, which sets the old run aside"


class RunRecord:
    """What is known of a run; ``open_record`` makes or reopens it.

    Every string that enters is rid of signatures and tokens.
    """

    def __init__(self, folder: Path, outputs: Place, data: dict[str, Any], *, resumed: bool) -> None:
        self.folder = folder
        self.outputs = outputs
        self.resumed = resumed
        """Whether an earlier command worked on this run."""
        self._data = data
        self._saved = 0.0

    @property
    def path(self) -> Path:
        return self.folder / RECORD

    @property
    def config_sha256(self) -> str:
        """Of every setting that can alter a result."""
        return self._data["config_sha256"]

    @property
    def items_sha256(self) -> str:
        """Of the frozen item list; empty before there is one."""
        return self._data["items"]["sha256"] if self._data["items"] else ""

    @property
    def notice(self) -> str:
        """Line on every output: of the configuration, and of scenes that have one."""
        return self._data["notice"]

    @property
    def data(self) -> dict[str, Any]:
        """A copy of all that is recorded, as it stands in the file."""
        return json.loads(json.dumps(self._data))

    def brief(self) -> dict[str, Any]:
        """Return the stage that was begun last, the seconds of every stage and the number of lost scenes.

        For another thread than the one that works, so nothing is walked that grows.
        """
        stages, session = self._data["stages"], self._data["sessions"][-1]
        seconds = {name: stages[name]["seconds"] for name in list(stages)}
        return {"stage": session.get("stage", ""), "seconds": seconds, "lost": len(self._data["lost"])}

    @contextmanager
    def stage(self, name: str) -> Iterator[dict[str, Any]]:
        """Time a stage; what the block puts into the yielded dict is recorded as its counts.

        A stage that was worked on in several commands keeps the sum of its seconds and the latest counts.
        """
        counts: dict[str, Any] = {}
        entry = self._data["stages"].setdefault(name, {"seconds": 0.0, "runs": 0, "counts": {}})
        self._data["sessions"][-1]["stage"] = name
        self.save()
        started = time.perf_counter()
        try:
            yield counts
        finally:
            entry["seconds"] = round(entry["seconds"] + time.perf_counter() - started, 3)
            entry["runs"] += 1
            entry["counts"] = _clean(counts)
        self.save()

    def note_items(self, frozen: Path, refused: Sequence[tuple[str, str]] = ()) -> None:
        """Record the frozen item list (count, sha256, notice) and the scenes refused: ``(id, reason)`` each."""
        self._data["items"] = _describe_items(frozen)
        self._data["notice"] = _notice(self._data["config"], frozen)
        self._data["refused"] = [{"scene": redact(scene), "reason": redact(reason)} for scene, reason in refused]
        self.save()

    def note_masks(self, masks: Sequence[Mapping[str, Any]]) -> None:
        """Record name, year, licence and citation of the masks trained on, and whatever else is given of them."""
        self._data["masks"] = _clean(list(masks))
        self.save()

    def note_harmonisation(self, found: Mapping[str, Any]) -> None:
        """Record the lines that bring sensors to OLI and what is left between them, with what they were found by."""
        self._data["harmonisation"] = _clean(dict(found))
        self.save()

    def note_scene_lost(self, scene: str, cause: str, *, tile: str, year: int) -> None:
        """Record that a tile-year went without a scene; a rerun of that tile-year does not list it twice."""
        lost = _clean({"scene": scene, "tile": tile, "year": year, "cause": cause})
        same = [loss for loss in self._data["lost"] if all(loss[k] == lost[k] for k in ("scene", "tile", "year"))]
        if lost not in same:
            self._data["lost"] = [loss for loss in self._data["lost"] if loss not in same] + [lost]
            self._save_soon()

    def forget_lost(self, scenes: Iterable[str], *, tile: str, year: int) -> None:
        """Take back what was recorded lost of scenes that a tile-year reads once more."""
        ids = set(scenes)
        self._data["lost"] = [
            loss
            for loss in self._data["lost"]
            if (loss["tile"], loss["year"]) != (tile, year) or loss["scene"] not in ids
        ]

    def save(self) -> None:
        """Replace ``run.json`` and its copy in a store; a reader sees the old record or the new one, never a half.

        Raises
        ------
        StoreError
            If the folder cannot be written.
        """
        text = _text(self._data)
        write_text(self.path, text)
        if isinstance(self.outputs, ObjectPath):
            copy = self.outputs / RECORD
            try:
                copy.write_bytes(text.encode())  # without asking first what is there
            except OSError as error:
                raise cannot_write(copy, error) from error
        self._saved = time.monotonic()

    def write_beside(self, path: Place | str, **about: Any) -> Place:
        """Write ``<path>.json``: what made an output, short enough to travel with it, and return its path.

        Parameters
        ----------
        path : path
            The output.
        **about
            What else is to be said of it, by name: ``year=2020``.
        """
        path = Path(path) if isinstance(path, str) else path
        record = (self.outputs if isinstance(path, ObjectPath) else self.folder) / RECORD
        session = self._data["sessions"][-1]
        content = {
            "output": path.name,
            **about,
            "run": self._data["name"],
            "notice": self._data["notice"],
            "made": _now(),
            "record": relative(record, path.parent),
            "config_sha256": self.config_sha256,
            "items": self._data["items"],
            "refused": len(self._data["refused"]),
            "lost": len(self._data["lost"]),
            "masks": self._data["masks"],
            "stages": self._data["stages"],
            "versions": session["versions"],
        }
        beside = path.with_name(path.name + ".json")
        write_text(beside, _text(_clean(content)))
        return beside

    def _save_soon(self) -> None:
        """Save unless that was done a moment ago: thousands of losses must not mean thousands of writes."""
        if time.monotonic() - self._saved > _SAVE_SECONDS:
            self.save()


def vouches_for(beside: Place, output: Place) -> bool:
    """Tell whether what ``RunRecord.write_beside`` wrote is of an output's bytes as they stand."""
    try:
        return json.loads(beside.read_text(encoding="utf-8")).get("sha256") == bytes_sha256(output)
    except ValueError:
        return False


@contextmanager
def open_record(
    folder: Path | str,
    config: Mapping[str, Any],
    *,
    outputs: Place | None = None,
    fresh: bool = False,
    beside: bool = False,
) -> Iterator[RunRecord]:
    """Open the record of a run: a new one, or that of an earlier command with the same configuration.

    The record says *running* inside the block, then *finished*, *failed* (with the error) or *interrupted*.

    Parameters
    ----------
    folder : path
        Folder of the run, on a file system; made where it is missing.
    config : mapping
        The resolved configuration, JSON-able.
    outputs : Path or ObjectPath, optional
        Where workers write; default the folder.
    fresh : bool
        Set aside what is in the folder and among the outputs, as ``<name>-<UTC time>``, and start anew.
    beside : bool
        Nothing that was made is gone on with: other code may add to it, and what made it stays what is recorded.

    Raises
    ------
    StoreError
        If another command works on the run; if the folder holds a run of another configuration, or of another
        version or other code of this software, a damaged record, an item list that is not the one the run froze, or
        files of no run; or if it cannot be written.
    """
    folder = Path(folder)
    with locked(folder):
        settings = _clean(json.loads(json.dumps(config)))
        yield from _open_record(folder, outputs or folder, settings, fresh=fresh, beside=beside)


def _open_record(
    folder: Path, outputs: Place, settings: dict[str, Any], *, fresh: bool, beside: bool
) -> Iterator[RunRecord]:
    if fresh:
        set_aside(folder, outputs)
    old = _earlier(folder, outputs, settings, beside=beside)
    if old is not None and beside:
        settings = old["config"]
    if old is None:
        (folder / ITEMS).unlink(missing_ok=True)
    data: dict[str, Any] = {
        "name": settings.get("name", folder.name),
        "notice": settings.get("notice", ""),
        "status": "running",
        "config_sha256": _config_sha256(settings),
        "items": None,
        "masks": [],
        "refused": [],
        "lost": [],
        "stages": {},
        "sessions": [],
        **(old or {}),
        "config": settings,
    }
    if data["items"] is None and (folder / ITEMS).is_file():
        data["items"] = _describe_items(folder / ITEMS)  # killed between writing the list and noting it
        data["notice"] = _notice(settings, folder / ITEMS)
    session: dict[str, Any] = {"started": _now(), "ended": None, "status": "running", "versions": _versions()}
    if beside:
        session["beside"] = True
    data["sessions"].append(session)
    data["status"] = "running"
    record = RunRecord(folder, outputs, data, resumed=old is not None)
    record.save()
    try:
        yield record
    except BaseException as error:
        failed = isinstance(error, Exception)
        data["status"] = session["status"] = "failed" if failed else "interrupted"
        session.update(ended=_now(), error=redact(f"{type(error).__name__}: {error}"))
        with suppress(StoreError):  # the fault that ended the run says more than a full disk now
            record.save()
        raise
    data["status"] = session["status"] = "finished"
    session["ended"] = _now()
    record.save()


def check_record(
    folder: Path, config: Mapping[str, Any], *, outputs: Place | None = None, beside: bool = False
) -> None:
    """Raise what ``open_record`` would of a folder in which this configuration cannot go on; touch nothing."""
    _earlier(folder, outputs or folder, _clean(json.loads(json.dumps(config))), beside=beside)


def made_with(data: Mapping[str, Any]) -> dict[str, str]:
    """Return the versions of what made a run's outputs last, without what only added to them."""
    made = [session["versions"] for session in data["sessions"] if not session.get("beside")]
    return made[-1] if made else _versions()


def _earlier(folder: Path, outputs: Place, settings: dict[str, Any], *, beside: bool = False) -> dict[str, Any] | None:
    """Return the record that a run of these settings goes on with, None where it begins."""
    old = read_record(folder)
    if old is None and _names_in(folder) - _NO_OUTPUT:
        raise StoreError(f"{folder} holds files but no {RECORD}, so no run can go on there", fix=_FIX)
    made = _names_in(outputs) - _NO_OUTPUT
    if made and outputs != folder:
        theirs = read_record(outputs)
        if old is None or theirs is None or _config_sha256(theirs["config"]) != _config_sha256(old["config"]):
            raise StoreError(f"{outputs} holds files of another run than {folder}", fix=_FIX)
    if old is None:
        return None
    if _config_sha256(old["config"]) != _config_sha256(settings) and not made | (_names_in(folder) - _NO_OUTPUT):
        return None  # planning is what people repeat: a list nothing was made from binds nobody
    _check_same(folder, old, settings, beside=beside)
    return old


def _check_same(folder: Path, old: dict[str, Any], config: dict[str, Any], *, beside: bool) -> None:
    """Refuse to go on with a run that something else made."""
    before, after = _flat(old["config"]), _flat(config)
    known = before if beside else {**before, **after}  # earlier code may not have known every setting
    keys = [k for k in sorted(known) if before.get(k) != after.get(k) and _decides(k)]
    if keys or (not beside and _config_sha256(old["config"]) != _config_sha256(config)):
        named = ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
        raise StoreError(f"run {folder} was made with another configuration (differs in: {named})", fix=_FIX)
    made = made_with(old)
    if made["mangroves"] != engine.__version__ and not beside:
        raise StoreError(
            f"run {folder} was made with mangroves {made['mangroves']}, this is {engine.__version__}", fix=_FIX
        )
    if made.get("engine_sha256") != code_sha256() and not beside:
        raise StoreError(
            f"run {folder} was made by other code of mangroves {engine.__version__} "
            f"(engine {str(made.get('engine_sha256', 'not recorded'))[:12]}, this is {code_sha256()[:12]})",
            fix="check out what it was made with, or pass --fresh, which sets the old run aside",
        )
    frozen = folder / ITEMS
    if old["items"] and frozen.is_file() and _describe_items(frozen)["sha256"] != old["items"]["sha256"]:
        raise StoreError(f"{frozen} is not the item list this run froze", fix=_FIX)


def read_record(folder: Place) -> dict[str, Any] | None:
    """Return the record in a folder or store, None where there is none.

    Raises
    ------
    StoreError
        If it is damaged.
    """
    path = folder / RECORD
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        _check_shape(data)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise cannot_read(path, error) from error
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise StoreError(f"{path} is damaged ({type(error).__name__})", fix=_FIX) from error
    return data


def citation(record: Mapping[str, Any], params: RunParams) -> str:
    """Return how the maps of a run are to be cited, on its page and in its catalog alike."""
    if own := params.about.citation:
        return f"{params.notice}. {own}" if params.notice and params.notice not in own else own
    years, versions = sorted(params.years), (record["sessions"] or [{}])[-1].get("versions", {})
    masks = [mask for mask in record.get("masks") or [] if isinstance(mask, dict)]
    named = sorted({str(mask["citation"]) for mask in masks if mask.get("citation")})
    whose = f"{params.about.provider}: " if params.about.provider else ""
    span = f"{years[0]}-{years[-1]}" if len(years) > 1 else str(years[0])
    made = f"mangroves {versions.get('mangroves', engine.__version__)} (configuration {record['config_sha256'][:12]})"
    notice = f"{params.notice}." if params.notice else "Imagery: Landsat Collection 2, U.S. Geological Survey."
    labels = f" Labels: {'; '.join(named)}." if named else ""
    return f"{whose}{params.name}, mangrove maps of {span}, made with {made}. {notice}{labels}"


def _check_shape(data: Any) -> None:
    """Read now what is read later, so that a damaged record is refused here and nowhere else.

    Raises
    ------
    LookupError, TypeError, ValueError
        If it is no record.
    """
    kinds = {"name": str, "status": str, "config": dict, "config_sha256": str, "stages": dict, "sessions": list}
    if not all(isinstance(data[key], kind) for key, kind in {**kinds, "lost": list, "refused": list}.items()):
        raise TypeError("not a record")
    _ = [session["versions"]["mangroves"] for session in data["sessions"]]
    _ = data["items"] and (data["items"]["sha256"], data["items"]["count"])
    _ = [(loss["scene"], loss["tile"], loss["year"], loss["cause"]) for loss in data["lost"]]
    for stage in data["stages"].values():
        if not (isinstance(stage["counts"], dict) and math.isfinite(stage["seconds"] + stage["runs"])):
            raise TypeError("not a stage")


def set_aside(folder: Path, outputs: Place) -> None:
    """Give what a run left in its folder and among its outputs another name, ``<name>-<UTC time>``."""
    _set_aside(outputs)  # before the folder: a command killed here is told of the rest by the record
    _set_aside(folder)


def _set_aside(folder: Place) -> None:
    if not _names_in(folder):
        return
    aside = folder.with_name(f"{folder.name}-{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%S%f}")
    try:
        move(folder, aside)
    except OSError as error:
        raise StoreError(f"{folder} cannot be set aside ({error.strerror})", fix="choose another name") from error


def _names_in(folder: Place) -> set[str]:
    """Return the names in a folder but of hidden leftovers of a write that was cut off."""
    try:
        return {path.name for paths in entries(folder) for path in paths if not path.name.startswith(".")}
    except OSError as error:
        raise cannot_read(folder, error) from error


def _describe_items(frozen: Path) -> dict[str, Any]:
    """Return name, count and sha256 of a frozen item list."""
    try:
        count = pq.read_metadata(frozen).num_rows
        digest = hashlib.sha256(frozen.read_bytes()).hexdigest()
    except (OSError, ValueError) as error:
        raise StoreError(f"{frozen} is not a readable item list ({type(error).__name__})", fix=_FIX) from error
    return {"file": frozen.name, "count": count, "sha256": digest}


def _notice(settings: Mapping[str, Any], frozen: Path) -> str:
    """Return the line on every output: that scenes are simulated is said of them, whatever a configuration says."""
    asked = str(settings.get("notice") or "")
    if asked.upper().startswith("SIMULATED") or "notice" not in pq.read_schema(frozen).names:
        return asked
    told = sorted(set(map(str, filter(None, pq.read_table(frozen, columns=["notice"])["notice"].unique().to_pylist()))))
    more = [f"and {len(told) - _MOST_NOTICES} more"] if len(told) > _MOST_NOTICES else []
    return redact("; ".join([*(one[:_LONGEST_NOTICE] for one in told[:_MOST_NOTICES]), *more, *filter(None, [asked])]))


def _decides(key: str) -> bool:
    """Tell whether a setting decides what a run makes: a search for a classifier has a ledger of its own, maps are
    assessed when they are done, and whose they are changes none of them."""
    return key not in _NO_RESULT and not key.startswith(("tune.", "change.", "assess.", "about."))


def _config_sha256(config: Mapping[str, Any]) -> str:
    kept = {key: value for key, value in _flat(config).items() if _decides(key)}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested mapping by dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _clean(value: Any) -> Any:
    """Return a JSON-able value whose strings carry no signature or token."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {redact(str(key)): _clean(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(part) for part in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return _clean(value.item()) if hasattr(value, "item") else redact(str(value))


def _versions() -> dict[str, str]:
    """Return versions of this software and of what decides its results."""
    own = {"mangroves": engine.__version__, "engine_sha256": code_sha256()}
    system = {"python": platform.python_version(), "gdal": rasterio.__gdal_version__}
    return {**own, **system, "machine": platform.machine(), **{name: version(name) for name in _LIBRARIES}}


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")


def _text(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
