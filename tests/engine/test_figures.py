"""The preview shows what the rasters hold, in the colours of the legends."""

from __future__ import annotations

import matplotlib.image
import matplotlib.pyplot as plt
import numpy as np
import pytest

from engine import figures
from engine.errors import StoreError
from engine.figures import (
    RIGHT,
    WRONG,
    category_panel,
    composite_panel,
    points_panel,
    prediction_map,
    preview,
    probability_panel,
)
from engine.legend import CLASSES, PROBABILITY_RAMP, TRANSITIONS

RNG = np.random.default_rng(8)
COMPOSITE = RNG.integers(7000, 20000, (6, 90, 120)).astype("uint16")
COMPOSITE[:, :10] = 0
PROBABILITY = np.tile(np.linspace(0, 10000, 120).astype("uint16"), (90, 1))
PROBABILITY[:10] = 65535
CHANGE = np.kron(RNG.choice([0, 1, 2, 3, 4, 255], (9, 12)).astype("uint8"), np.ones((10, 10), "uint8"))


def _panels():
    return [
        composite_panel("Composite 2020", COMPOSITE),
        probability_panel("Probability 2020", PROBABILITY),
        category_panel("Change", CHANGE, TRANSITIONS),
    ]


def test_a_category_panel_uses_the_colours_of_the_legend_and_lists_what_occurs():
    panel = category_panel("Classes", np.array([[0, 2], [255, 2]], "uint8"), CLASSES)
    assert panel.image.tolist() == [[[190, 190, 190], [0, 114, 90]], [[255, 255, 255], [0, 114, 90]]]
    assert [entry.name for entry in panel.entries] == ["not observed", "mangrove"]


def test_a_composite_panel_shows_near_infrared_as_green_and_the_unobserved_as_grey():
    composite = np.full((6, 20, 20), 8000, "uint16")
    composite[3, :, 10:] = 20000
    composite[:, 0, 0] = 0
    panel = composite_panel("Composite", composite)
    assert panel.image[0, 0].tolist() == [190, 190, 190]
    assert panel.image[5, 5, 1] == 0
    assert panel.image[5, 15, 1] == 255
    assert [entry.name for entry in panel.entries] == ["not observed"]
    assert (composite_panel("Nothing", np.zeros((6, 3, 3), "uint16")).image == 190).all()


def test_a_probability_panel_runs_along_the_ramp():
    image = probability_panel("Probability", np.array([[0, 5000, 10000, 65535]], "uint16")).image
    ends = PROBABILITY_RAMP.stops
    assert image[0].tolist() == [list(ends[0][1]), list(ends[2][1]), list(ends[4][1]), [190, 190, 190]]


def test_a_large_tile_is_thinned_without_mixing_classes():
    codes = RNG.choice([1, 2], (2048, 1500)).astype("uint8")
    panel = category_panel("Classes", codes, CLASSES)
    assert panel.image.shape == (512, 375, 3)
    assert len(np.unique(panel.image.reshape(-1, 3), axis=0)) == 2


def test_the_preview_is_the_same_bytes_each_time_and_leaves_pyplot_alone(tmp_path):
    for name in ("a.png", "b.png"):
        preview(tmp_path / name, _panels(), title="sim-Fiji 2010 to 2020", notice="SIMULATED data")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert plt.get_fignums() == []
    picture = matplotlib.image.imread(tmp_path / "a.png")
    assert 1000 < picture.shape[1] < 2400
    shades = {tuple(shade) for shade in np.rint(picture[..., :3].reshape(-1, 3) * 255).astype(int).tolist()}
    assert {entry.colour for entry in TRANSITIONS if entry.code != 5} <= shades


def test_the_notice_is_drawn(tmp_path):
    preview(tmp_path / "with.png", _panels(), title="t", notice="SIMULATED data")
    preview(tmp_path / "without.png", _panels(), title="t")
    warning = np.array([176, 58, 0]) / 255
    for name, drawn in (("with.png", True), ("without.png", False)):
        picture = matplotlib.image.imread(tmp_path / name)[..., :3]
        assert (np.abs(picture - warning).max(axis=-1) < 0.02).any() == drawn


def test_a_preview_that_cannot_be_written_is_one_clear_line(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(StoreError, match=r"preview\.png cannot be written"):
        preview(tmp_path / "out" / "preview.png", _panels(), title="t")


def test_points_lie_on_the_pixels_they_were_drawn_from_also_on_a_large_tile():
    rows, cols = np.array([0, 89, 40]), np.array([0, 119, 7])
    panel = points_panel("t", COMPOSITE, rows, cols, np.array([True, False, True]))
    right, wrong = panel.points
    assert (right.x.tolist(), right.y.tolist(), right.colour) == ([0, 7], [0, 40], RIGHT.colour)
    assert (wrong.x.tolist(), wrong.y.tolist(), wrong.colour) == ([119], [89], WRONG.colour)
    assert [entry.name for entry in panel.entries] == ["right: 2", "wrong: 1", "not observed"]
    # Two pixels of the data along one of the picture: pixels 0 and 1 are the picture's pixel 0.
    large = points_panel(
        "t", np.full((6, 1280, 1280), 9000, "uint16"), np.array([0, 1]), np.array([1279, 1278]), ~rows[:2].astype(bool)
    )
    assert large.image.shape[:2] == (640, 640)
    assert np.concatenate([dots.y for dots in large.points]).tolist() == [-0.25, 0.25]
    assert np.concatenate([dots.x for dots in large.points]).tolist() == [639.25, 638.75]


def test_points_outside_the_composite_or_of_other_lengths_are_refused():
    one = np.array([5])
    for rows, cols in ((np.array([-1]), one), (np.array([90]), one), (one, np.array([120]))):
        with pytest.raises(ValueError, match="within the 90 x 120 pixels"):
            points_panel("t", COMPOSITE, rows, cols, one > 0)
    with pytest.raises(ValueError, match="of one length"):
        points_panel("t", COMPOSITE, np.array([1, 2]), one, one > 0)


def test_a_panel_of_a_class_tells_how_many_points_are_right_and_where_they_are():
    rows, cols, right = RNG.integers(10, 90, 40), RNG.integers(0, 120, 40), RNG.random(40) < 0.6
    panel = figures._class_panel("Mangrove", "truth", COMPOSITE, rows, cols, right)
    assert panel.title == f"Mangrove by the truth: {right.sum() / 40:.1%} of 40 right"
    drawn = {dots.colour: sorted(zip(dots.x, dots.y, strict=True)) for dots in panel.points}
    for colour, of in ((RIGHT.colour, right), (WRONG.colour, ~right)):
        assert drawn[colour] == sorted(zip(cols[of], rows[of], strict=True))


def test_a_prediction_map_is_the_same_bytes_each_time_and_draws_both_colours(tmp_path):
    rows, cols = RNG.integers(10, 90, 40), RNG.integers(0, 120, 40)
    positive, predicted = RNG.random(40) < 0.4, RNG.random(40) < 0.5
    for name in ("a.png", "b.png"):
        prediction_map(tmp_path / name, COMPOSITE, rows, cols, positive, predicted, title="t", notice="SIMULATED data")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    picture = np.rint(matplotlib.image.imread(tmp_path / "a.png")[..., :3] * 255).astype(int)
    for colour in (RIGHT.colour, WRONG.colour, (176, 58, 0)):
        assert (picture == colour).all(axis=-1).sum() > 50
    # No mangrove among the points is a map as well.
    prediction_map(tmp_path / "none.png", COMPOSITE, rows, cols, positive & False, predicted, title="t")
    assert (tmp_path / "none.png").is_file()
