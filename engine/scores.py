"""Rows of a sample as a model scored them: the table that every figure of an evaluation is made of.

Populations: *wall to wall* weighs a row by the land it stands for; *as drawn* counts rows; *eroded* is wall to wall
without class edges. Labels: *mask*, and *truth* where the caller has put it into the table.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import dask
import distributed
import numpy as np
import pandas as pd

from engine.errors import SampleError
from engine.kernels.bins import encode
from engine.legend import MANGROVE, PROBABILITY_SCALE
from engine.model import Model
from engine.rows import PIXEL_YEAR, combine, feature_values, is_thinned, run_task
from engine.splits import block_ids

AS_DRAWN: Final = "as drawn"
POPULATIONS: Final[tuple[str, ...]] = ("wall to wall", AS_DRAWN, "eroded")
ALL_REGIONS: Final = "all regions"

_NEEDED: Final = ("label", "weight", "region", "interior", *PIXEL_YEAR)
_ALONG: Final = ("clear_count", "sensor", "lon", "lat", "truth", "truth_class")
"""Columns that go along where the table has them."""


def needed_columns(available: Iterable[str], features: Sequence[str]) -> list[str]:
    """Return the columns of a sample that evaluation reads: the features, what it cannot do without, what it can.

    Raises
    ------
    SampleError
        If one it needs is missing.
    """
    here = set(available)
    if lacking := [name for name in features if name not in here]:
        raise SampleError(
            f"sample lacks the model's feature {lacking[0]!r}",
            fix="set train.features to what the model was trained with; the sample is then drawn again",
        )
    for name in _NEEDED:
        if name not in here:
            raise SampleError(f"sample lacks column {name!r}", fix="draw it again with `mangroves sample`")
    return list(dict.fromkeys((*features, *_NEEDED, *(n for n in (*_ALONG, "thinned", "mndwi") if n in here))))


def unseen_rows(model: Model, frame: pd.DataFrame) -> np.ndarray:
    """Return which rows lie where the model was not trained, bool (row,): in other regions, by name, and in none of
    its 10 km blocks, as far as it knows these."""
    seen = frame["region"].astype(str).isin(model.regions).to_numpy()
    return ~seen if model.blocks is None else ~(seen | np.isin(block_ids(frame), model.blocks))


def score_table(frame: pd.DataFrame, model: Model) -> pd.DataFrame:
    """Return the table every figure is made of: one row for each row of a sample that is not thinned.

    Parameters
    ----------
    frame : DataFrame
        Sample rows. ``truth`` (bool, mangrove in truth) and ``truth_class`` (str) may be among the columns.
    model : Model
        That never saw them.

    Returns
    -------
    DataFrame
        probability (float64, a multiple of 1e-4) and mapped (bool, as mangrove), both as the map would hold them, and
        the columns of ``judged_rows``.
    """
    frame = frame[~is_thinned(frame)]
    probability = model.probability(encode(feature_values(frame, model.features), model.edges))
    found = judged_rows(frame)
    found.insert(3, "probability", probability / PROBABILITY_SCALE)
    found.insert(4, "mapped", model.is_mangrove(probability))
    return found


def judged_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Return what rows of a sample are judged by: one row for each that is not thinned.

    Returns
    -------
    DataFrame
        region (str), block (int64, 10 km), positive (bool, the mask says mangrove), weight (float64, pixels), interior
        (bool), year, zone, grid_row, grid_col, and where the sample has what they are made of: wet (bool, MNDWI of the
        composite above 0), clear_count, sensor, lon, lat, truth, truth_class.
    """
    frame = frame[~is_thinned(frame)]
    found = {
        "region": frame["region"].astype(str).to_numpy(),
        "block": block_ids(frame),
        "positive": (frame["label"] == MANGROVE).to_numpy(),
        "weight": frame["weight"].to_numpy(np.float64),
        "interior": frame["interior"].to_numpy(bool),
    }
    found |= {name: frame[name].to_numpy() for name in ("year", "zone", "grid_row", "grid_col")}
    if "mndwi" in frame:
        found["wet"] = (frame["mndwi"] > 0).to_numpy()
    return pd.DataFrame(found | {name: frame[name].to_numpy() for name in _ALONG if name in frame})


def score_part(part: pd.DataFrame, model: Model) -> pd.DataFrame:
    """Score the rows of one partition of a sample that the model never saw."""
    return score_table(part[unseen_rows(model, part)], model)


def score_sample(sample: Any, model: Model, client: distributed.Client | None = None) -> pd.DataFrame:
    """Return ``score_table`` of all rows that the model never saw.

    Parameters
    ----------
    sample : dask DataFrame
        Columns as of ``needed_columns``.
    model : Model
    client : distributed.Client, optional
        Where partitions are scored; in this process without one.
    """
    shared = dask.delayed(model, traverse=False)
    parts = [dask.delayed(score_part)(part, shared) for part in sample.to_delayed()]
    return run_task(combine(_join, parts), client)


def _join(parts: list[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(parts, ignore_index=True)


def labels_of(scores: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return what the rows are judged against, by name: bool (row,) each."""
    found = {"mask": scores["positive"].to_numpy(bool)}
    return found | ({"truth": scores["truth"].to_numpy(bool)} if "truth" in scores else {})


def weights_of(scores: pd.DataFrame, population: str) -> np.ndarray:
    """Return the weight of each row in a population, float64 (row,)."""
    if population == AS_DRAWN:
        return np.ones(len(scores))
    weight = scores["weight"].to_numpy(np.float64)
    return np.where(scores["interior"], weight, 0.0) if population == "eroded" else weight
