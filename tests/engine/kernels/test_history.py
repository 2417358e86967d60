"""What happened to a pixel, by hand."""

import numpy as np
import pytest

from engine.kernels.history import tell_history
from engine.legend import (
    GAIN,
    GAIN_THEN_LOSS,
    LOSS,
    LOSS_RECOVERED,
    LOSS_THEN_GAIN,
    NOT_OBSERVED,
    PROVISIONAL_GAIN,
    PROVISIONAL_LOSS,
    STABLE_MANGROVE,
    STABLE_OTHER,
)

FIRST = 2001


def tell(course, looks=None, recovery_years=5):
    """Tell the history of a pixel from 'MMMooo': mangrove, other, and '.' not observed."""
    states = np.array([[letter == "M"] for letter in course])
    observed = np.array([[letter != "."] for letter in course])
    found = tell_history(
        states,
        np.where(states, 0.9, 0.2).astype("float32"),
        np.full(states.shape, 4, "uint16") if looks is None else np.array(looks, "uint16")[:, np.newaxis],
        observed,
        np.arange(FIRST, FIRST + len(course), dtype="uint16"),
        recovery_years=recovery_years,
    )
    return tuple(int(part[0]) for part in found[:3])


@pytest.mark.parametrize(
    ("course", "expected"),
    [
        ("MMMMMMMM", (STABLE_MANGROVE, 0, 0)),
        ("oooooooo", (STABLE_OTHER, 0, 0)),
        ("........", (NOT_OBSERVED, 0, 0)),
        ("...M....", (STABLE_MANGROVE, 0, 0)),
        ("MMoooooo", (LOSS, 2003, 0)),
        ("oMMMMMMM", (GAIN, 0, 2002)),
        ("MM...oooooo", (LOSS, 2006, 0)),  # dated by the first look after it
        ("..MMoooooo", (LOSS, 2005, 0)),
        ("MMMMMooo", (PROVISIONAL_LOSS, 2006, 0)),
        ("ooooMMMM", (PROVISIONAL_GAIN, 0, 2005)),
        ("MMMo......", (PROVISIONAL_LOSS, 2004, 0)),  # of a single look, whatever the run's last year
        ("MMooMMMM", (LOSS_RECOVERED, 2003, 2005)),
        ("MMoooooMMMMMM", (LOSS_RECOVERED, 2003, 2008)),
        ("MMooooooMMMMMMM", (LOSS_THEN_GAIN, 2003, 2009)),
        ("ooMMMMMMooooooo", (GAIN_THEN_LOSS, 2009, 2003)),
        ("MMoooooooooM", (LOSS, 2003, 2012)),  # a doubtful last year takes nothing from a loss that is settled
        ("ooMMMMMMMMMMoo", (GAIN, 2013, 2003)),
        ("MMMMMMMMooMo", (PROVISIONAL_LOSS, 2012, 2011)),
    ],
)
def test_a_course_has_its_kind_and_years(course, expected):
    assert tell(course) == expected


def test_recovery_years_say_what_is_recovered_and_what_is_provisional():
    assert tell("MMooooMMMMMM", recovery_years=3)[0] == LOSS_THEN_GAIN
    assert tell("MMMMMoooo", recovery_years=3)[0] == LOSS


def test_confidence_and_looks_are_those_of_the_weakest_change():
    course = np.array([[1, 1, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1]], bool).T
    share = np.array([[0.9, 0.8, 0.1, 0.2, 0.1, 0.1, 0.5, 0.7, 0.9, 0.9, 0.9, 0.9]], "float32").T
    looks = np.array([[3, 4, 9, 9, 0, 9, 9, 2, 2, 2, 2, 2]], "uint16").T
    years = np.arange(2001, 2013, dtype="uint16")
    found = tell_history(course, share, looks, looks > 0, years, recovery_years=2)
    assert int(found.confidence[0]) == 35  # .8 * .9 = .72 of the loss; .5 * .7 of the gain
    assert int(found.looks[0]) == 7  # 3 + 4 before the loss


def test_what_is_no_series_is_told():
    two = np.zeros((2, 3), bool)
    rest = (np.zeros((2, 3), "float32"), np.zeros((2, 3), "uint16"), two)
    with pytest.raises(ValueError, match="years must be ascending, one for each of 2"):
        tell_history(two, *rest, np.array([2002, 2001], "uint16"), recovery_years=5)
    with pytest.raises(ValueError, match=r"must all be \(year, pixel\)"):
        tell_history(two[:1], *rest, np.array([2001, 2002], "uint16"), recovery_years=5)
