"""What changed between two years, and how many hectares of what there are, by region and by zone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from engine.area import Area, Region, read_polygons, region_codes, wrap
from engine.errors import ConfigError
from engine.files import write_text
from engine.grid import Tile, pixel_hectares
from engine.kernels.compare import tally, transitions
from engine.legend import (
    GAIN,
    GAINED,
    LOSS,
    LOST,
    NOT_OBSERVED,
    OUTSIDE_AREA,
    PROVISIONAL_GAIN,
    PROVISIONAL_LOSS,
    STABLE_MANGROVE,
    STABLE_OTHER,
    TRANSITIONS,
    Entry,
)
from engine.trust import Trust

AREA_METHOD: Final = "pixel count x pixel area on the WGS84 ellipsoid, not error-adjusted"
"""Stated in every table of areas: a mapped area is biased by the map's own errors (Olofsson 2014)."""


def year_pairs(years: Sequence[int], pairs: Sequence[tuple[int, int]] | None = None) -> list[tuple[int, int]]:
    """Return which years to compare: those asked for, or every year with the one before, then first with last.

    Raises
    ------
    ConfigError
        If a pair names a year outside the run, or does not go forward in time.

    Examples
    --------
    >>> year_pairs([2000, 2010, 2020])
    [(2000, 2010), (2010, 2020), (2000, 2020)]
    >>> year_pairs([2020])
    []
    """
    if pairs is None:
        steps = list(pairwise(years))
        return [*steps, (years[0], years[-1])] if len(steps) > 1 else steps
    for first, last in pairs:
        if first >= last or first not in years or last not in years:
            raise ConfigError(
                f"change.pairs: [{first}, {last}] is no pair of earlier and later year of the run",
                fix="years are " + ", ".join(map(str, years)),
            )
    return list(pairs)


def compare_tile(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Turn the classes of two years of a tile, uint8 (y, x), into its transitions, uint8 (y, x).

    What was not observed is not observed: never loss, never gain. (In a history that is a pixel no year observed.) See
    ``engine.kernels.compare.transitions`` for all rules and for what is raised.
    """
    return transitions(before, after)


def read_zones(path: str, by: str, trust: Trust) -> Area:
    """Read the polygons of ``change.zones``, named by column ``by``; of two that overlap the first by name counts.

    Raises
    ------
    ConfigError
        If the file holds no polygons or no such column.
    TrustError
        If it lies outside the allowed folders.
    """
    parts = read_polygons(trust.path(path, what="change.zones"), name_field=by, name="", what="change.zones")
    return Area(tuple(Region(name, wrap(geometry)) for name, geometry in parts.items()))


def mark_provisional(codes: np.ndarray, loss_year: np.ndarray, gain_year: np.ndarray, *, after: int) -> np.ndarray:
    """Return transitions, uint8 (y, x), in which loss and gain dated later than a year are provisional.

    Parameters
    ----------
    codes : ndarray of uint8, shape (y, x)
        Transitions.
    loss_year, gain_year : ndarray of uint16, shape (y, x)
        Of a history.
    after : int

    Examples
    --------
    >>> codes, lost = np.array([3, 3, 2], dtype="uint8"), np.array([2018, 2015, 2018], dtype="uint16")
    >>> mark_provisional(codes, lost, np.zeros(3, "uint16"), after=2015)
    array([7, 3, 2], dtype=uint8)
    """
    late_loss, late_gain = (codes == LOSS) & (loss_year > after), (codes == GAIN) & (gain_year > after)
    return np.select([late_loss, late_gain], [np.uint8(PROVISIONAL_LOSS), np.uint8(PROVISIONAL_GAIN)], codes)


def sieved_transitions(codes: np.ndarray, large: np.ndarray) -> np.ndarray:
    """Return transitions, uint8 (y, x), in which what changed in small patches is as it was before.

    Parameters
    ----------
    codes : ndarray of uint8, shape (y, x)
        Transitions.
    large : ndarray of uint8, shape (y, x)
        Of a history: bit 1 where lost in a patch that counts, bit 2 where gained in one. Patches are of all years
        together, as a change of one year alone may be the rim of one that goes on.

    Examples
    --------
    >>> sieved_transitions(np.array([3, 3, 4, 4], dtype="uint8"), np.array([1, 0, 2, 1], dtype="uint8"))
    array([3, 2, 4, 1], dtype=uint8)
    """
    small_loss = np.isin(codes, (LOSS, PROVISIONAL_LOSS)) & (large & LOST == 0)
    small_gain = np.isin(codes, (GAIN, PROVISIONAL_GAIN)) & (large & GAINED == 0)
    return np.select([small_loss, small_gain], [np.uint8(STABLE_MANGROVE), np.uint8(STABLE_OTHER)], codes)


def zone_codes(zones: Area, tile: Tile, regions: np.ndarray) -> np.ndarray:
    """Say which zone owns each pixel of a tile, inside the mapped area only.

    Parameters
    ----------
    zones : Area
        Of ``read_zones``.
    tile : Tile
    regions : ndarray of uint16, shape (y, x)
        Region codes of the tile, 0 outside the area.

    Returns
    -------
    ndarray of uint16, shape (y, x)
        0 outside the zones or the area, otherwise 1 + index into ``zones.regions``.
    """
    return np.where(regions > 0, region_codes(zones, tile), np.uint16(0))


def area_table(
    codes: np.ndarray, zones: np.ndarray, tile: Tile, area: Area, *, legend: tuple[Entry, ...] = TRANSITIONS
) -> pd.DataFrame:
    """Count one tile's pixels and hectares of every code in every region or zone.

    Parameters
    ----------
    codes : ndarray of uint8, shape (y, x)
        Transitions, or classes with ``legend=CLASSES``.
    zones : ndarray of uint16, shape (y, x)
        Region or zone codes: 0 outside, otherwise 1 + index into ``area.regions``.
    tile : Tile
    area : Area
        Regions, or zones, that ``zones`` counts in.
    legend : tuple of Entry
        What the codes mean.

    Returns
    -------
    DataFrame
        Columns ``where`` (name of the region or zone), ``code``, ``name``, ``pixels`` and ``hectares``
        (``AREA_METHOD``); a row for each of them and every code but *outside the area*, also where there is none.
    """
    zones = np.where(codes == OUTSIDE_AREA, np.uint16(0), zones)
    pixels, hectares = tally(codes, zones, pixel_hectares(tile), zone_count=len(area.regions))
    entries = [entry for entry in legend if entry.code != OUTSIDE_AREA]
    listed = [entry.code for entry in entries]
    if pixels[:, listed].sum() != pixels.sum():
        foreign = sorted(set(np.flatnonzero(pixels.sum(axis=0)).tolist()) - set(listed))
        raise ValueError(f"codes {foreign} are not in the legend; give the legend of these codes")
    return pd.DataFrame(
        {
            "where": np.repeat(np.array([region.name for region in area.regions], dtype=object), len(entries)),
            "code": np.tile(np.array(listed, dtype="uint8"), len(area.regions)),
            "name": [entry.name for entry in entries] * len(area.regions),
            "pixels": pixels[:, listed].ravel(),
            "hectares": hectares[:, listed].ravel(),
        }
    )


def records(tables: Sequence[pd.DataFrame]) -> list[dict[str, Any]]:
    """Return the rows of tables of areas as plain values, for JSON."""
    plain = {"code": int, "pixels": int, "hectares": float, "least_ha": float}
    return [
        {str(name): plain.get(str(name), str)(value) for name, value in row.items()}
        for table in tables
        for row in table.to_dict("records")
    ]


def merge_tables(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Sum the tables of tiles; rows are told apart by every column but pixels and hectares.

    The sum is exactly rounded, so it does not depend on the order in which tiles finish.
    """
    joined = pd.concat(list(tables), ignore_index=True)
    keys = [column for column in joined.columns if column not in ("pixels", "hectares")]
    grouped = joined.groupby(keys, sort=False, observed=True, as_index=False)
    return grouped.agg(pixels=("pixels", "sum"), hectares=("hectares", math.fsum))


def change_table(table: pd.DataFrame) -> pd.DataFrame:
    """Reduce a table of transitions to mangrove before and after, loss, gain and net, in hectares.

    Returns
    -------
    DataFrame
        One row per region or zone (and pair of years, where the table has such columns). ``before_ha`` and ``after_ha``
        leave out what was not observed, so ``after - before = net = gain - loss``; provisional loss and gain, where the
        table knows such, are in columns of their own and in ``net_ha``.
    """
    keys = [column for column in table.columns if column not in ("code", "name", "pixels", "hectares")]
    wide = table.pivot_table(index=keys, columns="code", values="hectares", aggfunc="sum")
    stable, loss, gain = wide[STABLE_MANGROVE], wide[LOSS], wide[GAIN]
    columns = {"before_ha": stable + loss, "after_ha": stable + gain, "loss_ha": loss, "gain_ha": gain}
    if PROVISIONAL_LOSS in wide:
        late = {"loss": wide[PROVISIONAL_LOSS], "gain": wide[PROVISIONAL_GAIN]}
        columns["before_ha"] += late["loss"]
        columns["after_ha"] += late["gain"]
        columns |= {f"provisional_{change}_ha": hectares for change, hectares in late.items()}
    columns |= {"net_ha": columns["after_ha"] - columns["before_ha"], "not_observed_ha": wide[NOT_OBSERVED]}
    # The pivot sorts; rows stay in the order of the table.
    return table[keys].drop_duplicates().merge(pd.DataFrame(columns).reset_index(), on=keys)


def write_table(
    path: Path | str,
    table: pd.DataFrame,
    *,
    notice: str = "",
    method: str = AREA_METHOD,
    float_format: str = "%.4f",
) -> None:
    """Write a table as CSV that states the method of its areas, and the notice of the run, in every row."""
    stated = table.assign(method=method)
    if notice:
        stated = stated.assign(notice=notice)
    write_text(path, stated.to_csv(index=False, float_format=float_format, lineterminator="\n"))
