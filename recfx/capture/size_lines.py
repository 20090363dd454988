"""Sizes as linear functions of the batch, `factor * batch + base`, and the nodes that compute them."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import fx

from recfx.ir.propagate import refresh

_aten = torch.ops.aten


@dataclasses.dataclass(frozen=True)
class Line:
    """`factor * batch + base`, a floating-point number when `floating`; `inverse / batch` when `inverse` is given."""

    factor: int
    base: int
    floating: bool = False
    inverse: float | None = None


def line_through(batches: Sequence[int], values: Sequence[Any]) -> Line | None:
    """The line through numbers at several batch sizes; None when no line contains all of them."""
    floating = isinstance(values[0], float)
    if not all(isinstance(v, float if floating else int) for v in values):
        return None
    exact = [Fraction(v) for v in values]
    factor = (exact[1] - exact[0]) / (batches[1] - batches[0])
    base = exact[0] - factor * batches[0]
    on_line = all(v == factor * b + base for v, b in zip(exact, batches, strict=True))
    if on_line and factor.denominator == 1 and base.denominator == 1:
        return Line(int(factor), int(base), floating)
    products = [v * b for v, b in zip(values, batches, strict=True)]
    if floating and all(round(products[0]) / b == v for v, b in zip(values, batches, strict=True)):
        return Line(0, 0, True, float(round(products[0])))
    return None


class Sizes:
    """Inserts nodes that compute lines over the batch.

    Args:
        module: The graph module.
        after: The last input.
        batch: The symbolic batch.
        source: An input with the batch in its shape.
        dim: The batch dimension of `source`.
        step: The number of entries for each row in that dimension.
    """

    def __init__(
        self, module: fx.GraphModule, after: fx.Node, batch: torch.SymInt, source: fx.Node, dim: int, step: int
    ) -> None:
        self.module, self.batch = module, batch
        with module.graph.inserting_after(after):
            count = module.graph.call_function(_aten.sym_size.int, (source, dim))
        refresh(module, [count])
        if step != 1:
            with module.graph.inserting_after(count):
                count = self._made(operator.floordiv, count, step)
        self.count = count

    def node(self, line: Line) -> Any:
        """Inserts a node that computes a line at the graph's current insertion point; returns a number if the line is constant."""
        if line.inverse is not None:
            return self._made(operator.truediv, line.inverse, self.count)
        if not line.factor:
            return float(line.base) if line.floating else line.base
        made = self.count if line.factor == 1 else self._made(operator.mul, self.count, line.factor)
        if line.base:
            made = self._made(operator.add, made, line.base)
        return self._made(torch.sym_float, made) if line.floating else made

    def _made(self, target: Any, *args: Any) -> fx.Node:
        node = self.module.graph.call_function(target, args)
        refresh(self.module, [node])
        return node
