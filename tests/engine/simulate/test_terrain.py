"""The land and its changes."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import numpy as np
import pytest

from engine.simulate.spectra import INDEX, MANGROVE, NAMES
from engine.simulate.terrain import EVENT_TYPES, Event, Terrain, make_terrain, state_of
from engine.simulate.world import FIRST_YEAR, LAST_YEAR

DEAD, SPARSE, SHORT = "mangrove_dead", "mangrove_sparse", "mangrove_short"


def with_events(seed: int = 1, size_px: int = 256) -> Terrain:
    """Return the first of some regions that changes fast."""
    worlds = (make_terrain(seed, region, size_px, "coastal") for region in ("India", "Myanmar3", "Cuba2", "Miami1"))
    return next(terrain for terrain in worlds if len(terrain.events) > 20)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("region", ["Vietnam2", "India", "Mozambique1", "Cuba2"])
def test_mangrove_covers_a_tenth_to_a_quarter_of_a_coast(region: str, seed: int) -> None:
    terrain = make_terrain(seed, region, 512, "coastal")
    for year in (1984, 2016):
        assert 0.10 <= state_of(terrain, year).mangrove[terrain.site.inner].mean() <= 0.25


@pytest.mark.parametrize("region", ["Vietnam2", "Mozambique1"])
def test_the_mainland_is_forest_with_little_mangrove(region: str) -> None:
    terrain = make_terrain(1, region, 512, "mainland")
    state = state_of(terrain, 2016)
    inner = terrain.site.inner
    assert 0.01 <= state.mangrove[inner].mean() <= 0.03
    assert (state.index[inner] == INDEX["forest_evergreen"]).mean() >= 0.40


def test_a_coast_holds_every_confuser() -> None:
    found = {
        NAMES[i]
        for region in ("India", "Miami1", "Nigeria1")
        for i in np.unique(make_terrain(1, region, 512, "coastal").index)
    }
    assert {"swamp_nypa", "silvofishery", "spartina", "abandoned_pond", "pond", "saltmarsh_flat", "sand"} <= found


def test_mangrove_classes_are_those_with_canopy() -> None:
    state = state_of(with_events(), 2016)
    np.testing.assert_array_equal(state.mangrove, np.isin(state.index, MANGROVE))


def test_nothing_changes_but_where_an_event_says_so() -> None:
    terrain = with_events()
    before, after = state_of(terrain, 2000), state_of(terrain, 2010)
    changed = before.index != after.index
    assert changed.any()
    assert (after.event[changed] > 0).all()
    assert ((after.event > 0) >= (before.event > 0)).all()
    ids = {event.id for event in terrain.events if event.date.year <= 2010}
    assert set(np.unique(after.event)) - {0} <= ids
    assert (after.change_year[after.event > 0] <= 2010).all()
    assert np.isin(after.change_year[changed & (before.event == 0)], range(2000, 2011)).all()


def test_no_pixel_changes_twice() -> None:
    terrain = with_events()
    hits = np.zeros(terrain.index.shape, dtype=int)
    for event in terrain.events:
        hits[event.window] += np.isfinite(event.start)
    assert hits.max() == 1


def test_all_kinds_of_change_happen_and_some_worlds_have_none() -> None:
    kinds: set[str] = set()
    quiet = 0
    for seed in range(1, 9):
        events = make_terrain(seed, "Vietnam2", 256, "coastal").events
        kinds |= {event.type for event in events}
        quiet += not events
    assert kinds == set(EVENT_TYPES)
    assert quiet < 4


def test_a_world_changes_at_the_rate_that_was_asked() -> None:
    assert make_terrain(1, "India", 256, "coastal", 0.0).events == []
    changed = {}
    for rate in (0.0015, 0.006):
        terrain = make_terrain(1, "India", 256, "coastal", rate)
        pixels = sum(np.isfinite(event.start).sum() for event in terrain.events)
        changed[rate] = pixels / ((terrain.canopy >= 0.2).sum() * (LAST_YEAR - FIRST_YEAR + 1))
    assert changed == pytest.approx({0.0015: 0.0015, 0.006: 0.006}, rel=0.1)


def test_mangrove_that_spreads_seaward_stands_above_mean_sea_level() -> None:
    terrain = make_terrain(1, "India", 256, "coastal", 0.0075)
    spread = [event.id for event in terrain.events if event.type == "progradation"]
    state = state_of(terrain, 2020)
    young = np.isin(state.event, spread) & state.mangrove
    assert (terrain.elevation[young] < 0).any()
    assert state.ground[young].min() >= 0.19
    untouched = ~np.isin(state.event, spread)
    np.testing.assert_array_equal(state.ground[untouched], terrain.elevation[untouched])


@pytest.mark.parametrize(
    ("kind", "recovers", "ages", "names"),
    [
        ("clear-fell to pond", False, [0, 9], ["pond", "pond"]),
        (
            "storm dieback",
            True,
            [0, 1, 2, 3, 4, 9],
            ["mangrove_dead"] * 2 + ["mangrove_sparse"] * 2 + ["mangrove_short"] * 2,
        ),
        ("storm dieback", False, [1, 9], [DEAD, "tidal_flat_wet"]),
        ("progradation", False, [0, 1, 3, 6], ["tidal_flat_wet", SPARSE, SHORT, "mangrove_tall"]),
        ("erosion", False, [0, 5], ["water_turbid", "water_turbid"]),
        (
            "planting",
            False,
            [0, 2, 4, 8],
            ["tidal_flat_exposed", SPARSE, SHORT, SHORT],
        ),
    ],
)
def test_a_change_runs_its_course(kind: str, recovers: bool, ages: list[int], names: list[str]) -> None:
    land = make_terrain(1, "India", 64, "coastal")
    start = np.full((1, 1), 2000.4, dtype="float32")
    event = Event(1, kind, dt.date(2000, 5, 26), (slice(50, 51), slice(50, 51)), start, recovers)
    terrain = replace(land, events=[event])

    course = [NAMES[state_of(terrain, 2000 + age).index[50, 50]] for age in ages]

    assert course == names
    assert state_of(terrain, 1999).event[50, 50] == 0
