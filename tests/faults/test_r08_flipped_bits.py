"""Bits flipped in what a run stored: ``verify`` names each, and what is read as chunks raises."""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from engine.errors import StoreError
from engine.grid import grid_geobox
from engine.simulate import WorldParams, write_archive
from engine.store import grid_coords, marker_path, open_store, write_store
from engine.verify import verify_task
from tests.jobs.calls import Job, mangroves

WORLD = WorldParams(regions=("Vietnam2",), years=(2016, 2017), size_px=128, scenes_per_year=4, mask_years=(2015, 2018))


def chunks_of(stores: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Return every file of some stores that holds chunks, each with its store."""
    return [
        (store, path)
        for store in stores
        for path in sorted(store.rglob("*"))
        if path.is_file() and path.name != "zarr.json"
    ]


def flip(path: Path, place: int) -> bytes:
    """Flip one bit of a file and return what it held."""
    whole = path.read_bytes()
    damaged = bytearray(whole)
    bit = place % (8 * len(whole))
    damaged[bit // 8] ^= 1 << bit % 8
    path.write_bytes(damaged)
    return whole


def hold(store: Path, path: Path, place: int) -> None:
    """Flip a bit of a chunk; verify must name the store, and reading must raise."""
    whole = flip(path, place)
    try:
        assert verify_task(marker_path(store)).damaged, "verify"
        with pytest.raises(StoreError), open_store(store) as data:
            data.load()
    finally:
        path.write_bytes(whole)


def test_flipped_bits_of_values_and_coordinates_are_caught(tmp_path, promise):
    store = tmp_path / "2016.zarr"
    draw = random.Random(8)
    values = np.random.default_rng(8).integers(0, 3000, (2, 300, 300)).astype(np.uint16)
    geobox = grid_geobox(48, (-32768, 16384, 300, 300))
    dataset = xr.Dataset(
        {"composite": (("band", "y", "x"), values)}, coords={**grid_coords(geobox), "band": ["red", "nir08"]}
    )
    write_store(store, dataset, {"fingerprint": "a"})
    assert not verify_task(marker_path(store)).damaged
    files = chunks_of([store])
    assert {path.relative_to(store).parts[0] for _, path in files} == {"composite", "x", "y", "band", "spatial_ref"}
    for number in range(25):
        _, path = files[number % len(files)]
        with promise("R8", f"{path.relative_to(store)}, {number}"):
            hold(store, path, draw.randrange(2**40))


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_flipped_bits_of_a_run_are_caught_by_verify_and_by_reads(tmp_path, promise):
    job = Job(tmp_path, write_archive(WORLD, tmp_path / "archive"))
    job.config["train"]["hold_out"] = []
    answer = job.call("run")
    assert answer.code == 0, answer.err
    draw = random.Random(88)
    stores = sorted(job.run.rglob("*.zarr"))
    files = chunks_of(stores)
    for number in range(256):
        store, path = files[number * len(files) // 256 if len(files) > 256 else number % len(files)]
        with promise("R8", f"{path.relative_to(job.run)}, {number}"):
            hold(store, path, draw.randrange(2**40))
    for store in stores:
        for tif in sorted(store.parent.glob(f"*{store.stem}*.tif")):
            with promise("R8", f"{tif.relative_to(job.run)}"):
                whole = flip(tif, draw.randrange(2**40))
                assert any(tif.name in problem for problem, _ in verify_task(marker_path(store)).damaged)
                tif.write_bytes(whole)
    flip(files[0][1], 99)
    shutil.rmtree(stores[-1])
    answer = mangroves("verify", job.run, "--cluster", "threads")
    assert answer.code == 1
    assert "2 damaged or missing" in answer.out
    assert len([line for line in answer.err.splitlines() if line.startswith("damaged")]) == 2
