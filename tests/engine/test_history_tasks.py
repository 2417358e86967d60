"""Histories of tiles, from stores to stores: seams and strips do not show, areas and errors are counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from shapely.geometry import box

from engine import history_tasks
from engine.area import Area, Region, wrap
from engine.grid import Tile, lonlat_of, pixel_hectares
from engine.history import RegionRates
from engine.history_tasks import (
    TileMaps,
    Tracing,
    change_path,
    change_task,
    history_is_current,
    history_paths,
    history_task,
    odds_task,
)
from engine.kernels.draw import pixel_hash
from engine.kernels.score import calibration_error
from engine.kernels.series import Rates
from engine.kernels.tide import CELL_PX
from engine.legend import (
    GAIN,
    LOSS,
    MANGROVE,
    OTHER,
    OUTSIDE_AREA,
    PROBABILITY_MISSING,
    PROVISIONAL_GAIN,
    PROVISIONAL_LOSS,
    STABLE_MANGROVE,
)
from engine.params import ChangeParams
from engine.raster import read_raster
from engine.store import grid_coords, is_current, open_store, write_store
from tests.engine.histories import write_history

CORNER = (-16 * 2048 - 20, 9 * 2048 - 25)
"""Four tiles meet 20 rows down and 25 columns right of it."""

SHAPE = (48, 44)
YEARS = tuple(range(2011, 2019))
WHOLE = Tile(48, 8, -17, (CORNER[0] - CELL_PX, CORNER[1] - CELL_PX, *SHAPE))
"""As many pixels from where cells of the tide meet as the four tiles together."""

PARTS = {
    Tile(48, 8 + col, -17 + row, (CORNER[0] + top, CORNER[1] + left, height, width)): np.s_[
        top : top + height, left : left + width
    ]
    for row, (top, height) in enumerate(((0, 20), (20, 28)))
    for col, (left, width) in enumerate(((0, 25), (25, 19)))
}


def layers() -> dict[str, np.ndarray]:
    """Return maps and looks of eight years in which patches of all sizes come and go."""
    rng = np.random.default_rng(5)
    shape = (len(YEARS), *SHAPE)
    when = rng.integers(1, 11, (12, 11)).repeat(4, axis=0).repeat(4, axis=1)
    mangrove = (rng.random((12, 11)) > 0.5).repeat(4, axis=0).repeat(4, axis=1)
    mangrove = mangrove ^ (np.arange(len(YEARS))[:, np.newaxis, np.newaxis] >= when)
    odds = np.where(mangrove, 2, -2) + rng.normal(0, 1.5, shape)
    looks = rng.integers(0, 12, shape)
    probability = np.where(looks > 0, 10_000 / (1 + np.exp(-odds)), PROBABILITY_MISSING)
    return {
        "probability": probability.astype("uint16"),
        "class": np.where(probability >= 5000, MANGROVE, OTHER).astype("uint8"),
        "clear_count": looks.astype("uint16"),
        "water_frequency": water_of(rng, shape),
    }


def water_of(rng: np.random.Generator, shape: tuple[int, int, int]) -> np.ndarray:
    """Return water frequencies of a flat seen at another height every year and in each quarter, and of some ponds."""
    height = rng.choice([800, 4000], (len(YEARS), 2, 2))
    frequency = np.empty(shape, int)
    for part, ys in enumerate((slice(20), slice(20, None))):
        frequency[:, ys, :25] = height[:, part, :1, np.newaxis]
        frequency[:, ys, 25:] = height[:, part, 1:, np.newaxis]
    frequency += rng.integers(0, 900, shape)
    frequency[:, [18, 21, 25, 35, 6], [5, 14, 27, 22, 40]] = 9900
    frequency[:, rng.random(shape[1:]) < 0.01] = 9900
    return frequency.astype("uint16")


def write_maps(folder: Path, tile: Tile, some: dict[str, np.ndarray]) -> TileMaps:
    places: dict[str, list[Path]] = {"maps": [], "cubes": []}
    region = np.ones(tile.shape, "uint16")
    for at, year in enumerate(YEARS):
        parts = {
            "maps": {"probability": some["probability"][at], "class": some["class"][at], "region": region},
            "cubes": {name: some[name][at] for name in ("clear_count", "water_frequency")},
        }
        for kind, of_kind in parts.items():
            store = folder / kind / str(year) / f"{tile.id}.zarr"
            data = {name: (("y", "x"), np.ascontiguousarray(values)) for name, values in of_kind.items()}
            write_store(store, xr.Dataset(data, coords=grid_coords(tile.geobox)), {})
            places[kind].append(store)
    return TileMaps(tile=tile, maps=tuple(places["maps"]), cubes=tuple(places["cubes"]))


@pytest.fixture(scope="module")
def area() -> Area:
    return Area((Region("all", wrap(box(100, -5, 110, 5))),))


@pytest.fixture(scope="module")
def maps(tmp_path_factory) -> dict[Tile, TileMaps]:
    folder, every = tmp_path_factory.mktemp("maps"), layers()
    found = {WHOLE: write_maps(folder / "whole", WHOLE, every)}
    for tile, window in PARTS.items():
        found[tile] = write_maps(folder, tile, {name: layer[:, *window] for name, layer in every.items()})
    return found


def tracing(area: Area, model: str = "segments", **more) -> Tracing:
    params = ChangeParams(model=model, min_looks=3)
    rates = {1: RegionRates(Rates(0.02, 0.02), 0.5)}
    fixed = {"years": YEARS, "threshold": 0.5, "zones": None, "samples": {}}
    return Tracing(**{**fixed, "params": params, "area": area, "rates": rates, **more})


def history(maps, tile: Tile, of: Tracing, folder: Path) -> tuple[dict[str, np.ndarray], dict]:
    store = folder / f"{tile.id}.zarr"
    around = [maps[other] for other in PARTS if other != tile] if tile in PARTS else []
    marker = history_task(maps[tile], around, of, store, "f", {"run": "few"})
    with open_store(store) as data:
        return {str(name): layer.values for name, layer in data.data_vars.items()}, marker


@pytest.mark.slow
@pytest.mark.parametrize("model", ["segments", "hmm"])
def test_seams_between_tiles_do_not_show(maps, area, tmp_path, model):
    whole, _ = history(maps, WHOLE, tracing(area, model), tmp_path)
    assert ((whole["large"] & 1) > 0).sum() > 100
    assert whole["tide_suspect"][17:23].sum() > 5
    for tile, window in PARTS.items():
        part, _ = history(maps, tile, tracing(area, model), tmp_path)
        for name in whole:
            np.testing.assert_array_equal(part[name], whole[name][..., *window], err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("values", [1, 8 * 44 * 7])
def test_strips_do_not_change_a_history(maps, area, tmp_path, monkeypatch, values):
    whole, _ = history(maps, WHOLE, tracing(area), tmp_path)
    monkeypatch.setattr(history_tasks, "TRACED_VALUES", values)
    strips, _ = history(maps, WHOLE, tracing(area), tmp_path)
    for name, layer in whole.items():
        np.testing.assert_array_equal(strips[name], layer, err_msg=name)


def test_a_history_is_there_as_rasters_and_counted(maps, area, tmp_path):
    _, lat = lonlat_of(48, np.array([WHOLE.window[0] - 5, WHOLE.window[0] + 9]), np.array([WHOLE.window[1]] * 2))
    zones = Area((Region("park", wrap(box(100, lat.min(), 110, lat.max()))),))
    found, marker = history(maps, WHOLE, tracing(area, zones=zones), tmp_path)
    store = tmp_path / f"{WHOLE.id}.zarr"
    assert history_is_current(store, "f")
    for name, path in history_paths(store).items():
        values, geobox = read_raster(path)
        np.testing.assert_array_equal(values if found[name].ndim == 3 else values[0], found[name])
        assert geobox == WHOLE.geobox
    loss = {row["by"]: row for row in marker["areas"] if row["name"] == "loss"}
    assert loss["region"]["pixels"] == (found["kind"] == LOSS).sum() > 0
    hectares = (np.broadcast_to(pixel_hectares(WHOLE), SHAPE) * (found["kind"] == LOSS)).sum()
    assert loss["region"]["hectares"] == pytest.approx(hectares)
    assert loss["zone"]["pixels"] == (found["kind"][:9] == LOSS).sum()
    sure = np.where(found["class"] == MANGROVE, found["probability"], 10_000 - found["probability"].astype(int)) / 100
    decided = (found["class"] == MANGROVE) | (found["class"] == OTHER)
    assert np.abs(100 - sure - found["uncertainty"])[decided].max() <= 0.5
    assert (found["uncertainty"][~decided] == 255).all()
    history_paths(store)["kind"].unlink()
    assert not history_is_current(store, "f")


def test_labels_say_how_well_probabilities_are_calibrated(maps, area, tmp_path, monkeypatch):
    rng = np.random.default_rng(3)
    y, x = rng.integers(0, SHAPE[0], 500), rng.integers(0, SHAPE[1], 500)
    rows = pd.DataFrame(
        {
            "grid_row": WHOLE.window[0] + y,
            "grid_col": WHOLE.window[1] + x,
            "region": "all",
            "label": rng.choice([OTHER, MANGROVE], 500).astype("uint8"),
            "weight": rng.integers(1, 9, 500).astype("float64"),
            "thinned": rng.random(500) < 0.2,
        }
    )
    monkeypatch.setattr(history_tasks, "read_part", lambda path, columns: rows[columns])
    samples = {WHOLE.id: {2013: tmp_path / "any.parquet"}}
    found, marker = history(maps, WHOLE, tracing(area, samples=samples), tmp_path)
    code = found["probability"][YEARS.index(2013), y, x]
    used = (code != PROBABILITY_MISSING) & ~rows["thinned"].to_numpy()
    land, gap = np.array(marker["calibration"]["all"])
    expected = calibration_error(
        code[used] / 10_000, rows["label"].to_numpy()[used] == MANGROVE, rows["weight"].to_numpy()[used]
    )
    assert np.abs(gap).sum() / land.sum() == pytest.approx(expected)


@pytest.mark.slow
def test_pixels_of_a_region_are_the_first_by_seed_with_their_odds(maps, area, monkeypatch):
    monkeypatch.setattr(history_tasks, "REGION_PIXELS", 30)
    whole = odds_task(maps[WHOLE], (), tracing(area), 7)
    keys, odds, weight = whole[1]
    rows, cols = (np.arange(size) + start for size, start in zip(SHAPE, WHOLE.window, strict=False))
    every = pixel_hash(7, 48, rows[:, np.newaxis], cols)  # all were observed in some year
    assert sorted(keys.tolist()) == np.sort(every, axis=None)[:30].tolist()
    monkeypatch.setattr(history_tasks, "TRACED_VALUES", 1)
    again = odds_task(maps[WHOLE], (), tracing(area), 7)[1]
    np.testing.assert_array_equal(again[0], keys)
    np.testing.assert_array_equal(again[1], odds)
    np.testing.assert_array_equal(again[2], weight)
    assert odds.shape == weight.shape == (len(YEARS), 30)


def test_years_are_compared_with_what_is_large_and_what_is_not(area, tmp_path):
    tile = Tile(48, 8, -16, (-32700, 16510, 1, 6))
    classes = np.array([[[2, 2, 1, 1, 0, 255]], [[1, 1, 2, 2, 1, 255]]], "uint8")
    flat = {
        "class": classes,
        "large": np.array([[1, 0, 2, 0, 0, 0]], "uint8"),
        "loss_year": np.array([[2020, 2020, 0, 0, 0, 0]], "uint16"),
        "gain_year": np.array([[0, 0, 2020, 2020, 0, 0]], "uint16"),
        "region": np.array([[1, 1, 1, 1, 1, 0]], "uint16"),
    }
    past = write_history(tmp_path / "history.zarr", flat, tile, [2015, 2020])
    store = tmp_path / "2015-2020" / f"{tile.id}.zarr"
    marker = change_task(past, tile, (2015, 2020), area, None, ChangeParams(), store, "f", {})
    expected = [PROVISIONAL_LOSS] * 2 + [PROVISIONAL_GAIN] * 2 + [0, OUTSIDE_AREA]
    with open_store(store) as data:
        assert data["transition"].values.tolist() == [expected]
    (codes,), geobox = read_raster(change_path(store))
    assert codes.tolist() == [expected]
    assert geobox == tile.geobox
    counted = {(row["least_ha"], row["code"]): row["pixels"] for row in marker["areas"]}
    assert [counted[0, code] for code in (PROVISIONAL_LOSS, PROVISIONAL_GAIN, STABLE_MANGROVE)] == [2, 2, 0]
    assert [counted[0.5, code] for code in (PROVISIONAL_LOSS, PROVISIONAL_GAIN, STABLE_MANGROVE)] == [1, 1, 1]
    assert is_current(store, "f")
    flat["class"] = np.concatenate([classes, classes[-1:]])
    older = write_history(tmp_path / "older.zarr", flat, tile, [2015, 2020, 2025])
    settled = change_task(older, tile, (2015, 2020), area, None, ChangeParams(), store, "g", {})
    counted = {(row["least_ha"], row["code"]): row["pixels"] for row in settled["areas"]}
    assert [counted[0, code] for code in (LOSS, GAIN, PROVISIONAL_LOSS, PROVISIONAL_GAIN)] == [2, 2, 0, 0]
