"""Operators that read memory by strides in their arguments, not by the strides of their input (`as_strided`).

On an input of the model, `as_strided` reads the caller's memory, as in eager mode. The strides of a computed tensor depend on its operator:
in eager mode they follow the strides of the inputs, and the kernels of a backend give contiguous strides. The two agree if the inputs are
contiguous, so calls must pass contiguous inputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from recfx.errors import CaptureError
from recfx.ir.propagate import refresh
from recfx.ir.provenance import where

_aten = torch.ops.aten
_READS = (_aten.as_strided.default, _aten.as_strided_copy.default)
_WRITES = (_aten.as_strided_scatter.default,)

#: The end of a slice without an end.
_NO_END = 2**63 - 1


def read_in_order(module: fx.GraphModule) -> set[fx.Node]:
    """Rewrites operators that read computed tensors by strides, in place, to read a flat contiguous copy.

    Returns:
        The placeholders that must be contiguous for the graph to compute the same as the model.

    Raises:
        CaptureError: An operator reads a computed tensor by strides that is not contiguous, or writes to a computed tensor by strides.
    """
    contiguous: set[fx.Node] = set()
    for node in list(module.graph.nodes):
        if node.target not in (*_READS, *_WRITES):
            continue
        base = _base(node.args[0])
        if base.op != "call_function":
            continue
        held = base.meta.get("val")
        if node.target in _WRITES or not isinstance(held, torch.Tensor) or not held.is_contiguous():
            raise CaptureError(
                f"the model calls {node.target} on a tensor that it computes and that is not contiguous, or writes to it",
                where=where(node),
                hint="copy it before with .clone(memory_format=torch.contiguous_format), or use slices, unfold or reshape in its place",
            )
        _read_flat(module, node, base)
        contiguous |= _inputs(base)
    return contiguous


def _base(node: Any) -> fx.Node:
    """The node whose memory a node shares: the base of a view, or the node itself."""
    while node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
        schema = node.target._schema
        first = schema.arguments[0].alias_info if schema.arguments else None
        if first is None or first.is_write or not schema.returns or schema.returns[0].alias_info is None:
            break
        node = node.args[0]
    return node  # type: ignore[no-any-return]


def _read_flat(module: fx.GraphModule, node: fx.Node, base: fx.Node) -> None:
    """Makes `node` read a flat `base`, from the first element of the view on."""
    source: Any = node.args[0]
    offset: Any = node.args[3] if len(node.args) > 3 else node.kwargs.get("storage_offset")
    if offset is None:
        offset = source.meta["val"].storage_offset()
    if not isinstance(offset, int):
        raise CaptureError(
            f"the model calls {node.target} on a view whose storage offset depends on the batch",
            where=where(node),
            hint="use slices, unfold or reshape in its place",
        )
    with module.graph.inserting_before(node):
        flat = module.graph.call_function(_aten.reshape.default, (base, [-1]))
        start = module.graph.call_function(_aten.slice.Tensor, (flat, 0, offset, _NO_END)) if offset else flat
    for made in dict.fromkeys((flat, start)):
        made.meta = {k: v for k, v in node.meta.items() if k != "val"}
    node.args, node.kwargs = (start, *node.args[1:3]), {}
    refresh(module, [flat, start, node])
    module.recompile()


def _inputs(node: fx.Node) -> set[fx.Node]:
    """The placeholders that a node depends on."""
    seen: set[fx.Node] = set()
    wanted = [node]
    while wanted:
        found = wanted.pop()
        if found not in seen:
            seen.add(found)
            wanted += found.all_input_nodes
    return {n for n in seen if n.op == "placeholder" and isinstance(n.meta.get("val"), torch.Tensor)}
