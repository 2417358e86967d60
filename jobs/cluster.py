"""``mangroves cluster``: the profiles there are, what each would start, and the end of one that outlives a command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import click
import dask
import yaml
from distributed import Client

from engine.errors import ClusterError
from engine.launch import (
    REACH_SECONDS,
    arguments_of,
    is_installed,
    job_script_of,
    manifest_of,
    package_of,
    reach,
    security_of,
    settings_of,
    submit_command,
    threads_of,
    workers_of,
)
from engine.profiles import (
    AddressProfile,
    GatewayProfile,
    KubernetesProfile,
    PbsProfile,
    Profile,
    SlurmProfile,
    SshProfile,
    ThreadsProfile,
    pick_profile,
    read_profiles,
)
from engine.trust import redact
from jobs.config import CLUSTER_FILE, JSON
from jobs.reporter import Reporter


@click.group("cluster")
def command() -> None:
    """List profiles, show what one would start, stop one that outlives a command."""


@command.command("ls")
@CLUSTER_FILE
@JSON
def list_profiles(cluster_file: Path | None, as_json: bool) -> None:
    """List the profiles of cluster.yaml: what each starts, and whether it can."""
    profiles, path = read_profiles(cluster_file)
    rows = [
        {"profile": name, "kind": profile.kind, "starts": describe(profile), "state": state_of(profile)}
        for name, profile in profiles.items()
    ]
    reporter = Reporter(as_json=as_json)
    reporter.table(str(path), ("profile", "kind", "what it starts", "state"), [tuple(row.values()) for row in rows])
    reporter.result({"file": str(path), "profiles": rows}, "")


@command.command("show")
@click.argument("profile_name", metavar="PROFILE")
@CLUSTER_FILE
@JSON
def show(profile_name: str, cluster_file: Path | None, as_json: bool) -> None:
    """Print what PROFILE would start: a job script, a manifest, or keywords; nothing is started."""
    profile = pick_profile(profile_name, cluster_file)
    if isinstance(profile, SlurmProfile | PbsProfile):
        content: Any = job_script_of(profile)
    elif isinstance(profile, KubernetesProfile):
        content = manifest_of(profile)
    else:
        content = arguments_of(profile)
    plain = json.loads(redact(json.dumps(content)))  # the user's own settings of dask are in it; and no YAML anchors
    text = plain if isinstance(plain, str) else yaml.safe_dump(plain, sort_keys=False)
    Reporter(as_json=as_json).result({"profile": profile_name, "kind": profile.kind, "starts": plain}, text.rstrip())


@command.command("stop")
@click.argument("profile_name", metavar="PROFILE")
@click.option("--id", "cluster_id", help="Of the gateway's clusters, where there are several.")
@CLUSTER_FILE
@JSON
def stop(profile_name: str, cluster_id: str | None, cluster_file: Path | None, as_json: bool) -> None:
    """Close the scheduler and workers of PROFILE, an address or a gateway: others end with their command."""
    profile = pick_profile(profile_name, cluster_file)
    if isinstance(profile, AddressProfile):
        stopped = stop_scheduler(profile)
    elif isinstance(profile, GatewayProfile):
        stopped = stop_gateway_cluster(profile, cluster_id)
    else:
        raise ClusterError(
            f"a cluster of kind {profile.kind} ends with the command that started it",
            fix="stop that command: Ctrl-C, or mangroves cancel",
        )
    Reporter(as_json=as_json).result({"profile": profile_name, "stopped": stopped}, f"stopped {stopped}")


def describe(profile: Profile) -> str:
    """Say in a few words what a profile starts."""
    if isinstance(profile, AddressProfile):
        return profile.address
    if isinstance(profile, ThreadsProfile):
        return f"{threads_of(profile)} threads of this process"
    limit = getattr(profile, "memory_limit", None)
    memory = "" if limit in (None, "auto") else f", {limit} each"
    if isinstance(profile, SshProfile):
        return f"{profile.processes} workers on each of {len(profile.hosts)} hosts{memory}"
    adapt = profile.adapt
    count = f"{adapt.minimum} to {adapt.maximum}" if adapt else str(workers_of(profile))
    threads = getattr(profile, "threads_per_worker", None)
    return f"{count} workers" + (f", threads: {threads}" if threads else "") + memory


def state_of(profile: Profile) -> str:
    """Say whether a profile's package is installed, and of an address whether somebody answers."""
    if not is_installed(profile):
        return f"pip install '{package_of(profile)[1]}'"
    if (command := submit_command(profile)) and shutil.which(command) is None:
        return f"no {command} here"
    if not isinstance(profile, AddressProfile):
        return "ready"
    try:
        reach(profile, 1)
    except ClusterError:
        return "nobody answers"
    return "running"


def stop_scheduler(profile: AddressProfile) -> str:
    """Close a scheduler and its workers; return its address."""
    reach(profile, REACH_SECONDS)
    security = security_of(profile.tls) if profile.tls else None
    with (
        dask.config.set(settings_of(profile)),
        Client(profile.address, timeout=REACH_SECONDS, security=security, set_as_default=False) as client,
    ):
        client.shutdown()
    return profile.address


def stop_gateway_cluster(profile: GatewayProfile, cluster_id: str | None) -> str:
    """Stop a cluster of a gateway; return its name."""
    if not is_installed(profile):
        raise ClusterError("dask-gateway is not here", fix=f"pip install '{package_of(profile)[1]}'")
    from dask_gateway import Gateway

    try:
        gateway = Gateway(profile.address, auth=profile.auth)  # closes itself, and fails if that was done already
        names = [report.name for report in gateway.list_clusters()]
        if cluster_id is None and len(names) > 1:
            raise ClusterError(f"{len(names)} clusters of yours run there", fix=f"give --id, of {', '.join(names)}")
        name = cluster_id or next(iter(names), None)
        if name not in names:
            running = ", ".join(names) or "none"
            raise ClusterError(f"no cluster {name or 'of yours'} runs at {profile.address}", fix=f"running: {running}")
        gateway.stop_cluster(name)
    except OSError as error:
        raise ClusterError(f"gateway {profile.address} cannot be reached", fix="check address and network") from error
    return str(name)
