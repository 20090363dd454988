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


def encode(value: Any) -> Any:
    """One argument as JSON. None, plain scalars and strings stay; other values become dictionaries with one key.

    Raises:
        ArtifactError: The value has no plain form.
    """
    for kind, form in _FORMS:
        if isinstance(value, kind):
            return form(value)
    raise _unsaved(value)


def _encode_scalar(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool) and not -(1 << 63) <= value < 1 << 63:
        raise ArtifactError(f"the number {value} is outside int64 and cannot be saved", hint="use a smaller number")
    if type(value) is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if type(value) not in (bool, int, str, type(None)):
        raise _unsaved(value)  # loading would turn a subclass into its base
    return value


def _encode_items(value: Any) -> Any:
    return {"tuple" if isinstance(value, tuple) else "list": [encode(item) for item in value]}


def _unsaved(value: Any) -> ArtifactError:
    return ArtifactError(
        f"a {type(value).__name__} cannot be saved", hint="keep only tensors and plain values in the graph"
    )


#: (type, its encoder). The first type that fits counts: NumPy scalars and enumeration members may be Python numbers as well.
_FORMS: tuple[tuple[Any, Callable[[Any], Any]], ...] = (
    (fx.Node, lambda value: {"node": value.name}),
    (enum.Enum, encode_member),
    ((np.generic, np.ndarray), lambda value: encode_array(value, encode)),
    ((bool, int, float, str, type(None)), _encode_scalar),
    ((tuple, list), _encode_items),
    (slice, lambda value: {"slice": [encode(part) for part in (value.start, value.stop, value.step)]}),
    (range, lambda value: {"range": [value.start, value.stop, value.step]}),
    (torch.device, lambda value: {"device": str(value)}),
    (complex, lambda value: {"complex": [encode(value.real), encode(value.imag)]}),
    (torch.dtype, lambda value: {"dtype": str(value).removeprefix("torch.")}),
    (torch.layout, lambda value: {"layout": str(value).removeprefix("torch.")}),
    (torch.memory_format, lambda value: {"memory_format": str(value).removeprefix("torch.")}),
)


def decode(value: Any, node: Callable[[str], Any], where: str, depth: int = _MOST_DEPTH) -> Any:
    """The inverse of `encode`.

    Args:
        value: A result of `encode`.
        node: Looks up a node by name.
        where: The owner of the argument, for errors.
        depth: The largest accepted number of levels.

    Raises:
        ArtifactError: `value` does not describe an argument.
    """
    if not isinstance(value, dict):
        if isinstance(value, list):
            raise ArtifactError('expected an argument, got a list; lists are written as {"list": [...]}', where=where)
        return value
    if len(value) != 1 or depth == 0:
        raise ArtifactError(f"{str(value)[:100]} is not an argument", where=where)
    ((kind, held),) = value.items()
    if kind == "node":
        return node(decode_record(str, held, where))
    if kind == "float":
        return decode_record(float, value, where)
    if kind in _NESTED:
        return _NESTED[kind](held, lambda item: decode(item, node, where, depth - 1), where)
    if kind in _FLAT:
        return _FLAT[kind](held, where)
    name = decode_record(str, held, where)
    if kind == "device" and _DEVICE.fullmatch(name):
        return torch.device(name)
    if kind in _KINDS and name in _KINDS[kind]:
        return _KINDS[kind][name]
    raise ArtifactError(f"{str(value)[:100]} is not an argument", where=where)


Decode = Callable[[Any], Any]


def _decode_items(held: Any, decode_item: Decode, where: str) -> list[Any]:
    return [decode_item(item) for item in decode_record(list[Any], held, where)]


def _decode_slice(held: Any, decode_item: Decode, where: str) -> slice:
    parts = _decode_items(held, decode_item, where)
    if len(parts) != 3:
        raise ArtifactError(f"expected three parts of a slice, got {len(parts)}", where=where)
    return slice(*parts)


def _decode_complex(held: Any, decode_item: Decode, where: str) -> complex:
    parts = decode_record(tuple[Any, Any], held, where)
    return complex(*(decode_record(float, decode_item(part), where) for part in parts))


def _decode_range(held: Any, where: str) -> range:
    start, stop, step = decode_record(tuple[int, int, int], held, where)
    return range(start, stop, step or 1)


#: Kinds that contain other values -> decoder of (content, decoder of one item, owner for errors).
_NESTED: dict[str, Callable[[Any, Decode, str], Any]] = {
    "list": _decode_items,
    "tuple": lambda held, decode_item, where: tuple(_decode_items(held, decode_item, where)),
    "slice": _decode_slice,
    "complex": _decode_complex,
    "numpy": lambda held, decode_item, where: decode_array("numpy", held, decode_item, where),
    "array": lambda held, decode_item, where: decode_array("array", held, decode_item, where),
}

#: Kinds without other values inside -> decoder of (content, owner for errors).
_FLAT: dict[str, Callable[[Any, str], Any]] = {"enum": decode_member, "range": _decode_range}


def decode_plain(value: Any, where: str) -> Any:
    """Decodes a value outside of a graph, like `decode` but without references to nodes."""

    def nothing(name: str) -> Any:
        raise ArtifactError(f"expected a plain value, got the graph node {name[:100]!r}", where=where)

    return decode(value, nothing, where)


def decode_key(value: Any, where: str, *, hashable: bool = True) -> Any:
    """Decodes a dict key (plain scalars and tuples of scalars); with `hashable=False`, a class description, which may hold lists."""
    found = decode_plain(value, where)
    allowed = (str, bool, int, float, type(None))

    def plain(item: Any) -> bool:
        if isinstance(item, tuple) or (isinstance(item, list) and not hashable):
            return all(map(plain, item))
        return type(item) in allowed

    if not plain(found):
        raise ArtifactError(f"expected a key of plain scalars, got {str(found)[:100]}", where=where)
    return found
