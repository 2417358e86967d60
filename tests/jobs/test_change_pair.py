"""``mangroves change A.tif B.tif``: tables, raster and JSON agree; what does not go together is told in one line."""

from __future__ import annotations

import json
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
from affine import Affine
from shapely.geometry import box

from engine.legend import GAIN, LOSS, TRANSITIONS
from tests.jobs.calls import mangroves
from tests.makers import write_raster

GRID = {"crs": "EPSG:32617", "transform": Affine(25, 0, 5e5, 0, -25, 2.8e6), "nodata": 0}
BEFORE = np.kron(np.random.default_rng(1).integers(0, 2, (12, 10)), np.ones((5, 5))).astype("uint8")
AFTER = np.where(np.random.default_rng(2).random((60, 50)) < 0.1, 1 - BEFORE, BEFORE).astype("uint8")


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return write_raster(tmp_path / "a.tif", BEFORE, **GRID), write_raster(tmp_path / "b.tif", AFTER, **GRID)


def test_two_rasters_become_transitions_tables_and_json_that_agree(pair, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    zones = gpd.GeoDataFrame({"name": ["west"]}, geometry=[box(5e5, 2.7e6, 5e5 + 250, 2.9e6)], crs=32617)
    zones.to_file(tmp_path / "zones.gpkg")
    answer = mangroves("change", *pair, "--zones", tmp_path / "zones.gpkg", "--by", "name", "--json")
    assert answer.code == 0, answer.err
    assert "a.tif: 1 is mangrove, all else other; its nodata 0 is no mangrove, as in Global" in answer.err
    assert "of at least 0.5 ha by the areas of their very pixels on the ellipsoid (8 px here)" in answer.err
    out = tmp_path / "a-to-b"
    said = json.loads(answer.out)
    assert said == json.loads((out / "change.json").read_text(encoding="utf-8"))
    assert said["least_px"] == [8, 8]
    with rasterio.open(out / "transition.tif") as source:
        codes = source.read(1)
        assert source.tags()["before"] == "a.tif"
        assert source.colormap(1)[LOSS][:3] == next(entry.colour for entry in TRANSITIONS if entry.code == LOSS)
    assert ((codes == LOSS) == (BEFORE > AFTER)).all()
    assert ((codes == GAIN) == (BEFORE < AFTER)).all()
    table = pd.read_csv(out / "change.csv")
    assert table["where"].tolist() == ["all", "all", "west", "west"]
    assert table["least_ha"].tolist() == [0, 0.5, 0, 0.5]
    assert table["loss_px"].tolist()[::2] == [(BEFORE > AFTER).sum(), (BEFORE > AFTER)[:, :10].sum()]
    assert table["loss_px"].tolist() == [row["loss_px"] for row in said["change"]]
    assert np.allclose(table["after_ha"] - table["before_ha"], table["net_ha"], atol=2e-4)
    assert table["method"].str.contains("WGS84 ellipsoid").all()
    codes_of = pd.read_csv(out / "transitions.csv")
    assert codes_of.groupby(["where", "least_ha"])["pixels"].sum().tolist() == [3000, 3000, 600, 600]
    assert codes_of.query("code == 3 and where == 'all' and least_ha == 0")["hectares"].item() == pytest.approx(
        (BEFORE > AFTER).sum() * 0.0625 / 0.9996**2, rel=1e-4
    )


def test_a_person_reads_all_change_beside_that_of_large_patches(pair, tmp_path):
    answer = mangroves("change", *pair, "--out", tmp_path / "new", "--min-area-ha", "0.2")
    assert answer.code == 0, answer.err
    assert "small loss" in answer.out
    assert ">= 0.2 ha" in answer.out
    assert f"transitions, tables and change.json in {tmp_path / 'new'}" in answer.out.replace("\n", "")


def test_what_does_not_go_together_is_one_line(pair, tmp_path):
    a, b = pair
    (tmp_path / "c.yaml").write_text("name: c\n", encoding="utf-8")
    assert "a second one to compare it with" in mangroves("change", a).error
    assert "are for two rasters" in mangroves("change", tmp_path / "c.yaml", "--value", "2").error
    assert "neither configuration nor options of a run" in mangroves("change", a, b, "--set", "name=x").error
    assert "--zones and --by belong together" in mangroves("change", a, b, "--zones", "z.gpkg").error
    assert "gone.tif cannot be read as a GeoTIFF" in mangroves("change", a, tmp_path / "gone.tif").error
    input_there = write_raster(tmp_path / "transition.tif", AFTER, **GRID)
    assert "choose another --out" in mangroves("change", a, input_there, "--out", tmp_path).error
    shifted = {**GRID, "transform": GRID["transform"] * Affine.translation(0, 1)}
    other = write_raster(tmp_path / "c.tif", AFTER, **shifted)
    assert (
        "a.tif and c.tif differ in corner or pixel size; warp one onto the other" in mangroves("change", a, other).error
    )
