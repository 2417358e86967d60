"""What `mangroves change` makes of the histories of all tiles: patches as polygons, and the area year by year."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from engine.area import Area
from engine.area_series import COUNTS, rates_table, series_table
from engine.change import AREA_METHOD, merge_tables, write_table
from engine.change_charts import series_chart
from engine.files import replacing, write_text
from engine.grid import Tile
from engine.history_tasks import TileHistory, patches_are_current, patches_task, series_task
from engine.patches import AREAS, join_tiles, write_joined
from engine.places import Place
from engine.store import fingerprint_of, is_current, marker_path, read_marker, write_marker
from jobs.context import Run


def write_patches(
    run: Run, histories: Sequence[TileHistory], *, zones: Area | None, least_px: int
) -> tuple[Place, pd.DataFrame]:
    """Write the patches of loss and of gain of all tiles as one GeoParquet, and their areas by region and zone.

    Parameters
    ----------
    run : Run
    histories : sequence of (Tile, Place)
        In any order.
    zones : Area or None
        Of ``change.zones``.
    least_px : int
        Pixels from which a patch is large, as the histories were made with.

    Returns
    -------
    Place
        ``change/patches.parquet``.
    DataFrame
        By place, direction and kind, pixels and hectares of all patches and of those that stay when sieved; as in
        ``patch_areas.csv``.
    """
    folder = run.outputs / "change" / "patches"
    done = _each_tile(run, "patches", histories, zones, (least_px,), patches_task, patches_are_current)
    parts = {tile: folder / f"{tile.id}.parquet" for tile in done}
    areas = _side_by_side([pd.DataFrame(marker["areas"], columns=["by", *AREAS]) for marker in done.values()])
    write_table(run.folder / "patch_areas.csv", areas, notice=run.params.notice)
    path = folder.with_name("patches.parquet")
    fingerprint = fingerprint_of([(tile.id, marker["fingerprint"]) for tile, marker in done.items()])
    if not is_current(path, fingerprint):
        marker_path(path).unlink(missing_ok=True)
        about = {"method": AREA_METHOD} | _notice(run)
        tables = join_tiles(parts, [region.name for region in run.area.regions], least_px)
        counts = write_joined(path, tables, about)
        write_marker(marker_path(path), {"fingerprint": fingerprint, "patches": counts.to_dict("records")}, [path])
    for output in (path, run.folder / "patch_areas.csv"):
        run.describe(output, parts.values())
    return path, areas


def write_series(
    run: Run, histories: Sequence[TileHistory], *, zones: Area | None, recovery_years: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write the area of mangrove year by year: ``series`` as CSV, Parquet and chart, and its sum as ``rates.csv``.

    Where ``mangroves assess`` estimated areas of this map, they stand beside what is mapped, with their intervals.

    Parameters
    ----------
    run : Run
    histories : sequence of (Tile, Place)
        In any order.
    zones : Area or None
        Of ``change.zones``.
    recovery_years : int
        A change in the last ``recovery_years`` is provisional.

    Returns
    -------
    series, rates : DataFrame
        Of ``area_series.series_table`` and ``rates_table``.
    """
    done = _each_tile(run, "series", histories, zones, (), series_task, is_current)
    years = sorted({year for marker in done.values() for year in marker["years"]})
    counted = merge_tables(pd.DataFrame(marker["counts"], columns=list(COUNTS)) for marker in done.values())
    places = [("region", region.name) for region in run.area.regions]
    places += [("zone", zone.name) for zone in zones.regions] if zones else []
    estimates = _estimates(run, histories, zones)
    series = series_table(counted, years, places, recovery_years=recovery_years, estimates=estimates)
    rates = rates_table(series)
    told, beside = run.folder / "series.csv", [run.folder / f"series.{ending}" for ending in ("parquet", "png")]
    texts = {
        run.folder / f"{name}.csv": table.assign(**_notice(run)).to_csv(
            index=False, float_format="%.4f", lineterminator="\n"
        )
        for name, table in (("series", series), ("rates", rates))
    }
    if not (all(path.is_file() for path in (told, *beside)) and told.read_text(encoding="utf-8") == texts[told]):
        with replacing(beside[0]) as temporary:
            series.assign(**_notice(run)).to_parquet(temporary, index=False)
        series_chart(beside[1], series, notice=run.params.notice)
    for path, text in texts.items():
        write_text(path, text)
    counts = [run.outputs / "change" / "series" / f"{tile.id}.json" for tile in done]
    for name in ("series.csv", "series.parquet", "series.png", "rates.csv"):
        run.describe(run.folder / name, counts)
    return series, rates


def fingerprint_of_map(run: Run, histories: Sequence[TileHistory], zones: Area | None) -> str:
    """Return a sha256 of what estimates of areas are of: the histories, and the regions and zones they are by."""
    ordered = sorted(histories)
    markers = run.each(lambda history: read_marker(history[1]) or {}, ordered)
    hashes = [(tile.id, marker.get("sha256")) for (tile, _), marker in zip(ordered, markers, strict=True)]
    return fingerprint_of("assessed-1", hashes, [region.name for region in run.area.regions], _outlines(zones))


def show_rates(run: Run, rates: pd.DataFrame) -> None:
    """Print, of the whole area and of every place, area, gross loss and gain, and rates."""
    hectares = ("first_ha", "last_ha", "net_ha", "loss_ha", "gain_ha")
    per_cent = ("annual_rate_pct", "loss_pct_a_year", "gain_pct_a_year")
    run.reporter.table(
        "Mangrove from the first year to the last, hectares (mapped, not error-adjusted), rates in per cent a year",
        ("years", "where", "before", "after", "net", "loss", "gain", "rate", "loss rate", "gain rate"),
        (
            (
                f"{row['first']}-{row['last']}" + (" provisional" if row["provisional"] else ""),
                row["where"],
                *(f"{row[name]:,.1f}" for name in hectares),
                *(f"{row[name]:.3f}" for name in per_cent),
            )
            for row in rates.to_dict("records")
        ),
    )


def _estimates(run: Run, histories: Sequence[TileHistory], zones: Area | None) -> pd.DataFrame | None:
    """Return the areas that were estimated of this map; those of another are left out, and that is said."""
    assessed = run.folder / "assess" / "areas.parquet"
    if not assessed.is_file():
        return None
    if not is_current(assessed, fingerprint_of_map(run, histories, zones)):
        run.reporter.say(
            f"series    {assessed} is of another map or other zones, left out; run `mangroves assess design` again"
        )
        return None
    return pd.read_parquet(assessed)


def _each_tile(
    run: Run,
    stage: str,
    histories: Sequence[TileHistory],
    zones: Area | None,
    settings: tuple[Any, ...],
    task: Callable[..., Any],
    ready: Callable[[Place, str], bool],
) -> dict[Tile, dict[str, Any]]:
    """Run a task on the histories it has not seen; return the markers of all tiles, in order."""
    suffix = {"patches": ".parquet", "series": ".json"}[stage]
    of_zones = _outlines(zones)

    def find(history: TileHistory) -> tuple[tuple[Any, ...], bool]:
        tile, store = history
        output = run.outputs / "change" / stage / f"{tile.id}{suffix}"
        sha256 = (read_marker(store) or {}).get("sha256")
        fingerprint = fingerprint_of(f"{stage}-1", sha256, settings, of_zones)
        call = (store, tile, run.area, zones, *settings, output, fingerprint)
        return call, ready(output, fingerprint)

    found = run.each(find, sorted(histories))
    todo = [call for call, current in found if not current]
    run.say_skipped(stage, len(found), len(todo))
    with run.record.stage(stage) as counts:
        for _ in run.tasks(task, todo, len(todo), stage, shared=(zones,)):
            pass
        counts.update(done=len(todo), skipped=len(found) - len(todo))
    markers = run.each(read_marker, [call[-2] for call, _ in found])
    return {call[1]: marker for (call, _), marker in zip(found, markers, strict=True) if marker}


def _side_by_side(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Sum the tables of tiles, and put what stays when sieved beside the whole."""
    merged = merge_tables(tables)
    keys = ["by", "where", "direction", "code", "name"]
    every, large = (merged[merged["patches"] == which].drop(columns="patches") for which in ("all", "large"))
    wide = every.merge(large, how="left", on=keys, suffixes=("", "_sieved"))
    return wide.fillna({"pixels_sieved": 0, "hectares_sieved": 0.0}).astype({"pixels_sieved": "int64"})


def _outlines(zones: Area | None) -> list[tuple[str, str]] | None:
    return [(zone.name, zone.geometry.wkb_hex) for zone in zones.regions] if zones else None


def _notice(run: Run) -> dict[str, str]:
    return {"notice": run.params.notice} if run.params.notice else {}
