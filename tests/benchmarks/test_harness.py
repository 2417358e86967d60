"""What times the benchmarks counts right: turns, ratios, tasks, stages, memory."""

from __future__ import annotations

import json
import operator

import pytest

from benchmarks.harness import Run, machine, measure_tasks, ratio, seconds, time_in_turn
from engine.cluster import open_cluster


@pytest.mark.slow
def test_sides_take_turns_and_the_first_result_is_kept():
    calls = []

    def side(name):
        return lambda: calls.append(name) or len(calls)

    timings, results = time_in_turn({"a": side("a"), "b": side("b")}, 2)
    assert calls == ["a", "b"] * 3
    assert results == {"a": 1, "b": 2}
    assert [len(timings[name].wall) for name in "ab"] == [2, 2]
    assert seconds(timings)["a"].keys() == {"wall", "cpu"}


@pytest.mark.slow
def test_without_a_warm_round_the_first_timed_one_gives_the_result():
    calls = []
    timings, results = time_in_turn({"a": lambda: calls.append(1) or calls}, 3, warm=False, keep=len)
    assert results == {"a": 1}
    assert len(timings["a"].wall) == len(calls) == 3


def test_a_ratio_is_the_median_of_its_rounds():
    found = ratio([6.0, 10.0, 9.0], [2.0, 2.0, 1.0])
    assert found.rounds == [3.0, 5.0, 9.0]
    assert found.value == 5.0
    assert str(found) == "5.00 (3.00-9.00)"
    with pytest.raises(ValueError, match="shorter"):
        ratio([1.0], [])


def marker(seconds, size):
    return {"stages": {"fetch": {"seconds": seconds, "bytes": size}, "decode": {"seconds": 1.0, "bytes": 3 * size}}}


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    profiles = tmp_path_factory.mktemp("cluster") / "cluster.yaml"
    profiles.write_text("profiles: {two: {kind: threads, workers: 2}}", encoding="utf-8")
    with open_cluster("two", profiles) as opened:
        yield opened


def test_tasks_are_measured(client):
    run, results = measure_tasks(client, marker, [(0.5, 10), (1.0, 20)], workers=1, workload="cube", simulated=True)
    assert (run.tasks, run.workers, run.threads, run.bytes) == (2, 1, 2, 30)
    assert run.stages == {"fetch": 1.5, "decode": 2.0}
    assert len(results) == 2
    assert 0 < run.submit_seconds < run.seconds
    assert run.worker_peak_bytes > 50e6 < run.client_peak_bytes


def test_tasks_that_tell_nothing_are_measured_as_well(client):
    calls = [(number,) for number in range(9)]
    run, results = measure_tasks(client, operator.index, calls, workers=1, workload="scheduler", simulated=True)
    assert (run.tasks, run.bytes, run.stages) == (9, None, {})
    assert sorted(results) == list(range(9))


def test_a_run_is_one_line_that_says_on_what_it_was_measured(client):
    run, _ = measure_tasks(client, operator.index, [(1,)], workers=1, workload="scheduler", simulated=True)
    line = run.line()
    assert "\n" not in line
    assert Run(**json.loads(line)) == run
    assert {"date", "commit", "versions", "processor", "flags", "cores"} <= run.machine.keys()
    assert machine()["versions"]["numpy"]
