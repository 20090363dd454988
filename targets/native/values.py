"""Where tensors lie: a tensor of the graph as dimensions over a slot that holds one run of elements per batch row."""

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
        stride: Elements of the slot from one to the next, within a batch row.
        batch: Whether this is the batch dimension.
    """

    size: int
    stride: int
    batch: bool = False


@dataclasses.dataclass(frozen=True)
class Value:
    """A tensor as a plan sees it.

    Attributes:
        slot: The slot's number.
        offset: Element of the first, within a batch row.
        dims: One per dimension of the tensor.
    """

    slot: int
    offset: int
    dims: tuple[Dim, ...]

    @property
    def batched(self) -> bool:
        """Whether it has a row per batch row; otherwise it is the same for all."""
        return any(d.batch for d in self.dims)

    @property
    def width(self) -> int:
        """Elements per batch row."""
        return math.prod(d.size for d in self.dims)


def contiguous(slot: int, shape: Sequence[Dim], offset: int = 0) -> Value:
    """A value that fills a run of a slot in the order of its dimensions; strides of `shape` are ignored."""
    stride = 1
    dims: list[Dim] = []
    for d in reversed(shape):
        dims.append(Dim(d.size, stride, d.batch))
        stride *= d.size
    return Value(slot, offset, tuple(reversed(dims)))


def merge(dims: Sequence[Dim]) -> list[tuple[int, int]]:
    """Dimensions as few (size, stride) runs as possible, outermost first; those of one element are left out.

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
        value: What to reshape.
        shape: Sizes and which dimension is the batch; strides are ignored. The batch must lie outermost among what it is merged with.
    """
    old = [d for d in value.dims if d.size != 1 or d.batch]
    new = [(i, d) for i, d in enumerate(shape) if d.size != 1 or d.batch]
    dims = [Dim(1, 0) for _ in shape]
    while old or new:
        if not old or not new:
            return None
        group, wanted = [old.pop(0)], [new.pop(0)]
        have, want = group[0].size, wanted[0][1].size
        while have != want:
            if have < want:
                if not old:
                    return None
                group.append(old.pop(0))
                have *= group[-1].size
            else:
                if not new:
                    return None
                wanted.append(new.pop(0))
                want *= wanted[-1][1].size
        if any(d.batch for d in group) != any(d.batch for _, d in wanted):
            # A batch dimension of one element a row may stand between groups.
            if old and old[0].batch and old[0].size == 1:
                group.append(old.pop(0))
            elif new and new[0][1].batch and new[0][1].size == 1:
                wanted.append(new.pop(0))
        if not _regroup(group, wanted, dims):
            return None
    return Value(value.slot, value.offset, tuple(dims))


def _regroup(group: list[Dim], wanted: list[tuple[int, Dim]], dims: list[Dim]) -> bool:
    """Fills `dims` for one group of old dimensions that holds the same elements as one group of new ones."""
    batches = [d.batch for d in group], [d.batch for _, d in wanted]
    if any(batches[0]) != any(batches[1]):
        return False
    if any(batches[0]) and not (batches[0][0] and batches[1][0]):
        return False  # rows of other batch rows would lie in between
    runs = merge(group)
    if len(runs) > 1:
        return len(group) == len(wanted) and all(
            g.size == w.size and g.batch == w.batch and _keep(dims, i, g)
            for g, (i, w) in zip(group, wanted, strict=True)
        )
    stride = runs[0][1] if runs else 1
    for i, d in reversed(wanted):
        dims[i] = Dim(d.size, stride, d.batch)
        stride *= d.size
    return True


def _keep(dims: list[Dim], index: int, dim: Dim) -> bool:
    dims[index] = dim
    return True


def shape_of(sizes: Sequence[Any], batch: Any) -> list[Dim]:
    """The dimensions of a fake tensor's sizes; strides are left open.

    Args:
        sizes: Integers and symbolic sizes.
        batch: The batch's symbol (a sympy symbol), or None when nothing varies.

    Raises:
        Unsupported: A size is neither fixed nor a multiple of the batch, or two are.
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
