"""Errors travel from worker to client and keep what they are about."""

from __future__ import annotations

import pickle

import pytest

from engine import errors
from engine.errors import EngineError, Fault


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


@pytest.mark.parametrize("kind", Fault)
def test_the_kind_of_a_fault_travels_too_and_is_no_part_of_the_line(kind):
    error = errors.SceneError("cannot be read", kind=kind, scene="LC08")
    assert pickle.loads(pickle.dumps(error)).kind is kind
    assert str(error) == "scene LC08: cannot be read"


def test_what_is_untrusted_is_hostile_and_a_scene_is_lost_for_good_unless_said_otherwise():
    assert errors.TrustError("no").kind is Fault.HOSTILE
    assert errors.SceneError("no").kind is Fault.PERMANENT
    assert errors.PlanError("no").kind is None


def test_a_fix_and_a_place_are_optional():
    assert str(errors.StoreError("disk is full")) == "disk is full"


def test_an_error_is_one_line_whatever_it_names():
    assert str(errors.SceneError("item is malformed", scene="a\nb\x1b[2J")) == "scene a�b�[2J: item is malformed"
