"""The places of tensors: a tensor of the graph as dimensions over a slot that holds one run of elements per batch row."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from recfx.errors import RecfxError


class Unsupported(RecfxError):
    """A node cannot be a step of a plan; torch runs it. The message says why."""


@dataclasses.dataclass(frozen=True)
class Dim:
    """One dimension of a tensor.

    Attributes:
        size: Elements; in the batch dimension, elements per batch row (its size is batch * size).
        stride: The distance of neighbours in elements of the slot, within a batch row.
        batch: Whether this is the batch dimension.
        before: In a batch dimension, the number of a row's elements that lie outside the batch: the index is
            `(outer * batch + row) * inner + rest`, with `before` values of `outer`. More than 1 where a dimension in front of the
            batch was merged with it.
    """

    size: int
    stride: int
    batch: bool = False
    before: int = 1


@dataclasses.dataclass(frozen=True)
class Value:
    """A tensor as a plan sees it.

    Attributes:
        slot: The slot's number.
        offset: Position of the first element, within a batch row.
        dims: One per dimension of the tensor.
    """

    slot: int
    offset: int
    dims: tuple[Dim, ...]

    @property
    def batched(self) -> bool:
        """Whether it has a row for each batch row; otherwise all batch rows share one."""
        return any(d.batch for d in self.dims)

    @property
    def mixed(self) -> bool:
        """Whether in some dimension elements of other batch rows lie between the elements of one row."""
        return any(d.before != 1 for d in self.dims)

    @property
    def width(self) -> int:
        """Elements per batch row."""
        return math.prod(d.size for d in self.dims)


def contiguous(slot: int, shape: Sequence[Dim], offset: int = 0) -> Value:
    """A value that fills a run of a slot in the order of its dimensions; strides of `shape` are ignored."""
    stride = 1
    dims: list[Dim] = []
    for d in reversed(shape):
        dims.append(dataclasses.replace(d, stride=stride))
        stride *= d.size
    return Value(slot, offset, tuple(reversed(dims)))


def merge(dims: Sequence[Dim]) -> list[tuple[int, int]]:
    """Dimensions merged into as few (size, stride) runs as possible, outermost first; dimensions of one element are dropped.

    The batch dimension counts by its elements within a row.
    """
    runs: list[tuple[int, int]] = []
    for d in dims:
        if d.size == 1:
            continue
        if runs and runs[-1][1] == d.size * d.stride:
            runs[-1] = (runs[-1][0] * d.size, d.stride)
        else:
            runs.append((d.size, d.stride))
    return runs


def joint_runs(out: Value, strides_of: Sequence[list[int]]) -> list[tuple[int, list[int]]]:
    """The output's dimensions, given each dimension's stride in several tensors, merged as far as all of them allow."""
    runs: list[tuple[int, list[int]]] = []
    for d, strides in zip(out.dims, strides_of, strict=True):
        if d.size == 1:
            continue
        if runs and all(a == d.size * b for a, b in zip(runs[-1][1], strides, strict=True)):
            runs[-1] = (runs[-1][0] * d.size, strides)
        else:
            runs.append((d.size, strides))
    return runs


def reshape(value: Value, shape: Sequence[Dim]) -> Value | None:
    """The same elements under another shape, without moving them; None where strides do not allow it.

    Args:
        value: The value to reshape.
        shape: Sizes and which dimension is the batch; strides are ignored.
    """
    old = [d for d in value.dims if d.size != 1 or d.batch]
    new = [(i, d) for i, d in enumerate(shape) if d.size != 1 or d.batch]
    dims = [Dim(1, 0) for _ in shape]
    while old or new:
        if not old or not new:
            return None
        group, wanted = _same_elements(old, new)
        if not group:
            return None
        if not _regroup(group, wanted, dims):
            return None
    return Value(value.slot, value.offset, tuple(dims))


def _same_elements(old: list[Dim], new: list[tuple[int, Dim]]) -> tuple[list[Dim], list[tuple[int, Dim]]]:
    """Takes from the front of both lists the fewest dimensions that hold the same elements; takes nothing where no such dimensions exist.

    The batch is in both groups or in neither: a batch dimension of one element a row may stand between other dimensions.
    """
    group, wanted = [old.pop(0)], [new.pop(0)]
    while True:
        have, want = math.prod(d.size for d in group), math.prod(d.size for _, d in wanted)
        batched = any(d.batch for d in group)
        if have == want and batched == any(d.batch for _, d in wanted):
            return group, wanted
        grows_old = have < want if have != want else not batched
        if not (old if grows_old else new):
            return [], []
        if grows_old:
            group.append(old.pop(0))
        else:
            wanted.append(new.pop(0))


def _regroup(group: list[Dim], wanted: list[tuple[int, Dim]], dims: list[Dim]) -> bool:
    """Fills `dims` for one group of old dimensions that holds the same elements as one group of new ones."""
    outside, lead = _outside_batch(group), _outside_batch([d for _, d in wanted])
    if (outside is None) != (lead is None):
        return False
    runs = merge(group)
    if len(runs) > 1:
        return len(group) == len(wanted) and all(
            g.size == w.size and g.batch == w.batch and _keep(dims, i, g)
            for g, (i, w) in zip(group, wanted, strict=True)
        )
    before = 1
    if outside is not None and lead is not None:
        before = outside // lead
        size = next(d.size for _, d in wanted if d.batch)
        if before * lead != outside or size % before:
            return False  # the batch would lie elsewhere in memory
    stride = runs[0][1] if runs else 1
    for i, d in reversed(wanted):
        dims[i] = Dim(d.size, stride, d.batch, before if d.batch else 1)
        stride *= d.size
    return True


def _outside_batch(dims: Sequence[Dim]) -> int | None:
    """The number of a row's elements outside the batch when the dimensions are merged; None without the batch."""
    count = 1
    for d in dims:
        if d.batch:
            return count * d.before
        count *= d.size
    return None


def _keep(dims: list[Dim], index: int, dim: Dim) -> bool:
    dims[index] = dim
    return True


def mixed_like(shape: Sequence[Dim], values: Sequence[Value]) -> list[Dim]:
    """A shape whose batch lies as in the values that are broadcast to the shape.

    Raises:
        Unsupported: The batch lies differently in the values.
    """
    found = {d.before for value in values for d in value.dims if d.batch}
    if len(found) != 1:
        raise Unsupported("the batch lies inside a dimension of one input and not of another")
    before = found.pop()
    return [dataclasses.replace(d, before=before) if d.batch else d for d in shape]


def shape_of(sizes: Sequence[Any], batch: Any) -> list[Dim]:
    """The dimensions for the sizes of a fake tensor. Their strides are not set.

    Args:
        sizes: Integers and symbolic sizes.
        batch: The batch's symbol (a sympy symbol), or None when nothing varies.

    Raises:
        Unsupported: A size is neither fixed nor a multiple of the batch, two sizes are multiples of it, or a size is zero.
    """
    dims = []
    for size in sizes:
        if isinstance(size, int):
            dims.append(Dim(size, 0))
            continue
        ratio = size.node.expr / batch if batch is not None else size.node.expr
        if not ratio.is_Integer:
            raise Unsupported(f"a size is {size}, not a multiple of the batch")
        dims.append(Dim(int(ratio), 0, True))
    if sum(d.batch for d in dims) > 1:
        raise Unsupported("two dimensions vary with the batch")
    if any(d.size == 0 for d in dims):
        raise Unsupported("it has no elements")
    return dims
