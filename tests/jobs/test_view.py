"""The viewer of a run, from the command line to a story."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest

from engine.edits import read_layer
from engine.errors import ConfigError
from engine.grid import lonlat_of
from engine.store import open_store
from engine.trust import Trust
from jobs.edit import whoami
from jobs.reporter import Reporter
from jobs.view import drawing_of, open_shown
from tests.jobs.calls import Job, mangroves

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(importlib.util.find_spec("uvicorn") is None, reason="needs the view extra")


@contextmanager
def viewing(run: Path, root: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Start the viewer of a run over an archive in a process of its own; yield its address."""
    command = [sys.executable, "-m", "jobs", "view", str(run), "--json", "--allow-root", str(root)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=subprocess.DEVNULL, text=True) as going:
        try:
            told = ""
            while not told.rstrip().endswith("}"):
                line = going.stdout.readline()
                assert line, "the viewer ended"
                told += line
            yield json.loads(told)["address"], going
        finally:
            going.kill()


def shown_of(job: Job):
    return open_shown(job.run, Trust().with_roots(job.archive.items.parent), Reporter())


def middle(job: Job) -> tuple[float, float]:
    """Return a point in the middle of the Vietnamese tile."""
    (store,) = (job.run / "cube").glob("z48*/2016.zarr")
    with open_store(store) as data:
        x, y = float(data["x"][40]), float(data["y"][60])
    lon, lat = lonlat_of(48, np.array([round((15 - y) / 30 - 0.5)]), np.array([round((x - 15) / 30 - 0.5)]))
    return float(lon[0]), float(lat[0])


@pytest.fixture(scope="module")
def shown(finished):
    return shown_of(finished)


def test_the_page_has_tiles_of_every_layer_a_story_and_points(shown):
    script = shown.files["data.js"][0].decode()
    data = json.loads(script.split(";\n")[0].removeprefix("window.MANGROVES = "))
    assert data["story"] == "story"
    assert {one["tiles"]["url"].split("/")[1] for one in data["layers"]} == set(shown.layers)
    assert "composite-2016" in shown.layers
    assert data["points"][0]["key"] == "points.mangrove_right"
    assert sum(layer["total"] for layer in data["points"]) > 100


def test_what_is_drawn_is_kept_by_who_views_unless_only_read(finished_copy, shown):
    data = json.loads(shown.files["data.js"][0].decode().split(";\n")[0].removeprefix("window.MANGROVES = "))
    assert data["edits"] == {"url": "edits", "token": shown.drawing.token}
    assert len(shown.drawing.token) > 40
    drawing = drawing_of(finished_copy.run)
    assert drawing.token != shown.drawing.token
    ring = [[104.9, 8.6], [104.91, 8.6], [104.91, 8.61], [104.9, 8.6]]
    geometry = {"type": "Polygon", "coordinates": [ring]}
    told = drawing.add({"features": [{"geometry": geometry, "properties": {"kind": "unsure"}}]})
    assert (told["version"], told["added"]) == (1, 1)
    assert f"`mangroves edit {finished_copy.run}` writes the maps as edited" in told["said"]
    (author,) = read_layer(finished_copy.run).polygons["author"]
    assert author == whoami()
    trust = Trust().with_roots(finished_copy.archive.items.parent)
    closed = open_shown(finished_copy.run, trust, Reporter(), read_only=True)
    assert closed.drawing is None
    assert b'"edits":null' in closed.files["data.js"][0]


def test_a_story_is_what_why_says(finished, shown):
    lon, lat = middle(finished)
    answer = mangroves("why", finished.run, lon, lat, 2016, "--json", "--allow-root", finished.archive.items.parent)
    told = shown.story(lon, lat, None)
    assert [year["year"] for year in told["years"]] == [2016, 2017]
    of, asked = told["years"][0], json.loads(answer.out)
    assert (told["change"], told["region"]) == (asked["history"]["change"], "sim-Vietnam2")
    assert of["class"] == asked["history"]["class_by_all_years"]
    assert of["class_of_the_year_alone"] == asked["map"]["class"]
    assert of["probability"] == asked["map"]["probability"]
    assert of["clear_looks"] == asked["cube"]["clear_looks"]
    assert of["reflectance"] == asked["cube"]["composite"]
    assert of["scenes"] == len(asked["scenes"]) > 2
    scenes = shown.story(lon, lat, 2016)["scenes"]
    assert [(one["date"], one["state"]) for one in scenes] == [
        (one["date"], ", ".join(one["said"])) for one in asked["scenes"]
    ]
    assert [one["used"] for one in scenes].count("yes") == of["clear_looks"]
    with pytest.raises(ConfigError, match=r"year 1999 is not of the run; give one of 2016, 2017"):
        shown.story(lon, lat, 1999)


def test_a_finished_run_is_viewed_from_its_folder_alone(finished, finished_copy, shown):
    record = finished_copy.record
    record["config"]["area"]["file"] = str(finished_copy.folder / "lost.geojson")
    (finished_copy.run / "run.json").write_text(json.dumps(record), encoding="utf-8")
    alone = open_shown(finished_copy.run, Trust(), Reporter())
    lon, lat = middle(finished)
    assert alone.tiles == shown.tiles
    assert alone.story(lon, lat, None) == shown.story(lon, lat, None)
    states = [scene["state"] for scene in alone.story(lon, lat, 2016)["scenes"]]
    assert states
    assert not [
        state for state in states if "lies outside the allowed folders" not in state and "not asked" not in state
    ]
    with pytest.raises(ConfigError, match="lies in no tile of the run"):
        alone.story(0.0, 0.0, None)
    answer = mangroves("why", finished_copy.run, lon, lat, 2016)
    assert "lost.geojson" in answer.out
    assert "region sim-Vietnam2" in answer.out


def test_a_link_out_of_the_run_is_one_line(finished_copy, tmp_path):
    (finished_copy.run / "maps" / "2016" / "class_elsewhere.tif").symlink_to(tmp_path / "secret")
    answer = mangroves("view", finished_copy.run, "--allow-root", finished_copy.archive.items.parent)
    assert "lies outside the allowed folders" in answer.error


def test_a_run_without_maps_and_a_port_that_is_taken_are_one_line(finished, job):
    import socket

    assert "run.json is not there" in mangroves("view", job.folder).error
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        roots = ("--allow-root", finished.archive.items.parent)
        assert f"port {port} cannot be used" in mangroves("view", finished.run, "--port", port, *roots).error


def test_without_its_packages_it_says_what_to_install(finished, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "uvicorn" else find(name))
    assert "pip install 'mangroves[view]'" in mangroves("view", finished.run).error


@pytest.mark.slow
def test_the_command_serves_on_loopback_until_it_is_stopped(finished):
    with viewing(finished.run, finished.archive.items.parent) as (address, going):
        assert address.startswith("http://127.0.0.1:")
        with httpx.Client(base_url=address, timeout=60) as client:
            assert "<title>tiny - mangroves</title>" in client.get("/").text
            lon, lat = middle(finished)
            assert client.get("/story", params={"lon": lon, "lat": lat}).json()["tile"].startswith("z48")
            assert client.get("/tiles/class-2016/0/0/0.png").headers["content-type"] == "image/png"
        os.kill(going.pid, signal.SIGINT)
        assert going.wait(30) == 0
