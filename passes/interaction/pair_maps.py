"""Maps of pairs of fields, each with a weight of its own, as models write them one pair at a time.

    linear(cat([x_i, x_j]), W_ij, b_ij) = W_ij[:, :T] x_i + W_ij[:, T:] x_j + b_ij
    bilinear(x_i, x_j, W_ij, b_ij)      = sum_u (x_i W_ij[:, :, u]) x_j[u] + b_ij

The weights that read one field are joined to one matrix: each field is multiplied once as a left and once as a right field.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from recfx.ir.access import items_of
from recfx.ir.op_sets import REGROUPINGS
from recfx.passes._match import argument, only_user
from recfx.passes.interaction.gather_rows import gather_sides, take_at
from recfx.passes.interaction.pair_linears import FieldLinear, JoinedMatrices
from recfx.passes.interaction.row_parts import RowPart, row_length, row_part, rows_joined
from recfx.pipeline import PassContext

_aten = torch.ops.aten


@dataclasses.dataclass(frozen=True)
class LinearPart(FieldLinear):
    """What a linear over two joined fields does with one of them.

    Attributes:
        first: The first column of the weight that is multiplied with the field.
    """

    first: int = 0

    def parameters(self, ctx: PassContext) -> tuple[Any, ...]:
        return *super().parameters(ctx), self.first

    def matrix(self, ctx: PassContext) -> torch.Tensor:
        return ctx.stored(self.weight).detach()[:, self.first : self.first + self.source.length]


@dataclasses.dataclass(frozen=True)
class BilinearPart(FieldLinear):
    """What a bilinear form with the weight [N, T, U] does with its left field, as a linear to N * U numbers."""

    def matrix(self, ctx: PassContext) -> torch.Tensor:
        weight = ctx.stored(self.weight).detach()
        return weight.permute(0, 2, 1).reshape(-1, weight.shape[1])


@dataclasses.dataclass(frozen=True)
class PairMap:
    """A map of two fields to N numbers.

    Attributes:
        sides: The linears of both fields, or that of the left field of a bilinear form.
        right: The right field of a bilinear form; None for a linear over both.
        bias: The read of the bias [N], or None.
        width: N.
    """

    sides: tuple[FieldLinear, ...]
    right: RowPart | None
    bias: fx.Node | None
    width: int

    @property
    def form(self) -> tuple[Any, ...]:
        """Equal for maps that are computed together."""
        lengths = tuple(side.source.length for side in self.sides)
        return self.width, lengths, None if self.right is None else self.right.length, self.bias is None


def maps_of(ctx: PassContext, join: fx.Node, at_least: int) -> list[PairMap] | None:
    """The maps that a cat or a stack joins; None if it joins other values as well, maps of two forms, or too few for fewer operators."""
    parts = items_of(join, 0)
    if len(parts) < at_least or rows_joined(join) is None:
        return None
    found: list[PairMap] = []
    for part in parts:
        made = _map_of(ctx, part, join)
        if made is None or (found and made.form != found[0].form):
            return None
        found.append(made)
    fields = sum(len(group) for group in _by_field(found))
    return found if fields <= len(found) else None


def linears_of(maps: Sequence[PairMap]) -> list[list[FieldLinear]]:
    """The linears of each side and field, which are joined to one matrix."""
    if not maps:
        return []
    return [
        [maps[number].sides[side] for number in numbers]
        for side, fields in enumerate(_by_field(maps))
        for numbers in fields.values()
    ]


def compute_maps(ctx: PassContext, maps: Sequence[PairMap], joined: JoinedMatrices) -> fx.Node:
    """Inserts maps of one form, as [B, P, N].

    Args:
        ctx: The pass context.
        maps: The maps.
        joined: The joined matrices.
    """
    whole, *others = [_side(ctx, maps, side, fields, joined) for side, fields in enumerate(_by_field(maps))]
    for other in others:
        whole = ctx.call(_aten.add.Tensor, whole, other)
    if maps[0].bias is None:
        return whole
    biases = torch.stack([ctx.stored(made.bias).detach() for made in maps])
    return ctx.call(_aten.add.Tensor, whole, ctx.constant("pair_biases", biases))


def _by_field(maps: Sequence[PairMap]) -> list[dict[RowPart, list[int]]]:
    """For each side, its fields with the numbers of their maps."""
    found: list[dict[RowPart, list[int]]] = [{} for _ in maps[0].sides]
    for number, made in enumerate(maps):
        for fields, side in zip(found, made.sides, strict=True):
            fields.setdefault(side.source, []).append(number)
    return found


def _side(
    ctx: PassContext,
    maps: Sequence[PairMap],
    side: int,
    fields: dict[RowPart, list[int]],
    joined: JoinedMatrices,
) -> fx.Node:
    """What all maps do with the fields of one side, [B, P, N] in their order."""
    found, order = [], []
    for field, numbers in fields.items():
        row = ctx.call(_aten.reshape.default, gather_sides(ctx, [[field]])[0], [-1, field.length])
        wide = joined.linear([maps[number].sides[side] for number in numbers], row)
        found.append(_multiplied(ctx, wide, [maps[number] for number in numbers]))
        order += numbers
    whole = ctx.call(_aten.cat.default, found, 1) if len(found) > 1 else found[0]
    if order == sorted(order):
        return whole
    at = {number: place for place, number in enumerate(order)}
    return take_at(ctx, whole, [at[number] for number in range(len(order))])


def _multiplied(ctx: PassContext, wide: fx.Node, maps: Sequence[PairMap]) -> fx.Node:
    """The results of one left field, [B, n, N]; those of bilinear forms are multiplied with the right fields."""
    count, width = len(maps), maps[0].width
    rights = [made.right for made in maps if made.right is not None]
    if not rights:
        return ctx.call(_aten.reshape.default, wide, [-1, count, width])
    length = rights[0].length
    partners = ctx.call(_aten.reshape.default, gather_sides(ctx, [rights])[0], [-1, count, 1, length])
    product = ctx.call(_aten.mul.Tensor, ctx.call(_aten.reshape.default, wide, [-1, count, width, length]), partners)
    return ctx.call(_aten.sum.dim_IntList, product, [3])


def _map_of(ctx: PassContext, node: fx.Node, user: fx.Node) -> PairMap | None:
    """The map at a part of a join, which nothing else reads."""
    while node.target in REGROUPINGS and only_user(node) is user and row_length(node.args[0]) == row_length(node):
        node, user = node.args[0], node  # type: ignore[assignment]
    if only_user(node) is not user or row_length(node) is None:
        return None
    if node.target is _aten.linear.default:
        return _linear(ctx, node)
    return _bilinear(ctx, node) if node.target is _aten.bilinear.default else None


def _linear(ctx: PassContext, node: fx.Node) -> PairMap | None:
    """A linear over a join of two fields."""
    pair: Any = node.args[0]
    weight, bias = ctx.tensor(node.args[1]), _bias(ctx, node, 2)
    if pair.target is not _aten.cat.default or only_user(pair) is not node or rows_joined(pair) is None:
        return None
    fields = [row_part(ctx, part) for part in items_of(pair, 0)]
    found = [field for field in fields if field is not None]
    if weight is None or bias is False or len(fields) != 2 or len(found) != 2:
        return None
    left, right = found
    if left.length + right.length != weight.shape[1] or row_length(node) != weight.shape[0]:
        return None
    sides = (
        LinearPart(node, left, _read(node.args[1]), None, False, 0),
        LinearPart(node, right, _read(node.args[1]), None, False, left.length),
    )
    return PairMap(sides, None, bias or None, int(weight.shape[0]))


def _bilinear(ctx: PassContext, node: fx.Node) -> PairMap | None:
    """A bilinear form of two fields."""
    weight, bias = ctx.tensor(node.args[2]), _bias(ctx, node, 3)
    left, right = (row_part(ctx, side) if isinstance(side, fx.Node) else None for side in node.args[:2])
    if weight is None or bias is False or left is None or right is None:
        return None
    if (row_length(node), left.length, right.length) != tuple(weight.shape):
        return None
    side = BilinearPart(node, left, _read(node.args[2]), None, False)
    return PairMap((side,), right, bias or None, int(weight.shape[0]))


def _bias(ctx: PassContext, node: fx.Node, place: int) -> Any:
    """The read of a bias; None without one, and False for a bias that is computed."""
    bias = argument(node, place, "bias")
    return bias if bias is None or ctx.tensor(bias) is not None else False


def _read(node: Any) -> fx.Node:
    assert isinstance(node, fx.Node)
    return node
