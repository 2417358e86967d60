"""``mangroves why``: a pixel explained, from its scenes to its class."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import click
import numpy as np

from engine.area import Area, read_area, region_codes
from engine.catalog import periods_of
from engine.errors import ConfigError, EngineError
from engine.grid import Tile, grid_geobox, tiles_of
from engine.legend import CLASSES, names
from engine.mask_archives import ABOUT
from engine.masks import label_tile, open_masks
from engine.params import RunParams
from engine.places import Place
from engine.ranges import Access
from engine.reads import read_reads
from engine.record import ITEMS
from engine.scenes import Scene, read_scenes
from engine.sign import Signer
from engine.store import read_marker
from engine.trust import Trust
from engine.why import (
    Pixel,
    explain_cube,
    explain_history,
    explain_map,
    explain_region,
    explain_scenes,
    finished_pixel,
    finished_tile,
    pixel_at,
)
from jobs.config import ALLOW_HOST, ALLOW_ROOT, JSON, named_run, recorded_config, trust_of
from jobs.reporter import Reporter


@click.command("why", context_settings={"ignore_unknown_options": True})
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("lon", type=float)
@click.argument("lat", type=float)
@click.argument("year", type=int)
@ALLOW_HOST
@ALLOW_ROOT
@JSON
def command(
    run: Path,
    lon: float,
    lat: float,
    year: int,
    allow_host: tuple[str, ...],
    allow_root: tuple[str, ...],
    as_json: bool,
) -> None:
    """Explain a pixel in a year: its scenes and what masked them, the faults, label, class and history.

    RUN is the folder of the run; LON and LAT are degrees.
    """
    content = open_asked(run, trust_of(None, hosts=allow_host, roots=allow_root)).explain(lon, lat, year)
    Reporter(as_json=as_json).result(content, "\n".join(_lines(content)))


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A run that pixels are asked of: opened once, for any number of them."""

    folder: Path
    record: dict[str, Any]
    outputs: Place
    params: RunParams
    access: Access

    @cached_property
    def area(self) -> Area:
        """Of its file, which of finished tiles nothing needs but their labels."""
        return read_area(self.params.area, self.access.trust)

    @cached_property
    def scenes(self) -> list[Scene]:
        """Of the frozen list; none where there is no list yet."""
        return read_scenes(self.folder / ITEMS) if (self.folder / ITEMS).is_file() else []

    @cached_property
    def periods(self) -> dict[int, tuple[dt.datetime, dt.datetime]]:
        return periods_of(self.params.years, self.params.season, self.params.dates)

    def explain(self, lon: float, lat: float, year: int) -> dict[str, Any]:
        """Return all that is known of a pixel in a year; its scenes are read again from their source.

        Raises
        ------
        ConfigError
            If the year is none of the run, or the point lies in none of its tiles.
        """
        pixel = self._pixel_of(year, lon, lat)
        told = self._of_year(pixel, (lon, lat), year, self.access)
        rows = {scene["path_row"].replace("/", "") for scene in told["scenes"]}
        return self._where(pixel) | {
            **told,
            "refused": [
                refusal
                for refusal in self.record["refused"]
                if any(f"_{row}_{year}" in str(refusal.get("scene")) for row in rows)
            ],
            "label": self._label(pixel, year),
            "habitat_limit": self.params.habitat is not None,
        }

    def states(self, lon: float, lat: float, year: int) -> list[dict[str, Any]]:
        """Return the scenes that cover a pixel in a year and the state each found it in; raises as ``explain``."""
        found = []
        for scene in self._scenes_of(self._pixel_of(year, lon, lat), (lon, lat), year, self.access):
            loss = scene.get("lost")
            state = f"failed: {loss['cause']}" if loss else ", ".join(scene["said"])
            used = {True: "yes", False: "no", None: "unknown"}[scene["used"]]
            found.append({key: scene[key] for key in ("date", "platform", "path_row")} | {"state": state, "used": used})
        return found

    def story(self, lon: float, lat: float) -> dict[str, Any]:
        """Return what the run holds of a pixel in all years; no source of a scene is asked.

        Raises
        ------
        ConfigError
            If the point lies in none of the run's tiles.
        """
        pixel = self.pixel(lon, lat)
        told = [self._of_year(pixel, (lon, lat), year, None) for year in self.params.years]
        history = told[-1]["history"] or {}
        of_all = {name: history[name] for name in ("change", "loss_year", "gain_year") if history.get(name)}
        return self._where(pixel) | of_all | {"years": [_brief(year) for year in told]}

    def tile(self, name: str) -> Tile | None:
        """Return a tile as it was mapped; None where it is not."""
        return finished_tile(self.outputs, self.params.years, name)

    def pixel(self, lon: float, lat: float) -> Pixel:
        """Return the pixel that holds a point: of the run as it was mapped, else as its area has it."""
        found = finished_pixel(self.outputs, self.params.years, lon, lat)
        return found or pixel_at(tiles_of(self.area.geometry), lon, lat)

    def _pixel_of(self, year: int, lon: float, lat: float) -> Pixel:
        if year not in self.params.years:
            years = ", ".join(map(str, self.params.years))
            raise ConfigError(f"year {year} is not of the run", fix=f"give one of {years}")
        return self.pixel(lon, lat)

    def _where(self, pixel: Pixel) -> dict[str, Any]:
        maps = (self._map(pixel, year) for year in self.params.years)
        if mapped := next((store for store in maps if read_marker(store) is not None), None):
            region = explain_region(mapped, pixel)
        else:
            code = int(region_codes(self.area, pixel.tile)[pixel.at])
            region = self.area.regions[code - 1].name if code else None
        return {"tile": pixel.tile.id, "row": pixel.at[0], "col": pixel.at[1], "region": region}

    def _map(self, pixel: Pixel, year: int) -> Place:
        return self.outputs / "maps" / str(year) / f"{pixel.tile.id}.zarr"

    def _scenes_of(
        self, pixel: Pixel, point: tuple[float, float], year: int, access: Access | None
    ) -> Iterator[dict[str, Any]]:
        cube = self._cube(pixel, year)
        about = (self.periods[year], self.params.cube, access, read_marker(cube), read_reads(cube))
        return explain_scenes(self.scenes, pixel, point, *about)

    def _cube(self, pixel: Pixel, year: int) -> Place:
        return self.outputs / "cube" / pixel.tile.id / f"{year}.zarr"

    def _of_year(self, pixel: Pixel, point: tuple[float, float], year: int, access: Access | None) -> dict[str, Any]:
        history = self.outputs / "change" / "history" / f"{pixel.tile.id}.zarr"
        return {
            "year": year,
            "scenes": list(self._scenes_of(pixel, point, year, access)),
            "cube": explain_cube(self._cube(pixel, year), pixel),
            "map": explain_map(self._map(pixel, year), pixel),
            "history": explain_history(history, pixel, year),
        }

    def _label(self, pixel: Pixel, year: int) -> dict[str, Any]:
        """Return class and year of the mask at a pixel, or why there is none."""
        masks = [
            mask.model_copy(update={"path": str(self.folder / "masks" / f"{mask.path}-{mask.year}")})
            if mask.path in ABOUT
            else mask
            for mask in self.params.labels.masks
        ]
        labels = self.params.labels.model_copy(update={"masks": tuple(masks)})
        geobox = grid_geobox(pixel.tile.zone, (pixel.row, pixel.col, 1, 1))
        try:
            found = label_tile(open_masks(labels, trust=self.access.trust, area=self.area), geobox, year, labels)
        except EngineError as error:
            return {"class": None, "cause": error.problem}
        code = int(np.asarray(found.labels)[0, 0])
        edge = {} if found.interior[0, 0] else {"edge": True}
        return {"class": names(CLASSES)[code] if code else "unknown", "mask_year": found.mask_year, **edge}


def _brief(told: dict[str, Any]) -> dict[str, Any]:
    """Return what a reader asks first of a year."""
    cube, mapped, history = (told[name] or {} for name in ("cube", "map", "history"))
    found = {
        "year": told["year"],
        "class": history.get("class_by_all_years") or mapped.get("class"),
        "class_of_the_year_alone": mapped.get("class"),
        "probability": mapped.get("probability"),
        "clear_looks": cube.get("clear_looks"),
    }
    if "lost_looks" in cube:
        found["lost_looks"] = cube["lost_looks"]
    found["reflectance"] = cube.get("composite")
    return found | {"scenes": len(told["scenes"])}


def open_asked(run: Path, trust: Trust) -> Asked:
    """Open the run in a folder to be asked of its pixels.

    Raises
    ------
    EngineError
        If there is no run, or its record is none.
    """
    folder, record, outputs = named_run(run, None, trust)
    trust = trust.with_roots(folder)
    params = recorded_config(folder, record)
    access = Access(trust, Signer(trust), params.cube.requests)
    return Asked(folder=folder, record=record, outputs=outputs, params=params, access=access)


def _lines(content: dict[str, Any]) -> Iterator[str]:
    where = f"region {content['region']}" if content["region"] else "outside the area"
    yield f"tile {content['tile']}, row {content['row']}, column {content['col']}; {where}; {content['year']}"
    scenes = content["scenes"]
    yield f"scenes of the frozen list that cover it: {len(scenes)}"
    for scene in scenes:
        used = {True: "used", False: "not used", None: "unknown"}[scene["used"]]
        line = f"  {scene['date']} {scene['platform']} {scene['path_row']} {used}: {', '.join(scene['said'])}"
        if loss := scene.get("lost"):
            line += (
                f" ({loss.get('kind', 'permanent')}, {loss.get('attempts', '?')} attempts of {loss['asset'] or 'all'}: "
            )
            line += f"{loss['cause']})"
        read = scene["read"]
        again = f", {read['retries']} of them again" if read["retries"] else ""
        line += f"; read {read['bytes'] / 1e6:.1f} MB in {read['ranges']} ranges{again}" if read["ranges"] else ""
        yield f"{line}  {scene['scene']}"
    for refusal in content["refused"]:
        yield f"  refused {refusal['scene']}: {refusal['reason']}"
    cube = content["cube"]
    if cube is None:
        yield "cube: not finished"
    else:
        lost = f", {cube['lost_looks']} lost" if "lost_looks" in cube else ""
        values = ", ".join(f"{band} {'none' if v is None else f'{v:.4f}'}" for band, v in cube["composite"].items())
        yield f"cube: {cube['clear_looks']} clear looks{lost}; reflectance {values}"
    label = content["label"]
    if label["class"] is None:
        yield f"label: none ({label['cause']})"
    else:
        edge = ", at a class edge" if "edge" in label else ""
        yield f"label: {label['class']}, by the mask of {label['mask_year']}{edge}"
    yield f"habitat limit: {'set; outside it the class is 3' if content['habitat_limit'] else 'none'}"
    if content["map"] is None:
        yield "map: not finished"
    else:
        probability = content["map"]["probability"]
        yield f"map: {content['map']['class']}, probability {'none' if probability is None else probability}"
    history = content["history"]
    if history is None:
        yield "history: not finished"
    else:
        years = ", ".join(f"{key[:4]} {history[key]}" for key in ("loss_year", "gain_year") if history[key])
        when = f" ({years})" if years else ""
        yield f"history: {history['change']}{when}; by all years {history['class_by_all_years']}"
