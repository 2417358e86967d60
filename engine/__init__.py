"""Landsat archives to yearly mangrove maps: the steps, each usable alone.

Kernels (``engine.kernels``) are pure array functions; steps (``cube``, ``sample``, ``train`` ...) say what
to compute; ``jobs`` order the steps and record what was done.

For a notebook, ``engine.stack_items`` and ``engine.mask_clouds`` are here at the top; they are imported when
first used, so that ``import engine`` stays quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.stack import fuse_observations, mask_clouds, stack_items

__version__ = "0.1.0"
__all__ = ["fuse_observations", "mask_clouds", "stack_items"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from engine import stack

        return getattr(stack, name)
    raise AttributeError(f"module 'engine' has no attribute {name!r}")
