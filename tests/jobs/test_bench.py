"""``mangroves bench`` measures a cluster on simulated scenes, writes runs down, and makes a page of them."""

from __future__ import annotations

import json

import pytest

from benchmarks.archive import SCALES
from tests.jobs.calls import mangroves


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    monkeypatch.setitem(SCALES, "small", SCALES["tiny"])
    monkeypatch.setattr("benchmarks.workloads.NOOP_TASKS", 5)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cluster.yaml").write_text("profiles: {threads: {kind: threads}, two: {kind: local, workers: 2}}")
    return tmp_path


@pytest.mark.long
def test_runs_are_written_down_one_a_line_and_shown(tiny):
    for workload in ("cube", "scheduler"):
        answer = mangroves("bench", "--cluster", "threads", "--workload", workload, "--scale", "1", "--runs", "1")
        assert answer.code == 0, answer.err
        assert "efficiency" in answer.out
    lines = [json.loads(line) for line in (tiny / "runs" / "bench" / "runs.jsonl").read_text().splitlines()]
    assert [(line["workload"], line["scaling"]) for line in lines] == [
        (workload, scaling) for workload in ("cube", "scheduler") for scaling in ("strong", "weak")
    ]
    assert lines[0]["stages"]["decode"] > 0
    assert lines[0]["bytes"] > 100_000
    assert not (tiny / "runs" / "bench" / "work").exists()
    answer = mangroves("bench", "report", "runs/bench/runs.jsonl", "--price", "0.1", "--json")
    assert answer.code == 0, answer.err
    assert {one["step"] for one in json.loads(answer.out)["belt"]} == {"cube"}
    assert "(simulated)" in (tiny / "bench.html").read_text()


@pytest.mark.long
@pytest.mark.parametrize("workload", ["cube", "classify", "change", "scheduler"])
def test_every_workload_scales_over_worker_processes(tiny, workload):
    answer = mangroves("bench", "--cluster", "two", "--workload", workload, "--scale", "1", "--runs", "1", "--json")
    assert answer.code == 0, answer.err
    runs = json.loads(answer.out)["runs"]
    assert [(run["scaling"], run["workers"]) for run in runs] == [
        (scaling, workers) for workers in (1, 2) for scaling in ("strong", "weak")
    ]
    each = 5 if workload == "scheduler" else 1
    assert [run["tasks"] for run in runs] == [2 * each, each, 2 * each, 2 * each]
    assert all(run["worker_peak_bytes"] > 50e6 for run in runs)


def test_a_file_that_holds_no_runs_is_one_line(tiny):
    (tiny / "x.jsonl").write_text("nonsense")
    assert "x.jsonl holds no runs" in mangroves("bench", "report", "x.jsonl").error
