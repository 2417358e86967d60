"""What a run says in its folder: its log, its progress, its metrics, and Dask's report; and nothing secret in them."""

from __future__ import annotations

import json
import logging
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from engine.cluster import open_cluster
from engine.record import METRICS, PROGRESS
from jobs import journal
from jobs.journal import RunLog, metrics_text, read_progress
from jobs.performance import keep_performance
from jobs.progress import Progress
from jobs.reporter import Reporter
from tests.jobs.calls import Job, mangroves


def metrics(job: Job) -> dict[tuple[str, str], float]:
    """Return the samples of a run's metrics by name and stage, read as Prometheus reads them."""
    found = {}
    for family in text_string_to_metric_families((job.run / METRICS).read_text(encoding="utf-8")):
        assert family.documentation
        assert family.type in ("gauge", "counter")
        for sample in family.samples:
            assert sample.labels["run"] == "tiny"
            found[sample.name.removeprefix("mangroves_"), sample.labels.get("stage", "")] = sample.value
    return found


def test_a_run_says_in_its_log_what_it_said_on_the_terminal(finished):
    lines = mangroves("logs", finished.run, "-n", "1000").out.splitlines()
    assert all(line[:2] == "20" and line[19:25] == "+00:00" for line in lines)
    said = [line.partition("  ")[2] for line in lines]
    assert said[0].startswith("begins    in tiny")
    assert any(line.startswith("cube      4/4  ") for line in said)
    assert "finished" in said
    assert mangroves("logs", finished.run, "-n", "1").out.splitlines() == lines[-1:]


def test_a_log_that_is_not_there_is_one_line(job):
    assert "run.log is not there; name the folder of a run" in mangroves("logs", job.run).error
    assert "was detached" in mangroves("logs", job.run, "--driver").error


def test_a_log_stays_small_and_holds_no_secret_and_no_line_end(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "MAX_LOG_BYTES", 1000)
    log = RunLog(tmp_path / "logs" / "run.log")
    for number in range(100):
        log(f"{number} https://a/b.tif?sig=S3CRET\nnext \x1b[2J")
    files = sorted((tmp_path / "logs").iterdir())
    assert [path.name for path in files] == ["run.log", "run.log.1"]
    assert all(path.stat().st_size < 1200 for path in files)
    text = files[0].read_text()
    assert "99 https://a/b.tif?sig=***" in text.splitlines()[-1]
    assert "S3CRET" not in text
    assert "\x1b" not in text


def test_a_link_in_place_of_a_log_loses_the_line(tmp_path):
    (tmp_path / "elsewhere").write_text("mine")
    (tmp_path / "run.log").symlink_to(tmp_path / "elsewhere")
    RunLog(tmp_path / "run.log")("lost")
    assert (tmp_path / "elsewhere").read_text() == "mine"


def test_what_was_logged_by_others_moves_no_cursor(job):
    (job.run / "logs").mkdir(parents=True)
    (job.run / "logs" / "run.log").write_text("a \x1b[2J https://a/b?sig=S3CRET\n")
    out = mangroves("logs", job.run).out
    assert "\x1b" not in out
    assert "S3CRET" not in out


def test_metrics_are_read_by_prometheus(finished_copy):
    assert finished_copy.call("run").code == 0
    found = metrics(finished_copy)
    assert (found["up", ""], found["finished", ""]) == (0, 1)
    for stage, count in {"cube": 4, "sample": 4, "classify": 4, "history": 2, "change": 2}.items():
        assert found["tile_years_done", stage] == found["tile_years", stage] == count
    assert found["stage_seconds_total", "train"] > 0
    assert found["scenes_lost", ""] == 0
    assert found["told_timestamp_seconds", ""] > 1.7e9


def test_bytes_read_and_losses_are_counted(own_job):
    path = sorted(own_job.archive.items.parent.rglob("*_SR_B5.TIF"))[0]
    path.write_bytes(b"")
    assert own_job.call("cube").code == 1
    found = metrics(own_job)
    assert (found["up", ""], found["finished", ""]) == (0, 0)
    assert json.loads((own_job.run / PROGRESS).read_text())["status"] == "failed"
    assert own_job.call("cube", "--skip-bad").code == 0
    found = metrics(own_job)
    assert found["read_bytes_total", ""] > 1000
    assert found["scenes_lost", ""] == len(own_job.record["lost"]) == 1
    assert found["tile_years_done", "cube"] == 4


def test_progress_as_json_is_lines_for_a_machine(job):
    answer = job.call("cube", "--progress", "json", "--json")
    assert answer.code == 0, answer.err
    lines = [json.loads(line) for line in answer.err.splitlines()]
    assert all(line["time"].endswith("+00:00") for line in lines)
    assert any(line.get("message") == "search    15 scenes" for line in lines)
    last = [line for line in lines if line.get("stage") == "cube"][-1]
    assert (last["done"], last["total"], last["seconds_left"]) == (4, 4, 0)
    assert last["rate"] > 0


def test_progress_counts_what_was_finished_earlier_and_reckons_without_it():
    progress = Progress()
    assert progress.line()["stage"] == ""
    progress.note_earlier("cube", 6, 10)
    stage = progress.begin("cube", 4)
    assert (progress.line()["done"], progress.line()["total"], progress.line()["seconds_left"]) == (6, 10, None)
    stage.done, stage.started = 1, stage.started - 30
    line = progress.line()
    assert (line["done"], line["rate"], line["seconds_left"]) == (
        7,
        pytest.approx(2, abs=0.1),
        pytest.approx(90, abs=2),
    )
    progress.end(stage)
    progress.note_result({"stages": {"fetch": {"bytes": 5, "seconds": 1}, "decode": {"bytes": 9, "seconds": 1}}})
    progress.note_result("something else")
    assert progress.bytes_read == 5


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "[" * 100_000, '{"total": "x", "done": {}, "dashboard": 3}', '{"total": true}', "\xff"]
)
def test_a_progress_file_that_is_none_says_nothing(tmp_path, text):
    (tmp_path / PROGRESS).write_text(text, encoding="latin-1")
    assert read_progress(tmp_path) == {}


def test_a_full_disk_loses_the_journal_and_not_the_run(tmp_path):
    (tmp_path / "file").write_text("")
    RunLog(tmp_path / "file" / "logs" / "run.log")("lost")
    text = metrics_text(
        {
            **{"run": "a", "status": "running", "stages": {"cube": {"done": 1, "total": 2}}, "seconds": {"cube": 1.5}},
            **{"bytes_read": 0, "lost": 0, "workers": 0},
        }
    )
    assert 'mangroves_tile_years_done{run="a",stage="cube"} 1\n' in text


def test_the_performance_report_names_tasks_and_none_of_their_arguments(job, monkeypatch):
    answer = job.call("cube", "--performance-report")
    assert answer.code == 0, answer.err
    [path] = (job.run / "logs").glob("performance-*.html")
    page = path.read_text(encoding="utf-8")
    assert "Dask Performance Report" in page
    assert "cube_task" in page
    assert str(job.archive.items.parent) not in page
    monkeypatch.setattr("jobs.performance.importlib.util.find_spec", lambda name: None)
    line = job.call("cube", "--performance-report").error
    assert "--performance-report needs bokeh; pip install" in line


def fail(href: str) -> None:
    logging.getLogger("distributed.scheduler").warning("cannot read %s", href)
    time.sleep(0.1)
    raise OSError(f"cannot read {href}")


def test_no_token_gets_into_the_performance_report(tmp_path):
    href = "https://landsateuwest.blob.core.windows.net/a/b.tif?se=2026-01-01&sig=S3CRETS3CRET"
    with open_cluster("threads") as client, keep_performance(client, tmp_path) as path:
        futures = [client.submit(fail, href, key=key, pure=False) for key in ("a", f"fail-{href}")]
        for future in futures:
            assert "S3CRET" in str(future.exception())
    page = path.read_text(encoding="utf-8")
    assert "Dask Performance Report" in page
    assert "S3CRET" not in page


def test_a_run_that_fails_leaves_its_report_too(own_job):
    path = sorted(own_job.archive.items.parent.rglob("*_SR_B5.TIF"))[0]
    path.write_bytes(b"")
    assert "asset nir08" in own_job.call("cube", "--performance-report").error
    assert list((own_job.run / "logs").glob("performance-*.html"))


def test_without_a_terminal_nothing_of_the_log_is_lost(capsys):
    reporter, said = Reporter(), []
    reporter.log = said.append
    reporter.say("a line")
    list(reporter.track("ab", 2, "cube"))
    assert said == ["a line", "cube      2/2  0 s, about 0 s left"]
