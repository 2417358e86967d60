"""What a model looks at: AUC lost when a feature is permuted, and SHAP values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import pandas as pd
import xgboost

from engine.boost import Boosted
from engine.kernels.bins import MISSING_CODE, encode
from engine.kernels.indices import INDICES
from engine.kernels.score import auc
from engine.landsat import BANDS
from engine.legend import MANGROVE
from engine.rows import feature_values

GROUPS: Final = {"bands": BANDS, "indices": INDICES}
"""Features taken together; ``surroundings`` are bands around a pixel, ``ranges`` all else."""


def feature_groups(features: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the groups that occur among some features, and of what.

    Examples
    --------
    >>> feature_groups(("red", "ndvi", "ndvi_range", "ndvi_p10", "red_150m"))
    {'bands': ('red',), 'indices': ('ndvi',), 'ranges': ('ndvi_range', 'ndvi_p10'), 'surroundings': ('red_150m',)}
    """
    known = {name: group for group, names in GROUPS.items() for name in names}
    found: dict[str, tuple[str, ...]] = {}
    for feature in features:
        of_band = feature.rpartition("_")[0] in BANDS
        group = known.get(feature, "surroundings" if of_band else "ranges")
        found[group] = (*found.get(group, ()), feature)
    return found


def permutation_importance(
    frame: pd.DataFrame, features: Sequence[str], boosted: Boosted, repeats: int = 5, seed: int = 0
) -> pd.DataFrame:
    """Return how much AUC is lost, wall to wall, when a feature or group of features says of each row what it says of
    another.

    Parameters
    ----------
    frame : DataFrame
        Sample rows the model never saw, none of them thinned.
    features : sequence of str
        Of the model.
    boosted : Boosted
    repeats : int
        Seeded permutations of each.
    seed : int

    Returns
    -------
    DataFrame
        feature (or group), is_group, repeat, auc (permuted), drop; nan where the rows are of one class.
    """
    codes = encode(feature_values(frame, features), boosted.edges)
    positive, weight = (frame["label"] == MANGROVE).to_numpy(), frame["weight"].to_numpy(np.float64)
    booster = boosted.booster

    def auc_of(codes: np.ndarray) -> float:
        margin = booster.inplace_predict(np.ascontiguousarray(codes.T), missing=MISSING_CODE, predict_type="margin")
        return auc(margin, positive, weight)

    whole = auc_of(codes)
    jobs: list[tuple[str, tuple[str, ...], bool]] = [(name, (name,), False) for name in features]
    jobs += [(name, members, True) for name, members in feature_groups(features).items()]
    found = []
    for name, members, is_group in jobs:
        where = [list(features).index(member) for member in members]
        for repeat in range(repeats):
            order = np.random.default_rng([seed, repeat]).permutation(len(frame))
            changed = codes.copy()
            changed[where] = codes[where][:, order]
            value = auc_of(changed)
            found.append({"feature": name, "is_group": is_group, "repeat": repeat, "auc": value, "drop": whole - value})
    return pd.DataFrame(found)


def shap_table(frame: pd.DataFrame, features: Sequence[str], boosted: Boosted) -> pd.DataFrame:
    """Return what each feature adds to the margin (log-odds) of each row: SHAP values of the trees.

    Lundberg et al. 2020, doi 10.1038/s42256-019-0138-9, as XGBoost computes them. They add up: the features' and the
    bias are the margin.

    Parameters
    ----------
    frame : DataFrame
        Sample rows.
    features : sequence of str
        Of the model.
    boosted : Boosted

    Returns
    -------
    DataFrame
        region, positive, margin, bias (float32), and of each feature ``shap_NAME`` (float32) and ``NAME`` (int32).
    """
    codes = np.ascontiguousarray(encode(feature_values(frame, features), boosted.edges).T)
    data = xgboost.DMatrix(codes.astype(np.float32), missing=MISSING_CODE, nthread=1)
    booster = boosted.booster
    parts = booster.predict(data, pred_contribs=True)
    found = {
        "region": frame["region"].astype(str).to_numpy(),
        "positive": (frame["label"] == MANGROVE).to_numpy(),
        "margin": booster.predict(data, output_margin=True),
        "bias": parts[:, -1],
    }
    for number, name in enumerate(features):
        found[f"shap_{name}"] = parts[:, number]
        found[name] = frame[name].to_numpy(np.int32)
    return pd.DataFrame(found)


def importance_table(permuted: pd.DataFrame, shap: pd.DataFrame) -> pd.DataFrame:
    """Return importance by both measures, the most important first.

    Parameters
    ----------
    permuted : DataFrame
        From ``permutation_importance``, of one model or of several together.
    shap : DataFrame
        From ``shap_table``.

    Returns
    -------
    DataFrame
        feature, is_group, auc_drop, auc_drop_sd (over repeats and models), shap (mean of the absolute value; of a
        group of the absolute value of its sum).
    """
    table = permuted.groupby(["feature", "is_group"])["drop"].agg(auc_drop="mean", auc_drop_sd="std").reset_index()
    features = [str(name).removeprefix("shap_") for name in shap if str(name).startswith("shap_")]
    members = {**{name: (name,) for name in features}, **feature_groups(features)}
    table["shap"] = [
        float(shap[[f"shap_{one}" for one in members[name]]].sum(axis=1).abs().mean()) for name in table["feature"]
    ]
    return table.sort_values(["is_group", "auc_drop", "feature"], ascending=[True, False, True], ignore_index=True)
