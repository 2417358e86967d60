"""``cluster.yaml``: named profiles that say where to work, validated before anything starts.

A profile has a kind from a fixed list, never the path of a class, and of keys only those of its kind. The file is
trusted as the command line is, but it holds no secrets, and beyond loopback it must ask for TLS or say ``plain``.
"""

from __future__ import annotations

import difflib
import re
import stat
import sys
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args
from urllib.parse import urlsplit

import dask
import dask.utils
import yaml
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from engine.errors import ConfigError
from engine.params import Params
from engine.trust import redact

PACKAGED: Final = (
    Path(__file__).resolve().parents[1] / "cluster.yaml",
    Path(sys.prefix) / "share" / "mangroves" / "cluster.yaml",
)
"""The default profiles: in a checkout, and where a wheel puts them."""

_MAX_BYTES: Final = 1_000_000
_SECRET_NAME: Final = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL|SIGNATURE|(?<![A-Z])SAS(?![A-Z])", re.IGNORECASE)
_ASSIGNED: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=")
_WALLTIME: Final = re.compile(r"(?:(\d{1,3})-)?(\d{1,3}):([0-5]\d):([0-5]\d)")
_LOOPBACK_HOST: Final = re.compile(r"localhost|127(?:\.\d{1,3}){3}|\[?::1\]?")
_NO_SECRETS: Final = "give it to the workers by their own environment, login or role; cluster.yaml holds no secrets"
_ASK: Final = "give tls (ca_file, certificate, key), or say plain: true where the network is your own"


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches a host.

    >>> is_loopback("127.0.0.1"), is_loopback("127.0.0.1.example.org")
    (True, False)
    """
    return _LOOPBACK_HOST.fullmatch(host.lower()) is not None


def has_secret(settings: Any) -> bool:
    """Tell whether a nested mapping has a value under a name that looks like a secret."""
    return isinstance(settings, dict) and any(
        has_secret(value)
        # A switch is none: dask's own optimization.fuse has rename-keys.
        or (value not in (None, "", {}) and not isinstance(value, dict | bool) and is_secret_name(str(name)))
        for name, value in settings.items()
    )


def is_secret_name(name: str) -> bool:
    """Tell whether a variable or setting of this name is likely to hold a secret.

    >>> is_secret_name("AWS_SECRET_ACCESS_KEY"), is_secret_name("AWS_REGION")
    (True, False)
    """
    return _SECRET_NAME.search(name) is not None


def walltime_text(seconds: int) -> str:
    """Return ``hours:minutes:seconds``, as SLURM and PBS both read it.

    >>> walltime_text(93600)
    '26:00:00'
    """
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def walltime_seconds(walltime: str) -> int:
    """Return the seconds of ``[days-]hours:minutes:seconds``.

    >>> walltime_seconds("1-02:00:00")
    93600
    """
    match = _WALLTIME.fullmatch(walltime)
    if match is None:
        raise ValueError(f"must be hours:minutes:seconds such as '02:00:00', got {walltime!r}")
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def _memory(text: str) -> str:
    if not re.fullmatch(r"\d+(?:\.\d+)? ?[kMGT]i?B", text) or dask.utils.parse_bytes(text) < 1:
        raise ValueError(f"must be a number and a unit such as 8GiB, got {text!r}")
    return text


def _memory_or_auto(text: str) -> str:
    return text if text == "auto" else _memory(text)


def _unquoted(value: Any) -> Any:
    """YAML reads 12:00:00 without quotes as a number of seconds."""
    if isinstance(value, int) and not isinstance(value, bool):
        return walltime_text(value)
    return value


def _walltime(text: str) -> str:
    if walltime_seconds(text) < 300:
        raise ValueError(f"must be at least 5 minutes, got {text}")
    return text


def _loopback_address(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not is_loopback(host) or not port.isdigit():
        raise ValueError(f"must be on 127.0.0.1, such as 127.0.0.1:8787, got {text!r}; tunnel to it by ssh -L")
    return text


def _one_line(text: str) -> str:
    if not text.isprintable():
        raise ValueError(f"must be one line of text, got {text!r}")
    for name in _ASSIGNED.findall(text):
        if is_secret_name(name):
            raise ValueError(f"{name} looks like a secret; {_NO_SECRETS}")
    if redact(text) != text:
        raise ValueError(f"holds a secret; {_NO_SECRETS}")
    return text


def _no_secrets(values: dict[str, Any]) -> dict[str, Any]:
    for name, value in values.items():
        if is_secret_name(name):
            raise ValueError(f"{name} looks like a secret; {_NO_SECRETS}")
        if isinstance(value, dict):
            _no_secrets(value)
        elif redact(str(value)) != str(value):
            raise ValueError(f"{name} holds a secret; {_NO_SECRETS}")
    return values


Count = Annotated[int, Field(ge=1, le=4096)]
Threads = Annotated[int, Field(ge=1, le=256)]
Memory = Annotated[str, AfterValidator(_memory)]
Walltime = Annotated[str, BeforeValidator(_unquoted), AfterValidator(_walltime)]
Dashboard = Annotated[str, AfterValidator(_loopback_address)]
Line = Annotated[str, AfterValidator(_one_line)]
Host = Annotated[str, Field(pattern=r"^[A-Za-z0-9\[][A-Za-z0-9.:_\]-]{0,252}$")]
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_/][A-Za-z0-9_.:/@+-]{0,254}$")]
"""A name that no shell or batch scheduler reads as more than a name."""
Environment = Annotated[
    dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], Line], AfterValidator(_no_secrets)
]
Scalar = bool | int | float | Line
Options = Annotated[dict[Word, Scalar | list[Scalar] | dict[str, Scalar]], AfterValidator(_no_secrets)]


class Tls(Params):
    """Certificates of a cluster whose traffic is encrypted and whose clients are known; paths of this machine."""

    ca_file: Path
    """Certificate of the authority that signed all others (PEM)."""

    certificate: Path
    """Of this side (PEM)."""

    key: Path
    """Of the certificate (PEM); readable by its owner only."""

    @model_validator(mode="after")
    def _expand(self) -> Tls:
        for name in type(self).model_fields:
            object.__setattr__(self, name, getattr(self, name).expanduser())
        return self

    def files(self) -> Iterator[tuple[str, Path]]:
        """Yield key and path of each file."""
        yield from ((name, getattr(self, name)) for name in type(self).model_fields)


class Adapt(Params):
    """Bounds between which workers come and go with the work."""

    minimum: Count = 1
    """At least one: what memory a task has is learnt from a worker."""

    maximum: Count

    @model_validator(mode="after")
    def _ordered(self) -> Adapt:
        if self.minimum > self.maximum:
            raise ValueError(f"minimum {self.minimum} is above maximum {self.maximum}")
        return self


class _Scaled(Params):
    workers: Count | None = None
    """Worker processes."""

    adapt: Adapt | None = None
    """In place of ``workers``."""

    @model_validator(mode="after")
    def _one_of(self) -> _Scaled:
        if self.workers is not None and self.adapt is not None:
            raise ValueError("workers and adapt exclude each other; keep one")
        return self


class _Waiting(Params):
    wait_minutes: Annotated[float, Field(gt=0, le=10080)] | None = None
    """To wait for the first worker."""


class _Exposed(Params):
    """Listens beyond loopback."""

    tls: Tls | None = None

    plain: bool = False
    """Whether unencrypted connections without login are accepted on a network."""

    @abstractmethod
    def beyond_loopback(self) -> str:
        """Return what of this profile is reached from elsewhere, unencrypted; empty if nothing is."""

    @model_validator(mode="after")
    def _encrypted_or_asked(self) -> _Exposed:
        where = self.beyond_loopback()
        if where and self.tls is None and not self.plain:
            raise ValueError(f"{where} would be reached from beyond this machine, unencrypted; {_ASK}")
        return self


class LocalProfile(_Scaled):
    """Worker processes on this machine, listening on loopback only."""

    kind: Literal["local"]

    threads_per_worker: Threads = 1

    memory_limit: Annotated[str, AfterValidator(_memory_or_auto)] = "auto"
    """A worker's memory, e.g. ``8GiB``; default the machine's memory shared out."""

    environment: Environment = Field(default_factory=dict)
    """Variables of worker processes."""

    tls: Tls | None = None

    dashboard: Dashboard | None = None
    """``host:port``; loopback only. Default none is started."""


class ThreadsProfile(Params):
    """Threads of this process."""

    kind: Literal["threads"]

    workers: Count | None = None
    """Threads; default one a core."""

    memory_limit: Annotated[str, AfterValidator(_memory_or_auto)] = "auto"
    """Of all threads together."""

    dashboard: Dashboard | None = None
    """``host:port``; loopback only. Default none is started."""


class AddressProfile(_Exposed, _Waiting):
    """A scheduler that is already running."""

    kind: Literal["address"]

    address: str
    """``tcp://host:port`` or ``tls://host:port``."""

    @property
    def host(self) -> str:
        return self.address.partition("://")[2].rpartition(":")[0]

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def beyond_loopback(self) -> str:
        return "" if self.address.startswith("tls://") or is_loopback(self.host) else self.address

    @model_validator(mode="before")
    @classmethod
    def _checked(cls, values: Any) -> Any:
        address = values.get("address") if isinstance(values, dict) else None
        if not isinstance(address, str) or not re.fullmatch(r"(?:tcp|tls)://[A-Za-z0-9.\[\]:_-]+:\d{1,5}", address):
            raise ValueError(f"kind address needs address: tcp://host:port or tls://host:port, got {address!r}")
        return values

    @model_validator(mode="after")
    def _certificates(self) -> AddressProfile:
        if (
            self.address.startswith("tls://")
            and self.tls is None
            and not dask.config.get("distributed.comm.tls.ca-file")
        ):
            raise ValueError("a tls:// address needs tls (ca_file, certificate, key), here or in ~/.config/dask")
        if self.tls is not None and self.address.startswith("tcp://"):
            raise ValueError("tls is given, but the address is tcp://; write tls://")
        return self


class SshProfile(_Exposed, _Waiting):
    """Workers on machines that are logged in to; the scheduler runs on the first."""

    kind: Literal["ssh"]

    hosts: Annotated[tuple[Host, ...], Field(min_length=1, max_length=1024)]
    """Machines to work on; the scheduler runs on the first, too."""

    user: Word | None = None
    port: Annotated[int, Field(ge=1, le=65535)] = 22
    identity_file: Path | None = None
    """Private key to log in with; default the agent's and those of ``~/.ssh``."""

    known_hosts: Path | None = None
    """Keys of the hosts; default ``~/.ssh/known_hosts``. An unknown host is refused."""

    python: Word | None = None
    """Interpreter on the hosts; default the path of this one."""

    processes: Threads = 1
    """Worker processes on each host."""

    threads_per_worker: Threads = 1
    memory_limit: Memory | None = None
    """A worker's memory; default the host's shared out."""

    interface: Word | None = None
    """Network interface to listen on, the same on all hosts."""

    environment: Environment = Field(default_factory=dict)

    def beyond_loopback(self) -> str:
        return ", ".join(host for host in self.hosts if not is_loopback(host))


class _Batch(_Scaled, _Exposed, _Waiting):
    """Workers as jobs of a batch scheduler; what is left out, the user's ``jobqueue`` section of dask fills."""

    kind: str

    queue: Word | None = None
    account: Word | None = None
    walltime: Walltime | None = None
    """Of a job, ``hours:minutes:seconds``; workers retire a little before."""

    threads_per_worker: Threads | None = None
    processes: Threads | None = None
    """Worker processes of a job."""

    memory_limit: Memory | None = None
    """A worker's memory; a job asks for ``processes`` times as much."""

    interface: Word | None = None
    """Network interface of scheduler and workers, such as ``ib0``; ``lo`` where all is one machine."""

    python: Word | None = None
    """Interpreter on the nodes; default the path of this one."""

    directives: tuple[Line, ...] = ()
    """More lines for the batch scheduler, without its ``#SBATCH`` or ``#PBS``."""

    setup: tuple[Line, ...] = ()
    """Shell lines before the worker, such as ``module load``."""

    log_directory: Path | None = None
    environment: Environment = Field(default_factory=dict)
    dashboard: Dashboard | None = None

    def setting(self, key: str) -> Any:
        """Return what the user's own settings of dask (``~/.config/dask``) say for this batch scheduler."""
        return dask.config.get(f"jobqueue.{self.kind}.{key}", None)

    def beyond_loopback(self) -> str:
        interface = self.interface or self.setting("interface")
        return "" if interface == "lo" else f"the scheduler on {interface or 'every interface'}"

    @model_validator(mode="after")
    def _sized(self) -> _Batch:
        if self.memory_limit is None and self.setting("memory") is None:
            raise ValueError(f"memory_limit is missing; add it, or jobqueue.{self.kind}.memory in ~/.config/dask")
        return self


class SlurmProfile(_Batch):
    """Workers as SLURM jobs."""

    kind: Literal["slurm"]


class PbsProfile(_Batch):
    """Workers as PBS jobs."""

    kind: Literal["pbs"]


GATEWAY_KEYWORDS: Final = (
    *("address", "proxy_address", "public_address", "auth", "cluster_options"),
    *("shutdown_on_close", "asynchronous", "loop"),
)
"""Of dask-gateway's own class, which takes options beside them: some could name a class, or a server without TLS."""


class GatewayProfile(_Scaled, _Waiting):
    """A cluster made by a dask-gateway server; the server's proxy encrypts and knows its users."""

    kind: Literal["gateway"]

    address: str
    """``https://host[/path]``; http on loopback only."""

    auth: Literal["basic", "kerberos", "jupyterhub"] | None = None
    """How to log in; user and password or token come from the environment or ``~/.config/dask``, never from here."""

    options: Options = Field(default_factory=dict)
    """Of a cluster, as the server offers them."""

    environment: Environment = Field(default_factory=dict)

    @model_validator(mode="after")
    def _only_options(self) -> GatewayProfile:
        for name in self.options:
            if name in GATEWAY_KEYWORDS:
                raise ValueError(f"{name!r} is no option of a cluster; address and auth are keys of the profile")
        return self

    @model_validator(mode="after")
    def _encrypted(self) -> GatewayProfile:
        parts = urlsplit(self.address)
        if "@" in parts.netloc or parts.query:
            raise ValueError(f"address carries credentials; {_NO_SECRETS}")
        if not parts.hostname or not (
            parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname))
        ):
            raise ValueError(f"address must be https://host, or http:// on loopback, got {self.address!r}")
        return self


class KubernetesProfile(_Scaled, _Exposed, _Waiting):
    """A cluster made by dask's Kubernetes operator."""

    kind: Literal["kubernetes"]

    image: Word
    """Container image that holds mangroves, such as ``registry.example.org/mangroves:0.1.0``."""

    namespace: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")] = "default"
    memory_limit: Memory
    threads_per_worker: Threads = 1
    environment: Environment = Field(default_factory=dict)

    def beyond_loopback(self) -> str:
        return "the scheduler's service in the pods' network"

    @model_validator(mode="after")
    def _no_certificates(self) -> KubernetesProfile:
        if self.tls is not None:
            raise ValueError(
                "tls is not offered by the operator; say plain: true, and keep others out by a NetworkPolicy"
            )
        return self


CLOUD_OPTIONS: Final = {
    "fargate": (
        *("vpc", "subnets", "security_groups", "cluster_arn", "execution_role_arn", "task_role_arn", "tags"),
        *("cloudwatch_logs_group", "fargate_spot", "fargate_use_private_ip", "cpu_architecture"),
        *("scheduler_cpu", "scheduler_mem", "platform_version"),
    ),
    "ec2": (
        *("availability_zone", "vpc", "subnet_id", "security_groups", "iam_instance_profile", "use_private_ip", "ami"),
        *("scheduler_instance_type", "filesystem_size", "instance_tags", "volume_tags", "spot", "auto_shutdown"),
    ),
    "azurevm": (
        *("resource_group", "vnet", "subnet", "security_group", "public_ingress", "subscription_id"),
        *("scheduler_vm_size", "disk_size", "auto_shutdown"),
    ),
    "gcp": (
        *("projectid", "network", "network_projectid", "service_account", "public_ingress", "source_image"),
        *("scheduler_machine_type", "filesystem_size", "disk_type", "preemptible", "instance_labels", "auto_shutdown"),
    ),
    "coiled": ("workspace", "scheduler_vm_types", "spot_policy", "idle_timeout", "tags", "arm", "use_best_zone"),
}
"""What else may be said of a provider's cluster; nothing that names a class or holds a secret."""


class CloudProfile(_Scaled, _Waiting):
    """A cluster of machines rented for the run."""

    kind: Literal["cloud"]

    provider: Literal["fargate", "ec2", "azurevm", "gcp", "coiled"]
    region: Word | None = None
    """Region; of gcp the zone, of azurevm the location."""

    instance: Word | None = None
    """Type of machine; not for fargate, which is asked for threads and memory."""

    image: Word | None = None
    """Container image that holds mangroves; of coiled the software environment."""

    memory_limit: Memory | None = None
    threads_per_worker: Threads = 1
    environment: Environment = Field(default_factory=dict)

    options: Options = Field(default_factory=dict)
    """More settings of the provider, of ``CLOUD_OPTIONS``."""

    plain: bool = False
    """Fargate knows no TLS and must be told so."""

    @model_validator(mode="after")
    def _fits_the_provider(self) -> CloudProfile:
        if self.provider == "fargate":
            if not self.plain:
                raise ValueError("fargate's scheduler is reached unencrypted; say plain: true, with private subnets")
            if self.instance is not None:
                raise ValueError("instance is not for fargate; give memory_limit and threads_per_worker")
            if self.memory_limit is None:
                raise ValueError("memory_limit is missing; add it")
        for name in self.options:
            if name not in (known := CLOUD_OPTIONS[self.provider]):
                near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
                fix = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
                raise ValueError(f"unknown option {name!r} of {self.provider}; {fix}")
        return self


type Profile = (
    LocalProfile
    | ThreadsProfile
    | AddressProfile
    | SshProfile
    | SlurmProfile
    | PbsProfile
    | GatewayProfile
    | KubernetesProfile
    | CloudProfile
)
"""One entry of ``cluster.yaml``, told apart by ``kind``."""

_MODELS: Final[dict[str, Any]] = {
    get_args(model.model_fields["kind"].annotation)[0]: model for model in get_args(Profile.__value__)
}

KINDS: Final = tuple(_MODELS)
"""What a profile may be."""


def read_profiles(cluster_file: Path | None) -> tuple[dict[str, Profile], Path]:
    """Read ``cluster.yaml``: the file given, else the one in the working folder, else the packaged default.

    Raises
    ------
    ConfigError
        If the file is missing, is not YAML, or a profile is not valid; names file, profile, key and fix.
    """
    path = cluster_file or next((path for path in (Path("cluster.yaml"), *PACKAGED) if path.is_file()), PACKAGED[-1])
    try:
        with path.open(encoding="utf-8") as file:
            content = yaml.safe_load(file.read(_MAX_BYTES))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cluster file {path} cannot be read", fix="check --cluster-file") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"cluster file {path} is not YAML", fix=" ".join(str(error).split())[:200]) from error
    if not isinstance(content, dict) or not isinstance(content.get("profiles"), dict):
        raise ConfigError(f"cluster file {path} has no 'profiles:' mapping", fix="see the packaged cluster.yaml")
    return {
        str(name): _parse(body, f"cluster file {path}: profile {str(name)!r}")
        for name, body in content["profiles"].items()
    }, path


def pick_profile(name: str, cluster_file: Path | None = None) -> Profile:
    """Return one profile, with its files checked.

    Raises
    ------
    ConfigError
        If the file or the profile is not valid, there is no such profile, or a file it names is missing or a key
        is not kept to its owner.
    """
    profiles, path = read_profiles(cluster_file)
    if name not in profiles:
        raise ConfigError(f"no cluster profile {name!r} in {path}", fix=f"known are {', '.join(sorted(profiles))}")
    profile = profiles[name]
    for key, file in _files(profile):
        where = f"cluster file {path}: profile {name!r}: {key}"
        if not file.is_file():
            raise ConfigError(f"{where}: {file} is not a file", fix="check the path")
        if key in ("tls.key", "identity_file") and file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ConfigError(f"{where}: {file} can be read by others", fix=f"chmod 600 {file}")
    return profile


def _files(profile: Profile) -> Iterator[tuple[str, Path]]:
    tls: Tls | None = getattr(profile, "tls", None)
    if tls is not None:
        yield from ((f"tls.{key}", file) for key, file in tls.files())
    if isinstance(profile, SshProfile):
        named = {"identity_file": profile.identity_file, "known_hosts": profile.known_hosts}
        yield from ((key, file.expanduser()) for key, file in named.items() if file is not None)


def _parse(body: Any, where: str) -> Profile:
    kind = body.get("kind") if isinstance(body, dict) else None
    if kind not in _MODELS:
        near = difflib.get_close_matches(str(kind), KINDS, n=1)
        fix = f"did you mean {near[0]!r}?" if near else f"kinds are {', '.join(KINDS)}"
        raise ConfigError(f"{where}: kind: must be one of a fixed list, got {kind!r}", fix=fix)
    try:
        profile: Profile = _MODELS[kind].model_validate(body)
        return profile
    except ValidationError as error:
        raise _explain(error, _MODELS[kind], where) from None


def _explain(error: ValidationError, model: Any, where: str) -> ConfigError:
    """Turn pydantic's complaint into one line."""
    # An unknown key explains more than the missing one it was meant to be.
    first = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
    keys = [part for part in first["loc"] if part != "[key]"]
    key = ".".join(str(part) for part in keys)
    if first["type"] == "extra_forbidden":
        known = {"tls": list(Tls.model_fields), "adapt": list(Adapt.model_fields)}.get(
            str(keys[0]) if len(keys) > 1 else "", list(model.model_fields)
        )
        near = difflib.get_close_matches(str(keys[-1]), known, n=1, cutoff=0.5)
        fix = f"did you mean {near[0]!r}?" if near else f"known keys are {', '.join(known)}"
        return ConfigError(f"{where}: unknown key {key!r}", fix=fix)
    if first["type"] == "missing":
        return ConfigError(f"{where}: {key!r} is missing", fix="add it; see docs/clusters.md")
    if first["type"] == "string_type":
        return ConfigError(f"{where}: {key}: must be text, got {first['input']!r}", fix="quote it")
    problem, _, fix = first["msg"].removeprefix("Value error, ").partition("; ")
    return ConfigError(": ".join(filter(None, (where, key, problem))), fix=fix or "see docs/clusters.md")
