"""Reference masks as label codes: 0 unknown, 1 other, 2 mangrove; class edges, agreement, distance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import distance_transform_edt, maximum_filter

from engine.legend import LABEL_UNKNOWN, MANGROVE, OTHER


def mask_codes(
    values: np.ndarray,
    known: np.ndarray,
    mangrove: Sequence[int],
    *,
    unknown: Sequence[int] = (),
    background: int = OTHER,
) -> np.ndarray:
    """Turn the values of a mask raster into label codes.

    Parameters
    ----------
    values : ndarray of any real dtype, shape (y, x)
        As stored in the mask.
    known : ndarray of bool, shape (y, x)
        False outside the mask's extent; those pixels are unknown.
    mangrove : sequence of int
        Values that mean mangrove.
    unknown : sequence of int
        Values that mean nothing is known; they win over ``mangrove``.
    background : int
        Code of every other value: ``OTHER``, or ``LABEL_UNKNOWN`` for a mask of presence only.

    Returns
    -------
    ndarray of uint8, shape (y, x)

    Examples
    --------
    >>> mask_codes(np.array([[0, 1, 9]]), np.array([[True, True, True]]), [1], unknown=[9])
    array([[1, 2, 0]], dtype=uint8)
    """
    if values.shape != known.shape:
        raise ValueError(f"known must have the shape of values, got {known.shape} and {values.shape}")
    codes = np.where(np.isin(values, list(mangrove)), MANGROVE, background).astype("uint8")
    codes[~known | np.isin(values, list(unknown))] = LABEL_UNKNOWN
    if values.dtype.kind == "f":
        codes[np.isnan(values)] = LABEL_UNKNOWN
    return codes


def first_known(layers: Sequence[np.ndarray]) -> np.ndarray:
    """Combine label codes: of the layers in order, the first that knows a pixel decides it.

    So a local correction put before a global mask can take mangrove away as well as add it; a rule that lets
    mangrove win could only add.

    Parameters
    ----------
    layers : sequence of ndarray of uint8, shape (y, x)
        At least one.

    Examples
    --------
    >>> first_known([np.array([[0, 1]], "uint8"), np.array([[2, 2]], "uint8")])
    array([[2, 1]], dtype=uint8)
    """
    if not layers:
        raise ValueError("layers is empty; give at least one")
    combined = layers[0].copy()
    for layer in layers[1:]:
        np.copyto(combined, layer, where=combined == LABEL_UNKNOWN)
    return combined


def stable_labels(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Keep the labels on which two years agree; elsewhere unknown.

    Examples
    --------
    >>> stable_labels(np.array([2, 2, 1], "uint8"), np.array([2, 1, 0], "uint8"))
    array([2, 0, 0], dtype=uint8)
    """
    return np.where(first == second, first, LABEL_UNKNOWN).astype("uint8")


def erode_edges(labels: np.ndarray, pixels: int) -> np.ndarray:
    """Flag the labelled pixels that lie away from every class edge.

    Masks and imagery are misplaced against each other by about a pixel, and edge pixels are mixed: training
    on them teaches noise.

    Parameters
    ----------
    labels : ndarray of uint8, shape (y, x)
        0 unknown, 1 other, 2 mangrove. Pixels beyond the array count as unknown: give a halo of ``pixels``.
    pixels : int
        Chessboard distance within which no pixel of the other class may lie; unknown ones may.

    Returns
    -------
    ndarray of bool, shape (y, x)
        Never True where the label is unknown.

    Examples
    --------
    >>> erode_edges(np.array([[1, 1, 2, 2, 0]], "uint8"), 1)
    array([[ True, False, False,  True, False]])
    """
    if labels.dtype != np.uint8:
        raise TypeError(f"labels must be uint8 label codes, got {labels.dtype}")
    if pixels < 0:
        raise ValueError(f"pixels must be 0 or more, got {pixels}")
    interior = labels != LABEL_UNKNOWN
    for own, opposite in ((OTHER, MANGROVE), (MANGROVE, OTHER)):
        near = maximum_filter(labels == opposite, size=2 * pixels + 1, mode="constant", cval=False)
        interior &= ~((labels == own) & near)
    return interior


def within_distance(target: np.ndarray, radius: float) -> np.ndarray:
    """Flag the pixels whose centre lies within ``radius`` pixels, Euclidean, of a target pixel's centre.

    Parameters
    ----------
    target : ndarray of bool, shape (y, x)
        With a halo of ``radius`` pixels round what is to be known: beyond the array there is no target.
    radius : float
        In pixels; 0 gives the target back.

    Examples
    --------
    >>> within_distance(np.array([[True, False, False, False]]), 2)
    array([[ True,  True,  True, False]])
    """
    if not target.any():
        # scipy measures the distance to the nearest zero, and invents one where there is none.
        return np.zeros(target.shape, dtype=bool)
    return distance_transform_edt(~target) <= radius
