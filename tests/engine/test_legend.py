"""Colours of codes: to be told apart, also by eyes that see no red or no green."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from engine.legend import CHANGES, CLASSES, OUTSIDE_AREA

SEEN_BY = {
    "most": np.eye(3),
    "without red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "without green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
}
"""Linear sRGB as eyes see it (Machado, Oliveira and Fernandes 2009, severity 1)."""


def lab(colour: tuple[int, int, int], eyes: str) -> np.ndarray:
    """Return CIELAB (D65) of an sRGB colour."""
    share = np.array(colour) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    rows = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    xyz = np.array(rows) @ np.clip(np.array(SEEN_BY[eyes]) @ linear, 0, 1) / [0.95047, 1, 1.08883]
    x, y, z = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("eyes", SEEN_BY)
@pytest.mark.parametrize("legend", [CLASSES, CHANGES], ids=["classes", "changes"])
def test_colours_of_a_legend_are_told_apart(legend, eyes):
    shown = [entry for entry in legend if entry.code != OUTSIDE_AREA]
    for one, other in combinations(shown, 2):
        assert np.linalg.norm(lab(one.colour, eyes) - lab(other.colour, eyes)) > 15, (one.name, other.name)
