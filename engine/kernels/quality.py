"""QA words -> clear mask."""

from __future__ import annotations

import numpy as np
from numba import njit

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
    if qa_radsat is not None and qa_radsat.shape != qa_pixel.shape:
        raise TypeError(f"qa_radsat must have the shape of qa_pixel, {qa_pixel.shape}, got {qa_radsat.shape}")
    words = np.ascontiguousarray(qa_pixel).reshape(-1)
    radsat = words if qa_radsat is None else np.ascontiguousarray(qa_radsat).reshape(-1)
    clear = np.empty(words.size, dtype=np.bool_)
    _clear(words, radsat, UNUSABLE_QA, 0 if qa_radsat is None else unusable_radsat, reject_cloud_confidence, clear)
    return clear.reshape(qa_pixel.shape)


@njit(cache=True, nogil=True)
def _clear(words, radsat, unusable_qa, unusable_radsat, reject, clear):
    limit = np.uint16(2 if reject else 4)
    for i in range(words.size):
        word = words[i]
        confident = (word >> np.uint16(CLOUD_CONFIDENCE_SHIFT)) & np.uint16(3)
        usable = ((word & np.uint16(unusable_qa)) == 0) & (word != 0)
        clear[i] = usable & ((radsat[i] & np.uint16(unusable_radsat)) == 0) & (confident < limit)


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


def empty_band(bands: np.ndarray, usable: np.ndarray, least: int) -> int:
    """Return the first band that is fill at every usable pixel, -1 if none is or fewer than ``least`` are usable.

    Landsat's bands differ in where they end by a few pixels, never by a whole scene.

    Parameters
    ----------
    bands : ndarray of uint16, shape (band, y, x)
        Digital numbers, 0 is fill.
    usable : ndarray of bool, shape (y, x)
        Pixels that the quality words call clear.
    least : int

    Examples
    --------
    >>> bands = np.array([[[7, 0]], [[0, 0]]], dtype="uint16")
    >>> empty_band(bands, np.array([[True, True]]), 2), empty_band(bands, np.array([[True, True]]), 3)
    (1, -1)
    """
    return int(_empty_band(bands, usable, least))


@njit(cache=True, nogil=True)
def _empty_band(bands, usable, least):
    height, width = usable.shape
    for band in range(bands.shape[0]):
        seen = 0
        holds = False
        for y in range(height):
            for x in range(width):
                if usable[y, x]:
                    seen += 1
                    if bands[band, y, x] != FILL_DN:
                        holds = True
                        break
            if holds:
                break
        if not holds and seen >= least:
            return band
    return -1


def settle_look(bands: np.ndarray, usable: np.ndarray, clear: np.ndarray) -> None:
    """Make the usable pixels of a scene clear, but set those back to 0 where any band is fill; in place.

    Parameters
    ----------
    bands : ndarray of uint16, shape (band, y, x)
        Digital numbers, 0 is fill.
    usable : ndarray of bool, shape (y, x)
        Pixels that were written.
    clear : ndarray of bool, shape (y, x)

    Examples
    --------
    >>> bands, clear = np.array([[[7, 7]], [[0, 8]]], dtype="uint16"), np.zeros((1, 2), dtype=bool)
    >>> settle_look(bands, ~clear, clear)
    >>> bands.tolist(), clear.tolist()
    ([[[0, 7]], [[0, 8]]], [[False, True]])
    """
    _settle(bands, usable, clear)


@njit(cache=True, nogil=True)
def _settle(bands, usable, clear):
    count, height, width = bands.shape
    whole = np.empty(width, np.bool_)
    for y in range(height):
        whole[:] = usable[y]
        for band in range(count):
            values = bands[band, y]
            for x in range(width):
                whole[x] &= values[x] != FILL_DN
        wanted, known = usable[y], clear[y]
        dropped = 0
        for x in range(width):
            dropped += wanted[x] != whole[x]
            known[x] |= whole[x]
        if dropped:
            for band in range(count):
                values = bands[band, y]
                for x in range(width):
                    if wanted[x] and not whole[x]:
                        values[x] = FILL_DN
