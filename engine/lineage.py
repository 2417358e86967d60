"""Where every output of a run comes from, as a static STAC 1.1 catalog that is whole in itself.

``RUN/stac/catalog.json`` links a collection a product, and these their items, by relative links: the folder may be
moved with the run. An item names its files with their checksums, what made them, and by ``derived_from`` all they were
made of: scenes by unsigned address, other outputs by their items. ``RUN/stac/items.parquet`` holds the same items as
stac-geoparquet. Nothing is hashed anew that a marker or record vouches for.

References
----------
STAC 1.1.0; extensions projection 2.0.0, raster 2.0.0, eo 2.0.0, classification 2.0.0, processing 1.2.0, file 2.1.0,
version 1.2.0, render 2.0.0, scientific 1.0.0, mlm 1.4.0. stac-geoparquet 1.1.0.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import batched
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from shapely.geometry.base import BaseGeometry

import engine
from engine.card import EO_SCHEMA, ITEM_FILE, RASTER_SCHEMA, describe_band, stac_item, years_of
from engine.classify import as_asked
from engine.edit_tasks import edited_paths
from engine.errors import StoreError
from engine.files import bytes_sha256, write_bytes, write_text
from engine.grid import PIXEL_M, Tile
from engine.history_tasks import HISTORY_LAYERS, change_path, history_paths
from engine.landsat import BANDS
from engine.legend import (
    AS_MAPPED,
    CHANGES,
    CLASSES,
    EDITS,
    OUTSIDE_AREA,
    PAIRS,
    PROBABILITY_MISSING,
    PROBABILITY_RAMP,
    PROBABILITY_SCALE,
    Entry,
    threshold_code,
)
from engine.lookup import PLANETARY_COMPUTER
from engine.mask_archives import ABOUT
from engine.model import BANDS_MODEL, Model
from engine.params import RunParams
from engine.places import ObjectPath, Place, each, entries, relative
from engine.plan import Plan, TileYear, lonlat_outline
from engine.record import ITEMS, RECORD, STAC, citation, made_with
from engine.sample import part_path
from engine.scenes import Scene
from engine.store import fingerprint_of, marker_path, read_marker
from engine.tasks import map_paths
from engine.trust import redact, unsigned

CATALOG: Final = "catalog.json"
TABLE: Final = "items.parquet"

MOST_BYTES: Final = 2**25
"""Of an item; 40 years of a tile link some 2 000 scenes."""

STAC_VERSION: Final = "1.1.0"
_SCHEMA: Final = "https://stac-extensions.github.io/{}/schema.json".format
_EVERY: Final = tuple(_SCHEMA(f"{name}/v{v}") for name, v in (("processing", "1.2.0"), ("version", "1.2.0")))
_FILE: Final = _SCHEMA("file/v2.1.0")
_PROJECTION: Final = _SCHEMA("projection/v2.0.0")
_CLASSIFICATION: Final = _SCHEMA("classification/v2.0.0")
_RENDER: Final = _SCHEMA("render/v2.0.0")
_SCIENTIFIC: Final = _SCHEMA("scientific/v1.0.0")

PRODUCTS: Final = {
    "cubes": ("yearly composites", "Yearly composites of all clear Landsat looks, and statistics of the year."),
    "samples": ("training samples", "Labelled pixels drawn from the composites and the masks."),
    "models": ("classifiers", "What tells mangrove from other, with its card."),
    "maps": ("yearly mangrove maps", "Probability and class of mangrove, wall to wall, each year by itself."),
    "histories": ("histories", "All years of a pixel told together: what changed, when, and how surely."),
    "changes": ("change between two years", "Loss and gain between two years, by all years together."),
    "edited": ("maps as edited", "The yearly maps with what people drew over them; nothing else is made from these."),
    "summaries": (
        "tables, patches and mosaics",
        "What a run has once: areas, series, patches of change, mosaics; edits, suggestions, evaluation, assessment.",
    ),
}
"""Product -> title and what it is; a collection each."""

_COG: Final = "image/tiff; application=geotiff; profile=cloud-optimized"
_MEDIA: Final = {
    ".tif": _COG,
    ".zarr": "application/vnd.zarr; version=3",
    ".json": "application/json",
    ".csv": "text/csv",
    ".geojson": "application/geo+json",
    ".kml": "application/vnd.google-earth.kml+xml",
    ".md": "text/markdown",
    ".parquet": "application/vnd.apache.parquet",
    ".gpkg": "application/geopackage+sqlite3",
    ".png": "image/png",
    ".vrt": "application/xml",
    ".qml": "application/xml",
}
_ITEM_FILES: Final = (".json", ".geojson", ".ndjson", ".jsonl", ".parquet", ".geoparquet")
_LANDSAT: Final = {
    "name": "U.S. Geological Survey",
    "description": "Landsat Collection 2 Level 2 surface reflectance",
    "roles": ["producer", "licensor"],
    "url": "https://www.usgs.gov/landsat-missions/landsat-collection-2",
}

_EDITS_NAME: Final = re.compile(r"human edits v(\d{4,6})")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")

_AT_ONCE: Final = 256
"""Items made at a time."""

_ROWS_AT_ONCE: Final = 1024
_TIMES: Final = ("datetime", "start_datetime", "end_datetime")

Link = dict[str, str]
Source = tuple[str, str, str]
"""What something is made of: unsigned address or path, media type, title."""


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A finished run, as its catalog tells it."""

    params: RunParams
    record: Mapping[str, Any]
    """``RunRecord.data``."""

    folder: Path
    outputs: Place
    plan: Plan
    periods: Mapping[int, tuple[dt.datetime, dt.datetime]]
    """Year -> first instant and first instant after, UTC."""

    model: Model
    """As it lies in its folder."""

    model_folder: Place
    habitat: Sequence[str] = ()
    """Hrefs of the rasters of the habitat limit."""

    pairs: Sequence[tuple[int, int]] = ()
    """Years compared."""

    edits: Sequence[Mapping[str, Any]] = ()
    """What the marker of each version of the edits says, by rising version."""

    @property
    def stac(self) -> Path:
        return self.folder / STAC

    @property
    def items(self) -> Path:
        """Of the items of any product: all lie as deep."""
        return self.stac / "cubes"

    @property
    def versions(self) -> Mapping[str, str]:
        return made_with(self.record)

    @cached_property
    def asked(self) -> Model:
        """The model with the threshold and the prevalence that it was asked for."""
        return as_asked(self.model, self.params.classify)

    @cached_property
    def tells_model(self) -> bool:
        """Whether the model has an item: one from elsewhere may not say its years, and an item needs a time."""
        return bool(years_of(self.model, {}))

    @cached_property
    def model_sha256(self) -> str:
        # Once: a hash reads all trees anew.
        return self.model.sha256()


@dataclass(frozen=True, kw_only=True)
class _Output:
    """What an item is of."""

    product: str
    name: str
    title: str
    about: str
    """What was done, in words: the lineage."""

    geometry: BaseGeometry
    years: tuple[int, ...]
    properties: Mapping[str, Any]
    assets: Mapping[str, dict[str, Any]]
    links: Sequence[Link]
    sha256: str
    extensions: Sequence[str] = ()


class _Told(NamedTuple):
    """What a collection tells of an item."""

    id: str
    title: str
    bbox: Sequence[float] | None
    start: str
    end: str

    @classmethod
    def of(cls, item: Mapping[str, Any]) -> _Told:
        told = item["properties"]
        return cls(item["id"], told["title"], item.get("bbox"), told["start_datetime"], told["end_datetime"])


def write_catalog(run: Finished) -> Path:
    """Write the catalog of a run over that of an earlier command, and return its root.

    Of what lies in the folder already only documents that carry the mark of a run are deleted.

    Raises
    ------
    StoreError
        If it cannot be written, a folder of it is a link, or an output does not answer.
    """
    for folder in (run.stac, *(run.stac / product for product in PRODUCTS)):
        if folder.is_symlink():
            raise StoreError(f"{folder} is a link, and no catalog is written through one", fix="remove it")
    written: dict[str, bool] = {}
    for name, document in catalog_documents(run):
        write_text(run.stac / name, json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n")
        written[name] = document["type"] == "Feature"
    write_table([run.stac / name for name, is_item in written.items() if is_item], run.stac / TABLE)
    for product in PRODUCTS:
        for path in (run.stac / product).glob("*.json"):
            if f"{product}/{path.name}" not in written and _is_ours(path, product):  # of what is there no more
                path.unlink()
    return run.stac / CATALOG


def _is_ours(path: Path, product: str) -> bool:
    """Tell whether a file is a document that some run's catalog left in the folder of a product."""
    try:
        if path.is_symlink() or path.stat().st_size > MOST_BYTES:
            return False
        content = json.loads(path.read_text(encoding="utf-8"))
        told = content["properties"] if content["type"] == "Feature" else content
        named = path.stem == (content["id"] if content["type"] == "Feature" else "collection")
        return named and told["mangroves:product"] == product and "mangroves:run" in told
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return False


def catalog_documents(run: Finished) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every document of a run's catalog with its path below ``RUN/stac``: a collection after its items."""
    products = []
    for product in PRODUCTS:
        told = []
        for item in _items(run, product):
            yield f"{product}/{item['id']}.json", item
            told.append(_Told.of(item))
        if told:
            products.append(product)
            yield f"{product}/collection.json", _collection(run, product, told)
    yield CATALOG, _root(run, products)


def _items(run: Finished, product: str) -> Iterator[dict[str, Any]]:
    """Yield the items of a product; few are held at a time."""
    parts, tiles = run.plan.tile_years, run.plan.tiles
    sampled = parts if run.params.train.source == "here" else ()
    made: dict[str, tuple[Callable[[Any], dict[str, Any] | None], Iterable[Any]]] = {
        "cubes": (partial(_cube, run), parts),
        "samples": (partial(_sample, run), sampled),
        "maps": (partial(_map, run), parts),
        "histories": (partial(_history, run), tiles),
        "edited": (partial(_edited, run), parts if run.edits else ()),
        "changes": (lambda one: _change(run, *one), ((tile, pair) for tile in tiles for pair in run.pairs)),
    }
    if product == "models":
        yield from _models(run)
    elif product == "summaries":
        yield from _summaries(run)
    else:
        make, of = made[product]
        for some in batched(of, _AT_ONCE):
            yield from filter(None, each(make, some, within=run.outputs))


# --- products ----------------------------------------------------------------------------------------------------


def _cube(run: Finished, part: TileYear) -> dict[str, Any] | None:
    store = run.outputs / "cube" / part.tile.id / f"{part.year}.zarr"
    if (marker := read_marker(store)) is None:
        return None
    cube, lost = run.params.cube, {loss["scene"] for loss in marker["lost"]}
    scenes = [scene for scene in part.scenes if scene.id not in lost]
    composite = "geometric median" if cube.composite == "geomedian" else "median of each band"
    asset = _store_asset(run, store, marker, "Composite and statistics of the year (zarr)")
    asset["bands"] = [describe_band(name) for name in BANDS] + _layers(store)
    return _item(
        run,
        _Output(
            product="cubes",
            name=f"cube_{part.tile.id}_{part.year}",
            title=f"Composite of {part.year}, tile {part.tile.id}",
            about=f"Clear pixels of {marker['looks']} looks ({len(scenes)} scenes of Landsat Collection 2 Level 2) by "
            f"QA_PIXEL, QA_RADSAT and valid range, reduced to the {composite}, 10th and 90th percentiles and median "
            "absolute deviations of indices, share of looks that show water, and their number.",
            geometry=lonlat_outline(part.tile),
            years=(part.year,),
            properties={
                **_grid(part.tile),
                "processing:level": "L3",
                "processing:expression": _settings(cube=cube.model_dump(mode="json", exclude={"block_px", "requests"})),
                "mangroves:lost": sorted(lost),
                "mangroves:looks": marker["looks"],
                "mangroves:platforms": sorted({scene.platform for scene in scenes}),
                "renders": {
                    "false-colour": {
                        "title": "False colour: nir08, red, green",
                        "assets": ["zarr"],
                        "bidx": [4, 3, 2],
                        "rescale": [[7273, 21818]] * 3,
                        "resampling": "nearest",
                    }
                },
            },
            assets={"zarr": asset, "marker": _marker_asset(run, store)},
            links=_scene_links(run, scenes),
            sha256=marker["sha256"],
            extensions=(_PROJECTION, RASTER_SCHEMA, EO_SCHEMA, _RENDER),
        ),
    )


def _sample(run: Finished, part: TileYear) -> dict[str, Any] | None:
    path = part_path(run.outputs / "sample", part.tile.id, part.year)
    if (marker := read_marker(path)) is None:
        return None
    sha256 = marker["files"][path.name]
    return _item(
        run,
        _Output(
            product="samples",
            name=f"sample_{part.tile.id}_{part.year}",
            title=f"Sample of {part.year}, tile {part.tile.id}",
            about=f"{marker['rows']} pixels drawn by seed {run.params.seed}, stratified by region and class, labelled "
            f"by the mask of {marker['mask_year']}; {marker['thinned_rows']} of them as composites of fewer looks.",
            geometry=lonlat_outline(part.tile),
            years=(part.year,),
            properties={
                "processing:level": "L4",
                "processing:expression": _settings(
                    seed=run.params.seed, sample=run.params.sample.model_dump(mode="json")
                ),
                "mangroves:tile": part.tile.id,
                "mangroves:masks": list(run.record["masks"]),
            },
            assets={"data": _file_asset(run, path, "Labelled pixels (GeoParquet)", sha256)},
            links=[_item_link("cubes", f"cube_{part.tile.id}_{part.year}"), *_mask_links(run)],
            sha256=sha256,
        ),
    )


def _map(run: Finished, part: TileYear) -> dict[str, Any] | None:
    store = run.outputs / "maps" / str(part.year) / f"{part.tile.id}.zarr"
    if (marker := read_marker(store)) is None:
        return None
    tifs, model, masks = map_paths(store), run.asked, run.record["masks"]
    cube = read_marker(run.outputs / "cube" / part.tile.id / f"{part.year}.zarr") or {"lost": []}
    lost = {loss["scene"] for loss in cube["lost"]}
    code = threshold_code(model.threshold)
    titles = {"class": "Class (COG)", "probability": "Probability of mangrove at map prevalence (COG)"}
    assets = {kind: _file_asset(run, tif, titles[kind], marker["files"][tif.name]) for kind, tif in tifs.items()}
    assets["class"] |= {"bands": [{"name": "class", **_coded("uint8", OUTSIDE_AREA)}], **_classes(CLASSES)}
    assets["probability"]["bands"] = [
        {
            "name": "probability",
            "description": "Probability of mangrove at map prevalence",
            "unit": "1",
            "raster:scale": 1 / PROBABILITY_SCALE,
            **_coded("uint16", PROBABILITY_MISSING),
        }
    ]
    assets |= _styles(run, tifs)
    assets |= _store_assets(run, store, marker, "Class, probability and region (zarr)")
    return _item(
        run,
        _Output(
            product="maps",
            name=f"map_{part.tile.id}_{part.year}",
            title=f"Mangrove map of {part.year}, tile {part.tile.id}",
            about=f"Probability of mangrove by the trees {model.tree_sha256()[:12]}, on land of which "
            f"{model.training_prevalence:.2%} is mangrove; class mangrove from a probability of {model.threshold:g}. "
            f"Labels: {_mask_names(masks)}.",
            geometry=lonlat_outline(part.tile),
            years=(part.year,),
            properties={
                **_grid(part.tile),
                "processing:level": "L4",
                "processing:expression": {"format": "numpy", "expression": f"where(probability >= {code}, 2, 1)"},
                "mangroves:masks": list(masks),
                "mangroves:model_sha256": run.model_sha256,
                "mangroves:cube_sha256": cube.get("sha256", ""),
                "renders": {
                    "class": _class_render("class", CLASSES, "Class"),
                    "probability": {
                        "title": "Probability of mangrove",
                        "assets": ["probability"],
                        "rescale": [[0, PROBABILITY_SCALE]],
                        "nodata": PROBABILITY_MISSING,
                        # Of every value that rescaling gives: one without a colour is drawn transparent.
                        "colormap": {
                            str(value): [*colour, 255] for value, colour in enumerate(PROBABILITY_RAMP.colours(256))
                        },
                        "resampling": "nearest",
                    },
                },
            },
            assets=assets,
            links=[
                _item_link("cubes", f"cube_{part.tile.id}_{part.year}"),
                *_model_link(run),
                *_mask_links(run),
                *(_source_link(run, (href, _COG, "habitat limit")) for href in run.habitat),
                *_scene_links(run, [scene for scene in part.scenes if scene.id not in lost]),
            ],
            sha256=marker["sha256"],
            extensions=(_PROJECTION, RASTER_SCHEMA, _CLASSIFICATION, _RENDER),
        ),
    )


def _history(run: Finished, tile: Tile) -> dict[str, Any] | None:
    store = run.outputs / "change" / "history" / f"{tile.id}.zarr"
    if (marker := read_marker(store)) is None:
        return None
    years, legends = tuple(marker["years"]), {"kind": CHANGES, "class": CLASSES}
    assets: dict[str, dict[str, Any]] = {}
    for kind, tif in history_paths(store).items():
        layer = HISTORY_LAYERS[kind]
        asset = _file_asset(run, tif, f"{layer['long_name'].capitalize()} (COG)", marker["files"][tif.name])
        names = [f"{kind} {year}" for year in years] if kind in ("class", "probability", "uncertainty") else [kind]
        scaled = {"raster:scale": layer["scale_factor"]} if "scale_factor" in layer else {}
        asset["bands"] = [{"name": name, **scaled, **_coded(*_HISTORY_TYPES[kind])} for name in names]
        assets[kind] = asset | (_classes(legends[kind]) if kind in legends else {})
    assets |= _styles(run, {kind: history_paths(store)[kind] for kind in legends})
    assets |= _store_assets(run, store, marker, "All layers and years (zarr)")
    return _item(
        run,
        _Output(
            product="histories",
            name=f"history_{tile.id}",
            title=f"History {years[0]}-{years[-1]}, tile {tile.id}",
            about="All maps of a pixel told together "
            + (
                "by a hidden Markov model"
                if run.params.change.model == "hmm"
                else "as few level stretches of probability"
            )
            + f"; patches of less than {run.params.change.min_area_ha:g} ha are told apart.",
            geometry=lonlat_outline(tile),
            years=years,
            properties={
                **_grid(tile),
                "processing:level": "L4",
                "processing:expression": _settings(change=run.params.change.tracing),
                "mangroves:model_sha256": run.model_sha256,
                "mangroves:masks": list(run.record["masks"]),
                "renders": {"kind": _class_render("kind", CHANGES, "What happened")},
            },
            assets=assets,
            links=[*(_item_link("maps", f"map_{tile.id}_{year}") for year in years), *_model_link(run)],
            sha256=marker["sha256"],
            extensions=(_PROJECTION, RASTER_SCHEMA, _CLASSIFICATION, _RENDER),
        ),
    )


def _change(run: Finished, tile: Tile, pair: tuple[int, int]) -> dict[str, Any] | None:
    name = f"{pair[0]}-{pair[1]}"
    store = run.outputs / "change" / name / f"{tile.id}.zarr"
    if (marker := read_marker(store)) is None:
        return None
    tif = change_path(store)
    asset = _file_asset(run, tif, "Transition (COG)", marker["files"][tif.name])
    asset |= {"bands": [{"name": "transition", **_coded("uint8", OUTSIDE_AREA)}], **_classes(PAIRS)}
    return _item(
        run,
        _Output(
            product="changes",
            name=f"change_{tile.id}_{name}",
            title=f"Mangrove change {name}, tile {tile.id}",
            about=f"Classes of {pair[0]} and {pair[1]}, as the history of all years tells them, compared by pixel.",
            geometry=lonlat_outline(tile),
            years=pair,
            properties={
                **_grid(tile),
                "processing:level": "L4",
                "processing:expression": _settings(change=run.params.change.tracing, pair=list(pair)),
                "mangroves:model_sha256": run.model_sha256,
                "mangroves:masks": list(run.record["masks"]),
                "renders": {"transition": _class_render("transition", PAIRS, "Change")},
            },
            assets={
                "transition": asset,
                **_styles(run, {"transition": tif}),
                **_store_assets(run, store, marker, "Transition (zarr)"),
            },
            links=[_item_link("histories", f"history_{tile.id}")],
            sha256=marker["sha256"],
            extensions=(_PROJECTION, RASTER_SCHEMA, _CLASSIFICATION, _RENDER),
        ),
    )


def _models(run: Finished) -> Iterator[dict[str, Any]]:
    """Yield the items of the run's model and, where it was trained here, of the one of bands and indices."""
    here = run.params.train.source == "here"
    folders = (run.model_folder, *([run.model_folder / BANDS_MODEL] if here else []))
    links: list[Link] = []
    if here:
        labelled = {year for mask in run.record["masks"] for year in mask["labels_years"]}
        parts = [part for part in run.plan.tile_years if part.year in labelled]
        links = [_item_link("samples", f"sample_{part.tile.id}_{part.year}") for part in parts] + _mask_links(run)
    for folder in folders if run.tells_model else ():
        item = _model_item(run, folder, here)
        properties = item["properties"]
        for asset in item["assets"].values():
            asset["href"] = _href(folder / asset["href"].removeprefix("./"), run.items)
        about = (
            f"XGBoost fitted to the samples of {len(properties['mangroves:regions'])} regions; held out: "
            f"{', '.join(properties['mangroves:hold_out']) or 'none'}."
        )
        properties |= {
            **_common(run, properties["mangroves:sha256"], "models", about),
            "description": _noted(run, properties["description"]),
            "processing:level": "L4",
            "mangroves:settings": json.dumps(run.params.train.model_dump(mode="json"), sort_keys=True),
            **({"mangroves:edits": drawn} if (drawn := _edits_of(run.model)) else {}),
        }
        item["stac_extensions"] = sorted({*item["stac_extensions"], *_EVERY, _SCIENTIFIC})
        yield {**item, "collection": _collection_id(run, "models"), "links": _links_of_item(run, links)}


def _edits_of(model: Model) -> dict[str, Any]:
    """Return version and sha256 of the edits that a model was trained on, as its list of masks has them."""
    for mask in model.masks:
        version, sha256 = _EDITS_NAME.fullmatch(str(mask.get("name"))), str(mask.get("sha256"))
        if version and _SHA256.fullmatch(sha256):
            return {"version": int(version[1]), "sha256": sha256}
    return {}


def _model_item(run: Finished, folder: Place, here: bool) -> dict[str, Any]:
    """Return the item that a model's card has, as its trees say where it is not of this run."""
    if here:
        return json.loads((folder / ITEM_FILE).read_text(encoding="utf-8"))
    return stac_item(run.model, facts={"title": run.params.name, "notice": run.params.notice})


def _edited(run: Finished, part: TileYear) -> dict[str, Any] | None:
    store = run.outputs / "maps_edited" / str(part.year) / f"{part.tile.id}.zarr"
    if (marker := read_marker(store)) is None:
        return None
    titles = {"class": ("Class as edited (COG)", CLASSES, OUTSIDE_AREA), "edit": ("What was drawn", EDITS, AS_MAPPED)}
    tifs = edited_paths(store)
    assets: dict[str, dict[str, Any]] = {}
    for kind, (title, legend, nodata) in titles.items():
        asset = _file_asset(run, tifs[kind], title, marker["files"][tifs[kind].name])
        assets[kind] = asset | {"bands": [{"name": kind, **_coded("uint8", nodata)}], **_classes(legend, nodata)}
    assets |= _styles(run, tifs)
    assets |= _store_assets(run, store, marker, "Class and edits (zarr)")
    return _item(
        run,
        _Output(
            product="edited",
            name=f"edited_{part.tile.id}_{part.year}",
            title=f"Map of {part.year} as edited, tile {part.tile.id}",
            about="Classes of the map where nobody drew; mangrove, other or not observed where somebody did.",
            geometry=lonlat_outline(part.tile),
            years=(part.year,),
            properties={
                **_grid(part.tile),
                "processing:level": "L4",
                "processing:expression": _settings(edits=run.edits[-1]["version"]),
                "mangroves:masks": list(run.record["masks"]),
                "renders": {
                    "class": _class_render("class", CLASSES, "Class as edited"),
                    "edit": _class_render("edit", EDITS, "What was drawn", AS_MAPPED),
                },
            },
            assets=assets,
            links=[_item_link("maps", f"map_{part.tile.id}_{part.year}"), _item_link("summaries", "edits")],
            sha256=marker["sha256"],
            extensions=(_PROJECTION, RASTER_SCHEMA, _CLASSIFICATION, _RENDER),
        ),
    )


_TABLES: Final = (".csv", ".parquet", ".png", ".vrt", ".gpkg")
_EDITED_AREAS: Final = "areas_edited.csv"


def _summaries(run: Finished) -> Iterator[dict[str, Any]]:
    """Yield the items of what a run has once."""
    change, edited = run.outputs / "change", run.outputs / "maps_edited"
    folders: list[Place] = [run.folder, change, change / "history", *(change / f"{a}-{b}" for a, b in run.pairs)]
    folders += [run.outputs / "maps" / str(year) for year in run.plan.years]
    maps = [_item_link("maps", f"map_{p.tile.id}_{p.year}") for p in run.plan.tile_years]
    histories = [_item_link("histories", f"history_{tile.id}") for tile in run.plan.tiles] if run.pairs else []
    assets = _tables(run, folders)
    assets.pop(_EDITED_AREAS, None)
    assets[ITEMS] = _file_asset(run, run.folder / ITEMS, "Frozen list of scenes", run.record["items"]["sha256"])
    assets[ITEMS]["roles"] = ["metadata"]
    about = "Pixels counted by class, region and year, hectares on the ellipsoid; not adjusted for error."
    yield _summary(run, "summary", f"Areas, series and patches of {run.params.name}", about, assets, histories or maps)
    whole = _item_link("summaries", "summary")
    if run.edits:
        about = f"Polygons that people drew over the maps, in {len(run.edits)} versions; the last holds."
        yield _summary(run, "edits", "Polygons drawn by hand", about, _versions(run), [whole])
        about = "The maps with the polygons of the last version of the edits applied, and areas before and after."
        assets = _tables(run, [edited / str(year) for year in run.plan.years])
        table = run.folder / _EDITED_AREAS
        if table.is_file():
            assets[table.name] = _file_asset(run, table, table.name, bytes_sha256(table))
        if assets:
            links = [whole, _item_link("summaries", "edits")]
            yield _summary(run, "edited", "Mosaics and areas as edited", about, assets, links)
    for name, title, about in (
        ("suggest", "Points to label", "Pixels whose label would help the classifier most; no sample of anything."),
        ("evaluate", "Evaluation of the model", "The model judged on land it never saw."),
        ("assess", "Assessment of maps and change", "A stratified sample, its labels, and areas estimated from these."),
    ):
        assets = _tables(run, [run.folder / name], (*_TABLES, ".geojson", ".kml", ".md"))
        if assets:
            yield _summary(run, name, title, about, assets, [whole, *_model_link(run)])


def _tables(run: Finished, folders: Iterable[Place], suffixes: Sequence[str] = _TABLES) -> dict[str, dict[str, Any]]:
    """Describe the tables, charts and mosaics that lie directly in some folders."""
    assets: dict[str, dict[str, Any]] = {}
    for folder in folders:
        files = {path.name: path for path in entries(folder)[1]}
        for name, path in files.items():
            if name.startswith(".") or path.suffix not in suffixes or name == ITEMS:
                continue
            beside = files.get(f"{name}.json")
            sha256 = json.loads(beside.read_text(encoding="utf-8")).get("sha256") if beside else None
            assets[name] = _file_asset(run, path, name, sha256 or bytes_sha256(path))
    return assets


def _versions(run: Finished) -> dict[str, dict[str, Any]]:
    """Describe the versions of the edits."""
    named = [(name, sha256, of) for of in run.edits for name, sha256 in of["files"].items()]
    return {
        name: _file_asset(run, run.folder / "edits" / name, f"Version {of['version']}: {of['action']}", sha256)
        for name, sha256, of in named
    }


def _summary(
    run: Finished, name: str, title: str, about: str, assets: Mapping[str, dict[str, Any]], links: Sequence[Link]
) -> dict[str, Any]:
    return _item(
        run,
        _Output(
            product="summaries",
            name=name,
            title=title,
            about=about,
            geometry=shapely.union_all([lonlat_outline(tile) for tile in run.plan.tiles]),
            years=run.plan.years,
            properties={
                "processing:level": "L4",
                "processing:expression": _settings(change=run.params.change.tracing),
                "mangroves:masks": list(run.record["masks"]),
            },
            assets=assets,
            links=links,
            sha256=fingerprint_of([asset["file:checksum"] for _, asset in sorted(assets.items())]),
        ),
    )


# --- parts of an item --------------------------------------------------------------------------------------------


def _item(run: Finished, output: _Output) -> dict[str, Any]:
    start, end = run.periods[output.years[0]][0], run.periods[output.years[-1]][1] - dt.timedelta(seconds=1)
    properties = {
        "title": output.title,
        "datetime": None,
        "start_datetime": f"{start:%Y-%m-%dT%H:%M:%SZ}",
        "end_datetime": f"{end:%Y-%m-%dT%H:%M:%SZ}",
        **_common(run, output.sha256, output.product, output.about),
        "mangroves:years": list(output.years),
        **output.properties,
    }
    return {
        "type": "Feature",
        "stac_version": STAC_VERSION,
        "stac_extensions": sorted({*_EVERY, _FILE, _SCIENTIFIC, *output.extensions}),
        "id": output.name,
        "collection": _collection_id(run, output.product),
        "geometry": json.loads(shapely.to_geojson(output.geometry)),
        "bbox": whole_box([part.bounds for part in shapely.get_parts(output.geometry)]),
        "properties": dict(sorted(properties.items())),
        "links": _links_of_item(run, output.links),
        "assets": dict(output.assets),
    }


def whole_box(boxes: Sequence[Sequence[float]]) -> list[float]:
    """Return the narrowest box around boxes in degrees: west is east of east where it crosses the antimeridian.

    References
    ----------
    RFC 7946, 5.2.

    Examples
    --------
    >>> whole_box([(177.0, -18.0, 180.0, -17.0), (-180.0, -17.0, -179.0, -16.0)])
    [177.0, -18.0, -179.0, -16.0]
    """
    west, south, east, north = np.array(boxes, dtype=float).T
    crosses = west > east
    plain = np.where(crosses, -180, west).min(), np.where(crosses, 180, east).max()
    # Longitudes 0..360; what lies on both sides of Greenwich goes all round there.
    round_it = ~crosses & (west < 0) & (east > 0)
    turned_west, turned_east = np.where(west < 0, west + 360, west), np.where(east <= 0, east + 360, east)
    turned = np.where(round_it, 0, turned_west).min(), np.where(round_it, 360, turned_east).max()
    left, right = (turned[0], turned[1] - 360) if turned[1] - turned[0] < plain[1] - plain[0] else plain
    return [float(left), float(south.min()), float(right), float(north.max())]


def _common(run: Finished, sha256: str, product: str, about: str) -> dict[str, Any]:
    """Return what every item says: whose it is, what made it, and by which configuration and list of scenes."""
    notice, versions = run.params.notice, run.versions
    return {
        "description": _noted(run, PRODUCTS[product][1]),
        "license": run.params.about.licence,
        "providers": _providers(run),
        "sci:citation": citation(run.record, run.params),
        "version": f"{engine.__version__}+{sha256[:12]}",
        "processing:lineage": _noted(run, about),
        "processing:software": {name: str(text) for name, text in versions.items() if name != "engine_sha256"},
        "processing:version": engine.__version__,
        "mangroves:product": product,
        "mangroves:run": run.params.name,
        "mangroves:sha256": sha256,
        "mangroves:engine_sha256": str(versions["engine_sha256"]),
        "mangroves:config_sha256": run.record["config_sha256"],
        "mangroves:items_sha256": run.record["items"]["sha256"],
        **({"mangroves:notice": notice} if notice else {}),
    }


def _noted(run: Finished, text: str) -> str:
    """Return a text that begins with the notice of the run, where it has one."""
    notice = run.params.notice
    return f"{notice.rstrip('.')}. {text}" if notice and notice.rstrip(".") not in text else text


def _providers(run: Finished) -> list[dict[str, Any]]:
    about = run.params.about
    own = {"name": about.provider, "roles": ["processor"], **({"url": about.url} if about.url else {})}
    software = {"name": f"mangroves {engine.__version__}", "description": "software", "roles": ["processor"]}
    scenes = [] if run.params.notice.upper().startswith("SIMULATED") else [_LANDSAT]
    return [*scenes, own if about.provider else software]


def _settings(**sections: Any) -> dict[str, Any]:
    """Return settings of the configuration as an expression; as text, so that all items of a table have one type."""
    return {"format": "mangroves configuration", "expression": json.dumps(sections, sort_keys=True)}


def _grid(tile: Tile) -> dict[str, Any]:
    geobox = tile.geobox
    return {
        "proj:code": f"EPSG:{tile.epsg}",
        "proj:shape": list(tile.shape),
        "proj:transform": [float(value) for value in geobox.transform[:6]],
        "proj:bbox": [float(edge) for edge in geobox.extent.boundingbox],
        "mangroves:tile": tile.id,
        "gsd": PIXEL_M,
    }


_HISTORY_TYPES: Final = {
    "kind": ("uint8", OUTSIDE_AREA),
    "loss_year": ("uint16", 0),
    "gain_year": ("uint16", 0),
    "confidence": ("uint8", 0),
    "looks": ("uint16", 0),
    "tide_suspect": ("uint8", 0),
    "large": ("uint8", 0),
    "class": ("uint8", OUTSIDE_AREA),
    "probability": ("uint16", PROBABILITY_MISSING),
    "uncertainty": ("uint8", 255),
}


def _coded(dtype: str, nodata: int) -> dict[str, Any]:
    return {"data_type": dtype, "nodata": nodata, "raster:sampling": "area", "raster:spatial_resolution": PIXEL_M}


def _classes(legend: Sequence[Entry], nodata: int = OUTSIDE_AREA) -> dict[str, Any]:
    return {
        "classification:classes": [
            {
                "value": entry.code,
                "name": entry.name.replace(" ", "_").replace(",", ""),
                "title": entry.name,
                "description": entry.name,
                "color_hint": "".join(f"{channel:02X}" for channel in entry.colour),
                "nodata": entry.code == nodata,
            }
            for entry in legend
        ]
    }


def _class_render(asset: str, legend: Sequence[Entry], title: str, nodata: int = OUTSIDE_AREA) -> dict[str, Any]:
    colours = {str(entry.code): [*entry.colour, 0 if entry.code == nodata else 255] for entry in legend}
    return {"title": title, "assets": [asset], "nodata": nodata, "colormap": colours, "resampling": "nearest"}


def _layers(store: Place) -> list[dict[str, Any]]:
    """Describe the layers of a cube beside the composite, as the store's own metadata has them."""
    nodes = json.loads((store / "zarr.json").read_text(encoding="utf-8"))["consolidated_metadata"]["metadata"]
    found = []
    for name, node in sorted(nodes.items()):
        attrs = node.get("attributes", {})
        if len(node.get("shape", ())) == 2:
            band = {"name": name, "description": attrs.get("long_name", name), "data_type": node["data_type"]}
            band |= {"nodata": attrs["_FillValue"]} if "_FillValue" in attrs else {}
            found.append(band | ({"raster:scale": attrs["scale_factor"]} if "scale_factor" in attrs else {}))
    return found


def _href(place: Place, start: Path) -> str:
    """Return a relative path from a folder of the catalog, the address of what lies elsewhere."""
    return str(place) if isinstance(place, ObjectPath) else relative(place.resolve(), start.resolve())


def _asset(run: Finished, path: Place, title: str, roles: Sequence[str]) -> dict[str, Any]:
    href = _href(path, run.items)
    return {"href": href, "type": _MEDIA[path.suffix], "title": title, "roles": list(roles)}


def _file_asset(run: Finished, path: Place, title: str, sha256: str, role: str = "data") -> dict[str, Any]:
    size = path.size() if isinstance(path, ObjectPath) else path.stat().st_size
    # A multihash: 0x12 sha2-256, 0x20 bytes.
    return _asset(run, path, title, [role]) | {"file:size": size, "file:checksum": f"1220{sha256}"}


def _store_asset(run: Finished, store: Place, marker: Mapping[str, Any], title: str) -> dict[str, Any]:
    """Describe a zarr store: a folder has no checksum, so that of its decoded arrays is told."""
    return _asset(run, store, title, ["data", "zarr"]) | {"mangroves:sha256": marker["sha256"]}


def _store_assets(run: Finished, store: Place, marker: Mapping[str, Any], title: str) -> dict[str, dict[str, Any]]:
    """Describe a zarr store and its marker."""
    return {"zarr": _store_asset(run, store, marker, title), "marker": _marker_asset(run, store)}


def _marker_asset(run: Finished, store: Place) -> dict[str, Any]:
    path = marker_path(store)
    return _file_asset(run, path, "Completion marker: hashes, counts, losses", bytes_sha256(path), "metadata")


def _styles(run: Finished, tifs: Mapping[str, Place]) -> dict[str, dict[str, Any]]:
    """Describe the QGIS styles beside some rasters."""
    found = {kind: tif.with_suffix(".qml") for kind, tif in tifs.items()}
    return {
        f"{kind}-style": _file_asset(run, path, f"QGIS style of {kind}", bytes_sha256(path), "style")
        for kind, path in found.items()
        if path.is_file()
    }


# --- links -------------------------------------------------------------------------------------------------------


def _collection_id(run: Finished, product: str) -> str:
    return f"{run.params.name}-{product}"


def _links_of_item(run: Finished, sources: Iterable[Link]) -> list[Link]:
    return [
        {"rel": "root", "href": f"../{CATALOG}", "type": "application/json"},
        {"rel": "parent", "href": "./collection.json", "type": "application/json"},
        {"rel": "collection", "href": "./collection.json", "type": "application/json"},
        {
            "rel": "processing-execution",
            "href": f"../../{RECORD}",
            "type": "application/json",
            "title": "Record of the run",
        },
        *sources,
    ]


def _item_link(product: str, name: str) -> Link:
    return {
        "rel": "derived_from",
        "href": f"../{product}/{name}.json",
        "type": "application/geo+json",
        "title": name,
    }


def _model_link(run: Finished) -> list[Link]:
    return [_item_link("models", f"mangroves-{run.model_sha256[:16]}")] if run.tells_model else []


def _source_link(run: Finished, source: Source) -> Link:
    """Link what lies outside the catalog: by unsigned address, a file by its path from here."""
    href, media, title = source
    if "://" in href:
        where = redact(unsigned(href))
    else:
        where = Path(os.path.relpath(Path(href).expanduser().resolve(), run.items.resolve())).as_posix()
    return {"rel": "derived_from", "href": where, "type": media, "title": title}


def _scene_links(run: Finished, scenes: Iterable[Scene]) -> list[Link]:
    """Link scenes by the address of their item where the catalog they come from has one for each, else by a file."""
    search = run.params.search
    api = ""
    if len(search.catalogs) == 1:
        [catalog] = search.catalogs
        plain = unsigned(PLANETARY_COMPUTER if catalog == "planetary-computer" else catalog).rstrip("/")
        # An API, whose items lie there (OGC API - Features), unless it is a file: v1.0 and host.example end in none.
        if "://" in plain and Path(urlsplit(plain).path).suffix.lower() not in _ITEM_FILES:
            api = f"{plain}/collections/{quote(search.collection, safe='')}/items/"
    return [
        _source_link(
            run,
            (f"{api}{scene.id}", "application/geo+json", scene.id)
            if api
            else (scene.assets["red"], "image/tiff; application=geotiff", scene.id),
        )
        for scene in scenes
    ]


def _mask_links(run: Finished) -> list[Link]:
    """Link the masks that labelled this run's own samples."""
    if run.params.train.source != "here":
        return []
    links = []
    for mask in run.params.labels.masks:
        path = str(run.folder / "masks" / f"{mask.path}-{mask.year}") if mask.path in ABOUT else unsigned(mask.path)
        media = _MEDIA.get(Path(path).suffix, "application/octet-stream")
        links.append(_source_link(run, (path, media, f"mask {mask.name or Path(path).name} {mask.year}")))
    return links


def _mask_names(masks: Iterable[Mapping[str, Any]]) -> str:
    named = (f"{mask['name']} {mask['year']} ({mask['licence'] or 'licence not stated'})" for mask in masks)
    return "; ".join(dict.fromkeys(named)) or "not recorded"


# --- collections -------------------------------------------------------------------------------------------------


def _root(run: Finished, products: Sequence[str]) -> dict[str, Any]:
    return {
        "type": "Catalog",
        "stac_version": STAC_VERSION,
        "id": run.params.name,
        "title": run.params.name,
        "description": _noted(run, "Mangrove maps and all they come from."),
        "links": [
            {"rel": "root", "href": f"./{CATALOG}", "type": "application/json"},
            *(
                {"rel": "child", "href": f"./{name}/collection.json", "type": "application/json"}
                | {"title": PRODUCTS[name][0]}
                for name in products
            ),
            {
                "rel": "alternate",
                "href": f"./{TABLE}",
                "type": _MEDIA[".parquet"],
                "title": "All items, stac-geoparquet",
            },
        ],
    }


def _collection(run: Finished, product: str, items: Sequence[_Told]) -> dict[str, Any]:
    title, about = PRODUCTS[product]
    masks = run.record["masks"]
    whole = whole_box([item.bbox for item in items if item.bbox] or [(-180.0, -90.0, 180.0, 90.0)])
    licence = run.params.about.licence
    owed = "" if licence != "other" else " Their licence is not stated: whoever made them sets about.licence."
    return {
        "type": "Collection",
        "stac_version": STAC_VERSION,
        "stac_extensions": [_SCIENTIFIC],
        "id": _collection_id(run, product),
        "title": f"{run.params.name}: {title}",
        "description": _noted(run, f"{about} Labels: {_mask_names(masks)}.{owed}"),
        "license": licence,
        "providers": _providers(run),
        "sci:citation": citation(run.record, run.params),
        "keywords": ["mangrove", "Landsat", product],
        "mangroves:product": product,
        "mangroves:run": run.params.name,
        "extent": {
            "spatial": {"bbox": [whole]},
            "temporal": {"interval": [[min(item.start for item in items), max(item.end for item in items)]]},
        },
        "links": [
            {"rel": "root", "href": f"../{CATALOG}", "type": "application/json"},
            {"rel": "parent", "href": f"../{CATALOG}", "type": "application/json"},
            *(
                {"rel": "item", "href": f"./{item.id}.json", "type": "application/geo+json", "title": item.title}
                for item in items
            ),
        ],
    }


# --- stac-geoparquet ---------------------------------------------------------------------------------------------


def write_table(items: Sequence[Path], path: Path) -> None:
    """Write the documents of items as one stac-geoparquet file: a row an item, properties as columns.

    Links stay as they are in the items, relative to the folder of the item's collection. Documents are read twice, some
    at a time: for the columns there are, and to be written.

    References
    ----------
    stac-geoparquet 1.1.0, https://github.com/stac-utils/stac-geoparquet/blob/main/spec/stac-geoparquet-spec.md.
    """
    schema = pa.schema([])
    for some in batched(items, _ROWS_AT_ONCE):
        found = _schema_of([_row(item) for item in some])
        schema = pa.unify_schemas([schema, found], promote_options="permissive")
    geo = {
        "version": "1.1.0",
        "primary_column": "geometry",
        "columns": {"geometry": {"encoding": "WKB", "geometry_types": []}},
    }
    schema = schema.with_metadata({"geo": json.dumps(geo), "stac-geoparquet": json.dumps({"version": "1.1.0"})})
    content = pa.BufferOutputStream()  # compressed: a few hundred bytes an item
    with pq.ParquetWriter(content, schema, compression="zstd") as writer:
        for some in batched(items, _ROWS_AT_ONCE):
            writer.write_table(pa.Table.from_pylist([_row(item) for item in some], schema))
    write_bytes(path, content.getvalue().to_pybytes())


def _row(path: Path) -> dict[str, Any]:
    item = json.loads(path.read_text(encoding="utf-8"))
    properties = {
        name: dt.datetime.fromisoformat(value) if name in _TIMES and value else value
        for name, value in item["properties"].items()
    }
    geometry, box = item.get("geometry"), item.get("bbox")
    return (
        {name: item[name] for name in ("type", "stac_version", "stac_extensions", "id", "collection")}
        | {"geometry": None if geometry is None else shapely.to_wkb(shapely.geometry.shape(geometry))}
        | {"bbox": dict(zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)) if box else None}
        | {name: item[name] for name in ("links", "assets")}
        | properties
    )


def _schema_of(rows: Sequence[Mapping[str, Any]]) -> pa.Schema:
    """Return the columns that any row has, each of the one type that holds all its values."""
    fixed = {**dict.fromkeys(_TIMES, pa.timestamp("us", "UTC")), "geometry": pa.binary()}
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.schema([(name, fixed.get(name) or pa.infer_type([row.get(name) for row in rows])) for name in names])
