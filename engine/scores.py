"""Rows of a sample as a model scored them: the table that every figure of an evaluation is made of.

Populations: *wall to wall* weighs a row by the land it stands for; *as drawn* counts rows; *eroded* is wall to wall
without class edges. Labels: *mask*, and *truth* where the caller has put it into the table.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Final

import dask
import distributed
import numpy as np
import pandas as pd

from engine.boost import Boosted
from engine.errors import SampleError
from engine.kernels.bins import encode
from engine.legend import MANGROVE, PROBABILITY_SCALE
from engine.model import Model
from engine.rows import PIXEL_YEAR, combine, feature_values, is_thinned, run_task
from engine.splits import block_ids

AS_DRAWN: Final = "as drawn"
POPULATIONS: Final = ("wall to wall", AS_DRAWN, "eroded")
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
    for name in (*features, *_NEEDED):
        if name not in here:
            raise SampleError(f"sample lacks column {name!r}", fix="draw it again with `mangroves sample`")
    return list(dict.fromkeys((*features, *_NEEDED, *(n for n in (*_ALONG, "thinned", "mndwi") if n in here))))


def mapped_probability(model: Model, frame: pd.DataFrame, boosted: Boosted | None = None) -> np.ndarray:
    """Return what the map would hold for these rows, uint16 (row,), probability x 10 000.

    Parameters
    ----------
    model : Model
    frame : DataFrame
        Its features, int32.
    boosted : Boosted, optional
        Trees to use in place of the model's, fitted like them to other rows.
    """
    if boosted is not None:
        model = replace(model, trees=boosted.trees, edges=boosted.edges)
    return model.probability(encode(feature_values(frame, model.features), model.edges))


def unseen_rows(model: Model, frame: pd.DataFrame) -> np.ndarray:
    """Return which rows lie where the model was not trained, bool (row,): in other regions, by name, and in none of
    its 10 km blocks, as far as it knows these."""
    seen = frame["region"].astype(str).isin(model.regions).to_numpy()
    return ~seen if model.blocks is None else ~(seen | np.isin(block_ids(frame), model.blocks))


def score_table(frame: pd.DataFrame, mapped: np.ndarray) -> pd.DataFrame:
    """Return the table every figure is made of: one row for each row of a sample that is not thinned.

    Parameters
    ----------
    frame : DataFrame
        Sample rows. ``truth`` (bool, mangrove in truth) and ``truth_class`` (str) may be among the columns.
    mapped : ndarray of uint16, shape (row,)
        Probability x 10 000, of a model that never saw the row.

    Returns
    -------
    DataFrame
        region (str), block (int64, 10 km), positive (bool, the mask says mangrove), probability (float64, a multiple
        of 1e-4), weight (float64, pixels), interior (bool), year, zone, grid_row, grid_col, and where the sample has
        what they are made of: wet (bool, MNDWI of the composite above 0), clear_count, sensor, lon, lat, truth,
        truth_class.
    """
    keep = ~is_thinned(frame)
    frame, mapped = frame[keep], mapped[keep]
    found = {
        "region": frame["region"].astype(str).to_numpy(),
        "block": block_ids(frame),
        "positive": (frame["label"] == MANGROVE).to_numpy(),
        "probability": mapped / PROBABILITY_SCALE,
        "weight": frame["weight"].to_numpy(np.float64),
        "interior": frame["interior"].to_numpy(bool),
    }
    found |= {name: frame[name].to_numpy() for name in ("year", "zone", "grid_row", "grid_col")}
    if "mndwi" in frame:
        found["wet"] = (frame["mndwi"] > 0).to_numpy()
    return pd.DataFrame(found | {name: frame[name].to_numpy() for name in _ALONG if name in frame})


def score_part(part: pd.DataFrame, model: Model) -> pd.DataFrame:
    """Score the rows of one partition of a sample that the model never saw."""
    part = part[unseen_rows(model, part)]
    return score_table(part, mapped_probability(model, part))


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
