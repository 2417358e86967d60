"""Folds of a table that lies in partitions: land for land, each row judged once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.folds import apart_from, deal_folds, random_split, regions_in
from engine.kernels.features import ALL_FEATURES
from engine.partitions import Table
from engine.splits import IN_REGION, REGION_FOLDS
from tests.engine.samples import make_sample


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**31), st.integers(20, 400), st.integers(300, 4000), st.integers(1, 4), st.integers(2, 5), st.data()
)
def test_no_block_is_on_both_sides_of_a_fold(seed, rows, extent_px, parts, folds, data):
    names = data.draw(st.sampled_from([("Fiji",), ("Cuba1", "Fiji"), ("Cuba1", "Cuba2", "Fiji", "India")]))
    held = data.draw(st.sampled_from([(), names[1:2]]))
    sample = make_sample(rows, seed=seed, extent_px=extent_px, regions=names)
    table = Table.of(sample, ALL_FEATURES, None)
    _, splits = deal_folds(table, apart_from(table, held), folds, seed)
    tested = np.zeros(rows, int)
    for split in splits:
        sides = {"train": set(), "test": set()}
        for part in np.array_split(np.arange(rows), parts):
            frame = sample.iloc[part]
            blocks = list(zip(frame["zone"], frame["grid_row"] // 333, frame["grid_col"] // 333, strict=True))
            for side, chosen in (("train", split.train(frame)), ("test", split.test(frame))):
                sides[side] |= {block for block, kept in zip(blocks, chosen, strict=True) if kept}
                assert not frame["region"][chosen].isin(held).any()
            tested[part] += split.test(frame)
        assert not sides["train"] & sides["test"]
    assert tested.max(initial=0) <= 1  # scored once, by a model that never saw it


def everything(part):
    return np.ones(len(part), bool)


@pytest.mark.parametrize(
    ("names", "folds", "kind", "dealt"),
    [
        (("Cuba1", "Cuba2", "Fiji"), 4, REGION_FOLDS, 3),
        (("Fiji",), 4, IN_REGION, 4),
        (("Cuba1", "Fiji"), 2, REGION_FOLDS, 2),
    ],
)
def test_regions_are_dealt_and_of_a_single_one_its_blocks(names, folds, kind, dealt):
    sample = make_sample(300, regions=names)
    table = Table.of(sample, ["red"], None)
    found, splits = deal_folds(table, everything, folds, seed=1)
    assert (found, len(splits)) == (kind, dealt)
    assert (sum(split.test(sample).astype(int) for split in splits) == 1).all()
    assert regions_in(table) == sorted(names)


def test_a_table_without_land_has_no_folds():
    sample = make_sample(20, regions=("Fiji",))
    assert deal_folds(Table.of(sample, ["red"], None), lambda part: np.zeros(len(part), bool), 4, 1)[1] == []


def test_a_random_split_takes_a_quarter_of_the_rows_and_views_of_a_pixel_together():
    sample = make_sample(4000)
    test = random_split(everything, seed=1).test(sample)
    assert test.mean() == pytest.approx(0.25, abs=0.03)
    again = random_split(everything, seed=1).test(sample.iloc[::-1])
    assert (again[::-1] == test).all()
