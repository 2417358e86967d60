"""From a profile to a running cluster: keywords of the class that makes it, and the class behind one thin function.

Packages of a kind are imported only when one of that kind is asked for.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import secrets
import shlex
import shutil
import socket
import ssl
import sys
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import dask
import dask.utils
from distributed import Client, Security
from distributed.diagnostics.plugin import Environ
from tornado.ioloop import PeriodicCallback

from engine.errors import ClusterError
from engine.profiles import (
    AddressProfile,
    CloudProfile,
    GatewayProfile,
    KubernetesProfile,
    LocalProfile,
    PbsProfile,
    Profile,
    SlurmProfile,
    SshProfile,
    ThreadsProfile,
    Tls,
    has_secret,
    is_loopback,
    walltime_seconds,
    walltime_text,
)
from engine.threads import cores

REACH_SECONDS: Final = 15
"""To connect to a scheduler, and again to one whose connection broke; with TCP_SECONDS below 30."""

TCP_SECONDS: Final = 12
"""After which a silent machine counts as gone."""

WORKER_ENVIRONMENT: Final = {
    # One task a thread: nothing below it may start threads of its own, or spin while it waits for them.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",
    # Dask's default trims the heap at every freed 64 KiB: blocks are then paged in again and again, and
    # rendering one simulated region took 10.4 s in place of 4.4, 6.0 of them in the kernel.
    "MALLOC_TRIM_THRESHOLD_": str(256 * 2**20),
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
}
"""Of worker processes, wherever they are started for us."""

REFILL_SECONDS: Final = 15
"""Between looks at whether jobs of a batch scheduler have ended, and must be asked for anew."""

_NO_DASHBOARD: Final = "127.0.0.1:0"  # None would still bind a port, or every interface
_CLASSES: Final = {
    "local": ("distributed", "LocalCluster", ""),
    "threads": ("distributed", "LocalCluster", ""),
    "address": ("distributed", "Client", ""),
    "ssh": ("distributed", "SSHCluster", "mangroves[ssh]"),
    "slurm": ("dask_jobqueue", "SLURMCluster", "mangroves[hpc]"),
    "pbs": ("dask_jobqueue", "PBSCluster", "mangroves[hpc]"),
    "gateway": ("dask_gateway", "GatewayCluster", "mangroves[gateway]"),
    "kubernetes": ("dask_kubernetes.operator", "KubeCluster", "dask-kubernetes"),
    "fargate": ("dask_cloudprovider.aws", "FargateCluster", "dask-cloudprovider[aws]"),
    "ec2": ("dask_cloudprovider.aws", "EC2Cluster", "dask-cloudprovider[aws]"),
    "azurevm": ("dask_cloudprovider.azure", "AzureVMCluster", "dask-cloudprovider[azure]"),
    "gcp": ("dask_cloudprovider.gcp", "GCPCluster", "dask-cloudprovider[gcp]"),
    "coiled": ("coiled", "Cluster", "coiled"),
}
"""Kind or provider -> module, what makes a cluster of it, what to install."""


class Launched(NamedTuple):
    """What was started."""

    cluster: Any
    """None where a scheduler ran already."""

    client: Client

    refused: list[Exception]
    """What a batch scheduler answered instead of taking a job; filled as jobs are submitted."""


def package_of(profile: Profile) -> tuple[str, str]:
    """Return the package a profile's cluster needs, and what to install; both empty where we bring it."""
    module, _, install = _CLASSES[_maker(profile)]
    package = "asyncssh" if isinstance(profile, SshProfile) else module.partition(".")[0]
    return (package, install) if install else ("", "")


def is_installed(profile: Profile) -> bool:
    """Tell whether the package a profile's cluster needs is there."""
    package, _ = package_of(profile)
    return not package or importlib.util.find_spec(package) is not None


def submit_command(profile: Profile) -> str:
    """Return the command that hands a profile's jobs to a batch scheduler; empty where there are none."""
    return {"slurm": "sbatch", "pbs": "qsub"}.get(profile.kind, "")


def class_of(profile: Profile) -> Callable[..., Any]:
    """Return what makes a profile's cluster of ``arguments_of``.

    Raises
    ------
    ClusterError
        If its package, or the command it submits by, is not installed.
    """
    module, name, install = _CLASSES[_maker(profile)]
    if not is_installed(profile):
        package, _ = package_of(profile)
        raise ClusterError(f"kind {profile.kind} needs {package}, which is not here", fix=f"pip install '{install}'")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


def arguments_of(profile: Profile) -> dict[str, Any]:
    """Return the keywords of what makes a profile's cluster; certificates and size come on top of them.

    Nothing is imported, opened or started.
    """
    match profile:
        case LocalProfile() | ThreadsProfile():
            return _local_arguments(profile)
        case AddressProfile():
            return {"address": profile.address, "timeout": REACH_SECONDS}
        case SshProfile():
            return _ssh_arguments(profile)
        case SlurmProfile() | PbsProfile():
            return _batch_arguments(profile)
        case GatewayProfile():
            return _given(address=profile.address, auth=profile.auth) | profile.options
        case KubernetesProfile():
            return {"custom_cluster_spec": manifest_of(profile), "namespace": profile.namespace, "quiet": True}
        case CloudProfile():
            return _cloud_arguments(profile)


def threads_of(profile: Profile) -> int:
    """Return how many tasks run at once when all workers of a profile are there; 0 where only they can tell."""
    if isinstance(profile, AddressProfile):
        return 0
    if isinstance(profile, ThreadsProfile):
        return profile.workers or cores()
    if isinstance(profile, SshProfile):
        return len(profile.hosts) * profile.processes * profile.threads_per_worker
    threads = 1 if isinstance(profile, GatewayProfile) else profile.threads_per_worker or 1
    return threads * (profile.adapt.maximum if profile.adapt else workers_of(profile))


def first_workers_of(profile: Any) -> int:
    """Return the worker processes that a profile begins with."""
    return profile.adapt.minimum if profile.adapt else workers_of(profile)


def workers_of(profile: Profile) -> int:
    """Return the worker processes of a profile that does not adapt."""
    return getattr(profile, "workers", None) or (cores() if isinstance(profile, LocalProfile) else 1)


def launch(profile: Profile) -> Launched:
    """Start a profile's cluster and connect to it; workers of others than ``local`` come later.

    Raises
    ------
    ClusterError
        If a package or command is missing.
    Exception
        Of any kind, from what was to be started; nothing of it is left.
    """
    refused: list[Exception] = []
    make, arguments = class_of(profile), arguments_of(profile)
    tls: Tls | None = getattr(profile, "tls", None)
    if tls is not None and not isinstance(profile, SshProfile):  # whose processes read dask's configuration
        arguments["security"] = security_of(tls)
    if isinstance(profile, AddressProfile):
        reach(profile, REACH_SECONDS)
        return Launched(None, make(**arguments), refused)
    if isinstance(profile, SlurmProfile | PbsProfile):
        if shutil.which(command := submit_command(profile)) is None:
            raise ClusterError(f"{command} is not on this machine", fix="run where jobs are submitted: a login node")
        arguments["job_cls"] = _noting(make.job_cls, refused)  # type: ignore[attr-defined]
    if isinstance(profile, KubernetesProfile):  # where another run may have one
        arguments["custom_cluster_spec"] = manifest_of(profile, f"mangroves-{secrets.token_hex(4)}")
    cluster = None
    try:
        cluster = make(**arguments)
        client = Client(cluster, timeout=REACH_SECONDS)
        if isinstance(profile, GatewayProfile):  # whose server alone says what a worker is started with
            client.register_plugin(Environ(WORKER_ENVIRONMENT | profile.environment))
        _scale(cluster, profile)
        return Launched(cluster, client, refused)
    except BaseException:
        if cluster is not None:
            cluster.close()
        raise


def reach(profile: AddressProfile, seconds: float) -> None:
    """Wait until the scheduler at an address greets whoever connects, as dask's client would, but never for ever.

    That one hangs on a scheduler that is stopped, and tries a refused certificate again and again.

    Raises
    ------
    ClusterError
        If nobody listens, nobody greets, or one side does not accept the other's certificate.
    """
    secure = profile.address.startswith("tls://")
    deadline = time.monotonic() + seconds
    while True:
        try:
            with socket.create_connection((profile.host.strip("[]"), profile.port), timeout=seconds) as connection:
                if secure:
                    security = security_of(profile.tls) if profile.tls else Security()
                    connection = security.get_connection_args("client")["ssl_context"].wrap_socket(connection)
                with connection:
                    if connection.recv(1):
                        return
            reason, fix = "it hangs up", "see to its log"
        except ssl.SSLError as error:
            reason = f"certificate refused: {getattr(error, 'verify_message', '') or error.reason or error}"
            fix = "see that both sides have valid certificates of the same ca_file"
            break
        except TimeoutError:
            reason = "it does not answer"
            fix = "see to the scheduler, and to its log" + ("" if secure else "; one with TLS has an address tls://")
            break
        except OSError as error:
            reason, fix = error.strerror or str(error), "see that the scheduler runs there"
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)
    raise ClusterError(f"scheduler {profile.address} cannot be reached ({reason})", fix=fix)


def security_of(tls: Tls) -> Security:
    """Return what dask asks of both ends of a connection."""
    sides = {f"tls_{side}_{what}": str(path) for side in ("client", "scheduler", "worker") for what, path in _pair(tls)}
    return Security(require_encryption=True, tls_ca_file=str(tls.ca_file), **sides)


def settings_of(profile: Profile) -> dict[str, Any]:
    """Return the settings of dask that a profile's cluster is started with, where the user's own say nothing."""
    settings: dict[str, Any] = {
        "distributed.comm.timeouts.connect": f"{REACH_SECONDS}s",
        "distributed.worker.daemon": False,
        # A tile-year task is large by design: neither warn of it nor let a busy loop look like a fault.
        "distributed.admin.tick.limit": "60s",
        "distributed.nanny.pre-spawn-environ": WORKER_ENVIRONMENT,
    }
    if isinstance(profile, LocalProfile):
        # A worker that starts again on a busy machine may take longer than dask's 15 s: given up, none would be left
        # and the run would wait for ever. Where really none comes back, it ends.
        settings["distributed.deploy.lost-worker-timeout"] = "10 minutes"
        settings["distributed.scheduler.no-workers-timeout"] = "5 minutes"
    if getattr(profile, "adapt", None):
        settings["distributed.scheduler.unknown-task-duration"] = "30s"  # of a tile-year not yet seen: or none is added
    if not isinstance(profile, LocalProfile | ThreadsProfile):
        settings["distributed.comm.timeouts.tcp"] = f"{TCP_SECONDS}s"
    user = dask.config.collect(paths=dask.config.paths)
    settings = {key: value for key, value in settings.items() if dask.config.get(key, None, config=user) is None}
    if isinstance(profile, SshProfile):
        # All of dask's configuration travels on the command line of the hosts, for everybody there to see.
        settings |= {key: {} for key, value in dask.config.config.items() if key != "distributed" and has_secret(value)}
        if profile.tls is not None:
            settings |= {"distributed.comm.require-encryption": True, "distributed.comm.default-scheme": "tls"}
            settings["distributed.comm.tls.ca-file"] = str(profile.tls.ca_file)
            for side in ("client", "scheduler", "worker"):
                settings |= {f"distributed.comm.tls.{side}.{what}": str(path) for what, path in _pair(profile.tls)}
    return settings


def job_script_of(profile: SlurmProfile | PbsProfile) -> str:
    """Return the script of a worker's job as it would be submitted, but for the scheduler's address."""
    arguments = arguments_of(profile) | ({"security": security_of(profile.tls)} if profile.tls else {})
    arguments = {key: value for key, value in arguments.items() if key != "scheduler_options"}
    make: Any = class_of(profile)
    script: str = make.job_cls(
        "tls://SCHEDULER" if profile.tls else "tcp://SCHEDULER", "NAME", **arguments
    ).job_script()
    return script


def manifest_of(profile: KubernetesProfile, name: str = "mangroves") -> dict[str, Any]:
    """Return the ``DaskCluster`` resource of a profile, as dask's Kubernetes operator takes it."""
    memory = f"{dask.utils.parse_bytes(profile.memory_limit) // 2**20}Mi"
    threads = str(profile.threads_per_worker)
    amounts = {"cpu": threads, "memory": memory}
    shared = {
        "image": profile.image,
        "env": [{"name": key, "value": value} for key, value in (WORKER_ENVIRONMENT | profile.environment).items()],
        "resources": {"requests": amounts, "limits": amounts},
    }
    ports = {"tcp-comm": 8786, "http-dashboard": 8787}
    worker = ["dask", "worker", "--name", "$(DASK_WORKER_NAME)", "--nthreads", threads, "--memory-limit", memory + "B"]
    check = {"httpGet": {"port": "http-dashboard", "path": "/health"}}
    listening = [{"name": port, "containerPort": number, "protocol": "TCP"} for port, number in ports.items()]
    served = [{"name": port, "port": number, "targetPort": port, "protocol": "TCP"} for port, number in ports.items()]
    scheduler = {
        "spec": {
            "containers": [
                {
                    "name": "scheduler",
                    "args": ["dask", "scheduler", "--host", "0.0.0.0"],
                    "ports": listening,
                    "readinessProbe": check | {"periodSeconds": 1, "timeoutSeconds": 300},
                    "livenessProbe": check | {"initialDelaySeconds": 15, "periodSeconds": 20},
                    **shared,
                }
            ]
        },
        "service": {
            "type": "ClusterIP",
            "selector": {"dask.org/cluster-name": name, "dask.org/component": "scheduler"},
            "ports": served,
        },
    }
    workers = {
        "replicas": first_workers_of(profile),
        "spec": {"containers": [{"name": "worker", "args": worker, **shared}]},
    }
    return {
        "apiVersion": "kubernetes.dask.org/v1",
        "kind": "DaskCluster",
        "metadata": {"name": name},
        "spec": {"worker": workers, "scheduler": scheduler},
    }


def _maker(profile: Profile) -> str:
    return profile.provider if isinstance(profile, CloudProfile) else profile.kind


def _given(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _pair(tls: Tls) -> tuple[tuple[str, str], tuple[str, str]]:
    return ("cert", str(tls.certificate)), ("key", str(tls.key))


def _local_arguments(profile: LocalProfile | ThreadsProfile) -> dict[str, Any]:
    arguments = {
        "memory_limit": profile.memory_limit,
        "dashboard_address": profile.dashboard or _NO_DASHBOARD,
        # By default a worker in this process serves its own on every interface.
        "worker_dashboard_address": _NO_DASHBOARD,
        "silence_logs": logging.CRITICAL,
    }
    if isinstance(profile, ThreadsProfile):  # which speak through memory and bind nothing
        count = profile.workers or cores()
        return arguments | {"n_workers": 1, "threads_per_worker": count, "processes": False}
    return arguments | {
        "n_workers": first_workers_of(profile),
        "threads_per_worker": profile.threads_per_worker,
        "host": "127.0.0.1",
        "protocol": "tls://" if profile.tls else "tcp://",
        "env": profile.environment,
    }


def _ssh_arguments(profile: SshProfile) -> dict[str, Any]:
    connect = _given(port=profile.port, username=profile.user)
    if profile.identity_file:
        connect["client_keys"] = [str(profile.identity_file.expanduser())]
    if profile.known_hosts:
        connect["known_hosts"] = str(profile.known_hosts.expanduser())
    bound = _given(interface=profile.interface)
    if not bound and all(map(is_loopback, profile.hosts)):
        bound = {"host": "127.0.0.1"}
    worker = {
        "n_workers": profile.processes,
        "nthreads": profile.threads_per_worker,
        "memory_limit": profile.memory_limit or "auto",
        "dashboard_address": _NO_DASHBOARD,
    }
    # Of the scheduler too, which has no other way to be told where to find us.
    variables = [f"{name}={value}" for name, value in (WORKER_ENVIRONMENT | profile.environment).items()]
    scheduler = {"dashboard_address": _NO_DASHBOARD, "port": 0, "protocol": "tls" if profile.tls else "tcp"}
    return {
        "hosts": [profile.hosts[0], *profile.hosts],
        "connect_options": connect,
        "worker_options": worker | bound,
        "scheduler_options": scheduler | bound,
        "remote_python": shlex.join(["env", *variables, profile.python or sys.executable]),
    }


def _batch_arguments(profile: SlurmProfile | PbsProfile) -> dict[str, Any]:
    processes = profile.processes or profile.setting("processes") or 1
    threads = profile.threads_per_worker
    memory = profile.memory_limit and f"{processes * dask.utils.parse_bytes(profile.memory_limit) // 2**20}MiB"
    seconds = walltime_seconds(profile.walltime or profile.setting("walltime") or "00:30:00")
    variables = WORKER_ENVIRONMENT | profile.environment
    # Workers hand over what they hold and end before the batch scheduler ends them, not all at once.
    extra = ["--lifetime", f"{seconds * 92 // 100}s", "--lifetime-stagger", f"{seconds * 4 // 100}s"]
    extra += ["--no-dashboard", "--dashboard-address", _NO_DASHBOARD]
    return _given(
        queue=profile.queue,
        account=profile.account,
        walltime=walltime_text(seconds),
        cores=processes * threads if threads else profile.setting("cores") or processes,
        processes=processes,
        memory=memory or None,
        interface=profile.interface,
        python=profile.python,
        protocol="tls://" if profile.tls else None,
        log_directory=profile.log_directory and str(profile.log_directory.expanduser()),
        job_extra_directives=list(profile.directives) or None,
        job_script_prologue=[
            *(f"export {name}={shlex.quote(value)}" for name, value in variables.items()),
            *(profile.setup or profile.setting("job-script-prologue") or ()),
        ],
        worker_extra_args=[*(profile.setting("worker-extra-args") or ()), *extra],
        scheduler_options={
            **(profile.setting("scheduler-options") or {}),
            "dashboard_address": profile.dashboard or _NO_DASHBOARD,
        },
    )


def _cloud_arguments(profile: CloudProfile) -> dict[str, Any]:
    threads, variables = profile.threads_per_worker, WORKER_ENVIRONMENT | profile.environment
    count = first_workers_of(profile)
    if profile.provider == "fargate":
        megabytes = dask.utils.parse_bytes(str(profile.memory_limit)) // 2**20
        arguments = _given(region_name=profile.region, image=profile.image, environment=variables)
        arguments |= {"worker_cpu": 1024 * threads, "worker_nthreads": threads, "worker_mem": megabytes}
        return arguments | {"n_workers": count} | profile.options
    worker = _given(nthreads=threads, memory_limit=profile.memory_limit)
    if profile.provider == "coiled":
        types = [profile.instance] if profile.instance else None
        arguments = _given(region=profile.region, container=profile.image, worker_vm_types=types)
        return arguments | {"environ": variables, "worker_options": worker, "n_workers": count} | profile.options
    region, instance = {
        "ec2": ("region", "instance_type"),
        "azurevm": ("location", "vm_size"),
        "gcp": ("zone", "machine_type"),
    }[profile.provider]
    arguments = _given(**{region: profile.region, instance: profile.instance, "docker_image": profile.image})
    more = {"env_vars": variables, "worker_options": worker, "n_workers": count, "security": True}
    return arguments | more | profile.options


def _noting(job: Any, refused: list[Exception]) -> Any:
    """Return a job of a batch scheduler that notes why it was not taken: nobody else would hear of it."""

    class Noting(job):
        async def start(self) -> None:
            try:
                await super().start()
            except Exception as error:
                refused.append(error)
                raise

    return Noting


def _scale(cluster: Any, profile: Profile) -> None:
    if isinstance(profile, ThreadsProfile | AddressProfile | SshProfile):
        return
    if profile.adapt:
        cluster.adapt(minimum=profile.adapt.minimum, maximum=profile.adapt.maximum)
    elif not isinstance(profile, LocalProfile):
        cluster.scale(workers_of(profile))
    if isinstance(profile, SlurmProfile | PbsProfile):
        seen: set[Any] = set()

        async def refill() -> None:
            await refill_jobs(cluster, seen)

        cluster.loop.add_callback(PeriodicCallback(refill, REFILL_SECONDS * 1000).start)


async def refill_jobs(cluster: Any, seen: set[Any]) -> None:
    """Ask a batch scheduler anew for jobs that have ended, as those at their walltime do; the package does not.

    Parameters
    ----------
    cluster : dask_jobqueue.core.JobQueueCluster
    seen : set
        Names of jobs whose workers were there at an earlier look; changed.
    """
    present = {str(worker["name"]) for worker in cluster.scheduler_info["workers"].values()}
    for name in [name for name in cluster.workers if name in cluster.worker_spec]:
        workers = {f"{name}{suffix}" for suffix in cluster.worker_spec[name].get("group", ("",))}
        if workers & present:
            seen.add(name)
        elif name in seen:
            seen.discard(name)
            await cluster.workers.pop(name).close()
    cluster.scale(len(cluster.plan))
