"""Products of pairs, computed in groups that have one field in common: the field is read where it lies, and so are its partners."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from recfx.passes._match import only_user
from recfx.passes.interaction.gather_rows import gather_sides, in_one_tensor, take_at
from recfx.passes.interaction.pair_linears import FieldLinear, JoinedMatrices, linear_at
from recfx.passes.interaction.pair_products import Product, factors_of
from recfx.passes.interaction.row_parts import RowPart
from recfx.pipeline import PassContext

_aten = torch.ops.aten

#: Rows of fewer elements are gathered: operators then cost more than copies.
_WIDE = 16


@dataclasses.dataclass(frozen=True)
class Member:
    """A product of a group.

    Attributes:
        number: Its position among the products.
        product: The product.
        other: The factor that is not common to the group.
        linear: For a group of linears over one field, the linear; None otherwise.
    """

    number: int
    product: Product
    other: RowPart
    linear: FieldLinear | None = None


#: The common factor, or the common input of linears, with the products.
Group = tuple[RowPart, list[Member]]


def matrix_groups(ctx: PassContext, products: Sequence[Product]) -> list[Group] | None:
    """Products of a linear and a field, grouped by the linear's field; None if they are not products with a matrix for each pair."""
    groups: dict[RowPart, list[Member]] = {}
    for number, product in enumerate(products):
        linear, other = linear_at(ctx, product.left), product.right
        if linear is None:
            linear, other = linear_at(ctx, product.right), product.left
        if linear is None or only_user(linear.node) is None:
            return None
        groups.setdefault(linear.source, []).append(Member(number, product, other, linear))
    alike = all(len({m.linear.bias is None for m in group if m.linear is not None}) == 1 for group in groups.values())
    return list(groups.items()) if alike and 2 * len(groups) <= len(products) else None


def field_groups(products: Sequence[Product]) -> list[Group] | None:
    """Consecutive products of wide rows with one factor in common; None if they are narrow, or have too few in common."""
    if products[0].left.length < _WIDE:
        return None
    for left in (True, False):
        groups: list[Group] = []
        for number, product in enumerate(products):
            common, other = (product.left, product.right) if left else (product.right, product.left)
            if not groups or groups[-1][0] != common:
                groups.append((common, []))
            groups[-1][1].append(Member(number, product, other))
        if 2 * len(groups) <= len(products):
            return groups
    return None


def multiply_groups(ctx: PassContext, groups: Sequence[Group], joined: JoinedMatrices) -> fx.Node:
    """The products [B, P, T] of groups, or [B, P] for sums, in the order of their numbers."""
    members = [member for _, group in groups for member in group]
    others = dict(zip(members, in_one_tensor(ctx, [member.other for member in members]), strict=True))
    found = [_multiply(ctx, common, group, [others[member] for member in group], joined) for common, group in groups]
    whole = ctx.call(_aten.cat.default, found, 1) if len(found) > 1 else found[0]
    order = [member.number for member in members]
    if order == sorted(order):
        return whole
    at = {number: position for position, number in enumerate(order)}
    return take_at(ctx, whole, [at[number] for number in range(len(order))])


def _multiply(
    ctx: PassContext, common: RowPart, group: Sequence[Member], others: Sequence[RowPart], joined: JoinedMatrices
) -> fx.Node:
    """The products [B, n, T] of one group, or their sums [B, n]."""
    length = others[0].length
    row, partners = (gather_sides(ctx, [side])[0] for side in ([common], others))
    linears = [member.linear for member in group if member.linear is not None]
    if linears:
        wide = joined.linear(linears, ctx.call(_aten.reshape.default, row, [-1, common.length]))
        flat = ctx.call(_aten.reshape.default, partners, [-1, len(group) * length])
        product = ctx.call(_aten.reshape.default, ctx.call(_aten.mul.Tensor, wide, flat), [-1, len(group), length])
    else:
        product = ctx.call(_aten.mul.Tensor, row, partners)
    return weighted(ctx, product, [member.product for member in group])


def weighted(ctx: PassContext, product: fx.Node, products: Sequence[Product], *, total: bool = False) -> fx.Node:
    """Products [B, P, T] times their factors, summed as they say: [B, P, T], or [B, P] for sums.

    Args:
        ctx: The pass context.
        product: The products.
        products: Their descriptions.
        total: Whether to sum over the pairs.
    """
    inner, outer = factors_of(products, False), factors_of(products, True)
    if inner is not None:
        product = ctx.call(_aten.mul.Tensor, product, ctx.constant("pair_weights", inner))
    if outer is None:
        dims = [1] * total + [2] * products[0].summed
        return ctx.call(_aten.sum.dim_IntList, product, dims) if dims else product
    sums = ctx.call(_aten.sum.dim_IntList, product, [2])
    scaled = ctx.call(_aten.mul.Tensor, sums, ctx.constant("pair_weights", outer))
    return ctx.call(_aten.sum.dim_IntList, scaled, [1]) if total else scaled


def matrices(group: Group) -> list[Any]:
    """The linears of a group."""
    return [member.linear for member in group[1] if member.linear is not None]
