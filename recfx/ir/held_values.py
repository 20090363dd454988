"""Held values: inputs and outputs that torch.export does not accept as data, such as dtypes, NumPy scalars, enumeration members, ranges.

A held value is the same at every call. A held input becomes a constant that a call must repeat. A held output becomes part of the nesting
of the outputs, in a `Held` node without children, and every call returns its value at capture.
"""

from __future__ import annotations

import copy
import dataclasses
import datetime
import decimal
import enum
import fractions
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from recfx.ir.constants import same_constant

_KINDS = (
    enum.Enum,
    np.generic,
    np.ndarray,
    np.dtype,
    torch.dtype,
    torch.device,
    torch.layout,
    torch.memory_format,
    torch.finfo,
    torch.iinfo,
    bytes,
    complex,
    datetime.date,
    datetime.timedelta,
    decimal.Decimal,
    fractions.Fraction,
    type(Ellipsis),
    type,
)
_PLAIN = (str, int, float, bool, type(None), *_KINDS)
_COLLECTIONS = (slice, range, set, frozenset)


class HeldValue:
    """The pytree context of a `Held` node: nestings with equal held values compare equal.

    Args:
        value: The held value.
    """

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HeldValue) and same_constant(self.value, other.value)

    def __hash__(self) -> int:
        return hash(type(self.value))

    def __repr__(self) -> str:
        return repr(self.value)


@dataclasses.dataclass(frozen=True)
class Held:
    """The pytree node in place of a held value until the outputs are rebuilt."""

    value: Any


def _returned(_: Any, context: HeldValue) -> Any:
    """The held value, or a copy of it where a caller could change it."""
    value = context.value
    return copy.copy(value) if isinstance(value, np.ndarray | set) else value


def _flattened(held: Held) -> tuple[list[Any], HeldValue]:
    return [], HeldValue(held.value)


pytree.register_pytree_node(
    Held, _flattened, _returned, serialized_type_name="recfx.Held", flatten_with_keys_fn=lambda held: _flattened(held)
)


def is_held(value: Any) -> bool:
    """Whether a leaf is a value that torch.export does not accept as data and that no call changes."""
    if isinstance(value, slice):
        return all(_is_plain(part) for part in (value.start, value.stop, value.step))
    if isinstance(value, set | frozenset):
        return all(map(_is_plain, value))
    return isinstance(value, (*_KINDS, range))


def is_held_input(value: Any) -> bool:
    """Whether an input is a held value. An array with dimensions is data, which the user must pass as a tensor."""
    return is_held(value) and not (isinstance(value, np.ndarray) and value.ndim)


def _is_plain(value: Any) -> bool:
    return isinstance(value, _PLAIN) and not isinstance(value, torch.Tensor)


def hold(outputs: Any) -> Any:
    """The outputs of a model with a `Held` node in place of each held value."""
    return pytree.tree_map(lambda v: Held(v) if is_held(v) else v, outputs, is_leaf=_is_size)


def holds_values(outputs: Any) -> bool:
    """Whether the outputs of a model contain held values."""
    return any(is_held(leaf) for leaf in pytree.tree_leaves(outputs))


def split_outputs(outputs: Any) -> list[Any]:
    """The leaves of the outputs of a model, held values last."""
    leaves = pytree.tree_leaves(outputs)
    return [v for v in leaves if not is_held(v)] + [v for v in leaves if is_held(v)]


def held_by(spec: pytree.TreeSpec) -> list[Any]:
    """The held values in a nesting of outputs, in order."""
    if spec.is_leaf():
        return []
    if spec.type is Held:
        return [spec.context.value]
    return [value for child in spec.children() for value in held_by(child)]


def rebuilt_outputs(outputs: list[Any], spec: pytree.TreeSpec) -> Any:
    """Nests flat outputs. torch's own unflattening turns a `torch.Size` into a tuple; this keeps the type."""
    position = 0

    def build(part: pytree.TreeSpec) -> Any:
        nonlocal position
        if part.is_leaf():
            position += 1
            return outputs[position - 1]
        return rebuild_node(part.type)([build(child) for child in part.children()], part.context)

    return build(spec)


def rebuild_node(kind: Any) -> Any:
    """The function that builds a container of a type from its children and its context."""
    return _size if kind is torch.Size else pytree.SUPPORTED_NODES[kind].unflatten_fn


def _size(sizes: Any, _: Any) -> torch.Size:
    return torch.Size(sizes)


def _is_size(value: Any) -> bool:
    return type(value) is torch.Size


def plain_numbers(value: Any) -> Any:
    """Replaces NumPy scalars and members of numeric enumerations in an operator's argument by Python numbers."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, enum.Enum) and isinstance(value, int | float | str):
        return value.value
    if isinstance(value, tuple | list):
        parts = [plain_numbers(part) for part in value]
        return parts if isinstance(value, list) else tuple(parts)
    return value
