"""A pixel explained, from the command line."""

from __future__ import annotations

import json

import numpy as np

from engine.grid import EDGE_M, PIXEL_M, lonlat_of
from engine.store import open_store
from tests.jobs.calls import mangroves

ROW, COL = 60, 40


def ask(job, year, *more):
    (store,) = (job.run / "cube").glob("z48*/2016.zarr")
    with open_store(store) as data:
        x, y = float(data["x"][COL]), float(data["y"][ROW])
        clear = int(data["clear_count"][ROW, COL])
    row, col = round((EDGE_M - y) / PIXEL_M - 0.5), round((x - EDGE_M) / PIXEL_M - 0.5)
    lon, lat = lonlat_of(48, np.array([row]), np.array([col]))
    roots = ("--allow-root", job.archive.items.parent)
    return clear, mangroves("why", job.run, str(lon[0]), str(lat[0]), str(year), *roots, *more)


def test_the_scenes_of_a_pixel_add_up_to_its_clear_looks(finished):
    clear, answer = ask(finished, 2016, "--json")
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    assert (told["row"], told["col"]) == (ROW, COL)
    assert sum(scene["used"] is True for scene in told["scenes"]) == told["cube"]["clear_looks"] == clear
    assert told["map"]["class"] in ("mangrove", "other", "not observed")
    assert told["history"] is not None
    assert told["label"]["class"] in ("mangrove", "other", "unknown")


def test_without_the_source_the_rest_is_told(own_job):
    assert own_job.call("cube").code == 0
    for path in own_job.archive.items.parent.rglob("*.TIF"):
        path.unlink()
    _, answer = ask(own_job, 2016)
    assert answer.code == 0, answer.err
    assert "cannot be read now" in answer.out
    assert "map: not finished" in answer.out


def test_a_point_or_year_of_another_run_is_one_line(finished):
    roots = ("--allow-root", finished.archive.items.parent)
    assert "lies in no tile" in mangroves("why", finished.run, "0", "-1", "2016", *roots).error
    assert "year 1999 is not of the run" in mangroves("why", finished.run, "0", "0", "1999", *roots).error
