"""Any two rasters: read as they mean it, the same in strips of any height, areas and patches as numpy has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from rasterio.enums import MaskFlags
from scipy.ndimage import label
from shapely.geometry import MultiPolygon, box

from engine import pair as pair_module
from engine.area import Area, Region, region_codes
from engine.cells import Cells
from engine.errors import ConfigError, PlanError, TrustError
from engine.grid import tiles_of
from engine.legend import CLASSES, GAIN, LOSS, STABLE_MANGROVE, STABLE_OTHER, TRANSITIONS
from engine.pair import ClassMap, check_grids, compare_pair, open_map, small_shares
from engine.raster import read_raster, write_cog
from engine.trust import Trust
from tests.makers import write_raster

DEGREES = GeoBox((40, 30), Affine(0.000222222222222, 0, -82, 0, -0.000222222222222, 26), "EPSG:4326")


def put(path: Path, array: np.ndarray, geobox: GeoBox = DEGREES, *, nodata: float | None = None) -> Path:
    """Write a raster as others do: no colours, no tags."""
    crs = geobox.crs.to_wkt() if geobox.crs else None
    return write_raster(path, array, crs=crs, transform=geobox.transform, nodata=nodata)


def opened(path: Path, **meaning) -> ClassMap:
    return open_map(path, Trust().with_roots(path), **meaning)


def compared(before: ClassMap, after: ClassMap, out: Path, **how):
    check_grids(before, after)
    trust = Trust().with_roots(before.path, after.path)
    areas = compare_pair(before, after, out, trust, **how)
    return areas, read_raster(out)[0][0]


def pixels(areas, least_ha: float, where: str = "all") -> dict[int, int]:
    table = areas.table[(areas.table["least_ha"] == least_ha) & (areas.table["where"] == where)]
    return {code: count for code, count in zip(table["code"], table["pixels"], strict=True) if count}


def test_one_is_mangrove_zero_declared_nodata_is_not_and_other_nodata_was_not_observed(tmp_path) -> None:
    a = put(tmp_path / "a.tif", np.array([[1, 1, 0, 0, 1, 9]], "uint8"), DEGREES[:1, :6], nodata=0)
    b = put(tmp_path / "b.tif", np.array([[1, 0, 1, 0, 9, 1]], "uint8"), DEGREES[:1, :6], nodata=9)
    first, second = opened(a), opened(b)
    assert first.reading == (
        "1 is mangrove, all else other; its nodata 0 is no mangrove, as in Global Mangrove Watch "
        "(with --unknown 0 not observed)"
    )
    assert second.reading == "1 is mangrove, all else other, 9 not observed"
    _, codes = compared(first, second, tmp_path / "t.tif")
    assert codes.tolist() == [[2, 3, 4, 1, 0, 4]]  # 9 of a.tif is a code of it like any other
    first = opened(a, unknown=[0, 9])
    _, codes = compared(first, second, tmp_path / "t.tif")
    assert codes.tolist() == [[2, 3, 0, 0, 0, 0]]
    worldcover = opened(
        put(tmp_path / "w.tif", np.array([[0, 95, 10, 95, 10, 0]], "uint8"), DEGREES[:1, :6], nodata=0), values=[95]
    )
    assert worldcover.reading == "95 is mangrove, all else other, 0 not observed"
    _, codes = compared(opened(b), worldcover, tmp_path / "t.tif")
    assert codes.tolist() == [[0, 4, 3, 4, 0, 0]]


def test_what_a_mask_inside_the_file_hides_was_not_observed(tmp_path) -> None:
    path = put(tmp_path / "a.tif", np.array([[1, 1]], "int16"), DEGREES[:1, :2])
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as target:
        target.write_mask(np.array([[True, False]]))
    with rasterio.open(path) as source:
        assert source.mask_flag_enums == ([MaskFlags.per_dataset],)
    other = opened(put(tmp_path / "b.tif", np.array([[0, 0]], "uint8"), DEGREES[:1, :2]))
    _, codes = compared(opened(path), other, tmp_path / "t.tif")
    assert codes.tolist() == [[LOSS, 0]]


def test_rasters_of_ours_are_known_by_their_colours_whatever_is_said_of_foreign_ones(tmp_path) -> None:
    here = DEGREES[:1, :5]
    ours = tmp_path / "class.tif"
    write_cog(
        ours, np.array([[0, 1, 2, 3, 255]], "uint8"), here, nodata=255, legend=CLASSES, tags={"notice": "SIMULATED"}
    )
    foreign = put(tmp_path / "b.tif", np.array([[7, 7, 7, 7, 7]], "uint8"), here)
    before, after = opened(ours, values=[7]), opened(foreign, values=[7])
    assert (before.is_ours, after.is_ours, before.notice) == (True, False, "SIMULATED")
    areas, codes = compared(before, after, tmp_path / "transition.tif")
    assert codes.tolist() == [[0, 4, 2, 5, 255]]
    assert areas.table["pixels"].sum() == 2 * 5
    with pytest.raises(ConfigError, match=r"transition.tif is a raster of change, not of classes; give two"):
        opened(tmp_path / "transition.tif")
    write_cog(ours, np.array([[0, 1, 2, 3, 77]], "uint8"), here, nodata=255, legend=CLASSES)
    with pytest.raises(ConfigError, match=r"class.tif holds 77, which is no class code"):
        compared(opened(ours), after, tmp_path / "transition.tif")


def test_what_is_no_class_raster_is_refused_in_one_line(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"a.tif holds 1 band\(s\) of float32, which is no class raster; give"):
        opened(put(tmp_path / "a.tif", np.zeros((2, 2), "float32")))
    with pytest.raises(ConfigError, match=r"a.tif has no coordinate system"):
        opened(put(tmp_path / "a.tif", np.zeros((2, 2), "uint8"), GeoBox((2, 2), Affine.identity(), None)))
    with pytest.raises(ConfigError, match=r"gone.tif cannot be read as a GeoTIFF"):
        opened(tmp_path / "gone.tif")
    with pytest.raises(ConfigError, match=r"m.vrt is a virtual mosaic; make it one file: gdal_translate"):
        opened(tmp_path / "m.vrt")
    (tmp_path / "p.tif").write_text("P1\n1 1\n1\n")  # a picture that another driver of GDAL's would open
    with pytest.raises(ConfigError, match=r"p.tif cannot be read as a GeoTIFF"):
        opened(tmp_path / "p.tif")
    with pytest.raises(TrustError, match="outside the allowed folders"):
        open_map(tmp_path / "a.tif", Trust())


@pytest.mark.parametrize(
    ("geobox", "what"),
    [
        (DEGREES[:39, :], "shape"),
        (
            GeoBox((40, 30), Affine(0.000222222222222, 0, -82.0001, 0, -0.000222222222222, 26), "EPSG:4326"),
            "corner or pixel size",
        ),
        (GeoBox((40, 30), Affine(30, 0, 5e5, 0, -30, 3e6), "EPSG:32617"), "CRS and corner or pixel size"),
    ],
)
def test_grids_that_differ_are_refused_with_the_command_that_warps(tmp_path, geobox, what) -> None:
    first = opened(put(tmp_path / "a.tif", np.ones((40, 30), "uint8"), nodata=0))
    second = opened(put(tmp_path / "b.tif", np.ones(tuple(geobox.shape), "uint8"), geobox, nodata=0))
    check_grids(first, first)
    with pytest.raises(ConfigError, match=f"a.tif and b.tif differ in {what}; warp one") as error:
        check_grids(first, second)
    said = str(error.value)
    assert "\n" not in said
    assert "gdalwarp -r near -t_srs EPSG:4326 -te -82.0 25.99" in said
    # gdalwarp would fill what b.tif does not reach with its nodata 0, which reads as "no mangrove".
    assert said.endswith("-ts 30 40 -srcnodata None -dstnodata 255 b.tif warped.tif")
    with pytest.raises(ConfigError, match=r"-srcnodata None -dstnodata 255 b.tif warped.tif"):
        check_grids(first, opened(second.path, unknown=[9]))
    with pytest.raises(ConfigError, match=r"-ts 30 40 b.tif warped.tif"):
        check_grids(first, opened(second.path, unknown=[0]))


def numpy_says(a: np.ndarray, b: np.ndarray, areas: np.ndarray, least_ha: float) -> tuple[np.ndarray, np.ndarray]:
    """Return transitions and sieved ones of arrays of 0 other, 1 mangrove, 9 not observed."""
    codes = np.select([(a == 9) | (b == 9), a > b, a < b, a == 1], [0, LOSS, GAIN, STABLE_MANGROVE], STABLE_OTHER)
    sieved = codes.copy()
    for code, was in ((LOSS, STABLE_MANGROVE), (GAIN, STABLE_OTHER)):
        labels, count = label(codes == code, structure=np.ones((3, 3)))
        for patch in range(1, count + 1):
            # Less by a millionth, as ``Cells.units_of`` says: rows of a UTM grid differ by less from each other.
            if areas[labels == patch].sum() / 1e4 < least_ha * (1 - 1e-6):
                sieved[labels == patch] = was
    return codes, sieved


GRIDS = {
    "degrees": GeoBox((23, 19), Affine(0.0025, 0, 10, 0, -0.02, 61), "EPSG:4326"),  # pixels shrink northward
    "utm": GeoBox((23, 19), Affine(30, 0, 4e5, 0, -30, 1e6), "EPSG:32648"),
    "mercator": GeoBox((23, 19), Affine(3000, 0, 0, 0, -3000, 9e6), "EPSG:3857"),
}


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    grid=st.sampled_from(sorted(GRIDS)),
    seed=st.integers(0, 10**6),
    pixels_least=st.floats(0.5, 9),
    height=st.integers(1, 23),
    share=st.floats(0.2, 0.8),
)
def test_strips_of_any_height_give_what_numpy_does_with_the_whole(tmp_path, grid, seed, pixels_least, height, share):
    geobox, rng = GRIDS[grid], np.random.default_rng(seed)
    a, b = (rng.choice([0, 1, 9], (23, 19), p=[0.95 - part, part, 0.05]) for part in (share, share / 2))
    areas = np.broadcast_to(Cells.of(geobox).square_metres(slice(0, 23)), (23, 19))
    least_ha = pixels_least * areas.mean() / 1e4
    codes, sieved = numpy_says(a, b, areas, least_ha)
    maps = [
        opened(put(tmp_path / f"{name}.tif", array.astype("uint8"), geobox, nodata=9))
        for name, array in (("a", a), ("b", b))
    ]
    found, raster = compared(*maps, tmp_path / "t.tif", least_ha=least_ha, strip_rows=height)
    assert (raster == codes).all()
    table = found.table.set_index(["least_ha", "code"])
    for least, expected in ((0.0, codes), (least_ha, sieved)):
        for entry in TRANSITIONS:
            row = table.loc[(least, entry.code)]
            assert row["pixels"] == (expected == entry.code).sum()
            assert row["hectares"] == pytest.approx(areas[expected == entry.code].sum() / 1e4, rel=1e-12)


def test_strips_change_no_bit_of_the_areas_nor_a_byte_of_the_raster(tmp_path) -> None:
    rng = np.random.default_rng(8)
    names = {name: rng.integers(0, 2, (40, 30)).astype("uint8") for name in "ab"}
    maps = [opened(put(tmp_path / f"{name}.tif", array)) for name, array in names.items()]
    whole, _ = compared(*maps, tmp_path / "whole.tif", least_ha=0.7)
    for height in (1, 7, 39):
        strips, _ = compared(*maps, tmp_path / "strips.tif", least_ha=0.7, strip_rows=height)
        assert (strips.table.to_numpy() == whole.table.to_numpy()).all()
        assert (tmp_path / "strips.tif").read_bytes() == (tmp_path / "whole.tif").read_bytes()


def test_shares_in_small_patches_and_the_pixels_that_make_a_large_one(tmp_path) -> None:
    a, b = np.zeros((40, 30), "uint8"), np.zeros((40, 30), "uint8")
    a[0, :10] = 1  # .55 ha lost
    a[10, :5] = 1  # .27 ha lost
    b[20, ::3] = 1  # 10 single pixels gained
    areas, _ = compared(opened(put(tmp_path / "a.tif", a)), opened(put(tmp_path / "b.tif", b)), tmp_path / "t.tif")
    assert areas.least_px == (10, 10)
    assert pixels(areas, 0.0) == {STABLE_OTHER: 1175, LOSS: 15, GAIN: 10}
    assert pixels(areas, 0.5) == {STABLE_OTHER: 1185, STABLE_MANGROVE: 5, LOSS: 10}
    shares = small_shares(areas.table).set_index("least_ha")
    assert shares.loc[0.5, "small_loss_share"] == pytest.approx(1 / 3, rel=1e-4)
    assert shares.loc[0.5, "small_gain_share"] == 1
    assert shares.loc[0.0, ["loss_px", "gain_px", "small_loss_share"]].tolist() == [15, 10, 0]
    nothing, _ = compared(opened(tmp_path / "a.tif"), opened(tmp_path / "a.tif"), tmp_path / "t.tif", least_ha=0)
    assert nothing.table["least_ha"].unique().tolist() == [0]
    assert small_shares(nothing.table)[["small_loss_share", "small_gain_share"]].isna().all(axis=None)


def test_zones_own_pixels_by_their_centres_as_in_a_run(tmp_path) -> None:
    tile = tiles_of(box(104.75, 8.60, 104.78, 8.63))[0]
    zones = Area(
        (
            Region("north", MultiPolygon([box(104.74, 8.6153, 104.768, 8.64)])),
            Region("all", MultiPolygon([box(104.7512, 8.6, 104.9, 8.64)])),
            Region("far", MultiPolygon([box(10, 10, 11, 11)])),
        )
    )
    rng = np.random.default_rng(3)
    a, b = (put(tmp_path / f"{n}.tif", rng.integers(0, 2, tile.shape).astype("uint8"), tile.geobox) for n in "ab")
    areas, codes = compared(opened(a), opened(b), tmp_path / "t.tif", zones=zones, strip_rows=17)
    owners = region_codes(zones, tile)
    assert set(np.unique(owners)) == {0, 1, 2}
    for number, zone in enumerate(("north", "all2", "far"), 1):
        rows = areas.table.query("by == 'zone' and least_ha == 0").iloc[(number - 1) * 7 : number * 7]
        assert rows["where"].iloc[0] == zone.removesuffix("2")
        for _, row in rows.iterrows():
            assert row["pixels"] == ((owners == number) & (codes == row["code"])).sum()
    in_degrees = Area((Region("left", MultiPolygon([box(-82, 25, -82 + 10.2 * DEGREES.transform.a, 27)])),))
    ones = opened(put(tmp_path / "a.tif", np.ones(tuple(DEGREES.shape), "uint8")))
    areas, _ = compared(ones, ones, tmp_path / "t.tif", zones=in_degrees)
    assert pixels(areas, 0.0, "left") == {STABLE_MANGROVE: 10 * 40}


def test_patches_that_reach_over_too_many_rows_are_refused_before_anything_is_read(tmp_path, monkeypatch) -> None:
    one = opened(put(tmp_path / "a.tif", np.ones((40, 30), "uint8")))
    monkeypatch.setattr(pair_module, "_MOST_STRIP_PX", 30 * 30)
    with pytest.raises(PlanError, match=r"patches of 1.2 ha reach over 40 rows of 30 px, .*; lower --min-area-ha"):
        compared(one, one, tmp_path / "t.tif", least_ha=1.2)
    monkeypatch.setattr(pair_module, "_MOST_PX", 1000)
    with pytest.raises(PlanError, match=r"a.tif declares 30 x 40 px; cut it into parts"):
        opened(tmp_path / "a.tif")
    assert not (tmp_path / "t.tif").exists()


def test_a_file_that_ends_early_is_told_by_its_name_and_leaves_no_raster(tmp_path) -> None:
    rng = np.random.default_rng(0)
    path = put(tmp_path / "a.tif", rng.integers(0, 2, (40, 30)).astype("uint8"))
    one = opened(path)
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(ConfigError, match=r"a.tif cannot be read as a GeoTIFF"):
        compared(one, one, tmp_path / "out" / "t.tif")
    assert not list((tmp_path / "out").iterdir())
