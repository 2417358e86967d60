"""``mangroves masks``: fetch reference masks for an area."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from engine.area import read_area
from engine.errors import ConfigError
from engine.mask_archives import get_masks
from engine.params import AreaParams
from engine.sign import Signer
from engine.trust import Trust
from jobs.report import Reporter


@click.group("masks")
def command() -> None:
    """Fetch reference masks."""


@command.command("get", short_help="Fetch ESA WorldCover or Global Mangrove Watch.")
@click.option("--source", type=click.Choice(["worldcover", "gmw"]), required=True, help="Whose mask.")
@click.option("--year", type=int, required=True, help="Year the mask shows.")
@click.option("--area", required=True, help="Polygon file, region of the study, or west,south,east,north.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("masks"), show_default=True, help="Folder.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output.")
def get(source: Any, year: int, area: str, out: Path, as_json: bool) -> None:
    """Fetch what an area needs of ESA WorldCover (Planetary Computer) or Global Mangrove Watch (Zenodo)."""
    reporter = Reporter(as_json=as_json)
    trust = Trust().with_roots(Path.cwd(), out, *([Path(area).parent] if Path(area).is_file() else []))
    folder = get_masks(
        source,
        year,
        read_area(area_params(area), trust),
        out,
        trust=trust,
        signer=Signer(trust),
        progress=reporter.say,
    )
    value = 95 if source == "worldcover" else 1
    reporter.result(
        {"path": str(folder), "year": year, "value": [value]},
        f"in a configuration: labels: {{masks: [{{path: {folder}, year: {year}, value: [{value}]}}]}}",
    )


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
