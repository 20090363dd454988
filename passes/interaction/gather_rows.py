"""Tensors [B, P, T] of P parts of rows: views, concatenations, and gathers by constant positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from recfx.ir.access import tensor_of
from recfx.passes.interaction.row_parts import RowPart, row_length, rows_joined
from recfx.pipeline import PassContext

_aten = torch.ops.aten


def gather_sides(ctx: PassContext, sides: Sequence[Sequence[RowPart]]) -> list[fx.Node]:
    """For each list of parts of one length T, the tensor [B, P, T] that holds them in order.

    Parts of one tensor are gathered from it. Tensors that are read whole and once are concatenated in order, so that their producers can
    write there. All others are concatenated once, for all sides together, and gathered.
    """
    counts: dict[RowPart, int] = {}
    for part in (part for side in sides for part in side):
        counts[part] = counts.get(part, 0) + 1
    found: dict[int, fx.Node] = {}
    pooled: list[int] = []
    for number, side in enumerate(sides):
        if len({part.base for part in side}) == 1:
            found[number] = _take(ctx, parts_of(ctx, side[0].base, side[0].length), [part.index for part in side])
        elif all(part.whole and counts[part] == 1 for part in side):
            found[number] = ctx.call(_aten.cat.default, [parts_of(ctx, p.base, p.length) for p in side], 1)
        else:
            pooled.append(number)
    if pooled:
        pool, at = _pool(ctx, [part for number in pooled for part in sides[number]])
        for number in pooled:
            found[number] = _take(ctx, pool, [at[part] for part in sides[number]])
    return [found[number] for number in range(len(sides))]


def parts_of(ctx: PassContext, base: fx.Node, length: int) -> fx.Node:
    """A tensor as [B, N, T], where each of the N parts has the length T."""
    count = (row_length(base) or 0) // length
    held = tensor_of(base)
    if held.ndim == 3 and held.shape[1] == count:
        return base
    return ctx.call(_aten.reshape.default, base, [-1, count, length])


def in_one_tensor(ctx: PassContext, parts: Sequence[RowPart]) -> list[RowPart]:
    """Parts of one length as parts of one tensor, which is a concatenation if they are parts of several."""
    if len({part.base for part in parts}) == 1:
        return list(parts)
    pool, at = _pool(ctx, parts)
    return [RowPart(pool, at[part] * part.length, part.length) for part in parts]


def _pool(ctx: PassContext, parts: Sequence[RowPart]) -> tuple[fx.Node, dict[RowPart, int]]:
    """(a tensor that holds all these parts, the position of each)."""
    used: dict[fx.Node, set[int]] = {}
    for part in parts:
        used.setdefault(part.base, set()).add(part.index)
    length, pieces = parts[0].length, []
    at: dict[RowPart, int] = {}
    for base, indices in used.items():
        view = parts_of(ctx, base, length)
        kept = range(tensor_of(view).shape[1]) if 2 * len(indices) >= tensor_of(view).shape[1] else sorted(indices)
        pieces.append(_take(ctx, view, list(kept)))
        at.update({RowPart(base, i * length, length): len(at) + k for k, i in enumerate(kept)})
    return ctx.call(_aten.cat.default, pieces, 1) if len(pieces) > 1 else pieces[0], at


def _take(ctx: PassContext, view: fx.Node, positions: list[int]) -> fx.Node:
    """The parts at some positions of a tensor [B, N, T], in order."""
    first = positions[0]
    if positions == list(range(first, first + len(positions))):
        if len(positions) == tensor_of(view).shape[1]:
            return view
        return ctx.call(_aten.slice.Tensor, view, 1, first, first + len(positions))
    return take_at(ctx, view, positions)


def take_at(ctx: PassContext, view: fx.Node, positions: Sequence[int]) -> fx.Node:
    """A gather along the second dimension."""
    index = ctx.constant("pair_positions", torch.tensor(positions))
    return ctx.call(_aten.index_select.default, view, 1, index)


def in_order(ctx: PassContext, whole: fx.Node, join: fx.Node) -> fx.Node:
    """The rows of joined values, one after another, in the shape of a join that `rows_joined` describes."""
    held, order = tensor_of(join), rows_joined(join)
    if order is None or order == list(range(held.ndim)):
        return shaped(ctx, whole, list(held.shape[1:]))
    inner = shaped(ctx, whole, [int(held.shape[order.index(d)]) for d in range(1, held.ndim)])
    return ctx.call(_aten.permute.default, inner, order)


def shaped(ctx: PassContext, node: fx.Node, sizes: Sequence[Any]) -> fx.Node:
    """Rows in another shape, without a reshape of a reshape."""
    source: Any = node.args[0]
    if node.target is _aten.reshape.default and row_length(source) == row_length(node):
        node = source
    held = tensor_of(node)
    return node if list(held.shape[1:]) == list(sizes) else ctx.call(_aten.reshape.default, node, [-1, *sizes])
