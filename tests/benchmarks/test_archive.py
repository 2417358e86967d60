"""The benchmark archive is cut as real Landsat: COG tiles of 256 px that no measured square is aligned with."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio

from benchmarks.archive import SCALES, make_archive, served
from engine.cube import read_looks
from engine.scenes import ASSETS


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return make_archive(tmp_path_factory.mktemp("archive"), SCALES["tiny"])


def test_a_square_has_one_scene_a_date_of_two_paths(archive):
    assert len(archive.scenes) == archive.square.looks == SCALES["tiny"].looks
    assert len({scene.wrs_path for scene in archive.scenes}) == 2


def test_files_are_as_usgs_delivers_them_and_scenes_reach_beyond_the_square(archive):
    square = archive.square.tile.geobox
    for scene in archive.scenes:
        for name in ASSETS:
            with rasterio.open(scene.assets[name]) as file:
                assert (file.dtypes, file.block_shapes) == (("uint16",), [(256, 256)])
                assert (file.profile["compress"], file.tags(ns="IMAGE_STRUCTURE")["PREDICTOR"]) == ("deflate", "2")
                col, row = ~file.transform * (square.transform.c, square.transform.f)
                assert col == round(col) > 0
                assert row == round(row) != 0
                assert col % 256 != 0 != row % 256
                assert col + square.shape.x < file.width


def test_about_as_much_is_masked_as_in_the_tropics(archive):
    _, clear, _, _ = read_looks(archive.scenes, archive.square.tile.geobox, archive.access)
    assert 0.2 < 1 - clear.mean() < 0.6


def test_windows_lie_inside_the_square_and_share_no_grid(archive):
    windows = [part.tile.window for part in archive.windows(16, 64)]
    top, left, height, width = archive.square.tile.window
    assert all(top <= row <= top + height - 64 and left <= col <= left + width - 64 for row, col, _, _ in windows)
    assert len(set(windows)) > 8
    assert archive.windows(2, 128)[0].tile == archive.square.tile


def test_truth_is_that_of_the_square(archive):
    mangrove = archive.mangrove()
    assert mangrove.shape == archive.square.tile.shape
    assert 0.02 < mangrove.mean() < 0.6
    with rasterio.open(archive.world.truth("sim-Venezuela", 2015)) as file:
        col, row = (round(n) for n in ~file.transform * (archive.square.tile.geobox.transform * (0, 0)))
        expected = file.read(2)[row : row + 128, col : col + 128] > 0
    assert np.array_equal(mangrove, expected)


def test_served_scenes_differ_in_nothing_but_the_address(archive):
    part = served(archive.square, archive.world.folder, "http://127.0.0.1:1/run-1")
    for before, after in zip(archive.scenes, part.scenes, strict=True):
        root = str(archive.world.folder)
        assert {k: v.replace("http://127.0.0.1:1/run-1", root) for k, v in after.assets.items()} == before.assets
        assert after.id == before.id


def test_an_archive_that_stands_is_taken_as_it_is(archive):
    again = make_archive(archive.world.folder.parent, SCALES["tiny"])
    assert again.scenes == archive.scenes
