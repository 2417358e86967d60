import numpy as np
import pytest
from scipy.stats import beta

from engine.kernels.accuracy import (
    Z_95,
    Limits,
    assess_sample,
    difference_interval,
    estimate_ratio,
    estimate_share,
    fraction_interval,
    interval_coverage,
    jeffreys_limits,
    share_interval,
)

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


def test_limits_of_a_share_are_quantiles_of_beta_and_reach_the_ends():
    hits = np.array([0, 1, 3, 9, 10])
    low, high = jeffreys_limits(hits, 10)
    assert low == pytest.approx([0, 0, *beta.ppf(0.025, hits[2:] + 0.5, 10.5 - hits[2:])])
    assert high == pytest.approx([*beta.ppf(0.975, hits[:3] + 0.5, 10.5 - hits[:3]), 1, 1])


def test_an_interval_joins_the_limits_of_strata_side_by_side():
    weight, count, hits = np.array([30.0, 70.0]), np.array([10, 40]), np.array([8, 1])
    low, high = jeffreys_limits(hits, count)
    share = hits / count
    found = share_interval(weight, count, hits)
    assert found.value == pytest.approx(30 * 0.8 + 70 / 40)
    assert found.low == pytest.approx(found.value - np.hypot(30 * (share - low)[0], 70 * (share - low)[1]))
    assert found.high == pytest.approx(found.value + np.hypot(30 * (high - share)[0], 70 * (high - share)[1]))


def test_many_samples_are_answered_at_once_as_one_by_one():
    weight, count = np.array([0.9, 0.0, 0.1]), np.array([400, 0, 50])
    hits = np.random.default_rng(1).integers(0, [4, 1, 51], (5, 2, 3))
    at_once = share_interval(weight, count, hits, population=np.array([90_000, 0, 60]))
    for place in np.ndindex(5, 2):
        one = share_interval(weight, count, hits[place], population=np.array([90_000, 0, 60]))
        assert [end[place] for end in at_once] == [pytest.approx(float(end)) for end in one]


def test_a_stratum_that_was_read_whole_leaves_nothing_open():
    found = share_interval(np.array([40, 60]), np.array([40, 60]), np.array([8, 0]), population=np.array([40, 60]))
    assert [float(end) for end in found] == [8, 8, 8]
    with pytest.raises(ValueError, match=r"every stratum needs a unit, got \[4, 0\]"):
        share_interval(np.array([1, 1]), np.array([4, 0]), np.array([1, 0]))


def test_net_change_is_as_sure_as_gain_and_loss_together():
    found = difference_interval(Limits(*map(np.array, (5, 3, 9))), Limits(*map(np.array, (2, 1, 5))))
    assert [float(end) for end in found] == pytest.approx([3, 3 - np.hypot(2, 3), 3 + np.hypot(4, 1)])


def test_a_fraction_and_what_it_leaves_have_intervals_that_mirror_each_other():
    one, other = (Limits(*map(np.array, ends)) for ends in ((5.0, 3.0, 9.0), (2.0, 1.0, 5.0)))
    found, left = fraction_interval(one, other), fraction_interval(other, one)
    assert [1 - float(end) for end in (left.value, left.high, left.low)] == pytest.approx([float(end) for end in found])
    assert found.value == pytest.approx(5 / 7)
    # The odds by the equation of Donner and Zou: of 2 in 1-5 to 5 in 3-9.
    odds = [
        (10 + sign * np.sqrt(100 - end)) / least
        for sign, end, least in ((-1, 1 * 9 * 3 * 1, 9), (1, 5 * 3 * -1 * 7, 21))
    ]
    assert [float(found.low), float(found.high)] == pytest.approx([1 / (1 + odds[1]), 1 / (1 + odds[0])])


def test_a_fraction_of_nothing_is_not_known():
    nothing, some = (Limits(*map(np.array, ends)) for ends in ((0.0, 0.0, 4.0), (8.0, 6.0, 9.0)))
    assert np.isnan(fraction_interval(nothing, nothing)).all()
    assert [float(end) for end in fraction_interval(nothing, some)][:2] == [0, 0]
    assert float(fraction_interval(some, nothing).high) == 1
    assert float(fraction_interval(some, nothing).low) < 8 / 12


@pytest.mark.parametrize("missed", [(763, 213, 33, 13), (100, 100, 10, 0)])
def test_producers_accuracy_of_rare_loss_is_held(missed):
    pixels, positive = np.array([279_051, 32_456, 31_748, 1_611_122, 3_933]), np.array([*missed, 2_749])
    count = np.array([400, 400, 400, 400, 100])
    hits = np.random.default_rng(1).hypergeometric(positive, pixels - positive, count, (4000, 5))
    parts = [share_interval(pixels[of], count[of], hits[:, of], population=pixels[of]) for of in ([4], [0, 1, 2, 3])]
    found, truth = fraction_interval(*parts), 2_749 / positive.sum()
    assert 0.93 <= np.mean((found.low <= truth) & (truth <= found.high)) <= 0.99


# Rare loss: strata of stable mangrove, its edge, other near it, other, mapped loss; pixels of each, truly lost of them.
PIXELS_OF = np.array([250_000, 74_000, 68_000, 1_554_000, 8_900])


@pytest.mark.parametrize(
    "missed", [(60, 0, 0, 0), (2535, 687, 267, 70), (250, 200, 100, 0), (25, 10, 0, 0), (0, 0, 0, 0)]
)
def test_intervals_of_rare_loss_hold_the_truth_however_much_the_map_missed(missed):
    positive = np.array([*missed, 6_000])
    coverage, halfwidth = interval_coverage(PIXELS_OF, positive, np.array([400, 400, 400, 400, 100]), draws=4000)
    assert 0.93 <= coverage <= 0.99
    assert halfwidth > 0.1


def test_intervals_of_extent_hold_the_truth():
    positive = np.array([248_000, 66_000, 6_000, 3_000, 5_000])
    coverage, halfwidth = interval_coverage(PIXELS_OF, positive, np.array([400, 400, 400, 400, 100]), draws=4000)
    assert 0.94 <= coverage <= 0.975
    assert halfwidth < 0.05


def test_standard_errors_alone_would_not_hold_rare_loss():
    pixels, positive = np.array([279_051, 32_456, 31_748, 1_611_122, 3_933]), np.array([763, 213, 33, 13, 2_749])
    count = np.array([400, 400, 400, 400, 100])
    hits = np.random.default_rng(1).hypergeometric(positive, pixels - positive, count, (4000, 5))
    share = hits / count
    error = np.sqrt((pixels**2 * share * (1 - share) / (count - 1)).sum(axis=1))
    assert np.mean(np.abs(share @ pixels - positive.sum()) <= Z_95 * error) < 0.8
    assert 0.93 <= interval_coverage(pixels, positive, count)[0] <= 0.99


def test_wrong_labels_spoil_what_intervals_promise():
    positive = np.array([250, 200, 100, 0, 6_000])
    coverage, _ = interval_coverage(PIXELS_OF, positive, np.full(5, 400), reader_error=0.05)
    assert coverage < 0.05
    assert np.isnan(interval_coverage(PIXELS_OF, np.zeros(5, int), np.full(5, 9))[1])
