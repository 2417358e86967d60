"""What a run is asked to do: frozen value objects, made once at the edge and passed down.

They are also the schema of the YAML run configuration (``jobs.config`` reads it, ``docs/config.schema.json``
is generated from it). A run configuration is untrusted input: nothing here may widen what may be read.
"""

from __future__ import annotations

import datetime as dt
import re
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from engine.landsat import BANDS, OLI, PLATFORMS, ROY_RMA

Fraction = Annotated[float, Field(gt=0, le=1)]
Year = Annotated[int, Field(ge=1982, le=2100)]
Lines = tuple[tuple[float, float], ...]
"""Slope and intercept, as reflectance, of each band in the order of ``landsat.BANDS``."""

REQUESTS: Final = 32
"""Byte ranges asked for at once, by default."""

SOURCE_VALUES: Final = {"worldcover": (95,), "gmw": (1,)}
"""Public masks that are fetched by name, and their values that mean mangrove."""

_DAY = re.compile(r"(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])")
_YEAR = re.compile(r"[12]\d{3}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Params(BaseModel):
    """Base of all sections: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, use_attribute_docstrings=True)


class AreaParams(Params):
    """Where: exactly one of ``bbox``, ``point``, ``file`` or ``regions``."""

    bbox: tuple[float, float, float, float] | None = None
    """West, south, east, north in degrees; west > east crosses the antimeridian."""

    point: tuple[float, float] | None = None
    """Longitude and latitude of the centre of a square of ``size_km``."""

    file: str | None = None
    """GeoJSON, GeoPackage, shapefile, KML or GeoParquet of polygons."""

    regions: tuple[str, ...] | None = None
    """Names of the published study's regions (``engine/regions.csv``), each a square of ``size_km``."""

    name_field: str | None = None
    """Column of ``file`` that names its regions; without it the file is one region."""

    name: str = "area"
    """Name of the region where none is given."""

    size_km: Annotated[float, Field(gt=0, le=1000)] = 30.0

    @model_validator(mode="after")
    def _exactly_one(self) -> AreaParams:
        given = [k for k in ("bbox", "point", "file", "regions") if getattr(self, k) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of bbox, point, file, regions; got {given or 'none'}")
        if self.bbox is not None:
            west, south, east, north = self.bbox
            if not (-180 <= west <= 180 and -180 <= east <= 180 and -90 <= south < north <= 90):
                raise ValueError(f"bbox must be west, south, east, north in degrees, got {self.bbox}")
        if self.point is not None and not (abs(self.point[0]) <= 180 and abs(self.point[1]) <= 80):
            raise ValueError(f"point must be longitude, latitude in degrees, got {self.point}")
        if self.regions == ():
            raise ValueError("regions is empty; name at least one")
        return self


class SearchParams(Params):
    """Which scenes."""

    catalogs: tuple[str, ...] = ("planetary-computer",)
    """``planetary-computer``, the URL of a STAC API, a static catalog (URL or ``catalog.json``), or an item
    file (JSON, NDJSON, GeoParquet). Several are merged by scene id, the first wins."""

    collection: str = "landsat-c2-l2"

    platforms: tuple[str, ...] = PLATFORMS

    tiers: tuple[Literal["T1", "T2"], ...] = ("T1",)
    """T2 scenes may be misplaced by more than 12 m."""

    max_cloud: Annotated[float, Field(ge=0, le=100)] | None = None
    """Scene cloud cover in per cent; default none, as scene-level filters starve the tropics."""

    least_cloudy: Annotated[int, Field(ge=1)] | None = None
    """Keep the n observations a year that see most of a region clearly, by QA, for each region of the area."""

    include_etm_drift: bool = False
    """Use Landsat 7 after 2022-04-06, when it had left its orbit."""

    @field_validator("platforms")
    @classmethod
    def _known_platforms(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        unknown = sorted(set(value) - set(PLATFORMS))
        if unknown or not value:
            raise ValueError(f"unknown platform {unknown}; known are {', '.join(PLATFORMS)}")
        return value


class CubeParams(Params):
    """How a year of scenes becomes one layer."""

    composite: Literal["median", "geomedian"] = "median"
    """``median`` takes each band by itself; ``geomedian`` all at once, which keeps what bands have to do with each
    other. It takes three times as long to reduce a block, which is still less than reading it."""

    keep: Literal["annual", "scenes"] = "annual"
    """``scenes`` also writes the masked (time, band, y, x) cube the composite was made from."""

    block_px: Annotated[int, Field(ge=256, le=2048, multiple_of=256)] | None = None
    """Rows of a tile whose looks are held at once; default all, fewer where the worker's memory is too small."""

    requests: Annotated[int, Field(ge=1, le=512)] = REQUESTS
    """Byte ranges a task asks its storage for at once; with a longer way to it, more."""

    reject_cloud_confidence: bool = False
    """Also reject pixels whose QA cloud confidence is medium or high."""

    harmonise: Literal["none", "roy", "local"] = "none"
    """``roy`` brings looks of Landsat 4, 5 and 7 to what 8 and 9 would have seen (Roy et al. 2016), ``local`` by lines
    fitted to the run's own looks that are a few days apart: for a model trained on Landsat 8 and 9 alone. One trained
    on all sensors has seen the values of each."""

    tide: Literal["all", "low"] = "all"
    """``low`` leaves the wettest third of a pixel's clear looks (by MNDWI) out of composite, percentiles and deviations
    where there are at least 9; clear count and water frequency are of all."""

    balance: Literal["none", "season"] = "none"
    """``season`` takes of each path no more looks of one quarter of the year than of its poorest, the least cloudy, but
    always four where there are so many."""

    min_looks_range: Annotated[int, Field(ge=2)] = 8
    """Clear looks below which percentiles, ranges, deviations and water frequency are missing, as they drift with
    that number."""

    min_looks: Annotated[int, Field(ge=1)] = 3
    """Clear looks below which a pixel counts as poorly observed in the report."""

    def lines_to_oli(self, sensor: str) -> Lines | None:
        """Return slope and intercept per band that bring a sensor's looks to OLI's; None where they stay as they are.

        Raises
        ------
        ValueError
            If they are to be fitted and were not.
        """
        if self.harmonise == "none" or sensor == OLI.name:
            return None
        if self.harmonise == "local":
            raise ValueError("harmonise is local and no lines were fitted; see HarmonisedCubeParams")
        return tuple(ROY_RMA[band] for band in BANDS)


class HarmonisedCubeParams(CubeParams):
    """What ``harmonise: local`` becomes once its lines are fitted: what workers get, and no section of a file."""

    lines: dict[str, Lines]
    """Sensor -> slope and intercept of each band."""

    def lines_to_oli(self, sensor: str) -> Lines | None:
        return None if sensor == OLI.name else self.lines[sensor]


class MaskParams(Params):
    """One reference mask: a raster or polygons, with the year it shows."""

    path: str
    """File, or folder of files; ``worldcover`` or ``gmw`` is fetched for the area into the run's folder."""

    year: Year
    value: tuple[int, ...] = (1,)
    """Raster values that mean mangrove; default 1, of ``worldcover`` 95."""

    unknown: tuple[int, ...] = ()
    """Raster values that mean nothing is known, beside the file's nodata."""

    field: str | None = None
    """Column of a vector file whose value must be among ``field_values``; default every polygon is mangrove."""

    field_values: tuple[str, ...] = ()

    background: Literal["other", "unknown"] = "other"
    """What a pixel is inside the mask's extent where the mask has no mangrove."""

    name: str = ""
    version: str = ""
    licence: str = ""
    citation: str = ""
    definition: str = ""

    @model_validator(mode="before")
    @classmethod
    def _value_of_source(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("path"), str) and data["path"] in SOURCE_VALUES:
            return {"value": SOURCE_VALUES[data["path"]], **data}
        return data


class LabelParams(Params):
    """How masks become labels."""

    masks: tuple[MaskParams, ...] = ()
    max_gap_years: Annotated[int, Field(ge=0)] = 1
    """A mask labels imagery of its own year +- this."""

    stable_between: tuple[Year, Year] | None = None
    """Label every year between two mask years where both agree."""

    allow_stale: bool = False
    """Use the nearest mask whatever its age; the map then says so."""

    erode_px: Annotated[int, Field(ge=0, le=10)] = 1
    """Pixels dropped on both sides of a class edge, in training rows only."""


class HabitatParams(Params):
    """Where mangrove can be: low land near tidal water. Both limits are optional."""

    max_elevation_m: float | None = 40.0
    dem: str = "planetary-computer"
    """``planetary-computer`` (cop-dem-glo-30) or a raster path."""

    max_distance_to_tidal_water_km: Annotated[float, Field(gt=0, le=50)] | None = 5.0
    water: str = "planetary-computer"
    """``planetary-computer`` (jrc-gsw occurrence) or a raster path; tidal water includes estuaries."""

    water_values: tuple[int, int] = (50, 100)
    """Range of the water raster's values that is water (per cent occurrence)."""


class SampleParams(Params):
    """How many pixels to draw, and how."""

    rule: Literal["stratified", "study"] = "stratified"
    """``study``: positions drawn uniformly (10 000 kept where mangrove, 1 000 kept where other), as published."""

    mangrove: Annotated[float, Field(gt=0)] = 1500
    """Of every region in every tile and year: a number of pixels (> 1; all where there are fewer) or a fraction of the
    class (<= 1, so 1 is all). Classes are balanced by these numbers; weights give each its area back."""

    other: Annotated[float, Field(gt=0)] = 3000
    """As ``mangrove``."""

    thinned: Annotated[int, Field(ge=0, le=8)] = 2
    """Further composites of every labelled tile-year, each made of 3 to 30 of its looks chosen at random, in which the
    pixels drawn are seen once more: so the model knows poor years too. 0 for none. Only training uses these rows."""

    years: tuple[Year, ...] | None = None
    """Default every year of the run that a mask labels."""

    @model_validator(mode="after")
    def _numbers(self) -> SampleParams:
        for name in ("mangrove", "other"):
            number = getattr(self, name)
            if number > 1 and number != int(number):
                raise ValueError(f"{name} must be a whole number of pixels or a fraction up to 1, got {number}")
            if self.rule == "study" and number != SampleParams.model_fields[name].default:
                raise ValueError(f"rule study draws as published; drop {name}, or use rule stratified")
        return self


class BoostParams(Params):
    """How trees are grown."""

    rounds: Annotated[int, Field(ge=1, le=2000)] = 200
    max_depth: Annotated[int, Field(ge=1, le=12)] = 6
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.1
    min_child_weight: Annotated[float, Field(ge=0)] = 1.0
    """Least sum of hessians in a leaf, where the mean weight of a row is 1."""

    reg_lambda: Annotated[float, Field(ge=0)] = 1.0
    reg_alpha: Annotated[float, Field(ge=0)] = 0.0
    gamma: Annotated[float, Field(ge=0)] = 0.0
    """Least gain of a split."""


class TrainParams(BoostParams):
    """How the classifier is fitted."""

    source: str = Field(default="here", alias="from")
    """``here`` (this area), ``study`` (the study's regions), or the path or store address of a model directory."""

    distributed: Literal["auto", "yes", "no"] = "auto"
    features: Literal["composite", "all", "all+mad", "all+mad+context"] = "all"
    """``composite``: bands and indices; ``all``: also ranges and water frequency; ``all+mad``: also median absolute
    deviations; ``all+mad+context``: also each band's mean over 150 m round the pixel."""

    tuned: bool = False
    """Take rounds, depth and the other settings of the trees from the best trial of `mangroves tune`."""

    edits: bool = False
    """Train on what `mangroves edit` and `mangroves suggest` were told, too."""

    hold_out: tuple[str, ...] | None = None
    """Regions never trained on; default the study's four where present."""

    balance: Literal["map", "classes", "drawn"] = "map"
    """What a row weighs: ``map`` as the land it stands for; ``classes`` that, but both classes alike; ``drawn`` every
    row the same. Calibration brings each back to the prevalence of the map."""

    suspects: Literal["keep", "drop", "weigh"] = "keep"
    """Rows whose label is probably wrong, by models that never saw them: only counted, left out of the final fit, or
    weighed in it by how probable their label is. The folds, which calibrate, choose the threshold and are scored, have
    all rows as they are."""

    folds: Annotated[int, Field(ge=2, le=20)] = 4
    """Parts of the training regions (of one region's 10 km blocks); each is scored by a model of the others, and
    these scores calibrate the model, choose its threshold and find suspect rows."""

    calibrate: Literal["isotonic", "platt", "none"] = "isotonic"
    """How scores become probabilities."""

    threshold_rule: Literal["f1", "precision", "recall", "area"] = "f1"
    """Threshold of largest F1; of largest recall at a precision, or largest precision at a recall, of at least
    ``threshold_target``; or whose mapped area is the true one."""

    threshold_target: Fraction = 0.9


class TuneParams(Params):
    """How `mangroves tune` searches for a classifier."""

    candidates: tuple[str, ...] | None = None
    """Pipelines to try (``docs/tuning.md``); default all. The baseline ``cart`` is always among them."""

    trials: Annotated[int, Field(ge=1, le=100_000)] = 64
    """Fits to try, each on all folds; the first of every candidate takes its defaults."""

    minutes: Annotated[float, Field(gt=0)] | None = None
    """After these no further batch is asked for; such a search does not repeat."""

    batch: Annotated[int, Field(ge=1, le=1024)] = 8
    """Trials asked for at once, whatever the number of workers; part of what is asked, like the seed."""

    folds: Annotated[int, Field(ge=2, le=100)] = 5
    repeats: Annotated[int, Field(ge=1, le=100)] = 3
    """Regions are dealt to folds anew for each; where there is one region, its 10 km blocks."""

    objective: Literal["auc", "average_precision", "f1", "brier", "logloss"] = "auc"
    """Wall to wall against the mask; ``f1`` at the threshold that suits the fold best."""

    rows: Annotated[int, Field(ge=100, le=20_000_000)] = 60_000
    """Rows the search looks at, at most, shared out alike among regions and classes."""


class ClassifyParams(Params):
    """How probability becomes class."""

    threshold: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Mangrove where probability, at map prevalence, is at least this; default the model's, by its rule."""

    prevalence: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of the land to be mapped that is mangrove, where it is known to be unlike that of the land trained on:
    probabilities and the model's threshold are moved to it."""


class ChangeParams(Params):
    """What all years together say: change, which years to compare, and how to tally."""

    model: Literal["segments", "hmm"] = "segments"
    """How a pixel's years are told together: ``segments`` parts them into few level stretches; ``hmm`` is a two-state
    hidden Markov model whose rates of loss and gain are estimated for each region."""

    min_looks: Annotated[int, Field(ge=1)] = 1
    """Clear looks below which a pixel's year is missing to its history. Years of fewer than 8 weigh less anyhow."""

    recovery_years: Annotated[int, Field(ge=1, le=20)] = 5
    """A loss that is mangrove again within these is disturbance with recovery; a change in the last of them is
    provisional. 3 compares with CGMD-Extent30."""

    min_area_ha: Annotated[float, Field(gt=0, le=10)] = 0.5
    """Minimum mapping unit: smaller patches of change are told apart, never erased."""

    pairs: tuple[tuple[Year, Year], ...] | None = None
    """Default first against last, and every year against the one before."""

    zones: str | None = None
    """Polygon file for area tallies."""

    by: str | None = None
    """Column of ``zones`` that names them."""

    @property
    def tracing(self) -> dict[str, Any]:
        """What of these decides a history, and so all that is told from it."""
        return self.model_dump(include={"model", "min_looks", "recovery_years", "min_area_ha"})

    @model_validator(mode="after")
    def _zones_by(self) -> ChangeParams:
        if (self.zones is None) != (self.by is None):
            raise ValueError("zones and by belong together: a polygon file and the column that names its zones")
        return self


class AssessParams(Params):
    """Which pixels `mangroves assess` has an interpreter look at."""

    halfwidth: Annotated[float, Field(gt=0, le=10)] = 0.2
    """Half the 95 % interval of the area lost that is aimed at, as a share of the loss the map shows."""

    most: Annotated[int, Field(ge=10, le=1_000_000)] = 3000
    """Points at which to stop, the interval then being wider; the least of every stratum are drawn in any case."""

    min_per_large: Annotated[int, Field(ge=2, le=100_000)] = 400
    """Fewest points of each stratum where the map shows no change: what it missed there weighs most."""

    min_per_stratum: Annotated[int, Field(ge=2, le=100_000)] = 100
    """Fewest points of mapped loss, of mapped gain, and of what was not observed."""

    buffer_px: Annotated[int, Field(ge=0, le=64)] = 2
    """Pixels up to so many rows and columns from mapped change, or an edge of mangrove, are strata of their own."""

    second_reader: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of the points of each stratum that a second interpreter reads too."""


class AboutParams(Params):
    """What catalogs and pages say of the maps that only who makes them knows; decides no result."""

    licence: Annotated[str, Field(pattern=r"[A-Za-z0-9][A-Za-z0-9.+-]{0,63}")] = "other"
    """Of the maps, an SPDX identifier such as ``CC-BY-4.0``; ``other`` is not stated. Landsat data is in the public
    domain; the licences of the masks, which are told beside it, may ask for attribution or more."""

    provider: Annotated[str, Field(max_length=200)] = ""
    """Who made the maps."""

    url: Annotated[str, Field(pattern=r"(https://[!-~]{1,500})?")] = ""
    """Of the provider."""

    citation: Annotated[str, Field(max_length=1000)] = ""
    """How to cite the maps; default their name, years, software and masks."""


class RunParams(Params):
    """One run: an area, years, and how each step works."""

    name: str = "run"
    out: str = "runs"
    """Folder of the run's record, list of scenes and tables, ``out/name``; without ``store`` of all it makes, and then
    client and workers see it under the same path."""

    store: str | None = None
    """``s3://bucket/prefix`` or ``abfs://container@account.dfs.core.windows.net/prefix``: cubes, sample, model, maps
    and change go there, below ``name``. To be allowed by ``--allow-root``; credentials come from the environment."""

    area: AreaParams
    years: tuple[Year, ...]
    season: tuple[str, str] | None = None
    """``[MM-DD, MM-DD]``; may cross the new year and is then labelled by its end year."""

    dates: dict[Year, tuple[dt.date, dt.date]] = {}
    """First and last day of the scenes of some years, in place of calendar year or season:
    ``{2020: [2019-10-01, 2021-03-31]}`` for a year with too few."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    search: SearchParams = SearchParams()
    cube: CubeParams = CubeParams()
    labels: LabelParams = LabelParams()
    habitat: HabitatParams | None = None
    sample: SampleParams = SampleParams()
    train: TrainParams = TrainParams()
    tune: TuneParams = TuneParams()
    classify: ClassifyParams = ClassifyParams()
    change: ChangeParams = ChangeParams()
    assess: AssessParams = AssessParams()
    about: AboutParams = AboutParams()
    skip_bad: bool = False
    """Go on without scenes that cannot be read; each is listed in the record."""

    notice: str = ""
    """Line printed on every output; of simulated scenes it is there without being asked for."""

    @field_validator("name")
    @classmethod
    def _safe_name(cls, value: str) -> str:
        if not _NAME.fullmatch(value) or ".." in value:
            raise ValueError(f"name must be letters, digits, '.', '_' or '-', got {value!r}")
        return value

    @field_validator("years", mode="before")
    @classmethod
    def _years(cls, value: Any) -> Any:
        """Accept 2019, [2018, 2020] and "1988-2024"."""
        if isinstance(value, int):
            return (value,)
        if isinstance(value, str):
            first, _, last = value.partition("-")
            if not (_YEAR.fullmatch(first.strip()) and _YEAR.fullmatch((last or first).strip())):
                raise ValueError(f"years must be a list or 'first-last', got {value!r}")
            return tuple(range(int(first), int(last or first) + 1))
        return value

    @field_validator("years")
    @classmethod
    def _sorted_years(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value:
            raise ValueError("years is empty; name at least one")
        return tuple(sorted(set(value)))

    @field_validator("season")
    @classmethod
    def _season(cls, value: tuple[str, str] | None) -> tuple[str, str] | None:
        if value and not all(_DAY.fullmatch(day) for day in value):
            raise ValueError(f"season must be two MM-DD days, got {list(value)}")
        return value

    @model_validator(mode="after")
    def _years_of_run(self) -> RunParams:
        strange = sorted(set(self.sample.years or ()) - set(self.years))
        if strange:
            raise ValueError(f"sample.years names {strange[0]}, which is not among years")
        for year, (first, last) in self.dates.items():
            if year not in self.years:
                raise ValueError(f"dates names {year}, which is not among years")
            if first > last:
                raise ValueError(f"dates of {year} must be first and last day, got {first} after {last}")
        return self
