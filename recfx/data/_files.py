"""Readers of data files, with errors that name the file, the array in it, and the next step."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recfx.errors import DataError


@dataclass(frozen=True)
class ArraySpec:
    """The required type and shape of an array in a file.

    Attributes:
        shape: Expected size of each dimension; None accepts any size.
        kinds: Accepted numpy dtype kinds: "i" signed, "u" unsigned, "f" floating, "b" boolean.
    """

    shape: tuple[int | None, ...]
    kinds: str = "iu"

    def describe(self) -> str:
        """The requirement in words, such as "integer [N, 13]"."""
        kind = "integer" if set(self.kinds) <= set("iub") else "numeric"
        return f"{kind} [{', '.join('N' if n is None else str(n) for n in self.shape)}]"

    def accepts(self, array: NDArray[Any]) -> bool:
        """Whether an array has an accepted dtype kind, the rank and the fixed sizes."""
        return (
            array.dtype.kind in self.kinds
            and array.ndim == len(self.shape)
            and all(want in (None, have) for want, have in zip(self.shape, array.shape, strict=True))
        )


def require_file(path: Path, what: str) -> Path:
    """Returns `path` if it is a readable file.

    Args:
        path: The file.
        what: The content of the file, for the message, such as "the MovieLens ratings".

    Raises:
        DataError: The path does not exist or is a folder.
    """
    if path.is_dir():
        raise DataError(
            f"{what} should be a file, and this is a folder", where=str(path), hint="pass the path of a file in it"
        )
    if not path.is_file():
        raise DataError(f"{what}: no such file", where=str(path), hint="check the path, or fetch the data set")
    return path


def load_npz(path: Path, specs: Mapping[str, ArraySpec]) -> dict[str, NDArray[Any]]:
    """Reads the named arrays of an `.npz` and checks each against its spec; it ignores other arrays.

    Raises:
        DataError: The file is not an `.npz` or damaged, or an array is missing or has another dtype or shape.
    """
    require_file(path, "an .npz archive")
    layout = ", ".join(f"{name}: {spec.describe()}" for name, spec in specs.items())
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise DataError("the file holds one bare array", where=str(path), hint=f"expected {layout}")
        with archive:
            missing = [name for name in specs if name not in archive.files]
            if missing:
                raise DataError(
                    f"the archive has no array {', '.join(map(repr, missing))} (it has {archive.files})",
                    where=str(path),
                    hint=f"expected {layout}",
                )
            arrays: dict[str, NDArray[Any]] = {name: archive[name] for name in specs}
    except DataError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"the archive cannot be read: {error}",
            where=str(path),
            hint="the file is damaged or not an .npz; copy or download it again",
        ) from error
    for name, spec in specs.items():
        if not spec.accepts(arrays[name]):
            raise DataError(
                f"the array is {arrays[name].dtype} {list(arrays[name].shape)}, expected {spec.describe()}",
                where=f"{path}, array {name!r}",
                hint=f"expected {layout}",
            )
    return arrays


def parquet_table(path: Path) -> Any:
    """A Parquet file as a pyarrow.Table.

    Raises:
        DataError: pyarrow is not installed, or the file is not Parquet.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(
            "reading Parquet files needs pyarrow, which is not installed",
            where=str(path),
            hint='pip install "recfx[data]"  (or: pip install pyarrow)',
        ) from error
    try:
        return pyarrow.parquet.read_table(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(
            f"the Parquet file cannot be read: {error}", where=str(path), hint="copy or download it again"
        ) from error


def read_parquet(path: Path, columns: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Reads columns of a Parquet file as NumPy arrays; string columns become object arrays.

    Raises:
        DataError: pyarrow is not installed, the file is not Parquet, or a column is missing or holds nulls.
    """
    require_file(path, "a Parquet file")
    table = parquet_table(path)
    out: dict[str, NDArray[Any]] = {}
    for name in columns:
        if name not in table.column_names:
            raise DataError(
                f"the Parquet file has no column {name!r} (it has {table.column_names})",
                where=str(path),
                hint=f"expected the columns {list(columns)}",
            )
        column = table.column(name)
        if column.null_count:
            raise DataError(
                f"the column holds {column.null_count} null values",
                where=f"{path}, column {name!r}",
                hint="remove the rows with null values",
            )
        out[name] = column.to_numpy()
    return out


def require_integers(array: NDArray[Any], where: str) -> NDArray[np.int64]:
    """Casts an integer array to int64.

    Raises:
        DataError: The array does not have an integer dtype.
    """
    if array.dtype.kind not in "iu":
        raise DataError(f"expected integers, got {array.dtype}", where=where, hint="save the values as integers")
    return array.astype(np.int64)
