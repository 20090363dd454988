"""Contractions of an outer product with a constant weight, in all spellings.

conv1d(z, w)    conv2d(z, w)    w @ z    bmm(w.expand(...), z)    linear(z.mT, w)    einsum("bhmd,ohm->bod", z, w)    tensordot(z, w)
einsum("bhd,bmd,ohm->bod", x, x0, w)
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import fx

from recfx.ir.access import items_of
from recfx.ir.op_sets import BROADCASTS
from recfx.passes._match import argument, value
from recfx.passes.interaction.outer import Axis, B, D, H, M, Outer, lettered, outer_of
from recfx.pipeline import PassContext

_aten = torch.ops.aten
O = "output"  # noqa: E741

#: Operators that may be such a contraction.
CONTRACTIONS = (
    _aten.conv1d.default,
    _aten.conv1d.padding,
    _aten.conv2d.default,
    _aten.conv2d.padding,
    _aten.matmul.default,
    _aten.bmm.default,
    _aten.linear.default,
    _aten.einsum.default,
    _aten.tensordot.default,
)


@dataclasses.dataclass(frozen=True)
class Contraction:
    """sum_hm weight[o, h, m] of an outer product.

    Attributes:
        outer: The outer product.
        product: The node that holds it; None if the contraction forms it itself.
        read: The read of the weight.
        weight: [O, H, M].
        bias: The read of a vector [O] that is added, or None.
        axes: The label of each dimension of the result; None for one of one element.
    """

    outer: Outer
    product: fx.Node | None
    read: fx.Node
    weight: torch.Tensor
    bias: fx.Node | None
    axes: tuple[str | None, ...]


def contraction_of(ctx: PassContext, node: fx.Node) -> Contraction | None:
    """The contraction at a node; None for any other node."""
    target = node.target
    if target in (_aten.einsum.default, _aten.tensordot.default):
        return _einsum(ctx, node) if target is _aten.einsum.default else _tensordot(ctx, node)
    if target in (_aten.matmul.default, _aten.bmm.default):
        return _matmul(ctx, node)
    outer = outer_of(node.args[0])
    weight = ctx.tensor(node.args[1])
    if outer is None or weight is None:
        return None
    bias = argument(node, 2, "bias")
    if target is _aten.linear.default:
        return _made(node, outer, node.args[1], weight, ([0], [1]), bias, at=len(outer.axes) - 1)
    if not _is_pointwise(node, weight):
        return None
    matrix = weight.detach().flatten(1)
    return _made(node, outer, node.args[1], matrix, ([0], [1]), bias, at=1, outputs_at=1)


def _is_pointwise(node: fx.Node, weight: torch.Tensor) -> bool:
    """Whether a convolution has windows of one element and one group."""
    stride, padding, dilation, groups = (
        argument(node, position, name, default)
        for position, name, default in ((3, "stride", 1), (4, "padding", 0), (5, "dilation", 1), (6, "groups", 1))
    )
    flat = {number for given in (stride, dilation, groups) for number in ([given] if isinstance(given, int) else given)}
    none = padding in ("valid", "same") or not any([padding] if isinstance(padding, int) else padding)
    return all(size == 1 for size in weight.shape[2:]) and flat <= {1} and none


def _matmul(ctx: PassContext, node: fx.Node) -> Contraction | None:
    left, right = (_shared(a) for a in node.args[:2])
    weight, outer = ctx.tensor(left), outer_of(right)
    if weight is not None and outer is not None and len(outer.axes) == 3:
        matrix = weight.detach().reshape(weight.shape[-2:]) if math.prod(weight.shape[:-2]) == 1 else None
        return None if matrix is None else _made(node, outer, left, matrix, ([0], [1]), None, at=1, outputs_at=1)
    weight, outer = ctx.tensor(right), outer_of(left)
    if weight is not None and outer is not None and len(outer.axes) == 3 and math.prod(weight.shape[:-2]) == 1:
        return _made(node, outer, right, weight.detach().reshape(weight.shape[-2:]), ([1], [0]), None, at=2)
    return None


def _shared(node: Any) -> Any:
    """The matrix behind an expansion over the batch."""
    while isinstance(node, fx.Node) and (node.target in BROADCASTS or node.target is _aten.unsqueeze.default):
        below = value(node.args[0])
        if below is None or below.ndim < 2:
            break
        node = node.args[0]
    return node


def _einsum(ctx: PassContext, node: fx.Node) -> Contraction | None:
    operands = items_of(node, 1)
    sides, arrow, result = str(node.args[0]).replace(" ", "").partition("->")
    letters = sides.split(",")
    constant = [i for i, operand in enumerate(operands) if ctx.tensor(operand) is not None]
    if not arrow or "." in sides or len(constant) != 1 or len(operands) not in (2, 3):
        return None
    (at,) = constant
    weight, own = ctx.stored(operands[at]), letters[at]
    rest = [(o, part) for i, (o, part) in enumerate(zip(operands, letters, strict=True)) if i != at]
    summed = [x for x in own if x not in result]
    outputs = [x for x in own if x in result]
    if len(outputs) != 1 or any(outputs[0] in part for _, part in rest) or len(set(own)) != len(own):
        return None
    if len(rest) == 2:
        named = "".join(x for x in result if x != outputs[0]) + "".join(summed)
        outer, product, part = lettered([o for o, _ in rest], [p for _, p in rest], named), None, named
    else:
        ((product, part),) = rest
        outer = outer_of(product)
    if outer is None or len(part) != len(outer.axes) or len(set(part)) != len(part):
        return None
    if not set(summed) <= set(part) or set(result) != {*(set(part) - set(summed)), outputs[0]}:
        return None
    order = [x for x in part if x in summed]
    matrix = weight.detach().permute([own.index(x) for x in (outputs[0], *order)])
    label = dict(zip(part, outer.axes, strict=True))
    axes = tuple((O,) if x == outputs[0] else label[x] for x in result)
    return _finished(outer, product, operands[at], matrix.flatten(1), None, [label[x] for x in order], axes)


def _tensordot(ctx: PassContext, node: fx.Node) -> Contraction | None:
    outer, weight = outer_of(node.args[0]), ctx.tensor(node.args[1])
    if outer is None or weight is None:
        return None
    rank = len(outer.axes)
    places = [[int(d) % n for d in items_of(node, i)] for i, n in ((2, rank), (3, weight.ndim))]
    free = [d for d in range(weight.ndim) if d not in places[1]]
    if len(free) != 1:
        return None
    matrix = weight.detach().permute([free[0], *places[1]]).flatten(1)
    axes = (*(axis for i, axis in enumerate(outer.axes) if i not in places[0]), (O,))
    source: Any = node.args[0]
    return _finished(outer, source, node.args[1], matrix, None, [outer.axes[d] for d in places[0]], axes)


def _made(
    node: fx.Node,
    outer: Outer,
    read: Any,
    weight: torch.Tensor,
    order: tuple[list[int], list[int]],
    bias: Any,
    *,
    at: int,
    outputs_at: int = -1,
) -> Contraction | None:
    """A contraction over one dimension `at`, with the outputs at `outputs_at` or last; `order` is the weight's (outputs, inputs)."""
    if weight.ndim != 2 or at >= len(outer.axes):
        return None
    axes: list[Axis] = [axis for i, axis in enumerate(outer.axes) if i != at]
    axes.insert(outputs_at if outputs_at >= 0 else len(axes), (O,))
    product = next((a for a in node.args[:2] if isinstance(a, fx.Node) and outer_of(a) is not None), None)
    matrix = weight.detach().permute(*order[0], *order[1])
    return _finished(outer, product, read, matrix, bias, [outer.axes[at]], tuple(axes))


def _finished(
    outer: Outer,
    product: fx.Node | None,
    read: Any,
    weight: torch.Tensor,
    bias: Any,
    summed: list[Axis],
    axes: tuple[Axis, ...],
) -> Contraction | None:
    """The contraction of a weight [O, K], K in the order of the summed dimensions, if these are H and M."""
    labels = [label for axis in summed for label in axis]
    sizes = [int(outer.sizes[label]) for label in labels if label in (H, M)]
    if sorted(labels) != sorted((H, M)) or weight.dtype is not torch.float32 or any(len(axis) > 1 for axis in axes):
        return None
    if sorted(label for axis in axes for label in axis) != sorted((B, D, O)) or weight.shape[1] != math.prod(sizes):
        return None
    cube = weight.reshape(-1, *sizes)
    cube = cube if labels == [H, M] else cube.transpose(1, 2)
    return Contraction(outer, product, read, cube, bias, tuple(axis[0] if axis else None for axis in axes))
