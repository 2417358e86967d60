"""``mangroves reproduce``: an output made again from its lineage, and compared by hashes."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from engine.errors import ConfigError, ModelError, StoreError
from engine.kernels.features import wants_context
from engine.model import Model, load_model
from engine.places import Place
from engine.plan import Plan
from engine.record import ITEMS
from engine.reproduce import (
    Asked,
    altered_scenes,
    check_lineage,
    copy_edits,
    differences,
    needed_parts,
    read_item,
    store_of,
)
from engine.store import read_marker
from jobs.change import compare_years
from jobs.classify import classify_maps
from jobs.config import named_run, recorded_config
from jobs.context import Options, Run, open_run, work_options
from jobs.cube import build_cubes, cube_path
from jobs.lineage import recorded_model
from jobs.plan import plan_run
from jobs.search import find_scenes
from jobs.train import train_here


@click.command("reproduce")
@click.argument("item", type=click.Path(path_type=Path), metavar="ITEM")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder to make it in, which must be empty or not there; default reproduced/ID of the item.",
)
@click.option("--any-code", is_flag=True, help="Also with other code than the item was made by.")
@work_options
def command(item: Path, out: Path | None, any_code: bool, **given: Any) -> None:
    """Make an output again from its lineage and compare hashes; exit 1 if anything differs.

    ITEM is an item of a run's catalog, RUN/stac/PRODUCT/ID.json: a composite, a map, a history, a change or a model.
    The scenes of its frozen list are read anew. A map is classified by the recorded model, whose hash is checked.
    """
    item = item.resolve()
    asked, folder = read_item(item), item.parent.parent.parent
    options = Options(config=None, overrides=(), fresh=False, **given)
    out = (out or Path("reproduced") / asked.id).resolve()
    options = replace(options, allow_root=(*options.allow_root, str(folder), str(out)))
    _, record, outputs = named_run(folder, None, options.trust)
    check_lineage(asked, record, folder / ITEMS, any_code=any_code)
    params = recorded_config(folder, record).model_copy(update={"out": str(out), "store": None})
    if asked.product in ("histories", "changes") and params.change.model == "hmm":
        raise ConfigError(
            f"{asked.id} takes rates of change of all tiles (change.model: hmm)",
            fix="reproduce the maps it is told from, or run the configuration anew under another name",
        )
    if asked.product == "models" and params.train.source != "here":
        raise ConfigError(f"{asked.id} was trained elsewhere", fix="reproduce it where it was trained")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise StoreError(f"{out} is not empty, and nothing is overwritten", fix="name another folder by --out")
    with open_run(options, params=params) as run:
        if run.record.config_sha256 != asked.config_sha256:
            raise StoreError(
                f"the area of {asked.id} is not what it was (configuration {run.record.config_sha256[:12]}, the item "
                f"says {asked.config_sha256[:12]})",
                fix="restore its area file, and call the command from where the run was made",
            )
        shutil.copyfile(folder / ITEMS, run.folder / ITEMS)
        run.record.note_items(run.folder / ITEMS)
        if record.get("harmonisation"):
            run.record.note_harmonisation(record["harmonisation"])
        copy_edits(asked, folder, run.folder)
        content = _make(run, asked, outputs)
        content = {"item": asked.id, "made_in": str(run.folder), **content}
        lines = [f"differs   {line}" for line in content["differs"]]
        lines += [f"rerun: {content['rerun']}; taken as recorded: {content['recorded']}"]
        lines += [f"{asked.id} differs" if content["differs"] else f"{asked.id} is equal: {content['equal']}"]
        run.reporter.result(content, "\n".join(lines))
    if content["differs"]:
        sys.exit(1)


def _make(run: Run, asked: Asked, recorded: Place) -> dict[str, Any]:
    """Make what an item needs, and return what was rerun, what not, and what differs."""
    whole = plan_run(run, find_scenes(run))
    model: Model | None = None
    if asked.product in ("maps", "histories", "changes"):
        model = load_model(recorded_model(run, recorded))
        if model.sha256() != asked.model_sha256:
            raise ModelError(
                f"model {recorded_model(run, recorded)} is not that of {asked.id} "
                f"({model.sha256()[:12]}, the item says {asked.model_sha256[:12]})",
                fix="restore it",
            )
        run.record.note_masks(model.masks)
    parts = needed_parts(asked, whole.tile_years, context=model is not None and wants_context(model.features))
    plan: Plan = replace(whole, tile_years=tuple(parts))
    build_cubes(run, plan, harmonised=whole)
    rerun, kept = [f"{len(parts)} cubes"], ["list of scenes"]
    if asked.product == "models":
        made, _ = train_here(run, plan)
        found = made.sha256()
        differs = [] if found == asked.sha256 else [f"model: sha256 {found[:12]}, the item says {asked.sha256[:12]}"]
        return _told([*rerun, "sample", "model"], kept, [*differs, *_cubes(run, plan, recorded)], "trees and edges")
    if model is not None:
        classify_maps(run, plan, model, recorded_model(run, recorded))
        rerun.append(f"{len(parts)} maps")
        kept.append(f"model {asked.model_sha256[:12]}")
    if asked.product in ("histories", "changes"):
        assert model is not None
        compare_years(run, plan, model)
        rerun.append(f"{len(plan.tiles)} histories and what is told from them")
    differs = list(differences(asked, store_of(asked, run.outputs), store_of(asked, recorded)))
    if differs:
        differs += _cubes(run, plan, recorded)
    return _told(rerun, kept, differs, ", ".join(["arrays", *sorted(asked.files)]))


def _cubes(run: Run, plan: Plan, recorded: Place) -> list[str]:
    """Return what of the cubes an output stands on, and of their scenes, is not what it was."""
    found = []
    for part in plan.tile_years:
        new, old = cube_path(run, part), recorded / "cube" / part.tile.id / f"{part.year}.zarr"
        if (read_marker(new) or {}).get("sha256") != (read_marker(old) or {}).get("sha256"):
            found.append(f"cube {part.key}")
            found += altered_scenes(new, old)
    return found


def _told(rerun: list[str], kept: list[str], differs: list[str], equal: str) -> dict[str, Any]:
    return {"rerun": ", ".join(rerun), "recorded": ", ".join(kept), "differs": differs, "equal": equal}
