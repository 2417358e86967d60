"""The command line as a newcomer meets it: help that reads, JSON that parses, plans that are right."""

from __future__ import annotations

import datetime as dt
import json
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
import rasterio
from shapely.geometry import shape

from engine.errors import ConfigError
from jobs.cli import COMMANDS, cli
from tests.jobs.calls import Job, mangroves, trees

ROOT = Path(__file__).resolve().parents[2]


def every_command(group: click.Group = cli, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], click.Command]]:
    """Return all commands and groups by their words."""
    found: list[tuple[tuple[str, ...], click.Command]] = [(path, group)]
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        found += (
            every_command(command, (*path, name)) if isinstance(command, click.Group) else [((*path, name), command)]
        )
    return found


def test_the_issue_s_commands_are_all_there():
    issue = "simulate masks plan search cube sample train classify change run status doctor bench "
    issue += "explore tune evaluate predict assess cluster logs resume cancel verify why "
    issue += "page view serve report reproduce edit suggest"
    assert set(issue.split()) == set(COMMANDS)


@pytest.mark.parametrize(
    ("words", "command"), every_command(), ids=lambda part: " ".join(part) if isinstance(part, tuple) else ""
)
def test_help_is_one_sentence_and_every_option_has_one(words, command):
    answer = mangroves(*words, "--help")
    assert answer.code == 0
    assert answer.err == ""
    first = (command.help or "").split("\n\n")[0]
    assert first[0].isupper()
    assert first.endswith(".")
    assert ". " not in first
    assert not [p.name for p in command.params if isinstance(p, click.Option) and not p.help and p.name != "help"]


def test_every_example_of_the_help_is_a_command_line_that_parses():
    shown = 0
    for words, command in every_command():
        for line in (command.epilog or "").splitlines():
            if line.startswith("  "):
                name, *arguments = shlex.split(line)
                assert (name, *arguments[: len(words)]) == ("mangroves", *words)
                command.make_context(" ".join(words), arguments[len(words) :])
                shown += 1
    assert shown > len(COMMANDS)


def test_what_begins_is_said_before_anything_is_imported_for_it(monkeypatch, tmp_path):
    def no_import(name: str) -> None:
        raise ConfigError(f"{name} is imported")

    monkeypatch.setattr("jobs.cli.importlib.import_module", no_import)
    assert mangroves("report", tmp_path).err.splitlines()[0].startswith("report    write one HTML file of all")
    first = mangroves("run", "a.yaml", "--progress", "json").err.splitlines()[0]
    assert json.loads(first)["message"].startswith("run       map an area")
    assert mangroves("status", tmp_path).err.startswith("error: jobs.status is imported")
    assert mangroves("run", "--help").err.startswith("error: ")


def test_python_m_jobs_is_mangroves(tmp_path):
    for arguments, expected in ((["--version"], "mangroves, version "), (["--help"], "Usage: mangroves ")):
        command = [sys.executable, "-m", "jobs", *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout.startswith(expected)


def one_document(text: str) -> dict[str, object]:
    document, end = json.JSONDecoder().raw_decode(text)
    assert text[end:].strip() == ""
    return document


@pytest.mark.parametrize("command", ["search", "plan", "cube", "sample", "train", "classify", "change", "run"])
def test_json_is_one_document_on_standard_output(finished_copy, command):
    answer = finished_copy.call(command, "--json")
    assert answer.code == 0, answer.err
    assert one_document(answer.out)


def test_json_of_the_other_commands_is_one_document_too(finished, tmp_path):
    status = one_document(mangroves("status", finished.run, "--json").out)
    assert status["finished"] == {"cube": 4, "sample": 4, "maps": 4, "history": 2, "change": 2}
    doctor = mangroves("doctor", "--json", "--cluster", "threads", "--out", tmp_path / "runs")
    assert [check["check"] for check in one_document(doctor.out)["checks"]] == [
        *("versions", "disk", "cluster", "software", "memory", "threads", "scratch", "clock")
    ]
    assert not (tmp_path / "runs").exists()
    world = ("--size-px", "64", "--scenes-per-year", "1", "--regions", "Cuba1", "--cluster", "threads")
    made = one_document(mangroves("simulate", tmp_path / "world", "--json", *world).out)
    assert Path(made["items"]).is_file()
    assert made["notice"].startswith("SIMULATED")


def test_every_raster_says_which_configuration_items_and_trees_made_it(finished):
    record = finished.record
    for path in (*finished.run.glob("maps/2016/*.tif"), *finished.run.glob("maps/2016/*.vrt")):
        with rasterio.open(path) as file:
            tags = file.tags()
        assert tags["config_sha256"] == record["config_sha256"]
        assert tags["items_sha256"] == record["items"]["sha256"]
        assert tags["trees_sha256"] == trees(finished.run)
        assert tags["labels"] == "mask_2015 2015; mask_2018 2018"


def test_gmw_codes_are_written_when_asked_for(finished_copy):
    answer = finished_copy.call("classify", "--as", "gmw", "--json")
    written = one_document(answer.out)["gmw"]
    assert len(written) == 4
    assert all(Path(path).name.startswith("gmw_") for path in written)


def test_status_reads_for_a_person_and_tells_what_ended_a_run(finished, own_job):
    answer = mangroves("status", finished.run)
    assert "tiny: last command finished" in answer.out
    assert "classify" in answer.out
    path = sorted(own_job.archive.items.parent.rglob("*_SR_B5.TIF"))[0]
    path.write_bytes(b"")
    own_job.call("cube")
    answer = mangroves("status", own_job.run)
    assert "tiny: last command failed" in answer.out
    assert f"failed: SceneError: scene {path.parent.name}, asset nir08" in answer.out
    assert "run.json is not there" in mangroves("status", own_job.folder).error


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["simulate", "{tmp}/world", "--regions", "Atlantis"], "Atlantis"),
        (["simulate", "{tmp}/world", "--years", "soon"], "is not a year or first-last"),
        (["simulate", "{tmp}/world", "--years", "1975"], "1975"),
        (["simulate", "{tmp}/file/world"], "{tmp}/file"),
        (["masks", "get", "--source", "gmw", "--year", "1985", "--area", "Cuba1"], "there is no gmw mask of 1985"),
        (["masks", "get", "--source", "gmw", "--year", "2020", "--area", "Atlantis"], "unknown region 'Atlantis'"),
        (["masks", "get", "--source", "gmw", "--year", "2020", "--area", "1,2,3,x"], "is not west,south,east,north"),
        (["masks", "get", "--source", "gmw", "--year", "2020", "--area", "9,9,1,1"], "is not west,south,east,north"),
        (["doctor", "--cluster", "nowhere"], ""),
    ],
)
def test_mistakes_of_the_other_commands_are_one_line(tmp_path, arguments, expected, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    words = [word.replace("{tmp}", str(tmp_path)) for word in arguments]
    more = ("--cluster", "threads") if words[0] == "simulate" else ()
    answer = mangroves(*words, *more)
    if words[0] == "doctor":
        assert answer.code == 1
        assert "no cluster profile 'nowhere'" in answer.out
    else:
        assert expected.replace("{tmp}", str(tmp_path)) in answer.error


def test_a_reader_that_goes_away_is_no_traceback(finished):
    command = [sys.executable, "-m", "jobs", "status", str(finished.run), "--json"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as going:
        going.stdout.close()
        said = going.stderr.read()
    assert said == ""


def test_a_plan_is_what_one_reckons_by_hand(job):
    profiles = job.folder / "profiles.yaml"
    profiles.write_text("profiles: {two: {kind: threads, workers: 2}}")
    more = ("--cluster-file", profiles, "--json", "--mb-per-second", "0.01")
    answer = mangroves(*job.arguments("plan", *more, cluster="two"))
    plan = one_document(answer.out)
    items = json.loads(job.archive.items.read_text())["features"]
    looks: dict[tuple[str, int, str], dict[tuple[str, str, dt.date], float]] = {}
    regions = json.loads(job.archive.regions.read_text())["features"]
    squares = {feature["properties"]["name"]: shape(feature["geometry"]) for feature in regions}
    for item in items:
        about = item["properties"]
        when = dt.datetime.fromisoformat(about["datetime"])
        path = str(about["landsat:wrs_path"])
        region = "India" if "/sim-India/" in item["assets"]["red"]["href"] else "Vietnam2"
        clear = looks.setdefault((region, when.year, about["platform"]), {})
        key = (about["platform"], path, when.date())
        square = squares[f"sim-{region}"]
        covered = shape(item["geometry"]).intersection(square).area / square.area
        clear[key] = max(clear.get(key, 0), covered * (1 - about["eo:cloud_cover"] / 100))
    assert (plan["tiles"], plan["years"], plan["tile_years"]) == (2, [2016, 2017], 4)
    assert plan["scenes"] == len(items)
    assert plan["pixels_per_year"] == 2 * 128 * 128
    assert plan["tasks"] == 4 + 4 + 4 + 3 * 2 + 2
    assert plan["workers"] == 2
    assert plan["write_gb_estimated"] == round(32 * 4 * 128 * 128 / 1e9, 3)
    pixels = 128 * 128
    # The process, 32 requests of 3 MB, and the features of a tile, which here take more than its few looks.
    assert plan["task_memory_gb_bound"] == round(((640 + 32 * 3) * 2**20 + pixels * 200) / 1e9, 2)
    for row in plan["looks"]:
        of_year = [clear for (_, year, name), clear in looks.items() if (year, name) == (row["year"], row["platform"])]
        by_hand = sum(sum(clear.values()) for clear in of_year) / 2
        assert row["clear_looks_at_most"] == pytest.approx(by_hand, abs=0.1)
    # Eight assets of 2 bytes a pixel, 1.6 times compressed, at 0.01 MB/s for each of two workers; some scenes
    # do not cover all of their tile. The masks label both years, so all are read again for thinned composites.
    full = 2 * len(items) * pixels * 8 * 2 / 1.6 / 1e6 / 0.01 / 2 / 3600
    assert 0.5 * full < plan["hours_estimated"] <= full + 0.001


def test_a_plan_that_does_not_fit_names_the_numbers_and_the_setting(job):
    profiles = job.folder / "profiles.yaml"
    profiles.write_text("profiles: {small: {kind: threads, workers: 1, memory_limit: 600MB}}")
    for command in ("plan", "run"):
        line = mangroves(*job.arguments(command, "--cluster-file", profiles, cluster="small")).error
        assert "one task needs 0.78 GB (" in line
        assert "a worker has 0.60 GB" in line
        assert "raise memory_limit in cluster.yaml" in line
    assert not (job.run / "cube").exists()


def test_a_plan_says_the_same_to_a_person(job):
    answer = job.call("plan")
    assert "2 tiles x 2 years = 4 tile-years, 20 tasks" in answer.out
    assert "a task holds at most 0.78 GB" in answer.out


def test_overrides_reach_the_run(job):
    assert one_document(job.call("plan", "--json", "--set", "years=[2016]").out)["years"] == [2016]


def test_the_configuration_may_be_named_either_way(job: Job):
    path = job.write()
    options = ("--cluster", "threads", "--allow-root", job.archive.items.parent)
    assert mangroves("search", "--config", path, *options).code == 0
    assert mangroves("search", path, "--config", path, *options).code == 0
