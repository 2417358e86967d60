"""From a YAML file and ``--set`` flags to checked parameters, with errors that name the key and the fix.

The options that several commands share are here too, as reading a command's help should not import what runs it.
"""

from __future__ import annotations

import difflib
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, get_args

import click
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from engine.errors import ConfigError, StoreError
from engine.params import RunParams
from engine.places import ObjectPath, Place
from engine.record import read_record
from engine.trust import Trust, safe_name

MAX_CONFIG_BYTES = 1_000_000

ALLOW_HOST: Final = click.option("--allow-host", multiple=True, metavar="HOST", help="Also read from this host.")
ALLOW_ROOT: Final = click.option(
    "--allow-root", multiple=True, metavar="DIR", help="Also read below this folder; or write to this store, s3://..."
)
CLUSTER_FILE: Final = click.option(
    "--cluster-file", type=click.Path(path_type=Path), help="Profiles; default ./cluster.yaml, then the packaged."
)
JSON: Final = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output.")


class UserSettings(BaseModel):
    """What a user allows every command of theirs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    allow_hosts: tuple[str, ...] = ()
    """As ``--allow-host``."""

    allow_roots: tuple[str, ...] = ()
    """As ``--allow-root``: absolute folders, or addresses of stores."""

    @field_validator("allow_roots")
    @classmethod
    def _absolute(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        relative = [root for root in value if "://" not in root and not Path(root).expanduser().is_absolute()]
        if relative:
            raise ValueError(f"{relative[0]!r} is not an absolute folder")
        return tuple(root if "://" in root else str(Path(root).expanduser()) for root in value)


_MAX_DEPTH = 32
"""Levels of a file of ours, which has five: what reads a level takes longer the more are open."""


class _ShortYaml(yaml.SafeLoader):
    """YAML of few levels, with its aliases written out no longer than a file of ours: lines can stand for billions."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.length, self.length_of, self.depth = 0, dict[int, int](), 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        before, alias = self.length, self.check_event(yaml.AliasEvent)
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise yaml.YAMLError(f"nested deeper than {_MAX_DEPTH} levels")
        node = super().compose_node(parent, index)
        self.depth -= 1
        if alias:  # one that is not measured yet holds itself
            self.length += self.length_of.get(id(node), MAX_CONFIG_BYTES)
        else:
            self.length += 1 + (len(node.value) if isinstance(node, yaml.ScalarNode) else 0)
            self.length_of[id(node)] = self.length - before
        if self.length > MAX_CONFIG_BYTES:
            raise yaml.YAMLError("with its aliases (*name) written out it is larger than 1 MB")
        return node


def config_options(about: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that adds ``--config``, of which ``about`` is the help, and ``--set``."""
    config = click.option("--config", type=click.Path(path_type=Path), help=about)
    override = click.option(
        "--set", "overrides", multiple=True, metavar="A.B=C", help="Override one key; may be repeated."
    )
    return lambda job: config(override(job))


def cluster_options(job: Callable[..., None]) -> Callable[..., None]:
    """Add ``--cluster`` and ``--cluster-file``."""
    cluster = click.option(
        "--cluster", default="local", show_default=True, metavar="PROFILE", help="Where to work, by cluster.yaml."
    )
    return cluster(CLUSTER_FILE(job))


def given_config(config: Path | None, overrides: tuple[str, ...]) -> RunParams | None:
    """Read ``--config`` with ``--set``; None where neither is given."""
    if config is None and overrides:
        raise click.UsageError("--set overrides a configuration; name it with --config")
    return None if config is None else load_config(config, overrides)


def trust_of(config: Path | None, *, hosts: tuple[str, ...] = (), roots: tuple[Path | str, ...] = ()) -> Trust:
    """Return what a command may read: the working folder, the configuration's, and what the command line and the user's
    settings add."""
    beside = [] if config is None else [config.resolve().parent]
    mine = user_settings()
    return Trust().with_roots(Path.cwd(), *roots, *beside, *mine.allow_roots).with_hosts(*hosts, *mine.allow_hosts)


def user_settings() -> UserSettings:
    """Return what ``~/.config/mangroves/settings.yaml`` (``XDG_CONFIG_HOME``) says; nothing where there is none.

    Raises
    ------
    ConfigError
        If it is not a mapping of these keys, or somebody else could have written it.
    """
    path = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "mangroves" / "settings.yaml"
    try:
        about = path.stat()
    except OSError:
        return UserSettings()
    if about.st_uid != os.getuid() or about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError(f"settings {path} can be written by others than you", fix=f"chmod go-w {path}, and own it")
    return parse(UserSettings, read_mapping(path), (), source=str(path), see="docs/trust.md")


def run_folder(params: RunParams, trust: Trust) -> Path:
    """Return the folder of a run, ``out/name``.

    Raises
    ------
    ConfigError, TrustError
        If ``out`` is no folder, or not an allowed one.
    """
    if "://" in params.out:
        raise ConfigError(f"out {params.out!r} is not a folder", fix="give a folder, and the address as store")
    return trust.path(params.out, what="out") / params.name


def run_outputs(folder: Path, store: str | None, name: str, trust: Trust) -> Place:
    """Return where the workers of a run write: ``store/name``, without a store the folder of the run.

    Raises
    ------
    TrustError
        If ``store`` is no address, or not an allowed one.
    """
    return folder if store is None else ObjectPath(trust.store(store, what="store")) / safe_name(name, what="run")


def named_run(run: Path | None, params: RunParams | None, trust: Trust) -> tuple[Path, dict[str, Any], Place]:
    """Return folder, record and outputs of the run that a command names, by its folder RUN or its configuration.

    Raises
    ------
    click.UsageError
        If it names both or neither.
    StoreError
        If there is no run.
    TrustError
        If its outputs are where the command may not read.
    """
    if params is not None and run is None:
        run = run_folder(params, trust)
    elif params is not None or run is None:
        raise click.UsageError("give either the folder RUN of a run or its --config")
    record = read_record(run)
    if record is None:
        fix = "give a configuration by --config" if run.is_file() else "name the folder of a run that was begun"
        raise StoreError(f"{run / 'run.json'} is not there", fix=fix)
    config = record["config"]  # which is untrusted as any
    return run, record, run_outputs(run, config.get("store"), str(config.get("name")), trust)


def recorded_config(run: Path, record: dict[str, Any]) -> RunParams:
    """Return the configuration that a run's record holds, checked as one in a file is.

    Raises
    ------
    ConfigError
        If what it holds is no configuration.
    """
    content = dict(record["config"])
    if isinstance(content.get("area"), dict):
        # Of the polygons, as they were; that they are still the same is checked when the run is opened.
        content["area"] = {key: value for key, value in content["area"].items() if key != "sha256"}
    return parse_config(content, source=str(run / "run.json"))


def allowed_place(text: str, trust: Trust, *, what: str) -> Place:
    """Return the place of an allowed path or address."""
    return ObjectPath(trust.store(text, what=what)) if "://" in text else trust.path(text, what=what)


def load_config(path: Path, overrides: tuple[str, ...] = ()) -> RunParams:
    """Read and validate a run configuration.

    Parameters
    ----------
    path : Path
        YAML file, one mapping.
    overrides : tuple of str
        ``a.b=value`` each, value in YAML; applied in order.

    Raises
    ------
    ConfigError
        If the file is missing or not YAML, or naming the first key that is wrong.
    """
    return parse_config(read_mapping(path), overrides, source=str(path))


def parse_config(content: dict[str, Any], overrides: tuple[str, ...] = (), *, source: str) -> RunParams:
    """Validate the sections of a run; ``source`` names them in errors."""
    return parse(RunParams, content, overrides, source=source, see="docs/config.schema.json")


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a short YAML file that holds one mapping.

    Raises
    ------
    ConfigError
        If it is missing, too large, not YAML or not a mapping.
    """
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ConfigError(f"config {path} is larger than 1 MB", fix="a configuration is a short file")
        content = yaml.load(path.read_text(encoding="utf-8"), _ShortYaml)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config {path} cannot be read", fix="check the path") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"config {path} is not YAML", fix=" ".join(str(error).split())[:200]) from error
    if not isinstance(content, dict):
        raise ConfigError(f"config {path} is not a mapping of sections or keys", fix="see jobs/configs for examples")
    return content


def parse[M: BaseModel](
    model: type[M], content: dict[str, Any], overrides: tuple[str, ...], *, source: str, see: str
) -> M:
    """Validate a mapping after applying overrides.

    Parameters
    ----------
    model : type of BaseModel
        What the mapping must be.
    content : dict
        Changed by the overrides.
    overrides : tuple of str
        As in ``load_config``.
    source, see : str
        What errors call the mapping, and where its keys are explained.

    Raises
    ------
    ConfigError
        Naming the first key that is wrong, and the nearest known one.
    """
    for text in overrides:
        _override(content, text)
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise _explain(error, model, source, see) from None


def schema() -> str:
    """Return the JSON Schema of a run configuration."""
    return json.dumps(RunParams.model_json_schema(), indent=2) + "\n"


def _override(content: dict[str, Any], text: str) -> None:
    path, equals, value = text.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set {text!r} is not of the form section.key=value", fix="e.g. --set years=[2016]")
    level = content
    for key in keys[:-1]:
        if level.get(key) is None:
            level[key] = {}
        level = level[key]
        if not isinstance(level, dict):
            raise ConfigError(f"--set {text!r}: {key!r} is not a section", fix="set it whole")
    try:
        level[keys[-1]] = yaml.load(value, _ShortYaml)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {text!r}: value is not YAML", fix="quote it") from error


def _explain(error: ValidationError, model: type[BaseModel], source: str, see: str) -> ConfigError:
    """Turn pydantic's first complaint into one line."""
    # An unknown key explains more than the missing one it was meant to be.
    complaints = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    first = complaints[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = _keys_at(model, first["loc"][:-1])
        near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1, cutoff=0.5)
        fix = f"did you mean {near[0]!r}?" if near else f"known keys are {', '.join(known)}"
        return ConfigError(f"{source}: unknown key {where!r}", fix=fix)
    if first["type"] == "missing":
        return ConfigError(f"{source}: {where!r} is missing", fix=f"add it; see {see}")
    message = first["msg"].removeprefix("Value error, ")
    got = "" if first["type"] == "value_error" else f", got {str(first.get('input'))[:80]!r}"
    return ConfigError(": ".join(filter(None, (source, where, message + got))), fix=f"see {see}")


def _keys_at(model: Any, location: tuple[int | str, ...]) -> list[str]:
    """Return the keys a section knows, by walking the models along a location."""
    for part in location:
        if isinstance(part, int):
            continue
        field = next((f for n, f in model.model_fields.items() if part in (n, f.alias)), None)
        model = _model_in(field.annotation) if field else None
        if model is None:
            return []
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_in(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for arg in get_args(annotation) if (found := _model_in(arg))), None)
