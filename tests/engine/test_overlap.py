"""Pairs of looks of two sensors, and the lines between them, against lines that are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from engine.cube import read_looks
from engine.errors import CatalogError
from engine.landsat import BANDS, OFFSET, ROY_RMA, SCALE
from engine.overlap import PAIRS, Pair, draw_pair, find_overlaps, fit_lines, needed, residual_table
from engine.params import CubeParams
from engine.plan import TileYear
from engine.tasks import overlap_task
from tests.engine.conftest import TILE
from tests.makers import utc

TRUE = {"ETM+": tuple((0.95 + band / 50, 0.002 * band) for band in range(6)), "TM": ((1.02, -0.004),) * 6}


def looked(scene, platform: str, month: int, day: int, cloud: float | None = 10.0):
    """Return a scene as that of another platform and day, which need not exist."""
    when = utc(2013, month, day)
    return replace(scene, id=f"{platform}-{month}-{day}", platform=platform, datetime=when, cloud_cover=cloud)


def part_of(scenes) -> TileYear:
    return TileYear(TILE, 2013, tuple(sorted(scenes, key=lambda scene: scene.datetime)))


def drawn(sensor: str, seed: int, pixels: int = 900, clouds: float = 0.03) -> Pair:
    """Return the pixels of a pair whose sensors differ by the known lines, some under a cloud that one look missed."""
    rng = np.random.default_rng(seed)
    first = rng.uniform(0.01, 0.4, (6, pixels))
    slope, shift = np.array(TRUE[sensor]).T[:, :, None]
    second = slope * first + shift + rng.normal(0, 0.004, first.shape)
    second[:, rng.random(pixels) < clouds] += 0.3
    first += rng.normal(0, 0.004, first.shape)
    return Pair(sensor, *(np.rint((look - OFFSET) / SCALE).astype(np.uint16) for look in (first, second)))


def test_the_closest_and_least_cloudy_looks_are_paired_each_once(scenes):
    base = scenes[0]
    etm = [looked(base, "landsat-7", 6, day, cloud) for day, cloud in [(1, 50), (9, 5), (20, 20)]]
    oli = [looked(base, "landsat-8", 6, day, cloud) for day, cloud in [(1, 10), (8, 10), (10, 10), (29, 0)]]
    (overlap,) = find_overlaps([part_of([*etm, *oli])], seed=1)
    assert overlap.sensor == "ETM+"
    # 9 June goes with 8 June (a day, as 10 June, but earlier); then 1 June with itself; 20 and 29 are nine days apart.
    assert overlap.pairs == ((etm[1].observation, oli[1].observation), (etm[0].observation, oli[0].observation))
    assert set(overlap.part.scenes) == {etm[0], etm[1], oli[0], oli[1]}


def test_tm_is_compared_with_etm_and_that_with_oli(scenes):
    base = scenes[0]
    tm_year = part_of([looked(base, "landsat-5", 3, 1), looked(base, "landsat-7", 3, 9)])
    oli_year = replace(part_of([looked(base, "landsat-7", 3, 1), looked(base, "landsat-8", 3, 9)]), year=2014)
    overlaps = find_overlaps([tm_year, oli_year], seed=1)
    assert [(overlap.sensor, overlap.part.year) for overlap in overlaps] == [("ETM+", 2014), ("TM", 2013)]
    assert needed(["OLI", "TM"]) == ["ETM+", "TM"]
    assert find_overlaps([part_of([looked(base, "landsat-8", 3, 1)])], seed=1) == []


def test_what_is_read_is_bounded_and_chosen_by_seed(scenes):
    year = part_of(looked(scenes[0], f"landsat-{7 + n % 2}", 1 + n // 2, 1 + n % 2) for n in range(20))
    (overlap,) = find_overlaps([year], seed=1)
    assert len(overlap.pairs) == PAIRS
    parts = [replace(year, year=1990 + n) for n in range(60)]
    one, again, other = (find_overlaps(some, seed=seed) for some, seed in ((parts, 1), (parts[::-1], 1), (parts, 2)))
    assert len(one) == 24
    assert one == again
    assert one != other


def test_pixels_are_drawn_that_are_clear_and_dry_in_both_looks():
    bands = np.full((2, 6, 260, 300), 10_000, dtype=np.uint16)
    bands[:, 3:] = 15_000
    bands[0, :, :, 0] = np.arange(260) + 10_000
    clear = np.zeros((2, 260, 300), dtype=bool)
    clear[0, :, :2], clear[1, :, :3] = True, True
    bands[1, 4, 100:, :] = 9_000  # wet in the second look
    pair = draw_pair(bands, clear, TILE, "ETM+", seed=1)
    assert pair.first.shape == pair.second.shape == (6, 200)
    assert sorted(pair.first[0]) == sorted([*range(10_000, 10_100), *[10_000] * 100])
    assert (draw_pair(bands, clear, TILE, "ETM+", seed=1).first == pair.first).all()


@pytest.mark.parametrize("etm", [0, 1])
def test_a_task_tells_the_sensors_apart_whichever_came_first_and_reads_what_they_saw(scenes, access, etm):
    made = [replace(scene, platform=f"landsat-{7 if n == etm else 8}") for n, scene in enumerate(scenes[:2])]
    made[1] = replace(made[1], datetime=made[0].datetime.replace(day=9))
    (overlap,) = find_overlaps([part_of(made)], seed=1)
    (pair,), lost = overlap_task(overlap, CubeParams(harmonise="roy"), access, 1, False)
    assert lost == []
    bands, clear, looks, _ = read_looks(made, TILE.geobox, access)
    assert looks[etm].startswith("landsat-7")
    expected = draw_pair(bands[[etm, 1 - etm]], clear[[etm, 1 - etm]], TILE, "ETM+", 1)
    assert np.array_equal(pair.first, expected.first)
    assert np.array_equal(pair.second, expected.second)
    assert pair.first.min() >= 7300, "nothing is fill, nothing harmonised"
    assert not np.array_equal(pair.first, pair.second)


def test_lines_are_found_under_noise_and_clouds_and_tm_goes_by_way_of_etm():
    pairs = [drawn(sensor, seed) for sensor in TRUE for seed in range(6)]
    lines = fit_lines(pairs, ["TM", "ETM+", "OLI"])
    np.testing.assert_allclose(lines["ETM+"], TRUE["ETM+"], atol=0.004)
    chained = [(s * m, s * b + i) for (m, b), (s, i) in zip(TRUE["TM"], TRUE["ETM+"], strict=True)]
    np.testing.assert_allclose(lines["TM"], chained, atol=0.008)
    assert set(fit_lines(pairs, ["OLI", "ETM+"])) == {"ETM+"}


def test_residuals_are_of_pairs_that_the_lines_have_not_seen():
    pairs = [drawn("ETM+", seed, clouds=0) for seed in range(4)]
    table = residual_table(pairs, local=True)
    assert list(table["method"].unique()) == ["none", "roy", "local"]
    assert set(table["pixels"]) == {3600}
    odd_of_even = fit_lines(pairs[::2], ["ETM+"], least=2)["ETM+"]
    even_of_odd = fit_lines(pairs[1::2], ["ETM+"], least=2)["ETM+"]
    for band, name in enumerate(BANDS):
        rows = table[table["band"] == name].set_index("method")
        first, second = (
            np.stack([getattr(p, look)[band] for p in pairs]) * SCALE + OFFSET for look in ("first", "second")
        )
        off = second - first
        assert rows.loc["none", "mean_bias"] == pytest.approx(off.mean(), abs=1e-5)
        assert rows.loc["none", "median_absolute"] == pytest.approx(np.median(abs(off)), abs=1e-5)
        slope, shift = ROY_RMA[name]
        assert rows.loc["roy", "mean_bias"] == pytest.approx((second - slope * first - shift).mean(), abs=1e-5)
        for half, (slope, shift) in ((slice(1, None, 2), odd_of_even[band]), (slice(0, None, 2), even_of_odd[band])):
            off[half] = second[half] - slope * first[half] - shift
        assert rows.loc["local", "mean_bias"] == pytest.approx(off.mean(), abs=1e-5)
        assert abs(rows.loc["local", "mean_bias"]) < 0.0005
        np.testing.assert_allclose(
            rows.loc["local", ["slope", "intercept"]].astype(float), TRUE["ETM+"][band], atol=0.005
        )


def test_too_few_pairs_and_bands_of_noise_are_refused_with_the_way_out():
    pairs = [drawn("ETM+", seed) for seed in range(3)]
    with pytest.raises(CatalogError, match=r"3 pairs of looks of ETM\+ and OLI .* of 4 needed; .* roy or none"):
        fit_lines([*pairs, drawn("ETM+", 9, pixels=150)], ["ETM+"])
    with pytest.raises(CatalogError, match=r"0 pairs of looks of TM and ETM\+"):
        fit_lines([*pairs, drawn("ETM+", 9)], ["TM"])
    flat = [Pair("ETM+", p.first, np.random.default_rng(n).permuted(p.second, axis=1)) for n, p in enumerate(pairs * 2)]
    with pytest.raises(CatalogError, match=r"blue of ETM\+ and OLI correlates by"):
        fit_lines(flat, ["ETM+"])
    assert residual_table([], local=False).empty
