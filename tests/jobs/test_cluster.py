"""Profiles are listed and shown without starting anything; only what outlives a command is stopped by name."""

from __future__ import annotations

import json

import dask
import pytest
import yaml

from tests.jobs.calls import mangroves
from tests.jobs.test_workers import await_port, scheduler

ROWS = """
profiles:
  here: {kind: local, workers: 3, memory_limit: 2GiB}
  hpc: {kind: slurm, memory_limit: 4GiB, interface: lo, queue: long, adapt: {minimum: 2, maximum: 8}}
  nodes: {kind: ssh, hosts: [node1, node2], processes: 4, plain: yes}
  pods: {kind: kubernetes, image: "r.org/m:1", memory_limit: 4GiB, plain: yes, workers: 5}
  there: {kind: address, address: "tcp://127.0.0.1:9"}
"""


@pytest.fixture
def profiles(tmp_path):
    (tmp_path / "profiles.yaml").write_text(ROWS)
    return "--cluster-file", tmp_path / "profiles.yaml"


def test_the_profiles_are_listed_with_what_they_start(profiles):
    found = json.loads(mangroves("cluster", "ls", *profiles, "--json").out)
    rows = {row["profile"]: row for row in found["profiles"]}
    assert rows["here"] | {"state": "ready"} == rows["here"]
    assert rows["here"]["starts"] == "3 workers, threads: 1, 2GiB each"
    assert rows["hpc"]["starts"] == "2 to 8 workers, 4GiB each"
    assert rows["nodes"]["starts"] == "4 workers on each of 2 hosts"
    assert rows["there"]["state"] == "nobody answers"
    text = mangroves("cluster", "ls", *profiles).out
    assert all(name in text for name in rows)


def test_the_packaged_profiles_are_listed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "threads of this process" in mangroves("cluster", "ls").out


def test_a_batch_profile_is_shown_as_the_script_of_its_job_without_secrets(profiles):
    with dask.config.set({"jobqueue.slurm.job-script-prologue": ["export CATALOG_TOKEN=abcdef"]}):
        shown = mangroves("cluster", "show", "hpc", *profiles).out
    assert "#SBATCH -p long" in shown
    assert "--interface lo" in shown
    assert "abcdef" not in shown


def test_others_are_shown_as_yaml(profiles):
    assert yaml.safe_load(mangroves("cluster", "show", "here", *profiles).out)["n_workers"] == 3
    manifest = yaml.safe_load(mangroves("cluster", "show", "pods", *profiles).out)
    assert manifest["kind"] == "DaskCluster"
    assert json.loads(mangroves("cluster", "show", "pods", *profiles, "--json").out)["starts"] == manifest


def test_a_package_or_profile_that_is_not_there_is_one_line(profiles):
    assert "known are here, hpc" in mangroves("cluster", "show", "big", *profiles).error


def test_what_ends_with_its_command_is_not_stopped(profiles):
    assert "a cluster of kind slurm ends with the command" in mangroves("cluster", "stop", "hpc", *profiles).error


def test_a_scheduler_that_is_not_there_is_one_line(profiles, monkeypatch):
    monkeypatch.setattr("jobs.cluster.REACH_SECONDS", 1)
    assert "scheduler tcp://127.0.0.1:9 cannot be reached" in mangroves("cluster", "stop", "there", *profiles).error


@pytest.mark.slow
def test_a_running_scheduler_is_told_and_stopped(tmp_path):
    with scheduler(tmp_path) as (address, profiles, running):
        await_port(address)
        rows = json.loads(mangroves("cluster", "ls", "--cluster-file", profiles, "--json").out)["profiles"]
        assert [row["state"] for row in rows] == ["running"]
        answer = mangroves("cluster", "stop", "there", "--cluster-file", profiles)
        assert answer.out == f"stopped {address}\n", answer.err
        assert running.wait(timeout=20) == 0


@pytest.mark.slow
def test_the_gateway_that_is_not_there_is_one_line(tmp_path):
    (tmp_path / "g.yaml").write_text("profiles: {g: {kind: gateway, address: 'http://127.0.0.1:9'}}")
    assert (
        "gateway http://127.0.0.1:9 cannot be reached"
        in mangroves("cluster", "stop", "g", "--cluster-file", tmp_path / "g.yaml").error
    )
