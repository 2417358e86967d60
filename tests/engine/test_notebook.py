"""What a notebook makes in memory is what the tasks of a run write."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import engine
from engine.area import Area, read_area
from engine.catalog import periods_of, search_scenes
from engine.errors import MaskError
from engine.kernels.features import FEATURE_SETS
from engine.masks import open_masks
from engine.model import Model
from engine.params import (
    AreaParams,
    ClassifyParams,
    CubeParams,
    LabelParams,
    SampleParams,
    SearchParams,
    TrainParams,
)
from engine.plan import TileYear, make_plan
from engine.ranges import Access
from engine.sample import part_path, read_part
from engine.simulate import WorldParams, write_archive
from engine.store import open_store
from engine.tasks import Draw, classify_task, cube_task, sample_task
from engine.train import fit
from engine.trust import Trust

DRAW = SampleParams(mangrove=60, other=90, thinned=0)
FEATURES = FEATURE_SETS["all"]


class World:
    """One region in one year, its cube and sample in memory and on disk."""

    def __init__(self, folder: Path) -> None:
        archive = write_archive(
            WorldParams(("Vietnam2",), (2020,), size_px=64, scenes_per_year=4, mask_years=(2020,)), folder / "archive"
        )
        self.access = Access(Trust().with_roots(folder))
        params = AreaParams(file=str(archive.regions), name_field="name")
        self.area: Area = read_area(params, self.access.trust)
        self.labels = LabelParams(masks=({"path": str(archive.masks[2020]), "year": 2020},))
        search = SearchParams(catalogs=(str(archive.items),))
        found = search_scenes(search, self.area, periods_of([2020]), trust=self.access.trust)
        self.part: TileYear = make_plan(self.area, periods_of([2020]), found.scenes).tile_years[0]
        self.cube: xr.Dataset = engine.composite_year(self.part, access=self.access)
        self.sample = engine.sample_year(
            self.part, self.cube, self.area, self.labels, access=self.access, params=DRAW, seed=3
        )
        self.store = folder / "cube" / "2020.zarr"
        cube_task(self.part, self.store, CubeParams(), self.access, 64, "a", False, {})

    @property
    def model(self) -> Model:
        return fit(self.sample, features=FEATURES, params=TrainParams(rounds=5, max_depth=3))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("notebook"))


def test_the_cube_is_that_of_a_run(world):
    with open_store(world.store) as written:
        assert set(world.cube.data_vars) == set(written.data_vars)
        for name in written.data_vars:
            np.testing.assert_array_equal(world.cube[name].values, written[name].values)
        for axis in ("x", "y"):
            np.testing.assert_array_equal(world.cube[axis].values, written[axis].values)


def test_the_sample_is_that_of_a_run(world, tmp_path):
    draw = Draw(
        area=world.area,
        masks=open_masks(world.labels, trust=world.access.trust),
        labels=world.labels,
        sample=DRAW,
        habitat=None,
        access=world.access,
        seed=3,
        features=FEATURES,
        cube=CubeParams(),
        block_px=64,
        skip_bad=False,
    )
    sample_task(world.store, world.part, draw, tmp_path, "b")
    written = read_part(part_path(tmp_path, world.part.tile.id, 2020))
    assert len(written) == 150
    pd.testing.assert_frame_equal(pd.DataFrame(world.sample), pd.DataFrame(written))


def test_the_map_is_that_of_a_run(world, tmp_path):
    model = world.model
    model.save(tmp_path / "model")
    store = tmp_path / "maps" / "2020.zarr"
    classify_task(
        world.store,
        world.part.tile,
        2020,
        world.area,
        tmp_path / "model",
        model.sha256(),
        None,
        world.access,
        ClassifyParams(),
        store,
        "c",
        {},
    )
    found = engine.classify_year(world.part, world.cube, world.area, model)
    with open_store(store) as written:
        for name in ("probability", "class"):
            assert found[name].dtype == written[name].dtype
            np.testing.assert_array_equal(found[name].values, written[name].values)


def test_a_year_that_no_mask_may_label_is_refused(world):
    labels = world.labels.model_copy(
        update={"masks": tuple(m.model_copy(update={"year": 2010}) for m in world.labels.masks)}
    )
    with pytest.raises(MaskError, match="more than 1 year"):
        engine.sample_year(world.part, world.cube, world.area, labels, access=world.access)


def test_names_at_the_top_are_there_and_others_are_not():
    assert all(callable(getattr(engine, name)) for name in engine.__all__)
    with pytest.raises(AttributeError, match="no attribute 'stack_everything'"):
        _ = engine.stack_everything
