"""Whether what a run made is still what it was: every chunk, raster and table against the hashes kept beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from engine.errors import EngineError, ModelError, StoreError
from engine.files import bytes_sha256, cannot_read
from engine.model import META_FILE, TREES_FILE, load_model
from engine.places import Place, entries
from engine.record import STAC
from engine.store import array_sha256, open_store, seal_of

AGAIN: Final = "delete its marker {} and run the same command again"


@dataclass(frozen=True)
class Checked:
    """What one check found."""

    counts: Mapping[str, int]
    """Stores, files and models that were compared."""

    damaged: tuple[tuple[str, str], ...] = ()
    """What is damaged or missing, and what to do, a pair each."""


@dataclass(frozen=True)
class Found:
    """What lies below a place: what can be checked, and what is not finished."""

    vouchers: list[Place]
    """Markers, records beside outputs, and folders of models."""

    unfinished: list[Place]
    """Stores without a marker, and models without their end: work in the middle, or cut off."""


def find_vouchers(place: Place) -> Found:
    """List what vouches for something below a place, in order."""
    found = Found([], [])
    _look(place, found, catalog=place / STAC)
    return found


def _look(place: Place, found: Found, catalog: Place) -> None:
    folders, files = entries(place)
    names = {path.name for path in files}
    if META_FILE in names:
        found.vouchers.append(place)
    elif TREES_FILE in names:  # which are written first
        found.unfinished.append(place)
    else:
        found.vouchers.extend(path for path in files if path.suffix == ".json" and not path.name.startswith("."))
    for folder in folders:
        if folder == catalog:
            continue
        if folder.suffix != ".zarr":
            _look(folder, found, catalog)
        elif folder.with_suffix(".json").name not in names:
            found.unfinished.append(folder)


def verify_task(voucher: Place) -> Checked:
    """Compare all that a marker, a record beside an output, or a model's own hash vouches for."""
    if voucher.suffix != ".json":  # the folder of a model
        try:
            load_model(voucher)
        except ModelError as error:
            return Checked({"models": 1}, ((error.problem, error.fix),))
        return Checked({"models": 1})
    try:
        content = json.loads(voucher.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return Checked({}, ((f"{voucher} is damaged", AGAIN.format(voucher)),))
    except OSError as error:
        raise cannot_read(voucher, error) from error
    if not isinstance(content, dict):
        return Checked({})
    files = content.get("files")
    # Told by either of two keys, as a flipped bit may be in one of them.
    if "marker_sha256" in content or isinstance(files, dict):
        problems = list(_marker_problems(voucher, content))
        named = len(files) if isinstance(files, dict) else 0
        counts = {"files": named, "stores": int("sha256" in content), "markers": 1}
        return Checked(counts, tuple((problem, AGAIN.format(voucher)) for problem in problems))
    if {"output", "sha256"} & content.keys():
        output = voucher.with_name(voucher.name.removesuffix(".json"))
        found = _compare(output, content.get("sha256"))
        return Checked({"files": 1}, ((found, f"delete {voucher} and run the same command again"),) if found else ())
    return Checked({})


def _marker_problems(voucher: Place, content: Mapping[str, Any]) -> Iterator[str]:
    if seal_of(content) != content.get("marker_sha256") or not _is_plain(content.get("files")):
        yield f"{voucher} is not as it was written"
        return  # and what it says of others is worth nothing
    store = voucher.with_suffix(".zarr")
    gone = "sha256" in content and not (store / "zarr.json").is_file()
    if gone:
        yield f"{store} is missing"
    for name, sha256 in content["files"].items():
        if not (gone and name == f"{store.name}/zarr.json") and (found := _compare(voucher.parent / name, sha256)):
            yield found
    if "sha256" in content and not gone:
        try:
            with open_store(store) as data:
                data.coords.to_dataset().load()  # whose own checksums must hold too
                found = array_sha256({str(name): data[name].variable for name in data.data_vars})
        except StoreError as error:
            yield error.problem
        else:
            if found != content["sha256"]:
                yield f"{store} holds other values than were written"


def _is_plain(files: Any) -> bool:
    """Tell whether names lead to nothing but files below: a marker may come from anybody."""
    if not isinstance(files, dict):
        return False
    return not any(".." in name.split("/") or name.startswith("/") or "\\" in name for name in files)


def _compare(path: Place, sha256: str | None) -> str:
    """Return what is wrong with a file, nothing where its bytes are those."""
    try:
        return "" if bytes_sha256(path) == sha256 else f"{path} is not as it was written"
    except EngineError as error:
        return error.problem
