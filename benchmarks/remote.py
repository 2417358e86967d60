"""Reading a year of scenes from storage 50 ms away: the engine against odc-stac, and against the same files at hand."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import numpy as np
import rasterio
import xarray as xr

from benchmarks import peers
from benchmarks.archive import Setup, served
from benchmarks.harness import Comparison, ratio, seconds, time_in_turn
from benchmarks.range_server import Traffic, serve
from engine.cube import read_looks
from engine.landsat import BANDS, QA_PIXEL, QA_RADSAT
from engine.plan import TileYear
from engine.ranges import Access
from engine.trust import Trust

LATENCY_SECONDS: Final = 0.05
BYTES_PER_SECOND: Final = 1.25e9
"""10 Gbit/s, the network card of a common cloud machine, for all connections together."""

READERS: Final = 16
TUNED: Final[dict[str, Any]] = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_INGESTED_BYTES_AT_OPEN": "32768",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_HTTP_MULTIPLEX": "YES",
    "GDAL_HTTP_VERSION": "1.1",
    "GDAL_CACHEMAX": 512 * 2**20,
    "VSI_CACHE": "TRUE",
    "VSI_CACHE_SIZE": "5000000",
    "CPL_VSIL_CURL_ALLOWED_EXTENSIONS": ".TIF",
    "CPL_VSIL_CURL_CACHE_SIZE": "200000000",
}
"""GDAL's options of the tuned side."""

ENGINE: Final = "engine"
LOCAL: Final = "engine, local files"
ODC: Final = "odc-stac"
ODC_TUNED: Final = f"odc-stac, {READERS} threads, tuned GDAL"

Looks = tuple[np.ndarray, np.ndarray]
"""Bands uint16 (look, 6, y, x) and clear bool (look, y, x)."""


def compare_remote(setup: Setup) -> Comparison:
    """Time reading all looks of a square into memory; each run finds its files under an address never asked before."""
    root, square = setup.archive.world.folder, setup.archive.square
    corner = setup.archive.window(0, 0, 64)
    answered: dict[str, list[Traffic]] = {ENGINE: [], ODC: [], ODC_TUNED: []}
    with serve(root, latency_seconds=LATENCY_SECONDS, bytes_per_second=BYTES_PER_SECOND) as server:
        names = (f"run-{number}" for number in itertools.count())
        remote = Access(Trust().with_hosts(server.host))
        readers: dict[str, Callable[[TileYear], Any]] = {
            ENGINE: partial(_engine, access=remote),
            ODC: _odc,
            ODC_TUNED: _odc_tuned,
        }
        for read in readers.values():
            read(served(corner, root, server.address(next(names))))
        server.traffic()

        def counted(name: str, read: Callable[[TileYear], Any]) -> Any:
            found = read(served(square, root, server.address(next(names))))
            answered[name].append(server.traffic())
            return found

        sides = {name: partial(counted, name, read) for name, read in readers.items()}
        sides[LOCAL] = partial(_engine, square, access=setup.archive.access)
        timings, digests = time_in_turn(sides, setup.runs, warm=False, keep=_digest)
    ours = timings[ENGINE].wall
    waited = [spent - sent.bytes / BYTES_PER_SECOND for spent, sent in zip(ours, answered[ENGINE], strict=True)]
    return Comparison(
        what=f"reading {square.looks} dates x 8 assets of {square.tile.shape} px at {LATENCY_SECONDS * 1000:.0f} ms a "
        f"request and {BYTES_PER_SECOND / 1e9:g} GB/s (simulated)",
        ratios={
            "remote_vs_odc": ratio(timings[ODC].wall, ours),
            "remote_vs_odc_tuned": ratio(timings[ODC_TUNED].wall, ours),
            "remote_vs_local": ratio(waited, timings[LOCAL].wall),
        },
        raw={
            "seconds": seconds(timings),
            "requests": {name: [sent.requests for sent in runs] for name, runs in answered.items()},
            "bytes": {name: [sent.bytes for sent in runs] for name, runs in answered.items()},
            "tuned": TUNED,
        },
        wrong=[name for name, digest in digests.items() if digest != digests[LOCAL]],
    )


def _engine(part: TileYear, *, access: Access) -> Looks:
    bands, clear, _, _ = read_looks(part.scenes, part.tile.geobox, access)
    return bands, clear


def _odc(part: TileYear) -> xr.Dataset:
    """A chunk a date and asset, read by dask's threads, one a core."""
    return peers.odc_load(part, chunks={}).compute(scheduler="threads")


def _odc_tuned(part: TileYear) -> xr.Dataset:
    """As many threads as are worth it on two cores, straight into memory."""
    with rasterio.Env(**TUNED):  # which odc-stac hands on to its threads
        return peers.odc_load(part, pool=READERS)


def _digest(found: Looks | xr.Dataset) -> str:
    """Return a hash of what is clear, and of the bands there."""
    if isinstance(found, xr.Dataset):
        bands = np.stack([found[name].values for name in BANDS], axis=1)
        clear = peers.clear_of(found[QA_PIXEL], found[QA_RADSAT]).values & (bands > 0).all(axis=1)
    else:
        bands, clear = found
    seen = hashlib.sha256(np.ascontiguousarray(clear))
    for look, kept in zip(bands, clear, strict=True):
        seen.update(np.ascontiguousarray(look[:, kept]))
    return seen.hexdigest()
