"""``mangroves assess``: draw points for an interpreter, and turn what was read there into accuracy and areas."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import click
import geopandas as gpd
import numpy as np
import pandas as pd

from engine.assess import (
    BLIND,
    METHOD,
    NAME_OF,
    READER_ERROR,
    TOTAL,
    Assessment,
    choose_points,
    compare_readers,
    design_sample,
    estimate_accuracy,
    estimate_areas,
    kml_of,
    labels_template,
    mapped_loss_ha,
    merge_tallies,
    read_labels,
    reader_error_coverage,
    sample_seed,
    write_labels,
)
from engine.change import write_table
from engine.errors import SampleError, StoreError
from engine.files import replacing, write_text
from engine.grid import Tile, tiles_of
from engine.history_tasks import TileHistory, chip_task, point_task, tally_task
from engine.kernels.design import STRATA
from engine.legend import MANGROVE, OTHER
from engine.places import Place
from engine.plan import Plan
from engine.simulate import Archive, add_truth, read_archive
from engine.store import marker_path, read_marker
from jobs.change import open_comparison
from jobs.change_products import fingerprint_of_map, write_series
from jobs.context import Options, Run, open_run, run_options
from jobs.cube import cube_path
from jobs.evaluate_page import write_parquet
from jobs.history import adjoining_tiles, history_path
from jobs.lineage import refresh_lineage
from jobs.plan import plan_run
from jobs.search import find_scenes

CHIPS_A_TASK: Final = 200
LABELS_MOST_BYTES: Final = 2**28
FULL_DIGITS: Final = "%.10g"
"""Hectares are read back and estimated with."""

FROM_LABELS: Final = (
    "areas.parquet",
    "areas.parquet.json",
    "areas.csv",
    "accuracy.csv",
    "matrix.csv",
    "agreement.csv",
    "labels_truth.csv",
)
"""What is made of the labels of a sample, and so is nothing of the next one."""


class Design(NamedTuple):
    """The sample of a run, as it was drawn."""

    years: tuple[int, ...]
    points: gpd.GeoDataFrame
    mapped: pd.DataFrame
    """Stratum and classes of each point by the map."""

    histories: list[TileHistory]
    map: str
    """Of ``fingerprint_of_map``."""


def finished_histories(run: Run, tiles: Sequence[Tile]) -> dict[TileHistory, str]:
    """Return the history of each tile of a run whose change is mapped, and its sha256.

    Raises
    ------
    StoreError
        If a history is missing, or was made with other settings than the run now has.
    """
    fix, found = "run `mangroves change` first", {}
    wanted = {"years": sorted(run.params.years), **run.params.change.tracing}
    histories = [(tile, history_path(run, tile)) for tile in tiles]
    markers = run.each(lambda history: read_marker(history[1]), histories)
    for (tile, store), marker in zip(histories, markers, strict=True):
        if marker is None:
            raise StoreError(f"{store} is not there or not finished", tile=tile.id, fix=fix)
        made = {"years": marker.get("years"), **marker.get("settings", {})}
        for name, value in wanted.items():
            if made.get(name) != value:
                problem = f"{store} was made with {name} {made.get(name)}, the configuration now says {value}"
                raise StoreError(problem, tile=tile.id, fix=fix)
        found[tile, store] = str(marker["sha256"])
    return found


def finished_plan(run: Run) -> tuple[Plan, dict[TileHistory, str]]:
    """Return the plan of a run whose change is mapped, and the sha256 of each tile's history.

    Raises
    ------
    StoreError
        As ``finished_histories`` does.
    """
    if not (run.folder / "items.parquet").is_file():
        raise StoreError(f"{run.folder} holds no map of change", fix="run `mangroves change` first")
    plan = plan_run(run, find_scenes(run))
    return plan, finished_histories(run, plan.tiles)


def design_assessment(run: Run, *, chips: bool) -> dict[str, Any]:
    """Draw the sample and write it, its strata and what the map says of it to the run's folder ``assess``."""
    params, folder = run.params.assess, run.folder / "assess"
    _, zones = open_comparison(run)
    plan, histories = finished_plan(run)
    with run.record.stage("assess design") as counts:
        calls = [
            (history_path(run, tile), tile, adjoining, run.area, zones, params.buffer_px)
            for tile, adjoining in _with_adjoining(run, plan)
        ]
        tallies = [found for _, found in run.tasks(tally_task, calls, len(calls), "strata", shared=(zones,))]
        if not tallies:
            raise StoreError(f"{run.folder} holds no map of change", fix="run `mangroves change` first")
        sizes, areas = (merge_tallies(tables) for tables in zip(*tallies, strict=True))
        strata, halfwidth = design_sample(sizes, params)
        wanted = {int(code): int(count) for code, count in zip(strata["stratum"], strata["points"], strict=True)}
        seed = sample_seed(run.params.seed)
        draws = [(*call, wanted, seed) for call in calls]
        pool = [found for _, found in run.tasks(point_task, draws, len(draws), "points", shared=(zones,))]
        points = choose_points(pool, wanted, second_reader=params.second_reader, seed=seed)
        counts.update(points=len(points), strata=wanted)
    years = [int(name) for name in points.columns if name.isdigit()]
    for name in FROM_LABELS:
        (folder / name).unlink(missing_ok=True)
    _write_sample(run, points, years)
    _write_strata(run, sizes, points)
    write_table(folder / "mapped_areas.csv", areas, notice=run.params.notice, float_format=FULL_DIGITS)
    private = ["id", "stratum", *points.columns.intersection(["zone_name"]), *(str(year) for year in years)]
    write_parquet(folder / "mapped.parquet", pd.DataFrame(points[private]), run.tags)
    about = {
        "years": years,
        "histories": {tile.id: sha256 for (tile, _), sha256 in histories.items()},
        "map": fingerprint_of_map(run, list(histories), zones),
        "seed": seed,
        "assess": params.model_dump(mode="json"),
    }
    write_text(folder / "design.json", json.dumps({**about, **run.tags}, indent=1))
    if chips:
        draw_chips(run, plan, points, folder / "chips")
    refresh_lineage(run, plan)
    show_design(run, strata, halfwidth)
    return {
        "sample": str(folder / "sample.csv"),
        "points": len(points),
        "expected_halfwidth": halfwidth if np.isfinite(halfwidth) else None,
        "strata": strata.to_dict("records"),
    }


def _with_adjoining(run: Run, plan: Plan) -> list[tuple[Tile, tuple[TileHistory, ...]]]:
    """Return each tile with the histories that its buffers reach into."""
    adjoining = adjoining_tiles(plan.tiles, run.params.assess.buffer_px)
    return [(tile, tuple((other, history_path(run, other)) for other in near)) for tile, near in adjoining.items()]


def _write_sample(run: Run, points: gpd.GeoDataFrame, years: list[int]) -> None:
    """Write what an interpreter is given: places, and a table to fill; nothing of the map."""
    folder = run.folder / "assess"
    blind = points[[*BLIND, "geometry"]]
    if run.params.notice:
        blind = blind.assign(notice=run.params.notice)
    with replacing(folder / "sample.parquet") as temporary:
        blind.to_parquet(temporary, compression="zstd", index=False)
    write_text(folder / "sample.geojson", blind.to_json(drop_id=True))
    write_text(folder / "sample.kml", kml_of(points))
    plain = pd.DataFrame(blind.drop(columns="geometry"))
    write_text(folder / "sample.csv", plain.to_csv(index=False, float_format="%.7f", lineterminator="\n"))
    write_text(folder / "labels_template.csv", labels_template(list(points["id"]), years))
    second = list(points.loc[points["reader2"], "id"])
    write_text(folder / "labels_template_reader2.csv", labels_template(second, years))


def _write_strata(run: Run, sizes: pd.DataFrame, points: pd.DataFrame) -> None:
    drawn = pd.concat(
        points.assign(by=by, where=points[NAME_OF[by]] if by in NAME_OF else TOTAL)[["by", "where", "stratum"]]
        for by in sizes["by"].unique()
    ).value_counts()
    keys = pd.MultiIndex.from_frame(sizes[["by", "where", "stratum"]])
    table = sizes.assign(name=sizes["stratum"].map(STRATA), points=drawn.reindex(keys, fill_value=0).to_numpy())
    path = run.folder / "assess" / "strata.csv"
    write_table(path, table, notice=run.params.notice, float_format=FULL_DIGITS)


def draw_chips(run: Run, plan: Plan, points: pd.DataFrame, folder: Path) -> None:
    """Write a picture of every point: its surroundings in all years; those of an earlier sample are removed."""
    cubes: dict[Tile, dict[int, Place]] = {}
    for part in plan.tile_years:
        cubes.setdefault(part.tile, {})[part.year] = cube_path(run, part)
    calls = []
    for tile, stores in cubes.items():
        top, left, height, width = tile.window
        here = points[
            (points["zone"] == tile.zone)
            & points["row"].between(top, top + height - 1)
            & points["col"].between(left, left + width - 1)
        ].sort_values(["row", "col"])[["id", "row", "col"]]
        some = (here.iloc[first : first + CHIPS_A_TASK] for first in range(0, len(here), CHIPS_A_TASK))
        calls += [(pd.DataFrame(part), tile, stores) for part in some]
    with run.record.stage("assess chips") as counts:
        written = set()
        for _, chips in run.tasks(chip_task, calls, len(calls), "chips"):
            for name, content in chips:
                written.add(f"{name}.png")
                with replacing(folder / f"{name}.png") as temporary:
                    temporary.write_bytes(content)
        for path in folder.glob("z*.png"):
            if path.name not in written:
                path.unlink()
        counts.update(chips=len(written))


def show_design(run: Run, strata: pd.DataFrame, halfwidth: float) -> None:
    """Print the allocation, and how wide the interval of loss is expected to be."""
    land = float(strata["hectares"].sum())
    run.reporter.table(
        "Sample, drawn at random in each stratum (read as one trajectory a point)",
        ("stratum", "hectares", "share of the land", "points"),
        (
            (row["name"], f"{row['hectares']:,.1f}", f"{row['hectares'] / land:.2%}", f"{row['points']:,}")
            for row in strata.to_dict("records")
        ),
    )
    aim, loss = run.params.assess.halfwidth, mapped_loss_ha(strata)
    if not np.isfinite(halfwidth):
        run.reporter.say("assess    no loss is mapped: the least of every stratum is drawn")
        return
    line = f"assess    {strata['points'].sum():,} points; 95 % interval of loss expected +- {halfwidth:.0%} of the"
    line += f" {loss:,.1f} ha mapped, aimed at {aim:.0%}"
    wide = halfwidth > aim * 1.001
    run.reporter.say(line + (f": raise assess.most (now {run.params.assess.most}) to come nearer" if wide else ""))


def read_design(run: Run) -> Design:
    """Return the sample of a run.

    Raises
    ------
    SampleError
        If none was drawn, or the map was made anew since.
    StoreError
        As ``finished_histories`` does.
    """
    folder, fix = run.folder / "assess", "run `mangroves assess design` first"
    again = fix.replace("first", "again")
    try:
        about = json.loads((folder / "design.json").read_text(encoding="utf-8"))
        points, mapped = gpd.read_parquet(folder / "sample.parquet"), pd.read_parquet(folder / "mapped.parquet")
    except (OSError, ValueError) as error:
        raise SampleError(f"{folder} holds no sample", fix=fix) from error
    histories = finished_histories(run, tiles_of(run.area.geometry))
    for (tile, _), sha256 in histories.items():
        if about["histories"].get(tile.id) != sha256:
            raise SampleError(f"the sample in {folder} was drawn from another map", tile=tile.id, fix=again)
    if list(points["id"]) != list(mapped["id"]):
        raise SampleError(f"{folder} mixes two samples", fix=again)
    return Design(tuple(about["years"]), points, mapped, list(histories), about.get("map", ""))


def assess_labels(run: Run, design: Design, labels: np.ndarray, second: np.ndarray | None) -> dict[str, Any]:
    """Estimate accuracy and areas from the labels of the run's sample; write and print them, and the series anew.

    Parameters
    ----------
    run : Run
    design : Design
    labels : ndarray of uint8, shape (point, year)
    second : ndarray of uint8, shape (point of ``reader2``, year), optional
    """
    folder = run.folder / "assess"
    years, points, mapped, histories, _ = design
    _, zones = open_comparison(run)
    sizes, areas = (_read_table(folder / name) for name in ("strata.csv", "mapped_areas.csv"))
    of_points = pd.DataFrame(points.drop(columns="geometry")).assign(stratum=mapped["stratum"].to_numpy())
    if "zone_name" in mapped:
        of_points["zone_name"] = mapped["zone_name"].to_numpy()
    sample = Assessment(
        years=years,
        points=of_points,
        mapped=mapped[[str(year) for year in years]].to_numpy(np.uint8),
        labels=labels,
        sizes=sizes,
        areas=areas,
    )
    with run.record.stage("assess") as counts:
        estimated, accuracy = estimate_areas(sample), estimate_accuracy(sample)
        coverage = reader_error_coverage(sample)
        tables = {"areas": estimated, "accuracy": accuracy.figures, "matrix": accuracy.matrix}
        if second is not None:
            tables["agreement"] = compare_readers(labels[points["reader2"].to_numpy(bool)], second, years)
        else:
            (folder / "agreement.csv").unlink(missing_ok=True)
        for name, table in tables.items():
            path = folder / f"{name}.csv"
            write_table(path, table, notice=run.params.notice, method=METHOD, float_format=FULL_DIGITS)
        _write_estimates(run, estimated, design.map)
        unsure = float(np.mean(labels == 0))
        counts.update(points=len(points), unsure_share=round(unsure, 4))
    write_series(run, histories, zones=zones, recovery_years=run.params.change.recovery_years)
    refresh_lineage(run)
    show_assessment(run, tables, coverage, unsure)
    whole = estimated[estimated["by"] == "total"]
    return {
        "assessment": str(folder),
        "series": str(run.folder / "series.csv"),
        "areas": json.loads(whole.to_json(orient="records")),
        "accuracy": json.loads(accuracy.figures[accuracy.figures["by"] == "total"].to_json(orient="records")),
        "coverage_at_5_percent_reader_error": coverage,
    }


def _read_table(path: Path) -> pd.DataFrame:
    """Read a table of the design, in which a place may be called NA, or 12."""
    return pd.read_csv(path, dtype={"by": str, "where": str}, keep_default_na=False)


def _write_estimates(run: Run, estimated: pd.DataFrame, map_fingerprint: str) -> None:
    """Write estimated areas as Parquet, and beside them which map they are of."""
    path = run.folder / "assess" / "areas.parquet"
    marker_path(path).unlink(missing_ok=True)
    write_parquet(path, estimated, {**run.tags, "method": METHOD})
    write_text(marker_path(path), json.dumps({"fingerprint": map_fingerprint}, indent=1))


def show_assessment(run: Run, tables: Mapping[str, pd.DataFrame], coverage: Mapping[str, float], unsure: float) -> None:
    """Print areas and accuracy of the whole area, and what the intervals stand on."""
    if run.params.notice:
        run.reporter.say(run.params.notice)
    areas, figures = tables["areas"], tables["accuracy"]
    shown = areas[(areas["by"] == "total") & (areas["class"] != "other")]
    run.reporter.table(
        "Hectares of the whole area, from the sample, with 95 % intervals",
        ("period", "class", "mapped", "estimated", "low", "high", "% a year"),
        (
            (
                row["period"],
                row["class"],
                *(f"{row[name]:,.1f}" for name in ("mapped_ha", "estimated_ha", "low_ha", "high_ha")),
                f"{row['pct_per_year']:.2f}" if np.isfinite(row["pct_per_year"]) else "",
            )
            for row in shown.to_dict("records")
        ),
    )
    some = figures[figures["by"] == "total"]
    run.reporter.table(
        "Accuracy of the map, whole area",
        ("period", "measure", "class", "value", "95 % interval", "points"),
        (
            (
                row["period"],
                row["measure"],
                row["class"],
                f"{row['value']:.3f}",
                f"{row['low']:.3f}-{row['high']:.3f}",
                row["points"],
            )
            for row in some.to_dict("records")
        ),
    )
    if "agreement" in tables:
        last = tables["agreement"].set_index("period").loc[["all years", "trajectory"]]
        run.reporter.say(
            f"readers   agree on {last['agreement'].iloc[0]:.1%} of {last['labels'].iloc[0]:,} labels (kappa"
            f" {last['kappa'].iloc[0]:.2f}), on the whole trajectory of {last['agreement'].iloc[1]:.1%} of points"
        )
    if unsure:
        run.reporter.say(f"assess    {unsure:.1%} of labels are unsure and take no part")
    if not coverage:
        run.reporter.say("assess    too few labels are sure for any interval")
        return
    said = ", ".join(f"{name} {share:.0%}" for name, share in coverage.items())
    run.reporter.say(
        f"assess    Intervals assume perfect reference labels; with {READER_ERROR:.0%} of labels wrong they would hold"
        f" the truth in: {said} of samples (simulated)"
    )


def labels_of(path: Path) -> str:
    """Return the text of a file of labels.

    Raises
    ------
    SampleError
        If it is no readable text.
    """
    try:
        if path.stat().st_size > LABELS_MOST_BYTES:
            raise SampleError(f"{path} is larger than any table of labels", fix="fill labels_template.csv")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SampleError(f"{path} cannot be read ({type(error).__name__})", fix="give a CSV in UTF-8") from error


def true_labels(points: pd.DataFrame, years: tuple[int, ...], world: Archive) -> np.ndarray:
    """Return what the sampled pixels of a simulated world truly are, uint8 (point, year).

    Raises
    ------
    ConfigError
        If a point lies outside the world, or a year is not of it.
    """
    places = points[["zone", "row", "col"]].rename(columns={"row": "grid_row", "col": "grid_col"})
    frame = pd.concat([places.assign(year=year) for year in years], ignore_index=True)
    truth = add_truth(frame, world)["truth"].to_numpy(bool).reshape(len(years), len(points)).T
    return np.where(truth, np.uint8(MANGROVE), np.uint8(OTHER))


@click.group("assess")
def command() -> None:
    """Accuracy and area that stand up to review, from points an interpreter looked at.

    design draws them, read takes the labels back, truth reads a simulated world itself.
    """


@command.command("design")
@run_options
@click.option("--no-chips", is_flag=True, help="Draw no picture of every point in all years.")
def design(options: Options, no_chips: bool) -> None:
    """Draw points in strata of mapped change: GeoParquet, GeoJSON, KML, CSV, chips, a table to fill."""
    with open_run(options) as run:
        found = design_assessment(run, chips=not no_chips)
        run.reporter.result(found, f"sample in {run.folder / 'assess'}: fill labels_template.csv")


@command.command("read")
@run_options
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    multiple=True,
    required=True,
    help="labels_template.csv, filled; once more for that of a second reader.",
)
def read(options: Options, labels: tuple[Path, ...]) -> None:
    """Turn labels into accuracy and areas with intervals."""
    if len(labels) > 2:
        raise click.UsageError("give --labels once, or twice with those of a second reader")
    texts = [labels_of(path) for path in labels]
    with open_run(options) as run:
        drawn = read_design(run)
        years, points, ids = drawn.years, drawn.points, list(drawn.points["id"])
        first = read_labels(texts[0], ids, years, what=labels[0].name)
        second = None
        if len(texts) > 1:
            again = list(points.loc[points["reader2"], "id"])
            second = read_labels(texts[1], again, years, what=labels[1].name, known=ids)
        run.reporter.result(assess_labels(run, drawn, first, second), f"tables in {run.folder / 'assess'}")


@command.command("truth")
@run_options
@click.option(
    "--world",
    type=click.Path(path_type=Path),
    required=True,
    help="Of a world of `mangroves simulate`, its folder: its truth is the interpreter.",
)
def truth(options: Options, world: Path) -> None:
    """Label the sample by the truth of a simulated world, and go on as read does."""
    archive = read_archive(world)
    with open_run(options) as run:
        drawn = read_design(run)
        labels = true_labels(drawn.points, drawn.years, archive)
        text = write_labels(list(drawn.points["id"]), drawn.years, labels)
        write_text(run.folder / "assess" / "labels_truth.csv", text)
        run.reporter.result(assess_labels(run, drawn, labels, None), f"tables in {run.folder / 'assess'}")
