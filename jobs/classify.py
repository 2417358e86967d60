"""``mangroves classify``: probability and class, wall to wall, per tile-year."""

from __future__ import annotations

from collections.abc import Iterable

import click
import pandas as pd

from engine.change import merge_tables, write_table
from engine.classify import as_asked
from engine.legend import CLASSES, OUTSIDE_HABITAT, PROBABILITY_RAMP, Entry, Ramp
from engine.model import Model
from engine.places import Place
from engine.plan import Plan, TileYear
from engine.raster import write_qml, write_vrt
from engine.store import fingerprint_of, read_marker
from engine.tasks import classify_task, export_task, map_is_current, map_paths
from jobs.context import Options, Run, open_run, run_options
from jobs.cube import build_cubes, cube_path
from jobs.plan import plan_run
from jobs.sample import adjoining_cubes
from jobs.search import find_scenes
from jobs.train import check_training, fit_model


def map_path(run: Run, part: TileYear) -> Place:
    """Return the store of a tile-year's map."""
    return run.outputs / "maps" / str(part.year) / f"{part.tile.id}.zarr"


def classify_maps(run: Run, plan: Plan, model: Model, model_folder: Place) -> list[Place]:
    """Classify what is missing, join each year's tiles, and return the mosaics (VRT) of class."""
    params = run.params
    say_decision(run, as_asked(model, params.classify))
    # Once: a hash reads all trees anew.
    model_sha256, tags = model.sha256(), {**run.tags, **model_tags(model)}
    common = fingerprint_of(
        "map-1",
        model_sha256,
        params.classify.model_dump(),
        run.habitat_fingerprint,
        [(region.name, region.geometry.wkb_hex) for region in run.area.regions],
    )
    todo = []
    adjoining = adjoining_cubes(run, plan, model.features)

    def find(part: TileYear) -> tuple[TileYear, str, bool]:
        cube = read_marker(cube_path(run, part)) or {}
        around = [[other.tile.id, other.sha256] for other in adjoining[part.key]]
        fingerprint = fingerprint_of(common, cube.get("sha256"), *around)
        return part, fingerprint, map_is_current(map_path(run, part), fingerprint)

    for part, fingerprint, current in run.each(find, plan.tile_years):
        if not current:
            todo.append(
                (
                    cube_path(run, part),
                    part.tile,
                    part.year,
                    run.area,
                    model_folder,
                    model_sha256,
                    run.habitat_of_tasks,
                    run.access,
                    params.classify,
                    map_path(run, part),
                    fingerprint,
                    {**tags, "year": str(part.year)},
                    adjoining[part.key],
                )
            )
    run.say_skipped("classify", len(plan.tile_years), len(todo))
    with run.record.stage("classify") as counts:
        for _ in run.tasks(classify_task, todo, len(todo), "classify"):
            pass
        counts.update(done=len(todo), skipped=len(plan.tile_years) - len(todo))
    mosaics = join_tiles(run, plan, tags)
    areas = class_areas(run, plan)
    write_table(run.folder / "areas.csv", areas, notice=params.notice)
    run.describe(run.folder / "areas.csv", [map_path(run, part) for part in plan.tile_years])
    if run.habitat is not None:
        for year, hectares in areas[areas["code"] == OUTSIDE_HABITAT].groupby("year")["hectares"].sum().items():
            run.reporter.say(f"habitat   {year}: {hectares:,.1f} ha of the area lie outside the limit, class 3")
    return mosaics


def say_decision(run: Run, model: Model) -> None:
    """Say from which probability a pixel is mapped as mangrove, and for what land."""
    run.reporter.say(
        f"classify  mangrove from a probability of {model.threshold:.2f}, on land of which "
        f"{model.training_prevalence:.1%} is mangrove"
    )


def join_tiles(run: Run, plan: Plan, tags: dict[str, str]) -> list[Place]:
    """Write per year and zone a VRT over the tiles, with QGIS styles; return those of class."""
    mosaics = []
    for year in plan.years:
        folder = run.outputs / "maps" / str(year)
        for zone in sorted({tile.zone for tile in plan.tiles}):
            parts = [part for part in plan.tile_years if part.year == year and part.tile.zone == zone]
            for kind in ("class", "probability"):
                path = folder / f"{kind}_{year}_z{zone:02d}.vrt"
                tifs = [map_paths(map_path(run, part))[kind] for part in parts]
                write_vrt(path, tifs, legend=CLASSES if kind == "class" else None, tags={**tags, "year": str(year)})
                write_styles(run, (path, *tifs), CLASSES if kind == "class" else PROBABILITY_RAMP)
                run.describe(path, [map_path(run, part) for part in parts])
            mosaics.append(folder / f"class_{year}_z{zone:02d}.vrt")
    return mosaics


def write_styles(run: Run, rasters: Iterable[Place], style: tuple[Entry, ...] | Ramp) -> None:
    """Write the QGIS style beside each of some rasters."""
    run.each(lambda raster: write_qml(raster.with_suffix(".qml"), style), rasters)


def class_areas(run: Run, plan: Plan) -> pd.DataFrame:
    """Sum pixels and hectares of every class by year and region, from the completion markers."""
    markers = run.each(read_marker, [map_path(run, part) for part in plan.tile_years])
    return merge_tables(
        [
            pd.DataFrame((marker or {"areas": []})["areas"]).assign(year=part.year)
            for part, marker in zip(plan.tile_years, markers, strict=True)
        ]
    )


def model_tags(model: Model) -> dict[str, str]:
    """Return what a map says of its model: the trees, whose labels they learnt, and which of these were stale."""
    tags = {"trees_sha256": model.tree_sha256()}
    if model.masks:
        tags["labels"] = "; ".join(f"{mask['name']} {mask['year']}".strip() for mask in model.masks)
    stale = [f"of {mask['year']} for {year}" for mask in model.masks for year in mask["stale_years"]]
    if stale:
        tags["stale_labels"] = f"masks {', '.join(stale)}"
    return tags


def export_as_gmw(run: Run, plan: Plan, model: Model) -> list[Place]:
    """Write each class map once more with Global Mangrove Watch's codes."""
    tags = {**run.tags, **model_tags(model)}
    calls = [(map_path(run, part), part.tile, {**tags, "year": str(part.year)}) for part in plan.tile_years]
    return sorted(path for _, path in run.tasks(export_task, calls, len(calls), "export"))


@click.command("classify")
@click.option("--as", "export", type=click.Choice(["gmw"]), help="Also write maps coded 1/0, nodata 255, as GMW does.")
@run_options
def command(options: Options, export: str | None) -> None:
    """Map probability and class wall to wall, as zarr and COG; make what is missing first."""
    with open_run(options) as run:
        check_training(run)
        plan = plan_run(run, find_scenes(run))
        build_cubes(run, plan)
        model, folder = fit_model(run, plan)
        mosaics = classify_maps(run, plan, model, folder)
        extra = export_as_gmw(run, plan, model) if export else []
        run.reporter.result(
            {"maps": [str(path) for path in mosaics], "gmw": [str(path) for path in extra]},
            "\n".join(["maps:", *(f"  {path}" for path in [*mosaics, *extra])]),
        )
