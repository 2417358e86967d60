import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.kernels.support import LEAST_NEIGHBOURS, ROUNDS, confirm_changes, last_changes


def course_of(lost, years=6):
    """Return courses that are mangrove up to a year, bool (year, y, x); 0 never lost."""
    lost = np.array(lost)
    return (lost == 0) | (np.arange(years)[:, np.newaxis, np.newaxis] < lost)


def plainly(sure, likely):
    """Confirm changes pixel by pixel, by the definition."""
    now = sure
    for _ in range(ROUNDS):
        lost, gained = last_changes(now)
        wanted = last_changes(likely)
        after = now.copy()
        for y, x in np.ndindex(lost.shape):
            if not any(change[y, x] for change in wanted):
                continue
            around = [
                (y + down, x + right)
                for down in (-1, 0, 1)
                for right in (-1, 0, 1)
                if (down, right) != (0, 0) and 0 <= y + down < lost.shape[0] and 0 <= x + right < lost.shape[1]
            ]
            if all(
                wish[y, x] == 0
                or sum(here[at] > 0 and abs(int(here[at]) - int(wish[y, x])) <= 1 for at in around) >= LEAST_NEIGHBOURS
                for here, wish in zip((lost, gained), wanted, strict=True)
            ):
                after[:, y, x] = likely[:, y, x]
        now = after
    return now


def test_a_patch_is_filled_by_likely_changes_of_its_years_and_goes_no_further():
    sure = course_of([[3, 3, 3, 0, 0], [3, 0, 0, 0, 0], [3, 3, 3, 0, 0], [3, 0, 3, 0, 0]])
    likely = course_of([[3, 3, 3, 3, 0], [3, 4, 3, 3, 0], [3, 3, 3, 3, 0], [3, 5, 3, 0, 3]])
    lost, gained = last_changes(confirm_changes(sure, likely))
    # 4 is a year from 3, and 5 is two; a straight edge gives three neighbours.
    assert lost.tolist() == [[3, 3, 3, 0, 0], [3, 4, 3, 0, 0], [3, 3, 3, 0, 0], [3, 0, 3, 0, 0]]
    assert not gained.any()


@given(st.integers(0, 2**32 - 1))
def test_changes_are_confirmed_as_defined(seed):
    rng = np.random.default_rng(seed)
    likely = course_of(rng.choice([0, 0, 2, 3, 4, 5], (7, 6)))
    likely ^= rng.random((7, 6)) < 0.3  # some of them gains
    sure = np.where(rng.random((7, 6)) < 0.4, likely[0], likely)
    np.testing.assert_array_equal(confirm_changes(sure, likely), plainly(sure, likely))


@given(st.integers(0, 2**32 - 1))
def test_a_block_read_with_as_many_pixels_more_as_there_are_rounds_is_as_the_whole(seed):
    rng = np.random.default_rng(seed)
    likely = course_of(rng.choice([0, 2, 3], (14, 12)))
    sure = np.where(rng.random((14, 12)) < 0.5, True, likely)
    whole = confirm_changes(sure, likely)
    rows = slice(4, 9)
    padded = slice(rows.start - ROUNDS, rows.stop + ROUNDS)
    np.testing.assert_array_equal(
        confirm_changes(sure[:, padded], likely[:, padded])[:, ROUNDS:-ROUNDS], whole[:, rows]
    )


def test_courses_of_unlike_shape_are_told():
    with pytest.raises(ValueError, match=r"sure and likely must be bool \(year, y, x\)"):
        confirm_changes(np.ones((3, 2, 2), bool), np.ones((3, 2, 3), bool))
