"""``mangroves evaluate``: the command on a small run, and its page against its tables."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
import rasterio
from sklearn.metrics import precision_recall_fscore_support, roc_auc_score

from engine.model import load_model
from tests.jobs.calls import Job

NOTICE = "SIMULATED for a test"
BOTH = ("prevalence", "auc", "brier", "calibration_error")
"""Figures of both classes; the others are of mangrove where they do not say of which."""


@pytest.fixture(scope="module")
def evaluated(archive, tmp_path_factory):
    """A run that was evaluated from nothing, against truth too, and what the command said."""
    job = Job(tmp_path_factory.mktemp("evaluated"), archive)
    job.config["notice"] = NOTICE
    answer = job.call("evaluate", "--json", "--truth", archive.folder)
    assert answer.code == 0, answer.err
    return job, answer


@pytest.mark.slow
def test_the_page_and_its_figures_are_there_and_carry_the_notice(evaluated):
    job, answer = evaluated
    folder = job.run / "evaluate"
    page = (folder / "README.md").read_text(encoding="utf-8")
    assert NOTICE in page
    linked = re.findall(r"\]\(([^)]+)\)", page)
    assert {"confusion.png", "curves.png", "transfer_auc.png", "importance.png", "shap.png", "errors.png"} <= set(
        linked
    )
    assert {"map_sim-India.png", "metrics.parquet", "scores.parquet", "errors_truth.png"} <= set(linked)
    assert all((folder / name).is_file() for name in linked)
    assert json.loads(answer.out)["evaluation"] == str(folder)
    for path in folder.glob("*.parquet"):
        assert pyarrow.parquet.read_schema(path).metadata[b"mangroves.notice"].decode() == NOTICE
    assert json.loads((folder / "summary.json").read_text(encoding="utf-8"))["tags"]["notice"] == NOTICE


@pytest.mark.slow
def test_figures_of_the_summary_are_recomputed_from_the_scores(evaluated):
    job, answer = evaluated
    summary = json.loads(answer.out)
    model = load_model(job.run / "model")
    rows = pd.read_parquet(job.run / "evaluate" / "scores.parquet")
    assert summary["scope"] == "transfer: held-out regions"
    assert set(rows["region"]) == {"sim-India"}
    assert summary["thresholds"] == [model.threshold]
    called = rows["probability"] >= round(model.threshold * 10_000) / 10_000
    assert rows["mapped"].tolist() == called.tolist()
    for label, column in (("mask", "positive"), ("truth", "truth")):
        found = summary["figures"][label]["wall to wall"]["all regions"]
        precision, recall, f1, _ = precision_recall_fscore_support(
            rows[column], called, average="binary", sample_weight=rows["weight"], zero_division=np.nan
        )
        auc = roc_auc_score(rows[column], rows["probability"], sample_weight=rows["weight"])
        for name, value in (("auc", auc), ("recall", recall), ("f1", f1), ("precision", precision)):
            if np.isfinite(value):
                assert found[name]["value"] == pytest.approx(value, abs=1e-6), (label, name)
    of = pd.read_parquet(job.run / "evaluate" / "trial_figures.parquet")
    of = of[(of["kind"] == "all but one") & (of["name"] == of["region"]) & (of["name"] != "all regions")]
    assert summary["leave_one_region_out"]["mask"]["worst_auc"] == pytest.approx(of["auc"].min(), abs=1e-6)


@pytest.mark.slow
def test_the_page_shows_the_figures_of_the_tables(evaluated):
    job, answer = evaluated
    folder = job.run / "evaluate"
    sections = (folder / "README.md").read_text(encoding="utf-8").split("\n## ")
    metrics = pd.read_parquet(folder / "metrics.parquet").set_index(
        ["label", "population", "region", "class", "figure"]
    )

    def shown(label: str, population: str, region: str, figure: str) -> str:
        name = figure.removeprefix("other ").replace(" ", "_")
        kind = "other" if figure.startswith("other ") else "both" if name in BOTH else "mangrove"
        value, low, high = metrics.loc[(label, population, region, kind, name), ["value", "low", "high"]]
        if not np.isfinite(value):
            return "-"
        return f"{value:.3f}" + (f" ({low:.3f}-{high:.3f})" if np.isfinite(low) else "")

    checked = 0
    for label in ("mask", "truth"):
        for title, of in (("All regions", "populations"), ("By region, wall to wall", "figures")):
            [section] = [one for one in sections if one.startswith(f"{title}, against the {label}")]
            header, _, *lines = [
                [cell.strip() for cell in line.strip("|").split("|")]
                for line in section.splitlines()
                if line[:1] == "|"
            ]
            for line in lines:
                for column, cell in zip(header[1:], line[1:], strict=True):
                    where = (
                        (column, "all regions", line[0]) if of == "populations" else ("wall to wall", line[0], column)
                    )
                    assert cell == shown(label, *where), (label, *where)
                    checked += 1
    assert checked > 100
    table = pd.read_parquet(folder / "trial_figures.parquet")
    for split in json.loads(answer.out)["splits"]:
        same = table[(table["kind"] == split["kind"]) & (table["name"] == split["name"])]
        same = same[(same["region"] == "all regions") & (same["label"] == split["label"])]
        assert split["auc"] == pytest.approx(same["auc"].item(), abs=1e-6)


@pytest.mark.slow
def test_errors_against_truth_are_parted_by_the_class_of_truth(evaluated):
    job, _ = evaluated
    rows = pd.read_parquet(job.run / "evaluate" / "scores.parquet")
    errors = pd.read_parquet(job.run / "evaluate" / "errors.parquet")
    names = {one["code"]: one["name"] for one in json.loads((job.archive.folder / "world.json").read_text())["classes"]}
    kind, truth = np.empty(len(rows), object), np.empty(len(rows), bool)
    for year in (2016, 2017):
        with rasterio.open(job.archive.truth("sim-India", year)) as raster:
            here = (rows["year"] == year).to_numpy()
            top, left = round((15 - raster.bounds.top) / 30), round((raster.bounds.left - 15) / 30)
            at = rows["grid_row"][here] - top, rows["grid_col"][here] - left
            kind[here], truth[here] = [names[code] for code in raster.read(1)[at]], raster.read(2)[at] == 1
    alarm = (rows["probability"] >= load_model(job.run / "model").threshold).to_numpy() & ~truth
    expected = rows["weight"][alarm].groupby(kind[alarm]).sum()
    some = errors[(errors["label"] == "truth") & (errors["region"] == "sim-India") & (errors["error"] == "false alarm")]
    found = some[(some["by"] == "truth class") & (some["weight"] > 0)].set_index("value")["weight"]
    assert found.to_dict() == pytest.approx(expected.to_dict())


def test_a_folder_that_is_no_world_is_told_before_anything_runs(job, tmp_path):
    answer = job.call("evaluate", "--truth", tmp_path)
    assert answer.error == f"error: no finished simulated archive in {tmp_path}; write one with `mangroves simulate`"
    assert not job.run.exists()


@pytest.mark.slow
def test_an_evaluation_is_recorded_and_repeats(evaluated):
    job, _ = evaluated
    assert "evaluate" in job.record["stages"]
    before = {path.name: path.read_bytes() for path in (job.run / "evaluate").iterdir()}
    again = job.call("evaluate", "--truth", job.archive.folder)
    assert again.code == 0, again.err
    assert "leave one region out" in again.out + again.err
    assert {path.name: path.read_bytes() for path in (job.run / "evaluate").iterdir()} == before


@pytest.mark.long
def test_without_a_hold_out_regions_are_judged_by_models_of_the_others(job):
    job.config["train"] |= {"hold_out": [], "rounds": 4}
    job.config["years"] = [2016]
    answer = job.call("evaluate", "--json")
    assert answer.code == 0, answer.err
    summary = json.loads(answer.out)
    assert (
        summary["scope"] == "transfer: folds of regions, each by a model, a calibration and a threshold of the others"
    )
    assert set(summary["figures"]["mask"]) == {"wall to wall", "eroded"}, "the scored rows were chosen anew"
    rows = pd.read_parquet(job.run / "evaluate" / "scores.parquet")
    low, high = sorted(summary["thresholds"])
    assert low <= rows.loc[rows["mapped"], "probability"].min() <= high + 1e-9
    assert set(rows["region"]) == {"sim-India", "sim-Vietnam2"}
    page = (job.run / "evaluate" / "README.md").read_text(encoding="utf-8")
    assert "map_sim-India.png" in page
    assert "map_sim-Vietnam2.png" in page
    assert "no figure is of rows as drawn" in page
