"""The model on disk: what is written comes back, what is damaged or hostile does not."""

from __future__ import annotations

import hashlib
import json
import pickle
import random
from dataclasses import replace

import numpy as np
import pytest

from engine.errors import ModelError, TrustError
from engine.kernels.features import ALL_FEATURES, COMPOSITE_FEATURES
from engine.model import META_FILE, TREES_FILE, Model, canonical_json, load_model, model_from_files
from engine.params import TrainParams
from engine.places import entries
from engine.splits import block_ids
from engine.train import fit, train_model
from engine.trust import Trust
from tests.engine.samples import make_sample

MODEL = train_model(make_sample(1200), params=TrainParams(rounds=4, max_depth=3, features="composite")).model
FILES = MODEL.to_files()
CODES = np.random.default_rng(0).integers(0, 256, (len(COMPOSITE_FEATURES), 400), dtype=np.uint8)


def signed(trees: object = None, **changes: object) -> dict[str, bytes]:
    """Return the files with changed content and hashes that fit it, as an attacker would write them."""
    text = FILES[TREES_FILE] if trees is None else canonical_json(trees)
    meta = json.loads(FILES[META_FILE]) | {"trees_file_sha256": hashlib.sha256(text).hexdigest()} | changes
    del meta["meta_sha256"]
    meta["meta_sha256"] = hashlib.sha256(canonical_json(meta)).hexdigest()
    return {TREES_FILE: text, META_FILE: json.dumps(meta).encode()}


def load_or_refuse(files: dict[str, bytes]) -> Model | str:
    try:
        return model_from_files(files)
    except ModelError as error:
        return str(error)


def test_a_saved_model_comes_back_whole(place):
    again = load_model(MODEL.save(place / "model"))
    assert again.trees == MODEL.trees
    assert again.tree_sha256() == MODEL.tree_sha256()
    assert again.features == MODEL.features == COMPOSITE_FEATURES
    assert again.regions == ("Cuba1", "Fiji")
    assert again.hold_out == ("Cuba2",)
    assert again.blocks.dtype == np.int64
    np.testing.assert_array_equal(again.blocks, MODEL.blocks)
    assert again.training_prevalence == MODEL.training_prevalence
    assert again.metrics["wall_to_wall"] == MODEL.metrics["wall_to_wall"]
    assert again.params == TrainParams(rounds=4, max_depth=3, features="composite").model_dump(mode="json")
    for mine, theirs in zip(again.edges, MODEL.edges, strict=True):
        assert mine.dtype == np.int32
        np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(again.predict_codes(CODES), MODEL.predict_codes(CODES))
    assert sorted(path.name for path in entries(place / "model")[1]) == [META_FILE, TREES_FILE]


def test_blocks_are_those_of_all_rows_trained_on_and_decide_no_map():
    rows = make_sample(1200)
    kept = rows[rows["region"] != "Cuba2"]
    places = zip(kept["zone"], kept["grid_row"] // 333, kept["grid_col"] // 333, strict=True)
    assert MODEL.blocks.size == len(set(places))
    assert MODEL.blocks.tolist() == sorted(set(block_ids(kept)))
    assert replace(MODEL, blocks=None).sha256() == MODEL.sha256()


def test_a_folder_of_an_earlier_version_knows_no_blocks():
    files = signed()
    meta = json.loads(files[META_FILE])
    for name in ("blocks", "meta_sha256"):
        del meta[name]
    meta["meta_sha256"] = hashlib.sha256(canonical_json(meta)).hexdigest()
    again = model_from_files({**files, META_FILE: json.dumps(meta).encode()})
    assert again.blocks is None
    assert model_from_files(again.to_files()).blocks is None
    assert again.sha256() == MODEL.sha256()


def test_saving_twice_writes_the_same_bytes(tmp_path):
    first = load_model(MODEL.save(tmp_path))
    assert first.to_files() == FILES


def test_a_model_travels_to_workers_by_pickle_without_its_booster():
    MODEL.predict_codes(CODES)
    sent = pickle.dumps(MODEL)
    assert len(sent) < 1.5 * sum(map(len, FILES.values()))
    np.testing.assert_array_equal(pickle.loads(sent).predict_codes(CODES), MODEL.predict_codes(CODES))


def test_prediction_does_not_depend_on_blocks():
    whole = MODEL.predict_codes(CODES)
    assert whole.dtype == np.float32
    parts = [MODEL.predict_codes(CODES[:, start : start + 37]) for start in range(0, 400, 37)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert MODEL.predict_codes(CODES[:, :0]).shape == (0,)


def test_a_walk_by_hand_gives_the_probability():
    trees = json.loads(MODEL.trees)["learner"]["gradient_booster"]["model"]["trees"]
    for pixel in range(40):
        margin = 0.0
        for tree in trees:
            node = 0
            while tree["left_children"][node] != -1:
                code = CODES[tree["split_indices"][node], pixel]
                left = tree["default_left"][node] if code == 255 else code < tree["split_conditions"][node]
                node = tree["left_children" if left else "right_children"][node]
            margin += tree["split_conditions"][node]
        assert MODEL.predict_codes(CODES)[pixel] == pytest.approx(1 / (1 + np.exp(-margin)), abs=1e-6)


def test_wrong_codes_are_refused():
    with pytest.raises(ValueError, match=r"uint8 \(feature, pixel\) of 13 features, got uint8 \(12, 400\)"):
        MODEL.predict_codes(CODES[:12])


@pytest.mark.parametrize("name", [TREES_FILE, META_FILE])
def test_an_unfinished_model_is_refused(tmp_path, name):
    MODEL.save(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ModelError, match=f"no readable {name}"):
        load_model(tmp_path)


def test_a_model_outside_the_allowed_folders_is_refused(tmp_path):
    MODEL.save(tmp_path / "model")
    with pytest.raises(TrustError, match="outside the allowed folders"):
        load_model(tmp_path / "model", trust=Trust().with_roots(tmp_path / "run"))
    assert load_model(tmp_path / "model", trust=Trust().with_roots(tmp_path)).trees == MODEL.trees


def test_a_file_that_is_too_large_is_refused(tmp_path, monkeypatch):
    MODEL.save(tmp_path)
    monkeypatch.setattr("engine.model.MAX_BYTES", {TREES_FILE: 100, META_FILE: 2**20})
    with pytest.raises(ModelError, match=r"model\.json is larger than"):
        load_model(tmp_path)


@pytest.mark.parametrize("name", [TREES_FILE, META_FILE])
def test_no_flipped_bit_goes_unnoticed(name):
    chance = random.Random(name)
    for _ in range(60):
        mutated = bytearray(FILES[name])
        mutated[chance.randrange(len(mutated))] ^= 1 << chance.randrange(8)
        found = load_or_refuse({**FILES, name: bytes(mutated)})
        if isinstance(found, Model):
            # Only white space, which says nothing.
            assert json.loads(mutated) == json.loads(FILES[META_FILE])
            assert found.trees == MODEL.trees
        else:
            assert "\n" not in found


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "own sha256"),
        (b"[" * 100_000, "not JSON"),
        (b"\x80\x04\x95", "not JSON"),
        (b'{"a": 1e999999, "b": NaN}', "own sha256"),
    ],
)
def test_foreign_bytes_are_refused(content, message):
    with pytest.raises(ModelError, match=message):
        model_from_files({**FILES, META_FILE: content})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": ["blue", "moon"]}, "unknown feature 'moon'"),
        ({"features": ["blue"] * 13}, "a feature is named twice"),
        ({"features": ["blue"]}, "1 features but edges of 13"),
        ({"edges": [[3, 3]] + [[]] * 12}, "edges of blue do not increase"),
        ({"edges": [list(range(255))] + [[]] * 12}, "at most 254"),
        ({"edges": [[2**31]] + [[]] * 12}, "less than 2147483648"),
        ({"edges": [[0.5]] + [[]] * 12}, "valid integer"),
        ({"blocks": [2**41, 2**41]}, "numbers of blocks do not rise"),
        ({"blocks": [0]}, "blocks.0: Input should be greater"),
        ({"blocks": [61 * 2**40]}, "blocks.0: Input should be less"),
        ({"blocks": ["x"]}, "blocks.0: Input should be a valid integer"),
        ({"blocks": list(range(2**40, 2**40 + 2**19 + 1))}, "blocks: List should have at most 524288"),
        ({"threshold": 2.0}, "threshold"),
        ({"format": "mangroves-model-9"}, "format"),
        ({"note": "hello"}, "note"),
    ],
)
def test_a_signed_model_that_makes_no_sense_is_refused(changes, message):
    with pytest.raises(ModelError, match=message):
        model_from_files(signed(**changes))


def test_a_child_outside_the_tree_never_reaches_xgboost():
    for key, node, value in [
        ("left_children", 0, 10**6),
        ("right_children", 0, -5),
        ("left_children", 1, 0),
        ("split_indices", 0, 13),
        ("split_conditions", 0, float("inf")),
        ("default_left", 0, 2),
    ]:
        document = json.loads(MODEL.trees)
        document["learner"]["gradient_booster"]["model"]["trees"][0][key][node] = value
        with pytest.raises(ModelError, match="no usable trees"):
            model_from_files(signed(document))


def test_children_in_another_order_are_refused():
    """XGBoost takes the node after the left child for the right one, whatever the file says."""
    document = json.loads(MODEL.trees)
    tree = document["learner"]["gradient_booster"]["model"]["trees"][0]
    left, right = tree["left_children"], tree["right_children"]
    left[0], right[0] = right[0], left[0]
    with pytest.raises(ModelError, match="points outside itself at node 0"):
        model_from_files(signed(document))


def test_repeated_keys_are_refused():
    text = FILES[TREES_FILE].replace(b'{"learner":', b'{"learner":{},"learner":', 1)
    meta = json.loads(signed()[META_FILE])
    meta["trees_file_sha256"] = hashlib.sha256(text).hexdigest()
    del meta["meta_sha256"]
    meta["meta_sha256"] = hashlib.sha256(canonical_json(meta)).hexdigest()
    with pytest.raises(ModelError, match="not written by this project"):
        model_from_files({TREES_FILE: text, META_FILE: json.dumps(meta).encode()})


def places(value: object, path: tuple = ()) -> list[tuple]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, child in items for place in places(child, (*path, key)))]


@pytest.mark.parametrize("rounds", [150, pytest.param(2000, marks=pytest.mark.slow)])
def test_no_signed_mutation_crashes(rounds):
    chance = random.Random(rounds)
    evil = [-1, 0, 7, 10**6, 2**31 - 1, 2**40, 1e30, 1e300, 10**400, "x", "-1", "99999999", "", None, [], {}, True, 0.5]
    where = [place for place in places(json.loads(MODEL.trees)) if place]
    for _ in range(rounds):
        document = json.loads(MODEL.trees)
        *parents, last = chance.choice(where)
        holder = document
        for key in parents:
            holder = holder[key]
        if chance.random() < 0.15:
            del holder[last]
        else:
            holder[last] = chance.choice(evil)
        found = load_or_refuse(signed(document))
        if isinstance(found, Model):
            probability = found.predict_codes(CODES)
            assert ((probability >= 0) & (probability <= 1)).all()
        else:
            assert "\n" not in found


def test_a_model_whose_trees_are_too_large_is_left_to_xgboost_and_says_so():
    params = TrainParams(rounds=2, max_depth=12, min_child_weight=0, learning_rate=1)
    rng = np.random.default_rng(2)
    sample = make_sample(6000, prevalence=0.5)
    sample = sample.assign(label=rng.integers(1, 3, len(sample)).astype("uint8"))
    model = fit(sample, features=ALL_FEATURES, params=params)
    codes = rng.integers(0, 256, (len(model.features), 50), dtype=np.uint8)
    with pytest.warns(UserWarning, match="classified by XGBoost, which is slower: tree 0 has .* leaves, more than 256"):
        found = model.predict_codes(codes)
    assert found.shape == (50,)


def test_a_threshold_that_was_given_stays_at_another_prevalence():
    given = train_model(
        make_sample(1200), params=TrainParams(rounds=4, max_depth=3, features="composite"), threshold=0.8
    )
    moved = given.model.at_prevalence(0.2)
    assert moved.threshold == 0.8
    assert moved.training_prevalence == 0.2
    assert MODEL.at_prevalence(0.2).threshold != MODEL.threshold
