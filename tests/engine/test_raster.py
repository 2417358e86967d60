"""Finished rasters open elsewhere as what they are: COGs with colours, names, styles and mosaics."""

from __future__ import annotations

import ctypes
import hashlib
import resource
from pathlib import Path
from xml.etree import ElementTree as Xml

import numpy as np
import pytest
import rasterio

from engine.errors import StoreError
from engine.grid import grid_geobox
from engine.legend import CLASSES, OUTSIDE_AREA, PROBABILITY_RAMP, TRANSITIONS, names
from engine.places import entries, read_start
from engine.raster import export_gmw, read_raster, write_cog, write_qml, write_vrt, writing_cog


@pytest.fixture(scope="module")
def classes() -> np.ndarray:
    rng = np.random.default_rng(5)
    coarse = rng.choice([0, 1, 2, 3, 255], size=(40, 44)).astype("uint8")
    return np.kron(coarse, np.ones((30, 30), dtype="uint8"))


def _geobox(shape, row=-32768, col=16384, zone=48):
    return grid_geobox(zone, (row, col, *shape))


def gdal_category_names(path: Path) -> list[str]:
    """Ask GDAL itself, as rasterio has no call for it."""
    libraries = sorted((Path(rasterio.__file__).parents[1] / "rasterio.libs").glob("libgdal*"))
    if not libraries:
        pytest.skip("needs the GDAL library inside the rasterio wheel")
    gdal = ctypes.CDLL(str(libraries[0]))
    gdal.GDALAllRegister()
    gdal.GDALOpen.restype = gdal.GDALGetRasterBand.restype = ctypes.c_void_p
    gdal.GDALGetRasterCategoryNames.restype = ctypes.POINTER(ctypes.c_char_p)
    gdal.GDALGetRasterBand.argtypes = [ctypes.c_void_p, ctypes.c_int]
    for function in (gdal.GDALGetRasterCategoryNames, gdal.GDALClose, gdal.GDALGetProjectionRef):
        function.argtypes = [ctypes.c_void_p]
    dataset = gdal.GDALOpen(str(path).encode(), 0)
    gdal.GDALGetProjectionRef(dataset)  # the GTiff driver opens the side file only now, as for any GIS
    found = gdal.GDALGetRasterCategoryNames(gdal.GDALGetRasterBand(dataset, 1))
    listed = []
    while found and found[len(listed)] is not None:
        listed.append(found[len(listed)].decode())
    gdal.GDALClose(dataset)
    return listed


def test_a_class_raster_is_a_tiled_cog_with_overviews_colours_and_tags(tmp_path, classes):
    path = tmp_path / "2020" / "class.tif"
    write_cog(
        path,
        classes,
        _geobox(classes.shape),
        nodata=OUTSIDE_AREA,
        legend=CLASSES,
        tags={"RUN": "demo", "YEAR": "2020", "NOTICE": "SIMULATED data"},
        band_names=["class"],
        overview="mode",
        description="Mangrove classes 2020",
    )
    with rasterio.open(path, driver="GTiff") as source:
        assert np.array_equal(source.read(1), classes)
        structure = source.tags(ns="IMAGE_STRUCTURE")
        assert structure["LAYOUT"] == "COG"
        assert structure["COMPRESSION"] == "DEFLATE"
        assert source.block_shapes == [(512, 512)]
        assert source.overviews(1) == [2, 4]
        assert source.nodata == 255
        assert source.crs.to_epsg() == 32648
        assert source.transform.c == 491535.0
        colours = source.colormap(1)
        assert all(colours[entry.code][:3] == entry.colour for entry in CLASSES)
        assert colours[255][3] == 0  # nodata is drawn transparent
        assert source.tags()["NOTICE"] == "SIMULATED data"
        assert source.tags()["TIFFTAG_IMAGEDESCRIPTION"] == "Mangrove classes 2020"
        assert source.descriptions == ("class",)
    assert sorted(p.name for p in path.parent.iterdir()) == ["class.tif", "class.tif.aux.xml"]


def test_a_raster_written_by_rows_is_the_cog_that_one_written_whole_is(tmp_path, classes):
    whole, by_rows = tmp_path / "whole.tif", tmp_path / "new" / "rows.tif"
    about = {"nodata": OUTSIDE_AREA, "tags": {"run": "x"}, "description": "a map"}
    write_cog(whole, classes, _geobox(classes.shape), legend=CLASSES, overview="mode", **about)
    with writing_cog(by_rows, _geobox(classes.shape), CLASSES, **about) as write:
        for top in range(0, len(classes), 77):
            write(top, classes[top : top + 77])
    assert sorted(path.name for path in by_rows.parent.iterdir()) == ["rows.tif", "rows.tif.aux.xml"]
    assert (tmp_path / "whole.tif.aux.xml").read_bytes() == by_rows.with_name("rows.tif.aux.xml").read_bytes()
    with rasterio.open(whole) as one, rasterio.open(by_rows) as other:
        assert one.profile == other.profile
        assert one.tags() == other.tags()
        assert one.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == other.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert one.colormap(1) == other.colormap(1)
        assert one.overviews(1) == other.overviews(1)
        assert (other.read(1) == classes).all()


def test_a_raster_of_which_rows_could_not_be_made_is_not_there(tmp_path, classes):
    def stop():
        with writing_cog(tmp_path / "rows.tif", _geobox(classes.shape), CLASSES) as write:
            write(0, classes[:10])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        stop()
    assert not list(tmp_path.iterdir())


def test_the_file_directories_of_a_cog_come_before_its_pixels(tmp_path, classes):
    path = tmp_path / "class.tif"
    write_cog(path, classes, _geobox(classes.shape), legend=CLASSES)
    data = path.read_bytes()
    assert data[:4] == b"II*\0"
    ends, first_pixels, offset = [], [], int.from_bytes(data[4:8], "little")
    while offset:
        count = int.from_bytes(data[offset : offset + 2], "little")
        for entry in range(offset + 2, offset + 2 + 12 * count, 12):
            tag = int.from_bytes(data[entry : entry + 2], "little")
            length = int.from_bytes(data[entry + 4 : entry + 8], "little")
            value = int.from_bytes(data[entry + 8 : entry + 12], "little")
            if tag == 324:  # TileOffsets
                first_pixels.append(value if length == 1 else int.from_bytes(data[value : value + 4], "little"))
        ends.append(offset + 2 + 12 * count + 4)
        offset = int.from_bytes(data[ends[-1] - 4 : ends[-1]], "little")
    assert len(ends) == 3
    assert max(ends) < min(first_pixels)
    assert first_pixels == sorted(first_pixels, reverse=True)  # coarsest overview first


@pytest.mark.parametrize("legend", [CLASSES, TRANSITIONS])
def test_gdal_reads_the_category_names_back(tmp_path, classes, legend):
    path = tmp_path / "class.tif"
    write_cog(path, classes, _geobox(classes.shape), legend=legend)
    expected = [names(legend).get(code, "") for code in range(256)]
    assert gdal_category_names(path) == expected
    write_vrt(tmp_path / "class.vrt", [path], legend=legend)
    assert gdal_category_names(tmp_path / "class.vrt") == expected


def test_mode_overviews_hold_no_class_that_was_not_there(tmp_path, classes):
    path = tmp_path / "class.tif"
    write_cog(path, classes, _geobox(classes.shape), legend=CLASSES, overview="mode")
    with rasterio.open(path, driver="GTiff", overview_level=1) as source:
        assert set(np.unique(source.read(1))) <= set(np.unique(classes))


def test_a_probability_raster_carries_its_scale_and_predictor(tmp_path):
    probability = (np.arange(600 * 700) % 10001).astype("uint16").reshape(600, 700)
    path = tmp_path / "probability.tif"
    write_cog(path, probability, _geobox((600, 700)), nodata=65535, scale=1e-4, overview="average")
    with rasterio.open(path, driver="GTiff") as source:
        assert source.scales == (1e-4,)
        assert source.tags(ns="IMAGE_STRUCTURE")["PREDICTOR"] == "2"
        assert np.array_equal(source.read(1), probability)
    assert not (tmp_path / "probability.tif.aux.xml").exists()


def test_the_same_array_gives_the_same_bytes(tmp_path, classes):
    for name in ("a", "b"):
        write_cog(tmp_path / f"{name}.tif", classes, _geobox(classes.shape), legend=CLASSES, tags={"RUN": "x"})
    digests = {hashlib.sha256((tmp_path / f"{n}.tif").read_bytes()).hexdigest() for n in ("a", "b")}
    assert len(digests) == 1
    assert (tmp_path / "a.tif.aux.xml").read_bytes() == (tmp_path / "b.tif.aux.xml").read_bytes()


def test_read_raster_reads_a_window_with_its_place(tmp_path):
    bands = np.arange(2 * 300 * 400, dtype="int32").reshape(2, 300, 400)
    path = tmp_path / "x.tif"
    write_cog(path, bands, _geobox((300, 400)), band_names=["one", "two"])
    array, geobox = read_raster(path)
    assert np.array_equal(array, bands)
    assert geobox == _geobox((300, 400))
    array, geobox = read_raster(path, (slice(10, 20), slice(5, None)))
    assert np.array_equal(array, bands[:, 10:20, 5:])
    assert geobox == _geobox((300, 400))[10:20, 5:]


def test_read_raster_refuses_what_is_no_geotiff(tmp_path):
    (tmp_path / "x.tif").write_text('<VRTDataset rasterXSize="1" rasterYSize="1"/>')
    with pytest.raises(StoreError, match=r"x\.tif is not a readable GeoTIFF"):
        read_raster(tmp_path / "x.tif")


@pytest.mark.parametrize("zone", [1, 48])
def test_a_vrt_equals_the_mosaic_of_its_tiles(tmp_path, classes, zone):
    row, col = -32768, 16384
    whole = np.full((700, 1000), OUTSIDE_AREA, dtype="uint8")
    whole[:300, :400] = classes[:300, :400]
    whole[300:, 400:] = classes[300:700, 400:1000]
    parts = {"a": (slice(0, 300), slice(0, 400)), "b": (slice(300, 700), slice(400, 1000))}
    for name, (ys, xs) in parts.items():
        part = whole[ys, xs]
        box = _geobox(part.shape, row + ys.start, col + xs.start, zone)
        write_cog(tmp_path / "tiles" / f"{name}.tif", part, box, legend=CLASSES, nodata=OUTSIDE_AREA)
    vrt = tmp_path / "class_2020.vrt"
    write_vrt(vrt, [tmp_path / "tiles" / "b.tif", tmp_path / "tiles" / "a.tif"], legend=CLASSES)
    assert str(tmp_path) not in vrt.read_text()
    moved = tmp_path.with_name(tmp_path.name + "-moved")
    tmp_path.rename(moved)
    with rasterio.open(moved / "class_2020.vrt") as source:
        assert np.array_equal(source.read(1), whole)
        assert source.transform == _geobox((700, 1000), row, col, zone).transform
        assert source.crs.to_epsg() == 32600 + zone
        assert source.nodata == 255
        assert source.colormap(1)[2][:3] == CLASSES[2].colour


def test_rasters_in_a_bucket_open_in_gdal_as_those_of_a_folder(bucket, s3_server, tmp_path, classes):
    written = {}
    for place in (tmp_path, bucket):
        tifs = []
        for number, rows in enumerate((slice(0, 512), slice(512, 1024))):
            part = classes[rows, :600]
            tifs.append(place / "maps" / "2020" / f"class_{number}.tif")
            box = _geobox(part.shape, row=-32768 + rows.start)
            write_cog(tifs[-1], part, box, nodata=OUTSIDE_AREA, legend=CLASSES, tags={"RUN": "x"}, overview="mode")
            assert np.array_equal(read_raster(tifs[-1])[0][0], part)
            write_qml(tifs[-1].with_suffix(".qml"), CLASSES)
        write_vrt(place / "maps" / "class_2020.vrt", tifs, legend=CLASSES)
        files = [*entries(place / "maps")[1], *entries(place / "maps" / "2020")[1]]
        written[place] = {path.name: path.read_bytes() for path in files}
    assert len(written[bucket]) == 7
    assert written[bucket] == written[tmp_path]
    endpoint = {"AWS_S3_ENDPOINT": s3_server, "AWS_HTTPS": "NO", "AWS_VIRTUAL_HOSTING": "FALSE"}
    with (
        rasterio.Env(**endpoint),
        rasterio.open(f"/vsis3/{(bucket / 'maps' / 'class_2020.vrt').address[5:]}") as source,
    ):
        assert np.array_equal(source.read(1), classes[:1024, :600])


def test_the_tiles_of_a_mosaic_in_a_bucket_are_not_downloaded_for_it(bucket, tmp_path, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 10_000, (2048, 2048)).astype("uint16")
    write_cog(bucket / "a.tif", noise, _geobox(noise.shape), tags={f"TAG{n}": "x" * 300 for n in range(40)})
    read = []
    monkeypatch.setattr("engine.raster.read_start", lambda path, most: read.append(most) or read_start(path, most))
    write_vrt(bucket / "a.vrt", [bucket / "a.tif"])
    assert sum(read) < len((bucket / "a.tif").read_bytes()) / 10


def test_a_raster_that_is_not_in_its_bucket_is_one_line(bucket):
    with pytest.raises(StoreError, match=r"a\.tif cannot be read \(there is no such object\)"):
        read_raster(bucket / "a.tif")
    (bucket / "b.tif").write_bytes(b"no TIFF")
    with pytest.raises(StoreError, match=r"b\.tif is not a readable GeoTIFF"):
        write_vrt(bucket / "b.vrt", [bucket / "b.tif"])


def test_a_vrt_refuses_tiles_of_two_zones(tmp_path, classes):
    part = classes[:64, :64]
    write_cog(tmp_path / "a.tif", part, _geobox(part.shape, zone=48))
    write_cog(tmp_path / "b.tif", part, _geobox(part.shape, zone=49))
    with pytest.raises(ValueError, match=r"b\.tif and a\.tif differ .* one VRT per zone"):
        write_vrt(tmp_path / "x.vrt", [tmp_path / "a.tif", tmp_path / "b.tif"])
    assert not (tmp_path / "x.vrt").exists()


def test_a_class_style_lists_every_class_by_its_colour(tmp_path):
    write_qml(tmp_path / "class.qml", CLASSES)
    text = (tmp_path / "class.qml").read_text()
    assert text.startswith("<!DOCTYPE qgis")
    root = Xml.fromstring(text)
    assert root.find("pipe/rasterrenderer").get("type") == "paletted"
    listed = root.findall("pipe/rasterrenderer/colorPalette/paletteEntry")
    assert [(int(e.get("value")), e.get("label")) for e in listed] == [(e.code, e.name) for e in CLASSES]
    assert listed[2].get("color") == "#00725a"
    assert listed[-1].get("alpha") == "0"


def test_a_probability_style_runs_from_0_to_1(tmp_path):
    write_qml(tmp_path / "p.qml", PROBABILITY_RAMP)
    renderer = Xml.fromstring((tmp_path / "p.qml").read_text()).find("pipe/rasterrenderer")
    assert renderer.get("type") == "singlebandpseudocolor"
    assert (renderer.get("classificationMin"), renderer.get("classificationMax")) == ("0", "1")
    assert [i.get("value") for i in renderer.iter("item")] == ["0", "0.25", "0.5", "0.75", "1"]


def test_export_gmw_refuses_what_is_not_a_class_raster():
    with pytest.raises(TypeError, match="uint8 class codes, got int64"):
        export_gmw(np.array([[2]]))


@pytest.mark.parametrize(
    ("array", "options", "message"),
    [
        (np.zeros((3, 4), "uint8"), {}, r"must be .* of \(5, 5\), got shape \(3, 4\)"),
        (np.zeros((5, 5), "bool"), {}, "got bool"),
        (np.zeros((5, 5), "uint16"), {"legend": CLASSES}, "a legend needs one band of uint8"),
        (np.zeros((5, 5), "uint8"), {"legend": CLASSES, "overview": "average"}, "a legend needs"),
        (np.zeros((2, 5, 5), "uint8"), {"band_names": ["a"]}, "must name 2 bands, got 1"),
    ],
)
def test_write_cog_refuses_what_does_not_fit_together(tmp_path, array, options, message):
    with pytest.raises(ValueError, match=message):
        write_cog(tmp_path / "x.tif", array, _geobox((5, 5)), **options)
    assert list(tmp_path.iterdir()) == []


def test_an_output_path_that_cannot_be_written_is_one_clear_line(tmp_path, classes):
    (tmp_path / "runs").write_text("a file, not a folder")
    with pytest.raises(StoreError, match=r"class\.tif cannot be written"):
        write_cog(tmp_path / "runs" / "class.tif", classes, _geobox(classes.shape))


def test_a_full_disk_leaves_the_old_file_and_no_half_of_the_new(tmp_path):
    path = tmp_path / "x.tif"
    write_cog(path, np.ones((64, 64), "uint8"), _geobox((64, 64)))
    before = path.read_bytes()
    noise = np.random.default_rng(1).integers(0, 255, (1024, 1024)).astype("uint8")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(StoreError, match=r"x\.tif .*(cannot be written|does not read back)"):
            write_cog(path, noise, _geobox((1024, 1024)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.tif"]
