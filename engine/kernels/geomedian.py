"""The geometric median of a year of looks: a spectrum of all bands at once.

Weiszfeld's iteration moves an estimate to the mean of the looks, weighed by one over their distances. Near the
minimum a step is (1 - A) times what is missing, where A, the mean of the outer products of the directions to the
looks under those weights, has trace 1. So at most one direction is slow, and Anderson's acceleration with a memory
of one step takes it out: 8 steps where Weiszfeld alone may need 70. And what is missing is at most the step over
1 - |A|, with the Frobenius norm for the largest eigenvalue; the length of the step says little where convergence is
slow. Pixels that do not pass this bound, among them those whose geometric median is a look, are settled one by one.

Distances are between digital numbers: all bands have one scale and offset, and the geometric median of scaled and
shifted points is the scaled and shifted geometric median, so that reflectance would give the same answer.

References
----------
Weiszfeld 1937, Tohoku Math. J. 43; Vardi and Zhang 2000, PNAS 97(4), for estimates that meet a look; Anderson 1965,
J. ACM 12(4), and Walker and Ni 2011, SIAM J. Numer. Anal. 49(4); Roberts et al. 2017, IEEE TGRS 55(11), for
composites of Landsat.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit

from engine.kernels.lanes import flat_looks, in_parts

LANES: Final = 64
"""Pixels solved side by side: with 20 looks of six bands 30 KB, in a core's fastest cache."""

TOLERANCE_DN: Final = 0.5
"""Longest distance (Euclidean, over the bands, before rounding) from the true geometric median."""

_ROUNDS: Final = 10  # one pixel in fifty needs more
_SMALL_STEP: Final = np.float32(0.05)  # DN
_LIMIT: Final = TOLERANCE_DN / 2  # as the bound holds to first order
_MOST_ROUNDS: Final = 1000
_NO_STEP: Final = 1e-10  # DN
_RIDGE: Final = 1e-13  # for looks on one line

_ZERO: Final = np.float32(0)
_ONE: Final = np.float32(1)
_HALF: Final = np.float32(0.5)
_FAR: Final = np.float32(1e12)
_TINY: Final = np.float32(1e-12)
_MEETS: Final = np.float32(1e-6)  # DN squared
_LONGEST: Final = np.float32(-20)


def geomedian(bands: np.ndarray, clear: np.ndarray, dtype: Any = np.uint16, *, threads: int = 1) -> np.ndarray:
    """Return per pixel the point whose summed distance to the clear looks is least.

    Parameters
    ----------
    bands : ndarray of uint16, shape (look, band, y, x)
        Digital numbers; anything where not clear.
    clear : ndarray of bool, shape (look, y, x)
        Looks worth keeping.
    dtype : numpy dtype
        uint16, or float32 for what has not been rounded.
    threads : int
        Threads to use; they change no value.

    Returns
    -------
    ndarray of uint16 or float32, shape (band, y, x)
        Within ``TOLERANCE_DN`` of the geometric median; as uint16 then rounded, halves up. The look itself where it
        is one, the mean of two, and one of the minima where many looks on one line leave several. Where no look was
        clear 0, or NaN as float32.

    Raises
    ------
    TypeError
        If ``bands`` is not uint16, the shapes disagree or ``dtype`` is another.

    Examples
    --------
    >>> looks = np.full((3, 6, 1, 1), 9000, dtype="uint16")
    >>> looks[:, :2, 0, 0] = [[0, 0], [10, 0], [5, 9000]]
    >>> geomedian(looks, np.ones((3, 1, 1), dtype=bool))[:, 0, 0]  # the angles at the point are 120 degrees
    array([   5,    3, 9000, 9000, 9000, 9000], dtype=uint16)
    """
    looks_of_bands, clear_looks = flat_looks(bands, clear, dtype)
    _, n_bands, height, width = bands.shape
    rounded = dtype == np.uint16
    composite = np.full((n_bands, height, width), 0 if rounded else np.nan, dtype=dtype)
    if bands.size:
        out = composite.reshape(n_bands, -1)
        each_band, up = (_ZERO,) * n_bands, _HALF if rounded else _ZERO

        def solve(first: int, last: int) -> None:
            _geomedian(looks_of_bands, clear_looks, first, last, each_band, up, out)

        in_parts(solve, height * width, threads)
    return composite


# Below, loops over lanes are to become vector instructions. Hence: ``each_band`` is a tuple, whose length the compiler
# knows, so that loops over bands unroll; arrays are flat, so that it knows the distance between their rows, and that
# they do not overlap; and divisions follow numpy, as one that may raise keeps a loop scalar. No fast-math: every
# machine rounds alike.
#
# points (look, band) and usable (look), 1 or 0;
# state: the estimate (band), the pull on it (band), the weight (1); past: last estimate (band) and step (band);
# free (1): 1 until the lane rests, then 0;
# spread: squared distance to the nearest look (1), A times the weight (band, band), lower triangle.


@njit(cache=True, nogil=True)
def _geomedian(bands, clear, first, last, each_band, up, out):
    looks, n_bands, pixels = bands.shape
    points = np.zeros(looks * n_bands * LANES, dtype=np.float32)
    usable = np.zeros(looks * LANES, dtype=np.float32)
    state = np.empty((2 * n_bands + 1) * LANES, dtype=np.float32)
    past = np.empty(2 * n_bands * LANES, dtype=np.float32)
    spread = np.empty((1 + n_bands * n_bands) * LANES, dtype=np.float32)
    counts, free = np.empty(LANES, dtype=np.float32), np.empty(LANES, dtype=np.float32)
    settled = np.empty(LANES, dtype=np.bool_)
    chosen = np.empty((looks, n_bands), dtype=np.float64)
    estimate = np.empty(n_bands, dtype=np.float64)
    for start in range(first, last, LANES):
        stop = min(start + LANES, pixels)
        rows = _load(bands, clear, start, stop, points, usable)
        if rows == 0:
            continue
        _solve(points, usable, rows, each_band, counts, state, past, free, spread, settled)
        for lane in range(stop - start):
            if counts[lane] == 0:
                continue
            for band in range(n_bands):
                estimate[band] = state[band * LANES + lane]
            if counts[lane] == 2 or not settled[lane]:
                _settle(chosen[: _choose(points, usable, rows, lane, chosen)], estimate)
            for band in range(n_bands):
                out[band, start + lane] = np.float32(estimate[band]) + up


@njit(cache=True, nogil=True)
def _load(bands, clear, start, stop, points, usable):
    """Copy the looks that are clear in any lane; return their number."""
    looks, n_bands, _ = bands.shape
    rows = 0
    for look in range(looks):
        kept = clear[look, start:stop]
        if not kept.any():
            continue
        row = usable[rows * LANES : (rows + 1) * LANES]
        for lane in range(kept.size):
            row[lane] = kept[lane]
        for band in range(n_bands):
            given = bands[look, band, start:stop]
            row = points[(rows * n_bands + band) * LANES : (rows * n_bands + band + 1) * LANES]
            for lane in range(given.size):
                row[lane] = given[lane]
        rows += 1
    return rows


@njit(cache=True, nogil=True)
def _choose(points, usable, rows, lane, chosen):
    """Copy the clear looks of a lane; return their number."""
    n_bands = chosen.shape[1]
    count = 0
    for row in range(rows):
        if usable[row * LANES + lane]:
            for band in range(n_bands):
                chosen[count, band] = points[(row * n_bands + band) * LANES + lane]
            count += 1
    return count


@njit(cache=True, nogil=True)
def _solve(points, usable, rows, each_band, counts, state, past, free, spread, settled):
    """Step all lanes from their means until each has come to rest; tell which are near enough.

    A lane rests where it first would take a small step, so that its neighbours do not decide its value.
    """
    _mean(points, usable, rows, each_band, counts, state)
    past[:] = 0
    free[:] = 1
    for number in range(_ROUNDS):
        _pull(points, usable, rows, each_band, state)
        if _step(each_band, state, past, free, np.float32(number > 0)) == 0:
            break
    _pull(points, usable, rows, each_band, state)
    _spread(points, usable, rows, each_band, state, spread)
    _check(each_band, state, spread, settled)


@njit(cache=True, nogil=True, error_model="numpy")
def _mean(points, usable, rows, each_band, counts, state):
    n = len(each_band)
    counts[:] = 0
    state[:] = 0
    for row in range(rows):
        for lane in range(LANES):
            kept = usable[row * LANES + lane]
            counts[lane] += kept
            for band in range(n):
                state[band * LANES + lane] += kept * points[(row * n + band) * LANES + lane]
    for lane in range(LANES):
        share = _ONE / max(counts[lane], _ONE)
        for band in range(n):
            state[band * LANES + lane] *= share


@njit(cache=True, nogil=True, error_model="numpy")
def _pull(points, usable, rows, each_band, state):
    """Sum the unit vectors from the estimate to the looks, and one over their distances."""
    n = len(each_band)
    state[n * LANES :] = 0
    for row in range(rows):
        for lane in range(LANES):
            square = _ZERO
            for band in range(n):
                away = points[(row * n + band) * LANES + lane] - state[band * LANES + lane]
                square += away * away
            weight = usable[row * LANES + lane] / np.sqrt(max(square, _MEETS))
            state[2 * n * LANES + lane] += weight
            for band in range(n):
                away = points[(row * n + band) * LANES + lane] - state[band * LANES + lane]
                state[(n + band) * LANES + lane] += weight * away


@njit(cache=True, nogil=True, error_model="numpy")
def _step(each_band, state, past, free, gain):
    """Move the free estimates by Anderson's rule, by Weiszfeld's if ``gain`` is 0; return how many there are."""
    n = len(each_band)
    moving = 0
    for lane in range(LANES):
        share = _ONE / max(state[2 * n * LANES + lane], _TINY)
        along, turned, length = _ZERO, _TINY, _ZERO
        for band in range(n):
            step = state[(n + band) * LANES + lane] * share
            turn = step - past[(n + band) * LANES + lane]
            along += step * turn
            turned += turn * turn
            length += step * step
        back = gain * min(max(along / turned, _LONGEST), _HALF)
        free[lane] *= _ONE if length > _SMALL_STEP * _SMALL_STEP else _ZERO
        moving += int(free[lane])
        for band in range(n):
            here, step = state[band * LANES + lane], state[(n + band) * LANES + lane] * share
            before = past[band * LANES + lane] + past[(n + band) * LANES + lane]
            state[band * LANES + lane] = here + free[lane] * (step - back * (here + step - before))
            past[band * LANES + lane] = here
            past[(n + band) * LANES + lane] = step
    return moving


@njit(cache=True, nogil=True, error_model="numpy")
def _spread(points, usable, rows, each_band, state, spread):
    n = len(each_band)
    spread[:LANES] = _FAR
    spread[LANES:] = 0
    for row in range(rows):
        for lane in range(LANES):
            square = _ZERO
            for band in range(n):
                away = points[(row * n + band) * LANES + lane] - state[band * LANES + lane]
                square += away * away
            kept = usable[row * LANES + lane]
            spread[lane] = min(spread[lane], square + (_ONE - kept) * _FAR)
            inverse = _ONE / np.sqrt(max(square, _MEETS))
            weight = kept * inverse * inverse * inverse
            for one in range(n):
                weighed = weight * (points[(row * n + one) * LANES + lane] - state[one * LANES + lane])
                for other in range(n):
                    if other <= one:
                        away = points[(row * n + other) * LANES + lane] - state[other * LANES + lane]
                        spread[(1 + one * n + other) * LANES + lane] += weighed * away


@njit(cache=True, nogil=True, error_model="numpy")
def _check(each_band, state, spread, settled):
    """Take a last step; tell which lanes were near enough before it, and not as near to a look as to bend the bound."""
    n = len(each_band)
    for lane in range(LANES):
        share = _ONE / max(state[2 * n * LANES + lane], _TINY)
        length, norm = _ZERO, _ZERO
        for one in range(n):
            step = state[(n + one) * LANES + lane] * share
            length += step * step
            state[one * LANES + lane] += step
            for other in range(n):
                if other <= one:
                    part = spread[(1 + one * n + other) * LANES + lane] * share
                    norm += part * part * (_ONE if other == one else _ONE + _ONE)
        nearest = np.sqrt(spread[lane])
        reach = max(_ONE - np.sqrt(norm), _ZERO) * min(np.float32(_LIMIT), nearest / np.float32(4))
        settled[lane] = (length <= reach * reach) & (spread[lane] > _MEETS)


@njit(cache=True, nogil=True, error_model="numpy")
def _settle(points, estimate):
    """Bring one pixel's estimate within the limit by Newton's method: points float64 (look, band), none masked."""
    count, n = points.shape
    if count == 2:  # any point between the two would do
        for band in range(n):
            estimate[band] = (points[0, band] + points[1, band]) / 2
        return
    pull, spread = np.empty(n), np.empty((n, n))
    last, step, move = estimate.copy(), np.zeros(n), np.zeros(n)
    least, tried = np.inf, -1
    for _ in range(_MOST_ROUNDS):
        distance, weight, nearest, look, met = _pull_one(points, estimate, pull)
        if distance > least and _dot(pull, move) < 0:  # too far
            _scale(move, 0.25)
            if _length(move) < _length(step):
                _copy(step, move)  # Weiszfeld's never is
                least = np.inf
            _add(last, move, estimate)
            continue
        if met or look != tried:
            tried = look
            at_look, weight_there, _, _, ties = _pull_one(points, points[look], step)
            strength = _length(step)
            # A look is the geometric median if the others' pull on it is no stronger than it is itself.
            if strength <= ties:
                _copy(points[look], estimate)
                return
            # One that is only better than the estimate is left for good: near it Newton's steps would go astray.
            if at_look <= distance:
                _copy(points[look], last)
                least = at_look
                _scale(step, 1 / strength)
                bend = max(_bend_one(points, last, step), _RIDGE * weight_there)
                _copy(step, move)
                _scale(move, min((strength - ties) / bend, least))
                _scale(step, (strength - ties) / weight_there)
                _add(last, move, estimate)
                continue
        _copy(pull, step)
        _scale(step, 1 / weight)
        _spread_one(points, estimate, weight, spread)
        slack = 1 - _length(spread.ravel())
        if _length(step) <= max(slack * min(_LIMIT, nearest / 4), _NO_STEP):
            _add(estimate, step, estimate)
            return
        _copy(estimate, last)
        least = distance
        _copy(step, move)
        _solve_one(spread, move)
        _scale(move, min(1.0, least / _length(move)))
        _add(last, move, estimate)
    _copy(last, estimate)


@njit(cache=True, nogil=True, error_model="numpy")
def _pull_one(points, estimate, pull):
    """Return summed distance and weight, distance and number of the nearest look, and how many the estimate meets."""
    total, weight, nearest, look, met = 0.0, 0.0, np.inf, 0, 0
    pull[:] = 0
    for i in range(points.shape[0]):
        distance = _distance(points[i], estimate)
        total += distance
        if distance < nearest:
            nearest, look = distance, i
        if distance == 0:
            met += 1
        else:
            weight += 1 / distance
            for band in range(pull.size):
                pull[band] += (points[i, band] - estimate[band]) / distance
    return total, weight, nearest, look, met


@njit(cache=True, nogil=True, error_model="numpy")
def _spread_one(points, estimate, weight, spread):
    """Write A."""
    spread[:] = 0
    for i in range(points.shape[0]):
        distance = _distance(points[i], estimate)
        if distance > 0:
            share = 1 / (distance * distance * distance * weight)
            for one in range(estimate.size):
                away = (points[i, one] - estimate[one]) * share
                for other in range(estimate.size):
                    spread[one, other] += away * (points[i, other] - estimate[other])


@njit(cache=True, nogil=True, error_model="numpy")
def _bend_one(points, estimate, direction):
    """Return the second derivative, along a unit vector, of the summed distance to the looks elsewhere."""
    total = 0.0
    for i in range(points.shape[0]):
        distance = _distance(points[i], estimate)
        if distance > 0:
            cosine = (_dot(points[i], direction) - _dot(estimate, direction)) / distance
            total += (1 - cosine * cosine) / distance
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def _solve_one(spread, step):
    """Replace a step by the solution of (1 - A) x = step, by elimination; ``spread`` is used up."""
    n = step.size
    for one in range(n):
        for other in range(n):
            spread[one, other] = (1.0 + _RIDGE if one == other else 0.0) - spread[one, other]
    for one in range(n):
        for other in range(one + 1, n):
            share = spread[other, one] / spread[one, one]
            step[other] -= share * step[one]
            for third in range(one, n):
                spread[other, third] -= share * spread[one, third]
    for one in range(n - 1, -1, -1):
        for other in range(one + 1, n):
            step[one] -= spread[one, other] * step[other]
        step[one] /= spread[one, one]


@njit(cache=True, nogil=True)
def _dot(one, other):
    total = 0.0
    for i in range(one.size):
        total += one[i] * other[i]
    return total


@njit(cache=True, nogil=True)
def _length(vector):
    return np.sqrt(_dot(vector, vector))


@njit(cache=True, nogil=True)
def _distance(one, other):
    total = 0.0
    for i in range(one.size):
        total += (one[i] - other[i]) * (one[i] - other[i])
    return np.sqrt(total)


@njit(cache=True, nogil=True)
def _scale(vector, factor):
    for i in range(vector.size):
        vector[i] *= factor


@njit(cache=True, nogil=True)
def _copy(vector, target):
    for i in range(vector.size):  # target[:] = vector takes 2 s more to compile: its error has a text
        target[i] = vector[i]


@njit(cache=True, nogil=True)
def _add(one, other, total):
    for i in range(one.size):
        total[i] = one[i] + other[i]
