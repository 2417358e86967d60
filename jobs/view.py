"""``mangroves view``: a run in full resolution in a browser of this machine, until it is stopped."""

from __future__ import annotations

import importlib.util
import json
import secrets
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import pyarrow.parquet as pq

from engine.classify import as_asked
from engine.edits import add_edits, as_geojson, read_layer
from engine.errors import ConfigError, ModelError, SampleError, StoreError, printable
from engine.model import Model, load_model
from engine.overview import find_layers, group_tiles, region_boxes, stretch_of
from engine.page import Result, page_data, page_files
from engine.places import ObjectPath
from engine.ranges import Access
from engine.rows import PIXEL_YEAR
from engine.sample import read_sample
from engine.scores import needed_columns, score_part
from engine.trust import Trust, check_inside
from engine.viewer import Drawing, Shown, create_app, judged_points, page_layers
from engine.why import pixel_at
from jobs.config import ALLOW_HOST, ALLOW_ROOT, JSON, trust_of
from jobs.edit import whoami
from jobs.reporter import Reporter
from jobs.server import make_server, serve_on
from jobs.why import Asked, open_asked

_ROWS_AT_ONCE: Final = 2**16
_CONNECTIONS: Final = 128
_GRACE_SECONDS: Final = 2


@click.command("view")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, show_default=True, help="Port of 127.0.0.1; 0 for any."
)
@click.option("--read-only", is_flag=True, help="Nothing can be drawn, and drawn polygons are not shown.")
@ALLOW_HOST
@ALLOW_ROOT
@JSON
def command(
    run: Path, port: int, read_only: bool, allow_host: tuple[str, ...], allow_root: tuple[str, ...], as_json: bool
) -> None:
    """Show a run in full resolution: print an address for a browser of this machine, and serve it until stopped.

    RUN is the folder of a run with finished maps; nothing but that folder is needed. Other machines do not reach the
    address, other users of this one do. A click tells a pixel's story from what the run holds; when the scenes of a
    year are opened in it, they are read again from their source, of which --allow-host and --allow-root allow more.
    Polygons drawn on the page become a version of the run's edits; `mangroves edit` writes the maps as edited.
    """
    check_packages()
    reporter = Reporter(as_json=as_json)
    trust = trust_of(None, hosts=allow_host, roots=allow_root)
    shown = open_shown(run, trust, reporter, roots=allow_root, read_only=read_only)
    try:
        listener = socket.create_server(("127.0.0.1", port))
    except OSError as error:
        raise ConfigError(
            f"port {port} cannot be used ({error.strerror})", fix="give another --port, or none"
        ) from error
    with listener:
        port = listener.getsockname()[1]
        address = f"http://127.0.0.1:{port}/"
        reporter.result({"address": address, "layers": list(shown.layers)}, f"{address}  (Ctrl-C ends it)")
        app = create_app(shown, port=port)
        serve_on(listener, make_server(app, connections=_CONNECTIONS, grace_seconds=_GRACE_SECONDS))


def check_packages() -> None:
    """Say what to install where the packages of the viewer are missing.

    Raises
    ------
    ConfigError
    """
    for name in ("starlette", "uvicorn"):
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f"mangroves view needs {name.replace('_', '-')}", fix="pip install 'mangroves[view]'")


def open_shown(
    run: Path, trust: Trust, reporter: Reporter, *, roots: tuple[str, ...] = (), read_only: bool = False
) -> Shown:
    """Open a run to be shown.

    Parameters
    ----------
    run : Path
    trust : Trust
        Of the command, for the area, the masks and the scenes.
    reporter : Reporter
    roots : tuple of str
        Folders that links in the run may lead to.
    read_only : bool
        Whether nothing may be drawn, as in a run without a map.

    Raises
    ------
    EngineError
        If there is no run, nothing of it can be shown, or a link leads out of its folder.
    """
    asked = open_asked(run, trust)
    if isinstance(asked.outputs, ObjectPath):
        raise ConfigError(f"outputs of the run are in {asked.outputs}", fix="copy them to the run's folder")
    inside = Trust().with_roots(asked.folder, *roots)
    check_inside(asked.folder, inside)
    layers = find_layers(asked.outputs, asked.params.years)
    if not layers:
        raise StoreError(f"{asked.outputs} holds no finished map", fix="run `mangroves run` or `classify` first")
    for layer in layers:
        for source in layer.tiles.values():
            inside.path(str(source.place), what=f"layer {layer.id}")
    groups = group_tiles(layers)
    composites = [layer for layer in layers if layer.kind == "composite"]
    stretches = [(group.tiles, stretch_of(composites, group)) for group in groups]
    boxes = np.array([group.box(*group.bounds) for group in groups])
    mapped = any(layer.kind == "class" for layer in layers)
    drawing = drawing_of(asked.folder) if mapped and not read_only else None
    data = page_data(
        Result(folder=asked.folder, outputs=asked.outputs, record=asked.record, params=asked.params),
        page_layers(layers, [boxes[:, 0].min(axis=0).tolist(), boxes[:, 1].max(axis=0).tolist()]),
        region_boxes(asked.outputs, asked.params.years, groups),
        points=read_points(asked, reporter),
        story="story",
        edits=None if drawing is None else {"url": "edits", "token": drawing.token},
    )

    tiles = {name: tile for group in groups for name in group.tiles if (tile := asked.tile(name))}

    def story(lon: float, lat: float, year: int | None) -> dict[str, Any]:
        pixel_at(list(tiles.values()), lon, lat)  # of what is mapped: the area's file may be gone
        return asked.story(lon, lat) if year is None else {"scenes": asked.states(lon, lat, year)}

    return Shown(
        files={name: (content, media_type(name)) for name, content in page_files(data).items()},
        layers={layer.id: layer for layer in layers},
        tiles=tiles,
        years=tuple(asked.params.years),
        stretches={tile: stretch for tiles, stretch in stretches for tile in tiles},
        access=Access(inside),
        story=story,
        drawing=drawing,
    )


def drawing_of(run: Path) -> Drawing:
    """Return how what is drawn in the viewer of a run is kept: as a version of its edits, by who started it."""

    def polygons() -> dict[str, Any]:
        return as_geojson(read_layer(run))

    def add(features: Mapping[str, Any]) -> dict[str, Any]:
        layer, added = add_edits(run, features, author=whoami(), source="the viewer")
        said = (
            f"{added} polygon(s) are new in version {layer.version}; `mangroves edit {run}` writes the maps as edited."
        )
        return {"version": layer.version, "added": added, "said": printable(said)}

    return Drawing(token=secrets.token_urlsafe(32), polygons=polygons, add=add)


def media_type(name: str) -> str:
    """Return the media type of a file of the page."""
    kinds = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
    return f"{kinds.get(Path(name).suffix, 'text/plain')}; charset=utf-8"


def read_points(asked: Asked, reporter: Reporter) -> list[dict[str, Any]] | None:
    """Return the sampled points that the model of a run was judged by, None where there are none; say how many."""
    try:
        model = load_model(asked.outputs / "model")
        model = as_asked(model, asked.params.classify)
        points = _points_of_folds(asked, model)
        if points is None:
            sample = read_sample(asked.outputs / "sample")
            sample = sample[needed_columns(sample.columns, model.features)]
            scores = (score_part(part.compute(scheduler="synchronous"), model) for part in sample.to_delayed())
            points = judged_points(scores, seed=asked.params.seed)
    except (ModelError, SampleError) as error:
        reporter.say(f"view      no judged points: {error.problem}")
        return None
    shown, total = (sum(counts) for counts in zip(*((len(of["points"]), of["total"]) for of in points), strict=True))
    if not total:
        reporter.say("view      no judged points: the model saw all land of the sample; run `mangroves evaluate` first")
        return None
    reporter.say(f"view      {shown:,} of {total:,} sampled points on land the model never saw")
    return points


def _points_of_folds(asked: Asked, model: Model) -> list[dict[str, Any]] | None:
    """Return the points of the last evaluation of a model, of each what it said; None where there is none of it."""
    folder = asked.folder / "evaluate"
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        if summary["model_sha256"] != model.sha256():
            return None
        columns = ["region", "positive", "mapped", "probability", "lon", "lat", *PIXEL_YEAR]
        with pq.ParquetFile(folder / "scores.parquet", pre_buffer=False) as file:
            parts = (batch.to_pandas() for batch in file.iter_batches(_ROWS_AT_ONCE, columns=columns))
            return judged_points(parts, seed=asked.params.seed)
    except (OSError, ValueError, LookupError, TypeError):  # of arrow's errors each is one of these
        return None
