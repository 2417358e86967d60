"""What mkdocs adds to these pages when it builds the site: the front page, and references made from the code."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, get_args

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from engine.params import RunParams
from engine.profiles import Profile
from jobs.cli import COMMANDS, cli

ROOT: Final = Path(__file__).resolve().parents[1]
WIDTH: Final = 100

PAGES: Final = {"README.md": "index.md", "CONTRIBUTING.md": "CONTRIBUTING.md", "CHANGELOG.md": "CHANGELOG.md"}
"""Pages from above this folder -> what they are on the site."""

COPIES: Final = ("cluster.yaml", "LICENSE", "jobs/configs/*.yaml", "notebooks/*.ipynb")
"""Files from above this folder that pages lead to."""

_LINK: Final = re.compile(r"\]\(([^)#:]+)(#[^)]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are no file of this folder."""
    made = {target: (ROOT / source).read_text(encoding="utf-8") for source, target in PAGES.items()}
    made["configuration.md"] = configuration_page()
    made["commands.md"] = commands_page()
    for path, content in made.items():
        files.append(File.generated(config, path, content=content))
    for pattern in COPIES:
        for source in sorted(ROOT.glob(pattern)):
            path = source.relative_to(ROOT).as_posix()
            files.append(File.generated(config, path, abs_src_path=str(source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links lead where things are on the site; in the repository the same links lead to files."""
    sources = {target: source for source, target in PAGES.items()}
    source = sources.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    here = posixpath.dirname(page.file.src_uri)

    def on_site(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[1]))
        path = PAGES.get(path, path.removeprefix("docs/"))
        # A reader of the site wants the page that is made of it.
        path = "configuration.md" if path == "config.schema.json" and page.file.src_uri != "configuration.md" else path
        return f"]({posixpath.relpath(path, here or '.')}{match[2] or ''})"

    return _LINK.sub(on_site, markdown)


# Configuration


def configuration_page() -> str:
    """Return the page of all keys of a run configuration and of cluster profiles, from their JSON Schemas."""
    schema = RunParams.model_json_schema()
    lines = [
        "# Configuration",
        "",
        "Every key of a run's YAML file; `--set section.key=value` overrides one. Made from the code's own schema,",
        "which is also there as [JSON Schema](config.schema.json) for editors that complete keys.",
        "",
        "## The run",
        "",
        *_table(schema, schema),
    ]
    for key, section in _sections(schema, schema):
        lines += ["", f"## {key}", "", _text(section.get("description", "")), "", *_table(section, schema)]
    lines += ["", "## Profiles of cluster.yaml", "", "Which kind is for what: [running on a cluster](clusters.md)."]
    for model in get_args(Profile.__value__):
        schema = model.model_json_schema(mode="serialization")
        kind = schema["properties"].pop("kind")["const"]
        lines += ["", f"### kind: {kind}", "", _text(schema.get("description", "")), ""]
        lines += _table(schema, schema) if schema["properties"] else ["No keys of its own."]
        for key, section in _sections(schema, schema):
            lines += ["", f"#### {kind}: {key}", "", *_table(section, schema)]
    return "\n".join(lines) + "\n"


def _sections(part: dict[str, Any], schema: dict[str, Any], above: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield key and schema of every mapping below a part of a schema."""
    for key, value in part["properties"].items():
        for name in _references(value):
            section = schema["$defs"][name]
            if "properties" in section:
                path = f"{above}{key}" + ("[]" if _is_list(value) else "")
                yield path, section
                yield from _sections(section, schema, f"{path}.")


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"].rpartition("/")[2]
        for part in value.values():
            yield from _references(part)
    elif isinstance(value, list):
        for part in value:
            yield from _references(part)


def _is_list(value: dict[str, Any]) -> bool:
    return value.get("type") == "array"


def _table(part: dict[str, Any], schema: dict[str, Any]) -> list[str]:
    required = part.get("required", ())
    rows = ["| key | value | default | meaning |", "|---|---|---|---|"]
    for key, value in part["properties"].items():
        default = "**to be given**" if key in required else _default(value)
        rows.append(f"| `{key}` | {_type(value, schema)} | {default} | {_text(value.get('description', ''))} |")
    return rows


def _default(value: dict[str, Any]) -> str:
    default = value.get("default")
    if default in (None, "", []) or isinstance(default, dict):
        return ""
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, list):
        return f"`[{', '.join(map(str, default))}]`"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


def _type(value: dict[str, Any], schema: dict[str, Any]) -> str:
    """Say in a few words what a key may hold."""
    if "$ref" in value:
        found = schema["$defs"][value["$ref"].rpartition("/")[2]]
        return "section" if "properties" in found else _type(found, schema)
    if "anyOf" in value:
        return " or ".join(dict.fromkeys(_type(each, schema) for each in value["anyOf"] if each.get("type") != "null"))
    if "enum" in value:
        return ", ".join(f"`{each}`" for each in value["enum"])
    if "const" in value:
        return f"`{value['const']}`"
    if value.get("type") == "array":
        if "prefixItems" in value:
            return f"list of {len(value['prefixItems'])}: {_type(value['prefixItems'][0], schema)}"
        return f"list of {_type(value['items'], schema)}" if value.get("items") else "list"
    if value.get("type") in ("integer", "number"):
        limits = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
        bounds = [f"{word} {value[name]:g}" for name, word in limits.items() if name in value and value[name] < 2**53]
        if "multipleOf" in value:
            bounds.append(f"in steps of {value['multipleOf']}")
        return " ".join(["whole number" if value["type"] == "integer" else "number", *bounds])
    if value.get("format") in ("date", "path"):
        return str(value["format"])
    words = {"string": "text", "boolean": "`true`, `false`", "object": "mapping", None: "any"}
    return words.get(value.get("type"), str(value.get("type")))


def _text(description: str) -> str:
    """Return a docstring as one line of a table."""
    return " ".join(description.split()).replace("``", "`").replace("|", "\\|")


# Commands


def commands_page() -> str:
    """Return the page of all commands: what ``--help`` says of each."""
    lines = ["# Commands", "", "What `mangroves COMMAND --help` says, made from the commands themselves.", ""]
    lines += ["| command | |", "|---|---|"]
    lines += [f"| [`{name}`](#mangroves-{name}) | {about} |" for name, about in COMMANDS.items()]
    for path, help_text in _helps(cli, click.Context(cli, info_name="mangroves", max_content_width=WIDTH)):
        level = "##" if path.count(" ") < 2 else "###"
        lines += ["", f"{level} {path}", "", "```text", help_text, "```"]
    return "\n".join(lines) + "\n"


def _helps(command: click.Command, context: click.Context) -> Iterator[tuple[str, str]]:
    """Yield path and help of the commands below one."""
    context.terminal_width = WIDTH
    if context.parent is not None:
        yield context.command_path, command.get_help(context)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from _helps(below, click.Context(below, info_name=name, parent=context))
