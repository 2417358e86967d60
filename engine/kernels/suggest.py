"""Which pixels to label next: those the classifier doubts, unlike each other and what is labelled.

A pool is drawn with probability by doubt, wherever pixels lie; of the pool points are taken one by one, each the one
whose doubt, times its distance in features to all that is labelled or taken, is largest.

References
----------
Efraimidis and Spirakis 2006, doi 10.1016/j.ipl.2005.11.003 (weighted draw); Sener and Savarese 2018, Active learning
for convolutional neural networks: a core-set approach, arXiv 1708.00489 (greedy k-center over what is labelled);
Gonzalez 1985, doi 10.1016/0304-3975(85)90224-5 (its bound).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from engine.legend import PROBABILITY_SCALE

EARTH_M: Final = 6_371_009.0
"""Mean radius of the Earth (IUGG)."""

_AT_ONCE: Final = 256


def entropy(probability: np.ndarray) -> np.ndarray:
    """Return how unsure a probability is: its entropy in bits.

    Parameters
    ----------
    probability : ndarray of uint16, any shape
        Of mangrove x 10 000, at most 10 000.

    Returns
    -------
    ndarray of float32, same shape
        0 where sure, 1 at a half.

    Examples
    --------
    >>> entropy(np.array([0, 1100, 5000, 10000], dtype="uint16")).round(3)
    array([0. , 0.5, 1. , 0. ], dtype=float32)
    """
    if probability.dtype != np.uint16 or probability.max(initial=0) > PROBABILITY_SCALE:
        raise ValueError(f"probability must be uint16 up to {PROBABILITY_SCALE}, got {probability.dtype}")
    p = np.arange(PROBABILITY_SCALE + 1) / PROBABILITY_SCALE
    with np.errstate(divide="ignore", invalid="ignore"):
        bits = np.nan_to_num(-p * np.log2(p)) + np.nan_to_num(-(1 - p) * np.log2(1 - p))
    return bits.astype(np.float32)[probability]


def draw_keys(hashes: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return keys whose n largest are a draw of n without replacement, in which weights count.

    "The n largest" of parts and then of these together is that of the whole, so blocks and their order do not matter.

    Parameters
    ----------
    hashes : ndarray of uint64, shape (pixel,)
        Of ``draw.pixel_hash``.
    weight : ndarray of float, shape (pixel,)
        Not negative.

    Returns
    -------
    ndarray of float64, shape (pixel,)
        Below 0; minus infinity where the weight is 0.

    Examples
    --------
    >>> draw_keys(np.array([2**63, 2**63, 7], dtype="uint64"), np.array([1.0, 2.0, 0.0])).round(3)
    array([-0.693, -0.347,   -inf])
    """
    uniform = (hashes.astype(np.float64) + 0.5) / 2.0**64
    # 1 - 2**-53 at most: 2**64 - 1 would be rounded to 1, and its key to 0 whatever the weight.
    with np.errstate(divide="ignore"):
        return np.log(np.minimum(uniform, 1 - 2.0**-53)) / np.asarray(weight, np.float64)


def choose_diverse(
    features: np.ndarray,
    weight: np.ndarray,
    lonlat: np.ndarray,
    labelled: np.ndarray,
    *,
    count: int,
    spacing_m: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Choose points one by one: each has the largest weight times distance to what is labelled or chosen.

    Parameters
    ----------
    features : ndarray of float32, shape (candidate, feature)
        All on one scale.
    weight : ndarray of float32, shape (candidate,)
        Not negative.
    lonlat : ndarray of float64, shape (candidate, 2)
        Degrees.
    labelled : ndarray of float32, shape (row, feature)
        May be empty: the first is then the one of largest weight.
    count : int
        Fewer are chosen where the rest is too near, or adds nothing.
    spacing_m : float
        Least distance on the ground between two chosen.

    Returns
    -------
    chosen : ndarray of int64, shape (point,)
        Indices of candidates in the order of choice; of equals the first.
    distance : ndarray of float32, shape (point,)
        In features, to what was labelled or chosen before; infinite for the first of all.

    Examples
    --------
    >>> values, doubt = np.array([[0], [1], [4], [5]], "float32"), np.array([1, 1, 1, 0.5], "float32")
    >>> places = np.array([[0, 0], [1, 0], [2, 0], [3, 0]], "float64")
    >>> choose_diverse(values, doubt, places, values[:1], count=2, spacing_m=300)
    (array([2, 1]), array([4., 1.], dtype=float32))
    """
    left = np.asarray(weight, np.float32).copy()
    nearest = np.full(len(features), np.inf, np.float32)
    for first in range(0, len(labelled), _AT_ONCE):
        some = labelled[first : first + _AT_ONCE]
        nearest = np.minimum(nearest, np.sqrt(_squares(features, some).min(axis=1, initial=np.inf)))
    chosen: list[int] = []
    distance: list[np.float32] = []
    while len(chosen) < count and len(features):
        score = left if np.isinf(nearest[0]) else left * nearest  # where nothing is labelled all are equally far
        best = int(np.argmax(score))
        if not score[best] > 0:
            break
        chosen.append(best)
        distance.append(nearest[best])
        nearest = np.minimum(nearest, np.sqrt(_squares(features, features[best : best + 1])[:, 0]))
        left[ground_distance(lonlat, lonlat[best]) < spacing_m] = 0
        left[best] = 0
    return np.array(chosen, np.int64), np.array(distance, np.float32)


def _squares(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return squared distances, float32 (row of one, row of other); summed feature by feature, so that they repeat."""
    total = np.zeros((len(one), len(other)), np.float32)
    for feature in range(one.shape[1]):
        total += np.square(one[:, feature, np.newaxis] - other[np.newaxis, :, feature])
    return total


def ground_distance(lonlat: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Return how far places in degrees lie from one on a sphere, float64 metres (place,)."""
    lon, lat = np.radians(lonlat).T
    lon0, lat0 = np.radians(place)
    half = np.sin((lat - lat0) / 2) ** 2 + np.cos(lat) * np.cos(lat0) * np.sin((lon - lon0) / 2) ** 2
    return 2 * EARTH_M * np.arcsin(np.sqrt(np.minimum(half, 1)))
