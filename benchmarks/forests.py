"""Classification: the engine's trees against XGBoost's own prediction, pylignum, and ``xgboost.dask``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import dask.array
import lignum
import numpy as np
import xgboost
import xgboost.dask
from distributed import Client, futures_of, wait

from benchmarks.archive import Setup
from benchmarks.harness import Comparison, Ratio, Timing, local_cluster, ratio, seconds, time_in_turn
from benchmarks.models import codes_of, fit, mean_leaves, pixels_of
from benchmarks.peers import THREADS
from engine.kernels.bins import MISSING_CODE
from engine.kernels.features import ALL_FEATURES
from engine.landsat import BANDS
from engine.model import Model

MODELS: Final[dict[str, tuple[int, tuple[str, ...]]]] = {
    "": (300, (*BANDS, "ndvi", "mndwi")),
    " (demo's model)": (200, ALL_FEATURES),
}
"""What is added to a figure's name -> trees of depth 6, and their features."""

BLOCKS_PER_WORKER: Final = 4

OURS: Final = "engine"
PEERS: Final = {"inplace_predict": "xgb", "pylignum": "lignum", "pylignum, compiled": "lignum_compiled"}
"""Side -> its name in a figure."""


def compare_forests(setup: Setup) -> Comparison:
    """Time the probability of each pixel of an image: by one thread, in its order and a random one, and on workers."""
    values, mangrove = pixels_of(setup.archive)
    ratios: dict[str, Ratio] = {}
    raw: dict[str, Any] = {"models": {}, "seconds": {}}
    wrong: list[str] = []
    for suffix, (wanted, names) in MODELS.items():
        trees = min(wanted, setup.scale.most_trees)
        model = fit(values, mangrove, names, trees)
        raw["models"][f"model{suffix}"] = {"trees": trees, "features": len(names), "mean_leaves": mean_leaves(model)}
        image = codes_of(model, values)[:, : setup.scale.part_px**2]
        order = np.random.default_rng(0).permutation(image.shape[1])
        for kind, codes in (("coherent", image), ("random", image[:, order])):
            timings, found = time_in_turn(_sides(model, np.ascontiguousarray(codes), setup.folder), setup.runs)
            wrong += [f"{name}, {kind}{suffix}" for name, got in found.items() if not np.array_equal(got, found[OURS])]
            raw["seconds"] |= seconds({f"{name}, {kind}{suffix}": timing for name, timing in timings.items()})
            for peer, name in PEERS.items():
                ratios[f"forest_{kind}_vs_{name}_cpu{suffix}"] = ratio(timings[peer].cpu, timings[OURS].cpu)
    timings, found = _on_workers(setup, model, np.ascontiguousarray(codes_of(model, values).T))
    wrong += [f"{name}, on workers" for name, got in found.items() if not np.array_equal(got, found[OURS])]
    raw["seconds"] |= seconds({f"{name}, on workers": timing for name, timing in timings.items()})
    for peer in ("predict", "inplace_predict"):
        ratios[f"forest_vs_dask_{peer}"] = ratio(timings[f"xgboost.dask.{peer}"].wall, timings[OURS].wall)
    return Comparison(
        what=f"trees over {image.shape[1]} pixels, one thread, and {values.shape[1]} on {THREADS} workers (simulated)",
        ratios=ratios,
        raw=raw,
        wrong=wrong,
    )


def _sides(model: Model, codes: np.ndarray, folder: Path) -> dict[str, Callable[[], np.ndarray]]:
    """Return what gives the probabilities of codes (feature, pixel), by name; each has them in its own layout."""
    rows = np.ascontiguousarray(codes.T)
    missing = np.where(rows == MISSING_CODE, np.nan, rows.astype("float64"))
    booster = xgboost.Booster({"nthread": 1}, model_file=bytearray(model.trees))
    path = folder / "trees.json"
    path.write_bytes(model.trees)
    interpreted, compiled = lignum.load(str(path)), lignum.load(str(path))
    compiled.compile(work_dir=str(folder), fallback=True)  # without a C compiler it is the interpreter once more
    return {
        OURS: lambda: model.predict_codes(codes),
        "inplace_predict": lambda: booster.inplace_predict(rows, missing=MISSING_CODE),
        "pylignum": lambda: interpreted.predict(missing, n_jobs=1),
        "pylignum, compiled": lambda: compiled.predict(missing, n_jobs=1),
    }


def _on_workers(setup: Setup, model: Model, rows: np.ndarray) -> tuple[dict[str, Timing], dict[str, np.ndarray]]:
    """Time the probabilities of codes (pixel, feature) that lie on the workers of a cluster, and are to lie there."""
    booster = xgboost.Booster({"nthread": 1}, model_file=bytearray(model.trees))
    with local_cluster(THREADS, setup.folder) as client:
        parts = np.array_split(rows, BLOCKS_PER_WORKER * THREADS)
        blocks = client.scatter(parts)
        lying = dask.array.concatenate(
            [dask.array.from_delayed(block, part.shape, part.dtype) for block, part in zip(blocks, parts, strict=True)]
        )
        model_there = client.scatter(model, broadcast=True)
        sides: dict[str, Callable[[], list[Any]]] = {
            OURS: lambda: client.map(probabilities_of, blocks, model=model_there, pure=False),
            "xgboost.dask.predict": partial(_predict, xgboost.dask.predict, client, booster, lying),
            "xgboost.dask.inplace_predict": partial(_predict, xgboost.dask.inplace_predict, client, booster, lying),
        }
        return time_in_turn(
            {name: partial(_waited, side) for name, side in sides.items()},
            setup.runs,
            keep=lambda held: np.concatenate(client.gather(held)),
        )


def probabilities_of(rows: np.ndarray, model: Model) -> np.ndarray:
    """Return the probabilities of codes (pixel, feature); the body of a task."""
    return model.predict_codes(np.ascontiguousarray(rows.T))


def _predict(function: Callable[..., Any], client: Client, booster: xgboost.Booster, rows: Any) -> list[Any]:
    return futures_of(client.persist(function(client, booster, rows, missing=MISSING_CODE)))


def _waited(side: Callable[[], list[Any]]) -> list[Any]:
    """Return the futures of a side, in order, once their results lie on the workers."""
    futures = side()
    wait(futures)
    return futures
