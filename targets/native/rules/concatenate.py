"""Concatenation: parts are copied into one buffer, unless their producers wrote there themselves."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import fx

from recfx.targets.native.builder import PlanBuilder
from recfx.targets.native.rules.copies import copy
from recfx.targets.native.rules.pointwise import COPIED
from recfx.targets.native.rules.registry import rule
from recfx.targets.native.values import Unsupported, Value

_aten = torch.ops.aten


@rule(_aten.cat.default, _aten.stack.default)
def _concatenate(builder: PlanBuilder, node: fx.Node) -> None:
    """Copies the parts whose producers did not write into the buffer."""
    parts: Any = node.args[0]
    values = [builder.value(p) for p in parts]
    dtype = node.meta["val"].dtype
    if any(builder.dtype(v) is not dtype for v in values):
        raise Unsupported("its parts have several dtypes")
    shape = builder.shape(node)
    dim: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    dim %= len(shape)
    if shape[dim].batch:
        raise Unsupported("it joins along the batch")
    out = builder.placed(node) or builder.result(node, dtypes=COPIED)
    start = 0
    for value in values:
        whole = list(out.dims)
        size = 1 if node.target is _aten.stack.default else value.dims[dim].size
        whole[dim] = dataclasses.replace(whole[dim], size=size)
        if node.target is _aten.stack.default:
            del whole[dim]
        target = Value(out.slot, out.offset + start * out.dims[dim].stride, tuple(whole))
        start += size
        if value.slot != target.slot or value.offset != target.offset:
            copy(builder, value, target)
    builder.values[node] = out
