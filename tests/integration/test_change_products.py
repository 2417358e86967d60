"""Patches and series of a run whose histories lie in four tiles that meet, and in another zone."""

from __future__ import annotations

import json

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread
from shapely.geometry import box

from engine.area import Area, Region, region_codes, wrap
from engine.area_series import WHOLE
from engine.assess import Assessment, estimate_areas
from engine.grid import lonlat_of, pixel_hectares, tiles_of
from engine.kernels.design import INNER_MANGROVE
from engine.legend import MANGROVE, NOT_OBSERVED, OTHER, OUTSIDE_AREA
from engine.patches import edges_path
from engine.store import marker_path
from jobs.change_products import fingerprint_of_map, show_rates, write_patches, write_series
from tests.engine.histories import crop, large_flags, random_history, write_history
from tests.integration.conftest import Opener

YEARS = [2000, 2004, 2010, 2012]
LEAST_PX = 6
CORNER = (-15 * 2048, 9 * 2048)


@pytest.fixture
def config(tmp_path) -> dict:
    """A run over 40 x 50 pixels round the corner of four tiles."""
    lon, lat = lonlat_of(48, np.array([CORNER[0] + 20, CORNER[0] - 20]), np.array([CORNER[1] - 25, CORNER[1] + 25]))
    return {
        "area": {"bbox": [float(at) for at in (lon[0], lat[0], lon[1], lat[1])], "name": "delta"},
        "years": YEARS,
        "notice": "SIMULATED: by hand",
    }


def write_histories(run, seed=0):
    """Write the histories of the tiles of a run, cut from one raster; return them and the raster."""
    tiles = tiles_of(run.area.geometry)
    assert len(tiles) == 4
    corner = min(tile.window[0] for tile in tiles), min(tile.window[1] for tile in tiles)
    shape = tuple(max(tile.window[side] + tile.window[side + 2] for tile in tiles) - corner[side] for side in (0, 1))
    rng = np.random.default_rng(seed)
    layers = random_history(rng, shape, 0.25)
    layers["class"] = rng.choice([OTHER, MANGROVE], (len(YEARS), *shape)).astype("uint8")
    layers["class"][:, :3] = NOT_OBSERVED
    layers["region"][:] = 0
    for tile in tiles:
        top, left = tile.window[0] - corner[0], tile.window[1] - corner[1]
        layers["region"][top : top + tile.shape[0], left : left + tile.shape[1]] = region_codes(run.area, tile)
    outside = layers["region"] == 0
    layers["class"][:, outside] = OUTSIDE_AREA
    for name in ("loss_year", "gain_year"):
        layers[name][outside] = 0
    layers["kind"][outside] = OUTSIDE_AREA
    layers["large"] = large_flags(layers, LEAST_PX)
    folder, stores = run.outputs / "change" / "history", []
    for tile in tiles:
        store = write_history(folder / f"{tile.id}.zarr", crop(layers, tile, corner), tile, YEARS)
        stores.append((tile, store))
    return stores, layers


def test_patches_are_one_file_whose_areas_are_those_of_the_pixels(config, open_run: Opener):
    with open_run(config) as run:
        histories, layers = write_histories(run)
        west, south, east, north = run.area.geometry.bounds
        zones = Area((Region("park", wrap(box(west, south, (west + east) / 2, north))),))
        path, areas = write_patches(run, histories, zones=zones, least_px=LEAST_PX)
        before = path.read_bytes(), (run.folder / "patch_areas.csv").read_bytes()
        again, _ = write_patches(run, histories[::-1], zones=zones, least_px=LEAST_PX)
        assert (again.read_bytes(), (run.folder / "patch_areas.csv").read_bytes()) == before
        assert run.record.data["stages"]["patches"]["counts"] == {"done": 0, "skipped": 4}
        frame = gpd.read_parquet(path)
        assert set(frame["region"]) == {"delta"}
        assert set(frame["notice"]) == {config["notice"]}
        for direction, bit in (("loss", 1), ("gain", 2)):
            lost = layers[f"{direction}_year"] > 0
            of = frame[frame["direction"] == direction]
            assert of["pixels"].sum() == lost.sum()
            # Patches joined of tiles are large where the pixels, which saw a few pixels more than their tile, say so.
            assert of.loc[of["large"], "pixels"].sum() == (layers["large"] & bit > 0).sum()
            counted = areas[(areas["by"] == "region") & (areas["direction"] == direction)]
            assert counted["pixels"].sum() == lost.sum()
            assert counted["hectares_sieved"].sum() == pytest.approx(of.loc[of["large"], "area_ha"].sum())
        assert 0 < areas.loc[areas["by"] == "zone", "pixels"].sum() < frame["pixels"].sum()
        stated = pd.read_csv(run.folder / "patch_areas.csv")
        assert stated["method"].str.contains("not error-adjusted").all()
        assert path.with_name("patches.parquet.json").is_file()


@pytest.mark.slow
def test_only_what_is_missing_or_older_than_its_history_is_told_again(config, open_run: Opener):
    with open_run(config) as run:
        histories, _ = write_histories(run)
        path, _ = write_patches(run, histories, zones=None, least_px=LEAST_PX)
        before = path.read_bytes()
        edges_path(path.with_name("patches") / f"{histories[2][0].id}.parquet").unlink()
        write_patches(run, histories, zones=None, least_px=LEAST_PX)
        assert path.read_bytes() == before
        assert run.record.data["stages"]["patches"]["counts"] == {"done": 1, "skipped": 3}
        histories, _ = write_histories(run, seed=1)
        write_patches(run, histories, zones=None, least_px=LEAST_PX)
        assert path.read_bytes() != before
        assert run.record.data["stages"]["patches"]["counts"] == {"done": 4, "skipped": 0}


def read_by_hand() -> pd.DataFrame:
    """Estimate the areas of 100 ha from 100 points, of which 80, 60, 60 and 50 are mangrove."""
    count = [80, 60, 60, 50]
    labels = np.where(np.arange(100)[:, None] < count, np.uint8(MANGROVE), np.uint8(OTHER))
    size = {"by": "total", "where": WHOLE[1], "stratum": INNER_MANGROVE, "pixels": 1111, "hectares": 100.0}
    empty = pd.DataFrame(columns=["by", "where", "first", "last", "class", "hectares"])
    points = pd.DataFrame({"stratum": [INNER_MANGROVE] * 100})
    return estimate_areas(
        Assessment(
            years=tuple(YEARS), points=points, mapped=labels, labels=labels, sizes=pd.DataFrame([size]), areas=empty
        )
    )


@pytest.mark.slow
def test_the_series_is_counted_over_all_tiles_and_takes_estimates(config, open_run: Opener, capsys):
    with open_run(config) as run:
        histories, layers = write_histories(run)
        series, rates = write_series(run, histories, zones=None, recovery_years=5)
        assert series["estimated_ha"].isna().all()
        assert series["method"].str.startswith("mapped area, not error-adjusted").all()
        classes, inside = layers["class"], layers["region"] > 0
        tile, _ = histories[0]
        hectares = pixel_hectares(tile)[0]
        whole = series[series["by"] == "total"].reset_index(drop=True)
        for at, row in whole.iterrows():
            assert row["mangrove_ha"] == pytest.approx((classes[at] == MANGROVE).sum() * hectares, rel=1e-4)
            assert row["not_observed_ha"] == pytest.approx((inside & (classes[at] == 0)).sum() * hectares, rel=1e-4)
            if at:
                lost = (classes[at - 1] == MANGROVE) & (classes[at] == OTHER)
                sieved = lost & (layers["large"] & 1 > 0)
                assert row["loss_ha"] == pytest.approx(lost.sum() * hectares, rel=1e-4)
                assert row["loss_sieved_ha"] == pytest.approx(sieved.sum() * hectares, rel=1e-4)
        assert rates["last"].tolist() == [2004, 2012] * 2
        show_rates(run, rates)
        assessed = run.folder / "assess" / "areas.parquet"
        assessed.parent.mkdir()
        read_by_hand().to_parquet(assessed)
        series, _ = write_series(run, histories, zones=None, recovery_years=5)
        assert series["estimated_ha"].isna().all()
        assert "is of another map or other zones, left out" in capsys.readouterr().err
        marker_path(assessed).write_text(json.dumps({"fingerprint": fingerprint_of_map(run, histories, None)}))
        series, _ = write_series(run, histories, zones=None, recovery_years=5)
        assert run.record.data["stages"]["series"]["counts"] == {"done": 0, "skipped": 4}
        written = pd.read_csv(run.folder / "series.csv")
        shown = written.loc[written["by"] == "total", ["low_ha", "estimated_ha", "high_ha"]]
        assert (shown.diff(axis=1).iloc[:, 1:] > 0).all(axis=None)
        assert shown["estimated_ha"].tolist() == pytest.approx([80, 60, 60, 50])
        assert written.loc[written["by"] == "region", "low_ha"].isna().all()
        pd.testing.assert_frame_equal(
            pd.read_parquet(run.folder / "series.parquet"), series.assign(notice=config["notice"]), check_dtype=False
        )
        assert imread(run.folder / "series.png").size
        for name in ("series.csv", "series.parquet", "series.png", "rates.csv"):
            assert (run.folder / f"{name}.json").is_file()
        zones = Area((Region("all", wrap(run.area.geometry)),))
        series, _ = write_series(run, histories, zones=zones, recovery_years=5)
        assert series["estimated_ha"].isna().all()


def test_a_run_without_change_has_an_empty_file_of_patches(config, open_run: Opener):
    with open_run({**config, "years": [2000]}) as run:
        histories = []
        for tile in tiles_of(run.area.geometry):
            layers = random_history(np.random.default_rng(0), tile.shape, 0.0)
            layers |= {"region": region_codes(run.area, tile), "large": np.zeros(tile.shape, "uint8")}
            store = run.outputs / "change" / "history" / f"{tile.id}.zarr"
            histories.append((tile, write_history(store, layers, tile, [2000])))
        path, areas = write_patches(run, histories, zones=None, least_px=LEAST_PX)
        assert areas.empty
        assert gpd.read_parquet(path).empty
        series, rates = write_series(run, histories, zones=None, recovery_years=5)
        assert series["mangrove_ha"].tolist() == [0.0, 0.0]
        assert rates.empty
