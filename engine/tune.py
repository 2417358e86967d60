"""Search for a classifier: the same trials, figures and model however many workers fit them, and whenever stopped.

A trial fits one candidate with one set of parameters to every fold, one after the other, in one task of one thread.
Trials are asked for in batches of a fixed size by a sampler that is seeded by study and batch, told in the order of
their numbers, and pruned only against earlier batches. So what is asked never depends on who answers first, and a
longer search begins with the trials of a shorter one.

The first trial of every candidate has its defaults. Of the others every second is of the candidate that maps are made
with, however well another does; the candidate of the rest is the sampler's choice.

Nothing of the sampler is stored. A ledger takes every finished trial at once, and a search that goes on asks again:
what the ledger has is told and not fitted anew.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import platform
import secrets
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import optuna
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import sklearn
import xgboost
from distributed import Client
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

import engine
from engine.candidates import BASELINE, CANDIDATES, MAPPED, Rows, find_candidate, fit_candidate
from engine.cluster import run_bounded
from engine.errors import ConfigError, SampleError, StoreError
from engine.files import cannot_read, cannot_write, replacing, write_text
from engine.kernels.score import auc, average_precision, best_threshold, brier, rates
from engine.legend import PROBABILITY_SCALE, threshold_code
from engine.params import TuneParams
from engine.rows import PIXEL_YEAR, gather_rows, is_thinned
from engine.splits import by_region, region_folds

FORMAT: Final = "mangroves-tune-1"
LEDGER: Final = "trials.jsonl"
METRICS: Final = ("auc", "average_precision", "f1", "brier", "logloss")
POPULATION: Final = "wall to wall"
"""Every row is weighted by the pixels it stands for, and rows at class edges are scored too."""
LABEL: Final = "mask"

_LOSSES: Final = ("brier", "logloss")
_PRUNE_AFTER: Final = 6  # earlier trials that a median needs
_PRUNE_FROM: Final = 2  # folds: one fold of regions says little
_STARTUP: Final = 10  # finished trials before parameters are drawn by what is known of them
_LEAST_LOG: Final = 1e-4  # as little as a map's probability tells apart
_MOST_LEDGER_BYTES: Final = 2**30


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
        sign = -1 if objective in _LOSSES else 1
        return [sign * value for value in self.folds.get(objective, [])]


@dataclass(frozen=True, eq=False)
class Study:
    """What a search found."""

    leaderboard: pd.DataFrame
    """One row a candidate, best first."""

    trials: pd.DataFrame
    """One row a trial."""

    best: dict[str, Any] | None
    """The best trial of the candidate that maps are made with, None if it was not tried."""

    about: dict[str, Any]
    """What was searched, and of which rows."""

    notes: tuple[str, ...]
    """What a reader must know of these figures."""


# --- the search ------------------------------------------------------------------------------------------------


def search(sample: Any, *, features: Sequence[str], params: TuneParams, **options: Any) -> Study:
    """Run a search to its end; arguments as of ``Search``."""
    found = Search(sample, features=features, params=params, **options)
    for _ in found.trials():
        pass
    return found.finish()


class Search:
    """A search over candidates and their parameters.

    Parameters
    ----------
    sample : DataFrame or dask DataFrame
        Training table as ``engine.sample`` writes it.
    features : sequence of str
        Columns to use, in this order.
    params : TuneParams
    balance : {"map", "classes", "drawn"}
        What a training row weighs, as in ``engine.boost.training_weights``.
    hold_out : sequence of str
        Regions in no fold. They are scored once, by the best trial of each candidate, and choose nothing.
    seed : int
        Of folds, sampler, networks and forests, and of the rows looked at.
    client : distributed.Client, optional
        Where trials are fitted; in this process without one.
    folder : Path, optional
        Where the ledger is; without one a search that is stopped is lost.
    notice : str
        Line to stand on every table, e.g. that the archive is simulated.

    Raises
    ------
    ConfigError
        If a candidate is not known, or the budget is less than a trial each.
    SampleError
        If the table lacks columns, or classes to fit and score.
    StoreError
        If the folder's ledger is of another search.
    """

    def __init__(
        self,
        sample: Any,
        *,
        features: Sequence[str],
        params: TuneParams,
        balance: str = "map",
        hold_out: Sequence[str] = (),
        seed: int = 1,
        client: Client | None = None,
        folder: Path | None = None,
        notice: str = "",
    ) -> None:
        self.params, self.client, self.notice, self._seed = params, client, notice, seed
        self.names = _names(params)
        if params.trials < len(self.names):
            raise ConfigError(
                f"tune.trials is {params.trials}, fewer than the {len(self.names)} candidates",
                fix="raise tune.trials, or name fewer tune.candidates",
            )
        if params.objective in _LOSSES and balance != "map":
            raise ConfigError(
                f"objective {params.objective} needs probabilities at map prevalence", fix="set train.balance to map"
            )
        columns = [*features, "label", "weight", "region", "interior", *PIXEL_YEAR]
        frame, _ = gather_rows(sample, columns, most=params.rows, seed=seed, client=client)
        self.work = _Work.of(frame, features, params, balance, hold_out, seed)
        self.about = {
            "features": list(features),
            "hold_out": sorted(hold_out),
            "balance": balance,
            "seed": seed,
            **params.model_dump(mode="json", exclude={"trials", "minutes", "candidates"}),
            "candidates": list(self.names),
            "folds_scored": len(self.work.splits),
            "split": self.work.kind,
            "rows_looked_at": len(frame),
            "rows_sha256": _sha256_of(frame),
            "versions": {
                "mangroves": engine.__version__,
                "optuna": optuna.__version__,
                "scikit-learn": sklearn.__version__,
                "xgboost": xgboost.__version__,
                "numpy": np.__version__,
                "python": platform.python_version(),
            },
        }
        self._ledger = Ledger(folder / LEDGER if folder else None, self.about)
        self._told: list[Trial] = []
        self._shared: Any = self.work
        self._out_of_time = False
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._study = optuna.create_study(direction="maximize")
        for name in self.names:
            if name != BASELINE:
                self._study.enqueue_trial({"candidate": name, **find_candidate(name).defaults})

    @property
    def best(self) -> Trial | None:
        """The best trial so far, of those told."""
        done = [trial for trial in self._told if trial.state == "complete"]
        return min(done, key=lambda trial: (-_mean(trial.gains(self.params.objective)), trial.number), default=None)

    def mean(self, trial: Trial) -> float:
        """Return the mean of the objective over the folds of a trial."""
        return _mean(trial.folds[self.params.objective])

    def trials(self) -> Iterator[Trial]:
        """Run the search: yield every trial as it finishes, first those finished by an earlier command."""
        started = time.monotonic()
        batch = 0
        while len(self._told) < self.params.trials:
            late = self.params.minutes is not None and time.monotonic() - started > 60 * self.params.minutes
            first, last = len(self._told), min(len(self._told) + self.params.batch, self.params.trials)
            if late and not all(self._ledger.has(number) for number in range(first, last)):
                self._out_of_time = True
                return
            asked = self._ask(batch, range(first, last))
            bars = self._bars()
            done: dict[int, Trial] = {}
            for trial, _ in asked:
                if earlier := self._ledger.trial(trial):
                    done[trial.number] = earlier
                    yield earlier
            calls = [
                (self._send(), trial, bars if trial.number >= len(self.names) else ())
                for trial, _ in asked
                if trial.number not in done
            ]
            for _, finished in self._run(run_trial, calls):
                self._ledger.add("trial", asdict(finished))
                done[finished.number] = finished
                yield finished
            for trial, question in asked:
                self._tell(question, done[trial.number])
            batch += 1

    def finish(self) -> Study:
        """Fit the best trial of each candidate to all training regions, score the hold-out, and report."""
        best = _best_trials(self._told, self.params.objective)
        fits: dict[str, dict[str, Any]] = {}
        todo = []
        for trial in best.values():
            if earlier := self._ledger.fit(trial):
                fits[trial.candidate] = earlier
            else:
                todo.append((self._send(), trial))
        for (_, trial), found in self._run(run_fit, todo):
            self._ledger.add("fit", {"number": trial.number, "candidate": trial.candidate, **found})
            fits[trial.candidate] = found
        board = _leaderboard(self._told, best, fits, self.params.objective)
        about = {
            **self.about,
            "notice": self.notice,
            "population": POPULATION,
            "label": LABEL,
            "trials": len(self._told),
            "complete": sum(trial.state == "complete" for trial in self._told),
        }
        return Study(board, _trials_frame(self._told), self._best_params(best, fits, board), about, self._notes(board))

    def _best_params(
        self, best: Mapping[str, Trial], fits: Mapping[str, dict[str, Any]], board: pd.DataFrame
    ) -> dict[str, Any] | None:
        trial = best.get(MAPPED)
        if trial is None:
            return None
        return {
            "format": FORMAT,
            "candidate": MAPPED,
            "train": {key.partition(".")[2]: value for key, value in trial.params.items()},
            "hold_out": self.about["hold_out"],
            "features": self.about["features"],
            "trial": trial.number,
            "objective": self.params.objective,
            "value": _mean(trial.folds[self.params.objective]),
            "threshold": trial.threshold,
            "model_sha256": fits[MAPPED]["model_sha256"],
            "leads": str(board["candidate"].iloc[0]),
            "population": POPULATION,
            "label": LABEL,
            "notice": self.notice,
            "seed": self._seed,
            "rows_sha256": self.about["rows_sha256"],
        }

    def _notes(self, board: pd.DataFrame) -> tuple[str, ...]:
        leader = str(board["candidate"].iloc[0])
        notes = [
            f"Figures are wall to wall, against the mask; folds: {self.work.kind}.",
            "Hold-out figures choose nothing; the threshold is that of the highest F1 on the folds.",
        ]
        if leader != MAPPED:
            notes.append(f"{leader} leads; maps are made with {MAPPED}, trees on the features as they are.")
        if self.params.minutes is not None:
            stopped = f"stopped after {len(self._told)} of {self.params.trials} trials" if self._out_of_time else "kept"
            notes.append(f"A time budget does not repeat: {self.params.minutes:g} minutes, {stopped}.")
        return tuple(notes)

    # --- asking and telling

    def _ask(self, batch: int, numbers: Iterable[int]) -> list[tuple[Trial, optuna.Trial | None]]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study.sampler = optuna.samplers.TPESampler(
                seed=int(np.random.SeedSequence([self._seed, batch]).generate_state(1)[0]),
                n_startup_trials=_STARTUP,
                multivariate=True,
                group=True,  # each algorithm has parameters of its own
                constant_liar=True,  # so that the trials of a batch differ
            )
        asked: list[tuple[Trial, optuna.Trial | None]] = []
        for number in numbers:
            if number == 0:  # has nothing to search
                asked.append((Trial(0, batch, BASELINE, {}), None))
                continue
            if MAPPED in self.names and number >= len(self.names) and number % 2:
                self._study.enqueue_trial({"candidate": MAPPED})  # its parameters are drawn as any others
            question = self._study.ask()
            name = question.suggest_categorical("candidate", [name for name in self.names if name != BASELINE])
            space = find_candidate(name).space
            params = {key: _suggest(question, key, of) for key, of in space.items()}
            asked.append((Trial(number, batch, name, params), question))
        return asked

    def _tell(self, question: optuna.Trial | None, trial: Trial) -> None:
        self._told.append(trial)
        if question is None:
            return
        gains = trial.gains(self.params.objective)
        if trial.state == "pruned":
            question.report(_mean(gains), len(gains))
            self._study.tell(question, state=optuna.trial.TrialState.PRUNED)
        else:
            self._study.tell(question, _mean(gains))

    def _bars(self) -> tuple[float, ...]:
        """Return, fold by fold, what the mean so far must reach: the median of earlier batches."""
        gains = [trial.gains(self.params.objective) for trial in self._told if trial.candidate != BASELINE]
        bars = []
        for count in range(1, len(self.work.splits) + 1):
            means = [_mean(values[:count]) for values in gains if len(values) >= count]
            known = count >= _PRUNE_FROM and len(means) >= _PRUNE_AFTER
            bars.append(float(np.median(means)) if known else -math.inf)
        return tuple(bars)

    # --- where trials run

    def _send(self) -> Any:
        """Return the table as tasks take it: to each worker it goes once, for all batches."""
        if self.client is not None and self._shared is self.work:
            # A task of its own, not scattered: what a worker that dies had of it is made anew.
            self._shared = self.client.submit(copy.copy, self.work, pure=False)
        return self._shared

    def _run(self, function: Any, calls: list[tuple[Any, ...]]) -> Iterator[tuple[tuple[Any, ...], Any]]:
        if self.client is None:
            return ((call, function(*call)) for call in calls)
        return run_bounded(self.client, function, calls)


def _names(params: TuneParams) -> tuple[str, ...]:
    """Return the candidates to try, the baseline first, in the order of the list of all."""
    named = set(params.candidates or CANDIDATES)
    for name in sorted(named):
        find_candidate(name)
    return tuple(name for name in CANDIDATES if name in named or name == BASELINE)


def _suggest(question: optuna.Trial, key: str, of: optuna.distributions.BaseDistribution) -> Any:
    if isinstance(of, IntDistribution):
        return question.suggest_int(key, of.low, of.high, log=of.log)
    if isinstance(of, FloatDistribution):
        return question.suggest_float(key, of.low, of.high, log=of.log)
    assert isinstance(of, CategoricalDistribution)
    return question.suggest_categorical(key, of.choices)


# --- tasks -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Work:
    """What every task needs: goes to a worker once."""

    rows: Rows
    """Outside the hold-out, and the 10 km blocks it touches."""

    splits: tuple[tuple[np.ndarray, np.ndarray], ...]
    """Rows to fit to and rows to score of each fold, bool (row,)."""

    kind: str
    held: Rows | None
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
    ) -> _Work:
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


def run_trial(work: _Work, trial: Trial, bars: Sequence[float]) -> Trial:
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
        mean = _mean(Trial(0, 0, "", {}, folds=folds).gains(work.objective))
        if number + 1 < len(work.splits) and len(bars) and mean < bars[number]:
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


def run_fit(work: _Work, trial: Trial) -> dict[str, Any]:
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
    return {
        "auc": auc(probability, positive, weight),
        "average_precision": average_precision(probability, positive, weight),
        "f1": rates(steps >= best_threshold(steps, positive, weight), positive, weight).f1,
        "brier": brier(probability, positive, weight),
        "logloss": float((weight * loss).sum() / weight.sum()),
    }


def _steps(probability: np.ndarray) -> np.ndarray:
    """Return probability as maps hold it, uint16."""
    return np.rint(probability * PROBABILITY_SCALE).astype(np.uint16)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _sha256_of(frame: pd.DataFrame) -> str:
    digest = hashlib.sha256()
    for name in frame.columns:
        column = frame[name]
        digest.update(name.encode())
        digest.update("\n".join(column).encode() if column.dtype == object else column.to_numpy().tobytes())
    return digest.hexdigest()


# --- the ledger ------------------------------------------------------------------------------------------------


class Ledger:
    """Finished trials, one JSON line each, added as they finish.

    The first line says of which search. A line that was not finished, the last one, is dropped.

    Parameters
    ----------
    path : Path or None
        None keeps it in memory.
    about : mapping
        What must be the same for trials to be of one search.

    Raises
    ------
    StoreError
        If the file is of another search, damaged, or cannot be read.
    """

    def __init__(self, path: Path | None, about: Mapping[str, Any]) -> None:
        self._path = path
        self._trials: dict[int, dict[str, Any]] = {}
        self._fits: dict[int, dict[str, Any]] = {}
        if path is None:
            return
        head: dict[str, Any] = {"format": FORMAT, "search": json.loads(json.dumps(about))}
        lines = self._read(path)
        if not lines:
            write_text(path, json.dumps(head) + "\n")
        elif lines[0] != head:
            ours, theirs = head["search"], lines[0].get("search")
            theirs = theirs if isinstance(theirs, dict) else {}
            keys = sorted(str(key) for key in {*theirs, *ours} if theirs.get(key) != ours.get(key))
            raise StoreError(
                f"{path} is of another search (differs in: {', '.join(keys) or 'format'})",
                fix="search as before, or begin anew with --new-search",
            )
        for line in lines[1:]:
            self._keep(line)

    def has(self, number: int) -> bool:
        """Tell whether a trial is finished."""
        return number in self._trials

    def trial(self, asked: Trial) -> Trial | None:
        """Return a trial as finished earlier, None if it was not.

        Raises
        ------
        StoreError
            If it was finished with other parameters than are asked now.
        """
        line = self._trials.get(asked.number)
        if line is None:
            return None
        found = Trial(**line)
        if (found.candidate, found.params, found.batch) != (asked.candidate, asked.params, asked.batch):
            raise StoreError(
                f"{self._path}: trial {asked.number} is of another search", fix="begin anew with --new-search"
            )
        return found

    def fit(self, trial: Trial) -> dict[str, Any] | None:
        """Return what the fit of a trial to all training regions gave, None if it was not made."""
        return self._fits.get(trial.number)

    def add(self, kind: str, content: Mapping[str, Any]) -> None:
        """Add a line; it is on the disk when this returns.

        Raises
        ------
        StoreError
            If it cannot be written.
        """
        line = {"kind": kind, **content}
        self._keep(json.loads(json.dumps(line)))
        if self._path is None:
            return
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise cannot_write(self._path, error) from error

    def _keep(self, line: dict[str, Any]) -> None:
        kind, rest = line["kind"], {key: value for key, value in line.items() if key != "kind"}
        if kind == "trial":
            self._trials[rest["number"]] = rest
        else:
            self._fits[rest["number"]] = {k: v for k, v in rest.items() if k not in ("number", "candidate")}

    @staticmethod
    def _read(path: Path) -> list[dict[str, Any]]:
        """Return the whole lines, and cut off what follows them."""
        try:
            if path.stat().st_size > _MOST_LEDGER_BYTES:
                raise StoreError(f"{path} is too large for a ledger", fix="begin anew with --new-search")
            content = path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise cannot_read(path, error) from error
        whole = content[: content.rfind(b"\n") + 1]
        try:
            lines = [json.loads(line) for line in whole.splitlines()]
            for line in lines[1:]:
                _check_line(line)
            if lines and not isinstance(lines[0], dict):
                raise TypeError("not a ledger")
        except (ValueError, TypeError, LookupError, RecursionError) as error:
            raise StoreError(
                f"{path} is damaged ({type(error).__name__})", fix="begin anew with --new-search"
            ) from error
        if whole != content:
            try:
                os.truncate(path, len(whole))
            except OSError as error:
                raise cannot_write(path, error) from error
        return lines


def _check_line(line: Any) -> None:
    if line["kind"] == "trial":
        trial = Trial(**{key: value for key, value in line.items() if key != "kind"})
        count = len(trial.folds["auc"])
        if trial.state not in ("complete", "pruned") or not isinstance(trial.number, int) or not count:
            raise ValueError("not a finished trial")
        if set(trial.folds) != set(METRICS) or not isinstance(trial.params, dict):
            raise ValueError("not a finished trial")
        if any(len(values) != count or not all(map(math.isfinite, values)) for values in trial.folds.values()):
            raise ValueError("not a finished trial")
        if not math.isfinite(trial.threshold + trial.f1 + trial.seconds):
            raise ValueError("not a number")
    elif line["kind"] == "fit":
        if not isinstance(line["model_sha256"], str) or not isinstance(line["number"], int):
            raise ValueError("not a finished fit")
        if not math.isfinite(line["fit_seconds"]):
            raise ValueError("not a number")
    else:
        raise ValueError("neither trial nor fit")


def set_aside(folder: Path) -> None:
    """Rename the ledger of a folder, so that the next search begins anew.

    Raises
    ------
    StoreError
        If it cannot be renamed.
    """
    path = folder / LEDGER
    with suppress(FileNotFoundError):
        try:
            path.rename(path.with_name(f"trials-{secrets.token_hex(4)}.jsonl"))
        except FileNotFoundError:
            raise
        except OSError as error:
            raise cannot_write(path, error) from error


# --- tables ----------------------------------------------------------------------------------------------------


def _best_trials(trials: Sequence[Trial], objective: str) -> dict[str, Trial]:
    best: dict[str, Trial] = {}
    for trial in trials:
        if trial.state != "complete":
            continue
        other = best.get(trial.candidate)
        if other is None or _mean(trial.gains(objective)) > _mean(other.gains(objective)):
            best[trial.candidate] = trial
    return best


def _leaderboard(
    trials: Sequence[Trial], best: Mapping[str, Trial], fits: Mapping[str, dict[str, Any]], objective: str
) -> pd.DataFrame:
    rows = []
    for name, trial in best.items():
        own = [one for one in trials if one.candidate == name]
        values, fit = trial.folds["auc"], fits[name]
        rows.append(
            {
                "candidate": name,
                **({} if objective == "auc" else {f"{objective}_mean": _mean(trial.folds[objective])}),
                "auc_mean": _mean(values),
                "auc_sd": float(np.std(values, ddof=1)),
                "auc_min": min(values),
                "folds": len(values),
                "f1_folds": trial.f1,
                "threshold": trial.threshold,
                "hold_out_auc": fit.get("auc", math.nan),
                "hold_out_f1": fit.get("f1", math.nan),
                "hold_out_precision": fit.get("precision", math.nan),
                "hold_out_recall": fit.get("recall", math.nan),
                "trials": len(own),
                "pruned": sum(one.state == "pruned" for one in own),
                "best_trial": trial.number,
                "params": json.dumps(trial.params, sort_keys=True),
                "model_sha256": fit["model_sha256"],
                "fit_seconds": fit["fit_seconds"],
                "seconds": math.fsum(one.seconds for one in own),
                "population": POPULATION,
                "label": LABEL,
            }
        )
    rows.sort(key=lambda row: (-_mean(best[row["candidate"]].gains(objective)), row["candidate"]))
    return pd.DataFrame(rows)


def _trials_frame(trials: Sequence[Trial]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "number": trial.number,
                "batch": trial.batch,
                "candidate": trial.candidate,
                "state": trial.state,
                "params": json.dumps(trial.params, sort_keys=True),
                **trial.folds,
                "threshold": trial.threshold,
                "f1_folds": trial.f1,
                "seconds": trial.seconds,
            }
            for trial in trials
        ]
    )


RUN_TIME: Final = ("fit_seconds", "seconds")
"""Columns that depend on the machine."""


def write_study(study: Study, folder: Path) -> None:
    """Write leaderboard (CSV, Parquet, Markdown), trials (Parquet) and the best parameters (JSON).

    Raises
    ------
    StoreError
        If the folder cannot be written.
    """
    stated = study.leaderboard.assign(notice=study.about["notice"])
    write_text(folder / "leaderboard.csv", stated.to_csv(index=False, lineterminator="\n"))
    write_text(folder / "leaderboard.md", _markdown(study))
    for name, table in (("leaderboard", study.leaderboard), ("trials", study.trials)):
        content = pa.Table.from_pandas(table, preserve_index=False)
        about = {b"mangroves": json.dumps(study.about).encode()}
        with replacing(folder / f"{name}.parquet") as temporary:
            pq.write_table(content.replace_schema_metadata({**(content.schema.metadata or {}), **about}), temporary)
    if study.best is None:
        (folder / "best.json").unlink(missing_ok=True)
    else:
        write_text(folder / "best.json", json.dumps(study.best, indent=1) + "\n")


LEADERBOARD_COLUMNS: Final = (
    ("candidate", "candidate", "{}"),
    ("AUC", "auc_mean", "{:.4f}"),
    ("sd", "auc_sd", "{:.4f}"),
    ("worst", "auc_min", "{:.4f}"),
    ("F1 folds", "f1_folds", "{:.3f}"),
    ("hold-out AUC", "hold_out_auc", "{:.4f}"),
    ("hold-out F1", "hold_out_f1", "{:.3f}"),
    ("trials", "trials", "{}"),
    ("a fit, s", "fit_seconds", "{:.1f}"),
    ("all, s", "seconds", "{:.0f}"),
)
"""Heading, column and format of a leaderboard as it is read."""


def leaderboard_cells(study: Study) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows of the leaderboard as text."""
    columns = list(LEADERBOARD_COLUMNS)
    objective = study.about["objective"]
    if objective != "auc":
        columns.insert(1, (objective.replace("_", " "), f"{objective}_mean", "{:.4f}"))

    def cell(value: Any, form: str) -> str:
        return "-" if isinstance(value, float) and math.isnan(value) else form.format(value)

    rows = [[cell(row[name], form) for _, name, form in columns] for row in study.leaderboard.to_dict("records")]
    return [heading for heading, _, _ in columns], rows


def _markdown(study: Study) -> str:
    headings, rows = leaderboard_cells(study)
    about = study.about
    lines = ["# Leaderboard", ""]
    if about["notice"]:
        lines += [f"**{about['notice']}**", ""]
    lines += [
        f"{about['trials']} trials, {about['folds_scored']} folds ({about['split']}), seed {about['seed']}, "
        f"{about['rows_looked_at']} rows, hold-out: {', '.join(about['hold_out']) or 'none'}.",
        "",
        "| " + " | ".join(headings) + " |",
        "|---" + "|---:" * (len(headings) - 1) + "|",
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
        *(f"* {note}" for note in study.notes),
        "",
    ]
    return "\n".join(lines)
