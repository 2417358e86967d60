"""What people drew over a map, applied to its classes."""

from __future__ import annotations

from typing import Final

import numpy as np

from engine.legend import ADDED, EDITS, MANGROVE, NOT_OBSERVED, OTHER, OUTSIDE_AREA, OUTSIDE_HABITAT, REMOVED, UNSURE

_TABLE: Final = np.tile(np.arange(256, dtype=np.uint8), (len(EDITS), 1))
_TABLE[ADDED], _TABLE[REMOVED], _TABLE[UNSURE] = MANGROVE, OTHER, NOT_OBSERVED
_TABLE[1:, OUTSIDE_AREA] = OUTSIDE_AREA
_TABLE[REMOVED, OUTSIDE_HABITAT] = OUTSIDE_HABITAT


def apply_edits(classes: np.ndarray, edits: np.ndarray) -> np.ndarray:
    """Return the classes of a map as edited.

    Added is mangrove, also where the map did not observe or the habitat limit forbids it. Removed is other; outside the
    habitat limit it stays that. Unsure is *not observed*: whoever compares maps makes no statement there, as with any
    other pixel nobody could tell, and the codes of ``edits`` say which it was. Outside the area nothing changes.

    Parameters
    ----------
    classes : ndarray of uint8, shape (y, x)
        Codes of ``legend.CLASSES``.
    edits : ndarray of uint8, shape (y, x)
        Codes of ``legend.EDITS``.

    Returns
    -------
    ndarray of uint8, shape (y, x)

    Raises
    ------
    ValueError
        If they are not uint8 of one shape, or ``edits`` holds another code.

    Examples
    --------
    >>> apply_edits(np.array([[2, 1, 2, 3, 255]], dtype="uint8"), np.array([[0, 1, 3, 2, 1]], dtype="uint8"))
    array([[  2,   2,   0,   3, 255]], dtype=uint8)
    """
    if classes.dtype != np.uint8 or edits.dtype != np.uint8 or classes.shape != edits.shape:
        raise ValueError(
            f"classes and edits must be uint8 of one shape, got {classes.dtype} {classes.shape} and "
            f"{edits.dtype} {edits.shape}"
        )
    if edits.max(initial=0) >= len(EDITS):
        raise ValueError(f"edits holds code {edits.max()}, which is none of legend.EDITS")
    return _TABLE[edits, classes]
