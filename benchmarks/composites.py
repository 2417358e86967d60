"""Composites of a square: the engine, its peers and the floor; geomedians by two kernels."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import geomad
import numpy as np
import xarray as xr

from benchmarks import peers
from benchmarks.archive import Setup
from benchmarks.floor import Floor
from benchmarks.harness import Comparison, ratio, seconds, time_in_turn
from benchmarks.peers import THREADS
from engine.cube import read_looks, read_strips
from engine.kernels.composite import median
from engine.kernels.geomedian import TOLERANCE_DN, geomedian
from engine.landsat import BANDS
from engine.plan import TileYear
from engine.ranges import Access
from engine.store import write_store

OURS: Final = "engine, float32"
OURS_UINT16: Final = "engine, uint16"
ODC: Final = "odc-stac + xarray"
STACKSTAC: Final = "stackstac, float64"
FLOOR: Final = "floor"
WARM_PX: Final = 64
SAMPLED: Final = 500
"""Pixels held against the converged answer."""

LEAST_LOOKS: Final = 5
"""Of a pixel held against it: of few looks one is often the answer, to which no iteration gets in sensible time."""

GEOMAD_STEPS: Final = (0.1, 0.05, 0.02, 0.01, 5e-3, 2e-3, 1e-3, 5e-4, 2e-4, 1e-4)
"""DN; from the coarsest."""


def compare_composites(setup: Setup) -> Comparison:
    """Time the annual median of a square, from local COGs to zarr."""
    square, access = setup.archive.square, setup.archive.access
    # On a corner first, for what compiles, imports and opens once.
    for name, side in _sides(setup.archive.window(0, 0, WARM_PX), access)[0].items():
        side(setup.folder / f"warm {name}")
    sides, floor, masked = _sides(square, access)
    timings, stores = time_in_turn(
        {name: partial(_into, side, setup.folder / name) for name, side in sides.items()}, setup.runs, warm=False
    )
    values = {name: peers.read_zarr(store) for name, store in stores.items()}
    expected = values[OURS]
    rounded = np.floor(np.nan_to_num(expected, nan=-0.5) + 0.5).astype("uint16")
    ours, odc = timings[OURS], timings[ODC]
    return Comparison(
        what=f"median of {square.looks} looks of {square.tile.shape} px, 6 bands, {masked:.0%} masked (simulated)",
        ratios={
            "composite_f32_vs_odc": ratio(odc.wall, ours.wall),
            "composite_f32_vs_odc_cpu": ratio(odc.cpu, ours.cpu),
            "composite_u16_vs_floor": ratio(timings[OURS_UINT16].wall, timings[FLOOR].wall),
            "composite_u16_vs_floor_cpu": ratio(timings[OURS_UINT16].cpu, timings[FLOOR].cpu),
            "composite_vs_stackstac": ratio(timings[STACKSTAC].wall, ours.wall),
        },
        raw={"seconds": seconds(timings), "floor": {"cog_tiles": floor.tiles, "bytes": floor.bytes}},
        wrong=[
            name
            for name, found in values.items()
            if not np.array_equal(found, rounded if found.dtype == np.uint16 else expected, equal_nan=True)
        ],
    )


def _sides(part: TileYear, access: Access) -> tuple[dict[str, Callable[[Path], Any]], Floor, float]:
    """Return what writes the composite of a tile-year into a store, by name; the floor; the masked share."""
    bands, clear, _, _ = read_looks(part.scenes, part.tile.geobox, access)
    floor = Floor(part, clear, median(bands, clear, np.uint16))
    sides: dict[str, Callable[[Path], Any]] = {
        OURS: partial(_ours, part, access, np.float32),
        ODC: partial(peers.odc_median, part),
        STACKSTAC: partial(peers.stackstac_median, part),
        "odc-stac + our kernel": partial(peers.odc_and_our_median, part),
        "rasterio + numpy": partial(peers.rasterio_and_numpy, part),
        "rasterio + our kernel": partial(peers.rasterio_and_our_median, part),
        OURS_UINT16: partial(_ours, part, access, np.uint16),
        FLOOR: floor,
    }
    return sides, floor, 1 - float(clear.mean())


def _ours(part: TileYear, access: Access, dtype: type, store: Path) -> None:
    [layer] = [
        median(bands, clear, dtype, threads=THREADS)
        for _, bands, clear, _ in read_strips(part.scenes, part.tile.geobox, access)
    ]
    write_store(store, xr.Dataset({"median": (("band", "y", "x"), layer)}), {})


def _into(side: Callable[[Path], Any], store: Path) -> Path:
    side(store)
    return store


def compare_geomedians(setup: Setup) -> Comparison:
    """Time the geometric median of a window in memory by one thread, both within half a DN of the converged answer.

    geomad stops at the coarsest step that gives that for every pixel of a sample.
    """
    part = setup.archive.window(0, 0, setup.scale.part_px)
    bands, clear, _, _ = read_looks(part.scenes, part.tile.geobox, setup.archive.access)
    cube = np.ascontiguousarray(bands.transpose(2, 3, 1, 0))  # geomad's order; 0 is missing
    seen = np.flatnonzero(clear.sum(axis=0) >= min(LEAST_LOOKS, len(clear)))
    drawn = np.random.default_rng(0).permutation(seen)[:SAMPLED]
    answer = converged_geomedian(
        bands.reshape(len(bands), len(BANDS), -1)[..., drawn], clear.reshape(len(clear), -1)[:, drawn]
    )

    def distance(found: np.ndarray) -> float:
        return float(np.sqrt(((found.reshape(len(BANDS), -1)[:, drawn] - answer) ** 2).sum(axis=0)).max())

    def theirs(step: float) -> np.ndarray:
        found = geomad.nangeomedian_pcm(cube, maxiters=1000, eps=step, num_threads=1, nodata=0, scale=1.0, offset=0.0)
        return found.transpose(2, 0, 1)

    step = next((step for step in GEOMAD_STEPS if distance(theirs(step)) <= TOLERANCE_DN), GEOMAD_STEPS[-1])
    sides = {"engine": lambda: geomedian(bands, clear, np.float32), "geomad": lambda: theirs(step)}
    timings, found = time_in_turn(sides, setup.runs)
    distances = {name: round(distance(values), 3) for name, values in found.items()}
    return Comparison(
        what=f"geomedian of {part.looks} looks of {part.tile.shape} px in memory, one thread (simulated)",
        ratios={"geomedian_vs_geomad": ratio(timings["geomad"].wall, timings["engine"].wall)},
        raw={"seconds": seconds(timings), "geomad_step_dn": step, "largest_distance_dn": distances},
        wrong=["engine"] if distances["engine"] > TOLERANCE_DN else [],
    )


def converged_geomedian(bands: np.ndarray, clear: np.ndarray) -> np.ndarray:
    """Iterate Weiszfeld's step, as Vardi and Zhang (2000) repaired it, in float64 until it hardly moves.

    Parameters
    ----------
    bands : ndarray of uint16, shape (look, band, pixel)
    clear : ndarray of bool, shape (look, pixel)
        Of two looks every point between them is as near.

    Returns
    -------
    ndarray of float64, shape (band, pixel)
    """
    points = bands.astype("float64")
    here = (points * clear[:, None]).sum(axis=0) / clear.sum(axis=0)
    for _ in range(5000):
        apart = np.sqrt(((points - here) ** 2).sum(axis=1))
        at = clear & (apart < 1e-9)
        pull = np.where(clear & ~at, 1 / np.where(at | ~clear, 1, apart), 0)
        there = (points * pull[:, None]).sum(axis=0) / pull.sum(axis=0)
        force = np.sqrt((((there - here) * pull.sum(axis=0)) ** 2).sum(axis=0))
        held = np.minimum(1, at.sum(axis=0) / np.maximum(force, 1e-30))
        there = (1 - held) * there + held * here
        moved, here = np.abs(there - here).max(), there
        if moved < 1e-5:
            break
    return here
