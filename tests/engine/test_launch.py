"""Each profile becomes keywords that the class it is handed to really takes; what is rendered can be validated."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
from pathlib import Path
from types import SimpleNamespace

import asyncssh
import dask
import dask_gateway
import pytest
import yaml
from dask_jobqueue import PBSCluster, SLURMCluster
from dask_jobqueue.core import Job, JobQueueCluster
from distributed import Client, LocalCluster, Nanny, Scheduler, SSHCluster, Worker

from engine import launch
from engine.errors import ClusterError
from engine.launch import (
    WORKER_ENVIRONMENT,
    arguments_of,
    class_of,
    is_installed,
    job_script_of,
    manifest_of,
    refill_jobs,
    security_of,
    settings_of,
    threads_of,
)
from engine.profiles import GATEWAY_KEYWORDS, read_profiles

TLS = "tls: {ca_file: ca.pem, certificate: a.pem, key: a.key}"
SLURM = "kind: slurm, memory_limit: 4GiB, interface: lo"


@pytest.fixture
def read(tmp_path):
    """Return a function from the body of a profile to the profile."""

    def profile(body: str):
        (tmp_path / "profiles.yaml").write_text(f"profiles: {{a: {{{body}}}}}")
        return read_profiles(tmp_path / "profiles.yaml")[0]["a"]

    return profile


def keywords(*functions) -> set[str]:
    return {name for function in functions for name in inspect.signature(function).parameters} - {"self", "kwargs"}


# Contracts: what we say against what the installed class takes


@pytest.mark.parametrize("more", ["", ", " + TLS, ", adapt: {maximum: 3}", ", environment: {A: b}"])
def test_local_is_said_in_words_of_local_cluster(read, more):
    arguments = arguments_of(read(f"kind: local{more}"))
    assert set(arguments) <= keywords(LocalCluster.__init__, Nanny.__init__, Worker.__init__)


def test_an_address_is_said_in_words_of_client(read):
    assert set(arguments_of(read("kind: address, address: 'tcp://127.0.0.1:1'"))) <= keywords(Client.__init__)


@pytest.mark.parametrize(("kind", "make"), [("slurm", SLURMCluster), ("pbs", PBSCluster)])
def test_a_batch_profile_is_said_in_words_of_jobqueue(read, kind, make):
    profile = read(
        f"kind: {kind}, memory_limit: 4GiB, interface: lo, queue: a, account: b, walltime: '02:00:00', processes: 2, "
        f"threads_per_worker: 3, python: /opt/python, directives: [--exclusive], setup: [module load x], "
        f"log_directory: logs, environment: {{A: 'b c'}}, {TLS}"
    )
    arguments = arguments_of(profile)
    assert set(arguments) <= keywords(JobQueueCluster.__init__, Job.__init__, make.job_cls.__init__)
    assert class_of(profile) is make
    assert arguments["cores"] == 6
    assert arguments["memory"] == "8192MiB"
    assert arguments["scheduler_options"]["dashboard_address"] == "127.0.0.1:0"


def test_ssh_is_said_in_words_of_ssh_cluster_and_of_what_runs_there(read):
    body = "kind: ssh, hosts: [127.0.0.1, localhost], user: me, port: 2222, identity_file: ~/k, known_hosts: kh"
    arguments = arguments_of(read(body))
    assert set(arguments) <= keywords(SSHCluster)
    assert set(arguments["connect_options"]) <= keywords(asyncssh.SSHClientConnectionOptions.prepare)
    assert arguments["connect_options"]["known_hosts"] == "kh"
    short = arguments_of(read("kind: ssh, hosts: [localhost]"))["connect_options"]
    assert "known_hosts" not in short, "and so they are checked"
    assert set(arguments["worker_options"]) - {"n_workers"} <= keywords(Nanny.__init__, Worker.__init__)
    assert set(arguments["scheduler_options"]) <= keywords(Scheduler.__init__)
    assert arguments["hosts"] == ["127.0.0.1", "127.0.0.1", "localhost"]
    assert arguments["worker_options"]["host"] == arguments["scheduler_options"]["host"] == "127.0.0.1"
    json.dumps(arguments["worker_options"])


def test_ssh_starts_scheduler_and_workers_with_the_variables_of_the_profile(read):
    started = arguments_of(read("kind: ssh, hosts: [localhost], python: /opt/python, environment: {A: 'b c'}"))
    assert started["remote_python"].endswith("'A=b c' /opt/python")
    assert "env OMP_NUM_THREADS=1 " in started["remote_python"]


def test_ssh_listens_on_the_named_interface(read):
    arguments = arguments_of(read("kind: ssh, hosts: [node1], interface: ib0, plain: yes"))
    assert arguments["worker_options"]["interface"] == arguments["scheduler_options"]["interface"] == "ib0"
    assert "host" not in arguments["worker_options"]


def test_a_gateway_is_said_in_words_of_gateway_cluster(read):
    arguments = arguments_of(read("kind: gateway, address: 'https://a.org', auth: basic, options: {profile: big}"))
    assert set(arguments) - {"profile"} <= keywords(dask_gateway.GatewayCluster.__init__)
    assert arguments["profile"] == "big"
    assert keywords(dask_gateway.GatewayCluster.__init__) == {*GATEWAY_KEYWORDS}, "what no option may be called"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            "provider: ec2, region: r, instance: m, image: i, workers: 3, memory_limit: 8GiB, options: {vpc: v}",
            {"region": "r", "instance_type": "m", "docker_image": "i", "n_workers": 3, "security": True, "vpc": "v"},
        ),
        ("provider: azurevm, region: r, instance: m", {"location": "r", "vm_size": "m"}),
        ("provider: gcp, region: r, adapt: {minimum: 2, maximum: 9}", {"zone": "r", "n_workers": 2}),
        (
            "provider: fargate, plain: yes, memory_limit: 8GiB, threads_per_worker: 2",
            {"worker_cpu": 2048, "worker_mem": 8192, "worker_nthreads": 2, "environment": WORKER_ENVIRONMENT},
        ),
        ("provider: coiled, instance: m", {"worker_vm_types": ["m"], "environ": WORKER_ENVIRONMENT}),
    ],
)
def test_a_cloud_is_said_in_words_of_its_provider(read, body, expected):
    assert expected.items() <= arguments_of(read(f"kind: cloud, {body}")).items()


# What is rendered


def test_a_job_script_asks_for_what_the_profile_says_and_ends_its_workers_in_time(read):
    script = job_script_of(read(SLURM + ", queue: long, walltime: '01:00:00', setup: [module load x], "
                                "directives: [--exclusive], environment: {A: 'b c'}"))  # fmt: skip
    for line in ("#SBATCH -p long", "#SBATCH --exclusive", "#SBATCH -t 01:00:00", "#SBATCH --mem=4G", "module load x"):
        assert line in script.splitlines()
    assert "export A='b c'" in script
    for name, value in WORKER_ENVIRONMENT.items():
        assert f"export {name}={value}" in script
    lifetime, stagger = map(int, re.search(r"--lifetime (\d+)s --lifetime-stagger (\d+)s", script).groups())
    assert lifetime + stagger < 3600 * 0.97
    assert "--dashboard-address 127.0.0.1:0" in script
    assert "--interface lo" in script


def test_a_job_script_names_the_certificates(read):
    assert "--tls-ca-file ca.pem --tls-cert a.pem --tls-key a.key" in job_script_of(read(f"{SLURM}, {TLS}"))


def test_the_users_own_settings_of_jobqueue_fill_what_is_left_out(read):
    user = {
        "queue": "mine", "account": "us", "walltime": "03:00:00", "cores": 12, "processes": 3, "memory": "9GB",
        "interface": "lo", "job-extra-directives": ["--qos=low"], "job-script-prologue": ["module load y"],
        "worker-extra-args": ["--resources", "GPU=1"],
    }  # fmt: skip
    with dask.config.set({f"jobqueue.slurm.{key}": value for key, value in user.items()}):
        script = job_script_of(read("kind: slurm"))
        named = job_script_of(read("kind: slurm, queue: other, directives: [--exclusive], setup: [module load x]"))
    for line in ("#SBATCH -p mine", "#SBATCH -A us", "#SBATCH -t 03:00:00", "#SBATCH --qos=low", "module load y"):
        assert line in script.splitlines()
    assert "--nthreads 4" in script
    assert "--nworkers 3" in script
    assert "--resources GPU=1 --lifetime" in script
    assert {"#SBATCH -p other", "#SBATCH --exclusive", "module load x"} <= set(named.splitlines())
    assert "qos" not in named


def test_settings_of_the_users_files_are_left_alone(read, tmp_path, monkeypatch):
    (tmp_path / "distributed.yaml").write_text("distributed: {comm: {timeouts: {connect: 77s}}}")
    monkeypatch.setattr(dask.config, "paths", [str(tmp_path)])
    settings = settings_of(read("kind: local"))
    assert "distributed.comm.timeouts.connect" not in settings
    assert settings["distributed.nanny.pre-spawn-environ"] == WORKER_ENVIRONMENT


def test_secrets_of_dasks_configuration_do_not_travel_by_ssh(read):
    with dask.config.set({"gateway.auth.kwargs": {"password": "word"}, "coiled": {"token": "abc"}}):
        assert {"gateway": {}, "coiled": {}}.items() <= settings_of(read("kind: ssh, hosts: [localhost]")).items()
        assert "gateway" not in settings_of(read("kind: local"))


def test_certificates_reach_both_ends(read):
    profile = read(f"kind: ssh, hosts: [node1], {TLS}")
    settings = settings_of(profile)
    assert settings["distributed.comm.tls.worker.key"] == settings["distributed.comm.tls.scheduler.key"] == "a.key"
    assert settings["distributed.comm.require-encryption"]
    security = security_of(profile.tls)
    assert security.require_encryption
    assert security.get_tls_config_for_role("client")["cert"] == "a.pem"


QUANTITY = re.compile(r"\d+(?:Mi)?")
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def test_a_manifest_is_what_the_operator_takes(read):
    body = "kind: kubernetes, image: 'r.org/m:1', memory_limit: 16GiB, threads_per_worker: 4, plain: yes, workers: 9"
    profile = read(body + ", environment: {GDAL_CACHEMAX: '64'}")
    manifest = manifest_of(profile)
    assert yaml.safe_load(yaml.safe_dump(manifest)) == manifest
    assert (manifest["apiVersion"], manifest["kind"]) == ("kubernetes.dask.org/v1", "DaskCluster")
    assert NAME.fullmatch(manifest["metadata"]["name"])
    assert set(manifest["spec"]) == {"worker", "scheduler"}
    assert manifest["spec"]["worker"]["replicas"] == 9
    for side in ("worker", "scheduler"):
        [container] = manifest["spec"][side]["spec"]["containers"]
        assert container["name"] == side
        assert container["image"] == "r.org/m:1"
        for amounts in container["resources"].values():
            assert all(QUANTITY.fullmatch(amount) for amount in amounts.values())
        variables = {pair["name"]: pair["value"] for pair in container["env"]}
        assert variables == WORKER_ENVIRONMENT | {"GDAL_CACHEMAX": "64"}
        assert all(isinstance(value, str) for value in variables.values())
    [worker] = manifest["spec"]["worker"]["spec"]["containers"]
    assert worker["args"][-4:] == ["--nthreads", "4", "--memory-limit", "16384MiB"]
    service = manifest["spec"]["scheduler"]["service"]
    [scheduler] = manifest["spec"]["scheduler"]["spec"]["containers"]
    assert service["selector"]["dask.org/cluster-name"] == manifest["metadata"]["name"]
    assert {port["targetPort"] for port in service["ports"]} == {port["name"] for port in scheduler["ports"]}
    assert service["type"] == "ClusterIP", "not reached from outside"


# Size, and what is missing


@pytest.mark.parametrize(
    ("body", "threads"),
    [
        ("kind: threads, workers: 3", 3),
        ("kind: local, workers: 3, threads_per_worker: 2", 6),
        ("kind: local, adapt: {maximum: 5}", 5),
        ("kind: ssh, hosts: [localhost, localhost], processes: 2, threads_per_worker: 2", 8),
        (SLURM + ", adapt: {maximum: 40}, threads_per_worker: 8", 320),
        ("kind: address, address: 'tcp://127.0.0.1:1'", 0),
    ],
)
def test_threads_are_those_of_all_workers_that_may_come(read, body, threads):
    assert threads_of(read(body)) == threads


@pytest.mark.parametrize(
    ("body", "fix"),
    [
        ("kind: kubernetes, image: 'a:1', memory_limit: 1GiB, plain: yes", "pip install 'dask-kubernetes'"),
        ("kind: cloud, provider: gcp", r"pip install 'dask-cloudprovider\[gcp\]'"),
        ("kind: cloud, provider: coiled", "pip install 'coiled'"),
    ],
)
def test_a_package_that_is_not_here_is_one_line(read, body, fix):
    profile = read(body)
    if is_installed(profile):
        pytest.skip("it is here")
    with pytest.raises(ClusterError, match=f"kind {profile.kind} needs .*, which is not here; {fix}"):
        launch.launch(profile)


def test_a_machine_that_cannot_submit_jobs_says_so(read, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ClusterError, match="sbatch is not on this machine; run where jobs are submitted"):
        launch.launch(read(SLURM))


async def _refill(suffixes):
    closed = []

    class Job:
        def __init__(self, name):
            self.name = name

        async def close(self):
            closed.append(self.name)

    spec = {"group": suffixes} if suffixes != ("",) else {}
    cluster = SimpleNamespace(
        worker_spec={"a": spec, "b": spec, "c": spec},
        workers={name: Job(name) for name in "abc"},
        scheduler_info={"workers": {i: {"name": f"{n}{suffixes[0]}"} for i, n in enumerate("ab")}},
        plan={"a", "b", "c"},
        scale=lambda n: scaled.append(n),
    )
    scaled: list[int] = []
    seen: set[str] = set()
    await refill_jobs(cluster, seen)
    assert closed == []
    del cluster.scheduler_info["workers"][0]
    await refill_jobs(cluster, seen)
    return closed, set(cluster.workers), scaled


@pytest.mark.parametrize("suffixes", [("",), ("-0", "-1")])
def test_a_job_that_ended_is_asked_for_anew_and_one_that_waits_is_not(suffixes):
    closed, left, scaled = asyncio.run(_refill(suffixes))
    assert closed == ["a"]
    assert left == {"b", "c"}, "c is still in the queue"
    assert scaled == [3, 3]


def test_the_paths_of_certificates_know_the_home_folder(read):
    assert read("kind: local, " + TLS.replace("ca.pem", "~/ca.pem")).tls.ca_file == Path.home() / "ca.pem"
