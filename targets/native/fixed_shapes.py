"""Programs of fixed shapes: their batch becomes a symbol again, so that plans can work row by row.

The leading size B of the inputs becomes a symbol, and sizes in reshapes that are multiples of B become multiples of it. The result is
the same program for B rows, even where another dimension has the size B by chance: with B rows, its operators get the same numbers.
"""

from __future__ import annotations

import dataclasses
import operator
from collections import Counter
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


#: Key of the whole program's free batch in `Region.shared`.
_KEY = "native: free batch"


@dataclasses.dataclass(frozen=True)
class _Free:
    """Which tensors of a program have the batch as their first size.

    Attributes:
        rows: The batch.
        multiples: Name of a node -> how many times the batch its first size is.
    """

    rows: int
    multiples: dict[str, int]


def with_free_batch(region: Region) -> Region:
    """The region with a free batch in place of its fixed one; the region itself where sizes vary already or the batch cannot be freed.

    The batch of a part of a program is that of the whole program, so that it is freed in the same tensors.
    """
    if region.part_of is None:
        return _freed(region, _of_inputs(region))
    if _KEY not in region.shared:
        region.shared[_KEY] = _of_program(region.part_of)
    return _freed(region, region.shared[_KEY])


def _of_inputs(region: Region) -> _Free:
    """The batch as the first size that most inputs have."""
    tensors = [n for n in region.placeholders() if isinstance(n.meta.get("val"), torch.Tensor) and n.meta["val"].ndim]
    if any(not isinstance(size, int) for n in tensors for size in n.meta["val"].shape):
        return _Free(0, {})
    leading = Counter(n.meta["val"].shape[0] for n in tensors)
    rows = max(leading, key=lambda size: (leading[size], size), default=0)
    return _Free(rows, {n.name: 1 for n in tensors if n.meta["val"].shape[0] == rows})


def _of_program(whole: Region) -> _Free:
    """The batch of a program, and the tensors that have it once it is free."""
    inputs = _of_inputs(whole)
    freed = _freed(whole, inputs)
    if freed is whole:
        return _Free(0, {})
    found: dict[str, int] = {}
    for node in freed.graph.nodes:
        held = node.meta.get("val")
        if isinstance(held, torch.Tensor) and held.ndim and isinstance(held.shape[0], torch.SymInt):
            ratio = held.shape[0].node.expr / freed.batch
            if ratio.is_Integer:
                found[node.name] = int(ratio)
    return _Free(inputs.rows, found)


def _freed(region: Region, free: _Free) -> Region:
    held = [v for node in region.placeholders() if isinstance(v := node.meta.get("val"), torch.Tensor)]
    fixed = all(isinstance(size, int) for tensor in held for size in tensor.shape)
    if free.rows < 2 or not fixed or not free.multiples.keys() & {node.name for node in region.placeholders()}:
        return region
    freed = region.clone()
    try:
        batch = _free(freed, free)
        return region if batch is None else dataclasses.replace(freed, batch=batch)
    except VerificationError:  # an operator takes only this number of rows
        return region


def _free(region: Region, free: _Free) -> Any:
    """Makes the batch of a region free, in place; its symbol, or None when an operator fixes it again."""
    mode = FakeTensorMode(shape_env=ShapeEnv())
    env = mode.shape_env
    assert env is not None
    batch = new_size(mode, BATCH, free.rows)
    symbol = batch.node.expr  # read now: later, a symbol that was replaced would give its replacement
    multiples: dict[fx.Node, int] = {}
    with mode:
        for node in region.placeholders():
            held = node.meta.get("val")
            if not isinstance(held, torch.Tensor):
                continue
            if node.name in free.multiples:
                multiples[node] = free.multiples[node.name]
            shape = [batch * multiples[node], *held.shape[1:]] if node in multiples else list(held.shape)
            node.meta["val"] = torch.empty(shape, dtype=held.dtype, device=held.device)
    graph = region.graph
    # Values of the old fake mode must not meet those of the new one.
    known = {node: node.meta.pop("val", None) for node in graph.nodes if node.op in ("get_attr", "call_function")}
    count, added = _count(region, multiples)
    for node, before in known.items():
        if node.target in SIZED:
            _free_sizes(node, count, free.rows)
        refresh(region.module, [node])
        if symbol in env.replacements or not _same_shape(before, node.meta["val"]):
            return None
    for node in reversed(added):
        if not node.users:
            graph.erase_node(node)
    region.module.recompile()
    return symbol


def _count(region: Region, multiples: dict[fx.Node, int]) -> tuple[fx.Node, list[fx.Node]]:
    """A node that gives the batch, from the input that is the smallest multiple of it, and the nodes that were added for it."""
    source = min(multiples, key=lambda node: multiples[node])
    graph = region.graph
    with graph.inserting_after(region.placeholders()[-1]):
        count = graph.call_function(_aten.sym_size.int, (source, 0))
    added = [count]
    if multiples[source] != 1:
        with graph.inserting_after(count):
            count = graph.call_function(operator.floordiv, (count, multiples[source]))
        added.append(count)
    refresh(region.module, added)
    return count, added


def _free_sizes(node: fx.Node, count: fx.Node, rows: int) -> None:
    """Writes the leading size of a reshape as a multiple of the batch."""
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
    """Whether fake values have the same sizes at the old batch."""
    pairs = zip(*(torch.utils._pytree.tree_leaves(v) for v in (before, after)), strict=True)
    tensors = [(a, b) for a, b in pairs if isinstance(a, torch.Tensor)]
    return all([_known(s) for s in a.shape] == [_known(s) for s in b.shape] for a, b in tensors)


def _known(size: Any) -> int | None:
    """The number that a size has in the example; None for a size that depends on data."""
    if isinstance(size, int):
        return size
    return int(size.node.hint) if size.node.has_hint() else None
