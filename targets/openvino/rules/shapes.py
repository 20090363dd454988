"""Views, copies of parts, joins, and filled tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from recfx.ir.op_sets import REGROUPINGS
from recfx.targets.openvino.rules.registry import Unsupported, rule

_aten = torch.ops.aten
_END = 2**31 - 1


def rank_of(b: Any, node: Any = None) -> int:
    """The number of dimensions of an operator's first operand, or of a node."""
    return int((b.node.args[0] if node is None else node).meta["val"].ndim)


def axis_of(b: Any, dim: int, rank: int | None = None) -> int:
    """A dimension counted from the first."""
    rank = rank_of(b) if rank is None else rank
    return dim % rank if rank else 0


def to_result_shape(b: Any, x: Any) -> Any:
    """A value with the shape of the operator's result."""
    sizes = [b.size_of(b.node, dim) for dim in range(b.node.meta["val"].ndim)]
    dynamic = [at for at, size in enumerate(sizes) if not isinstance(size, int)]
    if len(dynamic) == 1 and 0 not in sizes:
        sizes[dynamic[0]] = -1
    return b.op.reshape(x, b.size_vector(sizes), False)


@rule(
    *REGROUPINGS,
    integers=True,
)
def _regrouped(b: Any, self: Any, *_: Any, **__: Any) -> Any:
    return to_result_shape(b, self)


def _transposed(b: Any, x: Any, order: Sequence[int]) -> Any:
    return b.op.transpose(x, b.integers(order)) if len(order) > 1 else x


@rule(_aten.permute.default, integers=True)
def _permute(b: Any, self: Any, dims: Sequence[int]) -> Any:
    return _transposed(b, self, [axis_of(b, dim) for dim in dims])


def _swapped(b: Any, x: Any, first: int, second: int) -> Any:
    order = list(range(rank_of(b)))
    first, second = axis_of(b, first), axis_of(b, second)
    order[first], order[second] = order[second], order[first]
    return _transposed(b, x, order)


@rule(_aten.transpose.int, integers=True)
def _transpose(b: Any, self: Any, dim0: int, dim1: int) -> Any:
    return _swapped(b, self, dim0, dim1)


@rule(_aten.t.default, _aten.mT.default, integers=True)
def _t(b: Any, self: Any) -> Any:
    return _swapped(b, self, -1, -2) if rank_of(b) > 1 else self


@rule(_aten.expand.default, _aten.expand_as.default, integers=True)
def _expand(b: Any, self: Any, *_: Any, **__: Any) -> Any:
    own, result = b.node.args[0], b.node.meta["val"]
    new = result.ndim - rank_of(b)
    counts: list[Any] = []
    for dim in range(result.ndim):
        size = b.size_of(b.node, dim)
        counts.append(1 if dim >= new and size == b.size_of(own, dim - new) else size)
    wide = b.op.unsqueeze(self, b.integers(range(new))) if new else self
    return wide if all(count == 1 for count in counts) else b.op.tile(wide, b.size_vector(counts))


@rule(_aten.repeat.default, _aten.tile.default, integers=True)
def _repeat(b: Any, self: Any, repeats: Any = None, dims: Any = None) -> Any:
    counts = list(repeats if repeats is not None else dims)
    rank = rank_of(b)
    counts = [1] * (rank - len(counts)) + counts
    if len(counts) > rank:
        axes = b.integers(range(len(counts) - rank))
        self = b.op.unsqueeze(self, axes)
    return b.op.tile(self, b.size_vector(counts)) if counts else self


@rule(_aten.repeat_interleave.self_int, integers=True)
def _repeat_interleave(b: Any, self: Any, repeats: Any, dim: Any = None, **_: Any) -> Any:
    if dim is None:
        raise Unsupported("repetition of all elements")
    axis, rank = axis_of(b, dim), rank_of(b)
    wide = b.op.unsqueeze(self, b.integers([axis + 1]))
    counts = [repeats if at == axis + 1 else 1 for at in range(rank + 1)]
    return to_result_shape(b, b.op.tile(wide, b.size_vector(counts)))


@rule(_aten.slice.Tensor, integers=True)
def _slice(b: Any, self: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Any:
    begin, stop = 0 if start is None else start, _END if end is None else end
    if isinstance(stop, int):
        stop = min(stop, _END)
    vectors = [b.size_vector([value]) for value in (begin, stop, step)]
    return b.op.slice(self, *vectors, b.integers([axis_of(b, dim)]))


@rule(_aten.narrow.default, integers=True)
def _narrow(b: Any, self: Any, dim: int, start: Any, length: Any) -> Any:
    if not isinstance(start, int) or not isinstance(length, int) or start < 0:
        raise Unsupported("a part whose place depends on the batch")
    return _slice(b, self, dim, start, start + length)


@rule(_aten.select.int, integers=True)
def _select(b: Any, self: Any, dim: int, index: Any) -> Any:
    if not isinstance(index, int):
        raise Unsupported("a position that depends on the batch")
    return b.op.gather(self, b.number(index, torch.int64), b.number(axis_of(b, dim), torch.int64))


def _is_legacy_empty(node: Any, result: Any) -> bool:
    held = node.meta["val"]
    return held.ndim == 1 and result.ndim != 1 and isinstance(held.shape[0], int) and held.shape[0] == 0


@rule(_aten.cat.default, integers=True)
def _cat(b: Any, tensors: Sequence[Any], dim: int = 0) -> Any:
    result, nodes = b.node.meta["val"], b.node.args[0]
    parts = [
        b.cast(x, b.result_dtype())
        for x, node in zip(tensors, nodes, strict=True)
        if not _is_legacy_empty(node, result)
    ]
    return b.op.concat(parts, axis_of(b, dim, result.ndim))


@rule(_aten.stack.default, integers=True)
def _stack(b: Any, tensors: Sequence[Any], dim: int = 0) -> Any:
    axis = axis_of(b, dim, b.node.meta["val"].ndim)
    parts = [b.op.unsqueeze(b.cast(x, b.result_dtype()), b.integers([axis])) for x in tensors]
    return b.op.concat(parts, axis)


def _parts(b: Any, x: Any, dim: int, sizes: Sequence[Any]) -> list[Any]:
    if not all(isinstance(size, int) for size in sizes):
        raise Unsupported("parts whose sizes depend on the batch")
    return list(b.op.variadic_split(x, b.number(axis_of(b, dim), torch.int64), b.integers(sizes)).outputs())


@rule(
    *(_aten.split.Tensor, _aten.split_with_sizes.default, _aten.chunk.default, _aten.unsafe_chunk.default),
    *(_aten.unsafe_split.Tensor,),
    integers=True,
)
def _split(b: Any, self: Any, _size: Any = None, dim: int = 0, **_: Any) -> list[Any]:
    return _parts(b, self, dim, [part.shape[dim] for part in b.node.meta["val"]])


@rule(_aten.unbind.int, integers=True)
def _unbind(b: Any, self: Any, dim: int = 0) -> list[Any]:
    parts = _parts(b, self, dim, [1] * len(b.node.meta["val"]))
    return [b.op.squeeze(part, b.integers([axis_of(b, dim)])) for part in parts]


def _picked(b: Any, x: Any, axis: int, order: Sequence[int]) -> Any:
    return b.op.gather(x, b.integers(order), b.number(axis, torch.int64))


@rule(_aten.flip.default, integers=True)
def _flip(b: Any, self: Any, dims: Sequence[int]) -> Any:
    for dim in dims:
        size = b.size_of(b.node, axis_of(b, dim))
        if not isinstance(size, int):
            raise Unsupported("the order of rows")
        self = _picked(b, self, axis_of(b, dim), range(size - 1, -1, -1))
    return self


@rule(_aten.index_select.default, integers=True)
def _index_select(b: Any, self: Any, dim: int, index: Any) -> Any:
    chosen, axis = b.known_integers(b.node.args[2]), axis_of(b, dim)
    size = b.size_of(b.node.args[0], axis)
    if chosen is None or not isinstance(size, int) or not all(0 <= at < size for at in chosen):
        raise Unsupported("positions that are not constants")
    return _picked(b, self, axis, chosen)


def _triangle(b: Any, x: Any, diagonal: int, *, lower: bool) -> Any:
    rows, columns = (b.size_of(b.node, dim) for dim in (-2, -1))
    if not isinstance(rows, int) or not isinstance(columns, int):
        raise Unsupported("a triangle over the batch")
    kept = torch.ones(rows, columns, dtype=torch.bool)
    kept = kept.tril(diagonal) if lower else kept.triu(diagonal)
    return b.op.select(b.op.constant(kept.numpy()), x, b.number(0, b.result_dtype()))


@rule(_aten.tril.default)
def _tril(b: Any, self: Any, diagonal: int = 0) -> Any:
    return _triangle(b, self, diagonal, lower=True)


@rule(_aten.triu.default)
def _triu(b: Any, self: Any, diagonal: int = 0) -> Any:
    return _triangle(b, self, diagonal, lower=False)


@rule(_aten.pad.default, _aten.constant_pad_nd.default)
def _pad(b: Any, self: Any, pad: Sequence[Any], mode: Any = "constant", value: Any = None) -> Any:
    if isinstance(mode, int | float):
        mode, value = "constant", mode
    if mode != "constant" or not all(isinstance(size, int) and size >= 0 for size in pad):
        raise Unsupported(f"padding of mode {mode} by {list(pad)}")
    begin, end = [0] * rank_of(b), [0] * rank_of(b)
    for at in range(len(pad) // 2):
        begin[-1 - at], end[-1 - at] = pad[2 * at], pad[2 * at + 1]
    filler = b.number(0.0 if value is None else value, b.result_dtype())
    return b.op.pad(self, b.integers(begin), b.integers(end), "constant", filler)


def _filled(b: Any, value: Any, sizes: Sequence[Any]) -> Any:
    number = b.number(value, b.result_dtype())
    return b.op.broadcast(number, b.size_vector(list(sizes))) if sizes else number


@rule(_aten.new_zeros.default, integers=True)
def _new_zeros(b: Any, self: Any, size: Sequence[Any], **_: Any) -> Any:
    return _filled(b, 0, size)


@rule(_aten.new_ones.default, integers=True)
def _new_ones(b: Any, self: Any, size: Sequence[Any], **_: Any) -> Any:
    return _filled(b, 1, size)


@rule(_aten.zeros.default, integers=True)
def _zeros(b: Any, size: Sequence[Any], **_: Any) -> Any:
    return _filled(b, 0, size)


@rule(_aten.ones.default, integers=True)
def _ones(b: Any, size: Sequence[Any], **_: Any) -> Any:
    return _filled(b, 1, size)


def _result_sizes(b: Any) -> list[Any]:
    return [b.size_of(b.node, dim) for dim in range(b.node.meta["val"].ndim)]


@rule(_aten.zeros_like.default, integers=True)
def _zeros_like(b: Any, self: Any, **_: Any) -> Any:
    return _filled(b, 0, _result_sizes(b))


@rule(_aten.ones_like.default, integers=True)
def _ones_like(b: Any, self: Any, **_: Any) -> Any:
    return _filled(b, 1, _result_sizes(b))


@rule(_aten.full_like.default)
def _full_like(b: Any, self: Any, fill_value: Any, **_: Any) -> Any:
    return _filled(b, fill_value, _result_sizes(b))


@rule(_aten.arange.start_step, integers=True)
def _arange(b: Any, start: Any, end: Any, step: Any = 1, **_: Any) -> Any:
    if b.result_dtype() is not torch.int64:
        raise Unsupported("a range of other numbers than 64-bit integers")
    return b.op.range(*(b.cast(bound, torch.int64) for bound in (start, end, step)), "i64")
