"""How far a run is, named by its folder or by its configuration."""

from __future__ import annotations

import json

from tests.jobs.calls import mangroves


def test_a_configuration_names_the_run_as_well_as_its_folder(finished):
    by_folder = json.loads(mangroves("status", finished.run, "--json").out)
    by_config = json.loads(mangroves("status", "--config", finished.write(), "--json").out)
    assert by_config == by_folder
    assert by_folder["finished"] == {"cube": 4, "sample": 4, "maps": 4, "history": 2, "change": 2}


def test_overrides_may_name_another_run_but_no_folder_that_a_configuration_may_not_reach(job, tmp_path_factory):
    config = job.write()
    line = mangroves("status", "--config", config, "--set", "name=other").error
    assert f"{job.folder / 'runs' / 'other' / 'run.json'} is not there" in line
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    options = ("--config", config, "--set", f"out={elsewhere}")
    assert f"if you trust it pass --allow-root {elsewhere.parent}" in mangroves("status", *options).error
    line = mangroves("status", *options, "--allow-root", elsewhere).error
    assert f"{elsewhere / 'tiny' / 'run.json'} is not there" in line
    assert "out 's3://b/x' is not a folder" in mangroves("status", "--config", config, "--set", "out=s3://b/x").error


def test_a_run_is_named_exactly_once(job):
    config = job.write()
    for arguments in ([], [job.run, "--config", config]):
        answer = mangroves("status", *arguments)
        assert "give either the folder RUN of a run or its --config" in answer.error
        assert answer.code == 2
    assert "name it with --config" in mangroves("status", job.run, "--set", "name=other").error


def test_a_run_that_failed_before_its_search_has_a_status_too(job):
    job.config["labels"] = {"masks": [{"path": "nix.tif", "year": 2016}]}
    assert "nix.tif" in job.call("run").error
    answer = mangroves("status", job.run)
    assert answer.code == 0, answer.err
    assert "scenes: 0; refused 0" in answer.out
    (job.run / "run.json").write_text("[]")
    assert "run.json is damaged" in mangroves("status", job.run).error
