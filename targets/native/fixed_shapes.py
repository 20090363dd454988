"""Programs of fixed shapes: the rows of their one batch are found again, so that plans can work row by row.

The leading size B of the inputs becomes a symbol, and sizes in reshapes that are multiples of B become multiples of it. What comes out
is the same program for B rows, whatever else happens to have the size B: its operators are then given the very numbers they had before.
"""

from __future__ import annotations

import dataclasses
import operator
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from recfx.errors import VerificationError
from recfx.ir.op_sets import SIZED
from recfx.ir.propagate import new_size, refresh
from recfx.ir.region import Region
from recfx.ir.shapes import BATCH

_aten = torch.ops.aten


def with_free_batch(region: Region) -> Region:
    """The region with a free batch in place of its fixed one; the region itself where sizes vary already or the batch cannot be freed."""
    rows = region.rows
    if rows < 2 or not _with_rows(region, rows):
        return region
    freed = region.clone()
    try:
        batch = _free(freed, rows)
        return region if batch is None else dataclasses.replace(freed, batch=batch)
    except VerificationError:  # an operator that takes no other number of rows
        return region


def _with_rows(region: Region, rows: int) -> bool:
    """Whether all inputs of a region have fixed sizes, and one of them a row for each row of the batch."""
    held = [v for node in region.placeholders() if isinstance(v := node.meta.get("val"), torch.Tensor)]
    fixed = all(isinstance(size, int) for tensor in held for size in tensor.shape)
    return fixed and any(tensor.ndim and tensor.shape[0] == rows for tensor in held)


def _free(region: Region, rows: int) -> Any:
    """Makes the batch of a region free, in place; its symbol, or None when an operator fixes it again."""
    mode = FakeTensorMode(shape_env=ShapeEnv())
    env = mode.shape_env
    assert env is not None
    batch = new_size(mode, BATCH, rows)
    symbol = batch.node.expr  # asked for later on, it would be what the symbol has been replaced by
    sizes: list[fx.Node] = []
    with mode:
        for node in region.placeholders():
            held = node.meta.get("val")
            if not isinstance(held, torch.Tensor):
                continue
            free = held.ndim and held.shape[0] == rows
            shape = [batch, *held.shape[1:]] if free else list(held.shape)
            node.meta["val"] = torch.empty(shape, dtype=held.dtype, device=held.device)
            sizes += [node] if free else []
    graph = region.graph
    # Values of the old fake mode must not be met by those of the new one.
    known = {node: node.meta.pop("val", None) for node in graph.nodes if node.op in ("get_attr", "call_function")}
    with graph.inserting_after(region.placeholders()[-1]):
        count = graph.call_function(_aten.sym_size.int, (sizes[0], 0))
    refresh(region.module, [count])
    for node, before in known.items():
        if node.target in SIZED:
            _free_sizes(node, count, rows)
        refresh(region.module, [node])
        if symbol in env.replacements or not _same_shape(before, node.meta["val"]):
            return None
    if not count.users:
        graph.erase_node(count)
    region.module.recompile()
    return symbol


def _free_sizes(node: fx.Node, count: fx.Node, rows: int) -> None:
    """Writes the leading size of a reshaped tensor with rows as a multiple of the batch."""
    source, sizes = node.args[0], node.args[1]
    assert isinstance(source, fx.Node)
    assert isinstance(sizes, list | tuple)
    varies = any(not isinstance(size, int) for size in source.meta["val"].shape)
    first = sizes[0] if sizes else None
    if not varies or not isinstance(first, int) or first < rows or first % rows:
        return
    with node.graph.inserting_before(node):
        size = count if first == rows else node.graph.call_function(operator.mul, (count, first // rows))
    if size is not count:
        refresh(node.graph.owning_module, [size])  # type: ignore[arg-type]
    node.args = (source, [size, *sizes[1:]], *node.args[2:])


def _same_shape(before: Any, after: Any) -> bool:
    """Whether fake values have the same sizes when the batch is what it was."""
    pairs = zip(*(torch.utils._pytree.tree_leaves(v) for v in (before, after)), strict=True)
    tensors = [(a, b) for a, b in pairs if isinstance(a, torch.Tensor)]
    return all([int(s) for s in a.shape] == [_hint(s) for s in b.shape] for a, b in tensors)


def _hint(size: Any) -> int:
    return int(size if isinstance(size, int) else size.node.hint)
