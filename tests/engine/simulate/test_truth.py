"""Truth at the rows of a table, against the rasters of the archive read by rasterio."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import rasterio

from engine.errors import ConfigError
from engine.simulate import Archive, WorldParams, add_truth, write_archive
from engine.simulate.truth import raster_at, rows_by_site
from engine.simulate.world import site_of

PARAMS = WorldParams(("India", "Southern Mexico"), (2012, 2016), size_px=64, scenes_per_year=1, mask_years=(2013,))


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Archive:
    return write_archive(PARAMS, tmp_path_factory.mktemp("archive"))


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    """Pixels of both squares and both years, shuffled, under names of a run's own."""
    sites, rng = [site_of(region, 64) for region in PARAMS.regions], np.random.default_rng(0)
    of, y, x = rng.integers(0, 2, 200), rng.integers(0, 64, 200), rng.integers(0, 64, 200)
    return pd.DataFrame(
        {
            "region": np.array(["east", "west"])[of],
            "zone": np.array([site.zone for site in sites], np.uint8)[of],
            "grid_row": np.array([site.row for site in sites])[of] + y,
            "grid_col": np.array([site.col for site in sites])[of] + x,
            "year": rng.choice([2012, 2016], 200).astype(np.int16),
        },
        index=rng.permutation(200),
    )


def test_truth_is_the_pixel_of_its_year(archive, rows):
    found = add_truth(rows, archive)
    pd.testing.assert_frame_equal(found[rows.columns], rows)
    assert found["truth"].dtype == bool
    names = {one["code"]: one["name"] for one in json.loads((archive.folder / "world.json").read_text())["classes"]}
    named = {"east": "sim-India", "west": "sim-Southern Mexico"}
    for row in found.itertuples():
        with rasterio.open(archive.folder / "truth" / f"{named[row.region]}_{row.year}.tif") as raster:
            x, y = (30 * row.grid_col + 15) + 15, (15 - 30 * row.grid_row) - 15  # centre, on edges of 15 m modulo 30
            code, mangrove, _ = next(raster.sample([(x, y)]))
        assert (row.truth, row.truth_class) == (mangrove == 1, names[code])
    assert 0 < found["truth"].sum() < 200


def test_a_surface_model_is_read_where_the_rows_lie(archive, rows):
    for site, inside in rows_by_site(rows, archive):
        assert set(rows["region"].iloc[inside]) == {"east" if site.name == "sim-India" else "west"}
        found = raster_at(archive.dems[site.name], site, rows.iloc[inside])
        with rasterio.open(archive.dems[site.name]) as raster:
            band = raster.read(1)
        of = rows.iloc[inside]
        assert found.tolist() == [[band[one.grid_row - site.row, one.grid_col - site.col] for one in of.itertuples()]]


@pytest.mark.parametrize("change", [{"year": 2013}, {"zone": 1}, {"grid_row": 0}])
def test_rows_outside_the_world_are_told(archive, rows, change):
    some = rows.copy()
    for name, value in change.items():
        some.iloc[[3, 5], some.columns.get_loc(name)] = value
    with pytest.raises(ConfigError, match=r"has no truth of 2 of 200 rows.* run's scenes and masks"):
        add_truth(some, archive)


def test_no_rows_have_no_truth(archive, rows):
    assert add_truth(rows.head(0), archive).columns.tolist() == [*rows.columns, "truth", "truth_class"]
