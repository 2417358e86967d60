"""Fit the classifier to a sample, the same trees however the rows are spread, and score it honestly.

The trees do not depend on row order, partitions, threads or workers: see ``engine.boost``.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import dask
import distributed
import geopandas as gpd
import numpy as np
import pandas as pd
import xgboost

import engine
from engine.area import STUDY_HOLD_OUT
from engine.boost import MAX_ROWS, Rows, booster_params, train_rows
from engine.checkpoints import Checkpoint
from engine.collective import train_spread
from engine.decide import decide_by_folds, describe_suspects, doubt_limits, score_folds, score_outcomes
from engine.errors import ConfigError, SampleError
from engine.files import replacing
from engine.folds import apart_from, deal_folds, find_suspects, fit_folds, inside, random_split, regions_in, with_trust
from engine.kernels.bins import bin_edges
from engine.kernels.features import FEATURE_SETS
from engine.model import Model
from engine.params import TrainParams
from engine.partitions import Keep, Table, Tally, encode_rows, tally_rows
from engine.places import Place
from engine.rows import combine
from engine.splits import HELD_OUT, RANDOM_ROWS
from engine.store import fingerprint_of
from engine.threads import compute_threads

_BYTES_PER_VALUE: Final = 4  # peak of training 2-4 million rows: 138 bytes a row with 8 features, 176 with 20
_BYTES_PER_ROW: Final = 120
_MEMORY_SHARE: Final = 0.5  # of a worker's memory that training in one task may take


@dataclass(frozen=True)
class Trained:
    """A model, and the rows whose labels it doubts."""

    model: Model

    suspects: pd.DataFrame
    """Rows that models which never saw them are confident belong to the other class: region, label, probability
    (uint16 x 10 000, as scored), weight, zone, grid_row, grid_col, year, and lon, lat where the sample has them."""


def train_model(
    sample: Any,
    *,
    params: TrainParams,
    features: Sequence[str] | None = None,
    threshold: float | None = None,
    seed: int = 1,
    client: distributed.Client | None = None,
    worker_memory: int | None = None,
    checkpoints: Place | None = None,
    plain_collective: bool = False,
) -> Trained:
    """Fit a model, calibrate it and choose its threshold on land it never saw, and score it on other such land.

    Parameters
    ----------
    sample : DataFrame or dask DataFrame
        Training table as ``engine.sample`` writes it (also geopandas and dask_geopandas).
    params : TrainParams
        ``params.hold_out`` names the regions to keep out; default the study's four where present.
    features : sequence of str, optional
        Columns to use; default those of ``params.features``.
    threshold : float, optional
        Probability from which a pixel is mapped as mangrove; default by ``params.threshold_rule``.
    seed : int
        Of the deal of regions or blocks to folds and of the random split; training itself draws nothing.
    client : distributed.Client, optional
        Where to work; in this process without one.
    worker_memory : int, optional
        Bytes a worker has; asked of the cluster if not given.
    checkpoints : Path or ObjectPath, optional
        Folder that workers see, where each fit keeps its trees so far: what was cut off goes on from there, and what
        was finished is not fitted again. To be removed once the model is saved.
    plain_collective : bool
        Allow to spread training over a cluster beyond this machine, where XGBoost talks over plain sockets.

    Returns
    -------
    Trained
        The model is fitted on every row outside the hold-out and the 10 km blocks it touches; calibrated, and its
        threshold chosen, on folds of these rows, never on the hold-out. Its ``metrics`` are of the held-out
        regions, or, where there are none, of the folds, each calibrated and its threshold chosen by the others
        (``threshold_from`` says which); a random split stands beside. Suspect rows are left out or
        weighed (``params.suspects``) in this fit alone, never in folds: a row is doubted by a model that saw the
        labels of all other folds, those of the fold to be scored among them.

    Raises
    ------
    SampleError
        If the table lacks columns, training rows of either class, or any row of the regions held out.
    ConfigError
        If ``train.distributed: yes`` is asked without a cluster, every region is held out, or the sample does not fit
        in a worker of a cluster beyond this machine and may not be spread.
    """
    table = Table.of(sample, features or FEATURE_SETS[params.features], client)
    held = hold_out_regions(params, regions_in(table))
    base = apart_from(table, held)
    scope, splits = deal_folds(table, base, params.folds, seed)

    def work(table: Table, keep: Keep, hold_out: Sequence[str] = ()) -> Model:
        return _fit(
            table,
            keep=keep,
            params=params,
            hold_out=hold_out,
            worker_memory=worker_memory,
            checkpoints=checkpoints,
            plain_collective=plain_collective,
        )

    folds = fit_folds(table, work, splits)
    doubt, found, trusted = {"rows": 0}, pd.DataFrame(), table
    if folds:
        limits = doubt_limits(folds)
        doubt, found = describe_suspects(folds, limits), find_suspects(table, folds, limits)
        if params.suspects != "keep":
            trusted = with_trust(table, folds, limits, params.suspects)
    # Folds fitted again to what is trusted would be judged on labels that had a say in what is.
    model = decide_by_folds(work(trusted, base, held), folds, params, threshold)
    if held:
        outcome = table.outcomes(model, inside(held))
        if outcome.empty:
            raise SampleError(
                "the sample has no row in the held-out regions", fix="sample them too, or set train.hold_out"
            )
        source = "folds of the land trained on" if threshold is None else "given"
        metrics = {"scope": HELD_OUT, "threshold_from": source, **score_outcomes(outcome, model.threshold)}
    else:
        metrics = score_folds(folds, params, threshold, asked=len(splits), scope=scope)
    split, random = random_split(base, seed), {"scope": RANDOM_ROWS}
    try:
        other = replace(work(table, split.train), calibration=model.calibration, threshold=model.threshold)
        random |= score_outcomes(table.outcomes(other, split.test), other.threshold)
    except SampleError as error:
        random["problem"] = f"not scored: {error}"
    metrics |= {**model.metrics, "folds_scope": scope, "suspects": doubt, "random_split": random}
    return Trained(replace(model, metrics=metrics), found)


def hold_out_regions(params: TrainParams, present: Sequence[str]) -> tuple[str, ...]:
    """Return the regions to keep out of training, of those present.

    Raises
    ------
    ConfigError
        If a region named in ``train.hold_out`` is not present, or nothing would be left to train on.

    Examples
    --------
    >>> hold_out_regions(TrainParams(), ["Cuba1", "Cuba2"])
    ('Cuba2',)
    >>> hold_out_regions(TrainParams(hold_out=("Fiji",)), ["Cuba1"])
    Traceback (most recent call last):
    engine.errors.ConfigError: train.hold_out: no sample in 'Fiji'; regions sampled are Cuba1
    """
    if params.hold_out is None:
        held = tuple(sorted(set(STUDY_HOLD_OUT) & set(present)))
        return held if len(held) < len(set(present)) else ()
    unknown = sorted(set(params.hold_out) - set(present))
    if unknown:
        raise ConfigError(
            f"train.hold_out: no sample in {unknown[0]!r}", fix=f"regions sampled are {', '.join(sorted(present))}"
        )
    if set(params.hold_out) == set(present):
        raise ConfigError("train.hold_out leaves no region to train on", fix="hold out fewer regions")
    return tuple(sorted(set(params.hold_out)))


def write_suspects(found: pd.DataFrame, path: Place) -> None:
    """Write suspect rows as points a GIS can open (GeoParquet), or as a plain table where they have no position.

    Raises
    ------
    StoreError
        If the file cannot be written.
    """
    if {"lon", "lat"} <= set(found.columns):
        found = gpd.GeoDataFrame(found, geometry=gpd.points_from_xy(found["lon"], found["lat"]), crs="EPSG:4326")
    with replacing(path) as temporary:
        found.to_parquet(temporary, compression="zstd", index=False)


def fit(
    sample: Any,
    *,
    features: Sequence[str],
    params: TrainParams,
    hold_out_regions: Sequence[str] = (),
    client: distributed.Client | None = None,
    worker_memory: int | None = None,
    checkpoints: Place | None = None,
    plain_collective: bool = False,
) -> Model:
    """Fit a model, neither scored nor calibrated, to the interior rows outside the held-out regions and their blocks.

    Parameters
    ----------
    sample : DataFrame or dask DataFrame
        Training table; needs the features (int32), label, weight, region and interior.
    features : sequence of str
        Columns to use, in this order.
    params : TrainParams
        Rounds, depth and so on; ``distributed`` says where, which never changes the trees.
    hold_out_regions : sequence of str
        Regions whose rows are not looked at.
    client, worker_memory, checkpoints, plain_collective
        As in ``train_model``.

    Raises
    ------
    SampleError
        If the table lacks columns, or training rows of either class.
    """
    held = tuple(sorted(hold_out_regions))
    table = Table.of(sample, features, client)
    return _fit(
        table,
        keep=apart_from(table, held),
        hold_out=held,
        params=params,
        worker_memory=worker_memory,
        checkpoints=checkpoints,
        plain_collective=plain_collective,
    )


# --- fitting ---------------------------------------------------------------------------------------------------


def _fit(
    table: Table,
    *,
    keep: Keep,
    params: TrainParams,
    hold_out: Sequence[str] = (),
    worker_memory: int | None = None,
    checkpoints: Place | None = None,
    plain_collective: bool = False,
) -> Model:
    tallies = table.map(tally_rows, table.features, keep, params.balance)
    counts = [tally.rows.sum() for tally in tallies]
    total, counts = table.compute(dask.delayed((combine(Tally.sum, tallies), counts)))
    rows = int(total.rows.sum())
    for label, count in zip(("other", "mangrove"), total.rows, strict=True):
        if count == 0:
            raise SampleError(
                f"no {label} row among {rows} rows to train on", fix="add masks, years or area, or hold out less"
            )
    if rows > MAX_ROWS:
        raise SampleError(f"{rows} rows to train on, more than {MAX_ROWS}", fix="draw fewer per tile")
    edges = [bin_edges(histogram) for histogram in total.histograms]
    scale = _scale(total, params.balance)
    encoded = [
        dask.delayed(encode_rows)(part, table.features, keep, params.balance, edges, scale)
        for part, count in zip(table.parts, counts, strict=True)
        if count
    ]
    checkpoint = _checkpoint(checkpoints, table.features, total, scale, params)
    bytes_needed = rows * (len(edges) * _BYTES_PER_VALUE + _BYTES_PER_ROW)
    if _is_distributed(params, table.client, bytes_needed, worker_memory, plain_collective):
        assert table.client is not None
        trees = train_spread(table.client, encoded, [n for n in counts if n], len(edges), params, checkpoint)
    else:
        trees = table.compute(dask.delayed(_train_rows)(encoded, params, checkpoint))
    return Model(
        trees=trees,
        features=table.features,
        edges=tuple(edges),
        regions=tuple(sorted(total.regions)),
        blocks=total.blocks,
        hold_out=tuple(hold_out),
        training_prevalence=float(total.land[1] / total.land.sum()),
        training_rows={"other": int(total.rows[0]), "mangrove": int(total.rows[1])},
        params=params.model_dump(mode="json"),
        versions={
            "mangroves": engine.__version__,
            "xgboost": xgboost.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    )


def _scale(total: Tally, balance: str) -> np.ndarray:
    """Return what brings the units of each class's rows to weights of mean 1."""
    rows = float(total.rows.sum())
    if balance == "drawn":
        return np.full(2, rows / float(total.units.sum()))
    # Rows at class edges are not trained on, so each class's rows stand for all of that class's land.
    share = total.land / float(total.land.sum()) if balance == "map" else np.full(2, 0.5)
    return share * rows / total.units


def _checkpoint(
    folder: Place | None, features: Sequence[str], total: Tally, scale: np.ndarray, params: TrainParams
) -> Checkpoint | None:
    """Return where a fit keeps its trees: a file named after all that decides them."""
    if folder is None:
        return None
    decides = [list(features), total.digest, scale.tolist(), booster_params(params), params.rounds]
    return Checkpoint(folder / f"{fingerprint_of('trees-1', xgboost.__version__, decides)}.trees")


def check_spread(params: TrainParams, client: distributed.Client | None, plain_collective: bool) -> None:
    """Refuse to spread training where that is impossible, or where nobody allowed XGBoost's plain sockets.

    Its workers listen on every interface also where the cluster's own traffic stays on loopback or under TLS.

    Raises
    ------
    ConfigError
        If ``train.distributed: yes`` is asked without a cluster, or without being allowed.
    """
    if params.distributed != "yes":
        return
    if client is None:
        raise ConfigError("train.distributed: yes needs a cluster", fix="give --cluster, or train.distributed: auto")
    if not plain_collective:
        raise ConfigError(
            "train.distributed: yes would open XGBoost's plain sockets on every interface of its workers",
            fix="set train.distributed: auto, or allow it by --allow-plain-collective where their network is private",
        )


def _is_distributed(
    params: TrainParams,
    client: distributed.Client | None,
    bytes_needed: int,
    worker_memory: int | None,
    plain_collective: bool,
) -> bool:
    check_spread(params, client, plain_collective)
    if params.distributed != "auto" or client is None:
        return params.distributed == "yes"
    if worker_memory is None:
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        worker_memory = min((worker["memory_limit"] for worker in workers), default=0)
    if not worker_memory or bytes_needed <= _MEMORY_SHARE * worker_memory:
        return False
    if not plain_collective:
        raise ConfigError(
            f"training needs {bytes_needed / 2**30:.1f} GiB, more than half of a worker's {worker_memory / 2**30:.1f}, "
            "and to spread it would open XGBoost's plain sockets on every interface of its workers",
            fix="use workers with more memory or draw fewer samples, or allow it by --allow-plain-collective where "
            "their network is private",
        )
    return True


def _train_rows(parts: Sequence[Rows], params: TrainParams, checkpoint: Checkpoint | None) -> bytes:
    return train_rows(parts, params, _threads(sum(part.positive.size for part in parts)), checkpoint)


def _threads(rows: int) -> int:
    """Return threads to train with: below 100 000 rows a second one only waits, and spinning, on a busy machine."""
    return max(1, min(compute_threads(), rows // 100_000))
