"""The samples of a run with what people edited, for a training that asks for it (``train.edits``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from engine.edit_tasks import EditDraw, edit_sample_task
from engine.edits import clip_edits, of_year, read_layer
from engine.kernels.features import FEATURE_SETS
from engine.legend import MANGROVE, OTHER
from engine.places import Place
from engine.plan import Plan
from engine.sample import CLASS_NAMES, part_path
from engine.store import fingerprint_of, read_marker
from engine.tasks import remove_unlisted
from engine.train import hold_out_regions
from jobs.context import Run
from jobs.cube import cube_path
from jobs.sample import adjoining_cubes


def draw_edits(run: Run, plan: Plan, table: pd.DataFrame) -> tuple[Place, list[str], dict[str, Any] | None]:
    """Draw the edited tile-years that are not drawn yet.

    Parameters
    ----------
    run : Run
    plan : Plan
    table : DataFrame
        Counts of the ordinary sample, of ``engine.sample.count_by``.

    Returns
    -------
    folder : Path or ObjectPath
        Of parts that stand in place of those of the ordinary sample.
    fingerprints : list of str
        Of the parts.
    described : dict or None
        The edits as a model card tells of a mask; None where nothing was drawn.
    """
    folder, layer = run.outputs / "edits" / "sample", read_layer(run.folder)
    if layer is None or layer.polygons.empty:
        run.reporter.say("edits     there are none to train on: `mangroves edit` adds some")
        remove_unlisted(folder, set())
        return folder, [], None
    params = run.params
    features = FEATURE_SETS[params.train.features]
    draw = EditDraw(
        area=run.area,
        held_out=hold_out_regions(params.train, [region.name for region in run.area.regions]),
        sample=params.sample.model_copy(update={"rule": "stratified"}),
        seed=params.seed,
        features=features,
        weights=row_weights(table),
        layer=f"edits v{layer.version:04d}",
    )
    pieces = clip_edits(layer.polygons, plan.tiles)
    adjoining = adjoining_cubes(run, plan, features)
    common = fingerprint_of(
        "edit-sample-1",
        draw.held_out,
        draw.sample.model_dump(),
        draw.seed,
        features,
        sorted([*key, weight] for key, weight in draw.weights.items()),
        [region.geometry.wkb_hex for region in run.area.regions],
    )
    touched = [(part, of) for part in plan.tile_years if (of := of_year(pieces.get(part.tile, ()), part.year))]

    def find(of: Any) -> tuple[tuple[Any, ...], str, bool]:
        part, here = of
        ordinary = part_path(run.outputs / "sample", part.tile.id, part.year)
        inputs = [(read_marker(place) or {}).get(key) for place, key in _decides(ordinary, cube_path(run, part))]
        around = [[other.tile.id, other.sha256] for other in adjoining[part.key]]
        outlines = [(code, outline.hex()) for code, outline in here]
        fingerprint = fingerprint_of(common, inputs, around, outlines)
        call = (
            cube_path(run, part),
            part.tile,
            part.year,
            here,
            draw,
            ordinary,
            folder,
            fingerprint,
            adjoining[part.key],
        )
        drawn = read_marker(part_path(folder, part.tile.id, part.year)) or {}
        return call, fingerprint, drawn.get("fingerprint") == fingerprint

    found = run.each(find, touched)
    todo = [call for call, _, current in found if not current]
    paths = [part_path(folder, part.tile.id, part.year) for part, _ in touched]
    remove_unlisted(folder, {name for path in paths for name in (path.name, path.with_suffix(".json").name)})
    run.say_skipped("edits", len(found), len(todo))
    with run.record.stage("edit sample") as counts:
        for _ in run.tasks(edit_sample_task, todo, len(todo), "edits", shared=(draw,)):
            pass
        markers = [marker for marker in run.each(read_marker, paths) if marker]
        told = _told(markers)
        counts.update(version=layer.version, sha256=layer.sha256, **told)
    run.reporter.say(
        f"edits     version {layer.version}: {told['mangrove']:,} mangrove and {told['other']:,} other rows, "
        f"{told['overruled_rows']:,} of the masks' rows overruled"
    )
    if told["held_out_pixels"]:
        run.reporter.say(
            f"edits     {told['held_out_pixels']:,} edited pixels lie in regions held out and train nothing"
        )
    years = sorted({part.year for part, _ in touched})
    return folder, [fingerprint for _, fingerprint, _ in found], _describe(layer.version, layer.sha256, told, years)


def _decides(ordinary: Place, cube: Place) -> tuple[tuple[Place, str], ...]:
    return (ordinary, "fingerprint"), (cube, "sha256")


def _told(markers: Sequence[dict[str, Any]]) -> dict[str, int]:
    found = {name: sum(marker["rows"][name] for marker in markers) for name in CLASS_NAMES.values()}
    return found | {name: sum(marker[name] for marker in markers) for name in ("overruled_rows", "held_out_pixels")}


def _describe(version: int, sha256: str, told: dict[str, int], years: list[int]) -> dict[str, Any] | None:
    if not years or not told["mangrove"] + told["other"] + told["overruled_rows"]:
        return None
    return {
        "name": f"human edits v{version:04d}",
        "year": years[-1],
        "licence": "",
        "citation": f"polygons drawn over the map of this run, sha256 {sha256}",
        "version": str(version),
        "sha256": sha256,
        "definition": "{mangrove} rows mangrove, {other} other, {overruled_rows} of masks overruled".format(**told),
        "labels_years": years,
        "stale_years": [],
    }


def row_weights(table: pd.DataFrame) -> dict[tuple[str, int], float]:
    """Return how many pixels a drawn row of each region and label stands for; of region ``""`` those of all."""
    found = {}
    for code in (MANGROVE, OTHER):
        rows, pixels = table[CLASS_NAMES[code]], table[f"{CLASS_NAMES[code]}_px"]
        found["", code] = float(pixels.sum() / rows.sum())
        found |= {(str(name), code): float(pixels[name] / rows[name]) for name in table.index if rows[name]}
    return found
