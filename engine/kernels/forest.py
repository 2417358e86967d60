"""Boosted trees over byte codes: the margins XGBoost would give, bit for bit, several times faster.

A tree is turned into a short list of selections, from its lowest splits up: each takes, for two thousand pixels
at once, one of two rows of leaf numbers by comparing one row of codes with one byte. There is no branch and no
gather, so the compiler takes 32 or 64 pixels an instruction, and the cost depends on the number of splits alone,
not on the number of features or on how alike neighbouring pixels are. QuickScorer (Lucchese et al. 2015) over
tables of 64-bit masks is as fast with 8 features and half as fast with 20, whose tables outgrow the cache.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numba import njit

LANES: Final = 2048
"""Pixels classified side by side: with 20 features 57 KB."""

MAX_LEAVES: Final = 256
"""Leaves a tree may have, as their numbers are bytes: any tree of depth 8."""

_ONE: Final = np.float32(1)
_LEAST: Final = np.float32(1e-16)
_STEEPEST: Final = np.float32(88.7)  # exp of more is no float32

_BOTH_LEAVES: Final = 0
_LEFT_LEAF: Final = 1
_RIGHT_LEAF: Final = 2
_NO_LEAF: Final = 3


class Forest(NamedTuple):
    """Trees as ``compile_trees`` makes them."""

    steps: np.ndarray
    """int32 (step, 6): kind, row of codes, highest code that goes left, left, right, row to write. Left and right
    are a leaf's number or a row already written."""

    starts: np.ndarray
    """int32 (tree + 1,): first step of each tree."""

    roots: np.ndarray
    """int32 (tree,): row in which the number of the pixel's leaf ends up."""

    leaves: np.ndarray
    """float32 (tree, 256): values of the leaves by number."""

    rows: int
    """Rows of leaf numbers in use at once."""


def compile_trees(trees: Sequence[Mapping[str, Any]], features: int) -> Forest:
    """Turn trees over codes into selections.

    Parameters
    ----------
    trees : sequence of mapping
        As in XGBoost's JSON: ``left_children``, ``right_children``, ``split_indices``, ``split_conditions`` (the
        value of a leaf) and ``default_left``; checked by ``engine.model``.
    features : int
        Features the codes have.

    Raises
    ------
    ValueError
        If a tree has more than 256 leaves.
    """
    steps: list[tuple[int, ...]] = []
    starts, roots = [0], []
    leaves = np.zeros((len(trees), MAX_LEAVES), dtype=np.float32)
    rows = 0
    for number, tree in enumerate(trees):
        count = list(tree["left_children"]).count(-1)
        if count > MAX_LEAVES:
            raise ValueError(f"tree {number} has {count} leaves, more than {MAX_LEAVES}")
        compiled = _Tree(tree, features)
        root_is_leaf, root = compiled.add(0)
        if root_is_leaf:
            compiled.steps.append((_BOTH_LEAVES, 0, 0, root, root, 0))
            compiled.rows, root = max(compiled.rows, 1), 0
        steps += compiled.steps
        starts.append(len(steps))
        roots.append(root)
        leaves[number, : len(compiled.leaves)] = compiled.leaves
        rows = max(rows, compiled.rows)
    return Forest(
        np.array(steps, dtype=np.int32).reshape(-1, 6),
        np.array(starts, dtype=np.int32),
        np.array(roots, dtype=np.int32),
        leaves,
        rows,
    )


class _Tree:
    """One tree while it is compiled."""

    def __init__(self, tree: Mapping[str, Any], features: int) -> None:
        self.tree = tree
        self.features = features
        self.steps: list[tuple[int, ...]] = []
        self.leaves: list[np.float32] = []
        self.rows = 0
        self._free: list[int] = []

    def add(self, node: int) -> tuple[bool, int]:
        """Add the steps of a subtree; return whether it is a leaf, and its number or the row it ends up in."""
        condition = np.float32(self.tree["split_conditions"][node])
        left = self.tree["left_children"][node]
        right = self.tree["right_children"][node]
        if left == -1:
            self.leaves.append(condition)
            return True, len(self.leaves) - 1
        # A code goes left where it is below the condition: up to this one. Missing, 255, never does by value.
        highest = min(int(np.ceil(condition)) - 1, 254)
        row = self.tree["split_indices"][node]
        if self.tree["default_left"][node]:
            # Rows of code + 1, in which missing has wrapped round to 0 and goes left with the lowest.
            row, highest = row + self.features, max(highest, -1) + 1
        elif highest < 0:
            return self.add(right)
        one, other = self.add(left), self.add(right)
        # Never a row that is read: where the two may overlap a loop is not vectorised.
        if not self._free:
            self._free.append(self.rows)
            self.rows += 1
        target = self._free.pop()
        kind = (_NO_LEAF, _RIGHT_LEAF, _LEFT_LEAF, _BOTH_LEAVES)[2 * one[0] + other[0]]
        self.steps.append((kind, row, highest, one[1], other[1], target))
        self._free += [number for is_leaf, number in (one, other) if not is_leaf]
        return False, target


def margins(forest: Forest, codes: np.ndarray, base: np.float32) -> np.ndarray:
    """Sum the trees' leaves of every pixel, in float32 and in the order of the trees, as XGBoost does.

    Parameters
    ----------
    forest : Forest
    codes : ndarray of uint8, shape (feature, pixel)
        255 where missing.
    base : float32
        Margin to start from.

    Returns
    -------
    ndarray of float32, shape (pixel,)

    Examples
    --------
    >>> tree = {"left_children": [1, -1, -1], "right_children": [2, -1, -1], "split_indices": [0, 0, 0],
    ...         "split_conditions": [3.0, -1.5, 2.5], "default_left": [1, 0, 0]}
    >>> margins(compile_trees([tree], 1), np.array([[0, 2, 3, 254, 255]], dtype="uint8"), np.float32(0))
    array([-1.5, -1.5,  2.5,  2.5, -1.5], dtype=float32)
    """
    sums = np.full(codes.shape[1], base, dtype=np.float32)
    _margins(np.ascontiguousarray(codes), forest.steps, forest.starts, forest.roots, forest.leaves, forest.rows, sums)
    return sums


def probabilities(margin: np.ndarray) -> np.ndarray:
    """Return the logistic function of float32 margins, in XGBoost's own arithmetic (``common::Sigmoid``).

    Examples
    --------
    >>> probabilities(np.array([-100, 0, 1], dtype="float32"))
    array([3.006636e-39, 5.000000e-01, 7.310586e-01], dtype=float32)
    """
    result = np.empty_like(margin)
    _sigmoid(margin, result)
    return result


@njit(cache=True, nogil=True, error_model="numpy")
def _sigmoid(margin, result):
    for i in range(margin.size):
        # numpy's exp of float32 differs from the C library's in the last bit.
        result[i] = _ONE / (np.float32(math.exp(min(-margin[i], _STEEPEST))) + _ONE + _LEAST)


@njit(cache=True, nogil=True)
def _margins(codes, steps, starts, roots, leaves, n_rows, sums):
    features, pixels = codes.shape
    known = np.zeros((2 * features, LANES), dtype=np.uint8)
    rows = np.zeros((n_rows, LANES), dtype=np.uint8)
    totals = np.zeros(LANES, dtype=np.float32)
    for first in range(0, pixels, LANES):
        lanes = min(LANES, pixels - first)
        for feature in range(features):
            for lane in range(lanes):
                code = codes[feature, first + lane]
                known[feature, lane] = code
                known[features + feature, lane] = np.uint8(code + 1)
        totals[:lanes] = sums[first : first + lanes]
        for tree in range(roots.size):
            for step in range(starts[tree], starts[tree + 1]):
                kind, left, right = steps[step, 0], steps[step, 3], steps[step, 4]
                code, highest, target = known[steps[step, 1]], np.uint8(steps[step, 2]), rows[steps[step, 5]]
                if kind == _BOTH_LEAVES:
                    _both_leaves(code, highest, np.uint8(left), np.uint8(right), target)
                elif kind == _LEFT_LEAF:
                    _left_leaf(code, highest, np.uint8(left), rows[right], target)
                elif kind == _RIGHT_LEAF:
                    _right_leaf(code, highest, rows[left], np.uint8(right), target)
                else:
                    _no_leaf(code, highest, rows[left], rows[right], target)
            _add_leaves(leaves[tree], rows[roots[tree]], totals)
        sums[first : first + lanes] = totals[:lanes]


@njit(cache=True, nogil=True)
def _both_leaves(code, highest, left, right, target):
    for lane in range(LANES):
        target[lane] = left if code[lane] <= highest else right


@njit(cache=True, nogil=True)
def _left_leaf(code, highest, left, right, target):
    for lane in range(LANES):
        other = right[lane]  # read whether needed or not: a read under a condition is a branch
        target[lane] = left if code[lane] <= highest else other


@njit(cache=True, nogil=True)
def _right_leaf(code, highest, left, right, target):
    for lane in range(LANES):
        one = left[lane]
        target[lane] = one if code[lane] <= highest else right


@njit(cache=True, nogil=True)
def _no_leaf(code, highest, left, right, target):
    for lane in range(LANES):
        one, other = left[lane], right[lane]
        target[lane] = one if code[lane] <= highest else other


@njit(cache=True, nogil=True)
def _add_leaves(values, numbers, totals):
    for lane in range(LANES):
        totals[lane] += values[numbers[lane]]
