"""The simulated study, small: its commands run, and what it writes is flat and of the hold-out."""

from __future__ import annotations

import json
import math

import pandas as pd
import pytest

from benchmarks.__main__ import main
from benchmarks.study_runs import Setting
from engine.model import load_model

ASKED = """
    auc_truth auc_mask f1 precision recall ece_before ece_after cart_f1 linear_auc regions_beaten_cart
    regions_beaten_linear regions_holdout random_auc worst_region_f1 mainland_f1 sensor_f1_drop model_sha256 seed
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_small_study_writes_one_flat_object(tmp_path, monkeypatch):
    small = Setting(seed=7, size_px=128, scenes=6, regions=8, trials=14, folds=2, draw=(300, 600))
    monkeypatch.setattr("benchmarks.__main__.Setting", lambda **_: small)
    assert main(["study", "--seed", "7", "--json", str(tmp_path / "study.json"), "--folder", str(tmp_path)]) == 0

    found = json.loads((tmp_path / "study.json").read_text(encoding="utf-8"))
    assert set(ASKED.split()) <= set(found)
    assert not [name for name, value in found.items() if isinstance(value, float) and not math.isfinite(value)]
    assert not [name for name, value in found.items() if isinstance(value, dict | list)]
    assert "SIMULATED" in found["simulated"]
    assert found["regions_holdout"] == 4
    model = load_model(tmp_path / "study" / "model")
    assert found["model_sha256"] == model.sha256()
    assert not set(model.regions) & set(model.hold_out)
    board = pd.read_parquet(tmp_path / "study" / "tune" / "leaderboard.parquet")
    assert {"cart", "xgboost", "linear/robust"} <= set(board["candidate"])
    # The map's figures from its confusion: precision and recall give F1.
    p, r = found["precision"], found["recall"]
    assert found["f1"] == pytest.approx(2 * p * r / (p + r))
    assert found["auc_truth"] > 0.9
