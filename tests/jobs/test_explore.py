"""A sample described: files, figures and words of ``mangroves explore``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import geopandas as gpd
import pandas as pd
import pyarrow.parquet as pq
import pytest

from engine.explore import JOINT, LEAST_ROWS
from engine.places import ObjectPath, Place
from engine.sample import write_part
from tests.engine.test_explore import make_rows
from tests.jobs.calls import mangroves

TABLES = {
    *("counts", "spectra", "densities", "separability", "correlations", "region_distances", "outliers"),
    "outlier_counts",
}
FIGURES = TABLES - {"outlier_counts"} | {"densities_bands", "densities_indices", "densities_ranges"}
NOTICE = "SIMULATED: no real land"


def write_run(folder: Path, drawn: pd.DataFrame, *, store: ObjectPath | None = None) -> Path:
    """Write the record and the sample of a run as its commands would have left them, in two parts."""
    folder.mkdir(parents=True)
    config: dict[str, Any] = {"store": None if store is None else str(store), "name": folder.name, "seed": 3}
    blank = {
        "name": "tiny",
        "status": "finished",
        "config_sha256": "c0ffee",
        "stages": {},
        "sessions": [],
        "lost": [],
        "refused": [],
        "items": None,
    }
    record = {
        **blank,
        "name": folder.name,
        "notice": NOTICE,
        "masks": [{"name": "gmw", "year": 2020}],
        "config": config,
    }
    (folder / "run.json").write_text(json.dumps(record))
    sample: Place = folder / "sample" if store is None else store / folder.name / "sample"
    for year, part in drawn.groupby("year"):
        points = gpd.points_from_xy(part["lon"], part["lat"])
        frame = gpd.GeoDataFrame(part.drop(columns="truth"), geometry=points, crs="EPSG:4326")
        write_part(frame, sample, tile="z48_c08_r-016", year=int(year))
    return folder


@pytest.fixture(scope="module")
def drawn() -> pd.DataFrame:
    return make_rows(600, regions=("A", "B"), wrong=0.05)


@pytest.fixture(scope="module")
def explored(drawn: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of an explored run, and what the command answered."""
    run = write_run(tmp_path_factory.mktemp("runs") / "tiny", drawn)
    answer = mangroves("explore", run, "--json")
    assert answer.code == 0, answer.err
    return run, json.loads(answer.out)


def test_every_table_and_figure_is_there_and_listed(explored):
    run, answer = explored
    files = {path.name for path in (run / "explore").iterdir()}
    tables, figures = {f"{name}.parquet" for name in TABLES}, {f"{name}.png" for name in FIGURES}
    assert files == tables | figures | {"summary.json", "README.md"}
    assert {file["table"] for file in answer["files"]} == tables
    assert {figure for file in answer["files"] for figure in file["figures"]} == figures
    page = (run / "explore" / "README.md").read_text(encoding="utf-8")
    assert all(name in page for name in tables | figures)
    assert answer["folder"] == str(run / "explore")
    assert json.loads((run / "explore" / "summary.json").read_text()) == {
        key: value for key, value in answer.items() if key != "folder"
    }


def test_every_table_says_its_population_its_label_and_the_notice(explored):
    run, answer = explored
    for name in TABLES:
        words = {
            key.decode(): text.decode()
            for key, text in pq.read_schema(run / f"explore/{name}.parquet").metadata.items()
        }
        assert words["mangroves.population"].startswith(("wall to wall", "as drawn")), name
        assert words["mangroves.label"] == answer["label"] == "mask (gmw)"
        assert words["mangroves.notice"] == NOTICE
        assert words["mangroves.examined"].startswith("600 of 600 rows: at most 10,000 of a region and class")
    assert NOTICE in (run / "explore" / "README.md").read_text(encoding="utf-8")


def test_the_figures_of_a_region_are_those_of_the_tables(explored, drawn):
    run, answer = explored
    read = {name: pd.read_parquet(run / "explore" / f"{name}.parquet") for name in TABLES}
    assert (answer["rows"], answer["rows_examined"], answer["years"]) == (600, 600, [2019, 2020])
    for region in answer["regions"]:
        here = drawn[drawn["region"] == region["region"]]
        mangrove = here[here["label"] == 2]
        assert region["mangrove_rows"] == len(mangrove)
        assert region["other_rows"] == len(here) - len(mangrove)
        assert region["mangrove_share"] == pytest.approx(mangrove["weight"].sum() / here["weight"].sum(), abs=1e-6)
        joint = read["separability"].set_index(["region", "feature"]).loc[(region["region"], JOINT), "jm"]
        assert region["jm_all_bands"] == pytest.approx(joint, abs=1e-6)
        apart = read["region_distances"].query("region == @region['region'] and against != @region['region']")
        assert region["unlikeness"] == pytest.approx(apart.groupby("class")["distance"].median().mean(), abs=1e-6)
        listed = read["outliers"].query("region == @region['region']")
        for name in ("mangrove", "other"):
            assert region[f"{name}_like_errors"] == (listed["class"] == name).sum()


def test_outliers_open_as_points_in_a_gis(explored):
    run, _ = explored
    outliers = gpd.read_parquet(run / "explore" / "outliers.parquet")
    assert len(outliers) > 0
    assert outliers.crs.to_epsg() == 4326
    assert (outliers.geometry.x == outliers["lon"]).all()


@pytest.mark.slow
def test_the_same_sample_gives_the_same_bytes(explored, drawn, tmp_path):
    run, _ = explored
    again = write_run(tmp_path / "tiny", drawn)
    assert mangroves("explore", again).code == 0
    for path in (run / "explore").iterdir():
        assert (again / "explore" / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.slow
def test_regions_and_the_notice_are_printed_and_rows_can_be_limited(explored, tmp_path):
    run = shutil.copytree(explored[0], tmp_path / "tiny")
    answer = mangroves("explore", run, "--rows", LEAST_ROWS)
    assert answer.code == 0, answer.err
    assert f"explore   {4 * LEAST_ROWS} of 600 rows, 2 regions" in answer.err
    assert NOTICE in answer.err
    assert "label: mask (gmw)" in answer.out
    [line] = [line for line in answer.out.splitlines() if line.startswith("│ A ")]
    summary = json.loads((run / "explore" / "summary.json").read_text())
    assert summary["most_rows_of_a_region_and_class"] == LEAST_ROWS
    cells = [cell.strip() for cell in line.strip("│").split("│")]
    first = summary["regions"][0]
    assert cells[1:3] == [str(first["mangrove_rows"]), str(first["other_rows"])], "counts are of all rows"
    assert cells[3] == f"{100 * first['mangrove_share']:.1f}"
    assert "figures and tables in" in answer.out


def test_a_tiny_sample_is_counted_and_nothing_else(tmp_path):
    run = write_run(tmp_path / "tiny", make_rows(6, regions=("A",)))
    answer = mangroves("explore", run, "--json")
    assert answer.code == 0, answer.err
    [region] = json.loads(answer.out)["regions"]
    assert region["mangrove_rows"] + region["other_rows"] == 6
    assert region["jm_all_bands"] is region["unlikeness"] is region["mangrove_like_errors"] is None


def test_what_is_missing_is_told_in_one_line(tmp_path, drawn):
    run = write_run(tmp_path / "tiny", drawn)
    part = next((run / "sample").glob("*.parquet"))
    part.write_bytes(part.read_bytes()[:400])
    assert "holds a part that is damaged; delete it and run mangroves sample" in mangroves("explore", run).error
    shutil.rmtree(run / "sample")
    assert "holds no sample; run mangroves sample first" in mangroves("explore", run).error
    assert not (run / "explore").exists()
    assert "run.json is not there; name the folder of a run" in mangroves("explore", tmp_path).error
    assert "give either the folder RUN of a run or its --config" in mangroves("explore").error
    assert "--rows" in mangroves("explore", run, "--rows", 3).error


@pytest.mark.slow
def test_a_sample_in_a_bucket_is_read_there_once_it_is_allowed(bucket, drawn, tmp_path):
    run = write_run(tmp_path / "tiny", drawn, store=bucket / "runs")
    assert f"store: {bucket}/runs is not allowed; if you trust it pass --allow-root" in mangroves("explore", run).error
    answer = mangroves("explore", run, "--allow-root", bucket / "runs", "--json")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["rows"] == 600
    assert (run / "explore" / "densities.png").is_file()


@pytest.mark.slow
def test_what_mangroves_sample_drew_is_explored_by_its_configuration(job):
    assert job.call("sample").code == 0
    answer = mangroves("explore", "--config", job.write(), "--json")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    rows = pd.concat(pd.read_parquet(path) for path in (job.run / "sample").glob("*.parquet"))
    assert found["rows"] == len(rows)
    assert {region["region"] for region in found["regions"]} == set(rows["region"])
    assert found["config_sha256"] == job.record["config_sha256"]
    assert job.call("sample").code == 0, "the run goes on with what was explored in its folder"
