"""Tables predicted from the command line: which model, what scale, and one line for each mistake."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from engine.grid import EDGE_M, PIXEL_M
from engine.kernels.calibrate import Calibration, Curve
from engine.kernels.features import ALL_FEATURES, COMPOSITE_FEATURES
from engine.landsat import BANDS
from engine.legend import PROBABILITY_MISSING, PROBABILITY_SCALE
from engine.params import TrainParams
from engine.store import open_store
from engine.train import fit
from tests.engine.samples import make_sample
from tests.jobs.calls import mangroves

PARAMS = TrainParams(rounds=5, max_depth=3)
PLOTS = make_sample(60, seed=3)[list(BANDS)].set_axis([f"B{n}" for n in (2, 3, 4, 5, 6, 7)], axis=1).assign(plot="a,b")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder as `mangroves train` writes it."""
    folder, sample = tmp_path_factory.mktemp("run") / "model", make_sample(600)
    fit(sample, features=ALL_FEATURES, params=PARAMS).save(folder)
    fit(sample, features=COMPOSITE_FEATURES, params=PARAMS).save(folder / "bands")
    return folder


@pytest.fixture
def plots(tmp_path: Path) -> Path:
    PLOTS.to_csv(tmp_path / "plots.csv", index=False)
    return tmp_path / "plots.csv"


def test_a_table_is_joined_with_what_the_model_says_of_it_and_the_reasons_are_told(model, plots, tmp_path):
    answer = mangroves("predict", model, plots)
    assert answer.code == 0, answer.err
    assert "model  bands, as the table lacks ndvi_p10, ndvi_p90, ndvi_range and 4 more of the full model's 20" in (
        answer.err
    )
    assert "bands  B2-B7 of OLI, as there is no B1" in answer.err
    assert "scale  Collection-2 DN (x 2.75e-5 - 0.2): band values" in answer.err
    found = pd.read_csv(tmp_path / "plots-predicted.csv")
    pd.testing.assert_frame_equal(found[list(PLOTS)], pd.read_csv(plots))
    mangrove = (found["class"] == "mangrove").sum()
    assert f"60 rows: {mangrove} mangrove, {60 - mangrove} other, 0 without bands" in answer.out
    PLOTS.to_parquet(tmp_path / "plots.parquet")
    out = tmp_path / "new" / "mapped.parquet"
    answer = mangroves("predict", model, tmp_path / "plots.parquet", "-o", out, "--prefix", "m_", "--json")
    said = json.loads(answer.out)
    assert (said["model"], said["scale"], said["rows"], said["mangrove"]) == ("bands", "dn", 60, mangrove)
    parquet = pd.read_parquet(out)
    assert parquet["m_probability"].tolist() == found["probability"].tolist()
    assert parquet["m_class"].tolist() == found["class"].tolist()


def test_what_is_told_rules_over_what_is_seen(model, plots, tmp_path):
    detected = mangroves("predict", model, plots, "-o", tmp_path / "a.csv")
    told = mangroves("predict", model, plots, "-o", tmp_path / "b.csv", "--scale", "dn", "--sensor", "oli")
    assert detected.code == told.code == 0
    assert "scale  by --scale" in told.err
    assert "numbered as OLI by --sensor" in told.err
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    assert "B1 is missing" in mangroves("predict", model, plots, "--sensor", "tm").error
    # Dark land as bytes is no known scale, and may be taken for one only by name.
    (PLOTS[PLOTS.columns[:6]] // 100).to_csv(plots, index=False)
    assert "the scale of the bands is not clear" in mangroves("predict", model, plots).error
    assert mangroves("predict", model, plots, "--scale", "collection1").code == 0


def test_rows_of_land_with_another_share_of_mangrove_are_predicted_for_it(plots, tmp_path):
    trained = fit(make_sample(600), features=COMPOSITE_FEATURES, params=PARAMS)
    trained.save(tmp_path / "plain")
    assert "not calibrated" in mangroves("predict", tmp_path / "plain", plots, "--prevalence", "0.3").error
    knots = np.linspace(0, 1, 201)
    replace(
        trained,
        calibration=Calibration(knots, knots**2),
        curve=Curve(np.array([0.2, 0.6]), np.array([0.9, 0.5]), np.array([0.2, 0.01])),
        params={**trained.params, "threshold_rule": "f1"},
        training_prevalence=0.1,
    ).save(tmp_path / "model")
    said = {}
    for share in ("0.1", "0.5"):
        out = tmp_path / f"{share}.csv"
        answer = mangroves("predict", tmp_path / "model", plots, "-o", out, "--prevalence", share, "--json")
        said[share] = json.loads(answer.out) | {"probability": pd.read_csv(out)["probability"]}
        assert said[share]["prevalence"] == float(share)
    # Odds of 1 to 9 become 1 to 1: nine times what they were (Saerens and others 2002).
    before, after = (said[share]["probability"] / (1 - said[share]["probability"]) for share in ("0.1", "0.5"))
    np.testing.assert_allclose(after / before, 9, rtol=0.05)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.iloc[:0], "has no rows"),
        (lambda f: f.drop(columns="B4"), r"B4 is missing; found 'B2', 'B3'"),
        (lambda f: f.assign(B4=["9000"] * 59 + ["cloud"]), "column 'B4' holds text: 'cloud' in row 60"),
        (lambda f: f.assign(B4=np.nan), "no row has a value in all six bands"),
        (lambda f: pd.concat([f, f[f.columns[:6]] * 2.75e-5 - 0.2]), "the scale of the bands is not clear"),
        (lambda f: f.assign(probability=0.5), "has a column 'probability' already; drop it, or give another --prefix"),
    ],
)
def test_a_table_that_cannot_be_used_ends_in_one_line_and_writes_nothing(model, tmp_path, suffix, change, message):
    table = tmp_path / f"t{suffix}"
    changed = change(PLOTS)
    changed.to_csv(table, index=False) if suffix == ".csv" else changed.to_parquet(table)
    assert message in mangroves("predict", model, table).error
    assert [path.name for path in tmp_path.iterdir()] == [table.name]


def test_files_that_are_not_there_or_damaged_end_in_one_line(model, plots, tmp_path):
    assert "absent.csv is not there" in mangroves("predict", model, tmp_path / "absent.csv").error
    assert "has no readable model.json" in mangroves("predict", tmp_path / "absent", plots).error
    half = tmp_path / "half"
    half.mkdir()
    (half / "model.json").write_bytes((model / "model.json").read_bytes())
    assert "has no readable meta.json; give the folder that `mangroves train` wrote" in (
        mangroves("predict", half, plots).error
    )
    meta = json.loads((model / "meta.json").read_text())
    (half / "meta.json").write_text(json.dumps(meta | {"threshold": 0.1}))
    assert "meta.json does not match its own sha256" in mangroves("predict", half, plots).error
    assert "neither CSV nor Parquet" in mangroves("predict", model, half / "meta.json").error
    assert "is the table itself" in mangroves("predict", model, plots, "-o", plots).error
    assert "not of the table's kind" in mangroves("predict", model, plots, "-o", tmp_path / "o.parquet").error
    (tmp_path / "file").write_text("")
    assert "cannot be written" in mangroves("predict", model, plots, "-o", tmp_path / "file" / "o.csv").error


def test_the_sample_of_a_run_is_predicted_as_its_maps_show_it(finished, tmp_path):
    seen = 0
    for part in sorted((finished.run / "sample").glob("*.parquet")):
        answer = mangroves("predict", finished.run / "model", part, "-o", tmp_path / part.name, "--json")
        assert answer.code == 0, answer.err
        assert json.loads(answer.out)["model"] == "full"
        rows = pd.read_parquet(tmp_path / part.name)
        rows = rows[~rows["thinned"]]
        with open_store(finished.run / "maps" / f"{rows['year'].iloc[0]}/{rows['tile'].iloc[0]}.zarr") as maps:
            east = xr.DataArray(EDGE_M + PIXEL_M * (rows["grid_col"].to_numpy() + 0.5), dims="row")
            north = xr.DataArray(EDGE_M - PIXEL_M * (rows["grid_row"].to_numpy() + 0.5), dims="row")
            mapped = maps["probability"].sel(x=east, y=north).to_numpy()
        inside = mapped != PROBABILITY_MISSING  # and inside the habitat
        np.testing.assert_array_equal(rows["probability"][inside], mapped[inside] / PROBABILITY_SCALE)
        seen += inside.sum()
    assert seen > 500
    bands = pd.read_parquet(part)[list(BANDS)]
    bands.to_csv(tmp_path / "bands.csv")
    answer = mangroves("predict", finished.run / "model", tmp_path / "bands.csv", "--json")
    assert json.loads(answer.out)["model"] == "bands", answer.err
