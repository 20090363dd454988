"""Conversion of inputs to the captured tensors if nothing is lost: from NumPy arrays, lists and integers of another width.

It runs only after the checks of a call refused an input, so that a call with fitting tensors has no extra cost.
"""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from recfx.errors import InputError
from recfx.ir.containers import container_kind
from recfx.ir.leaves import LeafSpec
from recfx.ir.signature import Signature

_INTEGERS = "iu"
_NUMBERS = "iuf"


def cast_inputs(
    signature: Signature, args: Sequence[Any], kwargs: Mapping[str, Any], *, lossy: bool = False
) -> list[Any] | None:
    """The values of a call's parameters, converted to tensors; None if no value is converted.

    Args:
        signature: The calling convention.
        args: The positional arguments of the call.
        kwargs: Its keyword arguments.
        lossy: Whether floating-point numbers of another width, and integers for floating-point inputs, are converted too.

    Raises:
        InputError: The arguments do not bind.
    """
    values = signature.bind(args, kwargs)
    specs = signature.in_spec.children()[0].children()
    made, at = [], 0
    for value, spec in zip(values, specs, strict=True):
        made.append(_cast(value, spec, signature.leaves[at : at + spec.num_leaves], lossy))
        at += spec.num_leaves
    return made if any(new is not old for new, old in zip(made, values, strict=True)) else None


def _cast(value: Any, spec: pytree.TreeSpec, leaves: Sequence[LeafSpec], lossy: bool) -> Any:
    """A nested value after conversion; the same object if nothing in it is converted."""
    if spec.is_leaf():
        return _cast_leaf(value, leaves[0], lossy)
    if container_kind(spec.type) is not None:
        return value
    kind = spec.context if spec.type is collections.namedtuple else spec.type
    if isinstance(value, dict) and kind is dict and all(key in value for key in spec.context):
        parts: list[Any] = [value[key] for key in spec.context]
    elif type(value) is kind and spec.type in pytree.SUPPORTED_NODES:
        parts = list(pytree.SUPPORTED_NODES[spec.type].flatten_fn(value)[0])
    else:
        return value
    if len(parts) != spec.num_children:
        return value
    made, at = [], 0
    for part, child in zip(parts, spec.children(), strict=True):
        made.append(_cast(part, child, leaves[at : at + child.num_leaves], lossy))
        at += child.num_leaves
    if all(new is old for new, old in zip(made, parts, strict=True)):
        return value
    if kind is dict:
        return {**value, **dict(zip(spec.context, made, strict=True))}
    return pytree.SUPPORTED_NODES[spec.type].unflatten_fn(made, spec.context)


def _cast_leaf(value: Any, spec: LeafSpec, lossy: bool) -> Any:
    if spec.kind == "size" and isinstance(value, np.integer):
        return int(value)
    if spec.kind != "tensor" or spec.dtype is None or value is None:
        return value
    if isinstance(value, torch.Tensor):
        return _in_dtype(value, spec.dtype, lossy)
    if isinstance(value, str | bytes):
        return value
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:  # ragged lists, and tensors in a list that NumPy cannot read
        return _refused(value, spec, " ".join(str(error).split())[:100])
    plain = isinstance(value, list | tuple | int | float)
    if array.dtype.kind not in "b" + _NUMBERS:
        return _refused(value, spec, f"it holds {array.dtype}")
    if plain and array.ndim != len(spec.shape) and array.size:
        return _refused(value, spec, f"it is nested {array.ndim} deep")
    tensor = torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))  # a copy, of 0 dimensions too
    # Python's numbers have no width: those of a list are floating-point when the input is.
    free = plain and spec.dtype.is_floating_point and array.dtype.kind in _NUMBERS
    if free or (plain and not array.size):
        return tensor.to(spec.dtype)
    return _in_dtype(
        tensor, spec.dtype, lossy
    )  # keeps its dtype if the cast loses numbers: the error names both dtypes


def _refused(value: Any, spec: LeafSpec, reason: str) -> Any:
    """The unchanged value, which the checks of every call refuse.

    Raises:
        InputError: It is a list or a tuple: those checks would treat its elements as separate inputs.
    """
    if isinstance(value, list | tuple):
        raise InputError(
            f"expected a tensor, got a {type(value).__name__} that does not make one of {spec.dtype} and {len(spec.shape)} "
            f"dimension(s): {reason}",
            where=f"input {spec}",
            hint="pass a tensor as in the example inputs, or numbers nested as deep as it has dimensions",
        )
    return value


def _in_dtype(tensor: torch.Tensor, dtype: torch.dtype, lossy: bool) -> torch.Tensor:
    """A tensor in another dtype if that keeps its numbers, or with `lossy`; otherwise the tensor itself."""
    if tensor.dtype is dtype or tensor.layout is not torch.strided or tensor.is_meta:
        return tensor
    kinds = [_kind(tensor.dtype), _kind(dtype)]
    if kinds == ["i", "i"]:
        cast = tensor.to(dtype)
        return cast if torch.equal(cast.to(tensor.dtype), tensor) else tensor
    if lossy and kinds[1] == "f" and kinds[0] in ("f", "i", "b"):
        return tensor.to(dtype)
    return tensor


def _kind(dtype: torch.dtype) -> str:
    if dtype is torch.bool:
        return "b"
    return "c" if dtype.is_complex else "f" if dtype.is_floating_point else "i"
