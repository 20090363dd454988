"""batch-pairs: products of pairs of fields that are written one by one become one product over gathered pairs.

    cat([x_i * x_j, ...])              -> gather(x, lefts) * gather(x, rights)       field-aware and operation-aware products
    stack([(x_i * x_j).sum(-1), ...])  -> (gather(x, lefts) * gather(x, rights)).sum(-1)
    (x_i * x_j) * w_ij + ...           -> (gather(x, lefts) * gather(x, rights) * w).sum(1)       field-weighted
    cat([linear(x_i, W) * x_j, ...])   -> gather(linear(x, W), lefts) * gather(x, rights)         bilinear, one matrix
    cat([linear(x_i, W_ij) * x_j, ..]) -> cat([linear(x_i, [W_ij ...]) * x[j ...], ...])          bilinear, a matrix for each pair
    cat([linear(cat([x_i, x_j]), W_ij), ..]) -> linear(x, [W_ij ...]) + linear(x, [W_ij ...])     see `pair_maps`
    cat([bilinear(x_i, x_j, W_ij), ...])     -> cat([(linear(x_i, [W_ij ...]) * x[j ...]).sum(), ...])
    einsum("bd,de,be->be", x_i, W_ij, x_j)   -> (x_i @ W_ij) * x_j                   several of them, for the rules above
    cat([x_i, x_i, x_i, x_j, ...])     -> gather(x, ...)                             lists of pairs

Pairs may stand in any order and occur any number of times. The fields are parts of one tensor, or tensors of their own, which are then
concatenated: lookups write there directly.

Requires: functional. Exactness: REASSOC (sums may be taken in another order; products keep every bit).
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from recfx.ir.access import items_of, tensor_of
from recfx.ir.numeric import Exactness
from recfx.ir.op_sets import JOINS
from recfx.ir.program import Program
from recfx.passes._match import only_user, same_shape
from recfx.passes._properties import BATCHED, CANONICAL
from recfx.passes.interaction.addition_trees import adds_whole, is_root, terms_of
from recfx.passes.interaction.gather_rows import gather_sides, in_order, shaped
from recfx.passes.interaction.pair_einsums import is_part_of_pairs, match_einsum, write_out
from recfx.passes.interaction.pair_groups import field_groups, matrices, matrix_groups, multiply_groups, weighted
from recfx.passes.interaction.pair_linears import JoinedMatrices, with_shared_matrix
from recfx.passes.interaction.pair_maps import compute_maps, linears_of, maps_of
from recfx.passes.interaction.pair_products import Product, match_product, runs
from recfx.passes.interaction.row_parts import RowPart, row_length, row_part, rows_joined
from recfx.pipeline import Miss, Pass, PassContext, PassSpec, apply_rules, register

_aten = torch.ops.aten


@register
@dataclass(frozen=True)
class BatchPairs(Pass):
    """Computes products of pairs of fields together.

    Attributes:
        at_least: The smallest number of products to compute together.
    """

    spec = PassSpec(
        "batch-pairs",
        "Computes products of pairs of fields that are written one by one as one product over gathered pairs.",
        exactness=Exactness.REASSOC,
        changes_state=True,
        prefers=CANONICAL,
        avoids=BATCHED,
    )

    at_least: int = 6

    def run(self, program: Program, ctx: PassContext) -> None:
        batch = _Batch(ctx, self.at_least)
        apply_rules([("einsum", (_aten.einsum.default,), batch.einsum)], ctx)
        batch.expect_matrices()
        apply_rules(
            [
                ("sum", (_aten.add.Tensor,), batch.sum_of_products),
                ("join", JOINS, batch.join_of_products),
                ("maps", JOINS, batch.join_of_maps),
                ("lists", (_aten.mul.Tensor,), batch.product_of_lists),
                ("repeats", JOINS, batch.list_of_fields),
            ],
            ctx,
        )


class _Batch:
    """The rules, with the matrices that they join.

    Args:
        ctx: The pass context.
        at_least: The smallest number of products to compute together.
    """

    def __init__(self, ctx: PassContext, at_least: int) -> None:
        self._at_least = at_least
        self._joined = JoinedMatrices(ctx)
        self._ctx = ctx
        #: Equation -> how many einsums have it.
        self._einsums = Counter(node.args[0] for node in ctx.nodes(_aten.einsum.default))

    def einsum(self, node: fx.Node, ctx: PassContext) -> Any:
        """einsum of two fields and a matrix between them, one of several, as two operators that the other rules read."""
        found = match_einsum(ctx, node)
        if found is None or not is_part_of_pairs(node, self._at_least):
            return None
        alike = self._einsums[node.args[0]]
        return write_out(ctx, found) if alike >= self._at_least else Miss(f"only {alike} einsums of pairs", node)

    def expect_matrices(self) -> None:
        """Counts the matrices that the rules may join, before any rule fires."""
        ctx = self._ctx
        for node in ctx.nodes(*JOINS):
            found = runs(ctx, items_of(node, 0), node, self._at_least) if rows_joined(node) else Miss("")
            for run in [] if isinstance(found, Miss) else found:
                self._expect(run)
            for group in linears_of(maps_of(ctx, node, self._at_least) or []):
                self._joined.expect(group)
        for node in ctx.nodes(_aten.add.Tensor):
            terms = self._terms(ctx, node)
            if terms is not None:
                self._expect(terms[0])

    def _expect(self, run: Sequence[Product | None]) -> None:
        products = [product for product in run if product is not None]
        for group in (products and matrix_groups(self._ctx, products)) or []:
            self._joined.expect(matrices(group))

    def join_of_products(self, node: fx.Node, ctx: PassContext) -> Any:
        """cat or stack of products."""
        parts: Any = node.args[0]
        order = rows_joined(node)
        if order is None or len(parts) < self._at_least:
            return None
        found = runs(ctx, parts, node, self._at_least)
        if isinstance(found, Miss):
            return found
        if all(run[0] is None for run in found):
            return None
        pieces, number = [], 0
        for run in found:
            products = [product for product in run if product is not None]
            piece: Any = self._products(ctx, products, node) if products else parts[number]
            pieces.append(piece if len(found) == 1 else shaped(ctx, piece, [row_length(piece)]))
            number += len(run)
        whole = pieces[0] if len(pieces) == 1 else ctx.call(_aten.cat.default, pieces, 1)
        return in_order(ctx, whole, node)

    def join_of_maps(self, node: fx.Node, ctx: PassContext) -> Any:
        """cat or stack of linears over joined pairs, or of bilinear forms."""
        maps = maps_of(ctx, node, self._at_least)
        if maps is None:
            return None
        if not all(self._joined.allows(group) for group in linears_of(maps)):
            return Miss("a weight of a pair is read elsewhere as well", node)
        return in_order(ctx, compute_maps(ctx, maps, self._joined), node)

    def sum_of_products(self, node: fx.Node, ctx: PassContext) -> Any:
        """The sum of products, written as a chain or tree of additions."""
        found = self._terms(ctx, node)
        if found is None:
            return None
        products, others = found
        whole, held = self._products(ctx, products, node, total=True), tensor_of(node)
        total = shaped(ctx, whole, list(held.shape[1:]))
        for other in others:
            total = ctx.call(_aten.add.Tensor, total, other)
        return total if same_shape(tensor_of(total), held) else Miss("an addition changes the shape", node)

    def _terms(self, ctx: PassContext, node: fx.Node) -> tuple[list[Product], list[fx.Node]] | None:
        """(the products, the other terms) of a tree of additions that is not a part of a larger one; None without enough products."""
        if not is_root(node):
            return None
        products, others = [], []
        for term, user in terms_of(node):
            found = match_product(ctx, term, user) if adds_whole(term, node) else None
            if isinstance(found, Product):
                products.append(found)
            else:
                others.append(term)
        alike = len({product.form for product in products}) == 1
        return (products, others) if alike and len(products) >= self._at_least else None

    def product_of_lists(self, node: fx.Node, ctx: PassContext) -> Any:
        """The product of two lists of fields, in which fields occur several times."""
        lists = [self._listed(ctx, operand) for operand in node.args[:2]]
        left, right = lists
        if left is None or right is None or len(left) != len(right) or left[0].length != right[0].length:
            return None
        if not same_shape(tensor_of(node.args[0]), tensor_of(node.args[1])) or not (_repeats(left) or _repeats(right)):
            return None
        if any(only_user(operand) is not node for operand in node.args[:2] if isinstance(operand, fx.Node)):
            return Miss("a list of fields is read elsewhere as well", node)
        sides = gather_sides(ctx, [left, right])
        return shaped(ctx, ctx.call(_aten.mul.Tensor, *sides), list(tensor_of(node).shape[1:]))

    def list_of_fields(self, node: fx.Node, ctx: PassContext) -> Any:
        """A list of fields in which fields occur several times."""
        listed = self._listed(ctx, node)
        if listed is None or not _repeats(listed):
            return None
        return shaped(ctx, gather_sides(ctx, [listed])[0], list(tensor_of(node).shape[1:]))

    def _listed(self, ctx: PassContext, node: Any) -> list[RowPart] | None:
        """The fields that a cat or stack holds in order."""
        if not isinstance(node, fx.Node) or node.target not in JOINS:
            return None
        order, parts = rows_joined(node), [row_part(ctx, part) for part in items_of(node, 0)]
        found = [part for part in parts if part is not None]
        if order is None or order != sorted(order) or len(found) != len(parts) or len(found) < self._at_least:
            return None
        return found if len({part.length for part in found}) == 1 else None

    def _products(self, ctx: PassContext, products: list[Product], user: fx.Node, *, total: bool = False) -> fx.Node:
        """The products as [B, P, T], or their sums as [B, P]; with `total` summed over the pairs."""
        groups = matrix_groups(ctx, products)
        if groups is None or not all(self._joined.allows(matrices(group)) for group in groups):
            sides = [[product.left for product in products], [product.right for product in products]]
            left, right = (with_shared_matrix(ctx, side, user) for side in sides)
            mapped = zip(products, left, right, strict=True)
            products = [dataclasses.replace(product, left=a, right=b) for product, a, b in mapped]
            groups = field_groups(products)
        if groups is None:
            sides = [[product.left for product in products], [product.right for product in products]]
            factors = gather_sides(ctx, sides)
            return weighted(ctx, ctx.call(_aten.mul.Tensor, *factors), products, total=total)
        whole = multiply_groups(ctx, groups, self._joined)
        return ctx.call(_aten.sum.dim_IntList, whole, [1]) if total else whole


def _repeats(parts: Sequence[RowPart]) -> bool:
    return 4 * len(set(parts)) <= 3 * len(parts)
