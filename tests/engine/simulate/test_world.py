"""Where regions lie, and where random numbers come from."""

from __future__ import annotations

import numpy as np
import pytest

from engine.area import study_regions
from engine.grid import tiles_of
from engine.simulate.world import WorldParams, gaussian_field, site_of, stream


@pytest.mark.parametrize("size_px", [64, 300, 512, 2048])
def test_every_region_is_one_whole_tile_of_its_zone(size_px: int) -> None:
    squares = set()
    for region in study_regions():
        site = site_of(region, size_px)
        tiles = tiles_of(site.polygon)
        assert [(tile.zone, tile.window) for tile in tiles] == [(site.zone, (site.row, site.col, size_px, size_px))]
        squares.add((site.zone, site.row, site.col))
    assert len(squares) == 25


def test_squares_snap_where_their_side_divides_a_tile() -> None:
    site = site_of("Mozambique1", 512)  # in the south: northern zone code, negative northings
    assert site.row > 0
    assert (site.row % 512, site.col % 512) == (0, 0)
    assert site.geobox.crs.epsg == 32637


def test_streams_differ_by_name_and_not_by_process() -> None:
    assert stream(1, "India").integers(2**63) == 7977917704383558668
    assert stream(1, "India").integers(2**63) != stream(2, "India").integers(2**63)


def test_a_field_is_smoother_the_larger_its_exponent() -> None:
    rough, smooth = (gaussian_field(stream("field"), (200, 120), exponent=e) for e in (0.5, 3.0))
    assert rough.shape == (200, 120)
    assert smooth.std() == pytest.approx(1, abs=1e-3)
    assert np.abs(np.diff(smooth)).mean() < 0.3 * np.abs(np.diff(rough)).mean()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"regions": ("Atlantis",)}, "engine/regions.csv, got .'Atlantis'"),
        ({"regions": ("India", "India")}, "distinct"),
        ({"years": (1970,)}, "1984-2030, got"),
        ({"size_px": 4096}, "64 to 2048 pixels"),
        ({"scenes_per_year": 0}, "1 to 60 or None"),
        ({"setting": "lunar"}, "coastal or mainland"),
        ({"change_rate": 0.2}, "0 to 0.05"),
    ],
)
def test_worlds_that_cannot_be_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WorldParams(**({"regions": ("India",), "years": (2016,)} | change))


def test_masks_are_three_years_older_than_the_maps_unless_asked() -> None:
    assert WorldParams(("India",), (2012, 2013, 2016)).reference_years == (2009, 2013)
    assert WorldParams(("India",), (2016,), mask_years=(2015,)).reference_years == (2015,)
