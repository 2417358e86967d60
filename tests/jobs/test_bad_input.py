"""Whatever is wrong with a run's input ends in one line and a non-zero exit, and leaves nothing to be trusted."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from shapely.geometry import box

from tests.jobs.calls import Job, mangroves, markers


def stores(job: Job) -> list[Path]:
    """Return every file a later run would trust: completion markers, rasters, models, samples."""
    kinds = ("cube", "sample", "maps", "change", "model")
    return [path for kind in kinds for path in (job.run / kind).rglob("*") if path.suffix != ".zarr" and path.is_file()]


def a_band(job: Job) -> Path:
    """Return the near infrared of one scene."""
    return sorted(job.archive.items.parent.rglob("*_SR_B5.TIF"))[0]


# Configuration


def test_a_missing_configuration_is_named(tmp_path):
    assert f"config {tmp_path / 'none.yaml'} cannot be read" in mangroves("run", tmp_path / "none.yaml").error
    assert "no configuration given" in mangroves("run").error


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("yeers", [2016], "unknown key 'yeers'; did you mean 'years'?"),
        ("search.platform", ["landsat-8"], "unknown key 'search.platform'; did you mean 'platforms'?"),
        ("cube.zzz", 1, "unknown key 'cube.zzz'; known keys are composite, keep, block_px, requests"),
        ("labels.masks", [{"path": "a.tif", "year": 2016, "values": 1}], "unknown key 'labels.masks.0.values'"),
        ("years", "soon", "years must be a list or 'first-last', got 'soon'"),
        ("years", "1988-99999999999", "years must be a list or 'first-last'"),
        ("years", None, "years"),
        ("years", 1850, "greater than or equal to 1982"),
        ("name", "../x", "name must be letters, digits"),
        ("name", "a/b", "name must be letters, digits"),
        ("area", {}, "give exactly one of bbox, point, file, regions; got none"),
        ("area", {"bbox": [0, 10, 1, -10]}, "bbox must be west, south, east, north in degrees"),
        ("area", {"regions": ["Atlantis"]}, "unknown region 'Atlantis'"),
        ("sample.years", [2031], "sample.years names 2031, which is not among years"),
        ("dates", {2031: ["2031-01-01", "2031-12-31"]}, "dates names 2031, which is not among years"),
        ("dates", {2016: ["2016-12-31", "2016-01-01"]}, "dates of 2016 must be first and last day"),
        ("season", ["13-01", "12-31"], "season must be two MM-DD days"),
        ("season", ["02-30", "12-31"], "02-30 is not a day"),
        ("cube.block_px", 300, "cube.block_px"),
        ("search.platforms", ["landsat-42"], "unknown platform"),
        ("out", "s3://bucket/x", "out 's3://bucket/x' is not a folder"),
        ("out", "/etc/x", "out: /etc/x lies outside the allowed folders"),
        ("out", "../../..", "lies outside the allowed folders"),
        ("labels.masks", [{"path": "/etc/passwd", "year": 2016}], "/etc/passwd lies outside the allowed folders"),
        ("labels.masks", [{"path": "../../m.tif", "year": 2016}], "m.tif lies outside the allowed folders"),
        ("labels.masks", [{"path": "/vsicurl/http://x/m.tif", "year": 2016}], "is not a plain file path"),
        ("area", {"file": "/etc/hostname"}, "/etc/hostname lies outside the allowed folders"),
        ("search.catalogs", ["file:///etc/passwd"], "catalog"),
        ("search.catalogs", ["https://example.com/stac"], "host example.com is not allowed"),
        ("search.catalogs", ["http://169.254.169.254/"], "not allowed"),
        ("train.from", "/srv/model", "lies outside the allowed folders"),
        ("change.pairs", [[2016, 2099]], "2099"),
        ("train.hold_out", ["Nowhere"], "train.hold_out"),
    ],
)
def test_a_wrong_key_or_value_is_named(job, key, value, expected, monkeypatch):
    monkeypatch.chdir(job.folder)
    if key == "labels.masks":
        del job.config["labels"]["stable_between"]
    *path, last = key.split(".")
    section = job.config
    for part in path:
        section = section.setdefault(part, {})
    section[last] = value
    assert expected in job.call("run").error
    assert not stores(job)
    assert not (job.folder.parent / "x").exists()


def bomb(form: str) -> str:
    """Return lines that each hold the line before ten times."""
    pairs = zip("abcdefgh", "bcdefghi", strict=True)
    return "".join(f"{new}: &{new} {form.format(', '.join([f'*{old}'] * 10))}\n" for old, new in pairs)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is not a mapping of sections"),
        ("- a\n- b\n", "is not a mapping of sections"),
        ("a: [", "is not YAML"),
        ("area: !!python/object/apply:os.system ['touch owned']\n", "is not YAML"),
        ("\x00", "is not YAML"),
        ("[" * 1500, "nested deeper than 32 levels"),
        ("a: &a [x,x,x,x,x,x,x,x,x,x]\n" + bomb("[{}]"), "with its aliases (*name) written out it is larger than 1 MB"),
        ("a: &a {x: 1}\n" + bomb("{{<<: [{}]}}"), "with its aliases (*name) written out it is larger than 1 MB"),
        ("a: &a [*a]\n", "with its aliases (*name) written out it is larger than 1 MB"),
        ("out: &a runs\nname: *a\nyeers: [2016]\n", "unknown key 'yeers'"),
    ],
    ids=["empty", "list", "broken", "python tag", "nul", "deep", "bomb", "merge bomb", "cycle", "alias"],
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path, text, expected, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.yaml").write_text(text)
    line = mangroves("run", "bad.yaml").error
    assert expected in line
    assert len(line) < 600
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("cube", "is not of the form section.key=value"),
        ("cube.keeep=scenes", "unknown key 'cube.keeep'; did you mean 'keep'?"),
        ("name.x=1", "'name' is not a section"),
        ("years=[2016", "value is not YAML"),
        (".=1", "is not of the form"),
        ("train.rounds=many", "train.rounds"),
    ],
)
def test_a_wrong_override_is_named(job, override, expected):
    assert expected in job.call("plan", "--set", override).error


def test_usage_mistakes_exit_with_2_and_a_line(job):
    for arguments in (["runn"], ["run", "--clusterr", "x"], ["plan", "a.yaml", "--config", "b.yaml"], ["simulate"]):
        answer = mangroves(*arguments)
        assert answer.code == 2
        assert "Error: " in answer.error


# Catalog


def test_a_missing_file_is_named_whichever_it_is(job):
    for key, change in {
        "area.file": {"area": {"file": str(job.folder / "gone.geojson")}},
        "items": {"search": {"catalogs": [str(job.folder / "gone.json")]}},
        "mask": {"labels": {"masks": [{"path": str(job.folder / "gone.tif"), "year": 2016}]}},
        "zones": {"change": {"zones": str(job.folder / "gone.gpkg"), "by": "name"}},
        "train.from": {"train": {"from": str(job.folder / "gone")}},
    }.items():
        again = Job(job.folder, job.archive, {**job.config, **change, "name": key})
        assert "gone" in again.call("run").error
        assert not stores(again)
        assert not (job.folder / "runs" / key / "cube").exists(), "found out only after the cubes"


@pytest.mark.parametrize(
    "change",
    [{"years": [2019]}, {"search.platforms": ["landsat-4"]}, {"area": {"bbox": [-30.2, -0.2, -30, 0]}}],
    ids=["other year", "other platform", "open sea"],
)
def test_an_empty_search_says_what_was_asked(job, change):
    for key, value in change.items():
        section, _, name = key.partition(".")
        if name:
            job.config[section][name] = value
        else:
            job.config[section] = value
    line = job.call("search").error
    assert line.startswith("error: no scene of ")
    assert "items.json" in line
    assert not (job.run / "items.parquet").exists()


def test_a_year_without_scenes_is_named_before_anything_is_frozen(job):
    job.config["years"] = [2016, 2018]
    assert job.call("run").error.startswith("error: no scene in 2018; take these out of years, or widen search.")
    assert not (job.run / "items.parquet").exists()


def test_one_item_without_href_is_refused_by_name_and_the_run_goes_on(own_job):
    broken = []

    def edit(item):
        if not broken:
            broken.append(item["id"])
            del item["assets"]["red"]["href"]

    own_job.edit_items(edit)
    answer = own_job.call("search")
    assert answer.code == 0
    assert "refused 1: " in answer.err
    assert [refusal["scene"] for refusal in own_job.record["refused"]] == broken


def test_items_without_href_end_the_run(own_job):
    own_job.edit_items(lambda item: item["assets"]["red"].pop("href"))
    line = own_job.call("run").error
    assert "refused" in line
    assert "red" in line


def test_an_href_outside_the_archive_is_refused(own_job):
    own_job.edit_items(lambda item: item["assets"]["red"].update(href="/etc/hostname"))
    assert "lies outside the allowed folders" in own_job.call("run").error


# Masks


def mask_of(path: Path, geometry: object, crs: str = "EPSG:4326") -> Path:
    gpd.GeoDataFrame(geometry=[geometry], crs=crs).to_file(path)
    return path


def test_a_mask_in_a_wrong_coordinate_system_is_refused_before_the_cubes(job):
    metres = mask_of(job.folder / "metres.gpkg", box(500000, 960000, 510000, 970000))
    zone = mask_of(job.folder / "zone.gpkg", box(500000, 960000, 510000, 970000), "EPSG:32620")
    bare = job.folder / "bare.tif"
    with rasterio.open(bare, "w", driver="GTiff", width=4, height=4, count=1, dtype="uint8") as file:
        file.write(np.ones((1, 4, 4), "uint8"))
    expected = {metres: "impossible bounds", zone: "never overlaps the area", bare: "no coordinate system"}
    for path, words in expected.items():
        job.config["labels"] = {"masks": [{"path": str(path), "year": 2016}]}
        job.config["name"] = path.stem
        line = job.call("run").error
        assert words in line
        assert path.name in line
    assert not list((job.folder / "runs").rglob("*.zarr"))


def test_a_wrong_habitat_raster_is_refused_before_the_cubes(job):
    for command in ("sample", "classify", "run"):
        line = job.call(command, "--set", "habitat={dem: nix.tif, water: nix.tif}").error
        assert "nix.tif" in line
        assert not stores(job)


def test_a_mask_that_never_overlaps_is_refused_before_the_cubes(job):
    path = mask_of(job.folder / "away.gpkg", box(10, 10, 11, 11))
    job.config["labels"] = {"masks": [{"path": str(path), "year": 2016}]}
    assert "of 2016 never overlaps the area" in job.call("run").error
    assert not stores(job)


@pytest.mark.slow
def test_a_stale_mask_is_refused_before_the_cubes_unless_allowed(job):
    del job.config["labels"]["stable_between"]
    job.config["labels"]["masks"] = [{"path": str(job.archive.masks[2015]), "year": 2010}]
    line = job.call("run").error
    assert "mask of 2010 is more than 1 year(s) from imagery of 2016-2017" in line
    assert "labels.allow_stale: true" in line
    assert not stores(job)
    answer = job.call("sample", "--fresh", "--set", "labels.allow_stale=true")
    assert answer.code == 0
    assert "stale labels: imagery of 2016 by the mask of 2010" in answer.err
    assert job.record["masks"][0]["stale_years"] == [2016, 2017]


def test_no_mangrove_in_the_masks_ends_before_training(job):
    area = gpd.read_file(job.archive.regions).union_all().envelope
    path = job.folder / "empty.tif"
    west, south, east, north = area.bounds
    transform = rasterio.transform.from_bounds(west - 0.1, south - 0.1, east + 0.1, north + 0.1, 600, 300)
    profile = {"driver": "GTiff", "width": 600, "height": 300, "count": 1, "dtype": "uint8"}
    with rasterio.open(path, "w", crs="EPSG:4326", transform=transform, **profile) as file:
        file.write(np.zeros((1, 300, 600), "uint8"))
    job.config["labels"] = {"masks": [{"path": str(path), "year": 2016}]}
    line = job.call("run").error
    assert "has no mangrove pixel anywhere" in line
    assert not (job.run / "model").exists()
    assert not (job.run / "maps").exists()


def test_no_mask_at_all_says_what_to_do(job):
    del job.config["labels"]
    assert "labels.masks is empty" in job.call("run").error
    assert not stores(job)


# Models


@pytest.mark.parametrize(("key", "learnt", "other"), [("composite", "median", "geomedian"), ("tide", "all", "low")])
def test_a_model_of_one_kind_of_composite_does_not_map_another(job, finished, key, learnt, other):
    job.config["train"] = {"from": str(finished.run / "model")}
    job.config["cube"] = {key: other}
    line = job.call("run", "--allow-root", finished.run).error
    assert f"learnt from composites by {learnt}, this run makes them by {other}; set cube.{key} to {learnt}" in line
    assert not stores(job)


# Rasters


@pytest.mark.parametrize("damage", ["truncated", "garbage", "gone", "empty"])
def test_an_unreadable_cog_is_named_and_mended_in_place_the_run_goes_on(own_job, finished, damage):
    path = a_band(own_job)
    whole = path.read_bytes()
    match damage:
        case "truncated":
            path.write_bytes(whole[: len(whole) // 2])
        case "garbage":
            path.write_bytes(bytes(range(256)) * 10)
        case "gone":
            path.unlink()
        case "empty":
            path.write_bytes(b"")
    line = own_job.call("cube").error
    assert f"scene {path.parent.name}" in line
    assert "asset nir08" in line
    assert "--skip-bad" in line
    path.write_bytes(whole)
    if damage == "truncated":
        assert own_job.call("cube").code == 0
        assert markers(own_job.run).items() <= markers(finished.run).items()


def test_skip_bad_goes_on_and_lists_what_was_lost(own_job):
    path = a_band(own_job)
    whole = path.read_bytes()
    path.write_bytes(b"II*\0")
    answer = own_job.call("cube", "--skip-bad")
    assert answer.code == 0, answer.err
    assert "went without 1 scene(s)" in answer.err
    (lost,) = own_job.record["lost"]
    assert lost["scene"] == path.parent.name
    assert lost["cause"].startswith("nir08: ")
    again = own_job.call("cube", "--skip-bad").err
    assert "finished earlier" in again
    assert "went without 1 scene(s)" in again
    # Without the option the cube that lost a scene does not stand.
    assert "--skip-bad" in own_job.call("cube").error
    path.write_bytes(whole)
    assert own_job.call("cube").code == 0
    assert own_job.record["lost"] == []


# Output


def test_an_output_path_through_a_file_is_one_line(job):
    (job.folder / "runs").write_text("I am a file")
    assert "cannot be written" in job.call("run").error


def test_a_folder_of_other_things_is_left_alone(job):
    job.run.mkdir(parents=True)
    (job.run / "thesis.txt").write_text("mine")
    assert "holds files but no run.json" in job.call("run").error
    assert (job.run / "thesis.txt").read_text() == "mine"


@contextmanager
def no_file_larger(limit: int) -> Iterator[None]:
    """Let writes fail as they do on a full disk."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


@pytest.mark.parametrize(
    ("finished_by", "largest"),
    [
        ("cube/z48*/2016.json", 25_000),
        pytest.param("sample/z48*_2016.json", 50_000, marks=pytest.mark.slow),
        pytest.param("model/inputs.json", 20_000, marks=pytest.mark.slow),
        ("maps/2016/z48*.json", 13_500),
    ],
)
def test_a_full_disk_is_one_line_and_with_space_the_run_goes_on(finished_copy, finished, finished_by, largest):
    run = finished_copy.run
    (marker,) = run.glob(finished_by)
    marker.unlink()
    if marker.parent.name == "model":
        (marker.parent / "meta.json").unlink()
    arguments = finished_copy.arguments("run")
    with no_file_larger(largest):
        line = mangroves(*arguments).error
    assert str(marker.parent) in line
    assert "cannot be written" in line
    assert "free space or choose another out" in line
    assert not marker.exists()
    assert finished_copy.call("run").code == 0
    assert markers(run) == markers(finished.run)
    assert not [path for path in run.rglob("*") if ".part" in path.name]


def test_a_full_disk_leaves_no_half_list_of_scenes(job):
    arguments = job.arguments("search")
    with no_file_larger(8_000):
        assert "items.parquet cannot be written" in mangroves(*arguments).error
    assert not (job.run / "items.parquet").exists()
    assert job.call("search").code == 0


# Record


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"config": 1}', "\x00" * 100])
def test_a_damaged_record_is_refused_and_set_aside_with_fresh(job, text):
    job.run.mkdir(parents=True)
    (job.run / "run.json").write_text(text)
    line = job.call("search").error
    assert "run.json is damaged" in line
    assert "--fresh" in line
    assert job.call("search", "--fresh").code == 0
    assert any(path.name.startswith("tiny-") for path in (job.folder / "runs").iterdir())


def test_a_changed_configuration_is_refused_naming_the_keys_once_something_was_made(job):
    assert job.call("search").code == 0
    assert job.call("search", "--set", "seed=3").code == 0  # nothing was made of the first list
    (job.run / "cube").mkdir()
    line = job.call("search", "--set", "seed=2", "--set", "train.rounds=11").error
    assert "differs in: seed, train.rounds" in line
    assert "--fresh" in line
    assert job.call("search", "--set", "seed=3").code == 0
    assert job.call("search", "--set", "seed=2", "--set", "name=other").code == 0
