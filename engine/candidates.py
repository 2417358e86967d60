"""What may become the classifier: named pipelines of a transform and an algorithm, each with its search space.

A pipeline is listed where it can do something: a monotone transform of single features (scaling, quantiles) changes
nothing for trees, which only ask whether a value is above another, and a linear model or a network needs one.

Boosted trees are those of ``engine.boost``, exact on any machine. What scikit-learn fits repeats on any number of
workers and threads of one kind of processor: rows keep their order, seeds are given, and numerical libraries use one
thread (with more, sums would depend on how busy the machine is).
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final, Protocol

import numpy as np
import pandas as pd
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import QuantileTransformer, RobustScaler, StandardScaler
from sklearn.tree import DecisionTreeClassifier
from threadpoolctl import ThreadpoolController

from engine.boost import Boosted, fit_boosted, training_weights
from engine.errors import ConfigError, SampleError
from engine.kernels.features import MISSING
from engine.kernels.indices import INDICES
from engine.legend import MANGROVE, OTHER
from engine.params import BoostParams
from engine.rows import feature_values, is_thinned

BASELINE: Final = "cart"
"""Earth Engine's ``smileCart`` as it comes: a candidate in every comparison."""

MAPPED: Final = "xgboost"
"""The candidate that maps are made with: trees on the features as they are."""

_FIXED_POINT: Final = 1000.0  # a transformed feature as an integer, for the bins of engine.boost
_MOST: Final = 20.0  # interquartile ranges from the median; a glint or an index of nearly 0 / 0 lies further out
_QUANTILES: Final = 256
_BATCH_ROWS: Final = (32, 512)  # as many as leave 64 steps an epoch, within these


# --- the table -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Rows:
    """A labelled table as arrays: what a task is sent."""

    features: tuple[str, ...]
    values: np.ndarray
    """int32 (feature, row), ``MISSING`` where not known."""

    positive: np.ndarray
    """bool (row,), True for mangrove."""

    weight: np.ndarray
    """float64 (row,), pixels a row stands for."""

    interior: np.ndarray
    """bool (row,), away from class edges."""

    thinned: np.ndarray
    """bool (row,), of a composite thinned at random."""

    region: np.ndarray
    """int32 (row,), number of the region."""

    @classmethod
    def of(cls, frame: pd.DataFrame, features: Sequence[str]) -> Rows:
        """Take a training table, or one without labels to predict: what it lacks of the rest has no part in it.

        Raises
        ------
        SampleError
            If a feature is missing, or not of integers.
        """
        for name in features:
            if name not in frame.columns:
                raise SampleError(f"table lacks column {name!r}", fix="draw the sample again with `mangroves sample`")
            if frame.dtypes[name].kind not in "iu":
                raise SampleError(f"column {name!r} is {frame.dtypes[name]}", fix="features are int32; draw again")

        def column(name: str, kind: type, default: Any) -> np.ndarray:
            return frame[name].to_numpy(kind) if name in frame.columns else np.full(len(frame), default, kind)

        names = frame["region"].astype(str) if "region" in frame.columns else pd.Series("", index=frame.index)
        return cls(
            tuple(features),
            feature_values(frame, features),
            column("label", np.uint8, OTHER) == MANGROVE,
            column("weight", np.float64, 1.0),
            column("interior", np.bool_, True),
            is_thinned(frame),
            np.unique(names, return_inverse=True)[1].astype(np.int32),
        )

    def take(self, which: np.ndarray) -> Rows:
        """Return some rows, chosen by a bool or integer array."""
        kept = {name: getattr(self, name)[which] for name in ("positive", "weight", "interior", "thinned", "region")}
        return replace(self, values=np.ascontiguousarray(self.values[:, which]), **kept)

    def __len__(self) -> int:
        return self.positive.size


# --- candidates ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Candidate:
    """A pipeline with a name, ``algorithm`` or ``algorithm/transform``."""

    name: str
    about: str
    stages: tuple[str, ...]
    """Transforms in their order: ``bands`` and ``region`` of this module, others of scikit-learn."""

    algorithm: str
    space: Mapping[str, BaseDistribution]
    """Parameter, as ``algorithm.name`` or ``stage.name`` -> what it may be."""

    defaults: Mapping[str, Any]
    """A value of every parameter: the first trial."""


_SPACES: Final[dict[str, dict[str, tuple[BaseDistribution, Any]]]] = {
    "xgboost": {
        "rounds": (IntDistribution(64, 1024, log=True), 200),
        "max_depth": (IntDistribution(2, 8), 6),
        "learning_rate": (FloatDistribution(1e-3, 1, log=True), 0.1),
        "min_child_weight": (FloatDistribution(0.1, 300, log=True), 1.0),
        "reg_lambda": (FloatDistribution(1e-2, 300, log=True), 1.0),
        "reg_alpha": (FloatDistribution(0, 20), 0.0),
        "gamma": (FloatDistribution(0, 20), 0.0),
    },
    "linear": {"C": (FloatDistribution(1e-5, 1e2, log=True), 1.0)},
    "mlp": {
        "layers": (IntDistribution(1, 3), 2),
        "units": (IntDistribution(8, 64, log=True), 32),
        "alpha": (FloatDistribution(1e-6, 1, log=True), 1e-4),
        "learning_rate": (FloatDistribution(1e-4, 1e-2, log=True), 1e-3),
        "epochs": (IntDistribution(4, 64, log=True), 16),
    },
    "forest": {
        "min_samples_leaf": (IntDistribution(1, 128, log=True), 1),
        "max_features": (FloatDistribution(0.1, 1), 0.3),
    },
    "cart": {},
    "pca": {"components": (IntDistribution(3, 12), 8)},
}


def _candidate(name: str, about: str, *stages: str) -> Candidate:
    algorithm = name.partition("/")[0]
    parts = {f"{part}.{key}": of for part in (algorithm, *stages) for key, of in _SPACES.get(part, {}).items()}
    return Candidate(
        name,
        about,
        stages,
        algorithm,
        {key: distribution for key, (distribution, _) in parts.items()},
        {key: default for key, (_, default) in parts.items()},
    )


CANDIDATES: Final = {
    candidate.name: candidate
    for candidate in (
        _candidate(BASELINE, "baseline: one tree grown to the end on rows as drawn, as Earth Engine's smileCart"),
        _candidate(MAPPED, "boosted trees on the features as they are: what maps are made with"),
        _candidate("xgboost/bands", "the same without indices: what these add", "bands"),
        _candidate("xgboost/imputed", "the same, missing values filled with the median", "impute"),
        _candidate("xgboost/pca", "the same on principal components: splits across bands", "impute", "standard", "pca"),
        _candidate("xgboost/region", "the same, each feature relative to its region", "region"),
        _candidate("linear/robust", "logistic regression, by median and quartiles", "impute", "robust"),
        _candidate("linear/quantile", "logistic regression on normal scores", "impute", "quantile"),
        _candidate("linear/region", "logistic regression, relative to the region", "region", "impute"),
        _candidate("mlp/robust", "network, by median and quartiles", "impute", "robust"),
        _candidate("mlp/quantile", "network on normal scores", "impute", "quantile"),
        _candidate("mlp/bands", "network on normal scores without indices", "bands", "impute", "quantile"),
        _candidate("mlp/region", "network, relative to the region", "region", "impute"),
        _candidate("forest", "baseline: random forest of 100 trees on the features as they are"),
    )
}
"""Every pipeline by name, in the order of their first trials."""


def find_candidate(name: str) -> Candidate:
    """Return a candidate.

    Raises
    ------
    ConfigError
        If there is none of this name.
    """
    if name not in CANDIDATES:
        raise ConfigError(f"no candidate {name!r}", fix=f"known are {', '.join(CANDIDATES)}")
    return CANDIDATES[name]


# --- fitting ---------------------------------------------------------------------------------------------------


class _Classifier(Protocol):
    def predict(self, values: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True, eq=False)
class Fitted:
    """A candidate that has been fitted."""

    candidate: Candidate
    params: dict[str, Any]
    transforms: Pipeline | None
    model: Boosted | Any
    """Boosted trees, or an estimator of scikit-learn."""

    def predict(self, rows: Rows) -> np.ndarray:
        """Return the probability of mangrove, float32 (row,).

        Where the pipeline goes by region, a region's figures are those of the rows given, which should be a design
        sample of it: features and weights are looked at, never labels.
        """
        with one_thread():
            if isinstance(self.model, Boosted):
                return self.model.predict(_as_integers(self.candidate, rows, self.transforms))
            return self.model.predict_proba(_as_floats(self.candidate, rows, self.transforms))[:, 1].astype(np.float32)

    def sha256(self, rows: Rows) -> str:
        """Return a hash of the model: of its trees if they are boosted, else of what it says of some rows."""
        content = self.model.trees if isinstance(self.model, Boosted) else self.predict(rows).tobytes()
        return hashlib.sha256(content).hexdigest()


def fit_candidate(
    name: str, rows: Rows, params: Mapping[str, Any] | None = None, *, balance: str = "map", seed: int = 0
) -> Fitted:
    """Fit a pipeline to the interior rows of a table, in one thread.

    Parameters
    ----------
    name : str
        Of ``CANDIDATES``.
    rows : Rows
        Of the training side, with those at class edges: they count as land.
    params : mapping, optional
        Values of the candidate's space; its defaults stand in for those not given.
    balance : {"map", "classes", "drawn"}
        Weights, as in ``engine.boost.training_weights``. The baseline takes rows as drawn: smileCart knows no weights.
    seed : int
        Of networks and forests.

    Returns
    -------
    Fitted

    Raises
    ------
    ConfigError
        If there is no such candidate or parameter.
    SampleError
        If a class has no interior row.
    """
    candidate = find_candidate(name)
    values = {**candidate.defaults, **(params or {})}
    if unknown := sorted(set(values) - set(candidate.defaults)):
        known = ", ".join(candidate.defaults) or "none"
        raise ConfigError(f"candidate {name} has no parameter {unknown[0]!r}", fix=f"known are {known}")
    weight = training_weights(
        rows.positive, rows.weight, rows.interior, rows.thinned, "drawn" if name == BASELINE else balance
    )
    used = weight > 0
    positive, weight = rows.positive[used], weight[used]
    if not 0 < positive.sum() < positive.size:
        raise SampleError(
            f"{int(positive.sum())} of {positive.size} rows to train on are mangrove; both classes are needed",
            fix="add masks, years or area, or hold out less",
        )
    weight = weight / weight.mean()
    own = {key.partition(".")[2]: value for key, value in values.items() if key.startswith(f"{candidate.algorithm}.")}
    with one_thread():
        transforms = _transforms(candidate, values, len(_columns(candidate, rows.features)), positive.size)
        if transforms is not None:
            transforms.fit(_before(candidate, rows)[used])
        if candidate.algorithm == "xgboost":
            integers = _as_integers(candidate, rows, transforms)[:, used]
            boosted = fit_boosted(np.ascontiguousarray(integers), positive, weight, BoostParams(**own))
            return Fitted(candidate, values, transforms, boosted)
        model = _estimator(candidate.algorithm, own, seed, positive.size)
        floats = _as_floats(candidate, rows, transforms)[used]
        if candidate.algorithm == "mlp":
            for _ in range(own["epochs"]):  # as many as asked: no row is set aside to say when to stop
                model.partial_fit(floats, positive, classes=[False, True], sample_weight=weight)
        else:
            model.fit(floats, positive, sample_weight=weight)
    return Fitted(candidate, values, transforms, model)


def _estimator(algorithm: str, own: Mapping[str, Any], seed: int, rows: int) -> Any:
    if algorithm == "cart":  # smileCart: maxNodes none, minLeafPopulation 1; Smile splits by Gini
        return DecisionTreeClassifier(criterion="gini", min_samples_leaf=1, max_leaf_nodes=None, random_state=seed)
    if algorithm == "forest":
        return RandomForestClassifier(100, n_jobs=1, random_state=seed, max_samples=0.5, **own)
    if algorithm == "linear":
        # Few features and many rows: converges in some 7 steps where lbfgs may stop unfinished after 1000.
        return LogisticRegression(C=own["C"], solver="newton-cholesky")
    return MLPClassifier(
        (own["units"],) * own["layers"],
        alpha=own["alpha"],
        learning_rate_init=own["learning_rate"],
        batch_size=int(np.clip(rows // 64, *_BATCH_ROWS)),
        random_state=np.random.RandomState(seed),  # of a number, every epoch would take the rows in one order
    )


# --- transforms ------------------------------------------------------------------------------------------------


def _columns(candidate: Candidate, features: Sequence[str]) -> list[int]:
    off = INDICES if "bands" in candidate.stages else ()
    return [number for number, name in enumerate(features) if name not in off]


def _before(candidate: Candidate, rows: Rows) -> np.ndarray:
    """Return what fitted transforms see: float64 (row, feature), nan where missing."""
    values = rows.values[_columns(candidate, rows.features)]
    floats = np.where(values == MISSING, np.nan, values)
    if "region" in candidate.stages:
        floats = by_region(floats, rows.region, np.where(rows.thinned, 0.0, rows.weight))
    return floats.T


def _transforms(candidate: Candidate, params: Mapping[str, Any], features: int, rows: int) -> Pipeline | None:
    makers = {
        "robust": lambda: RobustScaler(),
        "standard": lambda: StandardScaler(),
        "quantile": lambda: QuantileTransformer(
            n_quantiles=min(_QUANTILES, rows), output_distribution="normal", subsample=None, copy=True
        ),
        "impute": lambda: SimpleImputer(strategy="median", keep_empty_features=True),
        "pca": lambda: PCA(min(params["pca.components"], features), svd_solver="full"),
    }
    stages = [(stage, makers[stage]()) for stage in candidate.stages if stage in makers]
    return Pipeline(stages) if stages else None


def _as_floats(candidate: Candidate, rows: Rows, transforms: Pipeline | None) -> np.ndarray:
    values = _before(candidate, rows)
    if transforms is None:
        return values
    changed = transforms.transform(values)
    return np.clip(changed, -_MOST, _MOST)


def _as_integers(candidate: Candidate, rows: Rows, transforms: Pipeline | None) -> np.ndarray:
    """Return features for boosted trees, int32 (feature, row)."""
    if not candidate.stages:
        return rows.values
    if candidate.stages == ("bands",):
        return rows.values[_columns(candidate, rows.features)]
    values = _before(candidate, rows)
    if transforms is not None:
        values = transforms.transform(values)
    steps = np.clip(np.rint(values * _FIXED_POINT), -(2.0**30), 2.0**30)
    return np.where(np.isnan(values), MISSING, steps).astype(np.int32).T


def by_region(values: np.ndarray, region: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return features relative to their region: (value - median) / interquartile range, over the region's land.

    Parameters
    ----------
    values : ndarray of float64, shape (feature, row)
        nan where missing.
    region : ndarray of int, shape (row,)
    weight : ndarray of float64, shape (row,)
        Pixels a row stands for; 0 for rows that are changed but not counted.

    Returns
    -------
    ndarray of float64, shape (feature, row)

    Examples
    --------
    >>> by_region(np.array([[1.0, 2, 3, 4, 5, 70]]), np.array([0, 0, 0, 0, 0, 1]), np.ones(6))
    array([[-1. , -0.5,  0. ,  0.5,  1. ,  0. ]])
    """
    found = np.full(values.shape, np.nan)
    for one in np.unique(region):
        inside = np.flatnonzero(region == one)
        for number, feature in enumerate(values):
            own = feature[inside]
            counted = ~np.isnan(own) & (weight[inside] > 0)
            if counted.any():
                low, middle, high = _weighted_quantiles(own[counted], weight[inside][counted])
                found[number, inside] = (own - middle) / max(high - low, 1.0)
    return found


def _weighted_quantiles(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return the quartiles: the least value with at least that share of the weight at or below it."""
    order = np.argsort(values, kind="stable")
    share = np.cumsum(weight[order])
    at = np.searchsorted(share, np.array([0.25, 0.5, 0.75]) * share[-1] * (1 - 1e-12))
    return values[order][at]


# --- threads ---------------------------------------------------------------------------------------------------

_lock = threading.Lock()
_inside = 0
_limits: Any = None


@cache
def _libraries() -> ThreadpoolController:
    """Return what starts threads in this process: looking for it takes 10 ms, as long as a small fit."""
    return ThreadpoolController()


@contextmanager
def one_thread() -> Iterator[None]:
    """Let numerical libraries use one thread until the block ends, also where blocks of several threads overlap."""
    global _inside, _limits  # of BLAS the limit is one of the process, of OpenMP one of the thread
    with _lock:
        if not _inside:
            _limits = _libraries().limit(limits=1, user_api="blas")
        _inside += 1
    try:
        with _libraries().limit(limits=1, user_api="openmp"):
            yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                _limits.restore_original_limits()
