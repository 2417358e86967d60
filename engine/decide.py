"""What folds decide of a model, from counted outcomes: calibration, threshold, figures, and labels in doubt.

Outcomes are tables of how often each probability met each label, by region: small for any number of rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import pandas as pd

from engine.folds import Fold
from engine.kernels.calibrate import Calibration, curve_of, decide, fit_isotonic, fit_platt, levels_of
from engine.kernels.score import PREVALENCES, at_prevalence, auc, brier, calibration_error, rates
from engine.kernels.suspects import Thresholds, joint, noise_rates, suspects, thresholds
from engine.legend import PROBABILITY_SCALE, threshold_code
from engine.model import Model
from engine.params import TrainParams
from engine.partitions import sum_outcomes

_INNER: Final = "wall to wall, by rows away from class edges"


def decide_by_folds(model: Model, folds: Sequence[Fold], params: TrainParams, threshold: float | None) -> Model:
    """Calibrate a model and choose its threshold by the outcomes of folds."""
    said: dict[str, Any]
    rule: dict[str, Any] = {"rule": params.threshold_rule, "label": "mask", "population": _INNER}
    if params.threshold_rule in ("precision", "recall"):
        rule["target"] = params.threshold_target
    problem = "mangrove and other are not both in two or more parts"
    try:
        curve_of_scores = _calibration(folds, params)
        apart = _calibrated_apart(folds, params)
    except ValueError:
        said = {
            "calibration": {"problem": f"not calibrated: {problem}"},
            "decision": {"rule": "none", "reason": problem},
        }
        return replace(model, threshold=threshold or 0.5, metrics=said)
    calibrated = replace(model, calibration=curve_of_scores)
    probability, positive, land = _counted(_away_from_edges(pd.concat(apart)))
    score, positive_before, land_before = _counted(_away_from_edges(_together(folds)))
    prevalence = float(land[positive].sum() / land.sum())
    curve = curve_of(probability, positive, land)
    decision = decide(curve, params.threshold_rule, params.threshold_target, prevalence)
    chosen = decision.threshold if threshold is None else threshold
    reached = rates(probability >= threshold_code(chosen), positive, land)
    said = {
        "calibration": {
            "method": params.calibrate,
            "label": "mask",
            "population": _INNER,
            "folds": len(folds),
            "prevalence": round(prevalence, 6),
            "ece_before": round(calibration_error(score / PROBABILITY_SCALE, positive_before, land_before), 6),
            "ece_after": round(calibration_error(probability / PROBABILITY_SCALE, positive, land), 6),
        },
        "decision": {
            **(rule if threshold is None else {**rule, "rule": "given"}),
            "reached": decision.reached or threshold is not None,
            "threshold": chosen,
            "prevalence": round(prevalence, 6),
            **{name: _figure(value) for name, value in reached._asdict().items()},
        },
    }
    return replace(calibrated, curve=curve, threshold=chosen, metrics=said)


def _calibration(folds: Sequence[Fold], params: TrainParams) -> Calibration | None:
    if params.calibrate == "none":
        return None
    fit_curve = fit_isotonic if params.calibrate == "isotonic" else fit_platt
    return fit_curve(*_counted(_away_from_edges(_together(folds))))


def _calibrated_apart(folds: Sequence[Fold], params: TrainParams) -> list[pd.DataFrame]:
    """Return the outcomes of each fold, calibrated by those of the others: as new land would be.

    Raises
    ------
    ValueError
        If there are no two folds, or one class is missing outside a fold.
    """
    if len(folds) < 2:
        raise ValueError("at least two folds are needed")
    found = []
    for index, fold in enumerate(folds):
        others = [other for place, other in enumerate(folds) if place != index]
        found.append(_mapped(fold, levels_of(_calibration(others, params))))
    return found


def _mapped(fold: Fold, levels: np.ndarray) -> pd.DataFrame:
    return fold.outcome.assign(probability=levels[fold.outcome["probability"]])


def score_folds(
    folds: Sequence[Fold],
    params: TrainParams,
    threshold: float,
    asked: int,
    scope: str,
    levels: np.ndarray | None = None,
) -> dict[str, Any]:
    """Return the figures of folds; calibrated by the levels given, or each by the others."""
    try:
        seen = _calibrated_apart(folds, params) if levels is None else [_mapped(fold, levels) for fold in folds]
        outcome = sum_outcomes(seen)
    except ValueError:
        return {"scope": scope, "problem": "not scored: mangrove and other are not both in two or more parts"}
    return {"scope": scope, "folds": len(folds), "folds_failed": asked - len(folds), **summarise(outcome, threshold)}


def summarise(outcome: pd.DataFrame, threshold: float) -> dict[str, Any]:
    """Turn counted outcomes into figures, each under the name of its population.

    Parameters
    ----------
    outcome : DataFrame
        Columns region, interior, positive, probability (uint16, x 1e4), pixels (summed weight), rows.
    threshold : float
        Probability from which a pixel is mapped as mangrove.

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
        # The map's own rule, on the integers the map holds.
        found = rates(probability >= threshold_code(threshold), positive, mass)
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
        "threshold": threshold,
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
