"""Splits: no block on both sides, whatever the table."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import splits
from engine.errors import SampleError
from tests.engine.samples import make_sample

SENSORS = np.array(["L5", "L7", "L8", "L8+L9"])


def table(rows, seed, extent_px, regions=("Cuba1", "Cuba2", "Fiji", "India"), mix=False):
    frame = make_sample(rows, seed=seed, extent_px=extent_px, regions=regions)
    random = np.random.default_rng(seed)
    if mix:  # regions that share land
        frame["region"] = random.permutation(frame["region"].to_numpy())
    return frame.assign(sensor=random.choice(SENSORS, rows))


def all_kinds(frame, folds, seed):
    names = sorted(set(frame["region"]))
    return [
        splits.by_region(frame, names[:1]),
        *splits.leave_one_region_out(frame),
        *splits.region_folds(frame, folds=folds, repeats=2, seed=seed),
        *splits.block_folds(frame, folds=folds, seed=seed),
        *splits.by_sensor(frame, train=["L8", "L9"], test=["L5", "L7"], seed=seed),
        *splits.by_year(frame, train=[2015], test=[2020], seed=seed),
    ]


@settings(max_examples=30, deadline=None)
@given(st.integers(60, 300), st.integers(0, 2**31), st.integers(300, 4000), st.integers(2, 6), st.booleans())
def test_no_block_is_on_both_sides_of_any_split(rows, seed, extent_px, folds, mix):
    frame = table(rows, seed, extent_px, mix=mix)
    row, col = frame["grid_row"] // 333, frame["grid_col"] // 333
    blocks = np.array(list(zip(frame["zone"], row, col, strict=True)))
    for split in all_kinds(frame, folds, seed):
        sides = [set(map(tuple, blocks[side])) for side in (split.train, split.test)]
        assert not sides[0] & sides[1], split.kind
        assert not (split.train & split.test).any()


def test_folds_test_every_row_once_a_repeat_and_keep_regions_whole():
    frame = table(500, 1, 2000)
    found = splits.region_folds(frame, folds=3, repeats=2, seed=5)
    assert len(found) == 6
    for repeat in (found[:3], found[3:]):
        np.testing.assert_array_equal(sum(split.test.astype(int) for split in repeat), 1)
        assert sum(len(set(frame["region"][split.test])) for split in repeat) == 4
    again = splits.region_folds(frame, folds=3, repeats=2, seed=5)
    assert all((a.test == b.test).all() for a, b in zip(found, again, strict=True))


def test_one_region_is_parted_by_its_blocks_and_says_so():
    frame = table(300, 2, 3000, regions=("Fiji",))
    found = splits.region_folds(frame, folds=4)
    assert len(found) == 4
    assert {split.kind for split in found} == {"in-region, not transfer: 10 km blocks"}


def test_sides_of_sensors_and_years_are_what_was_asked_for():
    frame = table(800, 3, 2000)
    for split in splits.by_sensor(frame, train=["L8", "L9"], test=["L5"]):
        assert set(frame["sensor"][split.train]) <= {"L8", "L8+L9"}
        assert set(frame["sensor"][split.test]) == {"L5"}
        assert not set(frame["region"][split.train]) & set(frame["region"][split.test])
    for split in splits.by_year(frame, train=[2015], test=[2020]):
        assert set(frame["year"][split.train]) == {2015}
        assert set(frame["year"][split.test]) == {2020}


def test_a_random_split_is_called_optimistic_and_keeps_a_pixel_together():
    frame = table(2000, 4, 2000)
    split = splits.random_rows(frame, share=0.25, seed=1)
    assert "optimistic" in split.kind
    assert split.test.mean() == pytest.approx(0.25, abs=0.04)
    np.testing.assert_array_equal(split.train, ~split.test)
    shuffled = frame.sample(frac=1, random_state=0)
    np.testing.assert_array_equal(splits.random_rows(shuffled, seed=1).test, split.test[shuffled.index])


def test_what_is_not_there_is_told():
    frame = table(100, 5, 2000)
    with pytest.raises(SampleError, match="no sample in region 'Atlantis'; sampled are Cuba1"):
        splits.by_region(frame, ["Atlantis"])
    with pytest.raises(SampleError, match="no row of L9 to test on"):
        splits.by_sensor(frame, train=["L8"], test=["L9"])
    with pytest.raises(SampleError, match="no row of 1999 to train on"):
        splits.by_year(frame, train=[1999], test=[2020])
