"""``mangroves assess`` on a small simulated world: from the map of change to areas with intervals."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest

from engine.area import region_codes
from engine.assess import BLIND, METHOD
from engine.grid import pixel_hectares
from jobs.assess import FROM_LABELS
from tests.jobs.calls import Answer, Job, mangroves
from tests.jobs.histories import area_and_tiles, truth_of, write_histories, write_history

SMALL = {"min_per_large": 60, "min_per_stratum": 20, "most": 500}


@pytest.fixture(scope="module")
def mapped(finished, tmp_path_factory) -> Job:
    """A run with histories of its tiles, nearly true."""
    folder = tmp_path_factory.mktemp("assessed")
    shutil.copytree(finished.folder, folder, dirs_exist_ok=True)
    job = Job(folder, finished.archive, copy.deepcopy(finished.config))
    job.config["assess"] = dict(SMALL)
    write_histories(job)
    return job


def call(job: Job, command: str, *more: str | Path) -> Answer:
    """Run one of the commands of ``mangroves assess`` on a configuration."""
    return mangroves("assess", *job.arguments(command, *more))


@pytest.fixture(scope="module")
def truth(mapped):
    design = call(mapped, "design", "--json")
    assert design.code == 0, design.err
    answer = call(mapped, "truth", "--world", mapped.archive.folder, "--json")
    assert answer.code == 0, answer.err
    return mapped, json.loads(design.out), json.loads(answer.out)


def test_an_interpreter_is_given_places_and_nothing_of_the_map(truth):
    job, design, _ = truth
    folder = job.run / "assess"
    points = gpd.read_parquet(folder / "sample.parquet")
    assert [name for name in points.columns if name != "notice"] == [*BLIND, "geometry"]
    assert points["notice"].str.startswith("SIMULATED").all()
    assert len(points) == design["points"] == sum(row["points"] for row in design["strata"]) <= 500
    assert pd.read_csv(folder / "sample.csv")["id"].tolist() == points["id"].tolist()
    assert gpd.read_file(folder / "sample.geojson")["id"].tolist() == points["id"].tolist()
    assert gpd.read_file(folder / "sample.kml").shape[0] == len(points)
    template = pd.read_csv(folder / "labels_template.csv")
    assert template.columns.tolist() == ["id", "2016", "2017"]
    assert template["id"].tolist() == points["id"].tolist()
    assert template[["2016", "2017"]].isna().all(axis=None)
    second = pd.read_csv(folder / "labels_template_reader2.csv")["id"]
    assert second.tolist() == points.loc[points["reader2"], "id"].tolist()
    assert 0.1 <= len(second) / len(points) < 0.15
    assert {path.stem for path in (folder / "chips").iterdir()} == set(points["id"])


def test_truth_as_the_interpreter_gives_intervals_that_hold_the_truth(truth):
    job, _, found = truth
    area, tiles = area_and_tiles(job)
    true = dict.fromkeys(("mangrove 2016", "mangrove 2017", "loss", "gain"), 0.0)
    for tile in tiles:
        of = truth_of(job, tile, region_codes(area, tile), [2016, 2017])
        flags = {"mangrove 2016": of[0], "mangrove 2017": of[1], "loss": of[0] & ~of[1], "gain": ~of[0] & of[1]}
        for name, one in flags.items():
            true[name] += float((one * pixel_hectares(tile)).sum())
    rows = {f"{row['class']} {row['period']}": row for row in found["areas"]}
    names = {"loss": "loss 2016-2017", "gain": "gain 2016-2017"}
    held = [rows[names.get(k, k)]["low_ha"] <= v <= rows[names.get(k, k)]["high_ha"] for k, v in true.items()]
    assert sum(held) >= 3
    assert rows["mangrove 2016"]["estimated_ha"] == pytest.approx(true["mangrove 2016"], rel=0.15)
    assert set(found["coverage_at_5_percent_reader_error"]) == {"extent", "loss"}


def test_tables_state_their_method_and_come_by_region(truth):
    job, _, found = truth
    folder = job.run / "assess"
    areas = pd.read_csv(folder / "areas.csv")
    assert set(areas["method"]) == {METHOD}
    assert set(areas["where"]) == {"whole area", "sim-Vietnam2", "sim-India"}
    total = areas[areas["by"] == "total"]
    assert total["estimated_ha"].tolist() == pytest.approx([row["estimated_ha"] for row in found["areas"]])
    pd.testing.assert_frame_equal(
        pd.read_parquet(folder / "areas.parquet"),
        areas.drop(columns=["method", "notice"]),
        check_dtype=False,
        rtol=1e-6,
    )
    for name in ("accuracy", "matrix", "strata", "mapped_areas"):
        assert "method" in pd.read_csv(folder / f"{name}.csv")
    strata = pd.read_csv(folder / "strata.csv")
    points = strata.groupby("by")["points"].sum()
    assert points["total"] == points["region"]
    assert {"assess design", "assess chips", "assess"} <= set(job.record["stages"])


def test_labels_are_read_back_and_two_readers_compared(truth):
    job, _, found = truth
    folder = job.run / "assess"
    labels = pd.read_csv(folder / "labels_truth.csv", dtype=str)
    second = labels[labels["id"].isin(pd.read_csv(folder / "labels_template_reader2.csv")["id"])].copy()
    second.iloc[0, 1] = "unsure"
    second.iloc[1, 2] = "mangrove" if second.iloc[1, 2] == "other" else "other"
    second.to_csv(job.folder / "second.csv", index=False)
    answer = call(job, "read", "--labels", folder / "labels_truth.csv", "--labels", job.folder / "second.csv")
    assert answer.code == 0, answer.err
    assert "Intervals assume perfect reference labels" in answer.err
    assert "Hectares of the whole area, from the sample" in answer.out
    agreement = pd.read_csv(folder / "agreement.csv").set_index("period")
    assert agreement.loc["all years", "labels"] == 2 * len(second) - 1
    assert agreement.loc["all years", "agreement"] == pytest.approx(1 - 1 / (2 * len(second) - 1))
    again = pd.read_csv(folder / "areas.csv")
    total = again[again["by"] == "total"]["estimated_ha"]
    assert total.tolist() == pytest.approx([row["estimated_ha"] for row in found["areas"]])


def test_the_series_takes_the_intervals_at_once(truth):
    job, _, found = truth
    series = pd.read_csv(job.run / "series.csv")
    assert series["low_ha"].notna().all()
    years = [row["estimated_ha"] for row in found["areas"] if row["class"] == "mangrove"]
    assert series.loc[series["by"] == "total", "estimated_ha"].tolist() == pytest.approx(years, abs=1e-3)
    assert found["series"] == str(job.run / "series.csv")


def test_labels_of_one_reader_leave_no_agreement_of_an_earlier_pair(truth, tmp_path):
    job, _, _ = truth
    folder = job.run / "assess"
    (folder / "agreement.csv").touch()
    labels = pd.read_csv(folder / "labels_truth.csv", dtype=str)
    labels.assign(**{"2017": "unsure"}).to_csv(tmp_path / "labels.csv", index=False)
    answer = call(job, "read", "--labels", tmp_path / "labels.csv")
    assert answer.code == 0, answer.err
    assert not (folder / "agreement.csv").exists()
    assert "would hold the truth" not in answer.err
    series = pd.read_csv(job.run / "series.csv").groupby("year")["low_ha"].count()
    assert series[2016] == 3
    assert series[2017] == 0
    labels.assign(**{"2016": "unsure", "2017": "unsure"}).to_csv(tmp_path / "labels.csv", index=False)
    answer = call(job, "read", "--labels", tmp_path / "labels.csv")
    assert answer.code == 0, answer.err
    assert "too few labels are sure for any interval" in answer.err
    assert call(job, "read", "--labels", folder / "labels_truth.csv").code == 0


def test_a_sample_repeats_to_the_byte_and_names_zones(truth, tmp_path):
    job, _, _ = truth
    folder = job.run / "assess"
    names = ("sample.csv", "sample.geojson", "sample.kml", "strata.csv", "mapped.parquet", "labels_template.csv")
    before = {name: (folder / name).read_bytes() for name in names}
    labels = shutil.copy(folder / "labels_truth.csv", tmp_path / "labels.csv")
    assert call(job, "design", "--no-chips").code == 0
    assert {name: (folder / name).read_bytes() for name in names} == before
    assert not [name for name in FROM_LABELS if (folder / name).exists()]
    polygons = gpd.read_file(job.archive.regions)
    polygons["name"] = polygons["name"].replace({"sim-India": "NA", "sim-Vietnam2": "12"})
    polygons.to_file(job.folder / "zones.geojson")
    zones = ("--set", f"change.zones={job.folder / 'zones.geojson'}", "--set", "change.by=name")
    assert call(job, "design", "--no-chips", *zones).code == 0
    assert (folder / "sample.csv").read_bytes() == before["sample.csv"]
    answer = call(job, "read", "--labels", labels, *zones)
    assert answer.code == 0, answer.err
    areas = pd.read_csv(folder / "areas.csv", keep_default_na=False).set_index(["by", "where"]).sort_index()
    region, zone = (areas.loc[at, "estimated_ha"].to_numpy() for at in (("region", "sim-India"), ("zone", "NA")))
    assert np.array_equal(region, zone)
    assert pd.read_csv(job.run / "series.csv")["low_ha"].notna().all()
    answer = call(job, "read", "--labels", labels)
    assert answer.code == 0, answer.err
    assert "areas.parquet is of another map or other zones, left out; run `mangroves assess design` again" in answer.err
    assert pd.read_csv(job.run / "series.csv")["low_ha"].isna().all()
    assert call(job, "design", "--no-chips").code == 0
    shutil.copy(labels, folder / "labels_truth.csv")


def test_a_map_of_other_settings_is_not_assessed(truth):
    job, _, _ = truth
    fix = "the configuration now says hmm; run `mangroves change` first"
    for command in (["design"], ["read", "--labels", job.run / "assess" / "labels_truth.csv"]):
        line = call(job, *command, "--set", "change.model=hmm").error
        assert "was made with model segments" in line
        assert line.endswith(fix)


def test_what_is_missing_is_told_in_one_line(job, truth, tmp_path):
    assert call(job, "design").error.endswith("holds no map of change; run `mangroves change` first")
    line = call(job, "read", "--labels", tmp_path / "none.csv").error
    assert line.endswith("none.csv cannot be read (FileNotFoundError); give a CSV in UTF-8")
    (tmp_path / "none.csv").write_text("id\n")
    line = call(job, "read", "--labels", tmp_path / "none.csv").error
    assert line.endswith("holds no sample; run `mangroves assess design` first")
    done, _, _ = truth
    line = call(done, "read", "--labels", done.run / "assess" / "labels_template.csv").error
    assert "2016: '' is no label" in line
    assert line.endswith("write mangrove, other, unsure")


def test_a_map_that_was_made_anew_needs_a_sample_of_its_own(truth):
    job, _, _ = truth
    area, tiles = area_and_tiles(job)
    store = job.run / "change" / "history" / f"{tiles[0].id}.zarr"
    regions = region_codes(area, tiles[0])
    write_history(store, tiles[0], regions, [2016, 2017], np.full((2, *tiles[0].shape), 2, np.uint8))
    line = call(job, "read", "--labels", job.run / "assess" / "labels_truth.csv").error
    assert line.endswith("was drawn from another map; run `mangroves assess design` again")
    shutil.rmtree(store)
    line = call(job, "design").error
    assert "is not there or not finished; run `mangroves change` first" in line
