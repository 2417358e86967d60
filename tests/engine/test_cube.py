"""The cube against plain numpy, odc-stac, the lazy stack, and itself in other blocks."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import rasterio
import xarray as xr

from engine.cube import build_tile_year, clear_pixels, composite_block, read_looks, reduce_looks
from engine.errors import SceneError
from engine.kernels.geomedian import geomedian
from engine.kernels.harmonise import harmonise
from engine.kernels.quality import clear_mask
from engine.landsat import BANDS
from engine.params import CubeParams, HarmonisedCubeParams
from engine.plan import TileYear
from engine.ranges import Access
from engine.stack import stack_items, stack_looks
from engine.store import array_sha256, open_store
from engine.trust import Trust
from tests.engine.conftest import TILE
from tests.makers import item_of, utc, write_scene

PARAMS = CubeParams()


def plain_looks(scenes, geobox):
    """Read everything with rasterio and numpy only: (look, band, y, x), 0 where not clear."""
    looks = {}
    height, width = geobox.shape
    for scene in scenes:
        layers = {}
        for asset, path in scene.assets.items():
            with rasterio.open(path) as file:
                full = file.read(1)
                row = round((geobox.transform.f - file.transform.f) / -30)
                col = round((geobox.transform.c - file.transform.c) / 30)
            padded = np.full((height, width), 1 if asset == "qa_pixel" else 0, dtype="uint16")
            for y in range(height):
                if 0 <= row + y < full.shape[0]:
                    left, right = max(0, col), min(full.shape[1], col + width)
                    padded[y, left - col : right - col] = full[row + y, left:right]
            layers[asset] = padded
        clear = (layers["qa_pixel"] & 31) == 0
        clear &= (layers["qa_radsat"] & (126 | 2048)) == 0
        for band in BANDS:
            clear &= layers[band] > 0
        stacked = np.stack([layers[band] for band in BANDS]) * clear
        known = looks.setdefault(scene.observation, np.zeros_like(stacked))
        looks[scene.observation] = np.where(known[:1] > 0, known, stacked)
    return np.stack(list(looks.values()))


def test_the_cube_equals_rasterio_and_numpy_exactly(scenes, access):
    layers, lost = composite_block(scenes, TILE.geobox, PARAMS, access)
    looks = plain_looks(scenes, TILE.geobox).astype("float64")
    looks[looks == 0] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        median = np.nanmedian(looks, axis=0)
    expected = np.nan_to_num(np.floor(median + 0.5)).astype("uint16")
    assert np.array_equal(layers["composite"], expected)
    assert np.array_equal(layers["clear_count"], (~np.isnan(looks[:, 0])).sum(axis=0))
    assert lost == []
    assert layers["clear_count"].max() > 8
    assert layers["clear_count"].min() == 0


def test_a_cube_of_geomedians_is_reduced_from_the_same_looks(scenes, access):
    params = CubeParams(composite="geomedian")
    layers, _ = composite_block(scenes, TILE.geobox, params, access)
    lazy = stack_looks(scenes, TILE.geobox, params, access).compute()
    assert all(np.array_equal(layers[name], values) for name, values in reduce_looks(lazy, params).items())
    bands, clear, _, _ = read_looks(scenes, TILE.geobox, access)
    assert np.array_equal(layers["composite"], geomedian(bands, clear))


def test_two_rows_of_one_pass_count_as_one_look(scenes, access):
    _, clear, looks, _ = read_looks(scenes[-2:], TILE.geobox, access)
    assert looks == ["landsat-8_125_20191101"]
    assert clear.shape[0] == 1


def test_the_lazy_stack_equals_the_fused_task_to_the_last_digit(scenes, access):
    lazy = stack_looks(scenes, TILE.geobox, PARAMS, access)
    assert lazy.chunks is not None, "nothing may be computed before it is asked for"
    eager, _ = composite_block(scenes, TILE.geobox, PARAMS, access)
    reduced = reduce_looks(lazy, PARAMS)
    assert array_sha256(reduced) == array_sha256(eager)


def test_harmonised_looks_are_those_of_tm_and_etm_and_in_the_lazy_stack_too(scenes, access):
    scenes = [replace(scene, platform=f"landsat-{(5, 7, 8)[n % 3]}") for n, scene in enumerate(scenes)]
    roy = CubeParams(harmonise="roy")
    plain, clear, looks, _ = read_looks(scenes, TILE.geobox, access)
    bands, clear_too, _, _ = read_looks(scenes, TILE.geobox, access, roy)
    assert np.array_equal(clear, clear_too)
    for look, before, after, seen in zip(looks, plain, bands, clear, strict=True):
        expected = before.copy()
        if not look.startswith("landsat-8"):
            harmonise(expected, seen)
        assert np.array_equal(after, expected), look
    eager, _ = composite_block(scenes, TILE.geobox, roy, access)
    lazy = reduce_looks(stack_looks(scenes, TILE.geobox, roy, access), roy)
    plain_layers, _ = composite_block(scenes, TILE.geobox, PARAMS, access)
    assert array_sha256(lazy) == array_sha256(eager) != array_sha256(plain_layers)


def test_lines_fitted_here_are_applied_by_sensor_and_in_the_lazy_stack_too(scenes, access):
    scenes = [replace(scene, platform=f"landsat-{(5, 7, 8)[n % 3]}") for n, scene in enumerate(scenes)]
    lines = {"TM": ((0.9, 0.01),) * 6, "ETM+": tuple((1 + band / 100, -0.002 * band) for band in range(6))}
    local = HarmonisedCubeParams(harmonise="local", lines=lines)
    plain, clear, looks, _ = read_looks(scenes, TILE.geobox, access)
    bands, _, _, _ = read_looks(scenes, TILE.geobox, access, local)
    for look, before, after, seen in zip(looks, plain, bands, clear, strict=True):
        expected = before.copy()
        if not look.startswith("landsat-8"):
            slope, more = np.array(lines["TM" if look.startswith("landsat-5") else "ETM+"]).T[:, :, None, None]
            changed = np.rint((slope * (before * 2.75e-5 - 0.2) + more + 0.2) / 2.75e-5)
            expected = np.where(seen, np.clip(changed, 1, 65_535), before)
        assert abs(after.astype(int) - expected).max() <= 1, look  # float32 against float64
    eager, _ = composite_block(scenes, TILE.geobox, local, access)
    lazy = reduce_looks(stack_looks(scenes, TILE.geobox, local, access), local)
    assert array_sha256(lazy) == array_sha256(eager)
    with pytest.raises(ValueError, match="no lines were fitted"):
        read_looks(scenes, TILE.geobox, access, CubeParams(harmonise="local"))


def test_a_cube_of_low_tide_is_the_same_lazily_and_leaves_the_wettest_looks_out(scenes, access):
    low = CubeParams(tide="low")
    eager, _ = composite_block(scenes, TILE.geobox, low, access, block_px=256)
    assert array_sha256(reduce_looks(stack_looks(scenes, TILE.geobox, low, access), low)) == array_sha256(eager)
    plain, _ = composite_block(scenes, TILE.geobox, PARAMS, access)
    many = plain["clear_count"] >= 9
    assert np.array_equal(eager["clear_count"], plain["clear_count"])
    assert np.array_equal(eager["composite"][:, ~many], plain["composite"][:, ~many])
    assert many.any()
    assert (eager["composite"][:, many] != plain["composite"][:, many]).any()


def test_gaps_of_a_failed_scan_line_corrector_are_in_no_statistic(tmp_path):
    """Eight looks of ETM+ after 2003: in gaps QA is fill, and at their edge some bands end before others."""
    made = []
    for number in range(8):
        scene = write_scene(
            tmp_path,
            day=utc(2010, 1 + number, 3),
            corner=(-32700, 16500),
            shape=(260, 300),
            platform="landsat-7",
            seed=number,
            cloud=0,
            fill_columns=0,
        )
        for asset, path in scene.assets.items():
            with rasterio.open(path, "r+") as file:
                values = file.read(1)
                if asset != "qa_pixel":
                    values[:] = 12_000 + 100 * number if asset in BANDS else 0
                gap = np.arange(260) % 40 < (number + 1)  # a row of the first 8 in 40 is seen by fewer and fewer
                edge = np.roll(gap, 1) if asset == "swir22" else gap
                values[gap | edge] = 1 if asset == "qa_pixel" else 0
                file.write(values, 1)
        made.append(scene)
    layers, lost = composite_block(made, TILE.geobox, PARAMS, Access(Trust().with_roots(tmp_path)))
    assert lost == []
    # Look n lacks rows 0 to n by its gap, and row n + 1 by its shortest band.
    seen = [[number for number in range(8) if number + 2 <= row] for row in range(10)]
    assert layers["clear_count"][:10, 0].tolist() == [len(of_row) for of_row in seen]
    for row, numbers in enumerate(seen):
        median = np.median([12_000 + 100 * number for number in numbers]) if numbers else 0
        assert (layers["composite"][:, row] == median).all(), row
        for name in ("ndvi_p10", "mndwi_p90", "ndvi_mad"):
            assert (layers[name][row] == -32_768).all() == (len(numbers) < 8), (name, row)
        assert (layers["water_frequency"][row] == 65_535).all() == (len(numbers) < 8), row


def test_stack_and_cube_agree_with_odc_stac(scenes, access):
    odc_stac = pytest.importorskip("odc.stac")
    items = [item_of(scene) for scene in scenes[:4]]
    theirs = odc_stac.load(items, bands=list(scenes[0].assets), geobox=TILE.geobox, groupby="id", dtype="uint16")
    ours = stack_items(scenes[:4], TILE.geobox, access=access)
    for band in BANDS:
        assert np.array_equal(theirs[band].values, ours.sel(band=band).values), band
    qa = theirs["qa_pixel"].values.copy()
    qa[qa == 0] = 1  # odc pads QA with its own nodata
    assert np.array_equal(qa, ours.sel(band="qa_pixel").values)
    clear = clear_mask(qa, theirs["qa_radsat"].values, unusable_radsat=126 | 2048)
    values = np.stack([theirs[band].values for band in BANDS], axis=1)
    clear &= (values > 0).all(axis=1)
    median = np.ma.median(np.ma.array(values, mask=~clear[:, None].repeat(6, axis=1)), axis=0).filled(0)
    cube, _ = composite_block(scenes[:4], TILE.geobox, PARAMS, access)
    assert np.array_equal(cube["composite"], np.floor(median + 0.5).astype("uint16"))


def test_block_size_never_changes_a_value(scenes, access, tmp_path):
    part = TileYear(TILE, 2019, tuple(scenes))
    markers = [
        build_tile_year(part, tmp_path / f"{px}.zarr", PARAMS, access, block_px=px, fingerprint="f")
        for px in (256, 2048)
    ]
    assert markers[0]["sha256"] == markers[1]["sha256"]


def test_the_store_opens_placed_and_scaled_in_xarray(scenes, access, tmp_path):
    rioxarray = pytest.importorskip("rioxarray")
    assert rioxarray
    store = tmp_path / "2019.zarr"
    build_tile_year(TileYear(TILE, 2019, tuple(scenes)), store, PARAMS, access, block_px=2048, fingerprint="f")
    cube = xr.open_zarr(store, decode_coords="all")
    assert cube.rio.crs.to_epsg() == 32648
    assert tuple(cube.rio.transform())[:6] == tuple(TILE.geobox.transform)[:6]
    assert int(cube.year) == 2019
    reflectance = cube["composite"].sel(band="red")
    assert 0 < float(reflectance.mean()) < 0.4
    assert np.isnan(reflectance.values[cube["clear_count"].values == 0]).all()


def test_a_year_without_scenes_is_not_observed_anywhere(access, tmp_path):
    store = tmp_path / "2001.zarr"
    marker = build_tile_year(TileYear(TILE, 2001, ()), store, PARAMS, access, block_px=2048, fingerprint="f")
    assert marker["observed_px"] == 0
    with open_store(store) as cube:
        assert int(cube["composite"].max()) == 0


def test_a_scene_of_another_zone_is_warped_by_nearest_pixel(tmp_path, access):
    from pyproj import Transformer

    from engine.reader import read_asset

    centre = TILE.geobox.center_pixel.boundingbox
    x, y = Transformer.from_crs(32648, 32649, always_xy=True).transform(centre.left, centre.top)
    corner = (round((15 - y) / 30) - 150, round((x - 15) / 30) - 140)
    scene = write_scene(tmp_path, day=utc(2019, 5, 5), zone=49, corner=corner)
    box = TILE.geobox
    ours = read_asset(scene, "red", box, Access(Trust().with_roots(tmp_path)))
    with rasterio.open(scene.assets["red"]) as file:
        full = file.read(1)
        to_scene = Transformer.from_crs(32648, 32649, always_xy=True)
        for row, col in [(0, 0), (130, 150), (100, 200), (259, 299)]:
            x, y = to_scene.transform(*(box.transform * (col + 0.5, row + 0.5)))
            r, c = (int(np.floor(v)) for v in reversed(~file.transform * (x, y)))
            expected = full[r, c] if 0 <= r < full.shape[0] and 0 <= c < full.shape[1] else 0
            assert ours[row, col] == expected
    assert (ours > 0).mean() > 0.3


def test_a_southern_scene_is_read_without_resampling(tmp_path):
    from engine.grid import Tile
    from engine.reader import read_asset

    tile = Tile(55, 8, 30, (61500, 16500, 64, 64))
    scene = write_scene(tmp_path, day=utc(2019, 5, 5), zone=55, corner=(61490, 16480))
    values = read_asset(scene, "red", tile.geobox, Access(Trust().with_roots(tmp_path)))
    with rasterio.open(scene.assets["red"]) as file:
        assert np.array_equal(values, file.read(1)[10:74, 20:84])


def test_an_unreadable_scene_stops_the_run_or_is_listed(scenes, access, tmp_path):
    broken = tmp_path / "broken.tif"
    broken.write_bytes(b"<html>gone</html>")
    bad = replace(scenes[0], assets={**scenes[0].assets, "red": str(broken)})
    access = type(access)(access.trust.with_roots(tmp_path))
    with pytest.raises(SceneError, match=f"scene {bad.id}, asset red: broken.tif cannot be read"):
        composite_block([bad, *scenes[1:]], TILE.geobox, PARAMS, access)
    layers, lost = composite_block([bad, *scenes[1:]], TILE.geobox, PARAMS, access, skip_bad=True)
    assert [loss["scene"] for loss in lost] == [bad.id]
    without, _ = composite_block(scenes[1:], TILE.geobox, PARAMS, access)
    assert array_sha256(layers) == array_sha256(without)


def test_a_band_that_is_fill_where_the_scene_is_clear_is_a_fault_and_not_silence(scenes, access, tmp_path):
    blank = tmp_path / "blank.tif"
    with rasterio.open(scenes[0].assets["nir08"]) as source, rasterio.open(blank, "w", **source.profile) as target:
        target.write(np.zeros(source.shape, "uint16"), 1)
    bad = replace(scenes[0], assets={**scenes[0].assets, "nir08": str(blank)})
    access = type(access)(access.trust.with_roots(tmp_path))
    with pytest.raises(SceneError, match=rf"scene {bad.id}, asset nir08: file holds nothing where .* --skip-bad"):
        composite_block([bad, *scenes[1:]], TILE.geobox, PARAMS, access)
    layers, lost = composite_block([bad, *scenes[1:]], TILE.geobox, PARAMS, access, skip_bad=True)
    assert [(loss["scene"], loss["kind"]) for loss in lost] == [(bad.id, "permanent")]
    without, _ = composite_block(scenes[1:], TILE.geobox, PARAMS, access)
    assert array_sha256(layers) == array_sha256(without)


def test_a_file_that_is_not_where_its_item_says_is_refused(scenes, access):
    moved = replace(scenes[0], transform=(30.0, 0.0, 500_025.0, 0.0, -30.0, 900_015.0))
    with pytest.raises(SceneError, match="the item says"):
        composite_block([moved], TILE.geobox, PARAMS, access)


def test_clear_pixels_count_inside_each_region_only(scenes, access):
    regions = np.zeros(TILE.shape, dtype="uint16")
    regions[100:150, 100:150] = 1
    regions[150:160, 100:150] = 3
    counts, lost = clear_pixels(TileYear(TILE, 2019, tuple(scenes)), regions, access)
    assert lost == []
    looks = plain_looks(scenes, TILE.geobox)
    assert len(counts) == len(looks)
    for clear, look in zip(counts.values(), looks, strict=True):
        assert set(clear) <= {1, 3}
        for region in (1, 3):
            seen = (look[0][regions == region] > 0).sum()
            assert seen <= clear.get(region, 0) <= (regions == region).sum()
