"""Where a page is put: what it wrote is replaced, what is somebody else's is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.errors import ConfigError
from engine.page.folder import LIST, owned_files, put_folder


def made(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def listed(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


OLD = {"index.html": "old", "data.js": "old", "images/a.png": "a", "files/maps/x.tif": "x"}


@pytest.fixture
def page(tmp_path: Path) -> Path:
    put_folder(made(tmp_path / "made", OLD), tmp_path / "page")
    assert not (tmp_path / "made").exists()
    return tmp_path / "page"


def test_a_page_replaces_its_own_files_and_keeps_those_of_others(page, tmp_path):
    made(page, {"notes.txt": "mine", "files/maps/mine.tif": "mine"})
    put_folder(made(tmp_path / "made", {"index.html": "new", "data.js": "new"}), page)
    assert listed(page) == {"index.html", "data.js", LIST, "notes.txt", "files/maps/mine.tif"}
    assert not (page / "images").exists()
    assert (page / "index.html").read_text() == "new"
    assert set(owned_files(page)) == {"index.html", "data.js"}


def test_a_foreign_page_of_the_same_names_is_left_alone(tmp_path):
    site = made(tmp_path / "site", {"index.html": "theirs", "data.js": "theirs", "thesis.docx": "years of work"})
    with pytest.raises(ConfigError, match="something else than a page"):
        owned_files(site)
    with pytest.raises(ConfigError, match="something else than a page"):
        put_folder(made(tmp_path / "made", OLD), site)
    assert listed(site) == {"index.html", "data.js", "thesis.docx"}


@pytest.mark.parametrize("name", ["../secret", "/etc/secret", "", LIST])
def test_a_list_that_names_what_lies_elsewhere_is_none(page, tmp_path, name):
    (tmp_path / "secret").write_text("x")
    told = json.loads((page / LIST).read_text())
    told["files"][name] = "0"
    (page / LIST).write_text(json.dumps(told))
    with pytest.raises(ConfigError, match="something else than a page"):
        put_folder(made(tmp_path / "made", OLD), page)
    assert (tmp_path / "secret").exists()


def test_what_was_changed_since_or_is_a_link_is_not_deleted(page, tmp_path):
    (page / "data.js").write_text("edited by hand")
    with pytest.raises(ConfigError, match=r"data\.js is not what the page wrote"):
        put_folder(made(tmp_path / "made", OLD), page)
    (page / "data.js").write_text("old")
    (page / "images").rename(tmp_path / "images")
    (page / "images").symlink_to(tmp_path / "images")
    with pytest.raises(ConfigError, match=r"a\.png is not what the page wrote"):
        put_folder(tmp_path / "made", page)
    assert (tmp_path / "images" / "a.png").exists()


def test_a_file_of_others_is_not_written_over(page, tmp_path):
    made(page, {"files/patches.gpkg": "mine"})
    with pytest.raises(ConfigError, match="would be replaced"):
        put_folder(made(tmp_path / "made", {**OLD, "files/patches.gpkg": "ours"}), page)
    assert (page / "files" / "patches.gpkg").read_text() == "mine"
    assert (page / "index.html").read_text() == "old"
