"""Tasks of an assessment: strata go on across tiles, and what is drawn and counted is that of one large tile."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from PIL import Image
from shapely.geometry import box

from engine.area import Area, Region, region_codes, wrap
from engine.assess import merge_tallies, point_id
from engine.figures import CHIP_PX
from engine.grid import Tile, lonlat_of
from engine.history_tasks import chip_task, point_task, tally_task
from engine.kernels.design import stratify
from engine.landsat import BANDS
from engine.store import open_store, write_store
from tests.jobs.histories import write_history

CORNER = (-16 * 2048, 9 * 2048 - 14)
"""Tiles meet at column 9 * 2048."""

SIZE = (30, 32)
WEST = Tile(48, 8, -16, (*CORNER, SIZE[0], 14))
EAST = Tile(48, 9, -16, (CORNER[0], CORNER[1] + 14, SIZE[0], 18))
YEARS = [2010, 2015, 2020]
CLASSES = np.random.default_rng(2).choice([1, 2], (3, *SIZE), p=[0.7, 0.3]).astype("uint8")
CLASSES[:, 3:12, :10] = 1
CLASSES[:, 15:26, 4:20] = 2
BUFFER = 2


@pytest.fixture(scope="module")
def area() -> Area:
    rows, cols = (np.array([corner - 0.4, corner + size - 0.6]) for corner, size in zip(CORNER, SIZE, strict=True))
    lon, lat = lonlat_of(48, rows, cols)
    middle = lon.mean()
    west, east = (
        box(*sorted(ends)[:1], lat.min(), sorted(ends)[1], lat.max()) for ends in ((lon[0], middle), (middle, lon[1]))
    )
    return Area((Region("west", wrap(west)), Region("east", wrap(east))))


@pytest.fixture(scope="module")
def stores(area, tmp_path_factory) -> dict[Tile, Path]:
    folder, found = tmp_path_factory.mktemp("history"), {}
    for tile, cols in ((WEST, slice(0, 14)), (EAST, slice(14, 32))):
        found[tile] = folder / f"{tile.id}.zarr"
        write_history(found[tile], tile, region_codes(area, tile), YEARS, CLASSES[:, :, cols])
    return found


def calls(stores, area):
    for tile, other in ((WEST, EAST), (EAST, WEST)):
        yield stores[tile], tile, ((other, stores[other]),), area, None, BUFFER


def whole(stores) -> tuple[np.ndarray, np.ndarray]:
    """Strata and regions as if there were no tiles."""
    kinds, regions = [], []
    for tile in (WEST, EAST):
        with open_store(stores[tile]) as data:
            kinds.append(data["kind"].values)
            regions.append(data["region"].values)
    return stratify(np.hstack(kinds), buffer_px=BUFFER), np.hstack(regions)


def test_strata_are_counted_as_if_there_were_no_tiles(stores, area):
    strata, regions = whole(stores)
    sizes, areas = (
        merge_tallies(part) for part in zip(*(tally_task(*call) for call in calls(stores, area)), strict=True)
    )
    sizes = sizes.set_index(["where", "stratum"])["pixels"]
    for code in range(1, 8):
        assert sizes["whole area", code] == (strata == code).sum()
        assert sizes["west", code] == ((strata == code) & (regions == 1)).sum()
    alone = merge_tallies([tally_task(stores[WEST], WEST, (), area, None, BUFFER)[0]])
    assert alone["pixels"].tolist() != sizes["whole area"].tolist()
    mangrove = areas.set_index(["where", "first", "last", "class"])["pixels"]
    assert mangrove["east", 2015, 2015, "mangrove"] == ((CLASSES[1] == 2) & (regions == 2)).sum()


def test_points_know_their_stratum_region_zone_and_mapped_classes(stores, area):
    strata, regions = whole(stores)
    wanted = dict.fromkeys(range(1, 8), 9)
    points = pd.concat(
        [point_task(*call[:4], Area(area.regions[:1]), BUFFER, wanted, 5) for call in calls(stores, area)]
    )
    y, x = points["row"] - CORNER[0], points["col"] - CORNER[1]
    assert (strata[y, x] == points["stratum"]).all()
    assert (np.array(["", "west", "east"])[regions[y, x]] == points["region"]).all()
    assert (np.array(["", "west", ""])[regions[y, x]] == points["zone_name"]).all()
    assert np.array_equal(points[[str(year) for year in YEARS]], CLASSES[:, y, x].T)


def test_a_chip_shows_every_year_with_the_point_in_the_middle(tmp_path):
    rng = np.random.default_rng(1)
    cubes = {}
    for year in YEARS:
        composite = rng.integers(8000, 9000, (len(BANDS), *WEST.shape)).astype("uint16")
        composite[:, 4, 13] = 20_000  # at the tile's edge
        cubes[year] = tmp_path / f"{year}.zarr"
        write_store(cubes[year], xr.Dataset({"composite": (("band", "y", "x"), composite)}), {})
    rows, cols = CORNER[0] + np.array([4, 29]), CORNER[1] + np.array([13, 0])
    ids = [point_id(48, row, col) for row, col in zip(rows, cols, strict=True)]
    chips = chip_task(pd.DataFrame({"id": ids, "row": rows, "col": cols}), WEST, cubes)
    assert [name for name, _ in chips] == ids
    picture = np.asarray(Image.open(BytesIO(chips[0][1])))
    side = CHIP_PX * 4
    assert picture.shape == (14 + side, 3 * side + 2 * 4, 3)
    middle = 14 + side // 2, side // 2
    assert picture[middle].tolist() == [255, 255, 255]
    assert picture[middle[0], middle[1] + 2 * (side + 4)].tolist() == [255, 255, 255]
    assert picture[middle[0], side - 2].tolist() == [190, 190, 190]  # beyond the tile
    assert chip_task(pd.DataFrame({"id": ids, "row": rows, "col": cols}), WEST, cubes) == chips
