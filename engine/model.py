"""A fitted classifier and its folder on disk: trees as JSON, bin edges, and what it was made from.

``model.json`` holds the trees as XGBoost writes them, ``meta.json`` everything else and the sha256 of both.
A model directory is untrusted input: sizes are bounded, hashes are checked before anything is parsed, and the
shape of every tree before XGBoost sees it, as a child index out of range would read foreign memory. Nothing is
ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Annotated, Any, Final, Literal

import numpy as np
import xgboost
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from engine.errors import ModelError
from engine.files import write_text
from engine.kernels.bins import MAX_BINS, MISSING_CODE
from engine.kernels.calibrate import Calibration, Curve, decide, levels_of
from engine.kernels.features import KNOWN_FEATURES
from engine.kernels.forest import Forest, compile_trees, margins, probabilities
from engine.legend import PROBABILITY_SCALE, threshold_code
from engine.places import Place, read_start
from engine.trust import Trust

TREES_FILE: Final = "model.json"
META_FILE: Final = "meta.json"
BANDS_MODEL: Final = "bands"
"""Folder within a model's folder of the model that needs nothing but the six bands."""

MAX_BYTES: Final = {TREES_FILE: 256 * 2**20, META_FILE: 16 * 2**20}
"""Largest files read; 200 trees of depth 6 take 2 MB, their edges and metrics 100 KB."""

_BASE: Final = np.float32(0)  # margin of base_score 0.5, which training sets
_CHECKED_PIXELS: Final = 4096
_FEW_PIXELS: Final = 32  # XGBoost takes 0.4 ms for one, the engine's trees 0.8 ms for any number of up to 2048
_MAX_TREES: Final = 2000  # TrainParams.rounds
_MAX_NODES: Final = 2**13 - 1  # TrainParams.max_depth
_INTEGERS: Final = ("left_children", "right_children", "parents", "split_indices", "split_type", "default_left")
_REALS: Final = ("split_conditions", "base_weights", "loss_changes", "sum_hessian")

_MAX_BLOCKS: Final = 2**19  # 52 million km2

Int32 = Annotated[int, Field(ge=-(2**31), lt=2**31)]
_Block = Annotated[int, Field(ge=1 << 40, lt=61 << 40)]  # of zones 1 to 60


@dataclass(frozen=True, eq=False, kw_only=True)
class Model:
    """A binned gradient-boosted classifier; plain data, so it travels to workers as it is."""

    trees: bytes
    """XGBoost model as canonical JSON text."""

    features: tuple[str, ...]
    """Names, in the order of the codes."""

    edges: tuple[np.ndarray, ...]
    """Bin edges of each feature, int32, as ``engine.kernels.bins.encode`` takes them."""

    regions: tuple[str, ...]
    """Regions trained on."""

    blocks: np.ndarray | None = None
    """Numbers (``engine.splits.block_ids``) of the 10 km blocks trained on, int64 (block,), rising; None in folders of
    earlier versions. No part of ``sha256``: they decide no map."""

    hold_out: tuple[str, ...] = ()
    """Regions kept out of training."""

    training_prevalence: float
    """Mangrove share of the land the training rows stand for (their weights), so of the mapped land."""

    training_rows: dict[str, int]
    """Rows trained on by class name: further views of thinned composites with them, class edges not."""

    masks: tuple[dict[str, Any], ...] = ()
    """Whose labels it learnt: name, year, licence and citation of each mask, the years it labels, and which of
    these it is too old or young for."""

    calibration: Calibration | None = None
    """From the trees' score to probability at ``prevalence``; None: the score is taken for it."""

    curve: Curve | None = None
    """What each threshold gives on land the trees had not seen; None where there was no such land."""

    threshold: float = 0.5
    """Probability from which a pixel is mapped as mangrove."""

    params: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def predict_codes(self, codes: np.ndarray) -> np.ndarray:
        """Return the trees' score of mangrove, a probability before it is calibrated.

        Parameters
        ----------
        codes : ndarray of uint8, shape (feature, pixel)
            Codes of ``self.features`` by ``self.edges``.

        Returns
        -------
        ndarray of float32, shape (pixel,)
            The very values of ``Booster.inplace_predict``, by ``engine.kernels.forest`` where that gives them and is
            quicker.

        Raises
        ------
        ValueError
            If the codes are not one byte for each of the model's features.
        """
        if codes.dtype != np.uint8 or codes.ndim != 2 or codes.shape[0] != len(self.features):
            raise ValueError(
                f"codes must be uint8 (feature, pixel) of {len(self.features)} features, "
                f"got {codes.dtype} {codes.shape}"
            )
        if codes.shape[1] == 0:
            return np.empty(0, np.float32)
        forest = _forest(self.trees, len(self.features))
        if forest is None or codes.shape[1] <= _FEW_PIXELS:
            return _booster(self.trees).inplace_predict(codes.T, missing=MISSING_CODE)
        return probabilities(margins(forest, codes, _BASE))

    @cached_property
    def levels(self) -> np.ndarray:
        """The probability each score means, uint16 (10 001,) x 10 000; both as maps hold them."""
        return levels_of(self.calibration)

    def probability(self, codes: np.ndarray) -> np.ndarray:
        """Return the calibrated probability of mangrove, uint16 (pixel,) x 10 000, as maps hold it.

        Parameters
        ----------
        codes : ndarray of uint8, shape (feature, pixel)
            As of ``predict_codes``.
        """
        return self.levels[np.rint(self.predict_codes(codes) * PROBABILITY_SCALE).astype(np.uint16)]

    def is_mangrove(self, probability: np.ndarray) -> np.ndarray:
        """Tell which probabilities, uint16 x 10 000, are mapped as mangrove, bool of the same shape."""
        return probability >= threshold_code(self.threshold)

    def at_prevalence(self, prevalence: float) -> Model:
        """Return the model for land of which another share is mangrove: probabilities move, and the threshold by its
        rule, but not one that was given.

        Raises
        ------
        ModelError
            If the model was not calibrated.
        """
        if self.calibration is None or self.curve is None:
            raise ModelError(
                "a model that is not calibrated cannot be moved to another prevalence",
                fix="train it with train.calibrate: isotonic, on two regions or more",
            )
        old = self.training_prevalence
        rule, target = self.params.get("threshold_rule", "f1"), self.params.get("threshold_target", 0.9)
        given = (self.metrics.get("decision") or {}).get("rule") == "given"
        curve = self.curve.at_prevalence(old, prevalence)
        return replace(
            self,
            calibration=self.calibration.at_prevalence(old, prevalence),
            curve=curve,
            threshold=self.threshold if given else decide(curve, rule, target, prevalence).threshold,
            training_prevalence=prevalence,
        )

    def tree_sha256(self) -> str:
        """Return the hash of the trees alone, which is the same wherever and however they were trained."""
        trees = json.loads(self.trees)["learner"]["gradient_booster"]["model"]["trees"]
        return hashlib.sha256(canonical_json(trees)).hexdigest()

    def sha256(self) -> str:
        """Return the hash of all that decides a map: features, edges, trees, calibration, prevalence and threshold."""
        rule = [self.params.get(name) for name in ("threshold_rule", "threshold_target")]
        decision = [self.threshold, self.training_prevalence, _lists(self.curve), rule]
        edges = [one.tolist() for one in self.edges]
        parts = [list(self.features), edges, self.tree_sha256(), self.levels.tolist(), decision]
        return hashlib.sha256(canonical_json(parts)).hexdigest()

    def to_files(self) -> dict[str, bytes]:
        """Return the folder's files by name, in the order they are to be written."""
        meta = {
            "format": "mangroves-model-2",
            "features": list(self.features),
            "edges": [one.tolist() for one in self.edges],
            "regions": list(self.regions),
            "blocks": None if self.blocks is None else self.blocks.tolist(),
            "hold_out": list(self.hold_out),
            "training_prevalence": self.training_prevalence,
            "training_rows": self.training_rows,
            "masks": list(self.masks),
            "calibration": _lists(self.calibration),
            "curve": _lists(self.curve),
            "threshold": self.threshold,
            "params": self.params,
            "metrics": self.metrics,
            "versions": self.versions,
            "trees_file_sha256": hashlib.sha256(self.trees).hexdigest(),
        }
        meta["meta_sha256"] = hashlib.sha256(canonical_json(meta)).hexdigest()
        return {TREES_FILE: self.trees, META_FILE: json.dumps(meta, indent=1, allow_nan=False).encode()}

    def save(self, folder: Place) -> Place:
        """Write the model directory; ``meta.json`` last, so that an unfinished one is refused.

        Raises
        ------
        StoreError
            If the folder cannot be written.
        """
        for name, content in self.to_files().items():
            write_text(folder / name, content.decode())
        return folder


def load_model(folder: Place, *, trust: Trust | None = None) -> Model:
    """Read a model directory.

    Parameters
    ----------
    folder : Path or ObjectPath
        Where ``Model.save`` wrote.
    trust : Trust, optional
        Folders that may be read; to be given wherever ``folder`` comes from a run configuration.

    Raises
    ------
    ModelError
        If a file is missing, too large, damaged, or not what this version writes.
    TrustError
        If the folder lies outside the allowed roots.
    """
    path = trust.path(str(folder), what="model") if trust else folder
    content = {}
    for name, most in MAX_BYTES.items():
        try:
            content[name] = read_start(path / name, most + 1)
        except OSError as error:
            raise ModelError(
                f"model {path} has no readable {name}", fix="give the folder that `mangroves train` wrote"
            ) from error
        if len(content[name]) > most:
            raise ModelError(f"model {path}: {name} is larger than {most >> 20} MB", fix="train it again")
    return model_from_files(content, what=f"model {path}")


def model_from_files(content: dict[str, bytes], *, what: str = "model") -> Model:
    """Build a model from the files of its folder, checking hashes first and shapes second.

    Raises
    ------
    ModelError
        If anything does not fit together.
    """
    trees = content[TREES_FILE]
    raw = _parse(content[META_FILE], f"{what}: {META_FILE}")
    claimed = raw.pop("meta_sha256", None)
    if claimed != hashlib.sha256(canonical_json(raw)).hexdigest():
        raise ModelError(f"{what}: {META_FILE} does not match its own sha256", fix="train it again or copy it again")
    if raw.pop("trees_file_sha256", None) != hashlib.sha256(trees).hexdigest():
        raise ModelError(f"{what}: {TREES_FILE} does not match the sha256 in {META_FILE}", fix="copy it again")
    try:
        meta = _Meta.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or META_FILE
        raise ModelError(f"{what}: {where}: {first['msg'][:120]}", fix="train it with this version") from error
    if sound_trees(trees, features=len(meta.features), what=f"{what}: {TREES_FILE}") != trees:
        # XGBoost might read a repeated key otherwise than we checked it.
        raise ModelError(
            f"{what}: {TREES_FILE} holds no usable trees (not written by this project)", fix="copy it again"
        )
    model = Model(
        trees=trees,
        edges=tuple(np.array(one, dtype=np.int32) for one in meta.edges),
        blocks=None if meta.blocks is None else np.array(meta.blocks, dtype=np.int64),
        masks=tuple(mask.model_dump() for mask in meta.masks),
        calibration=None if meta.calibration is None else Calibration(**_arrays(meta.calibration)),
        curve=None if meta.curve is None else Curve(**_arrays(meta.curve)),
        **meta.model_dump(exclude={"format", "edges", "blocks", "masks", "calibration", "curve"}),
    )
    try:
        # XGBoost checks part of its parameters only when first asked.
        model.predict_codes(np.zeros((len(model.features), 1), np.uint8))
    except xgboost.core.XGBoostError as error:
        reason = str(error).strip().splitlines()[0][:120]
        raise ModelError(f"{what}: XGBoost refuses {TREES_FILE}: {reason}", fix="train it again") from error
    return model


def sound_trees(text: bytes, *, features: int, what: str) -> bytes:
    """Return XGBoost's trees as canonical JSON text, once every index in them is checked.

    Raises
    ------
    ModelError
        If the text holds anything else, or XGBoost could not walk the trees.
    """
    document = _parse(text, what)
    try:
        _check_trees(document, features=features)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ModelError(f"{what} holds no usable trees ({str(error)[:120]})", fix="train it again") from error
    return canonical_json(document)


def tree_count(trees: bytes) -> int:
    """Return how many trees, so how many rounds, a model's text holds."""
    return len(json.loads(trees)["learner"]["gradient_booster"]["model"]["trees"])


class _Mask(BaseModel):
    """What is kept of a mask the labels came from."""

    model_config = ConfigDict(strict=True, extra="forbid")

    name: str
    year: int
    licence: str
    citation: str
    definition: str
    labels_years: list[int]
    stale_years: list[int]
    version: str = ""
    sha256: str = ""


Share = Annotated[float, Field(ge=0, le=1)]
_Shares = Annotated[list[Share], Field(min_length=1, max_length=PROBABILITY_SCALE + 1)]


class _Calibration(BaseModel):
    """Knots of a curve that does not fall."""

    model_config = ConfigDict(strict=True, extra="forbid")

    score: _Shares
    probability: _Shares

    @model_validator(mode="after")
    def _rises(self) -> _Calibration:
        if len(self.score) != len(self.probability):
            raise ValueError("as many scores as probabilities are needed")
        if any(high <= low for low, high in pairwise(self.score)):
            raise ValueError("scores do not rise")
        if any(high < low for low, high in pairwise(self.probability)):
            raise ValueError("probabilities fall")
        return self


class _Curve(BaseModel):
    """What each threshold gives."""

    model_config = ConfigDict(strict=True, extra="forbid")

    threshold: _Shares
    recall: _Shares
    false_positive_rate: _Shares

    @model_validator(mode="after")
    def _fits(self) -> _Curve:
        if not len(self.threshold) == len(self.recall) == len(self.false_positive_rate):
            raise ValueError("each threshold needs a recall and a false positive rate")
        return self


class _Meta(BaseModel):
    """Shape of ``meta.json``, hashes aside."""

    model_config = ConfigDict(strict=True, extra="forbid")

    format: Literal["mangroves-model-2"]
    features: Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
    edges: list[Annotated[list[Int32], Field(max_length=MAX_BINS - 1)]]
    regions: Annotated[tuple[str, ...], Field(strict=False)]
    blocks: Annotated[list[_Block], Field(max_length=_MAX_BLOCKS)] | None = None
    hold_out: Annotated[tuple[str, ...], Field(strict=False)]
    training_prevalence: Annotated[float, Field(gt=0, lt=1)]
    training_rows: dict[str, int]
    masks: Annotated[list[_Mask], Field(max_length=1000)]
    calibration: _Calibration | None
    curve: _Curve | None
    threshold: Annotated[float, Field(gt=0, lt=1)]
    params: dict[str, Any]
    metrics: dict[str, Any]
    versions: dict[str, str]

    @field_validator("features")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        unknown = sorted(set(value) - set(KNOWN_FEATURES))
        if unknown or len(set(value)) < len(value):
            raise ValueError(f"unknown feature {unknown[0]!r}" if unknown else "a feature is named twice")
        return value

    @field_validator("blocks")
    @classmethod
    def _rise(cls, value: list[int] | None) -> list[int] | None:
        if any(high <= low for low, high in pairwise(value or ())):
            raise ValueError("numbers of blocks do not rise")
        return value

    @model_validator(mode="after")
    def _edges_fit(self) -> _Meta:
        if len(self.edges) != len(self.features):
            raise ValueError(f"{len(self.features)} features but edges of {len(self.edges)}")
        for name, one in zip(self.features, self.edges, strict=True):
            if any(high <= low for low, high in pairwise(one)):
                raise ValueError(f"edges of {name} do not increase")
        return self


def _check_trees(document: dict[str, Any], *, features: int) -> None:
    """Raise ValueError (or what a wrong type raises) unless every index in the trees points inside."""
    learner = document["learner"]
    booster = learner["gradient_booster"]
    trees = booster["model"]["trees"]
    numbers = {"num_feature": features, "num_class": 0, "num_target": 1}
    if any(int(learner["learner_model_param"][key]) != value for key, value in numbers.items()):
        raise ValueError(f"not a two-class model of {features} features")
    if booster["name"] != "gbtree" or learner["objective"]["name"] != "binary:logistic":
        raise ValueError("not logistic trees")
    if not 1 <= len(trees) <= _MAX_TREES or booster["model"]["tree_info"] != [0] * len(trees):
        raise ValueError(f"{len(trees)} trees, or of several classes")
    if booster["model"]["iteration_indptr"] != list(range(len(trees) + 1)):
        raise ValueError("not one tree a round")
    for index, tree in enumerate(trees):
        nodes = len(tree["left_children"])
        claimed = tree["tree_param"]
        if not 1 <= nodes <= _MAX_NODES or int(claimed["num_nodes"]) != nodes:
            raise ValueError(f"tree {index} claims {claimed['num_nodes']} nodes and has {nodes}")
        if int(claimed["size_leaf_vector"]) != 1 or tree["categories_nodes"] or any(tree["split_type"]):
            raise ValueError(f"tree {index} has leaf vectors or categories")
        for key in _INTEGERS + _REALS:
            known = (int,) if key in _INTEGERS else (int, float)
            if len(tree[key]) != nodes or not all(type(x) in known and abs(x) < 2**31 for x in tree[key]):
                raise ValueError(f"tree {index}: {key} is not one number a node")
        left, right, parents = tree["left_children"], tree["right_children"], tree["parents"]
        for node in range(nodes):
            # Children come after their parent, so no walk can go round in circles.
            if node < left[node] < nodes and node < right[node] < nodes:
                # XGBoost walks to the left child and the one after it, and never reads the list of right ones.
                fits = right[node] == left[node] + 1 and parents[left[node]] == parents[right[node]] == node
            else:
                fits = left[node] == right[node] == -1
            if not fits or not 0 <= tree["split_indices"][node] < features or tree["default_left"][node] not in (0, 1):
                raise ValueError(f"tree {index} points outside itself at node {node}")


@lru_cache(maxsize=8)
def _booster(trees: bytes) -> xgboost.Booster:
    # Once a process: parsing takes longer than classifying a block's strip.
    return xgboost.Booster({"nthread": 1}, model_file=bytearray(trees))


@lru_cache(maxsize=8)
def _forest(trees: bytes, features: int) -> Forest | None:
    """Compile the trees, and hold them against XGBoost on codes of all kinds; None where it must do the work."""
    try:
        forest = compile_trees(json.loads(trees)["learner"]["gradient_booster"]["model"]["trees"], features)
    except ValueError as error:
        warnings.warn(f"classified by XGBoost, which is slower: {error}", stacklevel=2)
        return None
    codes = np.random.default_rng(0).integers(0, 256, (features, _CHECKED_PIXELS), dtype=np.uint8)
    expected = _booster(trees).inplace_predict(codes.T, missing=MISSING_CODE)
    if not np.array_equal(probabilities(margins(forest, codes, _BASE)), expected):
        warnings.warn("classified by XGBoost, which is slower: its probabilities are not ours", stacklevel=2)
        return None
    return forest


def _parse(text: bytes, what: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{what} is not JSON", fix="train it again or copy it again") from error
    if not isinstance(document, dict):
        raise ModelError(f"{what} is not a JSON object", fix="train it again or copy it again")
    return document


def _lists(arrays: Calibration | Curve | None) -> dict[str, list[float]] | None:
    return None if arrays is None else {name: values.tolist() for name, values in arrays._asdict().items()}


def _arrays(lists: BaseModel) -> dict[str, np.ndarray]:
    return {name: np.array(values, np.float64) for name, values in lists}


def canonical_json(value: Any) -> bytes:
    """Return the one JSON text of a value: keys sorted, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
