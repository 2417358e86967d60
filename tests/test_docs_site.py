"""The docs as a site: built without a network, complete, and asking nobody for anything."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest
import yaml
from mkdocs.commands.build import build
from mkdocs.config import load_config

from engine.params import Params, RunParams
from engine.profiles import KINDS
from jobs.cli import COMMANDS
from tests.documents import ROOT

NAV = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    """Return what makes the references."""
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "docs" / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def leaves(nav: Any) -> Iterator[str]:
    """Yield the pages of a navigation."""
    if isinstance(nav, str):
        yield nav
    else:
        for part in nav.values() if isinstance(nav, dict) else nav:
            yield from leaves(part)


def test_every_page_is_in_the_navigation_once(hooks):
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    made = [*hooks.PAGES.values(), "configuration.md", "commands.md"]
    assert sorted(leaves(NAV)) == sorted([*pages, *made])


def test_every_kind_of_profile_has_a_page():
    assert {path.stem for path in (ROOT / "docs" / "clusters").glob("*.md")} == set(KINDS)


def keys(model: type[Params]) -> Iterator[tuple[type[Params], str]]:
    """Yield the keys of a section and of all below it, as they are written."""

    def sections(annotation: Any) -> Iterator[type[Params]]:
        if isinstance(annotation, type) and issubclass(annotation, Params):
            yield annotation
        for argument in get_args(annotation):
            yield from sections(argument)

    for name, field in model.model_fields.items():
        yield model, field.alias or name
        for section in sections(field.annotation):
            yield from keys(section)


def test_the_configuration_page_has_every_key_with_its_default_and_meaning(hooks):
    page = hooks.configuration_page()
    for _, key in keys(RunParams):
        assert f"\n| `{key}` | " in page, key
    assert all(f"\n### kind: {kind}\n" in page for kind in KINDS)
    assert (
        "| `min_looks` | whole number from 1 | `3` | Clear looks below which a pixel counts as poorly observed" in page
    )
    assert "| `area` | section | **to be given** |" in page
    assert "\n## labels.masks[]\n" in page
    assert "None" not in page


def test_the_page_of_commands_has_the_help_of_every_command(hooks):
    page = hooks.commands_page()
    titles = re.findall(r"^##+ mangroves (.+)$", page, re.MULTILINE)
    assert set(COMMANDS) <= set(titles)
    assert "masks get" in titles
    assert "--skip-bad" in page


class Addresses(HTMLParser):
    """Collects what a page fetches by itself, and what it may lead to."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: set[str] = set()
        self.scripts = ""
        self._in_script = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self._in_script = tag == "script"
        names = ("src", "srcset", "poster", "data", *(() if tag == "a" else ("href",)))
        self.fetched |= {str(given[name]) for name in names if given.get(name)}

    def handle_data(self, data: str) -> None:
        self.scripts += data if self._in_script else ""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the built site; any broken link or anchor has failed it."""
    folder = tmp_path_factory.mktemp("site")
    config = load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(folder))
    config.plugins.on_startup(command="build", dirty=False)
    build(config)
    return folder


@pytest.mark.long
def test_no_page_of_the_site_asks_anybody_outside(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        found = Addresses()
        found.feed(page.read_text(encoding="utf-8"))
        outside = {address for address in found.fetched if re.match(r"(\w+:)?//", address)}
        assert not outside, page
        assert "//" not in re.sub(r"https://(www\.)?w3\.org", "", found.scripts).replace("\\/", "/"), page
    for sheet in site.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", text), sheet


@pytest.mark.long
def test_the_site_is_searched_and_read_from_files(site):
    index = (site / "search" / "search_index.js").read_text(encoding="utf-8")
    assert "Coming from Earth Engine" in index
    front = (site / "index.html").read_text(encoding="utf-8")
    assert 'src="assets/iframe-worker.js"' in front
    assert 'href="quick-start.html"' in front, "no address that only a server completes"
