"""Odd inputs are mapped as if they were not odd, or refused in one line; none is silently empty."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from engine.simulate import WorldParams, read_archive, write_archive
from tests.faults.promises import Promises
from tests.jobs.calls import Job, markers

WORLD = WorldParams(regions=("Vietnam2",), years=(2016,), size_px=64, scenes_per_year=2, mask_years=(2015, 2018))


def _items(edit: Callable[[dict[str, Any]], Any]) -> Callable[[Job], None]:
    return lambda job: job.edit_items(edit)


def _properties(**values: Any) -> Callable[[Job], None]:
    return _items(lambda item: item["properties"].update({name.replace("__", ":"): x for name, x in values.items()}))


def _area(*bbox: float) -> Callable[[Job], None]:
    return lambda job: job.config.update(area={"bbox": list(bbox)})


def _twice(job: Job) -> None:
    content = json.loads(job.archive.items.read_text())
    content["features"] *= 2
    job.archive.items.write_text(json.dumps(content))


def _nothing_seen(job: Job) -> None:
    for path in job.archive.items.parent.rglob("*.TIF"):
        with rasterio.open(path, "r+") as raster:
            raster.write(np.full(raster.shape, 1 if "QA_PIXEL" in path.name else 0, "uint16"), 1)


def _bow_tie(job: Job) -> None:
    ring = [[104.0, 8.0], [105.0, 9.0], [105.0, 8.0], [104.0, 9.0], [104.0, 8.0]]
    shape = {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring[:2]]}}
    path = job.folder / "tie.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [shape]}))
    job.config["area"] = {"file": str(path)}


REFUSED: dict[str, Callable[[Job], None]] = {
    "an empty search": lambda job: job.config["search"].update(platforms=["landsat-4"]),
    "the antimeridian without a scene": _area(179.95, -16.1, -179.95, -16.0),
    "the pole": _area(10.0, 85.0, 10.1, 85.1),
    "open sea": _area(-30.2, -0.2, -30.0, 0.0),
    "no time": _properties(datetime=None, start_datetime=None, end_datetime=None),
    "assets without href": _items(lambda item: item["assets"]["red"].pop("href")),
    "a code that puts scenes on another continent": _properties(proj__epsg=32720, proj__code="EPSG:32720"),
    "tier 2 only": _properties(landsat__collection_category="T2"),
    "an invalid polygon": _bow_tie,
    "a year without scenes": lambda job: job.config.update(years=[2016, 2019]),
    "a footprint of NaN": _items(lambda item: (item.update(bbox=[float("nan")] * 4), item.pop("geometry"))),
    "two ways to say where": lambda job: job.config["area"].update(bbox=[0, 0, 1, 1]),
}
MAPPED: dict[str, Callable[[Job], None]] = {
    "items without bbox": _items(lambda item: item.pop("bbox", None)),
    "the same scene on two pages": _twice,
}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_archive(WORLD, tmp_path_factory.mktemp("world") / "archive").items.parent


def job_of(archive: Path, folder: Path) -> Job:
    shutil.copytree(archive, folder / "archive")
    return Job(folder, read_archive(folder / "archive"))


def test_one_odd_input_is_refused(archive: Path, tmp_path: Path) -> None:
    job = job_of(archive, tmp_path)
    REFUSED["no time"](job)
    assert "; " in job.call("search").error


@pytest.mark.faults
def test_odd_inputs_are_mapped_or_refused(archive: Path, tmp_path: Path, promise: Promises) -> None:
    plain = job_of(archive, tmp_path / "plain")
    assert plain.call("cube").code == 0
    for name, make in REFUSED.items():
        with promise("R13", name):
            job = job_of(archive, tmp_path / name)
            make(job)
            assert "; " in job.call("cube").error
            assert not markers(job.run)
    for name, make in MAPPED.items():
        with promise("R13", name):
            job = job_of(archive, tmp_path / name)
            make(job)
            answer = job.call("cube")
            assert answer.code == 0, answer.err
            assert markers(job.run) == markers(plain.run)
    with promise("R13", "scenes of no data"):
        job = job_of(archive, tmp_path / "nothing")
        _nothing_seen(job)
        answer = job.call("cube")
        assert answer.code != 0 or "are poor, less than half seen well" in answer.err
