"""Scored rows are the model's word of rows it never saw."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from engine.boost import Boosted
from engine.errors import SampleError
from engine.evaluate import error_table, metrics_table
from engine.scores import needed_columns, score_part, unseen_rows
from engine.splits import block_ids
from tests.engine.judged import FEATURES, MODEL, SAMPLE, SCORES, THRESHOLD
from tests.engine.samples import make_sample


def test_scores_are_the_models_of_rows_it_never_saw():
    here = SAMPLE[SAMPLE["region"] == "Fiji"]
    assert unseen_rows(MODEL, SAMPLE).tolist() == (SAMPLE["region"] == "Fiji").tolist()
    assert len(SCORES) == len(here)
    expected = Boosted(MODEL.trees, MODEL.edges).predict(
        np.ascontiguousarray(here[list(FEATURES)].to_numpy(np.int32).T)
    )
    assert SCORES["probability"].to_numpy() == pytest.approx(expected, abs=0.00006)
    assert (SCORES["probability"] * 10_000).round().to_numpy() / 10_000 == pytest.approx(SCORES["probability"], abs=0)
    assert SCORES["mapped"].tolist() == (SCORES["probability"] >= THRESHOLD).tolist()
    assert SCORES["block"].tolist() == block_ids(here).tolist()
    assert SCORES["positive"].tolist() == (here["label"] == 2).tolist()
    assert SCORES["wet"].tolist() == (here["mndwi"] > 0).tolist()
    for name in ("weight", "interior", "clear_count", "truth", "truth_class", "grid_row", "year", "sensor"):
        assert SCORES[name].tolist() == here[name].tolist()


def test_a_region_that_reaches_into_a_training_block_is_judged_outside_of_it():
    sample = pd.DataFrame({"region": ["Fiji"] * 4, "zone": 17, "grid_row": [0, 332, 333, -1], "grid_col": 0})
    trained = block_ids(pd.DataFrame({"zone": [17], "grid_row": [100], "grid_col": [200]}))  # rows and columns 0 to 332
    model = replace(MODEL, regions=("Cuba1",), blocks=trained)
    assert unseen_rows(model, sample).tolist() == [False, False, True, True]
    assert unseen_rows(replace(model, blocks=None), sample).all()


def test_a_region_by_another_name_is_not_unseen():
    sample = SAMPLE.assign(region=SAMPLE["region"].replace("Cuba1", "Kuba"))
    assert set(score_part(sample, MODEL)["region"]) == {"Fiji"}
    assert set(score_part(sample, replace(MODEL, blocks=None))["region"]) == {"Fiji", "Kuba"}


def test_thinned_rows_are_not_scored():
    sample = SAMPLE.assign(thinned=np.arange(len(SAMPLE)) % 2 == 0)
    assert len(score_part(sample, MODEL)) == ((sample["region"] == "Fiji") & ~sample["thinned"]).sum()


def test_columns_a_table_lacks_are_gone_without():
    old = make_sample(300)
    columns = needed_columns(old.columns, FEATURES)
    assert "sensor" not in columns
    assert "mndwi" in columns
    scores = score_part(old[columns].drop(columns="mndwi"), MODEL)
    assert not {"clear_count", "truth", "wet"} & set(scores)
    errors = error_table(scores)
    assert set(errors["by"]) == {"class edge"}
    assert set(metrics_table(scores, draws=0)["label"]) == {"mask"}
    with pytest.raises(SampleError, match="sample lacks column 'weight'"):
        needed_columns(set(old.columns) - {"weight"}, FEATURES)
    with pytest.raises(SampleError, match=r"lacks the model's feature 'red_150m'; set train\.features"):
        needed_columns(old.columns, (*FEATURES, "red_150m"))
