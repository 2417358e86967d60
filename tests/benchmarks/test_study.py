"""The simulated study, small: its commands run, and what it writes is flat and of the hold-out."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from benchmarks.__main__ import main
from benchmarks.study import BESIDE, PUBLISHED, show
from benchmarks.study_figures import BANDS, GAP_PX, Figures
from benchmarks.study_runs import HELD, YEAR, Runs, Setting
from benchmarks.targets import STUDY_TARGETS, is_met
from engine.candidates import Rows
from engine.kernels.bins import MISSING_CODE
from engine.kernels.features import MISSING
from engine.model import load_model
from engine.raster import read_raster
from engine.store import open_store

ASKED = """
    auc_truth auc_mask f1 precision recall ece_before ece_after cart_f1 linear_auc regions_beaten_cart
    regions_beaten_linear regions_holdout random_auc worst_region_f1 mainland_f1 sensor_f1_drop model_sha256 seed
"""
SMALL = Setting(seed=7, size_px=128, scenes=6, regions=8, trials=14, folds=2, draw=(300, 600))


def figures_of(runs=None, **tables):
    """Return figures of tables that are given."""
    figures = Figures(runs)
    figures.__dict__.update(tables)
    return figures


def row(region="sim-India", truth=True, weight=1.0, col=0, **more):
    return {"region": region, "truth": truth, "weight": weight, "grid_col": col, **more}


# --- figures, worked by hand ----------------------------------------------------------------------------------------


def test_rows_are_judged_against_truth_by_the_land_they_stand_for():
    rows = pd.DataFrame(
        [row(weight=3), row(weight=1), row(truth=False, weight=1), row("sim-Cuba2", weight=2), row("sim-Cuba2", False)]
    )
    found = figures_of(hold_out=rows).judge(np.array([0.9, 0.2, 0.8, 0.7, 0.1]), 0.5)
    assert found["precision"] == pytest.approx(5 / 6)
    assert found["recall"] == pytest.approx(5 / 6)
    assert found["regions"] == {"sim-India": pytest.approx(0.75), "sim-Cuba2": 1.0}
    # Of the pairs of mangrove (3, 1, 2) and other (1, 1): .9 and .7 outrank .1; .9 outranks .8; .2 only .1.
    assert found["auc"] == pytest.approx((3 * 2 + 1 * 1 + 2 * 1) / 12)


def test_both_calibration_errors_are_of_the_same_rows():
    rows = pd.DataFrame([row(weight=1), row(weight=3, truth=False)]).assign(red=np.array([1, 2], np.int32))
    model = SimpleNamespace(
        features=("red",),
        edges=(np.array([1], np.int32),),
        predict_codes=lambda codes: np.array([0.6, 0.5]),
        probability=lambda codes: np.array([9000, 1000], np.uint16),
    )
    found = figures_of(SimpleNamespace(model=model), hold_out=rows).calibration()
    assert found["ece_before"] == pytest.approx((1 * 0.4 + 3 * 0.5) / 4)
    assert found["ece_after"] == pytest.approx((1 * 0.1 + 3 * 0.1) / 4)


def test_the_oracle_is_fitted_a_kilometre_from_what_it_is_judged_on():
    cols = np.arange(0, 512, 4)
    rows = pd.DataFrame([row(truth=bool(col % 8), col=col, thinned=thin) for col in cols for thin in (False, True)])
    judged = rows[~rows["thinned"]].reset_index(drop=True)
    seen = []

    class Spied(Figures):
        def fit(self, rows, features, label="mask"):
            def score(others):
                seen.append((set(rows["grid_col"]), set(others["grid_col"]), label, rows["thinned"].any()))
                return others["grid_col"].to_numpy() / 1000

            return score

    figures = Spied(SimpleNamespace(model=SimpleNamespace(features=())))
    figures.__dict__.update(frame=rows, hold_out=judged)
    score = figures.ask_oracle("sim-India")
    np.testing.assert_allclose(score, cols / 1000, rtol=1e-6)  # every row once, in its place
    assert [len(test) for _, test, _, _ in seen] == [16] * BANDS
    for train, test, label, thinned in seen:
        assert label == "truth"
        assert thinned
        assert min(abs(one - other) for one in train for other in test) >= GAP_PX
        far = {col for col in cols if min(abs(col - other) for other in test) > GAP_PX + 4}
        assert far <= train


def test_the_drop_of_a_sensor_is_from_landsat_8_in_the_same_regions(monkeypatch):
    f1 = {
        "landsat-8": (0.90, {"sim-India": 0.95, "sim-Cuba2": 0.85}),
        "landsat-5": (0.88, {"sim-India": 0.94, "sim-Cuba2": 0.80}),
        "landsat-7": (0.86, {"sim-India": 0.91, "sim-Cuba2": 0.84}),
    }
    figures = figures_of(SimpleNamespace(make_sensors=lambda: None))
    monkeypatch.setattr(
        Figures,
        "score_maps",
        lambda self, run, world, year: {"f1": f1[run][0], "f1_most": 0.95, "auc": 0.98, "regions": f1[run][1]},
    )
    found = figures.sensors()
    assert found["l5_f1_drop"] == pytest.approx(0.02)
    assert found["l7_f1_drop"] == found["sensor_f1_drop"] == pytest.approx(0.04)
    assert found["l7_f1_drop_worst_region"] == pytest.approx(0.04)
    assert found["l5_f1_drop_worst_region"] == found["sensor_f1_drop_worst_region"] == pytest.approx(0.05)


def test_the_table_says_what_is_simulated_and_what_is_missed():
    reached = {name: target for name, (_, target) in STUDY_TARGETS.items()}
    found = dict.fromkeys((*PUBLISHED, *BESIDE), 0.5) | reached | {"simulated": "SIMULATED s=1", "recall": 0.8999}
    lines = list(show(found))
    assert "SIMULATED" in lines[0]
    assert [line for line in lines if "MISSED" in line] == [
        "recall                             0.8999   >= 0.9, MISSED"
    ]
    assert sum("reached" in line for line in lines[2:]) == len(STUDY_TARGETS) - 1
    assert "study_draw_recall                  0.5000   0.98 published, of real land" in lines
    assert is_met("ece_after", 0.03, STUDY_TARGETS)
    assert not is_met("ece_after", 0.031, STUDY_TARGETS)


# --- a small study --------------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_small_study_writes_one_flat_object(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("benchmarks.__main__.Setting", lambda **_: SMALL)
    assert main(["study", "--seed", "7", "--json", str(tmp_path / "study.json"), "--folder", str(tmp_path)]) == 0

    found = json.loads((tmp_path / "study.json").read_text(encoding="utf-8"))
    assert set(ASKED.split()) <= set(found)
    assert not [name for name, value in found.items() if isinstance(value, float) and not math.isfinite(value)]
    assert not [name for name, value in found.items() if isinstance(value, dict | list)]
    assert all(found[f"target_{name}"] == target for name, (_, target) in STUDY_TARGETS.items())
    assert found["published_auc_mlp"] == 0.960
    assert "SIMULATED" in found["simulated"]
    assert "SIMULATED" in capsys.readouterr().err
    assert found["regions_holdout"] == 4
    model = load_model(tmp_path / "study" / "model")
    assert found["model_sha256"] == model.sha256()
    assert not set(model.regions) & set(model.hold_out)
    board = pd.read_parquet(tmp_path / "study" / "tune" / "leaderboard.parquet")
    assert {"cart", "xgboost"} <= set(board["candidate"])
    linear = board[board["candidate"].str.startswith("linear/")]
    assert found["linear_candidate"] == linear.loc[linear["auc_mean"].idxmax(), "candidate"]
    assert found["auc_truth"] > 0.9
    check_maps(tmp_path, found)
    figures = Figures(Runs(SMALL, tmp_path, print))
    check_draw(figures, found)
    # The models set beside each other are those of the search.
    rows = Rows.of(figures.training, figures.features)
    for algorithm in ("xgboost", "linear"):
        name, fitted = figures.fitted[algorithm]
        assert fitted.sha256(rows) == board.set_index("candidate").loc[name, "model_sha256"]


def check_maps(folder, found):
    """Recompute the figures of the maps from the maps."""
    hit = alarm = missed = 0
    for store in (folder / "study" / "maps" / str(YEAR)).glob("*.zarr"):
        with open_store(store) as data:
            mangrove, numbers = data["class"].values == 2, data["region"].values
            name = json.loads(data.attrs["regions"])[numbers.max() - 1]
            seen = data["probability"].values != 65535
        if name in HELD:
            truth = read_raster(folder / "world" / "truth" / f"{name}_{YEAR}.tif")[0][1] > 0
            hit += (mangrove & truth & seen).sum()
            alarm += (mangrove & ~truth & seen).sum()
            missed += (~mangrove & truth & seen).sum()
    assert found["precision"] == pytest.approx(hit / (hit + alarm))
    assert found["recall"] == pytest.approx(hit / (hit + missed))
    assert found["f1"] == pytest.approx(2 * hit / (2 * hit + alarm + missed))


def check_draw(figures, found):
    """Recompute the figures of the study's draw from its rows."""
    parts = [pd.read_parquet(path) for path in sorted((figures.runs.folder / "study-draw/sample").glob("*.parquet"))]
    rows = pd.concat(parts, ignore_index=True)
    assert set(rows["region"]) == set(HELD)
    assert rows["why"].str.startswith("study: uniform position").all()
    positive = (rows["label"] == 2).to_numpy()
    assert found["study_draw_share"] == pytest.approx(positive.mean())
    model = figures.runs.model
    codes = np.stack(
        [np.searchsorted(of, rows[name], "right") for name, of in zip(model.features, model.edges, strict=True)]
    )
    codes[rows[list(model.features)].to_numpy().T == MISSING] = MISSING_CODE
    probability = model.probability(codes.astype(np.uint8))
    called = probability >= round(model.threshold * 10_000)
    recall, alarms = called[positive].mean(), called[~positive].mean()
    assert found["study_draw_recall"] == pytest.approx(recall)
    assert found["study_draw_precision"] == pytest.approx(0.31 * recall / (0.31 * recall + 0.69 * alarms))
    assert found["study_draw_auc_xgboost"] == pytest.approx(roc_auc_score(positive, probability))
