"""Odd inputs give the very pixels they would give if they were not odd, or are refused for what is odd in them.

None is silently empty: of each it is written here which pixels come, or which words.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
import xarray as xr
from affine import Affine
from rasterio.warp import transform, transform_bounds

from engine.kernels.features import COMPOSITE_FEATURES
from engine.params import TrainParams
from engine.simulate import WorldParams, read_archive, write_archive
from engine.train import train_model
from tests.engine.samples import make_sample
from tests.faults.promises import Promises
from tests.jobs.calls import Job, mangroves, markers

WORLD = WorldParams(regions=("Vietnam2",), years=(2016,), size_px=64, scenes_per_year=2, mask_years=(2015, 2018))

Edit = Callable[[Job], Any]


def _items(edit: Callable[[dict[str, Any]], Any]) -> Edit:
    return lambda job: job.edit_items(edit)


def _properties(**values: Any) -> Edit:
    return _items(lambda item: item["properties"].update({name.replace("__", ":"): x for name, x in values.items()}))


def _area(*bbox: float) -> Edit:
    return lambda job: job.config.update(area={"bbox": list(bbox)})


def _more_items(job: Job, edit: Callable[[dict[str, Any]], Any]) -> None:
    """Put a changed copy before and behind each item of the archive."""
    content = json.loads(job.archive.items.read_text())
    changed = copy.deepcopy(content["features"])
    for item in changed:
        edit(item)
    content["features"] = [*changed, *content["features"], *changed]
    job.archive.items.write_text(json.dumps(content))


def _other_pixels(item: dict[str, Any], job: Job, old: str, new: str) -> None:
    """Have an item name files of its own, which show something else."""
    for asset in item["assets"].values():
        if old in asset["href"] and asset["href"].endswith(".TIF"):
            source = job.archive.items.parent / asset["href"]
            asset["href"] = asset["href"].replace(old, new)
            path = job.archive.items.parent / asset["href"]
            path.parent.mkdir(exist_ok=True)
            shutil.copyfile(source, path)
            if "SR_B" in path.name:
                _overwrite(path, 9000)


def _overwrite(path: Path, value: int) -> None:
    with rasterio.open(path, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as raster:
        raster.write(np.full(raster.shape, value, raster.dtypes[0]), 1)


def _processed_before(job: Job) -> None:
    def before(item: dict[str, Any]) -> None:
        _other_pixels(item, job, "_20160225_", "_20160220_")
        item["properties"]["created"] = "2016-02-20T00:00:00Z"

    _more_items(job, before)


def _tier_2_too(job: Job) -> None:
    _more_items(job, lambda item: (_other_pixels(item, job, "_T1", "_T2"), _as_tier_2(item)))


def _as_tier_2(item: dict[str, Any]) -> None:
    item["id"] = item["id"].replace("_T1", "_T2")
    item["properties"]["landsat:collection_category"] = "T2"


def _nothing_seen(job: Job) -> None:
    for path in job.archive.items.parent.rglob("*.TIF"):
        _overwrite(path, 1 if "QA_PIXEL" in path.name else 0)


def _ring(job: Job, ring: list[Any]) -> None:
    shape = {"type": "Feature", "properties": {"name": "x"}, "geometry": {"type": "Polygon", "coordinates": [ring]}}
    path = job.folder / "ring.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [shape]}))
    job.config["area"] = {"file": str(path), "name_field": "name"}


def _spike(job: Job) -> None:
    [region] = gpd.read_file(job.archive.regions).geometry
    first, *rest = shapely.get_coordinates(region).tolist()
    _ring(job, [first, [first[0] + 0.001, first[1] - 0.001], first, *rest])


REFUSED: dict[str, tuple[Edit, str]] = {
    "an empty search": (lambda job: job.config["search"].update(platforms=["landsat-4"]), "left out: platform landsat"),
    "the antimeridian without a scene": (_area(179.95, -16.1, -179.95, -16.0), "2 left out: outside the area"),
    "the pole": (_area(10.0, 85.0, 10.1, 85.1), "2 left out: outside the area"),
    "open sea": (_area(-30.2, -0.2, -30.0, 0.0), "2 left out: outside the area"),
    "no time": (_properties(datetime=None, start_datetime=None, end_datetime=None), "datetime is null"),
    "assets without href": (_items(lambda item: item["assets"]["red"].pop("href")), "no href for asset red"),
    "a code that puts scenes on another continent": (
        _properties(proj__epsg=32720, proj__code="EPSG:32720"),
        "southern code EPSG:32720 off the Landsat grid",
    ),
    "tier 2 only": (_items(_as_tier_2), "2 left out: tier T2; widen"),
    "a tier against the name": (_properties(landsat__collection_category="T2"), "contradict the name"),
    "a ring of two points": (lambda job: _ring(job, [[104.0, 8.0], [105.0, 9.0]]), "cannot be read as polygons"),
    "a year without scenes": (lambda job: job.config.update(years=[2016, 2019]), "no scene in 2019; take these out"),
    "a footprint of NaN": (
        _items(lambda item: (item.update(bbox=[float("nan")] * 4), item.pop("geometry"))),
        "item is malformed",
    ),
    "two ways to say where": (
        lambda job: job.config["area"].update(bbox=[0, 0, 1, 1]),
        "give exactly one of bbox, point, file, regions",
    ),
}
"""What to do to a run, and the words by which `mangroves cube` refuses it."""

AS_PLAIN: dict[str, Edit] = {
    "items without bbox": _items(lambda item: item.pop("bbox", None)),
    "the same scene on two pages": lambda job: _more_items(job, lambda item: None),
    "one acquisition processed twice": _processed_before,
    "tier 2 beside tier 1": _tier_2_too,
    "a ring with a spike": _spike,
}
"""What to do to a run; its pixels are those of the run without it."""


def _move(job: Job, epsg: int, east: float) -> None:
    """Move the scenes to another zone by metres, and the area with them as a box in degrees."""
    with rasterio.open(next(job.archive.items.parent.rglob("*SR_B2.TIF"))) as raster:
        here = raster.crs
    [region] = gpd.read_file(job.archive.regions).to_crs(here).geometry
    west, south, right, north = region.buffer(-300).bounds
    box = transform_bounds(f"EPSG:{epsg}", "OGC:CRS84", west + east, south, right + east, north)
    for path in job.archive.items.parent.rglob("*.TIF"):
        with rasterio.open(path, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as raster:
            raster.transform = Affine.translation(east, 0) @ raster.transform
            raster.crs = f"EPSG:{epsg}"

    def moved(item: dict[str, Any]) -> None:
        about = item["properties"]
        about["proj:epsg"] = epsg
        about["proj:transform"][2] += east
        item.pop("bbox")
        (height, width), (_, _, left, _, _, top) = about["proj:shape"], about["proj:transform"][:6]
        corners = [(left, left, left + 30 * width, left + 30 * width), (top, top - 30 * height, top - 30 * height, top)]
        longitudes, latitudes = transform(f"EPSG:{epsg}", "OGC:CRS84", *corners)
        item["geometry"] = shapely.geometry.mapping(shapely.Polygon(zip(longitudes, latitudes, strict=True)))

    job.edit_items(moved)
    job.config["area"] = {"bbox": list(box)}


def _cubes(job: Job) -> dict[str, xr.Dataset]:
    """Return the stores of a run, loaded, by the zone of their tile."""
    found = {}
    for path in (job.run / "cube").rglob("*.zarr"):
        with xr.open_zarr(path, mask_and_scale=False) as data:
            found[path.parent.name[:3]] = data.load()
    return found


def assert_moved(job: Job, plain: xr.Dataset, own: str, other: str, east: float) -> None:
    """Hold that one tile has the pixels of the scenes, and the tile of the zone beside it the same land."""
    answer = job.call("cube")
    assert answer.code == 0, answer.err
    cubes = _cubes(job)
    assert set(cubes) == {own, other}
    expected = plain.assign_coords(x=plain.x + east)
    here, there = xr.align(cubes[own], expected, join="inner")
    assert here.sizes["x"] >= 5
    assert (here.clear_count > 0).mean() > 0.5
    xr.testing.assert_equal(here.composite, there.composite)
    seen = (cubes[other].clear_count > 0).to_numpy()
    assert seen.mean() > 0.25
    values = cubes[other].composite.to_numpy()[:, seen]
    known = plain.composite.to_numpy()[:, (plain.clear_count > 0).to_numpy()]
    assert np.isin(values, np.unique(known)).mean() > 0.95


def _sample(job: Job, folder: Path, values: np.ndarray, profile: dict[str, Any], **mask: Any) -> pd.DataFrame | str:
    """Return the sample drawn by a mask raster, or why none is."""
    path = folder / "mask.tif"
    with rasterio.open(path, "w", **profile) as raster:
        raster.write(values, 1)
    job.config["labels"] = {"masks": [{"path": str(path), "year": 2016, **mask}], "erode_px": 0}
    job.write()
    answer = mangroves(*job.arguments("sample"), "--allow-root", folder)
    if answer.code:
        return answer.error
    return pd.concat([pd.read_parquet(path) for path in sorted(job.run.rglob("sample*/**/*.parquet"))])


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_archive(WORLD, tmp_path_factory.mktemp("world") / "archive").items.parent


def job_of(archive: Path, folder: Path) -> Job:
    shutil.copytree(archive, folder / "archive")
    return Job(folder, read_archive(folder / "archive"))


def test_one_odd_input_is_refused(archive: Path, tmp_path: Path) -> None:
    job = job_of(archive, tmp_path)
    edit, words = REFUSED["no time"]
    edit(job)
    assert words in job.call("search").error


@pytest.mark.faults
def test_odd_inputs_are_mapped_or_refused(archive: Path, tmp_path: Path, promise: Promises) -> None:
    plain = job_of(archive, tmp_path / "plain")
    assert plain.call("cube").code == 0
    [cube] = _cubes(plain).values()
    assert (cube.clear_count > 0).mean() > 0.5
    for name, (make, words) in REFUSED.items():
        with promise("R13", name):
            job = job_of(archive, tmp_path / name)
            make(job)
            assert words in job.call("cube").error
            assert not markers(job.run)
    for name, make in AS_PLAIN.items():
        with promise("R13", name):
            job = job_of(archive, tmp_path / name)
            make(job)
            answer = job.call("cube")
            assert answer.code == 0, answer.err
            assert markers(job.run) == markers(plain.run)
    # Easting of 180 degrees in zone 1, and of 108 degrees in zone 49, at this latitude; less the middle of the scenes.
    east = 169_950.0 - 498_240.0
    for name, epsg, own, other in (
        ("two zones", 32649, "z49", "z48"),
        ("a scene on the antimeridian", 32601, "z01", "z60"),
    ):
        with promise("R13", name):
            job = job_of(archive, tmp_path / name)
            _move(job, epsg, east)
            assert_moved(job, cube, own, other, east)


@pytest.mark.faults
def test_what_is_not_seen_or_not_known_is_no_training(archive: Path, tmp_path: Path, promise: Promises) -> None:
    with promise("R13", "scenes of no data"):
        job = job_of(archive, tmp_path / "nothing")
        _nothing_seen(job)
        answer = job.call("cube")
        assert "1 of 1 tile-years are poor" in answer.err
        assert pd.read_csv(job.run / "years.csv").observed_share.tolist() == [0]
        assert "no labelled pixel was observed" in job.call("sample").error
    with rasterio.open(archive / "truth" / "sim-Vietnam2_2016.tif") as truth:
        mangrove = truth.read(2)
        profile = {**truth.profile, "driver": "GTiff", "count": 1, "nodata": None}
    holes = mangrove.copy()
    holes[:, : holes.shape[1] // 2] = 255
    drawn = {}
    for name, values, nan in (("holes", holes, False), ("nan", holes, True), ("none", np.zeros_like(mangrove), False)):
        job = job_of(archive, tmp_path / name)
        as_float = np.where(values == 255, np.nan, values).astype("float32")
        kind = {"dtype": "float32" if nan else "uint8"}
        drawn[name] = _sample(
            job, tmp_path, as_float if nan else values, profile | kind, **({} if nan else {"unknown": [255]})
        )
    with promise("R13", "a mask without mangrove"):
        assert "has no mangrove pixel anywhere" in str(drawn["none"])
    with promise("R13", "NaN in a mask"):
        assert not isinstance(drawn["holes"], str), drawn["holes"]
        assert len(drawn["holes"]) > 100
        pd.testing.assert_frame_equal(drawn["nan"], drawn["holes"])


@pytest.mark.faults
def test_rows_of_nan_get_no_class(tmp_path: Path, promise: Promises) -> None:
    sample, params = make_sample(1200), TrainParams(rounds=4, max_depth=3)
    train_model(sample, features=COMPOSITE_FEATURES, params=params).model.save(tmp_path / "model")
    values = np.random.default_rng(1).integers(7500, 20_000, (40, 6)).astype("float64")
    table = pd.DataFrame(values, columns=["blue", "green", "red", "nir08", "swir16", "swir22"])
    table.to_csv(tmp_path / "whole.csv", index=False)
    odd = [3, 7, 8, 9]
    table.loc[3, "nir08"] = np.nan
    table.loc[odd[1:]] = np.nan
    table.to_csv(tmp_path / "holes.csv", index=False)
    with promise("R13", "NaN in a table to predict"):
        answers = [mangroves("predict", tmp_path / "model", tmp_path / f"{name}.csv") for name in ("whole", "holes")]
        assert not any(answer.code for answer in answers), answers[1].err
        assert f"{len(odd)} without bands" in answers[1].out
        columns = ["probability", "class"]
        whole, holes = (pd.read_csv(tmp_path / f"{name}-predicted.csv") for name in ("whole", "holes"))
        assert holes.loc[odd, columns].isna().all(axis=None), holes.loc[odd].to_string()
        pd.testing.assert_frame_equal(holes.drop(odd)[columns], whole.drop(odd)[columns], check_dtype=False)
