"""Scenes read from a bucket, and from one that nobody allowed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio.shutil

from engine.cube import read_looks
from engine.errors import SceneError, TrustError
from engine.grid import grid_geobox
from engine.places import ObjectPath
from engine.ranges import Access
from engine.trust import Trust
from tests.makers import utc, write_scene


def test_scenes_are_read_from_a_bucket_that_is_allowed(bucket: ObjectPath, tmp_path: Path) -> None:
    scene = write_scene(tmp_path, day=utc(2019, 5, 5), corner=(-32710, 16490))
    for href in scene.assets.values():
        (bucket / Path(href).name).write_bytes(Path(href))
    stored = replace(scene, assets={name: f"{bucket}/{Path(href).name}" for name, href in scene.assets.items()})
    geobox = grid_geobox(48, (-32700, 16500, 200, 200))
    expected = read_looks([scene], geobox, Access(Trust().with_roots(tmp_path)))
    found = read_looks([stored], geobox, Access(Trust().with_roots(str(bucket))))
    assert np.array_equal(found[0], expected[0])
    assert found[1].any()
    with pytest.raises(TrustError, match=rf"pass --allow-root {bucket}$"):
        read_looks([stored], geobox, Access(Trust()))
    for href in scene.assets.values():  # of a kind that GDAL must read
        foreign = tmp_path / f"big-{Path(href).name}"
        rasterio.shutil.copy(href, foreign, driver="GTiff", BIGTIFF="YES", COMPRESS="DEFLATE")
        (bucket / Path(href).name).write_bytes(foreign)
    assert np.array_equal(read_looks([stored], geobox, Access(Trust().with_roots(str(bucket))))[0], expected[0])
    absent = replace(stored, assets={name: f"{href}f" for name, href in stored.assets.items()})
    with pytest.raises(SceneError, match="there is no such object"):
        read_looks([absent], geobox, Access(Trust().with_roots(str(bucket))))
