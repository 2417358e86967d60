"""Annual cubes: a tile-year's scenes read, masked, fused and reduced by one task, written as one store."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
import xarray as xr
from odc.geo.geobox import GeoBox

from engine.errors import EngineError, SceneError, TrustError
from engine.grid import Tile
from engine.kernels.composite import annual_layers, empty_layers
from engine.kernels.features import WATER_MISSING
from engine.kernels.indices import INDEX_MISSING, INDEX_SCALE
from engine.kernels.quality import clear_mask, drop_fill
from engine.landsat import BANDS, OFFSET, QA_PIXEL, QA_RADSAT, SCALE
from engine.params import CubeParams
from engine.plan import TileYear
from engine.reader import Access, read_asset
from engine.scenes import Scene
from engine.store import grid_coords, write_store

READ_THREADS: Final = 4
"""Assets of one scene read at the same time: decoding releases the GIL, and remote reads wait."""

_INDEX_ATTRS: Final = {"scale_factor": 1 / INDEX_SCALE, "_FillValue": INDEX_MISSING, "units": "1"}
_ATTRS: Final[dict[str, dict[str, Any]]] = {
    "composite": {
        "long_name": "median surface reflectance of clear looks",
        "scale_factor": SCALE,
        "add_offset": OFFSET,
        "_FillValue": 0,
        "units": "1",
    },
    "clear_count": {"long_name": "clear looks in the year", "units": "1"},
    "ndvi_p10": {"long_name": "10th percentile of NDVI", **_INDEX_ATTRS},
    "ndvi_p90": {"long_name": "90th percentile of NDVI", **_INDEX_ATTRS},
    "mndwi_p10": {"long_name": "10th percentile of MNDWI", **_INDEX_ATTRS},
    "mndwi_p90": {"long_name": "90th percentile of MNDWI", **_INDEX_ATTRS},
    "water_frequency": {
        "long_name": "share of clear looks with MNDWI > 0",
        "scale_factor": 1 / INDEX_SCALE,
        "_FillValue": WATER_MISSING,
        "units": "1",
    },
}


def read_looks(
    scenes: Sequence[Scene],
    geobox: GeoBox,
    access: Access,
    *,
    reject_cloud_confidence: bool = False,
    skip_bad: bool = False,
) -> tuple[np.ndarray, np.ndarray, list[str], list[dict[str, Any]]]:
    """Read a block of scenes and fuse those of one pass into one look, the first clear scene winning.

    Parameters
    ----------
    scenes : sequence of Scene
        In order of time and id.
    geobox : GeoBox
        The block.
    access : Access
    reject_cloud_confidence : bool
        See ``kernels.quality.clear_mask``.
    skip_bad : bool
        Go on without a scene that cannot be read.

    Returns
    -------
    bands : ndarray of uint16, shape (look, 6, y, x)
        0 where not clear.
    clear : ndarray of bool, shape (look, y, x)
    looks : list of str
        Observation keys, in order.
    lost : list of dict
        ``scene``, ``asset`` and ``cause`` of every scene gone without.

    Raises
    ------
    SceneError, TrustError
        Naming scene and asset, unless ``skip_bad``.
    """
    looks = list(dict.fromkeys(scene.observation for scene in scenes))
    bands = np.zeros((len(looks), len(BANDS), *geobox.shape), dtype=np.uint16)
    clear = np.zeros((len(looks), *geobox.shape), dtype=bool)
    lost: list[dict[str, Any]] = []
    with ThreadPoolExecutor(READ_THREADS) as pool:
        for scene in scenes:
            look = looks.index(scene.observation)
            try:
                _add_scene(pool, scene, geobox, access, reject_cloud_confidence, bands[look], clear[look])
            except (SceneError, TrustError) as error:
                if not skip_bad:
                    raise
                lost.append(_loss(scene, error))
    return bands, clear, looks, lost


def _loss(scene: Scene, error: EngineError) -> dict[str, Any]:
    return {"scene": scene.id, "asset": error.about.get("asset", ""), "cause": error.problem}


def _add_scene(
    pool: ThreadPoolExecutor,
    scene: Scene,
    geobox: GeoBox,
    access: Access,
    reject_cloud_confidence: bool,
    bands: np.ndarray,
    clear: np.ndarray,
) -> None:
    """Write a scene's clear pixels into its look, where no earlier scene of the pass was clear."""
    qa_pixel, qa_radsat = pool.map(lambda name: read_asset(scene, name, geobox, access), (QA_PIXEL, QA_RADSAT))
    usable = clear_mask(
        qa_pixel,
        qa_radsat,
        unusable_radsat=scene.sensor.unusable_radsat,
        reject_cloud_confidence=reject_cloud_confidence,
    )
    usable &= ~clear
    if not usable.any():
        return
    values = np.stack(list(pool.map(lambda name: read_asset(scene, name, geobox, access), BANDS)))
    usable = drop_fill(usable, values)
    np.copyto(bands, values, where=usable)
    clear |= usable


def clear_pixels(
    part: TileYear, regions: np.ndarray, access: Access, *, skip_bad: bool = False
) -> tuple[dict[str, dict[int, int]], list[dict[str, Any]]]:
    """Count per observation and region the clear pixels of a tile-year, by QA alone.

    Parameters
    ----------
    part : TileYear
    regions : ndarray of uint16, shape (y, x)
        Region codes, 0 outside the area.
    access : Access
    skip_bad : bool
        Go on without a scene that cannot be read.

    Returns
    -------
    counts : dict of str to dict of int to int
        Observation -> region code -> clear pixels, where there are any.
    lost : list of dict
        As of ``read_looks``.
    """
    seen: dict[str, np.ndarray] = {}
    lost: list[dict[str, Any]] = []
    for scene in part.scenes:
        try:
            clear = clear_mask(read_asset(scene, QA_PIXEL, part.tile.geobox, access))
        except (SceneError, TrustError) as error:
            if not skip_bad:
                raise
            lost.append(_loss(scene, error))
            continue
        seen[scene.observation] = seen.get(scene.observation, False) | clear
    counts = {look: np.bincount(regions[clear & (regions > 0)]) for look, clear in seen.items()}
    return {
        look: {int(code): int(count[code]) for code in np.flatnonzero(count)} for look, count in counts.items()
    }, lost


def composite_block(
    scenes: Sequence[Scene], geobox: GeoBox, params: CubeParams, access: Access, *, skip_bad: bool = False
) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    """Read and reduce one block; see ``kernels.composite.annual_layers`` for what comes out."""
    bands, clear, _, lost = read_looks(
        scenes,
        geobox,
        access,
        reject_cloud_confidence=params.reject_cloud_confidence,
        skip_bad=skip_bad,
    )
    return annual_layers(bands, clear, min_looks_range=params.min_looks_range), lost


def build_tile_year(
    part: TileYear,
    store: Path,
    params: CubeParams,
    access: Access,
    *,
    block_px: int,
    fingerprint: str,
    skip_bad: bool = False,
    attrs: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Make and write the annual cube of a tile-year; the body of one dask task.

    Parameters
    ----------
    part : TileYear
        What to read.
    store : Path
        Where to write, ``.../<tile>/<year>.zarr``.
    params : CubeParams
    access : Access
    block_px : int
        Side of the square whose looks are held at once; changes memory, never values.
    fingerprint : str
        Of everything that decides the values; kept in the completion marker.
    skip_bad : bool
        Go on without unreadable scenes.
    attrs : dict of str to str, optional
        Attributes of the dataset: run name, notice.

    Returns
    -------
    dict
        The completion marker: fingerprint, sha256, scenes, looks, clear pixels, lost scenes, seconds.
    """
    started = time.perf_counter()
    tile = part.tile
    scenes, lost = list(part.scenes), []
    layers, missing = _composite_tile(tile, scenes, params, access, block_px, skip_bad)
    while missing:
        # Once more: what cannot be read in one block is lost in all, so that blocks never decide a value.
        lost += missing
        scenes = [scene for scene in scenes if scene.id not in {loss["scene"] for loss in missing}]
        layers, missing = _composite_tile(tile, scenes, params, access, block_px, skip_bad)
    marker = {
        "fingerprint": fingerprint,
        "tile": tile.id,
        "year": part.year,
        "scenes": [scene.id for scene in part.scenes],
        "looks": len({scene.observation for scene in scenes}),
        "observed_px": int((layers["clear_count"] > 0).sum()),
        "poorly_observed_px": int(((layers["clear_count"] > 0) & (layers["clear_count"] < params.min_looks)).sum()),
        "mean_clear_looks": round(float(layers["clear_count"].mean()), 2),
        "lost": lost,
        "seconds": round(time.perf_counter() - started, 3),
    }
    return write_store(store, as_dataset(layers, tile.geobox, part.year, attrs or {}), marker)


def _composite_tile(
    tile: Tile, scenes: Sequence[Scene], params: CubeParams, access: Access, block_px: int, skip_bad: bool
) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    """Composite a tile block by block, up to the first block that loses scenes."""
    layers = empty_layers(*tile.shape)
    for y, x in tile.blocks(block_px) if scenes else ():
        block, lost = composite_block(scenes, tile.geobox[y, x], params, access, skip_bad=skip_bad)
        if lost:
            return layers, lost
        for name, values in block.items():
            layers[name][..., y, x] = values
    return layers, []


def as_dataset(layers: dict[str, np.ndarray], geobox: GeoBox, year: int, attrs: dict[str, str]) -> xr.Dataset:
    """Place the layers of a tile-year: CF coordinates at pixel centres, grid mapping, units."""
    variables = {
        name: (
            ("band", "y", "x") if values.ndim == 3 else ("y", "x"),
            values,
            {**_ATTRS[name], "grid_mapping": "spatial_ref"},
        )
        for name, values in layers.items()
    }
    coords = {**grid_coords(geobox), "band": list(BANDS), "year": year}
    return xr.Dataset(variables, coords=coords, attrs={"Conventions": "CF-1.11", **attrs})


def reduce_looks(looks: xr.DataArray, params: CubeParams) -> dict[str, np.ndarray]:
    """Reduce masked looks (time, band, y, x), 0 where not clear, to annual layers."""
    bands = np.ascontiguousarray(looks.transpose("time", "band", "y", "x").values)
    return annual_layers(bands, bands[:, 0] > 0, min_looks_range=params.min_looks_range)
