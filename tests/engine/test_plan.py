"""What a plan promises of memory and disk, held against what tasks take."""

from __future__ import annotations

import datetime as dt
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from shapely.geometry import MultiPolygon, box

from engine import plan as planning
from engine.area import Area, Region
from engine.errors import PlanError
from engine.grid import Tile
from engine.params import CubeParams
from engine.plan import PROCESS_BYTES, Plan, TileYear, check_disk, history_bytes, make_plan, task_bytes
from engine.ranges import Access
from engine.scenes import Scene, balance_seasons
from engine.tasks import cube_task
from engine.trust import Trust
from tests.makers import utc, write_scene

TILE = Tile(48, 8, -16, (-32768, 16384, 1024, 1024))


def looks_of(scene: Scene, count: int) -> tuple[Scene, ...]:
    """Return the files of one scene as many looks."""
    days = [scene.datetime + dt.timedelta(days=11 * index) for index in range(count)]
    return tuple(replace(scene, id=f"LC08_L2SP_125053_{day:%Y%m%d}_02_T1", datetime=day) for day in days)


def peak_of(part: TileYear, folder: Path, params: CubeParams, block_px: int) -> int:
    """Run a cube task and return the most memory its process ever held, bytes."""
    cube_task(part, folder / "2019.zarr", params, Access(Trust().with_roots(folder)), block_px, "", False, {})
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is read from Linux's /proc")
@pytest.mark.parametrize(
    ("keep", "block_px", "tide"),
    [("annual", 1024, "all"), ("annual", 1024, "low"), ("annual", 256, "all"), ("scenes", 1024, "all")],
)
def test_a_cube_task_stays_within_its_stated_memory(tmp_path, keep, block_px, tide):
    scene = write_scene(tmp_path, day=utc(2019, 1, 1), corner=(-32800, 16350), shape=(1090, 1090), tile_px=512)
    part = TileYear(TILE, 2019, looks_of(scene, 30))
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        peak = pool.submit(peak_of, part, tmp_path, CubeParams(keep=keep, tide=tide), block_px).result()
    bound = task_bytes(part.looks, block_px, TILE.shape, keep_scenes=keep == "scenes", low_tide=tide == "low")
    print(f"{keep}, {block_px} rows: {peak / 1e6:.0f} MB of {bound / 1e6:.0f} MB")
    assert peak < bound


def test_keeping_the_looks_is_counted_in_memory_and_on_disk(scenes):
    area = Area((Region("a", MultiPolygon([box(104.9, 8.7, 105.2, 9.0)])),))
    year = {2019: (utc(2019, 1, 1), utc(2020, 1, 1))}
    plain, kept = (make_plan(area, year, scenes, block_px=256, keep_scenes=keep) for keep in (False, True))
    assert kept.write_bytes > plain.write_bytes
    assert task_bytes(100, 256, keep_scenes=True) - task_bytes(100, 256) > 2 * 2**30
    with pytest.raises(
        PlanError, match=r"one task needs 1\.04 GB \(. looks of blocks of 256 rows\), .*drop cube\.keep: scenes"
    ):
        make_plan(area, year, scenes, worker_bytes=10**8, keep_scenes=True)


def test_a_plan_of_balanced_seasons_gives_each_tile_year_fewer_looks(scenes):
    area = Area((Region("a", MultiPolygon([box(104.9, 8.7, 105.2, 9.0)])),))
    day = scenes[0].datetime
    more = [replace(scenes[0], id=f"x{n}", datetime=day + dt.timedelta(days=8 * n)) for n in range(1, 6)]
    year = {2019: (utc(2019, 1, 1), utc(2020, 1, 1))}
    plain, balanced = (make_plan(area, year, [*scenes, *more], balance=how) for how in ("none", "season"))
    for part, fewer in zip(plain.tile_years, balanced.tile_years, strict=True):
        assert list(fewer.scenes) == balance_seasons(part.scenes)
    assert sum(part.looks for part in balanced.tile_years) < sum(part.looks for part in plain.tile_years)


def test_what_thinned_composites_read_again_is_counted(scenes):
    area = Area((Region("a", MultiPolygon([box(104.9, 8.7, 105.2, 9.0)])),))
    year = {2019: (utc(2019, 1, 1), utc(2020, 1, 1))}
    once, twice, other = (
        make_plan(area, year, scenes, read_again=years).read_bytes for years in ((), (2019,), (2018,))
    )
    assert twice == 2 * once > 0
    assert other == once


def test_a_block_is_as_tall_as_fits_the_worker():
    bounds = [task_bytes(40, rows) for rows in (2048, 1024, 512, 256)]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[-1] < 0.7 * bounds[0]
    assert task_bytes(40, 1024, other_zone=True) > bounds[1]


def test_outputs_that_are_there_already_need_no_room_again(tmp_path, monkeypatch):
    plan = Plan((TileYear(TILE, 2019, ()),), 1024, 0, 0)
    monkeypatch.setattr(planning.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 10**7}))
    with pytest.raises(PlanError, match=r"outputs need about 0\.0 GB, .* has 0\.0 GB free; free space"):
        check_disk(plan, tmp_path)
    (tmp_path / "cube").mkdir()
    (tmp_path / "cube" / "a").write_bytes(bytes(plan.write_bytes - 10**7))
    check_disk(plan, tmp_path)


def test_many_years_of_a_tile_need_memory_of_their_own(scenes):
    area = Area((Region("a", MultiPolygon([box(104.9, 8.7, 105.2, 9.0)])),))
    periods = {year: (utc(year, 1, 1), utc(year + 1, 1, 1)) for year in range(1981, 2021)}
    tile = max(make_plan(area, periods, scenes).tiles, key=lambda tile: tile.shape[0] * tile.shape[1])
    values = 40 * tile.shape[0] * tile.shape[1]
    need = PROCESS_BYTES + 36 * min(8 * 2**20, values) + 12 * values
    assert history_bytes(tile.shape, 40) == need
    assert history_bytes(tile.shape, 1) == 0
    assert make_plan(area, periods, scenes, worker_bytes=need).task_bytes == need
    with pytest.raises(PlanError, match=r"the history of 40 years of a tile needs .* map fewer years in a run"):
        make_plan(area, periods, scenes, worker_bytes=need - 1)
