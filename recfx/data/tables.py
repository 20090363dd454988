"""Tables of any columns, from CSV and Parquet files, as click-through data.

Columns of floating-point numbers become dense features. All others (integers, text, booleans) become fields of ids, as the categorical
values of Criteo do. A missing number is the mean of its column; a missing value of a field is a value like any other.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from numpy.typing import NDArray

from recfx.data._files import parquet_table, require_file
from recfx.data.ctr import CtrData, CtrSplit, encode_field, split_rows
from recfx.errors import DataError

#: Endings of files that are read as tables.
ENDINGS = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")

_LEAST_ROWS = 10
_MISSING = ""
#: Labels as text.
_LABELS = {0: ("0", "0.0", "false"), 1: ("1", "1.0", "true")}

Columns = dict[str, NDArray[Any]]


def is_table(path: Path) -> bool:
    """Whether a file is read as a table, by its name."""
    return path.name.lower().endswith(ENDINGS)


def read_table(path: Path, label: str, *, max_rows: int | None = None, min_count: int = 3, seed: int = 0) -> CtrData:
    """Reads a table with a column of labels, 0 or 1.

    Args:
        path: A file with one of `ENDINGS`. CSV files have a line of names; TSV files are separated by tabs.
        label: The column of the labels.
        max_rows: Read at most this many rows.
        min_count: See `encode_ctr`.
        seed: Seed of the split.

    Returns:
        Dense features are scaled to mean 0 and standard deviation 1 over the training rows; fields are encoded as by `encode_ctr`.

    Raises:
        DataError: The file cannot be read, has no such column or other columns, or labels are not 0 and 1.
    """
    require_file(path, "a table")
    if max_rows is not None and max_rows < _LEAST_ROWS:
        raise DataError(f"{max_rows} rows are too few to split", where=str(path), hint=f"read {_LEAST_ROWS} or more")
    columns = _parquet(path, max_rows) if path.name.lower().endswith(".parquet") else _text(path, max_rows)
    if label not in columns:
        raise DataError(
            f"the table has no column {label!r}", where=str(path), hint=f"its columns: {', '.join(columns) or 'none'}"
        )
    labels = _labels(columns.pop(label), f"{path}, column {label!r}")
    if not columns:
        raise DataError("the table has no column beside the labels", where=str(path), hint="add columns of features")
    if len(labels) < _LEAST_ROWS:
        raise DataError(f"{len(labels)} rows are too few to split", where=str(path), hint=f"give {_LEAST_ROWS} or more")
    parts = split_rows(len(labels), seed)
    numbers = [column for column in columns.values() if column.dtype.kind == "f"]
    dense = np.stack([_scaled(column, parts[0]) for column in numbers], 1) if numbers else np.zeros((len(labels), 0))
    fields = [encode_field(column, parts[0], min_count) for column in columns.values() if column.dtype.kind != "f"]
    sparse = np.stack([ids for ids, _ in fields], 1) if fields else np.zeros((len(labels), 0), np.int64)
    train, valid, test = (
        CtrSplit(
            torch.from_numpy(dense[rows].astype(np.float32)),
            torch.from_numpy(sparse[rows]),
            torch.from_numpy(labels[rows]),
        )
        for rows in parts
    )
    return CtrData(train, valid, test, tuple(size for _, size in fields), name=path.name)


def _text(path: Path, max_rows: int | None) -> Columns:
    separator = "\t" if ".tsv" in path.name.lower() else ","
    try:
        with _opened(path) as file:
            lines = csv.reader(file, delimiter=separator, strict=True)
            names = next(lines, [])
            rows: list[list[str]] = []
            for row in lines:
                if max_rows is not None and len(rows) == max_rows:
                    break
                if len(row) != len(names):
                    if not row:
                        continue
                    raise DataError(
                        f"the line has {len(row)} values, the first line names {len(names)} columns",
                        where=f"{path}, line {lines.line_num}",
                        hint="mend or delete the line",
                    )
                rows.append(row)
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"the table cannot be read: {error}", where=str(path), hint="save it again as UTF-8") from error
    if len(set(names)) != len(names):
        raise DataError("two columns have the same name", where=f"{path}, line 1", hint="rename one of them")
    return {name: _typed(values) for name, values in zip(names, zip(*rows, strict=True), strict=True)} if rows else {}


def _opened(path: Path) -> TextIO:
    return gzip.open(path, "rt", newline="") if path.suffix == ".gz" else path.open(newline="")


def _typed(values: Sequence[str]) -> NDArray[Any]:
    """Text as integers or floating-point numbers, if all of it is; missing numbers are NaN."""
    held = np.array(values, dtype=np.str_)
    missing = np.char.strip(held) == _MISSING
    for kind in (np.int64, np.float64):
        try:
            numbers = held[~missing].astype(kind)
        except (ValueError, OverflowError):
            continue
        if kind is np.int64 and missing.any():
            return held  # a field of ids, of which some are missing
        column = np.full(len(held), np.nan) if kind is np.float64 else numbers
        column[~missing] = numbers
        return column
    return held


def _parquet(path: Path, max_rows: int | None) -> Columns:
    table = parquet_table(path)
    table = table if max_rows is None else table.slice(0, max_rows)
    return {name: _column(table.column(name), f"{path}, column {name!r}") for name in table.column_names}


def _column(column: Any, where: str) -> NDArray[Any]:
    import pyarrow.types as types

    kind = column.type
    if types.is_floating(kind) or types.is_decimal(kind):
        return np.asarray(column.cast("float64").to_numpy(zero_copy_only=False), np.float64)
    if types.is_nested(kind) or types.is_binary(kind):
        raise DataError(f"columns of {kind} are not read", where=where, hint="split the column, or leave it out")
    if column.null_count or not (types.is_integer(kind) or types.is_boolean(kind)):
        return np.array([_MISSING if value is None else str(value) for value in column.to_pylist()], dtype=np.str_)
    return np.asarray(column.to_numpy(zero_copy_only=False)).astype(np.int64)


def _labels(column: NDArray[Any], where: str) -> NDArray[np.float32]:
    if column.dtype.kind == "U":
        texts = np.char.lower(np.char.strip(column))
        numbers = np.full(len(column), np.nan, np.float32)
        for number, forms in _LABELS.items():
            numbers[np.isin(texts, forms)] = number
    else:
        numbers = column.astype(np.float32)
    wrong = np.flatnonzero(~np.isin(numbers, (0, 1)))
    if wrong.size:
        raise DataError(
            f"row {wrong[0]} has the label {column[wrong[0]]!s}",
            where=where,
            hint="labels are 0 and 1, or true and false",
        )
    return numbers


def _scaled(column: NDArray[Any], train: NDArray[np.int64]) -> NDArray[np.float64]:
    """A column of mean 0 and standard deviation 1 over the training rows; missing numbers are 0."""
    finite = np.where(np.isfinite(column), column, np.nan)
    known = finite[train][~np.isnan(finite[train])]
    mean, spread = (float(known.mean()), float(known.std())) if known.size else (0.0, 0.0)
    scaled: NDArray[np.float64] = np.nan_to_num((finite - mean) / (spread or 1.0))
    return scaled
