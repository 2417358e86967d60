"""An output made again from its lineage: equal, or what differs is named; and what an item may not ask for."""

from __future__ import annotations

import json
import shutil

import pytest
import rasterio

from engine.scenes import read_scenes
from tests.jobs.calls import Job, mangroves, markers


def item_of(job: Job, product: str, part: str = ""):
    [path, *_] = (
        p for p in sorted((job.run / "stac" / product).glob("*.json")) if p.name != "collection.json" and part in p.name
    )
    return path


def reproduce(job: Job, item, *more):
    roots = ("--allow-root", job.archive.items.parent)
    return mangroves("reproduce", item, "--cluster", "threads", "--out", job.folder / "again", *roots, *more)


@pytest.mark.parametrize("product", ["cubes", "maps", pytest.param("changes", marks=pytest.mark.slow)])
def test_an_output_made_again_is_equal(finished, tmp_path, product):
    job = Job(tmp_path, finished.archive)
    before = markers(finished.run)
    answer = reproduce(job, item_of(finished, product, "z48"), "--json")
    assert answer.code == 0, answer.err
    content = json.loads(answer.out)
    assert content["differs"] == []
    assert content["rerun"].startswith("2 cubes" if product == "changes" else "1 cubes")
    assert markers(finished.run) == before
    new = markers(job.folder / "again" / "tiny")
    assert new.items() <= before.items()


@pytest.mark.slow
def test_an_altered_scene_is_noticed_and_named(own_job):
    assert own_job.call("run").code == 0
    part = next(s for s in read_scenes(own_job.run / "items.parquet") if s.datetime.year == 2016)
    with rasterio.open(part.assets["red"]) as source:
        profile, values = source.profile, source.read()
    values[values > 0] += 500
    with rasterio.open(part.assets["red"], "w", **profile) as target:
        target.write(values)
    tile = next(p for p in (own_job.run / "cube").glob("*/2016.json") if part.id in json.loads(p.read_text())["scenes"])
    item = item_of(own_job, "maps", f"{tile.parent.name}_2016")
    answer = reproduce(own_job, item)
    assert answer.code == 1
    assert "Traceback" not in answer.err
    assert f"cube {tile.parent.name}/2016" in answer.out
    assert f"scene {part.id}, asset red" in answer.out
    assert "differs" in answer.out.splitlines()[-1]
    (own_job.folder / "again").rename(own_job.folder / "first")
    cube = reproduce(own_job, item_of(own_job, "cubes", f"{tile.parent.name}_2016"))
    assert "layer composite" in cube.out


def test_what_cannot_be_made_again_is_refused_in_one_line(finished_copy, tmp_path):
    job = finished_copy
    item = item_of(job, "maps")
    assert "are not made again alone" in reproduce(job, item_of(job, "summaries")).error
    (job.folder / "again").mkdir()
    (job.folder / "again" / "mine.txt").write_text("mine")
    assert "nothing is overwritten" in reproduce(job, item).error
    shutil.rmtree(job.folder / "again")
    content = json.loads(item.read_text())

    def with_property(**changed: str) -> None:
        properties = {**content["properties"], **{f"mangroves:{key}": value for key, value in changed.items()}}
        item.write_text(json.dumps({**content, "properties": properties}))

    with_property(engine_sha256="0" * 64)
    assert "was made by other code" in reproduce(job, item).error
    with_property(config_sha256="0" * 64)
    assert "another configuration" in reproduce(job, item).error
    with_property(model_sha256="0" * 64)
    assert "is not that of" in reproduce(job, item).error
    shutil.rmtree(job.folder / "again")
    with_property(tile="../../etc")
    assert "is not the item of an output" in reproduce(job, item).error
    item.write_text("[" * 100_000)
    assert "is not JSON" in reproduce(job, item).error
    assert "is not there" in mangroves("reproduce", _elsewhere(item, content, tmp_path), "--cluster", "threads").error


def _elsewhere(item, content, tmp_path):
    other = tmp_path / "elsewhere" / "stac" / "maps" / item.name
    other.parent.mkdir(parents=True)
    other.write_text(json.dumps(content))
    return other


def test_scenes_outside_what_is_allowed_are_not_read(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = mangroves("reproduce", item_of(finished, "cubes"), "--cluster", "threads")
    assert "lies outside the allowed folders" in answer.error


@pytest.mark.slow
def test_a_model_made_again_is_equal(finished, tmp_path):
    job = Job(tmp_path, finished.archive)
    item = next(
        p for p in sorted((finished.run / "stac" / "models").glob("mangroves-*.json")) if "ndvi_p10" in p.read_text()
    )
    answer = reproduce(job, item)
    assert answer.code == 0, answer.err
    assert "is equal" in answer.out
