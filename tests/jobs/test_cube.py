"""``mangroves cube``: sensors brought together, and what is said of each year."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from engine.kernels.tide import CELL_PX, wetness_levels
from engine.landsat import BANDS
from engine.simulate import Archive, WorldParams, write_archive
from tests.jobs.calls import Job, config_of

WORLD = WorldParams(regions=("Vietnam2",), scenes_per_year=None, years=(2011, 2013), size_px=96, mask_years=(2012,))


@pytest.fixture(scope="module")
def sensors(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """A year of TM and ETM+ and one of ETM+ and OLI; not to be changed."""
    return write_archive(WORLD, tmp_path_factory.mktemp("sensors") / "archive")


def cubes(archive: Archive, folder: Path, **cube: str) -> Job:
    job = Job(folder, archive, config_of(archive))
    job.config["years"] = [2013]
    job.config["labels"].pop("stable_between")
    job.config |= {"cube": cube, "notice": archive.params.notice}
    return job


@pytest.fixture(scope="module")
def local(sensors: Archive, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Cubes by lines fitted to their own looks; not to be changed."""
    job = cubes(sensors, tmp_path_factory.mktemp("local"), harmonise="local")
    answer = job.call("cube")
    assert answer.code == 0, answer.err
    return job


def test_local_lines_and_what_is_left_are_in_table_and_record(local):
    table = pd.read_csv(local.run / "harmonisation.csv")
    assert list(table["method"].unique()) == ["none", "roy", "local"]
    assert list(table["band"].unique()) == list(BANDS)
    assert set(table["sensor"] + table["target"]) == {"ETM+OLI"}
    assert table["notice"].str.startswith("SIMULATED").all()
    found = local.record["harmonisation"]
    assert [row["mean_bias"] for row in found["residuals"]] == list(table["mean_bias"])
    rows = table[table["method"] == "local"]
    np.testing.assert_array_equal(found["lines"]["ETM+"], rows[["slope", "intercept"]])
    by_method = table.groupby("method")["mean_bias"].apply(lambda bias: abs(bias).mean())
    assert by_method["local"] < by_method["roy"]


@pytest.mark.slow
def test_lines_are_fitted_once_and_are_part_of_what_a_cube_is_made_of(local, sensors, tmp_path):
    answer = local.call("cube")
    assert "1 of 1 tile-years finished earlier" in answer.err
    assert "harmonise 1/1" not in answer.err
    prints = set()
    for harmonise in ("none", "roy"):
        job = cubes(sensors, tmp_path / harmonise, harmonise=harmonise)
        (tmp_path / harmonise).mkdir()
        assert job.call("cube").code == 0
        assert (job.run / "harmonisation.csv").is_file() == (harmonise == "roy")
        prints.add(marker_of(job, 2013)["sha256"])
    assert len({*prints, marker_of(local, 2013)["sha256"]}) == 3


def marker_of(job: Job, year: int) -> dict:
    (path,) = (job.run / "cube").glob(f"*/{year}.json")
    return json.loads(path.read_text(encoding="utf-8"))


def test_lines_without_looks_to_fit_to_are_refused(sensors, tmp_path):
    job = cubes(sensors, tmp_path, harmonise="local")
    job.config["years"] = [2011]
    assert "use cube.harmonise: roy or none" in job.call("cube").error


def test_years_tell_dates_sensors_wetness_and_whether_they_are_poor(sensors, tmp_path):
    job = cubes(sensors, tmp_path, tide="low", balance="season")
    job.config["years"] = [2011, 2013]
    job.config["cube"] = {**job.config["cube"], "min_looks": 9}
    answer = job.call("cube")
    assert answer.code == 0, answer.err
    years = pd.read_csv(job.run / "years.csv").set_index("year")
    assert years.loc[2013, "sensors"] == "L7+L8"
    frequencies = []
    for year, row in years.iterrows():
        marker = marker_of(job, year)
        with xr.open_zarr(job.run / "cube" / row["tile"] / f"{year}.zarr", mask_and_scale=False) as cube:
            count = cube["clear_count"].values
            frequencies.append(cube["water_frequency"].values)
            corner = round(-float(cube["y"][0]) / 30), round(float(cube["x"][0]) / 30) - 1
        assert sum(marker["clear_px"].values()) == count.sum()
        assert len(marker["clear_px"]) == row["looks"] == marker["looks"]
        assert row["poor"] == ((count >= 9).sum() * 2 < max(years["observed_share"]) * count.size)
        assert row["first"] <= row["last"]
        assert 1 <= row["day_p25"] <= row["day_p50"] <= row["day_p75"] <= 366
        etm = sum(px for look, px in marker["clear_px"].items() if look.startswith("landsat-7"))
        assert row["slc_off_share"] == pytest.approx(etm / count.sum(), abs=1e-4)
    assert ("tile-years are poor" in answer.err) == years["poor"].any()
    levels = wetness_levels(np.stack(frequencies), CELL_PX, corner=corner)
    told = json.loads((job.run / "cube" / row["tile"] / "wetness.json").read_text(encoding="utf-8"))
    assert told["first_cell"] == [at // CELL_PX for at in corner]
    np.testing.assert_allclose(np.array(list(told["levels"].values()), float), levels, atol=1e-4)
    np.testing.assert_allclose(years["wetness"].astype(float), np.nanmedian(levels, axis=(1, 2)), atol=1e-4)
    before = (job.run / "years.csv").stat().st_mtime_ns
    assert job.call("cube").code == 0
    assert (job.run / "years.csv").stat().st_mtime_ns == before, "nothing is new"
