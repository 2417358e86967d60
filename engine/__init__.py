"""Landsat archives to yearly mangrove maps: the steps, each usable alone.

Kernels (``engine.kernels``) are pure array functions; steps (``cube``, ``sample``, ``train`` ...) say what
to compute; ``jobs`` order the steps and record what was done.

For a notebook, ``engine.stack_items`` and ``engine.mask_clouds`` look at scenes lazily, and ``engine.composite_year``,
``engine.sample_year`` and ``engine.classify_year`` make of them in memory what a run writes. They are imported when
first used, so that ``import engine`` stays quick; ``engine.leaflet`` puts what they return on a map.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from engine.notebook import classify_year, composite_year, sample_year
    from engine.stack import fuse_observations, mask_clouds, stack_items

__version__ = "0.1.0"
__all__ = ["classify_year", "composite_year", "fuse_observations", "mask_clouds", "sample_year", "stack_items"]

_MODULES: Final = {
    "engine.notebook": ("classify_year", "composite_year", "sample_year"),
    "engine.stack": ("fuse_observations", "mask_clouds", "stack_items"),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'engine' has no attribute {name!r}")
