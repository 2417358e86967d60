"""R14: whatever is parted, no 10 km block lies on both sides."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import splits
from engine.errors import SampleError
from engine.folds import apart_from, deal_folds
from engine.partitions import Table
from engine.sample import read_sample
from engine.simulate import WorldParams, write_archive
from tests.engine.samples import make_sample
from tests.jobs.calls import Job

REGIONS = ("Cuba1", "Cuba2", "Fiji", "India", "Nigeria1")
FOLDS = (2, 3, 4, 7)
PARTED_BY = ("hold-out", "each region", "folds of regions", "folds of blocks", "folds of training")
SENSORS = ("L5", "L8", "L8+L9")


def draw_table(seed, rows, extent_px, regions, overlap):
    """Draw rows whose regions share blocks (``overlap``), or lie apart; of two zones, on both sides of row 0."""
    frame = make_sample(rows, seed=seed, extent_px=extent_px, regions=REGIONS[:regions])
    rng = np.random.default_rng(seed)
    if overlap:
        frame["grid_col"] = rng.integers(-extent_px, extent_px, rows).astype(np.int32)
    return frame.assign(
        zone=rng.integers(17, 19, rows).astype(np.uint8),
        year=rng.choice([2000, 2015, 2020], rows).astype(np.int16),
        sensor=rng.choice(SENSORS, rows),
    )


def blocks(frame, rows):
    """Return the blocks of some rows, told otherwise than by ``engine.splits``."""
    chosen = frame[rows]
    return set(zip(chosen["zone"], np.floor(chosen["grid_row"] / 333), np.floor(chosen["grid_col"] / 333), strict=True))


def parted(frame, by, folds, seed):
    """Return the sides of every split of a kind, as (train, test) of booleans, and the regions held out."""
    names = sorted(set(frame["region"].astype(str)))
    held = tuple(names[: seed % len(names)])
    if by == "hold-out":
        return [(one.train, one.test) for one in [splits.by_region(frame, names[: 1 + seed % len(names)])]]
    if by == "each region":
        return [(one.train, one.test) for one in splits.leave_one_region_out(frame)]
    if by == "folds of regions":
        return [(one.train, one.test) for one in splits.region_folds(frame, folds=folds, repeats=2, seed=seed)]
    if by == "folds of blocks":
        return [(one.train, one.test) for one in splits.block_folds(frame, folds=folds, seed=seed)]
    table = Table.of(frame, ["red"], None)
    base = apart_from(table, held)
    _, dealt = deal_folds(table, base, folds, seed)
    in_held = frame["region"].astype(str).isin(held).to_numpy()
    return [(base(frame), in_held), *((one.train(frame), one.test(frame)) for one in dealt)]


def check(frame, by, folds, seed):
    for train, test in parted(frame, by, folds, seed):
        assert not (train & test).any()
        both = blocks(frame, train) & blocks(frame, test)
        assert not both, f"{by}, seed {seed}: block {min(both)} is on both sides"


def examples(count, folds, by, overlap):
    @settings(max_examples=count, derandomize=True, database=None)
    @given(st.integers(0, 2**31), st.integers(10, 300), st.integers(200, 4000), st.integers(1, 5))
    def run(seed, rows, extent_px, regions):
        check(draw_table(seed, rows, extent_px, regions, overlap), by, folds, seed)

    run()


@pytest.mark.parametrize("by", PARTED_BY)
def test_no_block_is_on_both_sides_in_a_few_draws(by, promise):
    with promise("R14", f"{by}, 20 draws of regions that share blocks"):
        examples(20, 3, by, overlap=True)


@pytest.mark.faults
@pytest.mark.parametrize(("by", "folds"), itertools.product(PARTED_BY, FOLDS))
def test_no_block_is_on_both_sides_in_hundreds_of_draws(by, folds, promise):
    for overlap in (False, True):
        with promise("R14", f"{by}, {folds} folds, 100 draws, {overlap=}"):
            examples(100, folds, by, overlap)


@pytest.mark.faults
@pytest.mark.parametrize("kind", ["sensor", "year"])
def test_no_block_is_on_both_sides_across_sensors_and_years(kind, promise):
    with promise("R14", f"across {kind}s, 100 draws"):

        @settings(max_examples=100, derandomize=True, database=None)
        @given(st.integers(0, 2**31), st.integers(30, 300), st.integers(200, 4000), st.integers(2, 5))
        def run(seed, rows, extent_px, folds):
            frame = draw_table(seed, rows, extent_px, 1 + seed % 5, True)
            try:
                if kind == "sensor":
                    found = splits.by_sensor(frame, train=["L5"], test=["L8", "L9"], folds=folds, seed=seed)
                else:
                    found = splits.by_year(frame, train=[2000, 2015], test=[2020], folds=folds, seed=seed)
            except SampleError:
                return  # a side without rows is refused
            for one in found:
                assert not blocks(frame, one.train) & blocks(frame, one.test)

        run()


@pytest.mark.faults
def test_no_block_is_on_both_sides_in_the_sample_of_a_run(promise, tmp_path):
    world = WorldParams(
        regions=("Vietnam2", "India"), years=(2016, 2017), size_px=512, scenes_per_year=4, mask_years=(2015, 2018)
    )
    job = Job(tmp_path, write_archive(world, tmp_path / "archive"))
    assert job.call("sample").code == 0
    frame = read_sample(job.run / "sample").compute()
    for by, folds in itertools.product(PARTED_BY, (2, 4)):
        with promise("R14", f"{by}, {folds} folds, the sample of a run"):
            for seed in range(5):
                check(frame, by, folds, seed)
