"""A model card: what a model is, what it learnt from, how good it is, and what it must not be used for.

``README.md`` is for people (after Mitchell and others, 2019, Model Cards for Model Reporting), ``item.json`` for
catalogs: a STAC item with the Machine Learning Model extension. Both say only what the model itself and the facts
handed in say, and the same of both gives the same bytes.

References
----------
STAC 1.1.0; MLM extension 1.4.0, https://github.com/stac-extensions/mlm.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypedDict

import pystac
import shapely
from pystac.extensions.file import FileExtension
from pystac.extensions.mlm import AssetGeneralMLMExtension, Hyperparameters, MLMExtension, ModelInput, ModelOutput
from shapely.geometry.base import BaseGeometry

from engine.errors import ModelError
from engine.files import write_text
from engine.kernels.features import CONTEXT_FEATURES, MAD_FEATURES, MISSING, RANGE_FEATURES
from engine.kernels.indices import INDEX_MISSING, INDICES
from engine.landsat import BANDS, FILL_DN, OFFSET, OLI, SCALE, TM
from engine.legend import CLASSES, MANGROVE, NOT_OBSERVED, OTHER, PROBABILITY_MISSING, PROBABILITY_SCALE
from engine.model import META_FILE, TREES_FILE, Model
from engine.places import Place
from engine.splits import HELD_OUT, IN_REGION, RANDOM_ROWS, REGION_FOLDS

CARD_FILE: Final = "README.md"
ITEM_FILE: Final = "item.json"

DEFINITION: Final = "woody tidal canopy over at least 20 % of a 30 m pixel, Nypa excluded"
"""Of mangrove, where the facts give none; the masks' own stand beside it."""

EXPRESSIONS: Final = {
    "ndvi": "10000 * (nir08 - red) / (nir08 + red)",
    "mndwi": "10000 * (green - swir16) / (green + swir16)",
    "ndmi": "10000 * (nir08 - swir16) / (nir08 + swir16)",
    "nbr": "10000 * (nir08 - swir22) / (nir08 + swir22)",
    "mvi": "1000 * np.clip((nir08 - green) / (swir16 - green), -20, 20)",
    "cmri": "10000 * ((nir08 - red) / (nir08 + red) - (green - nir08) / (green + nir08))",
    "evi": "10000 * np.clip(2.5 * (nir08 - red) / np.maximum(nir08 + 6 * red - 7.5 * blue + 1, 0.0001), -3, 3)",
}
"""Indices of reflectance clipped to 1e-4..1, as integers rounded half up (``engine.kernels.indices``)."""

_ABOUT: Final = (
    "Gradient-boosted trees that tell mangrove from other in yearly composites of Landsat Collection 2 surface "
    "reflectance. README.md says what they must not be used for."
)

NOT_FOR: Final = (
    "Areas from pixel counts. Errors of commission and omission do not cancel: estimate areas from a probability "
    "sample of reference points (Olofsson and others, 2014).",
    "Change by subtracting two of its maps: the errors of both add up, and most of the difference is error.",
    "Decisions on a single pixel or plot, legal boundaries or carbon credits, without a look at the ground.",
    "Imagery other than Landsat Collection 2 surface reflectance of the six bands: neither top-of-atmosphere values "
    "nor other satellites. It learnt from composites of a year; pixels of one date are noisier than what it knows.",
    "Other meanings of mangrove than that of the masks it learnt from.",
)
"""What no model of this project may be used for."""

NOT_FOR_SIMULATED: Final = "Any real place: what it learnt from is simulated."

_FIGURES: Final = {
    "prevalence": "mangrove",
    "auc": "AUC",
    "average_precision": "average precision",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "brier": "Brier",
    "calibration_error": "ECE",
}
_AT: Final = {
    f"{name}_at_{share}": f"{title} at {share}"
    for name, title in (("precision", "precision"), ("f1", "F1"))
    for share in ("1%", "5%", "20%", "31%")
}
_RULES: Final = {
    "given": "as given",
    "f1": "the largest F1",
    "precision": "the largest recall at a precision of at least {}",
    "recall": "the largest precision at a recall of at least {}",
    "area": "mapped area nearest to the true one",
}
_POPULATIONS: Final = {"wall_to_wall": "wall to wall", "as_drawn": "as drawn", "eroded": "eroded, wall to wall"}
_SCOPES: Final = {
    HELD_OUT: "regions that had no part in training, calibration or threshold",
    REGION_FOLDS: "each region by a model that never saw it, calibrated, and its threshold chosen, by the other folds "
    "(scored by models that did); the model of this card learnt from all of them",
    IN_REGION: "each 10 km block by a model of other blocks of the region, calibrated, and its threshold chosen, by "
    "the other folds (scored by models that saw it); the model of this card learnt from all of them",
    RANDOM_ROWS: "rows whose neighbours were trained on; only to show what a random split would claim",
}
"""What the figures of a scope are of."""

_MOST_ROWS: Final = 200  # of a table of figures


class Facts(TypedDict, total=False):
    """What a model does not know of itself; all optional."""

    title: str
    """Name of the run or model."""

    notice: str
    """Line that must not be lost; one that says SIMULATED adds what follows from it. Default ``metrics["notice"]``."""

    footprints: Mapping[str, BaseGeometry]
    """Region -> geometry in degrees, of the regions trained on; others are left out."""

    years: Sequence[int]
    """Calendar years of the rows trained on."""

    sensors: Sequence[str]
    """Platforms these rows come from."""

    composite: str
    """How a year became one layer; default ``params["composite"]`` of the model."""

    definition: str
    """Of mangrove; default ``DEFINITION``."""

    scores: Iterable[Mapping[str, Any]]
    """Records population, label, region, class, figure, value, low, high, as ``engine.evaluate`` has them, and scope
    (text) where it differs between them; default what the model's own metrics hold."""

    calibration: Mapping[str, Any]
    """method, population, label, ece_before, ece_after; default what the model's own metrics hold."""

    threshold_rule: str
    """How the threshold was chosen, in words; default what the model's own metrics hold."""

    limits: Sequence[str]
    """Further known limits."""

    not_for: Sequence[str]
    """Further things it must not be used for."""

    created: str
    """When, ISO 8601 in UTC; left out where not given, so that the same model gives the same bytes."""


def write_card(model: Model, folder: Place, *, facts: Facts | None = None) -> tuple[Place, Place]:
    """Write the card of a model beside it.

    Parameters
    ----------
    model : Model
        As saved in ``folder``.
    folder : Path or ObjectPath
        Its directory.
    facts : Facts, optional
        What the model does not know of itself.

    Returns
    -------
    tuple of Path or ObjectPath
        ``README.md`` and ``item.json``.

    Raises
    ------
    StoreError
        If they cannot be written.
    """
    write_text(folder / ITEM_FILE, json.dumps(stac_item(model, facts=facts), indent=1, allow_nan=False) + "\n")
    write_text(folder / CARD_FILE, card_text(model, facts=facts))
    return folder / CARD_FILE, folder / ITEM_FILE


# --- for people ------------------------------------------------------------------------------------------------


def card_text(model: Model, *, facts: Facts | None = None) -> str:
    """Return the card in Markdown."""
    known = _known(model, facts)
    notice = known.get("notice", "")
    parts = [f"# Model card: {_plain(known.get('title', 'mangrove classifier'))}"]
    if notice:
        parts.append(f"**{_plain(notice)}**")
    sensors = known.get("sensors", ())
    composite = known.get("composite", str(model.params.get("composite", "")))
    trees = len(json.loads(model.trees)["learner"]["gradient_booster"]["model"]["trees"])
    parts.append(
        "Tells mangrove from other land and water, pixel by pixel, in yearly composites of Landsat Collection 2 "
        f"surface reflectance: {trees} gradient-boosted trees (XGBoost) over {len(model.features)} features. "
        f"Mangrove here is {_plain(known.get('definition', DEFINITION))}."
    )
    parts += ["## It must not be used for", _bullets(map(_plain, not_for(model, known)))]
    learnt = [
        f"**Regions** ({len(model.regions)}): {_names(model.regions)}",
        f"**Held out, never trained on** ({len(model.hold_out)}): {_names(model.hold_out)}",
        f"**Years**: {', '.join(map(str, years_of(model, known))) or 'not recorded'}",
    ]
    learnt += [f"**Sensors**: {_names(sensors)}"] * bool(sensors)
    learnt += [f"**Composite**: {_plain(composite)}"] * bool(composite)
    rows = sum(model.training_rows.values())
    learnt += [
        f"**Rows**: {rows:,} trained on, of which "
        + ", ".join(f"{count:,} {_plain(name)}" for name, count in sorted(model.training_rows.items()))
        + f" ({model.training_rows.get('mangrove', 0) / max(rows, 1):.1%} mangrove); pixels as thinned composites show "
        "them are rows too, class edges are not",
        f"**Prevalence**: {model.training_prevalence:.2%} of the land these rows stand for is mangrove; probabilities "
        "are at this share",
        f"**Features** ({len(model.features)}): {', '.join(f'`{_plain(name)}`' for name in model.features)}",
    ]
    parts += ["## What it learnt from", _bullets(learnt), "### Labels", _mask_table(model)]
    parts += ["## How good it is", _scores_text(model, known)]
    parts += ["## Probability and threshold", _bullets(_decision(model, known))]
    parts += ["## Known limits", _bullets([*_limits(model), *map(_plain, known.get("limits", ()))])]
    files = model.to_files()
    about = [
        *(f"`{name}`: sha256 `{hashlib.sha256(content).hexdigest()}`" for name, content in files.items()),
        f"What decides a probability: sha256 `{model.sha256()}`; the trees alone: `{model.tree_sha256()}`",
        "Versions: " + ", ".join(f"{_plain(name)} {_plain(text)}" for name, text in sorted(model.versions.items())),
        "Settings: `" + _plain(json.dumps(_settings(model), sort_keys=True)) + "`",
    ]
    about += [f"Made: {_plain(known['created'])}"] if known.get("created") else []
    parts += ["## Files and versions", _bullets(about)]
    return "\n\n".join(parts) + "\n"


def score_records(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the figures of a model's own metrics, one record each.

    Examples
    --------
    >>> metrics = {"scope": "held-out regions", "label": "mask", "wall_to_wall": {"rows": 9, "auc": 0.9}}
    >>> score_records(metrics)[0]["figure"], score_records(metrics)[0]["value"]
    ('auc', 0.9)
    """
    found = []
    for scored in (metrics, metrics.get("random_split") or {}):
        blocks = [(_POPULATIONS[key], "all regions", scored[key]) for key in _POPULATIONS if scored.get(key)]
        if scored is metrics:
            blocks += [("wall to wall", name, figures) for name, figures in (scored.get("regions") or {}).items()]
        for population, region, figures in blocks:
            about = {"scope": scored.get("scope", ""), "label": scored.get("label", "mask")}
            about |= {"population": population, "region": region}
            found += [
                {**about, "figure": name, "value": value}
                for name, value in figures.items()
                if name in _FIGURES or name in _AT
            ]
    return found


def _known(model: Model, facts: Facts | None) -> Facts:
    known = Facts(**(facts or {}))
    known.setdefault("notice", str(model.metrics.get("notice", "")))
    return known


def not_for(model: Model, facts: Facts) -> list[str]:
    """Return what a model must not be used for, the worst first."""
    return [
        *([NOT_FOR_SIMULATED] if "SIMULATED" in facts.get("notice", "").upper() else []),
        *NOT_FOR,
        f"Land unlike its training regions ({', '.join(model.regions)}) before it is checked there: no figure here is "
        "a promise for another coast.",
        f"Land with another share of mangrove than {model.training_prevalence:.1%}, unless probabilities are moved to "
        "that share: precision falls with prevalence.",
        *facts.get("not_for", ()),
    ]


def years_of(model: Model, facts: Facts) -> list[int]:
    """Return the years of the rows trained on: those handed in, else those its masks label."""
    years = facts.get("years") or [year for mask in model.masks for year in mask.get("labels_years", ())]
    return sorted({int(year) for year in years})


def _settings(model: Model) -> dict[str, Any]:
    """Return what decided the trees: not where they were grown, nor from whose folder."""
    left_out = ("source", "distributed", "hold_out")
    return {name: value for name, value in model.params.items() if value is not None and name not in left_out}


def _limits(model: Model) -> list[str]:
    found = [
        "Scores against a mask count the mask's own errors as the model's, and errors both share as right.",
        "Narrow fringes, sparse or dead canopy, ponds with trees and class edges are hard for any classifier of 30 m "
        "pixels; figures called eroded leave edges out.",
    ]
    stale = sorted({year for mask in model.masks for year in mask.get("stale_years", ())})
    if stale:
        found.append(f"The imagery of {', '.join(map(str, stale))} was labelled by a mask too old or too young for it.")
    if model.metrics.get("scope") == REGION_FOLDS:
        found.append(
            "No region was held out of this model: how it does on another coast is told by models of fewer regions."
        )
    elif not model.hold_out:
        found.append("No region was held out, so how it does on another coast was not measured.")
    if set(model.features) & {*RANGE_FEATURES, *MAD_FEATURES}:
        found.append("Percentiles and water frequency need 8 clear looks; with fewer it falls back on the composite.")
    return found


def _mask_table(model: Model) -> str:
    if not model.masks:
        return "No mask is recorded: do not use it before you know what its labels were."
    return _table(
        ("mask", "year", "labels imagery of", "definition", "licence", "citation"),
        (
            (
                mask["name"],
                mask["year"],
                ", ".join(map(str, mask["labels_years"])),
                *(mask[name] or "not stated" for name in ("definition", "licence", "citation")),
            )
            for mask in model.masks
        ),
    )


def _scores_text(model: Model, facts: Facts) -> str:
    if "scores" in facts:
        records: list[Mapping[str, Any]] = list(facts["scores"])
    else:
        records = list(score_records(model.metrics))
    if not records:
        return f"Not scored: {_plain(model.metrics.get('problem', 'no figure was handed in'))}."
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    for record in records:
        # Precision and recall of mangrove; of the other class they are in the evaluation.
        if record.get("class", "both") in ("both", "mangrove"):
            key = tuple(str(record.get(name, "")) for name in ("scope", "population", "label", "region"))
            rows.setdefault(key, {})[str(record["figure"])] = _figure(record)
    shown = dict(list(rows.items())[:_MOST_ROWS])
    figures = [text for row in shown.values() for text in row.values()]
    text = [
        "Each row names its population (*wall to wall*: every pixel counts once, so at the prevalence of the map; *as "
        "drawn*: the rows of the sample) and its label (*mask*, which has errors, or *truth*, known in simulated "
        "worlds only)." + " In brackets the 95 % interval, by 10 km blocks." * any("(" in f for f in figures),
        _score_table(shown, _FIGURES),
    ]
    if "scores" not in facts and "problem" in model.metrics:
        text.append(f"On land it never saw it is {_plain(model.metrics['problem'])}.")
    if kinds := [
        f"*{scope}*: {_SCOPES[scope]}." for scope in dict.fromkeys(key[0] for key in shown) if scope in _SCOPES
    ]:
        text.append(_bullets(kinds))
    at = {key: figures for key, figures in shown.items() if set(figures) & set(_AT) and key[1] == "wall to wall"}
    if at:
        text += ["The same at other shares of mangrove:", _score_table(at, _AT)]
    if len(rows) > len(shown):
        text.append(f"{len(rows) - len(shown)} further rows are left out here.")
    return "\n\n".join(text)


def _score_table(rows: Mapping[tuple[str, ...], Mapping[str, str]], titles: Mapping[str, str]) -> str:
    columns = [name for name in titles if any(name in figures for figures in rows.values())]
    about = [place for place in range(4) if any(key[place] for key in rows)]
    names = ("scored on", "population", "label", "region")
    return _table(
        [*(names[place] for place in about), *(titles[name] for name in columns)],
        [
            [*(key[place] for place in about), *(figures.get(name, "-") for name in columns)]
            for key, figures in rows.items()
        ],
    )


def _figure(record: Mapping[str, Any]) -> str:
    def shown(value: Any) -> str:
        if value is None or not math.isfinite(value):
            return "-"
        return f"{value:.1%}" if record["figure"] == "prevalence" else f"{value:.3f}"

    low, high = shown(record.get("low")), shown(record.get("high"))
    return shown(record.get("value")) + (f" ({low} to {high})" if "-" not in (low, high) else "")


def _decision(model: Model, facts: Facts) -> list[str]:
    calibration = facts.get("calibration") or model.metrics.get("calibration") or {}
    if "problem" in calibration:
        text = f"**Calibration**: {_plain(calibration['problem'])}; the trees' score is taken for the probability"
    elif calibration:
        text = f"**Calibration**: {_plain(calibration.get('method', 'not named'))}"
        if calibration.get("population") or calibration.get("label"):
            text += f", {_plain(calibration.get('population', ''))}, against the {_plain(calibration.get('label', ''))}"
        ece = [calibration.get(name) for name in ("ece_before", "ece_after")]
        if None not in ece:
            text += f"; expected calibration error {ece[0]:.3f} before, {ece[1]:.3f} after"
    else:
        text = "**Calibration**: none; the trees' score is taken for the probability"
    rule = facts.get("threshold_rule") or _rule(model.metrics)
    return [
        text,
        f"**Threshold**: mangrove from probability {model.threshold:g}" + (f"; {_plain(rule)}" if rule else ""),
        f"Maps hold probability x {PROBABILITY_SCALE} as uint16, {PROBABILITY_MISSING} where not classified; classes "
        + ", ".join(f"{entry.code} {entry.name}" for entry in CLASSES if entry.code in (NOT_OBSERVED, OTHER, MANGROVE)),
    ]


def _rule(metrics: Mapping[str, Any]) -> str:
    """Say by which rule training chose the threshold, and what it reached."""
    decision = metrics.get("decision") or {}
    rule = _RULES.get(str(decision.get("rule")), "").format(decision.get("target", ""))
    if not rule:
        return ""
    reached = "" if decision.get("reached", True) else "which no threshold reached: "
    figures = [
        f"{_FIGURES[name]} {decision[name]:.3f}"
        for name in ("precision", "recall", "f1")
        if decision.get(name) is not None
    ]
    folds = f"{metrics['folds_scope']}; " if "folds_scope" in metrics else ""
    where = f"{folds}{decision.get('population', '')}, against the {decision.get('label', '')}"
    chose = "" if decision["rule"] == "given" else ", which chose it"
    return f"{rule}, {reached}{', '.join(figures)} on folds of the land trained on{chose} ({where})"


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"* {line}" for line in lines)


def _names(names: Sequence[str]) -> str:
    return ", ".join(_plain(name) for name in names) or "none"


def _table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [columns, ["---"] * len(columns), *([_plain(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(text: Any) -> str:
    """Return text of others as one line that Markdown takes for text."""
    line = " ".join(str(text).split())
    for mark, safe in (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("[", "\\["), ("`", "'")):
        line = line.replace(mark, safe)
    return line


# --- for catalogs ----------------------------------------------------------------------------------------------


def stac_item(model: Model, *, facts: Facts | None = None) -> dict[str, Any]:
    """Return the STAC item of a model, as a JSON object.

    Raises
    ------
    ModelError
        If the model has no years: an item needs a time.
    """
    known = _known(model, facts)
    years = years_of(model, known)
    if not years:
        raise ModelError("a model card needs the years the model learnt from", fix="hand them in as facts['years']")
    geometry, bbox = _footprint(model, known.get("footprints") or {})
    properties: dict[str, Any] = {
        "title": known.get("title", "mangrove classifier"),
        "description": f"{known['notice'].rstrip('.')}. {_ABOUT}" if known.get("notice") else _ABOUT,
        "bands": [describe_band(name) for name in dict.fromkeys((*BANDS, *model.features)) if name not in INDICES],
        "mangroves:regions": list(model.regions),
        "mangroves:hold_out": list(model.hold_out),
        "mangroves:training_prevalence": model.training_prevalence,
        "mangroves:training_rows": dict(model.training_rows),
        "mangroves:threshold": model.threshold,
        "mangroves:masks": [dict(mask) for mask in model.masks],
        "mangroves:definition": known.get("definition", DEFINITION),
        "mangroves:sha256": model.sha256(),
        "mangroves:not_for": not_for(model, known),
    }
    if known.get("notice"):
        properties["mangroves:notice"] = known["notice"]
    if known.get("created"):
        properties["created"] = known["created"]
    item = pystac.Item(
        id=f"mangroves-{model.sha256()[:16]}",
        geometry=geometry,
        bbox=bbox,
        datetime=None,
        start_datetime=dt.datetime(years[0], 1, 1, tzinfo=dt.UTC),
        end_datetime=dt.datetime(years[-1], 12, 31, 23, 59, 59, tzinfo=dt.UTC),
        properties=properties,
    )
    item.stac_extensions += [RASTER_SCHEMA, EO_SCHEMA]
    MLMExtension.ext(item, add_if_missing=True).apply(
        name=str(known.get("title", "mangrove classifier")),
        architecture="Gradient-boosted trees",
        tasks=TASKS,
        framework="XGBoost",
        framework_version=model.versions.get("xgboost"),
        pretrained=False,
        input=[_input(model)],
        output=_outputs(model),
        hyperparameters=Hyperparameters({"objective": "binary:logistic", **_settings(model)}),
    )
    # From scratch: the extension wants that said.
    item.properties["mlm:pretrained_source"] = None
    _add_assets(item, model)
    found = item.to_dict(include_self_link=False, transform_hrefs=False)
    return {**found, "properties": dict(sorted(found["properties"].items()))}


RASTER_SCHEMA: Final = "https://stac-extensions.github.io/raster/v2.0.0/schema.json"
EO_SCHEMA: Final = "https://stac-extensions.github.io/eo/v2.0.0/schema.json"
TASKS: Final[Any] = ["classification", "semantic-segmentation"]


def describe_band(name: str) -> dict[str, Any]:
    """Describe one band of what a model takes, as STAC 1.1 has bands."""
    if name in BANDS:
        numbers = f"SR_B{OLI.band_numbers[name]} of OLI, SR_B{TM.band_numbers[name]} of TM and ETM+"
        return {
            "name": name,
            "description": f"Surface reflectance, composite of a year; {numbers}",
            "data_type": "uint16",
            "nodata": FILL_DN,
            "unit": "1",
            "eo:common_name": name,
            "raster:scale": SCALE,
            "raster:offset": OFFSET,
        }
    if name in CONTEXT_FEATURES:
        about = f"Mean of {name.removesuffix('_150m')}, DN, over 150 x 150 m"
        return {"name": name, "description": about, "data_type": "int32", "nodata": MISSING}
    missing = PROBABILITY_MISSING if name == "water_frequency" else INDEX_MISSING
    about = "of a year's clear looks, x 10 000; missing below 8"
    return {"name": name, "description": f"{name} {about}", "data_type": "int32", "nodata": missing}


def _input(model: Model) -> ModelInput:
    bands: list[Any] = []
    for name in model.features:
        derived = {"format": "numpy", "expression": EXPRESSIONS[name]} if name in EXPRESSIONS else {}
        bands.append({"name": name, **derived})
    return ModelInput(
        {
            "name": "features",
            "description": f"Bands as Collection-2 DN (reflectance = {SCALE:g} DN {OFFSET:+g}); indices of that "
            "reflectance, clipped to 1e-4..1, as integers x 10 000 (mvi x 1 000). Each is coded to one byte by its "
            f"edges in {META_FILE} before the trees see it; 255 is missing.",
            "bands": bands,
            "input": {"shape": [-1, len(model.features)], "dim_order": ["batch", "channel"], "data_type": "int32"},
            "value_scaling": None,
            "resize_type": None,
            "pre_processing_function": {"format": "python", "expression": "engine.predict:features_of"},
        }
    )


def _outputs(model: Model) -> list[ModelOutput]:
    classes = [
        {
            "value": entry.code,
            "name": entry.name.replace(" ", "_"),
            "title": entry.name,
            "description": entry.name,
            "color_hint": "".join(f"{channel:02X}" for channel in entry.colour),
            "nodata": entry.code == NOT_OBSERVED,
        }
        for entry in CLASSES
        if entry.code in (NOT_OBSERVED, OTHER, MANGROVE)
    ]
    shape = {"shape": [-1], "dim_order": ["batch"]}
    return [
        ModelOutput(
            {
                "name": "probability",
                "tasks": TASKS,
                "result": {**shape, "data_type": "uint16"},
                "description": f"Probability of mangrove x {PROBABILITY_SCALE}, on land with "
                f"{model.training_prevalence:.2%} mangrove; {PROBABILITY_MISSING} where not classified.",
                "post_processing_function": None,
            }
        ),
        ModelOutput(
            {
                "name": "class",
                "tasks": TASKS,
                "result": {**shape, "data_type": "uint8"},
                "description": f"Mangrove from probability {model.threshold:g}.",
                "classification:classes": classes,
                "post_processing_function": None,
            }
        ),
    ]


def _add_assets(item: pystac.Item, model: Model) -> None:
    files = model.to_files()
    about = {
        "trees": (
            TREES_FILE,
            "Trees, as XGBoost writes them in JSON",
            "application/json",
            ["mlm:model", "mlm:weights"],
        ),
        "meta": (META_FILE, "Features, edges, calibration, threshold, hashes", "application/json", ["metadata"]),
        "card": (CARD_FILE, "Model card", "text/markdown", ["metadata", "overview"]),
    }
    for key, (name, title, media, roles) in about.items():
        asset = pystac.Asset(href=f"./{name}", title=title, media_type=media, roles=roles)
        item.add_asset(key, asset)
        if name in files:
            # A multihash: 0x12 sha2-256, 0x20 bytes.
            digest = hashlib.sha256(files[name]).hexdigest()
            FileExtension.ext(asset, add_if_missing=True).apply(size=len(files[name]), checksum=f"1220{digest}")
        if key == "trees":
            # STAC 1.1 takes bands among the properties, where the extension wants them, only if an asset names some.
            asset.extra_fields["bands"] = [{"name": band["name"]} for band in item.properties["bands"]]
            AssetGeneralMLMExtension.ext(asset, add_if_missing=True).apply(artifact_type="xgboost.Booster.save_model")


def _footprint(
    model: Model, footprints: Mapping[str, BaseGeometry]
) -> tuple[dict[str, Any] | None, list[float] | None]:
    """Return the boxes round the regions trained on; a region that lies on both sides of 180 degrees gives two."""
    boxes = []
    for name in sorted(set(model.regions) & set(footprints)):
        geometry = footprints[name]
        west, south, east, north = geometry.bounds
        halves = [geometry]
        if east - west > 180:
            sides = (shapely.box(-180, south, 0, north), shapely.box(0, south, 180, north))
            halves = [geometry.intersection(side) for side in sides]
        boxes += [shapely.box(*half.bounds) for half in halves if not half.is_empty]
    if not boxes:
        return None, None
    whole = shapely.MultiPolygon(boxes)
    return json.loads(json.dumps(shapely.geometry.mapping(whole))), [float(edge) for edge in whole.bounds]
