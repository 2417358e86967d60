"""The published study, simulated: 25 regions, four held out, classifiers searched, maps scored against truth.

Every map and model is made by the commands a user has; only what needs the truth of the simulated world is done here.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from benchmarks.study_runs import FEATURES, MAINLAND_SHARE, OTHER_SENSORS, YEAR, Runs, Setting
from engine.boost import fit_boosted, training_weights
from engine.candidates import Rows, fit_candidate
from engine.kernels.bins import encode
from engine.kernels.features import COMPOSITE_FEATURES, FEATURE_SETS
from engine.kernels.score import auc, average_precision, calibration_error, rates
from engine.legend import MANGROVE, PROBABILITY_MISSING, PROBABILITY_SCALE
from engine.raster import read_raster
from engine.rows import feature_values
from engine.sample import read_sample
from engine.simulate import read_archive
from engine.simulate.world import site_of
from engine.splits import Split, by_region, leave_one_region_out, random_rows
from engine.store import open_store

PUBLISHED: Final = {"auc_xgboost": 0.952, "auc_mlp": 0.960, "precision": 0.75, "recall": 0.98}
"""The real study's four regions: rows as drawn, 31 % mangrove, against the mask."""

_ROWS: Final = 600
"""Rows of each region and class that side experiments are fitted to."""


def run_study(setting: Setting, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Simulate, search, train, map and score.

    Parameters
    ----------
    setting : Setting
    folder : Path
        For the archive and the runs.
    say : callable
        Takes a line of progress.

    Returns
    -------
    dict
        Flat; against truth and wall to wall unless a name says otherwise.
    """
    study = _Study(setting, folder, say)
    started = time.perf_counter()
    study.make()
    found: dict[str, Any] = {"simulated": study.archive.params.notice, "seed": setting.seed}
    for part in (study.maps, study.candidates, study.ladder, study.transfer, study.elsewhere):
        found |= part()
        say(f"{part.__name__}: done after {time.perf_counter() - started:.0f} s")
    found |= {f"published_{name}": value for name, value in PUBLISHED.items()}
    found |= {f"setting_{name}": value for name, value in setting.__dict__.items() if name not in ("seed", "draw")}
    return found | {"seconds": round(time.perf_counter() - started, 1)}


class _Study(Runs):
    @cached_property
    def frame(self) -> pd.DataFrame:
        """The sample, as mapped, with truth and the surface model of each row."""
        sample = pd.DataFrame(read_sample(self.folder / "study" / "sample").compute().drop(columns="geometry"))
        sample = sample[~sample["thinned"]].reset_index(drop=True)
        truth = np.zeros(len(sample), bool)
        elevation = np.zeros(len(sample), np.int32)
        for site in (site_of(region, self.setting.size_px) for region in self.archive.params.regions):
            rows = np.flatnonzero(sample["region"] == _as_region(site.name))
            sources = ((self.archive.truth(site.name, YEAR), truth, 1), (self.archive.dems[site.name], elevation, 0))
            for path, into, band in sources:
                values, _ = read_raster(path)
                at = sample["grid_row"].to_numpy()[rows] - site.row, sample["grid_col"].to_numpy()[rows] - site.col
                into[rows] = np.rint(values[band][at] * (100 if band == 0 else 1))
        return sample.assign(truth=truth, elevation_cm=elevation)

    @cached_property
    def hold_out(self) -> pd.DataFrame:
        return self.frame[self.frame["region"].isin(self.model.hold_out)].reset_index(drop=True)

    @cached_property
    def split(self) -> Split:
        return by_region(self.frame, self.model.hold_out)

    # --- figures

    def maps(self) -> dict[str, Any]:
        """The maps of the hold-out, pixel by pixel against truth; and what the commands said against the mask."""
        figures = self.score_maps("study", "world", YEAR)
        rows = self.hold_out
        scores = self.model.predict_codes(encode(feature_values(rows, self.model.features), self.model.edges))
        said = self.model.metrics
        drawn = said["wall_to_wall"]
        return {
            "auc_truth": figures["auc"],
            **{name: figures[name] for name in ("f1", "precision", "recall")},
            "average_precision": figures["average_precision"],
            "ece_before": calibration_error(scores, rows["truth"].to_numpy(), rows["weight"].to_numpy()),
            "ece_after": figures["ece"],
            "ece_mask_before_folds": said["calibration"]["ece_before"],
            "ece_mask_after_folds": said["calibration"]["ece_after"],
            "auc_mask": drawn["auc"],
            "f1_mask": drawn["f1"],
            "precision_mask_at_31": drawn["precision_at_31%"],
            "recall_mask": drawn["recall"],
            "threshold": self.model.threshold,
            "regions_holdout": len(self.model.hold_out),
            "regions_trained_on": len(self.model.regions),
            "rows_trained_on": sum(self.model.training_rows.values()),
            "suspects_share": said["suspects"]["rows"] / said["suspects"]["of"],
            "model_sha256": self.model.sha256(),
            "search_best_sha256": self.best["model_sha256"],
            "leads": self.best["leads"],
            **{f"tuned_{name}": value for name, value in self.best["train"].items()},
            **{f"f1_{name}": value for name, value in figures["regions"].items()},
        }

    def score_maps(self, run: str, world: str, year: int) -> dict[str, Any]:
        """Score the maps of the study's hold-out against truth: every observed pixel counts once."""
        archive = read_archive(self.folder / world)
        held = {_as_region(f"sim-{name}"): f"sim-{name}" for name in self.held}
        probability, mapped, truth, region = [], [], [], []
        for store in sorted((self.folder / run / "maps" / str(year)).glob("*.zarr")):
            with open_store(store) as data:
                names = json.loads(data.attrs["regions"])
                layers = {name: data[name].values for name in ("probability", "class", "region")}
            name = names[int(layers["region"].max()) - 1]
            if name not in held:
                continue
            true, _ = read_raster(archive.truth(held[name], year))
            seen = layers["probability"] != PROBABILITY_MISSING
            probability.append(layers["probability"][seen])
            mapped.append(layers["class"][seen] == MANGROVE)
            truth.append(true[1][seen] > 0)
            region += [name] * int(seen.sum())
        codes, found, positive = (np.concatenate(column) for column in (probability, mapped, truth))
        figures = _figures(codes / PROBABILITY_SCALE, found, positive, np.ones(len(codes)))
        of = np.array(region)
        each = {
            name: rates(found[of == name], positive[of == name], np.ones(int((of == name).sum()))).f1
            for name in sorted(set(region))
        }
        return {**figures, "regions": each}

    def candidates(self) -> dict[str, Any]:
        """CART, linear model, network and others beside XGBoost, on the rows of the hold-out."""
        table = pd.read_parquet(self.folder / "study" / "tune" / "leaderboard.parquet")
        board = {row["candidate"]: row for row in table.to_dict("records")}
        rows, held = Rows.of(self.frame, self.model.features), self.hold_out
        test, side = Rows.of(held, self.model.features), rows.take(self.split.train)

        def judge(name: str) -> tuple[dict[str, Any], dict[str, float]]:
            fitted = fit_candidate(name, side, json.loads(board[name]["params"]), seed=self.setting.seed)
            return self.judge(fitted.predict(test), board[name]["threshold"])

        names = [name for name in ("cart", "xgboost", "linear/robust", "mlp/quantile", "forest") if name in board]
        with ThreadPoolExecutor(self.setting.workers) as pool:
            found = dict(zip(names, pool.map(judge, names), strict=True))
        result: dict[str, Any] = {}
        for name, (figures, _) in found.items():
            short = name.partition("/")[0]
            result |= {f"{short}_f1": figures["f1"], f"{short}_auc": figures["auc"], f"{short}_ece": figures["ece"]}
        ours = found["xgboost"][1]
        for other in ("cart", "linear/robust"):
            theirs = found[other][1]
            result[f"regions_beaten_{other.partition('/')[0]}"] = sum(ours[name] > theirs[name] for name in ours)
        return result

    def judge(self, score: np.ndarray, threshold: float) -> tuple[dict[str, Any], dict[str, float]]:
        """Return figures of scores of the hold-out's rows, and F1 by region."""
        held = self.hold_out
        found, truth, weight = score >= threshold, held["truth"].to_numpy(), held["weight"].to_numpy()
        regions = {
            str(name): rates(found[at], truth[at], weight[at]).f1 for name, at in held.groupby("region").indices.items()
        }
        return _figures(score, found, truth, weight), regions

    def ladder(self) -> dict[str, Any]:
        """What each group of features brings, and where the information runs out; on the rows of the hold-out.

        ``truth_labels`` is trained on truth in place of the mask; ``oracle`` on the truth of the other half of the
        very region it is judged in.
        """
        frame, held = self.frame, self.hold_out
        threshold = float(self.best["threshold"])
        sets = {
            "composite": COMPOSITE_FEATURES,
            "pixel": FEATURE_SETS["all+mad"],
            "dem": (*self.model.features, "elevation_cm"),
            "truth_labels": self.model.features,
        }

        def climb(name: str) -> np.ndarray:
            label = "truth" if name == "truth_labels" else "mask"
            return self.fit(frame, self.split.train, sets[name], label)(held)

        def oracle(name: str) -> tuple[np.ndarray, np.ndarray]:
            rows = np.flatnonzero(held["region"] == name)
            west = held["grid_col"].to_numpy()[rows] < np.median(held["grid_col"].to_numpy()[rows])
            score = np.empty(len(rows), np.float32)
            for half in (west, ~west):
                score[half] = self.fit(held, np.isin(np.arange(len(held)), rows[~half]), self.model.features, "truth")(
                    held.iloc[rows[half]]
                )
            return rows, score

        with ThreadPoolExecutor(self.setting.workers) as pool:
            scores = dict(zip(sets, pool.map(climb, sets), strict=True))
            scores["oracle"] = np.empty(len(held), np.float32)
            for rows, score in pool.map(oracle, self.model.hold_out):
                scores["oracle"][rows] = score
        result: dict[str, Any] = {}
        for name, score in scores.items():
            figures = self.judge(score, threshold)[0]
            result |= {f"{name}_auc": figures["auc"], f"{name}_f1": figures["f1"]}
            # Of a threshold that knew the truth: what the scores hold at most.
            most = max(self.judge(score, at / 20)[0]["f1"] for at in range(1, 20))
            result[f"{name}_f1_most"] = most
        return result

    def fit(
        self, frame: pd.DataFrame, train: np.ndarray, features: Sequence[str], label: str
    ) -> Callable[[pd.DataFrame], np.ndarray]:
        """Fit the tuned trees to some rows; return what scores others."""
        side = frame[train]
        positive = (side["truth"] if label == "truth" else side["label"] == MANGROVE).to_numpy()
        interior = side["interior"].to_numpy() if label == "mask" else np.ones(len(side), bool)
        weight = training_weights(positive, side["weight"].to_numpy(), interior, np.zeros(len(side), bool), "map")
        used = weight > 0
        boosted = fit_boosted(feature_values(side, features)[:, used], positive[used], weight[used], self.boost)
        return lambda rows: boosted.predict(feature_values(rows, features))

    def transfer(self) -> dict[str, Any]:
        """Each region by a model of the others, and a random split, of fewer rows."""
        key = np.random.default_rng(self.setting.seed).random(len(self.frame))
        rank = pd.Series(key).groupby([self.frame["region"], self.frame["label"]]).rank()
        few = self.frame[(rank <= _ROWS).to_numpy()].reset_index(drop=True)
        size = self.frame.groupby(["region", "label"])["weight"].sum()
        drawn = few.groupby(["region", "label"])["weight"].sum()
        factor = (size / drawn).to_dict()
        scale = [factor[one] for one in zip(few["region"], few["label"], strict=True)]
        few = few.assign(weight=few["weight"] * scale)
        threshold = float(self.best["threshold"])

        def judge(split: Split) -> dict[str, Any]:
            rows = few[split.test]
            score = self.fit(few, split.train, self.model.features, "mask")(rows)
            return _figures(score, score >= threshold, rows["truth"].to_numpy(), rows["weight"].to_numpy())

        splits = [*leave_one_region_out(few), random_rows(few, seed=self.setting.seed)]
        with ThreadPoolExecutor(self.setting.workers) as pool:
            *regions, random = pool.map(judge, splits)
        f1 = {split.name: one["f1"] for split, one in zip(splits, regions, strict=False)}
        aucs = [one["auc"] for one in regions]
        worst = min(f1, key=lambda name: f1[name])
        return {
            "random_auc": random["auc"],
            "random_f1": random["f1"],
            "median_region_auc": float(np.median(aucs)),
            "worst_region_auc": min(aucs),
            "median_region_f1": float(np.median(list(f1.values()))),
            "worst_region_f1": f1[worst],
            "worst_region": worst,
        }

    def elsewhere(self) -> dict[str, Any]:
        """The same model on the hold-out's regions as other sensors saw them, and with little mangrove."""
        model = {"train": {"from": str(self.folder / "study" / "model"), "features": FEATURES}}
        here = self.score_maps("study", "world", YEAR)["f1"]
        result: dict[str, Any] = {}
        first = min(OTHER_SENSORS.values()) - 1
        self.simulate("sensors", self.held, sorted(OTHER_SENSORS.values()), first)
        for platform, year in OTHER_SENSORS.items():
            config = self.configure(platform, "sensors", [year], first, platforms=[platform], **model)
            self.command("classify", config, "--allow-root", self.folder)
            figures = self.score_maps(platform, "sensors", year)
            short = platform.replace("landsat-", "l")
            result |= {f"{short}_f1": figures["f1"], f"{short}_auc": figures["auc"]}
        result["sensor_f1_drop"] = here - min(result["l5_f1"], result["l7_f1"])
        self.simulate("mainland", self.held, [YEAR], YEAR - 3, "--setting", "mainland")
        stated = {**model, "classify": {"prevalence": MAINLAND_SHARE}}
        sensors = ["landsat-8", "landsat-9"]
        config = self.configure("mainland-run", "mainland", [YEAR], YEAR - 3, platforms=sensors, **stated)
        self.command("classify", config, "--allow-root", self.folder)
        figures = self.score_maps("mainland-run", "mainland", YEAR)
        return result | {f"mainland_{name}": figures[name] for name in ("f1", "auc", "precision", "recall", "ece")}


def _as_region(name: str) -> str:
    """Return the name of a simulated region as an area file gives it."""
    return name.replace(" ", "-")


def _figures(probability: np.ndarray, found: np.ndarray, truth: np.ndarray, weight: np.ndarray) -> dict[str, Any]:
    said = rates(found, truth, weight)
    return {
        "auc": auc(probability, truth, weight),
        "average_precision": average_precision(probability, truth, weight),
        "ece": calibration_error(probability, truth, weight),
        "f1": said.f1,
        "precision": said.precision,
        "recall": said.recall,
    }
