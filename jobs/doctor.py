"""``mangroves doctor``: what this machine has, what is missing, and whether the Planetary Computer answers."""

from __future__ import annotations

import importlib.metadata
import math
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import click
from distributed.system import MEMORY_LIMIT

from engine.area import Area, Region, read_area, wrap
from engine.catalog import periods_of, search_scenes
from engine.cluster import check_visible, open_cluster, worker_bytes, worker_count
from engine.errors import EngineError
from engine.grid import tiles_of
from engine.landsat import BANDS
from engine.params import AreaParams, RunParams, SearchParams
from engine.places import Place
from engine.plan import COMPRESSION, task_bytes
from engine.ranges import Access
from engine.reader import read_asset
from engine.sign import Signer
from engine.trust import Trust, redact
from jobs.config import (
    ALLOW_ROOT,
    JSON,
    cluster_options,
    config_options,
    given_config,
    run_folder,
    run_outputs,
    trust_of,
)
from jobs.report import Reporter

PACKAGES = (
    "dask",
    "distributed",
    "dask-geopandas",
    "xarray",
    "stackstac",
    "pystac-client",
    "planetary-computer",
    "xgboost",
    "zarr",
    "rasterio",
    "numba",
    "numpy",
    "pandas",
)
TYPICAL_LOOKS = 46
"""Landsat 8 and 9 on one path: a look every 8 days."""

LEAST_FREE_GB = 5

PROBED = RunParams(area=AreaParams(point=(104.976, 8.7674), size_km=30), years=(2020,), season=("01-01", "03-31"))
"""What is searched where no configuration says: Ca Mau in three months."""


@click.command("doctor")
@click.option(
    "--planetary-computer",
    is_flag=True,
    help="Also search the archive over the network, and sign and read one tile of one scene.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Output folder, where disk space is measured; default that of --config, else runs.",
)
@config_options("Run configuration (YAML): check its output folder or store, search its largest tile and last year.")
@cluster_options
@ALLOW_ROOT
@JSON
def command(
    planetary_computer: bool,
    out: Path | None,
    config: Path | None,
    overrides: tuple[str, ...],
    cluster: str,
    cluster_file: Path | None,
    allow_root: tuple[str, ...],
    as_json: bool,
) -> None:
    """Check versions, memory, disk and the cluster; with --planetary-computer also the archive."""
    trust = trust_of(config, roots=allow_root)
    params = given_config(config, overrides)
    if out is None:
        out = Path("runs") if params is None else run_folder(params, trust).parent
    outputs: Place = out if params is None else run_outputs(out, params.store, params.name, trust)
    reporter = Reporter(as_json=as_json)
    checks = [check_versions(), check_disk(out)]
    checks += check_cluster(cluster, cluster_file, outputs)
    if planetary_computer:
        checks.append(check_planetary_computer(params or PROBED, trust))
    reporter.table("", ("check", "", "what was found"), ((c["check"], c["state"], c["found"]) for c in checks))
    bad = [check for check in checks if check["state"] != "ok"]
    lines = [f"{check['check']}: {check['fix']}" for check in bad if check.get("fix")]
    reporter.result({"checks": checks, "ok": not bad}, "\n".join(lines) if bad else "all is well")
    if any(check["state"] == "bad" for check in bad):
        sys.exit(1)


def check_versions() -> dict[str, Any]:
    """Read the versions of Python and of the packages the engine stands on."""
    found, missing = [f"python {sys.version.split()[0]}"], []
    for name in PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        fix = "install the project again: make setup"
        return {"check": "versions", "state": "bad", "found": f"missing {', '.join(missing)}", "fix": fix}
    return {"check": "versions", "state": "ok", "found": ", ".join(found)}


def check_disk(out: Path) -> dict[str, Any]:
    """Measure free space where outputs go."""
    folder = next(parent for parent in (out.resolve(), *out.resolve().parents) if parent.is_dir())
    free = shutil.disk_usage(folder).free / 1e9
    state = "ok" if free >= LEAST_FREE_GB else "warn"
    return {
        "check": "disk",
        "state": state,
        "found": f"{free:.0f} GB free at {folder}",
        "fix": "free space for outputs",
    }


def check_cluster(name: str, cluster_file: Path | None, out: Place) -> list[dict[str, Any]]:
    """Open the cluster, measure its workers' memory, and check that they see the output folder or store."""
    need = task_bytes(TYPICAL_LOOKS, 1024)
    made = [folder for folder in (out, *out.parents) if not folder.exists()] if isinstance(out, Path) else []
    try:
        with open_cluster(name, cluster_file) as client:
            count, memory = worker_count(client), worker_bytes(client)
            check_visible(client, out)
    except EngineError as error:
        return [{"check": "cluster", "state": "bad", "found": error.problem, "fix": error.fix}]
    finally:
        for folder in made:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    has = f"{memory / 1e9:.1f} GB" if memory else "no limit on memory"
    return [
        {"check": "cluster", "state": "ok", "found": f"{name}: {count} tasks at once, {cores} cores, sees {out}"},
        {
            "check": "memory",
            "state": "ok" if memory is None or memory >= need else "warn",
            "found": f"a task has {has}, the machine {MEMORY_LIMIT / 1e9:.0f} GB; "
            f"a full tile with {TYPICAL_LOOKS} looks in 1024 px blocks takes up to {need / 1e9:.1f} GB",
            "fix": "fewer workers in cluster.yaml, or a smaller cube.block_px",
        },
    ]


def check_planetary_computer(params: RunParams, trust: Trust) -> dict[str, Any]:
    """Search the largest tile and last year of a run, sign, read the scene that covers most, and measure the rate."""
    try:
        tile = max(tiles_of(read_area(params.area, trust).geometry), key=lambda tile: math.prod(tile.shape))
        outline = wrap(tile.geobox.geographic_extent.geom)
        periods = periods_of(params.years[-1:], params.season, params.dates)
        result = search_scenes(SearchParams(), Area((Region(tile.id, outline),)), periods, trust=trust)
        scene = max(result.scenes, key=lambda found: found.geometry.intersection(outline).area)
        access = Access(trust, Signer(trust))
        read_asset(scene, "qa_pixel", tile.geobox, access)  # signs, and opens the connection
        started = time.perf_counter()
        pixels = [read_asset(scene, name, tile.geobox, access) for name in BANDS]
        seconds = time.perf_counter() - started
    except EngineError as error:
        return {"check": "planetary computer", "state": "bad", "found": redact(error.problem), "fix": error.fix}
    rate = sum(layer.nbytes for layer in pixels) / COMPRESSION / 1e6 / seconds
    height, width = tile.shape
    found = f"{len(result.scenes)} scenes found, {len(pixels)} bands of {width} x {height} px in {seconds:.1f} s"
    return {
        "check": "planetary computer",
        "state": "ok",
        "found": f"{found}: about {rate:.1f} compressed MB/s (one reader), for `mangroves plan --mb-per-second`",
        "mb_per_second": round(rate, 2),
    }
