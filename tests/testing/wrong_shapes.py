"""Wrong passes over operators that move values: each overlooks an order, a step, an axis, or a size."""

from __future__ import annotations

import operator
from typing import Any

import torch
from wrong_registry import REASSOC, WRONG, called, is_original, wrong

import recfx
from recfx.pipeline import Pass

aten = torch.ops.aten


@wrong("step of slice", aten.slice.Tensor)
def slice_without_step(node: Any, ctx: Any) -> Any:
    return ctx.call(aten.slice.Tensor, *node.args[:4]) if len(node.args) == 5 and node.args[4] != 1 else None


@wrong("start of slice", aten.slice.Tensor)
def slice_from_the_first(node: Any, ctx: Any) -> Any:
    source, dim, start, end, *step = node.args
    if step or dim < 1 or start == 0 or end > source.meta["val"].shape[dim]:
        return None
    return ctx.call(aten.slice.Tensor, source, dim, 0, end - start)


@wrong("negative index of select", aten.select.int)
def select_by_magnitude(node: Any, ctx: Any) -> Any:
    source, dim, index = node.args
    size = source.meta["val"].shape[dim]
    if index >= 0 or not isinstance(size, int):
        return None
    return ctx.call(aten.select.int, source, dim, min(-index, size - 1))


@wrong("layout of stack", aten.stack.default)
def stack_as_cat(node: Any, ctx: Any) -> Any:
    """A stack is a cat, reshaped; along the last dimension the parts interleave."""
    parts, dim = node.args
    if parts[0].meta["val"].ndim != 2:
        return None
    sizes = [-1, *(int(size) for size in node.meta["val"].shape[1:])]
    return ctx.call(aten.reshape.default, ctx.call(aten.cat.default, list(parts), 1), sizes) if dim != 0 else None


@wrong("transpose as reshape", aten.transpose.int)
def transpose_as_reshape(node: Any, ctx: Any) -> Any:
    sizes = node.meta["val"].shape[1:]
    if node.args[0].meta["val"].ndim != 3 or not all(isinstance(size, int) for size in sizes):
        return None
    return ctx.call(aten.reshape.default, node.args[0], [-1, *sizes]) if 0 not in node.args[1:] else None


@wrong("rows of the example", aten.expand.default)
def expand_by_the_example(node: Any, ctx: Any) -> Any:
    sizes = list(node.args[1])
    rows = ctx.program.example[0].shape[0]
    return ctx.call(aten.expand.default, node.args[0], [rows, *sizes[1:]]) if sizes[0] == -1 else None


@wrong("axes of two flips", aten.flip.default)
def two_flips(node: Any, ctx: Any) -> Any:
    return node.args[0].args[0] if called(node.args[0], aten.flip.default) else None


@wrong("dimension of cumsum", aten.cumsum.default, exactness=REASSOC)
def cumsum_over_the_last(node: Any, ctx: Any) -> Any:
    return ctx.call(aten.cumsum.default, node.args[0], -1) if node.args[1] == 1 and not node.kwargs else None


@wrong("first of equal maxima", aten.argmax.default)
def argmax_from_the_end(node: Any, ctx: Any) -> Any:
    source, dim, *keep = node.args
    size = source.meta["val"].shape[1]
    if not is_original(node) or dim not in (1, -1) or source.meta["val"].ndim != 2:
        return None
    last = ctx.call(aten.argmax.default, ctx.call(aten.flip.default, source, [1]), 1, *keep)
    return ctx.call(aten.rsub.Scalar, last, size - 1)


@wrong("value of padding", aten.constant_pad_nd.default)
def padding_with_zeros(node: Any, ctx: Any) -> Any:
    return ctx.call(aten.constant_pad_nd.default, *node.args[:2]) if node.args[2:] and node.args[2] else None


@wrong("order of an index", aten.index_select.default)
def index_as_slice(node: Any, ctx: Any) -> Any:
    source, dim, index = node.args
    places = ctx.tensor(index)
    if places is None or dim not in (1, -1):
        return None
    first, count = int(places.min()), len(places)
    fits = first + count <= source.meta["val"].shape[1]
    return ctx.call(aten.slice.Tensor, source, 1, first, first + count) if fits else None


@wrong("halves of an odd size", operator.getitem)
def chunk_as_half(node: Any, ctx: Any) -> Any:
    chunk, index = node.args
    if not called(chunk, aten.chunk.default) or index != 1 or chunk.args[1] != 2:
        return None
    source, _, dim = chunk.args
    size = source.meta["val"].shape[dim]
    return ctx.call(aten.slice.Tensor, source, dim, size // 2, size // 2 + node.meta["val"].shape[dim])


@wrong("order of a product of squares", aten.bmm.default)
def swapped_bmm(node: Any, ctx: Any) -> Any:
    a, b = node.args
    square = len({str(s) for v in (a, b) for s in v.meta["val"].shape[1:]}) == 1
    return ctx.call(aten.bmm.default, b, a) if square and a is not b and is_original(node) else None


@wrong("order of cat", aten.cat.default)
def sorted_cat(node: Any, ctx: Any) -> Any:
    """Sorts parts of equal width by name."""
    parts, *dim = node.args
    widths = {str(part.meta["val"].shape) for part in parts}
    ordered = sorted(parts, key=str)
    return ctx.call(aten.cat.default, ordered, *dim) if len(widths) == 1 and list(parts) != ordered else None


@wrong("keepdim of a mean", aten.mul.Tensor, exactness=REASSOC)
def product_with_mean(node: Any, ctx: Any) -> Any:
    """Replaces the mean over any dimension by the mean over the last."""
    a, b = node.args
    if not called(b, aten.mean.dim) or len(b.args[1]) != 1 or b.args[2:] != (True,):
        return None
    return ctx.call(aten.mul.Tensor, a, ctx.call(aten.mean.dim, b.args[0], [-1], True))


class DropTransposePairs(Pass):
    """Moves a relu in front of two transposes that cancel each other, for all readers of the relu."""

    spec = recfx.PassSpec("drop-transposes", "Drops transposes that cancel each other.")

    def run(self, program: Any, ctx: Any) -> None:
        for node in ctx.nodes(aten.transpose.int):
            inner = node.args[0]
            if (
                called(inner, aten.relu.default)
                and called(inner.args[0], aten.transpose.int)
                and ctx.gate("drop", node)
            ):
                with ctx.before(node):
                    new = ctx.call(aten.relu.default, inner.args[0].args[0])
                ctx.replace(node, new)
                if inner.users:
                    ctx.replace(inner, new)


WRONG["a second user of a transpose"] = DropTransposePairs()
