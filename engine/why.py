"""Why a pixel has the values it has: its scenes and what masked them, the faults, and what was made of the rest."""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import shapely

from engine.errors import ConfigError, EngineError, StoreError
from engine.grid import EDGE_M, PIXEL_M, TILE_PX, Tile, grid_geobox, to_zone, zone_of
from engine.kernels.quality import clear_mask
from engine.landsat import BANDS, CLOUD_CONFIDENCE_SHIFT, FILL_DN, OFFSET, QA_BITS, QA_PIXEL, QA_RADSAT, SCALE
from engine.legend import CHANGES, CLASSES, PROBABILITY_MISSING, PROBABILITY_SCALE, names
from engine.params import CubeParams
from engine.places import Place
from engine.ranges import Access
from engine.reader import read_asset
from engine.scenes import Scene
from engine.store import open_store, read_marker

FAILURES: Final = 2
"""Scenes that could not be read after which the source is not asked any more: each may take a minute to fail."""


@dataclass(frozen=True)
class Pixel:
    """One pixel of a tile."""

    tile: Tile
    row: int
    """Of the zone's grid, as ``col``."""

    col: int

    @property
    def at(self) -> tuple[int, int]:
        """Row and column in the tile's arrays."""
        return self.row - self.tile.window[0], self.col - self.tile.window[1]


def pixel_at(tiles: Sequence[Tile], lon: float, lat: float) -> Pixel:
    """Return the pixel of some tiles that holds a point, degrees.

    Raises
    ------
    ConfigError
        If the point lies in none of them, or is no place on the UTM grid.
    """
    zone, row, col = _grid_pixel(lon, lat)
    for tile in tiles:
        if found := _pixel_in(tile, zone, row, col):
            return found
    raise ConfigError(
        f"point {lon:g} {lat:g} lies in no tile of the run", fix="give LON LAT inside its area, in that order"
    )


def _grid_pixel(lon: float, lat: float) -> tuple[int, int, int]:
    """Return zone, row and column of the pixel of the grid that holds a point, degrees."""
    if not (-180 <= lon <= 180 and -80 <= lat <= 80):
        raise ConfigError(
            f"point {lon:g} {lat:g} is not on the grid", fix="give LON -180..180 and LAT -80..80, degrees"
        )
    zone = zone_of(lon)
    easting, northing = to_zone(zone).transform(lon, lat)
    return zone, math.floor((EDGE_M - northing) / PIXEL_M), math.floor((easting - EDGE_M) / PIXEL_M)


def _pixel_in(tile: Tile, zone: int, row: int, col: int) -> Pixel | None:
    top, left, height, width = tile.window
    within = tile.zone == zone and top <= row < top + height and left <= col < left + width
    return Pixel(tile, row, col) if within else None


def finished_pixel(outputs: Place, years: Sequence[int], lon: float, lat: float) -> Pixel | None:
    """Return the pixel that holds a point, degrees, as a finished map or history of its tile has it; else None."""
    zone, row, col = _grid_pixel(lon, lat)
    tile = finished_tile(outputs, years, Tile(zone, col // TILE_PX, row // TILE_PX, (row, col, 1, 1)).id)
    return _pixel_in(tile, zone, row, col) if tile else None


def finished_tile(outputs: Place, years: Sequence[int], name: str) -> Tile | None:
    """Return a tile as the first finished map or history of it has it; None where there is none."""
    stores = [outputs / "maps" / str(year) / f"{name}.zarr" for year in years]
    for store in (*stores, outputs / "change" / "history" / f"{name}.zarr"):
        if read_marker(store) is None:
            continue
        with open_store(store) as data:
            height, width = data["class"].shape[-2:]
            left, top = float(data["x"][0]) - PIXEL_M / 2, float(data["y"][0]) + PIXEL_M / 2
        zone, col, row = (int(name[first:last]) for first, last in ((1, 3), (5, 7), (9, None)))
        try:
            window = (round((EDGE_M - top) / PIXEL_M), round((left - EDGE_M) / PIXEL_M), height, width)
            return Tile(zone, col, row, window)
        except ValueError as error:
            raise StoreError(f"{store} is not a store of tile {name}", fix="run `mangroves verify`") from error
    return None


def explain_scenes(
    scenes: Sequence[Scene],
    pixel: Pixel,
    point: tuple[float, float],
    period: tuple[dt.datetime, dt.datetime],
    params: CubeParams,
    access: Access | None,
    marker: Mapping[str, Any] | None,
    ledger: Mapping[str, Any] | None,
) -> Iterator[dict[str, Any]]:
    """Say of each scene of a period that covers a point what became of it, in order of time.

    Read from its source as the cube did; where that does not answer, or without ``access``, by what marker and ledger
    of the cube know.
    """
    lost = {loss["scene"]: loss for loss in (marker or {}).get("lost", [])}
    read = (ledger or {}).get("scenes", {})
    taken = set((marker or {}).get("scenes", []))
    where = shapely.Point(point)
    clear_of: set[str] = set()
    failures = 0
    for scene in sorted(scenes, key=lambda scene: (scene.datetime, scene.id)):
        if not (period[0] <= scene.datetime < period[1] and scene.geometry.covers(where)):
            continue
        told: dict[str, Any] = {
            "scene": scene.id,
            "date": f"{scene.datetime:%Y-%m-%d}",
            "platform": scene.platform,
            "path_row": f"{scene.wrs_path:03d}/{scene.wrs_row:03d}",
            "read": _total(read.get(scene.id, {})),
        }
        if marker is not None and scene.id not in taken:
            yield told | {"used": False, "said": ["not among the scenes of the cube"]}
        elif scene.id in lost:
            yield told | {"used": False, "said": ["lost"], "lost": lost[scene.id]}
        elif access is None:
            yield told | {"used": None, "said": ["its source was not asked"]}
        elif failures >= FAILURES:
            yield told | {"used": None, "said": ["its source was not asked, as it does not answer"]}
        else:
            try:
                said = _said_of(scene, pixel, params, access)
            except EngineError as error:
                failures += 1
                yield told | {"used": None, "said": [f"cannot be read now: {error.problem}"]}
                continue
            clear = said[0] == "clear"
            used = clear and scene.observation not in clear_of
            if clear and not used:
                said = ["clear, as an earlier scene of its pass was", *said[1:]]
            clear_of |= {scene.observation} if used else set()
            yield told | {"used": used, "said": said}


def _total(assets: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """Return what a cube read of a scene, all assets together."""
    return {key: sum(asset.get(key, 0) for asset in assets.values()) for key in ("ranges", "bytes", "retries")}


def _said_of(scene: Scene, pixel: Pixel, params: CubeParams, access: Access) -> list[str]:
    geobox = grid_geobox(pixel.tile.zone, (pixel.row, pixel.col, 1, 1))
    word, radsat = (read_asset(scene, asset, geobox, access) for asset in (QA_PIXEL, QA_RADSAT))
    usable = clear_mask(
        word,
        radsat,
        unusable_radsat=scene.sensor.unusable_radsat,
        reject_cloud_confidence=params.reject_cloud_confidence,
    )
    if not usable[0, 0]:
        return flags_of(int(word[0, 0]), int(radsat[0, 0]), scene.sensor.unusable_radsat)
    empty = [band for band in BANDS if read_asset(scene, band, geobox, access)[0, 0] == FILL_DN]
    if empty:
        return [f"no data in {', '.join(empty)}"]
    return ["clear", "water"] if word[0, 0] >> QA_BITS["water"] & 1 else ["clear"]


def flags_of(word: int, radsat: int, unusable_radsat: int) -> list[str]:
    """Return what keeps a pixel from being clear, by its QA_PIXEL and QA_RADSAT words.

    Examples
    --------
    >>> flags_of(22280, 0, 126), flags_of(1, 0, 126), flags_of(21824, 2, 126)
    (['cloud'], ['fill'], ['saturated or occluded'])
    """
    if word == 0:
        return ["no quality word"]
    said = [
        name.replace("_", " ") for name, bit in QA_BITS.items() if name not in ("clear", "water") and word >> bit & 1
    ]
    if radsat & unusable_radsat:
        said.append("saturated or occluded")
    return said or [("low", "low", "medium", "high")[(word >> CLOUD_CONFIDENCE_SHIFT) & 3] + " confidence of cloud"]


def explain_cube(store: Place, pixel: Pixel) -> dict[str, Any] | None:
    """Return what a cube says of a pixel, its composite as reflectance; None where there is no finished cube."""
    if read_marker(store) is None:
        return None
    y, x = pixel.at
    with open_store(store) as data:
        values = data["composite"][:, y, x].values
        told = {
            "clear_looks": int(data["clear_count"][y, x]),
            "composite": {
                band: round(float(dn) * SCALE + OFFSET, 4) if dn != FILL_DN else None
                for band, dn in zip(BANDS, values, strict=True)
            },
        }
        if "lost_count" in data:
            told["lost_looks"] = int(data["lost_count"][y, x])
    return told


def explain_map(store: Place, pixel: Pixel) -> dict[str, Any] | None:
    """Return class, probability and region that a map gives a pixel; None where there is no finished map."""
    if read_marker(store) is None:
        return None
    y, x = pixel.at
    with open_store(store) as data:
        code, probability = int(data["class"][y, x]), int(data["probability"][y, x])
        return {
            "class": names(CLASSES)[code],
            "probability": None if probability == PROBABILITY_MISSING else round(probability / PROBABILITY_SCALE, 4),
            "region": int(data["region"][y, x]),
        }


def explain_region(store: Place, pixel: Pixel) -> str | None:
    """Return the name of the region of a pixel as a finished map has it; None outside the area."""
    with open_store(store) as data:
        code = int(data["region"][pixel.at])
        try:
            return str(json.loads(str(data.attrs.get("regions")))[code - 1]) if code else None
        except (ValueError, LookupError, TypeError):
            return str(code)


def explain_history(store: Place, pixel: Pixel, year: int) -> dict[str, Any] | None:
    """Return what all years together say of a pixel; None where there is no finished history."""
    if read_marker(store) is None:
        return None
    y, x = pixel.at
    with open_store(store) as data:
        at = np.flatnonzero(data["year"].values == year)
        told = {name: int(data[name][y, x]) or None for name in ("loss_year", "gain_year")}
        return {
            "change": names(CHANGES).get(int(data["kind"][y, x]), "none"),
            **told,
            "class_by_all_years": names(CLASSES)[int(data["class"][int(at[0]), y, x])] if at.size else None,
        }
