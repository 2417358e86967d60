"""What is extrapolated to the mangrove belt is what one reckons by hand."""

from __future__ import annotations

import pytest

from benchmarks.belt import Belt, extrapolate
from benchmarks.harness import Run


def run(workload, **more):
    told = {"workers": 1, "threads": 1, "tasks": 1, "submit_seconds": 0.0, "cpu_seconds": 1.0}
    peaks = {"worker_peak_bytes": 1, "client_peak_bytes": 1, "spilled_bytes": 0}
    return Run(workload=workload, simulated=True, **{**told, **peaks, **more})


def test_the_belt_has_as_many_tasks_as_it_is_said_to_have():
    assert Belt().tile_years(40) == 256_000


def test_hours_bytes_and_dollars_by_hand():
    belt = Belt(cells=10, tiles_per_cell=1, tile_px=1000, looks=20, dollars_per_core_hour=0.1, remote=1.5)
    # 1e6 px x 10 dates in 3.6 s on 2 threads, 1 byte a pixel and date; 4e6 px in .9 s on 4 threads.
    runs = [
        run("cube", pixels=10**6, looks=10, seconds=3.6, threads=2, workers=2, bytes=10**7),
        run("cube", pixels=10**6, looks=10, seconds=100.0),  # by fewer workers: not counted
        run("classify", pixels=4 * 10**6, seconds=0.9, threads=4, workers=4),
    ]
    cube, classify, more, _ = extrapolate(runs, belt, years=(1, 3))
    assert (cube.step, cube.years, cube.tasks) == ("cube", 1, 10)
    # 10 tiles x 1e6 px x 20 dates = 2e8, 7.2e-7 core-seconds each, half as long again from storage elsewhere.
    assert cube.core_hours == pytest.approx(2e8 * 7.2e-7 / 3600 * 1.5)
    assert cube.terabytes_read == pytest.approx(2e8 / 1e12)
    assert cube.dollars == pytest.approx(cube.core_hours * 0.1)
    assert classify.core_hours == pytest.approx(1e7 * 9e-7 / 3600)
    assert more.core_hours == pytest.approx(3 * cube.core_hours)


def test_change_is_between_years_and_steps_not_measured_are_left_out():
    belt = Belt(cells=10, tiles_per_cell=1)
    found = extrapolate([run("change", pixels=100, seconds=1.0), run("scheduler", seconds=1.0)], belt, years=(1, 40))
    assert [(one.step, one.years, one.tasks) for one in found] == [("change", 40, 390)]
    assert extrapolate([], belt) == []


def test_every_number_of_the_belt_is_among_the_assumptions():
    said = " ".join(Belt(cells=1601, tiles_per_cell=5, looks=25, dollars_per_core_hour=0.07, remote=1.25).assumptions())
    for number in ("1601", "5 tiles", "25 dates", "$0.07", "1.25 times", "simulated"):
        assert number in said
