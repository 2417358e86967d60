"""How much mangrove there is in every year, what was lost and gained between years, and at what rates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import pandas as pd

from engine.area import Area
from engine.grid import Tile, pixel_hectares
from engine.kernels.compare import tally, transitions
from engine.legend import GAIN, GAINED, LOSS, LOST, MANGROVE, NOT_OBSERVED, OUTSIDE_AREA

MAPPED: Final = "mapped area, not error-adjusted: pixel count x pixel area on the WGS84 ellipsoid"
"""How the hectares of a series come about; a mapped area has the errors of the map in it (Olofsson 2014)."""

ESTIMATED: Final = f"{MAPPED}; estimated_ha to high_ha: error-adjusted from reference labels, 95 % interval"
"""The same of a row that holds an estimate."""

WHOLE: Final = ("total", "whole area")
"""``by`` and ``where`` of all regions together."""

COUNTS: Final = ("by", "where", "year", "counted", "pixels", "hectares")
"""Columns of ``tally_years``."""

_COUNTED: Final = ("mangrove", "not_observed", "loss", "gain", "loss_sieved", "gain_sieved")
_SIEVED: Final = 100  # added to the code of a change in a large patch
Zoning = tuple[str, np.ndarray, Area]
"""What to count by (``region`` or ``zone``), codes uint16 (y, x): 0 outside, otherwise 1 + index, and what they are
of."""


def tally_years(
    years: Sequence[int], classes: Iterable[np.ndarray], large: np.ndarray, zonings: Sequence[Zoning], tile: Tile
) -> pd.DataFrame:
    """Count one tile's mangrove in every year, and the loss and gain since the year before.

    Parameters
    ----------
    years : sequence of int
        Ascending.
    classes : iterable of ndarray of uint8, shape (y, x)
        Class codes of each year by all years together; two years are held at a time.
    large : ndarray of uint8, shape (y, x)
        Bit 1 where a loss is in a patch of the least area or more, bit 2 where a gain is.
    zonings : sequence of Zoning
    tile : Tile

    Returns
    -------
    DataFrame
        ``by``, ``where``, ``year``, ``counted`` (``mangrove``, ``not_observed``, and since the year before ``loss``,
        ``gain``, ``loss_sieved`` and ``gain_sieved``), ``pixels`` and ``hectares``; rows with pixels only.
    """
    hectares_of = pixel_hectares(tile)
    rows = []
    before = None
    for year, current in zip(years, classes, strict=True):
        layers: list[tuple[np.ndarray, dict[str, tuple[int, ...]]]] = [
            (current, {"mangrove": (MANGROVE,), "not_observed": (NOT_OBSERVED,)})
        ]
        if before is not None:
            moved = transitions(before, current)
            for code, bit in ((LOSS, LOST), (GAIN, GAINED)):
                moved[(moved == code) & (large & bit > 0)] = code + _SIEVED
            lost, gained = LOSS + _SIEVED, GAIN + _SIEVED
            sieved = {"loss_sieved": (lost,), "gain_sieved": (gained,)}
            layers.append((moved, {"loss": (LOSS, lost), "gain": (GAIN, gained), **sieved}))
        for codes, wanted in layers:
            listed = np.zeros(256, dtype=bool)
            listed[[code for some in wanted.values() for code in some]] = True
            chosen = listed[codes] & (current != OUTSIDE_AREA)
            for by, zones, area in zonings:
                inside = np.where(chosen, zones, np.uint16(0))
                pixels, hectares = tally(codes, inside, hectares_of, zone_count=len(area.regions))
                for counted, some in wanted.items():
                    number, sizes = pixels[:, some].sum(axis=1), hectares[:, some].sum(axis=1)
                    rows += [
                        (by, area.regions[zone].name, year, counted, int(number[zone]), float(sizes[zone]))
                        for zone in np.flatnonzero(number).tolist()
                    ]
        before = current
    return pd.DataFrame(rows, columns=list(COUNTS))


def annual_rate_pct(before_ha: float, after_ha: float, years: float) -> float:
    """Return the rate of change of an area by compound interest, per cent a year; nan from or to nothing.

    References
    ----------
    Puyravaud, J.-P. (2003), Standardizing the calculation of the annual rate of deforestation, Forest Ecology and
    Management 177, 593-596: r = ln(A2 / A1) / (t2 - t1).

    Examples
    --------
    >>> round(annual_rate_pct(1000.0, 980.0, 10), 4)
    -0.202
    """
    return 100 * math.log(after_ha / before_ha) / years if before_ha > 0 and after_ha > 0 else math.nan


def series_table(
    counted: pd.DataFrame,
    years: Sequence[int],
    places: Sequence[tuple[str, str]],
    *,
    recovery_years: int,
    estimates: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Lay out the series of the whole area and of every place.

    Parameters
    ----------
    counted : DataFrame
        Of all tiles, as ``tally_years`` counts them, no two rows of one place, year and count.
    years : sequence of int
        Ascending.
    places : sequence of (str, str)
        ``by`` and ``where`` of every region and zone, in the order wanted; regions do not overlap.
    recovery_years : int
        A change in the last ``recovery_years`` is provisional: it may yet turn back.
    estimates : DataFrame, optional
        Of ``assess.estimate_areas``, where areas were assessed: ``by``, ``where``, ``first``, ``last``, ``class``,
        ``estimated_ha``, ``low_ha``, ``high_ha``; of a year first is last.

    Returns
    -------
    DataFrame
        A row a place and year: ``by``, ``where``, ``year``; ``mangrove_ha`` and ``not_observed_ha``; since the year
        before, ``since``, the hectares ``loss_ha``, ``gain_ha``, ``net_ha`` and of patches of the least area or more
        ``loss_sieved_ha`` and ``gain_sieved_ha``, and in per cent a year ``annual_rate_pct`` (``annual_rate_pct()``),
        ``loss_pct_a_year`` and ``gain_pct_a_year`` of the mangrove before; ``provisional``; ``estimated_ha``,
        ``low_ha``, ``high_ha``, empty where nothing was assessed; ``method``.
    """
    index = pd.MultiIndex.from_tuples(
        [(by, where, year) for by, where in places for year in years], names=["by", "where", "year"]
    )
    wide = counted.pivot_table(index=index.names, columns="counted", values="hectares", aggfunc="sum")
    wide = wide.reindex(index=index, columns=list(_COUNTED)).fillna(0.0)
    whole = wide.loc[["region"]].groupby("year").agg(math.fsum)
    whole.index = pd.MultiIndex.from_tuples([(*WHOLE, year) for year in whole.index], names=index.names)
    table = pd.concat([whole, wide]).add_suffix("_ha").rename_axis(columns=None).reset_index()
    first = (table["year"] == years[0]).to_numpy()
    before = table["mangrove_ha"].shift().mask(first)
    table["since"] = table["year"].shift().mask(first).astype("Int64")
    table.loc[first, [f"{name}_ha" for name in _COUNTED[2:]]] = np.nan
    table["net_ha"] = table["gain_ha"] - table["loss_ha"]
    _add_rates(table, before, table["mangrove_ha"], table["year"] - table["since"])
    table["provisional"] = ~first & (years[-1] - table["year"] < recovery_years)
    names = ["estimated_ha", "low_ha", "high_ha"]
    if estimates is None:
        table = table.assign(**dict.fromkeys(names, np.nan))
    else:
        of_year = (estimates["class"] == "mangrove") & (estimates["first"] == estimates["last"])
        known = estimates[of_year].rename(columns={"first": "year"})[[*index.names, *names]]
        table = table.merge(known, how="left", on=index.names, validate="1:1")
    table["method"] = np.where(table["estimated_ha"].notna(), ESTIMATED, MAPPED)
    hectares = ["mangrove_ha", "not_observed_ha", "since", "loss_ha", "gain_ha", "net_ha"]
    rates = ["annual_rate_pct", "loss_pct_a_year", "gain_pct_a_year"]
    sieved = ["loss_sieved_ha", "gain_sieved_ha"]
    return table[[*index.names, *hectares, *sieved, *rates, "provisional", *names, "method"]]


def rates_table(series: pd.DataFrame) -> pd.DataFrame:
    """Sum a series up from its first year to the last that is not provisional, and to the last of all.

    Returns
    -------
    DataFrame
        A row a place and span: ``by``, ``where``, ``first``, ``last``, ``provisional``, ``first_ha``, ``last_ha``,
        ``net_ha``, gross ``loss_ha`` and ``gain_ha``, ``loss_sieved_ha``, ``gain_sieved_ha``, and rates as in the
        series. None where there is one year only.
    """
    rows = []
    sums = ["loss_ha", "gain_ha", "net_ha", "loss_sieved_ha", "gain_sieved_ha"]
    for (by, where), one in series.groupby(["by", "where"], sort=False):
        start = one.iloc[0]
        settled = one[~one["provisional"]]
        for end in dict.fromkeys((settled["year"].iloc[-1], one["year"].iloc[-1])):
            if end == start["year"]:
                continue
            upto = one[one["year"] <= end]
            last = upto.iloc[-1]
            rows.append(
                {
                    "by": by,
                    "where": where,
                    "first": int(start["year"]),
                    "last": int(end),
                    "provisional": bool(last["provisional"]),
                    "first_ha": start["mangrove_ha"],
                    "last_ha": last["mangrove_ha"],
                    **{name: math.fsum(upto[name].iloc[1:]) for name in sums},
                }
            )
    table = pd.DataFrame(rows, columns=["by", "where", "first", "last", "provisional", "first_ha", "last_ha", *sums])
    _add_rates(table, table["first_ha"], table["last_ha"], table["last"] - table["first"])
    return table.assign(method=MAPPED)


def _add_rates(table: pd.DataFrame, before: pd.Series, after: pd.Series, years: pd.Series) -> None:
    """Add the three rates to a table of ``loss_ha`` and ``gain_ha``, from hectares before and after some years."""
    spans = years.astype("Float64").to_numpy(dtype=float, na_value=np.nan)
    table["annual_rate_pct"] = [
        annual_rate_pct(was, now, span) for was, now, span in zip(before, after, spans.tolist(), strict=True)
    ]
    for name in ("loss", "gain"):
        table[f"{name}_pct_a_year"] = 100 * table[f"{name}_ha"] / before.where(before > 0) / spans
