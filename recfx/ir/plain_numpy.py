"""NumPy scalars, small arrays and enumeration members as plain JSON."""

from __future__ import annotations

import enum
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from recfx.errors import ArtifactError
from recfx.formats.records import decode as decode_record

#: Arrays in a signature are defaults or held outputs, and small; data comes as tensors.
_MOST_ELEMENTS = 4096
_MOST_RANK = 16
_TYPES = (
    "bool",
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    "float16",
    "float32",
    "float64",
    "complex64",
    "complex128",
)


def encode_array(value: np.generic | np.ndarray[Any, Any], encode: Callable[[Any], Any]) -> dict[str, Any]:
    """A scalar or an array as JSON.

    Args:
        value: The scalar or array.
        encode: Encodes a Python number.

    Raises:
        ArtifactError: The type has no plain form, or the array has too many elements.
    """
    if value.dtype.name not in _TYPES or value.size > _MOST_ELEMENTS:
        raise ArtifactError(
            f"a NumPy array of {value.size} values of type {value.dtype} cannot be saved",
            hint="pass or return a tensor instead",
        )
    if isinstance(value, np.generic):
        return {"numpy": [value.dtype.name, encode(value.item())]}
    return {"array": [value.dtype.name, list(value.shape), [encode(item) for item in value.reshape(-1).tolist()]]}


def decode_array(kind: str, held: Any, decode: Callable[[Any], Any], where: str) -> Any:
    """The inverse of `encode_array`.

    Raises:
        ArtifactError: `held` does not describe a scalar or an array.
    """
    shape: list[int] = []
    if kind == "numpy":
        name, item = decode_record(tuple[str, Any], held, where)
        items = [item]
    else:
        name, shape, items = decode_record(tuple[str, list[int], list[Any]], held, where)
    fits = len(shape) <= _MOST_RANK and len(items) <= _MOST_ELEMENTS and all(0 <= size <= 1 << 31 for size in shape)
    if name not in _TYPES or not fits or math.prod(shape) != len(items):
        raise ArtifactError(
            f"{len(items)} values of type {name[:40]} do not form an array of the shape {shape[:9]}", where=where
        )
    values = [decode(item) for item in items]
    if any(type(value) not in (bool, int, float, complex) for value in values):
        raise ArtifactError("an array holds something other than numbers", where=where)
    try:
        array = np.array(values, dtype=name).reshape(shape)
    except (OverflowError, TypeError, ValueError) as error:
        raise ArtifactError(f"the values do not fit the type {name}: {error}", where=where) from error
    return array[()] if kind == "numpy" else array


def encode_member(value: enum.Enum) -> dict[str, Any]:
    """A member of an enumeration as JSON: module, class and member name."""
    kind = type(value)
    return {"enum": [kind.__module__, kind.__qualname__, value.name]}


def decode_member(held: Any, where: str) -> enum.Enum:
    """The inverse of `encode_member`. The module of the class must be imported already.

    Raises:
        ArtifactError: The class or its member does not exist.
    """
    module, name, member = decode_record(tuple[str, str, str], held, where)
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = vars(found).get(part) if isinstance(found, type | type(sys)) else None
    if not isinstance(found, enum.EnumType) or member not in found.__members__:
        raise ArtifactError(
            f"the value {name[:100]}.{member[:100]} of {module[:100]} is not known here",
            where=where,
            hint=f"import {module[:100]} before loading",
        )
    result: enum.Enum = found.__members__[member]
    return result
