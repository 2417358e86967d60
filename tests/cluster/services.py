"""Real services from packages, each in a folder of its own on loopback, ended with its block by its own process.

A machine that lacks a package, a right or a command skips the test and says which.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
SERVERS = ROOT / ".venv-servers"
"""Where ``.ci/cluster-test.sh`` installs servers that are not ours, apart from the engine's packages."""

_SYSTEM = ("/usr/sbin", "/sbin", "/usr/local/sbin")
"""Not in every user's PATH."""


def need(*commands: str) -> list[str]:
    """Return the paths of system commands, or skip the test."""
    path = os.pathsep.join([os.environ.get("PATH", ""), *_SYSTEM])
    found = {command: shutil.which(command, path=path) for command in commands}
    if missing := [command for command, where in found.items() if where is None]:
        pytest.skip(f"needs {', '.join(missing)}: make cluster-test installs them where apt and root are at hand")
    return [str(where) for where in found.values()]


def need_root() -> None:
    """Skip the test unless it may start daemons as other users."""
    if os.geteuid() != 0:
        pytest.skip("needs root")


def need_server(command: str) -> str:
    """Return the path of a command of ``.venv-servers``, or skip the test."""
    where = SERVERS / "bin" / command
    if not where.is_file():
        pytest.skip(f"needs {command} in .venv-servers: make cluster-test installs it")
    return str(where)


def free_ports(count: int) -> list[int]:
    """Return ports of loopback that nobody listens on."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@contextmanager
def own_folder() -> Iterator[Path]:
    """A short path that other users may enter, unlike pytest's: for sockets and for daemons with users of their own."""
    folder = Path(tempfile.mkdtemp(prefix="service-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def listens(port: int) -> Callable[[], object]:
    """Return a check that something accepts connections on a port of loopback."""
    return lambda: socket.create_connection(("127.0.0.1", port), timeout=2).close()


def answers(*command: str | Path, env: Mapping[str, str] | None = None) -> Callable[[], object]:
    """Return a check that a command succeeds."""
    return lambda: subprocess.run(command, env=env, capture_output=True, timeout=20, check=True)


def await_true(check: Callable[[], object], what: str, seconds: float = 60) -> None:
    """Wait until a check neither raises nor returns False."""
    deadline = time.monotonic() + seconds
    while True:
        with suppress(OSError, subprocess.SubprocessError):
            if check() is not False:
                return
        assert time.monotonic() < deadline, f"{what} within {seconds:.0f} s"
        time.sleep(0.1)


@contextmanager
def service(
    *command: str | Path,
    log: Path,
    ready: Callable[[], object],
    stop: signal.Signals = signal.SIGTERM,
    env: Mapping[str, str] | None = None,
    user: str | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a server in the foreground, wait until it is ready, and end it."""
    other: dict[str, Any] = {"user": user, "group": user, "extra_groups": []} if user else {}
    with log.open("ab") as output:
        process = subprocess.Popen(
            [str(word) for word in command],
            cwd=log.parent,
            env=env and dict(env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **other,
        )

    def begun() -> object:
        assert process.poll() is None, f"{command[0]} ended: {log.read_text(errors='replace')[-2000:]}"
        return ready()

    try:
        await_true(begun, f"{command[0]} is ready")
        yield process
    finally:
        process.send_signal(stop)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def sshd() -> Iterator[dict[str, Any]]:
    """Run a private sshd that lets root in by a key made for it; what a profile of kind ``ssh`` needs to know."""
    need_root()
    daemon, keygen = need("sshd", "ssh-keygen")
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # compiled into Debian's
    (port,) = free_ports(1)
    with own_folder() as folder:
        for name in ("host", "user"):
            subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
        (folder / "authorized").write_text((folder / "user.pub").read_text())
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
        settings = {
            "ListenAddress": f"127.0.0.1:{port}",
            "HostKey": folder / "host",
            "AuthorizedKeysFile": folder / "authorized",
            "PidFile": folder / "pid",
            "PermitRootLogin": "prohibit-password",
            "PasswordAuthentication": "no",
            "UsePAM": "no",
            "StrictModes": "no",
            "SetEnv": f"PYTHONPATH={ROOT}",  # as an installed package would, every login finds this checkout
        }
        (folder / "conf").write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
        with service(daemon, "-D", "-e", "-f", folder / "conf", log=folder / "log", ready=listens(port)):
            yield {
                "hosts": ["127.0.0.1"],
                "port": port,
                "identity_file": str(folder / "user"),
                "known_hosts": str(folder / "known_hosts"),
            }


@contextmanager
def slurm(cores: int = 4) -> Iterator[dict[str, str]]:
    """Run munge and SLURM on one node, apart from the system's; the environment in which its commands find it."""
    need_root()
    munged, controller, node, sinfo, scancel, squeue, _ = need(
        "munged", "slurmctld", "slurmd", "sinfo", "scancel", "squeue", "sbatch"
    )
    ports = free_ports(2)
    with own_folder() as folder:
        key = folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        (folder / "slurm.conf").write_text(_slurm_conf(folder, cores, *ports))
        env = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
        files = {"key-file": key, **{name: folder / f"munge.{name[:4]}" for name in ("socket", "pid-file", "log-file")}}
        munge = [munged, "--foreground", "--force", *(f"--{name}={path}" for name, path in files.items())]
        with (
            service(*munge, f"--seed-file={folder}/seed", log=folder / "m.log", ready=(folder / "munge.sock").stat),
            service(controller, "-D", log=folder / "c.log", ready=listens(ports[0]), env=env),
            service(node, "-D", log=folder / "d.log", ready=listens(ports[1]), env=env),
        ):
            idle = [sinfo, "--noheader", "--states=idle", "--format=%N"]
            await_true(lambda: bool(_said(idle, env)), "a node is idle")
            try:
                yield env
            finally:
                subprocess.run([scancel, "--user=root"], env=env, timeout=30, check=False)
                await_true(lambda: not _said([squeue, "--noheader"], env), "the queue is empty")


def _said(command: Sequence[str], env: Mapping[str, str]) -> str:
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=20, check=True).stdout.strip()


def _slurm_conf(folder: Path, cores: int, controller_port: int, node_port: int) -> str:
    host, memory = socket.gethostname().partition(".")[0], psutil.virtual_memory().total // 2**20
    (folder / "state").mkdir()
    (folder / "spool").mkdir()
    settings = {
        "ClusterName": "mangroves",
        "SlurmctldHost": f"{host}(127.0.0.1)",
        "SlurmctldPort": controller_port,
        "SlurmdPort": node_port,
        "SlurmUser": "root",
        "SlurmdUser": "root",
        "AuthType": "auth/munge",
        "AuthInfo": f"socket={folder}/munge.sock",
        "CredType": "cred/munge",
        "StateSaveLocation": folder / "state",
        "SlurmdSpoolDir": folder / "spool",
        "SlurmctldPidFile": folder / "c.pid",
        "SlurmdPidFile": folder / "d.pid",
        "CommunicationParameters": "NoInAddrAny",
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "JobAcctGatherType": "jobacct_gather/none",
        "AccountingStorageType": "accounting_storage/none",
        "MpiDefault": "none",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_Core",
        "SlurmdParameters": "config_overrides",
        "ReturnToService": 2,
        "KillWait": 5,
        "SchedulerParameters": "sched_interval=5,batch_sched_delay=1",
    }
    return "".join(f"{name}={value}\n" for name, value in settings.items()) + (
        f"NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory={memory} State=UNKNOWN\n"
        f"PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP\n"
    )


@contextmanager
def gateway(env: Mapping[str, str]) -> Iterator[str]:
    """Run a dask-gateway server whose clusters are processes of this user; its address."""
    server = need_server("dask-gateway-server")
    web, private = free_ports(2)
    dask = [sys.executable, "-m", "dask"]
    with own_folder() as folder:
        (folder / "config.py").write_text(
            "from dask_gateway_server.backends.local import UnsafeLocalBackend\n"
            "c.DaskGateway.backend_class = UnsafeLocalBackend\n"
            "c.DaskGateway.authenticator_class = 'dask_gateway_server.auth.SimpleAuthenticator'\n"
            f"c.Proxy.address = '127.0.0.1:{web}'\n"
            f"c.DaskGateway.address = '127.0.0.1:{private}'\n"
            f"c.UnsafeLocalBackend.clusters_directory = {str(folder)!r}\n"
            f"c.ClusterConfig.scheduler_cmd = {[*dask, 'scheduler']!r}\n"
            f"c.ClusterConfig.worker_cmd = {[*dask, 'worker']!r}\n"
        )
        command = (server, "-f", folder / "config.py")
        with service(*command, log=folder / "log", ready=listens(web), stop=signal.SIGINT, env=env):
            yield f"http://127.0.0.1:{web}"


@contextmanager
def stac_catalog(collections: Sequence[Mapping[str, Any]], items: Sequence[Mapping[str, Any]]) -> Iterator[Catalog]:
    """Run stac-fastapi-pgstac over a PostgreSQL cluster of its own that holds these items."""
    need_root()
    load, serve = need_server("pypgstac"), need_server("uvicorn")
    initdb, postgres, ready = _postgres("initdb", "postgres", "pg_isready")
    port, web = free_ports(2)
    with own_folder() as folder:
        data = folder / "data"
        data.mkdir(mode=0o700)
        shutil.chown(data, "postgres", "postgres")
        as_postgres: dict[str, Any] = {"user": "postgres", "group": "postgres", "extra_groups": []}
        setup = [initdb, "--pgdata", str(data), "--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-sync"]
        subprocess.run(setup, cwd=data, capture_output=True, timeout=120, check=True, **as_postgres)
        where = {"PGHOST": "127.0.0.1", "PGPORT": str(port), "PGDATABASE": "postgres", "PGUSER": "postgres"}
        env = {**os.environ, **where, "PGPASSWORD": "unasked"}  # loopback is trusted
        command = [postgres, "-D", data, "-p", str(port), "-k", data, "-h", "127.0.0.1", "-c", "fsync=off"]
        with service(
            *command, log=folder / "p.log", ready=answers(ready, env=env), stop=signal.SIGINT, user="postgres"
        ):
            subprocess.run([load, "migrate"], env=env, capture_output=True, timeout=120, check=True)
            for kind, documents in (("collections", collections), ("items", items)):
                file = folder / f"{kind}.ndjson"
                file.write_text("".join(f"{json.dumps(document)}\n" for document in documents))
                words = ("load", kind, file, "--method", "upsert")
                subprocess.run([load, *words], env=env, capture_output=True, timeout=120, check=True)
            app = ("--factory", "stac_fastapi.pgstac.app:create_app", "--host", "127.0.0.1", "--port", str(web))
            with service(serve, *app, log=folder / "w.log", ready=listens(web), env=env):
                yield Catalog(f"http://127.0.0.1:{web}", folder / "w.log")


class Catalog(NamedTuple):
    """A STAC API, and the log of what it was asked."""

    url: str
    log: Path


def _postgres(*programs: str) -> list[str]:
    """Return the paths of PostgreSQL's programs, which Debian keeps by version, or skip the test."""
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):
        postgis = Path(f"/usr/share/postgresql/{folder.parent.name}/extension/postgis.control")
        if postgis.is_file() and all((folder / program).is_file() for program in programs):
            return [str(folder / program) for program in programs]
    pytest.skip("needs PostgreSQL with PostGIS: make cluster-test installs it where apt and root are at hand")
