"""A run into a bucket is the run into a folder: the same arrays, the same rasters, resumed and cut off alike."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio

from engine.errors import StoreError
from engine.model import load_model
from engine.places import ObjectPath, Place, entries, modified
from engine.raster import read_raster
from engine.sample import read_sample
from engine.simulate import Archive, WorldParams, write_archive
from engine.store import open_store, read_marker
from tests.jobs.calls import Job, mangroves
from tests.jobs.test_workers import await_workers, needs_a_view_of_its_own, process, scheduler, worker
from tests.object_store import AZURITE, AZURITE_KEY, KEY, SECRET

ROOT = Path(__file__).resolve().parents[2]
WORLD = WorldParams(
    regions=("Vietnam2", "India"), years=(2016, 2017), size_px=128, scenes_per_year=4, mask_years=(2015, 2018)
)
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    return write_archive(WORLD, tmp_path_factory.mktemp("stored") / "archive")


@pytest.fixture(scope="module")
def in_folder(archive: Archive, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run that has no store."""
    job = Job(tmp_path_factory.mktemp("folder"), archive)
    answer = job.call("run")
    assert answer.code == 0, answer.err
    return job.run


@pytest.fixture(params=["bucket", *(["container"] if AZURITE else [])])
def home(request: pytest.FixtureRequest) -> ObjectPath:
    """A bucket, and where azurite is at hand a container."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def stored(archive: Archive, home: ObjectPath, tmp_path: Path) -> Job:
    """A run with a store on a ``local`` cluster of two processes, not begun."""
    job = Job(tmp_path, archive)
    job.config["store"] = str(home / "mangroves")
    (tmp_path / "two.yaml").write_text("profiles: {two: {kind: local, workers: 2}}")
    return job


def arguments(job: Job, command: str, *more: str | Path) -> list[str]:
    """Return the arguments of a command on two processes, the store allowed."""
    options = ("--cluster-file", job.folder / "two.yaml", "--allow-root", job.config["store"])
    return job.arguments(command, *options, *more, cluster="two")


def below(place: Place) -> dict[str, Place]:
    """Return every file below a place by its way from there, the record apart."""
    found: dict[str, Place] = {}
    folders, files = entries(place)
    found |= {path.name: path for path in files if path.name != "run.json"}
    for folder in folders:
        found |= {f"{folder.name}/{name}": path for name, path in below(folder).items()}
    return found


def zarrs(place: Place) -> dict[str, Place]:
    """Return every zarr store below a place, finished or not, by its way from there."""
    return {
        name: place / name for name in {f"{key.partition('.zarr/')[0]}.zarr" for key in below(place) if ".zarr/" in key}
    }


def assert_same(outputs: Place, folder: Path) -> None:
    """Hold all that workers wrote against the outputs of another run, decoded."""
    stores, rasters = zarrs(folder), {name for name in below(folder) if name.endswith(".tif")}
    assert set(zarrs(outputs)) == set(stores)
    assert {name for name in below(outputs) if name.endswith(".tif")} == rasters
    assert (len(stores), len(rasters)) == (12, 30)
    for name, store in stores.items():
        with open_store(outputs / name) as ours, open_store(store) as theirs:
            assert ours.drop_attrs().identical(theirs.drop_attrs()), name
    for name in rasters:
        ours, theirs = read_raster(outputs / name), read_raster(folder / name)
        assert np.array_equal(ours[0], theirs[0]), name
        assert ours[1] == theirs[1], name
    assert load_model(outputs / "model").tree_sha256() == load_model(folder / "model").tree_sha256()
    pd.testing.assert_frame_equal(read_sample(outputs / "sample").compute(), read_sample(folder / "sample").compute())
    names = {name for name in below(folder) if name.endswith((".vrt", ".qml", ".aux.xml", ".vrt.json"))}
    assert names <= set(below(outputs))
    for name in names - {name for name in names if name.endswith(".json")}:
        ours, theirs = ((place / name).read_text() for place in (outputs, folder))
        if not name.endswith(".vrt"):  # whose tags name the run
            assert ours == theirs, name


def for_gdal(path: str, request: pytest.FixtureRequest) -> tuple[dict[str, str], str]:
    """Return GDAL's settings and name of an object."""
    if path.startswith("s3://"):
        endpoint = {"AWS_S3_ENDPOINT": request.getfixturevalue("s3_server")}
        return {**endpoint, "AWS_HTTPS": "NO", "AWS_VIRTUAL_HOSTING": "FALSE"}, path.replace("s3://", "/vsis3/")
    account, url = "devstoreaccount1", f"http://{request.getfixturevalue('azure_server')}"
    said = {"AccountName": account, "AccountKey": AZURITE_KEY, "BlobEndpoint": f"{url}/{account}"}
    connection = ";".join(f"{name}={value}" for name, value in {"DefaultEndpointsProtocol": "http", **said}.items())
    return {"AZURE_STORAGE_CONNECTION_STRING": connection}, re.sub("abfs://([^@]+)@[^/]+", r"/vsiaz/\1", path)


def test_a_run_into_a_bucket_equals_one_into_a_folder_and_is_resumed(stored, in_folder, home, request):
    outputs = home / "mangroves" / "tiny"
    answer = mangroves(*arguments(stored, "run", "--json"))
    assert answer.code == 0, answer.err
    assert_same(outputs, in_folder)
    assert {path.name for path in stored.run.iterdir() if path.suffix != ".json"} == {
        *("items.parquet", "years.csv", "areas.csv", "history.csv", "change.csv", "transitions.csv"),
        *("patch_areas.csv", "series.csv", "series.parquet", "series.png", "rates.csv"),
        *("metrics.prom", "logs", "stac"),
    }
    assert {path.name for path in stored.run.iterdir() if path.is_dir()} == {"logs", "stac"}
    for name in ("areas.csv", "history.csv", "change.csv", "transitions.csv", "patch_areas.csv", "series.csv"):
        assert (stored.run / name).read_bytes() == (in_folder / name).read_bytes()

    maps = json.loads(answer.out)["maps"]
    settings, name = for_gdal(maps[0], request)
    with (
        rasterio.Env(**settings),
        rasterio.open(name) as ours,
        rasterio.open(in_folder / maps[0].removeprefix(f"{outputs}/")) as theirs,
    ):
        assert np.array_equal(ours.read(), theirs.read())

    said = answer.out + answer.err
    for place in (stored.folder, home):
        for name, path in below(place).items():
            said += name + path.read_bytes().decode("latin-1")
    said += (outputs / "run.json").read_text() + (stored.run / "run.json").read_text()
    for secret in (KEY, SECRET, AZURITE_KEY):
        assert secret not in said

    times = {name: modified(path) for name, path in below(outputs).items()}
    time.sleep(1.1)  # a server counts in seconds
    again = mangroves(*arguments(stored, "run"))
    assert again.code == 0, again.err
    assert again.err.count("finished earlier, skipped") == 8
    assert {name: modified(path) for name, path in below(outputs).items()} == times


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("home", ["bucket"], indirect=True)
def test_a_run_killed_while_it_writes_leaves_nothing_that_reads_as_finished(stored, in_folder, home):
    outputs = home / "mangroves" / "tiny"
    torn = 0
    for count in (1, 4):
        kill_when(stored, outputs, count)
        for name, store in zarrs(outputs).items():
            if read_marker(store) is None:
                torn += 1
                with pytest.raises(StoreError, match="not there or not finished"), open_store(store):
                    pass
            else:
                with open_store(store) as ours, open_store(in_folder / name) as theirs:
                    assert ours.drop_attrs().identical(theirs.drop_attrs()), name
    answer = mangroves(*arguments(stored, "run"))
    assert answer.code == 0, answer.err
    assert_same(outputs, in_folder)
    assert torn, "none was killed while it wrote"


def kill_when(job: Job, outputs: ObjectPath, count: int) -> None:
    """Run a job in a session of its own, and kill all of it while it writes, once that many stores were begun."""
    command = [sys.executable, "-m", "jobs", *arguments(job, "run")]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, cwd=ROOT, stdout=quiet, stderr=quiet, start_new_session=True) as going:
        deadline, begun, finished = time.monotonic() + 120, set[str](), set[str]()
        while going.poll() is None and (len(begun) < count or not begun - finished):
            assert time.monotonic() < deadline
            keys = outputs.below()
            begun = {key.partition(".zarr/")[0] for key in keys if ".zarr/" in key}
            finished = {key.removesuffix(".json") for key in keys}
        os.killpg(going.pid, signal.SIGKILL)


@pytest.mark.timeout(1200)
@needs_a_view_of_its_own
@pytest.mark.parametrize("home", ["bucket"], indirect=True)
def test_workers_that_share_no_folder_with_the_client_map_all_the_same(stored, in_folder, home):
    """All but the scenes, which are read by their addresses, lies in folders that workers see as empty."""
    mine = stored.folder / "mine"
    mine.mkdir()
    for mask in stored.config["labels"]["masks"]:
        mask["path"] = shutil.copy(mask["path"], mine)
    (mine / "runs").mkdir()
    stored.config["out"] = str(mine / "runs")
    hidden = f'mount -t tmpfs none {mine} && exec "$@"'
    with scheduler(stored.folder) as (address, profiles, _):
        alone = ("unshare", "-m", "sh", "-c", hidden, "sh", *worker(address, stored.folder / "scratch"))
        with process(*alone):
            await_workers(address, 1)
            options = ("--cluster-file", profiles, "--allow-root", home / "mangroves")
            answer = mangroves(*stored.arguments("run", *options, cluster="there"))
    assert answer.code == 0, answer.err
    assert_same(home / "mangroves" / "tiny", in_folder)
