"""``mangroves page``: the result folder of a run, which opens from a file manager or any static host."""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path
from typing import Any, Final

import click

from engine.downloads import find_offers, take, write_patches
from engine.errors import StoreError
from engine.files import cannot_write
from engine.overview import find_layers, group_tiles, region_boxes, write_overviews
from engine.page import PAGE, Result, page_data, write_page
from engine.page.folder import owned_files, put_folder
from engine.places import Place
from engine.record import read_record
from engine.trust import Trust, check_inside
from jobs.config import ALLOW_ROOT, JSON, named_run, recorded_config, trust_of
from jobs.reporter import Reporter

FOLDER: Final = "page"
"""In the folder of the run, where nothing else is named."""

MEGABYTES: Final = 20
_PICTURES: Final = 0.6
"""Of the folder's bytes."""

_OWN_BYTES: Final = 2_000_000
"""Left for the page itself and its data."""


@click.command("page")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Folder to make; default `page` in that of the run.")
@click.option(
    "--megabytes",
    type=click.IntRange(min=4),
    default=MEGABYTES,
    show_default=True,
    help="Of the folder, at most: pictures get coarser, and fewer files are copied.",
)
@ALLOW_ROOT
@JSON
def command(run: Path, out: Path | None, megabytes: int, allow_root: tuple[str, ...], as_json: bool) -> None:
    """Make a folder to look at a run in, with a map, areas, patches of change, downloads and provenance.

    RUN is the folder of the run. What is made opens in a browser from where it lies, without a network, or from any
    static host; it may be moved and given away.
    """
    folder, record, outputs = named_run(run, None, trust_of(None, roots=allow_root))
    check_inside(folder, Trust().with_roots(folder, *allow_root))
    result = Result(folder=folder, outputs=outputs, record=record, params=recorded_config(folder, record))
    content = make_page(result, out or folder / FOLDER, megabytes=megabytes)
    metres = content["pixel_m"]
    shown = f"{metres[0]:g} m" if metres[0] == metres[-1] else f"{metres[0]:g}-{metres[-1]:g} m"
    lines = [
        f"{content['layers']} layers of {content['regions']} regions at {shown} a pixel, {content['megabytes']:.1f} MB",
        f"open {content['page']}",
    ]
    Reporter(as_json=as_json).result(content, "\n".join(lines))


def page_of(folder: Path, outputs: Place) -> Path:
    """Make the page of a run that has just finished where it belongs, and return what to open."""
    record = read_record(folder)
    if record is None:
        raise StoreError(f"{folder / 'run.json'} is not there", fix="name the folder of a run that was begun")
    result = Result(folder=folder, outputs=outputs, record=record, params=recorded_config(folder, record))
    return Path(make_page(result, folder / FOLDER)["page"])


def make_page(result: Result, out: Path, *, megabytes: int = MEGABYTES) -> dict[str, Any]:
    """Make the folder beside its place, and put it there when it is whole; say what is in it."""
    owned_files(out)
    out = out.resolve()
    layers = find_layers(result.outputs, result.params.years)
    if not layers:
        raise StoreError(f"{result.outputs} holds no finished map", fix="run `mangroves run` or `classify` first")
    most = megabytes * 1_000_000
    building = out.with_name(f".{out.name}.{secrets.token_hex(4)}.part")
    try:
        building.mkdir(parents=True)
        groups = group_tiles(layers)
        pictures = write_overviews(building / "images", layers, groups, most_bytes=int(_PICTURES * most))
        shown: list[dict[str, Any]] = []
        for layer in layers:
            images = [
                {"url": f"images/{one.path.name}", "box": one.box, "pixel_m": one.pixel_m}
                for one in pictures
                if one.layer is layer
            ]
            shown.append({"kind": layer.kind, "year": layer.year, "images": images})
        patches = write_patches(result.outputs / "change" / "patches.parquet", building)
        left = most - _OWN_BYTES - _bytes(building)
        files = take(find_offers(result.folder, result.outputs, layers), building, most_bytes=left)
        files[:0] = [patches] if patches else []
        regions = region_boxes(result.outputs, result.params.years, groups)
        write_page(building, page_data(result, shown, regions, downloads=files))
        written = _bytes(building)
        put_folder(building, out)
    except OSError as error:
        raise cannot_write(out, error) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return {
        "page": str(out / PAGE),
        "layers": len(layers),
        "regions": len(regions),
        "pixel_m": sorted({one.pixel_m for one in pictures}),
        "copied": sum(bool(file["url"]) for file in files),
        "megabytes": round(written / 1e6, 2),
    }


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
