"""The page of a benchmark stands alone, says what is simulated, and refuses files that hold no runs."""

from __future__ import annotations

import json
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from benchmarks.belt import Belt
from benchmarks.report import group_runs, read_files, write_report
from engine.errors import ConfigError
from tests.benchmarks.test_belt import run

STAGES = {"fetch": 1.0, "decode": 2.0, "write": 0.5}
CUBES = [
    run("cube", scaling="strong", workers=n, threads=n, tasks=4, pixels=4_000_000, looks=24, seconds=s, stages=STAGES)
    for n, s in ((1, 8.0), (1, 10.0), (2, 5.0), (2, 6.0))
]
COMPARISON = {
    "composite_f32_vs_odc": 6.0,
    "simulated": "SIMULATED seed=1",
    "machine": {"processor": "a <processor>", "flags": ["avx2"], "date": "2026-01-01"},
    "runs": {
        "composite": {
            "what": "a median (simulated)",
            "rounds": {"composite_f32_vs_odc": [5.0, 6.0, 7.0], "other": [1.0]},
            "seconds": {"engine": {"wall": [1.0, 2.0], "cpu": [1.5, 1.5]}},
        }
    },
}


def test_efficiency_is_work_a_thread_over_that_of_the_fewest():
    one, two = group_runs(CUBES)["cube"]
    assert (len(one.runs), one.efficiency, one.median(lambda r: r.seconds)) == (2, 1.0, 9.0)
    assert two.rate == pytest.approx(4e6 * (1 / 5 + 1 / 6) / 2)
    assert two.efficiency == pytest.approx((1 / 5 + 1 / 6) / 2 / (1 / 8 + 1 / 10))


def test_workloads_stay_in_the_order_of_the_file():
    assert list(group_runs([run("cube", seconds=1.0), run("change", seconds=1.0)])) == ["cube", "change"]


def test_the_page_holds_tables_charts_and_the_belt_and_loads_nothing(tmp_path):
    lines, comparison, page = tmp_path / "runs.jsonl", tmp_path / "bench.json", tmp_path / "bench.html"
    record = tmp_path / "run" / "run.json"
    (record.parent / "cube" / "tile").mkdir(parents=True)
    stages = {"fetch": {"seconds": 1.25, "bytes": 10}, "decode": {"seconds": 0.5, "bytes": 10}}
    (record.parent / "cube" / "tile" / "2019.json").write_text(json.dumps({"stages": stages}))
    search = {"seconds": 3.0, "runs": 1, "counts": {}}
    record.write_text(
        json.dumps({"config_sha256": "x", "config": {"name": "coast"}, "stages": {"search": search}}, indent=1)
    )
    lines.write_text("".join(one.line() + "\n" for one in CUBES))
    comparison.write_text(json.dumps(COMPARISON, indent=1))
    write_report(read_files([lines, comparison, record]), page, Belt())
    text = page.read_text()
    for part in (
        "cube (simulated)",
        "SIMULATED seed=1",
        "5.00-7.00",
        "mangrove belt",
        "a &lt;processor&gt;",
        "Run coast",
    ):
        assert part in text
    for row in (">search</th><td class=n>3.0</td>", ">fetch</th><td class=n>1.2</td>", ">1 year(s): cube</th>"):
        assert row in text
    assert text.count("<svg") == 3
    svg = text[text.index("<svg") : text.index("</svg>") + 6]
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    assert "<script" not in text
    assert "<img" not in text
    assert "<link" not in text


def test_the_same_runs_give_the_same_page(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "runs.jsonl").write_text("".join(one.line() + "\n" for one in CUBES))
        write_report(read_files([tmp_path / "runs.jsonl"]), tmp_path / name, Belt())
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text()


def test_runs_of_the_scheduler_have_no_pixels_and_are_not_simulated(tmp_path):
    plain = replace(run("scheduler", seconds=2.0, tasks=1000), simulated=False)
    (tmp_path / "runs.jsonl").write_text(plain.line())
    write_report(read_files([tmp_path / "runs.jsonl"]), tmp_path / "page.html", Belt())
    text = (tmp_path / "page.html").read_text()
    assert "tasks/s" in text
    assert "imulated" not in text


@pytest.mark.parametrize("text", ["", "nonsense", '{"a": 1}', '{\n "a": 1}', "[]", "1"])
def test_a_file_without_runs_is_refused(tmp_path, text):
    path = tmp_path / "runs.jsonl"
    path.write_text(text)
    with pytest.raises(ConfigError, match="holds no runs"):
        read_files([path])


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="holds no runs"):
        read_files([tmp_path / "none.jsonl"])
