"""Training tables made of numbers, for tests of training and scoring."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from engine.kernels.features import ALL_FEATURES, COMPOSITE_FEATURES, MISSING


def make_sample(
    rows: int = 3000,
    *,
    regions: Sequence[str] = ("Cuba1", "Cuba2", "Fiji"),
    drawn: float = 1 / 3,
    prevalence: float = 0.05,
    seed: int = 0,
    extent_px: int = 3000,
) -> pd.DataFrame:
    """Draw a table with a third of mangrove that stands for land with a twentieth.

    Every third feature tells mangrove apart, each weakly; range features are missing in a fifth of the rows. Each
    region has land of its own, side by side and at least a spatial block apart.
    """
    rng = np.random.default_rng(seed)
    mangrove = rng.random(rows) < drawn
    columns: dict[str, np.ndarray] = {}
    for number, name in enumerate(ALL_FEATURES):
        centre = 8000 + 100 * number + mangrove * (900 if number % 3 == 0 else 0)
        columns[name] = rng.normal(centre, 1000, rows).astype(np.int32)
        if name not in COMPOSITE_FEATURES:
            columns[name][rng.random(rows) < 0.2] = MISSING
    place = rng.integers(0, len(regions), rows)
    pixels = np.where(mangrove, prevalence / drawn, (1 - prevalence) / (1 - drawn)) * 40
    columns |= {
        "label": np.where(mangrove, 2, 1).astype(np.uint8),
        "weight": pixels * rng.uniform(0.5, 1.5, rows),
        "region": np.array(regions)[place],
        "zone": np.full(rows, 17, np.uint8),
        "grid_row": rng.integers(-extent_px, extent_px, rows).astype(np.int32),
        "grid_col": (rng.integers(0, extent_px, rows) + place * (extent_px + 666)).astype(np.int32),
        "year": rng.choice([2015, 2020], rows).astype(np.int16),
        "interior": rng.random(rows) < 0.85,
    }
    return pd.DataFrame(columns)
