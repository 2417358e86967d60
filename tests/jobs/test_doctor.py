"""What a machine has, checked for a configuration."""

from __future__ import annotations

import json

from tests.jobs.calls import mangroves


def checks(*arguments):
    answer = mangroves("doctor", "--json", "--cluster", "threads", *arguments)
    return answer, {check["check"]: check for check in json.loads(answer.out)["checks"]}


def test_the_output_folder_is_that_of_the_configuration_unless_one_is_given(job):
    _, found = checks("--config", job.write())
    assert found["cluster"]["found"].endswith(f"sees {job.folder / 'runs'}")
    assert found["disk"]["found"].endswith(f"at {job.folder}")
    _, found = checks("--config", job.write(), "--set", "out=/etc", "--out", job.folder / "here")
    assert found["cluster"]["found"].endswith(f"sees {job.folder / 'here'}")
    assert [path.name for path in job.folder.iterdir()] == ["tiny.yaml"]


def test_a_configuration_does_not_make_it_write_anywhere(job):
    assert (
        "/etc lies outside the allowed folders"
        in mangroves("doctor", "--cluster", "threads", "--config", job.write(), "--set", "out=/etc").error
    )
    assert "name it with --config" in mangroves("doctor", "--set", "out=/etc").error


def test_folders_it_made_to_look_are_gone_and_those_of_others_stay(job):
    theirs = job.folder / "empty"
    theirs.mkdir()
    for out in (theirs, theirs / "new" / "deeper"):
        _, found = checks("--out", out)
        assert found["cluster"]["found"].endswith(f"sees {out}")
        assert [path.name for path in job.folder.iterdir()] == ["empty"]
        assert not any(theirs.iterdir())


def test_the_archive_is_searched_and_read_where_and_when_the_configuration_maps(job, monkeypatch):
    # The archive on this disk stands in for the one at Microsoft, in everything but its address.
    monkeypatch.setattr("engine.catalog.PLANETARY_COMPUTER", str(job.archive.items))
    options = ("--planetary-computer", "--config", job.write(), "--allow-root", job.archive.folder)
    answer, found = checks(*options)
    assert answer.code == 0
    items = json.loads(job.archive.items.read_text())["features"]
    last = [item for item in items if item["properties"]["datetime"].startswith("2017")]
    india = [item for item in last if "/sim-India/" in item["assets"]["red"]["href"]]
    assert 0 < len(india) < len(last)
    check = found["planetary computer"]
    assert check["found"].startswith(f"{len(india)} scenes found, ")
    assert " bands of 128 x 128 px in " in check["found"]
    assert check["mb_per_second"] > 0
    _, found = checks(*options, "--set", "area={bbox: [0, 0, 0.1, 0.1]}")
    assert found["planetary computer"]["state"] == "bad"
    assert "no scene" in found["planetary computer"]["found"]
