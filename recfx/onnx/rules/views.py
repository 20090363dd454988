"""Operators that keep all elements: other shapes, other orders of dimensions, repetitions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from recfx.ir.op_sets import DIMENSION_MOVES, MATRIX_TRANSPOSES, REVERSALS, SIZED_RESHAPES, TRANSPOSITIONS
from recfx.onnx.rule import Call, dim_of, fake_of, rule
from recfx.onnx.sizes import reshape_like, shape, shape_of
from recfx.onnx.types import Untranslated

_aten = torch.ops.aten


@rule(*SIZED_RESHAPES)
def reshape(call: Call) -> str:
    """The elements in another shape."""
    sizes = call["shape"] if "shape" in call.given else call["size"]
    return call.graph.op("Reshape", call.tensor("self"), shape(call, sizes, inferred=True), allowzero=int(0 in sizes))


@rule(_aten.flatten.using_ints, _aten.unflatten.int, _aten.view_as.default, _aten.reshape_as.default)
def reshape_by_result(call: Call) -> str:
    """Another shape, which is known from the result."""
    if "other" in call.given:
        wanted = shape_of(call.graph, call.tensor("other"), call.fake("other"))
        return call.graph.op("Reshape", call.tensor("self"), wanted, allowzero=1)
    return reshape_like(call, call.tensor("self"), call.fake("self"), call.out.shape)


@rule(_aten.unsqueeze.default)
def unsqueeze(call: Call) -> str:
    """A dimension of size one is added."""
    dim = call["dim"] % (call.fake("self").ndim + 1)
    return call.graph.op("Unsqueeze", call.tensor("self"), call.graph.whole(dim))


def squeezed(call: Call, value: str, tensor: torch.Tensor, dims: Sequence[int]) -> str:
    """A value without some dimensions, where their size is one.

    Raises:
        Untranslated: The size of a dimension is free, so that it may be one.
    """
    gone = []
    for dim in dims:
        size = tensor.shape[dim]
        if not isinstance(size, int):
            if call.out.ndim == tensor.ndim - len(dims):
                raise Untranslated("squeeze of a free size")
            continue
        if size == 1:
            gone.append(dim)
    return call.graph.op("Squeeze", value, call.graph.whole(*gone)) if gone else value


@rule(_aten.squeeze.default, _aten.squeeze.dim, _aten.squeeze.dims)
def squeeze(call: Call) -> str:
    """Dimensions of size one are removed."""
    held = call.fake("self")
    given = call.given.get("dim", list(range(held.ndim)))
    dims = [dim_of(dim, held) for dim in ([given] if isinstance(given, int) else given)]
    return squeezed(call, call.tensor("self"), held, dims if held.ndim else [])


def transposed(call: Call, value: str, order: Sequence[int]) -> str:
    """A value with its dimensions in another order."""
    return value if list(order) == sorted(order) else call.graph.op("Transpose", value, perm=list(order))


@rule(_aten.permute.default)
def permute(call: Call) -> str:
    """The dimensions in another order."""
    held = call.fake("self")
    return transposed(call, call.tensor("self"), [dim_of(dim, held) for dim in call["dims"]])


@rule(*TRANSPOSITIONS)
def transpose(call: Call) -> str:
    """Two dimensions change places."""
    held = call.fake("self")
    first, second = (dim_of(dim, held) for dim in call.node.args[1:3])  # type: ignore[arg-type]
    order = list(range(held.ndim))
    if held.ndim:
        order[first], order[second] = second, first
    return transposed(call, call.tensor("self"), order)


@rule(*MATRIX_TRANSPOSES)
def transpose_matrix(call: Call) -> str:
    """The last two dimensions change places."""
    order = list(range(call.fake("self").ndim))
    return transposed(call, call.tensor("self"), [*order[:-2], order[-1], order[-2]])


@rule(*REVERSALS)
def reverse(call: Call) -> str:
    """The dimensions in reversed order."""
    return transposed(call, call.tensor("self"), list(range(call.fake("self").ndim))[::-1])


@rule(*DIMENSION_MOVES)
def move(call: Call) -> str:
    """Dimensions move to other positions."""
    held, given = call.fake("self"), call.given
    sources, places = ([given[n]] if isinstance(given[n], int) else list(given[n]) for n in ("source", "destination"))
    sources, places = ([dim_of(dim, held) for dim in dims] for dims in (sources, places))
    rest = [dim for dim in range(held.ndim) if dim not in sources]
    taken = dict(zip(places, sources, strict=True))
    order = [taken[at] if at in taken else rest.pop(0) for at in range(held.ndim)]
    return transposed(call, call.tensor("self"), order)


@rule(_aten.expand.default, _aten.broadcast_to.default)
def expand(call: Call) -> str:
    """Dimensions of size one are repeated. A size of -1 keeps a dimension, which ONNX writes as 1."""
    sizes = [1 if isinstance(one, int) and one == -1 else one for one in call["size"]]
    return call.graph.op("Expand", call.tensor("self"), shape(call, sizes))


@rule(_aten.expand_as.default)
def expand_as(call: Call) -> str:
    """Dimensions of size one are repeated to another tensor's shape."""
    wanted = shape_of(call.graph, call.tensor("other"), call.fake("other"))
    return call.graph.op("Expand", call.tensor("self"), wanted)


@rule(_aten.repeat.default, _aten.tile.default)
def repeat(call: Call) -> str:
    """The whole tensor is repeated along its dimensions."""
    held = call.fake("self")
    repeats = list(call["repeats"] if "repeats" in call.given else call["dims"])
    repeats = [1] * (held.ndim - len(repeats)) + repeats
    value = call.tensor("self")
    if len(repeats) > held.ndim:
        value = call.graph.op("Unsqueeze", value, call.graph.whole(*range(len(repeats) - held.ndim)))
    return call.graph.op("Tile", value, shape(call, repeats))


@rule(_aten.repeat_interleave.self_int)
def repeat_interleave(call: Call) -> str:
    """Every element of a dimension is repeated in its place."""
    held, repeats = call.fake("self"), call["repeats"]
    if call["dim"] is None:
        column = call.graph.op("Reshape", call.tensor("self"), call.graph.whole(-1, 1))
        width = shape(call, [1, repeats])
        return call.graph.op("Reshape", call.graph.op("Tile", column, width), call.graph.whole(-1))
    dim = dim_of(call["dim"], held)
    value = call.graph.op("Unsqueeze", call.tensor("self"), call.graph.whole(dim + 1))
    counts = [1] * (held.ndim + 1)
    tiled = call.graph.op("Tile", value, shape(call, [*counts[: dim + 1], repeats, *counts[dim + 2 :]]))
    free = [at for at, one in enumerate(call.out.shape) if not isinstance(one, int)]
    if len(free) <= 1:
        return reshape_like(call, tiled, held, call.out.shape)
    # 0 keeps the size at its place; the merged dimension is inferred, and later dimensions are read from the operand.
    rest = [shape_of(call.graph, call.tensor("self"), held)] if dim + 1 < held.ndim else []
    tail = [call.graph.op("Slice", rest[0], call.graph.whole(dim + 1), call.graph.whole(held.ndim))] if rest else []
    head = call.graph.whole(*[0] * dim, -1)
    wanted = call.graph.op("Concat", head, *tail, axis=0) if tail else head
    return call.graph.op("Reshape", tiled, wanted)


def joined(call: Call, values: Sequence[str], dim: int) -> str:
    """A concatenation; of one value, the value."""
    return values[0] if len(values) == 1 else call.graph.op("Concat", *values, axis=dim)


@rule(_aten.cat.default, _aten.concat.default, _aten.concatenate.default)
def cat(call: Call) -> str:
    """A concatenation. torch skips vectors without elements."""
    parts = [part for part in call["tensors"] if tuple(fake_of(part).shape) != (0,) or call.out.ndim == 1]
    return joined(call, [call.as_type(part, call.out.dtype) for part in parts], dim_of(call["dim"], call.out))


@rule(_aten.stack.default)
def stack(call: Call) -> str:
    """Tensors side by side in a new dimension."""
    dim = call.graph.whole(dim_of(call["dim"], call.out))
    parts = [call.graph.op("Unsqueeze", call.as_type(part, call.out.dtype), dim) for part in call["tensors"]]
    return joined(call, parts, dim_of(call["dim"], call.out))


@rule(_aten.flip.default)
def flip(call: Call) -> str:
    """Dimensions in reversed order of their elements."""
    held, graph = call.fake("self"), call.graph
    dims = [dim_of(dim, held) for dim in call["dims"]]
    if not dims:
        return call.tensor("self")
    ends = graph.whole(*[torch.iinfo(torch.int64).min] * len(dims))
    starts, steps = (graph.whole(*[-1] * len(dims)) for _ in range(2))
    return graph.op("Slice", call.tensor("self"), starts, ends, graph.whole(*dims), steps)


@rule(_aten.pad.default, _aten.constant_pad_nd.default)
def pad(call: Call) -> str:
    """Constant padding; negative numbers cut.

    Raises:
        Untranslated: Another mode than a constant, which is decomposed.
    """
    if call.given.get("mode", "constant") != "constant":
        return _pad_mode(call)
    held, given = call.fake("self"), list(call["pad"])
    if not all(isinstance(one, int) for one in given):
        raise Untranslated("padding by a free size")
    value = call.given.get("value")
    number = call.graph.scalar(0 if value is None else value, held.dtype)
    return call.graph.op("Pad", call.tensor("self"), call.graph.whole(*_pads(given, held.ndim)), number)


def _pads(given: Sequence[int], ndim: int) -> list[int]:
    """torch's padding, last dimension first, as ONNX has it: all starts, then all ends."""
    starts, ends = [0] * ndim, [0] * ndim
    for at in range(len(given) // 2):
        starts[ndim - 1 - at], ends[ndim - 1 - at] = given[2 * at], given[2 * at + 1]
    return [*starts, *ends]


def _pad_mode(call: Call) -> str:
    modes = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}
    mode: Any = call["mode"]
    if mode not in modes:
        raise Untranslated(f"padding with mode {mode!r}")
    pads = call.graph.whole(*_pads(list(call["pad"]), call.fake("self").ndim))
    return call.graph.op("Pad", call.tensor("self"), pads, mode=modes[mode])
