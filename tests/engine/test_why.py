"""Where a point lies, and what quality words say."""

from __future__ import annotations

import numpy as np
import pytest

from engine.errors import ConfigError
from engine.grid import Tile, lonlat_of
from engine.why import flags_of, pixel_at

TILE = Tile(48, 8, -16, (-32768, 16384, 100, 100))


def test_a_point_finds_its_pixel():
    lon, lat = lonlat_of(48, np.array([-32768 + 7]), np.array([16384 + 9]))
    assert pixel_at([TILE], float(lon[0]), float(lat[0])).at == (7, 9)


@pytest.mark.parametrize("point", [(0.0, 0.0), (8.6, 105.0), (200.0, 0.0), (104.9, 89.0)])
def test_a_point_elsewhere_is_refused(point):
    with pytest.raises(ConfigError, match="point"):
        pixel_at([TILE], *point)


def test_words_are_told_in_words():
    assert flags_of(0, 0, 126) == ["no quality word"]
    assert flags_of(1 << 1 | 1 << 4, 0, 126) == ["dilated cloud", "cloud shadow"]
    assert flags_of(1 << 2, 2, 126) == ["cirrus", "saturated or occluded"]
    assert flags_of(3 << 8, 0, 126) == ["high confidence of cloud"]
