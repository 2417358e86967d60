"""Commands on a run whose outputs go to a bucket: what may be named there, and what they say of it."""

from __future__ import annotations

import json
import shutil

import pytest

from engine.places import ObjectPath, entries
from tests.jobs.calls import Job, mangroves


@pytest.fixture
def stored(job: Job, bucket: ObjectPath) -> Job:
    """A run over the shared archive whose workers write to a bucket."""
    job.config["store"] = f"{bucket}/mangroves/"
    return job


def test_a_configuration_names_a_store_only_where_the_command_line_allows_it(stored, bucket):
    refusal = f"store: {bucket}/mangroves is not allowed; if you trust it pass --allow-root {bucket}/mangroves"
    assert refusal in stored.call("cube").error
    assert refusal in stored.call("cube", "--allow-root", f"{bucket}/mangroves2").error
    assert refusal in mangroves("doctor", "--cluster", "threads", "--config", stored.write()).error
    stored.run.mkdir(parents=True)
    blank = {
        "name": "tiny",
        "status": "finished",
        "config_sha256": "",
        "stages": {},
        "sessions": [],
        "lost": [],
        "refused": [],
        "items": None,
    }
    record = {**blank, "config": {"store": f"{bucket}/mangroves", "name": "tiny"}}
    (stored.run / "run.json").write_text(json.dumps(record))
    assert refusal in mangroves("status", stored.run).error
    assert entries(bucket) == ([], [])


@pytest.mark.parametrize(
    "store",
    ["s3://bucket/run?sig=S3CRET", "s3://key:S3CRET@bucket/run", "https://account.blob.core.windows.net/a", "runs"],
)
def test_what_is_no_store_is_refused_before_anything_runs(stored, store):
    stored.config["store"] = store
    line = stored.call("cube").error
    assert "is not the plain address of a store; give s3://bucket/prefix or abfs://" in line
    assert "S3CRET" not in line
    assert not stored.run.exists()


def test_a_model_is_taken_from_a_store_only_where_the_command_line_allows_it(stored, bucket):
    stored.config["train"] = {"from": "s3://another/model"}
    line = stored.call("run", "--allow-root", str(bucket)).error
    assert "train.from: s3://another/model is not allowed; if you trust it pass --allow-root s3://another/model" in line
    stored.config["train"] = {"from": f"{bucket}/model"}
    assert f"model {bucket}/model has no readable model.json" in stored.call("run", "--allow-root", str(bucket)).error


def test_a_bucket_that_is_not_there_is_one_line_before_anything_runs(stored, bucket):
    stored.config["store"] = "s3://no-such-bucket-anywhere"
    line = stored.call("cube", "--allow-root", "s3://no-such-bucket-anywhere").error
    assert "s3://no-such-bucket-anywhere/tiny cannot be read (there is no such bucket or container); see to" in line
    assert not stored.run.exists()


def test_doctor_writes_where_the_configuration_does_and_leaves_nothing(stored, bucket):
    options = ("--cluster", "threads", "--config", stored.write(), "--allow-root", f"{bucket}/mangroves")
    checks = {check["check"]: check for check in json.loads(mangroves("doctor", "--json", *options).out)["checks"]}
    assert checks["cluster"]["found"].endswith(f"sees {bucket}/mangroves/tiny")
    assert entries(bucket) == ([], [])


@pytest.mark.slow
def test_cubes_go_to_the_bucket_are_skipped_there_and_set_aside_with_fresh(stored, bucket):
    allowed = ("--allow-root", str(bucket))
    answer = stored.call("cube", "--json", *allowed)
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["cubes"] == f"{bucket}/mangroves/tiny/cube"
    names = {path.name for path in stored.run.iterdir() if path.suffix != ".json"}
    assert names == {"items.parquet", "years.csv", "logs", "metrics.prom"}
    status = json.loads(mangroves("status", stored.run, "--json", *allowed).out)
    assert status["finished"] == {"cube": 4, "sample": 0, "maps": 0, "history": 0, "change": 0}
    copied = json.loads(mangroves("status", f"{bucket}/mangroves/tiny", "--json", *allowed).out)
    assert copied["finished"] == status["finished"]
    assert copied["driver"] == {"state": "ended"}
    assert "run.json is not there" in mangroves("status", f"{bucket}/mangroves/other", *allowed).error
    assert "pass --allow-root" in mangroves("status", f"{bucket}/mangroves/tiny").error
    assert "cube      4 of 4 tile-years finished earlier, skipped" in stored.call("cube", *allowed).err
    # A folder that lost its record does not go on in a bucket that holds somebody's work.
    shutil.rmtree(stored.run)
    assert f"{bucket}/mangroves/tiny holds files of another run" in stored.call("cube", *allowed).error
    assert "skipped" not in stored.call("cube", "--fresh", *allowed).err
    [aside] = [path for path in entries(bucket / "mangroves")[0] if path.name.startswith("tiny-2")]
    assert [path.name for path in entries(aside)[0]] == ["cube"]
