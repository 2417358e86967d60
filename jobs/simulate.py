"""``mangroves simulate``: write a simulated Landsat archive with known truth."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Final, get_type_hints

import click
import yaml
from distributed import Client
from pydantic import BeforeValidator, Field, NonNegativeInt, create_model

import engine
from engine.cluster import open_cluster, run_bounded
from engine.errors import ConfigError, StoreError
from engine.files import write_text
from engine.params import Params, Year
from engine.simulate import Archive, WorldParams, write_archive
from jobs.config import JSON, cluster_options, config_options, parse, read_mapping
from jobs.reporter import Reporter


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


def run_config(archive: Archive, out: Path, *, hold_out: Sequence[str]) -> dict[str, Any]:
    """Return the run configuration of an archive, ``out/run``: what a user would write for it."""
    masks = [
        {
            "path": str(path),
            "year": year,
            "name": "simulated mask",
            "licence": "CC0-1.0",
            "citation": f"made by mangroves {engine.__version__} from seed {archive.params.seed}; shows no real place",
        }
        for year, path in archive.masks.items()
    ]
    # One mask alone may be years away from all scenes.
    between = {"stable_between": sorted(archive.masks)} if len(masks) == 2 else {"allow_stale": True}
    return {
        "name": "run",
        "out": str(out),
        "area": {"file": str(archive.regions), "name_field": "name"},
        "years": sorted(set(archive.params.years)),
        "seed": archive.params.seed,
        "search": {"catalogs": [str(archive.items)]},
        "labels": {"masks": masks, **between},
        "train": {"hold_out": list(hold_out)},
    }


@click.command("simulate")
@click.argument("out", type=click.Path(path_type=Path))
@config_options("What to simulate (YAML, see above); flags and --set override it.")
@click.option("--regions", help="Regions of the published study to imitate, by comma.  [default: Vietnam2,India]")
@click.option("--years", help="First-last, or single years by comma, as 2012,2016-2018.  [default: 2016]")
@click.option("--size-px", type=int, help="Side of each region's square, 64 to 2048 pixels of 30 m.  [default: 512]")
@click.option(
    "--scenes-per-year",
    type=int,
    help="Of each region, 1 to 60.  [default: as many as each sensor took of the tropics]",
)
@click.option("--seed", type=int, help="Another seed, another world.  [default: 1]")
@click.option(
    "--setting",
    type=click.Choice(["coastal", "mainland"]),
    help="10-25 % mangrove, or 1-3 % before much evergreen forest.  [default: coastal]",
)
@cluster_options
@JSON
def command(
    out: Path,
    config: Path | None,
    overrides: tuple[str, ...],
    cluster: str,
    cluster_file: Path | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Write a simulated Landsat archive to OUT: COG scenes, STAC items, reference masks, DEM and truth.

    OUT/config.yaml is a run over it, from the folder where you are; one that is there stays as it is.

    The file of --config holds the keys of the flags and a few more, all optional:

    \b
    regions: [Vietnam2, India]
    years: [2012, 2016]         # or 2012,2016-2018
    size_px: 512
    scenes_per_year: 14
    seed: 1
    setting: coastal            # or mainland
    mask_years: [2009, 2013]    # default 3 years before the first and before the last
    overlap: 1.0                # multiplies the spread within classes
    region_shift: 1.0           # multiplies the difference between regions
    change_rate: 0.0015         # share of the mangrove that changes in a year; default by region
    utm_split: false            # true: the second path comes in the neighbouring UTM zone
    compression: zstd           # or deflate
    """
    params = read_world(config, overrides, {key: value for key, value in flags.items() if value is not None})
    reporter = Reporter(as_json=as_json)
    with open_cluster(cluster, cluster_file) as client:
        archive = simulate(params, out, client, reporter)
    config = out / "config.yaml"
    if not config.exists():
        held = [f"sim-{name}" for name in params.regions[1:][-1:]]
        write_text(config, yaml.safe_dump(run_config(archive, out, hold_out=held), sort_keys=False))
    result = {
        "config": str(config),
        "items": str(archive.items),
        "regions": str(archive.regions),
        "masks": {str(year): str(path) for year, path in archive.masks.items()},
        "notice": params.notice,
    }
    lines = [f"{name}: {value}" for name, value in result.items()]
    reporter.result(result, "\n".join([*lines, f"map it: mangroves run {config}"]))


def parse_names(value: Any) -> Any:
    """Return the names of ``Vietnam2,India``; what is not text as it is."""
    return [name.strip() for name in value.split(",")] if isinstance(value, str) else value


def parse_years(value: Any) -> Any:
    """Return the years of ``2012,2016-2018`` or of a number; what is neither as it is."""
    if not isinstance(value, str | int):
        return value
    years: set[int] = set()
    for part in str(value).split(","):
        span = _YEARS.fullmatch(part.strip())
        if span is None:
            raise ValueError(f"{part!r} is not a year or first-last")
        years |= set(range(int(span[1]), int(span[2] or span[1]) + 1))
    return sorted(years)


_YEARS: Final = re.compile(r"(\d{4})(?:-(\d{4}))?")
_TYPES: Final = get_type_hints(WorldParams) | {
    "regions": Annotated[tuple[str, ...], BeforeValidator(parse_names)],
    "years": Annotated[tuple[Year, ...], BeforeValidator(parse_years)],
    "mask_years": Annotated[tuple[Year, ...] | None, BeforeValidator(parse_years)],
    "seed": NonNegativeInt,
    "overlap": Annotated[float, Field(ge=0, le=10)],
    "region_shift": Annotated[float, Field(ge=0, le=10)],
}
_DEFAULTS: Final[dict[str, Any]] = {field.name: field.default for field in fields(WorldParams)} | {
    "regions": ("Vietnam2", "India"),
    "years": (2016,),
    "scenes_per_year": None,
}
_FIELDS: Final[dict[str, Any]] = {name: (_TYPES[name], default) for name, default in _DEFAULTS.items()}
World: Final = create_model("World", __base__=Params, **_FIELDS)
"""``WorldParams`` as a file or the command line gives it."""


def read_world(config: Path | None, overrides: tuple[str, ...], flags: dict[str, Any]) -> WorldParams:
    """Return the world of a file, with flags and then overrides in place of its keys.

    Raises
    ------
    ConfigError
        If the file cannot be read, or naming the first key that is wrong.
    """
    content = {} if config is None else read_mapping(config)
    source, see = str(config or "simulate"), "`mangroves simulate --help`"
    checked = parse(World, content | flags, overrides, source=source, see=see)
    try:
        return WorldParams(**checked.model_dump())
    except ValueError as error:
        raise ConfigError(f"{source}: {error}", fix=f"see {see}") from error
