"""Stores are finished or refused, and a flipped bit is caught."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import xarray as xr

from engine.errors import StoreError
from engine.store import array_sha256, is_current, marker_path, open_store, read_marker, write_store


def dataset(seed: int = 0) -> xr.Dataset:
    values = np.random.default_rng(seed).integers(0, 9999, (6, 300, 270)).astype("uint16")
    values[:, :256, :256] = 0  # a chunk of fill only
    return xr.Dataset({"composite": (("band", "y", "x"), values)})


def test_a_store_reads_back_and_remembers_its_inputs(tmp_path):
    path = tmp_path / "a.zarr"
    marker = write_store(path, dataset(), {"fingerprint": "abc"})
    with open_store(path) as data:
        assert array_sha256({"composite": data["composite"].values}) == marker["sha256"]
    assert is_current(path, "abc")
    assert not is_current(path, "other")


def test_a_store_without_its_marker_is_refused(tmp_path):
    path = tmp_path / "a.zarr"
    write_store(path, dataset(), {})
    marker_path(path).unlink()
    assert read_marker(path) is None
    with pytest.raises(StoreError, match="not finished"), open_store(path):
        pass


def test_a_missing_chunk_is_an_error_and_never_fill(tmp_path):
    path = tmp_path / "a.zarr"
    write_store(path, dataset(), {})
    for shard in (path / "composite" / "c").rglob("*"):
        if shard.is_file():
            shard.unlink()
    with pytest.raises(StoreError, match="damaged"), open_store(path) as data:
        data["composite"].load()


def test_flipped_bits_are_caught(tmp_path):
    path = tmp_path / "a.zarr"
    write_store(path, dataset(), {})
    shard = next(p for p in (path / "composite" / "c").rglob("*") if p.is_file())
    clean = shard.read_bytes()
    rng = np.random.default_rng(0)
    for position in rng.integers(0, len(clean), 40):
        broken = bytearray(clean)
        broken[position] ^= 1 << int(rng.integers(8))
        shard.write_bytes(bytes(broken))
        with pytest.raises(StoreError), open_store(path) as data:
            data["composite"].load()


def test_a_rewrite_replaces_what_was_there(tmp_path):
    path = tmp_path / "a.zarr"
    first = write_store(path, dataset(1), {})
    second = write_store(path, dataset(2), {})
    assert first["sha256"] != second["sha256"]
    with open_store(path) as data:
        assert array_sha256({"composite": data["composite"].values}) == second["sha256"]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="cannot write"):
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
