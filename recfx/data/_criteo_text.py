"""The text format of the Criteo display advertising challenge, parsed in blocks of bytes.

A line is `label \\t 13 integers \\t 26 categorical values`. An empty field is a missing value, and a categorical value
has eight hexadecimal digits. NumPy converts whole blocks of lines into arrays, without Python code for each line or
field.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NoReturn, cast

import numpy as np
from numpy.typing import NDArray

from recfx.errors import DataError

N_DENSE = 13
N_SPARSE = 26
N_FIELDS = 1 + N_DENSE + N_SPARSE
MISSING_DENSE = -1_000_000
BLOCK_BYTES = 1 << 23

Bytes = NDArray[np.uint8]
Rows = tuple[NDArray[np.int8], NDArray[np.int32], NDArray[np.uint32]]

_TAB, _NEWLINE, _MINUS, _ZERO = 9, 10, 45, 48
_MAX_DIGITS = 11  # "-2147483648"
_HEX = np.full(256, 255, np.uint8)
for _digit, _char in enumerate("0123456789abcdef"):
    _HEX[ord(_char)] = _HEX[ord(_char.upper())] = _digit


def read_text(path: Path, max_rows: int | None = None) -> Iterator[Rows]:
    """Yields `(label int8 [n], dense int32 [n, 13], cat uint32 [n, 26])`, block by block.

    Missing integers are `MISSING_DENSE`, missing categorical values are 0.

    Args:
        path: Plain text, or gzip if the file starts with gzip's magic number.
        max_rows: The largest number of rows to read; None reads all.

    Raises:
        DataError: A line has another number of fields, a field cannot be parsed, or the gzip data are damaged.
    """
    line = 1
    for block in _line_blocks(path):
        label, dense, cat = _parse(np.frombuffer(block, np.uint8), line, path)
        line += len(label)
        if max_rows is not None and line - 1 >= max_rows:
            keep = len(label) - (line - 1 - max_rows)
            yield label[:keep], dense[:keep], cat[:keep]
            return
        yield label, dense, cat


def _open(path: Path) -> IO[bytes]:
    with path.open("rb") as probe:
        zipped = probe.read(2) == b"\x1f\x8b"
    return cast("IO[bytes]", gzip.open(path, "rb")) if zipped else path.open("rb")


def _line_blocks(path: Path) -> Iterator[bytes]:
    """Blocks of whole lines, each ending in a newline, without carriage returns."""
    rest = b""
    try:
        with _open(path) as file:
            while chunk := file.read(BLOCK_BYTES):
                rest += chunk
                cut = rest.rfind(b"\n") + 1
                if cut:
                    yield rest[:cut].replace(b"\r\n", b"\n")
                    rest = rest[cut:]
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(
            f"the file cannot be read to its end: {error}",
            where=str(path),
            hint="the file is damaged or cut short; download it again",
        ) from error
    if rest:
        yield rest.replace(b"\r\n", b"\n").removesuffix(b"\r") + b"\n"


def _parse(text: Bytes, first_line: int, path: Path) -> Rows:
    separators = np.flatnonzero((text == _TAB) | (text == _NEWLINE))
    _check_field_counts(text, separators, first_line, path)
    ends = separators.reshape(-1, N_FIELDS)
    starts = np.concatenate([[0], separators[:-1] + 1]).reshape(-1, N_FIELDS)
    lengths = ends - starts
    label = _parse_label(text, starts[:, 0], lengths[:, 0])
    dense, dense_ok = _parse_integers(text, ends[:, 1 : 1 + N_DENSE], lengths[:, 1 : 1 + N_DENSE])
    cat, cat_ok = _parse_hex(text, starts[:, 1 + N_DENSE :], lengths[:, 1 + N_DENSE :])
    good = np.concatenate([(label <= 1)[:, None], dense_ok, cat_ok], axis=1)
    if not good.all():
        row, field = divmod(int(np.flatnonzero(~good.ravel())[0]), N_FIELDS)
        content = text[starts[row, field] : ends[row, field]].tobytes()
        _fail_field(content, field, first_line + row, path)
    return label.astype(np.int8), dense, cat


def _check_field_counts(text: Bytes, separators: NDArray[Any], first_line: int, path: Path) -> None:
    newlines = np.flatnonzero(text[separators] == _NEWLINE)
    fields = np.diff(newlines, prepend=-1)
    wrong = np.flatnonzero(fields != N_FIELDS)
    if wrong.size:
        raise DataError(
            f"the line has {fields[wrong[0]]} tab-separated fields, expected {N_FIELDS}: label, "
            f"{N_DENSE} integers, {N_SPARSE} categorical values",
            where=f"{path}, line {first_line + int(wrong[0])}",
            hint="check for a line that is cut short, other columns or another separator; the challenge's test.txt has no "
            "labels and cannot be used",
        )


def _parse_label(text: Bytes, starts: NDArray[Any], lengths: NDArray[Any]) -> Bytes:
    """The label digits; 255 where the field does not have one character."""
    digit = text[starts] - np.uint8(
        _ZERO
    )  # wraps around below "0", so every character except 0 and 1 gives more than 1
    return np.where(lengths == 1, digit, np.uint8(255))


def _parse_integers(
    text: Bytes, ends: NDArray[Any], lengths: NDArray[Any]
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """The values of decimal integers, computed from the last digit on, and whether each field is well-formed."""
    value = np.zeros(ends.shape, np.int64)
    good = lengths <= _MAX_DIGITS
    negative = (lengths > 1) & (text[ends - lengths] == _MINUS)
    digits = lengths - negative
    for place in range(min(int(digits.max(initial=0)), _MAX_DIGITS)):
        # Before the first digit, a character is read that is not used; a line has more characters than the largest number digits.
        digit = np.where(digits > place, text[ends - 1 - place] - np.uint8(_ZERO), np.uint8(0))
        good &= digit <= 9
        value += digit.astype(np.int64) * 10**place  # below numpy 2, uint8 times int64 can stay uint8
    value[negative] *= -1
    bounds = np.iinfo(np.int32)
    good &= (value >= bounds.min) & (value <= bounds.max)
    return np.where(lengths == 0, MISSING_DENSE, value).astype(np.int32), good


def _parse_hex(
    text: Bytes, starts: NDArray[Any], lengths: NDArray[Any]
) -> tuple[NDArray[np.uint32], NDArray[np.bool_]]:
    """The values of fields of eight hexadecimal digits (0 if empty), and whether each field is well-formed."""
    value = np.zeros(starts.shape, np.uint32)
    present = lengths == 8
    good = present | (lengths == 0)
    for place in range(8):
        digit = _HEX[text[np.where(present, starts + place, 0)]]
        good &= ~present | (digit < 16)
        value = (value << np.uint32(4)) | (digit & np.uint8(15))
    value[~present] = 0
    return value, good


def _fail_field(content: bytes, field: int, line: int, path: Path) -> NoReturn:
    shown = content[:40].decode("utf-8", "replace")
    if field == 0:
        expected = "the label must be 0 or 1"
    elif field <= N_DENSE:
        expected = f"integer feature {field} must be a 32-bit decimal integer or empty"
    else:
        expected = f"categorical feature {field - N_DENSE} must be eight hexadecimal digits or empty"
    raise DataError(
        f"{expected}, got {shown!r}",
        where=f"{path}, line {line}, field {field + 1}",
        hint="correct or delete the line; the file may be cut short or edited",
    )
