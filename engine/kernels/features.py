"""What the classifier sees of a pixel: integers, in one fixed order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from engine.kernels.indices import INDEX_MISSING, INDICES, spectral_indices
from engine.landsat import BANDS

MISSING: Final = -(2**31)
"""Feature value of a pixel for which it is not known."""

COMPOSITE_FEATURES: Final = (*BANDS, *INDICES)
"""Bands (DN) and indices of the composite."""

RANGE_FEATURES: Final = (
    "ndvi_p10",
    "ndvi_p90",
    "ndvi_range",
    "mndwi_p10",
    "mndwi_p90",
    "mndwi_range",
    "water_frequency",
)
"""Tide and phenology; missing below 8 clear looks, as they drift with the number of looks."""

MAD_FEATURES: Final = ("ndvi_mad", "mndwi_mad")
"""Spread that a few strange looks do not widen; missing below 8 clear looks as well."""

CONTEXT_PX: Final = 2
"""Pixels on each side of a pixel that its neighbourhood reaches: with itself 5 x 5 of 30 m, 150 m."""

CONTEXT_FEATURES: Final = tuple(f"{band}_150m" for band in BANDS)
"""Mean of a band (DN) over the neighbourhood, in the order of ``BANDS``."""

ALL_FEATURES: Final = COMPOSITE_FEATURES + RANGE_FEATURES
KNOWN_FEATURES: Final = ALL_FEATURES + MAD_FEATURES + CONTEXT_FEATURES
FEATURE_SETS: Final = {
    "composite": COMPOSITE_FEATURES,
    "all": ALL_FEATURES,
    "all+mad": ALL_FEATURES + MAD_FEATURES,
    "all+mad+context": KNOWN_FEATURES,
}

WATER_MISSING: Final = 65_535
"""Water frequency below 8 clear looks."""


def wants_context(names: Sequence[str]) -> bool:
    """Tell whether any feature is of a pixel's neighbourhood.

    Examples
    --------
    >>> wants_context(["red", "ndvi"]), wants_context(["red", "red_150m"])
    (False, True)
    """
    return not set(names).isdisjoint(CONTEXT_FEATURES)


def layers_of(names: Sequence[str]) -> set[str]:
    """Return the layers of a cube that features are made of, and the clear count.

    Neighbourhoods are made of the composite, see ``kernels.context``.

    Examples
    --------
    >>> sorted(layers_of(["red", "ndvi", "mndwi_range", "water_frequency"]))
    ['clear_count', 'composite', 'mndwi_p10', 'mndwi_p90', 'water_frequency']
    """
    layers = {"composite", "clear_count"}
    for name in set(names) - {*COMPOSITE_FEATURES, *CONTEXT_FEATURES}:
        index = name.removesuffix("_range")
        layers |= {name} if index == name else {f"{index}_p10", f"{index}_p90"}
    return layers


def feature_stack(arrays: Mapping[str, np.ndarray], names: tuple[str, ...] = ALL_FEATURES) -> np.ndarray:
    """Stack the features of a block.

    Parameters
    ----------
    arrays : mapping of str to ndarray
        The cube's variables: ``composite`` uint16 (band, y, x) and, where such features are wanted, ``ndvi_p10``,
        ``ndvi_p90``, ``ndvi_mad``, ``mndwi_p10``, ``mndwi_p90``, ``mndwi_mad`` int16 (y, x) and
        ``water_frequency`` uint16 (y, x); and ``context`` uint16 (band, y, x), ``kernels.context.focal_means`` of the
        composite.
    names : tuple of str
        Features wanted, in this order.

    Returns
    -------
    ndarray of int32, shape (feature, y, x)
        ``MISSING`` where a pixel is not observed or a feature is not known.

    Raises
    ------
    ValueError
        If a name is not among ``KNOWN_FEATURES``.
    """
    unknown = [name for name in names if name not in KNOWN_FEATURES]
    if unknown:
        raise ValueError(f"unknown feature {unknown[0]!r}; known are {', '.join(KNOWN_FEATURES)}")
    composite = arrays["composite"]
    unobserved = composite[0] == 0
    indices = spectral_indices(composite) if set(names) & set(INDICES) else None
    stack = np.empty((len(names), *composite.shape[1:]), dtype=np.int32)
    for layer, name in zip(stack, names, strict=True):
        if name in BANDS:
            layer[...] = composite[BANDS.index(name)]
        elif name in INDICES:
            assert indices is not None
            layer[...] = indices[INDICES.index(name)]
        elif name in CONTEXT_FEATURES:
            layer[...] = arrays["context"][CONTEXT_FEATURES.index(name)]
        elif name == "water_frequency":
            layer[...] = arrays[name]
            layer[arrays[name] == WATER_MISSING] = MISSING
        elif name.endswith("_range"):
            index = name.removesuffix("_range")
            low, high = arrays[f"{index}_p10"], arrays[f"{index}_p90"]
            layer[...] = high.astype(np.int32) - low
            layer[low == INDEX_MISSING] = MISSING
        else:
            layer[...] = arrays[name]
            layer[arrays[name] == INDEX_MISSING] = MISSING
        layer[unobserved] = MISSING
    return stack
