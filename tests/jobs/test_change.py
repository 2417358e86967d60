"""`mangroves change` on a run: histories, patches and the years, and what another rule makes of the same maps."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import pandas as pd
import rasterio

from engine.legend import CHANGES, names
from engine.store import open_store


def test_a_run_ends_with_histories_patches_series_and_pairs(finished):
    run = finished.run
    stores = sorted((run / "change" / "history").glob("*.zarr"))
    assert len(stores) == 2
    kinds = pd.read_csv(run / "history.csv")
    assert set(kinds["name"]) == set(names(CHANGES).values()) - {"outside the area"}
    counted = 0
    for store in stores:
        with open_store(store) as data:
            counted += int((data["kind"].values != 255).sum())
    assert kinds.loc[kinds["by"] == "region", "pixels"].sum() == counted
    for name in ("kind", "loss_year", "gain_year", "confidence", "class"):
        for path in (run / "change" / "history").glob(f"{name}_*.vrt"):
            with rasterio.open(path) as file:
                assert file.tags()["run"] == "tiny"
                assert file.count == (2 if name == "class" else 1)
    patches = gpd.read_parquet(run / "change" / "patches.parquet")
    assert set(patches["direction"]) <= {"loss", "gain"}
    series = pd.read_csv(run / "series.csv")
    assert sorted(series["year"].unique()) == [2016, 2017]
    change = pd.read_csv(run / "change.csv")
    assert sorted(change["least_ha"].unique()) == [0, 0.5]
    np.testing.assert_allclose(change["after_ha"] - change["before_ha"], change["net_ha"], atol=1e-3)
    sieved, whole = (change[change["least_ha"] == least].reset_index() for least in (0.5, 0))
    assert (sieved["loss_ha"] <= whole["loss_ha"]).all()
    assert "calibration_error" in finished.record["stages"]["history"]["counts"]


def test_the_same_maps_are_traced_by_another_rule_without_being_made_anew(finished_copy):
    before = pd.read_csv(finished_copy.run / "history.csv")
    answer = finished_copy.call("change", "--set", "change.model=hmm")
    assert answer.code == 0, answer.err
    assert "classify  4 of 4 tile-years finished earlier, skipped" in answer.err
    assert "Rates of change that the hidden Markov model takes" in answer.err + answer.out
    assert finished_copy.record["stages"]["history"]["counts"]["done"] == 2
    after = pd.read_csv(finished_copy.run / "history.csv")
    assert after["pixels"].sum() == before["pixels"].sum()
    assert finished_copy.call("change", "--set", "change.model=hmm").code == 0
    assert finished_copy.record["stages"]["history"]["counts"] == {
        **finished_copy.record["stages"]["history"]["counts"],
        "done": 0,
        "skipped": 2,
    }
