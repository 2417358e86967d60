"""From a YAML file and ``--set`` flags to ``RunParams``, with errors that name the key and the fix."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from engine.errors import ConfigError
from engine.params import RunParams

MAX_CONFIG_BYTES = 1_000_000


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
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ConfigError(f"config {path} is larger than 1 MB", fix="a run configuration is a short file")
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config {path} cannot be read", fix="check the path") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"config {path} is not YAML", fix=" ".join(str(error).split())[:200]) from error
    if not isinstance(content, dict):
        raise ConfigError(f"config {path} is not a mapping of sections", fix="see jobs/configs for examples")
    return parse_config(content, overrides, source=str(path))


def parse_config(content: dict[str, Any], overrides: tuple[str, ...] = (), *, source: str) -> RunParams:
    """Validate the sections of a run; ``source`` names them in errors."""
    for text in overrides:
        _override(content, text)
    try:
        return RunParams.model_validate(content)
    except ValidationError as error:
        raise _explain(error, source) from None


def schema() -> str:
    """Return the JSON Schema of a run configuration."""
    return json.dumps(RunParams.model_json_schema(), indent=2) + "\n"


def _override(content: dict[str, Any], text: str) -> None:
    path, equals, value = text.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set {text!r} is not of the form section.key=value", fix="e.g. --set cube.keep=scenes")
    level = content
    for key in keys[:-1]:
        if level.get(key) is None:
            level[key] = {}
        level = level[key]
        if not isinstance(level, dict):
            raise ConfigError(f"--set {text!r}: {key!r} is not a section", fix="set it whole")
    try:
        level[keys[-1]] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {text!r}: value is not YAML", fix="quote it") from error


def _explain(error: ValidationError, source: str) -> ConfigError:
    """Turn pydantic's first complaint into one line."""
    # An unknown key explains more than the missing one it was meant to be.
    complaints = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    first = complaints[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = _keys_at(first["loc"][:-1])
        near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1, cutoff=0.5)
        fix = f"did you mean {near[0]!r}?" if near else f"known keys are {', '.join(known)}"
        return ConfigError(f"{source}: unknown key {where!r}", fix=fix)
    if first["type"] == "missing":
        return ConfigError(f"{source}: {where!r} is missing", fix="add it; see docs/config.schema.json")
    message = first["msg"].removeprefix("Value error, ")
    got = "" if first["type"] == "value_error" else f", got {str(first.get('input'))[:80]!r}"
    return ConfigError(f"{source}: {where}: {message}{got}", fix="see docs/config.schema.json")


def _keys_at(location: tuple[int | str, ...]) -> list[str]:
    """Return the keys a section knows, by walking the models along a location."""
    model: Any = RunParams
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
