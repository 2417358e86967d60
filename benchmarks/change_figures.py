"""What is measured of simulated worlds of change: the histories of their tiles against what truly happened.

A change told is right where the pixel truly changed so within a year of it, both of patches of half a hectare and more;
of figures called unsieved both of any size. Everything is counted wall to wall, of pixels that the history knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import pandas as pd

from benchmarks.change_runs import GROUPS, World
from engine.grid import EDGE_M, PIXEL_M, TILE_PX, Tile
from engine.kernels.accuracy import interval_coverage
from engine.kernels.design import LARGE, STRATA, allocate, stratify
from engine.kernels.patches import is_large
from engine.kernels.score import calibration_error
from engine.legend import GAINED, LOST, MANGROVE, NOT_OBSERVED, PROBABILITY_MISSING, PROBABILITY_SCALE
from engine.params import AssessParams
from engine.places import Place
from engine.raster import read_raster
from engine.simulate.world import Site, site_of
from engine.store import open_store

LEAST_PX: Final = 6
"""Half a hectare."""

WITHIN_YEARS: Final = 1

DRAWS: Final = 1000
"""Samples of each world whose intervals are asked for the truth."""

EVENTS: Final = {
    "clearfell": ("loss", "clear-fell to pond"),
    "erosion": ("loss", "erosion"),
    "dieback": ("loss", "storm dieback"),
}
"""Recalls of loss by what happened, as the archive calls it."""

MEANS: Final = ("annual_f1", "extent_error_pct", "extent_bias_pct", "ece_smoothed", "ece_years", "coverage_extent")
"""Figures that are a world's own; all others are ratios of counts of all worlds."""


def count_world(world: World) -> dict[str, float]:
    """Count what a world's history has right and wrong.

    Returns
    -------
    dict
        The figures of ``MEANS``, and counts of pixels to be added up over worlds.
    """
    site, tile, years = _place(world)
    history = _square(world.run / "change" / "history" / f"{tile.id}.zarr", site)
    truths = [read_raster(world.archive.truth(site.name, int(year)))[0][1] for year in years]
    known = history["class"][0] != NOT_OBSERVED
    truth = (np.stack(truths) > 0) & known
    mapped = history["class"] == MANGROVE
    maps = [_square(world.run / "maps" / str(year) / f"{tile.id}.zarr", site) for year in years]
    found: dict[str, float] = {
        **_years(mapped, truth),
        "ece_smoothed": _calibration(history["probability"], truth),
        "ece_years": _calibration(np.stack([one["probability"] for one in maps]), truth),
        "stable_years": int(truth.all(axis=0).sum()) * (len(years) - 1),
    }
    stable = truth.all(axis=0) | ~truth.any(axis=0)
    happened = _changes(truth, years)
    naive = _changes(_carried(np.stack([one["class"] for one in maps])) & known, years)
    kinds = _event_kinds(world, site, int(years[-1]))
    for change, bit in (("loss", LOST), ("gain", GAINED)):
        told = np.where(history["large"] & bit, history[f"{change}_year"], 0).astype(np.int64)
        found |= _match(change, told, happened[change], stable)
        found |= _match(f"naive_{change}", naive[change], happened[change], stable)
        every = history[f"{change}_year"].astype(np.int64)
        found |= _match(f"unsieved_{change}", every, happened[change], stable, least_px=1)
        for name, (of, event) in EVENTS.items():
            if of == change:
                found |= _recall(name, told, happened[change], kinds == event)
    found |= _recall("gain", told, happened["gain"], np.ones_like(stable))
    return found | _coverage(history["kind"], truth, happened["loss"] > 0)


def count_quiet(world: World) -> dict[str, float]:
    """Return what is told of a world where nothing happens.

    Returns
    -------
    dict
        ``quiet_false_loss_pct``, ``quiet_false_gain_pct``: as of ``figures_of``; ``quiet_jump_pct``: mapped area of the
        years from 2013 on, when Landsat 8 came, against those before; ``quiet_jump_years_pct``: the same of the maps of
        single years; ``quiet_looks_least``, ``quiet_looks_most``: median clear looks of the poorest and the best year.
    """
    counts = count_world(world)
    site, tile, years = _place(world)
    new = years >= 2013

    def jump(mapped: np.ndarray) -> float:
        area = mapped.sum(axis=(1, 2))
        return 100 * float(area[new].mean() / area[~new].mean() - 1)

    history = _square(world.run / "change" / "history" / f"{tile.id}.zarr", site)
    maps = [_square(world.run / "maps" / str(year) / f"{tile.id}.zarr", site)["class"] for year in years]
    cubes = (_square(world.run / "cube" / tile.id / f"{year}.zarr", site)["clear_count"] for year in years)
    looks = [float(np.median(count)) for count in cubes]
    return {
        "quiet_false_loss_pct": 100 * _ratio(counts["loss_false"], counts["stable_years"]),
        "quiet_false_gain_pct": 100 * _ratio(counts["gain_false"], counts["stable_years"]),
        "quiet_jump_pct": jump(history["class"] == MANGROVE),
        "quiet_jump_years_pct": jump(_carried(np.stack(maps))),
        "quiet_looks_least": min(looks),
        "quiet_looks_most": max(looks),
    }


def figures_of(counts: pd.DataFrame) -> dict[str, float]:
    """Return the figures of some worlds: means of ``MEANS``, and ratios of all their pixels.

    Parameters
    ----------
    counts : DataFrame
        A row a world, of ``count_world``.
    """
    total = counts.drop(columns=list(MEANS)).sum()
    found = {name: float(counts[name].mean()) for name in MEANS}
    for change in (f"{which}{change}" for which in ("", "naive_", "unsieved_") for change in ("loss", "gain")):
        precision = _ratio(total[f"{change}_right"], total[f"{change}_told"])
        recall = _ratio(total[f"{change}_right"], total[f"{change}_true"])
        found[f"{change}_precision"], found[f"{change}_recall"] = precision, recall
        found[f"{change}_f1"] = _ratio(2 * precision * recall, precision + recall)
    for name in (*EVENTS, "gain"):
        found[f"recall_{name}"] = _ratio(total[f"{name}_hit"], total[f"{name}_events"])
    dated, met = (total[f"loss_{name}"] + total[f"gain_{name}"] for name in ("right", "met"))
    found["within_one_year"] = _ratio(dated, met)
    for change in ("loss", "gain"):
        found[f"false_{change}_pct"] = 100 * _ratio(total[f"{change}_false"], total["stable_years"])
        every = total[f"unsieved_{change}_false"]
        found[f"unsieved_false_{change}_pct"] = 100 * _ratio(every, total["stable_years"])
    found["coverage_loss"] = _ratio((counts["coverage_loss"] * counts["assessed"]).sum(), counts["assessed"].sum())
    found["loss_halfwidth_pct"] = float(counts["loss_halfwidth_pct"].dropna().median()) if total["assessed"] else np.nan
    return found


def describe(counts: pd.DataFrame, groups: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return figures of all worlds, their spread over worlds, and the figures of each group, as one flat object.

    Parameters
    ----------
    counts : DataFrame
        A row a world.
    groups : sequence of sequence of str
        Of each world, which groups it counts in.

    Returns
    -------
    dict
        ``name``; ``name_sd``, ``name_least``, ``name_most`` over worlds; ``name_high`` and so on, of the groups there
        are.
    """
    found = figures_of(counts)
    alone = pd.DataFrame([figures_of(counts.iloc[[row]]) for row in range(len(counts))])
    for name in list(found):
        found[f"{name}_sd"] = float(alone[name].std()) if len(alone) > 1 else 0.0
        found[f"{name}_least"], found[f"{name}_most"] = float(alone[name].min()), float(alone[name].max())
    for group in GROUPS:
        members = [row for row, names in enumerate(groups) if group in names]
        if members:
            found |= {f"{name}_{group}": value for name, value in figures_of(counts.iloc[members]).items()}
            found[f"worlds_{group}"] = len(members)
    return found


def _place(world: World) -> tuple[Site, Tile, np.ndarray]:
    """Return a world's square, the tile it lies in, and its years."""
    site = site_of(world.region, world.archive.params.size_px)
    window = (site.row, site.col, site.size_px, site.size_px)
    tile = Tile(site.zone, site.col // TILE_PX, site.row // TILE_PX, window)
    return site, tile, np.array(list(world.kind.years))


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")


def _square(store: Place, site: Site) -> dict[str, np.ndarray]:
    """Return the layers of a store within a region's square, in memory."""
    with open_store(store) as data:
        left = round((float(data["x"][0]) - EDGE_M) / PIXEL_M - 0.5)
        top = round((EDGE_M - float(data["y"][0])) / PIXEL_M - 0.5)
        rows, cols = slice(site.row - top, site.row - top + site.size_px), slice(site.col - left, None)
        some = data.isel(y=rows, x=slice(cols.start, cols.start + site.size_px))
        return {str(name): layer.values for name, layer in some.data_vars.items()}


def _years(mapped: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Return F1 and error of extent, means over years, of arrays of bool (year, y, x)."""
    both, told, true = (part.sum(axis=(1, 2)) for part in (mapped & truth, mapped, truth))
    error = told / true - 1
    return {
        "annual_f1": float(np.mean(2 * both / (told + true))),
        "extent_error_pct": 100 * float(np.abs(error).mean()),
        "extent_bias_pct": 100 * float(error.mean()),
    }


def _calibration(codes: np.ndarray, truth: np.ndarray) -> float:
    """Return the expected calibration error of probabilities x 10 000, over all years."""
    known = codes != PROBABILITY_MISSING
    return calibration_error(codes[known] / PROBABILITY_SCALE, truth[known], np.ones(int(known.sum())))


def _changes(mangrove: np.ndarray, years: np.ndarray) -> dict[str, np.ndarray]:
    """Return the year of the last loss and of the last gain, int64 (y, x), 0 none."""
    found = {name: np.zeros(mangrove.shape[1:], np.int64) for name in ("loss", "gain")}
    for before, after, year in zip(mangrove[:-1], mangrove[1:], years[1:], strict=True):
        found["loss"][before & ~after] = year
        found["gain"][~before & after] = year
    return found


def _carried(classes: np.ndarray) -> np.ndarray:
    """Return which years' maps show mangrove, bool (year, y, x), years not observed as the one before."""
    found = classes == MANGROVE
    for year in range(1, len(found)):
        found[year] = np.where(classes[year] == NOT_OBSERVED, found[year - 1], found[year])
    return found


def _match(
    name: str, told: np.ndarray, true: np.ndarray, stable: np.ndarray, *, least_px: int = LEAST_PX
) -> dict[str, float]:
    """Count a change told (year, 0 none) against the true one, both where their patches are large."""
    told = np.where(is_large(told > 0, least_px), told, 0)
    true = np.where(is_large(true > 0, least_px), true, 0)
    met = (told > 0) & (true > 0)
    right = met & (np.abs(told - true) <= WITHIN_YEARS)
    return {
        f"{name}_told": int((told > 0).sum()),
        f"{name}_true": int((true > 0).sum()),
        f"{name}_right": int(right.sum()),
        f"{name}_met": int(met.sum()),
        f"{name}_false": int(((told > 0) & stable).sum()),
    }


def _recall(name: str, told: np.ndarray, true: np.ndarray, of_event: np.ndarray) -> dict[str, float]:
    large = is_large(true > 0, LEAST_PX) & of_event
    hit = large & (told > 0) & (np.abs(told - true) <= WITHIN_YEARS)
    return {f"{name}_events": int(large.sum()), f"{name}_hit": int(hit.sum())}


def _event_kinds(world: World, site: Site, year: int) -> np.ndarray:
    """Return the type of the last event of each pixel, str (y, x)."""
    path = world.archive.truth(site.name, year)
    events = read_raster(path.with_name(f"{path.stem}_change.tif"))[0][0]
    table = pd.read_csv(world.archive.events.with_suffix(".csv"))
    table = table[table["region"] == site.name]
    names = np.full(int(max(events.max(), table["event"].max() if len(table) else 0)) + 1, "", object)
    names[table["event"].to_numpy(int)] = table["type"].to_numpy()
    return names[events]


def _coverage(kind: np.ndarray, truth: np.ndarray, lost: np.ndarray) -> dict[str, float]:
    """Return how often intervals of a sample as ``mangroves assess`` draws it hold the true extent and loss."""
    params = AssessParams()
    strata = stratify(kind, buffer_px=params.buffer_px)
    pixels = np.array([(strata == code).sum() for code in STRATA])
    least = np.array([params.min_per_large if code in LARGE else params.min_per_stratum for code in STRATA])
    points = allocate(pixels, least, halfwidth=params.halfwidth, most=params.most).points

    def positive(flags: np.ndarray) -> np.ndarray:
        return np.array([(flags & (strata == code)).sum() for code in STRATA])

    extent, _ = interval_coverage(pixels, positive(truth[-1]), points, draws=DRAWS)
    loss = positive(lost)
    covered, halfwidth = interval_coverage(pixels, loss, points, draws=DRAWS) if loss.any() else (0.0, float("nan"))
    return {
        "coverage_extent": extent,
        "coverage_loss": covered,
        "loss_halfwidth_pct": 100 * halfwidth,
        "assessed": int(loss.any()),
    }
