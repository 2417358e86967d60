"""What folds decide: every fold is judged by what the others say."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from engine.decide import score_folds, score_outcomes
from engine.folds import Fold
from engine.params import TrainParams

AS_SCORED = TrainParams(calibrate="none")


def fold(*rows: tuple[str, bool, float]) -> Fold:
    """Return a fold of outcomes (region, positive, score), a pixel each."""
    region, positive, score = zip(*rows, strict=True)
    outcome = pd.DataFrame({"region": region, "positive": positive}).assign(
        interior=True, probability=np.rint(np.array(score) * 10_000).astype(np.uint16), pixels=1.0, rows=1
    )
    return Fold(split=None, model=None, outcome=outcome)  # type: ignore[arg-type]


LOW = fold(("low", False, 0.2), ("low", True, 0.6))
HIGH = fold(("high", False, 0.4), ("high", True, 0.8))


def test_the_threshold_of_a_fold_is_chosen_on_the_others():
    # One threshold, 0.41, would part both folds without an error. But the first that parts the low one is 0.21, at
    # which the high one has a false alarm: 2 right of 3 mapped.
    figures = score_folds([LOW, HIGH], AS_SCORED, None, asked=3, scope="here")
    assert figures["thresholds"] == [0.41, 0.21]
    assert figures["threshold_from"] == "for each fold, the other folds"
    assert (figures["scope"], figures["folds"], figures["folds_failed"]) == ("here", 2, 1)
    assert figures["wall_to_wall"]["precision"] == pytest.approx(2 / 3, abs=1e-6)
    assert figures["regions"]["low"]["precision"] == figures["wall_to_wall"]["recall"] == 1


def test_what_a_fold_holds_changes_nothing_it_is_judged_by():
    other = fold(("low", True, 0.2), ("low", False, 0.6))
    for params in (AS_SCORED, TrainParams(), TrainParams(calibrate="platt", threshold_rule="area")):
        of = [score_folds([one, HIGH, HIGH], params, None, asked=3, scope="")["thresholds"] for one in (LOW, other)]
        assert of[0][0] == of[1][0]


def test_a_threshold_that_is_given_is_that_of_every_fold():
    figures = score_folds([LOW, HIGH], AS_SCORED, 0.3, asked=2, scope="")
    assert (figures["thresholds"], figures["threshold_from"]) == ([0.3, 0.3], "given")
    assert figures["wall_to_wall"]["precision"] == pytest.approx(2 / 3, abs=1e-6)


@pytest.mark.parametrize("params", [AS_SCORED, TrainParams()])
@pytest.mark.parametrize("folds", [[LOW], [LOW, fold(("bare", False, 0.1))], []])
def test_folds_that_cannot_tell_about_each_other_are_not_scored_and_say_so(folds, params):
    figures = score_folds(folds, params, None, asked=4, scope="here")
    assert figures == {
        "scope": "here",
        "problem": "not scored: mangrove and other are not both in two or more parts",
    }


def test_scores_name_their_population():
    # 2 mangrove and 2 other rows; one other row of 8 pixels is taken for mangrove.
    outcome = pd.DataFrame(
        {
            "region": ["a", "a", "b", "b"],
            "interior": [True, True, True, False],
            "positive": [True, True, False, False],
            "probability": np.array([9000, 8000, 7000, 1000], np.uint16),
            "pixels": [1.0, 1.0, 8.0, 10.0],
            "rows": [1, 1, 1, 1],
        }
    )
    figures = score_outcomes(outcome, 0.5)
    assert figures["wall_to_wall"]["precision"] == pytest.approx(0.2)
    assert figures["as_drawn"]["precision"] == pytest.approx(2 / 3, abs=1e-6)
    assert figures["wall_to_wall"]["recall"] == figures["wall_to_wall"]["auc"] == 1
    assert figures["wall_to_wall"]["precision_at_31%"] == pytest.approx(0.31 / (0.31 + 0.69 * 8 / 18), abs=1e-6)
    assert figures["eroded"]["prevalence"] == pytest.approx(0.2)
    assert figures["regions"]["a"]["auc"] is None
