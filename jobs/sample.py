"""``mangroves sample``: labelled pixels drawn from the cubes and the masks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import click
import pandas as pd

from engine.files import content_sha256
from engine.kernels.features import FEATURE_SETS, wants_context
from engine.mask_archives import ABOUT, get_masks
from engine.masks import OpenMask, labelled_years, open_masks, stale_years
from engine.params import LabelParams
from engine.plan import Plan, TileYear
from engine.sample import check_sample, count_by, part_path, read_sample
from engine.scratch import release_scratch
from engine.store import fingerprint_of, read_marker
from engine.tasks import Adjoining, Draw, remove_unlisted, sample_task, within_reach_of
from jobs.context import Options, Run, open_run, run_options
from jobs.cube import build_cubes, cube_path
from jobs.harmonise import cube_params
from jobs.plan import plan_run
from jobs.search import find_scenes


def open_labels(run: Run) -> tuple[dict[int, int], list[OpenMask]]:
    """Return the years that masks label, each with its mask's year, and the masks; fetch those named by source.

    Called before there are cubes too, so that a wrong mask is told at once and not hours later.

    Raises
    ------
    MaskError, CatalogError
        If no mask may label any year, or one is unusable or cannot be fetched.
    """
    years = labelled_years(run.params.labels, run.params.sample.years or run.params.years)
    return years, open_masks(fetch_masks(run), trust=run.trust, area=run.area)


def draw_samples(run: Run, plan: Plan) -> pd.DataFrame:
    """Draw every labelled tile-year that is not drawn yet; return counts per region and class.

    Raises
    ------
    MaskError
        If no mask may label any year, or one is unusable.
    SampleError
        If a class is missing altogether.
    """
    params = run.params
    years, masks = open_labels(run)
    stale = stale_years(params.labels, years)
    for year, mask_year in stale.items():
        run.reporter.say(f"sample    stale labels: imagery of {year} by the mask of {mask_year}")
    features = FEATURE_SETS[params.train.features]
    folder = run.outputs / "sample"
    hashes = [[content_sha256(file.path) for file in mask.files] for mask in masks]
    common = fingerprint_of(
        "sample-2",
        params.sample.model_dump(),
        params.labels.model_dump(),
        run.habitat_fingerprint,
        params.seed,
        features,
        [(mask.year, of_files) for mask, of_files in zip(masks, hashes, strict=True)],
        [region.geometry.wkb_hex for region in run.area.regions],
    )
    parts = [part for part in plan.tile_years if part.year in years]
    adjoining = adjoining_cubes(run, plan, features)

    def find(part: TileYear) -> tuple[TileYear, str, set[str], bool]:
        marker = read_marker(cube_path(run, part)) or {}
        # Of the cube its scenes too: a row names their sensors, and counts their looks.
        lost = {loss["scene"] for loss in marker.get("lost", [])}
        around = [[other.tile.id, other.sha256] for other in adjoining[part.key]]
        fingerprint = fingerprint_of(common, marker.get("sha256"), marker.get("fingerprint"), sorted(lost), *around)
        drawn = read_marker(part_path(folder, part.tile.id, part.year)) or {}
        # As with cubes, what went without scenes stands only as long as that is accepted.
        current = drawn.get("fingerprint") == fingerprint and (params.skip_bad or not drawn["lost"])
        return part, fingerprint, {scene.id for scene in part.scenes} - lost, current

    missing = [(part, fingerprint, read) for part, fingerprint, read, current in run.each(find, parts) if not current]
    masks_of_tasks = [share_mask(run, mask) for mask in masks] if missing else []
    draw = Draw(
        area=run.area,
        masks=masks_of_tasks,
        labels=params.labels,
        sample=params.sample,
        habitat=run.habitat_of_tasks,
        access=run.access,
        seed=params.seed,
        features=features,
        cube=cube_params(run, plan),
        block_px=plan.block_px,
        skip_bad=params.skip_bad,
    )
    todo = [
        (cube_path(run, part), part, draw, folder, fingerprint, adjoining[part.key]) for part, fingerprint, _ in missing
    ]
    paths = [part_path(folder, part.tile.id, part.year) for part in parts]
    remove_unlisted(folder, {name for path in paths for name in (path.name, path.with_suffix(".json").name)})
    run.say_skipped("sample", len(parts), len(todo))
    with run.record.stage("sample") as counts:
        for part, _, read in missing:
            run.record.forget_lost(read, tile=part.tile.id, year=part.year)
        for _ in run.tasks(sample_task, todo, len(todo), "sample", shared=(draw,)):
            pass
        if params.sample.thinned and todo:
            run.client.run(release_scratch, on_error="ignore")  # before a training takes the memory
        markers = run.each(read_marker, paths)
        losses = [marker["lost"] if marker else [] for marker in markers]
        for part, lost in zip(parts, losses, strict=True):
            run.note_lost(part, [{**loss, "asset": f"thinned composites, {loss['asset']}"} for loss in lost])
        repaired = sum(marker.get("repaired_polygons", 0) for marker in markers if marker)
        table = count_by(read_sample(folder))
        rows = {"rows": int(table[["mangrove", "other"]].to_numpy().sum()), "thinned_rows": int(table["thinned"].sum())}
        counts.update(**rows, repaired_polygons=repaired)
        described = [describe_mask(mask, years, stale) for mask in masks]
        run.record.note_masks(
            [
                {**about, "sha256": of_files[0] if len(of_files) == 1 else fingerprint_of(of_files)}
                for about, of_files in zip(described, hashes, strict=True)
            ]
        )
        if run.habitat is not None:
            counts.update(mask_mangrove_outside_habitat_ha=say_excluded_mangrove(run, parts))
    if any(losses):
        without = sum(len(lost) for lost in losses)
        run.reporter.say(f"sample    thinned composites went without {without} scene(s) the cubes have; see run.json")
    if repaired:
        run.reporter.say(f"sample    repaired {repaired} invalid mask polygon(s)")
    check_sample(table)
    return table


def adjoining_cubes(run: Run, plan: Plan, features: Sequence[str]) -> dict[str, tuple[Adjoining, ...]]:
    """Return, by key of the tile-year, the cubes that neighbourhoods of its pixels reach into.

    Called once all cubes are made. There are none where no feature is of a neighbourhood.
    """
    if not wants_context(features):
        return {part.key: () for part in plan.tile_years}
    markers = run.each(lambda part: read_marker(cube_path(run, part)) or {}, plan.tile_years)
    cubes = {
        (part.year, part.tile.zone, part.tile.row, part.tile.col): Adjoining(
            cube_path(run, part), part.tile, marker.get("sha256")
        )
        for part, marker in zip(plan.tile_years, markers, strict=True)
    }

    def around(part: TileYear) -> Iterator[Adjoining]:
        tile = part.tile
        for down, right in product((-1, 0, 1), repeat=2):
            other = cubes.get((part.year, tile.zone, tile.row + down, tile.col + right))
            if other is not None and (down, right) != (0, 0) and within_reach_of(tile, other.tile):
                yield other

    return {part.key: tuple(around(part)) for part in plan.tile_years}


def share_mask(run: Run, mask: OpenMask) -> OpenMask:
    """Return a mask whose files are where workers read them."""
    return replace(mask, files=tuple(replace(file, path=run.share(file.path)) for file in mask.files))


def say_excluded_mangrove(run: Run, parts: Sequence[TileYear]) -> dict[str, float]:
    """Say, and return by year, how many hectares of the mask's mangrove the habitat limit leaves out."""
    paths = [part_path(run.outputs / "sample", part.tile.id, part.year) for part in parts]
    excluded: dict[str, float] = defaultdict(float)
    for part, marker in zip(parts, run.each(read_marker, paths), strict=True):
        excluded[str(part.year)] += (marker or {}).get("mask_mangrove_outside_habitat_ha", 0.0)
    for year, hectares in sorted(excluded.items()):
        run.reporter.say(f"habitat   {year}: {hectares:,.1f} ha of the mask's mangrove lie outside the limit")
    return {year: round(hectares, 4) for year, hectares in sorted(excluded.items())}


def fetch_masks(run: Run) -> LabelParams:
    """Return the labels with every mask a local path, fetching those named by their source.

    Raises
    ------
    MaskError, CatalogError
        If there is no such mask, or it cannot be fetched.
    """
    masks = []
    for mask in run.params.labels.masks:
        if mask.path in ABOUT:
            folder = run.folder / "masks" / f"{mask.path}-{mask.year}"
            if not folder.is_dir():
                get_masks(
                    mask.path,
                    mask.year,
                    run.area,
                    folder.parent,
                    trust=run.trust,
                    signer=run.access.signer,
                    progress=lambda line: run.reporter.say(f"masks     {line}"),
                )
            mask = mask.model_copy(update={"path": str(folder)})
        masks.append(mask)
    return run.params.labels.model_copy(update={"masks": tuple(masks)})


def describe_mask(mask: OpenMask, years: dict[int, int], stale: dict[int, int]) -> dict[str, Any]:
    """Return what an output must say of a mask it was trained on."""
    return {
        "name": mask.name,
        "year": mask.year,
        "version": mask.version,
        "licence": mask.licence,
        "citation": mask.citation,
        "definition": mask.definition,
        "labels_years": [year for year, mask_year in years.items() if mask_year == mask.year],
        "stale_years": [year for year, mask_year in stale.items() if mask_year == mask.year],
    }


def show_counts(run: Run, table: pd.DataFrame) -> None:
    """Print the sample's rows and the pixels they stand for."""
    run.reporter.table(
        "Sample: rows drawn (pixel-years they stand for)",
        ("region", "mangrove", "other", "thinned"),
        (
            (
                name,
                f"{row.mangrove:,.0f} ({row.mangrove_px:,.0f})",
                f"{row.other:,.0f} ({row.other_px:,.0f})",
                f"{row.thinned:,.0f}",
            )
            for name, row in table.iterrows()
        ),
    )


@click.command("sample")
@run_options
def command(options: Options) -> None:
    """Draw labelled pixels, seeded and stratified, as GeoParquet; build the cubes first where missing."""
    with open_run(options) as run:
        run.open_habitat()
        open_labels(run)
        plan = plan_run(run, find_scenes(run))
        build_cubes(run, plan)
        table = draw_samples(run, plan)
        show_counts(run, table)
        run.reporter.result(
            {"sample": str(run.outputs / "sample"), "regions": table.reset_index().to_dict("records")},
            f"sample in {run.outputs / 'sample'}",
        )
