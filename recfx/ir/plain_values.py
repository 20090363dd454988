"""Arguments of graph nodes as plain JSON."""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import fx

from recfx.errors import ArtifactError
from recfx.formats.records import decode as decode_record
from recfx.ir.plain_numpy import decode_array, decode_member, encode_array, encode_member

_MOST_DEPTH = 8
_DEVICE = re.compile(r"(cpu|cuda|meta)(:\d{1,3})?")


def _named(kind: type) -> dict[str, Any]:
    found = {name: value for name, value in vars(torch).items() if type(value) is kind}
    return {str(value).removeprefix("torch."): value for value in found.values()}


_KINDS: dict[str, dict[str, Any]] = {
    "dtype": _named(torch.dtype),
    "layout": _named(torch.layout),
    "memory_format": _named(torch.memory_format),
}
_TYPES = {"dtype": torch.dtype, "layout": torch.layout, "memory_format": torch.memory_format}


def encode(value: Any) -> Any:
    """One argument as JSON; anything but plain scalars, None and strings becomes a single-key dictionary.

    Raises:
        ArtifactError: It has no plain form.
    """
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, enum.Enum):
        return encode_member(value)
    if isinstance(value, np.generic | np.ndarray):
        return encode_array(value, encode)
    if isinstance(value, int) and not isinstance(value, bool) and not -(1 << 63) <= value < 1 << 63:
        raise ArtifactError(f"the number {value} is outside int64 and cannot be saved")
    if type(value) in (bool, int, str, type(None)):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, tuple | list):
        return {"tuple" if isinstance(value, tuple) else "list": [encode(v) for v in value]}
    if isinstance(value, slice):
        return {"slice": [encode(v) for v in (value.start, value.stop, value.step)]}
    if isinstance(value, range):
        return {"range": [value.start, value.stop, value.step]}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    if isinstance(value, complex):
        return {"complex": [encode(value.real), encode(value.imag)]}
    for kind, type_ in _TYPES.items():
        if isinstance(value, type_):
            return {kind: str(value).removeprefix("torch.")}
    raise ArtifactError(
        f"a {type(value).__name__} cannot be saved", hint="keep only tensors and plain values in the graph"
    )


def decode(value: Any, node: Callable[[str], Any], where: str, depth: int = _MOST_DEPTH) -> Any:
    """The inverse of `encode`.

    Args:
        value: What `encode` gave.
        node: Finds nodes by name.
        where: Whose argument it is, for errors.
        depth: The deepest nesting that is accepted.

    Raises:
        ArtifactError: It is not the form of an argument.
    """
    if not isinstance(value, dict):
        if isinstance(value, list):
            raise ArtifactError("a bare list is not an argument", where=where)
        return value
    if len(value) != 1 or depth == 0:
        raise ArtifactError(f"{str(value)[:100]} is not an argument", where=where)
    ((kind, held),) = value.items()
    if kind == "node":
        return node(decode_record(str, held, where))
    if kind in ("tuple", "list", "slice"):
        items = [decode(v, node, where, depth - 1) for v in decode_record(list[Any], held, where)]
        if kind == "slice":
            if len(items) != 3:
                raise ArtifactError("a slice has three parts", where=where)
            return slice(*items)
        return tuple(items) if kind == "tuple" else items
    if kind in ("numpy", "array"):
        return decode_array(kind, held, lambda item: decode(item, node, where, depth - 1), where)
    if kind == "enum":
        return decode_member(held, where)
    if kind == "range":
        start, stop, step = decode_record(tuple[int, int, int], held, where)
        return range(start, stop, step or 1)
    if kind == "float":
        return decode_record(float, value, where)
    if kind == "complex":
        parts = decode_record(tuple[Any, Any], held, where)
        return complex(*(decode_record(float, decode(part, node, where, depth - 1), where) for part in parts))
    name = decode_record(str, held, where)
    if kind == "device" and _DEVICE.fullmatch(name):
        return torch.device(name)
    if kind in _KINDS and name in _KINDS[kind]:
        return _KINDS[kind][name]
    raise ArtifactError(f"{str(value)[:100]} is not an argument", where=where)


def decode_plain(value: Any, where: str) -> Any:
    """As `decode`, for values that are not part of a graph."""

    def nothing(name: str) -> Any:
        raise ArtifactError(f"it refers to the graph node {name[:100]!r}", where=where)

    return decode(value, nothing, where)


def decode_key(value: Any, where: str, *, hashable: bool = True) -> Any:
    """A key of a dict, or with `hashable=False` the description of a class: plain scalars, and tuples (or lists) of them."""
    found = decode_plain(value, where)
    allowed = (str, bool, int, float, type(None))

    def plain(item: Any) -> bool:
        if isinstance(item, tuple) or (isinstance(item, list) and not hashable):
            return all(map(plain, item))
        return type(item) in allowed

    if not plain(found):
        raise ArtifactError(f"{str(found)[:100]} is not a key", where=where)
    return found
