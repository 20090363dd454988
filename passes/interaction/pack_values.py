"""Computes packs: one operator for all rounds of a loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from recfx.ir.access import tensor_of
from recfx.passes.interaction.gather_rows import gather_sides
from recfx.passes.interaction.pair_groups import field_groups, multiply_groups
from recfx.passes.interaction.pair_linears import JoinedMatrices
from recfx.passes.interaction.pair_products import Product
from recfx.passes.interaction.round_linears import divided, is_divisible
from recfx.passes.interaction.round_packs import Common, Constants, Fields, Operand, Pack
from recfx.pipeline import PassContext

_aten = torch.ops.aten


class PackValues:
    """Inserts the operators of packs, each once.

    Args:
        ctx: The pass context, which inserts at one place.
    """

    def __init__(self, ctx: PassContext) -> None:
        self._ctx = ctx
        self._found: dict[Pack, fx.Node] = {}

    def value(self, pack: Pack) -> fx.Node:
        """The results of a pack as [B, k, ...]."""
        if pack not in self._found:
            self._found[pack] = self._divided(pack) or self._product(pack) or self._plain(pack)
        return self._found[pack]

    def _plain(self, pack: Pack) -> fx.Node:
        return pack.form.call(self._ctx, self._operands(pack, pack.operands))

    def _operands(self, pack: Pack, operands: Sequence[Operand]) -> list[Any]:
        fields = self._gathered([operand for operand in operands if isinstance(operand, Fields)])
        return [fields[id(x)] if id(x) in fields else self._operand(pack, x) for x in operands]

    def _divided(self, pack: Pack) -> fx.Node | None:
        return divided(self._ctx, pack, self._operands) if is_divisible(self._ctx, pack) else None

    def _gathered(self, fields: Sequence[Fields]) -> dict[int, Any]:
        """The values of parts of rows, as [B, k, ...]; parts of equal length and dtype are gathered from one tensor."""
        alike: dict[Any, list[Fields]] = {}
        for field in fields:
            alike.setdefault((field.parts[0].length, tensor_of(field.parts[0].base).dtype), []).append(field)
        found = {}
        for group in alike.values():
            for field, node in zip(group, gather_sides(self._ctx, [f.parts for f in group]), strict=True):
                found[id(field)] = self._sized(node, field.sizes)
        return found

    def _sized(self, node: fx.Node, sizes: Sequence[int]) -> fx.Node:
        """Rows [B, k, T] in the sizes of a part."""
        held = tensor_of(node)
        if list(held.shape[2:]) == list(sizes):
            return node
        return self._ctx.call(_aten.reshape.default, node, [-1, held.shape[1], *sizes])

    def _operand(self, pack: Pack, operand: Operand) -> Any:
        if isinstance(operand, Pack):
            return self.value(operand)
        if isinstance(operand, Constants):
            return self._constants(pack, operand)
        assert isinstance(operand, Common)
        return self._common(pack, operand.operand)

    def _common(self, pack: Pack, operand: Any) -> Any:
        """What all rounds have in common, in a form that is broadcast over them."""
        ctx, tensor = self._ctx, self._ctx.tensor(operand)
        if not isinstance(operand, fx.Node):
            return operand
        if tensor is not None:
            if tensor.ndim < tensor_of(pack.members[0]).ndim:
                return ctx.read(str(operand.target))
            return ctx.constant(f"{operand.target}_row", tensor.detach().reshape(tensor.shape[1:]))
        wide = ctx.call(_aten.unsqueeze.default, operand, 1)
        if pack.form.broadcasts:
            return wide
        return ctx.call(_aten.expand.default, wide, [-1, len(pack.members), *tensor_of(operand).shape[1:]])

    def _constants(self, pack: Pack, operand: Constants) -> fx.Node:
        """Constants of the rounds, [k, ...], with the rank of a row behind k."""
        ctx, result = self._ctx, tensor_of(pack.members[0])
        first = ctx.tensor(operand.operands[0])
        if first is None:
            found = torch.tensor(operand.operands, dtype=result.dtype)
        else:
            found = torch.stack([ctx.stored(x).detach() for x in operand.operands])
        sizes, rank = list(found.shape[1:]), result.ndim - 1
        sizes = sizes[1:] if len(sizes) > rank else sizes  # one place in the dimension of the batch
        return ctx.constant("round_constants", found.reshape(-1, *[1] * (rank - len(sizes)), *sizes))

    def _product(self, pack: Pack) -> fx.Node | None:
        """Products of wide fields, computed in groups with one field in common; None for other packs."""
        sides = [operand for operand in pack.operands if isinstance(operand, Fields)]
        if pack.members[0].target is not _aten.mul.Tensor or len(sides) != 2 or sides[0].sizes != sides[1].sizes:
            return None
        pairs = zip(sides[0].parts, sides[1].parts, strict=True)
        groups = field_groups([Product(left, right, False, None, None) for left, right in pairs])
        if groups is None:
            return None
        return self._sized(multiply_groups(self._ctx, groups, JoinedMatrices(self._ctx)), sides[0].sizes)
