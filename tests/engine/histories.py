"""Histories of change made by hand, for tests of what is told from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from engine.grid import Tile
from engine.kernels.patches import is_large
from engine.legend import GAIN, LOSS, LOSS_RECOVERED, PROBABILITY_MISSING, PROVISIONAL_LOSS, STABLE_OTHER
from engine.store import grid_coords, write_store


def random_history(rng: np.random.Generator, shape: tuple[int, int], share: float) -> dict[str, np.ndarray]:
    """Return the flat layers of a history, in which a share of the pixels has lost, and as many have gained."""
    lost, gained = rng.random(shape) < share, rng.random(shape) < share
    kind = np.where(gained, GAIN, STABLE_OTHER)
    kind = np.where(lost, rng.choice([LOSS, LOSS_RECOVERED, PROVISIONAL_LOSS], shape), kind)
    return {
        "kind": kind.astype("uint8"),
        "loss_year": np.where(lost, rng.integers(1990, 2020, shape), 0).astype("uint16"),
        "gain_year": np.where(gained, rng.integers(1990, 2020, shape), 0).astype("uint16"),
        "confidence": rng.integers(0, 101, shape).astype("uint8"),
        "looks": rng.integers(0, 500, shape).astype("uint16"),
        "tide_suspect": rng.integers(0, 2, shape).astype("uint8"),
        "region": rng.integers(1, 3, shape).astype("uint16"),
    }


def large_flags(layers: dict[str, np.ndarray], least_px: int) -> np.ndarray:
    """Return the layer ``large`` of a history that is whole."""
    loss, gain = (is_large(layers[f"{name}_year"] > 0, least_px) for name in ("loss", "gain"))
    return (loss + 2 * gain).astype("uint8")


def crop(layers: dict[str, np.ndarray], tile: Tile, corner: tuple[int, int]) -> dict[str, np.ndarray]:
    """Return the part of layers that lies in a tile; ``corner`` is the grid row and column of their first pixel."""
    row, col, height, width = tile.window
    top, left = row - corner[0], col - corner[1]
    return {
        name: np.ascontiguousarray(layer[..., top : top + height, left : left + width])
        for name, layer in layers.items()
    }


def write_history(path: Path, layers: dict[str, np.ndarray], tile: Tile, years: Sequence[int]) -> Path:
    """Write layers as the store of a tile's history; without classes none are in it."""
    probability = np.full((len(years), *tile.shape), PROBABILITY_MISSING, dtype="uint16")
    layers = {"class": np.ones((len(years), *tile.shape), dtype="uint8"), "probability": probability, **layers}
    data = {name: (("year", "y", "x")[-layer.ndim :], layer) for name, layer in layers.items()}
    write_store(path, xr.Dataset(data, coords={**grid_coords(tile.geobox), "year": list(years)}), {"tile": tile.id})
    return path
