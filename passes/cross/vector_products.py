"""The spellings of products of rows with a constant vector in cross layers: one number per row, in any shape that broadcasts."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from recfx.ir.access import argument_of, items_of, tensor_of
from recfx.ir.op_sets import MATRIX_PRODUCTS
from recfx.passes._match import argument, permutation, same_shape, turned, value
from recfx.passes.mlp.parameters import Fresh, Param, flat
from recfx.pipeline import Miss, PassContext

_aten = torch.ops.aten


def rows_of(node: Any) -> fx.Node | None:
    """The rows [B, D] at a node, or behind a column [B, D, 1]; None for any other node."""
    held = value(node)
    if held is None or held.ndim == 2:
        return node if held is not None else None
    if node.target is _aten.unsqueeze.default and node.args[1] in (2, -1) and held.ndim == 3:
        source: fx.Node = node.args[0]
        return source
    return None


def width_of(x: fx.Node) -> int:
    held = tensor_of(x)
    return int(held.shape[1])


def unturned(node: Any) -> fx.Node | None:
    """The operand of a matrix transposition; None for any other node."""
    return turned(node) if permutation(node) == [1, 0] else None


def dotted_with(ctx: PassContext, node: Any, x: fx.Node) -> fx.Node | None:
    """w [D] if a node is x . w, one number per row [B]; otherwise None."""
    if node.target is _aten.tensordot.default:
        fits = [d % 2 for d in node.args[2]] == [1] and list(node.args[3]) in ([0], [-1])
    else:
        fits = node.target in (_aten.matmul.default, _aten.mv.default)
    weight = ctx.tensor(node.args[1]) if fits and node.args[0] is x else None
    vector = weight is not None and weight.ndim == 1 and weight.dtype is torch.float32
    return node.args[1] if vector else None


def same_rows(a: fx.Node, b: fx.Node) -> bool:
    left, right = value(a), value(b)
    return left is not None and right is not None and same_shape(left, right)


def row_of(node: Any) -> fx.Node | None:
    """x [B, D] of a row [B, 1, D], which is unsqueeze(x, 1) or a transposed column; None for any other node."""
    if not isinstance(node, fx.Node):
        return None
    if node.target is _aten.unsqueeze.default and node.args[1] in (1, -2):
        return argument_of(node, 0, fx.Node)
    column = turned(node)
    held = value(column)
    return rows_of(column) if held is not None and held.ndim == 3 else None


def constant_column(ctx: PassContext, node: Any, width: int) -> Param | None:
    """A constant [D, 1] as a vector; it may have leading dimensions of size 1 or be expanded over the batch."""
    if isinstance(node, fx.Node) and node.target is _aten.expand.default:
        node = node.args[0]
    tensor = ctx.tensor(node)
    if (
        tensor is None
        or tensor.dtype is not torch.float32
        or tensor.numel() != width
        or tuple(tensor.shape[-2:]) != (width, 1)
    ):
        return None
    return Fresh(f"{node.target}_flat", tensor.detach().reshape(-1))


def scalar_product(ctx: PassContext, node: fx.Node, x: fx.Node) -> Param | Miss | None:
    """w if a node is x . w, one number per row, in any shape that broadcasts against x."""
    width = width_of(x)
    held = value(node)
    if held is None or held.ndim not in (2, 3) or any(s != 1 for s in held.shape[1:] if isinstance(s, int)):
        return None
    if node.target is _aten.unsqueeze.default and node.args[1] in (1, -1):
        return dotted_with(ctx, node.args[0], x)
    if node.target is _aten.linear.default and node.args[0] is x:
        if argument(node, 2, "bias") is not None:
            return Miss("the weight vector's product has a bias of its own", node)
        weight: Any = node.args[1]
        return weight if ctx.tensor(weight) is not None else None
    if node.target is _aten.tensordot.default and rows_of(node.args[0]) is x:
        contracted = list(items_of(node, 2)) in ([1], [-2]) and list(items_of(node, 3)) in ([0], [-2])
        return constant_column(ctx, node.args[1], width) if contracted else None
    if node.target in MATRIX_PRODUCTS:
        source: Any = node.args[0]
        source = row_of(source) if tensor_of(source).ndim == 3 else source
        return constant_column(ctx, node.args[1], width) if source is x else None
    return _summed_product(ctx, node, x)


def _summed_product(ctx: PassContext, node: fx.Node, x: fx.Node) -> Param | None:
    """w of (x * w).sum(1, keepdim=True)."""
    if node.target is not _aten.sum.dim_IntList or node.kwargs.get("dtype") is not None:
        return None
    dims: Any = node.args[1]
    inner: Any = node.args[0]
    if [d % 2 for d in dims] != [1] or inner.target is not _aten.mul.Tensor:
        return None
    for source, weight in (inner.args[:2], inner.args[1::-1]):
        if source is x and is_vector(ctx, weight, width_of(x)):
            return flat(ctx, weight)
    return None


def is_vector(ctx: PassContext, read: Any, width: int) -> bool:
    """Whether a constant is [D], [1, D] or, for columns, [D, 1]."""
    tensor = ctx.tensor(read)
    if tensor is None or tensor.dtype is not torch.float32 or tensor.numel() != width:
        return False
    return tuple(tensor.shape) in ((width,), (1, width), (width, 1))
