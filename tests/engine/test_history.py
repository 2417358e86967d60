"""Histories of blocks: what all years together say, against series made by hand and against larger blocks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.history import (
    RegionRates,
    fit_region,
    least_px,
    odds_of_years,
    reach_px,
    suspect_tide,
    trace_block,
)
from engine.kernels.history import History
from engine.kernels.series import Rates
from engine.legend import (
    GAIN,
    GAINED,
    LOSS,
    LOST,
    MANGROVE,
    NOT_OBSERVED,
    OTHER,
    OUTSIDE_AREA,
    OUTSIDE_HABITAT,
    PROBABILITY_MISSING,
    PROVISIONAL_LOSS,
    STABLE_MANGROVE,
    STABLE_OTHER,
    STABLE_OUTSIDE_HABITAT,
)
from engine.params import ChangeParams

YEARS = tuple(range(2008, 2020))
RATES = {1: RegionRates(Rates(0.005, 0.005), 0.5)}
MODELS = [ChangeParams(model=model, min_looks=3) for model in ("segments", "hmm")]


def trace(mangrove, looks=None, static=None, params=MODELS[0], doubtful=None):
    """Trace a block whose maps show mangrove (bool) surely, but where doubtful, with a little noise of their own."""
    rng = np.random.default_rng(0)
    probability = np.where(mangrove, 8500, 500) + rng.integers(-300, 300, mangrove.shape)
    if doubtful is not None:
        probability[doubtful] = 3900
    looks = np.full(mangrove.shape, 9) if looks is None else looks
    shape = mangrove.shape[1:]
    return trace_block(
        np.where(looks > 0, probability, PROBABILITY_MISSING).astype("uint16"),
        looks.astype("uint16"),
        np.full(shape, OTHER, "uint8") if static is None else static,
        np.ones(shape, "uint16"),
        YEARS,
        threshold=0.4,
        params=params,
        rates=RATES,
    )


def land(lost=0, gained=0):
    """Return a square that is mangrove in the left half, of which a patch of 3 x 3 is lost, and one of other gained."""
    mangrove = np.zeros((len(YEARS), 12, 12), bool)
    mangrove[:, :, :6] = True
    if lost:
        mangrove[np.array(YEARS) >= lost, 1:4, 1:4] = False
    if gained:
        mangrove[np.array(YEARS) >= gained, 6:9, 8:11] = True
    return mangrove


@pytest.mark.parametrize("params", MODELS, ids=lambda params: params.model)
def test_loss_and_gain_are_told_with_their_year_and_the_rest_is_stable(params):
    mangrove = land(lost=2011, gained=2012)
    found = trace(mangrove, params=params)
    assert found.history.kind[2, 2] == LOSS
    assert found.history.kind[7, 9] == GAIN
    assert (found.history.loss_year[1:4, 1:4] == 2011).all()
    assert (found.history.gain_year[6:9, 8:11] == 2012).all()
    assert ((found.history.loss_year > 0).sum(), (found.history.gain_year > 0).sum()) == (9, 9)
    assert found.history.kind[11, 0] == STABLE_MANGROVE
    assert found.history.kind[11, 11] == STABLE_OTHER
    assert (found.large[1:4, 1:4] == LOST).all()
    assert (found.large[6:9, 8:11] == GAINED).all()
    np.testing.assert_array_equal(found.classes == MANGROVE, mangrove)
    assert (found.probability[:, 11, 0] > 9000).all()
    assert (found.probability[:, 11, 11] < 1000).all()
    assert found.history.looks[2, 2] == 27  # 2008 to 2010
    assert found.history.confidence[2, 2] > 80


def test_a_change_of_the_last_years_is_provisional_and_a_doubtful_year_is_none():
    mangrove = land(lost=2016)
    doubtful = np.zeros(mangrove.shape, bool)
    doubtful[5, 6:9, 1:4] = True
    found = trace(mangrove, doubtful=doubtful)
    assert found.history.kind[2, 2] == PROVISIONAL_LOSS
    assert (found.history.kind[6:9, 1:4] == STABLE_MANGROVE).all()
    assert trace(land(lost=2016), params=ChangeParams(recovery_years=3)).history.kind[2, 2] == LOSS


def test_a_small_patch_is_told_and_not_large():
    mangrove = np.ones((len(YEARS), 12, 12), bool)
    mangrove[4:, 5, 2:7] = False  # five pixels
    found = trace(mangrove)
    assert (found.history.loss_year > 0).sum() == 5
    assert not found.large.any()
    assert trace(mangrove, params=ChangeParams(min_area_ha=0.45)).large.sum() == 5
    assert (least_px(ChangeParams()), least_px(ChangeParams(min_area_ha=0.45))) == (6, 5)


@pytest.mark.parametrize("params", MODELS, ids=lambda params: params.model)
def test_what_was_never_observed_never_changed_and_poor_years_date_nothing(params):
    mangrove = land(lost=2012)
    looks = np.full(mangrove.shape, 9)
    looks[:, 1, 1] = 0
    looks[:, 1, 2] = 2
    looks[4, 2:4, 1:4] = 2  # 2012 itself is poor
    found = trace(mangrove, looks, params=params)
    assert (found.history.kind[1, 1:3] == NOT_OBSERVED).all()
    assert (found.classes[:, 1, 1:3] == NOT_OBSERVED).all()
    assert (found.probability[:, 1, 1:3] == PROBABILITY_MISSING).all()
    assert found.history.loss_year[1, 1:4].tolist() == [0, 0, 2012]
    assert (found.history.loss_year[2:4, 1:4] == 2013).all()


def test_area_and_habitat_are_as_the_maps_have_them():
    static = np.full((12, 12), OTHER, "uint8")
    static[0], static[1] = OUTSIDE_AREA, OUTSIDE_HABITAT
    looks = np.full((len(YEARS), 12, 12), 9)
    looks[:, :2] = 0
    found = trace(land(), looks, static)
    assert (found.history.kind[0] == OUTSIDE_AREA).all()
    assert (found.history.kind[1] == STABLE_OUTSIDE_HABITAT).all()
    assert (found.classes[:, 0] == OUTSIDE_AREA).all()
    assert (found.classes[:, 1] == OUTSIDE_HABITAT).all()


def noisy(seed, shape=(10, 40, 30)):
    rng = np.random.default_rng(seed)
    field = np.repeat(np.repeat(rng.random((shape[1] // 5, shape[2] // 5)), 5, axis=0), 5, axis=1)
    when = np.repeat(np.repeat(rng.integers(0, 14, (shape[1] // 5, shape[2] // 5)), 5, axis=0), 5, axis=1)
    mangrove = (field > 0.5) ^ (np.arange(shape[0])[:, np.newaxis, np.newaxis] >= when)
    odds = np.where(mangrove, 2, -2) + rng.normal(0, 2, shape)
    probability = (10_000 / (1 + np.exp(-odds))).astype("uint16")
    return probability, rng.integers(0, 9, shape).astype("uint16")


@pytest.mark.parametrize("params", MODELS, ids=lambda params: params.model)
@settings(max_examples=10)
@given(seed=st.integers(0, 2**32 - 1), top=st.integers(0, 30), left=st.integers(0, 20))
def test_a_window_with_its_reach_is_traced_as_the_whole(params, seed, top, left):
    probability, looks = noisy(seed)
    years, reach = tuple(range(2001, 2011)), reach_px(params)

    def of(rows, cols):
        shape = (rows.stop - rows.start, cols.stop - cols.start)
        return trace_block(
            probability[:, rows, cols],
            looks[:, rows, cols],
            np.full(shape, OTHER, "uint8"),
            np.ones(shape, "uint16"),
            years,
            threshold=0.5,
            params=params,
            rates=RATES,
        )

    whole = of(slice(0, 40), slice(0, 30))
    rows, cols = slice(max(0, top - reach), min(40, top + 6 + reach)), slice(max(0, left - reach), left + 5 + reach)
    part = of(rows, slice(cols.start, min(30, cols.stop)))
    inner = np.s_[..., top - rows.start : top - rows.start + 6, left - cols.start : left - cols.start + 5]
    outer = np.s_[..., top : top + 6, left : left + 5]
    for one, other in zip(
        (*whole[:2], *whole.history, whole.large), (*part[:2], *part.history, part.large), strict=True
    ):
        np.testing.assert_array_equal(other[inner], one[outer])


def test_rates_of_a_region_are_those_of_its_pixels():
    rng = np.random.default_rng(1)
    state = [rng.random(6000) < 0.4]
    for _ in range(11):
        state.append(np.where(state[-1], rng.random(6000) >= 0.02, rng.random(6000) < 0.01))
    over = (np.where(state, 2, -2) + rng.normal(0, 0.7, (12, 6000))).astype("float32")
    found = fit_region(over, np.ones_like(over), 0.4)
    assert found.rates == pytest.approx((0.02, 0.01), rel=0.25)
    assert found.mangrove == pytest.approx(0.4, abs=0.02)


def test_odds_of_poor_years_are_missing():
    probability = np.full((2, 3, 3), 5000, "uint16")
    looks = np.full((2, 3, 3), 3, "uint16")
    looks[1, 1, 1] = 2
    found = odds_of_years(probability, looks, 0.5, 3)
    assert np.isnan(found[1, 1, 1])
    assert np.abs(found[~np.isnan(found)]).max() < 1e-6


def test_a_trace_tells_when_a_pixel_was_seen_last_before_it_changed():
    mangrove = np.zeros((12, 16, 16), bool)
    mangrove[:6] = True  # lost in 2014
    mangrove[:4, :, 8:], mangrove[4:, :, 8:] = False, True  # gained in 2012
    looks = np.full(mangrove.shape, 9)
    looks[4:6, 8:, :8] = 2  # too few in 2012 and 2013
    looks[3, 8:, 8:] = 0
    found = trace(mangrove, looks)
    loss, gain = found.seen_before
    assert (found.history.loss_year[:, :8] == 2014).all()
    assert (loss[:8, :8] == 2013).all()
    assert (loss[8:, :8] == 2011).all()
    assert (gain[:8, 8:] == 2011).all()
    assert (gain[8:, 8:] == 2010).all()
    assert not loss[:, 8:].any()
    assert not gain[:, :8].any()


def test_sparse_change_by_the_water_between_unlike_years_is_suspect():
    size = 24
    frequency = np.full((3, size, size), 5000, "uint16")  # a flat, which tells the level
    frequency[2] = 8500
    frequency[:, :, 12:] = 0
    frequency[:, 2, 14] = [600, 600, 9000]
    year = np.zeros((size, size), "uint16")
    year[2, 12], year[2, 13], year[2, 20], year[5, 13] = 2012, 2012, 2012, 2011
    frequency[:2, 2, 12], frequency[:2, 2, 20], frequency[:2, 5, 13] = 600, 600, 600
    classes = np.full((3, size, size), MANGROVE, "uint8")
    classes[2] = OTHER
    none = np.zeros((size, size), "uint16")
    history = History(none.astype("uint8"), year, none, none.astype("uint8"), none)
    around = np.pad(frequency, ((0, 0), (2, 2), (2, 2)))  # land
    before = np.stack([np.where(year > 0, year - 1, 0), none]).astype("uint16")
    found = suspect_tide(history, before, around, classes, (2010, 2011, 2012), (0, 0))
    # Dense canopy, canopy far from the water, and change between years of one level are not.
    assert np.argwhere(found).tolist() == [[2, 12]]
    around[:, 4, -2:] = 9000  # within two pixels of (2, 20) is none of these
    year[2, 23], frequency[:2, 2, 23] = 2012, 600
    around[:, 2:-2, 2:-2] = frequency
    before[0, 2, 23] = 2011
    found = suspect_tide(history, before, around, classes, (2010, 2011, 2012), (0, 0))
    assert np.argwhere(found).tolist() == [[2, 12], [2, 23]], "water of the tile beside counts"
