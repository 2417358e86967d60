"""A file under its name is whole."""

from __future__ import annotations

import hashlib
import time

import pytest

from engine.errors import StoreError
from engine.files import content_sha256, open_log, replacing, write_text
from engine.places import ObjectPath, entries, modified


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_else(place):
    path = place / "a.json"
    write_text(path, "old\n")

    def write_half() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        write_half()
    assert path.read_text() == "old\n"
    assert entries(place) == ([], [path])


def test_a_new_file_can_be_read_by_others_as_any_file(tmp_path):
    (tmp_path / "plain").write_text("")
    write_text(tmp_path / "b" / "c.txt", "é\n")
    assert (tmp_path / "b" / "c.txt").read_bytes() == b"\xc3\xa9\n"
    assert (tmp_path / "b" / "c.txt").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_folder_that_is_a_file_is_told_in_one_line(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(StoreError, match=r"out/a\.txt cannot be written \(.+\); free space or choose another out"):
        write_text(tmp_path / "out" / "a.txt", "x")


@pytest.mark.slow
def test_a_text_that_reads_so_already_keeps_its_time(place):
    path = place / "a.json"
    write_text(path, "same")
    before = modified(path)
    time.sleep(1.1)  # a server may count in seconds
    write_text(path, "same")
    assert modified(path) == before
    write_text(path, "other")
    assert path.read_text() == "other"


def test_what_lies_in_no_bucket_is_told_in_one_line(bucket):
    path = ObjectPath("s3://no-such-bucket-anywhere/a.txt")
    with pytest.raises(StoreError, match=r"a\.txt cannot be written \(there is no such bucket.*; see to its bucket"):
        write_text(path, "x")


def test_the_content_of_a_shapefile_is_that_of_all_its_parts(tmp_path):
    for suffix in (".shp", ".dbf", ".prj", ".txt"):
        (tmp_path / f"a{suffix}").write_text(suffix)
    before = content_sha256(tmp_path / "a.shp")
    (tmp_path / "a.txt").write_text("something else")
    assert content_sha256(tmp_path / "a.shp") == before
    (tmp_path / "a.dbf").write_text("other attributes")
    assert content_sha256(tmp_path / "a.shp") != before
    assert content_sha256(tmp_path / "a.txt") == hashlib.sha256(b"something else").hexdigest()


def test_no_log_is_written_through_a_link(tmp_path):
    with open_log(tmp_path / "run.log") as file:
        file.write(b"a\n")
    with open_log(tmp_path / "run.log") as file:
        file.write(b"b\n")
    assert (tmp_path / "run.log").read_bytes() == b"a\nb\n"
    (tmp_path / "elsewhere").write_text("mine")
    (tmp_path / "link.log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match=r"link\.log is a link.*; remove it"):
        open_log(tmp_path / "link.log")
    assert (tmp_path / "elsewhere").read_text() == "mine"
