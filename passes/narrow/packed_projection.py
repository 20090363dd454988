"""The packed projection of `nn.MultiheadAttention`: one linear whose output is cut into queries, keys and values."""

from __future__ import annotations

import dataclasses
import operator
from typing import Any

import torch
from torch import fx

from recfx.ir.access import argument_of
from recfx.passes._linear import Linear, match_linear
from recfx.passes._match import argument, value
from recfx.passes.narrow.selection import Narrow, Place
from recfx.pipeline import Miss, PassContext

_aten = torch.ops.aten


@dataclasses.dataclass(frozen=True)
class PackedPart:
    """One part of a packed projection, as a linear of its own over its input.

    Attributes:
        linear: The packed linear.
        source: Its input, with the place to narrow it at.
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


def match_packed_part(ctx: PassContext, node: fx.Node, place: Place | None = None) -> PackedPart | None:
    """The part of a packed projection at a node; None when it is none, or its rows are selected along another dimension.

        unbind(contiguous(squeeze(transpose(unsqueeze(unflatten(linear(x), -1, [3, D]), 0), 0, -2), -2)), 0)[part]

    or select(..., 0, part).

    Args:
        ctx: The pass context.
        node: The operator that takes the part out.
        place: Where the part is selected.
    """
    taken: Any = node.args[0] if node.target is operator.getitem else node
    if taken.target not in (_aten.unbind.int, _aten.select.int) or argument(taken, 1, "dim", 0) != 0:
        return None
    current: Any = taken.args[0]
    if current.target is _aten.contiguous.default:
        current = current.args[0]
    for target, expected in (
        (_aten.squeeze.dim, (-2,)),
        (_aten.transpose.int, (0, -2)),
        (_aten.unsqueeze.default, (0,)),
    ):
        if not isinstance(current, fx.Node) or current.target is not target or current.args[1:] != expected:
            return None
        current = current.args[0]
    if not isinstance(current, fx.Node) or current.target is not _aten.unflatten.int:
        return None
    out, sizes = value(node), argument(current, 2, "sizes")
    linear = match_linear(ctx, current.args[0])
    if isinstance(linear, Miss) or out is None or argument(current, 1, "dim") not in (-1, out.ndim - 1):
        return None
    if place is not None and (place.lift or max(place.dim, place.row or 0) >= out.ndim - 1):
        return None
    source: Any = linear.node.args[0]
    number: Any = node.args[-1]
    return PackedPart(linear, Narrow(source, place or Place(0)), int(number) % int(sizes[0]), int(sizes[0]))


def unpack_leftovers(ctx: PassContext) -> None:
    """Replaces what is left of packed projections by linears of their own, where a part is no longer read."""
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
