"""``mangroves doctor``: what this machine has, what is missing, and whether the Planetary Computer answers."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import click
from distributed.system import MEMORY_LIMIT

from engine.area import read_area
from engine.catalog import periods_of, search_scenes
from engine.cluster import check_visible, open_cluster, worker_bytes, worker_count
from engine.errors import EngineError
from engine.grid import tiles_of
from engine.landsat import BANDS
from engine.params import AreaParams, SearchParams
from engine.plan import COMPRESSION, task_bytes
from engine.reader import Access, read_asset
from engine.sign import Signer
from engine.trust import Trust, redact
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


@click.command("doctor")
@click.option("--planetary-computer", is_flag=True, help="Also search, sign and read one block over the network.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, help="Output folder.")
@click.option("--cluster", default="local", show_default=True, metavar="PROFILE", help="Where to work.")
@click.option("--cluster-file", type=click.Path(path_type=Path), help="Profiles; default ./cluster.yaml.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output.")
def command(planetary_computer: bool, out: Path, cluster: str, cluster_file: Path | None, as_json: bool) -> None:
    """Check versions, memory, disk and the cluster; with --planetary-computer also the archive."""
    reporter = Reporter(as_json=as_json)
    checks = [check_versions(), check_disk(out)]
    checks += check_cluster(cluster, cluster_file, out)
    if planetary_computer:
        checks.append(check_planetary_computer())
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


def check_cluster(name: str, cluster_file: Path | None, out: Path) -> list[dict[str, Any]]:
    """Open the cluster, measure its workers' memory, and check that they see the output folder."""
    need = task_bytes(TYPICAL_LOOKS, 1024)
    try:
        with open_cluster(name, cluster_file) as client:
            count, memory = worker_count(client), worker_bytes(client)
            check_visible(client, out)
    except EngineError as error:
        return [{"check": "cluster", "state": "bad", "found": error.problem, "fix": error.fix}]
    finally:
        if out.is_dir() and not any(out.iterdir()):
            out.rmdir()
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


def check_planetary_computer() -> dict[str, Any]:
    """Search one tile and month, sign, read one block of one band, and measure the rate."""
    trust = Trust()
    try:
        area = read_area(AreaParams(point=(104.976, 8.7674), size_km=30), trust)
        result = search_scenes(SearchParams(), area, periods_of([2020], ("01-01", "03-31")), trust=trust)
        scene = result.scenes[0]
        tile = tiles_of(area.geometry)[0]
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
