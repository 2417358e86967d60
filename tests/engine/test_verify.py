"""What is compared with what was written."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest
import xarray as xr

from engine.params import TrainParams
from engine.store import array_sha256, marker_path, open_store, seal_of, write_marker, write_store
from engine.train import train_model
from engine.verify import find_vouchers, verify_task
from tests.engine.samples import make_sample


def a_store(folder):
    beside = folder / "class.tif"
    beside.write_bytes(b"pixels")
    store = folder / "2019.zarr"
    write_store(store, xr.Dataset({"a": (("y", "x"), np.ones((4, 4), "u1"))}), {"fingerprint": "f"}, [beside])
    return store, beside


def problems(voucher):
    return [problem for problem, _ in verify_task(voucher).damaged]


def test_what_is_whole_is_counted(tmp_path):
    store, _ = a_store(tmp_path)
    found = verify_task(marker_path(store))
    assert found.counts == {"files": 2, "stores": 1, "markers": 1}
    assert not found.damaged


def test_each_damaged_or_missing_thing_is_named_with_its_fix(tmp_path):
    store, beside = a_store(tmp_path)
    beside.write_bytes(b"pixelz")
    ((problem, fix),) = verify_task(marker_path(store)).damaged
    assert problem == f"{beside} is not as it was written"
    assert fix == f"delete its marker {marker_path(store)} and run the same command again"
    beside.unlink()
    assert "class.tif cannot be read" in problems(marker_path(store))[0]
    beside.write_bytes(b"pixels")
    marker = json.loads(marker_path(store).read_text())
    marker_path(store).write_text(json.dumps(marker | {"fingerprint": "g"}))
    assert problems(marker_path(store)) == [f"{marker_path(store)} is not as it was written"]
    marker_path(store).write_text("{")
    assert problems(marker_path(store)) == [f"{marker_path(store)} is damaged"]


def test_a_record_beside_a_table_vouches_for_its_bytes(tmp_path):
    table, beside = tmp_path / "areas.csv", tmp_path / "areas.csv.json"
    table.write_text("a\n")
    digest = write_marker(tmp_path / "x.json", {}, [table])["files"]["areas.csv"]
    beside.write_text(json.dumps({"output": "areas.csv", "sha256": digest}))
    assert problems(beside) == []
    table.write_text("b\n")
    assert problems(beside) == [f"{table} is not as it was written"]


def test_stores_without_a_marker_are_unfinished(tmp_path):
    store, _ = a_store(tmp_path)
    marker_path(store).unlink()
    found = find_vouchers(tmp_path)
    assert found.unfinished == [store]
    assert found.vouchers == []


def test_only_the_catalog_of_the_run_is_passed_over(tmp_path):
    for folder in (tmp_path / "stac", tmp_path / "maps" / "stac"):
        folder.mkdir(parents=True)
        store, _ = a_store(folder)
    assert find_vouchers(tmp_path).vouchers == [marker_path(store)]


@pytest.mark.parametrize("key", ["fingerprint", "sha256", "marker_sha256", "files"])
def test_a_bit_flipped_in_a_key_of_a_marker_is_told(tmp_path, key):
    store, _ = a_store(tmp_path)
    text = marker_path(store).read_text()
    marker_path(store).write_text(text.replace(f'"{key}"', f'"{key[:-1]}~"'))
    assert problems(marker_path(store)) == [f"{marker_path(store)} is not as it was written"]


@pytest.mark.parametrize("key", ["output", "sha256"])
def test_a_bit_flipped_in_a_key_of_a_record_is_told_where_it_is_the_hash(tmp_path, key):
    table, beside = tmp_path / "areas.csv", tmp_path / "areas.csv.json"
    table.write_text("a\n")
    digest = write_marker(tmp_path / "x.json", {}, [table])["files"]["areas.csv"]
    beside.write_text(json.dumps({"output": "areas.csv", "sha256": digest}).replace(f'"{key}"', f'"{key}~"'))
    assert bool(problems(beside)) == (key == "sha256")
    table.write_text("b\n")
    assert problems(beside) == [f"{table} is not as it was written"]


@pytest.mark.parametrize("files", [["a"], {"../../secret": "0"}, {"/dev/zero": "0"}, {"a/../../b": "0"}])
def test_a_forged_marker_leads_nowhere_else(tmp_path, files):
    marker = {"fingerprint": "f", "files": files}
    voucher = tmp_path / "2019.json"
    voucher.write_text(json.dumps(marker | {"marker_sha256": seal_of(marker)}))
    assert problems(voucher) == [f"{voucher} is not as it was written"]
    voucher.write_text("[" * 100_000)
    assert problems(voucher) == [f"{voucher} is damaged"]


def test_a_model_within_a_model_is_checked_and_one_without_its_trees_or_end_is_told(tmp_path):
    model = train_model(make_sample(600), params=TrainParams(rounds=2, max_depth=2)).model
    outer, inner = tmp_path / "model", tmp_path / "model" / "bands"
    for folder in (outer, inner):
        model.save(folder)
    assert find_vouchers(tmp_path).vouchers == [outer, inner]
    (inner / "model.json").unlink()
    assert find_vouchers(tmp_path).vouchers == [outer, inner]
    ((problem, _),) = verify_task(inner).damaged
    assert "model.json" in problem
    model.save(inner)
    (inner / "meta.json").unlink()
    found = find_vouchers(tmp_path)
    assert (found.vouchers, found.unfinished) == ([outer], [inner])


@pytest.mark.parametrize(
    "forged",
    [
        {"shape": [10**7, 10**7]},
        {"shape": [10**9, 4, 4]},
        {"data_type": {"name": "fixed_length_utf32", "configuration": {"length_bytes": 2**34}}},
        {"codecs": [{"name": "sharding_indexed", "configuration": {"chunk_shape": [10**6, 10**6]}}]},
        {"shape": "x"},
        {"shape": None},
    ],
)
def test_a_store_that_declares_more_than_a_tile_is_refused_before_it_is_read(tmp_path, forged):
    store, _ = a_store(tmp_path)
    meta = json.loads((store / "zarr.json").read_text())
    meta["consolidated_metadata"]["metadata"]["a"].update(forged)
    (store / "zarr.json").write_text(json.dumps(meta))
    content = json.loads(marker_path(store).read_text())
    content.pop("marker_sha256")
    content["files"] = {}
    content["marker_sha256"] = seal_of(content)
    marker_path(store).write_text(json.dumps(content))
    tracemalloc.start()
    [problem] = problems(marker_path(store))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "is damaged (" in problem
    assert "\n" not in problem
    assert most < 20 * 2**20


def test_planes_are_hashed_as_the_whole(tmp_path):
    rng = np.random.default_rng(0)
    data = {"b": (("k", "y", "x"), rng.integers(0, 9, (3, 5, 7))), "a": (("y", "x"), rng.random((5, 7))), "c": ((), 1)}
    write_store(tmp_path / "s.zarr", xr.Dataset(data), {})
    with open_store(tmp_path / "s.zarr") as found:
        assert (
            array_sha256({str(name): found[name].variable for name in found.data_vars})
            == json.loads((tmp_path / "s.json").read_text())["sha256"]
        )
