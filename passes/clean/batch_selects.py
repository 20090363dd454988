"""batch-selects: many selections from one tensor become one unbind.

    select(x, d, 0), select(x, d, 2), ..., select(x, d, 7) -> unbind(x, d)[0], [2], ..., [7]

Reading 26 columns of an id matrix one by one costs 26 dispatches.

Requires: functional. Exactness: EXACT.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from recfx.ir.access import tensor_of
from recfx.ir.program import Program
from recfx.passes._match import value
from recfx.pipeline import Pass, PassContext, PassSpec, register

_aten = torch.ops.aten


@register
@dataclass(frozen=True)
class BatchSelects(Pass):
    """Replaces several selections along one dimension by one unbind.

    Attributes:
        at_least: The smallest number of selections to replace.
        max_parts: A longer dimension is left as it is unless at least half of its parts are read.
    """

    spec = PassSpec("batch-selects", "Replaces several selections from one tensor by one unbind.")

    at_least: int = 3
    max_parts: int = 64

    def run(self, program: Program, ctx: PassContext) -> None:
        groups: dict[tuple[fx.Node, int], list[fx.Node]] = {}
        for node in ctx.nodes(_aten.select.int):
            source: Any
            dim: Any
            source, dim, index = node.args
            held = value(source)
            if held is not None and isinstance(index, int):
                groups.setdefault((source, dim % held.ndim), []).append(node)
        for (_, dim), selects in groups.items():
            self._batch(ctx, dim, selects)

    def _batch(self, ctx: PassContext, dim: int, selects: list[fx.Node]) -> None:
        source: Any = selects[0].args[0]  # read now: an earlier batch may have replaced the source
        held = tensor_of(source)
        parts = held.shape[dim]
        first = selects[0]
        if not isinstance(parts, int):
            return ctx.miss("unbind", first, "the number of parts varies")
        if len(selects) < self.at_least:
            return ctx.miss("unbind", first, f"only {len(selects)} selection(s)")
        if parts > self.max_parts and 2 * len(selects) < parts:
            return ctx.miss("unbind", first, f"{len(selects)} of {parts} parts are read")
        if not ctx.gate("unbind", first):
            return None
        with ctx.before(first):
            unbound = ctx.call(_aten.unbind.int, source, dim)
        for select in selects:
            index: Any = select.args[2]
            with ctx.before(select):
                ctx.replace(select, ctx.call(operator.getitem, unbound, index % parts))
        return None
