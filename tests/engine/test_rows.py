import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import SampleError
from engine.legend import MANGROVE, OTHER
from engine.rows import (
    PIXEL,
    combine,
    feature_values,
    first_rows,
    gather_rows,
    is_thinned,
    land_of,
    row_keys,
    standing_for,
)

COLUMNS = ["red", "label", "weight", "region", "zone", "grid_row", "grid_col", "year"]


def make_sample(rows=600, seed=0):
    rng = np.random.default_rng(seed)
    place = rng.permutation(10_000)[:rows]
    return pd.DataFrame(
        {
            "red": rng.integers(7000, 20_000, rows, dtype=np.int32),
            "label": rng.choice([OTHER, MANGROVE], rows, p=[0.7, 0.3]).astype(np.uint8),
            "weight": rng.integers(1, 50, rows) + 0.5,
            "region": rng.choice(["Cuba1", "Fiji"], rows),
            "zone": np.int32(48),
            "grid_row": (place // 100).astype(np.int32),
            "grid_col": (place % 100).astype(np.int32),
            "year": np.int16(2020),
            "thinned": False,
        }
    )


SAMPLE = make_sample()


def test_features_are_whole_numbers_of_one_row_each():
    values = feature_values(SAMPLE, ["red", "year"])
    assert values.dtype == np.int32
    assert values.flags.c_contiguous
    np.testing.assert_array_equal(values, [SAMPLE["red"], SAMPLE["year"]])


def test_no_row_is_thinned_in_a_table_that_knows_none():
    assert not is_thinned(SAMPLE.drop(columns="thinned")).any()
    assert is_thinned(SAMPLE.assign(thinned=True)).all()


def test_keys_are_of_a_pixel_or_of_its_year_and_look_random():
    later = SAMPLE.assign(year=2021)
    np.testing.assert_array_equal(row_keys(SAMPLE, 3, by=PIXEL), row_keys(later, 3, by=PIXEL))
    assert not (row_keys(SAMPLE, 3) == row_keys(later, 3)).any()
    assert not (row_keys(SAMPLE, 3) == row_keys(SAMPLE, 4)).any()
    share = row_keys(make_sample(10_000), 3) / 2.0**64
    assert np.histogram(share, 10, (0, 1))[0] == pytest.approx(1000, abs=150)


@given(st.lists(st.integers(-100, 100), min_size=1, max_size=60), st.integers(2, 5))
def test_a_tree_adds_up_what_a_list_would(numbers, width):
    tree = combine(sum, [dask.delayed(number) for number in numbers], width)
    assert tree.compute(scheduler="synchronous") == sum(numbers)


def test_rows_are_drawn_alike_of_regions_and_classes_and_stand_for_the_same_land():
    rows, each = gather_rows(SAMPLE, COLUMNS, most=100, seed=3)
    assert each == 25
    assert set(rows.groupby(["region", "label"]).size()) == {25}
    np.testing.assert_allclose(land_of(rows), land_of(SAMPLE), rtol=1e-4)
    every, _ = gather_rows(SAMPLE, COLUMNS, most=10**6, seed=3)
    assert len(every) == len(SAMPLE)
    np.testing.assert_array_equal(np.sort(every["weight"]), np.sort(SAMPLE["weight"]))


def test_partitions_and_their_order_change_nothing():
    rows, _ = gather_rows(SAMPLE, COLUMNS, most=100, seed=3)
    parts = dd.from_pandas(SAMPLE.sample(frac=1, random_state=2), npartitions=40, sort=False)
    pd.testing.assert_frame_equal(gather_rows(parts, COLUMNS, most=100, seed=3)[0], rows)
    assert not gather_rows(SAMPLE, COLUMNS, most=100, seed=4)[0].equals(rows)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 60), st.integers(1, 4), st.integers(0, 2**31))
def test_parts_cut_and_then_the_whole_give_what_the_whole_gives(most, parts, seed):
    sample = make_sample(300, seed=seed % 1000)
    pieces = [first_rows(sample.iloc[rows], most=most, seed=seed) for rows in np.array_split(np.arange(300), parts)]
    whole = standing_for(first_rows(sample, most=most, seed=seed), land_of(sample))
    together = first_rows(pd.concat(pieces), most=most, seed=seed)
    pd.testing.assert_frame_equal(standing_for(together, land_of(sample)), whole)
    assert (whole.groupby(["region", "label"]).size() <= most).all()


def test_thinned_views_go_with_their_pixel_and_count_for_nothing():
    both = pd.concat([SAMPLE, SAMPLE.assign(thinned=True)])
    taken, each = gather_rows(both, COLUMNS, most=200, seed=0)
    assert each == 25
    assert taken["thinned"].sum() == 100 == (~taken["thinned"]).sum()
    np.testing.assert_allclose(land_of(taken), land_of(SAMPLE), rtol=1e-4)


def test_rows_without_a_label_are_no_part_and_none_left_is_told():
    odd = SAMPLE.assign(label=np.where(np.arange(600) < 10, 0, SAMPLE["label"]))
    assert len(gather_rows(odd, COLUMNS, most=10**6, seed=0)[0]) == 590
    with pytest.raises(SampleError, match="the sample is empty: no labelled row"):
        gather_rows(SAMPLE.assign(label=0), COLUMNS, most=10, seed=0)
    with pytest.raises(SampleError, match="sample lacks column 'red'; draw it again"):
        gather_rows(SAMPLE.drop(columns="red"), COLUMNS, most=10, seed=0)
