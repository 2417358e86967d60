"""What the documents say is true: commands and keys exist, links lead somewhere. test_docs_run runs their blocks."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any, get_args

import click
import pytest

from engine.legend import CHANGES, CLASSES, PAIRS
from engine.params import RunParams
from jobs.cli import cli
from jobs.config import load_config, schema
from tests.documents import DOCUMENTS, FENCE, ROOT, RUN, SHELLS, blocks, blocks_of, name_of, prose

CONFIGS = sorted((ROOT / "jobs" / "configs").glob("*.yaml"))
INLINE = re.compile(r"`([^`]+)`")
KEY = re.compile(rf"(?:--set )?({'|'.join(RunParams.model_fields)})\.(?!csv)(\w+)(?:[:=].*)?")
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def commands(command: click.Command) -> Iterator[click.Command]:
    """Yield a command and all below it."""
    yield command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            yield from commands(command.get_command(context, name))


def keys_of(annotation: Any) -> set[str]:
    """Return the keys of a section, which may be optional."""
    models = [annotation, *get_args(annotation)]
    return {key for model in models for key in getattr(model, "model_fields", ())}


def parse_command(words: list[str], *, whole: bool) -> None:
    """Parse the words after ``mangroves`` as click would, running nothing; options alone unless ``whole``."""
    command, context = cli, click.Context(cli, info_name="mangroves")
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        name, command, words = command.resolve_command(context, words)
        assert command is not None
        context = click.Context(command, info_name=name, parent=context)
    if whole:
        command.make_context(context.info_name, words, parent=context.parent)
    else:
        command.make_parser(context).parse_args(words)


def test_a_command_that_does_not_exist_would_be_noticed():
    parse_command(["run", "--set", "cube.keep=scenes", "a.yaml"], whole=True)
    for wrong in (["walk"], ["run", "--sett", "a=1"], ["masks", "fetch"], ["simulate"], ["change", "--cluster"]):
        with pytest.raises(click.UsageError):
            parse_command(wrong, whole=True)


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_every_block_says_what_it_is_and_text_holds_no_command(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    found = blocks_of(path)
    assert 2 * len(found) == sum(line.lstrip().startswith("```") for line in lines), "a fence that is not read"
    assert sum("not run:" in line and line.startswith("<!--") for line in lines) == sum(
        block.not_run is not None for block in found
    ), "a marker that is not right above a block"
    for block in found:
        assert block.language in (*RUN, "text"), block.where
        if block.language == "text":
            assert not re.search(r"^(?:\$ )?(mangroves|python|pip|make) ", block.text, re.MULTILINE), block.where


@pytest.mark.parametrize("block", blocks(*SHELLS))
def test_every_command_of_a_shell_block_can_be_typed(block):
    for _, (program, *words) in block.lines():
        if program == "mangroves":
            parse_command(words, whole=True)
        elif program == "make":
            assert set(words) <= TARGETS


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_commands_options_and_keys_named_in_a_sentence_exist(path):
    options = {name for command in commands(cli) for option in command.params for name in option.opts}
    for code in INLINE.findall(prose(path)):
        program, *words = code.split()
        if program == "mangroves":
            parse_command(words, whole=False)
        elif program == "make":
            assert set(words) <= TARGETS, code
        elif program.startswith("--"):
            assert program in options, code
        if key := KEY.fullmatch(code):
            assert key[2] in keys_of(RunParams.model_fields[key[1]].annotation), code


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_files_and_links_lead_somewhere(path):
    text = path.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert link.startswith("https://") or (path.parent / link).exists(), link
    for name in re.findall(r"\b(?:jobs|engine|tests|docs|benchmarks)/[\w/.-]*\w", text):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_example_configuration_is_valid_and_named_as_its_file(path):
    assert load_config(path).name == path.stem
    for line in re.findall(r"^# +mangroves (.*?)(?: {2}|$)", path.read_text(encoding="utf-8"), re.MULTILINE):
        parse_command(shlex.split(line), whole=True)
        assert str(path.relative_to(ROOT)) in line


def test_the_schema_in_docs_is_that_of_the_code():
    assert (ROOT / "docs" / "config.schema.json").read_text(encoding="utf-8") == schema(), "run `make schema`"


# Tables and lists


def test_the_codes_of_classes_and_changes_are_those_of_the_legend():
    text = (ROOT / "docs" / "reading-the-maps.md").read_text(encoding="utf-8")
    for title, legend in (("class code", CLASSES), ("kind", CHANGES), ("transition code", PAIRS)):
        table = text[text.index(f"| {title} |") :].partition("\n\n")[0]
        rows = re.findall(r"^\| ([\d, ]+) \| (.+) \|$", table, re.MULTILINE)
        assert [int(code) for codes, _ in rows for code in codes.split(",")] == [entry.code for entry in legend]
        for codes, meaning in rows:
            for code in map(int, codes.split(",")):
                name = next(entry.name for entry in legend if entry.code == code)
                assert set(re.findall(r"\w+", name)) <= set(re.findall(r"\w+", meaning)), (code, name)


def test_the_architecture_names_every_module():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    [rooms] = [match[3] for match in FENCE.finditer(text) if "engine/\n" in match[3]]
    modules = {path.stem for folder in ("engine", "engine/kernels") for path in (ROOT / folder).glob("[a-z]*.py")}
    assert modules - set(re.findall(r"\w+", rooms)) == set()
