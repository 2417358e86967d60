"""Errors travel from worker to client and keep what they are about."""

from __future__ import annotations

import pickle

import pytest

from engine import errors
from engine.errors import EngineError


@pytest.mark.parametrize("kind", EngineError.__subclasses__(), ids=lambda kind: kind.__name__)
def test_an_error_is_the_same_after_its_journey(kind):
    error = kind("nothing is left", fix="add landsat-7", scene="LC08", year=2012, asset=None)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert (again.problem, again.fix, again.about) == (
        "nothing is left",
        "add landsat-7",
        {"scene": "LC08", "year": 2012},
    )
    assert str(again) == str(error) == "scene LC08, year 2012: nothing is left; add landsat-7"


def test_a_fix_and_a_place_are_optional():
    assert str(errors.StoreError("disk is full")) == "disk is full"


def test_an_error_is_one_line_whatever_it_names():
    assert str(errors.SceneError("item is malformed", scene="a\nb\x1b[2J")) == "scene a�b�[2J: item is malformed"
