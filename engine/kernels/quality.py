"""QA words -> clear mask."""

from __future__ import annotations

import numpy as np

from engine.landsat import CLOUD_CONFIDENCE_SHIFT, FILL_DN, UNUSABLE_QA


def clear_mask(
    qa_pixel: np.ndarray,
    qa_radsat: np.ndarray | None = None,
    *,
    unusable_radsat: int = 0,
    reject_cloud_confidence: bool = False,
) -> np.ndarray:
    """Flag the pixels whose surface reflectance is worth keeping.

    Parameters
    ----------
    qa_pixel : ndarray of uint16, shape (..., y, x)
        QA_PIXEL words as delivered, neither rescaled nor averaged; padded with 1, never with 0.
    qa_radsat : ndarray of uint16, shape (..., y, x), optional
        QA_RADSAT words.
    unusable_radsat : int
        Bits of ``qa_radsat`` that rule a pixel out, ``Sensor.unusable_radsat``.
    reject_cloud_confidence : bool
        Also reject medium and high cloud confidence (QA_PIXEL bits 8-9 >= 2).

    Returns
    -------
    ndarray of bool, shape (..., y, x)
        True where fill, dilated cloud, cirrus, cloud and cloud shadow are all unset and the word is not 0.
        Bit 6, "clear", is not asked: it stays 1 under shadow and cirrus on OLI.

    Raises
    ------
    TypeError
        If the words are not uint16: rescaled words no longer hold bits.

    References
    ----------
    USGS LSDS-1619, tables 6-2 (QA_PIXEL) and 6-4 (QA_RADSAT).

    Examples
    --------
    >>> clear_mask(np.array([[21824, 22280, 1, 0]], dtype="uint16"))  # clear, cloud, fill, padded wrongly
    array([[ True, False, False, False]])
    """
    for name, words in (("qa_pixel", qa_pixel), ("qa_radsat", qa_radsat)):
        if words is not None and words.dtype != np.uint16:
            raise TypeError(f"{name} must be uint16, got {words.dtype}; read it unscaled")
    clear = (qa_pixel & np.uint16(UNUSABLE_QA)) == 0
    clear &= qa_pixel != 0
    if reject_cloud_confidence:
        clear &= ((qa_pixel >> np.uint16(CLOUD_CONFIDENCE_SHIFT)) & np.uint16(3)) < 2
    if qa_radsat is not None:
        clear &= (qa_radsat & np.uint16(unusable_radsat)) == 0
    return clear


def drop_fill(clear: np.ndarray, bands: np.ndarray) -> np.ndarray:
    """Return ``clear`` without the pixels where any band is fill, which may differ between bands of a scene.

    Parameters
    ----------
    clear : ndarray of bool, shape (..., y, x)
    bands : ndarray of uint16, shape (band, ..., y, x)
        Digital numbers, 0 is fill.

    Returns
    -------
    ndarray of bool, shape (..., y, x)
    """
    return clear & (bands != FILL_DN).all(axis=0)
