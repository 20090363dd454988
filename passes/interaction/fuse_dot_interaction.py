"""fuse-dot-interaction: the dot products of all pairs of vectors become one operator that computes a triangle only.

    x x^T (bmm, matmul, einsum), its lower or upper triangle taken by constant indices or a mask  -> recfx.dot_interaction(x)
    cat or stack of (x_i * x_j).sum(-1) over all pairs                                            -> likewise
    (cat of x_i * cat of x_j).sum(-1) over all pairs (PNN's inner products)                       -> likewise
    cat([dense, dots], 1)                                                                         -> with dense as its prefix

Requires: functional. Exactness: REASSOC (a dot product may be summed in another order).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from recfx.ir.access import tensor_of
from recfx.ir.numeric import Exactness
from recfx.ir.op_sets import JOINS
from recfx.ir.program import Program
from recfx.ops import interaction
from recfx.passes._match import argument, only_user, value
from recfx.passes._properties import CANONICAL
from recfx.passes.interaction.fields import (
    Field,
    Pair,
    candidate_orders,
    fields_along,
    gather_fields,
    product_pair,
    sums_last,
)
from recfx.passes.interaction.triangle import Orders, entries_of, product_of, triangle_of
from recfx.pipeline import Miss, Pass, PassContext, PassSpec, apply_rules, register

_aten = torch.ops.aten
_SELECTIONS = (
    _aten.index.Tensor,
    _aten.index_select.default,
    _aten.gather.default,
    _aten.reshape.default,
    _aten.cat.default,
)


@register
class FuseDotInteraction(Pass):
    """Recognises pairwise dot products, and a dense tensor concatenated in front of them."""

    spec = PassSpec(
        "fuse-dot-interaction",
        "Fuses the dot products of all pairs of vectors, with the dense features in front, into one operator.",
        exactness=Exactness.REASSOC,
        changes_state=True,
        prefers=CANONICAL,
        avoids=frozenset({"lookups-fused"}),
    )

    def run(self, program: Program, ctx: PassContext) -> None:
        apply_rules(
            [
                ("triangle", _SELECTIONS, _triangle),
                ("listed-pairs", JOINS, _listed_pairs),
                ("paired-lists", (_aten.sum.dim_IntList,), _paired_lists),
                ("prefix", (_aten.cat.default,), _prefix),
            ],
            ctx,
        )
        self._drop_size_checks(ctx)

    def _drop_size_checks(self, ctx: PassContext) -> None:
        """Erases export's assertions about the number of elements that a mask selects. They hold for a constant mask."""
        for node in ctx.nodes(_aten.masked_select.default):
            checks = _checks_of(node)
            if ctx.tensor(node.args[1]) is None or not checks or not ctx.gate("size-checks", node):
                continue
            for check in checks:
                ctx.graph.erase_node(check)
        ctx.sweep()


def _checks_of(node: fx.Node) -> list[fx.Node]:
    """The assertions that use a node, the last first; empty if it has other uses."""
    ends: dict[fx.Node, None] = {}
    pending = [node]
    while pending:
        for user in pending.pop().users:
            if user.target is _aten._assert_scalar.default:
                ends[user] = None
            elif user.users and isinstance(user.meta.get("val"), torch.SymInt | torch.SymBool):
                pending.append(user)
            else:
                return []
    return sorted(ends, reverse=True)


def _triangle(node: fx.Node, ctx: PassContext) -> Any:
    """The triangle of x x^T."""
    found = entries_of(ctx, node)
    if found is None:
        return _explain_product(ctx, node)
    matrix, entries = found
    x = product_of(matrix)
    if x is None or isinstance(x, Miss):
        return x
    if any(not _leads_only_to(user, node) for user in matrix.users):
        return Miss("the products are read elsewhere as well", matrix)
    held = tensor_of(x)
    orders = triangle_of(entries, int(held.shape[1]))
    if orders is None:
        return Miss("it takes other entries than a triangle, or in another order", node)
    return _call(ctx, x, orders)


def _explain_product(ctx: PassContext, node: fx.Node) -> Miss | None:
    """A Miss for an indexing of a product x x^T that does not select constant entries; None for any other node."""
    source = node.args[0] if node.args else None
    if node.target is _aten.index.Tensor and isinstance(product_of(source), fx.Node):
        return Miss("it does not select by constants along the fields", node)
    return None


def _leads_only_to(node: fx.Node, target: fx.Node) -> bool:
    """Whether all uses of a node end in the target or in assertions about sizes."""
    if node is target or node.target is _aten._assert_scalar.default:
        return True
    return bool(node.users) and all(_leads_only_to(user, target) for user in node.users)


def _call(ctx: PassContext, x: fx.Node, orders: Orders) -> fx.Node:
    diagonal, upper = orders
    return ctx.call(interaction.dot_interaction, x, None, diagonal, upper)


def _listed_pairs(node: fx.Node, ctx: PassContext) -> Any:
    """cat or stack of (x_i * x_j).sum(-1)."""
    parts: Any = node.args[0]
    held = value(node)
    if held is None or held.ndim != 2 or argument(node, 1, "dim", 0) not in (1, -1) or len(parts) < 2:
        return None
    pairs: list[Pair] = []
    for part in parts:
        summed = sums_last(part)
        pair = None if summed is None else product_pair(summed[0])
        if pair is None or summed is None:
            return None
        if tensor_of(part).ndim != (2 if node.target is _aten.cat.default else 1):
            return None
        if only_user(part) is not node or only_user(summed[0]) is not part:
            return Miss("a pair's product is read elsewhere as well", part)
        pairs.append(pair)
    return _fuse_pairs(ctx, node, pairs)


def _paired_lists(node: fx.Node, ctx: PassContext) -> Any:
    """(p * q).sum(-1) with the fields of p and q side by side: [B, n], or [B, n, 1]."""
    summed = sums_last(node)
    if summed is None or summed[0].target is not _aten.mul.Tensor:
        return None
    product, keeps = summed
    left, right = (fields_along(ctx, side) for side in product.args[:2])
    if left is None or right is None or len(left) != len(right) or len(left) < 2:
        return None
    if only_user(product) is not node:
        return Miss("the products are read elsewhere as well", product)
    dots = _fuse_pairs(ctx, node, list(zip(left, right, strict=True)))
    if isinstance(dots, Miss) or not keeps:
        return dots
    return ctx.call(_aten.unsqueeze.default, dots, 2)


def _fuse_pairs(ctx: PassContext, node: fx.Node, pairs: Sequence[Pair]) -> fx.Node | Miss:
    numbered = _number(pairs)
    if numbered is None:
        return Miss("the pairs are not all pairs of some vectors, or stand in another order than a triangle's", node)
    if not _same_widths(numbered.fields):
        return Miss("the vectors have different widths", node)
    return _call(ctx, gather_fields(ctx, numbered.fields), numbered.orders)


@dataclasses.dataclass(frozen=True)
class _Numbered:
    """Fields in the order in which their pairs form a triangle."""

    fields: list[Field]
    orders: Orders


def _number(pairs: Sequence[Pair]) -> _Numbered | None:
    for fields in candidate_orders(pairs):
        at = {field: i for i, field in enumerate(fields)}
        orders = triangle_of([(at[a], at[b]) for a, b in pairs], len(fields))
        if orders is not None:
            return _Numbered(fields, orders)
    return None


def _same_widths(fields: Sequence[Field]) -> bool:
    return len({tensor_of(f.node).shape[-1] for f in fields}) == 1


def _prefix(node: fx.Node, ctx: PassContext) -> Any:
    """cat([dense, dots], 1)."""
    parts: Any = node.args[0]
    held = value(node)
    if held is None or held.ndim != 2 or argument(node, 1, "dim", 0) not in (1, -1):
        return None
    dots = next((p for p in parts if p.target is interaction.dot_interaction), None)
    if dots is None:
        return None
    if len(parts) != 2 or parts[1] is not dots:
        return Miss("the dot products are not the second of two parts", node)
    x, prefix, diagonal, upper = dots.args
    dense = value(parts[0])
    if prefix is not None or only_user(dots) is not node:
        return Miss("the dot products have a prefix, or are read elsewhere as well", dots)
    if dense is None or dense.ndim != 2 or dense.dtype is not torch.float32 or not isinstance(dense.shape[1], int):
        return Miss("the tensor in front is not a float32 matrix of fixed width", parts[0])
    return ctx.call(interaction.dot_interaction, x, parts[0], diagonal, upper)
