"""Values from JSON files, checked against the types of dataclasses.

`decode(Report, document, "report")` gives a `Report` whose fields have the declared types, recursively, or an error that names the field.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping, Sequence
from enum import Enum
from functools import lru_cache
from typing import Any

from recfx.errors import ArtifactError

_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
_NAMES = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "true or false",
    int: "an integer",
    float: "a number",
    type(None): "null",
}


def decode(kind: Any, value: Any, where: str) -> Any:
    """Converts a value from JSON to a type.

    Args:
        kind: `bool`, `int`, `float`, `str`, `None`, an enum, a dataclass, or a combination of these with `tuple`, `list`,
            `dict[str, ...]`, `|` and `Literal`. `Any` accepts every value.
        value: The value from JSON, in which tuples are lists.
        where: The name of the value, for errors.

    Raises:
        ArtifactError: The value does not have this type.
    """
    origin = typing.get_origin(kind)
    if kind is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        return _union(kind, value, where)
    if origin is typing.Literal:
        return _literal(kind, value, where)
    if origin in (tuple, list, Sequence):
        return _sequence(kind, value, where)
    if origin in (dict, Mapping):
        items = typing.get_args(kind)[1]
        return {key: decode(items, v, f"{where}.{key}") for key, v in require(dict, value, where).items()}
    if kind is float:
        return _number(value, where)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _member(kind, value, where)
    if dataclasses.is_dataclass(kind):
        return _record(kind, value, where)
    return require(type(None) if kind is None else kind, value, where)


def require(kind: Any, value: Any, where: str) -> Any:
    """The value itself if it is of a JSON type (`dict`, `list`, `str`, `bool`, `int`, `float`, NoneType).

    Raises:
        ArtifactError: The value is of another type.
    """
    if type(value) is not kind:
        raise ArtifactError(
            f"expected {_NAMES.get(kind, kind)}, got {_NAMES.get(type(value), type(value).__name__)}", where=where
        )
    return value


def fields(value: Any, where: str, required: Sequence[str], optional: Sequence[str] = ()) -> dict[str, Any]:
    """An object with all of the required keys and no unknown ones.

    Raises:
        ArtifactError: The value is not an object, or a key is missing or unknown.
    """
    found: dict[str, Any] = require(dict, value, where)
    if missing := [key for key in required if key not in found]:
        raise ArtifactError(f"the key {missing[0]!r} is missing", where=where)
    known = {*required, *optional}
    if unknown := [key for key in found if key not in known]:
        raise ArtifactError(f"the key {unknown[0][:100]!r} is not known", where=where)
    return found


def _union(kind: Any, value: Any, where: str) -> Any:
    problem: ArtifactError | None = None
    for option in typing.get_args(kind):
        try:
            return decode(option, value, where)
        except ArtifactError as error:
            problem = problem or error
    assert problem is not None
    raise problem


def _literal(kind: Any, value: Any, where: str) -> Any:
    options = typing.get_args(kind)
    for option in options:
        if type(option) is type(value) and option == value:
            return option
    raise ArtifactError(f"expected one of {', '.join(map(repr, options))}, got {_brief(value)}", where=where)


def _sequence(kind: Any, value: Any, where: str) -> Any:
    items, held = typing.get_args(kind), require(list, value, where)
    if typing.get_origin(kind) is not tuple:
        return [decode(items[0], v, f"{where}[{i}]") for i, v in enumerate(held)]
    if len(items) == 2 and items[1] is Ellipsis:
        return tuple(decode(items[0], v, f"{where}[{i}]") for i, v in enumerate(held))
    if len(held) != len(items):
        raise ArtifactError(f"expected {len(items)} values, got {len(held)}", where=where)
    return tuple(decode(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(items, held, strict=True)))


def _number(value: Any, where: str) -> float:
    if isinstance(value, dict) and len(value) == 1 and str(value.get("float")) in _NOT_FINITE:
        return _NOT_FINITE[value["float"]]
    if type(value) is int:
        return float(value)
    return float(require(float, value, where))


def _member(kind: type[Enum], value: Any, where: str) -> Enum:
    for member in kind:
        if type(member.value) is type(value) and member.value == value:
            return member
    raise ArtifactError(f"{_brief(value)} is not one of {', '.join(repr(m.value) for m in kind)}", where=where)


def _record(kind: Any, value: Any, where: str) -> Any:
    declared = [f for f in dataclasses.fields(kind) if f.init]
    needed = [f.name for f in declared if f.default is f.default_factory is dataclasses.MISSING]
    held = fields(value, where, needed, [f.name for f in declared])
    hints = _hints(kind)
    return kind(**{name: decode(hints[name], item, f"{where}.{name}") for name, item in held.items()})


@lru_cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]} …"
