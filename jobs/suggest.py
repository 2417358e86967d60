"""``mangroves suggest``: pixels whose label would help the classifier most, and their labels as edits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import geopandas as gpd
import numpy as np
import pandas as pd

from engine.assess import labels_template, point_id, read_labels, sample_seed
from engine.edit_tasks import suggest_task
from engine.edits import add_edits, clip_edits, of_year, read_layer
from engine.errors import ConfigError, SampleError
from engine.files import replacing, write_text
from engine.legend import MANGROVE, OTHER
from engine.model import load_model
from engine.sample import part_path
from engine.suggest import join_pools, pixel_squares, suggest_points
from engine.train import hold_out_regions
from jobs.assess import labels_of
from jobs.classify import map_path
from jobs.context import Options, Run, open_run, work_options
from jobs.cube import cube_path
from jobs.edit import AUTHOR, mapped_plan, whoami
from jobs.lineage import recorded_model, refresh_lineage
from jobs.resume import recorded_params
from jobs.sample import adjoining_cubes

SPACING_M = 300.0
"""Ten pixels: nearer ones are near copies of each other."""


def suggest_labels(run: Run, *, year: int | None, count: int, spacing_m: float) -> dict[str, Any]:
    """Choose the points and write them to the run's folder ``suggest``."""
    year = max(run.params.years) if year is None else year
    if year not in run.params.years:
        fix = "years are " + ", ".join(map(str, run.params.years))
        raise ConfigError(f"the run has no map of {year}", fix=fix)
    plan, _ = mapped_plan(run)
    model = load_model(recorded_model(run, run.outputs))
    layer = read_layer(run.folder)
    pieces = {} if layer is None else clip_edits(layer.polygons, plan.tiles)
    held = hold_out_regions(run.params.train, [region.name for region in run.area.regions])
    adjoining, seed = adjoining_cubes(run, plan, model.features), sample_seed(run.params.seed) + 1
    parts = [part for part in plan.tile_years if part.year == year]
    calls = [
        (
            map_path(run, part),
            cube_path(run, part),
            part.tile,
            year,
            run.area,
            held,
            of_year(pieces.get(part.tile, ()), year),
            part_path(run.outputs / "sample", part.tile.id, year),
            model.features,
            model.edges,
            seed,
            adjoining[part.key],
        )
        for part in parts
    ]
    folder = run.folder / "suggest"
    with run.record.stage("suggest") as counts:
        pool = join_pools(found for _, found in run.tasks(suggest_task, calls, len(calls), "suggest"))
        points = suggest_points(pool, model.edges, year=year, count=count, spacing_m=spacing_m)
        points.insert(0, "id", [point_id(*at) for at in zip(points["zone"], points["row"], points["col"], strict=True)])
        counts.update(points=len(points), candidates=len(pool.candidates), year=year)
    if run.params.notice:
        points = points.assign(notice=run.params.notice)
    write_points(folder, points, year)
    about = {"year": year, "points": len(points), "spacing_m": spacing_m, "trees_sha256": model.tree_sha256()}
    write_text(folder / "suggest.json", json.dumps({**about, **run.tags}, indent=1))
    refresh_lineage(run, plan)
    if len(points) < count:
        run.reporter.say(f"suggest   {len(points)} points are {spacing_m:g} m apart and add something, not {count}")
    return {**about, "folder": str(folder)}


def write_points(folder: Path, points: gpd.GeoDataFrame, year: int) -> None:
    """Write the points for a GIS and as a table, and the form that an interpreter fills."""
    with replacing(folder / "points.gpkg") as temporary:
        points.to_file(temporary, driver="GPKG", layer="points", engine="pyogrio")
    write_text(folder / "points.geojson", points.to_json(drop_id=True))
    plain = pd.DataFrame(points.drop(columns="geometry"))
    write_text(folder / "points.csv", plain.to_csv(index=False, float_format="%.7g", lineterminator="\n"))
    write_text(folder / "labels_template.csv", labels_template(list(points["id"]), [year]))


def read_suggested(run: Run, file: Path) -> gpd.GeoDataFrame:
    """Return what an interpreter said of suggested points, as polygons to add: the pixels that are sure.

    Raises
    ------
    SampleError
        If nothing was suggested, the file is no table of these points, or no label is sure.
    """
    folder = run.folder / "suggest"
    try:
        year = int(json.loads((folder / "suggest.json").read_text(encoding="utf-8"))["year"])
        points = pd.read_csv(folder / "points.csv")
        ids = [str(name) for name in points["id"]]
        zone, row, col = (points[name].to_numpy(np.int64) for name in ("zone", "row", "col"))
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise SampleError(f"{folder} holds no suggestions", fix="run `mangroves suggest` first") from error
    labels = read_labels(labels_of(file), ids, [year], what=file.name)[:, 0]
    return label_pixels(zone, row, col, labels, year=year, notes=[f"suggested point {name}" for name in ids])


def label_pixels(
    zone: np.ndarray, row: np.ndarray, col: np.ndarray, labels: np.ndarray, *, year: int, notes: list[str]
) -> gpd.GeoDataFrame:
    """Return labels of pixels in a year as polygons: mangrove adds, other removes, what is unsure is left out.

    Raises
    ------
    SampleError
        If none is sure.
    """
    sure = np.flatnonzero(np.isin(labels, (MANGROVE, OTHER)))
    if not sure.size:
        raise SampleError("no label is sure", fix="write mangrove or other where it can be told")
    table = {
        "kind": np.where(labels[sure] == MANGROVE, "add", "remove"),
        "from_year": year,
        "to_year": year,
        "note": [notes[at] for at in sure],
    }
    return gpd.GeoDataFrame(table, geometry=pixel_squares(zone[sure], row[sure], col[sure]), crs="EPSG:4326")


@click.command("suggest")
@click.argument("run", type=click.Path(path_type=Path), metavar="RUN")
@click.option("--count", type=click.IntRange(1, 10_000), default=100, show_default=True, help="Points to suggest.")
@click.option("--year", type=int, help="Of the map to look at; default the last.")
@click.option(
    "--spacing", type=click.FloatRange(min=0), default=SPACING_M, show_default=True, help="Metres between two points."
)
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    help="suggest/labels_template.csv, filled: add what it says to the edits, and suggest nothing.",
)
@AUTHOR
@work_options
def command(
    run: Path, count: int, year: int | None, spacing: float, labels: Path | None, author: str, **given: Any
) -> None:
    """Propose pixels whose label would help the classifier most, as points for an interpreter.

    They are those the map is least sure of, unlike each other and what is labelled. Points and a form to fill go to
    RUN/suggest.
    """
    options = Options(config=None, overrides=(), fresh=False, **given)
    params = recorded_params(run, options.trust)
    with open_run(options, params=params, beside=True) as opened:
        if labels is None:
            told = suggest_labels(opened, year=year, count=count, spacing_m=spacing)
            opened.reporter.result(told, f"{told['points']} points in {told['folder']}: fill labels_template.csv")
            return
        found = read_suggested(opened, labels)
        layer, added = add_edits(opened.folder, found, author=author or whoami(), source=labels.name)
        opened.reporter.result(
            {"version": layer.version, "added": added},
            f"{added} labels added to the edits, version {layer.version}; train on them by train.edits: true",
        )
