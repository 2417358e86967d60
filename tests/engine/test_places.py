"""Folders and buckets answer the same questions alike, and no answer of a server gets out as it came."""

from __future__ import annotations

import os
import pickle
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from engine import places
from engine.places import ObjectPath, Place, each, entries, modified, move, read_start, relative, remove
from tests.object_store import KEY, SECRET, running


def put(place: Place, content: bytes = b"x") -> Place:
    if isinstance(place, Path):
        place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)
    return place


def test_names_are_those_of_pathlib():
    ours, theirs = ObjectPath("s3://bucket/maps/2019/z48.v2.zarr"), Path("/maps/2019/z48.v2.zarr")
    for name in ("name", "stem", "suffix"):
        assert getattr(ours, name) == getattr(theirs, name)
    for changed in ("with_name", "with_suffix"):
        assert getattr(ours, changed)(".json").key == str(getattr(theirs, changed)(".json")).lstrip("/")
    assert (ours.parent / "a").key == "maps/2019/a"
    assert (ours.root, ObjectPath("s3://bucket").key, ObjectPath("s3://bucket").parent.address) == (
        "s3://bucket",
        "",
        "s3://bucket",
    )
    assert ObjectPath("abfs://maps@account.dfs.core.windows.net/a/b").root == "abfs://maps@account.dfs.core.windows.net"


def test_a_path_travels_as_its_address_alone(bucket):
    put(bucket / "a")
    again = pickle.loads(pickle.dumps(bucket / "a"))
    assert again.read_bytes() == b"x"
    assert SECRET.encode() not in pickle.dumps(bucket / "a")


def test_files_are_written_read_and_deleted(place):
    path = put(place / "a" / "b.json", b"0123456789")
    assert path.is_file()
    assert not (place / "a").is_file()
    assert not (place / "a" / "b").is_file()
    assert path.read_text() == "0123456789"
    assert [read_start(path, most) for most in (4, 99)] == [b"0123", b"0123456789"]
    assert abs(modified(path) - modified(put(place / "c"))) < 60
    path.unlink()
    path.unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError):
        path.read_bytes()
    with pytest.raises(FileNotFoundError):
        read_start(path, 4)


def test_a_place_lists_what_lies_directly_in_it(place):
    for name in ("b.json", "b.zarr/zarr.json", "b.zarr/c/0", "a/x", "ab"):
        put(place / name)
    folders, files = entries(place)
    assert [path.name for path in folders] == ["a", "b.zarr"]
    assert [path.name for path in files] == ["ab", "b.json"]
    assert folders[0] == place / "a"
    assert entries(place / "nowhere") == ([], [])


def test_a_folder_is_removed_with_all_in_it_and_its_neighbours_stay(place):
    for name in ("a/x", "a/y/z", "a2/x", "a.json"):
        put(place / name)
    for _ in range(2):
        remove(place / "a")
        assert [[path.name for path in paths] for paths in entries(place)] == [["a2"], ["a.json"]]
    remove(place / "a.json")
    assert not (place / "a.json").is_file()


def test_a_folder_moves_with_all_in_it_and_its_neighbours_stay(place):
    for name in ("a/x", "a/y/z", "a2/x"):
        put(place / name, name.encode())
    move(place / "a", place / "a-old")
    assert [path.name for path in entries(place)[0]] == ["a-old", "a2"]
    assert (place / "a-old" / "y" / "z").read_bytes() == b"a/y/z"


@pytest.mark.slow
def test_many_objects_are_listed_moved_and_removed_to_the_last(bucket):
    for number in range(1200):  # more than a page, or a request to delete, holds
        (bucket / "run" / f"{number}").write_bytes(b"")
    move(bucket / "run", bucket / "old")
    assert len(entries(bucket / "old")[1]) == 1200
    remove(bucket / "old")
    assert entries(bucket) == ([], [])


def test_many_are_asked_at_once_and_answer_in_order(place):
    for number in range(40):
        put(place / f"{number}", str(number).encode())
    answers = each(lambda number: (place / f"{number}").read_text(), range(40), within=place)
    assert answers == [str(number) for number in range(40)]
    with pytest.raises(FileNotFoundError):
        each(lambda number: (place / f"{number}").read_text(), range(41), within=place)


def test_ways_between_places_are_relative(place):
    assert relative(place / "maps" / "a.tif", place / "maps") == "a.tif"
    assert relative(place / "run.json", place / "maps" / "2019") == "../../run.json"


def test_a_file_is_uploaded_whole(bucket, tmp_path):
    (tmp_path / "large").write_bytes(bytes(range(256)) * 50_000)  # of several parts
    (bucket / "large").write_bytes(tmp_path / "large")
    assert (bucket / "large").read_bytes() == (tmp_path / "large").read_bytes()


def test_faults_are_told_in_words_of_our_own(bucket, monkeypatch):
    nowhere = ObjectPath("s3://no-such-bucket-anywhere/a")
    for ask in (nowhere.read_bytes, lambda: nowhere.write_bytes(b""), lambda: entries(nowhere)):
        with pytest.raises(OSError, match="there is no such bucket or container") as caught:
            ask()
        assert not isinstance(caught.value, FileNotFoundError), "which would read as unfinished"
        assert caught.value.filename == str(nowhere)
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    with pytest.raises(OSError, match="for http set AWS_ALLOW_HTTP"):
        ObjectPath("s3://other-bucket").below()
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(OSError, match="AZURE_STORAGE_ACCOUNT_NAME is not set"):
        ObjectPath("abfs://container/a").read_bytes()


def test_faults_of_azure_are_told_as_those_of_s3(container, monkeypatch):
    nowhere = ObjectPath("abfs://no-such-container/a")
    for ask in (nowhere.read_bytes, lambda: nowhere.write_bytes(b""), lambda: entries(nowhere)):
        with pytest.raises(OSError, match="there is no such bucket or container"):
            ask()
    right = os.environ["AZURE_STORAGE_ACCOUNT_KEY"]
    for key, reason in ((right[1:5] + right[4:], "access denied"), (right[:-3], "credentials .* are not accepted")):
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", key)
        places._client.cache_clear()
        for ask in ((container / "a").read_bytes, (container / "a").is_file, lambda: entries(container)):
            with pytest.raises(PermissionError, match=reason):
                ask()
    places._client.cache_clear()


@pytest.mark.long
def test_a_store_that_is_away_for_a_while_is_asked_again_and_one_that_stays_away_is_told(monkeypatch):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    for name, value in {"ENDPOINT_URL": f"http://127.0.0.1:{port}", "ALLOW_HTTP": "true"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    path = ObjectPath("s3://bucket-that-was-away/a")
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(path.is_file)
        time.sleep(4)
        with running(sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", port):
            assert asked.result(timeout=places.RETRY_SECONDS) is False
    started = time.monotonic()
    with pytest.raises(OSError, match="its server does not answer"):
        path.read_bytes()
    assert 10 < time.monotonic() - started < places.RETRY_SECONDS + 10


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (f"<Code>InvalidAccessKeyId</Code><AWSAccessKeyId>{KEY}</AWSAccessKeyId>", "credentials .* not accepted"),
        (f"<Code>SignatureDoesNotMatch</Code><StringToSign>{SECRET}</StringToSign>", "credentials .* not accepted"),
        (f"<Code>AccessDenied</Code><Message>{KEY}</Message>", "access denied"),
        (f"<Code>AuthorizationFailure</Code> https://a/b?sig={SECRET}", "access denied"),
        (f"<Code>SlowDown</Code> https://a/b?X-Amz-Signature={SECRET}", "its server answers SlowDown"),
        ("Error performing token request: Error performing GET http://a/b", "no credentials in the environment"),
        ("Error performing GET https://s3/bucket/token/credentials/a - 500", "its server answers GenericError"),
        (f"something new {SECRET} {KEY}", "its server answers GenericError"),
        ("Error performing GET http://169.254.169.254/latest/api/token", "no credentials in the environment"),
        ("HTTP error: error sending request", "does not answer"),
    ],
)
def test_an_answer_is_never_repeated(monkeypatch, answer, reason):
    def fail(*_arguments: object) -> None:
        raise places.obstore.exceptions.GenericError(answer)

    monkeypatch.setattr(places.obstore, "head", fail)
    monkeypatch.setattr(places, "_client", lambda _root: None)
    with pytest.raises(OSError, match=reason) as caught:
        ObjectPath("s3://bucket/a").is_file()
    assert KEY not in str(caught.value)
    assert SECRET not in repr(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
