"""Constants of given sizes, and ranges of numbers."""

from __future__ import annotations

from typing import Any

import torch

from recfx.onnx.rule import Call, fixed, rule
from recfx.onnx.sizes import shape, shape_of
from recfx.onnx.types import Untranslated

_aten = torch.ops.aten

#: Constants of at most this many elements are stored in the model.
_STORED = 1 << 12


def filled(call: Call, wanted: str | None, number: Any) -> str:
    """A tensor of the result's type in which all elements are equal; `wanted` holds its sizes, None for fixed ones."""
    value = call.as_type(number, call.out.dtype)
    if wanted is None:
        return value if not call.out.ndim else call.graph.op("Expand", value, call.graph.whole(*call.out.shape))
    return call.graph.op("Expand", value, wanted)


def _sizes(call: Call) -> str | None:
    if all(isinstance(one, int) for one in call.out.shape):
        return None
    return shape(call, call["size"])


@rule(_aten.zeros.default, _aten.new_zeros.default, _aten.empty.memory_format, _aten.new_empty.default)
def zeros(call: Call) -> str:
    """Zeros; also in place of memory without values."""
    return filled(call, _sizes(call), 0)


@rule(_aten.ones.default, _aten.new_ones.default)
def ones(call: Call) -> str:
    """Ones."""
    return filled(call, _sizes(call), 1)


@rule(_aten.full.default, _aten.new_full.default)
def full(call: Call) -> str:
    """One number everywhere."""
    return filled(call, _sizes(call), call["fill_value"])


def _like(call: Call, number: Any) -> str:
    return filled(call, shape_of(call.graph, call.tensor("self"), call.fake("self")), number)


@rule(_aten.zeros_like.default, _aten.empty_like.default)
def zeros_like(call: Call) -> str:
    """Zeros in the shape of another tensor."""
    return _like(call, 0)


@rule(_aten.ones_like.default)
def ones_like(call: Call) -> str:
    """Ones in the shape of another tensor."""
    return _like(call, 1)


@rule(_aten.full_like.default)
def full_like(call: Call) -> str:
    """One number in the shape of another tensor."""
    return _like(call, call["fill_value"])


@rule(_aten.scalar_tensor.default)
def scalar_tensor(call: Call) -> str:
    """A number as a tensor."""
    return call.as_type(call["s"], call.out.dtype)


@rule(_aten.arange.default, _aten.arange.start, _aten.arange.start_step)
def arange(call: Call) -> str:
    """Numbers at equal distances."""
    given, dtype = call.given, call.out.dtype
    bounds = [given.get("start", 0), given["end"], given.get("step", 1)]
    count = call.out.shape[0]
    if isinstance(count, int) and count <= _STORED and all(isinstance(one, int | float) for one in bounds):
        return call.graph.constant(torch.arange(*bounds, dtype=dtype))
    if dtype not in (torch.int64, torch.int32, torch.float32, torch.float64):
        raise Untranslated(f"a range of {dtype}")
    return call.graph.op("Range", *(call.as_type(one, dtype) for one in bounds))


def _stored(call: Call, tensor: torch.Tensor) -> str:
    if tensor.numel() > 1 << 20:
        raise Untranslated("a constant of more than a million elements")
    return call.graph.constant(tensor)


@rule(_aten.eye.default, _aten.eye.m)
def eye(call: Call) -> str:
    """The identity matrix."""
    rows = fixed(call["n"], "an identity matrix")
    columns = fixed(call.given.get("m", rows), "an identity matrix")
    return _stored(call, torch.eye(rows, columns, dtype=call.out.dtype))


@rule(_aten.tril_indices.default)
def tril_indices(call: Call) -> str:
    """The positions of the lower triangle."""
    return _stored(call, torch.tril_indices(call["row"], call["col"], call["offset"]).to(call.out.dtype))


@rule(_aten.triu_indices.default)
def triu_indices(call: Call) -> str:
    """The positions of the upper triangle."""
    return _stored(call, torch.triu_indices(call["row"], call["col"], call["offset"]).to(call.out.dtype))


@rule(_aten.linspace.default)
def linspace(call: Call) -> str:
    """Numbers at equal distances between two bounds."""
    count = fixed(call["steps"], "a range")
    return _stored(call, torch.linspace(call["start"], call["end"], count, dtype=call.out.dtype))
