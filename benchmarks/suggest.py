"""Do suggested labels help more than random ones? In simulated worlds, where the truth is the interpreter.

Of each seed one small world is mapped by a model of few labels. Then it is trained again with the labels of as many
points that `mangroves suggest` proposed, and of as many drawn at random from the same land. Scored is the region held
out, wall to wall, against the truth; calibration and threshold are each model's own, of its masks.
"""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import yaml

from engine.area import Area, read_area
from engine.edits import add_edits
from engine.grid import tiles_of
from engine.kernels.score import auc, rates
from engine.legend import MANGROVE, OTHER
from engine.params import AreaParams
from engine.simulate import Archive, WorldParams, add_truth, write_archive
from engine.store import open_store
from engine.trust import Trust
from jobs.cli import main as mangroves
from jobs.suggest import label_pixels

REGIONS: Final = ("Vietnam1", "Cuba1", "Nigeria1", "India")
HELD: Final = "sim-India"
YEAR: Final = 2017
ARMS: Final = ("none", "random", "suggested")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How large a comparison is."""

    seeds: int = 5
    points: int = 100
    size_px: int = 160
    scenes: int = 6
    draw: tuple[int, int] = (30, 60)
    """Mangrove and other rows of a region that the mask gives."""


def run_suggest(setting: Setting, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Score the models of every world; return the mean of each figure, and all of them."""
    rows: list[dict[str, Any]] = []
    for seed in range(1, setting.seeds + 1):
        for row in _world(setting, folder / f"seed-{seed}", seed):
            say(f"seed {seed}, {row['labels']} labels: AUC {row['auc']:.4f}, F1 {row['f1']:.4f} (simulated)")
            rows.append(row)
    found: dict[str, Any] = {"simulated": True, "worlds": setting.seeds, "points": setting.points}
    table = pd.DataFrame(rows)
    for figure in ("auc", "f1"):
        wide = table.pivot(index="seed", columns="labels", values=figure)
        found |= {f"{figure}_{arm}": float(wide[arm].mean()) for arm in ARMS}
        gain = wide["suggested"] - wide["random"]
        found |= {
            f"{figure}_suggested_less_random_sd": float(gain.std()),
            f"{figure}_worlds_won": int((gain > 0).sum()),
        }
    return {**found, "rows": rows}


def _world(setting: Setting, folder: Path, seed: int) -> list[dict[str, Any]]:
    params = WorldParams(
        regions=REGIONS,
        years=(YEAR,),
        size_px=setting.size_px,
        scenes_per_year=setting.scenes,
        seed=seed,
        mask_years=(YEAR - 1,),
    )
    archive = write_archive(params, folder / "archive")
    mangrove, other = setting.draw
    config = {
        "name": "run",
        "out": str(folder),
        "area": {"file": str(archive.regions), "name_field": "name"},
        "years": [YEAR],
        "seed": seed,
        "search": {"catalogs": [str(archive.items)]},
        "labels": {"masks": [{"path": str(path), "year": year} for year, path in archive.masks.items()]},
        "sample": {"mangrove": mangrove, "other": other, "thinned": 0},
        "train": {"hold_out": [HELD], "rounds": 60, "max_depth": 4},
        "notice": archive.params.notice,
    }
    path, run = folder / "run.yaml", folder / "run"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    area = read_area(AreaParams(file=str(archive.regions), name_field="name"), Trust().with_roots(folder))
    _command("classify", path, folder)
    rows = [{"seed": seed, "labels": "none", **_score(run, area, archive)}]
    random = _random_points(run, area, setting.points, seed)
    _command("suggest", run, folder, "--count", str(setting.points), "--year", str(YEAR))
    suggested = pd.read_csv(run / "suggest" / "points.csv")[["zone", "row", "col"]]
    for arm, points in (("random", random), ("suggested", suggested)):
        shutil.rmtree(run / "edits", ignore_errors=True)
        truth = _truth(points.rename(columns={"row": "grid_row", "col": "grid_col"}), archive)
        labels = np.where(truth, np.uint8(MANGROVE), np.uint8(OTHER))
        zone, row, col = (points[name].to_numpy() for name in ("zone", "row", "col"))
        add_edits(run, label_pixels(zone, row, col, labels, year=YEAR, notes=[arm] * len(points)), author="truth")
        _command("classify", path, folder, "--set", "train.edits=true")
        rows.append({"seed": seed, "labels": arm, "points": len(points), **_score(run, area, archive)})
    return rows


def _command(name: str, about: Path, root: Path, *more: str) -> None:
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
            mangroves([name, str(about), "--cluster", "threads", "--allow-root", str(root), *more])
    except SystemExit as stop:
        raise RuntimeError(f"mangroves {name} failed: {said.getvalue().strip().splitlines()[-1:]}") from stop


def _truth(frame: pd.DataFrame, archive: Archive) -> np.ndarray:
    return add_truth(frame.assign(year=YEAR), archive)["truth"].to_numpy(bool)


def _pixels(run: Path, area: Area, *, held: bool) -> pd.DataFrame:
    """Return the classified pixels inside, or outside, the region held out."""
    parts = []
    for tile in tiles_of(area.geometry):
        with open_store(run / "maps" / str(YEAR) / f"{tile.id}.zarr") as data:
            classes, probability, regions = (data[name].values for name in ("class", "probability", "region"))
        of_held = 1 + [region.name for region in area.regions].index(HELD)
        wanted = np.isin(classes, (OTHER, MANGROVE)) & ((regions == of_held) == held)
        y, x = np.nonzero(wanted)
        columns = {"zone": tile.zone, "row": y + tile.window[0], "col": x + tile.window[1]}
        parts.append(pd.DataFrame({**columns, "class": classes[y, x], "probability": probability[y, x]}))
    return pd.concat(parts, ignore_index=True)


def _random_points(run: Path, area: Area, count: int, seed: int) -> pd.DataFrame:
    pixels = _pixels(run, area, held=False)
    return pixels.iloc[np.random.default_rng(seed).choice(len(pixels), count, replace=False)][["zone", "row", "col"]]


def _score(run: Path, area: Area, archive: Archive) -> dict[str, float]:
    pixels = _pixels(run, area, held=True)
    truth = _truth(pixels.rename(columns={"row": "grid_row", "col": "grid_col"}), archive)
    weight = np.ones(len(pixels))
    found = rates((pixels["class"] == MANGROVE).to_numpy(), truth, weight)
    return {"auc": auc(pixels["probability"].to_numpy(), truth, weight), "f1": float(found.f1 or 0)}


def show(found: dict[str, Any]) -> Iterator[str]:
    """Yield the figures of every world."""
    yield "| seed | labels | AUC | F1 | (simulated, region held out, against the truth)"
    for row in found["rows"]:
        yield f"| {row['seed']} | {row['labels']} | {row['auc']:.4f} | {row['f1']:.4f} |"
