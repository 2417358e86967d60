"""``mangroves doctor``: what client and workers have, what is missing, and whether they reach archive and outputs."""

from __future__ import annotations

import importlib.metadata
import math
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click
from dask.system import CPU_COUNT
from distributed import Client
from distributed.system import MEMORY_LIMIT

from engine.area import Area, Region, read_area, wrap
from engine.catalog import periods_of, search_scenes
from engine.cluster import check_visible, open_cluster, worker_bytes, worker_count
from engine.diagnose import Machine, clock_error, examine, try_read
from engine.errors import EngineError
from engine.grid import Tile, tiles_of
from engine.landsat import BANDS
from engine.params import AreaParams, RunParams, SearchParams
from engine.places import Place
from engine.plan import COMPRESSION, task_bytes
from engine.ranges import READ_BUDGET_S, Access
from engine.reader import read_asset
from engine.scenes import Scene
from engine.sign import Signer
from engine.trust import Trust, redact
from jobs.config import (
    ALLOW_HOST,
    ALLOW_ROOT,
    JSON,
    cluster_options,
    config_options,
    given_config,
    run_folder,
    run_outputs,
    trust_of,
)
from jobs.reporter import Reporter

type Check = dict[str, Any]
"""``check``, ``state`` (ok, warn or bad), ``found`` and, unless all is well, ``fix``."""

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

WORKER_CLOCK_SECONDS = 5.0
"""Between client and worker: what is made is judged by the times of files."""

ARCHIVE_CLOCK_SECONDS = 30.0
"""Between this machine and the archive: a token begins and ends by its clock, and is taken anew 60 s before."""

ASKED_WORKERS = 8
"""One a host, at most so many read from the archive."""

PROBED = RunParams(area=AreaParams(point=(104.976, 8.7674), size_km=30), years=(2020,), season=("01-01", "03-31"))
"""What is searched where no configuration says: Ca Mau in three months."""


@click.command("doctor")
@click.option(
    "--planetary-computer",
    is_flag=True,
    help="Also search the archive over the network, and sign and read one tile of one scene, here and on workers.",
)
@click.option("--reach", is_flag=True, help="The same of the catalogs that --config names.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Output folder, where disk space is measured; default that of --config, else runs.",
)
@config_options("Run configuration (YAML): check its output folder or store, search its largest tile and last year.")
@cluster_options
@ALLOW_HOST
@ALLOW_ROOT
@JSON
def command(
    planetary_computer: bool,
    reach: bool,
    out: Path | None,
    config: Path | None,
    overrides: tuple[str, ...],
    cluster: str,
    cluster_file: Path | None,
    allow_host: tuple[str, ...],
    allow_root: tuple[str, ...],
    as_json: bool,
) -> None:
    """Check versions, memory, disk, threads and clocks of client and workers; if asked also the archive."""
    trust = trust_of(config, hosts=allow_host, roots=allow_root)
    params = given_config(config, overrides)
    if reach and params is None:
        raise click.UsageError("--reach needs --config; without one there is --planetary-computer")
    if out is None:
        out = Path("runs") if params is None else run_folder(params, trust).parent
    outputs: Place = out if params is None else run_outputs(out, params.store, params.name, trust)
    archives: list[tuple[str, SearchParams]] = []
    archives += [("planetary computer", SearchParams())] if planetary_computer else []
    archives += [("catalog", params.search)] if reach and params is not None else []
    reporter = Reporter(as_json=as_json)
    checks = [check_versions(), check_disk(out)]
    unopened = True
    try:
        with open_cluster(cluster, cluster_file, say=reporter.say) as client:
            unopened = False
            checks += check_cluster(client, cluster, outputs)
            for name, search in archives:
                checks += check_archive(name, params or PROBED, search, trust, client)
    except EngineError as error:
        checks.append(bad("cluster", error.problem, error.fix))
        for name, search in archives if unopened else ():
            checks += check_archive(name, params or PROBED, search, trust)
    reporter.table("", ("check", "", "what was found"), ((c["check"], c["state"], c["found"]) for c in checks))
    wrong = [check for check in checks if check["state"] != "ok"]
    lines = [f"{check['check']}: {check['fix']}" for check in wrong if check.get("fix")]
    reporter.result({"checks": checks, "ok": not wrong}, "\n".join(lines) if wrong else "all is well")
    if any(check["state"] == "bad" for check in wrong):
        sys.exit(1)


def good(check: str, found: str) -> Check:
    """Return what is as it should be."""
    return {"check": check, "state": "ok", "found": found}


def warn(check: str, found: str, fix: str) -> Check:
    """Return what works, and might not or badly."""
    return {"check": check, "state": "warn", "found": found, "fix": fix}


def bad(check: str, found: str, fix: str) -> Check:
    """Return what a run would fail at."""
    return {"check": check, "state": "bad", "found": redact(found), "fix": fix}


def check_versions() -> Check:
    """Read the versions of Python and of the packages the engine stands on."""
    found, missing = [f"python {sys.version.split()[0]}"], []
    for name in PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        return bad("versions", f"missing {', '.join(missing)}", "install the project again: make setup")
    return good("versions", ", ".join(found))


def check_disk(out: Path) -> Check:
    """Measure free space where outputs go."""
    folder = next(parent for parent in (out.resolve(), *out.resolve().parents) if parent.is_dir())
    free = shutil.disk_usage(folder).free / 1e9
    found = f"{free:.0f} GB free at {folder}"
    return good("disk", found) if free >= LEAST_FREE_GB else warn("disk", found, "free space for outputs")


# The cluster


def check_cluster(client: Client, name: str, out: Place) -> list[Check]:
    """Check software, memory, threads, scratch and clocks of an open cluster's workers, and that they see outputs."""
    asked = time.time()
    answers = client.run(examine, on_error="return")
    waited = time.time() - asked
    workers = {address: answer for address, answer in answers.items() if isinstance(answer, Machine)}
    lost = [f"worker {address} ({answer!s:.160})" for address, answer in answers.items() if address not in workers]
    if not workers:
        fix = "install the same version of mangroves where workers run"
        return [bad("cluster", f"{lost[0] if lost else 'no worker'} cannot run this software", fix)]
    return [
        check_outputs(client, name, out),
        check_software_versions(client),
        check_memory(client, workers),
        check_threads(workers),
        check_scratch(workers),
        check_clocks(workers, asked, waited),
    ]


def check_outputs(client: Client, name: str, out: Place) -> Check:
    """Write where outputs go, from here and from every worker, and read what the other wrote; leave nothing."""
    made = [folder for folder in (out, *out.parents) if not folder.exists()] if isinstance(out, Path) else []
    try:
        check_visible(client, out)
    except EngineError as error:
        return bad("cluster", error.problem, error.fix)
    finally:
        for folder in made:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
    return good("cluster", f"{name}: {worker_count(client)} tasks at once, {CPU_COUNT} cores, sees {out}")


def check_software_versions(client: Client) -> Check:
    """Compare what scheduler and workers speak and run with what the client does.

    That the engine's own source is the same everywhere is checked with the outputs, as every run does.
    """
    found: Any = client.get_versions()
    here = found["client"]["packages"]
    others = {"the scheduler": found["scheduler"], **{f"worker {at}": said for at, said in found["workers"].items()}}
    for who, said in others.items():
        there = said["packages"] if said else {}
        differ = [name for name in here if there.get(name) != here[name]]
        if differ:
            shown = ", ".join(f"{name} {there.get(name)}, here {here[name]}" for name in differ[:5])
            return warn("software", f"{who} has {shown}", "install requirements.lock where scheduler and workers run")
    return good("software", f"client, scheduler and {len(found['workers'])} workers have the same")


def check_memory(client: Client, workers: Mapping[str, Machine]) -> Check:
    """Compare a task's memory with what a full tile takes, and a host's workers with what it has."""
    need, memory = task_bytes(TYPICAL_LOOKS, 1024), worker_bytes(client)
    has = f"{memory / 1e9:.1f} GB" if memory else "no limit on memory"
    found = (
        f"a task has {has}, the machine {MEMORY_LIMIT / 1e9:.0f} GB; "
        f"a full tile with {TYPICAL_LOOKS} looks in 1024 px blocks takes up to {need / 1e9:.1f} GB"
    )
    for host, of_host in by_host(workers).items():
        promised = sum(worker.limit_bytes for worker in of_host)
        if promised > 1.05 * of_host[0].memory_bytes:  # dask rounds
            shown = f"{promised / 1e9:.1f} GB, and it has {of_host[0].memory_bytes / 1e9:.1f} GB"
            return warn(
                "memory", f"workers of {host} may take {shown}", "lower memory_limit, or use fewer workers there"
            )
    if memory is not None and memory < need:
        return warn("memory", found, "fewer workers in cluster.yaml, or a smaller cube.block_px")
    return good("memory", found)


def check_threads(workers: Mapping[str, Machine]) -> Check:
    """Compare the threads that work on a host, those of tasks and those below them, with its cores."""
    for host, of_host in by_host(workers).items():
        threads, cores = sum(worker.threads for worker in of_host), of_host[0].cores
        if threads > cores:
            found = f"{host} runs {threads} tasks at once on {cores} cores"
            return warn("threads", found, "lower workers or threads_per_worker in cluster.yaml")
        if threads > 1 and any(_is_process(worker) and worker.openmp_threads != "1" for worker in of_host):
            found = f"workers of {host} have OMP_NUM_THREADS {of_host[0].openmp_threads or 'not set'} each"
            return warn("threads", found, "start them with OMP_NUM_THREADS=1 and OMP_WAIT_POLICY=passive")
    counts = [sum(worker.threads for worker in of_host) for of_host in by_host(workers).values()]
    return good("threads", f"at most {max(counts)} tasks at once on a host, each with a core of its own")


def _is_process(worker: Machine) -> bool:
    """Tell whether a worker is a process that runs one task at a time: in one of many threads XGBoost takes them all,
    by its own setting."""
    return worker.threads == 1


def check_scratch(workers: Mapping[str, Machine]) -> Check:
    """Look for the worker with the least room for what its memory does not hold."""
    address, least = min(workers.items(), key=lambda item: item[1].scratch_free_bytes)
    found = f"{least.scratch_free_bytes / 1e9:.0f} GB free at {least.scratch} of worker {address}"
    if least.scratch_free_bytes < LEAST_FREE_GB * 1e9:
        return warn("scratch", found, "free space there, or name another temporary-directory in ~/.config/dask")
    return good("scratch", found)


def check_clocks(workers: Mapping[str, Machine], asked: float, waited: float) -> Check:
    """Compare the clocks of workers, which answered between two moments, with the client's."""
    errors = {at: max(asked - one.time, one.time - asked - waited, 0.0) for at, one in workers.items()}
    address, most = max(errors.items(), key=lambda item: item[1])
    if most > WORKER_CLOCK_SECONDS:
        found = f"the clock of worker {address} is {most:.0f} s from this machine's"
        return warn("clock", found, "set both by NTP (timedatectl set-ntp true)")
    return good("clock", f"workers and this machine agree within {most + waited:.1f} s")


def by_host(workers: Mapping[str, Machine]) -> dict[str, list[Machine]]:
    """Return workers by the host they are on."""
    found: dict[str, list[Machine]] = defaultdict(list)
    for worker in workers.values():
        found[worker.host].append(worker)
    return found


# The archive


def check_archive(
    name: str, params: RunParams, search: SearchParams, trust: Trust, client: Client | None = None
) -> list[Check]:
    """Search the largest tile and last year of a run, sign and read here and on workers, and compare clocks."""
    try:
        tile, scene, count = find_scene(params, search, trust)
        access = Access(trust, Signer(trust))
        checks = [check_token(scene, access)]
        if checks[0]["state"] == "ok":
            checks.append(check_reading(name, tile, scene, count, access))
    except EngineError as error:
        return [bad(name, error.problem, error.fix)]
    if client is not None:
        checks.append(check_reading_workers(tile, scene, access, client))
    return [*checks, *check_archive_clock(search, trust)]


def find_scene(params: RunParams, search: SearchParams, trust: Trust) -> tuple[Tile, Scene, int]:
    """Return the largest tile of a run, the scene of its last year that covers most of it, and how many there are."""
    tile = max(tiles_of(read_area(params.area, trust).geometry), key=lambda tile: math.prod(tile.shape))
    outline = wrap(tile.geobox.geographic_extent.geom)
    periods = periods_of(params.years[-1:], params.season, params.dates)
    result = search_scenes(search, Area((Region(tile.id, outline),)), periods, trust=trust)
    return tile, max(result.scenes, key=lambda found: found.geometry.intersection(outline).area), len(result.scenes)


def check_token(scene: Scene, access: Access) -> Check:
    """Ask for a token where the archive wants one."""
    href = scene.assets["qa_pixel"]
    try:
        signed = access.signer.sign(href, READ_BUDGET_S) if access.signer is not None else href
    except EngineError as error:
        return bad("token", error.problem, error.fix)
    return good("token", "not needed" if signed == href else "arrived, and is kept in memory alone")


def check_reading(name: str, tile: Tile, scene: Scene, count: int, access: Access) -> Check:
    """Read a scene as a cube does, and measure the rate."""
    read_asset(scene, "qa_pixel", tile.geobox, access)  # signs, and opens the connection
    started = time.perf_counter()
    pixels = [read_asset(scene, band, tile.geobox, access) for band in BANDS]
    seconds = time.perf_counter() - started
    rate = sum(layer.nbytes for layer in pixels) / COMPRESSION / 1e6 / seconds
    height, width = tile.shape
    found = f"{count} scenes found, {len(pixels)} bands of {width} x {height} px in {seconds:.1f} s"
    told = f"{found}: about {rate:.1f} compressed MB/s (one reader), for `mangroves plan --mb-per-second`"
    return {**good(name, told), "mb_per_second": round(rate, 2)}


def check_reading_workers(tile: Tile, scene: Scene, access: Access, client: Client) -> Check:
    """Sign and read on one worker of each host."""
    first: dict[str, str] = {}
    for address in client.scheduler_info(n_workers=-1)["workers"]:
        first.setdefault(address.rpartition("://")[2].rpartition(":")[0], address)
    asked = list(first.values())[:ASKED_WORKERS]
    read: Callable[[], str] = partial(try_read, scene, tile.geobox, access)
    for address, answer in client.run(read, workers=asked, on_error="return").items():
        if answer:
            fix = "let workers reach the archive's hosts by https, and the token service with the client's PC_SDK_*"
            return bad("from workers", f"worker {address} cannot read scene {scene.id} ({answer!s:.160})", fix)
    return good("from workers", f"{len(asked)} of them, one a host, signed and read scene {scene.id}")


def check_archive_clock(search: SearchParams, trust: Trust) -> Iterator[Check]:
    """Compare this machine's clock with that of the first catalog that is a server."""
    for catalog in search.catalogs:
        if not catalog.startswith(("https://", "http://")):
            continue
        error = clock_error(catalog, trust)
        if error is None:
            return
        found = f"this machine's clock is {abs(error):.1f} s {'ahead of' if error > 0 else 'behind'} the catalog's"
        if abs(error) > ARCHIVE_CLOCK_SECONDS:
            yield bad("clock of the archive", found, "set it by NTP (timedatectl set-ntp true): tokens expire by it")
        else:
            yield good("clock of the archive", found)
        return
