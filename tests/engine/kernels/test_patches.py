"""Which pixels are one patch, and that blocks with a halo see what the whole sees."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from engine.kernels.patches import Joins, is_large, label_patches, sieve

shapes = st.tuples(st.integers(1, 14), st.integers(1, 14))
rasters = shapes.flatmap(lambda shape: arrays("uint8", shape, elements=st.sampled_from([0, 0, 3, 4])))
EIGHT = np.ones((3, 3))


def test_patches_touch_at_corners_and_go_by_their_first_pixel():
    codes = np.array([[0, 3, 0, 3], [4, 0, 3, 0], [0, 4, 0, 0], [3, 0, 0, 3]], dtype="uint8")
    labels, sizes = label_patches(codes)
    assert labels.tolist() == [[0, 1, 0, 1], [2, 0, 1, 0], [0, 2, 0, 0], [3, 0, 0, 4]]
    assert sizes.tolist() == [9, 3, 2, 1, 1]


def test_a_spiral_is_one_patch():
    codes = np.array(
        [[1, 1, 1, 1, 1], [0, 0, 0, 0, 1], [1, 1, 1, 0, 1], [1, 0, 0, 0, 1], [1, 1, 1, 1, 1]], dtype="uint8"
    )
    labels, sizes = label_patches(codes)
    assert np.array_equal(labels, codes)
    assert sizes.tolist() == [8, 17]


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (1, 1)])
def test_nothing_has_no_patches(shape):
    labels, sizes = label_patches(np.zeros(shape, "uint8"))
    assert labels.shape == shape
    assert sizes.tolist() == [shape[0] * shape[1]]


@given(rasters)
def test_patches_are_those_scipy_finds_code_by_code(codes):
    labels, sizes = label_patches(codes)
    assert ((labels > 0) == (codes > 0)).all()
    assert sizes.tolist() == np.bincount(labels.ravel()).tolist()
    expected = 0
    for code in (3, 4):
        found, count = ndimage.label(codes == code, EIGHT)
        pairs = {*zip(labels[codes == code].tolist(), found[codes == code].tolist(), strict=True)}
        assert len(pairs) == count == len({one for one, _ in pairs})
        expected += count
    assert len(sizes) == expected + 1
    firsts = [np.flatnonzero(labels.ravel() == label)[0] for label in range(1, expected + 1)]
    assert firsts == sorted(firsts)


def test_sieve_keeps_patches_from_so_many_pixels_on():
    codes = np.array([[3, 0, 0, 4], [0, 3, 0, 4], [0, 0, 3, 0], [4, 4, 0, 0]], dtype="uint8")
    assert sieve(codes, 3).tolist() == (codes == 3).tolist()
    assert sieve(codes, 2).all() == (codes > 0).all()
    assert not sieve(codes, 4).any()
    assert is_large(codes > 0, 5).tolist() == (codes > 0).tolist()  # of flags alone, 3 and 4 touch
    assert np.array_equal(sieve(codes, 1), codes > 0)


@given(rasters, st.integers(1, 8), st.integers(1, 6), st.integers(1, 6))
def test_blocks_with_a_halo_are_sieved_as_the_whole(codes, least_px, high, wide):
    halo = least_px - 1
    seen = np.zeros(codes.shape, dtype=bool)
    for y in range(0, codes.shape[0], high):
        for x in range(0, codes.shape[1], wide):
            top, left = max(0, y - halo), max(0, x - halo)
            part = sieve(codes[top : y + high + halo, left : x + wide + halo], least_px)
            seen[y : y + high, x : x + wide] = part[y - top :, x - left :][:high, :wide]
    assert np.array_equal(seen, sieve(codes, least_px))
    labels, sizes = label_patches(codes)
    assert np.array_equal(seen, (codes > 0) & (sizes[labels] >= least_px))


def test_one_pixel_less_of_halo_would_not_do():
    line = np.ones((1, 6), "uint8")
    assert sieve(line, 6).all()
    assert not sieve(line[:, :5], 6)[:, 0].any()  # the first pixel with 4 more
    assert sieve(line[:, :6], 6)[:, 0].all()  # with 5 = 6 - 1


@given(rasters, st.integers(1, 6))
def test_patches_joined_over_edges_are_those_of_the_whole(codes, high):
    whole, _ = label_patches(codes)
    strips = [codes[y : y + high] for y in range(0, len(codes), high)]
    labels, offset = [], 0
    for strip in strips:
        part, sizes = label_patches(strip)
        labels.append(np.where(part > 0, part + np.uint32(offset), 0))
        offset += len(sizes) - 1
    joins = Joins(offset + 1)
    for (upper, lower), (above, below) in zip(pairwise(strips), pairwise(labels), strict=True):
        ends = upper[-1], lower[0]
        touch = [
            (x, y) for x, y in product(range(len(ends[0])), repeat=2) if abs(x - y) < 2 and ends[0][x] == ends[1][y] > 0
        ]
        joins.add(above[-1][[x for x, _ in touch]], below[0][[y for _, y in touch]])
    joined = joins.roots()[np.concatenate(labels)]
    pairs = {*zip(joined[codes > 0].tolist(), whole[codes > 0].tolist(), strict=True)}
    assert len(pairs) == len({one for one, _ in pairs}) == len({other for _, other in pairs})


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12), st.randoms())
def test_joins_do_not_depend_on_the_order_of_pairs(pairs, random):
    def roots(order):
        joins = Joins(10)
        for pair in order:
            joins.add(*(np.array([one]) for one in pair))
        return joins.roots().tolist()

    shuffled = [pair[:: random.choice((1, -1))] for pair in random.sample(pairs, len(pairs))]
    assert roots(pairs) == roots(shuffled)
    assert all(root <= one for one, root in enumerate(roots(pairs)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: label_patches(np.zeros((2, 2), "int64")), "codes must be uint8"),
        (lambda: label_patches(np.zeros(2, "uint8")), "codes must be uint8"),
        (lambda: sieve(np.zeros((2, 2), "uint8"), 0), "least_px must be at least 1 pixel, got 0"),
        (lambda: Joins(3).add(np.array([0]), np.array([3])), "numbers from 0 to 2"),
        (lambda: Joins(3).add(np.array([0, 1]), np.array([2])), "of one length"),
    ],
)
def test_mistakes_are_told(call, message):
    with pytest.raises(ValueError, match=message):
        call()
