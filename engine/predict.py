"""A model over a table from anywhere: probability and class joined to its rows, in bounded memory.

The table is read twice. First its bands alone, to tell naming and scale from all rows, so that neither the order of
rows nor the size of parts decides; then whole, part by part, each written before the next is read. What is not ours
passes through as it is: of a CSV the very bytes of every field.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from engine.errors import ConfigError, ModelError
from engine.files import replacing
from engine.kernels.bins import encode
from engine.kernels.features import COMPOSITE_FEATURES, CONTEXT_FEATURES, MISSING, WATER_MISSING
from engine.kernels.indices import INDEX_MISSING, INDICES, spectral_indices
from engine.landsat import BANDS
from engine.legend import CLASSES, MANGROVE, NOT_OBSERVED, OTHER, PROBABILITY_SCALE, names
from engine.model import BANDS_MODEL, META_FILE, Model, load_model
from engine.naming import BandColumns, Scale, ScaleTally, find_bands, sensor_of, to_dn
from engine.places import Place
from engine.unpacked import TooMuchTextError, bounded_batches, is_text, open_packed

SUFFIXES: Final = (".csv", ".parquet")
"""Kinds of tables; what is written is of the kind that was read."""

MAX_COLUMNS: Final = 4096
MAX_LINE_BYTES: Final = 2**23
"""Longest line of a CSV, and what is read of one at a time."""

MAX_HELD_LINE_BYTES: Final = 2**18
"""The same of a CSV in memory, whose rows are counted that often."""

MAX_TEXT_BYTES: Final = 2**23
"""Longest text of a Parquet table, as the longest line of a CSV."""

_PART_ROWS: Final = 2**16
_PART_VALUES: Final = 2**22  # of wide tables fewer rows at a time
_UNKNOWN: Final = frozenset({"", "na", "n/a", "nan", "null", "none", "-nan", "--"})
_NEEDS_QUOTES: Final = '[",\r\n]'
_SENTINELS: Final = (MISSING, INDEX_MISSING)


Part = dict[str, pa.Array]
"""Columns of some rows by name."""


@dataclass(frozen=True)
class Table:
    """A table on disk, read part by part; or one in memory."""

    path: Path
    """Of one in memory only its name."""

    columns: tuple[str, ...]

    rows: Part | None = None
    """All of a table in memory."""

    @property
    def is_csv(self) -> bool:
        return self.path.suffix.lower() == ".csv"


@dataclass(frozen=True)
class Choice:
    """Which model predicts, and why that one."""

    model: Model
    name: str
    """``full`` or ``bands``."""

    reason: str


@dataclass(frozen=True)
class Survey:
    """What one reading of the bands told of a table."""

    rows: int
    bands: BandColumns
    scale: Scale
    reason: str
    """Why that scale."""

    foreign: dict[str, str]
    """Further columns that are not in the units of our tables -> why."""


@dataclass(frozen=True)
class Outcome:
    """What was written."""

    rows: int
    missing: int
    """Rows without all bands: neither probability nor class."""

    mangrove: int


def open_table(path: Path) -> Table:
    """Read the names of a table's columns.

    Raises
    ------
    ConfigError
        If the file is absent, of another kind, damaged, or has no or too many columns.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"table {path} is neither CSV nor Parquet", fix="give a file named .csv or .parquet")
    with _told(path):
        if not path.is_file():
            raise ConfigError(f"table {path} is not there", fix="check the path")
        if path.suffix.lower() == ".csv":
            with path.open("rb") as file:
                columns = _read_header(file, path)
        else:
            columns = pa.parquet.read_schema(path).names
    if not columns or len(columns) > MAX_COLUMNS:
        raise ConfigError(f"table {path} has {len(columns)} columns", fix=f"give 1 to {MAX_COLUMNS}")
    return Table(path, tuple(columns))


class TooManyRows(Exception):
    """A table has more rows than are taken of it."""


def csv_in_memory(content: bytes, name: str, *, most_rows: int) -> Table:
    """Read a CSV that is in memory as one on disk would be read, no further than so many rows.

    Parameters
    ----------
    content : bytes
    name : str
        What errors call it.
    most_rows : int

    Raises
    ------
    ConfigError
        If it is damaged, has no or too many columns, or two of one name.
    TooManyRows
    """
    path = Path(name)
    with _told(path):
        columns = _read_header(io.BytesIO(content), path)
        if len(columns) > MAX_COLUMNS:
            raise ConfigError(f"table {path} has {len(columns)} columns", fix=f"give 1 to {MAX_COLUMNS}")
        if twice := [one for one, count in Counter(columns).items() if count > 1]:
            raise ConfigError(f"table {path} names column {twice[0][:40]!r} twice", fix="keep one of them")
        batches, rows_read = [], 0
        for batch in _csv_batches(
            pa.py_buffer(content), len(columns), range(len(columns)), most_bytes=MAX_HELD_LINE_BYTES
        ):
            batches.append(batch)
            rows_read += batch.num_rows
            if rows_read > most_rows:
                raise TooManyRows
    found = pa.Table.from_batches(batches).combine_chunks() if batches else None
    rows = {
        one: pa.array([], pa.binary()) if found is None or not found.num_rows else found.column(place).chunk(0)
        for place, one in enumerate(columns)
    }
    return Table(path, tuple(columns), rows)


def choose_model(
    full: Model, folder: Place, table: Table, *, foreign: Mapping[str, str] = MappingProxyType({})
) -> Choice:
    """Return the richest model of a folder whose features a table has.

    Parameters
    ----------
    full : Model
        The model of the folder itself.
    folder : Path or ObjectPath
        Model directory; a second model may lie in its ``bands``.
    table : Table
        Bands and indices come from its bands, every other feature from the column of that name.
    foreign : mapping of str to str
        Columns that are not in the units of our tables -> why.

    Raises
    ------
    ModelError
        If that second model is damaged, or neither can do with the table.
    """
    why = why_not(full, table, foreign)
    if not why:
        further = further_features(full)
        has = f"bands and {len(further)} further features of" if further else "the bands of"
        return Choice(full, "full", f"the table has {has} the full model")
    bands = load_bands_model(folder)
    if bands is None:
        raise ModelError(f"{why}, and {folder} has no model of bands alone", fix="train it with this version")
    return Choice(bands, BANDS_MODEL, why)


def why_not(full: Model, table: Table, foreign: Mapping[str, str]) -> str:
    """Return why the full model of a folder cannot do with a table; empty if it can."""
    further = further_features(full)
    if lacks := [name for name in further if name not in table.columns]:
        return f"the table lacks {_few(lacks)} of the full model's {len(full.features)} features"
    return next((f"column {name} {foreign[name]}" for name in further if name in foreign), "")


def load_bands_model(folder: Place) -> Model | None:
    """Return the model of bands alone that lies in the folder of another; None if there is none.

    Raises
    ------
    ModelError
        If it is damaged, or needs more than bands.
    """
    beside = folder / BANDS_MODEL
    if not (beside / META_FILE).is_file():
        return None
    bands = load_model(beside)
    if wanted := further_features(bands):
        raise ModelError(f"model {beside} needs {_few(wanted)}, which are no bands", fix="train it with this version")
    return bands


def further_features(model: Model) -> list[str]:
    """Return the features that do not follow from the six bands of one composite."""
    return [name for name in model.features if name not in COMPOSITE_FEATURES]


def survey_table(
    table: Table, *, sensor: str | None = None, scale: Scale | None = None, further: Sequence[str] = ()
) -> Survey:
    """Find the bands of a table and read them once, to tell their scale.

    Parameters
    ----------
    table : Table
    sensor : str, optional
        Key of ``naming.SENSORS``; else names, platform and numbers decide.
    scale : str, optional
        One of ``naming.SCALES``; else the values decide.
    further : sequence of str
        Columns that are to be features as they are.

    Raises
    ------
    ConfigError
        If bands are missing or ambiguous, hold text or a temperature, or their scale is not clear; or there are no
        rows.
    """
    bands = find_bands(table.columns, sensor=sensor)
    present = [name for name in further if name in table.columns]
    tally, rows, foreign = ScaleTally(), 0, dict[str, str]()
    for part in _parts(table, [*bands.columns, *present]):
        tally.add(_band_values(part, bands, rows))
        for name in present:
            values = _numbers(part[name], name, rows)
            if (np.isfinite(values) & (values != np.rint(values))).any():
                foreign[name] = "holds fractions, where tables of this project hold whole numbers (index x 10 000)"
        rows += len(next(iter(part.values())))
    if not rows:
        raise ConfigError(f"table {table.path} has no rows", fix="give at least one")
    tally.check_band_6(bands)
    found, reason = tally.decide() if scale is None else (scale, _beside(tally, scale))
    if found != "dn":
        foreign |= {name: "is of bands that are not DN" for name in present if name in CONTEXT_FEATURES}
    return Survey(rows, bands, found, reason, foreign)


def _beside(tally: ScaleTally, scale: Scale) -> str:
    """Return the reason of a scale that was given, and what the values say where that is another."""
    try:
        told, reason = tally.decide()
    except ConfigError:
        return "by --scale"
    return "by --scale" if told == scale else f"by --scale {scale}, though the values say {told}: {reason}"


def predict_table(
    table: Table, out: Path, model: Model, survey: Survey, *, prefix: str = "", about: dict[str, Any] | None = None
) -> Outcome:
    """Write a table again with ``probability`` and ``class`` behind its own columns, and the model's notice if any.

    Parameters
    ----------
    table : Table
    out : Path
        File to write, of the table's kind; whole or not at all.
    model : Model
        From ``choose_model``.
    survey : Survey
        From ``survey_table``.
    prefix : str
        Put before the names of the columns added.
    about : dict, optional
        JSON kept as ``mangroves`` in the metadata of a Parquet table; a CSV has no place for it.

    Returns
    -------
    Outcome

    Raises
    ------
    ConfigError
        If the table has such columns, ``out`` is the table or of another kind, or the table changed meanwhile.
    StoreError
        If ``out`` cannot be written.

    Notes
    -----
    ``probability`` is rounded to 1e-4 and ``class`` follows from what is written, as in the maps, so that neither
    contradicts the other or a map of the same pixels.
    """
    notice = notice_of(model)
    added = check_output(table, out, prefix, notice=notice)
    used = [*survey.bands.columns, *further_features(model)]
    done = missing = mangrove = 0
    with replacing(out) as temporary:
        write = _csv_writer if table.is_csv else _parquet_writer
        with write(table, temporary, added, {"notice": notice, **(about or {})}) as append:
            for raw, part in _whole_parts(table, used):
                probability, classes = predict_part(part, model, survey, done)
                append(raw, probability, classes)
                done += classes.size
                missing += int((classes == NOT_OBSERVED).sum())
                mangrove += int((classes == MANGROVE).sum())
        if done != survey.rows:
            raise ConfigError(f"table {table.path} changed while it was read", fix="run the same command again")
    return Outcome(done, missing, mangrove)


def notice_of(model: Model) -> str:
    """Return the line that must not be lost, of what a model learnt from: that it was simulated."""
    return str(model.metrics.get("notice", ""))


def check_output(table: Table, out: Path, prefix: str = "", *, notice: str = "") -> tuple[str, ...]:
    """Return the names of the columns that are added, if they can be: two, and one for the notice if there is one.

    Raises
    ------
    ConfigError
        If the table has one of them, the prefix is no plain name, or ``out`` is the table or of another kind.
    """
    if not re.fullmatch(r"[A-Za-z0-9_]{0,64}", prefix):
        raise ConfigError(f"--prefix {prefix[:80]!r} is not a plain name", fix="letters, digits and '_' only")
    added = tuple(f"{prefix}{name}" for name in ("probability", "class", "notice"))[: 3 if notice else 2]
    if there := [name for name in added if name in table.columns]:
        raise ConfigError(
            f"table {table.path} has a column {there[0]!r} already", fix="drop it, or give another --prefix"
        )
    if out.suffix.lower() != table.path.suffix.lower():
        raise ConfigError(f"-o {out} is not of the table's kind", fix=f"end its name in {table.path.suffix}")
    if out.exists() and out.samefile(table.path):
        raise ConfigError(f"-o {out} is the table itself", fix="give it another name")
    return added


def features_of(dn: np.ndarray, names: Sequence[str], further: dict[str, np.ndarray]) -> np.ndarray:
    """Return a model's features of some rows.

    Parameters
    ----------
    dn : ndarray of uint16, shape (6, row)
        Collection-2 digital numbers, 0 where a row has none.
    names : sequence of str
        Features, in this order.
    further : dict of str to ndarray of float64, shape (row,)
        Features that are no bands or indices, in the units of our tables.

    Returns
    -------
    ndarray of int32, shape (feature, row)
        ``kernels.features.MISSING`` where missing.
    """
    indices = spectral_indices(dn)
    features = np.empty((len(names), dn.shape[1]), np.int32)
    for row, name in zip(features, names, strict=True):
        if name in BANDS:
            row[:] = dn[BANDS.index(name)]
        elif name in INDICES:
            row[:] = indices[INDICES.index(name)]
        else:
            values = further[name]
            unknown = ~np.isfinite(values) | np.isin(values, _SENTINELS) | (np.abs(values) >= 2**31)
            if name == "water_frequency":
                unknown |= values == WATER_MISSING
            row[:] = np.where(unknown, MISSING, np.where(unknown, 0, values))
    features[:, dn[0] == 0] = MISSING
    return features


def predict_part(part: Part, model: Model, survey: Survey, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return what a model says of some rows.

    Parameters
    ----------
    part : dict of str to pyarrow.Array
        The columns of ``survey``'s bands, and the model's further features.
    model : Model
        From ``choose_model``.
    survey : Survey
        From ``survey_table``, of the whole table.
    first : int
        Number of the first of these rows in the table, from 0, for errors.

    Returns
    -------
    probability : ndarray of uint16, shape (row,)
        x 10 000, as maps hold it; 0 where a band is missing.
    classes : ndarray of uint8, shape (row,)
        Codes of ``legend.CLASSES``: not observed where a band is missing.

    Raises
    ------
    ConfigError
        If a column holds something else.
    """
    dn = to_dn(_band_values(part, survey.bands, first), survey.scale)
    further = {name: _numbers(part[name], name, first) for name in further_features(model)}
    known = dn[0] > 0
    codes = encode(features_of(dn, model.features, further)[:, known], model.edges)
    probability = np.zeros(known.size, np.uint16)
    probability[known] = model.probability(codes)
    mangrove = model.is_mangrove(probability)
    return probability, np.where(known, np.where(mangrove, MANGROVE, OTHER), NOT_OBSERVED).astype(np.uint8)


def _band_values(part: Part, bands: BandColumns, first: int) -> np.ndarray:
    """Return the bands of some rows as float64 (6, row), NaN where missing."""
    numbers = {column: _numbers(part[column], column, first) for column in bands.columns if column != bands.platform}
    by_sensor = {name: np.stack([numbers[one] for one in columns]) for name, columns in bands.by_sensor.items()}
    if bands.platform is None:
        [values] = by_sensor.values()
        return values
    sensors = _sensors(part[bands.platform], bands)
    values = np.full((len(BANDS), len(sensors)), np.nan)
    for name, own in by_sensor.items():
        values[:, sensors == name] = own[:, sensors == name]
    return values


def _sensors(platforms: pa.Array, bands: BandColumns) -> np.ndarray:
    """Return the sensor of each row by its platform, ``""`` where that is missing."""
    coded = _decoded(platforms).dictionary_encode()
    found = []
    for platform in coded.dictionary.to_pylist():
        sensor = sensor_of(platform) if platform.strip().lower() not in _UNKNOWN else ""
        if sensor is None:
            raise ConfigError(
                f"column {bands.platform!r} says {platform[:40]!r}, which is no Landsat platform of bands 1 to 7",
                fix="say how the bands are numbered: --sensor oli or --sensor tm",
            )
        if sensor and sensor not in bands.by_sensor:
            [there] = bands.by_sensor.items()
            raise ConfigError(
                f"column {bands.platform!r} says {platform[:40]!r}, but of numbered bands only those of {there[0]} are "
                f"there: {', '.join(there[1])}",
                fix="add the missing bands, or say --sensor",
            )
        found.append(sensor)
    # The last stands for rows without a platform.
    return np.array([*found, ""])[np.asarray(pc.fill_null(coded.indices, len(found)))]


def _numbers(column: pa.Array, name: str, first: int) -> np.ndarray:
    """Return a column as float64, NaN where missing; ``first`` is the number of its first row, from 0."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_null(column.type):
        return np.full(len(column), np.nan)
    if is_text(column.type):
        text = pc.utf8_trim_whitespace(_decoded(column))
        text = pc.if_else(pc.is_in(pc.utf8_lower(text), pa.array(sorted(_UNKNOWN))), None, text)
        try:
            column = pc.cast(text, pa.float64())
        except pa.ArrowInvalid:
            row, value = next((i, v) for i, v in enumerate(text.to_pylist()) if v is not None and not _is_number(v))
            raise ConfigError(
                f"column {name!r} holds text: {value[:40]!r} in row {first + row + 1}", fix="leave unknown values empty"
            ) from None
    elif not (
        pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_decimal(column.type)
    ):
        raise ConfigError(f"column {name!r} is {str(column.type)[:40]}, not numbers", fix="give numbers")
    values = column.cast(pa.float64(), safe=False)
    return np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.float64)


def _is_number(text: str) -> bool:
    try:
        pc.cast(pa.array([text]), pa.float64())
    except pa.ArrowInvalid:
        return False
    return True


def _decoded(column: pa.Array) -> pa.Array:
    """Return a column as text; what is not UTF-8 as its hexadecimal digits would be, which no number or name is."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    try:
        return column.cast(pa.string())
    except pa.ArrowInvalid:
        return pa.array([None if v is None else v.decode("utf-8", "replace") for v in column.to_pylist()], pa.string())


def _few(items: Sequence[str]) -> str:
    return ", ".join(items[:3]) + (f" and {len(items) - 3} more" if len(items) > 3 else "")


# --- reading ---------------------------------------------------------------------------------------------------


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Tell in one line what is wrong with a table that cannot be read."""
    try:
        yield
    except (pa.ArrowException, UnicodeDecodeError, csv.Error) as error:
        reason = " ".join(str(error).split())[:160]
        raise ConfigError(f"table {path} cannot be read ({reason})", fix="write it again") from error
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())[:160]
        raise ConfigError(f"table {path} cannot be read ({reason})", fix="see to the file") from error


def _read_header(file: BinaryIO, path: Path) -> list[str]:
    line = file.readline(MAX_LINE_BYTES)
    if len(line) == MAX_LINE_BYTES:
        raise ConfigError(f"table {path} begins with a line of more than {MAX_LINE_BYTES >> 20} MB", fix="give a CSV")
    if not line.strip():
        raise ConfigError(f"table {path} is empty", fix="give a table whose first line names its columns")
    text = line.decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    [columns] = csv.reader([text], strict=True)
    if len(columns) == 1 and any(mark in text for mark in ";\t|"):
        raise ConfigError(f"table {path} does not part its columns by commas", fix="write it with commas")
    return columns


def _parts(table: Table, wanted: Sequence[str]) -> Iterator[Part]:
    """Yield some columns of a table, part by part, by name."""
    if table.rows is not None:
        yield {name: table.rows[name] for name in wanted}
        return
    places = [table.columns.index(name) for name in wanted]
    with _told(table.path):
        if table.is_csv:
            for batch in _csv_batches(table.path, len(table.columns), places):
                yield dict(zip(wanted, batch.columns, strict=True))
        else:
            with open_packed(table.path) as file:
                for batch in _parquet_batches(table, file, _PART_ROWS, list(wanted)):
                    yield {name: batch.column(name) for name in wanted}


def _whole_parts(table: Table, wanted: Sequence[str]) -> Iterator[tuple[pa.RecordBatch, Part]]:
    """Yield all of a table, part by part, and of each some columns by name."""
    places = {name: table.columns.index(name) for name in wanted}
    with _told(table.path), ExitStack() as stack:
        if table.is_csv:
            batches = _csv_batches(table.path, len(table.columns), range(len(table.columns)))
        else:
            file = stack.enter_context(open_packed(table.path))
            batches = _parquet_batches(table, file, max(1, min(_PART_ROWS, _PART_VALUES // len(table.columns))))
        for batch in batches:
            yield batch, {name: batch.column(place) for name, place in places.items()}


def _parquet_batches(
    table: Table, file: pa.parquet.ParquetFile, rows: int, columns: list[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """Yield columns of a Parquet table."""
    kinds = {field.name: field.type for field in pa.parquet.read_schema(table.path)}
    size = table.path.stat().st_size
    try:
        yield from bounded_batches(file, kinds, rows, file_bytes=size, columns=columns, most_text_bytes=MAX_TEXT_BYTES)
    except TooMuchTextError as error:
        if error.column:
            raise ConfigError(
                f"column {error.column[:80]!r} of table {table.path} holds a text of {error.size >> 20} MB",
                fix=f"drop the column, or keep texts under {MAX_TEXT_BYTES >> 20} MB",
            ) from None
        raise ConfigError(
            f"table {table.path} of {size >> 10} KB unpacks to over {error.size >> 20} MB of text",
            fix="drop the columns of repeated text",
        ) from None


def _csv_batches(
    source: Path | pa.Buffer, columns: int, places: Sequence[int], *, most_bytes: int | None = None
) -> Iterator[pa.RecordBatch]:
    """Yield columns of a CSV as bytes, so that whatever was in them can be written again, ``most_bytes`` at a time."""
    with io.BytesIO(source) if isinstance(source, pa.Buffer) else source.open("rb") as file:
        file.readline(MAX_LINE_BYTES)
        if not file.read(1):
            return  # a header alone
    used = [f"f{place}" for place in places]
    reader = pa.csv.open_csv(
        pa.BufferReader(source) if isinstance(source, pa.Buffer) else source,
        pa.csv.ReadOptions(
            block_size=most_bytes or MAX_LINE_BYTES, skip_rows=1, column_names=[f"f{place}" for place in range(columns)]
        ),
        pa.csv.ParseOptions(newlines_in_values=True),
        pa.csv.ConvertOptions(check_utf8=False, column_types=dict.fromkeys(used, pa.binary()), include_columns=used),
    )
    with reader:
        yield from reader


# --- writing ---------------------------------------------------------------------------------------------------

Append = Callable[[pa.RecordBatch, np.ndarray, np.ndarray], None]
"""Takes rows, their probability x 10 000 and the codes of their classes."""

_CLASS_NAMES: Final = [None, *(names(CLASSES)[code] for code in (OTHER, MANGROVE))]


@contextmanager
def _csv_writer(table: Table, path: Path, added: Sequence[str], about: dict[str, Any]) -> Iterator[Append]:
    shown = pa.array([f"{value / PROBABILITY_SCALE:.4f}" for value in range(PROBABILITY_SCALE + 1)] + [""])
    shown, labels = shown.cast(pa.binary()), pa.array([name or "" for name in _CLASS_NAMES]).cast(pa.binary())
    notice = _quoted(pa.array([about["notice"].encode()]))[0]
    comma = pa.scalar(b",", pa.binary())
    with path.open("wb") as file:
        header = pa.array([name.encode("utf-8", "surrogateescape") for name in (*table.columns, *added)], pa.binary())
        file.write(b",".join(_quoted(header).to_pylist()) + b"\n")

        def append(raw: pa.RecordBatch, probability: np.ndarray, classes: np.ndarray) -> None:
            place = np.where(classes == NOT_OBSERVED, PROBABILITY_SCALE + 1, probability)
            ours = [shown.take(pa.array(place)), labels.take(pa.array(classes)), notice][: len(added)]
            lines = pc.binary_join_element_wise(*(_quoted(column) for column in raw.columns), *ours, comma)
            file.write(b"\n".join(lines.to_pylist()) + b"\n")

        yield append


def _quoted(fields: pa.Array) -> pa.Array:
    """Put quotes round the fields that hold a comma, a quote or a line's end."""
    wanted = pc.match_substring_regex(fields, _NEEDS_QUOTES)
    if not pc.any(wanted).as_py():
        return fields
    inner = pc.replace_substring(fields, b'"', b'""')
    quote = pa.scalar(b'"', pa.binary())
    return pc.if_else(wanted, pc.binary_join_element_wise(quote, inner, quote, pa.scalar(b"", pa.binary())), fields)


@contextmanager
def _parquet_writer(table: Table, path: Path, added: Sequence[str], about: dict[str, Any]) -> Iterator[Append]:
    with _told(table.path):
        schema = pa.parquet.read_schema(table.path)
    for name, kind in zip(added, (pa.float64(), pa.string(), pa.string()), strict=False):
        schema = schema.append(pa.field(name, kind))
    schema = schema.with_metadata({**(schema.metadata or {}), b"mangroves": json.dumps(about).encode()})
    labels = pa.array(_CLASS_NAMES, pa.string())
    with pa.parquet.ParquetWriter(path, schema) as writer:

        def append(raw: pa.RecordBatch, probability: np.ndarray, classes: np.ndarray) -> None:
            share = pa.array(probability / PROBABILITY_SCALE, mask=classes == NOT_OBSERVED)
            notice = pa.repeat(about["notice"], len(classes))
            ours = [share, labels.take(pa.array(classes)), notice][: len(added)]
            writer.write_batch(pa.RecordBatch.from_arrays([*raw.columns, *ours], schema=schema))

        yield append
