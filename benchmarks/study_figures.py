"""What is measured of a simulated study: maps against truth, candidates beside each other, where information runs out.

Only here is the truth of the simulated world known.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Final

import numpy as np
import pandas as pd

from benchmarks.study_runs import HELD, SENSOR_YEARS, YEAR, Runs
from engine.boost import fit_boosted, training_weights
from engine.candidates import BASELINE, MAPPED, Fitted, Rows, fit_candidate
from engine.kernels.bins import encode
from engine.kernels.features import COMPOSITE_FEATURES, FEATURE_SETS
from engine.kernels.score import at_prevalence, auc, average_precision, best_threshold, calibration_error, rates
from engine.legend import MANGROVE, PROBABILITY_MISSING, PROBABILITY_SCALE
from engine.params import TuneParams
from engine.raster import read_raster
from engine.rows import PIXEL_YEAR, feature_values, gather_rows, is_thinned
from engine.simulate import add_truth, read_archive
from engine.simulate.truth import raster_at, rows_by_site
from engine.splits import Split, by_region, leave_one_region_out, random_rows
from engine.store import open_store

STUDY_SHARE: Final = 0.31
"""Mangrove among the rows of the real study's hold-out."""

STUDY_RECALL: Final = 0.98
"""Of its model, at a threshold other than that of maps."""

BANDS: Final = 8
"""Strips of 2 km across a region: the oracle judges each by a model of the others. Of halves one may lack what
covers the other."""

GAP_PX: Final = 33
"""Between a band and what is trained on: 1 km. A square of 15 km cannot be parted into whole 10 km blocks."""


@dataclass(frozen=True)
class Figures:
    """The figures of a study whose runs are made; each part is one flat object."""

    runs: Runs

    # --- tables

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The rows drawn, with the truth and the height by the surface model of each."""
        archive, sample = self.runs.archive, self.runs.sample()
        height = np.zeros(len(sample), np.int32)
        for site, rows in rows_by_site(sample, archive):
            height[rows] = np.rint(raster_at(archive.dems[site.name], site, sample.iloc[rows])[0] * 100)
        return add_truth(sample, archive).assign(elevation_cm=height)

    @cached_property
    def as_mapped(self) -> pd.DataFrame:
        """The rows that stand for land: not those of thinned composites."""
        return self.frame[~is_thinned(self.frame)].reset_index(drop=True)

    @cached_property
    def hold_out(self) -> pd.DataFrame:
        """Those of the hold-out: what all models are judged on."""
        return self.as_mapped[self.as_mapped["region"].isin(HELD)].reset_index(drop=True)

    @cached_property
    def searched(self) -> pd.DataFrame:
        """The rows the search looked at, those of thinned composites among them: what side models are fitted to."""
        columns = [*self.features, "label", "weight", "region", "interior", *PIXEL_YEAR, "truth", "elevation_cm"]
        return gather_rows(self.frame, columns, most=TuneParams().rows, seed=self.runs.setting.seed)[0]

    @cached_property
    def training(self) -> pd.DataFrame:
        """Those the search trained on: none of the hold-out, nor of the blocks it touches."""
        return self.searched[by_region(self.searched, HELD).train].reset_index(drop=True)

    @property
    def features(self) -> tuple[str, ...]:
        """What the maps were made from."""
        return self.runs.model.features

    # --- maps

    def maps(self) -> dict[str, Any]:
        """The maps of the hold-out, pixel by pixel against truth; and what the commands said against the mask."""
        model, best = self.runs.model, self.runs.best
        figures = self.score_maps("study", "world", YEAR)
        said = model.metrics
        drawn = said["wall_to_wall"]
        return {
            "auc_truth": figures["auc"],
            **{name: figures[name] for name in ("f1", "precision", "recall", "average_precision")},
            **self.calibration(),
            "ece_map": figures["ece"],
            "ece_mask_before_folds": said["calibration"]["ece_before"],
            "ece_mask_after_folds": said["calibration"]["ece_after"],
            "auc_mask": drawn["auc"],
            "f1_mask": drawn["f1"],
            "precision_mask_at_31": drawn["precision_at_31%"],
            "recall_mask": drawn["recall"],
            "threshold": model.threshold,
            "regions_holdout": len(model.hold_out),
            "regions_trained_on": len(model.regions),
            "rows_trained_on": sum(model.training_rows.values()),
            "suspects_share": said["suspects"]["rows"] / said["suspects"]["of"],
            "model_sha256": model.sha256(),
            "search_best_sha256": best["model_sha256"],
            "leads": best["leads"],
            **{f"tuned_{name}": value for name, value in best["train"].items()},
            **{f"f1_{name}": value for name, value in figures["regions"].items()},
        }

    def calibration(self) -> dict[str, float]:
        """Calibration error of score and of probability, of the same rows of the hold-out, wall to wall."""
        model, rows = self.runs.model, self.hold_out
        codes = encode(feature_values(rows, self.features), model.edges)
        said = {"before": model.predict_codes(codes), "after": model.probability(codes) / PROBABILITY_SCALE}
        truth, weight = rows["truth"].to_numpy(), rows["weight"].to_numpy()
        return {f"ece_{when}": calibration_error(values, truth, weight) for when, values in said.items()}

    def score_maps(self, run: str, world: str, year: int) -> dict[str, Any]:
        """Score a run's maps of the hold-out against truth: every observed pixel counts once."""
        archive = read_archive(self.runs.folder / world)
        layers = []
        for store in sorted((self.runs.folder / run / "maps" / str(year)).glob("*.zarr")):
            with open_store(store) as data:
                region = json.loads(data.attrs["regions"])[int(data["region"].values.max()) - 1]
                if region not in HELD:
                    continue
                probability, mapped = data["probability"].values, data["class"].values
            true, _ = read_raster(archive.truth(region, year))
            seen = probability != PROBABILITY_MISSING
            named = np.full(np.count_nonzero(seen), region, dtype=object)
            layers.append((probability[seen], mapped[seen] == MANGROVE, true[1][seen] > 0, named))
        codes, found, positive, of = (np.concatenate(column) for column in zip(*layers, strict=True))
        whole = np.ones(codes.size)
        most = rates(codes >= best_threshold(codes, positive, whole), positive, whole).f1
        return _figures(codes / PROBABILITY_SCALE, found, positive, whole, of) | {"f1_most": most}

    # --- models beside each other, on the rows of the hold-out

    @cached_property
    def fitted(self) -> dict[str, tuple[str, Fitted]]:
        """The best trial of each algorithm by the folds, its candidate and its model as the search fitted it."""
        board = self.runs.leaderboard
        names = {"cart": BASELINE, "xgboost": MAPPED}
        for name in board:  # best first
            names.setdefault(name.partition("/")[0], name)
        rows, seed = Rows.of(self.training, self.features), self.runs.setting.seed

        def fit(name: str) -> Fitted:
            return fit_candidate(name, rows, json.loads(board[name]["params"]), seed=seed)

        return dict(zip(names, zip(names.values(), self.each(fit, names.values()), strict=True), strict=True))

    def candidates(self) -> dict[str, Any]:
        """CART, the best linear model, network and forest beside XGBoost, each at the threshold of its folds."""
        test, board = Rows.of(self.hold_out, self.features), self.runs.leaderboard
        found = {
            algorithm: self.judge(model.predict(test), board[name]["threshold"])
            for algorithm, (name, model) in self.fitted.items()
        }
        result: dict[str, Any] = {
            f"{algorithm}_candidate": self.fitted[algorithm][0] for algorithm in ("linear", "mlp")
        }
        for algorithm, figures in found.items():
            result |= {f"{algorithm}_{name}": figures[name] for name in ("f1", "auc", "ece")}
        ours = found["xgboost"]["regions"]
        for other in ("cart", "linear"):
            theirs = found[other]["regions"]
            result[f"regions_beaten_{other}"] = sum(ours[name] > theirs[name] for name in ours)
        return result

    def study_draw(self) -> dict[str, Any]:
        """The hold-out as the published study drew it, against the mask; precision moved to its share of mangrove."""
        rows, model = self.runs.make_draw(), self.runs.model
        positive, each = (rows["label"] == MANGROVE).to_numpy(), np.ones(len(rows))
        probability = model.probability(encode(feature_values(rows, self.features), model.edges))
        network = self.fitted["mlp"][1].predict(Rows.of(rows, self.features))
        as_published = np.quantile(probability[positive], 1 - STUDY_RECALL, method="lower")

        def precision(called: np.ndarray) -> float:
            found = rates(called, positive, each)
            return at_prevalence(found.recall, found.false_positive_rate, STUDY_SHARE)[0]

        return {
            "study_draw_auc_xgboost": auc(probability, positive, each),
            "study_draw_auc_mlp": auc(network, positive, each),
            "study_draw_precision": precision(model.is_mangrove(probability)),
            "study_draw_recall": rates(model.is_mangrove(probability), positive, each).recall,
            "study_draw_precision_at_recall_98": precision(probability >= as_published),
            "study_draw_rows": len(rows),
            "study_draw_share": float(positive.mean()),
        }

    def ladder(self) -> dict[str, Any]:
        """What each group of features brings, and where the information runs out.

        ``truth_labels`` is trained on truth in place of the mask; ``oracle`` on the truth of the rest of the very
        region it is judged in. All at the threshold that the search found for the tuned trees.
        """
        sets = {
            "composite": COMPOSITE_FEATURES,
            "pixel": FEATURE_SETS["all+mad"],
            "dem": (*self.features, "elevation_cm"),
            "truth_labels": self.features,
        }

        def climb(name: str) -> np.ndarray:
            label = "truth" if name == "truth_labels" else "mask"
            return self.fit(self.training, sets[name], label)(self.hold_out)

        scores = dict(zip(sets, self.each(climb, sets), strict=True))
        scores["oracle"] = np.empty(len(self.hold_out), np.float32)
        for name, score in zip(HELD, self.each(self.ask_oracle, HELD), strict=True):
            scores["oracle"][(self.hold_out["region"] == name).to_numpy()] = score
        truth, weight = self.hold_out["truth"].to_numpy(), self.hold_out["weight"].to_numpy()
        result: dict[str, Any] = {}
        for name, score in scores.items():
            figures = self.judge(score, self.runs.best["threshold"])
            # Of a threshold that knew the truth: what the scores hold at most.
            steps = np.rint(score * PROBABILITY_SCALE).astype(np.uint16)
            most = rates(steps >= best_threshold(steps, truth, weight), truth, weight).f1
            result |= {f"{name}_auc": figures["auc"], f"{name}_f1": figures["f1"], f"{name}_f1_most": most}
        return result

    def ask_oracle(self, region: str) -> np.ndarray:
        """Score each band of a region of the hold-out by a model of the truth of the others, a gap left out."""
        rows = self.frame[(self.frame["region"] == region).to_numpy()]
        judged = self.hold_out[(self.hold_out["region"] == region).to_numpy()]
        of, col = judged["grid_col"].to_numpy(), rows["grid_col"].to_numpy()
        score = np.empty(len(judged), np.float32)
        for first, last in pairwise(np.linspace(of.min(), of.max() + 1, BANDS + 1)):
            band = (of >= first) & (of < last)
            apart = (col < first - GAP_PX) | (col >= last + GAP_PX)
            score[band] = self.fit(rows[apart], self.features, "truth")(judged[band])
        return score

    def transfer(self) -> dict[str, Any]:
        """Each region by a model of the others; and a random split, which is optimistic."""
        rows = self.searched
        splits = leave_one_region_out(rows)
        random = random_rows(rows, seed=self.runs.setting.seed)

        def judge(split: Split) -> dict[str, Any]:
            if split is random:
                test = rows[split.test & ~is_thinned(rows)]
            else:
                test = self.as_mapped[self.as_mapped["region"] == split.name]
            score = self.fit(rows[split.train], self.features)(test)
            return self.judge(score, self.runs.best["threshold"], test)

        *regions, optimistic = self.each(judge, [*splits, random])
        f1 = {split.name: one["f1"] for split, one in zip(splits, regions, strict=True)}
        aucs = [one["auc"] for one in regions]
        worst = min(f1, key=lambda name: f1[name])
        return {
            "random_auc": optimistic["auc"],
            "random_f1": optimistic["f1"],
            "median_region_auc": float(np.median(aucs)),
            "worst_region_auc": min(aucs),
            "median_region_f1": float(np.median(list(f1.values()))),
            "worst_region_f1": f1[worst],
            "worst_region": worst,
        }

    def judge(self, score: np.ndarray, threshold: float, rows: pd.DataFrame | None = None) -> dict[str, Any]:
        """Return figures of the scores of rows, by default of the hold-out, against truth and wall to wall."""
        rows = self.hold_out if rows is None else rows
        truth, weight, region = (rows[name].to_numpy() for name in ("truth", "weight", "region"))
        return _figures(score, score >= threshold, truth, weight, region)

    def fit(
        self, rows: pd.DataFrame, features: Sequence[str], label: str = "mask"
    ) -> Callable[[pd.DataFrame], np.ndarray]:
        """Fit the tuned trees to rows, by truth also at class edges; return what scores others."""
        positive = (rows["truth"] if label == "truth" else rows["label"] == MANGROVE).to_numpy()
        interior = rows["interior"].to_numpy() if label == "mask" else np.ones(len(rows), bool)
        weight = training_weights(positive, rows["weight"].to_numpy(), interior, is_thinned(rows), "map")
        used = weight > 0
        values = feature_values(rows, features)[:, used]
        boosted = fit_boosted(values, positive[used], weight[used], self.runs.boost)
        return lambda others: boosted.predict(feature_values(others, features))

    def each[T, R](self, function: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """Apply a function to many items in threads, in their order."""
        with ThreadPoolExecutor(self.runs.setting.workers) as pool:
            return list(pool.map(function, items))

    # --- the same model elsewhere

    def sensors(self) -> dict[str, Any]:
        """The same model on the hold-out as Landsat 5 and striped Landsat 7 saw it, below what Landsat 8 saw."""
        self.runs.make_sensors()
        scores = {
            platform.replace("landsat-", "l"): self.score_maps(platform, "sensors", year)
            for platform, year in SENSOR_YEARS.items()
        }
        result = {f"{short}_{name}": one[name] for short, one in scores.items() for name in ("f1", "f1_most", "auc")}
        here = scores.pop("l8")
        for short, one in scores.items():
            drops = [here["regions"][name] - f1 for name, f1 in one["regions"].items()]
            result |= {f"{short}_f1_drop": here["f1"] - one["f1"], f"{short}_f1_drop_worst_region": max(drops)}
        for name in ("f1_drop", "f1_drop_worst_region"):
            result[f"sensor_{name}"] = max(result[f"{short}_{name}"] for short in scores)
        return result

    def mainland(self) -> dict[str, Any]:
        """The same model where there is little mangrove, and that is known."""
        self.runs.make_mainland()
        figures = self.score_maps("mainland-run", "mainland", YEAR)
        return {f"mainland_{name}": figures[name] for name in ("f1", "auc", "precision", "recall", "ece")}


def _figures(
    probability: np.ndarray, found: np.ndarray, truth: np.ndarray, weight: np.ndarray, region: np.ndarray
) -> dict[str, Any]:
    """Return figures of all rows, and under ``regions`` F1 of each."""
    of_region = pd.Series(region).groupby(region).indices
    said = rates(found, truth, weight)
    return {
        "auc": auc(probability, truth, weight),
        "average_precision": average_precision(probability, truth, weight),
        "ece": calibration_error(probability, truth, weight),
        "f1": said.f1,
        "precision": said.precision,
        "recall": said.recall,
        "regions": {name: rates(found[of], truth[of], weight[of]).f1 for name, of in of_region.items()},
    }
