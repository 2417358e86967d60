"""``mangroves edit``: what people correct on a map, kept in versions and applied on top of it."""

from __future__ import annotations

import getpass
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import pandas as pd

from engine.change import merge_tables, write_table
from engine.edit_tasks import edit_task, edited_is_current, edited_paths
from engine.edits import Layer, add_edits, clip_edits, list_versions, of_year, read_edits, read_layer, undo_edits
from engine.errors import ConfigError, StoreError
from engine.legend import AS_MAPPED, CLASSES, EDITS
from engine.places import Place
from engine.plan import Plan, TileYear
from engine.raster import write_vrt
from engine.record import read_record
from engine.store import fingerprint_of, read_marker
from engine.tasks import map_paths, remove_unlisted
from jobs.classify import map_path, write_styles
from jobs.context import Options, Run, open_run, work_options
from jobs.lineage import refresh_lineage
from jobs.plan import plan_run
from jobs.reporter import Reporter
from jobs.resume import recorded_params
from jobs.search import find_scenes


def edited_path(run: Run, part: TileYear) -> Place:
    """Return the store of a tile-year's edited map."""
    return run.outputs / "maps_edited" / str(part.year) / f"{part.tile.id}.zarr"


def mapped_plan(run: Run) -> tuple[Plan, dict[str, dict[str, Any]]]:
    """Return the plan of a run whose maps are all made, and the marker of each by key of the tile-year.

    Raises
    ------
    StoreError
        If a map is missing.
    """
    if not (run.folder / "items.parquet").is_file():
        raise StoreError(f"{run.folder} holds no map", fix="run `mangroves classify` first")
    plan = plan_run(run, find_scenes(run))
    markers = dict(
        zip(
            (part.key for part in plan.tile_years),
            run.each(lambda part: read_marker(map_path(run, part)), plan.tile_years),
            strict=True,
        )
    )
    for part in plan.tile_years:
        if markers[part.key] is None:
            missing, fix = map_path(run, part), "run `mangroves classify` first"
            raise StoreError(f"{missing} is not there or not finished", tile=part.tile.id, year=part.year, fix=fix)
    return plan, {key: marker for key, marker in markers.items() if marker}


def apply_layer(run: Run, plan: Plan, mapped: dict[str, dict[str, Any]], layer: Layer) -> dict[str, Any]:
    """Write the maps as edited where the edits changed; return what they come to."""
    pieces = clip_edits(layer.polygons, plan.tiles)
    area = [(region.name, region.geometry.wkb_hex) for region in run.area.regions]
    tags = {**run.tags, "edits": f"version {layer.version}", "edits_sha256": layer.sha256}
    touched = [(part, of) for part in plan.tile_years if (of := of_year(pieces.get(part.tile, ()), part.year))]

    def find(of: tuple[TileYear, tuple[tuple[int, bytes], ...]]) -> tuple[tuple[Any, ...], bool]:
        part, here = of
        outlines = [(code, outline.hex()) for code, outline in here]
        fingerprint = fingerprint_of("edit-1", mapped[part.key].get("sha256"), outlines, area)
        store, about = edited_path(run, part), {**tags, "year": str(part.year)}
        call = (map_path(run, part), part.tile, part.year, run.area, here, store, fingerprint, about)
        return call, edited_is_current(store, fingerprint)

    found = run.each(find, touched)
    todo = [call for call, current in found if not current]
    for year in plan.years:
        stores = [edited_path(run, part) for part, _ in touched if part.year == year]
        keep = [
            place for store in stores for place in (store, store.with_suffix(".json"), *edited_paths(store).values())
        ]
        keep += [_mosaic(run, year, tile.zone) for tile in plan.tiles]
        names = {name for place in keep for name in (place.name, f"{place.name}.aux.xml", f"{place.stem}.qml")}
        names |= {f"{_mosaic(run, year, tile.zone).name}.json" for tile in plan.tiles}
        remove_unlisted(run.outputs / "maps_edited" / str(year), names)
    run.say_skipped("edit", len(found), len(todo))
    with run.record.stage("edit") as counts:
        for _ in run.tasks(edit_task, todo, len(todo), "edit"):
            pass
        markers = [marker for marker in run.each(lambda of: read_marker(edited_path(run, of[0])), touched) if marker]
        told = {
            "version": layer.version,
            "sha256": layer.sha256,
            "polygons": len(layer.polygons),
            "polygons_elsewhere": len(layer.polygons) - len({piece.row for here in pieces.values() for piece in here}),
            **_changes(markers),
            "done": len(todo),
            "skipped": len(found) - len(todo),
        }
        counts.update(told)
    maps = _join_tiles(run, plan, [part for part, _ in touched], tags)
    areas = edited_areas(plan, mapped, {part.key: marker for (part, _), marker in zip(touched, markers, strict=True)})
    write_table(run.folder / "areas_edited.csv", areas, notice=run.params.notice)
    run.describe(run.folder / "areas_edited.csv", [edited_path(run, part) for part, _ in touched])
    _show(run, layer, told)
    return {**told, "maps": [str(path) for path in maps], "areas": str(run.folder / "areas_edited.csv")}


def _mosaic(run: Run, year: int, zone: int) -> Place:
    return run.outputs / "maps_edited" / str(year) / f"class_edited_{year}_z{zone:02d}.vrt"


def _changes(markers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return pixels and hectares, each of a pixel and year, whose class the edits changed, by kind of edit."""
    rows = [row for marker in markers for row in marker["changed"]]
    found: dict[str, Any] = {"changed_pixels": {}, "changed_ha": {}}
    for entry in EDITS:
        if entry.code != AS_MAPPED:
            some = [row for row in rows if row["code"] == entry.code]
            found["changed_pixels"][entry.name] = sum(row["pixels"] for row in some)
            found["changed_ha"][entry.name] = round(sum(row["hectares"] for row in some), 4)
    found["conflicting_pixels"] = sum(marker["conflicting_pixels"] for marker in markers)
    return found


def edited_areas(plan: Plan, mapped: dict[str, dict[str, Any]], edited: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """Lay the areas of the map and of the edited map side by side: a row a year, region and class."""

    def table(markers: list[dict[str, Any]]) -> pd.DataFrame:
        parts = zip(plan.tile_years, markers, strict=True)
        return merge_tables([pd.DataFrame(marker["areas"]).assign(year=part.year) for part, marker in parts])

    before = table([mapped[part.key] for part in plan.tile_years])
    after = table([edited.get(part.key, mapped[part.key]) for part in plan.tile_years])
    keys = [name for name in before.columns if name not in ("pixels", "hectares")]
    both = before.merge(after, on=keys, suffixes=("", "_edited"))
    return both.assign(difference_ha=both["hectares_edited"] - both["hectares"])


def _join_tiles(run: Run, plan: Plan, touched: Sequence[TileYear], tags: dict[str, str]) -> list[Place]:
    """Write per year and zone a VRT of class over edited tiles and, where nothing was drawn, those of the map."""
    edited, mosaics = {part.key for part in touched}, []
    for year in plan.years:
        for zone in sorted({tile.zone for tile in plan.tiles}):
            parts = [part for part in plan.tile_years if part.year == year and part.tile.zone == zone]
            own = [edited_paths(edited_path(run, part)) for part in parts if part.key in edited]
            tifs = [
                edited_paths(edited_path(run, part))["class"]
                if part.key in edited
                else map_paths(map_path(run, part))["class"]
                for part in parts
            ]
            path = _mosaic(run, year, zone)
            write_vrt(path, tifs, legend=CLASSES, tags={**tags, "year": str(year)})
            write_styles(run, (path, *(tif["class"] for tif in own)), CLASSES)
            write_styles(run, (tif["edit"] for tif in own), EDITS)
            run.describe(path, [edited_path(run, part) for part in parts if part.key in edited])
            mosaics.append(path)
    return mosaics


def _show(run: Run, layer: Layer, told: dict[str, Any]) -> None:
    changed = ", ".join(f"{name} {hectares:,.1f} ha" for name, hectares in told["changed_ha"].items())
    run.reporter.say(f"edit      version {layer.version}, {told['polygons']} polygon(s), all years together: {changed}")
    if told["conflicting_pixels"]:
        run.reporter.say(
            f"edit      {told['conflicting_pixels']:,} pixel(s) lie in polygons of several kinds: the last one holds"
        )
    if told["polygons_elsewhere"]:
        run.reporter.say(f"edit      {told['polygons_elsewhere']} polygon(s) reach no tile of this run")


def whoami() -> str:
    """Return the name of whoever types."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"


AUTHOR = click.option("--author", default="", help="Who drew polygons that name no author; default the user.")


@click.command("edit")
@click.argument("run", type=click.Path(path_type=Path), metavar="RUN")
@click.argument("file", required=False, type=click.Path(path_type=Path), metavar="[FILE]")
@AUTHOR
@click.option("--undo", is_flag=True, help="Take back what was added last, as a new version without it.")
@click.option("--list", "listed", is_flag=True, help="Print the versions there are, and do nothing.")
@work_options
def command(run: Path, file: Path | None, author: str, undo: bool, listed: bool, **given: Any) -> None:
    """Add polygons that people drew over the maps of a run, and write the maps as edited.

    FILE is a GeoPackage, GeoJSON or FlatGeobuf with a column kind: add, remove or unsure. Without it what was drawn
    before, in the viewer perhaps, is applied. The maps of the model stay as they are; those as edited are in
    RUN/maps_edited.
    """
    if sum((file is not None, undo, listed)) > 1:
        raise click.UsageError("give FILE, --undo or --list, one of them")
    if listed:
        show_versions(run, as_json=given["as_json"])
        return
    options = Options(config=None, overrides=(), fresh=False, **given)
    params = recorded_params(run, options.trust)
    found = None if file is None else read_edits(file)
    with open_run(options, params=params, beside=True) as opened:
        plan, mapped = mapped_plan(opened)
        if found is not None and file is not None:
            layer, added = add_edits(opened.folder, found, author=author or whoami(), source=file.name)
            opened.reporter.say(f"edit      {added} of {len(found)} polygon(s) are new: version {layer.version}")
        if undo:
            undo_edits(opened.folder, author=author or whoami())
        last = read_layer(opened.folder)
        if last is None:
            raise ConfigError(f"{run} has no edits", fix="give a FILE of polygons")
        told = apply_layer(opened, plan, mapped, last)
        refresh_lineage(opened, plan)
        opened.reporter.result(told, "\n".join(["edited maps:", *(f"  {path}" for path in told["maps"])]))


def show_versions(run: Path, *, as_json: bool) -> None:
    """Print what was done in each version of a run's edits."""
    if read_record(run) is None:
        raise StoreError(f"{run / 'run.json'} is not there", fix="name the folder of a run that was begun")
    versions = list_versions(run)
    lines = [
        f"{one['version']:>4}  {one['made']}  {one['author']}: {one['action']}, {one['polygons']} polygon(s) in all  "
        f"{one.get('source', '')}".rstrip()
        for one in versions
    ]
    Reporter(as_json=as_json).result({"versions": versions}, "\n".join(lines) or "no edits")
