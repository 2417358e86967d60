import numpy as np
import pytest

from engine.kernels.design import (
    FAR_OTHER,
    INNER_MANGROVE,
    MAPPED_GAIN,
    MAPPED_LOSS,
    NEAR_MANGROVE,
    NEAR_OTHER,
    STRATA,
    UNOBSERVED,
    allocate,
    expected_loss,
    stratify,
)
from engine.legend import CHANGES

PIXELS = np.array([180_000, 20_000, 20_000, 770_000, 8_000, 2_000, 0])
LEAST = np.array([400, 400, 400, 400, 100, 100, 100])


def test_strata_lie_round_change_and_edges():
    kind = np.array(
        [
            [1, 1, 1, 1, 1, 2],
            [1, 1, 1, 1, 1, 2],
            [1, 1, 1, 1, 1, 2],
            [4, 1, 1, 1, 1, 0],
            [1, 1, 1, 1, 1, 255],
        ],
        dtype="uint8",
    )
    expected = [
        [4, 4, 4, 4, 3, 2],
        [4, 4, 4, 4, 3, 2],
        [3, 3, 4, 4, 3, 2],
        [6, 3, 4, 4, 3, 7],
        [3, 3, 4, 4, 4, 0],
    ]
    assert stratify(kind, buffer_px=1).tolist() == expected


def test_every_kind_of_change_has_a_stratum_without_a_buffer():
    codes = np.array([[entry.code for entry in CHANGES]], dtype="uint8")
    found = dict(zip(codes[0].tolist(), stratify(codes, buffer_px=0)[0].tolist(), strict=True))
    assert {code for code, stratum in found.items() if stratum == MAPPED_LOSS} == {3, 6, 7, 9, 10}
    assert {code for code, stratum in found.items() if stratum == MAPPED_GAIN} == {4, 8}
    assert (found[0], found[1], found[2], found[5], found[255]) == (UNOBSERVED, FAR_OTHER, INNER_MANGROVE, FAR_OTHER, 0)


def test_what_was_not_observed_is_no_edge():
    assert stratify(np.array([[2, 2, 0, 1, 1, 255]], dtype="uint8"), buffer_px=1).tolist() == [[1, 1, 7, 4, 4, 0]]


@pytest.mark.parametrize("buffer_px", [1, 3])
def test_blocks_with_a_margin_give_the_strata_of_the_whole(buffer_px):
    kind = np.random.default_rng(1).choice([0, 1, 2, 3, 4, 255], (40, 50), p=[0.02, 0.6, 0.3, 0.03, 0.03, 0.02])
    kind = kind.astype("uint8")
    whole = stratify(kind, buffer_px=buffer_px)
    assert set(np.unique(whole)) >= {NEAR_MANGROVE, NEAR_OTHER}
    padded = np.pad(kind, buffer_px, constant_values=255)
    inner = slice(buffer_px, -buffer_px)
    for rows, cols in ((slice(0, 17), slice(0, 50)), (slice(17, 40), slice(20, 50))):
        block = padded[rows.start : rows.stop + 2 * buffer_px, cols.start : cols.stop + 2 * buffer_px]
        assert np.array_equal(stratify(block, buffer_px=buffer_px)[inner, inner], whole[rows, cols])


def test_other_arrays_are_refused():
    with pytest.raises(ValueError, match=r"kind must be uint8 \(y, x\)"):
        stratify(np.zeros((2, 2)), buffer_px=1)
    with pytest.raises(ValueError, match="buffer_px from 0"):
        stratify(np.zeros((2, 2), np.uint8), buffer_px=-1)


def test_loss_is_expected_where_it_is_mapped_and_a_little_elsewhere():
    found = dict(zip(STRATA, expected_loss(PIXELS / PIXELS.sum()), strict=True))
    assert found[MAPPED_LOSS] == 0.7
    assert found[INNER_MANGROVE] == pytest.approx(0.15 * 0.008 / 0.18)
    assert found[FAR_OTHER] < 1e-3
    assert expected_loss(np.array([0, 0, 0, 0.001, 0.999, 0, 0]))[3] == 0.5


def test_a_sample_is_as_large_as_its_interval_needs_and_no_larger():
    found = allocate(PIXELS, LEAST, halfwidth=0.3, most=5000)
    assert found.halfwidth <= 0.3
    assert (found.points >= np.minimum(LEAST, PIXELS)).all()
    fewer = allocate(PIXELS, LEAST, halfwidth=9, most=int(found.points.sum()) - 7)
    assert fewer.points.tolist() == np.minimum(LEAST, PIXELS).tolist()
    bound = allocate(PIXELS, LEAST, halfwidth=0.3, most=int(found.points.sum()) - 7)
    assert found.points.sum() - 12 <= bound.points.sum() <= found.points.sum() - 7
    assert 0.3 < bound.halfwidth < 0.31


def test_a_narrower_aim_takes_more_and_the_bound_stops_it():
    sizes = [allocate(PIXELS, LEAST, halfwidth=aim, most=100_000).points.sum() for aim in (0.4, 0.3, 0.2, 0.1)]
    assert sizes == sorted(sizes)
    assert sizes[-1] > 2 * sizes[1]
    stopped = allocate(PIXELS, LEAST, halfwidth=0.01, most=2500)
    assert stopped.points.sum() <= 2500
    assert stopped.halfwidth > 0.01
    assert allocate(PIXELS, LEAST, halfwidth=0.01, most=100).points.sum() == 1800


def test_no_stratum_gives_more_than_it_has():
    small = np.array([300, 20, 20, 100, 5, 0, 1])
    found = allocate(small, LEAST, halfwidth=0.001, most=10_000)
    assert found.points.tolist() == small.tolist()
    assert found.halfwidth == 0


def test_without_mapped_loss_the_least_is_drawn():
    found = allocate(np.array([500, 0, 0, 9000, 0, 7, 0]), LEAST, halfwidth=0.1, most=5000)
    assert found.points.tolist() == [400, 0, 0, 400, 0, 7, 0]
    assert np.isnan(found.halfwidth)
    with pytest.raises(ValueError, match="not all empty"):
        allocate(np.zeros(7, int), LEAST, halfwidth=0.1, most=5000)
