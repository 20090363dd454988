"""Products of two parts of rows, as models write them one pair at a time: with weights of the pair, summed or not."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from recfx.ir.op_sets import MATRIX_PRODUCTS, REGROUPINGS
from recfx.passes._match import only_user, same_shape, value
from recfx.passes.interaction.row_parts import RowPart, row_length, row_part
from recfx.pipeline import Miss, PassContext

_aten = torch.ops.aten
_SHARED = "a product is read elsewhere as well"


@dataclasses.dataclass(frozen=True)
class Product:
    """left * right * inner, perhaps summed over a row, times outer.

    Attributes:
        left: A part of rows.
        right: Another one of the same length.
        summed: Whether the row of products is summed.
        inner: Constants [1] or [T] that multiply the products; None for 1.
        outer: A constant [1] that multiplies the sum; None for 1.
    """

    left: RowPart
    right: RowPart
    summed: bool
    inner: torch.Tensor | None
    outer: torch.Tensor | None

    @property
    def form(self) -> tuple[Any, ...]:
        """Equal for products that one operator can compute together."""
        return self.left.length, self.summed, value_dtype(self.left.base)

    @property
    def width(self) -> int:
        """The number of elements of its result in a row."""
        return 1 if self.summed else self.left.length


def value_dtype(node: fx.Node) -> torch.dtype:
    """The dtype of a tensor node."""
    dtype: torch.dtype = node.meta["val"].dtype
    return dtype


def match_product(ctx: PassContext, node: Any, user: fx.Node) -> Product | Miss | None:
    """The product at a node, which only `user` reads; None for another operator."""
    summed, inner, outer = False, None, None
    factor: torch.Tensor | None
    while isinstance(node, fx.Node) and row_length(node) is not None:
        shared = only_user(node) is not user
        source = _passed_through(node)
        if source is None and not summed:
            source = _row_summed(node)
            summed = source is not None
        if source is None:
            scaled = _scaled(ctx, node)
            if scaled is None:
                break
            source, factor = scaled
            outer, inner = (outer, times(inner, factor)) if summed else (times(outer, factor), inner)
        if shared:
            return Miss(_SHARED, node) if _product_of(ctx, source) or _dot_of(source) else None
        node, user = source, node
    dot = None if summed else _dot_of(node)
    if dot is not None and row_length(node) is not None:
        summed, (inner, outer) = True, (None, outer)
    found = _product_of(ctx, node) if dot is None else _sides(ctx, node, dot)
    if found is None:
        return None
    if only_user(node) is not user:
        return Miss(_SHARED, node)
    left, right, factor = found
    if not summed:
        inner, outer = times(inner, outer), None
    return Product(left, right, summed, times(inner, factor), outer)


def _passed_through(node: fx.Node) -> fx.Node | None:
    """The operand of a reshape that keeps the rows; None for other nodes."""
    source: Any = node.args[0] if node.args else None
    kept = node.target in REGROUPINGS and row_length(source) == row_length(node)
    return source if kept and isinstance(source, fx.Node) else None


def _row_summed(node: fx.Node) -> fx.Node | None:
    """The operand of a sum over whole rows; None for other nodes."""
    if node.target is not _aten.sum.dim_IntList or node.kwargs.get("dtype") is not None:
        return None
    source: Any = node.args[0]
    dims: Any = node.args[1]
    length = row_length(source)
    if not dims or length is None or row_length(node) != 1:
        return None
    held = source.meta["val"]
    return None if 0 in [d % held.ndim for d in dims] else source


def _scaled(ctx: PassContext, node: fx.Node) -> tuple[fx.Node, torch.Tensor] | None:
    """(the operand, the factor of its rows) of a product with a constant; None for other nodes."""
    if node.target is not _aten.mul.Tensor:
        return None
    for source, factor in (node.args[:2], node.args[1::-1]):
        held, result = value(source), value(node)
        if held is None or result is None or not same_shape(held, result) or held.dtype is not result.dtype:
            continue
        found = _constant_row(ctx, factor, held)
        if found is not None and isinstance(source, fx.Node):
            return source, found
    return None


def _constant_row(ctx: PassContext, factor: Any, like: torch.Tensor) -> torch.Tensor | None:
    """A constant factor of the rows of a tensor, as [1] or [T]; None for a factor that varies."""
    if isinstance(factor, int | float) and not isinstance(factor, bool):
        return torch.tensor([float(factor)], dtype=like.dtype)
    if not isinstance(factor, fx.Node):
        return None
    tensor = _repeated(ctx, factor)
    if tensor is None or tensor.dtype is not like.dtype or not tensor.is_floating_point():
        return None
    if tensor.numel() == 1:
        return tensor.reshape(1)
    sizes = [1] * (like.ndim - tensor.ndim) + list(tensor.shape)
    fits = len(sizes) == like.ndim and sizes[0] == 1 and sizes[1:] == list(like.shape[1:])
    return tensor.reshape(-1) if fits else None


def _repeated(ctx: PassContext, factor: fx.Node) -> torch.Tensor | None:
    """A constant, or one row of a constant that is expanded over the batch."""
    tensor = ctx.tensor(factor)
    if tensor is not None:
        return tensor.detach()
    part = row_part(ctx, factor)
    expanded = None if part is None or part.base.target is not _aten.expand.default else part.base
    held = None if expanded is None else ctx.tensor(expanded.args[0])
    if part is None or expanded is None or held is None:
        return None
    sizes = expanded.meta["val"].shape
    if held.ndim == len(sizes) and held.shape[0] != 1:
        return None
    row = held.detach().expand(1, *sizes[1:]).reshape(-1)
    return row[part.start : part.start + part.length].reshape(1, *factor.meta["val"].shape[1:])


def times(a: torch.Tensor | None, b: torch.Tensor | None) -> torch.Tensor | None:
    """The product of two factors. None stands for 1."""
    if a is None or b is None:
        return b if a is None else a
    return a * b


def _dot_of(node: Any) -> tuple[fx.Node, fx.Node] | None:
    """The factors of a dot product of rows written as a product of matrices or as einsum; None for other nodes."""
    if not isinstance(node, fx.Node) or row_length(node) != 1:
        return None
    operands: Any = node.args[1] if node.target is _aten.einsum.default else node.args[:2]
    if node.target is _aten.einsum.default:
        inputs, _, output = str(node.args[0]).replace(" ", "").partition("->")
        left, _, right = inputs.partition(",")
        if left != right or len(set(left)) != len(left) or output != left[:1]:
            return None
    elif node.target in MATRIX_PRODUCTS:
        a, b = value(operands[0]), value(operands[1])
        if a is None or b is None or a.ndim != 3 or b.ndim != 3 or a.shape[1] != 1 or b.shape[2] != 1:
            return None
    else:
        return None
    return operands[0], operands[1]


def _product_of(ctx: PassContext, node: Any) -> tuple[RowPart, RowPart, torch.Tensor | None] | None:
    """(left, right, a constant factor of one of them) of a product of two parts of rows of one shape; None for other nodes."""
    if not isinstance(node, fx.Node) or node.target is not _aten.mul.Tensor:
        return None
    result = value(node)
    for operand in node.args[:2]:
        held = value(operand)
        if held is None or result is None or not same_shape(held, result) or held.dtype is not result.dtype:
            return None
    return _sides(ctx, node, node.args[:2])


def _sides(
    ctx: PassContext, node: fx.Node, operands: Sequence[Any]
) -> tuple[RowPart, RowPart, torch.Tensor | None] | None:
    """(left, right, a constant factor of one of them) of two operands of a node; None if one of them is a constant, or integers."""
    sides, factors = [], None
    for operand in operands:
        held = value(operand)
        if held is None or not held.is_floating_point() or ctx.tensor(operand) is not None:
            return None
        scaled = _scaled(ctx, operand) if only_user(operand) is node else None
        if scaled is not None:
            operand, factors = scaled[0], times(factors, scaled[1])
        part = row_part(ctx, operand)
        if part is None:
            return None
        sides.append(part)
    left, right = sides
    alike = left.length == right.length and value_dtype(left.base) is value_dtype(right.base)
    return (left, right, factors) if alike else None


def runs(ctx: PassContext, parts: Sequence[Any], user: fx.Node, at_least: int) -> list[list[Product | None]] | Miss:
    """The parts of a join in order, divided into runs: products that are computed together, or single other parts as [None].

    Args:
        ctx: The pass context.
        parts: The parts.
        user: The join.
        at_least: The smallest number of products to compute together.
    """
    matched = [match_product(ctx, part, user) for part in parts]
    products = [found if isinstance(found, Product) else None for found in matched]
    found: list[list[Product | None]] = []
    for run in _consecutive(products, lambda p: None if p is None else p.form):
        smaller = _consecutive(run, lambda p: p and tuple(None if s.whole else s.base for s in (p.left, p.right)))
        for piece in smaller if all(len(piece) >= at_least for piece in smaller) else [run]:
            found += [piece] if piece[0] is not None and len(piece) >= at_least else [[None] for _ in piece]
    if any(run[0] is not None for run in found):
        return found
    missed = next((miss for miss in matched if isinstance(miss, Miss)), None)
    several = sum(product is not None for product in products) >= at_least
    if missed is None and several:
        return Miss(f"fewer than {at_least} products of one width stand side by side", user)
    return missed or found


def _consecutive(items: Sequence[Any], key: Any) -> list[list[Any]]:
    """Items in order, divided where the key changes."""
    found: list[list[Any]] = []
    last: Any = object()
    for item in items:
        current = key(item)
        if not found or current != last:
            found.append([])
        found[-1].append(item)
        last = current
    return found


def factors_of(products: Sequence[Product], outer: bool) -> torch.Tensor | None:
    """The factors of some products, as [P, 1] or [P, T], or [P] for factors of sums; None if all are 1."""
    given = [product.outer if outer else product.inner for product in products]
    if all(factor is None for factor in given):
        return None
    like = next(factor for factor in given if factor is not None)
    widths = math.lcm(*(factor.numel() for factor in given if factor is not None))
    rows = [like.new_ones(widths) if factor is None else factor.expand(widths) for factor in given]
    stacked = torch.stack(rows)
    return stacked.reshape(-1) if outer else stacked
