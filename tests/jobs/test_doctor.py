"""What a machine has, checked for a configuration."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from engine.diagnose import Machine, examine
from jobs import doctor
from tests.jobs.calls import mangroves

HERE = examine()._replace(host="a", cores=2, threads=1, memory_bytes=8 * 10**9, limit_bytes=4 * 10**9, time=100.0)
HERE = HERE._replace(openmp_threads="1", scratch_free_bytes=50 * 10**9)


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


# Workers, judged


def workers(*machines: Machine) -> dict[str, Machine]:
    return {f"tcp://10.0.0.{number}:1": machine for number, machine in enumerate(machines, start=1)}


def test_threads_are_held_against_the_cores_of_their_host():
    assert doctor.check_threads(workers(HERE, HERE, HERE._replace(host="b")))["state"] == "ok"
    check = doctor.check_threads(workers(HERE, HERE, HERE))
    assert (check["state"], check["found"]) == ("warn", "a runs 3 tasks at once on 2 cores")
    assert "lower workers or threads_per_worker" in check["fix"]
    check = doctor.check_threads(workers(HERE, HERE._replace(openmp_threads="")))
    assert check["state"] == "warn"
    assert "OMP_NUM_THREADS=1" in check["fix"]
    assert doctor.check_threads(workers(HERE._replace(openmp_threads="")))["state"] == "ok", "it has the cores alone"


def test_scratch_is_that_of_the_worker_with_the_least():
    assert doctor.check_scratch(workers(HERE, HERE))["state"] == "ok"
    check = doctor.check_scratch(workers(HERE, HERE._replace(scratch_free_bytes=10**9, scratch="/tmp/b")))
    assert (check["state"], check["found"]) == ("warn", "1 GB free at /tmp/b of worker tcp://10.0.0.2:1")


@pytest.mark.parametrize(("at", "state"), [(100.0, "ok"), (101.5, "ok"), (160.0, "warn"), (40.0, "warn")])
def test_clocks_of_workers_are_those_of_the_client_while_it_waited(at, state):
    check = doctor.check_clocks(workers(HERE, HERE._replace(time=at)), asked=99.5, waited=2.0)
    assert check["state"] == state
    if state == "warn":
        assert "NTP" in check["fix"]
        assert "tcp://10.0.0.2:1" in check["found"]


@pytest.mark.slow
def test_a_host_with_more_workers_than_cores_and_memory_is_told(tmp_path):
    here = examine()
    cores, limit = here.cores, f"{here.memory_bytes // (here.cores + 1) // 2**20 + 500}MiB"
    profile = {"kind": "local", "workers": cores + 1, "memory_limit": limit}
    (tmp_path / "many.yaml").write_text(yaml.safe_dump({"profiles": {"many": profile}}))
    options = ("--cluster-file", tmp_path / "many.yaml", "--cluster", "many", "--out", tmp_path / "runs")
    answer = mangroves("doctor", "--json", *options)
    found = {check["check"]: check for check in json.loads(answer.out)["checks"]}
    assert found["software"]["state"] == "ok", found
    assert f"runs {cores + 1} tasks at once on {cores} cores" in found["threads"]["found"]
    assert "lower memory_limit" in found["memory"]["fix"]
    assert answer.code == 0, "it works, if badly"


# The archive


def test_reach_reads_the_catalogs_of_the_configuration_here_and_on_a_worker(job):
    answer, found = checks("--reach", "--config", job.write(), "--allow-root", job.archive.folder)
    assert answer.code == 0, answer.out
    assert found["catalog"]["mb_per_second"] > 0
    assert found["token"]["found"] == "not needed"
    assert found["from workers"]["found"].startswith("1 of them, one a host, signed and read scene ")
    assert "clock of the archive" not in found, "a file has no clock"
    assert "--reach needs --config" in mangroves("doctor", "--reach").error
    answer, found = checks("--reach", "--config", job.write())
    assert answer.code == 1
    assert "pass --allow-root" in found["catalog"]["fix"]


def test_a_scene_that_workers_cannot_read_is_told(own_job, monkeypatch):
    monkeypatch.setattr("jobs.doctor.try_read", lambda *_: "no connection")
    options = ("--reach", "--config", own_job.write(), "--allow-root", own_job.archive.folder)
    answer, found = checks(*options)
    assert answer.code == 1
    assert "(no connection)" in found["from workers"]["found"]
    assert "PC_SDK_" in found["from workers"]["fix"]


def test_a_token_service_that_gives_none_is_told(monkeypatch):
    monkeypatch.setenv("PC_SDK_SAS_URL", "https://not-allowed.example/token")
    code = (
        "from jobs.doctor import check_token; from engine.ranges import Access; from engine.sign import Signer;"
        "from engine.trust import Trust; from types import SimpleNamespace as Scene;"
        "href = 'https://landsateuwest.blob.core.windows.net/landsat-c2/a.tif';"
        "print(check_token(Scene(assets={'qa_pixel': href}), Access(Trust(), Signer(Trust()))))"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert "'state': 'bad'" in done.stdout
    assert "not-allowed.example" in done.stdout
