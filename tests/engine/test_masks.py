from __future__ import annotations

import json
import pickle
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from affine import Affine
from pyproj import Transformer
from shapely.geometry import MultiPolygon, Point, Polygon, box

from engine.area import Area, Region, region_codes
from engine.errors import MaskError, TrustError
from engine.grid import PIXEL_M, grid_geobox, lonlat_of, tiles_of
from engine.masks import label_tile, labelled_years, open_masks
from engine.params import LabelParams, SampleParams
from engine.sample import draw_tile
from engine.trust import Trust

BOX = grid_geobox(48, (-32000, 17000, 40, 50))  # Ca Mau
SOUTH = grid_geobox(39, (57500, 13900, 60, 40))  # Madagascar, negative northings


def _write(path: Path, values: np.ndarray, transform: Affine, crs: str | None, **options) -> Path:
    profile = {"driver": "GTiff", "count": 1, "height": values.shape[0], "width": values.shape[1]}
    with rasterio.open(path, "w", dtype=values.dtype, transform=transform, crs=crs, **profile, **options) as target:
        target.write(values, 1)
    return path


def _lonlat_mask(path: Path, geobox=BOX, degrees: float = 0.00022, value: int = 1, **options) -> Path:
    """Random classes in degrees over a geobox and a little beyond."""
    west, south, east, north = geobox.geographic_extent.boundingbox
    shape = (int((north - south) / degrees) + 20, int((east - west) / degrees) + 20)
    values = (np.random.default_rng(4).random(shape) < 0.4).astype("uint8") * value
    transform = Affine(degrees, 0, west - 10 * degrees, 0, -degrees, north + 10 * degrees)
    return _write(path, values, transform, "EPSG:4326", **options)


def _params(*masks: tuple[Path, int] | dict, **labels) -> LabelParams:
    entries = [m if isinstance(m, dict) else {"path": str(m[0]), "year": m[1]} for m in masks]
    return LabelParams(masks=entries, **labels)


def _label(params: LabelParams, root: Path, year: int, geobox=BOX, area: Area | None = None):
    return label_tile(open_masks(params, trust=Trust().with_roots(root), area=area), geobox, year, params)


def _sampled(path: Path, geobox, zone: int) -> np.ndarray:
    """What rasterio gives at every pixel centre, one by one."""
    corner = geobox.transform
    x = corner.c + PIXEL_M * (np.arange(geobox.shape.x) + 0.5)
    y = corner.f - PIXEL_M * (np.arange(geobox.shape.y) + 0.5)
    with rasterio.open(path) as source:
        project = Transformer.from_crs(f"EPSG:{32600 + zone}", source.crs.to_wkt(), always_xy=True)
        points = np.column_stack([a.ravel() for a in project.transform(*np.meshgrid(x, y))])
        return np.array([v[0] for v in source.sample(points)]).reshape(geobox.shape)


# Real masks


def _sample_of(mask: Path, year: int, bounds, *, per_class: int):
    west, south, east, north = bounds
    area = Area((Region("site", MultiPolygon([box(west, south, east, north)])),))
    params = _params((mask, year))
    masks = open_masks(params, trust=Trust().with_roots(mask.parent), area=area)
    for tile in tiles_of(area.geometry):
        labels, interior, mask_year, _ = label_tile(masks, tile.geobox, year + 1, params)
        yield draw_tile(
            np.zeros((1, *tile.shape), "int32"),
            ["blue"],
            labels,
            interior,
            region_codes(area, tile),
            tile,
            year=year + 1,
            mask_year=mask_year,
            area=area,
            params=SampleParams(mangrove=per_class, other=per_class),
            seed=5,
            valid=np.ones(tile.shape, bool),
            clear_count=np.ones(tile.shape, "uint16"),
            sensor="L8",
            looks=1,
        )


def test_the_class_of_every_point_sampled_from_a_real_gmw_tile_equals_the_tile(shared_data):
    folder = shared_data / "mangrove-masks/gmw_v3_tile_N26W082"
    for year in (1996, 2020):
        path = folder / f"GMW_N26W082_{year}_v3.tif"
        # The north-west corner of the box lies beyond the tile: unknown, never drawn.
        for frame in _sample_of(path, year, (-81.25, 25.15, -80.95, 25.4), per_class=1500):
            with rasterio.open(path) as source:
                truth = np.array([v[0] for v in source.sample(zip(frame.lon, frame.lat, strict=True))])
            assert len(frame) == 3_000
            assert np.array_equal(frame.label == 2, truth == 1)
            assert frame.lon.max() < -81
            assert set(frame.mask_year_gap) == {1}


@pytest.mark.slow
def test_real_gmw_sites_all_over_the_tropics_are_sampled_as_they_are(shared_data):
    sites = sorted((shared_data / "mangrove-masks/gmw_v314_2010_sites").glob("*.tif"))
    assert len(sites) == 17
    southern = 0
    for path in sites:
        with rasterio.open(path) as source:
            for frame in _sample_of(path, 2010, source.bounds, per_class=300):
                truth = np.array([v[0] for v in source.sample(zip(frame.lon, frame.lat, strict=True))])
                assert np.array_equal(frame.label == 2, truth == 1)
                southern += int((frame.lat < 0).sum())
    assert southern > 1000


# Rasters of any coordinate system


@pytest.mark.parametrize(
    ("crs", "zone", "geobox"),
    [("EPSG:3857", 48, BOX), ("EPSG:32648", 48, BOX), ("ESRI:54009", 39, SOUTH), ("EPSG:32739", 39, SOUTH)],
)
def test_a_mask_in_another_coordinate_system_equals_rasterio_at_every_pixel(tmp_path, crs, zone, geobox):
    corners = geobox.footprint(crs, buffer=100).boundingbox
    shape = (int((corners.top - corners.bottom) / 25) + 1, int((corners.right - corners.left) / 25) + 1)
    values = np.random.default_rng(1).choice(np.array([0, 1, 255], "uint8"), shape, p=[0.6, 0.3, 0.1])
    path = _write(tmp_path / "gmfd.tif", values, Affine(25, 0, corners.left, 0, -25, corners.top), crs, nodata=255)
    labels = _label(_params((path, 2000)), tmp_path, 2000, geobox).labels
    truth = _sampled(path, geobox, zone)
    assert {0, 1, 2} == set(np.unique(labels))
    assert np.array_equal(labels, np.choose(np.where(truth == 255, 2, truth), [1, 2, 0]))


def test_beyond_the_extent_and_at_nodata_nothing_is_known(tmp_path):
    half = grid_geobox(48, (-32000, 17000, 40, 25))
    path = _lonlat_mask(tmp_path / "m.tif", half, degrees=0.0001, value=95, nodata=0)
    labels = _label(_params({"path": str(path), "year": 2020, "value": [95]}), tmp_path, 2020).labels
    assert not labels[:, 35:].any()
    assert set(np.unique(labels[:, :20])) == {0, 2}  # 0 is nodata, and 95 no 1/0 mask


def test_zero_as_nodata_of_a_one_zero_mask_means_no_mangrove_unless_told_otherwise(tmp_path):
    path = _lonlat_mask(tmp_path / "gmw.tif", nodata=0)
    assert set(np.unique(_label(_params((path, 2020)), tmp_path, 2020).labels)) == {1, 2}
    mask = {"path": str(path), "year": 2020, "unknown": [0]}
    assert set(np.unique(_label(_params(mask), tmp_path, 2020).labels)) == {0, 2}
    mask = {"path": str(path), "year": 2020, "background": "unknown"}
    assert set(np.unique(_label(_params(mask), tmp_path, 2020).labels)) == {0, 2}


def test_labels_and_interior_do_not_depend_on_how_the_tile_is_cut(tmp_path):
    params = _params((_lonlat_mask(tmp_path / "m.tif", degrees=0.0006), 2020), erode_px=1)
    whole = _label(params, tmp_path, 2020)
    assert whole.labels.shape == whole.interior.shape == (40, 50)
    assert 0 < whole.interior.sum() < whole.interior.size
    for y, x in ((slice(0, 13), slice(0, 50)), (slice(13, 40), slice(7, 8))):
        part = _label(params, tmp_path, 2020, BOX[y, x])
        assert np.array_equal(part.labels, whole.labels[y, x])
        assert np.array_equal(part.interior, whole.interior[y, x])


def test_of_several_masks_the_first_that_knows_decides(tmp_path):
    everywhere = _lonlat_mask(tmp_path / "global.tif")
    corner = BOX[:10, :10]
    ones = np.ones((10, 10), "uint8")
    local = _write(tmp_path / "local.tif", ones, corner.transform, "EPSG:32648")
    both = _label(_params((local, 2020), (everywhere, 2020)), tmp_path, 2020).labels
    alone = _label(_params((everywhere, 2020)), tmp_path, 2020).labels
    assert (both[:10, :10] == 2).all()
    assert np.array_equal(both[10:], alone[10:])


def test_a_folder_is_one_mask_and_its_sidecar_names_licence_and_citation(tmp_path):
    folder = tmp_path / "gmw-2020"
    folder.mkdir()
    for name, part in (("a", BOX[:, :25]), ("b", BOX[:, 25:])):
        values = np.full((40, 25), ord(name) - 97, "uint8")
        _write(folder / f"{name}.tif", values, part.transform, "EPSG:32648")
    (folder / "mask.json").write_text(json.dumps({"licence": "CC-BY-4.0", "citation": "B. 2022", "files": []}))
    params = _params((folder, 2020), erode_px=0)
    [mask] = open_masks(params, trust=Trust().with_roots(tmp_path))
    assert (mask.name, mask.licence, mask.citation, mask.definition) == ("gmw-2020", "CC-BY-4.0", "B. 2022", "")
    labels = label_tile(pickle.loads(pickle.dumps([mask])), BOX, 2020, params).labels
    assert (labels[:, :25] == 1).all()
    assert (labels[:, 25:] == 2).all()


def test_a_mask_on_each_side_of_the_antimeridian_labels_the_tile_across_it(tmp_path):
    fiji = grid_geobox(1, (62000, 5900, 30, 200))
    rows, cols = np.arange(62000, 62030)[:, None], np.arange(5900, 6100)
    lon, lat = lonlat_of(1, *np.broadcast_arrays(rows, cols))
    assert lon.max() > 179.97
    assert lon.min() < -179.97
    for name, west in (("east", -180.0), ("west", 179.9)):
        values = np.full((400, 400), int(name == "east"), "uint8")
        _write(tmp_path / f"{name}.tif", values, Affine(0.00025, 0, west, 0, -0.00025, lat.max() + 0.02), "EPSG:4326")
    params = _params((tmp_path / "east.tif", 2020), (tmp_path / "west.tif", 2020))
    labels = _label(params, tmp_path, 2020, fiji).labels
    assert np.array_equal(labels, np.where(lon < 0, 2, 1))


# Vectors


def _polygons() -> gpd.GeoDataFrame:
    """In grid pixels of BOX: a rectangle, a bow-tie of two triangles, a swamp and a missing geometry."""
    corner = BOX.transform

    def shape(*points):
        return Polygon([(corner.c + PIXEL_M * x, corner.f - PIXEL_M * y) for x, y in points])

    return gpd.GeoDataFrame(
        {"kind": ["mangrove", "mangrove", "swamp", "mangrove"]},
        geometry=[
            shape((2, 2), (10, 2), (10, 8), (2, 8)),
            shape((20, 10), (30, 20), (30, 10), (20, 20)),
            shape((40, 30), (48, 30), (48, 38), (40, 38)),
            None,
        ],
        crs="EPSG:32648",
    )


def _save(frame: gpd.GeoDataFrame, folder: Path, suffix: str) -> Path:
    path = folder / f"mask{suffix}"
    if suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_file(path)
    return path


@pytest.mark.parametrize("suffix", [".parquet", ".gpkg", ".shp", ".geojson"])
def test_polygons_are_burnt_by_pixel_centre_and_a_bow_tie_is_repaired_and_counted(tmp_path, suffix):
    path = _save(_polygons().to_crs(4326), tmp_path, suffix)
    params = _params({"path": str(path), "year": 2019, "field": "kind", "field_values": ["mangrove"]}, erode_px=0)
    labels, _, mask_year, repaired = _label(params, tmp_path, 2020)
    assert mask_year == 2019
    assert repaired == 1
    y, x = np.mgrid[:40, :50] + 0.5
    expected = np.zeros((40, 50), "uint8")
    expected[2:38, 2:48] = 1  # the bounds of all polygons, swamp included: beyond them the file knows nothing
    expected[2:8, 2:10] = 2
    # Two triangles that meet at (25, 15), one with its base at x = 20 and one at x = 30.
    bow_tie = (abs(y - 15) < abs(x - 25)) & (x > 20) & (x < 30)
    sure = abs(abs(y - 15) - abs(x - 25)) > 0.01
    expected[bow_tie] = 2
    assert np.array_equal(labels[sure], expected[sure])


def test_every_polygon_is_mangrove_without_a_field_and_background_may_stay_unknown(tmp_path):
    path = _save(_polygons(), tmp_path, ".gpkg")
    labels = _label(_params((path, 2020)), tmp_path, 2020).labels
    assert (labels[30:38, 40:48] == 2).all()
    mask = {"path": str(path), "year": 2020, "background": "unknown"}
    assert set(np.unique(_label(_params(mask), tmp_path, 2020).labels)) == {0, 2}


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
def test_polygons_of_every_file_of_a_folder_are_mangrove_whatever_the_files_are_called(tmp_path, names):
    corner = BOX.transform
    ends, middle = [(2, 2, 8, 8), (42, 32, 48, 38)], [(20, 10, 30, 20)]
    for name, boxes in zip(names, (ends, middle), strict=True):
        shapes = [
            box(corner.c + PIXEL_M * x0, corner.f - PIXEL_M * y1, corner.c + PIXEL_M * x1, corner.f - PIXEL_M * y0)
            for x0, y0, x1, y1 in boxes
        ]
        gpd.GeoDataFrame(geometry=shapes, crs="EPSG:32648").to_file(tmp_path / f"{name}.gpkg")
    # A raster beside them knows the north only, and no mangrove.
    _write(tmp_path / "c.tif", np.zeros((12, 50), "uint8"), BOX.transform, "EPSG:32648")
    expected = np.zeros((40, 50), "uint8")
    expected[:12] = 1
    expected[2:38, 2:48] = 1
    for x0, y0, x1, y1 in ends + middle:
        expected[y0:y1, x0:x1] = 2
    assert np.array_equal(_label(_params((tmp_path, 2020)), tmp_path, 2020).labels, expected)


def test_a_geoparquet_with_row_bounds_reads_only_what_is_near_and_labels_the_same(tmp_path):
    frame = _polygons().iloc[:3]
    frame.to_parquet(tmp_path / "plain.parquet")
    frame.to_parquet(tmp_path / "covered.parquet", write_covering_bbox=True)
    plain, covered = (
        _label(_params((tmp_path / f"{name}.parquet", 2020)), tmp_path, 2020) for name in ("plain", "covered")
    )
    assert np.array_equal(plain.labels, covered.labels)
    assert plain.repaired == covered.repaired == 1


# Years


def test_a_mask_labels_its_year_and_its_neighbours_and_of_two_as_near_the_earlier():
    masks = ({"path": "a", "year": 2016}, {"path": "b", "year": 2018}, {"path": "c", "year": 2010})
    years = labelled_years(LabelParams(masks=masks), range(2007, 2022))
    assert years == {2009: 2010, 2010: 2010, 2011: 2010, 2015: 2016, 2016: 2016, 2017: 2016, 2018: 2018, 2019: 2018}


def test_stale_masks_are_refused_with_both_years_unless_allowed():
    masks = ({"path": "a", "year": 2000},)
    with pytest.raises(MaskError, match=r"mask of 2000 is more than 1 year\(s\) from imagery of 2013; .*allow_stale"):
        labelled_years(LabelParams(masks=masks), [2013])
    assert labelled_years(LabelParams(masks=masks, allow_stale=True), [2013]) == {2013: 2000}
    assert labelled_years(LabelParams(masks=masks, max_gap_years=13), [2013]) == {2013: 2000}
    with pytest.raises(MaskError, match=r"labels\.masks is empty"):
        labelled_years(LabelParams(), [2013])


def test_a_tile_of_a_stale_year_is_refused_too(tmp_path):
    params = _params((_lonlat_mask(tmp_path / "m.tif"), 2000))
    with pytest.raises(MaskError, match=r"mask of 2000 .* imagery of 2013"):
        _label(params, tmp_path, 2013)


def test_stable_between_labels_every_year_between_where_both_masks_agree(tmp_path):
    first, second = np.ones((2, 40, 50), "uint8")
    first[:20] = 0
    second[:, :25] = 0
    for name, values in (("a", first), ("b", second)):
        _write(tmp_path / f"{name}.tif", values, BOX.transform, "EPSG:32648")
    params = _params((tmp_path / "a.tif", 2010), (tmp_path / "b.tif", 2020), stable_between=(2010, 2020), erode_px=0)
    assert labelled_years(params, range(2008, 2023)) == (
        {2009: 2010} | dict.fromkeys(range(2010, 2016), 2010) | dict.fromkeys(range(2016, 2022), 2020)
    )
    expected = np.where(first == second, first + 1, 0)
    for year in (2010, 2014, 2020):
        assert np.array_equal(_label(params, tmp_path, year).labels, expected)
    assert np.array_equal(_label(params, tmp_path, 2021).labels, second + 1)


def test_stable_between_a_year_without_a_mask_is_refused():
    params = LabelParams(masks=({"path": "a", "year": 2010},), stable_between=(2010, 2020))
    with pytest.raises(MaskError, match=r"stable_between names 2020, a year without a mask"):
        labelled_years(params, [2015])


def test_a_tile_the_nearest_mask_does_not_reach_takes_the_next_allowed_year(tmp_path):
    far = _lonlat_mask(tmp_path / "far.tif", grid_geobox(48, (-20000, 17000, 40, 50)))
    near = _lonlat_mask(tmp_path / "near.tif")
    labels = _label(_params((far, 2020), (near, 2019)), tmp_path, 2020)
    assert labels.mask_year == 2019
    assert labels.labels.any()
    nothing = _label(_params((far, 2020)), tmp_path, 2020)
    assert nothing.mask_year == 2020
    assert not nothing.labels.any()
    assert not nothing.interior.any()


# Bad masks


@pytest.mark.filterwarnings("ignore:'crs' was not provided")
def test_bad_masks_end_in_one_line_that_says_what_to_do(tmp_path):
    ones = np.ones((4, 4), "uint8")
    degree = Affine(0.1, 0, 105, 0, -0.1, 9)
    metres = Affine(30, 0, 400_000, 0, -30, 900_000)
    _write(tmp_path / "nocrs.tif", ones, degree, None)
    _write(tmp_path / "metres.tif", ones, metres, "EPSG:4326")
    _write(tmp_path / "degrees.tif", ones, degree, "EPSG:32648")
    (tmp_path / "text.tif").write_text("not a tiff")
    (tmp_path / "vrt.gpkg").write_text("<OGRVRTDataSource></OGRVRTDataSource>")
    command = {"type": "gdal_streamed_alg", "command_line": "gdal vector pipeline ! read a.gpkg"}
    (tmp_path / "command.geojson").write_text(json.dumps(command))
    (tmp_path / "broken.geojson").write_text("{")
    (tmp_path / "empty").mkdir()
    gpd.GeoDataFrame({"a": [1]}, geometry=[Point(1, 1)], crs=4326).to_file(tmp_path / "points.gpkg")
    _polygons().set_crs(None, allow_override=True).to_file(tmp_path / "nocrs.gpkg")
    for name, match in {
        "nocrs.tif": r"no coordinate system; assign one",
        "nocrs.gpkg": r"no coordinate system",
        "metres.tif": r"impossible bounds 400000, .* for WGS 84",
        "degrees.tif": r"impossible bounds 105, .* for WGS 84 / UTM",
        "text.tif": r"text\.tif cannot be read as a GeoTIFF",
        "vrt.gpkg": r"vrt\.gpkg is not a file of its kind",
        "command.geojson": r"command\.geojson is not a file of its kind",
        "broken.geojson": r"broken\.geojson cannot be read",
        "points.gpkg": r"points\.gpkg holds Point; give polygons",
        "empty": r"empty holds no raster or vector file",
        "gone.tif": r"gone\.tif does not exist",
    }.items():
        with pytest.raises(MaskError, match=match) as caught:
            open_masks(_params((tmp_path / name, 2020)), trust=Trust().with_roots(tmp_path))
        assert "\n" not in str(caught.value)
    mask = {"path": str(_save(_polygons(), tmp_path, ".gpkg")), "year": 2020, "field": "sort", "field_values": ["x"]}
    with pytest.raises(MaskError, match="a column among kind"):
        open_masks(_params(mask), trust=Trust().with_roots(tmp_path))


def test_a_mask_that_never_overlaps_the_area_is_refused(tmp_path):
    path = _lonlat_mask(tmp_path / "m.tif")
    fiji = Area((Region("fiji", MultiPolygon([box(178, -18, 180, -17), box(-180, -18, -179, -17)])),))
    with pytest.raises(MaskError, match=r"m\.tif of 2020 never overlaps the area"):
        _label(_params((path, 2020)), tmp_path, 2020, area=fiji)


def test_masks_outside_the_allowed_folders_are_refused_also_through_a_link(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    outside = _lonlat_mask(tmp_path / "out" / "m.tif")
    (tmp_path / "in" / "m.tif").symlink_to(outside)
    for path in (outside, tmp_path / "in" / "m.tif", tmp_path / "in", "/vsicurl/https://x/m.tif", "file:///m.tif"):
        with pytest.raises(TrustError):
            open_masks(_params((path, 2020)), trust=Trust().with_roots(tmp_path / "in"))


def test_a_mask_named_by_its_source_has_the_value_of_its_source():
    masks = LabelParams.model_validate(
        {"masks": [{"path": path, "year": 2020} for path in ("worldcover", "gmw")] + [{"path": "a.tif", "year": 2020}]}
    ).masks
    assert [mask.value for mask in masks] == [(95,), (1,), (1,)]
