"""``mangroves sample``: thinned composites, what is drawn anew, and scenes that cannot be read again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from engine.sample import read_sample
from engine.simulate import Archive, WorldParams, read_archive, write_archive
from tests.jobs.calls import Job, config_of, mangroves

WORLD = WorldParams(regions=("Vietnam2",), years=(2016,), size_px=96, scenes_per_year=8, mask_years=(2015,))


@pytest.fixture(scope="module")
def looks(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """A year with enough looks to choose among; not to be changed."""
    return write_archive(WORLD, tmp_path_factory.mktemp("looks") / "archive")


@pytest.fixture(scope="module")
def thinned(looks: Archive, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A sample with two thinned composites; not to be changed."""
    job = job_of(looks, tmp_path_factory.mktemp("thinned"))
    job.config["sample"]["thinned"] = 2
    answer = job.call("sample")
    assert answer.code == 0, answer.err
    return job


def job_of(archive: Archive, folder: Path) -> Job:
    config = config_of(archive)
    config["labels"].pop("stable_between")
    config["train"].pop("hold_out")
    return Job(folder, archive, config)


def table(job: Job) -> pd.DataFrame:
    sample = read_sample(job.run / "sample").compute()
    return pd.DataFrame(sample.drop(columns="geometry"))


def test_a_thinned_sample_is_the_plain_one_and_more_rows_of_the_same_pixels(thinned, looks, tmp_path):
    job = job_of(looks, tmp_path)
    job.config["sample"]["thinned"] = 0
    answer = job.call("sample")
    assert answer.code == 0, answer.err
    plain = table(job)
    assert not plain.thinned.any()
    rows = table(thinned)
    pd.testing.assert_frame_equal(rows[~rows.thinned].reset_index(drop=True), plain.reset_index(drop=True))
    more = rows[rows.thinned]
    (there,) = set(plain.looks)
    assert 3 < there <= 8
    assert more.looks.between(3, there - 1).all()
    key = ["tile", "year", "grid_row", "grid_col"]
    pixels = plain.set_index(key)
    assert set(map(tuple, more[key].to_numpy())) <= set(pixels.index)
    assert 0.8 < len(more) / (2 * len(plain)) < 1, "not all are observed"
    counts = thinned.record["stages"]["sample"]["counts"]
    assert (counts["rows"], counts["thinned_rows"]) == (len(plain), len(more))


def test_why_is_stored_once_a_kind(thinned):
    part = next((thinned.run / "sample").glob("*.parquet"))
    column = pq.ParquetFile(part).metadata.row_group(0)
    (why,) = [column.column(i) for i in range(column.num_columns) if column.column(i).path_in_schema == "why"]
    assert why.has_dictionary_page
    assert why.total_compressed_size < 0.05 * column.total_byte_size
    frame = pd.read_parquet(part, columns=["why", "sensor", "region"])
    assert frame.why.str.contains(r" px of sim-\w+ in this tile and year").all()
    assert frame.sensor.str.fullmatch(r"L\d(\+L\d)*").all()


@pytest.mark.slow
def test_a_scene_that_is_gone_after_the_cube_is_one_line_or_left_out(looks, tmp_path):
    shutil.copytree(looks.items.parent, tmp_path / "archive")
    own_job = job_of(read_archive(tmp_path / "archive"), tmp_path)
    assert own_job.call("cube").code == 0
    paths = sorted(own_job.archive.items.parent.glob("scenes/**/*red*.tif")) or sorted(
        own_job.archive.items.parent.glob("scenes/**/*B4*.TIF", case_sensitive=False)
    )
    held = [(path, path.read_bytes()) for path in paths]
    for path in paths:
        path.write_bytes(b"II*\0")
    line = own_job.call("sample").error
    assert "asset red" in line
    assert "--skip-bad" in line
    answer = own_job.call("sample", "--skip-bad")
    assert answer.code == 0, answer.err
    assert "thinned composites went without" in answer.err
    assert {loss["cause"][:25] for loss in own_job.record["lost"]} == {"thinned composites, red: "}
    assert not table(own_job).thinned.any()
    assert "sample    1 of 1 tile-years finished earlier" in own_job.call("sample", "--skip-bad").err
    for path, whole in held:
        path.write_bytes(whole)
    assert own_job.call("sample").code == 0
    assert own_job.record["lost"] == []
    assert table(own_job).thinned.any()


@pytest.mark.slow
def test_a_thinned_sample_does_not_depend_on_cluster_workers_or_blocks(tmp_path):
    world = WorldParams(
        regions=("Vietnam2", "India"), years=(2016,), size_px=272, scenes_per_year=8, mask_years=(2015,)
    )
    archive = write_archive(world, tmp_path / "archive")
    profiles = tmp_path / "profiles.yaml"
    profiles.write_text("profiles: {two: {kind: local, workers: 2}, threads: {kind: threads}}")
    first = None
    for name, cluster, block_px in (("whole", "threads", 2048), ("blocks", "threads", 256), ("two", "two", 256)):
        (tmp_path / name).mkdir()
        job = job_of(archive, tmp_path / name)
        job.config["cube"] = {"block_px": block_px}
        job.config["sample"]["thinned"] = 2
        answer = mangroves(*job.arguments("sample", "--cluster-file", profiles, cluster=cluster))
        assert answer.code == 0, answer.err
        drawn = table(job)
        assert drawn.thinned.any()
        first = drawn if first is None else first
        pd.testing.assert_frame_equal(drawn, first)
