"""The model card: nothing is lost, nothing is invented, and catalogs can read it."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace

import numpy as np
import pystac
import pytest
import shapely
from pystac.extensions.mlm import MLMExtension

from engine.card import EXPRESSIONS, NOT_FOR, NOT_FOR_SIMULATED, card_text, score_records, stac_item, write_card
from engine.errors import ModelError, StoreError
from engine.kernels.features import ALL_FEATURES, COMPOSITE_FEATURES, KNOWN_FEATURES
from engine.kernels.indices import INDICES, spectral_indices
from engine.landsat import BANDS
from engine.model import load_model
from engine.params import TrainParams
from engine.splits import HELD_OUT, IN_REGION, REGION_FOLDS
from engine.train import fit
from tests.engine.samples import make_sample

MASK = {
    "name": "GMW v3 | 2020",
    "year": 2020,
    "licence": "CC-BY-4.0",
    "citation": "Bunting <et al.> 2022",
    "definition": "mangrove\nhabitat",
    "labels_years": [2019, 2021],
    "stale_years": [2021],
}
METRICS = {
    "scope": "transfer: held-out regions",
    "label": "mask",
    "wall_to_wall": {"rows": 9, "prevalence": 0.0525, "auc": 0.91, "f1": None, "precision_at_31%": 0.75},
    "as_drawn": {"rows": 9, "prevalence": 0.31, "auc": 0.92},
    "regions": {"Cuba2": {"auc": 0.9}},
    "random_split": {"scope": "random split, optimistic", "label": "mask", "wall_to_wall": {"auc": 0.99}},
    "calibration": {"method": "isotonic", "label": "mask", "population": "wall to wall", "ece_before": 0.05,
                    "ece_after": 0.01},
    "decision": {"rule": "precision", "target": 0.9, "reached": True, "label": "mask", "population": "wall to wall",
                 "precision": 0.9, "recall": 0.8, "f1": 0.847},
}  # fmt: skip
MODEL = replace(
    fit(make_sample(600), features=ALL_FEATURES, params=TrainParams(rounds=3, max_depth=2), hold_out_regions=["Cuba2"]),
    masks=(MASK,),
    metrics=METRICS,
)
FOOTPRINTS = {
    "Cuba1": shapely.Point(-77, 21).buffer(0.5),
    "Fiji": shapely.union(shapely.box(179, -18, 180, -17), shapely.box(-180, -18, -179, -17)),
    "Cuba2": shapely.box(0, 0, 1, 1),  # held out
}
FACTS = {"title": "study", "notice": "SIMULATED: shows no real place", "footprints": FOOTPRINTS}


def rows(text: str, first: str) -> list[list[str]]:
    """Return the cells of the first Markdown table whose header begins so."""
    lines = text[text.index(f"| {first}") :].partition("\n\n")[0].splitlines()
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines if "---" not in line]


def test_the_card_lies_beside_the_model_and_the_model_still_loads(place):
    MODEL.save(place / "model")
    card, item = write_card(MODEL, place / "model", facts=FACTS)
    assert card.read_text(encoding="utf-8") == card_text(MODEL, facts=FACTS)
    assert json.loads(item.read_text(encoding="utf-8")) == stac_item(MODEL, facts=FACTS)
    assert load_model(place / "model").sha256() == MODEL.sha256()


def test_the_same_model_gives_the_same_bytes_and_no_time_of_ours(tmp_path):
    for name in ("a", "b"):
        write_card(MODEL, tmp_path / name, facts=FACTS)
    for name in ("README.md", "item.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert "created" not in stac_item(MODEL, facts=FACTS)["properties"]
    made = stac_item(MODEL, facts={**FACTS, "created": "2026-11-24T00:00:00Z"})
    assert made["properties"]["created"] == "2026-11-24T00:00:00Z"
    assert "Made: 2026-11-24T00:00:00Z" in card_text(MODEL, facts={"created": "2026-11-24T00:00:00Z"})


def test_a_person_reads_what_it_learnt_from_and_what_it_is_not_for():
    text = card_text(MODEL, facts=FACTS)
    assert text.startswith("# Model card: study\n\n**SIMULATED: shows no real place**\n")
    for line in (NOT_FOR_SIMULATED, *NOT_FOR):
        assert f"* {line}\n" in text
    assert "**Regions** (2): Cuba1, Fiji\n" in text
    assert "never trained on** (1): Cuba2\n" in text
    assert "**Years**: 2019, 2021\n" in text
    drawn = MODEL.training_rows
    assert f"{drawn['mangrove']:,} mangrove, {drawn['other']:,} other" in text
    assert f"**Prevalence**: {MODEL.training_prevalence:.2%} of the land" in text
    assert all(f"`{name}`" in text for name in MODEL.features)
    # What others wrote stays in its cell.
    assert rows(text, "mask |")[1] == [
        *("GMW v3 \\| 2020", "2020", "2019, 2021", "mangrove habitat", "CC-BY-4.0", "Bunting &lt;et al.> 2022")
    ]
    assert "The imagery of 2021 was labelled by a mask too old or too young for it." in text
    assert "isotonic, wall to wall, against the mask; expected calibration error 0.050 before, 0.010 after" in text
    assert "from probability 0.5; the largest recall at a precision of at least 0.9, precision 0.900, recall" in text
    for name, content in MODEL.to_files().items():
        assert f"`{name}`: sha256 `{hashlib.sha256(content).hexdigest()}`" in text
    assert MODEL.sha256() in text
    assert MODEL.tree_sha256() in text
    assert f"xgboost {MODEL.versions['xgboost']}" in text


def test_a_real_model_is_not_called_simulated_and_what_is_not_known_is_said():
    text = card_text(replace(MODEL, masks=(), metrics={}, hold_out=()))
    assert NOT_FOR_SIMULATED not in text
    assert "**Years**: not recorded" in text
    assert "No mask is recorded" in text
    assert "Not scored: no figure was handed in." in text
    assert "No region was held out" in text
    assert "**Calibration**: none" in text
    silent = {**MASK, "definition": "", "licence": "", "citation": ""}
    assert rows(card_text(replace(MODEL, masks=(silent,))), "mask |")[1][3:] == ["not stated"] * 3
    # The notice may also come with the model.
    assert NOT_FOR_SIMULATED in card_text(replace(MODEL, metrics={"notice": "SIMULATED world"}))


@pytest.mark.parametrize(
    ("scope", "held", "said", "limit"),
    [
        (HELD_OUT, ("Cuba2",), "regions that had no part in training, calibration or threshold", None),
        (REGION_FOLDS, (), "each region by a model that never saw it", "is told by models of fewer regions"),
        (IN_REGION, (), "each 10 km block by a model of other blocks of the region", "was not measured"),
    ],
)
def test_it_says_truly_which_land_judged_which_model(scope, held, said, limit):
    text = card_text(replace(MODEL, metrics={**METRICS, "scope": scope, "folds_scope": scope}, hold_out=held))
    assert f"* *{scope}*: {said}" in text
    limits = [line for line in text.splitlines() if "No region was held out" in line]
    assert len(limits) == (limit is not None)
    assert all(limit in line for line in limits)
    assert f"on folds of the land trained on, which chose it ({scope}; wall to wall, against the mask)" in text
    # A row of a random split says so too.
    assert "* *random split, optimistic*: rows whose neighbours were trained on" in text


def test_a_model_that_only_a_random_split_could_score_says_so():
    metrics = {"scope": IN_REGION, "problem": "not scored: one part", "random_split": METRICS["random_split"]}
    text = card_text(replace(MODEL, metrics=metrics, hold_out=()))
    assert "On land it never saw it is not scored: one part." in text
    assert "how it does on another coast was not measured" in text
    given = {**METRICS, "decision": METRICS["decision"] | {"rule": "given"}}
    assert (
        "as given, precision 0.900, recall 0.800, F1 0.847 on folds of the land trained on (wall to wall, "
        in card_text(replace(MODEL, metrics=given))
    )


def test_every_figure_stands_under_its_population_and_label():
    table = rows(card_text(MODEL, facts=FACTS), "scored on")
    assert table[0] == ["scored on", "population", "label", "region", "mangrove", "AUC", "F1"]
    held = "transfer: held-out regions"
    assert table[1:] == [
        [held, "wall to wall", "mask", "all regions", "5.2%", "0.910", "-"],
        [held, "as drawn", "mask", "all regions", "31.0%", "0.920", "-"],
        [held, "wall to wall", "mask", "Cuba2", "-", "0.900", "-"],
        ["random split, optimistic", "wall to wall", "mask", "all regions", "-", "0.990", "-"],
    ]
    at = card_text(MODEL).split("at other shares of mangrove:")[1]
    assert rows(at, "scored on")[1] == [held, "wall to wall", "mask", "all regions", "0.750"]
    assert len(score_records(METRICS)) == 8


def test_figures_of_an_evaluation_are_shown_with_their_intervals():
    about = {"population": "wall to wall", "label": "truth", "region": "all regions"}
    records = [
        {**about, "class": "both", "figure": "auc", "value": 0.987, "low": 0.981, "high": 0.991},
        {**about, "class": "mangrove", "figure": "recall", "value": 0.9, "low": np.nan, "high": np.nan},
        {**about, "class": "other", "figure": "recall", "value": 0.123, "low": 0.1, "high": 0.2},
        {**about, "class": "mangrove", "figure": "precision", "value": np.nan, "low": np.nan, "high": np.nan},
    ]
    text = card_text(MODEL, facts={"scores": records})
    assert rows(text, "population") == [
        ["population", "label", "region", "AUC", "precision", "recall"],
        ["wall to wall", "truth", "all regions", "0.987 (0.981 to 0.991)", "-", "0.900"],
    ]
    assert "0.123" not in text
    brackets = "In brackets the 95 % interval, by 10 km blocks."
    assert brackets in text
    assert brackets not in card_text(MODEL)


# --- for catalogs ----------------------------------------------------------------------------------------------


def test_a_catalog_reads_the_item_and_its_model():
    """What the schemas of STAC 1.1.0 and of the extensions require; they need a network to be asked themselves."""
    found = stac_item(MODEL, facts=FACTS)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    item = pystac.Item.from_dict(found)
    assert found["stac_version"] == "1.1.0"
    assert {uri.split("/")[3] for uri in item.stac_extensions} == {"mlm", "eo", "raster", "file"}
    properties = found["properties"]
    assert properties["datetime"] is None
    assert (properties["start_datetime"], properties["end_datetime"]) == (
        *("2019-01-01T00:00:00Z", "2021-12-31T23:59:59Z"),
    )
    model = MLMExtension.ext(item)
    assert (model.mlm_name, model.framework, model.framework_version) == ("study", "XGBoost", MODEL.versions["xgboost"])
    assert model.architecture
    assert [str(task) for task in model.tasks] == ["classification", "semantic-segmentation"]
    assert (model.pretrained, properties["mlm:pretrained_source"]) == (False, None)
    hyper = properties["mlm:hyperparameters"]
    assert (hyper["rounds"], hyper["max_depth"]) == (3, 2)
    assert all(re.fullmatch(r"[0-9a-zA-Z_.-]+", name) for name in hyper)
    [taken] = properties["mlm:input"]
    assert {"name", "bands", "input"} <= set(taken)
    assert [band["name"] for band in taken["bands"]] == list(ALL_FEATURES)
    assert taken["input"] == {"shape": [-1, 20], "dim_order": ["batch", "channel"], "data_type": "int32"}
    # Format and expression go together; what has neither is described among the bands.
    described = {band["name"]: band for band in properties["bands"]}
    for band in taken["bands"]:
        assert set(band) == ({"name", "format", "expression"} if band["name"] in INDICES else {"name"})
        assert (band["name"] in described) != (band["name"] in INDICES)
    for name in BANDS:
        assert (described[name]["raster:scale"], described[name]["raster:offset"]) == (2.75e-5, -0.2)
        assert (described[name]["eo:common_name"], described[name]["nodata"]) == (name, 0)
    probability, classes = properties["mlm:output"]
    for output in (probability, classes):
        assert {"name", "tasks", "result"} <= set(output)
        assert set(output["result"]) == {"shape", "dim_order", "data_type"}
    assert [(one["value"], one["name"]) for one in classes["classification:classes"]] == [
        *((0, "not_observed"), (1, "other"), (2, "mangrove")),
    ]
    assert all(re.fullmatch(r"[0-9A-F]{6}", one["color_hint"]) for one in classes["classification:classes"])
    assert properties["mangroves:not_for"][0] == NOT_FOR_SIMULATED


def test_the_assets_of_the_item_are_the_files_of_the_model():
    assets = stac_item(MODEL, facts=FACTS)["assets"]
    files = MODEL.to_files()
    for key, name in (("trees", "model.json"), ("meta", "meta.json")):
        assert assets[key]["href"] == f"./{name}"
        assert assets[key]["file:size"] == len(files[name])
        assert assets[key]["file:checksum"] == "1220" + hashlib.sha256(files[name]).hexdigest()
    # The role and the kind of artifact belong together, and a band of an asset allows those of the properties.
    assert ["mlm:artifact_type" in asset for asset in assets.values()] == [True, False, False]
    assert ["mlm:model" in asset["roles"] for asset in assets.values()] == [True, False, False]
    assert assets["trees"]["bands"][0] == {"name": "blue"}
    assert assets["card"]["href"] == "./README.md"


def test_the_footprint_is_boxes_round_the_regions_trained_on():
    found = stac_item(MODEL, facts=FACTS)
    boxes = [shapely.Polygon(part[0]).bounds for part in found["geometry"]["coordinates"]]
    # Fiji lies on both sides of 180 degrees; Cuba2 was held out.
    assert boxes == [(-77.5, 20.5, -76.5, 21.5), (-180, -18, -179, -17), (179, -18, 180, -17)]
    assert found["bbox"] == [-180, -18, 180, 21.5]
    nowhere = stac_item(MODEL, facts={"years": [2020]})
    assert nowhere["geometry"] is None
    assert "bbox" not in nowhere


def test_expressions_are_what_the_indices_are():
    rho = np.random.default_rng(1).uniform(0.01, 0.6, (6, 200))
    dn = np.rint((rho + 0.2) / 2.75e-5).astype(np.uint16)
    values = dict(zip(BANDS, dn * 2.75e-5 - 0.2, strict=True)) | {"np": np}
    for number, name in enumerate(INDICES):
        by_text = eval(EXPRESSIONS[name], {"__builtins__": {}}, values)
        np.testing.assert_allclose(spectral_indices(dn)[number], by_text, atol=2, rtol=1e-3)


def test_a_bands_model_has_a_card_too():
    bands = fit(make_sample(300), features=COMPOSITE_FEATURES, params=TrainParams(rounds=2))
    item = stac_item(bands, facts={"years": [2020]})
    assert [band["name"] for band in item["properties"]["bands"]] == list(BANDS)


def test_every_feature_is_described():
    every = stac_item(replace(MODEL, features=KNOWN_FEATURES))["properties"]["bands"]
    about = {band["name"]: band["description"] for band in every}
    assert about["red_150m"] == "Mean of red, DN, over 150 x 150 m"
    assert about["ndvi_mad"] == "ndvi_mad of a year's clear looks, x 10 000; missing below 8"
    assert set(about) == set(KNOWN_FEATURES) - set(INDICES)


def test_what_cannot_be_is_told_in_one_line(tmp_path):
    with pytest.raises(ModelError, match="needs the years"):
        write_card(replace(MODEL, masks=()), tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        write_card(MODEL, tmp_path / "file" / "model")
