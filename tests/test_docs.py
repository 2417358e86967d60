"""What the documents show is true: commands exist, configurations parse, code runs, links lead somewhere."""

from __future__ import annotations

import doctest
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, get_args

import click
import pytest
import yaml

from engine.legend import CHANGES, CLASSES, PAIRS
from engine.params import RunParams
from engine.profiles import read_profiles
from engine.simulate import WorldParams, write_archive
from jobs.cli import cli
from jobs.config import load_config, parse_config, schema
from tests.jobs.calls import mangroves

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
CONFIGS = sorted((ROOT / "jobs" / "configs").glob("*.yaml"))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`]+)`")
KEY = re.compile(rf"(?:--set )?({'|'.join(RunParams.model_fields)})\.(?!csv)(\w+)(?:[:=].*)?")
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


class Block(NamedTuple):
    """A fenced block of a document."""

    where: str
    language: str
    text: str


def blocks(*languages: str) -> list[Any]:
    """Return the fenced blocks of some languages, as parameters of a test."""
    found = []
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            where = f"{path.relative_to(ROOT)}:{text[: match.start()].count(chr(10)) + 1}"
            if match[1] in languages:
                found.append(pytest.param(Block(where, match[1], match[2]), id=where))
    return found


def prose(path: Path) -> str:
    """Return a document without its fenced blocks."""
    return FENCE.sub("", path.read_text(encoding="utf-8"))


def typed(block: Block) -> Iterator[list[str]]:
    """Yield the commands of a shell block, split into words; of a console what follows the prompt."""
    lines = block.text.splitlines()
    if block.language == "console":
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    yield from (words for line in lines if (words := shlex.split(line, comments=True)))


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


@pytest.mark.parametrize("block", blocks("sh", "bash", "console"))
def test_every_command_of_a_shell_block_can_be_typed(block):
    for program, *words in typed(block):
        if program == "mangroves":
            parse_command(words, whole=True)
        elif program == "make":
            assert set(words) <= TARGETS


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
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


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_files_and_links_lead_somewhere(path):
    text = path.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert link.startswith("https://") or (path.parent / link).exists(), link
    for name in re.findall(r"\b(?:jobs|engine|tests|docs|benchmarks)/[\w/.-]*\w", text):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("block", blocks("yaml"))
def test_every_yaml_block_is_a_configuration_or_profiles(block, tmp_path):
    content = yaml.safe_load(block.text)
    if "area" in content:
        parse_config(content, source=block.where)
    else:
        (tmp_path / "cluster.yaml").write_text(block.text, encoding="utf-8")
        profiles, _ = read_profiles(tmp_path / "cluster.yaml")
        assert set(profiles) == set(content["profiles"])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_example_configuration_is_valid_and_named_as_its_file(path):
    assert load_config(path).name == path.stem
    for line in re.findall(r"^# +mangroves (.*?)(?: {2}|$)", path.read_text(encoding="utf-8"), re.MULTILINE):
        parse_command(shlex.split(line), whole=True)
        assert str(path.relative_to(ROOT)) in line


def test_the_schema_in_docs_is_that_of_the_code():
    assert (ROOT / "docs" / "config.schema.json").read_text(encoding="utf-8") == schema(), "run `make schema`"


# Python


@pytest.fixture(scope="module")
def after_the_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder as ``make demo`` leaves it, as far as cubes, of a smaller world."""
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        archive = write_archive(WorldParams(("India",), (2020,), size_px=64, scenes_per_year=3), Path("demo/archive"))
        config = {
            "name": "run",
            "out": "demo",
            "area": {"file": str(archive.regions), "name_field": "name"},
            "years": [2020],
            "search": {"catalogs": [str(archive.items)]},
        }
        Path("demo/config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        answer = mangroves("cube", "demo/config.yaml", "--cluster", "threads")
    assert answer.code == 0, answer.err
    return folder


@pytest.mark.parametrize("block", blocks("python"))
def test_every_python_block_runs_after_the_demo(block, after_the_demo, monkeypatch, capsys):
    monkeypatch.chdir(after_the_demo)
    if ">>>" in block.text:
        examples = doctest.DocTestParser().get_doctest(block.text, {}, block.where, block.where, 0)
        assert doctest.DocTestRunner().run(examples).failed == 0
    else:
        exec(compile(block.text, block.where, "exec"), {})
        assert capsys.readouterr().out, "it shows something"


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
    [rooms] = [match[2] for match in FENCE.finditer(text) if "engine/\n" in match[2]]
    modules = {path.stem for folder in ("engine", "engine/kernels") for path in (ROOT / folder).glob("[a-z]*.py")}
    assert modules - set(re.findall(r"\w+", rooms)) == set()
