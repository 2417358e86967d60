"""An output made again from its lineage: what its item asks for, and how what came out differs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from engine.code import code_sha256
from engine.errors import ConfigError, EngineError, StoreError
from engine.files import bytes_sha256, cannot_read, write_bytes
from engine.grid import Tile, is_tile_id
from engine.places import Place
from engine.plan import TileYear
from engine.reads import read_reads
from engine.store import array_sha256, open_store, read_marker
from engine.trust import safe_name

MOST_BYTES: Final = 2**25
"""Of an item; 40 years of a tile link some 2 000 scenes."""

AGAIN: Final = ("cubes", "maps", "histories", "changes", "models")
"""Products that are made again tile by tile; what joins tiles is of all of them."""

_SHA256: Final = 64


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What an item says of itself; all of it is untrusted."""

    id: str
    product: str
    tile: str
    """Empty of a model."""

    years: tuple[int, ...]
    sha256: str
    model_sha256: str
    config_sha256: str
    items_sha256: str
    engine_sha256: str
    files: Mapping[str, str]
    """File name -> sha256 of its bytes, of the assets that have one."""

    edits: tuple[int, str] | None = None
    """Version and sha256 of the edits that a model was trained on."""


def read_item(path: Path) -> Asked:
    """Read the item of an output.

    Raises
    ------
    StoreError
        If it cannot be read.
    ConfigError
        If it is no item of a catalog of ours, or of an output that is not made again alone.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ConfigError(f"item {path} is larger than {MOST_BYTES >> 20} MB", fix="name an item of RUN/stac")
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise cannot_read(path, error) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"item {path} is not JSON", fix="name an item of RUN/stac") from error
    try:
        asked = _asked(content)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ConfigError(f"{path} is not the item of an output of a run", fix="name an item of RUN/stac") from error
    safe_name(asked.id, what="item id")
    if asked.product not in AGAIN:
        raise ConfigError(
            f"item {asked.id} is of {asked.product!r}, which are not made again alone",
            fix=f"name an item of {', '.join(AGAIN)}; or run the configuration anew under another name",
        )
    return asked


def _asked(content: Any) -> Asked:
    properties = content["properties"]
    product = str(properties["mangroves:product"])
    tile = str(properties.get("mangroves:tile", ""))
    years = tuple(int(year) for year in properties.get("mangroves:years", ()))
    whole = product in ("models", "summaries")
    if content["type"] != "Feature" or not (whole or (is_tile_id(tile) and years)):
        raise ValueError("not an item of ours")
    hashes = {
        name: str(properties.get(f"mangroves:{name}", ""))
        for name in ("sha256", "model_sha256", "config_sha256", "items_sha256", "engine_sha256")
    }
    files = {}
    for asset in content["assets"].values():
        name, checksum = str(asset["href"]).rpartition("/")[2], str(asset.get("file:checksum", ""))
        # Styles say nothing of the data; a marker holds seconds, which no two runs share.
        if "data" in asset["roles"] and checksum.startswith("1220") and len(checksum) == 4 + _SHA256:
            files[name] = checksum[4:]
    drawn = properties.get("mangroves:edits")
    edits = (int(drawn["version"]), str(drawn["sha256"])) if drawn else None
    if edits and not 0 < edits[0] < 10**6:
        raise ValueError("no version of edits")
    return Asked(id=str(content["id"]), product=product, tile=tile, years=years, files=files, edits=edits, **hashes)


def check_lineage(asked: Asked, record: Mapping[str, Any], frozen: Path, *, any_code: bool) -> None:
    """Refuse an item that its run's record, list of scenes or this software do not belong to.

    Raises
    ------
    StoreError
        Saying which.
    """
    items = record["items"] or {}
    if asked.config_sha256 != record["config_sha256"] or asked.items_sha256 != items.get("sha256"):
        raise StoreError(
            f"item {asked.id} is of another configuration or list of scenes than the record beside it",
            fix="name an item of the run's own catalog",
        )
    if not frozen.is_file() or bytes_sha256(frozen) != asked.items_sha256:
        raise StoreError(f"{frozen} is not the list of scenes that {asked.id} was made from", fix="restore it")
    if asked.engine_sha256 != code_sha256() and not any_code:
        raise StoreError(
            f"item {asked.id} was made by other code (engine {asked.engine_sha256[:12]}, this is {code_sha256()[:12]})",
            fix="check out what it was made with, or pass --any-code to see what differs",
        )


def copy_edits(asked: Asked, run: Path, again: Path) -> None:
    """Give a run that makes a model again the edits that it was trained on.

    Parameters
    ----------
    asked : Asked
    run : Path
        Folder of the run that the item is of.
    again : Path
        Of the one that makes it again.

    Raises
    ------
    StoreError
        If they are not there any more as they were.
    """
    if asked.edits is None:
        return
    version, sha256 = asked.edits
    for suffix in (".gpkg", ".json"):
        name = f"v{version:04d}{suffix}"
        path = run / "edits" / name
        if not path.is_file() or (suffix == ".gpkg" and bytes_sha256(path) != sha256):
            raise StoreError(
                f"{path} is not there, or not as {asked.id} was trained on it (sha256 {sha256[:12]})",
                fix="restore it from a copy",
            )
        write_bytes(again / "edits" / name, path.read_bytes())


def needed_parts(asked: Asked, parts: Sequence[TileYear], *, context: bool) -> list[TileYear]:
    """Return the tile-years that must be made again for an item, with the tiles its pixels reach into.

    Raises
    ------
    ConfigError
        If the run has no such tile or year.
    """
    if asked.product == "models":
        return list(parts)
    own = [part for part in parts if part.tile.id == asked.tile]
    every_year = asked.product in ("histories", "changes")
    mine = [part for part in own if every_year or part.year in asked.years]
    if not mine:
        raise ConfigError(f"the run has no tile {asked.tile} in {asked.years}", fix="name an item of its own catalog")
    # A history reaches into adjoining tiles, and so does a map with features of a neighbourhood.
    rings = int(every_year) + int(context and asked.product != "cubes")
    years = {part.year for part in mine}
    return [part for part in parts if part.year in years and _rings(part.tile, own[0].tile) <= rings]


def _rings(tile: Tile, centre: Tile) -> int:
    """Return how many tiles away another lies, many where it is of another zone."""
    far = max(abs(tile.row - centre.row), abs(tile.col - centre.col))
    return far if tile.zone == centre.zone else 99


def store_of(asked: Asked, outputs: Place) -> Place:
    """Return where the store of an item's output lies in a run."""
    if asked.product == "cubes":
        return outputs / "cube" / asked.tile / f"{asked.years[0]}.zarr"
    if asked.product == "maps":
        return outputs / "maps" / str(asked.years[0]) / f"{asked.tile}.zarr"
    of = "history" if asked.product == "histories" else f"{asked.years[0]}-{asked.years[-1]}"
    return outputs / "change" / of / f"{asked.tile}.zarr"


def differences(asked: Asked, new: Place, old: Place) -> Iterator[str]:
    """Yield what differs between an item and what was made again.

    Parameters
    ----------
    asked : Asked
    new : Path or ObjectPath
        The store that was made.
    old : Path or ObjectPath
        The store that the item is of; where it is still there it tells more closely what differs.
    """
    marker = read_marker(new) or {}
    if marker.get("sha256") != asked.sha256:
        yield f"arrays of {new.name}: sha256 {str(marker.get('sha256'))[:12]}, the item says {asked.sha256[:12]}"
        yield from _arrays(asked, new, old)
    made = marker.get("files", {})
    for name, sha256 in sorted(asked.files.items()):
        if made.get(name) != sha256:
            yield f"asset {name}: sha256 {str(made.get(name))[:12]}, the item says {sha256[:12]}"


def _arrays(asked: Asked, new: Place, old: Place) -> Iterator[str]:
    """Yield which layers differ, and in how many pixels."""
    try:
        with open_store(new) as after, open_store(old) as before:
            if array_sha256({str(n): before[n].variable for n in before.data_vars}) != asked.sha256:
                yield f"{old} itself is not what its item says"
            for name in sorted(map(str, after.data_vars)):
                if name not in before or before[name].shape != after[name].shape:
                    yield f"layer {name}: of another shape"
                elif count := int(np.count_nonzero(_unlike(before[name].values, after[name].values))):
                    yield f"layer {name}: {count:,} of {after[name].size:,} values"
    except EngineError as error:
        yield f"what it was cannot be compared ({error.problem})"


def _unlike(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return (one != other) & ~((one != one) & (other != other))


def altered_scenes(new: Place, old: Place) -> Iterator[str]:
    """Yield the looks and assets of scenes of two cubes that were read with other sizes or other clear pixels."""
    before, after = (read_marker(store) or {} for store in (old, new))
    clear, now = before.get("clear_px", {}), after.get("clear_px", {})
    for look in sorted({*clear, *now}):
        if clear.get(look) != now.get(look):
            yield f"look {look}: {now.get(look, 0):,} clear pixels, were {clear.get(look, 0):,}"
    reads, again = ((read_reads(store) or {}).get("scenes", {}) for store in (old, new))
    for scene in sorted({*reads, *again}):
        for asset in sorted({*reads.get(scene, {}), *again.get(scene, {})}):
            sizes = [of.get(scene, {}).get(asset, {}).get("bytes", 0) for of in (again, reads)]
            if sizes[0] != sizes[1]:
                yield f"scene {scene}, asset {asset}: {sizes[0]:,} bytes read, were {sizes[1]:,}"
