import numpy as np
import pytest

from engine.kernels.accuracy import Z_95, assess_sample, estimate_ratio, estimate_share

# Olofsson et al. 2014, table 8: rows are deforestation, forest gain, stable forest, stable other as mapped.
MATRIX = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]])
PIXELS = np.array([200_000, 150_000, 3_200_000, 6_450_000])
HECTARES = 0.09


def units():
    mapped, true = (np.repeat(place.ravel(), MATRIX.ravel()) for place in np.indices(MATRIX.shape))
    return mapped, true


def test_the_example_of_the_paper_to_its_printed_digits():
    mapped, true = units()
    found = assess_sample(PIXELS, mapped, mapped, true, 4)
    land = PIXELS.sum() * HECTARES
    assert [round(share.value * land) for share in found.shares] == [21158, 11686, 285770, 581386]
    assert round(found.overall.value, 3) == 0.947
    assert round(Z_95 * found.overall.error, 3) == 0.018
    assert [round(one.value, 3) for one in found.users] == [0.880, 0.733, 0.927, 0.963]
    assert [round(Z_95 * one.error, 3) for one in found.users] == [0.074, 0.101, 0.040, 0.021]
    assert [round(one.value, 3) for one in found.producers] == [0.749, 0.847, 0.935, 0.962]
    assert found.matrix.sum() == pytest.approx(1)
    np.testing.assert_allclose(found.matrix.sum(axis=1), PIXELS / PIXELS.sum())


def test_errors_of_areas_and_of_producers_accuracy_are_those_of_the_paper():
    mapped, true = units()
    found = assess_sample(PIXELS, mapped, mapped, true, 4)
    land = PIXELS.sum() * HECTARES
    assert [round(Z_95 * share.error * land) for share in found.shares] == [6158, 3756, 15510, 16282]
    wider = assess_sample(PIXELS, mapped, mapped, true, 4, jeffreys=True)
    assert all(one.error > other.error for one, other in zip(wider.shares[:2], found.shares[:2], strict=True))
    assert wider.shares[2] == found.shares[2]  # stable forest was found in every stratum
    assert [Z_95 * one.error for one in found.producers] == pytest.approx([0.213, 0.254, 0.034, 0.018], abs=0.002)


def test_a_stratum_that_is_no_class_is_weighed_by_its_land():
    # A buffer (stratum 1) of 10 of 100 ha: half of its units are loss, none is mapped so.
    stratum = np.repeat([0, 1], [10, 10])
    true = np.repeat([0, 0, 1], [10, 5, 5])
    found = assess_sample(np.array([90, 10]), stratum, np.zeros(20, int), true, 2)
    assert found.shares[1].value == pytest.approx(0.05)
    assert found.producers[1].value == 0
    assert np.isnan(found.users[1].value)


def test_an_interval_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(1)
    size, rate = np.array([95_000, 5_000]), np.array([0.001, 0.6])
    truth = (size * rate).sum() / size.sum()
    inside = 0
    for _ in range(400):
        stratum = np.repeat([0, 1], [400, 100])
        low, high = estimate_share(size, stratum, rng.random(500) < rate[stratum], jeffreys=True).interval
        inside += low <= truth <= high
    assert 0.92 <= inside / 400 <= 0.995


def test_a_stratum_of_one_unit_cannot_say_how_sure_it_is():
    with pytest.raises(ValueError, match=r"every one of 2 strata needs two units, got \[2, 1\]"):
        estimate_share(np.array([1, 1]), np.array([0, 0, 1]), np.ones(3, bool))
    with pytest.raises(ValueError, match="every one of 1 strata"):
        estimate_ratio(np.array([1]), np.array([0, 0, 1, 1]), np.ones(4, bool), np.ones(4, bool))
