"""Passes of a year, and what they record."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from functools import cache

import numpy as np
import pytest

from engine.area import study_regions
from engine.kernels.quality import clear_mask
from engine.landsat import OFFSET, QA_BITS, QA_FILL, SCALE
from engine.simulate.scenes import Pass, Rendered, Surface, climate_of, plan_passes, render, tide_height
from engine.simulate.spectra import INDEX
from engine.simulate.terrain import make_terrain, state_of
from engine.simulate.world import WorldParams, site_of

SITE = site_of("India", 256)


def params(year: int, **change: object) -> WorldParams:
    return WorldParams(("India",), (year,), **({"size_px": 256} | change))  # type: ignore[arg-type]


@cache
def surface(year: int) -> Surface:
    terrain = make_terrain(1, "India", 256, "coastal")
    return Surface(params(year), terrain, state_of(terrain, year))


@cache
def year_of(year: int) -> list[tuple[Pass, Rendered]]:
    return [(look, render(surface(year), look)) for look in plan_passes(params(year), SITE, year)]


@pytest.mark.parametrize(
    ("year", "platforms"),
    [
        (1990, {"landsat-5"}),
        (2005, {"landsat-5", "landsat-7"}),
        (2012, {"landsat-7"}),
        (2016, {"landsat-8"}),
        (2023, {"landsat-8", "landsat-9"}),
    ],
)
def test_each_year_has_the_platforms_of_its_time(year: int, platforms: set[str]) -> None:
    passes = plan_passes(params(year), SITE, year)
    assert {look.platform for look in passes} == platforms
    assert sum(1 + look.split for look in passes) == 14
    assert {look.time.year for look in passes} == {year}


def test_two_paths_come_seven_or_nine_days_apart_and_one_pass_as_two_rows() -> None:
    passes = plan_passes(params(2016), SITE, 2016)
    east, west = (
        {look.time.timetuple().tm_yday % 16 for look in passes if look.east == side} for side in (True, False)
    )
    assert len(east) == len(west) == 1
    assert (west.pop() - east.pop()) % 16 in (7, 9)
    assert len({look.path for look in passes}) == 2
    assert [look.east for look in passes if look.split] == [False]


def test_the_whole_archive_holds_few_scenes_of_landsat_5_and_many_of_landsat_8() -> None:
    counts = Counter(
        look.platform
        for year in (1990, 1994, 2016)
        for look in plan_passes(params(year, scenes_per_year=None), SITE, year)
    )
    assert counts["landsat-5"] < 20
    assert counts["landsat-8"] > 35
    assert counts["landsat-7"] > 10


def test_one_region_has_a_gap_and_one_only_second_tier_scenes() -> None:
    looks = {
        region: plan_passes(WorldParams((region,), (1992,)), site_of(region, 512), 1992) for region in study_regions()
    }
    assert sum(not passes for passes in looks.values()) == 1
    assert sum({look.tier for look in passes} == {"T2"} for passes in looks.values()) == 1


@pytest.mark.parametrize(
    ("year", "words"),
    [
        # Fill, clear land, clear water, dilated cloud, cloud, shadow, cirrus (spectra.json), and cloud of middling
        # confidence over land and water.
        (2016, {1, 21824, 21952, 21762, 22280, 23888, 54596, 22080, 22208}),
        (2012, {1, 5440, 5504, 5378, 5896, 7440}),
    ],
)
def test_qa_words_with_one_thing_to_say_are_those_of_the_product_guides(year: int, words: set[int]) -> None:
    found = set(np.concatenate([np.unique(rendered.bands["qa_pixel"]) for _, rendered in year_of(year)]).tolist())
    flags = [QA_BITS[name] for name in ("dilated_cloud", "cirrus", "cloud", "cloud_shadow", "water")]
    single = {word for word in found if sum(word >> bit & 1 for bit in flags) <= 1}
    assert single == words
    if year == 2012:  # bits 2, 14 and 15 are unused on ETM+
        assert all(word & 0b1100_0000_0000_0100 == 0 for word in found)


def test_the_clear_bit_stays_under_shadow_on_oli_and_not_on_etm() -> None:
    for year, stays in ((2016, True), (2012, False)):
        words = np.concatenate([rendered.bands["qa_pixel"].ravel() for _, rendered in year_of(year)])
        shadow = words[(words >> QA_BITS["cloud_shadow"] & 1 == 1) & (words & 0b1010 == 0)]
        assert len(shadow) > 100
        assert ((shadow >> QA_BITS["clear"] & 1) == stays).all()


def test_fill_is_zero_in_every_band_and_one_in_qa() -> None:
    for _, rendered in year_of(2012):
        fill = rendered.bands["qa_pixel"] == QA_FILL
        assert fill.any()
        for band in ("blue", "swir22"):
            np.testing.assert_array_equal(rendered.bands[band] == 0, fill)


def test_oli_has_coastal_and_aerosol_and_etm_its_own_layers() -> None:
    oli, etm = year_of(2016)[0][1].bands, year_of(2012)[0][1].bands
    assert set(oli) - set(etm) == {"coastal", "qa_aerosol"}
    assert set(etm) - set(oli) == {"cloud_qa", "atmos_opacity"}


def test_scan_lines_are_missing_only_after_the_corrector_failed() -> None:
    look = next(look for look, _ in year_of(2012))
    for day, gaps in ((dt.date(2003, 5, 30), False), (dt.date(2003, 6, 2), True)):
        time = dt.datetime(day.year, day.month, day.day, 4, tzinfo=dt.UTC)
        rendered = render(surface(2012), Pass("landsat-7", look.path, look.row, look.east, time, "T1", False))
        missing = (rendered.bands["qa_pixel"] == QA_FILL) & rendered.valid
        assert missing.any() == gaps
        assert (rendered.bands["qa_radsat"][missing] == 1 << 9).all()
        if gaps:
            assert 0.01 < missing.sum() / rendered.valid.sum() < 0.45
    thematic = render(surface(2012), Pass("landsat-5", look.path, look.row, look.east, time, "T1", False))
    assert not ((thematic.bands["qa_pixel"] == QA_FILL) & thematic.valid).any()


def test_qa_misses_some_cloud_and_its_errors_stay_in_the_reflectance() -> None:
    missed = total = 0
    for _, rendered in year_of(2016):
        clear = clear_mask(rendered.bands["qa_pixel"])
        missed += int((rendered.cloud & clear).sum())
        total += int(rendered.cloud.sum())
    assert 0.003 < missed / total < 0.08


def test_the_two_paths_have_different_fill_wedges_that_leave_no_pixel_unseen() -> None:
    sides = {look.east: rendered.valid for look, rendered in year_of(2016)}
    assert (sides[True] | sides[False]).all()
    assert not sides[True][:, -1].any()
    assert not sides[False][:, 0].any()


def test_tides_rise_and_fall_within_their_amplitudes() -> None:
    climate = climate_of(1, SITE)
    start = dt.datetime(2016, 1, 1, tzinfo=dt.UTC)
    heights = [tide_height(start + dt.timedelta(hours=hour), climate) for hour in range(24 * 30)]
    assert max(heights) <= 1.47 * climate.tide_scale
    assert max(heights) > 0.8 * climate.tide_scale
    assert min(heights) < -0.8 * climate.tide_scale


def test_a_pixel_keeps_its_own_deviation_through_the_year() -> None:
    """Averaging scenes must not set the classes trivially apart: most of the spread stays in the median."""
    stack = np.stack(
        [np.where(clear_mask(r.bands["qa_pixel"]), r.bands["nir08"].astype("f4"), np.nan) for _, r in year_of(2016)]
    )
    index = state_of(make_terrain(1, "India", 256, "coastal"), 2016).index
    pixels = (index == INDEX["mangrove_tall"]) & (np.isfinite(stack).sum(axis=0) >= 4)
    median = np.nanmedian(stack[:, pixels], axis=0) * SCALE + OFFSET
    assert 0.6 * 0.123 < np.log(median).std() < 1.3 * 0.123  # sd_log of nir08 in spectra.json
