"""Stores are finished or refused, and a flipped bit is caught."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import xarray as xr
import zarr
from obstore.store import S3Store

from engine.errors import StoreError
from engine.places import ObjectPath, Place, entries, remove
from engine.store import array_sha256, is_current, marker_path, open_store, read_marker, write_store


def dataset(seed: int = 0) -> xr.Dataset:
    values = np.random.default_rng(seed).integers(0, 9999, (6, 300, 270)).astype("uint16")
    values[:, :256, :256] = 0  # a chunk of fill only
    return xr.Dataset({"composite": (("band", "y", "x"), values)})


def objects(place: Place) -> list[Place]:
    """Return every file below a place."""
    folders, files = entries(place)
    return [*files, *(path for folder in folders for path in objects(folder))]


def test_a_store_reads_back_and_remembers_its_inputs(place):
    path = place / "a.zarr"
    marker = write_store(path, dataset(), {"fingerprint": "abc"})
    with open_store(path) as data:
        assert array_sha256({"composite": data["composite"].values}) == marker["sha256"]
    assert is_current(path, "abc")
    assert not is_current(path, "other")


def test_a_store_without_its_marker_or_a_marker_without_its_store_is_refused(place):
    path = place / "a.zarr"
    write_store(path, dataset(), {})
    marker_path(path).unlink()
    assert read_marker(path) is None
    with pytest.raises(StoreError, match="not finished"), open_store(path):
        pass
    write_store(path, dataset(), {})
    remove(path)
    assert marker_path(path).is_file()
    assert read_marker(path) is None


def test_a_missing_chunk_is_an_error_and_never_fill(place):
    path = place / "a.zarr"
    write_store(path, dataset(), {})
    remove(path / "composite" / "c")
    with pytest.raises(StoreError, match="damaged"), open_store(path) as data:
        data["composite"].load()


@pytest.mark.slow
def test_flipped_bits_are_caught(place):
    path = place / "a.zarr"
    write_store(path, dataset(), {})
    shard = objects(path / "composite" / "c")[0]
    clean = shard.read_bytes()
    rng = np.random.default_rng(0)
    for position in rng.integers(0, len(clean), 40):
        broken = bytearray(clean)
        broken[position] ^= 1 << int(rng.integers(8))
        shard.write_bytes(bytes(broken))
        with pytest.raises(StoreError), open_store(path) as data:
            data["composite"].load()


def test_a_rewrite_replaces_what_was_there(place):
    path = place / "a.zarr"
    first = write_store(path, dataset(1).rename(composite="other"), {})
    second = write_store(path, dataset(2), {})
    assert first["sha256"] != second["sha256"]
    with open_store(path) as data:
        assert array_sha256({"composite": data["composite"].values}) == second["sha256"]
    assert not [path for path in objects(path) if "/other/" in str(path)]


def test_a_write_that_was_cut_off_is_not_finished(place, monkeypatch):
    path = place / "a.zarr"
    write_store(path, dataset(), {"fingerprint": "abc"})
    monkeypatch.setattr("engine.store.write_text", lambda *_: 1 / 0)  # killed before the marker
    with pytest.raises(ZeroDivisionError):
        write_store(path, dataset(), {"fingerprint": "abc"})
    assert objects(path)
    assert not is_current(path, "abc")


def test_others_open_a_store_in_a_bucket_as_any(bucket):
    write_store(bucket / "run" / "a.zarr", dataset(), {})
    store = zarr.storage.ObjectStore(S3Store(bucket.root.removeprefix("s3://"), prefix="run/a.zarr"), read_only=True)
    assert xr.open_zarr(store)["composite"].equals(dataset()["composite"])
    assert {path.name for path in entries(bucket / "run")[1]} == {"a.json"}, "no group was made of a folder"


def test_a_store_that_does_not_answer_is_neither_unfinished_nor_damaged(bucket):
    path = ObjectPath("s3://no-such-bucket-anywhere/run/a.zarr")
    for ask in (lambda: read_marker(path), lambda: open_store(path).__enter__()):
        with pytest.raises(StoreError, match=r"a\.zarr cannot be read \(there is no such bucket"):
            ask()
    with pytest.raises(StoreError, match=r"a\.zarr cannot be written \(there is no such bucket"):
        write_store(path, dataset(), {})


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="cannot be written"):
        write_store(tmp_path / "file" / "a.zarr", dataset(), {})


def test_threads_do_not_switch_each_others_checks_off(tmp_path):
    """Chunks of zeros are left out by zarr's own default, and a store without them is refused as damaged."""
    zeros = xr.Dataset({"a": (("y", "x"), np.zeros((300, 300), np.uint8))})

    def write(number: int) -> None:
        write_store(tmp_path / f"{number}.zarr", zeros, {"fingerprint": "f"})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(24)))
    for number in range(24):
        with open_store(tmp_path / f"{number}.zarr") as data:
            assert not data["a"].values.any()


def test_a_marker_that_is_no_object_marks_nothing(tmp_path):
    store = tmp_path / "2019.zarr"
    store.mkdir()
    (store / "zarr.json").write_text("{}")
    marker_path(store).write_text("[]")
    assert read_marker(store) is None
