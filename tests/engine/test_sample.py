from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import MultiPolygon, box

from engine.area import Area, Region, region_codes
from engine.errors import SampleError
from engine.grid import Tile, tiles_of
from engine.params import SampleParams
from engine.sample import (
    check_sample,
    count_by,
    draw_tile,
    part_path,
    read_sample,
    thin_looks,
    thinned_rows,
    write_part,
)

FEATURES = ("blue", "ndvi")


def _area(*boxes: tuple[float, float, float, float]) -> Area:
    return Area(tuple(Region(f"r{i}", MultiPolygon([box(*b)])) for i, b in enumerate(boxes)))


def _world(tile: Tile, area: Area, seed: int = 0) -> dict:
    """Layers of a tile: about a third mangrove, some unknown, some never observed."""
    random = np.random.default_rng(seed)
    shape = tile.shape
    return {
        "features": random.integers(-9000, 9000, (len(FEATURES), *shape)).astype("int32"),
        "labels": random.choice(np.array([0, 1, 1, 2], "uint8"), shape),
        "interior": random.random(shape) < 0.7,
        "regions": region_codes(area, tile),
        "valid": random.random(shape) < 0.9,
        "clear_count": random.integers(1, 24, shape).astype("uint16"),
    }


def _draw(tile, area, world, *, seed=1, year=2019, mask_year=2020, **params):
    return draw_tile(
        world["features"],
        FEATURES,
        world["labels"],
        world["interior"],
        world["regions"],
        tile,
        year=year,
        mask_year=mask_year,
        area=area,
        params=SampleParams(**params),
        seed=seed,
        valid=world["valid"],
        clear_count=world["clear_count"],
        sensor="L8+L9",
        looks=23,
    )


@pytest.fixture(scope="module")
def small() -> tuple[Tile, Area, dict]:
    area = _area((105.1, 8.60, 105.13, 8.63), (105.13, 8.60, 105.15, 8.63))
    [tile] = tiles_of(area.geometry)
    return tile, area, _world(tile, area)


def _strata(tile, area, world):
    eligible = world["valid"] & (world["labels"] > 0)
    return {
        (region.name, label): int((eligible & (world["regions"] == i) & (world["labels"] == label)).sum())
        for i, region in enumerate(area.regions, 1)
        for label in (1, 2)
    }


def test_every_stratum_gives_its_number_and_its_weights_sum_to_its_pixels(small):
    tile, area, world = small
    frame = _draw(tile, area, world, mangrove=40, other=70)
    for (region, label), pixels in _strata(tile, area, world).items():
        rows = frame[(frame.region == region) & (frame.label == label)]
        assert len(rows) == (40 if label == 2 else 70)
        assert rows.weight.sum() == pytest.approx(pixels)


def test_a_fraction_is_of_the_class_and_one_takes_all(small):
    tile, area, world = small
    frame = _draw(tile, area, world, mangrove=0.25, other=1)
    for (region, label), pixels in _strata(tile, area, world).items():
        rows = frame[(frame.region == region) & (frame.label == label)]
        assert len(rows) == (-(-pixels // 4) if label == 2 else pixels)
        assert rows.weight.sum() == pytest.approx(pixels)


@pytest.mark.parametrize(("pixels", "fraction", "rows"), [(30, 0.1, 3), (100, 0.07, 7), (100, 0.071, 8), (3, 0.001, 1)])
def test_a_fraction_is_rounded_up_and_never_by_floating_point(small, pixels, fraction, rows):
    tile, area, world = small
    labels = np.zeros_like(world["labels"])
    there = np.flatnonzero(world["valid"] & (world["regions"] == 1))[:pixels]
    labels.flat[there] = 2
    assert len(_draw(tile, area, world | {"labels": labels}, mangrove=fraction)) == rows


def test_rows_carry_what_their_pixel_holds_and_where_it_lies(small):
    tile, area, world = small
    frame = _draw(tile, area, world, mangrove=50, other=50)
    y, x = frame.grid_row - tile.window[0], frame.grid_col - tile.window[1]
    assert np.array_equal(frame[list(FEATURES)].T.to_numpy(), world["features"][:, y, x])
    assert np.array_equal(frame.label, world["labels"][y, x])
    assert np.array_equal(frame.interior, world["interior"][y, x])
    assert np.array_equal(frame.clear_count, world["clear_count"][y, x])
    assert (set(frame.sensor), set(frame.looks), frame.thinned.any()) == ({"L8+L9"}, {23}, False)
    assert world["valid"][y, x].all()
    assert 0 < frame.interior.mean() < 1  # class edges are drawn too: the hold-out is scored un-eroded
    points, corner = frame.geometry.to_crs(tile.epsg), tile.geobox.transform
    assert np.allclose((points.x - corner.c) / 30, x + 0.5, atol=1e-4)
    assert np.allclose((corner.f - points.y) / 30, y + 0.5, atol=1e-4)
    assert np.array_equal(frame.geometry.x, frame.lon)
    assert set(frame.mask_year_gap) == {-1}
    expected = {
        "blue": "int32",
        "ndvi": "int32",
        "label": "uint8",
        "weight": "float64",
        "region": "object",
        "tile": "object",
        "year": "int16",
        "mask_year": "int16",
        "mask_year_gap": "int16",
        "grid_row": "int32",
        "grid_col": "int32",
        "zone": "uint8",
        "interior": "bool",
        "lon": "float64",
        "lat": "float64",
        "sensor": "object",
        "looks": "int16",
        "clear_count": "int16",
        "thinned": "bool",
        "why": "object",
    }
    assert {name: str(dtype) for name, dtype in frame.dtypes.items() if name != "geometry"} == expected
    assert frame.crs.to_epsg() == 4326


def test_every_row_says_why_it_is_there(small):
    tile, area, world = small
    pixels = _strata(tile, area, world)
    frame = _draw(tile, area, world, mangrove=40, other=1.0)
    edge = "; at a class edge: not trained on"
    said = set(frame.why[frame.interior])
    assert said == {
        *(f"stratified: 40 of {pixels[name, 2]} mangrove px of {name} in this tile and year" for name in ("r0", "r1")),
        *(f"stratified: all {pixels[name, 1]} other px of {name} in this tile and year" for name in ("r0", "r1")),
    }
    assert set(frame.why[~frame.interior]) == {why + edge for why in said}
    rows = frame[(frame.region == "r1") & (frame.label == 2)]
    assert rows.why.str.startswith(f"stratified: 40 of {pixels['r1', 2]} mangrove px of r1").all()
    studied = _draw(tile, area, world, rule="study")
    assert set(studied.why[studied.interior & (studied.region == "r0")]) == {
        "study: uniform position, one of 10000 over r0, kept as mangrove",
        "study: uniform position, one of 1000 over r0, kept as other",
    }


def test_the_same_places_are_drawn_in_every_year_and_others_with_another_seed(small):
    tile, area, world = small
    first, second = (_draw(tile, area, world, year=year, mangrove=50, other=50) for year in (2019, 2021))
    assert first.grid_row.equals(second.grid_row)
    assert first.grid_col.equals(second.grid_col)
    other = _draw(tile, area, world, seed=2, mangrove=50, other=50)
    assert not first.grid_row.equals(other.grid_row)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 120), st.integers(0, 2**63 - 1), st.integers(1, 60))
def test_drawing_from_crops_and_merging_equals_drawing_the_whole(n, seed, split):
    # What the tile's crop is (an area grew, a block is smaller) does not matter to a stratum's choice.
    area = _area((105.1, 8.60, 105.12, 8.62))
    [tile] = tiles_of(area.geometry)
    world = _world(tile, area, 3)
    whole = _draw(tile, area, world, seed=seed, mangrove=n, other=n)
    row, col, height, width = tile.window
    parts = []
    for y in (slice(0, split), slice(split, height)):
        crop = Tile(tile.zone, tile.col, tile.row, (row + y.start, col, y.stop - y.start, width))
        layers = {name: array[..., y, :] for name, array in world.items()}
        parts.append(_draw(crop, area, layers, seed=seed, mangrove=n, other=n))
    union = pd.concat(parts)
    key = ["grid_row", "grid_col"]
    assert set(map(tuple, whole[key].to_numpy())) <= set(map(tuple, union[key].to_numpy()))


def test_the_study_rule_draws_positions_over_the_region_and_keeps_those_of_the_class():
    area = _area((105.0, 8.4, 105.2, 8.6))  # 22 x 22 km: about 540 000 pixels in all
    [tile] = tiles_of(area.geometry)
    world = _world(tile, area, 5)
    world["valid"][:] = True
    frame = _draw(tile, area, world, rule="study")
    pixels = (world["regions"] == 1).sum()
    for label, positions in ((2, 10_000), (1, 1_000)):
        rows = frame[frame.label == label]
        share = (world["labels"][world["regions"] == 1] == label).mean()
        expected = positions * share
        assert abs(len(rows) - expected) < 4 * np.sqrt(expected)
        assert rows.weight.iloc[0] == pytest.approx(pixels / positions, rel=2e-3)
        assert rows.weight.nunique() == 1


def test_the_study_rule_draws_the_same_whatever_the_tiling():
    area = _area((105.0, 8.4, 105.2, 8.6))
    [tile] = tiles_of(area.geometry)
    world = _world(tile, area, 5)
    whole = _draw(tile, area, world, rule="study")
    row, col, height, width = tile.window
    crops = [slice(0, 100), slice(100, height)]
    parts = [
        _draw(
            Tile(tile.zone, tile.col, tile.row, (row + y.start, col, y.stop - y.start, width)),
            area,
            {name: array[..., y, :] for name, array in world.items()},
            rule="study",
        )
        for y in crops
    ]
    pd.testing.assert_frame_equal(pd.DataFrame(whole), pd.DataFrame(pd.concat(parts, ignore_index=True)))


def test_a_tile_without_labels_gives_an_empty_table_of_the_same_columns(small):
    tile, area, world = small
    empty = _draw(tile, area, world | {"labels": np.zeros_like(world["labels"])})
    full = _draw(tile, area, world)
    assert len(empty) == 0
    assert list(empty.columns) == list(full.columns)
    assert (empty.dtypes == full.dtypes).all()


DAYS = [f"landsat-8_125053_{day:04d}" for day in range(40)]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 40), st.integers(0, 2**63 - 1), st.integers(1, 8))
def test_thinned_looks_are_3_to_30_fewer_than_all_in_order_and_the_same_again(there, seed, number):
    call = {"seed": seed, "tile": "z48_c08_r-016", "year": 2019, "number": number}
    looks = DAYS[:there]
    chosen = thin_looks(looks, **call)
    assert chosen == thin_looks(looks, **call)
    assert list(chosen) == [look for look in looks if look in chosen]
    if there <= 3:
        assert chosen == ()
    else:
        assert 3 <= len(chosen) <= min(30, there - 1)


def test_the_number_of_thinned_looks_is_log_uniform_and_every_look_is_as_likely():
    draws = [thin_looks(DAYS, seed=seed, tile="z48_c08_r-016", year=2019, number=1) for seed in range(4000)]
    count = np.array([len(draw) for draw in draws])
    assert (count.min(), count.max()) == (3, 30)
    for first, last in ((3, 5), (6, 11), (12, 23), (24, 30)):
        share = np.log((last + 1) / first) / np.log(31 / 3)
        assert ((count >= first) & (count <= last)).mean() == pytest.approx(share, abs=0.03)
    often = np.array([sum(look in draw for draw in draws) for look in DAYS]) / count.sum()
    assert often == pytest.approx(np.full(40, 1 / 40), rel=0.15)


def test_thinned_composites_differ_between_tiles_years_and_numbers():
    call = {"seed": 1, "tile": "z48_c08_r-016", "year": 2019, "number": 1}
    others = [{"seed": 2}, {"tile": "z48_c08_r-017"}, {"year": 2020}, {"number": 2}]
    assert len({thin_looks(DAYS, **{**call, **other}) for other in ({}, *others)}) == 5


def test_thinned_rows_keep_place_label_and_weight_and_only_pixels_observed(small):
    tile, area, world = small
    drawn = _draw(tile, area, world, mangrove=3, other=2)  # ten rows
    features = np.arange(20, dtype="int32").reshape(2, 10)
    count = np.array([5, 0, 1, 2, 3, 0, 4, 5, 6, 7], "uint16")
    thinned = thinned_rows(drawn, features, FEATURES, count, sensor="L8", looks=7)
    seen = count > 0
    assert thinned.blue.tolist() == [0, 2, 3, 4, 6, 7, 8, 9]
    assert thinned.ndvi.tolist() == [10, 12, 13, 14, 16, 17, 18, 19]
    assert thinned.clear_count.tolist() == count[seen].tolist()
    assert (set(thinned.sensor), set(thinned.looks), thinned.thinned.all()) == ({"L8"}, {7}, True)
    assert thinned.why.tolist() == [why + "; thinned: composite of 7 of its 23 looks" for why in drawn.why[seen]]
    same = ["label", "weight", "region", "tile", "year", "grid_row", "grid_col", "interior", "geometry"]
    pd.testing.assert_frame_equal(thinned[same], drawn[same][seen].reset_index(drop=True))
    assert list(thinned.columns) == list(drawn.columns)
    assert (thinned.dtypes == drawn.dtypes).all()
    both = pd.concat([drawn, thinned], ignore_index=True)
    assert count_by(both).thinned.sum() == 8
    columns = ["mangrove", "other", "mangrove_px", "other_px"]
    pd.testing.assert_frame_equal(count_by(both)[columns], count_by(drawn)[columns])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mangrove": 1.5}, "mangrove must be a whole number of pixels or a fraction up to 1, got 1.5"),
        ({"rule": "study", "other": 500}, "rule study draws as published; drop other"),
        ({"thinned": 9}, "less than or equal to 8"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        SampleParams(**given)


def test_parts_are_written_whole_and_read_back_lazily_with_an_empty_one_among_them(small, tmp_path):
    tile, area, world = small
    frames = {year: _draw(tile, area, world, year=year, mangrove=20, other=30) for year in (2019, 2020)}
    frames[2021] = frames[2020].iloc[:0]
    for year, frame in frames.items():
        assert write_part(frame, tmp_path, tile=tile.id, year=year) == part_path(tmp_path, tile.id, year)
    assert len(list(tmp_path.iterdir())) == 3
    sample = read_sample(tmp_path)
    assert sample.npartitions == 3
    assert sample.crs.to_epsg() == 4326
    back = sample.compute()
    assert len(back) == 2 * len(frames[2019])
    assert np.array_equal(back.blue, pd.concat(frames.values()).blue)
    assert back.geometry.iloc[0].equals(frames[2019].geometry.iloc[0])
    pd.testing.assert_frame_equal(count_by(sample), count_by(pd.concat(frames.values())))


def test_counts_name_region_and_class_and_the_pixels_they_stand_for(small):
    tile, area, world = small
    counts = count_by(_draw(tile, area, world, mangrove=40, other=70))
    assert counts.columns.tolist() == ["mangrove", "other", "mangrove_px", "other_px", "thinned"]
    assert counts.loc["r0", ["mangrove", "other"]].tolist() == [40, 70]
    assert counts.loc["r1", "other_px"] == pytest.approx(_strata(tile, area, world)["r1", 1])
    check_sample(counts)


def test_a_sample_without_mangrove_or_of_nothing_is_refused(small):
    tile, area, world = small
    nothing = _draw(tile, area, world | {"labels": np.zeros_like(world["labels"])})
    with pytest.raises(SampleError, match="sample is empty"):
        check_sample(count_by(nothing))
    barren = _draw(tile, area, world | {"labels": np.ones_like(world["labels"])}, other=10)
    with pytest.raises(SampleError, match="20 rows has no mangrove pixel anywhere"):
        check_sample(count_by(barren))


def test_misshapen_layers_and_missing_samples_are_refused(small, tmp_path):
    tile, area, world = small
    with pytest.raises(ValueError, match="labels must be"):
        _draw(tile, area, world | {"labels": world["labels"][1:]})
    with pytest.raises(ValueError, match="features must be"):
        _draw(tile, area, world | {"features": world["features"][:1]})
    with pytest.raises(SampleError, match="holds no sample"):
        read_sample(tmp_path)
    with pytest.raises(ValueError, match="tile id"):
        part_path(tmp_path, "../x", 2019)
