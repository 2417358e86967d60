"""What the figures of a comparison, and of the simulated study, are to reach."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

TARGETS: Final[dict[str, tuple[str, float]]] = {
    "composite_f32_vs_odc": (">=", 5),
    "composite_f32_vs_odc_cpu": (">=", 5),
    "composite_u16_vs_floor": ("<=", 1.3),
    "composite_vs_stackstac": (">=", 8),
    "geomedian_vs_geomad": (">=", 4),
    "forest_coherent_vs_xgb_cpu": (">=", 10),
    "forest_random_vs_xgb_cpu": (">=", 5),
    "forest_vs_dask_predict": (">=", 10),
    "remote_vs_odc": (">=", 5),
    "remote_vs_odc_tuned": (">=", 3),
    "remote_vs_local": ("<=", 1.5),
    "workers_2_vs_1": (">=", 1.7),
    "memory_16x": ("<=", 1.1),
    "tasks_16x": ("==", 16),
}
"""Figure -> what is aimed at. ``x_vs_y`` says how many times as fast as y x is; but against the floor and local files
how many times as long it takes. ``memory_16x`` and ``tasks_16x`` are those of 16 times an area over those of one."""


STUDY_TARGETS: Final[dict[str, tuple[str, float]]] = {
    "auc_truth": (">=", 0.985),
    "f1": (">=", 0.90),
    "precision": (">=", 0.88),
    "recall": (">=", 0.90),
    "ece_after": ("<=", 0.03),
    "regions_beaten_cart": (">=", 3),
    "regions_beaten_linear": (">=", 3),
    "sensor_f1_drop": ("<=", 0.03),
    "sensor_f1_drop_worst_region": ("<=", 0.03),
}
"""Figure of the simulated study -> what is aimed at, against truth and wall to wall."""


CHANGE_TARGETS: Final[dict[str, tuple[str, float]]] = {
    "annual_f1": (">=", 0.93),
    "loss_f1_high": (">=", 0.80),
    "gain_f1_high": (">=", 0.78),
    "recall_clearfell": (">=", 0.90),
    "recall_erosion": (">=", 0.85),
    "recall_dieback": (">=", 0.65),
    "recall_gain": (">=", 0.80),
    "within_one_year": (">=", 0.90),
    "false_loss_pct": ("<=", 0.05),
    "false_gain_pct": ("<=", 0.05),
    "extent_error_pct": ("<=", 5),
    "coverage_extent": (">=", 0.93),
    "coverage_loss": (">=", 0.93),
}
"""Figure of change in simulated worlds -> what is asked for; ``_high`` is of worlds that change fast."""


def is_met(figure: str, value: float, targets: Mapping[str, tuple[str, float]] = TARGETS) -> bool:
    """Tell whether a figure reaches its target.

    Examples
    --------
    >>> is_met("composite_u16_vs_floor", 1.2), is_met("workers_2_vs_1", 1.6)
    (True, False)
    """
    sign, target = targets[figure]
    return {">=": value >= target, "<=": value <= target, "==": value == target}[sign]
