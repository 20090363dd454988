"""Random inputs for a program: ids inside the tables they are looked up in, bounded numbers."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from recfx.ir.program import Program
from recfx.ir.shapes import BATCH
from recfx.ir.sizes import evaluate_size

_aten = torch.ops.aten
_LOOKUPS = (_aten.embedding.default, _aten.embedding_bag.padding_idx, _aten.embedding_bag.default)
_FREE_IDS = 8


def random_leaves(program: Program, batch: int, generator: torch.Generator) -> list[Any]:
    """Flat inputs with so many rows; other dimensions than the batch are one, two, ... longer, so that none is taken for another.

    Numbers lie in [-2, 2], so that nothing overflows. Integers are ids: below the rows of every table they reach.
    """
    bounds = id_bounds(program)
    sizes = {name: batch + place for place, name in enumerate(sorted(program.signature.dims, key=lambda n: n != BATCH))}
    leaves: list[Any] = []
    for spec, node in zip(program.signature.leaves, program.placeholders(), strict=True):
        if spec.kind == "constant":
            leaves.append(spec.value)
            continue
        shape = [s if isinstance(s, int) else evaluate_size(s, sizes) for s in spec.shape]
        assert spec.dtype is not None
        if spec.dtype.is_floating_point:
            leaves.append((torch.rand(shape, generator=generator) * 4 - 2).to(spec.dtype))  # type: ignore[arg-type]
        elif spec.dtype is torch.bool:
            leaves.append(torch.rand(shape, generator=generator) < 0.5)  # type: ignore[arg-type]
        else:
            leaves.append(torch.randint(0, bounds.get(node, _FREE_IDS), shape, generator=generator).to(spec.dtype))  # type: ignore[arg-type]
    return leaves


def id_bounds(program: Program) -> dict[fx.Node, int]:
    """Placeholder -> the rows of the smallest table its values are looked up in."""
    bounds: dict[fx.Node, int] = {}
    for node in program.graph.nodes:
        if node.target in _LOOKUPS:
            rows = int(node.args[0].meta["val"].shape[0])
            source = _source(node.args[1])
            if source is not None:
                bounds[source] = min(rows, bounds.get(source, rows))
    return bounds


def _source(node: Any) -> fx.Node | None:
    """The placeholder that ids come from through operators that only move values."""
    while isinstance(node, fx.Node) and node.op != "placeholder":
        moved = node.target is operator.getitem or node.target in _MOVES
        if node.op != "call_function" or not moved:
            return None
        node = node.args[0]
    return node if isinstance(node, fx.Node) else None


_MOVES = {
    _aten.select.int,
    _aten.slice.Tensor,
    _aten.view.default,
    _aten.reshape.default,
    _aten.flatten.using_ints,
    _aten.unbind.int,
    _aten.split.Tensor,
    _aten.chunk.default,
    _aten.to.dtype,
    _aten.contiguous.default,
    _aten.clone.default,
    _aten.alias.default,
    _aten.transpose.int,
    _aten.permute.default,
    _aten.squeeze.dim,
    _aten.unsqueeze.default,
}
