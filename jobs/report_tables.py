"""The tables of ``mangroves report`` that no other command writes: looks, losses, requests, and what all of it cost."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import batched, chain
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from engine.errors import StoreError
from engine.files import cannot_read, write_text
from engine.legend import GAIN, LOSS, PROVISIONAL_GAIN, PROVISIONAL_LOSS, STABLE_MANGROVE, STABLE_OTHER
from engine.places import Place, each, entries
from engine.reads import read_reads
from engine.record import ITEMS
from engine.store import read_marker

MOST_BYTES: Final = 2**28
"""Of a table that is read."""

MOST_ROWS_READ: Final = 20_000_000
"""Of a table; all scenes that Landsat has of the tropics are half as many."""

REPAIR: Final = "run again the command that wrote it; `mangroves verify` names what is damaged"
"""What to do about a damaged file of a run."""

_AT_ONCE: Final = 256
"""Markers that are held; what is kept of them are sums."""

_BINS: Final = 16
_PAIR: Final = re.compile(r"\d{4}-\d{4}")
_FROM_TO: Final = {
    STABLE_MANGROVE: ("mangrove", "mangrove"),
    LOSS: ("mangrove", "other"),
    GAIN: ("other", "mangrove"),
    STABLE_OTHER: ("other", "other"),
}
_PROVISIONAL: Final = {LOSS: PROVISIONAL_LOSS, GAIN: PROVISIONAL_GAIN}


def read_table(path: Path, columns: Sequence[str], numbers: Sequence[str] = ()) -> pd.DataFrame | None:
    """Return a table that a command wrote, CSV or Parquet; None where there is none.

    Parameters
    ----------
    path : Path
    columns : sequence of str
        That it must have.
    numbers : sequence of str
        Those of them that hold numbers.

    Raises
    ------
    StoreError
        If it is damaged.
    """
    try:
        if path.suffix == ".parquet":
            table = _read_parquet(path, columns)
        elif path.stat().st_size > MOST_BYTES:
            raise _too_large(path)
        else:  # a place may be called NA, or 12
            words = {name: str for name in columns if name not in numbers}
            table = pd.read_csv(path, dtype=words, keep_default_na=False, na_values=dict.fromkeys(numbers, ""))
        for name in numbers:
            table[name] = pd.to_numeric(table[name]).astype(float)
        return table.assign(**{name: table[name] for name in columns})
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise StoreError(f"{path} is damaged ({type(error).__name__})", fix=REPAIR) from error
    except OSError as error:
        raise cannot_read(path, error) from error


def _too_large(path: Path) -> StoreError:
    return StoreError(f"{path} is larger than a report reads", fix="keep it, and take smaller areas for a report each")


def _read_parquet(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Return columns of a Parquet file; a text that stands for a million rows is held once."""
    about = pq.read_metadata(path)
    groups = [about.row_group(at) for at in range(about.num_row_groups)]
    chunks = [group.column(at) for group in groups for at in range(group.num_columns)]
    wanted = sum(one.total_uncompressed_size for one in chunks if one.path_in_schema.split(".")[0] in columns)
    if about.num_rows > MOST_ROWS_READ or wanted > MOST_BYTES:
        raise _too_large(path)
    texts = [field.name for field in pq.read_schema(path) if pa.types.is_string(field.type) and field.name in columns]
    table = pq.read_table(path, columns=list(columns), read_dictionary=texts).to_pandas(ignore_metadata=True)
    return table.astype(dict.fromkeys(texts, object))


def make_tables(record: Mapping[str, Any], folder: Path, outputs: Place) -> dict[str, pd.DataFrame]:
    """Return the tables of a run by name; those of what it has not done are empty.

    Raises
    ------
    StoreError
        If a table or marker of the run is damaged.
    """
    years = read_years(folder)
    try:
        told = _told(outputs)
        lost = lost_scenes(told.lost, record)
        return {
            "scenes": scenes_table(folder),
            "refused": _refused(record["refused"]),
            "looks": looks_by_year(years),
            "looks_histogram": looks_histogram(years),
            "lost": lost,
            "lost_causes": _lost_causes(lost),
            "lost_tile_years": _lost_tile_years(lost, told.lost_px),
            "requests": _requests(told.requests),
            "faults": _faults(told.faults),
            "steps": _steps(record["stages"]),
            "stages": _stages(told.stages),
            "change_matrix": change_matrix(folder),
        }
    except OSError as error:
        raise cannot_read(outputs, error) from error
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        fix = "run `mangroves verify`, which names what is damaged"
        raise StoreError(f"{outputs} holds a damaged marker or record ({type(error).__name__})", fix=fix) from error


def finished_stores(place: Place) -> Iterator[Place]:
    """Yield the stores of tiles and years below a place, in order of their names."""
    folders, files = entries(place)
    yield from (path for path in files if path.suffix == ".parquet" and not path.name.startswith("."))
    for path in folders:
        if path.suffix != ".zarr":
            yield from finished_stores(path)
        elif not path.stem.endswith("-looks"):  # beside a cube that has a marker of its own
            yield path


@dataclass
class _Told:
    """What markers and ledgers of a run tell, added up while they are read."""

    lost: list[dict[str, Any]] = field(default_factory=list)
    lost_px: dict[tuple[str, int], tuple[int, int]] = field(default_factory=dict)
    """Tile and year that lost anything -> pixels with fewer looks, most looks lost of one."""

    stages: defaultdict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(lambda: [0.0, 0, 0]))
    """Step and stage -> seconds, bytes, tasks."""

    requests: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    faults: defaultdict[tuple[str, str], list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))
    """Asset and kind of fault -> requests, files."""

    def add_marker(self, step: str, marker: Mapping[str, Any]) -> None:
        for stage, told in marker.get("stages", {}).items():
            of = self.stages[step, str(stage)]
            of[0] += float(told["seconds"])
            of[1] += int(told["bytes"])
            of[2] += 1
        if step == "cube":
            key = marker["tile"], marker["year"]
            self.lost += ({"tile": key[0], "year": key[1], **loss} for loss in marker["lost"])
            found = {int(count): int(px) for count, px in marker.get("lost_px", {}).items()}
            if marker["lost"] or found:
                self.lost_px[key] = sum(found.values()), max(found, default=0)

    def add_ledger(self, ledger: Mapping[str, Any]) -> None:
        for assets in ledger["scenes"].values():
            for asset, file in assets.items():
                faults = {str(fault): int(count) for fault, count in file.get("faults", {}).items()}
                told = self.requests[str(asset)]
                told["files"] += 1
                told["failed_requests"] += sum(faults.values())
                for name in ("ranges", "bytes", "retries"):
                    told[name] += int(file.get(name, 0))
                for fault, count in faults.items():
                    of = self.faults[str(asset), fault]
                    of[0] += count
                    of[1] += 1


def _told(outputs: Place) -> _Told:
    told = _Told()
    pairs = [pair for pair in entries(outputs / "change")[0] if _PAIR.fullmatch(pair.name)]
    steps = {
        "cube": [outputs / "cube"],
        "sample": [outputs / "sample"],
        "classify": [outputs / "maps"],
        "history": [outputs / "change" / "history"],
        "change": pairs,
    }
    for step, places in steps.items():
        for stores in batched(chain.from_iterable(map(finished_stores, places)), _AT_ONCE):
            for marker in each(read_marker, stores, within=outputs):
                if marker is not None:
                    told.add_marker(step, marker)
            for ledger in each(read_reads, stores, within=outputs) if step == "cube" else ():
                if ledger is not None:
                    told.add_ledger(ledger)
    return told


def read_years(folder: Path) -> pd.DataFrame:
    """Return ``years.csv`` of a run, empty where there is none."""
    numbers = ("year", "looks", "mean_clear_looks", "observed_share", "poorly_observed_share")
    found = read_table(folder / "years.csv", ("tile", *numbers, "sensors", "poor"), numbers)
    return pd.DataFrame(columns=["tile", *numbers, "sensors", "poor"]) if found is None else found


def scenes_table(folder: Path) -> pd.DataFrame:
    """Return the scenes of the frozen list by year and platform."""
    found = read_table(folder / ITEMS, ("platform", "datetime", "cloud_cover"))
    if found is None or found.empty:
        return pd.DataFrame(columns=["year", "platform", "scenes", "median_cloud_pct"])
    year = pd.to_datetime(found["datetime"], utc=True).dt.year
    by = found.assign(year=year, cloud=pd.to_numeric(found["cloud_cover"])).groupby(["year", "platform"])
    table = by.agg(scenes=("platform", "size"), median_cloud_pct=("cloud", "median"))
    return table.round({"median_cloud_pct": 2}).reset_index()


def _refused(refused: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    by = Counter(str(one["reason"]) for one in refused)
    first: dict[str, str] = {}
    for one in refused:
        first.setdefault(str(one["reason"]), str(one["scene"]))
    rows = [(reason, count, first[reason]) for reason, count in by.most_common()]
    return pd.DataFrame(rows, columns=["reason", "scenes", "first"])


def looks_by_year(years: pd.DataFrame) -> pd.DataFrame:
    """Return looks and clear looks of each year, over its tile-years."""
    columns = [
        *("year", "tile_years", "looks_median", "clear_least", "clear_p25", "clear_median", "clear_p75", "clear_most"),
        *("observed_share", "poor"),
    ]
    rows = []
    for year in np.unique(years["year"].to_numpy(float)):
        some = years[years["year"] == year]
        clear = some["mean_clear_looks"].to_numpy(float)
        limits = np.quantile(clear, [0, 0.25, 0.5, 0.75, 1]).round(4)
        poor = int((some["poor"].astype(str) == "True").sum())
        share = round(float(some["observed_share"].mean()), 4)
        rows.append((int(year), len(some), float(some["looks"].median()), *limits, share, poor))
    return pd.DataFrame(rows, columns=columns)


def looks_histogram(years: pd.DataFrame) -> pd.DataFrame:
    """Return how many tile-years have how many clear looks of a pixel in the mean, by sensors."""
    columns = ["sensors", "clear_from", "clear_to", "tile_years"]
    if years.empty:
        return pd.DataFrame(columns=columns)
    clear = years["mean_clear_looks"].to_numpy(float)
    step = max(1, math.ceil((clear.max() + 1e-9) / _BINS))
    bins = np.floor(clear / step).astype(int) * step
    table = pd.DataFrame({"sensors": years["sensors"].astype(str), "clear_from": bins})
    found = table.groupby(["sensors", "clear_from"]).size().rename("tile_years").reset_index()
    return found.assign(clear_to=found["clear_from"] + step)[columns]


def lost_scenes(told: Sequence[Mapping[str, Any]], record: Mapping[str, Any]) -> pd.DataFrame:
    """Return the scenes that finished cubes went without, and those that the record alone knows of."""
    columns = ["tile", "year", "scene", "asset", "kind", "cause", "attempts", "pixels"]
    rows = [dict(loss) for loss in told]
    known = {(row["tile"], row["year"], row["scene"]) for row in rows}
    rows += [dict(loss) for loss in record["lost"] if (loss["tile"], loss["year"], loss["scene"]) not in known]
    return pd.DataFrame(rows, columns=columns)


def _lost_causes(lost: pd.DataFrame) -> pd.DataFrame:
    by = lost.fillna({"asset": "", "kind": ""}).groupby(["asset", "kind", "cause"], dropna=False)
    table = by.agg(tile_years=("tile", "size"), scenes=("scene", "nunique"), pixels=("pixels", "sum")).reset_index()
    return table.sort_values(["tile_years", "asset", "cause"], ascending=[False, True, True], ignore_index=True)


def _lost_tile_years(lost: pd.DataFrame, lost_px: Mapping[tuple[str, int], tuple[int, int]]) -> pd.DataFrame:
    """Return scenes lost of each tile-year, and the pixels that have fewer looks: ``lost_count`` of its cube."""
    counts = Counter(zip(lost["tile"], lost["year"], strict=True))
    rows = [(*key, count, *lost_px.get(key, (None, None))) for key, count in counts.items()]
    rows.sort(key=lambda row: (-(row[3] or 0), row[0], row[1]))
    return pd.DataFrame(rows, columns=["tile", "year", "scenes_lost", "pixels_with_fewer_looks", "most_looks_lost"])


def _requests(sums: Mapping[str, Counter[str]]) -> pd.DataFrame:
    """Return what was asked of the files of each asset."""
    names = ("files", "ranges", "bytes", "retries", "failed_requests")
    rows = [(asset, *(told[name] for name in names)) for asset, told in sorted(sums.items())]
    return pd.DataFrame(rows, columns=["asset", *names])


def _faults(found: Mapping[tuple[str, str], Sequence[int]]) -> pd.DataFrame:
    """Return requests that failed by asset and kind of fault; most were well when sent again."""
    rows = [(*key, *counts) for key, counts in sorted(found.items(), key=lambda one: -one[1][0])]
    return pd.DataFrame(rows, columns=["asset", "fault", "requests", "files"])


def _steps(stages: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    rows = [
        (name, float(one["seconds"]), int(one["runs"]), ", ".join(f"{k} {v}" for k, v in one["counts"].items()))
        for name, one in stages.items()
    ]
    return pd.DataFrame(rows, columns=["step", "seconds", "commands", "last_command"])


def _stages(found: Mapping[tuple[str, str], Sequence[float]]) -> pd.DataFrame:
    """Return seconds and bytes of what tasks did, by step."""
    order = list(dict.fromkeys(step for step, _ in found))
    ordered = sorted(found.items(), key=lambda one: (order.index(one[0][0]), one[0][1]))
    rows = [(*key, round(of[0], 3), int(of[1]), int(of[2])) for key, of in ordered]
    return pd.DataFrame(rows, columns=["step", "stage", "seconds", "bytes", "tasks"])


def change_matrix(folder: Path) -> pd.DataFrame:
    """Return hectares of each class in one year by their class in the next, all regions together.

    Of changes of every size; those that the last years may yet turn back are ``provisional``.
    """
    columns = ["first", "last", "from", "to", "hectares", "provisional_ha"]
    numbers = ("code", "least_ha", "first", "last", "hectares")
    found = read_table(folder / "transitions.csv", ("by", *numbers), numbers)
    if found is None:
        return pd.DataFrame(columns=columns)
    kinds = found["by"].unique()
    of = found[(found["least_ha"] == 0) & (found["by"] == ("total" if "total" in kinds else "region"))]
    rows = []
    for first, last in sorted(set(zip(of["first"], of["last"], strict=True))):
        some = of[(of["first"] == first) & (of["last"] == last)]
        sums = some.groupby("code")["hectares"].sum()
        for code, (before, after) in _FROM_TO.items():
            provisional = sums.get(_PROVISIONAL.get(code, -1), 0.0)
            rows.append((int(first), int(last), before, after, sums.get(code, 0.0) + provisional, provisional))
    return pd.DataFrame(rows, columns=columns).round(4)


def write_tables(folder: Path, tables: Mapping[str, pd.DataFrame], notice: str) -> None:
    """Write tables as CSV that say the notice of the run in every row; one without rows is not there."""
    for name, table in tables.items():
        path = folder / f"{name}.csv"
        if table.empty:
            path.unlink(missing_ok=True)
        else:
            noted = table.assign(notice=notice) if notice else table
            write_text(path, noted.to_csv(index=False, lineterminator="\n"))
