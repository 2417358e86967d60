"""What an item may ask for, and which tile-years it needs."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import geopandas as gpd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import box

from engine.edits import add_edits, read_layer
from engine.errors import ConfigError, EngineError, StoreError
from engine.grid import Tile
from engine.plan import TileYear
from engine.reproduce import Asked, copy_edits, needed_parts, read_item

TILE = "z48_c08_r-016"
ITEM: dict[str, Any] = {
    "type": "Feature",
    "id": f"map_{TILE}_2019",
    "properties": {"mangroves:product": "maps", "mangroves:tile": TILE, "mangroves:years": [2019]},
    "assets": {
        "class": {"href": "../../maps/2019/class.tif", "roles": ["data"], "file:checksum": "1220" + "a" * 64},
        "style": {"href": "../../maps/2019/class.qml", "roles": ["style"], "file:checksum": "1220" + "b" * 64},
        "zarr": {"href": "../../maps/2019/x.zarr", "roles": ["data", "zarr"]},
    },
}
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=8), part, max_size=3),
    max_leaves=5,
)


def test_an_item_is_asked_for_the_files_of_its_data(tmp_path):
    path = tmp_path / "item.json"
    path.write_text(json.dumps(ITEM))
    asked = read_item(path)
    assert (asked.product, asked.tile, asked.years) == ("maps", TILE, (2019,))
    assert asked.files == {"class.tif": "a" * 64}


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(
        [
            (),
            ("type",),
            ("id",),
            ("assets",),
            ("assets", "class"),
            ("properties",),
            *(("properties", name) for name in ITEM["properties"]),
            *(("assets", "class", name) for name in ITEM["assets"]["class"]),
        ]
    ),
    ANY,
)
def test_any_item_is_read_or_refused_in_one_line(where, value):
    content = json.loads(json.dumps(ITEM))
    holder = content
    for name in where[:-1]:
        holder = holder[name]
    if where:
        holder[where[-1]] = value
    else:
        content = value
    with TemporaryDirectory() as folder:
        path = Path(folder, "item.json")
        path.write_text(json.dumps(content))
        try:
            asked = read_item(path)
        except EngineError:
            return  # which is one line whatever is named in it
    assert "/" not in asked.id
    assert asked.tile == TILE or asked.product == "models"


def test_a_history_needs_the_tiles_it_reaches_into_and_a_map_its_own():
    tiles = [Tile(48, col, -16, (-16 * 2048, col * 2048, 9, 9)) for col in (8, 9, 10)]
    tiles.append(Tile(49, 8, -16, (-16 * 2048, 8 * 2048, 9, 9)))
    parts = [TileYear(tile, year, ()) for tile in tiles for year in (1, 2)]

    def needed(product: str, *, context: bool = False) -> list[tuple[str, int]]:
        asked = Asked(
            id="x",
            product=product,
            tile=tiles[0].id,
            years=(2,),
            sha256="",
            model_sha256="",
            config_sha256="",
            items_sha256="",
            engine_sha256="",
            files={},
        )
        return [(part.tile.id[:7], part.year) for part in needed_parts(asked, parts, context=context)]

    assert needed("cubes") == needed("maps") == [("z48_c08", 2)]
    assert needed("maps", context=True) == [("z48_c08", 2), ("z48_c09", 2)]
    assert needed("histories") == [(f"z48_c{col}", year) for col in ("08", "09") for year in (1, 2)]
    assert len(needed("changes", context=True)) == 6
    assert len(needed("models")) == len(parts)
    with pytest.raises(ConfigError, match="no tile"):
        needed_parts(
            Asked(
                id="x",
                product="maps",
                tile="z01_c01_r+001",
                years=(2,),
                sha256="",
                model_sha256="",
                config_sha256="",
                items_sha256="",
                engine_sha256="",
                files={},
            ),
            parts,
            context=False,
        )


def test_the_edits_of_a_model_go_with_it_and_are_missed_in_one_line(tmp_path):
    square = gpd.GeoDataFrame({"kind": ["add"]}, geometry=[box(104.8, 8.6, 104.9, 8.7)], crs=4326)
    layer, _ = add_edits(tmp_path / "run", square, author="ana")
    add_edits(tmp_path / "run", square.assign(kind="remove"), author="ana")
    item = {
        "type": "Feature",
        "id": "mangroves-1",
        "assets": {},
        "properties": {
            "mangroves:product": "models",
            "mangroves:edits": {"version": layer.version, "sha256": layer.sha256},
        },
    }
    path = tmp_path / "item.json"
    path.write_text(json.dumps(item))
    asked = read_item(path)
    copy_edits(asked, tmp_path / "run", tmp_path / "again")
    found = read_layer(tmp_path / "again")
    assert (found.version, found.sha256) == (1, layer.sha256)
    (tmp_path / "run" / "edits" / "v0001.gpkg").write_bytes(b"another")
    with pytest.raises(StoreError, match=r"v0001.gpkg is not there, or not as mangroves-1 was trained on it"):
        copy_edits(asked, tmp_path / "run", tmp_path / "other")
    item["properties"]["mangroves:edits"] = {"version": "../1", "sha256": ""}
    path.write_text(json.dumps(item))
    with pytest.raises(ConfigError, match="is not the item of an output"):
        read_item(path)
