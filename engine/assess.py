"""How far a map of change is right, and how many hectares there truly are: from a sample that someone looked at.

Pixels are drawn in strata of what the map says happened (``engine.kernels.design``). An interpreter, who does not see
the map, says of each pixel and year whether it is mangrove: one sample serves all years, and their changes. From that
come areas with 95 % intervals and the accuracy of the map.

References
----------
Olofsson et al. 2013, doi 10.1016/j.rse.2012.10.031; 2014, doi 10.1016/j.rse.2014.02.015; Stehman 2014,
doi 10.1080/01431161.2014.930207, as strata are no classes of the map. Intervals: ``kernels.accuracy.share_interval``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from itertools import pairwise
from typing import Any, Final, NamedTuple
from xml.sax.saxutils import escape

import geopandas as gpd
import numpy as np
import pandas as pd

from engine.errors import SampleError
from engine.grid import Tile, lonlat_of
from engine.kernels.accuracy import (
    Estimate,
    Limits,
    assess_sample,
    difference_interval,
    estimate_share,
    fraction_interval,
    interval_coverage,
    share_interval,
)
from engine.kernels.compare import tally, transitions
from engine.kernels.design import LARGE, MAPPED_LOSS, STRATA, allocate
from engine.kernels.draw import pixel_hash, smallest
from engine.legend import GAIN, LOSS, MANGROVE, NOT_OBSERVED, OTHER, OUTSIDE_HABITAT, STABLE_MANGROVE, STABLE_OTHER
from engine.params import AssessParams

METHOD: Final = (
    "stratified random sample (Olofsson 2014, Stehman 2014); 95 % interval of Jeffreys limits by stratum "
    "(Zou and Donner 2008); labels taken as right"
)
"""Stated in every table of estimated areas."""

TOTAL: Final = "whole area"
NAME_OF: Final = {"region": "region", "zone": "zone_name"}
"""Column of a point's region, and of its zone of ``change.zones``: ``zone`` is that of UTM."""

UNSURE: Final = 0
WORDS: Final = {"mangrove": MANGROVE, "other": OTHER, "unsure": UNSURE}
"""What an interpreter may say of a pixel and year."""

READER_ERROR: Final = 0.05
"""Share of wrong labels at which coverage is simulated."""

BLIND: Final = ("id", "lon", "lat", "zone", "row", "col", "region", "reader2")
"""Columns an interpreter is given: neither class nor stratum, which tells the class."""

_YEAR_CLASSES: Final = {OTHER: "other", MANGROVE: "mangrove", NOT_OBSERVED: "not observed"}
_CHANGE_CLASSES: Final = {
    STABLE_OTHER: "stable other",
    STABLE_MANGROVE: "stable mangrove",
    LOSS: "loss",
    GAIN: "gain",
    NOT_OBSERVED: "not observed",
}
_EVER: Final = {LOSS: "ever lost", GAIN: "ever gained"}
_HASHED_AT_ONCE: Final = 2**18


class Domains(NamedTuple):
    """Parts of the area that tables are by."""

    by: str
    """``region`` or ``zone``."""

    names: tuple[str, ...]
    codes: np.ndarray
    """uint16 (y, x): 0 in none, otherwise 1 + index into ``names``."""


# ---------------------------------------------------------------- design


def tally_strata(strata: np.ndarray, domains: Sequence[Domains], hectares: np.ndarray) -> pd.DataFrame:
    """Count pixels and hectares of each stratum of a tile by region and zone.

    Parameters
    ----------
    strata : ndarray of uint8, shape (y, x)
        Of ``kernels.design.stratify``.
    domains : sequence of Domains
    hectares : ndarray of float64, shape (x,)
        Of a pixel of each column.

    Returns
    -------
    DataFrame
        Columns by, where, stratum (code), pixels, hectares.
    """
    return pd.concat(
        [_count(strata, domain, hectares, {code: code for code in STRATA}, "stratum") for domain in domains],
        ignore_index=True,
    )


def tally_maps(
    maps: Iterable[tuple[int, np.ndarray]], domains: Sequence[Domains], hectares: np.ndarray
) -> pd.DataFrame:
    """Count mapped hectares of each year and of the change between years, one year in memory after the other.

    Parameters
    ----------
    maps : iterable of (int, ndarray of uint8 (y, x))
        Years ascending, and their classes (``legend.CLASSES``).
    domains : sequence of Domains
    hectares : ndarray of float64, shape (x,)

    Returns
    -------
    DataFrame
        Columns by, where, first, last, class, pixels, hectares; of a year first is last.
    """
    parts: list[pd.DataFrame] = []

    def add(codes: np.ndarray, classes: Mapping[int, str], first: int, last: int) -> None:
        parts.extend(
            _count(codes, domain, hectares, classes, "class").assign(first=first, last=last) for domain in domains
        )

    start: tuple[int, np.ndarray] | None = None
    before: tuple[int, np.ndarray] | None = None
    ever = np.zeros((2, 0), bool)
    for year, raw in maps:
        classes = np.where(raw == OUTSIDE_HABITAT, np.uint8(OTHER), raw)
        add(classes, _YEAR_CLASSES, year, year)
        if before is None or start is None:
            start, ever = (year, classes), np.zeros((2, *classes.shape), bool)
        else:
            change = transitions(before[1], classes)
            add(change, {code: _CHANGE_CLASSES[code] for code in (LOSS, GAIN)}, before[0], year)
            ever[0] |= change == LOSS
            ever[1] |= change == GAIN
        before = (year, classes)
    if start is not None and before is not None and start[0] < before[0]:
        pair = start[0], before[0]
        add(transitions(start[1], before[1]), _CHANGE_CLASSES, *pair)
        for code, flags in zip((LOSS, GAIN), ever, strict=True):
            add(np.where(flags, np.uint8(code), np.uint8(255)), {code: _EVER[code]}, *pair)
    # Between two years that are the only ones, what changed is told once.
    return pd.concat(parts, ignore_index=True).drop_duplicates(["by", "where", "first", "last", "class"], keep="last")


def _count(
    codes: np.ndarray, domain: Domains, hectares: np.ndarray, names: Mapping[int, Any], column: str
) -> pd.DataFrame:
    pixels, area = tally(codes, domain.codes, hectares, zone_count=len(domain.names))
    listed = list(names)
    return pd.DataFrame(
        {
            "by": domain.by,
            "where": np.repeat(np.array(domain.names, dtype=object), len(listed)),
            column: list(names.values()) * len(domain.names),
            "pixels": pixels[:, listed].ravel(),
            "hectares": area[:, listed].ravel(),
        }
    )


def merge_tallies(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Sum the tables of tiles, and the regions into the whole area; the sum does not depend on their order."""
    joined = pd.concat(list(tables), ignore_index=True)
    whole = joined[joined["by"] == "region"].assign(by="total", where=TOTAL)
    joined = pd.concat([whole, joined], ignore_index=True)
    keys = [column for column in joined.columns if column not in ("pixels", "hectares")]
    grouped = joined.groupby(keys, sort=False, as_index=False)
    return grouped.agg(pixels=("pixels", "sum"), hectares=("hectares", math.fsum))


def design_sample(sizes: pd.DataFrame, params: AssessParams) -> tuple[pd.DataFrame, float]:
    """Choose how many pixels of each stratum to draw.

    Parameters
    ----------
    sizes : DataFrame
        Of ``merge_tallies`` of ``tally_strata``.
    params : AssessParams

    Returns
    -------
    strata : DataFrame
        One row a stratum: stratum, name, pixels, hectares, points.
    halfwidth : float
        Of the interval that is expected for the area lost, as a share of what is mapped; nan where no loss is.

    Raises
    ------
    SampleError
        If there is no pixel.
    """
    whole = sizes[sizes["by"] == "total"].set_index("stratum").reindex(list(STRATA), fill_value=0)
    if not whole["pixels"].sum():
        raise SampleError("no pixel lies in the area", fix="see that `mangroves change` mapped it")
    least = np.array([params.min_per_large if code in LARGE else params.min_per_stratum for code in STRATA])
    found = allocate(whole["pixels"].to_numpy(), least, halfwidth=params.halfwidth, most=params.most)
    table = pd.DataFrame(
        {
            "stratum": list(STRATA),
            "name": list(STRATA.values()),
            "pixels": whole["pixels"].to_numpy(np.int64),
            "hectares": whole["hectares"].to_numpy(np.float64),
            "points": found.points,
        }
    )
    return table, found.halfwidth


def draw_points(
    strata: np.ndarray, wanted: Mapping[int, int], domains: Sequence[Domains], tile: Tile, *, seed: int
) -> pd.DataFrame:
    """Draw candidates of one tile: of each stratum the pixels of smallest hash, as many as all tiles together need.

    Parameters
    ----------
    strata : ndarray of uint8, shape (y, x)
    wanted : mapping of int to int
        Stratum -> pixels.
    domains : sequence of Domains
    tile : Tile
    seed : int
        Of ``sample_seed``.

    Returns
    -------
    DataFrame
        Columns zone (UTM), row, col (of the grid), stratum, hash (uint64), region, and zone_name where there are zones.
    """
    top, left = tile.window[:2]
    chosen = [np.empty(0, np.int64)]
    for stratum, count in wanted.items():
        flat = np.flatnonzero(strata == stratum)
        kept, hashes = np.empty(0, np.int64), np.empty(0, np.uint64)
        for first in range(0, flat.size, _HASHED_AT_ONCE):
            some = flat[first : first + _HASHED_AT_ONCE]
            y, x = np.divmod(some, tile.shape[1])
            kept = np.concatenate([kept, some])
            hashes = np.concatenate([hashes, pixel_hash(seed, tile.zone, y + top, x + left)])
            best = smallest(hashes, count)
            kept, hashes = kept[best], hashes[best]
        chosen.append(kept)
    y, x = np.divmod(np.concatenate(chosen), tile.shape[1])
    columns = {
        "zone": np.full(y.size, tile.zone, np.int16),
        "row": (y + top).astype(np.int32),
        "col": (x + left).astype(np.int32),
        "stratum": strata[y, x],
        "hash": pixel_hash(seed, tile.zone, y + top, x + left),
    }
    for domain in domains:
        columns[NAME_OF[domain.by]] = np.array(["", *domain.names], dtype=object)[domain.codes[y, x]]
    return pd.DataFrame(columns)


def choose_points(
    candidates: Iterable[pd.DataFrame], wanted: Mapping[int, int], *, second_reader: float, seed: int
) -> gpd.GeoDataFrame:
    """Choose the sample among the candidates of all tiles, in an order that tells nothing of strata.

    Parameters
    ----------
    candidates : iterable of DataFrame
        Of ``draw_points``; further columns are kept.
    wanted : mapping of int to int
    second_reader : float
        Share of the points of each stratum that a second interpreter reads too.
    seed : int

    Returns
    -------
    GeoDataFrame
        One row a point (EPSG:4326, centre of the pixel): id, lon, lat, and the columns of candidates; reader2 (bool).
    """
    pool = pd.concat(list(candidates), ignore_index=True)
    parts = [
        pool.iloc[np.flatnonzero(pool["stratum"] == stratum)[smallest(hashes, count)]]
        for stratum, count in wanted.items()
        for hashes in [pool.loc[pool["stratum"] == stratum, "hash"].to_numpy(np.uint64)]
    ]
    parts = [part.assign(reader2=np.arange(len(part)) < math.ceil(second_reader * len(part))) for part in parts]
    points = pd.concat(parts, ignore_index=True)
    lon, lat, order = (np.empty(len(points), kind) for kind in (np.float64, np.float64, np.uint64))
    for zone in points["zone"].unique():
        here = (points["zone"] == zone).to_numpy()
        rows, cols = (points.loc[here, name].to_numpy(np.int64) for name in ("row", "col"))
        lon[here], lat[here] = lonlat_of(int(zone), rows, cols)
        order[here] = pixel_hash(seed + 1, int(zone), rows, cols)
    points = points.assign(
        id=[point_id(*place) for place in zip(points["zone"], points["row"], points["col"], strict=True)],
        lon=lon,
        lat=lat,
    )
    points = points.iloc[np.argsort(order)].reset_index(drop=True)
    return gpd.GeoDataFrame(points, geometry=gpd.points_from_xy(points["lon"], points["lat"]), crs="EPSG:4326")


def point_id(zone: int, row: int, col: int) -> str:
    """Name a point by its pixel, so that a label belongs to one place whatever was drawn anew.

    Examples
    --------
    >>> point_id(48, -32768, 16384)
    'z48r-32768c16384'
    """
    return f"z{zone:02d}r{row}c{col}"


def sample_seed(seed: int) -> int:
    """Return the seed of the draw, another than that of the training sample, so that they meet by chance only.

    Examples
    --------
    >>> sample_seed(1) == sample_seed(2), sample_seed(2**63 - 1) < 2**63
    (False, True)
    """
    return (seed + 0x5EEDA55E55) % (2**63 - 1)


def labels_template(ids: Sequence[str], years: Sequence[int]) -> str:
    """Return the CSV an interpreter fills: a row a point, a column a year."""
    return pd.DataFrame("", index=pd.Index(ids, name="id"), columns=list(years)).to_csv(lineterminator="\n")


def kml_of(points: pd.DataFrame) -> str:
    """Return the outlines of the sampled pixels as KML, to lie over pictures of Google Earth and others.

    Parameters
    ----------
    points : DataFrame
        Columns zone, row, col, id.
    """
    places = []
    for zone, row, col, name in points[["zone", "row", "col", "id"]].itertuples(index=False):
        lon, lat = lonlat_of(zone, row + np.array([-0.5, -0.5, 0.5, 0.5]), col + np.array([-0.5, 0.5, 0.5, -0.5]))
        corners = [f"{x:.7f},{y:.7f}" for x, y in zip(lon, lat, strict=True)]
        ring = " ".join([*reversed(corners), corners[-1]])
        places.append(
            f"<Placemark><name>{escape(name)}</name><Polygon><outerBoundaryIs><LinearRing><coordinates>{ring}"
            "</coordinates></LinearRing></outerBoundaryIs></Polygon></Placemark>"
        )
    style = "<Style><LineStyle><color>ff00ffff</color></LineStyle><PolyStyle><fill>0</fill></PolyStyle></Style>"
    body = "\n".join(place.replace("</name>", f"</name>{style}", 1) for place in places)
    head = '<?xml version="1.0" encoding="UTF-8"?>\n<kml xmlns="http://www.opengis.net/kml/2.2"><Document>\n'
    return f"{head}{body}\n</Document></kml>\n"


# ---------------------------------------------------------------- labels


def read_labels(text: str, ids: Sequence[str], years: Sequence[int], *, what: str, known: Sequence[str] = ()) -> Any:
    """Read labels back.

    Parameters
    ----------
    text : str
        CSV with a column id and one of each year; further columns (notes) are left alone.
    ids : sequence of str
        Points that must be there.
    years : sequence of int
    what : str
        File, for messages.
    known : sequence of str
        Further points that may be there.

    Returns
    -------
    ndarray of uint8, shape (point, year)
        OTHER, MANGROVE or ``UNSURE``, in the order of ``ids``.

    Raises
    ------
    SampleError
        If a column or point is missing, unknown or there twice, or a word is none of ``WORDS``.
    """
    try:
        table = pd.read_csv(StringIO(text), dtype=str, keep_default_na=False, skipinitialspace=True)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, ValueError) as error:
        raise SampleError(f"{what} is no table ({type(error).__name__})", fix="fill labels_template.csv") from error
    table.columns = table.columns.str.strip()
    columns = [str(year) for year in years]
    absent = [name for name in ("id", *columns) if name not in table.columns]
    if absent:
        raise SampleError(f"{what} lacks column {absent[0]!r}", fix="fill labels_template.csv, a column a year")
    table["id"] = table["id"].str.strip()
    _refuse(table["id"][table["id"].duplicated()], f"{what} names a point twice", "keep one row of it")
    strange = table["id"][~table["id"].isin({*ids, *known})]
    _refuse(strange, f"{what} names a point that is not of this sample", "give labels of this run's sample")
    indexed = table.set_index("id")
    _refuse(pd.Series([one for one in ids if one not in indexed.index]), f"{what} lacks a point", "label all points")
    words = indexed.loc[list(ids), columns].apply(lambda column: column.str.strip().str.lower())
    codes = np.full(words.shape, 255, np.uint8)
    for word, code in WORDS.items():
        codes[(words == word).to_numpy()] = code
    if (codes == 255).any():
        point, year = np.argwhere(codes == 255)[0]
        raise SampleError(
            f"{what}: point {ids[point]}, {columns[year]}: {words.iat[point, year][:40]!r} is no label"
            f" ({int((codes == 255).sum())} such)",
            fix="write " + ", ".join(WORDS),
        )
    return codes


def _refuse(found: pd.Series, problem: str, fix: str) -> None:
    if len(found):
        raise SampleError(f"{problem}: {str(found.iloc[0])[:60]!r} ({len(found)} such)", fix=fix)


def write_labels(ids: Sequence[str], years: Sequence[int], labels: np.ndarray) -> str:
    """Return labels as the CSV ``read_labels`` takes."""
    words = np.full(3, "", dtype=object)
    words[list(WORDS.values())] = list(WORDS)
    frame = pd.DataFrame(words[labels], index=pd.Index(ids, name="id"), columns=list(years))
    return frame.to_csv(lineterminator="\n")


# ---------------------------------------------------------------- estimates


@dataclass(frozen=True, eq=False, kw_only=True)
class Assessment:
    """A sample, what the map and an interpreter say of it, and the land it stands for."""

    years: tuple[int, ...]
    points: pd.DataFrame
    """Columns stratum, region, and zone_name where there are zones."""

    mapped: np.ndarray
    """uint8 (point, year): class by the map (``legend.CLASSES``)."""

    labels: np.ndarray
    """uint8 (point, year): OTHER, MANGROVE or ``UNSURE``."""

    sizes: pd.DataFrame
    """Of ``merge_tallies`` of ``tally_strata``."""

    areas: pd.DataFrame
    """Of ``merge_tallies`` of ``tally_maps``."""


class _Part(NamedTuple):
    """The whole area or a part of it, as strata and the units that speak of it."""

    by: str
    where: str
    hectares: np.ndarray
    """float64 (stratum,)."""

    pixels: np.ndarray
    stratum: np.ndarray
    """int64 (unit,): index into ``hectares``."""

    chosen: np.ndarray
    """bool (point,): which points are units."""

    inside: np.ndarray
    """bool (unit,): in the part. Units outside count as what it is not of."""

    own: bool
    """Whether the strata are the part's own; else they are those of the whole area, and all points units."""


def estimate_area(
    hectares: np.ndarray, count: np.ndarray, hits: np.ndarray, *, pixels: np.ndarray | None = None
) -> Limits:
    """Estimate hectares of one or many things at once from what a stratified sample found of them.

    Parameters
    ----------
    hectares : ndarray of float64, shape (stratum,)
    count : ndarray of int, shape (stratum,)
        Points of each stratum.
    hits : ndarray of int, shape (..., stratum)
        Points of which it is so; leading axes are years, classes or repeated samples.
    pixels : ndarray of int, shape (stratum,), optional
        That the points were drawn from, without replacement.

    Returns
    -------
    Limits
        Estimate and 95 % interval, hectares, each (...,).

    Examples
    --------
    >>> found = estimate_area(np.array([900.0, 100.0]), np.array([400, 100]), np.array([[2, 80], [0, 75]]))
    >>> found.value.round(1), found.low.round(1), found.high.round(1)
    (array([84.5, 75. ]), array([75.2, 65.9]), array([96.5, 84.5]))
    """
    return share_interval(hectares, count, hits, population=pixels)


def estimate_areas(sample: Assessment) -> pd.DataFrame:
    """Estimate mangrove of every year and change between years, of the whole area and its regions and zones.

    Loss between two years is what was mangrove in the first and not in the second; over all years also what was ever
    lost. A point that is *unsure* in a year an estimate is of does not take part in it, as if it had not been drawn.

    Returns
    -------
    DataFrame
        by (total, region, zone), where, period, first, last, class, mapped_ha (pixels of the map, not adjusted),
        estimated_ha, low_ha, high_ha (95 %), se_ha, points (that took part and lie there), pct_per_year (of change, of
        the mangrove estimated at its start).
    """
    mapped = sample.areas.set_index(["by", "where", "first", "last", "class"])["hectares"]
    rows = []
    for part in _parts(sample):
        mangrove: dict[int, float] = {}
        for (first, last), known, classes in _targets(sample):
            found = {name: _estimate(part, known, flags) for name, flags in classes.items()}
            if "mangrove" in found:
                mangrove[first] = float(found["mangrove"][0].value)
            if {"gain", "loss"} <= set(found):
                both = Estimate(np.nan, float(np.hypot(found["gain"][1].error, found["loss"][1].error)))
                found["net"] = difference_interval(found["gain"][0], found["loss"][0]), both, found["loss"][2]
            for name, (limits, spread, units) in found.items():
                key = (part.by, part.where, first, last)
                start = mangrove.get(first, np.nan) * (last - first)
                changes = name in ("loss", "gain", "net") and start > 0
                rows.append(
                    {
                        **dict(zip(("by", "where", "first", "last"), key, strict=True)),
                        "period": str(first) if first == last else f"{first}-{last}",
                        "class": name,
                        "mapped_ha": mapped.get((*key, "gain"), np.nan) - mapped.get((*key, "loss"), np.nan)
                        if name == "net"
                        else mapped.get((*key, name), np.nan),
                        "estimated_ha": float(limits.value),
                        "low_ha": float(limits.low),
                        "high_ha": float(limits.high),
                        "se_ha": spread.error,
                        "points": units,
                        "pct_per_year": 100 * float(limits.value) / start if changes else np.nan,
                    }
                )
    order = ["by", "where", "period", "first", "last", "class"]
    return pd.DataFrame(rows)[[*order, *(name for name in rows[0] if name not in order)]]


def _targets(sample: Assessment) -> Iterator[tuple[tuple[int, int], np.ndarray, dict[str, np.ndarray]]]:
    """Yield periods, which points were surely read in them, and of each class which points are of it."""
    years, labels = sample.years, sample.labels
    is_so, sure = labels == MANGROVE, labels != UNSURE
    for index, year in enumerate(years):
        yield (year, year), sure[:, index], {"mangrove": is_so[:, index], "other": ~is_so[:, index]}
    steps = list(pairwise(range(len(years))))
    for one, other in steps if len(years) > 2 else []:
        yield (years[one], years[other]), sure[:, one] & sure[:, other], _changed(is_so[:, one], is_so[:, other])
    if steps:
        first, last, whole = is_so[:, 0], is_so[:, -1], sure.all(axis=1)
        stable = {"stable mangrove": first & last, "stable other": ~first & ~last}
        yield (years[0], years[-1]), sure[:, 0] & sure[:, -1], stable | _changed(first, last)
        before, after = is_so[:, :-1], is_so[:, 1:]
        ever = {_EVER[LOSS]: (before & ~after).any(axis=1), _EVER[GAIN]: (~before & after).any(axis=1)}
        yield (years[0], years[-1]), whole, ever


def _changed(before: np.ndarray, after: np.ndarray) -> dict[str, np.ndarray]:
    return {"loss": before & ~after, "gain": ~before & after}


def _parts(sample: Assessment) -> Iterator[_Part]:
    """Yield the whole area, then regions and zones."""
    codes = list(STRATA)
    sizes = {key: part.set_index("stratum") for key, part in sample.sizes.groupby(["by", "where"])}
    stratum = np.array([codes.index(code) for code in sample.points["stratum"]], np.int64)
    everywhere = np.ones(len(stratum), bool)

    def of(by: str, where: str) -> tuple[np.ndarray, np.ndarray]:
        own = sizes[by, where].reindex(codes, fill_value=0)
        return own["hectares"].to_numpy(np.float64), own["pixels"].to_numpy(np.int64)

    whole = of("total", TOTAL)
    yield _Part("total", TOTAL, *whole, stratum, everywhere, everywhere, own=True)
    for by, where in sample.sizes[["by", "where"]].drop_duplicates().itertuples(index=False):
        if by == "total" or not of(by, where)[1].sum():
            continue
        inside = (sample.points[NAME_OF[by]] == where).to_numpy()
        hectares, pixels = of(by, where)
        count = np.bincount(stratum[inside], minlength=len(codes))
        if (count >= np.minimum(2, pixels)).all():
            # Those of a stratum that fell here are a random sample of what it has here.
            yield _Part(
                by, where, hectares, pixels, stratum[inside], inside, np.ones(int(inside.sum()), bool), own=True
            )
        else:
            yield _Part(by, where, *whole, stratum, everywhere, inside, own=False)


def _used(part: _Part, known: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return hectares, pixels, stratum of each used unit, and which units are used; every stratum has a unit.

    A stratum of which no unit can be used is joined to the one before it, or after (collapsed: Cochran 1977, 5A.12).
    """
    used = known[part.chosen]
    stratum, hectares, pixels = part.stratum[used], part.hectares.copy(), part.pixels.copy()
    while True:
        count = np.bincount(stratum, minlength=hectares.size)
        thin = np.flatnonzero((hectares > 0) & (count < 2))
        solid = np.flatnonzero((hectares > 0) & (count >= 2))
        if not thin.size or not solid.size:
            return hectares, pixels, stratum, used
        one = int(thin[0])
        into = int(solid[np.argmin(np.abs(solid - one))])
        hectares[into], pixels[into] = hectares[into] + hectares[one], pixels[into] + pixels[one]
        hectares[one], pixels[one] = 0.0, 0
        stratum = np.where(stratum == one, into, stratum)


def _estimate(part: _Part, known: np.ndarray, found: np.ndarray) -> tuple[Limits, Estimate, int]:
    """Estimate hectares of a part of which something is so; also the standard error, and how many points told."""
    hectares, pixels, stratum, used = _used(part, known)
    inside = part.inside[used]
    hit = found[part.chosen][used] & inside
    kept = np.flatnonzero(hectares > 0)
    count = np.bincount(stratum, minlength=hectares.size)[kept]
    none = Limits(np.array(np.nan), np.array(np.nan), np.array(np.nan))
    if (count < 2).any() or not kept.size:
        return none, Estimate(np.nan, np.nan), int(inside.sum())
    hits = np.bincount(stratum, hit, minlength=hectares.size)[kept]
    limits = estimate_area(hectares[kept], count, hits, pixels=pixels[kept])
    place = np.zeros(hectares.size, np.int64)
    place[kept] = np.arange(kept.size)
    share = estimate_share(hectares[kept], place[stratum], hit, jeffreys=True)
    total = float(hectares.sum())
    return limits, Estimate(share.value * total, share.error * total), int(inside.sum())


class Accuracies(NamedTuple):
    """Tables of what the map has right."""

    figures: pd.DataFrame
    """by, where, period, measure (overall, users, producers), class, value, low, high, se (of the papers), points."""

    matrix: pd.DataFrame
    """by, where, period, mapped, true, points, share (of the land)."""


def estimate_accuracy(sample: Assessment) -> Accuracies:
    """Estimate error matrix, user's, producer's and overall accuracy of every year and of change over all years.

    Of the whole area, and of every region and zone with two points in each of its strata. What the map did not observe
    is a class of its own that is never right.

    Returns
    -------
    Accuracies
    """
    figures: list[dict[str, Any]] = []
    cells: list[dict[str, Any]] = []
    mapped = np.where(sample.mapped == OUTSIDE_HABITAT, np.uint8(OTHER), sample.mapped)
    sure = sample.labels != UNSURE
    tasks = [
        (str(year), _YEAR_CLASSES, mapped[:, index], sample.labels[:, index], sure[:, index])
        for index, year in enumerate(sample.years)
    ]
    if len(sample.years) > 1:
        ends = [0, -1]
        known = sure[:, ends].all(axis=1)
        labels = np.where(known[:, None], sample.labels[:, ends], np.uint8(OTHER))
        change = [transitions(of[:, 0], of[:, 1]) for of in (mapped[:, ends], labels)]
        tasks.append((f"{sample.years[0]}-{sample.years[-1]}", _CHANGE_CLASSES, change[0], change[1], known))
    for part in _parts(sample):
        for period, classes, of_map, of_reader, known in tasks if part.own else []:
            hectares, pixels, stratum, used = _used(part, known)
            kept = np.flatnonzero(hectares > 0)
            if not kept.size or (np.bincount(stratum, minlength=hectares.size)[kept] < 2).any():
                continue
            place = np.zeros(hectares.size, np.int64)
            place[kept] = np.arange(kept.size)
            code = np.zeros(256, np.int64)
            code[list(classes)] = np.arange(len(classes))
            said, true = (code[of[part.chosen][used]] for of in (of_map, of_reader))
            read = _Read(hectares[kept], pixels[kept], place[stratum], said, true)
            found = assess_sample(hectares[kept], read.stratum, said, true, len(classes), jeffreys=True)
            key = {"by": part.by, "where": part.where, "period": period}
            names = list(classes.values())
            right = read.limits(said == true, said >= 0)
            land = float(hectares.sum())
            share = Limits(*(end / land for end in right))
            figures.append({**key, "measure": "overall", "class": "all", **_row(share, found.overall, said.size)})
            for index, name in enumerate(names):
                hit, of_class, is_so = (said == index) & (true == index), said == index, true == index
                within = read.limits(hit, of_class)
                for measure, whole, other, estimate in (
                    ("users", of_class, read.limits(of_class & ~is_so, of_class), found.users[index]),
                    ("producers", is_so, read.limits(is_so & ~of_class, ~of_class), found.producers[index]),
                ):
                    if whole.any():
                        row = _row(fraction_interval(within, other), estimate, int(whole.sum()))
                        figures.append({**key, "measure": measure, "class": name, **row})
            for row, column in np.ndindex(found.matrix.shape):
                units = int(np.count_nonzero((said == row) & (true == column)))
                if names[column] != "not observed":
                    cell = {"mapped": names[row], "true": names[column], "points": units}
                    cells.append({**key, **cell, "share": float(found.matrix[row, column])})
    keys = ["by", "where", "period"]
    return Accuracies(
        pd.DataFrame(figures, columns=[*keys, "measure", "class", "value", "low", "high", "se", "points"]),
        pd.DataFrame(cells, columns=[*keys, "mapped", "true", "points", "share"]),
    )


class _Read(NamedTuple):
    """Units of a part of the area as they are mapped and read."""

    hectares: np.ndarray
    pixels: np.ndarray
    stratum: np.ndarray
    said: np.ndarray
    true: np.ndarray

    def limits(self, found: np.ndarray, possible: np.ndarray) -> Limits:
        """Estimate hectares of what was found, from the strata that have any unit of which it is possible."""
        count, some = (np.bincount(self.stratum, of, minlength=self.pixels.size) for of in (None, possible))
        kept = some > 0
        hits = np.bincount(self.stratum, found, minlength=self.pixels.size)[kept]
        return estimate_area(self.hectares[kept], count[kept], hits, pixels=self.pixels[kept])


def _row(limits: Limits, estimate: Estimate, units: int) -> dict[str, Any]:
    ends = {name: float(end) for name, end in zip(("value", "low", "high"), limits, strict=True)}
    return {**ends, "se": estimate.error, "points": units}


def compare_readers(first: np.ndarray, second: np.ndarray, years: Sequence[int]) -> pd.DataFrame:
    """Compare what two interpreters said of the same points.

    Parameters
    ----------
    first, second : ndarray of uint8, shape (point, year)
    years : sequence of int

    Returns
    -------
    DataFrame
        period (a year, ``all years``, or ``trajectory``: all years of a point alike), labels (that both are sure of),
        agreement (share), kappa (Cohen 1960; nan where both say one thing only).

    Examples
    --------
    >>> first, second = np.array([[2, 2], [1, 1], [2, 1]]), np.array([[2, 2], [1, 1], [2, 2]])
    >>> compare_readers(first, second, [2019, 2020]).round(2).to_dict("list")["agreement"]
    [1.0, 0.67, 0.83, 0.67]
    """
    both = (first != UNSURE) & (second != UNSURE)
    rows: list[dict[str, Any]] = []
    columns = [(str(year), [index]) for index, year in enumerate(years)]
    for period, of in [*columns, ("all years", list(range(len(years))))]:
        one, other = first[:, of][both[:, of]], second[:, of][both[:, of]]
        agreement = float(np.mean(one == other)) if one.size else np.nan
        shares = [(np.mean(one == code), np.mean(other == code)) for code in (OTHER, MANGROVE)] if one.size else []
        chance = float(sum(a * b for a, b in shares))
        kappa = (agreement - chance) / (1 - chance) if chance < 1 else np.nan
        rows.append({"period": period, "labels": one.size, "agreement": agreement, "kappa": kappa})
    whole = both.all(axis=1)
    alike = float(np.mean((first[whole] == second[whole]).all(axis=1))) if whole.any() else np.nan
    rows.append({"period": "trajectory", "labels": int(whole.sum()), "agreement": alike, "kappa": np.nan})
    return pd.DataFrame(rows)


def reader_error_coverage(sample: Assessment, *, error: float = READER_ERROR, draws: int = 1000) -> dict[str, float]:
    """Simulate how often intervals would hold the truth, were a share of the labels wrong.

    Land like what the sample found is drawn from again; labels of each question are then turned round at random.

    Returns
    -------
    dict
        ``extent`` (of the last year) and ``loss`` (from first to last) -> share of intervals that hold the truth;
        neither where nobody was sure of enough points to estimate it.
    """
    part = next(_parts(sample))
    wanted = {"extent": ((sample.years[-1],) * 2, "mangrove"), "loss": ((sample.years[0], sample.years[-1]), "loss")}
    coverage = {}
    for period, known, classes in _targets(sample):
        for name, (of, kind) in wanted.items():
            if period == of and kind in classes:
                _, pixels, stratum, used = _used(part, known)
                kept = np.flatnonzero(pixels > 0)
                count = np.bincount(stratum, minlength=pixels.size)[kept]
                if (count < 2).any() or not kept.size:
                    continue
                hits = np.bincount(stratum, classes[kind][used], minlength=pixels.size)[kept]
                positive = np.rint(hits / count * pixels[kept]).astype(np.int64)
                coverage[name], _ = interval_coverage(pixels[kept], positive, count, draws=draws, reader_error=error)
    return coverage


def mapped_loss_ha(strata: pd.DataFrame) -> float:
    """Return the hectares of the stratum of mapped loss."""
    return float(strata.loc[strata["stratum"] == MAPPED_LOSS, "hectares"].sum())
