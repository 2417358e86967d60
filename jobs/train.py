"""``mangroves train``: fit the classifier, score it on land it never saw."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import click

from engine.area import study_regions
from engine.card import Facts, write_card
from engine.cluster import worker_bytes
from engine.errors import ConfigError, ModelError
from engine.files import write_text
from engine.kernels.features import COMPOSITE_FEATURES, FEATURE_SETS
from engine.model import BANDS_MODEL, Model, load_model
from engine.params import AreaParams, BoostParams, TrainParams
from engine.places import Place, remove
from engine.plan import Plan
from engine.sample import part_path, read_sample, years_and_sensors
from engine.store import fingerprint_of, read_marker
from engine.train import check_spread, hold_out_regions, train_model, write_suspects
from jobs.config import allowed_place
from jobs.context import Options, Run, open_run, run_options
from jobs.cube import build_cubes
from jobs.edit_sample import draw_edits
from jobs.plan import plan_run
from jobs.sample import draw_samples, open_labels, show_counts
from jobs.search import find_scenes


def check_training(run: Run) -> None:
    """Open what training and classifying need before there are cubes: what is wrong is told at once.

    Raises
    ------
    ConfigError
        If a region to hold out is not in the area trained on, or ``train.tuned`` is asked for where another area is.
    MaskError, ModelError
        If a mask or model cannot be used.
    """
    source = run.params.train.source
    if source == "study" and run.params.train.tuned:
        raise ConfigError(
            "train.tuned: `mangroves tune` searches this run's regions, not the study's, which train.from names",
            fix="set train.tuned to false, or train.from to here",
        )
    run.open_habitat()
    if source == "here":
        check_spread(training_params(run), run.client, run.plain_collective)
        open_labels(run)
        names = [region.name for region in run.area.regions]
        unknown = [name for name in run.params.train.hold_out or () if name not in names]
        if unknown:
            raise ConfigError(f"train.hold_out: no region {unknown[0]!r}", fix=f"the area has {', '.join(names)}")
    elif source == "study":
        with open_study(run) as study:
            check_training(study)
    else:
        _load_other(run)


def _load_other(run: Run) -> tuple[Model, Place]:
    """Load the model that ``train.from`` names; refuse one that learnt from another kind of composite."""
    folder = allowed_place(run.params.train.source, run.trust, what="train.from")
    model = load_model(folder)
    for key, before_it_was_told in (("composite", "median"), ("tide", "all")):
        learnt, here = model.params.get(key, before_it_was_told), getattr(run.params.cube, key)
        if learnt != here:
            raise ModelError(
                f"model {folder} learnt from composites by {learnt}, this run makes them by {here}",
                fix=f"set cube.{key} to {learnt}, or train anew",
            )
    return model, folder


def _share_model(run: Run, model: Model, folder: Place) -> Place:
    """Return a folder of a model that workers see: where outputs go to a store, they may see no other."""
    return model.save(run.outputs / "model") if run.params.store and isinstance(folder, Path) else folder


def fit_model(run: Run, plan: Plan) -> tuple[Model, Place]:
    """Return the model of a run and its folder: trained here, on the study's regions, or loaded.

    Raises
    ------
    SampleError
        If there is nothing to train on.
    ModelError
        If ``train.from`` names a folder that is not a sound model, or one of another kind of composites.
    """
    source = run.params.train.source
    if source == "here":
        return train_here(run, plan)
    if source == "study":
        model, folder = train_on_study(run)
    else:
        model, folder = _load_other(run)
        folder = _share_model(run, model, folder)
        run.reporter.say(f"train     model of {', '.join(model.regions)} from {folder}")
    run.record.note_masks(model.masks)  # of a model made elsewhere, as of one's own
    return model, folder


def train_here(run: Run, plan: Plan) -> tuple[Model, Place]:
    """Draw the sample where it is missing, and fit the model unless it is of exactly this sample."""
    table = draw_samples(run, plan)
    show_counts(run, table)
    folder = run.outputs / "model"
    inputs = folder / "inputs.json"
    sample = run.outputs / "sample"
    edited, drawn, edits = draw_edits(run, plan, table) if run.params.train.edits else (None, [], None)
    parts = run.each(read_marker, [part_path(sample, part.tile.id, part.year) for part in plan.tile_years])
    fingerprint = fingerprint_of(
        "model-4",
        [(marker["fingerprint"], [loss["scene"] for loss in marker.get("lost", [])]) for marker in parts if marker],
        training_params(run).model_dump(exclude={"distributed", "source", "tuned", "edits"}),
        drawn,
        run.params.classify.threshold,
        run.params.seed,
    )
    if inputs.is_file() and json.loads(inputs.read_text(encoding="utf-8")).get("fingerprint") == fingerprint:
        run.reporter.say("train     model finished earlier, skipped")
        return load_model(folder), folder
    inputs.unlink(missing_ok=True)
    with run.record.stage("train") as counts:
        facts = describe_sample(run, sample)
        # One place for both: while the second is fitted, the first is not to be fitted again.
        checkpoints = folder / "checkpoints"
        rows = _Rows(sample, edited, edits)
        model = _train(run, rows, folder, facts, checkpoints)
        bands = _train(run, rows, folder / BANDS_MODEL, facts, checkpoints, COMPOSITE_FEATURES)
        write_text(inputs, json.dumps({"fingerprint": fingerprint}))
        remove(checkpoints)
        counts.update(
            rows=sum(model.training_rows.values()),
            trees_sha256=model.tree_sha256(),
            bands_trees_sha256=bands.tree_sha256(),
        )
    return model, folder


def training_params(run: Run) -> TrainParams:
    """Return how to train: as configured, or with the trees of the best trial of ``mangroves tune``.

    Raises
    ------
    ConfigError
        If ``train.tuned`` is asked for before there was a search.
    """
    train = run.params.train
    if not train.tuned:
        return train
    path = run.folder / "tune" / "best.json"
    try:
        best = json.loads(path.read_text(encoding="utf-8"))
        trees = BoostParams.model_validate(best["train"]).model_dump()
        unseen, features = set(best["hold_out"]), list(best["features"])
    except FileNotFoundError:
        raise ConfigError("train.tuned: no search of xgboost yet", fix="run `mangroves tune` first") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"train.tuned: {path} is not what `mangroves tune` writes", fix="search again") from error
    if seen := sorted(set(hold_out_regions(train, [region.name for region in run.area.regions])) - unseen):
        raise ConfigError(f"train.tuned: the search saw {seen[0]}, which is held out now", fix="search again")
    if features != list(FEATURE_SETS[train.features]):
        raise ConfigError(
            "train.tuned: the search was of other features", fix="search again, or set train.features back"
        )
    return train.model_copy(update=trees)


def describe_sample(run: Run, sample: Place) -> Facts:
    """Return what the card of a model says of the rows it was trained on."""
    years, sensors = years_and_sensors(sample)
    return {
        "title": run.params.name,
        "notice": run.params.notice,
        "years": years,
        "sensors": sensors,
        "footprints": {region.name: region.geometry for region in run.area.regions},
    }


class _Rows(NamedTuple):
    """What a model is trained on."""

    sample: Place
    edited: Place | None
    """Parts that stand in place of the sample's."""

    edits: dict[str, Any] | None
    """As a card tells of a mask."""


def _train(
    run: Run,
    rows: _Rows,
    folder: Place,
    facts: Facts,
    checkpoints: Place,
    features: Sequence[str] | None = None,
) -> Model:
    """Fit a model of some features, and write its folder: model, card, suspect rows."""
    params = run.params
    run.reporter.say(f"train     fitting and scoring{' the model of bands and indices' if features else ''} ...")
    trained = train_model(
        read_sample(rows.sample, rows.edited),
        params=training_params(run),
        features=features,
        threshold=params.classify.threshold,
        seed=params.seed,
        client=run.client,
        worker_memory=worker_bytes(run.client),
        checkpoints=checkpoints,
        plain_collective=run.plain_collective,
    )
    learnt = {**trained.model.params, "composite": params.cube.composite, "tide": params.cube.tide}
    metrics = {**trained.model.metrics, **({"notice": params.notice} if params.notice else {})}
    masks = [*run.record.data["masks"], *([rows.edits] if rows.edits else [])]
    model = replace(trained.model, masks=tuple(masks), params=learnt, metrics=metrics)
    write_suspects(trained.suspects, folder / "suspects.parquet")
    model.save(folder)
    write_card(model, folder, facts=facts)
    return model


def train_on_study(run: Run) -> tuple[Model, Place]:
    """Train on the published study's 25 regions, with this run's years, masks and settings."""
    run.reporter.say("train     on the study's 25 regions:")
    with open_study(run) as study:
        plan = plan_run(study, find_scenes(study))
        build_cubes(study, plan)
        return train_here(study, plan)


@contextmanager
def open_study(run: Run) -> Iterator[Run]:
    """Open the run of the published study's 25 regions inside this one."""
    area = AreaParams(regions=tuple(study_regions()), size_km=run.params.area.size_km)
    train = run.params.train.model_copy(update={"source": "here"})
    places = {"out": str(run.folder), "store": None if run.params.store is None else str(run.outputs)}
    params = run.params.model_copy(update={"name": "study", **places, "area": area, "train": train})
    with run.inner(params) as study:
        yield study


def show_score(run: Run, model: Model) -> dict[str, Any]:
    """Print what the model reached, naming population and label, and return it."""
    metrics = model.metrics
    rows = [(f"{metrics['scope']}, wall-to-wall", metrics.get("wall_to_wall"))]
    rows += [(f"{metrics['scope']}, as drawn", metrics.get("as_drawn"))]
    random = metrics.get("random_split") or {}
    rows += [(f"{random.get('scope', 'random')}, wall-to-wall", random.get("wall_to_wall"))]
    own = run.params.train.source == "here"
    run.reporter.table(
        "Score against the mask" if own else f"Score of the model where it was trained ({', '.join(model.regions)})",
        ("population", "mangrove", "AUC", "precision", "recall", "F1"),
        (
            (
                name,
                f"{f['prevalence']:.1%}",
                *(f"{f[key]:.3f}" if f[key] is not None else "-" for key in ("auc", "precision", "recall", "f1")),
            )
            for name, f in rows
            if f
        ),
    )
    if "problem" in metrics:
        run.reporter.say(f"train     {metrics['problem']}")
    for line in describe_decision(metrics):
        run.reporter.say(f"train     {line}")
    return metrics


def describe_decision(metrics: dict[str, Any]) -> Iterator[str]:
    """Yield in words how a model was calibrated, where its threshold comes from, and which labels it doubts."""
    calibration, decision, doubt = (metrics.get(name) or {} for name in ("calibration", "decision", "suspects"))
    if "problem" in calibration:
        yield str(calibration["problem"])
    elif calibration:
        yield (
            f"calibrated ({calibration['method']}) on {calibration['folds']} parts: calibration error "
            f"{calibration['ece_before']:.3f} before, {calibration['ece_after']:.3f} after, against the mask"
        )
    if decision.get("rule") == "none":
        yield f"mangrove from a probability of 0.50, chosen by nothing: {decision['reason']}"
    elif decision:
        target = f" {decision['target']:g}" if "target" in decision else ""
        missed = "" if decision["reached"] else ", which none reaches: this one comes nearest"
        yield f"mangrove from a probability of {decision['threshold']:.2f}, by {decision['rule']}{target}{missed}"
    if doubt.get("rows"):
        yield f"{doubt['rows']:,} of {doubt['of']:,} labels are suspect; where, is in suspects.parquet beside the model"


@click.command("train")
@run_options
def command(options: Options) -> None:
    """Fit and score the classifier; make cubes and sample first where missing."""
    with open_run(options) as run:
        check_training(run)
        plan = plan_run(run, find_scenes(run))
        if run.params.train.source == "here":
            build_cubes(run, plan)
        model, folder = fit_model(run, plan)
        metrics = show_score(run, model)
        run.reporter.result(
            {"model": str(folder), "trees_sha256": model.tree_sha256(), "metrics": metrics}, f"model in {folder}"
        )
