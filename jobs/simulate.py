"""``mangroves simulate``: write a simulated Landsat archive with known truth."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click
from distributed import Client

from engine.cluster import open_cluster, run_bounded
from engine.errors import ConfigError, StoreError
from engine.simulate import Archive, WorldParams, write_archive
from jobs.report import Reporter


def simulate(params: WorldParams, out: Path, client: Client, reporter: Reporter) -> Archive:
    """Write an archive with the workers of a cluster, or return it where it already stands."""

    def map_tasks(function: Callable[[Any], Any], arguments: list[Any]) -> Iterable[Any]:
        calls = run_bounded(client, function, [(argument,) for argument in arguments])
        return reporter.track((result for _, result in calls), len(arguments), "simulate")

    try:
        return write_archive(params, out, map_tasks=map_tasks)
    except OSError as error:
        reason = error.strerror or str(error)
        raise StoreError(
            f"archive {out} cannot be written ({reason})", fix="free space or choose another OUT"
        ) from error


@click.command("simulate")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--regions", default="Vietnam2,India", show_default=True, help="Study regions to imitate, by comma.")
@click.option("--years", default="2016", show_default=True, help="First-last, or single years by comma.")
@click.option("--size-px", default=512, show_default=True, type=click.IntRange(64, 2048), help="Side of a region.")
@click.option("--scenes-per-year", type=click.IntRange(1, 100), help="Default as each sensor and climate gives.")
@click.option("--seed", default=1, show_default=True, type=click.IntRange(0), help="Another seed, another world.")
@click.option(
    "--setting",
    type=click.Choice(["coastal", "mainland"]),
    default="coastal",
    show_default=True,
    help="Much mangrove, or little before much evergreen forest.",
)
@click.option("--cluster", default="local", show_default=True, metavar="PROFILE", help="Where to work.")
@click.option("--cluster-file", type=click.Path(path_type=Path), help="Profiles; default ./cluster.yaml.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output.")
def command(
    out: Path,
    regions: str,
    years: str,
    size_px: int,
    scenes_per_year: int | None,
    seed: int,
    setting: Any,
    cluster: str,
    cluster_file: Path | None,
    as_json: bool,
) -> None:
    """Write a simulated Landsat archive to OUT: COG scenes, STAC items, reference masks, DEM and truth."""
    try:
        params = WorldParams(
            regions=tuple(name.strip() for name in regions.split(",")),
            years=parse_years(years),
            size_px=size_px,
            scenes_per_year=scenes_per_year,
            seed=seed,
            setting=setting,
        )
    except ValueError as error:
        raise ConfigError(str(error), fix="see `mangroves simulate --help`") from error
    reporter = Reporter(as_json=as_json)
    with open_cluster(cluster, cluster_file) as client:
        archive = simulate(params, out, client, reporter)
    result = {
        "items": str(archive.items),
        "regions": str(archive.regions),
        "masks": {str(year): str(path) for year, path in archive.masks.items()},
        "notice": params.notice,
    }
    reporter.result(result, "\n".join(f"{name}: {value}" for name, value in result.items()))


def parse_years(text: str) -> tuple[int, ...]:
    """Return the years of ``2012,2016-2018``."""
    years: set[int] = set()
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if not first.isdigit() or not (last or first).isdigit():
            raise click.BadParameter(f"{part!r} is not a year or first-last", param_hint="--years")
        years |= set(range(int(first), int(last or first) + 1))
    return tuple(sorted(years))
