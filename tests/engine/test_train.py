"""Training: the same trees however the rows are spread, and scores of land never trained on."""

from __future__ import annotations

import dask.dataframe as dd
import dask_geopandas
import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import xgboost
from distributed import Client, LocalCluster

from engine import train
from engine.boost import GRADIENT_GRID, logistic_gradients
from engine.collective import train_spread
from engine.errors import ConfigError, SampleError
from engine.kernels.bins import encode
from engine.kernels.features import ALL_FEATURES, COMPOSITE_FEATURES, MISSING
from engine.legend import MANGROVE
from engine.params import TrainParams
from engine.train import fit, train_model
from tests.engine.samples import make_sample

FEW = TrainParams(rounds=12, max_depth=4)
SAMPLE = make_sample()
REFERENCE = fit(SAMPLE, features=ALL_FEATURES, params=FEW).tree_sha256()


def fitted(sample, *, params=FEW, **options):
    return fit(sample, features=ALL_FEATURES, params=params, **options).tree_sha256()


# --- the same trees --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["label", "blue", "weight", "region"])
def test_the_order_of_the_rows_does_not_change_the_trees(order):
    assert fitted(SAMPLE.sort_values(order)) == REFERENCE


@pytest.mark.parametrize("partitions", [1, 2, 7])
def test_partitions_do_not_change_the_trees(partitions):
    shuffled = SAMPLE.sample(frac=1, random_state=partitions)
    assert fitted(dd.from_pandas(shuffled, npartitions=partitions, sort=False)) == REFERENCE


def test_empty_partitions_do_not_matter():
    parts = [SAMPLE.iloc[:0], SAMPLE.iloc[:1000], SAMPLE.iloc[:0], SAMPLE.iloc[1000:]]
    assert fitted(dd.concat([dd.from_pandas(part, npartitions=1) for part in parts])) == REFERENCE


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_do_not_change_the_trees(threads, monkeypatch):
    monkeypatch.setattr(train, "_threads", lambda rows: threads)
    assert fitted(SAMPLE) == REFERENCE


@pytest.fixture(scope="module")
def cluster():
    with LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster:
        yield cluster


@pytest.fixture(scope="module")
def client(cluster):
    with Client(cluster) as client:
        client.wait_for_workers(2)
        yield client


@pytest.mark.slow
@pytest.mark.parametrize("distributed", ["auto", "yes", "no"])
@pytest.mark.parametrize("order", ["weight", "blue"])
def test_two_workers_give_the_trees_of_one_process(client, distributed, order):
    # Sorted, so that the workers' rows differ as much as they can.
    spread = dd.from_pandas(SAMPLE.sort_values(order).reset_index(drop=True), npartitions=5)
    params = FEW.model_copy(update={"distributed": distributed})
    assert fitted(spread, params=params, client=client, plain_collective=True) == REFERENCE


@pytest.mark.slow
def test_a_sample_beyond_a_workers_memory_is_distributed(client, monkeypatch):
    used = []
    monkeypatch.setattr(train, "train_spread", lambda *args: used.append(1) or train_spread(*args))
    spread = dd.from_pandas(SAMPLE, npartitions=4)
    assert fitted(spread, client=client, worker_memory=2**30) == REFERENCE
    assert not used
    assert fitted(spread, client=client, worker_memory=2**16, plain_collective=True) == REFERENCE
    assert used


@pytest.mark.long
def test_one_and_three_workers_give_the_trees_of_one_process():
    params = FEW.model_copy(update={"distributed": "yes"})
    spread = dd.from_pandas(SAMPLE.sort_values("red").reset_index(drop=True), npartitions=7)
    for workers in (1, 3):
        with (
            LocalCluster(
                n_workers=workers, threads_per_worker=2, host="127.0.0.1", dashboard_address="127.0.0.1:0"
            ) as cluster,
            Client(cluster) as client,
        ):
            client.wait_for_workers(workers)
            assert fitted(spread, params=params, client=client, plain_collective=True) == REFERENCE


def files(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_each_fit_has_a_checkpoint_of_its_own_and_none_is_made_twice(tmp_path):
    expected = train_model(SAMPLE, params=FEW, features=COMPOSITE_FEATURES).model
    first = train_model(SAMPLE, params=FEW, features=COMPOSITE_FEATURES, checkpoints=tmp_path).model
    kept = files(tmp_path)
    assert len(kept) >= 4  # of the folds, of all, and of the random split
    again = train_model(SAMPLE, params=FEW, features=COMPOSITE_FEATURES, checkpoints=tmp_path).model
    assert files(tmp_path) == kept
    assert expected.sha256() == first.sha256() == again.sha256()


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.assign(label=np.where(np.arange(len(s)) == 7, 3 - s["label"], s["label"]).astype("uint8")),
        lambda s: s.assign(red=s["red"] + (np.arange(len(s)) == 7).astype(np.int32)),
        lambda s: s.assign(weight=s["weight"] * np.where(np.arange(len(s)) == 7, 2, 1)),
        lambda s: s.assign(blue=s["blue"].iloc[::-1].to_numpy()),  # the same values, of other rows
        lambda s: s.iloc[1:],
    ],
)
def test_another_sample_never_goes_on_from_these_trees(change, tmp_path):
    sample = SAMPLE.assign(interior=True)
    fitted(sample, checkpoints=tmp_path)
    fitted(sample.sample(frac=1, random_state=1), checkpoints=tmp_path)
    assert len(files(tmp_path)) == 1  # the order of rows makes no other sample
    other = change(sample)
    assert fitted(other, checkpoints=tmp_path) == fitted(other)
    assert len(files(tmp_path)) == 2


def test_other_settings_never_go_on_from_these_trees(tmp_path):
    fitted(SAMPLE, checkpoints=tmp_path)
    more = FEW.model_copy(update={"rounds": 13})
    assert fitted(SAMPLE, params=more, checkpoints=tmp_path) == fitted(SAMPLE, params=more)
    assert len(files(tmp_path)) == 2


def test_plain_sockets_need_a_word(threads_client):
    spread = dd.from_pandas(SAMPLE, npartitions=2)
    asked = FEW.model_copy(update={"distributed": "yes"})
    with pytest.raises(ConfigError, match=r"plain sockets on every interface .*--allow-plain-collective") as caught:
        fitted(spread, params=asked, client=threads_client)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"GiB, more than half .*more memory or draw fewer.*--allow-plain-collective"):
        fitted(spread, client=threads_client, worker_memory=2**16)
    assert fitted(spread, client=threads_client, worker_memory=2**30) == REFERENCE  # in one task nothing is opened
    assert fitted(spread, params=asked, client=threads_client, plain_collective=True) == REFERENCE


@pytest.fixture
def threads_client():
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        yield client


def test_gradients_lie_on_the_grid_and_are_the_logistic_ones():
    rng = np.random.default_rng(0)
    margin = rng.normal(0, 6, 500).astype(np.float32)
    weight = rng.lognormal(0, 4, 500).astype(np.float32)  # up to 1e5: the cast to float32 rounds too
    label = (rng.random(500) < 0.5).astype(np.float32)
    rows = xgboost.DMatrix(np.zeros((500, 1)), label=label, label_lower_bound=weight)
    gradient, hessian = (values.astype(np.float64) for values in logistic_gradients(margin, rows))
    for values in (gradient, hessian):
        assert (values * GRADIENT_GRID == np.rint(values * GRADIENT_GRID)).all()
    chance = 1 / (1 + np.exp(-margin.astype(float)))
    np.testing.assert_allclose(gradient, weight * (chance - label), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(hessian, weight * chance * (1 - chance), rtol=1e-6, atol=1e-7)
    # So any order of addition gives the same double.
    assert len({gradient[rng.permutation(500)].cumsum()[-1] for _ in range(20)}) == 1


# --- what the model means --------------------------------------------------------------------------------------


def test_probability_is_at_map_prevalence():
    # One feature of two values. Where it is 1, half of the 200 rows are mangrove, each standing for 1 pixel,
    # and each other row for 9: on the map one pixel in ten there is mangrove.
    size = 400
    sample = make_sample(size).assign(interior=True, region="x")
    sample[list(ALL_FEATURES)] = 0
    sample["blue"] = np.repeat([0, 1], 200).astype(np.int32)
    sample["label"] = np.where(np.arange(size) >= 300, 2, 1).astype(np.uint8)
    sample["weight"] = np.where(sample["label"] == MANGROVE, 1.0, 9.0)
    model = fit(
        sample, features=("blue",), params=TrainParams(rounds=300, max_depth=1, reg_lambda=0, min_child_weight=0)
    )
    assert model.edges[0].tolist() == [1]
    low, high = model.predict_codes(np.array([[0, 1]], np.uint8))
    assert high == pytest.approx(0.10, abs=0.002)
    assert low < 0.005
    assert model.training_prevalence == pytest.approx(100 / (100 + 300 * 9))


def test_eroded_rows_are_not_trained_on_but_their_land_counts():
    sample = make_sample(2000, regions=("x",))
    edge = (sample["label"] == MANGROVE) & (np.arange(2000) % 2 == 0)
    eroded = sample.assign(interior=~edge)
    model = fit(eroded, features=ALL_FEATURES, params=FEW)
    mangrove = sample["label"] == MANGROVE
    assert model.training_rows["mangrove"] == (mangrove & ~edge).sum()
    assert model.training_prevalence == pytest.approx(
        sample["weight"][mangrove].sum() / sample["weight"].sum(), rel=1e-6
    )
    # What the edge rows look like makes no difference.
    eroded.loc[edge, "blue"] = 1
    assert fit(eroded, features=ALL_FEATURES, params=FEW).tree_sha256() == model.tree_sha256()


# --- hold-out --------------------------------------------------------------------------------------------------


def test_held_out_regions_never_enter_training():
    model = fit(SAMPLE, features=ALL_FEATURES, params=FEW, hold_out_regions=("Cuba2",))
    spoiled = SAMPLE.copy()
    spoiled.loc[spoiled["region"] == "Cuba2", "label"] = 1
    spoiled.loc[spoiled["region"] == "Cuba2", "red"] = 12345
    spoiled.loc[spoiled["region"] == "Cuba2", "weight"] = 999.0
    again = fit(spoiled, features=ALL_FEATURES, params=FEW, hold_out_regions=("Cuba2",))
    assert model.trees == again.trees
    assert model.regions == ("Cuba1", "Fiji")
    assert model.hold_out == ("Cuba2",)
    assert all((one == other).all() for one, other in zip(model.edges, again.edges, strict=True))


def test_training_rows_in_a_block_the_hold_out_touches_are_left_out():
    # Two regions meet inside one block of 333 px: columns 0-332 and 333-665 are blocks, Fiji begins at 400.
    sample = make_sample(2000, regions=("x",), extent_px=666).assign(grid_row=lambda rows: rows["grid_row"] % 333)
    west = sample["grid_col"] < 400
    sample = sample.assign(region=np.where(west, "Cuba1", "Fiji"))
    model = fit(sample, features=ALL_FEATURES, params=FEW, hold_out_regions=("Fiji",))
    apart = sample[sample["grid_col"] < 333]
    assert sum(model.training_rows.values()) == apart["interior"].sum() < (west & sample["interior"]).sum()
    assert model.trees == fit(apart, features=ALL_FEATURES, params=FEW).trees


def test_the_studys_regions_are_held_out_where_present():
    model = train_model(SAMPLE, params=FEW).model
    assert model.hold_out == ("Cuba2",)
    assert model.metrics["scope"] == "transfer: held-out regions"
    assert list(model.metrics["regions"]) == ["Cuba2"]
    assert model.metrics["threshold"] == model.threshold
    assert model.metrics["threshold_from"] == "folds of the land trained on"
    assert model.metrics["wall_to_wall"]["rows"] == (SAMPLE["region"] == "Cuba2").sum()
    assert model.metrics["wall_to_wall"]["prevalence"] == pytest.approx(0.05, abs=0.01)
    assert model.metrics["as_drawn"]["prevalence"] == pytest.approx(1 / 3, abs=0.05)
    assert model.metrics["eroded"]["rows"] < model.metrics["wall_to_wall"]["rows"]
    assert model.metrics["wall_to_wall"]["auc"] > 0.8
    assert model.metrics["random_split"]["scope"] == "random split, optimistic"


def test_without_hold_out_blocks_are_scored_as_in_region():
    sample = make_sample(2000, regions=("Fiji",))
    model = train_model(sample, params=FEW).model
    assert model.hold_out == ()
    assert model.metrics["scope"].startswith("in-region, not transfer")
    assert model.metrics["folds"] == len(model.metrics["thresholds"]) == 4
    assert model.metrics["threshold_from"] == "for each fold, the other folds"
    assert model.metrics["wall_to_wall"]["rows"] == 2000
    assert train_model(sample, params=FEW).model.metrics == model.metrics


def test_one_block_cannot_be_scored_and_says_so():
    sample = make_sample(300, regions=("Fiji",), extent_px=300).assign(grid_row=5)
    metrics = train_model(sample, params=FEW).model.metrics
    assert "not scored" in metrics["problem"]
    assert "wall_to_wall" not in metrics
    assert metrics["random_split"]["wall_to_wall"]["rows"] > 0


# --- calibration, threshold, suspects --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def four_regions():
    """5 per cent mangrove, of which the mask misses every tenth pixel, and labels some of the rest mangrove."""
    return make_sample(8000, regions=("Cuba1", "Fiji", "India", "Nigeria1"), seed=3)


@pytest.mark.parametrize("method", ["isotonic", "platt"])
def test_a_model_is_calibrated_on_folds_to_the_prevalence_of_the_map(four_regions, method):
    params = FEW.model_copy(update={"balance": "classes", "calibrate": method, "hold_out": ("India",)})
    model = train_model(four_regions, params=params).model
    calibration, held = model.metrics["calibration"], four_regions[four_regions["region"] == "India"]
    assert calibration["ece_after"] < 0.02 < calibration["ece_before"]  # both classes alike: far too much mangrove
    values = np.ascontiguousarray(held[list(model.features)].to_numpy(np.int32).T)
    probability = model.probability(encode(values, model.edges)) / 10_000
    share = np.average(held["label"] == MANGROVE, weights=held["weight"])
    assert np.average(probability, weights=held["weight"]) == pytest.approx(share, abs=0.01)
    assert model.metrics["wall_to_wall"]["calibration_error"] < 0.03


@pytest.mark.slow
def test_the_threshold_is_that_of_the_rule_on_folds_and_never_of_the_hold_out(four_regions):
    found = {
        rule: train_model(
            four_regions, params=FEW.model_copy(update={"threshold_rule": rule, "threshold_target": 0.95})
        ).model
        for rule in ("f1", "precision", "recall", "area")
    }
    said = {rule: model.metrics["decision"] for rule, model in found.items()}
    assert all(model.threshold == said[rule]["threshold"] for rule, model in found.items())
    assert said["precision"]["reached"]
    assert said["precision"]["precision"] >= 0.95
    assert said["recall"]["recall"] >= 0.95
    assert said["f1"]["f1"] == max(one["f1"] for one in said.values())
    assert said["area"]["precision"] == pytest.approx(said["area"]["recall"], abs=0.05)
    others = four_regions["region"] != "Cuba1"
    kept_out = FEW.model_copy(update={"hold_out": ("Cuba1",)})
    noisy = four_regions.assign(label=np.where(others, four_regions["label"], 3 - four_regions["label"]))
    one, other = (train_model(sample, params=kept_out).model for sample in (four_regions, noisy))
    assert (one.threshold, one.sha256()) == (other.threshold, other.sha256())


def test_a_precision_that_no_threshold_gives_is_said():
    sample = make_sample(3000, regions=("Cuba1", "Fiji"), seed=5)
    guess = np.random.default_rng(0).integers(1, 3, len(sample))
    params = FEW.model_copy(update={"threshold_rule": "precision", "threshold_target": 0.999})
    decision = train_model(sample.assign(label=guess.astype("uint8")), params=params).model.metrics["decision"]
    assert decision["reached"] is False


def test_suspects_change_the_final_trees_and_nothing_that_folds_decide_or_score():
    sample = make_sample(1500, regions=("Fiji", "Nigeria1"), seed=3)
    wrong = np.random.default_rng(0).random(len(sample)) < 0.08
    sample = sample.assign(label=np.where(wrong, 3 - sample["label"], sample["label"]).astype("uint8"))
    params = TrainParams(rounds=3, max_depth=3)
    keep, *others = (
        train_model(sample, params=params.model_copy(update={"suspects": how}), features=COMPOSITE_FEATURES).model
        for how in ("keep", "drop", "weigh")
    )
    for other in others:
        assert other.tree_sha256() != keep.tree_sha256()
        assert other.metrics == keep.metrics  # calibration, decision, figures of folds, random split
        assert other.threshold == keep.threshold
        for mine, theirs in ((keep.calibration, other.calibration), (keep.curve, other.curve)):
            np.testing.assert_array_equal(np.stack(mine), np.stack(theirs))


@pytest.mark.slow
def test_planted_errors_of_the_mask_are_suspect_and_may_be_left_out(four_regions):
    wrong = np.random.default_rng(0).random(len(four_regions)) < 0.08
    labels = np.where(wrong, 3 - four_regions["label"], four_regions["label"]).astype("uint8")
    sample = four_regions.assign(label=labels)
    keep, drop, weigh = (
        train_model(sample, params=FEW.model_copy(update={"suspects": how})) for how in ("keep", "drop", "weigh")
    )
    where = ["zone", "grid_row", "grid_col", "year"]
    found = sample[where].apply(tuple, axis=1).isin(set(keep.suspects[where].itertuples(index=False, name=None)))
    assert found[wrong].mean() > 5 * found[~wrong].mean()
    assert keep.model.metrics["suspects"]["rows"] == len(keep.suspects) == found.sum()
    inner = (found & sample["interior"]).sum()
    rows = {how: sum(one.model.training_rows.values()) for how, one in (("keep", keep), ("drop", drop))}
    assert rows["drop"] == rows["keep"] - inner
    assert len({one.model.tree_sha256() for one in (keep, drop, weigh)}) == 3


def test_thinned_rows_are_trained_on_and_stand_for_no_land():
    sample = make_sample(2000, regions=("Fiji", "Nigeria1"), seed=7).assign(thinned=False)
    both = pd.concat([sample, sample.assign(thinned=True)], ignore_index=True)
    once, twice = (train_model(one, params=FEW).model for one in (sample, both))
    assert sum(twice.training_rows.values()) == 2 * sum(once.training_rows.values())
    assert twice.training_prevalence == pytest.approx(once.training_prevalence)
    assert twice.metrics["wall_to_wall"]["rows"] == once.metrics["wall_to_wall"]["rows"] == 2000


# --- tables ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_geoparquet_sample_gives_the_same_trees(tmp_path):
    frame = gpd.GeoDataFrame(SAMPLE, geometry=gpd.points_from_xy(np.zeros(len(SAMPLE)), 0), crs="EPSG:4326")
    for number in range(2):
        frame.iloc[number::2].to_parquet(tmp_path / f"part{number}.parquet")
    table = dask_geopandas.read_parquet(tmp_path, gather_spatial_partitions=False)
    assert fitted(table) == REFERENCE
    one, whole = (train_model(rows, params=FEW, features=COMPOSITE_FEATURES).model for rows in (table, SAMPLE))
    assert one.metrics == whole.metrics


def test_a_feature_that_is_always_missing_is_carried_along():
    sample = SAMPLE.assign(ndvi_p10=np.int32(MISSING))
    assert fit(sample, features=ALL_FEATURES, params=FEW).edges[ALL_FEATURES.index("ndvi_p10")].size == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.drop(columns="nbr"), "sample lacks column 'nbr'"),
        (lambda s: s.assign(red=0.5), "'red' is float64"),
        (lambda s: s[s["label"] == 1], "no mangrove row among"),
        (lambda s: s[s["label"] == 2], "no other row among"),
        (lambda s: s.iloc[:0], "no other row among 0 rows"),
        (lambda s: s.assign(weight=0.0), "weight that is not a positive number"),
        (lambda s: s.assign(weight=np.nan), "weight that is not a positive number"),
    ],
)
def test_an_unusable_sample_is_refused_in_one_line(change, message):
    with pytest.raises(SampleError, match=message) as caught:
        fit(change(SAMPLE), features=ALL_FEATURES, params=FEW)
    assert "\n" not in str(caught.value)


def test_impossible_requests_are_refused():
    with pytest.raises(ConfigError, match="needs a cluster"):
        fitted(SAMPLE, params=FEW.model_copy(update={"distributed": "yes"}))
    with pytest.raises(ConfigError, match="leaves no region"):
        train_model(SAMPLE, params=FEW.model_copy(update={"hold_out": ("Cuba1", "Cuba2", "Fiji")}))
    unseen = SAMPLE.assign(label=np.where(SAMPLE["region"] == "Cuba2", 0, SAMPLE["label"]))
    with pytest.raises(SampleError, match="no row in the held-out regions"):
        train_model(unseen, params=FEW, features=("blue", "red"))
