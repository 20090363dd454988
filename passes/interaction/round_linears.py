"""A linear that all rounds share, over a concatenation inside the round: fields that occur in several rounds are multiplied once.

    linear(cat([x_i, x_j, z_ij]), [U V W], b) = linear(x_i, U, b) + linear(x_j, V) + linear(z_ij, W)

The products of fields are computed once for each field, and gathered. What all rounds have in common is multiplied once as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from recfx.ir.access import items_of, tensor_of
from recfx.passes._match import argument
from recfx.passes.interaction.gather_rows import gather_sides, in_one_tensor, take_at
from recfx.passes.interaction.round_packs import Common, Fields, Operand, Pack
from recfx.passes.interaction.row_parts import RowPart
from recfx.pipeline import PassContext

_aten = torch.ops.aten

#: An operand of a concatenation, with its columns of the weight.
Piece = tuple[Operand, slice]


def is_divisible(ctx: PassContext, pack: Pack) -> bool:
    """Whether a linear reads joined values of which some occur in several rounds, with a weight that other operators do not read."""
    node, join = pack.members[0], pack.operands[0]
    if node.target is not _aten.linear.default or not _joins_rows(join):
        return False
    members = set(pack.members)
    if any(reader not in members for read in ctx.reads_of(ctx.stored(node.args[1])) for reader in read.users):
        return False
    return any(_is_early(operand) for operand, _ in _pieces(join, 0))


def divided(ctx: PassContext, pack: Pack, value: Callable[[Pack, Sequence[Operand]], list[fx.Node]]) -> fx.Node:
    """Inserts a divisible linear as a sum, [B, k, N] or [B, 1, N].

    Args:
        ctx: The pass context.
        pack: The linear.
        value: Gives operands of a pack for all rounds, as [B, k, T].
    """
    node, join = pack.members[0], pack.operands[0]
    assert isinstance(join, Pack)
    weight, bias = ctx.stored(node.args[1]).detach(), list(node.args[2:])
    pieces = _pieces(join, 0)
    early = [piece for piece in pieces if _is_early(piece[0])]
    late = [piece for piece in pieces if not _is_early(piece[0])]
    terms = []
    for sides in _by_length(early):
        pool = iter(in_one_tensor(ctx, [part for operand, _ in sides for part in _parts(operand)]))
        for operand, columns in sides:
            parts = [next(pool) for _ in _parts(operand)]
            terms.append(_over_fields(ctx, node, parts, weight[:, columns], bias))
            bias = []
    if late:
        values = value(join, [operand for operand, _ in late])
        joined = ctx.call(_aten.cat.default, values, 2) if len(values) > 1 else values[0]
        terms.append(_linear(ctx, node, joined, torch.cat([weight[:, columns] for _, columns in late], 1), bias))
    total = terms[0]
    for term in terms[1:]:
        total = ctx.call(_aten.add.Tensor, total, term)
    return total


def _is_early(operand: Operand) -> bool:
    """Whether an operand has at most half as many values as there are rounds."""
    if isinstance(operand, Fields):
        return 2 * len(set(operand.parts)) <= len(operand.parts)
    return isinstance(operand, Common)


def _joins_rows(operand: Operand) -> bool:
    """Whether an operand is a concatenation of rows [B, T]."""
    first = operand.members[0] if isinstance(operand, Pack) else None
    if first is None or first.target is not _aten.cat.default:
        return False
    return tensor_of(first).ndim == 2 and argument(first, 1, "dim", 0) % 2 == 1


def _pieces(operand: Operand, start: int, end: int | None = None) -> list[Piece]:
    """The operands of a concatenation, also of concatenations inside it."""
    if not isinstance(operand, Pack) or not _joins_rows(operand):
        return [(operand, slice(start, end))]
    found: list[Piece] = []
    for part, node in zip(operand.operands, items_of(operand.members[0], 0), strict=True):
        end = start + int(tensor_of(node).shape[1])
        found += _pieces(part, start, end)
        start = end
    return found


def _by_length(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """Pieces whose values are parts of one tensor, or can be joined to one."""
    found: dict[Any, list[Piece]] = {}
    for piece in pieces:
        part = _parts(piece[0])[0]
        alone = part.base if isinstance(piece[0], Common) else None
        found.setdefault((part.length, tensor_of(part.base).dtype, alone), []).append(piece)
    return list(found.values())


def _parts(operand: Operand) -> list[RowPart]:
    """The parts of an early operand, one for each round, or one that all rounds have in common."""
    if isinstance(operand, Fields):
        return list(operand.parts)
    assert isinstance(operand, Common)
    return [RowPart(operand.operand, 0, int(tensor_of(operand.operand).shape[-1]))]


def _over_fields(
    ctx: PassContext, node: fx.Node, parts: Sequence[RowPart], weight: torch.Tensor, bias: Sequence[Any]
) -> fx.Node:
    """The linear of each field, [B, k, N] in the order of the rounds."""
    fields = sorted(set(parts), key=lambda part: part.start)
    wide = _linear(ctx, node, gather_sides(ctx, [fields])[0], weight, bias)
    if len(parts) == 1:
        return wide
    at = {field: number for number, field in enumerate(fields)}
    return take_at(ctx, wide, [at[part] for part in parts])


def _linear(ctx: PassContext, node: fx.Node, value: fx.Node, weight: torch.Tensor, bias: Sequence[Any]) -> fx.Node:
    stem = str(node.args[1].target)  # type: ignore[union-attr]
    read = ctx.constant(f"{stem}_columns", weight.contiguous())
    biases = [ctx.read(str(x.target)) if isinstance(x, fx.Node) else x for x in bias]
    return ctx.call(_aten.linear.default, value, read, *biases)
