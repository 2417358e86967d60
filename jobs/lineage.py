"""The catalog of a run: where all its outputs come from, written when they are done."""

from __future__ import annotations

from pathlib import Path

from engine.change import year_pairs
from engine.edits import list_versions
from engine.errors import EngineError
from engine.lineage import CATALOG, Finished, write_catalog
from engine.model import META_FILE, Model, load_model
from engine.places import Place
from engine.plan import Plan
from engine.record import STAC
from jobs.config import allowed_place
from jobs.context import Run
from jobs.plan import plan_run
from jobs.search import find_scenes


def write_lineage(run: Run, plan: Plan, model: Model, model_folder: Place) -> Path:
    """Write ``stac/catalog.json`` of a finished run, and return it."""
    params = run.params
    habitat = [] if run.habitat is None else [raster.href for raster in (*run.habitat[1].dem, *run.habitat[1].water)]
    with run.record.stage("catalog"):
        return write_catalog(
            Finished(
                params=params,
                record=run.record.data,
                folder=run.folder,
                outputs=run.outputs,
                plan=plan,
                periods=run.periods,
                model=model,
                model_folder=model_folder,
                habitat=habitat,
                pairs=year_pairs(params.years, params.change.pairs),
                edits=list_versions(run.folder),
            )
        )


def refresh_lineage(run: Run, plan: Plan | None = None) -> None:
    """Write the catalog of a run anew, where it has one, after something was added to the run."""
    if not (run.folder / STAC / CATALOG).is_file():
        return
    try:
        folder = recorded_model(run, run.outputs)
        write_lineage(run, plan or plan_run(run, find_scenes(run)), load_model(folder), folder)
    except EngineError as error:  # what was asked for is done
        run.reporter.say(f"catalog   is as it was: {error.problem}; `mangroves run` writes it anew")


def recorded_model(run: Run, recorded: Place) -> Place:
    """Return the folder of the model that a run's maps were made by."""
    source = run.params.train.source
    if source == "study":
        return recorded / "study" / "model"
    own = recorded / "model"  # of a run that writes to a store also one from elsewhere
    if source == "here" or (own / META_FILE).is_file():
        return own
    return allowed_place(source, run.trust, what="train.from")
