"""Tables from anywhere: which column is which Landsat band, and what scale its values are in.

Names decide by themselves where they can; ``B2`` is blue on OLI and green on TM and ETM+, so of numbered bands the
row's platform decides, or which numbers there are. Scale is told from the values. Each decision comes with the words
that explain it, and where the evidence is not clear nothing is guessed.

References
----------
USGS LSDS-1618, LSDS-1619: Collection 2, DN x 2.75e-5 - 0.2, fill 0.
USGS LSDS-1368, LSDS-1370: Collection 1, reflectance x 10 000, fill -9999.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np

from engine.errors import ConfigError
from engine.landsat import BANDS, OFFSET, OLI, SCALE, TM, Sensor

Scale = Literal["dn", "collection1", "reflectance"]

SCALES: Final[dict[Scale, str]] = {
    "dn": "Collection-2 DN (x 2.75e-5 - 0.2)",
    "collection1": "reflectance x 10 000, as Collection 1",
    "reflectance": "reflectance 0-1",
}
"""Scales of band values that are known."""

SENSORS: Final = {"oli": OLI, "tm": TM, "etm": TM}
"""What ``--sensor`` takes -> how its bands are numbered; ETM+ as TM."""

NAMES: Final = {
    "blue": ("blue",),
    "green": ("green",),
    "red": ("red",),
    "nir08": ("nir08", "nir"),
    "swir16": ("swir16", "swir1"),
    "swir22": ("swir22", "swir2"),
}
"""Names a band may have, in small letters."""

PLATFORM_COLUMNS: Final = ("spacecraft_id", "platform", "satellite", "sensor", "sensor_id", "landsat_product_id")
"""Columns that name the platform of a row, in small letters; the first there is counts."""

ACCEPTED: Final = (
    "blue, green, red, nir or nir08, swir1 or swir16, swir2 or swir22; or B, SR_B, band or sr_band + number"
)
"""Names of bands in one line, for errors and help."""

_NUMBERED: Final = re.compile(r"((?:sr_)?(?:b|band))_?0?([1-9])")
_PLATFORM: Final = re.compile(r"(?:landsat[-_ ]?|l[a-z]?0?)([4-9])|(oli|etm|tm)")
_BY_NAME: Final = "names"
_LEAST_SHARE: Final = 0.98  # of rows that must be of one scale; the rest may be cloud, or odd over water
_SHOWN: Final = 12


@dataclass(frozen=True)
class BandColumns:
    """Where the six bands of a table are."""

    by_sensor: dict[str, tuple[str, ...]]
    """Sensor -> its columns in the order of ``landsat.BANDS``; one entry unless ``platform`` tells rows apart."""

    platform: str | None
    """Column that says each row's platform, where that decides which column is which band."""

    reason: str
    """Why these."""

    six_may_be_thermal: bool = False
    """Band 6 was taken for SWIR1 as it is there: on TM and ETM+ it is a temperature."""

    @property
    def columns(self) -> list[str]:
        """All columns that must be read, each once."""
        used = [column for columns in self.by_sensor.values() for column in columns]
        return list(dict.fromkeys(used + ([self.platform] if self.platform else [])))


def find_bands(columns: Sequence[str], *, sensor: str | None = None) -> BandColumns:
    """Find the six bands among the columns of a table.

    Parameters
    ----------
    columns : sequence of str
        All columns of the table; case does not matter.
    sensor : str, optional
        Key of ``SENSORS``: how numbered bands are numbered in every row, whatever the table says.

    Returns
    -------
    BandColumns

    Raises
    ------
    ConfigError
        If a band is missing, or more than one column could be it, naming what was found.

    Examples
    --------
    >>> find_bands(["id", "SR_B2", "SR_B3", "SR_B4", "SR_B5", "SR_B6", "SR_B7"]).by_sensor
    {'OLI': ('SR_B2', 'SR_B3', 'SR_B4', 'SR_B5', 'SR_B6', 'SR_B7')}
    >>> found = find_bands(["B1", "B2", "B3", "B4", "B5", "B7"])
    >>> found.by_sensor, found.reason
    ({'TM': ('B1', 'B2', 'B3', 'B4', 'B5', 'B7')}, 'B1-B5 and B7 of TM or ETM+, as there is no B6')
    """
    styles = _styles(columns)
    numbered = {style: keys for style, keys in styles.items() if style != _BY_NAME}
    if any(column.strip().lower() in ("b8a", "b12") for column in columns) and numbered and sensor is None:
        raise ConfigError(
            "the table has B8A or B12, so its numbered bands are Sentinel-2's; the model learnt from Landsat",
            fix="give Landsat bands; if they are, drop those columns or say --sensor",
        )
    wanted = [SENSORS[sensor]] if sensor else [OLI, TM]
    complete: dict[str, list[Sensor]] = {
        style: fitting
        for style, keys in numbered.items()
        if (fitting := [one for one in wanted if all(str(n) in keys for n in one.band_numbers.values())])
    }
    if all(band in styles.get(_BY_NAME, {}) for band in BANDS):
        complete[_BY_NAME] = []
    if not complete:
        raise _missing(columns, styles, wanted)
    if len(complete) > 1:
        found = [column for style in complete for names in styles[style].values() for column in names]
        raise ConfigError(
            f"the table has the bands under more than one naming: {_listed(found)}",
            fix="keep one of them, drop or rename the others",
        )
    [(style, sensors)] = complete.items()
    keys = styles[style]
    if style == _BY_NAME:
        return BandColumns({"": _columns_of(keys, BANDS)}, None, "bands by name")
    by_sensor = {one.name: _columns_of(keys, map(str, one.band_numbers.values())) for one in sensors}
    first = keys.get("1", keys.get("2", [""]))[0]
    stem = first.rstrip("0123456789")
    if sensor:
        return BandColumns(by_sensor, None, f"{stem} + number, numbered as {sensors[0].name} by --sensor")
    low = {column.strip().lower(): column for column in columns}
    platform = next((low[name] for name in PLATFORM_COLUMNS if name in low), None)
    if platform is not None:
        return BandColumns(by_sensor, platform, f"{stem} + number, numbered as the sensor of each row by {platform}")
    if OLI not in sensors:
        return BandColumns(by_sensor, None, f"{stem}1-{stem}5 and {stem}7 of TM or ETM+, as there is no {stem}6")
    by_sensor = {OLI.name: by_sensor[OLI.name]}
    why = f"there is a {stem}6" if "1" in keys else f"there is no {stem}1"
    return BandColumns(by_sensor, None, f"{stem}2-{stem}7 of OLI, as {why}", six_may_be_thermal=True)


def sensor_of(platform: str) -> str | None:
    """Return the sensor, as ``landsat.Sensor.name`` has it, that a platform's name or product id stands for.

    Examples
    --------
    >>> [sensor_of(name) for name in ("LANDSAT_8", "LT05_L2SP_072012_19850829_02_T1", "L7", "L8+L9", "ETM", "L7+L8")]
    ['OLI', 'TM', 'TM', 'OLI', 'TM', None]
    """
    matches = [_PLATFORM.match(part.strip().lower()) for part in platform.split("+")]
    found = {
        None if match is None else OLI.name if match[1] in ("8", "9") or match[2] == "oli" else TM.name
        for match in matches
    }
    return found.pop() if len(found) == 1 else None


def _styles(columns: Sequence[str]) -> dict[str, dict[str, list[str]]]:
    """Return naming -> band or number -> the columns that bear it."""
    bands = {name: band for band, names in NAMES.items() for name in names}
    found: dict[str, dict[str, list[str]]] = {}
    for column in columns:
        low = column.strip().lower()
        match = _NUMBERED.fullmatch(low)
        if match or low in bands:
            style, key = (match[1], match[2]) if match else (_BY_NAME, bands[low])
            found.setdefault(style, {}).setdefault(key, []).append(column)
    return found


def _columns_of(keys: dict[str, list[str]], wanted: Iterable[str]) -> tuple[str, ...]:
    chosen = []
    for key in wanted:
        if len(keys[key]) > 1:
            raise ConfigError(
                f"more than one column could be the same band: {_listed(keys[key])}", fix="keep one, rename the others"
            )
        chosen.append(keys[key][0])
    return tuple(chosen)


def _missing(columns: Sequence[str], styles: dict[str, dict[str, list[str]]], wanted: Sequence[Sensor]) -> ConfigError:
    """Say which band is missing of the naming that comes nearest."""
    lacks: list[tuple[list[str], str]] = []
    for style, keys in styles.items():
        if style == _BY_NAME:
            lacks.append(([" or ".join(NAMES[band]) for band in BANDS if band not in keys], "bands by name"))
            continue
        stem = next(iter(keys.values()))[0].rstrip("0123456789")
        for sensor in wanted:
            numbers = [number for number in sensor.band_numbers.values() if str(number) not in keys]
            lacks.append(([f"{stem}{number}" for number in numbers], f"{stem} + number of {sensor.name}"))
    if not lacks:
        return ConfigError(f"no column is a Landsat band; there are {_listed(columns)}", fix=f"name bands {ACCEPTED}")
    least, naming = min(lacks, key=lambda one: len(one[0]))
    found = [column for keys in styles.values() for names in keys.values() for column in names]
    return ConfigError(
        f"of the bands ({naming}) {', '.join(least)} {'is' if len(least) == 1 else 'are'} missing; "
        f"found {_listed(found)}",
        fix=f"name bands {ACCEPTED}",
    )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name[:40]) for name in names[:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


# --- scale of the values ---------------------------------------------------------------------------------------


@dataclass
class ScaleTally:
    """Evidence of the scale of band values, gathered from all rows of a table, whatever their order and parts."""

    rows: dict[str, int] = field(default_factory=lambda: dict.fromkeys((*SCALES, "none"), 0))
    """Rows by the scale each one speaks for."""

    kept: list[np.ndarray] = field(default_factory=list)
    """Every ``stride``-th row, float64 (6, row): for quantiles."""

    stride: int = 1
    most: int = 2**17
    """Rows kept at most."""

    _seen: int = 0

    def add(self, values: np.ndarray) -> None:
        """Count some rows.

        Parameters
        ----------
        values : ndarray of float64, shape (6, row)
            Band values as the table has them, NaN where missing. Rows without all bands say nothing.

        Notes
        -----
        One row speaks by its lowest and highest band. Reflectance: within -1 and 2. DN: lowest from 5000, as surface
        reflectance below -0.06 is hardly ever delivered (in Collection 1 all six bands above 0.5: thick cloud), or
        highest above 20 000, which Collection 1 never holds. Else x 10 000, from a highest of 100 on (0.01), which
        per cent and bytes of dark land stay below.
        """
        told = np.isfinite(values).all(axis=0) & (values != 0).all(axis=0) & (values > -9999).all(axis=0)
        rows = values[:, told]
        low, high = rows.min(axis=0), rows.max(axis=0)
        reflectance = (low >= -1) & (high <= 2)
        dn = ~reflectance & ((low >= 5000) | (high > 20_000)) & (high < 65_536)
        collection1 = ~reflectance & ~dn & (high >= 100) & (high <= 20_000)
        votes = {"dn": dn, "collection1": collection1, "reflectance": reflectance}
        for name, vote in votes.items():
            self.rows[name] += int(vote.sum())
        self.rows["none"] += int(rows.shape[1] - sum(vote.sum() for vote in votes.values()))
        self._keep(rows)

    def _keep(self, rows: np.ndarray) -> None:
        first = -self._seen % self.stride
        self.kept.append(rows[:, first :: self.stride])
        self._seen += rows.shape[1]
        while sum(part.shape[1] for part in self.kept) > self.most:
            self.kept, self.stride = [np.concatenate(self.kept, axis=1)[:, ::2]], 2 * self.stride

    def check_band_6(self, bands: BandColumns) -> None:
        """Raise ConfigError if band 6 was taken for SWIR1 and is a temperature, whatever the scale of the others."""
        if bands.six_may_be_thermal and any(self.rows.values()) and _is_thermal(np.concatenate(self.kept, axis=1)):
            raise ConfigError(
                "band 6 looks like a temperature, so these are bands of TM or ETM+",
                fix="give --sensor tm, or --sensor oli if it is SWIR1",
            )

    def decide(self) -> tuple[Scale, str]:
        """Return the scale and the words that explain it.

        Raises
        ------
        ConfigError
            If rows speak for more than one scale, for none, or there are none.
        """
        total = sum(self.rows.values())
        if not total:
            raise ConfigError(
                "no row has a value in all six bands, so their scale cannot be told", fix="give the table of the bands"
            )
        values = np.concatenate(self.kept, axis=1)
        low, middle, high = (_round(value) for value in np.percentile(values, (1, 50, 99)))
        spread = f"band values {low} to {high} (1-99 %), median {middle}"
        shares = {name: count / total for name, count in self.rows.items()}
        best = max(SCALES, key=lambda name: shares[name])
        # A few dark pixels as x 10 000 or bytes: the highest of all decides.
        if shares[best] < _LEAST_SHARE or (best == "collection1" and np.percentile(values.max(axis=0), 99) < 300):
            found = ", ".join(
                f"{share:.1%} of rows {SCALES.get(name, 'none of them')}"  # type: ignore[call-overload]
                for name, share in shares.items()
                if share
            )
            raise ConfigError(f"the scale of the bands is not clear: {spread}; {found}", fix="give --scale")
        return best, f"{SCALES[best]}: {spread}, {shares[best]:.1%} of {total:,} rows speak for it"


def to_dn(values: np.ndarray, scale: Scale) -> np.ndarray:
    """Turn band values into Collection-2 digital numbers.

    Parameters
    ----------
    values : ndarray of float64, shape (6, row)
        As a table has them, NaN where missing.
    scale : str
        One of ``SCALES``.

    Returns
    -------
    ndarray of uint16, shape (6, row)
        ``(reflectance + 0.2) / 2.75e-5``, rounded, held to 1..65535 (-0.2..1.6); 0 in all bands of a row that
        misses one: NaN, infinite, or fill (DN: 0 and below; x 10 000: -9999 and below; reflectance: what DN 0 or
        -9999 become; in the latter two also 0 in all six).

    Examples
    --------
    >>> to_dn(np.array([[0.1, -0.3]] * 6), "reflectance")[0]
    array([10909,     1], dtype=uint16)
    >>> to_dn(np.array([[1000.0, -9999.0, 0.0]] * 6), "collection1")[0]
    array([10909,     0,     0], dtype=uint16)
    """
    fill = ~np.isfinite(values)
    values = np.where(fill, 0, values)
    if scale == "dn":
        dn = np.rint(values)
        fill |= dn < 1
    else:
        reflectance = values * 1e-4 if scale == "collection1" else values
        dn = np.rint((reflectance - OFFSET) / SCALE)
        if scale == "collection1":
            fill |= values <= -9999
        else:
            fill |= (dn == 0) | (values <= -0.9)
        fill |= (values == 0).all(axis=0)
    # Over the whole table a band may reach 1e300: clip before the cast.
    whole = np.clip(dn, 1, 65_535).astype(np.uint16)
    whole[:, fill.any(axis=0)] = 0
    return whole


def _is_thermal(values: np.ndarray) -> bool:
    """Tell whether band 6, read as SWIR1, is Kelvin beside reflectance, or Kelvin x 10 as Collection 1 gives it."""
    six = values[BANDS.index("swir16")]
    low, high = np.percentile(six, (10, 90))
    others = np.percentile(np.delete(values, BANDS.index("swir16"), axis=0), 90)
    kelvin = low >= 250 and high <= 340 and others <= 2
    return bool(kelvin or (low >= 2500 and high <= 3400 and high <= 1.12 * low))


def _round(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
