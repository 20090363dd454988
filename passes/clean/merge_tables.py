"""merge-tables: tables that hold the same bits are stored once.

    lookup(W1, i), lookup(W2, j) with W1 and W2 equal byte for byte -> lookup(W1, i), lookup(W1, j)

Requires: functional. Exactness: EXACT.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import fx

from recfx.ir.op_sets import TABLE_LOOKUPS
from recfx.ir.program import Program
from recfx.passes._match import argument
from recfx.pipeline import Pass, PassContext, PassSpec, register

_aten = torch.ops.aten

#: Operators that look rows up: target -> position of the table.
LOOKUPS: dict[Any, int] = dict.fromkeys((*TABLE_LOOKUPS, _aten.index_select.default), 0)


@register
class MergeTables(Pass):
    """Stores tables of equal content once."""

    spec = PassSpec("merge-tables", "Stores tables of equal content once.", changes_state=True)

    def run(self, program: Program, ctx: PassContext) -> None:
        groups: dict[Any, list[fx.Node]] = {}
        for node in ctx.graph.find_nodes(op="get_attr"):
            tensor = ctx.tensor(node)
            if tensor is None or tensor.layout is not torch.strided:
                continue
            if any(
                argument(user, LOOKUPS[user.target], "weight") is node for user in node.users if user.target in LOOKUPS
            ):
                groups.setdefault((tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device), []).append(node)
        for nodes in groups.values():
            alike: dict[bytes, list[fx.Node]] = {}
            for node in nodes:
                alike.setdefault(_sample(ctx, node), []).append(node)
            for same in alike.values():
                if len({id(ctx.tensor(n)) for n in same}) > 1:
                    _merge(ctx, same)


def _merge(ctx: PassContext, nodes: list[fx.Node]) -> None:
    """Merges tables of one shape that have equal bytes: compares hashes, then all bytes."""
    first: dict[bytes, fx.Node] = {}
    for node in nodes:
        kept = first.setdefault(_digest(ctx, node), node)
        ours, theirs = ctx.stored(node), ctx.stored(kept)
        if ours is theirs:
            continue
        if not torch.equal(_bytes(ours), _bytes(theirs)):
            continue
        if ctx.gate("merge-table", node):
            ctx.replace(node, kept)


def _sample(ctx: PassContext, node: fx.Node) -> bytes:
    """The bytes of some rows of a table. Tables that differ in them need not be compared in full."""
    rows = torch.atleast_1d(ctx.stored(node).detach())  # index_select also reads a tensor without dimensions
    return _bytes(rows[:: max(1, len(rows) // 64)]).numpy().tobytes()


def _digest(ctx: PassContext, node: fx.Node) -> bytes:
    tensor = ctx.stored(node)
    return hashlib.blake2b(_bytes(tensor).numpy().data, digest_size=16).digest()


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    """The content as bytes, in which equal NaNs are equal, and 0.0 and -0.0 differ."""
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
