"""Bodies of the tasks on a tile of 24 x 30 px: what they write, and when that counts as current."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
from affine import Affine
from shapely.geometry import box

from engine import tasks
from engine.area import Area, Region, region_codes, wrap
from engine.cube import as_dataset, composite_block, reduce_looks
from engine.errors import SceneError, StoreError
from engine.grid import Tile, lonlat_of, pixel_hectares
from engine.habitat import HabitatSources
from engine.kernels.composite import empty_layers
from engine.kernels.context import focal_means
from engine.kernels.features import (
    ALL_FEATURES,
    COMPOSITE_FEATURES,
    CONTEXT_FEATURES,
    KNOWN_FEATURES,
    MISSING,
    feature_stack,
)
from engine.lookup import FoundRaster
from engine.masks import open_masks
from engine.params import ClassifyParams, CubeParams, HabitatParams, LabelParams, SampleParams, TrainParams
from engine.plan import TileYear
from engine.ranges import Access
from engine.raster import read_raster
from engine.sample import part_path, sensor_names, thin_looks
from engine.scenes import Scene, observations
from engine.store import array_sha256, is_current, marker_path, open_store, read_marker, write_store
from engine.tasks import (
    Adjoining,
    Draw,
    classify_task,
    cube_is_current,
    cube_task,
    export_task,
    gmw_path,
    looks_path,
    map_is_current,
    map_paths,
    remove_unlisted,
    sample_task,
)
from engine.train import fit
from engine.trust import Trust
from tests.engine.samples import make_sample
from tests.makers import utc, write_scene

TILE = Tile(48, 8, -16, (-32700, 16500, 24, 30))
INSIDE = np.broadcast_to(np.arange(30) >= 10, TILE.shape)
"""The area covers the tile from column 10 on."""

UNSEEN = np.broadcast_to(np.arange(24)[:, None] < 4, TILE.shape)
"""The upper four rows of the hand-made cube were never clear."""

HIGH = np.broadcast_to(np.arange(30) >= 25, TILE.shape)
"""The last five columns lie too high for mangrove."""

ANNUAL, KEEP = CubeParams(), CubeParams(keep="scenes")
AT_HALF = ClassifyParams(threshold=0.5)


@pytest.fixture(scope="module")
def area() -> Area:
    lon, lat = lonlat_of(48, *np.mgrid[-32700 : -32700 + 24, 16510 : 16500 + 30])
    half = 1.3e-4  # degrees, somewhat less than half a pixel
    outline = box(lon.min() - half, lat.min() - half, lon.max() + half, lat.max() + half)
    area = Area((Region("east", wrap(outline)),))
    assert np.array_equal(region_codes(area, TILE), INSIDE)
    return area


# Cubes


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory) -> TileYear:
    """Three scenes of 2019, two of them rows of one pass that overlap on the tile."""
    folder = tmp_path_factory.mktemp("few")

    def scene(day, row: int, wrs_row: int, seed: int) -> Scene:
        return write_scene(folder, day=day, corner=(row, 16490), shape=(30, 50), wrs=(125, wrs_row), seed=seed)

    pair = scene(utc(2019, 3, 1), -32712, 53, 1), scene(utc(2019, 3, 1, 3, 0, 24), -32692, 54, 2)
    return TileYear(TILE, 2019, (*pair, scene(utc(2019, 5, 1), -32703, 53, 3)))


@pytest.fixture(scope="module")
def access(part: TileYear) -> Access:
    return Access(Trust().with_roots(Path(part.scenes[0].assets["red"]).parent))


def make_cube(
    part: TileYear, store: Path, access: Access, params: CubeParams = ANNUAL, *, skip_bad: bool = False
) -> dict:
    return cube_task(part, store, params, access, 2048, "f", skip_bad, {"run": "few"})


def check_looks_reduce_to_the_cube(store: Path, looks: int) -> None:
    with open_store(store) as cube, open_store(looks_path(store)) as kept:
        assert kept["looks"].dims == ("time", "band", "y", "x")
        assert kept.sizes["time"] == looks
        assert kept.attrs["run"] == cube.attrs["run"] == "few"
        annual = {str(name): layer.values for name, layer in cube.data_vars.items() if name != "lost_count"}
        assert annual["clear_count"].max() == looks
        assert array_sha256(reduce_looks(kept["looks"], KEEP)) == array_sha256(annual)


def test_a_cube_is_current_for_its_fingerprint_while_it_is_there(part, access, tmp_path):
    store = tmp_path / "2019.zarr"
    assert not cube_is_current(store, ANNUAL, "f")
    assert make_cube(part, store, access)["looks"] == 2
    assert not looks_path(store).exists()
    assert cube_is_current(store, ANNUAL, "f")
    assert not cube_is_current(store, ANNUAL, "g")
    assert not cube_is_current(store, KEEP, "f"), "its looks are asked for now, and were not kept"
    shutil.rmtree(store)
    assert not cube_is_current(store, ANNUAL, "f"), "only its marker is left"


def test_kept_looks_reduce_to_the_annual_cube_and_are_part_of_what_is_current(part, access, tmp_path):
    store = tmp_path / "2019.zarr"
    make_cube(part, store, access, KEEP)
    check_looks_reduce_to_the_cube(store, looks=2)
    assert cube_is_current(store, KEEP, "f")
    assert not cube_is_current(store, KEEP, "g")
    marker_path(looks_path(store)).unlink()
    assert not cube_is_current(store, KEEP, "f")
    assert cube_is_current(store, ANNUAL, "f")


def test_a_scene_that_is_lost_is_in_neither_cube_nor_looks(part, access, tmp_path):
    first, second, third = part.scenes
    (tmp_path / "cut.tif").write_bytes(Path(third.assets["red"]).read_bytes()[:500])
    bad = replace(third, assets={**third.assets, "red": str(tmp_path / "cut.tif")})
    short = replace(part, scenes=(first, second, bad))
    access = Access(access.trust.with_roots(tmp_path))
    store = tmp_path / "2019.zarr"
    with pytest.raises(SceneError, match=rf"scene {bad.id}, asset red: cut\.tif cannot be read"):
        make_cube(short, store, access, KEEP)
    assert read_marker(store) is None
    marker = make_cube(short, store, access, KEEP, skip_bad=True)
    assert [loss["scene"] for loss in marker["lost"]] == [bad.id]
    check_looks_reduce_to_the_cube(store, looks=1)


def test_a_year_without_scenes_keeps_no_looks_and_is_current_all_the_same(access, tmp_path):
    store = tmp_path / "2001.zarr"
    assert make_cube(TileYear(TILE, 2001, ()), store, access, KEEP)["looks"] == 0
    assert not looks_path(store).exists()
    assert cube_is_current(store, KEEP, "f")


# Samples and maps of a cube made by hand


@pytest.fixture(scope="module")
def layers() -> dict[str, np.ndarray]:
    layers = empty_layers(*TILE.shape)
    values = np.random.default_rng(6).integers(7600, 12000, layers["composite"].shape)
    layers["composite"][:] = np.where(UNSEEN, 0, values)
    layers["clear_count"][:] = np.where(UNSEEN, 0, 5)
    return layers


@pytest.fixture(scope="module")
def cube(layers, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("cube") / "2019.zarr"
    write_store(store, as_dataset(layers, TILE.geobox, 2019, {}), {"fingerprint": "c"})
    return store


def raster(path: Path, values: np.ndarray) -> Path:
    """Write a raster of degrees over the tile and far around: ``values`` from its west to its east."""
    west, north = lonlat_of(48, np.array([-32700]), np.array([16500]))
    degrees = 30 * 2.7285e-4 / values.size
    profile = {"driver": "GTiff", "count": 1, "height": 60, "width": values.size, "crs": "EPSG:4326"}
    transform = Affine(degrees, 0, west[0] - 1.364e-4, 0, -1e-3, north[0] + 0.01)
    with rasterio.open(path, "w", dtype=values.dtype, transform=transform, **profile) as file:
        file.write(np.broadcast_to(values, (60, values.size)), 1)
    return path


@pytest.fixture(scope="module")
def habitat(tmp_path_factory: pytest.TempPathFactory) -> tuple[HabitatParams, HabitatSources, Path]:
    folder = tmp_path_factory.mktemp("dem")
    dem = raster(folder / "dem.tif", np.where(HIGH[0], 90, 2).astype("int16"))
    sources = HabitatSources(dem=(FoundRaster(str(dem), None),), water=())
    return HabitatParams(max_distance_to_tidal_water_km=None, dem=str(dem)), sources, folder


def draw_of(area: Area, masks, labels: LabelParams, params: SampleParams, **more) -> Draw:
    common = {"habitat": None, "access": Access(Trust()), "features": COMPOSITE_FEATURES, "cube": ANNUAL}
    common |= {"seed": 7, "block_px": 2048, "skip_bad": False}
    return Draw(**{**common, "area": area, "masks": masks, "labels": labels, "sample": params, **more})


def draw(cube: Path, area: Area, habitat, folder: Path, fingerprint: str = "f") -> dict:
    """Draw every labelled pixel; the mask shows mangrove from column 20 on."""
    mask = raster(folder / "mask.tif", (np.arange(30) >= 20).astype("uint8"))
    labels = LabelParams(masks=({"path": str(mask), "year": 2020},), erode_px=0)
    params, sources, dem = habitat
    how = draw_of(
        area,
        open_masks(labels, trust=Trust().with_roots(folder)),
        labels,
        SampleParams(mangrove=1.0, other=1.0),
        habitat=(params, sources),
        access=Access(Trust().with_roots(dem)),
    )
    return sample_task(cube, TileYear(TILE, 2019, ()), how, folder / "sample", fingerprint)


def test_a_sample_holds_the_features_and_labels_of_its_pixels(cube, layers, area, habitat, tmp_path):
    marker = draw(cube, area, habitat, tmp_path)
    path = part_path(tmp_path / "sample", TILE.id, 2019)
    frame = gpd.read_parquet(path)
    rows, cols = frame.grid_row - TILE.window[0], frame.grid_col - TILE.window[1]
    drawn = np.zeros(TILE.shape, bool)
    drawn[rows, cols] = True
    assert np.array_equal(drawn, INSIDE & ~UNSEEN & ~HIGH), "observed, in the area and low enough"
    assert np.array_equal(frame.label, np.where(cols >= 20, 2, 1))
    features = feature_stack(layers, COMPOSITE_FEATURES)
    for number, name in enumerate(COMPOSITE_FEATURES):
        assert np.array_equal(frame[name], features[number][rows, cols]), name
    assert (marker["rows"], marker["mask_year"]) == (20 * 15, 2020)
    lost = (HIGH * pixel_hectares(TILE)).sum()
    assert marker["mask_mangrove_outside_habitat_ha"] == pytest.approx(lost, abs=1e-4)
    assert is_current(path, "f")
    assert not is_current(path, "g")


def test_a_sample_that_could_not_be_drawn_again_is_not_current(cube, area, habitat, tmp_path):
    draw(cube, area, habitat, tmp_path)
    with pytest.raises(StoreError, match="is not there or not finished"):
        draw(tmp_path / "gone.zarr", area, habitat, tmp_path, "g")
    path = part_path(tmp_path / "sample", TILE.id, 2019)
    assert path.is_file()
    assert not is_current(path, "f")
    assert not is_current(path, "g")


# Samples of thinned composites


@pytest.fixture(scope="module")
def year_of_looks(tmp_path_factory: pytest.TempPathFactory) -> tuple[TileYear, Access]:
    """Twelve passes of two platforms over a tile in more than one strip of 256 rows; clouds in 60 % of it."""
    folder = tmp_path_factory.mktemp("many")
    scenes = tuple(
        write_scene(
            folder,
            day=utc(2019, month, 3),
            corner=(-32705, 16480),
            shape=(330, 60),
            platform=("landsat-8", "landsat-9")[month % 2],
            seed=month,
            cloud=0.6,
        )
        for month in range(1, 13)
    )
    return TileYear(replace(TILE, window=(-32700, 16500, 300, 30)), 2019, scenes), Access(Trust().with_roots(folder))


CUBES = CubeParams(min_looks_range=3)


def draw_thinned(
    year_of_looks: tuple[TileYear, Access],
    area: Area,
    folder: Path,
    *,
    thinned: int = 3,
    params: CubeParams = CUBES,
    block_px: int = 2048,
    skip_bad: bool = False,
    number: float = 0.5,
    features: tuple[str, ...] = ALL_FEATURES,
) -> tuple[pd.DataFrame, dict]:
    """Make a cube and draw its sample, half of all pixels, right of column 10."""
    part, access = year_of_looks
    folder.mkdir(exist_ok=True)
    store = folder / "2019.zarr"
    if not store.exists():
        cube_task(part, store, params, access, block_px, "c", skip_bad, {})
    mask = raster(folder / "mask.tif", (np.arange(30) >= 20).astype("uint8"))
    labels = LabelParams(masks=({"path": str(mask), "year": 2020},))
    how = draw_of(
        area,
        open_masks(labels, trust=Trust().with_roots(folder)),
        labels,
        SampleParams(mangrove=number, other=number, thinned=thinned),
        access=access,
        features=features,
        cube=params,
        block_px=block_px,
        skip_bad=skip_bad,
    )
    marker = sample_task(store, part, how, folder / "sample", "f")
    frame = gpd.read_parquet(part_path(folder / "sample", part.tile.id, 2019))
    return pd.DataFrame(frame.drop(columns="geometry")), marker


@pytest.fixture(scope="module")
def tall(year_of_looks) -> Area:
    lon, lat = lonlat_of(48, *np.mgrid[-32700 : -32700 + 300, 16510 : 16500 + 30])
    return Area((Region("east", wrap(box(lon.min(), lat.min(), lon.max(), lat.max()))),))


@pytest.mark.parametrize(
    ("composite", "share", "tide"),
    [("median", 0.5, "all"), ("geomedian", 0.5, "all"), ("median", 0.02, "all"), ("median", 0.5, "low")],
)
def test_thinned_rows_hold_what_a_cube_of_those_looks_alone_would(
    year_of_looks, tall, tmp_path, composite, share, tide
):
    params = CubeParams(composite=composite, min_looks_range=4, tide=tide)
    frame, marker = draw_thinned(year_of_looks, tall, tmp_path, params=params, number=share, features=KNOWN_FEATURES)
    part, access = year_of_looks
    assert marker["thinned_rows"] == frame.thinned.sum() > 0
    full = frame[~frame.thinned]
    assert len(full) == marker["rows"] - marker["thinned_rows"]
    assert (set(full.sensor), set(full.looks)) == ({"L8+L9"}, {12})
    place = ["grid_row", "grid_col"]
    pixels = set(map(tuple, full[place].to_numpy()))
    days = list(observations(part.scenes))
    first = 0
    for number in (1, 2, 3):
        chosen = thin_looks(days, seed=7, tile=part.tile.id, year=2019, number=number)
        scenes = [scene for scene in part.scenes if scene.observation in chosen]
        layers, _ = composite_block(scenes, part.tile.geobox, params, access)
        seen = [
            pixel
            for pixel in sorted(pixels)
            if layers["clear_count"][pixel[0] - part.tile.window[0], pixel[1] - part.tile.window[1]]
        ]
        rows = frame[frame.thinned].iloc[first : first + len(seen)]
        first += len(seen)
        assert list(map(tuple, rows[place].to_numpy())) == seen, "those observed, and no others"
        y, x = rows.grid_row - part.tile.window[0], rows.grid_col - part.tile.window[1]
        layers["context"] = focal_means(layers["composite"])
        assert np.array_equal(rows[list(KNOWN_FEATURES)].T, feature_stack(layers, KNOWN_FEATURES)[:, y, x])
        assert np.array_equal(rows.clear_count, layers["clear_count"][y, x])
        assert np.array_equal(rows.ndvi_p10 == MISSING, rows.clear_count < 4)
        assert set(rows.looks) == {len(chosen)}
        assert set(rows.sensor) == {sensor_names(scene.platform for scene in scenes)}
        assert rows.why.str.endswith(f"; thinned: composite of {len(chosen)} of its 12 looks").all()
        same = ["label", "weight", "region", "tile", "year", "interior", "lon", "lat"]
        joined = full.set_index(place)[same].loc[seen].reset_index(drop=True)
        pd.testing.assert_frame_equal(rows[same].reset_index(drop=True), joined)
    assert first == marker["thinned_rows"]


def test_blocks_do_not_change_a_thinned_sample(year_of_looks, tall, tmp_path, monkeypatch):
    whole, _ = draw_thinned(year_of_looks, tall, tmp_path / "whole", features=KNOWN_FEATURES)
    monkeypatch.setattr(tasks, "THINNED_AT_ONCE", 1000)
    strips, _ = draw_thinned(year_of_looks, tall, tmp_path / "strips", block_px=256, features=KNOWN_FEATURES)
    pd.testing.assert_frame_equal(whole, strips)


def test_thinning_leaves_the_other_rows_as_they_are_and_the_first_composites_too(year_of_looks, tall, tmp_path):
    none, one, two = (draw_thinned(year_of_looks, tall, tmp_path, thinned=n)[0] for n in (0, 1, 2))
    assert not none.thinned.any()
    for fewer, more in ((none, one), (one, two)):
        pd.testing.assert_frame_equal(more.iloc[: len(fewer)], fewer)
        assert more.iloc[len(fewer) :].thinned.all()


def test_a_scene_that_is_unreadable_by_then_ends_the_draw_or_is_left_out(year_of_looks, tall, tmp_path):
    part, access = year_of_looks
    draw_thinned((part, access), tall, tmp_path, thinned=0)
    cut = tmp_path / "cut.tif"
    cut.write_bytes(b"II*\0")
    days = list(observations(part.scenes))
    chosen = thin_looks(days, seed=7, tile=part.tile.id, year=2019, number=1)
    bad = next(scene for scene in part.scenes if scene.observation in chosen)
    broken = replace(bad, assets={**bad.assets, "red": str(cut)})
    short = replace(part, scenes=tuple(broken if scene is bad else scene for scene in part.scenes))
    access = Access(access.trust.with_roots(tmp_path))
    with pytest.raises(SceneError, match=f"scene {bad.id}, asset red"):
        draw_thinned((short, access), tall, tmp_path, thinned=1)
    frame, marker = draw_thinned((short, access), tall, tmp_path, thinned=1, skip_bad=True, block_px=256)
    assert [loss["scene"] for loss in marker["lost"]] == [bad.id]
    left = [day for day in days if day != bad.observation]
    chosen = thin_looks(left, seed=7, tile=part.tile.id, year=2019, number=1)
    assert set(frame.looks[frame.thinned]) == {len(chosen)}
    assert set(frame.looks[~frame.thinned]) == {12}, "the cube had been made of all"


def test_scenes_the_cube_went_without_are_in_no_row(year_of_looks, tall, tmp_path):
    part, access = year_of_looks
    cut = tmp_path / "cut.tif"
    cut.write_bytes(b"II*\0")
    eights = [scene for scene in part.scenes if scene.platform == "landsat-8"]
    broken = [replace(scene, assets={**scene.assets, "red": str(cut)}) for scene in eights]
    nines = [scene for scene in part.scenes if scene.platform == "landsat-9"]
    scenes = tuple(sorted([*broken, *nines], key=lambda scene: scene.datetime))
    access = Access(access.trust.with_roots(tmp_path))
    frame, marker = draw_thinned((replace(part, scenes=scenes), access), tall, tmp_path, skip_bad=True)
    assert marker["lost"] == [], "they were not asked for again"
    assert set(frame.sensor) == {"L9"}
    assert set(frame.looks[~frame.thinned]) == {6}


@pytest.fixture(scope="module")
def model(layers, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return a model that calls the half of the cube with the brighter near infrared mangrove, and its hash."""
    folder = tmp_path_factory.mktemp("model")
    values = feature_stack(layers, COMPOSITE_FEATURES)[:, ~UNSEEN]
    nir = values[COMPOSITE_FEATURES.index("nir08")]
    sample = make_sample(nir.size).assign(
        **dict(zip(COMPOSITE_FEATURES, values, strict=True)), weight=1.0, label=np.where(nir > np.median(nir), 2, 1)
    )
    model = fit(sample, features=COMPOSITE_FEATURES, params=TrainParams(rounds=5, max_depth=3, features="composite"))
    model.save(folder)
    return folder, model.sha256()


def classify(cube: Path, area: Area, model, habitat, store: Path) -> dict:
    limit = None if habitat is None else habitat[:2]
    trust = Trust() if habitat is None else Trust().with_roots(habitat[2])
    return classify_task(
        cube, TILE, 2019, area, *model, limit, Access(trust), AT_HALF, store, "f", {"run": "few", "notice": "by hand"}
    )


def map_store(folder: Path) -> Path:
    return folder / "maps" / "2019" / f"{TILE.id}.zarr"


def test_a_map_shows_area_habitat_and_what_was_not_observed_in_zarr_and_cog(
    cube, layers, area, model, habitat, tmp_path
):
    store = map_store(tmp_path)
    marker = classify(cube, area, model, habitat, store)
    with open_store(store) as data:
        classes, probability = data["class"].values, data["probability"].values
        assert data.attrs["notice"] == "by hand"
    seen = INSIDE & ~HIGH & ~UNSEEN
    assert (classes[~INSIDE] == 255).all()
    assert (classes[INSIDE & HIGH] == 3).all()
    assert (classes[INSIDE & ~HIGH & UNSEEN] == 0).all()
    assert (probability[~seen] == 65535).all()
    assert np.array_equal(classes[seen], np.where(probability[seen] >= 5000, 2, 1))
    nir = layers["composite"][3]
    assert (classes[seen] == np.where(nir > np.median(nir[~UNSEEN]), 2, 1)[seen]).mean() > 0.95
    for kind, values in (("class", classes), ("probability", probability)):
        path = map_paths(store)[kind]
        assert path.name == f"{kind}_{TILE.id}_2019.tif"
        (found,), geobox = read_raster(path)
        assert np.array_equal(found, values)
        assert geobox == TILE.geobox
    counted = {row["code"]: row["pixels"] for row in marker["areas"]}
    assert counted == {code: int((classes == code).sum()) for code in (0, 1, 2, 3)}
    assert {row["where"] for row in marker["areas"]} == {"east"}


@pytest.mark.parametrize("rows", [1, 7, 24])
def test_strips_do_not_change_a_map(cube, area, model, tmp_path, monkeypatch, rows):
    marker = classify(cube, area, model, None, map_store(tmp_path / "whole"))
    monkeypatch.setattr(tasks, "CLASSIFY_ROWS", rows)
    assert classify(cube, area, model, None, map_store(tmp_path))["sha256"] == marker["sha256"]


def test_a_map_is_current_for_its_fingerprint_while_store_and_cogs_are_there(cube, area, model, tmp_path):
    store = map_store(tmp_path)
    assert not map_is_current(store, "f")
    classify(cube, area, model, None, store)
    export_task(store, TILE, {})
    assert map_is_current(store, "f")
    assert not map_is_current(store, "g")
    for path in map_paths(store).values():
        path.rename(tmp_path / "aside")
        assert not map_is_current(store, "f")
        (tmp_path / "aside").rename(path)
    assert map_is_current(store, "f")
    with pytest.raises(StoreError, match="is not there or not finished"):
        classify(tmp_path / "gone.zarr", area, model, None, store)
    assert not map_is_current(store, "f"), "what could not be made again is not current"
    assert not gmw_path(store).exists()


# Neighbourhoods across tiles

CORNER = (-14 * 2048, 9 * 2048)
"""Row and column of the zone where the four tiles of ``QUARTERS`` meet."""

SEEN = np.random.default_rng(8).random((12, 14)) < 0.8
"""A scene of the size of all quarters together, a fifth of it not observed."""

QUARTERS = {
    name: Tile(48, col, row, (CORNER[0] + top, CORNER[1] + left, height, width))
    for name, col, row, (top, left, height, width) in [
        ("northwest", 8, -15, (-7, -4, 7, 4)),
        ("northeast", 9, -15, (-7, 0, 7, 10)),
        ("southwest", 8, -14, (0, -4, 5, 4)),
        ("southeast", 9, -14, (0, 0, 5, 10)),
    ]
}
WHOLE = Tile(48, 9, -14, (CORNER[0] + 100, CORNER[1] + 100, 12, 14))
"""As many pixels as all quarters, within one tile."""

CONTEXT = (*COMPOSITE_FEATURES, *CONTEXT_FEATURES)


def place_of(tile: Tile) -> tuple[slice, slice]:
    """Return where a tile's pixels are among those of ``SEEN``."""
    top, left = (0, 0) if tile == WHOLE else (tile.window[0] - CORNER[0] + 7, tile.window[1] - CORNER[1] + 4)
    return slice(top, top + tile.shape[0]), slice(left, left + tile.shape[1])


@pytest.fixture(scope="module")
def over_all() -> Area:
    """An area that holds all quarters, and the whole."""
    lon, lat = lonlat_of(48, np.array([CORNER[0] - 20, CORNER[0] + 130]), np.array([CORNER[1] - 20, CORNER[1] + 130]))
    return Area((Region("all", wrap(box(lon.min(), lat.min(), lon.max(), lat.max()))),))


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> dict[Tile, Path]:
    """Cubes of the quarters, and of all of them as one."""
    folder = tmp_path_factory.mktemp("cut")
    rng = np.random.default_rng(9)
    layers = empty_layers(*SEEN.shape)
    layers["composite"][:] = np.where(SEEN, rng.integers(7600, 12000, (6, *SEEN.shape)), 0)
    layers["clear_count"][:] = np.where(SEEN, 5, 0)
    cubes = {}
    for tile in (*QUARTERS.values(), WHOLE):
        cubes[tile] = folder / f"{tile.id}_{tile.window[0]}.zarr"
        own = {name: layer[..., *place_of(tile)] for name, layer in layers.items()}
        write_store(cubes[tile], as_dataset(own, tile.geobox, 2019, {}), {"fingerprint": "c"})
    return cubes


@pytest.fixture(scope="module")
def blurred(cut, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return a model of neighbourhoods: mangrove where the mean near infrared is brighter."""
    with open_store(cut[WHOLE]) as data:
        composite = data["composite"].values
    values = feature_stack({"composite": composite, "context": focal_means(composite)}, CONTEXT)[:, SEEN]
    mean = values[CONTEXT.index("nir08_150m")]
    sample = make_sample(mean.size).assign(
        **dict(zip(CONTEXT, values, strict=True)), weight=1.0, label=np.where(mean > np.median(mean), 2, 1)
    )
    folder = tmp_path_factory.mktemp("blurred")
    model = fit(sample, features=CONTEXT, params=TrainParams(rounds=20, max_depth=4, calibrate="none"))
    model.save(folder)
    return folder, model.sha256()


def cubes_round(tile: Tile, cut: dict[Tile, Path]) -> list[Adjoining]:
    return [Adjoining(cut[other], other, "s") for other in QUARTERS.values() if other != tile]


def map_of(tile: Tile, adjoining: list[Adjoining], cut, area: Area, model, folder: Path) -> np.ndarray:
    """Classify one tile; return its probabilities."""
    store = folder / "maps" / "2019" / f"{cut[tile].stem}.zarr"
    nothing = None, Access(Trust()), AT_HALF
    classify_task(cut[tile], tile, 2019, area, *model, *nothing, store, "f", {}, adjoining)
    with open_store(store) as data:
        return data["probability"].values


def rows_of(tile: Tile, adjoining: list[Adjoining], cut, area: Area, folder: Path) -> pd.DataFrame:
    """Draw every pixel of a tile; return features by place among those of ``SEEN``."""
    lon, lat = lonlat_of(48, *(np.array([CORNER[axis] - 50]) for axis in (0, 1)))
    profile = {"driver": "GTiff", "count": 1, "height": 20, "width": 20, "crs": "EPSG:4326", "dtype": "uint8"}
    transform = Affine(0.01, 0, lon[0], 0, -0.01, lat[0])
    with rasterio.open(folder / "mask.tif", "w", transform=transform, **profile) as file:
        file.write(np.ones((1, 20, 20), "uint8"))
    labels = LabelParams(masks=({"path": str(folder / "mask.tif"), "year": 2019},), erode_px=0)
    masks = open_masks(labels, trust=Trust().with_roots(folder))
    drawn = SampleParams(mangrove=1.0, other=1.0, thinned=0)
    how = draw_of(area, masks, labels, drawn, features=CONTEXT)
    sample_task(cut[tile], TileYear(tile, 2019, ()), how, folder / "sample", "f", adjoining)
    frame = pd.DataFrame(gpd.read_parquet(part_path(folder / "sample", tile.id, 2019)).drop(columns="geometry"))
    top, left = (part.start for part in place_of(tile))
    y, x = frame.grid_row - tile.window[0] + top, frame.grid_col - tile.window[1] + left
    return frame[list(CONTEXT)].set_index(pd.MultiIndex.from_arrays([y, x], names=["y", "x"]))


def test_seams_between_tiles_do_not_show_in_maps_of_neighbourhoods(cut, blurred, over_all, tmp_path):
    whole = map_of(WHOLE, [], cut, over_all, blurred, tmp_path)
    joined, alone = np.zeros_like(whole), np.zeros_like(whole)
    for tile in QUARTERS.values():
        joined[place_of(tile)] = map_of(tile, cubes_round(tile, cut), cut, over_all, blurred, tmp_path)
        alone[place_of(tile)] = map_of(tile, [], cut, over_all, blurred, tmp_path)
    assert np.array_equal(joined, whole)
    near = np.zeros(SEEN.shape, bool)
    near[5:9] = near[:, 2:6] = True
    assert np.array_equal(alone[~near], whole[~near])
    assert not np.array_equal(alone[near], whole[near]), "else this would show nothing"


def test_seams_between_tiles_do_not_show_in_samples_of_neighbourhoods(cut, over_all, tmp_path):
    whole = rows_of(WHOLE, [], cut, over_all, tmp_path)
    assert list(whole.index) == list(zip(*np.nonzero(SEEN), strict=True))
    parts = [rows_of(tile, cubes_round(tile, cut), cut, over_all, tmp_path) for tile in QUARTERS.values()]
    pd.testing.assert_frame_equal(pd.concat(parts).sort_index(), whole)
    assert (whole[list(CONTEXT_FEATURES)] != MISSING).all(axis=None)


def test_where_no_cube_adjoins_means_are_of_what_there_is(cut, over_all, tmp_path):
    tile = QUARTERS["northwest"]
    with open_store(cut[WHOLE]) as data:
        composite = data["composite"].values
    gone = QUARTERS["southeast"]
    composite[:, *place_of(gone)] = 0
    left = [other for other in cubes_round(tile, cut) if other.tile != gone]
    rows = rows_of(tile, left, cut, over_all, tmp_path)
    y, x = rows.index.get_level_values("y"), rows.index.get_level_values("x")
    assert np.array_equal(rows[list(CONTEXT_FEATURES)].T, focal_means(composite)[:, y, x])


def test_a_cube_that_lies_out_of_reach_is_not_read(cut, over_all, tmp_path):
    tile = QUARTERS["northwest"]
    afar = Tile(48, 9, -15, (CORNER[0] - 7, CORNER[1] + 2, 7, 4))
    across = Tile(49, 9, -15, QUARTERS["northeast"].window)
    unread = [Adjoining(tmp_path / "gone.zarr", other, None) for other in (afar, across)]
    pd.testing.assert_frame_equal(
        rows_of(tile, unread, cut, over_all, tmp_path), rows_of(tile, [], cut, over_all, tmp_path)
    )
    near = Adjoining(tmp_path / "gone.zarr", QUARTERS["northeast"], None)
    with pytest.raises(StoreError, match=r"gone\.zarr is not there or not finished"):
        rows_of(tile, [near], cut, over_all, tmp_path)


@pytest.mark.parametrize("rows", [1, 5])
def test_strips_do_not_change_a_map_of_neighbourhoods(cut, blurred, over_all, tmp_path, monkeypatch, rows):
    whole = map_of(WHOLE, [], cut, over_all, blurred, tmp_path)
    monkeypatch.setattr(tasks, "CLASSIFY_ROWS", rows)
    assert np.array_equal(map_of(WHOLE, [], cut, over_all, blurred, tmp_path), whole)


# Maps made by hand

BEFORE = np.array([[1, 1, 2, 2, 0, 1, 2, 3, 255, 255]], "uint8")
SMALL = Tile(48, 8, -16, (-32700, 16510, 1, 10))


def hand_map(folder: Path, year: int, classes: np.ndarray) -> Path:
    store = folder / "maps" / str(year) / f"{SMALL.id}.zarr"
    layers = {"class": classes, "region": (classes != 255).astype("uint16"), "probability": classes.astype("uint16")}
    dataset = as_dataset({}, SMALL.geobox, year, {}).drop_vars("band")
    write_store(store, dataset.assign({name: (("y", "x"), values) for name, values in layers.items()}), {})
    return store


def test_a_map_is_exported_in_the_codes_of_global_mangrove_watch(tmp_path):
    store = hand_map(tmp_path, 2015, BEFORE)
    path = export_task(store, SMALL, {"year": "2015"})
    assert path == gmw_path(store)
    with rasterio.open(path) as file:
        assert file.read(1).tolist() == [[0, 0, 1, 1, 255, 0, 1, 0, 255, 255]]
        assert file.nodata == 255


def test_parts_that_are_not_listed_are_removed(tmp_path):
    remove_unlisted(tmp_path / "nowhere", set())
    for name in ("kept.parquet", "old.parquet", "old.json"):
        (tmp_path / name).touch()
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    remove_unlisted(tmp_path, {"kept.parquet"})
    assert [path.name for path in tmp_path.iterdir()] == ["kept.parquet"]
