"""A run whose terminal may close: started, watched, stopped and gone on with by its folder alone."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import dask
import pytest
import yaml

from engine.errors import ConfigError
from engine.files import locked
from engine.profiles import SlurmProfile, pick_profile
from jobs import detach, driver
from jobs.driver import Driver, job_name, note_driver, read_driver, state_of
from tests.jobs.calls import Job, mangroves, markers, trees

HERE: dict[str, object] = {"cluster": "threads", "command": ["mangroves", "run"], "when": "2026-01-01T00:00:00+00:00"}


def await_true(condition: Callable[[], bool], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def status(job: Job) -> dict:
    return json.loads(mangroves("status", job.run, "--json").out)


def cubes(job: Job) -> int:
    return len(list((job.run / "cube").glob("*/201?.json")))


def resume(job: Job, *more: str | Path, cluster: str = "threads"):
    return mangroves("resume", job.run, "--cluster", cluster, *allowed(job), *more)


def allowed(job: Job) -> tuple[str | Path, ...]:
    """Return what a command says to read the archive and to write to ``out``: no record of a run says it for it."""
    return ("--allow-root", job.archive.items.parent, "--allow-root", job.folder)


@pytest.fixture
def slow_job(job: Job, monkeypatch: pytest.MonkeyPatch) -> Job:
    """A run whose driver takes a while to build cubes: one thread, small requests."""
    (job.folder / "profiles.yaml").write_text("profiles: {threads: {kind: threads, workers: 1}, local: {kind: local}}")
    monkeypatch.chdir(job.folder)
    monkeypatch.setenv("MANGROVES_TEST", "1")
    return job


@pytest.mark.parametrize(
    "cluster", [pytest.param("threads", marks=pytest.mark.long), pytest.param("local", marks=pytest.mark.faults)]
)
def test_a_detached_run_is_watched_cancelled_and_resumed_to_the_identical_result(slow_job, finished, cluster):
    job, profiles = slow_job, ("--cluster-file", slow_job.folder / "profiles.yaml")
    answer = mangroves(*job.arguments("run", "--detach", *profiles, cluster=cluster))
    assert answer.code == 0, answer.err
    noted = read_driver(job.run)
    assert noted is not None
    assert f"{job.run} is driven by process {noted.pid} on {noted.host}" in answer.out
    assert os.getsid(noted.pid) == noted.pid, "a session of its own"
    assert Path(f"/proc/{noted.pid}/fd/0").resolve() == Path(os.devnull)
    assert state_of(noted, job.run) == "running"
    for again in (job.call("run"), job.call("run", "--detach"), resume(job), resume(job, "--detach")):
        assert f"another command works on {job.run}; wait for it, or stop it" in again.error
    await_true(lambda: cubes(job) >= 1)
    seen = status(job)
    assert (seen["driver"]["state"], seen["status"]) == ("running", "running")
    assert seen["progress"]["dashboard"].startswith("http://127.0.0.1:")
    assert f"driven by process {noted.pid}" in mangroves("status", job.run).out
    answer = mangroves("cancel", job.run)
    assert answer.code == 0, answer.out
    assert "has stopped; mangroves resume" in answer.out
    assert state_of(noted, job.run) == "ended"
    assert job.record["status"] == "interrupted"
    made = cubes(job)
    assert made >= 1
    said = mangroves("logs", job.run).out
    assert "search    15 scenes" in said
    assert said.rstrip().endswith("interrupted")
    said = mangroves("logs", job.run, "--driver").out
    assert "stopped; the same command goes on from what is finished" in said
    assert "Traceback" not in said
    assert "nothing works on" in mangroves("cancel", job.run).out
    answer = resume(job, "--detach", *profiles, cluster=cluster)
    assert answer.code == 0, answer.err
    followed = mangroves("logs", job.run, "--follow")
    assert followed.out.rstrip().endswith("finished")
    assert f"cube      {made} of 4 tile-years finished earlier, skipped" in followed.out
    await_true(lambda: status(job)["driver"]["state"] == "ended")
    assert (markers(job.run), trees(job.run)) == (markers(finished.run), trees(finished.run))
    assert (job.record["stages"]["cube"]["counts"]) == {"done": 4 - made, "skipped": made}


@pytest.mark.long
def test_a_detached_driver_that_is_killed_is_told_and_fresh_sets_aside_what_it_left(slow_job):
    job = slow_job
    more = ("--set", "seed=5", "--skip-bad", "--fresh")
    (job.run / "cube").mkdir(parents=True)
    (job.run / "run.json").write_text("damaged")
    answer = mangroves(*job.arguments("run", "--detach", *more))
    assert answer.code == 0, answer.err
    noted = read_driver(job.run)
    assert noted is not None
    assert [path.name for path in (job.folder / "runs").glob("tiny-*")], "set aside before the driver began"
    assert (job.record["config"]["seed"], job.record["config"]["skip_bad"]) == (5, True)
    os.kill(noted.pid, 9)
    await_true(lambda: state_of(noted, job.run) == "ended")
    assert status(job)["driver"]["state"] == "killed"
    assert "ended without a word; mangroves resume" in mangroves("status", job.run).out


def test_a_mistake_is_told_by_the_command_that_detaches(job):
    job.config["years"] = [1950]
    assert "years" in job.call("run", "--detach").error
    job.config["years"] = [2016, 2017]
    assert "no cluster profile 'nowhere'" in mangroves(*job.arguments("run", "--detach", cluster="nowhere")).error
    signed = ("--set", "search.catalogs=[https://a/b?sig=S3CRET]", "--allow-host", "a")
    line = job.call("run", "--detach", *signed).error
    assert "S3CRET" not in line
    assert not job.run.exists()
    assert "is not detached" in mangroves("run", "--demo", "--detach").error


@pytest.mark.long
def test_a_driver_that_ends_at_once_is_one_line_with_its_own(job):
    job.config["labels"] = {"masks": [{"path": "nix.tif", "year": 2016}]}
    (job.folder / "bad.yaml").write_text("profiles: {there: {kind: address, address: 'tcp://127.0.0.1:9'}}")
    job.run.mkdir(parents=True)
    (job.run / "driver.json").write_text("{")  # of an earlier driver: no reason to leave this one alone
    line = mangroves(
        *job.arguments("run", "--detach", "--cluster-file", job.folder / "bad.yaml", cluster="there")
    ).error
    assert "the driver ended at once: scheduler tcp://127.0.0.1:9 cannot be reached" in line
    assert "logs/driver-" in line


# What a record may ask for


def test_a_record_widens_nothing(finished, tmp_path_factory, monkeypatch):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    line = mangroves("resume", finished.run, "--cluster", "threads").error
    assert f"out: {finished.folder / 'runs'} lies outside the allowed folders" in line
    assert "pass --allow-root" in line
    line = mangroves("resume", finished.run, "--cluster", "threads", "--allow-root", finished.folder).error
    assert "lies outside the allowed folders; if you trust it pass --allow-root" in line
    assert str(finished.archive.items.parent) in line


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"name": "../../etc"}, "name"),
        ({"name": "other"}, "is the record of"),
        ({"hosts": ["evil.example"]}, "unknown key 'hosts'"),
        ({"years": "all"}, "years"),
        ({"area": [1]}, "area"),
    ],
)
def test_a_recorded_configuration_is_checked_as_one_in_a_file(finished_copy, change, expected):
    record = finished_copy.record
    record["config"] |= {"out": str(finished_copy.run.parent)} | change
    (finished_copy.run / "run.json").write_text(json.dumps(record))
    line = resume(finished_copy).error
    assert "run.json" in line
    assert expected in line


def test_resume_of_a_finished_run_does_nothing_and_of_another_area_is_refused(finished_copy):
    record = finished_copy.record
    record["config"]["out"] = str(finished_copy.run.parent)
    (finished_copy.run / "run.json").write_text(json.dumps(record))
    answer = resume(finished_copy)
    assert answer.code == 0, answer.err
    assert "change    2 of 2 tile-years finished earlier, skipped" in answer.err
    record["config"]["area"]["sha256"] = "0" * 64
    (finished_copy.run / "run.json").write_text(json.dumps(record))
    assert "area.sha256" in resume(finished_copy).error
    assert "run.json is not there" in mangroves("resume", finished_copy.folder).error


@pytest.mark.parametrize(
    "change",
    [
        {"pid": 1},
        {"pid": "1; kill -9 -1"},
        {"pid": -1},
        {"kind": "ssh"},
        {"kind": "slurm", "job": "12 --all"},
        {"kind": "slurm", "job": "--user=root"},
        {"kind": "pbs", "job": "1.srv;rm"},
        {"kind": "slurm"},
        {"host": "a b"},
        {"log": "../../../etc/passwd"},
        {"more": 1},
    ],
)
def test_a_note_of_a_driver_that_is_none_is_refused_and_nothing_is_signalled(tmp_path, change):
    note = {"kind": "process", "host": "vm", "pid": 4242, "started": 1.0, **HERE, **change}
    (tmp_path / "driver.json").write_text(json.dumps(note))
    assert "driver.json is damaged (" in mangroves("cancel", tmp_path).error


def test_a_process_that_holds_no_lock_of_the_run_is_not_its_driver(tmp_path):
    folder = tmp_path / "tiny"
    folder.mkdir()
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as foreign:
        note_driver(folder, "threads", ["mangroves", "run"])  # of this process, which holds no lock either
        mine = read_driver(folder)
        assert mine is not None
        started = driver.psutil.Process(foreign.pid).create_time()
        theirs = mine.model_copy(update={"pid": foreign.pid, "started": started})
        driver.write_driver(folder, theirs)
        assert state_of(theirs, folder) == "ended"
        assert "nothing works on" in mangroves("cancel", folder).out
        assert foreign.poll() is None
        foreign.kill()
    with locked(folder):
        assert state_of(mine, folder) == "running"
        assert state_of(mine.model_copy(update={"started": 5.0}), folder) == "ended", "its number went to another"
        elsewhere = mine.model_copy(update={"host": "node7"})
        assert state_of(elsewhere, folder) == "elsewhere"
        driver.write_driver(folder, elsewhere)
        assert "runs on host node7; run mangroves cancel there" in mangroves("cancel", folder).error
    assert state_of(mine, folder) == "ended"


# Batch schedulers, by stand-ins for their commands; tests/cluster has a real one

STAND_IN = """#!/bin/sh
echo "$(basename $0) $*" >> {calls}
case "$(basename $0)" in
  sbatch) cp "$2" {submitted}; echo "4711;cluster" ;;
  squeue) cat {state} ;;
  scancel) : > {state} ;;
  qsub) cp "$2" {submitted}; echo "4711.server" ;;
  qstat) cat {state} ;;
  qdel) : > {state} ;;
esac
"""


@pytest.fixture
def scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the calls that reached a batch scheduler, the script it was given, and the state it tells."""
    folder = tmp_path / "scheduler"
    (folder / "bin").mkdir(parents=True)
    names = {name: folder / name for name in ("calls", "submitted", "state")}
    for name in ("sbatch", "squeue", "scancel", "qsub", "qstat", "qdel"):
        program = folder / "bin" / name
        program.write_text(STAND_IN.format(**names))
        program.chmod(program.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    return folder


def read_profile(folder: Path, body: str) -> SlurmProfile:
    (folder / "profiles.yaml").write_text(f"profiles: {{a: {{{body}}}}}")
    profile = pick_profile("a", folder / "profiles.yaml")
    assert isinstance(profile, SlurmProfile)
    return profile


def batch(job: Job, **keys: object) -> tuple[str | Path, ...]:
    profile = {
        **{"queue": "normal", "account": "coast", "walltime": "1-02:00:00", "memory_limit": "4GiB"},
        **{"interface": "lo", "directives": ["--qos=low"], "setup": ["module load gdal"], **keys},
    }
    (job.folder / "batch.yaml").write_text(yaml.safe_dump({"profiles": {"there": profile}}))
    return ("--cluster-file", job.folder / "batch.yaml")


def test_a_driver_becomes_a_slurm_job_as_its_profile_says(job, scheduler, monkeypatch):
    monkeypatch.chdir(job.folder)
    options = ("--detach", *batch(job, kind="slurm"), "--set", "seed=7", "--skip-bad", "--json")
    answer = mangroves(*job.arguments("run", *options, cluster="there"))
    assert answer.code == 0, answer.err
    noted = json.loads(answer.out)["driver"]
    assert (noted["kind"], noted["job"], noted["cluster"]) == ("slurm", "4711", "there")
    script = (scheduler / "submitted").read_text().splitlines()
    log = job.run / "logs" / noted["log"]
    assert script[:9] == [
        "#!/bin/sh",
        "#SBATCH --output=/dev/null",
        f"#SBATCH --job-name={job_name(job.run)}",
        "#SBATCH --partition=normal",
        "#SBATCH --account=coast",
        "#SBATCH --time=26:00:00",
        "#SBATCH --mem=4096M",
        "#SBATCH --qos=low",
        f"exec >>{log} 2>&1",
    ]
    assert script[9:11] == [f"cd {job.folder} || exit 1", "module load gdal"]
    last = script[-1]
    assert last.startswith(
        f"exec {sys.executable} -P -m jobs run {job.folder / 'tiny.yaml'} --set=seed=7 --cluster=there"
    )
    assert last.endswith("--skip-bad")
    subprocess.run(["sh", "-n", scheduler / "submitted"], check=True)


def test_a_job_is_told_refused_twice_and_cancelled_only_under_its_own_name(job, scheduler, monkeypatch):
    monkeypatch.chdir(job.folder)
    options = ("--detach", *batch(job, kind="slurm"))
    assert mangroves(*job.arguments("run", *options, cluster="there")).code == 0
    (scheduler / "state").write_text("PENDING|somebodys-other-job\n")
    assert "nothing works on" in mangroves("cancel", job.run).out
    assert "scancel" not in (scheduler / "calls").read_text()
    (scheduler / "state").write_text(f"PENDING|{job_name(job.run)}\n")
    for again in (job.call("run"), mangroves(*job.arguments("run", *options, cluster="there"))):
        assert f"slurm job 4711 drives {job.run}; wait for it, or mangroves cancel it" in again.error
    assert "slurm job 4711 has stopped" in mangroves("cancel", job.run).out
    assert "scancel 4711" in (scheduler / "calls").read_text().splitlines()
    (scheduler / "state").write_text(f"RUNNING|{job_name(job.run)}\n")
    assert mangroves("cancel", job.run).code == 0
    assert "scancel --batch --signal=INT 4711" in (scheduler / "calls").read_text().splitlines()


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", "ended"),
        ("echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1", "elsewhere"),
        ("echo 'OUT_OF_MEMORY|{name}'", "ended"),
        ("echo 'NODE_FAIL|{name}'", "ended"),
        ("echo 'CONFIGURING|{name}'", "pending"),
    ],
)
def test_a_scheduler_that_cannot_tell_is_not_taken_for_a_job_that_ended(tmp_path, scheduler, answer, state):
    (scheduler / "bin" / "squeue").write_text("#!/bin/sh\n" + answer.format(name=job_name(tmp_path)))
    noted = Driver.model_validate({"kind": "slurm", "job": "12", **HERE})
    assert state_of(noted, tmp_path) == state
    if state == "ended":
        assert driver.stop(noted, tmp_path)
        assert not (scheduler / "calls").exists(), "no job of another's is cancelled"


def test_a_driver_s_job_is_filled_by_the_users_own_settings_but_for_secrets(tmp_path):
    profile = read_profile(tmp_path, "kind: slurm, memory_limit: 4GiB, interface: lo")
    user = {"job-extra-directives": ["--qos=low"], "job-script-prologue": ["module load y"], "python": "/opt/python"}
    with dask.config.set({f"jobqueue.slurm.{key}": value for key, value in user.items()}):
        lines = driver.batch_script(profile, tmp_path, ["run"], "driver-1.log").splitlines()
    assert {"#SBATCH --qos=low", "module load y", "exec /opt/python -P -m jobs run"} <= {*lines}
    with (
        dask.config.set({"jobqueue.slurm.job-script-prologue": ["export CATALOG_TOKEN=abcdef"]}),
        pytest.raises(ConfigError, match=r"holds a secret.*; export it where the command is typed") as caught,
    ):
        driver.batch_script(profile, tmp_path, ["run"], "driver-1.log")
    assert "abcdef" not in str(caught.value)


def test_a_driver_becomes_a_pbs_job(job, scheduler, monkeypatch):
    monkeypatch.chdir(job.folder)
    options = ("--detach", *batch(job, kind="pbs", directives=["-m n"]))
    assert mangroves(*job.arguments("run", *options, cluster="there")).code == 0
    script = (scheduler / "submitted").read_text().splitlines()
    assert script[1:9] == [
        "#PBS -j oe",
        "#PBS -o /dev/null",
        f"#PBS -N {job_name(job.run)}",
        "#PBS -q normal",
        "#PBS -A coast",
        "#PBS -l walltime=26:00:00",
        "#PBS -l select=1:ncpus=1:mem=4096mb",
        "#PBS -m n",
    ]
    (scheduler / "state").write_text(f"Job Id: 4711\n    Job_Name = {job_name(job.run)}\n    job_state = R\n")
    noted = read_driver(job.run)
    assert noted is not None
    assert state_of(noted, job.run) == "running"
    assert "pbs job 4711.server has stopped" in mangroves("cancel", job.run).out
    assert "qdel 4711.server" in (scheduler / "calls").read_text().splitlines()


def test_a_scheduler_that_is_not_there_or_takes_no_job_is_one_line(job, scheduler, monkeypatch):
    monkeypatch.chdir(job.folder)
    options = ("--detach", *batch(job, kind="slurm"))
    (scheduler / "bin" / "sbatch").write_text("#!/bin/sh\necho 'invalid partition' >&2; exit 1")
    line = mangroves(*job.arguments("run", *options, cluster="there")).error
    assert "sbatch took no job (invalid partition); see queue, account, walltime and directives" in line
    monkeypatch.setenv("PATH", "/nowhere")
    assert "sbatch is not on this machine; submit from a login" in (
        mangroves(*job.arguments("run", *options, cluster="there")).error
    )
    noted = Driver.model_validate({"kind": "slurm", "job": "12", **HERE})
    assert state_of(noted, job.run) == "elsewhere"


def test_a_driver_that_runs_as_the_submitted_job_says_where(job, monkeypatch):
    job.run.mkdir(parents=True)
    driver.write_driver(job.run, Driver.model_validate({"kind": "slurm", "job": "12", **HERE}))
    monkeypatch.setenv("SLURM_JOB_ID", "13")  # of a shell within some other job: that is not ours to cancel
    note_driver(job.run, "threads", ["mangroves", "run"])
    noted = read_driver(job.run)
    assert noted is not None
    assert (noted.kind, noted.pid) == ("process", os.getpid())
    driver.write_driver(job.run, Driver.model_validate({"kind": "slurm", "job": "12", **HERE}))
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    note_driver(job.run, "threads", ["mangroves", "run"])
    noted = read_driver(job.run)
    assert noted is not None
    assert (noted.kind, noted.job, noted.pid) == ("slurm", "12", os.getpid())


def test_the_option_is_of_run_and_resume(job):
    assert detach.DETACH
    assert "No such option" in job.call("cube", "--detach").error
