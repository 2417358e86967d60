"""One trial of a search: a candidate with one set of parameters, fitted to every fold and scored where it was left out.

What runs here is the body of a task: one after the other in one thread, and the same on any worker.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any, Final

import numpy as np
import pandas as pd

from engine.candidates import Rows, fit_candidate
from engine.errors import SampleError
from engine.kernels.score import auc, average_precision, best_threshold, brier, rates
from engine.legend import PROBABILITY_SCALE, threshold_code
from engine.params import TuneParams
from engine.rows import is_thinned
from engine.splits import by_region, region_folds

METRICS: Final = ("auc", "average_precision", "f1", "brier", "logloss")
LOSSES: Final = ("brier", "logloss")
"""Metrics of which less is better."""

POPULATION: Final = "wall to wall"
"""Every row is weighted by the pixels it stands for, and rows at class edges are scored too."""

LABEL: Final = "mask"

_LEAST_LOG: Final = 1e-4  # as little as a map's probability tells apart


@dataclass(frozen=True)
class Trial:
    """One candidate with one set of parameters, and what came of it."""

    number: int
    batch: int
    candidate: str
    params: dict[str, Any]
    state: str = "asked"
    """``complete``, or ``pruned`` where later folds were not worth fitting."""

    folds: dict[str, list[float]] = field(default_factory=dict)
    """Metric -> value of each fold, in the order of the folds."""

    threshold: float = math.nan
    """Probability from which the rows of all folds together have the highest F1, each scored where it was left out."""

    f1: float = math.nan
    """That F1."""

    seconds: float = 0.0

    def gains(self, objective: str) -> list[float]:
        """Return the objective of each fold, the sign turned where less is better."""
        sign = -1 if objective in LOSSES else 1
        return [sign * value for value in self.folds.get(objective, [])]

    def gain(self, objective: str) -> float:
        """Return the mean of the gains."""
        return fmean(self.gains(objective))


@dataclass(frozen=True, eq=False)
class Work:
    """What every task needs: goes to a worker once."""

    rows: Rows
    """Outside the hold-out, and the 10 km blocks it touches."""

    splits: tuple[tuple[np.ndarray, np.ndarray], ...]
    """Rows to fit to and rows to score of each fold, bool (row,)."""

    kind: str
    """What the folds are of: regions, or blocks of one."""

    held: Rows | None
    """Of the hold-out, None without one."""

    objective: str
    balance: str
    seed: int

    @classmethod
    def of(
        cls,
        frame: pd.DataFrame,
        features: Sequence[str],
        params: TuneParams,
        balance: str,
        hold_out: Sequence[str],
        seed: int,
    ) -> Work:
        """Part a training table into folds and hold-out.

        Raises
        ------
        SampleError
            If fewer than two folds have both classes to fit to and to score, or a region of the hold-out has no row.
        """
        apart = by_region(frame, hold_out) if hold_out else None
        inside = frame if apart is None else frame[apart.train].reset_index(drop=True)
        rows = Rows.of(inside, features)
        found = region_folds(inside, folds=params.folds, repeats=params.repeats, seed=seed) if len(inside) else []
        fitted, scored = rows.interior, ~rows.thinned

        def sound(train: np.ndarray, test: np.ndarray) -> bool:
            sides = (train & fitted, test & scored)
            return all((side & of).any() for side in sides for of in (rows.positive, ~rows.positive))

        splits = tuple((split.train, split.test) for split in found if sound(split.train, split.test))
        if len(splits) < 2:
            raise SampleError(
                "mangrove and other are not both in two or more folds", fix="add masks, years or area, or hold out less"
            )
        held = None if apart is None else Rows.of(frame[apart.test & ~is_thinned(frame)], features)
        return cls(rows, splits, found[0].kind, held, params.objective, balance, seed)


def run_trial(work: Work, trial: Trial, bars: Sequence[float]) -> Trial:
    """Fit and score a trial on every fold, in their order, unless its mean so far falls below a fold's bar."""
    started = time.perf_counter()
    folds: dict[str, list[float]] = {name: [] for name in METRICS}
    outcomes, state = [], "complete"
    for number, (train, test) in enumerate(work.splits):
        fitted = fit_candidate(
            trial.candidate, work.rows.take(train), trial.params, balance=work.balance, seed=work.seed
        )
        side = work.rows.take(test & ~work.rows.thinned)
        probability = fitted.predict(side)
        for name, value in _figures(probability, side).items():
            folds[name].append(value)
        outcomes.append((_steps(probability), side.positive, side.weight))
        gain = replace(trial, folds=folds).gain(work.objective)
        if number + 1 < len(work.splits) and len(bars) and gain < bars[number]:
            state = "pruned"
            break
    steps, positive, weight = (np.concatenate(arrays) for arrays in zip(*outcomes, strict=True))
    threshold = best_threshold(steps, positive, weight)
    return Trial(
        trial.number,
        trial.batch,
        trial.candidate,
        trial.params,
        state,
        folds,
        threshold / PROBABILITY_SCALE,
        rates(steps >= threshold, positive, weight).f1,
        round(time.perf_counter() - started, 3),
    )


def run_fit(work: Work, trial: Trial) -> dict[str, Any]:
    """Fit a trial to all training regions, and score the hold-out."""
    started = time.perf_counter()
    fitted = fit_candidate(trial.candidate, work.rows, trial.params, balance=work.balance, seed=work.seed)
    found: dict[str, Any] = {
        "fit_seconds": round(time.perf_counter() - started, 3),
        "model_sha256": fitted.sha256(work.rows),
    }
    if work.held is not None:
        probability = fitted.predict(work.held)
        at = rates(_steps(probability) >= threshold_code(trial.threshold), work.held.positive, work.held.weight)
        found |= {"precision": at.precision, "recall": at.recall}
        found |= {**_figures(probability, work.held), "f1": at.f1}
    return found


def _figures(probability: np.ndarray, rows: Rows) -> dict[str, float]:
    positive, weight = rows.positive, rows.weight
    steps = _steps(probability)
    likely = np.clip(probability.astype(np.float64), _LEAST_LOG, 1 - _LEAST_LOG)
    loss = -np.log(np.where(positive, likely, 1 - likely))
    some = positive.any()
    return {
        "auc": auc(probability, positive, weight),
        "average_precision": average_precision(probability, positive, weight),
        "f1": rates(steps >= best_threshold(steps, positive, weight), positive, weight).f1 if some else math.nan,
        "brier": brier(probability, positive, weight),
        "logloss": float((weight * loss).sum() / weight.sum()),
    }


def _steps(probability: np.ndarray) -> np.ndarray:
    """Return probability as maps hold it, uint16."""
    return np.rint(probability * PROBABILITY_SCALE).astype(np.uint16)
