"""Arguments and operators of graph nodes as plain JSON."""

from __future__ import annotations

import importlib
import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from recfx.errors import ArtifactError

_KINDS: dict[str, type] = {
    "dtype": torch.dtype,
    "layout": torch.layout,
    "memory_format": torch.memory_format,
}
_SIZE_OPERATORS = (
    "sym_max",
    "sym_min",
    "sym_not",
    "sym_int",
    "sym_float",
    "sym_ite",
    "sym_sum",
    "_check",
    "_check_is_size",
)


def encode(value: Any) -> Any:
    """One argument as JSON; anything but plain scalars, None and strings becomes a single-key dictionary.

    Raises:
        ArtifactError: It has no plain form.
    """
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, bool | int | str | None):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, tuple | list):
        return {"tuple" if isinstance(value, tuple) else "list": [encode(v) for v in value]}
    if isinstance(value, slice):
        return {"slice": [encode(v) for v in (value.start, value.stop, value.step)]}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    for kind, type_ in _KINDS.items():
        if isinstance(value, type_):
            return {kind: str(value).removeprefix("torch.")}
    raise ArtifactError(
        f"a {type(value).__name__} cannot be saved", hint="keep only tensors and plain values in the graph"
    )


def decode(value: Any, node: Callable[[str], Any]) -> Any:
    """The inverse of `encode`; `node` finds nodes by name."""
    if not isinstance(value, dict):
        return value
    ((kind, held),) = value.items()
    if kind == "node":
        return node(held)
    if kind in ("tuple", "list"):
        items = [decode(v, node) for v in held]
        return tuple(items) if kind == "tuple" else items
    if kind == "slice":
        return slice(*(decode(v, node) for v in held))
    if kind == "device":
        return torch.device(held)
    if kind == "float":
        return float(held)
    if kind == "complex":
        return complex(*held)
    if kind in _KINDS:
        return getattr(torch, held)
    raise ArtifactError(f"unknown kind of value {kind!r}")


def encode_target(node: fx.Node) -> str:
    """The name of what a node calls, with the module that it is found in.

    Raises:
        ArtifactError: It is nothing that a loader could find.
    """
    target = node.target
    if isinstance(target, str):
        return target
    if isinstance(target, torch._ops.OpOverload):
        return f"op:{target}"
    name = getattr(target, "__name__", "")
    if target is getattr(operator, name, None):
        return f"operator:{name}"
    if target is getattr(torch, name, None) and name in _SIZE_OPERATORS:
        return f"torch:{name}"
    if target is getattr(math, name, None):
        return f"math:{name}"
    raise ArtifactError(f"the operator {target} cannot be saved", where=node.name)


def decode_target(text: str) -> Any:
    """The inverse of `encode_target`.

    Raises:
        ArtifactError: There is no such operator here.
    """
    kind, _, name = text.partition(":")
    if kind == "op":
        found: Any = torch.ops
        try:
            for part in name.split("."):
                found = getattr(found, part)
        except AttributeError as error:
            raise ArtifactError(
                f"the operator {name} does not exist here",
                hint="import the package that defines it before loading",
            ) from error
        return found
    if kind == "torch" and name not in _SIZE_OPERATORS:
        raise ArtifactError(f"{name!r} is no operator on sizes")
    if kind in ("operator", "math", "torch"):
        return getattr(importlib.import_module(kind), name)
    raise ArtifactError(f"unknown kind of operator {text!r}")
