"""``mangroves masks``: fetch reference masks for an area."""

from __future__ import annotations

from pathlib import Path

import click
import yaml

from engine.area import read_area
from engine.errors import ConfigError
from engine.mask_archives import ABOUT, get_masks
from engine.params import AreaParams
from engine.sign import Signer
from jobs.config import ALLOW_HOST, ALLOW_ROOT, JSON, config_options, given_config, trust_of
from jobs.reporter import Reporter


@click.group("masks")
def command() -> None:
    """Fetch reference masks."""


@command.command(
    "get",
    short_help="Fetch ESA WorldCover or Global Mangrove Watch.",
    epilog="\b\nExamples:\n"
    "  mangroves masks get --source gmw --year 2020 --area 104.6,8.5,105.2,9.0\n"
    "  mangroves masks get --config my-coast.yaml",
)
@click.option("--source", type=click.Choice(list(ABOUT)), help="Whose mask.")
@click.option("--year", type=int, help="Year the mask shows; worldcover: 2020, 2021; gmw: 1996, 2007-2010, 2015-2020.")
@click.option("--area", help="Polygon file, region of the study, or west,south,east,north in degrees.")
@config_options("Run configuration (YAML), in place of those three: its area, and all masks it names by source.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("masks"), show_default=True, help="Folder.")
@ALLOW_HOST
@ALLOW_ROOT
@JSON
def get(
    source: str | None,
    year: int | None,
    area: str | None,
    config: Path | None,
    overrides: tuple[str, ...],
    out: Path,
    allow_host: tuple[str, ...],
    allow_root: tuple[str, ...],
    as_json: bool,
) -> None:
    """Fetch what an area needs of ESA WorldCover (Planetary Computer) or Global Mangrove Watch (Zenodo).

    Each mask becomes a folder OUT/SOURCE-YEAR with its licence, citation and checksums. A run fetches by itself the
    masks that its configuration names by source; this command is for having them beforehand, or for other uses.
    """
    trust = trust_of(config, hosts=allow_host, roots=(*allow_root, out))
    params = given_config(config, overrides)
    if params is None and source and year is not None and area:
        wanted, where = [(source, year)], area_params(area)
        trust = trust.with_roots(Path(area).parent) if where.file else trust
    elif params is not None and source is year is area is None:
        wanted, where = [(mask.path, mask.year) for mask in params.labels.masks if mask.path in ABOUT], params.area
    else:
        raise click.UsageError("give --source, --year and --area, or --config in place of those three")
    if not wanted:
        raise ConfigError(f"{config}: labels.masks names no mask by source", fix=f"name {' or '.join(ABOUT)} as path")
    reporter, signer, place = Reporter(as_json=as_json), Signer(trust), read_area(where, trust)
    masks = []
    for name, of_year in dict.fromkeys(wanted):
        folder = get_masks(name, of_year, place, out, trust=trust, signer=signer, progress=reporter.say)
        masks.append({"path": str(folder), "year": of_year, "value": ABOUT[name]["value"]})
    section = yaml.safe_dump({"labels": {"masks": masks}}, sort_keys=False, default_flow_style=None)
    reporter.result({"masks": masks}, f"in a configuration:\n{section.rstrip()}")


def area_params(text: str) -> AreaParams:
    """Return the area of ``--area``: a file, a bounding box, or a region's name."""
    if Path(text).is_file():
        return AreaParams(file=text)
    if "," in text:
        try:
            west, south, east, north = (float(part) for part in text.split(","))
            return AreaParams(bbox=(west, south, east, north))
        except ValueError as error:
            raise ConfigError(f"--area {text!r} is not west,south,east,north", fix="give degrees") from error
    if "/" in text or Path(text).suffix:
        raise ConfigError(f"--area {text} does not exist", fix="give a polygon file, a box, or a region's name")
    return AreaParams(regions=(text,))
