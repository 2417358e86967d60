"""``mangroves why``: a pixel explained, from its scenes to its class."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np

from engine.area import Area, read_area, region_codes
from engine.catalog import periods_of
from engine.errors import ConfigError, EngineError
from engine.grid import grid_geobox, tiles_of
from engine.legend import CLASSES, names
from engine.mask_archives import ABOUT
from engine.masks import label_tile, open_masks
from engine.params import RunParams
from engine.ranges import Access
from engine.reads import read_reads
from engine.record import ITEMS
from engine.scenes import read_scenes
from engine.sign import Signer
from engine.store import read_marker
from engine.trust import Trust
from engine.why import Pixel, explain_cube, explain_history, explain_map, explain_scenes, pixel_at
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
    trust = trust_of(None, hosts=allow_host, roots=allow_root)
    run, record, outputs = named_run(run, None, trust)
    trust = trust.with_roots(run)
    params = recorded_config(run, record)
    if year not in params.years:
        raise ConfigError(f"year {year} is not of the run", fix=f"give one of {', '.join(map(str, params.years))}")
    area = read_area(params.area, trust)
    pixel = pixel_at(tiles_of(area.geometry), lon, lat)
    tile, period = pixel.tile, periods_of(params.years, params.season, params.dates)[year]
    cube = outputs / "cube" / tile.id / f"{year}.zarr"
    scenes = read_scenes(run / ITEMS) if (run / ITEMS).is_file() else []
    access = Access(trust, Signer(trust), params.cube.requests)
    told = list(
        explain_scenes(scenes, pixel, (lon, lat), period, params.cube, access, read_marker(cube), read_reads(cube))
    )
    rows = {scene["path_row"].replace("/", "") for scene in told}
    region = int(region_codes(area, tile)[pixel.at])
    content = {
        "tile": tile.id,
        "row": pixel.at[0],
        "col": pixel.at[1],
        "region": area.regions[region - 1].name if region else None,
        "year": year,
        "scenes": told,
        "refused": [
            refusal
            for refusal in record["refused"]
            if any(f"_{row}_{year}" in str(refusal.get("scene")) for row in rows)
        ],
        "cube": explain_cube(cube, pixel),
        "label": _label(params, area, pixel, year, run, trust),
        "habitat_limit": params.habitat is not None,
        "map": explain_map(outputs / "maps" / str(year) / f"{tile.id}.zarr", pixel),
        "history": explain_history(outputs / "change" / "history" / f"{tile.id}.zarr", pixel, year),
    }
    Reporter(as_json=as_json).result(content, "\n".join(_lines(content)))


def _label(params: RunParams, area: Area, pixel: Pixel, year: int, run: Path, trust: Trust) -> dict[str, Any]:
    """Return class and year of the mask at a pixel, or why there is none."""
    masks = [
        mask.model_copy(update={"path": str(run / "masks" / f"{mask.path}-{mask.year}")})
        if mask.path in ABOUT
        else mask
        for mask in params.labels.masks
    ]
    labels = params.labels.model_copy(update={"masks": tuple(masks)})
    geobox = grid_geobox(pixel.tile.zone, (pixel.row, pixel.col, 1, 1))
    try:
        found = label_tile(open_masks(labels, trust=trust, area=area), geobox, year, labels)
    except EngineError as error:
        return {"class": None, "cause": error.problem}
    code = int(np.asarray(found.labels)[0, 0])
    edge = {} if found.interior[0, 0] else {"edge": True}
    return {"class": names(CLASSES)[code] if code else "unknown", "mask_year": found.mask_year, **edge}


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
