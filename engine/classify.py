"""Turn the features of a block into probability and class."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from engine.kernels.bins import encode
from engine.legend import (
    MANGROVE,
    NOT_OBSERVED,
    OTHER,
    OUTSIDE_AREA,
    OUTSIDE_HABITAT,
    PROBABILITY_MISSING,
)
from engine.model import Model
from engine.params import ClassifyParams


def as_asked(model: Model, params: ClassifyParams) -> Model:
    """Return a model with the prevalence and the threshold that a run asks for.

    Raises
    ------
    ModelError
        If it was never calibrated, so that it cannot be moved to another prevalence.
    """
    if params.prevalence is not None:
        model = model.at_prevalence(params.prevalence)
    return model if params.threshold is None else replace(model, threshold=params.threshold)


def classify_block(
    features: np.ndarray,
    *,
    observed: np.ndarray,
    area: np.ndarray,
    model: Model,
    habitat: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Classify the observed pixels of a block that lie inside the area and the habitat.

    Parameters
    ----------
    features : ndarray of int32, shape (feature, y, x)
        Features in the model's order; ``MISSING`` where missing.
    observed : ndarray of bool, shape (y, x)
        True where the year has at least one clear look.
    area : ndarray of bool, shape (y, x)
        True inside the mapped area.
    model : Model
        Fitted classifier; its calibration and threshold count.
    habitat : ndarray of bool, shape (y, x), optional
        True where mangrove can be; everywhere if not given.

    Returns
    -------
    probability : ndarray of uint16, shape (y, x)
        Probability of mangrove x 10 000; 65 535 where a pixel was not classified.
    classes : ndarray of uint8, shape (y, x)
        Codes of ``engine.legend.CLASSES``. Outside the area rules over outside the habitat, and that over not
        observed.

    Raises
    ------
    ValueError
        If shapes disagree.
    """
    habitat = np.ones_like(area) if habitat is None else habitat
    shape = features.shape[1:]
    if not shape == observed.shape == area.shape == habitat.shape:
        raise ValueError(
            f"features {features.shape} must match observed {observed.shape}, area {area.shape} and "
            f"habitat {habitat.shape}"
        )
    probability = np.full(shape, PROBABILITY_MISSING, dtype=np.uint16)
    classes = np.full(shape, NOT_OBSERVED, dtype=np.uint8)
    wanted = observed & area & habitat
    probability[wanted] = found = model.probability(encode(features[:, wanted], model.edges))
    # On the integers written, so that the two rasters never contradict each other.
    classes[wanted] = np.where(model.is_mangrove(found), MANGROVE, OTHER)
    classes[~habitat] = OUTSIDE_HABITAT
    classes[~area] = OUTSIDE_AREA
    return probability, classes
