"""Parquet whose texts are unpacked only once it is known how much that is.

One entry of a dictionary may stand for a million rows, and a file of 14 KB for a terabyte.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

MOST_TIMES: Final = 1000
"""Bytes of text over those of its file, beyond ``PART_BYTES``."""

PART_BYTES: Final = 2**26
"""Of text, in the rows that are unpacked at once."""


class TooMuchTextError(ValueError):
    """A file unpacks to more text than it may, or a column holds a longer one."""

    def __init__(self, size: int, column: str = "") -> None:
        super().__init__(f"{column or 'all'}: over {size} bytes")
        self.size, self.column = size, column


def open_packed(source: Path | pa.BufferReader) -> pq.ParquetFile:
    """Open a Parquet file so that its texts stay in their dictionaries."""
    leaves = pq.read_metadata(source).schema
    texts = [leaf.path for leaf in map(leaves.column, range(len(leaves))) if leaf.physical_type == "BYTE_ARRAY"]
    # Read ahead, row groups would be held to the end: the whole file (pyarrow 26.0).
    return pq.ParquetFile(source, pre_buffer=False, read_dictionary=texts)


def bounded_batches(
    file: pq.ParquetFile,
    kinds: Mapping[str, pa.DataType],
    rows: int,
    *,
    file_bytes: int,
    columns: Sequence[str] | None = None,
    most_text_bytes: int | None = None,
) -> Iterator[pa.RecordBatch]:
    """Yield columns of a file of ``open_packed``, some rows at a time.

    Parameters
    ----------
    file : ParquetFile
    kinds : mapping
        Type of each column as it is to be yielded.
    rows : int
        Most of a batch.
    file_bytes : int
        Size of the file, by which its text is bounded.
    columns : sequence of str, optional
        Default all.
    most_text_bytes : int, optional
        Longest text of one row.

    Raises
    ------
    TooMuchTextError
        Before what is too much is unpacked.
    """
    limit, unpacked = MOST_TIMES * file_bytes + PART_BYTES, 0
    for batch in file.iter_batches(rows, columns=None if columns is None else list(columns)):
        if not batch.num_rows:
            continue
        lengths = np.zeros(batch.num_rows, np.int64)
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            sizes = text_bytes(column)
            if most_text_bytes is not None and sizes.max() > most_text_bytes:
                raise TooMuchTextError(int(sizes.max()), name)
            lengths += sizes
        unpacked += int(lengths.sum())
        if unpacked > limit:
            raise TooMuchTextError(limit)
        begins = np.flatnonzero(np.diff(np.cumsum(lengths) // PART_BYTES, prepend=-1))
        for begin, end in zip(begins, [*begins[1:], batch.num_rows], strict=True):
            some = batch.slice(begin, end - begin)
            plain = [column.cast(kinds[name]) for name, column in zip(some.schema.names, some.columns, strict=True)]
            yield pa.RecordBatch.from_arrays(plain, names=some.schema.names)


def text_bytes(column: pa.Array) -> np.ndarray:
    """Return the bytes of text of each row of a column whose text is still in dictionaries, however deep it lies."""
    kind = column.type
    if pa.types.is_dictionary(kind) and is_text(kind.value_type):
        return (
            pc.fill_null(pc.binary_length(column.dictionary).take(column.indices), 0).to_numpy(False).astype(np.int64)
        )
    if pa.types.is_struct(kind):
        return np.sum([text_bytes(child) for child in column.flatten()], axis=0, dtype=np.int64)
    if pa.types.is_map(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
        values = (
            pa.StructArray.from_arrays([column.keys, column.items], ["k", "v"])
            if pa.types.is_map(kind)
            else column.values
        )
        ends = np.concatenate([[0], np.cumsum(text_bytes(values))])[column.offsets.to_numpy()]
        return np.diff(ends)
    return np.zeros(len(column), np.int64)


def is_text(kind: pa.DataType) -> bool:
    """Tell whether values of a type are texts or bytes of any length."""
    checks = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_binary)
    return any(check(kind) for check in (*checks, pa.types.is_large_binary))
