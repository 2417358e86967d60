"""What folds decide of a model, from counted outcomes: calibration, threshold, figures, and labels in doubt.

Outcomes are tables of how often each probability met each label, by region: small for any number of rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd

from engine.folds import Fold
from engine.kernels.calibrate import Calibration, Curve, Decision, curve_of, decide, fit_isotonic, fit_platt, levels_of
from engine.kernels.score import PREVALENCES, at_prevalence, auc, brier, calibration_error, rates
from engine.kernels.suspects import Thresholds, joint, noise_rates, suspects, thresholds
from engine.legend import PROBABILITY_SCALE, threshold_code
from engine.model import Model
from engine.params import TrainParams

_INNER: Final = "wall to wall, by rows away from class edges"
ONE_SIDED: Final = "mangrove and other are not both in two or more parts"


class Decided(NamedTuple):
    """What some folds decide of a model."""

    calibration: Calibration | None
    curve: Curve | None
    """None where the threshold was given."""

    threshold: float
    prevalence: float
    """Mangrove share of the land it was decided on."""


def decide_by_folds(model: Model, folds: Sequence[Fold], params: TrainParams, threshold: float | None) -> Model:
    """Calibrate a model and choose its threshold by the outcomes of folds.

    Parameters
    ----------
    model : Model
    folds : sequence of Fold
        The threshold is chosen on their outcomes, each calibrated by the others; the calibration is of all together.
    params : TrainParams
    threshold : float, optional
        Given, so not chosen.

    Returns
    -------
    Model
        Where folds cannot tell, not calibrated; its ``metrics`` say how it was decided.
    """
    said: dict[str, Any]
    outcomes = [fold.outcome for fold in folds]
    try:
        calibration = _calibration(outcomes, params)
        apart = _calibrated_apart(outcomes, params)
        curve, decision = _choose(apart, params)
    except ValueError:
        said = {
            "calibration": {"problem": f"not calibrated: {ONE_SIDED}"},
            "decision": {"rule": "none", "reason": ONE_SIDED},
        }
        return replace(model, threshold=threshold or 0.5, metrics=said)
    probability, positive, land = _counted(_away_from_edges(apart))
    score, positive_before, land_before = _counted(_away_from_edges(pd.concat(outcomes)))
    chosen = decision.threshold if threshold is None else threshold
    reached = rates(probability >= threshold_code(chosen), positive, land)
    prevalence = round(_prevalence(positive, land), 6)
    rule: dict[str, Any] = {"rule": params.threshold_rule, "label": "mask", "population": _INNER}
    if params.threshold_rule in ("precision", "recall"):
        rule["target"] = params.threshold_target
    said = {
        "calibration": {
            "method": params.calibrate,
            "label": "mask",
            "population": _INNER,
            "folds": len(folds),
            "prevalence": prevalence,
            "ece_before": round(calibration_error(score / PROBABILITY_SCALE, positive_before, land_before), 6),
            "ece_after": round(calibration_error(probability / PROBABILITY_SCALE, positive, land), 6),
        },
        "decision": {
            **(rule if threshold is None else {**rule, "rule": "given"}),
            "reached": decision.reached or threshold is not None,
            "threshold": chosen,
            "prevalence": prevalence,
            **{name: _figure(value) for name, value in reached._asdict().items()},
        },
    }
    return replace(model, calibration=calibration, curve=curve, threshold=chosen, metrics=said)


def score_folds(
    folds: Sequence[Fold], params: TrainParams, threshold: float | None, *, asked: int, scope: str
) -> dict[str, Any]:
    """Score each fold as new land: calibrated, and its threshold chosen, by the outcomes of the other folds alone.

    Not quite new: the models that scored the other folds learnt this fold's labels. Trees that are fitted to a fold
    are never asked about it.

    Parameters
    ----------
    folds : sequence of Fold
    params : TrainParams
    threshold : float, optional
        Given, so not chosen.
    asked : int
        Folds there were to be; those without both classes to train on have failed.
    scope : str
        What these folds are a test of.

    Returns
    -------
    dict
        ``scope``, the ``thresholds`` of the folds and where they are from, and what ``summarise`` returns.
    """
    outcomes = [fold.outcome for fold in folds]
    try:
        decided = decide_apart(outcomes, params, threshold)
    except ValueError:
        return {"scope": scope, "problem": f"not scored: {ONE_SIDED}"}
    mapped = [
        _mapped(_calibrated([outcome], one.calibration), one.threshold)
        for outcome, one in zip(outcomes, decided, strict=True)
    ]
    return {
        "scope": scope,
        "folds": len(folds),
        "folds_failed": asked - len(folds),
        "thresholds": [one.threshold for one in decided],
        "threshold_from": "given" if threshold is not None else "for each fold, the other folds",
        **summarise(pd.concat(mapped)),
    }


def decide_apart(outcomes: Sequence[pd.DataFrame], params: TrainParams, threshold: float | None) -> list[Decided]:
    """Decide for each fold by the outcomes of the other folds alone, see ``score_folds``.

    Parameters
    ----------
    outcomes : sequence of DataFrame
        Of each fold, as of ``Fold.outcome``.
    params, threshold
        As of ``score_folds``.

    Raises
    ------
    ValueError
        If there are no two folds, or one class is missing outside a fold.
    """
    found = []
    for _, rest in _in_turn(outcomes):
        curve, chosen = _choose_by(rest, params) if threshold is None else (None, threshold)
        _, positive, land = _counted(_away_from_edges(pd.concat(rest)))
        found.append(Decided(_calibration(rest, params), curve, chosen, _prevalence(positive, land)))
    return found


def score_outcomes(outcome: pd.DataFrame, threshold: float) -> dict[str, Any]:
    """Score calibrated outcomes at one threshold.

    Returns
    -------
    dict
        ``threshold``, and what ``summarise`` returns.
    """
    return {"threshold": threshold, **summarise(_mapped(outcome, threshold))}


def _calibration(outcomes: Sequence[pd.DataFrame], params: TrainParams) -> Calibration | None:
    if params.calibrate == "none":
        return None
    fit_curve = fit_isotonic if params.calibrate == "isotonic" else fit_platt
    return fit_curve(*_counted(_away_from_edges(pd.concat(outcomes))))


def _in_turn(outcomes: Sequence[pd.DataFrame]) -> Iterator[tuple[pd.DataFrame, list[pd.DataFrame]]]:
    """Yield the outcomes of each fold, and of the others.

    Raises
    ------
    ValueError
        If there are no two.
    """
    if len(outcomes) < 2:
        raise ValueError("at least two folds are needed")
    for index, outcome in enumerate(outcomes):
        yield outcome, [*outcomes[:index], *outcomes[index + 1 :]]


def _calibrated(outcomes: Sequence[pd.DataFrame], calibration: Calibration | None) -> pd.DataFrame:
    outcome = pd.concat(outcomes)
    return outcome.assign(probability=levels_of(calibration)[outcome["probability"]])


def _calibrated_apart(outcomes: Sequence[pd.DataFrame], params: TrainParams) -> pd.DataFrame:
    """Return the outcomes of each fold, calibrated by those of the others: as new land would be.

    Raises
    ------
    ValueError
        If there are no two folds, or one class is missing outside a fold.
    """
    return pd.concat([_calibrated([one], _calibration(rest, params)) for one, rest in _in_turn(outcomes)])


def _choose_by(outcomes: Sequence[pd.DataFrame], params: TrainParams) -> tuple[Curve, float]:
    """Return curve and threshold that some folds choose, each calibrated by the rest of them, or where these are too
    few by all together."""
    try:
        outcome = _calibrated_apart(outcomes, params)
    except ValueError:
        outcome = _calibrated(outcomes, _calibration(outcomes, params))
    curve, decision = _choose(outcome, params)
    return curve, decision.threshold


def _mapped(outcome: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """Add which outcomes are mapped as mangrove: by the map's own rule, on the integers the map holds."""
    return outcome.assign(mapped=outcome["probability"] >= threshold_code(threshold))


def _choose(outcome: pd.DataFrame, params: TrainParams) -> tuple[Curve, Decision]:
    """Choose the threshold by what each gives on calibrated outcomes.

    Raises
    ------
    ValueError
        If they are not of both classes.
    """
    probability, positive, land = _counted(_away_from_edges(outcome))
    if not 0 < positive.sum() < positive.size:
        raise ValueError("outcomes of both classes are needed")
    curve = curve_of(probability, positive, land)
    return curve, decide(curve, params.threshold_rule, params.threshold_target, _prevalence(positive, land))


def _prevalence(positive: np.ndarray, land: np.ndarray) -> float:
    return float(land[positive].sum() / land.sum())


def summarise(outcome: pd.DataFrame) -> dict[str, Any]:
    """Turn counted outcomes into figures, each under the name of its population.

    Parameters
    ----------
    outcome : DataFrame
        Columns region, interior, positive, probability (uint16, x 1e4), mapped (as mangrove), pixels (summed weight),
        rows.

    Returns
    -------
    dict
        ``wall_to_wall``: each row weighted by the pixels it stands for, so at map prevalence;
        ``as_drawn``: rows as drawn; ``eroded``: wall to wall without pixels at a class edge;
        ``regions``: wall to wall of each. A figure that is not defined is None.
    """

    def figures(rows: pd.DataFrame, weight: str) -> dict[str, float | None]:
        probability, mass = rows["probability"].to_numpy(), rows[weight].to_numpy()
        positive = rows["positive"].to_numpy()
        found = rates(rows["mapped"].to_numpy(), positive, mass)
        result = {
            "rows": int(rows["rows"].sum()),
            "prevalence": float(mass[positive].sum() / mass.sum()) if mass.sum() else math.nan,
            "auc": auc(probability, positive, mass),
            "precision": found.precision,
            "recall": found.recall,
            "f1": found.f1,
            "brier": brier(probability / PROBABILITY_SCALE, positive, mass),
            "calibration_error": calibration_error(probability / PROBABILITY_SCALE, positive, mass),
        }
        for share in PREVALENCES:
            precision, f1 = at_prevalence(found.recall, found.false_positive_rate, share)
            result[f"precision_at_{share:.0%}"], result[f"f1_at_{share:.0%}"] = precision, f1
        return {name: _figure(value) for name, value in result.items()}

    return {
        "label": "mask",
        "wall_to_wall": figures(outcome, "pixels"),
        "as_drawn": figures(outcome, "rows"),
        "eroded": figures(outcome[outcome["interior"]], "pixels"),
        "regions": {str(name): figures(rows, "pixels") for name, rows in outcome.groupby("region")},
    }


def doubt_limits(folds: Sequence[Fold]) -> Thresholds:
    """Return from which probability on a label is in doubt."""
    return thresholds(*_counted(_together(folds)))


def describe_suspects(folds: Sequence[Fold], limits: Thresholds) -> dict[str, Any]:
    """Return how many labels are suspect, and how wrong the mask is by these models, overall and by region."""
    outcome = _together(folds)

    def describe(rows: pd.DataFrame) -> dict[str, Any]:
        probability, positive, land = _counted(rows)
        doubted = suspects(probability, positive, limits)
        noise = noise_rates(joint(probability, positive, land, limits))
        return {
            "rows": int(rows["rows"][doubted].sum()),
            "of": int(rows["rows"].sum()),
            "pixels": round(float(rows["pixels"][doubted].sum()), 1),
            "omission": _figure(noise.omission),
            "commission": _figure(noise.commission),
        }

    return {
        "label": "mask",
        "population": "wall to wall",
        "limits": {name: _figure(value) for name, value in limits._asdict().items()},
        **describe(outcome),
        "regions": {str(name): describe(rows) for name, rows in outcome.groupby("region")},
    }


def _counted(outcome: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return score (uint16 x 10 000), label and land of outcomes."""
    return tuple(outcome[name].to_numpy() for name in ("probability", "positive", "pixels"))  # type: ignore[return-value]


def _together(folds: Sequence[Fold]) -> pd.DataFrame:
    return pd.concat([fold.outcome for fold in folds])


def _away_from_edges(outcome: pd.DataFrame) -> pd.DataFrame:
    """Return the outcomes away from class edges, each class's standing for all of that class's land.

    A mask is least sure at its edges: what it says there is no more fit to calibrate with than to train on.
    """
    inner = outcome[outcome["interior"]]
    land, seen = (rows.groupby("positive")["pixels"].sum() for rows in (outcome, inner))
    return inner.assign(pixels=inner["pixels"] * inner["positive"].map(land / seen))


def _figure(value: float) -> float | None:
    """Round for JSON, which has no nan: a figure that is not defined is None."""
    return round(value, 6) if math.isfinite(value) else None
