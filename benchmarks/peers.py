"""How others make the same median of the same scenes, each at its best.

Every function reads a square, masks it as the engine does and writes one float32 median a band, NaN where no look was
clear, as zarr with the engine's codec.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
import odc.stac
import pystac
import rasterio
import stackstac
import xarray as xr
import zarr
from odc.geo.geobox import GeoBox
from rasterio.io import DatasetReader
from rasterio.windows import Window
from zarr.codecs import ZstdCodec

from engine.grid import crs_of
from engine.kernels.composite import median
from engine.kernels.quality import clear_mask
from engine.landsat import BANDS, QA_FILL, QA_PIXEL, QA_RADSAT, SENSORS
from engine.plan import TileYear
from engine.scenes import ASSETS, Scene

warnings.filterwarnings("ignore", message="All-NaN slice")  # numpy's median of a pixel that was never clear

THREADS: Final = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
"""One a core, as dask and the engine's reader take by default."""

CHUNK_PX: Final = 512
CODEC: Final = ZstdCodec(level=3, checksum=True)
"""As ``engine.store`` writes."""

FILLS: Final = {QA_PIXEL: QA_FILL, QA_RADSAT: 0}
"""What lies outside a scene in the QA words."""

UNUSABLE_RADSAT: Final = SENSORS["landsat-8"].unusable_radsat


def odc_median(part: TileYear, store: Path) -> None:
    """odc-stac into dask chunks of 512 px, xarray's median: what most users write."""
    cube = odc_load(part, chunks={"x": CHUNK_PX, "y": CHUNK_PX})
    clear = clear_of(cube[QA_PIXEL], cube[QA_RADSAT])
    bands = cube[list(BANDS)].to_dataarray("band")
    masked = bands.astype("float32").where(clear & (bands > 0).all("band"))
    _write_lazy(masked.chunk(time=-1).median("time", skipna=True), store)


def stackstac_median(part: TileYear, store: Path) -> None:
    """stackstac at its defaults, float64 with NaN, but for chunks of 512 px and no scaling: as one first writes it."""
    items = [item.to_dict() for item in items_of(part.scenes)]
    geobox = part.tile.geobox
    cube = stackstac.stack(
        items,
        assets=list(ASSETS),
        epsg=crs_of(geobox).to_epsg(),
        resolution=geobox.resolution.x,
        bounds=geobox.boundingbox.bbox,
        snap_bounds=False,
        chunksize=CHUNK_PX,
        rescale=False,
    )
    qa, radsat = (cube.sel(band=name, drop=True).fillna(fill).astype("uint16") for name, fill in FILLS.items())
    bands = cube.sel(band=list(BANDS))
    masked = bands.where(clear_of(qa, radsat) & (bands > 0).all("band"))
    _write_lazy(masked.median("time", skipna=True).astype("float32"), store)


def odc_and_our_median(part: TileYear, store: Path) -> None:
    """odc-stac straight into memory by threads, then the engine's kernel."""
    cube = odc_load(part, pool=THREADS)
    bands = np.stack([cube[name].values for name in BANDS], axis=1)
    clear = clear_of(cube[QA_PIXEL], cube[QA_RADSAT]).values & (bands > 0).all(axis=1)
    write_zarr(median(bands, clear, np.float32, threads=THREADS), store)


def rasterio_and_numpy(part: TileYear, store: Path) -> None:
    """A rasterio window of each file by threads, numpy's median of a band at a time."""
    bands, clear = rasterio_looks(part)
    with ThreadPoolExecutor(THREADS) as pool:
        write_zarr(np.stack(list(pool.map(lambda band: _nanmedian(bands[:, band], clear), range(len(BANDS))))), store)


def rasterio_and_our_median(part: TileYear, store: Path) -> None:
    """A rasterio window of each file by threads, then the engine's kernel."""
    bands, clear = rasterio_looks(part)
    write_zarr(median(bands, clear, np.float32, threads=THREADS), store)


def odc_load(part: TileYear, **how: Any) -> xr.Dataset:
    """Load six bands and both QA words of a square with odc-stac, uint16 (time, y, x) each."""
    return odc.stac.load(
        items_of(part.scenes), bands=list(ASSETS), geobox=part.tile.geobox, groupby="id", dtype="uint16", **how
    )


def items_of(scenes: Sequence[Scene]) -> list[pystac.Item]:
    """Return scenes as STAC items, for readers that know nothing else."""
    items = []
    for scene in scenes:
        projection = {"proj:epsg": scene.epsg, "proj:code": f"EPSG:{scene.epsg}"}
        grid = {"proj:shape": scene.shape, "proj:transform": scene.transform}
        outline, bounds = scene.geometry.__geo_interface__, list(scene.geometry.bounds)
        item = pystac.Item(scene.id, outline, bounds, scene.datetime, {**projection, **grid})
        item.stac_extensions = ["https://stac-extensions.github.io/projection/v2.0.0/schema.json"]
        for name, href in scene.assets.items():
            item.add_asset(name, pystac.Asset(href, media_type=pystac.MediaType.COG, roles=["data"]))
        items.append(item)
    return items


def rasterio_looks(part: TileYear) -> tuple[np.ndarray, np.ndarray]:
    """Read all looks of a square: uint16 (look, 6, y, x) and clear (look, y, x)."""
    geobox = part.tile.geobox
    with ThreadPoolExecutor(THREADS) as pool:
        looks = list(pool.map(lambda scene: [_window(scene, name, geobox) for name in ASSETS], part.scenes))
    bands = np.stack([np.stack(look[: len(BANDS)]) for look in looks])
    qa, radsat = (np.stack([look[ASSETS.index(name)] for look in looks]) for name in FILLS)
    return bands, clear_mask(qa, radsat, unusable_radsat=UNUSABLE_RADSAT) & (bands > 0).all(axis=1)


def _window(scene: Scene, name: str, geobox: GeoBox) -> np.ndarray:
    values = np.full(geobox.shape, FILLS.get(name, 0), dtype="uint16")
    with rasterio.open(scene.assets[name]) as file:
        rows, cols, target = window_of(file, geobox)
        values[target] = file.read(1, window=Window.from_slices(rows, cols))
    return values


def window_of(file: DatasetReader, geobox: GeoBox) -> tuple[slice, slice, tuple[slice, slice]]:
    """Return the rows and columns of a file that a square covers, on its own grid, and where in the square they lie."""
    col, row = (round(n) for n in ~file.transform * (geobox.transform.c, geobox.transform.f))
    rows = slice(max(row, 0), min(row + geobox.shape[0], file.height))
    cols = slice(max(col, 0), min(col + geobox.shape[1], file.width))
    return rows, cols, (slice(rows.start - row, rows.stop - row), slice(cols.start - col, cols.stop - col))


def _nanmedian(values: np.ndarray, clear: np.ndarray) -> np.ndarray:
    return np.nanmedian(np.where(clear, values.astype("float32"), np.float32("nan")), axis=0)


def clear_of(qa: xr.DataArray, radsat: xr.DataArray) -> xr.DataArray:
    """Return where the quality words of a peer's cube are clear; a peer may have filled them with 0."""
    return xr.apply_ufunc(
        lambda qa, radsat: clear_mask(
            np.where(qa == 0, np.uint16(QA_FILL), qa), radsat, unusable_radsat=UNUSABLE_RADSAT
        ),
        qa,
        radsat,
        dask="parallelized",
        output_dtypes=[bool],
    )


def _write_lazy(values: xr.DataArray, store: Path) -> None:
    """Compute with dask's threads and write as it comes, a chunk a task."""
    layers = values.transpose("band", "y", "x")
    dataset = xr.Dataset({"median": (layers.dims, layers.data)})
    encoding = {"median": {"compressors": (CODEC,)}}
    dataset.to_zarr(store, mode="w", zarr_format=3, consolidated=False, encoding=encoding)


def write_zarr(values: np.ndarray, store: Path) -> None:
    """Write layers (band, y, x) in the engine's layout: 256 px chunks, a shard for all."""
    side = [-(-n // 256) * 256 for n in values.shape[-2:]]
    array = zarr.create_array(
        store / "median",
        shape=values.shape,
        dtype=values.dtype,
        chunks=(1, 256, 256),
        shards=(len(values), *side),
        compressors=(CODEC,),
        overwrite=True,
    )
    array[:] = values


def read_zarr(store: Path) -> np.ndarray:
    """Return the median that any of these wrote."""
    return np.asarray(zarr.open_array(store / "median", mode="r")[:])
