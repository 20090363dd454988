"""Linears of fields inside products of pairs: one matrix for all fields, or a matrix for each pair (bilinear interactions)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from recfx.passes._match import argument
from recfx.passes.interaction.gather_rows import gather_sides
from recfx.passes.interaction.row_parts import RowPart, row_length, row_part
from recfx.pipeline import PassContext

_aten = torch.ops.aten


@dataclasses.dataclass(frozen=True)
class FieldLinear:
    """A linear over a part of rows.

    Attributes:
        node: The operator.
        source: The part.
        weight: The read of the weight: [N, K], or [K, N] if `turned`.
        bias: The read of the bias [N], or None.
        turned: Whether it is written as a product with the matrix, x @ W.
    """

    node: fx.Node
    source: RowPart
    weight: fx.Node
    bias: fx.Node | None
    turned: bool

    def parameters(self, ctx: PassContext) -> tuple[Any, ...]:
        """The identity of its weights."""
        return id(ctx.tensor(self.weight)), id(ctx.tensor(self.bias)), self.turned

    def matrix(self, ctx: PassContext) -> torch.Tensor:
        """The weight as [N, K]."""
        weight = ctx.stored(self.weight).detach()
        return weight.T if self.turned else weight


def linear_at(ctx: PassContext, part: RowPart) -> FieldLinear | None:
    """The linear whose whole result is a part; None for other parts."""
    node: Any = part.base
    if not part.whole or node.target not in (_aten.linear.default, _aten.matmul.default, _aten.mm.default):
        return None
    turned = node.target is not _aten.linear.default
    weight = ctx.tensor(node.args[1])
    bias: Any = None if turned else argument(node, 2, "bias")
    if weight is None or weight.ndim != 2 or (bias is not None and ctx.tensor(bias) is None):
        return None
    if row_length(node.args[0]) != weight.shape[0 if turned else 1] or row_length(node) is None:
        return None
    source = row_part(ctx, node.args[0])
    return None if source is None else FieldLinear(node, source, node.args[1], bias, turned)


def with_shared_matrix(ctx: PassContext, side: Sequence[RowPart], user: fx.Node) -> Sequence[RowPart]:
    """The parts of one linear over all fields, if all parts of a side are linears with the same weights; otherwise the side.

    Args:
        ctx: The pass context.
        side: The left or the right factors of products.
        user: The join or the sum that is going to be replaced. A linear that other operators read stays as it is.
    """
    if linear_at(ctx, side[0]) is None:
        return side
    linears = [linear_at(ctx, part) for part in side]
    found = [linear for linear in linears if linear is not None]
    if len(found) < len(side) or len({linear.parameters(ctx) for linear in found}) > 1:
        return side
    readers = _behind(user)
    if any(linear.node not in readers for linear in found):
        return side
    fields = list(dict.fromkeys(linear.source for linear in found))
    if len(fields) < 2 or len({field.length for field in fields}) > 1:
        return side
    first = found[0]
    gathered = gather_sides(ctx, [fields])[0]
    if first.turned:
        wide = ctx.call(_aten.matmul.default, gathered, first.weight)
    else:
        wide = ctx.call(_aten.linear.default, gathered, first.weight, *([] if first.bias is None else [first.bias]))
    at = {field: i * side[0].length for i, field in enumerate(fields)}
    return [RowPart(wide, at[linear.source], side[0].length) for linear in found]


def _behind(user: fx.Node) -> set[fx.Node]:
    """The operators that only a join or a sum reads, directly or through other ones, and itself."""
    found, waiting = {user}, [user]
    while waiting:
        for source in waiting.pop().all_input_nodes:
            if source not in found and source.op == "call_function" and all(reader in found for reader in source.users):
                found.add(source)
                waiting.append(source)
    return found


class JoinedMatrices:
    """The matrices of pairs that have one field in common, joined to one matrix, once for all products that read them.

    A matrix is joined only if each of its reads is a part of the same joined matrix, so that the state does not grow.

    Args:
        ctx: The pass context.
    """

    def __init__(self, ctx: PassContext) -> None:
        self._ctx = ctx
        self._names: dict[tuple[Any, ...], tuple[str, str | None]] = {}
        self._uses: dict[Any, int] = {}
        self._groups: dict[Any, set[tuple[Any, ...]]] = {}

    def expect(self, group: Sequence[FieldLinear]) -> None:
        """Counts a group of linears that products may join."""
        key = self._key(group)
        for linear in group:
            name = linear.parameters(self._ctx)
            self._uses[name] = self._uses.get(name, 0) + 1
            self._groups.setdefault(name, set()).add(key)

    def allows(self, group: Sequence[FieldLinear]) -> bool:
        """Whether the matrices of a group are read by equal groups only."""
        return self._key(group) in self._names or all(
            len(self._groups.get(linear.parameters(self._ctx), ())) == 1
            and sum(len(read.users) for read in self._ctx.reads_of(self._ctx.stored(linear.weight)))
            == self._uses[linear.parameters(self._ctx)]
            for linear in group
        )

    def linear(self, group: Sequence[FieldLinear], source: fx.Node) -> fx.Node:
        """Inserts the linear [B, K] -> [B, N of all] of a group."""
        ctx, key = self._ctx, self._key(group)
        if key not in self._names:
            stem = str(group[0].weight.target).removesuffix("weight")
            weight = ctx.constant(f"{stem}weight_of_{len(group)}", torch.cat([f.matrix(ctx) for f in group]))
            bias = None
            if group[0].bias is not None:
                biases = [ctx.stored(linear.bias).detach() for linear in group]
                bias = ctx.constant(f"{stem}bias_of_{len(group)}", torch.cat(biases))
            self._names[key] = str(weight.target), None if bias is None else str(bias.target)
            reads = [weight] if bias is None else [weight, bias]
        else:
            reads = [ctx.read(name) for name in self._names[key] if name is not None]
        return ctx.call(_aten.linear.default, source, *reads)

    def _key(self, group: Sequence[FieldLinear]) -> tuple[Any, ...]:
        return tuple(linear.parameters(self._ctx) for linear in group)
