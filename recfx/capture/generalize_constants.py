"""Constants that depend on the batch size: the same row for each row of the batch, or a range over the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from recfx.capture.size_lines import Sizes, line_through
from recfx.ir.program import Program, set_state, unused_name
from recfx.ir.propagate import refresh

_aten = torch.ops.aten


def general_constant(
    program: Program, node: fx.Node, tensors: Sequence[torch.Tensor], batches: Sequence[int], sizes: Sizes
) -> fx.Node | None:
    """The node that replaces a constant at any batch size; None when the constant is neither a tile nor a range.

    Args:
        program: The program, edited in place.
        node: The read of the constant.
        tensors: The values of the constant in the traces.
        batches: The batch sizes of the traces.
        sizes: Inserts nodes for sizes.
    """
    found = _scalar(node, tensors, batches, sizes) or _tile(program, node, tensors, batches, sizes)
    found = found or _range(program, node, tensors, batches, sizes)
    if found is not None:
        node.replace_all_uses_with(found)
    return found


def _dim(tensors: Sequence[torch.Tensor], batches: Sequence[int]) -> int | None:
    """The dimension that is the batch; None when not exactly one is."""
    if any(t.ndim != tensors[0].ndim or t.dtype is not tensors[0].dtype for t in tensors):
        return None
    varying = [d for d in range(tensors[0].ndim) if any(t.shape[d] != tensors[0].shape[d] for t in tensors)]
    return varying[0] if len(varying) == 1 and [t.shape[varying[0]] for t in tensors] == list(batches) else None


def _scalar(node: fx.Node, tensors: Sequence[torch.Tensor], batches: Sequence[int], sizes: Sizes) -> fx.Node | None:
    """Replaces a constant number by a linear function of the batch."""
    if any(t.numel() != 1 for t in tensors) or any(t.shape != tensors[0].shape for t in tensors):
        return None
    line = line_through(batches, [t.item() for t in tensors])
    if line is None:
        return None
    held = tensors[0]
    with node.graph.inserting_after(_later(node, sizes)):
        anchor = node.graph.call_function(_aten.alias.default, (node,))
    with node.graph.inserting_before(anchor):
        made = node.graph.call_function(
            _aten.full.default, (list(held.shape), sizes.node(line)), {"dtype": held.dtype, "device": held.device}
        )
    node.graph.erase_node(anchor)
    refresh(sizes.module, [made])
    return made


def _tile(
    program: Program, node: fx.Node, tensors: Sequence[torch.Tensor], batches: Sequence[int], sizes: Sizes
) -> fx.Node | None:
    """Replaces a constant with equal rows by one row, expanded to the batch."""
    dim = _dim(tensors, batches)
    if dim is None:
        return None
    row = tensors[0].narrow(dim, 0, 1).contiguous()
    if not all(torch.equal(t, row.expand_as(t)) for t in tensors):
        return None
    name = unused_name(program.module, "row")
    set_state(program.module, name, row.detach())
    with node.graph.inserting_after(_later(node, sizes)):
        read = node.graph.get_attr(name)
    shape = list(row.shape)
    shape[dim] = sizes.count  # type: ignore[call-overload]
    with node.graph.inserting_after(read):
        made = node.graph.call_function(_aten.expand.default, (read, shape))
    refresh(program.module, [read, made])
    return made


def _range(
    program: Program, node: fx.Node, tensors: Sequence[torch.Tensor], batches: Sequence[int], sizes: Sizes
) -> fx.Node | None:
    """Replaces a constant range by `start + step * [0, 1, ...]` over the batch."""
    dim, first = _dim(tensors, batches), tensors[0]
    if dim is None or first.is_floating_point() or first.numel() != batches[0] or first.dtype is torch.bool:
        return None
    start, step = int(first.flatten()[0]), int(first.flatten()[1] - first.flatten()[0])
    if not all(torch.equal(t.flatten(), start + step * torch.arange(t.numel(), dtype=t.dtype)) for t in tensors):
        return None
    options: dict[str, Any] = {"dtype": first.dtype, "device": first.device}
    with node.graph.inserting_after(_later(node, sizes)):
        made = node.graph.call_function(_aten.arange.default, (sizes.count,), options)
    fresh = [made]
    for target, operand, neutral in ((_aten.mul.Tensor, step, 1), (_aten.add.Tensor, start, 0)):
        if operand != neutral:
            with node.graph.inserting_after(fresh[-1]):
                fresh.append(node.graph.call_function(target, (fresh[-1], operand)))
    shape = [sizes.count if d == dim else 1 for d in range(first.ndim)]
    with node.graph.inserting_after(fresh[-1]):
        fresh.append(node.graph.call_function(_aten.view.default, (fresh[-1], shape)))
    refresh(program.module, fresh)
    return fresh[-1]


def _later(node: fx.Node, sizes: Sizes) -> fx.Node:
    """The later node of a constant's read and the count of rows; the read may come before the inputs."""
    order = {n: i for i, n in enumerate(node.graph.nodes)}
    return max(node, sizes.count, key=order.__getitem__)
