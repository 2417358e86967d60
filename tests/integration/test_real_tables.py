"""Training and prediction on real Landsat pixels: tables from elsewhere need no special case."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from engine.candidates import Rows, fit_candidate
from engine.kernels.features import COMPOSITE_FEATURES, feature_stack
from engine.landsat import BANDS
from engine.legend import MANGROVE, OTHER
from engine.params import TrainParams, TuneParams
from engine.splits import by_region
from engine.train import train_model
from engine.tune import search
from tests.jobs.calls import mangroves

OLI = dict(zip(BANDS, ("SR_B2", "SR_B3", "SR_B4", "SR_B5", "SR_B6", "SR_B7"), strict=True))
TM = dict(zip(BANDS, ("SR_B1", "SR_B2", "SR_B3", "SR_B4", "SR_B5", "SR_B7"), strict=True))


@pytest.fixture(scope="module")
def pixels(shared_data):
    """Clear pixels of Landsat 5, 7 and 8 in Arctic tundra: summer leaf-on or not stands for the two classes."""
    raw = pd.read_parquet(shared_data / "landsat-rasters/c2l2-pixel-timeseries/lsat_example.parquet")
    oli = raw["SPACECRAFT_ID"].isin(["LANDSAT_8", "LANDSAT_9"])
    dn = pd.DataFrame({band: raw[OLI[band]].where(oli, raw[TM[band]]) for band in BANDS})
    quality = raw["QA_PIXEL"].fillna(1).astype(int)
    clear = (dn.gt(0).all(axis=1) & ((quality & 0b11111) == 0) & (quality != 0)).to_numpy()
    return raw[clear].reset_index(drop=True), dn[clear].astype("uint16").reset_index(drop=True)


def as_sample(raw, dn):
    """Make a training table: regions are groups of places, a tenth of a degree apart or more."""
    values = feature_stack({"composite": dn.to_numpy().T.reshape(len(BANDS), 1, -1)}, COMPOSITE_FEATURES)[:, 0]
    month = pd.to_datetime(raw["date"]).dt.month
    place = raw["sample_id"].astype("category").cat.codes.astype(int)
    columns = dict(zip(COMPOSITE_FEATURES, values, strict=True)) | {
        "label": np.where(month.isin([7, 8]), MANGROVE, OTHER).astype("uint8"),
        "weight": np.ones(len(raw)),
        "region": (place % 4).map("place-{}".format),
        "year": pd.to_datetime(raw["date"]).dt.year.astype("int16"),
        "grid_row": (place * 400).astype("int32"),  # each place a block of its own
        "grid_col": np.zeros(len(raw), "int32"),
        "zone": np.full(len(raw), 6, "uint8"),
        "interior": np.ones(len(raw), bool),
    }
    return pd.DataFrame(columns)


def test_a_model_is_trained_calibrated_saved_and_used_on_real_pixels(pixels, shared_data, tmp_path):
    sample = as_sample(*pixels)
    params = TrainParams(rounds=30, max_depth=4, features="composite", hold_out=("place-3",))
    model = train_model(sample, params=params).model
    assert model.metrics["wall_to_wall"]["auc"] > 0.5
    assert model.metrics["calibration"]["ece_after"] <= model.metrics["calibration"]["ece_before"] + 0.02
    model.save(tmp_path / "model")

    table = shared_data / "landsat-rasters/c2l2-pixel-timeseries/lsat_example.parquet"
    answer = mangroves("predict", tmp_path / "model", table, "-o", tmp_path / "out.parquet")

    assert answer.code == 0, answer.err
    found = pd.read_parquet(tmp_path / "out.parquet").set_index("LANDSAT_PRODUCT_ID", append=True)
    assert len(found) == 5296
    assert found["class"].dropna().isin(["mangrove", "other"]).all()
    assert found["probability"].notna().sum() > 4000


@pytest.mark.slow
def test_candidates_are_searched_on_real_pixels(pixels):
    sample = as_sample(*pixels)
    params = TuneParams(candidates=("xgboost", "linear/robust"), trials=4, folds=2, repeats=1)
    study = search(sample, features=COMPOSITE_FEATURES, params=params, hold_out=("place-3",), seed=1)
    assert set(study.leaderboard["candidate"]) == {"cart", "xgboost", "linear/robust"}
    split = by_region(sample, ["place-3"])
    rows = Rows.of(sample, COMPOSITE_FEATURES)
    for name in ("mlp/quantile", "forest"):
        score = fit_candidate(name, rows.take(split.train)).predict(rows.take(split.test))
        assert ((score >= 0) & (score <= 1)).all()
