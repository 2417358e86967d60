"""Tile-year zarr stores: written whole, checksummed, marked complete last, refused when not.

One shard per variable, or look of it, and inner chunks of 256 px. Chunks carry a checksum (the default codec reads a
flipped bit silently), empty chunks are written and missing ones are errors (else an unfinished store reads as fill).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import tempfile
import threading
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import xarray as xr
import zarr
from odc.geo.geobox import GeoBox
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.storage import ObjectStore

from engine.errors import StoreError
from engine.files import bytes_sha256, cannot_read, cannot_write, write_text
from engine.grid import TILE_PX, crs_of
from engine.places import ObjectPath, Place, read_start, relative, remove, told, upload

CHUNK_PX: Final = 256
_CONFIG: Final = {"array.write_empty_chunks": True, "array.read_missing_chunks": False}

# Consolidated metadata is not in the specification yet, but without it `xarray.open_zarr` opens slowly, and warns.
warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")


_guard = threading.Lock()
_inside = 0
_settings: Any = None


@contextlib.contextmanager
def _checked_chunks() -> Iterator[None]:
    """Hold zarr to ``_CONFIG``; as that is the whole process's, the last thread out resets what the first one set."""
    global _inside, _settings
    with _guard:
        if _inside == 0:
            _settings = zarr.config.set(_CONFIG)
        _inside += 1
    try:
        yield
    finally:
        with _guard:
            _inside -= 1
            if _inside == 0:
                _settings.__exit__(None, None, None)


_MAX_METADATA_BYTES: Final = 2**20
_MAX_ARRAYS: Final = 1000
_MAX_PLANES: Final = 10_000
_MAX_CHUNKS: Final = 1_000_000
_MAX_ITEM_BYTES: Final = 1024


def marker_path(path: Place) -> Place:
    """Return the completion marker of a store: ``2019.json`` beside ``2019.zarr``."""
    return path.with_suffix(".json")


def array_sha256(arrays: Mapping[str, Any]) -> str:
    """Return the sha256 of decoded arrays: names, dtypes, shapes and values, in order of name.

    Of lazy ones, such as the variables of an open store, no more than one plane is held.

    Examples
    --------
    >>> array_sha256({"a": np.zeros(2, "u1")})[:8]
    '3598b269'
    """
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype.str} {array.shape or (1,)}\n".encode())
        for plane in np.ndindex(array.shape[:-2]):
            digest.update(np.ascontiguousarray(array[plane]).data)
    return digest.hexdigest()


def write_marker(path: Place, marker: Mapping[str, Any], files: Iterable[Place] = ()) -> dict[str, Any]:
    """Write a completion marker, once all that it vouches for is on disk, and return it as written.

    Parameters
    ----------
    path : Path or ObjectPath
        The marker itself.
    marker : mapping
        What to remember.
    files : iterable of Path or ObjectPath
        Files below the marker's folder; kept under ``files`` with the sha256 of their bytes as they stand there.

    Raises
    ------
    StoreError
        If a file is not there, or the marker cannot be written.
    """
    written = {**marker, "files": {relative(file, path.parent): bytes_sha256(file) for file in files}}
    written["marker_sha256"] = seal_of(written)
    write_text(path, json.dumps(written, indent=1, sort_keys=True))
    return written


def seal_of(marker: Mapping[str, Any]) -> str:
    """Return the sha256 of a marker's content but for the hash itself, ``marker_sha256``."""
    return fingerprint_of({key: value for key, value in marker.items() if key != "marker_sha256"})


def write_store(
    path: Place, dataset: xr.Dataset, marker: Mapping[str, Any], files: Iterable[Place] = ()
) -> dict[str, Any]:
    """Write a dataset as one store; readable as finished only once everything is on disk.

    Parameters
    ----------
    path : Path or ObjectPath
        Folder to make, ending in ``.zarr``. What is there already is replaced.
    dataset : Dataset
        In memory; dims end in (y, x).
    marker : mapping
        What to remember beside the data: the inputs' fingerprint, counts, lost scenes, ``stages``.
    files : iterable of Path or ObjectPath
        Files written beside the store before it, such as its COGs; the marker vouches for their bytes too.

    Returns
    -------
    dict
        The marker as written, with ``sha256`` of the decoded arrays, and the stage of writing them.

    Raises
    ------
    StoreError
        If the disk is full, or the folder or store cannot be written.
    """
    started = time.perf_counter()
    arrays = {str(name): variable.values for name, variable in dataset.data_vars.items()}
    written = {**marker, "sha256": array_sha256(arrays)}
    try:
        marker_path(path).unlink(missing_ok=True)  # first, so that a half-removed store is not trusted
        remove(path)
        if isinstance(path, ObjectPath):
            # From a disk, many files at once: by itself zarr asks a store some hundred things, one after the other.
            with tempfile.TemporaryDirectory(prefix="mangroves-") as folder:
                _write_zarr(Path(folder, path.name), dataset)
                upload(Path(folder, path.name), path)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_zarr(path, dataset)
    except OSError as error:
        raise cannot_write(path, error) from error
    size = sum(array.nbytes for array in arrays.values())
    writing = {"seconds": round(time.perf_counter() - started, 3), "bytes": size}
    written["stages"] = {**marker.get("stages", {}), "write": writing}
    return write_marker(marker_path(path), written, [*files, path / "zarr.json"])


def _write_zarr(path: Path, dataset: xr.Dataset) -> None:
    with _checked_chunks():
        dataset.to_zarr(path, mode="w", zarr_format=3, consolidated=True, encoding=_encoding(dataset))


def _encoding(dataset: xr.Dataset) -> dict[str, dict[str, Any]]:
    # Of coordinates too: a shifted x reads as well as the right one.
    # The frame of zstd has bits that nothing looks at, and one that turns its checksum off: 2 of 256 flips went unseen.
    checked = {"compressors": (ZstdCodec(level=3, checksum=True), Crc32cCodec())}
    encoding: dict[str, dict[str, Any]] = {str(name): dict(checked) for name in dataset.variables}
    for name, variable in dataset.data_vars.items():
        if variable.ndim < 2:
            continue
        height, width = (-(-n // CHUNK_PX) * CHUNK_PX for n in variable.shape[-2:])
        outer = variable.shape[:-2]
        shard = (1, *outer[1:]) if len(outer) > 1 else outer  # one for each look of a year
        encoding[str(name)] = {
            "chunks": (*(1 for _ in outer), CHUNK_PX, CHUNK_PX),
            "shards": (*shard, height, width),
            **checked,
        }
    return encoding


def read_marker(path: Place) -> dict[str, Any] | None:
    """Return the completion marker of a store, or None where the store is absent or unfinished.

    Raises
    ------
    StoreError
        If the place does not answer: what is finished there is not to be made again for that.
    """
    try:
        marker = json.loads(marker_path(path).read_text(encoding="utf-8"))
        # Of what was deleted by a person the marker is worth nothing.
        there = (path / "zarr.json" if path.suffix == ".zarr" else path).is_file()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    except OSError as error:
        raise cannot_read(path, error) from error
    return marker if there and isinstance(marker, dict) else None


def is_current(path: Place, fingerprint: str) -> bool:
    """Tell whether a store is complete and was made from exactly these inputs."""
    marker = read_marker(path)
    return marker is not None and marker.get("fingerprint") == fingerprint


def _check_declared(path: Place) -> None:
    """Refuse what no tile-year is: whoever made a store says in it how much memory reading it takes."""
    text = read_start(path / "zarr.json", _MAX_METADATA_BYTES + 1)
    if len(text) > _MAX_METADATA_BYTES:
        raise ValueError(f"zarr.json is larger than {_MAX_METADATA_BYTES} bytes")
    nodes = json.loads(text)["consolidated_metadata"]["metadata"]
    arrays = {name: node for name, node in nodes.items() if node["node_type"] == "array"}
    if len(arrays) > _MAX_ARRAYS:
        raise ValueError(f"{len(arrays)} arrays")
    for name, node in arrays.items():
        kind = node["data_type"]
        item = np.dtype(kind).itemsize if isinstance(kind, str) else int(kind["configuration"]["length_bytes"])
        most = TILE_PX if len(node["shape"]) < 2 else TILE_PX**2
        outer = inner = math.prod(node["chunk_grid"]["configuration"]["chunk_shape"])
        if node["codecs"][0]["name"] == "sharding_indexed":
            inner = math.prod(node["codecs"][0]["configuration"]["chunk_shape"])
        planes, plane = math.prod(node["shape"][:-2]), math.prod(node["shape"][-2:])
        fits = 1 <= item <= _MAX_ITEM_BYTES and planes <= _MAX_PLANES and plane <= most
        if not (fits and 1 <= inner <= TILE_PX**2 and outer // inner <= _MAX_CHUNKS):
            raise ValueError(f"array {name[:40]!r} of shape {node['shape']} is none of a tile"[:120])


@contextlib.contextmanager
def open_store(path: Place) -> Iterator[xr.Dataset]:
    """Open a finished store lazily; a missing chunk is an error, never fill.

    Raises
    ------
    StoreError
        If the store is absent, unfinished or damaged.
    """
    if read_marker(path) is None:
        raise StoreError(f"{path} is not there or not finished", fix="run the step that makes it again")
    try:
        with _checked_chunks(), told(path):
            try:
                _check_declared(path)
            except (LookupError, TypeError, AttributeError) as error:
                raise ValueError("zarr.json is none of ours") from error
            source = ObjectStore(path.open_prefix(), read_only=True) if isinstance(path, ObjectPath) else path
            with xr.open_zarr(source, zarr_format=3, consolidated=True, chunks=None, mask_and_scale=False) as data:
                yield data
    except (RuntimeError, ValueError, OSError, KeyError) as error:
        if isinstance(path, ObjectPath) and isinstance(error, OSError):
            raise cannot_read(path, error) from error
        raise StoreError(
            f"{path} is damaged ({type(error).__name__}: {str(error)[:120]})",
            fix="delete it and run the same command again",
        ) from error


def grid_coords(geobox: GeoBox) -> dict[str, Any]:
    """Return x and y at pixel centres, and the CF grid mapping variable ``spatial_ref``."""
    height, width = geobox.shape
    a = geobox.transform
    crs = crs_of(geobox).proj
    mapping = {**crs.to_cf(), "GeoTransform": f"{a.c} {a.a} {a.b} {a.f} {a.d} {a.e}", "spatial_ref": crs.to_wkt()}
    unit = "m" if crs.is_projected else "degree"
    names = ("projection_x_coordinate", "projection_y_coordinate") if crs.is_projected else ("longitude", "latitude")
    return {
        "y": ("y", a.f + a.e * (np.arange(height) + 0.5), {"standard_name": names[1], "units": unit}),
        "x": ("x", a.c + a.a * (np.arange(width) + 0.5), {"standard_name": names[0], "units": unit}),
        "spatial_ref": ((), np.int32(0), mapping),
    }


def fingerprint_of(*parts: Any) -> str:
    """Return a sha256 over JSON-able inputs: what decides an output, and nothing that does not."""
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
