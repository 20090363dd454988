"""The spellings of cross layers in models: on rows [B, D] or columns [B, D, 1], with a vector or one or two matrices."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

from recfx.ir.access import argument_of, tensor_of
from recfx.ir.op_sets import MATRIX_PRODUCTS
from recfx.ops.cross import FULL, LOW_RANK, VECTOR
from recfx.passes._match import argument, only_user, value
from recfx.passes.cross.vector_products import (
    constant_column,
    dotted_with,
    is_vector,
    row_of,
    rows_of,
    same_rows,
    scalar_product,
    unturned,
    width_of,
)
from recfx.passes.mlp.parameters import Fresh, Param, flat
from recfx.pipeline import Miss, PassContext

_aten = torch.ops.aten


@dataclasses.dataclass(frozen=True, eq=False)
class CrossStep:
    """One matched cross layer; the formulas are in `recfx.ops.cross`.

    Attributes:
        kind: VECTOR, FULL or LOW_RANK.
        x0: The factor of the layer, [B, D].
        x: The input of the layer, [B, D].
        weight: w, W or U.
        bias: b, inside the product except for VECTOR; or None.
        inner: V of a low-rank layer.
        after: A bias that is added to the product of a full or low-rank layer; or None.
    """

    kind: int
    x0: fx.Node
    x: fx.Node
    weight: Param
    bias: Param | None = None
    inner: Param | None = None
    after: fx.Node | None = None


def match_cross(ctx: PassContext, node: fx.Node) -> CrossStep | Miss | None:
    """The cross layer that ends in an addition; a Miss if only a detail prevents it, None if it is something else."""
    refused: Miss | None = None
    for product, x, bias in _terms(ctx, node):
        flat_x = rows_of(x)
        if flat_x is None or not _fits(flat_x):
            continue
        found = _match_product(ctx, product, flat_x)
        if isinstance(found, Miss):
            refused = found
        if found is None or isinstance(found, Miss):
            continue
        if bias is None:
            return found
        if not is_vector(ctx, bias, width_of(flat_x)):
            return Miss("its bias is not a vector of its width", bias)
        if found.kind == VECTOR:
            return dataclasses.replace(found, bias=flat(ctx, bias))
        return dataclasses.replace(found, after=bias)
    return refused


def _terms(ctx: PassContext, node: fx.Node) -> Iterator[tuple[fx.Node, fx.Node, fx.Node | None]]:
    """All ways to read an addition as product + x or, in any order, product + bias + x: (product, x, bias)."""
    parts: list[Any] = list(node.args[:2])
    if node.target is not _aten.add.Tensor or node.kwargs.get("alpha", 1) != 1:
        return
    sums: list[list[Any]] = [parts]
    for i, part in enumerate(parts):
        inner = isinstance(part, fx.Node) and part.target is _aten.add.Tensor and only_user(part) is node
        if inner and part.kwargs.get("alpha", 1) == 1:
            sums.append([*part.args[:2], parts[1 - i]])
    for terms in sums:
        if not all(isinstance(t, fx.Node) for t in terms):
            continue
        constant = [t for t in terms if ctx.tensor(t) is not None]
        rest = [t for t in terms if ctx.tensor(t) is None]
        if len(rest) != 2 or len(constant) != len(terms) - 2:
            continue
        for product, x in (rest, rest[::-1]):
            yield product, x, constant[0] if constant else None


def _fits(x: fx.Node) -> bool:
    held = value(x)
    return (
        held is not None and held.ndim == 2 and held.dtype is torch.float32 and isinstance(held.shape[1], int)
    )  # fmt: skip


def _match_product(ctx: PassContext, product: fx.Node, x: fx.Node) -> CrossStep | Miss | None:
    """x0 * f(x), for the f of each kind of layer."""
    if product.target is _aten.squeeze.dim and product.args[1] in (2, -1):
        inner: Any = product.args[0]
        product = inner if inner.target in MATRIX_PRODUCTS else product
    if product.target in MATRIX_PRODUCTS:
        return _column_product(ctx, product, x)
    if (turned := unturned(product)) is not None:
        return _turned_product(ctx, turned, x)
    if product.target is not _aten.mul.Tensor:
        return None
    refused: Miss | None = None
    for left, right in (product.args[:2], product.args[1::-1]):
        x0 = rows_of(left)
        if x0 is None or not isinstance(right, fx.Node) or not same_rows(x0, x):
            continue
        vector = scalar_product(ctx, right, x)
        if vector is not None:
            return vector if isinstance(vector, Miss) else CrossStep(VECTOR, x0, x, vector)
        found = _matrix(ctx, right, x0, x)
        if isinstance(found, CrossStep):
            return found
        refused = refused or found
    return refused


def _turned_product(ctx: PassContext, product: fx.Node, x: fx.Node) -> CrossStep | None:
    """(x0^T (x . w))^T, where x . w is [B] and broadcasts along the columns of x0^T."""
    if product.target is not _aten.mul.Tensor:
        return None
    for left, right in (product.args[:2], product.args[1::-1]):
        x0, held = unturned(left), value(right)
        if x0 is None or not same_rows(x0, x) or held is None or held.ndim != 1:
            continue
        weight = dotted_with(ctx, right, x)
        return None if weight is None else CrossStep(VECTOR, x0, x, weight)
    return None


def _column_product(ctx: PassContext, product: fx.Node, x: fx.Node) -> CrossStep | Miss | None:
    """x0 (x^T w) or (x0 x^T) w on columns."""
    left: Any = product.args[0]
    right: Any = product.args[1]
    if left.target is _aten.stack.default and right.target is _aten.softmax.int:
        return Miss("a mixture of experts (DCN-Mix) is not a cross layer of the dialect", product)
    x0 = rows_of(left)
    if x0 is not None and tensor_of(left).ndim == 3 and same_rows(x0, x):
        vector = scalar_product(ctx, right, x)
        return CrossStep(VECTOR, x0, x, vector) if vector is not None and not isinstance(vector, Miss) else vector
    weight = constant_column(ctx, right, width_of(x))
    if weight is None or left.target not in MATRIX_PRODUCTS:
        return None
    x0, row = rows_of(left.args[0]), left.args[1]
    if x0 is None or not same_rows(x0, x) or row_of(row) is not x or tensor_of(left.args[0]).ndim != 3:
        return None
    return CrossStep(VECTOR, x0, x, weight)


def _matrix(ctx: PassContext, node: fx.Node, x0: fx.Node, x: fx.Node) -> CrossStep | Miss | None:
    """W x + b or U (V x) + b."""
    width = width_of(x)
    bias: Param | None = None
    if node.target is _aten.add.Tensor and node.kwargs.get("alpha", 1) == 1:
        added = next((a for a in node.args[:2] if ctx.tensor(a) is not None), None)
        node = next((a for a in node.args[:2] if a is not added and isinstance(a, fx.Node)), node)
        if not isinstance(added, fx.Node) or not is_vector(ctx, added, width):
            return None
        bias = flat(ctx, added)
    outer = _mapped(ctx, node)
    if outer is None:
        return None
    source, weight, own = outer
    if own is not None and bias is not None:
        return Miss("the matrix product has two biases", node)
    bias = bias if own is None else own
    if rows_of(source) is x:
        return CrossStep(FULL, x0, x, weight, bias)
    inner = _mapped(ctx, source)
    if inner is None or rows_of(inner[0]) is not x:
        return None
    if inner[2] is not None:
        return Miss("the inner product of the low-rank layer has a bias", source)
    return CrossStep(LOW_RANK, x0, x, weight, bias, inner[1])


def _mapped(ctx: PassContext, node: Any) -> tuple[fx.Node, Param, fx.Node | None] | None:
    """(x, W [N, K], bias [N]) of a product with a constant matrix, on rows or on columns."""
    if not isinstance(node, fx.Node):
        return None
    if node.target is _aten.linear.default:
        weight, bias = ctx.tensor(node.args[1]), argument(node, 2, "bias")
        if weight is None or weight.ndim != 2 or weight.dtype is not torch.float32:
            return None
        if bias is not None and not is_vector(ctx, bias, len(weight)):
            return None
        return argument_of(node, 0, fx.Node), argument_of(node, 1, fx.Node), bias
    if node.target not in MATRIX_PRODUCTS:
        return None
    left, right = ctx.tensor(node.args[0]), ctx.tensor(node.args[1])
    held = value(node)
    if left is not None and left.ndim == 2 and left.dtype is torch.float32 and held is not None and held.ndim == 3:
        return argument_of(node, 1, fx.Node), argument_of(node, 0, fx.Node), None
    if right is not None and right.ndim == 2 and right.dtype is torch.float32 and held is not None and held.ndim == 2:
        stored = Fresh(f"{argument_of(node, 1, fx.Node).target}_t", right.detach().t().contiguous())
        return argument_of(node, 0, fx.Node), stored, None
    return None
