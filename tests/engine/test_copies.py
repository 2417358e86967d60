"""A file of the client reaches workers by the store, once, and as it was."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import pytest
from shapely.geometry import box

from engine import copies
from engine.copies import reach, share
from engine.errors import StoreError
from engine.places import ObjectPath, entries, modified
from engine.trust import Trust


def test_without_a_store_a_file_is_read_where_it_is(tmp_path):
    trust = Trust().with_roots(tmp_path)
    path = share(tmp_path / "mask.tif", tmp_path / "runs")
    assert path == str(tmp_path / "mask.tif")
    for href in (path, "https://landsatlook.usgs.gov/a.tif"):
        assert reach(href, trust) == (href, trust)


def test_a_copy_is_made_once_and_may_be_read_where_it_is_needed(bucket, tmp_path):
    mask = tmp_path / "mangroves of Ca Mau (ä).tif"
    mask.write_bytes(b"0123")
    shared = share(mask, bucket / "run")
    written = modified(ObjectPath(shared))
    assert share(mask, bucket / "run") == shared
    assert modified(ObjectPath(shared)) == written
    path, trust = reach(shared, Trust())
    assert trust.path(path, what="mask").read_bytes() == b"0123"
    assert path.endswith(".tif")
    ObjectPath(shared).unlink()
    assert reach(shared, Trust())[0] == path, "it is downloaded once"
    same = tmp_path / "same.tif"
    same.write_bytes(b"0123")
    path, _ = reach(share(same, bucket / "run"), Trust())
    assert path.endswith("same.tif")
    assert Path(path).read_bytes() == b"0123"
    mask.write_bytes(b"4567")
    assert share(mask, bucket / "run") != shared, "another content is another file"


def test_a_shapefile_comes_with_its_parts(bucket, tmp_path):
    frame = gpd.GeoDataFrame({"name": ["a"]}, geometry=[box(105, 8, 106, 9)], crs=4326)
    frame.to_file(tmp_path / "mask.shp")
    (tmp_path / "mask.txt").write_text("no part of it")
    path, _ = reach(share(tmp_path / "mask.shp", bucket / "run"), Trust())
    assert gpd.read_file(path).equals(gpd.read_file(tmp_path / "mask.shp"))
    [folder] = entries(bucket / "run" / "inputs")[0]
    assert {part.suffix for part in entries(folder)[1]} == {".shp", ".shx", ".dbf", ".prj", ".cpg"}


def test_a_copy_that_cannot_be_had_is_one_line_and_no_half_of_it_stays(bucket, tmp_path, monkeypatch):
    (tmp_path / "mask.tif").write_bytes(b"89")
    with pytest.raises(StoreError, match=r"cannot be written \(there is no such bucket"):
        share(tmp_path / "mask.tif", ObjectPath("s3://no-such-bucket-anywhere/run"))
    shared = share(tmp_path / "mask.tif", bucket / "run")
    with monkeypatch.context() as patch:
        patch.setattr(copies.ObjectPath, "download", lambda *_: (bucket / "nothing").read_bytes())
        with pytest.raises(StoreError, match=r"mask\.tif cannot be read \(there is no such object\)"):
            reach(shared, Trust())
    assert reach(shared, Trust())[0].endswith("mask.tif")
