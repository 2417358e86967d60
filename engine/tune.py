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
import math
import platform
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import numpy as np
import optuna
import pandas as pd
import sklearn
import xgboost
from distributed import Client
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

import engine
from engine.candidates import BASELINE, CANDIDATES, MAPPED, find_candidate
from engine.cluster import run_bounded
from engine.errors import ConfigError
from engine.leaderboard import Study, best_trials, rank_candidates, trials_table
from engine.ledger import FORMAT, LEDGER, Ledger
from engine.params import TuneParams
from engine.rows import PIXEL_YEAR, gather_rows
from engine.tune_trials import LABEL, LOSSES, POPULATION, Trial, Work, run_fit, run_trial

_PRUNE_AFTER: Final = 6  # earlier trials that a median needs
_PRUNE_FROM: Final = 2  # folds: one fold of regions says little
_STARTUP: Final = 10  # finished trials before parameters are drawn by what is known of them


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
        As ``candidates_of``.
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
        self.names = candidates_of(params, balance)
        columns = [*features, "label", "weight", "region", "interior", *PIXEL_YEAR]
        frame, _ = gather_rows(sample, columns, most=params.rows, seed=seed, client=client)
        self.work = Work.of(frame, features, params, balance, hold_out, seed)
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
        return min(done, key=lambda trial: (-trial.gain(self.params.objective), trial.number), default=None)

    def mean(self, trial: Trial) -> float:
        """Return the mean of the objective over the folds of a trial."""
        return fmean(trial.folds[self.params.objective])

    def trials(self) -> Iterator[Trial]:
        """Run the search: yield every trial as it finishes, of each batch first those finished by an earlier command.

        The first batch is asked for however little time there is.
        """
        started = time.monotonic()
        batch = 0
        while len(self._told) < self.params.trials:
            late = self.params.minutes is not None and time.monotonic() - started > 60 * self.params.minutes
            first, last = len(self._told), min(len(self._told) + self.params.batch, self.params.trials)
            if batch and late and not all(self._ledger.has(number) for number in range(first, last)):
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
        best = best_trials(self._told, self.params.objective)
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
        board = rank_candidates(self._told, best, fits, self.params.objective)
        about = {
            **self.about,
            "notice": self.notice,
            "population": POPULATION,
            "label": LABEL,
            "trials": len(self._told),
            "complete": sum(trial.state == "complete" for trial in self._told),
        }
        return Study(board, trials_table(self._told), self._best_params(best, fits, board), about, self._notes(board))

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
            "value": fmean(trial.folds[self.params.objective]),
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
        spread = float(board["auc_sd"].iloc[0])
        near = int((board["auc_mean"].iloc[1:] > board["auc_mean"].iloc[0] - spread).sum())
        if near:
            notes.append(
                f"{near} more lie within the spread of {leader} over folds, {spread:.4f}: such gaps may be chance."
            )
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
            question.report(fmean(gains), len(gains))
            self._study.tell(question, state=optuna.trial.TrialState.PRUNED)
        else:
            self._study.tell(question, fmean(gains))

    def _bars(self) -> tuple[float, ...]:
        """Return, fold by fold, what the mean so far must reach: the median of earlier batches."""
        gains = [trial.gains(self.params.objective) for trial in self._told if trial.candidate != BASELINE]
        bars = []
        for count in range(1, len(self.work.splits) + 1):
            means = [fmean(values[:count]) for values in gains if len(values) >= count]
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


def candidates_of(params: TuneParams, balance: str) -> tuple[str, ...]:
    """Return the candidates to try, the baseline first, in the order of the list of all.

    Raises
    ------
    ConfigError
        If one is not known, the budget is less than a trial each, or the objective does not go with the weights.
    """
    named = set(params.candidates or CANDIDATES)
    for name in sorted(named):
        find_candidate(name)
    names = tuple(name for name in CANDIDATES if name in named or name == BASELINE)
    if params.trials < len(names):
        raise ConfigError(
            f"tune.trials is {params.trials}, fewer than the {len(names)} candidates",
            fix="raise tune.trials, or name fewer tune.candidates",
        )
    if params.objective in LOSSES and balance != "map":
        raise ConfigError(
            f"objective {params.objective} needs probabilities at map prevalence", fix="set train.balance to map"
        )
    return names


def _suggest(question: optuna.Trial, key: str, of: optuna.distributions.BaseDistribution) -> Any:
    if isinstance(of, IntDistribution):
        return question.suggest_int(key, of.low, of.high, log=of.log)
    if isinstance(of, FloatDistribution):
        return question.suggest_float(key, of.low, of.high, log=of.log)
    assert isinstance(of, CategoricalDistribution)
    return question.suggest_categorical(key, of.choices)


def _sha256_of(frame: pd.DataFrame) -> str:
    digest = hashlib.sha256()
    for name in frame.columns:
        column = frame[name]
        digest.update(name.encode())
        digest.update("\n".join(column).encode() if column.dtype == object else column.to_numpy().tobytes())
    return digest.hexdigest()
