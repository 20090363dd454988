"""Outer products of feature maps with fields, column by column, in all spellings.

    x[:, :, None] * x0[:, None]    x.mT[..., None] @ x0.mT[:, :, None]    einsum("bhd,bmd->bhmd", x, x0)

Reshapes and permutations of these are outer products as well.

The dimensions carry labels: B the rows of the batch, D the columns, H the maps of the left operand and M those of the right.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import fx

from recfx.ir.access import items_of
from recfx.ir.op_sets import BROADCASTS, COPIES, REGROUPINGS
from recfx.passes._match import permutation, value
from recfx.pipeline import PassContext

_aten = torch.ops.aten
B, D, H, M = "batch", "column", "left map", "right map"

#: The labels of one dimension, outermost first; empty for a dimension of one element.
Axis = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Side:
    """An operand of an outer product.

    Attributes:
        node: A tensor of three dimensions, or of four with one of size one.
        labels: The label of each dimension; None for the one of size one.
    """

    node: fx.Node
    labels: tuple[str | None, ...]

    def emit(self, ctx: PassContext) -> fx.Node:
        """The operand as [B, maps, D]."""
        node, labels = self.node, list(self.labels)
        if None in labels:
            node = ctx.call(_aten.squeeze.dim, node, labels.index(None))
            labels.remove(None)
        order = [labels.index(B), 3 - labels.index(B) - labels.index(D), labels.index(D)]
        return node if order == [0, 1, 2] else ctx.call(_aten.permute.default, node, order)


@dataclasses.dataclass(frozen=True)
class Outer:
    """An outer product.

    Attributes:
        left: The maps H.
        right: The maps M.
        sizes: Label -> size.
        axes: The labels of each dimension of the tensor.
    """

    left: Side
    right: Side
    sizes: dict[str, Any]
    axes: tuple[Axis, ...]


def outer_of(node: Any) -> Outer | None:
    """The outer product that a node holds; None for any other node."""
    held = value(node)
    if held is None or held.dtype is not torch.float32:
        return None
    order = permutation(node)
    if order is not None or node.target in COPIES or node.target in REGROUPINGS:
        below = outer_of(node.args[0])
        if below is None:
            return None
        if order is not None:
            return dataclasses.replace(below, axes=tuple(below.axes[i] for i in order))
        axes = below.axes if node.target in COPIES else _regrouped(below, held.shape)
        return None if axes is None else dataclasses.replace(below, axes=axes)
    if node.target is _aten.mul.Tensor:
        return _broadcast(node.args[0], node.args[1])
    if node.target in (_aten.matmul.default, _aten.bmm.default):
        left, right = value(node.args[0]), value(node.args[1])
        if left is None or right is None or left.ndim != 4 or left.shape[3] != 1 or right.ndim != 4:
            return None
        return _broadcast(node.args[0], node.args[1]) if right.shape[2] == 1 else None
    if node.target is _aten.einsum.default and len(items_of(node, 1)) == 2:
        sides, _, result = str(node.args[0]).replace(" ", "").partition("->")
        return lettered(items_of(node, 1), sides.split(","), result)
    return None


def lettered(operands: list[Any], letters: list[str], result: str) -> Outer | None:
    """The outer product of two tensors whose dimensions an einsum names, if its result has all letters."""
    a, b = letters
    shared = [x for x in a if x in b]
    single = [[x for x in side if x not in shared] for side in (a, b)]
    plain = all(len(set(part)) == len(part) for part in (a, b, result)) and "." not in a + b
    held = [value(operand) for operand in operands]
    if not plain or len(shared) != 2 or [len(s) for s in single] != [1, 1] or None in held:
        return None
    if set(result) != {*a, *b}:
        return None
    first, second = sorted(shared, key=result.index)
    label = {first: B, second: D, single[0][0]: H, single[1][0]: M}
    sizes: dict[str, Any] = {}
    for tensor, part in zip(held, letters, strict=True):
        assert tensor is not None
        for letter, size in zip(part, tensor.shape, strict=True):
            if label[letter] in sizes and str(sizes[label[letter]]) != str(size):
                return None  # a dimension of one element is broadcast
            sizes[label[letter]] = size
    left, right = (_side(operand, [label[x] for x in part]) for operand, part in zip(operands, letters, strict=True))
    return _checked(Outer(left, right, sizes, tuple((label[x],) for x in result)))


def _broadcast(left: Any, right: Any) -> Outer | None:
    """The outer product of [B, H, 1, D] and [B, 1, M, D], in any order of the dimensions."""
    sides = [_without_broadcast(left), _without_broadcast(right)]
    held = [value(side) for side in sides]
    if any(h is None or h.ndim != 4 or h.dtype is not torch.float32 for h in held):
        return None
    shapes = [tuple(h.shape) for h in held if h is not None]
    labels: list[str] = []
    sizes: dict[str, Any] = {}
    for a, b in zip(*shapes, strict=True):
        single = [isinstance(size, int) and size == 1 for size in (a, b)]
        label = H if single[1] else M if single[0] else D if B in labels else B
        if label in sizes or (not any(single) and str(a) != str(b)):
            return None
        labels.append(label)
        sizes[label] = b if single[0] else a
    if set(labels) != {B, D, H, M}:
        return None
    first, second = (
        _side(side, [None if label is missing else label for label in labels])
        for side, missing in zip(sides, (M, H), strict=True)
    )
    return _checked(Outer(first, second, sizes, tuple((label,) for label in labels)))


def _without_broadcast(node: Any) -> Any:
    while isinstance(node, fx.Node) and node.target in BROADCASTS:
        below = value(node.args[0])
        if below is None or below.ndim != 4:
            break
        node = node.args[0]
    return node


def _side(node: fx.Node, labels: list[Any]) -> Side:
    """An operand, seen through the views that gave it its dimensions."""
    while True:
        order = permutation(node)
        below: Any = node.args[0] if node.args else None
        if order is not None:
            labels = [labels[order.index(i)] for i in range(len(order))]
        elif node.target is _aten.unsqueeze.default and None in labels:
            at: Any = node.args[1]
            if labels[at % len(labels)] is not None:
                return Side(node, tuple(labels))
            del labels[at % len(labels)]
        else:
            return Side(node, tuple(labels))
        node = below


def _checked(outer: Outer) -> Outer | None:
    fixed = all(isinstance(outer.sizes[label], int) for label in (H, M, D))
    return outer if fixed else None


def _regrouped(outer: Outer, shape: Any) -> tuple[Axis, ...] | None:
    """The labels of the dimensions after a reshape; None if a dimension is divided, or merged with the batch."""
    pending = [label for axis in outer.axes for label in axis]
    if any(isinstance(size, int) and size == 1 for size in outer.sizes.values()):
        return None  # a dimension of one element could be any of these
    axes: list[Axis] = []
    for size in shape:
        if isinstance(size, int) and size == 1:
            axes.append(())
            continue
        held: list[str] = []
        product: Any = 1
        while pending and str(product) != str(size):
            if pending[0] == B and held:
                return None
            held.append(pending.pop(0))
            product = product * outer.sizes[held[-1]] if held[-1] != B else outer.sizes[B]
            if held[-1] == B:
                break
        if str(product) != str(size):
            return None
        axes.append(tuple(held))
    return None if pending else tuple(axes)
