"""JSON from files that may be hostile.

`json.loads` accepts more than JSON: repeated keys, NaN, numbers of any length, nesting up to the interpreter's limit, halves of surrogate
pairs. `parse` refuses all of these.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from recfx.errors import ArtifactError

#: Limits of a document.
MOST_BYTES = 32 << 20
MOST_DEPTH = 64
_MOST_DIGITS = 400

_BRACKETS = bytes(b for b in range(256) if b not in b'"[]{}')
#: Characters that strings of a saved folder must not hold: a printed report would send them to a terminal.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def parse(data: bytes, where: str, *, most_bytes: int = MOST_BYTES) -> Any:
    """The value of a JSON document.

    Args:
        data: The document, in UTF-8.
        where: The file's name, for errors.
        most_bytes: The largest accepted size.

    Raises:
        ArtifactError: The document is not JSON, is too large or too deep, or has repeated keys, numbers outside int64 or float64, or
            control characters.
    """
    if len(data) > most_bytes:
        raise ArtifactError(f"the file has {len(data)} bytes, at most {most_bytes} are read", where=where)
    if _depth(data) > MOST_DEPTH:
        raise ArtifactError(f"the file is damaged: it is nested deeper than {MOST_DEPTH} levels", where=where)
    try:
        value = json.loads(
            data.decode(), object_pairs_hook=_unique, parse_constant=_refuse, parse_int=_int, parse_float=_float
        )
    except ValueError as error:  # includes JSONDecodeError and UnicodeDecodeError
        raise ArtifactError(f"the file is damaged: {error}", where=where) from error
    if bad := _control_character(value):
        raise ArtifactError(f"the file is damaged: a string holds the character {bad!r}", where=where)
    return value


def dump(document: Any, indent: int | None = None) -> bytes:
    """A document as JSON. NaN and infinities become objects like `{"float": "nan"}`; see `recfx.formats.records`.

    Raises:
        ArtifactError: A string holds a control character, which `parse` would refuse.
    """
    if bad := _control_character(document):
        raise ArtifactError(
            f"a string with the character {bad!r} cannot be saved",
            hint="rename the input, key or module that contains it",
        )
    return (json.dumps(_finite(document), indent=indent, allow_nan=False) + "\n").encode()


def restored(value: Any) -> Any:
    """The document that was given to `dump`, from the result of `parse`."""
    if isinstance(value, dict):
        if value.keys() == {"float"} and value["float"] in ("nan", "inf", "-inf"):
            return float(value["float"])
        return {key: restored(item) for key, item in value.items()}
    return [restored(item) for item in value] if isinstance(value, list) else value


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _depth(data: bytes) -> int:
    """The deepest nesting of brackets outside strings."""
    rest = data.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _BRACKETS)
    deepest = depth = 0
    quoted = False
    for character in rest:
        if character == 0x22:
            quoted = not quoted
        elif not quoted:
            depth += 1 if character in b"[{" else -1
            deepest = max(deepest, depth)
    return deepest


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:100]!r} occurs twice")
    return found


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not a JSON number")


def _int(text: str) -> int:
    value = int(text) if len(text) <= 20 else 1 << 64
    if not -(1 << 63) <= value < 1 << 63:
        raise ValueError(f"the number {text[:40]} is outside int64")
    return value


def _float(text: str) -> float:
    value = float(text) if len(text) <= _MOST_DIGITS else math.inf
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:40]} is outside float64")
    return value


def _control_character(value: Any) -> str | None:
    """The first control character or half of a surrogate pair in the strings of a document."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            if found := _CONTROL.search(item):
                return found[0]
        elif isinstance(item, dict):
            stack += item.keys()
            stack += item.values()
        elif isinstance(item, list | tuple):
            stack += item
    return None
