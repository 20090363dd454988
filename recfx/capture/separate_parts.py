"""Splits whose number of parts depends on the batch, as slices.

`torch.split(x, 2)[0]` gives another number of parts at another batch size, and the graph uses one of them. Each used part becomes a slice,
so that the graph is the same at every batch size.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from recfx.ir.op_sets import LENGTH_SPLITS
from recfx.ir.program import Program
from recfx.ir.provenance import where

_aten = torch.ops.aten
_SPLITS = (*LENGTH_SPLITS, _aten.unbind.int)


def separate_parts(program: Program) -> Program:
    """The program with a slice or a select in place of each used part of a split."""
    result = program.clone()
    for node in list(result.graph.nodes):
        if node.target in _SPLITS and all(user.target is operator.getitem for user in node.users):
            for part in list(node.users):
                _separate(part, node)
            result.graph.erase_node(node)
    result.module.recompile()
    return result


def varying_split(programs: list[Program]) -> str | None:
    """A description of the first split with another number of parts in another program; None without one."""
    splits = [[node for node in p.graph.nodes if node.target in _SPLITS] for p in programs]
    if len({len(nodes) for nodes in splits}) > 1:
        return None
    for column in zip(*splits, strict=True):
        if len({len(node.meta["val"]) for node in column}) > 1:
            return where(column[0])
    return None


def _separate(part: fx.Node, split: fx.Node) -> None:
    if part.users:
        made = _piece(part, split)
        made.meta = dict(part.meta)
        part.replace_all_uses_with(made)
    part.graph.erase_node(part)


def _piece(part: fx.Node, split: fx.Node) -> fx.Node:
    number: Any = part.args[1]
    whole = split.args[0]
    with part.graph.inserting_before(part):
        if split.target is _aten.unbind.int:
            dim = _argument(split, 1, "dim", 0)
            return part.graph.call_function(_aten.select.int, (whole, dim, number))
        size, dim = _argument(split, 1, "split_size", 1), _argument(split, 2, "dim", 0)
        return part.graph.call_function(_aten.slice.Tensor, (whole, dim, number * size, (number + 1) * size))


def _argument(node: fx.Node, position: int, name: str, default: Any) -> Any:
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)
