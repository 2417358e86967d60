"""Boxes around items, also across the antimeridian."""

from __future__ import annotations

from engine.lineage import whole_box


def test_the_box_of_what_crosses_the_antimeridian_is_narrow():
    fiji, samoa, guinea = (177.0, -18.0, 180.0, -17.0), (-173.0, -14.0, -171.0, -13.0), (140.0, -9.0, 147.0, -2.0)
    assert whole_box([fiji]) == list(fiji)
    assert whole_box([samoa]) == list(samoa)
    assert whole_box([guinea, fiji, samoa]) == [140.0, -18.0, -171.0, -2.0]
    assert whole_box([whole_box([fiji, samoa]), guinea]) == [140.0, -18.0, -171.0, -2.0]


def test_other_boxes_are_as_they_were():
    africa, brazil, india = (-17.0, -30.0, 50.0, 20.0), (-50.0, -5.0, -40.0, 0.0), (70.0, 8.0, 90.0, 25.0)
    assert whole_box([africa, brazil, india]) == [-50.0, -30.0, 90.0, 25.0]
    assert whole_box([(-180.0, -90.0, 180.0, 90.0), india]) == [-180.0, -90.0, 180.0, 90.0]
    assert whole_box([(0.0, 0.0, 1.0, 1.0), (-1.0, 0.0, 0.0, 1.0)]) == [-1.0, 0.0, 1.0, 1.0]
