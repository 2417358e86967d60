"""Seeded choice of pixels that depends on nothing but the seed and where a pixel lies.

Every pixel of the project grid has a number that looks random. "The n smallest numbers" is an associative
and commutative choice: drawn per block and merged, in any order, it is what the whole would have given.
The year is not in the number, so the same places are looked at in every year and stay on one side of a
spatial split.
"""

from __future__ import annotations

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_BITS = 28
"""Row and column of the 30 m grid are below 2**19 in size; zone needs 6 bits."""


def _mix(words: np.ndarray) -> np.ndarray:
    """Scramble 64-bit words one to one: the output function of SplitMix64.

    Steele, Lea and Flood (2014), Fast splittable pseudorandom number generators, OOPSLA,
    doi 10.1145/2660193.2660195, with the constants of Stafford's variant 13.
    """
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def pixel_hash(seed: int, zone: int, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """Number pixels of the project grid as if at random.

    Parameters
    ----------
    seed : int
        0 to 2**63 - 1.
    zone : int
        UTM zone, 1-60.
    rows, cols : ndarray of int
        Grid row and column, broadcast against each other; may be negative.

    Returns
    -------
    ndarray of uint64
        Uniform over all 64-bit numbers. Under one seed no two pixels share a number: each step is one to one.

    Raises
    ------
    ValueError
        If seed, zone, row or column is out of range.

    Examples
    --------
    >>> pixel_hash(1, 48, np.array([-40000, -40000]), np.array([16500, 16501]))
    array([11156793371039182939,  1544235343716198273], dtype=uint64)
    """
    if not (0 <= seed < 2**63 and 1 <= zone <= 60):
        raise ValueError(f"seed must be 0 to 2**63 - 1 and zone 1 to 60, got {seed} and {zone}")
    rows, cols = np.asarray(rows, dtype="int64"), np.asarray(cols, dtype="int64")
    half = 1 << (_BITS - 1)
    for numbers in (rows, cols):
        if numbers.size and (numbers.min() < -half or numbers.max() >= half):
            raise ValueError(f"grid rows and columns must lie within +-{half}")
    place = (np.int64(zone) << np.int64(2 * _BITS)) | ((rows + half) << np.int64(_BITS)) | (cols + half)
    key = _mix(np.array([seed], dtype="uint64") * _GOLDEN + _GOLDEN)[0]
    # Two rounds with the seed between them: rows and columns differ in few bits, and two seeds must not
    # give the same order shifted.
    return _mix(_mix(place.astype("uint64") * _GOLDEN) ^ key)


def smallest(hashes: np.ndarray, n: int) -> np.ndarray:
    """Choose the n smallest of distinct hashes.

    Parameters
    ----------
    hashes : ndarray of uint64, shape (pixel,)
    n : int
        All are chosen where there are fewer.

    Returns
    -------
    ndarray of int64, shape (min(n, pixel),)
        Indices into ``hashes``, by rising hash.

    Examples
    --------
    >>> smallest(np.array([7, 2, 9, 4], dtype="uint64"), 2)
    array([1, 3])
    """
    if n < 0:
        raise ValueError(f"n must be 0 or more, got {n}")
    chosen = np.arange(hashes.size) if n >= hashes.size else np.argpartition(hashes, n)[:n]
    return chosen[np.argsort(hashes[chosen])]


def with_probability(hashes: np.ndarray, probability: float) -> np.ndarray:
    """Choose every pixel independently with one probability: those whose hash lies below that share of 2**64.

    Returns
    -------
    ndarray of bool, shape of ``hashes``

    Examples
    --------
    >>> with_probability(np.array([0, 2**62, 2**63], dtype="uint64"), 0.5)
    array([ True,  True, False])
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"probability must be within 0 and 1, got {probability}")
    limit = int(probability * 2**64)
    if limit >= 2**64:
        return np.ones(hashes.shape, dtype=bool)
    return hashes < np.uint64(limit)
