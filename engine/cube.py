"""Annual cubes: a tile-year's scenes read, masked, fused and reduced by one task, written as one store."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import closing
from typing import Any, Final

import numpy as np
import shapely
import xarray as xr
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from rasterio.features import rasterize

from engine.errors import EngineError, Fault, SceneError, TrustError
from engine.grid import crs_of
from engine.kernels.composite import annual_layers, empty_layers
from engine.kernels.features import WATER_MISSING
from engine.kernels.harmonise import harmonise
from engine.kernels.indices import INDEX_MISSING, INDEX_SCALE
from engine.kernels.quality import clear_mask, empty_band, settle_look
from engine.landsat import BANDS, FILL_DN, OFFSET, QA_FILL, QA_PIXEL, QA_RADSAT, SCALE
from engine.observed import dates_seen
from engine.params import CubeParams
from engine.places import Place
from engine.plan import LOOKS_AT_ONCE, TileYear
from engine.ranges import Access, Spent
from engine.reader import BlockReader, Stopped, files_of
from engine.reads import Reads, reads_path
from engine.scenes import Scene, observations
from engine.scratch import scratch
from engine.store import grid_coords, marker_path, write_store
from engine.threads import compute_threads

_INDEX_ATTRS: Final = {"scale_factor": 1 / INDEX_SCALE, "_FillValue": INDEX_MISSING, "units": "1"}
_ATTRS: Final[dict[str, dict[str, Any]]] = {
    "composite": {
        "long_name": "surface reflectance, composite of clear looks",
        "scale_factor": SCALE,
        "add_offset": OFFSET,
        "_FillValue": 0,
        "units": "1",
    },
    "clear_count": {"long_name": "clear looks in the year", "units": "1"},
    "lost_count": {"long_name": "looks whose scene reaches the pixel but could not be read", "units": "1"},
    "ndvi_p10": {"long_name": "10th percentile of NDVI", **_INDEX_ATTRS},
    "ndvi_p90": {"long_name": "90th percentile of NDVI", **_INDEX_ATTRS},
    "ndvi_mad": {"long_name": "median absolute deviation of NDVI", **_INDEX_ATTRS},
    "mndwi_p10": {"long_name": "10th percentile of MNDWI", **_INDEX_ATTRS},
    "mndwi_p90": {"long_name": "90th percentile of MNDWI", **_INDEX_ATTRS},
    "mndwi_mad": {"long_name": "median absolute deviation of MNDWI", **_INDEX_ATTRS},
    "water_frequency": {
        "long_name": "share of clear looks with MNDWI > 0",
        "scale_factor": 1 / INDEX_SCALE,
        "_FillValue": WATER_MISSING,
        "units": "1",
    },
}


EMPTY_PX: Final = 1024
"""Clear pixels of a scene in a strip from which a band without any value there is a fault, and not the scene's edge."""

_PLAIN: Final = CubeParams()


def read_looks(
    scenes: Sequence[Scene],
    geobox: GeoBox,
    access: Access,
    params: CubeParams = _PLAIN,
    *,
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
    params : CubeParams
        How looks are masked and harmonised.
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
        ``scene``, ``asset``, ``cause`` and ``kind`` of fault of every scene gone without.

    Raises
    ------
    SceneError, TrustError
        Naming scene and asset, unless ``skip_bad``.
    """
    looks = list(dict.fromkeys(scene.observation for scene in scenes))
    bands = np.zeros((len(looks), len(BANDS), *geobox.shape), dtype=np.uint16)
    clear = np.zeros((len(looks), *geobox.shape), dtype=bool)
    with BlockReader(geobox, access) as reader:
        lost = _read_rows(reader, scenes, slice(0, geobox.shape[0]), bands, clear, params, skip_bad)
    return bands, clear, looks, lost


def _read_rows(
    reader: BlockReader,
    scenes: Sequence[Scene],
    rows: slice,
    bands: np.ndarray,
    clear: np.ndarray,
    params: CubeParams,
    skip_bad: bool,
) -> list[dict[str, Any]]:
    """Read rows of looks into ``bands`` (look, 6, y, x) and ``clear`` (look, y, x), which is all False."""

    def add(look: int, scene: Scene) -> None:
        _add_scene(reader, scene, rows, params, bands[look], clear[look])

    return _each_scene(reader, scenes, add, skip_bad)


def _each_scene(
    reader: BlockReader, scenes: Sequence[Scene], add: Callable[[int, Scene], None], skip_bad: bool
) -> list[dict[str, Any]]:
    """Call ``add(look, scene)``, several looks side by side but scenes of one in turn; return those that were lost."""

    def add_all(look: int, members: Sequence[Scene]) -> list[dict[str, Any]]:
        lost = []
        for scene in members:
            try:
                add(look, scene)
            except (SceneError, TrustError) as error:
                if not skip_bad:
                    raise
                lost.append(_loss(scene, error))
        return lost

    with ThreadPoolExecutor(LOOKS_AT_ONCE) as pool:
        futures = [pool.submit(add_all, *call) for call in enumerate(observations(scenes).values())]
        if any(future.exception() for future in wait(futures, return_when=FIRST_EXCEPTION).done):
            reader.stop()  # the others need not go on
    faults = [error for future in futures if (error := future.exception()) is not None]
    if faults:
        raise next((error for error in faults if not isinstance(error, Stopped)), faults[0])
    order = {scene.id: place for place, scene in enumerate(scenes)}
    return sorted((loss for future in futures for loss in future.result()), key=lambda loss: order[loss["scene"]])


def _loss(scene: Scene, error: EngineError) -> dict[str, Any]:
    kind = str(error.kind or Fault.PERMANENT)
    return {"scene": scene.id, "asset": error.about.get("asset", ""), "cause": error.problem, "kind": kind}


def _add_scene(
    reader: BlockReader,
    scene: Scene,
    rows: slice,
    params: CubeParams,
    bands: np.ndarray,
    clear: np.ndarray,
) -> None:
    """Write a scene's clear pixels into its look, where no earlier scene of the pass was clear.

    The quality words come first: of the bands only tiles with a clear pixel are fetched.
    """
    with scratch((2, *clear.shape), np.uint16) as words:
        words[0], words[1] = QA_FILL, FILL_DN
        reader.read(files_of(scene, (QA_PIXEL, QA_RADSAT)), rows, words)
        with reader.spent.on("mask"):
            usable = clear_mask(
                *words,
                unusable_radsat=scene.sensor.unusable_radsat,
                reject_cloud_confidence=params.reject_cloud_confidence,
            )
            usable &= ~clear
    if not usable.any():
        return
    try:
        reader.read(files_of(scene, BANDS), rows, bands, usable)
    except (SceneError, TrustError):
        bands[:, usable] = FILL_DN
        raise
    with reader.spent.on("mask"):
        empty = empty_band(bands, usable, EMPTY_PX)
        if empty >= 0:
            bands[:, usable] = FILL_DN
            raise SceneError(
                f"file holds nothing where {QA_PIXEL} calls {int(usable.sum())} pixels clear",
                fix="repair it, or go on without it with --skip-bad",
                kind=Fault.PERMANENT,
                scene=scene.id,
                asset=BANDS[empty],
            )
        settle_look(bands, usable, clear)
        if lines := params.lines_to_oli(scene.sensor.name):
            harmonise(bands, usable, lines)


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
    looks = list(observations(part.scenes))
    clear = np.zeros((len(looks), *part.tile.shape), dtype=bool)
    with BlockReader(part.tile.geobox, access) as reader:

        def add(look: int, scene: Scene) -> None:
            words = np.full((1, *part.tile.shape), QA_FILL, dtype=np.uint16)
            reader.read(files_of(scene, (QA_PIXEL,)), slice(0, part.tile.shape[0]), words)
            clear[look] |= clear_mask(words[0])

        lost = _each_scene(reader, part.scenes, add, skip_bad)
    counts = {look: np.bincount(regions[seen & (regions > 0)]) for look, seen in zip(looks, clear, strict=True)}
    return {
        look: {int(code): int(count[code]) for code in np.flatnonzero(count)} for look, count in counts.items()
    }, lost


def composite_block(
    scenes: Sequence[Scene],
    geobox: GeoBox,
    params: CubeParams,
    access: Access,
    *,
    block_px: int | None = None,
    skip_bad: bool = False,
    spent: Spent | None = None,
    clear_px: dict[str, int] | None = None,
) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    """Read and reduce a grid in strips of full width, no tile of a file twice.

    Parameters
    ----------
    scenes : sequence of Scene
        In order of time and id.
    geobox : GeoBox
    params : CubeParams
    access : Access
    block_px : int, optional
        Rows of a strip, whose looks are held at once; default all.
    skip_bad : bool
        Go on without a scene that cannot be read.
    spent : Spent, optional
        Where seconds and bytes are counted.
    clear_px : dict of str to int, optional
        Filled with the clear pixels of each observation.

    Returns
    -------
    layers : dict of str to ndarray
        See ``kernels.composite.annual_layers``.
    lost : list of dict
        As of ``read_looks``; what cannot be read in one strip is left out of all, so that strips never decide a value.
    """
    counted = {} if clear_px is None else clear_px
    layers, lost = _composite(scenes, geobox, params, access, block_px, skip_bad, spent, counted)
    if not lost:
        return layers, []
    names = {loss["scene"] for loss in lost}
    rest = [scene for scene in scenes if scene.id not in names]
    layers, more = composite_block(
        rest, geobox, params, access, block_px=block_px, skip_bad=skip_bad, spent=spent, clear_px=counted
    )
    return layers, [*lost, *more]


def _composite(
    scenes: Sequence[Scene],
    geobox: GeoBox,
    params: CubeParams,
    access: Access,
    block_px: int | None,
    skip_bad: bool,
    spent: Spent | None,
    clear_px: dict[str, int],
) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    """Composite strip by strip, up to the first that loses scenes."""
    clear_px.clear()
    clear_px.update(dict.fromkeys(observations(scenes), 0))
    layers = empty_layers(*geobox.shape)
    spent = spent or Spent()
    strips = read_strips(
        scenes,
        geobox,
        access,
        params,
        block_px=block_px,
        skip_bad=skip_bad,
        spent=spent,
    )
    with closing(strips):
        for rows, bands, clear, lost in strips:
            if lost:
                return layers, lost
            with spent.on("composite"):
                for look, seen in zip(clear_px, clear, strict=True):
                    clear_px[look] += int(np.count_nonzero(seen))
                strip = annual_layers(
                    bands,
                    clear,
                    min_looks_range=params.min_looks_range,
                    composite=params.composite,
                    tide=params.tide,
                    threads=compute_threads(),
                )
            for name, values in strip.items():
                layers[name][..., rows, :] = values
    return layers, []


def read_strips(
    scenes: Sequence[Scene],
    geobox: GeoBox,
    access: Access,
    params: CubeParams = _PLAIN,
    *,
    block_px: int | None = None,
    skip_bad: bool = False,
    spent: Spent | None = None,
) -> Generator[tuple[slice, np.ndarray, np.ndarray, list[dict[str, Any]]]]:
    """Read looks strip by strip, no tile of a file twice, into memory that is used again.

    Parameters
    ----------
    scenes, geobox, access, params, block_px, skip_bad, spent
        As of ``composite_block``.

    Yields
    ------
    rows : slice
        Of the grid; from top to bottom, and none where there are no scenes.
    bands : ndarray of uint16, shape (look, 6, y, x)
        Anything where not clear. Lent: the next strip overwrites it.
    clear : ndarray of bool, shape (look, y, x)
        Lent too.
    lost : list of dict
        As of ``read_looks``.
    """
    (height, width), looks = geobox.shape, len(observations(scenes))
    tall = min(block_px or height, height)
    with (
        BlockReader(geobox, access, spent) as reader,
        scratch((looks * len(BANDS) * tall * width,), np.uint16) as band_memory,
        scratch((looks * tall * width,), np.bool_) as clear_memory,
    ):
        for top in range(0, height, tall) if looks else ():
            rows = slice(top, min(top + tall, height))
            shape = (rows.stop - top, width)
            bands = band_memory[: looks * len(BANDS) * math.prod(shape)].reshape(looks, len(BANDS), *shape)
            clear = clear_memory[: looks * math.prod(shape)].reshape(looks, *shape)
            clear[:] = False
            lost = _read_rows(reader, scenes, rows, bands, clear, params, skip_bad)
            yield rows, bands, clear, lost


def build_tile_year(
    part: TileYear,
    store: Place,
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
    store : Path or ObjectPath
        Where to write, ``.../<tile>/<year>.zarr``.
    params : CubeParams
    access : Access
    block_px : int
        Rows of the tile whose looks are held at once; changes memory, never values.
    fingerprint : str
        Of everything that decides the values; kept in the completion marker.
    skip_bad : bool
        Go on without unreadable scenes.
    attrs : dict of str to str, optional
        Attributes of the dataset: run name, notice.

    Returns
    -------
    dict
        The completion marker: fingerprint, sha256, scenes, looks, clear pixels and their dates (``dates_seen``), lost
        scenes, seconds.
    """
    started = time.perf_counter()
    tile = part.tile
    spent = Reads()
    clear_px: dict[str, int] = {}
    layers, lost = composite_block(
        part.scenes, tile.geobox, params, access, block_px=block_px, skip_bad=skip_bad, spent=spent, clear_px=clear_px
    )
    names = {loss["scene"] for loss in lost}
    without: dict[str, Any] = {}
    if lost:
        layers["lost_count"], pixels = count_lost([scene for scene in part.scenes if scene.id in names], tile.geobox)
        looks, counts = np.unique(layers["lost_count"][layers["lost_count"] > 0], return_counts=True)
        without = {"lost_px": dict(zip(map(str, looks.tolist()), counts.tolist(), strict=True))}
        for loss in lost:
            loss |= {"attempts": spent.attempts_of(loss["scene"], loss["asset"]), "pixels": pixels[loss["scene"]]}
    marker = {
        "fingerprint": fingerprint,
        "tile": tile.id,
        "year": part.year,
        "scenes": [scene.id for scene in part.scenes],
        "looks": len({scene.observation for scene in part.scenes if scene.id not in names}),
        "observed_px": int((layers["clear_count"] > 0).sum()),
        "poorly_observed_px": int(((layers["clear_count"] > 0) & (layers["clear_count"] < params.min_looks)).sum()),
        "mean_clear_looks": round(float(layers["clear_count"].mean()), 2),
        "clear_px": clear_px,
        "seen": dates_seen(clear_px),
        "lost": lost,
        **without,
        "seconds": round(time.perf_counter() - started, 3),
        "stages": spent.record(),
    }
    marker_path(store).unlink(missing_ok=True)
    spent.write(reads_path(store), tile=tile.id, year=part.year, lost=lost)
    return write_store(store, as_dataset(layers, tile.geobox, part.year, attrs or {}), marker)


def count_lost(scenes: Sequence[Scene], geobox: GeoBox) -> tuple[np.ndarray, dict[str, int]]:
    """Count the looks that were lost of each pixel: those of which a lost scene's footprint holds its centre.

    Parameters
    ----------
    scenes : sequence of Scene
        Those lost.
    geobox : GeoBox

    Returns
    -------
    count : ndarray of uint8, shape (y, x)
        At most 255. A look counts although another scene of its pass may show the pixel.
    pixels : dict of str to int
        Scene -> pixels its footprint holds.
    """
    count, pixels = np.zeros(geobox.shape, np.uint8), {}
    for members in observations(scenes).values():
        reached = np.zeros(geobox.shape, bool)
        for scene in members:
            covered = footprint_on(scene, geobox)
            pixels[scene.id] = int(np.count_nonzero(covered))
            reached |= covered
        count += reached & (count < np.iinfo(np.uint8).max)
    return count, pixels


def footprint_on(scene: Scene, geobox: GeoBox) -> np.ndarray:
    """Flag the pixels of a grid whose centre lies in a scene's footprint, bool (y, x)."""
    project = Transformer.from_crs("EPSG:4326", crs_of(geobox).proj, always_xy=True).transform
    outline = shapely.transform(shapely.segmentize(scene.geometry, 0.01), lambda xy: np.column_stack(project(*xy.T)))
    if not outline.intersects(shapely.box(*geobox.boundingbox.bbox)):
        return np.zeros(geobox.shape, bool)
    return rasterize([(outline, 1)], geobox.shape, transform=geobox.transform, dtype=np.uint8).astype(bool)


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
    return annual_layers(
        bands,
        bands[:, 0] > 0,
        min_looks_range=params.min_looks_range,
        composite=params.composite,
        tide=params.tide,
    )
