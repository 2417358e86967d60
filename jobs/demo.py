"""``mangroves run --demo``: a simulated world mapped end to end, and scored against its truth."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml

import engine
from engine.change import compare_tile, sieved_transitions
from engine.cluster import open_cluster
from engine.errors import ConfigError, ModelError
from engine.figures import category_panel, composite_panel, preview, probability_panel
from engine.files import write_text
from engine.grid import pixel_hectares
from engine.history_tasks import change_path
from engine.kernels.score import PREVALENCES, at_prevalence, auc, rates
from engine.legend import CLASSES, GAIN, LOSS, MANGROVE, NOT_OBSERVED, OTHER, PAIRS
from engine.plan import TileYear, make_plan
from engine.raster import read_raster
from engine.scenes import read_scenes
from engine.simulate import Archive, WorldParams
from engine.simulate.archive import CAVEAT
from engine.store import open_store
from jobs.classify import map_path
from jobs.config import parse_config
from jobs.context import Options, Run, begin_run, place_run
from jobs.cube import cube_path
from jobs.history import history_path
from jobs.page import page_of
from jobs.reporter import Reporter
from jobs.simulate import run_config, simulate
from jobs.steps import run_all

WORLD: Final = WorldParams(
    regions=("Guinea-Bissau", "Nigeria1", "Cuba1", "Colombia", "Madagascar", "Myanmar1", "Vietnam2", "India"),
    years=(2012, 2013, 2020),  # 2012 is SLC-off Landsat 7, 2013 Landsat 8: the pair where false change shows
    size_px=512,
    scenes_per_year=14,
    seed=1,
)
HOLD_OUT: Final = ("sim-Vietnam2", "sim-India")
"""Two of the study's own hold-out regions."""

MINUTES: Final = 3
"""Said before it starts; measured on 2 cores."""

LEAST_AUC: Final = 0.90
"""The one figure the demo asserts: below it something is broken."""


def run_demo(options: Options, folder: Path) -> None:
    """Write the simulated archive, run the main job on it, score the maps, and print the table."""
    started = time.perf_counter()
    reporter = Reporter(as_json=options.as_json)
    reporter.say(
        f"demo      {len(WORLD.regions)} regions of {WORLD.size_px} x {WORLD.size_px} px, years "
        f"{', '.join(map(str, WORLD.years))}; about {MINUTES} minutes on 2 cores"
    )
    trust = options.trust.with_roots(folder)
    config = run_config(Archive(folder / "archive", WORLD), folder, hold_out=HOLD_OUT)
    skip_bad = ("skip_bad=true",) if options.skip_bad else ()
    params = parse_config(config, (*options.overrides, *skip_bad), source="demo")
    with open_cluster(options.cluster, options.cluster_file) as client:
        archive = simulate(WORLD, folder / "archive", client, reporter)
        write_text(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False))  # as overridden
        with begin_run(place_run(params, trust), client, reporter, fresh=options.fresh) as run:
            result = run_all(run)
            names = [region.name for region in run.area.regions]
            held_out = [name for name in params.train.hold_out or names if name in result["hold_out"]]
            if not held_out:
                raise ConfigError("no region of the demo was held out of its model", fix="name one in train.hold_out")
            plan = make_plan(run.area, run.periods, read_scenes(run.folder / "items.parquet"))
            score = score_against_truth(run, archive, plan.tile_years, held_out)
            draw_preview(run, folder / "preview.png", plan.tile_years, held_out[0])
    page = page_of(run.folder, run.outputs)
    summary = {
        "simulated": archive.params.notice,
        "caveat": CAVEAT,
        "seed": WORLD.seed,
        "version": engine.__version__,
        "world": asdict(WORLD),
        **score,
        "mask_score": result["metrics"],
        "trees_sha256": result["trees_sha256"],
        "rasters": {kind: [os.path.relpath(path, folder) for path in result[kind]] for kind in ("maps", "change")},
        "preview": "preview.png",
        "page": os.path.relpath(page, folder),
        "seconds_run": result["seconds"],
        "seconds": round(time.perf_counter() - started, 1),
    }
    write_text(folder / "summary.json", json.dumps(summary, indent=1, sort_keys=True) + "\n")
    show_summary(run, summary, folder)
    if not summary["hold_out"]["auc"] >= LEAST_AUC:
        raise ModelError(
            f"hold-out AUC against truth is {summary['hold_out']['auc']:.3f}, below {LEAST_AUC}",
            fix="something is broken; please report it with demo/summary.json",
        )


def score_against_truth(
    run: Run, archive: Archive, parts: Sequence[TileYear], held_out: Sequence[str]
) -> dict[str, Any]:
    """Score the maps against the truth of the world, wall to wall.

    Returns
    -------
    dict
        ``years``: hectares mapped, true, and true where the map is observed, over all regions;
        ``hold_out``: AUC, precision, recall, F1 over all observed pixels and years of the held-out regions, also
        at other prevalences; ``change``: hectares of loss and gain, first to last year, as ``years``: mapped by all
        years together in patches of half a hectare and more, and of both years' maps differenced.
    """
    names = [region.name for region in run.area.regions]
    years = sorted({part.year for part in parts})
    kinds = ("mapped_ha", "true_ha", "true_observed_ha")
    totals = {year: dict.fromkeys(kinds, 0.0) for year in years}
    held: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    turned = {kind: dict.fromkeys(("mapped", "differenced", "true", "true_observed"), 0.0) for kind in ("loss", "gain")}
    for tile in sorted({part.tile for part in parts}):
        hectares = np.broadcast_to(pixel_hectares(tile), tile.shape)
        classes, truths = {}, {}
        for year in years:
            with open_store(map_path(run, TileYear(tile, year, ()))) as data:
                classes[year], probability, region = (data[n].values for n in ("class", "probability", "region"))
            name = names[int(region.max()) - 1]
            truths[year] = read_raster(archive.truth(name, year))[0][1] > 0
            observed = (region > 0) & (classes[year] != NOT_OBSERVED)
            counted = (classes[year] == MANGROVE, truths[year] & (region > 0), truths[year] & observed)
            for kind, mangrove in zip(kinds, counted, strict=True):
                totals[year][kind] += float(hectares[mangrove].sum())
            if name in held_out:
                held.append((probability[observed], classes[year][observed] == MANGROVE, truths[year][observed]))
        first, last = years[0], years[-1]
        there = {year: np.where(truths[year], MANGROVE, OTHER).astype("uint8") for year in (first, last)}
        seen = {year: np.where(classes[year] == NOT_OBSERVED, np.uint8(NOT_OBSERVED), there[year]) for year in there}
        with open_store(history_path(run, tile)) as data:
            traced, large = data["class"].values, data["large"].values
        codes = {
            "mapped": sieved_transitions(compare_tile(traced[0], traced[-1]), large),
            "differenced": compare_tile(classes[first], classes[last]),
            "true": compare_tile(there[first], there[last]),
            "true_observed": compare_tile(seen[first], seen[last]),
        }
        for kind, code in (("loss", LOSS), ("gain", GAIN)):
            for source, transition in codes.items():
                turned[kind][source] += float(hectares[transition == code].sum())
    probability, predicted, positive = (np.concatenate(column) for column in zip(*held, strict=True))
    weight = np.ones(len(positive))
    found = rates(predicted, positive, weight)
    hold_out = {
        "regions": list(held_out),
        "population": "wall to wall, all years, observed pixels",
        "label": "truth",
        "prevalence": float(positive.mean()),
        "auc": auc(probability, positive, weight),
        "precision": found.precision,
        "recall": found.recall,
        "f1": found.f1,
        "at_prevalence": {
            f"{share:.0%}": dict(
                zip(
                    ("precision", "f1"),
                    at_prevalence(found.recall, found.false_positive_rate, share),
                    strict=True,
                )
            )
            for share in PREVALENCES
        },
    }
    return {
        "years": {str(year): {kind: round(totals[year][kind], 2) for kind in kinds} for year in years},
        "hold_out": hold_out,
        "change": {"years": [years[0], years[-1]], **turned},
    }


def draw_preview(run: Run, path: Path, parts: Sequence[TileYear], name: str) -> None:
    """Draw composite, probability, classes and change of a held-out region."""
    index = [region.name for region in run.area.regions].index(name)
    first, last = min(p.year for p in parts), max(p.year for p in parts)
    for part in parts:
        with open_store(map_path(run, part)) as data:
            layers = {name: data[name].values for name in ("class", "probability", "region")}
        if part.year == last and layers["region"].max() == index + 1:
            break
    with open_store(cube_path(run, part)) as data:
        composite = data["composite"].values
    change = run.outputs / "change" / f"{first}-{last}" / f"{part.tile.id}.zarr"
    panels = [
        composite_panel(f"Composite {last}", composite),
        probability_panel(f"Probability of mangrove {last}", layers["probability"]),
        category_panel(f"Classes {last}", layers["class"], CLASSES),
        category_panel(f"Change {first} to {last}", read_raster(change_path(change))[0][0], PAIRS),
    ]
    preview(path, panels, title=f"{name}, held out of training", notice=run.params.notice)


def show_summary(run: Run, summary: dict[str, Any], folder: Path) -> None:
    """Print the demo's closing table."""
    held, change = summary["hold_out"], summary["change"]
    run.reporter.table(
        f"{summary['simulated']}: mangrove, hectares, all {len(WORLD.regions)} regions",
        ("year", "mapped", "true", "true where observed"),
        ((year, *(f"{row[kind]:,.0f}" for kind in row)) for year, row in summary["years"].items()),
    )
    rows = [(f"as it is ({held['prevalence']:.0%})", held["precision"], held["recall"], held["f1"])]
    rows += [(share, at["precision"], held["recall"], at["f1"]) for share, at in held["at_prevalence"].items()]
    run.reporter.table(
        f"{summary['simulated']}: hold-out {', '.join(held['regions'])} against truth, wall to wall, "
        f"AUC {held['auc']:.3f}",
        ("mangrove share", "precision", "recall", "F1"),
        ((name, *(f"{value:.3f}" for value in values)) for name, *values in rows),
    )
    run.reporter.table(
        f"{summary['simulated']}: change {change['years'][0]} to {change['years'][1]}, hectares",
        ("", "mapped", "two maps differenced", "true", "true where observed"),
        ((kind, *(f"{hectares:,.0f}" for hectares in change[kind].values())) for kind in ("loss", "gain")),
    )
    lines = [
        CAVEAT,
        f"maps, a VRT a year and zone (open in any GIS): {run.outputs / 'maps'}",
        f"change rasters: {run.outputs / 'change'}",
        f"to look at it all, open in a browser: {folder / summary['page']}",
        f"picture: {folder / 'preview.png'}; figures: {folder / 'summary.json'}; {summary['seconds']:.0f} s in all",
    ]
    run.reporter.result(summary, "\n".join(lines))
