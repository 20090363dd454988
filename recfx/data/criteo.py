"""Criteo display advertising data: raw rows from files.

Two formats are read:

- the challenge's `train.txt`, also gzipped: a line is `label \\t 13 integers \\t 26 eight-digit hexadecimal values`, and
  an empty field is a missing value;
- an `.npz` with `label`, integer [N] of 0 and 1; `dense`, integer [N, 13] with -1000000 for missing values; and `cat`,
  unsigned integer [N, 26], the value of the hexadecimal digits, with 0 for missing values.

`recfx.data.encode_ctr` turns the rows into model inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recfx.data._criteo_text import MISSING_DENSE, N_DENSE, N_SPARSE, read_text
from recfx.data._files import ArraySpec, load_npz, require_file
from recfx.errors import DataError

__all__ = ["MISSING_DENSE", "N_DENSE", "N_SPARSE", "CriteoRows", "find_criteo", "read_criteo"]

_NPZ = {
    "label": ArraySpec((None,), kinds="iub"),
    "dense": ArraySpec((None, N_DENSE), kinds="i"),
    "cat": ArraySpec((None, N_SPARSE), kinds="iu"),
}
_TEXT_NAMES = ("train.txt", "train.txt.gz")


@dataclass(frozen=True)
class CriteoRows:
    """Rows of the Criteo challenge before any encoding.

    Attributes:
        label: int8 [N], 1 for a click.
        dense: int32 [N, 13]; missing is `MISSING_DENSE`.
        cat: uint32 [N, 26]; missing is 0.
    """

    label: NDArray[np.int8]
    dense: NDArray[np.int32]
    cat: NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.label)


def read_criteo(path: Path, max_rows: int | None = None) -> CriteoRows:
    """Reads Criteo rows from text, gzipped text or `.npz`.

    Args:
        path: The file. A file with the suffix `.npz` is an archive; any other file is text.
        max_rows: The largest number of rows to read (the challenge's 45 million rows take 7 GB of memory); None
            reads all.

    Raises:
        DataError: `max_rows` is below 1, or the file is missing, empty, or malformed; the message names the line and
            field, or the array.
    """
    require_file(path, "Criteo data")
    if max_rows is not None and max_rows < 1:
        raise DataError(f"max_rows must be at least 1, got {max_rows}", hint="pass 1 or more")
    rows = _read_npz(path, max_rows) if path.suffix == ".npz" else _read_all_text(path, max_rows)
    if len(rows) == 0:
        raise DataError("the file holds no rows", where=str(path), hint="download it again")
    return rows


def find_criteo(folder: Path) -> Path | None:
    """The Criteo file in a folder: `train.txt`, `train.txt.gz`, or the first `criteo*.npz|txt|gz`; None without one.

    A `train.txt` counts only if its first line contains tabs: other data sets use the same name.
    """
    for name in _TEXT_NAMES:
        candidate = folder / name
        if candidate.is_file() and (name.endswith(".gz") or _has_tabs(candidate)):
            return candidate
    found = (p for p in sorted(folder.glob("criteo*")) if p.suffix in (".npz", ".txt", ".gz") and p.is_file())
    return next(found, None)


def _has_tabs(path: Path) -> bool:
    with path.open("rb") as file:
        return b"\t" in file.readline(1 << 16)


def _read_all_text(path: Path, max_rows: int | None) -> CriteoRows:
    blocks = list(read_text(path, max_rows))
    if not blocks:
        raise DataError("the file is empty", where=str(path), hint="download it again")
    label, dense, cat = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    return CriteoRows(label, dense, cat)


def _read_npz(path: Path, max_rows: int | None) -> CriteoRows:
    arrays = {name: array[:max_rows] for name, array in load_npz(path, _NPZ).items()}
    sizes = {name: len(array) for name, array in arrays.items()}
    if len(set(sizes.values())) != 1:
        raise DataError(
            f"the arrays have different numbers of rows: {sizes}", where=str(path), hint="save them together again"
        )
    label, dense, cat = arrays["label"], arrays["dense"], arrays["cat"]
    _require_range(label, 0, 1, f"{path}, array 'label'")
    _require_range(dense, np.iinfo(np.int32).min, np.iinfo(np.int32).max, f"{path}, array 'dense'")
    _require_range(cat, 0, np.iinfo(np.uint32).max, f"{path}, array 'cat'")
    return CriteoRows(label.astype(np.int8), dense.astype(np.int32), cat.astype(np.uint32))


def _require_range(array: NDArray[Any], low: int, high: int, where: str) -> None:
    bad = (array < low) | (array > high)
    outside = np.flatnonzero(bad.any(axis=tuple(range(1, array.ndim))))
    if outside.size:
        raise DataError(
            f"row {outside[0]} holds {array[outside[0]]}, outside {low} to {high}",
            where=where,
            hint="labels are 0 or 1; hexadecimal values and integers fit 32 bits",
        )
