"""What a reader may take away: in which order it is offered, and how much of a table is held."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as Xml

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.downloads import find_offers, largest_patches, take
from engine.errors import StoreError
from engine.overview import Layer, Source

TILE = "z48_c08_r-016"


def layer(folder: Path, kind: str, year: int | None) -> Layer:
    where = folder / "maps" / str(year) if year else folder / "change" / "history"
    where.mkdir(parents=True, exist_ok=True)
    path = where / (f"{kind}_{TILE}_{year}.tif" if year else f"{kind}_{TILE}.tif")
    path.write_bytes(b"x" * 1000)
    return Layer(kind, year, {TILE: Source(path)})


def test_change_and_the_newest_year_come_first_where_not_all_fits(tmp_path):
    layers = [layer(tmp_path, kind, year) for kind in ("class", "probability") for year in (2018, 2019, 2020)]
    layers.append(layer(tmp_path, "change", None))
    listed = take(find_offers(tmp_path, tmp_path, layers), tmp_path / "page", most_bytes=3500)
    assert [(one["kind"], one["year"], bool(one["url"])) for one in listed] == [
        ("change", None, True),
        ("class", 2020, True),
        ("class", 2019, True),
        ("class", 2018, False),
        ("probability", 2020, False),
        ("probability", 2019, False),
        ("probability", 2018, False),
    ]


@pytest.mark.parametrize("kind", ["loss_year", "gain_year", "uncertainty", "probability", "change", "class"])
def test_a_raster_that_is_copied_has_its_style_beside_it(tmp_path, kind):
    yearly = kind in ("uncertainty", "probability", "class")
    layers = [layer(tmp_path, kind, 2020 if yearly else None), layer(tmp_path, "class", 2019)]
    listed = take(find_offers(tmp_path, tmp_path, layers), tmp_path / "page", most_bytes=10_000)
    [url] = [one["url"] for one in listed if one["kind"] == kind and one["year"] != 2019]
    style = Xml.parse((tmp_path / "page" / url).with_suffix(".qml")).getroot()
    assert style.tag == "qgis"
    if "_year" in kind:
        assert [entry.get("value") for entry in style.iter("paletteEntry")] == ["2019"]


def test_the_catalog_of_a_run_is_copied(tmp_path):
    (tmp_path / "stac").mkdir()
    (tmp_path / "stac" / "catalog.json").write_text("{}")
    [catalog] = take(find_offers(tmp_path, tmp_path, []), tmp_path / "page", most_bytes=100)
    assert catalog["url"] == "files/stac/catalog.json"
    assert (tmp_path / "page" / catalog["url"]).read_text() == "{}"


def patches(path: Path, rows: int, text: str) -> Path:
    region = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), [text]).cast(pa.string())
    areas, large = pa.array(range(rows), pa.float64()), pa.array([True, False] * (rows // 2))
    table = pa.table({"area_ha": areas, "large": large, "region": region})
    pq.write_table(table, path, compression="zstd")
    return path


def test_the_largest_patches_are_found(tmp_path):
    rows, total, large = largest_patches(patches(tmp_path / "p.parquet", 20_000, "Cà Mau"), 2, ["region"])
    assert rows["area_ha"].tolist() == [19_999, 19_998]
    assert rows["region"].tolist() == ["Cà Mau"] * 2
    assert (total, large) == (20_000, 10_000)


def test_a_text_that_stands_for_every_row_is_not_unpacked(tmp_path):
    path = tmp_path / "bomb.parquet"
    schema = pa.schema({"area_ha": pa.float64(), "large": pa.bool_(), "region": pa.dictionary(pa.int32(), pa.string())})
    rows = 60_000  # of 1 MB each: 60 GB
    region = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), ["x" * 2**20])
    table = pa.table([pa.array([1.0] * rows), pa.array([True] * rows), region], schema=schema)
    how = {"compression": "zstd", "store_schema": False, "dictionary_pagesize_limit": 2**22}
    with pq.ParquetWriter(path, schema, **how) as file:
        file.write_table(table)
    assert path.stat().st_size < 2**20
    before = pa.total_allocated_bytes()
    with pytest.raises(StoreError, match="damaged"):
        largest_patches(path, 10, ["region"])
    assert pa.default_memory_pool().max_memory() - before < 2**29
