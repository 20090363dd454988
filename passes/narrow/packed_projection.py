"""The packed projection of `nn.MultiheadAttention`: one linear whose output is cut into queries, keys and values."""

from __future__ import annotations

import dataclasses
import operator
from typing import Any

import torch
from torch import fx

from recfx.ir.access import argument_of, tensor_of
from recfx.ir.sizes import same_size
from recfx.passes._linear import Linear, match_linear
from recfx.passes._match import argument, permutation, value
from recfx.passes.narrow.selection import Cut, Narrow
from recfx.pipeline import Miss, PassContext

_aten = torch.ops.aten


@dataclasses.dataclass(frozen=True)
class PackedPart:
    """One part of a packed projection, as a separate linear.

    Attributes:
        linear: The packed linear.
        source: Its input, with the cut that narrows it.
        part: The number of the part.
        parts: How many parts the linear computes.
    """

    linear: Linear
    source: Narrow
    part: int
    parts: int

    def insert(self, ctx: PassContext, source: fx.Node) -> fx.Node:
        """Inserts the part's own linear over `source`."""
        width = len(self.linear.weight) // self.parts
        rows = slice(self.part * width, (self.part + 1) * width)
        stem = str(argument_of(self.linear.node, 1, fx.Node).target).removesuffix("weight")
        bias = self.linear.bias
        read_bias = None if bias is None else ctx.constant(f"{stem}bias_part", bias[rows].clone())
        read = ctx.constant(f"{stem}weight_part", self.linear.weight[rows].clone())
        return ctx.call(_aten.linear.default, source, read, *([] if read_bias is None else [read_bias]))


def match_packed_part(ctx: PassContext, node: fx.Node, place: Cut | None = None) -> PackedPart | None:
    """The part of a packed projection at a node; None for another node, or if the cut is not along rows of the linear.

        unbind(contiguous(squeeze(permute(unsqueeze(reshape(linear(x), [..., 3, D]), 0), [-2, 1, ..., 0, -1]), -2)), 0)[part]

    or select(..., 0, part).

    Args:
        ctx: The pass context.
        node: The operator that selects the part.
        place: The cut of the part.
    """
    taken: Any = node.args[0] if node.target is operator.getitem else node
    if taken.target not in (_aten.unbind.int, _aten.select.int) or argument(taken, 1, "dim", 0) != 0:
        return None
    current: Any = taken.args[0]
    if current.target is _aten.contiguous.default:
        current = current.args[0]
    unpacked = _unpacked(current)
    linear = match_linear(ctx, None if unpacked is None else unpacked.args[0])
    out = value(node)
    if unpacked is None or isinstance(linear, Miss) or out is None:
        return None
    if place is not None and (place.lift or max(place.dim, place.row or 0) >= out.ndim - 1):
        return None
    source: Any = linear.node.args[0]
    number: Any = node.args[-1]
    parts = int(tensor_of(unpacked).shape[-2])
    return PackedPart(linear, Narrow(source, place or Cut(0)), int(number) % parts, parts)


def _unpacked(node: Any) -> fx.Node | None:
    """The reshape of [..., 3 * D] to [..., 3, D] behind which the parts become the first dimension."""
    if not isinstance(node, fx.Node) or node.target is not _aten.squeeze.dim or node.args[1:] != (-2,):
        return None
    moved = argument_of(node, 0, fx.Node)
    order = permutation(moved)
    if order is None or order != [len(order) - 2, *range(1, len(order) - 2), 0, len(order) - 1]:
        return None
    opened = argument_of(moved, 0, fx.Node)
    if opened.target is not _aten.unsqueeze.default or opened.args[1:] != (0,):
        return None
    packed = argument_of(opened, 0, fx.Node)
    before, after = value(packed.args[0]) if packed.args else None, value(packed)
    if packed.target is not _aten.reshape.default or before is None or after is None or after.ndim != before.ndim + 1:
        return None
    whole = all(isinstance(size, int) for size in after.shape[-2:])
    return packed if whole and all(map(same_size, before.shape[:-1], after.shape[:-2])) else None


def unpack_leftovers(ctx: PassContext) -> None:
    """Replaces packed projections of which a part is no longer read by separate linears for the other parts."""
    groups: dict[fx.Node, list[tuple[fx.Node, PackedPart]]] = {}
    for node in ctx.nodes(operator.getitem, _aten.select.int):
        part = match_packed_part(ctx, node)
        if part is not None:
            groups.setdefault(part.linear.node, []).append((node, part))
    for linear, members in groups.items():
        if len({part.part for _, part in members}) == members[0][1].parts or not ctx.gate("unpack", linear):
            continue
        for node, part in members:
            with ctx.before(node):
                ctx.replace(node, part.insert(ctx, part.source.node))
